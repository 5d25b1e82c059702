"""One child of a process, from its spawn to its end: its readiness, its own reloads, its health.

A process of the plan has one child after the other, and for a moment two at once when a new one is to take
over (`handover`). An `Attempt` is one of them. It has the state of that child alone, and reports facts.

A backend that reloads itself starts again without ending. Its output announces that (`symptoms`), or the
processes that held its listening socket end. It is ready again when one of those has ended, or a new server
has logged its start, and HTTP answers: the old server may go on answering for a while. A reload that does not
finish, as uvicorn's while a client is still connected, is reported as stuck. When only a watcher is left that
waits for a file to change (`child/remains`), the program is broken until it listens again.

Not here: states and what follows from them (`lifecycle`), other children (`handover`).
"""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import trio
from trio.lowlevel import ParkingLot

from orchestra.child.readiness import Readiness
from orchestra.child.remains import TreeHistory
from orchestra.child.spawn import Child, SpawnError
from orchestra.config.plan import Address, ProcessPlan, Role
from orchestra.config.roles import Seen
from orchestra.supervision.lifecycle import Ended, Report, Sign
from orchestra.supervision.runtime import Stoppable, run_command
from orchestra.supervision.spare import how_to_spawn
from orchestra.supervision.symptoms import Symptoms, named_ports, port_clash, unseen_socket
from orchestra.supervision.tracebacks import Failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from orchestra.child.table import Entry
    from orchestra.events import Exit, StreamName
    from orchestra.supervision.lifecycle import Fact
    from orchestra.supervision.run import Run
    from orchestra.supervision.worker import Worker

__all__ = ["Attempt"]

# Seconds between two probes of a ready process, and how many in a row may fail.
_HEALTH_PAUSE = 2.0
_MAX_FAILURES = 3
# A reload whose old server has not ended by then is stuck: its clients have had their time, and requests are
# held for three times as long.
_RELOAD_TIMEOUT = 5.0
# Pauses between checks whether the old server, or a ready one, still lives; a check costs microseconds.
_RELOAD_PAUSE = 0.02
_SERVERS_PAUSE = 0.25
# Pauses between checks of the processes that are left of a starting child: first short, as a program may end
# at once.
_FIRST_LOOK_PAUSE = 0.05
_LONGEST_LOOK_PAUSE = 0.5
# The pause for a child that need not be a server: twenty workers that run for hours need no frequent checks.
_LONGEST_IDLE_PAUSE = 5.0
# Seconds without a socket after which a notice gives the probable reason.
_UNSEEN_AFTER = 5.0
# The wait after a server has ended, or has found its port taken: its parent, or its predecessor, may be
# ending, too, and then there is nothing to report.
_LINGER = 0.3
# Seconds for the probe that distinguishes a stuck server from one that only announced a reload.
_STUCK_PROBE_TIMEOUT = 1.0


