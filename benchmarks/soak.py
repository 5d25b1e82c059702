"""Everything at once for ten minutes: nothing may fail, and nothing may grow."""

from __future__ import annotations

import contextlib
import statistics
import time
from typing import TYPE_CHECKING

from benchmarks.harness import MIB, Report
from benchmarks.peers import mixed_site, program, serving
from benchmarks.rates import wrk
from benchmarks.transfer import download, event_stream, ping_pong, upload, websocket_to

if TYPE_CHECKING:
    from benchmarks.harness import Options, Running

__all__ = ["soak"]

SECONDS = 600.0
# What is open all the time, of each kind, and what is opened and left in each turn.
KEPT, LEFT = 20, 50
# Between the first tenth of the time, when everything has been used once, and the end.
GROWTH = 4.0
# Idle connections to upstreams, which the proxy may have or not.
POOL = 64


def soak(options: Options) -> Report:
    """Repeat a turn of everything; compare the beginning with the end."""
    program("wrk")
    report = Report()
    seconds = options.seconds or options.pick(SECONDS, 20.0)
    with serving(mixed_site(), "api", options, only=("orchestra",)) as served, contextlib.ExitStack() as kept:
        port, running = served["orchestra"].port, served["orchestra"].running
        assert running is not None
        for _ in range(KEPT):
            kept.enter_context(event_stream(port))
            kept.enter_context(websocket_to(port))
        turns: list[tuple[float, float, int]] = []
        requests, begun = 0, time.monotonic()
        while time.monotonic() - begun < seconds:
            asked, rate = _turn(port)
            requests += asked
            turns.append((rate, *_rest(running)))
        early = turns[len(turns) // 10 : len(turns) // 10 + max(len(turns) // 10, 1)]
        late = turns[-len(early) :]
    growth = statistics.median(turn[1] for turn in late) - statistics.median(turn[1] for turn in early)
    fds = [turn[2] for turn in early], [turn[2] for turn in late]
    rates = [statistics.median(turn[0] for turn in part) for part in (early, late)]
    report.figures["soak: MiB grown, orchestra"] = [growth]
    what = f"soak of {seconds:,.0f} s, {len(turns)} turns, {requests:,} requests"
    report.table(
        what,
        ["what", "found", "bound", "kept"],
        [
            report.bound("failures", "0", "0", is_kept=True),
            report.bound("memory", f"{growth:+.1f} MiB", f"< {GROWTH:g} MiB", is_kept=growth < GROWTH),
            report.bound(
                "descriptors",
                f"{max(fds[0])}, then {max(fds[1])}",
                f"at most {POOL} more",
                is_kept=max(fds[1]) <= max(fds[0]) + POOL,
            ),
            ["requests/s", f"{rates[0]:,.0f}, then {rates[1]:,.0f}", "", ""],
        ],
    )
    return report


def _turn(port: int) -> tuple[int, float]:
    """Use everything once; return the number of requests, and how many a second there were."""
    requests = 0
    load = wrk(port, "/api/items/1", connections=16, seconds=2)
    requests += load.requests + wrk(port, "/src/module.js", connections=16, seconds=2).requests
    download(port, 16 * MIB)
    upload(port, 16 * MIB)
    ping_pong(port, 64, 8, 0.2)
    with contextlib.ExitStack() as left:
        for _ in range(LEFT):
            left.enter_context(event_stream(port))
            left.enter_context(websocket_to(port))
    return requests, load.rate


def _rest(running: Running) -> tuple[float, int]:
    """Let what was left be noticed; return MiB and descriptors."""
    time.sleep(0.5)
    return running.pss(), running.fds()
