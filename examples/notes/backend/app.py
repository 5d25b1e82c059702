"""The backend of the notes example, a small Starlette application.

It knows the routes listed at the end of this file and nothing else: for the page at ``/``, its modules and
its style sheet it answers an ordinary 404, and those requests fall to Vite. The notes live in memory, so a
restart brings back the first three.
"""

import hashlib
import html
import itertools
import json
import os
import platform
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from string import Template

import anyio
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

MAX_NOTE_LENGTH = 280
STARTED = datetime.now(UTC)

notes: dict[int, str] = {
    1: "Every request is put to Python first.",
    2: "What Python does not know, Vite serves.",
    3: "Save greeting.ts: the heading changes, the count stays.",
}
next_id = itertools.count(len(notes) + 1)


def note_json(note_id: int) -> dict[str, object]:
    """Return one note as the API shows it."""
    return {"id": note_id, "text": notes[note_id]}


def problem(status: int, detail: str) -> JSONResponse:
    """Return an error in the one shape that the API has for errors."""
    return JSONResponse({"detail": detail}, status)


def parse_note(body: bytes) -> str:
    """Return the text in a body like ``{"text": "..."}``.

    Raises:
        ValueError: The body is no such JSON; the message says what is wrong with it.
    """
    match json.loads(body):
        case {"text": str(text)} if 0 < len(text.strip()) <= MAX_NOTE_LENGTH:
            text.encode()  # half a surrogate pair is valid JSON, but could never be sent back
            return text.strip()
        case {"text": str()}:
            raise ValueError(f"a note has 1 to {MAX_NOTE_LENGTH} characters")
        case _:
            raise ValueError('a note looks like {"text": "..."}')


async def list_notes(_request: Request) -> Response:
    """Answer with every note, oldest first."""
    return JSONResponse([note_json(note_id) for note_id in notes])


async def add_note(request: Request) -> Response:
    """Keep a new note and answer with it."""
    try:
        text = parse_note(await request.body())
    except (ValueError, RecursionError) as error:
        return problem(422, str(error))
    note_id = next(next_id)
    notes[note_id] = text
    return JSONResponse(note_json(note_id), 201, {"Location": f"/api/notes/{note_id}"})


async def get_note(request: Request) -> Response:
    """Answer with one note; a note that is not there is a 404 that the browser has to see as it is."""
    note_id: int = request.path_params["note_id"]
    if note_id not in notes:
        return problem(404, f"no note {note_id}")
    return JSONResponse(note_json(note_id))


async def delete_note(request: Request) -> Response:
    """Forget one note."""
    note_id: int = request.path_params["note_id"]
    if notes.pop(note_id, None) is None:
        return problem(404, f"no note {note_id}")
    return Response(status_code=204)


async def upload(request: Request) -> Response:
    """Measure the body as it arrives, however large it is: no more than one chunk is ever in memory."""
    size = 0
    digest = hashlib.sha256()
    async for chunk in request.stream():
        size += len(chunk)
        digest.update(chunk)
    return JSONResponse({"bytes": size, "sha256": digest.hexdigest()})


async def health(_request: Request) -> Response:
    """Say that we are here."""
    return JSONResponse({"status": "ok"})


async def ticks() -> AsyncIterator[str]:
    """Yield a server-sent event every second: its number on this connection, and the time."""
    yield "retry: 500\n\n"  # milliseconds after which a browser that lost us tries again
    for count in itertools.count(1):
        data = json.dumps({"count": count, "time": datetime.now(UTC).isoformat(timespec="seconds")})
        yield f"id: {count}\ndata: {data}\n\n"
        await anyio.sleep(1)


async def events(_request: Request) -> Response:
    """Answer with a stream that only ends when one of the two sides leaves."""
    return StreamingResponse(ticks(), headers={"Cache-Control": "no-store"}, media_type="text/event-stream")


async def echo(websocket: WebSocket) -> None:
    """Send every message back, text as text and bytes as bytes."""
    await websocket.accept()
    while (message := await websocket.receive())["type"] == "websocket.receive":
        reply = {"type": "websocket.send", "text": message.get("text"), "bytes": message.get("bytes")}
        await websocket.send(reply)


def about(request: Request) -> Response:
    """Render a page on the server; its style sheet is Vite's, which works because both share one address."""
    facts = {
        "Address that you asked for": str(request.url),
        "Came through": request.headers.get("via", "no proxy: this is Python itself"),
        "Notes in memory": str(len(notes)),
        "Backend started": f"{STARTED:%Y-%m-%d %H:%M:%S} UTC",
        "Process id": str(os.getpid()),
        "Running on": f"Starlette {version('starlette')}, Hypercorn {version('hypercorn')}, "
        f"Python {platform.python_version()}",
    }
    rows = "\n".join(f"<dt>{name}</dt><dd>{html.escape(fact)}</dd>" for name, fact in facts.items())
    page = Path(__file__).with_name("about.html").read_text(encoding="utf-8")
    return HTMLResponse(Template(page).substitute(facts=rows))


async def client_left(_request: Request, _error: Exception) -> Response:
    """Close the books on a request whose client went away while sending it: this answer is not read."""
    return problem(400, "the request was cut off")


app = Starlette(
    routes=[
        Route("/about", about),
        Route("/api/health", health),
        Route("/api/notes", list_notes),
        Route("/api/notes", add_note, methods=["POST"]),
        Route("/api/notes/{note_id:int}", get_note),
        Route("/api/notes/{note_id:int}", delete_note, methods=["DELETE"]),
        Route("/api/upload", upload, methods=["POST"]),
        Route("/events", events),
        WebSocketRoute("/ws", echo),
    ],
    exception_handlers={ClientDisconnect: client_left},
)
