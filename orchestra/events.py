"""What happens in a run, as frozen events, and the bus that carries them.

An event is a msgspec struct in the past tense. Its tag is the `type` of the JSON lines, its fields are their
keys: `msgspec.json.encode` writes an event, and `decode` reads any recorded line again.

Emitters say what happened; the `Bus` stamps when (`time`) and in which order (`seq`), and hands the event to
its observers, synchronously. Observers read and never make the emitter wait; one that raises is removed and
logged, as trio does with its instruments. Output that must not be lost goes to sinks before it is published
(`supervision/delivery`).

A new event is a struct here that is also named in `Event`; the sentence that the dashboard and plain output
show for it, if it is worth one, is in `dashboard/words`.

Not here: input or output, tasks, what an event leads to.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, cast

from msgspec import Struct, json, structs, to_builtins

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "Bus",
    "ErrorCleared",
    "ErrorShown",
    "Event",
    "Exit",
    "FilesChanged",
    "Notice",
    "Observer",
    "OutputLine",
    "OutputPaused",
    "PlanChanged",
    "ReloadSent",
    "RequestFinished",
    "RequestHeld",
    "RequestReleased",
    "RequestReplayed",
    "RunEnded",
    "RunStarted",
    "State",
    "StateChanged",
    "StreamClosed",
    "StreamName",
    "StreamOpened",
    "UpstreamName",
    "UpstreamSwitched",
    "decode",
    "encode",
    "utc_now",
]

logger = logging.getLogger(__name__)

StreamName: TypeAlias = Literal["stdout", "stderr", "pty"]
UpstreamName: TypeAlias = Literal["backend", "frontend", "orchestra"]
StreamKind: TypeAlias = Literal["websocket", "event-stream", "hmr"]
Outcome: TypeAlias = Literal["complete", "client-gone", "upstream-died"]
Level: TypeAlias = Literal["info", "warning", "error"]

# The time of an event that no bus has stamped yet.
_EPOCH = datetime.fromtimestamp(0, UTC)


class State(Enum):
    """Where a process is in its life; the values are what JSON and the dashboard show."""

    WAITING = "waiting"
    INSTALLING = "installing"
    STARTING = "starting"
    RUNNING = "running"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    STOPPING = "stopping"
    BACKING_OFF = "backing-off"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"

    @property
    def is_ended(self) -> bool:
        """Whether nothing of the process runs and nothing is going to start it again by itself."""
        return self in _ENDED

    @property
    def predicate(self) -> str:
        """What a sentence says of a process in this state: ``is starting``, ``has failed``."""
        words = {State.INSTALLING: "is being installed", State.BACKING_OFF: "has ended"}
        return words.get(self, f"{'has' if self.is_ended else 'is'} {self.value}")


_ENDED = frozenset({State.COMPLETED, State.FAILED, State.STOPPED})


class Exit(Struct, frozen=True):
    """How a child ended: by itself with a status, or by a signal.

    Attributes:
        code: The exit status, 0 to 255; ``None`` if a signal ended it.
        signal: The signal's number.
    """

    code: int | None = None
    signal: int | None = None

    @classmethod
    def from_returncode(cls, returncode: int) -> Exit:
        """Read the return code of `subprocess`: negative for a signal."""
        return cls(signal=-returncode) if returncode < 0 else cls(code=returncode)

    @property
    def signal_name(self) -> str | None:
        """``SIGKILL``; ``signal 40`` for a real-time signal."""
        if self.signal is None:
            return None
        try:
            return signal.Signals(self.signal).name
        except ValueError:
            return f"signal {self.signal}"

    @property
    def shell_code(self) -> int:
        """The exit status that a shell reports: 128 + the signal's number."""
        return 128 + self.signal if self.signal is not None else self.code or 0

    def __str__(self) -> str:
        return f"killed by {self.signal_name}" if self.signal is not None else f"exit code {self.code}"


