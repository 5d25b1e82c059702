"""What the proxy's tests share: transports in memory, and a stage on which dialogues are played.

On the `Stage` a proxy stands between clients and two origins; each end is a `Talker`: it says bytes and
hears bytes. In memory nothing touches the system, so that a test can run under the autojump clock. The same
dialogues are played again over real sockets (`world`): all ends of them are in this process, so that bytes
are there as soon as they are sent, and the clock may jump when nothing has happened for a moment.
"""

from __future__ import annotations

import contextlib
import socket
from collections import defaultdict
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import trio
from msgspec.structs import replace

from orchestra.bus import Bus
from orchestra.config.plan import Address, FromProcess, ProxyPlan
from orchestra.events import RequestFinished, State, StateChanged, StreamClosed, StreamOpened
from orchestra.proxy.forward import Peer
from orchestra.proxy.head import RequestHead, ResponseHead
from orchestra.proxy.server import Extras, Proxy
from orchestra.proxy.shared import Shared
from orchestra.proxy.transport import Poller, SocketTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestra.config.plan import UpstreamPlan
    from orchestra.events import Event
    from orchestra.proxy.gate import Upstream
    from orchestra.proxy.head import Headers
    from orchestra.proxy.transport import Buffer, Transport

T = TypeVar("T")

BACKEND_PORT = 8001
FRONTEND_PORT = 5173
# Where a backend listens that has taken over from another one.
SUCCESSOR_PORT = 8002


class _Pipe:
    """One direction: what was sent and not yet received."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.data = bytearray()
        self.has_ended = False
        self.is_broken = False
        self.changed = trio.lowlevel.ParkingLot()

    def end(self, *, broken: bool = False) -> None:
        self.has_ended = True
        self.is_broken |= broken
        if broken:
            self.data.clear()
        self.changed.unpark_all()


class MemoryTransport:
    """The `Transport` protocol without a system: one end of a pair made by `memory_pair`."""

    def __init__(self, incoming: _Pipe, outgoing: _Pipe) -> None:
        self._in, self._out = incoming, outgoing
        self._is_closed = False
        self._on_hangup: Callable[[bool], object] | None = None
        self._on_input: Callable[[], object] | None = None
        self.other: MemoryTransport

    async def send_all(self, data: Buffer) -> None:
        await trio.lowlevel.checkpoint()
        rest = bytes(data)
        while rest := rest[self.send_some(rest) :]:
            if len(self._out.data) >= self._out.capacity:
                await self._out.changed.park()

    def take_some(self, max_bytes: int = 262144) -> bytes | None:
        if self._is_closed:
            raise trio.ClosedResourceError
        if self._in.is_broken:
            raise ConnectionResetError
        data = bytes(self._in.data[:max_bytes])
        del self._in.data[:max_bytes]
        self._in.changed.unpark_all()
        return data if data or self._in.has_ended else None

    def send_some(self, data: Buffer) -> int:
        if self._is_closed:
            raise trio.ClosedResourceError
        if self._out.is_broken or self.other._is_closed:
            raise BrokenPipeError
        sent = data[: self._out.capacity - len(self._out.data)]
        self._out.data += sent
        self.other._has_news()
        return len(sent)

    def send_eof(self) -> None:
        self._out.end()
        self.other._hung_up()
        self.other._has_news()

    def on_input(self, callback: Callable[[], object] | None) -> None:
        self._on_input = callback
        if self.has_input():
            self._has_news()

    def _has_news(self) -> None:
        callback, self._on_input = self._on_input, None
        if callback is not None:
            callback()

    def has_input(self) -> bool:
        return bool(self._in.data) or self._in.has_ended or self._is_closed

    def on_hangup(self, callback: Callable[[bool], object] | None) -> None:
        self._on_hangup = callback
        if self._in.has_ended:
            self._hung_up()

    def close(self) -> None:
        self._leave(broken=False)

    def abort(self) -> None:
        self._leave(broken=True)

    @property
    def is_closed(self) -> bool:
        return self._is_closed

    def _leave(self, *, broken: bool) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._out.end(broken=broken)
            self._in.changed.unpark_all()
            self._on_hangup = None
            self._has_news()
            self.other._hung_up()
            self.other._has_news()

    def _hung_up(self) -> None:
        callback, self._on_hangup = self._on_hangup, None
        if callback is not None:
            callback(self._in.is_broken)


def memory_pair(capacity: int = 65536) -> tuple[MemoryTransport, MemoryTransport]:
    there, back = _Pipe(capacity), _Pipe(capacity)
    one, other = MemoryTransport(back, there), MemoryTransport(there, back)
    one.other, other.other = other, one
    return one, other


async def receive(transport: Transport) -> bytes:
    """Wait for bytes and return some; ``b""`` is the end."""
    await trio.lowlevel.checkpoint()
    while (data := transport.take_some()) is None:
        heard = trio.Event()
        transport.on_input(heard.set)
        await heard.wait()
    return data


class Torrent:
    """The proxy's end of a connection to a peer that has all it says at hand, and takes what it gets."""

    def __init__(self, said: bytes, size: int = 1000) -> None:
        self._pieces = [said[at : at + size] for at in range(0, len(said), size)][::-1]

    def take_some(self, _max_bytes: int = 0) -> bytes:
        return self._pieces.pop() if self._pieces else b""

    def has_input(self) -> bool:
        return True

    def on_input(self, callback: Callable[[], object] | None) -> None:
        if callback is not None:
            trio.lowlevel.current_trio_token().run_sync_soon(callback)

    def on_hangup(self, callback: Callable[[bool], object] | None) -> None:
        pass

    def send_some(self, data: Buffer) -> int:
        return len(data)

    async def send_all(self, data: Buffer) -> None:
        pass

    def send_eof(self) -> None:
        pass

    close = abort = send_eof


