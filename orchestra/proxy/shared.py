"""What all exchanges of a proxy share.

Not here: what happens in an exchange.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

import trio

from orchestra.proxy.route import Router

if TYPE_CHECKING:
    from orchestra.config.plan import ProxyPlan
    from orchestra.events import Bus
    from orchestra.proxy.connection import UpstreamConnection
    from orchestra.proxy.head import HeadReader
    from orchestra.proxy.pool import Upstream
    from orchestra.proxy.route import Side

__all__ = ["Shared", "Stream"]

# Refused origins that get a notice; further ones see the refusal in their answers alone.
_MAX_ORIGINS = 100


class Stream(Protocol):
    """Something that stays open until one side closes it."""

    @property
    def connection(self) -> UpstreamConnection | None:
        """To its upstream."""
        ...

    def end_early(self, code: int) -> None:
        """End it; WebSockets say `code`."""
        ...


class Shared:
    """What all exchanges of a proxy share.

    Attributes:
        streams: All WebSockets and event streams that are open now.
        waiting: How many tasks wait for the end of an exchange or a connection.
        is_closing: No connection is used for another request any more.
        now: The time on trio's clock, as exactly as limits of time are kept.
    """

    def __init__(
        self, plan: ProxyPlan, *, backend: Upstream, frontend: Upstream, bus: Bus, reader: HeadReader
    ) -> None:
        self.plan = plan
        self.backend = backend
        self.frontend = frontend
        self.bus = bus
        self.reader = reader
        # That something elsewhere was restarted is not reported.
        self.router = Router(plan, remembers=plan.memo and backend.gate.is_supervised)
        self.streams: set[Stream] = set()
        self._ended = trio.lowlevel.ParkingLot()
        self.waiting = 0
        self.is_closing = False
        self.now = 0.0
        self.next_number = itertools.count(1).__next__
        self._refused_origins: set[bytes | None] = set()

    def __repr__(self) -> str:
        return f"<Shared {self.backend!r} {self.frontend!r}, {len(self.streams)} streams>"

    def upstream(self, side: Side) -> Upstream:
        """Return the upstream of that side."""
        return self.backend if side == "backend" else self.frontend

    async def wait_ended(self) -> None:
        """Wait for the end of an exchange or a connection."""
        self.waiting += 1
        try:
            await self._ended.park()
        finally:
            self.waiting -= 1

    def report_ended(self) -> None:
        """An exchange or a connection has ended."""
        self._ended.unpark_all()

    def report_origin(self, origin: bytes | None, refused: str) -> None:
        """Say that a page of another origin was refused, once for each."""
        key = origin and origin.lower()
        if key not in self._refused_origins and len(self._refused_origins) < _MAX_ORIGINS:
            self._refused_origins.add(key)
            self.bus.notice("origin-refused", refused)
