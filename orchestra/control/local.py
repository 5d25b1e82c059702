"""The interface for programs on this machine: the answer of `state`, and the body of a POST to `order`.

Not here: which programs are admitted (`doors`), the client's side (`remote`), carrying orders out
(`changing`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self, TypeAlias

from msgspec import Struct

from orchestra.config.environment import with_address
from orchestra.config.schema import DashboardSettings
from orchestra.events import ErrorShown, StateChanged  # noqa: TC001 - msgspec reads them

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.config.plan import ProcessPlan

__all__ = ["Order", "Place", "ProcessVerb", "RunState", "Verb"]

ProcessVerb: TypeAlias = Literal["start", "stop", "restart", "kill", "signal", "send"]
Verb: TypeAlias = ProcessVerb | Literal["reload", "down"]


class RunState(Struct, frozen=True, kw_only=True):
    """The current state of a run.

    Attributes:
        processes: The newest state of each process, in the order of the plan.
        errors: The errors that pages show.
        dashboard: The settings of its dashboard, for another terminal.
    """

    url: str | None
    procfile: str | None
    root: str
    pid: int
    processes: tuple[StateChanged, ...]
    errors: tuple[ErrorShown, ...] = ()
    dashboard: DashboardSettings = DashboardSettings()


class Order(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An order for a run.

    Attributes:
        do: The order; `down` and `reload` are for the run and the pages, the others for processes.
        processes: Their names, instances with their numbers.
        text: The input, for `send`.
    """

    do: Verb
    processes: tuple[str, ...] = ()
    signal: int = 0
    text: str = ""


class Place(Struct, frozen=True, kw_only=True):
    """The folder and environment of a process of the plan, for a command."""

    cwd: str
    env: dict[str, str]

    @classmethod
    def of(cls, process: ProcessPlan, environ: Mapping[str, str], url: str | None) -> Self:
        """Give those of a process; `environ` is the environment of orchestra, `url` the one address."""
        env = environ if process.env is None else process.env
        return cls(cwd=str(process.cwd), env=with_address(env, url))
