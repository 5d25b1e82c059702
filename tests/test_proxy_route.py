"""Who is asked, whose answer counts, and who waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from orchestra.config.plan import FromProcess, ProxyPlan
from orchestra.events import State
from orchestra.proxy.head import RequestHead, ResponseHead
from orchestra.proxy.route import (
    Route,
    Standing,
    Verdict,
    after_backend,
    after_early_frontend,
    after_frontend,
    is_asset,
    is_navigation,
    is_websocket,
    route_request,
    route_websocket,
    standing,
)

if TYPE_CHECKING:
    from orchestra.proxy.head import Headers

PLAN = ProxyPlan(
    backend=FromProcess(name="api"),
    frontend=FromProcess(name="vite"),
    frontend_websockets=("/live/", "/one", "/ws/hot", "/api"),
)
HTML = [(b"Content-Type", b"text/html; charset=utf-8")]
JSON = [(b"Content-Type", b"application/json")]
JS = [(b"Content-Type", b"text/javascript")]

CURL: Headers = [(b"Accept", b"*/*")]
NAVIGATES: Headers = [
    (b"Accept", b"text/html,application/xhtml+xml,*/*;q=0.8"),
    (b"Sec-Fetch-Mode", b"navigate"),
    (b"Sec-Fetch-Dest", b"document"),
]
FETCHES: Headers = [(b"Accept", b"*/*"), (b"Sec-Fetch-Mode", b"cors"), (b"Sec-Fetch-Dest", b"empty")]
OLD_BROWSER: Headers = [(b"Accept", b"text/html,*/*;q=0.8")]
AXIOS: Headers = [(b"Accept", b"application/json, text/plain, */*")]


def head(
    target: bytes, headers: Headers | None = None, method: bytes = b"GET", length: int | None = None
) -> RequestHead:
    return RequestHead.of(method, target, headers or [], length=length)


@pytest.mark.parametrize(
    ("request_head", "first", "may_fall_back"),
    [
        (head(b"/"), "backend", True),
        (head(b"/src/main.ts?t=1"), "backend", True),
        (head(b"/x", method=b"HEAD"), "backend", True),
        (head(b"/x", method=b"POST"), "backend", False),
        (head(b"/x", method=b"DELETE"), "backend", False),
        (head(b"/x", length=3), "backend", True),
        (head(b"/x", length=0), "backend", True),
        (head(b"/api"), "backend", False),
        (head(b"/api?x"), "backend", False),
        (head(b"/api/notes/7"), "backend", False),
        (head(b"/apiary"), "backend", True),
        (head(b"/x/api/y"), "backend", True),
        (head(b"/@vite/client"), "frontend", False),
        (head(b"/@id/__x00__a"), "frontend", False),
        (head(b"/@fs/home/x.ts?import"), "frontend", False),
        (head(b"/@react-refresh"), "frontend", False),
        (head(b"/@react-refreshing"), "backend", True),
        (head(b"/node_modules/.vite/deps/vue.js?v=1"), "frontend", False),
        (head(b"/node_modules/x.js"), "backend", True),
        (head(b"/__open-in-editor?file=a"), "frontend", False),
        (head(b"/", [(b"Accept", b"text/x-vite-ping")]), "frontend", False),
        (head(b"/__orchestra__/state"), "orchestra", False),
        (head(b"/__orchestra__"), "backend", True),
        (head(b"*", method=b"OPTIONS"), "orchestra", False),
    ],
)
def test_who_is_asked_first(request_head: RequestHead, first: str, *, may_fall_back: bool) -> None:
    route = route_request(request_head, PLAN)
    assert (route.first, route.may_fall_back) == (first, may_fall_back)
    assert route.reason


def test_vites_ping_is_known() -> None:
    assert route_request(head(b"/", [(b"Accept", b"text/x-vite-ping")]), PLAN).is_ping
    assert route_websocket(head(b"/", [(b"Sec-WebSocket-Protocol", b"vite-ping")]), PLAN).is_ping
    assert not route_websocket(head(b"/", [(b"Sec-WebSocket-Protocol", b"vite-hmr")]), PLAN).is_ping


@pytest.mark.parametrize(
    ("target", "protocol", "first", "kind"),
    [
        (b"/?token=x", b"vite-hmr", "frontend", "hmr"),
        (b"/", b"vite-ping", "frontend", "hmr"),
        (b"/api/x", b"vite-hmr", "frontend", "hmr"),
        (b"/", b"vite-hmr, other", "backend", "websocket"),
        (b"/", b"Vite-HMR", "backend", "websocket"),
        (b"/", b"", "backend", "websocket"),
        (b"/ws", b"chat", "backend", "websocket"),
        (b"/live/a", b"chat", "frontend", "websocket"),
        (b"/one?x", b"", "frontend", "websocket"),
        (b"/one/more", b"", "frontend", "websocket"),
        (b"/ones", b"", "backend", "websocket"),
        (b"/live", b"", "backend", "websocket"),
        (b"/ws/hot/x", b"", "frontend", "websocket"),
        (b"/ws/hotter", b"", "backend", "websocket"),
        (b"/api/x", b"", "frontend", "websocket"),
        (b"/__orchestra__/live", b"", "orchestra", None),
    ],
)
def test_exactly_vites_subprotocols_go_to_vite(
    target: bytes, protocol: bytes, first: str, kind: str | None
) -> None:
    headers = [(b"Sec-WebSocket-Protocol", protocol)] if protocol else []
    route = route_websocket(head(target, headers), PLAN)
    assert (route.first, route.kind) == (first, kind)


@pytest.mark.parametrize("target", [b"/api", b"/api/chat", b"/ws", b"/ws/1", b"/events"])
def test_sockets_of_the_backend_stay_its_own_even_if_there_is_none(target: bytes) -> None:
    plan = ProxyPlan(backend=FromProcess(name="api"), frontend=FromProcess(name="vite"))
    assert not route_websocket(head(target), plan).may_fall_back
    assert route_websocket(head(target + b"x"), plan).may_fall_back is (not target.count(b"/", 1))


@pytest.mark.parametrize(
    ("method", "expected"), [(b"GET", False), (b"POST", True), (b"PUT", False), (b"post", False)]
)
def test_the_methods_that_fall_back_are_the_users_to_choose(method: bytes, *, expected: bool) -> None:
    plan = ProxyPlan(
        backend=FromProcess(name="api"), frontend=FromProcess(name="vite"), fallback_methods=("POST",)
    )
    assert route_request(head(b"/x", method=method), plan).may_fall_back is expected
    assert not route_request(head(b"/api/x", method=method), plan).may_fall_back


@pytest.mark.parametrize(
    ("value", "expected"),
    [(b"websocket", True), (b"WebSocket", True), (b"h2c, websocket", True), (b"h2c", False)],
)
def test_only_websocket_is_an_upgrade(value: bytes, *, expected: bool) -> None:
    assert is_websocket(head(b"/", [(b"Upgrade", value)])) is expected


@pytest.mark.parametrize(
    ("request_head", "expected"),
    [
        (head(b"/deep/link", NAVIGATES), True),
        (head(b"/deep/link", OLD_BROWSER), True),
        (head(b"/deep/link", FETCHES), False),
        (head(b"/deep/link", CURL), False),
        (head(b"/deep/link", AXIOS), False),
        (head(b"/deep/link"), False),
        (head(b"/deep/link", [*OLD_BROWSER, (b"Sec-Fetch-Dest", b"empty")]), False),
        (head(b"/deep/link", [(b"Sec-Fetch-Dest", b"iframe")]), True),
        (head(b"/", CURL), True),
        (head(b"/?x", FETCHES), True),
        (head(b"/about.html", CURL), True),
        (head(b"/about.html", FETCHES), False),
        (head(b"/about.html", NAVIGATES), True),
        (head(b"/a?b.html", CURL), False),
        (head(b"/", NAVIGATES, b"POST"), False),
    ],
)
def test_who_navigates(request_head: RequestHead, *, expected: bool) -> None:
    assert is_navigation(request_head) is expected


def test_an_http_1_0_client_cannot_upgrade() -> None:
    assert not is_websocket(RequestHead.of(b"GET", b"/", [(b"Upgrade", b"websocket")], version=b"1.0"))


@pytest.mark.parametrize("dest", [b"script", b"style", b"font", b"image", b"worker", b"manifest"])
def test_what_a_page_loads_is_an_asset(dest: bytes) -> None:
    headers = [(b"Sec-Fetch-Dest", dest)]
    assert is_asset(head(b"/x", headers))
    assert is_asset(head(b"/x", headers, b"HEAD"))
    assert not is_asset(head(b"/x", headers, b"POST"))


@pytest.mark.parametrize("dest", [b"document", b"empty", b"iframe", b""])
def test_nothing_else_is_an_asset(dest: bytes) -> None:
    assert not is_asset(head(b"/x", [(b"Sec-Fetch-Dest", dest)]))
    assert not is_asset(head(b"/x"))


FALLS = Route(first="backend", reason="", may_fall_back=True)
STAYS = Route(first="backend", reason="")
NAVIGATION = Route(first="backend", reason="", may_fall_back=True, is_navigation=True)


@pytest.mark.parametrize(
    ("route", "answer", "verdict"),
    [
        (FALLS, ResponseHead.of(200, HTML), Verdict.ANSWER),
        (FALLS, ResponseHead.of(404, JSON), Verdict.PASS_OVER),
        (NAVIGATION, ResponseHead.of(404, JSON), Verdict.PASS_OVER),
        (FALLS, ResponseHead.of(410, HTML), Verdict.ANSWER),
        (FALLS, ResponseHead.of(405, HTML), Verdict.ANSWER),
        (FALLS, ResponseHead.of(500, HTML), Verdict.ANSWER),
        (STAYS, ResponseHead.of(404, JSON), Verdict.ANSWER),
        (FALLS, ResponseHead.of(404, [(b"x-orchestra-final", b"1")]), Verdict.ANSWER),
        (FALLS, ResponseHead.of(404, [(b"X-Orchestra-Final", b"0")]), Verdict.PASS_OVER),
        (FALLS, ResponseHead.of(404, JSON, length=262144), Verdict.PASS_OVER),
        (FALLS, ResponseHead.of(404, JSON, length=262145), Verdict.ANSWER),
        (FALLS, ResponseHead.of(404, [(b"Content-Type", b"text/event-stream")]), Verdict.ANSWER),
    ],
)
def test_only_a_404_falls_back(route: Route, answer: ResponseHead, verdict: Verdict) -> None:
    assert after_backend(route, answer)[0] is verdict


@pytest.mark.parametrize(
    ("route", "answer", "verdict"),
    [
        (FALLS, ResponseHead.of(200, JS), Verdict.ANSWER),
        (FALLS, ResponseHead.of(304, []), Verdict.ANSWER),
        (FALLS, ResponseHead.of(504, [], b"Outdated Optimize Dep"), Verdict.ANSWER),
        (FALLS, ResponseHead.of(500, HTML), Verdict.PASS_OVER),
        (FALLS, ResponseHead.of(200, HTML), Verdict.PASS_OVER),
        (NAVIGATION, ResponseHead.of(200, HTML), Verdict.ANSWER),
        (NAVIGATION, ResponseHead.of(302, []), Verdict.ANSWER),
        (NAVIGATION, ResponseHead.of(404, HTML), Verdict.PASS_OVER),
        (NAVIGATION, ResponseHead.of(405, []), Verdict.PASS_OVER),
        (NAVIGATION, ResponseHead.of(501, []), Verdict.PASS_OVER),
    ],
)
def test_vites_page_only_answers_who_navigates(route: Route, answer: ResponseHead, verdict: Verdict) -> None:
    assert after_frontend(route, answer)[0] is verdict


@pytest.mark.parametrize("headers", [NAVIGATES, FETCHES, OLD_BROWSER, CURL, AXIOS, []])
def test_an_honest_api_404_stays_one_whoever_asks(headers: Headers) -> None:
    route = route_request(head(b"/api/notes/7", headers), PLAN)
    assert after_backend(route, ResponseHead.of(404, JSON))[0] is Verdict.ANSWER


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (ResponseHead.of(200, JS), Verdict.ANSWER),
        (ResponseHead.of(206, JS), Verdict.ANSWER),
        (ResponseHead.of(304, []), Verdict.ANSWER),
        (ResponseHead.of(200, HTML), Verdict.PASS_OVER),
        (ResponseHead.of(302, []), Verdict.PASS_OVER),
        (ResponseHead.of(404, []), Verdict.PASS_OVER),
        (ResponseHead.of(500, JS), Verdict.PASS_OVER),
    ],
)
def test_what_counts_while_the_backend_cannot_be_asked(answer: ResponseHead, verdict: Verdict) -> None:
    assert after_early_frontend(answer) is verdict


@pytest.mark.parametrize(
    ("state", "died_early", "expected"),
    [
        (None, False, Standing.HOLD),
        (State.WAITING, False, Standing.HOLD),
        (State.INSTALLING, False, Standing.HOLD),
        (State.STARTING, False, Standing.HOLD),
        (State.RUNNING, False, Standing.HOLD),
        (State.STOPPING, False, Standing.HOLD),
        (State.BACKING_OFF, False, Standing.HOLD),
        (State.READY, False, Standing.READY),
        (State.UNHEALTHY, False, Standing.READY),
        (State.BACKING_OFF, True, Standing.FAIL),
        (State.STARTING, True, Standing.FAIL),
        (State.FAILED, False, Standing.FAIL),
        (State.FAILED, True, Standing.FAIL),
        (State.COMPLETED, False, Standing.FAIL),
        (State.STOPPED, False, Standing.FAIL),
    ],
)
def test_who_is_held_and_who_fails_fast(state: State | None, *, died_early: bool, expected: Standing) -> None:
    assert standing(state, died_early=died_early) is expected


@given(state=st.sampled_from(State), died_early=st.booleans())
def test_only_a_process_that_answered_is_ever_asked(state: State, *, died_early: bool) -> None:
    found = standing(state, died_early=died_early)
    assert (found is Standing.READY) == (state in (State.READY, State.UNHEALTHY))
