"""Save a file, see it: a real run, a real backend, with and without a real Vite, in a real browser."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.browser_kit import count_navigations, until
from tests.kit import Run
from tests.project_kit import ACTIVATED, frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Page, WebSocket

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.ceiling(300)]

STARLETTE = """
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import HTMLResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

HERE = Path(__file__).parent
TEXT = "first"
templates = Jinja2Templates(HERE / "templates")


async def shop(request):
    return templates.TemplateResponse(request, "shop.html", {"text": TEXT})


async def strict(request):
    policy = "default-src 'none'; script-src 'nonce-abc' 'strict-dynamic'; connect-src 'self'"
    page = f"<!doctype html><title>strict</title><p id=text>{TEXT}</p>"
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


static = StaticFiles(directory=HERE / "static")
app = Starlette(routes=[Route("/shop", shop), Route("/strict", strict), Mount("/static", static)])
"""
FASTAPI = """
from fastapi import FastAPI, Request
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

TEXT = "first"
templates = Jinja2Templates("templates")
app = FastAPI()
app.mount("/static", StaticFiles(directory="static"))


@app.get("/shop")
def shop(request: Request):
    return templates.TemplateResponse(request, "shop.html", {"text": TEXT})
"""
FLASK = """
from flask import Flask, render_template

TEXT = "first"
app = Flask(__name__)


@app.get("/shop")
def shop():
    return render_template("shop.html", text=TEXT)
"""
DJANGO = """
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.shortcuts import render
from django.urls import path

TEXT = "first"


def shop(request):
    return render(request, "shop.html", {"text": TEXT})


urlpatterns = [path("shop", shop), *staticfiles_urlpatterns()]
"""
SETTINGS = """
DEBUG = True
SECRET_KEY = "none"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "app"
INSTALLED_APPS = ["django.contrib.staticfiles"]
STATIC_URL = "/static/"
STATICFILES_DIRS = ["static"]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "DIRS": ["templates"]}]
"""
DJANGO_FILES = {
    "settings.py": SETTINGS,
    "manage.py": """
import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
execute_from_command_line(sys.argv)
""",
    "asgi.py": """
