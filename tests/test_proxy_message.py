"""What may pass an intermediary: heads, hop-by-hop fields, and the two gates."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from orchestra.proxy.message import (
    BadMessage,
    Peer,
    RequestHead,
    ResponseHead,
    end_of_head,
    forwarded_request,
    forwarded_response,
    forwarded_trailers,
    host_refusal,
    is_looping,
    is_obviously_no_request,
    judge_request,
    judge_response,
    origin_refusal,
    websocket_fault,
    without_hop_by_hop,
)

if TYPE_CHECKING:
    from orchestra.proxy.message import (
        Headers,
    )

PEER = Peer("127.0.0.1", 8000)
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
    with pytest.raises(BadMessage) as caught:
        judge_request(raw)
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
    assert head.headers == [
        (b"aCCept", b"*/*"),
        (b"Host", b"localhost"),
        (b"Cookie", b'a=1; b="\xfc"'),
        (b"COOKIE", b"c=2"),
        (b"X-Empty", b""),
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
    expected = end_of_head(bytearray(raw))
    buffer, searched = bytearray(), 0
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
    assert is_obviously_no_request(bytearray(start)) is expected


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
    with pytest.raises(BadMessage):
        judge_response(raw)


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
    assert (head.status, head.reason) == (status, reason)
    assert forwarded_response(head, "backend").reason == reason


# --- passing on ---


def test_fields_of_one_connection_do_not_pass() -> None:
    headers = [
        (b"Connection", b"keep-alive, X-Private"),
        (b"X-Private", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"TE", b"trailers"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Upgrade", b"h2c"),
        (b"HTTP2-Settings", b"x"),
        (b"connection", b"http2-settings"),
        (b"X-Kept", b"1"),
    ]
    assert without_hop_by_hop(headers) == [(b"X-Kept", b"1")]


def test_connection_cannot_take_away_what_frames_or_routes_a_message() -> None:
    headers = [(b"Connection", b"Host, Content-Length"), (b"Host", b"a"), (b"Content-Length", b"1")]
    assert without_hop_by_hop(headers) == headers[1:]


names = st.sampled_from([b"A", b"b", b"Set-Cookie", b"set-cookie", b"Connection", b"TE", b"Upgrade", b"X"])
values = st.sampled_from([b"", b"1", b"a, b", b"X", b"close"])


@given(st.lists(st.tuples(names, values)))
def test_what_passes_keeps_its_order_and_nothing_is_invented(headers: Headers) -> None:
    kept = without_hop_by_hop(headers)
    rest = iter(headers)
    assert all(field in rest for field in kept)
    assert without_hop_by_hop(kept) == kept


def test_a_gateway_says_who_it_forwards_for() -> None:
    fields = (
        HOST + b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: gopher\r\nVia: 1.0 fred\r\nAccept: */*\r\n"
    )
    head = forwarded_request(judge_request(request(fields=fields)), Peer("::1", 8000))
    assert head.headers == [
        (b"Host", b"localhost:8000"),
        (b"X-Forwarded-For", b"10.0.0.1, ::1"),
        (b"Via", b"1.0 fred"),
        (b"Accept", b"*/*"),
        (b"X-Forwarded-Host", b"localhost:8000"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Port", b"8000"),
        (b"Via", b"1.1 orchestra"),
    ]


def test_a_request_without_host_gets_one() -> None:
    head = forwarded_request(judge_request(request(b"GET / HTTP/1.0", b"")), PEER)
    assert head.headers[0] == (b"Host", b"localhost:8000")


def test_an_http_1_0_client_cannot_ask_for_100_continue() -> None:
    head = judge_request(request(b"POST / HTTP/1.0", b"Expect: 100-continue\r\nContent-Length: 1\r\n"))
    assert b"expect" not in [name.lower() for name, _ in forwarded_request(head, PEER).headers]


@pytest.mark.parametrize(("vias", "expected"), [(0, False), (1, False), (4, False), (5, True), (9, True)])
@pytest.mark.parametrize("is_listed", [True, False])
def test_a_request_that_goes_round_in_circles_is_known_by_its_via(
    vias: int,
    *,
    expected: bool,
    is_listed: bool,
) -> None:
    if is_listed:
        headers = [(b"Via", b"1.1 other, " + b", ".join([b"1.1 orchestra"] * vias))]
    else:
        headers = [(b"Via", b"1.1 orchestra")] * vias
    assert is_looping(RequestHead(b"GET", b"/", headers)) is expected


def test_trailers_that_frame_route_or_authorise_are_dropped() -> None:
    trailers = [
        (b"Content-Length", b"1"),
        (b"Host", b"x"),
        (b"Server-Timing", b"a"),
        (b"Authorization", b"b"),
    ]
    assert forwarded_trailers(trailers) == [(b"Server-Timing", b"a")]


def test_every_response_says_once_who_gave_it() -> None:
    head = ResponseHead(200, [(b"x-orchestra-upstream", b"lie"), (b"A", b"1")])
    assert forwarded_response(head, "frontend").headers == [
        (b"A", b"1"),
        (b"X-Orchestra-Upstream", b"frontend"),
    ]
    assert forwarded_response(ResponseHead(103, [(b"Link", b"x")]), "backend").headers == [(b"Link", b"x")]


# --- WebSockets and the gates ---

UPGRADE = (
    HOST + b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request(fields=UPGRADE), None),
        (request(b"POST / HTTP/1.1", UPGRADE), 400),
        (request(b"GET / HTTP/1.0", UPGRADE), 400),
        (request(fields=UPGRADE + b"Content-Length: 1\r\n"), 400),
        (request(fields=UPGRADE.replace(b"keep-alive, Upgrade", b"close")), 400),
        (request(fields=UPGRADE.replace(b"13", b"8")), 426),
        (request(fields=UPGRADE.replace(b"==", b"")), 400),
        (request(fields=UPGRADE + b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"), 400),
    ],
)
def test_a_websocket_begins_as_the_rfc_says(raw: bytes, status: int | None) -> None:
    fault = websocket_fault(judge_request(raw))
    assert (fault and fault[0]) == status


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"localhost",
        b"localhost:8000",
        b"LOCALHOST",
        b"localhost.",
        b"app.localhost:1",
        b"127.0.0.1:8000",
        b"192.168.1.5",
        b"[::1]:8000",
        b"[fe80::1]",
        b"dev.example:8000",
        b"x.sub.example",
    ],
)
def test_local_names_addresses_and_allowed_hosts_pass(host: bytes) -> None:
    assert host_refusal(host, ["Dev.example", ".sub.example"]) is None


@pytest.mark.parametrize(
    "host", [b"evil.example", b"localhost.evil.example", b"evil-localhost", b"127.0.0.1.nip.io"]
)
def test_other_names_are_refused_with_the_setting_to_add(host: bytes) -> None:
    refusal = host_refusal(host + b":8000", ["dev.example"])
    assert refusal is not None
    assert f'allowed_hosts = ["{host.decode()}"]' in refusal


@pytest.mark.parametrize(
    ("origin", "host", "passes"),
    [
        (None, b"localhost:8000", True),
        (b"http://localhost:8000", b"localhost:8000", True),
        (b"http://dev.example", b"dev.example", True),
        (b"http://127.0.0.1:8000", b"localhost:8000", True),
        (b"http://[::1]:8000", b"localhost:8000", True),
        (b"http://a.localhost:8000", b"localhost:8000", True),
        (b"https://ok.example", b"localhost:8000", True),
        (b"http://localhost:5173", b"localhost:8000", False),
        (b"http://evil.example", b"localhost:8000", False),
        (b"http://evil.example:8000", b"localhost:8000", False),
        (b"https://localhost:8000", b"localhost:8000", False),
        (b"null", b"localhost:8000", False),
        (b"", b"localhost:8000", False),
        (b"http://[::1", b"localhost:8000", False),
        (b"http://localhost:99999", b"localhost:8000", False),
    ],
)
def test_only_our_own_pages_and_allowed_ones_may_open_vites_socket(
    origin: bytes | None,
    host: bytes,
    *,
    passes: bool,
) -> None:
    refusal = origin_refusal(origin, host, 8000, ["https://OK.example/"])
    assert (refusal is None) is passes
