"""The task that draws the dashboard on a terminal, reads the keys, and restores the terminal.

Drawing: ten times a second, less often while nothing happens, the task checks whether the model, the
controls, the second or the terminal's size has changed. If so, it takes a frame, and a worker thread draws
that into lines. Lines that differ from the terminal's are sent, in one write between the marks of a
synchronized update (DEC private mode 2026; terminals without it ignore it). No other frame is taken
meanwhile: a terminal that is slow, or stopped by Ctrl-S, costs frames and nothing else.

Keys: trio waits for standard input, which is read when it is readable; its mode is never made non-blocking,
because it belongs to the user's shell as well. `ISIG` stays on, so that the terminal itself turns Ctrl-C into
SIGINT. Ctrl-Z is disabled as a signal: it would stop us before the terminal is restored. While a process gets
the input, it gets all keys but Ctrl-], Ctrl-C too.

Restoring: `restore` may be called at any time, any number of times, and also runs at exit. The writing thread
and `restore` exclude each other, so that no late frame lands on the user's normal screen.

Not here: signal handlers (the size is polled), what is drawn (`view`), what keys do (`controls`).
"""

from __future__ import annotations

import atexit
import base64
import os
import re
import termios
import threading
import time
import tty
from contextlib import suppress
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import trio
from rich.console import COLOR_SYSTEMS, Console
from rich.segment import Segment

from orchestra.dashboard import view
from orchestra.dashboard.frame import Frame, frame
from orchestra.dashboard.keys import KeyDecoder, Pastes
from orchestra.dashboard.text import to_ascii
from orchestra.dashboard.view import draw, layout
from orchestra.dashboard.writer import is_writable, terminal_size, write_some

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from rich.text import Text

    from orchestra.control.local import Order
    from orchestra.dashboard.controls import Act, Controls, Look
    from orchestra.dashboard.model import Model

    _Mode: TypeAlias = list[Any]  # as typeshed has it: six numbers and a list of characters

__all__ = ["Renderer", "Screen", "leave_behind", "summary"]

_TICK = 0.1
# The pause while nothing happens and no key is pressed: a run is left open all day.
_IDLE_TICK = 0.25
# Seconds that the end waits for a terminal that accepts nothing any more.
_STALL_TIMEOUT = 0.5

# The alternate screen; no cursor; marks around pasted text; no wrapping at the right margin, in case the
# terminal draws a character wider than we expect.
_ENTER = "\x1b[?1049h\x1b[?25l\x1b[?2004h\x1b[?7l\x1b[H\x1b[2J"
# Some terminals (tmux 3.3) keep a row of the alternate screen if they were made larger meanwhile.
_CLEAR = b"\x1b[0m\x1b[2J"
# Ends a synchronized update, colours, our modes, and the alternate screen; without one, the next line begins
# in the first column.
_LEAVE = b"\x1b[?2026l\x1b[?1000l\x1b[?1006l\x1b[?2004l\x1b[0m\x1b[?7h\x1b[?25h\r\x1b[?1049l"
_BEGIN_UPDATE, _END_UPDATE = "\x1b[?2026h", "\x1b[?2026l"

# xterm's mouse protocols 1000 and 1006: buttons; the wheel counts as two of them.
_MOUSE_ON = "\x1b[?1000h\x1b[?1006h"
# Ctrl-], as in telnet.
_END_INPUT = b"\x1d"
# Terminals limit the size of the clipboard; xterm's is about 100 kB as base64.
_LONGEST_COPY = 64 * 1024
_MISSED_SECONDS = 5.0
# Rendered lines that are cached.
_MOST_KNOWN = 2000
_LINK_NUMBER = re.compile(r"\x1b]8;id=\d+;")


