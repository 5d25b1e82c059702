"""The run as plain lines, for people and pipes: ``name | line``.

A printer has two ends. `observe` is an observer of the bus and takes what is said about the processes;
`write_line` is an awaited sink for child output, so that nothing is lost: while the reader is slow and the
buffer full, its caller waits, and the child that wrote the line waits with it. Both put their line, already
encoded, into one buffer, so that events and lines keep the order in which they happened.

Not here: rich (plain output must start fast), what the events mean (`words`), writing (`writer`).
"""

from __future__ import annotations

import os
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from orchestra.child.lines import without_colours
from orchestra.dashboard.words import OURSELVES, SENTENCE_KINDS, colour_number, is_blank, sentence
from orchestra.dashboard.writer import terminal_size
from orchestra.events import OutputPaused

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.dashboard.writer import Writer
    from orchestra.events import Event, OutputLine

__all__ = ["PlainPrinter", "wants_colours"]

# Marks an unfinished line; a whole one has "|" there.
_PARTIAL_SIGN = "…"
# The colour of either sign before a line of standard error.
_RED = "\x1b[31m"
# Back to the beginning of the row, and clear it.
_ERASE = b"\r\x1b[K"


class PlainPrinter:
    """Prints ``name | line``, and what happens to the processes as lines of ``orchestra``.

    Requests are not printed: backend and frontend have access logs of their own. Where there are colours, the
    bar before what was written to standard error is red.

    Args:
        writer: Where to write.
        names: The processes, in the order of the Procfile: it decides their colours, the longest the margin.
        environ: For ``NO_COLOR``, ``FORCE_COLOR`` and ``TERM``.
        has_timestamps: Whether lines begin with the time of day.

    Attributes:
        kinds: The types of event that `observe` is for.
    """

    kinds = (*SENTENCE_KINDS, OutputPaused)

    def __init__(
        self,
        writer: Writer,
        names: Sequence[str],
        *,
        environ: Mapping[str, str],
        has_timestamps: bool = False,
    ) -> None:
        self._writer = writer
        self._width = max(len(name) for name in (OURSELVES, *names))
        self._has_colours = wants_colours(environ, writer.fd)
        self._index = {name: index for index, name in enumerate(names)}
        self._margins: dict[tuple[str, str, bool], str] = {}
        self._has_timestamps = has_timestamps
        self._is_terminal = os.isatty(writer.fd)
        # The processes whose newest line is blank.
        self._blank: set[str] = set()
        # In a pipe: the streams whose unfinished line was printed.
        self._marked: set[tuple[str, str]] = set()
        # On a terminal: the unfinished line that stands at the end, with its stream.
        self._begun: tuple[tuple[str, str], bytes] | None = None

    def observe(self, event: Event) -> None:
        """Take an event from the bus; what is worth a sentence is printed, and so is a line's beginning."""
        if isinstance(event, OutputPaused):
            if self._is_terminal:
                self._begin(event)
            else:
                self._mark(event)
            return
        text = sentence(event)
        if text:
            self._writer.put(self._around(self._format(event, OURSELVES, text)))

    async def write_line(self, line: OutputLine) -> None:
        """Take a line of child output; wait while the buffer is full."""
        await self._writer.wait_for_room()
        data = self._format(line, line.process, line.text, is_stderr=line.stream == "stderr")
        if self._is_terminal:
            is_repeated = self._is_repeated_blank(line)
            data = self._around(b"" if is_repeated else data, (line.process, line.stream))
        elif self._marked:
            self._marked.discard((line.process, line.stream))
        if data:
            self._writer.put(data)

    def finish(self) -> None:
        """Put what has to stand at the end: the line end of an unfinished line."""
        if self._begun is not None:
            self._writer.put(b"\n")

    def _is_repeated_blank(self, line: OutputLine) -> bool:
        if not is_blank(line.text):
            self._blank.discard(line.process)
            return False
        is_repeated = line.process in self._blank
        self._blank.add(line.process)
        return is_repeated

    def _mark(self, event: OutputPaused) -> None:
        """Print an unfinished line as a line of its own: it may be a prompt, and a pipe takes nothing back.

        It has a mark of its own, so that ``name | line`` is always whole.
        """
        stream = (event.process, event.stream)
        if event.text and stream not in self._marked:
            self._marked.add(stream)
            self._writer.put(self._format(event, event.process, event.text, sign=_PARTIAL_SIGN))

    def _begin(self, event: OutputPaused) -> None:
        """Show an unfinished line in the last row of the terminal, where it is replaced in place."""
        stream = (event.process, event.stream)
        if event.text:
            # What has wrapped could not be taken back.
            columns, _ = terminal_size(self._writer.fd)
            text = without_colours(event.text)[: max(columns - self._width - 4, 1)]
            data = self._format(event, event.process, text, is_stderr=event.stream == "stderr")[:-1]
            self._writer.put(data if self._begun is None else _ERASE + data)
            self._begun = (stream, data)
        elif self._begun is not None and self._begun[0] == stream:
            self._writer.put(_ERASE)
            self._begun = None

    def _around(self, data: bytes, stream: tuple[str, str] | None = None) -> bytes:
        """Put a line where an unfinished one stands: in its place if it completes it, else before it."""
        if self._begun is None:
            return data
        owner, begun = self._begun
        if owner == stream:
            self._begun = None
            return _ERASE + data
        return _ERASE + data + begun

    def _format(
        self, event: Event, name: str, text: str, *, sign: str = "|", is_stderr: bool = False
    ) -> bytes:
        margin = self._margins.get((name, sign, is_stderr))
        if margin is None:
            margin = self._margins[name, sign, is_stderr] = self._margin(name, sign, is_stderr=is_stderr)
        if "\x1b" in text:
            # What a child has switched on must not run into the next line.
            text = f"{text}\x1b[0m" if self._has_colours else without_colours(text)
        when = _time_of_day(int(event.at)) if self._has_timestamps else ""
        return f"{when}{margin}{text}\n".encode("utf-8", "replace")

    def _margin(self, name: str, sign: str, *, is_stderr: bool) -> str:
        margin = f"{name:<{self._width}} {sign} "
        if not self._has_colours:
            return margin
        if is_stderr:
            margin = f"{name:<{self._width}} {_RED}{sign} "
        if name == OURSELVES and name not in self._index:
            return f"\x1b[1m{margin}\x1b[0m"
        number = colour_number(self._index.setdefault(name, len(self._index)))
        return f"\x1b[38;5;{number}m{margin}\x1b[0m"


def wants_colours(environ: Mapping[str, str], fd: int) -> bool:
    """Whether to use colours: ``NO_COLOR`` beats ``FORCE_COLOR``, which beats what standard output is."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return os.isatty(fd) and environ.get("TERM") != "dumb"


@lru_cache(maxsize=1)
def _time_of_day(second: int) -> str:
    """Format a time of day, in local time; the text of a second is made once."""
    return time.strftime("%H:%M:%S ", time.localtime(second))
