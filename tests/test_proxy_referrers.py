"""What a request is for: the table of `route`, and what is learned of paths on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from orchestra.config.plan import FromProcess, ProxyPlan
from orchestra.proxy.head import ResponseHead
from orchestra.proxy.request import is_for_a_window, is_named_like_an_asset
from orchestra.proxy.route import Answer, Ask, Availability, Route
from orchestra.proxy.rules import ASSET_BYTES, PAGE_BYTES, Router, Sides
from orchestra.remembered import FrontendPages
from tests.proxy_kit import request_head

if TYPE_CHECKING:
    from orchestra.proxy.head import Headers, RequestHead
    from orchestra.proxy.route import Step

READY, HOLD, FAIL, ABSENT = Availability
ORIGIN = b"http://localhost:8000"
HTML: Headers = [(b"Content-Type", b"text/html; charset=utf-8")]
JSON: Headers = [(b"Content-Type", b"application/json")]
JS: Headers = [(b"Content-Type", b"text/javascript")]
PNG: Headers = [(b"Content-Type", b"image/png")]
PAGE, MODULE, IMAGE = ResponseHead.of(200, HTML), ResponseHead.of(200, JS), ResponseHead.of(200, PNG)
NOT_FOUND = ResponseHead.of(404, JSON)
NAVIGATES: Headers = [
    (b"Accept", b"text/html,*/*;q=0.8"),
    (b"Sec-Fetch-Site", b"none"),
    (b"Sec-Fetch-Mode", b"navigate"),
    (b"Sec-Fetch-Dest", b"document"),
]
BACKEND, FRONTEND, FALLS_BACK = Ask("backend"), Ask("frontend"), Ask("frontend", keeps_answer=True)
DESTINATIONS = (
    b"script style font image audio video track manifest worker sharedworker serviceworker audioworklet"
    b" paintworklet json"
).split()


def plan(**settings: object) -> ProxyPlan:
    return ProxyPlan(backend=FromProcess(name="api"), frontend=FromProcess(name="vite"), **settings)  # type: ignore[arg-type]


def head(
    target: bytes, headers: Headers, *, method: bytes = b"GET", length: int | None = None
) -> RequestHead:
    return replace(request_head(method, target, headers, length=length), host=b"localhost:8000")


def part(dest: bytes, page: bytes | None, *, site: bytes = b"same-origin") -> Headers:
    """The headers of a part of a page, as Chromium sends them to localhost."""
    mode = b"cors" if dest == b"empty" else b"no-cors"
    sent = [(b"Accept", b"*/*"), (b"Sec-Fetch-Site", site), (b"Sec-Fetch-Mode", mode)]
    named = [] if page is None else [(b"Referer", (ORIGIN if page.startswith(b"/") else b"") + page)]
    return [*sent, (b"Sec-Fetch-Dest", dest), *named]


def elsewhere(page: bytes) -> Headers:
    """The headers of the same to an address in the network: no Fetch Metadata."""
    return [(b"Accept", b"*/*"), (b"Referer", ORIGIN + page)]


def begin(router: Router, request: RequestHead, backend: Availability = READY) -> tuple[Route, Step]:
    route = Route(request, router)
    return route, route.begin(backend, READY)


def sees(router: Router, request: RequestHead, *answers: ResponseHead) -> list[Step]:
    """The steps of a request whose upstreams answer so, one after the other."""
    route, step = begin(router, request)
    return [step, *(route.next(each) for each in answers)]


def looked_at(path: bytes = b"/", **settings: object) -> Router:
    """A router after a window has got the frontend's page, which the backend does not know."""
    router = Router(plan(**settings))
    sees(router, head(path, NAVIGATES), NOT_FOUND, PAGE)
    return router


def asked_first(router: Router, target: bytes, headers: Headers, *, method: bytes = b"GET") -> str:
    step = begin(router, head(target, headers, method=method))[1]
    assert isinstance(step, Ask)
    return step.side


# --- The settings ---


