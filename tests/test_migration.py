"""What the README says of coming from other tools: every "now" of its tables is run."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from enum import Enum
from typing import TYPE_CHECKING

import pytest
from websockets.sync.client import connect

from orchestra.config.schema import ProcessPolicy
from orchestra.planning import load
from tests.asgi_kit import served
from tests.kit import COMMAND, PATIENCE, ROOT, Run, base_port, free_port, get, orchestra
from tests.project_kit import frontend
from tests.terminal_kit import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(240)]


def rows(table: str) -> list[tuple[str, list[str]]]:
    """The rows of a table: what was written, and the pieces of code of what is written now."""
    text = (
        (ROOT / "README.md").read_text().partition(f"<!-- migration: {table} -->\n")[2].partition("\n\n")[0]
    )
    cells = [line.strip("| ").split(" | ") for line in text.splitlines()[2:]]
    assert cells
    return [(" | ".join(before), re.findall("`([^`]+)`", now)) for *before, now in cells]


# --- honcho, foreman, overmind ---

PROCFILE = "web: echo hello; exec sleep 1000\nworker: exec sleep 1000\n"


# What is run by a command that is not just `orchestra run`.
RUN = {
    "orchestra run web": ["web"],
    "orchestra run -f Procfile.two -e two.env -p 4000": ["two"],
    "orchestra run -m web=2,all=1": ["web.1", "web.2", "worker"],
}
SAID = {
    "orchestra exec -- env": "GREETING=hello",
    "orchestra check": "web",
    "orchestra ps": "worker",
    "orchestra logs": "hello",
}


def test_commands_of_other_procfile_runners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", str(base_port()))
    (tmp_path / "Procfile").write_text(PROCFILE)
    (tmp_path / "Procfile.two").write_text("two: echo $GREETING; exec sleep 1000\n")
    (tmp_path / ".env").write_text("GREETING=hello\n")
    (tmp_path / "two.env").write_text("GREETING=two\n")
    for command in (each for _, now in rows("procfile") for each in now if each.startswith("orchestra ")):
        if command.startswith("orchestra run") and "--detach" not in command:
            named = RUN.get(command, ["web", "worker"])
            with Run(*shlex.split(command)[2:], cwd=tmp_path) as run:
                assert run.until(lambda event: event["type"] == "run.started")["processes"] == named, command
                for name in named:
                    run.state(name, "running")
                assert run.stop() == 130
        elif command == "orchestra attach":
            with Terminal(*COMMAND, "attach", cwd=tmp_path) as second:
                second.until(lambda text: "worker" in text)
                second.send("i")
                second.until(lambda text: "Ctrl-]" in text)
        else:
            code, shown, errors = orchestra(*shlex.split(command)[1:], cwd=tmp_path)
            assert code == 0, (command, errors)
            assert SAID.get(command, "") in shown, command
    assert orchestra("ps", cwd=tmp_path)[0] == 2
    assert {"Procfile", "DIR"} <= {each.name for each in tmp_path.iterdir()}


# --- process-compose ---

APP = """
import http.server, os, sys
print("listening", os.environ.get("DEBUG"), os.getcwd(), sys.stdout.isatty(), flush=True)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""
# What shows that a setting counts, where the plan does not show it.
LISTENING = {
    'env = { DEBUG = "1" }': "listening 1 ",
    'cwd = "/tmp"': " /tmp ",
    "pty = true": " True",
}


