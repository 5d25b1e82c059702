"""The nursery of processes: it carries out what `lifecycle.step` decides, for every process of a plan.

Each process has a `_Keeper`, one task that follows orders until there is none left. A keeper owns one child
at a time, or two while one takes over from the other. What happens is said on the bus; output also goes to
the sinks, which are awaited, so that a slow reader slows the child down and loses nothing.

While processes are on their way to readiness, one task scans for listening sockets, for all of them together.

Never here: signals to ourselves, the terminal, the proxy, exit codes of the run.
"""

from __future__ import annotations

import os
import random
import re
import secrets
import shutil
from collections import deque
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, assert_never

import trio
from msgspec import structs

from orchestra.child import sockets
from orchestra.child.families import Families
from orchestra.child.guard import guarded
from orchestra.child.lines import without_colours
from orchestra.child.logfile import LogFile
from orchestra.child.spawn import SpawnError, Window, run_child
from orchestra.config.checks import FORMS, parse_checks
from orchestra.config.plan import Condition
from orchestra.config.select import find_cycle, stop_levels
from orchestra.errors import ConfigError, StartError
from orchestra.events import Bus, OutputLine, OutputPaused, State, StateChanged
from orchestra.feed import LIMIT, feed
from orchestra.graceful import run_gracefully
from orchestra.incarnation import Incarnation
from orchestra.lifecycle import (
    Answered,
    BackedOff,
    Blocked,
    Broken,
    Ended,
    Go,
    Installed,
    Life,
    NotSpawned,
    Order,
    Reloading,
    Replaced,
    RestartAsked,
    Silent,
    Spawned,
    StartAsked,
    StopAsked,
    step,
)
from orchestra.reloading import IN_USE

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence

    from orchestra.child.guard import Guard
    from orchestra.child.spawn import Child
    from orchestra.config.plan import Dependency, Install, Plan, ProcessPlan
    from orchestra.events import Event, Exit, Observer, StreamName
    from orchestra.lifecycle import Fact

__all__ = ["BeforeStop", "Sink", "Supervisor"]

Sink: TypeAlias = "Callable[[OutputLine], Awaitable[None]]"
BeforeStop: TypeAlias = "Callable[[str], Awaitable[None]]"

# Removing half-installed packages: a second or so; the end of the run does not wait for a dead disk.
_DISCARD_TIMEOUT = 5.0
# What a terminal has when nobody knows better.
_USUAL_SIZE = (80, 24)
# A millisecond's worth of lines.
_AT_A_TIME = 500
# What is quoted of a process that did not come up.
_TAIL = 20
# At the end, a sink that has taken nothing for so long is not waited for.
_DEAF_AFTER = 5.0
# As long as the proxy gives requests in flight.
_HOOK_LIMIT = 2.0
# What shells say when they cannot run a command.
_NOT_RUN = re.compile(r"not found|no such file|permission denied|cannot execute|exec format", re.IGNORECASE)
# Nothing waits for an old child that has been replaced, but for those whom it still serves.
_RETIRE_LIMIT = 30.0
# For one that is stuck: requests are being held.
_STUCK_MANNERS = 1.0
# What tells a child its port.
_PORTS = ("PORT", "UVICORN_PORT", "FLASK_RUN_PORT")
# The states in which it is known where a process listens, if it does.
_LISTENS = frozenset({State.READY, State.UNHEALTHY})
# Processes that died together do not come back in the same instant.
_JITTER = 0.1
# What the end may take beyond the stop timeouts: the last lines, SIGKILL, and sinks that are deaf.
_GRACE = 15.0


