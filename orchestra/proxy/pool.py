"""Connections to one upstream: idle ones that are kept, and how a request gets one.

An upstream may be in several places: the instances of a process take turns.

Strategy. `Pool` is a stack of idle connections, newest first, with three reasons to drop one: it is too old
(Vite closes after 5 s, so we do after 4), something can be read from it (its end, or bytes that nobody asked
for), or its upstream is not the same any more. `Upstream` puts the gate before it: wait until the upstream is
ready, take an idle connection, else dial.

A refused dial of a process that is said to be ready means that news of its death is on its way. Nothing of
the request has reached it, so that any request may go on waiting. Something that runs elsewhere gets no such
patience: nobody would tell us that it has come.

Never here: what is sent over a connection, and whether it may be sent again (`relay.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import trio

from orchestra.errors import UpstreamError
from orchestra.events import StateChanged
from orchestra.proxy.route import Standing
from orchestra.proxy.wire import UpstreamSide

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestra.events import Event, UpstreamName
    from orchestra.proxy.gate import Address, Gate, Hold, Refusal
    from orchestra.proxy.transport import Transport

__all__ = ["Dial", "Lease", "Pool", "Unavailable", "Upstream"]

Dial: TypeAlias = "Callable[[str, int], Awaitable[Transport]]"

# Node's and uvicorn's keep-alive is 5 s; a second is for a request that is just being sent.
IDLE_LIMIT = 4.0
# How long news of a death may take to reach us before we dial again.
NEWS_DELAY = 0.1


class Unavailable(UpstreamError):  # noqa: N818 - the error is its base's name
    """An upstream cannot be asked.

    Attributes:
        standing: `Standing.HOLD` if it was not ready in time, `FAIL` if waiting makes no sense, `ABSENT` if
            there is none, `READY` if it refuses connections.
        refusal: The reason, for people.
    """

    def __init__(self, name: UpstreamName, found: Standing, refusal: Refusal, more: str = "") -> None:
        super().__init__(f"{refusal.text}; {more}" if more else refusal.text)
        self.name = name
        self.standing = found
        self.refusal = refusal


@dataclass(frozen=True, slots=True)
class Lease:
    """A connection for one exchange.

    Attributes:
        is_reused: It has been idle, so that it may have died without our knowing.
        place: Whom it is to.
        generation: Which life of that one it belongs to.
    """

    side: UpstreamSide
    is_reused: bool
    place: _Place
    generation: int

    @property
    def is_stale(self) -> bool:
        """Whether it is to a life that is over, or about to be."""
        return self.generation != self.place.generation

    @property
    def process(self) -> str | None:
        """Whom it is to, if that is a process of this run."""
        return self.place.process


@dataclass(slots=True)
class _Idle:
    side: UpstreamSide
    since: float


class Pool:
    """Idle connections to one upstream.

    Args:
        limit: So many at most.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._idle: list[_Idle] = []
        self._dropped = 0

    def __repr__(self) -> str:
        return f"<Pool: {len(self._idle)} of {self._limit} idle, {self._dropped} dropped>"

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, now: float) -> UpstreamSide | None:
        """Return the newest connection that is still good; those that are not are dropped on the way."""
        while self._idle:
            idle = self._idle.pop()
            if now - idle.since < IDLE_LIMIT and not idle.side.transport.has_input():
                return idle.side
            self._drop(idle)
        return None

    def put(self, side: UpstreamSide, now: float) -> None:
        """Keep a connection whose exchange is complete; beyond the limit the oldest one goes."""
        self._idle.append(_Idle(side, now))
        while len(self._idle) > self._limit:
            self._drop(self._idle.pop(0))

    def sweep(self, now: float) -> None:
        """Drop what is too old."""
        while self._idle and now - self._idle[0].since >= IDLE_LIMIT:
            self._drop(self._idle.pop(0))

    def clear(self) -> None:
        """Drop everything."""
        while self._idle:
            self._drop(self._idle.pop())

    def _drop(self, idle: _Idle) -> None:
        self._dropped += 1
        idle.side.close()


