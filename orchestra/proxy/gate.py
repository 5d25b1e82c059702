"""Can this upstream be asked, and where? One gate for each, fed by events, at which requests wait.

Strategy. A gate believes only what the supervisor has reported: a process is asked when it is `READY` at a
known address, and not before, however likely it is that its port answers. `route.availability` says what a
state means for the requests that wait; the gate adds the process. Of several instances the first one that is
ready is asked. While it is not decided which process the upstream is, requests wait as for one that starts.

What a request has waited counts for the whole of its way, so that two gates do not hold it twice as long. It
is woken by the next report on any upstream, never by polling.

Not here: connections (`pool`), what is answered to a request whose wait has failed (`answers`), which process
an upstream is (`decide` is told).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never
from urllib.parse import urlsplit

import trio
from msgspec import Struct

from orchestra.config.plan import UNDECIDED, Address, FromProcess, Role
from orchestra.events import State, UpstreamSwitched
from orchestra.proxy.route import Availability, Unavailable, availability

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from orchestra.bus import Bus
    from orchestra.config.plan import UpstreamPlan
    from orchestra.events import StateChanged
    from orchestra.proxy.record import Record
    from orchestra.proxy.route import Side

__all__ = ["Endpoint", "Gate"]

# Requests that wait at one gate; one more is answered 502. More means that a page asks again and again.
MAX_WAITING = 256
# Bytes that the requests that wait at one gate may have in memory together.
MAX_WAITING_BYTES = 8 * 1024 * 1024
# Of several instances one that is ready is enough.
_BEST_FIRST = (Availability.READY, Availability.HOLD, Availability.FAIL)


class Endpoint(Struct, frozen=True):
    """What is asked: an address, and the process there if it is one of this run."""

    process: str | None
    address: Address

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.process or self.address.url


class Gate:
    """Whether one upstream can be asked, and where.

    Args:
        side: Which upstream it is.
        upstream: What is behind it; ``None``: there is no such upstream.
        changed: Where tasks wait for the next report; the gates of a proxy share it.
        hold: Seconds that a request may wait in all.
        bus: Where decisions and switches are reported.
        tail: Gives the last lines that a process wrote, for a refusal.

    Attributes:
        availability: What a request has to expect now.
        endpoint: What is asked, the same object until that changes; ``None`` while nothing can be.
    """

    endpoint: Endpoint | None = None

    def __init__(
        self,
        side: Side,
        upstream: UpstreamPlan,
        *,
        changed: trio.lowlevel.ParkingLot,
        hold: float,
        bus: Bus,
        tail: Callable[[str], Sequence[str]],
    ) -> None:
        self.side: Side = side
        self.changed = changed
        self.hold = hold
        self._bus = bus
        self._tail = tail
        # Of all processes: which of them the upstream is may be decided later.
        self._newest: dict[str, StateChanged] = {}
        self._waiting = 0
        self._waiting_bytes = 0
        self.plan(upstream)

    def __repr__(self) -> str:
        fixed = self.endpoint.address if self.endpoint is not None else "not decided yet"
        what = " and ".join(self._members) or fixed
        return f"<Gate {self.side}: {what}, {self.availability.value}, {self._waiting} waiting>"

    @property
    def _members(self) -> tuple[str, ...]:
        return self._upstream.members if isinstance(self._upstream, FromProcess) else ()

    def plan(self, upstream: UpstreamPlan) -> None:
        """Stand for what the plan says from now on."""
        self._upstream = upstream
        self._was_undecided = upstream is UNDECIDED
        self._absence = f"there is no {self.side}"
        self._look()

    def decide(self, upstream: UpstreamPlan, *, reason: str = "") -> None:
        """Take note of what the upstream is, if the plan has left that open; what was found stays.

        Args:
            upstream: What it is; ``None``: there is no such upstream.
            reason: Why, for people.
        """
        if not self._was_undecided or self._members:
            return
        hint = f"If one of the processes is the {self.side}, set [proxy] {self.side} to its name."
        if upstream is None:
            self._absence = f"no {self.side}: {reason}" if reason else self._absence
            text = self._absence[0].upper() + self._absence[1:]
            self._bus.notice(f"no-{self.side}", text, level="info", hint=hint)
        elif isinstance(upstream, FromProcess):
            hint = f"If that is wrong, set [proxy] {self.side}."
            text = f"the {self.side} is {upstream.name}: {reason}"
            self._bus.notice(f"{self.side}-found", text, level="info", hint=hint)
        self._upstream = upstream
        self._look()

    def has(self, process: str) -> bool:
        """Whether it is known to stand for this process."""
        return process in self._members

    def is_within(self, processes: Collection[str]) -> bool:
        """Whether all processes that it is known to stand for are among these."""
        return set(self._members) <= set(processes)

    def is_stopping(self, process: str | None) -> bool:
        """Whether it has been asked to end, so that its connections break."""
        return process in self._newest and self._newest[process].state is State.STOPPING

    @property
    def is_supervised(self) -> bool:
        """Whether its coming and going is reported to us."""
        return not isinstance(self._upstream, Address)

    def observe(self, event: StateChanged) -> None:
        """Take note of what is reported of a process."""
        self._newest[event.process] = event
        if event.process not in self._members:
            return
        before = self.endpoint
        self._look()
        now = self.endpoint
        if before is not None and now is not None and before != now and before.process == now.process:
            switched = UpstreamSwitched(
                upstream=self.side,
                process=event.process,
                url=now.address.url,
                previous=before.address.url,
            )
            self._bus.emit(switched)

    def _look(self) -> None:
        """Find out what can be asked now, and wake all that wait."""
        self.availability, endpoint = self._find()
        if endpoint != self.endpoint:
            self.endpoint = endpoint
        self.changed.unpark_all()

    def _find(self) -> tuple[Availability, Endpoint | None]:
        match self._upstream:
            case FromProcess(members=members):
                reports = [self._newest.get(name) for name in members]
                best = min(reports, key=lambda report: _BEST_FIRST.index(availability(report)))
                found = availability(best)
                if best is None or found is not Availability.READY:
                    return found, None
                parts = urlsplit(best.url or "")
                return found, Endpoint(best.process, Address(parts.hostname or "127.0.0.1", parts.port or 80))
            case Address():
                return Availability.READY, Endpoint(None, self._upstream)
            case Role.UNDECIDED:
                return Availability.HOLD, None
            case None:
                return Availability.ABSENT, None
            case _:
                assert_never(self._upstream)

    async def wait_ready(self, request: Record) -> None:
        """Wait until the upstream can be asked.

        Raises:
            Unavailable: It cannot, and waiting makes no sense, takes too long, or too many wait already.
        """
        if self.availability is Availability.HOLD:
            size = request.size
            if self._waiting >= MAX_WAITING:
                raise self.unavailable(f"{self._waiting} requests wait for it already")
            if self._waiting_bytes + size > MAX_WAITING_BYTES:
                raise self.unavailable(f"{self._waiting_bytes} bytes of requests wait for it already")
            await self._wait(request, size)
        if self.availability is not Availability.READY:
            raise self.unavailable()

    async def _wait(self, request: Record, size: int) -> None:
        self._waiting += 1
        self._waiting_bytes += size
        request.begin_wait(self.side, self._explain())
        found: Availability | None = None
        try:
            while self.availability is Availability.HOLD and request.held < self.hold:
                await self.wait_change(request)
            found = self.availability
        finally:
            self._waiting -= 1
            self._waiting_bytes -= size
            request.end_wait(self.side, found)

    async def wait_change(self, request: Record) -> None:
        """Wait until something is reported of any upstream, or the request has waited long enough."""
        begun = trio.current_time()
        with trio.move_on_at(begun + self.hold - request.held) as time:
            try:
                await self.changed.park()
            finally:
                request.held += trio.current_time() - begun
        if time.cancelled_caught:
            # However that was rounded.
            request.held = max(request.held, self.hold)

    def unavailable(self, more: str = "") -> Unavailable:
        """Say why it cannot be asked."""
        text = self._explain()
        process = self._most_telling()
        tail = tuple(self._tail(process)) if process is not None else ()
        return Unavailable(self.side, self.availability, f"{text}; {more}" if more else text, tail)

    def _explain(self) -> str:
        if self.endpoint is not None:
            refuses = f"{self.endpoint.process} refuses connections" if self._members else "nothing answers"
            return f"{refuses} at {self.endpoint.address.url}"
        if self._upstream is UNDECIDED:
            return f"it is not known yet which process is the {self.side}"
        process = self._most_telling()
        if process is None:
            return self._absence
        newest = self._newest.get(process)
        if newest is None:
            return f"{process} is not started"
        text = f"{process} {newest.state.predicate}"
        return f"{text}: {newest.reason}" if newest.reason else text

    def _most_telling(self) -> str | None:
        """The process whose last lines explain best why there is no upstream."""
        reports = (self._newest.get(name) for name in self._members)
        died = (report.process for report in reports if report is not None and report.ended_before_ready)
        return next(died, self._members[0] if self._members else None)
