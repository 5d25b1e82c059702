"""The nursery of processes: it carries out what `lifecycle.step` decides, for every process of a plan.

Each process has a `_Keeper`, one task that follows orders until there is none left. A keeper owns at most
one child at a time. What happens is said on the bus; output also goes to the sinks, which are awaited, so
that a slow reader slows the child down and loses nothing.

While processes are on their way to readiness, one task scans for listening sockets, for all of them together.

Never here: signals to ourselves, the terminal, the proxy, exit codes of the run.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Self, TypeAlias, assert_never

import trio

from orchestra import ports, probe
from orchestra.config.plan import Role
from orchestra.errors import StartError
from orchestra.events import Bus, Notice, OutputLine, OutputPaused, State, StateChanged
from orchestra.graceful import run_gracefully
from orchestra.guard import guarded
from orchestra.lifecycle import (
    Answered,
    BackedOff,
    Ended,
    Go,
    Installed,
    Life,
    NotSpawned,
    Order,
    Spawned,
    StopAsked,
    step,
)
from orchestra.logfile import LogFile
from orchestra.output import without_colours
from orchestra.process import SpawnError, Window, run_child

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from orchestra.config.plan import Install, Plan, ProcessPlan
    from orchestra.events import Observer, StreamName
    from orchestra.guard import Guard
    from orchestra.lifecycle import Fact
    from orchestra.process import Child

__all__ = ["Sink", "Supervisor"]

Sink: TypeAlias = "Callable[[OutputLine], Awaitable[None]]"

# When `ready_timeout` is almost over there is still a fair chance for one answer.
_SHORTEST_PROBE = 0.1
# Removing half-installed packages: a second or so; the end of the run does not wait for a dead disk.
_DISCARD_TIMEOUT = 5.0
# What a terminal has when nobody knows better.
_USUAL_SIZE = (80, 24)
# A millisecond's worth of lines.
_AT_A_TIME = 500
# What is quoted of a process that did not come up.
_TAIL = 20


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
    ) -> None:
        self.plan = plan
        self.bus = Bus(lambda: self.snapshot().values()) if bus is None else bus
        self._shared = _Shared(self.bus, sinks, window)
        self._keepers = {each.name: _Keeper(self._shared, each) for each in plan.processes}
        for keeper in self._keepers.values():
            if (install := keeper.life.plan.install) is not None:
                self._shared.installations.setdefault(install, _Installation(install, keeper))
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
        longest = max((each.stop_timeout for each in self.plan.processes), default=0.0)
        try:
            await run_gracefully(partial(self._run, task_status), grace=lambda: longest + 10.0)
        finally:
            self._stopped.set()

    async def stop(self) -> None:
        """Stop all processes at once, and wait until none is left and `run` is about to return."""
        self._stop_asked.set()
        await self._stopped.wait()

    def kill(self) -> None:
        """End everything at once, by SIGKILL. Does not wait: `stop` does."""
        self._stop_asked.set()
        for each in self._everything():
            each.kill()

    @property
    def ends(self) -> Sequence[Life]:  # noqa: D102 - among the attributes
        return tuple(self._shared.ends)

    async def wait_ready(self, names: Iterable[str] | None = None) -> None:
        """Wait until processes are as far as they get: ready, or running where readiness is not asked for.

        Args:
            names: Of the processes to wait for; all by default.

        Raises:
            StartError: One of them has failed or was stopped.
            KeyError: There is no process of that name.
        """
        keepers = [self._keepers[name] for name in (self._keepers if names is None else names)]
        while not all(keeper.is_up() for keeper in keepers):
            await self._shared.changed.wait()

    def snapshot(self) -> Mapping[str, StateChanged]:
        """Return the newest state of every process, by name, in the order of the plan."""
        return {name: keeper.describe() for name, keeper in self._keepers.items()}

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` with every event from now on, after a snapshot; the result ends that."""
        return self.bus.subscribe(observer)

    async def _run(self, task_status: trio.TaskStatus[Self], cancelled: trio.Event) -> None:
        async with trio.open_nursery() as watchers:
            watchers.start_soon(self._stop_when, cancelled)
            watchers.start_soon(self._stop_when, self._stop_asked)
            watchers.start_soon(self._shared.scout.run)
            async with (
                guarded(self._shared.run_id) as self._shared.guard,
                trio.open_nursery() as self._shared.nursery,
            ):
                for keeper in self._keepers.values():
                    # trio shuffles what it starts: what is said is said here, in the order of the plan.
                    self._shared.nursery.start_soon(keeper.run, keeper.tell(Go()))
                task_status.started(self)
            watchers.cancel_scope.cancel()

    async def _stop_when(self, event: trio.Event) -> None:
        await event.wait()
        for each in self._everything():
            each.stop()

    def _everything(self) -> list[_Keeper | _Installation]:
        return [*self._keepers.values(), *self._shared.installations.values()]


