"""A request's body on its way to an upstream, and what is kept of it in case that it has to be sent again.

Strategy. A body has two parts: what was read of it, which is kept as long as it is small enough, and what is
still to come. To begin with an upstream means to send all that is kept at once, together with the request's
head; the rest is passed on as it comes, by a task, since the answer may come first. To begin again with
another upstream is the same thing: stop the task, send what is kept, go on. So a body that is still being
sent can be sent to two, and one that the client holds back (``Expect: 100-continue``) can be asked for by the
second.

Not here: whether a request may be sent again (`asker`, `route`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from orchestra.errors import UpstreamError
from orchestra.proxy.connection import ClientGone, UpstreamGone
from orchestra.proxy.head import BadMessage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from orchestra.proxy.connection import ClientConnection, UpstreamConnection

__all__ = ["Upload"]


class Upload:
    """The body of one request.

    Args:
        client: Its sender.
        limit: Bytes of it that are kept; of a longer one nothing is.

    Attributes:
        is_sent: All of it was sent to the upstream that was begun with last.
    """

    def __init__(self, client: ClientConnection, limit: int) -> None:
        self._client = client
        self._body = client.body
        self._limit = limit
        self._kept: list[bytes] = []
        self._has_begun = False
        self._sending = trio.CancelScope()
        self._nursery: trio.Nursery | None = None
        self.is_sent = False

    @property
    def can_begin(self) -> bool:
        """Whether it can be sent from its first byte on."""
        return not self._has_begun or self._body.size <= self._limit

    def look(self) -> bool:
        """Read what is here without waiting; return whether that is all of it.

        Raises:
            BadMessage: It is not framed as its head said.
        """
        self._keep(self._client.take())
        return self._body.is_complete

    def begin(self) -> bytes:
        """Return what is kept; `can_begin` has to be true."""
        kept = b"".join(self._kept)
        self._has_begun = True
        self.is_sent = self._body.is_complete
        self._keep(b"")
        return kept

    async def accompany(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do `work` with a second task at hand, which sends the rest of the body meanwhile (`go_on`).

        Raises:
            ClientGone: The body will never be complete.
            BadMessage: It is not framed as its head said.
        """
        fault: Exception | None = None
        try:
            async with trio.open_nursery() as self._nursery:
                await work()
                self._nursery.cancel_scope.cancel()
        except* (ClientGone, UpstreamError, BadMessage) as group:
            fault = group.exceptions[0]
        self._nursery = None
        if fault is not None:
            raise fault

    def go_on(self, upstream: UpstreamConnection) -> None:
        """Send the rest as it comes, after `begin`; if the upstream stops reading, its answer says why."""
        if self._nursery is not None and not self._body.is_complete:
            self._sending = trio.CancelScope()
            self._nursery.start_soon(self._send_rest, upstream, self._sending)

    def stop(self) -> None:
        """Stop sending; another upstream may follow."""
        self._sending.cancel()

    async def _send_rest(self, upstream: UpstreamConnection, scope: trio.CancelScope) -> None:
        with suppress(UpstreamGone), scope:
            while not self._body.is_complete:
                await self._client.wait()
                # A task that was woken already is not cancelled before it waits again.
                if scope.cancel_called:
                    return
                piece = self._client.take_more()
                if piece:
                    # Noted before it is sent: if it is stopped while sending, nothing is lost.
                    self._keep(piece)
                    await upstream.send(piece)
            if not scope.cancel_called:
                self.is_sent = True

    def _keep(self, piece: bytes) -> None:
        """Keep what was read, or forget all of it if that is too much."""
        self._kept.append(piece)
        if not self.can_begin:
            self._kept.clear()
