"""Reads the heads of requests and answers: bytes in, a head out, or `BadMessage`.

An intermediary may not be lenient: two readers that disagree about where a message ends are how requests are
smuggled. Nothing ambiguous is repaired, with two exceptions that the RFCs ask for: an empty line before a
request is ignored (`connection`), and a target in absolute form becomes one in origin form.

Strategy. The *slow path* decides what is valid: our rules, which are stricter than h11's, and then h11
itself. It costs 30 us, so ordinary heads take the *fast path*: a header line that was seen before is looked
up, a new one is checked by one regular expression, which accepts only what both checks accept. Only the
lower-case name and the value of a line are cached. Fields that frame, route or forward a message are checked
for each message. Any unusual head (a line with other blanks than one after the colon, a request with a
repeated field, an unknown method or reason phrase, HTTP/1.0) takes the slow path. `tests/test_proxy_head.py`
shows that both accept the same heads.

Not here: input and output, bodies (`framing`), what is passed on (`forward`), which upstream is asked
(`route`).
"""

from __future__ import annotations

import re
from functools import lru_cache
from http import HTTPStatus
from typing import TypeAlias

import h11
from msgspec import Struct

from orchestra.hosts import match_host

__all__ = ["MAX_HEAD", "BadMessage", "HeadReader", "RequestHead", "ResponseHead"]

Headers: TypeAlias = "list[tuple[bytes, bytes]]"

# The limit of Node and nginx, and more than any browser sends.
MAX_HEAD = 65536
# A page of 1,000 modules has some 1,100 distinct lines; at most 4 MiB are cached then.
_KNOWN_LINES = 4096
_KNOWN_LENGTH = 1024
# 2**63 has 19 digits.
_MAX_LENGTH_DIGITS = 18

# Secrets are not kept in memory for longer than their request needs.
_NEVER_KNOWN = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"})
# They decide where a message ends or where it goes: never in a trailer (RFC 9112 6.5).
_NEVER_TRAILERS = frozenset({b"content-length", b"transfer-encoding", b"host"})

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_BLANK_LINE = re.compile(rb"\n\r?\n")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^ ]+) HTTP/([0-9]\.[0-9])")
_STATUS_LINE = re.compile(rb"HTTP/(1\.[01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_NAME = re.compile(_TOKEN)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BAD_IN_TARGET = re.compile(rb"[^\x21-\x7e]|[#\\]")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]+)(.*)", re.IGNORECASE)
# The fast path.
_END = b"\r\n\r\n"
_ordinary_request_line = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[\x21\x22\x24-\x5b\x5d-\x7e]*) HTTP/1\.1"
).fullmatch
_ordinary_line = re.compile(
    rb"(" + _TOKEN + rb"): ([\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)"
).fullmatch
# Flask writes it in capitals, and servers of HTTP/2 send none.
_ORDINARY_STATUS_LINES = {
    b"HTTP/1.1 %d %b" % (status, reason.encode("ascii")): int(status)
    for status in HTTPStatus
    for reason in ("", status.phrase, status.phrase.upper())
}


class BadMessage(Exception):  # noqa: N818 - it is the peer's message that is bad; the name says so
    """A message is not valid, or cannot be forwarded.

    Attributes:
        status: The status for a client that sent it: 4xx, 501, 505 or 508; for an upstream's, always 502.
        title: The problem in a few words.
    """

    def __init__(self, message: str, *, status: int = 400, title: str = "Bad request") -> None:
        super().__init__(message)
        self.status = status
        self.title = title


class _Head(Struct, frozen=True, gc=False):
    """The common parts of heads.

    Attributes:
        start: The first line as it is passed on: a target in origin form, and always HTTP/1.1.
        lines: Each field as ``Name: value``, the name as received, in order.
        values: The value of each lower-case name, in order; those of a repeated field are joined as a list.
        length: The length of the body by ``Content-Length``; ``None`` without one.
        is_chunked: Whether the body is chunked.
        version: ``1.1`` or ``1.0``, as received.
    """

    start: bytes
    lines: list[bytes]
    values: dict[bytes, bytes]
    length: int | None
    is_chunked: bool
    version: bytes

    def has_token(self, name: bytes, token: bytes) -> bool:
        """Whether the list-valued field `name` holds `token`; both are in lower case."""
        return token in tokens(self.values.get(name, b""))


class RequestHead(_Head, frozen=True, gc=False):
    """The head of a valid request.

    Attributes:
        target: In origin form, byte for byte as received, or ``*`` for ``OPTIONS``.
        host: The value of ``Host``; empty if an HTTP/1.0 client sent none.
    """

    method: bytes
    target: bytes
    host: bytes

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    @property
    def has_body(self) -> bool:
        """Whether a body follows, even if it may turn out to be empty."""
        return self.is_chunked or bool(self.length)