@contextlib.asynccontextmanager
async def counted_turns() -> AsyncIterator[list[None]]:
    """Count the turns that another task has meanwhile."""
    turns: list[None] = []
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _() -> None:
            while True:
                await trio.lowlevel.checkpoint()
                turns.append(None)

        yield turns
        nursery.cancel_scope.cancel()


class Talker:
    """A client or an upstream: it says bytes to the proxy and hears some from it."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self._heard = bytearray()

    async def says(self, *data: bytes) -> None:
        for piece in data:
            await self.transport.send_all(piece)

    async def hears(self, size: int) -> bytes:
        """Hear exactly so many bytes."""
        while len(self._heard) < size:
            await self._listen()
        data = bytes(self._heard[:size])
        del self._heard[:size]
        return data

    async def hears_until(self, mark: bytes) -> bytes:
        """Hear everything up to `mark`, which is included."""
        while mark not in self._heard:
            await self._listen()
        return await self.hears(self._heard.index(mark) + len(mark))

    async def hears_head(self) -> bytes:
        return await self.hears_until(b"\r\n\r\n")

    async def hears_end(self) -> bytes:
        """Hear what is left up to an orderly end."""
        with contextlib.suppress(EOFError):
            while True:
                await self._listen()
        data = bytes(self._heard)
        self._heard.clear()
        return data

    async def hears_reset(self) -> None:
        """Hear anything, and then the connection break."""
        try:
            await self.hears_end()
        except ConnectionResetError:
            return
        raise AssertionError("the connection ended in an orderly way")

    def leaves(self) -> None:
        self.transport.close()

    def breaks(self) -> None:
        self.transport.abort()

    async def _listen(self) -> None:
        data = await receive(self.transport)
        if not data:
            raise EOFError(f"the connection has ended; heard last: {bytes(self._heard)!r}")
        self._heard += data


class World:
    """What connections are made of on a stage: nothing but memory.

    Attributes:
        patience: Real seconds in which nothing happens before a clock that jumps does.
        slack: Bytes that fit in between an end that sends and one that does not read.
    """

    patience = 0.0
    slack = 400_000

    def pair(self, _on: Stage) -> tuple[Transport, Transport]:
        """Return a client's end and the proxy's end of a new connection."""
        return memory_pair()


class SocketWorld(World):
    """Connections are TCP's."""

    patience = 0.05
    slack = 40_000_000

    def pair(self, on: Stage) -> tuple[Transport, Transport]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = socket.create_connection(listener.getsockname())
            server, _ = listener.accept()
        return SocketTransport(client, on.proxy.poller), SocketTransport(server, on.proxy.poller)


