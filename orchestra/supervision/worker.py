"""One process of the plan: the worker carries out what `lifecycle.step` orders, and reports every change.

A restart, from top to bottom: `restart` passes the request to the lifecycle; a running process becomes
`STOPPING`, and the order to stop drains the child and stops it (`Attempt.retire`). When no process of it is
left, `_run_child` reports the end to the lifecycle; the process becomes `WAITING`, its dependencies are
checked (`look_at_dependencies`), and the order to spawn starts `_run_child` again. With
`restart_mode = "overlap"` the order is to hand over instead (`handover`).

No task waits for orders: a fact leads to an order, an order to at most one task, its end to the next fact.

Not here: which order follows from which fact (`lifecycle`), processes that do not depend on this one.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import trio
from msgspec import structs

from orchestra.config.plan import ProcessPlan, Role
from orchestra.errors import OrchestraError, StartError
from orchestra.events import State, StateChanged
from orchestra.supervision.delivery import ProcessOutput, log_settings
from orchestra.supervision.failures import ProcessErrors
from orchestra.supervision.handover import Handover
from orchestra.supervision.lifecycle import Life, Order, Report, Sign, dependency_fact, step
from orchestra.supervision.runtime import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestra.supervision.attempt import Attempt
    from orchestra.supervision.install import Installation
    from orchestra.supervision.lifecycle import Fact
    from orchestra.supervision.run import Run

__all__ = ["Worker"]

# Seconds that requests in flight get before a stop, as in the proxy.
_DRAIN_TIMEOUT = 2.0
# The stop timeout of a stuck child: its clients have had their time, and requests are waiting.
_STUCK_STOP_TIMEOUT = 1.0
# The spread of the back-off: processes that ended together do not all restart in the same instant.
_JITTER = 0.1
_BY_HAND = "it is started by hand"
# The states in which the address of a listening process is known.
_LISTENS = frozenset({State.READY, State.UNHEALTHY})
# The states in which a new child would be the next one; in others, one starts or none is wanted.
_MAY_BE_RESTARTED = frozenset({State.READY, State.UNHEALTHY, State.BACKING_OFF, State.FAILED})
# The states whose reason is in its last lines.
_FAILURES = frozenset({State.BACKING_OFF, State.FAILED, State.UNHEALTHY})


class Worker:
    """Runs one process of the plan.

    Attributes:
        changed: Files that have changed for it since its last child was spawned.
        dependents: Wait for it.
        newest: The last event about it.
    """

    def __init__(self, plan: ProcessPlan, run: Run) -> None:
        self.life = (
            Life(plan=plan) if plan.autostart else Life(plan=plan, state=State.STOPPED, reason=_BY_HAND)
        )
        self.output = ProcessOutput(plan, run.delivery, run.bus)
        self.changed: set[Path] = set()
        self.dependents: Sequence[Worker] = ()
        self._run = run
        self.errors = ProcessErrors(plan, run.root, run.bus, self.output)
        self._handover = Handover(self, run)
        self._pause = trio.CancelScope()  # around a wait that can be cut short: a back-off, an installation
        self.newest = structs.replace(self._describe(State.WAITING), time=run.runtime.now())

    def __repr__(self) -> str:
        return f"<Worker of {self.life.plan.name}: {self.life.state.value}>"

    @property
    def attempt(self) -> Attempt | None:
        """Its current child, with the state of that alone; or the last one."""
        return self._handover.current

    # --- Orders from outside ---

    def stop(self, reason: str = "") -> None:
        """Stop the process. Does not wait."""
        self.handle(Report(Sign.STOP_REQUESTED, reason))
        self._handover.spares.discard()  # `run` waits for its end

    def start(self) -> None:
        """Start the process if it has ended, with dependencies that only start by hand; or `StartError`."""
        self._request(Sign.START_REQUESTED)
        for each in self.life.plan.depends_on:
            if (other := self._run.workers[each.name]).life.is_at_rest:
                other.start()

    def restart(self) -> None:
        """Stop the process if it runs, and start it again; likewise."""
        self._request(Sign.RESTART_REQUESTED)

    def expect_restart(self) -> None:
        """Prepare for a restart that is likely to come, of one of our interpreters. Does not wait."""
        plan, is_running = self.life.plan, self._run.phase is Phase.RUNNING
        if plan.app is not None and is_running and self.life.state in _MAY_BE_RESTARTED:
            self._handover.spares.expect(plan)

    def _request(self, fact: Sign) -> None:
        if self._run.phase is Phase.OVER:
            raise StartError(self.life.plan.name, "cannot be started: the run is over")
        if self._run.phase is Phase.RUNNING:
            self.handle(fact)

    def signal(self, number: int) -> None:
        """Send a signal to the group of the current child, if there is one."""
        if self.attempt is not None and self.attempt.child is not None:
            self.attempt.child.signal(number)

    async def send(self, data: bytes) -> None:
        """Write to the standard input of the current child; `OrchestraError` if it is not taken."""
        if self.attempt is None or self.attempt.child is None:
            await trio.lowlevel.checkpoint()
            raise OrchestraError(f"{self.life.plan.name} does not run: there is nothing to send input to")
        try:
            await self.attempt.child.send(data)
        except OrchestraError as exc:
            raise OrchestraError(f"{self.life.plan.name}: {exc.message}") from exc

    def kill(self) -> None:
        """Kill all children, and start no other. Does not wait."""
        self.stop()
        self._handover.kill()

    def look_at_dependencies(self) -> None:
        """Start the process, if it waits and its dependencies let it; otherwise publish what it waits for."""
        if self.life.state is State.WAITING and self._run.phase is Phase.RUNNING:
            needed, workers = self.life.plan.depends_on, self._run.workers
            self.handle(dependency_fact(needed, {each.name: workers[each.name].life for each in needed}))
        elif self.life.is_at_rest and not self.newest.seq:
            self.newest = self._run.bus.emit(self._describe(State.STOPPED))  # it exists, too

    def take_role(self, role: Role) -> None:
        """Give the process the role that was found; without one, it is probed only if others wait for it."""
        plan = structs.replace(self.life.plan, role=role)
        if role is Role.OTHER and not self.dependents:
            plan = structs.replace(plan, ready=None)
        self.follow(plan, dependents=self.dependents)

    def follow(self, plan: ProcessPlan, *, dependents: Sequence[Worker]) -> None:
        """Follow another plan from now on; a running child continues."""
        before, self.dependents = self.life.plan, dependents
        self.life = structs.replace(self.life, plan=plan)
        if not plan.warm_spare:
            self._handover.spares.discard()
        if log_settings(before) != log_settings(plan):
            self._run.nursery.start_soon(self.output.follow, plan)

    # --- Facts, and their effects ---

    def handle(self, fact: Fact) -> None:
        """Take a fact into account: carry out the resulting order, and report the change, if there is one."""
        before = self.life.state
        self.life, order = step(self.life, fact, trio.current_time())
        if order is not None:
            self._carry_out(order)
        event = self._describe(before)
        if event != structs.replace(self.newest, seq=0, time=event.time, previous=before):
            self.newest = self._run.bus.emit(event)
            self.errors.follow(self.life, before, self.attempt.symptoms if self.attempt else None)
            self._run.changed(self, before)
            self.look_at_dependencies()
            for each in self.dependents:
                each.look_at_dependencies()

    def _carry_out(self, order: Order) -> None:
        nursery = self._run.nursery
        if self.changed and order in (Order.SPAWN, Order.HAND_OVER):
            env = self._run.environment(self.life.plan, self.life.plan.port)
            sources = [each for each in self.changed if each.suffix == ".py"]
            _forget_bytecode(sources, prefix=env.get("PYTHONPYCACHEPREFIX"))
            self.changed.clear()
        match order:
            case Order.INSTALL:
                self._pause = trio.CancelScope()
                job = self._run.installer.join(self.life.plan, self.output.write)
                nursery.start_soon(self._install, job, self._pause)
            case Order.SPAWN:
                self._pause.cancel()
                self._handover.prepare(is_retry=self.life.failures > 0)
                nursery.start_soon(self._run_child)
            case Order.HAND_OVER:
                self._handover.begin()
            case Order.BACK_OFF:
                self._pause = trio.CancelScope()
                nursery.start_soon(self._back_off, self._pause)
            case Order.STOP:
                self._pause.cancel()
                self._handover.stop(drain=_DRAIN_TIMEOUT)
            case _:
                assert_never(order)

    async def _install(self, job: Installation, pause: trio.CancelScope) -> None:
        error = ""
        with pause:
            error = await job.wait()
        self._end_with(Report(Sign.START_FAILED, error) if error else Sign.INSTALLED)

    async def _back_off(self, pause: trio.CancelScope) -> None:
        with pause:
            await trio.sleep(self.life.back_off * (1 + self._run.runtime.random() * _JITTER))
            self._end_with(Sign.BACK_OFF_ENDED)

    async def _run_child(self) -> None:
        self._end_with(await self._handover.run())

    def _end_with(self, fact: Fact) -> None:
        if self._run.phase is not Phase.RUNNING and self.life.state is not State.STOPPING:
            # It has ended before its turn, and is not started again.
            self.handle(Report(Sign.STOP_REQUESTED))
        self.handle(fact)

    def learn(self, fact: Fact) -> None:
        """Handle a fact about the current child; some are also reported, or lead to a request."""
        attempt, plan = self.attempt, self.life.plan
        if fact is Sign.STUCK and self._run.phase is not Phase.RUNNING:
            return
        self.handle(fact)
        match fact:
            case Report(Sign.LATE, text) if plan.is_awaited:
                self._run.bus.notice("not-ready", text, process=plan.name)
            case Report(Sign.NO_ANSWER) if plan.restart_unhealthy:
                self.restart()
            case Sign.STUCK if attempt is not None and self.life.starts_after_stop:
                text = "its own reload does not end, or has not brought up a new server: it is restarted"
                self._run.bus.notice("reload-stuck", text, process=plan.name)
                attempt.kill_after(_STUCK_STOP_TIMEOUT)
            case _:
                pass

    # --- Queries ---

    def has_ended(self) -> bool:
        """Whether no child runs, and none is going to be started automatically."""
        return self.life.state.is_ended

    def is_up(self) -> bool:
        """Whether it is up: ready, or running without a check; `StartError` if it cannot be."""
        state, reason = self.life.state, self.life.reason
        if state in (State.FAILED, State.STOPPED) and not self.life.is_at_rest:
            text = state.predicate + (f": {reason}" if reason else "")
            raise StartError(self.life.plan.name, text, tail=self.output.tail)
        if self.life.is_settled and state is State.WAITING:
            raise StartError(self.life.plan.name, f"cannot be started: {reason}", tail=self.output.tail)
        return self.life.plan.is_up(state)

    def missing(self) -> str:
        """Say why it is not up."""
        if self.life.state is State.WAITING:
            return self.life.reason
        missing = self.attempt.readiness.in_words() if self.attempt is not None else ""
        return f"it {self.life.state.predicate}" + (f", {missing}" if missing else "")

    def _describe(self, previous: State) -> StateChanged:
        life, attempt = self.life, self.attempt
        child = attempt.child if attempt is not None else None
        found = attempt.listening if attempt is not None and life.state in _LISTENS else None
        second = attempt.second if attempt is not None and life.state is not State.STOPPING else None
        has_failed = life.ended_before_ready or life.state in _FAILURES
        return StateChanged(
            process=life.plan.name,
            state=life.state,
            previous=previous,
            pid=child.pid if child is not None else None,
            port=(found.port or None) if found is not None else None,
            url=found.url if found is not None else None,
            second_url=second.url if second is not None else None,
            restarts=life.restarts,
            exit_code=life.exit.code if life.exit is not None else None,
            signal=life.exit.signal_name if life.exit is not None else None,
            reason=life.reason,
            ready_after=life.ready_after,
            ended_before_ready=life.ended_before_ready,
            last_lines=tuple(self.output.tail) if has_failed else (),
        )


def _forget_bytecode(sources: Iterable[Path], *, prefix: str | None) -> None:
    """Have Python compile changed files: after two saves in a second it would use the first one's.

    It compares the size and the second (`importlib`, `SourceLoader.get_code`). No child is left that could
    write the first one's after this. With ``PYTHONPYCACHEPREFIX`` bytecode is below that folder.
    """
    for source in sources:
        folder = Path(prefix, *source.parent.parts[1:]) if prefix else source.parent / "__pycache__"
        pattern = re.compile(rf"{re.escape(source.stem)}\.[^.]+(\.opt-\w+|-pytest-[\w.]+)?\.pyc")
        with contextlib.suppress(OSError):
            for cached in folder.iterdir():
                if pattern.fullmatch(cached.name):
                    cached.unlink()
