"""Can this upstream be asked, and where? Each has a gate, at which requests wait, and its connections behind.

Strategy. A gate relies only on the supervisor's reports: a process is asked when it is `READY` at a known
address, and not before, even if its port would answer. `route.availability` says what a state means for
waiting requests; the gate adds the process. Of several instances the first ready one is asked. Until it is
decided which process the upstream is, requests wait as for one that starts.

Waiting time is counted for the whole request, so that two gates do not hold it twice as long. A waiting
request is woken by the next report on any upstream, never by polling.

An `Upstream` is a stack of idle connections behind a gate: wait until the upstream is ready, take the newest
idle connection, otherwise dial. An idle connection is dropped for three reasons: it is too old (Vite closes
after 5 s, so we do after 4), it has become readable (its end, or unexpected bytes), or its endpoint is no
longer in use.

If a process that is reported as ready refuses a dial, the report of its end is on its way, or it has moved:
the supervisor is informed (`refused`). Nothing of the request has reached it, so any request may go on
waiting. No event reports the start of a server outside of this run, for example in the IDE's debugger: it
counts as ready until it refuses a dial. Then it is dialled repeatedly until it accepts. Meanwhile requests
wait as for one that restarts; once the outage lasts longer than a request may wait, they fail at once, even
if the server has never been there.

Not here: what is sent over a connection, and whether it may be sent again (`asker`), the answer to a request
whose wait has failed (`answers`), which process an upstream is (`decide` is called with it).
"""

from __future__ import annotations

import errno
from functools import partial
from math import inf
from ssl import SSLError
from typing import TYPE_CHECKING, TypeAlias, assert_never

import trio

from orchestra.config.plan import UNDECIDED, Address, FromProcess, Role
from orchestra.events import State, UpstreamSwitched
from orchestra.proxy.connection import Endpoint, UpstreamConnection
from orchestra.proxy.route import Availability, Unavailable, availability

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestra.config.plan import UpstreamPlan
    from orchestra.events import StateChanged, UpstreamName
    from orchestra.proxy.record import Record
    from orchestra.proxy.shared import Shared
    from orchestra.proxy.transport import Transport

__all__ = ["Dial", "Gate", "Upstream"]

Dial: TypeAlias = "Callable[[Address], Awaitable[Transport]]"

# Requests that wait at one gate; one more is answered 502. More means that a page retries constantly.
MAX_WAITING = 256
# Total bytes in memory of the requests that wait at one gate.
MAX_WAITING_BYTES = 8 * 1024 * 1024
# Node and uvicorn close idle connections after 5 s; one second of margin for a request in transit.
IDLE_LIMIT = 4.0
# More than the connections of several browsers.
IDLE_CONNECTIONS = 64
# Seconds between two dials to a server outside of this run that has refused one: first, and longest.
FIRST_REDIAL_PAUSE = 0.1
LONGEST_REDIAL_PAUSE = 1.0
# Seconds for the report of a process's end to reach us before we dial again.
REPORT_DELAY = 0.1
OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# Accessing a member by its class takes three times as long.
_READY = Availability.READY
# One ready instance of several is enough.
_BEST_FIRST = (_READY, Availability.HOLD, Availability.FAIL)


