"""Reads bodies: with a length, chunked, or until the connection closes.

Strategy. A reader is fed with the bytes that arrive and returns those that are passed on: usually the same
bytes. Chunk extensions are removed, and trailers that frame, route or authorise. The framing changes only if
the receiver needs another one: HTTP/1.0 gets no chunks, HTTP/1.1 gets chunks instead of an end of the
connection. Chunked bodies are read as RFC 9112 7.1 says, to the byte; no line passes before it was checked,
and only an incomplete line waits for more.

Not here: input and output, heads.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING

from orchestra.proxy.forward import dropped_trailers
from orchestra.proxy.head import MAX_HEAD, BadMessage, judge_trailer

if TYPE_CHECKING:
    from orchestra.proxy.head import RequestHead, ResponseHead

__all__ = ["NO_BODY", "Body", "ChunkedBody", "ClosingBody", "LengthBody", "answer_body", "request_body"]

LAST_CHUNK = b"0\r\n\r\n"

# 15 hexadecimal digits are below 2**63.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})([ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?)\r\n")


class Body:
    """A body that is being read.

    Attributes:
        size: The bytes that were read, without their framing.
        is_complete: The whole body was read.
        rest: Unread bytes: those after the body, or an incomplete line, to be fed again.
        has_chunks: The receiver gets it in chunks.
        ends_by_close: The receiver sees its end by that of the connection.
        is_at_boundary: The body could be ended here for the receiver.
        needs_no_bytes: It is not complete, but needs no more bytes.
    """

    has_chunks = False
    ends_by_close = False
    is_at_boundary = False
    needs_no_bytes = False

    def __init__(self) -> None:
        self.size = 0
        self.is_complete = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Read the available bytes; return what the receiver gets; `BadMessage` if the framing is illegal."""
        raise NotImplementedError

    def close(self) -> bytes | None:
        """The sender has closed: return what the receiver gets, ``None`` if the body is not complete."""
        return None


class LengthBody(Body):
    """A body whose length is known."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._left = length
        self.is_complete = not length

    def feed(self, data: bytes) -> bytes:
        """See `Body.feed`."""
        left = self._left - len(data)
        if left < 0:
            data, self.rest = data[:left], data[left:]
            left = 0
        self._left = left
        self.size += len(data)
        self.is_complete = not left
        return data


# For messages without a body: it is complete, and never fed.
NO_BODY = LengthBody(0)
# The answer to a HEAD whose body would have come in chunks.
_NO_CHUNKS = LengthBody(0)
_NO_CHUNKS.has_chunks = True


class ClosingBody(Body):
    """A body that ends with its connection."""

    is_at_boundary = True

    def __init__(self, *, has_chunks: bool) -> None:
        super().__init__()
        self.has_chunks = has_chunks
        self.ends_by_close = not has_chunks

    def feed(self, data: bytes) -> bytes:
        """See `Body.feed`."""
        self.size += len(data)
        return b"%x\r\n%b\r\n" % (len(data), data) if self.has_chunks else data

    def close(self) -> bytes | None:
        """See `Body.close`."""
        self.is_complete = True
        return LAST_CHUNK if self.has_chunks else b""


class _At(Enum):
    """The next part, after the data of the current chunk."""

    SIZE = auto()
    DATA_END = auto()
    TRAILER = auto()


class ChunkedBody(Body):
    """A chunked body; without `has_chunks` it passes without any framing, to HTTP/1.0."""

    is_at_boundary = True

    def __init__(self, head: RequestHead | ResponseHead, *, has_chunks: bool = True) -> None:
        super().__init__()
        self._dropped = dropped_trailers(head)
        self._at = _At.SIZE
        self._left = 0
        # The last chunk passes together with the trailers.
        self._last = b""
        self.has_chunks = has_chunks
        self.ends_by_close = not has_chunks

    def feed(self, data: bytes) -> bytes:
        """See `Body.feed`."""
        passed: list[bytes] = []
        # `data[start:position]` was checked and passes unchanged.
        start = position = 0
        end = len(data)
        while position < end and not self.is_complete:
            if self._left:
                step = min(self._left, end - position)
                position += step
                self.size += step
                self._left -= step
                continue
            line_end = data.find(b"\n", position) + 1
            if (line_end or end) - position + len(self._last) > MAX_HEAD:
                raise BadMessage("a line of a chunked body is too long")
            if not line_end:
                break
            line = data[position:line_end]
            if not line.endswith(b"\r\n"):
                raise BadMessage("a line of a chunked body ends without CR LF")
            instead = self._read_line(line)
            if instead is not line or not self.has_chunks:
                passed += data[start:position], instead if self.has_chunks else b""
                start = line_end
            position = line_end
        self.rest = data[position:]
        self.is_at_boundary = self._at is not _At.DATA_END
        if not start and position == end:
            return data
        passed.append(data[start:position])
        return b"".join(passed)

    def _read_line(self, line: bytes) -> bytes:
        """Check a line of the framing; return what passes instead of it, usually the line itself."""
        if self._at is _At.SIZE:
            found = _SIZE_LINE.fullmatch(line)
            if found is None:
                raise BadMessage("illegal size of a chunk")
            self._left = int(found[1], 16)
            if self._left:
                self._at = _At.DATA_END
                return b"%b\r\n" % found[1] if found[2] else line
            self._at, self._last = _At.TRAILER, b"0\r\n"
        elif self._at is _At.DATA_END:
            if line != b"\r\n":
                raise BadMessage("a chunk is longer than its size says")
            self._at = _At.SIZE
            return line
        elif line != b"\r\n":
            name, value = judge_trailer(line[:-2])
            if name.lower() not in self._dropped:
                self._last += b"%b: %b\r\n" % (name, value)
        else:
            self.is_complete = True
            return self._last + line
        return b""


def request_body(head: RequestHead) -> Body:
    """Return a reader of the body of a request, for an upstream that speaks HTTP/1.1."""
    if head.is_chunked:
        return ChunkedBody(head)
    return LengthBody(head.length) if head.length else NO_BODY


def answer_body(head: ResponseHead, request: RequestHead) -> Body:
    """Return a reader of the body of a final response to `request`, for its client (RFC 9112 6.3)."""
    if head.status in (204, 304):
        return NO_BODY
    is_head = request.method == b"HEAD"
    if head.length is not None:
        return NO_BODY if is_head else LengthBody(head.length)
    has_chunks = request.version != b"1.0"
    if is_head:
        return _NO_CHUNKS if has_chunks else NO_BODY
    if head.is_chunked:
        return ChunkedBody(head, has_chunks=has_chunks)
    return ClosingBody(has_chunks=has_chunks)
