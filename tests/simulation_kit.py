"""Children of which only the behaviour is there, on a clock that does not wait: nothing is spawned.

A `World` is what a `Runtime` reaches. A process's command names its program there: a coroutine function that
is given its `Child`, may `say` lines and `listen`, and returns an exit status. The default program runs until
it is asked to end.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import trio

from orchestra import Condition, Dependency, Plan, ProcessPlan, Supervisor
from orchestra.bus import Bus
from orchestra.child.probe import Answer
from orchestra.child.sockets import Server, SocketScanner
from orchestra.child.table import Entry
from orchestra.config.plan import Address, FromProcess
from orchestra.config.roles import Seen
from orchestra.events import Exit
from orchestra.supervision.roles import RunTimeRoles
from orchestra.supervision.run import Run
from orchestra.supervision.runtime import Phase, Runtime
from orchestra.watch.changes import Batch
from orchestra.watch.interest import Changed, Changes, Kind
from tests.events_kit import Recorder, trio_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from orchestra import ProxyPlan
    from orchestra.child.remains import Member
    from orchestra.child.spawn import OnOutput
    from orchestra.config.plan import UpstreamPlan
    from orchestra.events import StreamName
    from orchestra.supervision.run import BeforeStop
    from orchestra.watch.interest import Interest

Program: TypeAlias = "Callable[[Child], Awaitable[int | None]]"


def waiting(name: str, *others: str, command: str = "runs", **more: Any) -> ProcessPlan:
    """A process that depends on others, which are given as in the settings: ``db``, ``db:completed``."""
    dependencies = []
    for other in others:
        of, _, condition = other.partition(":")
        dependencies.append(Dependency(of, Condition(condition or "ready")))
    return ProcessPlan(name=name, command=command, depends_on=tuple(dependencies), **more)


async def _until_stopped(_child: Child) -> int | None:
    await trio.sleep_forever()
    return None


class Child:
    """A simulated child.

    Attributes:
        heeds: Whether it ends when it is asked to.
        sockets: Where it listens.
        signals: What it was sent, beside being stopped and killed.
        typed: What was written to its standard input.
        shows: What its sockets are found to be; but at the ports of `vite` they are Vite's.
        program: The name of the program that holds them.
        remains: What is seen of its processes.
        folder: Where its servers run, if that can be seen.
        beside: Whether its sockets are those of several processes, side by side.
    """

    def __init__(self, pid: int, env: Mapping[str, str], on_output: OnOutput) -> None:
        self.pid = pid
        self.is_gone = True  # when its run has come to its end
        self.env = env
        self.heeds = True
        self.sockets: set[Address] = set()
        self.signals: list[int] = []
        self.typed = b""
        self.shows = Seen.HTTP
        self.vite: set[int] = set()
        self.program = "python3"
        self.remains: list[Member] = []
        self.beside = False
        self.folder: Path | None = None
        self.has_ended = False
        self._on_output = on_output
        self._asked, self._killed = trio.Event(), trio.Event()

    @property
    def port(self) -> int:
        """What its ``PORT`` says."""
        return int(self.env["PORT"])

    async def say(self, *lines: str, stream: StreamName = "stdout") -> None:
        await self._on_output(stream, lines, None)

    async def prompt(self, text: str) -> None:
        """Write a line that does not end."""
        await self._on_output("stdout", (), text)

    async def until_asked(self) -> None:
        """Wait until it is asked to end; what does more than end then does not heed it."""
        await self._asked.wait()

    def listen(self, port: int | None = None) -> None:
        self.sockets.add(Address("127.0.0.1", self.port if port is None else port))

    def stop(self) -> None:
        self._asked.set()

    def kill(self) -> None:
        self._asked.set()
        self._killed.set()

    def signal(self, number: int) -> None:
        self.signals.append(number)
        if number == 9:
            self.kill()

    async def send(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.typed += data

    @property
    def is_killed(self) -> bool:
        return self._killed.is_set()

    async def live(self, program: Program, stop_timeout: float) -> Exit:
        how: Exit | None = None
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def end() -> None:
                nonlocal how
                await self._asked.wait()
                if self.heeds and not self._killed.is_set():
                    how = Exit(signal=15)
                else:
                    with trio.move_on_after(stop_timeout):
                        await self._killed.wait()
                    how = Exit(signal=9)
                nursery.cancel_scope.cancel()

            code = await program(self)
            how = Exit(code=code or 0)
            nursery.cancel_scope.cancel()
        self.has_ended = True
        self.sockets.clear()
        assert how is not None
        return how


class World:
    """What children do, and what has happened.

    Attributes:
        programs: By command (of an installation, its words); others run until they are asked to end.
        children: All that were spawned, oldest first.
        spawned: When they were.
        asked: When a question was asked.
        missing: What is wrong, when a process is asked over HTTP or by a command.
        taken: The ports that other programs hold.
        watched: The files that are watched: each list of them that was asked for.
        watched_since: From when on, in Unix time: of each list.
        watched_earlier: From when on of some processes, likewise.
    """

    def __init__(self) -> None:
        self.programs: dict[str, Program] = {}
        self.children: list[Child] = []
        self.spawned: list[float] = []
        self.asked: list[float] = []
        self.missing = ""
        self.random = 0.0
        self.taken: set[int] = set()
        self.watched: list[Mapping[str, Interest]] = []
        self.watched_since: list[float] = []
        self.watched_earlier: list[Mapping[str, float]] = []
        self._on_batch: Callable[[Batch], object] = lambda _: None
        self._entries: dict[int, Entry] = {}
        self._ended_servers: set[Entry] = set()

    def runtime(self) -> Runtime:
        return Runtime(
            spawn=self._spawn,
            guard=self._guard,
            scanner=lambda: _Scanner(self),
            probe=self,
            servers=self._servers,
            remains=lambda: self._remains,
            holder=self._holder,
            beside=self._beside,
            is_alive=self._is_alive,
            free_port=self._free_port,
            watch=self._watch,
            random=lambda: self.random,
            now=trio_clock,
        )

    def child(self, pid: int | None) -> Child:
        return next(child for child in self.children if child.pid == pid)

    def end_server(self, child: Child) -> None:
        """Have the process end that has accepted a child's connections, but not the child."""
        self._ended_servers.add(self._entries[child.pid])

    def living(self) -> list[Child]:
        return [child for child in self.children if not child.has_ended]

    def change(self, process: str, *files: str, kind: Kind = Kind.CODE, rereads: bool = False) -> None:
        """Change files of a process; of the run itself, if that is `RUN`."""
        changed = tuple(Changed(Path.cwd() / each, kind) for each in files)
        self._on_batch(Batch(changes={process: Changes(changed, rereads)}))

    def touch(self, process: str, *files: str) -> None:
        """Touch code of a process; whether it has changed is not known yet."""
        changed = tuple(Changed(Path.cwd() / each, Kind.CODE) for each in files)
        self._on_batch(Batch(expected={process: Changes(changed, rereads_templates=False)}))

    def change_nothing(self) -> None:
        """Have it known that what was touched is as it was."""
        self._on_batch(Batch())

    def warn(self, text: str, hint: str) -> None:
        """Have something to say about the watching."""
        self._on_batch(Batch(warning=(text, hint)))

    async def _watch(
        self,
        interests: Mapping[str, Interest],
        *,
        since: float,
        earlier: Mapping[str, float],
        on_batch: Callable[[Batch], object],
    ) -> None:
        self.watched_earlier.append(earlier)
        self.watched.append(interests)
        self.watched_since.append(since)
        self._on_batch = on_batch
        await trio.sleep_forever()

    async def http_answer(self, at: Address, **_: object) -> Answer:
        return Answer(await self.tcp_answer(at), at)

    async def tcp_answer(self, at: Address) -> str:
        await self._ask()
        listening = any(at in child.sockets for child in self.living())
        return self.missing if listening else "refused"

    async def exec_answer(self, command: str, **_: object) -> str:
        del command
        await self._ask()
        return self.missing

    async def _ask(self) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(trio.current_time())

    async def _spawn(
        self,
        command: str | Sequence[str],
        *,
        on_spawn: Callable[[Any], object] = lambda _: None,
        on_output: OnOutput,
        env: Mapping[str, str],
        stop_timeout: float,
        **_: object,
    ) -> Exit:
        await trio.lowlevel.checkpoint()
        self.spawned.append(trio.current_time())
        child = Child(len(self.spawned), env, on_output)
        self.children.append(child)
        on_spawn(child)
        name = command if isinstance(command, str) else " ".join(command)
        program = self.programs.get(name, _until_stopped)
        try:
            return await child.live(program, stop_timeout)
        finally:
            child.has_ended = True

    @asynccontextmanager
    async def _guard(self, _run_id: str) -> AsyncIterator[Any]:
        await trio.lowlevel.checkpoint()
        yield _Guard()

    async def _servers(self, leader: int, _port: int) -> Sequence[Server]:
        await trio.lowlevel.checkpoint()
        started = str(trio.current_time())
        entry = self._entries.get(leader)
        if entry is None or entry in self._ended_servers:
            entry = Entry(leader, parent=0, group=leader, session=leader, is_zombie=False, started=started)
            self._entries[leader] = entry
        return [Server(entry, frozenset({self.child(leader).program}), self.child(leader).folder)]

    def _is_alive(self, entry: Entry) -> bool:
        return not self.child(entry.pid).has_ended and entry not in self._ended_servers

    def _free_port(self, wanted: int, *, besides: int | None) -> int:
        taken = {besides, *self.taken, *(socket.port for child in self.living() for socket in child.sockets)}
        return next(port for port in count(wanted) if port not in taken)

    async def _beside(self, leader: int, port: int) -> tuple[frozenset[Address], bool]:
        await trio.lowlevel.checkpoint()
        child = self.child(leader)
        others = {each for each in child.sockets if each.port != port}
        return frozenset(others if child.beside else ()), child.beside

    async def identify(self, socket: Address) -> tuple[Seen, Address]:
        await self._ask()
        child = next(each for each in self.living() if socket in each.sockets)
        return (Seen.VITE if socket.port in child.vite else child.shows), socket

    async def _holder(self, port: int) -> str:
        await trio.lowlevel.checkpoint()
        return "pid 812 (node)" if port in self.taken else ""

    async def _remains(self, leader: int) -> Sequence[Member]:
        await trio.lowlevel.checkpoint()
        return tuple(self.child(leader).remains)


