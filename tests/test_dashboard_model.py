from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from orchestra.dashboard.model import PALETTE, Model, Phase, colour_number, sentence, short_seconds
from orchestra.events import (
    Notice,
    OutputLine,
    OutputPaused,
    RequestFinished,
    RunEnded,
    RunStarted,
    State,
    StateChanged,
    StreamClosed,
    StreamOpened,
)
from tests.events_kit import moment

if TYPE_CHECKING:
    from orchestra.events import Event

STARTED = RunStarted(
    time=moment(10.0),
    version="1",
    pid=1,
    procfile="Procfile",
    url="http://127.0.0.1:8000",
    processes=("vite", "api"),
)
REQUEST = RequestFinished(
    time=moment(12.0),
    id=1,
    method="GET",
    target="/",
    status=200,
    upstream="backend",
    reason="",
    held=0.0,
    first_byte=0.1,
    duration=0.1,
    bytes_in=0,
    bytes_out=1,
    outcome="complete",
)
STARTING = StateChanged(time=moment(10.0), process="vite", state=State.STARTING, previous=State.WAITING)
READY = StateChanged(
    time=moment(11.5),
    process="vite",
    state=State.READY,
    previous=State.STARTING,
    pid=7,
    port=5173,
    url="http://[::1]:5173",
    ready_after=1.5,
)


def line(text: str, process: str = "vite") -> OutputLine:
    return OutputLine(time=moment(11.0), process=process, stream="stdout", text=text)


def begun(text: str, process: str = "vite") -> OutputPaused:
    return OutputPaused(time=moment(11.0), process=process, stream="stdout", text=text)


def model_of(*events: Event) -> Model:
    model = Model()
    for event in events:
        model.apply(event)
    return model


def test_processes_are_in_the_order_of_the_procfile_and_wait_at_first() -> None:
    model = model_of(STARTED)
    assert [(each.name, each.index, each.state) for each in model.processes.values()] == [
        ("vite", 0, State.WAITING),
        ("api", 1, State.WAITING),
    ]
    assert model.url == "http://127.0.0.1:8000"


def test_a_process_counts_its_uptime_from_the_spawn_and_its_state_from_the_change() -> None:
    model = model_of(
        STARTED, STARTING, replace(STARTING, time=moment(10.25), previous=State.STARTING, pid=7), READY
    )
    vite = model.processes["vite"]
    assert (vite.pid, vite.port, vite.url, vite.ready_after) == (7, 5173, "http://[::1]:5173", 1.5)
    assert (vite.started_at, vite.since) == (10.25, 11.5)
    assert vite.uptime(20.25) == 10.0


def test_a_process_that_was_ready_before_we_came_tells_its_uptime() -> None:
    model = model_of(STARTED, replace(READY, previous=State.READY))
    assert model.processes["vite"].started_at == 10.0


def test_a_process_that_has_ended_has_no_uptime_and_says_why() -> None:
    failed = replace(READY, time=moment(13.0), state=State.FAILED, pid=None, port=None, url=None, exit_code=3)
    vite = model_of(STARTED, READY, failed).processes["vite"]
    assert vite.uptime(20.0) is None
    assert vite.outcome() == "exit code 3"


def test_a_restart_begins_a_new_uptime() -> None:
    again = replace(STARTING, time=moment(20.0), previous=State.BACKING_OFF, pid=8, restarts=1)
    vite = model_of(STARTED, READY, again).processes["vite"]
    assert (vite.started_at, vite.restarts, vite.ready_after) == (20.0, 1, None)


def test_every_event_counts_as_a_new_version() -> None:
    events: list[Event] = [STARTED, STARTING, line("a"), REQUEST]
    model = Model()
    versions = []
    for event in events:
        model.apply(event)
        versions.append(model.version)
    assert versions == [1, 2, 3, 4]