class Screen:
    """Draws a model on a terminal for as long as `run` runs.

    Resource handling: the terminal is restored when `run` returns or raises, when it is cancelled, and, if
    all else fails, when Python exits.

    Error handling: a terminal that has gone away ends the drawing, not the run: that is up to SIGHUP.

    Args:
        controls: The state of the user interface; its model may change at any time.
        send: Called with input for a process: its name, and the bytes.
        on_taken: Called with the terminal's device when it is taken, and with the bytes that restore it; with
            ``None`` when it is restored, unless it accepts no output.
        environ: For ``TERM``, ``COLORTERM``, ``NO_COLOR`` and the locale.
    """

    def __init__(
        self,
        controls: Controls,
        perform: Callable[[Order | Act], object],
        *,
        send: Callable[[str, bytes], object] = lambda *_: None,
        on_taken: Callable[[str | None, bytes], object] = lambda *_: None,
        stdin: int = 0,
        stdout: int = 1,
        environ: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._controls = controls
        self._perform = perform
        self._send = send
        self._on_taken = on_taken
        self._stdin = stdin
        self._stdout = stdout
        self._enter = _ENTER + (_MOUSE_ON if controls.has_mouse else "")
        self._renderer = Renderer(environ)
        self._clock = clock
        # The original mode; ``None`` while the terminal is not ours.
        self._mode: _Mode | None = None
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._drawn: _Drawn | None = None
        self._missed = Missed()
        self._typed = trio.lowlevel.ParkingLot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Draw and read keys until cancelled; started when the first frame has been drawn."""
        self.take()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_keys)
                await self._draw()
                task_status.started()
                before = None
                while True:
                    if self._drawn is not before:
                        await trio.sleep(_TICK)
                    else:
                        with trio.move_on_after(_IDLE_TICK):
                            await self._typed.park()
                    before = self._drawn
                    await self._draw()
        finally:
            self.restore()

    def restore(self) -> None:
        """Restore the terminal; nothing is drawn until `take`.

        Does nothing the second time; never raises, never hangs.
        """
        mode, self._mode = self._mode, None
        if mode is None:
            return
        atexit.unregister(self.restore)
        # All of this fails if the terminal is gone, and then it does not matter.
        with suppress(OSError, termios.error):
            # Ctrl-S would hold back the following bytes. Linux resumes by TCOON only what TCOOFF has stopped.
            termios.tcflow(self._stdout, termios.TCOOFF)
            termios.tcflow(self._stdout, termios.TCOON)
        is_given_back = False
        if self._lock.acquire(timeout=_STALL_TIMEOUT):
            try:
                if is_writable(self._stdout, within=_STALL_TIMEOUT):
                    is_given_back = True
                    with suppress(OSError):
                        os.write(self._stdout, _CLEAR + _LEAVE)
            finally:
                self._lock.release()
        with suppress(OSError, termios.error):
            # Keys that were meant for us must not reach the shell. TCSANOW: the other modes wait for the
            # output.
            termios.tcflush(self._stdin, termios.TCIFLUSH)
            termios.tcsetattr(self._stdin, termios.TCSANOW, mode)
        if is_given_back:
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
        self._change_mode()

    def _copy(self, text: str) -> None:
        """Copy text into the clipboard of the user's terminal (OSC 52); not all terminals allow it."""
        self._controls.show_message(f"copied: {text}")
        data = b"\x1b]52;c;" + base64.b64encode(text.encode()[:_LONGEST_COPY]) + b"\x07"
        # Never waits: a terminal that is stopped, or is being drawn on, gets nothing.
        if self._lock.acquire(blocking=False):
            try:
                if self._mode is not None and is_writable(self._stdout, within=0):
                    os.write(self._stdout, data)
            finally:
                self._lock.release()

    async def _draw(self) -> None:
        now, size, controls = self._clock(), terminal_size(self._stdout), self._controls
        model = controls.model
        drawn = _Drawn(model.version, controls.look, int(now), size)
        if self._mode is None or drawn == self._drawn:
            await trio.lowlevel.checkpoint()
            return
        missed = self._missed.count(model.log.count, controls.page, now)
        picture = frame(controls, now=now, width=size[0], height=size[1], missed=missed)
        controls.page = max(layout(picture).middle - 1, 1)
        is_new = self._drawn is None or self._drawn.size != size
        # The look is drawn after the selection has followed a failure.
        self._drawn = drawn._replace(look=controls.look)
        # If it fails, the terminal has gone. The consequences are not decided here.
        with suppress(OSError):
            # Abandoned: nothing, not even the end of the run, waits for a terminal that was stopped.
            await trio.to_thread.run_sync(
                partial(self._paint, picture, is_new=is_new), abandon_on_cancel=True
            )

    def _paint(self, picture: Frame, *, is_new: bool) -> None:
        """Draw a frame and write it; in a worker thread."""
        lines = self._renderer.lines(draw(picture, self._controls.bindings))
        with self._lock:
            if self._mode is None:
                return
            update = self._enter + _difference([], lines) if is_new else _difference(self._lines, lines)
            self._lines = lines
            if update:
                rest = memoryview(f"{_BEGIN_UPDATE}{update}{_END_UPDATE}".encode("utf-8", "replace"))
                while rest and self._mode is not None:
                    rest = rest[write_some(self._stdout, rest) :]

    async def _read_keys(self) -> None:
        decoder, pastes = KeyDecoder(), Pastes()
        with suppress(OSError):
            while True:
                await trio.lowlevel.wait_readable(self._stdin)
                if self._mode is None:  # Suspended: keys are not for us now.
                    await trio.sleep(_TICK)
                    continue
                data = os.read(self._stdin, 1024)
                if not data:  # The shell has taken it: the terminal was the shell's when that woke us.
                    await trio.sleep(_TICK)
                self._typed.unpark_all()
                for piece, is_pasted in pastes.feed(data):
                    if is_pasted:
                        self._take_paste(piece)
                        continue
                    keys = piece
                    while keys:
                        keys = self._take_keys(keys, decoder)

    def _take_paste(self, data: bytes) -> None:
        if self._controls.gives_input:
            self._send(self._controls.look.selected, data)
        else:
            self._controls.paste(data.decode("utf-8", "replace"))

    def _take_keys(self, data: bytes, decoder: KeyDecoder) -> bytes:
        """Handle the keys that were typed; return those that are left."""
        controls = self._controls
        if controls.gives_input:
            typed, end, rest = data.partition(_END_INPUT)
            if typed:
                self._send(controls.look.selected, typed)
            if end:
                controls.end_input()
                self._change_mode()
            return rest
        # One key at a time: after the first one, the next may be input for a process.
        for key in decoder.feed(data):
            order = controls.press(key)
            if order is not None and order.do == "redraw":
                self._drawn = None
            elif order is not None and order.do == "copy":
                self._copy(order.text)
            elif order is not None:
                self._perform(order)
            if controls.gives_input:
                self._change_mode()
                return b""
        return b""

    def _change_mode(self) -> None:
        """Have Ctrl-C and others arrive as keys while a process gets the input, and not otherwise."""
        if self._mode is not None:
            with suppress(OSError, termios.error):
                disabled = bytes([os.fpathconf(self._stdin, "PC_VDISABLE")])
                mode = _key_mode(self._mode, disabled, is_raw=self._controls.gives_input)
                termios.tcsetattr(self._stdin, termios.TCSANOW, mode)


class _Drawn(NamedTuple):
    """The inputs of a picture: a change of one requires a new picture."""

    version: int
    look: Look
    second: int
    size: tuple[int, int]


class Missed:
    """Counts the lines that came and went between two frames; the count is shown for some seconds."""

    def __init__(self) -> None:
        self._seen = 0
        self._count = 0
        self._since = 0.0

    def count(self, lines: int, page: int, now: float) -> int:
        """Take note of a frame, after so many lines; return how many were not shown recently."""
        gone = lines - self._seen - page
        self._seen = lines
        if gone > 0:
            self._count, self._since = self._count + gone, now
        elif now - self._since > _MISSED_SECONDS:
            self._count = 0
        return self._count


class Renderer:
    """Turns lines of text into bytes for a terminal with the abilities that its environment names."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        locale = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or "UTF-8"
        # "C.UTF-8", "de_DE.utf8"; for a locale without a charset, such as "C", only ASCII is certain.
        self._is_unicode = "utf" in locale.lower()
        self._console = Console(
            force_terminal=True,
            legacy_windows=False,
            width=1,
            height=1,
            no_color=bool(environ.get("NO_COLOR")),
            _environ=environ,
        )
        self._colours = COLOR_SYSTEMS.get(self._console.color_system or "")
        self._known: dict[tuple[object, ...], str] = {}

    def lines(self, lines: Iterable[Text]) -> list[str]:
        """Render lines, without their ends; they are not too long."""
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        return [self._line(line) for line in lines]

    def _line(self, line: Text) -> str:
        # Most of a picture is the same as in the last one.
        key = line.plain, tuple(line.spans), line.style
        found = self._known.get(key)
        if found is None:
            # `Console.print` gives the same, after laying out a page for each line: five times the work.
            segments = Segment.apply_style(line.render(self._console), self._console.get_style(line.style))
            if self._console.no_color:
                segments = Segment.remove_color(segments)
            text = "".join(
                style.render(text, color_system=self._colours) if style else text
                for text, style, _ in segments
            )
            # Rich gives a link a new number in each picture, and all lines with one would be sent again.
            text = _LINK_NUMBER.sub("\x1b]8;;", text)
            found = self._known[key] = text if self._is_unicode else to_ascii(text)
        return found


def summary(model: Model, *, stdout: int = 1, environ: Mapping[str, str]) -> str:
    """Draw the text that stays on the normal screen after the dashboard, with colours and line ends."""
    width, _ = terminal_size(stdout)
    lines = Renderer(environ).lines(view.summary(model, width))
    return "".join(f"{line}\n" for line in lines)


def leave_behind(text: str) -> None:
    """Write text to the normal screen, unless the terminal has gone or accepts nothing."""
    with suppress(OSError):
        if is_writable(1, within=0):
            os.write(1, text.encode("utf-8", "replace"))


def _difference(before: list[str], after: list[str]) -> str:
    # Erased before, not afterwards: after a full line, the cursor is still on its last cell.
    return "".join(
        f"\x1b[{row}H\x1b[K{new}"
        for row, (old, new) in enumerate(zip_longest(before, after), start=1)
        if old != new
    )


def _key_mode(mode: _Mode, disabled: bytes, *, is_raw: bool = False) -> _Mode:
    """Derive the mode in which keys arrive at once and without echo; Ctrl-C is a signal, unless raw."""
    mode = list(mode)
    mode[tty.LFLAG] &= ~(termios.ECHO | termios.ICANON | termios.ISIG)
    if is_raw:
        mode[tty.LFLAG] &= ~termios.IEXTEN
        mode[tty.IFLAG] &= ~(termios.IXON | termios.ICRNL)
    else:
        mode[tty.LFLAG] |= termios.ISIG
    characters = mode[tty.CC] = list(mode[tty.CC])
    # A read takes the available bytes and never waits: waiting is trio's part.
    characters[termios.VMIN] = characters[termios.VTIME] = 0
    for name in ("VSUSP", "VDSUSP"):  # the second one only macOS has
        if hasattr(termios, name):
            characters[getattr(termios, name)] = disabled
    return mode
