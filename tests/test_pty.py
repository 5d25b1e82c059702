"""A child on a terminal of its own: what it sees of it, and what we read from it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from orchestra import Plan, ProcessPlan, Restart, State, Supervisor
from orchestra.child import spawn
from orchestra.child.spawn import SpawnError, Window, run_child
from orchestra.errors import OrchestraError
from orchestra.events import Exit
from orchestra.supervision import lifecycle
from tests.process_kit import linux_only, open_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.child.spawn import Child
    from orchestra.events import Event, StreamName

pytestmark = pytest.mark.real


class Recorder:
    """A child, on a terminal if there is a window, and what it has written."""

    def __init__(self, window: Window | None) -> None:
        self.window = window
        self.lines: list[str] = []
        self.streams: set[StreamName] = set()
        self.partial: str | None = None
        self.child: Child | None = None
        self._heard = trio.Event()

    def _on_spawn(self, child: Child) -> None:
        self.child = child

    async def _on_output(self, name: StreamName, lines: Sequence[str], partial: str | None) -> None:
        self.streams.add(name)
        self.lines += lines
        if partial is not None:
            self.partial = partial
        self._heard.set()
        self._heard = trio.Event()

    async def run(self, command: str | Sequence[str], *, cwd: Path = Path("/")) -> Exit:
        return await run_child(
            command,
            cwd=cwd,
            env=dict(os.environ),
            on_spawn=self._on_spawn,
            on_output=self._on_output,
            stop_timeout=5,
            window=self.window,
        )

    async def until(self, line: str) -> None:
        while line not in self.lines:
            await self._heard.wait()

    async def until_partial(self, text: str) -> None:
        while self.partial != text:
            await self._heard.wait()

    def type(self, keys: bytes) -> None:
        """Press keys, as a user at the terminal does."""
        assert self.window is not None
        (controller,) = self.window._terminals
        os.write(controller.fileno(), keys)


def python(script: str) -> list[str]:
    return [sys.executable, "-S", "-c", script]


async def test_all_three_are_terminals() -> None:
    recorder = Recorder(Window(80, 24))
    await recorder.run("for fd in 0 1 2; do test -t $fd && echo yes; done")
    assert recorder.lines == ["yes"] * 3
    assert recorder.streams == {"pty"}


async def test_without_a_window_none_is_a_terminal() -> None:
    recorder = Recorder(None)
    await recorder.run("for fd in 0 1 2; do test -t $fd || echo no; done")
    assert recorder.lines == ["no"] * 3


async def test_the_terminal_is_the_controlling_one_and_the_child_has_it() -> None:
    recorder = Recorder(Window(80, 24))
    await recorder.run("ps -o tty=,sid=,pgid=,tpgid= -p $$; tty; echo by name >/dev/tty")
    assert recorder.child is not None
    pid = str(recorder.child.pid)
    terminal, *numbers = recorder.lines[0].split()
    assert numbers == [pid] * 3
    assert recorder.lines[1:] == [f"/dev/{terminal}", "by name"]


async def test_it_is_as_large_as_the_window_and_follows_it() -> None:
    window = Window(100, 30)
    recorder = Recorder(window)
    script = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGWINCH, lambda *_: print(*os.get_terminal_size(0), flush=True))\n"
        "print(*os.get_terminal_size(0), flush=True)\n"
        "while True: time.sleep(0.05)"
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run, python(script))
        await recorder.until("100 30")
        window.resize(61, 17)
        await recorder.until("61 17")
        assert recorder.child is not None
        recorder.child.kill()


async def test_a_child_that_is_started_later_has_the_size_of_then() -> None:
    window = Window(100, 30)
    window.resize(61, 17)
    recorder = Recorder(window)
    await recorder.run("stty size")
    assert recorder.lines == ["17 61"]


async def test_ctrl_c_and_ctrl_z_reach_the_child_as_signals() -> None:
    recorder = Recorder(Window(80, 24))
    script = "trap 'echo interrupted' INT; trap 'echo suspended' TSTP; echo up; while :; do sleep 0.02; done"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run, script)
        await recorder.until("up")
        recorder.type(b"\x03")
        await recorder.until("interrupted")
        recorder.type(b"\x1a")
        await recorder.until("suspended")
        assert recorder.child is not None
        recorder.child.kill()


async def test_line_ends_are_not_translated_and_what_is_typed_is_not_shown() -> None:
    recorder = Recorder(Window(80, 24))
    await recorder.run("stty -a")
    modes = " ".join(recorder.lines).replace(";", "").split()
    assert {"-opost", "-echo", "isig"} <= set(modes)


@pytest.mark.parametrize(
    "window", [None, Window(80, 24), Window(80, 24, echoes=True)], ids=["pipes", "terminal", "echo"]
)
async def test_a_child_reads_what_it_is_sent(window: Window | None) -> None:
    recorder = Recorder(window)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run, "printf 'Name? '; read name; echo hello $name")
        await recorder.until_partial("Name? ")
        assert recorder.child is not None
        await recorder.child.send(b"Ada\n")
        await recorder.until("Name? Ada" if window and window.echoes else "Name? hello Ada")


async def test_input_that_is_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn, "_SEND_TIMEOUT", 0.05)
    recorder = Recorder(None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run, "echo up; exec sleep 1000")
        await recorder.until("up")
        assert recorder.child is not None
        with pytest.raises(OrchestraError, match="does not read"):
            await recorder.child.send(b"x" * 1_000_000)
        recorder.child.kill()


# Asked at once and without waiting: at its end, or if anything had been written, there would be something to
# read.
@pytest.mark.parametrize("window", [None, Window(80, 24)], ids=["pipes", "terminal"])
async def test_standard_input_is_open_and_stays_silent(window: Window | None) -> None:
    recorder = Recorder(window)
    await recorder.run(python("import select; print(select.select([0], [], [], 0)[0])"))
    assert recorder.lines == ["[]"]


@pytest.mark.parametrize("window", [None, Window(80, 24)], ids=["pipes", "terminal"])
async def test_a_child_has_no_other_files_than_its_three(window: Window | None) -> None:
    recorder = Recorder(window)
    # Python itself opens the folder to list it: the fourth.
    await recorder.run(python("import os; print(sorted(map(int, os.listdir('/dev/fd'))))"))
    assert recorder.lines == ["[0, 1, 2, 3]"]


@pytest.mark.parametrize("window", [None, Window(80, 24)], ids=["pipes", "terminal"])
async def test_a_line_without_end_is_told_while_its_writer_waits(window: Window | None) -> None:
    recorder = Recorder(window)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run, "echo before; printf 'Password: '; sleep 1000")
        await recorder.until_partial("Password: ")
        assert recorder.lines == ["before"]
        assert recorder.child is not None
        recorder.child.stop()
    assert recorder.lines == ["before", "Password: "]


@pytest.mark.parametrize("window", [None, Window(80, 24)], ids=["pipes", "terminal"])
async def test_all_is_read_from_a_child_that_ends_at_once(window: Window | None) -> None:
    for number in range(20):
        recorder = Recorder(window)
        assert await recorder.run(f"printf 'one\\n%s' {number}; exit 3") == Exit(code=3)
        assert recorder.lines == ["one", str(number)]


async def test_unread_output_of_a_terminal_is_whole() -> None:
    recorder = Recorder(Window(80, 24))
    await recorder.run("seq 1 50000")
    assert recorder.lines == [str(number) for number in range(1, 50001)]


async def test_a_missing_folder_leaves_no_terminal_behind() -> None:
    window = Window(80, 24)
    before = open_files()
    for _ in range(3):
        with pytest.raises(SpawnError, match="/no/where"):
            await Recorder(window).run("true", cwd=Path("/no/where"))
    assert open_files() == before
    assert repr(window) == "<Window 80x24 of 0 terminals>"


async def test_a_child_ends_with_its_own_code_or_signal() -> None:
    assert await Recorder(Window(80, 24)).run("exit 7") == Exit(code=7)
    assert await Recorder(Window(80, 24)).run("kill -9 $$") == Exit(signal=9)


async def test_background_jobs_of_a_terminal_end_with_the_leader() -> None:
    recorder = Recorder(Window(80, 24))
    assert await recorder.run("trap '' HUP; sleep 1000 & exit 3") == Exit(code=3)


@pytest.mark.parametrize("window", [None, Window(80, 24)], ids=["pipes", "terminal"])
async def test_twenty_restarts_leave_the_files_and_tasks_as_they_were(
    window: Window | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle, "FIRST_BACK_OFF", 0.001)
    plan = ProcessPlan(name="a", command="echo up; sleep 1000", restart=Restart.ALWAYS, max_quick_failures=99)
    monkeypatch.setattr(lifecycle, "LONGEST_BACK_OFF", 0.001)
    supervisor = Supervisor(Plan(processes=(plan,)), window=window)
    ups = 0
    is_up = trio.Event()

    def watch(event: Event) -> None:
        nonlocal ups
        if getattr(event, "text", "") == "up":
            ups += 1
            is_up.set()

    supervisor.subscribe(watch)
    counts: list[tuple[int, int]] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        for _ in range(21):
            await is_up.wait()
            is_up = trio.Event()
            counts.append((open_files(), trio.lowlevel.current_statistics().tasks_living))
            pid = supervisor.snapshot()["a"].pid
            assert pid is not None
            os.kill(pid, 9)
        await supervisor.stop()
    assert len(counts) == 21
    assert counts[-1] == counts[0]
    assert supervisor.snapshot()["a"].state is State.STOPPED


@linux_only
async def test_a_window_forgets_the_terminals_of_children_that_have_ended() -> None:
    window = Window(80, 24)
    await Recorder(window).run("true")
    assert repr(window) == "<Window 80x24 of 0 terminals>"
