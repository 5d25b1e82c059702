"""The life of one process: its states, the transitions between them, and the back-off before a restart.

`step(life, fact, now)` is the whole of it: given a fact, it returns the new life and at most one `Order`,
which the worker carries out. `TRANSITIONS` lists all transitions, and `step` makes no other.
`dependency_fact` says whether the dependencies of a process let it start.

A broken process is not restarted for ever: the back-off doubles from 0.5 s to 10 s; ten seconds of running
reset the count of failures; after `max_quick_failures` restarts in a row the process has failed. Waiting does
not help a command that does not exist (127) or cannot be executed (126), or one whose port is taken: these
fail at once. A frontend or backend that has served and then ends, with any exit status, counts as a failure:
it was meant to go on.

A restart request returns the process to `WAITING`, so that its dependencies are checked again; with
`restart_mode = "overlap"` a ready process stays ready, and a new child is ordered beside the old one.

Not here: time, tasks, signals; `now` is an argument, in seconds.
"""

from __future__ import annotations

import signal
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from orchestra.config.plan import Condition, Dependency, ProcessPlan, Restart, Role, base_name
from orchestra.events import Exit, State

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


__all__ = [
    "TRANSITIONS",
    "Ended",
    "Fact",
    "Life",
    "Order",
    "Report",
    "Sign",
    "TakenOver",
    "culprit",
    "dependency_fact",
    "run_result",
    "step",
]

# overmind and process-compose wait 1 s at once; half of it is below what people notice after saving a file.
FIRST_BACK_OFF = 0.5
LONGEST_BACK_OFF = 10.0
STABLE_AFTER = 10.0

_WAITS_FOR_OLD = "it has ended, and waits for the end of the one that it had replaced"
_UNMET = {Condition.READY: "be ready", Condition.STARTED: "start", Condition.COMPLETED: "complete"}
# The exit statuses of a shell that cannot run a command.
_NOT_RUN = {126: "command is not executable", 127: "command not found"}
_BEFORE_SPAWN = frozenset({State.INSTALLING, State.STARTING})
_EXITED = frozenset({State.BACKING_OFF, State.COMPLETED, State.FAILED})

TRANSITIONS: dict[State, frozenset[State]] = {
    State.WAITING: frozenset({State.INSTALLING, State.STARTING, State.STOPPED}),
    State.INSTALLING: frozenset({State.STARTING, State.FAILED, State.STOPPING}),
    State.STARTING: frozenset({State.RUNNING, State.READY, State.UNHEALTHY, State.STOPPING}) | _EXITED,
    State.RUNNING: frozenset({State.READY, State.UNHEALTHY, State.STOPPING}) | _EXITED,
    # A server that reloads itself starts again.
    State.READY: frozenset({State.STARTING, State.UNHEALTHY, State.STOPPING}) | _EXITED,
    State.UNHEALTHY: frozenset({State.STARTING, State.READY, State.STOPPING}) | _EXITED,
    State.STOPPING: frozenset({State.STOPPED, State.WAITING}),
    State.BACKING_OFF: frozenset({State.STARTING, State.STOPPED}),
    # Only on request.
    State.COMPLETED: frozenset({State.WAITING}),
    State.FAILED: frozenset({State.WAITING}),
    State.STOPPED: frozenset({State.WAITING}),
}


class Sign(Enum):
    """What has happened. From `BLOCKED` on it comes with words, in a `Report`."""

    DEPENDENCIES_MET = "all dependencies are as far as they have to be"
    INSTALLED = "its packages are installed"
    SPAWNED = "there is a child"
    READY = "all checks of its readiness have passed, or have passed again"
    MOVED = "its second server has come up or gone: nothing follows for the process itself"
    STUCK = "its own reload does not end, or has brought up no new server: it has to be restarted"
    GONE = "it has ended, and those that it had replaced are still to end"
    BACK_OFF_ENDED = "the wait before a restart is over"
    START_REQUESTED = "the process is to be started again, if it has ended"
    RESTART_REQUESTED = "a new child is to be started, whatever the old one does"

    BLOCKED = "a dependency, which is named, is not met yet"
    BLOCKED_FOR_GOOD = "one never will be"
    START_FAILED = "its packages cannot be installed, or the system refuses to start a child; with the error"
    LATE = "it is not ready after its `ready_timeout`; with a sentence about that and the missing checks"
    NO_ANSWER = "a ready child no longer answers; with the failed checks"
    RELOADING = "its server reloads itself; with the log line that announced it, or another observation"
    BROKEN = "the child lives, but cannot become ready before its program is fixed; with the reason"
    STOP_REQUESTED = "the process has to end; with the reason, if it is worth mentioning"


