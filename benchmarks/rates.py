"""Requests a second, latency, CPU and memory of every peer: what `wrk` and the kernel say.

*api* is what the backend answers with 200, *asset* what it answers with 404, so that the frontend is asked
(orchestra's memo of such paths is off). Heads are plain (`Host` alone) or a browser's (14 lines).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.harness import HERE, Failed, Report, checked, interleaved
from benchmarks.peers import PEERS, nginx_site, program, serving

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.harness import Options
    from benchmarks.peers import Served

__all__ = ["http", "wrk"]

PATHS = {"api": "/api/items/1", "asset": "/src/module.js"}


class Shape(NamedTuple):
    """What is asked for, with which heads, over how many connections."""

    path: str
    heads: str
    connections: int

    def __str__(self) -> str:
        plural = "" if self.connections == 1 else "s"
        return f"{self.path}, {self.heads} heads, {self.connections} connection{plural}"


SHAPES = (
    Shape("api", "plain", 1),
    Shape("api", "plain", 8),
    Shape("api", "plain", 64),
    Shape("api", "browser", 1),
    Shape("api", "browser", 8),
    Shape("asset", "plain", 8),
    Shape("asset", "plain", 64),
    Shape("asset", "browser", 8),
)
UNITS = {"requests/s": "{:,.0f}", "p50 µs": "{:,.0f}", "p99 µs": "{:,.0f}", "CPU µs": "{:,.0f}"}


@dataclass(frozen=True, slots=True)
class Load:
    """What `wrk` has measured; the latencies are microseconds."""

    requests: int
    rate: float
    p50: float
    p99: float


def wrk(port: int, path: str, *, connections: int, seconds: int, heads: str = "browser") -> Load:
    """Send the same request over and over.

    Raises:
        Failed: Something was not answered by 2xx or 3xx, or not at all.
    """
    command = [program("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    command += ["-s", str(HERE / "programs/heads.lua"), f"http://127.0.0.1:{port}{path}", "--", heads]
    told = json.loads(checked(command, limit=seconds + 60).splitlines()[-1])
    if told["failed"] or not told["requests"]:
        raise Failed(f"{told['failed']} of {told['requests']} requests to {path} failed")
    return Load(told["requests"], told["requests"] / told["microseconds"] * 1e6, told["p50"], told["p99"])


def http(options: Options) -> Report:
    """Measure all shapes of all peers."""
    program("wrk")
    report = Report()
    with serving(nginx_site(), "api", options) as served:
        for shape in SHAPES:
            able = [name for name in served if name == "direct" or shape.path in PEERS[name].can]
            measure = partial(_measured, served, shape, options.pick(2, 1))
            report.compare(str(shape), interleaved(able, measure, rounds=options.round_count(5)), UNITS)
        memory = {name: {"MiB (PSS)": [each.running.pss()]} for name, each in served.items() if each.running}
        report.compare("memory after that", memory, {"MiB (PSS)": "{:.0f}"})
    return report


def _measured(served: Mapping[str, Served], shape: Shape, seconds: int, name: str) -> dict[str, float]:
    peer = served[name]
    port = peer.frontend if shape.path == "asset" else peer.port
    before = peer.cpu()
    load = wrk(port, PATHS[shape.path], connections=shape.connections, seconds=seconds, heads=shape.heads)
    cpu = (peer.cpu() - before) / load.requests * 1e6
    figures = {"requests/s": load.rate, "p50 µs": load.p50, "p99 µs": load.p99}
    return {**figures, "CPU µs": cpu} if peer.running else figures
