"""Is an upstream there? What is reported, who waits, who need not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from orchestra.config.plan import UNDECIDED, AtUrl, FromProcess
from orchestra.events import Bus, Notice, OutputLine, State, StateChanged
from orchestra.proxy.gate import Address, Gate, Hold
from orchestra.proxy.route import Standing

if TYPE_CHECKING:
    from orchestra.config.plan import UpstreamPlan
    from orchestra.events import Event

API = FromProcess(name="api")
URL = "http://[::1]:5173"


def a_gate(plan: UpstreamPlan = API, **settings: Any) -> tuple[Gate, list[Event]]:
    events: list[Event] = []
    bus = Bus()
    bus.subscribe(events.append)
    settings.setdefault("clock", lambda: 0.0)
    return Gate("backend", plan, bus=bus, **settings), events


def report(gate: Gate, state: State, *, process: str = "api", **more: Any) -> None:
    gate.observe(StateChanged(process=process, state=state, previous=State.WAITING, **more))


def test_it_opens_when_the_process_is_ready_at_the_address_that_was_found() -> None:
    gate, _ = a_gate()
    assert gate.standing(0) is Standing.HOLD
    report(gate, State.STARTING)
    assert gate.addresses() == {}
    report(gate, State.READY, url=URL)
    assert gate.standing(0) is Standing.READY
    assert gate.addresses() == {"api": Address("::1", 5173)}
    assert str(gate.addresses()["api"]) == URL


def test_events_of_other_processes_do_not_matter() -> None:
    gate, _ = a_gate()
    report(gate, State.READY, process="vite", url=URL)
    assert gate.standing(0) is Standing.HOLD


def test_something_that_runs_elsewhere_is_always_there() -> None:
    gate, _ = a_gate(AtUrl(host="10.0.0.1", port=99))
    assert gate.standing(0) is Standing.READY
    assert gate.addresses() == {None: Address("10.0.0.1", 99)}
    assert not gate.is_supervised
    assert "http://10.0.0.1:99" in gate.refusal(0).text


def test_who_died_after_it_was_ready_is_waited_for() -> None:
    gate, _ = a_gate()
    for state in (State.STARTING, State.READY, State.BACKING_OFF):
        report(gate, state, url=URL)
    assert gate.standing(0) is Standing.HOLD
    assert gate.addresses() == {}
    report(gate, State.STARTING)
    assert gate.standing(0) is Standing.HOLD


def test_who_died_before_it_was_ready_is_not_waited_for_until_it_is() -> None:
    gate, _ = a_gate()
    for state in (State.STARTING, State.READY, State.BACKING_OFF, State.STARTING, State.BACKING_OFF):
        report(gate, state, url=URL)
    assert gate.standing(0) is Standing.FAIL
    report(gate, State.STARTING)
    assert gate.standing(0) is Standing.FAIL
    report(gate, State.READY, url=URL)
    assert gate.standing(0) is Standing.READY


def test_a_refusal_names_the_process_its_state_and_its_last_lines_without_colours() -> None:
    gate, _ = a_gate()
    for number in range(30):
        line = f"\x1b[31mline {number}\x1b[0m"
        gate.observe(OutputLine(process="api", stream="stderr", text=line))
    gate.observe(OutputLine(process="vite", stream="stderr", text="other"))
    report(gate, State.FAILED, reason="exit code 3")
    refusal = gate.refusal(0)
    assert refusal.process == "api"
    assert refusal.text == "api is failed: exit code 3"
    assert refusal.tail == tuple(f"line {number}" for number in range(10, 30))


async def test_a_request_waits_until_the_process_is_ready(autojump_clock: trio.testing.MockClock) -> None:
    gate, _ = a_gate()
    report(gate, State.STARTING)
    hold = Hold(trio.current_time() + 15)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def becomes_ready() -> None:
            await trio.sleep(3)
            report(gate, State.READY, url=URL)

        assert await gate.wait_ready(hold) is Standing.READY
    assert hold.seconds == pytest.approx(3)


async def test_patience_ends(autojump_clock: trio.testing.MockClock) -> None:
    gate, _ = a_gate()
    hold = Hold(trio.current_time() + 15)
    assert await gate.wait_ready(hold) is Standing.HOLD
    assert hold.seconds == pytest.approx(15)
    assert await gate.wait_ready(hold) is Standing.HOLD
    assert hold.seconds == pytest.approx(15)


async def test_a_death_while_waiting_ends_the_waiting(autojump_clock: trio.testing.MockClock) -> None:
    gate, _ = a_gate()
    report(gate, State.STARTING)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def dies() -> None:
            await trio.sleep(2)
            report(gate, State.BACKING_OFF)

        hold = Hold(trio.current_time() + 15)
        assert await gate.wait_ready(hold) is Standing.FAIL
    assert hold.seconds == pytest.approx(2)


async def test_only_so_many_may_wait(autojump_clock: trio.testing.MockClock) -> None:
    gate, _ = a_gate(max_waiting=2)
    outcomes: list[tuple[Standing, float]] = []

    async def wait() -> None:
        hold = Hold(trio.current_time() + 15)
        outcomes.append((await gate.wait_ready(hold), hold.seconds))

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
    assert outcomes[0] == (Standing.HOLD, 0.0)
    assert [round(seconds) for _, seconds in outcomes[1:]] == [15, 15]


CANDIDATES = ("worker", "api")


def test_the_first_candidate_that_answers_is_adopted_for_the_run() -> None:
    gate, events = a_gate(UNDECIDED, candidates=CANDIDATES)
    assert gate.standing(0) is Standing.HOLD
    assert not gate.has("api")
    report(gate, State.READY, url=URL)
    report(gate, State.READY, process="worker", url="http://127.0.0.1:9")
    assert gate.has("api")
    assert not gate.has("worker")
    assert gate.addresses() == {"api": Address("::1", 5173)}
    (notice,) = events
    assert isinstance(notice, Notice)
    assert notice.text == "the backend is api: it was the first to answer HTTP"
    report(gate, State.BACKING_OFF)
    assert gate.standing(0) is Standing.HOLD


async def test_candidates_that_run_on_without_answering_are_no_upstream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gate, events = a_gate(UNDECIDED, candidates=CANDIDATES, clock=trio.current_time)
    start = trio.current_time()
    report(gate, State.COMPLETED, process="worker")
    report(gate, State.RUNNING)
    hold = Hold(start + 20)
    assert await gate.wait_ready(hold) is Standing.ABSENT
    assert hold.seconds == pytest.approx(15)
    assert await gate.wait_ready(hold) is Standing.ABSENT
    (notice,) = events
    assert isinstance(notice, Notice)
    assert notice.code == "no-backend"
    assert "set [proxy] backend" in notice.hint


def test_a_candidate_that_answers_late_is_still_adopted() -> None:
    gate, _ = a_gate(UNDECIDED, candidates=CANDIDATES)
    report(gate, State.RUNNING)
    report(gate, State.RUNNING, process="worker")
    assert gate.standing(14.9) is Standing.HOLD
    assert gate.standing(15) is Standing.ABSENT
    report(gate, State.READY, url=URL)
    assert gate.standing(19) is Standing.READY


def test_a_candidate_that_dies_early_is_shown_when_nobody_else_can_come() -> None:
    gate, _ = a_gate(UNDECIDED, candidates=CANDIDATES)
    report(gate, State.STARTING)
    report(gate, State.BACKING_OFF)
    assert gate.standing(0) is Standing.HOLD
    report(gate, State.COMPLETED, process="worker")
    assert gate.standing(0) is Standing.FAIL
    assert gate.refusal(0).process == "api"


INSTANCES = FromProcess(name="api", instances=("api.1", "api.2"))


def test_one_instance_that_is_ready_is_enough() -> None:
    gate, _ = a_gate(INSTANCES)
    assert gate.standing(0) is Standing.HOLD
    report(gate, State.BACKING_OFF, process="api.1")
    assert gate.standing(0) is Standing.HOLD
    report(gate, State.READY, process="api.2", url=URL)
    assert gate.standing(0) is Standing.READY
    assert gate.addresses() == {"api.2": Address("::1", 5173)}
    report(gate, State.FAILED, process="api.2")
    assert gate.standing(0) is Standing.FAIL
    assert gate.refusal(0).process == "api.1"


def test_a_candidate_is_adopted_with_all_its_instances() -> None:
    gate, _ = a_gate(UNDECIDED, candidates=("worker", "api.1", "api.2"))
    report(gate, State.READY, process="api.2", url=URL)
    assert [name for name in ("worker", "api.1", "api.2") if gate.has(name)] == ["api.1", "api.2"]


def test_a_gate_says_what_it_is() -> None:
    assert repr(a_gate()[0]) == "<Gate backend: api, 0 waiting>"
    assert repr(a_gate(UNDECIDED, candidates=CANDIDATES)[0]) == "<Gate backend: not known yet, 0 waiting>"
