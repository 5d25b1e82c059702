"""The run as lines on standard output: ``name | line`` for people and pipes, or JSON lines for programs.

A printer has two inputs. `observe` is an observer of the bus and takes events of processes; `write_lines`
takes child output. Both put encoded lines into one buffer, so events and output keep their order. To lose
nothing, the caller of `write_lines` waits while the buffer is full, and the child that wrote the lines waits
with it.

Not here: rich (plain output must start fast), what the events mean (`words`), writing (`writer`).
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias, get_args

from msgspec import structs

from orchestra.child.lines import without_colours
from orchestra.config.schema import RunPolicy
from orchestra.dashboard.words import (
    OURSELVES,
    SENTENCE_KINDS,
    colour_number,
    is_blank,
    request_line,
    sentence,
)
from orchestra.dashboard.writer import Output, terminal_size
from orchestra.events import (
    ON_REQUEST,
    Event,
    OutputLine,
    OutputPaused,
    PlanChanged,
    RequestFinished,
    StreamName,
    encode_lines,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    _Source: TypeAlias = tuple[str, StreamName | None]

__all__ = ["JsonPrinter", "PlainPrinter", "wants_colours"]

_USUAL = RunPolicy()
# The source of lines about the run; that of other lines is a process and one of its streams.
_OURS = (OURSELVES, None)
# Marks an unfinished line; a whole one has "|" there.
_PARTIAL_SIGN = "…"
# Red is the sign before a line of standard error.
_BOLD, _RED, _RESET = "\x1b[1m", "\x1b[31m", "\x1b[0m"
# Back to the beginning of the row, and clear it.
_ERASE = b"\r\x1b[K"


class PlainPrinter:
    """Prints ``name | line``, and changes of the processes as lines of ``orchestra``.

    Requests are printed only if asked for: backend and frontend have access logs of their own. With colours,
    the bar before a line of standard error is red. The order of the names, which is that of the Procfile,
    decides their colours, and the longest one the margin.

    Args:
        settings: Of the run: whether lines begin with the time and the name, and whether there are requests.

    Attributes:
        kinds: The types of events that `observe` takes.
    """

    def __init__(
        self,
        writer: Output,
        names: Sequence[str],
        settings: RunPolicy = _USUAL,
        *,
        environ: Mapping[str, str],
    ) -> None:
        self.kinds = (*SENTENCE_KINDS, OutputPaused, *((RequestFinished,) if settings.requests else ()))
        self._settings = settings
        self._writer = writer
        self._width = max(len(name) for name in (OURSELVES, *names))
        self._has_colours = wants_colours(environ, writer.fd)
        self._index = {name: index for index, name in enumerate(names)}
        self._margins: dict[tuple[_Source, str], str] = {}
        self._is_terminal = os.isatty(writer.fd)
        # On a terminal: the newest line of each process.
        self._newest: dict[str, str] = {}
        # On a terminal: the unfinished line at the end, with its source.
        self._begun: tuple[_Source, bytes] | None = None
        # In a pipe: the sources whose unfinished line was printed.
        self._marked: set[_Source] = set()

    def observe(self, event: Event) -> None:
        """Take an event; print its sentence, if it has one; lines, finished or not, are printed, too."""
        if isinstance(event, PlanChanged):
            self.widen(event.processes)
        if isinstance(event, OutputLine):
            self.write_lines([event])
        elif isinstance(event, OutputPaused):
            if self._is_terminal:
                self._begin(event)
            else:
                self._mark(event)
        elif text := request_line(event) if isinstance(event, RequestFinished) else sentence(event):
            self._writer.put(self._around(self._format(event.at, _OURS, text)))

    def print_own(self, text: str) -> None:
        """Print a line of orchestra's own."""
        self._writer.put(self._around(self._format(time.time(), _OURS, text)))

    def widen(self, names: Sequence[str]) -> None:
        """Make room for longer names, from this line on."""
        width = max(self._width, *(len(name) for name in names))
        if width > self._width:
            self._width = width
            self._margins.clear()

    def write_lines(self, lines: Sequence[OutputLine]) -> None:
        """Take lines of one stream."""
        source = (lines[0].process, lines[0].stream)
        texts = [line.text for line in lines]
        if self._is_terminal:
            texts = self._without_repeated_blanks(source[0], texts)
        data = self._format(lines[0].at, source, *texts) if texts else b""
        if self._is_terminal:
            data = self._around(data, source)
        elif self._marked:
            self._marked.discard(source)
        if data:
            self._writer.put(data)

    def _without_repeated_blanks(self, process: str, texts: Iterable[str]) -> list[str]:
        shown = []
        for text in texts:
            before, self._newest[process] = self._newest.get(process), text
            if before is None or not is_blank(text) or not is_blank(before):
                shown.append(text)
        return shown

    def finish(self) -> None:
        """Print the rest: the line end of an unfinished line."""
        if self._begun is not None:
            self._writer.put(b"\n")

    def _mark(self, event: OutputPaused) -> None:
        """Print an unfinished line as a line of its own: it may be a prompt, and a pipe cannot take it back.

        It has a mark of its own, so that ``name | line`` is always a whole line.
        """
        source = (event.process, event.stream)
        if source not in self._marked and not is_blank(event.text):
            self._marked.add(source)
            self._writer.put(self._format(event.at, source, event.text, sign=_PARTIAL_SIGN))

    def _begin(self, event: OutputPaused) -> None:
        """Show an unfinished line in the last row of the terminal, where it is replaced in place."""
        source = (event.process, event.stream)
        if event.text:
            # Wrapped text could not be replaced.
            columns, _ = terminal_size(self._writer.fd)
            text = without_colours(event.text)[: max(columns - self._width - 4, 1)]
            data = self._format(event.at, source, text)[:-1]
            self._writer.put(data if self._begun is None else _ERASE + data)
            self._begun = (source, data)
        elif self._begun is not None and self._begun[0] == source:
            self._writer.put(_ERASE)
            self._begun = None

    def _around(self, data: bytes, source: _Source | None = None) -> bytes:
        """Print a line beside an unfinished one: in its place if it completes it, otherwise before it."""
        if self._begun is None:
            return data
        owner, begun = self._begun
        if owner == source:
            self._begun = None
            return _ERASE + data
        return _ERASE + data + begun

    def _format(self, at: float, source: _Source, *texts: str, sign: str = "|") -> bytes:
        margin = self._margins.get((source, sign))
        if margin is None:
            margin = self._margins[source, sign] = self._margin(*source, sign)
        if self._settings.timestamps:
            margin = f"{_time_of_day(int(at))}{margin}"
        lines = f"\n{margin}".join(texts)
        if any("\x1b" in text for text in texts):
            # Attributes that a child has switched on must not extend into the next line.
            ends = (f"{text}{_RESET}" if "\x1b" in text else text for text in texts)
            lines = f"\n{margin}".join(ends if self._has_colours else map(without_colours, texts))
        return f"{margin}{lines}\n".encode("utf-8", "replace")

    def _margin(self, name: str, stream: StreamName | None, sign: str) -> str:
        if not self._settings.names and stream is not None:
            return ""
        padded = f"{name:<{self._width}} "
        if not self._has_colours:
            return f"{padded}{sign} "
        if stream is None:
            return f"{_BOLD}{padded}{sign} {_RESET}"
        number = colour_number(self._index.setdefault(name, len(self._index)))
        return f"\x1b[38;5;{number}m{padded}{_RED if stream == 'stderr' else ''}{sign} {_RESET}"


