"""A run on the dashboard: what its keys ask for is done to the run, or on this machine.

Not here: what keys mean (`dashboard/actions`), drawing, signals and job control (`foreground`).
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import CalledProcessError
from typing import TYPE_CHECKING

import trio

from orchestra.dashboard.look import Do, Order
from orchestra.errors import OrchestraError
from orchestra.events import State

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestra.dashboard.controls import Controls
    from orchestra.supervisor import Supervisor

__all__ = ["Operator", "suspend", "write_log"]

# Chunks of keys that wait for a process to take them.
_WAITING_INPUT = 1000


class Operator:
    """Does what keys ask for.

    Args:
        supervisor: The run.
        controls: Where it is said what came of it.
    """

    def __init__(self, supervisor: Supervisor, controls: Controls) -> None:
        self._supervisor = supervisor
        self._controls = controls
        self._nursery: trio.Nursery | None = None
        self._typed, self._to_send = trio.open_memory_channel[tuple[str, bytes]](_WAITING_INPUT)

    def __repr__(self) -> str:
        return f"<Operator of {self._supervisor!r}>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry orders out until cancelled."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            async for name, data in self._to_send:
                await self._try(partial(self._supervisor.send, name, data.decode("utf-8", "replace")))

    def send(self, name: str, data: bytes) -> None:
        """Send what was typed to a process, in order. Does not wait."""
        try:
            self._typed.send_nowait((name, data))
        except trio.WouldBlock:
            self._controls.say(f"{name} does not read what is typed")

    def perform(self, order: Order) -> None:
        """Do what a key asks for. Does not wait."""
        supervisor, name = self._supervisor, order.process
        match order.do:
            case Do.QUIT:
                self._soon(partial(supervisor.stop, exit_code=0, reason="quit"))
            case Do.SUSPEND:
                suspend()
            case Do.WRITE:
                self._soon(partial(self._write, order.text))
            case Do.OPEN:
                self._soon(partial(self._open, order.text))
            case _ if supervisor.ending.is_set():
                self._controls.say("the run is ending")
            case Do.RETRY | Do.START | Do.RESTART:
                self._soon(partial(self._start_again, order))
            case Do.STOP:
                self._soon(partial(supervisor.stop, name))
            case Do.KILL:
                with suppress(KeyError):
                    supervisor.kill(name)
            case _:
                pass

    async def _start_again(self, order: Order) -> None:
        """Start what has failed, or one process: what the files say of it now."""
        supervisor, name = self._supervisor, order.process
        restarted = await supervisor.read_again()
        if order.do is Do.RETRY:
            for each, event in supervisor.snapshot().items():
                if event.state is State.FAILED:
                    supervisor.start(each)
        elif name not in restarted:
            if order.do is Do.START:
                supervisor.start(name)
            else:
                await supervisor.restart(name)

    def _soon(self, what: Callable[[], Awaitable[object]]) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._try, what)

    async def _try(self, what: Callable[[], Awaitable[object]]) -> None:
        """Do something, and say if that cannot be done: a process may be gone meanwhile."""
        try:
            await what()
        except KeyError as exc:
            self._controls.say(f"there is no process {exc}")
        except OrchestraError as exc:
            self._controls.say(str(exc))

    async def _write(self, text: str) -> None:
        try:
            path = await trio.to_thread.run_sync(write_log, text)
            self._controls.say(f"written to {path}")
        except OSError as exc:
            self._controls.say(f"the log cannot be written: {exc.strerror}")

    async def _open(self, url: str) -> None:
        if not url:
            self._controls.say("this run has no address to open")
            return
        command = "open" if sys.platform == "darwin" else "xdg-open"
        try:
            # Quiet: what it says would land in the middle of the picture.
            await trio.run_process(
                [command, url], check=True, capture_stdout=True, capture_stderr=True, start_new_session=True
            )
        except (OSError, CalledProcessError):
            self._controls.say(f"no browser could be opened: {url}")


def suspend() -> None:
    """Stop all of the job, as Ctrl-Z does."""
    os.kill(0, signal.SIGTSTP)


def write_log(text: str) -> Path:
    """Write text to a new file in the current folder, or where temporary files are; return its path.

    Raises:
        OSError: Neither can be written.
    """
    name = time.strftime("orchestra-%Y%m%d-%H%M%S.log")
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        with suppress(OSError):
            path = folder / name
            path.write_text(text, encoding="utf-8")
            return path
    raise OSError(0, "no folder can be written")
