"""What those who never ask twice see of a backend that is restarted: nothing, but that it takes a while.

The short form of `benchmarks/restarts.py`, with the same servers, clients and faults: fewer restarts, and a
backend that starts sooner.
"""

from __future__ import annotations

import pytest

from benchmarks import restarts
from benchmarks.faults import FAULTS
from benchmarks.restarts import SERVERS

pytestmark = [pytest.mark.real, pytest.mark.ceiling(300)]

START = 0.5


@pytest.mark.parametrize("name", SERVERS)
async def test_a_restart_is_no_error(name: str) -> None:
    found = await restarts.measure(SERVERS[name], restarts=2, clients=8, start=START)
    assert found.faults() == [], found


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if not fault.is_long])
async def test_a_backend_that_hangs_or_dies_keeps_nobody_waiting_and_passes_nothing_off_as_whole(
    name: str,
) -> None:
    await FAULTS[name].measure(start=START)
