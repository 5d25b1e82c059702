"""The proxy as a whole: listeners, connections and their limits, and the way down.

Strategy. One task for each client connection; it reads a head, sees one exchange through, and begins anew, so
that pipelined requests are answered in order. All limits of time are one number for each connection, its
`deadline`, and one task that looks at all of them twice a second: a cancel scope for every operation would
cost more than parsing does. A client that leaves is noticed at once (`Hangups`) and its connection's scope is
cancelled, with everything that was done for it.

Resource handling: `run` owns the listeners and everything that came of them. When it returns or is cancelled,
nothing is left open. `close` is the friendly way to end it.

Error handling: whatever happens in one connection ends that connection; a mistake of ours is logged there.

Never here: what an answer is (`relay.py`), signals, output.
"""

from __future__ import annotations

import errno
import logging
from functools import partial
from math import inf
from typing import TYPE_CHECKING

import trio

from orchestra.events import State, StateChanged
from orchestra.proxy import answers
from orchestra.proxy.answers import Answer
from orchestra.proxy.gate import Gate
from orchestra.proxy.message import BadMessage, Peer
from orchestra.proxy.pool import Upstream
from orchestra.proxy.relay import Exchange, Relay
from orchestra.proxy.transport import Hangups, SocketTransport, accept, dial as dial_tcp
from orchestra.proxy.tunnel import GOING_AWAY, SERVICE_RESTART
from orchestra.proxy.wire import ClientGone, ClientSide

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from orchestra.config.plan import ProxyPlan
    from orchestra.events import Bus, Event
    from orchestra.proxy.pool import Dial
    from orchestra.proxy.transport import Transport

__all__ = ["Proxy"]

logger = logging.getLogger(__name__)

