"""The events of a run as JSON lines in a file: the log that outlives the run, and a recording.

Each run of a project has a log, which `orchestra logs` shows, in the user's state folder, readable only by
the user. When a run begins, the logs of earlier runs are removed, so the last one is there until then. A log
and its older half have 10 MB at most. If it cannot be written to, the run goes on, and reports that at its
end.

A recording contains everything that the dashboard would show, so that it can be replayed. Unlike
`--output json` it has colours, unfinished lines and CPU and memory; it does not have the heads of requests,
with their cookies. Only the user can read the file.

Not here: what an event is (`events`), how a file is shown (`logs`, `showing`).
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, get_args

import msgspec
import trio

from orchestra.child.logfile import LogFile
from orchestra.dashboard.words import SENTENCE_KINDS
from orchestra.errors import ConfigError
from orchestra.events import Event, OutputLine, RequestHeads, Stamped, decode, encode_lines
from orchestra.folders import is_running, make_private, project_key, state_folder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from orchestra.config.plan import Plan

    _Sink: TypeAlias = Callable[[Sequence[OutputLine]], Awaitable[None]]

__all__ = ["RECORDED", "EventLog", "events_of", "files_of", "newest", "recording", "run_log"]

# Bytes of the file, and of its older half.
_MOST_BYTES = 5_000_000
# Seconds for which lines are collected, and bytes: more are written first. What a line has beside its text.
_INTERVAL = 0.2
_MOST_WAITING = 250_000
_LINE_SIZE = 150
# At most as many events as a dashboard shows.
_MOST_PAST = 10_000


class EventLog:
    """A file of events that only its user can read; takes events at once, and writes them in batches.

    Args:
        kinds: The types of events that are logged beside lines of output.
        complaint: The message if it cannot be written to.
        begin: Makes room for the file, or raises `OSError`.

    Attributes:
        sinks: Take lines of output; none if no log is kept.
        failure: Why the log could not be written to; empty if it could.
    """

    def __init__(
        self,
        path: Path,
        kinds: Sequence[type[Stamped]],
        *,
        max_bytes: int,
        backups: int,
        complaint: str,
        begin: Callable[[], object] = lambda: None,
        is_kept: bool = True,
    ) -> None:
        self._path = path
        self._kinds = kinds
        self._file = LogFile(path, max_bytes=max_bytes, backups=backups, mode=0o600)
        self._complaint = complaint
        self._begin = begin
        self.sinks: tuple[_Sink, ...] = (self._write_lines,) if is_kept else ()
        self.failure = ""
        self._waiting: list[Event] = []
        self._size = 0
        self._has_some = trio.lowlevel.ParkingLot()
        self._turn = trio.Lock()

    def follow(self, subscribe: Callable[..., object]) -> None:
        """Log the events of a run with our sinks that has not begun; `subscribe` is its method."""
        if self.sinks:
            subscribe(self._take, *self._kinds)

    def _take(self, *events: Event) -> None:
        if self.sinks:
            if not self._waiting:
                self._has_some.unpark_all()
            self._waiting += events

    async def _write_lines(self, lines: Sequence[OutputLine]) -> None:
        """Take lines of output; write what waits if that is much."""
        self._take(*lines)
        self._size += sum(len(line.text) + _LINE_SIZE for line in lines)
        if self._size >= _MOST_WAITING:
            await self._write()

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
            await trio.sleep(_INTERVAL)

    async def past(self) -> list[Event]:
        """Give the newest events in memory, oldest first."""
        await self._write()
        return await trio.to_thread.run_sync(self._newest) if self.sinks else []

    def _newest(self) -> list[Event]:
        lines: deque[bytes] = deque(maxlen=_MOST_PAST)
        for path in (self._path.with_name(f"{self._path.name}.1"), self._path):
            with suppress(FileNotFoundError), path.open("rb") as file:
                lines.extend(file)
        return [decode(line) for line in lines]

    async def aclose(self) -> None:
        """Write the waiting lines, and close the file."""
        await self._write()
        await self._file.aclose()

    async def _write(self) -> None:
        async with self._turn:
            events, size = [*self._waiting], self._size
            if events:
                try:
                    await self._file.append([encode_lines(events)])
                except OSError as exc:
                    self._give_up(exc)
            # Only now: if this is cancelled before it writes, they go on waiting.
            del self._waiting[: len(events)]
            self._size = max(self._size - size, 0)

    def _give_up(self, cause: OSError) -> None:
        self.sinks = ()
        self._waiting, self._size = [], 0
        self.failure = f"{self._complaint}: {cause}"


def run_log(plan: Plan, environ: Mapping[str, str]) -> EventLog:
    """Make the log of a run."""
    folder, key, own = state_folder(environ), project_key(plan.root), os.getpid()

    def make_room() -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        make_private(folder)
        for path, pid in files_of(folder, key):
            if pid == own or not is_running(pid):
                path.unlink(missing_ok=True)

    return EventLog(
        folder / f"log-{key}-{own}.jsonl",
        SENTENCE_KINDS,
        max_bytes=_MOST_BYTES,
        backups=1,
        complaint="the log of this run was not kept",
        begin=make_room,
        is_kept=plan.keep_log,
    )


def newest(root: Path, environ: Mapping[str, str], *, pid: int | None = None) -> Path | None:
    """Find the log of a project's newest run, or of the run in a certain process."""
    found = files_of(state_folder(environ), project_key(root))
    logs = [path for path, of in found if path.suffix == ".jsonl" and pid in (None, of)]
    return max(logs, key=lambda path: path.stat().st_mtime, default=None)


