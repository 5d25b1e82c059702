"""Every rule about time, on a clock that does not wait: children are simulated, nothing is spawned."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from msgspec import structs

from orchestra import Plan, ProcessPlan, Restart, StartError, State, Supervisor, supervisor
from orchestra.child import probe, readiness
from orchestra.child.sockets import Listening, SocketScanner
from orchestra.events import Exit, Notice, StateChanged
from tests.events_kit import trio_clock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestra.events import Event


# On the clock of the tests.
pytestmark = pytest.mark.ceiling(100_000)


class Child:
    """A child of which only its life is there.

    Args:
        lasts: Seconds until it ends by itself.
        how: As what.
        heeds: Whether it ends when it is asked to.
    """

    def __init__(self, pid: int, lasts: float, how: Exit, *, heeds: bool) -> None:
        self.pid = pid
        self._lasts, self._how, self._heeds = lasts, how, heeds
        self._asked, self._killed = trio.Event(), trio.Event()

    def stop(self) -> None:
        self._asked.set()

    def kill(self) -> None:
        self._asked.set()
        self._killed.set()

    def signal(self, number: int) -> None:
        del number

    async def live(self, stop_timeout: float) -> Exit:
        with trio.move_on_after(self._lasts):
            await self._asked.wait()
            if self._heeds and not self._killed.is_set():
                return Exit(signal=15)
            with trio.move_on_after(stop_timeout):
                await self._killed.wait()
            return Exit(signal=9)
        return self._how


@dataclass
class World:
    """What children do, and what has happened, with the times."""

    lasts: float = 1e9
    how: Exit = field(default_factory=lambda: Exit(code=1))
    heeds: bool = True
    spawned: list[float] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    asked: list[float] = field(default_factory=list)
    lacking: str = ""
    sockets: frozenset[Listening] = frozenset()

    async def run_child(
        self, _command: object, *, on_spawn: Callable[[Any], object], stop_timeout: float, **_: Any
    ) -> Exit:
        await trio.lowlevel.checkpoint()
        self.spawned.append(trio.current_time())
        child = Child(len(self.spawned), self.lasts, self.how, heeds=self.heeds)
        on_spawn(child)
        return await child.live(stop_timeout)

    async def answer(self, *_: object, **__: object) -> str:
        await trio.lowlevel.checkpoint()
        self.asked.append(trio.current_time())
        return self.lacking

    def record(self, event: Event) -> None:
        self.events.append(structs.replace(event, time=trio_clock()))

    def when(self, process: str, state: State, *, nth: int = 0) -> float:
        return [
            event.at
            for event in self.events
            if isinstance(event, StateChanged)
            and (event.process, event.state) == (process, state)
            and event.previous is not event.state
        ][nth]

    def states(self, process: str = "a") -> list[State]:
        return [
            event.state
            for event in self.events
            if isinstance(event, StateChanged)
            and event.process == process
            and event.previous is not event.state
        ]


class _Guard:
    def spawned(self, family: object, *, stop_signal: int, stop_timeout: float) -> None: ...
    def emptied(self, family: object) -> None: ...
    def on_screen(self, terminal: str | None, give_back: bytes = b"") -> None: ...


@asynccontextmanager
async def _unguarded(_run_id: str) -> AsyncIterator[_Guard]:
    await trio.lowlevel.checkpoint()
    yield _Guard()


class _Scout(SocketScanner):
    """Looks at a world, at once."""

    world: World

    async def run(self) -> None:
        await trio.sleep_forever()

    @asynccontextmanager
    async def looking_at(self, leader: int) -> Any:
        del leader

        async def newest() -> frozenset[Listening]:
            await trio.sleep(0.05)
            return self.world.sockets

        yield newest


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(supervisor, "run_child", made.run_child)
    monkeypatch.setattr(supervisor, "guarded", _unguarded)
    monkeypatch.setattr("random.random", lambda: 0.0)
    for kind in ("http_answer", "tcp_answer", "exec_answer"):
        monkeypatch.setattr(probe, kind, made.answer)
    monkeypatch.setattr(_Scout, "world", made, raising=False)
    monkeypatch.setattr("orchestra.child.sockets.SocketScanner", _Scout)
    return made


def supervised(world: World, *plans: ProcessPlan, **more: Any) -> Supervisor:
    made = Supervisor(Plan(processes=plans), **more)
    made.subscribe(world.record)
    return made


A = ProcessPlan(name="a", command="a", env={})


async def test_back_off_doubles_from_half_a_second_and_comes_to_rest(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.lasts = 0.0
    await supervised(world, structs.replace(A, max_quick_failures=7)).run()
    pauses = [round(later - earlier, 3) for earlier, later in pairwise(world.spawned)]
    assert pauses == [0.5, 1, 2, 4, 8, 10, 10]
    assert world.states()[-1] is State.FAILED


async def test_back_off_has_a_little_jitter(
    world: World, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr("random.random", lambda: 1.0)
    world.lasts = 0.0
    await supervised(world, structs.replace(A, max_quick_failures=2)).run()
    assert world.spawned[1] - world.spawned[0] == pytest.approx(0.55)


async def test_ten_seconds_of_running_wipe_the_slate_clean(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.lasts = 10.0
    made = supervised(world, structs.replace(A, max_quick_failures=1))
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        await trio.sleep(100)
        await made.stop()
    pauses = {round(later - earlier, 3) for earlier, later in pairwise(world.spawned)}
    assert pauses == {10.5}


async def test_a_restart_ends_the_back_off_at_once(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.lasts = 0.0
    made = supervised(world, structs.replace(A, max_quick_failures=99))
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        await trio.sleep(60)
        world.lasts = 1e9
        asked_at = trio.current_time()
        await made.restart("a")
        await trio.testing.wait_all_tasks_blocked()
        assert world.spawned[-1] == asked_at
        await made.stop()


async def test_sockets_and_commands_are_asked_often_at_first_and_once_a_second_in_the_end(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.lacking = "not yet"
    made = supervised(world, structs.replace(A, ready="exec:ask"))
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        await trio.sleep(60)
        await made.stop()
    pauses = [round(later - earlier, 6) for earlier, later in pairwise(world.asked)]
    assert pauses[0] == pytest.approx(readiness._FIRST_PAUSE)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(1.0)


async def test_who_is_not_ready_in_its_time_is_told_once_and_may_still_be(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.lacking = "no answer"
    world.sockets = frozenset({Listening("127.0.0.1", 80)})
    made = supervised(world, structs.replace(A, ready="http", ready_timeout=60.0))
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        begun = trio.current_time()
        await trio.sleep(200)
        (notice,) = [event for event in world.events if isinstance(event, Notice)]
        assert notice.at - begun == pytest.approx(60)
        assert notice.text == "not ready after 60 s: no answer"
        assert world.states() == [State.STARTING]
        world.lacking = ""
        await made.wait_ready()
        await made.stop()


async def test_a_delay_is_waited_for(world: World, autojump_clock: trio.testing.MockClock) -> None:
    made = supervised(world, structs.replace(A, ready="delay:7"))
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        await made.wait_ready()
        await made.stop()
    assert world.when("a", State.READY) - world.when("a", State.STARTING) == pytest.approx(7)


async def test_waiting_for_readiness_has_an_end(world: World, autojump_clock: trio.testing.MockClock) -> None:
    made = supervised(world, structs.replace(A, ready="log:never"))
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        begun = trio.current_time()
        with pytest.raises(StartError, match="is not ready after 30 s"):
            await made.wait_ready(timeout=30)
        assert trio.current_time() - begun == pytest.approx(30)
        await made.stop()


async def test_three_silences_two_seconds_apart_are_an_illness(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.sockets = frozenset({Listening("127.0.0.1", 80)})
    made = supervised(world, structs.replace(A, ready="http", liveness=True))
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        await made.wait_ready()
        ready = trio.current_time()
        await trio.sleep(60.5)
        world.lacking = "silence"
        await trio.sleep(60)
        assert world.when("a", State.UNHEALTHY) - ready == pytest.approx(66)
        world.lacking = ""
        await trio.sleep(2.1)
        assert world.states()[-1] is State.READY
        await made.stop()


async def test_a_hook_has_two_seconds(world: World, autojump_clock: trio.testing.MockClock) -> None:
    async def never(_name: str) -> None:
        await trio.sleep_forever()

    made = supervised(world, A, before_stop=never)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        await made.wait_ready()
        await made.stop()
    assert world.when("a", State.STOPPED) - world.when("a", State.STOPPING) == pytest.approx(2)


@pytest.mark.parametrize(("heeds", "seconds"), [(True, 0), (False, 5)])
async def test_all_of_one_level_have_their_stop_timeout_together(
    world: World, *, heeds: bool, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    world.heeds = heeds
    made = supervised(world, *(structs.replace(A, name=f"p{number}") for number in range(10)))
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        await made.wait_ready()
        begun = trio.current_time()
        await made.stop()
        assert trio.current_time() - begun == pytest.approx(seconds, abs=0.01)


async def test_all_levels_together_take_two_stop_timeouts_at_most(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    from orchestra import Condition, Dependency

    world.heeds = False
    plans = [structs.replace(A, name="p0")]
    for number in range(1, 6):
        needs = (Dependency(f"p{number - 1}", Condition.STARTED),)
        plans.append(structs.replace(A, name=f"p{number}", depends_on=needs))
    made = supervised(world, *plans)
    async with trio.open_nursery() as nursery:
        await nursery.start(made.run)
        await made.wait_ready()
        begun = trio.current_time()
        await made.stop()
        assert trio.current_time() - begun == pytest.approx(10, abs=0.01)
    assert world.when("p5", State.STOPPING) == pytest.approx(begun)
    assert {round(world.when(f"p{number}", State.STOPPING) - begun, 2) for number in range(5)} == {5.0}


async def test_a_restart_never_is_none(world: World, autojump_clock: trio.testing.MockClock) -> None:
    world.lasts = 1.0
    await supervised(world, structs.replace(A, restart=Restart.NEVER)).run()
    assert len(world.spawned) == 1
