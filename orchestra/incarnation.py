"""One child of a process while it lives: is it ready, does it reload by itself, is it well?

Strategy. A process of the plan has one child after the other, and for a moment two at once, when a new one
is to take over from an old one (`restart_mode = "overlap"`). An `Incarnation` is one of them, with all that
is known of it alone; facts about it go to whoever keeps the process, who knows whether it is the one that
counts.

A backend that reloads by itself begins its life anew without ending it. That is noticed by what it says
(`reloading.py`), or by the end of the processes that held its listening socket. It is ready again when one of
those has ended, or a new one has introduced itself, and HTTP answers: the old one may go on answering for a
while. A reload that gets stuck, as uvicorn's does while somebody is still connected, is said, and ended.

Never here: states and what follows from them (`lifecycle.py`), other processes (`supervisor.py`).
"""

from __future__ import annotations

import signal
from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio

from orchestra.child import probe, sockets, table
from orchestra.child.readiness import Readiness
from orchestra.child.spawn import SpawnError
from orchestra.config.plan import Role
from orchestra.lifecycle import Answered, Broken, Ended, NotSpawned, Reloading, Silent, Spawned
from orchestra.reloading import IN_USE, Trouble, has_started_anew, reloader, reloads, watches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from orchestra.child.sockets import SocketScanner
    from orchestra.child.spawn import Child, OnOutput, Window
    from orchestra.config.plan import ProcessPlan
    from orchestra.events import Exit
    from orchestra.lifecycle import Fact

__all__ = ["Incarnation", "Surroundings"]

# How often somebody who is ready is asked whether it still is, and how often in a row it may fail to be.
_HEALTH_PAUSE = 2.0
_MOST_SILENCES = 3
# A server that wants to reload and has not let go of the old one by then is stuck: whoever it still served
# has had its time, and requests are held for three times as long.
_RELOAD_LIMIT = 5.0
# Looking whether some processes still live costs some microseconds.
_TURN_PAUSE = 0.02
_SERVERS_PAUSE = 0.25
# It has ended, and what it belongs to may be ending, too: then there is nothing to say.
_LAST_MOMENT = 0.3
# Somebody whose last words are an exception and who has been silent for so long is not going to come up.
_SPEECHLESS = 0.7
# What is kept of what it says.
_TAIL = 20
# One quick question; whoever is stuck does not answer it.
_QUICK_ANSWER = 1.0


class Surroundings(Protocol):
    """What an incarnation is surrounded by."""

    scanner: SocketScanner

    async def run_child(
        self,
        command: str,
        *,
        on_spawn: Callable[[Child], object] = ...,
        on_output: OnOutput,
        **how: object,
    ) -> Exit:
        """Run a child to its end."""
        ...

    def notice(self, process: str, code: str, text: str, hint: str = "") -> None:
        """Say something about a process."""
        ...


