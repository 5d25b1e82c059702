"""The life of one process: which state follows which, and what has to be done about it.

`step(life, fact, now)` is the whole of it: given what has just happened it returns the new life and, at
most, one `Order`. It decides; the supervisor does. `TRANSITIONS` lists every step from state to state that
there is, and `step` takes no other.

Failures in a row are counted so that something that is broken comes to rest: back-off doubles from 0.5 s to
10 s; ten seconds of running wipe the slate clean; after `max_quick_failures` restarts it has failed. A
command that does not exist (127) or cannot be executed (126) will not mend itself, and fails at once. A
frontend or backend that has served and then ends, with whatever code, has failed: it was to go on.

Whoever is asked to begin anew goes back to `WAITING`, so that its dependencies are looked at again.

Never here: time, tasks, signals; `now` is an argument, in seconds.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias, assert_never

from orchestra.config.plan import Restart, Role, base_name
from orchestra.events import Exit, State

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.config.plan import ProcessPlan

__all__ = [
    "TRANSITIONS",
    "Answered",
    "BackedOff",
    "Blocked",
    "Broken",
    "Ended",
    "Exit",
    "Fact",
    "Go",
    "Installed",
    "Life",
    "NotSpawned",
    "Order",
    "Reloading",
    "Replaced",
    "RestartAsked",
    "Silent",
    "Spawned",
    "StartAsked",
    "StopAsked",
    "culprit",
    "run_exit_code",
    "step",
]

# overmind and process-compose wait 1 s at once; half of it is below what people notice after saving a file.
FIRST_BACK_OFF = 0.5
LONGEST_BACK_OFF = 10.0
STABLE_AFTER = 10.0

_OVER = frozenset({State.BACKING_OFF, State.COMPLETED, State.FAILED})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.INSTALLING, State.STARTING, State.STOPPED}),
    State.INSTALLING: frozenset({State.STARTING, State.FAILED, State.STOPPING}),
    State.STARTING: frozenset({State.RUNNING, State.READY, State.UNHEALTHY, State.STOPPING}) | _OVER,
    State.RUNNING: frozenset({State.READY, State.STOPPING}) | _OVER,
    # A server that reloads by itself starts again.
    State.READY: frozenset({State.STARTING, State.UNHEALTHY, State.STOPPING}) | _OVER,
    State.UNHEALTHY: frozenset({State.STARTING, State.READY, State.STOPPING}) | _OVER,
    State.STOPPING: frozenset({State.STOPPED, State.WAITING}),
    State.BACKING_OFF: frozenset({State.STARTING, State.STOPPED}),
    # Only if somebody asks for it.
    State.COMPLETED: frozenset({State.WAITING}),
    State.FAILED: frozenset({State.WAITING}),
    State.STOPPED: frozenset({State.WAITING}),
}


@dataclass(frozen=True, slots=True)
class Go:
    """It may begin."""


@dataclass(frozen=True, slots=True)
class Blocked:
    """It has to wait for others; for whom and what, in words."""

    reason: str


@dataclass(frozen=True, slots=True)
class Installed:
    """The installation is over; with what went wrong, if anything did."""

    error: str = ""


@dataclass(frozen=True, slots=True)
class Spawned:
    """There is a process."""


@dataclass(frozen=True, slots=True)
class NotSpawned:
    """The system refused to start it."""

    error: str


@dataclass(frozen=True, slots=True)
class Answered:
    """It listens and has given an HTTP answer."""


@dataclass(frozen=True, slots=True)
class Silent:
    """It does not answer any more; what it lacks, in words."""

    missing: str


@dataclass(frozen=True, slots=True)
class Reloading:
    """It begins anew by itself; what it said of that."""

    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """It lives, and is not going to be ready before somebody mends it; why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """Another child has taken over, and is ready; after how many seconds."""

    ready_after: float


@dataclass(frozen=True, slots=True)
class Ended:
    """Its leader has ended, and nothing is left of its group; with the last line that it wrote."""

    exit: Exit
    said: str = ""


@dataclass(frozen=True, slots=True)
class BackedOff:
    """The wait before a restart is over."""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody wants it to end; why, if that is worth a word."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class StartAsked:
    """Somebody wants it to begin anew, if it has ended."""


@dataclass(frozen=True, slots=True)
class RestartAsked:
    """Somebody wants a new one, whatever the old one does."""


