"""What a dashboard in another terminal is told: what has been, then what happens, each once."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

import trio

from orchestra import Plan, ProcessPlan
from orchestra.bus import Bus
from orchestra.dashboard.feed import Quiet, feed
from orchestra.events import OutputLine, RunEnded, decode
from tests.dashboard_kit import READY, STARTED, line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.events import Event

END = RunEnded(exit_code=0, reason="", duration=1.0)
PLAN = Plan(
    processes=(ProcessPlan(name="vite", command="x"), ProcessPlan(name="api", command="x", quiet=True))
)


def shown(part: bytes) -> list[str]:
    events = [decode(each) for each in part.splitlines()]
    return [event.text if isinstance(event, OutputLine) else type(event).__name__ for event in events]


async def test_what_has_been_comes_first_and_nothing_twice(autojump_clock: object) -> None:
    known: list[Event] = []
    bus = Bus(lambda: known[:1])
    known.append(bus.emit(STARTED))
    known.append(bus.emit(line("\x1b[31mred\x1b[0m")))

    async def past() -> Sequence[Event]:
        # It is already listened to: this line is both in the past and news.
        known.append(bus.emit(line("meanwhile")))
        await trio.lowlevel.checkpoint()
        return known

    async with aclosing(feed(bus.subscribe, past, Quiet(PLAN))) as parts:
        assert shown(await anext(parts)) == ["RunStarted", "\x1b[31mred\x1b[0m", "meanwhile"]
        assert shown(await anext(parts)) == []
        bus.emit(line("of a quiet process", "api"))
        bus.emit(line("new"))
        assert shown(await anext(parts)) == ["new"]
        for number in range(10_010):
            bus.emit(line(str(number)))
        bus.emit(READY)
        told = shown(await anext(parts))
        assert (told[0], told[-2:], len(told)) == ("0", ["StateChanged", "Notice"], 10_002)
        bus.emit(END)
        assert [shown(part) for part in [part async for part in parts]] == [["RunEnded"]]
