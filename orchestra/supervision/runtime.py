"""The collaborators of a run, and the state that its processes share.

`Runtime` holds everything that touches the system: spawning, the guardian, sockets, probes, random numbers,
the time of day. Tests pass their own, and patch nothing. `Run` is one run; all its workers have the same one.

Not here: what any of it is used for.
"""

from __future__ import annotations

import os
import random
import secrets
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import trio
from msgspec import Struct
from trio.lowlevel import ParkingLot

from orchestra.child import probe, sockets, table
from orchestra.child.families import Families
from orchestra.child.guard import guarded
from orchestra.child.sockets import SocketScanner
from orchestra.child.spawn import run_child
from orchestra.config.environment import PORT_VARIABLES
from orchestra.supervision.delivery import Delivery
from orchestra.supervision.inquiry import identify

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    from orchestra.child.guard import Guard
    from orchestra.child.readiness import Probe
    from orchestra.child.spawn import Child, Window
    from orchestra.config.plan import ProcessPlan
    from orchestra.config.roles import Seen
    from orchestra.events import Bus, Exit
    from orchestra.supervision.delivery import Sink
    from orchestra.supervision.roles import RunTimeRoles

__all__ = ["BeforeStop", "Phase", "Run", "Runtime", "Stoppable"]

BeforeStop: TypeAlias = "Callable[[str], Awaitable[None]]"


_T = TypeVar("_T")


def _in_thread(look: Callable[..., _T]) -> Callable[..., Awaitable[_T]]:
    return lambda *args: trio.to_thread.run_sync(look, *args)


def _now() -> datetime:
    return datetime.now(UTC)


class Runtime(Struct, frozen=True, kw_only=True):
    """The collaborators of a run; the defaults are the real ones. The clock is trio's.

    Attributes:
        spawn: Runs a child to its end, as `child.spawn.run_child` does.
        guard: Starts a guardian for a run, which is known by its mark.
        scanner: Makes a scanner of listening sockets.
        probe: Asks whether a process answers.
        servers: Finds the processes that accept connections at a port, of the session of a leader.
        programs: Finds the names of their programs.
        identify: Asks what answers at a socket, as `inquiry.identify` does.
        has_server: Whether the process that starts servers has one now.
        is_alive: Whether a process that was found is still there.
        free_port: Chooses a port; the wanted one if it is free.
        soft_nofile: The soft limit of open files for children, if it differs from ours.
        random: A number from 0 to 1.
        now: The time of day, for events.
    """

    spawn: Callable[..., Awaitable[Exit]] = run_child
    guard: Callable[[str], AbstractAsyncContextManager[Guard]] = guarded
    scanner: Callable[[], SocketScanner] = SocketScanner
    probe: Probe = probe
    servers: Callable[[int, int], Awaitable[frozenset[table.Entry]]] = _in_thread(sockets.servers)
    programs: Callable[[int, int], Awaitable[frozenset[str]]] = _in_thread(sockets.programs)
    identify: Callable[..., Awaitable[Seen]] = identify
    has_server: Callable[[int], Awaitable[bool]] = _in_thread(sockets.has_server)
    is_alive: Callable[[table.Entry], bool] = table.is_still_there
    free_port: Callable[..., int] = sockets.another
    soft_nofile: int | None = None
    random: Callable[[], float] = random.random
    now: Callable[[], datetime] = _now


class Phase(Enum):
    """How far a run is."""

    NEW = "nothing has been started"
    RUNNING = "processes are started and restarted"
    STOPPING = "no process is started any more"
    OVER = "no process is left"


