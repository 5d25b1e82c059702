"""What is ASGI's on one side and HTTP/1.1 on the other: heads, and the body of a request.

A scope becomes the head that its server has read, which is judged as strictly as one that comes over a
connection (`proxy/head`). A body is kept as long as it is small enough to be sent a second time.

Not here: what is decided by them (`proxy/route`), connections (`upstream`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from orchestra.proxy.forward import Peer, forwarded_response
from orchestra.proxy.head import HeadReader, ResponseHead

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from orchestra.asgi.types import Message, Receive, Scope
    from orchestra.proxy.head import Headers, RequestHead

__all__ = ["RequestBody", "answer_head", "fields_of", "message_of", "peer_of", "request_head"]

# The server has dealt with these.
_DEALT_WITH = frozenset({b"expect", b"upgrade"})
# In an answer, ASGI's servers decide how it is framed.
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
# Requests that have no body, as a rule: HTTP/2 says of no request whether it has one.
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE"})
_reader = HeadReader()


def request_head(scope: Scope) -> RequestHead:
    """Return the head of a request or a handshake; `BadMessage` if it may not be passed on."""
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
    """Return where a request comes from, and our port."""
    client, server = scope.get("client") or ("127.0.0.1", 0), scope.get("server") or ("", None)
    return Peer(client[0], server[1] or 80)


def answer_head(message: Message) -> ResponseHead:
    """Return the head of an application's answer, as it is judged; how long it is shows later."""
    # A field may be a list.
    fields: Headers = [(name, value) for name, value in message.get("headers", ()) if name not in _FRAMING]
    return ResponseHead.of(message["status"], fields)


def fields_of(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Give the fields of a head that is on its way."""
    for line in head.split(b"\r\n")[1:-2]:
        name, _, value = line.partition(b":")
        yield name, value.strip()


def message_of(head: ResponseHead, upstream: str) -> Message:
    """Return the message that begins an answer of which this is the head."""
    fields = fields_of(forwarded_response(head, upstream))
    # The server adds a date of its own.
    headers = [(name.lower(), value) for name, value in fields if name.lower() != b"date"]
    return {"type": "http.response.start", "status": head.status, "headers": headers}


class RequestBody:
    """The body of one request, which may be asked for twice: up to a limit of bytes it is kept.

    Attributes:
        is_complete: All of it has come.
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
        """Whether it can be read from its first byte on."""
        return self._size <= self._limit

    async def receive(self) -> Message:
        """Receive what comes next, as ASGI has it, and keep it."""
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
        """Read it from its first byte on; it ends early if the client leaves."""
        for piece in tuple(self._kept):
            yield piece
        while not (self.is_complete or self.is_gone):
            yield (await self.receive()).get("body", b"")

    async def wait_gone(self) -> None:
        """Wait until the client has left."""
        while not self.is_gone:
            await self.receive()
