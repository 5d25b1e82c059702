"""What was found, kept between runs, and `RESULTS.md` with the goals beside what was reached.

Each part's figures are kept in the user's cache, with the date and the commit that they are of. What was not
measured on this machine stays in `RESULTS.md` as it was written.
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
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import CACHE, HERE, Failed, checked
from benchmarks.peers import versions
from benchmarks.screens import WHAT

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
        value: Computes what was reached; raises `KeyError` or `ValueError` if it was not measured.
        is_least: Whether it has to be at least that, else at most.
        unit: How the figure is written.
    """

    what: str
    bound: float
    value: Callable[[Figures], float]
    is_least: bool = True
    unit: str = "{:.2f} x"

    def row(self, figures: Figures) -> list[str]:
        """Return its row of the table."""
        goal = f"{'≥' if self.is_least else '≤'} {self.unit.format(self.bound)}"
        try:
            value = self.value(figures)
        except (KeyError, ValueError):
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


def _quotient(dividend: str, divisor: str) -> Callable[[Figures], float]:
    """Return one median by another, where the rounds do not belong together."""
    return lambda figures: _median(dividend)(figures) / _median(divisor)(figures)


def _growth(figures: Figures) -> float:
    few, many = (_median(f"{_MEMORY}: MiB with {count}, orchestra")(figures) for count in (2, 10))
    return (many - few) / 8


def _peak(figures: Figures) -> float:
    return max(max(values) for what, values in figures.items() if what.startswith("peak memory, 1,024 MiB"))


_HTTP = "{}, browser heads, {}: {}"
_API = _HTTP.format("api", "8 connections", "requests/s")
_ASSET = _HTTP.format("asset", "8 connections", "requests/s")
_LATENCY = _HTTP.format("api", "1 connection", "p50 µs")
_BODIES = "bodies of 256 MiB: MB/s "
_PAGE = "a page of 1,000 modules: "
_LINES = "lines of 1 process: "
_MEMORY = "memory of the runner (PSS) and its CPU, processes asleep"
_SAVES = "from a save to the page that shows it: ms"
_STOP = "seconds to stop so many sleeping processes: "
_DRAWN = f"{WHAT}: {{}}, orchestra, dashboard"
_START = "start to the first line of a process: ms"

_most = partial(Goal, is_least=False)

GOALS: Sequence[Goal] = (
    Goal(
        "built assets a second beside uvicorn with StaticFiles",
        1,
        _ratio("asset of 20 KB, 8 connections: requests/s", "uvicorn"),
    ),
    Goal("api requests/s beside Vite", 7, _ratio(_API, "Vite")),
    Goal("api requests/s beside ASGI + httpx", 20, _ratio(_API, "ASGI + httpx")),
    Goal("api requests/s beside node", 1.5, _ratio(_API, "node")),
    Goal("api requests/s beside Caddy", 1.5, _ratio(_API, "Caddy")),
    Goal("api requests/s beside nginx (0.4 at least)", 0.6, _ratio(_API, "nginx")),
    Goal("asset requests/s beside nginx (1.3 wanted)", 1.0, _ratio(_ASSET, "nginx")),
    Goal("asset requests/s beside aiohttp", 1.7, _ratio(_ASSET, "aiohttp")),
    Goal("asset requests/s beside ASGI + httpx", 20, _ratio(_ASSET, "ASGI + httpx")),
    _most("api p50 at one connection beside the raw splice", 1.35, _ratio(_LATENCY, "raw splice")),
    Goal("download beside nginx", 1.2, _ratio(f"{_BODIES}down", "nginx")),
    Goal("upload beside nginx", 1.0, _ratio(f"{_BODIES}up", "nginx")),
    Goal(
        "WebSocket ping-pong beside the raw splice", 0.9, _ratio("WebSocket: 64 B ping-pong/s", "raw splice")
    ),
    Goal("WebSocket 1 MiB beside the raw splice", 0.9, _ratio("WebSocket: 1 MiB messages/s", "raw splice")),
    _most("page of 1,000 modules beside Vite directly, cold", 1.1, _ratio(f"{_PAGE}cold ms", "direct")),
    _most("page of 1,000 modules beside Vite directly, reload", 1.1, _ratio(f"{_PAGE}reload ms", "direct")),
    _most("CPU of the proxy for both", 500, _median(f"{_PAGE}CPU ms for both, orchestra"), unit="{:.0f} ms"),
    _most(
        "a save to the page, beside `uvicorn --reload` with fastapi-reloader",
        0.75,
        _ratio(_SAVES, "uvicorn --reload, fastapi-reloader"),
    ),
    _most(
        "... with the warm spare, beside `uvicorn-hmr --refresh`",
        1,
        _quotient(f"{_SAVES}, orchestra, warm spare", f"{_SAVES}, uvicorn-hmr --refresh"),
    ),
    Goal("lines of one process beside honcho", 5, _ratio(f"{_LINES}lines/s", "honcho")),
    Goal(
        "... with the dashboard drawing",
        2,
        _quotient(f"{_LINES}lines/s, orchestra, dashboard", f"{_LINES}lines/s, honcho"),
    ),
    Goal("... whole", 1, _median(f"{_LINES}whole, orchestra"), unit="{:.0%}"),
    _most(f"CPU with the dashboard, {WHAT}", 50, _median(_DRAWN.format("busy % CPU")), unit="{:.1f} %"),
    _most("... pictures a second", 10, _median(_DRAWN.format("pictures/s")), unit="{:.1f}"),
    _most("... with nothing going on", 2, _median(_DRAWN.format("idle % CPU")), unit="{:.1f} %"),
    _most(
        "start to the first line beside a bare `import trio`", 1.5, _ratio(_START, "python -c 'import trio'")
    ),
    _most("memory with 10 processes", 30, _median(f"{_MEMORY}: MiB with 10, orchestra"), unit="{:.1f} MiB"),
    _most("memory of each further process", 0.3, _growth, unit="{:.2f} MiB"),
    _most("memory for a body of 1 GiB", 20, _peak, unit="{:.1f} MiB"),
    _most("idle CPU", 0.3, _median(f"{_MEMORY}: % CPU with 10, orchestra"), unit="{:.1f} %"),
    _most("stop of 10 processes", 0.5, _median(f"{_STOP}10, orchestra"), unit="{:.2f} s"),
    _most("stop of 200 processes beside honcho", 3, _ratio(f"{_STOP}200", "honcho")),
    _most(
        "stop of 400 processes beside 200", 2.5, _quotient(f"{_STOP}400, orchestra", f"{_STOP}200, orchestra")
    ),
)


