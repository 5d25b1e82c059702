"""Connections to one upstream: idle ones that are kept, and how a request gets one.

Strategy. An `Upstream` is a stack of idle connections behind a gate: wait until the upstream is ready, take
the newest idle connection, else dial. Three reasons to drop an idle one: it is too old (Vite closes after
5 s, so we do after 4), something can be read from it (its end, or bytes that were not asked for), or its
endpoint is not asked any more.

If a process that is reported as ready refuses a dial, the report of its end is on its way. Nothing of the
request has reached it, so any request may go on waiting. A server outside of this run is not waited for: no
event would report its start.

Not here: what is sent over a connection, and whether it may be sent again (`exchange`).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TypeAlias

import trio

from orchestra.proxy.connection import UpstreamConnection
from orchestra.proxy.route import Availability

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestra.proxy.gate import Gate
    from orchestra.proxy.head import HeadReader
    from orchestra.proxy.record import Record
    from orchestra.proxy.transport import Transport

__all__ = ["Dial", "Upstream"]

Dial: TypeAlias = "Callable[[str, int], Awaitable[Transport]]"

# Node and uvicorn close idle connections after 5 s; one second of margin for a request on its way.
IDLE_LIMIT = 4.0
# More than a browser opens at once, for several of them.
IDLE_CONNECTIONS = 64
# How long the report of a process's end may take to reach us before we dial again.
REPORT_DELAY = 0.1
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Upstream:
    """One upstream: its gate, its idle connections, and the way to new ones.

    Args:
        dial: How to connect; raises `OSError`.
        reader: Reads the heads of its answers.
        limit: How many idle connections are kept at most.

    Attributes:
        idle: Connections that are kept, the newest one last.
    """

    def __init__(self, gate: Gate, *, dial: Dial, reader: HeadReader, limit: int = IDLE_CONNECTIONS) -> None:
        self.gate = gate
        self.idle: list[UpstreamConnection] = []
        self._dial = dial
        self._reader = reader
        self._limit = limit

    def __repr__(self) -> str:
        return f"<Upstream {self.gate!r}, {len(self.idle)} of {self._limit} idle>"

    def is_stale(self, connection: UpstreamConnection) -> bool:
        """Whether it is to an endpoint that is not asked any more: its process has ended or is about to."""
        return connection.endpoint is not self.gate.endpoint

    def sweep(self, now: float) -> None:
        """Drop idle connections that are too old, and all of them if the endpoint is another one."""
        while self.idle and (now - self.idle[0].since >= IDLE_LIMIT or self.is_stale(self.idle[0])):
            self.idle.pop(0).close()

    def clear(self) -> None:
        """Drop all idle connections."""
        while self.idle:
            self.idle.pop().close()

    def take(self, now: float) -> UpstreamConnection | None:
        """Return the newest idle connection that is still good, if the upstream can be asked and has one."""
        if self.gate.availability is not Availability.READY:
            return None
        while self.idle:
            connection = self.idle.pop()
            if now - connection.since < IDLE_LIMIT and not connection.transport.has_input():
                return connection
            connection.close()
        return None

    def give_back(self, connection: UpstreamConnection, now: float) -> None:
        """Keep a connection that may serve again; beyond the limit the oldest one goes."""
        if self.is_stale(connection):
            connection.close()
            return
        connection.rest(now)
        self.idle.append(connection)
        if len(self.idle) > self._limit:
            self.idle.pop(0).close()

    async def connect(self, request: Record, now: float, *, fresh: bool = False) -> UpstreamConnection:
        """Get a connection as soon as there can be one.

        Args:
            request: The request that it is for.
            now: The time.
            fresh: Do not use one that has been idle.

        Raises:
            Unavailable: There will be none, or not in time.
        """
        gate = self.gate
        while True:
            await gate.wait_ready(request)
            if not fresh and (connection := self.take(now)) is not None:
                return connection
            endpoint, now = gate.endpoint, trio.current_time()
            if endpoint is None:
                raise gate.unavailable()
            try:
                transport = await self._dial(endpoint.address.host, endpoint.address.port)
            except OSError as exc:
                is_ours = exc.errno in OUT_OF_DESCRIPTORS
                if is_ours:
                    self.clear()
                request.held += trio.current_time() - now
                if request.held >= gate.hold or not (is_ours or gate.is_supervised):
                    raise gate.unavailable() from exc
                with trio.move_on_after(REPORT_DELAY):
                    await gate.wait_change(request)
                continue
            if endpoint is gate.endpoint:
                return UpstreamConnection(transport, self._reader, endpoint)
            # It has been replaced or stopped while we dialled; nothing has been sent to it yet.
            transport.close()

    async def wait_for_report(self, connection: UpstreamConnection) -> None:
        """Wait a moment after a connection broke: the report that its process has ended may be on its way."""
        if self.gate.is_supervised:
            with trio.move_on_after(REPORT_DELAY):
                while not self.is_stale(connection):
                    await self.gate.changed.park()
