"""Is a process tree down to a watcher, which waits for a file to change and has lost the program that it ran?

It is when one process alone is left at its end, that hardly uses the CPU, has no connection by which it could
wait for something else, and

- has had a child that it has started itself (a shell that has become a server does not count: what ran before
  was the shell's), or
- waits for files by inotify, and does not listen.

Several processes count as one if all of them were there when it served, beside the server: Sanic's manager
has its watcher in a process of its own. A new program would be another process.

One that starts its program again as soon as that has ended, as ``watchmedo auto-restart``, is never alone:
then several processes, one after the other, are the only one at the end of the tree.

So it does not matter which watcher that is. A server that comes up is none: it works, or it waits for a
database, and it waits for files only when it listens already, or a moment before.

Not here: looking (`child/remains`), what follows from it (`symptoms`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestra.child.remains import Member

__all__ = ["WATCHES_AFTER", "TreeHistory"]

# Seconds for which a process has to have been alone, and idle: a new program is started sooner.
WATCHES_AFTER = 0.7
# So many programs, one after the other, are a loop, if all of them end in the same way.
_LOOP = 3
# The part of a core that a process which waits may use: some look for changed files again and again.
_IDLE = 0.1


class TreeHistory:
    """What was seen of the tree of one child."""

    def __init__(self) -> None:
        self._reaped: dict[tuple[int, str], int] = {}  # when it was seen first
        self._parents: set[int | tuple[int, str]] = set()
        self._beside: set[int] = set()  # the server, while it served
        self._ends: set[int] = set()  # what was alone at its end, one after the other
        self._last: Member | None = None
        self._seen_at = self._idle_since = 0.0

    def note_parents(self, pids: Iterable[int]) -> None:
        """Take note of processes that have started servers."""
        self._parents.update(pids)

    def note_served(self, members: Iterable[Member], servers: Iterable[int]) -> None:
        """Take note of what there was when the `servers` among the `members` served."""
        self._beside = {each.pid for each in members}.difference(servers)

    @property
    def is_loop(self) -> bool:
        """Whether several programs have been at its end, one after the other."""
        return len(self._ends) >= _LOOP

    def is_watcher_alone(self, members: Sequence[Member], now: float) -> bool:
        """Whether, by what was seen up to `now`, a watcher is left alone."""
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
