"""The recipes of the README, as they stand there, on projects as people have them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests import recipes_kit as kit
from tests.kit import ROOT, Run, ask, free_port, get, needed, orchestra
from tests.layouts_kit import FASTAPI, change, spa, write
from tests.project_kit import ACTIVATED, VITE_PORTS, browser_without
from tests.visit_kit import all_loaded, fetching, hot_update, navigation, requests_logged, visit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = [pytest.mark.real, pytest.mark.ceiling(300)]

README = (ROOT / "README.md").read_text("utf-8")
# A user that every system has.
NOBODY = 65534
_FILES = {"": "Procfile", "toml": "orchestra.toml"}


def recipe(name: str) -> dict[str, str]:
    """The blocks of a recipe by the name of their file, which is the first line of one in Python."""
    blocks = re.search(rf"<!-- recipe: {name} -->\n((?:```\w*\n.*?\n```\n)+)", README, re.DOTALL)
    assert blocks, name
    found = re.findall(r"```(\w*)\n(.*?\n)```\n", blocks[1], re.DOTALL)
    return {_FILES.get(kind) or text.partition("\n")[0].removeprefix("# "): text for kind, text in found}


def cook(root: Path, name: str, *, changed: Mapping[str, str] | None = None) -> dict[str, str]:
    """Write the Procfile and the settings of a recipe; returns all its blocks."""
    blocks = recipe(name)
    for file in _FILES.values():
        if text := blocks.get(file):
            for old, new in (changed or {}).items():
                text = text.replace(old, new)
            (root / file).write_text(text)
    return blocks


def started(root: Path, env: Mapping[str, str] = ACTIVATED) -> Run:
    return Run("--listen", "127.0.0.1:0", cwd=root, env=env)


def test_sveltekit(tmp_path: Path, layout_packages: Path) -> None:
    kit.sveltekit(tmp_path, layout_packages)
    assert orchestra("init", cwd=tmp_path, env=ACTIVATED)[0] == 0
    settings = tmp_path / "orchestra.toml"
    written = settings.read_text()
    assert 'backend_paths = ["/rest", "/docs", "/openapi.json"]' in written
    settings.unlink()
    with started(tmp_path) as run:
        run.state("vite", "ready")
        run.state("api", "ready")
        send_the_form(run)
        error = ask(run.url + "/nowhere", navigation())
        assert (error.status, "the site has no such page" in error.text) == (404, True)
        assert get(run.url + "/api/own").status == 404
        run.until(lambda event: event.get("code") == "frontend-api-hidden")
        for count, text in enumerate((recipe("sveltekit")["orchestra.toml"], written), 1):
            settings.write_text(text)
            run.until(lambda _: sum(each["type"] == "plan.changed" for each in run.events) == count)  # noqa: B023
        with requests_logged(run, "api", path="/rest/hello") as asked:
            page = visit(run.url + "/")
            own = ask(run.url + "/api/own", fetching(run.url + "/"))
            send_the_form(run)
            assert ask(run.url + "/nowhere", navigation()).text == error.text
        all_loaded(page)
        assert asked == []
        assert json.loads(own.text) == {"from": "sveltekit"}
        source = tmp_path / "web" / "src" / "routes" / "+page.svelte"
        assert (
            hot_update(run.url, lambda: source.write_text(kit.SVELTE_PAGE.replace("hello", "bye")))
            == "update"
        )


def send_the_form(run: Run) -> None:
    """Send it as a browser does without scripts, and as SvelteKit's script does."""
    form = {"Origin": run.url, "Content-Type": "application/x-www-form-urlencoded"}
    ask(run.url + "/", navigation())
    answer = ask(run.url + "/", navigation(run.url + "/") | form, method="POST", body=b"name=me")
    assert (answer.status, answer.upstream) == (200, "frontend")
    assert "hello me" in answer.text
    headers = fetching(run.url + "/") | form | {"Accept": "application/json", "X-SvelteKit-Action": "true"}
    answer = ask(run.url + "/", headers, method="POST", body=b"name=me")
    assert (answer.status, answer.upstream) == (200, "frontend")
    assert json.loads(answer.text)["type"] == "success"


def add_settings(root: Path) -> None:
    """The recipe of django-vite: what `init` writes, but for the settings of Django."""
    settings = root / "site1" / "settings.py"
    settings.write_text(settings.read_text() + recipe("django-vite")["settings.py"])
    assert orchestra("init", cwd=root, env=ACTIVATED)[0] == 0
    assert tomllib.loads((root / "orchestra.toml").read_text()) == tomllib.loads(
        recipe("django-vite")["orchestra.toml"]
    )


def test_django_vite_twice_at_once(tmp_path: Path, layout_packages: Path) -> None:
    with contextlib.ExitStack() as stack:
        runs = []
        for name in ("one", "two"):
            kit.django_vite(tmp_path / name, layout_packages)
            add_settings(tmp_path / name)
            runs.append(stack.enter_context(started(tmp_path / name)))
        for run, name in zip(runs, ("one", "two"), strict=True):
            run.state("vite", "ready")
            run.state("api", "ready")
            with requests_logged(run, "api") as asked:
                page = visit(run.url + "/")
            all_loaded(page)
            assert page.page.upstream == "backend"
            assert asked == ["GET /", "GET /static/style.css"]
            assert "/static/vite/src/greeting.js" in page.targets
            edited = hot_update(run.url, lambda: change(tmp_path / name), base="/static/vite/")  # noqa: B023
            assert edited == "update"


