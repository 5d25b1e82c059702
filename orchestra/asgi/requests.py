"""Converts between ASGI and HTTP/1.1: request heads and bodies, and requests to Vite.

The head is rebuilt from the ASGI scope, and checked as strictly as one that comes over a connection
(`proxy/head`). A body is kept as long as it is small enough to be sent a second time.

Requests to Vite use anyio, and one connection each. Bodies stream both ways: what has arrived is passed on
before more is awaited. Meanwhile a second task sends the request's body and then waits for the client to
disconnect, which ends the exchange. Answers have no time limit: Vite may take as long as it bundles.

Not here: decisions (`proxy/route`); what is requested, and whether the answer counts (`vite`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
import anyio.abc
from msgspec import structs

from orchestra.errors import UpstreamError
from orchestra.proxy.forward import Peer, forwarded_request, forwarded_response
from orchestra.proxy.framing import answer_body
from orchestra.proxy.head import MAX_HEAD, BadMessage, HeadReader, ResponseHead, end_of_head
from orchestra.proxy.route import Availability, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from anyio.abc import SocketStream

    from orchestra.control.doors import Message, Receive, Scope
    from orchestra.proxy.head import Headers, RequestHead

__all__ = [
    "Conversation", "RequestBody", "Vite", "answer_head", "fields_of", "message_of", "peer_of",
    "request_head",
]  # fmt: skip

# The server has handled these already.
_DEALT_WITH = frozenset({b"expect", b"upgrade"})
# In an answer, ASGI's servers decide how it is framed.
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
# Methods that usually have no body: HTTP/2 has no field that says whether there is one.
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})
_reader = HeadReader()


def request_head(scope: Scope) -> RequestHead:
    """Return the head of a request or a handshake; `BadMessage` if it may not be forwarded."""
    target: bytes = scope.get("raw_path") or quote(scope["path"]).encode("ascii")
    if scope["query_string"]:
        target += b"?" + scope["query_string"]
    fields = [(name, value) for name, value in scope["headers"] if name not in _DEALT_WITH]
    names = {name for name, _ in fields}
    method = scope.get("method", "GET")
    protocols = scope.get("subprotocols")
    if protocols and b"sec-websocket-protocol" not in names:
        fields.append((b"sec-websocket-protocol", ", ".join(protocols).encode("ascii")))
    if scope.get("http_version", "1.1") >= "2" and method not in _WITHOUT_BODY and not names & _FRAMING:
        fields.append((b"transfer-encoding", b"chunked"))
    lines = [b"%b %b HTTP/1.1" % (method.encode("ascii"), target), *(b"%b: %b" % field for field in fields)]
    return _reader.request(b"\r\n".join([*lines, b"", b""]))


def peer_of(scope: Scope) -> Peer:
    """Return the client's address, and our port."""
    client, server = scope.get("client") or ("127.0.0.1", 0), scope.get("server") or ("", None)
    return Peer(client[0], server[1] or 80)


def answer_head(message: Message) -> ResponseHead:
    """Return the head of an application's answer for `route`; the length of the body is not known yet."""
    # A field may occur several times.
    fields: Headers = [(name, value) for name, value in message.get("headers", ()) if name not in _FRAMING]
    return ResponseHead.of(message["status"], fields)


def fields_of(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give the fields of a head, to be forwarded."""
    for line in head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b":")
        yield name, value.strip()


def message_of(head: ResponseHead, upstream: str) -> Message:
    """Return the message that begins an answer with this head."""
    fields = fields_of(forwarded_response(head, upstream))
    # The server adds a date of its own.
    headers = [(name.lower(), value) for name, value in fields if name.lower() != b"date"]
    return {"type": "http.response.start", "status": head.status, "headers": headers}


class RequestBody:
    """The body of one request, which may be read twice: up to a limit, its bytes are kept.

    Attributes:
        is_complete: All of it was received.
        is_gone: The client has left.
    """

    is_complete = False
    is_gone = False

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._size = 0
        self._kept: list[bytes] = []

    @property
    def can_begin(self) -> bool:
        """Whether it can be read from its first byte."""
        return self._size <= self._limit

    async def receive(self) -> Message:
        """Receive the next message of ASGI, and keep its bytes."""
        message = await self._receive()
        if message["type"] == "http.request":
            piece = message.get("body", b"")
            self.is_complete = not message.get("more_body", False)
            self._size += len(piece)
            if self.can_begin:
                self._kept.append(piece)
            else:
                self._kept.clear()
        else:
            self.is_gone = True
        return message

    async def pieces(self) -> AsyncGenerator[bytes]:
        """Read it from its first byte; it ends early if the client leaves."""
        for piece in tuple(self._kept):
            yield piece
        while not (self.is_complete or self.is_gone):
            yield (await self.receive()).get("body", b"")

    async def wait_gone(self) -> None:
        """Wait until the client has left."""
        while not self.is_gone:
            await self.receive()


_CHUNK = 65536
# Seconds to connect to it: it is on this machine, or in a container.
_CONNECT_LIMIT = 5.0
_GONE = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)


class Vite:
    """Where Vite is: a name or an address, and a port."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        # `localhost` is one of two addresses, and looking it up takes longer than connecting.
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
    """One request to Vite from the client at `peer`, and its answer, over a connection of its own."""

    def __init__(self, stream: SocketStream, head: RequestHead, peer: Peer) -> None:
        self._stream = stream
        self._head = head
        self._peer = peer
        self._reader = HeadReader(0)
        self._unread = b""

    async def send(self, body: RequestBody) -> None:
        """Send the request, and return when the client has left.

        If Vite stops reading, its answer gives the reason.
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
        """Receive the head of the final answer; `UpstreamError` if there is none that may be forwarded."""
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
        """Receive the body of that answer, without framing; `UpstreamError` if it is incomplete."""
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
