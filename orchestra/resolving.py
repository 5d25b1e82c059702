"""Resolves an address into those that a socket can connect to, in order."""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from orchestra.config.plan import Address

__all__ = ["LOOPBACK", "connected", "places"]

LOOPBACK = ("127.0.0.1", "::1")
# Seconds between two attempts at a unix socket whose queue is full: it accepts some per millisecond.
_BUSY_PAUSE = 0.01


async def places(address: Address) -> list[tuple[int, int, Any]]:
    """Give family, type and socket address for each meaning of an address; `OSError` without such a host."""
    if address.scheme == "unix":
        return [(socket.AF_UNIX, socket.SOCK_STREAM, address.host)]
    found: list[tuple[int, int, Any]] = []
    # Servers on localhost listen on either, often on one alone.
    for name in LOOPBACK if address.host == "localhost" else (address.host,):
        resolved = await trio.socket.getaddrinfo(name, address.port, type=socket.SOCK_STREAM)
        found += [(family, kind, place) for family, kind, _, _, place in resolved]
    return found


async def connected(address: Address) -> trio.socket.SocketType:
    """Connect to the first of them that accepts, or raise `OSError`; a busy unix socket is waited for."""
    failure = OSError(errno.EADDRNOTAVAIL, f"no address for {address.host}")
    for family, kind, place in await places(address):
        sock = trio.socket.socket(family, kind)
        try:
            await sock.connect(place)
            # TCP waits by itself; for a unix socket "try again" looks like success to trio.
            while family == socket.AF_UNIX and not _has_peer(sock):
                await trio.sleep(_BUSY_PAUSE)
                await sock.connect(place)
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure


def _has_peer(sock: trio.socket.SocketType) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True
