"""HTTP/1.1 over a transport: a client's connection, where we are the server, and one to an upstream.

Strategy. A connection owns its buffer, splits each head off it, has it read (`head`), and hands what follows
to the reader of the body (`framing`). What has arrived can be taken without waiting, so that it is sent on
before more is awaited.

Error handling: here errors of the system and of trio get their meaning. `ClientGone`: there is no client to
answer. `BadMessage`: the client sent something illegal. `UpstreamGone` and `BadResponse`: both are an
`UpstreamError`, the client is told 502. After any of them a connection can only be closed.

Not here: tasks, time limits, decisions about what is sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from orchestra.errors import UpstreamError
from orchestra.proxy.forward import keeps_alive
from orchestra.proxy.framing import NO_BODY, ClosingBody, answer_body, request_body
from orchestra.proxy.head import MAX_HEAD, BadMessage, end_of_head, is_obviously_no_request
from orchestra.proxy.transport import HEAD_SIZE, RECEIVE_SIZE

if TYPE_CHECKING:
    from orchestra.proxy.framing import Body
    from orchestra.proxy.head import HeadReader, RequestHead, ResponseHead
    from orchestra.proxy.transport import Buffer, Transport

__all__ = ["BadResponse", "ClientConnection", "ClientGone", "UpstreamConnection", "UpstreamGone"]

_END = b"\r\n\r\n"
_UNREAD = ClosingBody(has_chunks=False)
_BROKEN = (OSError, trio.BrokenResourceError, trio.ClosedResourceError)


class ClientGone(Exception):  # noqa: N818 - it is not an error of the client's
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


class _Connection:
    """What both kinds have.

    Attributes:
        body: That is read from it.
    """

    body: Body = NO_BODY
    _what = "request"
    _buffer = b""
    _keeps_alive = True

    def __init__(self, transport: Transport, reader: HeadReader) -> None:
        self.transport = transport
        self._reader = reader

    def _gone(self) -> Exception:
        """Say that the peer has gone."""
        raise NotImplementedError

    async def send(self, data: Buffer) -> None:
        """Send bytes as they are."""
        try:
            await self.transport.send_all(data)
        except _BROKEN as exc:
            raise self._gone() from exc

    async def receive_raw(self) -> bytes:
        """Receive bytes as they are, after a 101: those that came with the handshake first."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        try:
            return await self.transport.receive_some()
        except _BROKEN as exc:
            raise self._gone() from exc

    def take_raw(self) -> bytes | None:
        """Do the same without waiting; ``None``: there is nothing, or an error that `receive_raw` raises."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        return self.transport.take_some()

    @property
    def has_bytes(self) -> bool:
        """Whether something was received that is not read yet."""
        return bool(self._buffer)

    def take(self) -> bytes:
        """Return what the receiver gets of the body's bytes that are already here.

        Raises:
            BadMessage: The body is not framed as its head said.
        """
        buffer, body = self._buffer, self.body
        if not buffer or body.is_complete:
            return b""
        piece = body.feed(buffer)
        self._buffer = body.rest
        return piece

    async def _fill(self, max_bytes: int = RECEIVE_SIZE) -> None:
        """Wait for more bytes; the end is an error here."""
        try:
            data = await self.transport.receive_some(max_bytes)
        except _BROKEN as exc:
            raise self._gone() from exc
        if not data:
            raise self._gone()
        self._buffer = self._buffer + data if self._buffer else data

    def _cut_head(self) -> bytes:
        """Take the next head off the buffer; return nothing if that takes a closer look."""
        buffer = self._buffer
        end = buffer.find(_END) + 4
        if not 4 <= end <= MAX_HEAD:
            return b""
        self._buffer = buffer[end:]
        return buffer[:end] if self._buffer else buffer

    async def _wait_for_head(self) -> bytes:
        """Take the next head off the buffer as soon as it is whole."""
        searched = 0
        while (end := end_of_head(self._buffer, searched)) < 0 and len(self._buffer) <= MAX_HEAD:
            if self._what == "request" and is_obviously_no_request(self._buffer):
                raise BadMessage("this is not an HTTP request; is it meant for https?")
            searched = len(self._buffer)
            await self._fill(HEAD_SIZE)
        if not 0 <= end <= MAX_HEAD:
            raise BadMessage(f"the {self._what} head has more than {MAX_HEAD} bytes", status=431)
        raw, self._buffer = self._buffer[:end], self._buffer[end:]
        return raw

    def close(self) -> None:
        """Close the connection: the peer sees an orderly end."""
        self.transport.close()

    def abort(self) -> None:
        """Close the connection so that the peer sees an error, and takes nothing for complete."""
        self.transport.abort()


class ClientConnection(_Connection):
    """A client's connection.

    Attributes:
        was_reset: The client has reset it.
    """

    was_reset = False

    def _gone(self) -> ClientGone:
        return ClientGone()

    async def wait_for_request(self) -> bool:
        """Wait for the first byte of the next request; ``False`` if none will come.

        One empty line before it is no part of it (RFC 9112 2.2: old clients send one after a body).
        """
        has_swallowed = False
        while True:
            if self._buffer[:1].isalpha():
                return True
            if not has_swallowed and self._buffer.startswith(b"\r\n"):
                self._buffer = self._buffer[2:]
                has_swallowed = True
            if self._buffer and self._buffer != b"\r":
                return True
            try:
                data = await self.transport.receive_some(HEAD_SIZE)
            except _BROKEN:
                return False
            if not data:
                return False
            self._buffer = self._buffer + data if self._buffer else data

    def take_request(self) -> RequestHead | None:
        """Read a request that is here, whole and alone, without waiting.

        Returns:
            Its head; ``None`` if it takes a closer look (`wait_for_request`).
        """
        data = self._buffer = self.transport.take_some(HEAD_SIZE) or b""
        if not self._cut_head() or self._buffer:
            self._buffer = data
            return None
        try:
            head = self._reader.request(data)
        except BadMessage:
            self._buffer = data
            return None
        self._begin(head)
        return head

    def _begin(self, head: RequestHead) -> None:
        self.body = request_body(head)
        self._keeps_alive = keeps_alive(head)

    async def read_head(self) -> RequestHead:
        """Read the head of the next request.

        Raises:
            BadMessage: It is illegal; the connection can only be answered and closed.
            ClientGone: It will never be complete.
        """
        # Until its head is read, a request is not complete.
        self.body = _UNREAD
        head = self._reader.request(self._cut_head() or await self._wait_for_head())
        self._begin(head)
        return head

    async def fill(self) -> None:
        """Wait for more of the body.

        Raises:
            ClientGone: It will never be complete.
        """
        try:
            await self._fill()
        except ClientGone as exc:
            self.was_reset |= isinstance(exc.__cause__, ConnectionResetError)
            raise

    def closes_after(self, answer: Body) -> bool:
        """Whether no request can follow an answer with that body."""
        return not self._keeps_alive or not self.body.is_complete or answer.ends_by_close


class UpstreamConnection(_Connection):
    """A connection to an upstream.

    Args:
        transport: Connected.
        reader: Reads the heads of its answers.
        process: What it is to, if that is a process of this run.
        label: What the upstream is called in messages.
        generation: Which life of the upstream it belongs to.

    Attributes:
        is_reused: It has been idle, so the upstream may have closed it without our knowing.
        since: When it was used last.
    """

    is_reused = False
    since = 0.0
    _what = "answer"
    _has_begun = False

    def __init__(
        self,
        transport: Transport,
        reader: HeadReader,
        *,
        process: str | None = None,
        label: str = "upstream",
        generation: int = 0,
    ) -> None:
        super().__init__(transport, reader)
        self._label = label
        self.process = process
        self.generation = generation

    def _gone(self) -> UpstreamGone:
        when = "in the middle of its answer" if self._has_begun else "without an answer"
        return UpstreamGone(f"{self._label} closed the connection {when}", has_begun=self._has_begun)

    def rest(self, now: float) -> None:
        """It is idle until another request begins."""
        self.since = now
        self.is_reused = True
        self._has_begun = False

    async def read_head(self, request: RequestHead) -> ResponseHead:
        """Read the head of the next answer to `request`, be it informational or final.

        Raises:
            BadResponse: It is illegal.
            UpstreamGone: It will never be complete.
        """
        if not self._buffer:
            await self._fill(HEAD_SIZE)
        self._has_begun = True
        try:
            head = self._reader.response(self._cut_head() or await self._wait_for_head())
        except BadMessage as exc:
            raise BadResponse(f"{self._label}: bad answer: {exc}") from exc
        self._begin(head, request)
        return head

    def take_head(self, request: RequestHead) -> ResponseHead | None:
        """Read the head of the final answer to `request` if it is here, without waiting.

        Returns:
            The head; ``None`` if it takes a closer look (`read_head`).
        """
        data = self._buffer = self.transport.take_some(HEAD_SIZE) or b""
        raw = self._cut_head()
        try:
            head = self._reader.response(raw) if raw else None
        except BadMessage:
            head = None
        if head is None or head.status < 200:
            self._buffer = data
            return None
        self._begin(head, request)
        return head

    def _begin(self, head: ResponseHead, request: RequestHead) -> None:
        if head.status >= 200:
            self.body = answer_body(head, request)
            # Servers were seen to send a stream's body to HEAD, and to answer nothing else until its end.
            may_stream_on = request.method == b"HEAD" and head.length is None
            self._keeps_alive = keeps_alive(head) and not may_stream_on

    def take(self) -> bytes:
        """Return what the client gets of the body's bytes that are already here.

        Raises:
            BadResponse: The body is not framed as its head said.
        """
        try:
            return super().take()
        except BadMessage as exc:
            raise BadResponse(f"{self._label}: bad answer: {exc}") from exc

    async def more(self) -> bytes:
        """Wait for more of the body, or for its end; return what the client gets of it.

        Raises:
            BadResponse: The body is not framed as its head said.
            UpstreamGone: The connection broke, or ended in the middle.
        """
        return self._feed(await self.receive_raw())

    def take_more(self) -> bytes | None:
        """Do the same without waiting; ``None``: there is nothing, or an error that `more` meets, too."""
        data = self.transport.take_some(RECEIVE_SIZE)
        return None if data is None else self._feed(data)

    def _feed(self, data: bytes) -> bytes:
        self._buffer = data
        if data:
            return self.take()
        self._keeps_alive = False
        end = self.body.close()
        if end is None:
            raise self._gone()
        return end

    def is_reusable(self) -> bool:
        """Whether the answer is complete, nothing is left over, and another request may be sent."""
        return self._keeps_alive and self.body.is_complete and not self._buffer
