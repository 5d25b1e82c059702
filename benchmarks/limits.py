"""What big bodies cost the proxy, and what thousands of visitors who leave in the middle leave behind.

``python benchmarks/limits.py`` measures both, prints a table, and exits with 1 if a bound does not hold.
`tests/test_proxy_limits.py` is its short form: the same visitors, fewer of them. Linux only, for ``/proc``.

Strategy. Two views. From outside, a real ``orchestra run`` with a real origin behind it: what the kernel says
of its memory and its descriptors. From inside, a `Proxy` in this process: its tasks and its objects can be
counted, which from outside they cannot. In both, everybody speaks over real sockets. The origin and the
visitors tell each other how far they have come (the origin sends 103, an event, an echo), so that each one
leaves at the point that is meant, and nobody waits by the clock.

What is compared is two moments of rest, at which no connection is left: before the visits and after them; for
memory, after a first tenth of the visits, when all that is made once has been made, and after the visits.

Never here: how fast anything is.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import platform
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import h11
import psutil
import trio
import trio.testing
from wsproto.utilities import generate_accept_token

from orchestra.config.plan import AtUrl, ProxyPlan
from orchestra.events import Bus
from orchestra.proxy import Proxy
from orchestra.proxy.relay import Exchange
from orchestra.proxy.server import _Connection
from orchestra.proxy.transport import SocketTransport
from orchestra.proxy.tunnel import Tunnel
from orchestra.proxy.wire import ClientSide, UpstreamSide

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

__all__ = [
    "BODY_GROWTH",
    "KIB",
    "KINDS",
    "MIB",
    "Inside",
    "Rest",
    "Way",
    "abort",
    "download",
    "inside",
    "upload",
]

KIB, MIB = 1024, 1024 * 1024

# What a body may cost at most, however long it is: the promise.
BODY_GROWTH = 20 * MIB
# What the visitors of a kind may leave behind: at 10,000, some 200 bytes each. An exchange that is kept by
# mistake is more than 3 KiB with what it refers to; what malloc and trio have at one time and not at another
# is a few hundred KiB in all.
LEFT_BEHIND = 2 * MIB
# So many visitors are there at a time: what a few tabs with their streams have open.
WIDTH = 50
# Anything that has to happen happens within that on a small and busy machine, or never.
PATIENCE = 30.0
# No visit takes so long on average, however busy the machine is.
SLOWEST_VISIT = 0.5
# How often it is looked at what nobody tells us of.
LOOK = 0.02
# What orchestra exits with when it is ended as by Ctrl-C.
EXIT_CODE_OF_SIGINT = 130
# Bytes of one send, and of one chunk.
PIECE = bytes(64 * KIB)
# More than fits into all the sockets on the way: whoever leaves earlier leaves in the middle.
_MUCH = 64 * MIB

Address: TypeAlias = tuple[str, int]
_Tell: TypeAlias = "Callable[[str, str, str, bool], None]"
Way: TypeAlias = "Callable[..., Awaitable[None]]"
_GONE = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError, h11.RemoteProtocolError)


class WentWrong(Exception):  # noqa: N818 - it has no better name
    """Something was not answered as it should have been, so that nothing was measured."""


# --- the origin ---


async def serve(stream: trio.SocketStream) -> None:
    """Be the origin, on one connection: swallow bodies and give them, or keep the other side waiting.

    ``/give?SIZE`` has a length, ``/give?SIZE=chunked`` has none; what the other paths do stands in `_Origin`.
    """
    with contextlib.suppress(*_GONE):
        async with stream:
            origin = _Origin(stream)
            while await origin.is_asked():
                await origin.answer()


class _Origin:
    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._h11 = h11.Connection(h11.SERVER)
        self._request: h11.Request | None = None

    async def is_asked(self) -> bool:
        event = await self._next_event()
        self._request = event if isinstance(event, h11.Request) else None
        return self._request is not None

    async def answer(self) -> None:
        assert self._request is not None
        path, _, query = self._request.target.partition(b"?")
        if path != b"/swallow":
            await self._next_event()  # the end of a request without a body
        match path:
            case b"/swallow":
                await self._swallow()
            case b"/give":
                size, _, framing = query.partition(b"=")
                await self._give(int(size), is_chunked=bool(framing))
            case b"/late":
                await self._send(h11.InformationalResponse(status_code=103, headers=[]))
                await self._until_they_leave()
            case b"/events":
                await self._begin_events()
                await self._until_they_leave()
            case b"/flood":
                await self._begin_events()
                while True:
                    await self._send(h11.Data(data=b"data: %s\n\n" % (b"x" * KIB)))
            case b"/socket":
                await self._echo(dict(self._request.headers)[b"sec-websocket-key"])
            case _:
                await self._say(b"ok")
        if self._h11.our_state is not h11.DONE:
            raise EOFError  # after Connection: close
        self._h11.start_next_cycle()

    async def _swallow(self) -> None:
        """Count the body; the first bytes of it are confirmed by a 103."""
        size = 0
        while not isinstance(event := await self._next_event(), h11.EndOfMessage):
            if not isinstance(event, h11.Data):
                raise EOFError  # noqa: TRY004 - it is the end of the connection
            if not size:
                await self._send(h11.InformationalResponse(status_code=103, headers=[]))
            size += len(event.data)
        await self._say(b"%d" % size)

    async def _give(self, size: int, *, is_chunked: bool) -> None:
        headers = [] if is_chunked else [(b"Content-Length", b"%d" % size)]
        await self._send(h11.Response(status_code=200, headers=headers))
        for part in _parts(size):
            await self._send(h11.Data(data=part))
        await self._send(h11.EndOfMessage())

    async def _say(self, body: bytes) -> None:
        await self._send(h11.Response(status_code=200, headers=[(b"Content-Length", b"%d" % len(body))]))
        await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def _begin_events(self) -> None:
        await self._send(h11.Response(status_code=200, headers=[(b"Content-Type", b"text/event-stream")]))
        await self._send(h11.Data(data=b"data: first\n\n"))

    async def _echo(self, key: bytes) -> None:
        headers = [
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"websocket"),
            (b"Sec-WebSocket-Accept", generate_accept_token(key)),
        ]
        await self._send(h11.InformationalResponse(status_code=101, headers=headers))
        async for data in self._stream:
            await self._stream.send_all(data)
        raise EOFError

    async def _until_they_leave(self) -> None:
        while await self._stream.receive_some():
            pass
        raise EOFError

    async def _next_event(self) -> object:
        return await _next_event(self._h11, self._stream)

    async def _send(self, event: h11.Event) -> None:
        await self._stream.send_all(self._h11.send(event) or b"")


async def _next_event(connection: h11.Connection, stream: trio.SocketStream) -> object:
    while True:
        event: object = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        connection.receive_data(await stream.receive_some())


def _parts(size: int) -> Iterator[bytes]:
    while size > 0:
        yield PIECE[:size]
        size -= len(PIECE)


# --- bodies that arrive ---


async def upload(address: Address, size: int, *, is_chunked: bool) -> None:
    """Send a body of `size` bytes, and have it confirmed that all of it has arrived."""
    framing = (b"Transfer-Encoding", b"chunked") if is_chunked else (b"Content-Length", b"%d" % size)
    async with await _connected(address) as stream:
        client = h11.Connection(h11.CLIENT)

        async def send(event: h11.Event) -> None:
            await stream.send_all(client.send(event) or b"")

        await send(h11.Request(method="POST", target="/swallow", headers=[(b"Host", b"localhost"), framing]))
        for part in _parts(size):
            await send(h11.Data(data=part))
        await send(h11.EndOfMessage())
        answer = await _body(client, stream)
    if answer.start != b"%d" % size:
        raise WentWrong(f"an upload of {size} bytes was answered by {answer.start!r}")


async def download(address: Address, size: int, *, is_chunked: bool) -> None:
    """Ask for a body of `size` bytes, and count what comes."""
    target = b"/give?%d" % size + (b"=chunked" if is_chunked else b"")
    async with await _connected(address) as stream:
        client = h11.Connection(h11.CLIENT)
        request = h11.Request(method="GET", target=target, headers=[(b"Host", b"localhost")])
        await stream.send_all((client.send(request) or b"") + (client.send(h11.EndOfMessage()) or b""))
        answer = await _body(client, stream)
    if answer.size != size:
        raise WentWrong(f"of a download of {size} bytes, {answer.size} arrived")


@dataclass(frozen=True, slots=True)
class _Body:
    size: int
    start: bytes


async def _body(client: h11.Connection, stream: trio.SocketStream) -> _Body:
    """Hear an answer to its end; all that is kept is how long it was, and its first part."""
    size, start = 0, b""
    while not isinstance(event := await _next_event(client, stream), h11.EndOfMessage):
        match event:
            case h11.Response(status_code=status) if status != 200:
                raise WentWrong(f"answered by {status}")
            case h11.Data(data=data):
                size += len(data)
                start = start or bytes(data[:100])
            case h11.ConnectionClosed():
                raise WentWrong("the answer has no end")
            case _:
                pass
    return _Body(size, start)


async def _connected(address: Address) -> trio.SocketStream:
    # trio.open_tcp_stream would leave a deadline behind for a while, and with it some memory.
    sock = trio.socket.socket()
    try:
        await sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


# --- visitors who leave in the middle ---


class _Visitor:
    """Somebody who says bytes and hears some, over a real socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def says(self, *data: bytes) -> None:
        await self._stream.send_all(b"".join(data))

    async def hears(self, mark: bytes) -> None:
        """Hear everything up to `mark`, at least."""
        heard = b""
        while mark not in heard:
            data = await self._stream.receive_some()
            if not data:
                raise WentWrong(f"the end came before {mark!r}, after {heard[-200:]!r}")
            heard += data

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


