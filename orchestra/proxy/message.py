"""What an intermediary may believe of a message's head, and what it passes on.

Strategy. h11 parses leniently where a browser and a server may be lenient with one another; something that
stands between them may not, because two readers who disagree about where a message ends are how requests are
smuggled. Therefore the wire splits a head off its buffer, hands it to `judge_request` or `judge_response`
here, line by line, and lets h11 see only what has passed. What does not pass raises `BadMessage` with the
status that tells the sender best; nothing ambiguous is repaired, with two exceptions that the RFCs ask for:
one empty line before a request is ignored, and a target in absolute form is turned into origin form.

What goes on goes on as it came: order, duplicates, case of names and reason phrases. Only fields that belong
to one connection are taken out (RFC 9110 7.6.1), and `forwarded_request` adds what a gateway has to say about
itself. The two gates at the end keep foreign web pages out (DNS rebinding, cross-site WebSockets).

Never here: input or output, time, a decision about who is asked (`route.py`).
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "VIA",
    "BadMessage",
    "Headers",
    "Peer",
    "RequestHead",
    "ResponseHead",
    "end_of_head",
    "fields",
    "forwarded_request",
    "forwarded_response",
    "forwarded_trailers",
    "has_token",
    "host_refusal",
    "is_bodiless",
    "is_looping",
    "is_obviously_no_request",
    "judge_request",
    "judge_response",
    "judge_trailer",
    "named_by_connection",
    "origin_refusal",
    "websocket_fault",
    "without_hop_by_hop",
]

Headers: TypeAlias = "list[tuple[bytes, bytes]]"

VIA = b"1.1 orchestra"
# Once is normal, twice may be two nested projects; five times the same name is a circle.
MAX_VIA = 5
# 2**63 has 19 digits: what is longer is no length but an attack on somebody's integer.
_MAX_LENGTH_DIGITS = 18

_HOP_BY_HOP = frozenset(
    {b"connection", b"proxy-connection", b"keep-alive", b"te", b"transfer-encoding", b"upgrade"}
)
# A sender must not call these hop-by-hop (RFC 9110 7.6.1): removing them would change the message's meaning.
_NEVER_HOP_BY_HOP = frozenset({b"host", b"content-length"})
# RFC 9110 6.5.1: framing, routing, authentication and content fields do not belong into trailers.
_FORBIDDEN_TRAILERS = _HOP_BY_HOP | {
    b"authorization",
    b"cache-control",
    b"content-encoding",
    b"content-length",
    b"content-range",
    b"content-type",
    b"cookie",
    b"expect",
    b"host",
    b"max-forwards",
    b"pragma",
    b"range",
    b"set-cookie",
    b"trailer",
}

# These are not dropped in silence: who sends them is up to something (RFC 9112 6.5).
_FRAMING_TRAILERS = frozenset({b"content-length", b"host", b"transfer-encoding"})

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_BLANK_LINE = re.compile(rb"\n\r?\n")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^ ]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_NAME = re.compile(_TOKEN)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BAD_IN_TARGET = re.compile(rb"[^\x21-\x7e]|[#\\]")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::([0-9]{0,5}))?")
_WEBSOCKET_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")


class BadMessage(Exception):  # noqa: N818 - it is the peer's message that is bad; the name says so
    """A message cannot be taken for what it claims to be.

    Attributes:
        status: What a client that sent it is told: 400, 431, 501 or 505. An upstream's fault is always 502.
    """

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a request that has passed.

    Attributes:
        target: In origin form, byte for byte as received, or ``*`` for ``OPTIONS``.
        headers: As received, in order.
        version: ``1.1`` or ``1.0``.
        host: The value of ``Host``; empty if an HTTP/1.0 client sent none.
        length: Of the body as its ``Content-Length`` says; ``None`` without one.
        is_chunked: Whether the body is chunked. Without `length` and chunks there is no body.
    """

    method: bytes
    target: bytes
    headers: Headers
    version: bytes = b"1.1"
    host: bytes = b""
    length: int | None = None
    is_chunked: bool = False

    @property
    def path(self) -> str:
        """The target without its query; what is no ASCII in it has been percent-encoded by the client."""
        return self.target.partition(b"?")[0].decode("ascii")

    @property
    def has_body(self) -> bool:
        """Whether a body follows, even if it may turn out to be empty."""
        return self.is_chunked or bool(self.length)

    def get(self, name: bytes) -> bytes | None:
        """Return the value of the first field called `name` (lower case)."""
        return next(iter(fields(self.headers, name)), None)


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of a response that has passed; `reason` is kept byte for byte, and may be empty."""

    status: int
    headers: Headers
    reason: bytes = b""
    version: bytes = b"1.1"
    length: int | None = None
    is_chunked: bool = False

    @property
    def is_informational(self) -> bool:
        """Whether a final response is still to come."""
        return self.status < 200

    @property
    def media_type(self) -> bytes:
        """The media type without its parameters, in lower case; empty if none is given."""
        return next(iter(fields(self.headers, b"content-type")), b"").partition(b";")[0].strip().lower()


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a client's connection, and where it arrived.

    Attributes:
        address: The client's address, without a port; ``unknown`` where there is none (RFC 7239 6.2).
        port: Of ours, that the connection arrived at.
    """

    address: str
    port: int


