"""Servers that reload themselves, and programs that are broken: simulated children, on a clock that jumps."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from orchestra import ProcessPlan, ProxyPlan, Role, State
from orchestra.child.remains import Member
from orchestra.config.plan import UNDECIDED
from orchestra.events import ErrorShown
from tests.simulation_kit import World, running_processes, supervised

if TYPE_CHECKING:
    from pathlib import Path

    from tests.simulation_kit import Child

pytestmark = pytest.mark.ceiling(100_000)

API = ProcessPlan(
    name="api", command="serve", env={"PORT": "5000"}, port=5000, ready="http", role=Role.BACKEND
)
RELOADS = "WARNING:  StatReload detected changes in 'app.py'. Reloading..."


@pytest.fixture
def world() -> World:
    return World()


async def serves(child: Child) -> int:
    child.listen()
    await trio.sleep_forever()
    return 0


async def test_a_reload_is_over_when_the_new_server_logs_its_start(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """Until then the old server may go on answering."""

    async def reloads(child: Child) -> int:
        child.listen()
        await trio.sleep(10)
        await child.say(RELOADS)
        await trio.sleep(3)
        await child.say("INFO:     Started server process [2]")
        await trio.sleep_forever()
        return 0

    world.programs["serve"] = reloads
    async with supervised(world, API) as (supervisor, recorder):
        before = await recorder.until_state("api", State.READY)
        reloading = await recorder.until_state("api", State.STARTING, restarts=1)
        assert (reloading.previous, reloading.pid, reloading.url) == (State.READY, before.pid, None)
        assert reloading.reason == RELOADS
        after = await recorder.until_state("api", State.READY, restarts=1)
        assert (after.pid, after.url) == (before.pid, before.url)
        assert after.at - reloading.at == pytest.approx(3, abs=0.2)
        assert recorder.notices() == []
    assert supervisor.snapshot()["api"].restarts == 1


async def test_a_reload_that_is_only_announced_is_over_after_5_s(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def speaks(child: Child) -> int:
        child.listen()
        await trio.sleep(10)
        await child.say(RELOADS)
        await trio.sleep_forever()
        return 0

    world.programs["serve"] = speaks
    async with supervised(world, API) as (_, recorder):
        reloading = await recorder.until_state("api", State.STARTING, restarts=1)
        after = await recorder.until_state("api", State.READY, restarts=1)
        assert after.at - reloading.at == pytest.approx(5, abs=0.2)
        assert recorder.notices() == []
        assert len(world.children) == 1


async def test_a_reload_that_is_stuck_is_ended_within_a_second_and_said(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def is_stuck(child: Child) -> int:
        child.listen()
        if len(world.children) == 1:
            await trio.sleep(10)
            await child.say(RELOADS)
            child.heeds = False
            child.sockets.clear()
        await trio.sleep_forever()
        return 0

    world.programs["serve"] = is_stuck
    async with supervised(world, API) as (_, recorder):
        reloading = await recorder.until_state("api", State.STARTING, restarts=1)
        assert (await recorder.until_notice("reload-stuck")).process == "api"
        waiting = await recorder.until_state("api", State.WAITING, restarts=2)
        assert waiting.signal == "SIGKILL"
        assert waiting.at - reloading.at == pytest.approx(6, abs=0.2)
        after = await recorder.until_state("api", State.READY, restarts=2)
        assert after.pid == 2


BROKEN = ("Traceback (most recent call last):", '  File "app.py", line 1', "SyntaxError: invalid syntax")


@pytest.mark.parametrize(
    "watches", ["Watching for file changes with StatReloader", " * Restarting with stat"]
)
async def test_a_broken_program_is_unhealthy_until_it_is_repaired(
    world: World, watches: str, autojump_clock: trio.testing.MockClock
) -> None:
    async def is_broken(child: Child) -> int:
        await child.say(watches, *BROKEN)
        await trio.sleep(60)
        await child.say("Traceback (most recent call last):", "NameError: name 'x' is not defined")
        await trio.sleep(60)
        await child.say("INFO:     Started server process [1]")
        child.listen()
        await trio.sleep_forever()
        return 0

    world.programs["serve"] = is_broken
    async with supervised(world, API) as (_, recorder):
        broken = await recorder.until_state("api", State.UNHEALTHY)
        assert (broken.reason, broken.url) == ("SyntaxError: invalid syntax (app.py:1)", None)
        assert broken.last_lines[-1] == "SyntaxError: invalid syntax"
        await trio.sleep(70)
        newest = recorder.changes("api")
        assert [event.state for event in newest] == [State.STARTING, State.UNHEALTHY]
        again = [event for event in recorder.events if getattr(event, "reason", "").startswith("NameError")]
        assert len(again) == 1
        ready = await recorder.until_state("api", State.READY)
        assert (ready.pid, ready.previous, ready.reason) == (broken.pid, State.UNHEALTHY, "")
        assert ready.last_lines == ()


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(
            ("Watching for file changes with StatReloader", "Tracks", BROKEN[-1]), id="no traceback"
        ),
        pytest.param(("Looking around", *BROKEN), id="it would end with its program"),
        pytest.param(("Watching for file changes with StatReloader", *BROKEN, "goes on"), id="it goes on"),
    ],
)
async def test_a_child_that_is_late_for_another_reason_is_not_called_broken(
    world: World, lines: tuple[str, ...], autojump_clock: trio.testing.MockClock
) -> None:
    async def is_late(child: Child) -> int:
        await child.say(*lines)
        await trio.sleep(30)
        child.listen()
        await trio.sleep_forever()
        return 0

    world.programs["serve"] = is_late
    async with supervised(world, API) as (_, recorder):
        await recorder.until_state("api", State.READY)
        assert recorder.states("api") == [State.STARTING, State.READY]


@pytest.mark.parametrize("retries_itself", [False, True])
async def test_a_program_that_is_started_again_and_again_is_broken(
    world: World, autojump_clock: trio.testing.MockClock, *, retries_itself: bool
) -> None:
    """``watchmedo auto-restart`` does so; one that tries again itself may succeed."""

    async def fails_again(child: Child) -> int:
        for pid in range(2, 22):
            watcher = Member(1, "python", is_last=False, has_child=True)
            child.remains = [watcher, Member(2 if retries_itself else pid, "python")]
            await child.say(*BROKEN)
            await trio.sleep(0.5)
        child.listen()
        await trio.sleep_forever()
        return 0

    world.programs["serve"] = fails_again
    async with supervised(world, API) as (_, recorder):
        await recorder.until_state("api", State.READY)
        broken = [] if retries_itself else [State.UNHEALTHY]
        assert recorder.states("api") == [State.STARTING, *broken, State.READY]


@pytest.mark.parametrize("role", [Role.FRONTEND, Role.BACKEND])
async def test_where_it_listens_is_looked_for_again_when_a_connection_was_refused(
    world: World, role: Role, autojump_clock: trio.testing.MockClock
) -> None:
    """Vite has moved because its configuration says another port; nothing is asked for without a reason."""

    async def moves(child: Child) -> int:
        child.listen()
        await trio.sleep(30)
        child.sockets.clear()
        child.listen(5001)
        await trio.sleep_forever()
        return 0

    world.programs["serve"] = moves
    async with running_processes(world, replace(API, role=role)) as (run, recorder):
        await recorder.until_state("api", State.READY)
        for refused_at in (10, 40):
            await trio.sleep_until(refused_at)
            asked = len(world.asked)
            attempt = run.workers["api"].attempt
            assert attempt is not None
            attempt.refused.unpark_all()
            await trio.sleep(5)
            assert (len(world.asked) > asked) == (refused_at == 40)
        moved = recorder.changes("api")[-1]
        assert (moved.state, moved.url, moved.pid) == (State.READY, "http://127.0.0.1:5001", 1)
        assert recorder.changes("api")[-2].reason == "nothing listens at port 5000 any more"


WATCHER = Member(1, "node", has_inotify=True)


async def test_a_watcher_that_is_alone_is_broken_until_it_listens(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """Whatever it is: after a change that has broken its program it is not restarted, either."""

    async def watches(child: Child) -> int:
        for _ in range(2):
            child.remains = [WATCHER]
            await child.say("Error: no database")
            await trio.sleep(30)
            child.remains = [Member(1, "node", is_last=False, has_child=True), Member(2, "node")]
            await trio.sleep(1)
            child.listen()
            await trio.sleep(30)
            child.sockets.clear()
            world.end_server(child)
        await trio.sleep_forever()
        return 0

    world.programs["serve"] = watches
    async with supervised(world, API) as (_, recorder):
        for restarts in range(2):
            broken = await recorder.until_state("api", State.UNHEALTHY, restarts=restarts)
            assert (broken.reason, broken.pid, broken.url) == ("Error: no database", 1, None)
            assert (await recorder.until_state("api", State.READY, restarts=restarts)).pid == 1
        assert recorder.notices() == []


async def test_a_watcher_whose_server_has_ended_silently_is_restarted(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def loses_it(child: Child) -> int:
        child.listen()
        await trio.sleep(60)
        await child.say('INFO:     127.0.0.1:1 - "GET /x HTTP/1.1" 404 Not Found')
        await trio.sleep(60)
        child.sockets.clear()
        child.remains = [WATCHER]
        world.end_server(child)
        await trio.sleep_forever()
        return 0

    world.programs["serve"] = loses_it
    async with supervised(world, API) as (_, recorder):
        assert (await recorder.until_notice("reload-stuck")).process == "api"
        assert (await recorder.until_state("api", State.READY, restarts=2)).pid == 2


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("Found 0 errors. Watching for file changes.", ("backend", None)),
        ("INFO:     Will watch for changes in these directories: ['/x']", ("backend", "dev")),
    ],
)
async def test_a_watcher_without_a_role_is_a_server_only_if_it_says_so(
    world: World, line: str, becomes: tuple[str, object], autojump_clock: trio.testing.MockClock
) -> None:
    async def watches(child: Child) -> int:
        child.remains = [WATCHER]
        await child.say(line)
        await trio.sleep_forever()
        return 0

    world.programs["dev"] = watches
    dev = replace(API, name="dev", command="dev", role=Role.UNDECIDED)
    decided: list[tuple[str, object]] = []
    proxy = ProxyPlan(backend=UNDECIDED, frontend=None)
    async with running_processes(world, dev, proxy=proxy, decided=decided) as (_, recorder):
        started = await recorder.until_state("dev", State.RUNNING)
        while not decided:  # noqa: ASYNC110 - no event tells
            await trio.sleep(0.1)
        assert decided == [becomes]
        assert trio.current_time() - started.at < 2
        await trio.sleep(10)
        broken = [State.UNHEALTHY] if becomes[1] else []
        assert recorder.states("dev") == [State.STARTING, State.RUNNING, *broken]


async def test_an_end_before_ready_is_reported_with_last_lines(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """The event says so from its end on, until a child is ready."""

    async def is_broken_at_first(child: Child) -> int:
        if len(world.children) == 1:
            await child.say("\x1b[31moh no\x1b[0m")
            return 1
        return await serves(child)

    world.programs["serve"] = is_broken_at_first
    async with supervised(world, API) as (_, recorder):
        ended = await recorder.until_state("api", State.BACKING_OFF)
        assert (ended.ended_before_ready, ended.last_lines) == (True, ("oh no",))
        again = await recorder.until_state("api", State.STARTING, restarts=1)
        assert (again.ended_before_ready, again.last_lines) == (True, ("oh no",))
        ready = await recorder.until_state("api", State.READY, restarts=1)
        assert (ready.ended_before_ready, ready.last_lines) == (False, ())
        world.child(ready.pid).kill()
        ended = await recorder.until_state("api", State.BACKING_OFF, restarts=1)
        assert (ended.ended_before_ready, ended.signal) == (False, "SIGKILL")


@pytest.mark.parametrize(
    ("line", "held", "ends"),
    [
        pytest.param(
            "[Errno 98] ('127.0.0.1', 8000): address already in use",
            {8000},
            "exit code 1: it wants a port that it cannot have: port 8000 is taken by pid 812 (node)",
            id="another program's",
        ),
        pytest.param(
            "Error: listen EADDRINUSE: address already in use :::8000",
            set(),
            "exit code 1: Error: listen EADDRINUSE: address already in use :::8000; again in 0.5 s",
            id="free again",
        ),
        pytest.param(
            "Error: port 5000 is already in use.",
            {5000},
            "exit code 1: Error: port 5000 is already in use.; again in 0.5 s",
            id="its PORT, which will be another one",
        ),
    ],
)
async def test_a_port_that_is_taken_is_not_asked_for_in_a_loop(
    world: World, line: str, held: set[int], ends: str, autojump_clock: trio.testing.MockClock
) -> None:
    async def cannot_listen(child: Child) -> int:
        await child.say(line, "make: *** [Makefile:2: dev] Error 1")
        return 1

    world.programs["serve"] = cannot_listen
    world.taken |= held
    async with supervised(world, API) as (_, recorder):
        state = State.BACKING_OFF if "again in" in ends else State.FAILED
        assert (await recorder.until_state("api", state)).reason == ends
        shown = await recorder.until(ErrorShown)
        assert f"{shown.error_type}: {shown.message}" == ends.partition("; again")[0]


async def test_the_last_lines_are_those_of_one_life(
    world: World, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """While the next child has not written a line, they say how the last one has ended."""

    async def fails(child: Child) -> int:
        await trio.sleep(1)
        await child.say("\x1b[31mbegins\x1b[0m", f"life {len(world.children)}")
        return 1

    world.programs["serve"] = fails
    log = tmp_path / "api.log"
    async with supervised(world, replace(API, log_file=log)) as (supervisor, recorder):
        await recorder.until_state("api", State.BACKING_OFF)
        assert supervisor.tail("api") == ("begins", "life 1")
        again = await recorder.until_state("api", State.STARTING, restarts=1)
        await trio.sleep(0.5)
        assert supervisor.tail("api") == again.last_lines == ("begins", "life 1")
        ended = await recorder.until_state("api", State.BACKING_OFF, restarts=1)
        assert ended.last_lines == ("begins", "life 2")
    assert log.read_text().split("\n")[:4] == ["begins", "life 1", "begins", "life 2"]


async def test_a_life_without_a_line_has_no_last_lines(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """Those of an earlier one do not explain why it has ended, nor why it is late."""

    async def is_silent_later(child: Child) -> int:
        number = len(world.children)
        if number in (1, 3):
            await child.say(f"life {number}")
        return 1 if number <= 3 else await _waits()

    async def _waits() -> int:
        await trio.sleep_forever()
        return 0

    world.programs["serve"] = is_silent_later
    async with supervised(world, replace(API, ready_timeout=5.0)) as (supervisor, recorder):
        for restarts, lines in enumerate([("life 1",), (), ("life 3",)]):
            ended = await recorder.until_state("api", State.BACKING_OFF, restarts=restarts)
            assert ended.last_lines == supervisor.tail("api") == lines
        await recorder.until_state("api", State.STARTING, restarts=3)
        assert supervisor.tail("api") == ("life 3",)
        await recorder.until_notice("not-ready")
        assert supervisor.tail("api") == ()


async def test_a_process_is_drained_before_it_is_stopped(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """Its name is told once, while it is still there; a child that is only being spawned has no clients."""
    told: list[tuple[str, bool]] = []

    async def drain(name: str) -> None:
        await trio.sleep(1)
        told.append((name, not world.children[-1].has_ended))

    world.programs["serve"] = serves
    async with running_processes(world, API, before_stop=drain) as (run, recorder):
        worker = run.workers["api"]
        await run.wait_ready(["api"], inf)
        worker.restart()
        stopping = await recorder.until_state("api", State.STOPPING)
        waiting = await recorder.until_state("api", State.WAITING, restarts=1)
        assert waiting.at - stopping.at == pytest.approx(1)
        worker.restart()  # it is being spawned
        await run.wait_ready(["api"], inf)
        assert told == [("api", True)]
        worker.stop()
        await recorder.until(type(stopping), lambda event: event.state is State.STOPPED)
        assert told == [("api", True)] * 2
