# ruff: noqa: E501 - a picture is as wide as the screen that it shows
from __future__ import annotations

import io
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console, Group

from orchestra.config.keys import ACTIONS
from orchestra.dashboard.controls import Controls, Shown
from orchestra.dashboard.frame import frame
from orchestra.dashboard.model import Model
from orchestra.dashboard.view import draw, layout, summary
from orchestra.events import (
    ErrorCleared,
    ErrorShown,
    Event,
    InputWanted,
    Notice,
    ProcessMeasured,
    RequestFinished,
    RequestHeads,
    RequestHeld,
    RequestPending,
    RunEnded,
    State,
    StateChanged,
    StreamOpened,
)
from tests import dashboard_kit as kit
from tests.dashboard_kit import REQUEST, STARTED, begun, line, picture, pictured, sample
from tests.events_kit import moment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.text import Text


def plain(lines: Iterable[Text]) -> list[str]:
    return [each.plain.rstrip() for each in lines]


def coloured(model: Model, *, now: float = 1.0, width: int = 80, height: int = 24) -> str:
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
    controls = Controls(model)
    lines = draw(frame(controls, now=now, width=width, height=height), controls.bindings)
    console.print(Group(*lines))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def model_of(*events: Event, names: tuple[str, ...] = ("vite", "api")) -> Model:
    return kit.model_of(replace(STARTED, processes=names), *events)


def change(state: State, process: str = "vite", *, reason: str = "", pid: int | None = None) -> StateChanged:
    return StateChanged(
        time=moment(1.0), process=process, state=state, previous=State.WAITING, reason=reason, pid=pid
    )


def log_of(model: Model, *, width: int = 80) -> list[str]:
    """The rows of the log, without its title."""
    rows = picture(model, "z", width=width, height=24)
    return [row for row in rows[3:-2] if row]


def requests_of(model: Model, *, width: int = 80, now: float = 0.0) -> list[str]:
    rows = picture(model, "t", "z", width=width, height=24, now=now)
    return [row for row in rows[3:-2] if row]


# What `sample` looks like, without colours. Changed on purpose? Look at it first.
GOLDEN = {
    (80, 24): """
 orchestra  http://127.0.0.1:8000                       1 HMR   ✗ worker failed

   process  state             port   uptime    cpu   memory  reloads  crashes
 ● vite     ready 0.8 s       5173   3m 07s     2%   148 MB
 ● api      ready 1.2 s       5001   3m 07s    11%    61 MB        1
▸✗ worker   failed           exit code 1; given up after 5 restarts
 ● mail     running                  3m 07s     0%   9.3 MB

 ── log ───────────────────────────────────────────────────────────────────────
 api       │ 127.0.0.1 - "POST /api/notes 1.1" 201
 api       │ 127.0.0.1 - "GET /api/notes/7 1.1" 404
 api       │ 127.0.0.1 - "GET /api/report?from=2024-01-01&to=2024-12-31 1.1"
           │ 500
 api       │ 127.0.0.1 - "DELETE /api/notes/3 1.1" 204
 api       │ 127.0.0.1 - "GET /about 1.1" 200
 vite      │ 10:12:31 [vite] (client) hmr update /src/style.css

 ── requests ───────────────────────── 1 under way, 9 so far, 1 event stream ──
 ... POST       7 s  backend   /api/notes/7/share  waits for the backend
 200 GET       9 ms  backend   /about
 204 DELETE    4 ms  backend   /api/notes/3

 warning: port 5000 was taken, vite listens on 5173
 R retry  r restart  s start  Enter only this  t requests  ? help  q quit
""",
    (120, 40): """
 orchestra  http://127.0.0.1:8000                                                               1 HMR   ✗ worker failed

   process  state                pid                address   uptime    cpu   memory  reloads  crashes
 ● vite     ready 0.8 s        41232             [::1]:5173   3m 07s     2%   148 MB
 ● api      ready 1.2 s        41233         127.0.0.1:5001   3m 07s    11%    61 MB        1
▸✗ worker   failed           exit code 1; given up after 5 restarts
 ● mail     running            41235                          3m 07s     0%   9.3 MB

 ── log ───────────────────────────────────────────────────────────────────────────────────────────────────────────────
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

 ── requests ───────────────────────────────────────────────────────────────── 1 under way, 9 so far, 1 event stream ──
 ... POST       7 s                    backend   /api/notes/7/share  waits for the backend
 200 GET       9 ms     9 ms    100 B  backend   /about
 204 DELETE    4 ms     4 ms    100 B  backend   /api/notes/3
 500 GET      0.2 s    0.2 s    100 B  backend   /api/report?from=2024-01-01&to=2024-12-31
 404 GET       3 ms     3 ms    100 B  backend   /api/notes/7
 201 POST      6 ms     6 ms    100 B  backend   /api/notes
 200 GET      1.3 s    1.3 s    100 B  backend   /api/notes  held 1.3 s

 warning: port 5000 was taken, vite listens on 5173
 R retry  r restart  s start  Enter only this  t requests  e errors  / search  Space pause  f filter  ? help  q quit
""",
    (40, 10): """
 http://127.0.0.1:8000  ✗ worker failed
 ● vite     ready 0.8 s       5173
 ● api      ready 1.2 s       5001
▸✗ worker   failed           exit code …
 ● mail     running
          │ 1.1" 200
 vite     │ 10:12:31 [vite] (client)
          │ hmr update /src/style.css
 warning: port 5000 was taken, vite lis…
 R retry  r restart  ? help  q quit
""",
}


