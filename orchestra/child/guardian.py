"""The guardian: a small process beside orchestra that ends what is left behind if orchestra is killed.

It is started before the first child, in a session of its own, and reads reports from its standard input, one
a line:

``+ PID SIGNAL SECONDS MARKS``
    A child was spawned: its leader, its stop signal and stop timeout, its marks (hexadecimal).
``- PID``
    No process of it is left.
``screen BYTES PATH``, ``screen``
    A terminal shows the dashboard, and these bytes (hexadecimal) restore it; it has been restored. A terminal
    that is stopped when orchestra ends is restored as soon as it accepts output again.
``bye``
    An orderly end.

When orchestra is gone without ``bye`` (its end of the pipe is closed, or its process has ended, whichever is
noticed first), every remaining family gets its stop signal, and SIGKILL after its stop timeout. On Linux so
does every process that has the run's mark and belongs to no family: a child that was not reported yet.

A process is identified by its number and its start time, so a process that has got the same number later is
never signalled.

Run as a script: ``python -I -S guardian.py RUN_ID ORCHESTRA_PID``. Standard library only, and of ours only
the process table: it lives as long as orchestra does, so it has to be small.
"""

from __future__ import annotations

import os
import select
import sys
import time

TYPE_CHECKING = False  # as in `table`
if TYPE_CHECKING or __package__:
    from orchestra.child import table
else:  # A script under -I does not see its folder, and importing the package would load far too much.
    sys.path.append(os.path.dirname(__file__))  # noqa: PTH120 - no pathlib here
    import table

    sys.path.pop()

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable
else:
    import _signal as signal  # as in `table`

# The stop signal and timeout of a process that was not reported: orchestra's defaults.
USUAL_SIGNAL, USUAL_TIMEOUT = signal.SIGTERM, 5.0
# Seconds after SIGKILL: a process that is still there then cannot be ended by us.
AFTER_KILL = 2.0
PAUSE = 0.05


# A family, its stop signal and its stop timeout.
Child = tuple[table.Family, int, float]


def main() -> None:
    """Watch, and clean up if need be."""
    run_id, parent = sys.argv[1], int(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    children: dict[int, Child] = {}
    screens: dict[bytes, bytes] = {}
    is_proper = watch(parent, children, screens)
    stalled = [screen for screen in screens.items() if not write(*screen, is_waited_for=False)]
    if not is_proper:
        mark = frozenset({f"ORCHESTRA_RUN={run_id}".encode()})
        clean_up([*children.values(), (table.Family(0, mark), USUAL_SIGNAL, USUAL_TIMEOUT)])
    for screen in stalled:
        write(*screen, is_waited_for=True)


def watch(parent: int, children: dict[int, Child], screens: dict[bytes, bytes]) -> bool:
    """Keep `children`, by leader, and `screens`, by path, until orchestra is gone; was it ``bye``?"""
    unread = b""
    is_gone = wait_for(parent)
    while True:
        is_over = is_gone()
        while has_input():
            chunk = os.read(0, 65536)
            if not chunk:
                return False
            *reports, unread = (unread + chunk).split(b"\n")
            for report in reports:
                match report.split():
                    case [b"+", pid, stop_signal, stop_timeout, *marks]:
                        family = made_of(int(pid), *marks)
                        children[family.leader] = family, int(stop_signal), float(stop_timeout)
                    case [b"-", pid]:
                        children.pop(int(pid), None)
                    case [b"screen", *shown]:
                        screens.clear()
                        if shown:
                            screens[shown[1]] = bytes.fromhex(shown[0].decode())
                    case [b"bye"]:
                        return True
                    case _:
                        pass
        if is_over:
            return False


def made_of(leader: int, marks: bytes = b"") -> table.Family:
    """Make a family of a report; its leader has just been spawned, and may be gone again."""
    started = ""
    with table.Suppress(OSError):
        started = getattr(table.read(leader), "started", "gone")
    variables = filter(None, bytes.fromhex(marks.decode()).split(b"\0"))
    return table.Family(leader, frozenset(variables), started)


def wait_for(parent: int) -> Callable[[], bool]:
    """Make a function that waits for a report or the end of `parent`, and returns whether it was a report."""
    with table.Suppress(OSError):
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
    # It has ended already, or the system is too old to report it: then the pipe's end does.
    return lambda: not select.select([0], [], [])[0]


def has_input() -> bool:
    """Whether a report, or the pipe's end, can be read at once."""
    return bool(select.select([0], [], [], 0)[0])


def is_held() -> bool:
    """Whether a process still holds the pipe's other end: a child between fork and exec, not marked yet."""
    while has_input():
        if not os.read(0, 65536):
            return False
    return True


def write(path: bytes, data: bytes, *, is_waited_for: bool) -> bool:
    """Restore a terminal's own screen and cursor (not its modes); false: it accepts no output now."""
    with table.Suppress(OSError):
        terminal = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
        try:
            os.set_blocking(terminal, is_waited_for)
            os.write(terminal, data)
        except BlockingIOError:
            return False
        finally:
            os.close(terminal)
    return True


def clean_up(children: list[Child]) -> None:
    """End all that is left: its stop signal first, SIGKILL after its stop timeout."""
    begun = time.monotonic()
    families = {family: (stop_signal, stop_timeout) for family, stop_signal, stop_timeout in children}
    last = begun + max(stop_timeout for _, _, stop_timeout in children) + AFTER_KILL
    is_last = False
    while time.monotonic() < last:
        try:
            left = table.find(families)
        except OSError:  # The system refuses the process table: try again.
            time.sleep(PAUSE)
            continue
        if not left and is_last:
            return
        # A process that has just closed the pipe (at exec) has its mark a moment later: one more round.
        is_last = not left and not is_held()
        for family in left:
            stop_signal, stop_timeout = families[family]
            number = signal.SIGKILL if time.monotonic() >= begun + stop_timeout else stop_signal
            if family.signalled != number:
                family.signal(number)
                is_last = False
        time.sleep(PAUSE)


if __name__ == "__main__":
    main()
