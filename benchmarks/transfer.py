"""Bodies, WebSockets and event streams: how fast they pass, and what many of them cost."""

from __future__ import annotations

import contextlib
import re
import socket
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING

from benchmarks.harness import MIB, Failed, Report, interleaved
from benchmarks.peers import Site, nginx_site, own_origin, program, serving
from benchmarks.rates import wrk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from benchmarks.harness import Options
    from benchmarks.peers import Served

__all__ = [
    "bodies",
    "download",
    "event_stream",
    "ping_pong",
    "streams",
    "upload",
    "websocket",
    "websocket_to",
]

# Anything that is answered is answered within that.
PATIENCE = 60.0
MANY = 1000
# What is compared where many connections are open: a few say enough.
_FEW = ("orchestra", "nginx", "node")


@contextlib.contextmanager
def _asked(port: int, target: str, *fields: str, method: str = "GET") -> Iterator[socket.socket]:
    """Send a request's head on a connection of its own."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        head = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{port}", *fields, "", ""]
        sock.sendall("\r\n".join(head).encode())
        yield sock


def _answer(sock: socket.socket, status: int) -> bytes:
    """Read an answer's head; return what came of its body with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise Failed(f"the connection ended after {data[:80]!r}")
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    if int(head.split(b" ", 2)[1]) != status:
        raise Failed(f"answered {head[:80]!r} instead of {status}")
    return rest


# --- bodies ---


def download(port: int, size: int) -> None:
    """Ask for a body of so many bytes, and count what comes."""
    with _asked(port, f"/give?{size}") as sock:
        got = len(_answer(sock, 200))
        buffer = memoryview(bytearray(MIB))
        # With chunks, there is their framing, too.
        while got < size:
            more = sock.recv_into(buffer)
            if not more:
                raise Failed(f"of {size} bytes {got} came")
            got += more


