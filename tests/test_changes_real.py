"""Files of a project are edited while it runs: real processes, a real proxy, ports that are really held."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from orchestra import Overrides, State, Supervisor, load
from orchestra.control.local import Order
from orchestra.events import Notice, PlanChanged
from tests.events_kit import Recorder
from tests.kit import Run, base_port, get
from tests.process_kit import SERVE

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra import Plan

pytestmark = pytest.mark.real

WORKER = "worker: echo $GREETING; exec sleep 1000\n"


class Project:
    """A Procfile, an env file and settings, which can be edited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "index.html").write_text("the page")
        self.write("Procfile", f"api: {SERVE} $PORT\n{WORKER}")
        self.write(".env", "GREETING=hello\n")
        self.overrides = Overrides(listen="127.0.0.1:0", base_port=base_port())

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def plan(self, running: Plan | None = None) -> Plan:
        return load(self.folder / "Procfile", overrides=self.overrides, running=running)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


async def page(supervisor: Supervisor) -> str:
    assert supervisor.url is not None
    return (await trio.to_thread.run_sync(get, f"{supervisor.url}/index.html")).text


async def test_a_project_is_edited_while_it_runs(project: Project) -> None:
    supervisor = Supervisor(project.plan(), replan=project.plan)
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready()
        await recorder.until_line("hello")
        first = supervisor.snapshot()

        # A new process, before the others: these go on, at their ports.
        project.write("Procfile", f"db: {SERVE} $PORT\napi: {SERVE} $PORT\n{WORKER}")
        await supervisor._current.replan("Procfile")
        await recorder.until_state("db", State.RUNNING)
        assert [supervisor.snapshot()[name].pid for name in ("api", "worker")] == [
            first[name].pid for name in ("api", "worker")
        ]
        assert await page(supervisor) == "the page"

        # A variable that the api overrides, at first by what it is: only the others are restarted.
        project.write("orchestra.toml", '[process.api]\nenv = { GREETING = "hello" }\n')
        await supervisor._current.replan("orchestra.toml")
        project.write(".env", "GREETING=good day\n")
        await supervisor._current.replan(".env")
        await recorder.until_line("good day")
        assert supervisor.snapshot()["api"].pid == first["api"].pid

        # An order to start something again has it read, too, and what that restarts is not restarted twice.
        project.write(".env", "GREETING=good night\n")
        order = Order(do="restart", processes=("worker",))
        await supervisor.obey(order)
        await recorder.until_line("good night")
        assert supervisor.snapshot()["worker"].restarts == first["worker"].restarts + 2

        # Nonsense: the old plan goes on.
        seen = len(recorder.of(PlanChanged))
        project.write("Procfile", f"api {SERVE} $PORT\n{WORKER}")
        await supervisor._current.replan("Procfile")
        notice = await recorder.until_notice("plan-invalid")
        assert f"{project.folder / 'Procfile'}:1: " in notice.text
        assert len(recorder.of(PlanChanged)) == seen
        assert await page(supervisor) == "the page"

        # Back to the beginning, with another name for the backend: it has the port of the old one.
        project.write("Procfile", f"web: {SERVE} $PORT\n")
        project.write("orchestra.toml", "")
        await supervisor._current.replan("Procfile, orchestra.toml")
        await supervisor.wait_ready()
        assert await page(supervisor) == "the page"
        assert list(supervisor.snapshot()) == ["web"]
        await supervisor.stop()
    assert [(event.started, event.stopped, event.restarted) for event in recorder.of(PlanChanged)] == [
        (("db",), (), ()),
        ((), (), ("db", "worker")),
        ((), (), ("db", "worker")),
        (("web",), ("db", "api", "worker"), ()),
    ]
    assert not [event for event in recorder.of(Notice) if event.code in ("port-moved", "port-clash")]


async def test_a_fixed_port_can_be_given_to_another_process(project: Project) -> None:
    """What our own processes hold is not taken: it is given back before it is needed."""
    port = base_port()
    project.write("Procfile", f"api: {SERVE} $PORT\n{WORKER}")
    project.write("orchestra.toml", f"process.api.port = {port}\n")
    supervisor = Supervisor(project.plan(), replan=project.plan)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready()
        project.write("Procfile", f"web: {SERVE} $PORT\n{WORKER}")
        project.write("orchestra.toml", f"process.web.port = {port}\n")
        await supervisor._current.replan()
        await supervisor.wait_ready()
        assert supervisor.snapshot()["web"].port == port
        await supervisor.stop()


def test_a_saved_procfile_is_followed_by_the_run(project: Project) -> None:
    """From the save on; what is wrong is reported, and what was running goes on."""
    with Run("Procfile", "--listen", "127.0.0.1:0", cwd=project.folder) as run:
        run.state("api", "ready")
        run.state("worker", "running")
        project.write("Procfile", f"api: {SERVE} $PORT\n{WORKER}cron: exec sleep 1000\n")
        changed = run.until(lambda event: event["type"] == "plan.changed")
        assert (changed["reason"], changed["started"]) == ("Procfile", ["cron"])
        run.state("cron", "running")
        assert not [event for event in run.events if event.get("state") == "stopping"]

        project.write(".env", "GREETING=good day\n")
        run.line("worker", "good day")

        project.write("Procfile", "nonsense\n")
        notice = run.until(lambda event: event.get("code") == "plan-invalid")
        assert "Procfile:1: " in notice["text"]
        assert "the page" in get(f"{run.url}/index.html").text
        assert run.stop() == 130
