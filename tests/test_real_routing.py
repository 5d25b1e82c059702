"""Which side gets what a page loads: real Vite, real Chromium, and a backend that answers every path."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.kit import Run, free_port
from tests.project_kit import ACTIVATED, frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.ceiling(300)]

# Where the backend says 404: without `backend_paths` nothing else could make these pages Vite's.
PAGES = ["/", "/quiet.html"]
APP = """
import json
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

PAGES = __PAGES__
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="22" height="22"></svg>'


async def picture(request):
    return Response(SVG, media_type="image/svg+xml")


async def data(request):
    return JSONResponse({"from": "backend"})


async def admin(request):
    return HTMLResponse('<!doctype html><title>admin</title><img id="both" src="/both.svg">')


async def anything(request):
    if request.url.path in PAGES:
        return PlainTextResponse("Not Found", 404)
    return HTMLResponse("<!doctype html><title>catch-all</title>")


routes = [Route("/media/a.svg", picture), Route("/both.svg", picture), Route("/api/x", data),
          Route("/admin", admin), Route("/{path:path}", anything)]
inner = Starlette(routes=routes)


async def app(scope, receive, send):
    if scope["type"] == "http":
        print("ASKED", scope["path"], flush=True)
    await inner(scope, receive, send)
"""
INDEX = """<!doctype html><html><head>REFERRER<title>Vite</title>
<link rel="icon" href="/logo.svg"><link rel="manifest" href="/app.webmanifest">
<link rel="stylesheet" href="/src/style.css"></head>
<body><p id="app"></p><img id="media" src="/media/a.svg"><img id="both" src="/both.svg">
<img id="logo" src="/logo.svg"><script type="module" src="/src/main.js"></script></body></html>
"""
# A font that need not be one: what counts is which side is asked for it.
STYLE = """@font-face { font-family: Own; src: url("/src/own.woff2") }
p { font-family: Own; color: rgb(1, 2, 3) }
"""
MAIN = """
import { greeting } from './greeting.js'
import './more.css'
const worker = new Worker(new URL('./worker.js', import.meta.url), { type: 'module' })
worker.onmessage = async ({ data }) => {
  const answer = await (await fetch('/api/x')).json()
  document.querySelector('#app').textContent = [greeting, data, answer.from].join(' ')
}
window.late = async () => (await import('./late.js')).text
"""
FILES = {
    "index.html": INDEX.replace("REFERRER", ""),
    "quiet.html": INDEX.replace("REFERRER", '<meta name="referrer" content="no-referrer">'),
    "src/style.css": STYLE,
    "src/more.css": "p { background: rgb(3, 2, 1) }",
    "src/main.js": MAIN,
    "src/greeting.js": "export const greeting = 'hello'",
    "src/worker.js": "import { text } from './in-worker.js'\npostMessage(text)",
    "src/in-worker.js": "export const text = 'worker'",
    "src/late.js": "import { more } from './later.js'\nexport const text = more",
    "src/later.js": "export const more = 'late'",
    "src/own.woff2": "no font",
    "public/logo.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="11" height="11"></svg>',
    "public/both.svg": '<svg xmlns="http://www.w3.org/2000/svg" width="11" height="11"></svg>',
    "public/app.webmanifest": '{"name": "Vite"}',
    "public/sw.js": (
        "self.addEventListener('install', () => self.skipWaiting())\n"
        "self.addEventListener('activate', e => e.waitUntil(clients.claim()))\n"
        "self.addEventListener('fetch', e => e.respondWith(fetch(e.request)))"
    ),
}
SHOWN = "() => document.querySelector('#app').textContent === 'hello worker backend'"
# What these pages may ask of the backend, and orchestra itself before it is ready (`/`).
MEANT = {*PAGES, "/favicon.ico", "/media/a.svg", "/both.svg", "/api/x", "/admin"}
RULE = '[proxy]\nbackend_paths = ["/api", "/media", "/admin"]\n'


def write(folder: Path, packages: Path, *, has_rule: bool) -> None:
    frontend(folder / "ui", packages)
    for name, text in FILES.items():
        (folder / "ui" / name).parent.mkdir(exist_ok=True)
        (folder / "ui" / name).write_text(text)
    # With the rule, the backend answers the pages, too.
    (folder / "app.py").write_text(APP.replace("__PAGES__", repr([] if has_rule else PAGES)))
    lines = "api: hypercorn app:app --bind 127.0.0.1:$PORT\nvite: cd ui && npm run dev\n"
    (folder / "Procfile").write_text(lines)
    (folder / "orchestra.toml").write_text(RULE if has_rule else "")


class Project:
    """A running project."""

    def __init__(self, run: Run, *, has_rule: bool) -> None:
        self.run = run
        self.has_rule = has_rule


@pytest.fixture(scope="module", params=["learned", "backend_paths"])
def project(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    vite_packages: Callable[[int], Path],
) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("routing")
    has_rule = request.param == "backend_paths"
    write(folder, vite_packages(8), has_rule=has_rule)
    with Run("--listen", "0.0.0.0:0", cwd=folder, env=ACTIVATED) as run:
        run.state("api", "ready")
        run.state("vite", "ready")
        yield Project(run, has_rule=has_rule)
        assert run.stop() == 130
        said = [event["text"] for event in run.events if event["type"] == "process.output"]
        asked = {line.split()[1] for line in said if line.startswith("ASKED")}
        assert "/media/a.svg" in asked
        assert asked <= (MEANT - {"/quiet.html", "/both.svg"} if has_rule else MEANT)


@pytest.fixture
def context(chromium: Browser, project: Project) -> Iterator[BrowserContext]:
    port = project.run.url.rpartition(":")[2]
    with chromium.new_context(base_url=f"http://127.0.0.1:{port}") as opened:
        opened.set_default_timeout(60_000)
        yield opened


def width(page: Page, name: str) -> int:
    page.wait_for_function(f"() => document.querySelector('#{name}').complete")
    found: int = page.evaluate(f"() => document.querySelector('#{name}').naturalWidth")
    return found


def is_whole(page: Page) -> None:
    """Whether a page of Vite's has all its parts, each from the right side."""
    page.wait_for_function(SHOWN)
    assert (width(page, "media"), width(page, "both"), width(page, "logo")) == (22, 11, 11)
    assert page.evaluate("() => getComputedStyle(document.querySelector('#app')).color") == "rgb(1, 2, 3)"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_of_vites_gets_its_parts_from_vite(path: str, context: BrowserContext) -> None:
    page = context.new_page()
    fonts: list[str] = []
    page.on("requestfinished", lambda each: fonts.append(each.url) if "woff2" in each.url else None)
    page.goto(path)
    is_whole(page)
    page.reload()
    is_whole(page)
    assert fonts


