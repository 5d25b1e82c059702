"""Events for tests: a recorder of them, moments, and a clock for a bus that goes with trio's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol, TypeVar

import trio

from orchestra.events import Event, Notice, OutputLine, StateChanged

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.bus import Observer
    from orchestra.events import State

_E = TypeVar("_E", bound=Event)


def moment(seconds: float) -> datetime:
    """So many seconds after the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


def trio_clock() -> datetime:
    """Trio's time, as if its clock had begun at the epoch."""
    return moment(trio.current_time())


class _Source(Protocol):
    def subscribe(self, observer: Observer) -> Callable[[], None]: ...


class Recorder:
    """Keeps all events of a supervisor or a bus, and waits for the one that a test is about."""

    def __init__(self, source: _Source | None = None) -> None:
        self.events: list[Event] = []
        self._news = trio.Event()
        if source is not None:
            source.subscribe(self)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()
        self._news = trio.Event()

    def of(self, kind: type[_E]) -> list[_E]:
        """All events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    async def until(self, kind: type[_E], is_it: Callable[[_E], bool] = lambda _: True) -> _E:
        """Wait for the first event of a kind that `is_it` accepts; it may have come already."""
        while True:
            for event in self.of(kind):
                if is_it(event):
                    return event
            await self._news.wait()

    async def until_state(self, process: str, state: State, *, restarts: int = 0) -> StateChanged:
        wanted = (process, state, restarts)
        return await self.until(
            StateChanged, lambda event: (event.process, event.state, event.restarts) == wanted
        )

    async def until_line(self, text: str, process: str | None = None) -> OutputLine:
        return await self.until(
            OutputLine, lambda event: event.text == text and process in (None, event.process)
        )

    async def until_notice(self, code: str) -> Notice:
        return await self.until(Notice, lambda event: event.code == code)

    def changes(self, process: str | None = None) -> list[StateChanged]:
        """The events in which a process has entered a state."""
        return [
            event
            for event in self.of(StateChanged)
            if process in (None, event.process) and event.state is not event.previous
        ]

    def states(self, process: str) -> list[State]:
        return [event.state for event in self.changes(process)]

    def when(self, process: str, state: State, *, nth: int = 0) -> float:
        return [event.at for event in self.changes(process) if event.state is state][nth]

    def output(self, process: str) -> list[str]:
        return [event.text for event in self.of(OutputLine) if event.process == process]

    def notices(self) -> list[str]:
        return [event.code for event in self.of(Notice) if event.code != "plan"]
