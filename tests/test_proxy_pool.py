"""Idle connections to an upstream: which are kept, and which are dropped."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import pytest

from orchestra.config.plan import Address, FromProcess
from orchestra.events import State, StateChanged
from orchestra.proxy.connection import UpstreamConnection
from orchestra.proxy.head import HeadReader
from tests.proxy_kit import an_upstream, memory_pair

if TYPE_CHECKING:
    from orchestra.proxy.gate import Upstream
    from tests.proxy_kit import MemoryTransport


ELSEWHERE = Address("127.0.0.1", 8001)


def a_side(upstream: Upstream) -> tuple[UpstreamConnection, MemoryTransport]:
    ours, theirs = memory_pair()
    assert upstream.gate.endpoint is not None
    return UpstreamConnection(ours, HeadReader(), upstream, upstream.gate.endpoint), theirs


def test_the_newest_connection_is_taken_first() -> None:
    upstream = an_upstream(ELSEWHERE, limit=4)
    sides = [a_side(upstream)[0] for _ in range(3)]
    for now, side in enumerate(sides):
        upstream.give_back(side, now)
    assert [upstream.take(2) for _ in range(4)] == [*reversed(sides), None]


def test_beyond_its_limit_the_oldest_one_goes() -> None:
    upstream = an_upstream(ELSEWHERE, limit=1)
    (old, far), (new, _) = a_side(upstream), a_side(upstream)
    upstream.give_back(old, 0)
    upstream.give_back(new, 0)
    assert far.has_input()
    assert upstream.take(0) is new


@pytest.mark.parametrize(("idle", "is_kept"), [(0.0, True), (3.9, True), (4.0, False), (60.0, False)])
def test_what_vite_is_about_to_close_is_not_used(idle: float, *, is_kept: bool) -> None:
    upstream = an_upstream(ELSEWHERE, limit=1)
    side, far = a_side(upstream)
    upstream.give_back(side, 100)
    assert (upstream.take(100 + idle) is side) is is_kept
    assert far.has_input() is not is_kept


def test_a_sweep_drops_the_old_and_keeps_the_young() -> None:
    upstream = an_upstream(ELSEWHERE, limit=4)
    upstream.give_back(a_side(upstream)[0], 0)
    young, _ = a_side(upstream)
    upstream.give_back(young, 3)
    upstream.sweep(5)
    assert upstream.idle == [young]


async def test_a_closed_or_unexpectedly_talking_connection_is_dropped() -> None:
    upstream = an_upstream(ELSEWHERE, limit=4)
    (ended, far_of_ended), (talking, far_of_talking), (good, _) = (a_side(upstream) for _ in range(3))
    for side in (good, ended, talking):
        upstream.give_back(side, 0)
    far_of_ended.close()
    await far_of_talking.send_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert upstream.take(0) is good
    assert upstream.idle == []


def test_what_is_not_asked_any_more_is_dropped() -> None:
    """A process that is back at the same address is another one."""
    upstream = an_upstream(FromProcess(name="api"))

    def report(state: State) -> None:
        url = "http://127.0.0.1:8001"
        upstream.gate.observe(StateChanged(process="api", state=state, previous=state, url=url))
        upstream.sweep(0)

    report(State.READY)
    (idle, far), (used, far_of_used) = a_side(upstream), a_side(upstream)
    upstream.give_back(idle, 0)
    report(State.READY)
    assert not far.has_input()
    report(State.STOPPING)
    assert far.has_input()
    report(State.READY)
    upstream.give_back(used, 0)
    assert far_of_used.has_input()
    assert upstream.take(0) is None


def test_an_upstream_explains_itself() -> None:
    upstream = an_upstream(ELSEWHERE, limit=2)
    for _ in range(3):
        upstream.give_back(a_side(upstream)[0], 0)
    assert repr(upstream) == "<Upstream <Gate backend: 127.0.0.1:8001, ready, 0 waiting>, 2 of 2 idle>"
    upstream.sweep(inf)
    assert repr(upstream).endswith("0 of 2 idle>")
