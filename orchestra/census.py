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
    from collections.abc import Iterable, Mapping

__all__ = ["Entry", "is_still_there", "marked", "members", "take", "tree"]


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
    return _take_from_proc() if sys.platform == "linux" else _take_from_psutil()


def members(entries: Iterable[Entry], session: int) -> list[Entry]:
    """The living processes of a session."""
    return [entry for entry in entries if entry.session == session and not entry.is_zombie]


def marked(entries: Iterable[Entry], marks: Mapping[str, str]) -> list[Entry]:
    """The living processes that had all of these variables in their environment when they were executed.

    Only Linux tells; elsewhere there are none. Blocks for longer than `take` does.
    """
    if sys.platform != "linux":
        return []
    wanted = {f"{name}={value}".encode() for name, value in marks.items()}
    return [entry for entry in entries if not entry.is_zombie and wanted <= _environment(entry.pid)]


def is_still_there(entry: Entry) -> bool:
    """Whether this very process lives, and not another one that got its number."""
    if sys.platform == "linux":
        now = _read_stat(str(entry.pid))
        return now is not None and now.started == entry.started and not now.is_zombie
    try:
        return psutil.Process(entry.pid).create_time() == entry.started
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


def _take_from_proc() -> list[Entry]:
    names = filter(str.isdigit, os.listdir("/proc"))  # noqa: PTH208 - three times as fast, and this is polled
    return [entry for entry in map(_read_stat, names) if entry is not None]


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
