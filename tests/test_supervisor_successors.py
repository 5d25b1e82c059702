"""A child that takes over from another one, and children that begin anew by themselves; all of them real."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import trio
import trio.testing

import orchestra.incarnation
from orchestra import Plan, ProcessPlan, State, Supervisor
from orchestra.child import sockets
from orchestra.config.plan import Role
from orchestra.events import Notice, OutputLine, StateChanged
from tests.kit import free_port, get
from tests.process_kit import Mark, linux_only
from tests.test_supervisor import Watcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from orchestra.supervisor import BeforeStop

pytestmark = [pytest.mark.real, linux_only]

# Says who it is, and what has become of it. It comes up when no file says that it may not.
SERVER = """
import http.server, os, pathlib, signal, subprocess, sys, time

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = str(os.getpid()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

def bye(*_):
    print("bye", os.getpid(), flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, bye)
helper = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print("begins", os.getpid(), helper.pid, flush=True)
if pathlib.Path("broken").exists():
    sys.exit("Traceback (most recent call last):\\nSyntaxError: it is broken")
while pathlib.Path("wait").exists():
    time.sleep(0.01)
address = ("127.0.0.1", int(os.environ["PORT"]))
http.server.HTTPServer(address, Handler).serve_forever()
"""


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mark]:
    """What all children of the test carry."""
    made = Mark()
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    yield made
    made.kill()


class Keeping:
    """A process of a run, and all that was said of it."""

    def __init__(self, supervisor: Supervisor, watcher: Watcher) -> None:
        self.supervisor = supervisor
        self.watcher = watcher

    @property
    def now(self) -> StateChanged:
        return self.supervisor.snapshot()["api"]

    @property
    def states(self) -> list[State]:
        return self.watcher.states("api")

    async def ready(self, *, restarts: int = 0) -> StateChanged:
        return await self.watcher.until_state("api", State.READY, restarts=restarts)

    async def says(self, text: str, *, nth: int = 1) -> str:
        """Wait until it has said something for the n-th time; return the whole line."""

        def lines() -> list[str]:
            return [line for line in self.watcher.output("api") if text in line]

        await self.watcher.until(lambda event: isinstance(event, OutputLine) and len(lines()) >= nth)
        return lines()[nth - 1]

    async def begins(self, nth: int) -> tuple[int, int]:
        """Wait for the n-th child; return its pid and its helper's."""
        _, pid, helper = (await self.says("begins", nth=nth)).split()
        return int(pid), int(helper)

    async def notice(self, code: str) -> Notice:
        found = await self.watcher.until(lambda event: isinstance(event, Notice) and event.code == code)
        assert isinstance(found, Notice)
        return found

    def notices(self) -> list[str]:
        return [event.code for event in self.watcher.events if isinstance(event, Notice)]

    async def answered_by(self) -> int:
        """The pid that answers at its address."""
        url = self.now.url
        assert url is not None
        return int((await trio.to_thread.run_sync(get, url)).text)


@asynccontextmanager
async def kept(
    folder: Path, script: str = SERVER, *, before_stop: BeforeStop | None = None, **more: Any
) -> AsyncIterator[Keeping]:
    """Run a backend; in the end it is stopped."""
    (folder / "server.py").write_text(script)
    more.setdefault("port", free_port())
    plan = ProcessPlan(
        name="api",
        command=f"exec {sys.executable} -u server.py",
        cwd=folder,
        ready="http",
        role=Role.BACKEND,
        **more,
    )
    supervisor = Supervisor(Plan(processes=(plan,)), before_stop=before_stop)
    watcher = Watcher(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        yield Keeping(supervisor, watcher)
        await supervisor.stop()


async def until_gone(pid: int) -> None:
    """Look again and again until a process has ended, which nobody tells us of."""
    while True:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        await trio.sleep(0.01)


def overlapping(folder: Path, **more: Any) -> Any:
    return kept(folder, restart_mode="overlap", **more)


# --- A new child beside the old one ---


async def test_a_new_child_on_another_port_takes_over_without_anybody_leaving_ready(
    tmp_path: Path, mark: Mark
) -> None:
    async with overlapping(tmp_path) as api:
        old = await api.ready()
        (tmp_path / "wait").touch()
        await api.supervisor.restart("api")
        pid, _ = await api.begins(2)
        assert (api.now.state, api.now.pid, api.now.url, api.now.restarts) == (
            State.READY,
            old.pid,
            old.url,
            0,
        )
        assert await api.answered_by() == old.pid
        (tmp_path / "wait").unlink()
        new = await api.ready(restarts=1)
        assert (new.pid, new.previous) == (pid, State.READY)
        assert new.url != old.url
        assert new.ready_after is not None
        assert await api.answered_by() == pid
        assert await api.says("bye") == f"bye {old.pid}"
        assert api.states == [State.STARTING, State.READY]
        assert (api.now.pid, api.now.url, api.notices()) == (pid, new.url, [])
    assert api.states == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]
    assert mark.living() == []


async def test_the_family_of_the_old_child_ends_with_it_and_the_new_one_keeps_its_own(
    tmp_path: Path, mark: Mark
) -> None:
    async with overlapping(tmp_path) as api:
        old, old_helper = await api.begins(1)
        await api.ready()
        await api.supervisor.restart("api")
        new, new_helper = await api.begins(2)
        await api.ready(restarts=1)
        await until_gone(old)
        await until_gone(old_helper)
        assert psutil.pid_exists(new)
        assert psutil.pid_exists(new_helper)
        assert await api.answered_by() == new
        assert api.states == [State.STARTING, State.READY]
    assert mark.living() == []


async def test_the_port_of_the_plan_is_taken_again_by_the_one_after_the_next(
    tmp_path: Path, mark: Mark
) -> None:
    async with overlapping(tmp_path) as api:
        first = await api.ready()
        await api.supervisor.restart("api")
        second = await api.ready(restarts=1)
        assert first.pid is not None
        await until_gone(first.pid)
        await api.supervisor.restart("api")
        third = await api.ready(restarts=2)
        assert (second.port != first.port, third.port) == (True, first.port)
        assert api.states == [State.STARTING, State.READY]
    assert mark.living() == []


async def test_a_new_version_that_does_not_come_up_never_serves_and_the_old_one_goes_on(
    tmp_path: Path, mark: Mark
) -> None:
    async with overlapping(tmp_path) as api:
        old = await api.ready()
        (tmp_path / "broken").touch()
        await api.supervisor.restart("api")
        notice = await api.notice("overlap-failed")
        assert notice.process == "api"
        assert "exit code 1" in notice.text
        assert "SyntaxError: it is broken" in notice.text
        assert "the old one goes on serving" in notice.text
        assert (api.now.state, api.now.pid, api.now.url, api.now.restarts) == (
            State.READY,
            old.pid,
            old.url,
            0,
        )
        assert await api.answered_by() == old.pid
        (tmp_path / "broken").unlink()
        await api.supervisor.restart("api")
        new = await api.ready(restarts=1)
        assert await api.answered_by() == new.pid
        assert api.states == [State.STARTING, State.READY]
    assert mark.living() == []


async def test_a_new_version_that_takes_too_long_is_given_up(tmp_path: Path, mark: Mark) -> None:
    async with overlapping(tmp_path, ready_timeout=3.0) as api:
        old = await api.ready()
        (tmp_path / "wait").touch()
        await api.supervisor.restart("api")
        notice = await api.notice("overlap-failed")
        assert "it is not ready after 3 s: it listens nowhere" in notice.text
        await until_gone((await api.begins(2))[0])
        assert await api.answered_by() == old.pid
    assert mark.living() == []


@pytest.mark.parametrize("name", ["api", None])
async def test_to_stop_while_a_new_child_starts_leaves_neither(
    tmp_path: Path, mark: Mark, name: str | None
) -> None:
    async with overlapping(tmp_path) as api:
        old = await api.ready()
        (tmp_path / "wait").touch()
        await api.supervisor.restart("api")
        new, _ = await api.begins(2)
        await api.supervisor.stop(name)
        assert api.now.state is State.STOPPED
        await until_gone(new)
        assert not psutil.pid_exists(old.pid or 0)
    assert mark.living() == []
    assert api.states == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]


