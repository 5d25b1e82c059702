"""A process that is started by hand: what does not wait for it, and what starts it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
import trio

from orchestra import Plan, ProcessPlan, State, Supervisor
from orchestra.config.plan import Condition, Dependency, Role
from orchestra.events import StateChanged
from tests.config_kit import Project
from tests.events_kit import Recorder

if TYPE_CHECKING:
    from pathlib import Path

BOOK = "[process.book]\nautostart = false\n"
MAIL = "[process.mail]\nautostart = false\n"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


@pytest.mark.parametrize(
    ("settings", "only", "started"),
    [
        (BOOK, (), ["api", "mail"]),
        (BOOK + MAIL, (), ["api"]),
        # Asked for by name, and with what it needs.
        (BOOK + MAIL, ("book",), ["book"]),
        (
            BOOK + MAIL + 'depends_on = ["book:started"]\n',
            ("mail",),
            ["book", "mail"],
        ),
        # What is started anyway needs it.
        (
            MAIL + '[process.api]\ndepends_on = ["mail:started"]\n',
            (),
            ["api", "mail", "book"],
        ),
    ],
)
def test_which_processes_are_started(
    project: Project, settings: str, only: tuple[str, ...], started: list[str]
) -> None:
    plan = project.load("api: serve\nmail: run\nbook: run\n", settings, only=only)
    assert sorted(each.name for each in plan.processes if each.autostart) == sorted(started)


def test_what_is_started_by_hand_is_no_upstream_while_there_is_another(project: Project) -> None:
    """Storybook runs Vite, too; and nothing waits for it to show what it is."""
    plan = project.load(
        "book: cd ui && npm run dev\nvite: cd ui && npm run dev\nmail: run\n",
        BOOK + MAIL,
    )
    roles = {each.name: each.role for each in plan.processes}
    assert roles == {"book": Role.OTHER, "vite": Role.FRONTEND, "mail": Role.OTHER}


SLEEP = f"exec {sys.executable} -c 'import time; time.sleep(1000)'"


async def test_it_is_started_by_hand_with_what_it_needs() -> None:
    by_hand = ProcessPlan(name="mail", command=SLEEP, autostart=False)
    needs = Dependency("mail", Condition.STARTED)
    book = ProcessPlan(name="book", command=SLEEP, autostart=False, depends_on=(needs,))
    supervisor = Supervisor(Plan(processes=(ProcessPlan(name="api", command=SLEEP), by_hand, book)))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready()
        states = {name: each.state for name, each in supervisor.snapshot().items()}
        assert states == {"api": State.RUNNING, "mail": State.STOPPED, "book": State.STOPPED}
        told = [each for each in recorder.of(StateChanged) if each.process == "mail" and each.seq]
        assert [(each.state, each.reason) for each in told] == [(State.STOPPED, "it is started by hand")]
        supervisor.start("book")
        await supervisor.wait_ready(["book", "mail"])
        assert (await recorder.until_state("book", State.RUNNING)).restarts == 0
        await supervisor.stop()


async def test_the_run_ends_without_it() -> None:
    plans = ProcessPlan(name="api", command="true"), ProcessPlan(name="book", command=SLEEP, autostart=False)
    supervisor = Supervisor(Plan(processes=plans))
    await supervisor.run()
    assert supervisor.ended is not None
    assert (supervisor.ended.exit_code, supervisor.ended.reason) == (0, "all completed")
    assert supervisor.snapshot()["book"].state is State.STOPPED