@pytest.mark.parametrize(
    ("settings", "frontends", "backends"),
    [
        ({}, ["/@vite/client", "/node_modules/.vite/x.js"], []),
        ({"frontend_paths": ("/",)}, ["/", "/x", "/apiary"], ["/api", "/api/x"]),
        ({"frontend_paths": ("/", "/api/auth")}, ["/api/auth/login", "/x"], ["/api/authors"]),
        ({"backend_paths": ("/api", "/media/")}, ["/", "/x", "/media", "/src/a.ts"], ["/api/x", "/media/a"]),
        ({"backend_paths": ("/rest",)}, ["/api/x", "/@vite/client"], ["/rest"]),
        ({"backend_paths": ("/",), "frontend_paths": ("/app",)}, ["/app/x", "/@id/x"], ["/", "/x", "/api"]),
        ({"backend_paths": ("/m",), "api_prefix": "/rest"}, ["/api"], ["/rest/x", "/m/x"]),
        ({"backend_paths": ("/x",), "frontend_paths": ("/x", "/x/y")}, ["/x", "/x/y/z"], []),
        ({"backend_paths": ("/@vite/mine",)}, ["/@vite/mine"], []),
    ],
)
@pytest.mark.parametrize("is_socket", [False, True])
def test_the_longest_prefix_wins_for_requests_and_sockets(
    settings: dict[str, object], frontends: list[str], backends: list[str], *, is_socket: bool
) -> None:
    router = Router(plan(**settings))
    for side, paths in (("frontend", frontends), ("backend", backends)):
        for each in paths:
            request = head(each.encode(), NAVIGATES)
            socket = router.websocket(request, has_backend=True, has_frontend=True).side
            assert (socket if is_socket else asked_first(router, each.encode(), NAVIGATES)) == side, each


