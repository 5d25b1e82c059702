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

from orchestra.child import guardian
from orchestra.child.guard import guarded
from tests.kit import PATIENCE
from tests.process_kit import Mark, linux_only

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.real


class Guarded:
    """A guardian, somebody whom it watches instead of orchestra, and the pipe between the two."""

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


def test_after_a_proper_end_nobody_is_touched() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.say(f"+ {child.pid}\nbye\n")
        assert guarded.end() == 0
        assert child.poll() is None


@pytest.mark.parametrize("how", ["die", "hang_up"])
def test_whom_it_was_told_of_ends_when_the_watched_one_is_gone(how: str) -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.say(f"+ {child.pid}\n")
        getattr(guarded, how)()
        assert guarded.end() == 0
        assert child.wait(PATIENCE) == -signal.SIGTERM


@linux_only
def test_an_end_is_noticed_although_somebody_still_holds_the_pipe() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.say(f"+ {child.pid}\n")
        guarded.watched.kill()  # and the pipe stays open
        assert guarded.end() == 0
        assert child.wait(PATIENCE) == -signal.SIGTERM


def test_it_ends_at_once_when_whom_it_should_watch_has_ended_before_it_began() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.say(f"+ {child.pid}\n")
        guarded.die()
        with Guarded() as late:
            late.watched.kill()
            late.watched.wait()
            late.hang_up()
            assert late.end() == 0


def test_who_was_reported_gone_is_not_looked_for() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.say(f"+ {child.pid}\n- {child.pid}\n")
        guarded.die()
        assert guarded.end() == 0
        assert child.poll() is None


@linux_only
def test_who_carries_the_mark_is_found_without_a_report() -> None:
    with Guarded() as guarded:
        child, stranger = guarded.marked(UP), guarded.child(UP)
        guarded.die()
        assert guarded.end() == 0
        assert child.wait(PATIENCE) == -signal.SIGTERM
        assert stranger.poll() is None


@linux_only
@pytest.mark.ceiling(60)
def test_who_does_not_heed_sigterm_is_killed_and_the_others_need_not_be() -> None:
    with Guarded() as guarded:
        stubborn = guarded.marked("trap '' TERM; echo up; while :; do sleep 1000; done")
        polite = guarded.marked("trap 'exit 9' TERM; echo up; while :; do sleep 0.02; done")
        guarded.die()
        assert guarded.end() == 0
        assert stubborn.wait(PATIENCE) == -signal.SIGKILL
        assert polite.wait(PATIENCE) == 9


@linux_only
def test_who_was_stopped_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian, "PATIENCE", 0.1)
    monkeypatch.setattr(guardian, "is_held", lambda: False)  # our standard input is no pipe of orchestra's
    with Guarded() as guarded:
        child = guarded.marked(UP)
        child.send_signal(signal.SIGSTOP)
        guardian.clean_up({}, f"ORCHESTRA_RUN={guarded.run_id}".encode())
        assert child.wait(PATIENCE) in (-signal.SIGKILL, -signal.SIGTERM)


@linux_only
def test_who_is_being_spawned_while_orchestra_is_killed_ends_too() -> None:
    """Between fork and exec a child has neither a mark nor was it reported, but it still holds the pipe."""
    with Guarded() as guarded:
        # The pipe is let go of by being executed, as orchestra's is, and not a moment before it.
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
        # It takes a moment between the two; whoever has not waited for it has ended by then.
        with contextlib.suppress(subprocess.TimeoutExpired):
            guarded.guardian.wait(0.3)
        assert forked.stdin is not None
        forked.stdin.write(b"\n")
        forked.stdin.close()
        assert guarded.end() == 0
        assert forked.poll() == -signal.SIGTERM


def test_a_number_that_was_used_again_is_not_signalled() -> None:
    with Guarded() as guarded:
        child = guarded.child("trap 'echo asked; exit 0' USR1; echo up; while :; do sleep 0.02; done")
        assert child.stdout is not None
        since = guardian.started(child.pid)
        assert since
        guardian.send(child.pid, f"{since}0", signal.SIGKILL)
        guardian.send(child.pid, since, signal.SIGUSR1)
        # SIGKILL would have come first.
        assert child.stdout.readline() == "asked\n"
        assert child.wait(PATIENCE) == 0


def test_a_session_whose_number_was_used_again_is_not_ours() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        since = guardian.started(child.pid)
        assert child.pid in dict(guardian.survivors({child.pid: since}, b"none"))
        assert dict(guardian.survivors({child.pid: f"{since}0"}, b"none")) == {}


def test_the_session_of_a_leader_that_has_ended_is_still_ours() -> None:
    with Guarded() as guarded:
        # The sleep holds the pipe that the leader's line comes by, and goes on.
        leader = guarded.child("sleep 1000 & echo $!; exit 0")
        leader.wait(PATIENCE)
        (left,) = dict(guardian.survivors({leader.pid: ""}, b"none"))
        assert os.getsid(left) == leader.pid
        os.kill(left, signal.SIGKILL)


def test_no_signal_of_a_terminal_or_a_system_that_shuts_down_ends_it_early() -> None:
    with Guarded() as guarded:
        child = guarded.child(UP)
        guarded.say(f"+ {child.pid}\n")
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


async def test_a_block_that_is_left_properly_leaves_no_guardian_and_no_files() -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    async with guarded("0123456789abcdef") as guard:
        guard.spawned(1)
        guard.emptied(1)
    assert len(list(Path("/dev/fd").iterdir())) == before


async def test_a_guardian_that_is_gone_costs_its_protection_and_not_the_run() -> None:
    import psutil

    before = {each.pid for each in psutil.Process().children()}
    async with guarded("0123456789abcdef") as guard:
        (pid,) = {each.pid for each in psutil.Process().children()} - before
        os.kill(pid, signal.SIGKILL)
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110 - nobody tells us
            await trio.sleep(0.01)
        guard.spawned(1)
        guard.emptied(1)


def test_it_imports_nothing_but_what_every_python_has() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({guardian.__file__!r})"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
