from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from orchestra.child import table
from orchestra.child.spawn import SpawnError, run_child
from orchestra.events import Exit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.child.spawn import Child
    from orchestra.events import StreamName

pytestmark = pytest.mark.real

ENV = dict(os.environ)


class Recorder:
    """What came out of a child, and the child."""

    def __init__(self) -> None:
        self.lines: list[tuple[StreamName, str]] = []
        self.partials: list[str] = []
        self.child: Child | None = None
        self.spawned = trio.Event()
        self.heard = trio.Event()

    def on_spawn(self, child: Child) -> None:
        self.child = child
        self.spawned.set()

    async def on_output(self, name: StreamName, lines: Sequence[str], partial: str | None) -> None:
        self.lines += [(name, line) for line in lines]
        if partial is not None:
            self.partials.append(partial)
        if name == "stdout" and lines:  # bash complains on the other one that it has no terminal
            self.heard.set()

    async def run(self, command: str | Sequence[str], **more: Any) -> Exit:
        usual = {"cwd": Path("/"), "on_output": self.on_output, "stop_timeout": 5.0}
        return await run_child(command, env=ENV, on_spawn=self.on_spawn, **{**usual, **more})

    async def until_all_are_gone(self) -> None:
        while self.child is None or not self.child.is_gone:  # noqa: ASYNC110 - there is no event for it
            await trio.sleep(0.01)

    @property
    def session(self) -> int:
        assert self.child is not None
        return self.child.pid

    def survivors(self) -> set[int]:
        family = table.Family(self.session)
        return {entry.pid for entry in table.find([family]).get(family, ())}


async def test_both_streams_are_read_to_their_unfinished_last_lines() -> None:
    recorder = Recorder()
    how = await recorder.run("echo out; echo err >&2; printf 'no end'; exit 7")
    assert how == Exit(code=7)
    assert sorted(recorder.lines) == [("stderr", "err"), ("stdout", "no end"), ("stdout", "out")]


async def test_a_program_can_be_given_as_words_that_no_shell_reads() -> None:
    recorder = Recorder()
    await recorder.run(["echo", "$HOME; *"])
    assert recorder.lines == [("stdout", "$HOME; *")]


async def test_a_child_leads_a_session_of_its_own_and_its_input_stays_open() -> None:
    recorder = Recorder()
    script = "ps -o pid=,sid=,pgid= -p $$; exec 3<&0; read line <&3 & wait $!; echo never"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run, script)
        await recorder.heard.wait()
        assert recorder.lines[0][1].split() == [str(recorder.session)] * 3
        assert recorder.child is not None
        recorder.child.stop()
    assert "never" not in [line for _, line in recorder.lines]


async def test_what_the_leader_leaves_behind_is_ended_with_it() -> None:
    recorder = Recorder()
    assert await recorder.run("sleep 1000 & (sleep 1000; true) & exit 3") == Exit(code=3)
    assert recorder.survivors() == set()


async def test_stop_reaches_grandchildren_in_other_process_groups() -> None:
    recorder = Recorder()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run, "bash -mc 'sleep 1000 & echo up; wait'; true")
        await recorder.heard.wait()
        assert len(recorder.survivors()) >= 3
        assert recorder.child is not None
        recorder.child.stop()
    assert recorder.survivors() == set()


async def test_a_fork_after_the_stop_signal_is_killed_at_the_timeout() -> None:
    # The shell forks on being asked, and ends.
    recorder = Recorder()
    command = "trap 'sleep 1000 & exit 3' TERM; echo up; while :; do sleep 0.02; done"
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            ended.append(await recorder.run(command, stop_timeout=0.3))

        ended: list[Exit] = []
        nursery.start_soon(run)
        await recorder.heard.wait()
        assert recorder.child is not None
        recorder.child.stop()
    assert [exit_.code for exit_ in ended] == [3]
    assert not recorder.survivors()