class Attempt(Stoppable):
    """One child of a process.

    Args:
        port: Its ``PORT``.
        on_fact: Called with each fact about it, except its end.
        spawn: Spawns it; by default `Run.spawn`.

    Attributes:
        listening: The address where it listens, while it is ready.
        second: The address of its second server, if it is both upstreams.
        is_second_followed: Whether that is looked for, or was found.
        readiness: Its readiness checks since the spawn or the last reload.
        refused: Tasks that wait until a connection to its address is refused.
    """

    def __init__(
        self,
        worker: Worker,
        run: Run,
        *,
        env: Mapping[str, str],
        port: int | None,
        on_fact: Callable[[Attempt, Fact], object],
        spawn: Callable[..., Awaitable[Exit]] | None,
    ) -> None:
        super().__init__(run, spawn)
        self.port = port
        self.spawned_at = 0.0
        self.listening: Address | None = None
        self.end: Ended | Report = Report(Sign.START_FAILED, "cancelled")
        self._env = env
        self._worker = worker
        self._on_fact = partial(on_fact, self)
        # Its output counts from its first line on.
        self.readiness = self._new_readiness()
        self.symptoms = Symptoms(self.plan.command, (str(self.plan.cwd), run.root))
        # The processes that accepted connections when it was ready last, and their address.
        self._servers: frozenset[Entry] = frozenset()
        self._served_at: Address | None = None
        self.refused = ParkingLot()
        self.second: Address | None = None
        self.is_second_followed = False
        self._tree = TreeHistory()
        self._was_announced = True  # its start: the spawn, or the announcement of a reload
        self._phase = trio.CancelScope()  # between two reloads
        self._nursery: trio.Nursery  # exists while there is a child; its tasks end with that

    def __repr__(self) -> str:
        return f"<Attempt of {self.plan.name}: {self.child}, at {self.listening}>"

    @property
    def plan(self) -> ProcessPlan:
        """The current plan of its process."""
        return self._worker.life.plan

    def retire(self, limit: float) -> None:
        """Stop the child when it serves no client any more, after `limit` seconds at most."""
        if self.child is None:
            self.stop()
        else:
            self._nursery.start_soon(self._drain_and_stop, limit)

    async def _drain_and_stop(self, limit: float) -> None:
        if (drain := self._run.before_stop) is not None:
            with trio.move_on_after(limit):
                await drain(self.plan.name)
        self.stop()

    def kill_after(self, seconds: float) -> None:
        """Kill the child if it has not ended by then. Does not wait."""
        self._nursery.start_soon(_later, seconds, self.kill)

    async def run(self) -> None:
        """Run it to its end; call `end` with its exit."""
        if self.is_ending:
            return
        plan = self.plan
        async with trio.open_nursery() as self._nursery:
            try:
                how = await self.run_child(
                    plan.in_shell(plan.command),
                    on_spawn=self._spawned,
                    on_output=partial(self._worker.output.write, see=self._see),
                    env=self._env,
                    **how_to_spawn(plan, self._run),
                )
                self.end = await self._ended(how)
            except SpawnError as exc:
                self.end = Report(Sign.START_FAILED, exc.message)
            finally:
                self.listening = self.second = None
            self._nursery.cancel_scope.cancel()

    async def _ended(self, how: Exit) -> Ended:
        """Explain how it ended, and why, as far as its output and the ports show."""
        self._worker.output.end_child()
        symptoms = self.symptoms
        has_raised = symptoms.failure is not None
        if how.signal is not None or self.is_ending:
            return Ended(how, has_raised=has_raised)  # The last output of a killed process is not the reason.
        if how.code in (126, 127):
            return Ended(how, symptoms.shell_error(), has_raised)
        if how.code:
            symptoms.clash = await _find_clash(self._run, self.plan, symptoms.last_lines)
        return Ended(how, symptoms.explanation(), has_raised, is_hopeless=symptoms.clash is not None)

    def _spawned(self, child: Child) -> None:
        self.spawned_at = trio.current_time()
        self._worker.output.begin_child()
        self._on_fact(Sign.SPAWNED)
        if self.is_ending:
            return
        if self.plan.ready is not None:
            self._nursery.start_soon(self._monitor, child.pid)
        elif self.plan.on_ready is not None:
            self._nursery.start_soon(self._run_on_ready, self.plan.on_ready)

    def _see(self, stream: StreamName, lines: Sequence[str], unfinished: str) -> None:
        self.readiness.see([*lines, unfinished] if unfinished else lines)
        now = trio.current_time()
        for found in self.symptoms.read(stream, lines, now):
            match found:
                case Report(Sign.RELOADING, reason) if self._may_reload:
                    self._begin_reload(reason, was_announced=True)
                case Failure() as failure if self.listening is not None:
                    self._worker.errors.log(failure, now)
                case _:
                    pass

    @property
    def _may_reload(self) -> bool:
        return self.plan.ready is not None and self.plan.role in (Role.BACKEND, Role.UNDECIDED)

    def _new_readiness(self) -> Readiness:
        plan, roles = self.plan, self._run.roles
        has_shown = roles is not None and roles.has_shown_frontend(plan.name)
        # The command of a check is not of the child's family: it is not waited for when the child has ended.
        env = {**self._env, "ORCHESTRA_PROCESS": f"{self.plan.name}:ready"}
        return Readiness(
            self.plan,
            env=env,
            port=self.port,
            needs_vite=plan.role is Role.FRONTEND and (has_shown or plan.vite_folder is not None),
            avoids_vite=roles is not None and partial(roles.wants_frontend_beside, plan.name),
            probe=self._run.runtime.probe,
            servers=self._run.runtime.servers,
        )

    # --- From the spawn to readiness, and through reloads ---

    async def _monitor(self, leader: int) -> None:
        while True:
            with trio.CancelScope() as self._phase:
                await self._come_up(leader)
                await self._stay_up(leader)
            await self._until_old_server_is_gone()

    async def _come_up(self, leader: int) -> None:
        """Wait until it is ready; report that, or why it cannot become ready."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_when_late)
            nursery.start_soon(self._report_if_unseen)
            if self._may_reload:
                nursery.start_soon(self._look_for_trouble, leader)
            found, roles = None, self._run.roles
            if self.plan.role is Role.UNDECIDED and roles is not None:
                found = await roles.ask_sockets(self.plan.name, leader=leader, port=self.port)
            if self.plan.ready is None:
                await trio.sleep_forever()  # it cannot be an upstream any more
            self._nursery.start_soon(_follow_second, self, self._run, leader, self._on_fact)
            if found is None:
                await self.readiness.wait(leader, self._run.scanner)
                found = self.readiness.listening
            nursery.cancel_scope.cancel()
        self.listening = self._served_at = found
        self._on_fact(Sign.READY)

    async def _stay_up(self, leader: int) -> None:
        async with trio.open_nursery() as nursery:
            if self.plan.on_ready is not None:
                nursery.start_soon(self._run_on_ready, self.plan.on_ready)
            if self.plan.liveness:
                nursery.start_soon(self._watch_health)
            if self._may_reload and self.listening is not None:
                nursery.start_soon(self._watch_servers, leader, self.listening.port)
            if self.listening is not None:
                nursery.start_soon(self._watch_address, leader, self.listening)
            await trio.sleep_forever()

    def _begin_reload(self, reason: str, *, was_announced: bool, since: float = inf) -> None:
        """Take note of a reload; output after `since` is the new server's."""
        self._was_announced = was_announced
        self.listening = None
        self.readiness = self._new_readiness()
        self.symptoms.forget(since)
        self._on_fact(Report(Sign.RELOADING, reason))
        self._phase.cancel()

    async def _until_old_server_is_gone(self) -> None:
        """Wait until a reload has replaced the old server; report it as stuck if that does not happen."""
        began = trio.current_time()
        is_alive, servers = self._run.runtime.is_alive, self._servers
        while servers and all(map(is_alive, servers)) and not self.symptoms.new_server_seen:
            now = trio.current_time()
            if self.symptoms.error and self.symptoms.is_silent(began, now):
                return  # The reload is over for now: there is no server that could answer.
            if now - began >= _RELOAD_TIMEOUT:
                ask, last = self._run.runtime.probe.http_answer, self._served_at
                if last is None or (await ask(last, within=_STUCK_PROBE_TIMEOUT)).missing:
                    self._on_fact(Sign.STUCK)
                    await trio.sleep_forever()  # it is restarted
                return  # the reload was only announced
            await trio.sleep(_RELOAD_PAUSE)

    async def _look_for_trouble(self, leader: int) -> None:
        """Report a watcher whose program has ended, or output that ends with an exception."""
        began, pause, found = trio.current_time(), _FIRST_LOOK_PAUSE, None
        while self._may_reload and found is not Sign.STUCK:
            is_alone = self._tree.is_watcher_alone(await self._run.remains(leader) or (), trio.current_time())
            is_looping = self._tree.is_loop and self.symptoms.repeats_itself
            if is_looping or self.symptoms.is_silent(began, trio.current_time()):
                found = self._diagnose(is_alone=is_alone or is_looping)
            await trio.sleep(pause)
            is_likely = self.plan.role is not Role.UNDECIDED
            pause = min(pause * 1.2, _LONGEST_LOOK_PAUSE if is_likely else _LONGEST_IDLE_PAUSE)

    def _diagnose(self, *, is_alone: bool) -> Report | Literal[Sign.STUCK] | None:
        """Report that the child cannot become ready, if so; one without a role need not be a server."""
        roles, name = self._run.roles, self.plan.name
        found = self.symptoms.diagnose(is_alone=is_alone, was_announced=self._was_announced)
        if found is not None and roles is not None and roles.is_open(name):
            seen, also = (Seen.HTTP, Seen.NOTHING) if self.symptoms.watches else (Seen.SILENT, None)
            roles.see(name, seen, also=also)
            found = None if roles.is_open(name) else found
        if found is not None and self._may_reload:
            self._on_fact(found)
        return found

    # --- While it is ready ---

    async def _watch_servers(self, leader: int, port: int) -> None:
        """Notice an unannounced reload: the processes that held the listening socket have ended."""
        runtime = self._run.runtime
        servers = self._servers = frozenset(each.entry for each in await runtime.servers(leader, port))
        if not servers:
            return
        self._tree.note_parents(each.parent for each in servers)
        self._tree.note_served(await self._run.remains(leader) or (), {each.pid for each in servers})
        alive_at = trio.current_time()
        while any(map(runtime.is_alive, servers)):
            alive_at = trio.current_time()
            await trio.sleep(_SERVERS_PAUSE)
        await trio.sleep(_LINGER)
        self._begin_reload("its server process has ended", was_announced=False, since=alive_at)

    async def _watch_address(self, leader: int, at: Address) -> None:
        """Look for its socket again when a connection was refused: it may have moved, or may come back."""
        await _until_gone(self._run, leader, at, self.refused)
        self._servers = frozenset()  # whichever process it was
        self._begin_reload(f"nothing listens at {at.place} any more", was_announced=False, since=-inf)

    async def _watch_health(self) -> None:
        failures = 0
        while True:
            await trio.sleep(_HEALTH_PAUSE)
            missing = await self.readiness.ask_again()
            failures = failures + 1 if missing else 0
            if not missing:
                self._on_fact(Sign.READY)
            elif failures == _MAX_FAILURES:
                self._on_fact(Report(Sign.NO_ANSWER, missing))

    async def _report_when_late(self) -> None:
        await trio.sleep(self.plan.ready_timeout)
        self._worker.output.end_child()  # if it is silent, the last child's end does not explain that
        text = f"not ready after {self.plan.ready_timeout:g} s: {self.readiness.in_words()}"
        self._on_fact(Report(Sign.LATE, text))

    async def _report_if_unseen(self) -> None:
        await trio.sleep(_UNSEEN_AFTER)
        if self.readiness.sees_no_socket and (unseen := unseen_socket(self.plan.command)):
            self._run.bus.notice("socket-unseen", unseen[0], hint=unseen[1], process=self.plan.name)

    async def _run_on_ready(self, command: str) -> None:
        """Run the `on_ready` command; it ends with the child at the latest."""
        url = {"ORCHESTRA_READY_URL": self.listening.url} if self.listening is not None else {}
        write, env = self._worker.output.write, {**self._env, **url}
        if error := await run_command(self._run, self.plan, command, "on_ready", env=env, on_output=write):
            text = f"on_ready `{command}`: {error}"
            self._run.bus.notice("on-ready-failed", text, process=self.plan.name)


