from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from orchestra.events import (
    InputWanted,
    Notice,
    OutputLine,
    PlanChanged,
    RequestHeads,
    RequestHeld,
    RunEnded,
    State,
    StateChanged,
    StreamClosed,
    StreamOpened,
)
from tests import dashboard_kit as kit
from tests.dashboard_kit import begun, line, model_of
from tests.events_kit import moment

if TYPE_CHECKING:
    from orchestra.events import Event

STARTED = replace(kit.STARTED, time=moment(10.0))
STARTING = StateChanged(time=moment(10.0), process="vite", state=State.STARTING, previous=State.WAITING)
READY = replace(kit.READY, time=moment(11.5))


def test_processes_are_in_the_order_of_the_procfile_and_wait_at_first() -> None:
    model = model_of(STARTED)
    assert [(each.name, each.index, each.state) for each in model.processes.values()] == [
        ("vite", 0, State.WAITING),
        ("api", 1, State.WAITING),
    ]
    assert model.url == "http://127.0.0.1:8000"


def test_processes_come_and_go_and_those_that_stay_keep_their_colour() -> None:
    changed = PlanChanged(reason="Procfile", processes=("db", "vite", "mail"))
    model = model_of(STARTED, READY, line("a"), begun("b", "api"), changed)
    assert [(each.name, each.index, each.state) for each in model.processes.values()] == [
        ("db", 1, State.WAITING),
        ("vite", 0, State.READY),
        ("mail", 2, State.WAITING),
    ]
    assert list(model.processes["vite"].tail) == ["a"]
    assert model.paused == {}
    assert list(model.log)[-1] is changed
    assert model.overall().text == "starting 1/3"


def test_uptime_counts_from_the_spawn_and_a_state_from_its_change() -> None:
    model = model_of(
        STARTED, STARTING, replace(STARTING, time=moment(10.25), previous=State.STARTING, pid=7), READY
    )
    vite = model.processes["vite"]
    assert vite.newest is READY
    assert (vite.started_at, vite.since) == (10.25, 11.5)
    assert vite.uptime(20.25) == 10.0


def test_a_process_that_was_ready_before_we_came_tells_its_uptime() -> None:
    model = model_of(STARTED, replace(READY, previous=State.READY))
    assert model.processes["vite"].started_at == 10.0


def test_a_process_that_has_ended_has_no_uptime() -> None:
    failed = replace(READY, time=moment(13.0), state=State.FAILED, pid=None, port=None, url=None, exit_code=3)
    vite = model_of(STARTED, READY, failed).processes["vite"]
    assert vite.uptime(20.0) is None
    assert vite.newest is failed


def test_a_restart_begins_a_new_uptime() -> None:
    again = replace(STARTING, time=moment(20.0), previous=State.BACKING_OFF, pid=8, restarts=1)
    vite = model_of(STARTED, READY, again).processes["vite"]
    assert (vite.started_at, vite.newest.restarts) == (20.0, 1)


def test_every_event_counts_as_a_new_version() -> None:
    events: list[Event] = [STARTED, STARTING, line("a"), kit.REQUEST]
    model = model_of()
    versions = []
    for event in events:
        model.apply(event)
        versions.append(model.version)
    assert versions == [1, 2, 3, 4]


def test_memory_is_bounded() -> None:
    model = model_of(STARTED)
    for index in range(3000):
        model.apply(line("x" * 10_000 if index > 2990 else str(index)))
        model.apply(replace(kit.REQUEST, id=index))
        model.apply(Notice(time=moment(1.0), level="error", code="c", text=str(index)))
        model.apply(StreamOpened(time=moment(1.0), id=index, kind="hmr", target="/", upstream="frontend"))
    assert (len([*model.log]), model.log.count) == (6000, 6000)
    assert len(model.requests.streams) == 1000
    assert (model.requests.count, len(model.requests.groups)) == (3000, 1)
    assert len(model.requests.groups[0].members) == 50
    assert max(len(entry.text) for entry in model.log if isinstance(entry, OutputLine)) == 4096


def test_the_last_lines_of_a_process_stay_when_the_log_is_full_of_others() -> None:
    last_words = [line(text, "api") for text in ("Traceback", "last words")]
    failed = replace(READY, process="api", state=State.FAILED)
    model = model_of(STARTED, *last_words, failed, *(line(str(index)) for index in range(3000)))
    assert list(model.processes["api"].tail) == ["Traceback", "last words"]
    assert list(model.processes["vite"].tail) == [str(index) for index in range(2990, 3000)]


def test_the_last_lines_are_those_of_the_newest_child() -> None:
    failed = replace(READY, state=State.FAILED, pid=None)
    again = replace(STARTING, restarts=1)
    model = model_of(STARTED, STARTING, line("before"), failed, again, line("after"), failed)
    assert list(model.processes["vite"].tail) == ["after"]


def test_streams_are_known_while_they_are_open() -> None:
    opened = StreamOpened(time=moment(1.0), id=4, kind="websocket", target="/ws", upstream="backend")
    closed = StreamClosed(
        time=moment(2.0),
        id=4,
        kind="websocket",
        target="/ws",
        upstream="backend",
        code=1001,
        duration=1.0,
        bytes_in=1,
        bytes_out=1,
    )
    assert list(model_of(opened).requests.streams) == [4]
    assert not model_of(opened, closed).requests.streams


