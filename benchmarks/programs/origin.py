"""A backend that gives bodies and swallows them, has event streams, and echoes WebSocket messages.

    python origin.py PORT

Paths: ``/api/...`` is 200; ``/give?BYTES`` a download (``/give?BYTES=chunked``); ``POST /swallow`` an upload,
``POST /confirm`` one whose beginning is confirmed by a 103; ``/late`` a 103 and nothing else;
``/events?MILLISECONDS`` the machine's monotonic nanoseconds again and again (0: once); ``/flood`` events
without a pause; ``/ws`` a WebSocket; all else is 404.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import sys
import time
from typing import cast

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PIECE = bytes(1024 * 1024)


class Origin(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._left = 0  # bytes of an upload or a message that are still to come
        self._is_chunked = self._is_websocket = False
        self._is_confirmed = True
        self._size = 0
        self._can_write = asyncio.Event()
        self._can_write.set()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002, D102
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:  # noqa: D102
        self._can_write.clear()

    def resume_writing(self) -> None:  # noqa: D102
        self._can_write.set()

    def data_received(self, data: bytes) -> None:  # noqa: D102
        if self._is_websocket:
            self._echo(data)
            return
        if self._left or self._is_chunked:
            data = self._swallow(data)
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            self._request(head)

    def _request(self, head: bytes) -> None:
        line, *fields = head.split(b"\r\n")
        method, target, _ = line.split(b" ")
        headers = {
            name.lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)
        }
        path, _, query = target.partition(b"?")
        if path == b"/ws" and b"sec-websocket-key" in headers:
            digest = hashlib.sha1(headers[b"sec-websocket-key"] + GUID, usedforsecurity=False).digest()
            accept = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
            self._write(
                b"HTTP/1.1 101 Switching Protocols\r\n" + accept + base64.b64encode(digest) + b"\r\n\r\n"
            )
            self._is_websocket = True
            rest, self._buffer = self._buffer, b""
            self._echo(rest)
        elif path == b"/give":
            number, _, is_chunked = query.partition(b"=")
            framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: " + number
            self._write(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n")
            self._task = asyncio.ensure_future(self._give(int(number), is_chunked=bool(is_chunked)))
        elif path == b"/late":
            self._write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        elif path in (b"/events", b"/flood"):
            event_stream = b"Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
            self._write(b"HTTP/1.1 200 OK\r\n" + event_stream + b"Transfer-Encoding: chunked\r\n\r\n")
            told = self._tell(int(query) / 1000) if query else self._flood()
            self._task = asyncio.ensure_future(told)
        elif method == b"POST":
            self._left = int(headers.get(b"content-length", 0))
            self._is_chunked = b"transfer-encoding" in headers
            self._size, self._is_confirmed = 0, path != b"/confirm"
            rest, self._buffer = self._buffer, b""
            self._buffer = self._swallow(rest)
        elif path.startswith(b"/api/"):
            self._answer(b"200 OK", b'{"id": 1, "name": "first"}')
        else:
            self._answer(b"404 Not Found", b"not here")

    def _swallow(self, data: bytes) -> bytes:
        """Count a part of an upload; return what comes after its end."""
        if data and not self._is_confirmed:
            self._is_confirmed = True
            self._write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        if self._is_chunked:
            return self._swallow_chunks(data)
        taken = min(self._left, len(data))
        self._left -= taken
        self._size += taken
        if not self._left:
            self._answer(b"200 OK", b"%d" % self._size)
        return data[taken:]

    def _swallow_chunks(self, data: bytes) -> bytes:
        data = self._buffer + data
        self._buffer = b""
        while True:
            if self._left:
                # Of a chunk, its line end is still to come, too.
                taken = min(self._left, len(data))
                self._left -= taken
                data = data[taken:]
            line, found, rest = data.partition(b"\r\n")
            if not found or (line == b"0" and len(rest) < 2):
                return data
            data = rest
            if line == b"0":
                self._is_chunked = False
                self._answer(b"200 OK", b"%d" % self._size)
                return data[2:]
            self._left = int(line, 16) + 2
            self._size += self._left - 2

    def _answer(self, status: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._write(head % (status, len(body)) + body)

    async def _give(self, size: int, *, is_chunked: bool) -> None:
        while size > 0:
            await self._can_write.wait()
            part = PIECE[:size]
            self._write(b"%x\r\n%s\r\n" % (len(part), part) if is_chunked else part)
            size -= len(part)
        self._write(b"0\r\n\r\n" if is_chunked else b"")

    async def _flood(self) -> None:
        event = b"data: %s\n\n" % (b"x" * 1024)
        while True:
            await self._can_write.wait()
            self._write(b"%x\r\n%s\r\n" % (len(event), event))
            await asyncio.sleep(0)

    async def _tell(self, interval: float) -> None:
        while True:
            event = b"data: %d\n\n" % time.monotonic_ns()
            self._write(b"%x\r\n%s\r\n" % (len(event), event))
            await asyncio.sleep(interval or 3600)

    def _echo(self, data: bytes) -> None:
        """Send messages back as they come, without their mask: what they say does not matter."""
        data = self._buffer + data if self._buffer else data
        at, end, parts = 0, len(data), []
        while True:
            taken = min(self._left, end - at)
            parts.append(data[at : at + taken])
            at += taken
            self._left -= taken
            if at + 2 > end:
                break
            size, head = data[at + 1] & 127, at + 2
            if size == 126:
                size, head = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                size, head = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if head + 4 > end:
                break
            parts += [data[at : at + 1], bytes([data[at + 1] & 127]), data[at + 2 : head]]
            self._left, at = size, head + 4
        self._write(b"".join(parts))
        self._buffer = data[at:]

    def _write(self, data: bytes) -> None:
        self._transport.write(data)


async def main() -> None:
    """Serve for ever."""
    server = await asyncio.get_running_loop().create_server(
        Origin, "127.0.0.1", int(sys.argv[1]), backlog=1024
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
