"""Heads: what is taken for one, and that the short way to that verdict agrees with the long one."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import given, settings, strategies as st

from orchestra.proxy.forward import Peer, forwarded_request, forwarded_response
from orchestra.proxy.head import (
    BadMessage,
    HeadReader,
    end_of_head,
    is_obviously_no_request,
    judge_request,
    judge_response,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.proxy.head import (
        RequestHead,
        ResponseHead,
    )

T = TypeVar("T")

HOST = b"Host: localhost:8000\r\n"


def request(line: bytes = b"GET / HTTP/1.1", fields: bytes = HOST) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


# --- judging requests ---


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(
            request(fields=HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400, id="both"
        ),
        pytest.param(
            request(b"POST / HTTP/1.0", HOST + b"Transfer-Encoding: chunked\r\n"), 400, id="te-in-1.0"
        ),
        pytest.param(
            request(fields=HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n"), 400, id="repeated"
        ),
        pytest.param(request(fields=HOST + b"Content-Length: 3, 3\r\n"), 400, id="listed"),
        pytest.param(request(fields=HOST + b"Content-Length: +3\r\n"), 400, id="signed"),
        pytest.param(request(fields=HOST + b"Content-Length: \r\n"), 400, id="empty-length"),
        pytest.param(
            request(fields=HOST + b"Content-Length: 1" + b"0" * 30 + b"\r\n"), 400, id="huge-length"
        ),
        pytest.param(
            request(fields=HOST + b"Transfer-Encoding: gzip, chunked\r\n"), 501, id="unknown-coding"
        ),
        pytest.param(
            request(fields=HOST + b"Transfer-Encoding: chunked, chunked\r\n"), 400, id="twice-chunked"
        ),
        pytest.param(
            request(fields=HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"),
            400,
            id="two-te",
        ),
        pytest.param(
            request(fields=HOST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
            501,
            id="two-te-one-unknown",
        ),
        pytest.param(request(fields=HOST + b"Transfer-Encoding: \r\n"), 400, id="empty-coding"),
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", 400, id="bare-lf"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\nX: 1\r\n\r\n", 400, id="one-bare-lf"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, id="bare-lf-at-the-end"),
        pytest.param(request(fields=HOST + b"X: a\rb\r\n"), 400, id="bare-cr"),
        pytest.param(request(fields=HOST + b"X: a\r\n b\r\n"), 400, id="obs-fold"),
        pytest.param(request(fields=b" " + HOST), 400, id="space-before-the-first"),
        pytest.param(request(fields=HOST + b"X : a\r\n"), 400, id="space-before-colon"),
        pytest.param(request(fields=HOST + b"X\r\n"), 400, id="no-colon"),
        pytest.param(request(fields=HOST + b": a\r\n"), 400, id="no-name"),
        pytest.param(request(fields=HOST + b"X: a\x01b\r\n"), 400, id="control-byte"),
        pytest.param(request(fields=HOST + b"X: a\x00b\r\n"), 400, id="nul"),
        pytest.param(request(fields=HOST + b"X: a\x7f\r\n"), 400, id="del"),
        pytest.param(request(b"GET /#a HTTP/1.1"), 400, id="fragment"),
        pytest.param(request(b"GET /\x00 HTTP/1.1"), 400, id="nul-in-target"),
        pytest.param(request(b"GET /..\\x HTTP/1.1"), 400, id="backslash"),
        pytest.param(request(b"GET /\xc3\xbc HTTP/1.1"), 400, id="not-ascii"),
        pytest.param(request(b"GET a HTTP/1.1"), 400, id="no-slash"),
        pytest.param(request(b"GET * HTTP/1.1"), 400, id="star-for-get"),
        pytest.param(request(b"GET ftp://localhost:8000/ HTTP/1.1"), 400, id="other-scheme"),
        pytest.param(request(b"GET http://u@localhost:8000/ HTTP/1.1"), 400, id="user-info"),
        pytest.param(request(b"GET http://other/ HTTP/1.1"), 400, id="target-and-host-differ"),
        pytest.param(request(b"GET http://a:b/ HTTP/1.0", b""), 400, id="bad-authority"),
        pytest.param(request(b"GET http:///x HTTP/1.0", b""), 400, id="no-authority"),
        pytest.param(request(b"GET  / HTTP/1.1"), 400, id="two-spaces"),
        pytest.param(request(b"GET / x HTTP/1.1"), 400, id="space-in-target"),
        pytest.param(request(b"GET /"), 400, id="http-0.9"),
        pytest.param(request(b"G@T / HTTP/1.1"), 400, id="bad-method"),
        pytest.param(request(b"GET / HTTP/2.0"), 505, id="version-2"),
        pytest.param(request(b"GET / HTTP/1.2"), 505, id="version-1.2"),
        pytest.param(request(b"CONNECT localhost:80 HTTP/1.1"), 501, id="connect"),
        pytest.param(request(fields=b""), 400, id="no-host"),
        pytest.param(request(fields=HOST + HOST), 400, id="two-hosts"),
        pytest.param(request(fields=b"Host: a/b\r\n"), 400, id="bad-host"),
        pytest.param(request(fields=b"Host: a, b\r\n"), 400, id="listed-host"),
        pytest.param(b"\r\n\r\n", 400, id="nothing"),
    ],
)
def test_nothing_ambiguous_is_taken_for_a_request(raw: bytes, status: int) -> None:
    for read in (judge_request, HeadReader().request):
        with pytest.raises(BadMessage) as caught:
            read(raw)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("line", "target"),
    [
        (b"GET / HTTP/1.1", b"/"),
        (b"GET /a%20b/../c//d?x=/&y=[1] HTTP/1.1", b"/a%20b/../c//d?x=/&y=[1]"),
        (b"GET http://localhost:8000/x?y HTTP/1.1", b"/x?y"),
        (b"GET HTTP://LocalHost:8000 HTTP/1.1", b"/"),
        (b"GET http://localhost:8000?y HTTP/1.1", b"/?y"),
        (b"OPTIONS http://localhost:8000 HTTP/1.1", b"*"),
        (b"OPTIONS * HTTP/1.1", b"*"),
        (b"PROPFIND /x HTTP/1.0", b"/x"),
    ],
)
def test_targets_pass_byte_for_byte_in_origin_form(line: bytes, target: bytes) -> None:
    assert judge_request(request(line)).target == target


def test_a_head_keeps_order_duplicates_and_the_case_of_names() -> None:
    fields = b'aCCept: */*\r\nHost:localhost\r\nCookie: a=1; b="\xfc"\r\nCOOKIE:\tc=2 \r\nX-Empty:\r\n'
    head = judge_request(request(fields=fields))
    assert head.lines == [
        b"aCCept: */*",
        b"Host: localhost",
        b'Cookie: a=1; b="\xfc"',
        b"COOKIE: c=2",
        b"X-Empty: ",
    ]


@pytest.mark.parametrize(
    ("fields", "length", "is_chunked", "has_body"),
    [
        (b"", None, False, False),
        (b"Content-Length: 0\r\n", 0, False, False),
        (b"Content-Length: 12\r\n", 12, False, True),
        (b"Transfer-Encoding: Chunked\r\n", None, True, True),
    ],
)
def test_the_framing_of_a_body_is_known_from_its_head(
    fields: bytes,
    length: int | None,
    *,
    is_chunked: bool,
    has_body: bool,
) -> None:
    head = judge_request(request(b"POST / HTTP/1.1", HOST + fields))
    assert (head.length, head.is_chunked, head.has_body) == (length, is_chunked, has_body)


def test_http_1_0_needs_no_host() -> None:
    assert judge_request(request(b"GET / HTTP/1.0", b"")).host == b""


@given(st.binary(max_size=200))
def test_any_bytes_are_judged_without_another_exception(raw: bytes) -> None:
    for judge in (judge_request, judge_response):
        try:
            judge(raw + b"\r\n\r\n")
        except BadMessage:
            continue


@given(st.binary(min_size=1, max_size=200), st.lists(st.integers(0, 250)))
def test_the_end_of_a_head_is_found_in_any_chunks(raw: bytes, cuts: list[int]) -> None:
    raw = raw.replace(b"\n", b"") + b"\r\n\r\nrest\r\n\r\n"
    expected = end_of_head(raw)
    buffer, searched = b"", 0
    edges = [0, *sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    for begin, end in itertools.pairwise(edges):
        buffer += raw[begin:end]
        found = end_of_head(buffer, searched)
        if found >= 0:
            assert found == expected
            return
        searched = len(buffer)
    pytest.fail("not found")


@pytest.mark.parametrize(
    ("start", "expected"),
    [(b"", False), (b"G", False), (b"\r", False), (b"\r\n", False), (b"\x16\x03\x01", True), (b"\r\r", True)],
)
def test_tls_is_told_from_http_at_its_first_byte(start: bytes, *, expected: bool) -> None:
    assert is_obviously_no_request(start) is expected


# --- judging responses ---


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: 1\n\n",
        b"HTTP/1.1 200 OK\r\nX: 1\r\n 2\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x01K\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
    ],
)
def test_nothing_ambiguous_is_taken_for_a_response(raw: bytes) -> None:
    for read in (judge_response, HeadReader().response):
        with pytest.raises(BadMessage):
            read(raw)


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"HTTP/1.1 504 Outdated Optimize Dep", 504, b"Outdated Optimize Dep"),
        (b"HTTP/1.1 200 ", 200, b""),
        (b"HTTP/1.1 200", 200, b""),
        (b"HTTP/1.1 999 \xfcber", 999, b"\xfcber"),
    ],
)
def test_status_and_reason_phrase_are_kept(line: bytes, status: int, reason: bytes) -> None:
    head = judge_response(line + b"\r\n\r\n")
    assert (head.status, head.start) == (status, b"HTTP/1.1 %d %b" % (status, reason))


def test_a_repeated_field_is_read_as_one_list() -> None:
    """RFC 9110 5.3."""
    asked = judge_request(request(fields=HOST + b"Accept: a\r\nX: 1\r\naccept: b, c\r\n"))
    assert asked.values == {b"host": b"localhost:8000", b"accept": b"a, b, c", b"x": b"1"}
    raw = b"HTTP/1.1 200 OK\r\nVary: a\r\nvary: b\r\nContent-Type: text/html; x\r\nContent-Type: y/z\r\n\r\n"
    for read in (judge_response, HeadReader().response):
        answer = read(raw)
        assert answer.has_token(b"vary", b"b")
        assert answer.media_type == b"text/html"


def test_an_answer_may_repeat_what_only_requests_may_not() -> None:
    raw = b"HTTP/1.1 200 OK\r\nHost: a\r\nHost: a\r\nContent-Length: 3\r\n\r\n"
    for read in (judge_response, HeadReader().response):
        assert read(raw).lines == [b"Host: a", b"Host: a", b"Content-Length: 3"]


# --- the short way ---

BROWSER = (
    b"GET /src/main.ts?t=1 HTTP/1.1\r\nHost: localhost:8000\r\nConnection: keep-alive\r\n"
    b'sec-ch-ua-platform: "Linux"\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64) Chrome/131.0.0.0\r\n'
    b'sec-ch-ua: "Chromium";v="131", "Not_A Brand";v="24"\r\nsec-ch-ua-mobile: ?0\r\nAccept: */*\r\n'
    b"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: script\r\n"
    b"Referer: http://localhost:8000/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b'Accept-Language: de-DE,de;q=0.9\r\nCookie: a=b; c=d\r\nIf-None-Match: W/"1-x"\r\n\r\n'
)
UPGRADE = (
    b"GET /?token=x HTTP/1.1\r\nHost: localhost:8000\r\nConnection: Upgrade\r\nPragma: no-cache\r\n"
    b"Upgrade: websocket\r\nOrigin: http://localhost:8000\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: vite-hmr\r\n\r\n"
)
FIREFOX = (
    b"GET / HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: Mozilla/5.0 Gecko/20100101 Firefox/132.0\r\n"
    b"Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\nDNT: 1\r\nUpgrade-Insecure-Requests: 1\r\n"
    b"Sec-Fetch-Mode: navigate\r\nPriority: u=0, i\r\nConnection: keep-alive\r\n\r\n"
)
FORM = (
    b"POST /api/notes HTTP/1.1\r\nHost: localhost:8000\r\nContent-Length: 11\r\n"
    b"Content-Type: application/json\r\nOrigin: http://localhost:8000\r\nAuthorization: Bearer x\r\n\r\n"
)
CURL = b"GET /api/x HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n"
PYTHON = (
    b"POST /api/x HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: python-requests/2.32.3\r\n"
    b"Accept-Encoding: gzip, deflate\r\nAccept: */*\r\nConnection: keep-alive\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
NODE = (
    b"GET /api/x HTTP/1.1\r\nhost: localhost:8000\r\nconnection: keep-alive\r\naccept: */*\r\n"
    b"accept-language: *\r\nsec-fetch-mode: cors\r\nuser-agent: node\r\naccept-encoding: gzip\r\n\r\n"
)
ORDINARY = [BROWSER, UPGRADE, FIREFOX, FORM, CURL, PYTHON, NODE]
UVICORN = (
    b"HTTP/1.1 200 OK\r\ndate: Sat, 28 Nov 2026 12:00:00 GMT\r\nserver: uvicorn\r\n"
    b"content-length: 15\r\ncontent-type: application/json\r\nset-cookie: a=b\r\nset-cookie: c=d\r\n\r\n"
)
VITE = (
    b"HTTP/1.1 200 OK\r\nVary: Origin\r\nContent-Type: text/javascript\r\nCache-Control: no-cache\r\n"
    b'Etag: W/"x"\r\nDate: Sat, 28 Nov 2026 12:00:00 GMT\r\nConnection: keep-alive\r\n'
    b"Keep-Alive: timeout=5\r\nContent-Length: 1034\r\n\r\n"
)
NOT_MODIFIED = b'HTTP/1.1 304 Not Modified\r\nEtag: W/"x"\r\nConnection: keep-alive\r\n\r\n'
STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWERS = [UVICORN, VITE, NOT_MODIFIED, STREAM]
PEER = Peer("127.0.0.1", 8000)


def test_ordinary_heads_take_the_short_way() -> None:
    """Those of browsers, curl, Python and Node, of uvicorn and Vite: from the first one on."""
    reader = HeadReader()
    for raw in ORDINARY:
        assert reader.request(raw) == judge_request(raw)
    for raw in ANSWERS:
        assert reader.response(raw) == judge_response(raw)
    assert reader.long == 0
    reader.request(b"GET / HTTP/1.0\r\n\r\n")
    assert reader.long == 1


def test_secrets_folded_and_long_lines_are_not_remembered() -> None:
    reader = HeadReader()
    long = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 1100 + b"\r\n\r\n"
    for raw in (*ORDINARY, long):
        reader.request(raw)
    reader.response(UVICORN)
    known = b"\n".join([*reader._requests, *reader._responses]).lower()
    assert b"accept: */*" in known
    for secret in (b"cookie:", b"authorization:", b"y" * 1100):
        assert secret not in known


def test_what_is_remembered_is_bounded() -> None:
    reader = HeadReader(limit=10)
    for number in range(100):
        reader.request(b"GET / HTTP/1.1\r\nHost: x\r\nX: %d\r\n\r\n" % number)
        assert len(reader._requests) <= 10


# Words that frame, route or end a head come up more often than by chance.
PIECES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"\x0b", b"\x1c", b"\x7f", b"\x80", b"#",
    b"Content-Length: 3\r\n", b"Content-Length: 3, 3\r\n", b"Content-Length: 03\r\n",
    b"content-length: 4\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: Chunked\r\n", b"Transfer-Encoding: gzip\r\n",
    b"Host: other\r\n", b"Host: a b\r\n", b"Connection: X-One\r\n", b"X-One: 1\r\n",
    b"Via: 1.1 orchestra\r\n",
    b"Expect: 100-continue\r\n", b"X-Forwarded-For: 1.2.3.4\r\n", b" folded\r\n", b"X:y\r\n", b"X: y \r\n",
    b"X:\r\n", b"X: \r\n", b"X : y\r\n", b"HTTP/1.0", b"HTTP/2.0", b"CONNECT", b"PROPFIND", b"http://localhost:8000/",
]  # fmt: skip
edits = st.lists(
    st.tuples(
        st.integers(0, 400), st.integers(0, 3), st.one_of(st.sampled_from(PIECES), st.binary(max_size=2))
    ),
    max_size=3,
)


def mutated(whole: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    said = bytearray(whole.removesuffix(b"\r\n"))
    for place, length, new in changes:
        # Whole lines go where lines begin: there they say something.
        at = (
            said.rfind(b"\n", 0, min(place, len(said))) + 1
            if new.endswith(b"\r\n") and new[:1].isalpha()
            else place
        )
        said[at : at + length * (at == place)] = new
    return bytes(said) + b"\r\n"


def request_verdict(head: RequestHead) -> object:
    return head, forwarded_request(head, PEER)


def response_verdict(head: ResponseHead) -> object:
    return head, forwarded_response(head, "backend")


@given(
    messages=st.lists(
        st.tuples(st.booleans(), st.integers(0, 20), edits, st.integers(1, 2)), min_size=1, max_size=8
    ),
    limit=st.sampled_from([0, 1, 5, 4096]),
)
@settings(max_examples=400)
def test_the_short_way_comes_to_the_verdict_of_the_long_one(
    messages: list[tuple[bool, int, list[tuple[int, int, bytes]], int]], limit: int
) -> None:
    """For any sequence of messages, whatever is remembered of those before: the same bytes go on."""
    reader = HeadReader(limit)
    for is_request, number, changes, times in messages:
        whole = ORDINARY[number % len(ORDINARY)] if is_request else ANSWERS[number % len(ANSWERS)]
        raw = mutated(whole, changes)
        for _ in range(times):
            if is_request:
                assert outcome(reader.request, request_verdict, raw) == outcome(
                    judge_request, request_verdict, raw
                )
            else:
                assert outcome(reader.response, response_verdict, raw) == outcome(
                    judge_response, response_verdict, raw
                )


def outcome(read: Callable[[bytes], T], verdict: Callable[[T], object], raw: bytes) -> object:
    try:
        return verdict(read(raw))
    except BadMessage as exc:
        return str(exc), exc.status
