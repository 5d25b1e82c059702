"""`ViteDevProxy`: an application in development, and Vite for what it does not know.

Strategy. Every decision is made by the code of a run's proxy (`proxy/route`, `proxy/rules`): which of the two
gets a request first, whether a 404 falls back, which answer counts. Here the steps are carried out: the
application is called, Vite is reached over a connection. The application's answer passes as it is sent. Only
if Vite's may replace it, it is kept, up to a limit, until Vite has answered.

Requests reach Vite only if their ``Host`` cannot be forged by a page of another site, and Vite's WebSocket
opens only to pages of our own origin: its token, and Vite's modules, give access to the sources. Headers that
Vite itself checks are all passed on. The application makes such checks itself.

Not here: connections to Vite (`requests`), its WebSocket (`hmr`).
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from typing import TYPE_CHECKING

import anyio

from orchestra.asgi.hmr import relay
from orchestra.asgi.requests import (
    Conversation,
    RequestBody,
    Vite,
    answer_head,
    message_of,
    peer_of,
    request_head,
)
from orchestra.config.plan import Address, ProxyPlan
from orchestra.errors import UpstreamError
from orchestra.hosts import host_refusal, origin_refusal
from orchestra.proxy import answers
from orchestra.proxy.head import BadMessage
from orchestra.proxy.route import KEPT_404, Answer, Ask, Availability, Fail, Route, Signal
from orchestra.proxy.rules import OWN_PREFIX, Router

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.control.doors import App, Message, Receive, Scope, Send
    from orchestra.proxy.head import RequestHead
    from orchestra.proxy.route import Step

__all__ = ["ViteDevProxy"]

_log = logging.getLogger("orchestra")

# Vite answers 204 to every OPTIONS, for any path.
_FALLBACK_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_READY = Availability.READY
_MARK = (b"x-orchestra-upstream", b"backend")


class ViteDevProxy:
    """An ASGI application that asks Vite for what another application does not know.

    Args:
        app: The application.
        vite_port: Where Vite listens.
        vite_host: Vite's host: a name or an address.
        api_prefix: Below it a 404 of the application stays one; empty: nowhere.
        backend_prefixes: Likewise.
        allowed_hosts: Further names for Vite, beside ``localhost``, ``*.localhost`` and addresses, or
            ``.example.org`` for all below it.
        allowed_origins: Origins beside our own that may open Vite's WebSocket.
    """

    def __init__(
        self,
        app: App,
        vite_port: int = 5173,
        vite_host: str = "localhost",
        api_prefix: str = "/api",
        backend_prefixes: Sequence[str] | None = None,
        *,
        allowed_hosts: Sequence[str] = (),
        allowed_origins: Sequence[str] = (),
    ) -> None:
        self.app = app
        self.vite = Vite(vite_host, vite_port)
        given = ["/events", "/ws"] if backend_prefixes is None else backend_prefixes
        prefixes = [each.rstrip("/") for each in (api_prefix, *given)]
        # Our own paths belong to the middlewares that reload pages.
        self._backends = (OWN_PREFIX.decode(), *(f"{each}/" for each in prefixes if each))
        self._plan = ProxyPlan(
            backend=Address("the application", 0),
            frontend=Address(vite_host, vite_port),
            api_prefix=prefixes[0] or None,
            backend_prefixes=tuple(filter(None, prefixes[1:])),
            fallback_methods=_FALLBACK_METHODS,
            allowed_hosts=tuple(allowed_hosts),
            allowed_origins=tuple(allowed_origins),
        )
        self.router = Router(self._plan)
        self._refused: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI connection."""
        head = self._head_for_vite(scope)
        if head is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._open(head, scope, receive, send)
        else:
            limit = self._plan.replay_bytes if self.router.may_fall_back(head) else 0
            exchange = _Exchange(self, head, scope, RequestBody(receive, limit), send)
            await exchange.run()

    def _head_for_vite(self, scope: Scope) -> RequestHead | None:
        """Return the head of a request that may be for Vite."""
        if scope["type"] not in ("http", "websocket") or f"{scope['path']}/".startswith(self._backends):
            return None
        try:
            head = request_head(scope)
        except BadMessage:
            return None
        refused = host_refusal(head.host, self._plan.allowed_hosts)
        if refused is not None:
            self._warn(refused, "allowed_hosts")
            return None
        return head

    async def _open(self, head: RequestHead, scope: Scope, receive: Receive, send: Send) -> None:
        route = self.router.websocket(head, has_backend=True, has_frontend=True)
        if route.side != "frontend":
            await self.app(scope, receive, send)
            return
        peer, origin = peer_of(scope), head.values.get(b"origin")
        allowed = list(self._plan.allowed_origins)
        if scope.get("scheme") == "wss":
            allowed.append(f"https://{head.host.decode('ascii')}")
        refused = origin_refusal(origin, head.host, peer.port, allowed)
        if refused is not None:
            self._warn(refused, "allowed_origins")
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": "Origin not allowed"})
            return
        await relay(self.vite, head, peer, scope=scope, receive=receive, send=send)

    def _warn(self, refused: str, setting: str) -> None:
        if refused not in self._refused and len(self._refused) < 20:
            self._refused.add(refused)
            _log.warning("ViteDevProxy: %s", refused.replace(f"[proxy] {setting} = ", f"{setting}="))


