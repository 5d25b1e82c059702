from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from orchestra.events import Bus, Event, Notice

if TYPE_CHECKING:
    import pytest


def a_notice(text: str) -> Notice:
    return Notice(at=0.0, level="info", code="test", text=text)


def test_every_observer_sees_every_event_in_order() -> None:
    bus, first, second = Bus(), list[Event](), list[Event]()
    bus.subscribe(first.append)
    bus.subscribe(second.append)
    events = [a_notice("a"), a_notice("b")]
    for event in events:
        bus.emit(event)
    assert first == second == events


def test_a_new_observer_is_brought_up_to_date_before_it_sees_anything_new() -> None:
    seen: list[Event] = []
    bus = Bus(lambda: [a_notice("so far")])
    bus.subscribe(seen.append)
    bus.emit(a_notice("new"))
    assert seen == [a_notice("so far"), a_notice("new")]


def test_an_observer_that_raises_is_dropped_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    bus, seen, calls = Bus(), list[Event](), list[Event]()

    def broken(event: Event) -> None:
        calls.append(event)
        raise ValueError

    bus.subscribe(broken)
    bus.subscribe(seen.append)
    with caplog.at_level(logging.ERROR):
        bus.emit(a_notice("a"))
        bus.emit(a_notice("b"))
    assert len(calls) == 1
    assert len(seen) == 2
    assert "dropped" in caplog.text


def test_unsubscribing_twice_does_no_harm() -> None:
    bus, seen = Bus(), list[Event]()
    unsubscribe = bus.subscribe(seen.append)
    unsubscribe()
    unsubscribe()
    bus.emit(a_notice("a"))
    assert seen == []
