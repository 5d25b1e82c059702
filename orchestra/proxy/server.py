"""The proxy as a whole: listeners, connections and their limits, and the orderly end.

Strategy. One `Conversation` and one task for each client connection, and one task that checks the deadlines
of all of them twice a second.

Resource handling: `run` owns the listeners and all connections. When it returns or is cancelled, nothing is
left open. `close` ends it gracefully. Enough descriptors are reserved to spawn and probe processes when
connections have taken all others; new connections then wait in the system's queue.

Not here: what happens on one connection (`exchange`), signals, output.
"""

from __future__ import annotations

import resource
from itertools import chain
from math import inf
from typing import TYPE_CHECKING

import trio

from orchestra.events import State, StateChanged
from orchestra.proxy.exchange import Conversation
from orchestra.proxy.forward import Peer
from orchestra.proxy.gate import IDLE_CONNECTIONS, OUT_OF_DESCRIPTORS
from orchestra.proxy.route import Availability
from orchestra.proxy.shared import Extras, Shared
from orchestra.proxy.transport import Poller, SocketTransport, accept
from orchestra.proxy.websocket import GOING_AWAY, SERVICE_RESTART

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Iterator, Sequence

    from orchestra.bus import Bus
    from orchestra.config.plan import Address, ProxyPlan, UpstreamPlan
    from orchestra.events import Event, RequestFinished, RequestHeads
    from orchestra.proxy.exchange import Exchange
    from orchestra.proxy.rules import Side
    from orchestra.proxy.transport import Transport

__all__ = ["Extras", "Proxy"]

# Seconds between two checks of the deadlines, which are several seconds long.
SWEEP = 0.5
# Client connections at once; one more waits in the system's queue.
MAX_CONNECTIONS = 1024
# Descriptors that are left for processes, their output, and probes.
RESERVED_DESCRIPTORS = 64
# Seconds for requests in flight when the proxy closes: enough for an API call, too short to be noticed.
CLOSE_LIMIT = 2.0
# The pause after accept has failed for lack of descriptors: one has to be closed first.
ACCEPT_PAUSE = 0.1


