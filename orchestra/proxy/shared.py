"""What all exchanges of a proxy share.

Not here: what happens in an exchange.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import trio

from orchestra.proxy.gate import Gate
from orchestra.proxy.head import HeadReader
from orchestra.proxy.pool import Upstream
from orchestra.proxy.route import MEMORY, Router

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestra.config.plan import ProxyPlan, UpstreamPlan
    from orchestra.events import Bus
    from orchestra.proxy.pool import Dial
    from orchestra.proxy.route import Side

__all__ = ["Shared"]

# Refused origins that get a notice; further ones see the refusal in their answers alone.
_MAX_ORIGINS = 100


class Shared:
    """What all exchanges of a proxy share.

    Args:
        plan: What stands behind the proxy.
        bus: Where requests, streams and notices are reported.
        tail: Gives the last lines that a process wrote.
        dial: How to connect to an upstream.
        idle: How many idle connections to an upstream are kept at most.

    Attributes:
        ended: Where tasks wait for the end of an exchange or a connection.
        is_closing: No connection is used for another request any more.
        now: The time on trio's clock, as exactly as limits of time are kept.
    """

    def __init__(
        self, plan: ProxyPlan, *, bus: Bus, tail: Callable[[str], Sequence[str]], dial: Dial, idle: int
    ) -> None:
        self.plan = plan
        self.bus = bus
        self.reader = HeadReader()
        changed = trio.lowlevel.ParkingLot()

        def upstream(side: Side, what: UpstreamPlan) -> Upstream:
            gate = Gate(side, what, changed=changed, hold=plan.hold, bus=bus, tail=tail)
            return Upstream(gate, dial=dial, reader=self.reader, limit=idle)

        self.backend = upstream("backend", plan.backend)
        self.frontend = upstream("frontend", plan.frontend)
        self.upstreams = (self.backend, self.frontend)
        # That something elsewhere was restarted is not reported.
        remembers = plan.memo and self.backend.gate.is_supervised
        self.router = Router(plan, memory=MEMORY if remembers else 0)
        self.ended = trio.lowlevel.ParkingLot()
        self.is_closing = False
        self.now = 0.0
        self.next_number = itertools.count(1).__next__
        self._refused_origins: set[bytes | None] = set()

    def __repr__(self) -> str:
        return f"<Shared {self.backend!r} {self.frontend!r}>"

    def upstream(self, side: Side) -> Upstream:
        """Return the upstream of that side."""
        return self.backend if side == "backend" else self.frontend

    def report_origin(self, origin: bytes | None, refused: str) -> None:
        """Say that a page of another origin was refused, once for each."""
        key = origin and origin.lower()
        if key not in self._refused_origins and len(self._refused_origins) < _MAX_ORIGINS:
            self._refused_origins.add(key)
            self.bus.notice("origin-refused", refused)
