# ruff: noqa: E501 - a picture is as wide as the screen that it shows
from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console

from orchestra.dashboard.model import Model
from orchestra.dashboard.view import Dashboard, Footer, Header, Log, ProcessTable, Requests, Summary
from orchestra.events import (
    Notice,
    OutputLine,
    RequestFinished,
    RunEnded,
    RunStarted,
    State,
    StateChanged,
    StreamClosed,
    StreamOpened,
)
from tests import dashboard_kit as kit
from tests.dashboard_kit import REQUEST, STARTED, line, sample
from tests.events_kit import moment

if TYPE_CHECKING:
    from rich.console import RenderableType

    from orchestra.events import Event


def drawn(renderable: RenderableType, width: int, height: int | None = None) -> list[str]:
    """Draw without colours; spaces at the ends of lines are left out."""
    console = Console(file=io.StringIO(), width=width, color_system=None, legacy_windows=False, _environ={})
    console.print(renderable, height=height)
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().split("\n")
    assert lines.pop() == ""
    return [line.rstrip() for line in lines]


def coloured(renderable: RenderableType, width: int = 80, height: int | None = None) -> str:
    """Draw with colours, as the escape sequences that a terminal would get."""
    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=True,
        color_system="256",
        no_color=False,
        legacy_windows=False,
        _environ={},
    )
    console.print(renderable, height=height)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def model_of(*events: Event, names: tuple[str, ...] = ("vite", "api")) -> Model:
    return kit.model_of(replace(STARTED, processes=names), *events)


def change(state: State, process: str = "vite", *, reason: str = "", pid: int | None = None) -> StateChanged:
    return StateChanged(
        time=moment(1.0), process=process, state=state, previous=State.WAITING, reason=reason, pid=pid
    )


# What `sample` looks like, without colours. Changed on purpose? Look at it first.
GOLDEN = {
    (80, 24): """
 orchestra  http://127.0.0.1:8000                               ✗ worker failed

   process  state                pid    port    uptime   restarts
 ● vite     ready 0.8 s        41232    5173    3m 07s          0
 ● api      ready 1.2 s        41233    5001    3m 07s          1
 ✗ worker   failed           exit code 1; given up after 5 restarts
 ● mail     running            41235            3m 07s          0

 ── log ───────────────────────────────────────────────────────────────────────
 api       │ 127.0.0.1 - "GET /api/notes 1.1" 200
 api       │ 127.0.0.1 - "POST /api/notes 1.1" 201
 api       │ 127.0.0.1 - "GET /api/notes/7 1.1" 404
 api       │ 127.0.0.1 - "GET /api/report?from=2024-01-01&to=2024-12-31 1.1"
           │ 500
 api       │ 127.0.0.1 - "DELETE /api/notes/3 1.1" 204
 api       │ 127.0.0.1 - "GET /about 1.1" 200
 vite      │ 10:12:31 [vite] (client) hmr update /src/style.css

 ── requests ────────────────────────────────────── 9 so far, 2 streams open ──
 500  GET      0.2 s  backend    /api/report?from=2024-01-01&to=2024-12-31
 204  DELETE    4 ms  backend    /api/notes/3
 200  GET       9 ms  backend    /about

 q quit   r retry            warning: port 5000 was taken, vite listens on 5173
""",
    (120, 40): """
 orchestra  http://127.0.0.1:8000                                                                       ✗ worker failed

   process  state                pid    port    uptime   restarts
 ● vite     ready 0.8 s        41232    5173    3m 07s          0
 ● api      ready 1.2 s        41233    5001    3m 07s          1
 ✗ worker   failed           exit code 1; given up after 5 restarts
 ● mail     running            41235            3m 07s          0

 ── log ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
 orchestra │ api starts
 orchestra │ worker starts
 orchestra │ mail starts
 orchestra │ mail runs (pid 41235)
 vite      │   VITE v8.3.0  ready in 312 ms
 vite      │   ➜  Local:   http://localhost:5173/
 orchestra │ vite is ready in 0.8 s at http://[::1]:5173
 worker    │ connecting to redis://127.0.0.1:6379
 worker    │ ConnectionError: [Errno 111] Connection refused
 orchestra │ worker failed: exit code 1; given up after 5 restarts
 api       │ [INFO] Running on http://127.0.0.1:5001 (CTRL + C to quit)
 orchestra │ api is ready in 1.2 s at http://127.0.0.1:5001
 orchestra │ warning: port 5000 was taken, vite listens on 5173
 api       │ 127.0.0.1 - "GET /api/notes 1.1" 200
 api       │ 127.0.0.1 - "POST /api/notes 1.1" 201
 api       │ 127.0.0.1 - "GET /api/notes/7 1.1" 404
 api       │ 127.0.0.1 - "GET /api/report?from=2024-01-01&to=2024-12-31 1.1" 500
 api       │ 127.0.0.1 - "DELETE /api/notes/3 1.1" 204
 api       │ 127.0.0.1 - "GET /about 1.1" 200
 vite      │ 10:12:31 [vite] (client) hmr update /src/style.css

 ── requests ────────────────────────────────────────────────────────────────────────────── 9 so far, 2 streams open ──
 304  GET       2 ms  frontend   /src/style.css
 200  GET      1.3 s  backend    /api/notes  held 1.3 s
 201  POST      6 ms  backend    /api/notes
 404  GET       3 ms  backend    /api/notes/7
 500  GET      0.2 s  backend    /api/report?from=2024-01-01&to=2024-12-31
 204  DELETE    4 ms  backend    /api/notes/3
 200  GET       9 ms  backend    /about

 q quit   r retry                                                    warning: port 5000 was taken, vite listens on 5173
""",
    (40, 10): """
 http://127.0.0.1:8000  ✗ worker failed
   process  state             port
 ● vite     ready 0.8 s       5173
 ● api      ready 1.2 s       5001
 ✗ worker   failed           exit code …
 ● mail     running
          │ 1.1" 200
 vite     │ 10:12:31 [vite] (client)
          │ hmr update /src/style.css
 q quit   r retry   warning: port 5000…
""",
}