def fields(headers: Headers, name: bytes) -> list[bytes]:
    """Return the values of all fields called `name`, which is in lower case."""
    return [value for found, value in headers if found.lower() == name]


def has_token(headers: Headers, name: bytes, token: bytes) -> bool:
    """Whether the list-valued field `name` holds `token`; both are in lower case."""
    return token in _tokens(fields(headers, name))


def _tokens(values: Iterable[bytes]) -> list[bytes]:
    pieces = (piece.strip(b" \t").lower() for value in values for piece in value.split(b","))
    return [piece for piece in pieces if piece]


# --- Judging heads -------------------------------------------------------------------------------------


def end_of_head(buffer: bytearray, searched: int = 0) -> int:
    """Return where the head at the start of `buffer` ends, its empty line included; -1 while there is no end.

    Bare line feeds end a head here, too, so that the judge gets to see and refuse them; the peer is not kept
    waiting for an end that it believes to have sent. The first `searched` bytes are known to contain none.
    """
    match = _BLANK_LINE.search(buffer, max(0, searched - 2))
    return -1 if match is None else match.end()


def is_obviously_no_request(buffer: bytearray) -> bool:
    """Whether the first byte can begin no request: TLS to a port that speaks none, most of the time."""
    return bool(buffer) and _NAME.match(buffer, 0, 1) is None and not b"\r\n".startswith(bytes(buffer[:2]))


def judge_request(raw: bytes) -> RequestHead:
    """Read the head of a request, its empty line included.

    Raises:
        BadMessage: It is not strictly what RFC 9112 calls a request, or nothing that we serve.
    """
    lines = _lines(raw)
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise BadMessage("illegal request line")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise BadMessage("only HTTP/1.1 and HTTP/1.0 are spoken here", status=505)
    version = b"1." + minor
    if method == b"CONNECT":
        raise BadMessage("CONNECT is not served: this is no forward proxy", status=501)
    headers, lengths, codings = _headers(lines[1:])
    target, authority = _origin_form(method, target)
    host = _host(headers, version, authority)
    if codings:
        if version == b"1.0":
            raise BadMessage("Transfer-Encoding in HTTP/1.0")
        if lengths:
            raise BadMessage("Content-Length together with Transfer-Encoding")
        _only_chunked(codings)
    return RequestHead(method, target, headers, version, host, _length(lengths), bool(codings))


def judge_response(raw: bytes) -> ResponseHead:
    """Read the head of a response, its empty line included.

    Raises:
        BadMessage: It is not strictly what RFC 9112 calls a response.
    """
    lines = _lines(raw)
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise BadMessage("illegal status line", status=502)
    minor, status, reason = match.groups()
    version = b"1." + minor
    headers, lengths, codings = _headers(lines[1:])
    if codings:
        if version == b"1.0":
            raise BadMessage("Transfer-Encoding in HTTP/1.0", status=502)
        if lengths:
            raise BadMessage("Content-Length together with Transfer-Encoding", status=502)
        _only_chunked(codings)
    return ResponseHead(int(status), headers, reason or b"", version, _length(lengths), bool(codings))


def judge_trailer(line: bytes) -> None:
    """Judge one trailer line, without its end.

    Raises:
        BadMessage: It is no field, or one that would change where a message ends or whom it is for.
    """
    name, _ = _field(line)
    if name.lower() in _FRAMING_TRAILERS:
        raise BadMessage(f"{name.decode('ascii')} in a trailer")


def _lines(raw: bytes) -> list[bytes]:
    lines = raw.split(b"\r\n")
    if lines[-2:] != [b"", b""]:
        raise BadMessage("a line ends without CR LF")
    del lines[-2:]
    if not lines:
        raise BadMessage("an empty head")
    return lines