class _Shared:
    """What all keepers of a run have in common: who listens, who installs, who scans."""

    def __init__(self, bus: Bus, sinks: Iterable[Sink], window: Window | None) -> None:
        self.window = window
        self.guard: Guard
        self.run_id = secrets.token_hex(8)
        self.scout = ports.Scout()
        self.changed = trio.Event()
        self.ends: list[Life] = []
        self.installations: dict[Install, _Installation] = {}
        self.nursery: trio.Nursery
        self._bus = bus
        self._sinks = tuple(sinks)

    def publish(self, keeper: _Keeper, previous: State) -> None:
        """Say that a process has changed."""
        if keeper.life.state in (State.COMPLETED, State.FAILED):
            self.ends.append(keeper.life)
        self._bus.emit(keeper.describe(previous))
        self.changed.set()
        self.changed = trio.Event()

    async def deliver(self, process: str, stream: StreamName, lines: Sequence[str]) -> None:
        """Give lines to the sinks, then to the bus."""
        for start in range(0, len(lines), _AT_A_TIME):
            # One chunk can hold thousands of lines: who waits for an answer must not wait for all of them.
            await trio.lowlevel.checkpoint()
            at = trio.current_time()
            for text in lines[start : start + _AT_A_TIME]:
                line = OutputLine(at=at, process=process, stream=stream, text=text)
                for sink in self._sinks:
                    await sink(line)
                self._bus.emit(line)

    def pause(self, process: str, stream: StreamName, text: str) -> None:
        """Say that a line has been begun."""
        at = trio.current_time()
        self._bus.emit(OutputPaused(at=at, process=process, stream=stream, text=text))

    def notice(self, process: str, code: str, text: str) -> None:
        """Say what is no change of state."""
        at = trio.current_time()
        self._bus.emit(Notice(at=at, level="warning", code=code, text=text, process=process))

    async def install(self, install: Install) -> str:
        """Wait until a folder's packages are installed; return what went wrong."""
        installation = self.installations[install]
        if not installation.is_begun:
            installation.is_begun = True
            self.nursery.start_soon(installation.run)
        await installation.done.wait()
        return installation.error