@pytest.mark.parametrize(("width", "height"), GOLDEN)
def test_the_whole_screen_at_usual_sizes(width: int, height: int) -> None:
    picture = drawn(Dashboard(*sample()), width, height)
    assert len(picture) == height
    assert "\n".join(picture).strip("\n") == GOLDEN[width, height].strip("\n")


def test_on_a_wide_terminal_requests_stand_beside_the_log() -> None:
    picture = drawn(Dashboard(*sample()), 160, 24)
    assert any("── log ──" in row and "── requests ──" in row for row in picture)
    assert any("hmr update" in row for row in picture)


def test_the_processes_survive_on_the_smallest_terminal() -> None:
    picture = "\n".join(drawn(Dashboard(model_of(names=("vite", "api")), 0.0), 20, 3))
    assert "vite" in picture
    assert "api" in picture


def test_of_many_processes_the_failing_are_shown_the_rest_counted() -> None:
    names = tuple(f"p{index}" for index in range(30))
    model = model_of(
        *(change(State.RUNNING, name, pid=1) for name in names), change(State.FAILED, "p29"), names=names
    )
    picture = drawn(Dashboard(model, 0.0), 80, 24)
    assert any("p29" in row and "failed" in row for row in picture)
    assert any(row.strip().startswith("and ") and row.endswith(" more") for row in picture)
    assert any("── log ──" in row for row in picture)


@pytest.mark.parametrize(
    ("event", "now", "row"),
    [
        (change(State.WAITING), 1.0, " ○ vite     waiting"),
        (change(State.INSTALLING, reason="npm ci"), 13.0, " ◌ vite     installing 12 s  npm ci"),
        (
            change(State.STARTING, pid=7),
            4.2,
            " ◐ vite     starting 3 s           7               3 s          0",
        ),
        (
            change(State.RUNNING, pid=7),
            61.0,
            " ● vite     running                7            1m 00s          0",
        ),
        (change(State.BACKING_OFF, reason="again"), 1.0, " ↻ vite     backing off      again"),
        (
            replace(change(State.BACKING_OFF, reason="again"), restarts=2),
            1.0,
            " ↻ vite     backing off      again  (restarts: 2)",
        ),
        (change(State.FAILED, reason="exit code 1"), 1.0, " ✗ vite     failed           exit code 1"),
        (change(State.COMPLETED), 1.0, " ✓ vite     completed"),
        (change(State.STOPPED), 1.0, " ■ vite     stopped"),
    ],
)
def test_the_row_of_a_process(event: StateChanged, now: float, row: str) -> None:
    rows = drawn(ProcessTable(model_of(event, names=("vite",)), now), 80)
    assert rows[0] == "   process  state                pid    port    uptime   restarts"
    assert rows[1] == row


def test_a_process_keeps_its_colour_everywhere() -> None:
    model = model_of(line("hello", "api"))
    assert "\x1b[38;5;134mapi" in coloured(ProcessTable(model, 1.0))
    assert "\x1b[38;5;134mapi" in coloured(Log(model))


