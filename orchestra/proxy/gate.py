"""Can this upstream be asked, and where? One gate for each, fed by events, at which requests wait.

Strategy. A gate believes only what the supervisor has reported: a process is asked when it is `READY` at a
known address, and not before, however likely it is that its port answers. `route.availability` says what a
state means for the requests that wait; the gate adds the process. Of several instances the first one that is
ready is asked. While it is not decided which process the upstream is, requests wait as for one that starts.

A request (`Waiter`) has one deadline for the whole of its way, so that two gates do not hold it twice as
long. It is woken by the next event, never by polling.

Not here: connections (`pool`), what is answered to a request whose wait has failed (`answers`), which process
an upstream is (`decide` is told).
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import trio
from msgspec import Struct

from orchestra.config.plan import UNDECIDED, AtUrl, FromProcess
from orchestra.events import OutputLine, State, StateChanged, UpstreamSwitched
from orchestra.proxy.route import Availability, Unavailable, availability

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.config.plan import UpstreamPlan
    from orchestra.events import Bus, Event
    from orchestra.proxy.route import Side

__all__ = ["Address", "Endpoint", "Gate", "Waiter", "wait_any_change"]

# Requests that wait at one gate; one more is answered 502. More means that a page asks again and again.
MAX_WAITING = 256
# Bytes that the requests that wait at one gate may have in memory together.
MAX_WAITING_BYTES = 8 * 1024 * 1024
# Enough for a Python traceback's end, little enough for a page.
TAIL_LINES = 20

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")


class Address(Struct, frozen=True):
    """Where an upstream listens; `host` is a literal address or a name, without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


class Endpoint(Struct, frozen=True):
    """What is asked: an address, and the process there if it is one of this run."""

    process: str | None
    address: Address


class Waiter(Protocol):
    """A request that may have to wait, and how long it still may.

    Attributes:
        held: Seconds that it has waited so far.
    """

    held: float

    def deadline(self) -> float:
        """Return when it has waited enough, on trio's clock."""
        ...

    def weigh(self) -> int:
        """Return how many bytes it has in memory."""
        ...

    def begin_wait(self, side: Side, reason: str) -> None:
        """It begins to wait."""
        ...

    def end_wait(self, side: Side, found: Availability | None) -> None:
        """It waits no longer; ``None``: it was cancelled."""
        ...


class _Life:
    """What was reported of one process."""

    __slots__ = ("ended_before_ready", "is_ready_now", "reason", "state", "tail", "url")

    def __init__(self) -> None:
        self.state: State | None = None
        self.url: str | None = None
        self.reason = ""
        self.ended_before_ready = False
        self.is_ready_now = False
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def apply(self, event: StateChanged) -> None:
        self.state, self.reason = event.state, event.reason
        self.url = event.url or (f"http://127.0.0.1:{event.port}" if event.port else None)
        match event.state:
            case State.READY:
                self.is_ready_now, self.ended_before_ready = True, False
            case State.STARTING:
                self.is_ready_now = False
            case State.BACKING_OFF | State.FAILED:
                self.ended_before_ready = not self.is_ready_now
            case _:
                pass

    @property
    def availability(self) -> Availability:
        return availability(
            self.state, ended_before_ready=self.ended_before_ready, has_url=self.url is not None
        )


