"""The run as lines on standard output: plain for people and pipes, JSON for programs.

A printer has two ends. `observe` is an observer of the bus and takes everything but child output;
`write_line` is an awaited sink for child output, so that nothing is lost: while the reader is slow and the
buffer full, whoever calls it waits, and the child that wrote the line waits with it. Both put their line,
already encoded, into one buffer, so that events and lines keep the order in which they happened. `run`
empties the buffer in batches.

Standard output may be shared with other programs and is never made non-blocking; it is written to by a worker
thread. One batch is on its way while the next is collected.

Never here: rich (plain output must start fast), what the events mean (`model.sentence`), the exit code.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Protocol

import trio
from msgspec import structs

from orchestra.child.lines import without_colours
from orchestra.dashboard.descriptor import is_hung_up, tells_hangup, write_some
from orchestra.dashboard.model import OURSELVES, colour_number, is_blank, sentence
from orchestra.errors import OrchestraError
from orchestra.events import OutputLine, OutputPaused, encode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.events import Event

__all__ = ["JsonPrinter", "PlainPrinter", "Printer", "ReaderGone", "Unwritable", "wants_colours"]

# 4 MiB are buffered: one half is being written while the other is filled.
_HALF = 2 * 1024 * 1024
# What a pipe holds. Larger writes would hide for how long nothing has moved.
_PIECE = 64 * 1024
# At the end, progress has to be seen in smaller steps: a reader that takes 1 KiB a second is still reading.
_LAST_PIECE = 4 * 1024
_GIVE_UP = 5.0
# How often it is looked at in the end.
_LOOK = 0.25
# A quiet moment before a small batch is followed by another: a line each way to the worker thread and back
# would cost more than the line. Nobody sees 5 ms.
_BREATH = 0.005
_SMALL_BATCH = 16 * 1024
# Stands where a whole line has its "|".
_BEGUN = "…"
# The colour of that sign before what was written to standard error.
_RED = "\x1b[31m"
# Back to the beginning of the row, and clear it.
_ERASE = b"\r\x1b[K"


class Unwritable(OrchestraError):  # noqa: N818 - as below
    """Standard output cannot be written to: a full disk."""

    exit_code = 2

    def __init__(self, cause: OSError) -> None:
        text = f"standard output cannot be written to: {cause.strerror}"
        super().__init__(text, hint="Make room, or send it elsewhere.")


class ReaderGone(OrchestraError):  # noqa: N818 - not an error of anybody
    """Whoever read our output has closed it: ``orchestra run | head``. That is no news to the user."""

    exit_code = 141

    def __init__(self) -> None:
        super().__init__("")


class Printer(Protocol):
    """What the command line needs of a printer."""

    def observe(self, event: Event) -> None:
        """Take an event from the bus. Child output is ignored: it comes by `write_line`."""

    async def write_line(self, line: OutputLine) -> None:
        """Take a line of child output; wait while the buffer is full."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled.

        Raises:
            ReaderGone: Nobody reads any more.
            OrchestraError: Standard output cannot be written to (a full disk).
        """

    async def watch_reader(self) -> None:
        """Keep an eye on the reader: when it makes no progress any more, the rest is dropped. For the end."""

    def give_up(self) -> None:
        """Drop what has not been written yet: somebody is in a hurry."""

    async def aclose(self) -> None:
        """Wait until all is written, for as long as the reader makes progress."""


class _Buffered:
    """The buffer and the task that empties it; what an event looks like is the subclass's business.

    Error handling: when `run` has ended, for whatever reason, everything that is still handed in is dropped,
    so that an orderly shutdown never waits for a reader that is gone.
    """

    def __init__(self, stdout: int = 1) -> None:
        self._stdout = stdout
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._written_bytes = 0
        self._more = trio.Event()
        self._room = trio.Event()
        self._drained = trio.Event()
        self._drained.set()
        self._is_closing = False
        self._is_over = False
        self._is_hung_up = False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {self._pending_bytes} bytes to write>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        fault: OrchestraError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_for_hangup)
            try:
                task_status.started()
                await self._write_all()
            except OrchestraError as exc:
                # Out of the nursery, before it wraps it into a group.
                fault = exc
            nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault

    async def _watch_for_hangup(self) -> None:
        """Notice that nobody reads any more, though there is nothing to write just now."""
        while tells_hangup(self._stdout) and not self._is_hung_up:
            await trio.lowlevel.wait_readable(self._stdout)
            self._is_hung_up = is_hung_up(self._stdout)
            self._more.set()
            await trio.sleep(_BREATH)

    async def _write_all(self) -> None:
        try:
            while True:
                await self._more.wait()
                if self._is_hung_up:
                    raise ReaderGone
                batch = b"".join(self._pending)
                self._pending.clear()
                self._pending_bytes = 0
                self._more = trio.Event()
                self._room.set()
                # Abandoned: a thread that is stuck in a write must not keep us from ending.
                await trio.to_thread.run_sync(self._write, batch, abandon_on_cancel=True)
                if not self._pending:
                    self._drained.set()
                if len(batch) < _SMALL_BATCH and not self._is_closing:
                    await trio.sleep(_BREATH)
        except BrokenPipeError as exc:
            raise ReaderGone from exc
        except OSError as exc:
            raise Unwritable(exc) from exc
        finally:
            self._is_over = True
            self._room.set()
            self._drained.set()

    async def aclose(self) -> None:
        self._is_closing = True
        self._finish()
        await self._drain()

    async def watch_reader(self) -> None:
        while not self._is_over:
            if not await self._drain():
                self.give_up()
            await trio.sleep(_LOOK)

    async def _drain(self) -> bool:
        """Wait until all is written; ``False`` if there was no progress for too long."""
        written, since = self._written_bytes, trio.current_time()
        while not self._drained.is_set():
            with trio.move_on_after(_LOOK):
                await self._drained.wait()
            if self._written_bytes != written:
                written, since = self._written_bytes, trio.current_time()
            elif trio.current_time() - since >= _GIVE_UP:
                return False
        await trio.lowlevel.checkpoint()
        return True

    def give_up(self) -> None:
        self._is_over = True
        self._room.set()
        self._drained.set()

    def _finish(self) -> None:
        """Put what has to stand at the end."""

    async def _wait_for_room(self) -> None:
        while self._pending_bytes >= _HALF and not self._is_over:
            if self._room.is_set():
                self._room = trio.Event()  # one for all who wait
            await self._room.wait()

    def _put(self, line: bytes) -> None:
        if self._is_over:
            return
        if not self._pending:
            self._more.set()
            if self._drained.is_set():
                self._drained = trio.Event()
        self._pending.append(line)
        self._pending_bytes += len(line)

    def _write(self, batch: bytes) -> None:
        """Write a batch; in a worker thread."""
        rest = memoryview(batch)
        while rest and not self._is_over:
            count = write_some(self._stdout, rest[: _LAST_PIECE if self._is_closing else _PIECE])
            self._written_bytes += count
            rest = rest[count:]


class PlainPrinter(_Buffered):
    """Prints ``name | line``, and what happens to the processes as lines of ``orchestra``.

    Requests are not printed: backend and frontend have access logs of their own. Where there are colours, the
    bar before what was written to standard error is red.

    Args:
        names: The processes, in the order of the Procfile: it decides their colours, the longest the margin.
        environ: For ``NO_COLOR``, ``FORCE_COLOR`` and ``TERM``.
        has_timestamps: Whether lines begin with the time of day.
        stdout: The file descriptor to write to.
    """

    def __init__(
        self,
        names: Sequence[str],
        *,
        environ: Mapping[str, str],
        has_timestamps: bool = False,
        stdout: int = 1,
    ) -> None:
        super().__init__(stdout)
        self._width = max(len(name) for name in (OURSELVES, *names))
        self._has_colours = wants_colours(environ, stdout)
        self._index = {name: index for index, name in enumerate(names)}
        self._margins: dict[tuple[str, str, bool], str] = {}
        self._has_timestamps = has_timestamps
        self._is_terminal = os.isatty(stdout)
        self._blank: set[str] = set()  # whose newest line is blank
        self._told: set[tuple[str, str]] = set()  # whose line was begun, if that cannot be taken back
        # The beginning of a line that the terminal ends with now: whose it is, and how it was put.
        self._begun: tuple[tuple[str, str], bytes] | None = None
        self._time_of_day = _TimeOfDay()

    def observe(self, event: Event) -> None:
        """Take an event from the bus; what is worth a sentence is printed, and so is a line's beginning."""
        if isinstance(event, OutputPaused):
            self._begin(event)
            return
        text = sentence(event)
        if text:
            self._put(self._around(self._format(event.at, OURSELVES, text)))

    async def write_line(self, line: OutputLine) -> None:
        """Take a line of child output; wait while the buffer is full."""
        # No checkpoint on the fast path: a line costs less than a turn of trio's scheduler, and who calls us
        # has just waited for the bytes that the line is made of.
        if self._pending_bytes >= _HALF:
            await self._wait_for_room()
        data = self._format(line.at, line.process, line.text, is_stderr=line.stream == "stderr")
        if self._is_terminal:
            is_repeated = self._is_repeated_blank(line)
            data = self._around(b"" if is_repeated else data, (line.process, line.stream))
        elif self._told:
            self._told.discard((line.process, line.stream))
        if data:
            self._put(data)

    def _is_repeated_blank(self, line: OutputLine) -> bool:
        if not is_blank(line.text):
            self._blank.discard(line.process)
            return False
        is_repeated = line.process in self._blank
        self._blank.add(line.process)
        return is_repeated

    def _begin(self, event: OutputPaused) -> None:
        """Show the beginning of a line: somebody may be waiting for just this prompt.

        On a terminal it stands at the end, and is replaced in place. What reads a pipe cannot take anything
        back: there it is a line of its own, with a mark of its own, so that ``name | line`` is always whole.
        """
        whose = (event.process, event.stream)
        if not self._is_terminal:
            if event.text and whose not in self._told:
                self._told.add(whose)
                self._put(self._format(event.at, event.process, event.text, sign=_BEGUN))
            return
        data = self._format(
            event.at,
            event.process,
            event.text,
            width=self._columns(),
            is_stderr=event.stream == "stderr",
        ).removesuffix(b"\n")
        if event.text:
            self._put(data if self._begun is None else _ERASE + data)
            self._begun = (whose, data)
        elif self._begun is not None and self._begun[0] == whose:
            self._put(_ERASE)
            self._begun = None

    def _around(self, data: bytes, whose: tuple[str, str] | None = None) -> bytes:
        """Put a line where the beginning of one stands: in its place if it is its own, else before it."""
        if self._begun is None:
            return data
        owner, begun = self._begun
        if owner == whose:
            self._begun = None
            return _ERASE + data
        return _ERASE + data + begun

    def _finish(self) -> None:
        if self._begun is not None:
            self._put(b"\n")

    def _columns(self) -> int | None:
        """How much of a line can be taken back: what has wrapped cannot."""
        if not self._is_terminal:
            return None
        with contextlib.suppress(OSError):
            return max(os.get_terminal_size(self._stdout).columns - self._width - 4, 1)
        return None

    def _format(
        self,
        at: float,
        name: str,
        text: str,
        *,
        width: int | None = None,
        sign: str = "|",
        is_stderr: bool = False,
    ) -> bytes:
        if width is not None:
            text = without_colours(text)[:width]
        margin = self._margins.get((name, sign, is_stderr))
        if margin is None:
            margin = self._margins[name, sign, is_stderr] = self._margin(name, sign, is_stderr=is_stderr)
        if "\x1b" in text:
            # What a child has switched on must not run into the next line.
            text = f"{text}\x1b[0m" if self._has_colours else without_colours(text)
        when = self._time_of_day(at) if self._has_timestamps else ""
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