class Report(Struct, frozen=True):
    """What has happened, in words, too."""

    sign: Sign
    text: str = ""


class TakenOver(Struct, frozen=True):
    """Another child has taken over, and is ready; after how many seconds."""

    ready_after: float


class Ended(Struct, frozen=True):
    """The child has ended, and no process of its group is left.

    Attributes:
        explanation: The reason, if its output shows it.
        is_hopeless: Whether another child would end in the same way.
    """

    exit: Exit
    explanation: str = ""
    has_raised: bool = False
    is_hopeless: bool = False


Fact: TypeAlias = Sign | Report | TakenOver | Ended


class Order(Enum):
    """The next action of the worker."""

    INSTALL = "install"
    SPAWN = "spawn"
    HAND_OVER = "hand over"  # spawn a child that will take over from the ready one
    BACK_OFF = "back off"  # for life.back_off seconds
    STOP = "stop"  # whatever is in progress


class Life(Struct, frozen=True, kw_only=True):
    """The life of a process so far.

    Attributes:
        ready_after: Seconds from the spawn to readiness.
        was_ready: Whether any child ever was.
        ended_before_ready: Whether the last child failed before it was ready; until another one is.
        failures: The number of failures in a row, each within `STABLE_AFTER` of its start.
        is_blocked: Whether it waits for a dependency that cannot be met.
        exit: The exit of the newest child that has ended.
        is_broken: Whether that was a server that has raised an exception before it was ready.
        reason: The reason for this state, in words.
    """

    plan: ProcessPlan
    state: State = State.WAITING
    is_alive: bool = False
    spawned_at: float | None = None
    ready_after: float | None = None
    was_ready: bool = False
    ended_before_ready: bool = False
    failures: int = 0
    restarts: int = 0
    back_off: float = 0.0
    is_blocked: bool = False
    starts_after_stop: bool = False
    exit: Exit | None = None
    is_broken: bool = False
    reason: str = ""

    @property
    def has_succeeded(self) -> bool:
        """Whether the newest child that has ended did so with a status that counts as success."""
        return self.exit is not None and self.exit.code in self.plan.success_exit_codes

    @property
    def is_settled(self) -> bool:
        """Whether no child runs and none is going to, unless it is started by hand."""
        return self.state.is_ended or (self.state is State.WAITING and self.is_blocked)

    @property
    def is_at_rest(self) -> bool:
        """Whether it only starts by hand, and was not started."""
        return self.state is State.STOPPED and not self.plan.autostart


def step(life: Life, fact: Fact, now: float) -> tuple[Life, Order | None]:
    """Take one fact into account. A fact that is irrelevant in the current state changes nothing."""
    if isinstance(fact, Ended):
        return _ended(life, fact, now)
    return _requested(life, fact) or _before_spawn(life, fact) or (_while_alive(life, fact, now), None)


def _requested(life: Life, fact: Fact) -> tuple[Life, Order | None] | None:
    state = life.state
    match fact:
        case Report(Sign.STOP_REQUESTED, reason) if state in (State.WAITING, State.BACKING_OFF):
            return _enter(life, State.STOPPED, reason=reason), Order.STOP
        case Report(Sign.STOP_REQUESTED) if state is State.STOPPING:
            return replace(life, starts_after_stop=False), None
        case Report(Sign.STOP_REQUESTED) if State.STOPPING in TRANSITIONS[state]:
            return _enter(life, State.STOPPING), Order.STOP
        case Sign.START_REQUESTED | Sign.RESTART_REQUESTED if state.is_ended:
            return _started_again(life), None
        case Sign.START_REQUESTED | Sign.RESTART_REQUESTED if state is State.STOPPING:
            return replace(life, starts_after_stop=True), None
        case Sign.START_REQUESTED | Sign.RESTART_REQUESTED if state is State.BACKING_OFF:
            life = replace(life, failures=0, back_off=0.0, restarts=life.restarts + 1)
            return _enter(life, State.STARTING), Order.SPAWN
        case Sign.RESTART_REQUESTED if state is State.READY and life.plan.restart_mode == "overlap":
            return life, Order.HAND_OVER
        case Sign.STUCK if state is State.STOPPING:
            return life, None
        case Sign.RESTART_REQUESTED | Sign.STUCK if life.is_alive:
            return _enter(replace(life, starts_after_stop=True), State.STOPPING), Order.STOP
        case _:
            return None


