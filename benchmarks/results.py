"""What was found, kept between runs, and `RESULTS.md` with the goals beside what was reached.

Each part's figures are kept in the user's cache, with the date and the commit that they are of: they are of
this machine, and never mixed with another's.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import statistics
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import CACHE, HERE, Failed, checked
from benchmarks.peers import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.harness import Report

__all__ = ["keep", "write"]

_KEPT = CACHE / "results.json"

Figures = dict[str, list[float]]


# --- the goals ---


@dataclass(frozen=True, slots=True)
class Goal:
    """Something to reach.

    Attributes:
        what: What it is about.
        bound: The figure to reach, a factor or a value with its unit.
        value: Computes what was reached; raises `KeyError` if it was not measured.
        is_least: Whether it has to be at least that, else at most.
        unit: How the figure is written.
    """

    what: str
    bound: float
    value: Callable[[Figures], float]
    is_least: bool = True
    unit: str = "{:.2f}"

    def row(self, figures: Figures) -> list[str]:
        """Return its row of the table."""
        goal = f"{'≥' if self.is_least else '≤'} {self.unit.format(self.bound)}"
        try:
            value = self.value(figures)
        except (KeyError, statistics.StatisticsError):
            return [self.what, goal, "not measured", ""]
        is_reached = value >= self.bound if self.is_least else value <= self.bound
        return [self.what, goal, self.unit.format(value), "yes" if is_reached else "**no**"]


def _ratio(what: str, peer: str) -> Callable[[Figures], float]:
    """Return the median of the rounds' ratios to a peer: a busy machine disturbs both of a round alike."""

    def value(figures: Figures) -> float:
        pairs = zip(figures[f"{what}, orchestra"], figures[f"{what}, {peer}"], strict=False)
        return statistics.median(ours / theirs for ours, theirs in pairs)

    return value


def _median(what: str) -> Callable[[Figures], float]:
    return lambda figures: statistics.median(figures[what])


def _dashboard_ratio(figures: Figures) -> float:
    what = "lines of 1 process: lines/s, "
    return statistics.median(figures[f"{what}orchestra, dashboard"]) / statistics.median(
        figures[f"{what}honcho"]
    )


def _growth(figures: Figures) -> float:
    few, many = (_median(f"{_MEMORY}: MiB with {count}, orchestra")(figures) for count in (2, 10))
    return (many - few) / 8


def _stop_growth(figures: Figures) -> float:
    few, many = (_median(f"{_STOP}: {count}, orchestra")(figures) for count in (200, 400))
    return many / few


_API = "api, browser heads, 8 connections: requests/s"
_ASSET = "asset, browser heads, 8 connections: requests/s"
_BODIES = "bodies of 256 MiB"
_PAGE = "a page of 1,000 modules"
_MEMORY = "memory of the runner (PSS) and its CPU, processes asleep"
_STOP = "seconds to stop so many sleeping processes"
_TIMES = "{:.2f} x"
_AT_MOST: dict[str, Any] = {"is_least": False, "unit": _TIMES}