@given(
    frontends=st.lists(st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/ab"])),
    backends=st.lists(st.sampled_from(["/", "/a", "/a/b", "/b", "/a/b/c"]), min_size=1),
    path=st.sampled_from(["/", "/a", "/a/b", "/a/b/c", "/ab", "/a/b/c/d", "/b/x"]),
)
def test_no_shorter_prefix_ever_wins(frontends: list[str], backends: list[str], path: str) -> None:
    router = Router(plan(frontend_paths=tuple(frontends), backend_paths=tuple(backends)))

    def longest(prefixes: list[str]) -> int:
        matching = [each for each in prefixes if path == each or path.startswith(each.rstrip("/") + "/")]
        return max(map(len, matching), default=0)

    expected = "backend" if longest(backends) > longest(frontends) else "frontend"
    assert asked_first(router, path.encode(), NAVIGATES) == expected


def test_a_prefix_is_written_as_people_read_it() -> None:
    router = Router(plan(backend_paths=("/caf\xe9", "/a%20b")))
    for path in (b"/caf%C3%A9/x", b"/a%20b"):
        assert router.side_of(path) == "backend"
    assert router.side_of(b"/cafe") == "frontend"


@pytest.mark.parametrize("answer", [ResponseHead.of(status, JSON) for status in (200, 401, 404, 405, 500)])
def test_what_is_the_backends_by_the_settings_never_falls_back(answer: ResponseHead) -> None:
    router = Router(plan(backend_paths=("/media",)))
    for headers in (NAVIGATES, part(b"script", b"/"), part(b"empty", b"/")):
        _, step = sees(router, head(b"/media/x", headers), answer)
        assert isinstance(step, Answer)


@pytest.mark.parametrize(
    ("path", "upstream"),
    [
        ("/admin", "/admin/"),
        ("/admin/", "/admin/"),
        ("/admin/users/7", "/admin/"),
        ("/admin/@vite/client", "/admin/"),
        ("/admin/old/x", "/admin/old"),
        ("/admin/api/x", "backend"),
        ("/admin/shared/a.js", "frontend"),
        ("/administration", "backend"),
        ("/api/x", "backend"),
        ("/", "backend"),
        ("/@vite/client", "frontend"),
    ],
)
def test_a_further_frontend_has_what_is_below_its_prefix(path: str, upstream: str) -> None:
    further = {"/admin/": FromProcess(name="admin"), "/admin/old": FromProcess(name="old")}
    router = Router(plan(frontends=further, api_prefix="/admin/api", frontend_paths=("/admin/shared",)))
    side = asked_first(router, path.encode(), NAVIGATES)
    assert (router.frontend_of(path.encode()) if side == "frontend" else side) == (
        "backend" if path == "/api/x" else upstream
    )
    # Vite's socket, and its question whether it is there, go to the one below whose base they are.
    hmr = router.websocket(
        head(path.encode(), [(b"Sec-WebSocket-Protocol", b"vite-hmr")]), has_backend=True, has_frontend=True
    )
    assert hmr.side == "frontend"
    assert router.frontend_of(path.encode()) == (upstream if upstream.startswith("/") else "frontend")


# --- Parts of a page ---


@pytest.mark.parametrize("dest", DESTINATIONS)
def test_a_part_of_the_frontends_page_is_asked_of_the_frontend(dest: bytes) -> None:
    steps = sees(looked_at(), head(b"/x?v=1", part(dest, b"/")), IMAGE)
    assert steps == [FRONTEND, Answer("part of the frontend's page")]
    assert asked_first(looked_at(), b"/x", part(dest, b"/other")) == "backend"
    assert asked_first(looked_at(), b"/x", part(dest, b"/?x=http://localhost:8000/y")) == "frontend"
    assert asked_first(looked_at(), b"/x", part(dest, b"/", site=b"cross-site")) == "backend"
    assert asked_first(looked_at(), b"/x", part(dest, b"http://evil.example/")) == "backend"
    assert asked_first(looked_at(), b"/x", part(dest, b"/"), method=b"POST") == "backend"


@pytest.mark.parametrize("dest", [b"empty", b"document", b"iframe", b"object", b"embed", b"report", b"xslt"])
def test_nothing_else_is_one(dest: bytes) -> None:
    assert asked_first(looked_at(), b"/x", part(dest, b"/")) == "backend"
    assert asked_first(looked_at(), b"/data.json", part(dest, b"/")) == "backend"


def test_what_a_module_style_or_worker_loads_is_of_the_page_too() -> None:
    router = looked_at()
    for path, dest in ((b"/src/main.ts", b"script"), (b"/src/a.css", b"style"), (b"/src/w.js", b"worker")):
        sees(router, head(path + b"?t=1", part(dest, b"/")), MODULE)
        assert asked_first(router, b"/src/deep", part(b"font", path)) == "frontend"
        assert asked_first(router, b"/src/deep", part(b"script", path + b"?import")) == "frontend"
    assert asked_first(router, b"/a.js", part(b"script", b"/@vite/client")) == "frontend"
    assert asked_first(router, b"/a.js", part(b"script", b"/node_modules/.vite/deps/x.js?v=1")) == "frontend"


@pytest.mark.parametrize(
    "answer",
    [PAGE, NOT_FOUND, ResponseHead.of(405, []), ResponseHead.of(302, []), ResponseHead.of(403, HTML)],
)
def test_the_backend_is_asked_for_what_the_frontend_has_not(answer: ResponseHead) -> None:
    router = looked_at()
    image = head(b"/media/a.png", part(b"image", b"/"))
    assert sees(router, image, answer, IMAGE) == [FRONTEND, BACKEND, Answer("backend answered")]
    # From then on it is asked first, even after it was restarted.
    router.forget_unknown()
    assert begin(router, image)[1] == BACKEND


@pytest.mark.parametrize("status", [401, 307, 405, 500, 200])
def test_a_backend_that_answers_everything_teaches_nothing(status: int) -> None:
    router = looked_at()
    module = head(b"/src/new.ts", part(b"script", b"/"))
    assert sees(router, module, NOT_FOUND, ResponseHead.of(status, HTML))[-1] == Answer("backend answered")
    assert begin(router, module)[1] == FRONTEND


@pytest.mark.parametrize("status", [500, 504])
def test_a_broken_module_stays_one(status: int) -> None:
    broken = ResponseHead.of(status, HTML)
    assert isinstance(sees(looked_at(), head(b"/src/a.ts", part(b"script", b"/")), broken)[-1], Answer)


def test_a_file_that_both_have_is_of_the_side_of_the_page() -> None:
    router = looked_at(b"/app")
    sees(router, head(b"/admin", NAVIGATES), PAGE)
    for _ in range(2):
        assert sees(router, head(b"/a.css", part(b"style", b"/app")), MODULE)[0] == FRONTEND
        assert sees(router, head(b"/a.css", part(b"style", b"/admin")), MODULE)[0] == BACKEND
    # A service worker that passes it on says neither.
    assert asked_first(router, b"/a.css", part(b"empty", b"/app")) == "frontend"
    assert asked_first(router, b"/a.css", part(b"empty", b"/admin")) == "backend"
    assert asked_first(router, b"/b.css", part(b"empty", b"/app")) == "backend"


@pytest.mark.parametrize("catch_all", [PAGE, *(ResponseHead.of(status, JSON) for status in (307, 401, 405))])
def test_what_a_service_worker_passes_on_is_told_by_its_mode_or_its_name(catch_all: ResponseHead) -> None:
    """It hides what a request is for, which matters to a backend that answers every path."""
    router = looked_at()
    image = [(b"Sec-Fetch-Mode", b"no-cors"), *part(b"empty", b"/")[:2], *part(b"empty", b"/")[3:]]
    assert asked_first(router, b"/both.png", image) == "frontend"
    assert asked_first(router, b"/api/both.png", image) == "backend"
    module = head(b"/src/main.ts", part(b"empty", b"/"))
    assert sees(router, module, catch_all, MODULE)[:2] == [BACKEND, FALLS_BACK]
    assert begin(router, module)[1] == FRONTEND
    # What may be data stays the backend's, whatever it answers; so does a file that only looks like a module.
    data = head(b"/locales/en.json", part(b"empty", b"/"))
    assert sees(router, data, catch_all) == [BACKEND, Answer("backend answered")]
    last = sees(router, head(b"/report.css", part(b"empty", b"/")), catch_all, PAGE)[-1]
    assert isinstance(last, Answer)
    assert last.is_kept
    # A page of the backend's has no such modules.
    elsewhere = head(b"/src/late.ts", part(b"empty", b"/other"))
    assert sees(router, elsewhere, catch_all) == [BACKEND, Answer("backend answered")]


def test_a_page_that_sends_no_referrer_is_the_newest_one() -> None:
    router = looked_at()
    assert asked_first(router, b"/src/a.ts", part(b"script", None)) == "frontend"
    sees(router, head(b"/admin", NAVIGATES), PAGE)
    assert asked_first(router, b"/src/a.ts", part(b"script", None)) == "backend"
    assert asked_first(looked_at(), b"/src/a.ts", [(b"Accept", b"*/*")]) == "backend"
    assert asked_first(looked_at(), b"/src/a.ts", part(b"empty", None)) == "backend"


@pytest.mark.parametrize(
    "target", [b"/a.tsx", b"/a.vue?t=1", b"/a.woff2", b"/a.PNG", b"/x?v=1a", b"/x?import"]
)
def test_without_fetch_metadata_names_tell(target: bytes) -> None:
    assert asked_first(looked_at(), target, elsewhere(b"/")) == "frontend"
    assert asked_first(looked_at(), target, elsewhere(b"/other")) == "backend"
    assert asked_first(looked_at(), target, [(b"Accept", b"*/*")]) == "backend"
    window = [(b"Accept", b"text/html,*/*"), (b"Referer", ORIGIN + b"/")]
    assert asked_first(looked_at(), target, window) == "backend"


@pytest.mark.parametrize("target", [b"/a.json", b"/a", b"/a.ts/x", b"/x?view=1", b"/x?at=1", b"/x?important"])
def test_other_names_do_not(target: bytes) -> None:
    assert not is_named_like_an_asset(head(target, elsewhere(b"/")))


def test_a_module_of_the_backends_page_that_only_the_frontend_has() -> None:
    router = Router(plan())
    sees(router, head(b"/", NAVIGATES), PAGE)
    module = head(b"/src/main.ts", part(b"script", b"/"))
    assert sees(router, module, NOT_FOUND, MODULE) == [BACKEND, FALLS_BACK, Answer("backend 404")]
    assert begin(router, module)[1] == FRONTEND
    # What it imports is never asked of the backend, nor is it after a restart.
    router.forget_unknown()
    assert begin(router, module)[1] == BACKEND
    assert asked_first(router, b"/src/late.ts", part(b"script", b"/src/main.ts")) == "frontend"


@pytest.mark.parametrize(
    "catch_all", [PAGE, *(ResponseHead.of(status, JSON) for status in (307, 401, 405, 500))]
)
def test_what_a_browser_cannot_use_falls_back(catch_all: ResponseHead) -> None:
    router = Router(plan())
    sees(router, head(b"/", NAVIGATES), PAGE)
    for dest in (b"script", b"style", b"worker"):
        request = head(b"/src/" + dest, part(dest, b"/"))
        route, _ = begin(router, request)
        assert route.next(catch_all) == FALLS_BACK
        assert route.next(MODULE) == Answer(f"backend {catch_all.status}")
        assert route.doubt is not None
        assert route.doubt.kind == "part"
        route, _ = begin(router, head(b"/none", part(dest, b"/")))
        route.next(catch_all)
        stays = route.next(PAGE)
        assert isinstance(stays, Answer)
        assert stays.is_kept
        assert route.doubt is None


# --- Windows ---


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"Sec-Fetch-Mode", b"navigate"), (b"Sec-Fetch-Dest", b"empty")], True),
        (
            [(b"Sec-Fetch-Mode", b"same-origin"), (b"Sec-Fetch-Dest", b"empty"), (b"Accept", b"text/html")],
            True,
        ),
        ([(b"Sec-Fetch-Mode", b"same-origin"), (b"Sec-Fetch-Dest", b"empty"), (b"Accept", b"*/*")], False),
        ([(b"Sec-Fetch-Mode", b"cors"), (b"Sec-Fetch-Dest", b"empty"), (b"Accept", b"text/html")], False),
    ],
)
def test_a_service_worker_may_pass_a_navigation_on(headers: Headers, *, expected: bool) -> None:
    assert is_for_a_window(head(b"/deep/link", headers)) is expected


