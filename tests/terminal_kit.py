"""Terminals with an emulator at their other end: a bare one, and one with a command in it."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import termios
import time
from typing import TYPE_CHECKING, Any, Self

import pyte
import pytest
import trio

from tests.kit import PATIENCE
from tests.process_kit import until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


class Pty:
    """A bare pseudo-terminal for what is written to it by this very process, for trio.

    Attributes:
        fd: The side to write to.
        received: All bytes that came out at the other side.
    """

    def __init__(self, columns: int = 80, lines: int = 24) -> None:
        self.controller, self.fd = pty.openpty()
        self.received = b""
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        termios.tcsetwinsize(self.fd, (lines, columns))

    def close(self) -> None:
        for fd in (self.controller, self.fd):
            with contextlib.suppress(OSError):  # a test has closed one side itself
                os.close(fd)

    def resize(self, columns: int, lines: int) -> None:
        self._screen.resize(lines, columns)
        termios.tcsetwinsize(self.fd, (lines, columns))

    def type(self, keys: bytes) -> None:
        os.write(self.controller, keys)

    @property
    def rows(self) -> list[str]:
        return [row.rstrip() for row in self._screen.display]

    @property
    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.fd)

    async def receive(self) -> None:
        with trio.move_on_after(PATIENCE) as limit:
            await trio.lowlevel.wait_readable(self.controller)
        if limit.cancelled_caught:
            pytest.fail("\n".join(self.rows))
        data = os.read(self.controller, 65536)
        self.received += data
        # The emulator does not know these marks, and would show a part of them.
        self._stream.feed(data.replace(b"\x1b[?2026h", b"").replace(b"\x1b[?2026l", b""))

    async def until(self, is_it: Callable[[list[str]], bool]) -> None:
        """Read what comes until the picture is as it should be."""
        while not is_it(self.rows):
            await self.receive()

    async def shows(self, *rows: str) -> None:
        """Wait until it shows exactly these rows."""
        await self.until(lambda shown: [row for row in shown if row] == list(rows))

    async def until_text(self, text: str) -> None:
        await self.until(lambda rows: any(text in row for row in rows))

    async def until_bytes(self, data: bytes) -> None:
        while data not in self.received:
            await self.receive()


class Terminal:
    """A terminal of 100 x 30 in which a command is the foreground job.

    Args:
        argv: The command. It leads the terminal's session.
        cwd: Where it starts.
        env: What its environment has beside ours.
    """

    def __init__(
        self,
        *argv: str,
        cwd: Path,
        columns: int = 100,
        lines: int = 30,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.written = b""
        self._stream = pyte.ByteStream(self.screen)
        self._status: int | None = None
        controller, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (lines, columns))
        self.before = termios.tcgetattr(terminal)
        self._controller, self._terminal = controller, terminal
        self._is_closed = False
        environ = {**os.environ, "TERM": "xterm-256color", **(env or {})}
        # A shell makes the terminal its controlling one by opening it as a session leader.
        name = os.ttyname(terminal)
        self.pid = os.posix_spawn(
            "/bin/sh",
            ["/bin/sh", "-c", f'exec <{name} >{name} 2>&1; cd "$0"; exec "$@"', str(cwd), *argv],
            environ,
            setsid=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self._status is None:
            os.kill(self.pid, signal.SIGTERM)
            os.kill(self.pid, signal.SIGHUP)  # an interactive shell does not heed SIGTERM
            self.wait()
        self.close()

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    @property
    def rows(self) -> list[str]:
        return self.text.splitlines()

    def send(self, keys: str) -> None:
        os.write(self._controller, keys.encode())

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._terminal)

    def end_while_it_accepts_nothing(self) -> None:
        """Do not read until nothing can be written any more, and end its program, which fills it.

        Its modes are as they were then, and its screen is when it accepts output again.
        """
        until(lambda: not select.select([], [self._terminal], [], 0.5)[1], lambda: "it accepts everything")
        os.kill(self.pid, signal.SIGTERM)
        has_ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
        until(lambda: os.waitid(os.P_PID, self.pid, has_ended) is not None, lambda: "it does not end")
        assert not self.has_its_own_screen()
        assert self.settings() == self.before
        self.until(lambda _: self.has_its_own_screen())
        assert self.wait() == 143

    def foreground(self) -> int:
        """The process group that has the terminal."""
        return os.tcgetpgrp(self._controller)

    def resize(self, columns: int, lines: int) -> None:
        termios.tcsetwinsize(self._controller, (lines, columns))
        self.screen.resize(lines, columns)

    def close(self) -> None:
        """Close the window."""
        if not self._is_closed:
            self._is_closed = True
            os.close(self._terminal)
            os.close(self._controller)

    def until(self, is_it: Callable[[str], bool]) -> str:
        deadline = time.monotonic() + PATIENCE
        while not is_it(self.text):
            if time.monotonic() > deadline:
                pytest.fail(f"not on the screen:\n{self.text}")
            self._read(0.1)
        return self.text

    def latest(self) -> str:
        """What is shown when all that has been written is read."""
        while self._read(0):
            pass
        return self.text

    def wait(self) -> int:
        """Read to the end; returns the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._status is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                pytest.fail(f"it does not end:\n{self.text}")
            self._read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        while self._read(0.05):
            pass
        return self._status

    def _read(self, patience: float) -> bool:
        if self._is_closed:
            time.sleep(patience)
            return False
        if not select.select([self._controller], [], [], patience)[0]:
            return False
        with contextlib.suppress(OSError):
            chunk = os.read(self._controller, 65536)
            self.written += chunk
            self._stream.feed(chunk)
        return True

    def has_its_own_screen(self) -> bool:
        shown = self.written.rfind(b"\x1b[?25h") > self.written.rfind(b"\x1b[?25l")
        main_screen = self.written.rfind(b"\x1b[?1049l") > self.written.rfind(b"\x1b[?1049h")
        return shown and main_screen

    def is_restored(self) -> bool:
        return self.has_its_own_screen() and self.settings() == self.before