async def test_to_stop_at_once_after_a_restart_leaves_nothing(tmp_path: Path, mark: Mark) -> None:
    async with overlapping(tmp_path) as api:
        await api.ready()
        await api.supervisor.restart("api")
        await trio.testing.wait_all_tasks_blocked()  # it is being spawned
        await api.supervisor.stop()
    assert mark.living() == []
    assert api.states == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]


async def test_of_two_restarts_at_once_nothing_is_left_of_the_first(tmp_path: Path, mark: Mark) -> None:
    async with overlapping(tmp_path) as api:
        await api.ready()
        await api.supervisor.restart("api")
        await trio.testing.wait_all_tasks_blocked()  # it is being spawned
        await api.supervisor.restart("api")
        await api.ready(restarts=1)
        await api.says("bye")
        answering = await api.answered_by()
        for line in [line for line in api.watcher.output("api") if line.startswith("begins")]:
            if (pid := int(line.split()[1])) != answering:
                await until_gone(pid)
        assert mark.count("server.py") == 1
    assert mark.living() == []


async def test_kill_does_not_wait_for_a_new_child_that_is_stubborn(tmp_path: Path, mark: Mark) -> None:
    stubborn = SERVER.replace("signal.signal(signal.SIGTERM, bye)", "signal.signal(signal.SIGTERM, print)")
    async with overlapping(tmp_path, script=stubborn, stop_timeout=1000) as api:
        await api.ready()
        (tmp_path / "wait").touch()
        await api.supervisor.restart("api")
        await api.begins(2)
        api.supervisor.kill()
    assert mark.living() == []


