"""Documents that are changed on their way to a window: what the proxy expects of what changes them.

Not here: which documents are changed, and how (`control/inject`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

if TYPE_CHECKING:
    from orchestra.events import UpstreamName
    from orchestra.proxy.head import RequestHead, ResponseHead

__all__ = ["Feed", "Page", "Pages"]


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
        """Return what a page of our own that answers such a request has in its head."""
