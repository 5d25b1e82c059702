from __future__ import annotations

import doctest
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings, strategies as st

import orchestra.supervisor
from orchestra import Plan, ProcessPlan, Restart, StartError, State, Supervisor
from orchestra.config.plan import Condition, Dependency, Install, Role
from orchestra.errors import ConfigError
from orchestra.events import Notice, OutputLine, StateChanged
from tests.events_kit import Recorder
from tests.process_kit import SERVE
from tests.simulation_kit import World, supervised as simulated

if TYPE_CHECKING:
    from tests.simulation_kit import Child

pytestmark = pytest.mark.real


def test_the_example_in_the_docstring_works() -> None:
    failed, attempted = doctest.testmod(orchestra.supervisor)
    assert (failed, attempted > 3) == (0, True)


async def test_run_returns_when_every_process_has_ended() -> None:
    supervisor = Supervisor(
        Plan(processes=(ProcessPlan(name="a", command="echo hello"), ProcessPlan(name="b", command="true")))
    )
    recorder = Recorder(supervisor)
    await supervisor.run()
    assert recorder.output("a") == ["hello"]
    assert recorder.states("a") == [State.STARTING, State.RUNNING, State.COMPLETED]
    assert all(life.state is State.COMPLETED for life in supervisor._run.ended)
    assert supervisor.snapshot()["b"].exit_code == 0


async def test_children_get_their_name_port_folder_and_environment(tmp_path: Path) -> None:
    supervisor = Supervisor(
        Plan(
            processes=(
                ProcessPlan(
                    name="a",
                    command="echo $ORCHESTRA_PROCESS $ORCHESTRA_RUN $PORT $PWD",
                    cwd=tmp_path,
                    port=5432,
                ),
                ProcessPlan(name="b", command='echo $ONLY; test -z "$HOME"', env={"ONLY": "this"}),
            )
        )
    )
    recorder = Recorder(supervisor)
    await supervisor.run()
    name, run_id, port, folder = recorder.output("a")[0].split()
    assert (name, port, folder) == ("a.1", "5432", str(tmp_path))
    assert len(run_id) == 16
    assert recorder.output("b") == ["this"]
    assert supervisor.snapshot()["b"].state is State.COMPLETED


async def test_a_server_is_ready_when_it_answers_wherever_it_listens() -> None:
    process = ProcessPlan(name="web", command=SERVE + " 0", ready="http")
    supervisor = Supervisor(Plan(processes=(process,)))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready(["web"])
        ready = supervisor.snapshot()["web"]
        assert (ready.state, ready.url) == (State.READY, f"http://127.0.0.1:{ready.port}")
        assert ready.ready_after is not None
        assert ready.ready_after > 0
        assert f"port {ready.port} " in recorder.output("web")[0]
        await supervisor.stop()
    assert recorder.states("web") == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]


