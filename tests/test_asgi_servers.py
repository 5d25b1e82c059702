"""`ViteDevProxy` under the servers that it is for, with real Vite and a real browser."""

from __future__ import annotations

import http.client
import sys
import time
import urllib.request
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.asgi_kit import SERVERS, served, server_command, serving
from tests.kit import PATIENCE, ROOT, free_port, get, needed
from tests.project_kit import browser_without, frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page
    from websockets.sync.client import ClientConnection

pytestmark = [pytest.mark.real, pytest.mark.browser]

MIB = 1024 * 1024
LARGE = 100 * MIB
# What a server may grow by while it passes 100 MiB: buffers, not bodies.
MOST_GROWTH = 40 * MIB

APP = """
import os
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from orchestra.asgi import ViteDevProxy


async def swallow(request):
    return PlainTextResponse(str(sum([len(piece) async for piece in request.stream()])))


async def give(request):
    async def pieces():
        for _ in range(100):
            yield bytes(1024 * 1024)

    return StreamingResponse(pieces())


async def chat(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(f"you said {text}")


routes = [
    Route("/hello", lambda request: PlainTextResponse("hello")),
    Route("/app/swallow", swallow, methods=["POST"]),
    Route("/app/give", give),
    WebSocketRoute("/chat", chat),
]
app = ViteDevProxy(Starlette(routes=routes), vite_port=int(os.environ["VITE"]))
"""
# A plugin as frameworks have them: Vite itself answers.
CONFIG = """
const large = Buffer.alloc(1024 * 1024);
export default {
  plugins: [{
    name: "large",
    configureServer({ middlewares }) {
      middlewares.use("/vite/give", (_, answer) => {
        let left = 100;
        const more = () => {
          while (left-- > 0) if (!answer.write(large)) return answer.once("drain", more);
          answer.end();
        };
        more();
      });
      middlewares.use("/vite/swallow", (request, answer) => {
        let size = 0;
        request.on("data", (data) => { size += data.length; }).on("end", () => answer.end(String(size)));
      });
    },
  }],
};
"""
MAIN = """
import { text } from "./text.js";
document.querySelector("#app").textContent = text;
import.meta.hot.accept("./text.js", (it) => { document.querySelector("#app").textContent = it.text; });
"""


# What fastapi-reloader's documentation shows, with the import changed.
RELOADED = """
import uvicorn
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from orchestra.asgi import auto_refresh_middleware
from orchestra.asgi import send_reload_signal

app = FastAPI()
app.add_middleware(auto_refresh_middleware)

_shutdown = uvicorn.Server.shutdown


def shutdown(self, *args, **kwargs):
    send_reload_signal()
    return _shutdown(self, *args, **kwargs)


uvicorn.Server.shutdown = shutdown


@app.get("/", response_class=HTMLResponse)
async def index():
    return "<p id=app>one</p>"
"""


class Site:
    """A project, its Vite, and a browser that cannot reach that."""

    def __init__(self, folder: Path, port: int, browser: Browser) -> None:
        self.folder = folder
        self.port = port
        self.browser = browser

    def vite(self) -> list[str]:
        vite = str(self.folder / "node_modules/vite/bin/vite.js")
        return [needed("node"), vite, "--port", str(self.port), "--strictPort"]


