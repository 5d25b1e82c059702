"""One client's connection: requests and answers, one after the other, until no more can follow.

Strategy. Each connection has a task, but ordinary requests are served while it sleeps: when bytes arrive,
plain functions read a request, ask an upstream, and pass its answer on (`Exchange.advance`). To wake a task
twice a request would cost more than all of that. The task is woken for what may have to wait for something
else (`Exchange.run`): an upstream that is not ready, a client that does not read, a WebSocket. Then the
functions go on.

All limits of time are one number, the `deadline`, which the server looks at: a cancel scope for every
operation would cost more than parsing does. When the client leaves, the connection's scope is cancelled, with
everything that was done for it.

Error handling: an error in one connection ends that connection; a mistake of ours is logged there.

Not here: what an answer is (`exchange`), which connections there are (`server`).
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

import trio

from orchestra.proxy import answers
from orchestra.proxy.connection import ClientConnection, ClientGone
from orchestra.proxy.exchange import OVER, WAITING, Exchange
from orchestra.proxy.forward import forwarded_response
from orchestra.proxy.head import BadMessage

if TYPE_CHECKING:
    from orchestra.proxy.forward import Peer
    from orchestra.proxy.shared import Shared
    from orchestra.proxy.transport import Transport

__all__ = ["Conversation"]

logger = logging.getLogger(__name__)

# Seconds that a client may take to send a head.
HEADER_TIMEOUT = 10.0
# Seconds that an unused connection of a client stays open; Chromium's own limit is 300.
IDLE_TIMEOUT = 75.0
# A client whose request was not read to its end gets so long to take note of the answer.
LINGER = 1.0


class Conversation:
    """What happens on one client's connection.

    Attributes:
        deadline: When it is given up, on trio's clock.
        exchange: That is under way.
        scope: Cancel it to close the connection.
    """

    def __init__(self, shared: Shared, transport: Transport, peer: Peer) -> None:
        self.deadline = shared.now + IDLE_TIMEOUT
        self.scope = trio.CancelScope()
        self._shared = shared
        self._client = ClientConnection(transport, shared.reader)
        self._peer = peer
        self._woken = trio.Event()
        self.exchange: Exchange | None = None
        self._fault: Exception | None = None
        self._is_reading_head = self._is_late = False

    async def run(self) -> None:
        """See it through, from the first request to the end."""
        client = self._client
        try:
            with self.scope:
                client.transport.on_hangup(self._hung_up)
                try:
                    await self._converse()
                except BadMessage as exc:
                    await self._refuse(exc)
                if not client.body.is_complete:
                    await self._linger()
            if self._is_late:
                with trio.move_on_after(LINGER):
                    await self._refuse(BadMessage("the request did not arrive in time", status=408))
        except ClientGone:
            pass
        except Exception:
            logger.exception("a bug in orchestra ended one connection: %r", client)
            client.abort()
        finally:
            # What is told from now on comes too late.
            self._woken.set()
            if self.exchange is not None:
                self.exchange.abandon()
            client.close()

    def expire(self) -> None:
        """Its deadline has passed."""
        self._is_late = self._is_reading_head
        self.scope.cancel()

    def abort(self) -> None:
        """End it at once: the client sees an error."""
        self.scope.cancel()
        self._client.abort()

    def _hung_up(self, is_reset: bool) -> None:  # noqa: FBT001 - a callback
        self._client.was_reset |= is_reset
        self.scope.cancel()

    async def _converse(self) -> None:
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
        """Go on with what has arrived, as far as that needs no waiting."""
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
            self.exchange = Exchange(shared, client, head, self._peer)
        elif client.unread and not self._is_reading_head:
            self._is_reading_head = True
            self.deadline = shared.now + HEADER_TIMEOUT
        return self.exchange

    # --- The end ---

    async def _refuse(self, fault: BadMessage) -> None:
        head, body = answers.render(answers.explain(fault), None)
        await self._client.send(forwarded_response(head, "orchestra", close=True) + body)

    async def _linger(self) -> None:
        self.deadline = trio.current_time() + LINGER
        self._client.transport.send_eof()
        await self._client.read_off()
