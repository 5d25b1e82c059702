"""A whole run in one nursery: the plan's processes and the proxy before them, wired by the bus.

The address is bound before anything is started, so that a port that is taken costs nothing. The end goes in
order, whoever asks for it: the proxy stops accepting and closes its streams, then the processes are
stopped.

`Stack` is what an embedder starts; it prints nothing and handles no signal.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sysconfig
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Literal, Self, assert_never

import trio

from orchestra import config
from orchestra.child import sockets
from orchestra.config import Machine
from orchestra.config.plan import AtUrl, FromProcess, Note, Role
from orchestra.events import Bus, RunEnded, RunStarted, State, StateChanged
from orchestra.feed import LIMIT, feed
from orchestra.graceful import run_gracefully
from orchestra.lifecycle import culprit, run_exit_code
from orchestra.reloading import IN_USE
from orchestra.supervisor import Supervisor
from orchestra.version import __version__

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.child.spawn import Window
    from orchestra.config import Overrides
    from orchestra.config.plan import Plan, ProxyPlan, UpstreamPlan
    from orchestra.events import Event, Observer
    from orchestra.proxy.server import Proxy
    from orchestra.supervisor import Sink

__all__ = ["Stack", "load", "this_machine"]

# What the proxy may take to end requests and streams, with a little for itself.
_PROXY_GRACE = 2.5
# What the end may take beyond the stop timeouts; the supervisor's own is shorter.
_GRACE = 20.0


def load(
    procfile: Path | str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    left_out: Sequence[str] = (),
    overrides: Overrides | None = None,
) -> Plan:
    """Read a Procfile, with the environment and the settings beside it, and plan a run on this machine.

    Args:
        procfile: The file; ``None`` for ``Procfile.dev`` or ``Procfile`` in the current folder.
        environ: The environment to begin with; this process's by default.
        only: The processes to run; none means all.
        left_out: The processes not to run.
        overrides: What beats the settings.

    Raises:
        ConfigErrors: Something is wrong: all of that, each with file and line, the cause, and the next step.
    """
    return config.load(procfile, this_machine(environ), only=only, left_out=left_out, overrides=overrides)


def this_machine(environ: Mapping[str, str] | None = None) -> Machine:
    """Describe the machine that we run on; `environ` is in place of this process's environment."""
    return Machine(
        environ=os.environ if environ is None else environ,
        scripts=sysconfig.get_path("scripts"),
        is_free=sockets.is_free,
        holder=sockets.holder,
        try_listen=_try_listen,
    )


def _try_listen(host: str, port: int) -> None:
    for listener in sockets.bind(host, port):
        listener.close()


