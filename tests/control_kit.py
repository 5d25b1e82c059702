"""A control app without a run: a view whose events a test emits, and clients of both doors.

`Stage.ask` sends one request and reads its answer; `Stage.page` opens the WebSocket of a page. What comes in
by the browser's door has the headers that the proxy adds. `ask` and `BrowserPage` work on any stream, such as
one to a real proxy.
"""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
from wsproto.connection import Connection, ConnectionType
from wsproto.events import CloseConnection, Ping, TextMessage

from orchestra import Plan
from orchestra.bus import Bus
from orchestra.config.schema import ReloadSettings
from orchestra.control.server import Control
from orchestra.errors import OrchestraError
from orchestra.events import Event, State, StateChanged
from tests.events_kit import Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
    from pathlib import Path

    from orchestra.control.doors import Door
    from orchestra.control.local import Order

# What a browser sends with the requests of a page of ours, and what the proxy adds.
OWN_PAGE = {"Origin": "http://localhost:8000", "Sec-Fetch-Site": "same-origin"}
_FROM_HERE = {"Host": "localhost:8000", "X-Forwarded-For": "127.0.0.1"}
_HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


class Answer(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def _request(name: str, method: str, headers: Mapping[str, str], body: bytes) -> bytes:
    fields = {**_FROM_HERE, **({"Content-Length": str(len(body))} if body else {}), **headers}
    lines = [f"{key}: {value}" for key, value in fields.items()]
    return "\r\n".join([f"{method} /__orchestra__/{name} HTTP/1.1", *lines, "", ""]).encode() + body


async def until(is_so: Callable[[], object]) -> None:
    """Wait until something is so that no event tells of."""
    while not is_so():  # noqa: ASYNC110 - as it says
        await trio.sleep(0.01)


async def read_head(stream: trio.abc.Stream) -> tuple[Answer, bytes]:
    """Read the head of an answer, and return what has come after it, too."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        assert more, f"the answer ends early: {data!r}"
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = (each.split(": ", 1) for each in lines)
    return Answer(int(status.split()[1]), {name.lower(): value for name, value in fields}, b""), rest


async def ask(
    stream: trio.abc.Stream,
    name: str,
    method: str = "GET",
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    """Send one request, and read its answer."""
    await stream.send_all(_request(name, method, headers or {}, body))
    answer, content = await read_head(stream)
    length = 0 if method == "HEAD" else int(answer.headers.get("content-length", 0))
    while len(content) < length:
        content += await stream.receive_some()
    return answer._replace(body=content)


class BrowserPage:
    """A page whose WebSocket is open.

    Attributes:
        close_code: What it was closed with.
    """

    def __init__(self, stream: trio.abc.Stream, received: bytes) -> None:
        self.close_code: int | None = None
        self.stream = stream
        self._connection = Connection(ConnectionType.CLIENT)
        self._connection.receive_data(received)

    @classmethod
    async def open(cls, stream: trio.abc.Stream, headers: Mapping[str, str]) -> BrowserPage | Answer:
        """Open the WebSocket of a page; a refusal is returned as it is."""
        await stream.send_all(_request("live", "GET", {**_HANDSHAKE, **headers}, b""))
        answer, rest = await read_head(stream)
        return cls(stream, rest) if answer.status == 101 else answer

    async def say(self, message: object) -> None:
        text = message if isinstance(message, str) else json.dumps(message)
        await self.stream.send_all(self._connection.send(TextMessage(text)))

    async def is_of(self, source: str = "backend", *, age: float = 0.0) -> None:
        """Say what the page is."""
        page = {"type": "page", "from": source, "age": age, "path": "/", "method": "GET", "status": 200}
        await self.say(page)

    async def hear(self) -> dict[str, Any] | None:
        """The next message; ``None`` at the end."""
        while True:
            for event in self._connection.events():
                match event:
                    case TextMessage(data=text):
                        message: dict[str, Any] = json.loads(text)
                        return message
                    case Ping():
                        await self.stream.send_all(self._connection.send(event.response()))
                    case CloseConnection(code=code):
                        self.close_code = code
                        await self.stream.send_all(self._connection.send(event.response()))
                        return None
            data = await self.stream.receive_some()
            if not data:
                return None
            self._connection.receive_data(bytes(data))

    async def hear_all(self) -> list[dict[str, Any]]:
        """What comes until the end."""
        heard = []
        while (message := await self.hear()) is not None:
            heard.append(message)
        return heard


class _View:
    """A run of which only the looks are there; it notes its orders."""

    def __init__(self, plan: Plan, bus: Bus) -> None:
        self.plan = plan
        self.url = "http://127.0.0.1:8000"
        self.states: dict[str, StateChanged] = {}
        self.orders: list[Order] = []
        self.feed: Callable[[], AsyncGenerator[bytes, None]] | None = None
        self._bus = bus

    async def obey(self, order: Order) -> int:
        if order.text == "refused":
            raise OrchestraError("the run is ending")
        if order.text.startswith("after "):
            await trio.sleep(float(order.text.removeprefix("after ")))
        self.orders.append(order)
        return len(order.processes)

    def snapshot(self) -> Mapping[str, StateChanged]:
        return self.states

    async def events(self, *, limit: int) -> AsyncGenerator[Event, None]:
        send, receive = trio.open_memory_channel[Event](limit)
        unsubscribe = self._bus.subscribe(send.send_nowait)
        try:
            while True:
                yield await receive.receive()
        finally:
            unsubscribe()
            receive.close()


class Stage:
    """A control app, and what a test does with it.

    Attributes:
        bus: Where the test emits events.
        recorder: Of all events.
        states: What the processes are.
        orders: What the run was ordered to do.
        scope: Cancel it to end the run of the control app.
    """

    def __init__(self, plan: Plan, environ: Mapping[str, str]) -> None:
        self.bus = Bus()
        self.recorder = Recorder(self.bus)
        view = _View(plan, self.bus)
        self.states = view.states
        self.orders = view.orders
        self.control = Control(view, bus=self.bus, is_backend="api".__eq__, environ=environ)
        self.scope = trio.CancelScope()
        self._streams: list[trio.SocketStream] = []

    async def stream(self, door: Door = "browser") -> trio.SocketStream:
        if door == "browser":
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(self.control.connect()))
        else:
            assert self.control.path is not None
            stream = await trio.open_unix_socket(self.control.path)
        self._streams.append(stream)
        return stream

    async def ask(
        self,
        name: str,
        method: str = "GET",
        *,
        door: Door = "browser",
        headers: Mapping[str, str] = OWN_PAGE,
        body: bytes = b"",
    ) -> Answer:
        async with await self.stream(door) as stream:
            return await ask(stream, name, method, headers=headers, body=body)

    async def page(self, headers: Mapping[str, str] = OWN_PAGE) -> BrowserPage:
        """Open the WebSocket of a page, and hear the greeting."""
        page = await BrowserPage.open(await self.stream(), headers)
        assert isinstance(page, BrowserPage)
        return page

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - handed on
        """Run the control app until `scope` is cancelled."""
        with self.scope:
            await self.control.run(task_status=task_status)

    async def close(self) -> None:
        """Close all clients."""
        for stream in self._streams:
            await trio.aclose_forcefully(stream)

    def state(self, state: State, previous: State = State.STARTING, **more: Any) -> None:
        """Have the backend enter a state."""
        event = self.bus.emit(StateChanged(process="api", state=state, previous=previous, **more))
        self.states["api"] = event


@asynccontextmanager
async def controlled(
    folder: Path, *processes: Any, environ: Iterable[tuple[str, str]] = (), **policy: Any
) -> AsyncIterator[Stage]:
    """Serve the control app of a project in `folder`; its socket is there, too.

    Args:
        processes: Plans.
        environ: What the environment has beside that.
        policy: ``[reload]``.
    """
    plan = Plan(processes=processes, reload=ReloadSettings(**policy), procfile=folder / "Procfile")
    stage = Stage(plan, {"XDG_RUNTIME_DIR": str(folder), **dict(environ)})
    async with trio.open_nursery() as nursery:
        await nursery.start(stage.run)
        try:
            yield stage
        finally:
            stage.scope.cancel()
            with trio.CancelScope(shield=True):
                await stage.close()
