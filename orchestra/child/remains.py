"""What is left of a process tree: the facts that tell a watcher which has lost the program that it ran.

A program that runs another one again when a file changes (``watchfiles``, nodemon, ``uvicorn --reload``,
``node --watch``, air, whatever it is written in) lives on when that has ended. What tells is in ``/proc``:
which processes there are, what each executes, whether children of it have ended (their page faults are
counted then), how much CPU time it has used, and whether it has inotify or sockets. Elsewhere than on Linux
nothing is known.

Not here: what follows from it (`supervision/watchers`).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestra.child import table

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

__all__ = ["Member", "look"]

# What Python's multiprocessing starts beside the processes that it is asked for.
_HELPER = b"multiprocessing.resource_tracker"
_INOTIFY = "anon_inode:inotify"


class Member(NamedTuple):
    """One process of a tree.

    Attributes:
        program: The file that it executes; a shell that becomes another program keeps its number.
        is_last: Whether nothing that it has started lives.
        has_child: Whether it has a child, be it one that has ended and that it has not waited for.
        reaped: Grows with each child that has ended.
        cpu: Seconds of CPU time that it has used.
        has_inotify: Whether it waits for files to change, by inotify. This and what follows is looked at only
            if no other process is the last one, too.
        is_connected: Whether it has a connection, or makes one: it may be waiting for an answer.
    """

    pid: int
    program: str
    is_last: bool = True
    has_child: bool = False
    reaped: int = 0
    cpu: float = 0.0
    has_inotify: bool = False
    listens: bool = False
    is_connected: bool = False


def look(leaders: Collection[int]) -> Mapping[int, Sequence[Member]]:
    """Look at the processes of the trees of `leaders`, as far as they can be seen; blocks for some ms."""
    if sys.platform != "linux":
        return {}
    found: dict[int, Sequence[Member]] = {}
    with suppress(OSError):
        entries = list(table.take())
        for leader in leaders:
            with suppress(OSError):  # one has ended meanwhile
                found[leader] = _members(table.tree(entries, leader), entries)
    return found


def _members(tree: Collection[int], entries: Collection[table.Entry]) -> Sequence[Member]:
    helpers = {pid for pid in tree if _HELPER in _read(pid, "cmdline")}
    started = [each for each in entries if each.pid not in helpers]
    living = {each.parent for each in started if not each.is_zombie}
    parents = {each.parent for each in started}
    members = [
        _member(pid, is_last=pid not in living, has_child=pid in parents)
        for pid in tree
        if pid not in helpers
    ]
    last = [each for each in members if each.is_last]
    if len(last) == 1:
        members[members.index(last[0])] = _with_files(last[0])
    return members


def _member(pid: int, *, is_last: bool, has_child: bool) -> Member:
    # proc(5): behind the command in parentheses, cminflt is the 9th field, utime and stime the 12th and 13th.
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return Member(
        pid,
        os.readlink(f"/proc/{pid}/exe"),  # noqa: PTH115 - a name, not a file to touch
        is_last=is_last,
        has_child=has_child,
        reaped=int(fields[8]),
        cpu=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),
    )


def _with_files(member: Member) -> Member:
    import psutil  # noqa: PLC0415

    has_inotify = listens = is_connected = False
    folder = f"/proc/{member.pid}/fd"
    for name in os.listdir(folder):  # noqa: PTH208 - likewise
        with suppress(FileNotFoundError):
            has_inotify = has_inotify or os.readlink(f"{folder}/{name}") == _INOTIFY  # noqa: PTH115 - likewise
    with suppress(psutil.Error):
        for each in psutil.Process(member.pid).net_connections("inet"):
            listens = listens or each.status == psutil.CONN_LISTEN
            is_connected = is_connected or bool(each.raddr)
    return member._replace(has_inotify=has_inotify, listens=listens, is_connected=is_connected)


def _read(pid: int, name: str) -> bytes:
    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:  # noqa: PTH123 - likewise
        return file.read()
