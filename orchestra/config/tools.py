"""Which programs a folder has of its own: those of its virtual environment and of its packages.

One rule for ``run``, ``check`` and ``init``: a process has the tools of the folder in which its command calls
its first program (after ``cd``, or its ``cwd``), and those of the parent folders up to the project's, the
nearest first. A virtual environment is used as if it were activated. One that is active already stays active,
unless it is only orchestra's own and the folder has another one. Commands that find their environment
themselves (``uv run``, ``poetry run``) are left alone.

Files are looked at, nothing is executed. Not here: `os.environ`; all environments are arguments and results.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from orchestra.config.files import is_file, text_if_any, upward
from orchestra.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "Program",
    "broken_environment",
    "environment_in",
    "find_program",
    "is_own",
    "launcher_of",
    "shown",
    "virtual_environment",
    "with_tools",
]

_VIRTUAL_ENVIRONMENTS = (".venv", "venv", "env")
# Which tool keeps a project's environment, and so how its programs are run, by the lock file.
_LAUNCHERS = {"uv.lock": "uv", "poetry.lock": "poetry", "pdm.lock": "pdm", "Pipfile": "pipenv"}
_PYTHON = regex(r"python(\d(\.\d+)?)?")
# The first line of a script: `#!/x/python3`, or, for a path that is too long, a shell that executes it.
_INTERPRETER = regex(rb"#! *(?:/usr/bin/env +(?:-S +)?)?([^\s]+)|'''exec' +\"?([^\"\n]+?)\"? +\"\$0\"")
_NAMED_VERSION = regex(r"(\d+\.\d+)$")
_VERSION = regex(r"^version(?:_info)? *= *(\d+\.\d+(?:\.\d+)?)", re.MULTILINE)


def environment_in(folder: Path, env: Mapping[str, str]) -> Path | None:
    """The virtual environment in a folder."""
    names = [*_VIRTUAL_ENVIRONMENTS]
    if is_file(folder / "uv.lock") and (name := env.get("UV_PROJECT_ENVIRONMENT")):
        names.insert(0, name)
    found = (folder / name for name in names)
    return next((each for each in found if is_file(each / "bin" / "python")), None)


def virtual_environment(folder: Path, root: Path, env: Mapping[str, str]) -> Path | None:
    """The nearest virtual environment, from `folder` up to `root`."""
    found = (environment_in(each, env) for each in _searched(folder, root))
    return next((each for each in found if each is not None), None)


def broken_environment(folder: Path, root: Path) -> Path | None:
    """The nearest folder called like a virtual environment, if its Python cannot be executed."""
    named = (each / name for each in _searched(folder, root) for name in _VIRTUAL_ENVIRONMENTS)
    nearest = next((each for each in named if is_file(each / "pyvenv.cfg")), None)
    return nearest if nearest is not None and not is_file(nearest / "bin" / "python") else None


def _searched(folder: Path, root: Path) -> list[Path]:
    """The folders to search for tools, from a folder up; for one outside the project also the project's."""
    return [*dict.fromkeys([*upward(folder, root), root])]


def launcher_of(folder: Path, root: Path) -> tuple[str, Path] | None:
    """The tool that keeps the environment of a folder, by the nearest lock file; and that file's folder."""
    for each in _searched(folder, root):
        for lock, tool in _LAUNCHERS.items():
            if is_file(each / lock):
                return tool, each
    return None