class _Place:
    """One process (or something elsewhere) that can be asked, in all its lives."""

    def __init__(self, process: str | None, address: Address, pool: Pool) -> None:
        self.process = process
        self.address: Address | None = address
        self.pool = pool
        self.generation = 0

    def __repr__(self) -> str:
        return f"<_Place {self.process or self.address} in life {self.generation}, {self.pool!r}>"

    def move(self, address: Address | None) -> None:
        """Take note of where it is now; connections to where it was are dropped."""
        if address != self.address:
            self.address = address
            self.generation += 1
            self.pool.clear()


class Upstream:
    """One upstream: its gate, its places with their pools, and the way to them.

    Args:
        dial: How to connect; raises `OSError`.
        pool_size: Idle connections that are kept for each place.
        max_head: Bytes that the head of an answer may have.
    """

    def __init__(self, gate: Gate, *, dial: Dial, pool_size: int = 64, max_head: int = 65536) -> None:
        self.gate = gate
        self._dial = dial
        self._pool_size = pool_size
        self._max_head = max_head
        self._places: dict[str | None, _Place] = {}
        self._turn = 0
        self._look()

    def __repr__(self) -> str:
        return f"<Upstream {self.gate!r} {[*self._places.values()]!r}>"

    @property
    def name(self) -> UpstreamName:
        """What it is to the proxy."""
        return self.gate.name

    @property
    def idle(self) -> int:
        """How many idle connections are kept."""
        return sum(len(place.pool) for place in self._places.values())

    def sweep(self, now: float) -> None:
        """Drop idle connections that are too old."""
        for place in self._places.values():
            place.pool.sweep(now)

    def clear(self) -> None:
        """Drop all idle connections."""
        for place in self._places.values():
            place.pool.clear()

    def observe(self, event: Event) -> None:
        """Pass an event on to the gate; connections to a process that is gone or has moved are dropped."""
        self.gate.observe(event)
        if isinstance(event, StateChanged):
            self._look()

    def _look(self) -> None:
        addresses = self.gate.addresses()
        for process, place in self._places.items():
            place.move(addresses.pop(process, None))
        for process, address in addresses.items():
            self._places[process] = _Place(process, address, Pool(self._pool_size))

    def _next_place(self) -> _Place | None:
        """Give those that can be asked their turns."""
        there = [place for place in self._places.values() if place.address is not None]
        if not there:
            return None
        self._turn += 1
        return there[self._turn % len(there)]

    async def connect(self, hold: Hold, *, fresh: bool = False) -> Lease:
        """Get a connection as soon as there can be one.

        Args:
            hold: The patience of the request that it is for.
            fresh: Do not use one that has been idle.

        Raises:
            Unavailable: There will be none, or not in time.
        """
        while True:
            found = await self.gate.wait_ready(hold)
            place = self._next_place()
            now = trio.current_time()
            if found is not Standing.READY or place is None or place.address is None:
                raise Unavailable(self.name, found, self.gate.refusal(now), hold.refused)
            if not fresh and (side := place.pool.take(now)) is not None:
                return Lease(side, is_reused=True, place=place, generation=place.generation)
            generation, address = place.generation, place.address
            try:
                transport = await self._dial(address.host, address.port)
            except OSError as exc:
                now = trio.current_time()
                if not self.gate.is_supervised or now >= hold.deadline:
                    raise Unavailable(self.name, Standing.READY, self.gate.refusal(now)) from exc
                await self.gate.wait_change(min(now + NEWS_DELAY, hold.deadline))
                hold.seconds += trio.current_time() - now
                continue
            if generation != place.generation:
                # It has begun to go while we dialled; nothing has been sent to it yet.
                transport.close()
                continue
            side = UpstreamSide(transport, label=place.process or str(address), max_head=self._max_head)
            return Lease(side, is_reused=False, place=place, generation=generation)

    async def wait_for_news(self, lease: Lease) -> None:
        """Wait a moment after a connection broke: that its process is gone may be about to be reported."""
        if self.gate.is_supervised:
            deadline = trio.current_time() + NEWS_DELAY
            while lease.generation == lease.place.generation and trio.current_time() < deadline:
                await self.gate.wait_change(deadline)

    def give_back(self, lease: Lease) -> None:
        """Take a connection back after its exchange; it is kept if another one can follow, else closed."""
        if lease.side.is_reusable() and lease.generation == lease.place.generation:
            lease.place.pool.put(lease.side, trio.current_time())
        else:
            lease.side.close()