async def test_a_server_that_accepts_but_does_not_answer_is_not_ready() -> None:
    mute = (
        f'exec {sys.executable} -u -c \'import socket,time; s=socket.create_server(("127.0.0.1",0));'
        'print("up"); time.sleep(1000)\''
    )
    supervisor = Supervisor(
        Plan(processes=(ProcessPlan(name="web", command=mute, ready="http", ready_timeout=0.01),))
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        notice = await recorder.until(Notice)
        assert notice.text.startswith("not ready after 0.01 s: ")
        assert supervisor.snapshot()["web"].state is State.STARTING
        await supervisor.stop()


async def test_a_killed_server_comes_back_by_itself() -> None:
    supervisor = Supervisor(Plan(processes=(ProcessPlan(name="web", command=SERVE + " 0", ready="http"),)))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        first = await recorder.until_state("web", State.READY)
        assert first.pid is not None
        os.kill(first.pid, 9)
        again = await recorder.until_state("web", State.READY, restarts=1)
        assert again.pid not in (None, first.pid)
        await supervisor.stop()
    died = next(event for event in recorder.events if isinstance(event, StateChanged) and event.signal)
    assert (died.state, died.signal) == (State.BACKING_OFF, "SIGKILL")


async def test_a_process_that_fails_says_why_to_those_that_wait() -> None:
    broken = ProcessPlan(name="web", command="echo oh no >&2; exit 7", restart=Restart.NEVER, ready="http")
    supervisor = Supervisor(Plan(processes=(broken, ProcessPlan(name="other", command="sleep 1000"))))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        with pytest.raises(StartError, match="web: has failed: exit code 7") as caught:
            await supervisor.wait_ready()
        await supervisor.stop()
    assert caught.value.tail == ("oh no",)
    assert [(life.plan.name, life.state) for life in supervisor._run.ended] == [("web", State.FAILED)]


async def test_a_command_that_does_not_exist_fails_at_once() -> None:
    supervisor = Supervisor(Plan(processes=(ProcessPlan(name="web", command="no-such-command-here"),)))
    recorder = Recorder(supervisor)
    await supervisor.run()
    assert recorder.states("web") == [State.STARTING, State.RUNNING, State.FAILED]
    assert supervisor.snapshot()["web"].restarts == 0


async def test_a_folder_that_does_not_exist_is_a_failure_not_a_crash() -> None:
    supervisor = Supervisor(Plan(processes=(ProcessPlan(name="web", command="true", cwd=Path("/no/where")),)))
    await supervisor.run()
    assert "/no/where" in supervisor.snapshot()["web"].reason


async def test_to_cancel_run_is_to_stop_all_processes_properly() -> None:
    polite = "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done"
    supervisor = Supervisor(Plan(processes=(ProcessPlan(name="a", command=polite),)))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until(OutputLine)
        nursery.cancel_scope.cancel()
    assert "bye" in recorder.output("a")
    assert recorder.states("a")[-2:] == [State.STOPPING, State.STOPPED]


async def test_kill_does_not_wait() -> None:
    stubborn = "trap '' TERM; echo up; while :; do sleep 1; done"
    supervisor = Supervisor(Plan(processes=(ProcessPlan(name="a", command=stubborn, stop_timeout=1000),)))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until(OutputLine)
        nursery.start_soon(supervisor.stop)
        await recorder.until_state("a", State.STOPPING)
        supervisor.kill()
    assert supervisor.snapshot()["a"].signal == "SIGKILL"


async def test_sinks_are_awaited_with_every_line_in_order() -> None:
    lines: list[str] = []

    async def sink(line: OutputLine) -> None:
        await trio.lowlevel.checkpoint()
        lines.append(line.text)

    await Supervisor(Plan(processes=(ProcessPlan(name="a", command="seq 1 20000"),)), sinks=[sink]).run()
    assert lines == [str(number) for number in range(1, 20001)]


def a_folder_with(tmp_path: Path, script: str) -> Install:
    return Install(folder=tmp_path, manager="npm", argv=("/bin/sh", "-c", script))


async def test_packages_of_a_folder_are_installed_once_before_use(tmp_path: Path) -> None:
    install = a_folder_with(tmp_path, "echo installing; echo x >> count; mkdir node_modules")
    plans = tuple(
        ProcessPlan(name=name, command="ls -d node_modules", cwd=tmp_path, install=install) for name in "ab"
    )
    supervisor = Supervisor(Plan(processes=plans))
    recorder = Recorder(supervisor)
    await supervisor.run()
    assert (tmp_path / "count").read_text() == "x\n"
    assert recorder.output("a") == ["installing", "node_modules"]
    assert recorder.output("b") == ["node_modules"]
    for name in "ab":
        assert recorder.states(name)[0] is State.INSTALLING
        assert recorder.states(name)[-1] is State.COMPLETED


async def test_a_failed_installation_leaves_no_half_of_the_packages(tmp_path: Path) -> None:
    install = a_folder_with(tmp_path, "mkdir node_modules; touch node_modules/half; exit 1")
    supervisor = Supervisor(
        Plan(processes=(ProcessPlan(name="a", command="true", cwd=tmp_path, install=install),))
    )
    await supervisor.run()
    assert supervisor.snapshot()["a"].state is State.FAILED
    assert "exit code 1" in supervisor.snapshot()["a"].reason
    assert not (tmp_path / "node_modules").exists()


async def test_an_installation_can_be_stopped(tmp_path: Path) -> None:
    install = a_folder_with(tmp_path, "mkdir node_modules; echo up; sleep 1000")
    supervisor = Supervisor(
        Plan(processes=(ProcessPlan(name="a", command="true", cwd=tmp_path, install=install),))
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until(OutputLine)
        nursery.cancel_scope.cancel()
    assert recorder.states("a") == [State.INSTALLING, State.STOPPING, State.STOPPED]
    assert not (tmp_path / "node_modules").exists()


async def test_a_candidate_that_listens_nowhere_just_runs() -> None:
    process = ProcessPlan(name="a", command="echo up; sleep 1000", ready="http", role=Role.UNDECIDED)
    supervisor = Supervisor(Plan(processes=(process,)))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready()
        assert supervisor.snapshot()["a"].state is State.RUNNING
        await supervisor.stop()


async def test_a_new_observer_first_learns_how_things_stand() -> None:
    supervisor = Supervisor(Plan(processes=(ProcessPlan(name="a", command="true"),)))
    await supervisor.run()
    late = Recorder(supervisor)
    assert [(event.process, event.state) for event in late.events if isinstance(event, StateChanged)] == [
        ("a", State.COMPLETED)
    ]


# --- Waiting for others ---


def waiting(name: str, *others: str, command: str = "echo up; sleep 1000", **more: Any) -> ProcessPlan:
    """A process that depends on others, which are given as in the settings."""
    dependencies = []
    for other in others:
        of, _, condition = other.partition(":")
        dependencies.append(Dependency(of, Condition(condition or "ready")))
    return ProcessPlan(name=name, command=command, depends_on=tuple(dependencies), **more)


async def test_processes_wait_for_what_they_depend_on_and_say_so() -> None:
    supervisor = Supervisor(
        Plan(
            processes=(
                waiting("api", "migrate:completed", "db"),
                waiting("migrate", "db", command="true"),
                waiting("db", command="sleep 0.1; echo open; sleep 1000", ready="log:open"),
                waiting("worker", "api:started"),
            )
        )
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        assert {name: event.reason for name, event in supervisor.snapshot().items()} == {
            "api": "waits for migrate to complete; waits for db to be ready",
            "migrate": "waits for db to be ready",
            "db": "",
            "worker": "waits for api to start",
        }
        await supervisor.wait_ready()
        await supervisor.stop()
    begun = [
        (event.process, event.state)
        for event in recorder.events
        if isinstance(event, StateChanged) and event.state is not event.previous
    ]
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
    assert [each for each in begun if each in order] == order


async def test_a_dependency_that_comes_back_starts_no_dependent_again() -> None:
    supervisor = Supervisor(
        Plan(processes=(waiting("db", command=SERVE + " 0", ready="http"), waiting("api", "db")))
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready()
        pid = supervisor.snapshot()["db"].pid
        assert pid is not None
        os.kill(pid, 9)
        await recorder.until_state("db", State.READY, restarts=1)
        await supervisor.stop()
    assert recorder.states("api") == [State.STARTING, State.RUNNING, State.STOPPING, State.STOPPED]


async def test_a_blocked_process_ends_with_the_rest() -> None:
    supervisor = Supervisor(
        Plan(
            processes=(
                waiting("db", command="exit 3", restart=Restart.NEVER),
                waiting("api", "db:completed", ready="log:up"),
                waiting("worker", "api"),
            )
        )
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        with pytest.raises(
            StartError,
            match=r"worker: (cannot be started: api is blocked by a failed dependency|has stopped)",
        ):
            await supervisor.wait_ready(["worker"])
    assert recorder.states("api") == recorder.states("worker") == [State.STOPPED]
    assert supervisor.snapshot()["api"].reason == "db has failed"
    assert supervisor.snapshot()["worker"].reason in (
        "api is blocked by a failed dependency",
        "api has stopped",
    )


async def test_a_run_that_is_kept_open_goes_on_waiting() -> None:
    plan = Plan(
        processes=(waiting("db", command="exit 3", restart=Restart.NEVER), waiting("api", "db:completed"))
    )
    supervisor = Supervisor(plan, is_kept_open=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
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


async def test_a_process_that_ends_before_its_turn_is_not_started_again(tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    over = tmp_path / "over"
    linger = f"while ! test -e {over}; do sleep 0.02; done"
    # It starts nothing that a signal just before would not reach.
    farewell = f"trap 'echo > {go}; {linger}; exit 0' TERM; echo up; {linger}; true"
    supervisor = Supervisor(
        Plan(
            processes=(
                waiting("db", command=f"echo up; read line < {go}; exit 1", ready="log:up"),
                waiting("api", "db", command=farewell, stop_timeout=1000),
            )
        )
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until(OutputLine, lambda event: event.process == "api")
        nursery.start_soon(supervisor.stop)
        # It is not its turn until `api` has ended.
        await recorder.until(
            StateChanged,
            lambda event: (
                (event.process, event.previous) == ("db", State.READY) and event.state is not State.READY
            ),
        )
        over.touch()
    assert recorder.states("db") == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]
    assert supervisor.snapshot()["db"].exit_code == 1


# --- Stopping and starting one of them ---


async def test_one_can_be_restarted_and_the_others_go_on() -> None:
    supervisor = Supervisor(
        Plan(processes=(waiting("db", command=SERVE + " 0", ready="http"), waiting("api", "db")))
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready()
        before = supervisor.snapshot()
        await supervisor.restart("db")
        assert supervisor.snapshot()["db"].state in (State.WAITING, State.STARTING)
        await supervisor.wait_ready(["db"])
        after = supervisor.snapshot()
        assert after["db"].pid not in (None, before["db"].pid)
        assert after["db"].restarts == 1
        assert after["api"].pid == before["api"].pid
        await supervisor.stop()
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


async def test_one_that_was_stopped_stays_so_until_it_is_started() -> None:
    supervisor = Supervisor(Plan(processes=(waiting("a"), waiting("b"))))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready()
        await supervisor.stop("a")
        assert supervisor.snapshot()["a"].state is State.STOPPED
        with pytest.raises(StartError, match="a: has stopped"):
            await supervisor.wait_ready()
        supervisor.start("a")
        await supervisor.wait_ready()
        await supervisor.stop()


async def test_a_waiting_process_takes_orders_and_runs_once(tmp_path: Path) -> None:
    supervisor = Supervisor(
        Plan(
            processes=(
                waiting(
                    "db",
                    command=f"while ! test -e {tmp_path}/go; do sleep 0.02; done; echo up; sleep 1000",
                    ready="log:up",
                ),
                waiting(
                    "api",
                    "db",
                    command=f"echo x >> {tmp_path}/runs; echo up; sleep 1000",
                    ready="log:up",
                ),
            )
        )
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.restart("api")
        supervisor.start("api")
        await supervisor.stop("api")
        assert supervisor.snapshot()["api"].state is State.STOPPED
        await supervisor.restart("api")
        assert supervisor.snapshot()["api"].state is State.WAITING
        (tmp_path / "go").touch()
        await supervisor.wait_ready()
        await supervisor.stop()
    assert (tmp_path / "runs").read_text() == "x\n"
    assert recorder.states("api").count(State.STARTING) == 1


async def test_a_run_that_is_kept_open_can_begin_again(tmp_path: Path) -> None:
    plan = Plan(
        processes=(
            waiting("db", command=f"test -e {tmp_path}/mended", restart=Restart.NEVER),
            waiting("api", "db:completed"),
        )
    )
    supervisor = Supervisor(plan, is_kept_open=True)
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until_state("db", State.FAILED)
        assert [life.plan.name for life in supervisor._run.ended] == ["db"]
        (tmp_path / "mended").touch()
        supervisor.start("db")
        await supervisor.wait_ready()
        assert supervisor.snapshot()["api"].state is State.RUNNING
        await supervisor.stop()
    assert [life.state for life in supervisor._run.ended] == [State.COMPLETED]


async def test_a_run_kept_open_without_processes_ends_on_stop() -> None:
    plan = Plan(processes=(waiting("a", command="exit 1", restart=Restart.NEVER),))
    supervisor = Supervisor(plan, is_kept_open=True)
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until_state("a", State.FAILED)
        await trio.testing.wait_all_tasks_blocked()
        await supervisor.stop()
    assert supervisor.snapshot()["a"].state is State.FAILED


async def test_a_signal_reaches_the_group() -> None:
    command = "trap 'echo got it' USR1; echo up; while :; do sleep 0.01; done"
    supervisor = Supervisor(Plan(processes=(waiting("a", command=command), waiting("b", command="true"))))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until_line("up")
        supervisor.signal("a", 10)
        await recorder.until_line("got it")
        await recorder.until_state("b", State.COMPLETED)
        supervisor.signal("b", 10)
        await supervisor.stop()


async def test_a_command_can_be_run_whenever_it_is_up(tmp_path: Path) -> None:
    supervisor = Supervisor(
        Plan(
            processes=(
                waiting("web", command=SERVE + " 0", ready="http", on_ready="echo at $ORCHESTRA_READY_URL"),
                waiting("plain", on_ready="echo plain is up; exit 3"),
                waiting("stuck", on_ready=f"touch {tmp_path}/begun; sleep 1000"),
            )
        )
    )
    recorder = Recorder(supervisor)

    def times_said() -> int:
        return sum(line.startswith("at http") for line in recorder.output("web"))

    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        ready = await recorder.until_state("web", State.READY)
        said = f"at {ready.url}"
        await recorder.until_line(said)
        notice = await recorder.until(Notice)
        assert (notice.process, notice.text) == (
            "plain",
            "on_ready `echo plain is up; exit 3`: exit code 3",
        )
        while not (tmp_path / "begun").exists():  # noqa: ASYNC110 - no event tells
            await trio.sleep(0.01)
        await supervisor.restart("web")
        await supervisor.wait_ready()
        # The command ends with its process at the latest: it has to be heard before that is stopped.
        await recorder.until(OutputLine, lambda _: times_said() == 2)
        await supervisor.stop()
    assert times_said() == 2
    assert recorder.states("plain") == [State.STARTING, State.RUNNING, State.STOPPING, State.STOPPED]


async def test_a_chain_as_projects_have_it(tmp_path: Path) -> None:
    listen = (
        f"sleep 0.2; exec {sys.executable} -u -c 'import socket, time;"
        ' s = socket.create_server(("127.0.0.1", 0)); time.sleep(1000)\''
    )
    log = tmp_path / "log"
    supervisor = Supervisor(
        Plan(
            processes=(
                waiting(
                    "worker",
                    "api",
                    command=f"echo worker >> {log}; echo working; sleep 1000",
                    ready="log:^work",
                ),
                waiting(
                    "api", "db", "migrate:completed", command=f"echo api >> {log}; {SERVE} 0", ready="http:/"
                ),
                waiting("migrate", "db", command=f"echo migrate >> {log}; sleep 0.1"),
                waiting("db", command=f"echo db >> {log}; {listen}", ready="tcp"),
            )
        )
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready(timeout=20)
        await supervisor.stop()
    assert log.read_text().split() == ["db", "migrate", "api", "worker"]
    gone = [
        event.process
        for event in recorder.events
        if isinstance(event, StateChanged) and event.state is State.STOPPED
    ]
    assert gone == ["worker", "api", "db"]


# --- Any sequence of orders ---

ORDERS = st.lists(
    st.tuples(st.sampled_from(["start", "stop", "restart", "kill", "wait", "yield"]), st.sampled_from("abc")),
    max_size=12,
)


@pytest.mark.ceiling(100_000)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
    async with simulated(world, *plans, is_kept_open="always") as (supervisor, _):
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
                    supervisor.signal(name, 9)
                case "wait":
                    await trio.sleep(0.3)
                case _:
                    await trio.lowlevel.checkpoint()
    assert twice == []
    assert all(event.state.is_ended for event in supervisor.snapshot().values())
    assert world.living() == []


async def test_a_failure_is_told_though_another_one_takes_its_time() -> None:
    plan = Plan(
        processes=(
            waiting("slow", ready="log:never"),
            waiting("bad", command="echo oops; exit 3", restart=Restart.NEVER, ready="log:never"),
        )
    )
    supervisor = Supervisor(plan)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        with pytest.raises(StartError) as caught:
            await supervisor.wait_ready()
        assert (caught.value.name, caught.value.tail) == ("bad", ("oops",))
        await supervisor.stop()


async def test_a_stop_returns_though_the_process_is_started_again() -> None:
    supervisor = Supervisor(
        Plan(
            processes=(
                waiting("a", command="trap 'sleep 0.3; exit' TERM; echo up; while :; do sleep 0.02; done"),
                waiting("b"),
            )
        )
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until(OutputLine, lambda event: event.process == "a")
        async with trio.open_nursery() as both:
            both.start_soon(supervisor.stop, "a")
            await recorder.until_state("a", State.STOPPING)
            both.start_soon(supervisor.restart, "a")
        await supervisor.wait_ready()
        await supervisor.stop()


async def test_one_that_is_being_installed_can_be_stopped_alone(tmp_path: Path) -> None:
    install = a_folder_with(tmp_path, "echo installing; test -e done || sleep 1000")
    plans = [waiting(name, cwd=tmp_path, install=install) for name in "ab"]
    supervisor = Supervisor(Plan(processes=(*plans, waiting("c"))))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until_line("installing")
        await supervisor.stop("a")
        assert [event.state for event in supervisor.snapshot().values()][:2] == [
            State.STOPPED,
            State.INSTALLING,
        ]
        await supervisor.stop("b")
        assert supervisor.snapshot()["b"].state is State.STOPPED
        (tmp_path / "done").touch()
        supervisor.start("a")
        await supervisor.wait_ready(["a"])
        await supervisor.stop()


async def test_a_stop_in_the_back_off_does_not_install_again(tmp_path: Path) -> None:
    install = a_folder_with(tmp_path, "echo x >> count; mkdir node_modules")
    plan = waiting("a", command="test -e mended && sleep 1000", cwd=tmp_path, install=install)
    supervisor = Supervisor(Plan(processes=(plan, waiting("b"))))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until_state("a", State.BACKING_OFF)
        await supervisor.stop("a")
        (tmp_path / "mended").touch()
        supervisor.start("a")
        await supervisor.wait_ready(["a"])
        await supervisor.stop()
    assert (tmp_path / "count").read_text() == "x\n"


async def test_equal_checks_are_one_and_a_prompt_is_a_line() -> None:
    plan = waiting("a", command="printf 'ready> '; sleep 1000", ready=("delay:0", "delay:0", "log:^ready>"))
    supervisor = Supervisor(Plan(processes=(plan,)))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready()
        await supervisor.stop()


async def test_a_run_that_is_over_cannot_be_started_again() -> None:
    supervisor = Supervisor(Plan(processes=(waiting("a", command="true"),)))
    await supervisor.stop()  # nothing runs: there is nothing to wait for
    supervisor = Supervisor(Plan(processes=(waiting("a", command="true"),)))
    await supervisor.run()
    with pytest.raises(StartError, match="the run is over"):
        supervisor.start("a")
    with pytest.raises(StartError, match="the run is over"):
        await supervisor.restart("a")


async def test_a_stubborn_command_that_asks_does_not_keep_the_end() -> None:
    asks = "exec:trap '' TERM; sleep 1000; false"
    supervisor = Supervisor(Plan(processes=(waiting("a", ready=asks, stop_timeout=1000),)))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until(OutputLine)
        await supervisor.stop()
    assert supervisor.snapshot()["a"].signal == "SIGTERM"


async def test_a_command_that_is_not_found_is_named_by_the_shell_s_words() -> None:
    supervisor = Supervisor(Plan(processes=(waiting("a", command="echo hello; nosuchthing; exit 127"),)))
    await supervisor.run()
    assert "nosuchthing" in supervisor.snapshot()["a"].reason
    supervisor = Supervisor(Plan(processes=(waiting("a", command="echo bye; exit 127"),)))
    await supervisor.run()
    assert supervisor.snapshot()["a"].reason == "command not found (exit code 127)"