class _Guard:
    def on_screen(self, terminal: str | None, give_back: bytes) -> None: ...


class _Scanner(SocketScanner):
    """Looks at a world, at once."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def looking_at(
        self, leader: int, port: int | None = None, **_: object
    ) -> Callable[[], Awaitable[frozenset[Address]]]:
        del port

        async def newest() -> frozenset[Address]:
            await trio.sleep(0.05)
            return frozenset(self._world.child(leader).sockets)

        return newest


@asynccontextmanager
async def supervised(
    world: World, *plans: ProcessPlan, **more: Any
) -> AsyncIterator[tuple[Supervisor, Recorder]]:
    """Run a supervisor of simulated children; in the end it is stopped."""
    supervisor = Supervisor(Plan(processes=plans), runtime=world.runtime(), **more)
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        yield supervisor, recorder
        await supervisor.stop()


@asynccontextmanager
async def running_processes(
    world: World,
    *plans: ProcessPlan,
    before_stop: BeforeStop | None = None,
    proxy: ProxyPlan | None = None,
    decided: list[tuple[str, object]] | None = None,
) -> AsyncIterator[tuple[Run, Recorder]]:
    """Run processes, without a proxy.

    Args:
        world: That they run in.
        plans: Of the processes.
        before_stop: Awaited before one is stopped.
        proxy: What is before them, as far as roles depend on it.
        decided: Takes the upstreams that are decided at run time, as (side, name or ``None``).
    """
    bus = Bus(clock=trio_clock)
    recorder = Recorder(bus)
    plan = Plan(processes=plans, proxy=proxy)
    run = Run(plan, world.runtime(), bus)
    run.before_stop = before_stop
    run.phase = Phase.RUNNING

    def decide(side: str, upstream: UpstreamPlan, *, reason: str) -> None:
        if decided is not None:
            decided.append((side, upstream.name if isinstance(upstream, FromProcess) else upstream))

    if proxy is not None:
        run.roles = RunTimeRoles(plan, run, decide)
    async with trio.open_nursery() as nursery:
        await nursery.start(run.run)
        yield run, recorder
        await run.stop()
