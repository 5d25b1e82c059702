"""Is a process tree down to a watcher whose program has ended?

A program that runs another one again when a file changes (``watchfiles``, nodemon, ``uvicorn --reload``,
``node --watch``, air, in whatever language) keeps running when that one has ended. The signs are in
``/proc``: which processes there are, what each executes, whether it has had children that ended (their page
faults are counted then), how much CPU time it has used, and whether it has inotify or sockets. On other
systems than Linux nothing is known.

A watcher counts as alone when one process is at the tree's end that hardly uses the CPU, has no connection on
which it could wait for something else, and

- has had a child that it started itself (a shell that has become a server does not count: its children were
  the shell's), or
- waits for files by inotify, and does not listen.

Several processes count as one if all of them existed beside the server while it served: Sanic's manager has
its watcher in a process of its own. A new program would be a new process.

A watcher that restarts its program as soon as that has ended, as ``watchmedo auto-restart``, is never alone:
the process at the end of its tree is a new one each time.

So it does not matter which watcher it is. A server that is still starting is not mistaken for one: it works,
or waits for a database, and waits for files only once it listens, or a moment before.

Not here: what follows from it (`supervision/symptoms`).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from orchestra.child import table

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

__all__ = ["WATCHES_AFTER", "Member", "TreeHistory", "look"]

# Helper processes of Python's multiprocessing.
_HELPER = b"multiprocessing.resource_tracker"
_INOTIFY = "anon_inode:inotify"
# Seconds for which a process has to be alone, and idle: a new program would have started by then.
WATCHES_AFTER = 0.7
# So many programs, one after the other, are a loop, if all of them end in the same way.
_LOOP = 3
# The part of a core that a waiting process may use: some poll for changed files.
_IDLE = 0.1


class Member(NamedTuple):
    """One process of a tree.

    Attributes:
        program: The file that it executes; a shell that executes another program keeps its pid.
        is_last: Whether it has no living child.
        has_child: Whether it has a child, living or a zombie.
        reaped: Grows with each child that has ended.
        has_inotify: Whether it waits for files to change, by inotify. This and the following fields are only
            read if it is the only last process.
        is_connected: Whether it has a connection, or opens one: it may be waiting for an answer.
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
            with suppress(OSError):  # One has ended meanwhile.
                found[leader] = _members(table.tree(entries, leader), entries)
    return found


def _members(tree: Collection[int], entries: Collection[table.Entry]) -> Sequence[Member]:
    helpers = {pid for pid in tree if _HELPER in table.contents(f"/proc/{pid}/cmdline")}
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
    fields = table.contents(f"/proc/{pid}/stat").rpartition(b")")[2].split()
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


class TreeHistory:
    """The observations of one child's tree."""

    def __init__(self) -> None:
        self._reaped: dict[tuple[int, str], int] = {}  # when it was seen first
        self._parents: set[int | tuple[int, str]] = set()
        self._beside: set[int] = set()  # the server, while it served
        self._ends: set[int] = set()  # the processes that were alone at the end, one after the other
        self._last: Member | None = None
        self._seen_at = self._idle_since = 0.0

    def note_parents(self, pids: Iterable[int]) -> None:
        """Take note of processes that have started servers."""
        self._parents.update(pids)

    def note_served(self, members: Iterable[Member], servers: Iterable[int]) -> None:
        """Take note of the processes that existed while the `servers` among the `members` served."""
        self._beside = {each.pid for each in members}.difference(servers)

    @property
    def is_loop(self) -> bool:
        """Whether several programs have been at its end, one after the other."""
        return len(self._ends) >= _LOOP

    def is_watcher_alone(self, members: Sequence[Member], now: float) -> bool:
        """Whether, by the observations up to `now`, only a watcher is left."""
        for each in members:
            key = each.pid, each.program
            if each.has_child or each.reaped > self._reaped.setdefault(key, each.reaped):
                self._parents.add(key)
        before, seen_before = self._last, self._seen_at
        last = [each for each in members if each.is_last]
        if len(last) > 1 and self._beside.issuperset(each.pid for each in members):
            self._parents.add(min(last).pid)
            last = [min(last)._replace(cpu=sum(each.cpu for each in last))]
        if len(last) == 1 and not self.is_loop:
            self._ends.add(last[0].pid)
        self._last, self._seen_at = (last[0] if len(last) == 1 else None), now
        if self._last is None or not self._may_watch(self._last):
            self._last = None
            return False
        if (
            before is None
            or (before.pid, before.program) != (self._last.pid, self._last.program)
            or self._last.cpu - before.cpu > _IDLE * (now - seen_before)
        ):
            self._idle_since = now
        return now - self._idle_since >= WATCHES_AFTER

    def _may_watch(self, member: Member) -> bool:
        had_child = member.pid in self._parents or (member.pid, member.program) in self._parents
        waits = had_child or (member.has_inotify and not member.listens)
        return waits and not member.is_connected
