"""A relay in trio that parses nothing: what a proxy in Python costs at least.

python splice.py PORT UPSTREAM_PORT
"""

from __future__ import annotations

import contextlib
import socket
import sys
from functools import partial

import trio
from trio.lowlevel import wait_readable, wait_writable

BUFFER = 256 * 1024


async def send_all(sock: socket.socket, data: bytes) -> None:
    """Send bytes, as many as go at a time."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[sock.send(rest) :]
        except BlockingIOError:
            await wait_writable(sock)


async def relay(source: socket.socket, target: socket.socket) -> None:
    """Pass on everything that comes, and the end of it."""
    while True:
        await wait_readable(source)
        try:
            data = source.recv(BUFFER)
        except BlockingIOError:
            continue
        except OSError:
            data = b""
        if not data:
            break
        try:
            await send_all(target, data)
        except OSError:
            break
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


async def serve(client: socket.socket, port: int) -> None:
    """Connect a client to the upstream."""
    with client, socket.socket() as upstream:
        for sock in (client, upstream):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            upstream.connect(("127.0.0.1", port))
        except BlockingIOError:
            await wait_writable(upstream)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay, upstream, client)
            await relay(client, upstream)


async def main(port: int, upstream: int) -> None:
    """Accept clients for ever."""
    with socket.create_server(("127.0.0.1", port), backlog=1024) as listener:
        listener.setblocking(False)
        async with trio.open_nursery() as nursery:
            while True:
                await wait_readable(listener)
                client, _ = listener.accept()
                nursery.start_soon(serve, client, upstream)


if __name__ == "__main__":
    trio.run(partial(main, int(sys.argv[1]), int(sys.argv[2])))