class _Exchange:
    def __init__(
        self, proxy: ViteDevProxy, head: RequestHead, scope: Scope, body: RequestBody, send: Send
    ) -> None:
        self._proxy = proxy
        self._head = head
        self._scope = scope
        self._body = body
        self._send = send
        self._route = Route(head, proxy.router)
        self._kept: list[Message] = []
        self._kept_size = 0

    async def run(self) -> None:
        """Carry out the steps of the route, until the request is answered or the client has left."""
        step: Step | None = self._route.begin(_READY, _READY)
        while step is not None and not self._body.is_gone:
            match step:
                case Ask(side="backend"):
                    step = await self._ask_app()
                case Ask():
                    step = await self._ask_vite()
                case Answer():
                    # The answer was kept: any other has been sent already.
                    await self._give_kept()
                    return
                case Fail(error):
                    await self._answer_own(error)
                    return
                case Signal():
                    # `OPTIONS *`, which is about the server.
                    await self._proxy.app(self._scope, self._body.receive, self._send)
                    return

    # --- The application ---

    async def _ask_app(self) -> Step | None:
        """Call the application; return the step that follows, if its answer was not passed on."""
        step: Step | None = None

        async def judge(message: Message) -> None:
            nonlocal step
            if message["type"] == "http.response.start":
                step = self._route.next(answer_head(message))
                message = {**message, "headers": [*message.get("headers", ()), _MARK]}
            if step is None or isinstance(step, Answer):
                await self._send(message)
            elif not self._keep(message):
                step = Answer("too large to fall back")
                await self._give_kept()

        await self._proxy.app(self._scope, self._body.receive, judge)
        if isinstance(step, Answer):
            return None
        if not self._body.can_begin:
            return Answer("body too long to be sent again", is_kept=True)
        return step

    def _keep(self, message: Message) -> bool:
        """Keep a part of an answer; return whether it is small enough so far."""
        self._kept.append(message)
        self._kept_size += len(message.get("body", b""))
        return self._kept_size <= KEPT_404

    async def _give_kept(self) -> None:
        kept, self._kept = self._kept, []
        for message in kept:
            await self._send(message)

    # --- Vite ---

    async def _ask_vite(self) -> Step | None:
        """Ask Vite; return the step that follows, if its answer was not passed on."""
        try:
            stream = await self._proxy.vite.connect()
        except UpstreamError as exc:
            return self._route.next(exc)
        step: Step | None = None
        async with stream, anyio.create_task_group() as group:
            conversation = Conversation(stream, self._head, peer_of(self._scope))
            group.start_soon(self._send_body, conversation, group.cancel_scope)
            step = await self._pass_answer(conversation)
            group.cancel_scope.cancel()
        return step

    async def _send_body(self, conversation: Conversation, scope: anyio.CancelScope) -> None:
        await conversation.send(self._body)
        scope.cancel()

    async def _pass_answer(self, conversation: Conversation) -> Step | None:
        try:
            head = await conversation.head()
        except UpstreamError as exc:
            return self._route.next(exc)
        step = self._route.next(head)
        if not isinstance(step, Answer) or step.is_kept:
            return step
        await self._send(message_of(head, "frontend"))
        try:
            async with aclosing(conversation.body(head)) as body:
                async for piece in body:
                    await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        except UpstreamError as exc:
            # Without an end, the server closes the connection: the answer does not look whole.
            _log.warning("ViteDevProxy: %s", exc)
            return None
        await self._send({"type": "http.response.body", "body": b""})
        return None

    async def _answer_own(self, error: UpstreamError | BadMessage) -> None:
        head, content = answers.render(answers.explain(error), self._head)
        await self._send(message_of(head, "orchestra"))
        await self._send({"type": "http.response.body", "body": content})
