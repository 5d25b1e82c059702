"""Asks Vite, over HTTP/1.1 on anyio: one connection a request.

Bodies stream both ways; what arrives is passed on before more is awaited. While the answer is on its way, a
second task sends the request's body and then waits for the client to leave, which ends everything.

An answer has no limit of time: Vite may take as long as it bundles.

Not here: what is asked, and whether the answer counts (`vite`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
import anyio.abc
from msgspec import structs

from orchestra.errors import UpstreamError
from orchestra.proxy.forward import forwarded_request
from orchestra.proxy.framing import answer_body
from orchestra.proxy.head import MAX_HEAD, BadMessage, HeadReader, end_of_head
from orchestra.proxy.route import Availability, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import SocketStream

    from orchestra.asgi.requests import RequestBody
    from orchestra.proxy.forward import Peer
    from orchestra.proxy.head import RequestHead, ResponseHead

__all__ = ["Conversation", "Vite"]

_CHUNK = 65536
# Seconds to connect to it: it is on this machine, or in a container.
_CONNECT_LIMIT = 5.0
_GONE = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Vite:
    """Where Vite is: a name or an address, and a port."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        # `localhost` is one of two addresses, and to look it up takes longer than to connect.
        self._address = host

    def __str__(self) -> str:
        return f"{self._host}:{self._port}"

    async def connect(self) -> SocketStream:
        """Connect to it, or `Unavailable`."""
        for address in dict.fromkeys((self._address, self._host)):
            with suppress(OSError), anyio.fail_after(_CONNECT_LIMIT):
                stream = await anyio.connect_tcp(address, self._port)
                self._address = stream.extra(anyio.abc.SocketAttribute.remote_address)[0]  # noqa: S610 - not Django's
                return stream
        error = Unavailable("frontend", Availability.READY, f"Vite does not answer at {self}")
        error.hint = "Start it, or say where it is: ViteDevProxy(app, vite_port=...)."
        raise error


class Conversation:
    """One request to Vite, sent by `peer`, and its answer, over a connection for this alone."""

    def __init__(self, stream: SocketStream, head: RequestHead, peer: Peer) -> None:
        self._stream = stream
        self._head = head
        self._peer = peer
        self._reader = HeadReader(0)
        self._unread = b""

    async def send(self, body: RequestBody) -> None:
        """Send the request, and return when the client has left.

        If Vite stops reading, its answer says why.
        """
        head = self._head
        with suppress(*_GONE):
            await self._stream.send(forwarded_request(head, self._peer))
            if head.has_body:
                async for piece in body.pieces():
                    if piece:
                        framed = b"%x\r\n%b\r\n" % (len(piece), piece) if head.is_chunked else piece
                        await self._stream.send(framed)
                if head.is_chunked and body.is_complete:
                    await self._stream.send(b"0\r\n\r\n")
        await body.wait_gone()

    async def head(self) -> ResponseHead:
        """Receive the head of the final answer; `UpstreamError` if there is none that may be passed on."""
        while True:
            end = end_of_head(self._unread)
            if end > MAX_HEAD or (end < 0 and len(self._unread) > MAX_HEAD):
                raise UpstreamError("Vite: the answer's head is too long")
            if end < 0:
                try:
                    self._unread += await self._stream.receive(_CHUNK)
                except (anyio.EndOfStream, *_GONE) as exc:
                    raise UpstreamError("Vite closed the connection without an answer") from exc
                continue
            raw, self._unread = self._unread[:end], self._unread[end:]
            try:
                head = self._reader.response(raw)
            except BadMessage as exc:
                raise UpstreamError(f"Vite: bad answer: {exc}") from exc
            if head.status == 101:
                raise UpstreamError("Vite: it switched protocols, which was not asked for")
            # ASGI has no message for an informational answer.
            if head.status >= 200:
                return head

    async def body(self, head: ResponseHead) -> AsyncGenerator[bytes]:
        """Receive the body of that answer, without framing; `UpstreamError` if it has no end."""
        # A body for HTTP/1.0 has no chunks.
        body = answer_body(head, structs.replace(self._head, version=b"1.0"))
        data = self._unread
        while not body.is_complete:
            try:
                piece = body.feed(data)
            except BadMessage as exc:
                raise UpstreamError(f"Vite: bad answer: {exc}") from exc
            if piece:
                yield piece
            if body.is_complete:
                return
            try:
                data = body.rest + await self._stream.receive(_CHUNK)
            except (anyio.EndOfStream, *_GONE) as exc:
                if body.close() is None:
                    raise UpstreamError("Vite closed the connection in the middle of its answer") from exc
