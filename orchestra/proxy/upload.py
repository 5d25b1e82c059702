"""A request's body on its way to an upstream, and what is kept of it in case that it has to be sent again.

Strategy. A body has two parts: what has been read of it, which is kept as long as it is small enough, and
what is still to come. To begin with an upstream means to send all that is kept at once, together with the
request's head; the rest is passed on as it comes, by a task, since the answer may come first. To begin again
with another upstream is the same thing: stop the task, send what is kept, go on. So a body that is still
being sent can be sent to two, and one that the client holds back (``Expect: 100-continue``) can be asked for
by the second.

Never here: whether a request may be sent again (`relay.py`, `route.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from orchestra.proxy.message import BadMessage, forwarded_trailers
from orchestra.proxy.wire import ClientGone, End, UpstreamGone

if TYPE_CHECKING:
    from orchestra.proxy.wire import BodyEvent, ClientSide, UpstreamSide

__all__ = ["Upload"]


class Upload:
    """The body of one request.

    Args:
        client: Who sends it.
        is_empty: There is none.
        limit: Bytes of it that are kept; of a longer one nothing is.

    Attributes:
        size: Bytes that have been read.
        is_complete: All of it has been read.
        fault: Why it will never be complete.
    """

    def __init__(self, client: ClientSide, *, is_empty: bool, limit: int) -> None:
        self._client = client
        self._limit = limit
        self._kept: list[BodyEvent] = [End()] if is_empty else []
        self._has_begun = False
        self._sending: _Sending | None = None
        self.size = 0
        self.is_complete = is_empty
        self.fault: ClientGone | BadMessage | None = None

    def __repr__(self) -> str:
        return f"<Upload of {self.size} bytes{', complete' if self.is_complete else ''}>"

    @property
    def can_begin(self) -> bool:
        """Whether it can be sent from its first byte on."""
        return not self._has_begun or self.size <= self._limit

    def look(self) -> None:
        """Read what is here without waiting.

        Raises:
            BadMessage: It is not framed as its head said.
        """
        while not self.is_complete and (event := self._client.next_event()) is not None:
            self._take(event)

    def begin(self, side: UpstreamSide) -> list[bytes]:
        """Return what is kept, encoded for an upstream; `can_begin` has to be true."""
        parts = [piece for event in self._kept for piece in _encoded(side, event)]
        self._has_begun = True
        self._forget_too_much()
        return parts

    def go_on(self, nursery: trio.Nursery, side: UpstreamSide) -> None:
        """Send the rest as it comes, after `begin`, in a task.

        That the upstream stops reading is its answer's business. If the body turns out never to be complete,
        `fault` says so, and everything in `nursery` is cancelled.
        """
        self._sending = _Sending()
        nursery.start_soon(self._send_rest, nursery, side, self._sending)

    async def stop(self) -> None:
        """Stop sending; another upstream may follow."""
        if self._sending is not None:
            self._sending.scope.cancel()
            await self._sending.has_ended.wait()

    async def _send_rest(self, nursery: trio.Nursery, side: UpstreamSide, sending: _Sending) -> None:
        try:
            with sending.scope:
                while not self.is_complete:
                    event = self._client.next_event()
                    if event is None:
                        await self._client.fill()
                    else:
                        # Noted before it is sent: who is stopped while sending has lost nothing.
                        self._take(event)
                        self._forget_too_much()
                        await side.send(b"".join(_encoded(side, event)))
        except UpstreamGone:
            pass
        except (ClientGone, BadMessage) as exc:
            self.fault = exc
            side.abort()
            nursery.cancel_scope.cancel()
        finally:
            sending.has_ended.set()

    def _take(self, event: BodyEvent) -> None:
        if isinstance(event, End):
            self.is_complete = True
        else:
            self.size += len(event)
        self._kept.append(event)

    def _forget_too_much(self) -> None:
        if self.size > self._limit:
            self._kept.clear()


class _Sending:
    """The task that sends the rest."""

    __slots__ = ("has_ended", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.has_ended = trio.Event()


def _encoded(side: UpstreamSide, event: BodyEvent) -> list[bytes]:
    if isinstance(event, End):
        return [side.encode_end(forwarded_trailers(event.trailers))]
    return side.encode_data(event)
