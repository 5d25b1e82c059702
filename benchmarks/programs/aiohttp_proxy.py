"""A proxy in aiohttp on uvloop.

python aiohttp_proxy.py PORT BACKEND_PORT FRONTEND_PORT
"""

from __future__ import annotations

import asyncio
import sys

import aiohttp
import uvloop  # type: ignore[import-not-found, unused-ignore]  # it is among the peers' packages
from aiohttp import web

BACKEND, FRONTEND = (f"http://127.0.0.1:{port}" for port in sys.argv[2:4])
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "te", "trailer"}
LARGEST = 16 * 2**20


async def tunnel(request: web.Request, session: aiohttp.ClientSession) -> web.WebSocketResponse:
    """Relay a WebSocket message by message."""
    ours = web.WebSocketResponse(max_msg_size=LARGEST, compress=False)
    async with session.ws_connect(BACKEND + request.path_qs, max_msg_size=LARGEST) as theirs:
        await ours.prepare(request)

        async def up() -> None:
            async for message in ours:
                await theirs.send_bytes(message.data)
            await theirs.close()

        upwards = asyncio.ensure_future(up())
        async for message in theirs:
            await ours.send_bytes(message.data)
        upwards.cancel()
    return ours


async def relay(request: web.Request) -> web.StreamResponse:
    """Ask the backend and, if it answers 404 to a GET, the frontend."""
    session: aiohttp.ClientSession = request.app[SESSION]
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return await tunnel(request, session)
    headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
    for upstream in (BACKEND, FRONTEND):
        async with session.request(
            request.method,
            upstream + request.path_qs,
            headers=headers,
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        ) as answer:
            if answer.status == 404 and request.method == "GET" and upstream is BACKEND:
                await answer.read()
                continue
            response = web.StreamResponse(status=answer.status)
            for name, value in answer.headers.items():
                if name.lower() not in HOP_BY_HOP:
                    response.headers.add(name, value)
            await response.prepare(request)
            async for part in answer.content.iter_any():
                await response.write(part)
            await response.write_eof()
            return response
    raise web.HTTPNotFound


SESSION = web.AppKey("session", aiohttp.ClientSession)


async def main() -> None:
    """Serve for ever."""
    app = web.Application(client_max_size=2**40)
    app[SESSION] = aiohttp.ClientSession(
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
        connector=aiohttp.TCPConnector(limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    app.router.add_route("*", "/{path:.*}", relay)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.Event().wait()


uvloop.run(main())