GOALS: Sequence[Goal] = (
    *(
        Goal(f"api requests/s beside {peer}", bound, _ratio(_API, peer), unit=_TIMES)
        for peer, bound in (("Vite", 7), ("ASGI + httpx", 20), ("node", 1.5), ("Caddy", 1.5), ("nginx", 0.6))
    ),
    *(
        Goal(f"asset requests/s beside {peer}", bound, _ratio(_ASSET, peer), unit=_TIMES)
        for peer, bound in (("nginx", 1.0), ("aiohttp", 1.7), ("ASGI + httpx", 20))
    ),
    Goal(
        "api p50 at one connection beside the raw splice",
        1.35,
        _ratio("api, browser heads, 1 connection: p50 µs", "raw splice"),
        **_AT_MOST,
    ),
    Goal("download beside nginx", 1.2, _ratio(f"{_BODIES}: MB/s down", "nginx"), unit=_TIMES),
    Goal("upload beside nginx", 1.0, _ratio(f"{_BODIES}: MB/s up", "nginx"), unit=_TIMES),
    *(
        Goal(
            f"WebSocket, {what}, beside the raw splice",
            0.9,
            _ratio(f"WebSocket: {what}", "raw splice"),
            unit=_TIMES,
        )
        for what in ("64 B ping-pong/s", "1 MiB messages/s")
    ),
    *(
        Goal(
            f"page of 1,000 modules beside Vite directly, {kind}",
            1.1,
            _ratio(f"{_PAGE}: {kind} ms", "direct"),
            **_AT_MOST,
        )
        for kind in ("cold", "reload")
    ),
    Goal(
        "the proxy's CPU for both",
        500,
        _median(f"{_PAGE}: CPU ms for both, orchestra"),
        is_least=False,
        unit="{:.0f} ms",
    ),
    Goal("lines of 1 process beside honcho", 5, _ratio("lines of 1 process: lines/s", "honcho"), unit=_TIMES),
    Goal("... with the dashboard drawing", 2, _dashboard_ratio, unit=_TIMES),
    Goal("... whole", 1, _median("lines of 1 process: whole, orchestra"), unit="{:.0%}"),
    Goal(
        "start to the first line beside a bare `import trio`",
        1.5,
        _ratio("start to the first line of a process: ms", "python -c 'import trio'"),
        **_AT_MOST,
    ),
    Goal(
        "memory with 10 processes",
        30,
        _median(f"{_MEMORY}: MiB with 10, orchestra"),
        is_least=False,
        unit="{:.1f} MiB",
    ),
    Goal("memory of each further process", 0.3, _growth, is_least=False, unit="{:.2f} MiB"),
    Goal(
        "CPU of 10 idle processes",
        0.3,
        _median(f"{_MEMORY}: % CPU with 10, orchestra"),
        is_least=False,
        unit="{:.1f} %",
    ),
    Goal("stop of 10 processes", 0.5, _median(f"{_STOP}: 10, orchestra"), is_least=False, unit="{:.2f} s"),
    Goal("stop of 200 processes beside honcho", 3, _ratio(f"{_STOP}: 200", "honcho"), **_AT_MOST),
    Goal("stop of 400 processes beside 200", 2.5, _stop_growth, **_AT_MOST),
)


# --- keeping and writing ---


def keep(part: str, report: Report) -> None:
    """Keep what a part has found, instead of what it found before."""
    kept = _kept()
    kept[part] = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": _commit(),
        "figures": report.figures,
        "tables": report.tables,
        "failures": report.failures,
    }
    _KEPT.parent.mkdir(parents=True, exist_ok=True)
    _KEPT.write_text(json.dumps(kept))


def write(order: Sequence[str]) -> None:
    """Write `RESULTS.md` from everything that is kept."""
    kept = _kept()
    figures: Figures = {}
    for part in kept.values():
        figures.update(part["figures"])
    lines = ["# Results", "", f"Written by `python -m benchmarks`. {_machine()}", "", _versions(), ""]
    lines += [
        "Median (least to greatest) of interleaved rounds; ratios are medians of the rounds' ratios.",
        "The load, the proxy and the servers behind it share the machine's cores.",
        "",
        "## Goals",
        "",
        "Requests are with a browser's head, over 8 connections, unless it says otherwise.",
        "",
        "| goal | bound | reached | |",
        "|---|---|---|---|",
        *("| " + " | ".join(goal.row(figures)) + " |" for goal in GOALS),
        "",
    ]
    for part in sorted(kept, key=lambda name: order.index(name) if name in order else len(order)):
        found = kept[part]
        lines += [f"## {part}", "", f"{found['date']}, commit {found['commit']}.", ""]
        lines += [line for table in found["tables"] for line in (table, "")]
        lines += [f"- Not kept: {failure}" for failure in found["failures"]]
    (HERE / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _kept() -> dict[str, Any]:
    with contextlib.suppress(OSError, ValueError):
        kept: dict[str, Any] = json.loads(_KEPT.read_text())
        return kept
    return {}


def _commit() -> str:
    with contextlib.suppress(Failed):
        return checked(["git", "rev-parse", "--short", "HEAD"], cwd=HERE).strip()
    return "unknown"


def _machine() -> str:
    cpu = platform.machine()
    with contextlib.suppress(OSError, IndexError):
        cpu = re.findall("model name\\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))[0]
    return f"Machine: {os.cpu_count()} cores ({cpu}), {platform.system()} {platform.release()}."


def _versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in ("orchestra-dev", "trio", "h11", "wsproto"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return f"Versions: {', '.join(found)}. Peers: {versions()}."
