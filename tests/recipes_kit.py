"""Generates the projects of the README's recipes; a test adds the recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.layouts_kit import FASTAPI, PAGE, django, own_packages, package, sources, spa, write

if TYPE_CHECKING:
    from pathlib import Path

SVELTE_PAGE = """
<script>
  let { form } = $props()
</script>
<h1>hello {form?.name ?? 'nobody'}</h1>
<form method="POST"><input name="name"><button>send</button></form>
<style>h1 { color: teal }</style>
"""
SVELTEKIT = {
    "vite.config.js": """
import { sveltekit } from '@sveltejs/kit/vite'
export default { plugins: [sveltekit()] }
""",
    "src/app.html": PAGE % ("%sveltekit.head%", "<div>%sveltekit.body%</div>"),
    "src/routes/+page.svelte": SVELTE_PAGE,
    "src/routes/+page.server.js": """
export const actions = {
  default: async ({ request }) => ({ name: (await request.formData()).get('name') })
}
""",
    "src/routes/+error.svelte": "<h1>the site has no such page</h1>\n",
    "src/routes/api/own/+server.js": "export const GET = () => Response.json({ from: 'sveltekit' })\n",
}
SHARED = '[build-system]\nrequires = ["uv_build"]\nbuild-backend = "uv_build"\n'
LITESTAR = """
from pathlib import Path
from litestar import Litestar, get
from litestar.contrib.jinja import JinjaTemplateEngine
from litestar.response import Template
from litestar.template import TemplateConfig
from litestar_vite import RuntimeConfig, ViteConfig, VitePlugin


@get("/")
async def page() -> Template:
    return Template("index.html")


@get("/api/hello")
async def hello() -> dict[str, str]:
    return {"hello": "world"}

%s
templates = TemplateConfig(directory=Path("templates"), engine=JinjaTemplateEngine)
app = Litestar([page, hello], plugins=[vite], template_config=templates)
"""
TASKS = """
import os
from celery import Celery

app = Celery("tasks", backend=os.environ["CELERY_BROKER_URL"])


@app.task
def double(number):
    return 2 * number
"""
# It asks the worker, or the database, what the answer is.
ASKING_THE_WORKER = """
import tasks
from fastapi import FastAPI

app = FastAPI()


@app.get("/api/hello")
def hello():
    return {"hello": tasks.double.delay(21).get(timeout=30)}
"""
ASKING_THE_DATABASE = """
import os, subprocess
from fastapi import FastAPI

app = FastAPI()


@app.get("/api/hello")
def hello():
    command = ["psql", os.environ["DATABASE_URL"], "-Atc", "select 6 * 7"]
    return {"hello": int(subprocess.check_output(command))}
"""
INERTIA_URLS = """
from django.urls import path
from inertia import render

urlpatterns = [
    path("", lambda request: render(request, "Page", {"name": "first"})),
    path("second", lambda request: render(request, "Page", {"name": "second"})),
]
"""
INERTIA = {
    "templates/index.html": PAGE
    % (
        "{% load django_vite %}{% vite_hmr_client %}{% vite_asset 'src/main.js' %}",
        "{% block inertia %}{% endblock %}",
    ),
    "site1/urls.py": INERTIA_URLS,
    "src/main.js": """
import { createInertiaApp } from '@inertiajs/svelte'
import Page from './Page.svelte'
createInertiaApp({ resolve: () => ({ default: Page }) })
""",
    "src/Page.svelte": """
<script>
  import { Link } from '@inertiajs/svelte'
  let { name } = $props()
</script>
<h1>{name} page</h1><Link href="/second">next</Link>
""",
    "vite.config.js": """
import { svelte } from '@sveltejs/vite-plugin-svelte'
export default { base: '/static/vite/', plugins: [svelte()] }
""",
}


def sveltekit(root: Path, installed: Path) -> None:
    """A frontend that renders its pages, takes a form and has an `/api` of its own; a backend beside it."""
    package(root / "web", "vite dev", devDependencies={"vite": "^8", "@sveltejs/kit": "^2"})
    write(root / "web", SVELTEKIT)
    own_packages(root / "web", installed)
    (root / "main.py").write_text(FASTAPI.replace('"/api/', '"/rest/'))


def django_vite(root: Path, installed: Path) -> None:
    """Pages of Django's that load modules of Vite's."""
    tags = "{% load django_vite %}{% vite_hmr_client %}{% vite_asset 'src/main.js' %}"
    django(root, tags, '<link rel="stylesheet" href="/static/style.css">')
    settings = root / "site1" / "settings.py"
    settings.write_text(
        "import os\n"
        + settings.read_text().replace("INSTALLED_APPS = [", "INSTALLED_APPS = ['django_vite',")
        + "\nSTATIC_ROOT = BASE_DIR / 'collected'\n"
    )
    package(root)
    sources(root)
    (root / "vite.config.js").write_text("export default { base: '/static/vite/' }\n")
    (root / "node_modules").symlink_to(installed)


def monorepo(root: Path, installed: Path) -> None:
    """A workspace of uv's: an application, a package that it uses, and a frontend."""
    spa(root / "apps" / "web", installed)
    project = '[project]\nname = "%s"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = [%s]\n'
    write(
        root,
        {
            "pyproject.toml": '[tool.uv.workspace]\nmembers = ["apps/api", "packages/*"]\n',
            "apps/api/pyproject.toml": project % ("api", '"fastapi", "uvicorn", "shared"')
            + "[tool.uv.sources]\nshared = { workspace = true }\n",
            "apps/api/api.py": FASTAPI.replace('"world"', "shared.NAME").replace(
                "import sys", "import shared, sys"
            ),
            "packages/shared/pyproject.toml": project % ("shared", "") + SHARED,
            "packages/shared/src/shared/__init__.py": "NAME = 'world'\n",
        },
    )


def litestar_vite(root: Path, installed: Path, config: str) -> None:
    """Pages of Litestar's that load modules of Vite's."""
    (root / "app.py").write_text(LITESTAR % config)
    package(root)
    sources(root)
    (root / "templates").mkdir()
    (root / "templates" / "index.html").write_text(PAGE % ("{{ vite_hmr() }}{{ vite('src/main.js') }}", ""))
    (root / "vite.config.js").write_text("export default { base: '/static/' }\n")
    (root / "node_modules").symlink_to(installed)


def inertia(root: Path, installed: Path) -> None:
    """Pages that Django decides and Svelte draws."""
    django_vite(root, installed)
    (root / "node_modules").unlink()
    own_packages(root, installed)
    write(root, INERTIA)
    settings = root / "site1" / "settings.py"
    settings.write_text(
        settings.read_text()
        .replace("INSTALLED_APPS = [", "INSTALLED_APPS = ['inertia',")
        .replace("MIDDLEWARE = [", "MIDDLEWARE = ['inertia.middleware.InertiaMiddleware',")
        + "\nINERTIA_LAYOUT = 'index.html'\n"
    )
