"""What a child's output reveals: its server reloads, its program is broken, its port is taken, why it ended.

Python's development servers watch their files themselves. The process that we started then lives on, and only
its output shows at once that it is going to reload: new requests can wait from then on, and streams that the
server would wait for can be ended. An import error does not end such a server either: when the last output is
an exception, and nothing answers, the exception is the reason.

This is the only module that reads output for its meaning, except for tracebacks (`tracebacks`). Not here:
input or output, a clock, what follows from a diagnosis.
"""

from __future__ import annotations

import re
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Literal

from orchestra.config.addresses import DEFAULT_LISTEN
from orchestra.errors import port_taken
from orchestra.patterns import regex
from orchestra.supervision.lifecycle import Report, Sign
from orchestra.supervision.tracebacks import FIRST_WORDS, Failure, TracebackReader, own_frame

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestra.events import StreamName

__all__ = ["Symptoms", "explain", "is_prompt", "named_ports", "port_clash", "unseen_socket"]

# Messages of servers whose port is taken: Python's, Node's, gunicorn, Vite, Django, and most others.
_IN_USE = regex(r"address (is )?already in use|EADDRINUSE|(port|connection) .*\bin use", re.IGNORECASE)
# Messages of Vite, Next.js and others that take the next port: this is not an error.
_MOVES_ON = regex(r"\bin use\b.*\b(trying|using)\b", re.IGNORECASE)
# `:8000`, `port 8000`, `('127.0.0.1', 8000)`.
_NAMED_PORT = regex(r"(?:\bport\W{1,3}|:|', )([0-9]{3,5})(?!\d|[.:]\d)", re.IGNORECASE)
# The default port of servers that do not name it: Hypercorn, Python's http.server.
_USUAL_PORT = DEFAULT_LISTEN[1]
_OWN_PORT_HINT = "Have it listen on $PORT, or give orchestra another address: --listen."
_OTHER_PORT_HINT = "Stop that program, or have this one listen on $PORT (--port $PORT)."

_CONTAINERS = regex(r"\b(?:docker|docker-compose|nerdctl|podman|podman-compose)\b")

# Seconds of silence after which a child whose last output is an exception will not become ready.
SILENT_AFTER_TRACEBACK = 0.7

# So many equal exceptions in a row are no coincidence, if as many programs have written them.
_REPEATS = 3

# Messages of shells that cannot run a command.
_NOT_RUN = regex(r"not found|no such file|permission denied|cannot execute|exec format", re.IGNORECASE)
# Lines that task runners and watchers add to the failure of a program (make, npm, pnpm, turbo, Node, air),
# and the rest of a stack or of an object that was printed.
_NOISE = regex(
    r"make(\[\d+\])?: \*\*\*|npm (ERR!|error)|.?ELIFECYCLE|error Command failed|info Visit https://yarnpkg|"
    r"error: (script|Recipe) |Node\.js v\d|note: run with|exit status \d|\s*[\]})]+[,;]?$|"
    r".*\bcommand .*exited \(\d+\)|Exit code \d+|Failed running '|.*\berror: exit status \d+$|"
    r"ERROR: \"[^\"]+\" exited with|goroutine \d"
)
_ERROR_WORDS = regex(
    r"error\b|exception\b|fatal|panic|failed|failure|\bcannot\b|can't|could ?n[o']t|not found|no such|denied"
    r"|refused|unable|invalid|missing|unknown|undefined|unexpected|unrecognized",
    re.IGNORECASE,
)
# The place of Node's syntax errors: a line of its own before the error.
_NODE_PLACE = regex(r"(?:file://)?(/\S+:\d+)$")
# The program's own advice about its error, in the line after it (Vite, PostgreSQL, npm, uv).
_NEXT_STEP = regex(r"(HINT: |Please |Try |Use |Run |Pass |Set |Install |Add )")
_MOST_CHARACTERS = 300
# The reload messages of uvicorn (`--reload`, FastAPI's `dev`, Litestar's `run --reload`) and uvicorn-hmr;
# Werkzeug (Flask's debug server); Django; gunicorn.
_RELOADS = regex(
    r"detected changes? in .*reloading|changed, reloading\.$|Worker reloading: .* modified", re.IGNORECASE
)
# Messages that only a new server logs; the old one has closed its sockets by then.
_STARTED = regex(r"Started server process \[\d+\]")
# The start messages of servers that watch their files: uvicorn, Werkzeug, Django (without "with" it is
# TypeScript's compiler). Others end with their program, and need no diagnosis.
_WATCHES = regex(r"Will watch for changes|Restarting with (stat|watchdog)|Watching for file changes with")
# A line without one of these words has no meaning, unless it belongs to a traceback.
_RELEVANT_WORDS = ("eload", "atch", "Restarting", "Started", *FIRST_WORDS)
_KEPT_LINES = 20
# How prompts end: `(Pdb) `, `ipdb> `, `Ok to proceed? (y) `, `Password: `. A percentage is a progress bar's.
_PROMPT_END = regex(r"[:?>$#)\]] +\Z|[?>]\Z")
_PERCENTAGE = regex(r"\d ?%")


