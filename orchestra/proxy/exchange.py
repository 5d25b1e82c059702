"""One client's connection: its requests, one after the other, and the answer to each.

Strategy. Each connection has a task, but ordinary requests are served while it sleeps: when bytes arrive,
plain functions read a request, ask an upstream, and pass its answer on (`Exchange.advance`). Most requests
only wait for their upstream: an idle connection is available, and the client reads what it gets. Waking a
task twice a request would cost more than all of that. The task is woken for anything else that may have to
wait (`Exchange.run`): an upstream that is not ready, a client that does not read, a WebSocket. Then the
functions go on.

An `Exchange` carries out the steps of its `Route`, one after the other; its `Asker` handles upstreams. Bodies
stream: what has arrived is sent before more is awaited, and waiting for a send is the only flow control. A
second task is needed only for a request whose body is still arriving. An incomplete answer must not look
complete: if its upstream ends in the middle, the client's connection is reset.

All time limits are one number, the `deadline`, which the server checks: a cancel scope for every operation
would cost more than parsing does. When the client leaves, the connection's scope is cancelled, with
everything that was done for it. Whatever is raised, connections to upstreams are either given back or closed
on the way out, at once and without waiting. An upstream sees an orderly end, unless the client itself has
reset its connection.

Error handling: an error in one connection ends that connection; a bug of ours is logged there.

Not here: which connections there are (`server`), what an answer means for a process.
"""

from __future__ import annotations

import logging
from enum import Enum, auto
from math import inf
from typing import TYPE_CHECKING, assert_never

import trio

from orchestra.errors import UpstreamError
from orchestra.hosts import is_from_here
from orchestra.proxy import answers, websocket
from orchestra.proxy.asker import Asker
from orchestra.proxy.connection import ClientConnection, ClientGone
from orchestra.proxy.forward import forwarded_response
from orchestra.proxy.framing import LAST_CHUNK, NO_BODY, LengthBody
from orchestra.proxy.head import BadMessage
from orchestra.proxy.record import Record
from orchestra.proxy.route import Answer, Ask, Availability, Fail, Kept, Route, Signal

if TYPE_CHECKING:
    from orchestra.events import Outcome, UpstreamName
    from orchestra.proxy.answers import Message
    from orchestra.proxy.asker import Reply
    from orchestra.proxy.forward import Peer
    from orchestra.proxy.framing import Body
    from orchestra.proxy.gate import Upstream
    from orchestra.proxy.head import RequestHead, ResponseHead
    from orchestra.proxy.route import Step
    from orchestra.proxy.shared import Shared
    from orchestra.proxy.transport import Transport

__all__ = ["Conversation", "Exchange"]

logger = logging.getLogger(__name__)

# Seconds that a client may take to send a head.
HEADER_TIMEOUT = 10.0
# Seconds that an unused connection of a client stays open; Chromium's own limit is 300.
IDLE_TIMEOUT = 75.0
# Seconds for a client to read our answer if its request was not read to its end.
LINGER = 1.0


class Progress(Enum):
    """The progress of `Exchange.advance`."""

    WAITING = auto()  # for the upstream: continue when its connection has input
    STUCK = auto()  # the next step may have to wait for something else: continue with `run`
    OVER = auto()  # the client has its answer


# Accessing a member by its class takes three times as long.
WAITING, STUCK, OVER = Progress


