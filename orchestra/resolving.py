"""What an address means to the system: the places where a socket can connect to it, in order."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from orchestra.config.plan import Address

__all__ = ["LOOPBACK", "places"]

LOOPBACK = ("127.0.0.1", "::1")


async def places(address: Address) -> list[tuple[int, int, Any]]:
    """Give family, kind and place of a socket for each place that an address means.

    Raises:
        OSError: There is no such host.
    """
    if address.scheme == "unix":
        return [(socket.AF_UNIX, socket.SOCK_STREAM, address.host)]
    found: list[tuple[int, int, Any]] = []
    # Servers on localhost listen on either, often on one alone.
    for name in LOOPBACK if address.host == "localhost" else (address.host,):
        resolved = await trio.socket.getaddrinfo(name, address.port, type=socket.SOCK_STREAM)
        found += [(family, kind, place) for family, kind, _, _, place in resolved]
    return found
