"""What all exchanges of a proxy share: its plan, its upstreams, its rules, and its parts for development.

Not here: what an exchange is (`exchange`), which ones there are (`server`).
"""

from __future__ import annotations

import itertools
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Protocol

import trio
from msgspec import Struct

from orchestra.config.plan import Address
from orchestra.proxy import tls
from orchestra.proxy.gate import Upstream
from orchestra.proxy.head import HeadReader
from orchestra.proxy.hints import Hints
from orchestra.proxy.rules import Router
from orchestra.proxy.transport import SocketTransport

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from orchestra.bus import Bus
    from orchestra.config.plan import ProxyPlan
    from orchestra.events import StateChanged, UpstreamName
    from orchestra.proxy.framing import Body
    from orchestra.proxy.gate import Dial
    from orchestra.proxy.head import RequestHead, ResponseHead
    from orchestra.proxy.record import Record
    from orchestra.proxy.transport import Poller, Transport
    from orchestra.remembered import FrontendPages

__all__ = ["Extras", "Pages", "Shared"]

# A screen of them. Each holds some 4 KiB of heads: with 300, the working set of a request no longer fits the
# processor's cache, and each costs a tenth more.
_MOST_RECENT = 30


class Pages(Protocol):
    """Changes documents on their way to a window. Its methods neither wait nor raise."""

    def asks(self, head: RequestHead) -> RequestHead | None:
        """Return the request for upstreams instead of `head`; ``None`` if the answer is not changed."""

    def change(
        self, request: RequestHead, answer: ResponseHead, body: Body, upstream: UpstreamName
    ) -> tuple[ResponseHead, Body]:
        """Return what passes instead of an answer to such a request, and of its body; possibly the same."""

    def tag(self, request: RequestHead, status: int) -> str:
        """Return the tag for a page of our own that answers `request`; may be empty."""


class Extras(Struct, frozen=True, kw_only=True):
    """The parts of a proxy beside its plan; from `frontend_pages` on they are for development.

    Attributes:
        tail: Gives the last lines of a process, for pages that explain why it is down.
        refused: Called for each process that is ready and refuses a connection.
        dial: Connects to an upstream, if not by a socket.
        frontend_pages: Known pages of the frontend, which do not wait for the backend.
        own: Connects to the control app for our own paths, ``/__orchestra__/``; without it they are 404.
        pages: Changes documents on their way to a window; without it all pass as they are.
        failed: Called with each request that the backend answers with a status from 500 on.
    """

    tail: Callable[[str], Sequence[str]] = lambda _process: ()
    refused: Callable[[str], object] = lambda _process: None
    dial: Dial | None = None
    frontend_pages: FrontendPages | None = None
    own: Callable[[], socket.socket] | None = None
    pages: Pages | None = None
    failed: Callable[[RequestHead], object] | None = None


class Shared:
    """The state that all exchanges of a proxy share.

    Attributes:
        changed: Where tasks wait for the next report on any process.
        clock: The clock behind `trio.current_time`, at a third of the cost, while the proxy runs.
        ended: Where tasks wait for the end of an exchange or a connection.
        most_idle: The limit of idle connections to an upstream.
        hints: Finds out which settings may be missing.
        is_closing: Whether no connection is used for further requests.
        recent: The requests that have ended last, oldest first.
        newest: The newest report on each process; which of them is an upstream may be decided later.
        now: The time on trio's clock, with the precision of the time limits.
        start_soon: Starts a task beside those of the connections, while the proxy runs.
        upstreams: ``backend`` and ``frontend``, perhaps ``orchestra``, and further frontends by prefix.
    """

    clock: Callable[[], float]
    start_soon: Callable[..., object]

    def __init__(self, plan: ProxyPlan, bus: Bus, *, extras: Extras, poller: Poller, most_idle: int) -> None:
        self.plan = plan
        self.bus = bus
        self.extras = extras
        self.most_idle = most_idle
        self._poller = poller
        self._dial = extras.dial or partial(tls.connect, poller=poller)
        self.pages = extras.pages
        self.failed = extras.failed
        self.reader = HeadReader()
        self.changed = trio.lowlevel.ParkingLot()
        self.newest: dict[str, StateChanged] = {}
        self.upstreams = {
            key: Upstream(self, "backend" if key == "backend" else "frontend", planned, self._dial)
            for key, planned in plan.upstreams.items()
        }
        if extras.own is not None:
            # It is in this process, and has no address to dial.
            place = Address("localhost", 0)
            self.upstreams["orchestra"] = Upstream(
                self, "orchestra", place, partial(self._dial_own, extras.own)
            )
        self.router = self._new_router()
        self.hints = Hints(self)
        self.ended = trio.lowlevel.ParkingLot()
        self.is_closing = False
        self.recent: deque[Record] = deque(maxlen=_MOST_RECENT)
        self.now = 0.0
        self.next_number = itertools.count(1).__next__

    def __repr__(self) -> str:
        return f"<Shared {' '.join(map(repr, self.upstreams.values()))}>"

    async def _dial_own(self, connect: Callable[[], socket.socket], _address: Address) -> Transport:
        await trio.lowlevel.checkpoint()
        return SocketTransport(connect(), self._poller)

    def change(self, plan: ProxyPlan, processes: set[str]) -> None:
        """See `Proxy.change`."""
        before, self.plan = self.plan, plan
        for key in {**before.upstreams, **plan.upstreams}:
            planned, upstream = plan.upstreams.get(key), self.upstreams.get(key)
            if upstream is None:
                self.upstreams[key] = Upstream(self, "frontend", planned, self._dial)
            # A found process stays unless it is gone.
            elif planned != before.upstreams.get(key) or not processes.issuperset(upstream.gate.members):
                upstream.gate.plan(planned)
                upstream.sweep(self.now)
        self.router = self._new_router()

    def _new_router(self) -> Router:
        # A restart of a server elsewhere is not reported.
        remembers = self.plan.memo and self.upstreams["backend"].gate.is_supervised
        pages, has_own = self.extras.frontend_pages, self.extras.own is not None
        return Router(self.plan, pages=pages, has_own=has_own, remembers=remembers)

    def frontend_of(self, head: RequestHead) -> Upstream:
        """Return the frontend that would answer a request."""
        return self.upstreams[self.router.frontend_of(head.path) if self.plan.frontends else "frontend"]
