"""`ViteDevProxy`: what the application answers, what Vite does, and who gets at Vite at all."""

from __future__ import annotations

import contextlib
import logging
import re
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request

from orchestra.asgi import ViteDevProxy
from tests.asgi_kit import ask, not_found, scope_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestra.control.doors import App, Message, Receive, Scope, Send
    from tests.kit import Answer

HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\nvite page"
SCRIPT = b"HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\nContent-Length: 11\r\n\r\nvite module"
NOTHING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3;x=y\r\nabc\r\n5\r\ndefgh\r\n0\r\nTrailer: x\r\n\r\n"
)

WINDOW = {"Accept": "text/html,*/*;q=0.8", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
FETCH = {"Accept": "*/*", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
PART = {"Accept": "*/*", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "script"}


class Vite:
    """What stands in for it: answers every request with the same bytes, and notes what it has heard."""

    def __init__(self, answer: bytes, *, splits: bool = False) -> None:
        self.heard: list[bytes] = []
        self.has_left = trio.Event()
        self._answer = answer
        self._splits = splits

    async def __call__(self, stream: trio.SocketStream) -> None:
        data = b""
        async for piece in stream:
            data += piece
            head, end, body = data.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: (\d+)", head)
            is_chunked = b"chunked" in head.lower()
            if end and (
                body.endswith(b"0\r\n\r\n") if is_chunked else len(body) >= int(length[1] if length else 0)
            ):
                break
        self.heard.append(data)
        with contextlib.suppress(trio.BrokenResourceError):
            for at in range(0, len(self._answer), 1 if self._splits else 65536):
                await stream.send_all(self._answer[at : at + (1 if self._splits else 65536)])
            if self._answer.endswith(b"forever"):
                async for _ in stream:
                    pass
                self.has_left.set()


@contextlib.asynccontextmanager
async def vite(answer: bytes, *, splits: bool = False) -> AsyncIterator[tuple[Vite, int]]:
    standing_in = Vite(answer, splits=splits)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, standing_in, 0, host="127.0.0.1"))
        yield standing_in, listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def answering(
    status: int, body: bytes = b"the application", *headers: tuple[bytes, bytes], kind: bytes = b"text/plain"
) -> App:
    async def app(_scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        fields = [(b"content-type", kind), *headers]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    return app


async def asked(
    app: App, answer: bytes, target: str, headers: dict[str, str], **more: Any
) -> tuple[Answer, list[bytes]]:
    async with vite(answer) as (standing_in, port):
        got = await ask(ViteDevProxy(app, vite_port=port, vite_host="127.0.0.1"), target, headers, **more)
        return got, standing_in.heard


@pytest.mark.parametrize(
    ("app", "answer", "asks", "status", "upstream"),
    [
        # The application knows it.
        (answering(200), HTML, ("/", WINDOW), 200, "backend"),
        (answering(500), HTML, ("/", WINDOW), 500, "backend"),
        (answering(403), SCRIPT, ("/x", FETCH), 403, "backend"),
        # It does not.
        (not_found, HTML, ("/", WINDOW), 200, "frontend"),
        (not_found, HTML, ("/", FETCH), 200, "frontend"),
        (not_found, HTML, ("/items/7", WINDOW), 200, "frontend"),
        (not_found, SCRIPT, ("/src/main.js", PART), 200, "frontend"),
        # Vite has nothing but its page, or nothing at all.
        (not_found, HTML, ("/items/7", FETCH), 404, "backend"),
        (not_found, NOTHING, ("/items/7", WINDOW), 404, "backend"),
        # A 404 that is final.
        (not_found, HTML, ("/api", WINDOW), 404, "backend"),
        (not_found, HTML, ("/api/items/7", WINDOW), 404, "backend"),
        (not_found, HTML, ("/events", WINDOW), 404, "backend"),
        (not_found, HTML, ("/ws/x", WINDOW), 404, "backend"),
        (not_found, HTML, ("/apis", WINDOW), 200, "frontend"),
        (answering(404, b"", (b"x-orchestra-final", b"1")), HTML, ("/", WINDOW), 404, "backend"),
        (answering(404, b"x" * 300_000), HTML, ("/", WINDOW), 404, "backend"),
        # What is Vite's alone.
        (answering(200), SCRIPT, ("/@vite/client", PART), 200, "frontend"),
        # A page that a browser cannot use as a script.
        (answering(200, b"<p>", kind=b"text/html"), SCRIPT, ("/src/main.js", PART), 200, "frontend"),
        (answering(405), HTML, ("/items/7", WINDOW), 200, "frontend"),
    ],
)
async def test_who_answers(
    app: App, answer: bytes, asks: tuple[str, dict[str, str]], status: int, upstream: str
) -> None:
    got, _ = await asked(app, answer, *asks)
    assert got.status == status
    assert got.upstream in (upstream, None)
    assert (b"vite" in got.body) == (upstream == "frontend")


async def test_what_passes_without_a_404_is_not_kept() -> None:
    """An event stream arrives event by event."""
    seen: list[Message] = []

    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(3):
            await send({"type": "http.response.body", "body": b"event", "more_body": number < 2})
            assert len(seen) == number + 2

    async def send(message: Message) -> None:  # noqa: ASYNC124 - as ASGI has it
        seen.append(message)

    async def receive() -> Message:
        await trio.sleep_forever()
        raise AssertionError

    await ViteDevProxy(app)(scope_of("/stream"), receive, send)


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("framing", [{"Content-Length": "9"}, {"Transfer-Encoding": "chunked"}])
async def test_a_body_is_sent_again(method: str, framing: dict[str, str]) -> None:
    """The application has read it, and answered 404."""
    more = {"method": method, "pieces": [b"one ", b"", b"two", b" x"]}
    got, heard = await asked(answering(404), SCRIPT, "/upload", {**FETCH, **framing}, **more)
    assert (got.status, got.body) == (200, b"vite module")
    body = heard[0].partition(b"\r\n\r\n")[2]
    assert body == (
        b"one two x" if "Content-Length" in framing else b"4\r\none \r\n3\r\ntwo\r\n2\r\n x\r\n0\r\n\r\n"
    )


async def test_a_body_that_was_not_read_is_sent() -> None:
    more = {"method": "POST", "pieces": [b"x" * 600_000] * 4}
    framing = {"Transfer-Encoding": "chunked"}
    got, heard = await asked(not_found, SCRIPT, "/upload", {**FETCH, **framing}, **more)
    assert got.body == b"vite module"
    assert heard[0].count(b"x" * 600_000) == 4


async def test_a_long_body_that_was_read_is_not_kept() -> None:
    more = {"method": "POST", "pieces": [b"x" * 600_000] * 4}
    got, heard = await asked(
        answering(404), SCRIPT, "/upload", {**FETCH, "Transfer-Encoding": "chunked"}, **more
    )
    assert (got.status, got.body, heard) == (404, b"the application", [])


async def test_vite_sees_the_request_as_it_was() -> None:
    """What it checks itself is not changed: `Host`, `Origin`, Fetch Metadata, `Accept`."""
    sent = {
        **PART,
        "Origin": "http://localhost:8000",
        "Cookie": "a=b",
        "If-None-Match": '"x"',
        "Via": "1.1 x",
    }
    _, heard = await asked(not_found, SCRIPT, "/src/a%20b.js?v=1", {**sent, "Upgrade": "h2c"})
    start, *lines = heard[0].decode().rstrip().split("\r\n")
    fields = [tuple(line.split(": ", 1)) for line in lines]
    assert start == "GET /src/a%20b.js?v=1 HTTP/1.1"
    assert fields == [
        ("host", "localhost:8000"),
        *((name.lower(), value) for name, value in sent.items()),
        ("X-Forwarded-For", "127.0.0.1"),
        ("X-Forwarded-Host", "localhost:8000"),
        ("X-Forwarded-Proto", "http"),
        ("X-Forwarded-Port", "8000"),
        ("Via", "1.1 orchestra"),
    ]


@pytest.mark.parametrize("splits", [False, True])
@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (CHUNKED, b"abcdefgh"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + SCRIPT, b"vite module"),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
async def test_an_answer_comes_without_its_framing(answer: bytes, body: bytes, *, splits: bool) -> None:
    async with vite(answer, splits=splits) as (_, port):
        got = await ask(ViteDevProxy(not_found, port, "127.0.0.1"), "/src/main.js", PART)
    assert got.body == body
    assert not {"transfer-encoding", "connection"} & set(got.headers)


@pytest.mark.parametrize(
    "answer", [SCRIPT[:-1], CHUNKED[:-20], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]
)
async def test_half_an_answer_does_not_look_whole(answer: bytes) -> None:
    """There is no last message, and so the server closes the connection."""
    sent: list[Message] = []

    async def send(message: Message) -> None:  # noqa: ASYNC124 - as ASGI has it
        sent.append(message)

    async def receive() -> Message:
        await trio.sleep_forever()
        raise AssertionError

    async with vite(answer) as (_, port):
        await ViteDevProxy(not_found, port, "127.0.0.1")(
            scope_of("/src/main.js", headers=PART), receive, send
        )
    assert sent[0]["type"] == "http.response.start"
    assert all(each["more_body"] for each in sent[1:])


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200", b"nonsense\r\n\r\n", b"HTTP/1.1 101 Switching\r\n\r\n", b"HTTP/1.1 200\n\n"],
)
@pytest.mark.parametrize(("headers", "status"), [(WINDOW, 502), (FETCH, 404)])
async def test_no_answer_of_vites_is_said_to_windows(
    answer: bytes, headers: dict[str, str], status: int
) -> None:
    """Data of the application stays what it is."""
    got, _ = await asked(not_found, answer, "/items/7", headers)
    assert got.status == status


