"""A run for callers without trio: plain code, asyncio, and (`pytest_plugin`) test suites.

Strategy: trio runs in a thread of its own, and every method of the `Supervisor` is called there, by
`trio.from_thread`. When the context manager is entered, all processes become ready; when it is left, for
whatever reason, all are stopped and the thread ends. An exception in the thread is raised in the caller.

Not here: signal handlers, printing, log handlers.
"""

from __future__ import annotations

import inspect
import threading
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, overload

import trio

from orchestra.config.plan import Plan
from orchestra.errors import OrchestraError, StartError
from orchestra.planning import load
from orchestra.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from pathlib import Path

    from orchestra.bus import Observer
    from orchestra.events import Event

__all__ = ["Running", "running", "running_async"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

READY_TIMEOUT = 120.0


@overload
def _in_thread(
    method: Callable[Concatenate[Supervisor, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[Running, _P], _T]: ...
@overload
def _in_thread(
    method: Callable[Concatenate[Supervisor, _P], _T],
) -> Callable[Concatenate[Running, _P], _T]: ...
def _in_thread(method: Any) -> Any:
    """Make a method of `Supervisor` callable from another thread; it waits for the result."""

    @wraps(method)
    def call(self: Running, *args: Any, **kwargs: Any) -> Any:
        return self._ask(lambda supervisor: method(supervisor, *args, **kwargs))

    return call


class Running:
    """A run in a thread. Its methods are those of `Supervisor`, callable from any other thread."""

    wait_ready = _in_thread(Supervisor.wait_ready)
    start = _in_thread(Supervisor.start)
    stop = _in_thread(Supervisor.stop)
    kill = _in_thread(Supervisor.kill)
    restart = _in_thread(Supervisor.restart)
    change = _in_thread(Supervisor.change)
    signal = _in_thread(Supervisor.signal)
    send = _in_thread(Supervisor.send)
    snapshot = _in_thread(Supervisor.snapshot)
    tail = _in_thread(Supervisor.tail)

    def __init__(self, plan: Plan) -> None:
        self._supervisor = Supervisor(plan, is_kept_open="always")
        # Cancelled by a caller that leaves before the thread has begun.
        self._started: Future[trio.lowlevel.TrioToken] = Future()
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._run_in_thread, name="orchestra", daemon=True)

    def __repr__(self) -> str:
        return f"<Running {self._supervisor!r}>"

    @property
    def url(self) -> str | None:
        """The one address; ``None`` without a proxy."""
        return self._supervisor.url

    @property
    def plan(self) -> Plan:
        """The plan that the run follows now."""
        return self._supervisor.plan

    def subscribe(self, observer: Observer, *kinds: type[Event]) -> Callable[[], None]:
        """Call `observer`, in the run's thread, as `Supervisor.subscribe` does."""
        unsubscribe = self._ask(lambda supervisor: supervisor.subscribe(observer, *kinds))
        return lambda: self._ask(lambda _: unsubscribe())

    def _ask(self, question: Callable[[Supervisor], Any]) -> Any:
        """Call `question` in trio's thread; return its result, awaited if necessary."""

        async def answer() -> Any:
            result = question(self._supervisor)
            await trio.lowlevel.checkpoint()
            return await result if inspect.isawaitable(result) else result

        try:
            return trio.from_thread.run(answer, trio_token=self._started.result())
        except (trio.RunFinishedError, trio.Cancelled) as exc:
            raise OrchestraError("the run has ended") from exc  # noqa: ASYNC104 - not trio's thread

    def begin(self, timeout: float) -> None:
        """Start the thread, and wait until everything is ready.

        Args:
            timeout: Seconds within which everything has to be ready.

        Raises:
            StartError: It is not ready; with the last lines of the process.
            BaseException: An error in the thread.
        """
        self._thread.start()
        self._started.result()
        try:
            self.wait_ready(timeout=timeout)
        except StartError as exc:
            # Often only the exception is seen of a process, so its last lines have to be part of it.
            if exc.tail:
                exc.add_note("\n".join([f"the last lines of {exc.name}:", *exc.tail]))
            raise

    def end(self) -> None:
        """Stop everything, and wait until the thread has ended; raise an error from it."""
        if self._started.cancel():
            return
        if self._started.exception() is None:
            with suppress(OrchestraError):  # it has ended by itself meanwhile
                self.stop()
        self._thread.join()
        if self._fault is not None:
            raise self._fault

    def _run_in_thread(self) -> None:
        if not self._started.set_running_or_notify_cancel():
            return
        try:
            trio.run(self._run)
        except BaseException as exc:  # noqa: ASYNC103, BLE001 - it is raised in the caller's thread
            if self._started.done():
                self._fault = _bare(exc)
            else:
                self._started.set_exception(_bare(exc))

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self._supervisor.run)
            self._started.set_result(trio.lowlevel.current_trio_token())


def _bare(exc: BaseException) -> BaseException:
    """Take a single exception out of the groups that nurseries put around it."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


@contextmanager
def running(
    what: Plan | Path | str | None = None, *, timeout: float = READY_TIMEOUT, **options: Any
) -> Iterator[Running]:
    """Run a plan around a block of plain code: ready when it is entered, gone when it is left.

        >>> import orchestra
        >>> plan = orchestra.Plan(processes=(orchestra.ProcessPlan(name="hello", command="sleep 1000"),))
        >>> with orchestra.running(plan) as stack:
        ...     stack.snapshot()["hello"].state
        <State.RUNNING: 'running'>

    Args:
        what: A plan, or what `load` takes: a Procfile, by default that of the current folder.
        timeout: Seconds within which everything has to be ready.
        options: For `load`.

    Raises:
        ConfigError: The Procfile or the settings are not valid.
        StartError: A process has failed, or was not ready in time; with its last lines.
    """
    run = Running(what if isinstance(what, Plan) else load(what, claims=True, **options))
    try:
        run.begin(timeout)
        yield run
    finally:
        run.end()


@asynccontextmanager
async def running_async(
    what: Plan | Path | str | None = None, *, timeout: float = READY_TIMEOUT, **options: Any
) -> AsyncIterator[Running]:
    """Run a plan around a block of asyncio code; see `running`. Its methods block: `asyncio.to_thread`."""
    import asyncio  # noqa: PLC0415 - only where it is used

    if not isinstance(what, Plan):
        what = await asyncio.to_thread(load, what, claims=True, **options)
    run = Running(what)
    try:
        await asyncio.to_thread(run.begin, timeout)
        yield run
    finally:
        await asyncio.shield(asyncio.to_thread(run.end))  # noqa: ASYNC102 - this is asyncio's