_Visit: TypeAlias = "Callable[[_Visitor], Awaitable[None]]"
_Departure: TypeAlias = "Callable[[_Visitor], Awaitable[None]]"
_DEPARTURES: tuple[_Departure, ...] = (_Visitor.resets, _Visitor.closes, _Visitor.ends)


def _request(target: bytes, *fields: bytes, method: bytes = b"GET") -> bytes:
    lines = [b"%s %s HTTP/1.1" % (method, target), b"Host: localhost", *fields]
    return b"\r\n".join([*lines, b"", b""])


async def _half_a_head(visitor: _Visitor) -> None:
    await visitor.says(_request(b"/")[:-10])


async def _half_a_second_head(visitor: _Visitor) -> None:
    await visitor.says(_request(b"/"))
    await visitor.hears(b"\r\n\r\nok")
    await visitor.says(_request(b"/")[:-10])


async def _half_an_upload(visitor: _Visitor) -> None:
    await visitor.says(_request(b"/swallow", b"Content-Length: %d" % _MUCH, method=b"POST"), PIECE)
    await visitor.hears(b" 103 ")


async def _half_a_chunked_upload(visitor: _Visitor) -> None:
    chunk = b"%x\r\n%s\r\n" % (len(PIECE), PIECE)
    # The second chunk is not whole.
    await visitor.says(
        _request(b"/swallow", b"Transfer-Encoding: chunked", method=b"POST"), chunk, chunk[:KIB]
    )
    await visitor.hears(b" 103 ")