import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
application = get_asgi_application()
""",
}
TEMPLATE = """<!doctype html>
<html><head><title>Shop</title><link rel="stylesheet" href="/static/app.css"></head>
<body>
<h1>Tea</h1><p id="text">{{ text }}</p><form><input name="name"></form><div id="tall"></div>
</body></html>
"""
STYLE = "#tall { height: 4000px } h1 { color: rgb(1, 1, 1) }\n"
COLOR = "getComputedStyle(document.querySelector('h1')).color"
# Long enough for what must not happen to happen.
A_WHILE = 1000


@dataclass(frozen=True)
class Backend:
    """How an application is written and served.

    Attributes:
        source: Its ``app.py``.
        command: Its line in the Procfile.
        app: Or its ``app`` in the settings.
        files: What it consists of beside that.
        has_vite: Whether the project has Vite, too.
        reloads_itself: Whether its server does.
        if_broken: What is said of it then.
        imports_late: Whether it is ready before it has imported ``app.py``.
    """

    source: str
    command: str = ""
    app: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    has_vite: bool = False
    reloads_itself: bool = False
    if_broken: str = "api has failed"
    imports_late: bool = False


ALIVE = "api has an error"
HYPERCORN = "hypercorn app:app --bind 127.0.0.1:$PORT"
BACKENDS = {
    "Starlette on Hypercorn": Backend(STARLETTE, HYPERCORN),
    "Starlette on Hypercorn, with Vite": Backend(STARLETTE, HYPERCORN, has_vite=True),
    "Flask": Backend(FLASK, "flask run --port $PORT"),
    "Django's runserver": Backend(
        DJANGO, "python manage.py runserver $PORT", files=DJANGO_FILES, reloads_itself=True, if_broken=ALIVE
    ),
    "uvicorn --reload, with Vite": Backend(
        FASTAPI, "uvicorn app:app --reload --port $PORT", has_vite=True, reloads_itself=True, if_broken=ALIVE
    ),
    "FastAPI by app": Backend(FASTAPI, app="app:app"),
    "Flask by app, with Vite": Backend(FLASK, app="app:app", has_vite=True),
    "Django by app": Backend(
        DJANGO,
        app="asgi:application",
        files=DJANGO_FILES,
        if_broken="api has raised an exception",
        imports_late=True,
    ),
}


class Project:
    """A running project, whose files a test edits."""

    def __init__(self, folder: Path, run: Run, backend: Backend) -> None:
        self.run = run
        self.backend = backend
        self.has_vite = backend.has_vite
        self.app = folder / "api" / "app.py"
        self.template = folder / "api" / "templates" / "shop.html"
        self.style = folder / "api" / "static" / "app.css"

    def says(self, text: str) -> str:
        """The application with another text."""
        return self.backend.source.replace("first", text)


def write_project(folder: Path, backend: Backend) -> None:
    files = {"app.py": backend.source, "templates/shop.html": TEMPLATE, "static/app.css": STYLE}
    for name, text in {**files, **backend.files}.items():
        (folder / "api" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "api" / name).write_text(text)
    lines = [f"api: cd api && {backend.command}\n"] if backend.command else []
    if backend.has_vite:
        lines.append("vite: cd ui && npm run dev\n")
    (folder / "Procfile").write_text("".join(lines))
    if backend.app:
        settings = f'[process.api]\napp = "{backend.app}"\ncwd = "api"\n'
        (folder / "orchestra.toml").write_text(settings)


@pytest.fixture(scope="module", params=BACKENDS)
def project(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    vite_packages: Callable[[int], Path],
) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("project")
    backend = BACKENDS[request.param]
    write_project(folder, backend)
    if backend.has_vite:
        frontend(folder / "ui", vite_packages(8))
    with Run("--listen", "127.0.0.1:0", cwd=folder, env=ACTIVATED) as run:
        run.state("api", "ready")
        if backend.has_vite:
            run.state("vite", "ready")
        yield Project(folder, run, backend)
        assert run.stop() == 130


@pytest.fixture
def context(chromium: Browser, project: Project) -> Iterator[BrowserContext]:
    with chromium.new_context(base_url=project.run.url) as opened:
        opened.set_default_timeout(60_000)
        yield opened


def opened(context: BrowserContext, path: str) -> Page:
    """Open a page, and wait until it is connected."""
    page = context.new_page()
    heard: list[str | bytes] = []

    def hear(frame: str | bytes) -> None:
        heard.append(frame)

    def listen(live: WebSocket) -> None:
        if live.url.endswith("/__orchestra__/live"):
            live.on("framereceived", hear)

    page.on("websocket", listen)
    page.goto(path)
    until(page, lambda: bool(heard))
    return page


def shows(page: Page, text: str) -> None:
    page.wait_for_selector(f"#text:text-is('{text}')")


def test_a_saved_file_is_seen_after_one_navigation(project: Project, context: BrowserContext) -> None:
    page = opened(context, "/shop")
    page.fill("[name=name]", "Ada")
    page.evaluate("scrollTo(0, 1234)")
    navigations = count_navigations(page)
    edits = {
        "code": (project.app, project.says("code")),
        "template": (project.template, TEMPLATE.replace("{{ text }}", "template")),
    }
    for count, (text, (file, content)) in enumerate(edits.items(), start=1):
        file.write_text(content)
        shows(page, text)
        page.wait_for_function("scrollY === 1234")
        page.wait_for_function("document.querySelector('[name=name]').value === 'Ada'")
        assert len(navigations) == count
    if not project.backend.reloads_itself:
        # The same bytes, of which nothing follows to the end of this test.
        project.app.write_text(project.says("code"))
    project.style.write_text(STYLE.replace("1, 1, 1", "2, 2, 2"))
    page.wait_for_function(f"{COLOR} === 'rgb(2, 2, 2)'")
    page.wait_for_timeout(A_WHILE)
    assert len(navigations) == 2
    # Seen here, so that it does not reload the page of the next test.
    project.template.write_text(TEMPLATE)
    shows(page, "code")


def test_ten_saves_in_a_second_are_one_reload(project: Project, context: BrowserContext) -> None:
    if project.backend.reloads_itself:
        pytest.skip("its own reloads come as it makes them")
    page = opened(context, "/shop")
    navigations = count_navigations(page)
    saved_at = []
    for number in range(10):
        project.app.write_text(project.says(f"save {number}"))
        saved_at.append(time.monotonic())
        time.sleep(0.1)
    shows(page, "save 9")
    page.wait_for_timeout(A_WHILE)
    # On a busy machine, this test itself may have paused for as long as a restart takes.
    pauses = sum(after - before > 0.2 for before, after in pairwise(saved_at))
    assert 1 <= len(navigations) <= 1 + pauses


def test_a_syntax_error_is_shown_until_it_is_mended(project: Project, context: BrowserContext) -> None:
    page = opened(context, "/shop")
    sockets: list[str] = []
    if project.has_vite:
        context.on("page", lambda page: page.on("websocket", lambda socket: sockets.append(socket.url)))
    navigations = count_navigations(page)
    vite = opened(context, "/") if project.has_vite else None
    project.app.write_text(project.says("mended") + "\n\ndef broken(:\n")
    line = project.app.read_text().count("\n")
    tabs = [page] if vite is None else [page, vite]
    # One that is opened while it is broken; the backend's own page is not there.
    for tab in [*tabs, opened(context, "/" if project.has_vite else "/shop")]:
        shown = tab.locator("orchestra-overlay [role=dialog]")
        shown.wait_for()
        text = shown.inner_text()
        for part in (project.backend.if_broken, "SyntaxError", f"app.py:{line}", "def broken(:"):
            assert part in text, text
    # Or the page is loaded to show that.
    count = int(project.backend.imports_late)
    assert len(navigations) == count
    project.app.write_text(project.says("mended"))
    shows(page, "mended")
    for tab in context.pages:
        tab.wait_for_selector("orchestra-overlay", state="detached")
    page.wait_for_timeout(A_WHILE)
    assert len(navigations) == count + 1
    hmr = [url for url in sockets if "token=" in url]
    # One for each of the frontend's pages, and never another.
    assert len(hmr) == (2 if project.has_vite else 0), sockets


def test_a_strict_policy_is_kept(project: Project, context: BrowserContext) -> None:
    if project.backend.source is not STARLETTE:
        pytest.skip("has no such page")
    page = opened(context, "/strict")
    navigations = count_navigations(page)
    project.app.write_text(project.says("strict"))
    shows(page, "strict")
    assert len(navigations) == 1
