"""What answered which path: learned from answers, and asked by `route`.

Paths have no query, and the oldest are dropped when they take too many bytes; pages apart from assets, so
that the modules of a large page cannot evict the page. All of it outlives a restart of the backend but for
one thing: that the backend did not know a path.

Not here: what is learned when (`route`); which pages are the frontend's from one run to the next
(`remembered`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

from orchestra.remembered import FrontendPages

if TYPE_CHECKING:
    Side: TypeAlias = Literal["backend", "frontend"]

__all__ = ["Memo", "Sides"]

# Bytes of paths that are remembered: more than the 10,000 modules of the largest apps have.
ASSET_BYTES = 2 * 1024 * 1024
PAGE_BYTES = 256 * 1024
# What an entry takes beside its path, about.
_ENTRY_BYTES = 100


class Sides(dict[bytes, "Side"]):
    """Which side answers a path.

    Args:
        most_bytes: That all entries may take together; then the oldest are dropped.
    """

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._left = most_bytes

    def learn(self, path: bytes, side: Side) -> None:
        """The side has answered."""
        if path not in self:
            self._left -= len(path) + _ENTRY_BYTES
        self[path] = side
        while self._left < 0:
            self.forget(next(iter(self)))

    def forget(self, path: bytes) -> None:
        """What is known of a path does not hold any more."""
        if self.pop(path, None) is not None:
            self._left += len(path) + _ENTRY_BYTES


class Memo:
    """What a proxy has learned of paths.

    Args:
        pages: Pages that are known to be the frontend's; ``None``: those of this proxy alone.
        remembers: Whether it is remembered what the backend did not know.

    Attributes:
        assets: What the frontend has answered to its own page, or the backend after the frontend did not know
            it. It may be that the backend has the former, too.
        windows: What a window got last.
        unknown: What the backend did not know, and the frontend did.
        newest: Which side the newest page of any window is of.
    """

    newest: Side = "backend"

    def __init__(self, pages: FrontendPages | None = None, *, remembers: bool = True) -> None:
        self.pages = FrontendPages() if pages is None else pages
        self.assets = Sides(ASSET_BYTES)
        self.windows = Sides(PAGE_BYTES)
        self._unknown_bytes = ASSET_BYTES if remembers else 0
        self.forget_unknown()

    def forget_unknown(self) -> None:
        """The backend may know other paths now; requests that are on their way teach the old `unknown`."""
        self.unknown = Sides(self._unknown_bytes)

    def side_of(self, path: bytes) -> Side | None:
        """Return which side a page, a module, a style or a worker is of, if that is known."""
        side = self.windows.get(path) or self.assets.get(path)
        return side or ("frontend" if self.pages.has(path) else None)

    def saw_window(self, path: bytes, side: Side) -> None:
        """A window has got its page."""
        self.windows.learn(path, side)
        self.newest = side
