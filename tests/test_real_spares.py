"""The spare: an interpreter that has imported the packages, and serves when it is told to."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import trio

from orchestra import Overrides, State, Supervisor, load
from orchestra.child import application
from tests.events_kit import Recorder
from tests.kit import PATIENCE, get, marked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

APP = """
import markupsafe


def app(environ, start_response):
    start_response("200 OK", [])
    return [b"%s"]
"""
SETTINGS = """
[process.api]
app = "notes:app"
warm_spare = true
"""


@asynccontextmanager
async def serving(root: Path, settings: str = SETTINGS) -> AsyncIterator[tuple[Supervisor, Recorder]]:
    """Run the application, until it has a spare."""
    (root / "notes.py").write_text(APP % "old")
    (root / "orchestra.toml").write_text(settings)
    plan = load(root / "orchestra.toml", overrides=Overrides(listen="127.0.0.1:0"))
    supervisor = Supervisor(plan, is_kept_open="always")
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert "MiB" in (await recorder.until_notice("spare-ready")).text
        yield supervisor, recorder
        await supervisor.stop()


async def spare_of(supervisor: Supervisor, touched: Path | None = None) -> int:
    """The spare's pid, as soon as there is one; a file is touched until then."""
    with trio.fail_after(PATIENCE):
        while True:
            pid = supervisor.snapshot()["api"].pid
            for each in marked(supervisor._run.id):
                with suppress(psutil.Error):
                    if each.pid != pid and ":" not in each.environ()["ORCHESTRA_PROCESS"]:
                        return each.pid
            if touched is not None:
                touched.touch()
            await trio.sleep(0.05)


async def text_of(supervisor: Supervisor) -> str:
    return (await trio.to_thread.run_sync(get, supervisor.url or "")).text


@pytest.mark.parametrize("mode", ["replace", "overlap"])
async def test_a_restart_is_served_by_the_spare(tmp_path: Path, mode: str) -> None:
    async with serving(tmp_path, f'{SETTINGS}restart_mode = "{mode}"\n') as (supervisor, recorder):
        # Of different sizes: Python may take files of one second for the same.
        for restarts, text in enumerate(("newer", "newest"), start=1):
            spare, old = await spare_of(supervisor), supervisor.snapshot()["api"].pid
            (tmp_path / "notes.py").write_text(APP % text)
            await supervisor.restart("api")
            with trio.fail_after(PATIENCE):
                assert (await recorder.until_state("api", State.READY, restarts=restarts)).pid == spare
            assert await text_of(supervisor) == text
            with trio.fail_after(PATIENCE):
                # With an overlap it is there a moment longer, and looks like a spare.
                while any(each.pid == old for each in marked(supervisor._run.id)):  # noqa: ASYNC110 - nothing tells of it
                    await trio.sleep(0.05)


async def test_a_spare_that_was_stopped_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (supervisor, recorder):
        os.kill(await spare_of(supervisor), signal.SIGSTOP)
        await supervisor.restart("api")
        with trio.fail_after(PATIENCE):
            await recorder.until_state("api", State.READY, restarts=1)


async def test_a_mended_program_is_served_by_the_spare(tmp_path: Path) -> None:
    """The spare that found it broken has ended; it has a successor."""
    async with serving(tmp_path, f'{SETTINGS}restart = "never"\n') as (supervisor, recorder):
        (tmp_path / "notes.py").write_text("def (\n")
        await supervisor.restart("api")
        with trio.fail_after(PATIENCE):
            await recorder.until_state("api", State.FAILED, restarts=1)
        spare = await spare_of(supervisor)
        (tmp_path / "notes.py").write_text(APP % "mended")
        await supervisor.restart("api")
        with trio.fail_after(PATIENCE):
            assert (await recorder.until_state("api", State.READY, restarts=2)).pid == spare
        assert await text_of(supervisor) == "mended"