async def _no_answer_yet(visitor: _Visitor) -> None:
    await visitor.says(_request(b"/late"))
    await visitor.hears(b" 103 ")


async def _half_a_download(visitor: _Visitor) -> None:
    await visitor.says(_request(b"/give?%d" % _MUCH))
    await visitor.hears(PIECE[:KIB])


async def _half_a_chunked_download(visitor: _Visitor) -> None:
    await visitor.says(_request(b"/give?%d=chunked" % _MUCH))
    await visitor.hears(PIECE[:KIB])


async def _a_quiet_stream(visitor: _Visitor) -> None:
    await visitor.says(_request(b"/events"))
    await visitor.hears(b"data: first\n\n")


async def _a_busy_stream(visitor: _Visitor) -> None:
    await visitor.says(_request(b"/flood"))
    await visitor.hears(b"data: xxx")


async def _a_silent_socket(visitor: _Visitor) -> None:
    await visitor.says(
        _request(
            b"/socket",
            b"Connection: Upgrade",
            b"Upgrade: websocket",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        )
    )
    await visitor.hears(b"\r\n\r\n")


async def _a_used_socket(visitor: _Visitor) -> None:
    await _a_silent_socket(visitor)
    await visitor.says(b"\x82\x85\0\0\0\0hello")
    await visitor.hears(b"hello")


async def _half_a_frame(visitor: _Visitor) -> None:
    await _a_silent_socket(visitor)
    await visitor.says(b"\x82\xfe\x10\0\0\0\0\0hello")
    await visitor.hears(b"hello")


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
    """Have `count` visitors come, some at a time, each of whom leaves at the next point in the next way."""
    # All pairs of a point and a way, over and over.
    pairs = cycle([(visit, departure) for departure in _DEPARTURES for visit in KINDS[kind]])
    rest = iter([next(pairs) for _ in range(count)])

    async def one_after_the_other() -> None:
        for visit, departure in rest:
            async with await _connected(address) as stream:
                visitor = _Visitor(stream)
                await visit(visitor)
                await departure(visitor)

    with trio.fail_after(PATIENCE + count * SLOWEST_VISIT):
        async with trio.open_nursery() as nursery:
            for _ in range(WIDTH):
                nursery.start_soon(one_after_the_other)


