"""A whole run in one nursery: the processes of a plan and the proxy before them, connected by the bus.

Start: the address is bound before anything is spawned, so that a taken port is found early; then the proxy
serves, then the processes are spawned. Stop, whatever the cause (a cancellation, `stop`, the end of the
processes, the process that `exit_on` names): the proxy stops accepting and closes its streams, then the
processes are stopped, then `RunEnded` is emitted.

`Supervisor` is the interface for embedders; it prints nothing and installs no signal handler.

Not here: one process (`supervision/worker`), the order of stopping processes (`supervision/run`), how a run
changes to another plan (`changing`).
"""

from __future__ import annotations

import ipaddress
import os
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Literal, Self

import trio
from msgspec import structs
from trio.lowlevel import ParkingLot

from orchestra.bus import Bus, Observer
from orchestra.changing import CurrentPlan, Replan
from orchestra.child import sockets
from orchestra.config.plan import Address, Note, Plan, ProxyPlan
from orchestra.errors import ConfigError, OrchestraError
from orchestra.events import Event, Notice, RunEnded, RunStarted, State, StateChanged
from orchestra.supervision.lifecycle import run_result
from orchestra.supervision.run import Run, measure
from orchestra.supervision.runtime import Phase, Runtime
from orchestra.version import __version__

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence

    from orchestra.child.spawn import Window
    from orchestra.control.local import Order
    from orchestra.development import Development
    from orchestra.supervision.delivery import Sink

__all__ = ["Runtime", "Supervisor"]

# How many ports are tried, from the plan's on, for a proxy that may move.
_PORTS_TO_TRY = 100
# The wildcard addresses, which a browser cannot open.
_OPENED_AT = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not bound here
# Events that may wait for a reader: some seconds of a loud process.
_WAITING_EVENTS = 10_000
# Seconds for the proxy to end requests and streams, with a margin.
_PROXY_GRACE = 2.5
_NOT_LOOPBACK_HINT = "Give --listen 127.0.0.1:PORT if that is not meant."
# Seconds for the end beyond the stop timeouts: the proxy, the last lines, SIGKILL, and sinks that stall.
_GRACE = 20.0


def _bind(plan: ProxyPlan) -> list[socket.socket]:
    """Listen for the proxy: at the next free port, if another run has just taken a port that may move."""
    port = plan.port
    while True:
        try:
            return sockets.bind(plan.host, port)
        except ConfigError:
            if not plan.may_move or port == plan.port + _PORTS_TO_TRY:
                raise
        port += 1


