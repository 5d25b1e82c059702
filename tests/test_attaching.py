"""A run on two terminals: the second one shows what the first one does, and both act."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.kit import COMMAND, get, orchestra
from tests.terminal_kit import Terminal
from tests.test_terminal import address, project

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]


def attached(folder: Path, *, columns: int = 100, lines: int = 30) -> Terminal:
    return Terminal(*COMMAND, "attach", cwd=folder, columns=columns, lines=lines)


def row_of(text: str, name: str) -> str:
    """A process's row of the table."""
    return next((row for row in text.splitlines() if f" {name} " in row and "│" not in row), "")


def log_of(text: str) -> list[str]:
    return [row for row in text.splitlines() if "│" in row]


def has_answered(text: str) -> bool:
    return any(row.startswith(" 200 GET") and "/orchestra.toml" in row for row in text.splitlines())


def test_both_show_the_same_and_both_act(tmp_path: Path) -> None:
    folder = project(tmp_path, worker="printf '\\033[31mred\\033[0m\\n'; printf 'Name? '; sleep 1000")
    with Terminal(*COMMAND, "run", cwd=folder) as first:
        text = first.until(lambda text: text.count("ready") >= 2 and "Name?" in text)
        assert get(address(text) + "/orchestra.toml").status == 200
        first.until(has_answered)
        with attached(folder) as second:
            second.until(lambda text: "q leave" in text and has_answered(text))
            second.until(lambda text: log_of(text) == log_of(first.latest()))
            red = second.screen.buffer[next(y for y, row in enumerate(second.rows) if row.endswith("│ red"))]
            assert "red" in {cell.fg for cell in red.values()}
            second.send("jjr")  # of the second one's choice
            for each in (first, second):
                each.until(lambda text: "worker starts again" in text)
            first.send("jjs")
            for each in (first, second):
                each.until(lambda text: "■ worker" in text and "worker stopped" in text)
            assert get(address(text) + "/Procfile").status == 200
            for each in (first, second):
                each.until(lambda text: "/Procfile" in text)
            first.send("q")
            assert first.wait() == 0
            assert second.wait() == 0
            assert second.is_restored()
            assert ", 1 restart, quit" in second.text.replace("\n", "")


def test_a_run_in_the_background_is_shown_with_its_log(tmp_path: Path) -> None:
    worker = "echo \\$PORT; while read line; do echo got $line; done"
    folder = project(tmp_path, worker=worker)
    assert orchestra("run", "--detach", cwd=folder)[0] == 0
    try:
        assert orchestra("wait", cwd=folder)[0] == 0
        with attached(folder) as left:
            left.until(lambda text: "q leave" in text)
            left.send("q")
            assert left.wait() == 0
            assert left.is_restored()
            assert "the run goes on; `orchestra down` ends it" in left.text
        with attached(folder) as terminal:
            text = terminal.until(lambda text: "worker runs" in text and "web is ready" in text)
            assert get(address(text) + "/Procfile").status == 200
            terminal.until(lambda text: "/Procfile" in text and " MB" in text)
            terminal.send("jji")
            terminal.until(lambda text: "keys go to worker" in text)
            terminal.send("\x1b[200~hello\n\x1b[201~")
            terminal.until(lambda text: "got hello" in text)
            pid = int(row_of(orchestra("ps", cwd=folder)[1], "pid").split("pid ")[1].split(",")[0])
            os.kill(pid, signal.SIGKILL)
            assert terminal.wait() == 2
            assert terminal.is_restored()
            assert "error: the run has ended" in terminal.text
    finally:
        orchestra("down", cwd=folder)


def test_what_was_before_a_run_in_the_background_is_watched_is_shown(tmp_path: Path) -> None:
    worker = "printf '\\033[31mred\\033[0m\\n'; printf 'Name? '; read name; echo hello $name; sleep 1000"
    folder = project(tmp_path, worker=worker)
    assert orchestra("run", "--detach", cwd=folder)[0] == 0
    try:
        assert orchestra("wait", cwd=folder)[0] == 0
        url = orchestra("ps", "--json", cwd=folder)[1].partition('"url":"')[2].partition('"')[0]
        get(url + "/nothing-here")
        get(url + "/orchestra.toml")
        for _ in range(2):
            with attached(folder, columns=140, lines=40) as terminal:
                terminal.until(lambda text: "waits for input at 'Name?'" in text and "2 so far" in text)
                assert all(each in terminal.text for each in (" 404 GET", " 200 GET"))
                red = terminal.screen.buffer[
                    next(y for y, row in enumerate(terminal.rows) if row.endswith("│ red"))
                ]
                assert "red" in {cell.fg for cell in red.values()}
                terminal.send("tj\r")
                terminal.until(lambda text: "first byte" in text and "User-Agent: curl/8" in text)
                terminal.send("q")
                assert terminal.wait() == 0
        assert orchestra("send", "worker", "Ada", cwd=folder)[0] == 0
        with attached(folder) as terminal:
            terminal.until(lambda text: "hello Ada" in text)
            assert "waits for input" not in terminal.text
    finally:
        orchestra("down", cwd=folder)
