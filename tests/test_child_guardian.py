"""The guardian by itself: a script that watches over a process, which here is a test's."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import trio

from orchestra.child import guardian, table
from orchestra.child.guard import guarded
from tests.kit import PATIENCE, called
from tests.process_kit import Mark, linux_only

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.real


class Guarded:
    """A guardian, a process that it watches instead of orchestra, and the pipe between the two."""

    def __init__(self) -> None:
        self.run_id = secrets.token_hex(8)
        self.mark = Mark()
        environ = {**os.environ, **self.mark.env}
        self.watched = subprocess.Popen(["sleep", "1000"], env=environ)
        theirs, self.pipe = os.pipe()
        self.guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, self.run_id, str(self.watched.pid)],
            stdin=theirs,
            env=environ,
            start_new_session=True,
        )
        os.close(theirs)
        self.others: list[subprocess.Popen[Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.hang_up()
        self.mark.kill()
        for process in (self.watched, self.guardian, *self.others):
            process.wait(PATIENCE)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def say(self, report: str) -> None:
        os.write(self.pipe, report.encode())

    def report(self, child: subprocess.Popen[str], stop_signal: int = 15, stop_timeout: float = 5.0) -> None:
        self.say(f"+ {child.pid} {stop_signal} {stop_timeout}\n")

    def hang_up(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1

    def die(self) -> None:
        """As orchestra would by SIGKILL."""
        self.watched.kill()
        self.watched.wait()
        self.hang_up()

    def child(
        self, command: str, *, env: Mapping[str, str] | None = None, is_leader: bool = True
    ) -> subprocess.Popen[str]:
        """A child that has written a line."""
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.mark.env, **(env or {})},
            start_new_session=is_leader,
        )
        self.others.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def marked(self, command: str) -> subprocess.Popen[str]:
        return self.child(command, env={"ORCHESTRA_RUN": self.run_id}, is_leader=False)

    def end(self) -> int:
        return self.guardian.wait(PATIENCE)


UP = "echo up; sleep 1000; true"


def test_after_a_proper_end_nothing_is_touched() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.report(child)
        guarded.say("bye\n")
        assert guarded.end() == 0
        assert child.poll() is None


@pytest.mark.parametrize("how", ["die", "hang_up"])
def test_reported_children_end_when_the_watched_process_is_gone(how: str) -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.report(child)
        getattr(guarded, how)()
        assert guarded.end() == 0
        assert child.wait(PATIENCE) == -signal.SIGTERM


@linux_only
def test_an_end_is_noticed_although_the_pipe_is_still_held() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.report(child)
        guarded.watched.kill()  # and the pipe stays open
        assert child.wait(PATIENCE) == -signal.SIGTERM
        guarded.hang_up()  # it waits for what may still be forked there, for seven seconds
        assert guarded.end() == 0


def test_it_ends_at_once_if_the_watched_process_is_already_gone() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.report(child)
        guarded.die()
        with Guarded() as late:
            late.watched.kill()
            late.watched.wait()
            late.hang_up()
            assert late.end() == 0


def test_a_child_reported_gone_is_not_looked_for() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.report(child)
        guarded.say(f"- {child.pid}\n")
        guarded.die()
        assert guarded.end() == 0
        assert child.poll() is None


@linux_only
def test_a_process_with_the_mark_is_found_without_a_report() -> None:
    with Guarded() as guarded:
        child, stranger = guarded.marked(UP), guarded.child(UP)
        guarded.die()
        assert guarded.end() == 0
        assert child.wait(PATIENCE) == -signal.SIGTERM
        assert stranger.poll() is None


@linux_only
@pytest.mark.ceiling(60)
def test_a_process_that_ignores_sigterm_is_killed_and_others_are_not() -> None:
    with Guarded() as guarded:
        stubborn = guarded.marked("trap '' TERM; echo up; while :; do sleep 1000; done")
        polite = guarded.marked("trap 'exit 9' TERM; echo up; while :; do sleep 0.02; done")
        guarded.die()
        assert guarded.end() == 0
        assert stubborn.wait(PATIENCE) == -signal.SIGKILL
        assert polite.wait(PATIENCE) == 9


@linux_only
def test_a_stopped_process_ends_too() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        child.send_signal(signal.SIGSTOP)
        # Until it has stopped, SIGTERM would still end it.
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        guarded.report(child, stop_timeout=0.1)
        guarded.die()
        assert guarded.end() == 0
        assert child.wait(PATIENCE) == -signal.SIGKILL


@linux_only
def test_a_child_being_spawned_when_orchestra_is_killed_ends_too() -> None:
    """Between fork and exec a child has neither a mark nor was it reported, but it still holds the pipe."""
    with Guarded() as guarded:
        # exec closes the pipe, as in orchestra's children; until then the child holds it.
        script = (
            "import os, sys\n"
            "sys.stdin.readline()\n"
            f"os.set_inheritable({guarded.pipe}, False)\n"
            f"environ = dict(os.environ, ORCHESTRA_RUN={guarded.run_id!r})\n"
            "os.execvpe('sleep', ['sleep', '1000'], environ)"
        )
        forked = subprocess.Popen(
            [sys.executable, "-S", "-c", script],
            stdin=subprocess.PIPE,
            pass_fds=[guarded.pipe],
            env={**os.environ, **guarded.mark.env},
        )
        guarded.others.append(forked)
        guarded.say("?\n")
        _until_read(guarded)  # it watches now
        guarded.die()
        # A guardian that did not wait for the pipe to close would have ended by then.
        with contextlib.suppress(subprocess.TimeoutExpired):
            guarded.guardian.wait(0.3)
        assert forked.stdin is not None
        forked.stdin.write(b"\n")
        forked.stdin.close()
        assert guarded.end() == 0
        assert forked.poll() == -signal.SIGTERM


def test_each_child_gets_its_own_stop_signal_and_stop_timeout() -> None:
    with Guarded() as guarded:
        polite = guarded.child("trap 'exit 9' INT; echo up; while :; do sleep 0.02; done")
        stubborn = guarded.child("trap '' QUIT; echo up; while :; do sleep 0.02; done")
        slow = guarded.child("trap 'sleep 1; exit 8' HUP; echo up; while :; do sleep 0.02; done")
        guarded.report(polite, signal.SIGINT, 1000)
        guarded.report(stubborn, signal.SIGQUIT, 0.1)
        guarded.report(slow, signal.SIGHUP, 1000)
        guarded.die()
        assert guarded.end() == 0
        assert [each.wait(PATIENCE) for each in (polite, stubborn, slow)] == [9, -signal.SIGKILL, 8]


def test_the_terminal_is_restored_with_the_given_bytes() -> None:
    with Guarded() as guarded:
        ours, theirs = os.openpty()
        guarded.say(f"screen {b'give back'.hex()} {os.ttyname(theirs)}\n")
        guarded.die()
        assert guarded.end() == 0
        assert os.read(ours, 100) == b"give back"
        os.close(ours)
        os.close(theirs)


def test_a_number_that_was_used_again_is_not_signalled() -> None:
    with Guarded() as guarded:
        child = guarded.child("trap 'echo asked; exit 0' USR1; echo up; while :; do sleep 0.02; done")
        assert child.stdout is not None
        entry, later = table.read(child.pid), table.read(child.pid)
        assert entry is not None
        assert later is not None
        later.started += "0"
        table.send(later, signal.SIGKILL)
        table.send(entry, signal.SIGUSR1)
        # SIGKILL would have come first.
        assert child.stdout.readline() == "asked\n"
        assert child.wait(PATIENCE) == 0


def test_a_session_whose_number_was_used_again_is_not_ours() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        family = guardian.made_of(child.pid)
        assert family in table.find([family])
        family.started += "0"
        assert table.find([family]) == {}


def test_the_session_of_a_leader_that_has_ended_is_still_ours() -> None:
    with Guarded() as guarded:
        # The sleep holds the pipe that the leader's line comes by, and goes on.
        leader = guarded.child("sleep 1000 & echo $!; exit 0")
        leader.wait(PATIENCE)
        family = guardian.made_of(leader.pid)
        ((left,),) = table.find([family]).values()
        assert os.getsid(left.pid) == leader.pid
        os.kill(left.pid, signal.SIGKILL)


def test_signals_of_a_terminal_or_a_shutdown_do_not_end_it() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.report(child)
        # It has read its first report when it has begun in earnest: it ignores signals before that.
        guarded.say("?\n" * 10)
        _until_read(guarded)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            guarded.guardian.send_signal(number)
        guarded.die()
        assert guarded.end() == 0
        assert child.wait(PATIENCE) == -signal.SIGTERM


def _until_read(guarded: Guarded) -> None:
    import fcntl
    import struct
    import termios

    while struct.unpack("i", fcntl.ioctl(guarded.pipe, termios.FIONREAD, b"\0" * 4))[0]:
        pass


async def test_a_proper_end_leaves_no_guardian_and_no_files() -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    async with guarded("0123456789abcdef") as guard:
        guard.spawned(table.Family(1), stop_signal=signal.SIGTERM, stop_timeout=5)
        guard.emptied(table.Family(1))
    assert len(list(Path("/dev/fd").iterdir())) == before


async def test_a_guardian_that_is_gone_costs_its_protection_not_the_run() -> None:
    import psutil

    before = {each.pid for each in psutil.Process().children()}
    async with guarded("0123456789abcdef") as guard:
        (pid,) = {each.pid for each in psutil.Process().children()} - before
        os.kill(pid, signal.SIGKILL)
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - there is no event for it
            await trio.sleep(0.01)
        guard.spawned(table.Family(1), stop_signal=signal.SIGTERM, stop_timeout=5)
        guard.emptied(table.Family(1))


def test_it_imports_nothing_but_what_every_python_has() -> None:
    done = called(sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({guardian.__file__!r})")
    assert (done.returncode, done.stderr) == (0, "")
