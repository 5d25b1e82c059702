"""A whole supervisor with simulated children: what waits for what, and what orders do to it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, settings, strategies as st

from orchestra import Plan, Restart, StartError, State, Supervisor
from orchestra.config.plan import Install, Role
from orchestra.control.local import Order
from orchestra.errors import ConfigError, OrchestraError
from orchestra.events import InputWanted, Notice, OutputLine, StateChanged
from tests.events_kit import Recorder
from tests.simulation_kit import World, supervised, waiting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from orchestra import ProcessPlan
    from tests.simulation_kit import Child

ORDERS = st.lists(
    st.tuples(st.sampled_from(["start", "stop", "restart", "kill", "wait", "yield"]), st.sampled_from("abc")),
    max_size=12,
)

# On the clock of the tests.
pytestmark = pytest.mark.ceiling(100_000)


@pytest.fixture
def world() -> World:
    made = World()
    made.programs |= {
        "says up": partial(says, "up"),
        "serves": serves,
        "succeeds": partial(ends, 0),
        "fails": partial(ends, 3),
    }
    return made


async def says(text: str, child: Child) -> int:
    await child.say(text)
    await trio.sleep_forever()
    return 0


async def serves(child: Child) -> int:
    child.listen(80)
    await trio.sleep_forever()
    return 0


async def ends(code: int, _child: Child) -> int:
    await trio.lowlevel.checkpoint()
    return code


def a_supervisor(world: World, *plans: ProcessPlan) -> Supervisor:
    return Supervisor(Plan(processes=plans), runtime=world.runtime())


async def test_run_returns_when_every_process_has_ended(world: World, autojump_clock: object) -> None:
    async def greets(child: Child) -> int:
        await child.say("hello")
        return 0

    world.programs["greets"] = greets
    supervisor = a_supervisor(world, waiting("a", command="greets"), waiting("b", command="succeeds"))
    recorder = Recorder(supervisor)
    await supervisor.run()
    assert recorder.output("a") == ["hello"]
    assert recorder.states("a") == [State.STARTING, State.RUNNING, State.COMPLETED]
    assert all(life.state is State.COMPLETED for life in supervisor._run.ended)
    assert supervisor.snapshot()["b"].exit_code == 0


async def test_a_process_that_fails_says_why_to_those_that_wait(world: World, autojump_clock: object) -> None:
    async def breaks(child: Child) -> int:
        await child.say("oh no", stream="stderr")
        return 7

    world.programs["breaks"] = breaks
    broken = waiting("web", command="breaks", restart=Restart.NEVER, ready="http")
    async with supervised(world, broken, waiting("other")) as (supervisor, _):
        with pytest.raises(StartError, match="web: has failed: exit code 7") as caught:
            await supervisor.wait_ready()
    assert caught.value.tail == ("oh no",)
    assert [(life.plan.name, life.state) for life in supervisor._run.ended] == [("web", State.FAILED)]


async def test_to_cancel_run_is_to_stop_all_processes_properly(world: World, autojump_clock: object) -> None:
    async def polite(child: Child) -> int:
        child.heeds = False
        await child.say("up")
        await child.until_asked()
        await child.say("bye")
        return 0

    world.programs["polite"] = polite
    supervisor = a_supervisor(world, waiting("a", command="polite"))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until(OutputLine)
        nursery.cancel_scope.cancel()
    assert recorder.output("a") == ["up", "bye"]
    assert recorder.states("a")[-2:] == [State.STOPPING, State.STOPPED]


async def test_kill_does_not_wait(world: World, autojump_clock: object) -> None:
    async def stubborn(child: Child) -> int:
        child.heeds = False
        await trio.sleep_forever()
        return 0

    world.programs["stubborn"] = stubborn
    supervisor = a_supervisor(world, waiting("a", command="stubborn", stop_timeout=1000))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until_state("a", State.RUNNING)
        nursery.start_soon(supervisor.stop)
        await recorder.until_state("a", State.STOPPING)
        supervisor.kill()
    assert supervisor.snapshot()["a"].signal == "SIGKILL"
    assert recorder.when("a", State.STOPPED) - recorder.when("a", State.STOPPING) < 1


async def test_a_process_that_is_killed_by_hand_stays_stopped(world: World, autojump_clock: object) -> None:
    """Whatever its restart policy, as with `docker kill`; one that is killed from outside comes back."""

    async def stubborn(child: Child) -> int:
        child.heeds = False
        await trio.sleep_forever()
        return 0

    world.programs["stubborn"] = stubborn
    plans = (waiting("a", command="stubborn", stop_timeout=1000, restart=Restart.ALWAYS), waiting("b"))
    async with supervised(world, *plans) as (supervisor, recorder):
        await recorder.until_state("a", State.RUNNING)
        world.child(supervisor.snapshot()["a"].pid).kill()
        await recorder.until_state("a", State.RUNNING, restarts=1)
        supervisor.kill("a")
        await trio.sleep(100)
        newest = supervisor.snapshot()["a"]
        assert (newest.state, newest.signal) == (State.STOPPED, "SIGKILL")
        supervisor.start("a")
        await supervisor.wait_ready(["a"])


async def test_sinks_are_awaited_with_all_lines_in_order(world: World, autojump_clock: object) -> None:
    lines: list[str] = []

    async def counts(child: Child) -> int:
        for first in range(0, 2000, 100):
            await child.say(*map(str, range(first, first + 100)))
        return 0

    async def sink(some: Sequence[OutputLine]) -> None:
        await trio.sleep(0.01)
        lines.extend(line.text for line in some)

    world.programs["counts"] = counts
    plan = Plan(processes=(waiting("a", command="counts"),))
    await Supervisor(plan, sinks=[sink], runtime=world.runtime()).run()
    assert lines == [str(number) for number in range(2000)]


async def test_a_candidate_that_listens_nowhere_just_runs(world: World, autojump_clock: object) -> None:
    async with supervised(world, waiting("a", ready="http", role=Role.UNDECIDED)) as (supervisor, _):
        await supervisor.wait_ready()
        assert supervisor.snapshot()["a"].state is State.RUNNING


async def test_a_new_observer_first_learns_how_things_stand(world: World, autojump_clock: object) -> None:
    supervisor = a_supervisor(world, waiting("a", command="succeeds"))
    await supervisor.run()
    late = Recorder(supervisor)
    assert [(event.process, event.state) for event in late.of(StateChanged)] == [("a", State.COMPLETED)]


# --- Waiting for others ---


async def test_processes_wait_for_what_they_depend_on_and_say_so(
    world: World, autojump_clock: object
) -> None:
    async def opens(child: Child) -> int:
        await trio.sleep(0.1)
        return await says("open", child)

    world.programs["opens"] = opens
    plans = (
        waiting("api", "migrate:completed", "db"),
        waiting("migrate", "db", command="succeeds"),
        waiting("db", command="opens", ready="log:open"),
        waiting("worker", "api:started"),
    )
    async with supervised(world, *plans) as (supervisor, recorder):
        assert {name: event.reason for name, event in supervisor.snapshot().items()} == {
            "api": "waits for migrate to complete; waits for db to be ready",
            "migrate": "waits for db to be ready",
            "db": "",
            "worker": "waits for api to start",
        }
        await supervisor.wait_ready()
    order = [
        ("db", State.READY),
        ("migrate", State.STARTING),
        ("migrate", State.COMPLETED),
        ("api", State.STARTING),
        ("api", State.RUNNING),
        ("worker", State.STARTING),
        ("worker", State.STOPPED),
        ("api", State.STOPPED),
        ("db", State.STOPPED),
    ]
    begun = [(event.process, event.state) for event in recorder.changes()]
    assert [each for each in begun if each in order] == order


async def test_a_dependency_that_comes_back_starts_no_dependent_again(
    world: World, autojump_clock: object
) -> None:
    plans = (waiting("db", command="serves", ready="http"), waiting("api", "db"))
    async with supervised(world, *plans) as (supervisor, recorder):
        await supervisor.wait_ready()
        world.child(supervisor.snapshot()["db"].pid).kill()
        await recorder.until_state("db", State.READY, restarts=1)
    assert recorder.states("api") == [State.STARTING, State.RUNNING, State.STOPPING, State.STOPPED]


async def test_a_blocked_process_ends_with_the_rest(world: World, autojump_clock: object) -> None:
    supervisor = a_supervisor(
        world,
        waiting("db", command="fails", restart=Restart.NEVER),
        waiting("api", "db:completed", ready="log:up"),
        waiting("worker", "api"),
    )
    recorder = Recorder(supervisor)
    why = r"worker: (cannot be started: api is blocked by a failed dependency|has stopped)"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        with pytest.raises(StartError, match=why):
            await supervisor.wait_ready(["worker"])
    assert recorder.states("api") == recorder.states("worker") == [State.STOPPED]
    assert supervisor.snapshot()["api"].reason == "db has failed"
    assert supervisor.snapshot()["worker"].reason in (
        "api is blocked by a failed dependency",
        "api has stopped",
    )


async def test_a_run_that_is_kept_open_goes_on_waiting(world: World, autojump_clock: object) -> None:
    plans = (waiting("db", command="fails", restart=Restart.NEVER), waiting("api", "db:completed"))
    async with supervised(world, *plans, is_kept_open=True) as (supervisor, _):
        with pytest.raises(StartError, match="api: cannot be started: db has failed"):
            await supervisor.wait_ready(["api"])
        assert supervisor.snapshot()["api"].state is State.WAITING
        await supervisor.stop()
        assert supervisor.snapshot()["api"].state is State.STOPPED


@pytest.mark.parametrize(
    ("processes", "message"),
    [
        ((waiting("a", "b"),), "a depends on b, which is not a process of the plan"),
        ((waiting("a"), waiting("a")), "two processes of the plan have the same name"),
        (
            (waiting("a", "b"), waiting("b")),
            "a waits for b to be ready, which has no readiness check",
        ),
        ((waiting("a", "b"), waiting("b", "a")), "dependency cycle: a -> b -> a"),
        ((waiting("a", ready="udp"),), "a: ready: 'udp' is not a valid check"),
    ],
)
def test_a_plan_that_cannot_work_is_refused(processes: tuple[ProcessPlan, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Supervisor(Plan(processes=processes))
    assert str(caught.value) == message
    assert caught.value.hint


async def test_a_process_that_ends_before_its_turn_is_not_started_again(
    world: World, autojump_clock: object
) -> None:
    is_stopped, may_end = trio.Event(), trio.Event()

    async def lingers(child: Child) -> int:
        child.heeds = False
        await child.until_asked()
        is_stopped.set()
        await may_end.wait()
        return 0

    async def ends_early(child: Child) -> int:
        await child.say("up")
        await is_stopped.wait()
        return 1

    world.programs |= {"lingers": lingers, "ends early": ends_early}
    supervisor = a_supervisor(
        world,
        waiting("db", command="ends early", ready="log:up"),
        waiting("api", "db", command="lingers", stop_timeout=1000),
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until_state("api", State.RUNNING)
        nursery.start_soon(supervisor.stop)
        # It is not its turn until `api` has ended.
        await recorder.until(
            StateChanged,
            lambda event: (
                (event.process, event.previous) == ("db", State.READY) and event.state is not State.READY
            ),
        )
        may_end.set()
    assert recorder.states("db") == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]
    assert supervisor.snapshot()["db"].exit_code == 1


# --- Stopping and starting one of them ---


async def test_one_can_be_restarted_and_the_others_go_on(world: World, autojump_clock: object) -> None:
    plans = (waiting("db", command="serves", ready="http"), waiting("api", "db"))
    async with supervised(world, *plans) as (supervisor, recorder):
        await supervisor.wait_ready()
        before = supervisor.snapshot()
        await supervisor.restart("db")
        assert supervisor.snapshot()["db"].state in (State.WAITING, State.STARTING)
        await supervisor.wait_ready(["db"])
        after = supervisor.snapshot()
        assert after["db"].pid not in (None, before["db"].pid)
        assert after["db"].restarts == 1
        assert after["api"].pid == before["api"].pid
    assert recorder.states("db") == [
        State.STARTING,
        State.READY,
        State.STOPPING,
        State.WAITING,
        State.STARTING,
        State.READY,
        State.STOPPING,
        State.STOPPED,
    ]


async def test_one_that_was_stopped_stays_so_until_it_is_started(
    world: World, autojump_clock: object
) -> None:
    async with supervised(world, waiting("a"), waiting("b")) as (supervisor, _):
        await supervisor.wait_ready()
        await supervisor.stop("a")
        await trio.sleep(100)
        assert supervisor.snapshot()["a"].state is State.STOPPED
        with pytest.raises(StartError, match="a: has stopped"):
            await supervisor.wait_ready()
        supervisor.start("a")
        await supervisor.wait_ready()


async def test_a_waiting_process_takes_orders_and_runs_once(world: World, autojump_clock: object) -> None:
    go = trio.Event()

    async def up_when_told(child: Child) -> int:
        await go.wait()
        return await says("up", child)

    world.programs["up when told"] = up_when_told
    plans = (
        waiting("db", command="up when told", ready="log:up"),
        waiting("api", "db", command="says up", ready="log:up"),
    )
    async with supervised(world, *plans) as (supervisor, recorder):
        await supervisor.restart("api")
        supervisor.start("api")
        await supervisor.stop("api")
        assert supervisor.snapshot()["api"].state is State.STOPPED
        await supervisor.restart("api")
        assert supervisor.snapshot()["api"].state is State.WAITING
        go.set()
        await supervisor.wait_ready()
    assert len(world.children) == 2
    assert recorder.states("api").count(State.STARTING) == 1


async def test_orders_are_begun_and_an_ending_run_takes_input_alone(
    world: World, autojump_clock: object
) -> None:
    plan = waiting("a", command="says up")
    async with supervised(world, plan, is_kept_open="always") as (supervisor, recorder):
        await supervisor.wait_ready()
        assert await supervisor.obey(Order(do="signal", processes=("a",), signal=1)) == 1
        assert world.children[0].signals == [1]
        await supervisor.obey(Order(do="kill", processes=("a",)))
        await recorder.until_state("a", State.STOPPED)
        with pytest.raises(OrchestraError, match="a does not run: there is nothing to signal"):
            await supervisor.obey(Order(do="signal", processes=("a",), signal=1))
        await supervisor.obey(Order(do="start", processes=("a", "gone")))
        await supervisor.wait_ready()
        await supervisor.obey(Order(do="restart", processes=("a",)))
        assert supervisor.snapshot()["a"].state is State.STOPPING
        await supervisor.wait_ready()
        await supervisor.obey(Order(do="stop", processes=("a",)))
        assert supervisor.snapshot()["a"].state is State.STOPPING
        with pytest.raises(OrchestraError, match="no connection to the pages"):
            await supervisor.obey(Order(do="reload"))
        await supervisor.obey(Order(do="down"))
        with pytest.raises(OrchestraError, match="the run is ending"):
            await supervisor.obey(Order(do="start", processes=("a",)))
        assert await supervisor.obey(Order(do="send", processes=("a",), text="c")) == 1
    assert supervisor.ended is not None
    assert supervisor.ended.reason == "asked to"


async def test_a_run_that_is_kept_open_can_begin_again(world: World, autojump_clock: object) -> None:
    plans = (waiting("db", command="fails", restart=Restart.NEVER), waiting("api", "db:completed"))
    async with supervised(world, *plans, is_kept_open=True) as (supervisor, recorder):
        await recorder.until_state("db", State.FAILED)
        assert [life.plan.name for life in supervisor._run.ended] == ["db"]
        world.programs["fails"] = partial(ends, 0)
        supervisor.start("db")
        await supervisor.wait_ready()
        assert supervisor.snapshot()["api"].state is State.RUNNING
    assert [life.state for life in supervisor._run.ended] == [State.COMPLETED]


async def test_a_run_kept_open_without_processes_ends_on_stop(world: World, autojump_clock: object) -> None:
    plan = waiting("a", command="fails", restart=Restart.NEVER)
    async with supervised(world, plan, is_kept_open=True) as (supervisor, recorder):
        await recorder.until_state("a", State.FAILED)
        await trio.testing.wait_all_tasks_blocked()
    assert supervisor.snapshot()["a"].state is State.FAILED


async def test_a_command_can_be_run_whenever_it_is_up(world: World, autojump_clock: object) -> None:
    has_begun = trio.Event()

    async def tells(child: Child) -> int:
        await child.say(f"at {child.env['ORCHESTRA_READY_URL']}")
        return 0

    async def hangs(_child: Child) -> int:
        has_begun.set()
        await trio.sleep_forever()
        return 0

    world.programs |= {"tells": tells, "hangs": hangs}
    plans = (
        waiting("web", command="serves", ready="http", on_ready="tells"),
        waiting("plain", on_ready="fails"),
        waiting("stuck", on_ready="hangs"),
    )
    async with supervised(world, *plans) as (supervisor, recorder):
        ready = await recorder.until_state("web", State.READY)
        await recorder.until_line(f"at {ready.url}")
        notice = await recorder.until(Notice)
        assert (notice.process, notice.text) == ("plain", "on_ready `fails`: exit code 3")
        await has_begun.wait()
        await supervisor.restart("web")
        await supervisor.wait_ready()
        # The command ends with its process at the latest: it has to be heard before that is stopped.
        await recorder.until(OutputLine, lambda _: len(recorder.output("web")) == 2)
    assert recorder.output("web") == [f"at {ready.url}"] * 2
    assert recorder.states("plain") == [State.STARTING, State.RUNNING, State.STOPPING, State.STOPPED]


@settings(max_examples=300)
@given(
    orders=ORDERS,
    restart_mode=st.sampled_from(["replace", "overlap"]),
    heeds=st.booleans(),
    clock=st.builds(trio.testing.MockClock, autojump_threshold=st.just(0)),
)
async def test_no_sequence_of_orders_starts_a_process_twice_or_leaves_one(
    *, orders: list[tuple[str, str]], restart_mode: str, heeds: bool, clock: trio.testing.MockClock
) -> None:
    world = World()
    twice: list[str] = []

    async def serves(child: Child) -> int:
        child.heeds = heeds
        own = [each for each in world.living() if each.port == child.port and not each.is_killed]
        if len(own) > 1:
            twice.append(child.env["ORCHESTRA_PROCESS"])
        child.listen()
        await trio.sleep_forever()
        return 0

    world.programs["serve"] = serves
    plans = [
        waiting(
            name,
            *others,
            command="serve",
            env={"PORT": str(port)},
            port=port,
            ready="http",
            stop_timeout=0.5,
            restart_mode=restart_mode,
        )
        for port, name, others in (
            (1000, "a", ()),
            (2000, "b", ("a:started",)),
            (3000, "c", ("b:completed",)),
        )
    ]
    async with supervised(world, *plans, is_kept_open="always") as (supervisor, _):
        for order, name in orders:
            match order:
                case "start":
                    supervisor.start(name)
                case "stop":
                    await supervisor.stop(name)
                    assert supervisor.snapshot()[name].state.is_ended
                case "restart":
                    await supervisor.restart(name)
                case "kill":
                    supervisor.kill(name)
                case "wait":
                    await trio.sleep(0.3)
                case _:
                    await trio.lowlevel.checkpoint()
    assert twice == []
    assert all(event.state.is_ended for event in supervisor.snapshot().values())
    assert world.living() == []


async def test_a_failure_is_told_though_another_one_takes_its_time(
    world: World, autojump_clock: object
) -> None:
    async def breaks(child: Child) -> int:
        await child.say("oops")
        return 3

    world.programs["breaks"] = breaks
    plans = (
        waiting("slow", ready="log:never"),
        waiting("bad", command="breaks", restart=Restart.NEVER, ready="log:never"),
    )
    async with supervised(world, *plans) as (supervisor, _):
        with pytest.raises(StartError) as caught:
            await supervisor.wait_ready()
        assert (caught.value.name, caught.value.tail) == ("bad", ("oops",))


async def test_a_stop_returns_though_the_process_is_started_again(
    world: World, autojump_clock: object
) -> None:
    async def takes_its_time(child: Child) -> int:
        child.heeds = False
        await child.until_asked()
        await trio.sleep(0.3)
        return 0

    world.programs["takes its time"] = takes_its_time
    plans = (waiting("a", command="takes its time"), waiting("b"))
    async with supervised(world, *plans) as (supervisor, recorder):
        await supervisor.wait_ready()
        async with trio.open_nursery() as both:
            both.start_soon(supervisor.stop, "a")
            await recorder.until_state("a", State.STOPPING)
            both.start_soon(supervisor.restart, "a")
        await supervisor.wait_ready()


async def test_one_that_is_being_installed_can_be_stopped_alone(
    world: World, tmp_path: Path, autojump_clock: object
) -> None:
    world.programs["npm ci"] = partial(says, "installing")
    install = Install(folder=tmp_path, argv=("npm", "ci"))
    plans = [waiting(name, cwd=tmp_path, install=install) for name in "ab"]
    async with supervised(world, *plans, waiting("c")) as (supervisor, recorder):
        await recorder.until_line("installing")
        await supervisor.stop("a")
        assert [event.state for event in supervisor.snapshot().values()][:2] == [
            State.STOPPED,
            State.INSTALLING,
        ]
        await supervisor.stop("b")
        assert supervisor.snapshot()["b"].state is State.STOPPED
        world.programs["npm ci"] = partial(ends, 0)
        supervisor.start("a")
        await supervisor.wait_ready(["a"])


async def test_a_stop_in_the_back_off_does_not_install_again(
    world: World, tmp_path: Path, autojump_clock: object
) -> None:
    installed: list[int] = []

    async def installs(child: Child) -> int:
        await trio.lowlevel.checkpoint()
        installed.append(child.pid)
        (tmp_path / "node_modules").mkdir()
        return 0

    world.programs["npm ci"] = installs
    install = Install(folder=tmp_path, argv=("npm", "ci"))
    plan = waiting("a", command="fails", cwd=tmp_path, install=install)
    async with supervised(world, plan, waiting("b")) as (supervisor, recorder):
        await recorder.until_state("a", State.BACKING_OFF)
        await supervisor.stop("a")
        del world.programs["fails"]
        supervisor.start("a")
        await supervisor.wait_ready(["a"])
    assert len(installed) == 1


async def test_equal_checks_are_one_and_a_prompt_is_a_line(world: World, autojump_clock: object) -> None:
    async def asks(child: Child) -> int:
        await child.prompt("ready> ")
        await trio.sleep_forever()
        return 0

    world.programs["asks"] = asks
    plan = waiting("a", command="asks", ready=("delay:0", "delay:0", "log:^ready>"))
    async with supervised(world, plan) as (supervisor, _):
        await supervisor.wait_ready()


async def test_a_run_that_is_over_cannot_be_started_again(world: World, autojump_clock: object) -> None:
    supervisor = a_supervisor(world, waiting("a", command="succeeds"))
    await supervisor.stop()  # nothing runs: there is nothing to wait for
    supervisor = a_supervisor(world, waiting("a", command="succeeds"))
    await supervisor.run()
    with pytest.raises(StartError, match="the run is over"):
        supervisor.start("a")
    with pytest.raises(StartError, match="the run is over"):
        await supervisor.restart("a")


async def test_a_prompt_is_told_and_can_be_answered(world: World, autojump_clock: object) -> None:
    async def asks(child: Child) -> int:
        await child.prompt("Loading")
        await child.prompt("\x1b[1m(Pdb)\x1b[0m ")
        while not child.typed:  # noqa: ASYNC110 - as simple as a program is
            await trio.sleep(1)
        return 0

    world.programs["asks"] = asks
    async with supervised(world, waiting("a", command="asks")) as (supervisor, recorder):
        await recorder.until_state("a", State.RUNNING)
        await trio.testing.wait_all_tasks_blocked()
        wanted = [event for event in recorder.events if isinstance(event, InputWanted)]
        assert [(event.process, event.prompt) for event in wanted] == [("a", "(Pdb)")]
        await supervisor.send("a", "c\n")
        await recorder.until_state("a", State.COMPLETED)
        assert world.children[0].typed == b"c\n"
        with pytest.raises(OrchestraError, match="a does not run"):
            await supervisor.send("a", "c\n")
