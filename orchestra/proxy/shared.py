"""What all exchanges of a proxy share: its plan, its upstreams, its rules, and what there is for development.

Not here: what an exchange is (`exchange`), which ones there are (`server`).
"""

from __future__ import annotations

import itertools
from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio
from msgspec import Struct

from orchestra.config.plan import Address
from orchestra.proxy.gate import Upstream
from orchestra.proxy.head import HeadReader
from orchestra.proxy.hints import Hints
from orchestra.proxy.rules import Router

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from orchestra.bus import Bus
    from orchestra.config.plan import ProxyPlan
    from orchestra.events import StateChanged, UpstreamName
    from orchestra.frontend_pages import FrontendPages
    from orchestra.proxy.framing import Body
    from orchestra.proxy.gate import Dial
    from orchestra.proxy.head import RequestHead, ResponseHead
    from orchestra.proxy.record import Record

__all__ = ["Extras", "Pages", "Shared"]

# A screen of them. Each holds some 4 KiB of heads: with 300, nothing that a request takes is left in the
# processor's cache, and each cost a tenth more.
_MOST_RECENT = 30


class Pages(Protocol):
    """Changes documents on their way to a window. It neither waits nor raises."""

    def asks(self, head: RequestHead) -> RequestHead | None:
        """Return what upstreams are asked in place of `head`; ``None`` if no answer to it is changed."""

    def change(
        self, request: RequestHead, answer: ResponseHead, body: Body, upstream: UpstreamName
    ) -> tuple[ResponseHead, Body]:
        """Return what passes in place of an answer to such a request, and of its body: the same, maybe."""

    def tag(self, request: RequestHead, status: int) -> str:
        """Return what a page of our own that answers `request` has in its head; may be empty."""


class Extras(Struct, frozen=True, kw_only=True):
    """What a proxy has for development only.

    Attributes:
        frontend_pages: The pages that are known to be the frontend's: they do not wait for the backend.
        own: Connects to what serves our own paths, ``/__orchestra__/``; without it they are 404.
        pages: Changes documents on their way to a window; without it all pass as they are.
        failed: Told of each answer of the backend with a status from 500 on, by the request.
    """

    frontend_pages: FrontendPages | None = None
    own: Callable[[], socket.socket] | None = None
    pages: Pages | None = None
    failed: Callable[[RequestHead], object] | None = None


class Shared:
    """What all exchanges of a proxy share.

    Args:
        most_idle: How many idle connections to an upstream are kept at most.
        dial_own: How to connect to what serves our own paths; ``None``: nothing does. All others are those of
            the `Proxy`.

    Attributes:
        changed: Where tasks wait for the next report on any process.
        clock: What `trio.current_time` asks in the end, at a third of its price, while the proxy runs.
        ended: Where tasks wait for the end of an exchange or a connection.
        hints: Says which settings may be missing.
        is_closing: No connection is used for another request any more.
        recent: The requests that have ended last, oldest first.
        newest: The newest report on each process: which of them an upstream is may be decided later.
        now: The time on trio's clock, as exactly as limits of time are kept.
        start_soon: Starts a task beside those of the connections, while the proxy runs.
        upstreams: ``backend`` and ``frontend``, perhaps ``orchestra``, and further frontends by prefix.
    """

    clock: Callable[[], float]
    start_soon: Callable[..., object]

    def __init__(
        self,
        plan: ProxyPlan,
        *,
        bus: Bus,
        tail: Callable[[str], Sequence[str]],
        refused: Callable[[str], object],
        dial: Dial,
        dial_own: Dial | None,
        most_idle: int,
        extras: Extras,
    ) -> None:
        self.plan = plan
        self.bus = bus
        self.tail = tail
        self.refused = refused
        self.most_idle = most_idle
        self._dial = dial
        self.pages = extras.pages
        self.failed = extras.failed
        self._frontend_pages = extras.frontend_pages
        self.reader = HeadReader()
        self.changed = trio.lowlevel.ParkingLot()
        self.newest: dict[str, StateChanged] = {}
        self.upstreams = {
            key: Upstream(self, "backend" if key == "backend" else "frontend", planned, dial)
            for key, planned in plan.upstreams.items()
        }
        if dial_own is not None:
            # It is in this process, and has no address that could be dialled.
            self.upstreams["orchestra"] = Upstream(self, "orchestra", Address("localhost", 0), dial_own)
        self.router = self._new_router()
        self.hints = Hints(self)
        self.ended = trio.lowlevel.ParkingLot()
        self.is_closing = False
        self.recent: deque[Record] = deque(maxlen=_MOST_RECENT)
        self.now = 0.0
        self.next_number = itertools.count(1).__next__

    def __repr__(self) -> str:
        return f"<Shared {' '.join(map(repr, self.upstreams.values()))}>"

    def change(self, plan: ProxyPlan, processes: set[str]) -> None:
        """See `Proxy.change`."""
        before, self.plan = self.plan, plan
        for key in {**before.upstreams, **plan.upstreams}:
            planned, upstream = plan.upstreams.get(key), self.upstreams.get(key)
            if upstream is None:
                self.upstreams[key] = Upstream(self, "frontend", planned, self._dial)
            # What was found stays unless its process is gone.
            elif planned != before.upstreams.get(key) or not processes.issuperset(upstream.gate.members):
                upstream.gate.plan(planned)
                upstream.sweep(self.now)
        self.router = self._new_router()

    def _new_router(self) -> Router:
        # That something elsewhere was restarted is not reported.
        remembers = self.plan.memo and self.upstreams["backend"].gate.is_supervised
        has_own = "orchestra" in self.upstreams
        return Router(self.plan, pages=self._frontend_pages, has_own=has_own, remembers=remembers)

    def frontend_of(self, head: RequestHead) -> Upstream:
        """Return the frontend that answers a request if one does."""
        return self.upstreams[self.router.frontend_of(head.path) if self.plan.frontends else "frontend"]