@pytest.mark.parametrize(("width", "height"), GOLDEN)
def test_the_whole_screen_at_usual_sizes(width: int, height: int) -> None:
    model, now = sample()
    rows = picture(model, now=now, width=width, height=height)
    assert len(rows) == height
    assert "\n".join(rows).strip("\n") == GOLDEN[width, height].strip("\n")


@pytest.mark.parametrize(("width", "height"), [(140, 30), (300, 80)])
def test_on_a_wide_terminal_requests_stand_beside_the_log(width: int, height: int) -> None:
    model, now = sample()
    rows = picture(model, now=now, width=width, height=height)
    assert any("── log ──" in row and "── requests ──" in row for row in rows)
    assert any("hmr update" in row for row in rows)


def test_the_processes_survive_on_the_smallest_terminal() -> None:
    rows = "\n".join(picture(model_of(names=("vite", "api")), width=20, height=3))
    assert "vite" in rows
    assert "api" in rows


def test_of_many_processes_the_failing_are_shown_the_well_folded() -> None:
    names = tuple(f"p{index}" for index in range(30))
    model = model_of(
        *(change(State.RUNNING, name, pid=1) for name in names),
        change(State.FAILED, "p29"),
        change(State.COMPLETED, "p28"),
        names=names,
    )
    rows = picture(model)
    assert any("p29" in row and "failed" in row for row in rows)
    (folded,) = [row for row in rows if row.startswith("   and ")]
    assert folded.endswith(" running, 1 completed")
    assert any("── log ──" in row for row in rows)


@pytest.mark.parametrize(
    ("event", "now", "row"),
    [
        (change(State.WAITING), 1.0, "▸○ vite     waiting"),
        (change(State.INSTALLING, reason="npm ci"), 13.0, "▸◌ vite     installing 12 s  npm ci"),
        (change(State.STARTING, pid=7), 4.2, "▸◐ vite     starting 3 s                3 s"),
        (change(State.RUNNING, pid=7), 61.0, "▸● vite     running                  1m 00s"),
        (change(State.BACKING_OFF, reason="again"), 1.0, "▸↻ vite     backing off      again"),
        (change(State.FAILED, reason="exit code 1"), 1.0, "▸✗ vite     failed           exit code 1"),
        (change(State.COMPLETED), 1.0, "▸✓ vite     completed"),
        (change(State.STOPPED), 1.0, "▸■ vite     stopped"),
    ],
)
def test_the_row_of_a_process(event: StateChanged, now: float, row: str) -> None:
    rows = picture(model_of(event, names=("vite",)), now=now)
    assert rows[2] == "   process  state             port   uptime    cpu   memory  reloads  crashes"
    assert rows[3] == row


def test_reloads_are_counted_apart_from_crashes() -> None:
    ready = replace(kit.READY, previous=State.STARTING)
    model = model_of(
        ready,
        replace(ready, state=State.STOPPING),
        replace(ready, state=State.STARTING, restarts=1),
        ready,
        replace(ready, state=State.BACKING_OFF, pid=None),
        replace(ready, state=State.STARTING, pid=8, restarts=2),
        replace(ready, restarts=2, pid=8),
    )
    vite = model.processes["vite"]
    assert (vite.reloads, vite.crashes) == (1, 1)
    assert picture(model, now=9.0)[3].split()[-2:] == ["1", "1"]


