"""Orchestra as a runner of processes beside others: lines, start, memory, stop."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import termios
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from benchmarks.harness import HERE, MIB, Failed, Report, Running, interleaved
from benchmarks.peers import ORCHESTRA_ENVIRONMENT, installed_npm, installed_pip, orchestra_command, program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.harness import Options

__all__ = ["lines", "memory", "mprocs", "running", "start", "stop", "write_procfile"]

LIMIT = 120.0


def write_procfile(folder: Path, commands: Sequence[str]) -> None:
    """Write a Procfile of these commands: p0, p1, ..."""
    entries = "".join(f"p{at}: {command}\n" for at, command in enumerate(commands))
    (folder / "Procfile").write_text(entries)


def _orchestra(folder: Path, commands: Sequence[str], output: str = "plain") -> Sequence[str]:
    write_procfile(folder, commands)
    return orchestra_command("--no-proxy", "--output", output)


def _honcho(folder: Path, commands: Sequence[str]) -> Sequence[str]:
    write_procfile(folder, commands)
    return [str(installed_pip() / "honcho"), "start"]


def _foreman(folder: Path, commands: Sequence[str]) -> Sequence[str]:
    write_procfile(folder, commands)
    return [program("foreman"), "start"]


def _concurrently(folder: Path, commands: Sequence[str]) -> Sequence[str]:
    del folder
    return [str(installed_npm() / "node_modules/.bin/concurrently"), *commands]


def mprocs(folder: Path, commands: Sequence[str]) -> Sequence[str]:
    """Give the command of mprocs."""
    del folder
    return [str(installed_npm() / "node_modules/.bin/mprocs"), *commands]


RUNNERS: Mapping[str, Callable[[Path, Sequence[str]], Sequence[str]]] = {
    "orchestra": _orchestra,
    "honcho": _honcho,
    "foreman": _foreman,
    "concurrently": _concurrently,
}
# They draw on a terminal.
DRAWING: Mapping[str, Callable[[Path, Sequence[str]], Sequence[str]]] = {
    "orchestra, dashboard": partial(_orchestra, output="dashboard"),
    "mprocs": mprocs,
}


@contextlib.contextmanager
def running(
    make: Callable[[Path, Sequence[str]], Sequence[str]],
    commands: Sequence[str],
    *,
    output: int | None = subprocess.DEVNULL,
    terminal: int | None = None,
) -> Iterator[tuple[Running, Path]]:
    """Run commands in a folder of their own; what is to be done there uses `{folder}`.

    Args:
        make: Gives the command of the runner, and prepares the folder for it.
        commands: What it runs.
        output: As for `Running`.
        terminal: Likewise.
    """
    with tempfile.TemporaryDirectory(prefix="orchestra-benchmark-") as place:
        folder = Path(place)
        there = [command.replace("{folder}", place) for command in commands]
        command = make(folder, there)
        with Running(
            command, cwd=folder, env=ORCHESTRA_ENVIRONMENT, output=output, terminal=terminal
        ) as started:
            yield started, folder


def _run(
    name: str,
    commands: Sequence[str],
    *,
    output: int | None = subprocess.DEVNULL,
    terminal: int | None = None,
) -> contextlib.AbstractContextManager[tuple[Running, Path]]:
    return running({**RUNNERS, **DRAWING}[name], commands, output=output, terminal=terminal)


# --- lines ---

# One that is neither split nor mixed with another: `programs/lines.py`, behind the name of its process.
_WHOLE = re.compile(rb"^[^G\n]*GET[^G\n]* end\n", re.MULTILINE)


def lines(options: Options) -> Report:
    """Measure how many lines a second pass, of one process and of four."""
    report, count = Report(), options.pick(200_000, 20_000)
    rounds = options.round_count(5)
    for processes in (1, 4):
        command = shlex.join([sys.executable, str(HERE / "programs/lines.py"), str(count // processes)])
        commands = [f"{command} {{folder}}/took{at}" for at in range(processes)]
        found = interleaved(RUNNERS, partial(_piped, commands, count), rounds=rounds)
        if processes == 1:
            found |= interleaved(DRAWING, partial(_drawn, commands, count), rounds=rounds)
        what = f"lines of {processes} process{'es' if processes > 1 else ''}"
        report.compare(what, found, {"lines/s": "{:,.0f}", "whole": "{:.0%}"})
    return report


def _piped(commands: Sequence[str], count: int, name: str) -> dict[str, float]:
    """Read everything from a pipe, and count the lines that are whole."""
    read, write = os.pipe()
    with _run(name, commands, output=write) as (started, _), os.fdopen(read, "rb", 0) as pipe:
        os.close(write)
        whole, rest, begun, ended = 0, b"", 0.0, 0.0
        while whole < count and select.select([pipe], [], [], LIMIT)[0] and (data := pipe.read(MIB)):
            done, newline, rest = (rest + data).rpartition(b"\n")
            if more := len(_WHOLE.findall(done + newline)):
                begun, ended = begun or time.perf_counter(), time.perf_counter()
                whole += more
        if not whole:
            raise Failed(f"{name} passed no line on: {rest[-300:]!r}\n{started.last_lines()}")
    return {"lines/s": whole / (ended - begun), "whole": whole / count}


def _drawn(commands: Sequence[str], count: int, name: str) -> dict[str, float]:
    """Draw on a terminal, and see how long the process needs to get rid of its lines."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 120))
    with _run(name, commands, terminal=theirs) as (started, folder), os.fdopen(ours, "rb", 0) as screen:
        os.close(theirs)
        took, deadline = folder / "took0", time.monotonic() + LIMIT
        while not (took.exists() and took.read_text()):
            if started.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{name} did not take the lines")
            if select.select([screen], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):
                    screen.read(MIB)
        return {"lines/s": count / float(took.read_text())}


