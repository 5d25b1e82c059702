"""Whether any process of a child still lives: one scan of the process table answers all requests at once.

Many children end together, and for each we have to know that no process is left. Requests that arrive during
a scan share the next one, in a worker thread, so the cost of stopping grows with the number of processes, not
with its square. A scan that began before a request cannot answer it: a process may have been forked since.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from orchestra.child import table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestra.child.table import Entry, Family

__all__ = ["EXTRA_MARK", "MARKS", "Families", "SharedLook", "family_of", "with_mark"]

_Key = TypeVar("_Key")
_Found = TypeVar("_Found")

EXTRA_MARK = "ORCHESTRA_CHILD"
MARKS = ("ORCHESTRA_RUN", "ORCHESTRA_PROCESS", EXTRA_MARK)
"""The variables that mark the members of a child; the last only where two of one name may overlap."""

# The pause after a scan, as a multiple of its time: scanning never takes more than a third of a core.
_REST_RATIO = 2.0
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.2


def family_of(leader: int, env: Mapping[str, str]) -> Family:
    """The family of a child with a certain environment."""
    if not all(name in env for name in MARKS if name != EXTRA_MARK):
        return table.Family(leader)
    marks = (f"{name}={env[name]}".encode() for name in MARKS if name in env)
    return table.Family(leader, frozenset(marks))


def with_mark(env: Mapping[str, str]) -> dict[str, str]:
    """Give an environment a mark of its own: of two children of one name, neither has the other's members."""
    return {**env, EXTRA_MARK: secrets.token_hex(4)}


class SharedLook(Generic[_Key, _Found]):
    """A scan of the system that answers all requests made before it begins.

    Args:
        look: Takes the requested keys and returns what it found for them; runs in a worker thread.
        pause: Seconds at least from the end of one to the beginning of the next.
    """

    def __init__(self, look: Callable[[Sequence[_Key]], Mapping[_Key, _Found]], pause: float = 0.0) -> None:
        self._look = look
        self._pause = pause
        self._next = _Batch[_Key, _Found]()
        self._turn = trio.Lock()
        self._not_before = 0.0

    async def ask(self, key: _Key) -> _Found | None:
        """Look for `key` in a scan that begins now or later; ``None`` if it was not found."""
        batch = self._next
        batch.keys.append(key)
        async with self._turn:
            if batch.found is None:  # The first one to get here scans for all.
                await trio.sleep_until(self._not_before)
                self._next = _Batch()
                begun = trio.current_time()
                batch.found = await trio.to_thread.run_sync(self._look, batch.keys)
                now = trio.current_time()
                self._not_before = now + max(_REST_RATIO * (now - begun), self._pause)
        return batch.found.get(key)


class _Batch(Generic[_Key, _Found]):
    """The requests that one scan answers."""

    def __init__(self) -> None:
        self.keys: list[_Key] = []
        self.found: Mapping[_Key, _Found] | None = None


class Families:
    """Looks for living members of families; the children of a run share it, and so its scans."""

    def __init__(self) -> None:
        self._scan = SharedLook(_find)

    async def is_alive(self, family: Family) -> bool:
        """Whether any process of a family lives, or it is not known; members get their `Family.signal`."""
        return await self._scan.ask(family) is not None

    async def until_gone(self, family: Family) -> None:
        """Wait until no process of a family lives."""
        pause = _FIRST_PAUSE
        while await self.is_alive(family):
            await trio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


def _find(families: Sequence[Family]) -> Mapping[Family, Sequence[Entry]]:
    try:
        return table.find(families)
    except OSError:
        return dict.fromkeys(families, ())
