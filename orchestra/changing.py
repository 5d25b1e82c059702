"""The plan that a run follows, the change to another one, and orders for the processes.

From top to bottom: `replan` reads the files again; if they are invalid, that is reported and the old plan
stays. `change` computes the difference (`supervision.difference`) and informs the proxy first, so that
requests wait for a backend whose name has changed. Then processes are stopped, restarted and started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias, assert_never

import trio
from msgspec import structs

from orchestra.errors import ConfigError, ConfigErrors, OrchestraError
from orchestra.events import PlanChanged, StateChanged
from orchestra.supervision.difference import Difference, difference, settled
from orchestra.supervision.roles import RunTimeRoles
from orchestra.supervision.run import Run, checked_dependencies
from orchestra.supervision.runtime import Phase

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Sequence

    from orchestra.bus import Bus
    from orchestra.config.plan import Plan
    from orchestra.control.local import Order, ProcessVerb
    from orchestra.development import Development
    from orchestra.events import RequestFinished, RequestHeads
    from orchestra.proxy.server import Proxy

__all__ = ["CurrentPlan", "Replan"]

# Reads the files again, for a run that follows this plan; raises `ConfigError`.
Replan: TypeAlias = "Callable[[Plan], Plan]"


class CurrentPlan:
    """The plan that a run follows; `replan` reads its files again, unless it is ``None``."""

    def __init__(self, plan: Plan, run: Run, bus: Bus, *, replan: Replan | None = None) -> None:
        self.plan = plan
        self._proxy: Proxy | None = None
        self._run = run
        self._bus = bus
        self._replan = replan
        self._turn = trio.Lock()

    def open_proxy(self, listeners: Sequence[socket.socket], development: Development | None) -> Proxy:
        """Make the proxy of the plan, and connect it with the processes; the caller runs it."""
        # A plain Procfile runner starts a third faster without this import.
        from orchestra.proxy.server import Extras, Proxy  # noqa: PLC0415

        plan, run, bus = self.plan.proxy, self._run, self._bus
        assert plan is not None  # noqa: S101 - else there are no listeners
        extras = development.extras() if development is not None else Extras()
        extras = structs.replace(extras, tail=self._tail, refused=self._look_again)
        proxy = self._proxy = Proxy(plan, listeners, bus=bus, extras=extras)
        if development is not None:
            development.proxy = proxy
        bus.subscribe(proxy.observe, StateChanged)
        run.before_stop = proxy.before_stop
        run.roles = RunTimeRoles(self.plan, run, proxy.decide)
        return proxy

    def recent_requests(self) -> list[RequestHeads | RequestFinished]:
        """Give the events of the requests that ended last, with their heads, oldest first."""
        events = list(self._proxy.recent()) if self._proxy is not None else []
        first, _ = self._bus.number(len(events))
        return [structs.replace(event, seq=seq) for seq, event in enumerate(events, first)]

    def _look_again(self, process: str) -> None:
        worker = self._run.workers.get(process)
        if worker is not None and worker.attempt is not None:
            worker.attempt.refused.unpark_all()

    def _tail(self, process: str) -> Sequence[str]:
        worker = self._run.workers.get(process)  # A new upstream may not be one of them yet.
        return tuple(worker.output.tail) if worker is not None else ()

    async def replan(self, reason: str = "") -> Collection[str]:
        """Read the files again, because those in `reason` have changed, and follow the new plan.

        Each of their problems is a `Notice` (``plan-invalid``), and the old plan stays.
        """
        async with self._turn:
            if self._replan is None or self._run.phase is not Phase.RUNNING:
                return ()
            try:
                plan = await trio.to_thread.run_sync(self._replan, self.plan, abandon_on_cancel=True)
                return await self._change(plan, reason)
            except ConfigError as exc:
                for each in exc.errors if isinstance(exc, ConfigErrors) else (exc,):
                    text = f"the old plan goes on: {each}"
                    self._bus.notice("plan-invalid", text, level="error", hint=each.hint)
                return ()

    async def change(self, plan: Plan, reason: str) -> None:
        """Follow another plan; see `Supervisor.change`."""
        async with self._turn:
            if self._run.phase is not Phase.RUNNING:
                raise OrchestraError(f"the plan cannot be changed: {self._run.phase.value}")
            await self._change(plan, reason)

    async def obey(self, do: ProcessVerb, order: Order) -> int:
        """Begin to carry out an order for processes, or `OrchestraError`; return how many it is about.

        A restart follows the files as they are now; a process that they change is not restarted twice.
        """
        if self._run.ending.is_set() and do != "send":
            raise OrchestraError("the run is ending")
        restarted = await self.replan() if do in ("start", "restart") else ()
        for name in order.processes:
            if do in ("start", "restart") and (name in restarted or name not in self._run.workers):
                continue
            worker = self._run.workers[name]
            match do:
                case "signal" if worker.newest.pid is None:
                    raise OrchestraError(f"{name} does not run: there is nothing to signal")
                case "signal":
                    worker.signal(order.signal)
                case "send":
                    await worker.send(order.text.encode())
                case "start":
                    worker.start()
                case "restart":
                    worker.restart()
                case "stop":
                    worker.stop()
                case "kill":
                    worker.kill()
                case _:
                    assert_never(do)
        return len(order.processes)

    async def _change(self, plan: Plan, reason: str) -> Collection[str]:
        checked_dependencies(plan)
        run, plan = self._run, settled(self.plan, plan)
        newest = {name: worker.newest for name, worker in run.workers.items()}
        found = difference(self.plan, plan, newest)
        if self._proxy is not None and plan.proxy is not None:
            self._proxy.change(plan.proxy, [each.name for each in plan.processes])
        await run.change(plan, found, lambda: self._adopt(plan, found, reason))
        return found.restarted

    def _adopt(self, plan: Plan, found: Difference, reason: str) -> None:
        """Publish that the plan is another one, now that its processes are there."""
        before, self.plan = self.plan, plan
        if found:
            self._bus.emit(
                PlanChanged(
                    reason=reason,
                    processes=tuple(each.name for each in plan.processes),
                    started=found.started,
                    stopped=found.stopped,
                    restarted=found.restarted,
                )
            )
        for note in plan.notes:
            if note not in before.notes:
                self._bus.notice("plan", note.text, level=note.level, hint=note.hint)
        if plan.proxy is not None and before.proxy is not None:
            words = plan.proxy.in_words()
            if words != before.proxy.in_words():
                self._bus.notice("plan", words, level="info")
        if self._run.roles is not None:
            self._run.roles.change(plan)
