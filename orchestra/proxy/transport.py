"""Bytes to and from a peer: the small protocol that everything above uses, and its form over TCP.

Strategy. Non-blocking sockets of the standard library. All of them are held by one `Poller` (epoll on Linux,
kqueue elsewhere), which one task waits for, and which notifies each transport that has something to receive.
A socket is registered once, not for each wait, and the callback may be a plain function (`on_input`): waking
a task costs several times as much. A transport has one reader, a task or a function, and one writer at a
time. A send tries first: usually there is room. Closing is synchronous: nothing is awaited in a `finally`.

The same poller reports that a client has left while we wait for something else (`on_hangup`).

Errors are those of the system (`OSError`) and of trio (`ClosedResourceError`, when we closed it ourselves);
`connection` gives them their meaning.

Not here: HTTP, limits, retries.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

import trio
from trio.lowlevel import wait_readable, wait_writable

from orchestra.resolving import connected

if TYPE_CHECKING:
    from orchestra.config.plan import Address

__all__ = ["HEAD_SIZE", "RECEIVE_SIZE", "Buffer", "Poller", "SocketTransport", "Transport", "accept", "dial"]

Buffer: TypeAlias = bytes | bytearray | memoryview
OnInput: TypeAlias = Callable[[], object]
# Called with whether the peer has reset the connection.
OnHangup: TypeAlias = Callable[[bool], object]

# The most bytes of one receive: larger ones do not improve throughput.
RECEIVE_SIZE = 1048576
# The same while a head is awaited: malloc has such blocks available, larger ones come from the system.
HEAD_SIZE = 65536
# The most that is read and dropped before an orderly close: so many receives of available bytes.
_DRAINED = 16
# Loopback answers in microseconds; this is for upstreams that run elsewhere behind a silent firewall.
DIAL_TIMEOUT = 10.0
# Sockets that the poller notifies at once, and how often, before other tasks have their turn: work for one
# takes some 25 microseconds, and nothing else should wait for longer than 1 or 2 milliseconds.
_BATCH = 16
_ROUNDS = 4
# The poller's events, in epoll's numbers: input, the end, an error.
_INPUT, _ERROR, _END = 0x1, 0x8, 0x2018
# The events that it requests: input and the end, each once when it is new (EPOLLIN, EPOLLRDHUP, EPOLLET).
_WANTED = 0x80002001


class Transport(Protocol):
    """A connection to one peer."""

    def take_some(self, max_bytes: int = RECEIVE_SIZE) -> bytes | None:
        """Return available bytes, without waiting: ``None`` if there are none, ``b""`` at the end."""

    async def send_all(self, data: Buffer) -> None:
        """Send everything; waits while the peer does not read (that is the only flow control)."""

    def send_some(self, data: Buffer) -> int:
        """Send as much as there is room for, without waiting; return the number of bytes."""

    def send_eof(self) -> None:
        """Half-close: send nothing more; receiving goes on."""

    def has_input(self) -> bool:
        """Whether `take_some` has a result: bytes, the end, or an error."""

    def on_input(self, callback: OnInput | None) -> None:
        """Call `callback`, which must not raise, once, when there is input; ``None`` unsets it."""

    def on_hangup(self, callback: OnHangup | None) -> None:
        """Call `callback`, once, when the peer has stopped sending or is gone; ``None`` unsets it."""

    def close(self) -> None:
        """Close it gracefully: sent bytes still arrive; a waiting task gets `trio.ClosedResourceError`."""

    def abort(self) -> None:
        """Close it so that the peer sees an error, not an end (a TCP reset)."""


class SocketTransport:
    """A connected TCP socket, which becomes ours and non-blocking; the poller notifies it."""

    __slots__ = ("_end_events", "_fd", "_is_readable", "_on_hangup", "_on_input", "_poller", "_size", "_sock")

    def __init__(self, sock: socket.socket, poller: Poller) -> None:
        sock.setblocking(False)
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        # A number is cheaper for trio than a socket; -1 once it is closed.
        self._fd = sock.fileno()
        self._size = HEAD_SIZE
        # The poller only reports new events, so they are remembered until they are handled; our own close is
        # remembered for good.
        self._is_readable = False
        self._end_events = 0
        self._on_input: OnInput | None = None
        self._on_hangup: OnHangup | None = None
        self._poller = poller
        poller.add(self._fd, self._look)

    def _look(self, events: int) -> None:
        self._is_readable = True
        if events & _END:
            self._end_events |= events
            if self._on_hangup is not None:
                on_hangup, self._on_hangup = self._on_hangup, None
                on_hangup(bool(events & _ERROR))
                return
        if (on_input := self._on_input) is not None:
            self._on_input = None
            on_input()

    def take_some(self, max_bytes: int = RECEIVE_SIZE) -> bytes | None:
        """See `Transport.take_some`."""
        if self._fd < 0:
            raise trio.ClosedResourceError
        size = min(max_bytes, self._size)
        try:
            data = self._sock.recv(size)
        except (BlockingIOError, InterruptedError):
            self._is_readable = False
            return None
        if len(data) < size:
            # No more bytes are available; an end is not reported again.
            self._is_readable = self._end_events > 0
        elif size == self._size < RECEIVE_SIZE:
            # There are more: a body, and not one of the many small messages.
            self._size *= 2
        return data

    async def send_all(self, data: Buffer) -> None:
        """See `Transport.send_all`."""
        sent = self.send_some(data)
        if sent < len(data):
            with memoryview(data) as view:
                while sent < len(view):
                    await wait_writable(self._fd)
                    sent += self.send_some(view[sent:])

    def send_some(self, data: Buffer) -> int:
        """See `Transport.send_some`."""
        if self._fd < 0:
            raise trio.ClosedResourceError
        try:
            return self._sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0

    def send_eof(self) -> None:
        """See `Transport.send_eof`."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def has_input(self) -> bool:
        """See `Transport.has_input`."""
        return self._is_readable

    def on_input(self, callback: OnInput | None) -> None:
        """See `Transport.on_input`."""
        self._on_input = callback
        if callback is not None and self._is_readable:
            # Not at once: a source that always has more would never let others have their turn.
            self._poller.notify_again(self._fd, self._look)

    def on_hangup(self, callback: OnHangup | None) -> None:
        """See `Transport.on_hangup`."""
        self._on_hangup = callback
        if callback is not None and self._end_events:
            self._look(self._end_events)

    def close(self) -> None:
        """See `Transport.close`."""
        if self._fd >= 0:
            # A close with unread bytes is a reset, which ends servers that do not handle it (Vite).
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
        self._poller.remove(self._fd)
        trio.lowlevel.notify_closing(self._fd)
        self._fd = -1
        self._sock.close()
        self._on_hangup = None
        self._look(_INPUT)


