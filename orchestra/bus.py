"""The bus that carries the events of a run.

Emitters report what happened. The `Bus` adds the time (`time`) and a sequence number (`seq`), and calls its
observers with the event, synchronously. Observers never make the emitter wait; one that raises is removed and
logged, as trio does with its instruments. Output that must not be lost goes to sinks before it is published
(`supervision/delivery`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from typing import TypeAlias, TypeVar, cast

from msgspec import structs

from orchestra.events import ON_REQUEST, Event, Level, Notice, Stamped

__all__ = ["Bus", "Observer", "utc_now"]

logger = logging.getLogger(__name__)

Observer: TypeAlias = Callable[[Event], object]
# An observer with the types of events that it gets; none means all of them.
_Entry: TypeAlias = tuple[Observer, tuple[type[Stamped], ...]]
_E = TypeVar("_E", bound=Stamped)


def utc_now() -> datetime:
    """Return the current time, in UTC."""
    return datetime.now(UTC)


class Bus:
    """Stamps every event and calls the observers of its type, without waiting or raising.

    Args:
        snapshot: Gives stamped events that bring a new observer up to date. They are replayed to it in the
            same synchronous step in which it is added, so it misses nothing and sees nothing twice.
        clock: Gives the current time, in UTC.
    """

    def __init__(
        self,
        snapshot: Callable[[], Iterable[Event]] = tuple,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._seq = 0
        self._observers: list[_Entry] = []
        # Notices that are limited, by code: their texts and processes.
        self._given: dict[str, set[tuple[str, str | None]]] = {}
        # By type; a cache, because it is used for each request and each line.
        self._observers_of: dict[type[Stamped], tuple[_Entry, ...]] = {}

    def __repr__(self) -> str:
        return f"<Bus with {len(self._observers)} observers>"

    def subscribe(self, observer: Observer, *kinds: type[Stamped]) -> Callable[[], None]:
        """Add an observer after replaying the snapshot to it.

        Args:
            observer: Called with every event from now on.
            *kinds: The types of events that it gets; by default all except those in `ON_REQUEST`.

        Returns:
            A function that removes it again.
        """
        entry = observer, kinds
        self._observers.append(entry)
        self._observers_of.clear()
        for event in self._snapshot():
            if _is_for(kinds, type(event)):
                self._hand(entry, event)

        return partial(self._remove, entry)

    def wants(self, kind: type[Stamped]) -> bool:
        """Whether an event of this type has an observer; otherwise it need not be built."""
        return bool(self._entries(kind))

    def emit(self, event: _E) -> _E:
        """Stamp an event, publish it, and return the stamped one."""
        stamped = self.stamp(event)
        self.publish(stamped)
        return stamped

    def stamp(self, event: _E) -> _E:
        """Return an event with its number and time; `publish` it afterwards."""
        seq, time = self.number(1)
        return structs.replace(event, seq=seq, time=time)

    def number(self, count: int) -> tuple[int, datetime]:
        """Give the time, and the first of `count` sequence numbers, for events that are stamped together."""
        first = self._seq + 1
        self._seq += count
        return first, self._clock()

    def publish(self, event: Stamped) -> None:
        """Call the observers with a stamped event. One that raises is removed and logged."""
        for entry in self._entries(type(event)):
            self._hand(entry, event)

    def notice(
        self,
        code: str,
        text: str,
        *,
        level: Level = "warning",
        hint: str = "",
        process: str | None = None,
        at_most: int | None = None,
    ) -> None:
        """Emit a `Notice`; with `at_most`, the same one only once, and at most that many with one code."""
        if at_most is not None:
            given = self._given.setdefault(code, set())
            if (text, process) in given or len(given) >= at_most:
                return
            given.add((text, process))
        self.emit(Notice(level=level, code=code, text=text, hint=hint, process=process))

    def _entries(self, kind: type[Stamped]) -> tuple[_Entry, ...]:
        found = self._observers_of.get(kind)
        if found is None:
            found = tuple(entry for entry in self._observers if _is_for(entry[1], kind))
            self._observers_of[kind] = found
        return found

    def _remove(self, entry: _Entry) -> None:
        if entry in self._observers:
            self._observers.remove(entry)
            self._observers_of.clear()

    def _hand(self, entry: _Entry, event: Stamped) -> None:
        try:
            entry[0](cast("Event", event))  # every Stamped is one of the union
        except Exception:
            self._remove(entry)
            logger.exception("An observer of orchestra's events failed and was removed: %r", entry[0])


def _is_for(kinds: tuple[type[Stamped], ...], kind: type[Stamped]) -> bool:
    return issubclass(kind, kinds) if kinds else kind not in ON_REQUEST
