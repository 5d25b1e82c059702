"""Overlap restarts: a new child beside the old one, which takes over when it is ready, or is given up."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from orchestra import ProcessPlan, Role, State
from tests.simulation_kit import World, running_processes, supervised

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestra import Supervisor
    from orchestra.events import StateChanged
    from orchestra.supervision.worker import Worker
    from tests.events_kit import Recorder
    from tests.simulation_kit import Child

pytestmark = pytest.mark.ceiling(100_000)

API = ProcessPlan(
    name="api",
    command="serve",
    env={"PORT": "5000"},
    port=5000,
    ready="http",
    role=Role.BACKEND,
    restart_mode="overlap",
)


class Api:
    """An overlapping process of a run; its children serve unless a test says otherwise.

    Attributes:
        may_listen: Children that are started wait for it before they listen.
        is_broken: Children that are started end with a traceback.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.may_listen = trio.Event()
        self.may_listen.set()
        self.is_broken = False
        self.supervisor: Supervisor
        self.recorder: Recorder
        world.programs["serve"] = self._serve

    async def _serve(self, child: Child) -> int:
        if self.is_broken:
            await child.say("Traceback (most recent call last):", "SyntaxError: it is broken")
            return 1
        await self.may_listen.wait()
        child.listen()
        await trio.sleep_forever()
        return 0

    def holds(self) -> None:
        """Have the children that are started from now on not listen yet."""
        self.may_listen = trio.Event()

    @property
    def now(self) -> StateChanged:
        return self.supervisor.snapshot()["api"]

    async def ready(self, *, restarts: int = 0) -> StateChanged:
        return await self.recorder.until_state("api", State.READY, restarts=restarts)

    async def restart(self) -> Child:
        """Restart it; return the child that was spawned then."""
        await self.supervisor.restart("api")
        await trio.testing.wait_all_tasks_blocked(0.01)
        return self.world.children[-1]

    @property
    def living(self) -> list[int]:
        return [child.pid for child in self.world.living()]

    @property
    def states(self) -> list[State]:
        return self.recorder.states("api")


@asynccontextmanager
async def overlapping(**more: Any) -> AsyncIterator[Api]:
    world = World()
    api = Api(world)
    async with supervised(world, replace(API, **more)) as (api.supervisor, api.recorder):
        yield api
    assert world.living() == []


async def test_a_new_child_takes_over_while_the_process_stays_ready(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with overlapping() as api:
        old = await api.ready()
        api.holds()
        child = await api.restart()
        await trio.sleep(20)
        assert api.now == old
        assert api.living == [old.pid, child.pid]
        api.may_listen.set()
        new = await api.ready(restarts=1)
        assert (new.pid, new.previous, new.url) == (child.pid, State.READY, "http://127.0.0.1:5001")
        assert new.ready_after == pytest.approx(20, abs=1)
        await trio.sleep(1)
        assert api.living == [new.pid]
        assert (api.states, api.recorder.notices()) == ([State.STARTING, State.READY], [])
    assert api.states == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]


async def test_the_families_of_two_children_are_told_apart(autojump_clock: trio.testing.MockClock) -> None:
    async with overlapping() as api:
        await api.ready()
        child = await api.restart()
        assert api.world.children[0].env["ORCHESTRA_CHILD"] != child.env["ORCHESTRA_CHILD"]


async def test_the_second_overlap_restart_uses_the_plans_port_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with overlapping() as api:
        ports = []
        for restarts in range(3):
            ports.append((await api.ready(restarts=restarts)).port)
            await trio.sleep(1)
            await api.restart()
        assert ports == [5000, 5001, 5000]


async def test_a_new_version_that_ends_is_given_up_and_the_old_one_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with overlapping() as api:
        old = await api.ready()
        api.is_broken = True
        await api.restart()
        notice = await api.recorder.until_notice("overlap-failed")
        assert notice.process == "api"
        assert notice.text == (
            "the new version does not come up: exit code 1: SyntaxError: it is broken; "
            "the old one goes on serving"
        )
        assert (api.now, api.living) == (old, [old.pid])
        api.is_broken = False
        new = await api.restart()
        assert (await api.ready(restarts=1)).pid == new.pid
        assert api.states == [State.STARTING, State.READY]