def _headers(lines: Iterable[bytes]) -> tuple[Headers, list[bytes], list[bytes]]:
    """Read header lines; the values of Content-Length and Transfer-Encoding are returned once more."""
    headers: Headers = []
    lengths: list[bytes] = []
    codings: list[bytes] = []
    for line in lines:
        name, value = _field(line)
        headers.append((name, value))
        lowered = name.lower()
        if lowered == b"content-length":
            lengths.append(value)
        elif lowered == b"transfer-encoding":
            codings.append(value)
    return headers, lengths, codings


def _field(line: bytes) -> tuple[bytes, bytes]:
    """Read one header line. It depends on nothing but the line, so that it may be remembered."""
    if line[:1] in (b" ", b"\t"):
        raise BadMessage("a folded header line")
    if _CONTROL.search(line):
        raise BadMessage("a control byte in a header line")
    name, colon, value = line.partition(b":")
    if not colon or _NAME.fullmatch(name) is None:
        raise BadMessage("illegal header line")
    return name, value.strip(b" \t")


def _origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Return the target in origin form, and the authority that it named, if it was in absolute form."""
    if _BAD_IN_TARGET.search(target):
        raise BadMessage("a byte in the target that has to be percent-encoded")
    if target.startswith(b"/"):
        return target, None
    if target == b"*":
        if method != b"OPTIONS":
            raise BadMessage("the target * is for OPTIONS only")
        return target, None
    match = _ABSOLUTE_FORM.fullmatch(target)
    if match is None:
        raise BadMessage("the target is not in origin form")
    authority, rest = match.groups()
    if not authority or b"@" in authority:
        raise BadMessage("illegal authority in the target")
    if not rest and method == b"OPTIONS":
        return b"*", authority  # RFC 9112 3.2.4
    return rest if rest.startswith(b"/") else b"/" + rest, authority


def _host(headers: Headers, version: bytes, authority: bytes | None) -> bytes:
    hosts = fields(headers, b"host")
    if len(hosts) > 1:
        raise BadMessage("more than one Host")
    if not hosts:
        if version == b"1.1":
            raise BadMessage("Host is missing")
        return authority or b""
    if _HOST.fullmatch(hosts[0]) is None:
        raise BadMessage("illegal Host")
    # RFC 9112 3.2.2 would let the target win; then the upstream would see a Host that nobody sent.
    if authority is not None and authority.lower() != hosts[0].lower():
        raise BadMessage("Host and target name different servers")
    return hosts[0]


def _length(values: Sequence[bytes]) -> int | None:
    if not values:
        return None
    if len(values) > 1:
        raise BadMessage("more than one Content-Length")
    if not values[0].isdigit() or len(values[0]) > _MAX_LENGTH_DIGITS:
        raise BadMessage("Content-Length is no number")
    return int(values[0])


def _only_chunked(values: Sequence[bytes]) -> None:
    codings = _tokens(values)
    unknown = [coding for coding in codings if coding != b"chunked"]
    if unknown:
        raise BadMessage(f"unknown transfer coding {unknown[0].decode('latin-1')!r}", status=501)
    if len(values) != 1 or codings != [b"chunked"] or values[0].lower() != b"chunked":
        raise BadMessage("Transfer-Encoding is not exactly chunked")


# --- Passing on ----------------------------------------------------------------------------------------


def named_by_connection(headers: Headers) -> frozenset[bytes]:
    """Return the names, in lower case, of the fields that are for this connection only, as it says."""
    return frozenset(_tokens(fields(headers, b"connection"))) - _NEVER_HOP_BY_HOP


def without_hop_by_hop(headers: Headers) -> Headers:
    """Return the fields that are meant for more than this one connection (RFC 9110 7.6.1), in their order."""
    dropped = _HOP_BY_HOP | named_by_connection(headers)
    return [(name, value) for name, value in headers if name.lower() not in dropped]


def forwarded_request(head: RequestHead, peer: Peer, *, upgrade: bool = False) -> RequestHead:
    """Return what the upstream gets to see: the same request, with what a gateway adds to it.

    Args:
        head: As judged.
        peer: Who sent it.
        upgrade: This is a WebSocket's handshake: its ``Upgrade`` is the one that passes.
    """
    headers = [
        (name, value)
        for name, value in without_hop_by_hop(head.headers)
        if name.lower() not in (b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-port")
    ]
    authority = head.host or b"localhost:%d" % peer.port
    if not fields(headers, b"host"):
        headers.insert(0, (b"Host", authority))
    if head.version == b"1.0":
        # A 100 could not be passed on to it (RFC 9110 10.1.1).
        headers = [field for field in headers if field[0].lower() != b"expect"]
    match = _HOST.fullmatch(authority)
    port = (match and match[2]) or (b"%d" % peer.port if not head.host else b"80")
    _append_to_list(headers, b"X-Forwarded-For", peer.address.encode("ascii", "replace"))
    headers += [
        (b"X-Forwarded-Host", authority),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Port", port),
        (b"Via", VIA),
    ]
    if upgrade:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    elif head.is_chunked:
        headers.append((b"Transfer-Encoding", b"chunked"))
    return RequestHead(head.method, head.target, headers, b"1.1", authority, head.length, head.is_chunked)


def _append_to_list(headers: Headers, name: bytes, item: bytes) -> None:
    """Add `item` to the last field called `name`, or as a new one."""
    lowered = name.lower()
    for index in range(len(headers) - 1, -1, -1):
        found, value = headers[index]
        if found.lower() == lowered:
            headers[index] = (found, value + b", " + item if value else item)
            return
    headers.append((name, item))


def forwarded_response(head: ResponseHead, upstream: str, *, upgrade: bool = False) -> ResponseHead:
    """Return what the client gets to see: the same response, and who gave it; the wire adds its framing."""
    headers = [
        (name, value)
        for name, value in without_hop_by_hop(head.headers)
        if name.lower() != b"x-orchestra-upstream"
    ]
    if head.is_informational:
        # It has no body to have a length (RFC 9110 8.6).
        headers = [field for field in headers if field[0].lower() != b"content-length"]
    if not head.is_informational or upgrade:
        headers.append((b"X-Orchestra-Upstream", upstream.encode("ascii")))
    if upgrade:
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    return ResponseHead(head.status, headers, head.reason, b"1.1", head.length, head.is_chunked)


def forwarded_trailers(trailers: Headers) -> Headers:
    """Return the trailer fields that may pass: nothing that frames, routes or authorises (RFC 9110 6.5.1)."""
    return [(name, value) for name, value in trailers if name.lower() not in _FORBIDDEN_TRAILERS]


def is_bodiless(method: bytes, status: int) -> bool:
    """Whether a response never has a body, whatever its Content-Length says (RFC 9112 6.3)."""
    return method == b"HEAD" or status in (204, 304) or status < 200


def is_looping(head: RequestHead) -> bool:
    """Whether the request has come through us so often that it must be going round in circles."""
    ours = VIA.partition(b" ")[2]
    seen = [token for token in _tokens(fields(head.headers, b"via")) if token.split()[1:2] == [ours]]
    return len(seen) >= MAX_VIA


# --- WebSockets and the two gates ----------------------------------------------------------------------


def websocket_fault(head: RequestHead) -> tuple[int, str] | None:
    """Say what is wrong with a request that asks for a WebSocket: a status and words; ``None`` if nothing is.

    RFC 6455 4.2.1.
    """
    if head.method != b"GET" or head.version != b"1.1" or head.has_body:
        return 400, "a WebSocket begins with an HTTP/1.1 GET without a body"
    if not has_token(head.headers, b"connection", b"upgrade"):
        return 400, "Connection: Upgrade is missing"
    if fields(head.headers, b"sec-websocket-version") != [b"13"]:
        return 426, "only version 13 of the WebSocket protocol exists"
    keys = fields(head.headers, b"sec-websocket-key")
    if len(keys) != 1 or _WEBSOCKET_KEY.fullmatch(keys[0]) is None:
        return 400, "Sec-WebSocket-Key is missing or illegal"
    return None


def host_refusal(host: bytes, allowed: Sequence[str]) -> str | None:
    """Say why a request with this ``Host`` is refused; ``None`` if it may pass.

    A web page of another site can make its own name point to this machine (DNS rebinding); its requests then
    carry that name. ``localhost``, its subdomains and literal addresses cannot be used so.
    """
    match = _HOST.fullmatch(host)
    name = (match[1] if match else host).decode("latin-1").lower().removesuffix(".")
    if not host or name == "localhost" or name.endswith(".localhost") or _is_address(name):
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
        return f'the Origin "{text}" is none'
    is_local = name == "localhost" or name.endswith(".localhost") or _is_loopback(name)
    if parts.scheme == "http" and (
        parts.netloc == host.decode("latin-1").lower() or (is_local and number == port)
    ):
        return None
    return f'the Origin "{text}" is not allowed; if it is yours, set [proxy] allowed_origins = ["{text}"]'


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return _is_address(name) and ipaddress.ip_address(name.strip("[]")).is_loopback
