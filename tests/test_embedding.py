"""Runs in other programs: the README's examples, and every way in which a block can end."""

from __future__ import annotations

import asyncio
import doctest
import os
import re
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from msgspec.structs import replace

import orchestra.embedding
from orchestra import OrchestraError, Plan, ProcessPlan, Restart, StartError, State, Supervisor
from orchestra.events import Notice, OutputLine, RunEnded, RunStarted
from tests.kit import PATIENCE, ROOT, base_port, called, get, needed
from tests.process_kit import Mark, until

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.events import Event

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"<!doctype html><title>Notes</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "server.py").write_text(SERVER)
    serve = f"exec {sys.executable} server.py"
    (tmp_path / "Procfile.dev").write_text(f"ui: {serve}\napi: {serve}\n")
    (tmp_path / "orchestra.toml").write_text(
        f'[run]\nbase_port = {base_port()}\n[proxy]\nfrontend = "ui"\nlisten = "127.0.0.1:0"\n'
    )
    return tmp_path


def examples() -> list[str]:
    """The examples of the README, in its order."""
    chapter = (ROOT / "README.md").read_text().partition("## Embedding")[2].partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", chapter, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("index", "marker"), [(0, "import trio"), (1, "urllib"), (2, "import asyncio")])
def test_the_examples_of_the_readme_work(project: Path, index: int, marker: str) -> None:
    (project / "example.py").write_text(examples()[index])
    assert marker in examples()[index]
    mark = Mark()
    done = called(sys.executable, "-W", "error", "example.py", cwd=project, env=mark.env)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(("http://127.0.0.1:", "200"))
    assert mark.living() == []


CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def browser_type_launch_args():
    return {"executable_path": %r, "args": ["--no-sandbox", "--disable-dev-shm-usage"]}
"""


@pytest.mark.browser
def test_the_example_with_a_browser_works(project: Path) -> None:
    chromium = needed("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    (project / "test_example.py").write_text(examples()[3])
    assert "orchestra_stack" in examples()[3]
    (project / "conftest.py").write_text(CONFTEST % chromium)
    mark = Mark()
    runner = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    done = called(*runner, "--rootdir", project, cwd=project, env=mark.env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    assert mark.living() == []


def test_the_plugin_costs_nothing_that_is_not_used() -> None:
    script = "import sys, orchestra.pytest_plugin; print('trio' in sys.modules, 'msgspec' in sys.modules)"
    done = called(sys.executable, "-c", script)
    assert done.stdout == "False False\n"


def test_the_example_in_the_docstring_works() -> None:
    failed, attempted = doctest.testmod(orchestra.embedding)
    assert (failed, attempted) == (0, 3)


def test_plain_code_gets_a_stack_that_is_ready_and_leaves_nothing(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = Mark()
    for name, value in mark.env.items():
        monkeypatch.setenv(name, value)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    handlers = [signal.getsignal(number) for number in numbers]
    environ = dict(os.environ)
    with orchestra.running(project / "Procfile.dev") as stack:
        assert stack.url is not None
        assert get(stack.url).upstream == "backend"
        states = [event.state for event in stack.snapshot().values()]
        assert states == [State.READY, State.READY]
        first = stack.snapshot()["api"].pid
        stack.restart("api")
        stack.wait_ready()
        assert stack.snapshot()["api"].pid != first
        stack.stop("api")
        assert stack.snapshot()["api"].state is State.STOPPED
        stack.start("api")
        stack.wait_ready(["api"])
        assert get(stack.url).status == 200
        with pytest.raises(KeyError):
            stack.restart("nothing")
        assert mark.living() != []
    assert mark.living() == []
    assert [
        signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)
    ] == handlers
    assert dict(os.environ) == environ
    with pytest.raises(OrchestraError, match="the run has ended"):
        stack.snapshot()


def sleeping(command: str = "echo up; sleep 1000", **more: object) -> Plan:
    env = {**os.environ, **MARK.env}
    return Plan(processes=(ProcessPlan(name="a", command=command, env=env, **more),))  # type: ignore[arg-type]


MARK = Mark()


def test_another_plan_can_be_followed_in_the_block() -> None:
    with orchestra.running(sleeping()) as stack:
        (process,) = stack.plan.processes
        more = Plan(processes=(process, replace(process, name="b")))
        stack.change(more)
        stack.wait_ready(timeout=PATIENCE)
        assert (stack.plan, list(stack.snapshot())) == (more, ["a", "b"])
    assert MARK.living() == []


def test_an_exception_in_the_block_comes_out_of_it() -> None:
    def fail() -> None:
        with orchestra.running(sleeping()):
            until(lambda: MARK.living() != [], MARK.living)  # until it is executed it has no environment
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert MARK.living() == []


@pytest.mark.parametrize("kind", ["plain", "asyncio"])
def test_a_start_that_fails_is_told_with_the_last_lines(kind: str) -> None:
    plan = sleeping("echo one; echo two; exit 3", restart=Restart.NEVER, ready="log:never")

    async def with_asyncio() -> None:
        async with orchestra.running_async(plan):
            raise AssertionError("it is not ready")

    def without() -> None:
        with orchestra.running(plan):
            raise AssertionError("it is not ready")

    with pytest.raises(StartError) as caught:
        asyncio.run(with_asyncio()) if kind == "asyncio" else without()
    assert str(caught.value) == "a: has failed: exit code 3: two"
    assert caught.value.tail == ("one", "two")
    assert caught.value.__notes__ == ["the last lines of a:\none\ntwo"]
    assert MARK.living() == []


def test_a_start_that_takes_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_ready = Supervisor.wait_ready

    async def once_it_runs(supervisor: Supervisor, *arguments: Any, **more: Any) -> None:
        while supervisor.snapshot()["a"].pid is None:  # noqa: ASYNC110 - no event tells
            await trio.sleep(0.01)
        await wait_ready(supervisor, *arguments, **more)

    # What is missing is known of a running process only.
    monkeypatch.setattr(Supervisor, "wait_ready", once_it_runs)
    with (
        pytest.raises(
            StartError, match=r"is not ready after 0\.3 s: it is starting, no line matches 'never'"
        ),
        orchestra.running(sleeping(ready="log:never"), timeout=0.3),
    ):
        raise AssertionError("it is not ready")
    assert MARK.living() == []


def test_an_address_that_is_taken_is_told(project: Path) -> None:
    with orchestra.running(project / "Procfile.dev") as stack:
        assert stack.url is not None
        port = stack.url.rpartition(":")[2]
        overrides = orchestra.Overrides(listen=port, base_port=base_port())
        with (
            pytest.raises(orchestra.ConfigError, match=f"port {port} is taken"),
            orchestra.running(project / "Procfile.dev", overrides=overrides),
        ):
            raise AssertionError("there cannot be two")


def test_ctrl_c_in_the_block_leaves_nothing(tmp_path: Path) -> None:
    mark = Mark()
    script = """
        import time
        import orchestra
        plan = orchestra.Plan(processes=(orchestra.ProcessPlan(name="a", command="sleep 1000"),))
        try:
            with orchestra.running(plan):
                print("up", flush=True)
                time.sleep(1000)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    with subprocess.Popen(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, **mark.env},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        until(lambda: mark.count("sleep 1000") > 0, mark.living)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.wait(PATIENCE) == 0
    assert mark.living() == []


