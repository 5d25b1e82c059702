"""The guardian: a small process beside orchestra that ends what it would leave behind, should it be killed.

It is started before the first child, in a session of its own, and is told of each child on its standard
input, one line each: ``+ PID`` when one was spawned, ``- PID`` when nothing is left of its session, ``bye``
at a proper end; ``screen PATH`` while a terminal shows the dashboard, ``screen`` when it has been given back.
When orchestra is gone without that (its end of the pipe is closed, or the process itself has
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
    from collections.abc import Callable, Iterator

# To end a synchronized update, colours, the dashboard's switches, and the alternate screen.
LEAVE_SCREEN = b"\x1b[?2026l\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
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
    leaders: dict[int, str] = {}
    terminals: set[bytes] = set()
    if not watch(parent, leaders, terminals):
        for terminal in terminals:
            give_back(terminal)
        clean_up(leaders, f"ORCHESTRA_RUN={run_id}".encode())


def watch(parent: int, leaders: dict[int, str], terminals: set[bytes]) -> bool:
    """Follow the reports until orchestra is gone; return whether that was a proper end.

    Args:
        parent: Its process id.
        leaders: Is kept to be the leaders of the sessions that are left, and when each has started.
        terminals: Is kept to be the terminals that show the dashboard.
    """
    unread = b""
    is_gone = wait_for(parent)
    while True:
        is_over = is_gone()
        while select.select([0], [], [], 0)[0]:
            chunk = os.read(0, 65536)
            if not chunk:
                return False
            *reports, unread = (unread + chunk).split(b"\n")
            for report in reports:
                match report.split():
                    case [b"+", pid]:
                        leaders[int(pid)] = started(int(pid))
                    case [b"-", pid]:
                        leaders.pop(int(pid), None)
                    case [b"screen", *paths]:
                        terminals.clear()
                        terminals.update(paths)
                    case [b"bye"]:
                        return True
                    case _:
                        pass
        if is_over:
            return False


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


def give_back(path: bytes) -> None:
    """Show a terminal's own screen and cursor again; its shell mends its modes by itself."""
    with suppress(OSError):
        terminal = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        os.write(terminal, LEAVE_SCREEN)
        os.close(terminal)


def clean_up(leaders: dict[int, str], mark: bytes) -> None:
    """End all that is left: ask first, insist after `PATIENCE`."""
    asked: set[tuple[int, str]] = set()
    deadline = time.monotonic() + PATIENCE
    is_last = False
    for _ in range(ROUNDS):
        while True:
            is_late = time.monotonic() >= deadline
            is_empty = True
            for pid, since in survivors(leaders, mark):
                is_empty = False
                if is_late or (pid, since) not in asked:
                    asked.add((pid, since))
                    send(pid, since, signal.SIGKILL if is_late else signal.SIGTERM)
            if is_late or is_empty:
                break
            time.sleep(PAUSE)
        if is_empty:
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


def survivors(leaders: dict[int, str], mark: bytes) -> Iterator[tuple[int, str]]:
    """Find who is left of our sessions, or carries our mark: process ids, and when each has started.

    One by one, as soon as each is seen: who forks and ends again and again is not there for long.
    """
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
            yield pid, since


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


def process_ids() -> Iterator[int]:
    """All of them; on Linux also those that appear meanwhile: who is alive at the end has been seen."""
    if sys.platform != "linux":
        yield from map(int, ask("-A", "-o", "pid=").split())
        return
    seen: set[str] = set()
    for _ in range(ROUNDS):
        new = {name for name in os.listdir("/proc") if name.isdigit()} - seen  # noqa: PTH208 - no pathlib here
        if not new:
            return
        seen |= new
        yield from sorted(map(int, new))


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