class Run:
    """What all processes of one run share.

    Args:
        runtime: Its collaborators.
        bus: Where events go.
        sinks: Awaited with every line of output.
        window: The size of the terminals of the processes; without it they have pipes.

    Attributes:
        id: The mark that all processes of the run carry in their environment.
        phase: How far it is.
        ending: Is set when the run is to end.
        url: The one address, once it is bound; ``None`` without a proxy.
        before_stop: Awaited with the name of a process before that is stopped.
        roles: Decides what processes without a role are; ``None`` if there is nothing to decide.
        nursery: In which the tasks of all processes run; there while the run runs.
        guard: Tells the guardian about children; likewise.
    """

    nursery: trio.Nursery

    def __init__(
        self,
        runtime: Runtime,
        bus: Bus,
        *,
        sinks: Iterable[Sink] = (),
        window: Window | None = None,
    ) -> None:
        self.id = secrets.token_hex(8)
        self.runtime = runtime
        self.bus = bus
        self.window = window
        self._families = Families()
        self._screen: tuple[str | None, bytes] = None, b""
        self.phase = Phase.NEW
        self.ending = trio.Event()
        self.url: str | None = None
        self.before_stop: BeforeStop | None = None
        self.guard: Guard | None = None
        self.roles: RunTimeRoles | None = None
        self.delivery = Delivery(bus, sinks)
        self.scanner = runtime.scanner()
        self._changes = ParkingLot()

    def __repr__(self) -> str:
        return f"<Run {self.id}: {self.phase.value}>"

    async def until(self, is_so: Callable[[], bool] = lambda: False) -> None:
        """Wait until something is so, looking at each change of a process; or until the run is over."""
        while not is_so() and self.phase is not Phase.OVER:
            await self._changes.park()
        await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        """Have all that wait look again: a process has changed."""
        self._changes.unpark_all()

    def end(self) -> None:
        """Note that no process is left, and wake all that wait."""
        self.phase = Phase.OVER
        self.ending.set()
        self.wake()

    async def spawn(self, command: str | Sequence[str], **how: Any) -> Exit:
        """Run a child to its end; the guardian knows of it while anything of it is left.

        Args:
            command: As for `child.spawn.run_child`.
            **how: The other arguments of that, except what the run decides.
        """
        assert self.guard is not None  # noqa: S101 - there is one before there is a child
        return await self.runtime.spawn(
            command,
            families=self._families,
            guard=self.guard,
            soft_nofile=self.runtime.soft_nofile,
            **how,
        )

    def set_guard(self, guard: Guard) -> None:
        """Take the guard of the run."""
        self.guard = guard
        guard.on_screen(*self._screen)

    def on_screen(self, terminal: str | None, give_back: bytes) -> None:
        """Tell the guardian which terminal shows the dashboard, if one does, and how to give it back."""
        self._screen = terminal, give_back
        if self.guard is not None:
            self.guard.on_screen(terminal, give_back)

    async def drain(self, process: str, limit: float) -> None:
        """Drain a process: end the requests and streams that it serves, before it is stopped.

        Args:
            process: Its name.
            limit: Seconds that this may take.
        """
        if self.before_stop is not None:
            with trio.move_on_after(limit):
                await self.before_stop(process)

    def environment(self, plan: ProcessPlan, port: int | None) -> dict[str, str]:
        """Give the environment of a child whose ``PORT`` is `port`."""
        env = {
            **(os.environ if plan.env is None else plan.env),
            **({"PORT": str(plan.port)} if plan.env is None and plan.port is not None else {}),
            "ORCHESTRA_PROCESS": plan.name if "." in plan.name else f"{plan.name}.1",
            "ORCHESTRA_RUN": self.id,
        }
        if port != plan.port:
            env |= {name: str(port) for name in PORT_VARIABLES if env.get(name) == str(plan.port)}
            env["PORT"] = str(port)
        return env


class Stoppable:
    """What runs a child, and may be told to end it before it has been spawned.

    Attributes:
        child: While there is one.
    """

    def __init__(self) -> None:
        self.child: Child | None = None
        self._orders: list[Callable[[Child], object]] = []

    @property
    def is_ending(self) -> bool:
        """Whether it was told to end."""
        return bool(self._orders)

    async def run_child(
        self,
        run: Run,
        command: str | Sequence[str],
        *,
        on_spawn: Callable[[Child], object] = lambda _: None,
        **how: Any,
    ) -> Exit:
        """Run a child to its end; the arguments are those of `Run.spawn`."""

        def spawned(child: Child) -> None:
            self.child = child
            for order in self._orders:
                order(child)
            on_spawn(child)

        try:
            return await run.spawn(command, on_spawn=spawned, **how)
        finally:
            self.child = None

    def stop(self) -> None:
        """Stop the child: its stop signal, and SIGKILL after the stop timeout. Does not wait."""
        self._order(lambda child: child.stop())

    def kill(self) -> None:
        """Kill the child. Does not wait."""
        self._order(lambda child: child.kill())

    def _order(self, order: Callable[[Child], object]) -> None:
        self._orders.append(order)
        if self.child is not None:
            order(self.child)
