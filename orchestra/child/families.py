"""What is left of children: one scan of the process table serves all that want to know.

Many children end together, and each has to see that nothing of it is left. Those that ask while a scan runs
share the next one, in a worker thread; so the cost of an end grows with the number of processes, not with its
square. A scan that began before it was asked for is no answer: a process may have been forked since.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from orchestra.child import table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.child.table import Entry, Family

__all__ = ["Families", "family_of"]

# The variables that tell what a process belongs to; the last only where two of one name may live at once.
_MARKS = ("ORCHESTRA_RUN", "ORCHESTRA_PROCESS")
_EXTRA_MARK = "ORCHESTRA_CHILD"
# The share of time in which nothing is scanned although it is wanted.
_REST = 2.0
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.2


def family_of(leader: int, env: Mapping[str, str]) -> Family:
    """The family of a child with a certain environment."""
    if not all(name in env for name in _MARKS):
        return table.Family(leader)
    marks = (f"{name}={env[name]}".encode() for name in (*_MARKS, _EXTRA_MARK) if name in env)
    return table.Family(leader, frozenset(marks))


class _Batch:
    """Families that are looked for in the same scan."""

    def __init__(self) -> None:
        self.families: list[Family] = []
        self.found: Mapping[Family, Sequence[Entry]] | None = None
        self.done = trio.Event()


class Families:
    """Looks for the members of families; made once a run."""

    def __init__(self) -> None:
        self._next = _Batch()
        self._turn = trio.Lock()
        self._not_before = 0.0

    async def is_alive(self, family: Family) -> bool:
        """Whether anything of a family lives, by a scan that begins now or later; yes if it cannot be known.

        Each member is sent what the family was asked for (`Family.signal`).
        """
        while True:
            batch = self._next
            batch.families.append(family)
            if len(batch.families) == 1:
                await self._scan(batch)
            else:
                await batch.done.wait()
            if batch.found is not None:
                return family in batch.found
            # The one that was to scan for all of us was cancelled.

    async def until_gone(self, family: Family) -> None:
        """Wait until nothing of a family lives."""
        pause = _FIRST_PAUSE
        while await self.is_alive(family):
            await trio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    async def _scan(self, batch: _Batch) -> None:
        try:
            async with self._turn:
                await trio.sleep_until(self._not_before)
                self._next = _Batch()
                begun = trio.current_time()
                try:
                    batch.found = await trio.to_thread.run_sync(table.find, batch.families)
                except OSError:
                    batch.found = dict.fromkeys(batch.families, ())
                now = trio.current_time()
                self._not_before = now + _REST * (now - begun)
        finally:
            if self._next is batch:
                self._next = _Batch()
            batch.done.set()
