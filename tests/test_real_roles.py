"""Projects that say nothing of roles, as people have them: what answers decides, with a real Vite."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.kit import Run, ask, free_port, get
from tests.project_kit import ACTIVATED, VITE_PORTS, browser_without, frontend, install
from tests.test_real_outside import UPGRADE
from tests.tls_kit import written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

pytestmark = [pytest.mark.real, pytest.mark.ceiling(300)]

NAVIGATES = {"Accept": "text/html", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
APP = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        is_known = scope["path"].startswith("/api")
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200 if is_known else 404, "headers": headers})
        await send({"type": "http.response.body", "body": b"{}"})
"""
MAIN = """
import { greeting } from './greeting.js'

const app = document.querySelector('#app')
app.textContent = greeting
import.meta.hot.accept('./greeting.js', changed => { app.textContent = changed.greeting })
"""
# What litestar-vite does: the application starts Vite before it listens itself, and answers for it.
LITESTAR = """
import subprocess, time, urllib.request
from litestar import Litestar, MediaType, get

def vite(path):
    return urllib.request.urlopen("http://127.0.0.1:PORT" + path).read()

@get("/api/hello")
async def hello() -> dict[str, str]:
    return {"hello": "world"}

@get("/", media_type=MediaType.HTML, sync_to_thread=True)
def page() -> bytes:
    return vite("/")

@get("/@vite/client", media_type="text/javascript", sync_to_thread=True)
def client() -> bytes:
    return vite("/@vite/client")

def start_vite():
    subprocess.Popen(["npm", "run", "dev", "--", "--host", "127.0.0.1", "--port", "PORT", "--strictPort"])
    while True:
        try:
            vite("/")
        except OSError:
            time.sleep(0.1)
        else:
            break
    time.sleep(1)  # as an application that has more to do

app = Litestar([hello, page, client], on_startup=[start_vite])
"""
STORYBOOK = """
export default {
  framework: "@storybook/html-vite",
  stories: ["../stories/*.stories.js"],
  core: { disableTelemetry: true },
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browser_without(VITE_PORTS) as launched:
        yield launched


def notice(run: Run, code: str) -> str:
    text: str = run.until(lambda event: event["type"] == "notice" and event["code"] == code)["text"]
    return text


@pytest.mark.browser
@pytest.mark.parametrize(
    ("base", "names"),
    [
        ("/", ("fe", "api")),
        ("/app/", ("fe", "api")),
        pytest.param("/", ("web", "x"), id="a name does not count"),
    ],
)
def test_a_makefile_that_runs_vite_is_the_frontend_with_hmr(
    tmp_path: Path, vite_packages: Callable[[int], Path], browser: Browser, base: str, names: tuple[str, str]
) -> None:
    fe, api = names
    frontend(tmp_path / "web", vite_packages(8), script=f"vite --base {base}")
    (tmp_path / "web/src/main.js").write_text(MAIN)
    (tmp_path / "web/src/greeting.js").write_text("export const greeting = 'hello'\n")
    (tmp_path / "Makefile").write_text("dev:\n\t@cd web && npm run dev\n")
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "Procfile").write_text(f"{fe}: make dev\n{api}: uvicorn app:app --port $PORT\n")
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        assert notice(run, "frontend-found") == f"the frontend is {fe}: it answers /@vite/client"
        run.state(fe, "ready")
        run.state(api, "ready")
        assert get(run.url + "/api/x").upstream == "backend"
        updates_in_place(browser, run.url + base, tmp_path / "web/src/greeting.js")


def updates_in_place(browser: Browser, url: str, module: Path) -> None:
    """A page follows its module without being loaded again, once it is connected to Vite."""
    page = browser.new_page()
    with page.expect_console_message(lambda said: "[vite] connected." in said.text):
        page.goto(url)
    page.get_by_text("hello").wait_for()
    page.evaluate("window.stays = true")
    module.write_text("export const greeting = 'changed'\n")
    page.get_by_text("changed").wait_for()
    assert page.evaluate("window.stays")
    page.close()


BOTH = {
    "hidden": "make dev",
    "hidden, the backend first": "make api-first",
    "read": "(sleep 2; {uvicorn}) & npm run dev",
}


@pytest.mark.browser
@pytest.mark.parametrize("starts", BOTH)
def test_one_command_that_starts_both_is_both_upstreams(
    tmp_path: Path, vite_packages: Callable[[int], Path], browser: Browser, starts: str
) -> None:
    frontend(tmp_path, vite_packages(8))
    (tmp_path / "src/main.js").write_text(MAIN)
    (tmp_path / "src/greeting.js").write_text("export const greeting = 'hello'\n")
    port = free_port()
    uvicorn = f"{sys.executable} -m uvicorn app:app --reload --port {port}"
    (tmp_path / "Makefile").write_text(
        f"dev:\n\t{uvicorn} & npm run dev\napi-first:\n\t(sleep 4; npm run dev) & {uvicorn}\n"
    )
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "Procfile").write_text(f"dev: {BOTH[starts].format(uvicorn=uvicorn)}\n")
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        found = {f"http://{host}:{port}" for host in ("127.0.0.1", "[::1]")}
        both = run.until(lambda event: event["type"] == "process.state" and event["second_url"] is not None)
        assert found & {both["url"], both["second_url"]}
        assert get(run.url + "/api/x").upstream == "backend"
        updates_in_place(browser, run.url, tmp_path / "src/greeting.js")


def test_a_command_that_tells_nothing_is_served_at_an_address_of_its_own(
    tmp_path: Path, vite_packages: Callable[[int], Path]
) -> None:
    """Not at 8000: it might be what the command takes. All is its own: the page for data, too."""
    frontend(tmp_path, vite_packages(8))
    (tmp_path / "dev.sh").write_text("npm run dev\n")
    (tmp_path / "Procfile").write_text("site: sh dev.sh\n")
    with Run(cwd=tmp_path, env=ACTIVATED) as run:
        assert notice(run, "frontend-found") == "the frontend is site: it answers /@vite/client"
        assert not run.url.endswith(":8000")
        run.state("site", "ready")
        for path in ("/", "/api/x"):
            answer = get(run.url + path)
            assert (answer.status, answer.upstream) == (200, "frontend")


def test_a_vite_that_moves_to_another_port_is_found_again(
    tmp_path: Path, vite_packages: Callable[[int], Path]
) -> None:
    """It restarts itself when its configuration changes; the first connection that is refused tells."""
    frontend(tmp_path, vite_packages(8))
    port = free_port()
    (tmp_path / "vite.config.js").write_text("export default {}\n")
    (tmp_path / "Procfile").write_text("vite: npm run dev\n")
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        run.state("vite", "ready")
        assert get(run.url + "/src/main.js").status == 200
        since = len(run.events)
        # At once: Vite would read a file that is half written, and not look at it again.
        (tmp_path / "new.js").write_text(f"export default {{ server: {{ port: {port} }} }}\n")
        (tmp_path / "new.js").replace(tmp_path / "vite.config.js")
        run.line("vite", "server restarted", since=since)
        answer = get(run.url + "/src/main.js")
        assert (answer.status, answer.upstream) == (200, "frontend")
        assert run.state("vite", "ready", since=since)["port"] == port


def test_a_vite_with_tls_is_found(tmp_path: Path, vite_packages: Callable[[int], Path]) -> None:
    frontend(tmp_path, vite_packages(8))
    written(tmp_path)
    (tmp_path / "vite.config.js").write_text(
        "import fs from 'node:fs'\n"
        "const https = { key: fs.readFileSync('key.pem'), cert: fs.readFileSync('cert.pem') }\n"
        "export default { server: { https } }\n"
    )
    (tmp_path / "Makefile").write_text("dev:\n\t@npm run dev\n")
    (tmp_path / "Procfile").write_text("fe: make dev\n")
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        assert notice(run, "frontend-found") == "the frontend is fe: it answers /@vite/client"
        assert run.state("fe", "ready")["url"].startswith("https://")
        answer = get(run.url + "/src/main.js")
        assert (answer.status, answer.upstream) == (200, "frontend")
        # Without an Origin no token is asked for.
        handshake = ask(run.url, {**UPGRADE, "Sec-WebSocket-Protocol": "vite-hmr"})
        assert (handshake.status, handshake.upstream) == (101, "frontend")


def test_without_a_frontend_an_honest_404_does_not_wait(tmp_path: Path) -> None:
    """After five seconds it is known that the worker does not listen."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "Procfile").write_text("api: uvicorn app:app --port $PORT\nworker: sleep 1000\n")
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        notice(run, "no-frontend")
        answer = get(run.url + "/nowhere", headers=NAVIGATES)
        assert (answer.status, answer.upstream) == (404, "backend")
        assert run.until(lambda event: event.get("target") == "/nowhere")["held"] == 0