def test_memory_is_bounded() -> None:
    model = model_of(STARTED)
    for index in range(3000):
        model.apply(line("x" * 10_000 if index > 2990 else str(index)))
        model.apply(replace(REQUEST, id=index))
        model.apply(Notice(time=moment(1.0), level="error", code="c", text=str(index)))
        model.apply(StreamOpened(time=moment(1.0), id=index, kind="hmr", target="/", upstream="frontend"))
    assert (len(model.log), len(model.requests), len(model.notices)) == (2000, 200, 20)
    assert len(model.streams) == 1000
    assert (model.line_count, model.request_count) == (3000, 3000)
    assert max(len(entry.text) for entry in model.log if isinstance(entry, OutputLine)) == 4096


def test_a_loud_process_does_not_push_out_the_last_words_of_another_one() -> None:
    model = model_of(STARTED, line("last words", "api"), *(line(str(index)) for index in range(3000)))
    assert [each.text for each in model.processes["api"].tail] == ["last words"]


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
    assert list(model_of(opened).streams) == [4]
    assert not model_of(opened, closed).streams


def test_notices_and_changes_are_in_the_log_among_the_lines() -> None:
    notice = Notice(time=moment(1.0), level="info", code="c", text="t")
    model = model_of(STARTED, STARTING, line("a"), notice, READY)
    assert list(model.log) == [STARTING, line("a"), notice, READY]
    assert not model.notices  # an info needs no attention


@pytest.mark.parametrize(
    ("vite", "api", "phase", "text"),
    [
        (State.STARTING, State.WAITING, Phase.STARTING, "starting 0/2"),
        (State.READY, State.STARTING, Phase.STARTING, "starting 1/2"),
        (State.READY, State.RUNNING, Phase.READY, "ready in 1.5 s"),
        (State.READY, State.COMPLETED, Phase.READY, "ready in 1.5 s"),
        (State.READY, State.BACKING_OFF, Phase.TROUBLE, "api is down"),
        (State.UNHEALTHY, State.BACKING_OFF, Phase.TROUBLE, "vite and api are down"),
        (State.READY, State.FAILED, Phase.FAILED, "api failed"),
        (State.BACKING_OFF, State.FAILED, Phase.FAILED, "api failed"),
        (State.STOPPING, State.FAILED, Phase.STOPPING, "stopping"),
    ],
)
def test_the_run_is_as_well_as_its_worst_process(vite: State, api: State, phase: Phase, text: str) -> None:
    model = model_of(
        STARTED,
        replace(READY, state=vite, previous=State.WAITING),
        replace(READY, process="api", state=api, previous=State.WAITING),
    )
    assert (model.overall().phase, model.overall().text) == (phase, text)


def test_the_time_to_readiness_is_that_of_the_first_time() -> None:
    model = model_of(STARTED, READY, replace(READY, process="api", time=moment(12.0)))
    model.apply(replace(READY, time=moment(30.0), state=State.STARTING, previous=State.BACKING_OFF))
    assert model.overall().text == "restarting 1/2"
    model.apply(replace(READY, time=moment(31.0)))
    assert model.overall().text == "ready in 2.0 s"


