"""What the user looks at, as a value, and the orders that keys give.

Not here: what changes it (`controls`, `actions`), how it looks (`view`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from orchestra.dashboard.log import Wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.dashboard.requests import RequestRow, Requests

__all__ = ["Do", "Look", "Mode", "Order"]


class Mode(Enum):
    """What keys are for."""

    NORMAL = "normal"
    SEARCH = "search"
    FILTER = "filter"
    INPUT = "input"
    HELP = "help"


@dataclass(frozen=True)
class Look:
    """What is looked at, and how.

    Attributes:
        selected: The chosen process.
        was_moved: The user has chosen it.
        until: The number of the last entry that is shown; ``None``: the log is followed.
        hit: The number of the entry that was found.
        on_requests: Keys choose requests, not processes.
        chosen: The key of the chosen request.
        unfolded: The keys of the groups of requests that are unfolded.
        is_by_time: The slowest requests come first, not the newest.
        is_full: The log, or the requests, have the whole screen.
        message: What came of the last key.
        dismissed: The number of the newest error that was dismissed.
    """

    mode: Mode = Mode.NORMAL
    selected: str = ""
    was_moved: bool = False
    wanted: Wanted = field(default_factory=Wanted)
    until: int | None = None
    search: str = ""
    hit: int | None = None
    on_requests: bool = False
    chosen: int | None = None
    details: bool = False
    unfolded: frozenset[int] = frozenset()
    request_text: str = ""
    is_by_time: bool = False
    hides_processes: bool = False
    hides_requests: bool = False
    is_full: bool = False
    typed: str = ""
    message: str = ""
    dismissed: int = -1

    def rows(self, requests: Requests, now: float) -> Iterator[RequestRow]:
        """Give the rows of the requests that are wanted."""
        return requests.rows(now, text=self.request_text, unfolded=self.unfolded, is_by_time=self.is_by_time)


class Do(Enum):
    """What an order asks for."""

    RESTART = "restart"
    START = "start"
    STOP = "stop"
    KILL = "kill"
    RETRY = "retry"
    OPEN = "open"
    COPY = "copy"
    WRITE = "write"
    QUIT = "quit"
    SUSPEND = "suspend"
    REDRAW = "redraw"


@dataclass(frozen=True)
class Order:
    """Something to be done outside of the picture; the text is to be copied, written or opened."""

    do: Do
    process: str = ""
    text: str = ""
