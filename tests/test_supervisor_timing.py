"""Every rule about time, on a clock that does not wait: children are simulated, nothing is spawned."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from orchestra import Condition, Dependency, ProcessPlan, StartError, State
from tests.events_kit import moment
from tests.simulation_kit import World, running_processes, supervised

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.events import OutputLine
    from tests.simulation_kit import Child

# On the clock of the tests.
pytestmark = pytest.mark.ceiling(100_000)

A = ProcessPlan(name="a", command="a", env={})


@pytest.fixture
def world() -> World:
    return World()


async def fails(_child: Child) -> int:
    await trio.lowlevel.checkpoint()
    return 1


async def ignores_stop(child: Child) -> int:
    child.heeds = False
    await trio.sleep_forever()
    return 0


async def serves(child: Child) -> int:
    child.listen(80)
    await trio.sleep_forever()
    return 0


def pauses(world: World) -> list[float]:
    return [round(later - earlier, 3) for earlier, later in pairwise(world.spawned)]


@pytest.mark.parametrize(("may_move", "ports"), [(True, [5000, 5001]), (False, [5000, 5000])])
async def test_a_port_that_was_taken_meanwhile_is_left(
    world: World, autojump_clock: trio.testing.MockClock, *, may_move: bool, ports: list[int]
) -> None:
    """Another program may take it between the choice of a port and the start of a server."""
    world.programs["a"], world.taken = fails, {5000}
    plan = replace(A, env={"PORT": "5000"}, port=5000, may_move=may_move, max_quick_failures=1)
    async with supervised(world, plan) as (_, recorder):
        await recorder.until_state("a", State.FAILED, restarts=1)
    assert [child.port for child in world.children] == ports


async def test_back_off_has_a_little_jitter(world: World, autojump_clock: trio.testing.MockClock) -> None:
    world.programs["a"], world.random = fails, 1.0
    async with supervised(world, replace(A, max_quick_failures=2)) as (_, recorder):
        await recorder.until_state("a", State.FAILED, restarts=2)
    assert pauses(world)[0] == pytest.approx(0.55)


async def test_a_restart_ends_the_back_off_at_once(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.programs["a"] = fails
    async with supervised(world, replace(A, max_quick_failures=99)) as (supervisor, _):
        await trio.sleep(60)
        del world.programs["a"]
        asked_at = trio.current_time()
        await supervisor.restart("a")
        await trio.testing.wait_all_tasks_blocked()
        assert world.spawned[-1] == asked_at
        await trio.sleep(60)
        assert world.spawned[-1] == asked_at


async def test_questions_come_often_at_first_and_once_a_second_in_the_end(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.missing = "not yet"
    async with supervised(world, replace(A, ready="exec:ask")):
        await trio.sleep(60)
    between = [round(later - earlier, 6) for earlier, later in pairwise(world.asked)]
    assert between[0] == pytest.approx(0.05)
    assert between == sorted(between)
    assert between[-1] == pytest.approx(1.0)


async def test_a_late_process_gets_one_notice_and_may_still_be_ready(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.missing = "no answer"
    world.programs["a"] = serves
    async with supervised(world, replace(A, ready="http", ready_timeout=60.0)) as (supervisor, recorder):
        began = trio.current_time()
        await trio.sleep(200)
        assert recorder.notices() == ["not-ready"]
        notice = await recorder.until_notice("not-ready")
        assert notice.at - began == pytest.approx(60)
        assert notice.text == "not ready after 60 s: no answer"
        assert recorder.states("a") == [State.STARTING]
        world.missing = ""
        await supervisor.wait_ready()


async def test_a_delay_is_waited_for(world: World, autojump_clock: trio.testing.MockClock) -> None:
    async with supervised(world, replace(A, ready="delay:7")) as (supervisor, recorder):
        await supervisor.wait_ready()
    assert recorder.when("a", State.READY) - recorder.when("a", State.STARTING) == pytest.approx(7)


async def test_waiting_for_readiness_has_an_end(world: World, autojump_clock: trio.testing.MockClock) -> None:
    async with supervised(world, replace(A, ready="log:never")) as (supervisor, _):
        began = trio.current_time()
        with pytest.raises(StartError) as caught:
            await supervisor.wait_ready(timeout=30)
        assert trio.current_time() - began == pytest.approx(30)
    assert str(caught.value) == "a: is not ready after 30 s: it is starting, no line matches 'never'"


async def test_three_questions_without_an_answer_make_it_unhealthy(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """They are two seconds apart; one answer makes it ready again."""
    world.programs["a"] = serves
    async with supervised(world, replace(A, ready="http", liveness=True)) as (supervisor, recorder):
        await supervisor.wait_ready()
        ready = trio.current_time()
        await trio.sleep(60.5)
        world.missing = "silence"
        unhealthy = await recorder.until_state("a", State.UNHEALTHY)
        assert unhealthy.reason == "silence"
        assert unhealthy.at - ready == pytest.approx(66)
        world.missing = ""
        await trio.sleep(2.1)
        assert recorder.states("a")[-1] is State.READY


async def test_an_unhealthy_process_is_restarted_if_that_is_asked_for(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    plan = replace(A, ready="exec:ask", liveness=True)
    async with supervised(world, plan, replace(plan, name="b", restart_unhealthy=True)) as (
        supervisor,
        recorder,
    ):
        await supervisor.wait_ready()
        world.missing = "`ask` ends with 1"
        await recorder.until_state("b", State.STARTING, restarts=1)
        await recorder.until_state("a", State.UNHEALTHY)
        world.missing = ""
        await supervisor.wait_ready()
    assert recorder.states("b")[:4] == [State.STARTING, State.READY, State.UNHEALTHY, State.STOPPING]
    assert len([child for child in world.children if child.env["ORCHESTRA_PROCESS"] == "a.1"]) == 1


async def test_draining_has_two_seconds(world: World, autojump_clock: trio.testing.MockClock) -> None:
    async def never(_name: str) -> None:
        await trio.sleep_forever()

    async with running_processes(world, A, before_stop=never) as (run, recorder):
        await recorder.until_state("a", State.RUNNING)
        await run.stop()
    assert recorder.when("a", State.STOPPED) - recorder.when("a", State.STOPPING) == pytest.approx(2)


@pytest.mark.parametrize(("heeds", "seconds"), [(True, 0), (False, 5)])
async def test_all_of_one_level_have_their_stop_timeout_together(
    world: World, autojump_clock: trio.testing.MockClock, *, heeds: bool, seconds: float
) -> None:
    if not heeds:
        world.programs["a"] = ignores_stop
    plans = [replace(A, name=f"p{number}") for number in range(10)]
    async with supervised(world, *plans) as (supervisor, _):
        await supervisor.wait_ready()
        began = trio.current_time()
        await supervisor.stop()
        assert trio.current_time() - began == pytest.approx(seconds, abs=0.01)


async def test_all_levels_together_take_two_stop_timeouts_at_most(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """The levels below a process that takes too long would never get their turn: they go together."""
    world.programs["a"] = ignores_stop
    plans = [replace(A, name="p0")]
    for number in range(1, 6):
        needs = (Dependency(f"p{number - 1}", Condition.STARTED),)
        plans.append(replace(A, name=f"p{number}", depends_on=needs))
    async with supervised(world, *plans) as (supervisor, recorder):
        await supervisor.wait_ready()
        began = trio.current_time()
        await supervisor.stop()
        assert trio.current_time() - began == pytest.approx(10, abs=0.01)
    assert recorder.when("p5", State.STOPPING) == pytest.approx(began)
    stopping = {round(recorder.when(f"p{number}", State.STOPPING) - began, 2) for number in range(5)}
    assert stopping == {5.0}
    assert {event.signal for event in supervisor.snapshot().values()} == {"SIGKILL"}


async def test_a_sink_that_takes_its_time_is_not_given_up(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """It has 5 s for each line, from when that waits for it."""
    taken: list[str] = []

    async def speaks(child: Child) -> int:
        child.heeds = False
        await trio.sleep(4.9)
        await child.say("one")
        await child.say("two")
        return 0

    async def sink(lines: Sequence[OutputLine]) -> None:
        await trio.sleep(4)
        taken.extend(line.text for line in lines)

    world.programs["a"] = speaks
    async with supervised(world, replace(A, stop_timeout=60), sinks=[sink]) as (supervisor, _):
        await supervisor.wait_ready()
        await supervisor.stop()
    assert taken == ["one", "two"]


async def test_a_sink_that_stalls_does_not_keep_the_end(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def speaks(child: Child) -> int:
        await child.say("up")
        await trio.sleep_forever()
        return 0

    async def sink(_lines: Sequence[OutputLine]) -> None:
        await trio.sleep_forever()

    world.programs["a"] = speaks
    async with supervised(world, A, sinks=[sink]) as (supervisor, _):
        await supervisor.wait_ready()
        await trio.sleep(1000)
        began = trio.current_time()
        await supervisor.stop()
        assert trio.current_time() - began <= 10
    assert supervisor.snapshot()["a"].state is State.STOPPED
    assert supervisor.snapshot()["a"].time >= moment(began)