def wants_colours(environ: Mapping[str, str], fd: int) -> bool:
    """Whether to use colours: ``NO_COLOR`` beats ``FORCE_COLOR``, which beats the kind of standard output."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return os.isatty(fd) and environ.get("TERM") != "dumb"


@lru_cache(maxsize=1)
def _time_of_day(second: int) -> str:
    """Format a time of day, in local time; the text for a second is cached."""
    return time.strftime("%H:%M:%S ", time.localtime(second))


class JsonPrinter:
    """Prints every event as one JSON object a line.

    Lines are numbered in the order of writing: a line of output that had to wait for room comes after events
    that the bus has stamped later.

    Attributes:
        kinds: The types of events that `observe` takes.
    """

    kinds = tuple(kind for kind in get_args(Event) if kind not in (OutputLine, OutputPaused, *ON_REQUEST))

    def __init__(self, writer: Output) -> None:
        self._writer = writer
        self._count = 0

    def observe(self, *events: Event) -> None:
        """Take events from the bus."""
        numbered = [structs.replace(event, seq=seq) for seq, event in enumerate(events, self._count + 1)]
        self._count += len(numbered)
        self._writer.put(encode_lines(numbered))

    def write_lines(self, lines: Sequence[OutputLine]) -> None:
        """Take lines of child output."""
        self.observe(
            *(
                structs.replace(line, text=without_colours(line.text)) if "\x1b" in line.text else line
                for line in lines
            )
        )

    def finish(self) -> None:
        """Print the rest: nothing."""
