"""Pages that reload by themselves: fastapi-reloader's documented examples, with the import changed."""

from __future__ import annotations

import gzip
import json
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Mount, Route

from orchestra.asgi import (
    auto_refresh_middleware,
    html_injection_middleware,
    reloader_route_middleware,
    send_reload_signal,
)
from tests.asgi_kit import ask, scope_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from orchestra.control.doors import App, Message

TAG = b'<script src="/__orchestra__/client.js"'
PAGE = "<!doctype html><html><head><title>page</title></head><body>" + "text " * 200 + "</body></html>"
WINDOW = {
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Accept": "text/html",
    "Accept-Encoding": "gzip",
}


def fastapi() -> FastAPI:
    app = FastAPI()

    @app.get("/", response_class=HTMLResponse)
    async def index() -> str:  # noqa: ASYNC124 - as FastAPI has it
        return PAGE

    @app.get("/data")
    async def data() -> dict[str, str]:  # noqa: ASYNC124
        return {"html": PAGE}

    return app


def one_line() -> App:
    app = fastapi()
    app.add_middleware(auto_refresh_middleware)
    return app


def wrapped() -> App:
    return reloader_route_middleware(html_injection_middleware(fastapi()))


def in_the_list() -> App:
    app = fastapi()
    app.user_middleware.append(html_injection_middleware)  # type: ignore[arg-type]  # as it is documented
    app.add_middleware(reloader_route_middleware)
    return app


def inside_a_compression() -> App:
    app = fastapi()
    app.add_middleware(reloader_route_middleware)
    app.add_middleware(html_injection_middleware)
    app.add_middleware(GZipMiddleware)
    return app


def around_a_compression() -> App:
    app = fastapi()
    app.add_middleware(GZipMiddleware)
    app.add_middleware(auto_refresh_middleware)
    return app


def everywhere() -> App:
    app = fastapi()
    app.user_middleware.append(html_injection_middleware)  # type: ignore[arg-type]  # as it is documented
    app.add_middleware(GZipMiddleware)
    app.add_middleware(auto_refresh_middleware)
    return auto_refresh_middleware(auto_refresh_middleware(app))


def a_router() -> App:
    app = FastAPI()
    router = APIRouter()

    @router.get("/", response_class=HTMLResponse)
    async def index() -> str:  # noqa: ASYNC124
        return PAGE

    app.mount("/sub", html_injection_middleware(router))
    app.include_router(router, prefix="/sub")
    return reloader_route_middleware(app)


def starlette() -> App:
    """As `Middleware` of an application, and around a mounted one."""
    inner = Starlette(routes=[Route("/", _page)], middleware=[Middleware(html_injection_middleware)])
    return reloader_route_middleware(Starlette(routes=[Mount("/sub", inner)]))


async def _page(_request: Request) -> Response:  # noqa: ASYNC124
    return HTMLResponse(PAGE)


