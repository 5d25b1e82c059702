"""Bytes to and from a peer: the small protocol that everything above uses, and its form over TCP.

Strategy. Non-blocking sockets of the standard library with `trio.lowlevel.wait_readable`, because a
`trio.SocketStream` costs half as much again for each operation and a proxy does little else. A transport has
one reader and one writer at a time. Every receive waits for readability first: most often there is nothing
yet, and it makes each receive a checkpoint. A send tries first: most often there is room. Closing is
synchronous: nothing is awaited in a `finally`.

That a client has left while we wait for something else is told by `Hangups`: one more poller (epoll on Linux,
kqueue elsewhere) that holds every client's socket and is itself waited for by one task. A request costs
nothing for it: no task, no cancel scope, no system call.

Errors are those of the system (`OSError`) and of trio (`ClosedResourceError`, when we closed it ourselves);
`connection` gives them their meaning.

Not here: HTTP, limits, retries.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from typing import Protocol, TypeAlias

import trio
from trio.lowlevel import wait_readable, wait_writable

__all__ = ["HEAD_SIZE", "RECEIVE_SIZE", "Buffer", "Hangups", "SocketTransport", "Transport", "accept", "dial"]

Buffer: TypeAlias = bytes | bytearray | memoryview
# Called with whether the peer has reset the connection.
OnHangup: TypeAlias = Callable[[bool], object]

# The most bytes of one receive: larger ones bring no more throughput.
RECEIVE_SIZE = 1048576
# The same while a head is awaited: malloc has such blocks at hand, larger ones come from the system.
HEAD_SIZE = 65536
# What is read and dropped before an orderly close, at most: this many receives of what is already there.
_DRAINED = 16
# Loopback answers in microseconds; this is for upstreams that run elsewhere behind a silent firewall.
DIAL_TIMEOUT = 10.0


class Transport(Protocol):
    """A connection to one peer."""

    async def receive_some(self, max_bytes: int = RECEIVE_SIZE) -> bytes:
        """Wait for bytes and return some; ``b""`` is the end."""
        ...

    async def send_all(self, data: Buffer) -> None:
        """Send everything; waits while the peer does not read (that is the only flow control there is)."""
        ...

    def send_eof(self) -> None:
        """Say that nothing more will be sent; receiving goes on."""
        ...

    def has_input(self) -> bool:
        """Whether a receive would not have to wait: bytes, the end, or an error."""
        ...

    def on_hangup(self, callback: OnHangup | None) -> None:
        """Call `callback`, once, when the peer has stopped sending or is gone; ``None`` takes it back."""
        ...

    def close(self) -> None:
        """End it in an orderly way; what was sent still arrives. A task that waits on it gets
        `trio.ClosedResourceError`.
        """  # noqa: D205 - one sentence does not fit
        ...

    def abort(self) -> None:
        """Close it so that the peer sees an error, not an end (a TCP reset)."""
        ...


class SocketTransport:
    """A connected TCP socket.

    Args:
        sock: Becomes ours, and non-blocking.
        hangups: Watches it while nothing reads; without one `on_hangup` has no effect.
    """

    __slots__ = ("_fd", "_hangups", "_input", "_size", "_sock")

    def __init__(self, sock: socket.socket, hangups: Hangups | None = None) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        # For trio a number is cheaper than a socket; -1 once it is closed.
        self._fd = sock.fileno()
        self._hangups = hangups
        self._size = HEAD_SIZE
        self._input = select.poll()
        self._input.register(self._fd, select.POLLIN)

    async def receive_some(self, max_bytes: int = RECEIVE_SIZE) -> bytes:
        """See `Transport.receive_some`."""
        while True:
            if self._fd < 0:
                raise trio.ClosedResourceError
            await wait_readable(self._fd)
            try:
                if max_bytes <= HEAD_SIZE:
                    return self._sock.recv(max_bytes)
                data = self._sock.recv(self._size)
            except (BlockingIOError, InterruptedError):
                continue
            if len(data) == self._size < RECEIVE_SIZE:
                # There is more: a body, and not one of the many small messages.
                self._size *= 2
            return data

    async def send_all(self, data: Buffer) -> None:
        """See `Transport.send_all`."""
        if self._fd < 0:
            raise trio.ClosedResourceError
        try:
            sent = self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(data):
            await self._send_rest(data, sent)

    async def _send_rest(self, data: Buffer, sent: int) -> None:
        with memoryview(data) as view:
            while sent < len(view):
                if self._fd < 0:
                    raise trio.ClosedResourceError
                await wait_writable(self._fd)
                with contextlib.suppress(BlockingIOError, InterruptedError):
                    sent += self._sock.send(view[sent:])

    def send_eof(self) -> None:
        """See `Transport.send_eof`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def has_input(self) -> bool:
        """See `Transport.has_input`."""
        # A look at what is there would be an exception where nothing is, which costs three times as much.
        return self._fd < 0 or bool(self._input.poll(0))

    def on_hangup(self, callback: OnHangup | None) -> None:
        """See `Transport.on_hangup`."""
        if self._hangups is None or self._fd < 0:
            return
        if callback is None:
            self._hangups.forget(self._fd)
        else:
            self._hangups.watch(self._fd, callback)

    def close(self) -> None:
        """See `Transport.close`."""
        if self._fd >= 0:
            # A close with bytes unread is a reset, which ends servers that do not handle it (Vite).
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)
                for _ in range(_DRAINED):
                    if not self._sock.recv(HEAD_SIZE):
                        break
            self._close()

    def abort(self) -> None:
        """See `Transport.abort`."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._close()

    def _close(self) -> None:
        if self._hangups is not None:
            self._hangups.forget(self._fd)
        trio.lowlevel.notify_closing(self._fd)
        self._fd = -1
        self._sock.close()


class Hangups:
    """Tells at once when a peer hangs up while nothing reads from it.

    Resource handling: `close` it after its sockets; `run` then no longer works.
    """

    def __init__(self) -> None:
        self._callbacks: dict[int, OnHangup] = {}
        self._poller = _Poller()

    def watch(self, fd: int, callback: OnHangup) -> None:
        """Call `callback` once when the peer of `fd` has stopped sending or is gone."""
        if fd not in self._callbacks:
            self._poller.add(fd)
        self._callbacks[fd] = callback

    def forget(self, fd: int) -> None:
        """Watch `fd` no longer; has to come before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            self._poller.remove(fd)

    async def run(self) -> None:
        """Tell, until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._poller.fileno())
            for fd, is_reset in self._poller.hung_up():
                self._tell(fd, is_reset)

    def _tell(self, fd: int, is_reset: bool) -> None:  # noqa: FBT001 - by position
        # Not in `run`, whose variables would keep a connection alive until the next one hangs up.
        callback = self._callbacks.pop(fd, None)
        if callback is not None:
            self._poller.remove(fd)
            callback(is_reset)

    def close(self) -> None:
        """Give the poller back to the system."""
        self._callbacks.clear()
        trio.lowlevel.notify_closing(self._poller.fileno())
        self._poller.close()


if sys.platform == "linux":

    class _Poller:
        """Which of these sockets have an end to read, or an error: epoll."""

        def __init__(self) -> None:
            self._epoll = select.epoll()

        def fileno(self) -> int:
            return self._epoll.fileno()

        def add(self, fd: int) -> None:
            self._epoll.register(fd, select.EPOLLRDHUP)

        def remove(self, fd: int) -> None:
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(fd)

        def hung_up(self) -> list[tuple[int, bool]]:
            return [(fd, bool(flags & select.EPOLLERR)) for fd, flags in self._epoll.poll(0)]

        def close(self) -> None:
            self._epoll.close()

else:

    class _Poller:
        """Which of these sockets have an end to read, or an error: kqueue."""

        def __init__(self) -> None:
            self._kqueue = select.kqueue()

        def fileno(self) -> int:
            return self._kqueue.fileno()

        def add(self, fd: int) -> None:
            # Edge-triggered: bytes that are not read yet wake us once, not for ever.
            flags = select.KQ_EV_ADD | select.KQ_EV_CLEAR
            self._kqueue.control([select.kevent(fd, select.KQ_FILTER_READ, flags)], 0)

        def remove(self, fd: int) -> None:
            with contextlib.suppress(OSError, ValueError):
                self._kqueue.control([select.kevent(fd, select.KQ_FILTER_READ, select.KQ_EV_DELETE)], 0)

        def hung_up(self) -> list[tuple[int, bool]]:
            events = self._kqueue.control(None, 64, 0)
            # fflags holds the socket's error, if there is one.
            return [(event.ident, bool(event.fflags)) for event in events if event.flags & select.KQ_EV_EOF]

        def close(self) -> None:
            self._kqueue.close()


async def dial(host: str, port: int) -> SocketTransport:
    """Connect to a literal address, or to all that a name means, in the order that the system prefers.

    Raises:
        OSError: Nothing listens there; of several attempts, the last one's.
    """
    with trio.move_on_after(DIAL_TIMEOUT):
        failure: OSError = OSError(errno.EADDRNOTAVAIL, f"no address for {host}")
        for family, address in await _addresses(host, port):
            try:
                return SocketTransport(await _connected(family, address))
            except OSError as exc:
                failure = exc
        raise failure
    raise TimeoutError(errno.ETIMEDOUT, f"no answer from {host}:{port} within {DIAL_TIMEOUT:g} s")


async def _addresses(host: str, port: int) -> list[tuple[int, tuple[object, ...]]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return [(family, (host, port))]
    if host == "localhost":
        # Servers listen on either, often on one alone.
        return [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port))]
    found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in found]


async def _connected(family: int, address: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        error = sock.connect_ex(address)
        if error == errno.EINPROGRESS:
            await trio.lowlevel.wait_writable(sock)
            error = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    except BaseException:
        sock.close()
        raise
    if error:
        sock.close()
        # OSError itself picks the class that belongs to the number.
        raise OSError(error, os.strerror(error))
    return sock


async def accept(listener: socket.socket) -> tuple[socket.socket, tuple[str, int]]:
    """Wait for a connection.

    Returns:
        Its socket, and the peer's address and port.

    Raises:
        OSError: The system cannot give us one (most often: no descriptors are left).
    """
    while True:
        await trio.lowlevel.wait_readable(listener)
        try:
            sock, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            continue
        return sock, (str(address[0]), int(address[1]))
