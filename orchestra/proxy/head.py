"""Reads the heads of requests and answers: bytes in, a head out, or `BadMessage`.

An intermediary may not be lenient: two readers that disagree about where a message ends are how requests are
smuggled. Nothing ambiguous is repaired, with two exceptions that the RFCs ask for: an empty line before a
request is ignored (`connection`), and a target in absolute form becomes one in origin form.

Strategy. The *long way* is the judge: our rules, which are stricter than h11's, and then h11 itself. It costs
30 us, so ordinary heads take the *short way*: a header line that was seen before is looked up, a new one is
judged by one regular expression, which accepts only what both judges accept. Of a line only its lower-case
name and its value are remembered. What frames, routes or forwards a message is judged for each message. A
head that is in any way unusual (a line with other blanks than one after the colon, a field that is repeated,
an unknown method, HTTP/1.0) takes the long way. `tests/test_proxy_head.py` shows that both come to the same
verdict.

Not here: input and output, bodies (`framing`), what is passed on (`forward`), which upstream is asked
(`route`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

import h11
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["MAX_HEAD", "BadMessage", "HeadReader", "RequestHead", "ResponseHead"]

Headers: TypeAlias = "list[tuple[bytes, bytes]]"

# As much as Node and nginx take, and more than any browser sends.
MAX_HEAD = 65536
# A page of 1,000 modules has some 1,100 distinct lines; 4 MiB is then the most that is remembered.
_KNOWN_LINES = 4096
_KNOWN_LENGTH = 1024
# 2**63 has 19 digits.
_MAX_LENGTH_DIGITS = 18

# Secrets are not kept in memory for longer than their request needs.
_NEVER_KNOWN = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"})
# They would change where a message ends or where it goes (RFC 9112 6.5).
_FRAMING_TRAILERS = frozenset({b"content-length", b"host", b"transfer-encoding"})

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_BLANK_LINE = re.compile(rb"\n\r?\n")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([^ ]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([\t\x20-\x7e\x80-\xff]*))?")
_NAME = re.compile(_TOKEN)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_BAD_IN_TARGET = re.compile(rb"[^\x21-\x7e]|[#\\]")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?]*)(.*)", re.IGNORECASE)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]{0,5})?")
# The short way.
_END = b"\r\n\r\n"
_SHORT_REQUEST = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) (/[\x21\x22\x24-\x5b\x5d-\x7e]*) HTTP/1\.1"
)
_SHORT_STATUS = re.compile(rb"HTTP/1\.1 ([1-9][0-9]{2}) ([\t\x20-\x7e\x80-\xff]*)")
_SHORT_LINE = re.compile(
    rb"(" + _TOKEN + rb"): ([\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)"
)


class BadMessage(Exception):  # noqa: N818 - it is the peer's message that is bad; the name says so
    """A message cannot be taken for what it claims to be.

    Attributes:
        status: What a client that sent it is told: 400, 431, 501 or 505. An upstream's fault is always 502.
    """

    def __init__(self, message: str, *, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class _Head(Struct, frozen=True):
    """The fields of a message.

    Attributes:
        lines: Each field as ``Name: value``, the name as received, in order.
        fields: The same as pairs of the lower-case name and the value.
        values: The first value of each name; of ``connection`` all of them, as one list.
        length: The length of the body by ``Content-Length``; ``None`` without one.
        is_chunked: Whether the body is chunked.
    """

    lines: list[bytes]
    fields: Headers
    values: dict[bytes, bytes]
    length: int | None
    is_chunked: bool

    @property
    def headers(self) -> Headers:
        """The fields as pairs, names as received."""
        return [
            (line[: len(name)], value) for line, (name, value) in zip(self.lines, self.fields, strict=True)
        ]

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of all fields called `name`, which is in lower case."""
        return [value for found, value in self.fields if found == name]

    def has_token(self, name: bytes, token: bytes) -> bool:
        """Whether the list-valued field `name` holds `token`; both are in lower case."""
        return name in self.values and token in tokens(self.all(name))