def test_a_405_to_a_navigation_falls_back_and_is_no_page_to_be_sure_of() -> None:
    router = Router(plan())
    no_get = ResponseHead.of(405, JSON)
    assert sees(router, head(b"/login", NAVIGATES), no_get, PAGE) == [
        BACKEND,
        FALLS_BACK,
        Answer("backend 405"),
    ]
    assert asked_first(router, b"/src/a.ts", part(b"script", b"/login")) == "frontend"
    # It is held for a backend that is not there, as any page that the backend has an answer for.
    assert begin(router, head(b"/login", NAVIGATES), HOLD)[1] == BACKEND
    assert isinstance(sees(router, head(b"/login", part(b"empty", b"/")), no_get)[-1], Answer)


@pytest.mark.parametrize(
    ("backends", "is_kept"),
    [
        (ResponseHead.of(404, JSON), False),
        (ResponseHead.of(404, []), False),
        (ResponseHead.of(404, HTML), True),
    ],
)
def test_of_two_404_a_window_gets_the_page(backends: ResponseHead, *, is_kept: bool) -> None:
    last = sees(Router(plan()), head(b"/x", NAVIGATES), backends, ResponseHead.of(404, HTML))[-1]
    assert isinstance(last, Answer)
    assert last.is_kept is is_kept
    final = ResponseHead.of(404, [*JSON, (b"X-Orchestra-Final", b"1")])
    assert sees(Router(plan()), head(b"/x", NAVIGATES), final)[-1] == Answer("backend 404, final")