class Gate:
    """Whether one upstream can be asked, and where.

    Args:
        side: Which upstream it is.
        upstream: What is behind it; ``None``: there is no such upstream.
        bus: Where decisions and switches are reported.

    Attributes:
        availability: What a request has to expect now.
        endpoint: What is asked; ``None`` while nothing can be.
    """

    def __init__(self, side: Side, upstream: UpstreamPlan, *, bus: Bus) -> None:
        self.side: Side = side
        self._bus = bus
        self._is_open = upstream is UNDECIDED
        self._waiting = 0
        self._waiting_bytes = 0
        self._lives: dict[str, _Life] = {}
        self._changed = trio.Event()
        self._absence = f"there is no {side}"
        self.availability = Availability.HOLD
        self.endpoint: Endpoint | None = None
        self._set(upstream)

    def __repr__(self) -> str:
        what = " and ".join(self._members) or self._fixed or "not decided yet"
        return f"<Gate {self.side}: {what}, {self.availability.value}, {self._waiting} waiting>"

    def _set(self, upstream: UpstreamPlan) -> None:
        self._members: tuple[str, ...] = ()
        self._fixed: Address | None = None
        self._is_undecided = False
        match upstream:
            case None:
                pass
            case AtUrl():
                self._fixed = Address(upstream.host, upstream.port)
            case FromProcess():
                self._members = upstream.members
            case _:
                assert upstream is UNDECIDED  # noqa: S101 - nothing else is left
                self._is_undecided = True
        self._look()

    def decide(self, upstream: UpstreamPlan, *, reason: str = "") -> None:
        """Take note of what the upstream is, if the plan has left that open; what was found stays.

        Args:
            upstream: What it is; ``None``: there is no such upstream.
            reason: Why, for people.
        """
        if not self._is_open or self._members:
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
        self._set(upstream)

    def has(self, process: str) -> bool:
        """Whether it is known to stand for this process."""
        return process in self._members

    def is_stopping(self, process: str | None) -> bool:
        """Whether it has been asked to end, so that its connections break."""
        return process in self._lives and self._lives[process].state is State.STOPPING

    @property
    def is_supervised(self) -> bool:
        """Whether its coming and going is reported to us."""
        return self._fixed is None

    def observe(self, event: Event) -> None:
        """Take note of an event; others than those of its processes do not matter here."""
        if isinstance(event, OutputLine):
            if event.process in self._members or self._is_undecided:
                self._life(event.process).tail.append(_COLOURS.sub("", event.text))
        elif isinstance(event, StateChanged):
            life = self._life(event.process)
            before = life.url if life.state is State.READY else None
            life.apply(event)
            if event.process in self._members:
                if before and life.url and life.state is State.READY and life.url != before:
                    switched = UpstreamSwitched(
                        upstream=self.side, process=event.process, url=life.url, previous=before
                    )
                    self._bus.emit(switched)
                self._look()

    def _life(self, process: str) -> _Life:
        return self._lives.setdefault(process, _Life())

    def _look(self) -> None:
        """Find out what can be asked now, and wake all that wait."""
        self.endpoint = None
        if self._fixed is not None:
            self.endpoint = Endpoint(None, self._fixed)
            self.availability = Availability.READY
        elif self._members:
            lives = {process: self._life(process) for process in self._members}
            self.availability = _best(life.availability for life in lives.values())
            for process, life in lives.items():
                if life.availability is Availability.READY and life.url is not None:
                    parts = urlsplit(life.url)
                    address = Address(parts.hostname or "127.0.0.1", parts.port or 80)
                    self.endpoint = Endpoint(process, address)
                    break
        else:
            self.availability = Availability.HOLD if self._is_undecided else Availability.ABSENT
        self._changed.set()
        self._changed = trio.Event()

    async def wait_ready(self, waiter: Waiter) -> None:
        """Wait until the upstream can be asked.

        Raises:
            Unavailable: It cannot, and waiting makes no sense, takes too long, or too many wait already.
        """
        if self.availability is Availability.HOLD:
            weight = waiter.weigh()
            self._refuse_if_full(weight)
            await self._wait(waiter, weight)
        if self.availability is not Availability.READY:
            raise self.unavailable()

    async def _wait(self, waiter: Waiter, weight: int) -> None:
        now = begun = trio.current_time()
        deadline = waiter.deadline()
        self._waiting += 1
        self._waiting_bytes += weight
        waiter.begin_wait(self.side, self._explain())
        found: Availability | None = None
        try:
            while self.availability is Availability.HOLD and now < deadline:
                await self.wait_change(deadline)
                now = trio.current_time()
            found = self.availability
        finally:
            self._waiting -= 1
            self._waiting_bytes -= weight
            waiter.held += trio.current_time() - begun
            waiter.end_wait(self.side, found)

    def _refuse_if_full(self, weight: int) -> None:
        if self._waiting >= MAX_WAITING:
            raise self.unavailable(f"{self._waiting} requests wait for it already")
        if self._waiting_bytes + weight > MAX_WAITING_BYTES:
            raise self.unavailable(f"{self._waiting_bytes} bytes of requests wait for it already")

    async def wait_change(self, deadline: float) -> None:
        """Wait until something is reported, at most until `deadline`."""
        with trio.move_on_at(deadline):
            await self._changed.wait()

    def unavailable(self, more: str = "") -> Unavailable:
        """Say why it cannot be asked."""
        text = self._explain()
        process = self._most_telling()
        tail = tuple(self._lives[process].tail) if process in self._lives else ()
        return Unavailable(self.side, self.availability, f"{text}; {more}" if more else text, tail)

    def _explain(self) -> str:
        if self._fixed is not None:
            return f"nothing answers at {self._fixed}"
        if self._is_undecided:
            return f"it is not known yet which process is the {self.side}"
        process = self._most_telling()
        if process is None:
            return self._absence
        life = self._lives[process]
        if self.availability is Availability.READY:
            return f"{process} refuses connections at {life.url}"
        text = f"{process} is {life.state.value if life.state else 'not started'}"
        return f"{text}: {life.reason}" if life.reason else text

    def _most_telling(self) -> str | None:
        """The process whose last lines explain best why there is no upstream."""
        died = (process for process in self._members if self._lives[process].ended_before_ready)
        return next(died, self._members[0] if self._members else None)


async def wait_any_change(gates: Iterable[Gate], deadline: float) -> None:
    """Wait until something is reported to one of `gates`, at most until `deadline`."""
    async with trio.open_nursery() as nursery:

        async def wait(gate: Gate) -> None:
            await gate.wait_change(deadline)
            nursery.cancel_scope.cancel()

        for gate in gates:
            nursery.start_soon(wait, gate)


def _best(found: Iterable[Availability]) -> Availability:
    """Sum up the instances of an upstream: one that is ready is enough."""
    order = (Availability.READY, Availability.HOLD, Availability.FAIL)
    return min(found, key=order.index)
