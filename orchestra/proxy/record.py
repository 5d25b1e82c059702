"""What the events tell of one exchange. An event that nothing is subscribed to is not even built.

Not here: what happens in an exchange.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import trio

from orchestra.events import (
    RequestFinished,
    RequestHeld,
    RequestReleased,
    RequestReplayed,
    StreamClosed,
    StreamOpened,
)
from orchestra.proxy.route import Availability

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.events import Bus, Event, Outcome, StreamKind, UpstreamName
    from orchestra.proxy.head import RequestHead
    from orchestra.proxy.route import Side

__all__ = ["Record"]

# Bytes of a target that events carry; data: URLs in queries have been seen to be megabytes.
MAX_TARGET = 8192


class Record:
    """What is known of one request, and its events.

    Args:
        number: Requests count from 1.

    Attributes:
        upstream: Where the answer comes from.
        status: The status of the answer; ``None`` before it begins.
        reason: Why it is that answer.
        is_due: Its end is still to be told, to an observer that wants to know.
    """

    upstream: UpstreamName = "orchestra"
    status: int | None = None
    reason = ""
    outcome: Outcome = "complete"
    _first_byte: float | None = None

    def __init__(self, bus: Bus, number: int, head: RequestHead) -> None:
        self._bus = bus
        self._number = number
        self._head = head
        self.is_due = bus.wants(RequestFinished)
        self._begun = trio.current_time()

    def _target(self) -> str:
        return self._head.target[:MAX_TARGET].decode("ascii")

    def answered(self, status: int) -> None:
        """Its answer begins."""
        self.status = status
        if self.is_due:
            self._first_byte = trio.current_time() - self._begun

    def _tell(self, kind: Callable[..., Event], **more: object) -> None:
        method, target = self._head.method.decode("ascii"), self._target()
        self._bus.emit(kind(id=self._number, method=method, target=target, **more))

    def finished(self, *, held: float, bytes_in: int, bytes_out: int) -> None:
        """The exchange is over, or has become a WebSocket."""
        self.is_due = False
        self._tell(
            RequestFinished,
            status=self.status,
            upstream=self.upstream,
            reason=self.reason,
            held=held,
            first_byte=self._first_byte,
            duration=trio.current_time() - self._begun,
            bytes_in=bytes_in,
            bytes_out=bytes_out,
            outcome=self.outcome,
        )

    def held(self, side: Side, reason: str) -> None:
        """It begins to wait for an upstream."""
        self._tell(RequestHeld, upstream=side, reason=reason)

    def replayed(self, side: Side, reason: str) -> None:
        """It is sent again."""
        self._tell(RequestReplayed, upstream=side, reason=reason)

    def released(self, side: Side, found: Availability | None, held: float) -> None:
        """It waits no longer; ``None``: it was cancelled."""
        outcome: Literal["ready", "failed", "client-gone"]
        outcome = "client-gone" if found is None else "ready" if found is Availability.READY else "failed"
        self._bus.emit(RequestReleased(id=self._number, upstream=side, held=held, outcome=outcome))

    def stream_opened(self, kind: StreamKind) -> None:
        """It has become a stream."""
        self._bus.emit(
            StreamOpened(id=self._number, kind=kind, target=self._target(), upstream=self.upstream)
        )

    def stream_closed(
        self, kind: StreamKind, *, code: int | None = None, bytes_in: int, bytes_out: int
    ) -> None:
        """The stream is over."""
        self._bus.emit(
            StreamClosed(
                id=self._number,
                kind=kind,
                target=self._target(),
                upstream=self.upstream,
                code=code,
                duration=trio.current_time() - self._begun,
                bytes_in=bytes_in,
                bytes_out=bytes_out,
            )
        )
