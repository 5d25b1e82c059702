"""Nothing survives: whatever the children are like, and however orchestra ends."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.kit import COMMAND, PATIENCE, Run, called, marked
from tests.process_kit import Mark, linux_only, open_files, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

GRANDCHILDREN = "sh -c 'sh -c \"sleep 1000; true\"; true'"
# dash hands ignored signals on, so that its sleep ignores them as well.
STUBBORN = "trap '' TERM INT HUP; echo up; while :; do sleep 1000; done"
# Its leader ends at SIGTERM; the one that it has started does not.
EARLY_LEADER = f'sh -c "{STUBBORN}" & wait'
# Forks twice, begins a session of its own, and lets its parents end.
DAEMON = "(setsid sleep 1000 &); echo up; sleep 1000"
DAEMON_OF_THE_LATE = "(setsid sleep 1000 &); sleep 1000 & echo up"


def write(folder: Path, settings: str = "", **processes: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "Procfile").write_text("".join(f"{name}: {command}\n" for name, command in processes.items()))
    (folder / "orchestra.toml").write_text(
        settings + "".join(f"[process.{name}]\nstop_timeout = 0.3\n" for name in processes)
    )
    return folder


@linux_only
@pytest.mark.parametrize("pty", ["false", "true"])
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_no_kind_of_child_survives_a_signal_to_orchestra(
    tmp_path: Path, number: signal.Signals, code: int, pty: str
) -> None:
    mark = Mark()
    write(tmp_path, grand=GRANDCHILDREN, stubborn=STUBBORN, early=EARLY_LEADER, daemon=DAEMON)
    settings = (tmp_path / "orchestra.toml").read_text()
    (tmp_path / "orchestra.toml").write_text(settings.replace("stop_timeout", f"pty = {pty}\nstop_timeout"))
    with Run(cwd=tmp_path, env=mark.env) as run:
        for name in ("stubborn", "early", "daemon"):
            run.line(name, "up")
        # The sleeps of: grand, stubborn, early, daemon (two).
        until(lambda: sum(": sleep 1000" in line for line in mark.living()) == 5, mark.living)
        assert run.stop(number) == code
        assert mark.living() == []
        assert run.errors == ""


# Forks, lets its parent end, and begins a session of its own, again and again: a photograph misses it.
RUNAWAY = """
import os, signal, time
for number in (1, 2, 15):
    signal.signal(number, signal.SIG_IGN)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    time.sleep(0.02)
    open("alive", "a").close()
    os.utime("alive")
    if os.fork():
        os._exit(0)
    os.setsid()