class ResponseHead(_Head, frozen=True, gc=False):
    """The head of a valid response."""

    status: int

    @classmethod
    def of(
        cls, status: int, fields: Headers, reason: bytes = b"", *, version: bytes = b"1.1"
    ) -> ResponseHead:
        """Make a head from fields as they are received."""
        start = b"HTTP/1.1 %d %b" % (status, reason)
        lines, values = [b"%b: %b" % field for field in fields], _values(fields)
        return cls(start, lines, values, *_framing(values, version), version, status)

    @property
    def media_type(self) -> bytes:
        """The media type without its parameters, in lower case; empty if none is given."""
        return _media_type(self.values.get(b"content-type", b""))


@lru_cache(maxsize=64)
def tokens(value: bytes) -> tuple[bytes, ...]:
    """Return the items of a list-valued field, in lower case."""
    return tuple(filter(None, (piece.strip(b" \t") for piece in value.lower().split(b","))))


@lru_cache(maxsize=64)
def _media_type(value: bytes) -> bytes:
    return value.partition(b";")[0].partition(b",")[0].strip().lower()


def _values(fields: Headers) -> dict[bytes, bytes]:
    """Return `_Head.values` (of repeated fields: RFC 9110 5.3)."""
    values: dict[bytes, bytes] = {}
    for name, value in fields:
        key = name.lower()
        values[key] = values[key] + b", " + value if key in values else value
    return values


def _framing(values: dict[bytes, bytes], version: bytes) -> tuple[int | None, bool]:
    length = values.get(b"content-length")
    coding = values.get(b"transfer-encoding")
    if coding is None:
        if length is None:
            return None, False
        if not length.isdigit() or len(length) > _MAX_LENGTH_DIGITS:
            raise BadMessage("Content-Length is not one number")
        return int(length), False
    if version == b"1.0":
        raise BadMessage("Transfer-Encoding in HTTP/1.0")
    if length is not None:
        raise BadMessage("Content-Length together with Transfer-Encoding")
    if unknown := [each for each in tokens(coding) if each != b"chunked"]:
        raise BadMessage(f"unknown transfer coding {unknown[0].decode('latin-1')!r}", status=501)
    if coding.lower() != b"chunked":
        raise BadMessage("Transfer-Encoding is not exactly chunked")
    return None, True


def end_of_head(buffer: bytes, searched: int = 0) -> int:
    """Return where the head at the start of `buffer` ends, with its empty line; -1 if it is incomplete.

    Bare line feeds end a head here, too, so that the check refuses them; otherwise both sides would wait for
    the other. The first `searched` bytes are known to contain no end.
    """
    end = buffer.find(_END, searched - 3 if searched > 3 else 0)
    if end >= 0:
        return end + 4
    match = _BLANK_LINE.search(buffer, max(0, searched - 2))
    return -1 if match is None else match.end()


def is_obviously_no_request(buffer: bytes) -> bool:
    """Whether the first byte cannot begin a request: usually TLS to a port that does not speak it."""
    return bool(buffer) and _NAME.match(buffer, 0, 1) is None and not b"\r\n".startswith(buffer[:2])


class HeadReader:
    """Reads heads, ordinary ones by the fast path; caches `limit` lines of requests and as many of answers.

    Attributes:
        long: How many heads took the slow path.
    """

    def __init__(self, limit: int = _KNOWN_LINES) -> None:
        self._requests = _KnownLines(limit)
        self._responses = _KnownLines(limit)
        self.long = 0

    def request(self, raw: bytes) -> RequestHead:
        """Read the head of a request, its empty line included.

        `BadMessage`: it is not strictly a request by RFC 9112, or not one that we serve.
        """
        lines = raw[:-4].split(b"\r\n")
        start = lines.pop(0)
        match = _ordinary_request_line(start)
        try:
            # `dict` and `map` do this in C; a loop would take five times as long.
            values = dict(map(self._requests.__getitem__, lines))
        except KeyError:
            values = {}
        host = values.get(b"host")
        if match is not None and host is not None and len(values) == len(lines) and raw.endswith(_END):
            length, is_chunked = _framing(values, b"1.1")
            return RequestHead(start, lines, values, length, is_chunked, b"1.1", match[1], match[2], host)
        self.long += 1
        return judge_request(raw)

    def response(self, raw: bytes) -> ResponseHead:
        """Read the head of a response; `BadMessage` if it is not strictly one by RFC 9112."""
        lines = raw[:-4].split(b"\r\n")
        start = lines.pop(0)
        status = _ORDINARY_STATUS_LINES.get(start)
        try:
            values = dict(map(self._responses.__getitem__, lines))
        except KeyError:
            status, values = None, {}
        if status is None or not raw.endswith(_END):
            self.long += 1
            return judge_response(raw)
        if len(values) != len(lines):
            values = _values([line.partition(b": ")[::2] for line in lines])
        length, is_chunked = _framing(values, b"1.1")
        return ResponseHead(start, lines, values, length, is_chunked, b"1.1", status)


