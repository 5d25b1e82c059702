"""What those who never ask twice see of a backend that is restarted again and again.

``python benchmarks/restarts.py`` measures it, prints a table, and exits with 1 if a bound does not hold.
`tests/test_restarts.py` is its short form: the same, with fewer restarts and a backend that starts sooner.

Strategy. Three kinds of process: orchestra, in one of its own that also takes the order to restart; the
backend, with a server that people use, started by orchestra; and the clients, here. They speak over raw
sockets, keep their connections, and never send anything a second time, so that whatever went wrong is seen.
Half of them GET and half of them POST, each request with an id of its own. The backend writes down the id
when its handler begins, in a file that outlives it, so that executions can be counted. Beside
them there are event streams and WebSockets that come back when they were closed, and write down how that was.

A restart is complete when the backend says that it runs the version of its source that was written for this
restart. Whether a request that failed had been sent to the backend is known to orchestra alone, which says
so in its events.

What is not repeatable (RFC 9110 9.2.2) may fail when it has begun; a server that ends in the middle of what
it does, as Flask's debug server, may also take a request with it that it has received and not begun.

    python benchmarks/restarts.py [--restarts N] [--clients N] [--start SECONDS] [--server NAME]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from itertools import count
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias
from urllib.parse import urlsplit

import h11
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.utilities import LocalProtocolError

from orchestra import Stack, load
from orchestra.events import Notice, OutputLine, RequestFinished, RunStarted, StateChanged

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from orchestra.events import Event

__all__ = ["FAULTS", "SERVERS", "Fault", "Measured", "Server", "WentWrong", "measure"]

# Within that a restart is complete, or it is lost: the promise.
RELOAD_LIMIT = 45.0
# Whatever has to be answered is answered within that, or it hangs.
PATIENCE = 60.0
# How often the backend is asked for its version during a restart.
LOOK = 0.05
# Between two restarts, drawn anew each time: no phase of the clients is the phase of the restarts.
PAUSE = (0.2, 1.0)
# What handlers take: nothing, as most do, up to something that a restart is sure to meet on its way.
WORK = (0.0, 0.005, 0.02, 0.1, 0.4)
# Streams of each kind.
STREAMS = 4
# Between two messages of a WebSocket.
MESSAGES = 0.05
# After a failure, before somebody asks for something else, or tries a stream again.
REFUSED = 0.1
# For the end of orchestra, and of all that it has started.
STOP_LIMIT = 30.0

HERE = Path(__file__).resolve()

_Method: TypeAlias = Literal["GET", "POST"]
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError, h11.RemoteProtocolError)


class WentWrong(Exception):  # noqa: N818 - it has no better name
    """Nothing could be measured."""


# --- the backends ---

# What both applications begin with. A version that is broken says so before it fails.
_COMMON = """
import asyncio, itertools, os, signal, time
from pathlib import Path
from urllib.parse import parse_qs

VERSION = {version}
HERE = Path(__file__).parent
BROKEN = {is_broken}


