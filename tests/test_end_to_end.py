"""The main job, on the real thing: Procfile.example, real Vite, a real backend, a real browser."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.kit import Run, copy_of_the_example, get, marked, needed
from tests.project_kit import browser_without

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.real, pytest.mark.ceiling(300)]

GREETING = "examples/notes/frontend/src/greeting.ts"


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The example, running in a copy of its own; its packages were installed by the run itself."""
    needed("node")
    needed("npm")
    folder = copy_of_the_example(tmp_path_factory.mktemp("notes"))
    with Run("Procfile.example", "--listen", "127.0.0.1:0", cwd=folder) as run:
        run.state("vite", "installing")
        run.state("vite", "ready")
        run.state("api", "ready")
        yield run


@pytest.fixture
def folder(notes: Run) -> Path:
    return Path(str(notes.until(lambda event: event["type"] == "run.started")["procfile"])).parent


@pytest.fixture
def browser(notes: Run) -> Iterator[Browser]:
    with browser_without([notes.state("vite", "ready")["port"]]) as launched:
        yield launched


@pytest.fixture
def page(browser: Browser, notes: Run) -> Iterator[Page]:
    opened = browser.new_page()
    opened.set_default_timeout(60_000)
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.goto(notes.url)
    opened.wait_for_function("document.querySelectorAll('#notes li').length > 0")
    yield opened
    assert not [line for line in said if "Direct websocket connection fallback" in line]


def test_packages_are_installed_first_and_visibly(notes: Run) -> None:
    states = [
        event["state"]
        for event in notes.events
        if event["type"] == "process.state" and event["process"] == "vite"
    ]
    assert states[0] == "installing"
    assert any(
        event["type"] == "process.output" and "added" in event["text"] and event["process"] == "vite"
        for event in notes.events
    )


def test_every_client_gets_vites_page(notes: Run) -> None:
    for headers in ({"Accept": "text/html"}, {}):
        answer = get(notes.url + "/", headers=headers)
        assert (answer.status, answer.upstream) == (200, "frontend")
        assert "/@vite/client" in answer.text


def test_a_module_is_vite_s(notes: Run) -> None:
    answer = get(notes.url + "/src/main.ts", headers={"Sec-Fetch-Dest": "script"})
    assert (answer.status, answer.upstream) == (200, "frontend")
    assert "javascript" in answer.headers["content-type"]


def test_the_backend_s_pages_and_data_are_the_backend_s(notes: Run) -> None:
    answer = get(notes.url + "/api/notes")
    assert (answer.status, answer.upstream) == (200, "backend")
    assert answer.headers["content-type"] == "application/json"
    answer = get(notes.url + "/about", headers={"Accept": "text/html"})
    assert (answer.status, answer.upstream) == (200, "backend")
    assert "<h1" in answer.text


@pytest.mark.parametrize("accept", ["*/*", "application/json", "text/html", "text/html,*/*;q=0.8"])
def test_an_honest_404_of_the_api_stays_one(notes: Run, accept: str) -> None:
    answer = get(notes.url + "/api/notes/7", headers={"Accept": accept})
    assert (answer.status, answer.upstream) == (404, "backend")
    assert "detail" in answer.text


def test_both_loopback_addresses_are_served(notes: Run) -> None:
    port = notes.url.rpartition(":")[2]
    assert get(f"http://[::1]:{port}/api/notes").upstream == "backend"
    assert get(f"http://localhost:{port}/api/notes").upstream == "backend"


def test_an_upload_arrives_whole(notes: Run) -> None:
    answer = get(notes.url + "/api/upload", method="POST", body=b"x" * 3_000_000)
    assert answer.status == 200
    assert "3000000" in answer.text


def test_the_requests_are_seen(notes: Run) -> None:
    since = len(notes.events)
    get(notes.url + "/api/notes?seen=1")
    event = notes.until(
        lambda event: event["type"] == "request.finished" and event["target"].endswith("seen=1"), since=since
    )
    assert (event["method"], event["status"], event["upstream"]) == ("GET", 200, "backend")


@pytest.mark.browser
def test_the_page_works(page: Page) -> None:
    page.click("#counter")
    assert "1" in page.inner_text("#counter")
    before = page.locator("#notes li").count()
    page.fill("#note-text", "from the browser")
    page.click("#note-add")
    page.wait_for_function(f"document.querySelectorAll('#notes li').length == {before + 1}")
    status, body = page.evaluate("fetch('/api/notes/7').then(async r => [r.status, await r.text()])")
    assert status == 404
    assert "detail" in body


