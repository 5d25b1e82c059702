"""Reaps orphans: necessary when orchestra is process 1, as it can be in a container.

A process whose parent has ended becomes a child of process 1, and stays a zombie until process 1 waits for
it. Each orphan is waited for by its pid: waiting for any child would take exit statuses away from trio.

Only the command line does this: an embedder may have other children, which are not ours to reap.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import trio

from orchestra.child import table

__all__ = ["reap_orphans"]

# Seconds before a zombie counts as an orphan: trio reaps its own children within milliseconds.
_REAP_DELAY = 1.0


async def reap_orphans() -> None:
    """Reap ended orphans, at every SIGCHLD, until cancelled."""
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
