from __future__ import annotations

import logging

import pytest
from msgspec.structs import replace

from orchestra.bus import Bus
from orchestra.events import (
    Event,
    Notice,
    OutputLine,
    PlanChanged,
    RunEnded,
    RunStarted,
    State,
    StateChanged,
    decode,
    encode,
)
from tests.events_kit import moment


def a_notice(text: str) -> Notice:
    return Notice(level="info", code="test", text=text)


def test_every_observer_sees_every_event_in_order() -> None:
    bus, first, second = Bus(), list[Event](), list[Event]()
    bus.subscribe(first.append)
    bus.subscribe(second.append)
    events = [bus.emit(a_notice("a")), bus.emit(a_notice("b"))]
    assert first == second == events


def test_a_new_observer_gets_the_snapshot_before_new_events() -> None:
    seen: list[Event] = []
    bus = Bus(lambda: [a_notice("so far")])
    bus.subscribe(seen.append)
    new = bus.emit(a_notice("new"))
    assert seen == [a_notice("so far"), new]


def test_an_observer_that_raises_is_removed_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
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
    assert "removed" in caplog.text


def test_unsubscribing_twice_does_no_harm() -> None:
    bus, seen = Bus(), list[Event]()
    unsubscribe = bus.subscribe(seen.append)
    unsubscribe()
    unsubscribe()
    bus.emit(a_notice("a"))
    assert seen == []


def test_the_bus_stamps_the_number_and_the_time() -> None:
    bus = Bus(clock=lambda: moment(7))
    bus.emit(a_notice("a"))
    event = bus.emit(a_notice("b"))
    assert (event.seq, event.time, event.at) == (2, moment(7), 7.0)


def test_an_observer_may_ask_for_some_kinds_only() -> None:
    bus, seen = Bus(), list[Event]()
    assert not bus.wants(Notice)
    bus.subscribe(seen.append, RunEnded)
    assert not bus.wants(Notice)
    assert bus.wants(RunEnded)
    bus.emit(a_notice("a"))
    ended = bus.emit(RunEnded(exit_code=0, reason="quit", duration=1.0))
    assert seen == [ended]


def test_a_notice_may_be_given_once_only() -> None:
    bus, seen = Bus(), list[Event]()
    bus.subscribe(seen.append, Notice)
    for process in ("a", "a", "b", "c"):
        bus.notice("reloads", "it reloads itself", process=process, at_most=2)
    bus.notice("other", "it reloads itself", process="a", at_most=2)
    bus.notice("other", "it reloads itself", process="a")
    told = [(each.code, each.process) for each in seen if isinstance(each, Notice)]
    assert told == [("reloads", "a"), ("reloads", "b"), ("other", "a"), ("other", "a")]


@pytest.mark.parametrize(
    "event",
    [
        RunStarted(version="1", pid=2, procfile="/p/Procfile", url=None, processes=("a", "b")),
        StateChanged(
            process="a", state=State.BACKING_OFF, previous=State.STARTING, exit_code=1, last_lines=("x", "y")
        ),
        OutputLine(process="a", stream="stderr", text="naïve ✓ \u2028"),
        Notice(level="error", code="c", text="t", hint="h", process="a"),
        PlanChanged(reason="Procfile", processes=("a",), started=("a",), stopped=("b",)),
        RunEnded(exit_code=3, reason="r", duration=1.5),
    ],
    ids=lambda event: type(event).__name__,
)
def test_a_recorded_line_reads_as_the_event_that_it_was(event: Event) -> None:
    stamped = Bus().stamp(event)
    line = encode(stamped)
    assert b"\n" not in line
    assert decode(line) == stamped


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (State.STARTING, "is starting"),
        (State.INSTALLING, "is being installed"),
        (State.BACKING_OFF, "has ended"),
        (State.FAILED, "has failed"),
        (State.STOPPED, "has stopped"),
    ],
)
def test_a_state_has_words_for_a_sentence(state: State, words: str) -> None:
    assert state.predicate == words


def test_a_path_that_is_not_utf_8_can_be_recorded() -> None:
    event = RunStarted(version="1", pid=2, procfile="/p/\udcff", url=None, processes=())
    assert decode(encode(event)) == replace(event, procfile="/p/?")