async def never(_name: str) -> None:
    """Go on serving somebody who does not come to an end."""
    await trio.sleep_forever()


async def test_a_new_child_that_dies_is_missed_though_the_old_one_still_serves_somebody(
    tmp_path: Path, mark: Mark
) -> None:
    async with overlapping(tmp_path, before_stop=never) as api:
        await api.ready()
        await api.supervisor.restart("api")
        new = await api.ready(restarts=1)
        assert new.pid is not None
        with trio.fail_after(20):
            os.kill(new.pid, signal.SIGKILL)
            again = await api.ready(restarts=2)
            assert again.pid != new.pid
        api.supervisor.kill()
    assert mark.living() == []


@pytest.mark.parametrize("name", ["api", None])
async def test_to_stop_does_not_wait_for_whom_the_old_one_still_serves(
    tmp_path: Path, mark: Mark, name: str | None
) -> None:
    async with overlapping(tmp_path, before_stop=never) as api:
        await api.ready()
        await api.supervisor.restart("api")
        await api.ready(restarts=1)
        with trio.fail_after(20):
            await api.supervisor.stop(name)
        assert api.now.state is State.STOPPED
    assert mark.living() == []


async def test_of_two_restarts_in_a_row_the_second_one_counts(tmp_path: Path, mark: Mark) -> None:
    async with overlapping(tmp_path) as api:
        old = await api.ready()
        (tmp_path / "wait").touch()
        await api.supervisor.restart("api")
        second, _ = await api.begins(2)
        await api.supervisor.restart("api")
        third, _ = await api.begins(3)
        await until_gone(second)
        assert await api.answered_by() == old.pid
        (tmp_path / "wait").unlink()
        assert (await api.ready(restarts=1)).pid == third
        assert await api.answered_by() == third
        assert await api.says("bye") == f"bye {old.pid}"
        assert (api.states, api.notices()) == ([State.STARTING, State.READY], [])
    assert mark.living() == []


