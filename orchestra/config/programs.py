"""What a command needs on this machine and does not find: a folder, a program, a closed quote.

Not here: reading commands (`command`), starting them.
"""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING

from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestra.config.command import Reading
    from orchestra.config.select import Written

__all__ = ["check", "missing"]

_NODE = "Install Node.js 20.19 or newer: https://nodejs.org"
_NEXT_STEPS = {
    "npm": f"{_NODE} (npm comes with it)",
    "npx": f"{_NODE} (npx comes with it)",
    "pnpm": "Install it: `corepack enable pnpm`, or `npm install -g pnpm`",
    "yarn": "Install it: `corepack enable yarn`, or `npm install -g yarn`",
    "bun": "Install it: https://bun.sh, or `npm install -g bun`",
    "bunx": "Install Bun: https://bun.sh, or `npm install -g bun`",
    "corepack": "Install it: `npm install -g corepack`",
    "vite": "Run it through its package: `npx vite`",
}


def check(process: Written, reading: Reading, needs: Sequence[str], env: Mapping[str, str]) -> None:
    """Refuse what cannot start: a folder that is not there, or what a package manager needs."""
    if reading.missing is not None:
        hint = "Create it, or correct the command."
        raise _wrong(process, f"cd to {reading.missing}: there is no such folder", hint)
    for program in needs:
        if shutil.which(program, path=env.get("PATH")) is None:
            all_needs = " and ".join(dict.fromkeys(needs))
            raise _wrong(
                process,
                f"it needs {all_needs}, but {program} is not found on PATH",
                f"{_NEXT_STEPS.get(program, _NODE)}.",
            )


def missing(
    process: Written, reading: Reading, env: Mapping[str, str], *, is_installed: bool
) -> Iterator[ConfigError]:
    """Say what a command is going to fail by, unless something puts it there in time: a program."""
    try:
        shlex.split(process.command, comments=True)
    except ValueError:
        yield _wrong(process, "a quote is opened and not closed", "Close it.")
    program, cwd, correct = reading.program, reading.program_cwd, "or correct the command."
    if not program or program in reading.needs or ("node_modules/" in program and not is_installed):
        return
    if "/" not in program:
        if shutil.which(program, path=env.get("PATH", os.defpath)) is None:
            yield _wrong(process, f"{program} is not found on PATH", f"Install it, {correct}")
    elif cwd is not None and not (cwd / program).exists():
        yield _wrong(process, f"there is no {cwd / program}", f"Create it, {correct}")
    elif cwd is not None and not os.access(cwd / program, os.X_OK):
        yield _wrong(process, f"{cwd / program} is not executable", f"Make it so: chmod +x {cwd / program}")


def _wrong(process: Written, message: str, hint: str) -> ConfigError:
    path, line = process.source.path, process.source.line
    return ConfigError(f"{process.name}: {message}", path=path, line=line, hint=hint)