class Conversation:
    """One client's connection.

    Attributes:
        deadline: The time at which it is aborted, on trio's clock.
        exchange: The current exchange.
        scope: Cancel it to close the connection.
    """

    def __init__(self, shared: Shared, transport: Transport, peer: Peer) -> None:
        self.deadline = shared.now + IDLE_TIMEOUT
        self.scope = trio.CancelScope()
        self._shared = shared
        self._client = ClientConnection(transport, shared.reader, peer)
        self._woken = trio.Event()
        self.exchange: Exchange | None = None
        self._fault: Exception | None = None
        self._is_reading_head = self._is_late = False

    async def run(self) -> None:
        """Serve the connection, from the first request to the end."""
        client = self._client
        try:
            with self.scope:
                client.transport.on_hangup(self._hung_up)
                try:
                    await self._serve_requests()
                except BadMessage as exc:
                    await self._refuse(exc)
                if not client.body.is_complete:
                    self.deadline = trio.current_time() + LINGER
                    client.transport.send_eof()
                    await client.read_off()
            if self._is_late:
                with trio.move_on_after(LINGER):
                    await self._refuse(BadMessage("the request did not arrive in time", status=408))
        except ClientGone:
            pass
        except Exception:
            logger.exception("a bug in orchestra ended one connection: %r", client)
            client.abort()
        finally:
            # Callbacks from now on are too late.
            self._woken.set()
            if self.exchange is not None:
                self.exchange.abandon()
            client.close()

    def expire(self) -> None:
        """Handle the expiry of its deadline."""
        self._is_late = self._is_reading_head
        self.scope.cancel()

    def abort(self) -> None:
        """End it at once: the client sees an error."""
        self.scope.cancel()
        self._client.abort()

    def _hung_up(self, is_reset: bool) -> None:  # noqa: FBT001 - a callback
        self._client.was_reset |= is_reset
        self.scope.cancel()

    async def _serve_requests(self) -> None:
        while True:
            # Sleep while requests are served that need no task.
            self._woken = trio.Event()
            self._serve()
            await self._woken.wait()
            if self._fault is not None:
                raise self._fault
            if self.exchange is None:
                return
            await self.exchange.run()

    # --- While the task sleeps ---

    def _serve(self) -> None:
        """Continue with the bytes that have arrived, as far as possible without waiting."""
        if self._woken.is_set():
            return
        exchange, shared = self.exchange, self._shared
        try:
            if exchange is None and (exchange := self._take_request()) is None:
                self._client.transport.on_input(self._serve)
                return
            progress = exchange.advance()
        except Exception as exc:  # noqa: BLE001 - the task raises it
            self._fault = exc
            self._woken.set()
            return
        if progress is WAITING and (connection := exchange.asker.connection) is not None:
            connection.transport.on_input(self._serve)
        elif progress is not OVER:
            self._woken.set()
        else:
            self.exchange = None
            self.deadline = shared.now + IDLE_TIMEOUT
            if shared.ended:
                shared.ended.unpark_all()
            if exchange.is_last or shared.is_closing:
                self._woken.set()
            elif self._client.unread:
                # Not at once: a client that always sends more would never let others have their turn.
                trio.lowlevel.current_trio_token().run_sync_soon(self._serve)
            else:
                self._client.transport.on_input(self._serve)

    def _take_request(self) -> Exchange | None:
        client, shared = self._client, self._shared
        head = client.take_request()
        if head is not None:
            self._is_reading_head = False
            self.deadline = inf
            self.exchange = Exchange(shared, client, head)
        elif client.unread and not self._is_reading_head:
            self._is_reading_head = True
            self.deadline = shared.now + HEADER_TIMEOUT
        return self.exchange

    async def _refuse(self, fault: BadMessage) -> None:
        head, body = answers.render(answers.explain(fault), None)
        await self._client.send(forwarded_response(head, "orchestra", close=True) + body)