class RequestHead(_Head, frozen=True):
    """The head of a request that has passed.

    Attributes:
        target: In origin form, byte for byte as received, or ``*`` for ``OPTIONS``.
        version: ``1.1`` or ``1.0``.
        host: The value of ``Host``; empty if an HTTP/1.0 client sent none.
    """

    method: bytes
    target: bytes
    version: bytes
    host: bytes

    @classmethod
    def of(
        cls,
        method: bytes,
        target: bytes,
        headers: Headers,
        *,
        version: bytes = b"1.1",
        host: bytes = b"",
        length: int | None = None,
        is_chunked: bool = False,
    ) -> RequestHead:
        """Make a head of fields as they are received."""
        lines, fields, values = _of_headers(headers)
        return cls(lines, fields, values, length, is_chunked, method, target, version, host)

    @property
    def path(self) -> bytes:
        """The target without its query."""
        return self.target.partition(b"?")[0]

    @property
    def has_body(self) -> bool:
        """Whether a body follows, even if it may turn out to be empty."""
        return self.is_chunked or bool(self.length)


class ResponseHead(_Head, frozen=True):
    """The head of a response that has passed; `reason` is kept byte for byte, and may be empty."""

    status: int
    reason: bytes
    version: bytes

    @classmethod
    def of(
        cls,
        status: int,
        headers: Headers,
        reason: bytes = b"",
        *,
        version: bytes = b"1.1",
        length: int | None = None,
        is_chunked: bool = False,
    ) -> ResponseHead:
        """Make a head of fields as they are received."""
        lines, fields, values = _of_headers(headers)
        return cls(lines, fields, values, length, is_chunked, status, reason, version)

    @property
    def media_type(self) -> bytes:
        """The media type without its parameters, in lower case; empty if none is given."""
        return self.values.get(b"content-type", b"").partition(b";")[0].strip().lower()


def tokens(values: Iterable[bytes]) -> list[bytes]:
    """Return the items of a list-valued field, in lower case."""
    pieces = (piece.strip(b" \t").lower() for value in values for piece in value.split(b","))
    return [piece for piece in pieces if piece]


def _of_headers(headers: Headers) -> tuple[list[bytes], Headers, dict[bytes, bytes]]:
    fields = [(name.lower(), value) for name, value in headers]
    return [b"%s: %s" % field for field in headers], fields, _values(fields)


def _values(fields: Headers) -> dict[bytes, bytes]:
    # The first of several wins: a dict keeps the last one that it is given.
    values = dict(reversed(fields))
    if b"connection" in values:
        values[b"connection"] = b", ".join(value for name, value in fields if name == b"connection")
    return values


def end_of_head(buffer: bytes, searched: int = 0) -> int:
    """Return where the head at the start of `buffer` ends, its empty line included; -1 while there is no end.

    Bare line feeds end a head here, too, so that the judge sees and refuses them; the peer does not wait for
    an end that it believes to have sent. The first `searched` bytes are known to contain none.
    """
    end = buffer.find(b"\r\n\r\n", max(0, searched - 3))
    if end >= 0:
        return end + 4
    match = _BLANK_LINE.search(buffer, max(0, searched - 2))
    return -1 if match is None else match.end()


def is_obviously_no_request(buffer: bytes) -> bool:
    """Whether the first byte can begin no request: TLS to a port that speaks none, most of the time."""
    return bool(buffer) and _NAME.match(buffer, 0, 1) is None and not b"\r\n".startswith(buffer[:2])


