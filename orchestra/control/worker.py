"""Serves the control app over connections that are there already, by Hypercorn.

Hypercorn's trio worker makes its own listeners, and replaces a live unix socket when it does. The class that
serves one connection, `TCPServer`, is not public. Therefore `hypercorn` has an upper bound in pyproject.toml,
and this is the only module of the control app that imports it.

Hypercorn sends inside a shield, and waits for an application that does not read what was received, both
without a deadline. So a connection has deadlines here: for a send, for a request, and for the pause after
one. A connection that misses one is closed, which ends every wait in it.

This module is imported at the first connection, because importing Hypercorn takes most of that time.

Not here: what is answered (`app`), where connections come from (`server`).
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from orchestra.control.app import ENDLESS
from orchestra.control.tabs import MAX_MESSAGE

if TYPE_CHECKING:
    import socket

    from orchestra.control.app import App
    from orchestra.control.doors import Door, Receive, Scope, Send

__all__ = ["Worker"]

# Seconds for the peer to read a send: the proxy and every browser do so at once.
SEND_LIMIT = 10.0
# Seconds for a request that is not a stream: an order may wait 10 for a pipe in place of an env file.
REQUEST_LIMIT = 20.0
# Seconds between two requests; the proxy closes idle connections after 4. Hypercorn waits that long for the
# next request even if the peer has left.
IDLE_LIMIT = 5.0
# The proxy reads heads of 64 KiB, and adds some lines.
_MAX_HEAD = 80 * 1024


class Worker:
    """Serves an app, which is called with the door of the connection."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._context = WorkerContext(None)
        self._config = config = Config()
        # Nothing is ever printed; only bugs of ours are logged.
        config.errorlog = logging.getLogger(__name__)
        config.loglevel = "ERROR"
        config.include_server_header = False
        config.h11_max_incomplete_size = _MAX_HEAD
        config.websocket_max_message_size = MAX_MESSAGE
        config.keep_alive_timeout = IDLE_LIMIT

    async def serve(self, sock: socket.socket, door: Door) -> None:
        """Serve a connected socket to its end, and close it."""
        stream = _Stream(sock)
        limit = trio.CancelScope(deadline=trio.current_time() + REQUEST_LIMIT)

        async def serve_request(scope: Scope, receive: Receive, send: Send) -> None:
            is_endless = scope["path"].rpartition("/")[2] in ENDLESS
            limit.deadline = inf if is_endless else trio.current_time() + REQUEST_LIMIT
            try:
                await self._app(door, scope, receive, send)
            finally:
                limit.deadline = trio.current_time() + 2 * IDLE_LIMIT

        try:
            with limit:
                # Its types know TLS alone.
                await TCPServer(
                    ASGIWrapper(serve_request),  # type: ignore[arg-type]
                    self._config,
                    self._context,
                    ConnectionState({}),
                    stream,  # type: ignore[arg-type]
                ).run()
        finally:
            stream.socket.close()


class _Stream:
    """A `trio.SocketStream` whose sends have a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = trio.socket.from_stdlib_socket(sock)
        stream = trio.SocketStream(self.socket)
        self.receive_some, self.send_eof, self.aclose = stream.receive_some, stream.send_eof, stream.aclose
        self._send_all = stream.send_all

    async def send_all(self, data: bytes) -> None:
        with trio.move_on_after(SEND_LIMIT) as limit:
            try:
                await self._send_all(data)
            except trio.BusyResourceError as exc:
                # Hypercorn ends the connection in another task, after an unfinished request.
                raise trio.BrokenResourceError from exc
        if limit.cancelled_caught:
            # The task that receives has to end, too.
            self.socket.close()
            raise trio.BrokenResourceError