class Supervisor:
    """Runs a plan: its processes, and the proxy if it has one; leaves nothing behind.

    Start it in a nursery of yours; cancel that, or call `stop`, to end it::

        >>> import sys, trio
        >>> from orchestra import Plan, ProcessPlan, Supervisor
        >>> async def main():
        ...     serve = f"exec {sys.executable} -m http.server --bind 127.0.0.1 $PORT"
        ...     web = ProcessPlan(name="web", command=serve, port=5090, ready="http")
        ...     hello = ProcessPlan(name="hello", command="echo hello")
        ...     supervisor = Supervisor(Plan(processes=(web, hello)))
        ...     async with trio.open_nursery() as nursery:
        ...         await nursery.start(supervisor.run)
        ...         await supervisor.wait_ready()
        ...         print(supervisor.snapshot()["web"].url)
        ...         await supervisor.stop()
        ...     print(supervisor.snapshot()["hello"].state)
        >>> trio.run(main)
        http://127.0.0.1:5090
        State.COMPLETED

    Resource handling: when `run` returns or raises, no process and no socket of the run is left (all
    processes had their `stop_timeout`, then SIGKILL). One supervisor is run once.

    Error handling: all methods raise `KeyError` for the name of a process that is not in the plan.

    Args:
        plan: What to run.
        sinks: Awaited with all lines of output, in order, before their process may continue writing; each
            call has lines of one stream.
        window: The size of the terminals of the processes; without it they have pipes.
        is_kept_open: Whether `run` goes on when no process runs any more because one has failed, so that it
            can be started again; ``"always"``: until it is stopped, whatever happens.
        reloads: Whether saved files restart processes, and pages of the one address reload.
        is_reachable: Whether programs of this user can reach the run, even without `reloads`.
        replan: Reads the files of the plan again, for a run that follows the given plan now.
        runtime: Its collaborators; tests pass their own.

    Raises:
        ConfigError: The plan is not valid: an unknown dependency, a cycle, an invalid check.

    Attributes:
        ending: An event that is set when the run was asked to end.
        ended: How the run ended, once it has.
        recent_requests: Gives the events of the last requests; see `CurrentPlan`.
        feed: Gives the events for another terminal, as JSON lines; ``None`` if there are none.
        on_screen: Has the guardian restore a terminal's own screen if we are killed; see `Run.on_screen`.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        sinks: Iterable[Sink] = (),
        window: Window | None = None,
        is_kept_open: bool | Literal["always"] = False,
        reloads: bool = False,
        is_reachable: bool = False,
        replan: Replan | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        runtime = Runtime() if runtime is None else runtime
        self.ended: RunEnded | None = None
        self.feed: Callable[[], AsyncGenerator[bytes, None]] | None = None
        self._bus = Bus(self._newest_events, runtime.now)
        self._run = Run(plan, runtime, self._bus, sinks=sinks, window=window, is_kept_open=is_kept_open)
        self._current = CurrentPlan(plan, self._run, self._bus, replan=replan)
        self.recent_requests = self._current.recent_requests
        self._development: Development | None = None
        if reloads or is_reachable:
            from orchestra.development import Development  # noqa: PLC0415 - embedders do without

            self._development = Development(self, self._bus, environ=os.environ, reloads=reloads)
        self.ending, self.on_screen = self._run.ending, self._run.on_screen
        self._started: RunStarted | None = None
        self._started_at = 0.0
        self._stopped, self._news = trio.Event(), ParkingLot()  # the latter of readers of events
        self._exit_code: int | None = None
        self._reason = ""

    def __repr__(self) -> str:
        return f"<Supervisor at {self.url or 'no address'}: {self._run!r}>"

    @property
    def url(self) -> str | None:
        """The one address; ``None`` without a proxy, or before `run` has bound it."""
        return self._run.url

    @property
    def plan(self) -> Plan:
        """The plan that the run follows now."""
        return self._current.plan

    async def run(self, *, task_status: trio.TaskStatus[Self] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ASYNC128 - handed on
        """Run until all processes have ended, or until we are cancelled or stopped.

        Args:
            task_status: `nursery.start` returns when the proxy serves and the processes are being spawned.

        Raises:
            ConfigError: The address cannot be bound.
        """
        self._run.phase = Phase.RUNNING
        shield = trio.CancelScope(shield=True)

        async def shielded() -> None:
            try:
                with shield:
                    await self._from_start_to_stop(task_status)
            finally:
                self._stopped.set()
                self._news.unpark_all()

        # trio cancels at once and everywhere, but a process group has to be signalled, waited for and perhaps
        # killed. So a cancellation becomes a request to end; from then on the shield has a deadline.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(shielded)
            try:
                await self._stopped.wait()
            finally:
                self.ending.set()
                shield.deadline = trio.current_time() + 2 * self._run.longest_stop + _GRACE

    async def stop(
        self, name: str | None = None, *, exit_code: int | None = None, reason: str = "stopped"
    ) -> None:
        """Stop everything, or one process, and wait until no process of it is left.

        A process is stopped before those that it depends on. All take twice the longest `stop_timeout` at
        most, and some seconds more if a sink does not return.

        Args:
            name: The process; by default all of them, and the run with them.
            exit_code: The exit code in `RunEnded`; by default it follows from those of the processes. The
                first call counts, unless its code is 0.
            reason: Likewise.
        """
        if name is not None:
            worker = self._run.workers[name]
            worker.stop()
            # Until it has ended: it may be started again at once.
            await self._run.until(lambda: worker.life.state is not State.STOPPING)
            return
        self.end(exit_code=exit_code, reason=reason)
        if self._run.phase is not Phase.NEW:
            await self._stopped.wait()
        await trio.lowlevel.checkpoint()

    def end(self, *, exit_code: int | None = None, reason: str = "stopped") -> None:
        """Request the end of everything; see `stop`, which waits for it."""
        if not self.ending.is_set() or (exit_code and not self._exit_code):
            self._exit_code, self._reason = exit_code, reason
            self.ending.set()

    def start(self, name: str) -> None:
        """Start a process again if it has ended, and reset its failures; `StartError` if the run is over.

        Does not wait: `wait_ready` does.
        """
        self._run.workers[name].start()

    async def restart(self, name: str) -> None:
        """Stop a process if it runs, and start it again, or `StartError`; wait until the old one is gone.

        One that waits for its dependencies goes on waiting. Its dependents are left alone. With
        `restart_mode = "overlap"` a ready process goes on until the new one is ready, and this does not wait.
        """
        worker = self._run.workers[name]
        worker.restart()
        await self._run.until(lambda: worker.life.state is not State.STOPPING)

    async def change(self, plan: Plan, *, reason: str = "") -> None:
        """Follow another plan: stop, restart and start only what differs; wait until the old ones are gone.

        The proxy goes on at its address. Fields that are fixed for a run stay the same, with a `Notice`.

        Args:
            plan: The new one; ``load(..., running=supervisor.plan)`` makes one that keeps the ports.
            reason: The changed file, in words, for `PlanChanged`.

        Raises:
            ConfigError: The plan is not valid; the old one stays.
            OrchestraError: The run has not begun, or has come to its end.
        """
        await self._current.change(plan, reason)

    def reload(self, reason: str = "asked to") -> int:
        """Have every open page of the one address reload, or `OrchestraError`; return how many there are."""
        if self._development is None or not self._development.reloads:
            hint = "Run it without --no-reload; in code it is a Supervisor(plan, reloads=True)."
            raise OrchestraError("this run has no connection to the pages that it serves", hint=hint)
        return self._development.control.tabs.reload(reason, trio.current_time(), everywhere=True)

    async def obey(self, order: Order) -> int:
        """Begin to carry out an order; return how many processes or pages it is for."""
        if order.do == "down":
            self.end(reason="asked to")
            return 0
        return self.reload() if order.do == "reload" else await self._current.obey(order.do, order)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to the group of a process, if it runs."""
        self._run.workers[name].signal(number)

    async def send(self, name: str, text: str) -> None:
        """Write to a process's standard input; `OrchestraError` if it does not run, or does not take it."""
        await self._run.workers[name].send(text.encode())

    def kill(self, name: str | None = None) -> None:
        """End everything by SIGKILL, or one process, which stays stopped. Does not wait: `stop` does."""
        if name is not None:
            self._run.workers[name].kill()
            return
        self.ending.set()
        self._run.kill()

    async def wait_ready(self, names: Iterable[str] | None = None, timeout: float = inf) -> None:  # noqa: ASYNC109
        """Wait until processes are up: ready, or running if they have no check.

        Args:
            names: The processes to wait for; all by default.
            timeout: Seconds after which this fails.

        Raises:
            StartError: One of them has failed, was stopped, or is not ready in time; with its last lines.
        """
        await self._run.wait_ready(names, timeout)

    def snapshot(self) -> Mapping[str, StateChanged]:
        """Return the newest state of every process, by name, in the order of the plan."""
        return {name: worker.newest for name, worker in self._run.workers.items()}

    def tail(self, name: str) -> Sequence[str]:
        """Return the last lines that a process wrote, oldest first, without colours."""
        return tuple(self._run.workers[name].output.tail)

    def subscribe(self, observer: Observer, *kinds: type[Event]) -> Callable[[], None]:
        """Call `observer` with every event (of these types) after a snapshot; the result unsubscribes it."""
        return self._bus.subscribe(observer, *kinds)

    def events(self, *, limit: int = _WAITING_EVENTS) -> AsyncGenerator[Event, None]:
        """Give all events from now on, after a snapshot: ``async for event in supervisor.events()``.

        When `limit` of them wait to be read, the oldest is lost, and a `Notice` counts them.
        """
        return _events(self._bus, self._news, self._stopped, limit)

    # --- From start to stop ---

    async def _from_start_to_stop(self, task_status: trio.TaskStatus[Self]) -> None:
        proxy = None
        listeners = _bind(self.plan.proxy) if self.plan.proxy is not None else []
        self._announce(listeners)
        async with trio.open_nursery() as nursery:
            if self._development is not None:
                await nursery.start(self._development.run)
            if listeners:
                proxy = self._current.open_proxy(listeners, self._development)
                await nursery.start(proxy.run)
            await nursery.start(self._run.run)
            task_status.started(self)
            nursery.start_soon(measure, self._run)
            if self._development is not None:
                nursery.start_soon(self._development.follow_files, self._run, self._current.replan)
            await self.ending.wait()
            if self._development is not None:
                await self._development.close()
            if proxy is not None:
                with trio.move_on_after(_PROXY_GRACE):
                    await proxy.close()
            await self._run.stop()
            self._conclude()
            if self._development is not None:
                await self._development.control.finish()
            nursery.cancel_scope.cancel()

    def _announce(self, listeners: Sequence[socket.socket]) -> None:
        plan, port = self.plan, 0
        if plan.proxy is not None:
            port = listeners[0].getsockname()[1]
            self._run.url = Address(_OPENED_AT.get(plan.proxy.host, plan.proxy.host), port).url
        self._started_at, names = trio.current_time(), tuple(self._run.workers)
        pid, file = os.getpid(), str(plan.procfile or "")
        started = RunStarted(version=__version__, pid=pid, procfile=file, url=self.url, processes=names)
        self._started = self._bus.emit(started)
        for code, note in _opening_notes(plan, self.url, port):
            self._bus.notice(code, note.text, level=note.level, hint=note.hint)

    def _conclude(self) -> None:
        exit_code, reason = _result(self.plan, self._run, self._exit_code, self._reason)
        duration = trio.current_time() - self._started_at
        self.ended = self._bus.emit(RunEnded(exit_code=exit_code, reason=reason, duration=duration))

    def _newest_events(self) -> Iterator[Event]:
        if self._started is not None:
            yield structs.replace(self._started, processes=tuple(self._run.workers))
            yield from self.snapshot().values()
            yield from filter(None, (worker.errors.shown for worker in self._run.workers.values()))


