"""When is a real process ready? Each kind of check, and what is said when it is not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from orchestra import Plan, ProcessPlan, State, Supervisor
from orchestra.child.probe import Answer
from orchestra.child.readiness import Readiness
from orchestra.config.plan import Address, Role
from orchestra.config.roles import Seen
from orchestra.events import Notice
from tests.events_kit import Recorder
from tests.kit import free_port
from tests.process_kit import SERVE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from orchestra.child.sockets import Server

pytestmark = pytest.mark.real

LISTEN = (
    f'exec {sys.executable} -u -c \'import socket, time; s = socket.create_server(("127.0.0.1", %s));'
    " time.sleep(1000)'"
)


async def ready(plan: ProcessPlan) -> tuple[Supervisor, Recorder]:
    """Run it until it is ready, and stop it."""
    supervisor = Supervisor(Plan(processes=(plan,)))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready()
        await supervisor.stop()
    return supervisor, recorder


async def missing(
    plan: ProcessPlan, clock: trio.testing.MockClock, is_so: Callable[[Supervisor], bool]
) -> str:
    """Run it until something is so, then until its time is over; say what was missing.

    If it never is so, the time passes as it does, and what is missing then is not what is expected.
    """
    supervisor = Supervisor(Plan(processes=(plan,)))
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        while not is_so(supervisor) and not any(  # noqa: ASYNC110 - there is no event for it
            isinstance(event, Notice) for event in recorder.events
        ):
            await trio.sleep(0.01)
        clock.jump(plan.ready_timeout)
        notice = await recorder.until(Notice)
        assert supervisor.snapshot()["a"].state is State.STARTING
        await supervisor.stop()
    return notice.text


def lacks(text: str) -> Callable[[Supervisor], bool]:
    """That just this is missing: what has to be asked first takes its time."""
    return lambda supervisor: supervisor._run.workers["a"].missing() == f"it is starting, {text}"


@pytest.mark.parametrize(
    ("command", "check"),
    [
        pytest.param(LISTEN % 0, "tcp", id="tcp"),
        pytest.param(f"{SERVE} 0", "http:/", id="http"),
        pytest.param(f"{SERVE} 0", "http:/nowhere=404", id="http-status"),
        pytest.param("sleep 0.1; echo '\x1b[32mup\x1b[0m and running'; sleep 1000", "log:^up and", id="log"),
        pytest.param("sleep 0.1; touch there; sleep 1000", "exec:test -e there", id="exec"),
        pytest.param("sleep 1000", "delay:0.1", id="delay"),
    ],
)
async def test_each_kind_of_check_makes_it_ready(tmp_path: Path, command: str, check: str) -> None:
    plan = ProcessPlan(name="a", command=command, cwd=tmp_path, ready=check)
    _, recorder = await ready(plan)
    assert recorder.states("a")[:2] == [State.STARTING, State.READY]


async def test_a_list_means_all_of_it(tmp_path: Path, clock_to_put_forward: trio.testing.MockClock) -> None:
    plan = ProcessPlan(
        name="a",
        command="sleep 1000",
        cwd=tmp_path,
        ready=("delay:0", "exec:test -e there", "log:up"),
        ready_timeout=5,
    )
    text = "`test -e there` ends with 1; no line matches 'up'"
    assert await missing(plan, clock_to_put_forward, lacks(text)) == f"not ready after 5 s: {text}"


@pytest.mark.parametrize(
    ("command", "check", "text"),
    [
        ("sleep 1000", "tcp", "it listens nowhere"),
        ("sleep 1000", "http:/", "it listens nowhere"),
        (f"{SERVE} $PORT", "http:/nowhere", "port {port} answers /nowhere with 404, not 204"),
        (LISTEN % "{port}", "http:/", "port {port} is open, HTTP does not answer"),
        ("echo down", "log:up", "no line matches 'up'"),
        ("sleep 1000", "exec:echo not yet; exit 3", "`echo not yet; exit 3` ends with 3: not yet"),
        ("sleep 1000", "exec:sleep 1000", "`sleep 1000` has not ended yet"),
        ("sleep 1000", "delay:60", "60 s are not over"),
    ],
)
@pytest.mark.ceiling(60)
async def test_it_is_said_what_is_missing(
    tmp_path: Path,
    command: str,
    check: str,
    text: str,
    *,
    clock_to_put_forward: trio.testing.MockClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A question takes longer than the time for all of them, which is put forward.
    monkeypatch.setattr("orchestra.child.probe.HTTP_TIMEOUT", 1000.0)
    port = free_port()
    text = text.replace("{port}", str(port))
    plan = ProcessPlan(
        name="a",
        command=command.replace("{port}", str(port)),
        cwd=tmp_path,
        port=port,
        ready=f"{check}=204" if "nowhere" in check else check,
        ready_timeout=9,
        success_exit_codes=frozenset({99}),
    )
    if command == "echo down":
        plan = ProcessPlan(name="a", command="echo down; sleep 1000", ready=check, ready_timeout=9)
    assert await missing(plan, clock_to_put_forward, lacks(text)) == f"not ready after 9 s: {text}"


async def test_a_server_that_is_none_of_its_processes_is_found_at_its_port() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(trio.serve_tcp, serve, 0)
        port = listeners[0].socket.getsockname()[1]
        for check in ("tcp", "http:/"):
            supervisor, _ = await ready(ProcessPlan(name="a", command="sleep 1000", port=port, ready=check))
            assert supervisor.snapshot()["a"].state is State.STOPPED
        nursery.cancel_scope.cancel()


async def test_an_upstream_is_ready_only_once_its_address_is_known() -> None:
    plan = ProcessPlan(name="a", command=f"echo up; {SERVE} 0", ready="log:up", role=Role.BACKEND)
    _, recorder = await ready(plan)
    assert (await recorder.until_state("a", State.READY)).url is not None


async def test_a_command_that_asks_leaves_nothing_behind(
    tmp_path: Path, clock_to_put_forward: trio.testing.MockClock
) -> None:
    from tests.process_kit import Mark

    mark = Mark()
    plan = ProcessPlan(
        name="a",
        command="sleep 1000",
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", **mark.env},
        ready="exec:sleep 999 & touch asked; sleep 998",
        ready_timeout=5,
    )
    await missing(plan, clock_to_put_forward, lambda _: mark.count(": sleep 99") == 2)
    assert (tmp_path / "asked").exists()
    assert mark.living() == []


OWN, HMR, DEBUG = (Address("127.0.0.1", port) for port in (5000, 24678, 9090))


class Slow:
    """A server that takes its time at its own port, with two other sockets that answer at once."""

    def __init__(self, found: set[Address]) -> None:
        self.found = found

    def looking_at(
        self, _leader: int, _port: int | None, **_: object
    ) -> Callable[[], Awaitable[frozenset[Address]]]:
        async def newest() -> frozenset[Address]:
            await trio.sleep(0.1)
            return frozenset(self.found)

        return newest

    async def http_answer(self, at: Address, **_: object) -> Answer:
        await trio.sleep(0.01)
        if at == HMR:
            return Answer("it is for WebSockets alone", at, is_unfit=True)
        is_late = at == OWN and trio.current_time() < self.until
        return Answer("HTTP times out" if is_late else "", at)

    until = 0.0
    vite: Address | None = None

    async def identify(self, at: Address) -> tuple[Seen, Address]:
        await trio.sleep(0.01)
        return Seen.VITE if at == self.vite else Seen.HTTP, at


async def servers(_leader: int, _port: int) -> list[Server]:
    await trio.lowlevel.checkpoint()
    return []


@pytest.mark.parametrize(
    ("found", "expected"),
    [({OWN, HMR, DEBUG}, OWN), ({HMR, DEBUG}, DEBUG), ({OWN, HMR}, OWN)],
    ids=["a debugger", "none at its port", "Nuxt's HMR"],
)
async def test_its_own_port_is_waited_for(
    found: set[Address], expected: Address, autojump_clock: trio.testing.MockClock
) -> None:
    """The sockets that answer before it are not what was meant, and 426 is no answer."""
    server: Any = Slow(found)
    server.until = trio.current_time() + 20
    plan = ProcessPlan(name="a", command="serve", port=5000, ready="http", role=Role.FRONTEND)
    readiness = Readiness(plan, env={}, port=5000, probe=server, servers=servers)
    await readiness.wait(1, server)
    assert readiness.listening == expected


@pytest.mark.parametrize(("vite", "after"), [(DEBUG, 3), (None, 10)], ids=["late", "not there"])
async def test_of_the_servers_of_one_command_vite_s_is_the_frontend(
    vite: Address | None, after: float, autojump_clock: trio.testing.MockClock
) -> None:
    """``concurrently "vite" "uvicorn app:app"``; what is not known to be Vite will do after a while."""
    server: Any = Slow({HMR, OWN})
    server.vite = vite
    plan = ProcessPlan(name="a", command="both", ready="http", role=Role.FRONTEND)
    readiness = Readiness(plan, env={}, needs_vite=True, probe=server, servers=servers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(readiness.wait, 1, server)
        await trio.sleep(3)
        assert readiness.listening is None
        server.found |= {DEBUG}
    assert readiness.listening == (vite or OWN)
    assert trio.current_time() == pytest.approx(after, abs=2)


async def test_what_is_not_asked_by_http_is_not_called_http(autojump_clock: trio.testing.MockClock) -> None:
    class Probe(Slow):
        async def tcp_answer(self, _at: Address) -> str:
            await trio.lowlevel.checkpoint()
            return ""

    server: Any = Probe({OWN})
    for role, url in ((Role.OTHER, f"tcp://{OWN}"), (Role.BACKEND, f"http://{OWN}")):
        plan = ProcessPlan(name="a", command="serve", ready="tcp", role=role)
        readiness = Readiness(plan, env={}, probe=server, servers=servers)
        await readiness.wait(1, server)
        assert readiness.listening is not None
        assert readiness.listening.url == url
