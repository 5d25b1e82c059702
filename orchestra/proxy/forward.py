"""What an intermediary passes on of a message's head, what it adds, and which hosts and origins it serves.

What passes does so as it came: order, duplicates, case of names and reason phrases. Only fields that belong
to one connection are taken out (RFC 9110 7.6.1). Two gates keep foreign web pages out: `host_refusal` (DNS
rebinding) and `origin_refusal` (cross-site WebSockets).

Not here: input and output, bodies, which upstream is asked.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from orchestra.proxy.head import match_host, tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.proxy.head import Headers, RequestHead, ResponseHead

__all__ = ["Peer", "forwarded_request", "forwarded_response", "forwarded_trailers"]

VIA = b"1.1 orchestra"
# Once is normal, twice may be two nested projects; five times the same name is a loop.
MAX_VIA = 5

_HOP_BY_HOP = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"}
)
# A sender must not call these hop-by-hop (RFC 9110 7.6.1): removing them would change the message's meaning.
_NEVER_HOP_BY_HOP = frozenset({b"host", b"content-length"})
# Fields that we add ourselves: a client or an upstream cannot forge them.
_DROPPED_FROM_REQUESTS = _HOP_BY_HOP | {b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port"}
_DROPPED_FROM_ANSWERS = _HOP_BY_HOP | {b"x-orchestra-upstream"}
# An informational response has no body to have a length (RFC 9110 8.6).
_DROPPED_FROM_INFORMATIONAL = _DROPPED_FROM_ANSWERS | {b"content-length"}
# RFC 9110 6.5.1: framing, routing, authentication and content fields do not belong into trailers.
_FORBIDDEN_TRAILERS = _HOP_BY_HOP | frozenset(
    b"authorization cache-control content-encoding content-length content-range content-type cookie"
    b" expect host max-forwards pragma range set-cookie trailer".split()
)
_UPSTREAM = {
    name: b"X-Orchestra-Upstream: " + name.encode("ascii") for name in ("backend", "frontend", "orchestra")
}
_UPGRADE = (b"Connection: Upgrade", b"Upgrade: websocket")
# They name no field but those that are dropped anyway.
_ORDINARY_CONNECTIONS = frozenset(
    {b"keep-alive", b"close", b"upgrade", b"Upgrade", b"Keep-Alive", b"Close", b"keep-alive, Upgrade"}
)

_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


class Peer:
    """The other end of a client's connection.

    Args:
        address: The client's address, without a port; ``unknown`` where there is none (RFC 7239 6.2).
        port: Our port, at which the connection arrived.
    """

    __slots__ = ("_additions", "address", "port")

    def __init__(self, address: str, port: int) -> None:
        self.address = address.encode("ascii", "replace")
        self.port = port
        # What was added for the newest Host; a connection has one, as a rule.
        self._additions = (b"", b"")

    def additions(self, host: bytes) -> bytes:
        """Return the lines that a request to `host` gets, from ``X-Forwarded-For`` on."""
        if self._additions[0] != host or not host:
            match = match_host(host)
            port = (match and match[2]) or (b"80" if host else b"%d" % self.port)
            lines = (
                b"X-Forwarded-For: " + self.address,
                b"X-Forwarded-Host: " + (host or b"localhost:%d" % self.port),
                b"X-Forwarded-Proto: http",
                b"X-Forwarded-Port: " + port,
                b"Via: " + VIA,
            )
            self._additions = (host, b"\r\n".join(lines))
        return self._additions[1]


def keeps_alive(head: RequestHead | ResponseHead) -> bool:
    """Whether the sender's connection may bring another message after this one."""
    if head.version == b"1.0":
        return False
    connection = head.values.get(b"connection")
    return connection is None or connection == b"keep-alive" or b"close" not in tokens([connection])


def forwarded_request(head: RequestHead, peer: Peer, *, upgrade: bool = False) -> bytes:
    """Return the head that the upstream gets to see: the same request, with what a gateway adds to it.

    Args:
        head: As received.
        peer: Its sender.
        upgrade: This is a WebSocket's handshake: its ``Upgrade`` is the one that passes.
    """
    values = head.values
    dropped = _dropped(values, _DROPPED_FROM_REQUESTS)
    if head.version == b"1.0":
        # A 100 could not be passed on to it (RFC 9110 10.1.1).
        dropped |= {b"expect"}
    lines = [head.start]
    if b"host" not in values:
        lines.append(b"Host: " + (head.host or b"localhost:%d" % peer.port))
    additions = peer.additions(head.host)
    lines += _passing(head, dropped)
    if b"x-forwarded-for" in values and b"x-forwarded-for" not in dropped:
        _add_address(lines, peer.address)
        additions = additions.partition(b"\r\n")[2]
    lines.append(additions)
    if upgrade:
        lines += _UPGRADE
    elif head.is_chunked:
        lines.append(b"Transfer-Encoding: chunked")
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def _dropped(values: dict[bytes, bytes], always: frozenset[bytes]) -> frozenset[bytes]:
    connection = values.get(b"connection")
    if connection is None or connection in _ORDINARY_CONNECTIONS:
        return always
    return always | (frozenset(tokens([connection])) - _NEVER_HOP_BY_HOP)


