"""A run on the dashboard: what its keys ask for is done to the run, or on this machine.

Not here: what keys mean (`dashboard/controls`), drawing, signals and job control (`foreground`).
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from codecs import getincrementaldecoder
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING

import trio

from orchestra.control.local import Order
from orchestra.errors import OrchestraError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestra.dashboard.controls import Act, Controls

__all__ = ["Operator", "open_page", "suspend", "write_log"]

# Chunks of keys that wait for a process to take them.
_WAITING_INPUT = 1000


class Operator:
    """Does what keys ask for: `obey` gives an order to the run, `leave` does what `q` is for, at once."""

    def __init__(
        self, controls: Controls, obey: Callable[[Order], Awaitable[object]], leave: Callable[[], object]
    ) -> None:
        self._controls = controls
        self._obey = obey
        self._leave = leave
        self._nursery: trio.Nursery | None = None
        self._typed, self._to_send = trio.open_memory_channel[tuple[str, bytes]](_WAITING_INPUT)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry orders out until cancelled."""
        decoder = getincrementaldecoder("utf-8")("replace")
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            async for name, data in self._to_send:
                order = Order(do="send", processes=(name,), text=decoder.decode(data))
                await self._try(partial(self._obey, order))

    def soon(self, what: Callable[[], Awaitable[object]]) -> None:
        """Begin something; if that cannot be done, it is said. Does not wait."""
        if self._nursery is not None:
            self._nursery.start_soon(self._try, what)

    def send(self, name: str, data: bytes) -> None:
        """Send what was typed to a process, in order. Does not wait."""
        try:
            self._typed.send_nowait((name, data))
        except trio.WouldBlock:
            self._controls.say(f"{name} does not read what is typed")

    def perform(self, wanted: Order | Act) -> None:
        """Do what a key asks for. Does not wait."""
        if isinstance(wanted, Order):
            self.soon(partial(self._obey, wanted))
            return
        match wanted.do:
            case "quit":
                self._leave()
            case "suspend":
                suspend()
            case "write":
                self.soon(partial(self._write, wanted.text))
            case "open":
                self.soon(partial(self._open, wanted.text))
            case "copy" | "redraw":
                pass  # the screen's

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
        if not await open_page(url):
            self._controls.say(f"no browser could be opened: {url}")


async def open_page(url: str) -> bool:
    """Open an address in the browser, as the system does or as Python does; say whether one of them could."""
    system = "open" if sys.platform == "darwin" else "xdg-open"
    python = (sys.executable, "-c", "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))")
    for command in ((system,), python):
        # Quiet: what it says would land in the middle of the picture.
        run = partial(trio.run_process, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True, check=False)
        with suppress(OSError):
            if (await run([*command, url])).returncode == 0:
                return True
    return False


def suspend() -> None:
    """Stop all of the job, as Ctrl-Z does."""
    os.kill(0, signal.SIGTSTP)


def write_log(text: str) -> Path:
    """Write a new file in the current folder, or the one for temporary files; return its path."""
    name = time.strftime("orchestra-%Y%m%d-%H%M%S.log")
    for folder in (Path.cwd, lambda: Path(tempfile.gettempdir())):
        with suppress(OSError):
            path = folder() / name
            path.write_text(text, encoding="utf-8")
            return path
    raise OSError(0, "no folder can be written")