def test_where_nothing_is_served_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("worker: sleep 1000\n")
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        assert notice(run, "no-backend") == "no backend: no process has answered HTTP"
        assert [event for event in run.events if event.get("code") == "no-frontend"] == []
        answer = get(run.url + "/", headers=NAVIGATES)
        assert (answer.status, answer.upstream) == (502, "orchestra")
        assert "no process has answered HTTP" in answer.text


def test_a_backend_that_is_found_late_gets_its_requests(tmp_path: Path) -> None:
    """It has no name, and no command that is known; it listens when it was taken for none that ever will."""
    serve = f"sleep 7; exec {sys.executable} -u -m http.server --bind 127.0.0.1 $PORT"
    (tmp_path / "Procfile").write_text(
        f"ui: {sys.executable} -m http.server --bind 127.0.0.1 $PORT\nx: {serve}\n"
    )
    (tmp_path / "orchestra.toml").write_text('[proxy]\nfrontend = "ui"\n')
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        notice(run, "no-backend")
        assert notice(run, "backend-found") == "the backend is x: it answers HTTP"
        run.state("x", "ready")
        assert get(run.url + "/", headers=NAVIGATES).upstream == "backend"


@pytest.mark.parametrize("command", ["litestar run --port $PORT", "litestar run --reload --port $PORT"])
def test_a_server_with_a_vite_of_its_own_stays_the_backend(
    tmp_path: Path, vite_packages: Callable[[int], Path], command: str
) -> None:
    frontend(tmp_path, vite_packages(8))
    vite_port = free_port()
    (tmp_path / "app.py").write_text(LITESTAR.replace("PORT", str(vite_port)))
    (tmp_path / "Procfile").write_text(f"site: {command}\n")
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        assert run.state("site", "ready")["port"] != vite_port
        assert get(run.url + "/api/hello").text == '{"hello":"world"}'
        assert "/@vite/client" in get(run.url + "/", headers=NAVIGATES).text
        client = get(run.url + "/@vite/client")
        assert "javascript" in client.headers["content-type"]
        assert client.upstream == "backend"


