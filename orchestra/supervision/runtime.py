"""The collaborators of a run: everything that touches the system.

These are spawning, the guardian, sockets, probes, random numbers, the time of day. Tests pass their own
`Runtime`, and patch nothing.

Not here: what they are used for.
"""

from __future__ import annotations

import random
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

import trio
from msgspec import Struct

from orchestra.bus import utc_now
from orchestra.child import probe, remains, sockets, table
from orchestra.child.families import SharedLook
from orchestra.child.guard import Guard, guarded
from orchestra.child.sockets import SocketScanner
from orchestra.child.spawn import Child, OnOutput, SpawnError, run_child

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from orchestra.child.readiness import Probe
    from orchestra.child.remains import Member
    from orchestra.child.sockets import Server
    from orchestra.config.plan import Address, ProcessPlan
    from orchestra.events import Exit
    from orchestra.supervision.run import Run
    from orchestra.watch.interest import Interest

__all__ = ["Phase", "Runtime", "Stoppable", "run_command"]

_T = TypeVar("_T")


def _in_thread(look: Callable[..., _T]) -> Callable[..., Awaitable[_T]]:
    return lambda *args: trio.to_thread.run_sync(look, *args)


async def _watch(interests: Mapping[str, Interest], **how: Any) -> None:
    from orchestra.watch.changes import watch  # noqa: PLC0415 - only a run that watches needs it

    await watch(interests, **how)


class Runtime(Struct, frozen=True, kw_only=True):
    """The collaborators of a run; the defaults are the real ones. The clock is trio's.

    Attributes:
        spawn: Runs a child to its end, like `child.spawn.run_child`.
        guard: Starts a guardian for the run with a mark.
        servers: Finds the processes that accept connections at a port, of the session of a leader.
        beside: Finds the sockets of a tree beside a server, and whether other processes are there.
        holder: Names what listens at a port; empty if nothing does, or it is invisible.
        remains: Makes a function that reads the process tree of a leader, like `child.remains.look`.
        free_port: Chooses a port: the wanted one if it is free.
        watch: Reports changed files, like `watch.changes.watch`.
        soft_nofile: The soft limit of open files for children, if it differs from ours.
        now: The time of day, for events.
    """

    spawn: Callable[..., Awaitable[Exit]] = run_child
    guard: Callable[[str], AbstractAsyncContextManager[Guard]] = guarded
    scanner: Callable[[], SocketScanner] = SocketScanner
    probe: Probe = probe
    servers: Callable[[int, int], Awaitable[Sequence[Server]]] = _in_thread(sockets.servers)
    beside: Callable[[int, int], Awaitable[tuple[frozenset[Address], bool]]] = _in_thread(sockets.beside)
    holder: Callable[[int], Awaitable[str]] = _in_thread(sockets.holder)
    remains: Callable[[], Callable[[int], Awaitable[Sequence[Member] | None]]] = lambda: (
        SharedLook(remains.look).ask
    )
    is_alive: Callable[[table.Entry], bool] = table.is_still_there
    free_port: Callable[..., int] = sockets.another
    watch: Callable[..., Awaitable[None]] = _watch
    soft_nofile: int | None = None
    random: Callable[[], float] = random.random
    now: Callable[[], datetime] = utc_now


class Phase(Enum):
    """The phase of a run."""

    NEW = "nothing has been started"
    RUNNING = "processes are started and restarted"
    STOPPING = "no process is started any more"
    OVER = "no process is left"


async def run_command(
    run: Run, plan: ProcessPlan, command: str, purpose: str, *, env: Mapping[str, str], on_output: OnOutput
) -> str:
    """Run a command of a process, such as its ``on_ready``, to its end; return what went wrong."""
    try:
        how = await run.spawn(
            plan.in_shell(command),
            cwd=plan.cwd,
            # A mark of its own: its processes must not count as members of the process's family.
            env={**env, "ORCHESTRA_PROCESS": f"{plan.name}:{purpose}"},
            on_output=on_output,
            stop_timeout=0.0,
        )
    except SpawnError as exc:
        return exc.message
    return "" if how.code == 0 else str(how)


class Stoppable:
    """Runs a child, and can be stopped even before it was spawned.

    Args:
        spawn: Spawns it; by default `Run.spawn`.
    """

    def __init__(self, run: Run, spawn: Callable[..., Awaitable[Exit]] | None = None) -> None:
        self.child: Child | None = None
        self.is_ending = False
        self._is_killed = False
        self._run = run
        self._spawn = spawn or run.spawn

    async def run_child(
        self,
        command: str | Sequence[str],
        *,
        on_spawn: Callable[[Child], object] = lambda _: None,
        **how: Any,
    ) -> Exit:
        """Run a child to its end; the arguments are those of `Run.spawn`."""

        def spawned(child: Child) -> None:
            self.child = child
            if self._is_killed:
                child.kill()
            elif self.is_ending:
                child.stop()
            on_spawn(child)

        try:
            return await self._spawn(command, on_spawn=spawned, **how)
        finally:
            child, self.child = self.child, None
            # SIGKILL has not helped: the system forbids it, or the process is stuck in the kernel. If another
            # `Stoppable` has spawned the child, that one reports it.
            if child is not None and not child.is_gone and self._spawn == self._run.spawn:
                text = f"pid {child.pid}, or what it has started, could not be ended and is still running"
                hint = f"It may belong to another user: sudo kill -9 -- -{child.pid}"
                self._run.bus.notice("not-ended", text, hint=hint)

    def stop(self) -> None:
        """Stop the child: its stop signal, and SIGKILL after the stop timeout. Does not wait."""
        self.is_ending = True
        if self.child is not None:
            self.child.stop()

    def kill(self) -> None:
        """Kill the child. Does not wait."""
        self.is_ending = self._is_killed = True
        if self.child is not None:
            self.child.kill()