# --- the view from inside ---

_OURS = (Exchange, ClientSide, UpstreamSide, Tunnel, _Connection, SocketTransport)


@dataclass(frozen=True, slots=True)
class Rest:
    """What there is at a moment of rest.

    Attributes:
        fds: Descriptors of this process.
        tasks: Tasks of trio.
        objects: Connections, exchanges and tunnels that are alive though nothing is going on, by class.
    """

    fds: int
    tasks: int
    objects: tuple[tuple[str, int], ...] = ()

    def __str__(self) -> str:
        objects = ", ".join(f"{count} {name}" for name, count in self.objects) or "no object"
        return f"{self.fds} descriptors, {self.tasks} tasks, {objects}"


class Inside:
    """A proxy and an origin in this process, while nobody else does anything in it.

    Attributes:
        address: Where the proxy serves.
        fresh: How things were before the first visitor.
    """

    def __init__(self, proxy: Proxy, address: Address) -> None:
        self.address = address
        self.fresh = Rest(_open_files(), _tasks())
        self._proxy = proxy

    async def rest(self) -> Rest:
        """Wait for things to be as they were before the first visitor; say how they are in the end."""
        deadline = trio.current_time() + PATIENCE
        while self._is_busy() and trio.current_time() < deadline:  # noqa: ASYNC110 - nobody tells us
            await trio.sleep(LOOK)
        gc.collect()
        living = Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, _OURS))
        return Rest(_open_files(), _tasks(), tuple(sorted(living.items())))

    def _is_busy(self) -> bool:
        # Idle connections to upstreams would go by themselves, seconds later.
        for upstream in (self._proxy._backend, self._proxy._frontend):
            upstream.clear()
        return (_open_files(), _tasks()) != (self.fresh.fds, self.fresh.tasks)