class Supervisor:
    """Runs the processes of a plan, restarts those that fail, and leaves nothing behind.

    Start it in a nursery of yours; cancel that, or call `stop`, to end it::

        >>> import sys, trio
        >>> from orchestra import Plan, ProcessPlan, Supervisor
        >>> async def main():
        ...     serve = f"exec {sys.executable} -m http.server --bind 127.0.0.1 $PORT"
        ...     supervisor = Supervisor(
        ...         Plan(
        ...             processes=(
        ...                 ProcessPlan(name="web", command=serve, port=5090, ready="http"),
        ...                 ProcessPlan(name="hello", command="echo hello"),
        ...             )
        ...         )
        ...     )
        ...     async with trio.open_nursery() as nursery:
        ...         await nursery.start(supervisor.run)
        ...         await supervisor.wait_ready()
        ...         print(supervisor.snapshot()["web"].url)
        ...         await supervisor.stop()
        ...     print(supervisor.snapshot()["hello"].state)
        >>> trio.run(main)
        http://127.0.0.1:5090
        State.COMPLETED

    Resource handling: when `run` returns or raises, no process of the plan is left (all had their
    `stop_timeout`, then SIGKILL). One supervisor runs one plan once.

    Args:
        plan: What to run; its proxy is none of the supervisor's business.
        sinks: Awaited with every line of output, in order, before its process may go on writing.
        bus: Where events go; its own by default.
        window: The size of the terminals of the processes; without it they have pipes.
        before_stop: Awaited with the name of a process before that is stopped, for 2 s at most; the proxy
            lets go of it then.
        is_kept_open: Whether `run` goes on when nothing runs any more because something has failed, so that
            it can be started again; ``"always"``: until it is stopped, whatever happens.

    Raises:
        ConfigError: A process waits for one that the plan does not have, or for itself in the end; a check
            of its readiness is none.

    Attributes:
        ends: The lives of the processes that have ended by themselves, for good, in that order.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        sinks: Iterable[Sink] = (),
        bus: Bus | None = None,
        window: Window | None = None,
        before_stop: BeforeStop | None = None,
        is_kept_open: bool | Literal["always"] = False,
    ) -> None:
        self.plan = plan
        waits_for = _waits_for(plan)
        self._levels = stop_levels(waits_for)
        self._is_kept_open = is_kept_open
        self.bus = Bus(lambda: self.snapshot().values()) if bus is None else bus
        self._shared = _Shared(self.bus, sinks, window, before_stop)
        self._keepers = {each.name: _Keeper(self._shared, each) for each in plan.processes}
        self._shared.keepers = self._keepers
        for keeper in self._keepers.values():
            if (install := keeper.life.plan.install) is not None:
                self._shared.installations.setdefault(install, _Installation(install, keeper))
        self._has_begun = False
        self._stop_asked = trio.Event()
        self._stopped = trio.Event()

    def __repr__(self) -> str:
        states = ", ".join(f"{name} {event.state.value}" for name, event in self.snapshot().items())
        return f"<Supervisor of {states or 'nothing'}>"

    async def run(self, *, task_status: trio.TaskStatus[Self] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ASYNC128 - handed on
        """Run all processes until each has ended, or until we are cancelled or stopped.

        Args:
            task_status: `nursery.start` goes on as soon as all processes are about to be spawned.
        """
        self._has_begun = True
        longest = max((each.stop_timeout for each in self.plan.processes), default=0.0)
        try:
            await run_gracefully(partial(self._run, task_status), grace=lambda: 2 * longest + _GRACE)
        finally:
            self._stopped.set()

    async def stop(self, name: str | None = None) -> None:
        """Stop a process, or all of them, and wait until nothing of that is left.

        Whoever waits for others goes before them. All of them take twice the longest `stop_timeout` at most,
        and some seconds more if a sink does not return; `run` is then about to return.

        Raises:
            KeyError: There is no process of that name.
        """
        if name is None:
            self._stop_asked.set()
            if self._has_begun:
                await self._stopped.wait()
            await trio.lowlevel.checkpoint()
            return
        keeper = self._keepers[name]
        keeper.stop()
        # Not until it has ended: somebody may have it begin anew at once.
        await self._until(lambda: keeper.life.state is not State.STOPPING)

    def start(self, name: str) -> None:
        """Start a process anew if it has ended, with a clean slate. Does not wait: `wait_ready` does.

        Raises:
            KeyError: There is no process of that name.
            StartError: The run is over.
        """
        keeper = self._keepers[name]
        self._refuse_if_over(name)
        keeper.start()

    async def restart(self, name: str) -> None:
        """Stop a process if it runs, and start it anew; wait until the old one is gone.

        One that waits for others goes on waiting. Its dependents are left alone.

        Raises:
            KeyError: There is no process of that name.
            StartError: The run is over.
        """
        keeper = self._keepers[name]
        self._refuse_if_over(name)
        keeper.restart()
        await self._until(lambda: keeper.life.state is not State.STOPPING)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a process and all that is in its group; to one that does not run, nothing.

        Raises:
            KeyError: There is no process of that name.
        """
        self._keepers[name].signal(number)

    def _refuse_if_over(self, name: str) -> None:
        if self._shared.is_over:
            raise StartError(name, "cannot be started: the run is over", tail=())

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so() and not self._stopped.is_set():
            await self._shared.changed.wait()
        await trio.lowlevel.checkpoint()

    def kill(self) -> None:
        """End everything at once, by SIGKILL. Does not wait: `stop` does."""
        self._stop_asked.set()
        for each in self._everything():
            each.kill()

    def on_screen(self, terminal: str | None, give_back: bytes = b"") -> None:
        """Have a terminal's own screen shown again should we be killed.

        Args:
            terminal: The device of the one that shows the alternate screen; ``None``: none does any more.
            give_back: What shows that terminal's own screen again when it is written there.
        """
        self._shared.screen = terminal, give_back
        if self._shared.guard is not None:
            self._shared.guard.on_screen(terminal, give_back)

    @property
    def ends(self) -> Sequence[Life]:  # noqa: D102 - among the attributes
        return tuple(self._shared.ends)

    async def wait_ready(self, names: Iterable[str] | None = None, timeout: float = inf) -> None:  # noqa: ASYNC109
        """Wait until processes are as far as they get: ready, or running where readiness is not asked for.

        Args:
            names: Of the processes to wait for; all by default.
            timeout: Seconds after which that has failed.

        Raises:
            StartError: One of them has failed, was stopped, or is not ready in time; with its last lines.
            KeyError: There is no process of that name.
        """
        keepers = [self._keepers[name] for name in (self._keepers if names is None else names)]
        with trio.move_on_after(timeout):
            # All of them are asked: one that has failed is not hidden by one that takes its time.
            while not all([keeper.is_up() for keeper in keepers]):  # noqa: C419
                await self._shared.changed.wait()
            return
        late = next(keeper for keeper in keepers if not keeper.is_up())
        raise StartError(
            late.life.plan.name, f"is not ready after {timeout:g} s: {late.missing()}", tail=late.tail
        )

    def snapshot(self) -> Mapping[str, StateChanged]:
        """Return the newest state of every process, by name, in the order of the plan."""
        return {name: keeper.newest() for name, keeper in self._keepers.items()}

    def tail(self, name: str) -> Sequence[str]:
        """Return the last lines that a process wrote, oldest first, without colours."""
        return tuple(self._keepers[name].tail)

    def events(self, *, limit: int = LIMIT) -> AsyncGenerator[Event, None]:
        """Give all events from now on, after a snapshot: ``async for event in supervisor.events()``.

        Args:
            limit: So many may wait to be read; then the oldest is lost, and a `Notice` says how many were.
        """
        return feed(self.bus, self._stopped, limit=limit)

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` with every event from now on, after a snapshot; the result ends that."""
        return self.bus.subscribe(observer)

    async def _run(self, task_status: trio.TaskStatus[Self], cancelled: trio.Event) -> None:
        async with trio.open_nursery() as watchers:
            watchers.start_soon(self._stop_when, cancelled)
            watchers.start_soon(self._stop_when, self._stop_asked)
            watchers.start_soon(self._shared.scanner.run)
            watchers.start_soon(self._end_when_over)
            async with (
                guarded(self._shared.run_id) as guard,
                trio.open_nursery() as self._shared.nursery,
            ):
                self._shared.guard = guard
                guard.on_screen(*self._shared.screen)
                for keeper in self._keepers.values():
                    # trio shuffles what it starts: what is said is said here, in the order of the plan.
                    self._shared.nursery.start_soon(keeper.run, keeper.begin())
                task_status.started(self)
            watchers.cancel_scope.cancel()

    async def _stop_when(self, event: trio.Event) -> None:
        await event.wait()
        if self._shared.is_stopping:
            return
        self._shared.is_stopping = True
        self._shared.wake()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._shared.give_up_deaf_sinks)
            await self._stop_in_order()

    async def _stop_in_order(self) -> None:
        """Stop level by level; who takes too long does not keep the others waiting, who then go together."""
        for installation in self._shared.installations.values():
            installation.stop()
        for keeper in self._keepers.values():
            if not keeper.life.is_alive:
                keeper.stop()
        longest = max((each.stop_timeout for each in self.plan.processes), default=0.0)
        with trio.move_on_after(longest):
            for names in self._levels:
                level = [self._keepers[name] for name in names]
                for keeper in level:
                    keeper.stop()
                with trio.move_on_after(max(each.life.plan.stop_timeout for each in level)) as patience:
                    while not all(each.life.state.is_ended for each in level):
                        await self._shared.changed.wait()
                if patience.cancelled_caught:
                    break
        for each in self._everything():
            each.stop()

    async def _end_when_over(self) -> None:
        """When nothing runs any more, let all keepers go; who still waits has waited in vain."""
        keepers = self._keepers.values()
        while True:
            if all(keeper.is_hopeless() for keeper in keepers):
                has_failed = any(each.is_stuck() or each.life.state is State.FAILED for each in keepers)
                is_kept_open = self._is_kept_open == "always" or (self._is_kept_open and has_failed)
                if self._shared.is_stopping or not is_kept_open:
                    break
            await self._shared.changed.wait()
        for keeper in keepers:
            keeper.stop(keeper.waits_for())
        self._shared.is_over = True
        self._shared.wake()

    def _everything(self) -> list[_Keeper | _Installation]:
        return [*self._keepers.values(), *self._shared.installations.values()]


def _waits_for(plan: Plan) -> dict[str, list[str]]:
    """Say who waits for whom, by name; refuse what cannot work."""
    by_name = {each.name: each for each in plan.processes}
    if len(by_name) < len(plan.processes):
        raise ConfigError("two processes of the plan have the same name", hint="Give each one of its own.")
    waits_for = {each.name: [other.name for other in each.depends_on] for each in plan.processes}
    for name, others in waits_for.items():
        for other in others:
            if other not in waits_for:
                hint = f"There are {', '.join(waits_for)}."
                raise ConfigError(f"{name} depends on {other}, which is no process of the plan", hint=hint)
    if found := find_cycle(waits_for):
        raise ConfigError(f"they depend on each other: {' -> '.join(found)}", hint="Take one of them out.")
    for each in plan.processes:
        for dependency in each.depends_on:
            if dependency.condition is Condition.READY and by_name[dependency.name].ready is None:
                text = f"{each.name} waits for {dependency.name} to be ready, and nobody knows when that is"
                hint = "Give it a check, or wait for it to be started: Condition.STARTED."
                raise ConfigError(text, hint=hint)
        try:
            parse_checks(each.ready)
        except ValueError as exc:
            raise ConfigError(f"{each.name}: ready: {exc}", hint=f"It can be {FORMS}.") from exc
    return waits_for


class _Shared:
    """What all keepers of a run have in common: who listens, who installs, who scans."""

    def __init__(
        self, bus: Bus, sinks: Iterable[Sink], window: Window | None, before_stop: BeforeStop | None
    ) -> None:
        self.window = window
        self.guard: Guard | None = None
        self.screen: tuple[str | None, bytes] = None, b""
        self.families = Families()
        self.run_id = secrets.token_hex(8)
        self.scanner = sockets.SocketScanner()
        self.changed = trio.Event()
        self.ends: list[Life] = []
        self.installations: dict[Install, _Installation] = {}
        self.nursery: trio.Nursery
        self.keepers: Mapping[str, _Keeper] = {}
        self.is_stopping = False
        self.is_over = False
        self.before_stop = before_stop
        self._bus = bus
        self._sinks = tuple(sinks)
        self._delivering: set[trio.CancelScope] = set()
        self._delivered = 0

    def publish(self, keeper: _Keeper, previous: State) -> None:
        """Say that a process has changed."""
        if keeper.life.state in (State.COMPLETED, State.FAILED):
            self.ends.append(keeper.life)
        elif previous is not keeper.life.state and previous in (State.COMPLETED, State.FAILED):
            self.ends = [life for life in self.ends if life.plan is not keeper.life.plan]
        keeper.told = self._bus.emit(keeper.describe(previous))
        self.wake()

    async def run_child(
        self,
        command: str | Sequence[str],
        *,
        on_spawn: Callable[[Child], object] = lambda _: None,
        **how: Any,
    ) -> Exit:
        """Run a child as `process.run_child` does; the guardian knows of it while anything of it is left."""
        assert self.guard is not None  # noqa: S101 - before there are any children
        return await run_child(command, on_spawn=on_spawn, families=self.families, guard=self.guard, **how)

    def wake(self) -> None:
        """Have all who wait for a change look again."""
        self.changed.set()
        self.changed = trio.Event()

    async def deliver(self, process: str, stream: StreamName, lines: Sequence[str]) -> None:
        """Give lines to the sinks, then to the bus."""
        for start in range(0, len(lines), _AT_A_TIME):
            # One chunk can hold thousands of lines: who waits for an answer must not wait for all of them.
            await trio.lowlevel.checkpoint()
            with trio.CancelScope() as scope:
                self._delivering.add(scope)
                try:
                    for text in lines[start : start + _AT_A_TIME]:
                        line = self._bus.stamp(OutputLine(process=process, stream=stream, text=text))
                        for sink in self._sinks:
                            await sink(line)
                        self._delivered += 1
                        self._bus.publish(line)
                finally:
                    self._delivering.discard(scope)

    async def give_up_deaf_sinks(self) -> None:
        """At the end, wait for sinks only for as long as they take something now and then."""
        while True:
            before = self._delivered
            await trio.sleep(_DEAF_AFTER)
            if self._delivering and self._delivered == before:
                self._sinks = ()
                for scope in self._delivering:
                    scope.cancel()

    def pause(self, process: str, stream: StreamName, text: str) -> None:
        """Say that a line has been begun."""
        self._bus.emit(OutputPaused(process=process, stream=stream, text=text))

    def notice(self, process: str, code: str, text: str, hint: str = "") -> None:
        """Say what is no change of state."""
        self._bus.notice(code, text, hint=hint, process=process)

    async def install(self, install: Install, keeper: _Keeper) -> str:
        """Wait until a folder's packages are installed, or `keeper` does not want that any more.

        Returns:
            What went wrong.
        """
        while True:
            installation = self.installations[install]
            if installation.done.is_set() and (installation.error or installation.is_stopped):
                installation = self.installations[install] = installation.anew()
            if not installation.is_begun:
                installation.is_begun = True
                self.nursery.start_soon(installation.run)
            await installation.done.wait()
            if keeper.life.state is not State.INSTALLING or not installation.is_stopped:
                return installation.error

    def stop_installing(self, keeper: _Keeper) -> bool:
        """Stop the installation that a process waits for, unless others do, too; say whether it was."""
        install = keeper.life.plan.install
        others = [
            each for each in self.keepers.values() if each is not keeper and each.life.plan.install == install
        ]
        if install is None or any(each.life.state is State.INSTALLING for each in others):
            return False
        self.installations[install].stop()
        return True


class _Keeper:
    """Keeps one process: follows orders, tells facts, owns the child."""

    def __init__(self, shared: _Shared, plan: ProcessPlan) -> None:
        self.life = Life(plan=plan)
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._plan = plan
        self.shared = shared
        self._now: Incarnation | None = None
        self._next: Incarnation | None = None  # is to take over from that one
        self._living: set[Incarnation] = set()
        self._retiring: set[trio.CancelScope] = set()
        self._count = 0
        self._bringing_up: trio.CancelScope | None = None
        self._backing_off: trio.CancelScope | None = None
        self._installing: trio.CancelScope | None = None
        self._is_killed = False
        # The newest that was said about it.
        self.told: StateChanged | None = None
        self._logfile: LogFile | None = None
        if plan.log_file is not None:
            self._logfile = LogFile(plan.log_file, max_bytes=plan.log_bytes, backups=plan.log_backups)
        self.env = {
            **(os.environ if plan.env is None else plan.env),
            **({"PORT": str(plan.port)} if plan.env is None and plan.port is not None else {}),
            "ORCHESTRA_PROCESS": plan.name if "." in plan.name else f"{plan.name}.1",
            "ORCHESTRA_RUN": shared.run_id,
        }

    def begin(self) -> Order | None:
        """Begin, or wait for others; return what to do first."""
        return None if self._look_at_others() else self.tell(Go())

    async def run(self, order: Order | None) -> None:
        """Follow orders; in between, wait for others, or for somebody who wants it to begin anew."""
        while True:
            while order is None:
                if self.life.state is State.WAITING:
                    order = self.begin()
                elif self.shared.is_over:
                    break
                if order is None:
                    await self.shared.changed.wait()
            if order is None:
                break
            fact = await self._follow(order)
            if self.shared.is_stopping:
                self.stop()  # whoever ends now, though it is not its turn yet, is not started again
            order = self.tell(fact)
        if self._logfile is not None:
            self._logfile.close()

    async def _follow(self, order: Order) -> Fact:
        match order:
            case Order.INSTALL:
                return await self._install()
            case Order.SPAWN:
                return await self._run_child()
            case Order.BACK_OFF:
                return await self._back_off()
            case Order.STOP:
                raise AssertionError("an order to stop follows only from being asked to")
            case _:
                assert_never(order)

    def tell(self, fact: Fact) -> Order | None:
        """Take a fact into account, say so if it has changed the state, and return what to do next."""
        previous = self.life.state
        self.life, order = step(self.life, fact, trio.current_time())
        if self.life.state is not previous:
            self._publish(previous)
        return order

    def stop(self, reason: str = "") -> None:
        if self.tell(StopAsked(reason)) is Order.STOP:
            self._end()

    def start(self) -> None:
        if not self.shared.is_stopping:
            self.tell(StartAsked())
            self._hurry()

    def restart(self) -> None:
        if self.shared.is_stopping or self._overlaps():
            return
        if self.tell(RestartAsked()) is Order.STOP:
            self._end()
        else:
            self._hurry()

    @property
    def _child(self) -> Child | None:
        return self._now.child if self._now is not None else None

    def signal(self, number: int) -> None:
        if self._child is not None:
            self._child.signal(number)

    def kill(self) -> None:
        self._is_killed = True
        self.stop()
        for incarnation in self._living:
            if incarnation.child is not None:
                incarnation.child.kill()

    def _end(self) -> None:
        """End whatever is under way."""
        self._hurry()
        self._end_others()
        if self._child is not None:
            self.shared.nursery.start_soon(self._stop_gently, self._child)
        elif self._installing is not None and not self.shared.stop_installing(self):
            self._installing.cancel()

    def _end_others(self) -> None:
        """End all children but the one that counts: those to come, and those that have been replaced."""
        self._next = None
        for scope in self._retiring:
            scope.cancel()
        for incarnation in self._living:
            if incarnation is not self._now and incarnation.child is not None:
                incarnation.child.kill() if self._is_killed else incarnation.child.stop()

    def _hurry(self) -> None:
        if self._backing_off is not None:
            self._backing_off.cancel()

    async def _stop_gently(self, child: Child) -> None:
        """Let go of a child, then ask it to end."""
        await self._let_go(_HOOK_LIMIT)
        child.stop()

    async def _let_go(self, limit: float) -> None:
        hook = self.shared.before_stop
        if hook is not None:
            with trio.move_on_after(limit):
                try:
                    await hook(self._plan.name)
                except Exception as exc:  # noqa: BLE001 - an embedder's mistake must not keep a child alive
                    text = f"before_stop failed: {type(exc).__name__}: {exc}"
                    self.shared.notice(self._plan.name, "hook-failed", text)

    def missing(self) -> str:
        """Say why it is not up, in words."""
        if self.life.state is State.WAITING:
            return self.waits_for()
        lacking = self._now.missing() if self._now is not None else ""
        return f"it is {self.life.state.value}" + (f", {lacking}" if lacking else "")

    def is_hopeless(self) -> bool:
        """Whether it is never going to be more than it is now."""
        return self.life.state.is_ended or self.is_stuck()

    def is_stuck(self) -> bool:
        """Whether it waits for something that will never be."""
        others = [self.shared.keepers[each.name] for each in self._plan.depends_on if not self._is_met(each)]
        return self.life.state is State.WAITING and any(other.is_hopeless() for other in others)

    def waits_for(self) -> str:
        """Say what it has to wait for; empty if for nothing."""
        return "; ".join(self._in_words(each) for each in self._plan.depends_on if not self._is_met(each))

    def _look_at_others(self) -> bool:
        """Say whether it has to wait for others; what for is told."""
        reason = self.waits_for()
        if self.life.state is State.WAITING and reason != self.life.reason:
            self.tell(Blocked(reason))
            if reason:
                self._publish(State.WAITING)
        return bool(reason)

    def _is_met(self, dependency: Dependency) -> bool:
        other = self.shared.keepers[dependency.name].life
        match dependency.condition:
            case Condition.READY:
                # One that is ill has been ready; one that is broken has not.
                return other.state is State.READY or (
                    other.state is State.UNHEALTHY and other.ready_after is not None
                )
            case Condition.STARTED:
                return other.spawned_at is not None
            case Condition.COMPLETED:
                return other.state is State.COMPLETED
            case _:
                assert_never(dependency.condition)

    def _in_words(self, dependency: Dependency) -> str:
        name, other = dependency.name, self.shared.keepers[dependency.name]
        if other.is_stuck():
            return f"{name} waits in vain"
        if other.life.state.is_ended:
            return f"{name} has {other.life.state.value}"
        match dependency.condition:
            case Condition.READY:
                return f"waits for {name} to be ready"
            case Condition.STARTED:
                return f"waits for {name} to start"
            case Condition.COMPLETED:
                return f"waits for {name} to complete"
            case _:
                assert_never(dependency.condition)

    def is_up(self) -> bool:
        """Whether it is as far as it gets; raises StartError if it will not get there."""
        state = self.life.state
        if state in (State.FAILED, State.STOPPED):
            reason = f": {self.life.reason}" if self.life.reason else ""
            raise StartError(self._plan.name, f"has {state.value}{reason}", tail=self.tail)
        if self.is_stuck():
            raise StartError(self._plan.name, f"cannot be started: {self.waits_for()}", tail=self.tail)
        if state is State.RUNNING:
            return not self._plan.is_awaited
        return state in (State.READY, State.COMPLETED)

    def newest(self) -> StateChanged:
        """What is known of it now, with the time at which something was last said."""
        said = self.told
        known = self.describe()
        return known if said is None else structs.replace(known, seq=said.seq, time=said.time)

    def describe(self, previous: State | None = None) -> StateChanged:
        life, now = self.life, self._now
        found = now.listening if now is not None and life.state in _LISTENS else None
        return StateChanged(
            process=self._plan.name,
            state=life.state,
            previous=life.state if previous is None else previous,
            pid=self._child.pid if self._child is not None else None,
            port=found.port if found is not None else None,
            url=found.url if found is not None else None,
            restarts=life.restarts,
            exit_code=life.exit.code if life.exit is not None else None,
            signal=life.exit.signal_name if life.exit is not None else None,
            reason=life.reason,
            ready_after=life.ready_after,
        )

    def _publish(self, previous: State) -> None:
        self.shared.publish(self, previous)

    async def deliver(
        self,
        incarnation: Incarnation | None,
        stream: StreamName,
        lines: Sequence[str],
        partial: str | None,
    ) -> None:
        if lines:
            self.tail.extend(without_colours(line) for line in lines[-_TAIL:])
            if incarnation is not None:
                incarnation.see(without_colours(line) for line in lines)
            await self._log(lines)
            await self.shared.deliver(self._plan.name, stream, lines)
        if partial is not None:
            if partial and incarnation is not None:
                incarnation.see([without_colours(partial)], is_partial=True)
            self.shared.pause(self._plan.name, stream, partial)

    async def _log(self, lines: Sequence[str]) -> None:
        if self._logfile is not None:
            try:
                await self._logfile.write(lines)
            except OSError as exc:
                text = f"its log file is not written any more: {exc.filename or ''} {exc.strerror}"
                self.shared.notice(self._plan.name, "log-broken", text)

    async def _install(self) -> Fact:
        assert self._plan.install is not None  # noqa: S101 - nothing else leads here
        error = ""
        with trio.CancelScope() as self._installing:
            error = await self.shared.install(self._plan.install, self)
        self._installing = None
        return Installed(error)

    async def _back_off(self) -> Fact:
        with trio.CancelScope() as self._backing_off:
            jitter = 1 + random.random() * _JITTER  # noqa: S311 - nobody has to guess it
            await trio.sleep(self.life.back_off * jitter)
        self._backing_off = None
        return BackedOff()

    def _incarnate(self, port: int | None) -> Incarnation:
        """Make a child to be, whose ``PORT`` is `port`."""
        plan, env = self._plan, dict(self.env)
        if port != plan.port:
            env |= {name: str(port) for name in _PORTS if env.get(name) == str(plan.port)}
            env["PORT"] = str(port)
        if plan.restart_mode == "overlap":
            # Two of them at once must not be taken for one family.
            self._count += 1
            env["ORCHESTRA_CHILD"] = str(self._count)
        return Incarnation(
            plan,
            env=env,
            port=port,
            surroundings=self.shared,
            on_output=lambda incarnation: partial(self.deliver, incarnation),
            on_fact=self._learn,
            on_stuck=self._unstick,
        )

    def _learn(self, incarnation: Incarnation, fact: Fact) -> bool:
        """Take a fact about one child into account; return whether it may go on."""
        if incarnation is self._next:
            if isinstance(fact, Answered):
                self._take_over(incarnation)
            elif isinstance(fact, Broken) and self._bringing_up is not None:
                self._bringing_up.cancel()
            return True
        if incarnation is not self._now:
            if isinstance(fact, Spawned) and incarnation.child is not None:
                incarnation.child.kill()  # nobody has wanted it since it was begun
                return False
            return True
        if not isinstance(fact, Spawned):
            self.tell(fact)
            if isinstance(fact, Silent) and self._plan.restart_unhealthy:
                self.restart()
            return True
        self.tell(fact)
        child = incarnation.child
        assert child is not None  # noqa: S101 - it has just been spawned
        if self.life.state is State.STOPPING:  # asked for while it was being spawned
            child.kill() if self._is_killed else child.stop()
            return False
        if self.life.state is State.STARTING:
            self._publish(State.STARTING)  # it has a pid now
        return True

    async def _run_child(self) -> Fact:
        """Run a child to its end, or to that of whoever has taken over from it."""
        now = self._now = self._incarnate(self._plan.port)
        self.shared.nursery.start_soon(self._run_incarnation, now)
        while True:
            now = self._now
            if not now.ended.is_set():
                await self.shared.changed.wait()
            elif self._next is not None and self.life.state is not State.STOPPING:
                self._now, self._next = self._next, None
                self._be_patient()
                self.tell(Reloading("the old one has ended before the new one was ready"))
            else:
                break
        # Those that it has replaced may hold the port that the next one wants.
        self._end_others()
        while self._living:
            await self.shared.changed.wait()
        self._now = None
        assert now.end is not None  # noqa: S101 - it has ended
        return now.end

    async def _run_incarnation(self, incarnation: Incarnation) -> Fact:
        self._living.add(incarnation)
        try:
            return await incarnation.run(window=self._window(), last_words=self._last_words)
        finally:
            self._living.discard(incarnation)
            self.shared.wake()

    def _last_words(self) -> str:
        return next(filter(_NOT_RUN.search, reversed(self.tail)), "")

    # --- A new child beside the old one ---

    def _overlaps(self) -> bool:
        """Whether a restart keeps the old child until the new one is ready; that is then begun."""
        if self._plan.restart_mode != "overlap" or self.life.state is not State.READY or self._now is None:
            return False
        if self._next is not None and self._next.child is not None:
            self._next.child.kill()  # what it runs is old already
        port = sockets.another(self._plan.port, besides=self._now.port)
        self._next = self._incarnate(port)
        self.shared.nursery.start_soon(self._bring_up, self._next)
        return True

    async def _bring_up(self, incarnation: Incarnation) -> None:
        """Run a new child beside the old one; if it does not come up, the old one goes on."""
        if incarnation is not self._next:
            return  # stopped before it was begun
        fact: Fact | None = None
        with trio.CancelScope() as patience:
            self._bringing_up = patience
            patience.deadline = trio.current_time() + self._plan.ready_timeout
            fact = await self._run_incarnation(incarnation)
        if incarnation is not self._next:
            return
        self._next = None
        if isinstance(fact, Ended):
            why = str(fact.exit)
        elif isinstance(fact, NotSpawned):
            why = fact.error
        elif trio.current_time() >= patience.deadline:
            why = f"it is not ready after {self._plan.ready_timeout:g} s: {incarnation.missing()}"
        else:
            why = "it is broken"
        said = incarnation.last_words()
        why += f": {said}" if said else ""
        text = f"the new version does not come up: {why}; the old one goes on serving"
        hint = "Its command has to listen on $PORT." if IN_USE.search(said) else ""
        self.shared.notice(self._plan.name, "overlap-failed", text, hint)

    def _take_over(self, incarnation: Incarnation) -> None:
        """Have a new child, which is ready, take the place of the old one."""
        old, self._now, self._next = self._now, incarnation, None
        self._be_patient()
        was_ready = self.life.state is State.READY
        self.tell(Replaced(trio.current_time() - incarnation.spawned_at))
        if was_ready:
            self._publish(State.READY)
        if old is not None:
            self.shared.nursery.start_soon(self._retire, old)

    def _be_patient(self) -> None:
        """Whoever was being brought up is the one now: its time is not limited any more."""
        if self._bringing_up is not None:
            self._bringing_up.deadline = inf

    async def _retire(self, old: Incarnation) -> None:
        """End an old child when it has finished what it was asked."""
        child = old.child
        if child is not None:
            with trio.CancelScope() as scope:
                self._retiring.add(scope)
                await self._let_go(_RETIRE_LIMIT)
            self._retiring.discard(scope)
            child.stop()

    def _unstick(self, incarnation: Incarnation) -> None:
        """Restart a child whose own reload does not end; it has had its time, and is not asked long."""
        if incarnation is self._now and incarnation.child is not None and self.life.is_alive:
            text = "its own reload does not end, or has not brought up a new server: it is restarted"
            self.shared.notice(self._plan.name, "reload-stuck", text)
            self.restart()
            self.shared.nursery.start_soon(self._kill_soon, incarnation.child)

    async def _kill_soon(self, child: Child) -> None:
        await trio.sleep(_STUCK_MANNERS)
        child.kill()

    def _window(self) -> Window | None:
        match self._plan.pty:
            case "auto":
                return self.shared.window
            case True:
                return self.shared.window or Window(*_USUAL_SIZE)
            case False:
                return None


class _Installation:
    """Packages of one folder, installed once, in the name of the first process that needs them."""

    def __init__(self, install: Install, keeper: _Keeper) -> None:
        self.is_begun = False
        self._install = install
        self._keeper = keeper
        self._child: Child | None = None
        self.is_stopped = False
        self._is_killed = False
        self.error = ""
        self.done = trio.Event()

    def anew(self) -> _Installation:
        """Give another try."""
        return _Installation(self._install, self._keeper)

    async def run(self) -> None:
        """Install; afterwards `error` says what went wrong, if anything did."""
        install, keeper = self._install, self._keeper
        packages = install.folder / "node_modules"
        had_packages = packages.exists()
        try:
            how = await keeper.shared.run_child(
                install.argv,
                cwd=install.folder,
                env={**keeper.env, "CI": "1"},  # package managers ask nothing there
                on_spawn=self._spawned,
                on_output=partial(keeper.deliver, None),
                stop_timeout=keeper.life.plan.stop_timeout,
            )
            if how.code != 0:
                self.error = f"`{' '.join(install.argv)}` in {install.folder}: {how}"
        except SpawnError as exc:
            self.error = exc.message
        finally:
            if (self.error or self.is_stopped) and not had_packages:
                # Half of the packages would look like all of them to the next run.
                with trio.move_on_after(_DISCARD_TIMEOUT, shield=True):
                    discard = partial(shutil.rmtree, packages, ignore_errors=True)
                    await trio.to_thread.run_sync(discard, abandon_on_cancel=True)
            self._child = None
            self.done.set()

    def stop(self) -> None:
        self.is_stopped = True
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        self._is_killed = True
        self.stop()
        if self._child is not None:
            self._child.kill()

    def _spawned(self, child: Child) -> None:
        self._child = child
        if self.is_stopped:  # asked for while it was being spawned
            child.kill() if self._is_killed else child.stop()
