"""Decides roles of processes at run time, and what follows from a decision.

The facts about a process's sockets are collected here; `config.roles.decide` decides whenever one of them
changes. A role is final; a process that cannot get one any more is an ordinary process. The proxy is informed
when an upstream that the plan left open is decided.

Each socket of a process without a role is probed once, except those of programs that are known not to speak
HTTP (MySQL locks out clients that send nonsense, Redis logs an attack). A socket that has not answered yet
may belong to a program that is still being imported, and is waited for.

Not here: the rule (`config/roles`), the probe of a socket (`child/probe`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from orchestra.child.sockets import in_order_of_preference, likeliest
from orchestra.config.plan import UNDECIDED, Address, FromProcess, Plan, Role, UpstreamPlan, base_name
from orchestra.config.roles import FRONTENDS, NOT_HTTP, SILENT_AFTER, Facts, Seen, decide, facts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestra.proxy.rules import Side
    from orchestra.supervision.attempt import Attempt
    from orchestra.supervision.run import Run

__all__ = ["RunTimeRoles"]

# Seconds within which a server opens all of its sockets: Vite's may not be the first.
_SETTLE_TIME = 0.5
# A process that does not listen, and uses this much of a core, compiles: it gets so many seconds.
_BUSY, _BUSY_UNTIL = 0.1, 15.0
# Seconds that a matching process waits for earlier ones of the Procfile.
_PRECEDENCE = 1.0
# Seconds between two scans for a process that has not listened for half a minute: most never do, and five
# scans a second for each of twenty workers took 6 % of a core.
_LONGEST_PAUSE = 5.0


class _Questions:
    """Probes each socket of a child once, and again if it was gone meanwhile.

    Attributes:
        asked: The kind of each socket.
        answering: The sockets that have answered, by their kind.
    """

    def __init__(self, run: Run, leader: int) -> None:
        self.asked: dict[Address, Seen] = {}
        self.answering: dict[Address, Address] = {}
        self._run, self._leader = run, leader
        self._began = self._looked_at = trio.current_time()
        self._used = 0.0  # seconds of CPU time
        self._is_over = False

    @property
    def is_open(self) -> bool:
        """Whether a socket has not answered yet."""
        return Seen.NOTHING in self.asked.values()

    async def ask(self, sockets: Sequence[Address], is_wanted: Callable[[], bool]) -> Mapping[Address, Seen]:
        """Probe the sockets that have not answered yet, while that is wanted."""
        self.asked = {each: self.asked[each] for each in sockets if each in self.asked}
        for each in sockets:
            # Frontends that render on the server have unix sockets for themselves.
            if each.scheme != "unix" and is_wanted() and self.asked.get(each, Seen.NOTHING) is Seen.NOTHING:
                self.asked[each], self.answering[each] = await self._ask(each)
        return self.asked

    async def _ask(self, socket: Address) -> tuple[Seen, Address]:
        servers = await self._run.runtime.servers(self._leader, socket.port)
        if any(NOT_HTTP & each.programs for each in servers):
            return Seen.SILENT, socket
        return await self._run.runtime.probe.identify(socket)

    async def are_over(self) -> bool:
        """Whether the child has been silent for long enough: later, if it compiles."""
        now = trio.current_time()
        if not self._is_over and now - self._began >= SILENT_AFTER:
            before, members = self._used, await self._run.remains(self._leader) or ()
            self._used = sum(each.cpu for each in members)
            is_busy = self._used - before >= _BUSY * (now - self._looked_at)
            self._is_over = not is_busy or now - self._began >= _BUSY_UNTIL
        self._looked_at = now
        return self._is_over


class RunTimeRoles:
    """Decides the roles that the plan has left open; `on_decision` is called like `Proxy.decide`."""

    def __init__(self, plan: Plan, run: Run, on_decision: Callable[..., object]) -> None:
        self._facts = facts_of(plan)
        self._roles = decide(self._facts)
        self._run = run
        self._on_decision = on_decision

    async def ask_sockets(self, process: str, *, leader: int, port: int | None) -> Address | None:
        """Probe each new socket of a child, until one answers HTTP; `port` is the child's ``PORT``.

        Returns:
            The address that answers; ``None`` if the process has a role, perhaps by now, or cannot get one.
        """
        first_answer, questions = 0.0, _Questions(self._run, leader)
        newest_sockets = self._run.scanner.looking_at(leader, port, longest_pause=_LONGEST_PAUSE)
        while self.is_open(process):
            found = in_order_of_preference(await newest_sockets(), port)
            asked = await questions.ask(found, lambda: self.is_open(process))
            now = trio.current_time()
            unfit = [each for each in found if asked.get(each) is Seen.SILENT]
            likely = likeliest([each for each in found if each in asked], port, besides=unfit)
            for wanted, sockets in ((FRONTENDS, found), ((Seen.HTTP,), likely)):
                fitting = next((each for each in sockets if asked.get(each) in wanted), None)
                if fitting is None:
                    continue
                first_answer = first_answer or now
                if asked[fitting] is Seen.HTTP and now - first_answer < _SETTLE_TIME:
                    continue
                await self._note_folder(process, leader, fitting, asked[fitting])
                _, has_others = await self._run.runtime.beside(leader, fitting.port)
                is_wanted = asked[fitting] in FRONTENDS or self._roles.backend is UNDECIDED
                if has_others and not is_wanted and not await questions.are_over():
                    continue  # this server is not an upstream, but another one may be
                self.see(process, asked[fitting], also=Seen.NOTHING if has_others else Seen.SILENT)
                return questions.answering[fitting]
            if await questions.are_over() and not first_answer and not questions.is_open:
                self.see(process, Seen.SILENT)
        return None

    async def ask_beside(self, attempt: Attempt, leader: int) -> Address | None:
        """Probe the sockets beside the first server of a child, which is one upstream already.

        Returns:
            The address of the other upstream; ``None`` if the process cannot be that (any more).
        """
        process = attempt.plan.name
        questions = _Questions(self._run, leader)
        newest_sockets = self._run.scanner.looking_at(leader, longest_pause=_LONGEST_PAUSE)
        while wanted := self._wanted_beside(process):
            await newest_sockets()
            at = attempt.listening
            if at is None and Seen.HTTP in wanted:
                continue  # Which sockets Vite has started is not known.
            sockets, has_others = await self._run.runtime.beside(leader, at.port if at is not None else 0)
            found = in_order_of_preference(sockets, None)
            asked = await questions.ask(found, lambda: bool(self._wanted_beside(process)))
            fitting = next((each for each in found if asked.get(each) in wanted), None)
            if fitting is not None:
                await self._note_folder(process, leader, fitting, asked[fitting])
                self._see_beside(process, asked[fitting])
                return questions.answering[fitting]
            if not has_others or (await questions.are_over() and not questions.is_open):
                self._see_beside(process, Seen.SILENT)
        return None

    async def _note_folder(self, process: str, leader: int, at: Address, seen: Seen) -> None:
        """Publish the folder of a frontend: files that it serves are not the backend's."""
        servers = await self._run.runtime.servers(leader, at.port) if seen in FRONTENDS else ()
        if (folder := next((each.folder for each in servers if each.folder is not None), None)) is not None:
            worker = self._run.workers[process]
            plan = replace(worker.life.plan, vite_folder=folder)
            worker.follow(plan, dependents=worker.dependents)

    def _wanted_beside(self, process: str) -> Sequence[Seen]:
        """The kinds of a second socket that make a process of one upstream also the other one; or ()."""
        known, roles = self._facts.of(process), self._roles
        if known is None or known.also is None:
            return ()
        is_both = any(
            isinstance(each, FromProcess) and each.is_second and each.name == known.name
            for each in (roles.frontend, roles.backend)
        )
        is_open = is_both or UNDECIDED in (self._facts.frontend, self._facts.backend)
        if isinstance(roles.frontend, FromProcess) and roles.frontend == known.upstream:
            return (Seen.HTTP,) if is_open else ()
        return FRONTENDS if is_open and roles.backend == known.upstream else ()

    def wants_frontend_beside(self, process: str) -> bool:
        """Whether a process is the backend, and is or may be the frontend, too."""
        known = self._facts.of(process)
        is_over = known is None or known.also is Seen.SILENT
        return not is_over and self._wanted_beside(process) == FRONTENDS

    def _see_beside(self, process: str, also: Seen) -> None:
        known = self._facts.of(process)
        if (
            known is not None
            and known.also is not also
            and (also is not Seen.SILENT or known.also is Seen.NOTHING)
        ):
            self._take(self._facts.with_seen(process, known.seen, also=also))

    def is_open(self, process: str) -> bool:
        """Whether the role of a process may still be decided."""
        return self._roles.of(base_name(process)) is Role.UNDECIDED

    def has_shown_frontend(self, process: str) -> bool:
        """Whether a socket of a process, maybe of an earlier child, was found to be a frontend's."""
        shown = {each.name for each in self._facts.processes if each.seen in FRONTENDS}
        return base_name(process) in shown

    def see(self, process: str, seen: Seen, *, also: Seen | None = None) -> None:
        """Take a finding about the sockets of a process into account, `also` about its second server."""
        known = self._facts.of(process)
        if known is None or known.name not in self._roles.to_ask:
            return
        if seen is Seen.SILENT:
            self._see_beside(process, seen)
        if known.seen is not seen and (seen is not Seen.SILENT or known.seen is Seen.NOTHING):
            self._take(self._facts.with_seen(process, seen, also=also))

    def _take(self, facts: Facts) -> None:
        self._decide(facts)
        hurried = decide(replace(self._facts, waits=False))
        if (hurried.frontend, hurried.backend) != (self._roles.frontend, self._roles.backend):
            self._run.nursery.start_soon(self._decide_soon)

    async def _decide_soon(self) -> None:
        await trio.sleep(_PRECEDENCE)
        self._decide(replace(self._facts, waits=False))
        self._facts = replace(self._facts, waits=True)

    def change(self, plan: Plan) -> None:
        """Use another plan, which the workers follow already.

        Findings about sockets still count, and an upstream that was found stays if it is in the plan. A
        process that was not probed any more is restarted if its role is open again.
        """
        before, facts = self._roles, facts_of(plan).with_seen_of(self._facts)
        self._decide(facts.settled(before))
        for worker in self._run.workers.values():
            name = base_name(worker.life.plan.name)
            was_given = before.of(name) is not Role.UNDECIDED
            if was_given and self.is_open(name) and worker.life.is_alive:
                worker.restart()

    def _decide(self, facts: Facts) -> None:
        """Decide with new facts; give the processes their roles, and announce the upstreams."""
        before, found = self._roles, decide(facts)
        self._facts = facts.settled(found)
        self._roles = decide(self._facts)  # Findings are published now: fewer processes are probed.
        for worker in self._run.workers.values():
            role = self._roles.of(base_name(worker.life.plan.name))
            if worker.life.plan.role is Role.UNDECIDED and role is not Role.UNDECIDED:
                worker.take_role(role)
        wanted = "/@vite/client" if found.backend is not None else "HTTP"
        if found.frontend != before.frontend:
            reason = found.frontend_reason or f"no process has answered {wanted}"
            self._on_decision("frontend", found.frontend, reason=reason)
            if facts.frontend is UNDECIDED and (found.frontend or found.backend):
                self._announce("frontend", found.frontend, reason)
        if found.backend != before.backend:
            reason = found.backend_reason or "no process has answered HTTP"
            self._on_decision("backend", found.backend, reason=reason)
            if facts.backend is UNDECIDED:
                self._announce("backend", found.backend, reason)

    def _announce(self, side: Side, upstream: UpstreamPlan, reason: str) -> None:
        """Announce an upstream; not if that was done, or if it is not known yet."""
        run = self._run
        if isinstance(upstream, FromProcess):
            text, hint = f"the {side} is {upstream.name}: {reason}", f"If that is wrong, set [proxy] {side}."
            run.bus.notice(f"{side}-found", text, level="info", hint=hint)
        elif upstream is None and not all(each.life.is_settled for each in run.workers.values()):
            hint = f"If one of the processes is the {side}, set [proxy] {side} to its name."
            run.bus.notice(f"no-{side}", f"no {side}: {reason}", level="info", hint=hint)
