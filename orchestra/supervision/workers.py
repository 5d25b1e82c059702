"""All processes of a run: started in the order of the plan, stopped in the order of their dependencies.

The run is over when nothing runs and nothing is going to: then those that are blocked by a failed dependency
are stopped, too. It is to end earlier when the process that `exit_on` names has ended. To stop is to stop
level by level: a process goes before those that it depends on. One that takes too long does not keep the
others waiting: then the rest is stopped together.

Not here: what one process does (`worker`), the proxy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import trio

from orchestra.config.checks import FORMS, parse_checks
from orchestra.config.plan import Condition
from orchestra.config.roles import Seen
from orchestra.config.select import find_cycle, stop_levels
from orchestra.errors import ConfigError, StartError
from orchestra.events import State
from orchestra.supervision.install import Installer
from orchestra.supervision.lifecycle import culprit
from orchestra.supervision.runtime import Phase
from orchestra.supervision.symptoms import port_clash
from orchestra.supervision.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestra.config.plan import Plan
    from orchestra.supervision.lifecycle import Life
    from orchestra.supervision.runtime import Run

__all__ = ["Workers"]


class Workers:
    """The workers of a run.

    Args:
        plan: What to run.
        run: What the workers share.
        is_kept_open: Whether the run goes on when nothing runs any more because something has failed, so that
            it can be started again; ``"always"``: until it is stopped.

    Raises:
        ConfigError: The plan cannot work.

    Attributes:
        by_name: The workers, in the order of the plan.
    """

    def __init__(
        self,
        plan: Plan,
        run: Run,
        *,
        is_kept_open: bool | Literal["always"] = False,
    ) -> None:
        depends_on = _checked_dependencies(plan)
        self.by_name: dict[str, Worker] = {}
        self._run = run
        self._exit_on = plan.exit_on
        self._is_kept_open = is_kept_open
        self._levels = stop_levels(depends_on)
        self._longest = max((each.stop_timeout for each in plan.processes), default=0.0)
        self._installer = Installer(run)
        for each in plan.processes:
            self.by_name[each.name] = Worker(each, run, self._installer, self.by_name, self._changed)
        for name, others in depends_on.items():
            for other in others:
                self.by_name[other].dependents.append(self.by_name[name])
        self._active = set(self.by_name)
        self._ended: dict[str, Life] = {}
        self._clashing: set[str] = set()

    def __repr__(self) -> str:
        states = ", ".join(f"{name} {each.life.state.value}" for name, each in self.by_name.items())
        return f"<Workers: {states or 'none'}>"

    @property
    def ended(self) -> Sequence[Life]:
        """The lives of the processes that have ended by themselves, for good, in that order."""
        return tuple(self._ended.values())

    async def wait_ready(self, names: Iterable[str] | None, timeout: float) -> None:  # noqa: ASYNC109
        """Wait until processes are as far as they get; see `Supervisor.wait_ready`."""
        workers = [self.by_name[name] for name in (self.by_name if names is None else names)]

        def late() -> list[Worker]:
            # All are looked at: one that takes its time must not hide one that has failed.
            return [each for each in workers if not each.is_up()]

        with trio.move_on_after(timeout) as limit:
            await self._run.until(lambda: not late())
        if limit.cancelled_caught and (worker := next(iter(late()), None)):
            text = f"is not ready after {timeout:g} s: {worker.missing()}"
            raise StartError(worker.life.plan.name, text, tail=worker.output.tail)

    def kill(self) -> None:
        """Kill everything, and start nothing any more. Does not wait."""
        for worker in self.by_name.values():
            worker.kill()
        self._installer.kill()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all processes until the run is over."""
        run = self._run
        try:
            async with run.runtime.guard(run.id) as guard, trio.open_nursery() as run.nursery:
                run.set_guard(guard)
                for worker in self.by_name.values():
                    worker.look_at_dependencies()
                self._end_if_over()
                task_status.started()
                await run.until()
        finally:
            run.end()
            for worker in self.by_name.values():
                worker.output.close()

    async def stop(self) -> None:
        """Stop all processes, in order, and wait until none is left."""
        if self._run.phase is Phase.RUNNING:
            self._run.phase = Phase.STOPPING
            self._run.delivery.expect_end()
            await self._stop_in_order()
        await self._run.until()

    async def _stop_in_order(self) -> None:
        for worker in self.by_name.values():
            if not worker.life.is_alive or worker.life.state is State.STOPPING:
                worker.stop()
        with trio.move_on_after(self._longest):
            for names in self._levels:
                level = [self.by_name[name] for name in names]
                for worker in level:
                    worker.stop()
                with trio.move_on_after(max(each.life.plan.stop_timeout for each in level)) as limit:
                    for worker in level:
                        await self._run.until(worker.has_ended)
                if limit.cancelled_caught:
                    break
        for worker in self.by_name.values():
            worker.stop()
        self._end_if_over()

    def _changed(self, worker: Worker, before: State) -> None:
        """Take account of the change of one process, in constant time."""
        life, name = worker.life, worker.life.plan.name
        if life.state is not before:
            self._ended.pop(name, None)
            if life.state in (State.COMPLETED, State.FAILED):
                self._ended[name] = life
                if culprit(self._exit_on, self.ended) is not None:
                    self._run.ending.set()
            self._explain_clash(worker)
        if self._run.roles is not None and (life.is_settled or life.state is State.BACKING_OFF):
            self._run.roles.see(name, Seen.SILENT)
        if life.is_settled:
            self._active.discard(name)
            self._end_if_over()
        else:
            self._active.add(name)

    def _explain_clash(self, worker: Worker) -> None:
        """Say it, once, when a process has ended because a port is taken."""
        life, name = worker.life, worker.life.plan.name
        if life.state not in (State.BACKING_OFF, State.FAILED) or name in self._clashing:
            return
        if clash := port_clash(worker.output.tail, own=self._run.url, planned=life.plan.port):
            self._clashing.add(name)
            self._run.bus.notice("port-clash", clash[0], hint=clash[1], process=name)

    def _end_if_over(self) -> None:
        """End the run if nothing runs any more and nothing is going to."""
        phase = self._run.phase
        if self._active or phase is Phase.OVER or (phase is Phase.RUNNING and self._is_to_go_on()):
            return
        self._run.end()
        for worker in self.by_name.values():
            worker.stop(worker.life.reason)

    def _is_to_go_on(self) -> bool:
        if self._is_kept_open == "always":
            return True
        failed = (each.life.state in (State.FAILED, State.WAITING) for each in self.by_name.values())
        return self._is_kept_open and any(failed)


def _checked_dependencies(plan: Plan) -> Mapping[str, Sequence[str]]:
    """Say which process depends on which, by name; refuse what cannot work."""
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