def test_what_a_process_takes_is_shown() -> None:
    model = model_of(
        kit.READY, ProcessMeasured(time=moment(3.0), process="vite", cpu=0.256, memory=148_000_000)
    )
    assert "26%   148 MB" in picture(model, now=9.0)[3]


ERROR = ErrorShown(
    seq=5, process="api", error_type="ValueError", message="no [bold]", file="/x/app.py", line=12
)


def test_an_error_stands_still_until_it_is_mended_or_dismissed() -> None:
    pinned = " ✗ api: ValueError: no [bold], at app.py:12"
    model = model_of(ERROR, *(line(str(index)) for index in range(100)))
    assert pinned in picture(model)
    assert pinned not in picture(model, "d")
    model.apply(ErrorCleared(process="api"))
    assert pinned not in picture(model)


def test_a_long_message_leaves_room_for_its_place() -> None:
    long = replace(ERROR, message="no such table: " + "x" * 200)
    down = StateChanged(process="api", state=State.BACKING_OFF, previous=State.STARTING)
    up = replace(down, state=State.STARTING, previous=State.BACKING_OFF)
    rows = picture(model_of(long, down, up, down))
    assert [row for row in rows if row.endswith("…, at app.py:12")]
    assert [row for row in rows if row.endswith("…, at app.py:12  (2 crashes)")]


def test_a_long_notice_is_shown_to_its_end_where_there_is_room() -> None:
    notice = Notice(time=moment(1.0), level="warning", code="x", text="so " * 40, hint="Do this.")
    model = model_of(notice)
    assert picture(model)[-3].startswith(" warning: so so")
    assert picture(model)[-2].endswith("(Do this.)")
    assert picture(model, height=23)[-2].endswith("so …")


def test_a_long_name_leaves_room_before_the_state() -> None:
    rows = picture(model_of(names=("worker-for-mails-of-customers",)))
    assert "▸○ worker-for-mail…  waiting" in rows


def test_the_header_says_where_and_how() -> None:
    def header(width: int) -> str:
        return picture(model_of(), width=width)[0]

    assert header(60) == " orchestra  http://127.0.0.1:8000            ◐ starting 0/2"
    assert header(40) == " http://127.0.0.1:8000   ◐ starting 0/2"
    assert header(28) == " orchestra   ◐ starting 0/2"


def test_the_header_counts_what_is_held_and_who_is_connected() -> None:
    def opened(number: int, kind: str, upstream: str, target: str) -> StreamOpened:
        return StreamOpened(id=number, kind=kind, target=target, upstream=upstream)  # type: ignore[arg-type]

    model = model_of(
        RequestHeld(id=1, method="GET", target="/", upstream="backend", reason="api is starting"),
        opened(2, "websocket", "orchestra", "/__orchestra__/live"),
        opened(3, "websocket", "orchestra", "/__orchestra__/live"),
        opened(4, "hmr", "frontend", "/"),
    )
    assert "1 held, 2 tabs, 1 HMR   ◐ starting 0/2" in picture(model)[0]


def test_a_process_keeps_its_colour_everywhere_and_its_address_is_a_link() -> None:
    text = coloured(model_of(line("hello", "api"), kit.READY))
    assert text.count("\x1b[38;5;134mapi") == 2
    assert "http://[::1]:5173\x1b\\ 5173" in text


def test_the_bar_before_what_came_from_standard_error_is_red() -> None:
    text = coloured(model_of(line("fine"), line("oh no", stream="stderr")))
    bars = [row.count("\x1b[31m │") for row in text.splitlines() if " │" in row]
    assert bars[-2:] == [0, 1]


@pytest.mark.parametrize("text", ["[bold]not bold[/bold]", "[/]", "[red", "\\[x]", ":smile:", "{x} %s"])
def test_markup_in_output_is_shown_literally(text: str) -> None:
    assert f" vite      │ {text}" in log_of(model_of(line(text)))


def test_colours_in_output_are_colours_and_end_with_the_line() -> None:
    text = coloured(model_of(line("\x1b[31mred"), line("plain")))
    assert "\x1b[31mred\x1b[0m" in text
    assert "plain\n" in text