class _KnownLines(dict[bytes, tuple[bytes, bytes]]):
    """Header lines that were checked, with their lower-case name and their value; others are not ordinary."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __missing__(self, line: bytes) -> tuple[bytes, bytes]:
        match = _ordinary_line(line)
        if match is None:
            raise KeyError(line)
        field = name, value = match[1].lower(), match[2]
        if name == b"host" and not match_host(value):
            raise KeyError(line)
        if len(line) <= _KNOWN_LENGTH and name not in _NEVER_KNOWN and self._limit:
            if len(self) >= self._limit:
                # Lines that are still in use are checked and cached again; an LRU order would cost each
                # request.
                self.clear()
            self[line] = field
        return field


# --- The slow path -------------------------------------------------------------------------------------


def judge_request(raw: bytes) -> RequestHead:
    """Read the head of a request by all rules, ours and h11's, as `HeadReader.request` does."""
    start, fields = _split(raw)
    match = _REQUEST_LINE.fullmatch(start)
    if match is None:
        raise BadMessage("illegal request line")
    method, target, version = match.groups()
    if version not in (b"1.0", b"1.1"):
        raise BadMessage("only HTTP/1.1 and HTTP/1.0 are supported", status=505)
    if method == b"CONNECT":
        raise BadMessage("CONNECT is not supported: this is not a forward proxy", status=501)
    target, authority = _origin_form(method, target)
    values = _values(fields)
    # h11 checks that HTTP/1.1 has a Host.
    host = values.get(b"host", authority or b"")
    if not match_host(host):
        raise BadMessage("illegal Host")
    # By RFC 9112 3.2.2 the target would win; then the upstream would see a Host that was not sent.
    if authority is not None and authority.lower() != host.lower():
        raise BadMessage("Host and target name different servers")
    framing = _framing(values, version)
    _ask_h11(h11.Connection(h11.SERVER), raw)
    start = b"%b %b HTTP/1.1" % (method, target)
    lines = [b"%b: %b" % field for field in fields]
    return RequestHead(start, lines, values, *framing, version, method, target, host)


def judge_response(raw: bytes) -> ResponseHead:
    """Read the head of a response by all rules, ours and h11's, as `HeadReader.response` does."""
    start, fields = _split(raw)
    match = _STATUS_LINE.fullmatch(start)
    if match is None:
        raise BadMessage("illegal status line")
    version, status, reason = match.groups()
    head = ResponseHead.of(int(status), fields, reason or b"", version=version)
    client = h11.Connection(h11.CLIENT)
    # It accepts an answer only after a request, and a 101 only if that has requested it.
    asked = [("Host", "localhost"), ("Connection", "upgrade"), ("Upgrade", "websocket")]
    client.send(h11.Request(method="GET", target="/", headers=asked))
    client.send(h11.EndOfMessage())
    _ask_h11(client, raw)
    return head


def judge_trailer(line: bytes) -> tuple[bytes, bytes]:
    """Read one trailer line, without its end.

    `BadMessage`: it is not a field, or one that would change where a message ends or where it goes.
    """
    name, value = _field(line)
    if name.lower() in _NEVER_TRAILERS:
        raise BadMessage(f"{name.decode('ascii')} in a trailer")
    return name, value


def _ask_h11(connection: h11.Connection, raw: bytes) -> None:
    connection.receive_data(raw)
    try:
        connection.next_event()
    except h11.RemoteProtocolError as exc:
        raise BadMessage(str(exc), status=501 if exc.error_status_hint == 501 else 400) from exc


def _split(raw: bytes) -> tuple[bytes, Headers]:
    start, *rest = raw.split(b"\r\n")
    if rest[-2:] != [b"", b""]:
        raise BadMessage("a line ends without CR LF")
    return start, [_field(line) for line in rest[:-2]]


def _field(line: bytes) -> tuple[bytes, bytes]:
    if line[:1] in (b" ", b"\t"):
        raise BadMessage("a folded header line")
    if _CONTROL.search(line):
        raise BadMessage("a control byte in a header line")
    name, colon, value = line.partition(b":")
    if not colon or _NAME.fullmatch(name) is None:
        raise BadMessage("illegal header line")
    return name, value.strip(b" \t")


def _origin_form(method: bytes, target: bytes) -> tuple[bytes, bytes | None]:
    """Return the target in origin form, and the authority of a target in absolute form."""
    if _BAD_IN_TARGET.search(target):
        raise BadMessage("a byte in the target that has to be percent-encoded")
    authority = None
    if (match := _ABSOLUTE_FORM.fullmatch(target)) is not None:
        authority, target = match.groups()
        if not target.startswith(b"/"):
            # RFC 9112 3.2.4.
            target = b"*" if method == b"OPTIONS" and not target else b"/" + target
    if target == b"*" and method != b"OPTIONS":
        raise BadMessage("the target * is for OPTIONS only")
    if target != b"*" and not target.startswith(b"/"):
        raise BadMessage("the target is not in origin form")
    return target, authority
