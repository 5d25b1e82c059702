from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from orchestra.bus import Bus
from orchestra.config.schema import RunPolicy
from orchestra.dashboard.printers import PlainPrinter, wants_colours
from orchestra.dashboard.writer import Writer
from orchestra.events import Notice, PlanChanged, RequestFinished, State, StateChanged, StreamOpened
from tests import dashboard_kit as kit
from tests.dashboard_kit import STARTED, Pipe, printed
from tests.events_kit import moment
from tests.terminal_kit import Pty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from orchestra.events import OutputLine, OutputPaused

READY = replace(kit.READY, process="api", url="http://127.0.0.1:5001", ready_after=0.8)


def line(text: str, process: str = "api") -> OutputLine:
    return kit.line(text, process)


def begun(text: str, process: str = "api") -> OutputPaused:
    return kit.begun(text, process)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


@asynccontextmanager
async def running(fd: int, names: tuple[str, ...] = ("api",), **environ: str) -> AsyncIterator[PlainPrinter]:
    writer = Writer(fd)
    async with kit.running(writer):
        yield PlainPrinter(writer, names, environ=environ)


def plain(
    *names: str, environ: Mapping[str, str] | None = None, has_timestamps: bool = False
) -> Callable[[Writer], PlainPrinter]:
    return lambda writer: PlainPrinter(
        writer, names, RunPolicy(timestamps=has_timestamps), environ=environ or {}
    )


async def test_lines_and_what_happens_are_printed_in_their_order() -> None:
    notice = Notice(time=moment(0.0), level="warning", code="c", text="careful")
    failed = StateChanged(
        time=moment(0.0),
        process="api",
        state=State.BACKING_OFF,
        previous=State.READY,
        reason="exit code 1; again in 0.5 s",
    )
    shown = await printed(
        plain("api"), STARTED, line("one"), READY, line("two [b]"), notice, failed, line("")
    )
    assert shown == [
        "orchestra | http://127.0.0.1:8000",
        "api       | one",
        "orchestra | api is ready in 0.8 s at http://127.0.0.1:5001",
        "api       | two [b]",
        "orchestra | warning: careful",
        "orchestra | api ended: exit code 1; again in 0.5 s",
        "api       | ",
    ]


async def test_the_margin_is_as_wide_as_the_longest_name() -> None:
    shown = await printed(plain("a-long-process-name", "b"), line("x", "b"), line("y", "a-long-process-name"))
    assert shown == ["b                   | x", "a-long-process-name | y"]


async def test_the_margin_grows_with_a_longer_name_that_comes_later() -> None:
    changed = PlanChanged(reason="Procfile", processes=("api", "a-long-name"), started=("a-long-name",))
    shown = await printed(plain("api"), line("x"), changed, line("y"), line("z", "a-long-name"))
    assert shown == [
        "api       | x",
        "orchestra   | Procfile changed: a-long-name starts",
        "api         | y",
        "a-long-name | z",
    ]


async def test_without_colours_those_of_the_children_go_too() -> None:
    assert await printed(plain("api"), line("\x1b[31mred\x1b[0m")) == ["api       | red"]


async def test_each_process_has_its_colour_and_none_leaks_into_a_line() -> None:
    coloured = plain("api", "web", environ={"FORCE_COLOR": "1"})
    assert await printed(coloured, line("\x1b[31mred"), line("plain", "web")) == [
        "\x1b[38;5;33mapi       | \x1b[0m\x1b[31mred\x1b[0m",
        "\x1b[38;5;134mweb       | \x1b[0mplain",
    ]


