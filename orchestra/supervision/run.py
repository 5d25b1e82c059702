"""One run: its processes, started in the order of the plan, stopped in the order of their dependencies.

The run is over when no process runs and none is going to; processes that are blocked by a failed dependency
are stopped then, too. It ends earlier when the process that `exit_on` names has ended. Processes are stopped
level by level, each before those that it depends on. If one takes too long, the rest is stopped together.

The plan of a run can change: first the processes are stopped that are not in the new plan; then, in one step,
the run adopts it; then processes are restarted and started as it requires.

Not here: what one process does (`worker`), what touches the system (`runtime`), the proxy.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import trio
from trio.lowlevel import ParkingLot

from orchestra.child.families import Families
from orchestra.child.usage import Meter
from orchestra.config.checks import FORMS, parse_checks
from orchestra.config.environment import PORT_VARIABLES, with_address
from orchestra.config.plan import Condition, Plan, ProcessPlan
from orchestra.config.roles import Seen
from orchestra.config.select import find_cycle, stop_levels
from orchestra.errors import ConfigError, StartError
from orchestra.events import Exit, ProcessMeasured, State
from orchestra.supervision.delivery import Delivery, Sink
from orchestra.supervision.install import Installer
from orchestra.supervision.lifecycle import Life, culprit
from orchestra.supervision.runtime import Phase, Runtime
from orchestra.supervision.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence

    from orchestra.bus import Bus
    from orchestra.child.guard import Guard
    from orchestra.child.spawn import Window
    from orchestra.supervision.difference import Difference
    from orchestra.supervision.roles import RunTimeRoles

__all__ = ["BeforeStop", "Run", "checked_dependencies", "measure"]

BeforeStop: TypeAlias = "Callable[[str], Awaitable[None]]"

_MEASURE_INTERVAL = 2.0


class Run:
    """All processes of a plan, and their shared state.

    Args:
        window: The size of the terminals of the processes; without it they have pipes.
        is_kept_open: Whether the run goes on when no process runs any more because one has failed, so that it
            can be started again; ``"always"``: until it is stopped.

    Attributes:
        id: The mark that all processes of the run carry in their environment.
        workers: One for each process, by name, in the order of the plan.
        url: The one address, once it is bound; ``None`` without a proxy.
        before_stop: Awaited with the name of a process before that is stopped, to drain its requests and
            streams.
        roles: Decides the roles that the plan has left open; ``None`` if there are none.
    """

    nursery: trio.Nursery

    def __init__(
        self,
        plan: Plan,
        runtime: Runtime,
        bus: Bus,
        *,
        sinks: Iterable[Sink] = (),
        window: Window | None = None,
        is_kept_open: bool | Literal["always"] = False,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.root = str(plan.root)
        self.runtime = runtime
        self.bus = bus
        self.window = window
        self.delivery = Delivery(bus, sinks)
        self.scanner = runtime.scanner()
        self.remains = runtime.remains()
        self.installer = Installer(self)
        self.phase = Phase.NEW
        self.ending = trio.Event()
        self.url: str | None = None
        self.before_stop: BeforeStop | None = None
        self.roles: RunTimeRoles | None = None
        self._families = Families()
        self._guard: Guard | None = None
        self._screen: tuple[str | None, bytes] = None, b""
        self._changes = ParkingLot()
        self._is_kept_open = is_kept_open
        self.longest_stop = 0.0
        self.workers: dict[str, Worker] = {}
        self._changing: Difference | None = None  # in progress
        self._ended: dict[str, Life] = {}
        self._follow(plan)

    def __repr__(self) -> str:
        states = ", ".join(f"{name} {each.life.state.value}" for name, each in self.workers.items())
        return f"<Run {self.id}, {self.phase.value}: {states or 'none'}>"

    # --- From start to stop ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all processes until the run is over."""
        try:
            async with self.runtime.guard(self.id) as self._guard, trio.open_nursery() as self.nursery:
                self._guard.on_screen(*self._screen)
                for worker in self.workers.values():
                    worker.look_at_dependencies()
                self._end_if_over()
                task_status.started()
                await self.until()
        finally:
            self._end()
            for worker in self.workers.values():
                worker.output.close()

    async def stop(self) -> None:
        """Stop all processes, in order, and wait until none is left."""
        if self.phase is Phase.RUNNING:
            self.phase = Phase.STOPPING
            self.delivery.expect_end()
            await self._stop_in_order(self.workers.keys())
            self._end_if_over()
        await self.until()

    async def _stop_in_order(self, names: Collection[str]) -> None:
        """Stop processes, each before those that it depends on; the last of them may still be ending."""
        workers = {name: self.workers[name] for name in names}
        for worker in workers.values():
            if not worker.life.is_alive or worker.life.state is State.STOPPING:
                worker.stop()
        with trio.move_on_after(self.longest_stop):
            for names_of_level in self._levels:
                level = [workers[name] for name in names_of_level if name in workers]
                for worker in level:
                    worker.stop()
                longest = max((each.life.plan.stop_timeout for each in level), default=0.0)
                with trio.move_on_after(longest) as limit:
                    for worker in level:
                        await self.until(worker.has_ended)
                if limit.cancelled_caught:
                    break
        for worker in workers.values():
            worker.stop()

    # --- Another plan ---

    async def change(self, plan: Plan, found: Difference, adopt: Callable[[], object]) -> None:
        """Follow another plan, which `checked_dependencies` has accepted.

        `adopt` is called before any process of it is started; not if the run has ended meanwhile.
        """
        self._changing = found
        try:
            await self._stop_in_order(found.stopped)
            await self.until(lambda: all(self.workers[name].has_ended() for name in found.stopped))
            if self.phase is Phase.RUNNING:
                self._follow(plan)
                adopt()
                for name in found.restarted:
                    self.workers[name].restart()
                for worker in self.workers.values():
                    worker.look_at_dependencies()
        finally:
            self._changing = None
            self._end_if_over()
        restarted = [self.workers[name] for name in found.restarted]
        await self.until(lambda: all(each.life.state is not State.STOPPING for each in restarted))

    def _follow(self, plan: Plan) -> None:
        """Keep a worker for each process of a plan, and for no other one; start nothing."""
        before, depends_on = self.workers, checked_dependencies(plan)
        self.workers = {each.name: before.get(each.name) or Worker(each, self) for each in plan.processes}
        for name in before.keys() - self.workers.keys():
            before[name].output.close()
            before[name].errors.clear()
            self._ended.pop(name, None)
        dependents: dict[str, list[Worker]] = {name: [] for name in self.workers}
        for name, others in depends_on.items():
            for other in others:
                dependents[other].append(self.workers[name])
        for each in plan.processes:
            self.workers[each.name].follow(each, dependents=dependents[each.name])
        self._exit_on = plan.exit_on
        self._levels = stop_levels(depends_on)
        # A running child keeps the timeout that it was started with.
        self.longest_stop = max([self.longest_stop, *(each.stop_timeout for each in plan.processes)])

    def keep_open(self) -> None:
        """From now on, do not end after a failure: files are being edited, and a save is a new start."""
        if not self._is_kept_open:  # it may be "always" already
            self._is_kept_open = True

    def kill(self) -> None:
        """Kill everything, and start nothing any more. Does not wait."""
        for worker in self.workers.values():
            worker.kill()
        self.installer.kill()

    def changed(self, worker: Worker, before: State) -> None:
        """Take the change of one process into account, and wake all waiting tasks."""
        life, name = worker.life, worker.life.plan.name
        if life.state is not before:
            self._ended.pop(name, None)
            if life.state in (State.COMPLETED, State.FAILED):
                self._ended[name] = life
                if culprit(self._exit_on, self.ended) is not None:
                    self.ending.set()
        if self.roles is not None and (life.is_settled or life.state is State.BACKING_OFF):
            self.roles.see(name, Seen.SILENT)
        if life.is_settled:
            self._end_if_over()
        self._changes.unpark_all()

    def _end_if_over(self) -> None:
        phase = self.phase
        if phase is Phase.OVER or (phase is Phase.RUNNING and self._is_to_go_on()):
            return
        # The processes that a change starts are not started yet.
        is_to_start = self._changing is not None and (self._changing.started or self._changing.restarted)
        if is_to_start or not all(each.life.is_settled for each in self.workers.values()):
            return
        self._end()
        for worker in self.workers.values():
            worker.stop(worker.life.reason)

    def _is_to_go_on(self) -> bool:
        if self._is_kept_open == "always":
            return True
        failed = (each.life.state in (State.FAILED, State.WAITING) for each in self.workers.values())
        return self._is_kept_open and any(failed)

    def _end(self) -> None:
        self.phase = Phase.OVER
        self.ending.set()
        self._changes.unpark_all()

    # --- Queries ---

    @property
    def ended(self) -> Sequence[Life]:
        """The lives of the processes that have ended by themselves, for good, in that order."""
        return tuple(self._ended.values())

    async def until(self, is_so: Callable[[], bool] = lambda: False) -> None:
        """Wait until a condition holds, checking it at each change of a process; or until the run is over."""
        while not is_so() and self.phase is not Phase.OVER:
            await self._changes.park()
        await trio.lowlevel.checkpoint()

    async def wait_ready(self, names: Iterable[str] | None, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until processes are up; see `Supervisor.wait_ready`."""
        named = None if names is None else [self.workers[name] for name in names]

        def late() -> list[Worker]:
            leaving = () if self._changing is None else self._changing.stopped
            all_that_stay = (each for name, each in self.workers.items() if name not in leaving)
            # All are checked: a slow one must not hide a failed one.
            return [each for each in (all_that_stay if named is None else named) if not each.is_up()]

        with trio.move_on_after(timeout) as limit:
            await self.until(lambda: not late())
        if limit.cancelled_caught and (worker := next(iter(late()), None)):
            text = f"is not ready after {timeout:g} s: {worker.missing()}"
            raise StartError(worker.life.plan.name, text, tail=worker.output.tail)

    # --- Services for processes ---

    async def spawn(self, command: str | Sequence[str], **how: Any) -> Exit:
        """Run a child to its end, like `child.spawn.run_child`, with the run's arguments added."""
        assert self._guard is not None  # noqa: S101 - there is one before there is a child
        return await self.runtime.spawn(
            command, families=self._families, guard=self._guard, soft_nofile=self.runtime.soft_nofile, **how
        )

    def on_screen(self, terminal: str | None, give_back: bytes = b"") -> None:
        """Have the guardian restore the terminal that shows the dashboard, if we are killed."""
        self._screen = terminal, give_back
        if self._guard is not None:
            self._guard.on_screen(terminal, give_back)

    def environment(self, plan: ProcessPlan, port: int | None) -> dict[str, str]:
        """Give the environment of a child with this ``PORT``."""
        env = {
            **with_address(os.environ if plan.env is None else plan.env, self.url),
            **({"PORT": str(plan.port)} if plan.env is None and plan.port is not None else {}),
            "ORCHESTRA_PROCESS": plan.name if "." in plan.name else f"{plan.name}.1",
            "ORCHESTRA_RUN": self.id,
        }
        if port != plan.port:
            env |= {name: str(port) for name in PORT_VARIABLES if env.get(name) == str(plan.port)}
            env["PORT"] = str(port)
        return env


async def measure(run: Run) -> None:
    """Measure each process, while an observer wants it, until cancelled."""
    meter = Meter()
    while True:
        await trio.sleep(_MEASURE_INTERVAL)
        if not run.bus.wants(ProcessMeasured):
            continue
        leaders = {name: each.newest.pid for name, each in run.workers.items() if each.newest.pid is not None}
        with suppress(OSError):  # then it is not known
            for measured in await trio.to_thread.run_sync(meter.look, leaders, abandon_on_cancel=True):
                run.bus.emit(measured)


def checked_dependencies(plan: Plan) -> Mapping[str, Sequence[str]]:
    """Give the dependencies of each process, by name; `ConfigError` if the plan is not valid."""
    by_name = {each.name: each for each in plan.processes}
    if len(by_name) < len(plan.processes):
        raise ConfigError("two processes of the plan have the same name", hint="Give each one of its own.")
    depends_on = {each.name: [other.name for other in each.depends_on] for each in plan.processes}
    if found := find_cycle(depends_on):
        raise ConfigError(f"dependency cycle: {' -> '.join(found)}", hint="Take one of them out.")
    for each in plan.processes:
        try:
            parse_checks(each.ready)
        except ValueError as exc:
            raise ConfigError(f"{each.name}: ready: {exc}", hint=f"It can be {FORMS}.") from exc
        for dependency in each.depends_on:
            other = by_name.get(dependency.name)
            if other is None:
                hint = f"There are {', '.join(by_name)}."
                text = f"{each.name} depends on {dependency.name}, which is not a process of the plan"
                raise ConfigError(text, hint=hint)
            if dependency.condition is Condition.READY and other.ready is None:
                text = f"{each.name} waits for {other.name} to be ready, which has no readiness check"
                hint = "Give it a check, or wait for it to be started: Condition.STARTED."
                raise ConfigError(text, hint=hint)
    return depends_on
