"""A whole stack for callers without trio: plain code, asyncio, and (`pytest_plugin.py`) test suites.

Strategy. trio runs in a thread of its own; what the caller asks for is handed over by `trio.from_thread`. On
the way in everything gets ready; on the way out, however that comes about, everything is stopped, and the
thread has ended. What goes wrong there is raised here.

Never here: signal handlers, printing, log handlers.
"""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from orchestra.config.plan import Plan
from orchestra.errors import OrchestraError, StartError
from orchestra.stack import Stack, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from orchestra.events import Observer, StateChanged

__all__ = ["Running", "running", "running_async"]

_T = TypeVar("_T")

READY_TIMEOUT = 120.0


class Running:
    """A stack that runs in a thread. All methods may be called from any other thread, and wait.

    Attributes:
        url: The one address; ``None`` without a proxy.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.url: str | None = None
        self._stack: Stack | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._begun = threading.Event()
        self._lock = threading.Lock()
        self._has_ended = False
        self._fault: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name="orchestra", daemon=True)

    def __repr__(self) -> str:
        return f"<Running {self._stack!r}>"

    def wait_ready(self, names: Iterable[str] | None = None, timeout: float = READY_TIMEOUT) -> None:
        """Wait until processes are ready; see `Supervisor.wait_ready`."""
        self._ask(lambda stack: stack.wait_ready(names, timeout))

    def start(self, name: str) -> None:
        """Start a process anew if it has ended; see `Supervisor.start`."""
        self._ask(lambda stack: _at_once(lambda: stack.start(name)))

    def stop(self, name: str) -> None:
        """Stop a process; see `Supervisor.stop`."""
        self._ask(lambda stack: stack.supervisor.stop(name))

    def restart(self, name: str) -> None:
        """Stop a process if it runs, and start it anew; see `Supervisor.restart`."""
        self._ask(lambda stack: stack.restart(name))

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a process; see `Supervisor.signal`."""
        self._ask(lambda stack: _at_once(lambda: stack.signal(name, number)))

    def snapshot(self) -> Mapping[str, StateChanged]:
        """Return the newest state of every process, by name."""
        return self._ask(lambda stack: _at_once(stack.snapshot))

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer`, in the stack's thread, with every event from now on, after a snapshot."""
        unsubscribe = self._ask(lambda stack: _at_once(lambda: stack.subscribe(observer)))
        return lambda: self._ask(lambda _: _at_once(unsubscribe))

    def _ask(self, question: Callable[[Stack], Awaitable[_T]]) -> _T:
        stack, token = self._stack, self._token
        if stack is None or token is None or not self._thread.is_alive():
            raise OrchestraError("the stack does not run any more")

        async def answer() -> _T:
            return await question(stack)

        try:
            return trio.from_thread.run(answer, trio_token=token)
        except (trio.RunFinishedError, trio.Cancelled) as exc:
            raise OrchestraError("the stack does not run any more") from exc  # noqa: ASYNC104 - not trio's thread

    def begin(self) -> None:
        """Start the thread, and wait until the processes are being started."""
        with self._lock:
            if self._has_ended:  # whoever wanted it has left before it began
                return
            self._thread.start()
        self._begun.wait()

    def end(self) -> None:
        """Stop everything, and wait until the thread has ended; raise what went wrong in it."""
        with self._lock:
            self._has_ended = True
        if self._thread.is_alive():
            self._begun.wait()
            with suppress(OrchestraError):  # it has ended by itself meanwhile
                self._ask(lambda stack: stack.stop())
            self._thread.join()
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def _live(self) -> None:
        try:
            trio.run(self._run)
        except BaseException as exc:  # noqa: ASYNC103, BLE001 - it is raised in the caller's thread
            self._fault = _bare(exc)
        finally:
            self._begun.set()

    async def _run(self) -> None:
        stack = Stack(self.plan, is_kept_open="always")
        async with trio.open_nursery() as nursery:
            await nursery.start(stack.run)
            self._stack, self._token, self.url = stack, trio.lowlevel.current_trio_token(), stack.url
            self._begun.set()


async def _at_once(function: Callable[[], _T]) -> _T:
    await trio.lowlevel.checkpoint()
    return function()


def _bare(exc: BaseException) -> BaseException:
    """Take a single exception out of the groups that nurseries put around it."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc


@contextmanager
def running(
    what: Plan | Path | str | None = None, *, timeout: float = READY_TIMEOUT, **options: Any
) -> Iterator[Running]:
    """Run a stack around a block of plain code: ready when it is entered, gone when it is left.

        >>> import orchestra
        >>> plan = orchestra.Plan(processes=(orchestra.ProcessPlan(name="hello", command="sleep 1000"),))
        >>> with orchestra.running(plan) as stack:
        ...     stack.snapshot()["hello"].state
        <State.RUNNING: 'running'>

    Args:
        what: A plan, or what `load` takes: a Procfile, by default that of the current folder.
        timeout: Seconds in which everything has to be ready.
        options: For `load`.

    Raises:
        ConfigError: Anything is wrong with the Procfile or the settings.
        StartError: A process has failed, or is not ready in time; with its last lines.
    """
    stack = Running(what if isinstance(what, Plan) else load(what, **options))
    try:
        stack.begin()
        if stack._fault is None:  # noqa: SLF001 - it is ours
            _wait_ready(stack, timeout)
            yield stack
    finally:
        stack.end()


def _wait_ready(stack: Running, timeout: float) -> None:
    try:
        stack.wait_ready(timeout=timeout)
    except StartError as exc:
        # An exception is often all that is seen of a process: of its last lines, too.
        if exc.tail:
            exc.add_note("\n".join([f"the last lines of {exc.name}:", *exc.tail]))
        raise


@asynccontextmanager
async def running_async(
    what: Plan | Path | str | None = None, *, timeout: float = READY_TIMEOUT, **options: Any
) -> AsyncIterator[Running]:
    """Run a stack around a block of asyncio code; see `running`. Its methods block: `asyncio.to_thread`."""
    import asyncio  # noqa: PLC0415 - only for those who use it

    stack = Running(what if isinstance(what, Plan) else await asyncio.to_thread(load, what, **options))
    try:
        await asyncio.to_thread(stack.begin)
        if stack._fault is None:  # noqa: SLF001 - it is ours
            await asyncio.to_thread(_wait_ready, stack, timeout)
            yield stack
    finally:
        await asyncio.shield(asyncio.to_thread(stack.end))  # noqa: ASYNC102 - this is asyncio's
