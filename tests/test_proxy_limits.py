"""What big bodies cost the proxy, and what clients that leave in the middle leave behind: nothing.

The clients are those of which `benchmarks/limits.py` counts thousands, over real sockets.
"""

from __future__ import annotations

import gc
import sys
import tracemalloc
from typing import TYPE_CHECKING

import pytest

from benchmarks import visitors
from benchmarks.harness import MIB

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

COUNT = 150
# Blocks of memory; an exchange that is kept by mistake is some 50 of them. Scopes that are over stay in
# trio's heap of deadlines until many can be taken out at once: up to some 2,000 blocks in all come and go.
LEFT_BEHIND = COUNT * 20
# Three times of what a body may cost, so that no proxy that keeps it whole would pass.
BODY = 64 * MIB


@pytest.fixture
def _traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("kind", visitors.KINDS)
async def test_clients_that_leave_in_the_middle_leave_nothing_behind(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with visitors.inside() as view:
        # What is made once is made now.
        await visitors.abort(view.address, kind, COUNT)
        assert await view.rest() == view.fresh
        before = sys.getallocatedblocks()
        await visitors.abort(view.address, kind, COUNT)
        assert await view.rest() == view.fresh
        assert sys.getallocatedblocks() - before < LEFT_BEHIND
    assert not caplog.records


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with a length", "chunked"])
@pytest.mark.parametrize("way", [visitors.upload, visitors.download])
@pytest.mark.usefixtures("_traced")
async def test_a_body_costs_the_same_however_long_it_is(way: visitors.Way, *, is_chunked: bool) -> None:
    async with visitors.inside() as view:
        gc.collect()
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        # What the origin and the client have of it at a time is counted in.
        await way(view.address, BODY, is_chunked=is_chunked)
        assert tracemalloc.get_traced_memory()[1] - before < visitors.BODY_GROWTH