async def test_a_child_that_ignores_sigterm_is_killed_after_its_timeout() -> None:
    recorder = Recorder()
    ends = []

    async def run() -> None:
        ends.append(
            await recorder.run("trap '' TERM INT; echo up; sleep 1000 & wait; wait", stop_timeout=0.2)
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await recorder.heard.wait()
        assert recorder.child is not None
        recorder.child.stop()
    assert ends == [Exit(signal=signal.SIGKILL)]
    assert recorder.survivors() == set()


async def test_an_escaped_grandchild_that_holds_the_pipe_does_not_hold_us() -> None:
    recorder = Recorder()
    how = await recorder.run("setsid sleep 3 & exit 0")
    assert how == Exit(code=0)


async def test_output_of_a_slow_reader_is_whole() -> None:
    received: list[str] = []

    async def slowly(_name: StreamName, lines: Sequence[str], _partial: str | None) -> None:
        await trio.lowlevel.checkpoint()
        received.extend(lines)

    await Recorder().run("seq 1 200000", on_output=slowly)
    assert received == [str(number) for number in range(1, 200001)]


async def test_a_command_gets_its_file_limit_and_leads_its_session() -> None:
    recorder = Recorder()
    await recorder.run("ulimit -Sn; ps -o sid= -p $$; exit 3", soft_nofile=77)
    assert [line.split() for _, line in recorder.lines] == [["77"], [str(recorder.session)]]


async def test_a_missing_folder_is_an_error_that_names_it() -> None:
    with pytest.raises(SpawnError, match="/nowhere/at/all"):
        await Recorder().run("true", cwd=Path("/nowhere/at/all"))


async def test_many_children_leave_no_descriptor_behind() -> None:
    def open_files() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    await Recorder().run("true")
    before = open_files()
    for _ in range(20):
        await Recorder().run("true")
    assert open_files() == before


async def let_all_timeouts_pass(clock: trio.testing.MockClock) -> None:
    """Put the clock forward, and again for the timeouts that begin when others have passed."""
    for _ in range(3):
        clock.jump(6)
        await trio.testing.wait_all_tasks_blocked(0.05)


@pytest.mark.ceiling(60)
async def test_a_slow_reader_gets_all_output_though_a_grandchild_was_left(
    clock_to_put_forward: trio.testing.MockClock,
) -> None:
    may_read = trio.Event()
    received: list[str] = []
    recorder = Recorder()

    async def slowly(_name: StreamName, lines: Sequence[str], _partial: str | None) -> None:
        await may_read.wait()
        received.extend(lines)

    async def run() -> None:
        # The background job has to be stopped: that begins what used to end in giving up.
        await recorder.run("sleep 1000 & seq 1 5000", on_output=slowly)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await recorder.until_all_are_gone()
        await let_all_timeouts_pass(clock_to_put_forward)
        may_read.set()
    assert received == [str(number) for number in range(1, 5001)]


@pytest.mark.ceiling(60)
async def test_no_signal_is_sent_once_the_family_is_gone(
    monkeypatch: pytest.MonkeyPatch, clock_to_put_forward: trio.testing.MockClock
) -> None:
    """Its output may still be read then, but the number of its group may belong to another process."""
    reading, may_read = trio.Event(), trio.Event()
    signalled: list[tuple[int, int]] = []
    recorder = Recorder()

    async def slowly(_name: StreamName, _lines: Sequence[str], _partial: str | None) -> None:
        reading.set()
        await may_read.wait()

    async def run() -> None:
        await recorder.run("echo up", on_output=slowly, stop_timeout=0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await reading.wait()
        await recorder.until_all_are_gone()
        monkeypatch.setattr(os, "killpg", lambda *what: signalled.append(what))
        assert recorder.child is not None
        recorder.child.stop()
        await let_all_timeouts_pass(clock_to_put_forward)
        may_read.set()
    assert signalled == []


async def test_to_cancel_is_to_kill_even_a_large_family() -> None:
    for _ in range(10):
        recorder = Recorder()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                jobs = "for i in 1 2 3 4 5 6 7 8 9 10; do sleep 1000 & done"
                nursery.start_soon(recorder.run, f"trap '' TERM; {jobs}; echo up; wait")
                await recorder.heard.wait()
                scope.cancel()
        assert recorder.survivors() == set()
