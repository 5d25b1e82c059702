"""Two frontends behind the one address, each with its own Vite: pages, modules, HMR, and one that dies."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.kit import Run, ask, orchestra
from tests.project_kit import ACTIVATED, frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.ceiling(300)]

APP = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route


async def name(request):
    return PlainTextResponse("backend")


app = Starlette(routes=[Route("/api/name", name)])
"""
MAIN = """
import { greeting } from './greeting.js'
const show = async text => {
  const name = await (await fetch('/api/name')).text()
  document.querySelector('#app').textContent = `${text} ${name}`
}
show(greeting)
import.meta.hot.accept('./greeting.js', changed => show(changed.greeting))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, vite_packages: Callable[[int], Path]) -> Path:
    made = tmp_path_factory.mktemp("frontends")
    for name in ("ui", "admin"):
        frontend(made / name, vite_packages(8))
        (made / name / "src" / "main.js").write_text(MAIN)
        greets(made, name, name)
    (made / "admin" / "vite.config.js").write_text("export default { base: '/admin/', cacheDir: '.vite' }\n")
    (made / "app.py").write_text(APP)
    (made / "Procfile").write_text(
        "vite: cd ui && npm run dev\nadmin: cd admin && npm run dev\napi: uvicorn app:app --port $PORT\n"
    )
    (made / "orchestra.toml").write_text(
        '[proxy]\nallowed_hosts = [".ngrok-free.app"]\nfrontends."/admin/" = "admin"\n'
    )
    return made


@pytest.fixture(scope="module")
def run(folder: Path) -> Iterator[Run]:
    with Run("--listen", "127.0.0.1:0", cwd=folder, env=ACTIVATED) as started:
        for name in ("vite", "admin", "api"):
            started.state(name, "ready")
        yield started


@pytest.fixture
def pages(chromium: Browser, run: Run) -> Iterator[dict[str, Page]]:
    """The page of each frontend."""
    with chromium.new_context(base_url=run.url) as context:
        context.set_default_timeout(60_000)
        opened = {name: context.new_page() for name in ("ui", "admin")}
        for name, path in (("ui", "/"), ("admin", "/admin/users/7")):
            # What its Vite says before that, or that it is gone, never reaches the page.
            with opened[name].expect_console_message(lambda said: "[vite] connected." in said.text):
                opened[name].goto(path)
        yield opened


def greets(folder: Path, name: str, text: str) -> None:
    (folder / name / "src" / "greeting.js").write_text(f"export const greeting = '{text}'\n")


def shows(page: Page, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#app').textContent === text", arg=text)


def test_an_edit_changes_the_page_of_its_own_frontend(folder: Path, run: Run, pages: dict[str, Page]) -> None:
    sockets: list[str] = []
    for name, page in pages.items():
        page.on("websocket", lambda socket: sockets.append(socket.url))
        page.reload()
        shows(page, f"{name} backend")
        page.evaluate("window.neverReloaded = true")
    for name, page in pages.items():
        greets(folder, name, f"new {name}")
        shows(page, f"new {name} backend")
        assert page.evaluate("window.neverReloaded")
    hmr = sorted(url.partition("?")[0] for url in sockets if "token=" in url)
    assert hmr == [f"{run.url.replace('http', 'ws', 1)}{path}" for path in ("/", "/admin/")]


def test_one_that_dies_takes_nothing_else_down(folder: Path, run: Run, pages: dict[str, Page]) -> None:
    since = len(run.events)
    leader = psutil.Process(run.state("admin", "ready")["pid"])
    os.killpg(leader.pid, signal.SIGSTOP)  # so that it is not there for as long as we look
    before = [*leader.children(recursive=True), leader]
    greets(folder, "ui", "still here")
    shows(pages["ui"], "still here backend")
    greets(folder, "admin", "back")  # not later: what is saved before Vite watches is never told
    for each in before:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    run.state("admin", "ready", since=since)
    # Vite's client has asked its own Vite whether it is back, and loads the page again.
    shows(pages["admin"], "back backend")


def test_both_let_in_a_host_that_the_settings_allow(run: Run) -> None:
    """Vite has a list of its own, and is told: of each frontend."""
    for path in ("/", "/admin/"):
        headers = {"Host": "abc.ngrok-free.app", "Accept": "text/html"}
        answer = ask(run.url + path, headers)
        assert (answer.status, answer.upstream) == (200, "frontend"), answer


def test_check_shows_both(folder: Path) -> None:
    code, shown, errors = orchestra("check", cwd=folder, env=ACTIVATED)
    assert code == 0, errors
    assert "  frontend  vite: `npm run dev` in ui runs vite\n  /admin/   admin\n" in shown