class HeadReader:
    """Reads heads, the ordinary ones by the short way.

    Args:
        limit: Header lines that are remembered, of requests and of answers each.

    Attributes:
        long: How many heads took the long way.
    """

    def __init__(self, limit: int = _KNOWN_LINES) -> None:
        self._requests = _KnownLines(limit)
        self._responses = _KnownLines(limit)
        self.long = 0

    def request(self, raw: bytes) -> RequestHead:
        """Read the head of a request, its empty line included.

        Raises:
            BadMessage: It is not strictly what RFC 9112 calls a request, or nothing that we serve.
        """
        lines = raw[:-4].split(b"\r\n")
        match = _SHORT_REQUEST.fullmatch(lines[0])
        if match is not None and raw.endswith(_END):
            del lines[0]
            fields = self._requests.read(lines)
            if fields is not None:
                values = dict(fields)
                host = values.get(b"host")
                if host is not None and len(values) == len(fields) and _HOST.fullmatch(host) is not None:
                    framing = _framing(values)
                    if framing is not None:
                        length, is_chunked = framing
                        return RequestHead(
                            lines, fields, values, length, is_chunked, match[1], match[2], b"1.1", host
                        )
        self.long += 1
        return judge_request(raw)

    def response(self, raw: bytes) -> ResponseHead:
        """Read the head of a response, its empty line included.

        Raises:
            BadMessage: It is not strictly what RFC 9112 calls a response.
        """
        lines = raw[:-4].split(b"\r\n")
        match = _SHORT_STATUS.fullmatch(lines[0])
        if match is not None and raw.endswith(_END):
            del lines[0]
            fields = self._responses.read(lines)
            if fields is not None:
                values = dict(fields)
                if len(values) != len(fields):
                    values = _values(fields)
                    names = [name for name, _ in fields]
                    is_clear = names.count(b"content-length") < 2 and names.count(b"transfer-encoding") < 2
                    framing = _framing(values) if is_clear else None
                else:
                    framing = _framing(values)
                if framing is not None:
                    length, is_chunked = framing
                    return ResponseHead(
                        lines, fields, values, length, is_chunked, int(match[1]), match[2], b"1.1"
                    )
        self.long += 1
        return judge_response(raw)


class _KnownLines:
    """Header lines that were judged, with their lower-case name and their value."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: dict[bytes, tuple[bytes, bytes]] = {}

    def read(self, lines: list[bytes]) -> Headers | None:
        """Read header lines; ``None`` if one is in any way unusual."""
        # `list` and `map` do in C what a loop would need five times as long for.
        fields = list(map(self._known.get, lines))
        if not all(fields):
            for index, field in enumerate(fields):
                if field is None:
                    match = _SHORT_LINE.fullmatch(lines[index])
                    if match is None:
                        return None
                    fields[index] = self._learn(lines[index], match[1].lower(), match[2])
        return fields  # type: ignore[return-value]  # no None is left

    def _learn(self, line: bytes, name: bytes, value: bytes) -> tuple[bytes, bytes]:
        field = name, value
        if len(line) <= _KNOWN_LENGTH and name not in _NEVER_KNOWN and self._limit:
            if len(self._known) >= self._limit:
                # What is still sent is judged and remembered again; an order of use would cost each request.
                self._known.clear()
            self._known[line] = field
        return field


def _framing(values: dict[bytes, bytes]) -> tuple[int | None, bool] | None:
    """Return the length and whether the body is chunked; ``None`` if that needs a closer look."""
    length = values.get(b"content-length")
    coding = values.get(b"transfer-encoding")
    if coding is not None:
        return (None, True) if coding == b"chunked" and length is None else None
    if length is None:
        return None, False
    return (int(length), False) if length.isdigit() and len(length) <= _MAX_LENGTH_DIGITS else None


# --- The long way --------------------------------------------------------------------------------------


def judge_request(raw: bytes) -> RequestHead:
    """Read the head of a request by all rules, ours and h11's, as `HeadReader.request` does."""
    lines = _lines(raw)
    match = _REQUEST_LINE.fullmatch(lines[0])
    if match is None:
        raise BadMessage("illegal request line")
    method, target, major, minor = match.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise BadMessage("only HTTP/1.1 and HTTP/1.0 are supported", status=505)
    version = b"1." + minor
    if method == b"CONNECT":
        raise BadMessage("CONNECT is not supported: this is not a forward proxy", status=501)
    headers, lengths, codings = _headers(lines[1:])
    target, authority = _origin_form(method, target)
    host = _host(headers, version, authority)
    _no_contradiction(lengths, codings, version)
    _ask_h11(h11.Connection(h11.SERVER), raw)
    length, is_chunked = _length(lengths), bool(codings)
    return RequestHead.of(
        method, target, headers, version=version, host=host, length=length, is_chunked=is_chunked
    )


