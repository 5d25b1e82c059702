"""The roles of processes that show only at run time what they are, and what follows when that is decided.

What the sockets of a process have shown is kept as facts; `config.roles.decide` decides, each time that one
of them changes. A process that gets a role has it from then on; one that cannot get a role any more is an
ordinary process. The proxy is told when an upstream that the plan left open is decided.

Each socket of a process without a role is asked once, but never that of a program that is known not to speak
HTTP (MySQL locks out clients that talk nonsense, Redis logs an attack); one that has not answered yet may be
importing its program, and is waited for.

Not here: the rule (`config/roles`), the question that a socket is asked (`inquiry`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from orchestra.child.sockets import in_order_of_preference, likeliest
from orchestra.config.plan import UNDECIDED, Address, FromProcess, Plan, Role, UpstreamPlan, base_name
from orchestra.config.roles import FRONTENDS, NOT_HTTP, SILENT_AFTER, Facts, Seen, decide, facts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.proxy.rules import Side
    from orchestra.supervision.run import Run

__all__ = ["RunTimeRoles"]

# A server that has several sockets opens them within this time: Vite's may not be the first.
_SETTLE_TIME = 0.5
# One that does not listen yet, and uses so much of a core, is waited for until then (seconds): it compiles.
_BUSY, _BUSY_UNTIL = 0.1, 15.0
# Seconds that a process which has shown what is looked for waits for earlier ones of the Procfile.
_PATIENCE = 1.0
# Seconds between two looks at a process that has not listened for half a minute: most never do, and five
# looks a second at each of twenty workers took 6 % of a core.
_LONGEST_PAUSE = 5.0


class RunTimeRoles:
    """Decides the roles that the plan has left open; `tell` is told of each, as `Proxy.decide` is."""

    def __init__(self, plan: Plan, run: Run, tell: Callable[..., object]) -> None:
        self._facts = facts_of(plan)
        self._roles = decide(self._facts)
        self._run = run
        self._tell = tell

    async def ask_sockets(self, process: str, *, leader: int, port: int | None) -> Address | None:
        """Ask each new socket of a child, until one answers HTTP; the child's ``PORT`` says `port`.

        Returns:
            Where it answers; ``None`` if its process has a role, perhaps by now, or cannot get one any more.
        """
        began, first_answer = trio.current_time(), 0.0
        looked_at, used, is_settled = began, 0.0, False  # seconds of CPU time
        asked: dict[Address, Seen] = {}
        answering: dict[Address, Address] = {}  # by what is spoken there
        newest_sockets = self._run.scanner.looking_at(leader, port, longest_pause=_LONGEST_PAUSE)
        while self.is_open(process):
            found = [
                each
                for each in in_order_of_preference(await newest_sockets(), port)
                if each.scheme != "unix"  # frontends that render on the server have some for themselves
            ]
            for each in found:
                if self.is_open(process) and asked.get(each, Seen.NOTHING) is Seen.NOTHING:
                    asked[each], answering[each] = await self._ask(each, leader)
            now = trio.current_time()
            unfit = [each for each in found if asked.get(each) is Seen.SILENT]
            likely = likeliest(found, port, besides=unfit)
            for wanted, sockets in ((FRONTENDS, found), ((Seen.HTTP,), likely)):
                fitting = next((each for each in sockets if asked.get(each) in wanted), None)
                if fitting is None:
                    continue
                first_answer = first_answer or now
                if asked[fitting] is Seen.HTTP and now - first_answer < _SETTLE_TIME:
                    continue
                self.see(process, asked[fitting])
                return answering[fitting]
            waits = first_answer or is_settled or Seen.NOTHING in asked.values()
            if now - began >= SILENT_AFTER and not waits:
                before, used = used, sum(each.cpu for each in await self._run.remains(leader) or ())
                is_settled = now - began >= _BUSY_UNTIL or used - before < _BUSY * (now - looked_at)
                if is_settled:
                    self.see(process, Seen.SILENT)
            looked_at = now
        return None

    async def _ask(self, socket: Address, leader: int) -> tuple[Seen, Address]:
        if NOT_HTTP & await self._run.runtime.programs(leader, socket.port):
            return Seen.SILENT, socket
        return await self._run.runtime.identify(socket)

    def is_open(self, process: str) -> bool:
        """Whether it may still turn out what a process is."""
        return self._roles.of(base_name(process)) is Role.UNDECIDED

    def has_shown_frontend(self, process: str) -> bool:
        """Whether a socket of a process, maybe of an earlier child, was found to be a frontend's."""
        shown = {each.name for each in self._facts.processes if each.seen in FRONTENDS}
        return base_name(process) in shown

    def see(self, process: str, seen: Seen) -> None:
        """Take account of what the sockets of a process have shown."""
        name = base_name(process)
        known = next((each.seen for each in self._facts.processes if each.name == name), None)
        is_news = known is not seen and (seen is not Seen.SILENT or known is Seen.NOTHING)
        if not is_news or name not in self._roles.to_ask:
            return
        self._decide(self._facts.with_seen(process, seen))
        hurried = decide(replace(self._facts, waits=False))
        if (hurried.frontend, hurried.backend) != (self._roles.frontend, self._roles.backend):
            self._run.nursery.start_soon(self._decide_soon)

    async def _decide_soon(self) -> None:
        await trio.sleep(_PATIENCE)
        self._decide(replace(self._facts, waits=False))
        self._facts = replace(self._facts, waits=True)

    def change(self, plan: Plan) -> None:
        """Go on with another plan, which the workers follow already.

        What the sockets of a process have shown still counts, and an upstream that was found stays if it is
        in the plan. A process that was asked no more is restarted if its role is open again.
        """
        before, facts = self._roles, facts_of(plan).with_seen_of(self._facts)
        self._decide(facts.settled(before))
        for worker in self._run.workers.values():
            name = base_name(worker.life.plan.name)
            was_given = before.of(name) is not Role.UNDECIDED
            if was_given and self.is_open(name) and worker.life.is_alive:
                worker.restart()

    def _decide(self, facts: Facts) -> None:
        """Decide by other facts; give the roles that follow to the processes, and tell of the upstreams."""
        before, found = self._roles, decide(facts)
        self._facts = facts.settled(found)
        self._roles = decide(self._facts)  # what is found is given now: fewer processes are asked
        for worker in self._run.workers.values():
            role = self._roles.of(base_name(worker.life.plan.name))
            if worker.life.plan.role is Role.UNDECIDED and role is not Role.UNDECIDED:
                worker.take_role(role)
        wanted = "/@vite/client" if found.backend is not None else "HTTP"
        if found.frontend != before.frontend:
            reason = found.frontend_reason or f"no process has answered {wanted}"
            self._tell("frontend", found.frontend, reason=reason)
            if facts.frontend is UNDECIDED and (found.frontend or found.backend):
                self._announce("frontend", found.frontend, reason)
        if found.backend != before.backend:
            reason = found.backend_reason or "no process has answered HTTP"
            self._tell("backend", found.backend, reason=reason)
            if facts.backend is UNDECIDED:
                self._announce("backend", found.backend, reason)

    def _announce(self, side: Side, upstream: UpstreamPlan, reason: str) -> None:
        """Say what an upstream has turned out to be; nothing if it is over, or not known yet."""
        run = self._run
        if isinstance(upstream, FromProcess):
            text, hint = f"the {side} is {upstream.name}: {reason}", f"If that is wrong, set [proxy] {side}."
            run.bus.notice(f"{side}-found", text, level="info", hint=hint)
        elif upstream is None and not all(each.life.is_settled for each in run.workers.values()):
            hint = f"If one of the processes is the {side}, set [proxy] {side} to its name."
            run.bus.notice(f"no-{side}", f"no {side}: {reason}", level="info", hint=hint)
