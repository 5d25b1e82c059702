"""Environments: the one that the plan is made in, and the one that each child gets.

The first is the environment of the operating system with the ``.env`` files over it. Their grammar is
python-dotenv's (quotes, ``export``, multi-line values, ``${VAR}`` and ``${VAR:-default}``); what it would
skip with a warning, or drop in silence, is an error here that names file and line. ``${VAR}`` sees what was
set above it, in earlier files, and in the operating system's environment, in this order.

The second adds what orchestra sets: ports, the siblings' addresses, and a `PATH` on which the project's own
tools are found, as if its virtual environment were activated.

Never here: `os.environ`. All environments are arguments and results.
"""

from __future__ import annotations

import io
import os
import re
from typing import TYPE_CHECKING

from dotenv.parser import parse_stream
from dotenv.variables import parse_variables

from orchestra.config.faults import Faults
from orchestra.config.procfile import is_file, read_text
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from dotenv.parser import Binding

__all__ = [
    "PORT_VARIABLES",
    "colliding",
    "for_child",
    "mentions_port",
    "merge",
    "parse",
    "sibling_variables",
    "variable_name",
    "with_tools",
]

# What a child reads its port from: everyone's, uvicorn's and Flask's.
PORT_VARIABLES = ("PORT", "UVICORN_PORT", "FLASK_RUN_PORT")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORT_IN_COMMAND = re.compile(rf"\$(?:{{(?:{'|'.join(PORT_VARIABLES)})\b|(?:{'|'.join(PORT_VARIABLES)})\b)")


def merge(
    environ: Mapping[str, str], files: Iterable[tuple[Path, bool]], faults: Faults | None = None
) -> dict[str, str]:
    """Lay ``.env`` files over an environment.

    Args:
        environ: The environment below them.
        files: Paths in order, the later file wins; and whether each one has to be there.
        faults: Is told of lines that cannot be understood; without it, the first is raised.

    Raises:
        ConfigError: A file that has to be there is not, or one cannot be read or understood.
    """
    merged = dict(environ)
    for path, is_needed in files:
        try:
            text = read_text(path)
        except FileNotFoundError as exc:
            if is_needed:
                raise ConfigError(
                    "no such env file",
                    path=path,
                    hint="Create it, or correct its name; it is looked for in the Procfile's folder.",
                ) from exc
        except IsADirectoryError as exc:
            raise ConfigError("a folder, not an env file", path=path, hint="Name a file in it.") from exc
        else:
            merged.update(parse(text, path, over=merged, faults=faults))
    return merged


def parse(
    text: str, path: Path | str = ".env", *, over: Mapping[str, str], faults: Faults | None = None
) -> dict[str, str]:
    """Parse the text of one ``.env`` file.

    Args:
        text: The whole file.
        path: For messages.
        over: What ``${VAR}`` sees beside the variables that stand above it in the file.
        faults: Is told of lines that cannot be understood; without it, the first is raised.

    Returns:
        The variables of the file alone.

    Raises:
        ConfigError: A line cannot be understood; values never appear in the message, they may be secrets.
    """
    found: dict[str, str] = {}
    faults = faults or Faults()
    for binding in parse_stream(io.StringIO(text.removeprefix("\ufeff"), newline="")):
        with faults.caught():
            key, value = _checked(binding, path)
            if key is not None:
                seen = {**over, **found}
                found[key] = "".join(atom.resolve(seen) for atom in parse_variables(value))
    return found


def _checked(binding: Binding, path: Path | str) -> tuple[str | None, str]:
    """The name and the value of a line, not expanded yet; no name: it is a comment, or nothing."""
    key, value = binding.key, binding.value

    def wrong(message: str, hint: str) -> ConfigError:
        return ConfigError(message, path=path, line=_line_of(binding), hint=hint)

    if binding.error:
        raise wrong(
            "cannot be understood as NAME=value",
            "Write NAME=value; a value with quotes, line ends or ' #' in it needs quotes around it.",
        )
    if key is None:
        return None, ""
    if value is None:
        hint = (
            f"Write {key}=value, or {key}= for an empty value."
            if _NAME.fullmatch(key)
            else "Write NAME=value."
        )
        raise wrong(f"{key!r} has no value", hint)
    if "=" in key or "\0" in key + value:
        character = "=" if "=" in key else "NUL"
        raise wrong(f"{key!r}: no variable can have {character} in it", "Delete that character.")
    return key, value


def with_tools(env: Mapping[str, str], *, root: Path, scripts: str | None) -> dict[str, str]:
    """Give an environment in which the project's own tools are found.

    An activated virtual environment is left as it is. Without one, ``.venv`` in `root` is used as if it were
    activated. The scripts that were installed beside orchestra are found last of all.

    Args:
        env: The environment so far.
        root: The Procfile's folder.
        scripts: ``sysconfig.get_path("scripts")`` of the Python that runs orchestra; ``None`` adds nothing.
    """
    new = dict(env)
    folders = (new.get("PATH") or os.defpath).split(os.pathsep)
    venv = root / ".venv"
    if not new.get("VIRTUAL_ENV") and is_file(venv / "bin" / "python"):
        new["VIRTUAL_ENV"] = str(venv)
        new.pop("PYTHONHOME", None)  # as its `activate` does: it would lead back to another Python
        folders.insert(0, str(venv / "bin"))
    if scripts and scripts not in folders:
        folders.append(scripts)
    new["PATH"] = os.pathsep.join(folders)
    return new


def for_child(env: Mapping[str, str], *, port: int | None, siblings: Mapping[str, str]) -> dict[str, str]:
    """Give the environment of one child, all but what the supervisor adds.

    Args:
        env: From the operating system, env files and settings, `with_tools`.
        port: What ``PORT`` says.
        siblings: From `sibling_variables`.
    """
    new = {"PYTHONUNBUFFERED": "1", **env, **siblings}
    if port is not None:
        new.update(dict.fromkeys(PORT_VARIABLES, str(port)))
    return new


def variable_name(process: str) -> str:
    """Give what a process is called in the names of variables: ``notes-api`` is ``NOTES_API``."""
    return process.upper().replace("-", "_")


def sibling_variables(ports: Mapping[str, int]) -> dict[str, str]:
    """Tell a process where its siblings are: ``ORCHESTRA_<NAME>_PORT`` and ``ORCHESTRA_<NAME>_URL``."""
    variables = {}
    for name, port in ports.items():
        prefix = f"ORCHESTRA_{variable_name(name)}"
        variables[f"{prefix}_PORT"] = str(port)
        variables[f"{prefix}_URL"] = f"http://127.0.0.1:{port}"
    return variables


def colliding(names: Sequence[str]) -> tuple[str, str] | None:
    """Find two processes that would have the same variables, such as ``a-b`` and ``a_b``."""
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(variable_name(name), name)
        if other != name:
            return other, name
    return None


def mentions_port(command: str) -> bool:
    """Whether a command uses the port that it is given: ``$PORT``, ``${PORT}``, ``${PORT:-8000}``."""
    return _PORT_IN_COMMAND.search(command) is not None


def _line_of(binding: Binding) -> int:
    """Where a binding begins: python-dotenv counts the empty lines before it as part of it."""
    text = binding.original.string
    before = text[: len(text) - len(text.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", before))
