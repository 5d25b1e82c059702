"""One exchange: a request comes in, an upstream is asked, an answer goes out; `Shared` is common to all.

Strategy. An `Exchange` carries out the steps of its `Route`, one after the other, in one loop; its `Asker`
does what concerns upstreams. Bodies stream: what has arrived is sent before more is awaited, and `await send`
is all the flow control there is. Only a request whose body is still on its way needs a second task;
everything else is one straight line in the connection's own task.

What may be tried again stands in `Asker.ask`. What may not be pretended: an answer whose upstream dies in the
middle ends with the client's connection being reset.

Cancellation: the connection's scope is cancelled when its client leaves. Whatever is raised, connections to
upstreams are either given back or closed on the way out, at once and without waiting. An upstream sees an
orderly end, unless the client itself has reset its connection.

Not here: accepting connections, limits of time (`server`), what it all means for a process.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Protocol

import trio
from msgspec import Struct

from orchestra.errors import UpstreamError
from orchestra.proxy import answers
from orchestra.proxy.answers import Message
from orchestra.proxy.connection import BadResponse, ClientGone, UpstreamGone
from orchestra.proxy.forward import (
    forwarded_request,
    forwarded_response,
    host_refusal,
    is_looping,
    origin_refusal,
    websocket_fault,
)
from orchestra.proxy.framing import LAST_CHUNK, NO_BODY
from orchestra.proxy.gate import wait_any_change
from orchestra.proxy.head import BadMessage
from orchestra.proxy.record import Record
from orchestra.proxy.route import (
    KEPT_404,
    RESET,
    WAIT,
    Answer,
    Ask,
    Availability,
    Fail,
    Kept,
    Route,
    Router,
    is_websocket,
)
from orchestra.proxy.upload import Upload
from orchestra.proxy.websocket import Tunnel, shake_hands

if TYPE_CHECKING:
    from orchestra.config.plan import ProxyPlan
    from orchestra.events import Bus, StreamKind
    from orchestra.proxy.connection import ClientConnection, UpstreamConnection
    from orchestra.proxy.forward import Peer
    from orchestra.proxy.framing import Body
    from orchestra.proxy.head import HeadReader, RequestHead, ResponseHead
    from orchestra.proxy.pool import Upstream
    from orchestra.proxy.route import Side, WebSocketRoute

__all__ = ["Asker", "Exchange", "Shared", "Stream"]

# An answer that is not wanted is read to its end up to this size; beyond, a new connection is cheaper.
DISCARDED = 65536
# It is there, or it is not: Vite sends its page in one piece.
DISCARD_LIMIT = 0.5
# More of them are told by their answers alone.
_MOST_ORIGINS = 100

# RFC 9110 9.2.2.
_IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


class Stream(Protocol):
    """Something that stays open until one side closes it."""

    @property
    def connection(self) -> UpstreamConnection | None:
        """To its upstream."""
        ...

    def close(self, code: int) -> None:
        """End it; WebSockets say `code`."""
        ...


class Shared:
    """What all exchanges of a proxy share.

    Attributes:
        streams: All WebSockets and event streams that are open now.
        ended: Where to wait for the end of an exchange or a connection.
        is_closing: No connection is used for another request any more.
        now: The time on trio's clock, as exactly as limits of time are kept.
    """

    def __init__(
        self, plan: ProxyPlan, *, backend: Upstream, frontend: Upstream, bus: Bus, reader: HeadReader
    ) -> None:
        self.plan = plan
        self.backend = backend
        self.frontend = frontend
        self.bus = bus
        self.reader = reader
        # That something elsewhere was restarted is not reported.
        self.router = Router(plan, remembers=plan.memo and backend.gate.is_supervised)
        self.streams: set[Stream] = set()
        self.ended = trio.lowlevel.ParkingLot()
        self.is_closing = False
        self.now = 0.0
        self.next_number = itertools.count(1).__next__
        self._refused_origins: set[bytes | None] = set()

    def __repr__(self) -> str:
        return f"<Shared {self.backend!r} {self.frontend!r}, {len(self.streams)} streams>"

    def upstream(self, side: Side) -> Upstream:
        """Return the upstream of that side."""
        return self.backend if side == "backend" else self.frontend

    def report_origin(self, origin: bytes | None, refused: str) -> None:
        """Say that a page of another origin was refused, once for each."""
        key = origin and origin.lower()
        if key not in self._refused_origins and len(self._refused_origins) < _MOST_ORIGINS:
            self._refused_origins.add(key)
            self.bus.notice("origin-refused", refused)


class Reply(Struct):
    """An upstream's answer.

    Attributes:
        body: May still be on its way over `connection`.
        read: What was read of it, as the client gets it.
        is_open: The connection is still used for it.
    """

    upstream: Upstream
    connection: UpstreamConnection
    head: ResponseHead
    body: Body
    read: bytes
    is_open: bool = True


class _Reset(Exception):  # noqa: N818 - an order, not an error
    """The client is to get no answer but a reset."""


class Asker:
    """Asks upstreams on behalf of one request, and waits for them to be ready (`gate.Waiter`).

    Attributes:
        upload: The request's body; ``None`` without one.
        nursery: For the task that sends a body which is still on its way.
        connection: To the upstream that is being asked; ``None`` while none is.
        reply: The newest answer.
        kept: An answer that was kept while another upstream was asked.
        held: Seconds that the request has waited for upstreams.
        was_ended_early: `end_early` was called.
        is_upgrade: It asks for a WebSocket.
    """

    held = 0.0
    connection: UpstreamConnection | None = None
    reply: Reply | None = None
    kept: Reply | None = None
    was_ended_early = False
    is_upgrade = False
    upload: Upload | None = None
    nursery: trio.Nursery | None = None
    _forwarded = b""
    _deadline: float | None = None

    def __init__(
        self, shared: Shared, client: ClientConnection, head: RequestHead, peer: Peer, record: Record
    ) -> None:
        self._shared = shared
        self._client = client
        self._head = head
        self._peer = peer
        self._record = record
        if head.is_chunked or head.length:
            may_send_again = head.method in _IDEMPOTENT or head.method in shared.router.fallback_methods
            self.upload = Upload(client, shared.plan.replay_bytes if may_send_again else 0)

    async def ask(self, upstream: Upstream) -> ResponseHead | UpstreamError:
        """Send the request to `upstream` and wait for the head of its final answer; 1xx are passed on.

        Returns:
            The head, or why there is none.
        """
        try:
            return await self._ask(upstream)
        except UpstreamError as exc:
            self.close()
            return exc

    async def _ask(self, upstream: Upstream) -> ResponseHead:
        """Ask again where that may be done.

        It may be sent again if its connection died before the first byte of an answer, it is idempotent
        (RFC 9110 9.2.2), and all of it is still at hand: over each connection that had been idle (it may have
        been closing), and once over a fresh one. A request that is not idempotent is never sent over a
        connection that has been idle.
        """
        upload = self.upload
        is_repeatable = self._head.method in _IDEMPOTENT
        may_reuse = is_repeatable and (upload is None or (upload.is_complete and upload.can_begin))
        has_met_a_death = False
        while True:
            connection = upstream.take(self._shared.now) if may_reuse else None
            if connection is None:
                connection = await upstream.connect(self, self._shared.now, fresh=not may_reuse)
            self.connection = connection
            try:
                answer = await self._send_and_wait(connection)
                self.reply = Reply(upstream, connection, answer, connection.body, connection.take())
            except UpstreamGone as exc:
                self.close()
                if upload is not None:
                    await upload.stop()  # noqa: ASYNC120 - nothing is lost if it is cancelled
                if not is_repeatable or exc.has_begun or (upload is not None and not upload.can_begin):
                    raise
                # The time in which an answer was awaited does not count: only being held does.
                self._deadline = None
                if connection.is_reused and not upstream.is_stale(connection):
                    # Each turn uses up one idle connection; the last turn is one with a fresh one.
                    continue
                await upstream.wait_for_news(connection)  # noqa: ASYNC120 - as above
                # A request that kills what gets it is sent twice at most; not every death is its fault.
                is_suspect = not (upstream.gate.is_stopping(connection.process) or self.was_ended_early)
                if is_suspect and has_met_a_death:
                    raise
                self._record.replayed(upstream.gate.side, str(exc))
                self.was_ended_early = False
                has_met_a_death = has_met_a_death or is_suspect
            else:
                return answer

    async def _send_and_wait(self, connection: UpstreamConnection) -> ResponseHead:
        head, upload = self._head, self.upload
        # All upstreams get the same bytes.
        forwarded = self._forwarded = self._forwarded or forwarded_request(head, self._peer)
        if upload is None:
            await connection.send(forwarded)
        else:
            await self._send_with_body(connection, upload)
        while True:
            answer = await connection.read_head(head)
            if answer.status >= 200:
                return answer
            if answer.status == 101:
                raise BadResponse("the upstream switched protocols, which was not asked for")
            if head.version != b"1.0":
                await self._client.send(forwarded_response(answer, self._record.upstream))

    async def _send_with_body(self, connection: UpstreamConnection, upload: Upload) -> None:
        try:
            await connection.send(self._forwarded + upload.begin())
        except UpstreamGone:
            # It may have refused the body, and have said so before it closed.
            upload.is_sent = False
        else:
            if self.nursery is not None and not upload.is_complete:
                upload.go_on(self.nursery, connection)

    async def shake_hands(self, upstream: Upstream) -> Reply:
        """Pass a WebSocket's handshake on, over a fresh connection."""
        forwarded = forwarded_request(self._head, self._peer, upgrade=True)
        self.is_upgrade = True
        connection = await upstream.connect(self, self._shared.now, fresh=True)
        self.connection = connection
        answer = await shake_hands(
            connection,
            self._head,
            forwarded,
            name=upstream.gate.side,
            timeout=self._shared.plan.upgrade_timeout,
        )
        if answer.status == 101:
            return Reply(upstream, connection, answer, NO_BODY, b"")
        self.is_upgrade = False
        return Reply(upstream, connection, answer, connection.body, connection.take())

    def end_early(self) -> None:
        """Close the connection to the upstream: an answer that has begun breaks off."""
        if self.connection is not None:
            self.was_ended_early = True
            self.connection.close()

    def close(self) -> None:
        """Close the connection to the upstream that is being asked, if there is one."""
        connection = self.connection
        if connection is not None:
            self.connection = None
            # An upgrade that was not claimed is never reset: that ends Vite.
            if self._client.was_reset and not self.is_upgrade:
                connection.abort()
            else:
                connection.close()

    def release(self, reply: Reply) -> None:
        """Give the connection of an answer back, whose body is complete."""
        if reply.is_open:
            reply.is_open = False
            self.connection = None
            if self.upload is None or self.upload.is_sent:
                reply.upstream.give_back(reply.connection, self._shared.now)
            else:
                reply.connection.close()

    async def set_aside(self, *, keep: bool) -> Kept | None:
        """Make room for another answer: keep or discard this one; say why that is not possible."""
        if keep and self.reply is not None:
            self.kept, self.reply = self.reply, None
            return await self._keep(self.kept)
        await self.discard()
        return None

    async def _keep(self, reply: Reply) -> Kept | None:
        body = reply.body
        if not body.is_complete:
            parts = [reply.read]
            while body.size <= KEPT_404 and not body.is_complete:
                parts.append(await reply.connection.more())
            reply.read = b"".join(parts)
        if body.size > KEPT_404:
            return Kept.TOO_LARGE
        self.release(reply)
        if self.upload is not None:
            await self.upload.stop()
            if not self.upload.can_begin:
                return Kept.BODY_TOO_LONG
        return None

    async def discard(self) -> None:
        """Read the newest answer to its end, if that is near, so that the connection may serve again."""
        reply = self.reply
        if reply is None:
            return
        self.reply = None
        body = reply.body
        try:
            if not body.is_complete and (reply.head.length or 0) <= DISCARDED:
                with trio.move_on_after(DISCARD_LIMIT):
                    while body.size <= DISCARDED and not body.is_complete:
                        await reply.connection.more()
        except UpstreamError:
            pass
        if body.is_complete:
            self.release(reply)
        else:
            self.close()

    # --- Waiting ---

    def deadline(self) -> float:
        """See `Waiter`."""
        if self._deadline is None:
            self._deadline = trio.current_time() + self._shared.plan.hold - self.held
        return self._deadline

    def weigh(self) -> int:
        """See `Waiter`."""
        size = 0 if self.upload is None else self.upload.size
        return size + len(self._head.target) + sum(map(len, self._head.lines))

    def begin_wait(self, side: Side, reason: str) -> None:
        """See `Waiter`."""
        self._record.held(side, reason)

    def end_wait(self, side: Side, found: Availability | None) -> None:
        """See `Waiter`."""
        self._record.released(side, found, self.held)


