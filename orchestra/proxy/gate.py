"""Is this upstream there? One gate for each, fed by events, at which requests wait.

Strategy. A gate believes only what the supervisor has reported: a process is asked when it is `READY` at a
known address, and not before, however likely it is that its port answers. `route.standing` says what a state
means for those who wait; the gate adds whose state it is. Several instances of a process are one upstream:
one that is ready is enough. An undecided one is the first candidate that becomes ready, for the whole run.
When none of them is going to, there is no such upstream (`ABSENT`).

A request brings its `Hold`, its patience over the whole of its way, so that two gates do not keep it twice as
long. Whoever waits is woken by the next event, never by polling.

Never here: connections (`pool.py`), what is answered to those who waited in vain (`relay.py`).
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, assert_never
from urllib.parse import urlsplit

import trio

from orchestra.config.plan import AtUrl, FromProcess, Role, base_name
from orchestra.events import OutputLine, State, StateChanged, UpstreamSwitched
from orchestra.proxy.route import Standing, standing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestra.config.plan import UpstreamPlan
    from orchestra.events import Bus, Event, UpstreamName

__all__ = ["Address", "Gate", "Hold", "Refusal", "wait_any_change"]

# Enough for a Python traceback's end, little enough for a page.
TAIL_LINES = 20

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")


@dataclass(frozen=True, slots=True)
class Address:
    """Where an upstream listens; `host` is a literal address or a name, without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"