@pytest.mark.parametrize(
    "text",
    ["\x1b[2Jx", "\x1b]0;title\x07x", "a\rx", "\x1b[5;5Hx", "x\x07\x08", "\x9b2Jx", "\u2028x", "\u202ex"],
)
def test_nothing_in_output_moves_the_cursor(text: str) -> None:
    (row,) = log_of(model_of(line(text)))
    assert row.split("│")[1].strip() == "x"


def test_tabs_become_spaces() -> None:
    assert log_of(model_of(line("a\tb"))) == [" vite      │ a       b"]


def test_a_long_line_is_folded_at_a_space_if_it_can_be() -> None:
    rows = log_of(model_of(line("the quick brown fox jumps over the lazy dog")), width=40)
    assert rows == [" vite     │ the quick brown fox jumps", "          │ over the lazy dog"]


def test_of_an_endless_line_the_beginning_is_shown() -> None:
    rows = log_of(model_of(line("x" * 100_000)), width=40)
    assert len(rows) == 4
    assert rows[-1].endswith("x…")


def test_wide_characters_are_folded_by_the_cells_that_they_take() -> None:
    rows = log_of(model_of(line("日本語" * 15)), width=40)
    assert all(cell_len(row) <= 40 for row in rows)
    assert "".join(row.split("│")[1].strip() for row in rows) == "日本語" * 15


@pytest.mark.parametrize(
    ("request_", "row"),
    [
        (REQUEST, "▸200 GET       4 ms  backend   /about"),
        (
            replace(REQUEST, status=None, outcome="client-gone"),
            "▸--- GET       4 ms  backend   /about  client gone",
        ),
        (replace(REQUEST, outcome="upstream-died"), "▸200 GET       4 ms  backend   /about  broken off"),
        (replace(REQUEST, held=1.24, duration=1.3), "▸200 GET      1.3 s  backend   /about  held 1.2 s"),
        (replace(REQUEST, upstream="orchestra", status=503), "▸503 GET       4 ms  orchestra /about"),
        (replace(REQUEST, target="/\x1b[2J\r\n[b]"), "▸200 GET       4 ms  backend   [b]"),
        (
            replace(REQUEST, target="/" + "x" * 99, held=1.0),
            "▸200 GET       4 ms  backend   /xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…  held 1.0 s",
        ),
    ],
)
def test_the_row_of_a_request(request_: RequestFinished, row: str) -> None:
    assert requests_of(model_of(request_)) == [row]


def test_a_request_under_way_has_a_running_clock_and_says_what_it_waits_for() -> None:
    held = RequestHeld(
        time=moment(10.0), id=3, method="GET", target="/a", upstream="backend", reason="api is starting"
    )
    model = model_of(REQUEST, held)
    assert requests_of(model, now=14.0) == [
        "▸... GET        4 s  backend   /a  waits: api is starting",
        " 200 GET       4 ms  backend   /about",
    ]


def test_a_flood_of_assets_is_one_row_that_unfolds() -> None:
    asset = replace(REQUEST, upstream="frontend", target="/src/a.ts")
    model = model_of(
        REQUEST, *(replace(asset, id=number, target=f"/src/{number}.ts") for number in range(2, 43))
    )
    assert requests_of(model)[0] == "▸200 GET       4 ms  frontend  +41 assets  /src/42.ts"
    rows = [row for row in picture(model, "t", "z", "enter")[3:-2] if row]
    assert rows[1:3] == [
        " 200 GET       4 ms  frontend    /src/42.ts",
        " 200 GET       4 ms  frontend    /src/41.ts",
    ]


def test_the_same_request_over_and_over_is_one_row() -> None:
    broken = replace(REQUEST, status=502, target="/events?x=1", upstream="orchestra")
    model = model_of(*(replace(broken, id=number, target=f"/events?x={number}") for number in range(1, 39)))
    assert requests_of(model) == ["▸502 GET       4 ms  orchestra x38 /events"]


def test_the_details_of_a_request() -> None:
    heads = RequestHeads(
        id=1, request=("Host: localhost", "Accept: */*"), answer=("Content-Type: text/html",)
    )
    slow = replace(REQUEST, first_byte=0.5, duration=2.0, held=0.3, reason="backend answered")
    rows = [row for row in picture(model_of(heads, slow), "t", "enter") if row]
    start = next(index for index, row in enumerate(rows) if "── request ──" in row)
    assert rows[start + 1 : -1] == [
        " GET /about",
        " 200  backend  backend answered",
        " total 2.0 s, first byte 0.5 s, held 0.3 s, sent 0 B, received 1 B",
        " request:",
        "   Host: localhost",
        "   Accept: */*",
        " answer:",
        "   Content-Type: text/html",
    ]


