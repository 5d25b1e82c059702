"""Which paths are the frontend's, as far as that has been seen.

Never here: what counts as seen, and when it is out of date (`route.py`, `server.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestra.proxy.message import RequestHead

__all__ = ["Memo"]


class Memo:
    """Paths that the backend did not know and that turned out to be assets of the frontend.

    A page of a thousand modules would otherwise be a thousand 404s of the backend, each time. What that one
    knows may have changed when it becomes ready anew: then all is forgotten.

    Args:
        limit: So many at most; the oldest goes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._paths: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"<Memo of {len(self._paths)} paths>"

    def knows(self, head: RequestHead) -> bool:
        """Whether what is asked for is such a path."""
        return head.path in self._paths and head.method in (b"GET", b"HEAD") and not head.has_body

    def learn(self, head: RequestHead) -> None:
        """Remember the path."""
        self._paths[head.path] = None
        if len(self._paths) > self._limit:
            del self._paths[next(iter(self._paths))]

    def forget(self, head: RequestHead) -> None:
        """Forget the path."""
        self._paths.pop(head.path, None)