def test_litestar_vite(tmp_path: Path, layout_packages: Path) -> None:
    kit.litestar_vite(tmp_path, layout_packages, cook(tmp_path, "litestar-vite")["app.py"])
    with started(tmp_path) as run:
        run.state("vite", "ready")
        run.state("api", "ready")
        with requests_logged(run, "api") as asked:
            page = visit(run.url + "/")
        all_loaded(page)
        assert page.page.upstream == "backend"
        assert asked == ["GET /"]
        assert "/static/src/greeting.js" in page.targets
        assert hot_update(run.url, lambda: change(tmp_path), base="/static/") == "update"


def answer_of(run: Run) -> object:
    return json.loads(get(run.url + "/api/hello").text)["hello"]


def test_celery_with_redis(tmp_path: Path) -> None:
    needed("redis-server")
    cook(tmp_path, "celery")
    write(tmp_path, {"tasks.py": kit.TASKS, "app.py": kit.ASKING_THE_WORKER})
    with started(tmp_path) as run:
        run.state("worker", "ready")
        run.state("api", "ready")
        assert answer_of(run) == 42
        since = len(run.events)
        (tmp_path / "tasks.py").write_text(kit.TASKS.replace("2 * number", "3 * number"))
        run.state("worker", "ready", since=since)
        run.state("api", "ready", since=since)
        assert answer_of(run) == 63


@pytest.fixture
def folder_of_another_user() -> Iterator[Path]:
    """A folder of a user whom PostgreSQL runs for: it refuses to run as root."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_postgresql(folder_of_another_user: Path, tmp_path: Path) -> None:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1:]
    path = os.pathsep.join([ACTIVATED["PATH"], *map(str, installed)])
    programs = {name: shutil.which(name, path=path) for name in ("postgres", "initdb", "pg_isready", "psql")}
    if None in programs.values():
        needed("postgres")
    if os.geteuid() == 0:
        os.chown(folder_of_another_user, NOBODY, NOBODY)
        for name in ("postgres", "initdb"):
            command = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups {programs[name]}"
            (tmp_path / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (tmp_path / name).chmod(0o755)
    cook(folder_of_another_user, "postgresql")
    (folder_of_another_user / "app.py").write_text(kit.ASKING_THE_DATABASE)
    env = ACTIVATED | {"PATH": f"{tmp_path}{os.pathsep}{path}"}
    with started(folder_of_another_user, env) as run:
        run.state("db", "ready")
        run.state("api", "ready")
        assert answer_of(run) == 42
        run.stop()
        run.line("db", "database system is shut down")


def test_docker_compose(tmp_path: Path) -> None:
    """A container listens outside of the process tree: here it is the test that does."""
    (tmp_path / "docker").write_text('#!/bin/sh\necho "called: $*"\nexec sleep 1000\n')
    (tmp_path / "docker").chmod(0o755)
    (tmp_path / "app.py").write_text(FASTAPI)
    port = free_port()
    cook(tmp_path, "compose", changed={"5432": str(port)})
    with started(tmp_path, ACTIVATED | {"PATH": f"{tmp_path}{os.pathsep}{ACTIVATED['PATH']}"}) as run:
        run.line("db", "called: compose up db")
        assert "api" not in {event.get("process") for event in run.events if event.get("state") == "starting"}
        with socket.create_server(("127.0.0.1", port)):
            run.state("db", "ready")
            run.state("api", "ready")
            assert answer_of(run) == "world"


def test_a_monorepo_of_uv_s(tmp_path: Path, layout_packages: Path) -> None:
    kit.monorepo(tmp_path, layout_packages)
    cook(tmp_path, "uv")
    with started(tmp_path) as run:
        run.state("vite", "ready")
        run.state("api", "ready")
        assert (get(run.url + "/").upstream, answer_of(run)) == ("frontend", "world")
        since = len(run.events)
        shared = tmp_path / "packages" / "shared" / "src" / "shared" / "__init__.py"
        shared.write_text("NAME = 'changed'\n")
        run.state("api", "ready", since=since)
        assert answer_of(run) == "changed"


def test_a_backend_that_a_debugger_starts(tmp_path: Path, layout_packages: Path) -> None:
    spa(tmp_path, layout_packages)
    (tmp_path / "app.py").write_text(FASTAPI)
    port = free_port()
    cook(tmp_path, "debugger", changed={"5678": str(port)})
    backend = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)]
    with started(tmp_path) as run:
        run.state("vite", "ready")
        for _ in range(2):
            with ThreadPoolExecutor() as pool:
                waiting = pool.submit(answer_of, run)
                since = len(run.events)
                run.until(lambda event: event["type"] == "request.held", since=since)
                process = subprocess.Popen(backend, cwd=tmp_path)
                assert waiting.result() == "world"
            all_loaded(visit(run.url + "/"))
            process.terminate()
            process.wait()


@pytest.mark.browser
def test_inertia_in_a_browser(tmp_path: Path, layout_packages: Path) -> None:
    """As django-vite; the browser cannot reach Vite's own port."""
    kit.inertia(tmp_path, layout_packages)
    add_settings(tmp_path)
    with started(tmp_path) as run:
        run.state("vite", "ready")
        run.state("api", "ready")
        with browser_without(VITE_PORTS) as browser:
            page = browser.new_page()
            page.goto(run.url)
            page.get_by_text("first page").wait_for()
            page.evaluate("window.stays = true")
            page.get_by_text("next").click()
            page.get_by_text("second page").wait_for()
            source = tmp_path / "src" / "Page.svelte"
            source.write_text(source.read_text().replace("page</h1>", "changed</h1>"))
            page.get_by_text("second changed").wait_for()
            assert page.evaluate("window.stays")
