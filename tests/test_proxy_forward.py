"""What may pass an intermediary: hop-by-hop fields, what a gateway adds, and the two gates."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from orchestra.hosts import host_refusal, origin_refusal
from orchestra.proxy.forward import (
    MAX_VIA,
    Peer,
    forwarded_request,
    forwarded_response,
    keeps_alive,
    times_passed,
)
from orchestra.proxy.head import ResponseHead, judge_request
from orchestra.proxy.websocket import request_fault
from tests.proxy_kit import headers_of, request_head

if TYPE_CHECKING:
    from orchestra.proxy.head import Headers

PEER = Peer("127.0.0.1", 8000)
HOST = b"Host: localhost:8000\r\n"


def request(line: bytes = b"GET / HTTP/1.1", fields: bytes = HOST) -> bytes:
    return line + b"\r\n" + fields + b"\r\n"


# --- passing on ---


def passed(headers: Headers) -> Headers:
    """What of the fields an answer passes on."""
    raw = forwarded_response(ResponseHead.of(200, headers), "backend")
    return headers_of(raw)[:-1]


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
    assert passed(headers) == [(b"X-Kept", b"1")]


def test_connection_cannot_take_away_what_frames_or_routes_a_message() -> None:
    headers = [(b"Connection", b"Host, Content-Length"), (b"Host", b"a"), (b"Content-Length", b"1")]
    assert passed(headers) == headers[1:]


names = st.sampled_from([b"A", b"b", b"Set-Cookie", b"set-cookie", b"Connection", b"TE", b"Upgrade", b"X"])
values = st.sampled_from([b"", b"1", b"a, b", b"X", b"close", b"keep-alive"])


@given(st.lists(st.tuples(names, values)))
def test_what_passes_keeps_its_order_and_nothing_is_invented(headers: Headers) -> None:
    kept = passed(headers)
    rest = iter(headers)
    assert all(field in rest for field in kept)
    assert passed(kept) == kept
    private = {name.lower() for name, _ in headers} & {b"connection", b"te", b"upgrade"}
    assert not private & {name.lower() for name, _ in kept}


def test_a_forwarded_request_names_its_client() -> None:
    fields = (
        HOST + b"X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: gopher\r\nVia: 1.0 fred\r\nAccept: */*\r\n"
    )
    head = forwarded_request(judge_request(request(fields=fields)), Peer("::1", 8000))
    assert headers_of(head) == [
        (b"Host", b"localhost:8000"),
        (b"X-Forwarded-For", b"10.0.0.1, ::1"),
        (b"Via", b"1.0 fred"),
        (b"Accept", b"*/*"),
        (b"X-Forwarded-Host", b"localhost:8000"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Port", b"8000"),
        (b"Via", b"1.1 orchestra"),
    ]


def test_a_client_cannot_hide_the_clients_before_it() -> None:
    """By calling ``X-Forwarded-For`` hop-by-hop, through a tunnel that passes ``Connection`` on."""
    fields = HOST + b"X-Forwarded-For: 10.0.0.1\r\nConnection: X-Forwarded-For\r\n"
    head = forwarded_request(judge_request(request(fields=fields)), PEER)
    assert (b"X-Forwarded-For", b"10.0.0.1, %b" % PEER.address.encode()) in headers_of(head)


def test_a_request_without_host_gets_one() -> None:
    head = forwarded_request(judge_request(request(b"GET / HTTP/1.0", b"")), PEER)
    assert headers_of(head)[0] == (b"Host", b"localhost:8000")


def test_an_http_1_0_client_cannot_ask_for_100_continue() -> None:
    head = judge_request(request(b"POST / HTTP/1.0", b"Expect: 100-continue\r\nContent-Length: 1\r\n"))
    assert b"expect" not in [name.lower() for name, _ in headers_of(forwarded_request(head, PEER))]


@pytest.mark.parametrize(
    ("version", "connection", "expected"),
    [
        (b"1.1", None, True),
        (b"1.1", b"keep-alive", True),
        (b"1.1", b"x, Close", False),
        (b"1.0", b"keep-alive", False),
    ],
)
def test_a_connection_is_kept_unless_its_sender_closes_it(
    version: bytes, connection: bytes | None, *, expected: bool
) -> None:
    headers = [] if connection is None else [(b"Connection", connection)]
    assert keeps_alive(request_head(b"GET", b"/", headers, version=version)) is expected


@pytest.mark.parametrize(("vias", "expected"), [(0, False), (1, False), (4, False), (5, True), (9, True)])
@pytest.mark.parametrize("is_listed", [True, False])
def test_a_loop_of_proxies_is_known_by_its_via(
    vias: int,
    *,
    expected: bool,
    is_listed: bool,
) -> None:
    if is_listed:
        headers = [(b"Via", b"1.1 other, " + b", ".join([b"1.1 orchestra"] * vias))]
    else:
        headers = [(b"Via", b"1.1 orchestra")] * vias
    assert (times_passed(request_head(b"GET", b"/", headers)) >= MAX_VIA) is expected


def test_every_response_names_its_upstream_once() -> None:
    head = ResponseHead.of(200, [(b"x-orchestra-upstream", b"lie"), (b"A", b"1")])
    assert headers_of(forwarded_response(head, "frontend")) == [
        (b"A", b"1"),
        (b"X-Orchestra-Upstream", b"frontend"),
    ]
    early = ResponseHead.of(103, [(b"Link", b"x")])
    assert headers_of(forwarded_response(early, "backend")) == [(b"Link", b"x")]


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
    fault = request_fault(judge_request(raw))
    assert (fault and fault.status) == status


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
    assert host_refusal(host, ("Dev.example", ".sub.example")) is None


@pytest.mark.parametrize(
    "host", [b"evil.example", b"localhost.evil.example", b"evil-localhost", b"127.0.0.1.nip.io"]
)
def test_other_names_are_refused_with_the_setting_to_add(host: bytes) -> None:
    refusal = host_refusal(host + b":8000", ("dev.example",))
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
