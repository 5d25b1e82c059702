"""Upstreams that are not asked by TCP and plain HTTP, and what listens outside of its process's tree."""

from __future__ import annotations

import re
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.kit import Run, ask, free_port, get
from tests.project_kit import ACTIVATED
from tests.test_proxy_tunnel import KEY
from tests.tls_kit import server_context, written
from tests.visit_kit import navigation

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

APP = """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 100_000})
    elif scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await receive()
"""
PAGE = """
async def app(scope, receive, send):
    page = b"<html><head><script type=module src=http://localhost:5173/static/@vite/client></script>"
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/html")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": page})
"""
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY.decode(),
}


@pytest.mark.parametrize(
    ("command", "settings", "url"),
    [
        ("uvicorn --uds app.sock app:app", "", "unix:{folder}/app.sock"),
        ("hypercorn --bind unix:run.sock app:app", "", "unix:{folder}/run.sock"),
        # Not a process of this run, as far as the settings say: it is asked until it is there.
        ("uvicorn --uds app.sock app:app", 'backend = "unix:app.sock"', None),
        ("uvicorn --port $PORT --ssl-certfile cert.pem --ssl-keyfile key.pem app:app", "", "https://"),
        (
            "uvicorn --port {port} --ssl-certfile cert.pem --ssl-keyfile key.pem app:app",
            'backend = "https://127.0.0.1:{port}"',
            None,
        ),
    ],
)
def test_pages_and_websockets_of_such_an_upstream_pass(
    tmp_path: Path, command: str, settings: str, url: str | None
) -> None:
    port = str(free_port())
    written(tmp_path)
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "Procfile").write_text(f"api: {command.replace('{port}', port)}\n")
    (tmp_path / "orchestra.toml").write_text(f"[proxy]\n{settings.replace('{port}', port)}\n")
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        answer = get(run.url)
        assert (answer.status, answer.upstream, len(answer.body)) == (200, "backend", 100_000)
        handshake = ask(f"{run.url}/ws", UPGRADE)
        assert (handshake.status, handshake.upstream) == (101, "backend")
        if url is not None:
            ready = run.state("api", "ready")
            assert ready["url"].startswith(url.format(folder=tmp_path))
            assert (ready["port"] is None) is url.startswith("unix:")


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(204 if self.path == "/up" else 500)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - its name


@contextmanager
def serving(folder: Path | None = None) -> Iterator[int]:
    """A server that no process of the run is, with TLS if there is a folder for its certificate."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        if folder is not None:
            server.socket = server_context(folder).wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_what_listens_outside_of_its_tree_makes_it_ready(tmp_path: Path) -> None:
    """A container's port: named by the check, or by the command; or something else that a process needs."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexec sleep 1000\n")
    docker.chmod(0o755)
    with serving() as port, serving(tmp_path) as tls_port:
        checks = {
            "named": "tcp",
            "port": f"tcp:{port}",
            "host": f"tcp:127.0.0.1:{port}",
            "url": f"http://localhost:{port}/up=204",
            "tls": f"https://127.0.0.1:{tls_port}/up",
            "unseen": "tcp",
            "broken": f"http://127.0.0.1:{port}/down",
        }
        (tmp_path / "orchestra.toml").write_text(
            "[proxy]\nenabled = false\n"
            + "".join(f"[process.{name}]\nready = '{check}'\n" for name, check in checks.items())
            + "ready_timeout = 1\n"
        )
        commands = dict.fromkeys(checks, "sleep 1000") | {
            "named": f"./docker run --rm -p {port}:5432 postgres",
            "unseen": "./docker compose up db",
        }
        (tmp_path / "Procfile").write_text("".join(f"{each}: {commands[each]}\n" for each in checks))
        with Run(cwd=tmp_path) as run:
            for name in ("named", "port", "host", "url", "tls"):
                assert run.state(name, "ready")["url"].endswith(str(tls_port if name == "tls" else port))
            unseen = run.until(lambda event: event.get("code") == "socket-unseen")
            assert (unseen["process"], 'ready = "tcp:5432"' in unseen["hint"]) == ("unseen", True)
            late = run.until(lambda event: event.get("code") == "not-ready")
            assert late["text"].endswith(f"port {port} answers /down with 500, not below 500")


def test_a_page_that_names_the_vite_of_another_run_gets_a_notice(tmp_path: Path) -> None:
    """A template that has the port which Vite takes when it is alone, while another stack has that."""
    (tmp_path / "app.py").write_text(PAGE)
    (tmp_path / "orchestra.toml").write_text('[proxy]\nfrontend = "front"\n')
    (tmp_path / "Procfile").write_text(
        "api: uvicorn --port $PORT app:app\nfront: python -m http.server --bind 127.0.0.1 $PORT\n"
    )
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        ready = run.state("front", "ready")
        assert get(run.url, headers=navigation()).upstream == "backend"
        notice = run.until(lambda event: event.get("code") == "vite-elsewhere")
        place = ready["url"].removeprefix("http://")
        assert notice["text"].endswith(f"from localhost:5173, but the Vite of this run is at {place}")


@pytest.mark.parametrize(
    ("settings", "path", "side"),
    [
        ('[proxy]\nbackend = "URL"\n', "/", "backend"),
        # A frontend that is started in another terminal, or in a container.
        ('[proxy.frontends]\n"/docs/" = "URL"\n', "/docs/", "frontend"),
    ],
)
def test_requests_wait_while_a_debugger_restarts(tmp_path: Path, settings: str, path: str, side: str) -> None:
    """A backend by URL is dialled until it is there: at the start, and when it has gone."""
    port = free_port()
    (tmp_path / "docs").mkdir()
    (tmp_path / "orchestra.toml").write_text(settings.replace("URL", f"http://127.0.0.1:{port}"))
    (tmp_path / "Procfile").write_text("worker: sleep 1000\n")
    serve = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    import subprocess

    with Run("--listen", "127.0.0.1:0", cwd=tmp_path) as run:
        for count in (1, 2):
            since = len(run.events)
            answers: list[int] = []
            url = run.url + path
            asking = threading.Thread(target=lambda url=url, to=answers: to.append(get(url).status))
            asking.start()
            run.until(lambda event: event.get("code") == f"{side}-away", since=since)
            with subprocess.Popen(serve, stderr=subprocess.DEVNULL, cwd=tmp_path) as server:
                asking.join()
                assert (answers, count) == ([200], count)
                server.terminate()


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_a_phone_reaches_what_the_start_says(tmp_path: Path, host: str) -> None:
    """The address of all addresses is none that can be opened; processes are told one that can."""
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "Procfile").write_text('api: echo "at $ORCHESTRA_URL"; uvicorn --port $PORT app:app\n')
    with Run("--listen", f"{host}:0", cwd=tmp_path, env=ACTIVATED) as run:
        notice = run.until(lambda event: event.get("code") == "not-loopback")
        found = re.search(r"http://[0-9.]+:[0-9]+", notice["text"])
        if found is None:
            pytest.skip("this machine has no address but loopback")
        assert get(found[0]).upstream == "backend"
        assert get(run.line("api", "at http")["text"].removeprefix("at ")).upstream == "backend"
