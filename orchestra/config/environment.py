"""What each child gets as its environment: ports, siblings' addresses, the project's own tools on `PATH`.

Tools are found as if the project's virtual environment were activated.

Not here: `os.environ`; all environments are arguments and results. ``.env`` files: `dotenv`.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from orchestra.config.files import is_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["PORT_VARIABLES", "for_child", "mentions_port", "sibling_prefix", "with_tools"]

# The variables that tell a child its port: the common one, uvicorn's and Flask's.
PORT_VARIABLES = ("PORT", "UVICORN_PORT", "FLASK_RUN_PORT")

_PORT_IN_COMMAND = re.compile(rf"\$(?:{{(?:{'|'.join(PORT_VARIABLES)})\b|(?:{'|'.join(PORT_VARIABLES)})\b)")


def with_tools(
    env: Mapping[str, str], *, root: Path, scripts: str | None, cwd: Path | None = None, is_app: bool = False
) -> dict[str, str]:
    """Give an environment in which the project's own tools are found.

    An activated environment is left as it is. Without one, ``.venv`` in `cwd` or in `root` is used as if it
    were activated. The scripts that were installed beside orchestra are found last of all; but where
    there is no such environment, an application runs in the one that orchestra is installed in.

    Args:
        env: The environment so far.
        root: The Procfile's folder.
        scripts: ``sysconfig.get_path("scripts")`` of the Python that runs orchestra; ``None`` adds nothing.
        cwd: The process's folder.
        is_app: Whether it is for an application, which runs in the Python that is found.
    """
    new = dict(env)
    folders = (new.get("PATH") or os.defpath).split(os.pathsep)
    venvs = (folder / ".venv" for folder in (cwd or root, root))
    venv = next((venv for venv in venvs if is_file(venv / "bin" / "python")), None)
    if venv is not None and not new.get("VIRTUAL_ENV"):
        new["VIRTUAL_ENV"] = str(venv)
        new.pop("PYTHONHOME", None)  # as its `activate` does: it would lead back to another Python
        folders.insert(0, str(venv / "bin"))
    if scripts and is_app and not (new.get("VIRTUAL_ENV") or new.get("CONDA_PREFIX")):
        folders.insert(0, scripts)
    elif scripts and scripts not in folders:
        folders.append(scripts)
    new["PATH"] = os.pathsep.join(folders)
    return new


def for_child(env: Mapping[str, str], *, port: int | None, siblings: Mapping[str, int]) -> dict[str, str]:
    """Give the environment of one child, all but what the supervisor adds.

    Args:
        env: From the operating system, env files and settings, `with_tools`.
        port: What ``PORT`` says.
        siblings: The ports of other processes, by name: ``ORCHESTRA_<NAME>_PORT`` and ``_URL`` tell them.
    """
    new = {"PYTHONUNBUFFERED": "1", **env}
    for name, sibling in siblings.items():
        new[f"{sibling_prefix(name)}_PORT"] = str(sibling)
        new[f"{sibling_prefix(name)}_URL"] = f"http://127.0.0.1:{sibling}"
    if port is not None:
        new.update(dict.fromkeys(PORT_VARIABLES, str(port)))
    return new


def sibling_prefix(process: str) -> str:
    """Give what the variables that tell of ``notes-api`` begin with: ``ORCHESTRA_NOTES_API``."""
    return f"ORCHESTRA_{process.upper().replace('-', '_')}"


def mentions_port(command: str) -> bool:
    """Whether a command uses the port that it is given: ``$PORT``, ``${PORT}``, ``${PORT:-8000}``."""
    return _PORT_IN_COMMAND.search(command) is not None
