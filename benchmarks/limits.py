"""What big bodies cost the proxy, and what thousands of clients that leave in the middle leave behind.

Linux only, for ``/proc``.

Strategy. Two views. From outside, a real ``orchestra run``: what the kernel says of its memory and its
descriptors. From inside, a `Proxy` in this process: its tasks and its objects can be counted (`visitors`).

What is compared is two moments of rest, at which no connection is left: before the visits and after them; for
memory, after a first tenth of the visits, when all that is made once has been made, and after the visits.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import trio

from benchmarks.harness import MIB, Failed, Report
from benchmarks.peers import Site, own_origin, serving
from benchmarks.visitors import BODY_GROWTH, KIB, KINDS, LOOK, PATIENCE, abort, download, inside, upload

if TYPE_CHECKING:
    from benchmarks.harness import Options, Running
    from benchmarks.peers import Served

__all__ = ["limits"]

# What the clients of a kind may leave behind: at 10,000, some 200 bytes each. An exchange that is kept by
# mistake is more than 3 KiB with what it refers to; what malloc and trio have at one time and not at another
# is a few hundred KiB in all.
LEFT_BEHIND = 2 * MIB


def limits(options: Options) -> Report:
    """Pass large bodies, have thousands of clients leave, and see what is left."""
    report = Report()
    count, size = options.pick(10_000, 300), options.pick(1024, 64) * MIB
    columns = ["what", "found", "bound", "kept"]
    with serving(Site(own_origin), "bodies", options, only=("orchestra",)) as served:
        rows = trio.run(_look_from_outside, served["orchestra"], report, count, size)
    report.table("from outside", columns, rows)
    report.table("from inside", columns, trio.run(_look_from_inside, report, count))
    return report


async def _look_from_inside(report: Report, count: int) -> list[list[str]]:
    rows = []
    async with inside() as view:
        for kind in KINDS:
            await abort(view.address, kind, count)
            left = await view.rest()
            what = f"{count:,} {kind} aborted"
            rows.append(report.bound(what, str(left), str(view.fresh), is_kept=left == view.fresh))
    return rows


async def _look_from_outside(served: Served, report: Report, count: int, size: int) -> list[list[str]]:
    assert served.running is not None
    address, view = ("127.0.0.1", served.port), _Outside(served.running)
    fresh, rows = await view.rest(), []
    for way, name in ((upload, "upload"), (download, "download")):
        for is_chunked, framing in ((False, "with a length"), (True, "chunked")):
            before = view.begin_peak()
            await way(address, size, is_chunked=is_chunked)
            growth = view.peak() - before
            what = f"peak memory, {size // MIB:,} MiB {name} {framing}"
            report.figures[f"{what}, orchestra"] = [growth / MIB]
            rows.append(report.bound(what, *_mib(growth, BODY_GROWTH), is_kept=growth < BODY_GROWTH))
    for kind in KINDS:
        await abort(address, kind, max(count // 10, 1))
        await view.rest()
        before = view.memory()
        await abort(address, kind, count)
        fds, what = await view.rest(), f"{count:,} {kind} aborted"
        growth = view.memory() - before
        rows.append(report.bound(f"descriptors, {what}", f"{fds}", f"{fresh}", is_kept=fds <= fresh))
        rows.append(report.bound(f"memory, {what}", *_mib(growth, LEFT_BEHIND), is_kept=growth < LEFT_BEHIND))
    return rows


def _mib(growth: int, bound: int) -> tuple[str, str]:
    return f"{growth / MIB:+.1f} MiB", f"< {bound / MIB:.0f} MiB"


class _Outside:
    """What the kernel says of the process of an ``orchestra run``."""

    def __init__(self, running: Running) -> None:
        self._process = psutil.Process(running.process.pid)

    async def rest(self) -> int:
        """Wait until no connection is left; return how many descriptors there are then."""
        deadline = trio.current_time() + PATIENCE
        while self._is_connected() and trio.current_time() < deadline:  # noqa: ASYNC110 - no event says it
            await trio.sleep(LOOK)
        return self._process.num_fds()

    def _is_connected(self) -> bool:
        connections = self._process.net_connections("tcp")
        return any(each.status != psutil.CONN_LISTEN for each in connections)

    def memory(self) -> int:
        """Return how many bytes are its own, what it shares with others counted in part (PSS)."""
        pss: int = self._process.memory_full_info().pss
        return pss

    def begin_peak(self) -> int:
        """Have the kernel look for the peak from now on; return how much memory there is now."""
        # proc_pid_clear_refs(5): 5 resets the peak resident set size to the present one.
        Path(f"/proc/{self._process.pid}/clear_refs").write_text("5")
        rss: int = self._process.memory_info().rss
        return rss

    def peak(self) -> int:
        """Return how much resident memory there was at most since `begin_peak`."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * KIB
        raise Failed("the kernel does not say how much memory there was")
