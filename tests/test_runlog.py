"""The log that outlives a run: what is in it, and how much of it waits."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from orchestra import Plan
from orchestra.dashboard.runlog import newest, run_log
from orchestra.events import OutputLine
from orchestra.logs import moment, read_log
from tests.kit import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LINES = 50_000


def texts_of(plan: Plan, environ: Mapping[str, str]) -> list[str]:
    """The lines of output in the log of a run."""
    found = newest(plan.root, environ)
    assert found is not None
    return [each.text for each in read_log(found) if isinstance(each, OutputLine)]


@pytest.fixture
def standing_clock() -> trio.testing.MockClock:
    """No time passes: what waits for it waits for ever."""
    return trio.testing.MockClock()


async def fail_late() -> None:
    """Fail after a real while: no ceiling is ever reached by a clock that stands."""
    await trio.to_thread.run_sync(time.sleep, PATIENCE / 4, abandon_on_cancel=True)
    pytest.fail("it waits for time to pass")


async def test_a_loud_process_does_not_wait_for_time_to_pass(
    standing_clock: trio.testing.MockClock, tmp_path: Path
) -> None:
    assert standing_clock.rate == 0
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    plan = Plan(processes=(), procfile=tmp_path / "Procfile")
    log = run_log(plan, environ)
    (write_lines,) = log.sinks
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail_late)
        nursery.start_soon(log.run)
        for number in range(LINES):
            await write_lines([OutputLine(process="a", stream="stdout", text=f"\x1b[1m{number}")])
        await log.aclose()
        nursery.cancel_scope.cancel()
    lines = texts_of(plan, environ)
    # Its older half has been replaced meanwhile, perhaps; no line of the rest is missing.
    assert lines == [f"\x1b[1m{number}" for number in range(LINES - len(lines), LINES)]
    assert len(lines) > LINES / 2


async def test_a_reader_that_leaves_loses_no_line(tmp_path: Path) -> None:
    """Another terminal may close its connection while what waits is written for it."""
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    plan = Plan(processes=(), procfile=tmp_path / "Procfile")
    log = run_log(plan, environ)
    (write_lines,) = log.sinks
    await write_lines([OutputLine(process="a", stream="stdout", text="hello")])
    with trio.move_on_after(0):
        await log.past()
    await log.aclose()
    assert texts_of(plan, environ) == ["hello"]


async def test_a_reader_that_leaves_before_anything_is_written_loses_no_line(tmp_path: Path) -> None:
    """All threads may be in use."""
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    plan = Plan(processes=(), procfile=tmp_path / "Procfile")
    log = run_log(plan, environ)
    (write_lines,) = log.sinks
    await write_lines([OutputLine(process="a", stream="stdout", text="hello")])
    threads = trio.to_thread.current_default_thread_limiter()
    threads.total_tokens = 1
    async with threads, trio.open_nursery() as nursery:
        nursery.start_soon(log.past)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await write_lines([OutputLine(process="a", stream="stdout", text="later")])
    await log.aclose()
    assert texts_of(plan, environ) == ["hello", "later"]


@pytest.mark.parametrize("ahead", [-120, 120])
def test_a_time_of_the_day_is_the_last_one(ahead: int) -> None:
    now = datetime.now(UTC)
    asked = now.astimezone() + timedelta(seconds=ahead)
    found = moment(f"{asked:%H:%M}")
    assert (found.hour, found.minute) == (asked.hour, asked.minute)
    assert now - timedelta(days=1, minutes=1) < found <= datetime.now(UTC)
