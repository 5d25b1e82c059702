"""What a command needs on this machine and does not find: a folder, a program, a closed quote.

Not here: reading commands (`command`), starting them.
"""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestra.config.select import Draft
    from orchestra.errors import ConfigError

__all__ = ["check"]

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


def check(process: Draft) -> None:
    """Refuse what cannot start; warn of what fails unless something puts a program there in time."""
    reading, problems, correct = process.reading, process.file.problems, "or correct the command."

    def message(text: str, hint: str) -> ConfigError:
        return process.error(f"{process.name}: {text}", hint=hint)

    needs = reading.needs
    if needs and process.install is not None:
        # What is not sure of the command is not sure of its installation: PATH may change before it.
        needs = (*needs, process.install.argv[0])
    lacking = next((program for program in needs if not _is_on_path(program, process)), None)
    if reading.missing is not None:
        problems.add(message(f"cd to {reading.missing}: there is no such folder", f"Create it, {correct}"))
    elif lacking is not None:
        text = f"it needs {' and '.join(dict.fromkeys(needs))}, but {lacking} is not found on PATH"
        problems.add(message(text, f"{_NEXT_STEPS.get(lacking, _NODE)}."))
    try:
        shlex.split(process.command, comments=True)
    except ValueError:
        problems.warn(message("a quote is opened and not closed", "Close it."))
    program, cwd = reading.program, reading.program_cwd
    if not program or program in reading.needs or ("node_modules/" in program and process.install):
        return
    if "/" not in program:
        if not _is_on_path(program, process):
            problems.warn(message(f"{program} is not found on PATH", f"Install it, {correct}"))
    elif cwd is not None and not (cwd / program).exists():
        problems.warn(message(f"there is no {cwd / program}", f"Create it, {correct}"))
    elif cwd is not None and not os.access(cwd / program, os.X_OK):
        hint = f"Make it so: chmod +x {cwd / program}"
        problems.warn(message(f"{cwd / program} is not executable", hint))


def _is_on_path(program: str, process: Draft) -> bool:
    return shutil.which(program, path=process.env["PATH"]) is not None