async def test_a_new_version_that_cannot_be_imported_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its server watches its files, and lives on."""
    async with overlapping() as api:
        old = await api.ready()

        async def watches(child: Child) -> int:
            await child.say("Watching for file changes with StatReloader")
            await child.say("Traceback (most recent call last):", "SyntaxError: it is broken")
            await trio.sleep_forever()
            return 0

        api.world.programs["serve"] = watches
        await api.restart()
        notice = await api.recorder.until_notice("overlap-failed")
        assert "it is broken: SyntaxError: it is broken" in notice.text
        await trio.sleep(1)
        assert (api.now, api.living) == (old, [old.pid])


async def test_a_new_version_that_is_late_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    async with overlapping(ready_timeout=3.0) as api:
        old = await api.ready()
        api.holds()
        await api.restart()
        notice = await api.recorder.until_notice("overlap-failed")
        assert "it is not ready after 3 s: it listens nowhere" in notice.text
        await trio.sleep(1)
        assert api.living == [old.pid]
        # Its time is over; that of one that has taken over is not.
        api.may_listen.set()
        await api.restart()
        new = await api.ready(restarts=1)
        await trio.sleep(100)
        assert api.living == [new.pid]


async def test_a_successor_with_a_taken_port_is_told_to_use_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with overlapping() as api:
        await api.ready()

        async def wants_8000(child: Child) -> int:
            await child.say("[Errno 98] Address already in use")
            return 1

        api.world.programs["serve"] = wants_8000
        await api.restart()
        assert (
            await api.recorder.until_notice("overlap-failed")
        ).hint == "Its command has to listen on $PORT."


@pytest.mark.parametrize("name", ["api", None])
@pytest.mark.parametrize("is_spawned", [True, False])
async def test_a_stop_while_a_new_child_starts_leaves_neither(
    name: str | None, autojump_clock: trio.testing.MockClock, *, is_spawned: bool
) -> None:
    async with overlapping() as api:
        await api.ready()
        api.holds()
        await api.supervisor.restart("api")
        if is_spawned:
            await trio.sleep(1)
        await api.supervisor.stop(name)
        assert (api.now.state, api.living) == (State.STOPPED, [])
    assert api.states == [State.STARTING, State.READY, State.STOPPING, State.STOPPED]


@pytest.mark.parametrize("pause", [0.0, 1.0])
async def test_of_two_restarts_in_a_row_the_second_counts(
    pause: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with overlapping() as api:
        old = await api.ready()
        api.holds()
        await api.supervisor.restart("api")
        await trio.sleep(pause)
        third = await api.restart()
        await trio.sleep(1)
        assert api.living == [old.pid, third.pid]
        api.may_listen.set()
        assert (await api.ready(restarts=1)).pid == third.pid
        await trio.sleep(1)
        assert api.living == [third.pid]
        assert (api.states, api.recorder.notices()) == ([State.STARTING, State.READY], [])


async def test_kill_does_not_wait_for_a_new_child_that_is_stubborn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with overlapping(stop_timeout=1000) as api:
        await api.ready()
        api.holds()
        (await api.restart()).heeds = False
        began = trio.current_time()
        api.supervisor.kill()
        await api.supervisor.stop()
        assert trio.current_time() - began < 5


@asynccontextmanager
async def draining() -> AsyncIterator[tuple[Api, Worker, StateChanged]]:
    """A new child has taken over; the old one goes on serving a client that does not come to an end."""

    async def never(_name: str) -> None:
        await trio.sleep_forever()

    api = Api(World())
    async with running_processes(api.world, API, before_stop=never) as (run, api.recorder):
        worker = run.workers["api"]
        await api.ready()
        worker.restart()
        yield api, worker, await api.ready(restarts=1)


async def test_an_old_child_is_drained_for_30_seconds(autojump_clock: trio.testing.MockClock) -> None:
    async with draining() as (api, _, new):
        await trio.sleep(29)
        assert len(api.living) == 2
        await trio.sleep(2)
        assert api.living == [new.pid]


async def test_a_new_childs_end_is_noticed_while_the_old_one_drains(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with draining() as (api, _, new):
        api.world.child(new.pid).kill()
        again = await api.ready(restarts=2)
        assert again.at - new.at < 5
        assert api.living == [again.pid]


async def test_a_restart_after_the_new_childs_end_waits_for_the_old_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """No child is spawned beside one that is being stopped because its successor has ended."""
    async with draining() as (api, worker, new):
        old = api.world.children[0]
        old.heeds = False
        api.world.child(new.pid).kill()
        gone = await api.recorder.until_state("api", State.STARTING, restarts=1)
        assert (gone.previous, gone.pid, gone.url) == (State.READY, None, None)
        assert gone.reason == "it has ended, and waits for the end of the one that it had replaced"
        await trio.sleep(1)
        worker.restart()
        await trio.sleep(1)
        assert api.living == [old.pid]
        again = await api.ready(restarts=2)
        assert api.living == [again.pid]
        assert again.at - new.at == pytest.approx(API.stop_timeout + 0.5, abs=0.2)


async def test_a_stop_does_not_wait_for_clients_of_the_old_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with draining() as (api, worker, _):
        worker.stop()
        stopped = await api.recorder.until_state("api", State.STOPPED, restarts=1)
        assert stopped.at - api.recorder.when("api", State.STOPPING) == pytest.approx(2)
        assert api.living == []


async def test_when_the_old_one_ends_first_the_new_one_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with overlapping(ready_timeout=30.0) as api:
        old = await api.ready()
        api.holds()
        new = await api.restart()
        api.world.child(old.pid).kill()
        starting = await api.recorder.until_state("api", State.STARTING, restarts=1)
        assert (starting.pid, starting.previous, starting.url) == (new.pid, State.READY, None)
        assert starting.reason == "the old one has ended before the new one was ready"
        await trio.sleep(100)  # it is not given up any more
        api.may_listen.set()
        assert (await api.ready(restarts=1)).pid == new.pid
        assert api.states == [State.STARTING, State.READY, State.STARTING, State.READY]
        assert len(api.world.children) == 2


async def test_when_both_end_the_process_is_started_again(autojump_clock: trio.testing.MockClock) -> None:
    async with overlapping() as api:
        old = await api.ready()
        api.holds()
        new = await api.restart()
        api.world.child(old.pid).kill()
        await api.recorder.until_state("api", State.STARTING, restarts=1)
        api.may_listen.set()
        new.kill()
        again = await api.ready(restarts=2)
        assert api.living == [again.pid]
        assert again.pid not in (old.pid, new.pid)


async def test_a_process_that_is_not_ready_is_restarted_as_usual(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with overlapping() as api:
        api.holds()
        await trio.sleep(1)
        first = api.world.children[0]
        await api.supervisor.restart("api")
        assert first.has_ended
        api.may_listen.set()
        await api.ready(restarts=1)
        assert State.STOPPING in api.states