def test_a_storybook_beside_vite_is_neither_frontend_nor_backend(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    packages = tmp_path_factory.mktemp("storybook")
    versions = {"vite": "^7.0.0", "storybook": "^10.0.0", "@storybook/html-vite": "^10.0.0"}
    frontend(tmp_path, install(packages, **versions))
    (tmp_path / ".storybook").mkdir()
    (tmp_path / ".storybook/main.js").write_text(STORYBOOK)
    (tmp_path / "stories").mkdir()
    (tmp_path / "stories/a.stories.js").write_text("export default {}\nexport const A = () => 'a'\n")
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "Makefile").write_text("api:\n\t@exec uvicorn app:app --port $$PORT\n")
    late = "while ! test -e go; do sleep 0.1; done; make api"
    stories = "npx storybook dev --ci --exact-port -p $PORT"
    (tmp_path / "Procfile").write_text(f"stories: {stories}\nvite: npm run dev\nmade: {late}\n")
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        client = get(run.state("stories", "ready")["url"] + "/@vite/client")
        assert "javascript" in client.headers["content-type"]
        (tmp_path / "go").touch()
        assert notice(run, "backend-found") == "the backend is made: it answers HTTP"
        run.state("made", "ready")
        run.state("vite", "ready")
        page = get(run.url + "/", headers=NAVIGATES)
        assert (page.upstream, "Vite App" in page.text) == ("frontend", True)
        assert get(run.url + "/api/x").upstream == "backend"
