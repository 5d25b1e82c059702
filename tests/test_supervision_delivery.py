"""Where a simulated child's lines go: to its log file, the sinks and the bus.

On the usual clock: files are written in threads, for which no other clock would wait.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.process_kit import linux_only
from tests.simulation_kit import World, supervised, waiting

if TYPE_CHECKING:
    from tests.simulation_kit import Child


async def talks(child: Child) -> int:
    await child.say("one", "two")
    await child.say("three", stream="stderr")
    return 0


async def test_lines_are_in_the_log_file_when_they_are_published(tmp_path: Path) -> None:
    world, log = World(), tmp_path / "a.log"
    world.programs["talks"] = talks
    async with supervised(world, waiting("a", command="talks", log_file=log)) as (_, recorder):
        await recorder.until_line("two")
        assert log.read_text().startswith("one\ntwo\n")
        await recorder.until_line("three")
    assert log.read_text() == "one\ntwo\nthree\n"


@linux_only
async def test_a_log_file_that_breaks_is_said_once_and_is_exit_status_2() -> None:
    world = World()
    world.programs["talks"] = talks
    plan = waiting("a", command="talks", log_file=Path("/dev/full"))
    async with supervised(world, plan) as (supervisor, recorder):
        await recorder.until_line("three")
    assert supervisor.ended is not None
    assert (supervisor.ended.exit_code, supervisor.ended.reason) == (2, "a log file could not be written to")
    assert recorder.notices() == ["log-broken"]
    assert recorder.output("a") == ["one", "two", "three"]