async def test_when_the_old_one_dies_too_early_the_new_one_is_waited_for(tmp_path: Path, mark: Mark) -> None:
    async with overlapping(tmp_path) as api:
        old = await api.ready()
        assert old.pid is not None
        (tmp_path / "wait").touch()
        await api.supervisor.restart("api")
        new, helper = await api.begins(2)
        os.kill(old.pid, signal.SIGKILL)
        starting = await api.watcher.until_state("api", State.STARTING, restarts=1)
        assert (starting.pid, starting.previous, starting.url) == (new, State.READY, None)
        assert "the old one has ended" in starting.reason
        (tmp_path / "wait").unlink()
        assert (await api.ready(restarts=1)).pid == new
        assert await api.answered_by() == new
        assert psutil.pid_exists(helper)
        assert api.states == [State.STARTING, State.READY, State.STARTING, State.READY]
        # Only these two were there.
        assert len([line for line in api.watcher.output("api") if "begins" in line]) == 2
    assert mark.living() == []


async def test_when_both_die_the_process_is_started_anew(tmp_path: Path, mark: Mark) -> None:
    async with overlapping(tmp_path) as api:
        old = await api.ready()
        assert old.pid is not None
        (tmp_path / "wait").touch()
        await api.supervisor.restart("api")
        new, _ = await api.begins(2)
        os.kill(old.pid, signal.SIGKILL)
        await api.watcher.until_state("api", State.STARTING, restarts=1)
        (tmp_path / "wait").unlink()
        os.kill(new, signal.SIGKILL)
        third, _ = await api.begins(3)
        await api.watcher.until(
            lambda event: isinstance(event, StateChanged) and (event.state, event.pid) == (State.READY, third)
        )
        assert await api.answered_by() == third
    assert mark.living() == []


async def test_who_is_not_ready_is_restarted_as_usual(tmp_path: Path, mark: Mark) -> None:
    (tmp_path / "wait").touch()
    async with overlapping(tmp_path) as api:
        first, _ = await api.begins(1)
        await api.supervisor.restart("api")
        assert not psutil.pid_exists(first)
        (tmp_path / "wait").unlink()
        await api.ready(restarts=1)
        assert State.STOPPING in api.states
    assert mark.living() == []


# --- Children that begin anew by themselves ---

# Reloads on SIGHUP, in a way that a test may choose; its parent holds the socket, as gunicorn's does.
RELOADER = """
import os, pathlib, signal, socket, sys, time

SAYS = "WARNING:  StatReload detected changes in 'app.py'. Reloading..."
HOW = pathlib.Path("how").read_text()
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))

def reload(*_):
    print(SAYS, flush=True)
    if HOW == "stuck":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)

def serve():
    signal.signal(signal.SIGHUP, reload)
    print("worker", os.getpid(), flush=True)
    while True:
        asking, _ = listener.accept()
        asking.recv(65536)
        body = str(os.getpid()).encode()
        asking.sendall(b"HTTP/1.1 200 OK\\r\\nConnection: close\\r\\n\\r\\n" + body)
        asking.close()

if HOW != "workers":
    serve()
while True:
    worker = os.fork()
    if worker == 0:
        serve()
    os.waitpid(worker, 0)
    while pathlib.Path("wait").exists():
        time.sleep(0.01)
"""


@pytest.fixture
def is_watched(monkeypatch: pytest.MonkeyPatch) -> trio.Event:
    """Is set when it is known who serves, so that their end is noticed."""
    event, find = trio.Event(), sockets.servers

    def servers(leader: int, port: int) -> Any:
        found = find(leader, port)
        trio.from_thread.run_sync(event.set)
        return found

    monkeypatch.setattr(sockets, "servers", servers)
    return event


async def test_a_worker_that_is_replaced_without_a_word_is_noticed(
    tmp_path: Path, mark: Mark, is_watched: trio.Event
) -> None:
    (tmp_path / "how").write_text("workers")
    (tmp_path / "wait").touch()
    async with kept(tmp_path, RELOADER) as api:
        before = await api.ready()
        await is_watched.wait()
        await trio.testing.wait_all_tasks_blocked()
        os.kill(int((await api.says("worker")).split()[1]), signal.SIGKILL)
        starting = await api.watcher.until_state("api", State.STARTING, restarts=1)
        assert (starting.pid, starting.url) == (before.pid, None)
        assert "its server process has ended" in starting.reason
        (tmp_path / "wait").unlink()
        after = await api.ready(restarts=1)
        assert (after.pid, after.url) == (before.pid, before.url)
        assert await api.answered_by() == int((await api.says("worker", nth=2)).split()[1])
        assert api.states == [State.STARTING, State.READY, State.STARTING, State.READY]
        assert api.notices() == []
    assert mark.living() == []


