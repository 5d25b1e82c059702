"""Orphans of our children: adopted, buried, and ended with the run. Linux only; elsewhere nothing happens.

A process whose parent has ended is given to process 1, or to the nearest ancestor that has declared itself a
subreaper (prctl(2)). As one, we can still see a daemon that has left its session and has thrown away its
environment: it is our child. That makes it our duty to wait for it when it has ended, or it stays a zombie.

We wait for each one by its number, never for just any: that would take the exit codes of the children that
trio waits for. A zombie that is trio's is gone a moment later; one that is still there is an orphan.

Only a program that owns its process does this, that is `cli.py`: an embedder's children are its own affair.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress

import trio

from orchestra.child import table

__all__ = ["Orphans"]

_PR_SET_CHILD_SUBREAPER = 36
# trio waits for its own children within milliseconds of their end.
_TWICE = 1.0
# What a process gets by default when orchestra stops it, and a moment more for SIGKILL to work.
_PATIENCE = 5.0
_AFTER_KILL = 1.0


class Orphans:
    """Makes this process a subreaper, where that exists.

    Attributes:
        are_adopted: Whether that worked.
    """

    def __init__(self) -> None:
        # Who execs orchestra may have children already; they and theirs are not ours.
        self._strangers = frozenset(_below(table.take(), os.getpid()))
        self.are_adopted = _become_subreaper()

    async def bury(self) -> None:
        """Wait for orphans that have ended, whenever a child of ours has; until cancelled."""
        if not self.are_adopted:
            return
        with trio.open_signal_receiver(signal.SIGCHLD) as signals:
            async for _ in signals:
                seen = await trio.to_thread.run_sync(self._zombies)
                if not seen:
                    continue
                await trio.sleep(_TWICE)
                for pid in seen & await trio.to_thread.run_sync(self._zombies):
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait at all

    async def end(self) -> None:
        """End all that is left of them: SIGTERM, a bounded wait, SIGKILL."""
        if not self.are_adopted:
            return
        for number, patience in ((signal.SIGTERM, _PATIENCE), (signal.SIGKILL, _AFTER_KILL)):
            with trio.move_on_after(patience) as limit:
                await self._end_by(number)
            if not limit.cancelled_caught:
                return

    async def _end_by(self, number: int) -> None:
        asked: set[table.Entry] = set()
        pause = 0.01
        while left := await trio.to_thread.run_sync(self._living):
            for entry in left:
                if entry not in asked and table.is_still_there(entry):
                    asked.add(entry)
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(entry.pid, number)
            await trio.sleep(pause)
            pause = min(pause * 2, 0.2)

    def _living(self) -> list[table.Entry]:
        entries = table.take()
        ours = _below(entries, os.getpid())
        for stranger in self._strangers & ours:
            ours -= _below(entries, stranger) | {stranger}
        return [entry for entry in entries if entry.pid in ours]

    def _zombies(self) -> set[int]:
        dead = {each.pid for each in table.take() if each.is_zombie and each.parent == os.getpid()}
        return dead - self._strangers


def _below(entries: list[table.Entry], pid: int) -> set[int]:
    return table.tree(entries, pid) - {pid}


def _become_subreaper() -> bool:
    if sys.platform != "linux":
        return False
    try:
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (OSError, AttributeError):
        return False
