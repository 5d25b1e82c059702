"""Shows on the dashboard a run that is not in this process: a recording, or a run in another terminal.

A recording is replayed at its own or another speed: its events feed the model, and its times are the screen's
clock. A run in another terminal first sends its past events, so the picture is that of the first terminal. A
thread reads the events, since runs are reached without trio (`remote`); leaving does not wait for it.

Not here: the file (`dashboard/runlog`), what a run sends (`dashboard/feed`), the screen and its keys.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import trio
from msgspec import structs

from orchestra.child.guard import guarded
from orchestra.dashboard.controls import Controls
from orchestra.dashboard.model import Model
from orchestra.dashboard.runlog import events_of
from orchestra.dashboard.screen import leave_behind
from orchestra.errors import ConfigError, OrchestraError
from orchestra.interactive import on_screen

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    from orchestra.control.local import Order
    from orchestra.events import Event
    from orchestra.remote import RunningRun

__all__ = ["Player", "attach", "replay", "show"]

# Events between two checkpoints.
_AT_A_TIME = 200


class Player:
    """Feeds a model with events when their time has come; `speed` seconds of them pass in one."""

    def __init__(self, model: Model, *, speed: float = 1.0) -> None:
        self._model = model
        self._speed = speed
        self._begun_at = 0.0
        self._first = 0.0
        self._last: float | None = None

    def now(self) -> float:
        """Give the time in the recording, in seconds since the epoch; at its end, it stands still."""
        if self._last is not None:
            return self._last
        return self._first + (trio.current_time() - self._begun_at) * min(self._speed, 1e9)

    async def play(self, events: Iterable[Event]) -> None:
        """Play all events."""
        last = 0.0
        for number, event in enumerate(events):
            if not number:
                self._begun_at, self._first = trio.current_time(), event.at
            if (left := event.at - self.now()) > 0:
                await trio.sleep(left / self._speed)
            elif not number % _AT_A_TIME:
                await trio.lowlevel.checkpoint()
            self._model.apply(event)
            last = max(last, event.at)
        self._last = last


def replay(path: str, *, speed: float = 1.0) -> int:
    """Show a recording on this terminal, or `ConfigError`, until the user leaves; return the exit status."""
    if not (os.isatty(0) and os.isatty(1)):
        raise ConfigError("a recording is shown on a terminal", hint="It has JSON lines: look at it with jq.")
    return trio.run(_replay, path, speed)


async def _replay(path: str, speed: float) -> int:
    # Its errors are reported before the screen is taken.
    events = events_of(path)
    first = next(events, None)
    if first is None:
        raise ConfigError("this is no recording", path=path, hint="It has no line.")
    model = Model()
    controls, player = Controls(model, shown="a recording"), Player(model, speed=speed)

    async def obey(_: Order) -> None:
        await trio.lowlevel.checkpoint()
        raise OrchestraError("this is a recording: nothing runs")

    async def play(_leave: Callable[[], None]) -> None:
        await player.play(chain([first], events))
        controls.show_message("the recording ends here")

    return await show(controls, play, obey, clock=player.now)


async def show(
    controls: Controls,
    play: Callable[[Callable[[], None]], Awaitable[None]],
    obey: Callable[[Order], Awaitable[object]],
    *,
    clock: Callable[[], float] = time.time,
) -> int:
    """Show a run of another process on this terminal, until the user leaves; return the exit status.

    `play` feeds the model, and gets a function that ends this; `obey` carries out an order on the run.
    """
    code, leaving = 0, trio.Event()  # keys are read before there is a block to cancel

    async def end_at_signal(signals: AsyncIterator[int]) -> None:
        nonlocal code
        async for number in signals:
            code = 128 + number
            leaving.set()

    # It restores the terminal if that accepts nothing at the end, or if we are killed.
    async with guarded(secrets.token_hex()) as guard:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            how = partial(on_screen, environ=os.environ, clock=clock)
            async with how(controls, obey, leaving.set, on_taken=guard.on_screen) as nursery:
                nursery.start_soon(end_at_signal, signals)
                nursery.start_soon(play, leaving.set)
                await leaving.wait()
    return code


def attach(run: RunningRun) -> int:
    """Show a run on this terminal until it ends or the user leaves, or `NoRun`; return the exit status."""
    if not (os.isatty(0) and os.isatty(1)):
        raise ConfigError("a run is shown on a terminal", hint="orchestra ps and logs need none.")
    return trio.run(_attach, run)


async def _attach(run: RunningRun) -> int:
    model = Model()
    controls = Controls(model, run.state.dashboard, shown="another run")

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

    code = await show(controls, play, obey)
    if model.ended is None:
        leave_behind("the run goes on; `orchestra down` ends it\n")
    return code
