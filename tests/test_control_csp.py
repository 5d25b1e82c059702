"""What policies let the script do, by the rules of Content Security Policy Level 3."""

from __future__ import annotations

import pytest

from orchestra.control.csp import Origin, Verdict, forbids_connection, judge
from orchestra.proxy.head import HeadReader

HERE = Origin("http", "localhost", 8000)


@pytest.mark.parametrize(
    "policy",
    [
        "",
        ";;",
        "img-src 'none'",
        "script-src-attr 'none'; style-src 'none'; frame-ancestors 'none'",
        "default-src 'self'",
        "default-src *",
        "DEFAULT-SRC 'SELF'",
        "default-src 'none'; script-src 'self'; connect-src 'self'",
        "script-src 'none'; script-src-elem 'self'",
        "script-src http:",
        "script-src localhost:8000",
        "script-src localhost:*",
        "script-src http://LOCALHOST:8000",
        "script-src *:8000",
        "script-src http://localhost:8000/__orchestra__/",
        "script-src http://localhost:8000/__orchestra__/client%2Ejs",
        "script-src 'none' 'self'",
        "script-src 'self' 'unsafe-inline' 'sha256-AAAA'",
        "script-src 'self'; script-src 'none'",  # the first one counts
        "connect-src ws:",
        "connect-src ws://localhost:8000",
        "connect-src ws://localhost:*/__orchestra__/live",
        "sandbox allow-scripts allow-same-origin",
        "sandbox allow-forms Allow-Scripts ALLOW-same-origin",
        "default-src 'self', script-src *",
    ],
)
def test_a_policy_allows_the_script(policy: str) -> None:
    assert judge(policy, HERE) == Verdict()


@pytest.mark.parametrize(
    ("policy", "fault"),
    [
        ("default-src 'none'", None),
        ("script-src", "script-src"),
        ("script-src 'none'", None),
        ("script-src 'unsafe-inline' 'unsafe-eval'", None),
        ("script-src 'sha256-AAAA'", None),
        ("script-src https:", None),
        ("script-src ws: wss:", None),
        ("script-src localhost", None),  # port 80
        ("script-src localhost:8001", None),
        ("script-src 127.0.0.1:8000", None),
        ("script-src *.localhost:8000", None),
        ("script-src https://localhost:8000", None),
        ("script-src http://localhost:8000/static/", None),
        ("script-src http://localhost:8000/__orchestra__", None),
        ("script-src ?", None),
        ("script-src localhost:" + "8" * 5000, None),
        ("script-src 'self' 'strict-dynamic'", None),
        ("script-src 'self'; script-src-elem 'none'", "script-src-elem 'none'"),
        ("default-src 'none'; script-src 'self'", "default-src 'none'"),  # the socket
        ("default-src 'self'; connect-src 'none'", "connect-src 'none'"),
        ("connect-src http: https:", None),
        ("connect-src localhost:8000 http://localhost:8000 *:8000", None),
        ("connect-src https://api.example wss://api.example", None),
        ("sandbox", None),
        ("sandbox allow-scripts", None),
        ("default-src 'self', script-src 'none'", "script-src 'none'"),
        (
            "script-src 'nonce-YQ==', script-src 'nonce-Yg=='",
            "script-src 'nonce-...'",
        ),
        ("script-src 'nonce-YQ=='; connect-src 'none'", "connect-src 'none'"),
        ("script-src 'nonce-not\"one'", None),
    ],
)
def test_a_policy_forbids_the_script(policy: str, fault: str | None) -> None:
    assert judge(policy, HERE) == Verdict(fault=fault or policy)


@pytest.mark.parametrize(
    ("policy", "nonce"),
    [
        ("script-src 'nonce-YWJj'", "YWJj"),
        ("script-src 'Nonce-a-b_c=' 'strict-dynamic'", "a-b_c="),
        ("default-src 'self' 'nonce-YWJj'", "YWJj"),
        ("script-src-elem 'nonce-YQ=='; script-src 'nonce-Yg=='", "YQ=="),
        ("script-src 'nonce-YQ==', script-src 'self'", "YQ=="),
        ("script-src 'nonce-YQ==' 'self', script-src 'nonce-Yg=='", "Yg=="),
        ("style-src 'nonce-YQ=='", ""),
    ],
)
def test_the_nonce_is_one_that_all_policies_allow(policy: str, nonce: str) -> None:
    assert judge(policy, HERE) == Verdict(nonce)


@pytest.mark.parametrize(
    ("policy", "fault"),
    [
        ("script-src 'none'", ""),
        ("default-src 'self'", ""),
        ("default-src 'none'", "default-src 'none'"),
        ("connect-src https://api.example", "connect-src https://api.example"),
    ],
)
def test_a_policy_may_forbid_the_socket_alone(policy: str, fault: str) -> None:
    assert forbids_connection(policy, HERE) == fault


@pytest.mark.parametrize(
    ("host", "proto", "origin"),
    [
        (b"LocalHost:8000", None, HERE),
        (b"app.localhost", None, Origin("http", "app.localhost", 80)),
        (b"[::1]:8000", None, Origin("http", "[::1]", 8000)),
        (b"x.ngrok-free.app", b"https", Origin("https", "x.ngrok-free.app", 443)),
    ],
)
def test_the_origin_is_the_one_that_the_browser_sees(
    host: bytes, proto: bytes | None, origin: Origin
) -> None:
    more = b"X-Forwarded-Proto: " + proto + b"\r\n" if proto else b""
    head = HeadReader().request(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n" + more + b"\r\n")
    assert Origin.of(head) == origin


def test_behind_a_tunnel_the_origin_is_https() -> None:
    origin = Origin("https", "x.example", 443)
    assert judge("default-src https: wss:", origin) == Verdict()
    assert judge("script-src x.example; connect-src wss://x.example:443", origin) == Verdict()
    assert judge("connect-src ws:", origin) == Verdict()
    assert judge("connect-src https:", origin).fault