def test_the_bar_before_what_came_from_standard_error_is_red() -> None:
    model = model_of(line("fine"), line("oh no", stream="stderr"))
    bars = [row.count("\x1b[31m │") for row in coloured(Log(model)).splitlines() if "│" in row]
    assert bars[-2:] == [0, 1]


def test_the_header_says_where_and_how() -> None:
    assert drawn(Header(model_of()), 60) == [" orchestra  http://127.0.0.1:8000            ◐ starting 0/2"]
    assert drawn(Header(model_of()), 40) == [" http://127.0.0.1:8000   ◐ starting 0/2"]
    assert drawn(Header(model_of()), 28) == [" orchestra   ◐ starting 0/2"]


@pytest.mark.parametrize("text", ["[bold]not bold[/bold]", "[/]", "[red", "\\[x]", ":smile:", "{x} %s"])
def test_markup_in_output_is_shown_literally(text: str) -> None:
    assert f" vite      │ {text}" in drawn(Log(model_of(line(text))), 80)


def test_colours_in_output_are_colours_and_end_with_the_line() -> None:
    picture = coloured(Log(model_of(line("\x1b[31mred"), line("plain"))))
    assert "\x1b[31mred\x1b[0m" in picture
    assert "plain\n" in picture


@pytest.mark.parametrize(
    "text",
    ["\x1b[2Jx", "\x1b]0;title\x07x", "a\rx", "\x1b[5;5Hx", "x\x07\x08", "\x9b2Jx", "\u2028x"],
)
def test_nothing_in_output_moves_the_cursor(text: str) -> None:
    rows = drawn(Log(model_of(line(text))), 80)
    assert len(rows) == 2
    assert rows[1].split("│")[1].strip() == "x"


def test_tabs_become_spaces() -> None:
    assert " vite      │ a       b" in drawn(Log(model_of(line("a\tb"))), 80)


def test_a_long_line_is_folded_at_a_space_if_it_can_be() -> None:
    rows = drawn(Log(model_of(line("the quick brown fox jumps over the lazy dog"))), 40)
    assert rows[1:] == [" vite     │ the quick brown fox jumps", "          │ over the lazy dog"]


def test_of_an_endless_line_the_beginning_is_shown() -> None:
    rows = drawn(Log(model_of(line("x" * 100_000))), 40)
    assert len(rows) == 5
    assert rows[-1].endswith("x…")


def test_wide_characters_are_folded_by_the_cells_that_they_take() -> None:
    rows = drawn(Log(model_of(line("日本語" * 15))), 40)
    assert all(cell_len(row) <= 40 for row in rows)
    assert "".join(row.split("│")[1].strip() for row in rows[1:]) == "日本語" * 15


@pytest.mark.parametrize(
    ("request_", "row"),
    [
        (REQUEST, " 200  GET       4 ms  backend    /about"),
        (
            replace(REQUEST, status=None, outcome="client-gone"),
            " ---  GET       4 ms  backend    /about  client gone",
        ),
        (replace(REQUEST, outcome="upstream-died"), " 200  GET       4 ms  backend    /about  broken off"),
        (replace(REQUEST, held=1.24, duration=1.3), " 200  GET      1.3 s  backend    /about  held 1.2 s"),
        (replace(REQUEST, upstream="orchestra", status=503), " 503  GET       4 ms  orchestra  /about"),
        (replace(REQUEST, target="/\x1b[2J\r\n[b]"), " 200  GET       4 ms  backend    [b]"),
        (
            replace(REQUEST, target="/" + "x" * 99, held=1.0),
            " 200  GET       4 ms  backend    /xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…  held 1.0 s",
        ),
    ],
)
def test_the_row_of_a_request(request_: RequestFinished, row: str) -> None:
    assert drawn(Requests(model_of(request_)), 80)[1] == row


@pytest.mark.parametrize(
    ("status", "colour"), [(200, "32"), (404, "38;5;166"), (500, "1;31"), (None, "38;5;102")]
)
def test_a_status_is_coloured_by_its_class(status: int | None, colour: str) -> None:
    shown = "---" if status is None else str(status)
    assert f"\x1b[{colour}m {shown} \x1b[0m" in coloured(Requests(model_of(replace(REQUEST, status=status))))


def test_a_warning_stays_in_the_footer_for_a_while() -> None:
    model = model_of(Notice(time=moment(5.0), level="warning", code="c", text="careful"))
    assert drawn(Footer(model, 6.0), 40) == [" q quit                warning: careful"]
    assert drawn(Footer(model, 60.0), 40) == [" q quit"]


