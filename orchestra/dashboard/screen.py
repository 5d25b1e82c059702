"""The task that draws the dashboard on a terminal, reads the keys, and leaves the terminal as it was.

Drawing: ten times a second we look whether the model, the second or the terminal's size has changed; if so,
one frame is rendered into lines, and only the lines that differ from those on the terminal are sent, in one
write between the marks of a synchronized update (DEC private mode 2026; terminals that do not know it ignore
it). The write happens in a worker thread, and no other frame is rendered while it is pending: a terminal that
was stopped by Ctrl-S, or is slow, costs frames and nothing else.

Keys: standard input is waited for by trio and read when it is readable; its mode is never made non-blocking,
because it belongs to the user's shell as well. `ISIG` stays on, so that the terminal itself turns Ctrl-C into
SIGINT. Ctrl-Z is switched off as a signal: it would stop us before the terminal is restored.

Restoring: `restore` may be called at any time, any number of times, and also runs at exit. The writing thread
and `restore` exclude each other, so that no late frame lands on the user's normal screen.

Not here: signal handlers (the size is polled), what is drawn (`view`), what keys do.
"""

from __future__ import annotations

import atexit
import io
import os
import re
import termios
import threading
import time
import tty
from contextlib import suppress
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

import trio
from rich.console import Console

from orchestra.dashboard.view import Dashboard, Summary
from orchestra.dashboard.writer import is_writable, terminal_size, write_some

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from orchestra.dashboard.model import Model
    from orchestra.dashboard.view import Section

    _Mode: TypeAlias = list[Any]  # as typeshed has it: six numbers and a list of characters

__all__ = ["SUSPEND", "KeyDecoder", "Screen", "summary"]

SUSPEND = "\x1a"
"""The key Ctrl-Z."""

_TICK = 0.1
# How long the end waits for a terminal that takes nothing any more.
_STALL_TIMEOUT = 0.5

# The alternate screen; no cursor; no wrapping at the right margin, should the terminal find a character wider
# than we do.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[H\x1b[2J"
# Some terminals (tmux 3.3) leave a row of the alternate screen behind if they were made larger meanwhile.
_CLEAR = b"\x1b[0m\x1b[2J"
# Ends a synchronized update, colours, the modes that we set, and the alternate screen.
_LEAVE = b"\x1b[?2026l\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
_BEGIN_UPDATE, _END_UPDATE = "\x1b[?2026h", "\x1b[?2026l"

_REDRAW = "\x0c"  # Ctrl-L, as everywhere


