"""Projects as people have them: `orchestra init`, then `orchestra run`, with nothing edited in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.kit import ROOT, Run, base_port, free_port, get, marked, needed, orchestra, processes
from tests.project_kit import ACTIVATED, frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(300)]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A `node_modules` with a real Vite."""
    needed("node")
    npm = needed("npm")
    folder = tmp_path_factory.mktemp("packages")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(ROOT / "examples" / "notes" / "frontend" / name, folder)
    subprocess.run([npm, "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, capture_output=True)
    return folder / "node_modules"


FASTAPI = """
from fastapi import FastAPI

app = FastAPI()


@app.get("/api/hello")
def hello():
    return {"hello": "world"}
"""
FLASK = """
from flask import Flask


def create_app():
    app = Flask(__name__)

    @app.get("/api/hello")
    def hello():
        return {"hello": "world"}

    return app
"""
STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def hello(request):
    return JSONResponse({"hello": "world"})


app: Starlette = Starlette(routes=[Route("/api/hello", hello)])
"""
LITESTAR = """
from litestar import Litestar, get


@get("/api/hello")
async def hello() -> dict[str, str]:
    return {"hello": "world"}


app = Litestar([hello])
"""
DJANGO_URLS = """
from django.http import JsonResponse
from django.urls import path

urlpatterns = [path("api/hello", lambda request: JsonResponse({"hello": "world"}))]
"""


def django(root: Path) -> None:
    command = [sys.executable, "-m", "django", "startproject", "site1", "."]
    subprocess.run(command, cwd=root, check=True)
    (root / "site1" / "urls.py").write_text(DJANGO_URLS)


def fastapi(root: Path) -> None:
    (root / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["fastapi", "uvicorn"]\n')
    (root / "app").mkdir()
    (root / "app" / "__init__.py").touch()
    (root / "app" / "main.py").write_text(FASTAPI)


def flask(root: Path) -> None:
    (root / "app.py").write_text(FLASK)


def starlette(root: Path) -> None:
    (root / "requirements.txt").write_text("starlette\nhypercorn\n")
    (root / "backend").mkdir()
    (root / "backend" / "server.py").write_text(STARLETTE)


def litestar(root: Path) -> None:
    (root / "main.py").write_text(LITESTAR)


@pytest.mark.parametrize(
    ("make", "ui", "api"),
    [
        (fastapi, "frontend", "uvicorn --port $PORT app.main:app"),
        (flask, "ui", "flask --app app:create_app run --debug --no-reload --port $PORT"),
        (django, "", "python manage.py runserver --noreload 127.0.0.1:$PORT"),
        (
            starlette,
            "web/client",
            "cd backend && hypercorn --graceful-timeout 1 --bind 127.0.0.1:$PORT server:app",
        ),
        (litestar, "client", "uvicorn --port $PORT main:app"),
    ],
    ids=["fastapi", "flask", "django", "starlette", "litestar"],
)
def test_what_init_writes_runs_as_it_is(
    tmp_path: Path, packages: Path, make: Callable[[Path], None], ui: str, api: str
) -> None:
    procfile = f"vite: {f'cd {ui} && ' if ui else ''}npm run dev\napi: {api}\n"
    make(tmp_path)
    frontend(tmp_path / ui, packages)
    code, shown, _ = orchestra("init", cwd=tmp_path, env=ACTIVATED)
    assert (code, processes(shown)) == (0, procfile)
    assert (tmp_path / "Procfile.dev").read_text() == shown
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        run.state("vite", "ready")
        run.state("api", "ready")
        page = get(run.url + "/", headers={"Accept": "text/html"})
        assert (page.status, page.upstream) == (200, "frontend")
        assert "/@vite/client" in page.text
        assert "document.querySelector" in get(run.url + "/src/main.js").text
        answer = get(run.url + "/api/hello")
        assert (answer.status, answer.upstream, json.loads(answer.text)) == (
            200,
            "backend",
            {"hello": "world"},
        )
        missing = get(run.url + "/api/nothing", headers={"Accept": "text/html"})
        assert (missing.status, missing.upstream) == (404, "backend")
        run_id = run.run_id
        assert run.stop() == 130
        assert marked(run_id) == []


@pytest.fixture
def project(tmp_path: Path, packages: Path) -> Path:
    frontend(tmp_path / "ui", packages)
    (tmp_path / "app.py").write_text(FASTAPI)
    (tmp_path / "Procfile").write_text("vite: cd ui && npm run dev\napi: uvicorn app:app\n")
    return tmp_path


def answers(run: Run) -> None:
    """See that both are there."""
    run.state("vite", "ready")
    run.state("api", "ready")
    assert "/@vite/client" in get(run.url + "/").text
    assert get(run.url + "/api/hello").text == '{"hello":"world"}'


def test_a_uvicorn_without_a_port_gets_its_own(project: Path) -> None:
    with Run("--listen", "127.0.0.1:0", cwd=project, env=ACTIVATED) as run:
        answers(run)


def test_uvicorn_is_not_ready_until_it_can_import_its_app(project: Path) -> None:
    (project / "app.py").write_text("def broken(:\n")
    (project / "Procfile").write_text("vite: cd ui && npm run dev\napi: uvicorn --reload app:app\n")
    with Run("--listen", "127.0.0.1:0", cwd=project, env=ACTIVATED) as run:
        run.line("api", "SyntaxError")
        run.state("vite", "ready")
        broken_until = len(run.events)
        assert not [
            event for event in run.events if event.get("state") == "ready" and event["process"] == "api"
        ]
        (project / "app.py").write_text(FASTAPI)
        run.state("api", "ready", since=broken_until)
        assert get(run.url + "/api/hello").status == 200


def test_a_vite_that_listens_on_ipv6_only_is_found(project: Path, packages: Path) -> None:
    shutil.rmtree(project / "ui")
    frontend(project / "ui", packages, script="vite --host ::1")
    with Run("--listen", "127.0.0.1:0", cwd=project, env=ACTIVATED) as run:
        answers(run)
        assert run.state("vite", "ready")["url"].startswith("http://[::1]:")


@pytest.fixture
def busy_port() -> Iterator[int]:
    """Vite's usual port, held by another program."""
    try:
        with (
            socket.create_server(("127.0.0.1", 5173)) as four,
            socket.create_server(("::1", 5173), family=socket.AF_INET6),
        ):
            yield four.getsockname()[1]
    except OSError:  # then another program holds it
        yield 5173


def test_a_vite_that_moved_its_port_is_found(project: Path, busy_port: int) -> None:
    with Run("--listen", "127.0.0.1:0", cwd=project, env=ACTIVATED) as run:
        answers(run)
        assert run.state("vite", "ready")["port"] != busy_port


def test_a_second_run_names_the_holder_of_its_address(project: Path) -> None:
    port = free_port()
    with Run("--listen", str(port), cwd=project, env=ACTIVATED) as first:
        answers(first)
        env = {**ACTIVATED, "PORT": str(base_port())}
        code, out, err = orchestra("run", "--listen", str(port), cwd=project, env=env)
        assert (code, out) == (2, "")
        assert f"port {port} is taken by pid {first.process.pid} (" in err
        assert "--listen 127.0.0.1:" in err
        with Run("--listen", "127.0.0.1:0", cwd=project, env=ACTIVATED) as second:
            answers(second)
            answers(first)
            assert second.stop() == 130
        assert first.stop() == 130


def test_an_instance_stands_in_for_another(project: Path) -> None:
    (project / "app.py").write_text(
        FASTAPI.replace('"world"', "__import__('os').environ['ORCHESTRA_PROCESS']")
    )
    (project / "Procfile").write_text("vite: cd ui && npm run dev\napi: uvicorn app:app\nother: sleep 1000\n")
    with Run("-m", "api=2,other=0", "--listen", "127.0.0.1:0", cwd=project, env=ACTIVATED) as run:
        run.state("vite", "ready")
        ports = [run.state(name, "ready")["port"] for name in ("api.1", "api.2")]
        # The next one that is free: something else on this machine may have the very next.
        assert ports[0] < ports[1] < ports[0] + 10
        seen = {json.loads(get(run.url + "/api/hello").text)["hello"] for _ in range(6)}
        assert seen == {"api.1"}  # the first that is ready
        os.killpg(run.state("api.1", "ready")["pid"], signal.SIGKILL)
        run.state("api.1", "backing-off")
        assert [get(run.url + "/api/hello").status for _ in range(6)] == [200] * 6
        assert {event["process"] for event in run.events if event["type"] == "process.state"} == {
            "vite",
            "api.1",
            "api.2",
        }


def test_check_says_that_all_is_well(project: Path) -> None:
    env = {**ACTIVATED, "PORT": str(base_port())}
    code, out, err = orchestra("check", "--listen", str(free_port()), cwd=project, env=env)
    assert (code, err) == (0, "")
    assert "backend   api: it is called api\n" in out
    assert "frontend  vite: `npm run dev` in ui runs vite\n" in out
