"""A shop's pages by FastAPI and Jinja: no Node, no script for reloading, nothing of orchestra in it."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

HERE = Path(__file__).parent
GREETING = "Tea, freshly picked"
TEAS = {
    "assam": "Malty and strong: breakfast in a cup.",
    "sencha": "Green and light, best at 70 degrees.",
    "rooibos": "Red, sweet, and no tea at all.",
}

templates = Jinja2Templates(HERE / "templates")
app = FastAPI()
app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")


@app.get("/")
def shop(request: Request) -> HTMLResponse:
    """The list of all teas."""
    return templates.TemplateResponse(request, "shop.html", {"greeting": GREETING, "teas": TEAS})


@app.get("/teas/{name}")
def tea(request: Request, name: str) -> HTMLResponse:
    """One tea, with a form for an order."""
    if name not in TEAS:
        raise HTTPException(404, f"There is no tea called {name}.")
    return templates.TemplateResponse(request, "tea.html", {"name": name, "text": TEAS[name]})


@app.post("/teas/{name}")
async def order(request: Request, name: str) -> HTMLResponse:
    """Take an order."""
    grams = parse_qs((await request.body()).decode()).get("grams", ["no"])[0]
    return templates.TemplateResponse(request, "ordered.html", {"name": name, "grams": grams})
