"""Backends that reload by themselves and are broken for a while, as people start them, seen by a browser.

Two of them are run by a watcher that says nothing: it is alone then.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit import Run, free_port, get
from tests.project_kit import ACTIVATED
from tests.test_real_projects import DJANGO_URLS, FASTAPI

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kit import Answer

pytestmark = [pytest.mark.real, pytest.mark.ceiling(300)]

BROKEN = "def broken(:\n"
NODE = """
const serve = (request, response) => response.end("hello world")
require("http").createServer(serve).listen(process.env.PORT)
"""
NAVIGATES = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


class Project:
    """A backend whose source can be broken and mended.

    Args:
        source: What is broken.
        whole: What it is when it is not.
        command: Starts the backend.
        announces: Whether it says that it reloads.
    """

    def __init__(
        self, folder: Path, source: Path, whole: str, command: str, *, announces: bool = True
    ) -> None:
        self.folder = folder
        self._announces = announces
        self._source = source
        self._whole = whole
        source.write_text(whole)
        # Only the backend matters here: the frontend is elsewhere and never asked.
        (folder / "Procfile").write_text(f"api: {command}\n")
        settings = f'[proxy]\nbackend = "api"\nfrontend = "http://127.0.0.1:{free_port()}"\n'
        (folder / "orchestra.toml").write_text(settings)

    def breaks(self, run: Run | None = None) -> None:
        self._save(BROKEN, run)

    def is_mended(self, run: Run) -> None:
        self._save(self._whole + "\n", run)

    def _save(self, text: str, run: Run | None) -> None:
        """Save the source until it is noticed: Django overlooks what is saved before it has looked once."""
        since = len(run.events) if run is not None else 0
        self._source.write_text(text)
        if run is None or not self._announces:
            return
        is_noticed = threading.Event()

        def save_again() -> None:
            while not is_noticed.wait(0.5):
                self._source.touch()

        again = threading.Thread(target=save_again)
        again.start()
        try:
            run.line("api", "eloading", since=since)
        finally:
            is_noticed.set()
            again.join()

    def run(self) -> Run:
        return Run("--listen", "127.0.0.1:0", cwd=self.folder, env=ACTIVATED)


@pytest.fixture(params=["uvicorn", "django", "watchfiles", "node"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    if request.param == "uvicorn":
        return Project(tmp_path, tmp_path / "app.py", FASTAPI, "uvicorn app:app --reload --port $PORT")
    if request.param == "watchfiles":
        serve = 'watchfiles --filter python "uvicorn app:app --port $PORT"'
        return Project(tmp_path, tmp_path / "app.py", FASTAPI, serve, announces=False)
    if request.param == "node":
        return Project(tmp_path, tmp_path / "app.js", NODE, "node --watch app.js", announces=False)
    command = [sys.executable, "-m", "django", "startproject", "site1", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    serve = "python manage.py runserver 127.0.0.1:$PORT"
    return Project(tmp_path, tmp_path / "site1" / "urls.py", DJANGO_URLS, serve)


def navigate(run: Run) -> Answer:
    return get(run.url + "/api/hello", headers=NAVIGATES)


def is_broken(run: Run, *, since: int = 0) -> dict[str, Any]:
    """See that every client is told why, at once; return the event of its state."""
    event = run.state("api", "unhealthy", since=since)
    assert event["reason"].startswith("SyntaxError: "), event
    assert event["url"] is None
    page = navigate(run)
    assert (page.status, page.upstream, page.headers["retry-after"]) == (502, "orchestra", "1")
    assert "api is unhealthy: SyntaxError: " in page.text
    assert "def broken(:" in page.text
    assert '<meta http-equiv="refresh" content="1">' in page.text
    called = get(run.url + "/api/hello", method="POST", body=b"x", headers={"Accept": "application/json"})
    assert (called.status, called.headers["content-type"]) == (502, "application/json")
    refused = ("request.finished", 502)
    told = run.until(lambda event: (event["type"], event.get("status")) == refused, since=since)
    assert told["held"] == 0
    return event


def serves(run: Run) -> None:
    answer = navigate(run)
    assert (answer.status, answer.upstream) == (200, "backend"), answer
    assert "world" in answer.text


def test_a_backend_broken_by_an_edit_is_unhealthy_until_mended(project: Project) -> None:
    with project.run() as run:
        pid = run.state("api", "ready")["pid"]
        serves(run)
        since = len(run.events)
        project.breaks(run)
        assert is_broken(run, since=since)["pid"] == pid
        since = len(run.events)
        project.is_mended(run)
        assert run.state("api", "ready", since=since)["pid"] == pid
        serves(run)
        assert run.stop() == 130


def test_a_backend_broken_from_the_start_is_unhealthy_until_mended(project: Project) -> None:
    project.breaks()
    with project.run() as run:
        pid = is_broken(run)["pid"]
        since = len(run.events)
        project.is_mended(run)
        assert run.state("api", "ready", since=since)["pid"] == pid
        serves(run)
        assert run.stop() == 130
