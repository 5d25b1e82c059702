"""The one language that all rooms speak: frozen events in the past tense, and the bus that carries them.

An event says what happened and when (`at`, seconds of `trio.current_time`). The `Bus` hands each one to its
observers, synchronously and in order. Observers read, they never write; they never make the sender wait, and
one that raises is dropped and reported, as trio does with its instruments. Child output that must not be lost
does not travel by the bus alone: the supervisor awaits its sinks (see `supervisor.py`).

Never here: input or output, tasks, anything but the standard library.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "Bus",
    "Event",
    "Notice",
    "Observer",
    "OutputLine",
    "OutputPaused",
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
]

logger = logging.getLogger(__name__)

StreamName: TypeAlias = Literal["stdout", "stderr", "pty"]
UpstreamName: TypeAlias = Literal["backend", "frontend", "orchestra"]
StreamKind: TypeAlias = Literal["websocket", "event-stream", "hmr"]
Outcome: TypeAlias = Literal["complete", "client-gone", "upstream-died"]


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


_ENDED = frozenset({State.COMPLETED, State.FAILED, State.STOPPED})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The run has begun; nothing has been spawned yet.

    Attributes:
        processes: The names of all processes of the run, in the order of the Procfile.
        url: The one address, ``None`` without a proxy.
    """

    at: float
    version: str
    pid: int
    procfile: str
    url: str | None
    processes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged:
    """A process entered a state, or learned something about itself while in it (`state == previous`).

    Attributes:
        pid: Of the group's leader while there is one.
        port: Where it listens, once that is known.
        url: The same as a URL with the family that was found: ``http://[::1]:5173``.
        restarts: How often it was started again in this run.
        exit_code: Of the newest end; ``None`` if it has not ended or was ended by a signal.
        signal: The name of the signal that ended it (``SIGKILL``).
        reason: Why, in words for the dashboard; may be empty.
        ready_after: Seconds from the spawn to readiness, from `READY` on.
    """

    at: float
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


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputLine:
    """A process wrote one whole line.

    Attributes:
        text: Without its line end; of all control sequences only colours (SGR) are left.
    """

    at: float
    process: str
    stream: StreamName
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputPaused:
    """A process wrote the beginning of a line and has paused there: a prompt, or a progress bar.

    A later one of the same stream replaces it, and so does its next whole line, which is then complete: what
    shows whole lines only can leave this alone.

    Attributes:
        text: What there is of the line; as in `OutputLine`. Empty if it was taken back.
    """

    at: float
    process: str
    stream: StreamName
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFinished:
    """The proxy is done with a request, whatever became of it.

    Attributes:
        id: Counts from 1 within the run.
        target: As received, at most 8 KiB of it.
        status: What the client got; ``None`` if it left before an answer began.
        upstream: Who answered.
        reason: Why that one: ``backend answered``, ``backend 404``.
        held: Seconds that the request waited for an upstream to become ready.
        first_byte: Seconds from the request's head to the answer's head; ``None`` without an answer.
        duration: Seconds from the request's head to the end of the exchange.
        bytes_in: Of the request's body.
        bytes_out: Of the answer's body.
    """

    at: float
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


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHeld:
    """A request has begun to wait for an upstream.

    Attributes:
        id: As in `RequestFinished`.
        reason: What it waits for: ``api is starting``.
    """

    at: float
    id: int
    method: str
    target: str
    upstream: UpstreamName
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReleased:
    """A request waits no longer.

    Attributes:
        held: Seconds that it has waited in all.
        outcome: ``ready``: its upstream is; ``failed``: that is not going to be, or not in time;
            ``client-gone``.
    """

    at: float
    id: int
    upstream: UpstreamName
    held: float
    outcome: Literal["ready", "failed", "client-gone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestReplayed:
    """A request whose upstream went away without a byte of an answer is sent again.

    Attributes:
        reason: What became of the first attempt.
    """

    at: float
    id: int
    method: str
    target: str
    upstream: UpstreamName
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSwitched:
    """A process that stayed ready all the time is asked at another address from now on."""

    at: float
    upstream: UpstreamName
    process: str
    url: str
    previous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened:
    """A WebSocket, an HMR socket or an event stream is open."""

    at: float
    id: int
    kind: StreamKind
    target: str
    upstream: UpstreamName


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClosed:
    """A stream has ended.

    Attributes:
        code: The WebSocket close code that was seen first; ``None`` if none was, or it is an event stream.
    """

    at: float
    id: int
    kind: StreamKind
    target: str
    upstream: UpstreamName
    code: int | None
    duration: float
    bytes_in: int
    bytes_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that the user should know and that is no output of a process.

    Attributes:
        code: A stable short name for scripts (``port-moved``).
        hint: The next step; may be empty.
        process: Whom it is about, if it is about one.
    """

    at: float
    level: Literal["info", "warning", "error"]
    code: str
    text: str
    hint: str = ""
    process: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """Everything is over: no process of the run is left."""

    at: float
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
    | Notice
    | RunEnded
)
Observer: TypeAlias = "Callable[[Event], object]"


def _nothing() -> Iterable[Event]:
    return ()


class Bus:
    """Hands every event to every observer, in order, without ever waiting or raising.

    Args:
        snapshot: Gives the events that bring a new observer up to date. They are replayed to it in the same
            synchronous step in which it is added, so that it misses nothing and sees nothing twice.
    """

    def __init__(self, snapshot: Callable[[], Iterable[Event]] = _nothing) -> None:
        self._snapshot = snapshot
        self._observers: list[Observer] = []

    def __repr__(self) -> str:
        return f"<Bus with {len(self._observers)} observers>"

    def subscribe(self, observer: Observer) -> Callable[[], None]:
        """Add `observer` after replaying the snapshot to it; the returned function removes it again."""
        self._observers.append(observer)
        for event in self._snapshot():
            self._hand(observer, event)

        def unsubscribe() -> None:
            if observer in self._observers:
                self._observers.remove(observer)

        return unsubscribe

    def emit(self, event: Event) -> None:
        """Hand `event` to all observers. One that raises is dropped, and the log says so."""
        for observer in tuple(self._observers):
            self._hand(observer, event)

    def _hand(self, observer: Observer, event: Event) -> None:
        try:
            observer(event)
        except Exception:
            if observer in self._observers:
                self._observers.remove(observer)
            logger.exception("An observer of orchestra's events failed and was dropped: %r", observer)
