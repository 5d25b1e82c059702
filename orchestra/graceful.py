"""Turn a cancellation into a request: whoever runs processes or connections wants to end them properly.

trio cancels at once and everywhere. That is wrong for a process group, which has to be signalled, waited
for and perhaps killed, in an order. `run_gracefully` keeps the body shielded and tells it by an event that
the end has come; from then on the shield has a deadline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["run_gracefully"]


async def run_gracefully(
    body: Callable[[trio.Event], Awaitable[None]], *, grace: Callable[[], float]
) -> None:
    """Run `body(asked)`; when we are cancelled, set `asked` and let it return by itself.

    Args:
        body: Returns soon after `asked` is set; may set it itself.
        grace: How many seconds it may take then. After that it is cancelled for good.
    """
    asked, done = trio.Event(), trio.Event()
    shield = trio.CancelScope(shield=True)

    async def shielded() -> None:
        try:
            with shield:
                await body(asked)
        finally:
            done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shielded)
        try:
            await done.wait()
        finally:
            asked.set()
            shield.deadline = trio.current_time() + grace()
