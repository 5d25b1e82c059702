"""The proxy as a whole: listeners, connections and their limits, and the orderly end.

Strategy. One `Conversation` and one task for each client connection, and one task that looks at the deadlines
of all of them twice a second.

Resource handling: `run` owns the listeners and everything that came of them. When it returns or is cancelled,
nothing is left open. `close` is the friendly way to end it. So many descriptors are left alone that processes
can be spawned and probed when connections have taken all others; new connections then wait in the system's
queue.

Not here: what happens on one connection (`conversation`), signals, output.
"""

from __future__ import annotations

import logging
import resource
from typing import TYPE_CHECKING

import trio

from orchestra.events import State, StateChanged
from orchestra.proxy.conversation import Conversation
from orchestra.proxy.forward import Peer
from orchestra.proxy.gate import Gate
from orchestra.proxy.head import HeadReader
from orchestra.proxy.pool import IDLE_CONNECTIONS, OUT_OF_DESCRIPTORS, Upstream
from orchestra.proxy.shared import Shared
from orchestra.proxy.transport import Poller, SocketTransport, accept, dial as dial_tcp
from orchestra.proxy.websocket import GOING_AWAY, SERVICE_RESTART

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from orchestra.config.plan import ProxyPlan, UpstreamPlan
    from orchestra.events import Bus, Event
    from orchestra.proxy.connection import UpstreamConnection
    from orchestra.proxy.exchange import Exchange
    from orchestra.proxy.pool import Dial
    from orchestra.proxy.route import Side
    from orchestra.proxy.transport import Transport

__all__ = ["Proxy"]

logger = logging.getLogger(__name__)

# Seconds between two looks at the deadlines; they are seconds long themselves.
SWEEP = 0.5
# Client connections at once; one more waits in the system's queue.
MAX_CONNECTIONS = 1024
# Descriptors that are left for processes, their output, and probes.
RESERVED_DESCRIPTORS = 64
# What requests in flight get when the proxy is closed: enough for an API call, too little to be waited for.
CLOSE_LIMIT = 2.0
# The pause after accept has failed for want of descriptors: one has to be closed first.
ACCEPT_PAUSE = 0.1


