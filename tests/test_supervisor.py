"""A whole supervisor with real processes; what does not need them is in `test_supervisor_orders`."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import trio
import trio.testing

import orchestra.supervisor
from orchestra import Plan, ProcessPlan, State, Supervisor
from orchestra.config.plan import FromProcess, Install, ProxyPlan
from orchestra.events import OutputLine
from tests.events_kit import Recorder
from tests.process_kit import SERVE
from tests.simulation_kit import waiting

pytestmark = pytest.mark.real


def test_the_example_in_the_docstring_works() -> None:
    failed, attempted = doctest.testmod(orchestra.supervisor)
    assert (failed, attempted > 3) == (0, True)


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


async def test_children_get_the_one_address_before_the_first_of_them_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ORCHESTRA_URL", "http://of.another.run")
    said = ProcessPlan(name="a", command='echo "$ORCHESTRA_URL-$ORCHESTRA_PORT"')
    for proxy in (ProxyPlan(port=0, backend=FromProcess(name="a"), frontend=None), None):
        supervisor = Supervisor(Plan(processes=(said,), proxy=proxy))
        recorder = Recorder(supervisor)
        await supervisor.run()
        url = supervisor.url or ""
        assert bool(url) is (proxy is not None)
        assert recorder.output("a") == [f"{url}-{url.rpartition(':')[2]}"]


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


async def test_a_folder_that_does_not_exist_is_a_failure_not_a_crash() -> None:
    supervisor = Supervisor(Plan(processes=(ProcessPlan(name="web", command="true", cwd=Path("/no/where")),)))
    await supervisor.run()
    assert "/no/where" in supervisor.snapshot()["web"].reason


def a_folder_with(tmp_path: Path, script: str) -> Install:
    return Install(folder=tmp_path, argv=("/bin/sh", "-c", script))


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


async def test_packages_are_installed_again_when_the_lock_file_has_changed(tmp_path: Path) -> None:
    install = a_folder_with(
        tmp_path, "echo x >> count; mkdir -p node_modules; echo $NODE_ENV $NPM_CONFIG_INCLUDE > env"
    )
    process = ProcessPlan(
        name="a",
        command="echo up; exec sleep 1000",
        cwd=tmp_path,
        env={"NODE_ENV": "production"},
        install=install,
    )
    supervisor = Supervisor(Plan(processes=(process,)))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        for restarts, (lock, count) in enumerate([(None, "x\n"), (None, "x\n"), ("new", "x\nx\n")]):
            if lock is not None:
                (tmp_path / "package-lock.json").write_text(lock)
            if restarts:
                await supervisor.restart("a")
            await recorder.until_state("a", State.RUNNING, restarts=restarts)
            assert (tmp_path / "count").read_text() == count
        await supervisor.stop()
    assert (tmp_path / "env").read_text() == "development dev\n"


async def test_a_failed_installation_leaves_no_half_of_the_packages(tmp_path: Path) -> None:
    install = a_folder_with(
        tmp_path,
        "mkdir node_modules; echo npm error code E404; echo npm error 404 x@9; echo npm error log: y; exit 1",
    )
    supervisor = Supervisor(
        Plan(processes=(ProcessPlan(name="a", command="true", cwd=tmp_path, install=install),))
    )
    await supervisor.run()
    assert supervisor.snapshot()["a"].state is State.FAILED
    assert supervisor.snapshot()["a"].reason.endswith(": exit code 1: 404 x@9")
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


async def test_a_stubborn_command_that_asks_does_not_keep_the_end() -> None:
    asks = "exec:trap '' TERM; sleep 1000; false"
    supervisor = Supervisor(
        Plan(processes=(waiting("a", command="echo up; sleep 1000", ready=asks, stop_timeout=1000),))
    )
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
