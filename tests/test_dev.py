"""`orchestra dev` and `dev()`: an application and its Vite, without a Procfile."""

from __future__ import annotations

import contextlib
import http.client
import importlib.metadata
import os
import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestra.config import Overrides
from orchestra.config.plan import FromProcess
from orchestra.config.written import Target
from orchestra.planning import load
from tests.asgi_kit import served
from tests.kit import COMMAND, PATIENCE, ROOT, base_port, called, free_port, get, orchestra
from tests.project_kit import frontend

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

# The complete setup of fastware's documentation, with the import of `dev` changed, and a port that is free.
MYAPP = """
from fastware import Router, Broadcaster, sse_route, create_app

broadcaster = Broadcaster(heartbeat_interval=30)
broadcaster.register_event("update")

router = Router()
router.add_route("GET", "/events", sse_route(broadcaster))

@router.get("/api/health")
async def health(request):
    return {"status": "ok"}

@router.post("/api/items")
async def create_item(request):
    item = request.json
    broadcaster.broadcast("update", {"action": "created", "item": item})
    return {"ok": True}

app = create_app(router)
"""
DEV = """
from orchestra.dev import dev

if __name__ == "__main__":
    dev("myapp:app", host="127.0.0.1", port=8000)
"""
# The same with an object, and everything else that can be said.
DEV_HERE = """
from pathlib import Path
from orchestra.dev import dev
from myapp import app

if __name__ == "__main__":
    dev(app, vite_command="npm run dev", vite_port=5173, host="127.0.0.1", port=8000, name="SHOP",
        pid_path=Path("dev.pid"), pre_serve=lambda: print("pre_serve was called", flush=True))
"""


