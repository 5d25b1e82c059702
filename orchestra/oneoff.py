"""``orchestra exec``: runs a command with the environment, the folder and the ports of a process.

If the project runs, these come from its run, with the real ports and the one address. Otherwise they are
planned as for a new run.

Not here: finding the run (`remote`), the contents of a child's environment (`config/environment`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from orchestra.child.families import MARKS
from orchestra.config.plan import Address
from orchestra.control.local import Place
from orchestra.errors import ConfigError
from orchestra.planning import load
from orchestra.remote import NoRun, choose

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["place_of", "replace_us"]

# As in shells.
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def place_of(name: str | None, environ: Mapping[str, str], folder: Path, *, pid: int | None) -> Place:
    """Find the environment of a process, by default the backend, or the first one; or `OrchestraError`.

    It is a process of the run with this `pid`, or of the project in the folder, whether that runs or not.
    """
    try:
        run = choose(environ, folder, pid=pid)
    except NoRun as exc:
        if pid is not None or exc.is_unclear:
            raise
    else:
        return run.place(name)
    plan = load(environ=environ)
    process = plan.named(name)
    if process is None:
        known = ", ".join(each.name for each in plan.processes)
        raise ConfigError(f"there is no process called {name}", hint=f"There are {known}.")
    at = plan.proxy
    url = Address(at.host, at.port).url if at is not None and at.port else None
    return Place.of(process, environ, url)


def replace_us(place: Place, command: Sequence[str]) -> NoReturn:
    """Replace this process by the command; `ConfigError` if it cannot be run."""
    # A command that outlives restarts must not be taken for a leftover.
    env = {name: value for name, value in place.env.items() if name not in MARKS}
    try:
        os.chdir(place.cwd)
        os.execvpe(command[0], list(command), env)  # noqa: S606 - the user's own
    except OSError as exc:
        text = f"{command[0]} cannot be run in {place.cwd}: {exc.strerror}"
        error = ConfigError(text, hint="For that of a process: orchestra exec NAME -- COMMAND")
        error.exit_code = _NOT_FOUND if isinstance(exc, FileNotFoundError) else _NOT_EXECUTABLE
        raise error from exc