def judge_response(raw: bytes) -> ResponseHead:
    """Read the head of a response by all rules, ours and h11's, as `HeadReader.response` does."""
    lines = _lines(raw)
    match = _STATUS_LINE.fullmatch(lines[0])
    if match is None:
        raise BadMessage("illegal status line", status=502)
    minor, status, reason = match.groups()
    version = b"1." + minor
    headers, lengths, codings = _headers(lines[1:])
    _no_contradiction(lengths, codings, version)
    length, is_chunked = _length(lengths), bool(codings)
    client = h11.Connection(h11.CLIENT)
    # It takes an answer only after a request, and a 101 only if that has asked for it.
    asked = [("Host", "localhost"), ("Connection", "upgrade"), ("Upgrade", "websocket")]
    client.send(h11.Request(method="GET", target="/", headers=asked))
    client.send(h11.EndOfMessage())
    _ask_h11(client, raw)
    return ResponseHead.of(
        int(status), headers, reason or b"", version=version, length=length, is_chunked=is_chunked
    )


def judge_trailer(line: bytes) -> tuple[bytes, bytes]:
    """Read one trailer line, without its end.

    Raises:
        BadMessage: It is no field, or one that would change where a message ends or where it goes.
    """
    name, value = _field(line)
    if name.lower() in _FRAMING_TRAILERS:
        raise BadMessage(f"{name.decode('ascii')} in a trailer")
    return name, value


def _ask_h11(connection: h11.Connection, raw: bytes) -> None:
    connection.receive_data(raw)
    try:
        connection.next_event()
    except h11.RemoteProtocolError as exc:
        raise BadMessage(str(exc), status=501 if exc.error_status_hint == 501 else 400) from exc


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
    hosts = [value for name, value in headers if name.lower() == b"host"]
    if len(hosts) > 1:
        raise BadMessage("more than one Host")
    if not hosts:
        if version == b"1.1":
            raise BadMessage("Host is missing")
        return authority or b""
    if _HOST.fullmatch(hosts[0]) is None:
        raise BadMessage("illegal Host")
    # RFC 9112 3.2.2 would let the target win; then the upstream would see a Host that was not sent.
    if authority is not None and authority.lower() != hosts[0].lower():
        raise BadMessage("Host and target name different servers")
    return hosts[0]


def _no_contradiction(lengths: Sequence[bytes], codings: Sequence[bytes], version: bytes) -> None:
    if not codings:
        return
    if version == b"1.0":
        raise BadMessage("Transfer-Encoding in HTTP/1.0")
    if lengths:
        raise BadMessage("Content-Length together with Transfer-Encoding")
    found = tokens(codings)
    unknown = [coding for coding in found if coding != b"chunked"]
    if unknown:
        raise BadMessage(f"unknown transfer coding {unknown[0].decode('latin-1')!r}", status=501)
    if len(codings) != 1 or found != [b"chunked"] or codings[0].lower() != b"chunked":
        raise BadMessage("Transfer-Encoding is not exactly chunked")


def _length(values: Sequence[bytes]) -> int | None:
    if not values:
        return None
    if len(values) > 1:
        raise BadMessage("more than one Content-Length")
    if not values[0].isdigit() or len(values[0]) > _MAX_LENGTH_DIGITS:
        raise BadMessage("Content-Length is not a number")
    return int(values[0])