class Exchange:
    """One request and what becomes of it.

    Args:
        peer: The client.

    Attributes:
        is_last: No request can follow over the client's connection.
    """

    is_last = True
    _bytes_out = 0
    _is_stream = False

    def __init__(self, shared: Shared, client: ClientConnection, head: RequestHead, peer: Peer) -> None:
        self._shared = shared
        self._client = client
        self._head = head
        self._peer = peer
        self._record = Record(shared.bus, shared.next_number(), head)
        self._asker = Asker(shared, client, head, peer, self._record)

    def __repr__(self) -> str:
        return f"<Exchange {self._record!r}>"

    @property
    def connection(self) -> UpstreamConnection | None:
        """To the upstream that is being asked; ``None`` while none is."""
        return self._asker.connection

    async def run(self) -> None:
        """See it through, and report it.

        Nothing is raised but a cancellation (and mistakes of ours).
        """
        record, upload = self._record, self._asker.upload
        try:
            try:
                if upload is None or upload.look():
                    await self._follow_route()
                else:
                    await self._run_with_upload(upload)
            except (UpstreamError, BadMessage) as exc:
                await self._explain(exc)
        except ClientGone:
            record.outcome = "client-gone"
            self._client.abort()
        except _Reset:
            record.outcome = "upstream-died"
            self._client.abort()
        except BaseException:
            # Most often a cancellation: the client has left, or the proxy ends.
            record.outcome = "upstream-died" if self._shared.is_closing else "client-gone"
            self._client.abort()
            raise
        finally:
            self._asker.close()
            self._finish()

    def end_early(self) -> None:
        """Close the connection to the upstream: an answer that has begun breaks off."""
        self._asker.end_early()

    def close(self, code: int) -> None:
        """End the event stream that this exchange has become; it has no words for `code`."""
        del code
        self._asker.end_early()

    async def _run_with_upload(self, upload: Upload) -> None:
        """Follow the route with a second task at hand, which sends the body while the answer is awaited."""
        fault: Exception | None = None
        async with trio.open_nursery() as nursery:
            self._asker.nursery = nursery
            try:
                await self._follow_route()
            except (ClientGone, UpstreamError, BadMessage, _Reset) as exc:
                # Out of the nursery, before it wraps it into a group.
                fault = exc
            nursery.cancel_scope.cancel()
        self._asker.nursery = None
        fault = upload.fault or fault
        if fault is not None:
            raise fault

    async def _follow_route(self) -> None:
        """Carry out one step after the other until there is an answer."""
        head, shared, asker = self._head, self._shared, self._asker
        refusal = self._refusal()
        if refusal is not None:
            await self._say(refusal)
            return
        if b"upgrade" in head.values and is_websocket(head):
            await self._websocket()
            return
        backend, frontend = shared.backend.gate, shared.frontend.gate
        route = Route(head, shared.router)
        step = route.begin(backend.availability, frontend.availability)
        while True:
            match step:
                case Ask():
                    kept = None if asker.reply is None else await asker.set_aside(keep=step.keeps_answer)
                    step = route.next(kept or await asker.ask(shared.upstream(step.side)))
                case Answer():
                    await self._answer(step)
                    return
                case Fail():
                    raise step.error
                case _ if step is WAIT:
                    await self._wait_for_either()
                    may_wait = trio.current_time() < self._asker.deadline()
                    step = route.begin(backend.availability, frontend.availability, may_wait=may_wait)
                case _ if step is RESET:
                    raise _Reset
                case _:
                    self._record.reason = "orchestra's own path"
                    await self._say(answers.own(head))
                    return

    def _refusal(self) -> Message | None:
        head = self._head
        refused = host_refusal(head.host, self._shared.plan.allowed_hosts)
        if refused is not None:
            return Message(status=403, title="Host not allowed", text=f"{refused}.")
        if b"via" in head.values and is_looping(head):
            text = "The request has come through here again and again: an upstream sends it back."
            return Message(status=508, title="Loop Detected", text=text)
        return None

    async def _wait_for_either(self) -> None:
        begun = trio.current_time()
        try:
            gates = (self._shared.backend.gate, self._shared.frontend.gate)
            await wait_any_change(gates, self._asker.deadline())
        finally:
            self._asker.held += trio.current_time() - begun

    # --- Answering ---

    async def _answer(self, step: Answer) -> None:
        asker = self._asker
        reply = asker.kept if step.is_kept else asker.reply
        assert reply is not None  # noqa: S101 - the route has judged it
        await self._pass_on(reply, step.reason)
        if step.is_kept:
            await asker.discard()

    async def _pass_on(self, reply: Reply, reason: str) -> None:
        """Send an answer to the client while it comes."""
        record, client, head, body = self._record, self._client, reply.head, reply.body
        record.reason, record.upstream = reason, reply.upstream.gate.side
        self.is_last = self._shared.is_closing or client.closes_after(body)
        out = forwarded_response(head, record.upstream, has_chunks=body.has_chunks, close=self.is_last)
        record.answered(head.status)
        if body.is_complete:
            # The usual case: all of it is here, and goes out in one piece.
            self._bytes_out = body.size
            self._asker.release(reply)
            await client.send(out + reply.read)
            return
        if head.media_type == b"text/event-stream" and self._head.method == b"GET":
            self._is_stream = True
            self._shared.streams.add(self)
            record.stream_opened("event-stream")
        try:
            await client.send(out + reply.read)
            while not body.is_complete:
                piece = await reply.connection.more()
                if piece:
                    await client.send(piece)
            self._asker.release(reply)
        except UpstreamError:
            await self._break_off(reply)
        finally:
            self._bytes_out = body.size
            self._shared.streams.discard(self)

    async def _explain(self, error: UpstreamError | BadMessage) -> None:
        """Say why there is no answer, if none has begun."""
        self._asker.close()
        if self._record.status is None:
            self._record.reason, message = answers.explain(error)
            await self._say(message)
        else:
            self._record.outcome = "upstream-died" if isinstance(error, UpstreamError) else "client-gone"
            self._client.abort()

    async def _break_off(self, reply: Reply) -> None:
        """End an answer whose upstream has gone in the middle, or was told to."""
        asker, body = self._asker, reply.body
        asker.close()
        if self._is_stream and asker.was_ended_early and reply.head.length is None and body.is_at_boundary:
            # A stream of events has no end that could be missing.
            await self._client.send(LAST_CHUNK if body.has_chunks else b"")
        else:
            # Nothing that could be taken for the whole answer.
            self._record.outcome = "upstream-died"
            self.is_last = True
            self._client.abort()

    async def _say(self, message: Message) -> None:
        """Give an answer of our own."""
        record, client = self._record, self._client
        record.upstream = "orchestra"
        record.reason = record.reason or message.title
        self.is_last = self._shared.is_closing or client.closes_after(NO_BODY)
        head, body = answers.render(message, self._head)
        record.answered(head.status)
        self._bytes_out = len(body)
        await client.send(forwarded_response(head, "orchestra", close=self.is_last) + body)

    # --- WebSockets ---

    async def _websocket(self) -> None:
        shared, head, record = self._shared, self._head, self._record
        fault = websocket_fault(head)
        if fault is not None:
            status, text = fault
            extra = ((b"Sec-WebSocket-Version", b"13"),) if status == 426 else ()
            await self._say(Message(status=status, title="No WebSocket", text=f"{text}.", headers=extra))
            return
        route = shared.router.websocket(
            head,
            has_backend=shared.backend.gate.availability is not Availability.ABSENT,
            has_frontend=shared.frontend.gate.availability is not Availability.ABSENT,
        )
        record.reason = route.reason
        if route.side != "backend":
            origin = head.values.get(b"origin")
            refused = origin_refusal(origin, head.host, self._peer.port, shared.plan.allowed_origins)
            if refused is not None:
                shared.report_origin(origin, refused)
                await self._say(Message(status=403, title="Origin not allowed", text=f"{refused}."))
                return
        if route.side is None:
            await self._say(answers.own(head))
            return
        upstream = shared.upstream(route.side)
        if route.is_ping and upstream.gate.availability is not Availability.READY:
            raise _Reset
        try:
            reply = await self._asker.shake_hands(upstream)
        except UpstreamError:
            if route.is_ping:
                raise _Reset from None
            raise
        if reply.head.status == 101:
            await self._tunnel(reply, route)
        else:
            await self._pass_on(reply, route.reason)

    async def _tunnel(self, reply: Reply, route: WebSocketRoute) -> None:
        client, record = self._client, self._record
        record.upstream = reply.upstream.gate.side
        # From here on the end of the client's bytes is half of a goodbye, not the client's leaving.
        client.transport.on_hangup(None)
        await client.send(forwarded_response(reply.head, record.upstream, upgrade=True))
        record.answered(101)
        self._finish()
        await _WebSocket(client, reply.connection).run(self._shared, record, route.kind)
        self._asker.connection = None

    def _finish(self) -> None:
        upload = self._asker.upload
        bytes_in = 0 if upload is None else upload.size
        self._record.finished(held=self._asker.held, bytes_in=bytes_in, bytes_out=self._bytes_out)
        if self._is_stream:
            self._record.stream_closed("event-stream", bytes_in=bytes_in, bytes_out=self._bytes_out)


class _WebSocket:
    """A tunnel in the list of open streams."""

    def __init__(self, client: ClientConnection, upstream: UpstreamConnection) -> None:
        self.connection: UpstreamConnection | None = upstream
        self._tunnel = Tunnel(client, upstream)

    async def run(self, shared: Shared, record: Record, kind: StreamKind) -> None:
        tunnel = self._tunnel
        shared.streams.add(self)
        record.stream_opened(kind)
        try:
            await tunnel.run()
        finally:
            shared.streams.discard(self)
            record.stream_closed(
                kind, code=tunnel.close_code, bytes_in=tunnel.bytes_in, bytes_out=tunnel.bytes_out
            )

    def close(self, code: int) -> None:
        self._tunnel.close(code)
