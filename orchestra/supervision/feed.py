"""Events as something to iterate over: ``async for event in supervisor.events()``.

The bus never waits, so a slow reader loses the oldest events, and is told how many.

Not here: what events mean.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import trio

from orchestra.events import Notice
from orchestra.supervision.graceful import wait_any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from orchestra.events import Bus, Event

__all__ = ["LIMIT", "feed"]

# Events that may wait for the reader: some seconds of a loud child. A later reader wants the newest.
LIMIT = 10_000


async def feed(bus: Bus, is_over: trio.Event, *, limit: int = LIMIT) -> AsyncGenerator[Event, None]:
    """Give all events from now on, after a snapshot, until the end.

    Args:
        bus: Where they come from.
        is_over: Is set when no more will come.
        limit: How many events may wait to be read; then the oldest is dropped, and a `Notice` of the code
            ``events-lost`` takes the place of what was lost.
    """
    waiting: deque[Event] = deque()
    news = trio.Event()
    lost = 0

    def take(event: Event) -> None:
        nonlocal lost
        waiting.append(event)
        if len(waiting) > limit:
            waiting.popleft()
            lost += 1
        news.set()

    unsubscribe = bus.subscribe(take)
    try:
        while True:
            if lost:
                text, count = f"{lost} events were lost: they were not read in time", lost
                lost -= count
                yield bus.stamp(Notice(level="warning", code="events-lost", text=text))
            if waiting:
                yield waiting.popleft()
                continue
            if is_over.is_set():
                return
            news = trio.Event()
            await wait_any(news, is_over)
    finally:
        unsubscribe()
