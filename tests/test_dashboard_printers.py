from __future__ import annotations

import json
import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pyte
import pytest
import trio
import trio.testing

from orchestra.dashboard import printers
from orchestra.dashboard.printers import JsonPrinter, PlainPrinter, ReaderGone, wants_colours
from orchestra.errors import OrchestraError
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
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from orchestra.events import Event

STARTED = RunStarted(
    time=moment(0.0),
    version="1.2",
    pid=9,
    procfile="Procfile",
    url="http://127.0.0.1:8000",
    processes=("api",),
)
READY = StateChanged(
    time=moment(0.0),
    process="api",
    state=State.READY,
    previous=State.STARTING,
    pid=7,
    port=5001,
    url="http://127.0.0.1:5001",
    ready_after=0.8,
)


def line(text: str, process: str = "api") -> OutputLine:
    return OutputLine(time=moment(0.0), process=process, stream="stdout", text=text)


def begun(text: str, process: str = "api") -> OutputPaused:
    return OutputPaused(time=moment(0.0), process=process, stream="stdout", text=text)


class Pipe:
    """A pipe to print to: tests read the one end in worker threads."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self.has_reader = True

    async def read(self, size: int = 1 << 20) -> bytes:
        return await trio.to_thread.run_sync(os.read, self.reader, size)

    async def read_all(self) -> bytes:
        chunks = []
        while chunk := await self.read():
            chunks.append(chunk)
        return b"".join(chunks)

    def close_reader(self) -> None:
        if self.has_reader:
            self.has_reader = False
            os.close(self.reader)


@pytest.fixture
def pipe() -> Any:
    pipe = Pipe()
    yield pipe
    pipe.close_reader()
    os.close(pipe.writer)


@asynccontextmanager
async def running(printer: printers.Printer) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(printer.run)
        yield
        nursery.cancel_scope.cancel()


async def failure_of(printer: printers.Printer, feed: Callable[[], Awaitable[None]]) -> OrchestraError:
    """Run a printer while it is fed, until it fails."""
    failures: list[OrchestraError] = []

    async def run() -> None:
        try:
            await printer.run()
        except OrchestraError as exc:
            failures.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await feed()
    (failure,) = failures
    return failure


async def printed(make: Callable[[int], printers.Printer], *events: Event) -> list[str]:
    """Print events and lines, and give what was written."""
    reader, writer = os.pipe()
    try:
        printer = make(writer)
        async with running(printer):
            for event in events:
                printer.observe(event)
                if isinstance(event, OutputLine):
                    await printer.write_line(event)
            await printer.aclose()
        os.close(writer)
        writer = -1
        return os.read(reader, 1 << 20).decode().splitlines()
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def plain(
    *names: str, environ: Mapping[str, str] | None = None, has_timestamps: bool = False
) -> Callable[[int], printers.Printer]:
    return lambda fd: PlainPrinter(names, environ=environ or {}, has_timestamps=has_timestamps, stdout=fd)


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


async def test_without_colours_those_of_the_children_go_too() -> None:
    assert await printed(plain("api"), line("\x1b[31mred\x1b[0m")) == ["api       | red"]


async def test_with_colours_each_process_has_its_own_and_none_runs_into_the_next_line() -> None:
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
    event = OutputLine(time=moment(1_700_000_000.25), process="api", stream="stdout", text="x")
    assert await printed(plain("api", has_timestamps=True), event) == ["22:13:20 api       | x"]


async def json_of(event: Event) -> dict[str, Any]:
    (shown,) = await printed(lambda fd: JsonPrinter(stdout=fd), event)
    parsed = json.loads(shown)
    assert isinstance(parsed, dict)
    return parsed


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            STARTED,
            {
                "type": "run.started",
                "version": "1.2",
                "pid": 9,
                "procfile": "Procfile",
                "url": "http://127.0.0.1:8000",
                "processes": ["api"],
            },
        ),
        (
            READY,
            {
                "type": "process.state",
                "process": "api",
                "state": "ready",
                "previous": "starting",
                "pid": 7,
                "port": 5001,
                "url": "http://127.0.0.1:5001",
                "restarts": 0,
                "exit_code": None,
                "signal": None,
                "reason": "",
                "ready_after": 0.8,
                "ended_before_ready": False,
                "last_lines": [],
            },
        ),
        (
            line("\x1b[31mnaïve\x1b[0m\t✓"),
            {"type": "process.output", "process": "api", "stream": "stdout", "text": "naïve\t✓"},
        ),
        (
            RequestFinished(
                time=moment(0.0),
                id=3,
                method="GET",
                target="/x",
                status=None,
                upstream="backend",
                reason="r",
                held=1.5,
                first_byte=None,
                duration=2.5,
                bytes_in=1,
                bytes_out=2,
                outcome="client-gone",
            ),
            {
                "type": "request.finished",
                "id": 3,
                "method": "GET",
                "target": "/x",
                "status": None,
                "upstream": "backend",
                "reason": "r",
                "held": 1.5,
                "first_byte": None,
                "duration": 2.5,
                "bytes_in": 1,
                "bytes_out": 2,
                "outcome": "client-gone",
            },
        ),
        (
            StreamOpened(time=moment(0.0), id=4, kind="hmr", target="/", upstream="frontend"),
            {"type": "stream.opened", "id": 4, "kind": "hmr", "target": "/", "upstream": "frontend"},
        ),
        (
            StreamClosed(
                time=moment(0.0),
                id=4,
                kind="hmr",
                target="/",
                upstream="frontend",
                code=1001,
                duration=1.5,
                bytes_in=1,
                bytes_out=2,
            ),
            {
                "type": "stream.closed",
                "id": 4,
                "kind": "hmr",
                "target": "/",
                "upstream": "frontend",
                "code": 1001,
                "duration": 1.5,
                "bytes_in": 1,
                "bytes_out": 2,
            },
        ),
        (
            Notice(time=moment(0.0), level="error", code="c", text="t", hint="h"),
            {"type": "notice", "level": "error", "code": "c", "text": "t", "hint": "h", "process": None},
        ),
        (
            RunEnded(time=moment(0.0), exit_code=3, reason="r", duration=1.5),
            {"type": "run.ended", "exit_code": 3, "reason": "r", "duration": 1.5},
        ),
    ],
)
async def test_json_has_the_keys_of_the_contract(event: Event, expected: dict[str, Any]) -> None:
    shown = await json_of(event)
    del shown["time"]
    assert shown == {"v": 1, "seq": 1, **expected}


async def test_json_says_when_by_the_wall_clock_in_utc() -> None:
    notice = Notice(time=moment(1_700_000_000.25), level="info", code="c", text="t")
    assert (await json_of(notice))["time"] == "2023-11-14T22:13:20.250000Z"


async def test_json_numbers_its_lines_and_is_one_object_a_line() -> None:
    shown = await printed(lambda fd: JsonPrinter(stdout=fd), STARTED, line("a\u2028b"), READY, line("c"))
    assert [json.loads(each)["seq"] for each in "\n".join(shown).replace("a\nb", "a b").split("\n")] == [
        1,
        2,
        3,
        4,
    ]


async def test_a_slow_reader_makes_writers_wait_and_loses_nothing(pipe: Pipe) -> None:
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)
    total, text = 80, "x" * 100_000
    handed_in = 0
    async with running(printer), trio.open_nursery() as nursery:

        async def hand_in() -> None:
            nonlocal handed_in
            for index in range(total):
                await printer.write_line(line(f"{index} {text}"))
                handed_in += 1

        nursery.start_soon(hand_in)
        await trio.testing.wait_all_tasks_blocked()
        # 8 MB were on offer; 4 MiB and what the pipe holds is what is taken without a reader.
        assert handed_in < 60
        got = b""
        while got.count(b"\n") < total:
            got += await pipe.read()
    assert [each.split()[2] for each in got.decode().splitlines()] == [str(index) for index in range(total)]


async def test_events_are_never_refused_while_lines_wait(pipe: Pipe) -> None:
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)
    async with running(printer), trio.open_nursery() as nursery:

        async def hand_in() -> None:
            for _ in range(100):
                await printer.write_line(line("x" * 100_000))

        nursery.start_soon(hand_in)
        await trio.testing.wait_all_tasks_blocked()
        printer.observe(READY)
        got = b""
        while got.count(b"\n") < 101:
            got += await pipe.read()
    assert got.count(b"orchestra | api is ready") == 1


async def test_a_reader_that_goes_away_ends_the_printer_with_141(pipe: Pipe) -> None:
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)
    pipe.close_reader()
    failure = await failure_of(printer, lambda: printer.write_line(line("x")))
    assert isinstance(failure, ReaderGone)
    assert failure.exit_code == 141
    assert str(failure) == ""  # nobody reads it


async def test_a_reader_that_goes_away_while_lines_wait_releases_them(pipe: Pipe) -> None:
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)
    released = 0

    async def hand_in() -> None:
        nonlocal released
        for _ in range(100):
            await printer.write_line(line("x" * 100_000))
            released += 1

    async def feed() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hand_in)
            await trio.testing.wait_all_tasks_blocked()
            assert released < 100
            pipe.close_reader()

    assert isinstance(await failure_of(printer, feed), ReaderGone)
    assert released == 100


async def test_a_full_disk_is_said_in_words() -> None:
    try:
        full = os.open("/dev/full", os.O_WRONLY)
    except FileNotFoundError:
        pytest.skip("only Linux has a disk that is always full")
    try:
        printer = PlainPrinter(["api"], environ={}, stdout=full)
        failure = await failure_of(printer, lambda: printer.write_line(line("x")))
    finally:
        os.close(full)
    assert str(failure) == "standard output cannot be written to: No space left on device"


async def test_a_reader_that_goes_away_is_noticed_though_there_is_nothing_to_say(pipe: Pipe) -> None:
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)

    async def leave() -> None:
        await trio.testing.wait_all_tasks_blocked()
        pipe.close_reader()

    assert isinstance(await failure_of(printer, leave), ReaderGone)


async def test_who_is_in_a_hurry_does_not_wait_for_the_reader(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printers, "_GIVE_UP", 1000.0)
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)
    async with running(printer):
        await printer.write_line(line("x" * 1_000_000))
        printer.give_up()
        await printer.write_line(line("dropped"))
        await printer.aclose()


async def test_what_comes_from_standard_error_has_a_red_bar(pipe: Pipe) -> None:
    printer = PlainPrinter(["api"], environ={"FORCE_COLOR": "1"}, stdout=pipe.writer)
    async with running(printer):
        await printer.write_line(line("fine"))
        await printer.write_line(OutputLine(time=moment(0.0), process="api", stream="stderr", text="oh no"))
        await printer.aclose()
    fine, bad = (await pipe.read()).decode().splitlines()
    assert fine == "\x1b[38;5;33mapi       | \x1b[0mfine"
    assert bad == "\x1b[38;5;33mapi       \x1b[31m| \x1b[0moh no"


async def test_closing_waits_for_a_reader_that_makes_progress(pipe: Pipe) -> None:
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)
    got = b""
    async with running(printer), trio.open_nursery() as nursery:
        for index in range(20):
            await printer.write_line(line(f"{index} " + "x" * 50_000))
        is_closed = trio.Event()

        async def close() -> None:
            await printer.aclose()
            is_closed.set()

        nursery.start_soon(close)
        await trio.testing.wait_all_tasks_blocked()
        assert not is_closed.is_set()
        while got.count(b"\n") < 20:
            got += await pipe.read(8192)
        await is_closed.wait()
    assert got.count(b"\n") == 20


async def test_closing_gives_up_on_a_reader_that_does_not_read(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(printers, "_GIVE_UP", 0.05)
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)
    async with running(printer):
        await printer.write_line(line("x" * 1_000_000))
        await printer.aclose()


async def test_standard_output_stays_blocking(pipe: Pipe) -> None:
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)
    async with running(printer):
        await printer.write_line(line("x"))
        await printer.aclose()
        assert os.get_blocking(pipe.writer)


async def test_standard_output_that_somebody_else_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)
    got = b""
    async with running(printer):
        for _ in range(10):
            await printer.write_line(line("x" * 100_000))
        while got.count(b"\n") < 10:
            got += await pipe.read()


async def test_plain_output_does_not_pay_for_rich() -> None:
    import sys

    code = "import sys, orchestra.dashboard.printers; print('rich' in sys.modules)"
    process = await trio.run_process([sys.executable, "-c", code], capture_stdout=True)
    assert process.stdout == b"False\n"


async def test_all_who_wait_for_room_get_it() -> None:
    """Four processes that write faster than they are read all come to an end."""
    reader, writer = os.pipe()
    printer = PlainPrinter(list("abcd"), environ={}, stdout=writer)
    received: list[bytes] = []

    async def produce(process: str) -> None:
        for number in range(3000):
            line = f"{number} {'x' * 1000}"
            await printer.write_line(OutputLine(process=process, stream="stdout", text=line))
            if number % 50 == 0:
                await trio.lowlevel.checkpoint()

    def read() -> None:
        while chunk := os.read(reader, 65536):
            received.append(chunk)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, read)
        async with trio.open_nursery() as producing:
            await nursery.start(printer.run)
            for process in "abcd":
                producing.start_soon(produce, process)
        await printer.aclose()
        os.close(writer)
        nursery.cancel_scope.cancel()
    os.close(reader)
    lines = b"".join(received).decode().splitlines()
    for process in "abcd":
        numbers = [int(line.split()[2]) for line in lines if line.startswith(f"{process} ")]
        assert numbers == list(range(3000))


async def test_a_begun_line_is_visible_in_a_pipe_and_marked_as_one(pipe: Pipe) -> None:
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)
    async with running(printer):
        printer.observe(begun("Name? "))
        got = await pipe.read()
        assert got.decode() == "api       … Name? \n"
        printer.observe(begun("Name? A"))
        await printer.write_line(line("Name? Ada"))
        await printer.write_line(line("Bye"))
        while not got.endswith(b"Bye\n"):
            got += await pipe.read()
    assert got.decode() == "api       … Name? \napi       | Name? Ada\napi       | Bye\n"


async def test_a_begun_line_is_visible_though_something_else_is_just_being_written(pipe: Pipe) -> None:
    printer = PlainPrinter(["api"], environ={}, stdout=pipe.writer)
    async with running(printer):
        printer.observe(READY)
        printer.observe(begun("Name? "))
        got = b""
        with trio.move_on_after(5):
            while b"Name? " not in got:
                await trio.lowlevel.wait_readable(pipe.reader)
                got += os.read(pipe.reader, 65536)
    assert b"Name? " in got


async def test_json_tells_nothing_of_begun_lines() -> None:
    shown = await printed(lambda fd: JsonPrinter(stdout=fd), begun("Na"), line("Name"))
    assert [json.loads(each)["text"] for each in shown] == ["Name"]


class Terminal:
    """A terminal of 40 columns to print to, and what it shows."""

    def __init__(self) -> None:
        self._controller, self.fd = os.openpty()
        import termios

        termios.tcsetwinsize(self.fd, (10, 40))
        self._screen = pyte.Screen(40, 10)
        self._stream = pyte.ByteStream(self._screen)

    def close(self) -> None:
        os.close(self._controller)
        os.close(self.fd)

    async def shows(self, *rows: str) -> None:
        """Wait until it shows exactly these rows."""
        while self.rows != list(rows):
            with trio.move_on_after(5) as limit:
                await trio.lowlevel.wait_readable(self._controller)
            assert not limit.cancelled_caught, self.rows
            self._stream.feed(os.read(self._controller, 65536))

    @property
    def rows(self) -> list[str]:
        return [row.rstrip() for row in self._screen.display if row.strip()]


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


def on(terminal: Terminal) -> PlainPrinter:
    return PlainPrinter(["api", "web"], environ={"NO_COLOR": "1"}, stdout=terminal.fd)


async def test_on_a_terminal_a_begun_line_is_replaced_in_place(terminal: Terminal) -> None:
    printer = on(terminal)
    async with running(printer):
        printer.observe(begun("10%"))
        await terminal.shows("api       | 10%")
        printer.observe(begun("9% again"))
        await terminal.shows("api       | 9% again")
        await printer.write_line(line("other", "web"))
        await terminal.shows("web       | other", "api       | 9% again")
        printer.observe(READY)
        await printer.write_line(line("done"))
        await terminal.shows(
            "web       | other",
            "orchestra | api is ready in 0.8 s at htt",
            "p://127.0.0.1:5001",
            "api       | done",
        )


async def test_on_a_terminal_a_begun_line_that_is_taken_back_is_gone(terminal: Terminal) -> None:
    printer = on(terminal)
    async with running(printer):
        printer.observe(begun("10%"))
        await terminal.shows("api       | 10%")
        printer.observe(begun(""))
        await printer.write_line(line("other", "web"))
        await terminal.shows("web       | other")


async def test_on_a_terminal_a_begun_line_that_becomes_a_blank_one_is_gone(terminal: Terminal) -> None:
    """A progress bar that clears itself, after a blank line: which is the second one, and not shown."""
    printer = on(terminal)
    async with running(printer):
        await printer.write_line(line(""))
        printer.observe(begun("10%"))
        await terminal.shows("api       |", "api       | 10%")
        await printer.write_line(line(""))
        await printer.write_line(line("other", "web"))
        await terminal.shows("api       |", "web       | other")


async def test_on_a_terminal_nobody_takes_back_the_begun_line_of_another_one(terminal: Terminal) -> None:
    printer = on(terminal)
    async with running(printer):
        printer.observe(begun("10%", "web"))
        printer.observe(begun("Name? "))
        await terminal.shows("api       | Name?")
        printer.observe(begun("", "web"))
        await printer.write_line(line("other", "web"))
        await terminal.shows("web       | other", "api       | Name?")


async def test_on_a_terminal_a_begun_line_that_is_too_long_is_cut_and_completed_whole(
    terminal: Terminal,
) -> None:
    printer = on(terminal)
    async with running(printer):
        printer.observe(begun("x" * 100))
        await terminal.shows(f"api       | {'x' * 27}")
        await printer.write_line(line("x" * 30))
        await terminal.shows(f"api       | {'x' * 28}", "xx")


async def test_on_a_terminal_many_blank_lines_are_one_and_through_a_pipe_they_are_all(
    terminal: Terminal,
) -> None:
    lines = [line("a"), *[line("") for _ in range(30)], line("b")]
    assert len(await printed(plain("api"), *lines)) == 32
    printer = on(terminal)
    async with running(printer):
        for each in lines:
            await printer.write_line(each)
        await terminal.shows("api       | a", "api       |", "api       | b")
