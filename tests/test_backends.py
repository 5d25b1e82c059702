"""Backends as people run them, beside Vite, with nothing but a Procfile: which one answers an unknown path?

The backend, byte for byte, if a program asks, under `/api` or not; the app, if the path is opened in a
browser window.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.kit import Run, ask
from tests.project_kit import ACTIVATED, frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.kit import Answer

pytestmark = [pytest.mark.real, pytest.mark.ceiling(300)]

STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def item(request):
    number = request.path_params["number"]
    if number != 1:
        return JSONResponse({"error": f"there is no item {number}"}, 404)
    return JSONResponse({"id": number})


app = Starlette(
    routes=[
        Route(path, item, methods=["GET", "DELETE"])
        for path in ("/api/items/{number:int}", "/items/{number:int}")
    ]
)
"""
FASTAPI = """
from fastapi import FastAPI, HTTPException

app = FastAPI()


@app.get("/api/items/{number}")
@app.get("/items/{number}")
@app.delete("/api/items/{number}")
@app.delete("/items/{number}")
def item(number: int) -> dict[str, int]:
    if number != 1:
        raise HTTPException(404, f"there is no item {number}")
    return {"id": number}
"""
FLASK = """
from flask import Flask

app = Flask(__name__)


@app.route("/api/items/<int:number>", methods=["GET", "DELETE"])
@app.route("/items/<int:number>", methods=["GET", "DELETE"])
def item(number):
    if number != 1:
        return {"error": f"there is no item {number}"}, 404
    return {"id": number}
"""
DJANGO_URLS = """
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def item(request, number):
    if number != 1:
        return JsonResponse({"error": f"there is no item {number}"}, status=404)
    return JsonResponse({"id": number})


urlpatterns = [path("api/items/<int:number>", item), path("items/<int:number>", item)]
"""
AIOHTTP = """
from aiohttp import web


async def item(request):
    number = int(request.match_info["number"])
    if number != 1:
        return web.json_response({"error": f"there is no item {number}"}, status=404)
    return web.json_response({"id": number})


def init(argv):
    app = web.Application()
    for path in ("/api/items/{number}", "/items/{number}"):
        app.router.add_get(path, item)
        app.router.add_delete(path, item)
    return app
"""


def django(root: Path) -> None:
    command = [sys.executable, "-m", "django", "startproject", "site1", "."]
    subprocess.run(command, cwd=root, check=True)
    (root / "site1" / "urls.py").write_text(DJANGO_URLS)


@dataclass(frozen=True)
class Backend:
    """A framework, and the line of the Procfile that a user of it writes.

    The names of the processes are such that some are found by their name, some by what they run, and one by
    its answering HTTP.
    """

    framework: str
    process: str
    command: str
    make: Callable[[Path], object]

    def __str__(self) -> str:
        return self.framework


BACKENDS = [
    Backend("starlette", "api", "uvicorn app:app", lambda root: (root / "app.py").write_text(STARLETTE)),
    Backend(
        "fastapi",
        "web",
        "uvicorn app:app --reload --port $PORT",
        lambda root: (root / "app.py").write_text(FASTAPI),
    ),
    Backend("flask", "python", "flask run", lambda root: (root / "app.py").write_text(FLASK)),
    Backend("django", "site", "python manage.py runserver $PORT", django),
    Backend(
        "aiohttp",
        "items",
        "python -m aiohttp.web -H 127.0.0.1 -P $PORT items:init",
        lambda root: (root / "items.py").write_text(AIOHTTP),
    ),
]


@pytest.fixture(scope="module", params=BACKENDS, ids=str)
def backend(request: pytest.FixtureRequest) -> Backend:
    chosen: Backend = request.param
    return chosen


@pytest.fixture(scope="module")
def run(
    backend: Backend, tmp_path_factory: pytest.TempPathFactory, vite_packages: Callable[[int], Path]
) -> Iterator[Run]:
    root = tmp_path_factory.mktemp(backend.framework)
    backend.make(root)
    frontend(root / "ui", vite_packages(8))
    (root / "Procfile").write_text(f"vite: cd ui && npm run dev\n{backend.process}: {backend.command}\n")
    # Answers are compared with the backend's own: pages must not get the script.
    with Run("--no-reload", "--listen", "127.0.0.1:0", cwd=root, env=ACTIVATED) as started:
        started.state("vite", "ready")
        started.state(backend.process, "ready")
        yield started


FETCH = {
    "User-Agent": "Mozilla/5.0",
    "Accept": "*/*",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-Mode": "cors",
    "Sec-Fetch-Dest": "empty",
}
AXIOS = {"Accept": "application/json, text/plain, */*", "User-Agent": "axios/1.13"}
PROGRAMS = {
    "fetch": FETCH,
    "axios": AXIOS,
    "axios in a browser": FETCH | AXIOS,
    "curl": {"Accept": "*/*", "User-Agent": "curl/8"},
    "httpx": {"Accept": "*/*", "Accept-Encoding": "gzip, deflate", "Connection": "keep-alive"},
    "for JSON only": {"Accept": "application/json"},
    "without Accept": {},
}
ADDRESS_BAR = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-User": "?1",
    "Sec-Fetch-Dest": "document",
}
# Of each: what a view of the backend says it does not have, and what it has no view for.
API_PATHS = ("/api/items/7", "/api/nothing")
OTHER_PATHS = ("/items/7", "/users/9/posts")