@pytest.fixture(scope="module")
def site(vite_packages: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    frontend(folder, vite_packages(8))
    (folder / "app.py").write_text(APP)
    (folder / "vite.config.js").write_text(CONFIG)
    (folder / "src" / "main.js").write_text(MAIN)
    port = free_port()
    with browser_without([port]) as browser:
        yield Site(folder, port, browser)


@pytest.mark.parametrize("server", SERVERS)
def test_a_page_of_vites_and_its_hmr(server: str, site: Site) -> None:
    """Through the application alone; also after Vite was away."""
    env = {"VITE": str(site.port), "PYTHONPATH": str(ROOT)}
    text = site.folder / "src" / "text.js"
    text.write_text("export const text = 'one'\n")
    with serving(server, "app:app", cwd=site.folder, env=env) as url:
        page = site.browser.new_page()
        said: list[str] = []
        sockets: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("websocket", lambda socket: sockets.append(socket.url))
        with served(site.vite(), site.port, cwd=site.folder):
            page.goto(url)
            page.wait_for_function("document.querySelector('#app')?.textContent === 'one'")
            page.evaluate("window.isSame = true")
            _wait_connected(page, said, times=1)
            text.write_text("export const text = 'two'\n")
            page.wait_for_function("document.querySelector('#app')?.textContent === 'two'")
            assert page.evaluate("window.isSame")
            # A script has no deadline of its own.
            limit = f"{{ signal: AbortSignal.timeout({PATIENCE * 1000:.0f}) }}"
            assert page.evaluate(f"fetch('/hello', {limit}).then(answer => answer.text())") == "hello"
            assert page.evaluate(f"fetch('/none', {limit}).then(answer => answer.status)") == 404
        assert get(f"{url}/hello").text == "hello"
        text.write_text("export const text = 'three'\n")
        with served(site.vite(), site.port, cwd=site.folder):
            # Vite's page reloads by itself.
            page.wait_for_function("document.querySelector('#app')?.textContent === 'three'")
            _wait_connected(page, said, times=2)
        page.close()
    assert len(sockets) >= 2
    ours = url.replace("http", "ws")
    assert not [each for each in sockets if not each.startswith(ours)], "\n".join([*sockets, *said])
    assert not [each for each in said if "fallback" in each], said


def _wait_connected(page: Page, said: list[str], *, times: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while said.count("[vite] connected.") < times:
        assert time.monotonic() < deadline, "\n".join(said)
        page.wait_for_timeout(50)


@pytest.mark.parametrize("server", SERVERS)
def test_websockets_and_large_bodies(server: str, site: Site) -> None:
    env = {"VITE": str(site.port), "PYTHONPATH": str(ROOT)}
    with (
        served(site.vite(), site.port, cwd=site.folder),
        serving(server, "app:app", cwd=site.folder, env=env) as url,
    ):
        address = url.removeprefix("http://")
        with opened(address, "/chat", "http://evil.example") as socket:
            # Its origin is the application's matter.
            socket.send("hi")
            assert socket.recv(PATIENCE) == "you said hi"
        for protocol, origin in (("vite-hmr", "http://evil.example"), ("vite-ping", "http://localhost:1")):
            with pytest.raises(InvalidStatus) as refused:
                opened(address, "/", origin, protocol)
            assert refused.value.response.status_code == 403
        token = get(f"{url}/@vite/client").text.partition('wsToken = "')[2].partition('"')[0]
        assert token
        with opened(address, f"/?token={token}", url, "vite-hmr") as socket:
            assert "connected" in str(socket.recv(PATIENCE))
        with pytest.raises(InvalidStatus) as refused:
            # Vite itself checks the token.
            opened(address, "/?token=no", url, "vite-hmr")
        assert refused.value.response.status_code >= 400
        assert get(f"{url}/@vite/client", headers={"Host": "evil.example"}).status == 404
        _pass_large_bodies(url)


@pytest.mark.parametrize("server", SERVERS)
def test_a_page_reloads_when_its_server_is_back(server: str, site: Site) -> None:
    """The old server ends although the page is connected to it."""
    module = site.folder / "reloaded.py"
    module.write_text(RELOADED)
    port = free_port()
    command = server_command(server, "reloaded:app", port)
    page = site.browser.new_page()
    with served(command, port, cwd=site.folder, env={"PYTHONPATH": str(ROOT)}) as process:
        page.goto(f"http://127.0.0.1:{port}/")
        with page.expect_websocket():
            page.reload()
        # Its issue 308: with a newer Python it waits for open connections without end.
        is_stuck = server == "hypercorn-asyncio" and sys.version_info >= (3, 12, 1)
        if is_stuck:
            for worker in psutil.Process(process.pid).children(recursive=True):
                worker.kill()
        process.terminate()
        assert process.wait(PATIENCE) is not None
    module.write_text(RELOADED.replace(">one<", ">two, by the next server<"))
    with served(command, port, cwd=site.folder, env={"PYTHONPATH": str(ROOT)}):
        page.wait_for_function("document.querySelector('#app')?.textContent.startsWith('two')")
    page.close()


def test_a_page_reloads_when_uvicorn_does(site: Site) -> None:
    module = site.folder / "reloaded.py"
    module.write_text(RELOADED)
    port = free_port()
    command = [
        *server_command("uvicorn", "reloaded:app", port),
        "--reload",
        "--reload-include",
        "reloaded.py",
    ]
    page = site.browser.new_page()
    with served(command, port, cwd=site.folder, env={"PYTHONPATH": str(ROOT)}):
        with page.expect_websocket():
            page.goto(f"http://127.0.0.1:{port}/")
        module.write_text(RELOADED.replace(">one<", ">two<"))
        page.wait_for_function("document.querySelector('#app')?.textContent === 'two'")
    page.close()


def opened(address: str, target: str, origin: str, *protocols: str) -> ClientConnection:
    options: dict[str, Any] = {"origin": origin, "subprotocols": protocols or None}
    connection: ClientConnection = connect(f"ws://{address}{target}", **options)
    return connection


def _pass_large_bodies(url: str) -> None:
    process = next(
        each
        for each in psutil.Process().children()
        if str(url.rpartition(":")[2]) in " ".join(each.cmdline())
    )
    get(f"{url}/hello")
    before = peak = process.memory_info().rss
    for target in ("/app/give", "/vite/give"):
        with urllib.request.urlopen(f"{url}{target}", timeout=PATIENCE) as answer:
            size = 0
            while piece := answer.read(MIB):
                size += len(piece)
                peak = max(peak, process.memory_info().rss)
        assert size == LARGE
    for target in ("/app/swallow", "/vite/swallow"):
        connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)
        pieces = (bytes(MIB) for _ in range(100))
        connection.request(
            "POST", target, body=pieces, encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
        )
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, str(LARGE).encode())
        connection.close()
        peak = max(peak, process.memory_info().rss)
    assert peak - before < MOST_GROWTH, (peak - before) / MIB