class Screen:
    """Draws a model on a terminal for as long as `run` runs.

    Resource handling: the terminal is restored when `run` returns or raises, when it is cancelled, and, if
    all else fails, when Python exits.

    Error handling: a terminal that has gone away ends the drawing, not the run: that is up to SIGHUP.

    Args:
        model: What to draw; it may change at any time.
        keys: What to call for which key.
        on_taken: Called with the terminal's device when it is taken, and with what gives it back when it is
            written there; with ``None`` when it is given back.
        stdin: A terminal's file descriptor, for its mode and its keys.
        stdout: The same terminal's, to write to.
        environ: For ``TERM``, ``COLORTERM`` and ``NO_COLOR``.
    """

    def __init__(
        self,
        model: Model,
        keys: Mapping[str, Callable[[], object]],
        *,
        on_taken: Callable[[str | None, bytes], object] = lambda *_: None,
        stdin: int = 0,
        stdout: int = 1,
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._model = model
        self._keys = keys
        self._on_taken = on_taken
        self._stdin = stdin
        self._stdout = stdout
        self._environ = environ
        self._clock = clock
        # What to give back; while there is none, the terminal is not ours.
        self._mode: _Mode | None = None
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._drawn: tuple[int, int, tuple[int, int]] | None = None

    def __repr__(self) -> str:
        return f"<Screen {'off' if self._mode is None else 'on'} terminal {self._stdout}>"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Draw and read keys until cancelled.

        Args:
            task_status: `nursery.start` goes on when the first frame has been drawn.
        """
        self.take()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_keys)
                await self._draw()
                task_status.started()
                while True:
                    await trio.sleep(_TICK)
                    await self._draw()
        finally:
            self.restore()

    def restore(self) -> None:
        """Give the terminal back as it was; nothing is drawn until `take`.

        Does nothing the second time; never raises, never hangs.
        """
        mode, self._mode = self._mode, None
        if mode is None:
            return
        atexit.unregister(self.restore)
        # All of this fails if the terminal is gone, and then it does not matter.
        with suppress(OSError, termios.error):
            # Ctrl-S would hold back what follows. Linux starts by TCOON only what was stopped by TCOOFF.
            termios.tcflow(self._stdout, termios.TCOOFF)
            termios.tcflow(self._stdout, termios.TCOON)
        if self._lock.acquire(timeout=_STALL_TIMEOUT):
            try:
                if is_writable(self._stdout, within=_STALL_TIMEOUT):
                    with suppress(OSError):
                        os.write(self._stdout, _CLEAR + _LEAVE)
            finally:
                self._lock.release()
        with suppress(OSError, termios.error):
            # Keys that were meant for us are not meant for the shell. TCSANOW: the others wait for the
            # output.
            termios.tcflush(self._stdin, termios.TCIFLUSH)
            termios.tcsetattr(self._stdin, termios.TCSANOW, mode)
        self._on_taken(None, b"")

    def take(self) -> None:
        """Take the terminal; the next frame draws everything."""
        if self._mode is not None:
            return
        self._mode = termios.tcgetattr(self._stdin)
        atexit.register(self.restore)
        with suppress(OSError):
            self._on_taken(os.ttyname(self._stdout), _LEAVE)
        self._lines, self._drawn = [], None
        disabled = bytes([os.fpathconf(self._stdin, "PC_VDISABLE")])
        termios.tcsetattr(self._stdin, termios.TCSANOW, _key_mode(self._mode, disabled))

    async def _draw(self) -> None:
        """Draw a frame if something that it shows may have changed."""
        now = self._clock()
        size = terminal_size(self._stdout)
        state = (self._model.version, int(now), size)
        if self._mode is None or state == self._drawn:
            await trio.lowlevel.checkpoint()
            return
        lines = _rendered(Dashboard(self._model, now), size, self._environ).split("\n")[:-1]
        if self._drawn is None or self._drawn[2] != size:
            update = _ENTER + _difference([], lines)
        else:
            update = _difference(self._lines, lines)
        self._lines, self._drawn = lines, state
        if not update:
            await trio.lowlevel.checkpoint()
            return
        data = f"{_BEGIN_UPDATE}{update}{_END_UPDATE}".encode("utf-8", "replace")
        # If it fails, the terminal has gone. What follows from that is not ours to decide.
        with suppress(OSError):
            # Abandoned: nothing, not even the end of the run, waits for a terminal that was stopped.
            await trio.to_thread.run_sync(self._write, data, abandon_on_cancel=True)

    def _write(self, data: bytes) -> None:
        """Write a frame; in a worker thread."""
        with self._lock:
            rest = memoryview(data)
            while rest and self._mode is not None:
                rest = rest[write_some(self._stdout, rest) :]

    async def _read_keys(self) -> None:
        decoder = KeyDecoder()
        with suppress(OSError):
            while True:
                await trio.lowlevel.wait_readable(self._stdin)
                if self._mode is None:  # suspended: what is typed now is not for us
                    await trio.sleep(_TICK)
                    continue
                data = os.read(self._stdin, 1024)
                if not data:
                    return
                for key in decoder.feed(data):
                    if key == _REDRAW:
                        self._drawn = None
                    elif key in self._keys:
                        self._keys[key]()


class KeyDecoder:
    """Turns what a terminal sends into keys, one character each; escape sequences (arrows) are swallowed.

    A sequence may arrive in pieces. A lone escape that ends a piece was the key itself, unless the next one
    begins as a sequence goes on.
    """

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, data: bytes) -> list[str]:
        """Take the next bytes; return the keys that they have completed."""
        if self._partial != b"\x1b" or data[:1] in (b"[", b"O"):
            data = self._partial + data
        partial = _PARTIAL_SEQUENCE.search(data)
        self._partial = b"" if partial is None else partial[0][:_LONGEST_SEQUENCE]
        data = data if partial is None else data[: partial.start()]
        return list(_SEQUENCE.sub(b"", data).decode("utf-8", "ignore"))


# ECMA-48 5.4: CSI, parameters, intermediates, final; SS3 and one character; with Alt: escape and the key.
_SEQUENCE = re.compile(rb"\x1b+(?:\[[0-?]*[ -/]*[@-~]|O[ -~]|[^\x1b])?")
_PARTIAL_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")
# Nothing that a terminal sends is longer; what is pasted must not pile up.
_LONGEST_SEQUENCE = 64


def summary(model: Model, *, stdout: int = 1, environ: Mapping[str, str]) -> str:
    """Draw what stays on the normal screen after the dashboard, with colours and line ends.

    Args:
        model: The run, ended or not.
        stdout: The terminal that it is for: its width counts.
        environ: As for `Screen`.
    """
    return _rendered(Summary(model), terminal_size(stdout), environ)


def _rendered(section: Section, size: tuple[int, int], environ: Mapping[str, str]) -> str:
    """Render to lines of text and colours, each with its end."""
    width, height = size
    console = Console(
        file=io.StringIO(),
        force_terminal=True,
        legacy_windows=False,
        width=width,
        height=height,
        no_color=bool(environ.get("NO_COLOR")),
        _environ=environ,
    )
    with console.capture() as capture:
        console.print(section)
    return capture.get()


def _difference(before: list[str], after: list[str]) -> str:
    """Return what to send so that a terminal that shows `before` shows `after`."""
    # Erased first, not afterwards: behind a full line, the cursor still stands on its last cell.
    return "".join(
        f"\x1b[{row}H\x1b[K{new}"
        for row, (old, new) in enumerate(zip_longest(before, after), start=1)
        if old != new
    )


def _key_mode(mode: _Mode, disabled: bytes) -> _Mode:
    """Derive the mode in which keys come at once and unechoed, and Ctrl-C is still a signal."""
    mode = list(mode)
    mode[tty.LFLAG] = (mode[tty.LFLAG] & ~(termios.ECHO | termios.ICANON)) | termios.ISIG
    characters = mode[tty.CC] = list(mode[tty.CC])
    # A read takes what there is and never waits: that is trio's part.
    characters[termios.VMIN] = characters[termios.VTIME] = 0
    for name in ("VSUSP", "VDSUSP"):  # the second one only macOS has
        if hasattr(termios, name):
            characters[getattr(termios, name)] = disabled
    return mode
