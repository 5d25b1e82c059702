"""What a server's own output tells: that it reloads, that its program is broken, that its port is taken.

The development servers of Python watch their files themselves. The process that we started then lives on,
and only its output says at once that it is about to change: requests that arrive from then on can wait, and
streams that it would wait for can be ended. `reloads` knows what the servers say; who says nothing is noticed
by its sockets (`incarnation.py`).

A program that cannot be imported does not end such a server, either. `Trouble` reads tracebacks as they go
by: when the last thing that somebody says is an exception, and nothing answers, that is why.

Never here: input or output, time, what follows from it.
"""

from __future__ import annotations

import re

__all__ = ["IN_USE", "Trouble", "has_started_anew", "reloader", "reloads", "watches"]

IN_USE = re.compile(r"address (is )?already in use|EADDRINUSE|port .* in use", re.IGNORECASE)
"""What servers say when a port is taken: Python's, Node's, and most others'."""

# uvicorn (`--reload`, FastAPI's `dev`, Litestar's `run --reload`) and uvicorn-hmr; Werkzeug (Flask's debug
# server); Django; gunicorn.
_RELOADS = re.compile(
    r"detected changes? in .*reloading|changed, reloading\.$|Worker reloading: .* modified", re.IGNORECASE
)
# What only a new server says; the old one has closed its sockets by then.
_STARTED_ANEW = re.compile(r"Started server process \[\d+\]")
# uvicorn, Werkzeug, Django. Whoever does not watch ends with its program, and needs no diagnosis.
_WATCHES = re.compile(r"Will watch for changes|Restarting with (stat|watchdog)|Watching for file changes")
# Who starts the servers, and outlives them.
_RELOADER = re.compile(r"Started reloader process \[(\d+)\]")
_TRACEBACK = re.compile(r"Traceback \(most recent call last\)")
# `SyntaxError: invalid syntax`, `socket.gaierror: ...`, `KeyboardInterrupt`: a dotted name, perhaps words.
_EXCEPTION = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:: .*)?")


def reloads(line: str) -> bool:
    """Whether a server says by `line`, which has no colours, that it begins to reload."""
    return "eload" in line and _RELOADS.search(line) is not None


def reloader(line: str) -> int | None:
    """Return the pid of who starts the servers that reload, if `line` tells it (uvicorn and who uses it)."""
    found = _RELOADER.search(line) if "eloader" in line else None
    return int(found[1]) if found else None


def watches(line: str) -> bool:
    """Whether a server says by `line` that it watches its files, and so outlives a broken program."""
    return _WATCHES.search(line) is not None


def has_started_anew(line: str) -> bool:
    """Whether a server says by `line` that it is a new one."""
    return "Started" in line and _STARTED_ANEW.search(line) is not None


class Trouble:
    """Reads what a program writes, for the exception that it ends with.

    Attributes:
        error: The last line of the last traceback, if nothing was written after it.
        last: The last line of the last traceback, whatever was written after it.
    """

    __slots__ = ("_is_in_traceback", "error", "last")

    def __init__(self) -> None:
        self._is_in_traceback = False
        self.error = ""
        self.last = ""

    def __repr__(self) -> str:
        return f"<Trouble: {self.error or 'none'}>"

    def see(self, line: str) -> None:
        """Read one line, without colours."""
        if not self._is_in_traceback:
            if line.strip():
                self.error = ""
            self._is_in_traceback = _TRACEBACK.search(line) is not None
        elif _EXCEPTION.fullmatch(line):
            self.error = self.last = line
            self._is_in_traceback = False

    def clear(self) -> None:
        """Begin anew."""
        self._is_in_traceback = False
        self.error = self.last = ""
