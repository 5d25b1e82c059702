"""CPU time and memory of each child, with everything that it has started.

One read of the process table serves all children, in a worker thread: it takes some ms. Not here: how often.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from orchestra.child import table
from orchestra.events import ProcessMeasured

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Meter"]


class Meter:
    """Measures the same processes repeatedly."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[int, float], float] = {}  # CPU seconds, by pid and start time
        self._looked_at = 0.0

    def look(self, leaders: Mapping[str, int]) -> list[ProcessMeasured]:
        """Measure the sessions of `leaders` (pids by name); blocks. One that has ended is left out.

        At the first look, the CPU is not known, and 0.

        Raises:
            OSError: The process table cannot be read.
        """
        import psutil  # noqa: PLC0415 - where it is used: most runs are not looked at

        now, entries = time.monotonic(), list(table.take())
        elapsed, self._looked_at = now - self._looked_at, now
        before, self._seconds = self._seconds, {}
        found = []
        for name, leader in leaders.items():
            busy, memory = 0.0, 0
            for pid in table.tree(entries, leader):
                with contextlib.suppress(psutil.Error, OSError):
                    process = psutil.Process(pid)
                    times, key = process.cpu_times(), (pid, process.create_time())
                    memory += process.memory_info().rss
                    seconds = self._seconds[key] = times.user + times.system
                    busy += max(seconds - before.get(key, seconds), 0.0)
            if memory:
                found.append(ProcessMeasured(process=name, cpu=round(busy / elapsed, 3), memory=memory))
        return found
