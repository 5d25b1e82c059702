"""What all benchmarks share: processes that are started and measured, rounds, medians, tables.

Strategy. Whatever is compared runs at the same time, and is measured in turns: one short measurement of
each, in a different order each round. A machine that has other work to do then disturbs all alike, and
ratios are taken round by round. CPU and memory are what the kernel counts for the processes of a peer.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import psutil

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = [
    "CACHE",
    "HERE",
    "MIB",
    "Failed",
    "Options",
    "Report",
    "Running",
    "answers",
    "checked",
    "free_port",
    "interleaved",
    "quoted",
    "wait_until",
]

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestra-benchmarks"
MIB = 1024 * 1024

# Node, Caddy and a virtual environment on a slow disk take their time.
START_LIMIT = 60.0
STOP_LIMIT = 30.0

T = TypeVar("T")


class Failed(Exception):  # noqa: N818 - the measurement has, not the program
    """Nothing was measured; the message says why, and the next step if there is one."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line.

    Attributes:
        is_quick: Short rounds, to see that everything works; nothing is kept of them.
        rounds: How often each peer is measured, if not as often as the part does.
        seconds: How long the soak lasts.
        peers: Only these; empty means all.
        cases: Of the Autobahn testsuite; only these.
    """

    is_quick: bool = False
    rounds: int | None = None
    seconds: float | None = None
    peers: frozenset[str] = frozenset()
    cases: str = ""

    def pick(self, usual: T, quick: T) -> T:
        """Return the value for this kind of run."""
        return quick if self.is_quick else usual

    def round_count(self, usual: int, quick: int = 1) -> int:
        """Return the number of rounds."""
        return self.rounds or self.pick(usual, quick)


# --- processes ---


class Running:
    """A command that runs in a session of its own until the block ends, and what the kernel says of it.

    Args:
        command: What to run.
        cwd: Where.
        env: In addition to ours.
        output: Where its standard output goes; a log in `cwd` by default.
        terminal: The terminal that it has, for all its input and output.
        is_alone: Its children are not counted (orchestra's are the servers that it proxies).
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        output: int | None = None,
        terminal: int | None = None,
        is_alone: bool = False,
    ) -> None:
        self.log = cwd / "log"
        self._command = command
        self._is_alone = is_alone
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                # A session's first terminal is its own.
                command if terminal is None else ["setsid", "--ctty", *command],
                cwd=cwd,
                # Compiled, as it is where it was installed: else orchestra alone is compiled at each start.
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "", **(env or {})},
                stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=terminal or output or log,
                stderr=terminal or log,
                start_new_session=terminal is None,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def stop(self, number: int = signal.SIGTERM) -> float:
        """End it and everything in its session; return the seconds until it had ended."""
        rest = self.tree()
        begun = time.perf_counter()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_LIMIT)
        took = time.perf_counter() - begun
        for each in rest:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        self.process.wait()
        return took

    def tree(self) -> list[psutil.Process]:
        """Return it and all its descendants that are there now."""
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def counted(self) -> list[psutil.Process]:
        """Return the processes whose CPU and memory count."""
        return self.tree()[:1] if self._is_alone else self.tree()

    def cpu(self) -> float:
        """Return the seconds of CPU so far."""
        total = 0.0
        for each in self.counted():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = each.cpu_times()
                total += times.user + times.system
                total += 0 if self._is_alone else times.children_user + times.children_system
        return total

    def pss(self) -> float:
        """Return MiB of memory; what several processes share is divided among them."""
        total = 0
        for each in self.counted():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += each.memory_full_info().pss
        return total / MIB

    def fds(self) -> int:
        """Return the number of open descriptors."""
        return sum(each.num_fds() for each in self.counted())

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something is true of it.

        Raises:
            Failed: It ended before, or took too long; with the end of its log.
        """

        def is_over() -> bool:
            return condition() or self.process.poll() is not None

        if not wait_until(is_over, START_LIMIT) or not condition():
            raise Failed(f"{what}: {' '.join(self._command[:6])} ...\n{self.last_lines()}")

    def last_lines(self) -> str:
        """Return the end of what it wrote."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def wait_until(condition: Callable[[], bool], limit: float, *, every: float = 0.02) -> bool:
    """Return whether something became true in time."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


def checked(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    limit: float = 600.0,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a command to its end and return what it wrote.

    Raises:
        Failed: It failed or took too long.
    """
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=env,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Failed(f"{' '.join(command[:4])}: {exc}") from exc
    if done.returncode:
        raise Failed(f"{' '.join(command[:4])} exited with {done.returncode}:\n{done.stderr[-2000:]}")
    return done.stdout


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def answers(port: int, path: str) -> Callable[[], bool]:
    """Return a function that says whether a server answers, and not by an error of its own."""

    def is_answered() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", path)
            return connection.getresponse().status < 500
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return is_answered


# --- rounds ---


def interleaved(
    names: Iterable[str], measure: Callable[[str], Mapping[str, float]], *, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Measure everything in turns.

    Args:
        names: What to measure. What fails is named and left out from then on.
        measure: Measures one of them once: figures by their names.
        rounds: How often.

    Returns:
        The figures of each, by its name and theirs, one a round.
    """
    found: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    order = list(found)
    for _ in range(rounds):
        for name in tuple(order):
            try:
                figures = measure(name)
            except (Failed, OSError) as exc:
                print(f"{name} is left out: {exc}", flush=True)
                order.remove(name)
                del found[name]
                continue
            for key, value in figures.items():
                found[name].setdefault(key, []).append(value)
        order = order[1:] + order[:1]
    return found


# --- results ---


@dataclass(slots=True)
class Report:
    """What one part has found.

    Attributes:
        figures: One value a round of each, by ``"what: figure, peer"``: what goals are checked against.
        tables: Markdown, as it was printed.
        failures: Promises that were not kept.
    """

    figures: dict[str, list[float]] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def table(self, title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Print a table and keep it."""
        lines = ["| " + " | ".join(row) + " |" for row in (list(columns), ["---"] * len(columns), *rows)]
        self.say("\n".join([f"**{title}**", "", *lines]))

    def compare(
        self, what: str, found: Mapping[str, Mapping[str, Sequence[float]]], units: Mapping[str, str]
    ) -> None:
        """Keep figures, and show the median and the spread of each.

        Args:
            what: What was measured; it stands above the table and before the figures' names.
            found: What `interleaved` returned.
            units: Which figures are shown, and how each is written (a format string).
        """
        for name, figures in found.items():
            for key, values in figures.items():
                self.figures[f"{what}: {key}, {name}"] = list(values)
        rows = [
            [name, *(quoted(figures.get(key, ()), unit) for key, unit in units.items())]
            for name, figures in found.items()
        ]
        self.table(what, ["", *units], rows)

    def say(self, text: str) -> None:
        """Print Markdown and keep it."""
        print(f"\n{text}\n", flush=True)
        self.tables.append(text)

    def bound(self, what: str, found: str, bound: str, *, is_kept: bool) -> list[str]:
        """Return the row of a promise; one that is not kept is a failure."""
        if not is_kept:
            self.failures.append(f"{what}: {found}, the bound is {bound}")
        return [what, found, bound, "yes" if is_kept else "NO"]


def quoted(values: Sequence[float], unit: str = "{:,.0f}") -> str:
    """Show the median and, if there are several values, the least and the greatest one."""
    if not values:
        return ""
    median = unit.format(statistics.median(values))
    if len(values) == 1:
        return median
    return f"{median} ({unit.format(min(values))} to {unit.format(max(values))})"