@pytest.fixture(scope="session")
def fastware(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with fastware in it, without the server that it brings."""
    if int(importlib.metadata.version("msgspec").split(".")[1]) < 21:
        pytest.skip("fastware needs a newer msgspec")
    folder = tmp_path_factory.mktemp("fastware")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*pip, "fastware==0.6.3"], check=True, capture_output=True)
    return folder


@pytest.fixture
def project(tmp_path: Path, vite_packages: Callable[[int], Path]) -> Path:
    frontend(tmp_path, vite_packages(8))
    (tmp_path / "myapp.py").write_text(MYAPP)
    return tmp_path


def _end(process: subprocess.Popen[str]) -> None:
    """End it by Ctrl-C; nothing that it has started is left."""
    pids = {each.pid for each in psutil.Process(process.pid).children(recursive=True)}
    assert pids
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    deadline = time.monotonic() + PATIENCE
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(psutil.pid_exists, pids))


def _use(url: str) -> None:
    """Use the application and its page through the one address."""
    page = get(f"{url}/", headers={"Accept": "text/html"})
    assert "/@vite/client" in page.text, page.text
    assert "document.querySelector" in get(f"{url}/src/main.js").text
    assert get(f"{url}/api/health").text == '{"status":"ok"}'
    assert get(f"{url}/api/none").status == 404
    stream = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE)
    stream.request("GET", "/events")
    with contextlib.closing(stream), stream.getresponse() as events:
        sent = {"method": "POST", "body": b'{"a":1}', "headers": {"Content-Type": "application/json"}}
        assert get(f"{url}/api/items", **sent).text == '{"ok":true}'  # type: ignore[arg-type]  # of several types
        line = b""
        while b"created" not in line:
            line = events.readline()
            assert line


@pytest.mark.real
def test_fastwares_documented_project_runs(project: Path, fastware: Path) -> None:
    """A saved file restarts the application."""
    port = free_port()
    (project / "dev.py").write_text(DEV.replace("8000", str(port)))
    # Another test that starts in this moment would have the same ports.
    env = {"PYTHONPATH": f"{fastware}{os.pathsep}{ROOT}", "PORT": str(base_port())}
    with served([sys.executable, "dev.py"], port, cwd=project, env=env) as process:
        url = f"http://127.0.0.1:{port}"
        _use(url)
        (project / "myapp.py").write_text(MYAPP.replace('"ok"}', '"saved"}'))
        deadline = time.monotonic() + PATIENCE
        while "saved" not in get(f"{url}/api/health").text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        _end(process)


@pytest.mark.real
def test_an_application_that_is_given_runs_here(project: Path, fastware: Path) -> None:
    port = free_port()
    (project / "dev.py").write_text(DEV_HERE.replace("8000", str(port)))
    env = {"PYTHONPATH": f"{fastware}{os.pathsep}{ROOT}"}
    with served([sys.executable, "dev.py"], port, cwd=project, env=env) as process:
        _use(f"http://127.0.0.1:{port}")
        assert (project / "dev.pid").read_text() == str(process.pid)
        code, lines = refused(project, "'myapp:app', pid_path='dev.pid', name='SHOP'", env=env)
        assert (code, lines[0]) == (2, f"error: dev.pid: SHOP is running already (pid {process.pid})")
        _end(process)
        assert process.stdout is not None
        said = process.stdout.read()
    assert "pre_serve was called" in said
    assert re.search(r"vite \| .*Local", said)
    assert not (project / "dev.pid").exists()


@pytest.mark.real
def test_the_command_finds_the_frontend(tmp_path: Path, vite_packages: Callable[[int], Path]) -> None:
    frontend(tmp_path / "web", vite_packages(8))
    (tmp_path / "hello.py").write_text("from tests.asgi_kit import not_found as app\n")
    port = free_port()
    command = [*COMMAND, "dev", "hello:app", "--listen", f"127.0.0.1:{port}", "--output", "plain"]
    with served(command, port, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}) as process:
        url = f"http://127.0.0.1:{port}"
        assert get(f"{url}/", headers={"Accept": "text/html"}).upstream == "frontend"
        assert get(f"{url}/x").text == "the application knows nothing"
        process.terminate()
        assert process.wait(PATIENCE) == 143
        assert process.stdout is not None
        said = process.stdout.read()
    assert "vite: cd web && npm run dev" in said


def test_the_settings_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of its two processes, too; a Procfile does not."""
    (tmp_path / "Procfile").write_text("other: sleep 1000\n")
    (tmp_path / "orchestra.toml").write_text(
        '[process.db]\ncommand = "sleep 1000"\nready = "tcp:5432"\n'
        '[process.api]\ndepends_on = ["db"]\nwarm_spare = true\n'
        '[proxy]\napi_prefix = "/rest"\n'
    )
    monkeypatch.chdir(tmp_path)
    target = Target(app="myapp:app", vite="npx vite", backend_prefixes=("/live",))
    plan = load(overrides=Overrides(target=target))
    assert [each.name for each in plan.processes] == ["db", "api", "vite"]
    api = plan.named("api")
    assert api is not None
    assert (api.app, api.warm_spare, [each.name for each in api.depends_on]) == ("myapp:app", True, ["db"])
    assert plan.proxy is not None
    assert (plan.proxy.backend, plan.proxy.frontend) == (FromProcess(name="api"), FromProcess(name="vite"))
    assert (plan.proxy.api_prefix, plan.proxy.backend_prefixes) == ("/rest", ("/live",))


def test_an_application_alone_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = load(overrides=Overrides(target=Target(app="myapp:app")))
    assert [each.name for each in plan.processes] == ["api"]
    assert plan.proxy is not None
    assert plan.proxy.frontend is None
    assert "no frontend was found" in [each.text for each in plan.notes]


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dev", "myapp"), "'myapp' is not an application\n hint: Name one as \"module:attribute\"."),
        (("dev", "myapp:app", "--listen", "nonsense"), "cannot listen on 'nonsense'"),
        (("serve", "myapp"), "'myapp' is not an application"),
    ],
)
def test_what_is_wrong_is_said(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    code, _, error = orchestra(*arguments, cwd=tmp_path)
    assert code == 2
    assert said in error


def refused(folder: Path, arguments: str, *, env: dict[str, str] | None = None) -> tuple[int, list[str]]:
    """Call `dev` as a script does; give its exit status, and the lines of standard error."""
    script = f"from orchestra.dev import dev; dev({arguments})"
    done = called(sys.executable, "-c", script, cwd=folder, env=env)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("'myapp:app', port=99999", "cannot listen on '127.0.0.1:99999': the highest port is 65535"),
        ("'myapp:app', host='nowhere'", "cannot listen on 'nowhere:8000': the host is not an address"),
        ("'myapp', port=0", "'myapp' is not an application"),
        ("'myapp:app', pid_path='none/pid'", "none/pid: cannot be written: No such file or directory"),
        ("print, port=0", "no frontend was found"),
        ("object(), port=0", "object is not an application"),
    ],
)
def test_what_is_wrong_with_a_call_is_one_line(arguments: str, said: str, tmp_path: Path) -> None:
    code, (error, hint) = refused(tmp_path, arguments, env={"PYTHONPATH": str(ROOT)})
    assert (code, error) == (2, f"error: {said}")
    assert hint.startswith(" hint: ")