@pytest.mark.parametrize("headers", [WINDOW, {"Accept": "*/*"}, {}])
@pytest.mark.parametrize(
    "made",
    [
        one_line,
        wrapped,
        in_the_list,
        inside_a_compression,
        around_a_compression,
        everywhere,
        a_router,
        starlette,
    ],
    ids=lambda made: made.__name__,
)
async def test_a_page_gets_the_script_once(made: Callable[[], App], headers: dict[str, str]) -> None:
    app = made()
    target = "/sub/" if made in (a_router, starlette) else "/"
    answer = await ask(app, target, headers)
    body = answer.body
    if answer.headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    assert body.count(TAG) == 1
    assert body.replace(body[body.index(TAG) : body.index(b"</script>") + 9], b"") == PAGE.encode()
    assert int(answer.headers.get("content-length", len(answer.body))) == len(answer.body)
    script = await ask(app, "/__orchestra__/client.js", {"Sec-Fetch-Site": "same-origin"})
    assert (script.status, script.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert b"__orchestra__" in script.body


@pytest.mark.parametrize(
    ("target", "headers"),
    [
        ("/data", WINDOW),
        ("/", {"Sec-Fetch-Dest": "empty", "Sec-Fetch-Mode": "cors"}),
        ("/", {**WINDOW, "HX-Request": "true"}),
        # orchestra's proxy has put it there.
        ("/", {**WINDOW, "Via": "1.1 orchestra"}),
    ],
)
async def test_what_is_no_page_stays_as_it_is(target: str, headers: dict[str, str]) -> None:
    answer = await ask(one_line(), target, headers)
    assert TAG not in answer.body
    assert answer.headers["content-length"] == str(len(answer.body))


async def test_a_page_streams() -> None:
    """What has come passes at once."""
    passed: list[bytes] = []

    async def pieces() -> Any:  # noqa: ASYNC124
        yield "<!doctype html><head><title>"
        assert TAG in b"".join(passed)
        yield "page"
        assert b"".join(passed).endswith(b"page")
        yield "</title>"

    async def stream(_request: Request) -> Response:  # noqa: ASYNC124
        return StreamingResponse(pieces(), media_type="text/html")

    async def receive() -> Message:
        await trio.sleep_forever()
        raise AssertionError

    async def send(message: Message) -> None:  # noqa: ASYNC124
        passed.append(message.get("body", b""))

    app = auto_refresh_middleware(Starlette(routes=[Route("/", stream)]))
    await app(scope_of("/", headers=WINDOW), receive, send)
    assert b"".join(passed).endswith(b"<title>page</title>")


async def test_a_policy_is_never_loosened(caplog: pytest.LogCaptureFixture) -> None:
    async def strict(_request: Request) -> Response:  # noqa: ASYNC124
        return HTMLResponse(PAGE, headers={"Content-Security-Policy": "script-src 'none'"})

    app = auto_refresh_middleware(Starlette(routes=[Route("/", strict)]))
    answer = await ask(app, "/", WINDOW)
    assert TAG not in answer.body
    assert "script-src" in caplog.text


class Page:
    """The other end of its connection.

    Attributes:
        said: What it was told.
    """

    def __init__(self, app: App, **headers: str) -> None:
        self.said: list[dict[str, Any]] = []
        self.has_ended = trio.Event()
        self._app = app
        self._in, self._out = trio.open_memory_channel["Message"](10)
        self._headers = {"Origin": "http://localhost:8000", **headers}

    async def run(self, age: float) -> None:
        text = json.dumps({"type": "page", "from": "backend", "age": age})
        await self._in.send({"type": "websocket.connect"})
        await self._in.send({"type": "websocket.receive", "text": text})
        scope = {
            **scope_of("/__orchestra__/live", headers=self._headers),
            "type": "websocket",
            "scheme": "ws",
        }
        await self._app(scope, self._out.receive, self._send)
        self.has_ended.set()

    async def leave(self) -> None:
        await self._in.send({"type": "websocket.disconnect", "code": 1001})

    async def _send(self, message: Message) -> None:  # noqa: ASYNC124
        self.said.append(json.loads(message["text"]) if "text" in message else dict(message))


async def test_a_page_reloads_if_it_is_older_than_the_process() -> None:
    app = one_line()
    for age, is_older in ((0, False), (10_000_000, True)):
        page = Page(app)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(page.run, age)
            await trio.testing.wait_all_tasks_blocked()
            await page.leave()
        kinds = [each["type"] for each in page.said]
        assert kinds == ["websocket.accept", "hello", *(["reload"] if is_older else [])]


@pytest.mark.parametrize("in_thread", [False, True])
async def test_a_signal_closes_the_connection(*, in_thread: bool) -> None:
    """A server that ends need not wait for it. A page of before then reloads, wherever it connects again."""
    app = one_line()
    page = Page(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(page.run, 0)
        await trio.testing.wait_all_tasks_blocked()
        if in_thread:
            thread = threading.Thread(target=send_reload_signal)
            thread.start()
            thread.join()
        else:
            send_reload_signal()
        await page.has_ended.wait()
    assert page.said[-1] == {"type": "websocket.close", "code": 1012}
    time.sleep(0.002)  # noqa: ASYNC251 - ages are in milliseconds
    again = Page(app)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(again.run, 1000)
        await trio.testing.wait_all_tasks_blocked()
        await again.leave()
    assert [each["type"] for each in again.said] == ["websocket.accept", "hello", "reload"]


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:9999", "null"])
async def test_another_origin_is_refused(origin: str) -> None:
    page = Page(one_line(), Origin=origin)
    await page.run(0)
    assert page.said == [{"type": "websocket.close", "code": 1008}]
    script = await ask(one_line(), "/__orchestra__/client.js", {"Sec-Fetch-Site": "cross-site"})
    assert script.status == 403


async def test_nothing_else_is_changed() -> None:
    app = auto_refresh_middleware(
        Starlette(routes=[Route("/__orchestra__/state", lambda _: PlainTextResponse("mine"))])
    )
    assert (await ask(app, "/__orchestra__/state")).text == "mine"
    assert (await ask(app, "/", method="POST")).status == 404