def test_a_request_that_waits_shows_its_heads() -> None:
    waits = RequestPending(
        time=moment(1.0), id=1, method="GET", target="/a", upstream="backend", status=None, elapsed=0.5
    )
    heads = RequestHeads(id=1, request=("Host: localhost",), answer=())
    rows = [row for row in picture(model_of(STARTED, waits, heads), "t", "enter", now=4.5) if row]
    start = next(index for index, row in enumerate(rows) if "── request ──" in row)
    assert rows[start + 1 : -1] == [
        " GET /a",
        " no answer yet  backend  waits for the backend",
        " so far 4.0 s",
        " request:",
        "   Host: localhost",
    ]


def test_the_details_stay_with_the_request_when_it_joins_others() -> None:
    first = replace(REQUEST, target="/debug")
    waits = RequestPending(
        time=moment(1.0), id=2, method="GET", target="/debug", upstream="backend", status=None, elapsed=0.5
    )
    controls = Controls(model_of(first, waits))
    controls.see(0.0)
    for key in ("t", "enter"):
        controls.press(key)
    assert any("no answer yet" in row for row in pictured(controls))
    controls.model.apply(replace(first, id=2, duration=7.0))
    assert any("total 7.0 s" in row for row in pictured(controls))
    controls.press("enter")
    assert not any("total 7.0 s" in row for row in pictured(controls))


def test_the_slowest_requests_come_first_if_that_is_wanted() -> None:
    asset = replace(REQUEST, upstream="frontend", target="/src/a.ts")
    assets = [
        replace(asset, id=number, target=f"/src/{number}.ts", duration=3.0 if number == 3 else 0.001)
        for number in range(2, 90)
    ]
    model = model_of(REQUEST, *assets, replace(REQUEST, id=99, target="/slow", duration=4.0))
    rows = [row for row in picture(model, "t", "T", "z")[2:-2] if row]
    assert "slowest first" in rows[0]
    assert rows[1:] == [
        "▸200 GET      4.0 s  backend   /slow",
        " 200 GET      3.0 s  frontend  +88 assets  /src/3.ts",
        " 200 GET       4 ms  backend   /about",
    ]
    rows = [row for row in picture(model, "T", "z", "j", "enter")[2:-2] if row]
    assert rows[3] == " 200 GET      3.0 s  frontend    /src/3.ts"


def test_a_prompt_is_pointed_out_while_it_stands() -> None:
    wanted = InputWanted(time=moment(1.0), process="api", prompt="(Pdb)")
    waits = " api waits for input at '(Pdb)': press i"
    model = model_of(begun("(Pdb) ", "api"), wanted)
    assert waits not in picture(model, now=1.5)
    assert waits in picture(model, now=2.0)
    assert "i input" in picture(model, now=2.0)[-1]
    model.apply(line("(Pdb) c", "api"))
    assert waits not in picture(model, now=2.0)


@pytest.mark.parametrize(("shown", "left"), [("another run", True), ("a recording", False)])
def test_of_a_recording_no_key_acts_on_the_run(shown: Shown, *, left: bool) -> None:
    wanted = InputWanted(time=moment(1.0), process="api", prompt="(Pdb)")
    model = model_of(begun("(Pdb) ", "api"), wanted, change(State.FAILED))
    lines = picture(model, now=2.0, width=200, shown=shown)
    assert [f" {key} " in lines[-1] for key in ("restart", "start", "retry", "input")] == [left] * 4
    assert [word in lines[-1] for word in ("q leave", "search", "filter")] == [True] * 3
    assert any("waits for input" in each for each in lines) is left


def test_a_warning_stays_above_the_keys_for_a_while() -> None:
    model = model_of(Notice(time=moment(5.0), level="warning", code="c", text="careful"))
    assert picture(model, now=6.0)[-2] == " warning: careful"
    assert picture(model, now=60.0)[-2] == ""


def test_the_help_has_every_key_even_on_the_smallest_screen() -> None:
    text = "\n".join(picture(model_of(), "?", width=80, height=24))
    assert all(words in text for _, words in ACTIONS.values())


def test_on_a_terminal_without_unicode_everything_is_ascii() -> None:
    model, now = sample()
    model.apply(line("日本語 ✓"))
    rows = picture(model, now=now, environ={"LC_ALL": "C"})
    assert all(row.isascii() for row in rows)
    assert " vite      | ?????? +" in rows
    assert any(row.startswith(">x worker") for row in rows)