def test_the_summary_tells_each_end_and_repeats_last_lines() -> None:
    model = model_of(
        line("unasked"),
        line("\x1b[31mboom\x1b[0m", "api"),
        change(State.STOPPED),
        replace(change(State.FAILED, "api", reason="exit code 1; given up after 5 restarts"), restarts=5),
        RunEnded(time=moment(9.0), exit_code=1, reason="api failed: exit code 1", duration=9.0),
    )
    assert drawn(Summary(model), 80) == [
        "orchestra ran for 9.0 s, api failed: exit code 1",
        " ■ vite  stopped",
        " ✗ api   failed  exit code 1; given up after 5 restarts  (restarts: 5)",
        "   │ boom",
    ]


def test_the_summary_repeats_last_lines_of_a_run_that_just_ended() -> None:
    model = model_of(
        line("done"),
        line("sent 3 mails", "api"),
        change(State.COMPLETED),
        change(State.COMPLETED, "api"),
        RunEnded(time=moment(2.0), exit_code=0, reason="all completed", duration=2.0),
    )
    assert drawn(Summary(model), 80) == [
        "orchestra ran for 2.0 s, all completed",
        " ✓ vite  completed",
        "   │ done",
        " ✓ api   completed",
        "   │ sent 3 mails",
    ]


NAMES = st.sampled_from(["vite", "api", "a-very-long-name-for-a-process", "名前"])
TEXTS = st.text(max_size=300) | st.lists(
    st.sampled_from(
        ["\x1b[31m", "\x1b[0m", "\t", "日本", "e\u0301", "[bold]", "[/]", "x" * 50, "👩\u200d🚀", "\u2028"]
    )
).map("".join)
SECONDS = st.floats(-1e3, 1e9)
MOMENTS = SECONDS.map(moment)
EVENTS = st.one_of(
    st.builds(OutputLine, time=MOMENTS, process=NAMES, stream=st.just("pty"), text=TEXTS),
    st.builds(
        StateChanged,
        time=MOMENTS,
        process=NAMES,
        state=st.sampled_from(State),
        previous=st.sampled_from(State),
        pid=st.none() | st.integers(1, 2**22),
        port=st.none() | st.integers(1, 65535),
        url=st.none() | TEXTS,
        restarts=st.integers(0, 10**6),
        exit_code=st.none() | st.integers(0, 255),
        signal=st.none() | st.just("SIGKILL"),
        reason=TEXTS,
        ready_after=st.none() | SECONDS,
    ),
    st.builds(
        RequestFinished,
        time=MOMENTS,
        id=st.integers(1),
        method=TEXTS,
        target=TEXTS,
        status=st.none() | st.integers(100, 999),
        upstream=st.sampled_from(["backend", "frontend", "orchestra"]),
        reason=TEXTS,
        held=SECONDS,
        first_byte=st.none() | SECONDS,
        duration=SECONDS,
        bytes_in=st.integers(0),
        bytes_out=st.integers(0),
        outcome=st.sampled_from(["complete", "client-gone", "upstream-died"]),
    ),
    st.builds(
        StreamOpened,
        time=MOMENTS,
        id=st.integers(1, 9),
        kind=st.just("hmr"),
        target=TEXTS,
        upstream=st.just("frontend"),
    ),
    st.builds(
        StreamClosed,
        time=MOMENTS,
        id=st.integers(1, 9),
        kind=st.just("hmr"),
        target=TEXTS,
        upstream=st.just("frontend"),
        code=st.none(),
        duration=SECONDS,
        bytes_in=st.integers(0),
        bytes_out=st.integers(0),
    ),
    st.builds(
        Notice,
        time=MOMENTS,
        level=st.sampled_from(["info", "warning", "error"]),
        code=st.just("c"),
        text=TEXTS,
        hint=TEXTS,
        process=st.none() | NAMES,
    ),
    st.builds(RunEnded, time=MOMENTS, exit_code=st.integers(0, 255), reason=TEXTS, duration=SECONDS),
    st.builds(
        RunStarted,
        time=MOMENTS,
        version=st.just("1"),
        pid=st.just(1),
        procfile=TEXTS,
        url=st.none() | TEXTS,
        processes=st.lists(NAMES, unique=True).map(tuple),
    ),
)


@settings(max_examples=200, deadline=None)
@given(
    events=st.lists(EVENTS, max_size=30), width=st.integers(1, 200), height=st.integers(1, 60), now=SECONDS
)
def test_whatever_happens_fits_on_a_screen_of_any_size(
    events: list[Event], width: int, height: int, now: float
) -> None:
    model = Model()
    for event in events:
        model.apply(event)
    picture = drawn(Dashboard(model, now), width, height)
    assert len(picture) == height
    assert all(cell_len(row) <= width for row in picture)
    assert all(cell_len(row) <= width for row in drawn(Summary(model), width))