FORM: Headers = NAVIGATES
FETCHED = part(b"empty", b"/contact")
FOREIGN = part(b"empty", b"/contact", site=b"cross-site")
PHONE: Headers = [(b"Accept", b"*/*"), (b"Origin", ORIGIN)]


@pytest.mark.parametrize(
    ("path", "headers", "length", "falls_back"),
    [
        (b"/contact", FORM, 10, True),
        (b"/contact?/send", FORM, None, True),
        (b"/contact", FETCHED, 10, True),
        (b"/contact", PHONE, 10, True),
        (b"/contact", FOREIGN, 10, False),
        (b"/contact", [(b"Accept", b"*/*")], 10, False),
        (b"/other", FORM, 10, False),
        # The frontend's script has come there without asking for the page.
        (b"/other?/send", [*FORM, (b"Referer", ORIGIN + b"/other")], 10, True),
        (b"/other", [*FORM, (b"Referer", ORIGIN + b"/contact")], 10, False),
        (b"/contact", FORM, 1_048_577, False),
    ],
)
def test_the_form_of_a_page_of_the_frontends_falls_back(
    path: bytes, headers: Headers, length: int | None, *, falls_back: bool
) -> None:
    router = looked_at(b"/contact")
    request = head(path, headers, method=b"POST", length=length)
    steps = sees(router, request, NOT_FOUND)
    assert (steps[-1] == FALLS_BACK) is falls_back
    if falls_back:
        for answer in (
            PAGE,
            ResponseHead.of(303, []),
            ResponseHead.of(200, JSON),
            ResponseHead.of(422, HTML),
        ):
            assert sees(router, request, NOT_FOUND, answer)[-1] == Answer("backend 404")


