"""HTTP/1.1 over a transport: `ClientSide`, where we are the server, `UpstreamSide`, where we are the client.

Strategy. A side owns its buffer. It splits each head off by itself, has it judged (`message.py`), and only
then feeds it to h11, which frames bodies and keeps the state machine; one `h11.Connection` lasts for one
exchange, and what it has not consumed goes back into the buffer. So a head that was already judged can later
take a shorter way beside h11 without anybody above noticing. Reading is split in two: `next_event` gives what
is already there, `fill` waits for more; a relay can thus send all that it has in one go before it waits.

Error handling: this is the one place where errors of h11, of the system and of trio get their meaning.
`ClientGone`: nobody is there to answer. `BadMessage`: the client sent something illegal. `UpstreamGone` and
`BadResponse`: both are an `UpstreamError`, the client is told 502. After any of them a side can only be
closed.

Never here: tasks, time limits, decisions about what is sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import h11
import trio

from orchestra.errors import UpstreamError
from orchestra.proxy.chunks import ChunkJudge
from orchestra.proxy.message import (
    BadMessage,
    end_of_head,
    is_bodiless,
    is_obviously_no_request,
    judge_request,
    judge_response,
    named_by_connection,
)

if TYPE_CHECKING:
    from orchestra.proxy.message import Headers, RequestHead, ResponseHead
    from orchestra.proxy.transport import Buffer, Transport

__all__ = ["BadResponse", "ClientGone", "ClientSide", "End", "UpstreamGone", "UpstreamSide"]

# Of one receive while a head is awaited: malloc has such blocks at hand, larger ones come from the system.
_HEAD_RECEIVE = 65536


class ClientGone(Exception):  # noqa: N818 - nobody made an error
    """The client has left, or we closed its connection."""


class UpstreamGone(UpstreamError):  # noqa: N818 - the error is its base's name
    """The upstream closed the connection, or we did, before the exchange was over.

    Attributes:
        has_begun: Some bytes of an answer had come.
    """

    def __init__(self, message: str, *, has_begun: bool) -> None:
        super().__init__(message)
        self.has_begun = has_begun


class BadResponse(UpstreamError):  # noqa: N818 - as above
    """The upstream's answer is no HTTP that may be passed on."""


@dataclass(frozen=True, slots=True)
class End:
    """A body is complete."""

    trailers: Headers = field(default_factory=list)


# h11 gives bytearrays and calls them bytes; nothing here does anything with them but pass them on.
BodyEvent: TypeAlias = bytes | End


