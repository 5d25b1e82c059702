"""The control app of a run: its two doors, and the messages of the run to open pages.

The local door is a unix socket, which is bound at the start; programs of other users are refused by the
credentials that the system gives. The browser's door is `connect`: the proxy gets one end of a socket pair,
so everything that arrives at the other end has come through the proxy. So the two cannot be confused.

Hypercorn and the app are imported at the first connection, in a thread, so that a run without pages does not
pay for them. Messages for pages are collected from the start (`tabs`).

Resource handling: when `run` returns or is cancelled, all connections are closed and the unix socket is
removed. Connections are shut down before the tasks that serve them are cancelled, so that none of them waits.

Not here: requests and answers (`app`, `worker`), the folder of the socket (`unix_sockets`).
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from orchestra import unix_sockets
from orchestra.control.tabs import Tabs
from orchestra.events import ErrorCleared, ErrorShown, Event, OutputLine, StateChanged

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from orchestra.bus import Bus
    from orchestra.control.app import App, View
    from orchestra.control.doors import Door
    from orchestra.control.worker import Worker
    from orchestra.unix_sockets import UnixSocket

__all__ = ["Control"]

logger = logging.getLogger(__name__)

# Connections of local programs at once; there is no use for more.
MAX_LOCAL = 64
# Seconds for pages to read that the run ends, and for readers of events: both react at once.
CLOSE_LIMIT = 0.5
# The pause after accept has failed, usually for lack of descriptors.
ACCEPT_PAUSE = 0.1


class Control:
    """Serves the control app, if possible also on the unix socket `path`; `tabs` are the open pages."""

    def __init__(
        self, view: View, *, bus: Bus, is_backend: Callable[[str], bool], environ: Mapping[str, str]
    ) -> None:
        self.path: Path | None = None
        self._view = view
        self._bus = bus
        self._environ = environ
        self._token = secrets.token_urlsafe(24)
        self.tabs = Tabs(view.plan.reload, token=self._token, is_backend=is_backend, emit=bus.emit)
        self._app: App | None = None
        self._worker: Worker | None = None
        self._loading = trio.Lock()
        self._connections: dict[socket.socket, Door] = {}
        self._ended = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"<Control at {self.path}, {len(self._connections)} connections, {self.tabs!r}>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        local = self._bind()
        kinds: list[type[Event]] = [StateChanged, ErrorShown, ErrorCleared]
        if self._view.plan.reload.console:
            kinds.append(OutputLine)
        unsubscribe = self._bus.subscribe(lambda event: self.tabs.observe(event, trio.current_time()), *kinds)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    if local is not None:
                        nursery.start_soon(self._accept, local.listener, nursery)
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self._nursery = None
                    for sock in self._connections:
                        with suppress(OSError):
                            sock.shutdown(socket.SHUT_RDWR)
        finally:
            unsubscribe()
            if local is not None:
                local.close()

    def connect(self) -> socket.socket:
        """Connect to the browser's door; return our end, or raise `OSError` if `run` is not running."""
        if self._nursery is None:
            raise ConnectionRefusedError
        ours, theirs = socket.socketpair()
        self._serve_soon(self._nursery, ours, "browser")
        return theirs

    async def close(self) -> None:
        """Send the end of the run to all pages; wait until they have got it, a moment at most."""
        self.tabs.end()
        with trio.move_on_after(CLOSE_LIMIT):
            while self.tabs:
                await self._ended.park()

    async def finish(self) -> None:
        """Wait until readers of events have got the end of the run, a moment at most."""
        with trio.move_on_after(CLOSE_LIMIT):
            if self._app is not None:
                await self._app.wait_for_readers()

    def _bind(self) -> UnixSocket | None:
        try:
            local = unix_sockets.bind(self._environ, pid=os.getpid())
        except OSError as exc:
            hint = "Set XDG_RUNTIME_DIR to a folder of your own with a short path."
            self._bus.notice("no-control-socket", f"this run has no control socket: {exc}", hint=hint)
            return None
        self.path = local.path
        return local

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                continue
            except OSError:
                await trio.sleep(ACCEPT_PAUSE)
                continue
            has_room = sum(door == "local" for door in self._connections.values()) < MAX_LOCAL
            if has_room and unix_sockets.peer_uid(sock) == os.getuid():
                self._serve_soon(nursery, sock, "local")
            else:
                sock.close()
            # Otherwise the variable would keep the socket open until the next one comes.
            del sock

    def _serve_soon(self, nursery: trio.Nursery, sock: socket.socket, door: Door) -> None:
        self._connections[sock] = door
        nursery.start_soon(self._serve, sock, door)

    async def _serve(self, sock: socket.socket, door: Door) -> None:
        try:
            async with self._loading:
                if self._worker is None:
                    self._worker = await trio.to_thread.run_sync(self._load)
            await self._worker.serve(sock, door)
        except Exception:
            logger.exception("a bug in orchestra ended one connection to its control app")
        finally:
            del self._connections[sock]
            sock.close()
            self._ended.unpark_all()

    def _load(self) -> Worker:
        """Import the server; takes a tenth of a second."""
        from orchestra.control.app import App  # noqa: PLC0415
        from orchestra.control.worker import Worker  # noqa: PLC0415

        self._app = App(
            self._view,
            self.tabs,
            token=self._token,
            launch=self._launch,
            environ=self._environ,
        )
        return Worker(self._app)

    async def _launch(self, command: Sequence[str]) -> None:
        """Start an editor; if it fails, a notice says so."""
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=self._environ,
        )
        if self._nursery is not None:
            self._nursery.start_soon(self._watch, process, command[0])

    async def _watch(self, process: trio.Process, name: str) -> None:
        if code := await process.wait():
            hint = 'Set [reload] editor to a command that opens a file: "code -g {file}:{line}".'
            self._bus.notice("editor-failed", f"{name} could not open a file: exit code {code}", hint=hint)