class Poller:
    """Watches sockets, and notifies each of input, an end, or an error.

    Resource handling: `close` it after its sockets; `run` then no longer works.
    """

    def __init__(self) -> None:
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._set = _Set()

    def add(self, fd: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with each event of `fd`."""
        self._callbacks[fd] = callback
        self._set.register(fd, _WANTED)

    def notify_again(self, fd: int, callback: Callable[[int], None]) -> None:
        """Call `callback` with the last events of `fd` again, or without any if it is closed."""
        if fd >= 0:
            self._set.modify(fd, _WANTED)
        else:
            trio.lowlevel.current_trio_token().run_sync_soon(callback, _INPUT)

    def remove(self, fd: int) -> None:
        """Forget `fd`; required before it is closed."""
        if self._callbacks.pop(fd, None) is not None:
            with contextlib.suppress(OSError, ValueError):
                self._set.unregister(fd)

    async def run(self) -> None:
        """Notify sockets until cancelled."""
        while True:
            await wait_readable(self._set)
            # Handling one connection often causes events of another; a second wait would cost ten times as
            # much.
            for _ in range(_ROUNDS):
                if not self._notify_all():
                    break

    def _notify_all(self) -> int:
        # Not in `run`, whose variables would keep a connection alive until the next event of another one.
        all_events = self._set.poll(0, _BATCH)
        for fd, events in all_events:
            callback = self._callbacks.get(fd)
            if callback is not None:
                callback(events)
        return len(all_events)

    def close(self) -> None:
        """Return the poller to the system."""
        self._callbacks.clear()
        trio.lowlevel.notify_closing(self._set)
        self._set.close()


if sys.platform == "linux":
    _Set = select.epoll

else:

    class _Set:
        """The subset of epoll that the poller uses, built on kqueue."""

        def __init__(self) -> None:
            self._kqueue = select.kqueue()
            self.fileno = self._kqueue.fileno
            self.close = self._kqueue.close

        def register(self, fd: int, _wanted: int) -> None:
            self._change(fd, select.KQ_EV_ADD | select.KQ_EV_CLEAR)

        modify = register

        def unregister(self, fd: int) -> None:
            self._change(fd, select.KQ_EV_DELETE)

        def _change(self, fd: int, flags: int) -> None:
            self._kqueue.control([select.kevent(fd, select.KQ_FILTER_READ, flags)], 0)

        def poll(self, timeout: float, size: int) -> list[tuple[int, int]]:
            events = self._kqueue.control(None, size, timeout)
            return [(event.ident, self._in_words_of_epoll(event)) for event in events]

        def _in_words_of_epoll(self, event: select.kevent) -> int:
            if not event.flags & select.KQ_EV_EOF:
                return _INPUT
            # fflags holds the socket's error, if there is one.
            return _END if event.fflags else _END & ~_ERROR


async def dial(address: Address, poller: Poller) -> SocketTransport:
    """Connect to a unix socket, to a literal address, or to all addresses of a name in the system's order.

    `OSError`: nothing listens there; of several attempts, the error of the last one.
    """
    with trio.move_on_after(DIAL_TIMEOUT):
        with await connected(address) as sock:
            return SocketTransport(socket.socket(fileno=sock.detach()), poller)
    raise TimeoutError(errno.ETIMEDOUT, f"no answer from {address.url} within {DIAL_TIMEOUT:g} s")


async def accept(listener: socket.socket) -> tuple[socket.socket, str]:
    """Accept a connection; return its socket and the peer's address.

    `OSError`: the system refuses (usually no descriptors are left).
    """
    while True:
        with contextlib.suppress(InterruptedError, ConnectionAbortedError):
            try:
                # Often several connections arrive together.
                sock, address = listener.accept()
                return sock, str(address[0])
            except BlockingIOError:
                await wait_readable(listener)
