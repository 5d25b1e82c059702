"""HTTP/1.1 over a transport: a client's connection, where we are the server, and one to an upstream.

Strategy. A connection owns the bytes that were received but not read, and those that were written but not
sent. It splits each head off, has it read (`head`), and passes the bytes that follow to the reader of the
body (`framing`). A method called ``take`` never waits: it returns ``None`` if its data has not arrived, and
`wait` waits for more. So callers may be tasks or plain functions.

Error handling: here errors of the system and of trio get their meaning. `ClientGone`: there is no client to
answer. `BadMessage`: the client sent something illegal. `UpstreamGone` and `BadResponse`: both are an
`UpstreamError`, and the client gets a 502. After any of them a connection can only be closed.

Not here: tasks, time limits, decisions about what is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from msgspec import Struct

from orchestra.errors import UpstreamError
from orchestra.proxy.forward import keeps_alive
from orchestra.proxy.framing import NO_BODY, Body, answer_body, request_body
from orchestra.proxy.head import MAX_HEAD, BadMessage, end_of_head, is_obviously_no_request
from orchestra.proxy.transport import HEAD_SIZE

if TYPE_CHECKING:
    from orchestra.config.plan import Address
    from orchestra.proxy.forward import Peer
    from orchestra.proxy.gate import Upstream
    from orchestra.proxy.head import HeadReader, RequestHead, ResponseHead
    from orchestra.proxy.transport import Buffer, Transport

__all__ = ["BadResponse", "ClientConnection", "ClientGone", "Endpoint", "UpstreamConnection", "UpstreamGone"]

# A message is incomplete until its head was read.
_UNREAD = Body()
_BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class ClientGone(Exception):  # noqa: N818 - it is not an error of the client's
    """The client has left, or we closed its connection."""


class UpstreamGone(UpstreamError):  # noqa: N818 - the error is its base's name
    """The upstream closed the connection, or we did, before the exchange was over.

    Attributes:
        has_begun: Some bytes of an answer had arrived.
    """

    def __init__(self, message: str, *, has_begun: bool) -> None:
        super().__init__(message)
        self.has_begun = has_begun


class BadResponse(UpstreamError):  # noqa: N818 - as above
    """The upstream's answer is not HTTP that may be passed on."""


class Endpoint(Struct, frozen=True):
    """A server: an address, and the process there if it belongs to this run."""

    process: str | None
    address: Address

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self.process or self.address.url


class _Connection:
    """The common parts of both kinds.

    Attributes:
        body: The body that is being read.
        unread: Bytes that were received and not read.
        unsent: Bytes that were written and not sent.
    """

    _what = "request"

    def __init__(self, transport: Transport, reader: HeadReader) -> None:
        self.transport = transport
        self._reader = reader
        self.body: Body = NO_BODY
        self.unread = b""
        self.unsent: Buffer = b""
        self._searched = 0
        self._keeps_alive = True

    def _gone(self) -> Exception:
        raise NotImplementedError

    def _bad(self, fault: BadMessage) -> Exception:
        return fault

    def write(self, data: bytes) -> None:
        """Send bytes, as far as possible without waiting; `drain` sends the rest, or raises the error."""
        if self.unsent:
            self.unsent = b"".join([self.unsent, data])
            return
        try:
            sent = self.transport.send_some(data)
        except _BROKEN:
            sent = 0
        if sent < len(data):
            # Without a copy: it may be nearly 1 MiB.
            self.unsent = memoryview(data)[sent:]

    async def drain(self) -> None:
        """Wait until all written bytes are sent."""
        if self.unsent:
            try:
                await self.transport.send_all(self.unsent)
            except _BROKEN as exc:
                raise self._gone() from exc
            self.unsent = b""

    async def send(self, data: bytes) -> None:
        self.write(data)
        await self.drain()

    async def wait(self) -> None:
        """Wait until more can be taken."""
        if self.transport.has_input():
            await trio.lowlevel.checkpoint()
        else:
            has_input = trio.Event()
            self.transport.on_input(has_input.set)
            await has_input.wait()

    def take_raw(self) -> bytes | None:
        """Take bytes as they are, after a 101: first those that came with the handshake; ``b""``: the end."""
        if self.unread:
            data, self.unread = self.unread, b""
            return data
        return self._receive()

    def _receive(self) -> bytes | None:
        try:
            return self.transport.take_some()
        except _BROKEN as exc:
            raise self._gone() from exc

    def _take_head(self) -> bytes | None:
        buffer, searched = self.unread, self._searched
        if searched or not buffer:
            try:
                data = self.transport.take_some(HEAD_SIZE)
            except _BROKEN as exc:
                raise self._gone() from exc
            if not data:
                if data is None:
                    return None
                raise self._gone()
            buffer += data
        end = end_of_head(buffer, searched)
        if end < 0 and len(buffer) <= MAX_HEAD:
            self.unread, self._searched = buffer, len(buffer)
            return None
        if not 0 <= end <= MAX_HEAD:
            fault = BadMessage(f"the {self._what} head has more than {MAX_HEAD} bytes", status=431)
            raise self._bad(fault)
        self.unread, self._searched = buffer[end:], 0
        return buffer[:end]

    def take(self) -> bytes:
        """Return what the receiver gets of the received bytes of the body.

        If it is not framed as its head says: `BadMessage` from a client, `BadResponse` from an upstream.
        """
        buffer, body = self.unread, self.body
        if body.is_complete or not (buffer or body.needs_no_bytes):
            return b""
        try:
            piece = body.feed(buffer)
        except BadMessage as exc:
            raise self._bad(exc) from None
        self.unread = body.rest
        return piece

    def take_more(self) -> bytes | None:
        """Receive more of the body, or its end; return what the receiver gets of it, or raise as `take`."""
        data = self._receive()
        if data:
            self.unread += data
            return self.take()
        return data if data is None else self._end()

    def _end(self) -> bytes:
        """The peer stops sending within a body: return what the receiver gets."""
        raise self._gone()

    def close(self) -> None:
        """Close the connection: the peer sees an orderly end."""
        self.transport.close()

    def abort(self) -> None:
        """Close the connection so that the peer sees an error, and takes nothing for complete."""
        self.unsent = b""
        self.transport.abort()