@contextlib.asynccontextmanager
async def inside() -> AsyncIterator[Inside]:
    """Have a proxy and an origin in this process."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        await nursery.start(trio.serve_listeners, serve, listeners)
        origin = AtUrl(host="127.0.0.1", port=listeners[0].socket.getsockname()[1])
        ours = socket.create_server(("127.0.0.1", 0), backlog=WIDTH)
        address = ours.getsockname()
        proxy = Proxy(ProxyPlan(backend=origin, frontend=origin), [ours], bus=Bus())
        await nursery.start(proxy.run)
        # So that all tasks that there are going to be have begun.
        await trio.testing.wait_all_tasks_blocked()
        yield Inside(proxy, address)
        await proxy.close()
        nursery.cancel_scope.cancel()


def _open_files() -> int:
    return psutil.Process().num_fds()


def _tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


async def _look_from_inside(count: int, tell: _Tell) -> None:
    async with inside() as view:
        for kind in KINDS:
            await abort(view.address, kind, count)
            left = await view.rest()
            tell(f"inside: {count:,} {kind} aborted", str(left), f"{view.fresh}", left == view.fresh)


# --- the view from outside ---


class _Outside:
    """An ``orchestra run`` and what the kernel says of its process."""

    def __init__(self, process: psutil.Process, address: Address) -> None:
        self.address = address
        self._process = process

    async def rest(self) -> int:
        """Wait until no connection is left; say how many descriptors there are then."""
        deadline = trio.current_time() + PATIENCE
        while self._is_connected() and trio.current_time() < deadline:  # noqa: ASYNC110 - nobody tells us
            await trio.sleep(LOOK)
        return self._process.num_fds()

    def _is_connected(self) -> bool:
        connections = self._process.net_connections("tcp")
        return any(each.status != psutil.CONN_LISTEN for each in connections)

    def memory(self) -> int:
        """Say how many bytes are its own, what it shares with others counted in part (PSS)."""
        return self._read("smaps_rollup", "Pss")

    def begin_peak(self) -> int:
        """Have the kernel look for the peak from now on; say how much memory there is now."""
        # proc_pid_clear_refs(5): 5 resets the peak resident set size to the present one.
        self._path("clear_refs").write_text("5")
        return self._read("status", "VmRSS")

    def peak(self) -> int:
        """Say how much resident memory there was at most since `begin_peak`."""
        return self._read("status", "VmHWM")

    def _read(self, file: str, key: str) -> int:
        for line in self._path(file).read_text().splitlines():
            name, _, value = line.partition(":")
            if name == key:
                return int(value.split()[0]) * KIB
        raise WentWrong(f"{self._path(file)} says nothing of {key}")

    def _path(self, file: str) -> Path:
        return Path(f"/proc/{self._process.pid}/{file}")


@contextlib.contextmanager
def _outside() -> Iterator[_Outside]:
    """Run orchestra, as a user does; what it prints is told if it is not ready or ends badly."""
    with tempfile.TemporaryDirectory() as folder:
        origin = shlex.join([sys.executable, str(Path(__file__).resolve()), "--origin"])
        Path(folder, "Procfile").write_text(f"api: exec {origin}\n")
        # There is no Vite, and nothing here is ever asked of it; without one there would be no proxy.
        Path(folder, "orchestra.toml").write_text(
            '[proxy]\nbackend = "api"\nfrontend = "http://127.0.0.1:9"\n'
        )
        command = [sys.executable, "-m", "orchestra", "run", "--output", "plain", "--listen", "127.0.0.1:0"]
        with subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as run:
            assert run.stdout is not None
            said: list[str] = []
            port = 0
            try:
                for line in run.stdout:
                    said.append(line)
                    if not port and "http://127.0.0.1:" in line:
                        port = int(line.rstrip().rpartition(":")[2])
                    if "api is ready" in line:
                        break
                else:
                    raise WentWrong(f"orchestra was not ready: {''.join(said)}")
                yield _Outside(psutil.Process(run.pid), ("127.0.0.1", port))
            finally:
                run.send_signal(signal.SIGINT)
                said += run.stdout
        if run.returncode != EXIT_CODE_OF_SIGINT:
            raise WentWrong(f"orchestra ended with {run.returncode}: {''.join(said)}")


async def _look_from_outside(view: _Outside, count: int, size: int, tell: _Tell) -> None:
    fresh = await view.rest()
    for way, name in ((upload, "upload"), (download, "download")):
        for is_chunked, framing in ((False, "with a length"), (True, "chunked")):
            before = view.begin_peak()
            await way(view.address, size, is_chunked=is_chunked)
            growth = view.peak() - before
            what = f"outside: {size // MIB:,} MiB {name} {framing}"
            tell(what, f"peak {_mib(growth)}", f"< {_mib(BODY_GROWTH)}", growth < BODY_GROWTH)
    for kind in KINDS:
        await abort(view.address, kind, max(count // 10, 1))
        await view.rest()
        before = view.memory()
        await abort(view.address, kind, count)
        fds = await view.rest()
        growth = view.memory() - before
        what = f"outside: {count:,} {kind} aborted"
        tell(what, f"{fds} descriptors", f"{fresh} descriptors", fds <= fresh)
        tell(what, f"memory {_mib(growth)}", f"< {_mib(LEFT_BEHIND)}", growth < LEFT_BEHIND)


def _mib(growth: int) -> str:
    return f"{growth / MIB:+.1f} MiB"


# --- the whole ---

_ROW = "| {:<42} | {:<37} | {:<37} | {:<4} |"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print what was found as it is found."""
    parser = argparse.ArgumentParser(
        description="Measure what bodies cost the proxy, and what those who leave in the middle leave behind."
    )
    parser.add_argument("--count", type=int, default=10_000, help="visitors of each kind (%(default)s)")
    parser.add_argument("--size", type=int, default=1024, help="MiB of a body (%(default)s)")
    parser.add_argument("--origin", action="store_true", help="be the origin, on $PORT (it calls itself)")
    given = parser.parse_args(arguments)
    if given.origin:
        trio.run(partial(trio.serve_tcp, serve, int(os.environ["PORT"]), host="127.0.0.1"))
        return 0
    logging.basicConfig()
    kept: list[bool] = []

    def tell(what: str, found: str, bound: str, is_kept: bool) -> None:  # noqa: FBT001 - a row of a table
        kept.append(is_kept)
        print(_ROW.format(what, found, bound, "yes" if is_kept else "NO"), flush=True)

    versions = ", ".join(f"{name} {version(name)}" for name in ("trio", "h11", "wsproto"))
    print(f"Python {platform.python_version()}, {versions}, {platform.system()} {platform.release()}\n")
    print(_ROW.format("what", "found", "bound", "kept"))
    print(_ROW.format(*("-" * width for width in (42, 37, 37, 4))))
    with _outside() as view:
        trio.run(_look_from_outside, view, given.count, given.size * MIB, tell)
    trio.run(_look_from_inside, given.count, tell)
    return 0 if all(kept) else 1


if __name__ == "__main__":
    sys.exit(main())