class Proxy:
    """The one address in front of a backend and Vite, or one of them.

    Args:
        plan: The plan of the proxy.
        listeners: Listening sockets of any family; they become ours.
        bus: The bus for events of requests and streams, and for notices.

    Attributes:
        poller: Watches all sockets while `run` runs.
    """

    def __init__(
        self,
        plan: ProxyPlan,
        listeners: Sequence[socket.socket],
        *,
        bus: Bus,
        extras: Extras | None = None,
    ) -> None:
        self.poller = Poller()
        self._listeners = list(listeners)
        self._max_connections, most_idle = _limits()
        extras = extras or Extras()
        self._shared = Shared(plan, bus, extras=extras, poller=self.poller, most_idle=most_idle)
        self._conversations: set[Conversation] = set()
        self._nursery: trio.Nursery | None = None
        self._accepting = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._work = trio.Event()
        self._has_ended = trio.Event()

    def __repr__(self) -> str:
        return f"<Proxy with {len(self._conversations)} connections, {self._shared!r}>"

    def observe(self, event: Event) -> None:
        """Take note of a report of the supervisor: which process is ready, and where."""
        if not isinstance(event, StateChanged):
            return
        shared = self._shared
        for upstream in shared.upstreams.values():
            upstream.gate.observe(event)
            upstream.sweep(shared.now)
        if event.state is State.READY and self.is_backend(event.process):
            shared.router.forget_unknown()
        if event.state is State.STOPPING:
            self._end_streams(event.process)
        # A process that goes from ready to starting reloads by itself.
        is_reload = event.previous in (State.READY, State.UNHEALTHY) and event.state is State.STARTING
        if is_reload and self._nursery is not None:
            self._nursery.start_soon(self._drain_reload, event.process)

    def decide(self, side: Side, upstream: UpstreamPlan, *, reason: str = "") -> None:
        """Take note of which process an upstream is that the plan had left open, and why, for people.

        ``None``: there is none, so that the other one gets all requests.
        """
        shared = self._shared
        shared.upstreams[side].gate.decide(upstream, reason=reason)
        # No backend need be found if every process can only be the frontend.
        is_absent = shared.upstreams["backend"].gate.availability is Availability.ABSENT
        frontends = set(shared.upstreams["frontend"].gate.members)
        shared.router.is_frontend_alone = is_absent and frontends.issuperset(shared.plan.candidates)

    def change(self, plan: ProxyPlan, processes: Collection[str]) -> None:
        """Serve by another plan, at the same address; requests in flight are not touched.

        An upstream that was found, and is not among all `processes` of the plan, is open again.
        """
        self._shared.change(plan, set(processes))

    def recent(self) -> Iterator[RequestHeads | RequestFinished]:
        """Give the events of the requests that ended last, oldest first; they have no numbers."""
        return chain.from_iterable(record.past() for record in self._shared.recent)

    def is_backend(self, process: str) -> bool:
        """Whether a process is known to be the backend."""
        return process in self._shared.upstreams["backend"].gate.members

    def frontends(self) -> tuple[Address, ...]:
        """Return the addresses of the frontends that are ready."""
        upstreams = (each.gate for each in self._shared.upstreams.values() if each.gate.side == "frontend")
        return tuple(gate.endpoint.address for gate in upstreams if gate.endpoint is not None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or closed."""
        try:
            with self._serving:
                async with trio.open_nursery() as self._nursery:
                    self._shared.clock = trio.lowlevel.current_clock().current_time
                    self._shared.start_soon = self._nursery.start_soon
                    self._nursery.start_soon(self.poller.run)
                    self._nursery.start_soon(self._sweep)
                    self._nursery.start_soon(self._accept_all)
                    task_status.started()
        finally:
            self._nursery = None
            for conversation in tuple(self._conversations):
                conversation.abort()
            self._drop_idle()
            self.poller.close()
            self._has_ended.set()

    def serve(self, transport: Transport, peer: Peer) -> None:
        """Serve a client's connection in a task of `run`, which has to be running."""
        assert self._nursery is not None  # noqa: S101 - as documented
        # The sweep may have paused, as it had nothing to do.
        self._shared.now = trio.current_time()
        conversation = Conversation(self._shared, transport, peer)
        # At once, and not when its task runs: the next connection must not exceed the limit.
        self._conversations.add(conversation)
        self._work.set()
        self._nursery.start_soon(self._serve, conversation)

    async def _serve(self, conversation: Conversation) -> None:
        try:
            await conversation.run()
        finally:
            self._conversations.discard(conversation)
            self._shared.ended.unpark_all()

    async def close(self) -> None:
        """End in an orderly way; `run` then returns.

        No connection is accepted any more, idle ones are closed, WebSockets are closed with 1001, and
        requests in flight get 2 s.
        """
        self._shared.is_closing = True
        self._accepting.cancel()
        for conversation in tuple(self._conversations):
            if conversation.exchange is not None:
                conversation.exchange.end_stream(GOING_AWAY)
            # In case there was none.
            if conversation.exchange is None:
                conversation.scope.cancel()
        with trio.move_on_after(CLOSE_LIMIT):
            while self._conversations:
                await self._shared.ended.park()
        self._serving.cancel()
        if self._nursery is not None:
            await self._has_ended.wait()

    async def before_stop(self, process: str) -> None:
        """Drain a child of a process that is about to be stopped: wait for its requests in flight.

        Its WebSockets are closed with 1012, its event streams end. It is distinguished from a successor by
        the reports: it is no longer ready, or not the process's ready child.
        """
        self._end_streams(process)
        while self._asked_of(process):
            await self._shared.ended.park()

    def _end_streams(self, process: str) -> None:
        for exchange in self._asked_of(process):
            exchange.end_stream(SERVICE_RESTART)

    async def _drain_reload(self, process: str) -> None:
        late = self._asked_of(process)
        with trio.move_on_after(CLOSE_LIMIT):
            await self.before_stop(process)
        for exchange in late & self._asked_of(process):
            exchange.asker.end_early()

    def _asked_of(self, process: str) -> set[Exchange]:
        """The exchanges with a child of a process that gets no further requests."""
        return {
            exchange
            for conversation in self._conversations
            if (exchange := conversation.exchange) is not None
            and (connection := exchange.asker.connection) is not None
            and connection.endpoint.process == process
            and connection.is_stale()
        }

    async def _accept_all(self) -> None:
        try:
            with self._accepting:
                async with trio.open_nursery() as accepting:
                    for listener in self._listeners:
                        listener.setblocking(False)
                        accepting.start_soon(self._accept, listener)
        finally:
            for listener in self._listeners:
                listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        port = listener.getsockname()[1]
        while True:
            while len(self._conversations) >= self._max_connections:
                await self._shared.ended.park()
            try:
                sock, address = await accept(listener)
            except OSError as exc:
                if exc.errno not in OUT_OF_DESCRIPTORS:
                    raise
                # New connections wait; idle ones to upstreams are dispensable.
                self._drop_idle()
                await trio.sleep(ACCEPT_PAUSE)
                continue
            self.serve(SocketTransport(sock, self.poller), Peer(address.removeprefix("::ffff:"), port))
            # Otherwise the variable would keep the socket open until the next one comes.
            del sock

    def _drop_idle(self, now: float = inf) -> None:
        for upstream in self._shared.upstreams.values():
            upstream.sweep(now)

    async def _sweep(self) -> None:
        while True:
            while self._conversations or any(upstream.idle for upstream in self._shared.upstreams.values()):
                await trio.sleep(SWEEP)
                self._expire()
            self._work = trio.Event()
            await self._work.wait()

    def _expire(self) -> None:
        # Not in `_sweep`, whose variables would keep a connection alive until the next check.
        now = self._shared.now = trio.current_time()
        for conversation in tuple(self._conversations):
            if conversation.deadline <= now:
                conversation.expire()
            elif conversation.exchange is not None:
                conversation.exchange.report(now)
        self._drop_idle(now)


def _limits() -> tuple[int, int]:
    """Return the limit of client connections, and of idle ones to each upstream."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS, IDLE_CONNECTIONS
    idle = max(2, min(IDLE_CONNECTIONS, soft // 16))
    # Each may need one to an upstream.
    return min(MAX_CONNECTIONS, max(4, (soft - RESERVED_DESCRIPTORS - 2 * idle) // 2)), idle