def _passing(head: RequestHead | ResponseHead, dropped: frozenset[bytes]) -> list[bytes]:
    lines, values = head.lines, head.values
    found = dropped.intersection(values)
    if not found:
        return lines
    if len(values) != len(lines):
        return [line for line, (name, _) in zip(lines, head.fields, strict=True) if name not in dropped]
    # It is one or two, as a rule; a loop over all fields would take five times as long.
    lines, names = lines.copy(), list(values)
    for name in found:
        index = names.index(name)
        del lines[index], names[index]
    return lines


def _add_address(lines: list[bytes], address: bytes) -> None:
    """Put the client's address at the end of the last ``X-Forwarded-For``."""
    last = max(at for at, line in enumerate(lines) if line[:16].lower() == b"x-forwarded-for:")
    lines[last] += (b"" if lines[last].endswith(b": ") else b", ") + address


def forwarded_response(
    head: ResponseHead,
    upstream: str,
    *,
    upgrade: bool = False,
    has_chunks: bool = False,
    close: bool = False,
) -> bytes:
    """Return the head that the client gets to see.

    Args:
        head: As received, or our own.
        upstream: What it comes from: ``backend``, ``frontend`` or ``orchestra``.
        upgrade: This is the 101 of a WebSocket.
        has_chunks: The client gets the body in chunks.
        close: The connection is closed afterwards.
    """
    is_informational = head.status < 200
    dropped = _dropped(
        head.values, _DROPPED_FROM_INFORMATIONAL if is_informational else _DROPPED_FROM_ANSWERS
    )
    lines = [head.start, *_passing(head, dropped)]
    if not is_informational or upgrade:
        lines.append(_UPSTREAM[upstream])
    if upgrade:
        lines += _UPGRADE
    if has_chunks:
        lines.append(b"Transfer-Encoding: chunked")
    if close:
        lines.append(b"Connection: close")
    lines.append(b"\r\n")
    return b"\r\n".join(lines)


def forwarded_trailers(trailers: Headers, dropped: frozenset[bytes] = frozenset()) -> Headers:
    """Return the trailer fields that may pass: nothing that frames, routes or authorises (RFC 9110 6.5.1)."""
    dropped |= _FORBIDDEN_TRAILERS
    return [(name, value) for name, value in trailers if name.lower() not in dropped]


def is_looping(head: RequestHead) -> bool:
    """Whether the request has come through us so often that it must be going round in a loop."""
    if b"via" not in head.values:
        return False
    ours = VIA.partition(b" ")[2]
    seen = [token for token in tokens(head.all(b"via")) if token.split()[1:2] == [ours]]
    return len(seen) >= MAX_VIA


# --- WebSockets and the two gates ----------------------------------------------------------------------


def websocket_fault(head: RequestHead) -> tuple[int, str] | None:
    """Say what is wrong with a request that asks for a WebSocket: a status and words; ``None`` if nothing is.

    RFC 6455 4.2.1.
    """
    if head.method != b"GET" or head.version != b"1.1" or head.has_body:
        return 400, "a WebSocket begins with an HTTP/1.1 GET without a body"
    if not head.has_token(b"connection", b"upgrade"):
        return 400, "Connection: Upgrade is missing"
    if head.all(b"sec-websocket-version") != [b"13"]:
        return 426, "only version 13 of the WebSocket protocol exists"
    keys = head.all(b"sec-websocket-key")
    if len(keys) != 1 or _WEBSOCKET_KEY.fullmatch(keys[0]) is None:
        return 400, "Sec-WebSocket-Key is missing or illegal"
    return None


@lru_cache(maxsize=256)
def host_refusal(host: bytes, allowed: tuple[str, ...]) -> str | None:
    """Say why a request with this ``Host`` is refused; ``None`` if it may pass.

    A web page of another site can make its own name point to this machine (DNS rebinding); its requests then
    carry that name. ``localhost``, its subdomains and literal addresses cannot be used so.
    """
    match = match_host(host)
    name = (match[1] if match else host).decode("latin-1").lower().removesuffix(".")
    if not host or _is_localhost(name) or _address(name) is not None:
        return None
    for entry in map(str.lower, allowed):
        if name == entry or (entry.startswith(".") and name.endswith(entry)):
            return None
    return f'the Host "{name}" is not allowed; if it is yours, set [proxy] allowed_hosts = ["{name}"]'


def origin_refusal(origin: bytes | None, host: bytes, port: int, allowed: Sequence[str]) -> str | None:
    """Say why a WebSocket with this ``Origin`` may not be opened; ``None`` if it may.

    Our own origin may (it equals `host`), one on loopback with our `port`, and one that is `allowed`. A
    client that sends none is no browser, and could send any.
    """
    if origin is None:
        return None
    text = origin.decode("latin-1").lower()
    if text in {entry.lower().removesuffix("/") for entry in allowed}:
        return None
    try:
        parts = urlsplit(text)
        name, number = parts.hostname or "", parts.port or 80
    except ValueError:
        return f'invalid Origin "{text}"'
    address = _address(name)
    is_local = _is_localhost(name) or (address is not None and address.is_loopback)
    is_ours = parts.netloc == host.decode("latin-1").lower() or (is_local and number == port)
    if parts.scheme == "http" and is_ours:
        return None
    return f'the Origin "{text}" is not allowed; if it is yours, set [proxy] allowed_origins = ["{text}"]'


def _is_localhost(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return None