def test_a_late_module_comes_after_a_restart(context: BrowserContext, project: Project) -> None:
    page = context.new_page()
    page.goto("/")
    is_whole(page)
    run = project.run
    since = len(run.events)
    psutil.Process(run.state("api", "ready")["pid"]).send_signal(signal.SIGKILL)
    run.state("api", "ready", since=since)
    assert page.evaluate("() => late()") == "late"


def test_a_page_of_the_backends_gets_its_own_file(context: BrowserContext, project: Project) -> None:
    page = context.new_page()
    page.goto("/admin")
    assert width(page, "both") == (11 if project.has_rule else 22)


def reload_behind_a_service_worker(page: Page) -> None:
    page.goto("/")
    page.evaluate(
        "async () => { await navigator.serviceWorker.register('/sw.js');"
        " await navigator.serviceWorker.ready }"
    )
    page.reload()
    page.wait_for_function("() => navigator.serviceWorker.controller !== null")
    is_whole(page)


def test_a_page_behind_a_service_worker_is_whole(context: BrowserContext) -> None:
    reload_behind_a_service_worker(context.new_page())


def test_it_is_whole_when_orchestra_knows_nothing_yet(
    tmp_path: Path, vite_packages: Callable[[int], Path], chromium: Browser
) -> None:
    """The worker hides what modules and styles are for, and no run before has told whose they are."""
    write(tmp_path, vite_packages(8), has_rule=False)
    listen = f"127.0.0.1:{free_port()}"
    with chromium.new_context(base_url=f"http://{listen}") as context:
        context.set_default_timeout(60_000)
        page = context.new_page()
        for _ in range(2):
            with Run("--listen", listen, cwd=tmp_path, env=ACTIVATED) as run:
                run.state("api", "ready")
                run.state("vite", "ready")
                if page.url == "about:blank":
                    reload_behind_a_service_worker(page)
                else:
                    page.reload()
                    is_whole(page)
            shutil.rmtree(os.environ["XDG_STATE_HOME"] + "/orchestra")


def test_a_phone_gets_the_same(context: BrowserContext, project: Project) -> None:
    addresses = [
        each.address for found in psutil.net_if_addrs().values() for each in found if each.family == 2
    ]
    address = next((each for each in addresses if not each.startswith("127.")), None)
    if address is None:
        pytest.skip("this machine has no address but loopback")
    page = context.new_page()
    sent: list[dict[str, str]] = []
    page.on("request", lambda each: sent.append(each.all_headers()))
    page.goto(f"http://{address}:{project.run.url.rpartition(':')[2]}/")
    is_whole(page)
    assert not any("sec-fetch-dest" in each for each in sent)
