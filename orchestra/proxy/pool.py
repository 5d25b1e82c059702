"""Connections to one upstream: idle ones that are kept, and how a request gets one.

Strategy. `Pool` is a stack of idle connections, newest first, with three reasons to drop one: it is too old
(Vite closes after 5 s, so we do after 4), something can be read from it (its end, or bytes that were not
asked for), or its upstream is not the same any more. `Upstream` puts the gate before it: wait until the
upstream is ready, take an idle connection, else dial.

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

    from orchestra.events import StateChanged
    from orchestra.proxy.gate import Endpoint, Gate, Waiter
    from orchestra.proxy.head import HeadReader
    from orchestra.proxy.transport import Transport

__all__ = ["Dial", "Pool", "Upstream"]

Dial: TypeAlias = "Callable[[str, int], Awaitable[Transport]]"

# Node and uvicorn close idle connections after 5 s; one second of margin for a request on its way.
IDLE_LIMIT = 4.0
# More than a browser opens at once, for several of them.
IDLE_CONNECTIONS = 64
# How long the report of a process's end may take to reach us before we dial again.
REPORT_DELAY = 0.1
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Pool:
    """Idle connections to one upstream.

    Args:
        limit: How many are kept at most.
    """

    def __init__(self, limit: int = IDLE_CONNECTIONS) -> None:
        self._limit = limit
        self._idle: list[UpstreamConnection] = []
        self._dropped = 0

    def __repr__(self) -> str:
        return f"<Pool: {len(self._idle)} of {self._limit} idle, {self._dropped} dropped>"

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, now: float) -> UpstreamConnection | None:
        """Return the newest connection that is still good; those that are not are dropped on the way."""
        while self._idle:
            idle = self._idle.pop()
            if now - idle.since < IDLE_LIMIT and not idle.transport.has_input():
                return idle
            self._drop(idle)
        return None

    def put(self, connection: UpstreamConnection, now: float) -> None:
        """Keep a connection whose exchange is complete; beyond the limit the oldest one goes."""
        connection.rest(now)
        self._idle.append(connection)
        if len(self._idle) > self._limit:
            self._drop(self._idle.pop(0))

    def sweep(self, now: float) -> None:
        """Drop what is too old."""
        while self._idle and now - self._idle[0].since >= IDLE_LIMIT:
            self._drop(self._idle.pop(0))

    def clear(self) -> None:
        """Drop everything."""
        while self._idle:
            self._drop(self._idle.pop())

    def _drop(self, idle: UpstreamConnection) -> None:
        self._dropped += 1
        idle.close()


class Upstream:
    """One upstream: its gate, its idle connections, and the way to new ones.

    Args:
        dial: How to connect; raises `OSError`.
        reader: Reads the heads of its answers.
        idle: How many idle connections are kept at most.

    Attributes:
        generation: Counts the endpoints so far: another process or address begins a new generation.
    """

    def __init__(self, gate: Gate, *, dial: Dial, reader: HeadReader, idle: int = IDLE_CONNECTIONS) -> None:
        self.gate = gate
        self._dial = dial
        self._reader = reader
        self._pool = Pool(idle)
        self._endpoint: Endpoint | None = gate.endpoint
        self.generation = 0

    def __repr__(self) -> str:
        return f"<Upstream {self.gate!r} in generation {self.generation}, {self._pool!r}>"

    @property
    def idle(self) -> int:
        """How many idle connections are kept."""
        return len(self._pool)

    def sweep(self, now: float) -> None:
        """Drop idle connections that are too old."""
        self._pool.sweep(now)

    def clear(self) -> None:
        """Drop all idle connections."""
        self._pool.clear()

    def observe(self, event: StateChanged) -> None:
        """Pass a report on to the gate; connections to a process that is gone or has moved are dropped."""
        self.gate.observe(event)
        self.look()

    def look(self) -> None:
        """Drop all connections if the endpoint has changed."""
        if self._endpoint != self.gate.endpoint:
            self._endpoint = self.gate.endpoint
            self.generation += 1
            self._pool.clear()

    def is_stale(self, connection: UpstreamConnection) -> bool:
        """Whether it is to an earlier generation, which has ended or is about to."""
        return connection.generation != self.generation

    def take(self, now: float) -> UpstreamConnection | None:
        """Return an idle connection, if the upstream can be asked and has one."""
        if self.gate.availability is not Availability.READY:
            return None
        return self._pool.take(now)

    async def connect(self, waiter: Waiter, now: float, *, fresh: bool = False) -> UpstreamConnection:
        """Get a connection as soon as there can be one.

        Args:
            waiter: The request that it is for.
            now: The time.
            fresh: Do not use one that has been idle.

        Raises:
            Unavailable: There will be none, or not in time.
        """
        while True:
            await self.gate.wait_ready(waiter)
            if not fresh and (connection := self.take(now)) is not None:
                return connection
            generation, endpoint = self.generation, self._endpoint
            if endpoint is None:
                raise self.gate.unavailable()
            try:
                transport = await self._dial(endpoint.address.host, endpoint.address.port)
            except OSError as exc:
                now = trio.current_time()
                is_ours = exc.errno in OUT_OF_DESCRIPTORS
                if is_ours:
                    self._pool.clear()
                deadline = waiter.deadline()
                if now >= deadline or not (is_ours or self.gate.is_supervised):
                    raise self.gate.unavailable() from exc
                await self.gate.wait_change(min(now + REPORT_DELAY, deadline))
                waiter.held += trio.current_time() - now
                continue
            if generation != self.generation:
                # It has been replaced or stopped while we dialled; nothing has been sent to it yet.
                transport.close()
                continue
            return UpstreamConnection(
                transport,
                self._reader,
                process=endpoint.process,
                label=endpoint.process or endpoint.address.url,
                generation=generation,
            )

    async def wait_for_report(self, connection: UpstreamConnection) -> None:
        """Wait a moment after a connection broke: the report that its process has ended may be on its way."""
        if self.gate.is_supervised:
            deadline = trio.current_time() + REPORT_DELAY
            while not self.is_stale(connection) and trio.current_time() < deadline:
                await self.gate.wait_change(deadline)

    def give_back(self, connection: UpstreamConnection, now: float) -> None:
        """Take a connection back after its exchange; it is kept if another one can follow, else closed."""
        if connection.generation == self.generation and connection.is_reusable():
            self._pool.put(connection, now)
        else:
            connection.close()