async def test_a_vite_that_is_not_there_is_said(unused_port: int) -> None:
    app = ViteDevProxy(not_found, vite_port=unused_port)
    page = await ask(app, "/", WINDOW)
    assert page.status == 502
    assert f"Vite does not answer at localhost:{unused_port}" in page.text
    assert 'http-equiv="refresh"' in page.text
    assert (await ask(app, "/items/7", FETCH)).text == "the application knows nothing"


@pytest.fixture
def unused_port() -> int:
    from tests.kit import free_port

    return free_port()


async def test_a_client_that_leaves_is_told_to_vite() -> None:
    stream = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nforever"
    heard = trio.Event()

    async def receive() -> Message:
        await heard.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:  # noqa: ASYNC124 - as ASGI has it
        if message.get("body"):
            heard.set()

    async with vite(stream) as (standing_in, port):
        await ViteDevProxy(not_found, port, "127.0.0.1")(scope_of("/@vite/x", headers=PART), receive, send)
        await standing_in.has_left.wait()


# --- Who gets at Vite ---


@pytest.mark.parametrize(
    ("host", "allowed", "is_served"),
    [
        ("localhost:8000", (), True),
        ("app.localhost", (), True),
        ("192.168.1.7:8000", (), True),
        ("[::1]:8000", (), True),
        ("evil.example", (), False),
        ("dev.example", ("dev.example",), True),
        ("a.dev.example", (".dev.example",), True),
        ("dev.example", (".dev.example",), True),
        ("notdev.example", (".dev.example",), False),
    ],
)
async def test_vite_is_for_hosts_of_ours(
    host: str, allowed: tuple[str, ...], caplog: pytest.LogCaptureFixture, *, is_served: bool
) -> None:
    """DNS rebinding (CVE-2025-24010): the application decides for itself, Vite's modules are not given."""
    async with vite(SCRIPT) as (standing_in, port):
        app = ViteDevProxy(not_found, port, "127.0.0.1", allowed_hosts=allowed)
        for target in ("/@vite/client", "/src/main.js"):
            got = await ask(app, target, {**PART, "Host": host})
            assert got.body == (b"vite module" if is_served else b"the application knows nothing")
        assert len(standing_in.heard) == 2 * is_served
    warned = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert len(warned) == (not is_served)
    assert is_served or f'set allowed_hosts=["{host}"]' in warned[0]


