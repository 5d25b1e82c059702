"""Backends that are restarted again and again: they write down what they begin, and say their version.

A project's `app.py` calls `asgi` or `flask` and is written again for each version.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

__all__ = ["asgi", "flask", "mute"]


def _begin(version: int, start: float, *, is_broken: bool) -> str:
    """Take the time that a start takes, or fail; return which version this is, in which process."""
    if is_broken:
        _write_down("tried", str(version))
        raise RuntimeError("this version is broken")
    time.sleep(start)
    return f"{version} {os.getpid()}"


def _write_down(file: str, text: str) -> None:
    # One write, which no end of the process splits.
    fd = os.open(Path.cwd() / file, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(fd, f"{text}\n".encode())
    os.close(fd)


def _event(number: int) -> bytes:
    # Some are larger than what is read at once.
    return b"data: %d %s\n\n" % (number, b"x" * (65536 if number % 10 == 0 else 100))


class asgi:  # noqa: N801 - an application is a function, by convention
    """An ASGI application."""

    def __init__(self, version: int, start: float, *, is_broken: bool) -> None:
        self._now = _begin(version, start, is_broken=is_broken)

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Serve one scope."""
        match scope["type"]:
            case "lifespan":
                for phase in ("startup", "shutdown"):
                    await receive()
                    await send({"type": f"lifespan.{phase}.complete"})
            case "websocket":
                await receive()
                await send({"type": "websocket.accept"})
                while (message := await receive())["type"] == "websocket.receive":
                    await send({"type": "websocket.send", "text": message["text"]})
            case _:
                query = {name: text[0] for name, text in parse_qs(scope["query_string"].decode()).items()}
                await self._http(scope["path"], query, receive, send)

    async def _http(self, path: str, query: dict[str, str], receive: Any, send: Any) -> None:
        if "id" in query:
            _write_down("executed", query["id"])
        match path:
            case "/get" | "/post":
                body = await _body(receive)
                await asyncio.sleep(float(query["work"]))
                await _answer(send, body or query["id"].encode())
            case "/version":
                await _answer(send, self._now.encode())
            case "/events":
                await _head(send, 200, (b"content-type", b"text/event-stream"))
                # As frameworks do: a client that has left is no longer served.
                leaving = asyncio.ensure_future(_disconnect(receive))
                for number in itertools.count():
                    await _part(send, _event(number))
                    if (await asyncio.wait([leaving], timeout=0.05))[0]:
                        break
            case "/cut":
                await _head(
                    send, 200, *([(b"content-length", b"2000")] if query["framing"] == "length" else [])
                )
                await _part(send, b"x" * 1000)
                os.kill(os.getpid(), signal.SIGKILL)
            case "/never":
                await asyncio.Event().wait()
            case _:
                await _answer(send, b"not here", status=404)


async def _body(receive: Any) -> bytes:
    body, is_more = b"", True
    while is_more:
        message = await receive()
        body += message.get("body", b"")
        is_more = message.get("more_body", False)
    return body


async def _disconnect(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _head(send: Any, status: int, *headers: tuple[bytes, bytes]) -> None:
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _part(send: Any, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


async def _answer(send: Any, body: bytes, *, status: int = 200) -> None:
    await _head(send, status, (b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.body", "body": body})


def flask(version: int, start: float, *, is_broken: bool) -> Any:
    """Return a Flask application."""
    import flask as library  # noqa: PLC0415 - the ASGI servers' processes do not need it

    now = _begin(version, start, is_broken=is_broken)
    app = library.Flask("app")
    request = library.request

    def handle() -> bytes:
        _write_down("executed", request.args["id"])
        body: bytes = request.get_data()
        time.sleep(float(request.args["work"]))
        return body or request.args["id"].encode()

    def events() -> Any:
        for number in itertools.count():
            yield _event(number)
            time.sleep(0.05)

    app.add_url_rule("/get", "get", handle)
    app.add_url_rule("/post", "post", handle, methods=["POST"])
    app.add_url_rule("/version", "version", lambda: now)
    app.add_url_rule(
        "/events", "events", lambda: library.Response(events(), content_type="text/event-stream")
    )
    return app


def mute(version: int, start: float, *, is_broken: bool) -> None:
    """Accept every connection, and say nothing."""
    del version, start, is_broken
    with socket.create_server(("127.0.0.1", int(os.environ["PORT"]))) as listener:
        accepted = []
        while True:
            accepted.append(listener.accept())