# --- What was learned ---


def test_only_that_the_backend_did_not_know_a_path_is_forgotten() -> None:
    router = looked_at()
    data = head(b"/locales/en.json", part(b"empty", b"/"))
    sees(router, data, NOT_FOUND, ResponseHead.of(200, JSON))
    sees(router, head(b"/src/a.ts", part(b"script", b"/")), MODULE)
    assert begin(router, data)[1] == FRONTEND
    router.forget_unknown()
    assert begin(router, data)[1] == BACKEND
    assert asked_first(router, b"/src/b.ts", part(b"script", b"/src/a.ts")) == "frontend"
    assert asked_first(router, b"/src/b.ts", part(b"script", b"/")) == "frontend"


def test_a_request_on_its_way_teaches_nothing_of_the_new_backend() -> None:
    router = looked_at()
    route, _ = begin(router, head(b"/a.json", part(b"empty", b"/")))
    router.forget_unknown()
    route.next(NOT_FOUND)
    route.next(ResponseHead.of(200, JSON))
    assert not router.unknown


def test_a_page_of_the_last_run_is_the_frontends() -> None:
    pages = FrontendPages()
    pages.add(b"/notes")
    assert asked_first(Router(plan(), pages=pages), b"/a.ts", part(b"script", b"/notes")) == "frontend"


def test_modules_do_not_evict_their_page() -> None:
    router = Router(plan())
    router.saw_window(b"/", "frontend")
    for number in range(60_000):
        router.assets.learn(b"/src/a-module-with-a-long-name/%d.ts" % number, "frontend")
    assert router.side_of(b"/") == "frontend"
    assert router.side_of(b"/src/a-module-with-a-long-name/59999.ts") == "frontend"
    assert router.side_of(b"/src/a-module-with-a-long-name/0.ts") is None


@given(
    steps=st.lists(st.tuples(st.binary(max_size=400), st.sampled_from(["learn", "forget"])), max_size=60),
    limit=st.integers(0, 3000),
)
def test_what_is_remembered_has_a_limit(steps: list[tuple[bytes, str]], limit: int) -> None:
    sides = Sides(limit)
    for path, what in steps:
        if what == "learn":
            sides.learn(path, "frontend")
        else:
            sides.forget(path)
        assert sum(len(each) + 100 for each in sides) <= limit
        assert limit < len(path) + 100 or what == "forget" or path in sides


def test_the_limits_hold_the_largest_apps() -> None:
    assert ASSET_BYTES > 10_000 * (60 + 100)
    assert PAGE_BYTES > 1_000 * (60 + 100)