class _Stamped(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all events have; the bus sets it.

    Attributes:
        v: The version of the format.
        seq: Counts the events of a run from 1.
        time: When it happened, in UTC.
    """

    v: Literal[1] = 1
    seq: int = 0
    time: datetime = _EPOCH

    @property
    def at(self) -> float:
        """When it happened, in seconds since the epoch."""
        return self.time.timestamp()


class RunStarted(_Stamped, frozen=True, kw_only=True, tag="run.started"):
    """The run has begun; nothing has been spawned yet.

    Attributes:
        processes: The names of all processes of the run, in the order of the Procfile.
        url: The one address, ``None`` without a proxy.
    """

    version: str
    pid: int
    procfile: str
    url: str | None
    processes: tuple[str, ...]


class StateChanged(_Stamped, frozen=True, kw_only=True, tag="process.state"):
    """A process entered a state, or learned something about itself while in it (`state == previous`).

    Attributes:
        pid: The pid of the process group's leader while there is one.
        port: Where it listens, once that is known.
        url: The same as a URL with the family that was found: ``http://[::1]:5173``.
        restarts: How often it was started again in this run.
        exit_code: The exit code of the newest child; ``None`` if it has not ended or was ended by a signal.
        signal: The name of the signal that ended it (``SIGKILL``).
        reason: Why, in words for the dashboard; may be empty.
        ready_after: Seconds from the spawn to readiness, from `READY` on.
        ended_before_ready: Whether the newest child has ended without having been ready.
        last_lines: What it wrote last, oldest first, without colours, if it has failed or is unhealthy.
    """

    process: str
    state: State
    previous: State
    pid: int | None = None
    port: int | None = None
    url: str | None = None
    restarts: int = 0
    exit_code: int | None = None
    signal: str | None = None
    reason: str = ""
    ready_after: float | None = None
    ended_before_ready: bool = False
    last_lines: tuple[str, ...] = ()


class OutputLine(_Stamped, frozen=True, kw_only=True, tag="process.output"):
    """A process wrote one whole line.

    Attributes:
        text: Without its line end; of all control sequences only colours (SGR) are left.
    """

    process: str
    stream: StreamName
    text: str


class OutputPaused(_Stamped, frozen=True, kw_only=True, tag="process.output.partial"):
    """A process wrote the beginning of a line and has paused there: a prompt, or a progress bar.

    A later one of the same stream replaces it, and so does its next whole line, which is then complete: what
    shows whole lines only can leave this alone.

    Attributes:
        text: What there is of the line; as in `OutputLine`. Empty if it was taken back.
    """

    process: str
    stream: StreamName
    text: str


class RequestFinished(_Stamped, frozen=True, kw_only=True, tag="request.finished"):
    """The proxy is done with a request, whatever became of it.

    Attributes:
        id: Counts from 1 within the run.
        target: As received, at most 8 KiB of it.
        status: What the client got; ``None`` if it left before an answer began.
        upstream: Where the answer came from.
        reason: Why that one: ``backend answered``, ``backend 404``.
        held: Seconds that the request waited for an upstream to become ready.
        first_byte: Seconds from the request's head to the answer's head; ``None`` without an answer.
        duration: Seconds from the request's head to the end of the exchange.
        bytes_in: The size of the request's body.
        bytes_out: The size of the answer's body.
    """

    id: int
    method: str
    target: str
    status: int | None
    upstream: UpstreamName
    reason: str
    held: float
    first_byte: float | None
    duration: float
    bytes_in: int
    bytes_out: int
    outcome: Outcome


class RequestHeld(_Stamped, frozen=True, kw_only=True, tag="request.held"):
    """A request has begun to wait for an upstream.

    Attributes:
        id: As in `RequestFinished`.
        reason: What it waits for: ``api is starting``.
    """

    id: int
    method: str
    target: str
    upstream: UpstreamName
    reason: str


class RequestReleased(_Stamped, frozen=True, kw_only=True, tag="request.released"):
    """A request waits no longer.

    Attributes:
        held: Seconds that it has waited in all.
        outcome: ``ready``: its upstream is; ``failed``: that is not going to be, or not in time;
            ``client-gone``.
    """

    id: int
    upstream: UpstreamName
    held: float
    outcome: Literal["ready", "failed", "client-gone"]


class RequestReplayed(_Stamped, frozen=True, kw_only=True, tag="request.replayed"):
    """A request whose upstream went away without a byte of an answer is sent again.

    Attributes:
        reason: What became of the first attempt.
    """

    id: int
    method: str
    target: str
    upstream: UpstreamName
    reason: str


class UpstreamSwitched(_Stamped, frozen=True, kw_only=True, tag="upstream.switched"):
    """A process that stayed ready all the time is asked at another address from now on."""

    upstream: UpstreamName
    process: str
    url: str
    previous: str


class StreamOpened(_Stamped, frozen=True, kw_only=True, tag="stream.opened"):
    """A WebSocket, an HMR socket or an event stream is open."""

    id: int
    kind: StreamKind
    target: str
    upstream: UpstreamName


class StreamClosed(_Stamped, frozen=True, kw_only=True, tag="stream.closed"):
    """A stream has ended.

    Attributes:
        code: The WebSocket close code that was seen first; ``None`` if none was, or it is an event stream.
    """

    id: int
    kind: StreamKind
    target: str
    upstream: UpstreamName
    code: int | None
    duration: float
    bytes_in: int
    bytes_out: int


class PlanChanged(_Stamped, frozen=True, kw_only=True, tag="plan.changed"):
    """The run follows another plan from now on; what that starts and restarts is reported after this.

    Attributes:
        reason: What was changed: ``Procfile.dev``; may be empty.
        processes: All that there are now, in the order of the Procfile.
        started: The new ones.
        stopped: Those that are gone.
        restarted: Those that need another child.
    """

    reason: str
    processes: tuple[str, ...]
    started: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()


class FilesChanged(_Stamped, frozen=True, kw_only=True, tag="files.changed"):
    """Files of a process were saved with another content.

    Attributes:
        process: The process whose files they are.
        paths: Relative to the Procfile's folder where they are below it; sorted, at most 20.
    """

    process: str
    paths: tuple[str, ...]


class ReloadSent(_Stamped, frozen=True, kw_only=True, tag="reload.sent"):
    """Browser tabs were told to load their page again.

    Attributes:
        tabs: How many.
        reason: Why, in words: ``api is ready``.
    """

    tabs: int
    reason: str


class ErrorShown(_Stamped, frozen=True, kw_only=True, tag="error.shown"):
    """A program has failed with an exception, which pages and dashboard show until it is mended.

    Attributes:
        error_type: The exception's name: ``SyntaxError``.
        message: What it says; may be empty.
        file: The absolute path of the developer's own frame, the last one that is no package's; ``None`` if
            there is none.
        line: Its line, from 1.
        traceback: All lines, as Python wrote them, without colours.
        is_fatal: Whether the process has ended by it, or does not come up; else it was logged by one that
            goes on.
    """

    process: str
    error_type: str
    message: str
    file: str | None = None
    line: int | None = None
    traceback: tuple[str, ...] = ()
    is_fatal: bool = True


class ErrorCleared(_Stamped, frozen=True, kw_only=True, tag="error.cleared"):
    """The process works again: its error is shown no longer."""

    process: str


class Notice(_Stamped, frozen=True, kw_only=True, tag="notice"):
    """Something that the user should know and that is no output of a process.

    Attributes:
        code: A stable short name for scripts (``port-moved``).
        hint: The next step; may be empty.
        process: The process it is about, if it is about one.
    """

    level: Level
    code: str
    text: str
    hint: str = ""
    process: str | None = None


class RunEnded(_Stamped, frozen=True, kw_only=True, tag="run.ended"):
    """Everything is over: no process of the run is left."""

    exit_code: int
    reason: str
    duration: float


Event: TypeAlias = (
    RunStarted
    | StateChanged
    | OutputLine
    | OutputPaused
    | RequestFinished
    | RequestHeld
    | RequestReleased
    | RequestReplayed
    | UpstreamSwitched
    | StreamOpened
    | StreamClosed
    | PlanChanged
    | FilesChanged
    | ReloadSent
    | ErrorShown
    | ErrorCleared
    | Notice
    | RunEnded
)
Observer: TypeAlias = Callable[[Event], object]
# An observer with the kinds that it asked for; none means all of them.
_Entry: TypeAlias = tuple[Observer, tuple[type[_Stamped], ...]]
_E = TypeVar("_E", bound=_Stamped)


def encode(event: Event) -> bytes:
    """Write an event as one JSON object, without a line end."""
    try:
        return json.encode(event)
    except UnicodeEncodeError:  # a path that is not UTF-8
        from json import dumps  # noqa: PLC0415 - msgspec's has no error handler

        return dumps(to_builtins(event), ensure_ascii=False).encode("utf-8", "replace")


def decode(line: bytes | str) -> Event:
    """Read one recorded JSON line as the event that it was.

    Raises:
        msgspec.ValidationError: It is not an event, or its type is not known.
        msgspec.DecodeError: It is not JSON.
    """
    return cast("Event", json.decode(line, type=Event))


def utc_now() -> datetime:
    """Return the present time, in UTC."""
    return datetime.now(UTC)


class Bus:
    """Stamps every event and hands it to the observers that asked for its kind, without waiting or raising.

    Args:
        snapshot: Gives the events, stamped already, that bring a new observer up to date. They are replayed
            to it in the same synchronous step in which it is added, so that it misses nothing and sees
            nothing twice.
        clock: Gives the present time, in UTC.
    """

    def __init__(
        self,
        snapshot: Callable[[], Iterable[Event]] = tuple,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._seq = 0
        self._observers: list[_Entry] = []
        # Answers of `wants`, which is asked for each request.
        self._wanted: dict[type[_Stamped], bool] = {}

    def __repr__(self) -> str:
        return f"<Bus with {len(self._observers)} observers>"

    def subscribe(self, observer: Observer, *kinds: type[_Stamped]) -> Callable[[], None]:
        """Add an observer after replaying the snapshot to it.

        Args:
            observer: Called with every event from now on.
            *kinds: The types of event that it is called with; all by default.

        Returns:
            A function that removes it again.
        """
        entry = observer, kinds
        self._observers.append(entry)
        self._wanted.clear()
        for event in self._snapshot():
            if not kinds or isinstance(event, kinds):
                self._hand(entry, event)

        return partial(self._remove, entry)

    def wants(self, kind: type[_Stamped]) -> bool:
        """Whether an event of this kind has an observer; one without need not be built."""
        found = self._wanted.get(kind)
        if found is None:
            found = any(not kinds or issubclass(kind, kinds) for _, kinds in self._observers)
            self._wanted[kind] = found
        return found

    def emit(self, event: _E) -> _E:
        """Stamp an event, publish it, and return the stamped one."""
        stamped = self.stamp(event)
        self.publish(stamped)
        return stamped

    def stamp(self, event: _E) -> _E:
        """Return an event with its number and time; `publish` it afterwards."""
        self._seq += 1
        return structs.replace(event, seq=self._seq, time=self._clock())

    def publish(self, event: _Stamped) -> None:
        """Hand a stamped event to its observers. One that raises is removed, and the log says so."""
        for entry in tuple(self._observers):
            if not entry[1] or isinstance(event, entry[1]):
                self._hand(entry, event)

    def notice(
        self, code: str, text: str, *, level: Level = "warning", hint: str = "", process: str | None = None
    ) -> None:
        """Emit a `Notice`."""
        self.emit(Notice(level=level, code=code, text=text, hint=hint, process=process))

    def _remove(self, entry: _Entry) -> None:
        if entry in self._observers:
            self._observers.remove(entry)
            self._wanted.clear()

    def _hand(self, entry: _Entry, event: _Stamped) -> None:
        try:
            entry[0](cast("Event", event))  # every _Stamped is one of the union
        except Exception:
            self._remove(entry)
            logger.exception("An observer of orchestra's events failed and was removed: %r", entry[0])
