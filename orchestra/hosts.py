"""Hosts and origins: which are ours, and which could be forged by a web page of another site.

Two checks keep foreign pages out: `host_refusal` (DNS rebinding) and `origin_refusal` (cross-site
WebSockets). Everything here is pure.

Not here: their callers (`proxy/route`, `proxy/websocket`), the further checks of our own paths
(`control/doors`).
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["host_refusal", "is_from_here", "is_loopback", "is_own_origin", "match_host", "origin_refusal"]

# We have no TLS.
_SCHEME = b"http"
_DEFAULT_PORT = b"80"

# The name and the port of a Host.
match_host = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::([0-9]{0,5}))?").fullmatch


@lru_cache(maxsize=256)
def host_refusal(host: bytes, allowed: tuple[str, ...]) -> str | None:
    """Say why a request with this ``Host`` is refused; ``None`` if it may pass.

    A web page of another site can make its own name point to this machine (DNS rebinding); its requests then
    carry that name. ``localhost``, its subdomains and literal addresses cannot be abused in this way.
    """
    match = match_host(host)
    name = _name(match[1] if match else host)
    if not host or _literal_address(name) is not None:
        return None
    for entry in map(str.lower, allowed):
        if name == entry or (entry.startswith(".") and f".{name}".endswith(entry)):
            return None
    return f'the Host "{name}" is not allowed; if it is yours, set [proxy] allowed_hosts = ["{name}"]'


def origin_refusal(origin: bytes | None, host: bytes, port: int, allowed: Sequence[str]) -> str | None:
    """Say why a WebSocket with this ``Origin`` may not be opened; ``None`` if it may.

    Allowed are our own origin (it equals `host`), one on loopback with our `port`, and those in `allowed`. A
    client that sends none is not a browser, and could send any.
    """
    if origin is None or is_own_origin(origin, host):
        return None
    text = origin.decode("latin-1").lower()
    if text in {entry.lower().removesuffix("/") for entry in allowed}:
        return None
    scheme, _, authority = origin.partition(b"://")
    match = match_host(authority)
    if match is None:
        return f'invalid Origin "{text}"'
    if (
        scheme.lower() == _SCHEME
        and is_loopback(_name(match[1]))
        and (match[2] or _DEFAULT_PORT) == b"%d" % port
    ):
        return None
    return f'the Origin "{text}" is not allowed; if it is yours, set [proxy] allowed_origins = ["{text}"]'


def is_own_origin(origin: bytes, host: bytes) -> bool:
    """Whether an origin has exactly our scheme, and the host and port of the ``Host``."""
    scheme, _, authority = origin.partition(b"://")
    place = _place(authority)
    return scheme.lower() == _SCHEME and place is not None and place == _place(host)


def is_from_here(host: bytes, addresses: Iterable[bytes]) -> bool:
    """Whether a request is for this machine, and from it: all addresses that it came from are on loopback.

    A foreign address in ``X-Forwarded-For`` means a tunnel.
    """
    match = match_host(host)
    return (
        match is not None
        and is_loopback(_name(match[1]))
        and all(is_loopback(_name(each.strip())) for each in addresses)
    )


def is_loopback(name: str) -> bool:
    """Whether a name, or a literal address, means this machine on its loopback interface."""
    address = _literal_address(name)
    if address is None:
        return False
    mapped = address.ipv4_mapped if address.version == 6 else None
    return (mapped or address).is_loopback


def _place(authority: bytes) -> tuple[bytes, bytes] | None:
    match = match_host(authority)
    return (match[1].lower(), match[2] or _DEFAULT_PORT) if match and match[1] else None


def _name(name: bytes) -> str:
    return name.decode("latin-1").lower().removesuffix(".")


def _literal_address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address of a name that needs no lookup: a literal one, or ``localhost``."""
    if name == "localhost" or name.endswith(".localhost"):
        return ipaddress.IPv4Address("127.0.0.1")
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None
