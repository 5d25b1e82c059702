"""The guardian: a small process beside orchestra that ends what it would leave behind, should it be killed.

It is started before the first child, in a session of its own, and is told of each child on its standard
input, one line each: ``+ PID`` when one was spawned, ``- PID`` when nothing is left of its session, ``bye``
at a proper end. When orchestra is gone without that (its end of the pipe is closed, or the process itself has
ended, whichever is seen first), every session that is left gets SIGTERM, and after `PATIENCE` SIGKILL. On
Linux so does whatever carries the run's mark in its environment: that finds processes that have left their
session, and children that were spawned but not reported any more.

A process whose number was used again is not signalled: it is known by its number and by when it started.

Run as a script: ``python -I -S guardian.py RUN_ID ORCHESTRA_PID``. Standard library only, nothing of ours:
it is there for as long as orchestra is, so it has to be small.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# What a process gets by default when orchestra itself stops it.
PATIENCE = 5.0
# Whoever forks while it is being killed is found in the next round, and so is whoever was just being spawned.
# After so many rounds, something is wrong that we cannot mend.
ROUNDS = 100
PAUSE = 0.05


def main() -> None:
    """Watch, and clean up if need be."""
    run_id, parent = sys.argv[1], int(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    leaders = watch(parent)
    if leaders is not None:
        clean_up(leaders, f"ORCHESTRA_RUN={run_id}".encode())


def watch(parent: int) -> dict[int, str] | None:
    """Follow the reports until orchestra is gone.

    Returns:
        The leaders of the sessions that are left, and when each has started; ``None`` after a proper end.
    """
    leaders: dict[int, str] = {}
    unread = b""
    is_gone = wait_for(parent)
    while True:
        is_over = is_gone()
        while select.select([0], [], [], 0)[0]:
            chunk = os.read(0, 65536)
            if not chunk:
                return leaders
            *reports, unread = (unread + chunk).split(b"\n")
            for report in reports:
                match report.split():
                    case [b"+", pid]:
                        leaders[int(pid)] = started(int(pid))
                    case [b"-", pid]:
                        leaders.pop(int(pid), None)
                    case [b"bye"]:
                        return None
                    case _:
                        pass
        if is_over:
            return leaders


def wait_for(parent: int) -> Callable[[], bool]:
    """Make a function that waits for a report or for the end of `parent`, and returns whether it was that."""
    with suppress(OSError):
        if sys.platform == "linux":
            poll, descriptor = select.poll(), os.pidfd_open(parent)
            poll.register(0, select.POLLIN)
            poll.register(descriptor, select.POLLIN)
            return lambda: descriptor in dict(poll.poll())
        else:  # noqa: RET505 - so that a type checker sees that the systems differ
            queue = select.kqueue()
            once = select.KQ_EV_ADD | select.KQ_EV_ONESHOT
            exits = select.kevent(parent, select.KQ_FILTER_PROC, once, select.KQ_NOTE_EXIT)
            queue.control([exits, select.kevent(0, select.KQ_FILTER_READ, select.KQ_EV_ADD)], 0)
            return lambda: any(event.filter == select.KQ_FILTER_PROC for event in queue.control(None, 2))
    # It has ended already, or the system is too old to tell: the pipe's end does.
    return lambda: not select.select([0], [], [])[0]


def clean_up(leaders: dict[int, str], mark: bytes) -> None:
    """End all that is left: ask first, insist after `PATIENCE`."""
    asked: set[tuple[int, str]] = set()
    deadline = time.monotonic() + PATIENCE
    is_last = False
    for _ in range(ROUNDS):
        while left := survivors(leaders, mark):
            is_late = time.monotonic() >= deadline
            for pid, since in left.items():
                if is_late or (pid, since) not in asked:
                    asked.add((pid, since))
                    send(pid, since, signal.SIGKILL if is_late else signal.SIGTERM)
            if is_late:
                break
            time.sleep(PAUSE)
        else:
            if is_last:
                return
            # Whoever has let go of the pipe has its mark a moment later: one more round.
            is_last = not is_held()
        time.sleep(PAUSE)


def is_held() -> bool:
    """Say whether somebody still holds the other end of the pipe.

    After orchestra's end that is a child between fork and exec: it has no mark yet, and was not reported.
    """
    while select.select([0], [], [], 0)[0]:
        if not os.read(0, 65536):
            return False
    return True


def survivors(leaders: dict[int, str], mark: bytes) -> dict[int, str]:
    """Find who is left of our sessions, or carries our mark: process ids, and when each has started."""
    left = {}
    for pid in process_ids():
        if pid == os.getpid():
            continue
        try:
            session = os.getsid(pid)
        except OSError:
            continue
        since = started(pid)
        # While a session has members, the system gives its number to nobody else; if there is a process of
        # that number, it is its leader, and has to be the one that we know.
        is_ours = session in leaders and started(session) in ("", leaders[session])
        if since and (is_ours or has_mark(pid, mark)):
            left[pid] = since
    return left


def send(pid: int, since: str, number: int) -> None:
    """Signal a process, if it is still the one that we mean."""
    with suppress(OSError):
        if sys.platform == "linux":
            descriptor = os.pidfd_open(pid)  # from here on, it is this one or nobody
            try:
                if started(pid) == since:
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)
        elif started(pid) == since:
            os.kill(pid, number)


def process_ids() -> list[int]:
    """All of them."""
    if sys.platform == "linux":
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 - no pathlib here
    return [int(pid) for pid in ask("-A", "-o", "pid=").split()]


def started(pid: int) -> str:
    """Say when a process has started, in whatever unit; empty if there is none, or only its zombie."""
    if sys.platform == "linux":
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - likewise
                stat = file.read()
        except OSError:
            return ""
        fields = stat[stat.rindex(b")") + 2 :].split()  # proc(5): from the third on
        return "" if fields[0] in b"ZX" else fields[19].decode()
    state, _, since = ask("-p", str(pid), "-o", "stat=,lstart=").partition(" ")
    return "" if state.startswith("Z") else since.strip()


def has_mark(pid: int, mark: bytes) -> bool:
    """Say whether a process had the mark in its environment when it was executed. Only Linux tells."""
    if sys.platform != "linux":
        return False
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:  # noqa: PTH123 - likewise
            return mark in file.read().split(b"\0")
    except OSError:
        return False


def ask(*arguments: str) -> str:
    """Ask ``ps``."""
    import subprocess  # noqa: PLC0415 - as large as everything else here, and on Linux not needed

    return subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    main()
