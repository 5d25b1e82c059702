"""Reloads pages from within an application; names and behaviour are those of fastapi-reloader.

`html_injection_middleware` puts orchestra's script into HTML documents while they pass, as the proxy of a run
does (`control/inject`): once, even if the middleware is installed twice, and only if the page's policy allows
it. It requests uncompressed documents from the application, so it may stand on either side of a compression
middleware. `reloader_route_middleware` serves that script and its WebSocket. `auto_refresh_middleware` is
both.

A page reports its age when it connects, and reloads if it is older than this process or than the last
`send_reload_signal`. That function closes all connections, which a server would otherwise have to wait for.
Pages reconnect as soon as a server is there, this one or the next.

Only pages of the same origin get the script and its WebSocket (`control/doors`).
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
from msgspec import DecodeError

from orchestra.asgi.requests import request_head
from orchestra.bus import Bus
from orchestra.config.schema import ReloadSettings
from orchestra.control.doors import Request, admit, script_answer
from orchestra.control.inject import Injector
from orchestra.control.tabs import read_page, text_of
from orchestra.events import Notice
from orchestra.proxy.head import BadMessage, ResponseHead
from orchestra.proxy.rules import OWN_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestra.control.doors import App, Message, Receive, Scope, Send
    from orchestra.control.pages import Page
    from orchestra.events import Event

__all__ = [
    "auto_refresh_middleware",
    "html_injection_middleware",
    "patch_for_auto_reloading",
    "reloader_route_middleware",
    "send_reload_signal",
]

_log = logging.getLogger("orchestra")

# The key in a scope of a list that is not empty as soon as the document has the script.
_MARK = "orchestra.script"
_SERVICE_RESTART, _POLICY_VIOLATION = 1012, 1008
# Extensions by which an application would send a file past this middleware.
_SHORTCUTS = frozenset({"http.response.pathsend", "http.response.zerocopysend"})


def send_reload_signal() -> None:
    """Have all pages reload as soon as a server is there; may be called from any thread."""
    _pages.due = time.monotonic()
    for each in tuple(_pages.lives):
        each.end_soon()


class _Middleware:
    """Wraps an application; Starlette's list of middlewares takes it, too."""

    def __init__(self, make: Callable[[App], App]) -> None:
        self._make = make

    def __call__(self, app: App) -> App:
        return self._make(app)

    def __iter__(self) -> Iterator[object]:
        return iter((self._make, (), {}))


# --- The script ---


class _Injecting:
    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(scope, send) if scope["type"] == "http" else None
        await self._app(scope, receive, exchange.send if exchange and exchange.is_for_a_page else send)


class _Exchange:
    """One request, whose answer may be a document."""

    is_for_a_page = False
    _page: Page | None = None

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        # Middlewares may copy a scope; its values are then the same objects.
        self._done: list[bool] = scope.setdefault(_MARK, [])
        fields: list[tuple[bytes, bytes]] = list(scope["headers"])
        if not any(name.startswith(b"sec-fetch-") for name, _ in fields):
            # A program that asks for a document gets the same as a window.
            fields = [*(field for field in fields if field[0] != b"accept"), (b"accept", b"text/html")]
        try:
            self._head = request_head({**scope, "headers": fields})
        except BadMessage:
            return
        if _injector().asks(self._head) is not None:
            self.is_for_a_page = True
            others = [field for field in scope["headers"] if field[0] != b"accept-encoding"]
            scope["headers"] = [*others, (b"accept-encoding", b"identity")]
            extensions = scope.get("extensions") or {}
            scope["extensions"] = {name: each for name, each in extensions.items() if name not in _SHORTCUTS}

    async def send(self, message: Message) -> None:
        """Forward a message, with the script if it belongs there."""
        if message["type"] == "http.response.start" and not self._done:
            message = self._begin(message)
        elif (
            message["type"] == "http.response.body" and self._page is not None and self._page.feed is not None
        ):
            has_more = message.get("more_body", False)
            body = self._page.feed(message.get("body", b""), is_last=not has_more)
            if not body and has_more:
                return
            message = {**message, "body": body}
        await self._send(message)

    def _begin(self, message: Message) -> Message:
        given = message.get("headers", ())
        fields = [(name, value) for name, value in given if name != b"transfer-encoding"]
        with suppress(BadMessage):
            answer = ResponseHead.of(message["status"], fields)
            self._page = _injector().begin(self._head, answer, "backend")
        if self._page is None:
            return message
        self._done.append(True)
        pairs = (line.partition(b": ")[::2] for line in self._page.head.lines)
        return {**message, "headers": [(name.lower(), value) for name, value in pairs]}


