"""Pages with the script of orchestra in them, and its `live` connection, whose other end the test plays."""

from __future__ import annotations

import contextlib
import json
import queue
import socket
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from tests.kit import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from hypercorn.typing import Framework
    from playwright.sync_api import Page
    from starlette.requests import Request
    from starlette.websockets import WebSocket

CLIENT = (Path(__file__).parent.parent / "orchestra" / "control" / "client.js").read_text("utf-8")
LOCAL = {"type": "hello", "local": True, "token": "the-token", "overlay": True, "console": True}


def document(body: str = "", *, head: str = "", tag: str = "") -> str:
    """A page with the script, as orchestra puts it there; `tag` is for more attributes."""
    script = f'<script src="/__orchestra__/client.js" async data-page="backend"{tag}></script>'
    return f"<!doctype html><html><head>{script}<title>page</title>{head}</head><body>{body}</body></html>"


class Site:
    """Serves what it is given, on a port of its own; use it as a context manager.

    Attributes:
        greeting: What each connection gets first, after it has said which page it is.
        asked: All requests so far, without those of the script itself: method and target.
        opened: What the script wanted to have opened in the editor.
    """

    def __init__(self) -> None:
        self.greeting: list[dict[str, Any]] = [LOCAL]
        self.asked: list[str] = []
        self.opened: list[dict[str, Any]] = []
        self._answers: dict[str, tuple[str, str, Mapping[str, str]]] = {}
        self._pages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._sockets: set[WebSocket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._ended = trio.Event()
        self._token: trio.lowlevel.TrioToken
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=[self._run])

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_up.wait(PATIENCE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._token.run_sync_soon(self._ended.set)
        self._thread.join(PATIENCE)

    def answers(self, path: str, body: str, media_type: str = "text/html", **headers: str) -> None:
        self._answers[path] = (body, media_type, {name.replace("_", "-"): headers[name] for name in headers})

    def connected(self) -> dict[str, Any]:
        """What the next connection says of its page, once it has been greeted."""
        return self._pages.get(timeout=PATIENCE)

    def is_quiet(self, seconds: float) -> bool:
        """Whether no connection comes for so long."""
        with contextlib.suppress(queue.Empty):
            self._pages.get(timeout=max(seconds, 0.001))
            return False
        return True

    def tell(self, kind: str, **message: Any) -> None:
        """Send a message to all pages."""
        trio.from_thread.run(self._tell, {"type": kind, **message}, trio_token=self._token)

    def drop(self) -> None:
        """Close all connections."""
        trio.from_thread.run(self._drop, trio_token=self._token)

    @property
    def connections(self) -> int:
        return len(self._sockets)

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        config = Config()
        config.bind = [f"fd://{self._listener.detach()}"]
        config.graceful_timeout = config.shutdown_timeout = 0.1
        config.errorlog = None
        routes = [
            Route("/__orchestra__/client.js", self._client),
            Route("/__orchestra__/open", self._open, methods=["POST"]),
            WebSocketRoute("/__orchestra__/live", self._live),
            Route("/{path:path}", self._answer, methods=["GET", "POST"]),
        ]
        async with trio.open_nursery() as nursery:
            # Starlette's types of messages are wider than Hypercorn's
            app = cast("Framework", Starlette(routes=routes))
            served = partial(serve, app, config, shutdown_trigger=self._ended.wait)
            await nursery.start(served)
            self._is_up.set()

    async def _client(self, _: Request) -> Response:
        return Response(CLIENT, media_type="text/javascript")

    async def _open(self, request: Request) -> Response:
        self.opened.append(await request.json())
        return PlainTextResponse("No editor was found; set [reload] editor.", 503)

    async def _answer(self, request: Request) -> Response:
        path = request.url.path
        if path not in self._answers:
            return PlainTextResponse("nothing", 404)
        self.asked.append(f"{request.method} {path}")
        body, media_type, headers = self._answers[path]
        return Response(body, media_type=media_type, headers=headers)

    async def _live(self, live: WebSocket) -> None:
        await live.accept()
        with contextlib.suppress(WebSocketDisconnect):
            page = json.loads(await live.receive_text())
            for message in self.greeting:
                await live.send_json(message)
            self._sockets.add(live)
            self._pages.put(page)
            try:
                await live.receive_text()
            finally:
                self._sockets.discard(live)

    async def _tell(self, message: dict[str, Any]) -> None:
        for live in list(self._sockets):
            await live.send_json(message)

    async def _drop(self) -> None:
        for live in list(self._sockets):
            await live.close(1012)


def count_navigations(page: Page) -> list[str]:
    """A list that grows with each document that the page's main frame loads from now on."""
    seen: list[str] = []
    page.on("framenavigated", lambda frame: seen.append(frame.url) if frame == page.main_frame else None)
    return seen


def until(page: Page, holds: Callable[[], bool]) -> None:
    """Wait for something outside of the page, while the browser goes on."""
    since = time.monotonic()
    while not holds():
        assert time.monotonic() - since < PATIENCE
        page.wait_for_timeout(10)