def _moves_on(line: str) -> bool:
    return "in use" in line.lower() and _MOVES_ON.search(line) is not None


def is_prompt(text: str) -> bool:
    """Whether the beginning of a line, without colours, looks like a question if its writer has paused."""
    return _PROMPT_END.search(text) is not None and _PERCENTAGE.search(text) is None


def named_ports(lines: Sequence[str]) -> frozenset[int] | None:
    """Give the ports that a process names in a message about a taken port; ``None`` without a message."""
    if not any(map(_IN_USE.search, lines)):
        return None
    return frozenset(int(port) for line in lines for port in _NAMED_PORT.findall(line))


def port_clash(
    lines: Sequence[str], *, own: int | None, planned: int | None, holders: Mapping[int, str]
) -> tuple[str, str] | None:
    """Explain, with a hint, a process that has ended because a port other than its ``PORT`` is taken.

    Args:
        lines: Its last lines.
        own: The port of the one address, if there is one.
        planned: Its ``PORT``: the next child gets another one.
        holders: The holders of the ports that it names, if any.
    """
    named = named_ports(lines)
    if named is None or planned in named:
        return None
    if own is not None and own in named:
        return f"it wants port {own}, which is orchestra's own", _OWN_PORT_HINT
    for port in sorted(named & holders.keys()):
        return f"it wants a port that it cannot have: {port_taken(port, holders[port])}", _OTHER_PORT_HINT
    is_named = any(_NAMED_PORT.search(line) for line in lines if _IN_USE.search(line))
    if not is_named and own == _USUAL_PORT:
        return f"it wants a port that is taken, most probably {own}, which is orchestra's", _OWN_PORT_HINT
    return None


def explain(lines: Sequence[str]) -> str:
    """Choose the line of output that best explains a failed start; empty if there is none.

    It is the last line about an error that no task runner has added, otherwise the last line.
    """
    lines = [line for line in lines if line.strip() and not line.startswith("> ")]  # npm prints the command
    relevant = [line for line in lines if not _NOISE.match(line)]
    for pattern in (_IN_USE, _ERROR_WORDS):
        # An indented line belongs to the line above it: a frame, a hint, a field of an object.
        found = [at for at, line in enumerate(relevant) if not line[:1].isspace() and pattern.search(line)]
        if found:
            return _whole(relevant, found[-1])
    return next(iter([*relevant[-1:], *lines]), "").strip()[:_MOST_CHARACTERS]


def _whole(lines: Sequence[str], at: int) -> str:
    """A line together with the one that it announces, its advice, or the place before it."""
    line = lines[at].strip()
    if at + 1 < len(lines) and (line.endswith(":") or _NEXT_STEP.match(lines[at + 1])):
        line = f"{line} {lines[at + 1].strip()}"
    place = next(filter(None, map(_NODE_PLACE.match, lines[max(at - 5, 0) : at])), None)
    return (line + (f" ({place[1]})" if place is not None else ""))[:_MOST_CHARACTERS]


def unseen_socket(command: str) -> tuple[str, str] | None:
    """Explain, with a hint, why no process of a command listens: it runs a container; otherwise ``None``."""
    if not (found := _CONTAINERS.search(command)):
        return None
    text = f"none of its processes listens: what {found[0]} runs in a container is not among them"
    return text, 'Name the port of this machine: ready = "tcp:5432", or "http://127.0.0.1:9200/".'


