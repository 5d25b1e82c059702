"""The dashboard of a run that another terminal has started: its events, and orders for it, over its socket.

What has been comes first, and so the picture is that of the first terminal. A thread reads, since a run is
reached without trio (`remote`); leaving does not wait for it.

Not here: what is sent (`dashboard/feed`), the screen and its keys (`replaying`, `interactive`).
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

import trio
from msgspec import structs

from orchestra.dashboard.controls import Controls
from orchestra.dashboard.model import Model
from orchestra.dashboard.screen import leave_behind
from orchestra.errors import ConfigError
from orchestra.replaying import show

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestra.control.local import Order
    from orchestra.events import Event
    from orchestra.remote import RunningRun

__all__ = ["attach"]


def attach(run: RunningRun) -> int:
    """Show a run on this terminal until it ends or the user leaves, or `NoRun`; return the exit status."""
    if not (os.isatty(0) and os.isatty(1)):
        raise ConfigError("a run is shown on a terminal", hint="orchestra ps and logs need none.")
    return trio.run(_attach, run)


async def _attach(run: RunningRun) -> int:
    settings, model = run.state.dashboard, Model()
    controls = Controls(model, settings.keys, is_guest=True)

    def apply(events: Sequence[Event]) -> None:
        for event in events:
            model.apply(event)

    def read() -> None:
        for events in run.watch():
            trio.from_thread.run_sync(apply, events)

    async def play(leave: Callable[[], None]) -> None:
        await trio.to_thread.run_sync(read, abandon_on_cancel=True)
        leave()

    async def obey(order: Order) -> None:
        await trio.to_thread.run_sync(partial(run.order, **structs.asdict(order)))

    code = await show(controls, play, obey, has_mouse=settings.mouse)
    if model.ended is None:
        leave_behind("the run goes on; `orchestra down` ends it\n")
    return code
