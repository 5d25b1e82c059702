"""Clients of a server that is restarted: they keep their connections, and never send anything a second time.

So whatever goes wrong is seen. Half of them GET and half of them POST, each request with an id of its own.
Beside them there are event streams and WebSockets that come back when they were closed, and write down how
that was.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import h11
import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, RejectConnection, Request, TextMessage
from wsproto.utilities import LocalProtocolError

from benchmarks.harness import Failed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Address", "Connection", "Method", "Sent", "Traffic", "ask_once"]

# Whatever has to be answered is answered within that, or it hangs.
PATIENCE = 60.0
# What handlers take: nothing, as most do, up to something that a restart is sure to meet on its way.
WORK = (0.0, 0.005, 0.02, 0.1, 0.4)
# Between the head and the body of a slow request.
SLOW = 0.05
# Between two messages of a WebSocket.
MESSAGES = 0.05
# After a failure, before the client asks for something else, or tries a stream again.
REFUSED = 0.1

Address: TypeAlias = tuple[str, int]
Method: TypeAlias = Literal["GET", "POST"]
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError, h11.RemoteProtocolError)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that was sent, once.

    Attributes:
        failure: What was wrong with the answer; empty if nothing was.
        seconds: What it took.
    """

    method: Method
    id: str
    failure: str
    seconds: float


class Connection:
    """A client's connection: it is kept as long as both sides want it, and nothing is ever sent again."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._stream: trio.SocketStream | None = None
        self._h11 = h11.Connection(h11.CLIENT)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    async def ask(self, method: Method, target: str, body: bytes = b"", *, is_slow: bool = False) -> bytes:
        """Send a request and return the body of the answer, which has to be a whole one with 200.

        Args:
            method: What to do.
            target: With what.
            body: Of a POST.
            is_slow: The body is sent on its own, after the head.

        Raises:
            Failed: It was not; says how.
        """
        try:
            with trio.fail_after(PATIENCE):
                await self.begin(method, target, body, is_slow=is_slow)
                return await self._answer()
        except trio.TooSlowError:
            raise Failed("no answer") from None
        except _GONE as exc:
            raise Failed(f"aborted ({type(exc).__name__})") from exc
        finally:
            # After a wrong answer or none, the next request takes another connection.
            if self._h11.our_state is not h11.IDLE:
                self.close()

    async def _answer(self) -> bytes:
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
            raise Failed(f"{status} {answer.splitlines()[:1]}")
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        return answer

    async def begin(self, method: Method, target: str, body: bytes = b"", *, is_slow: bool = False) -> None:
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
            await trio.sleep(SLOW)
            head = b""
        await self._stream.send_all(head + rest)

    async def next_event(self) -> object:
        """Return what comes next of the answer."""
        assert self._stream is not None
        while (event := self._h11.next_event()) is h11.NEED_DATA:
            self._h11.receive_data(await self._stream.receive_some())
        return event

    def close(self) -> None:
        """Leave."""
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None


async def ask_once(address: Address, method: Method, target: str) -> bytes:
    """Send one request on a connection of its own."""
    with Connection(address) as connection:
        return await connection.ask(method, target)


@dataclass(slots=True)
class Traffic:
    """All clients of a run, and what they have seen.

    Attributes:
        sent: All requests that have been answered, or never will be.
        endings: How event streams and WebSockets ended, and how they were refused.
        open: How many of them are open.
        is_over: Set from outside: no client begins another request.
    """

    address: Address
    sent: list[Sent] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    open: int = 0
    is_over: bool = False
    _changed: trio.Event = field(default_factory=trio.Event)

    async def visit(self, name: str, method: Method) -> None:
        """Ask again and again, until it is over."""
        with Connection(self.address) as connection:
            for number in count():
                if self.is_over:
                    break
                work = WORK[number % len(WORK)]
                await self.ask(connection, method, f"{name}-{number}", work=work, is_slow=number % 3 == 2)

    async def visit_once(self, name: str, method: Method) -> None:
        """Ask a single time."""
        with Connection(self.address) as connection:
            await self.ask(connection, method, name, work=0.0, is_slow=False)

    async def ask(
        self, connection: Connection, method: Method, name: str, *, work: float, is_slow: bool
    ) -> None:
        """Ask once, and write down what came of it."""
        body = name.encode() if method == "POST" else b""
        target = f"/{method.lower()}?id={name}&work={work}"

        async def ask() -> None:
            answer = await connection.ask(method, target, body, is_slow=is_slow and method == "POST")
            if answer != name.encode():
                raise Failed(f"a wrong answer: {answer!r}")

        if await self._noted(method, name, ask):
            await trio.sleep(REFUSED)

    async def version(self, connection: Connection) -> int:
        """Ask for the version of the backend; 0 if that was not answered."""
        version = 0

        async def ask() -> None:
            nonlocal version
            version = int((await connection.ask("GET", "/version")).split()[0])

        await self._noted("GET", "version", ask)
        return version

    async def _noted(self, method: Method, name: str, ask: Callable[[], Awaitable[None]]) -> str:
        """Write down a request; return what was wrong with its answer."""
        begun, failure = trio.current_time(), ""
        try:
            await ask()
        except Failed as exc:
            failure = str(exc)
        self.sent.append(Sent(method, name, failure, trio.current_time() - begun))
        return failure

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
            self._count(-is_open)

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
                    # If nothing can be sent any more, the reason may still come.
                    with contextlib.suppress(LocalProtocolError, trio.BrokenResourceError):
                        await stream.send_all(socket.send(TextMessage(data="hello")))
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
            self._count(-is_open)
            stream.socket.close()

    def _count(self, change: int) -> None:
        self.open += change
        self._changed.set()
        self._changed = trio.Event()

    async def until_all_are_open(self, number: int) -> None:
        """Wait until all streams are open, each in its place."""
        with trio.move_on_after(PATIENCE):
            while self.open < number:
                await self._changed.wait()
