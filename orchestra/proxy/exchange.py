"""One exchange: a request comes in, an upstream is asked, an answer goes out.

Strategy. An `Exchange` carries out the steps of its `Route`, one after the other; its `Asker` does what
concerns upstreams. Most requests never have to wait for anything but their upstream: an idle connection is at
hand, and the client takes what it gets. `begin` and `advance` carry out such steps whenever bytes arrive.
What may have to wait otherwise is for `run`, in the connection's task, which goes on from there. Bodies
stream: what has arrived is sent before more is awaited, and a send that waits is all the flow control there
is. Only a request whose body is still on its way needs a second task.

An incomplete answer must not look complete: if its upstream ends in the middle, the client's connection is
reset.

Cancellation: the connection's scope is cancelled when its client leaves. Whatever is raised, connections to
upstreams are either given back or closed on the way out, at once and without waiting. An upstream sees an
orderly end, unless the client itself has reset its connection.

Not here: accepting connections, limits of time (`server`), what it all means for a process.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, assert_never

import trio

from orchestra.errors import UpstreamError
from orchestra.proxy import answers, websocket
from orchestra.proxy.answers import Message
from orchestra.proxy.asker import Asker
from orchestra.proxy.connection import ClientGone
from orchestra.proxy.forward import forwarded_response, host_refusal, is_looping
from orchestra.proxy.framing import LAST_CHUNK, NO_BODY
from orchestra.proxy.head import BadMessage
from orchestra.proxy.record import Record
from orchestra.proxy.route import Answer, Ask, Availability, Fail, Route, Signal
from orchestra.proxy.websocket import Tunnel

if TYPE_CHECKING:
    from orchestra.events import StreamKind
    from orchestra.proxy.asker import Reply
    from orchestra.proxy.connection import ClientConnection, UpstreamConnection
    from orchestra.proxy.forward import Peer
    from orchestra.proxy.head import RequestHead
    from orchestra.proxy.route import Step
    from orchestra.proxy.shared import Shared
    from orchestra.proxy.upload import Upload

__all__ = ["Exchange", "Progress"]


class Progress(Enum):
    """How far `Exchange.advance` has come."""

    WAITING = auto()  # for the upstream: go on when its connection has input
    STUCK = auto()  # the next step may have to wait for something else: go on with `run`
    OVER = auto()  # the client has its answer


class _Reset(Exception):  # noqa: N818 - an order, not an error
    """The client is to get no answer but a reset."""


class Exchange:
    """One request and what becomes of it.

    Args:
        peer: The client.

    Attributes:
        is_last: No request can follow over the client's connection.
    """

    is_last = True
    _is_over = False
    _bytes_out = 0
    _is_stream = False
    _step: Step | Message | None = None
    _answering: Reply | None = None
    _fault: UpstreamError | None = None

    def __init__(self, shared: Shared, client: ClientConnection, head: RequestHead, peer: Peer) -> None:
        self._shared = shared
        self._client = client
        self._head = head
        self._peer = peer
        self._record = Record(shared.bus, shared.next_number(), head)
        self._route = Route(head, shared.router)
        self._asker = Asker(shared, client, head, peer, self._record)

    @property
    def connection(self) -> UpstreamConnection | None:
        """The connection to the current upstream, if there is one."""
        return self._asker.connection

    def advance(self) -> Progress:
        """Go on as far as that needs no waiting."""
        if self._is_over:
            return Progress.OVER
        try:
            return self._pass_on() if self._answering is not None else self._next_step()
        except UpstreamError as exc:
            self._fault = exc
            return Progress.STUCK

    def _next_step(self) -> Progress:
        asker = self._asker
        if self._step is None:
            self._step = self._first_step()
        elif isinstance(self._step, Ask) and asker.is_asked:
            outcome = asker.hear()
            if outcome is None:
                return Progress.STUCK if self._client.unsent else Progress.WAITING
            self._step = self._route.next(outcome)
        match self._step:
            case Ask(side, keeps_answer):
                is_asked = asker.set_aside_now(keep=keeps_answer) and asker.ask_now(
                    self._shared.upstream(side)
                )
                return Progress.WAITING if is_asked else Progress.STUCK
            case Answer(reason, is_kept):
                if is_kept:
                    asker.set_aside_now(keep=False)
                self._open(reason, asker.kept if is_kept else asker.reply)
                return self._sent()
            case _:
                return Progress.STUCK

    def _pass_on(self) -> Progress:
        assert self._answering is not None  # noqa: S101 - it was opened
        if not self._answering.body.is_complete:
            piece = self._answering.connection.take_more()
            if piece is None:
                return Progress.WAITING
            self._client.write(piece)
        return self._sent()

    def _sent(self) -> Progress:
        """A piece of the answer was written."""
        assert self._answering is not None  # noqa: S101 - it was opened
        if self._client.unsent or self._asker.reply not in (None, self._answering):
            return Progress.STUCK
        if not self._answering.body.is_complete:
            return Progress.WAITING
        self._end()
        return Progress.OVER

    async def run(self) -> None:
        """See it through from where `advance` got stuck.

        Nothing is raised but a cancellation (and mistakes of ours).
        """
        record, upload = self._record, self._asker.upload
        try:
            try:
                if upload is None or upload.look():
                    await self._go_on()
                else:
                    await self._go_on_with_upload(upload)
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
            self._give_up()
            raise
        finally:
            self._end()

    def abandon(self) -> None:
        """End it without an answer, while nothing runs it."""
        if not self._is_over:
            self._give_up()
            self._end()

    def _give_up(self) -> None:
        self._record.outcome = "upstream-died" if self._shared.is_closing else "client-gone"
        self._client.abort()

    def end_early(self) -> None:
        """Close the connection to the upstream: an answer that has begun breaks off."""
        self._asker.end_early()

    def close(self, code: int) -> None:
        """End the event stream that this exchange has become; it has no words for `code`."""
        del code
        self._asker.end_early()

    async def _go_on_with_upload(self, upload: Upload) -> None:
        """Go on with a second task at hand, which sends the body while the answer is awaited."""
        fault: Exception | None = None
        async with trio.open_nursery() as nursery:
            self._asker.nursery = nursery
            try:
                await self._go_on()
            except (ClientGone, UpstreamError, BadMessage, _Reset) as exc:
                # Out of the nursery, before it wraps it into a group.
                fault = exc
            nursery.cancel_scope.cancel()
        self._asker.nursery = None
        fault = upload.fault or fault
        if fault is not None:
            raise fault

    async def _go_on(self) -> None:
        progress = Progress.OVER if self._is_over else Progress.STUCK
        while progress is not Progress.OVER:
            if progress is Progress.STUCK:
                await self._wait_as_needed()
            elif self.connection is not None:
                await self.connection.wait()
            progress = self.advance()

    async def _wait_as_needed(self) -> None:
        """Do what may have to wait for something else than the upstream's bytes."""
        asker = self._asker
        if self._fault is not None:
            fault, self._fault = self._fault, None
            await self._recover(fault)
        elif self._client.unsent:
            await self._client.drain()
        elif self._answering is not None:
            # Another answer than this one is left over.
            await asker.discard()
        else:
            await self._carry_out(self._step)

    async def _recover(self, fault: UpstreamError) -> None:
        """Ask again, or let the route decide what follows from the fault."""
        if self._answering is not None:
            await self._break_off(self._answering)
            return
        try:
            await self._asker.prepare_again(fault)
        except UpstreamError as exc:
            self._step = self._route.next(exc)

    async def _carry_out(self, step: Step | Message | None) -> None:
        shared, asker, route = self._shared, self._asker, self._route
        match step:
            case Ask():
                kept = None if asker.reply is None else await asker.set_aside(keep=step.keeps_answer)
                if kept is not None:
                    self._step = route.next(kept)
                    return
                try:
                    await asker.ask(shared.upstream(step.side))
                except UpstreamError as exc:
                    self._fault = exc
            case Message():
                await self._say(step)
            case Fail():
                raise step.error
            case Signal.WAIT:
                await asker.wait_for_either()
                may_wait = trio.current_time() < asker.deadline()
                backend, frontend = shared.backend.gate, shared.frontend.gate
                self._step = route.begin(backend.availability, frontend.availability, may_wait=may_wait)
            case Signal.UPGRADE:
                await self._upgrade()
            case Signal.RESET:
                raise _Reset
            case Signal.SAY_OWN:
                self._record.reason = "orchestra's own path"
                await self._say(answers.own(self._head))
            case Answer() | None:
                # Nothing that has to wait: `advance` does it.
                pass
            case _:
                assert_never(step)

    def _first_step(self) -> Step | Message:
        head, shared = self._head, self._shared
        refused = host_refusal(head.host, shared.plan.allowed_hosts)
        if refused is not None:
            return Message(status=403, title="Host not allowed", text=f"{refused}.")
        if b"via" in head.values and is_looping(head):
            text = "The request has come through here again and again: an upstream sends it back."
            return Message(status=508, title="Loop Detected", text=text)
        return self._route.begin(shared.backend.gate.availability, shared.frontend.gate.availability)

    # --- Answering ---

    def _open(self, reason: str, reply: Reply | None) -> None:
        """Begin an answer: write its head, and what is here of its body."""
        assert reply is not None  # noqa: S101 - the route has judged it
        record, head, body = self._record, reply.head, reply.body
        self._answering = reply
        record.reason, record.upstream = reason, reply.upstream.gate.side
        record.answered(head.status)
        self.is_last = self._shared.is_closing or self._client.closes_after(body)
        if body.is_complete:
            # The usual case: all of it goes out in one piece.
            self._asker.release(reply)
        elif head.media_type == b"text/event-stream" and self._head.method == b"GET":
            self._is_stream = True
            self._shared.streams.add(self)
            record.stream_opened("event-stream")
        out = forwarded_response(head, record.upstream, has_chunks=body.has_chunks, close=self.is_last)
        self._client.write(out + reply.read)

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
        self._is_over = True

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
        self._is_over = True

    # --- WebSockets ---

    async def _upgrade(self) -> None:
        """Open a WebSocket, or say why not."""
        record, shared = self._record, self._shared
        route = websocket.admit(self._head, self._peer, shared)
        if isinstance(route, Message):
            await self._say(route)
            return
        record.reason = route.reason
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
            await self._tunnel(reply, route.kind)
        else:
            self._step = Answer(route.reason)

    async def _tunnel(self, reply: Reply, kind: StreamKind) -> None:
        client, record = self._client, self._record
        record.upstream = reply.upstream.gate.side
        # From here on the end of the client's bytes is a half-close, not the client's leaving.
        client.transport.on_hangup(None)
        await client.send(forwarded_response(reply.head, record.upstream, upgrade=True))
        record.answered(101)
        self._report()
        tunnel = Tunnel(client, reply.connection)
        self._shared.streams.add(tunnel)
        record.stream_opened(kind)
        try:
            await tunnel.run()
        finally:
            self._is_over = True
            self._asker.connection = None
            self._shared.streams.discard(tunnel)
            record.stream_closed(
                kind, code=tunnel.close_code, bytes_in=tunnel.bytes_in, bytes_out=tunnel.bytes_out
            )

    def _end(self) -> None:
        """It is over: report it, and give back what it has taken."""
        asker, record, reply = self._asker, self._record, self._answering
        self._is_over = True
        if reply is not None:
            self._bytes_out = reply.body.size
            if reply.body.is_complete:
                asker.release(reply)
        asker.close()
        self._report()
        if self._is_stream:
            self._is_stream = False
            self._shared.streams.discard(self)
            record.stream_closed("event-stream", bytes_in=asker.bytes_in, bytes_out=self._bytes_out)

    def _report(self) -> None:
        if self._record.is_due:
            asker = self._asker
            self._record.finished(held=asker.held, bytes_in=asker.bytes_in, bytes_out=self._bytes_out)