@pytest.mark.browser
def test_the_event_stream_and_the_websocket_work_in_the_page(page: Page) -> None:
    page.wait_for_function("document.querySelector('#events').textContent.length > 0")
    first = page.inner_text("#events")
    page.wait_for_function("old => document.querySelector('#events').textContent !== old", arg=first)
    page.fill("#ws-text", "hello through the proxy")
    page.click("#ws-send")
    page.wait_for_function("document.querySelector('#ws-echo').textContent.includes('through the proxy')")


@pytest.mark.browser
def test_an_upload_from_the_page_arrives_whole(page: Page, tmp_path: Path) -> None:
    (tmp_path / "file.bin").write_bytes(os.urandom(200_000))
    page.set_input_files("#upload-file", tmp_path / "file.bin")
    page.wait_for_function("document.querySelector('#upload-result').textContent.match(/200.?000/)")


def change_the_greeting(folder: Path, page: Page, text: str) -> None:
    """Edit the source as an editor would, and wait until the page shows it."""
    source = folder / GREETING
    import re

    edited, count = re.subn(r"(['\"`])[^'\"`\n]*\1;", f'"{text}";', source.read_text(), count=1)
    assert count == 1
    source.write_text(edited)
    page.wait_for_function("text => document.querySelector('#greeting').textContent.includes(text)", arg=text)


@pytest.mark.browser
def test_an_edited_module_is_replaced_without_a_reload(page: Page, folder: Path, notes: Run) -> None:
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    page.reload()
    page.wait_for_function("document.querySelectorAll('#notes li').length > 0")
    page.evaluate("window.neverReloaded = true")
    for _ in range(3):
        page.click("#counter")
    change_the_greeting(folder, page, "Edited while you look")
    assert "3" in page.inner_text("#counter")
    assert page.evaluate("window.neverReloaded")
    port = notes.url.rpartition(":")[2]
    assert any("token=" in url for url in sockets), sockets
    assert all(f":{port}/" in url for url in sockets), sockets


@pytest.mark.browser
def test_a_killed_vite_comes_back_and_so_does_hmr(page: Page, folder: Path, notes: Run) -> None:
    since = len(notes.events)
    page.evaluate("window.old = true")
    pid = notes.state("vite", "ready")["pid"]
    pids = [entry.pid for entry in psutil.Process(pid).children(recursive=True)] + [pid]
    for each in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    notes.state("vite", "ready", since=since)
    # Vite's client notices by itself, and loads the page again.
    page.wait_for_function("!window.old && document.querySelectorAll('#notes li').length > 0")
    page.click("#counter")
    change_the_greeting(folder, page, "Back again")
    assert "1" in page.inner_text("#counter")


@pytest.mark.browser
def test_a_killed_backend_comes_back_and_the_page_s_next_call_works(page: Page, notes: Run) -> None:
    since = len(notes.events)
    os.killpg(notes.state("api", "ready")["pid"], signal.SIGKILL)
    notes.state("api", "backing-off", since=since)
    status = page.evaluate("fetch('/api/notes').then(r => r.status)")
    assert status == 200
    notes.state("api", "ready", since=since)
    page.fill("#ws-text", "again")
    page.wait_for_function("document.querySelector('#ws-state').textContent.match(/open|connected/i)")
    page.click("#ws-send")
    page.wait_for_function("document.querySelector('#ws-echo').textContent.includes('again')")


def test_a_backend_whose_listening_process_is_killed_comes_back(notes: Run) -> None:
    since = len(notes.events)
    ready = notes.state("api", "ready")
    shown = [event["port"] for event in notes.events if event.get("process") == "api" and event.get("port")]
    (listener,) = {
        each.pid
        for each in psutil.net_connections("tcp4")
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == shown[-1]
    }
    assert listener is not None
    os.kill(listener, signal.SIGKILL)
    assert get(notes.url + "/api/notes").status == 200
    assert notes.state("api", "ready", since=since)["pid"] != ready["pid"]


def test_after_ctrl_c_no_process_of_the_run_is_left(notes: Run) -> None:
    run_id = notes.run_id
    assert len(marked(run_id)) >= 3
    assert notes.stop(signal.SIGINT) == 130
    assert marked(run_id) == []
    assert notes.events[-1]["type"] == "run.ended"
    assert notes.events[-1]["exit_code"] == 130
    assert notes.errors == ""
