"""The log of a run, which outlives it: what `orchestra logs` shows, as JSON lines.

A project has one file a run, in the folder for files that outlive a run, where only its user reads it. When a
run begins, the files of runs that are over are removed, so that the last run's is there until the next one.
A file and its older half have 10 MB at most.

The log is not worth a run: when it cannot be written to, the run goes on, and its end says so.

Not here: what an event is (`events`), how it is shown (`commands`).
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import trio

from orchestra.child.logfile import LogFile
from orchestra.dashboard.words import SENTENCE_KINDS
from orchestra.events import Event, OutputLine, Stamped, decode, encode_lines
from orchestra.folders import is_running, make_private, project_key, state_folder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.config.plan import Plan

    _Sink: TypeAlias = Callable[[Sequence[OutputLine]], Awaitable[None]]

__all__ = ["EventLog", "RunLog", "files_of", "newest"]

# Bytes of the file, and of its older half.
_MOST_BYTES = 5_000_000
# Bytes that may wait to be written; then what is logged has to wait. What a line has beside its text.
_MOST_WAITING = 1_000_000
_LINE_SIZE = 150
# Seconds that lines are collected for, and bytes that are written at once.
_INTERVAL = 0.2
_ENOUGH = _MOST_WAITING // 4
# As many events as a dashboard shows at most.
_MOST_PAST = 10_000


class EventLog:
    """A file of events, which only its user can read; takes them at once, and writes them in batches.

    Attributes:
        sinks: Take lines of output; none if no log is kept.
        failure: Why the log could not be written to; empty if it could.
    """

    _kinds: tuple[type[Stamped], ...] = SENTENCE_KINDS

    def __init__(self, path: Path, *, max_bytes: int, backups: int, is_kept: bool = True) -> None:
        self._path = path
        self._file = LogFile(path, max_bytes=max_bytes, backups=backups, mode=0o600)
        self.sinks: tuple[_Sink, ...] = (self._write_lines,) if is_kept else ()
        self.failure = ""
        self._waiting: list[Event] = []
        self._size = 0
        self._has_room = trio.lowlevel.ParkingLot()
        self._has_some = trio.lowlevel.ParkingLot()
        self._has_enough = trio.lowlevel.ParkingLot()

    def follow(self, subscribe: Callable[..., object]) -> None:
        """Log what happens in a run that has our sinks and has not begun; it is `Supervisor.subscribe`."""
        if self.sinks:
            subscribe(self._take, *self._kinds)

    def _take(self, *events: Event) -> None:
        if self.sinks:
            if not self._waiting:
                self._has_some.unpark_all()
            self._waiting += events

    async def _write_lines(self, lines: Sequence[OutputLine]) -> None:
        """Take lines of output; wait while too much waits to be written."""
        while self._size > _MOST_WAITING:
            await self._has_room.park()
        self._take(*lines)
        self._size += sum(len(line.text) + _LINE_SIZE for line in lines)
        if self._size >= _ENOUGH:
            self._has_enough.unpark_all()

    async def run(self) -> None:
        """Write until cancelled."""
        if self.sinks:
            try:
                self._begin()
            except OSError as exc:
                self._give_up(exc)
        while self.sinks:
            await self._write()
            if not self._waiting:
                await self._has_some.park()
            if self._size < _ENOUGH:
                with trio.move_on_after(_INTERVAL):
                    await self._has_enough.park()

    def _begin(self) -> None:
        """Make room for the file; `OSError` if that cannot be."""

    def _complaint(self, cause: OSError) -> str:
        return f"the log of this run was not kept: {cause}"

    async def past(self) -> list[Event]:
        """Give the newest events that there are, oldest first."""
        await self._write()
        return await trio.to_thread.run_sync(self._newest) if self.sinks else []

    def _newest(self) -> list[Event]:
        lines: deque[bytes] = deque(maxlen=_MOST_PAST)
        for path in (self._path.with_name(f"{self._path.name}.1"), self._path):
            with suppress(FileNotFoundError), path.open("rb") as file:
                lines.extend(file)
        return [decode(line) for line in lines]

    async def aclose(self) -> None:
        """Write what is waiting, and close the file."""
        await self._write()
        await self._file.aclose()

    async def _write(self) -> None:
        events, self._waiting, self._size = self._waiting, [], 0
        self._has_room.unpark_all()
        if events:
            try:
                await self._file.append([encode_lines(events)])
            except OSError as exc:
                self._give_up(exc)

    def _give_up(self, cause: OSError) -> None:
        self.sinks = ()
        self._waiting, self._size = [], 0
        self._has_room.unpark_all()
        self.failure = self._complaint(cause)


class RunLog(EventLog):
    """The log of a run."""

    def __init__(self, plan: Plan, environ: Mapping[str, str]) -> None:
        self._folder = state_folder(environ)
        self._key = project_key(plan.root)
        path = self._folder / f"log-{self._key}-{os.getpid()}.jsonl"
        super().__init__(path, max_bytes=_MOST_BYTES, backups=1, is_kept=plan.keep_log)

    def _begin(self) -> None:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        make_private(self._folder)
        for path, pid in files_of(self._folder, self._key):
            if pid == os.getpid() or not is_running(pid):
                path.unlink(missing_ok=True)


def newest(root: Path, environ: Mapping[str, str], *, pid: int | None = None) -> Path | None:
    """Find the log of a project's newest run, or of the run in a certain process."""
    found = files_of(state_folder(environ), project_key(root))
    logs = [path for path, of in found if path.suffix == ".jsonl" and pid in (None, of)]
    return max(logs, key=lambda path: path.stat().st_mtime, default=None)


def files_of(folder: Path, key: str) -> Iterator[tuple[Path, int]]:
    """Give the files of a project's logs, each with the process that wrote it."""
    for path in folder.glob(f"log-{key}-*.jsonl*"):
        pid = path.name.split("-")[2].partition(".")[0]
        if pid.isdecimal():
            yield path, int(pid)
