"""Shows the log of a run as plain lines: all of it, from a moment on, its end, or what is still coming.

Not here: writing it (`dashboard/runlog`), finding the run (`remote`).
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections import deque
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from orchestra.config.plan import base_name
from orchestra.config.schema import RunPolicy
from orchestra.dashboard.printers import PlainPrinter
from orchestra.dashboard.runlog import newest
from orchestra.dashboard.words import sentence
from orchestra.dashboard.writer import standard_output
from orchestra.errors import ConfigError
from orchestra.events import Notice, OutputLine, PlanChanged, RunEnded, RunStarted, StateChanged, decode
from orchestra.folders import is_running

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from io import BufferedReader

    from orchestra.control.local import RunState
    from orchestra.events import Event

__all__ = ["find_log", "moment", "read_log", "show"]

# Seconds between two reads of a log that is followed.
_INTERVAL = 0.1
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])\Z")


def moment(text: str) -> datetime:
    """Parse a duration (``5m``), a time of the last day (``14:30``), or one in ISO 8601; or `ValueError`."""
    now = datetime.now(UTC)
    try:
        if ago := _AGO.match(text):
            return now - timedelta(seconds=float(ago[1]) * _UNITS[ago[2]])
        if not re.match(r"\d\d?:\d\d", text):
            return datetime.fromisoformat(text).astimezone()
        today = datetime.fromisoformat(f"{now.astimezone():%Y-%m-%d}T{text:0>5}").astimezone()
        return today if today <= now else today - timedelta(days=1)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time: 30s, 5m, 2h, 14:30 or 2026-01-31T14:30 are some") from None


def find_log(environ: Mapping[str, str], folder: Path, state: RunState | None) -> Path:
    """Find the log of a run, or of the last run of the project in a folder; otherwise `ConfigError`."""
    if state is not None:
        log = newest(Path(state.root), environ, pid=state.pid)
        hint = "It has [run] keep_log = false, or its log cannot be written."
    else:
        found = (newest(each, environ) for each in (folder, *folder.parents))
        log = next((each for each in found if each is not None), None)
        hint = "A run keeps its log until the next one of the project begins."
    if log is None:
        raise ConfigError(f"no log was kept of a run in {folder}", hint=hint)
    return log


def read_log(log: Path, *, followed: int | None = None) -> Iterator[Event | None]:
    """Give the present events of a log, oldest first, then ``None``.

    Of a run that is `followed`, by its pid, also the new ones until it has ended.
    """
    older = log.with_name(f"{log.name}.1")
    file = (older if older.exists() else log).open("rb")
    is_present = True
    try:
        while True:
            is_over = followed is None or not is_running(followed)
            # The file may be the older half, or become that meanwhile: then the newer one comes next.
            is_older = not _is_same(log, file)
            for event in _events(file):
                yield event
                is_over = is_over or isinstance(event, RunEnded)
            if is_older and log.exists():
                file.close()
                file = log.open("rb")
                continue
            if is_present:
                is_present = False
                yield None
            if is_over:
                return
            time.sleep(_INTERVAL)
    finally:
        file.close()


def _is_same(log: Path, file: BufferedReader) -> bool:
    try:
        return log.stat().st_ino == os.fstat(file.fileno()).st_ino
    except OSError:
        return False


def _events(file: BufferedReader) -> Iterator[Event]:
    """Give the events of all whole lines that follow."""
    while True:
        begin = file.tell()
        line = file.readline()
        if not line.endswith(b"\n"):
            file.seek(begin)
            return
        try:
            yield decode(line)
        except msgspec.DecodeError:  # of another version
            continue


def show(
    events: Iterable[Event | None],
    names: Sequence[str],
    *,
    since: datetime | None,
    lines: int | None,
    timestamps: bool,
) -> int:
    """Print events as plain lines: the present ones, and after ``None`` the new ones; return 0.

    Only of these processes, if some are named; none older than `since`, and of the present ones the last
    `lines`.
    """
    output = _Output()
    printer = PlainPrinter(output, (), RunPolicy(timestamps=timestamps), environ=os.environ)
    kept: deque[Event] = deque(maxlen=lines)
    known: set[str] = set()
    is_live = False
    for event in events:
        if isinstance(event, RunStarted | PlanChanged):
            printer.widen(event.processes)
            known |= {*event.processes, *map(base_name, event.processes)}
        if event is None:
            is_live = True
            if known and (unknown := [name for name in names if name not in known]):
                hint = f"There are {', '.join(sorted(known))}."
                raise ConfigError(f"there is no process called {unknown[0]} in this log", hint=hint)
            for each in kept:
                printer.observe(each)
        elif _is_wanted(event, names, since):
            if is_live:
                printer.observe(event)
            else:
                kept.append(event)
        if is_live:
            output.flush()
    return 0


def _is_wanted(event: Event, names: Sequence[str], since: datetime | None) -> bool:
    if since is not None and event.time < since:
        return False
    if not isinstance(event, OutputLine) and not sentence(event):
        return False
    name = event.process if isinstance(event, OutputLine | StateChanged | Notice) else None
    return not names or (name is not None and (name in names or base_name(name) in names))


class _Output:
    """Standard output, as `PlainPrinter` uses it."""

    fd = 1

    def put(self, data: bytes) -> None:
        with standard_output():
            sys.stdout.buffer.write(data)

    def flush(self) -> None:
        with standard_output():
            sys.stdout.buffer.flush()