class Gate:
    """Whether one upstream can be asked, and where.

    Attributes:
        availability: The availability for a request now.
        endpoint: The current endpoint, the same object until it changes; ``None`` if there is none.
        outage: The availability while a server outside of this run refuses connections.
    """

    def __init__(self, shared: Shared, side: UpstreamName, upstream: UpstreamPlan) -> None:
        self.side: UpstreamName = side
        self._shared = shared
        self._newest = shared.newest
        self.outage: Availability | None = None
        self.endpoint: Endpoint | None = None
        # The sizes of the waiting requests.
        self._waiting: list[int] = []
        self.plan(upstream)

    def __repr__(self) -> str:
        fixed = self.endpoint.address if self.endpoint is not None else "not decided yet"
        what = " and ".join(self.members) or fixed
        return f"<Gate {self.side}: {what}, {self.availability.value}, {len(self._waiting)} waiting>"

    @property
    def members(self) -> tuple[str, ...]:
        """The known processes of the upstream."""
        return self._upstream.members if isinstance(self._upstream, FromProcess) else ()

    def plan(self, upstream: UpstreamPlan) -> None:
        """Use this plan from now on."""
        self._upstream = upstream
        self._was_undecided = upstream is UNDECIDED
        self.outage = None
        self._absence = f"there is no {self.side}"
        self._look()

    def decide(self, upstream: UpstreamPlan, *, reason: str = "") -> None:
        """Take note of which process the upstream is, if the plan has left that open; this is final."""
        if self._was_undecided and not self.members:
            if upstream is None and reason:
                self._absence = f"no {self.side}: {reason}"
            self._upstream = upstream
            self._look()

    def is_stopping(self, process: str | None) -> bool:
        """Whether the process was asked to end, so that its connections break."""
        return process in self._newest and self._newest[process].state is State.STOPPING

    @property
    def is_supervised(self) -> bool:
        """Whether we get reports about it."""
        return not isinstance(self._upstream, Address)

    def report_outage(self, endpoint: Endpoint, found: Availability | None) -> None:
        """Take note of refusals by `endpoint`, outside of this run, and their effect; ``None``: none now."""
        if endpoint is not self.endpoint or found is self.outage:
            return
        if self.outage is None or found is None:
            notice = partial(self._shared.bus.notice, f"{self.side}-away")
            if found is None:
                notice(f"the {self.side} at {endpoint.address.url} answers again", level="info")
            else:
                hint = f"Its requests wait, {self._shared.plan.hold:g} s at most; start it."
                notice(f"the {self.side} at {endpoint.address.url} is away", hint=hint)
        self.outage = found
        self._look()

    def observe(self, event: StateChanged) -> None:
        """Take note of a report about a process."""
        self._newest[event.process] = event
        if event.process not in self.members:
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
            self._shared.bus.emit(switched)

    def _look(self) -> None:
        self.availability, endpoint = self._find()
        if endpoint != self.endpoint:
            self.endpoint = endpoint
        self._shared.changed.unpark_all()

    def _find(self) -> tuple[Availability, Endpoint | None]:
        match self._upstream:
            case FromProcess(name=name, is_second=True):
                # The first server may be broken meanwhile.
                report = self._newest.get(name)
                if report is not None and report.second_url is not None:
                    return _READY, Endpoint(name, Address.of_url(report.second_url))
                found = availability(report)
                return (Availability.HOLD if found is _READY else found), None
            case FromProcess(members=members):
                reports = [self._newest.get(name) for name in members]
                best = min(reports, key=lambda report: _BEST_FIRST.index(availability(report)))
                found = availability(best)
                if best is None or found is not Availability.READY:
                    return found, None
                return found, Endpoint(best.process, Address.of_url(best.url or ""))
            case Address():
                return self.outage or Availability.READY, Endpoint(None, self._upstream)
            case Role.UNDECIDED:
                return Availability.HOLD, None
            case None:
                return Availability.ABSENT, None
            case _:
                assert_never(self._upstream)

    async def wait_ready(self, request: Record) -> None:
        """Wait until the upstream is ready.

        `Unavailable`: waiting makes no sense, takes too long, or too many requests wait already.
        """
        if self.availability is Availability.HOLD:
            await self._wait(request)
        if self.availability is not Availability.READY:
            raise self.unavailable()

    async def _wait(self, request: Record) -> None:
        size, others = request.size, sum(self._waiting)
        if len(self._waiting) >= MAX_WAITING:
            raise self.unavailable(f"{len(self._waiting)} requests wait for it already")
        if others + size > MAX_WAITING_BYTES:
            raise self.unavailable(f"{others} bytes of requests wait for it already")
        self._waiting.append(size)
        request.begin_wait(self.side, self._explain())
        found: Availability | None = None
        try:
            while self.availability is Availability.HOLD and request.held < self._shared.plan.hold:
                await self.wait_change(request)
            found = self.availability
        finally:
            self._waiting.remove(size)
            request.end_wait(self.side, found)

    async def wait_change(self, request: Record) -> None:
        """Wait for a report on any upstream, or the end of the request's waiting time."""
        begun, hold = trio.current_time(), self._shared.plan.hold
        with trio.move_on_at(begun + hold - request.held) as time:
            try:
                await self._shared.changed.park()
            finally:
                request.held += trio.current_time() - begun
        if time.cancelled_caught:
            # Despite rounding.
            request.held = max(request.held, hold)

    def unavailable(self, more: str = "") -> Unavailable:
        """Explain why it is not available."""
        text = self._explain()
        process = self._most_telling()
        tail = tuple(self._shared.extras.tail(process)) if process is not None else ()
        text = f"{text}; {more}" if more else text
        return Unavailable(self.side, self.availability, text, process=process, tail=tail)

    def _explain(self) -> str:
        if self.endpoint is not None:
            refuses = f"{self.endpoint.process} refuses connections" if self.members else "nothing answers"
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
        """The process whose last lines best explain why there is no upstream."""
        reports = (self._newest.get(name) for name in self.members)
        died = (report.process for report in reports if report is not None and report.ended_before_ready)
        return next(died, self.members[0] if self.members else None)