class JsonPrinter(_Buffered):
    """Prints every event as one JSON object a line; the keys are those of the contract.

    Lines are numbered as they are written: a line of output that had to wait for room comes after events that
    the bus stamped later.

    Args:
        stdout: The file descriptor to write to.
    """

    def __init__(self, stdout: int = 1) -> None:
        super().__init__(stdout)
        self._count = 0

    def observe(self, event: Event) -> None:
        """Take an event from the bus, unless it is child output: a line is told when it is whole."""
        if not isinstance(event, OutputLine | OutputPaused):
            self._number(event)

    async def write_line(self, line: OutputLine) -> None:
        """Take a line of child output; wait while the buffer is full."""
        if self._pending_bytes >= _HALF:
            await self._wait_for_room()
        self._number(structs.replace(line, text=without_colours(line.text)))

    def _number(self, event: Event) -> None:
        self._count += 1
        self._put(encode(structs.replace(event, seq=self._count)) + b"\n")


def wants_colours(environ: Mapping[str, str], stdout: int) -> bool:
    """Say whether to use colours: ``NO_COLOR`` beats ``FORCE_COLOR``, which beats what standard output is."""
    if environ.get("NO_COLOR"):
        return False
    if environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return os.isatty(stdout) and environ.get("TERM") != "dumb"


class _TimeOfDay:
    """Formats times of day, in local time; the text of a second is made once."""

    def __init__(self) -> None:
        self._second: int | None = None
        self._text = ""

    def __call__(self, at: float) -> str:
        second = int(at)
        if second != self._second:
            self._second, self._text = second, time.strftime("%H:%M:%S ", time.localtime(second))
        return self._text