async def test_a_reload_that_gets_stuck_is_ended_by_us_and_said(
    tmp_path: Path, mark: Mark, is_watched: trio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orchestra.incarnation, "_RELOAD_LIMIT", 0.2)
    (tmp_path / "how").write_text("stuck")
    async with kept(tmp_path, RELOADER, stop_timeout=1000) as api:
        before = await api.ready()
        await is_watched.wait()
        await trio.testing.wait_all_tasks_blocked()
        api.supervisor.signal("api", signal.SIGHUP)
        reloading = await api.watcher.until_state("api", State.STARTING, restarts=1)
        assert (reloading.previous, reloading.pid, reloading.url) == (State.READY, before.pid, None)
        assert "detected changes in 'app.py'" in reloading.reason
        assert (await api.notice("reload-stuck")).process == "api"
        after = await api.ready(restarts=2)
        assert after.pid not in (None, before.pid)
        assert await api.answered_by() == after.pid
        assert [event.signal for event in api.watcher.events if isinstance(event, StateChanged)].count(
            "SIGKILL"
        )
    assert mark.living() == []


async def test_who_speaks_of_a_reload_and_goes_on_answering_is_ready_again(
    tmp_path: Path, mark: Mark, is_watched: trio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orchestra.incarnation, "_RELOAD_LIMIT", 0.2)
    (tmp_path / "how").write_text("only says so")
    async with kept(tmp_path, RELOADER) as api:
        before = await api.ready()
        await is_watched.wait()
        await trio.testing.wait_all_tasks_blocked()
        api.supervisor.signal("api", signal.SIGHUP)
        after = await api.ready(restarts=1)
        assert (after.pid, after.url) == (before.pid, before.url)
        assert (api.states[1:], api.notices()) == ([State.READY, State.STARTING, State.READY], [])
    assert mark.living() == []


# What cannot be imported, and what it is when it has been mended.
BROKEN = """
import http.server, os, pathlib, time

print("Watching for file changes with StatReloader", flush=True)
print("Traceback (most recent call last):\\n  File \\"app.py\\", line 1\\n    def x(:", flush=True)
print("SyntaxError: invalid syntax", flush=True)
while not pathlib.Path("mended").exists():
    time.sleep(0.01)
print("INFO:     Started server process [1]", flush=True)
address = ("127.0.0.1", int(os.environ["PORT"]))
http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()
"""


async def test_one_that_lives_and_cannot_be_imported_is_unhealthy_until_it_is_mended(
    tmp_path: Path, mark: Mark
) -> None:
    async with kept(tmp_path, BROKEN) as api:
        broken = await api.watcher.until_state("api", State.UNHEALTHY)
        assert (broken.reason, broken.url) == ("SyntaxError: invalid syntax", None)
        assert broken.pid is not None
        (tmp_path / "mended").touch()
        ready = await api.ready()
        assert (ready.pid, ready.previous, ready.reason) == (broken.pid, State.UNHEALTHY, "")
    assert mark.living() == []


@pytest.mark.parametrize(
    ("said", "instead"),
    [
        pytest.param("Traceback", "Tracks", id="no traceback"),
        pytest.param("Watching for file changes", "Looking around", id="it would end with its program"),
    ],
)
async def test_one_that_does_not_come_up_for_another_reason_is_not_called_broken(
    said: str, instead: str, tmp_path: Path, mark: Mark
) -> None:
    quiet = BROKEN.replace("SyntaxError: invalid syntax", "goes: on").replace(said, instead)
    async with kept(tmp_path, quiet) as api:
        await api.says("goes: on")
        await trio.sleep(1.5)
        (tmp_path / "mended").touch()
        await api.ready()
        assert api.states == [State.STARTING, State.READY]
    assert mark.living() == []
