"""Idle connections to an upstream: which are kept, and which are dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from orchestra.proxy.connection import UpstreamConnection
from orchestra.proxy.head import HeadReader
from orchestra.proxy.pool import Pool
from tests.proxy_kit import memory_pair

if TYPE_CHECKING:
    from tests.proxy_kit import MemoryTransport


def a_side() -> tuple[UpstreamConnection, MemoryTransport]:
    ours, theirs = memory_pair()
    return UpstreamConnection(ours, HeadReader()), theirs


def test_the_newest_connection_is_taken_first() -> None:
    pool = Pool(4)
    sides = [a_side()[0] for _ in range(3)]
    for now, side in enumerate(sides):
        pool.put(side, now)
    assert [pool.take(2) for _ in range(4)] == [*reversed(sides), None]


def test_beyond_its_limit_the_oldest_one_goes() -> None:
    pool = Pool(1)
    (old, far), (new, _) = a_side(), a_side()
    pool.put(old, 0)
    pool.put(new, 0)
    assert far.has_input()
    assert pool.take(0) is new


@pytest.mark.parametrize(("idle", "is_kept"), [(0.0, True), (3.9, True), (4.0, False), (60.0, False)])
def test_what_vite_is_about_to_close_is_not_used(idle: float, *, is_kept: bool) -> None:
    pool = Pool(1)
    side, far = a_side()
    pool.put(side, 100)
    assert (pool.take(100 + idle) is side) is is_kept
    assert far.has_input() is not is_kept


def test_a_sweep_drops_the_old_and_keeps_the_young() -> None:
    pool = Pool(4)
    pool.put(a_side()[0], 0)
    young, _ = a_side()
    pool.put(young, 3)
    pool.sweep(5)
    assert len(pool) == 1
    assert pool.take(5) is young


async def test_a_closed_or_unexpectedly_talking_connection_is_dropped() -> None:
    pool = Pool(4)
    (ended, far_of_ended), (talking, far_of_talking), (good, _) = a_side(), a_side(), a_side()
    for side in (good, ended, talking):
        pool.put(side, 0)
    far_of_ended.close()
    await far_of_talking.send_all(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert pool.take(0) is good
    assert len(pool) == 0


def test_a_pool_explains_itself() -> None:
    pool = Pool(2)
    for _ in range(3):
        pool.put(a_side()[0], 0)
    assert repr(pool) == "<Pool: 2 of 2 idle, 1 dropped>"
    pool.clear()
    assert repr(pool) == "<Pool: 0 of 2 idle, 3 dropped>"
