"""How much of the machine each process takes, told every two seconds while an observer wants to know.

Not here: measuring (`child/usage`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from orchestra.child.usage import Meter
from orchestra.events import ProcessMeasured

if TYPE_CHECKING:
    from orchestra.supervision.run import Run

__all__ = ["measure"]

_INTERVAL = 2.0


async def measure(run: Run) -> None:
    """Measure the processes of a run until cancelled."""
    meter = Meter()
    while True:
        await trio.sleep(_INTERVAL)
        if not run.bus.wants(ProcessMeasured):
            continue
        leaders = {name: each.newest.pid for name, each in run.workers.items() if each.newest.pid is not None}
        with suppress(OSError):  # then it is not known
            found = await trio.to_thread.run_sync(meter.look, leaders, abandon_on_cancel=True)
            for name, usage in found.items():
                run.bus.emit(ProcessMeasured(process=name, cpu=round(usage.cpu, 3), memory=usage.memory))
