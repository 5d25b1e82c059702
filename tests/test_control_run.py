"""The control app of a real run, through its proxy: what pages, programs and other origins get."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import trio

from orchestra import OrchestraError, Plan, ProcessPlan, ProxyPlan, Role, Supervisor
from orchestra.config.plan import FromProcess
from orchestra.events import ErrorCleared, ErrorShown, ReloadSent, State, StateChanged
from tests.control_kit import Answer, BrowserPage, ask
from tests.events_kit import Recorder
from tests.kit import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

pytestmark = pytest.mark.real

BACKEND = """
import http.server, os, sys, traceback

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b"<title>hello</title>"
        if self.path.startswith("/fail"):
            try:
                [].pop()
            except IndexError:
                traceback.print_exc()
        self.send_response(500 if self.path.startswith("/fail") else 200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


class Project:
    """A run of one backend, which is a file that a test may edit.

    Attributes:
        app: That file.
    """

    def __init__(self, folder: Path, *, reloads: bool) -> None:
        self.app = folder / "app.py"
        self.app.write_text(BACKEND)
        api = ProcessPlan(
            name="api",
            command=f"exec {sys.executable} app.py",
            cwd=folder,
            port=free_port(),
            ready="http",
            role=Role.BACKEND,
        )
        proxy = ProxyPlan(
            port=0, backend=FromProcess(name="api"), frontend=None, allowed_hosts=(".ngrok-free.app",)
        )
        plan = Plan(processes=(api,), proxy=proxy, procfile=folder / "Procfile")
        self.supervisor = Supervisor(plan, reloads=reloads, is_kept_open="always")
        self.recorder = Recorder(self.supervisor)
        self._streams: list[trio.SocketStream] = []

    @property
    def host(self) -> str:
        return urlsplit(self.supervisor.url or "").netloc

    @property
    def own_page(self) -> dict[str, str]:
        """What a browser sends with the requests of a page."""
        return {"Host": self.host, "Origin": f"http://{self.host}", "Sec-Fetch-Site": "same-origin"}

    async def stream(self) -> trio.SocketStream:
        name, _, port = self.host.partition(":")
        self._streams.append(await trio.open_tcp_stream(name, int(port)))
        return self._streams[-1]

    async def ask(
        self, name: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer:
        async with await self.stream() as stream:
            return await ask(stream, name, method, headers={"Host": self.host, **(headers or {})}, body=body)

    async def open(self, headers: Mapping[str, str] | None = None) -> BrowserPage | Answer:
        return await BrowserPage.open(await self.stream(), headers or self.own_page)

    async def page(self) -> BrowserPage:
        """Open the WebSocket of a page of the backend that is new; it has been greeted."""
        page = await self.open()
        assert isinstance(page, BrowserPage)
        hello = await page.hear()
        assert hello is not None
        assert hello["type"] == "hello"
        await page.is_of("backend")
        return page

    async def close(self) -> None:
        for stream in self._streams:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def project(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, reloads: bool = True
) -> AsyncIterator[Project]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    project = Project(folder, reloads=reloads)
    async with trio.open_nursery() as nursery:
        await nursery.start(project.supervisor.run)
        await project.supervisor.wait_ready(timeout=20)
        try:
            yield project
        finally:
            with trio.CancelScope(shield=True):
                await project.close()
        await project.supervisor.stop()


async def test_pages_and_programs_get_what_is_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with project(tmp_path, monkeypatch) as run:
        for name, status in (("healthz", 200), ("readyz", 200), ("state", 200), ("nope", 404), ("open", 403)):
            answer = await run.ask(name)
            assert (answer.status, answer.headers["x-orchestra-upstream"]) == (status, "orchestra")
        state = (await run.ask("state")).json
        assert (state["url"], state["processes"][0]["state"]) == (run.supervisor.url, "ready")
        own = run.own_page
        assert (await run.ask("client.js", headers=own)).status == 200
        assert (await run.ask("open", "POST", own, b"{}")).status == 400
        assert (await run.ask("state", "POST", own, b"{}")).status == 405


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, id="evil"),
        pytest.param({"Origin": "http://localhost:1", "Sec-Fetch-Site": "same-site"}, id="other port"),
        pytest.param({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "script"}, id="script"),
    ],
)
async def test_other_origins_get_nothing(
    headers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with project(tmp_path, monkeypatch) as run:
        for name in ("client.js", "state", "events", "healthz", "readyz"):
            assert (await run.ask(name, headers=headers)).status == 403
        assert (await run.ask("open", "POST", headers, b"{}")).status == 403
        page = await run.open({"Host": run.host, **headers})
        assert isinstance(page, Answer)
        assert page.status == 403


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Host": "x.ngrok-free.app"}, id="tunnel"),
        pytest.param({"X-Forwarded-For": "203.0.113.5"}, id="tunnel that writes our Host"),
    ],
)
async def test_what_comes_from_elsewhere_sees_nothing_of_the_project(
    headers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with project(tmp_path, monkeypatch) as run:
        for name, status in (("healthz", 200), ("readyz", 200), ("state", 403), ("events", 403)):
            assert (await run.ask(name, headers=headers)).status == status
        assert (await run.ask("healthz", headers={"Host": "evil.example"})).status == 403


async def test_a_page_reloads_once_per_restart_and_hears_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with project(tmp_path, monkeypatch) as run:
        page = await run.page()
        for _ in range(2):
            await run.supervisor.restart("api")
            await run.supervisor.wait_ready(timeout=20)
            assert await page.hear() == {"type": "reload", "reason": "api is ready"}
        assert run.supervisor.reload("because") == 1
        assert await page.hear() == {"type": "reload", "reason": "because"}
        assert [event.tabs for event in run.recorder.of(ReloadSent)] == [1, 1, 1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run.supervisor.stop)
            assert await page.hear_all() == [{"type": "ended"}]
        assert page.close_code == 1001


async def test_an_error_is_shown_to_pages_that_come_later_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with project(tmp_path, monkeypatch) as run:
        page = await run.page()
        run.app.write_text("raise ValueError('no')\n")
        await run.supervisor.restart("api")
        await run.recorder.until(ErrorShown)
        late = await run.page()
        for each in (page, late):
            error = await each.hear()
            assert error is not None
            assert (error["type"], error["process"], error["error_type"]) == (
                "error.shown",
                "api",
                "ValueError",
            )
            assert (error["file"], error["line"]) == (str(run.app), 1)
        missing = (await run.ask("readyz")).json["missing"]
        assert [each["process"] for each in missing] == ["api"]
        run.app.write_text(BACKEND)
        await run.recorder.until(StateChanged, lambda event: event.state is State.BACKING_OFF)
        run.supervisor.start("api")
        await run.recorder.until(ErrorCleared)
        heard = [await page.hear(), await page.hear()]
        assert sorted(each["type"] for each in heard if each is not None) == ["cleared", "reload"]
        assert (await run.ask("state")).json["errors"] == []


async def test_a_page_whose_request_failed_is_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with project(tmp_path, monkeypatch) as run:
        page = await run.page()
        referer = f"http://{run.host}/?a=b"
        async with await run.stream() as stream:
            lines = (
                f"GET /fail HTTP/1.1\r\nHost: {run.host}\r\nReferer: {referer}\r\nSec-Fetch-Dest: empty\r\n"
            )
            await stream.send_all(f"{lines}\r\n".encode())
            await stream.receive_some()
        error = await page.hear()
        assert error is not None
        assert (error["type"], error["error_type"], error["is_fatal"]) == ("error.shown", "IndexError", False)


async def test_events_are_read_from_the_one_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with project(tmp_path, monkeypatch) as run:
        stream = await run.stream()
        await stream.send_all(f"GET /__orchestra__/events HTTP/1.1\r\nHost: {run.host}\r\n\r\n".encode())
        data = b""
        while b"run.started" not in data or b'"ready"' not in data:
            data += await stream.receive_some()
        lines = [each.removeprefix(b"data: ") for each in data.splitlines() if each.startswith(b"data: ")]
        assert json.loads(lines[0])["type"] == "run.started"


async def test_a_local_reader_of_events_hears_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with project(tmp_path, monkeypatch) as run:
        (path,) = (tmp_path / "orchestra").iterdir()
        async with await trio.open_unix_socket(path) as stream, trio.open_nursery() as nursery:
            await stream.send_all(b"GET /__orchestra__/events HTTP/1.1\r\nHost: x\r\n\r\n")
            await stream.receive_some()
            nursery.start_soon(run.supervisor.stop)
            data = b""
            while not data.endswith(b"\r\n0\r\n\r\n"):
                data += await stream.receive_some()
        last = [each for each in data.splitlines() if each.startswith(b"data: ")][-1]
        assert json.loads(last.removeprefix(b"data: "))["type"] == "run.ended"


async def test_a_run_without_reloads_has_none_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with project(tmp_path, monkeypatch, reloads=False) as run:
        for name in ("healthz", "state", "client.js"):
            assert (await run.ask(name)).status == 404
        with pytest.raises(OrchestraError, match="no connection to the pages") as caught:
            run.supervisor.reload()
        assert "reloads=True" in caught.value.hint
    assert not (tmp_path / "orchestra").exists()


def test_a_run_that_shows_no_page_does_not_import_what_serves_them(tmp_path: Path) -> None:
    script = """
import sys, trio
from orchestra import Plan, ProcessPlan, ProxyPlan, Supervisor
from orchestra.config.plan import FromProcess
api = ProcessPlan(name="api", command="sleep 100")
plan = Plan(processes=(api,), proxy=ProxyPlan(port=0, backend=FromProcess(name="api"), frontend=None))
async def main():
    supervisor = Supervisor(plan, reloads=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.stop()
trio.run(main)
print(*(name for name in ("hypercorn", "orchestra.control.app", "trio") if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["trio"]
