"""A run on the dashboard: carries out the orders of its keys, on the run or on this machine; job control.

While we are stopped (Ctrl-Z), the terminal is restored.

Not here: what keys mean (`dashboard/controls`), drawing, other signals (`foreground`).
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from codecs import getincrementaldecoder
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from orchestra.browser import open_page
from orchestra.control.local import Order
from orchestra.dashboard.screen import Screen, leave_behind, summary
from orchestra.dashboard.writer import is_in_foreground
from orchestra.errors import OrchestraError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from orchestra.dashboard.controls import Act, Controls

__all__ = ["Operator", "on_screen", "write_log"]

# Input that waits for a process to read it, in pieces.
_WAITING_INPUT = 1000
_FOREGROUND_INTERVAL = 0.2


@asynccontextmanager
async def on_screen(
    controls: Controls,
    obey: Callable[[Order], Awaitable[object]],
    leave: Callable[[], object],
    *,
    on_taken: Callable[[str | None, bytes], object],
    environ: Mapping[str, str],
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[trio.Nursery]:
    """Show a model on this terminal during a block, and afterwards its summary; give its nursery.

    `obey` carries out an order on the run, `leave` is the action of `q`.
    """
    async with trio.open_nursery() as nursery:
        operator = Operator(controls, obey, leave, nursery)
        screen = Screen(
            controls,
            operator.perform,
            send=operator.send,
            on_taken=on_taken,
            environ=environ,
            clock=clock,
        )
        nursery.start_soon(operator.send_typed)
        await nursery.start(screen.run)
        nursery.start_soon(_follow_job_control, screen)
        yield nursery
        nursery.cancel_scope.cancel()
    leave_behind(summary(controls.model, environ=environ))


async def _follow_job_control(screen: Screen) -> None:
    """Restore the terminal while we are stopped, and take it again when we are in the foreground."""
    with trio.open_signal_receiver(signal.SIGTSTP, signal.SIGCONT) as changes:
        async for number in changes:
            screen.restore()
            if number == signal.SIGTSTP:
                # We may run on for a moment: only when we are continued, it is known that we were stopped.
                os.kill(os.getpid(), signal.SIGSTOP)
                continue
            # Continued by `bg`, we wait for `fg`: a write to the terminal's settings would stop us again.
            while not is_in_foreground():  # noqa: ASYNC110 - no signal tells
                await trio.sleep(_FOREGROUND_INTERVAL)
            screen.take()


class Operator:
    """Carries out the actions of keys: `obey` those on the run; `leave`, called at once, is that of `q`."""

    def __init__(
        self,
        controls: Controls,
        obey: Callable[[Order], Awaitable[object]],
        leave: Callable[[], object],
        nursery: trio.Nursery,
    ) -> None:
        self._controls = controls
        self._obey = obey
        self._leave = leave
        self._nursery = nursery
        self._typed, self._to_send = trio.open_memory_channel[tuple[str, bytes]](_WAITING_INPUT)

    async def send_typed(self) -> None:
        """Pass on what is sent, in order, until cancelled."""
        decoder = getincrementaldecoder("utf-8")("replace")
        async for name, data in self._to_send:
            order = Order(do="send", processes=(name,), text=decoder.decode(data))
            await self._try(partial(self._obey, order))

    def send(self, name: str, data: bytes) -> None:
        """Send input to a process, in order. Does not wait."""
        try:
            self._typed.send_nowait((name, data))
        except trio.WouldBlock:
            self._controls.show_message(f"{name} does not read what is typed")

    def perform(self, wanted: Order | Act) -> None:
        """Carry out the action of a key; if it fails, the error is shown. Does not wait."""
        if isinstance(wanted, Order):
            self._nursery.start_soon(self._try, partial(self._obey, wanted))
            return
        match wanted.do:
            case "quit":
                self._leave()
            case "suspend":
                os.kill(0, signal.SIGTSTP)  # all of the job, as Ctrl-Z does
            case "write":
                self._nursery.start_soon(self._try, partial(self._write, wanted.text))
            case "open":
                self._nursery.start_soon(self._try, partial(open_page, wanted.text))
            case "copy" | "redraw":
                pass  # an action of the screen

    async def _try(self, what: Callable[[], Awaitable[object]]) -> None:
        """Do something, and show an error: a process may be gone meanwhile."""
        try:
            await what()
        except KeyError as exc:
            self._controls.show_message(f"there is no process {exc}")
        except OrchestraError as exc:
            self._controls.show_message(str(exc))

    async def _write(self, text: str) -> None:
        try:
            path = await trio.to_thread.run_sync(write_log, text)
            self._controls.show_message(f"written to {path}")
        except OSError as exc:
            self._controls.show_message(f"the log cannot be written: {exc.strerror}")


def write_log(text: str) -> Path:
    """Write a new file in the current folder, or in the one for temporary files; return its path."""
    name = time.strftime("orchestra-%Y%m%d-%H%M%S.log")
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        with suppress(OSError):
            path = folder() / name
            path.write_text(text, encoding="utf-8")
            return path
    raise OSError(0, "no folder can be written")
