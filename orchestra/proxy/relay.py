"""One exchange: a request comes in, somebody is asked, an answer goes out. `Relay` is what exchanges share.

Strategy. An `Exchange` follows its route (`route.py`): it asks an upstream, judges the head of the answer,
and passes it on, keeps it, or asks the next one. Bodies stream: what has arrived is sent before more is
awaited, and `await send` is all the flow control there is. Only a request whose body is still on its way
needs a second task; everything else is one straight line in the connection's own task.

What may be tried again: a request whose connection died before the first byte of an answer, if it may be
repeated (RFC 9110 9.2.2) and is still at hand: over as many connections as had been idle, and once over a
fresh one. What may not be repeated is never sent over a connection that has been idle. What may not be
pretended: an answer whose upstream dies in the middle ends with the client's connection being aborted.

Cancellation: the connection's scope is cancelled when its client leaves. Whatever is raised, connections to
upstreams are either given back or aborted on the way out, at once and without waiting.

Never here: accepting connections, limits of time (`server.py`), what it all means for a process.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, assert_never

import trio

from orchestra.errors import UpstreamError
from orchestra.events import (
    RequestFinished,
    RequestHeld,
    RequestReleased,
    RequestReplayed,
    StreamClosed,
    StreamOpened,
)
from orchestra.proxy import answers
from orchestra.proxy.answers import Answer
from orchestra.proxy.gate import Hold, wait_any_change
from orchestra.proxy.memo import Memo
from orchestra.proxy.message import (
    BadMessage,
    forwarded_request,
    forwarded_response,
    forwarded_trailers,
    host_refusal,
    is_looping,
    origin_refusal,
    websocket_fault,
)
from orchestra.proxy.pool import Unavailable
from orchestra.proxy.route import (
    KEPT_404,
    Standing,
    Verdict,
    after_backend,
    after_early_frontend,
    after_frontend,
    after_frontend_alone,
    is_asset,
    is_memorable,
    is_websocket,
    route_request,
    route_websocket,
)
from orchestra.proxy.tunnel import Tunnel, handshake_fault
from orchestra.proxy.upload import Upload
from orchestra.proxy.wire import BadResponse, ClientGone, End, UpstreamGone

if TYPE_CHECKING:
    from orchestra.config.plan import ProxyPlan
    from orchestra.events import Bus, Outcome, StreamKind, UpstreamName
    from orchestra.proxy.message import Headers, Peer, RequestHead, ResponseHead
    from orchestra.proxy.pool import Lease, Upstream
    from orchestra.proxy.route import Route
    from orchestra.proxy.wire import ClientSide, UpstreamSide

__all__ = ["Exchange", "Relay", "Stream"]

# Bytes of an answer that are gathered before they are sent, if they are there without waiting.
GATHER = 65536
# An answer that nobody wants is read to its end up to this size; beyond, a new connection is cheaper.
DISCARDED = 65536
# It is there, or it is not: Vite sends its page in one piece.
DISCARD_LIMIT = 0.5
# Paths that are remembered: more than a page of the largest apps has.
_MEMORY = 10_000
# More of them are told by their answers alone.
_MOST_ORIGINS = 100
# What events tell of a target; data: URLs in queries have been seen to be megabytes.
MAX_TARGET = 8192

_REPEATABLE = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})


class Stream(Protocol):
    """Something that stays open until somebody closes it."""

    upstream: UpstreamName

    @property
    def lease(self) -> Lease | None:
        """Whom it comes from."""
        ...

    def close(self, code: int) -> None:
        """End it; WebSockets say `code`."""
        ...


class Relay:
    """What all exchanges of a proxy share.

    Attributes:
        streams: All WebSockets and event streams that are open now.
        asked: The exchanges that have asked somebody and are not over, with whom they have asked last.
        departures: Where to wait for the end of an exchange or a connection.
        memo: Which paths are assets of the frontend.
        is_closing: No connection is used for another request any more.
    """

    def __init__(self, plan: ProxyPlan, *, backend: Upstream, frontend: Upstream, bus: Bus) -> None:
        self.plan = plan
        self.backend = backend
        self.frontend = frontend
        self.bus = bus
        self.streams: set[Stream] = set()
        self.asked: dict[Exchange, Lease] = {}
        self.departures = trio.lowlevel.ParkingLot()
        # Nobody tells us that something elsewhere has begun anew.
        self._memory = _MEMORY if plan.memo and backend.gate.is_supervised else 0
        self.memo = Memo(self._memory)
        self.is_closing = False
        self._ids = itertools.count(1)
        self._refused_origins: set[bytes | None] = set()

    def __repr__(self) -> str:
        return f"<Relay {self.backend!r} {self.frontend!r}, {len(self.streams)} streams>"

    def forget_assets(self) -> None:
        """Begin a new memo; what is learned from questions that were asked before goes into the old one."""
        self.memo = Memo(self._memory)

    def report_origin(self, origin: bytes | None, refused: str) -> None:
        """Say that a page of another origin was refused, once for each."""
        key = origin and origin.lower()
        if key in self._refused_origins or len(self._refused_origins) >= _MOST_ORIGINS:
            return
        self._refused_origins.add(key)
        self.bus.notice("origin-refused", refused)

    def next_id(self) -> int:
        """Return a number for a request: they count from 1."""
        return next(self._ids)


@dataclass(slots=True)
class _Reply:
    """The head of an upstream's answer; its body is still to be read."""

    upstream: Upstream
    lease: Lease
    head: ResponseHead


