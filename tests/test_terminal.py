"""The dashboard as a user has it: the real command in a real terminal, and what is left of it afterwards."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import signal
import sys
import termios
import time
from typing import TYPE_CHECKING, Any, Self

import pyte
import pytest

from tests.kit import COMMAND, PATIENCE, get

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

SERVE = f"exec {sys.executable} -u -m http.server --bind 127.0.0.1 $PORT"


class Terminal:
    """A terminal of 100 x 30 in which a command is the foreground job."""

    def __init__(self, *argv: str, cwd: Path, columns: int = 100, lines: int = 30) -> None:
        self.screen = pyte.Screen(columns, lines)
        self.written = b""
        self._stream = pyte.ByteStream(self.screen)
        self._status: int | None = None
        controller, terminal = pty.openpty()
        termios.tcsetwinsize(terminal, (lines, columns))
        self.before = termios.tcgetattr(terminal)
        self._controller, self._terminal = controller, terminal
        environ = {**os.environ, "TERM": "xterm-256color"}
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
            self.wait()
        os.close(self._controller)
        os.close(self._terminal)

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def send(self, keys: str) -> None:
        os.write(self._controller, keys.encode())

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self._terminal)

    def until(self, is_it: Callable[[str], bool]) -> str:
        deadline = time.monotonic() + PATIENCE
        while not is_it(self.text):
            if time.monotonic() > deadline:
                pytest.fail(f"not on the screen:\n{self.text}")
            self._read(0.1)
        return self.text

    def wait(self) -> int:
        """Read to the end; returns the exit code."""
        deadline = time.monotonic() + PATIENCE
        while self._status is None:
            if time.monotonic() > deadline:
                pytest.fail(f"it does not end:\n{self.text}")
            self._read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        while self._read(0.05):
            pass
        return self._status

    def _read(self, patience: float) -> bool:
        if not select.select([self._controller], [], [], patience)[0]:
            return False
        with contextlib.suppress(OSError):
            chunk = os.read(self._controller, 65536)
            self.written += chunk
            self._stream.feed(chunk)
        return True

    def is_restored(self) -> bool:
        shown = self.written.rfind(b"\x1b[?25h") > self.written.rfind(b"\x1b[?25l")
        main_screen = self.written.rfind(b"\x1b[?1049l") > self.written.rfind(b"\x1b[?1049h")
        return shown and main_screen and self.settings() == self.before


def project(folder: Path, *, web: str = SERVE, worker: str = "echo [bold]working[/bold]; sleep 1000") -> Path:
    (folder / "Procfile").write_text(f"front: {SERVE}\nweb: {web}\nworker: {worker}\n")
    (folder / "orchestra.toml").write_text(
        '[proxy]\nlisten = "127.0.0.1:0"\nfrontend = "front"\nbackend = "web"\n'
        '[process.web]\nrestart = "never"\n'
    )
    return folder


def test_the_dashboard_shows_processes_output_and_requests(tmp_path: Path) -> None:
    with Terminal(*COMMAND, "run", cwd=project(tmp_path)) as terminal:
        text = terminal.until(lambda text: text.count("ready") >= 2 and "[bold]working[/bold]" in text)
        assert "worker" in text
        assert "running" in text
        url = next(word for word in text.split() if word.startswith("http://127.0.0.1:"))
        assert get(url + "/orchestra.toml").status == 200
        text = terminal.until(lambda text: "/orchestra.toml" in text)
        row = next(line for line in text.splitlines() if "/orchestra.toml" in line and "backend" in line)
        assert "GET" in row
        assert "200" in row
        terminal.send("q")
        assert terminal.wait() == 0
        assert terminal.is_restored()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_whatever_ends_it_the_terminal_is_as_it_was(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with Terminal(*COMMAND, "run", cwd=project(tmp_path)) as terminal:
        terminal.until(lambda text: text.count("ready") >= 2)
        assert terminal.settings() != terminal.before
        if number == signal.SIGINT:
            terminal.send("\x03")
        else:
            os.kill(terminal.pid, number)
        assert terminal.wait() == code
        assert terminal.is_restored()


def test_a_failed_process_is_shown_and_the_dashboard_stays(tmp_path: Path) -> None:
    folder = project(tmp_path, web="echo it is broken; exit 7", worker="true")
    (folder / "Procfile").write_text("web: echo it is broken; exit 7\nworker: true\n")
    (folder / "orchestra.toml").write_text('[process.web]\nrestart = "never"\n')
    with Terminal(*COMMAND, "run", cwd=folder) as terminal:
        text = terminal.until(lambda text: "failed" in text and "completed" in text)
        assert any("web" in line and "failed" in line and "7" in line for line in text.splitlines())
        assert "it is broken" in text
        terminal.send("q")
        assert terminal.wait() == 0
        assert terminal.is_restored()


def test_a_wrong_procfile_does_not_touch_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("nonsense\n")
    with Terminal(*COMMAND, "run", cwd=tmp_path) as terminal:
        assert terminal.wait() == 2
        assert b"\x1b[?1049h" not in terminal.written
        assert b"Procfile:1" in terminal.written
        assert terminal.settings() == terminal.before