class Exchange:
    """One request and its answer.

    Attributes:
        asker: Holds the connection to the current upstream, if there is one.
        is_last: No request can follow over the client's connection.
    """

    _frontend: Upstream

    def __init__(self, shared: Shared, client: ClientConnection, head: RequestHead) -> None:
        self._shared = shared
        self._client = client
        self._head = head
        number, recent, clock = shared.next_number(), shared.recent, shared.clock
        self._record = record = Record(shared.bus, number, head, client.body, recent, clock, clock())
        self._route = Route(head, shared.router)
        self.asker = Asker(shared, client, head, record)
        # Not in the class: with CPython 3.11 each access then takes 20 ns instead of 1 ns.
        self.is_last = True
        self._websocket: websocket.Tunnel | None = None
        self._step: Step | None = None
        self._answering: Reply | None = None
        self._body: Body = NO_BODY
        self._is_written = False
        self._fault: UpstreamError | BadMessage | None = None

    def advance(self) -> Progress:
        """Continue as far as possible without waiting."""
        progress = WAITING
        try:
            if self._is_written:
                pass
            elif (reply := self._answering) is None:
                progress = self._follow_route()
            elif (piece := reply.connection.take_more()) is not None:
                self._client.write(piece)
                self._is_written = reply.body.is_complete
        except (UpstreamError, BadMessage) as exc:
            self._fault = exc
            return STUCK
        if self._client.unsent:
            return STUCK
        if not self._is_written:
            return progress
        self._end()
        return OVER

    def _follow_route(self) -> Progress:
        """Carry out the next step, unless the answer to the last one has not arrived."""
        asker, step = self.asker, self._step
        if step is None:
            step = self._begin()
        elif isinstance(step, Ask) and asker.connection is not None and asker.reply is None:
            outcome = asker.take_answer()
            if outcome is None:
                return WAITING
            step = self._route.next(outcome)
        self._step = step
        # Matching a class takes a microsecond.
        if isinstance(step, Ask):
            return self._ask(step)
        if isinstance(step, Answer):
            if step.is_kept:
                asker.discard()
            self._answer(asker.kept if step.is_kept else asker.reply, step.reason)
            return WAITING
        match step:
            case Fail(error):
                self._explain(error)
            case Signal.ANSWER_OWN:
                self._answer_own(answers.own(self._head))
            case Signal.RESET:
                self._reset()
            case Signal.WAIT | Signal.UPGRADE:
                return STUCK
            case _:
                assert_never(step)
        return WAITING

    def _begin(self, *, may_wait: bool = True) -> Step:
        shared = self._shared
        self._frontend = shared.frontend_of(self._head)
        backend, frontend = shared.upstreams["backend"].gate.availability, self._frontend.gate.availability
        return self._route.begin(backend, frontend, may_wait=may_wait)

    def _upstream(self, side: UpstreamName) -> Upstream:
        return self._frontend if side == "frontend" else self._shared.upstreams[side]

    def _ask(self, step: Ask) -> Progress:
        asker = self.asker
        if asker.reply is not None and step.keeps_answer:
            kept = asker.keep()
            if kept is Kept.NOT_YET:
                return WAITING
            if kept is not Kept.DONE:
                self._answer(asker.kept, kept.value)
                return WAITING
        elif asker.reply is not None:
            asker.discard()
        return WAITING if asker.ask_now(self._upstream(step.side)) else STUCK

    # --- Steps that may have to wait ---

    async def run(self) -> None:
        """Wait for the reason that has stopped `advance`, which then continues.

        Raises nothing but a cancellation (and bugs of ours); then it has to be abandoned.
        """
        try:
            await self._get_unstuck()
        except (UpstreamError, BadMessage) as exc:
            self._explain(exc)
        except ClientGone:
            self._reset("client-gone")

    async def _get_unstuck(self) -> None:
        shared, asker, step = self._shared, self.asker, self._step
        if self._fault is not None:
            fault, self._fault = self._fault, None
            await self._recover(fault)
        elif self._client.unsent:
            await self._client.drain()
        elif isinstance(step, Ask):
            try:
                await asker.ask(self._upstream(step.side))
            except UpstreamError as exc:
                await self._recover(exc)
        elif step is Signal.WAIT:
            await shared.upstreams["backend"].gate.wait_change(self._record)
            self._step = self._begin(may_wait=self._record.held < shared.plan.hold)
        elif step is Signal.UPGRADE:
            await self._upgrade()

    async def _recover(self, fault: UpstreamError | BadMessage) -> None:
        """Retry, take another step, or end an answer that has begun."""
        asker, upload = self.asker, self.asker.upload
        if upload is not None and upload.fault is not None:
            raise upload.fault
        if self._answering is not None:
            self._break_off(self._answering)
            return
        try:
            await asker.prepare_again(fault)
        except UpstreamError as exc:
            # An incomplete 404 cannot fall back, and cannot be given to the client.
            self._step = self._route.next(exc) if asker.reply is None else Fail(exc)

    async def _upgrade(self) -> None:
        route = websocket.admit(self._head, self._client.peer, self._shared)
        self._record.reason = route.reason
        upstream = self._upstream(route.side)
        try:
            if route.is_ping and upstream.gate.availability is not Availability.READY:
                raise upstream.gate.unavailable()
            reply = await self.asker.shake_hands(upstream, is_guess=route.is_guess)
        except UpstreamError:
            if not route.is_ping:
                raise
            self._reset()
            return
        self._step = Answer(route.reason)
        if reply.head.status == 101:
            self._websocket = websocket.Tunnel(self._client, reply, self._record)
            self._end_if_late(reply)
            await self._websocket.run(route.kind)
            self._is_written = True

    def abandon(self) -> None:
        """End it without an answer: the client has left, or the proxy ends."""
        self._reset("upstream-died" if self._shared.is_closing else "client-gone")
        self._end()

    def report(self, now: float) -> None:
        """Report that it is in flight, if an observer wants that."""
        if self.asker.side is not None:
            self._record.pending(self.asker.side, now)

    def end_stream(self, code: int) -> None:
        """End it if it is a WebSocket, with close code `code`, or an event stream."""
        if self._websocket is not None:
            self._websocket.end_early(code)
        elif self._record.kind is not None:
            self.asker.end_early()

    def _end_if_late(self, reply: Reply) -> None:
        """It has become a stream: end it if all streams were ended meanwhile."""
        if self._shared.is_closing:
            self.end_stream(websocket.GOING_AWAY)
        elif reply.connection.is_stale():
            self.end_stream(websocket.SERVICE_RESTART)

    def _end(self) -> None:
        """End it: report it, and give back its resources."""
        record = self._record
        record.bytes_out = self._body.size
        self.asker.release()
        record.finished()
        if record.kind is not None:
            record.stream_closed(bytes_in=self._client.body.size, bytes_out=record.bytes_out)

    def _answer(self, reply: Reply | None, reason: str) -> None:
        """Begin to pass an upstream's answer on, with the bytes of its body that have arrived."""
        assert reply is not None  # noqa: S101 - the route has judged it
        head, body = reply.head, reply.body
        if body.is_complete:
            # The usual case: all of it is sent in one piece.
            self.asker.release()
        if (doubt := self._route.doubt) is not None:
            self._shared.hints.look_into(doubt, self._head)
        if head.status >= 500 and self._shared.failed is not None and reply.side == "backend":
            self._shared.failed(self._head)
        self._answering = reply
        self._open(reply.side, reason, head, body, reply.read)
        if not body.is_complete and head.media_type == b"text/event-stream" and self._head.method == b"GET":
            self._record.stream_opened("event-stream")
            self._end_if_late(reply)

    def _open(self, side: UpstreamName, reason: str, head: ResponseHead, body: Body, read: bytes) -> None:
        record = self._record
        record.upstream, record.reason = side, reason
        record.answered(head)
        self._body, self._is_written = body, body.is_complete
        self.is_last = self._shared.is_closing or self._client.closes_after(body)
        out = forwarded_response(head, side, has_chunks=body.has_chunks, close=self.is_last)
        self._client.write(out + read)

    def _break_off(self, reply: Reply) -> None:
        """End an answer whose upstream has gone in the middle, or had to end it."""
        asker, body = self.asker, reply.body
        asker.release()
        is_stream = self._record.kind is not None and reply.head.length is None
        if is_stream and asker.was_ended_early and body.is_at_boundary:
            # A stream of events has no end that could be missing.
            self._client.write(LAST_CHUNK if body.has_chunks else b"")
            self._is_written = True
        else:
            # Nothing that could be taken for a complete answer.
            self._reset()

    def _explain(self, error: UpstreamError | BadMessage) -> None:
        self.asker.release()
        if self._record.status is None:
            self._answer_own(answers.explain(error, shows_details=self._is_from_here()))
        else:
            self._reset("upstream-died" if isinstance(error, UpstreamError) else "client-gone")

    def _is_from_here(self) -> bool:
        head = self._head
        addresses = [self._client.peer.address.encode("ascii", "replace")]
        if before := head.values.get(b"x-forwarded-for"):
            addresses += before.split(b",")
        return is_from_here(head.host or b"localhost", addresses)

    def _answer_own(self, message: Message) -> None:
        pages = self._shared.pages
        tag = pages.tag(self._head, message.status) if pages is not None else ""
        head, content = answers.render(message, self._head, tag=tag)
        body = LengthBody(len(content))
        self._open("orchestra", message.reason or message.title, head, body, body.feed(content))

    def _reset(self, outcome: Outcome = "upstream-died") -> None:
        """Let the client see an error, not an answer."""
        self._record.outcome = outcome
        self.is_last = self._is_written = True
        self._client.abort()