# --- start ---


def start(options: Options) -> Report:
    """Measure the time from exec to the first line of a process; of bare Python, to its end."""
    report = Report()
    bare = "python -c 'import trio'"
    names = ("orchestra", "honcho", "foreman", bare)
    found = interleaved(
        names,
        lambda name: _bare() if name == bare else _started(name),
        rounds=options.round_count(20, quick=3),
    )
    report.compare("start to the first line of a process", found, {"ms": "{:,.0f}"})
    return report


def _started(name: str) -> dict[str, float]:
    read, write = os.pipe()
    with contextlib.ExitStack() as stack:
        pipe = stack.enter_context(os.fdopen(read, "rb", 0))
        begun = time.perf_counter()
        stack.enter_context(_run(name, ["echo hello"], output=write))
        os.close(write)
        said = b""
        while b"hello" not in said:
            data = pipe.read(65536)
            if not data:
                raise Failed(f"{name} ended after {said!r}")
            said += data
        return {"ms": (time.perf_counter() - begun) * 1000}


def _bare() -> dict[str, float]:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import trio"], check=True)
    return {"ms": (time.perf_counter() - begun) * 1000}


# --- memory and stop ---

_SLEEP = "exec sleep 3600"


def _sleeping(started: Running) -> int:
    count = 0
    for each in started.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            count += each.name() == "sleep"
    return count


def _own_memory(started: Running) -> float:
    """Return MiB of the runner and its helpers, without the processes that it runs."""
    total = 0
    for each in started.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            total += each.memory_full_info().pss if each.name() not in ("sleep", "sh") else 0
    return total / MIB


def memory(options: Options) -> Report:
    """Measure the memory of a runner with 2 and with 10 processes, and its CPU while they do nothing."""
    report = Report()

    def measure(name: str) -> dict[str, float]:
        figures = {}
        for count in (2, 10):
            with _run(name, [_SLEEP] * count) as (started, _):
                _await_all(started, count)
                time.sleep(
                    options.pick(5.0, 1.0)
                )  # until its files are watched, and all are looked at rarely
                figures[f"MiB with {count}"] = _own_memory(started)
                before = started.cpu()
                seconds = options.pick(5.0, 1.0)
                time.sleep(seconds)
                figures[f"% CPU with {count}"] = (started.cpu() - before) / seconds * 100
        return figures

    found = interleaved(RUNNERS, measure, rounds=options.round_count(3))
    units = {"MiB with 2": "{:.1f}", "MiB with 10": "{:.1f}", "% CPU with 10": "{:.1f}"}
    report.compare("memory of the runner (PSS) and its CPU, processes asleep", found, units)
    return report


def _await_all(started: Running, count: int) -> None:
    started.wait_for(lambda: _sleeping(started) == count, f"not all of {count} processes were started")


def stop(options: Options) -> Report:
    """Measure how long stopping many processes takes."""
    report = Report()
    counts = options.pick((10, 25, 50, 100, 200, 400), (10, 50))

    def measure(name: str) -> dict[str, float]:
        figures = {}
        for count in counts:
            with _run(name, [_SLEEP] * count) as (started, _):
                _await_all(started, count)
                # What is in the middle of starting has time to finish.
                time.sleep(0.5)
                figures[f"{count}"] = started.stop(signal.SIGTERM)
                if started.process.returncode == -signal.SIGKILL:
                    raise Failed(f"{name} did not stop {count} processes")
        return figures

    found = interleaved(("orchestra", "honcho"), measure, rounds=options.round_count(3))
    report.compare(
        "seconds to stop so many sleeping processes", found, {f"{count}": "{:.2f}" for count in counts}
    )
    return report
