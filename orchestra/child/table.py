"""Who is alive, and in which session: the process table, read once and asked many times.

On Linux one short read a process gives everything (``/proc/PID/stat``, proc(5)); elsewhere psutil is asked.
A process that vanishes while we look is simply not there. Zombies are kept, and told apart: nothing can be
done about them, and `os.killpg` takes a group of zombies for a living one.

Never here: signals.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = ["Entry", "family", "is_still_there", "is_suspended", "take", "tree"]

# A process that forks and ends again and again is seen in one of the first rounds; a busy machine settles.
_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the process table.

    Attributes:
        started: When, in a unit of the system's own: with the number, it tells a process from a later one.
    """

    pid: int
    parent: int
    session: int
    is_zombie: bool
    started: float


def take() -> list[Entry]:
    """Read the whole process table. Blocks for some milliseconds on a busy machine."""
    if sys.platform != "linux":
        return _take_from_psutil()
    return [entry for entry in map(_read_stat, _all_pids()) if entry is not None]


def family(
    session: int, marks: Mapping[str, str], *, on_found: Callable[[Entry], object] = lambda _: None
) -> list[Entry]:
    """Find the living processes of a session, and those that had certain variables when they were executed.

    Blocks for some milliseconds. Variables only Linux tells.

    Args:
        session: The number of its leader.
        marks: All of them have to be there; none: only the session counts.
        on_found: Called with each as soon as it is seen: who forks and ends again and again is not there any
            more when the whole table has been read.
    """
    if sys.platform != "linux":
        found = [each for each in _take_from_psutil() if each.session == session and not each.is_zombie]
        for entry in found:
            on_found(entry)
        return found
    wanted = {f"{name}={value}".encode() for name, value in marks.items()}
    found = []
    for entry in map(_read_stat, _all_pids()):
        if entry is None or entry.is_zombie:
            continue
        if entry.session == session or (wanted and wanted <= _environment(entry.pid)):
            on_found(entry)
            found.append(entry)
    return found


def is_still_there(entry: Entry) -> bool:
    """Whether this very process lives, and not another one that got its number."""
    if sys.platform == "linux":
        now = _read_stat(str(entry.pid))
        return now is not None and now.started == entry.started and not now.is_zombie
    try:
        return psutil.Process(entry.pid).create_time() == entry.started
    except psutil.Error:
        return False


def is_suspended(entry: Entry) -> bool:
    """Whether this very process has been stopped by a signal, and waits for SIGCONT; no debugger's doing."""
    try:
        process = psutil.Process(entry.pid)
        return process.status() == psutil.STATUS_STOPPED and is_still_there(entry)
    except psutil.Error:
        return False


def tree(entries: Iterable[Entry], leader: int) -> set[int]:
    """The living processes of the session that `leader` began, and all that descend from them.

    The session finds those whose parents are gone, descent finds those that began a session of their own.
    """
    children: dict[int, list[int]] = {}
    found: set[int] = set()
    for entry in entries:
        if entry.is_zombie:
            continue
        children.setdefault(entry.parent, []).append(entry.pid)
        if entry.session == leader:
            found.add(entry.pid)
    unseen = [*found, leader]
    while unseen:
        for child in children.get(unseen.pop(), ()):
            if child not in found:
                found.add(child)
                unseen.append(child)
    return found


def _all_pids() -> Iterator[str]:
    """All process ids, and those that appear while they are looked at.

    So nobody is missed by being born behind our back: who is alive at the end has been seen.
    """
    seen: set[str] = set()
    for _ in range(_ROUNDS):
        new = {name for name in os.listdir("/proc") if name.isdigit()} - seen  # noqa: PTH208 - much faster
        if not new:
            return
        seen |= new
        yield from sorted(new, key=int)


def _read_stat(pid: str) -> Entry | None:
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:  # noqa: PTH123 - likewise
            stat = file.read(1024)
    except OSError:
        return None
    # The command stands in parentheses and may itself contain them and blanks. After it, from the third field
    # on (proc(5)): state, parent, group, session; the 22nd is when it started.
    fields = stat[stat.rindex(b")") + 2 :].split(None, 20)
    return Entry(int(pid), int(fields[1]), int(fields[3]), fields[0] in b"ZX", float(fields[19]))


def _environment(pid: int) -> set[bytes]:
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:  # noqa: PTH123 - likewise
            return set(file.read().split(b"\0"))
    except OSError:  # it has ended, or is somebody else's
        return set()


def _take_from_psutil() -> list[Entry]:
    entries = []
    for process in psutil.process_iter(["ppid", "status", "create_time"]):
        try:
            session = os.getsid(process.pid)
        except OSError:
            continue
        parent, status = process.info["ppid"], process.info["status"]
        started = process.info["create_time"] or 0.0
        entries.append(Entry(process.pid, parent or 0, session, status == psutil.STATUS_ZOMBIE, started))
    return entries
