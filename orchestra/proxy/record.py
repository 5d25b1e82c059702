"""The events of one exchange. The end of a request is not even built as an event if nothing observes it.

The past of a request is kept for a while, for a terminal that attaches later.

Not here: what happens in an exchange.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Literal

import trio
from msgspec import Struct, field
from msgspec.structs import replace

from orchestra.bus import utc_now
from orchestra.events import (
    RequestFinished,
    RequestHeads,
    RequestHeld,
    RequestPending,
    RequestReleased,
    RequestReplayed,
    StreamClosed,
    StreamOpened,
)
from orchestra.proxy.framing import NO_BODY
from orchestra.proxy.route import Availability

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterator

    from orchestra.bus import Bus
    from orchestra.events import Event, Outcome, StreamKind, UpstreamName
    from orchestra.proxy.framing import Body
    from orchestra.proxy.head import RequestHead, ResponseHead

__all__ = ["Record"]

# Bytes of a target that events contain; data: URLs in queries can be megabytes.
MAX_TARGET = 8192
# Seconds after which a request is reported as in flight; most are over before they could be seen.
_PENDING_AFTER = 0.1


class Record(Struct, eq=False):
    """The data of one request, and its events.

    Attributes:
        upstream: The upstream of the answer.
        status: The status of the answer; ``None`` before it begins.
        reason: The reason for that upstream.
        outcome: How it ended.
        held: Seconds of waiting for upstreams.
        bytes_out: The size of the answer's body.
        kind: The kind of the stream; ``None`` if it is not one.
    """

    _bus: Bus
    _number: int  # requests count from 1
    _head: RequestHead
    _body: Body
    _recent: deque[Record] | None = None  # a request gets it at its end
    _clock: Callable[[], float] = trio.current_time
    _begun: float = field(default_factory=trio.current_time)
    upstream: UpstreamName = "orchestra"
    status: int | None = None
    reason: str = ""
    outcome: Outcome = "complete"
    held: float = 0.0
    bytes_out: int = 0
    kind: StreamKind | None = None
    _is_due: bool = True  # its end was not reported yet
    _first_byte: float | None = None
    _duration: float = 0.0
    _bytes_in: int = 0
    _answer: ResponseHead | None = None
    _reported: tuple[UpstreamName, int | None] | None = None  # of a request that was reported as pending

    @property
    def size(self) -> int:
        """The bytes of the request in memory."""
        return self._body.size + len(self._head.target) + sum(map(len, self._head.lines))

    def answered(self, head: ResponseHead) -> None:
        """Take note that its answer begins."""
        self.status, self._answer = head.status, head
        self._first_byte = self._clock() - self._begun

    def _emit(self, event: Callable[..., Event], **more: object) -> None:
        self._bus.emit(event(id=self._number, target=self._target, **more))

    @property
    def _target(self) -> str:
        return self._head.target[:MAX_TARGET].decode("ascii")

    def _emit_heads(self) -> None:
        if self._bus.wants(RequestHeads):
            self._bus.emit(self._heads())

    def _heads(self) -> RequestHeads:
        return RequestHeads(id=self._number, request=_text(self._head), answer=_text(self._answer))

    @property
    def _method(self) -> str:
        return self._head.method.decode("ascii")

    def pending(self, side: UpstreamName, now: float) -> None:
        """Report once that it is not over, and `side` was asked, unless it has become a stream."""
        elapsed, current = now - self._begun, (side, self.status)
        is_new = self._is_due and self.kind is None and current != self._reported and elapsed > _PENDING_AFTER
        if is_new and self._bus.wants(RequestPending):
            self._reported = current
            more = {"method": self._method, "status": self.status, "elapsed": elapsed}
            self._emit(RequestPending, upstream=side, **more)
            self._emit_heads()

    def finished(self) -> None:
        """Report that the exchange is over, or has become a WebSocket."""
        if not self._is_due:
            return
        self._is_due = False
        self._duration = self._clock() - self._begun
        # A copy of the size, as a reference to the body would keep the bytes after it.
        self._bytes_in, self._body = self._body.size, NO_BODY
        if self._recent is not None:
            self._recent.append(self)
        if self._bus.wants(RequestFinished):
            self._emit_heads()
            self._bus.emit(self._end())

    def past(self) -> Iterator[RequestHeads | RequestFinished]:
        """Give the events of a request that is over; they have no numbers."""
        time = utc_now() - timedelta(seconds=self._clock() - self._begun - self._duration)
        for event in (self._heads(), self._end()):
            yield replace(event, time=time)

    def _end(self) -> RequestFinished:
        return RequestFinished(
            id=self._number,
            target=self._target,
            method=self._method,
            status=self.status,
            upstream=self.upstream,
            reason=self.reason,
            held=self.held,
            first_byte=self._first_byte,
            duration=self._duration,
            bytes_in=self._bytes_in,
            bytes_out=self.bytes_out,
            outcome=self.outcome,
        )

    def begin_wait(self, side: UpstreamName, reason: str) -> None:
        """Report that it begins to wait for an upstream."""
        self._emit(RequestHeld, method=self._method, upstream=side, reason=reason)
        self._emit_heads()

    def end_wait(self, side: UpstreamName, found: Availability | None) -> None:
        """Report that it no longer waits; ``None``: it was cancelled."""
        outcome: Literal["ready", "failed", "client-gone"]
        outcome = "client-gone" if found is None else "ready" if found is Availability.READY else "failed"
        self._bus.emit(RequestReleased(id=self._number, upstream=side, held=self.held, outcome=outcome))

    def replayed(self, side: UpstreamName, reason: str) -> None:
        """Report that it is sent again."""
        self._emit(RequestReplayed, method=self._method, upstream=side, reason=reason)

    def stream_opened(self, kind: StreamKind) -> None:
        """Report that it has become a stream."""
        self.kind = kind
        self._emit(StreamOpened, kind=kind, upstream=self.upstream)

    def stream_closed(self, *, code: int | None = None, bytes_in: int, bytes_out: int) -> None:
        """Report that the stream is over."""
        self._emit(
            StreamClosed,
            kind=self.kind,
            upstream=self.upstream,
            code=code,
            duration=self._clock() - self._begun,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
        )
        self.kind = None


def _text(head: RequestHead | ResponseHead | None) -> tuple[str, ...]:
    return tuple(line.decode("latin-1") for line in head.lines) if head is not None else ()
