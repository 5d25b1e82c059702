"""A Starlette backend whose pages are rendered by a pool of Node workers, which live and end with it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from pool import Pool, RenderError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

BOOKS = [
    {"id": "emma", "title": "Emma", "year": 1815},
    {"id": "walden", "title": "Walden; or, Life in the Woods", "year": 1854},
    {"id": "pere-goriot", "title": "Le Père Goriot", "year": 1835},
]
pool = Pool()


async def home(_request: Request) -> Response:
    """All books."""
    return HTMLResponse(await pool.render("home", {"books": BOOKS}))


async def book(request: Request) -> Response:
    """One book."""
    found = next((each for each in BOOKS if each["id"] == request.path_params["name"]), None)
    if found is None:
        raise HTTPException(404)
    return HTMLResponse(await pool.render("book", found))


async def wrong(request: Request) -> Response:
    """A page that goes wrong."""
    return HTMLResponse(await pool.render(request.path_params["page"], {"seconds": 1}))


async def health(_request: Request) -> Response:
    """How the workers are: 200 if one of them answers."""
    workers = await pool.health()
    return JSONResponse(workers, 200 if any(each["answers"] for each in workers.values()) else 503)


def not_rendered(_request: Request, exc: Exception) -> Response:
    """Say why a page is missing."""
    return PlainTextResponse(f"{exc}\n", 500)


@asynccontextmanager
async def lifespan(_app: Starlette) -> AsyncIterator[None]:
    """Run the workers while the server runs."""
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        yield
        await pool.supervisor.stop()


app = Starlette(
    routes=[
        Route("/", home),
        Route("/books/{name}", book),
        Route("/wrong/{page}", wrong),
        Route("/health", health),
    ],
    exception_handlers={RenderError: not_rendered},
    lifespan=lifespan,
)