# How exactly limits of time are kept; they are seconds long.
SWEEP = 0.5
# A client whose request was not read to its end gets so long to take note of the answer.
LINGER = 1.0
# What requests in flight get when the proxy is closed: enough for an API call, too little to be waited for.
CLOSE_LIMIT = 2.0
# After accept has failed for want of descriptors: somebody has to close one first.
ACCEPT_PAUSE = 0.1
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Proxy:
    """The one address in front of a backend and Vite.

    Args:
        listeners: Sockets that are bound and listen, of any family; they become ours.
        bus: Where requests, streams and notices are emitted.
        dial: How to connect to an upstream; tests bring their own.
    """

    def __init__(
        self,
        plan: ProxyPlan,
        listeners: Sequence[socket.socket],
        *,
        bus: Bus,
        dial: Dial = dial_tcp,
    ) -> None:
        self._plan = plan
        self._listeners = list(listeners)
        gate = partial(
            Gate,
            bus=bus,
            candidates=plan.candidates,
            max_waiting=plan.hold_requests,
            max_bytes=plan.hold_bytes,
            absent_after=plan.hold,
        )
        self._backend, self._frontend = (
            Upstream(each, dial=dial, pool_size=plan.pool, max_head=plan.max_head)
            for each in (gate("backend", plan.backend), gate("frontend", plan.frontend))
        )
        self._relay = Relay(plan, backend=self._backend, frontend=self._frontend, bus=bus)
        self._connections: set[_Connection] = set()
        self._hangups: Hangups | None = None
        self._nursery: trio.Nursery | None = None
        self._accepting = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._work = trio.Event()
        self._has_ended = trio.Event()

    def __repr__(self) -> str:
        return f"<Proxy with {len(self._connections)} connections, {self._relay!r}>"

    @property
    def hangups(self) -> Hangups | None:
        """Who notices that a client has left; there while `run` runs."""
        return self._hangups

    def observe(self, event: Event) -> None:
        """Take note of what the supervisor reports: who is ready, where, and what it said last."""
        for upstream in (self._backend, self._frontend):
            upstream.observe(event)
        if (
            isinstance(event, StateChanged)
            and event.state is State.READY
            and self._backend.gate.has(event.process)
        ):
            self._relay.forget_assets()
        if isinstance(event, StateChanged) and event.state is State.STOPPING:
            self._close_streams(SERVICE_RESTART, process=event.process)
        if isinstance(event, StateChanged) and _is_gone_for_now(event) and self._nursery is not None:
            self._nursery.start_soon(self._let_go, event.process)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or closed."""
        hangups = self._hangups = Hangups()
        try:
            with self._serving:
                async with trio.open_nursery() as self._nursery:
                    nursery = self._nursery
                    nursery.start_soon(hangups.run)
                    nursery.start_soon(self._sweep)
                    nursery.start_soon(self._accept_all, nursery)
                    task_status.started()
        finally:
            self._nursery = None
            self._close_listeners()
            for connection in tuple(self._connections):
                connection.scope.cancel()
                connection.transport.abort()
            for upstream in (self._backend, self._frontend):
                upstream.clear()
            hangups.close()
            self._has_ended.set()

    async def serve(self, transport: Transport, peer: Peer) -> None:
        """See one client's connection through, from its first request to its end."""
        await self._serve(self._admit(transport), peer)

    def _admit(self, transport: Transport) -> _Connection:
        connection = _Connection(transport, trio.current_time() + self._plan.idle_timeout)
        self._connections.add(connection)
        self._work.set()
        return connection

    async def _serve(self, connection: _Connection, peer: Peer) -> None:
        transport = connection.transport
        client = ClientSide(transport, max_head=self._plan.max_head)
        try:
            with connection.scope:
                transport.on_hangup(connection.scope.cancel)
                await self._converse(connection, client, peer)
                if not client.is_body_read:
                    await _linger(connection)
            if connection.is_late:
                with trio.move_on_after(LINGER):
                    await _refuse(client, BadMessage("the request did not arrive in time", status=408))
        except ClientGone:
            pass
        except Exception:
            logger.exception("orchestra made a mistake in one connection, and closed it: %r", client)
            transport.abort()
        finally:
            transport.close()
            self._connections.discard(connection)
            self._relay.departures.unpark_all()

    async def close(self) -> None:
        """End in an orderly way; `run` then returns.

        Nothing new is accepted, idle connections are closed, WebSockets are told 1001, and requests in flight
        get 2 s.
        """
        self._relay.is_closing = True
        self._accepting.cancel()
        self._close_streams(GOING_AWAY)
        for connection in tuple(self._connections):
            if not connection.is_busy:
                connection.scope.cancel()
        with trio.move_on_after(CLOSE_LIMIT):
            while self._connections:
                await self._relay.departures.park()
        self._serving.cancel()
        if self._hangups is not None:
            await self._has_ended.wait()

    async def before_stop(self, process: str) -> None:
        """Let go of a child of a process that is about to be stopped: wait for the requests in flight.

        Its WebSockets are told 1012, its event streams end. It is told apart from one that has replaced it by
        what has been reported: this one is not ready any more, or not the one that is.
        """
        self._close_streams(SERVICE_RESTART, process=process)
        while self._asked_of(process):
            await self._relay.departures.park()

    async def _let_go(self, process: str) -> None:
        """Let go of a process that reloads by itself, and waits for all whom it still serves."""
        late = self._asked_of(process)
        with trio.move_on_after(CLOSE_LIMIT):
            await self.before_stop(process)
        for exchange in late & self._asked_of(process):
            exchange.cut()

    def _asked_of(self, process: str) -> set[Exchange]:
        """The exchanges in which a child of a process was asked that is not asked any more."""
        return {
            exchange
            for exchange, lease in self._relay.asked.items()
            if lease.process == process and lease.is_stale
        }

    def _close_streams(self, code: int, *, process: str | None = None) -> None:
        """Close all streams, or those of a child of a process that is not asked any more."""
        for stream in tuple(self._relay.streams):
            lease = stream.lease
            if process is None or (lease is not None and lease.process == process and lease.is_stale):
                stream.close(code)

    async def _converse(self, connection: _Connection, client: ClientSide, peer: Peer) -> None:
        """Requests and answers, one after the other, until no more can follow."""
        while True:
            connection.is_busy = False
            connection.deadline = trio.current_time() + self._plan.idle_timeout
            if self._relay.is_closing or not await client.wait_for_request():
                return
            connection.deadline = trio.current_time() + self._plan.header_timeout
            connection.is_reading_head = True
            try:
                head = await client.read_head()
            except BadMessage as exc:
                await _refuse(client, exc)
                return
            connection.is_reading_head = False
            connection.is_busy = True
            connection.deadline = inf
            await Exchange(self._relay, client, head, peer).run()
            if not client.is_reusable():
                return

    async def _accept_all(self, nursery: trio.Nursery) -> None:
        """Accept on all listeners, and stop all of that at once; the connections live on in `nursery`."""
        with self._accepting:
            async with trio.open_nursery() as accepting:
                for listener in self._listeners:
                    listener.setblocking(False)
                    accepting.start_soon(self._accept, listener, nursery)
        self._close_listeners()

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            if listener.fileno() >= 0:
                trio.lowlevel.notify_closing(listener)
                listener.close()

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        hangups = self._hangups
        port = listener.getsockname()[1]
        while True:
            while len(self._connections) >= self._plan.max_connections:
                await self._relay.departures.park()
            try:
                sock, (address, _) = await accept(listener)
            except OSError as exc:
                if exc.errno not in _OUT_OF_RESOURCES:
                    raise
                logger.warning("cannot accept a connection: %s", exc)
                await trio.sleep(ACCEPT_PAUSE)
                continue
            peer = Peer(address.removeprefix("::ffff:"), port)
            # Admitted before its task runs: the next one must not slip past the limit.
            nursery.start_soon(self._serve, self._admit(SocketTransport(sock, hangups)), peer)

    async def _sweep(self) -> None:
        """Keep all limits of time."""
        while True:
            while self._connections or self._backend.idle or self._frontend.idle:
                await trio.sleep(SWEEP)
                self._expire(trio.current_time())
            self._work = trio.Event()
            await self._work.wait()

    def _expire(self, now: float) -> None:
        """End what is too old; whoever waits for the next time remembers no connection."""
        for connection in tuple(self._connections):
            if connection.deadline <= now:
                connection.expire()
        for upstream in (self._backend, self._frontend):
            upstream.sweep(now)


