"""The two doors of the control app, as tables: what is admitted, and how the rest is refused."""

from __future__ import annotations

from typing import Any

import pytest

from orchestra.control.doors import Request, admit, is_local

LOOPBACK = {b"host": b"localhost:8000", b"x-forwarded-for": b"127.0.0.1"}
LAN = {b"host": b"192.168.1.5:8000", b"x-forwarded-for": b"192.168.1.9"}
TUNNEL = {b"host": b"x.ngrok-free.app", b"x-forwarded-for": b"127.0.0.1"}
# What browsers send with requests of our own pages, and with those of others.
OWN = {b"sec-fetch-site": b"same-origin"}
OWN_ORIGIN = {b"origin": b"http://localhost:8000"}
EVIL = {b"sec-fetch-site": b"cross-site", b"origin": b"https://evil.example"}
SCRIPT = {b"sec-fetch-site": b"cross-site", b"sec-fetch-dest": b"script", b"sec-fetch-mode": b"no-cors"}
OTHER_PORT = {b"sec-fetch-site": b"same-site", b"origin": b"http://localhost:3000"}

ENDPOINTS = ["client.js", "live", "state", "events", "healthz", "readyz", "open"]
FOR_ALL = {"client.js", "live", "healthz", "readyz"}
FOR_PROGRAMS = {"state", "events", "healthz", "readyz"}
METHODS = {"open": "POST"}


def request(name: str, headers: dict[bytes, bytes], **more: Any) -> Request:
    fields: dict[str, Any] = {"method": METHODS.get(name, "GET"), "is_websocket": name == "live"}
    fields |= {"door": "browser"} | more
    return Request(name=name, headers=headers, **fields)


def status(name: str, *headers: dict[bytes, bytes], **more: Any) -> int:
    merged = {key: value for each in headers for key, value in each.items()}
    refusal = admit(request(name, merged, **more))
    return 200 if refusal is None else refusal.status


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize("sign", [OWN, OWN_ORIGIN, OWN | OWN_ORIGIN], ids=["site", "origin", "both"])
def test_a_page_of_this_origin_may_use_everything(name: str, sign: dict[bytes, bytes]) -> None:
    assert status(name, LOOPBACK, sign) == 200


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize(
    "sign",
    [
        pytest.param(EVIL, id="evil"),
        pytest.param({b"origin": b"https://evil.example"}, id="evil, old browser"),
        pytest.param(SCRIPT, id="script"),
        pytest.param(OTHER_PORT, id="other port"),
        pytest.param({b"origin": b"http://localhost:3000"}, id="other port, old browser"),
        pytest.param({b"sec-fetch-site": b"same-site"}, id="same-site script"),
        pytest.param(OWN | {b"origin": b"https://localhost:8000"}, id="other scheme"),
        pytest.param(OWN | {b"origin": b"http://127.0.0.1:8000"}, id="other name"),
        pytest.param(OWN | {b"origin": b"http://localhost"}, id="no port"),
        pytest.param(OWN | {b"origin": b"null"}, id="null"),
        pytest.param(OWN | {b"origin": b""}, id="empty"),
        pytest.param(OWN | {b"origin": b"http://localhost:8000, http://evil.example"}, id="two origins"),
        pytest.param({b"sec-fetch-site": b"same-origin, cross-site"}, id="two sites"),
    ],
)
def test_a_page_of_another_origin_may_use_nothing(name: str, sign: dict[bytes, bytes]) -> None:
    assert status(name, LOOPBACK, sign) == 403


@pytest.mark.parametrize("name", ["order", "place"])
def test_orders_and_environments_are_for_the_local_door_alone(name: str) -> None:
    assert status(name, {}, door="local", method="POST") == 200
    for headers in (LOOPBACK, LOOPBACK | OWN, LOOPBACK | OWN_ORIGIN, LAN, TUNNEL, EVIL):
        assert status(name, headers, method="POST") == 404
    assert (status("watch", {}, door="local"), status("watch", LOOPBACK)) == (200, 404)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_program_may_ask_how_the_run_is(name: str) -> None:
    """A request with neither Sec-Fetch-Site nor Origin, such as curl's."""
    assert status(name, LOOPBACK) == (200 if name in FOR_PROGRAMS else 403)
    assert status(name, LAN) == (200 if name in FOR_PROGRAMS & FOR_ALL else 403)