@pytest.mark.parametrize(
    ("environ", "is_wanted"),
    [
        ({}, False),
        ({"FORCE_COLOR": "1"}, True),
        ({"FORCE_COLOR": "0"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": ""}, True),
    ],
)
def test_a_pipe_gets_colours_only_by_force(environ: dict[str, str], is_wanted: bool, pipe: Pipe) -> None:  # noqa: FBT001 - a column of the table
    assert wants_colours(environ, pipe.writer) is is_wanted


@pytest.mark.parametrize(
    ("environ", "is_wanted"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({"NO_COLOR": "1"}, False)],
)
def test_a_terminal_gets_colours(environ: dict[str, str], is_wanted: bool) -> None:  # noqa: FBT001 - likewise
    controller, terminal = os.openpty()
    try:
        assert wants_colours(environ, terminal) is is_wanted
    finally:
        os.close(controller)
        os.close(terminal)


async def test_timestamps_are_the_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    event = replace(line("x"), time=moment(1_700_000_000.25))
    assert await printed(plain("api", has_timestamps=True), event) == ["22:13:20 api       | x"]


async def test_what_comes_from_standard_error_has_a_red_bar() -> None:
    coloured = plain("api", environ={"FORCE_COLOR": "1"})
    assert await printed(coloured, line("fine"), kit.line("oh no", "api", stream="stderr")) == [
        "\x1b[38;5;33mapi       | \x1b[0mfine",
        "\x1b[38;5;33mapi       \x1b[31m| \x1b[0moh no",
    ]


def test_requests_and_streams_are_not_even_listened_to() -> None:
    bus = Bus()
    printer = PlainPrinter(Writer(), ["api"], environ={})
    bus.subscribe(printer.observe, *printer.kinds)
    assert not bus.wants(RequestFinished)
    assert not bus.wants(StreamOpened)


async def test_a_partial_line_is_visible_in_a_pipe_and_marked(pipe: Pipe) -> None:
    async with running(pipe.writer) as printer:
        printer.observe(begun("\x1b[0m"))  # nothing to be seen
        printer.observe(begun("Name? "))
        got = await pipe.read()
        assert got.decode() == "api       … Name? \n"
        printer.observe(begun("Name? A"))
        printer.write_lines([line("Name? Ada")])
        printer.write_lines([line("Bye")])
        while not got.endswith(b"Bye\n"):
            got += await pipe.read()
    assert got.decode() == "api       … Name? \napi       | Name? Ada\napi       | Bye\n"


async def test_a_partial_line_is_visible_while_another_is_written(pipe: Pipe) -> None:
    async with running(pipe.writer) as printer:
        printer.observe(READY)
        printer.observe(begun("Name? "))
        got = b""
        while b"Name? " not in got:
            got += await pipe.read()


@pytest.fixture
def terminal() -> Iterator[Pty]:
    terminal = Pty(40, 10)
    yield terminal
    terminal.close()


@asynccontextmanager
async def on(terminal: Pty) -> AsyncIterator[PlainPrinter]:
    async with running(terminal.fd, ("api", "web"), NO_COLOR="1") as printer:
        yield printer


async def test_on_a_terminal_a_partial_line_is_replaced_in_place(terminal: Pty) -> None:
    async with on(terminal) as printer:
        printer.observe(begun("10%"))
        await terminal.shows("api       | 10%")
        printer.observe(begun("9% again"))
        await terminal.shows("api       | 9% again")
        printer.write_lines([line("other", "web")])
        await terminal.shows("web       | other", "api       | 9% again")
        printer.observe(READY)
        printer.write_lines([line("done")])
        await terminal.shows(
            "web       | other",
            "orchestra | api is ready in 0.8 s at htt",
            "p://127.0.0.1:5001",
            "api       | done",
        )


async def test_on_a_terminal_a_partial_line_that_is_taken_back_is_gone(terminal: Pty) -> None:
    async with on(terminal) as printer:
        printer.observe(begun("10%"))
        await terminal.shows("api       | 10%")
        printer.observe(begun(""))
        printer.write_lines([line("other", "web")])
        await terminal.shows("web       | other")


async def test_on_a_terminal_a_partial_line_that_becomes_blank_is_gone(terminal: Pty) -> None:
    """A progress bar that clears itself, after a blank line: which is the second one, and not shown."""
    async with on(terminal) as printer:
        printer.write_lines([line("")])
        printer.observe(begun("10%"))
        await terminal.shows("api       |", "api       | 10%")
        printer.write_lines([line("")])
        printer.write_lines([line("other", "web")])
        await terminal.shows("api       |", "web       | other")


async def test_on_a_terminal_a_process_takes_back_only_its_partial_line(terminal: Pty) -> None:
    async with on(terminal) as printer:
        printer.observe(begun("10%", "web"))
        printer.observe(begun("Name? "))
        await terminal.shows("api       | Name?")
        printer.observe(begun("", "web"))
        printer.write_lines([line("other", "web")])
        await terminal.shows("web       | other", "api       | Name?")


async def test_on_a_terminal_a_long_partial_line_is_cut_until_complete(
    terminal: Pty,
) -> None:
    async with on(terminal) as printer:
        printer.observe(begun("x" * 100))
        await terminal.shows(f"api       | {'x' * 27}")
        printer.write_lines([line("x" * 30)])
        await terminal.shows(f"api       | {'x' * 28}", "xx")


async def test_blank_lines_are_merged_on_a_terminal_but_not_in_a_pipe(
    terminal: Pty,
) -> None:
    lines = [line("a"), *[line("") for _ in range(30)], line("b")]
    assert len(await printed(plain("api"), *lines)) == 32
    async with on(terminal) as printer:
        printer.write_lines(lines)
        await terminal.shows("api       | a", "api       |", "api       | b")


async def test_names_can_be_left_out_and_requests_printed() -> None:
    def make(writer: Writer) -> PlainPrinter:
        return PlainPrinter(writer, ["api"], RunPolicy(names=False, requests=True), environ={})

    slow = replace(kit.REQUEST, held=1.2, status=None, outcome="client-gone", target="/\x1b[2Jx")
    assert await printed(make, line("x"), kit.REQUEST, slow) == [
        "x",
        "orchestra | GET /about 200 backend 4 ms",
        "orchestra | GET /[2Jx --- backend 4 ms, held 1.2 s, client gone",
    ]
