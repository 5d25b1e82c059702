"""Which events are shown to people: events of quiet processes, and events for another terminal.

The output of quiet processes is kept everywhere, but not shown as it comes. Their changes of state are shown
as usual, and when one fails or does not start, so are its last lines.

A dashboard in another terminal gets the events of the past, and then all new ones, as JSON lines. As in a
recording, lines have their colours, and unfinished lines are included; so are, other than there, the heads of
requests. New events wait until the past ones are sent; an event that is in both is sent once.

Not here: how events get there (`control/app`), showing them (`showing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import trio

from orchestra.bus import utc_now
from orchestra.events import (
    Event,
    InputWanted,
    Notice,
    OutputLine,
    OutputPaused,
    RunEnded,
    StateChanged,
    StreamClosed,
    StreamOpened,
    encode_lines,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence

    from orchestra.config.plan import Plan

__all__ = ["Ongoing", "Quiet", "feed"]


class Quiet:
    """Decides which events people are shown: lines of the processes in `names` are not shown."""

    def __init__(self, plan: Plan) -> None:
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """Use another plan from now on."""
        self.names = frozenset(each.name for each in plan.processes if each.quiet)

    def shown(self, event: Event) -> Iterator[Event]:
        """Give the events to show for one: none, itself, or itself after the lines that explain it."""
        if not isinstance(event, OutputLine | OutputPaused | StateChanged) or event.process not in self.names:
            yield event
        elif isinstance(event, StateChanged):
            for text in event.last_lines if event.state is not event.previous else ():
                yield OutputLine(
                    process=event.process, stream="stdout", text=text, time=event.time, seq=event.seq
                )
            yield event


# Events that may wait for a reader, and how many of them may be lines: some seconds of a loud process. If
# other events were lost, the picture would be wrong.
_MOST_WAITING, _MOST_LINES = 100_000, 10_000
# Seconds for which events are collected: a dashboard draws at 10 Hz.
_INTERVAL = 0.05
# Seconds between two notices of lost lines.
_NOTICE_INTERVAL = 10.0


class Ongoing:
    """The open prompts and streams of a run that has no dashboard of its own.

    Attributes:
        kinds: The types of event that `observe` is for.
    """

    kinds = (OutputPaused, InputWanted, StreamOpened, StreamClosed)

    def __init__(self) -> None:
        self._events: dict[object, Event] = {}

    def observe(self, event: Event) -> None:
        """Take an event from the bus."""
        match event:
            case OutputPaused():
                self.completed(event)
                if event.text:
                    self._events[event.process, event.stream] = event
            case InputWanted():
                self._events[event.process] = event
            case StreamOpened():
                self._events[event.id] = event
            case StreamClosed():
                self._events.pop(event.id, None)
            case _:
                pass

    def completed(self, line: OutputLine | OutputPaused) -> None:
        """Take note that an unfinished line was completed."""
        self._events.pop((line.process, line.stream), None)

    def past(self) -> list[Event]:
        """Give the events from which another terminal can restore this state."""
        return list(self._events.values())


async def feed(
    subscribe: Callable[..., Callable[[], None]], past: Callable[[], Awaitable[Sequence[Event]]], quiet: Quiet
) -> AsyncGenerator[bytes, None]:
    """Give a new reader the `past` events and all new ones, in whole lines, until the run has ended."""
    waiting: list[Event] = []
    news, lost, next_notice = trio.lowlevel.ParkingLot(), 0, 0.0

    def take(event: Event) -> None:
        nonlocal lost
        for each in quiet.shown(event):
            most = _MOST_LINES if isinstance(each, OutputLine) else _MOST_WAITING
            if len(waiting) < most:
                waiting.append(each)
            else:
                lost += 1
        news.unpark_all()

    unsubscribe = subscribe(take, *get_args(Event))
    try:
        known = await past()
        yield encode_lines(known)
        seen = {event.seq for event in known}
        while True:
            batch = [event for event in waiting if event.seq not in seen]
            waiting.clear()
            if lost and trio.current_time() >= next_notice:
                next_notice = trio.current_time() + _NOTICE_INTERVAL
                text, lost = f"{lost:,} lines were too many for this terminal", 0
                batch.append(Notice(time=utc_now(), level="warning", code="lines-lost", text=text))
            yield encode_lines(batch)
            if any(isinstance(event, RunEnded) for event in batch):
                return
            await trio.sleep(_INTERVAL)
            if not waiting:
                await news.park()
    finally:
        unsubscribe()