Fact: TypeAlias = (
    Go
    | Blocked
    | Installed
    | Spawned
    | NotSpawned
    | Answered
    | Silent
    | Reloading
    | Broken
    | Replaced
    | Ended
    | BackedOff
    | StopAsked
    | StartAsked
    | RestartAsked
)


class Order(Enum):
    """What the supervisor has to do next."""

    INSTALL = "install"
    SPAWN = "spawn"
    BACK_OFF = "back off"  # for life.back_off seconds
    STOP = "stop"  # whatever is under way


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """Everything that is known of a process's life so far.

    Attributes:
        is_alive: Whether there is a process now.
        spawned_at: When the newest process of it was spawned.
        ready_after: Seconds that this one took to be ready.
        was_ready: Whether any of them ever was.
        failures: In a row, each within `STABLE_AFTER` of its start.
        back_off: Seconds to wait now.
        wants_anew: Whether it is to begin anew when it has been stopped.
        exit: Of the newest one that ended.
        reason: Why it is in this state, in words.
    """

    plan: ProcessPlan
    state: State = State.WAITING
    is_alive: bool = False
    spawned_at: float | None = None
    ready_after: float | None = None
    was_ready: bool = False
    failures: int = 0
    restarts: int = 0
    back_off: float = 0.0
    wants_anew: bool = False
    exit: Exit | None = None
    reason: str = ""


def step(life: Life, fact: Fact, now: float) -> tuple[Life, Order | None]:
    """Take one fact into account. A fact that means nothing in the present state changes nothing."""
    state = life.state
    match fact:
        case Go() if state is State.WAITING:
            if life.plan.install is not None:
                return _enter(life, State.INSTALLING, reason=" ".join(life.plan.install.argv)), Order.INSTALL
            return _enter(life, State.STARTING), Order.SPAWN
        case Blocked(reason) if state is State.WAITING:
            return replace(life, reason=reason), None
        case Installed(error) if state is State.INSTALLING:
            if error:
                return _enter(life, State.FAILED, reason=error), None
            return _enter(life, State.STARTING), Order.SPAWN
        case Installed() | NotSpawned() if state is State.STOPPING and not life.is_alive:
            return _stopped(life), None
        case Spawned() if state is State.STARTING:
            life = replace(life, is_alive=True, spawned_at=now, ready_after=None)
            return (life if life.plan.is_awaited else _enter(life, State.RUNNING)), None
        case Spawned() if state is State.STOPPING:
            return replace(life, is_alive=True, spawned_at=now), None
        case NotSpawned(error) if state is State.STARTING and not life.is_alive:
            return _enter(life, State.FAILED, reason=error), None
        case Answered() if state is State.UNHEALTHY and life.ready_after is not None:
            return _enter(life, State.READY), None
        case Answered() if state in (State.STARTING, State.RUNNING, State.UNHEALTHY) and life.is_alive:
            took = now - life.spawned_at if life.spawned_at is not None else None
            return _enter(replace(life, ready_after=took, was_ready=True), State.READY), None
        case Reloading(reason) if state in (State.READY, State.UNHEALTHY):
            anew = replace(life, spawned_at=now, ready_after=None, restarts=life.restarts + 1)
            return _enter(anew, State.STARTING, reason=reason), None
        case Broken(reason) if state is State.STARTING and life.is_alive:
            return _enter(life, State.UNHEALTHY, reason=reason), None
        case Replaced(took) if state in (State.STARTING, State.READY, State.UNHEALTHY) and life.is_alive:
            anew = replace(life, spawned_at=now - took, ready_after=took, restarts=life.restarts + 1)
            return (anew if state is State.READY else _enter(anew, State.READY)), None
        case Silent(missing) if state is State.READY:
            return _enter(life, State.UNHEALTHY, reason=missing), None
        case Ended(how, said):
            return _after_end(replace(life, is_alive=False, exit=how), said, now)
        case BackedOff() if state is State.BACKING_OFF:
            return _enter(replace(life, restarts=life.restarts + 1), State.STARTING), Order.SPAWN
        case StopAsked(reason) if state in (State.WAITING, State.BACKING_OFF):
            return _enter(life, State.STOPPED, reason=reason), Order.STOP
        case StopAsked() if state is State.STOPPING:
            return replace(life, wants_anew=False), None
        case StopAsked() if State.STOPPING in TRANSITIONS[state]:
            return _enter(life, State.STOPPING), Order.STOP
        case StartAsked() | RestartAsked() if state.is_ended:
            return _anew(life), None
        case StartAsked() | RestartAsked() if state is State.STOPPING:
            return replace(life, wants_anew=True), None
        case RestartAsked() if life.is_alive:
            return _enter(replace(life, wants_anew=True), State.STOPPING), Order.STOP
        case StartAsked() | RestartAsked() if state is State.BACKING_OFF:
            return replace(life, failures=0, back_off=0.0), None
        case (
            Go() | Blocked() | Installed() | Spawned() | NotSpawned() | Answered() | Silent() | BackedOff()
        ) | (Reloading() | Broken() | Replaced() | StopAsked() | StartAsked() | RestartAsked()):
            return life, None
        case _:
            assert_never(fact)


