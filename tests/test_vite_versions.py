"""Every Vite that is in use, as npm has it: its HMR arrives through the one address, and only there.

Each setup is one run, which all the tests share. The browser cannot reach any port that Vite may choose, so
that its client's silent way around us (straight to Vite's own port) is closed, and would be heard.
"""

from __future__ import annotations

import contextlib
import html
import re
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.kit import PATIENCE, Run, ask
from tests.project_kit import ACTIVATED, VITE_PORTS, frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.kit import Answer

pytestmark = [pytest.mark.real, pytest.mark.ceiling(300)]

MAJORS = (5, 6, 7, 8)
VITE_PROTOCOLS = ("vite-hmr", "vite-ping")
FALLBACK = "Direct websocket connection fallback"
MAIN = """
import { greeting } from './greeting.js'

const app = document.querySelector('#app')
app.textContent = greeting
import.meta.hot.accept('./greeting.js', changed => { app.textContent = changed.greeting })
"""
# Only pages and HMR matter here: the backend knows nothing.
APP = """
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 404, "headers": []})
    await send({"type": "http.response.body", "body": b"unknown"})
"""


@dataclass(frozen=True)
class Setup:
    """One way of setting up Vite."""

    major: int
    base: str = "/"
    options: str = ""

    def __str__(self) -> str:
        base = f" base {self.base}" if self.base != "/" else ""
        return f"vite {self.major}{base}{self.options}"


SETUPS = [
    *map(Setup, MAJORS),
    *(Setup(major, base="/x/") for major in MAJORS[::3]),
    *(Setup(major, options=" --host ::1") for major in MAJORS[1::2]),
]


@pytest.fixture(scope="module", params=SETUPS, ids=str)
def setup(request: pytest.FixtureRequest) -> Setup:
    chosen: Setup = request.param
    return chosen


@pytest.fixture(scope="module")
def project(
    setup: Setup, tmp_path_factory: pytest.TempPathFactory, vite_packages: Callable[[int], Path]
) -> Path:
    root = tmp_path_factory.mktemp("project")
    packages = vite_packages(setup.major)
    frontend(root / "ui", packages, script=f"vite{setup.options}", version=f"^{setup.major}.0.0")
    if setup.base != "/":
        (root / "ui" / "vite.config.js").write_text(f"export default {{ base: {setup.base!r} }}\n")
    (root / "ui" / "src" / "main.js").write_text(MAIN)
    greet(root, "as it was")
    (root / "app.py").write_text(APP)
    (root / "Procfile").write_text("vite: cd ui && npm run dev\napi: uvicorn --lifespan off app:app\n")
    return root


def greet(project: Path, text: str) -> None:
    (project / "ui" / "src" / "greeting.js").write_text(f"export const greeting = {text!r}\n")


@pytest.fixture(scope="module")
def run(project: Path) -> Iterator[Run]:
    with Run("--listen", "127.0.0.1:0", cwd=project, env=ACTIVATED) as started:
        assert started.state("vite", "ready")["port"] in VITE_PORTS
        started.state("api", "ready")
        yield started


@pytest.fixture
def window(chromium: Browser) -> Iterator[Page]:
    with chromium.new_page() as opened:
        opened.set_default_timeout(60_000)
        yield opened


def wait_for_text(page: Page, text: str, *, limit: float = PATIENCE) -> None:
    shows = "text => document.querySelector('#app')?.textContent === text"
    page.wait_for_function(shows, arg=text, timeout=limit * 1000)


def edit_until_seen(project: Path, page: Page, text: str) -> None:
    """Save the module, and again if need be: whether Vite watches already when it serves, it does not say."""
    from playwright.sync_api import TimeoutError as NotSeen

    for _ in range(10):
        greet(project, text)
        with contextlib.suppress(NotSeen):
            wait_for_text(page, text, limit=6.0)
            return
    pytest.fail(f"the page never showed the edited module: {page.inner_text('body')!r}")


def port_of(run: Run) -> str:
    return run.url.rpartition(":")[2]


def client_of(run: Run, setup: Setup) -> Answer:
    """Vite's client, which has the token inside, as a page of ours gets it."""
    return ask(f"{run.url}{setup.base}@vite/client", {"Accept": "*/*", "Sec-Fetch-Dest": "script"})


def token_of(run: Run, setup: Setup) -> str:
    found = re.search(r'wsToken = "([^"]+)"', client_of(run, setup).text)
    assert found is not None
    return found[1]


def shake_hands(
    run: Run, setup: Setup, token: str | None, *, protocol: str = "vite-hmr", **more: str
) -> Answer:
    """Ask for Vite's socket; `more` are headers."""
    handshake = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Protocol": protocol,
    }
    query = "" if token is None else f"?token={token}"
    return ask(f"{run.url}{setup.base}{query}", handshake | more)


def is_outcome(said: str) -> bool:
    """Whether Vite's client says what became of its socket."""
    return "[vite]" in said and said != "[vite] connecting..."


