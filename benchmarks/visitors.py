"""Clients with big bodies, clients that leave in the middle, and a proxy whose objects can be counted.

A kit, no measurement: `limits` measures with thousands of them, `tests/test_proxy_limits.py` asserts the same
promises of a few.

Strategy. Everything goes over real sockets to an origin in another process (`programs/origin.py`). The origin
and the clients tell each other how far they have come (the origin sends 103, an event, an echo), so that each
client leaves at the point that is meant, and nothing waits by the clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import socket
import struct
import tempfile
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec
import psutil
import trio
import trio.testing

from benchmarks.harness import MIB, Failed, Running, answers, free_port
from benchmarks.peers import own_origin
from orchestra.bus import Bus
from orchestra.config.plan import Address as Upstream, ProxyPlan
from orchestra.proxy.server import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = [
    "BODY_GROWTH",
    "KIB",
    "KINDS",
    "LOOK",
    "PATIENCE",
    "Inside",
    "Rest",
    "Way",
    "abort",
    "download",
    "inside",
    "upload",
]

KIB = 1024

# What a body may cost at most, however long it is: the promise.
BODY_GROWTH = 20 * MIB
# So many clients are there at a time: what a few tabs with their streams have open.
WIDTH = 50
# Anything that has to happen happens within that on a small and busy machine, or never.
PATIENCE = 30.0
# No visit takes so long on average, however busy the machine is.
SLOWEST_VISIT = 0.5
# How often something is looked at that sends no event.
LOOK = 0.02
# Bytes of one send, and of one chunk.
PIECE = bytes(64 * KIB)
CHUNK = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
# More than fits into all the sockets on the way: a client that leaves earlier leaves in the middle.
_MUCH = 64 * MIB

Address: TypeAlias = tuple[str, int]
Way: TypeAlias = "Callable[..., Awaitable[None]]"


# --- clients ---


class _Client:
    """Says bytes and hears some, over a real socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def says(self, *data: bytes) -> None:
        await self._stream.send_all(b"".join(data))

    async def hears(self, mark: bytes, *, after: int = 0) -> None:
        """Hear so many bytes of anything, and then everything up to `mark`, at least."""
        heard, size = b"", 0
        while size < after or mark not in heard:
            data = await self._stream.receive_some()
            if not data:
                raise Failed(f"the end came before {mark!r}, after {heard[-200:]!r}")
            size += len(data)
            # A mark may be split; of a body only its end is kept.
            heard = (heard + data)[-KIB:] if after else heard + data

    async def resets(self) -> None:
        """Leave by a TCP reset."""
        self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._stream.socket.close()

    async def closes(self) -> None:
        """Leave as a browser does: it is a FIN, or a reset if something was left unread."""
        self._stream.socket.close()

    async def ends(self) -> None:
        """Leave by a FIN for certain, and stay to see that it was noticed."""
        with contextlib.suppress(trio.BrokenResourceError):
            await self._stream.send_eof()
            async for _ in self._stream:
                pass
        self._stream.socket.close()


@contextlib.asynccontextmanager
async def _connected(address: Address) -> AsyncIterator[_Client]:
    # trio.open_tcp_stream would leave a deadline behind for a while, and with it some memory.
    sock = trio.socket.socket()
    with sock:
        await sock.connect(address)
        yield _Client(trio.SocketStream(sock))


def _request(target: bytes, *fields: bytes, method: bytes = b"GET") -> bytes:
    lines = [b"%s %s HTTP/1.1" % (method, target), b"Host: localhost", *fields]
    return b"\r\n".join([*lines, b"", b""])