async def _follow_second(attempt: Attempt, run: Run, leader: int, on_fact: Callable[[Fact], object]) -> None:
    """Find the second server of a child that is both upstreams, and again when it has moved.

    `roles` decides whether there is one, or may be.
    """
    if run.roles is None or attempt.is_second_followed:
        return
    attempt.is_second_followed = True
    while (found := await run.roles.ask_beside(attempt, leader)) is not None:
        attempt.second = found
        on_fact(Sign.MOVED)
        await _until_gone(run, leader, found, attempt.refused)
        attempt.second = None
        on_fact(Sign.MOVED)
    attempt.is_second_followed = False


async def _until_gone(run: Run, leader: int, at: Address, refused: ParkingLot) -> None:
    """Wait until a connection is refused, and no process of the tree of `leader` listens there any more."""
    while True:
        await refused.park()
        await trio.sleep(_LINGER)
        found = await run.scanner.looking_at(leader)()
        if not any((each.host, each.port) == (at.host, at.port) for each in found):
            return


async def _find_clash(run: Run, plan: ProcessPlan, lines: Sequence[str]) -> str | None:
    """Find the port that a process with these last lines could not get; ``None`` if it may next time."""
    if (named := named_ports(lines)) is None:
        return None
    await trio.sleep(_LINGER)  # Its predecessor may still be ending.
    ours = {each.newest.port: name for name, each in run.workers.items()}
    holders = {port: held for port in named if (held := ours.get(port) or await run.runtime.holder(port))}
    own = urlsplit(run.url or "").port
    if (clash := port_clash(lines, own=own, planned=plan.port, holders=holders)) is None:
        return None
    run.bus.notice("port-clash", clash[0], hint=clash[1], process=plan.name)
    return clash[0]


async def _later(seconds: float, act: Callable[[], object]) -> None:
    await trio.sleep(seconds)
    act()