# --- keeping and writing ---


def keep(part: str, report: Report) -> None:
    """Keep what a part has found, instead of what it found before."""
    kept = _kept()
    kept[part] = {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": _commit(),
        "python": platform.python_version(),
        "figures": report.figures,
        "tables": report.tables,
        "failures": report.failures,
    }
    _KEPT.parent.mkdir(parents=True, exist_ok=True)
    _KEPT.write_text(json.dumps(kept))


def write(order: Sequence[str]) -> None:
    """Write `RESULTS.md` from everything that is kept."""
    kept, before = _kept(), _written()
    figures: Figures = {}
    for part in kept.values():
        figures.update(part["figures"])
    lines = ["# Results", "", f"Written by `python -m benchmarks`. {_machine()}", "", _versions(), ""]
    lines += [
        "Median (least to greatest) of interleaved rounds; ratios are medians of the rounds' ratios.",
        "The load, the proxy and the servers behind it share the machine's cores.",
        "Parts that were not measured on this machine stay as they were measured on another.",
        "",
        "## Goals",
        "",
        "Requests are with a browser's head, over 8 connections, unless it says otherwise.",
        "",
        "| goal | bound | reached | |",
        "|---|---|---|---|",
        *(_goal_row(goal, figures, before.get("Goals", "")) for goal in GOALS),
        "",
    ]
    for part in order:
        if part not in kept:
            lines += [f"## {part}", "", before[part], ""] if part in before else []
            continue
        found = kept[part]
        lines += [f"## {part}", ""]
        lines += ["{date}, commit {commit}, Python {python}.".format_map(found), ""]
        lines += [line for table in found["tables"] for line in (table, "")]
        lines += [f"- Not kept: {failure}" for failure in found["failures"]]
    (HERE / "RESULTS.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")


def _written() -> dict[str, str]:
    """Return the sections of `RESULTS.md` by their titles."""
    sections = re.split(r"^## (.*)$", (HERE / "RESULTS.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {title: text.strip() for title, text in zip(sections[1::2], sections[2::2], strict=True)}


def _goal_row(goal: Goal, figures: Figures, before: str) -> str:
    """Return a goal's row; one that was not measured here stays as it was."""
    row = "| " + " | ".join(goal.row(figures)) + " |"
    if "| not measured |" not in row:
        return row
    bound = row.partition("| not measured |")[0]
    return next((line for line in before.splitlines() if line.startswith(bound)), row)


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