class Stage:
    """A proxy, its clients and two origins.

    Attributes:
        events: All that the proxy emitted.
    """

    world: ClassVar[World] = World()

    def __init__(self, nursery: trio.Nursery, **settings: Any) -> None:
        settings.setdefault("backend", FromProcess(name="api"))
        settings.setdefault("frontend", FromProcess(name="vite"))
        self.events: list[Event] = []
        self.bus = Bus()
        self.bus.subscribe(self._emit)
        self._tails: defaultdict[str, list[str]] = defaultdict(list)
        extras = replace(settings.pop("extras", Extras()), tail=self._tails.__getitem__, dial=self._dial)
        self.plan = ProxyPlan(**settings)
        self._nursery = nursery
        self._transports: list[Transport] = []
        self._told = trio.lowlevel.ParkingLot()
        self._newest: dict[str, StateChanged] = {}
        self._dialled = {
            port: trio.open_memory_channel[Talker](100)
            for port in (BACKEND_PORT, FRONTEND_PORT, SUCCESSOR_PORT)
        }
        self.refusing: set[int] = set()
        self.dials: list[int] = []
        self.proxy = Proxy(
            self.plan,
            [],
            bus=self.bus,
            extras=extras,
        )

    def _emit(self, event: Event) -> None:
        self.events.append(event)
        self._told.unpark_all()

    async def _dial(self, address: Address) -> Transport:
        assert address.host == "127.0.0.1"
        port = address.port
        await trio.lowlevel.checkpoint()
        self.dials.append(port)
        if port in self.refusing:
            raise ConnectionRefusedError
        ours, theirs = self._pair()
        self._dialled[port][0].send_nowait(Talker(theirs))
        return ours

    def _pair(self) -> tuple[Transport, Transport]:
        pair = self.world.pair(self)
        self._transports += pair
        return pair

    def close(self) -> None:
        """Close what a test has left open."""
        for transport in self._transports:
            transport.close()

    def client(self, address: str = "127.0.0.1") -> Talker:
        """A client connects."""
        ours, theirs = self._pair()
        self.proxy.serve(theirs, Peer(address, 8000))
        return Talker(ours)

    async def backend(self) -> Talker:
        """Wait until the proxy connects to the backend."""
        return await self._dialled[BACKEND_PORT][1].receive()

    async def successor(self) -> Talker:
        """Wait until the proxy connects to the backend that has taken over."""
        return await self._dialled[SUCCESSOR_PORT][1].receive()

    async def frontend(self) -> Talker:
        """Wait until the proxy connects to the frontend."""
        return await self._dialled[FRONTEND_PORT][1].receive()

    def reports(self, process: str, state: State, **more: Any) -> None:
        """The supervisor reports the state of a process, and what it was before."""
        if state is State.READY:
            more.setdefault("url", f"http://127.0.0.1:{BACKEND_PORT if process == 'api' else FRONTEND_PORT}")
        newest = self._newest.get(process) or StateChanged(
            process=process, state=State.WAITING, previous=State.WAITING
        )
        died = newest.ended_before_ready and state is not State.READY
        if state in (State.BACKING_OFF, State.FAILED):
            died = newest.state is not State.READY
        event = self._newest[process] = StateChanged(
            process=process, state=state, previous=newest.state, ended_before_ready=died, **more
        )
        self.proxy.observe(event)

    def prints(self, process: str, text: str) -> None:
        self._tails[process].append(text)

    async def told(self, kind: type[T], count: int = 1) -> T:
        """Wait until `count` events of a kind have been emitted; return the last of them."""
        while len(found := [event for event in self.events if isinstance(event, kind)]) < count:
            await self._told.park()
        return found[count - 1]

    async def finished(self, count: int = 1) -> RequestFinished:
        return await self.told(RequestFinished, count)

    async def opened(self, count: int = 1) -> StreamOpened:
        return await self.told(StreamOpened, count)

    async def closed(self, count: int = 1) -> StreamClosed:
        return await self.told(StreamClosed, count)


@contextlib.asynccontextmanager
async def stage(*, ready: tuple[str, ...] = ("api", "vite"), **settings: Any) -> AsyncIterator[Stage]:
    """Set a stage; the processes in `ready` are."""
    async with trio.open_nursery() as nursery:
        made = Stage(nursery, **settings)
        for process in ready:
            made.reports(process, State.READY)
        await nursery.start(made.proxy.run)
        try:
            yield made
        finally:
            made.close()
        nursery.cancel_scope.cancel()


def an_upstream(
    plan: UpstreamPlan, bus: Bus | None = None, *, tail: tuple[str, ...] = (), limit: int = 4
) -> Upstream:
    """The backend of a proxy that does not run."""

    async def dial(_address: Address) -> Transport:
        await trio.lowlevel.checkpoint()
        raise ConnectionRefusedError

    shared = Shared(
        ProxyPlan(backend=plan, frontend=None),
        bus or Bus(),
        extras=Extras(tail=lambda process: [f"{process} {line}" for line in tail], dial=dial),
        poller=Poller(),
        most_idle=limit,
    )
    return shared.upstreams["backend"]


def elsewhere(port: int) -> Address:
    return Address(host="127.0.0.1", port=port)


def request_head(
    method: bytes, target: bytes, headers: Headers, *, version: bytes = b"1.1", length: int | None = None
) -> RequestHead:
    """Make a head of fields as they are received; it need not have a Host."""
    start = b"%b %b HTTP/1.1" % (method, target)
    like = ResponseHead.of(200, headers)
    return RequestHead(start, like.lines, like.values, length, False, version, method, target, b"")


def headers_of(head: bytes) -> list[tuple[bytes, bytes]]:
    lines = head.split(b"\r\n")[1:-2]
    return [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]


def header(head: bytes, name: bytes) -> bytes | None:
    return next((value for found, value in headers_of(head) if found.lower() == name.lower()), None)