def files_of(folder: Path, key: str) -> Iterator[tuple[Path, int]]:
    """Give the files of a project's logs, each with the pid of its writer."""
    for path in folder.glob(f"log-{key}-*.jsonl*"):
        pid = path.name.split("-")[2].partition(".")[0]
        if pid.isdecimal():
            yield path, int(pid)


RECORDED = tuple(kind for kind in get_args(Event) if kind not in (OutputLine, RequestHeads))
"""The events of a recording, beside lines of output."""

_UNLIMITED = 2**62
# The beginning of every line of a recording.
_BEGINNING = b'{"type":"'
_RECORD_HINT = "Record a run: orchestra run --record FILE."


def recording(path: str) -> EventLog:
    """Record a run, replacing an older recording; `ConfigError` if the file is something else."""
    file = Path(path)
    try:
        if file.exists() and not _is_recording(file):
            text = "this is no recording, and was not touched"
            raise ConfigError(text, path=path, hint="Name another file for the recording.")
        file.unlink(missing_ok=True)
        file.touch(mode=0o600)
    except OSError as exc:
        text = f"the recording cannot be written: {exc.strerror}"
        raise ConfigError(text, path=path, hint="Name a file in a folder that you may write to.") from exc
    complaint = "the recording is not whole"
    return EventLog(file, RECORDED, max_bytes=_UNLIMITED, backups=0, complaint=complaint)


def _is_recording(file: Path) -> bool:
    """Whether a file may be replaced; an empty one is that of a run that was killed at once."""
    if not file.is_file():
        return file.is_dir()  # the system reports the problem better
    with file.open("rb") as opened:
        return opened.read(len(_BEGINNING)) in {b"", _BEGINNING}


def events_of(path: str) -> Iterator[Event]:
    """Read a recording, or raise `ConfigError`; unknown and incomplete events are left out."""
    try:
        with Path(path).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield decode(line)
                except msgspec.DecodeError as exc:
                    # Events of a later version are valid JSON, but not the first one of a recording.
                    if number == 1 or not isinstance(exc, msgspec.ValidationError):
                        text = f"this is no recording: {exc}"
                        raise ConfigError(text, path=path, line=number, hint=_RECORD_HINT) from exc
    except OSError as exc:
        raise ConfigError(f"it cannot be read: {exc.strerror}", path=path, hint=_RECORD_HINT) from exc
