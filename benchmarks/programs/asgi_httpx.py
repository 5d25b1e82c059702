"""A proxy as published Python tools have it: an ASGI application that asks with httpx.

BACKEND=PORT FRONTEND=PORT hypercorn -k trio -b 127.0.0.1:PORT asgi_httpx:app
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import httpx  # type: ignore[import-not-found, unused-ignore]  # noqa: ASYNC127 - what is measured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

BACKEND = f"http://127.0.0.1:{os.environ['BACKEND']}"
FRONTEND = f"http://127.0.0.1:{os.environ['FRONTEND']}"
HOP_BY_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer"}

client = httpx.AsyncClient(
    timeout=3600, limits=httpx.Limits(max_connections=None, max_keepalive_connections=64), trust_env=False
)


async def body_of(receive: Callable[[], Awaitable[dict[str, Any]]]) -> AsyncIterator[bytes]:
    """Give a request's body part by part."""
    is_more = True
    while is_more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        yield message.get("body", b"")
        is_more = message.get("more_body", False)


def kept(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Leave out what is meant for one connection."""
    return [(name.lower(), value) for name, value in headers if name.lower() not in HOP_BY_HOP]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Ask the backend and, if it answers 404 to a GET, the frontend."""
    if scope["type"] == "lifespan":
        for phase in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{phase}.complete"})
    elif scope["type"] == "http":
        await relay(scope, receive, send)


async def relay(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Relay one request."""
    target = scope["raw_path"].decode() + (
        "?" + scope["query_string"].decode() if scope["query_string"] else ""
    )
    has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
    for upstream in (BACKEND, FRONTEND):
        request = client.build_request(
            scope["method"],
            upstream + target,
            headers=kept(scope["headers"]),
            content=body_of(receive) if has_body else None,
        )
        answer = await client.send(request, stream=True)
        if answer.status_code == 404 and scope["method"] == "GET" and upstream is BACKEND:
            await answer.aread()
            continue
        await send(
            {"type": "http.response.start", "status": answer.status_code, "headers": kept(answer.headers.raw)}
        )
        async for part in answer.aiter_raw():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        await answer.aclose()
        return
