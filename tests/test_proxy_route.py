"""Which upstream is asked, whose answer counts, and what waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from orchestra.config.plan import FromProcess, ProxyPlan
from orchestra.control.pages import page_of
from orchestra.errors import UpstreamError
from orchestra.events import State, StateChanged
from orchestra.proxy.head import ResponseHead
from orchestra.proxy.request import is_asset, is_navigation, is_websocket
from orchestra.proxy.route import (
    Answer,
    Ask,
    Availability,
    Fail,
    Route,
    Signal,
    Unavailable,
    availability,
)
from orchestra.proxy.rules import Router
from tests.proxy_kit import request_head

if TYPE_CHECKING:
    from orchestra.proxy.head import Headers, RequestHead
    from orchestra.proxy.route import Step
    from orchestra.proxy.rules import WebSocketRoute

READY, HOLD, FAIL, ABSENT = Availability
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
    return request_head(method, target, headers or [], length=length)


ROUTER = Router(PLAN)
NOT_FOUND = ResponseHead.of(404, JSON)
KEPT = Answer("", is_kept=True)


def begin(
    request_head: RequestHead,
    router: Router = ROUTER,
    backend: Availability = READY,
    frontend: Availability = READY,
) -> tuple[Route, Step]:
    route = Route(request_head, router)
    return route, route.begin(backend, frontend)


def websocket(
    request_head: RequestHead, *, has_backend: bool = True, has_frontend: bool = True
) -> WebSocketRoute:
    return ROUTER.websocket(request_head, has_backend=has_backend, has_frontend=has_frontend)


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
        (head(b"/__orchestra__/live", [(b"Upgrade", b"websocket")]), "orchestra", False),
        (head(b"/__orchestra__"), "backend", True),
        (head(b"*", method=b"OPTIONS"), "orchestra", False),
    ],
)
def test_which_upstream_is_asked_first(request_head: RequestHead, first: str, *, may_fall_back: bool) -> None:
    route, step = begin(request_head)
    if first == "orchestra":
        assert step is Signal.ANSWER_OWN
        return
    assert step == Ask(side="frontend" if first == "frontend" else "backend")
    after = route.next(NOT_FOUND)
    assert (after == Ask(side="frontend", keeps_answer=True)) is may_fall_back
    if not may_fall_back:
        assert isinstance(after, Answer)
        assert after.reason


def test_vites_ping_is_reset_unless_vite_answers_it() -> None:
    ping = head(b"/", [(b"Accept", b"text/x-vite-ping")])
    assert begin(ping, frontend=HOLD)[1] is Signal.RESET
    route, step = begin(ping)
    assert step == Ask(side="frontend")
    assert route.next(UpstreamError("gone")) is Signal.RESET
    assert websocket(head(b"/", [(b"Sec-WebSocket-Protocol", b"vite-ping")])).is_ping
    assert not websocket(head(b"/", [(b"Sec-WebSocket-Protocol", b"vite-hmr")])).is_ping


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
    ],
)
def test_exactly_vites_subprotocols_go_to_vite(target: bytes, protocol: bytes, first: str, kind: str) -> None:
    headers = [(b"Sec-WebSocket-Protocol", protocol)] if protocol else []
    route = websocket(head(target, headers))
    assert (route.side, route.kind) == (first, kind)


@pytest.mark.parametrize("target", [b"/api", b"/api/chat", b"/ws", b"/ws/1", b"/events"])
def test_sockets_of_the_backend_stay_its_own_even_if_there_is_none(target: bytes) -> None:
    plan = ProxyPlan(backend=FromProcess(name="api"), frontend=FromProcess(name="vite"))
    router = Router(plan)
    assert router.websocket(head(target), has_backend=False, has_frontend=True).side == "backend"
    other = router.websocket(head(target + b"x"), has_backend=False, has_frontend=True).side
    assert (other == "frontend") is (not target.count(b"/", 1))


@pytest.mark.parametrize(
    ("target", "protocol", "reason", "is_guess"),
    [
        (b"/chat", b"", "not in backend_paths", True),
        (b"/media/x", b"", "backend answered", False),
        (b"/ws", b"", "backend answered", False),
        (b"/live/x", b"", "frontend_websockets", False),
        (b"/own/x", b"", "frontend_paths", True),
        (b"/", b"vite-hmr", "subprotocol vite-hmr", False),
    ],
)
def test_vite_is_only_trusted_with_sockets_that_it_should_have(
    target: bytes, protocol: bytes, reason: str, *, is_guess: bool
) -> None:
    router = Router(replace(PLAN, backend_paths=("/media",), frontend_paths=("/own",)))
    headers = [(b"Sec-WebSocket-Protocol", protocol)] if protocol else []
    route = router.websocket(head(target, headers), has_backend=True, has_frontend=True)
    assert (route.reason, route.is_guess) == (reason, is_guess)


def test_without_a_frontend_all_sockets_are_the_backends() -> None:
    hmr = head(b"/", [(b"Sec-WebSocket-Protocol", b"vite-hmr")])
    assert websocket(hmr, has_frontend=False).side == "backend"


@pytest.mark.parametrize(
    ("method", "expected"), [(b"GET", False), (b"POST", True), (b"PUT", False), (b"post", False)]
)
def test_the_methods_that_fall_back_are_the_users_to_choose(method: bytes, *, expected: bool) -> None:
    plan = ProxyPlan(
        backend=FromProcess(name="api"), frontend=FromProcess(name="vite"), fallback_methods=("POST",)
    )
    route, _ = begin(head(b"/x", method=method), Router(plan))
    assert isinstance(route.next(NOT_FOUND), Ask) is expected
    route, _ = begin(head(b"/api/x", method=method), Router(plan))
    assert isinstance(route.next(NOT_FOUND), Answer)


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
def test_which_requests_are_navigations(request_head: RequestHead, *, expected: bool) -> None:
    assert is_navigation(request_head) is expected


def test_an_http_1_0_client_cannot_upgrade() -> None:
    assert not is_websocket(request_head(b"GET", b"/", [(b"Upgrade", b"websocket")], version=b"1.0"))


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


FALLS = head(b"/x", CURL)
STAYS = head(b"/api/x", CURL)
NAVIGATION = head(b"/x", NAVIGATES)


@pytest.mark.parametrize(
    ("request_head", "answer", "falls_back"),
    [
        (FALLS, ResponseHead.of(200, HTML), False),
        (FALLS, ResponseHead.of(404, JSON), True),
        (NAVIGATION, ResponseHead.of(404, JSON), True),
        (FALLS, ResponseHead.of(410, HTML), False),
        (FALLS, ResponseHead.of(405, HTML), False),
        (FALLS, ResponseHead.of(500, HTML), False),
        (STAYS, ResponseHead.of(404, JSON), False),
        (FALLS, ResponseHead.of(404, [(b"x-orchestra-final", b"1")]), False),
        (FALLS, ResponseHead.of(404, [(b"X-Orchestra-Final", b"0")]), True),
        (FALLS, ResponseHead.of(404, [*JSON, (b"Content-Length", b"262144")]), True),
        (FALLS, ResponseHead.of(404, [*JSON, (b"Content-Length", b"262145")]), False),
        (FALLS, ResponseHead.of(404, [(b"Content-Type", b"text/event-stream")]), False),
    ],
)
def test_only_a_404_falls_back(request_head: RequestHead, answer: ResponseHead, *, falls_back: bool) -> None:
    step = begin(request_head)[0].next(answer)
    assert (step == Ask(side="frontend", keeps_answer=True)) is falls_back
    assert falls_back or (isinstance(step, Answer) and not step.is_kept)


def test_a_404_whose_body_cannot_be_sent_again_stands() -> None:
    route, _ = begin(head(b"/x", length=PLAN.replay_bytes + 1))
    assert route.next(NOT_FOUND) == Answer("backend 404, body too long to be sent again")


def fallen_back(request_head: RequestHead) -> Route:
    route, _ = begin(request_head)
    route.next(NOT_FOUND)
    return route


@pytest.mark.parametrize(
    ("request_head", "answer", "replaces"),
    [
        (FALLS, ResponseHead.of(200, JS), True),
        (FALLS, ResponseHead.of(304, []), True),
        (FALLS, ResponseHead.of(504, [], b"Outdated Optimize Dep"), True),
        (FALLS, ResponseHead.of(500, HTML), False),
        (FALLS, ResponseHead.of(200, HTML), False),
        (NAVIGATION, ResponseHead.of(200, HTML), True),
        (NAVIGATION, ResponseHead.of(302, []), True),
        (NAVIGATION, ResponseHead.of(404, HTML), True),
        (NAVIGATION, ResponseHead.of(404, JSON), False),
        (FALLS, ResponseHead.of(404, HTML), False),
        (NAVIGATION, ResponseHead.of(405, []), False),
        (NAVIGATION, ResponseHead.of(501, []), False),
    ],
)
def test_vites_page_only_answers_a_navigation(
    request_head: RequestHead, answer: ResponseHead, *, replaces: bool
) -> None:
    step = fallen_back(request_head).next(answer)
    assert isinstance(step, Answer)
    assert step.is_kept is not replaces


@pytest.mark.parametrize(
    ("request_head", "outcome", "is_told"),
    [
        (FALLS, UpstreamError("gone"), False),
        (NAVIGATION, UpstreamError("gone"), True),
        (NAVIGATION, Unavailable("frontend", ABSENT, "there is none"), False),
    ],
)
def test_without_vites_answer_the_404_stands_or_a_navigation_is_told(
    request_head: RequestHead, outcome: UpstreamError, *, is_told: bool
) -> None:
    step = fallen_back(request_head).next(outcome)
    assert isinstance(step, Fail) if is_told else (isinstance(step, Answer) and step.is_kept)


@pytest.mark.parametrize("headers", [NAVIGATES, FETCHES, OLD_BROWSER, CURL, AXIOS, []])
def test_an_honest_api_404_stays_one_whatever_is_accepted(headers: Headers) -> None:
    assert begin(head(b"/api/notes/7", headers))[0].next(NOT_FOUND) == Answer("backend 404, never falls back")


ASSET = head(b"/x.js", [(b"Sec-Fetch-Dest", b"script")])


@pytest.mark.parametrize(
    ("backend", "frontend", "step"),
    [
        (READY, READY, Ask(side="backend")),
        (HOLD, READY, Ask(side="frontend")),
        (FAIL, READY, Ask(side="frontend")),
        (HOLD, HOLD, Signal.WAIT),
        (FAIL, HOLD, Signal.WAIT),
        (HOLD, FAIL, Ask(side="backend")),
        (HOLD, ABSENT, Ask(side="backend")),
        (ABSENT, READY, Ask(side="backend")),
    ],
)
def test_an_asset_is_asked_of_what_is_ready_first(
    backend: Availability, frontend: Availability, step: Step
) -> None:
    assert begin(ASSET, backend=backend, frontend=frontend)[1] == step
    if step is Signal.WAIT:
        assert Route(ASSET, ROUTER).begin(backend, frontend, may_wait=False) == Ask(side="backend")
    assert begin(FALLS, backend=backend, frontend=frontend)[1] == Ask(side="backend")


@pytest.mark.parametrize(
    ("answer", "counts"),
    [
        (ResponseHead.of(200, JS), True),
        (ResponseHead.of(206, JS), True),
        (ResponseHead.of(304, []), True),
        (ResponseHead.of(200, HTML), False),
        (ResponseHead.of(302, []), False),
        (ResponseHead.of(404, []), False),
        (ResponseHead.of(500, JS), True),
        (ResponseHead.of(504, [], b"Outdated Optimize Dep"), True),
    ],
)
def test_what_counts_while_the_backend_cannot_be_asked(answer: ResponseHead, *, counts: bool) -> None:
    step = begin(ASSET, Router(PLAN), backend=HOLD)[0].next(answer)
    assert step == (Answer("asset, backend not ready") if counts else Ask(side="backend"))


@pytest.mark.parametrize(
    ("request_head", "answer", "counts"),
    [
        (NAVIGATION, ResponseHead.of(200, HTML), True),
        (head(b"/api/x", NAVIGATES), ResponseHead.of(200, HTML), False),
        (FALLS, ResponseHead.of(200, HTML), False),
        (FALLS, ResponseHead.of(200, JS), True),
        (STAYS, ResponseHead.of(404, []), True),
    ],
)
def test_where_no_backend_was_found_vites_page_is_no_data(
    request_head: RequestHead, answer: ResponseHead, *, counts: bool
) -> None:
    route, _ = begin(request_head, backend=ABSENT)
    absent = Unavailable("backend", ABSENT, "there is none")
    assert route.next(absent) == Ask(side="frontend")
    assert route.next(answer) == (Answer("no backend") if counts else Fail(absent))


def report(state: State, *, ended_before_ready: bool, has_url: bool) -> StateChanged:
    url = "http://127.0.0.1:5173" if has_url else None
    return StateChanged(
        process="api", state=state, previous=state, url=url, ended_before_ready=ended_before_ready
    )


@pytest.mark.parametrize(
    ("state", "ended_before_ready", "has_url", "expected"),
    [
        (None, False, False, HOLD),
        (State.WAITING, False, False, HOLD),
        (State.INSTALLING, False, False, HOLD),
        (State.STARTING, False, True, HOLD),
        (State.RUNNING, False, True, HOLD),
        (State.STOPPING, False, True, HOLD),
        (State.BACKING_OFF, False, False, HOLD),
        (State.READY, False, True, READY),
        (State.READY, False, False, HOLD),
        (State.UNHEALTHY, False, True, READY),
        (State.UNHEALTHY, False, False, FAIL),
        (State.BACKING_OFF, True, False, FAIL),
        (State.STARTING, True, False, FAIL),
        (State.FAILED, False, False, FAIL),
        (State.FAILED, True, False, FAIL),
        (State.COMPLETED, False, False, FAIL),
        (State.STOPPED, False, False, FAIL),
    ],
)
def test_what_is_held_and_what_fails_fast(
    state: State | None, *, ended_before_ready: bool, has_url: bool, expected: Availability
) -> None:
    newest = report(state, ended_before_ready=ended_before_ready, has_url=has_url) if state else None
    assert availability(newest) is expected


@given(state=st.sampled_from(State), ended=st.booleans(), has_url=st.booleans())
def test_only_a_process_that_answered_is_ever_asked(state: State, *, ended: bool, has_url: bool) -> None:
    found = availability(report(state, ended_before_ready=ended, has_url=has_url))
    assert (found is READY) == (has_url and state in (State.READY, State.UNHEALTHY))


# --- Our own paths, and the page that a request is for ---


@pytest.mark.parametrize(("backend", "frontend"), [(READY, READY), (FAIL, ABSENT), (HOLD, HOLD)])
def test_own_paths_are_served_whatever_the_upstreams_are(
    backend: Availability, frontend: Availability
) -> None:
    router = Router(PLAN, has_own=True)
    route, step = begin(head(b"/__orchestra__/state"), router, backend, frontend)
    assert step == Ask("orchestra")
    assert route.next(NOT_FOUND) == Answer("orchestra's own path")
    failure = UpstreamError("gone")
    route, _ = begin(head(b"/__orchestra__/state"), router, backend, frontend)
    assert route.next(failure) == Fail(failure)
    live = head(
        b"/__orchestra__/live", [(b"Upgrade", b"websocket"), (b"Sec-WebSocket-Protocol", b"vite-hmr")]
    )
    _, step = begin(live, router, backend, frontend)
    assert step is Signal.UPGRADE
    assert router.websocket(live, has_backend=True, has_frontend=True).side == "orchestra"
    assert begin(head(b"*", method=b"OPTIONS"), router)[1] is Signal.ANSWER_OWN
    assert begin(head(b"/__orchestra__"), router)[1] == Ask("backend")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (NAVIGATES, ("/a/b", True)),
        ([*NAVIGATES, (b"Referer", b"http://localhost:8000/other")], ("/a/b", True)),
        (FETCHES, ("", False)),
        ([*FETCHES, (b"Referer", b"http://localhost:8000/notes/7?x=/y#z")], ("/notes/7", False)),
        ([*FETCHES, (b"Referer", b"http://localhost:8000/")], ("/", False)),
        ([*FETCHES, (b"Referer", b"https://localhost:8000/x")], ("/x", False)),
        ([*FETCHES, (b"Referer", b"http://localhost:80/x")], ("", False)),
        ([*FETCHES, (b"Referer", b"http://evil.example/localhost:8000/x")], ("", False)),
        ([*FETCHES, (b"Referer", b"\xff")], ("", False)),
    ],
)
def test_the_page_of_a_request_is_its_own_or_its_referers(
    headers: Headers, expected: tuple[str, bool]
) -> None:
    assert page_of(replace(head(b"/a/b?c", headers), host=b"localhost:8000")) == expected
