"""The roles of processes that show only at run time what they are, and what follows when that is decided.

What the sockets of a process have shown is kept as facts; `config.roles.decide` decides, each time that one
of them changes. A process that gets a role has it from then on; one that cannot get a role any more is an
ordinary process. The proxy is told when an upstream that the plan left open is decided.

Not here: the rule (`config/roles`), asking sockets (`inquiry`, `attempt`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from orchestra.config.plan import UNDECIDED, Role, base_name
from orchestra.config.roles import Seen, decide, facts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestra.config.plan import Plan, UpstreamPlan
    from orchestra.supervision.worker import Worker

__all__ = ["RunTimeRoles"]

Side = Literal["backend", "frontend"]


class RunTimeRoles:
    """Decides the roles that the plan has left open.

    Args:
        plan: What is run.
        workers: The workers of its processes.
        tell: Called with each upstream when it is decided, and why.
    """

    def __init__(
        self, plan: Plan, workers: Iterable[Worker], tell: Callable[[Side, UpstreamPlan, str], object]
    ) -> None:
        self._facts = facts_of(plan)
        self._roles = decide(self._facts)
        self._workers = tuple(workers)
        self._tell = tell

    def __repr__(self) -> str:
        return f"<RunTimeRoles: frontend {self._roles.frontend}, backend {self._roles.backend}>"

    @property
    def may_be_vite(self) -> bool:
        """Whether it is still open which process the frontend is."""
        return self._roles.frontend is UNDECIDED

    def see(self, process: str, seen: Seen) -> None:
        """Take account of what the sockets of a process have shown."""
        name = base_name(process)
        known = next((each.seen for each in self._facts.processes if each.name == name), None)
        is_news = known is not seen and (seen is not Seen.SILENT or known is Seen.NOTHING)
        if not is_news or name not in self._roles.to_ask:
            return
        before, facts = self._roles, self._facts.with_seen(process, seen)
        found = decide(facts)
        self._facts = facts.settled(found)
        self._roles = decide(self._facts)  # what is found is given now: fewer processes are asked
        for worker in self._workers:
            role = self._roles.of(base_name(worker.life.plan.name))
            if worker.life.plan.role is Role.UNDECIDED and role is not Role.UNDECIDED:
                worker.take_role(role)
        if found.frontend != before.frontend:
            reason = found.frontend_reason or "no process has answered /@vite/client"
            self._tell("frontend", found.frontend, reason)
        if found.backend != before.backend:
            self._tell("backend", found.backend, found.backend_reason or "no process has answered HTTP")