"""


@linux_only
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_daemon_that_runs_away_all_the_time_is_caught(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "runaway.py").write_text(RUNAWAY)
    write(tmp_path, runaway="python3 runaway.py & echo up; sleep 1000")
    alive = tmp_path / "alive"
    with Run(cwd=tmp_path) as run:
        run.line("runaway", "up")
        until(alive.exists, lambda: "it never ran")
        assert run.stop(number) == (143 if number is signal.SIGTERM else -signal.SIGKILL)

    def is_still() -> bool:
        before = alive.stat().st_mtime_ns
        time.sleep(0.5)
        return alive.stat().st_mtime_ns == before

    if number is signal.SIGTERM:
        assert is_still()
    else:
        until(is_still, lambda: "it is still running away")


@linux_only
def test_a_daemon_that_has_left_its_session_ends_with_its_process(tmp_path: Path) -> None:
    mark = Mark()
    write(tmp_path, late=DAEMON_OF_THE_LATE, other="sleep 999")
    with Run(cwd=tmp_path, env=mark.env) as run:
        run.line("late", "up")
        run.state("late", "completed")
        assert mark.count("sleep 1000") == 0
        run.state("other", "running")
        until(lambda: mark.count("sleep 999") > 0, mark.living)
        run.stop()
        assert mark.living() == []


@linux_only
def test_nothing_survives_sigkill_and_the_guardian_ends_too(tmp_path: Path) -> None:
    mark = Mark()
    write(tmp_path, grand=GRANDCHILDREN, stubborn=STUBBORN, early=EARLY_LEADER, daemon=DAEMON)
    with Run(cwd=tmp_path, env=mark.env) as run:
        for name in ("stubborn", "early", "daemon"):
            run.line(name, "up")
        until(lambda: sum(": sleep 1000" in line for line in mark.living()) == 5, mark.living)
        assert mark.count("guardian.py") == 1
        assert run.stop(signal.SIGKILL) == -signal.SIGKILL
        mark.until_none_is_left()


@linux_only
def test_nothing_survives_sigkill_if_children_have_terminals(tmp_path: Path) -> None:
    mark = Mark()
    write(tmp_path, grand=GRANDCHILDREN, daemon="trap '' HUP; " + DAEMON)
    settings = (tmp_path / "orchestra.toml").read_text()
    (tmp_path / "orchestra.toml").write_text(settings.replace("stop_timeout", "pty = true\nstop_timeout"))
    with Run(cwd=tmp_path, env=mark.env) as run:
        run.line("daemon", "up")
        until(lambda: sum(": sleep 1000" in line for line in mark.living()) == 3, mark.living)
        assert run.stop(signal.SIGKILL) == -signal.SIGKILL
        mark.until_none_is_left()


@linux_only
def test_nothing_survives_sigkill_of_the_whole_process_group(tmp_path: Path) -> None:
    mark = Mark()
    write(tmp_path, a=GRANDCHILDREN, b=DAEMON)
    process = subprocess.Popen(
        [*COMMAND, "run", "--output", "plain"],
        cwd=tmp_path,
        env={**os.environ, **mark.env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    with process:
        until(lambda: sum(": sleep 1000" in line for line in mark.living()) == 3, mark.living)
        os.killpg(process.pid, signal.SIGKILL)
    mark.until_none_is_left()


@linux_only
def test_a_run_within_a_run_survives_neither_of_them(tmp_path: Path) -> None:
    mark = Mark()
    write(tmp_path / "inner", a=GRANDCHILDREN, b=DAEMON)
    write(tmp_path, inner=f"cd inner && exec {' '.join(COMMAND)} run --output plain", other="sleep 999")
    with Run(cwd=tmp_path, env=mark.env) as run:
        run.line("inner", "up")
        until(lambda: sum(": sleep 1000" in line for line in mark.living()) == 3, mark.living)
        assert run.stop(signal.SIGKILL) == -signal.SIGKILL
        mark.until_none_is_left()


class _Instants:
    """Kills orchestra at random instants; every attempt has its own folder's processes, and its own mark."""

    PROCFILE = (
        "a: echo up; sh -c 'sleep 1000; true'\n"
        "b: (setsid sleep 1000 &); echo up; sleep 1000\n"
        "c: (setsid sleep 1000 &); sleep 1000 & echo up\n"
    )

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        (folder / "Procfile").write_text(self.PROCFILE)
        (folder / "orchestra.toml").write_text("[process.c]\nrestart = 'always'\n")

    def of_start_up(self, count: int, longest: float) -> list[list[str]]:
        return self._all(self._kill_while_it_starts, count, longest)

    def of_shutdown(self, count: int, longest: float) -> list[list[str]]:
        return self._all(self._kill_while_it_stops, count, longest)

    def _all(self, attempt: object, count: int, longest: float) -> list[list[str]]:
        assert callable(attempt)
        delays = [self._random.uniform(0, longest) for _ in range(count)]
        with ThreadPoolExecutor(6) as pool:
            return list(pool.map(attempt, delays))

    def _start(self, mark: Mark) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, "run", "--output", "plain"],
            cwd=self._folder,
            env={**os.environ, **mark.env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _kill_while_it_starts(self, delay: float) -> list[str]:
        mark = Mark()
        with self._start(mark) as process:
            time.sleep(delay)  # the instant; nothing settles here
            process.kill()
        return self._left(mark, f"killed {delay} s after its start")

    def _kill_while_it_stops(self, delay: float) -> list[str]:
        mark = Mark()
        with self._start(mark) as process:
            assert process.stdout is not None
            seen: set[str] = set()
            while len(seen) < 3:
                line = process.stdout.readline()
                assert line, "it has ended by itself"
                if line.endswith("| up\n"):
                    seen.add(line.split()[0])
            process.send_signal(signal.SIGTERM)
            time.sleep(delay)  # likewise
            process.kill()
        return self._left(mark, f"killed {delay} s after SIGTERM")

    @staticmethod
    def _left(mark: Mark, when: str) -> list[str]:
        deadline = time.monotonic() + PATIENCE / 3
        while mark.living() and time.monotonic() < deadline:
            time.sleep(0.1)
        return [f"{when}: {line}" for line in mark.living()]


# Six at a time on two processors: it takes three times as long as one alone to be up, and to be gone.
@linux_only
@pytest.mark.parametrize("seed", range(2))
def test_nothing_survives_sigkill_at_random_instants_of_start_up(tmp_path: Path, seed: int) -> None:
    assert [left for left in _Instants(tmp_path, seed).of_start_up(25, longest=1.2) if left] == []


@linux_only
@pytest.mark.parametrize("seed", range(2))
def test_nothing_survives_sigkill_at_random_instants_of_shutdown(tmp_path: Path, seed: int) -> None:
    assert [left for left in _Instants(tmp_path, seed).of_shutdown(12, longest=0.3) if left] == []


def test_cooperative_children_are_asked_together(tmp_path: Path) -> None:
    # Each ends only when all have been asked: one after another, it would take ten times 1000 seconds.
    polite = (
        "trap 'touch asked.$NAME; while [ $(ls asked.* | wc -l) -lt 10 ]; do sleep 0.02; done; exit 0' TERM; "
        "echo up; while :; do sleep 0.02; done"
    )
    names = [f"p{number}" for number in range(10)]
    (tmp_path / "Procfile").write_text("".join(f"{name}: NAME={name}; {polite}\n" for name in names))
    (tmp_path / "orchestra.toml").write_text(
        "".join(f"[process.{name}]\nstop_timeout = 1000\n" for name in names)
    )
    with Run(cwd=tmp_path) as run:
        for name in names:
            run.line(name, "up")
        assert run.stop(signal.SIGTERM) == 143
        ends = {event["process"]: event["signal"] for event in run.events if event.get("state") == "stopped"}
        assert ends == dict.fromkeys(names)


def test_ten_stubborn_children_are_waited_for_together(tmp_path: Path) -> None:
    names = [f"p{number}" for number in range(10)]
    (tmp_path / "Procfile").write_text("".join(f"{name}: {STUBBORN}\n" for name in names))
    # The first one has the longest time: it would end first if the others waited for it, and the others would
    # end after it if they waited for each other.
    timeouts = dict.fromkeys(names, 0.5) | {"p0": 2.5}
    (tmp_path / "orchestra.toml").write_text(
        "".join(f"[process.{name}]\nstop_timeout = {timeout}\n" for name, timeout in timeouts.items())
    )
    with Run(cwd=tmp_path) as run:
        for name in names:
            run.line(name, "up")
        run_id = run.run_id
        assert run.stop(signal.SIGTERM) == 143
        changes = [event for event in run.events if event["type"] == "process.state"]
        ends = [event for event in changes if event["state"] == "stopped"]
        assert [event["state"] for event in changes[-20:-10]] == ["stopping"] * 10
        assert [event["signal"] for event in ends] == ["SIGKILL"] * 10
        assert ends[-1]["process"] == "p0"
        assert marked(run_id) == []


def test_a_second_ctrl_c_kills_what_has_left_the_session(tmp_path: Path) -> None:
    mark = Mark()
    daemon = f'(setsid sh -c "{STUBBORN}" &); sleep 1000'
    (tmp_path / "Procfile").write_text(f"a: {daemon}\n")
    (tmp_path / "orchestra.toml").write_text("[process.a]\nstop_timeout = 1000\n")
    with Run(cwd=tmp_path, env=mark.env) as run:
        run.line("a", "up")
        run.process.send_signal(signal.SIGINT)
        run.state("a", "stopping")
        assert run.stop(signal.SIGINT) == 130
        assert mark.living() == []


@pytest.mark.parametrize("pty", ["false", "true"])
def test_twenty_restarts_leave_the_open_files_of_a_run_as_they_were(tmp_path: Path, pty: str) -> None:
    names = [f"p{number}" for number in range(5)]
    # SIGTERM from the test ends it well; `always` starts it again after the shortest back-off.
    write(tmp_path, **dict.fromkeys(names, "trap 'exit 0' TERM; echo up; while :; do sleep 0.02; done"))
    settings = (tmp_path / "orchestra.toml").read_text()
    (tmp_path / "orchestra.toml").write_text(
        settings.replace("stop_timeout", f'restart = "always"\npty = {pty}\nstop_timeout')
    )
    # Files are watched from a second after the start on, and that has some open.
    with Run("--no-reload", cwd=tmp_path) as run:
        since = dict.fromkeys(names, 0)

        def all_up() -> int:
            for name in names:
                run.line(name, "up", since=since[name])
                since[name] = len(run.events)
            return open_files(run.process.pid)

        def pids() -> list[int]:
            newest = {
                event["process"]: event["pid"]
                for event in run.events
                if event["type"] == "process.state" and event["pid"]
            }
            return list(newest.values())

        before = all_up()
        for number in range(4):
            mark = len(run.events)
            since = dict.fromkeys(names, mark)
            for pid in pids():
                os.kill(pid, signal.SIGTERM)
            up = all_up()
            if number < 2:  # the log of the run has been opened by now
                before = max(before, up)
        # A look at the system has a file open for a moment.
        until(lambda: open_files(run.process.pid) <= before, lambda: (open_files(run.process.pid), before))
        restarts = [event["restarts"] for event in run.events if event["type"] == "process.state"]
        assert max(restarts) == 4
        assert run.stop() == 130


@linux_only
@pytest.mark.parametrize("pty", ["false", "true"])
@pytest.mark.parametrize(
    "ignored",
    [
        pytest.param("INT QUIT", id="shell-in-the-background"),
        pytest.param("HUP", id="nohup"),
        pytest.param("INT QUIT HUP TERM", id="all-that-end-a-run"),
        pytest.param("PIPE TSTP TTIN TTOU USR1 USR2 ALRM WINCH", id="others"),
    ],
)
def test_children_get_default_signal_dispositions(tmp_path: Path, ignored: str, pty: str) -> None:
    write(tmp_path, a="grep -E 'Sig(Ign|Blk)' /proc/self/status")
    settings = (tmp_path / "orchestra.toml").read_text()
    (tmp_path / "orchestra.toml").write_text(settings.replace("stop_timeout", f"pty = {pty}\nstop_timeout"))
    ignoring = f"trap '' {ignored}; exec \"$@\""
    done = called("/bin/sh", "-c", ignoring, "sh", *COMMAND, "run", "--output", "plain", cwd=tmp_path)
    assert done.stderr == ""
    # Not those that the C library keeps for itself: from Python 3.13 on what pytest starts ignores them.
    ordinary = sum(1 << number - 1 for number in signal.valid_signals())
    shown = (line.split()[2:] for line in done.stdout.splitlines() if "Sig" in line)
    masks = {name: int(mask, 16) & ordinary for name, mask in shown}
    assert masks == {"SigBlk:": 0, "SigIgn:": 0}


@pytest.mark.parametrize("name", ["HUP", "INT"])
def test_a_signal_that_was_ignored_at_our_start_does_not_end_us(tmp_path: Path, name: str) -> None:
    """That is what `nohup` asks for, and a shell for what it starts in the background."""
    write(tmp_path, a="echo up; sleep 1000")
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"trap '' {name}; exec \"$@\"", "sh", *COMMAND, "run", "--output", "plain"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        while not process.stdout.readline().endswith("| up\n"):
            pass
        process.send_signal(signal.Signals[f"SIG{name}"])
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 143


@linux_only
def test_head_ends_the_run_and_all_that_it_has_started(tmp_path: Path) -> None:
    mark = Mark()
    write(tmp_path, a="while echo line; do :; done", b=DAEMON)
    script = '"$@" | head -1; echo "${PIPESTATUS[0]}"'
    done = called("bash", "-c", script, "bash", *COMMAND, "run", cwd=tmp_path, env=mark.env)
    assert done.stdout.splitlines()[1:] == ["141"]
    assert done.stderr == ""
    assert mark.living() == []