@pytest.mark.parametrize("now", [now for _, now in rows("process-compose")], ids=lambda now: now[0])
def test_settings_of_process_compose(now: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "app.py").write_text(APP)
    (tmp_path / "Procfile").write_text("db: exec sleep 1000\nmigrate: true\n")
    usual = ('command = "python3 -m app"', 'ready = "http:/health"')
    lines = [*now, *(each for each in usual if each.split()[0] != now[0].split()[0])]
    settings = "\n".join(['[process.db]\nready = "delay:0"\n[process.api]', *lines])
    (tmp_path / "orchestra.toml").write_text(settings)
    written = tomllib.loads(settings)["process"]["api"]
    last = f"api.{written['instances']}" if "instances" in written else "api"
    plan = load(tmp_path / "Procfile").named(last)
    assert plan is not None
    assert [str(each) for each in plan.depends_on] == written.get("depends_on", [])
    for key in ProcessPolicy.__struct_fields__:
        if key in written and key != "log_file":
            value = getattr(plan, key)
            assert (value.value if isinstance(value, Enum) else value) == written[key]
    with Run("--no-proxy", cwd=tmp_path) as run:
        if not written.get("autostart", True):
            run.state("db", "ready")
            _, shown, _ = orchestra("ps", "--json", cwd=tmp_path)
            assert [each["state"] for each in json.loads(shown)["processes"]][-1] == "stopped"
            return
        run.state(last, "ready")
        run.line(last, LISTENING.get(now[0], "listening"))
        run.stop()
    if "log_file" in written:
        assert "listening" in (tmp_path / written["log_file"]).read_text()


# --- Vite's server.proxy ---

BACKEND = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute


async def hello(request):
    return PlainTextResponse("hello from " + request.headers["host"])


async def echo(websocket):
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()


async def every_other(request):
    return PlainTextResponse("the backend answers everything")


app = Starlette(routes=[WebSocketRoute("/ws", echo)])
api = Starlette(routes=[Route("/hello", hello)])
%s
%s
"""
EVERY_OTHER = 'app.router.routes.append(Route("/{path:path}", every_other))'


def test_what_vites_proxy_did(tmp_path: Path, vite_packages: Callable[[int], Path]) -> None:
    """Nothing in Vite's configuration, and one line for a backend that answers every path."""
    [_, [settings, _], _, [mounting], [command], [hosts, _]] = [now for _, now in rows("vite")]
    frontend(tmp_path / "ui", vite_packages(8))
    (tmp_path / "Procfile").write_text("vite: cd ui && npm run dev\napi: uvicorn main:app --port $PORT\n")
    words = shlex.split(command.replace("3000", str(free_port())))
    for toml, more in (("", ""), (settings, EVERY_OTHER)):
        (tmp_path / "main.py").write_text(BACKEND % (mounting.partition(":")[0], more))
        (tmp_path / "orchestra.toml").write_text(f"[proxy]\n{toml}\n{hosts}\n")
        with Run(*words[2:], cwd=tmp_path) as run:
            run.state("vite", "ready")
            run.state("api", "ready")
            url = run.url.replace("0.0.0.0", "127.0.0.1")
            answer = get(f"{url}/api/hello", headers={"Host": "abc.example"})
            assert (answer.text, answer.upstream) == ("hello from abc.example", "backend")
            page = get(f"{url}/", headers={"Accept": "text/html"})
            assert (page.status, page.upstream) == (200, "frontend")
            with connect(f"{url.replace('http', 'ws')}/ws", open_timeout=PATIENCE) as socket:
                socket.send("said")
                assert socket.recv(PATIENCE) == "said"


# --- fastware, fastapi-reloader ---

MAIN = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

app = Starlette(routes=[Route("/", lambda request: PlainTextResponse("hello"))])
"""


def test_imports_and_the_command_of_asgi_tools(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(MAIN)
    for line in (each for _, now in rows("asgi") for each in now):
        if line.startswith("from "):
            subprocess.run([sys.executable, "-c", line], check=True, cwd=ROOT)
            continue
        port = free_port()
        words = [*shlex.split(line)[1:], "--listen", f"127.0.0.1:{port}", "--output", "plain"]
        with served([*COMMAND, *words], port, cwd=tmp_path, env={"PORT": str(base_port())}):
            assert get(f"http://127.0.0.1:{port}/").text == "hello"
            assert orchestra("down", cwd=tmp_path)[0] == 0