def _before_spawn(life: Life, fact: Fact) -> tuple[Life, Order | None] | None:
    state = life.state
    match fact:
        case Sign.DEPENDENCIES_MET if state is State.WAITING and life.plan.install is not None:
            return _enter(life, State.INSTALLING, reason=" ".join(life.plan.install.argv)), Order.INSTALL
        case Sign.DEPENDENCIES_MET if state is State.WAITING:
            return _enter(life, State.STARTING), Order.SPAWN
        case Report(Sign.BLOCKED | Sign.BLOCKED_FOR_GOOD as sign, reason) if state is State.WAITING:
            return replace(life, reason=reason, is_blocked=sign is Sign.BLOCKED_FOR_GOOD), None
        case Sign.INSTALLED if state is State.INSTALLING:
            return _enter(life, State.STARTING), Order.SPAWN
        case Report(Sign.START_FAILED, error) if state in _BEFORE_SPAWN and not life.is_alive:
            return _enter(replace(life, ended_before_ready=True), State.FAILED, reason=error), None
        case Sign.INSTALLED | Report(Sign.START_FAILED) if state is State.STOPPING and not life.is_alive:
            return _stopped(life), None
        case Sign.BACK_OFF_ENDED if state is State.BACKING_OFF:
            return _enter(replace(life, restarts=life.restarts + 1), State.STARTING), Order.SPAWN
        case _:
            return None


def _while_alive(life: Life, fact: Fact, now: float) -> Life:
    state = life.state
    match fact:
        case Sign.SPAWNED if state is State.STARTING:
            life = replace(life, is_alive=True, spawned_at=now, ready_after=None)
            return life if life.plan.is_awaited else _enter(life, State.RUNNING)
        case Sign.SPAWNED if state is State.STOPPING:
            return replace(life, is_alive=True, spawned_at=now)
        case Sign.READY if state is State.UNHEALTHY and life.ready_after is not None:
            return _enter(life, State.READY)
        case Sign.READY if state in (State.STARTING, State.RUNNING, State.UNHEALTHY) and life.is_alive:
            took = now - life.spawned_at if life.spawned_at is not None else None
            return _ready(life, took)
        case Report(Sign.NO_ANSWER, missing) if state is State.READY:
            return _enter(life, State.UNHEALTHY, reason=missing)
        case Report(Sign.RELOADING, reason) if state in (State.READY, State.UNHEALTHY):
            life = replace(life, spawned_at=now, ready_after=None, restarts=life.restarts + 1)
            return _enter(life, State.STARTING, reason=reason)
        case Report(Sign.BROKEN, reason) if state in (State.STARTING, State.RUNNING) and life.is_alive:
            return _enter(life, State.UNHEALTHY, reason=reason)
        case Report(Sign.BROKEN, reason) if state is State.UNHEALTHY and life.ready_after is None:
            return replace(life, reason=reason)  # it was edited, and has another error now
        case TakenOver(took) if state in (State.STARTING, State.READY, State.UNHEALTHY) and life.is_alive:
            return _ready(replace(life, spawned_at=now - took, restarts=life.restarts + 1), took)
        case Sign.GONE if state in (State.READY, State.UNHEALTHY):
            return _enter(replace(life, is_alive=False), State.STARTING, reason=_WAITS_FOR_OLD)
        case _:
            return life


def _ready(life: Life, took: float | None) -> Life:
    life = replace(life, ready_after=took, was_ready=True, ended_before_ready=False)
    return life if life.state is State.READY else _enter(life, State.READY)


def _started_again(life: Life) -> Life:
    """Start over: earlier failures do not count any more."""
    life = replace(
        life,
        starts_after_stop=False,
        is_blocked=False,
        failures=0,
        restarts=life.restarts + (life.plan.autostart or life.spawned_at is not None),
        spawned_at=None,
    )
    return _enter(life, State.WAITING)


def _stopped(life: Life) -> Life:
    if life.starts_after_stop:
        return _started_again(life)
    was_killed = life.exit is not None and life.exit.signal == signal.SIGKILL
    return _enter(life, State.STOPPED, reason=str(life.exit) if was_killed else "")