class Hold:
    """One request's patience.

    Args:
        deadline: When it is used up, on trio's clock.
        weigh: How many bytes the request has in memory.
        tell: Called with the upstream's name and the reason when it begins to wait, and with what came of
            that when it waits no longer.

    Attributes:
        seconds: How long the request has been held so far.
        refused: Why it may not wait, if too many do already.
    """

    __slots__ = ("deadline", "refused", "seconds", "tell", "weigh")

    def __init__(
        self,
        deadline: float,
        *,
        weigh: Callable[[], int] = int,
        tell: Callable[[UpstreamName, str | Standing | None], object] = lambda _name, _what: None,
    ) -> None:
        self.deadline = deadline
        self.weigh = weigh
        self.tell = tell
        self.seconds = 0.0
        self.refused = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an upstream cannot be asked, for people.

    Attributes:
        process: Whom it is about, if it is about one.
        text: In one sentence.
        tail: Its last lines of output.
    """

    process: str | None
    text: str
    tail: tuple[str, ...] = ()


class _Life:
    """What has been reported of one process."""

    __slots__ = (
        "died_early",
        "has_been_ready",
        "is_ready_now",
        "reason",
        "since",
        "state",
        "tail",
        "url",
    )

    def __init__(self) -> None:
        self.state: State | None = None
        self.url: str | None = None
        self.since = inf
        self.reason = ""
        self.died_early = False
        self.is_ready_now = False
        self.has_been_ready = False
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)

    def apply(self, event: StateChanged, now: float) -> None:
        if event.state is not self.state:
            self.since = now
        self.state, self.reason = event.state, event.reason
        self.has_been_ready = event.ready_after is not None
        self.url = event.url or (f"http://127.0.0.1:{event.port}" if event.port else None)
        match event.state:
            case State.READY:
                self.is_ready_now, self.died_early = True, False
            case State.STARTING:
                self.is_ready_now = False
            case State.BACKING_OFF | State.FAILED:
                self.died_early = not self.is_ready_now
            case _:
                pass

    @property
    def standing(self) -> Standing:
        found = standing(self.state, died_early=self.died_early)
        if found is Standing.READY and self.url is None:
            # One that lives and was never ready is broken, and somebody has to mend it first.
            is_broken = self.state is State.UNHEALTHY and not self.has_been_ready
            return Standing.FAIL if is_broken else Standing.HOLD
        return found

    def is_hopeless(self, now: float, absent_after: float) -> bool:
        """Whether it is not going to be an HTTP server any more."""
        if self.state is None:
            return False
        return self.state.is_ended or (self.state is State.RUNNING and now - self.since >= absent_after)


class Gate:
    """Whether one upstream can be asked, and where.

    Args:
        name: What it is to the proxy.
        plan: What is behind it.
        bus: Where it is said that there is none.
        candidates: The processes one of which an undecided upstream may be.
        max_waiting: So many requests may wait here at once.
        max_bytes: So many bytes may they have in memory together.
        absent_after: A candidate that has run for so many seconds without answering HTTP is no server.
        clock: The present time, in seconds.
    """

    def __init__(
        self,
        name: UpstreamName,
        plan: UpstreamPlan,
        *,
        bus: Bus,
        candidates: tuple[str, ...] = (),
        max_waiting: int = 256,
        max_bytes: int = 8388608,
        absent_after: float = 15.0,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.name = name
        self._bus = bus
        self._clock = clock
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._bytes = 0
        self._absent_after = absent_after
        self._waiting = 0
        self._fixed: Address | None = None
        self._members: tuple[str, ...] = ()
        self._has_told_absence = False
        self._changed = trio.Event()
        match plan:
            case AtUrl():
                self._fixed = Address(plan.host, plan.port)
                self._lives: dict[str, _Life] = {}
            case FromProcess():
                self._members = plan.members
                self._lives = {process: _Life() for process in plan.members}
            case Role.UNDECIDED:
                self._lives = {process: _Life() for process in candidates}
            case None:
                self._lives = {}
                self._has_told_absence = True
            case _:
                assert_never(plan)

    def __repr__(self) -> str:
        who = " and ".join(self._members) or self._fixed or "not known yet"
        return f"<Gate {self.name}: {who}, {self._waiting} waiting>"

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

    def addresses(self) -> dict[str | None, Address]:
        """Say where it listens, by process, those that are ready; what runs elsewhere is called `None`."""
        if self._fixed is not None:
            return {None: self._fixed}
        found: dict[str | None, Address] = {}
        for process in self._members:
            life = self._lives[process]
            if life.standing is Standing.READY and life.url is not None:
                parts = urlsplit(life.url)
                found[process] = Address(parts.hostname or "127.0.0.1", parts.port or 80)
        return found

    def observe(self, event: Event) -> None:
        """Take note of an event; others than those of its processes do not matter here."""
        if isinstance(event, OutputLine):
            if event.process in self._lives:
                self._lives[event.process].tail.append(_COLOURS.sub("", event.text))
        elif isinstance(event, StateChanged) and event.process in self._lives:
            life = self._lives[event.process]
            before = life.url if life.state is State.READY else None
            life.apply(event, self._clock())
            if before and life.url and life.state is State.READY and life.url != before:
                self._tell_switch(event, life.url, before)
            if not self._members and life.standing is Standing.READY:
                name = base_name(event.process)
                self._members = tuple(each for each in self._lives if base_name(each) == name)
                if len(self._lives) > len(self._members):
                    self._tell_adoption(name)
            self._changed.set()
            self._changed = trio.Event()

    def standing(self, now: float) -> Standing:
        """Say what a request has to expect at `now`; that there is no such upstream is emitted, once."""
        if self._fixed is not None:
            return Standing.READY
        if self._members:
            return _best(self._lives[process].standing for process in self._members)
        lives = self._lives.values()
        if all(life.is_hopeless(now, self._absent_after) for life in lives):
            self._tell_absence()
            return Standing.ABSENT
        if all(life.is_hopeless(now, self._absent_after) or life.died_early for life in lives):
            return Standing.FAIL
        return Standing.HOLD

    async def wait_ready(self, hold: Hold) -> Standing:
        """Wait for as long as waiting makes sense.

        Returns:
            `Standing.HOLD` if the patience of `hold` is used up or too many wait already, else how things
            stand; then nobody need wait.
        """
        now = trio.current_time()
        found = self.standing(now)
        if found is not Standing.HOLD:
            return found
        weight = hold.weigh()
        hold.refused = self._why_full(weight)
        if hold.refused:
            return found
        begun = now
        self._waiting += 1
        self._bytes += weight
        hold.tell(self.name, self.refusal(now).text)
        outcome: Standing | None = None
        try:
            while found is Standing.HOLD and now < hold.deadline:
                await self.wait_change(min(hold.deadline, self._next_absence(now)))
                now = trio.current_time()
                found = self.standing(now)
            outcome = found
        finally:
            self._waiting -= 1
            self._bytes -= weight
            hold.seconds += trio.current_time() - begun
            hold.tell(self.name, outcome)
        return found

    def _why_full(self, weight: int) -> str:
        if self._waiting >= self._max_waiting:
            return f"{self._waiting} requests wait for it already (proxy.hold_requests)"
        if self._bytes + weight > self._max_bytes:
            return f"{self._bytes} bytes of requests wait for it already (proxy.hold_bytes)"
        return ""

    async def wait_change(self, deadline: float) -> None:
        """Wait until something is reported, at most until `deadline`."""
        with trio.move_on_at(deadline):
            await self._changed.wait()

    def refusal(self, now: float) -> Refusal:
        """Say why it cannot be asked."""
        if self._fixed is not None:
            return Refusal(process=None, text=f"nothing answers at {self._fixed}")
        process = self._most_telling()
        if process is None:
            names = ", ".join(self._lives)
            return Refusal(process=None, text=f"none of these answers HTTP so far: {names}")
        life = self._lives[process]
        if self.standing(now) is Standing.READY:
            text = f"{process} refuses connections at {life.url}"
        else:
            text = f"{process} is {life.state.value if life.state else 'not started'}"
            if life.reason:
                text += f": {life.reason}"
        return Refusal(process=process, text=text, tail=tuple(life.tail))

    def _most_telling(self) -> str | None:
        """The process whose last lines explain best why there is no upstream."""
        offered = self._members or tuple(self._lives)
        died = [process for process in offered if self._lives[process].died_early]
        return next(iter(died), offered[0] if self._members or len(offered) == 1 else None)

    def _next_absence(self, now: float) -> float:
        """When time alone may turn the next candidate into a hopeless one."""
        running = [life.since for life in self._lives.values() if life.state is State.RUNNING]
        moments = [since + self._absent_after for since in running]
        return min((moment for moment in moments if moment > now), default=inf)

    def _tell_adoption(self, process: str) -> None:
        text = f"the {self.name} is {process}: it was the first to answer HTTP"
        hint = f"If that is wrong, set [proxy] {self.name}."
        self._bus.notice(f"{self.name}-found", text, level="info", hint=hint)

    def _tell_switch(self, event: StateChanged, url: str, before: str) -> None:
        self._bus.emit(UpstreamSwitched(upstream=self.name, process=event.process, url=url, previous=before))

    def _tell_absence(self) -> None:
        if self._has_told_absence:
            return
        self._has_told_absence = True
        self._bus.notice(
            f"no-{self.name}",
            f"No {self.name}: none of {', '.join(self._lives)} answers HTTP, so everything goes to"
            f" the {'frontend' if self.name == 'backend' else 'backend'}.",
            hint=f"If one of them is the {self.name}, set [proxy] {self.name} to its name.",
        )


async def wait_any_change(gates: Iterable[Gate], deadline: float) -> None:
    """Wait until something is reported to one of `gates`, at most until `deadline`."""
    async with trio.open_nursery() as nursery:

        async def wait(gate: Gate) -> None:
            await gate.wait_change(deadline)
            nursery.cancel_scope.cancel()

        for gate in gates:
            nursery.start_soon(wait, gate)


def _best(standings: Iterable[Standing]) -> Standing:
    """Sum up the instances of an upstream: one that is ready is enough."""
    found = set(standings)
    return next(each for each in (Standing.READY, Standing.HOLD, Standing.FAIL) if each in found)