def upload(port: int, size: int) -> None:
    """Send a body of so many bytes, and have it confirmed that all of it arrived."""
    piece = bytes(MIB)
    with _asked(port, "/swallow", f"Content-Length: {size}", method="POST") as sock:
        for _ in range(size // MIB):
            sock.sendall(piece)
        said = _answer(sock, 200)
        while str(size).encode() not in said:
            more = sock.recv(65536)
            if not more:
                raise Failed(f"an upload of {size} bytes was answered by {said[:80]!r}")
            said += more


def bodies(options: Options) -> Report:
    """Measure large bodies both ways."""
    report, size = Report(), options.pick(256, 16) * MIB

    def measure(served: Mapping[str, Served], name: str) -> dict[str, float]:
        peer, figures = served[name], {}
        ways: Mapping[str, Callable[[int, int], None]] = {"down": download, "up": upload}
        for way, pass_body in ways.items():
            before, begun = peer.cpu(), time.perf_counter()
            pass_body(peer.port, size)
            figures[f"MB/s {way}"] = size / 1e6 / (time.perf_counter() - begun)
            if peer.running:
                figures[f"CPU ms/100 MB {way}"] = (peer.cpu() - before) * 1000 / (size / 1e8)
        return figures

    with serving(Site(own_origin), "bodies", options) as served:
        found = interleaved(served, partial(measure, served), rounds=options.round_count(7))
    units = [f"{what} {way}" for way in ("down", "up") for what in ("MB/s", "CPU ms/100 MB")]
    report.compare(f"bodies of {size // MIB} MiB", found, dict.fromkeys(units, "{:,.0f}"))
    return report


# --- WebSockets ---


def _frame(size: int, *, is_masked: bool) -> bytes:
    """Return a binary message; its mask changes nothing."""
    mask = 0x80 if is_masked else 0
    if size < 126:
        head = bytes([0x82, mask | size])
    elif size < 65536:
        head = bytes([0x82, mask | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x82, mask | 127]) + size.to_bytes(8, "big")
    return head + bytes(4 if is_masked else 0) + b"x" * size


@contextlib.contextmanager
def websocket_to(port: int) -> Iterator[socket.socket]:
    """Open a WebSocket that echoes."""
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13")
    with _asked(port, "/ws", *fields, "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==") as sock:
        if _answer(sock, 101):
            raise Failed("a WebSocket spoke first")
        yield sock


def ping_pong(port: int, size: int, window: int, seconds: float) -> float:
    """Have messages echoed, `window` of them on their way at a time; return how many a second."""
    message, echo = _frame(size, is_masked=True), len(_frame(size, is_masked=False))
    buffer = memoryview(bytearray(max(MIB, echo)))
    with websocket_to(port) as sock:
        count, got, begun = 0, 0, time.perf_counter()
        sock.sendall(message * window)
        while time.perf_counter() - begun < seconds:
            more = sock.recv_into(buffer)
            if not more:
                raise Failed(f"a WebSocket ended after {count} messages")
            whole, got = divmod(got + more, echo)
            if whole:
                count += whole
                sock.sendall(message * whole)
        return count / (time.perf_counter() - begun)


def websocket(options: Options) -> Report:
    """Measure small messages one by one and many at a time, and large ones."""
    report, seconds = Report(), options.pick(1.5, 0.5)
    kinds = {
        "64 B ping-pong/s": (64, 1),
        "64 B, window of 64, messages/s": (64, 64),
        "1 MiB messages/s": (MIB, 1),
    }

    def measure(served: Mapping[str, Served], name: str) -> dict[str, float]:
        return {what: ping_pong(served[name].port, *kind, seconds) for what, kind in kinds.items()}

    with serving(Site(own_origin), "websocket", options) as served:
        found = interleaved(served, partial(measure, served), rounds=options.round_count(7))
    report.compare("WebSocket", found, dict.fromkeys(kinds, "{:,.0f}"))
    return report


# --- event streams, and many connections ---


def _latency(served: Mapping[str, Served], seconds: float, name: str) -> dict[str, float]:
    """Have an event every 10 ms, and see how old each is when it arrives."""
    ages: list[float] = []
    with _asked(served[name].port, "/events?10") as sock:
        _answer(sock, 200)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            data = sock.recv(65536)
            if not data:
                raise Failed("an event stream ended")
            ages += [(time.monotonic_ns() - int(sent)) / 1000 for sent in re.findall(rb"data: (\d+)\n", data)]
    return {"p50 µs": statistics.median(ages), "p99 µs": statistics.quantiles(ages, n=100)[98]}


@contextlib.contextmanager
def event_stream(port: int) -> Iterator[socket.socket]:
    """Open an event stream that says one thing."""
    with _asked(port, "/events?0") as sock:
        data = _answer(sock, 200)
        while b"data:" not in data:
            data = sock.recv(4096)
            if not data:
                raise Failed("an event stream ended at once")
        yield sock


def _many(served: Mapping[str, Served], seconds: float, name: str) -> dict[str, float]:
    """Open many quiet streams of each kind, and see what they cost."""
    peer, figures = served[name], {}
    if peer.running is None:
        return {}
    for kind, stream in (("event stream", event_stream), ("WebSocket", websocket_to)):
        before = peer.running.pss()
        with contextlib.ExitStack() as stack:
            for _ in range(MANY):
                stack.enter_context(stream(peer.port))
            figures[f"KiB/{kind}"] = (peer.running.pss() - before) * 1024 / MANY
            cpu = peer.cpu()
            time.sleep(seconds)
            figures[f"% CPU, {kind}s"] = (peer.cpu() - cpu) / seconds * 100
    return figures


def _grown(served: Mapping[str, Served], counts: Sequence[int], seconds: int, name: str) -> dict[str, float]:
    peer, figures = served[name], {}
    for connections in counts:
        rate = wrk(peer.port, "/api/items/1", connections=connections, seconds=seconds).rate
        figures[f"{connections:,}"] = rate
    if peer.running:
        figures["MiB afterwards"] = peer.running.pss()
    return figures


def streams(options: Options) -> Report:
    """Measure how late events arrive, what a thousand quiet streams cost, and what more connections do."""
    program("wrk")
    report, seconds = Report(), options.pick(3, 1)
    with serving(Site(own_origin), "events", options) as served:
        found = interleaved(served, partial(_latency, served, seconds), rounds=options.round_count(5))
        report.compare(
            "event stream, an event every 10 ms", found, dict.fromkeys(("p50 µs", "p99 µs"), "{:,.0f}")
        )
        few = [name for name in served if name in _FEW]
        found = interleaved(few, partial(_many, served, seconds), rounds=options.round_count(3))
        units = {f"KiB/{kind}": "{:.1f}" for kind in ("event stream", "WebSocket")}
        units |= {f"% CPU, {kind}s": "{:.1f}" for kind in ("event stream", "WebSocket")}
        report.compare(f"{MANY:,} quiet event streams, then {MANY:,} quiet WebSockets", found, units)
    with serving(nginx_site(), "api", options, only=_FEW) as served:
        counts = (1, 10, 100, 1000)
        found = interleaved(
            served, partial(_grown, served, counts, options.pick(2, 1)), rounds=options.round_count(3)
        )
        units = {f"{count:,}": "{:,.0f}" for count in counts}
        report.compare("requests/s with more connections", found, {**units, "MiB afterwards": "{:.0f}"})
    return report
