"""Layouts that people have: what `orchestra init` writes runs; page, data, HMR, and what reaches the backend.

`make dev` is in `test_real_roles`, what the README's recipes are about in `test_recipes`.
"""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests import layouts_kit as kit
from tests.kit import Run, ask, free_port, marked, needed, orchestra, processes
from tests.project_kit import ACTIVATED
from tests.recipes_kit import ASKING_THE_WORKER, TASKS
from tests.visit_kit import all_loaded, fetching, hot_update, requests_logged, visit

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.visit_kit import Visit

pytestmark = [pytest.mark.real, pytest.mark.ceiling(300)]


class Layout(NamedTuple):
    """A layout, and what is expected of it.

    Attributes:
        make: Writes the project.
        procfile: What `orchestra init` writes.
        frontend: The folder of Vite; ``None`` without one.
        parts: What the page loads from the backend.
        fragment: What HTMX then puts into the page.
        environment: The folder of the Python that has to run.
        is_logged: Whether the backend logs its requests.
    """

    make: Callable[[Path, Path], None]
    procfile: str
    frontend: str | None = None
    parts: tuple[str, ...] = ()
    fragment: str | None = None
    environment: str | None = None
    is_logged: bool = True


LAYOUTS = {
    "environment in backend": Layout(
        kit.beside,
        "vite: cd frontend && npm run dev\napi: cd backend && uvicorn --port $PORT main:app\n",
        "frontend",
        environment="backend/.venv",
    ),
    "pnpm workspace": Layout(
        kit.workspace,
        "vite: cd packages/web && pnpm run dev\napi: uvicorn --port $PORT api:app\n",
        "packages/web",
    ),
    "monorepo": Layout(
        kit.monorepo,
        "vite: cd apps/web && npm run dev\n"
        "api: cd apps/api/src && uvicorn --port $PORT --factory shop.main:create_app\n",
        "apps/web",
    ),
    "procfile of production": Layout(
        kit.production, "vite: cd ui && npm run dev\napi: gunicorn app:app\n", "ui", is_logged=False
    ),
    "flask factory": Layout(
        kit.flask_factory,
        "api: flask --app notes:create_app run --debug --no-reload --port $PORT\n",
        parts=("/static/page.js", "/static/style.css"),
    ),
    "django and htmx": Layout(
        kit.htmx,
        "api: python manage.py runserver --noreload 127.0.0.1:$PORT\n",
        parts=("/static/htmx.js", "/static/style.css"),
        fragment="/rows",
    ),
}


def works(page: Visit) -> None:
    """See that it is the frontend's, and whole: two pictures, a style, four modules."""
    all_loaded(page)
    assert page.page.upstream == "frontend"
    assert {part.answer.upstream for part in page.parts} == {"frontend"}
    assert len(page.parts) == 7, page.targets


def hello(run: Run) -> None:
    """See that data come from the backend, as a page asks for it."""
    answer = ask(run.url + "/api/hello", fetching(run.url + "/"))
    assert (answer.upstream, json.loads(answer.text)) == ("backend", {"hello": "world"})


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_what_init_writes_runs(tmp_path: Path, layout_packages: Path, layout: Layout) -> None:
    layout.make(tmp_path, layout_packages)
    env = kit.environment(layout_packages)
    code, shown, errors = orchestra("init", cwd=tmp_path, env=env)
    assert (code, processes(shown)) == (0, layout.procfile), errors
    assert not (tmp_path / "orchestra.toml").exists()
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=env) as run:
        run.state("api", "ready")
        if layout.frontend is not None:
            run.state("vite", "ready")
        assert not [event for event in run.events if event.get("code") == "reloads-itself"]
        with requests_logged(run, "api") if layout.is_logged else nullcontext() as asked:
            page = visit(run.url + "/")
            hello(run)
        all_loaded(page)
        parts = [f"GET {path}" for path in layout.parts]
        assert asked in (None, ["GET /", *parts, "GET /api/hello"])
        if layout.frontend is not None:
            works(page)
            assert hot_update(run.url, lambda: kit.change(tmp_path / str(layout.frontend))) == "update"
        if layout.fragment is not None:
            headers = fetching(run.url + "/") | {"HX-Request": "true"}
            assert ask(run.url + layout.fragment, headers).text == kit.ROWS
        if layout.environment is not None:
            prefix = json.loads(ask(run.url + "/api/python", fetching(run.url + "/")).text)["prefix"]
            assert prefix == str(tmp_path / layout.environment)
        run_id = run.run_id
        assert run.stop() == 130
        assert marked(run_id) == []