def test_what_pages_ask_of_orchestra_is_shown_only_if_it_fails() -> None:
    asked = replace(kit.REQUEST, target="/__orchestra__/client.js", upstream="orchestra")
    refused = replace(asked, status=403)
    live = StreamOpened(id=5, kind="websocket", target="/__orchestra__/live", upstream="orchestra")
    model = model_of(STARTED, asked, live, refused)
    assert [each.newest for each in model.requests.groups] == [refused]
    assert (model.requests.count, model.requests.streams, model.requests.tabs) == (1, {}, {5: live})


def test_notices_and_changes_are_in_the_log_among_the_lines() -> None:
    notice = Notice(time=moment(1.0), level="info", code="c", text="t")
    model = model_of(STARTED, STARTING, line("a"), notice, READY)
    assert list(model.log) == [STARTING, line("a"), notice, READY]
    assert model.warning is None  # an info needs no attention


@pytest.mark.parametrize(
    ("vite", "api", "worst", "text"),
    [
        (State.STARTING, State.WAITING, State.STARTING, "starting 0/2"),
        (State.READY, State.STARTING, State.STARTING, "starting 1/2"),
        (State.READY, State.RUNNING, State.RUNNING, "running"),
        (State.READY, State.COMPLETED, State.READY, "ready in 1.5 s"),
        (State.READY, State.BACKING_OFF, State.BACKING_OFF, "api is down"),
        (State.UNHEALTHY, State.BACKING_OFF, State.BACKING_OFF, "vite and api are down"),
        (State.READY, State.FAILED, State.FAILED, "api failed"),
        (State.BACKING_OFF, State.FAILED, State.FAILED, "api failed"),
        (State.STOPPING, State.FAILED, State.STOPPING, "stopping"),
        (State.READY, State.STOPPED, State.STOPPED, "api stopped"),
        (State.STARTING, State.STOPPED, State.STARTING, "starting 0/2"),
    ],
)
def test_the_run_is_as_well_as_its_worst_process(vite: State, api: State, worst: State, text: str) -> None:
    model = model_of(
        STARTED,
        replace(READY, state=vite, previous=State.WAITING),
        replace(READY, process="api", state=api, previous=State.WAITING),
    )
    assert model.overall() == (worst, text)


def test_the_time_to_readiness_is_that_of_the_first_time() -> None:
    model = model_of(STARTED, READY, replace(READY, process="api", time=moment(12.0)))
    model.apply(replace(READY, time=moment(30.0), state=State.STARTING, previous=State.BACKING_OFF))
    assert model.overall().text == "restarting 1/2"
    model.apply(replace(READY, time=moment(31.0)))
    assert model.overall().text == "ready in 2.0 s"


def test_the_end_says_its_reason() -> None:
    model = model_of(STARTED, RunEnded(time=moment(20.0), exit_code=0, reason="all completed", duration=10.0))
    assert model.overall() == (State.STOPPED, "all completed")


@pytest.mark.parametrize("size", [(80, 24), (200, 50)])
def test_what_a_model_tells_of_the_past_makes_another_one_like_it(size: tuple[int, int]) -> None:
    shown, now = kit.sample()
    waits = RequestHeld(
        time=moment(now), id=60, method="GET", target="/a", upstream="backend", reason="api starts"
    )
    shown.apply(replace(waits, seq=100))
    shown.apply(replace(kit.begun("(Pdb) ", "api"), seq=101))
    shown.apply(InputWanted(time=moment(now - 2.0), seq=102, process="api", prompt="(Pdb)"))
    shown.apply(RequestHeads(seq=103, id=60, request=("User-Agent: curl/8",), answer=()))
    again = model_of(*shown.past())
    width, height = size
    assert kit.picture(again, now=now, width=width, height=height) == kit.picture(
        shown, now=now, width=width, height=height
    )
    assert " api waits for input at '(Pdb)': press i" in kit.picture(again, now=now)
    assert any("/a  waits: api starts" in row for row in kit.picture(again, "t", now=now))
    assert "   User-Agent: curl/8" in kit.picture(again, "t", "j", "enter", now=now)


def test_a_partial_line_is_kept_until_complete_or_taken_back() -> None:
    model = model_of(STARTED, begun("10%"), begun("Name? ", "api"), begun("20%"))
    assert [each.text for each in model.paused.values()] == ["Name? ", "20%"]
    model.apply(line("Name? Ada", "api"))
    assert [each.text for each in model.paused.values()] == ["20%"]
    model.apply(begun(""))
    assert not model.paused
    assert [each.text for each in model.log if isinstance(each, OutputLine)] == ["Name? Ada"]


def test_a_partial_line_is_not_completed_by_the_other_stream() -> None:
    model = model_of(STARTED, begun("Name? "), replace(line("a warning"), stream="stderr"))
    assert [each.text for each in model.paused.values()] == ["Name? "]


def test_a_partial_line_that_becomes_blank_is_gone() -> None:
    """A progress bar that clears itself, after a blank line: which is the second one, and not kept."""
    model = model_of(STARTED, line(""), begun("10%"), line(""))
    assert not model.paused


def test_of_many_blank_lines_one_is_shown() -> None:
    blank = [line(""), line("  \t"), line("\x1b[2m\x1b[0m")]
    model = model_of(STARTED, line("a"), *blank, line("b"), line("", "api"), *blank)
    shown = [(each.process, each.text) for each in model.log if isinstance(each, OutputLine)]
    assert shown == [("vite", "a"), ("vite", ""), ("vite", "b"), ("api", ""), ("vite", "")]


def test_past_events_contain_the_lines_of_a_quiet_process() -> None:
    """Its last lines are shown here after a loud one has filled the log, and so in another terminal."""
    model = model_of(STARTED, line("hello", "worker"), *(line(str(each)) for each in range(10_000)))
    assert line("hello", "worker") in model.past()