async def _events(bus: Bus, news: ParkingLot, stopped: trio.Event, limit: int) -> AsyncGenerator[Event, None]:
    waiting: deque[Event] = deque(maxlen=limit)  # a late reader wants the newest
    lost = 0

    def take(event: Event) -> None:
        nonlocal lost
        lost += len(waiting) == limit
        waiting.append(event)
        news.unpark_all()

    unsubscribe = bus.subscribe(take)
    try:
        while waiting or not stopped.is_set():
            if not waiting:
                await news.park()
                continue
            if lost:
                text, lost = f"{lost} events were lost: they were not read in time", 0
                yield bus.stamp(Notice(level="warning", code="events-lost", text=text))
            yield waiting.popleft()
    finally:
        unsubscribe()


def _result(plan: Plan, run: Run, asked: int | None, why: str) -> tuple[int, str]:
    exit_code, reason = run_result(plan.exit_on, run.ended)
    exit_code = exit_code if asked is None else asked
    if not exit_code and run.delivery.has_lost:  # as with standard output
        return ConfigError.exit_code, "a log file could not be written to"
    awaited = [each for each in run.workers.values() if not each.life.is_at_rest]
    return exit_code, why or reason or ("all completed" if len(run.ended) >= len(awaited) else "cancelled")


def _opening_notes(plan: Plan, url: str | None, port: int) -> Iterator[tuple[str, Note]]:
    """Give the notices at the start of a run, each with its code."""
    if (proxy := plan.proxy) is not None:
        if proxy.may_move and port != proxy.port:
            text = f"port {proxy.port} has just been taken: the one address has port {port}"
            yield "plan", Note(text)
        if not ipaddress.ip_address(proxy.host).is_loopback:
            text = f"{url} can be reached from other machines, and so can all that is behind it"
            if ipaddress.ip_address(proxy.host).is_unspecified:
                text = "all that is behind the one address can be reached from other machines"
                if (other := sockets.lan_address()) is not None:
                    text += f", at {Address(other, port).url}"
            yield "not-loopback", Note(text, hint=_NOT_LOOPBACK_HINT, level="warning")
        # Which process each upstream is, and why, so that a wrong guess is seen at once.
        yield "plan", Note(proxy.in_words())
    for note in plan.notes:
        yield "plan", note