class Upstream:
    """One upstream: its gate, its idle connections, and new ones.

    Attributes:
        idle: Its idle connections, the newest one last.
    """

    def __init__(self, shared: Shared, side: UpstreamName, upstream: UpstreamPlan, dial: Dial) -> None:
        self.gate = Gate(shared, side, upstream)
        self.idle: list[UpstreamConnection] = []
        self._shared = shared
        self._dial = dial
        self._limit = shared.most_idle

    def __repr__(self) -> str:
        return f"<Upstream {self.gate!r}, {len(self.idle)} of {self._limit} idle>"

    def sweep(self, now: float) -> None:
        """Drop idle connections that are too old (at `inf` all are), and all of them of another endpoint."""
        while self.idle and (now - self.idle[0].since >= IDLE_LIMIT or self.idle[0].is_stale()):
            self.idle.pop(0).close()

    def take(self, now: float) -> UpstreamConnection | None:
        """Return the newest idle connection that is still good, if the upstream is ready and has one."""
        if self.gate.availability is not _READY:
            return None
        while self.idle:
            connection = self.idle.pop()
            if now - connection.since < IDLE_LIMIT and not connection.transport.has_input():
                return connection
            connection.close()
        return None

    def give_back(self, connection: UpstreamConnection, now: float) -> None:
        """Keep a connection that may be reused; beyond the limit the oldest one is closed."""
        if connection.is_stale():
            connection.close()
            return
        connection.rest(now)
        self.idle.append(connection)
        if len(self.idle) > self._limit:
            self.idle.pop(0).close()

    async def connect(self, request: Record, now: float, *, fresh: bool = False) -> UpstreamConnection:
        """Get a connection for a request as soon as the upstream is ready, or raise `Unavailable`.

        If it has to be `fresh`, an idle one is not used.
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
                transport = await self._dial(endpoint.address)
            except OSError as exc:
                is_ours = exc.errno in OUT_OF_DESCRIPTORS
                if is_ours:
                    self.sweep(inf)
                request.held += trio.current_time() - now
                if not (is_ours or gate.is_supervised or isinstance(exc, SSLError)):
                    if gate.outage is None:
                        gate.report_outage(endpoint, Availability.HOLD)
                        self._shared.start_soon(self._dial_until_accepted, endpoint)
                    continue
                if request.held >= self._shared.plan.hold or not (is_ours or gate.is_supervised):
                    raise gate.unavailable(str(exc) if isinstance(exc, SSLError) else "") from exc
                if endpoint.process is not None and not is_ours:
                    self._shared.extras.refused(endpoint.process)
                with trio.move_on_after(REPORT_DELAY):
                    await gate.wait_change(request)
                continue
            if endpoint is gate.endpoint:
                return UpstreamConnection(transport, self._shared.reader, self, endpoint)
            # The endpoint was replaced or stopped while we dialled; nothing has been sent to it yet.
            transport.close()

    async def _dial_until_accepted(self, endpoint: Endpoint) -> None:
        gate, pause = self.gate, FIRST_REDIAL_PAUSE
        until = trio.current_time() + self._shared.plan.hold
        while endpoint is gate.endpoint and gate.outage is not None:
            await trio.sleep(pause)
            pause = min(pause * 1.2, LONGEST_REDIAL_PAUSE)
            try:
                transport = await self._dial(endpoint.address)
            except OSError:
                if trio.current_time() >= until:
                    gate.report_outage(endpoint, Availability.FAIL)
            else:
                transport.close()
                gate.report_outage(endpoint, None)

    async def wait_for_report(self, connection: UpstreamConnection) -> None:
        """Wait a moment after a connection broke: the report of its process's end may be on its way."""
        if self.gate.is_supervised:
            with trio.move_on_after(REPORT_DELAY):
                while not connection.is_stale():
                    await self._shared.changed.park()