@cache
def _injector() -> Injector:
    bus = Bus()

    def report(event: Event) -> None:
        if isinstance(event, Notice):
            _log.warning("%s. %s", event.text, event.hint)

    bus.subscribe(report, Notice)
    return Injector(ReloadSettings(), bus)


# --- Its connection ---


class _Pages:
    """The open pages of this process; `due` is when older ones became out of date."""

    def __init__(self) -> None:
        self.due = time.monotonic()
        self.lives: set[_Live] = set()


_pages = _Pages()


class _Live:
    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._ended = anyio.Event()
        self._close_code: int | None = _SERVICE_RESTART
        token: Any = anyio.lowlevel.current_token()
        # The event loop's, or trio's.
        native = getattr(token, "native_token", token)
        self._soon: Callable[..., object] = (
            getattr(native, "call_soon_threadsafe", None) or native.run_sync_soon
        )

    def end_soon(self) -> None:
        """Have it end; may be called from any thread."""
        with suppress(RuntimeError):  # its event loop has ended
            self._soon(self._ended.set)

    async def run(self) -> None:
        await self._receive()  # websocket.connect
        await self._send({"type": "websocket.accept"})
        _pages.lives.add(self)
        try:
            await self._send({"type": "websocket.send", "text": text_of("hello", local=False)})
            async with anyio.create_task_group() as group:
                group.start_soon(self._listen)
                await self._ended.wait()
                group.cancel_scope.cancel()
            if self._close_code is not None:
                await self._send({"type": "websocket.close", "code": self._close_code})
        finally:
            _pages.lives.discard(self)

    async def _listen(self) -> None:
        """Receive the page's report about itself, and wait until the page disconnects."""
        while (message := await self._receive())["type"] == "websocket.receive":
            try:
                page = read_page(message.get("text") or "")
            except DecodeError:
                self._close_code = _POLICY_VIOLATION
                break
            if time.monotonic() - page.age / 1000 < _pages.due:
                text = text_of("reload", reason="the application is newer")
                await self._send({"type": "websocket.send", "text": text})
        else:
            self._close_code = None
        self._ended.set()


class _Routed:
    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = OWN_PREFIX.decode("ascii")
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        if scope["type"] not in ("http", "websocket") or path not in (f"{own}client.js", f"{own}live"):
            await self._app(scope, receive, send)
            return
        request = Request.of("browser", path.removeprefix(own), _without_tls(scope))
        refusal = admit(request)
        if scope["type"] == "http":
            await (refusal or script_answer(request)).send(request, send)
        elif refusal is None:
            await _Live(receive, send).run()
        else:
            await receive()
            await send({"type": "websocket.close", "code": _POLICY_VIOLATION})


def _without_tls(scope: Scope) -> Scope:
    """Return a scope without TLS, as `doors` has no https."""
    if scope["scheme"] not in ("https", "wss"):
        return scope
    plain = {
        name: value.replace(b"https://", b"http://", 1)
        for name, value in scope["headers"]
        if name in (b"origin", b"referer")
    }
    return {**scope, "headers": [(name, plain.get(name, value)) for name, value in scope["headers"]]}


html_injection_middleware = _Middleware(_Injecting)
"""Puts the script into HTML documents."""

reloader_route_middleware = _Middleware(_Routed)
"""Answers the script, and its connection."""

auto_refresh_middleware = _Middleware(lambda app: _Routed(_Injecting(app)))
"""Both."""

patch_for_auto_reloading = auto_refresh_middleware
"""As it was called before."""
