"""How much clients see of many restarts of every server, and of all faults that a backend may have."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from benchmarks.faults import FAULTS
from benchmarks.harness import Failed, Report
from benchmarks.restarted import SERVERS, measure

if TYPE_CHECKING:
    from benchmarks.harness import Options

__all__ = ["restarts"]

_COLUMNS = (
    "",
    "requests",
    "failed GETs: others / cut short",
    "failed POSTs: not begun / lost / begun",
    "executed twice",
    "longest hold (held)",
    "longest request",
    "reloads (longest)",
)


def restarts(options: Options) -> Report:
    """Restart every server under traffic, then have everything go wrong that `faults` knows."""
    report, start = Report(), options.pick(2.0, 0.5)
    rows = []
    for name, server in SERVERS.items():
        found = trio.run(
            partial(measure, server, restarts=options.round_count(20, quick=2), clients=16, start=start)
        )
        report.failures += [f"{name}: {text}" for text in found.faults()]
        rows.append([name, *found.row()])
        print(", ".join(rows[-1]), flush=True)
    report.table("restarts, 16 clients that never ask twice", _COLUMNS, rows)
    rows = []
    for name, fault in FAULTS.items():
        if fault.is_long and options.is_quick:
            continue
        try:
            rows.append([name, trio.run(partial(fault.measure, start=start))])
        except Failed as exc:
            report.failures.append(f"{name}: {exc}")
    report.table("backends that hang or die", ["", "clients see"], rows)
    return report
