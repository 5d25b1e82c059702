"""Generates small projects of the layouts that people have."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.project_kit import ACTIVATED, install

if TYPE_CHECKING:
    from pathlib import Path

# What all these projects take from npm, installed once for all of them.
PACKAGES = {
    "@inertiajs/svelte": "^3",
    "@sveltejs/kit": "^2",
    "@sveltejs/vite-plugin-svelte": "^7",
    "pnpm": "^10",
    "svelte": "^5",
    "vite": "^8",
}
DOT = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><circle r="4"/></svg>'
MAIN = """
import './style.css'
import { greeting } from './greeting.js'

const app = document.querySelector('#app')
app.textContent = greeting
import.meta.hot.accept('./greeting.js', changed => { app.textContent = changed.greeting })
fetch('/api/hello').then(answer => answer.json()).then(data => {
  document.querySelector('#data').textContent = data.hello
})
"""
FASTAPI = """
import sys
from fastapi import FastAPI

app = FastAPI()


@app.get("/api/hello")
def hello():
    return {"hello": "world"}


@app.get("/api/python")
def python():
    return {"prefix": sys.prefix}
"""
# What comes after it in those that answer every path.
MOUNTED = """
from fastapi.staticfiles import StaticFiles

app.mount("/", StaticFiles(directory="ui/dist", html=True, check_dir=False))
"""
FASTAPI_CATCH_ALL = """
from fastapi.responses import FileResponse


@app.get("/{path:path}")
def page(path):
    return FileResponse("ui/dist/index.html")
"""
FASTAPI_FACTORY = """
from fastapi import FastAPI


def create_app() -> FastAPI:
    made = FastAPI()

    @made.get("/api/hello")
    def hello():
        return {"hello": "world"}

    return made
"""
FLASK_CATCH_ALL = """
from flask import Flask

app = Flask(__name__, static_url_path="", static_folder="ui/dist")


@app.get("/api/hello")
def hello():
    return {"hello": "world"}


@app.route("/", defaults={"path": ""})
@app.route("/<path:path>")
def page(path):
    return app.send_static_file("index.html")
"""
FLASK = """
from flask import Flask

app = Flask(__name__)


@app.get("/api/hello")
def hello():
    return {"hello": "world"}
"""
# Vite takes the first part off a path before it asks the backend.
REWRITING = """
export default {
  server: {
    proxy: {
      '/api': { target: 'http://localhost:%s', rewrite: path => path.replace(/^\\/api/, '') },
    },
  },
}
"""
FLASK_FACTORY = """
from flask import Flask, render_template


def create_app():
    app = Flask(__name__)

    @app.get("/")
    def index():
        return render_template("index.html")

    @app.get("/api/hello")
    def hello():
        return {"hello": "world"}

    return app
"""
URLS = """
from django.http import JsonResponse
from django.shortcuts import render
from django.urls import path

urlpatterns = [
    path("", lambda request: render(request, "index.html")),
    path("rows", lambda request: render(request, "rows.html")),
    path("api/hello", lambda request: JsonResponse({"hello": "world"})),
]
"""
ROWS = "<li>one</li>\n"
PAGE = """<!doctype html><html><head><title>page</title>%s</head>
<body><div id="app"></div><p id="data"></p>%s</body></html>
"""


def installed_once(folder: Path, **versions: str) -> Path:
    """Install packages in a folder that tests of several processes share; returns the `node_modules`."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            install(folder, **versions)
            (folder / "done").touch()
    return folder / "node_modules"


def environment(installed: Path) -> dict[str, str]:
    """What a shell has in which the environment of the tests and the tools from npm can be called."""
    return ACTIVATED | {"PATH": os.pathsep.join([ACTIVATED["PATH"], str(installed / ".bin")])}


def own_packages(folder: Path, installed: Path) -> None:
    """Give a project a `node_modules` of its own: what Vite keeps in it is about one project."""
    shutil.copytree(
        installed,
        folder / "node_modules",
        symlinks=True,
        copy_function=os.link,
        ignore=shutil.ignore_patterns(".vite*"),
    )


def package(folder: Path, dev: str = "vite", **more: object) -> None:
    described = {"name": folder.name, "private": True, "type": "module", "scripts": {"dev": dev}, **more}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "package.json").write_text(json.dumps({"devDependencies": {"vite": "^8"}, **described}))


def sources(folder: Path) -> None:
    """A module that accepts another one, a style and a picture in it."""
    source = folder / "src"
    source.mkdir(parents=True)
    (source / "main.js").write_text(MAIN)
    (source / "greeting.js").write_text("export const greeting = 'hello'\n")
    (source / "style.css").write_text("body { background: url('./dot.svg?no-inline') }\n")
    (source / "dot.svg").write_text(DOT)


