"""The dashboard as a user has it: the real command in a real terminal, and what is left of it afterwards."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.kit import COMMAND, get
from tests.terminal_kit import Terminal

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

SERVE = f"exec {sys.executable} -u -m http.server --bind 127.0.0.1 $PORT"


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