def test_the_end_says_its_reason() -> None:
    model = model_of(STARTED, RunEnded(time=moment(20.0), exit_code=0, reason="all completed", duration=10.0))
    assert (model.overall().phase, model.overall().text) == (Phase.ENDED, "all completed")


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (STARTED, "http://127.0.0.1:8000"),
        (replace(STARTED, url=None), ""),
        (STARTING, "vite starts"),
        (replace(STARTING, restarts=1), "vite starts again"),
        (replace(STARTING, previous=State.STARTING), ""),
        (READY, "vite is ready in 1.5 s at http://[::1]:5173"),
        (
            replace(READY, state=State.BACKING_OFF, reason="exit code 1; again in 0.5 s"),
            "vite ended: exit code 1; again in 0.5 s",
        ),
        (replace(READY, state=State.FAILED, signal="SIGKILL"), "vite failed: killed by SIGKILL"),
        (replace(READY, state=State.COMPLETED, exit_code=0), "vite completed: exit code 0"),
        (replace(READY, state=State.COMPLETED), "vite completed"),
        (replace(READY, state=State.RUNNING), "vite runs (pid 7)"),
        (replace(READY, state=State.INSTALLING, reason="npm ci"), "vite is being installed: npm ci"),
        (
            replace(READY, state=State.UNHEALTHY, previous=State.READY),
            "vite does not answer any more",
        ),
        (replace(READY, state=State.UNHEALTHY, reason="oh"), "vite does not come up: oh"),
        (replace(READY, state=State.STOPPING), "vite is being stopped"),
        (replace(READY, state=State.STOPPED), "vite stopped"),
        (replace(READY, state=State.WAITING), ""),
        (
            Notice(time=moment(1.0), level="warning", code="c", text="slow", process="api", hint="wait"),
            "warning: api: slow (wait)",
        ),
        (RunEnded(time=moment(1.0), exit_code=0, reason="quit", duration=5.21), "ended after 5.2 s: quit"),
        (line("x"), ""),
        (REQUEST, ""),
    ],
)
def test_an_event_in_words(event: Event, words: str) -> None:
    assert sentence(event) == words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0 ms"),
        (0.0, "0 ms"),
        (0.0042, "4 ms"),
        (0.0994, "99 ms"),
        (0.0996, "0.1 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (60.0, "1m 00s"),
        (187.0, "3m 07s"),
        (3600.0 * 2 + 60 * 15, "2h 15m"),
        (86400.0 * 4 + 3600 * 3, "4d 03h"),
    ],
)
def test_a_duration_as_people_read_it(seconds: float, text: str) -> None:
    assert short_seconds(seconds) == text


def _luminance(number: int) -> float:
    """The relative luminance of a colour of the 6 x 6 x 6 cube (WCAG 2.2)."""
    cube = number - 16
    levels = [0 if each == 0 else (55 + 40 * each) / 255 for each in (cube // 36, cube // 6 % 6, cube % 6)]
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in levels
    )
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


@pytest.mark.parametrize("number", PALETTE)
def test_the_colours_of_processes_can_be_read_on_white_and_on_a_dark_background(number: int) -> None:
    white, dark = 1.0, 0.013
    luminance = _luminance(number)
    assert (white + 0.05) / (luminance + 0.05) >= 3
    assert (luminance + 0.05) / (dark + 0.05) >= 3


def test_colours_repeat_when_there_are_more_processes() -> None:
    assert colour_number(0) == colour_number(len(PALETTE)) != colour_number(1)


def test_a_begun_line_is_kept_until_it_is_whole_or_taken_back() -> None:
    model = model_of(STARTED, begun("10%"), begun("Name? ", "api"), begun("20%"))
    assert [each.text for each in model.paused.values()] == ["Name? ", "20%"]
    model.apply(line("Name? Ada", "api"))
    assert [each.text for each in model.paused.values()] == ["20%"]
    model.apply(begun(""))
    assert not model.paused
    assert [each.text for each in model.log if isinstance(each, OutputLine)] == ["Name? Ada"]


def test_a_begun_line_of_one_stream_is_not_completed_by_the_other_one() -> None:
    model = model_of(STARTED, begun("Name? "), replace(line("a warning"), stream="stderr"))
    assert [each.text for each in model.paused.values()] == ["Name? "]


def test_a_begun_line_that_becomes_a_blank_one_is_gone() -> None:
    """A progress bar that clears itself, after a blank line: which is the second one, and not kept."""
    model = model_of(STARTED, line(""), begun("10%"), line(""))
    assert not model.paused


def test_of_many_blank_lines_one_is_shown() -> None:
    blank = [line(""), line("  \t"), line("\x1b[2m\x1b[0m")]
    model = model_of(STARTED, line("a"), *blank, line("b"), line("", "api"), *blank)
    shown = [(each.process, each.text) for each in model.log if isinstance(each, OutputLine)]
    assert shown == [("vite", "a"), ("vite", ""), ("vite", "b"), ("api", ""), ("vite", "")]
    assert model.line_count == 9
