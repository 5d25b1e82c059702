"""A recorded run in the dashboard again, at its own or another speed.

The model is fed as by a run, and the clock of the screen is the recording's.

Not here: the file (`dashboard/recording`), the screen.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import trio

from orchestra.dashboard.controls import Controls
from orchestra.dashboard.look import Do
from orchestra.dashboard.model import Model
from orchestra.dashboard.recording import events_of
from orchestra.dashboard.screen import Screen, summary
from orchestra.errors import ConfigError
from orchestra.foreground import follow_job_control
from orchestra.interactive import suspend, write_log

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.dashboard.look import Order
    from orchestra.events import Event

__all__ = ["Player", "replay"]

# Events between two checkpoints.
_AT_A_TIME = 200


class Player:
    """Feeds a model with events when their time has come.

    Args:
        model: The model.
        speed: How many seconds of the recording pass in one.
    """

    def __init__(self, model: Model, *, speed: float = 1.0) -> None:
        self._model = model
        self._speed = speed
        self._begun_at = 0.0
        self._first = 0.0
        self._last: float | None = None

    def __repr__(self) -> str:
        return f"<Player at {self.now():g}>"

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
    """Show a recording on this terminal, until the user leaves; return the exit status.

    Raises:
        ConfigError: It cannot be read, or this is no terminal.
    """
    if not (os.isatty(0) and os.isatty(1)):
        raise ConfigError("a recording is shown on a terminal", hint="It has JSON lines: look at it with jq.")
    return trio.run(_replay, path, speed)


async def _replay(path: str, speed: float) -> int:
    model = Model()
    controls, player = Controls(model), Player(model, speed=speed)
    code = 0
    async with trio.open_nursery() as nursery:

        def perform(order: Order) -> None:
            match order.do:
                case Do.QUIT:
                    nursery.cancel_scope.cancel()
                case Do.SUSPEND:
                    suspend()
                case Do.WRITE:
                    try:
                        controls.say(f"written to {write_log(order.text)}")
                    except OSError as exc:
                        controls.say(f"the log cannot be written: {exc.strerror}")
                case _:
                    controls.say("this is a recording: nothing runs")

        async def end_at_signal() -> None:
            nonlocal code
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
                async for number in signals:
                    code = 128 + number
                    nursery.cancel_scope.cancel()

        # What is wrong with it is said before the screen is taken.
        events = events_of(path)
        first = next(events, None)
        if first is None:
            raise ConfigError("this is no recording", path=path, hint="It has no line.")
        screen = Screen(model, controls, perform, environ=os.environ, clock=player.now)
        nursery.start_soon(end_at_signal)
        await nursery.start(screen.run)
        nursery.start_soon(follow_job_control, screen)
        await player.play(_from(first, events))
        controls.say("the recording ends here")
    os.write(1, summary(model, environ=os.environ).encode("utf-8", "replace"))
    return code


def _from(first: Event, others: Iterable[Event]) -> Iterable[Event]:
    yield first
    yield from others
