"""Documents that are changed on their way to a window: what the proxy expects of what changes them.

A changed body is taken out of the framing that it came in, and framed again: its length is not known before
its end.

Not here: which documents are changed, and how (`control/inject`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from orchestra.proxy.framing import LAST_CHUNK, Body

if TYPE_CHECKING:
    from orchestra.events import UpstreamName
    from orchestra.proxy.head import RequestHead, ResponseHead

__all__ = ["Feed", "Page", "PageBody", "Pages"]


class Feed(Protocol):
    """Changes one body."""

    def __call__(self, data: bytes, /, *, is_last: bool) -> bytes:
        """Take what has come of the body, without framing; return what passes now."""


class Page(Struct, frozen=True):
    """An answer that is changed.

    Attributes:
        head: What passes in place of the upstream's head.
        feed: Changes the body; ``None``: that passes as it is.
    """

    head: ResponseHead
    feed: Feed | None = None


class Pages(Protocol):
    """Decides which answers are changed. It neither waits nor raises."""

    def asks(self, head: RequestHead) -> RequestHead | None:
        """Return what upstreams are asked in place of `head`; ``None`` if no answer to it is changed."""

    def begin(self, request: RequestHead, answer: ResponseHead, upstream: UpstreamName) -> Page | None:
        """Return how an answer to such a request is changed, if it is."""

    def tag(self, request: RequestHead, status: int) -> str:
        """Return what a page of our own that answers `request` has in its head; may be empty."""


class PageBody(Body):
    """The body of an answer that is changed.

    Args:
        source: Reads it as it comes; was not fed yet.
        feed: Changes it.
        has_chunks: Pass it on in chunks; else it ends with the connection.
    """

    def __init__(self, source: Body, feed: Feed, *, has_chunks: bool) -> None:
        source.has_chunks = False
        self._source = source
        self._feed = feed
        self.has_chunks = has_chunks
        self.ends_by_close = not has_chunks

    def feed(self, data: bytes) -> bytes:
        """See `Body.feed`."""
        source = self._source
        piece = source.feed(data)
        self.rest, self.is_complete = source.rest, source.is_complete
        return self._frame(piece)

    def close(self) -> bytes | None:
        """See `Body.close`."""
        if self._source.close() is None:
            return None
        self.is_complete = True
        return self._frame(b"")

    def _frame(self, piece: bytes) -> bytes:
        piece = self._feed(piece, is_last=self.is_complete)
        self.size += len(piece)
        if not self.has_chunks:
            return piece
        chunk = b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b""
        return chunk + LAST_CHUNK if self.is_complete else chunk