class ClientSide:
    """A client's connection.

    Args:
        max_head: Bytes that a head may have.
    """

    def __init__(self, transport: Transport, *, max_head: int = 65536) -> None:
        self.transport = transport
        self._max_head = max_head
        self._buffer = bytearray()
        self._h11 = h11.Connection(h11.SERVER)
        self._chunks: ChunkJudge | None = None
        self._hop_by_hop: frozenset[bytes] = frozenset()
        self._is_body_read = True
        self._has_trailers = False

    def __repr__(self) -> str:
        return f"<ClientSide {self.transport!r} {self._h11.states}>"

    @property
    def is_body_read(self) -> bool:
        """Whether the newest request has been read to its end."""
        return self._is_body_read

    async def wait_for_request(self) -> bool:
        """Wait for the first byte of the next request; ``False`` if none will come.

        One empty line before it is no part of it (RFC 9112 2.2: old clients send one after a body).
        """
        has_swallowed = False
        while True:
            if not has_swallowed and self._buffer.startswith(b"\r\n"):
                del self._buffer[:2]
                has_swallowed = True
            if self._buffer and self._buffer != b"\r":
                return True
            try:
                data = await self.transport.receive_some(_HEAD_RECEIVE)
            except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
                return False
            if not data:
                return False
            self._buffer += data

    async def read_head(self) -> RequestHead:
        """Read the head of the next request.

        Raises:
            BadMessage: It is illegal; the connection can only be answered and closed.
            ClientGone: It will never be complete.
        """
        # Chunk headers and trailers are all that it has to collect by itself.
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=self._max_head)
        self._is_body_read = False
        searched = 0
        while True:
            if is_obviously_no_request(self._buffer):
                raise BadMessage("this is no HTTP request; is it meant for https?")
            end = end_of_head(self._buffer, searched)
            if end > self._max_head or (end < 0 and len(self._buffer) > self._max_head):
                raise BadMessage(f"the request's head has more than {self._max_head} bytes", status=431)
            if end >= 0:
                break
            searched = len(self._buffer)
            if not await self._receive(_HEAD_RECEIVE):
                raise ClientGone
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        head = judge_request(raw)
        self._feed(raw)
        self._next_from_h11()
        self._chunks = None
        if head.is_chunked:
            self._chunks = ChunkJudge(max_line=self._max_head)
            self._hop_by_hop = named_by_connection(head.headers)
        if head.has_body:
            self._feed(bytes(self._buffer))
            self._buffer.clear()
        else:
            self.next_event()
        return head

    def next_event(self) -> BodyEvent | None:
        """Return the next part of the body that is already here, `End` after the last one; else ``None``.

        Raises:
            BadMessage: The body is not framed as its head said.
        """
        event = self._next_from_h11()
        if isinstance(event, End):
            self._body_ends()
        return event

    async def fill(self) -> None:
        """Wait for more of the body.

        Raises:
            BadMessage: It is not framed as its head said.
            ClientGone: It will never be complete.
        """
        try:
            data = await self.transport.receive_some()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone from exc
        if not data:
            raise ClientGone
        self._feed(data)

    def encode_informational(self, head: ResponseHead) -> bytes:
        """Put a 1xx response into bytes; after a 101 the connection speaks HTTP no longer."""
        event = h11.InformationalResponse(status_code=head.status, headers=head.headers, reason=head.reason)
        return self._h11.send(event) or b""

    def encode_response(self, head: ResponseHead, *, close: bool = False) -> bytes:
        """Put the head of a final response into bytes; h11 adds the framing that this client understands.

        Args:
            head: Without framing fields but Content-Length.
            close: Announce that the connection is closed afterwards.
        """
        headers = head.headers
        if close and (b"Connection", b"close") not in headers:
            headers = [*headers, (b"Connection", b"close")]
        event = h11.Response(status_code=head.status, headers=headers, reason=head.reason)
        encoded = self._h11.send(event) or b""
        self._has_trailers = b"\r\ntransfer-encoding: chunked\r\n" in encoded.lower()
        return encoded

    def encode_data(self, data: bytes) -> list[bytes]:
        """Put a part of the response's body into bytes."""
        return self._h11.send_with_data_passthrough(h11.Data(data=data)) or []

    def encode_end(self, trailers: Headers) -> bytes:
        """Put the end of the response into bytes; trailers need a client that takes chunks."""
        event = h11.EndOfMessage(headers=trailers if self._has_trailers else [])
        return self._h11.send(event) or b""

    async def send(self, data: Buffer) -> None:
        """Send bytes as they are."""
        try:
            await self.transport.send_all(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone from exc

    def is_reusable(self) -> bool:
        """Whether the exchange is complete and the connection may bring another request."""
        return self._is_body_read and self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE

    async def receive_raw(self) -> bytes:
        """Receive bytes as they are, after a 101: those that came with the handshake first."""
        if self._buffer:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        try:
            return await self.transport.receive_some()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone from exc

    def close(self) -> None:
        """Close the connection in an orderly way."""
        self.transport.close()

    def abort(self) -> None:
        """Close the connection so that the client cannot take what it got for complete."""
        self.transport.abort()

    async def _receive(self, max_bytes: int) -> bool:
        try:
            data = await self.transport.receive_some(max_bytes)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone from exc
        self._buffer += data
        return bool(data)

    def _feed(self, data: bytes) -> None:
        if data:
            if self._chunks is not None:
                self._chunks.feed(data)
            self._h11.receive_data(data)

    def _next_from_h11(self) -> BodyEvent | None:
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as exc:
            raise BadMessage(str(exc), status=501 if exc.error_status_hint == 501 else 400) from exc
        return _body_event(event, self._hop_by_hop)

    def _body_ends(self) -> None:
        self._is_body_read = True
        rest, _ = self._h11.trailing_data
        self._buffer[:0] = rest


class UpstreamSide:
    """A connection to an upstream.

    Args:
        label: What it is called in messages.
        max_head: Bytes that a head may have.
    """

    def __init__(self, transport: Transport, *, label: str = "upstream", max_head: int = 65536) -> None:
        self.transport = transport
        self._label = label
        self._max_head = max_head
        self._buffer = bytearray()
        self._h11 = h11.Connection(h11.CLIENT)
        self._chunks: ChunkJudge | None = None
        self._hop_by_hop: frozenset[bytes] = frozenset()
        self._method = b"GET"
        self._has_begun = False
        self._may_stream_on = False

    def __repr__(self) -> str:
        return f"<UpstreamSide {self.transport!r} {self._h11.states}>"

    def encode_request(self, head: RequestHead) -> bytes:
        """Put a request's head into bytes, its fields in their order; a new exchange begins."""
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=self._max_head)
        self._method = head.method
        self._has_begun = False
        self._may_stream_on = False
        # For its state only: h11 would put Host first.
        self._h11.send(h11.Request(method=head.method, target=head.target, headers=head.headers))
        lines = [b"%s %s HTTP/1.1\r\n" % (head.method, head.target)]
        lines += [b"%s: %s\r\n" % field for field in head.headers]
        return b"".join([*lines, b"\r\n"])

    def encode_data(self, data: bytes) -> list[bytes]:
        """Put a part of the request's body into bytes."""
        return self._h11.send_with_data_passthrough(h11.Data(data=data)) or []

    def encode_end(self, trailers: Headers) -> bytes:
        """Put the end of the request into bytes."""
        return self._h11.send(h11.EndOfMessage(headers=trailers)) or b""

    async def send(self, data: Buffer) -> None:
        """Send bytes as they are."""
        try:
            await self.transport.send_all(data)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._gone() from exc

    async def read_head(self) -> ResponseHead:
        """Read the head of the next response, be it informational or final.

        Raises:
            BadResponse: It is illegal.
            UpstreamGone: It will never be complete.
        """
        searched = 0
        while True:
            end = end_of_head(self._buffer, searched)
            if end > self._max_head or (end < 0 and len(self._buffer) > self._max_head):
                raise BadResponse(f"{self._label}: the answer's head has more than {self._max_head} bytes")
            if end >= 0:
                break
            searched = len(self._buffer)
            data = await self.receive_raw(_HEAD_RECEIVE)
            if not data:
                raise self._gone()
            self._has_begun = True
            self._buffer += data
        raw = bytes(self._buffer[:end])
        del self._buffer[:end]
        self._has_begun = True
        try:
            head = judge_response(raw)
            self._h11.receive_data(raw)
            self._h11.next_event()
        except (BadMessage, h11.RemoteProtocolError) as exc:
            raise BadResponse(f"{self._label}: bad answer: {exc}") from exc
        if not head.is_informational:
            # Servers have been seen to send a stream's body to HEAD, and to answer nobody else until its end.
            self._may_stream_on = self._method == b"HEAD" and head.length is None
            has_body = not is_bodiless(self._method, head.status)
            self._chunks = None
            if head.is_chunked and has_body:
                self._chunks = ChunkJudge(max_line=self._max_head)
                self._hop_by_hop = named_by_connection(head.headers)
            if self._buffer and has_body:
                self._feed(bytes(self._buffer))
                self._buffer.clear()
        return head

    def next_event(self) -> BodyEvent | None:
        """Return the next part of the body that is already here, `End` after the last one; else ``None``.

        Raises:
            BadResponse: The body is not framed as its head said.
            UpstreamGone: It ended in the middle.
        """
        try:
            event = self._h11.next_event()
        except h11.RemoteProtocolError as exc:
            if self._h11.trailing_data[1]:
                raise self._gone() from exc
            raise BadResponse(f"{self._label}: bad answer: {exc}") from exc
        return _body_event(event, self._hop_by_hop)

    async def fill(self) -> None:
        """Wait for more of the body, or for its end.

        Raises:
            BadResponse: The body is not framed as its head said.
            UpstreamGone: The connection broke.
        """
        try:
            data = await self.transport.receive_some()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._gone() from exc
        self._feed(data)

    def is_reusable(self) -> bool:
        """Whether the exchange is complete, nothing is left over, and another request may be sent."""
        rest, is_closed = self._h11.trailing_data
        return (
            self._h11.our_state is h11.DONE
            and self._h11.their_state is h11.DONE
            and not (rest or is_closed or self._buffer or self._may_stream_on)
        )

    async def receive_raw(self, max_bytes: int | None = None) -> bytes:
        """Receive bytes as they are: after a 101, those that came with the handshake first."""
        if self._buffer and max_bytes is None:
            data = bytes(self._buffer)
            self._buffer.clear()
            return data
        try:
            return await self.transport.receive_some(max_bytes or 262144)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._gone() from exc

    def close(self) -> None:
        """Close the connection in an orderly way."""
        self.transport.close()

    def abort(self) -> None:
        """Close the connection so that the upstream notices at once."""
        self.transport.abort()

    def _feed(self, data: bytes) -> None:
        if self._chunks is not None:
            try:
                self._chunks.feed(data)
            except BadMessage as exc:
                raise BadResponse(f"{self._label}: bad answer: {exc}") from exc
        self._h11.receive_data(data)

    def _gone(self) -> UpstreamGone:
        when = "in the middle of its answer" if self._has_begun else "without an answer"
        return UpstreamGone(f"{self._label} closed the connection {when}", has_begun=self._has_begun)


def _body_event(event: object, hop_by_hop: frozenset[bytes]) -> BodyEvent | None:
    match event:
        case h11.Data(data=data):
            return data
        case h11.EndOfMessage(headers=headers):
            trailers = headers.raw_items() if headers else []
            return End([field for field in trailers if field[0].lower() not in hop_by_hop])
        case _:
            return None
