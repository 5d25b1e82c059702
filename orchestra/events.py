"""The events of a run, as frozen structs.

An event is a msgspec struct in the past tense. Its tag is the `type` of the JSON lines, its fields are their
keys: `msgspec.json.encode` writes an event, and `decode` reads any recorded line again.

A new event is a struct here that is also listed in `Event`, and a row in the README; the sentence that the
dashboard and plain output show for it, if any, is in `dashboard/words`.

Not here: how events reach their observers (`bus`), what an event leads to.
"""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct, json, to_builtins

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ON_REQUEST", "ErrorCleared", "ErrorShown", "Event", "Exit", "FilesChanged", "Frame", "InputWanted",
    "Level", "Notice", "Outcome", "OutputLine", "OutputPaused", "PlanChanged", "ProcessMeasured",
    "ReloadSent", "RequestFinished", "RequestHeads", "RequestHeld", "RequestPending", "RequestReleased",
    "RequestReplayed", "RunEnded", "RunStarted", "Stamped", "State", "StateChanged", "StreamClosed",
    "StreamKind", "StreamName", "StreamOpened", "UpstreamName", "UpstreamSwitched", "decode", "encode",
    "encode_lines",
]  # fmt: skip

StreamName: TypeAlias = Literal["stdout", "stderr", "pty"]
UpstreamName: TypeAlias = Literal["backend", "frontend", "orchestra"]
Level: TypeAlias = Literal["info", "warning", "error"]
StreamKind: TypeAlias = Literal["websocket", "event-stream", "hmr"]
Outcome: TypeAlias = Literal["complete", "client-gone", "upstream-died"]

# The time of an event that no bus has stamped yet.
_EPOCH = datetime.fromtimestamp(0, UTC)


