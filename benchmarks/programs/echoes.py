"""Echo servers that share no line of WebSocket code, for the Autobahn testsuite.

Each sends back every message as what it was, text or binary, of any size, and offers permessage-deflate.

    python echoes.py NAME PORT
"""

from __future__ import annotations

import asyncio
import sys
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
import hypercorn.asyncio
from aiohttp import web
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from websockets.asyncio.server import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from starlette.websockets import WebSocket
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

__all__ = ["ECHOES"]

HOST = "127.0.0.1"
# Cases 9.* have messages of 16 MiB, the largest there are.
LARGEST = 16 * 2**20


async def serve_websockets(port: int) -> None:
    """Serve with the library `websockets`."""

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    def answer(connection: ServerConnection, request: Request) -> Response | None:
        # By itself it says 426, and to orchestra that is the port of a WebSocket alone, not a backend.
        return None if "Upgrade" in request.headers else connection.respond(HTTPStatus.OK, "an echo\n")

    async with serve(echo, HOST, port, max_size=LARGEST, process_request=answer) as server:
        await server.serve_forever()


async def serve_hypercorn(port: int) -> None:
    """Serve a Starlette application with Hypercorn, whose WebSockets are wsproto's."""

    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        while (message := await websocket.receive())["type"] == "websocket.receive":
            await websocket.send({**message, "type": "websocket.send"})

    config = Config()
    config.bind = [f"{HOST}:{port}"]
    config.websocket_max_message_size = LARGEST
    await hypercorn.asyncio.serve(Starlette(routes=[WebSocketRoute("/", echo)]), config)  # type: ignore[arg-type]  # Starlette's own types are looser


async def serve_aiohttp(port: int) -> None:
    """Serve with aiohttp."""

    async def echo(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse(max_msg_size=LARGEST)
        await websocket.prepare(request)
        async for message in websocket:
            if message.type is aiohttp.WSMsgType.TEXT:
                await websocket.send_str(message.data)
            elif message.type is aiohttp.WSMsgType.BINARY:
                await websocket.send_bytes(message.data)
        return websocket

    application = web.Application()
    application.router.add_get("/", echo)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, HOST, port).start()
    await asyncio.Event().wait()


ECHOES: Mapping[str, Callable[[int], Coroutine[None, None, None]]] = {
    "websockets": serve_websockets,
    "hypercorn": serve_hypercorn,
    "aiohttp": serve_aiohttp,
}

if __name__ == "__main__":
    asyncio.run(ECHOES[sys.argv[1]](int(sys.argv[2])))
