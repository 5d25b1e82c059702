"""The parts of a message's head that an intermediary forwards, and those that it adds.

The rest stays as received: order, duplicates, case of names and reason phrases. Only fields that belong to
one connection are removed (RFC 9110 7.6.1).

Not here: input and output, bodies, which hosts are served (`hosts`), which upstream is asked (`route`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra.hosts import match_host
from orchestra.proxy.head import tokens

if TYPE_CHECKING:
    from orchestra.proxy.head import RequestHead, ResponseHead

__all__ = ["Peer", "forwarded_request", "forwarded_response"]

_OWN_NAME = b"orchestra"
# Once is normal, twice may be two nested projects; five times the same name is a loop.
MAX_VIA = 5

_HOP_BY_HOP = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"}
)
# A sender must not declare these hop-by-hop (RFC 9110 7.6.1): removing them would change the message's
# meaning. Nor may it hide the clients before it, which decide about access to local endpoints.
_NEVER_HOP_BY_HOP = frozenset({b"host", b"content-length", b"x-forwarded-for"})
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


class Peer(Struct, frozen=True):
    """The other end of a client's connection.

    Attributes:
        address: The client's address, without a port.
        port: Our port, at which the connection arrived.
    """

    address: str
    port: int


def keeps_alive(head: RequestHead | ResponseHead) -> bool:
    """Whether the sender's connection may carry another message after this one."""
    connection = head.values.get(b"connection")
    return head.version == b"1.1" and (connection is None or b"close" not in tokens(connection))


def forwarded_request(head: RequestHead, peer: Peer, *, upgrade: bool = False) -> bytes:
    """Return the head for the upstream: the same request, with the fields that a gateway adds.

    Only the ``Upgrade`` of a WebSocket's handshake passes.
    """
    values = head.values
    dropped = _dropped(values.get(b"connection"), _DROPPED_FROM_REQUESTS)
    if head.version == b"1.0":
        # A 100 could not be passed on to an HTTP/1.0 client (RFC 9110 10.1.1).
        dropped |= {b"expect"}
    lines = _passing(head, dropped)
    host = head.host or b"localhost:%d" % peer.port
    if b"host" not in values:
        lines.insert(1, b"Host: " + host)
    client, rest = _additions(host, peer.address)
    if b"x-forwarded-for" in values:
        # Appended to the last one.
        last = max(at for at, line in enumerate(lines) if line[:16].lower() == b"x-forwarded-for:")
        lines[last] += (b"" if lines[last].endswith(b": ") else b", ") + client.partition(b": ")[2]
    else:
        lines.append(client)
    if upgrade:
        lines += _UPGRADE
    elif head.is_chunked:
        lines.append(b"Transfer-Encoding: chunked")
    lines.append(rest)
    return b"\r\n".join(lines)


@lru_cache(maxsize=64)
def _dropped(connection: bytes | None, always: frozenset[bytes]) -> frozenset[bytes]:
    """Return the names of dropped fields: `always`, and those that ``Connection`` names."""
    return always | (frozenset(tokens(connection or b"")) - _NEVER_HOP_BY_HOP)


@lru_cache(maxsize=64)
def _additions(host: bytes, address: str) -> tuple[bytes, bytes]:
    """Return ``X-Forwarded-For``, and the other lines that a request to `host` gets, up to the head's end."""
    match = match_host(host)
    others = (
        b"X-Forwarded-Host: " + host,
        b"X-Forwarded-Proto: http",
        b"X-Forwarded-Port: " + ((match and match[2]) or b"80"),
        b"Via: 1.1 " + _OWN_NAME,
        b"\r\n",
    )
    return b"X-Forwarded-For: " + address.encode("ascii", "replace"), b"\r\n".join(others)


def _passing(head: RequestHead | ResponseHead, dropped: frozenset[bytes]) -> list[bytes]:
    lines, values = [head.start, *head.lines], head.values
    found = dropped.intersection(values)
    if not found:
        return lines
    if len(values) != len(lines) - 1:
        return lines[:1] + [line for line in head.lines if line.partition(b":")[0].lower() not in dropped]
    # Usually one or two; a loop over all fields would take twice as long.
    names = [b"", *values]
    for name in found:
        index = names.index(name)
        del lines[index], names[index]
    return lines


def forwarded_response(
    head: ResponseHead,
    upstream: str,
    *,
    upgrade: bool = False,
    has_chunks: bool = False,
    close: bool = False,
) -> bytes:
    """Return the head for the client.

    Args:
        head: As received, or our own.
        upstream: Its origin: ``backend``, ``frontend`` or ``orchestra``.
        upgrade: This is the 101 of a WebSocket.
        has_chunks: The client gets the body in chunks.
        close: The connection is closed afterwards.
    """
    is_informational = head.status < 200
    always = _DROPPED_FROM_INFORMATIONAL if is_informational else _DROPPED_FROM_ANSWERS
    dropped = _dropped(head.values.get(b"connection"), always)
    lines = _passing(head, dropped)
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


def dropped_trailers(head: RequestHead | ResponseHead) -> frozenset[bytes]:
    """Return the lower-case names of dropped trailers."""
    return _dropped(head.values.get(b"connection"), _FORBIDDEN_TRAILERS)


def times_passed(head: RequestHead) -> int:
    """Return how many times the request has come through an orchestra before; `MAX_VIA` times is a loop."""
    names = [token.split()[1:2] for token in tokens(head.values.get(b"via", b""))]
    return names.count([_OWN_NAME])
