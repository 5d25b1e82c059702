"""What happens to requests and streams."""

from __future__ import annotations

from typing import Literal, TypeAlias

from orchestra.events.base import Stamped, UpstreamName

__all__ = [
    "Outcome",
    "RequestFinished",
    "RequestHeads",
    "RequestHeld",
    "RequestPending",
    "RequestReleased",
    "RequestReplayed",
    "StreamClosed",
    "StreamKind",
    "StreamOpened",
]

StreamKind: TypeAlias = Literal["websocket", "event-stream", "hmr"]
Outcome: TypeAlias = Literal["complete", "client-gone", "upstream-died"]


class RequestPending(Stamped, frozen=True, kw_only=True, tag="request.pending"):
    """An upstream has been asked, and the exchange is not over after a moment.

    Told within half a second, and again when another upstream is asked or the answer begins.

    Attributes:
        status: Of the answer; ``None`` if it has not begun.
        elapsed: Seconds since the request's head.
    """

    id: int
    method: str
    target: str
    upstream: UpstreamName
    status: int | None
    elapsed: float


class RequestHeads(Stamped, frozen=True, kw_only=True, tag="request.heads"):
    """The heads of a request and of its answer as received, told before its end, and only on request.

    A request that is held, or not over after a moment, tells what there is of them by then, too.

    They have cookies and tokens in them: not for a log.

    Attributes:
        request: The lines of the request's head, without the first.
        answer: Those of the answer's; empty if there was none.
    """

    id: int
    request: tuple[str, ...]
    answer: tuple[str, ...]


class RequestFinished(Stamped, frozen=True, kw_only=True, tag="request.finished"):
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


class RequestHeld(Stamped, frozen=True, kw_only=True, tag="request.held"):
    """A request has begun to wait for an upstream, for a reason: ``api is starting``."""

    id: int
    method: str
    target: str
    upstream: UpstreamName
    reason: str


class RequestReleased(Stamped, frozen=True, kw_only=True, tag="request.released"):
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


class RequestReplayed(Stamped, frozen=True, kw_only=True, tag="request.replayed"):
    """A request whose upstream went away without a byte of an answer, for that reason, is sent again."""

    id: int
    method: str
    target: str
    upstream: UpstreamName
    reason: str


class StreamOpened(Stamped, frozen=True, kw_only=True, tag="stream.opened"):
    """A WebSocket, an HMR socket or an event stream is open."""

    id: int
    kind: StreamKind
    target: str
    upstream: UpstreamName


class StreamClosed(Stamped, frozen=True, kw_only=True, tag="stream.closed"):
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
