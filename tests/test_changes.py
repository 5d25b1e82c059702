"""A run that comes to follow another plan: what goes on, and in which order the rest happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from orchestra import (
    ConfigError,
    Dependency,
    OrchestraError,
    Plan,
    ProcessPlan,
    StartError,
    State,
    Supervisor,
)
from orchestra.config.plan import Note
from orchestra.errors import ConfigErrors
from orchestra.events import ErrorCleared, Notice, OutputLine, PlanChanged, RunStarted
from tests.events_kit import Recorder
from tests.simulation_kit import World, supervised

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulation_kit import Child

pytestmark = pytest.mark.ceiling(100_000)

API = ProcessPlan(name="api", command="api", env={"PORT": "5000"}, port=5000, ready="tcp")
JOB = ProcessPlan(name="job", command="job", env={})
DB = ProcessPlan(name="db", command="db", env={"PORT": "5200"}, port=5200, ready="tcp")


async def serve(child: Child) -> int:
    await trio.sleep(1)
    child.listen()
    await trio.sleep_forever()
    return 0


async def fail(_child: Child) -> int:
    await trio.sleep(1)
    return 3


@pytest.fixture
def world() -> World:
    made = World()
    made.programs |= {"api": serve, "db": serve, "web": serve, "api --mended": serve, "broken": fail}
    return made


def plan_of(*processes: ProcessPlan) -> Plan:
    return Plan(processes=processes)


def pids(supervisor: Supervisor) -> dict[str, int | None]:
    return {name: event.pid for name, event in supervisor.snapshot().items()}


async def test_only_what_differs_is_started_stopped_and_restarted(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with supervised(world, API, JOB, DB) as (supervisor, recorder):
        await supervisor.wait_ready()
        before = pids(supervisor)
        cron = ProcessPlan(name="cron", command="cron", env={})
        mended = replace(API, command="api --mended")
        await supervisor.change(plan_of(cron, DB, mended), reason="Procfile")
        await supervisor.wait_ready()
        after = supervisor.snapshot()
        assert list(after) == ["cron", "db", "api"]
        assert after["db"].pid == before["db"]
        assert after["api"].pid not in (None, before["api"])
        assert (after["cron"].state, after["api"].state) == (State.RUNNING, State.READY)
        (event,) = recorder.of(PlanChanged)
        assert (event.reason, event.processes) == ("Procfile", ("cron", "db", "api"))
        assert (event.started, event.stopped, event.restarted) == (("cron",), ("job",), ("api",))
        assert recorder.states("job")[-1] is State.STOPPED
        assert len(world.living()) == 3
        assert supervisor.plan.processes == (cron, DB, mended)


async def test_a_process_that_is_gone_is_known_nowhere(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with supervised(world, API, JOB) as (supervisor, _):
        await supervisor.wait_ready()
        await supervisor.change(plan_of(API))
        await supervisor.wait_ready()
        with pytest.raises(KeyError):
            await supervisor.restart("job")
        late = Recorder(supervisor)
        assert late.of(RunStarted)[0].processes == ("api",)
        assert {event.process for event in late.changes()} <= {"api"}


async def test_one_that_has_failed_leaves_neither_its_error_nor_its_exit_status(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    broken = ProcessPlan(name="job", command="broken", env={}, max_quick_failures=0)
    async with supervised(world, API, broken) as (supervisor, recorder):
        await recorder.until_state("job", State.FAILED)
        await supervisor.change(plan_of(API))
        await recorder.until(ErrorCleared)
        await supervisor.wait_ready()
    assert supervisor.ended is not None
    assert supervisor.ended.exit_code == 0


async def test_another_plan_of_the_same_processes_is_taken_over_in_silence(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with supervised(world, API, JOB) as (supervisor, recorder):
        await supervisor.wait_ready()
        seen = len(recorder.events)
        await supervisor.change(plan_of(API, JOB))
        assert recorder.events[seen:] == []
        await supervisor.change(plan_of(API, replace(JOB, max_quick_failures=0)))
        (event,) = recorder.events[seen:]
        assert isinstance(event, PlanChanged)
        assert len(world.spawned) == 2


async def test_a_setting_that_is_taken_over_counts_at_once(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def ends_when_asked(_child: Child) -> int:
        await trio.sleep(60)
        return 3

    world.programs["job"] = ends_when_asked
    async with supervised(world, API, JOB) as (supervisor, recorder):
        await supervisor.change(plan_of(API, replace(JOB, success_exit_codes=frozenset({3}))))
        await recorder.until_state("job", State.COMPLETED)


async def test_one_that_failed_is_started_when_its_command_is_mended(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    broken = replace(API, command="broken", max_quick_failures=0)
    async with supervised(world, broken, is_kept_open=True) as (supervisor, recorder):
        await recorder.until_state("api", State.FAILED)
        await supervisor.change(plan_of(API))
        await supervisor.wait_ready()


async def test_the_only_process_can_get_another_name(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """The run is not over when the old one has ended and the new one is still to start."""
    async with supervised(world, API) as (supervisor, _):
        await supervisor.wait_ready()
        await supervisor.change(plan_of(replace(API, name="web")))
        await supervisor.wait_ready()
        assert list(supervisor.snapshot()) == ["web"]
        # Its port was given back before.
        assert [child.port for child in world.children] == [5000, 5000]


async def test_a_new_process_waits_for_what_it_depends_on(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async with supervised(world, JOB) as (supervisor, recorder):
        needy = replace(API, depends_on=(Dependency("db"),))
        await supervisor.change(plan_of(needy, JOB, DB))
        await supervisor.wait_ready()
        assert recorder.when("api", State.STARTING) == recorder.when("db", State.READY)


async def test_a_process_stops_waiting_for_what_it_needs_no_more(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    broken = replace(DB, command="broken", max_quick_failures=0)
    needy = replace(API, depends_on=(Dependency("db"),))
    async with supervised(world, JOB, broken, needy) as (supervisor, recorder):
        await recorder.until_state("db", State.FAILED)
        await supervisor.change(plan_of(JOB, API))
        await supervisor.wait_ready()


async def test_the_dependents_of_what_goes_are_stopped_first(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    needy = replace(API, depends_on=(Dependency("db"),))
    async with supervised(world, JOB, DB, needy) as (supervisor, recorder):
        await supervisor.wait_ready()
        await supervisor.change(plan_of(JOB))
        stopped = [event.process for event in recorder.changes() if event.state is State.STOPPED]
        assert stopped == ["api", "db"]


async def test_what_does_not_heed_its_signal_is_killed_before_it_is_forgotten(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def stubborn(child: Child) -> int:
        child.heeds = False
        await trio.sleep_forever()
        return 0

    world.programs["job"] = stubborn
    async with supervised(world, API, JOB) as (supervisor, _):
        await supervisor.wait_ready()
        await supervisor.change(plan_of(API))
        assert len(world.living()) == 1


async def test_an_overlap_restart_follows_the_new_plan(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    gentle = replace(API, restart_mode="overlap")
    async with supervised(world, gentle) as (supervisor, recorder):
        await supervisor.wait_ready()
        await supervisor.change(plan_of(replace(gentle, env={"PORT": "5000", "A": "1"})))
        await recorder.until_state("api", State.READY, restarts=1)
        assert State.STOPPING not in recorder.states("api")
        assert [child.env.get("A") for child in world.children] == [None, "1"]


async def test_a_plan_that_cannot_work_changes_nothing(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    round_trip = (
        replace(API, depends_on=(Dependency("db"),)),
        replace(DB, depends_on=(Dependency("api"),)),
    )
    async with supervised(world, API, JOB) as (supervisor, recorder):
        await supervisor.wait_ready()
        seen = len(recorder.events)
        with pytest.raises(ConfigError, match="dependency cycle: api -> db -> api"):
            await supervisor.change(plan_of(*round_trip))
        assert recorder.events[seen:] == []
        assert supervisor.plan.processes == (API, JOB)


async def test_there_is_nothing_to_change_before_and_after_a_run(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    supervisor = Supervisor(plan_of(API), runtime=world.runtime())
    with pytest.raises(OrchestraError, match="nothing has been started"):
        await supervisor.change(plan_of(JOB))
    async with supervised(world, API) as (supervisor, _):
        pass
    with pytest.raises(OrchestraError, match="no process is left"):
        await supervisor.change(plan_of(JOB))


async def test_a_run_that_ends_meanwhile_starts_nothing(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def slow(child: Child) -> int:
        child.heeds = False
        await trio.sleep_forever()
        return 0

    world.programs["job"] = slow
    async with supervised(world, API, JOB) as (supervisor, recorder), trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.change, plan_of(API, DB))
        await recorder.until_state("job", State.STOPPING)
        nursery.start_soon(supervisor.stop)
    assert len(world.spawned) == 2
    assert recorder.of(PlanChanged) == []


async def test_who_waits_for_all_does_not_wait_for_what_goes(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def never(_child: Child) -> int:
        await trio.sleep_forever()
        return 0

    world.programs["db"] = never
    async with supervised(world, API, DB) as (supervisor, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.wait_ready)
            await trio.sleep(5)
            await supervisor.change(plan_of(API))
        await supervisor.change(plan_of(API, DB))
        with pytest.raises(StartError, match="db"):
            await supervisor.wait_ready(timeout=1)


async def test_lines_go_to_the_log_file_that_is_named_now(world: World, tmp_path: Path) -> None:
    is_changed = trio.Event()

    async def talk(child: Child) -> int:
        await child.say("before")
        await is_changed.wait()
        await child.say("after")
        await trio.sleep_forever()
        return 0

    world.programs["job"] = talk
    old, new = tmp_path / "old.log", tmp_path / "new.log"
    async with supervised(world, replace(JOB, log_file=old)) as (supervisor, recorder):
        await recorder.until_line("before")
        await supervisor.change(plan_of(replace(JOB, log_file=new)))
        is_changed.set()
        await recorder.until_line("after")
        assert (old.read_text(), new.read_text()) == ("before\n", "after\n")
        assert [line.text for line in recorder.of(OutputLine)] == ["before", "after"]


# --- Planning again: in a thread, which a clock that jumps does not wait for ---


async def test_the_files_are_read_again_for_the_plan_that_is_followed(world: World) -> None:
    asked: list[Plan] = []

    def replan(running: Plan) -> Plan:
        asked.append(running)
        return replace(
            running, processes=(*running.processes, replace(JOB, name="cron")), notes=(Note("told"),)
        )

    async with supervised(world, JOB, replan=replan) as (supervisor, recorder):
        await supervisor._current.replan("Procfile.dev")
        await recorder.until_state("cron", State.RUNNING)
        assert asked == [plan_of(JOB)]
        assert recorder.of(PlanChanged)[0].reason == "Procfile.dev"
        assert [event.text for event in recorder.of(Notice)] == ["told"]


async def test_an_invalid_plan_is_reported_and_the_old_one_goes_on(world: World) -> None:
    problems = [ConfigError("no", path="Procfile", line=3, hint="Write yes."), ConfigError("nor this")]

    def replan(_running: Plan) -> Plan:
        raise ConfigErrors(problems)

    async with supervised(world, JOB, replan=replan) as (supervisor, recorder):
        await supervisor.wait_ready()
        await supervisor._current.replan()
        assert [(event.code, event.level, event.text, event.hint) for event in recorder.of(Notice)] == [
            ("plan-invalid", "error", "the old plan goes on: Procfile:3: no", "Write yes."),
            ("plan-invalid", "error", "the old plan goes on: nor this", ""),
        ]
        assert supervisor.snapshot()["job"].state is State.RUNNING


async def test_without_a_way_to_plan_again_nothing_happens(world: World) -> None:
    async with supervised(world, JOB) as (supervisor, recorder):
        await supervisor._current.replan()
        assert recorder.of(PlanChanged) == []
    await supervisor._current.replan()