async def upload(address: Address, size: int, *, is_chunked: bool) -> None:
    """Send a body of `size` bytes, and have it confirmed that all of it has arrived."""
    framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % size
    async with _connected(address) as client:
        await client.says(_request(b"/swallow", framing, method=b"POST"))
        for _ in range(size // len(PIECE)):
            await client.says(CHUNK if is_chunked else PIECE)
        await client.says(b"0\r\n\r\n" if is_chunked else b"")
        await client.hears(b"\r\n\r\n%d" % size)


async def download(address: Address, size: int, *, is_chunked: bool) -> None:
    """Ask for a body of `size` bytes, and count what comes."""
    async with _connected(address) as client:
        await client.says(_request(b"/give?%d" % size + (b"=chunked" if is_chunked else b"")))
        await client.hears(b"\r\n0\r\n\r\n" if is_chunked else b"", after=size)


# --- clients that leave in the middle ---

_Visit: TypeAlias = "Callable[[_Client], Awaitable[None]]"
_WAYS_TO_LEAVE: tuple[_Visit, ...] = (_Client.resets, _Client.closes, _Client.ends)


async def _half_a_head(client: _Client) -> None:
    await client.says(_request(b"/")[:-10])


async def _half_a_second_head(client: _Client) -> None:
    await client.says(_request(b"/api/"))
    await client.hears(b"\r\n\r\n")
    await client.says(_request(b"/")[:-10])


async def _half_an_upload(client: _Client) -> None:
    await client.says(_request(b"/confirm", b"Content-Length: %d" % _MUCH, method=b"POST"), PIECE)
    await client.hears(b" 103 ")


async def _half_a_chunked_upload(client: _Client) -> None:
    # The second chunk is not whole.
    await client.says(
        _request(b"/confirm", b"Transfer-Encoding: chunked", method=b"POST"), CHUNK, CHUNK[:KIB]
    )
    await client.hears(b" 103 ")


async def _no_answer_yet(client: _Client) -> None:
    await client.says(_request(b"/late"))
    await client.hears(b" 103 ")


async def _half_a_download(client: _Client) -> None:
    await client.says(_request(b"/give?%d" % _MUCH))
    await client.hears(PIECE[:KIB])


async def _half_a_chunked_download(client: _Client) -> None:
    await client.says(_request(b"/give?%d=chunked" % _MUCH))
    await client.hears(PIECE[:KIB])


async def _a_quiet_stream(client: _Client) -> None:
    await client.says(_request(b"/events?0"))
    await client.hears(b"data: ")


async def _a_busy_stream(client: _Client) -> None:
    await client.says(_request(b"/flood"))
    await client.hears(b"data: xxx")


async def _a_silent_socket(client: _Client) -> None:
    await client.says(
        _request(
            b"/ws",
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
    )
    await client.hears(b"\r\n\r\n")


async def _a_used_socket(client: _Client) -> None:
    await _a_silent_socket(client)
    await client.says(b"\x82\x85\0\0\0\0hello")
    await client.hears(b"hello")


async def _half_a_frame(client: _Client) -> None:
    await _a_silent_socket(client)
    await client.says(b"\x82\xfe\x10\0\0\0\0\0hello")
    await client.hears(b"hello")


KINDS: dict[str, tuple[_Visit, ...]] = {
    "requests": (
        _half_a_head,
        _half_a_second_head,
        _half_an_upload,
        _half_a_chunked_upload,
        _no_answer_yet,
        _half_a_download,
        _half_a_chunked_download,
    ),
    "event streams": (_a_quiet_stream, _a_busy_stream),
    "WebSockets": (_a_silent_socket, _a_used_socket, _half_a_frame),
}
"""What is left in the middle, and at which points."""


async def abort(address: Address, kind: str, count: int) -> None:
    """Have `count` clients come, some at a time, each of which leaves at the next point in the next way."""
    # All pairs of a point and a way, over and over.
    pairs = cycle([(visit, way_to_leave) for way_to_leave in _WAYS_TO_LEAVE for visit in KINDS[kind]])
    rest = iter([next(pairs) for _ in range(count)])

    async def one_after_the_other() -> None:
        for visit, way_to_leave in rest:
            async with _connected(address) as client:
                await visit(client)
                await way_to_leave(client)

    with trio.fail_after(PATIENCE + count * SLOWEST_VISIT):
        async with trio.open_nursery() as nursery:
            for _ in range(WIDTH):
                nursery.start_soon(one_after_the_other)


# --- the view from inside ---


@dataclass(frozen=True, slots=True)
class Rest:
    """What there is at a moment of rest.

    Attributes:
        fds: Descriptors of this process.
        tasks: Tasks of trio.
        objects: The proxy's objects with a life of their own, by class; no values.
    """

    fds: int
    tasks: int
    objects: frozenset[tuple[str, int]]

    def __str__(self) -> str:
        return (
            f"{self.fds} descriptors, {self.tasks} tasks, {sum(count for _, count in self.objects)} objects"
        )


class Inside:
    """A proxy in this process, while nothing else happens in it.

    Attributes:
        address: Where the proxy serves.
        fresh: How things were before the first client.
    """

    def __init__(self, proxy: Proxy, address: Address) -> None:
        self.address = address
        self.fresh = _rest()
        self._proxy = proxy

    async def rest(self) -> Rest:
        """Wait for things to be as they were before the first client; return how they are in the end."""
        deadline = trio.current_time() + PATIENCE
        while self._is_busy() and trio.current_time() < deadline:  # noqa: ASYNC110 - no event says it
            await trio.sleep(LOOK)
        return _rest()

    def _is_busy(self) -> bool:
        # Idle connections to upstreams would go by themselves, seconds later.
        self._proxy._drop_idle()
        # The last requests are kept, so many at most.
        self._proxy._shared.recent.clear()
        return (_open_files(), _tasks()) != (self.fresh.fds, self.fresh.tasks)


@contextlib.asynccontextmanager
async def inside() -> AsyncIterator[Inside]:
    """Have a proxy in this process, and an origin behind it."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with Running(own_origin(port, place), cwd=place) as running:
            running.wait_for(answers(port, "/api/"), "the origin does not answer")
            origin = Upstream(host="127.0.0.1", port=port)
            ours = socket.create_server(("127.0.0.1", 0), backlog=WIDTH)
            address = ours.getsockname()
            proxy = Proxy(ProxyPlan(backend=origin, frontend=origin), [ours], bus=Bus())
            async with trio.open_nursery() as nursery:
                await nursery.start(proxy.run)
                # So that all tasks that there are going to be have begun.
                await trio.testing.wait_all_tasks_blocked()
                yield Inside(proxy, address)
                await proxy.close()


def _rest() -> Rest:
    gc.collect()
    kinds = [type(each) for each in gc.get_objects()]
    objects = Counter(kind.__qualname__ for kind in kinds if _has_life(kind))
    return Rest(_open_files(), _tasks(), frozenset(objects.items()))


def _has_life(kind: type) -> bool:
    """Return whether objects of a class are the proxy's, and more than values."""
    # A class may have a descriptor of that name.
    is_ours = str(kind.__module__).startswith("orchestra.proxy.")
    if not is_ours or issubclass(kind, (Enum, msgspec.Struct, Exception)):
        return False
    return not (dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen)  # type: ignore[attr-defined]  # typeshed leaves it out


def _open_files() -> int:
    return psutil.Process().num_fds()


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living
