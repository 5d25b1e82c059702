"""What `orchestra init` sees in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestra.config.procfile import parse, render
from orchestra.config.scaffold import look
from tests.config_kit import completed

ENV = {"PATH": "/nowhere"}
APP = "from fastapi import FastAPI\napp = FastAPI()\n"


def commands(root: Path) -> dict[str, str]:
    found, _ = look(root, env=ENV)
    entries = [each.entry for each in found]
    if not entries:
        return {}
    assert [
        (each.name, each.command)
        for each in completed(lambda problems: parse(render(entries), Path("Procfile"), problems))
    ] == [(each.name, each.command) for each in entries]
    return {entry.name: entry.command for entry in entries}


VITE = json.dumps({"scripts": {"build": "vite build", "dev": "vite --host"}})


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    found, remarks = look(tmp_path, env=ENV)
    assert found == []
    assert "nothing was found" in remarks[0]


@pytest.mark.parametrize(
    ("lock", "command"),
    [
        ("package-lock.json", "npm run dev"),
        ("pnpm-lock.yaml", "pnpm run dev"),
        ("yarn.lock", "yarn run dev"),
        ("bun.lock", "bun run dev"),
    ],
)
def test_a_frontend_is_run_by_its_own_manager(tmp_path: Path, lock: str, command: str) -> None:
    (tmp_path / "package.json").write_text(VITE)
    (tmp_path / lock).touch()
    assert commands(tmp_path) == {"vite": command}


@pytest.mark.parametrize(
    ("scripts", "command"),
    [
        ({"start": "vite"}, "npm run start"),
        ({"start": "node server.js", "watch": "vite"}, "npm run watch"),
        ({"dev": "npm run watch", "watch": "vite dev"}, "npm run dev"),
        ({"build": "vite build"}, "npx vite"),
        ({}, "npx vite"),
    ],
)
def test_the_script_that_runs_vite_is_taken(tmp_path: Path, scripts: dict[str, str], command: str) -> None:
    package = {"scripts": scripts, "devDependencies": {"vite": "^8"}}
    (tmp_path / "package.json").write_text(json.dumps(package))
    assert commands(tmp_path) == {"vite": command}


def test_a_folder_s_name_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "my ui").mkdir()
    (tmp_path / "my ui" / "package.json").write_text(VITE)
    assert commands(tmp_path) == {"vite": "cd 'my ui' && npm run dev"}


def test_the_nearest_to_the_top_is_taken_and_others_are_named(tmp_path: Path) -> None:
    for folder in ("b/deep", "a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "package.json").write_text(VITE)
    found, remarks = look(tmp_path, env=ENV)
    assert found[0].entry.command == "cd a && npm run dev"
    assert remarks[0] == "not taken: `npm run dev` in b/deep runs vite"


def test_libraries_tests_and_hidden_folders_are_skipped(tmp_path: Path) -> None:
    for folder in ("node_modules/x", ".venv/lib", "tests", "env/lib"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "app.py").write_text(APP)
        (tmp_path / folder / "package.json").write_text(VITE)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    (tmp_path / "test_app.py").write_text(APP)
    assert commands(tmp_path) == {}


@pytest.mark.parametrize(
    ("file", "text", "command"),
    [
        ("main.py", APP, "uvicorn --reload --port $PORT main:app"),
        ("src/pkg/api.py", APP, "cd src/pkg && uvicorn --reload --port $PORT api:app"),
        (
            "main.py",
            "import fastapi\napplication: fastapi.FastAPI = fastapi.FastAPI(title='x')\n",
            "uvicorn --reload --port $PORT main:application",
        ),
        (
            "main.py",
            "from starlette import *\ndef create_app(debug=False):\n    return Starlette()\n",
            "uvicorn --reload --port $PORT --factory main:create_app",
        ),
        (
            "app.py",
            "from flask import Flask\ndef create_app():\n    app = Flask(__name__)\n    return app\n",
            "flask --app app:create_app run --debug",
        ),
        ("web.py", "from quart import Quart\napp = Quart(__name__)\n", "hypercorn --reload"),
        ("app.py", "from flask import Flask\napp = Flask(__name__)\n", "flask --app app:app run --debug"),
        ("manage.py", "", "python manage.py runserver 127.0.0.1:$PORT"),
        ("site/manage.py", "", "cd site && python manage.py runserver 127.0.0.1:$PORT"),
    ],
)
def test_an_application_is_found_without_being_imported(
    tmp_path: Path, file: str, text: str, command: str
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    assert commands(tmp_path)["api"].startswith(command)


def test_a_package_is_imported_from_the_folder_above_it(tmp_path: Path) -> None:
    for folder in ("src/shop", "src/shop/web"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "src" / "shop" / "web" / "app.py").write_text(APP)
    assert commands(tmp_path) == {"api": "cd src && uvicorn --reload --port $PORT shop.web.app:app"}


@pytest.mark.parametrize(
    "text",
    ["FastAPI(", "app = 1 # FastAPI()", "def create_app(settings):\n    return FastAPI()\n", "\0FastAPI"],
)
def test_what_is_no_application_is_not_taken_for_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "main.py").write_text(text)
    assert commands(tmp_path) == {}


@pytest.mark.parametrize(
    ("file", "text", "command"),
    [
        ("backend/app/main.py", "from app.routes import r\n" + APP, "cd backend && uvicorn {} app.main:app"),
        ("backend/app/main.py", "from .routes import r\n" + APP, "cd backend && uvicorn {} app.main:app"),
        ("backend/main.py", "import backend.x\n" + APP, "uvicorn {} backend.main:app"),
        ("a/b/main.py", "from ..x import y\n" + APP, "uvicorn {} a.b.main:app"),
        ("api/main.py", "import api_client\nimport os\n" + APP, "cd api && uvicorn {} main:app"),
    ],
)
def test_a_module_s_own_imports_tell_where_it_is_imported_from(
    tmp_path: Path, file: str, text: str, command: str
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert commands(tmp_path) == {"api": command.format("--reload --port $PORT")}


@pytest.mark.parametrize(
    "text",
    [
        "import fastapi\nif True:\n    app = fastapi.FastAPI()\n",
        "try:\n    from fastapi import FastAPI\n    app = FastAPI()\nexcept ImportError:\n    raise\n",
    ],
)
def test_an_application_may_be_made_in_other_ways(tmp_path: Path, text: str) -> None:
    (tmp_path / "main.py").write_text(text)
    assert commands(tmp_path) == {"api": "uvicorn --reload --port $PORT main:app"}


def test_it_is_said_what_was_not_found(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APP)
    assert look(tmp_path, env=ENV)[1] == ["no frontend was found: add a line for it, if there is one"]


def test_the_server_that_the_project_names_is_taken(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APP)
    (tmp_path / "requirements-dev.txt").write_text("granian>=1\n")
    assert commands(tmp_path) == {"api": "granian --interface asgi --reload --port $PORT main:app"}


def test_a_locked_project_is_run_by_its_tool(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APP)
    (tmp_path / "uv.lock").touch()
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").touch()
    (tools / "uv").chmod(0o755)
    env = {"PATH": str(tools)}
    assert look(tmp_path, env=env)[0][0].entry.command == "uv run uvicorn --reload --port $PORT main:app"
    (tmp_path / ".venv").mkdir()
    assert look(tmp_path, env=env)[0][0].entry.command == "uvicorn --reload --port $PORT main:app"