async def test_a_touched_file_has_a_spare_get_ready(tmp_path: Path) -> None:
    """It is spawned before it is known what has changed, for a broken program, too."""
    settings = """
        [process.api]
        app = "notes:app"
        restart = "never"
        before_restart = [{ command = "until rm go 2> /dev/null; do sleep 0.05; done" }]
    """
    (tmp_path / "orchestra.toml").write_text(settings)
    (tmp_path / "notes.py").write_text(APP % "old")
    plan = load(tmp_path / "orchestra.toml", overrides=Overrides(listen="127.0.0.1:0"))
    supervisor = Supervisor(plan, is_kept_open="always", reloads=True)
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready(["api"], timeout=PATIENCE)
        for restarts, source in enumerate((APP % "new", "def (\n", APP % "mended"), start=1):
            state = State.READY if "app" in source else State.FAILED
            (tmp_path / "notes.py").write_text(source)
            spare = await spare_of(supervisor, tmp_path / "notes.py")
            (tmp_path / "go").touch()
            with trio.fail_after(PATIENCE):
                told = await recorder.until_state("api", state, restarts=restarts)
            assert state is State.FAILED or told.pid == spare
        assert await text_of(supervisor) == "mended"
        await spare_of(supervisor)  # for the next save
        await supervisor.stop()
    assert marked(supervisor._run.id) == []


async def test_to_stop_a_process_is_to_end_its_spare(tmp_path: Path) -> None:
    async with serving(tmp_path) as (supervisor, _):
        await spare_of(supervisor)
        await supervisor.stop("api")
        assert marked(supervisor._run.id) == []
        supervisor.start("api")
        await supervisor.wait_ready(["api"], timeout=PATIENCE)
        await spare_of(supervisor)
    assert marked(supervisor._run.id) == []


# --- Its other half ---


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project, and packages that are installed."""
    packages = tmp_path / "site-packages"
    # As pip leaves it: Python would change the folder by making another one in it.
    (packages / "__pycache__").mkdir(parents=True)
    (packages / "good.py").write_text("print('good is imported')\n")
    (packages / "bad.py").write_text("import good\nraise SystemExit('bad')\n")
    (packages / "nosy.py").write_text("import notes\n")
    (tmp_path / "notes.py").write_text("import good, sys\nprint('told', 'nosy' in sys.modules)\napp = len\n")
    return tmp_path


class Spare:
    """The program that waits, and our end of its socket."""

    def __init__(self, root: Path, *names: str) -> None:
        ours, theirs = socket.socketpair()
        self.control = ours.makefile("rwb", buffering=0)
        ours.close()
        path = os.pathsep.join([str(root / "site-packages"), str(root)])
        env = {**os.environ, "PYTHONPATH": path, application.VARIABLE: str(theirs.fileno())}
        self.process = subprocess.Popen(
            [sys.executable, application.__file__, "here", "--bind", "127.0.0.1:0", "notes:nothing"],
            cwd=root,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=(theirs.fileno(),),
        )
        theirs.close()
        self.send(names)

    def send(self, message: object) -> None:
        self.control.write(json.dumps(message).encode() + b"\n")

    def receive(self) -> Any:
        return json.loads(self.control.readline())

    def end(self) -> list[str]:
        with self.control:
            said, _ = self.process.communicate(timeout=PATIENCE)
        return str(said).splitlines()[:-1]  # in the end, that there is no such application


def test_what_it_imports_is_installed_and_works(project: Path) -> None:
    """A package that fails is skipped, and one that imports the project, too: that may change."""
    spare = Spare(project, "bad", "nosy", "nowhere", "notes")
    assert spare.receive() > 1000  # KiB
    (project / "notes.py").write_text(
        "import sys\nprint('now', 'good' in sys.modules, 'nosy' in sys.modules)\n"
    )
    spare.send({"PORT": "1"})
    assert spare.end() == ["good is imported", "now True False"]


@pytest.mark.parametrize("change", ["site-packages/good.py", "site-packages/other.py"])
def test_it_begins_again_if_its_packages_have_changed(project: Path, change: str) -> None:
    spare = Spare(project, "good")
    spare.receive()
    (project / change).write_text("print('another is imported')\n")
    os.utime(project / change, (1, 1))
    spare.send({"PORT": "1"})
    again = "another is imported" if change.endswith("good.py") else "good is imported"
    assert spare.end() == ["good is imported", again, "told False"]


def test_it_begins_again_if_a_package_has_changed_while_it_imported(project: Path) -> None:
    (project / "site-packages" / "slow.py").write_text("import good, os\nos.utime(good.__file__, (1, 1))\n")
    spare = Spare(project, "good", "slow")
    spare.receive()
    spare.send({"PORT": "1"})
    assert spare.end() == ["good is imported", "good is imported", "told False"]


def test_it_ends_when_orchestra_has_ended(project: Path) -> None:
    spare = Spare(project, "good")
    spare.receive()
    spare.control.close()
    assert spare.process.wait(PATIENCE) == 0
    assert spare.process.stdout is not None
    with spare.process.stdout as said:
        assert said.read() == "good is imported\n"
