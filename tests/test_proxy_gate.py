"""Can an upstream be asked? What is reported, which requests wait, and which need not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from orchestra.bus import Bus
from orchestra.config.plan import UNDECIDED, Address, FromProcess
from orchestra.events import RequestHeld, RequestReleased, State, StateChanged
from orchestra.proxy import gate as gate_module
from orchestra.proxy.connection import Endpoint
from orchestra.proxy.framing import NO_BODY
from orchestra.proxy.record import Record
from orchestra.proxy.route import Availability, Unavailable
from tests.proxy_kit import an_upstream, request_head

if TYPE_CHECKING:
    from orchestra.config.plan import UpstreamPlan
    from orchestra.events import Event
    from orchestra.proxy.gate import Gate

API = FromProcess(name="api")
URL = "http://[::1]:5173"


def a_request(gate: Gate) -> Record:
    """A request that has 100 bytes."""
    return Record(gate._shared.bus, 1, request_head(b"GET", b"/" + b"x" * 99, []), NO_BODY)


async def wait(gate: Gate, request: Record) -> Availability:
    try:
        await gate.wait_ready(request)
    except Unavailable as exc:
        return exc.availability
    return Availability.READY


def a_gate(plan: UpstreamPlan = API) -> tuple[Gate, list[Event]]:
    events: list[Event] = []
    bus = Bus()
    bus.subscribe(events.append)
    return an_upstream(plan, bus, tail=("says why",)).gate, events


def now(gate: Gate) -> Availability:
    return gate.availability


def report(gate: Gate, state: State, *, process: str = "api", **more: Any) -> None:
    gate.observe(StateChanged(process=process, state=state, previous=State.WAITING, **more))


def test_it_opens_at_the_found_address_when_the_process_is_ready() -> None:
    gate, _ = a_gate()
    assert now(gate) is Availability.HOLD
    report(gate, State.STARTING)
    assert gate.endpoint is None
    report(gate, State.READY, url=URL)
    assert now(gate) is Availability.READY
    assert gate.endpoint == Endpoint("api", Address("::1", 5173))
    assert Address("::1", 5173).url == URL


def test_events_of_other_processes_do_not_matter() -> None:
    gate, _ = a_gate()
    report(gate, State.READY, process="vite", url=URL)
    assert now(gate) is Availability.HOLD


def test_something_that_runs_elsewhere_is_there_until_it_refuses() -> None:
    gate, _ = a_gate(Address(host="10.0.0.1", port=99))
    assert now(gate) is Availability.READY
    assert gate.endpoint == Endpoint(None, Address("10.0.0.1", 99))
    assert not gate.is_supervised
    assert "http://10.0.0.1:99" in str(gate.unavailable())
    endpoint = gate.endpoint
    for found in (Availability.HOLD, Availability.FAIL):
        gate.report_outage(endpoint, found)
        assert (now(gate), gate.endpoint) == (found, endpoint)
    gate.report_outage(Endpoint(None, Address("10.0.0.2", 99)), None)
    assert now(gate) is Availability.FAIL
    gate.report_outage(endpoint, None)
    assert now(gate) is Availability.READY


def test_what_is_not_in_the_plan_is_absent() -> None:
    gate, events = a_gate(None)
    assert now(gate) is Availability.ABSENT
    assert str(gate.unavailable()) == "there is no backend"
    assert events == []


def test_what_ended_after_it_was_ready_is_waited_for() -> None:
    gate, _ = a_gate()
    for state in (State.STARTING, State.READY, State.BACKING_OFF):
        report(gate, state, url=URL)
    assert now(gate) is Availability.HOLD
    assert gate.endpoint is None
    report(gate, State.STARTING)
    assert now(gate) is Availability.HOLD


def test_a_process_that_ended_before_ready_is_not_waited_for() -> None:
    gate, _ = a_gate()
    for state in (State.STARTING, State.READY, State.BACKING_OFF, State.STARTING):
        report(gate, state, url=URL)
    report(gate, State.BACKING_OFF, ended_before_ready=True)
    assert now(gate) is Availability.FAIL
    report(gate, State.STARTING, ended_before_ready=True)
    assert now(gate) is Availability.FAIL
    report(gate, State.READY, url=URL)
    assert now(gate) is Availability.READY


def test_a_refusal_names_process_state_and_last_lines() -> None:
    gate, _ = a_gate()
    report(gate, State.FAILED, reason="exit code 3")
    refusal = gate.unavailable()
    assert str(refusal) == "api has failed: exit code 3"
    assert refusal.tail == ("api says why",)


async def test_a_request_waits_until_the_process_is_ready(autojump_clock: trio.testing.MockClock) -> None:
    gate, events = a_gate()
    report(gate, State.STARTING)
    request = a_request(gate)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def becomes_ready() -> None:
            await trio.sleep(3)
            report(gate, State.READY, url=URL)

        assert await wait(gate, request) is Availability.READY
    assert request.held == pytest.approx(3)
    held, released = events
    assert isinstance(held, RequestHeld)
    assert (held.upstream, held.reason) == ("backend", "api is starting")
    assert isinstance(released, RequestReleased)
    assert (released.upstream, released.outcome, released.held) == ("backend", "ready", request.held)


async def test_waiting_has_an_end(autojump_clock: trio.testing.MockClock) -> None:
    gate, _ = a_gate()
    request = a_request(gate)
    for _ in range(2):
        assert await wait(gate, request) is Availability.HOLD
        assert request.held == pytest.approx(15)


async def test_the_end_of_the_process_ends_the_waiting(autojump_clock: trio.testing.MockClock) -> None:
    gate, _ = a_gate()
    report(gate, State.STARTING)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def dies() -> None:
            await trio.sleep(2)
            report(gate, State.BACKING_OFF, ended_before_ready=True)

        request = a_request(gate)
        assert await wait(gate, request) is Availability.FAIL
    assert request.held == pytest.approx(2)


@pytest.mark.parametrize(
    ("limit", "value", "text"),
    [
        ("MAX_WAITING", 2, "2 requests wait for it already"),
        ("MAX_WAITING_BYTES", 250, "200 bytes of requests wait for it already"),
    ],
)
async def test_only_so_many_may_wait(
    limit: str,
    value: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    monkeypatch.setattr(gate_module, limit, value)
    gate, _ = a_gate()
    requests = [a_request(gate) for _ in range(3)]
    said: list[str] = []

    async def wait_and_fail(request: Record) -> None:
        with pytest.raises(Unavailable) as caught:
            await gate.wait_ready(request)
        said.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        for request in requests:
            nursery.start_soon(wait_and_fail, request)
    assert said[0] == f"api is not started; {text}"
    assert sorted(round(request.held) for request in requests) == [0, 15, 15]


async def test_an_undecided_upstream_is_waited_for_until_it_is_decided(
    autojump_clock: trio.testing.MockClock,
) -> None:
    gate, _ = a_gate(UNDECIDED)
    assert now(gate) is Availability.HOLD
    report(gate, State.READY, url=URL)
    assert not gate.members
    request = a_request(gate)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def is_decided() -> None:
            await trio.sleep(2)
            gate.decide(API, reason="it answers HTTP")

        assert await wait(gate, request) is Availability.READY
    assert gate.members == ("api",)
    assert gate.endpoint == Endpoint("api", Address("::1", 5173))


def test_what_was_found_stays() -> None:
    gate, _ = a_gate(UNDECIDED)
    gate.decide(None, reason="none of worker answers HTTP")
    assert now(gate) is Availability.ABSENT
    assert str(gate.unavailable()) == "no backend: none of worker answers HTTP"
    # It answers late.
    gate.decide(API)
    gate.decide(None)
    assert gate.members == ("api",)


def test_a_second_server_is_asked_while_it_is_there() -> None:
    """Whatever has become of the first one."""
    gate, _ = a_gate(FromProcess(name="api", is_second=True))
    assert now(gate) is Availability.HOLD
    report(gate, State.READY, url="http://127.0.0.1:8001")
    assert now(gate) is Availability.HOLD
    for state in (State.READY, State.STARTING, State.UNHEALTHY):
        report(gate, state, second_url=URL)
        assert gate.endpoint == Endpoint("api", Address("::1", 5173))
    report(gate, State.STOPPING)
    assert now(gate) is Availability.HOLD
    report(gate, State.FAILED, ended_before_ready=True)
    assert now(gate) is Availability.FAIL


INSTANCES = FromProcess(name="api", instances=("api.1", "api.2"))


def test_one_instance_that_is_ready_is_enough() -> None:
    gate, _ = a_gate(INSTANCES)
    assert now(gate) is Availability.HOLD
    report(gate, State.BACKING_OFF, process="api.1", ended_before_ready=True)
    assert now(gate) is Availability.HOLD
    report(gate, State.READY, process="api.2", url=URL)
    assert gate.endpoint == Endpoint("api.2", Address("::1", 5173))
    report(gate, State.FAILED, process="api.2")
    assert now(gate) is Availability.FAIL
    assert str(gate.unavailable()).startswith("api.1 has ")


def test_a_gate_says_what_it_is() -> None:
    assert repr(a_gate()[0]) == "<Gate backend: api, hold, 0 waiting>"
    assert repr(a_gate(UNDECIDED)[0]) == "<Gate backend: not decided yet, hold, 0 waiting>"
