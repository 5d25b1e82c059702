"""Sends one request to upstreams, waits until they are ready, and sends it again where that is allowed.

`Asker.prepare_again` says which requests are retried. A connection to an upstream is closed in an orderly
way, unless the client has reset its own: some servers exit at a reset.

A body (`Upload`) has two parts: the bytes that were read, which are kept as long as they are few enough, and
the rest. To begin with an upstream, all kept bytes are sent at once, together with the request's head; a task
passes the rest on as it comes, since the answer may come first. Changing to another upstream is the same:
stop the task, send the kept bytes, go on. So a body that is still arriving can be sent to two upstreams, and
one that the client holds back (``Expect: 100-continue``) can be requested by the second.

Not here: which upstream is asked (`route`), what the client gets (`exchange`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio
from msgspec import Struct

from orchestra.errors import UpstreamError
from orchestra.proxy.connection import BadResponse, ClientGone, UpstreamGone
from orchestra.proxy.forward import forwarded_request, forwarded_response
from orchestra.proxy.head import BadMessage
from orchestra.proxy.route import KEPT_404, Kept
from orchestra.proxy.websocket import handshake_fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.events import UpstreamName
    from orchestra.proxy.connection import ClientConnection, UpstreamConnection
    from orchestra.proxy.framing import Body
    from orchestra.proxy.gate import Upstream
    from orchestra.proxy.head import RequestHead, ResponseHead
    from orchestra.proxy.record import Record
    from orchestra.proxy.shared import Shared

__all__ = ["Asker", "Reply", "Upload"]

# Idempotent methods (RFC 9110 9.2.2).
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})

# Seconds for the frontend to accept a WebSocket that it may not have.
GUESS_TIMEOUT = 1.0
# 1xx that may arrive at once: more is a mistake, and would block all other work.
_MAX_INFORMATIONAL = 100


class Reply(Struct, eq=False):
    """An upstream's answer.

    Attributes:
        head: As received, or as `Pages` has changed it.
        body: The body; it may still be arriving over `connection`.
        read: The bytes of the body so far, as the client gets them.
    """

    side: UpstreamName
    connection: UpstreamConnection
    head: ResponseHead
    body: Body
    read: bytes


class Asker:
    """Sends one request to upstreams.

    Attributes:
        upload: The request's body; ``None`` without one.
        side: The upstream that was asked; ``None`` before that.
        connection: The connection to the current upstream, if there is one.
        reply: The newest answer.
        kept: The first answer, while another upstream is asked.
        was_ended_early: `end_early` was called.
        is_upgrade: The request is for a WebSocket.
    """

    def __init__(self, shared: Shared, client: ClientConnection, head: RequestHead, record: Record) -> None:
        self._shared = shared
        self._client = client
        self._head = head
        self._record = record
        self.side: UpstreamName | None = None
        self.connection: UpstreamConnection | None = None
        self.reply: Reply | None = None
        self.kept: Reply | None = None
        self.was_ended_early = self.is_upgrade = False
        self.upload: Upload | None = None
        self._asked = None if shared.pages is None else shared.pages.asks(head)
        self._forwarded = b""
        self._victim: Upstream | None = None
        if head.is_chunked or head.length:
            may_send_again = head.method in _IDEMPOTENT or shared.router.may_fall_back(head)
            limit = shared.plan.replay_bytes if may_send_again else 0
            self.upload = Upload(client, limit, start_soon=shared.start_soon)

    def ask_now(self, upstream: Upstream) -> bool:
        """Send the request over an idle connection, if one is available; otherwise `ask` has to."""
        if self.upload is not None:
            self.upload.read()
        connection = upstream.take(self._shared.now) if self._may_reuse() else None
        if connection is None:
            return False
        self._send(connection)
        return self.upload is not None or not connection.unsent

    async def ask(self, upstream: Upstream) -> None:
        """Send the request to `upstream` as soon as it is ready; `Unavailable`: it will not be."""
        connection = self.connection
        if connection is None:
            connection = await upstream.connect(self._record, self._shared.now, fresh=not self._may_reuse())
            self._send(connection)
        if self.upload is None:
            await connection.drain()

    def _may_repeat(self) -> bool:
        return self._head.method in _IDEMPOTENT and (self.upload is None or self.upload.can_begin)

    def _may_reuse(self) -> bool:
        return self._may_repeat() and self._client.body.is_complete and not self.is_upgrade

    def _send(self, connection: UpstreamConnection) -> None:
        self.side, self.connection = connection.upstream.gate.side, connection
        # All upstreams get the same bytes.
        data = self._forwarded = self._forwarded or forwarded_request(
            self._asked or self._head, self._client.peer, upgrade=self.is_upgrade
        )
        if self.upload is None:
            connection.write(data)
        else:
            self.upload.begin(connection, data)

    def take_answer(self) -> ResponseHead | None:
        """Take the head of the final answer if it has arrived; 1xx are passed on."""
        connection = self.connection
        assert connection is not None  # noqa: S101 - it was asked
        for _ in range(_MAX_INFORMATIONAL):
            answer = connection.take_head(self._head)
            if answer is None:
                return None
            if answer.status >= 200 or (answer.status == 101 and self.is_upgrade):
                head, pages, side = answer, self._shared.pages, connection.upstream.gate.side
                if self._asked is not None and pages is not None:
                    head, connection.body = pages.change(self._head, answer, connection.body, side)
                # The bytes after a 101 are not a body.
                read = b"" if answer.status == 101 else connection.take()
                self.reply = Reply(side, connection, head, connection.body, read)
                return answer
            if answer.status == 101:
                raise BadResponse("the upstream switched protocols, which was not asked for")
            if self._head.version != b"1.0" and not self.is_upgrade:
                self._client.write(forwarded_response(answer, self._record.upstream))
        raise BadResponse(f"the upstream sent {_MAX_INFORMATIONAL} informational answers at once")

    async def prepare_again(self, fault: UpstreamError | BadMessage) -> None:
        """Prepare to send the request again, or raise `fault`.

        It may be sent again if its connection broke before the first byte of an answer, it is idempotent (RFC
        9110 9.2.2), and its body can be sent again: over each connection that had been idle (it may have been
        closing), and once over a fresh one. A request that is not idempotent is never sent over a connection
        that has been idle.
        """
        connection = self.connection
        self.release()
        if connection is None or not isinstance(fault, UpstreamGone):
            raise fault
        upstream = connection.upstream
        if fault.has_begun or not self._may_repeat():
            raise fault
        if connection.is_reused and not connection.is_stale():
            # Each turn uses up one idle connection; the last turn uses a fresh one.
            return
        await upstream.wait_for_report(connection)
        # A request that crashes its upstream is sent at most twice; not every crash is its fault.
        is_suspect = not (upstream.gate.is_stopping(connection.endpoint.process) or self.was_ended_early)
        if is_suspect and self._victim is upstream:
            raise fault
        self._record.replayed(upstream.gate.side, str(fault))
        self.was_ended_early = False
        if is_suspect:
            self._victim = upstream

    async def shake_hands(self, upstream: Upstream, *, is_guess: bool) -> Reply:
        """Pass a WebSocket's handshake on, over a fresh connection; a 101 is checked.

        `UpstreamError`: there is no valid answer in time. If it `is_guess` that the frontend has the
        WebSocket, the timeout is a `BadMessage`, as Vite never answers for one that it does not have.
        """
        self.is_upgrade = True
        await self.ask(upstream)
        timeout = self._shared.plan.upgrade_timeout
        if is_guess:
            timeout = min(timeout, GUESS_TIMEOUT)
        with trio.move_on_after(timeout):
            while self.take_answer() is None and self.connection is not None:
                await self.connection.wait()
        if self.reply is None and is_guess:
            raise BadMessage(self._shared.hints.miss(self._head.path), status=404, title="No WebSocket")
        if self.reply is None:
            text = f"the {upstream.gate.side} did not answer the WebSocket handshake within {timeout:g} s"
            raise UpstreamError(text, status_hint=504)
        if self.reply.head.status == 101:
            fault = handshake_fault(self._head, self.reply.head)
            if fault is not None:
                raise BadResponse(f"the {upstream.gate.side}: {fault}")
        else:
            self.is_upgrade = False
        return self.reply

    def end_early(self) -> None:
        """Close the connection to the upstream: an answer that has begun breaks off."""
        if self.connection is not None:
            self.was_ended_early = True
            self.connection.close()

    def release(self) -> None:
        """Give up the connection to the upstream; it may be reused if the exchange was complete."""
        connection = self.connection
        if connection is None:
            return
        self.connection = None
        if self.upload is not None:
            self.upload.stop()
        if connection.is_reusable() and self._client.body.is_complete:
            connection.upstream.give_back(connection, self._shared.now)
        elif self._client.was_reset and not self.is_upgrade:
            connection.abort()
        else:
            # An unclaimed upgrade is never reset either: that ends Vite.
            connection.close()

    def keep(self) -> Kept:
        """Keep the newest answer, as far as it has arrived, while another upstream is asked."""
        reply = self.reply
        assert reply is not None  # noqa: S101 - the route has judged it
        body = reply.body
        while body.size <= KEPT_404 and not body.is_complete:
            piece = reply.connection.take_more()
            if piece is None:
                return Kept.NOT_YET
            reply.read += piece
        self.kept, self.reply = reply, None
        if body.size > KEPT_404:
            return Kept.TOO_LARGE
        self.release()
        return Kept.DONE if self.upload is None or self.upload.can_begin else Kept.BODY_TOO_LONG

    def discard(self) -> None:
        """Drop the newest answer; its connection may be reused if the answer is complete."""
        reply, self.reply = self.reply, None
        with suppress(UpstreamError):
            if reply is not None and not reply.body.is_complete:
                # Vite sends its page in one piece, but perhaps after its head.
                reply.connection.take_more()
        self.release()


class Upload:
    """The body of one request; up to `limit` bytes of it are kept, and of a longer one nothing.

    Attributes:
        fault: The error that prevents sending all of it.
    """

    def __init__(self, client: ClientConnection, limit: int, *, start_soon: Callable[..., object]) -> None:
        self._client = client
        self._body = client.body
        self._limit = limit
        self._start_soon = start_soon
        self.fault: Exception | None = None
        self._kept: list[bytes] = []
        self._has_begun = False
        self._sending = trio.CancelScope()

    @property
    def can_begin(self) -> bool:
        """Whether it can be sent from its first byte."""
        return not self._has_begun or self._body.size <= self._limit

    def read(self) -> None:
        """Read the bytes that were received; `BadMessage` if it is not framed as its head says."""
        self._keep(self._client.take())

    def begin(self, upstream: UpstreamConnection, head: bytes) -> None:
        """Send a head and the kept bytes, then the rest as it arrives; `can_begin` has to be true."""
        upstream.write(b"".join([head, *self._kept]))
        self._has_begun = True
        self._keep(b"")
        if upstream.unsent or not self._body.is_complete:
            self._sending = trio.CancelScope()
            self._start_soon(self._send_rest, upstream, self._sending)

    def stop(self) -> None:
        """Stop sending; another upstream may follow."""
        self._sending.cancel()

    async def _send_rest(self, upstream: UpstreamConnection, scope: trio.CancelScope) -> None:
        """Send the rest of the body; if the upstream stops reading, its answer gives the reason."""
        try:
            # Its connection notices that the client has left, and whether by a reset.
            with suppress(UpstreamGone, ClientGone), scope:
                await upstream.drain()
                while not self._body.is_complete:
                    await self._client.wait()
                    # A task that was woken already is only cancelled when it waits again.
                    if scope.cancel_called:
                        return
                    piece = self._client.take_more()
                    if piece:
                        # Counted before it is sent: if the task is stopped while sending, nothing is lost.
                        self._keep(piece)
                        await upstream.send(piece)
        except Exception as exc:  # noqa: BLE001 - the exchange raises it, which waits for the upstream
            self.fault = exc
            upstream.close()

    def _keep(self, piece: bytes) -> None:
        self._kept.append(piece)
        if not self.can_begin:
            self._kept.clear()