def write_down(file, text):
    fd = os.open(HERE / file, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    os.write(fd, (text + "\\n").encode())
    os.close(fd)


if BROKEN:
    write_down("tried", str(VERSION))
    raise RuntimeError("this version is broken")
time.sleep({start})
NOW = f"{{VERSION}} {{os.getpid()}}"


def event(number):
    # Some are larger than what is read at once.
    return b"data: %d %s\\n\\n" % (number, b"x" * (65536 if number % 10 == 0 else 100))

"""

_ASGI = """
def asked(scope):
    return {{name: value[0] for name, value in parse_qs(scope["query_string"].decode()).items()}}


async def read(receive):
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def until_they_leave(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(send, body, *, status=200):
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({{"type": "http.response.start", "status": status, "headers": headers}})
    await send({{"type": "http.response.body", "body": body}})


async def http(scope, receive, send):
    query = asked(scope)
    match scope["path"]:
        case "/get":
            write_down("executed", query["id"])
            await asyncio.sleep(float(query["work"]))
            await answer(send, query["id"].encode())
        case "/post":
            write_down("executed", query["id"])
            body = await read(receive)
            await asyncio.sleep(float(query["work"]))
            await answer(send, body)
        case "/version":
            await answer(send, NOW.encode())
        case "/events":
            headers = [(b"content-type", b"text/event-stream")]
            await send({{"type": "http.response.start", "status": 200, "headers": headers}})
            # As frameworks do: who has left is no longer served.
            leaving = asyncio.ensure_future(until_they_leave(receive))
            for number in itertools.count():
                await send({{"type": "http.response.body", "body": event(number), "more_body": True}})
                if (await asyncio.wait([leaving], timeout=0.05))[0]:
                    break
        case "/cut":
            headers = [(b"content-length", b"2000")] if query["framing"] == "length" else []
            await send({{"type": "http.response.start", "status": 200, "headers": headers}})
            await send({{"type": "http.response.body", "body": b"x" * 1000, "more_body": True}})
            os.kill(os.getpid(), signal.SIGKILL)
        case "/never":
            write_down("executed", query["id"])
            await asyncio.Event().wait()
        case _:
            await answer(send, b"not here", status=404)


async def websocket(receive, send):
    await receive()
    await send({{"type": "websocket.accept"}})
    while (message := await receive())["type"] == "websocket.receive":
        await send({{"type": "websocket.send", "text": message["text"]}})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
    elif scope["type"] == "websocket":
        await websocket(receive, send)
    else:
        await http(scope, receive, send)
"""

_FLASK = """
from flask import Flask, Response, request

app = Flask(__name__)


@app.get("/get")
def get():
    write_down("executed", request.args["id"])
    time.sleep(float(request.args["work"]))
    return request.args["id"]


@app.post("/post")
def post():
    write_down("executed", request.args["id"])
    body = request.get_data()
    time.sleep(float(request.args["work"]))
    return body


@app.get("/version")
def version():
    return NOW


@app.get("/events")
def events():
    def generate():
        for number in itertools.count():
            yield event(number)
            time.sleep(0.05)

    return Response(generate(), content_type="text/event-stream")
"""

# Accepts everybody, and says nothing to anybody.
_MUTE = """
import os, socket

listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
kept = []
while True:
    kept.append(listener.accept())
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A backend as people run it.

    Attributes:
        command: The line of the Procfile.
        source: Its application.
        packages: Whose versions matter.
        settings: Further lines of its table of settings.
        proxy: Further lines of the proxy's.
        reloads_itself: It is restarted by a change of its source, else by us.
        may_lose: It ends with whatever it has received: without waiting, or what it has not read yet.
        has_sockets: It knows WebSockets.
        is_held: Requests may be held while it is restarted.
    """

    command: str
    source: str = _ASGI
    packages: tuple[str, ...] = ("uvicorn",)
    settings: str = ""
    proxy: str = ""
    reloads_itself: bool = False
    may_lose: bool = False
    has_sockets: bool = True
    is_held: bool = True


_UVICORN = "uvicorn app:app --port $PORT"

SERVERS = {
    "hypercorn": Server("hypercorn app:app --bind 127.0.0.1:$PORT", packages=("hypercorn",)),
    "uvicorn": Server(_UVICORN),
    "uvicorn --reload": Server(f"{_UVICORN} --reload", reloads_itself=True, may_lose=True),
    "flask --debug": Server(
        "flask --app app run --debug --port $PORT",
        source=_FLASK,
        packages=("flask", "werkzeug"),
        reloads_itself=True,
        may_lose=True,
        has_sockets=False,
    ),
    "overlap": Server(_UVICORN, settings='restart_mode = "overlap"\n', is_held=False),
}


class _Project:
    """A folder with a Procfile, settings, and an application that is written anew for each version."""

    def __init__(self, folder: Path, server: Server, *, start: float) -> None:
        self.folder = folder
        self.reloads_itself = server.reloads_itself
        self._source = server.source
        self._start = start
        (folder / "Procfile").write_text(f"api: {server.command}\n")
        # There is no Vite, and nothing here is ever asked of it; without one there would be no proxy.
        (folder / "orchestra.toml").write_text(
            f'[proxy]\nbackend = "api"\nfrontend = "http://127.0.0.1:9"\n'
            f'listen = "127.0.0.1:0"\n{server.proxy}'
            # A module that was compiled in the same second, and is as long, would pass for the new one.
            f'[process.api]\nwatch = false\nenv = {{ PYTHONDONTWRITEBYTECODE = "1" }}\n{server.settings}'
        )
        self.write(1)

    def write(self, version: int, *, is_broken: bool = False) -> None:
        """Write a version of the application as editors do: it is there as a whole, or not at all."""
        text = (_COMMON + self._source).format(version=version, start=self._start, is_broken=is_broken)
        written = self.folder / "app.py.new"
        written.write_text(text)
        written.replace(self.folder / "app.py")

    def written_down(self, file: str) -> list[str]:
        """Read what the backends have written down."""
        path = self.folder / file
        return path.read_text().split() if path.exists() else []


# --- orchestra ---


class _Orchestra:
    """Orchestra in a process of its own, with all that it has told so far."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._changed = trio.Event()
        self.told: list[dict[str, Any]] = []
        self.has_ended = False

    async def restart(self) -> None:
        """Have the backend restarted; returns before that is done."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(b"restart\n")

    async def listen(self) -> None:
        """Take note of everything that it says."""
        assert self._process.stdout is not None
        rest = b""
        async for data in self._process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            self.told += [json.loads(line) for line in lines]
            self._changed.set()
            self._changed = trio.Event()
        self.has_ended = True
        self._changed.set()

    async def until(self, **keys: object) -> dict[str, Any]:
        """Wait for the first event that has these."""
        seen = 0
        with trio.move_on_after(PATIENCE):
            while True:
                for event in self.told[seen:]:
                    if event.items() >= keys.items():
                        return event
                seen = len(self.told)
                if self.has_ended:
                    break
                await self._changed.wait()
        raise WentWrong(f"{keys} never came, after {self.last_words()}")

    async def end(self) -> None:
        """Have everything stopped."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        with trio.move_on_after(STOP_LIMIT) as limit:
            await self._process.wait()
            while not self.has_ended:
                await self._changed.wait()
        if limit.cancelled_caught or self._process.returncode:
            raise WentWrong(f"orchestra ended with {self._process.returncode}: {self.last_words()}")

    def last_words(self) -> str:
        """The newest of what it and its processes have said."""
        said = [
            f"{event['type']} {event['text']}"
            for event in self.told
            if event["type"] in ("process.state", "notice", "process.output")
        ]
        return "\n".join(["", *said[-40:]])


@contextlib.asynccontextmanager
async def _orchestra(project: _Project) -> AsyncIterator[tuple[_Orchestra, _Address]]:
    """Run orchestra; its backend is ready when the block begins."""
    # As if the virtual environment that we run in were activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    async with trio.open_nursery() as nursery:
        run: Callable[..., Awaitable[trio.Process]] = partial(
            nursery.start,
            partial(
                trio.run_process,
                [sys.executable, str(HERE), "--drive", str(project.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
                env={**os.environ, "PATH": path, "PORT": str(random.randrange(10_000, 60_000))},  # noqa: S311
            ),
        )
        orchestra = _Orchestra(await run())
        nursery.start_soon(orchestra.listen)
        parts = urlsplit((await orchestra.until(type="run.started"))["url"])
        yield orchestra, (str(parts.hostname), int(parts.port or 0))
        await orchestra.end()


async def _drive(folder: Path) -> None:
    """Be orchestra: tell what happens, restart when told to, end when nobody is there to tell."""
    stack = Stack(load(folder / "Procfile"), is_kept_open="always")
    stack.subscribe(_tell)
    async with trio.open_nursery() as nursery:
        await nursery.start(stack.run)
        async with trio.lowlevel.FdStream(os.dup(0)) as orders:
            async for _ in orders:
                nursery.start_soon(stack.restart, "api")
        await stack.stop()


def _tell(event: Event) -> None:
    told: dict[str, object]
    match event:
        case RunStarted():
            told = {"type": "run.started", "url": event.url}
        case StateChanged():
            told = {
                "type": "process.state",
                "state": event.state.value,
                "text": f"{event.state.value} {event.reason}",
            }
        case RequestFinished():
            told = {
                "type": "request.finished",
                "target": event.target,
                "status": event.status,
                "held": event.held,
                "upstream": event.upstream,
                "reason": event.reason,
                "outcome": event.outcome,
            }
        case Notice():
            told = {"type": "notice", "text": f"{event.code}: {event.text}"}
        case OutputLine():
            told = {"type": "process.output", "text": event.text}
        case _:
            return
    print(json.dumps(told), flush=True)


# --- the clients ---

_Address: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent, once.

    Attributes:
        failure: What was wrong with the answer; empty if nothing was.
        seconds: What it took.
    """

    method: _Method
    id: str
    failure: str
    seconds: float


class Connection:
    """A client's connection: it is kept as long as both sides want it, and nothing is ever sent again."""

    def __init__(self, address: _Address) -> None:
        self._address = address
        self._stream: trio.SocketStream | None = None
        self._h11 = h11.Connection(h11.CLIENT)

    async def ask(self, method: _Method, target: str, body: bytes = b"", *, is_slow: bool = False) -> bytes:
        """Send a request and hear the answer, which has to be a whole one with 200.

        Args:
            method: What to do.
            target: With whom.
            body: Of a POST.
            is_slow: The body is sent on its own, after the head.

        Raises:
            WentWrong: It was not; says how.
        """
        try:
            with trio.fail_after(PATIENCE):
                return await self._ask(method, target, body, is_slow=is_slow)
        except trio.TooSlowError:
            raise WentWrong("no answer") from None
        except _GONE as exc:
            raise WentWrong(f"aborted ({type(exc).__name__})") from exc
        finally:
            # Whoever was answered wrongly or not at all begins anew.
            if self._h11.our_state is not h11.IDLE:
                self.close()

    async def _ask(self, method: _Method, target: str, body: bytes, *, is_slow: bool) -> bytes:
        await self.begin(method, target, body, is_slow=is_slow)
        parts: list[bytes] = []
        status = 0
        while not isinstance(event := await self.next_event(), h11.EndOfMessage):
            match event:
                case h11.Response(status_code=code):
                    status = code
                case h11.Data(data=data):
                    parts.append(bytes(data))
                case h11.ConnectionClosed():
                    raise EOFError
                case _:
                    pass
        answer = b"".join(parts)
        if status != 200:
            # What is wrong stands in the first line; last lines of the backend may follow.
            first = answer.partition(b"\n")[0].decode(errors="replace")
            raise WentWrong(f"{status} {first}")
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        return answer

    async def begin(self, method: _Method, target: str, body: bytes = b"", *, is_slow: bool = False) -> None:
        """Send a request."""
        if self._stream is None:
            self._h11 = h11.Connection(h11.CLIENT)
            self._stream = await trio.open_tcp_stream(*self._address)
        headers = [("Host", "localhost"), ("Accept", "*/*")]
        if method == "POST":
            headers.append(("Content-Length", str(len(body))))
        head = self._h11.send(h11.Request(method=method, target=target, headers=headers)) or b""
        rest = (self._h11.send(h11.Data(data=body)) or b"") if body else b""
        rest += self._h11.send(h11.EndOfMessage()) or b""
        if is_slow:
            await self._stream.send_all(head)
            await trio.sleep(LOOK)
            await self._stream.send_all(rest)
        else:
            await self._stream.send_all(head + rest)

    async def next_event(self) -> object:
        """Hear what comes next of the answer."""
        assert self._stream is not None
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._h11.receive_data(await self._stream.receive_some())
        return event

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None


@dataclass(slots=True)
class _Traffic:
    """All clients of a run, and what they have seen.

    Attributes:
        sent: All requests that have been answered, or never will be.
        endings: How event streams and WebSockets ended, and how they were refused.
        open: How many of them are open.
    """

    address: _Address
    sent: list[Sent] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    open: int = 0
    is_over: bool = False
    changed: trio.Event = field(default_factory=trio.Event)

    async def visit(self, name: str, method: _Method) -> None:
        """Ask again and again, until it is over."""
        with Connection(self.address) as connection:
            for number in count():
                if self.is_over:
                    break
                work = WORK[number % len(WORK)]
                await self.ask(connection, method, f"{name}-{number}", work=work, is_slow=number % 3 == 2)

    async def ask_once(self, name: str, method: _Method) -> None:
        """Ask a single time."""
        with Connection(self.address) as connection:
            await self.ask(connection, method, name, work=0.0, is_slow=False)

    async def ask(
        self, connection: Connection, method: _Method, name: str, *, work: float, is_slow: bool
    ) -> None:
        """Ask once, and write down what came of it."""
        body = name.encode() if method == "POST" else b""
        target = f"/{method.lower()}?id={name}&work={work}"
        begun, failure = trio.current_time(), ""
        try:
            answer = await connection.ask(method, target, body, is_slow=is_slow and method == "POST")
            if answer != name.encode():
                failure = f"a wrong answer: {answer!r}"
        except WentWrong as exc:
            failure = str(exc)
        self.sent.append(Sent(method, name, failure, trio.current_time() - begun))
        if failure:
            await trio.sleep(REFUSED)

    async def version(self, connection: Connection) -> int:
        """Ask for the version of the backend; 0 if that was not answered."""
        begun, failure, answer = trio.current_time(), "", b"0"
        try:
            answer = await connection.ask("GET", "/version")
        except WentWrong as exc:
            failure = str(exc)
        self.sent.append(Sent("GET", "version", failure, trio.current_time() - begun))
        return int(answer.split()[0])

    async def keep_stream(self) -> None:
        """Have an event stream, always."""
        while True:
            begun = trio.current_time()
            with Connection(self.address) as connection:
                ending = await self._stream(connection)
            self.endings[f"event stream {ending}"] += 1
            if ending.startswith("refused"):
                self.sent.append(Sent("GET", "events", ending, trio.current_time() - begun))
                await trio.sleep(REFUSED)

    async def _stream(self, connection: Connection) -> str:
        rest, is_open = b"", False
        try:
            await connection.begin("GET", "/events")
            while True:
                match await connection.next_event():
                    case h11.Response(status_code=200):
                        is_open = True
                        self._count(1)
                    case h11.Response(status_code=status):
                        return f"refused by {status}"
                    case h11.Data(data=data):
                        rest = (rest + bytes(data)).rpartition(b"\n\n")[2]
                    case h11.EndOfMessage():
                        return "ended inside an event" if rest else "ended"
                    case h11.ConnectionClosed():
                        raise EOFError
                    case _:
                        pass
        except _GONE:
            if not is_open:
                return "refused by an abort"
            return "aborted inside an event" if rest else "aborted between events"
        finally:
            if is_open:
                self._count(-1)

    async def keep_socket(self) -> None:
        """Have a WebSocket, always."""
        while True:
            ending = await self._socket()
            self.endings[f"WebSocket {ending}"] += 1
            if ending.startswith("refused"):
                await trio.sleep(REFUSED)

    async def _socket(self) -> str:
        socket = WSConnection(ConnectionType.CLIENT)
        is_open = False
        try:
            stream = await trio.open_tcp_stream(*self.address)
        except OSError:
            return "refused by an abort"
        try:
            await stream.send_all(socket.send(Request(host="localhost", target="/ws")))
            while True:
                for event in socket.events():
                    match event:
                        case AcceptConnection():
                            is_open = True
                            self._count(1)
                        case RejectConnection(status_code=status):
                            return f"refused by {status}"
                        case CloseConnection(code=code):
                            return f"closed with {int(code)}"
                        case _:
                            pass
                if is_open:
                    await self._say(socket, stream)
                data = None
                with trio.move_on_after(MESSAGES if is_open else PATIENCE):
                    data = await stream.receive_some()
                if data is not None:
                    socket.receive_data(data or None)
                elif not is_open:
                    return "refused by silence"
        except _GONE:
            return "aborted" if is_open else "refused by an abort"
        finally:
            if is_open:
                self._count(-1)
            stream.socket.close()

    async def _say(self, socket: WSConnection, stream: trio.SocketStream) -> None:
        # Whoever cannot be told anything any more may have said why: that is still to be heard.
        with contextlib.suppress(LocalProtocolError, trio.BrokenResourceError):
            await stream.send_all(socket.send(TextMessage(data="hello")))

    def _count(self, change: int) -> None:
        self.open += change
        self.changed.set()
        self.changed = trio.Event()

    async def until_all_are_open(self, number: int) -> None:
        """Wait until all streams are open, each in its place."""
        with trio.move_on_after(PATIENCE):
            while self.open < number:
                await self.changed.wait()


# --- what came of it ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was seen of all restarts of one server.

    Attributes:
        requests: How many were sent.
        gets: What was wrong with the answers to GETs.
        not_begun: What was wrong with those to POSTs that had not even been sent to the backend.
        lost: Likewise, POSTs that had been sent to it, and that it has not begun to execute.
        begun: Likewise, POSTs that it has begun.
        twice: POSTs that were executed more than once.
        repeated: GETs that were; they may be.
        endings: How event streams and WebSockets ended, and how they were refused.
        held: What the longest hold took, as orchestra says, and how many were held.
        longest: What the longest request took, as its client has seen it.
        reloads: How long each reload took until the new version was there; infinite if it never was.
        broken: What was wrong while a version was offered that never starts; ``None`` if nothing was.
    """

    server: Server
    requests: int
    gets: Sequence[str]
    not_begun: Sequence[str]
    lost: Sequence[str]
    begun: Sequence[str]
    twice: Sequence[str]
    repeated: Sequence[str]
    endings: Counter[str]
    held: tuple[float, int]
    longest: float
    reloads: Sequence[float]
    broken: str | None = None

    def faults(self) -> list[str]:
        """Say which bounds do not hold."""
        server = self.server
        found = [f"GET failed: {text}" for text in _counted(self.gets)]
        found += [f"POST failed that had not begun: {text}" for text in _counted(self.not_begun)]
        found += [f"executed twice: {text}" for text in self.twice]
        if not server.may_lose:
            found += [f"POST sent and lost: {text}" for text in _counted(self.lost)]
        found += [
            f"{times} of {name}"
            for name, times in sorted(self.endings.items())
            if "inside" in name or "refused" in name or (name.startswith("WebSocket") and "1012" not in name)
        ]
        if not server.is_held and self.held[1]:
            found.append(f"{self.held[1]} requests were held, up to {self.held[0]:.2f} s")
        found += [
            f"reload {number} was not complete within {RELOAD_LIMIT:g} s"
            for number, seconds in enumerate(self.reloads, 1)
            if seconds > RELOAD_LIMIT
        ]
        if self.broken:
            found.append(self.broken)
        return found


def _counted(texts: Sequence[str]) -> list[str]:
    return [f"{times} x {text}" if times > 1 else text for text, times in Counter(texts).most_common()]


async def measure(server: Server, *, restarts: int, clients: int, start: float) -> Measured:
    """Restart a server again and again under traffic.

    Args:
        server: Whom.
        restarts: How often.
        clients: So many ask all the time, half of them by POST.
        start: Seconds that its start takes at least.
    """
    with tempfile.TemporaryDirectory() as folder:
        project = _Project(Path(folder), server, start=start)
        reloads: list[float] = []
        broken: str | None = None
        async with _orchestra(project) as (orchestra, address):
            await orchestra.until(type="process.state", state="ready")
            traffic = _Traffic(address)
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as visits:
                    for number in range(clients):
                        method: _Method = "POST" if number % 2 else "GET"
                        visits.start_soon(traffic.visit, f"{method.lower()}-{number}", method)
                    for _ in range(STREAMS):
                        nursery.start_soon(traffic.keep_stream)
                        if server.has_sockets:
                            nursery.start_soon(traffic.keep_socket)
                    streams = STREAMS * (1 + server.has_sockets)
                    for number in range(2, restarts + 2):
                        await traffic.until_all_are_open(streams)
                        await trio.sleep(random.uniform(*PAUSE))  # noqa: S311 - nobody has to be surprised
                        reloads.append(await _reload(project, orchestra, traffic, number))
                        if reloads[-1] > RELOAD_LIMIT:
                            # It is stuck, and so is whoever waits for it.
                            nursery.cancel_scope.cancel()
                            await trio.lowlevel.checkpoint()
                    await traffic.until_all_are_open(streams)
                    if not server.is_held:
                        broken = await _try_a_broken_one(project, orchestra, traffic, restarts + 2)
                    traffic.is_over = True
                nursery.cancel_scope.cancel()
        return _summed_up(
            server,
            traffic,
            told=orchestra.told,
            executed=project.written_down("executed"),
            reloads=reloads,
            broken=broken,
        )


async def _reload(project: _Project, orchestra: _Orchestra, traffic: _Traffic, version: int) -> float:
    """Bring a new version up, and say how long that took."""
    begun = trio.current_time()
    project.write(version)
    if not project.reloads_itself:
        await orchestra.restart()
    with Connection(traffic.address) as connection, trio.move_on_after(RELOAD_LIMIT):
        while await traffic.version(connection) != version:  # noqa: ASYNC110 - nobody tells us
            await trio.sleep(LOOK)
        return trio.current_time() - begun
    return inf


async def _try_a_broken_one(
    project: _Project, orchestra: _Orchestra, traffic: _Traffic, version: int
) -> str | None:
    """Offer a version that never starts, then one that does; say what was wrong with the answers."""
    before = len([sent for sent in traffic.sent if sent.failure])
    project.write(version, is_broken=True)
    await orchestra.restart()
    seen: Counter[int] = Counter()
    with Connection(traffic.address) as connection, trio.move_on_after(RELOAD_LIMIT) as limit:
        while str(version) not in project.written_down("tried"):
            seen[await traffic.version(connection)] += 1
            await trio.sleep(LOOK)
        # It has begun; whatever it is taken for, it is now.
        for _ in range(20):
            seen[await traffic.version(connection)] += 1
            await trio.sleep(LOOK)
    if limit.cancelled_caught:
        return "the broken version was never tried"
    failed = len([sent for sent in traffic.sent if sent.failure]) - before
    if set(seen) != {version - 1} or failed:
        return f"with a broken version, {failed} requests failed, and these versions answered: {dict(seen)}"
    if await _reload(project, orchestra, traffic, version + 1) > RELOAD_LIMIT:
        return "after the broken version no other one was taken"
    return None


def _summed_up(
    server: Server,
    traffic: _Traffic,
    *,
    told: Sequence[dict[str, Any]],
    executed: Sequence[str],
    reloads: Sequence[float],
    broken: str | None,
) -> Measured:
    times = Counter(executed)
    finished = [event for event in told if event["type"] == "request.finished"]
    # What the proxy could not get an answer for had been sent; what it had nobody to send to had not.
    sent_on = {
        event["target"].partition("id=")[2].partition("&")[0]
        for event in finished
        if event["reason"] == "no valid answer" or event["outcome"] == "upstream-died"
    }
    failed = [sent for sent in traffic.sent if sent.failure]
    posts = [sent for sent in failed if sent.method == "POST"]
    idle = [sent for sent in posts if not times[sent.id]]
    held = [event["held"] for event in finished if event["held"]]
    return Measured(
        server=server,
        requests=len(traffic.sent),
        gets=[sent.failure for sent in failed if sent.method == "GET"],
        not_begun=[sent.failure for sent in idle if sent.id not in sent_on],
        lost=[sent.failure for sent in idle if sent.id in sent_on],
        begun=[sent.failure for sent in posts if times[sent.id]],
        twice=[name for name, number in times.items() if number > 1 and name.startswith("post")],
        repeated=[name for name, number in times.items() if number > 1 and name.startswith("get")],
        endings=traffic.endings,
        held=(max(held, default=0.0), len(held)),
        longest=max(sent.seconds for sent in traffic.sent),
        reloads=reloads,
        broken=broken,
    )


# --- backends that hang, and that die in the middle ---


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with a backend, and what has to be seen of it.

    Attributes:
        server: The backend.
        happen: Has it happen, and says what was seen; raises `WentWrong` if that must not be seen.
        is_ready: Whether the backend is ready before.
        is_long: It takes its time, however quickly the backend starts.
    """

    server: Server
    happen: Callable[[_Project, _Orchestra, _Address], Awaitable[str]]
    is_ready: bool = True
    is_long: bool = False

    async def measure(self, *, start: float) -> str:
        """Have it happen.

        Raises:
            WentWrong: What was seen is not what has to be.
        """
        with tempfile.TemporaryDirectory() as folder:
            project = _Project(Path(folder), self.server, start=start)
            async with _orchestra(project) as (orchestra, address):
                if self.is_ready:
                    await orchestra.until(type="process.state", state="ready")
                wrong: WentWrong | None = None
                try:
                    return await self.happen(project, orchestra, address)
                except WentWrong as exc:
                    # Out of the nursery, before it wraps it into a group.
                    wrong = exc
            raise wrong


async def _ask_once(address: _Address, method: _Method, target: str, body: bytes = b"") -> bytes:
    with Connection(address) as connection:
        return await connection.ask(method, target, body)


async def _cut(project: _Project, orchestra: _Orchestra, address: _Address, *, framing: str) -> str:
    """It dies in the middle of a body."""
    del project, orchestra
    try:
        answer = await _ask_once(address, "GET", f"/cut?framing={framing}")
    except WentWrong as exc:
        seen = str(exc)
    else:
        raise WentWrong(f"half a body of {len(answer)} bytes passed for a whole one")
    if not seen.startswith("aborted"):
        raise WentWrong(f"half a body was answered by {seen}")
    await _ask_once(address, "GET", "/version")
    return f"{seen}; the next request was answered"


async def _stopped(project: _Project, orchestra: _Orchestra, address: _Address, *, is_restarted: bool) -> str:
    """It is stopped by SIGSTOP, with requests on their way; orchestra is told to restart it, or sees that."""
    pid = int((await _ask_once(address, "GET", "/version")).split()[1])
    os.kill(pid, signal.SIGSTOP)
    traffic = _Traffic(address)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(8):
            method: _Method = "POST" if number % 2 else "GET"
            nursery.start_soon(traffic.ask_once, f"{method.lower()}-{number}", method)
        if is_restarted:
            # Long enough for what is sent to a process that nothing can be seen of.
            await trio.sleep(max(PAUSE))
            await orchestra.restart()
    seconds = trio.current_time() - begun
    gets = _counted([sent.failure for sent in traffic.sent if sent.method == "GET" and sent.failure])
    posts = _counted([sent.failure for sent in traffic.sent if sent.method == "POST" and sent.failure])
    if gets:
        raise WentWrong(f"GET failed: {gets}")
    if "no answer" in " ".join(posts):
        raise WentWrong(f"POST failed: {posts}")
    twice = [name for name, times in Counter(project.written_down("executed")).items() if times > 1]
    if any(name.startswith("post") for name in twice):
        raise WentWrong(f"executed twice: {twice}")
    await _ask_once(address, "GET", "/version")
    return f"all GETs were answered and all POSTs told within {seconds:.1f} s"


async def _mute(project: _Project, orchestra: _Orchestra, address: _Address) -> str:
    """It accepts, and never answers: it is never ready."""
    del project, orchestra
    begun = trio.current_time()
    seen: dict[_Method, str] = {}

    async def ask(method: _Method) -> None:
        seen[method] = "an answer"
        try:
            await _ask_once(address, method, "/version")
        except WentWrong as exc:
            seen[method] = str(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "GET")
        nursery.start_soon(ask, "POST")
    if not all(text.startswith("502") for text in seen.values()):
        raise WentWrong(f"this is what came: {seen}")
    return f"502 to GET and POST, within {trio.current_time() - begun:.1f} s"


async def _endless(project: _Project, orchestra: _Orchestra, address: _Address) -> str:
    """It has begun something that never ends, and a restart comes."""
    seen: list[str] = []

    async def ask() -> None:
        try:
            await _ask_once(address, "POST", "/never?id=never")
        except WentWrong as exc:
            seen.append(str(exc))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while not project.written_down("executed"):  # noqa: ASYNC110 - it is a file
            await trio.sleep(LOOK)
        seconds = await _reload(project, orchestra, _Traffic(address), 2)
        if seconds > RELOAD_LIMIT:
            nursery.cancel_scope.cancel()
    if seconds > RELOAD_LIMIT:
        raise WentWrong(f"the restart was not complete within {RELOAD_LIMIT:g} s: {orchestra.last_words()}")
    if not seen or seen[0] == "no answer" or project.written_down("executed") != ["never"]:
        raise WentWrong(f"the request: {seen}, executed: {project.written_down('executed')}")
    return f"{seen[0]}; restarted within {seconds:.1f} s"


_UNATTENDED = "liveness = true\nrestart_unhealthy = true\nstop_timeout = 1\n"

FAULTS = {
    "dies in a body with a length": Fault(SERVERS["uvicorn"], partial(_cut, framing="length")),
    "dies in a chunked body": Fault(SERVERS["uvicorn"], partial(_cut, framing="chunked")),
    "SIGSTOP, then a restart": Fault(
        replace(SERVERS["uvicorn"], settings="stop_timeout = 1\n"), partial(_stopped, is_restarted=True)
    ),
    "SIGSTOP, liveness": Fault(
        replace(SERVERS["uvicorn"], settings=_UNATTENDED), partial(_stopped, is_restarted=False), is_long=True
    ),
    "never answers": Fault(
        Server("exec python app.py", source=_MUTE, proxy="hold = 2\n"), _mute, is_ready=False
    ),
    "endless request, restart": Fault(replace(SERVERS["uvicorn"], settings="stop_timeout = 1\n"), _endless),
    "endless request, reload": Fault(SERVERS["uvicorn --reload"], _endless),
}


# --- the whole ---

_COLUMNS = (
    ("server", 16),
    ("requests", 8),
    ("failed GETs", 11),
    ("failed POSTs: not begun / lost / begun", 38),
    ("twice", 5),
    ("longest hold (held)", 19),
    ("longest request", 15),
    ("reloads (longest)", 17),
    ("kept", 4),
)
_ROW = "| " + " | ".join(f"{{:<{width}}}" for _, width in _COLUMNS) + " |"


def _row(name: str, found: Measured, restarts: int) -> str:
    complete = [seconds for seconds in found.reloads if seconds <= RELOAD_LIMIT]
    return _ROW.format(
        name,
        f"{found.requests:,}",
        len(found.gets),
        f"{len(found.not_begun)} / {len(found.lost)} / {len(found.begun)}",
        len(found.twice),
        f"{found.held[0]:.2f} s ({found.held[1]:,})",
        f"{found.longest:.2f} s",
        f"{len(complete)} of {restarts} ({max(found.reloads):.1f} s)",
        "NO" if found.faults() else "yes",
    )


def _versions() -> str:
    packages = sorted({package for server in SERVERS.values() for package in server.packages})
    said = ", ".join(f"{name} {version(name)}" for name in (*packages, "trio", "h11"))
    return f"Python {platform.python_version()}, {said}, {platform.system()} {platform.release()}"


def _show_restarts(names: Sequence[str], run: Callable[[Server], Awaitable[Measured]], restarts: int) -> bool:
    print(_ROW.format(*(name for name, _ in _COLUMNS)))
    print(_ROW.format(*("-" * width for _, width in _COLUMNS)), flush=True)
    are_kept = True
    notes: list[str] = []
    for name in names:
        found = trio.run(run, SERVERS[name])
        print(_row(name, found, restarts), flush=True)
        endings = ", ".join(f"{times} x {ending}" for ending, times in sorted(found.endings.items()))
        notes.append(f"{name}: {endings or 'no stream ended'}")
        notes += [f"{name}: NOT KEPT: {text}" for text in found.faults()]
        are_kept = are_kept and not found.faults()
    print("", *notes, "", sep="\n", flush=True)
    return are_kept


def _show_faults(start: float) -> bool:
    are_kept = True
    for name, fault in FAULTS.items():
        try:
            print(f"{name}: {trio.run(partial(fault.measure, start=start))}", flush=True)
        except WentWrong as exc:
            are_kept = False
            print(f"{name}: NOT KEPT: {exc}", flush=True)
    return are_kept


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print what was found as it is found."""
    parser = argparse.ArgumentParser(
        description="Restart backends again and again, and count what clients who never ask twice see of it."
    )
    parser.add_argument("--restarts", type=int, default=20, help="of each server (%(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="that ask all the time (%(default)s)")
    parser.add_argument("--start", type=float, default=2.0, help="seconds that a start takes (%(default)s)")
    parser.add_argument("--server", action="append", choices=SERVERS, help="only this one; repeatable")
    parser.add_argument(
        "--only", choices=("restarts", "faults"), help="half of it: faults are hanging and dying"
    )
    parser.add_argument("--drive", type=Path, metavar="FOLDER", help="be orchestra there (it calls itself)")
    given = parser.parse_args(arguments)
    if given.drive is not None:
        trio.run(_drive, given.drive)
        return 0
    print(f"{_versions()}\n")
    are_kept = True
    if given.only != "faults":
        run = partial(measure, restarts=given.restarts, clients=given.clients, start=given.start)
        are_kept = _show_restarts(given.server or list(SERVERS), run, given.restarts)
    if given.only == "faults" or not (given.only or given.server):
        are_kept = _show_faults(given.start) and are_kept
    return 0 if are_kept else 1


if __name__ == "__main__":
    sys.exit(main())
