"""What the output of a child tells: its server reloads, its program is broken, its port is taken.

The development servers of Python watch their files themselves. The process that we started then lives on,
and only its output says at once that it is about to change: requests that arrive from then on can wait, and
streams that it would wait for can be ended. A program that cannot be imported does not end such a server
either: when the last thing that it writes is an exception, and nothing answers, that is the reason.

`Symptoms` reads the lines of one child as they are written, and `diagnose` puts them together with what its
sockets and processes have told.

Not here: input or output, a clock, what follows from a diagnosis.
"""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from orchestra.supervision.lifecycle import Broken, Reloading, Stuck
from orchestra.supervision.tracebacks import TracebackReader

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from orchestra.events import StreamName
    from orchestra.supervision.tracebacks import Failure

__all__ = ["IN_USE", "Symptoms", "is_prompt", "port_clash", "unseen_socket"]

IN_USE = re.compile(r"address (is )?already in use|EADDRINUSE|port .* in use", re.IGNORECASE)
"""What servers write when a port is taken: Python's, Node's, and most others."""

_OWN_PORT_HINT = "Have it listen on $PORT, or give orchestra another address: --listen."
_OTHER_PORT_HINT = "Stop that program, or have this one listen on $PORT (--port $PORT)."

_CONTAINERS = re.compile(r"\b(?:docker|docker-compose|nerdctl|podman|podman-compose)\b")

# A child whose last output is an exception and that has been silent for so long is not going to come up.
SILENT_AFTER_TRACEBACK = 0.7

# What shells write when they cannot run a command.
_NOT_RUN = re.compile(r"not found|no such file|permission denied|cannot execute|exec format", re.IGNORECASE)
# uvicorn (`--reload`, FastAPI's `dev`, Litestar's `run --reload`) and uvicorn-hmr; Werkzeug (Flask's debug
# server); Django; gunicorn.
_RELOADS = re.compile(
    r"detected changes? in .*reloading|changed, reloading\.$|Worker reloading: .* modified", re.IGNORECASE
)
# What only a new server logs; the old one has closed its sockets by then.
_STARTED = re.compile(r"Started server process \[\d+\]")
# uvicorn, Werkzeug, Django. A server that does not watch ends with its program, and needs no diagnosis.
_WATCHES = re.compile(r"Will watch for changes|Restarting with (stat|watchdog)|Watching for file changes")
# The process that starts the servers, and outlives them.
_RELOADER = re.compile(r"Started reloader process \[(\d+)\]")
_KEPT_LINES = 20
# How prompts end: `(Pdb) `, `ipdb> `, `Ok to proceed? (y) `, `Password: `. A percentage is a progress bar's.
_PROMPT_END = re.compile(r"[:?>$#)\]] +\Z|[?>]\Z")
_PERCENTAGE = re.compile(r"\d ?%")


def is_prompt(text: str) -> bool:
    """Whether the beginning of a line, after which its writer has paused, looks like a question.

    Args:
        text: Without colours.
    """
    return _PROMPT_END.search(text) is not None and _PERCENTAGE.search(text) is None


def port_clash(lines: Iterable[str], *, own: str | None, planned: int | None) -> tuple[str, str] | None:
    """Explain, with a hint, a process that has ended because a port is taken that is not its ``PORT``.

    Args:
        lines: Its last lines.
        own: The one address, if there is one.
        planned: Its ``PORT``.
    """
    said = "\n".join(lines)

    def names(port: object) -> bool:
        return re.search(rf"(?<!\d){port}(?!\d)", said) is not None

    if not IN_USE.search(said):
        return None
    own_port = own.rpartition(":")[2] if own is not None else ""
    if own_port and names(own_port):
        return f"it wants port {own_port}, which is orchestra's own", _OWN_PORT_HINT
    if planned and names(planned):
        return None
    return "another program has the port that it wants", _OTHER_PORT_HINT


