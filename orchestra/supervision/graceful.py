"""Turn a cancellation into a request: processes and connections are to be ended properly.

trio cancels at once and everywhere. That is wrong for a process group, which has to be signalled, waited
for and perhaps killed, in an order. `run_gracefully` keeps the body shielded and tells it by an event that
the end has come; from then on the shield has a deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["run_gracefully", "wait_any"]


async def run_gracefully(body: Callable[[], Awaitable[None]], *, asked: trio.Event, grace: float) -> None:
    """Run `body()`; when we are cancelled, set `asked` and let it return by itself.

    Args:
        body: Returns soon after `asked` is set.
        asked: Asks it to end; may be set by others, too.
        grace: How many seconds it may take when we were cancelled. After that it is cancelled for good.
    """
    done = trio.Event()
    shield = trio.CancelScope(shield=True)

    async def shielded() -> None:
        try:
            with shield:
                await body()
        finally:
            done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shielded)
        try:
            await done.wait()
        finally:
            asked.set()
            shield.deadline = trio.current_time() + grace


async def wait_any(*events: trio.Event) -> None:
    """Wait until one of the events is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