class _Keeper:
    """Keeps one process: follows orders, tells facts, owns the child."""

    def __init__(self, shared: _Shared, plan: ProcessPlan) -> None:
        self.life = Life(plan=plan)
        self.tail: deque[str] = deque(maxlen=_TAIL)
        self._plan = plan
        self._shared = shared
        self._child: Child | None = None
        self._listening: ports.Listening | None = None
        self._backing_off: trio.CancelScope | None = None
        self._is_killed = False
        self._at = 0.0  # when something about it was last said
        self._logfile: LogFile | None = None
        if plan.log is not None:
            self._logfile = LogFile(plan.log.path, max_bytes=plan.log.max_bytes, backups=plan.log.backups)
        self.env = {
            **(os.environ if plan.env is None else plan.env),
            **({"PORT": str(plan.port)} if plan.env is None and plan.port is not None else {}),
            "ORCHESTRA_PROCESS": plan.name,
            "ORCHESTRA_RUN": shared.run_id,
        }

    async def run(self, order: Order | None) -> None:
        while order is not None:
            match order:
                case Order.INSTALL:
                    fact = await self._install()
                case Order.SPAWN:
                    fact = await self._run_child()
                case Order.BACK_OFF:
                    fact = await self._back_off()
                case Order.STOP:
                    raise AssertionError("an order to stop follows only from being asked to")
                case _:
                    assert_never(order)
            order = self.tell(fact)
        if self._logfile is not None:
            self._logfile.close()

    @property
    def guard(self) -> Guard:
        """Who has to know of children."""
        return self._shared.guard

    def tell(self, fact: Fact) -> Order | None:
        """Take a fact into account, say so if it has changed the state, and return what to do next."""
        previous = self.life.state
        self.life, order = step(self.life, fact, trio.current_time())
        if self.life.state is not previous:
            if self.life.state is not State.READY:
                self._listening = None
            self._publish(previous)
        return order

    def stop(self) -> None:
        if self.tell(StopAsked()) is Order.STOP:
            if self._child is not None:
                self._child.stop()
            if self._backing_off is not None:
                self._backing_off.cancel()

    def kill(self) -> None:
        self._is_killed = True
        self.stop()
        if self._child is not None:
            self._child.kill()

    def is_up(self) -> bool:
        """Whether it is as far as it gets; raises StartError if it will not get there."""
        state = self.life.state
        if state in (State.FAILED, State.STOPPED):
            reason = f": {self.life.reason}" if self.life.reason else ""
            raise StartError(self._plan.name, f"has {state.value}{reason}", tail=self.tail)
        if state is State.RUNNING:
            return self._plan.ready is None or self._plan.role is Role.CANDIDATE
        return state in (State.READY, State.COMPLETED)

    def describe(self, previous: State | None = None) -> StateChanged:
        life, found = self.life, self._listening
        return StateChanged(
            at=self._at,
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
        self._at = trio.current_time()
        self._shared.publish(self, previous)

    async def deliver(self, stream: StreamName, lines: Sequence[str], partial: str | None) -> None:
        if lines:
            self.tail.extend(without_colours(line) for line in lines[-_TAIL:])
            await self._log(lines)
            await self._shared.deliver(self._plan.name, stream, lines)
        if partial is not None:
            self._shared.pause(self._plan.name, stream, partial)

    async def _log(self, lines: Sequence[str]) -> None:
        if self._logfile is not None:
            try:
                await self._logfile.write(lines)
            except OSError as exc:
                text = f"its log file is not written any more: {exc.filename or ''} {exc.strerror}"
                self._shared.notice(self._plan.name, "log-broken", text)

    async def _install(self) -> Fact:
        assert self._plan.install is not None  # noqa: S101 - nothing else leads here
        return Installed(await self._shared.install(self._plan.install))

    async def _back_off(self) -> Fact:
        with trio.CancelScope() as self._backing_off:
            await trio.sleep(self.life.back_off)
        self._backing_off = None
        return BackedOff()

    async def _run_child(self) -> Fact:
        plan = self._plan
        async with trio.open_nursery() as nursery:

            def spawned(child: Child) -> None:
                self.guard.spawned(child.pid)
                self._child = child
                self.tell(Spawned())
                if self.life.state is State.STOPPING:  # asked for while it was being spawned
                    child.kill() if self._is_killed else child.stop()
                    return
                if self.life.state is State.STARTING:
                    self._publish(State.STARTING)  # it has a pid now
                if plan.ready is not None:
                    nursery.start_soon(self._await_readiness, child.pid)

            fact: Fact
            try:
                how = await run_child(
                    plan.command,
                    cwd=plan.cwd,
                    env=self.env,
                    on_spawn=spawned,
                    on_output=self.deliver,
                    stop_timeout=plan.stop_timeout,
                    stop_signal=plan.stop_signal,
                    window=self._window(),
                )
                fact = Ended(how)
            except SpawnError as exc:
                fact = NotSpawned(exc.message)
            finally:
                if self._child is not None:
                    self.guard.emptied(self._child.pid)
                self._child = None
            nursery.cancel_scope.cancel()
        return fact

    def _window(self) -> Window | None:
        match self._plan.pty:
            case "auto":
                return self._shared.window
            case True:
                return self._shared.window or Window(*_USUAL_SIZE)
            case False:
                return None

    async def _await_readiness(self, leader: int) -> None:
        plan = self._plan
        missing = "it listens nowhere"
        has_complained = plan.role is Role.CANDIDATE
        give_up = trio.current_time() + plan.ready_timeout
        async with self._shared.scout.looking_at(leader) as newest_sockets:
            while True:
                candidates = ports.in_order_of_preference(await newest_sockets(), plan.port)
                for candidate in candidates:
                    timeout = probe.HTTP_TIMEOUT / len(candidates)
                    if not has_complained:
                        timeout = min(timeout, max(give_up - trio.current_time(), _SHORTEST_PROBE))
                    missing = await probe.http_answer(candidate.host, candidate.port, within=timeout)
                    if not missing:
                        self._listening = candidate
                        self.tell(Answered())
                        return
                if trio.current_time() >= give_up and not has_complained:
                    has_complained = True
                    text = f"not ready after {plan.ready_timeout:g} s: {missing}"
                    self._shared.notice(plan.name, "not-ready", text)


class _Installation:
    """Packages of one folder, installed once, in the name of the first process that needs them."""

    def __init__(self, install: Install, keeper: _Keeper) -> None:
        self.is_begun = False
        self._install = install
        self._keeper = keeper
        self._child: Child | None = None
        self._is_stopped = False
        self.error = ""
        self.done = trio.Event()

    async def run(self) -> None:
        """Install; afterwards `error` says what went wrong, if anything did."""
        install, keeper = self._install, self._keeper
        packages = install.folder / "node_modules"
        had_packages = packages.exists()
        try:
            how = await run_child(
                install.argv,
                cwd=install.folder,
                env={**keeper.env, "CI": "1"},  # package managers ask nothing there
                on_spawn=self._spawned,
                on_output=keeper.deliver,
                stop_timeout=keeper.life.plan.stop_timeout,
            )
            if how.code != 0:
                self.error = f"`{' '.join(install.argv)}` in {install.folder}: {how}"
        except SpawnError as exc:
            self.error = exc.message
        finally:
            if (self.error or self._is_stopped) and not had_packages:
                # Half of the packages would look like all of them to the next run.
                with trio.move_on_after(_DISCARD_TIMEOUT, shield=True):
                    discard = partial(shutil.rmtree, packages, ignore_errors=True)
                    await trio.to_thread.run_sync(discard, abandon_on_cancel=True)
            if self._child is not None:
                keeper.guard.emptied(self._child.pid)
            self._child = None
            self.done.set()

    def stop(self) -> None:
        self._is_stopped = True
        if self._child is not None:
            self._child.stop()

    def kill(self) -> None:
        self.stop()
        if self._child is not None:
            self._child.kill()

    def _spawned(self, child: Child) -> None:
        self._keeper.guard.spawned(child.pid)
        self._child = child
        if self._is_stopped:
            child.stop()