def test_without_a_procfile_what_init_would_write_is_run(tmp_path: Path, layout_packages: Path) -> None:
    kit.made(tmp_path, layout_packages)
    assert "cd web && npm run dev" in orchestra("check", cwd=tmp_path, env=ACTIVATED)[1]
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        shown = run.until(lambda event: event.get("hint") == "Keep it: orchestra init")
        run.until(lambda event: event.get("text") == "vite: cd web && npm run dev")
        assert shown["text"].startswith("there is no Procfile")
        run.state("api", "ready")
        run.state("vite", "ready")
        works(visit(run.url + "/"))
        hello(run)
        (tmp_path / ".env").write_text("GREETING=hello\n")
        run.until(lambda event: event["type"] == "plan.changed")
        assert orchestra("init", cwd=tmp_path, env=ACTIVATED)[0] == 0
        with (tmp_path / "Procfile.dev").open("a") as file:
            file.write("more: sleep 1000\n")
        changed = run.until(lambda event: "more" in event.get("started", ()))
        assert changed["restarted"] == []
        hello(run)


def test_a_worker_and_its_redis_run_as_init_writes_them(tmp_path: Path) -> None:
    needed("redis-server")
    port = free_port()
    broker = f"redis://localhost:{port}/0"
    tasks = TASKS.replace("Celery(", f'Celery(broker="{broker}", main=').replace(
        'os.environ["CELERY_BROKER_URL"]', f'"{broker}"'
    )
    kit.write(tmp_path, {"tasks.py": tasks, "app.py": ASKING_THE_WORKER})
    code, shown, errors = orchestra("init", cwd=tmp_path, env=ACTIVATED)
    assert code == 0, errors
    written = f"""api: uvicorn --port $PORT app:app
redis: redis-server --port {port} --save ""
worker: celery -A tasks worker -l info
"""
    assert written in shown
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        run.state("api", "ready")
        run.line("worker", "ready.")
        assert json.loads(ask(run.url + "/api/hello", fetching(run.url + "/")).text) == {"hello": 42}
        since = len(run.events)
        (tmp_path / "tasks.py").write_text(tasks.replace("2 * number", "3 * number"))
        run.state("api", "ready", since=since)
        run.line("worker", "ready.", since=since)
        assert json.loads(ask(run.url + "/api/hello", fetching(run.url + "/")).text) == {"hello": 63}
        run_id = run.run_id
        assert run.stop() == 130
        assert marked(run_id) == []


def test_a_path_that_vite_rewrites_comes_up_as_init_writes_it(tmp_path: Path, layout_packages: Path) -> None:
    port = free_port()
    kit.spa(tmp_path / "web", layout_packages)
    kit.write(
        tmp_path,
        {"web/vite.config.js": kit.REWRITING % port, "app.py": kit.FASTAPI.replace('"/api/', '"/')},
    )
    code, shown, errors = orchestra("init", cwd=tmp_path, env=ACTIVATED)
    assert (code, f"port = {port}" in shown) == (0, True), errors
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        run.state("api", "ready")
        run.state("vite", "ready")
        works(visit(run.url + "/"))
        answer = ask(run.url + "/api/hello", fetching(run.url + "/"))
        assert (answer.upstream, json.loads(answer.text)) == ("frontend", {"hello": "world"})


ANSWERING_ALL = {
    "mounted, not built": (kit.FASTAPI + kit.MOUNTED, False),
    "mounted, built": (kit.FASTAPI + kit.MOUNTED, True),
    "fastapi": (kit.FASTAPI + kit.FASTAPI_CATCH_ALL, True),
    "flask": (kit.FLASK_CATCH_ALL, True),
}


@pytest.mark.parametrize(("app", "is_built"), ANSWERING_ALL.values(), ids=ANSWERING_ALL)
def test_a_backend_that_answers_all_needs_the_line_that_init_writes(
    tmp_path: Path, layout_packages: Path, app: str, *, is_built: bool
) -> None:
    kit.answering_all(tmp_path, layout_packages, app, is_built=is_built)
    code, shown, errors = orchestra("init", cwd=tmp_path, env=ACTIVATED)
    assert (code, "answers every path" in errors, "backend_paths = " in shown) == (0, True, True)
    settings = tmp_path / "orchestra.toml"
    written = settings.read_text()
    settings.unlink()
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=ACTIVATED) as run:
        run.state("api", "ready")
        run.state("vite", "ready")
        assert visit(run.url + "/").page.upstream == "backend"
        notice = run.until(lambda event: event.get("code") == "frontend-page-hidden")
        assert re.search(r"backend_paths = \[.*?\]", notice["hint"])
        settings.write_text(written)
        run.until(lambda event: event["type"] == "plan.changed")
        with requests_logged(run, "api") as asked:
            page = visit(run.url + "/")
            hello(run)
        works(page)
        assert asked == ["GET /api/hello"]
        assert hot_update(run.url, lambda: kit.change(tmp_path / "ui")) == "update"