class Stamped(Struct, frozen=True, kw_only=True, tag_field="type"):
    """The fields of all events; the bus sets them.

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


class State(Enum):
    """The state of a process; the values are those in JSON and on the dashboard."""

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
        """Whether no child of the process runs and none is going to be started automatically."""
        return self in _ENDED

    @property
    def predicate(self) -> str:
        """The predicate of a sentence about a process in this state: ``is starting``, ``has failed``."""
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


class RunStarted(Stamped, frozen=True, kw_only=True, tag="run.started"):
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


class StateChanged(Stamped, frozen=True, kw_only=True, tag="process.state"):
    """A process entered a state, or a fact about it changed while in it (`state == previous`).

    Attributes:
        pid: The pid of the process group's leader while there is one.
        port: The port where it listens, once that is known.
        url: Its address as a URL, with the address family that was found: ``http://[::1]:5173``.
        second_url: The URL of its second server, if it is both upstreams.
        restarts: The number of restarts in this run.
        exit_code: The exit code of the newest child; ``None`` if it has not ended or was ended by a signal.
        signal: The name of the signal that ended it (``SIGKILL``).
        reason: Why, in words for the dashboard; may be empty.
        ready_after: Seconds from the spawn to readiness, from `READY` on.
        ended_before_ready: Whether the newest child ended before it was ready.
        last_lines: Its last lines of output, oldest first, without colours, if it has failed or is unhealthy.
    """

    process: str
    state: State
    previous: State
    pid: int | None = None
    port: int | None = None
    url: str | None = None
    second_url: str | None = None
    restarts: int = 0
    exit_code: int | None = None
    signal: str | None = None
    reason: str = ""
    ready_after: float | None = None
    ended_before_ready: bool = False
    last_lines: tuple[str, ...] = ()


class OutputLine(Stamped, frozen=True, kw_only=True, tag="process.output"):
    """A process wrote a whole line; without line end and control sequences, except colours (SGR)."""

    process: str
    stream: StreamName
    text: str


class OutputPaused(Stamped, frozen=True, kw_only=True, tag="process.output.partial"):
    """A process wrote the beginning of a line and has paused: a prompt, or a progress bar.

    A later event of the same stream replaces it, and so does its next whole line, which contains it. An
    observer that only shows whole lines can ignore it.

    Attributes:
        text: The beginning of the line; as in `OutputLine`. Empty if it was erased.
    """

    process: str
    stream: StreamName
    text: str


class InputWanted(Stamped, frozen=True, kw_only=True, tag="input.wanted"):
    """A process has paused after a text that looks like a prompt, ``(Pdb)``, and probably waits for input."""

    process: str
    prompt: str


class ProcessMeasured(Stamped, frozen=True, kw_only=True, tag="process.measured"):
    """CPU and memory of a process and all its descendants; emitted every few seconds, only on request.

    Attributes:
        cpu: Cores that it has used since the last event: 0.5 is half of one.
        memory: Bytes in main memory; shared memory counts for each process.
    """

    process: str
    cpu: float
    memory: int


class UpstreamSwitched(Stamped, frozen=True, kw_only=True, tag="upstream.switched"):
    """A process that has stayed ready gets its requests at another address from now on."""

    upstream: UpstreamName
    process: str
    url: str
    previous: str


class _OfRequest(Stamped, frozen=True, kw_only=True):
    """Fields of the events of a request.

    Attributes:
        id: Counts from 1 within the run.
        target: As received, at most 8 KiB of it.
        upstream: The upstream that was asked, or that has answered.
    """

    id: int
    method: str
    target: str
    upstream: UpstreamName


class _OfStream(Stamped, frozen=True, kw_only=True):
    """Fields of the events of a stream, which has begun as a request."""

    id: int
    kind: StreamKind
    target: str
    upstream: UpstreamName


class RequestPending(_OfRequest, frozen=True, kw_only=True, tag="request.pending"):
    """An upstream was asked, and the exchange is not over after a moment.

    Emitted within half a second, and again when another upstream is asked or the answer begins.

    Attributes:
        status: The status of the answer; ``None`` if it has not begun.
        elapsed: Seconds since the request's head arrived.
    """

    status: int | None
    elapsed: float


class RequestHeads(Stamped, frozen=True, kw_only=True, tag="request.heads"):
    """The heads of a request and of its answer as received; emitted before its end, and only on request.

    A request that is held, or not over after a moment, has an earlier event with the heads so far.

    They contain cookies and tokens: not for a log.

    Attributes:
        request: The lines of the request's head, without the first.
        answer: The same of the answer's head; empty if there was none.
    """

    id: int
    request: tuple[str, ...]
    answer: tuple[str, ...]


class RequestFinished(_OfRequest, frozen=True, kw_only=True, tag="request.finished"):
    """The proxy has finished a request, successfully or not.

    Attributes:
        status: The status of the answer; ``None`` if the client left before an answer began.
        reason: Why this upstream has answered: ``backend answered``, ``backend 404``.
        held: Seconds that the request waited for an upstream to become ready.
        first_byte: Seconds from the request's head to the answer's head; ``None`` without an answer.
        duration: Seconds from the request's head to the end of the exchange.
        bytes_in: The size of the request's body.
        bytes_out: The size of the answer's body.
    """

    status: int | None
    reason: str
    held: float
    first_byte: float | None
    duration: float
    bytes_in: int
    bytes_out: int
    outcome: Outcome


class RequestHeld(_OfRequest, frozen=True, kw_only=True, tag="request.held"):
    """A request begins to wait for an upstream, for a reason: ``api is starting``."""

    reason: str


class RequestReleased(Stamped, frozen=True, kw_only=True, tag="request.released"):
    """A request no longer waits.

    Attributes:
        held: Seconds that it has waited in total.
        outcome: ``ready``: its upstream is ready; ``failed``: it cannot become ready, or was not in time;
            ``client-gone``.
    """

    id: int
    upstream: UpstreamName
    held: float
    outcome: Literal["ready", "failed", "client-gone"]


class RequestReplayed(_OfRequest, frozen=True, kw_only=True, tag="request.replayed"):
    """A request is sent again, because its upstream closed the connection without answering."""

    reason: str


class StreamOpened(_OfStream, frozen=True, kw_only=True, tag="stream.opened"):
    """A WebSocket, an HMR socket or an event stream is open."""


class StreamClosed(_OfStream, frozen=True, kw_only=True, tag="stream.closed"):
    """A stream has ended.

    Attributes:
        code: The WebSocket close code that was seen first; ``None`` if none was, or it is an event stream.
    """

    code: int | None
    duration: float
    bytes_in: int
    bytes_out: int


class PlanChanged(Stamped, frozen=True, kw_only=True, tag="plan.changed"):
    """The run follows another plan from now on; starts and restarts are reported after this.

    Attributes:
        reason: The changed file: ``Procfile.dev``; may be empty.
        processes: All processes of the new plan, in the order of the Procfile.
        started: New processes.
        stopped: Processes that are not in the new plan.
        restarted: Processes that need another child.
    """

    reason: str
    processes: tuple[str, ...]
    started: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()


class FilesChanged(Stamped, frozen=True, kw_only=True, tag="files.changed"):
    """Files of a process were saved with new content.

    Attributes:
        paths: Relative to the Procfile's folder where they are below it; sorted, at most 20.
    """

    process: str
    paths: tuple[str, ...]


class ReloadSent(Stamped, frozen=True, kw_only=True, tag="reload.sent"):
    """So many browser tabs have to reload their page, for a reason: ``api is ready``."""

    tabs: int
    reason: str


class Frame(Struct, frozen=True):
    """A line of a traceback.

    Attributes:
        file: As the program wrote it; usually an absolute path.
        line: From 1.
        function: Empty for a syntax error.
        code: The line itself; may be empty.
    """

    file: str
    line: int
    function: str = ""
    code: str = ""


class ErrorShown(Stamped, frozen=True, kw_only=True, tag="error.shown"):
    """A program has failed; pages and dashboard show the error until it is cleared.

    Attributes:
        error_type: The exception's name: ``SyntaxError``; without one, how the process ended.
        message: The exception's message, or the line that explains the end; may be empty.
        file: The absolute path of the developer's own frame, the last one outside of packages; ``None`` if
            there is none.
        line: Its line, from 1.
        frames: The exception's traceback, the oldest frame first.
        exit: How the process ended: ``exit code 1``; empty if it still runs.
        last_lines: Its last lines of output, oldest first, without colours.
        is_fatal: Whether the process has ended by it, does not become ready, or is not restarted; otherwise
            the process has logged it and goes on.
    """

    process: str
    error_type: str
    message: str
    file: str | None = None
    line: int | None = None
    frames: tuple[Frame, ...] = ()
    exit: str = ""
    last_lines: tuple[str, ...] = ()
    is_fatal: bool = True


class ErrorCleared(Stamped, frozen=True, kw_only=True, tag="error.cleared"):
    """The process works again: its error is no longer shown."""

    process: str


class Notice(Stamped, frozen=True, kw_only=True, tag="notice"):
    """A message for the user that is not output of a process.

    Attributes:
        code: A stable short name for scripts (``port-moved``).
        hint: The next step; may be empty.
        process: The process that it is about, if any.
    """

    level: Level
    code: str
    text: str
    hint: str = ""
    process: str | None = None


class RunEnded(Stamped, frozen=True, kw_only=True, tag="run.ended"):
    """The run is over: no process of it is left."""

    exit_code: int
    reason: str
    duration: float


Event: TypeAlias = (
    RunStarted | StateChanged | OutputLine | OutputPaused | InputWanted | ProcessMeasured | RequestPending
    | RequestHeads | RequestFinished | RequestHeld | RequestReleased | RequestReplayed | UpstreamSwitched
    | StreamOpened | StreamClosed | PlanChanged | FilesChanged | ReloadSent | ErrorShown | ErrorCleared
    | Notice | RunEnded
)  # fmt: skip

ON_REQUEST = (ProcessMeasured, RequestHeads)
"""Events that are expensive, or private: an observer only gets them if it names them."""


_ENCODER = json.Encoder()


def encode(event: Struct | dict[str, object]) -> bytes:
    """Encode an event, or an object made of events, as one JSON object, without a line end."""
    try:
        return json.encode(event)
    except UnicodeEncodeError:  # a path that is not UTF-8
        from json import dumps  # noqa: PLC0415 - msgspec's has no error handler

        return dumps(to_builtins(event), ensure_ascii=False).encode("utf-8", "replace")


def encode_lines(events: Sequence[Event]) -> bytes:
    """Encode events as JSON lines, each with its line end."""
    try:
        return _ENCODER.encode_lines(events)
    except UnicodeEncodeError:  # as above
        return b"".join(encode(event) + b"\n" for event in events)


def decode(line: bytes | str) -> Event:
    """Decode a recorded JSON line.

    Raises:
        msgspec.ValidationError: It is not an event, or its type is not known.
        msgspec.DecodeError: It is not JSON.
    """
    event: Event = json.decode(line, type=Event)
    return event