class Symptoms:
    """The findings in the output of one child about its server.

    Args:
        folders: The absolute paths of the project's folders, which contain the developer's own frames.

    Attributes:
        watches: Whether its server watches its files, and so survives a broken program.
        new_server_seen: Whether a new server has logged its start since the last reload.
        last_line_at: The time of its last output, on the caller's clock.
        failure: The last exception since then, even if other output has followed.
        clash: The port that it could not get, if that is why it has ended.
    """

    def __init__(self, command: str, folders: Sequence[str] = ()) -> None:
        self._folders = folders
        self.new_server_seen = False
        self.watches = "hmr" in command
        self.last_line_at = self._failed_at = 0.0
        self.failure: Failure | None = None
        self.clash: str | None = None
        self._same_failures = 0  # in a row
        # One for each stream: the order of lines of two streams is not known.
        self._readers: dict[StreamName, TracebackReader] = {}
        self._lines: deque[tuple[float, str]] = deque(maxlen=_KEPT_LINES)  # with their times

    def read(self, stream: StreamName, lines: Sequence[str], now: float) -> Iterator[Report | Failure]:
        """Read lines, without colours; yield the findings among them. The last ones may explain an end."""
        relevant = (line for line in lines[-_KEPT_LINES:] if line.strip() and not _moves_on(line))
        self._lines.extend((now, line) for line in relevant)
        self.last_line_at = now
        # Most lines match nothing, and some servers write thousands: plain words are searched in all
        # together.
        text = "\n".join(lines)
        if any(word in text for word in _RELEVANT_WORDS) or (
            stream in self._readers and not self._readers[stream].is_idle
        ):
            yield from filter(None, (self.see(stream, line, now) for line in lines))

    def see(self, stream: StreamName, line: str, now: float) -> Report | Failure | None:
        """Read one line, without colours; return the finding: a reload of its server, or an exception."""
        self.last_line_at = now
        if "eload" in line and _RELOADS.search(line):
            self.watches = True
            self.forget()
            return Report(Sign.RELOADING, line.strip())
        if not self.watches and ("atch" in line or "Restarting" in line):
            self.watches = _WATCHES.search(line) is not None
        if "Started" in line:
            self.new_server_seen = self.new_server_seen or _STARTED.search(line) is not None
        if (reader := self._readers.get(stream)) is None:
            reader = self._readers[stream] = TracebackReader()
        failure = reader.see(line)
        if failure is not None:
            self._same_failures = self._same_failures + 1 if failure == self.failure else 1
            self.failure, self._failed_at = failure, now
        return failure

    def forget(self, before: float = inf) -> None:
        """Forget the last server, which has written until `before`: it is replaced."""
        self.new_server_seen = False
        self._lines = deque((each for each in self._lines if each[0] > before), _KEPT_LINES)
        if self._failed_at <= before:
            self.failure, self._same_failures = None, 0
            self._readers.clear()

    def is_silent(self, since: float, now: float) -> bool:
        """Whether there was no output for a while, counted from `since` at the earliest."""
        return now - max(since, self.last_line_at) >= SILENT_AFTER_TRACEBACK

    @property
    def repeats_itself(self) -> bool:
        """Whether the same exception was written repeatedly."""
        return self._same_failures >= _REPEATS

    @property
    def error(self) -> str:
        """The exception that one of its streams ends with; empty if none does."""
        return next(filter(None, (reader.error for reader in self._readers.values())), "")

    def diagnose(self, *, is_alone: bool, was_announced: bool) -> Report | Literal[Sign.STUCK] | None:
        """Explain why a silent child cannot become ready; ``None`` if it may just be slow.

        Args:
            is_alone: Whether only a watcher of it is left, which waits for a file to change.
            was_announced: Whether it starts for the first time, or after a reload that it announced.
        """
        if is_alone and not was_announced and not any(map(_ERROR_WORDS.search, self.last_lines)):
            return Sign.STUCK  # Another server may live: the program may be fine.
        if is_alone or (self.watches and self.error):
            return Report(Sign.BROKEN, self.explanation() or "its program has ended")
        return None

    def explanation(self) -> str:
        """Explain a failed start: by its exception and the place of that, otherwise by a line of output."""
        if self.clash is not None:
            return self.clash
        if self.failure is None or self.port_is_taken:
            return explain(self.last_lines)
        own = own_frame(self.failure.frames, self._folders)
        if own is None:
            return self.failure.line
        file = min((own.file.removeprefix(f"{each}/") for each in self._folders), key=len)
        return f"{self.failure.line} ({file}:{own.line})"

    @property
    def last_lines(self) -> Sequence[str]:
        """Its last lines, without blank ones."""
        return [line for _, line in self._lines]

    @property
    def port_is_taken(self) -> bool:
        """Whether a message says that the port it wants is taken."""
        return any(map(_IN_USE.search, self.last_lines))

    def shell_error(self) -> str:
        """Give the line in which the shell reports that it cannot run a command; empty if there is none."""
        return next(filter(_NOT_RUN.search, reversed(self.last_lines)), "")
