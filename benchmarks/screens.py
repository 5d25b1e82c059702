"""What the dashboard takes: busy with lines and requests, and while nothing happens."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shlex
import socket
import sys
import termios
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import psutil

from benchmarks.harness import MIB, Report, answers, free_port, interleaved
from benchmarks.peers import PROGRAMS, orchestra_command
from benchmarks.runners import mprocs, running, write_procfile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from benchmarks.harness import Options, Running

__all__ = ["WHAT", "dashboard"]

PROCESSES, LINES, REQUESTS = 20, 2_000, 500
WHAT = f"{PROCESSES} processes, {LINES:,} lines and {REQUESTS} requests a second"
_ADDRESS = free_port()
_CONNECTIONS = 8
# Begins a synchronized update: a picture.
_PICTURE = b"\x1b[?2026h"
_REQUEST = b"GET /api/items/%d HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n"


def _ours(folder: Path, commands: Sequence[str]) -> Sequence[str]:
    write_procfile(folder, commands)
    return orchestra_command("--output", "dashboard", "--listen", f"127.0.0.1:{_ADDRESS}")


_RUNNERS: Mapping[str, Callable[[Path, Sequence[str]], Sequence[str]]] = {
    "orchestra, dashboard": _ours,
    "mprocs, without requests": mprocs,
}


def dashboard(options: Options) -> Report:
    """Measure pictures a second and CPU, of orchestra with requests through it, of mprocs without."""
    report, seconds = Report(), options.pick(10.0, 3.0)

    def measure(name: str) -> dict[str, float]:
        busy = _measured(name, LINES, seconds)
        return busy | {"idle % CPU": _measured(name, 0, seconds)["busy % CPU"]}

    found = interleaved(_RUNNERS, measure, rounds=options.round_count(3))
    units = {"busy % CPU": "{:.1f}", "pictures/s": "{:.1f}", "requests/s": "{:.0f}", "idle % CPU": "{:.1f}"}
    report.compare(WHAT, found, units)
    return report


def _measured(name: str, lines: int, seconds: float) -> dict[str, float]:
    """Let it draw for a while, on a terminal of 160 x 50."""
    is_ours = name.startswith("orchestra")
    writer = shlex.join([sys.executable, str(PROGRAMS / "pace.py"), str(lines // PROCESSES)])
    server = shlex.join([sys.executable, str(PROGRAMS / "origin.py")])
    commands = [f"exec {writer}"] * (PROCESSES - 1)
    commands.append(f"exec {server} $PORT" if is_ours else f"exec {writer}")
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, 160))
    with contextlib.ExitStack() as stack:
        started, _ = stack.enter_context(running(_RUNNERS[name], commands, terminal=theirs))
        os.close(theirs)
        pictures = stack.enter_context(_counted(partial(_read, ours)))
        if is_ours:
            started.wait_for(answers(_ADDRESS, "/api/items/0"), "the proxy does not answer")
        answered = stack.enter_context(_counted(_ask)) if is_ours and lines else [0]
        time.sleep(20 if seconds > 3 else 3)  # until all have started, and are looked at rarely
        before = _own_cpu(started), pictures[0], answered[0]
        time.sleep(seconds)
        cpu, drawn, asked = _own_cpu(started) - before[0], pictures[0] - before[1], answered[0] - before[2]
    found = {"busy % CPU": cpu / seconds * 100}
    return found | {"pictures/s": drawn / seconds, "requests/s": asked / seconds} if is_ours else found


def _own_cpu(started: Running) -> float:
    """Return the seconds of CPU of the runner and its helpers, without the processes that it runs."""
    total = 0.0
    for each in started.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            if not {str(PROGRAMS / "pace.py"), str(PROGRAMS / "origin.py")} & set(each.cmdline()):
                times = each.cpu_times()
                total += times.user + times.system
    return total


@contextlib.contextmanager
def _counted(work: Callable[[list[int], threading.Event], None]) -> Iterator[list[int]]:
    """Run something in a thread that counts in a list, until the block ends."""
    count, over = [0], threading.Event()
    thread = threading.Thread(target=work, args=(count, over))
    thread.start()
    try:
        yield count
    finally:
        over.set()
        thread.join()


def _read(terminal: int, count: list[int], over: threading.Event) -> None:
    """Read what is drawn, and count the pictures."""
    with os.fdopen(terminal, "rb", 0) as screen, contextlib.suppress(OSError):
        while not over.is_set():
            if select.select([screen], [], [], 0.1)[0]:
                count[0] += screen.read(MIB).count(_PICTURE)


def _ask(count: list[int], over: threading.Event) -> None:
    """Ask at an even pace, over connections that take turns."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        address = ("127.0.0.1", _ADDRESS)
        open_ = [stack.enter_context(socket.create_connection(address, 10)) for _ in range(_CONNECTIONS)]
        begun, asked = time.monotonic(), 0
        while not over.wait(0.01):
            due = int((time.monotonic() - begun) * REQUESTS)
            for number in range(asked, due, _CONNECTIONS):
                batch = open_[: due - number]
                for at, each in enumerate(batch):
                    each.sendall(_REQUEST % (number + at))
                for each in batch:
                    while b"\r\n\r\n" not in each.recv(65536):
                        pass
                count[0] += len(batch)
            asked = due