class ClientConnection(_Connection):
    """A client's connection.

    Attributes:
        was_reset: The client has reset it.
    """

    def __init__(self, transport: Transport, reader: HeadReader, peer: Peer) -> None:
        super().__init__(transport, reader)
        self.peer = peer
        self.was_reset = self._has_skipped = False

    def _gone(self) -> ClientGone:
        return ClientGone()

    def take_request(self) -> RequestHead | None:
        """Take the head of the next request.

        One empty line before it is ignored (RFC 9112 2.2: old clients send one after a body). `BadMessage`:
        it is illegal, the connection can only be answered and closed; `ClientGone`: it will never be
        complete.
        """
        self.body = _UNREAD
        raw = self._take_head()
        if raw is None:
            if self.unread == b"\r\n" and not self._has_skipped:
                self.unread, self._searched, self._has_skipped = b"", 0, True
            if not self.unread:
                self.body = NO_BODY
            elif is_obviously_no_request(self.unread):
                raise BadMessage("this is not an HTTP request; perhaps it is meant for https")
            return None
        if raw.startswith(b"\r\n") and not self._has_skipped:
            raw = raw[2:]
        self._has_skipped = False
        head = self._reader.request(raw)
        self.body = request_body(head)
        self._keeps_alive = keeps_alive(head)
        return head

    async def read_off(self) -> None:
        """Read and drop bytes to the end: a close with unread bytes is a reset, and destroys our answer."""
        while self.take_raw() != b"":
            await self.wait()

    def closes_after(self, answer: Body) -> bool:
        """Whether no request can follow an answer with that body."""
        return not self._keeps_alive or not self.body.is_complete or answer.ends_by_close


class UpstreamConnection(_Connection):
    """A connection to an upstream, at one of its endpoints.

    Attributes:
        is_reused: It has been idle, so the upstream may have closed it already.
        since: The time of its last use.
    """

    _what = "answer"

    def __init__(
        self, transport: Transport, reader: HeadReader, upstream: Upstream, endpoint: Endpoint
    ) -> None:
        super().__init__(transport, reader)
        self.upstream = upstream
        self.endpoint = endpoint
        self.body = _UNREAD
        self.since = 0.0
        self.is_reused = self._has_begun = False

    def _gone(self) -> UpstreamGone:
        has_begun = self._has_begun or bool(self.unread)
        when = "in the middle of its answer" if has_begun else "without an answer"
        return UpstreamGone(f"{self.endpoint.name} closed the connection {when}", has_begun=has_begun)

    def _bad(self, fault: BadMessage) -> BadResponse:
        return BadResponse(f"{self.endpoint.name}: bad answer: {fault}")

    def rest(self, now: float) -> None:
        """Become idle until another request begins."""
        self.since, self.body, self.is_reused, self._has_begun = now, _UNREAD, True, False

    def take_head(self, request: RequestHead) -> ResponseHead | None:
        """Take the head of the next answer to `request`; `BadResponse`, `UpstreamGone`: there is none."""
        raw = self._take_head()
        if raw is None:
            return None
        self._has_begun = True
        try:
            head = self._reader.response(raw)
        except BadMessage as exc:
            raise self._bad(exc) from exc
        if head.status >= 200:
            self.body = answer_body(head, request)
            # Some servers send a stream's body in answer to HEAD, and answer nothing else until its end.
            may_stream_on = request.method == b"HEAD" and head.length is None
            self._keeps_alive = keeps_alive(head) and not may_stream_on
        return head

    def _end(self) -> bytes:
        self._keeps_alive = False
        end = self.body.close()
        if end is None:
            raise self._gone()
        return end

    def is_stale(self) -> bool:
        """Whether its endpoint is out of use: its process has ended or is about to."""
        return self.endpoint is not self.upstream.gate.endpoint

    def is_reusable(self) -> bool:
        """Whether all was sent, the answer is complete without excess bytes, and another may follow."""
        return self._keeps_alive and self.body.is_complete and not self.unread and not self.unsent
