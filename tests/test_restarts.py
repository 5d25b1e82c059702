"""What clients that never retry see of a backend's restart: nothing, but that it takes a while.

The servers, clients and faults are those that `benchmarks/restarts.py` reports on at length.
"""

from __future__ import annotations

import pytest

from benchmarks import restarted
from benchmarks.faults import FAULTS

pytestmark = [pytest.mark.real, pytest.mark.ceiling(300)]

START = 0.5


@pytest.mark.parametrize("name", restarted.SERVERS)
async def test_a_restart_is_no_error(name: str) -> None:
    found = await restarted.measure(restarted.SERVERS[name], restarts=2, clients=8, start=START)
    assert found.faults() == [], found


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if not fault.is_long])
async def test_no_client_hangs_or_gets_half_an_answer_for_a_whole_one(
    name: str,
) -> None:
    await FAULTS[name].measure(start=START)
