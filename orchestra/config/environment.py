"""The environment of each child: ports, the addresses of its siblings, and the contents of ``.env`` files.

``.env`` files have python-dotenv's grammar: quotes, ``export``, multi-line values, ``${VAR}`` and
``${VAR:-default}``. A line that python-dotenv would skip with a warning, or drop silently, is an error here
that names file and line. ``${VAR}`` is looked up in the lines above it, in earlier files, and in the
operating system's environment.

Not here: `os.environ`; all environments are arguments and results. The project's own tools on ``PATH``:
`tools`.
"""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestra.config.files import Problems, read_text
from orchestra.errors import ConfigError
from orchestra.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from dotenv.parser import Binding

__all__ = [
    "DEVELOPMENT",
    "PORT_VARIABLES",
    "for_child",
    "mentions_port",
    "merge",
    "parse",
    "sibling_prefix",
    "with_address",
]

# The variables with a child's port: the common one, uvicorn's and Flask's.
PORT_VARIABLES = ("PORT", "UVICORN_PORT", "FLASK_RUN_PORT")
# As `fastapi dev` sets it: otherwise `app.frontend` needs a build of the frontend.
DEVELOPMENT = {"FASTAPI_ENV": "development"}
_ADDRESS_VARIABLES = ("ORCHESTRA_URL", "ORCHESTRA_PORT")
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - not to listen on

# Read by Vite beside its own `server.allowedHosts`, since 6.1.
VITE_HOSTS = "__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS"

_PORT_IN_COMMAND = regex(rf"\$(?:{{(?:{'|'.join(PORT_VARIABLES)})\b|(?:{'|'.join(PORT_VARIABLES)})\b)")

# A variable as a shell expands it; python-dotenv expands it in braces only.
_BARE = regex(r"(?<![\\$])\$([A-Za-z_][A-Za-z0-9_]*)")
_NAME = regex(r"[A-Za-z_][A-Za-z0-9_]*")


def for_child(
    env: Mapping[str, str], *, port: int | None, siblings: Mapping[str, int], hosts: Sequence[str] = ()
) -> dict[str, str]:
    """Give the environment of one child, all but the supervisor's variables.

    ``PORT`` is `port`, ``ORCHESTRA_<NAME>_PORT`` and ``_URL`` are the ports of `siblings`, by name. Vite gets
    the first of the allowed `hosts`: it takes one entry (``.x`` stands for all names below it).
    """
    new = {"PYTHONUNBUFFERED": "1", **DEVELOPMENT, **({VITE_HOSTS: hosts[0]} if hosts else {}), **env}
    for name, sibling in siblings.items():
        new[f"{sibling_prefix(name)}_PORT"] = str(sibling)
        new[f"{sibling_prefix(name)}_URL"] = f"http://127.0.0.1:{sibling}"
    if port is not None:
        new.update(dict.fromkeys(PORT_VARIABLES, str(port)))
    return new


def with_address(env: Mapping[str, str], url: str | None) -> dict[str, str]:
    """Give an environment that contains the one address of this run, and of no other run."""
    new = {name: text for name, text in env.items() if name not in _ADDRESS_VARIABLES}
    if url is not None:
        parts = urlsplit(url)
        # The wildcard address cannot be connected to.
        host = _LOOPBACK.get(parts.hostname or "", parts.netloc.rpartition(":")[0])
        values = (f"http://{host}:{parts.port}", str(parts.port))
        new.update(zip(_ADDRESS_VARIABLES, values, strict=True))
    return new


def sibling_prefix(process: str) -> str:
    """Give the prefix of the variables about ``notes-api``: ``ORCHESTRA_NOTES_API``."""
    return f"ORCHESTRA_{process.upper().replace('-', '_')}"


def mentions_port(command: str) -> bool:
    """Whether a command uses the port that it is given: ``$PORT``, ``${PORT}``, ``${PORT:-8000}``."""
    return _PORT_IN_COMMAND.search(command) is not None


# --- Env files ---


def merge(
    environ: Mapping[str, str], files: Iterable[tuple[Path, bool]], problems: Problems
) -> dict[str, str]:
    """Lay ``.env`` files, each of which may be required, over an environment; the later file wins."""
    merged = dict(environ)
    for path, is_needed in files:
        with problems.caught():
            text = read_text(path, "an env file")
            if text is not None:
                merged.update(parse(text, path, problems, over=merged))
            elif is_needed:
                hint = "Create it, or correct its name; it is looked for in the project's folder."
                raise ConfigError("no such env file", path=path, hint=hint)
    return merged


def parse(text: str, path: Path, problems: Problems, *, over: Mapping[str, str]) -> dict[str, str]:
    """Parse the text of one ``.env`` file, and give its variables alone.

    ``${VAR}`` is looked up in the lines above, then in `over`. Values may be secrets: no problem contains
    one.
    """
    from dotenv.parser import parse_stream  # noqa: PLC0415 - not every project has such a file
    from dotenv.variables import parse_variables  # noqa: PLC0415

    found: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text.removeprefix("\ufeff"), newline="")):
        with problems.caught():
            key, value = _checked(binding, path)
            if key is not None:
                seen = {**over, **found}
                if (error := _unexpanded(binding, path, seen)) is not None:
                    # The search for programs uses the intended value.
                    value = value.replace("$PATH", "${PATH}") if key == "PATH" else value
                    (problems.errors if key == "PATH" else problems.warnings).append(error)
                found[key] = "".join(atom.resolve(seen) for atom in parse_variables(value))
    return found


def _checked(binding: Binding, path: Path) -> tuple[str | None, str]:
    """The name and the value of a line, not expanded yet; without a name it is a comment or empty."""
    key, value = binding.key, binding.value

    def wrong(message: str, hint: str) -> ConfigError:
        return ConfigError(message, path=path, line=_line_of(binding), hint=hint)

    if binding.error:
        hint = "Write NAME=value; a value with quotes, line ends or ' #' in it needs quotes around it."
        raise wrong("cannot be understood as NAME=value", hint)
    if key is None:
        return None, ""
    if value is None:
        example = f"{key}=value, or {key}= for an empty value" if _NAME.fullmatch(key) else "NAME=value"
        raise wrong(f"{key!r} has no value", f"Write {example}.")
    if "=" in key or "\0" in key + value:
        character = "=" if "=" in key else "NUL"
        raise wrong(f"{key!r}: no variable can have {character} in it", "Delete that character.")
    return key, value


def _unexpanded(binding: Binding, path: Path, seen: Mapping[str, str]) -> ConfigError | None:
    """Warn if a value names a variable without braces, which is not expanded."""
    written = binding.original.string.partition("=")[2].lstrip()
    names = _BARE.findall(binding.value or "")
    name = next((each for each in names if each in seen or each == binding.key), None)
    if name is None or written.startswith("'"):
        return None
    text = f"{binding.key}: ${name} stays as it is written"
    return ConfigError(text, path=path, line=_line_of(binding), hint=f"Write ${{{name}}}.")


def _line_of(binding: Binding) -> int:
    """The line where a binding begins: python-dotenv counts the empty lines before it as part of it."""
    text = binding.original.string
    before = text[: len(text) - len(text.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", before))