class Stack:
    """Runs a plan: `await nursery.start(stack.run)`.

    Resource handling: when `run` returns or raises, no process and no socket of the run is left.

    Args:
        plan: What to run.
        sinks: Awaited with every line of output; see `Supervisor`.
        window: The size of the terminals of the processes; without it they have pipes.
        is_kept_open: Whether a run with a failed process goes on when all have ended, until it is stopped;
            ``"always"``: any run.

    Attributes:
        url: The one address; ``None`` without a proxy, or before `run` has bound it.
        ended: How it ended, once it has.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        sinks: Iterable[Sink] = (),
        window: Window | None = None,
        is_kept_open: bool | Literal["always"] = False,
    ) -> None:
        self.plan = plan
        self.url: str | None = None
        self.ended: RunEnded | None = None
        self._bus = Bus(self._snapshot)
        self.supervisor = Supervisor(
            plan,
            sinks=sinks,
            bus=self._bus,
            window=window,
            before_stop=self._before_stop,
            is_kept_open=is_kept_open,
        )
        self._port = 0
        self._proxy: Proxy | None = None
        self._started: RunStarted | None = None
        self._started_at = 0.0
        self._stop_asked = trio.Event()
        self._stopped = trio.Event()
        self._culprit_found = trio.Event()
        self._clashing: set[str] = set()
        self._exit_code: int | None = None
        self._reason = ""

    def __repr__(self) -> str:
        return f"<Stack at {self.url or 'no address'}: {self.supervisor!r}>"

    def subscribe(self, observer: Observer, *kinds: type[Event]) -> Callable[[], None]:
        """Call `observer` with every event (of these kinds) from now on, after a snapshot.

        The result ends that.
        """
        return self._bus.subscribe(observer, *kinds)

    async def run(self, *, task_status: trio.TaskStatus[Self] = trio.TASK_STATUS_IGNORED) -> None:  # noqa: ASYNC128 - handed on
        """Run until all processes have ended, or until we are cancelled or stopped.

        Args:
            task_status: `nursery.start` goes on when the proxy serves and the processes are being spawned.

        Raises:
            ConfigError: The address cannot be listened on.
        """
        longest = max((each.stop_timeout for each in self.plan.processes), default=0.0)
        try:
            await run_gracefully(partial(self._run, task_status), grace=lambda: 2 * longest + _GRACE)
        finally:
            self._stopped.set()

    def events(self, *, limit: int = LIMIT) -> AsyncGenerator[Event, None]:
        """Give all events from now on, after a snapshot: ``async for event in stack.events()``.

        Args:
            limit: So many may wait to be read; then the oldest is lost, and a `Notice` says how many were.
        """
        return feed(self._bus, self._stopped, limit=limit)

    def start(self, name: str) -> None:
        """Start a process anew if it has ended; see `Supervisor.start`."""
        self.supervisor.start(name)

    def start_failed(self) -> None:
        """Start again whatever has failed."""
        for name, event in self.snapshot().items():
            if event.state is State.FAILED:
                self.start(name)

    async def restart(self, name: str) -> None:
        """Stop a process if it runs, and start it anew; see `Supervisor.restart`."""
        await self.supervisor.restart(name)

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a process; see `Supervisor.signal`."""
        self.supervisor.signal(name, number)

    async def wait_ready(self, names: Iterable[str] | None = None, timeout: float = inf) -> None:  # noqa: ASYNC109
        """Wait until processes are ready; see `Supervisor.wait_ready`."""
        await self.supervisor.wait_ready(names, timeout)

    def snapshot(self) -> Mapping[str, StateChanged]:
        """Return the newest state of every process, by name."""
        return self.supervisor.snapshot()

    async def stop(
        self, name: str | None = None, *, exit_code: int | None = None, reason: str = "stopped"
    ) -> None:
        """Stop everything, or one process, and wait until nothing is left of that.

        Args:
            name: The process; by default all of them, and the run with them.
            exit_code: What `RunEnded` is to say; by default it follows from how the processes ended. Who asks
                first is heard, unless that was for 0.
            reason: Likewise.
        """
        if name is not None:
            await self.supervisor.stop(name)
            return
        if not self._stop_asked.is_set() or (exit_code and not self._exit_code):
            self._exit_code, self._reason = exit_code, reason
            self._stop_asked.set()
        await self._stopped.wait()

    @property
    def is_stopping(self) -> bool:
        """Whether somebody has asked for the end."""
        return self._stop_asked.is_set()

    async def until_stopping(self) -> None:
        """Wait until somebody asks for the end."""
        await self._stop_asked.wait()

    def kill(self) -> None:
        """End all processes at once, by SIGKILL. Does not wait: `stop` does."""
        self.supervisor.kill()

    async def _run(self, task_status: trio.TaskStatus[Self], cancelled: trio.Event) -> None:
        plan = self.plan.proxy
        listeners = sockets.bind(plan.host, plan.port) if plan else []
        self._begin(listeners)
        self._bus.subscribe(self._look_for_culprit)
        self._bus.subscribe(self._look_for_clash)
        async with trio.open_nursery() as nursery:
            proxy = None
            if plan is not None:
                # A plain Procfile runner starts a third faster without it.
                from orchestra.proxy.server import Proxy  # noqa: PLC0415

                proxy = self._proxy = Proxy(plan, listeners, bus=self._bus)
                self._bus.subscribe(proxy.observe)
                await nursery.start(proxy.run)
            all_ended = trio.Event()

            async def supervise(*, task_status: trio.TaskStatus[Supervisor]) -> None:  # noqa: ASYNC128 - handed on
                await self.supervisor.run(task_status=task_status)
                all_ended.set()

            await nursery.start(supervise)
            task_status.started(self)
            await self._until_the_end(all_ended, cancelled)
            if proxy is not None:
                with trio.move_on_after(_PROXY_GRACE):
                    await proxy.close()
            await self.supervisor.stop()
            self._finish()
            nursery.cancel_scope.cancel()

    async def _until_the_end(self, all_ended: trio.Event, cancelled: trio.Event) -> None:
        async with trio.open_nursery() as nursery:

            async def end_with(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with, cancelled)
            nursery.start_soon(end_with, self._stop_asked)
            nursery.start_soon(end_with, self._culprit_found)
            await all_ended.wait()
            nursery.cancel_scope.cancel()

    async def _before_stop(self, process: str) -> None:
        if self._proxy is not None:
            await self._proxy.before_stop(process)

    def _look_for_culprit(self, event: Event) -> None:
        is_end = isinstance(event, StateChanged) and event.state.is_ended
        if is_end and culprit(self.plan.exit_on, self.supervisor.ends) is not None:
            self._culprit_found.set()

    def _look_for_clash(self, event: Event) -> None:
        """Say what to do if a process has died because it wants the port that is ours."""
        if not isinstance(event, StateChanged) or event.state not in (State.BACKING_OFF, State.FAILED):
            return
        if self.plan.proxy is None or event.process in self._clashing:
            return
        port = self._port
        said = "\n".join(self.supervisor.tail(event.process))
        if IN_USE.search(said) and re.search(rf"(?<!\d){port}(?!\d)", said):
            self._clashing.add(event.process)
            text = f"it wants port {port}, which is orchestra's own"
            hint = "Have it listen on $PORT, or give orchestra another address: --listen."
            self._bus.notice("port-clash", text, hint=hint, process=event.process)

    def _begin(self, listeners: Sequence[socket.socket]) -> None:
        if self.plan.proxy is not None:
            self._port = listeners[0].getsockname()[1]
            self.url = sockets.Listening(self.plan.proxy.host, self._port).url
        started = RunStarted(
            version=__version__,
            pid=os.getpid(),
            procfile=str(self.plan.procfile or ""),
            url=self.url,
            processes=tuple(process.name for process in self.plan.processes),
        )
        self._started_at = trio.current_time()
        self._started = self._bus.emit(started)
        if self.plan.proxy is not None and not ipaddress.ip_address(self.plan.proxy.host).is_loopback:
            text = f"{self.url} can be reached from other machines, and so can all that is behind it"
            hint = "Give --listen 127.0.0.1:PORT if that is not meant."
            self._bus.notice("not-loopback", text, hint=hint)
        who_is_who = (_who_is_who(self.plan.proxy),) if self.plan.proxy is not None else ()
        for note in (*(Note(text) for text in who_is_who), *self.plan.notes):
            self._bus.notice("plan", note.text, level=note.level, hint=note.hint)

    def _finish(self) -> None:
        assert self._started is not None  # noqa: S101 - by _begin
        exit_code, reason = self._exit_code, self._reason
        ends = self.supervisor.ends
        if exit_code is None:
            exit_code = run_exit_code(self.plan.exit_on, ends)
        life = culprit(self.plan.exit_on, ends) or culprit("failure", ends)
        if not reason and life is not None:
            reason = f"{life.plan.name} {life.state.value}: {life.reason}"
        if not reason:
            reason = "all completed" if len(ends) == len(self.plan.processes) else "cancelled"
        duration = trio.current_time() - self._started_at
        self.ended = self._bus.emit(RunEnded(exit_code=exit_code, reason=reason, duration=duration))

    def _snapshot(self) -> Iterator[Event]:
        if self._started is not None:
            yield self._started
            yield from self.supervisor.snapshot().values()


def _who_is_who(proxy: ProxyPlan) -> str:
    """Say who is asked for what, and why that one: a wrong guess of ours is seen at once."""

    def said(upstream: UpstreamPlan, reason: str) -> str:
        match upstream:
            case FromProcess(name=name):
                who = name
            case AtUrl():
                who = sockets.Listening(upstream.host, upstream.port).url
            case Role.UNDECIDED:
                who = " or ".join(proxy.candidates)
            case None:
                return "none"
            case _:
                assert_never(upstream)
        return f"{who} ({reason})" if reason else who

    backend = said(proxy.backend, proxy.backend_reason)
    return f"backend: {backend}; frontend: {said(proxy.frontend, proxy.frontend_reason)}"