def unseen_socket(command: str) -> tuple[str, str] | None:
    """Explain, with a hint, why no process of a command listens: it runs a container; else ``None``."""
    if not (found := _CONTAINERS.search(command)):
        return None
    text = f"none of its processes listens: what {found[0]} runs in a container is not among them"
    return text, 'Name the port of this machine: ready = "tcp:5432", or "http://127.0.0.1:9200/".'


class Symptoms:
    """What one child has written, as far as it tells something about its server.

    Args:
        command: The process's command.

    Attributes:
        reloader: The pid of the process that starts its servers, once that is known.
        watches: Whether its server watches its files, and so outlives a broken program.
        new_server_seen: Whether a new server has logged its start since the last reload.
        failure: The last exception that it has written since, whatever was written after it.
    """

    def __init__(self, command: str) -> None:
        self.reloader: int | None = None
        self.new_server_seen = False
        self.watches = "hmr" in command
        self._last_line_at = 0.0
        self.failure: Failure | None = None
        # One for each stream: what was written in between to two of them comes here in any order.
        self._readers: dict[StreamName, TracebackReader] = {}
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def __repr__(self) -> str:
        return f"<Symptoms: {self.failure!r}, watches: {self.watches}>"

    def keep(self, lines: Sequence[str]) -> None:
        """Keep the last lines, which have no colours, for an explanation."""
        self._lines.extend(filter(None, map(str.strip, lines[-_KEPT_LINES:])))

    def see(self, stream: StreamName, line: str, now: float) -> Reloading | Failure | None:
        """Read one line, without colours; return what it tells: that its server reloads, or an exception."""
        self._last_line_at = now
        # A plain word first: most lines match nothing, and some servers write thousands.
        if "eload" in line and _RELOADS.search(line):
            self.watches = True
            self.forget()
            return Reloading(line.strip())
        if not self.watches and ("atch" in line or "Restarting" in line):
            self.watches = _WATCHES.search(line) is not None
        if "Started" in line:
            self.new_server_seen = self.new_server_seen or _STARTED.search(line) is not None
            if found := _RELOADER.search(line):
                self.reloader = int(found[1])
        if (reader := self._readers.get(stream)) is None:
            reader = self._readers[stream] = TracebackReader()
        failure = reader.see(line)
        self.failure = failure or self.failure
        return failure

    def forget(self) -> None:
        """Forget what the last server was like: it is replaced."""
        self.new_server_seen = False
        self.failure = None
        self._readers.clear()

    def is_silent(self, since: float, now: float) -> bool:
        """Whether nothing was written for a while, counted from `since` at the earliest."""
        return now - max(since, self._last_line_at) >= SILENT_AFTER_TRACEBACK

    @property
    def error(self) -> str:
        """The exception that one of its streams ends with; empty if none does."""
        return next(filter(None, (reader.error for reader in self._readers.values())), "")

    def diagnose(self, *, has_server: bool | None, was_announced: bool) -> Broken | Stuck | None:
        """Say why a child that is silent is not going to be ready; ``None`` if it may take its time.

        Args:
            has_server: Whether its reloader has a server process now; ``None`` if there is no known reloader.
            was_announced: Whether it comes up for the first time, or after a reload that it announced.
        """
        if not self.watches or has_server:
            return None
        if has_server is False and not was_announced and not self.error:
            return Stuck()  # its reloader waits for a file to change
        reason = self.error if has_server is None else self.error or self.explanation()
        return Broken(reason) if reason else None

    def explanation(self) -> str:
        """Give the line that explains best why it did not come up; empty if there is none."""
        in_use = next(filter(IN_USE.search, reversed(self._lines)), "")
        if in_use or self.failure is None:
            return in_use or (self._lines[-1] if self._lines else "")
        return self.failure.line

    def shell_error(self) -> str:
        """Give the line in which the shell says that it cannot run a command; empty if there is none."""
        return next(filter(_NOT_RUN.search, reversed(self._lines)), "")