def _handshake(**headers: str) -> Scope:
    scope = scope_of("/?token=t", headers={"Sec-WebSocket-Protocol": "vite-hmr", **headers})
    del scope["method"]
    return {**scope, "type": "websocket", "scheme": "ws", "subprotocols": ["vite-hmr"]}


async def _opened(app: App, scope: Scope) -> list[Message]:
    """Open a WebSocket and leave at once; return what was said."""
    said: list[Message] = []
    messages: list[Message] = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1005}]

    async def receive() -> Message:  # noqa: ASYNC124 - as ASGI has it
        return messages.pop(0)

    async def send(message: Message) -> None:  # noqa: ASYNC124 - as ASGI has it
        said.append(message)

    await app(scope, receive, send)
    return said


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "http://localhost:9999", "https://localhost:8000", "null"]
)
async def test_an_evil_origin_does_not_reach_vite(origin: str) -> None:
    async with vite(NOTHING) as (standing_in, port):
        app = ViteDevProxy(not_found, port, "127.0.0.1")
        said = await _opened(app, _handshake(Origin=origin))
        assert standing_in.heard == []
    assert [(each["type"], each["code"]) for each in said] == [("websocket.close", 1008)]


async def test_vite_gets_the_token_and_the_origin() -> None:
    """It checks them itself; its refusal is passed on."""
    async with vite(NOTHING) as (standing_in, port):
        app = ViteDevProxy(not_found, port, "127.0.0.1")
        scope = _handshake(Origin="http://localhost:8000", Cookie="a=b")
        scope["extensions"] = {"websocket.http.response": {}}
        said = await _opened(app, scope)
        heard = standing_in.heard[0].lower()
    assert heard.startswith(b"get /?token=t http/1.1\r\nhost: localhost:8000\r\n")
    for line in (b"origin: http://localhost:8000", b"sec-websocket-protocol: vite-hmr", b"cookie: a=b"):
        assert heard.count(line) == 1
    assert [each.get("status") for each in said] == [404, None]