def ask_both(
    run: Run,
    backend: Backend,
    path: str,
    headers: Mapping[str, str],
    *,
    method: str = "GET",
    body: bytes | None = None,
) -> tuple[Answer, Answer]:
    """Through the one address, and the backend itself, which is told the same `Host`."""
    host = {"Host": run.url.removeprefix("http://")}
    own = run.state(backend.process, "ready")["url"]
    through, direct = (
        ask(url + path, host | dict(headers), method=method, body=body) for url in (run.url, own)
    )
    return through, direct


def without_the_way(answer: Answer) -> dict[str, str]:
    """An answer's headers without those that tell of the connection and of the moment."""
    of_the_way = {"connection", "date", "keep-alive", "transfer-encoding", "via", "x-orchestra-upstream"}
    return {name: value for name, value in answer.headers.items() if name not in of_the_way}


def check_same(through: Answer, direct: Answer) -> None:
    assert through.upstream == "backend"
    assert (through.status, through.body) == (direct.status, direct.body)
    assert without_the_way(through) == without_the_way(direct)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_404_that_a_program_gets_is_the_backend_s_own(run: Run, backend: Backend, program: str) -> None:
    for path, method in product(API_PATHS + OTHER_PATHS, ("GET", "HEAD")):
        through, direct = ask_both(run, backend, path, PROGRAMS[program], method=method)
        # FastAPI has no HEAD where it is not declared, and says so.
        assert direct.status == 404 or (method, direct.status) == ("HEAD", 405)
        check_same(through, direct)


def test_vite_would_have_said_200_to_it(run: Run) -> None:
    # What is kept away from programs; if Vite changes its mind, the tests above check nothing any more.
    own = run.state("vite", "ready")["url"]
    for program in ("fetch", "axios", "curl", "without Accept"):
        answer = ask(own + "/items/7", PROGRAMS[program])
        assert (answer.status, answer.headers["content-type"]) == (200, "text/html")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_other_methods_are_the_backend_s_whatever_it_says(run: Run, backend: Backend, method: str) -> None:
    body = b'{"text": "new"}' if method.startswith("P") else None
    kind = {"Content-Type": "application/json"} if body else {}
    for path, headers in product(API_PATHS + OTHER_PATHS, [*PROGRAMS.values(), ADDRESS_BAR]):
        through, direct = ask_both(run, backend, path, {**headers, **kind}, method=method, body=body)
        check_same(through, direct)
    through, direct = ask_both(run, backend, "/items/7", FETCH, method="DELETE")
    assert (through.status, b"there is no item 7" in through.body) == (404, True)
    through, direct = ask_both(run, backend, "/users/9/posts", FETCH, method="POST", body=b"{}")
    assert through.status == direct.status == 404


def test_a_path_of_the_backend_is_its_own_for_every_client(run: Run, backend: Backend) -> None:
    for path, headers in product(("/api/items/1", "/items/1"), [*PROGRAMS.values(), ADDRESS_BAR]):
        through, direct = ask_both(run, backend, path, headers)
        check_same(through, direct)
        assert (through.status, through.text.replace(" ", "").strip()) == (200, '{"id":1}')


def test_a_path_unknown_to_the_backend_shows_the_app(run: Run, backend: Backend) -> None:
    for path in ("/", "/dashboard/settings", *OTHER_PATHS):
        answer = ask(run.url + path, ADDRESS_BAR)
        assert (answer.status, answer.upstream) == (200, "frontend")
        assert "/@vite/client" in answer.text
    # Under /api there are no pages.
    for path in API_PATHS:
        through, direct = ask_both(run, backend, path, ADDRESS_BAR)
        assert through.status == 404
        check_same(through, direct)


CALLS = """
async path => {
    const fetched = await fetch(path)
    const posted = await fetch(path, {method: 'POST', body: '{}'})
    const loaded = await new Promise(done => {
        const request = new XMLHttpRequest()
        request.open('GET', path)
        request.setRequestHeader('Accept', 'application/json, text/plain, */*')
        request.onload = () => done(request)
        request.send()
    })
    return [
        [fetched.status, fetched.headers.get('content-type'), await fetched.text()],
        [loaded.status, loaded.getResponseHeader('content-type'), loaded.responseText],
        [posted.status, posted.headers.get('content-type'), await posted.text()],
    ]
}
"""


@pytest.mark.browser
def test_a_real_page_of_the_app_gets_the_backend_s_404s(
    run: Run, backend: Backend, chromium: Browser
) -> None:
    def is_told(answer: Answer) -> list[object]:
        return [answer.status, answer.headers["content-type"], answer.text]

    with chromium.new_page() as page:
        page.set_default_timeout(60_000)
        opened = page.goto(run.url + "/dashboard/settings")
        assert opened is not None
        assert opened.status == 200
        page.wait_for_function("document.querySelector('#app')?.textContent === 'hello'")
        for path in API_PATHS + OTHER_PATHS:
            _, direct = ask_both(run, backend, path, FETCH)
            _, posted = ask_both(run, backend, path, FETCH, method="POST", body=b"{}")
            assert direct.status == 404
            assert page.evaluate(CALLS, path) == [is_told(direct), is_told(direct), is_told(posted)]
        # The same path, once called and once opened.
        page.goto(run.url + "/users/9/posts")
        page.wait_for_function("document.querySelector('#app')?.textContent === 'hello'")