def _ended(life: Life, fact: Ended, now: float) -> tuple[Life, Order | None]:
    plan, how = life.plan, fact.exit
    # A server never completes, and some (Hypercorn's master) exit with 0 even if their workers were killed,
    # or could not import the application.
    is_server = plan.role is not Role.OTHER
    is_broken = is_server and fact.has_raised and life.ready_after is None
    life = replace(life, is_alive=False, exit=how, is_broken=is_broken)
    if life.state is State.STOPPING:
        return _stopped(life), None
    is_missed = is_server and (life.was_ready or fact.has_raised) and plan.restart is Restart.ON_FAILURE
    succeeded = life.has_succeeded and not is_missed
    if succeeded and plan.restart is not Restart.ALWAYS:
        return _enter(life, State.COMPLETED, reason=str(how)), None
    life = replace(life, ended_before_ready=life.ready_after is None)
    not_run = _NOT_RUN.get(how.code or 0)
    reason = f"{not_run} ({how})" if not_run else str(how)
    reason += f": {fact.explanation}" if fact.explanation else ""
    if not_run or fact.is_hopeless or plan.restart is Restart.NEVER:
        return _enter(life, State.FAILED, reason=reason), None
    ran_stable = life.spawned_at is not None and now - life.spawned_at >= STABLE_AFTER
    failures = 1 if ran_stable or succeeded else life.failures + 1
    if failures > plan.max_quick_failures:
        count = plan.max_quick_failures
        reason = f"{reason}; given up after {count} restart{'s' * (count != 1)}"
        return _enter(replace(life, failures=failures), State.FAILED, reason=reason), None
    back_off = min(FIRST_BACK_OFF * 2 ** min(failures - 1, 10), LONGEST_BACK_OFF)
    life = replace(life, failures=failures, back_off=back_off)
    return _enter(life, State.BACKING_OFF, reason=f"{reason}; again in {back_off:g} s"), Order.BACK_OFF


def _enter(life: Life, state: State, *, reason: str = "") -> Life:
    if state not in TRANSITIONS[life.state]:
        raise AssertionError(f"{life.plan.name}: no way from {life.state} to {state}")
    return replace(life, state=state, reason=reason)


def dependency_fact(dependencies: Iterable[Dependency], lives: Mapping[str, Life]) -> Sign | Report:
    """Say whether the dependencies of a process let it start."""
    unmet = [(each, lives[each.name]) for each in dependencies if not _is_met(each, lives[each.name])]
    if not unmet:
        return Sign.DEPENDENCIES_MET
    reason = "; ".join(_unmet_in_words(each, life) for each, life in unmet)
    is_for_good = any(life.is_settled for _, life in unmet)
    return Report(Sign.BLOCKED_FOR_GOOD if is_for_good else Sign.BLOCKED, reason)


def _is_met(dependency: Dependency, life: Life) -> bool:
    match dependency.condition:
        case Condition.READY:
            # An unhealthy process has been ready; a broken one has not.
            was_ready = life.state is State.UNHEALTHY and life.ready_after is not None
            return life.state is State.READY or was_ready
        case Condition.STARTED:
            return life.spawned_at is not None
        case Condition.COMPLETED:
            return life.state is State.COMPLETED
        case _:
            assert_never(dependency.condition)


def _unmet_in_words(dependency: Dependency, life: Life) -> str:
    name = dependency.name
    if life.state.is_ended:
        return f"{name} {life.state.predicate}"
    if life.is_settled:
        return f"{name} is blocked by a failed dependency"
    return f"waits for {name} to {_UNMET[dependency.condition]}"


def culprit(exit_on: str, ends: Sequence[Life]) -> Life | None:
    """Find the process whose end ends the run, among those that have ended by themselves, in that order.

    `exit_on` is ``any`` of them, the first ``failure``, the name of a process, or ``all``.
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


def run_result(exit_on: str, ends: Sequence[Life]) -> tuple[int, str]:
    """Give a whole run's exit status and the reason: those of the culprit, otherwise of the first failure."""
    life = culprit(exit_on, ends) or culprit("failure", ends)
    if life is None:
        return 0, ""
    reason = f"{life.plan.name} {life.state.value}: {life.reason}"
    if life.state is not State.FAILED:
        return 0, reason
    return (life.exit.shell_code if life.exit is not None else 0) or 1, reason