def _is_gone_for_now(event: StateChanged) -> bool:
    """Whether a process that was ready makes itself ready anew, or is suspended."""
    was_ready = event.previous in (State.READY, State.UNHEALTHY) and event.state is not event.previous
    is_suspended = event.state is State.UNHEALTHY and event.url is None
    return was_ready and (event.state is State.STARTING or is_suspended)


class _Connection:
    """What the server knows of one client's connection.

    Attributes:
        deadline: When it is given up, on trio's clock.
        is_busy: A request has been read and is being answered.
    """

    __slots__ = ("deadline", "is_busy", "is_late", "is_reading_head", "scope", "transport")

    def __init__(self, transport: Transport, deadline: float) -> None:
        self.transport = transport
        self.deadline = deadline
        self.scope = trio.CancelScope()
        self.is_busy = False
        self.is_reading_head = False
        self.is_late = False

    def expire(self) -> None:
        self.is_late = self.is_reading_head
        self.scope.cancel()


async def _refuse(client: ClientSide, fault: BadMessage) -> None:
    """Answer something that is no request, as far as that is possible."""
    head, body = answers.render(
        Answer(status=fault.status, title="Bad request", text=f"{fault}."), None, close=True
    )
    parts = [client.encode_response(head), *client.encode_data(body), client.encode_end([])]
    await client.send(b"".join(parts))


async def _linger(connection: _Connection) -> None:
    """Read on for a moment: closing with bytes unread is a reset, which destroys our answer on its way."""
    connection.deadline = trio.current_time() + LINGER
    connection.transport.send_eof()
    try:
        while await connection.transport.receive_some():
            pass
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        pass