class Proxy:
    """The one address in front of a backend and Vite, or one of them.

    Args:
        plan: What stands behind it.
        listeners: Sockets that are bound and listen, of any family; they become ours.
        bus: Where requests, streams and notices are reported.
        tail: Gives the last lines that a process wrote, for the pages that say why it is not there.
        dial: How to connect to an upstream, if not by TCP.
    """

    def __init__(
        self,
        plan: ProxyPlan,
        listeners: Sequence[socket.socket],
        *,
        bus: Bus,
        tail: Callable[[str], Sequence[str]] = lambda _process: (),
        dial: Dial | None = None,
    ) -> None:
        self._plan = plan
        self._listeners = list(listeners)
        self._max_connections, idle = _limits()
        self._reader = HeadReader()
        self._backend, self._frontend = (
            Upstream(gate, dial=dial or self._dial, reader=self._reader, idle=idle)
            for gate in (
                Gate("backend", plan.backend, bus=bus, tail=tail),
                Gate("frontend", plan.frontend, bus=bus, tail=tail),
            )
        )
        self._shared = Shared(
            plan, backend=self._backend, frontend=self._frontend, bus=bus, reader=self._reader
        )
        self._conversations: set[Conversation] = set()
        self._poller: Poller | None = None
        self._nursery: trio.Nursery | None = None
        self._accepting = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._work = trio.Event()
        self._has_ended = trio.Event()

    def __repr__(self) -> str:
        return f"<Proxy with {len(self._conversations)} connections, {self._shared!r}>"

    @property
    def poller(self) -> Poller:
        """Tells what happens to all sockets; there while `run` runs."""
        assert self._poller is not None  # noqa: S101 - as documented
        return self._poller

    async def _dial(self, host: str, port: int) -> Transport:
        return await dial_tcp(host, port, self.poller)

    def observe(self, event: Event) -> None:
        """Take note of what the supervisor reports: what is ready, and where."""
        if not isinstance(event, StateChanged):
            return
        for upstream in (self._backend, self._frontend):
            upstream.observe(event)
        if event.state is State.READY and self._backend.gate.has(event.process):
            self._shared.router.forget()
        if event.state is State.STOPPING:
            self._close_streams(SERVICE_RESTART, process=event.process)
        # A process that was ready makes itself ready again: it reloads by itself.
        is_reload = event.previous in (State.READY, State.UNHEALTHY) and event.state is State.STARTING
        if is_reload and self._nursery is not None:
            self._nursery.start_soon(self._drain_reload, event.process)

    def decide(self, side: Side, upstream: UpstreamPlan, *, reason: str = "") -> None:
        """Take note of what an upstream is that the plan had left open.

        Args:
            side: ``backend`` or ``frontend``.
            upstream: What it is; ``None``: there is none, so that everything goes to the other one.
            reason: Why, for people.
        """
        decided = self._shared.upstream(side)
        decided.gate.decide(upstream, reason=reason)
        decided.look()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or closed."""
        poller = self._poller = Poller()
        try:
            with self._serving:
                async with trio.open_nursery() as self._nursery:
                    nursery = self._nursery
                    nursery.start_soon(poller.run)
                    nursery.start_soon(self._sweep)
                    nursery.start_soon(self._accept_all, nursery)
                    task_status.started()
        finally:
            self._nursery = None
            self._close_listeners()
            for conversation in tuple(self._conversations):
                conversation.abort()
            for upstream in (self._backend, self._frontend):
                upstream.clear()
            poller.close()
            self._has_ended.set()

    async def serve(self, transport: Transport, peer: Peer) -> None:
        """See one client's connection through, from its first request to its end."""
        await self._serve(self._admit(transport, peer))

    def _admit(self, transport: Transport, peer: Peer) -> Conversation:
        # The sweep may have had nothing to do for a while.
        self._shared.now = trio.current_time()
        conversation = Conversation(self._shared, transport, peer)
        self._conversations.add(conversation)
        self._work.set()
        return conversation

    async def _serve(self, conversation: Conversation) -> None:
        try:
            await conversation.run()
        finally:
            self._conversations.discard(conversation)
            self._shared.report_ended()

    async def close(self) -> None:
        """End in an orderly way; `run` then returns.

        Nothing new is accepted, idle connections are closed, WebSockets are told 1001, and requests in flight
        get 2 s.
        """
        self._shared.is_closing = True
        self._accepting.cancel()
        self._close_streams(GOING_AWAY)
        for conversation in tuple(self._conversations):
            if conversation.exchange is None:
                conversation.scope.cancel()
        with trio.move_on_after(CLOSE_LIMIT):
            while self._conversations:
                await self._shared.wait_ended()
        self._serving.cancel()
        if self._poller is not None:
            await self._has_ended.wait()

    async def before_stop(self, process: str) -> None:
        """Drain a child of a process that is about to be stopped: wait for the requests in flight.

        Its WebSockets are told 1012, its event streams end. It is told apart from one that has replaced it by
        what was reported: this one is not ready any more, or not the one that is.
        """
        self._close_streams(SERVICE_RESTART, process=process)
        while self._asked_of(process):
            await self._shared.wait_ended()

    async def _drain_reload(self, process: str) -> None:
        """Drain a process that reloads by itself, and waits for all that it still serves."""
        late = self._asked_of(process)
        with trio.move_on_after(CLOSE_LIMIT):
            await self.before_stop(process)
        for exchange in late & self._asked_of(process):
            exchange.end_early()

    def _asked_of(self, process: str) -> set[Exchange]:
        """The exchanges in which a child of a process is asked that no other request is sent to any more."""
        exchanges = [conversation.exchange for conversation in self._conversations]
        return {each for each in exchanges if each and self._is_of_former(process, each.connection)}

    def _close_streams(self, code: int, *, process: str | None = None) -> None:
        """Close all streams, or those of a child of a process that is not asked any more."""
        for stream in tuple(self._shared.streams):
            if process is None or self._is_of_former(process, stream.connection):
                stream.end_early(code)

    def _is_of_former(self, process: str, connection: UpstreamConnection | None) -> bool:
        if connection is None or connection.process != process:
            return False
        upstream = self._backend if self._backend.gate.has(process) else self._frontend
        return upstream.is_stale(connection)

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
        poller = self.poller
        port = listener.getsockname()[1]
        while True:
            while len(self._conversations) >= self._max_connections:
                await self._shared.wait_ended()
            try:
                sock, (address, _) = await accept(listener)
            except OSError as exc:
                if exc.errno not in OUT_OF_DESCRIPTORS:
                    raise
                # New connections wait; idle ones to upstreams are what we can do without.
                self._backend.clear()
                self._frontend.clear()
                await trio.sleep(ACCEPT_PAUSE)
                continue
            # Admitted before its task runs: the next one must not slip past the limit.
            transport, peer = SocketTransport(sock, poller), Peer(address.removeprefix("::ffff:"), port)
            nursery.start_soon(self._serve, self._admit(transport, peer))
            # It would live on here until the next one comes.
            del sock, transport, peer

    async def _sweep(self) -> None:
        """Keep all limits of time."""
        while True:
            while self._conversations or self._backend.idle or self._frontend.idle:
                await trio.sleep(SWEEP)
                now = self._shared.now = trio.current_time()
                self._expire(now)
            self._work = trio.Event()
            await self._work.wait()

    def _expire(self, now: float) -> None:
        """End what is too old; the task that waits for the next time holds no connection."""
        for conversation in tuple(self._conversations):
            if conversation.deadline <= now:
                conversation.expire()
        for upstream in (self._backend, self._frontend):
            upstream.sweep(now)


def _limits() -> tuple[int, int]:
    """Return how many connections of clients there may be, and how many idle ones to each upstream."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS, IDLE_CONNECTIONS
    idle = max(2, min(IDLE_CONNECTIONS, soft // 16))
    # Each may need one to an upstream.
    return min(MAX_CONNECTIONS, max(4, (soft - RESERVED_DESCRIPTORS - 2 * idle) // 2)), idle
