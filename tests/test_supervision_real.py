"""What only real processes can show: families that are told apart, sockets that change their owner."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import trio

from orchestra import Plan, ProcessPlan, Role, State, Supervisor
from orchestra.events import OutputLine
from orchestra.supervision.runtime import Runtime
from tests.events_kit import Recorder
from tests.kit import free_port, get
from tests.process_kit import Mark, linux_only

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from pathlib import Path

    from orchestra.child.sockets import Server

pytestmark = [pytest.mark.real, linux_only]

# Answers with its pid; its helper leaves the session.
SERVER = """
import http.server, os, subprocess

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

helper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print("helper", helper.pid, flush=True)
address = ("127.0.0.1", int(os.environ["PORT"]))
http.server.HTTPServer(address, Handler).serve_forever()
"""
# Its parent holds the socket, as gunicorn's does, and replaces its worker without a log line.
WORKERS = """
import os, pathlib, socket, time

listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
while True:
    worker = os.fork()
    if worker == 0:
        print("worker", os.getpid(), flush=True)
        while True:
            asking, _ = listener.accept()
            asking.recv(65536)
            body = str(os.getpid()).encode()
            asking.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n" + body)
            asking.close()
    os.waitpid(worker, 0)
    while pathlib.Path("wait").exists():
        time.sleep(0.01)
"""


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mark]:
    """What all children of the test carry; none may be left."""
    made = Mark()
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    yield made
    left = made.living()
    made.kill()
    assert left == []


@asynccontextmanager
async def backend(
    folder: Path, script: str, *, runtime: Runtime | None = None, **more: Any
) -> AsyncIterator[tuple[Supervisor, Recorder]]:
    (folder / "server.py").write_text(script)
    plan = ProcessPlan(
        name="api",
        command=f"exec {sys.executable} -u server.py",
        cwd=folder,
        port=free_port(),
        ready="http",
        role=Role.BACKEND,
        **more,
    )
    supervisor = Supervisor(Plan(processes=(plan,)), runtime=runtime)
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        yield supervisor, recorder
        await supervisor.stop()


async def answered_by(supervisor: Supervisor) -> int:
    """The pid that answers at its address."""
    url = supervisor.snapshot()["api"].url
    assert url is not None
    return int((await trio.to_thread.run_sync(get, url)).text)


async def number_said(recorder: Recorder, word: str, *, nth: int = 1) -> int:
    """Wait until it has said a word for the n-th time; return the number behind it."""

    def lines() -> list[str]:
        return [line for line in recorder.output("api") if line.startswith(word)]

    await recorder.until(OutputLine, lambda _: len(lines()) >= nth)
    return int(lines()[nth - 1].split()[1])


async def until_gone(pid: int) -> None:
    """Look again and again until a process has ended, which no event tells."""
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110
        await trio.sleep(0.01)


@pytest.mark.usefixtures("mark")
async def test_the_old_childs_family_ends_and_the_new_ones_stays(tmp_path: Path) -> None:
    async with backend(tmp_path, SERVER, restart_mode="overlap") as (supervisor, recorder):
        old = await recorder.until_state("api", State.READY)
        assert await answered_by(supervisor) == old.pid
        await supervisor.restart("api")
        new = await recorder.until_state("api", State.READY, restarts=1)
        assert await answered_by(supervisor) == new.pid
        await until_gone(old.pid or 0)
        await until_gone(await number_said(recorder, "helper"))
        assert psutil.pid_exists(await number_said(recorder, "helper", nth=2))
        assert await answered_by(supervisor) == new.pid
        assert recorder.states("api") == [State.STARTING, State.READY]


@pytest.mark.usefixtures("mark")
async def test_a_worker_that_is_replaced_silently_is_noticed(tmp_path: Path) -> None:
    are_known = trio.Event()

    async def servers(leader: int, port: int) -> Sequence[Server]:
        found = await Runtime().servers(leader, port)
        are_known.set()
        return found

    (tmp_path / "wait").touch()
    async with backend(tmp_path, WORKERS, runtime=Runtime(servers=servers)) as (supervisor, recorder):
        before = await recorder.until_state("api", State.READY)
        await are_known.wait()
        os.kill(await number_said(recorder, "worker"), signal.SIGKILL)
        starting = await recorder.until_state("api", State.STARTING, restarts=1)
        assert (starting.pid, starting.url) == (before.pid, None)
        assert starting.reason == "its server process has ended"
        (tmp_path / "wait").unlink()
        after = await recorder.until_state("api", State.READY, restarts=1)
        assert (after.pid, after.url) == (before.pid, before.url)
        assert await answered_by(supervisor) == await number_said(recorder, "worker", nth=2)
        assert recorder.notices() == []
