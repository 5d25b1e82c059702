"""Which interpreter may take over, and how long it waits; on a clock that does not wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from msgspec.structs import replace

from orchestra import ProcessPlan
from orchestra.child.spawn import SpawnError
from orchestra.supervision.spare import Interpreter
from tests.simulation_kit import World, running_processes

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from orchestra.supervision.run import Run

ENV = {"PORT": "5000", "DEBUG": "1", "ORCHESTRA_CHILD": "1"}


async def unheard(*_: object) -> None:
    await trio.lowlevel.checkpoint()


def waiting(run: Run, plan: ProcessPlan, **more: float) -> Interpreter:
    spare = Interpreter(plan, run, env=ENV, on_output=unheard, **more)
    run.nursery.start_soon(spare.run, ["package"])
    return spare


@pytest.fixture
def plan(tmp_path: Path) -> ProcessPlan:
    return ProcessPlan(name="api", command="serve", app="notes:app", cwd=tmp_path, warm_spare=True)


@pytest.mark.ceiling(1000)
@pytest.mark.parametrize(("max_idle", "kept"), [({}, 599), ({"max_idle": 10}, 9)])
async def test_a_spare_is_not_kept_for_ever(
    plan: ProcessPlan, max_idle: dict[str, float], kept: float, autojump_clock: MockClock
) -> None:
    world = World()
    async with running_processes(world, plan) as (run, _):
        spare = waiting(run, plan, **max_idle)
        await trio.sleep(kept)
        assert spare.is_there
        await trio.sleep(2)
        await spare.ended.wait()
        assert [child.has_ended for child in world.children].count(True) == 1  # not the one that serves


@pytest.mark.parametrize(
    ("changed", "env", "fits"),
    [
        ({}, {}, True),
        ({"ready": "tcp"}, {"PORT": "5001", "UVICORN_PORT": "5001", "ORCHESTRA_CHILD": "2"}, True),
        ({}, {"DEBUG": "0"}, False),
        ({}, {"NEW": "1"}, False),
        ({"command": "serve another"}, {}, False),
        ({"stop_signal": "INT"}, {}, False),
        ({"pty": False}, {}, False),
    ],
)
async def test_it_takes_over_only_where_it_would_be_the_same(
    plan: ProcessPlan, changed: dict[str, Any], env: dict[str, str], *, fits: bool, autojump_clock: MockClock
) -> None:
    async with running_processes(World(), plan) as (run, _):
        spare = waiting(run, plan)
        await trio.sleep(1)
        assert spare.fits(replace(plan, **changed), {**ENV, **env}) is fits
        spare.kill()
        assert not spare.fits(plan, ENV)


async def test_one_that_cannot_be_started_says_so(plan: ProcessPlan, autojump_clock: MockClock) -> None:
    async def refuse(*_: object, **__: object) -> None:
        await trio.lowlevel.checkpoint()
        raise SpawnError("no room")

    async with running_processes(World(), plan) as (run, _):
        run.spawn = refuse  # type: ignore[method-assign, assignment] # the system refuses from now on
        spare = waiting(run, plan)
        with pytest.raises(SpawnError, match="no room"):
            await spare.serve(ENV, lambda _: None, unheard)
        assert not await spare.modules()