def with_tools(
    env: Mapping[str, str],
    *,
    folder: Path,
    root: Path,
    scripts: str | None,
    is_app: bool = False,
    is_launched: bool = False,
) -> dict[str, str]:
    """Give an environment with the tools of the folder in which a first program is called.

    The `scripts` that were installed beside orchestra (``None``: none) are found last of all. If there is no
    virtual environment, an application (`is_app`) runs in the one that orchestra is installed in.
    `is_launched`: the first program finds its environment itself.
    """
    new = dict(env)
    folders = (new.get("PATH") or os.defpath).split(os.pathsep)
    if is_launched and is_own(new.get("VIRTUAL_ENV"), scripts):
        del new["VIRTUAL_ENV"]
    # A package is looked for before it is installed, too.
    packages = [each for each in _searched(folder, root) if is_file(each / "package.json")]
    folders[:0] = [str(each / "node_modules" / ".bin") for each in packages]
    active, found = new.get("VIRTUAL_ENV"), virtual_environment(folder, root, env)
    if found is not None and not is_launched and (not active or is_own(active, scripts)):
        new["VIRTUAL_ENV"] = str(found)
        new.pop("PYTHONHOME", None)  # As its `activate` does: it would lead back to another Python.
        folders.insert(0, str(found / "bin"))
    if scripts and is_app and not (new.get("VIRTUAL_ENV") or new.get("CONDA_PREFIX")):
        folders.insert(0, scripts)
    elif scripts and scripts not in folders:
        folders.append(scripts)
    new["PATH"] = os.pathsep.join(folders)
    return new


def is_own(environment: str | None, scripts: str | None) -> bool:
    """Whether a virtual environment is the one that orchestra is installed in."""
    if not environment or scripts is None:
        return False
    return os.path.realpath(environment) == os.path.realpath(Path(scripts).parent)


class Program(Struct, frozen=True, kw_only=True):
    """A program that was found, and the Python that executes it.

    Attributes:
        interpreter: Its interpreter, if it is a script that names one, or a Python.
        prefix: The virtual environment of the interpreter; ``None`` if it has none.
        version: Its version, if that is known without running it: ``3.12.3``.
        is_own: Whether it is orchestra's own, and neither activated by the user nor the project's.
    """

    path: Path
    interpreter: Path | None = None
    prefix: Path | None = None
    version: str = ""
    is_own: bool = False

    @property
    def is_python(self) -> bool:
        """Whether its interpreter is a Python."""
        return self.interpreter is not None and _PYTHON.fullmatch(self.interpreter.name) is not None

    def in_words(self, root: Path) -> str:
        """Name it, and its Python, relative to the project's folder."""
        if not self.is_python:
            return shown(self.path, root)
        version = f"Python {self.version}" if self.version else "Python"
        where = f" of {shown(self.prefix, root)}" if self.prefix else f", {self.interpreter}"
        return f"{shown(self.path, root)} ({version}{where})"


def find_program(name: str, cwd: Path, env: Mapping[str, str], *, scripts: str | None) -> Program | None:
    """Look a program up as a shell in `cwd` would, with its Python; ``None`` if it is not found."""
    found = str(cwd / name) if "/" in name else shutil.which(name, path=env.get("PATH"))
    if found is None or not is_file(found):
        return None
    path = Path(found)
    interpreter = path if _PYTHON.fullmatch(path.name) else _interpreter_of(path, env)
    program = Program(path=path, interpreter=interpreter)
    if interpreter is None or not program.is_python:
        return program
    prefix = interpreter.parent.parent
    configured = text_if_any(prefix / "pyvenv.cfg")
    active = env.get("VIRTUAL_ENV") or env.get("CONDA_PREFIX")
    version = _VERSION.search(configured) or _NAMED_VERSION.search(os.path.realpath(interpreter))
    return replace(
        program,
        prefix=prefix if configured else None,
        version=version[1] if version else "",
        is_own=is_own(str(prefix), scripts) and not is_own(active, scripts),
    )


def _interpreter_of(path: Path, env: Mapping[str, str]) -> Path | None:
    try:
        with path.open("rb") as file:
            begin = file.read(1024)
    except OSError:
        return None
    matches = [*_INTERPRETER.finditer(begin)] if begin.startswith(b"#!") else []
    if not matches:
        return None
    named = os.fsdecode(matches[-1][2] or matches[0][1])
    # `env` looks it up.
    found = named if "/" in named else shutil.which(named, path=env.get("PATH"))
    return Path(found) if found else None


def shown(path: Path, root: Path) -> str:
    """Name a path for people: relative to `root` if it is inside."""
    if path == root:
        return "the project's folder"
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