def spa(folder: Path, installed: Path, *, dev: str = "vite") -> None:
    """A frontend of one page, as `npm create vite` has it."""
    package(folder, dev)
    sources(folder)
    (folder / "public").mkdir()
    (folder / "public" / "logo.svg").write_text(DOT)
    body = '<img src="/logo.svg"><script type="module" src="/src/main.js"></script>'
    (folder / "index.html").write_text(PAGE % ("", body))
    (folder / "node_modules").symlink_to(installed)


def change(folder: Path) -> None:
    """Edit the module that the other one accepts."""
    (folder / "src" / "greeting.js").write_text("export const greeting = 'changed'\n")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def beside(root: Path, installed: Path) -> None:
    """`frontend/` and `backend/`, whose environment is in it."""
    spa(root / "frontend", installed)
    (root / "backend").mkdir()
    (root / "backend" / "main.py").write_text(FASTAPI)
    (root / "backend" / "pyproject.toml").write_text(
        '[project]\nname = "backend"\nversion = "0"\nrequires-python = ">=3.11"\n'
        'dependencies = ["fastapi", "uvicorn"]\n'
    )
    subprocess.run(["uv", "sync", "-q"], cwd=root / "backend", env=os.environ | ACTIVATED, check=True)


def workspace(root: Path, installed: Path) -> None:
    """A workspace of pnpm's, with the application in `packages/web`."""
    spa(root / "packages" / "web", installed)
    (root / "packages" / "web" / "node_modules").unlink()
    (root / "package.json").write_text(json.dumps({"name": "all", "private": True}))
    (root / "pnpm-workspace.yaml").write_text("packages:\n  - packages/*\n")
    command = ["pnpm", "install", "--lockfile-only", "--prefer-offline", "--silent"]
    subprocess.run(command, cwd=root, env=os.environ | environment(installed), check=True)
    (root / "api.py").write_text(FASTAPI)


def monorepo(root: Path, installed: Path) -> None:
    """Applications below `apps`, and a backend that a function makes, in a package."""
    spa(root / "apps" / "web", installed)
    write(
        root,
        {"apps/api/src/shop/__init__.py": "", "apps/api/src/shop/main.py": FASTAPI_FACTORY},
    )


def production(root: Path, installed: Path) -> None:
    """A Procfile as a platform wants it, which says nothing of the frontend."""
    spa(root / "ui", installed)
    write(root, {"app.py": FLASK, "Procfile": "release: flask db upgrade\napi: gunicorn app:app\n"})


def made(root: Path, installed: Path) -> None:
    """A Makefile that starts the frontend."""
    spa(root / "web", installed)
    (root / "Makefile").write_text("dev:\n\t@cd web && npm run dev\n")
    (root / "app.py").write_text(FASTAPI)


def answering_all(root: Path, installed: Path, app: str, *, is_built: bool) -> None:
    """A backend that also answers what is the frontend's, for when that is built."""
    spa(root / "ui", installed)
    (root / "app.py").write_text(app)
    if is_built:
        (root / "ui" / "dist").mkdir()
        (root / "ui" / "dist" / "index.html").write_text("<title>built</title>")


def flask_factory(root: Path, installed: Path) -> None:
    """A factory in a package, and pages of its own."""
    (root / "notes" / "templates").mkdir(parents=True)
    (root / "notes" / "static").mkdir()
    (root / "notes" / "__init__.py").write_text(FLASK_FACTORY)
    (root / "notes" / "templates" / "index.html").write_text(
        PAGE % ('<link rel="stylesheet" href="/static/style.css">', '<script src="/static/page.js"></script>')
    )
    (root / "notes" / "static" / "style.css").write_text("body { color: teal }\n")
    (root / "notes" / "static" / "page.js").write_text("document.title = 'ready'\n")


def django(root: Path, head: str = "", body: str = "") -> None:
    """A project of Django's with one page, a template for a part of it, and static files."""
    root.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "django", "startproject", "site1", "."], cwd=root, check=True)
    (root / "site1" / "urls.py").write_text(URLS)
    settings = root / "site1" / "settings.py"
    settings.write_text(
        settings.read_text().replace("'DIRS': []", "'DIRS': [BASE_DIR / 'templates']")
        + "\nSTATICFILES_DIRS = [BASE_DIR / 'assets']\n"
    )
    for folder in ("templates", "assets"):
        (root / folder).mkdir()
    (root / "assets" / "style.css").write_text("body { color: teal }\n")
    (root / "assets" / "htmx.js").write_text("document.title = 'ready'\n")
    (root / "templates" / "index.html").write_text(PAGE % (head, body))
    (root / "templates" / "rows.html").write_text(ROWS)


def htmx(root: Path, installed: Path) -> None:
    """Django and HTMX, without a frontend to build."""
    head = '<link rel="stylesheet" href="/static/style.css"><script src="/static/htmx.js"></script>'
    django(root, head, '<ul hx-get="/rows" hx-trigger="load"></ul>')