@pytest.mark.parametrize("name", ENDPOINTS)
@pytest.mark.parametrize(
    ("place", "origin"), [(LAN, b"http://192.168.1.5:8000"), (TUNNEL, b"http://x.ngrok-free.app")]
)
def test_what_comes_from_elsewhere_sees_nothing_of_the_project(
    name: str, place: dict[bytes, bytes], origin: bytes
) -> None:
    """A client by LAN address, and one behind a tunnel to loopback, on a page of this very origin."""
    assert status(name, place, {b"origin": origin}) == (200 if name in FOR_ALL else 403)
    assert status(name, place, OWN) == (200 if name in FOR_ALL else 403)


def test_a_browser_without_sec_fetch_gets_the_script_by_its_referer() -> None:
    """Over plain HTTP from another machine browsers send neither header with a script of the same origin."""
    assert status("client.js", LAN, {b"referer": b"http://192.168.1.5:8000/a/page?x=1"}) == 200
    assert status("client.js", LAN, {b"referer": b"http://192.168.1.5:8000"}) == 200
    assert status("client.js", LAN, {b"referer": b"http://evil.example/http://192.168.1.5:8000/"}) == 403
    assert status("client.js", LAN, {b"referer": b"http://192.168.1.5:8000.evil.example/"}) == 403
    assert status("open", LOOPBACK, {b"referer": b"http://localhost:8000/"}) == 403


@pytest.mark.parametrize(
    ("host", "forwarded", "expected"),
    [
        (b"localhost:8000", b"127.0.0.1", True),
        (b"LOCALHOST.:8000", b"127.0.0.1", True),
        (b"app.localhost:8000", b"::1", True),
        (b"[::1]:8000", b"::1", True),
        (b"127.8.8.8", b"127.0.0.2", True),
        (b"localhost:8000", b"::ffff:127.0.0.1", True),
        (b"localhost:8000", b"192.168.1.9", False),
        # What the client has written itself stands before the address that the proxy has added.
        (b"localhost:8000", b"127.0.0.1, 192.168.1.9", False),
        # A tunnel that writes our Host, and names its client.
        (b"localhost:8000", b"203.0.113.5, 127.0.0.1", False),
        (b"localhost:8000", b"127.0.0.1, 127.0.0.1", True),
        (b"localhost:8000", b"unknown", False),
        (b"localhost:8000", b"", False),
        (b"192.168.1.5:8000", b"127.0.0.1", False),
        (b"x.ngrok-free.app", b"127.0.0.1", False),
        (b"localhost.evil.example", b"127.0.0.1", False),
        (b"127.0.0.1.nip.io", b"127.0.0.1", False),
        (b"0.0.0.0:8000", b"127.0.0.1", False),
        (b"", b"127.0.0.1", False),
    ],
)
def test_local_is_loopback_at_both_ends(host: bytes, forwarded: bytes, *, expected: bool) -> None:
    headers = {b"host": host, b"x-forwarded-for": forwarded}
    assert is_local(request("state", headers)) is expected
    assert status("state", headers) == (200 if expected else 403)


def test_headers_that_are_missing_admit_nothing_local() -> None:
    assert status("state", {}) == status("open", OWN) == 403
    assert status("state", {b"host": b"localhost"}) == 403


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_local_program_may_use_everything(name: str) -> None:
    assert status(name, {b"host": b"anything"}, EVIL, door="local") == 200


@pytest.mark.parametrize("door", ["browser", "local"])
@pytest.mark.parametrize("name", ["", "nope", "state/", "State", "%73tate", "client.js.map", "../state"])
def test_other_names_do_not_exist(door: str, name: str) -> None:
    assert status(name, LOOPBACK, OWN, door=door) == 404


@pytest.mark.parametrize(
    ("name", "method", "allow"),
    [
        ("state", "POST", b"GET, HEAD"),
        ("healthz", "DELETE", b"GET, HEAD"),
        ("events", "HEAD", b"GET"),
        ("open", "GET", b"POST"),
        ("client.js", "OPTIONS", b"GET, HEAD"),
    ],
)
def test_a_method_that_is_not_taken_is_405(name: str, method: str, allow: bytes) -> None:
    refusal = admit(request(name, LOOPBACK | OWN, method=method))
    assert refusal is not None
    assert (refusal.status, dict(refusal.headers)) == (405, {b"allow": allow})


def test_only_live_is_a_websocket() -> None:
    assert status("live", LOOPBACK, OWN, is_websocket=False) == 426
    assert status("state", LOOPBACK, OWN, is_websocket=True) == 405


def test_a_preflight_of_another_origin_is_refused() -> None:
    assert status("open", LOOPBACK, OTHER_PORT, method="OPTIONS") == 403