def test_the_summary_tells_each_end_and_repeats_last_lines() -> None:
    model = model_of(
        line("unasked"),
        line("\x1b[31mboom\x1b[0m", "api"),
        change(State.STOPPED),
        replace(change(State.FAILED, "api", reason="exit code 1; given up after 5 restarts"), restarts=5),
        RunEnded(time=moment(9.0), exit_code=1, reason="api failed: exit code 1", duration=9.0),
    )
    assert plain(summary(model, 80)) == [
        "orchestra ran for 9.0 s, 5 restarts, api failed: exit code 1",
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
    assert plain(summary(model, 80)) == [
        "orchestra ran for 2.0 s, all completed",
        " ✓ vite  completed",
        "   │ done",
        " ✓ api   completed",
        "   │ sent 3 mails",
    ]


def test_the_summary_counts_those_of_many_that_were_only_stopped() -> None:
    names = tuple(f"w{index}" for index in range(50))
    model = model_of(*(change(State.STOPPED, name) for name in names), names=names)
    assert plain(summary(model, 80)) == ["   and 50 stopped"]


NAMES = st.sampled_from(["vite", "api", "a-very-long-name-for-a-process", "名前"])
TEXTS = st.text(max_size=300) | st.lists(
    st.sampled_from(
        [
            "\x1b[31m",
            "\x1b[0m",
            "\t",
            "日本",
            "שלום",
            "مرحبا",
            "e\u0301",
            "[bold]",
            "[/]",
            "x" * 50,
            "👩\u200d🚀",
            "\u2028",
        ]
    )
).map("".join)
SECONDS = st.floats(-1e3, 1e9)
NAMED = {
    "time": SECONDS.map(moment),
    "process": NAMES,
    "id": st.integers(1, 9),
    "seq": st.integers(0, 9),
    "processes": st.lists(NAMES, unique=True).map(tuple),
}


def values(kind: Any) -> st.SearchStrategy[Any]:
    """All values of a type that a field of an event has."""
    if kind in (str, float, int):
        return {str: TEXTS, float: SECONDS, int: st.integers(0, 2**40)}[kind]
    if get_origin(kind) in (Union, UnionType):
        return st.one_of([values(each) for each in get_args(kind)])
    if get_origin(kind) is tuple:
        return st.lists(values(get_args(kind)[0]), max_size=3).map(tuple)
    return st.from_type(kind)


def events_of(kind: type[Event]) -> st.SearchStrategy[Event]:
    fields = get_type_hints(kind).items()
    return st.builds(kind, **{name: NAMED[name] if name in NAMED else values(of) for name, of in fields})


EVENTS: st.SearchStrategy[Event] = st.one_of([events_of(kind) for kind in get_args(Event)])

KEYS = st.lists(
    st.sampled_from(["up", "down", "enter", "escape", "space", "pageup", "pagedown", "home", "end"])
    | st.sampled_from("kjrRsxi/nNfetzocywd12?gGab"),
    max_size=12,
)


@settings(max_examples=200)
@given(
    events=st.lists(EVENTS, max_size=30),
    keys=KEYS,
    width=st.integers(1, 200),
    height=st.integers(1, 60),
    now=SECONDS,
)
def test_whatever_happens_fits_on_a_screen_of_any_size(
    events: list[Event], keys: list[str], width: int, height: int, now: float
) -> None:
    model = Model()
    for event in events:
        model.apply(event)
    rows = picture(model, *keys, now=now, width=width, height=height)
    assert len(rows) == height
    assert all(cell_len(row) <= width for row in rows)
    assert all(cell_len(row) <= width for row in plain(summary(model, width)))


@given(st.integers(16, 50), st.integers(40, 200), st.integers(0, 60))
def test_what_was_found_is_on_the_screen_among_long_lines(height: int, width: int, place: int) -> None:
    lines = [line("x" * 1000) for _ in range(60)]
    lines.insert(place, line("needle"))
    controls = Controls(model_of(STARTED, *lines))
    shown = frame(controls, now=0.0, width=width, height=height)
    controls.page = max(layout(shown).middle - 1, 1)
    for key in ("/", *"needle", "enter"):
        controls.press(key)
    assert any("needle" in row and "\u25b8" in row for row in pictured(controls, width=width, height=height))
