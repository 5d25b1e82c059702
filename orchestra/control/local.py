"""What programs ask of a run, and order it to do: the answer of `state`, and the body of a POST to `order`.

An order is begun, and not waited for: `state` shows what has become of it.

Not here: which programs may ask and order (`doors`), how they do (`remote`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeAlias

from msgspec import Struct

from orchestra.config.schema import DashboardSettings
from orchestra.errors import OrchestraError
from orchestra.events import ErrorShown, StateChanged  # noqa: TC001 - msgspec reads them

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    import trio

    from orchestra.config.plan import ProcessPlan

__all__ = ["Commanded", "Order", "Place", "RunState", "Verb", "carry_out"]

Verb: TypeAlias = Literal["start", "stop", "restart", "kill", "signal", "send", "reload", "down"]


class RunState(Struct, frozen=True, kw_only=True):
    """How a run is now.

    Attributes:
        processes: The newest state of each process, in the order of the plan.
        errors: Those that pages show.
        dashboard: The settings of its dashboard, for one in another terminal.
    """

    url: str | None
    procfile: str | None
    root: str
    pid: int
    processes: tuple[StateChanged, ...]
    errors: tuple[ErrorShown, ...] = ()
    dashboard: DashboardSettings = DashboardSettings()


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is to be done.

    Attributes:
        do: The order; `down` and `reload` are for the run and the pages, the others for processes.
        processes: Their names, instances with their numbers.
        text: What is typed, for `send`.
    """

    do: Verb
    processes: tuple[str, ...] = ()
    signal: int = 0
    text: str = ""


class Place(Struct, frozen=True, kw_only=True):
    """What a command needs to run as a process of the plan does."""

    cwd: str
    env: dict[str, str]

    @classmethod
    def of(cls, process: ProcessPlan, environ: Mapping[str, str]) -> Self:
        """Give that of a process; `environ` is the environment of orchestra."""
        return cls(cwd=str(process.cwd), env=dict(environ if process.env is None else process.env))


class Commanded(Protocol):
    """What carries out orders; a `Supervisor` does. `ending` is set when the run has been asked to end."""

    ending: trio.Event

    async def read_again(self) -> Collection[str]:
        """Follow the plan that the files make now; return which processes that has restarted."""

    def snapshot(self) -> Mapping[str, StateChanged]:
        """Return what there is to know of every process, by name."""

    def start(self, name: str) -> None:
        """Start a process again if it has ended."""

    async def stop(self, name: str | None = None, *, reason: str = ...) -> None:
        """Stop a process; without a name all of them, and the run."""

    def kill(self, name: str) -> None:
        """Kill a process; it stays stopped."""

    async def restart(self, name: str) -> None:
        """Stop a process if it runs, and start it again."""

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a process."""

    async def send(self, name: str, text: str) -> None:
        """Write to a process's standard input."""

    def reload(self, reason: str = ...) -> int:
        """Have every open page reload; return how many there are."""


async def carry_out(
    order: Order, run: Commanded, start_soon: Callable[[Callable[[], Awaitable[None]]], object]
) -> int:
    """Begin an order, or `OrchestraError`; return how many processes or pages it is about."""
    if order.do == "down":
        start_soon(partial(run.stop, reason="asked to"))
        return 0
    if order.do == "reload":
        return run.reload()
    if run.ending.is_set() and order.do != "send":
        raise OrchestraError("the run is ending")
    restarted: Collection[str] = ()
    if order.do in ("restart", "start"):
        restarted = await run.read_again()  # what is started again is what the files say now
    for name in order.processes:
        match order.do:
            case "start" | "restart" if name in restarted or name not in run.snapshot():
                pass
            case "start":
                run.start(name)
            case "stop":
                start_soon(partial(run.stop, name))
            case "kill":
                run.kill(name)
            case "restart":
                start_soon(partial(run.restart, name))
            case "signal" if run.snapshot()[name].pid is None:
                raise OrchestraError(f"{name} does not run: there is nothing to signal")
            case "signal":
                run.signal(name, order.signal)
            case "send":
                await run.send(name, order.text)
    return len(order.processes)
