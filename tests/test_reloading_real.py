"""A save, with real files, real processes and what the system tells of both."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import pytest

import orchestra
from orchestra.config import Overrides
from tests.kit import Run, get
from tests.process_kit import open_files, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real

SERVER = """\
import os
from http.server import BaseHTTPRequestHandler, HTTPServer
import words

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(words.TEXT.encode())

HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
# Saves that must have no effect are given so long to have one: a burst takes a tenth of it.
UNSEEN = 1.0


class Project:
    """A backend, and the module that its pages come from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "server.py").write_text(SERVER)
        self.says("one")
        (folder / "Procfile").write_text(f"api: exec {sys.executable} server.py\n")

    def says(self, text: str) -> None:
        (self.folder / "words.py").write_text(f"TEXT = {text!r}\n")

    def is_broken(self) -> None:
        (self.folder / "words.py").write_text("TEXT = 'two\n")

    def run(self, *arguments: str, settings: str = "") -> Run:
        (self.folder / "orchestra.toml").write_text(settings)
        run = Run("--listen", "127.0.0.1:0", *arguments, cwd=self.folder)
        run.state("api", "ready")
        return run


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def changed(run: Run) -> list[list[str]]:
    return [event["paths"] for event in run.events if event["type"] == "files.changed"]


def test_a_save_shows_and_the_same_bytes_do_nothing(project: Project) -> None:
    with project.run() as run:
        for text in ("two", "three"):
            since = len(run.events)
            project.says(text)
            run.state("api", "ready", since=since)
            assert get(run.url).text == text
            project.says(text)
            (project.folder / "notes.txt").write_text("not watched")
            time.sleep(UNSEEN)
        assert run.stop() == 130
        assert changed(run) == [["words.py"], ["words.py"]]


@pytest.mark.parametrize("mode", ["replace", "overlap"])
def test_two_saves_in_a_second_are_both_seen(project: Project, mode: str) -> None:
    """Python takes its bytecode for current if the source's second and size are the same."""
    words = project.folder / "words.py"
    settings = f"""\
[process.api]
restart_mode = "{mode}"
env = {{ PYTHONDONTWRITEBYTECODE = "" }}
"""
    with project.run(settings=settings) as run:
        second = int(words.stat().st_mtime)
        assert list((project.folder / "__pycache__").glob("words.*.pyc"))
        for number, text in enumerate(("two", "six"), start=1):
            since = len(run.events)
            saved = project.folder / "words.tmp"
            saved.write_text(f"TEXT = {text!r}\n")
            os.utime(saved, ns=(0, second * 1_000_000_000 + number))
            saved.rename(words)
            run.state("api", "ready", since=since)
            assert get(run.url).text == text


def test_a_save_while_it_starts_is_not_missed(project: Project) -> None:
    (project.folder / "orchestra.toml").write_text("")
    with Run("--listen", "127.0.0.1:0", cwd=project.folder) as run:
        run.state("api", "starting")
        project.says("two")
        run.until(lambda event: event["type"] == "files.changed")
        since = len(run.events)
        run.state("api", "ready", since=since)
        assert get(run.url).text == "two"


def test_a_program_that_is_mended_starts_again(project: Project) -> None:
    with project.run() as run:
        project.is_broken()
        run.state("api", "backing-off")
        since = len(run.events)
        project.says("mended")
        run.state("api", "ready", since=since)
        assert get(run.url).text == "mended"


def test_commands_run_before_the_restart_with_the_processes_environment(project: Project) -> None:
    (project.folder / "words.in").write_text("TEXT = 'one'\n")
    settings = """\
[process.api]
env = { GREETING = "hello" }
before_restart = [{ command = "echo $GREETING; cp words.in words.py", inputs = ["words.in"] }]
"""
    with project.run(settings=settings) as run:
        since = len(run.events)
        (project.folder / "words.in").write_text("TEXT = 'made'\n")
        run.line("api", "hello")
        run.state("api", "ready", since=since)
        assert get(run.url).text == "made"
        (project.folder / "words.in").unlink()  # the command fails
        event = run.until(lambda event: event.get("code") == "before-restart-failed")
        assert "exit code 1" in event["text"]
        assert get(run.url).text == "made"


def test_without_reloads_nothing_is_watched(project: Project) -> None:
    with project.run("--no-reload") as run:
        project.says("two")
        time.sleep(UNSEEN)
        assert get(run.url).text == "one"
        assert run.stop() == 130
        assert changed(run) == []


def test_code_that_embeds_a_run_watches_nothing(project: Project) -> None:
    (project.folder / "orchestra.toml").write_text("")
    with orchestra.running(project.folder / "Procfile", overrides=Overrides(listen="127.0.0.1:0")) as run:
        assert run.url is not None
        assert get(run.url).text == "one"
        project.says("two")
        time.sleep(UNSEEN)
        assert get(run.url).text == "one"


def test_saves_leave_no_open_files_behind(project: Project) -> None:
    with project.run() as run:
        counts = []
        for number in range(5):
            since = len(run.events)
            # A folder more makes the watching begin again.
            (project.folder / f"package{number}").mkdir()
            (project.folder / f"package{number}" / "__init__.py").write_text(str(number))
            run.state("api", "ready", since=since)
            counts.append(open_files(run.process.pid))
        until(lambda: open_files(run.process.pid) <= counts[0], lambda: counts)


def test_a_changed_env_file_and_procfile_change_what_runs(project: Project) -> None:
    with project.run() as run:
        since = len(run.events)
        (project.folder / ".env").write_text("GREETING=hello\n")
        run.until(lambda event: event["type"] == "plan.changed" and event["restarted"] == ["api"])
        run.state("api", "ready", since=since)
        since = len(run.events)
        with (project.folder / "Procfile").open("a") as file:
            file.write("worker: echo $GREETING; sleep 1000\n")
        run.line("worker", "hello", since=since)
        since = len(run.events)
        project.says("two")  # the files of the backend are still watched
        run.state("api", "ready", since=since)
        assert get(run.url).text == "two"
