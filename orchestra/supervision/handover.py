"""The children of one process: one at a time, or, in an overlap restart, an old and a new one side by side.

An overlap restart, from top to bottom: `begin` spawns a successor on another port. If it ends, is broken or
is not ready in time, it is given up, and the old child goes on. When it is ready it takes over; the old child
is drained, for 30 s at most, and stopped. If the old child ends first, the successor becomes the current
child before it is ready. In any case `run` ends when the current child has ended and no other is left.

Not here: states (`lifecycle`), a restart that stops the old child first (`worker`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from orchestra.child.families import with_mark
from orchestra.supervision.attempt import Attempt
from orchestra.supervision.lifecycle import Ended, Report, Sign, TakenOver
from orchestra.supervision.spare import Spares

if TYPE_CHECKING:
    from orchestra.config.plan import ProcessPlan
    from orchestra.supervision.lifecycle import Fact
    from orchestra.supervision.run import Run
    from orchestra.supervision.worker import Worker

__all__ = ["Handover"]

# Seconds for the old child to finish: only the clients that it still serves wait for it.
_DRAIN_TIMEOUT = 30.0


class Handover:
    """Runs the children of a worker's process; `current` is the one that counts, or the last that did.

    The worker learns each fact about the current child, except its end.
    """

    def __init__(self, worker: Worker, run: Run) -> None:
        self.current: Attempt | None = None
        self.spares = Spares(run, worker.output)
        self._worker = worker
        self._run = run
        self._successor: Attempt | None = None
        self._living: set[Attempt] = set()
        self._nursery: trio.Nursery

    @property
    def _plan(self) -> ProcessPlan:
        return self._worker.life.plan

    def prepare(self, *, is_retry: bool) -> None:
        """Make the child that `run` spawns, after a failure or not (`is_retry`); now it can be stopped."""
        port = self._plan.port if self.current is None else self._next_port()
        self.current = self._new_attempt(port, is_retry=is_retry)

    def _next_port(self) -> int | None:
        """The port for a child after the first; another program may have taken the first one."""
        wanted = self._plan.port
        if wanted is None or not self._plan.may_move:
            return wanted
        port = self._run.runtime.free_port(wanted, besides=None)
        if port != wanted:
            text = f"port {wanted} is taken; PORT is {port} now"
            self._run.bus.notice("port-moved", text, process=self._plan.name)
        return port

    async def run(self) -> Ended | Report:
        """Run the prepared child and its successors, until all have ended; return the last one's exit."""
        assert self.current is not None  # noqa: S101 - by `prepare`
        async with trio.open_nursery() as self._nursery:
            self._nursery.start_soon(self._live, self.current)
        await self.spares.until_gone()
        return self.current.end

    async def _live(self, attempt: Attempt) -> None:
        try:
            await attempt.run()
        finally:
            self._living.discard(attempt)
        if attempt is self._successor:
            how = attempt.end
            self._give_up(attempt, str(how.exit) if isinstance(how, Ended) else how.text)
        elif attempt is self.current and self._successor is not None:
            self.current, self._successor = self._successor, None
            text = "the old one has ended before the new one was ready"
            self._worker.learn(Report(Sign.RELOADING, text))
        elif attempt is self.current and self._living:
            # Its predecessors may hold the port that the next one wants.
            self._worker.learn(Sign.GONE)
            self._stop_others()

    def begin(self) -> None:
        """Spawn a successor of the current child. Does not wait."""
        if self.current not in self._living:
            return  # it has just ended, which will be reported
        if self._successor is not None:
            self._successor.kill()  # it runs an old version already
        port = self._run.runtime.free_port(self._plan.port, besides=self.current.port)
        self._successor = self._new_attempt(port)
        self._nursery.start_soon(self._live, self._successor)

    def _give_up(self, attempt: Attempt, why: str) -> None:
        """Kill a successor that does not become ready; the old child goes on."""
        self._successor = None
        attempt.kill()
        explanation = attempt.symptoms.explanation()
        why += f": {explanation}" if explanation else ""
        text = f"the new version does not come up: {why}; the old one goes on serving"
        hint = "Its command has to listen on $PORT." if attempt.symptoms.port_is_taken else ""
        self._run.bus.notice("overlap-failed", text, hint=hint, process=self._plan.name)
        exit_ = str(attempt.end.exit) if isinstance(attempt.end, Ended) else ""
        self._worker.errors.show_end(exit_, attempt.symptoms)

    def _take_over(self, attempt: Attempt) -> None:
        """Make a ready successor the current child, and stop the old one when it is drained."""
        old, self.current, self._successor = self.current, attempt, None
        self._worker.learn(TakenOver(trio.current_time() - attempt.spawned_at))
        if old is not None:
            old.retire(_DRAIN_TIMEOUT)

    def stop(self, *, drain: float) -> None:
        """Stop all children, the current one when it is drained, after `drain` seconds at most."""
        self._stop_others()
        if self.current is not None:
            self.current.retire(drain)

    def _stop_others(self) -> None:
        """Stop all children but the current one: a successor, and those that are being drained."""
        self._successor = None
        for attempt in self._living - {self.current}:
            attempt.stop()

    def kill(self) -> None:
        """Kill all children. Does not wait."""
        self._successor = None
        for attempt in self._living:
            attempt.kill()

    def _new_attempt(self, port: int | None, *, is_retry: bool = False) -> Attempt:
        plan, spawn = self._plan, None
        env = self._run.environment(plan, port)
        if plan.app is not None:
            spawn = partial(self.spares.serve, plan, is_retry=is_retry)
        elif plan.restart_mode == "overlap":
            env = with_mark(env)
        attempt = Attempt(self._worker, self._run, env=env, port=port, on_fact=self._learn, spawn=spawn)
        self._living.add(attempt)
        return attempt

    def _learn(self, attempt: Attempt, fact: Fact) -> None:
        if attempt is self.current:
            self._worker.learn(fact)
        elif attempt is self._successor:
            match fact:
                case Sign.READY:
                    self._take_over(attempt)
                case Report(Sign.BROKEN):
                    self._give_up(attempt, "it is broken")
                case Report(Sign.LATE, text):
                    self._give_up(attempt, f"it is {text}")
                case _:
                    pass
