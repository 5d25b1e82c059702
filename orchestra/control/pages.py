"""Pages that pass through the proxy: which page a request belongs to, and the bodies of changed pages.

A changed body is taken out of its framing and framed again: its length is not known before its end.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from orchestra.proxy.framing import LAST_CHUNK, Body
from orchestra.proxy.request import is_for_a_window, referring_path
from orchestra.proxy.rules import OWN_PREFIX

if TYPE_CHECKING:
    from orchestra.proxy.head import RequestHead, ResponseHead

__all__ = ["LIVE", "SCRIPT", "Feed", "Page", "PageBody", "client_script", "page_of"]

# The URLs of the script, and of its WebSocket.
SCRIPT = OWN_PREFIX.decode("ascii") + "client.js"
LIVE = OWN_PREFIX.decode("ascii") + "live"


@cache
def client_script() -> tuple[bytes, bytes]:
    """Return the script that pages get, and its ETag."""
    script = Path(__file__).with_name("client.js").read_bytes()
    return script, b'"%s"' % hashlib.sha256(script).hexdigest()[:32].encode("ascii")


class Feed(Protocol):
    """Changes the body of one answer."""

    def __call__(self, data: bytes, /, *, is_last: bool) -> bytes:
        """Take the next part of the body, without framing; return what passes now."""


class Page(Struct, frozen=True):
    """An answer that is changed; without a `feed` its body passes unchanged."""

    head: ResponseHead
    feed: Feed | None = None


class PageBody(Body):
    """The body of a changed answer: that of `source`, which was not fed yet, framed again."""

    def __init__(self, source: Body, feed: Feed, *, has_chunks: bool) -> None:
        super().__init__()
        source.has_chunks = False
        self._source = source
        self._feed = feed
        self.needs_no_bytes = source.is_complete
        self.has_chunks = has_chunks
        self.ends_by_close = not has_chunks

    def feed(self, data: bytes) -> bytes:
        """See `Body.feed`."""
        source = self._source
        if self.needs_no_bytes:
            piece, self.rest = b"", data
        else:
            piece, self.rest = source.feed(data), source.rest
        self.is_complete = source.is_complete
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


def page_of(head: RequestHead) -> tuple[str, bool]:
    """Return the path of the page that a request belongs to, and whether it is for the page itself.

    A request of another kind belongs to the page that has sent it; its path is empty if it is unknown, or of
    another origin.
    """
    if is_for_a_window(head):
        return head.path.decode("ascii", "replace"), True
    return (referring_path(head) or b"").decode("ascii", "replace"), False