async def test_a_browser_that_does_not_answer_a_close_is_left(
    clock_to_put_forward: trio.testing.MockClock,
) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        end = WSConnection(ConnectionType.SERVER)
        while not any(isinstance(event, Request) for event in end.events()):
            end.receive_data(await stream.receive_some())
        await stream.send_all(end.send(AcceptConnection("vite-hmr")) + end.send(CloseConnection(1001)))
        await stream.receive_some()

    said: list[Message] = []
    is_closed = trio.Event()
    asked: list[Message] = [{"type": "websocket.connect"}]

    async def receive() -> Message:
        if not asked:
            await trio.sleep_forever()
        return asked.pop()

    async def send(message: Message) -> None:  # noqa: ASYNC124 - as ASGI has it
        said.append(message)
        if message["type"] == "websocket.close":
            is_closed.set()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        app = ViteDevProxy(not_found, listeners[0].socket.getsockname()[1], "127.0.0.1")
        scope = _handshake(Origin="http://localhost:8000")
        async with trio.open_nursery() as ours:
            ours.start_soon(app, scope, receive, send)
            await is_closed.wait()
            clock_to_put_forward.jump(10)
        nursery.cancel_scope.cancel()
    assert [(each["type"], each.get("code")) for each in said] == [
        ("websocket.accept", None),
        ("websocket.close", 1001),
    ]


@pytest.mark.parametrize(
    ("path", "protocols", "is_application"),
    [("/chat", [], True), ("/ws", ["vite-hmr"], True), ("/events/x", [], True), ("/", ["vite-hmr"], False)],
)
async def test_which_websocket_is_vites(path: str, protocols: list[str], *, is_application: bool) -> None:
    called = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:  # noqa: ASYNC124 - as ASGI has it
        called.append(scope["path"])

    async with vite(NOTHING) as (_, port):
        scope = _handshake(Origin="http://localhost:8000")
        fields = [field for field in scope["headers"] if field[0] != b"sec-websocket-protocol"]
        scope.update(path=path, raw_path=path.encode(), subprotocols=protocols, headers=fields)
        await _opened(ViteDevProxy(app, port, "127.0.0.1"), scope)
    assert called == [path] * is_application


def test_nothing_of_a_run_is_imported() -> None:
    """Under uvicorn there is no trio, and in production nothing that is for development."""
    program = (
        "import sys; from orchestra.asgi import SPA; print(*sys.modules); "
        "from orchestra.asgi import ViteDevProxy, auto_refresh_middleware; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    production, development = (set(line.split()) for line in done.stdout.splitlines())
    assert not development & {
        "trio",
        "rich",
        "watchfiles",
        "psutil",
        "orchestra.watch",
        "orchestra.supervision",
    }
    assert not production & {"orchestra.proxy", "orchestra.control", "orchestra.config", "wsproto"}