class Incarnation:
    """One child of a process.

    Args:
        plan: Of the process.
        env: The child's environment.
        port: What its ``PORT`` says.
        surroundings: Who runs children and looks for sockets.
        on_output: Awaited with what it writes.
        on_fact: Called with each fact about it; what it returns says whether it may go on.
        on_stuck: Called when its own reload does not end.

    Attributes:
        child: While there is one.
        spawned_at: When it was spawned.
        listening: Where it listens, while it is ready.
        end: How it ended, once it has.
        ended: Is set then.
    """

    def __init__(
        self,
        plan: ProcessPlan,
        *,
        env: Mapping[str, str],
        port: int | None,
        surroundings: Surroundings,
        on_output: Callable[[Incarnation], OnOutput],
        on_fact: Callable[[Incarnation, Fact], bool],
        on_stuck: Callable[[Incarnation], object],
    ) -> None:
        self.plan = plan
        self.port = port
        self.child: Child | None = None
        self.spawned_at = 0.0
        self.listening: sockets.Listening | None = None
        self.end: Fact | None = None
        self.ended = trio.Event()
        self._env = env
        self._surroundings = surroundings
        self._on_output = on_output(self)
        self._on_fact = on_fact
        self._on_stuck = on_stuck
        # What it writes counts from its first line on.
        self._readiness = self._new_readiness()
        self._was_listening: sockets.Listening | None = None
        self._servers: frozenset[table.Entry] = frozenset()
        self._trouble = Trouble()
        self._last_line_at = 0.0
        self._tail: deque[str] = deque(maxlen=_TAIL)
        self._reloader: int | None = None
        self._watches = "hmr" in plan.command
        self._is_unannounced = False
        self._has_started_anew = False
        self._attending: trio.CancelScope | None = None

    def __repr__(self) -> str:
        return f"<Incarnation of {self.plan.name}: {self.child}, at {self.listening}>"

    @property
    def _may_reload(self) -> bool:
        return self.plan.ready is not None and self.plan.role in (Role.BACKEND, Role.UNDECIDED)

    def missing(self) -> str:
        """Say what it lacks to be ready, in words."""
        return self._readiness.in_words()

    async def run(self, *, window: Window | None, last_words: Callable[[], str]) -> Fact:
        """Run it to its end; return how that was.

        Args:
            window: The size of its terminal, if it gets one.
            last_words: Gives what it said that explains its end best.
        """
        plan = self.plan
        fact: Fact = NotSpawned("cancelled")
        try:
            async with trio.open_nursery() as nursery:

                def spawned(child: Child) -> None:
                    self.child = child
                    self.spawned_at = trio.current_time()
                    if not self._on_fact(self, Spawned()):
                        return
                    if plan.ready is not None:
                        nursery.start_soon(self._attend, child.pid)
                    elif plan.on_ready is not None:
                        nursery.start_soon(self._run_on_ready, plan.on_ready)

                try:
                    how = await self._surroundings.run_child(
                        plan.command,
                        cwd=plan.cwd,
                        env=self._env,
                        on_spawn=spawned,
                        on_output=self._on_output,
                        stop_timeout=plan.stop_timeout,
                        stop_signal=signal.Signals[f"SIG{plan.stop_signal}"],
                        window=window,
                    )
                    fact = Ended(how, last_words())
                except SpawnError as exc:
                    fact = NotSpawned(exc.message)
                finally:
                    self.child = self.listening = None
                nursery.cancel_scope.cancel()
        finally:
            self.end = fact
            self.ended.set()
        return fact

    def see(self, lines: Iterable[str], *, is_partial: bool = False) -> None:
        """Take note of what it wrote, without colours."""
        lines = list(lines)
        if self._readiness.reads:
            self._readiness.see(lines)
        if is_partial:
            return
        self._tail.extend(filter(None, map(str.strip, lines[-_TAIL:])))
        if not self._may_reload:
            return
        self._last_line_at = trio.current_time()
        for line in lines:
            if reloads(line):
                self._watches = True
                self._reload(line.strip())
            elif not self._watches and watches(line):
                self._watches = True
            elif has_started_anew(line):
                self._has_started_anew = True
            self._reloader = reloader(line) or self._reloader
            self._trouble.see(line)

    def last_words(self) -> str:
        """Give the line that explains best why it did not come up; empty if there is none."""
        in_use = next(filter(IN_USE.search, reversed(self._tail)), "")
        return in_use or self._trouble.last or (self._tail[-1] if self._tail else "")

    def _reload(self, reason: str, *, is_announced: bool = True) -> None:
        """Begin anew, as the child does."""
        self._is_unannounced = not is_announced
        self._was_listening, self.listening = self.listening or self._was_listening, None
        self._readiness = self._new_readiness()
        self._has_started_anew = False
        self._trouble.clear()
        self._on_fact(self, Reloading(reason))
        if self._attending is not None:
            self._attending.cancel()

    def _new_readiness(self) -> Readiness:
        is_upstream = self.plan.role in (Role.FRONTEND, Role.BACKEND)
        # A command that asks is not of the child's family: nobody waits for it when the child has ended.
        asking = {**self._env, "ORCHESTRA_PROCESS": f"{self.plan.name}:ready"}
        return Readiness(self.plan, env=asking, port=self.port, needs_address=is_upstream)

    async def _attend(self, leader: int) -> None:
        while True:
            with trio.CancelScope() as self._attending:
                await self._come_up(leader)
                await self._be_up(leader)
            if not await self._turn():
                return

    async def _come_up(self, leader: int) -> None:
        """Wait until it is ready; say so, or why it is not going to be."""
        readiness = self._readiness
        async with trio.open_nursery() as nursery:
            if self.plan.is_awaited:
                nursery.start_soon(self._complain_in_time, readiness)
            if self._may_reload:
                nursery.start_soon(self._look_for_trouble)
            await readiness.wait(leader, self._surroundings.scanner)
            nursery.cancel_scope.cancel()
        self.listening = readiness.listening
        self._on_fact(self, Answered())

    async def _be_up(self, leader: int) -> None:
        """Do what is done while it is ready; goes on for as long as it lives or until it reloads."""
        async with trio.open_nursery() as nursery:
            if self.plan.on_ready is not None:
                nursery.start_soon(self._run_on_ready, self.plan.on_ready)
            if self.plan.liveness:
                nursery.start_soon(self._watch_health)
            if self._may_reload and self.listening is not None:
                nursery.start_soon(self._watch_servers, leader, self.listening.port)
            await trio.sleep_forever()

    async def _turn(self) -> bool:
        """Wait until a reload has turned from the old server to the new one; ``False`` if it never does."""
        begun = trio.current_time()
        servers, self._servers = self._servers, frozenset()
        while servers and all(map(table.is_still_there, servers)) and not self._has_started_anew:
            if self._trouble.error and trio.current_time() - self._last_line_at >= _SPEECHLESS:
                break  # it is over for now: nobody is there who could answer
            if trio.current_time() - begun >= _RELOAD_LIMIT:
                if await self._is_silent():
                    self._on_stuck(self)
                    return False
                break  # it did not mean it
            await trio.sleep(_TURN_PAUSE)
        return True

    async def _is_silent(self) -> bool:
        found = self._was_listening
        return found is None or bool(await probe.http_answer(found.host, found.port, within=_QUICK_ANSWER))

    async def _look_for_trouble(self) -> None:
        """Say that it is broken when nobody is left who could come up, or the last word is an exception."""
        begun = trio.current_time()
        while True:
            await trio.sleep(_SPEECHLESS / 3)
            if trio.current_time() - max(begun, self._last_line_at) < _SPEECHLESS:
                continue
            if not self._watches:
                continue
            error = self._trouble.error
            if self._reloader is not None:
                if await trio.to_thread.run_sync(sockets.has_server, self._reloader):
                    continue  # it takes its time, whatever it has said
                if self._is_unannounced and not error:
                    self._on_stuck(self)  # its server was killed, and it waits for a file to change
                    return
                error = error or self.last_words()
            if error:
                self._on_fact(self, Broken(error))

    async def _watch_servers(self, leader: int, port: int) -> None:
        """Notice what nobody announces: those who held the listening socket have ended."""
        servers = self._servers = await trio.to_thread.run_sync(sockets.servers, leader, port)
        while servers:
            await trio.sleep(_SERVERS_PAUSE)
            if not any(map(table.is_still_there, servers)):
                await trio.sleep(_LAST_MOMENT)
                self._reload("its server process has ended", is_announced=False)

    async def _watch_health(self) -> None:
        """Ask again and again; three times without an answer are an illness."""
        silences = 0
        while True:
            await trio.sleep(_HEALTH_PAUSE)
            lacking = await self._readiness.ask_again()
            silences = silences + 1 if lacking else 0
            if not lacking:
                self._on_fact(self, Answered())
            elif silences == _MOST_SILENCES:
                self._on_fact(self, Silent(lacking))

    async def _complain_in_time(self, readiness: Readiness) -> None:
        await trio.sleep(self.plan.ready_timeout)
        text = f"not ready after {self.plan.ready_timeout:g} s: {readiness.in_words()}"
        self._surroundings.notice(self.plan.name, "not-ready", text)

    async def _run_on_ready(self, command: str) -> None:
        """Run what is to be run now that it is up; it ends with the child at the latest."""
        url = {"ORCHESTRA_READY_URL": self.listening.url} if self.listening is not None else {}
        try:
            how = await self._surroundings.run_child(
                command,
                cwd=self.plan.cwd,
                # Marks of its own: what it has started must not be taken for the child's family.
                env={**self._env, **url, "ORCHESTRA_PROCESS": f"{self.plan.name}:on_ready"},
                on_output=self._on_output,
                stop_timeout=0.0,
            )
            wrong = "" if how.code == 0 else str(how)
        except SpawnError as exc:
            wrong = exc.message
        if wrong:
            self._surroundings.notice(self.plan.name, "on-ready-failed", f"on_ready `{command}`: {wrong}")