@pytest.mark.browser
def test_an_edited_module_is_replaced_without_a_reload(
    setup: Setup, project: Path, run: Run, window: Page
) -> None:
    said: list[str] = []
    sockets: list[str] = []
    window.on("console", lambda message: said.append(message.text))
    window.on("websocket", lambda socket: sockets.append(socket.url))
    with window.expect_console_message(lambda message: is_outcome(message.text)) as outcome:
        window.goto(run.url)
    assert outcome.value.text == "[vite] connected."
    assert window.url == run.url + setup.base
    wait_for_text(window, "as it was")
    window.evaluate("window.neverReloaded = true")
    edit_until_seen(project, window, "edited while you look")
    assert window.evaluate("window.neverReloaded")
    here = f"ws://127.0.0.1:{port_of(run)}"
    assert sorted(sockets) == sorted(
        [f"{here}{setup.base}?token={token_of(run, setup)}", f"{here}/__orchestra__/live"]
    )
    # What must not be said is what Vite would say, and going around us would not have helped.
    assert FALLBACK in client_of(run, setup).text
    assert not [line for line in said if FALLBACK in line]
    reach = "url => fetch(url, {mode: 'no-cors'}).then(() => 'reached', () => 'not reached')"
    assert window.evaluate(reach, run.url) == "reached"
    assert window.evaluate(reach, run.state("vite", "ready")["url"]) == "not reached"


def test_a_page_of_ours_gets_the_app_its_client_and_the_hmr_socket(run: Run, setup: Setup) -> None:
    token = token_of(run, setup)
    for name in ("127.0.0.1", "localhost", "app.localhost", "[::1]"):
        host = f"{name}:{port_of(run)}"
        app = ask(run.url + setup.base, {"Host": host, "Accept": "text/html"})
        assert (app.status, app.upstream) == (200, "frontend")
        assert "src/main.js" in app.text
        client = ask(f"{run.url}{setup.base}@vite/client", {"Host": host, "Accept": "*/*"})
        assert (client.status, client.upstream) == (200, "frontend")
        answer = shake_hands(run, setup, token, Host=host, Origin=f"http://{host}")
        assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "vite-hmr")


def test_a_client_without_the_token_is_refused_by_vite_itself(run: Run, setup: Setup) -> None:
    for token in (None, "guessed"):
        answer = shake_hands(run, setup, token, Origin=run.url)
        assert (answer.status, answer.upstream) == (400, "frontend")
    # So Vite has it: a client without an origin is no browser, and needs no token.
    assert shake_hands(run, setup, None).status == 101


def test_an_evil_origin_gets_no_hmr_socket_even_with_the_token(run: Run, setup: Setup) -> None:
    origins = [
        "http://evil.example",
        "https://evil.example",
        f"http://evil.example:{port_of(run)}",
        f"http://127.0.0.1.evil.example:{port_of(run)}",
        "http://localhost:1",
        "http://127.0.0.1:1",
        "null",
    ]
    for origin, token, protocol in product(origins, (token_of(run, setup), None), VITE_PROTOCOLS):
        answer = shake_hands(run, setup, token, protocol=protocol, Origin=origin)
        assert (answer.status, answer.upstream) == (403, "orchestra")
        assert f'the Origin "{origin}" is not allowed' in answer.text
        assert f'[proxy] allowed_origins = ["{origin}"]' in answer.text


def test_a_page_of_an_evil_origin_cannot_read_the_token(run: Run, setup: Setup) -> None:
    answer = ask(f"{run.url}{setup.base}@vite/client", {"Accept": "*/*", "Origin": "http://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


EVIL_HOSTS = ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example")


def test_an_evil_host_gets_nothing(run: Run, setup: Setup) -> None:
    paths = [
        f"{base}{path}"
        for base in sorted({"/", setup.base})
        for path in ("", "@vite/client", "src/main.js", "api/items", "nothing")
    ]
    for path, name, accept in product(paths, EVIL_HOSTS, ("*/*", "text/html")):
        for host in (name, f"{name}:{port_of(run)}"):
            answer = ask(run.url + path, {"Host": host, "Accept": accept})
            assert (answer.status, answer.upstream) == (403, "orchestra")
            assert f'[proxy] allowed_hosts = ["{name}"]' in html.unescape(answer.text)


def test_an_evil_host_gets_no_socket_with_or_without_the_token(run: Run, setup: Setup) -> None:
    for name, token, protocol in product(EVIL_HOSTS, (token_of(run, setup), None), VITE_PROTOCOLS):
        host = f"{name}:{port_of(run)}"
        # The second is what a rebound name looks like: to its own page it is the same origin.
        for more in ({"Origin": run.url}, {"Origin": f"http://{host}"}, {}):
            answer = shake_hands(run, setup, token, protocol=protocol, Host=host, **more)
            assert (answer.status, answer.upstream) == (403, "orchestra")
            assert f'[proxy] allowed_hosts = ["{name}"]' in answer.text


def test_a_refusal_is_reported_and_allowed_clients_still_connect(run: Run, setup: Setup) -> None:
    shake_hands(run, setup, None, Origin="http://told.example")
    told = run.until(lambda event: event.get("code") == "origin-refused" and "told.example" in event["text"])
    assert (told["type"], told["level"]) == ("notice", "warning")
    assert shake_hands(run, setup, token_of(run, setup), Origin=run.url).status == 101
