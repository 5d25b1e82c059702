"""Orphans, where orchestra is process 1, as it can be in a container: it has to wait for them.

A process whose parent has ended is given to process 1, and stays a zombie until that has waited for it. We
wait for each one by its number, never for just any: that would take the exit statuses of the children that
trio waits for. A zombie that is trio's is gone a moment later; one that is still there is an orphan.

Only a program that owns its process does this: in an embedder's process, children of its own are left to it.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import trio

from orchestra.child import table

__all__ = ["reap_orphans"]

# trio waits for its own children within milliseconds of their end.
_REAP_DELAY = 1.0


async def reap_orphans() -> None:
    """Wait for orphans that have ended, whenever a child of ours has; until cancelled."""
    with trio.open_signal_receiver(signal.SIGCHLD) as signals:
        async for _ in signals:
            seen = await trio.to_thread.run_sync(_zombies)
            if seen:
                await trio.sleep(_REAP_DELAY)
                for pid in seen & await trio.to_thread.run_sync(_zombies):
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait at all


def _zombies() -> set[int]:
    with suppress(OSError):
        return {each.pid for each in table.take() if each.is_zombie and each.parent == os.getpid()}
    return set()
