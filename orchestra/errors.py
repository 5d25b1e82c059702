"""The errors that a user may meet, with messages that help to fix the cause.

Each is an `OrchestraError`. Its `str` is one line that names the thing (file and line, process or port) and
the cause; `hint` is the next step. An embedder gets the exception; the command line shows ``error: <str>``
and ``hint: <hint>`` on standard error (`show_error`).

The text of a message is where its error is raised; those that several modules need are here.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ConfigError", "ConfigErrors", "OrchestraError", "StartError", "UpstreamError", "complain", "no_address",
    "port_taken", "show_error",
]  # fmt: skip


class OrchestraError(Exception):
    """The root of all errors that orchestra raises on purpose.

    Attributes:
        message: The thing and the cause, in one line.
        hint: The next step, in one line; empty if there is none to give.
        exit_code: What the command line exits with: 2 for wrong input.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(OrchestraError):
    """The user's input, or the machine it should run on, is not as it has to be.

    Attributes:
        path: The file at fault, if one is.
        line: Its line, counted from 1; ``None`` if the whole file, or no file, is at fault.
    """

    exit_code = 2

    def __init__(
        self, message: str, *, path: Path | str | None = None, line: int | None = None, hint: str = ""
    ) -> None:
        where = "" if path is None else f"{path}: " if line is None else f"{path}:{line}: "
        super().__init__(where + message, hint=hint)
        self.path = None if path is None else Path(path)
        self.line = line


class ConfigErrors(ConfigError):  # noqa: N818 - it is several
    """All errors in the user's input together; the text has one problem a line.

    Attributes:
        errors: All of them, by file and line.
    """

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        super().__init__("\n".join(str(each) for each in errors), hint=errors[0].hint)
        self.errors = tuple(errors)
        self.path, self.line = errors[0].path, errors[0].line


class StartError(OrchestraError):
    """A process did not start or become ready.

    Attributes:
        name: The process.
        tail: Its last lines of output, oldest first, control sequences removed.
    """

    def __init__(self, name: str, message: str, *, tail: Sequence[str] = (), hint: str = "") -> None:
        super().__init__(f"{name}: {message}", hint=hint)
        self.name = name
        self.tail = tuple(tail)


class UpstreamError(OrchestraError):
    """An upstream was not reached, or did not speak HTTP; `status_hint` is the best status: 502 or 504."""

    def __init__(self, message: str, *, status_hint: int = 502, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status_hint = status_hint


def port_taken(port: int, holder: str) -> str:
    """Write that a port is taken, and by what; `holder` is empty if that is not known."""
    return f"port {port} is taken by {holder}" if holder else f"port {port} is taken"


def no_address() -> ConfigError:
    """Say that a run has no address that a browser could open."""
    return ConfigError("this run has no address", hint="It has no process to serve, or --no-proxy.")


def show_error(error: OrchestraError) -> int:
    """Print all that is wrong, and give the exit status."""
    for each in error.errors if isinstance(error, ConfigErrors) else (error,):
        if each.message:
            complain(str(each), each.hint)
    return error.exit_code


def complain(message: str, hint: str) -> None:
    """Print one error, and the next step."""
    red, cyan, plain = "\x1b[31m\x1b[1m", "\x1b[36m", "\x1b[0m"
    if not sys.stderr.isatty() or "NO_COLOR" in os.environ:
        red = cyan = plain = ""
    with suppress(OSError):
        sys.stderr.write(f"{red}error: {plain}{message}\n")
        if hint:
            sys.stderr.write(f"{cyan} hint: {plain}{hint}\n")
        sys.stderr.flush()