def test_asyncio_code_gets_a_stack_and_may_be_cancelled(project: Path) -> None:
    async def main() -> str:
        async with orchestra.running_async(project / "Procfile.dev") as stack:
            await asyncio.to_thread(stack.restart, "api")
            await asyncio.to_thread(stack.wait_ready)
            raise TimeoutError(stack.url)

    with pytest.raises(TimeoutError, match=r"http://127\.0\.0\.1:"):
        asyncio.run(main())

    async def cancelled() -> None:
        async with asyncio.timeout(2), orchestra.running_async(sleeping()):
            await asyncio.sleep(1000)

    with pytest.raises(TimeoutError):
        asyncio.run(cancelled())
    assert MARK.living() == []


@pytest.mark.parametrize("after", [0.0, 0.02, 0.1, 0.3])
def test_asyncio_code_may_be_cancelled_while_the_stack_begins(after: float) -> None:
    async def main() -> None:
        async with asyncio.timeout(after), orchestra.running_async(sleeping(ready="log:never")):
            raise AssertionError("it is not ready")

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert MARK.living() == []


def test_a_stack_lives_until_its_block_ends_though_nothing_runs() -> None:
    with orchestra.running(sleeping()) as stack:
        stack.stop("a")
        assert stack.snapshot()["a"].state is State.STOPPED
        stack.start("a")
        stack.wait_ready()
    assert MARK.living() == []


# --- events to iterate over ---


async def test_events_can_be_iterated_over_until_the_end() -> None:
    supervisor = Supervisor(sleeping("echo hello"))
    seen: list[Event] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def read() -> None:
            seen.extend([event async for event in supervisor.events()])

        await trio.testing.wait_all_tasks_blocked()
        await supervisor.run()
    kinds = [type(event) for event in seen]
    assert (kinds[0], kinds[-1]) == (RunStarted, RunEnded)
    assert [event.text for event in seen if isinstance(event, OutputLine)] == ["hello"]


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many() -> None:
    supervisor = Supervisor(sleeping("seq 1 100"))
    events = supervisor.events(limit=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run)
        assert isinstance(await anext(events), RunStarted)
    lost, *rest = [event async for event in events]
    assert isinstance(lost, Notice)
    assert lost.code == "events-lost"
    assert len(rest) == 10
    assert int(lost.text.split()[0]) > 80
    assert isinstance(rest[-1], RunEnded)