def _anew(life: Life) -> Life:
    """Begin anew: what it has failed before does not count any more."""
    life = replace(life, wants_anew=False, failures=0, restarts=life.restarts + 1, spawned_at=None)
    return _enter(life, State.WAITING)


def _stopped(life: Life) -> Life:
    if life.wants_anew:
        return _anew(life)
    was_killed = life.exit is not None and life.exit.signal == signal.SIGKILL
    return _enter(life, State.STOPPED, reason=str(life.exit) if was_killed else "")


def _after_end(life: Life, said: str, now: float) -> tuple[Life, Order | None]:
    how, plan = life.exit, life.plan
    assert how is not None  # noqa: S101 - set by the caller, one line above
    if life.state is State.STOPPING:
        return _stopped(life), None
    # A server is never done, and some (Hypercorn's master) say 0 even if their workers were killed.
    has_served = plan.role is not Role.OTHER and life.was_ready
    is_missed = has_served and plan.restart is Restart.ON_FAILURE
    succeeded = how.code in plan.success_exit_codes and not is_missed
    if succeeded and plan.restart is not Restart.ALWAYS:
        return _enter(life, State.COMPLETED, reason=str(how)), None
    if how.code == 127:
        reason = f"command not found (exit code 127){f': {said}' if said else ''}"
        return _enter(life, State.FAILED, reason=reason), None
    if how.code == 126:
        reason = f"command is not executable (exit code 126){f': {said}' if said else ''}"
        return _enter(life, State.FAILED, reason=reason), None
    if plan.restart is Restart.NEVER:
        return _enter(life, State.FAILED, reason=str(how)), None
    ran_stable = life.spawned_at is not None and now - life.spawned_at >= STABLE_AFTER
    failures = 1 if ran_stable or succeeded else life.failures + 1
    if failures > plan.max_quick_failures:
        reason = f"{how}; given up after {plan.max_quick_failures} restarts"
        return _enter(replace(life, failures=failures), State.FAILED, reason=reason), None
    back_off = min(FIRST_BACK_OFF * 2 ** min(failures - 1, 10), LONGEST_BACK_OFF)
    life = replace(life, failures=failures, back_off=back_off)
    return _enter(life, State.BACKING_OFF, reason=f"{how}; again in {back_off:g} s"), Order.BACK_OFF


def _enter(life: Life, state: State, *, reason: str = "") -> Life:
    if state not in TRANSITIONS[life.state]:
        raise AssertionError(f"{life.plan.name}: no way from {life.state} to {state}")
    return replace(life, state=state, reason=reason)


def culprit(exit_on: str, ends: Sequence[Life]) -> Life | None:
    """Find the process whose end ends the run.

    Args:
        exit_on: ``any`` that has ended, the first ``failure``, the process of that name, or ``all``.
        ends: The lives that have ended by themselves, in that order.
    """
    match exit_on:
        case "all":
            return None
        case "any":
            return next(iter(ends), None)
        case "failure":
            return next((life for life in ends if life.state is State.FAILED), None)
        case name:
            return next((life for life in ends if name in (life.plan.name, base_name(life.plan.name))), None)


def run_exit_code(exit_on: str, ends: Sequence[Life]) -> int:
    """Give a whole run's exit code: that of the culprit, else of the first failure, else 0."""
    life = culprit(exit_on, ends) or culprit("failure", ends)
    if life is None or life.state is not State.FAILED:
        return 0
    return (life.exit.shell_code if life.exit is not None else 0) or 1
