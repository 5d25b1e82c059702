"""The log of a run in memory: a ring of the children's lines and their changes of state, and its filters.

Entries are numbered from 1, so that a position in the log stays valid while more lines come. A line costs two
appends; searches run when the log is shown, from the newest entry back. The last entries of each process are
kept beside the ring, which a loud process fills in a second.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from heapq import merge
from itertools import islice, takewhile
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from orchestra.child.lines import without_colours
from orchestra.dashboard.words import sentence
from orchestra.events import (
    FilesChanged,
    Notice,
    OutputLine,
    OutputPaused,
    PlanChanged,
    State,
    StateChanged,
    UpstreamSwitched,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Entry", "Log", "LogEvent", "Wanted", "name_of", "text_of"]

LogEvent: TypeAlias = (
    OutputLine | OutputPaused | Notice | StateChanged | UpstreamSwitched | FilesChanged | PlanChanged
)

# About 3 MB of usual lines, and an hour of a usual day.
_LIMIT = 10_000
_LIMIT_OF_EACH = 500
_ERROR = re.compile(r"\b(\w*Error|\w*Exception|error|fatal|critical|panic|failed)\b", re.IGNORECASE)


class Entry(NamedTuple):
    """An entry and its number; 0 is that of a line that is not finished."""

    number: int
    event: LogEvent


_BY_NUMBER = attrgetter("number")


@dataclass(frozen=True)
class Wanted:
    """The filters of the log.

    Attributes:
        process: Only entries of this process; empty: of all.
        text: Only entries that contain this text, in upper or lower case.
        errors: Only errors, with their tracebacks.
    """

    process: str = ""
    text: str = ""
    errors: bool = False

    def judge(self) -> Callable[[LogEvent], bool]:
        """Give a function that decides about entries, to be called from the newest back."""
        needle, in_traceback = self.text.lower(), set[str]()

        def is_wanted(event: LogEvent) -> bool:
            if self.process and name_of(event) != self.process:
                return False
            if self.errors and not _is_error(event, in_traceback):
                return False
            return not needle or needle in text_of(event).lower()

        return is_wanted


class Log:
    """The newest 10,000 entries, and 500 of each process; while it is held, also those from before."""

    def __init__(self) -> None:
        self.count = 0
        self._of_each: dict[str, deque[Entry]] = {}
        self._entries: deque[Entry] = deque(maxlen=_LIMIT)
        # Those that were there when it was held, oldest first; ``None``: it is not held.
        self._held: list[Entry] | None = None

    def __iter__(self) -> Iterator[LogEvent]:
        return (entry.event for entry in self.after(Wanted(), 0))

    def add(self, event: LogEvent) -> None:
        """Append an entry; the oldest may fall out."""
        self.count += 1
        entry = Entry(self.count, event)
        self._entries.append(entry)
        name = name_of(event)
        if (entries := self._of_each.get(name)) is None:
            entries = self._of_each[name] = deque(maxlen=_LIMIT_OF_EACH)
        entries.append(entry)

    def hold(self, *, is_held: bool) -> None:
        """Keep all present entries from now on, because the user reads them; or drop old ones again."""
        if not is_held:
            self._held = None
        elif self._held is None:
            self._held = [*self._entries]

    def clear(self) -> None:
        """Forget all entries."""
        self._of_each.clear()
        self._entries.clear()
        self._held = None

    def newest(self, wanted: Wanted, limit: int, *, until: int | None = None) -> list[Entry]:
        """Give the last `limit` entries that pass the filters, oldest first; none after number `until`."""
        found = list(islice(self._back(wanted, until), max(limit, 0)))
        return found[::-1]

    def after(self, wanted: Wanted, number: int) -> list[Entry]:
        """Give all entries after a number that pass the filters, oldest first."""
        found = [*takewhile(lambda each: each.number > number, self._back(wanted, None))]
        return found[::-1]

    def _back(self, wanted: Wanted, until: int | None) -> Iterator[Entry]:
        is_wanted, last = wanted.judge(), self.count if until is None else until
        older = merge(*map(reversed, self._of_each.values()), key=_BY_NUMBER, reverse=True)
        # The ring has no gap.
        newest = islice(reversed(self._entries), max(self.count - last, 0), None)
        for entries in (newest, reversed(self._held or ()), older):
            for entry in entries:
                if entry.number <= last:
                    last = entry.number - 1
                    if is_wanted(entry.event):
                        yield entry


def name_of(event: LogEvent) -> str:
    """Give the process of an entry; empty if it is about none."""
    return getattr(event, "process", None) or ""


def text_of(event: LogEvent) -> str:
    """Give an entry in words, without colours."""
    return without_colours(event.text) if isinstance(event, OutputLine) else sentence(event)


def _is_error(event: LogEvent, in_traceback: set[str]) -> bool:
    """Whether an entry is an error; indented lines above an error are its traceback."""
    match event:
        case OutputLine(process=name):
            text = without_colours(event.text)
            is_begin = text.startswith("Traceback (most")
            is_error = not is_begin and _ERROR.search(text) is not None
            is_inside = name in in_traceback and text.startswith((" ", "\t"))
            if is_error:
                in_traceback.add(name)
            elif not is_inside:
                in_traceback.discard(name)
            return is_begin or is_error or is_inside
        case Notice():
            return event.level != "info"
        case StateChanged():
            return event.state in (State.FAILED, State.BACKING_OFF, State.UNHEALTHY)
        case _:
            return False