@dataclass(slots=True)
class _Kept:
    """A backend's 404 that has been read to its end."""

    head: ResponseHead
    body: list[bytes]
    trailers: Headers


class _Reset(Exception):  # noqa: N818 - an order, not an error
    """The client is to get no answer but a reset."""


class Exchange:
    """One request and what becomes of it.

    Args:
        peer: Who sent it.
    """

    def __init__(self, relay: Relay, client: ClientSide, head: RequestHead, peer: Peer) -> None:
        self._relay = relay
        self._client = client
        self._head = head
        self._peer = peer
        self._id = relay.next_id()
        self._begun = trio.current_time()
        self._hold = Hold(self._begun + relay.plan.hold, weigh=self._weigh, tell=self._tell_hold)
        self._nursery: trio.Nursery | None = None
        may_send_again = head.method in _REPEATABLE or head.method.decode() in relay.plan.fallback_methods
        self._upload = Upload(
            client, is_empty=not head.has_body, limit=relay.plan.replay_bytes if may_send_again else 0
        )
        self._has_answered = False
        self._is_told = False
        self._is_cut = False
        self._is_let_go = False
        # What the events tell.
        self.upstream: UpstreamName = "orchestra"
        self._status: int | None = None
        self._reason = ""
        self._first_byte: float | None = None
        self._bytes_out = 0
        self._outcome: Outcome = "complete"
        self._streaming: UpstreamSide | None = None

    def __repr__(self) -> str:
        return f"<Exchange {self._id} {self._head.method.decode()} {self._head.path} {self._reason}>"

    async def run(self) -> None:
        """See it through, and tell the bus.

        Afterwards the client's connection knows by itself whether another request can follow. Nothing is
        raised but a cancellation (and mistakes of ours).
        """
        try:
            await self._run_whole()
        except ClientGone:
            self._outcome = "client-gone"
            self._client.abort()
        except _Reset:
            self._outcome = "upstream-died"
            self._client.abort()
        except BaseException:
            # Most often a cancellation: the client has left, or it is we who end.
            self._outcome = "upstream-died" if self._relay.is_closing else "client-gone"
            self._client.abort()
            raise
        finally:
            self._relay.asked.pop(self, None)
            self._relay.departures.unpark_all()
            self._tell()

    @property
    def lease(self) -> Lease | None:
        """Whom it has asked last."""
        return self._relay.asked.get(self)

    def cut(self) -> None:
        """Let go of whom was asked: an answer that has begun breaks off."""
        lease = self._relay.asked.get(self)
        if lease is not None:
            self._is_cut = True
            lease.side.abort()

    def close(self, code: int) -> None:
        """End the event stream that this exchange has become; it has no words for `code`."""
        del code
        if self._streaming is not None:
            self._is_let_go = True
            self._streaming.abort()

    async def _run_whole(self) -> None:
        try:
            self._upload.look()
            if self._upload.is_complete:
                await self._follow_route()
            else:
                await self._run_with_upload()
        except (UpstreamError, BadMessage) as exc:
            if self._has_answered:
                self._outcome = "upstream-died" if isinstance(exc, UpstreamError) else "client-gone"
                self._client.abort()
            else:
                await self._say(self._explain(exc))

    async def _run_with_upload(self) -> None:
        """Follow the route with a second task at hand, which sends the body while the answer is awaited."""
        fault: Exception | None = None
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self._follow_route()
            except (ClientGone, UpstreamError, BadMessage, _Reset) as exc:
                # Out of the nursery, before it wraps it into a group.
                fault = exc
            nursery.cancel_scope.cancel()
        self._nursery = None
        fault = self._upload.fault or fault
        if fault is not None:
            raise fault

    async def _follow_route(self) -> None:
        refusal = self._refusal()
        if refusal is not None:
            await self._say(refusal)
        elif is_websocket(self._head):
            await self._websocket()
        else:
            route = route_request(self._head, self._relay.plan)
            self._reason = route.reason
            match route.first:
                case "orchestra":
                    await self._say(_own(self._head))
                case "frontend":
                    await self._frontend_only(route)
                case "backend":
                    await self._backend_first(route)
                case _:
                    assert_never(route.first)

    def _refusal(self) -> Answer | None:
        host = host_refusal(self._head.host, self._relay.plan.allowed_hosts)
        if host is not None:
            return Answer(status=403, title="Host not allowed", text=f"{host}.")
        if is_looping(self._head):
            text = "The request has come through here again and again: an upstream sends it back."
            return Answer(status=508, title="Requests go round in circles", text=text)
        return None

    # --- The routes ---

    async def _frontend_only(self, route: Route) -> None:
        if route.is_ping and self._relay.frontend.gate.standing(trio.current_time()) is not Standing.READY:
            raise _Reset
        try:
            reply = await self._ask(self._relay.frontend)
        except UpstreamError:
            if route.is_ping:
                raise _Reset from None
            raise
        await self._pass_on(reply, route.reason)

    async def _backend_first(self, route: Route) -> None:
        backend = self._relay.backend
        if self._relay.memo.knows(self._head) and await self._remembered_asset():
            return
        if is_asset(self._head) and await self._is_frontend_first() and await self._early_asset():
            return
        memo = self._relay.memo
        try:
            reply = await self._ask(backend)
        except Unavailable as exc:
            if exc.standing is not Standing.ABSENT:
                raise
            await self._without_backend(route, exc)
            return
        verdict, reason = after_backend(route, reply.head)
        if verdict is Verdict.ANSWER:
            await self._pass_on(reply, reason)
        else:
            await self._fall_back(route, reply, memo)

    async def _without_backend(self, route: Route, exc: Unavailable) -> None:
        """Ask the frontend alone; its page is no answer to somebody who asked for data."""
        self._reason = "no backend"
        reply = await self._ask(self._relay.frontend)
        if after_frontend_alone(route, reply.head) is Verdict.ANSWER:
            await self._pass_on(reply, self._reason)
            return
        await self._discard(reply)
        raise exc

    async def _is_frontend_first(self) -> bool:
        """Wait until either of the two can be asked; say whether it is the frontend, and it alone."""
        gates = (self._relay.backend.gate, self._relay.frontend.gate)
        begun = trio.current_time()
        try:
            while True:
                now = trio.current_time()
                backend, frontend = (gate.standing(now) for gate in gates)
                if backend in (Standing.READY, Standing.ABSENT) or frontend is Standing.READY:
                    return frontend is Standing.READY and backend in (Standing.HOLD, Standing.FAIL)
                if frontend is not Standing.HOLD or now >= self._hold.deadline:
                    return False
                await wait_any_change(gates, self._hold.deadline)
        finally:
            self._hold.seconds += trio.current_time() - begun

    async def _remembered_asset(self) -> bool:
        """Ask the frontend alone, as it had it before; return whether that was the answer."""
        if self._relay.frontend.gate.standing(trio.current_time()) is not Standing.READY:
            return False
        if await self._early_asset("asset, remembered"):
            return True
        self._relay.memo.forget(self._head)
        return False

    async def _early_asset(self, reason: str = "asset, backend not ready") -> bool:
        """Ask the frontend for an asset before the backend; return whether that was the answer."""
        try:
            reply = await self._ask(self._relay.frontend)
        except UpstreamError:
            return False
        if after_early_frontend(reply.head) is Verdict.ANSWER:
            await self._pass_on(reply, reason)
            return True
        await self._discard(reply)
        return False

    async def _fall_back(self, route: Route, reply: _Reply, memo: Memo) -> None:
        """Keep the backend's 404 and ask the frontend; one of the two is the answer."""
        too_long = "backend 404, body too long to be sent again"
        if (self._head.length or 0) > self._relay.plan.replay_bytes:
            await self._pass_on(reply, too_long)
            return
        kept = await self._keep(reply)
        if kept is None:
            return
        await self._upload.stop()
        if not self._upload.can_begin:
            await self._give_kept(kept, too_long)
            return
        try:
            second = await self._ask(self._relay.frontend)
        except UpstreamError:
            if route.is_navigation:
                raise
            await self._give_kept(kept, "backend 404, frontend not there")
            return
        verdict, reason = after_frontend(route, second.head)
        if verdict is Verdict.ANSWER:
            if is_memorable(self._head, second.head):
                memo.learn(self._head)
            await self._pass_on(second, reason)
            return
        await self._give_kept(kept, reason, meanwhile=second)
        await self._discard(second)

    # --- Asking ---

    async def _ask(self, upstream: Upstream) -> _Reply:
        """Send the request to `upstream` and wait for the head of its final answer; 1xx are passed on."""
        head = forwarded_request(self._head, self._peer)
        is_repeatable = head.method in _REPEATABLE
        # What must not be sent twice is not sent to somebody who may just be closing.
        fresh = not (is_repeatable and self._upload.is_complete and self._upload.can_begin)
        has_met_a_death = False
        while True:
            lease = await upstream.connect(self._hold, fresh=fresh)
            self._relay.asked[self] = lease
            try:
                return _Reply(upstream, lease, await self._send_and_wait(lease.side, head))
            except UpstreamGone as exc:
                lease.side.abort()
                await self._upload.stop()  # noqa: ASYNC120 - nothing is lost if it is cancelled
                if not is_repeatable or exc.has_begun or not self._upload.can_begin:
                    raise
                # What an answer was waited for is no part of its patience: only being held is.
                self._hold.deadline = trio.current_time() + self._relay.plan.hold - self._hold.seconds
                if lease.is_reused and not lease.is_stale:
                    # Each turn uses up one idle connection; the last turn is one with a fresh one.
                    continue
                await upstream.wait_for_news(lease)  # noqa: ASYNC120 - as above
                # A request that kills whoever gets it is sent twice at most; not everybody dies of it.
                is_suspect = not (upstream.gate.is_stopping(lease.process) or self._is_cut)
                if is_suspect and has_met_a_death:
                    raise
                self._tell_replay(upstream, exc)
                self._is_cut = False
                has_met_a_death = has_met_a_death or is_suspect
            except BaseException:
                lease.side.abort()
                raise

    async def _send_and_wait(self, side: UpstreamSide, head: RequestHead) -> ResponseHead:
        parts = [side.encode_request(head), *self._upload.begin(side)]
        try:
            await side.send(b"".join(parts))
        except UpstreamGone:
            if not head.has_body:
                raise
            # It may have refused the body, and have said so before it closed.
        else:
            if self._nursery is not None and not self._upload.is_complete:
                self._upload.go_on(self._nursery, side)
        while True:
            answer = await side.read_head()
            if not answer.is_informational:
                return answer
            if answer.status == 101:
                raise BadResponse("the upstream switched protocols, which nobody had asked for")
            if self._head.version != b"1.0":
                await self._client.send(
                    self._client.encode_informational(forwarded_response(answer, self.upstream))
                )

    # --- Answering ---

    async def _pass_on(self, reply: _Reply, reason: str, *, read: list[bytes] | None = None) -> None:
        """Send an answer to the client while it comes.

        Args:
            reply: The answer.
            reason: Why it is that one.
            read: What has already been read of its body.
        """
        side = reply.lease.side
        self._reason, self.upstream = reason, reply.upstream.name
        is_stream = reply.head.media_type == b"text/event-stream" and self._head.method == b"GET"
        try:
            out = self._begin_answer(forwarded_response(reply.head, self.upstream))
            if is_stream:
                self._open_stream(side)
            await self._stream_body(side, out, read or [])
        except UpstreamError:
            side.abort()
            if self._is_let_go and reply.head.length is None:
                # A stream of events has no end that could be missing.
                await self._client.send(self._client.encode_end([]))
            else:
                # Nothing that could be taken for the whole answer.
                self._outcome = "upstream-died"
                self._client.abort()
        except BaseException:
            side.abort()
            raise
        else:
            reply.upstream.give_back(reply.lease)
        finally:
            if is_stream:
                self._relay.streams.discard(self)

    async def _stream_body(self, side: UpstreamSide, out: list[bytes], read: list[bytes]) -> None:
        """Pass a body on: all that is there is sent before more is awaited."""
        client, gathered = self._client, 0
        for part in read:
            self._bytes_out += len(part)
            out += client.encode_data(part)
        while True:
            event = side.next_event()
            if isinstance(event, End):
                out.append(client.encode_end(forwarded_trailers(event.trailers)))
                await client.send(b"".join(out))
                return
            if event is not None:
                self._bytes_out += len(event)
                gathered += len(event)
                out += client.encode_data(event)
                if gathered < GATHER:
                    continue
            if out:
                await client.send(b"".join(out))
                out, gathered = [], 0
            if event is None:
                await side.fill()

    def _begin_answer(self, head: ResponseHead) -> list[bytes]:
        self._has_answered = True
        self._status = head.status
        self._first_byte = trio.current_time() - self._begun
        close = self._relay.is_closing or not self._client.is_body_read
        return [self._client.encode_response(head, close=close)]

    async def _keep(self, reply: _Reply) -> _Kept | None:
        """Read a 404 to its end; one that turns out too large is passed on, and ``None`` is returned."""
        body: list[bytes] = []
        size = 0
        side = reply.lease.side
        try:
            while True:
                event = side.next_event()
                if event is None:
                    await side.fill()
                elif isinstance(event, End):
                    reply.upstream.give_back(reply.lease)
                    return _Kept(reply.head, body, event.trailers)
                else:
                    body.append(event)
                    size += len(event)
                    if size > KEPT_404:
                        break
        except BaseException:
            side.abort()
            raise
        await self._pass_on(reply, "backend 404, too large to fall back", read=body)
        return None

    async def _give_kept(self, kept: _Kept, reason: str, *, meanwhile: _Reply | None = None) -> None:
        """Answer with the backend's 404.

        Args:
            kept: The 404.
            reason: Why it stands.
            meanwhile: An answer that is still open, to be dropped if the client is gone.
        """
        self._reason, self.upstream = reason, "backend"
        try:
            out = self._begin_answer(forwarded_response(kept.head, self.upstream))
            for part in kept.body:
                self._bytes_out += len(part)
                out += self._client.encode_data(part)
            out.append(self._client.encode_end(forwarded_trailers(kept.trailers)))
            await self._client.send(b"".join(out))
        except BaseException:
            if meanwhile is not None:
                meanwhile.lease.side.abort()
            raise

    async def _discard(self, reply: _Reply) -> None:
        """Read an answer that nobody wants to its end, if that is near; the connection may serve again."""
        is_read = False
        try:
            with trio.move_on_after(DISCARD_LIMIT):
                is_read = await _read_out(reply)
        except UpstreamError:
            pass
        finally:
            if is_read:
                reply.upstream.give_back(reply.lease)
            else:
                reply.lease.side.abort()

    async def _say(self, answer: Answer) -> None:
        """Give an answer of our own."""
        self.upstream = "orchestra"
        self._reason = self._reason or answer.title
        head, body = answers.render(answer, self._head, close=not self._client.is_body_read)
        out = self._begin_answer(head)
        if body:
            self._bytes_out += len(body)
            out += self._client.encode_data(body)
        out.append(self._client.encode_end([]))
        await self._client.send(b"".join(out))

    def _explain(self, exc: UpstreamError | BadMessage) -> Answer:
        if isinstance(exc, BadMessage):
            self._reason = "bad request"
            return Answer(status=exc.status, title="Bad request", text=f"{exc}.")
        if isinstance(exc, Unavailable):
            state = "ready" if exc.standing is Standing.HOLD else "there"
            self._reason = f"{exc.name} not {state}"
            return Answer(
                status=exc.status_hint,
                title=f"The {exc.name} is not {state}",
                text=f"{exc}.",
                tail=exc.refusal.tail,
            )
        self._reason = "no valid answer"
        title = "No answer in time" if exc.status_hint == 504 else "No valid answer"
        return Answer(status=exc.status_hint, title=title, text=f"{exc}.", hint=exc.hint)

    # --- Streams ---

    async def _websocket(self) -> None:
        plan, head = self._relay.plan, self._head
        fault = websocket_fault(head)
        if fault is not None:
            status, text = fault
            extra = ((b"Sec-WebSocket-Version", b"13"),) if status == 426 else ()
            await self._say(Answer(status=status, title="No WebSocket", text=f"{text}.", headers=extra))
            return
        route = route_websocket(head, plan)
        self._reason = route.reason
        upstream = self._relay.backend if route.first == "backend" else self._relay.frontend
        if route.may_fall_back and upstream.gate.standing(trio.current_time()) is Standing.ABSENT:
            upstream, self._reason = self._relay.frontend, "no backend"
        if upstream is self._relay.frontend:
            origin = head.get(b"origin")
            refused = origin_refusal(origin, head.host, self._peer.port, plan.allowed_origins)
            if refused is not None:
                self._relay.report_origin(origin, refused)
                await self._say(Answer(status=403, title="Origin not allowed", text=f"{refused}."))
                return
        if route.first == "orchestra":
            await self._say(_own(head))
            return
        if route.is_ping and upstream.gate.standing(trio.current_time()) is not Standing.READY:
            raise _Reset
        try:
            reply = await self._ask_for_websocket(upstream)
        except UpstreamError:
            if route.is_ping:
                raise _Reset from None
            raise
        if reply.head.status != 101:
            await self._pass_on(reply, self._reason)
            return
        await self._tunnel(reply, route.kind or "websocket")

    async def _ask_for_websocket(self, upstream: Upstream) -> _Reply:
        """Pass the handshake on; the answer is its 101, checked, or whatever else the upstream says."""
        head = forwarded_request(self._head, self._peer, upgrade=True)
        lease = await upstream.connect(self._hold, fresh=True)
        self._relay.asked[self] = lease
        side = lease.side
        try:
            with trio.move_on_after(self._relay.plan.upgrade_timeout) as limit:
                await side.send(side.encode_request(head) + side.encode_end([]))
                answer = await side.read_head()
                while answer.is_informational and answer.status != 101:
                    answer = await side.read_head()
        except BaseException:
            side.abort()
            raise
        wrong: UpstreamError | None = None
        if limit.cancelled_caught:
            seconds = f"{self._relay.plan.upgrade_timeout:g} s"
            text = f"the {upstream.name} did not answer the WebSocket handshake within {seconds}"
            wrong = UpstreamError(text, status_hint=504)
        elif answer.status == 101 and (fault := handshake_fault(self._head, answer)) is not None:
            wrong = BadResponse(f"the {upstream.name}: {fault}")
        if wrong is not None:
            side.abort()
            raise wrong
        return _Reply(upstream, lease, answer)

    async def _tunnel(self, reply: _Reply, kind: StreamKind) -> None:
        self.upstream = reply.upstream.name
        tunnel = Tunnel(self._client, reply.lease.side)
        try:
            # From here on the end of the client's bytes is half of a goodbye, not the client's leaving.
            self._client.transport.on_hangup(None)
            answer = forwarded_response(reply.head, self.upstream, upgrade=True)
            await self._client.send(self._client.encode_informational(answer))
        except BaseException:
            reply.lease.side.abort()
            raise
        self._has_answered = True
        self._status = 101
        self._first_byte = trio.current_time() - self._begun
        self._tell()
        opened = _Opened(self.upstream, reply.lease, tunnel)
        self._relay.streams.add(opened)
        self._emit_opened(kind)
        try:
            await tunnel.run()
        finally:
            self._relay.streams.discard(opened)
            self._emit_closed(kind, tunnel.close_code, tunnel.bytes_in, tunnel.bytes_out)

    def _open_stream(self, side: UpstreamSide) -> None:
        self._streaming = side
        self._relay.streams.add(self)
        self._emit_opened("event-stream")

    def _weigh(self) -> int:
        """Bytes that this request has in memory."""
        head = self._head
        return (
            self._upload.size + len(head.target) + sum(len(name) + len(value) for name, value in head.headers)
        )

    # --- Telling ---

    def _target(self) -> str:
        return self._head.target[:MAX_TARGET].decode("ascii")

    def _tell_hold(self, upstream: UpstreamName, what: str | Standing | None) -> None:
        if isinstance(what, str):
            self._relay.bus.emit(
                RequestHeld(
                    id=self._id,
                    method=self._head.method.decode("ascii"),
                    target=self._target(),
                    upstream=upstream,
                    reason=what,
                )
            )
            return
        outcome: Literal["ready", "failed", "client-gone"]
        outcome = "client-gone" if what is None else "ready" if what is Standing.READY else "failed"
        self._relay.bus.emit(
            RequestReleased(id=self._id, upstream=upstream, held=self._hold.seconds, outcome=outcome)
        )

    def _tell_replay(self, upstream: Upstream, exc: UpstreamGone) -> None:
        self._relay.bus.emit(
            RequestReplayed(
                id=self._id,
                method=self._head.method.decode("ascii"),
                target=self._target(),
                upstream=upstream.name,
                reason=str(exc),
            )
        )

    def _tell(self) -> None:
        if self._is_told:
            return
        self._is_told = True
        now = trio.current_time()
        self._relay.bus.emit(
            RequestFinished(
                id=self._id,
                method=self._head.method.decode("ascii"),
                target=self._target(),
                status=self._status,
                upstream=self.upstream,
                reason=self._reason,
                held=self._hold.seconds,
                first_byte=self._first_byte,
                duration=now - self._begun,
                bytes_in=self._upload.size,
                bytes_out=self._bytes_out,
                outcome=self._outcome,
            )
        )
        if self._streaming is not None:
            self._emit_closed("event-stream", None, self._upload.size, self._bytes_out)

    def _emit_opened(self, kind: StreamKind) -> None:
        self._relay.bus.emit(
            StreamOpened(id=self._id, kind=kind, target=self._target(), upstream=self.upstream)
        )

    def _emit_closed(self, kind: StreamKind, code: int | None, bytes_in: int, bytes_out: int) -> None:
        now = trio.current_time()
        self._relay.bus.emit(
            StreamClosed(
                id=self._id,
                kind=kind,
                target=self._target(),
                upstream=self.upstream,
                code=code,
                duration=now - self._begun,
                bytes_in=bytes_in,
                bytes_out=bytes_out,
            )
        )


class _Opened:
    """A tunnel in the list of open streams."""

    def __init__(self, upstream: UpstreamName, lease: Lease, tunnel: Tunnel) -> None:
        self.upstream = upstream
        self.lease = lease
        self._tunnel = tunnel

    def close(self, code: int) -> None:
        self._tunnel.close(code)


async def _read_out(reply: _Reply) -> bool:
    """Read an answer's body; ``False`` if it is too long for that."""
    side, size = reply.lease.side, 0
    while size <= DISCARDED and (reply.head.length or 0) <= DISCARDED:
        event = side.next_event()
        if isinstance(event, End):
            return True
        if event is None:
            await side.fill()
        else:
            size += len(event)
    return False


def _own(head: RequestHead) -> Answer:
    """What is answered under our own paths."""
    if head.target == b"*":
        return Answer(status=200, title="orchestra", text="All methods but CONNECT.")
    return Answer(status=404, title="Not found", text=f"orchestra has nothing at {head.path}.")
