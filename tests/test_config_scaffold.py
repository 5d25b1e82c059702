"""What `orchestra init` sees in a folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestra.config import Machine
from orchestra.config.procfile import Entry, parse
from orchestra.config.scaffold import look, propose
from orchestra.config.toml import parse as parse_settings
from orchestra.errors import ConfigError
from tests.config_kit import completed

if TYPE_CHECKING:
    from orchestra.config.scaffold import Scaffold

APP = "from fastapi import FastAPI\napp = FastAPI()\n"
DJANGO = "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'site1.settings')\n"


def seen(root: Path, *, path: str = "/nowhere") -> Scaffold:
    return look(root, Machine(environ={"PATH": path}))


def commands(root: Path, *, path: str = "/nowhere") -> dict[str, str]:
    found = seen(root, path=path)
    if not found.entries:
        return {}
    text = found.files["Procfile.dev"]
    assert text.startswith("# ")
    entries = completed(lambda problems: parse(text, Path("Procfile"), problems))
    assert [(each.name, each.command) for each in entries] == [
        (each.name, each.command) for each in found.entries
    ]
    return {entry.name: entry.command for entry in entries}


def backend_paths(root: Path) -> list[str]:
    settings = seen(root).settings
    file = completed(lambda problems: parse_settings(settings, Path("orchestra.toml"), problems))
    assert file is not None
    return [*file.settings.proxy.backend_paths]


def program(folder: Path, name: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    (folder / name).chmod(0o755)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


VITE = json.dumps({"scripts": {"build": "vite build", "dev": "vite --host"}})


def test_an_empty_folder_has_nothing(tmp_path: Path) -> None:
    found = seen(tmp_path)
    assert found.entries == ()
    assert "no frontend was found" in found.remarks[0]


def test_the_home_folder_is_not_searched_for_a_project(tmp_path: Path) -> None:
    """`orchestra run` there would start any program that lies somewhere below."""
    write(tmp_path, {"Downloads/demo/app.py": APP, "old/package.json": VITE})
    machine = Machine(environ={"PATH": "/nowhere", "HOME": str(tmp_path)})
    assert look(tmp_path, machine).entries == ()
    (tmp_path / ".git").mkdir()
    assert len(look(tmp_path, machine).entries) == 2


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
    (tmp_path / "README.md").touch()
    for folder in ("b/deep", "a"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "package.json").write_text(VITE)
    found = seen(tmp_path)
    assert found.entries[0].command == "cd a && npm run dev"
    assert found.remarks[0] == "not taken: `npm run dev` in b/deep runs vite"


@pytest.mark.parametrize(
    ("files", "is_one"),
    [
        (["shop/package.json", "blog/package.json"], False),
        (["shop/main.py", "blog/main.py"], False),
        (["shop/.git/HEAD", "shop/main.py", "blog/.git/HEAD", "blog/main.py", "README.md"], False),
        (["web/.git/HEAD", "web/package.json", "api/.git/HEAD", "api/main.py"], True),
        (["apps/web/package.json", "apps/admin/package.json", "apps/api/main.py", "package.json"], True),
        (["apps/web/package.json", "apps/admin/package.json", "apps/api/main.py"], True),
        (["web/package.json", "admin/package.json", "api/main.py", ".git/HEAD"], True),
        (["main.py", "plugins/main.py"], True),
    ],
)
def test_one_of_several_projects_is_not_chosen_silently(
    tmp_path: Path, files: list[str], *, is_one: bool
) -> None:
    texts = {"package.json": VITE, "main.py": APP}
    for each in files:
        (tmp_path / each).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / each).write_text(texts.get(Path(each).name, ""))
    if is_one:
        assert seen(tmp_path).entries
        return
    with pytest.raises(ConfigError, match=r"several projects are in this folder: .*blog.*; .*shop") as caught:
        seen(tmp_path)
    assert caught.value.hint == "Go to the one that is meant: cd blog. Or write a Procfile here."


def test_a_folder_s_name_may_not_fit_into_a_line(tmp_path: Path) -> None:
    (tmp_path / "a\nb").mkdir()
    (tmp_path / "a\nb/package.json").write_text(VITE)
    with pytest.raises(ConfigError, match=r"'a\\nb': the name of this folder does not fit"):
        seen(tmp_path)
    (tmp_path / "a\nb").rename(tmp_path / "-x")
    assert commands(tmp_path) == {"vite": "cd ./-x && npm run dev"}


@pytest.mark.parametrize("name", ["Procfile.dev", "orchestra.toml"])
@pytest.mark.parametrize("what", ["a folder", "a link to nothing", "no file"])
def test_what_is_in_the_way_is_named(tmp_path: Path, name: str, what: str) -> None:
    write(tmp_path, {"package.json": VITE})
    match what:
        case "a folder":
            (tmp_path / name).mkdir()
        case "a link to nothing":
            (tmp_path / name).symlink_to("gone")
        case _:
            os.mkfifo(tmp_path / name)
    with pytest.raises(ConfigError, match=f"{name}: it is {what}: nothing was written"):
        propose(tmp_path, Machine(environ={}))


def test_all_that_was_seen_is_said_where_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path, {"package.json": '{"scripts": {"dev": "node server.js"}}'})
    with pytest.raises(ConfigError, match=r"no frontend was found.*; package.json names no Vite: if it is"):
        propose(tmp_path, Machine(environ={}))


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
        ("main.py", APP, "uvicorn --port $PORT main:app"),
        ("src/pkg/api.py", APP, "cd src/pkg && uvicorn --port $PORT api:app"),
        (
            "main.py",
            "import fastapi\napplication: fastapi.FastAPI = fastapi.FastAPI(title='x')\n",
            "uvicorn --port $PORT main:application",
        ),
        (
            "main.py",
            "from starlette import *\ndef create_app(debug=False):\n    return Starlette()\n",
            "uvicorn --port $PORT --factory main:create_app",
        ),
        (
            "app.py",
            "from flask import Flask\ndef create_app():\n    app = Flask(__name__)\n    return app\n",
            "flask --app app:create_app run --debug --no-reload",
        ),
        (
            "server.py",
            "from sanic import Sanic\napp = Sanic('x')\n",
            "sanic --single-process --port $PORT server:app",
        ),
        (
            "server.py",
            "import bottle\napp = bottle.Bottle()\n",
            "python -m bottle --debug --bind 127.0.0.1:$PORT server:app",
        ),
        (
            "server.py",
            "from bottle import Bottle\ndef create_app():\n    return Bottle()\n",
            "python -m bottle --debug --bind 127.0.0.1:$PORT 'server:create_app()'",
        ),
        ("web.py", "from quart import Quart\napp = Quart(__name__)\n", "hypercorn"),
        (
            "app.py",
            "from flask import Flask\napp = Flask(__name__)\n",
            "flask --app app:app run --debug --no-reload",
        ),
        ("manage.py", DJANGO, "python manage.py runserver --noreload 127.0.0.1:$PORT"),
        ("site/manage.py", DJANGO, "cd site && python manage.py runserver --noreload 127.0.0.1:$PORT"),
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
    assert commands(tmp_path) == {"api": "cd src && uvicorn --port $PORT shop.web.app:app"}


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
        (
            "backend/src/backend/main.py",
            "from backend.main import x\n" + APP,
            "cd backend/src && uvicorn {} backend.main:app",
        ),
    ],
)
def test_a_module_s_own_imports_tell_where_it_is_imported_from(
    tmp_path: Path, file: str, text: str, command: str
) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    assert commands(tmp_path) == {"api": command.format("--port $PORT")}


@pytest.mark.parametrize(
    "text",
    [
        "import fastapi\nif True:\n    app = fastapi.FastAPI()\n",
        "try:\n    from fastapi import FastAPI\n    app = FastAPI()\nexcept ImportError:\n    raise\n",
    ],
)
def test_an_application_may_be_made_in_other_ways(tmp_path: Path, text: str) -> None:
    (tmp_path / "main.py").write_text(text)
    assert commands(tmp_path) == {"api": "uvicorn --port $PORT main:app"}


def test_it_is_said_what_was_not_found(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APP)
    assert seen(tmp_path).remarks == ("no frontend was found: add a line for it, if there is one",)


def test_the_server_that_the_project_names_is_taken(tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(APP)
    (tmp_path / "requirements-dev.txt").write_text("granian>=1\n")
    assert commands(tmp_path) == {"api": "granian --interface asgi --port $PORT main:app"}


@pytest.mark.parametrize(
    ("lock", "tool"),
    [("uv.lock", "uv"), ("poetry.lock", "poetry"), ("pdm.lock", "pdm"), ("Pipfile", "pipenv")],
)
def test_a_locked_project_is_run_by_its_tool(tmp_path: Path, lock: str, tool: str) -> None:
    write(tmp_path, {"backend/main.py": APP, f"backend/{lock}": ""})
    program(tmp_path / "tools", tool)
    program(tmp_path / "tools", "uvicorn")
    path = str(tmp_path / "tools")
    bare = "uvicorn --port $PORT main:app"
    assert commands(tmp_path, path=path) == {"api": f"cd backend && {tool} run {bare}"}
    for name in ("python", "uvicorn"):
        program(tmp_path / "backend" / ".venv" / "bin", name)
    assert commands(tmp_path, path=path) == {"api": f"cd backend && {bare}"}


@pytest.mark.parametrize("name", [".venv", "venv"])
def test_what_the_environment_of_a_folder_has_is_taken(tmp_path: Path, name: str) -> None:
    write(tmp_path, {"backend/main.py": APP})
    program(tmp_path / "tools", "uvicorn")
    for each in ("python", "granian"):
        program(tmp_path / "backend" / name / "bin", each)
    (tmp_path / "backend" / name / "pyvenv.cfg").touch()
    granian = "cd backend && granian --interface asgi --port $PORT main:app"
    assert commands(tmp_path) == {"api": granian}


def test_a_server_of_orchestra_s_own_is_not_the_project_s(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": APP})
    own = tmp_path / "own" / "bin"
    program(own, "python")
    program(own, "hypercorn")
    (own / "hypercorn").write_text(f"#!{own}/python\n")
    (own.parent / "pyvenv.cfg").touch()
    machine = Machine(environ={"PATH": "/nowhere"}, scripts=str(own))
    assert look(tmp_path, machine).entries[0].command.startswith("hypercorn ")
    program(tmp_path / ".venv" / "bin", "python")
    assert look(tmp_path, machine).entries[0].command.startswith("uvicorn ")


@pytest.mark.parametrize(
    ("text", "target"),
    [
        (
            (
                "def get_application() -> FastAPI:\n    application = FastAPI()\n    return application\n"
                "app = get_application()\n"
            ),
            "main:app",
        ),
        ("from factory import build\n\napp = build(debug=True)\n", "main:app"),
        (
            "def create_app(\n  a: dict[str, int] = {},\n  *,\n  b=f(1, 2),\n):\n  return FastAPI()\n",
            "--factory main:create_app",
        ),
        ("def create_app(a, b=1):\n    return FastAPI()\n", None),
        ("app = FastAPI()\n\n\ndef run[T](x: T) -> T:\n    type Y = T\n    return (x := x)\n", "main:app"),
        ("app = FastAPI()\nthis is ! no Python\n", "main:app"),
        ("def main():\n    if True:\n        app = FastAPI()\n", None),
        ('if __name__ == "__main__":\n    app = FastAPI()\n', None),
    ],
)
def test_an_application_may_come_from_a_function(tmp_path: Path, text: str, target: str | None) -> None:
    write(tmp_path, {"main.py": text, "lib/factory.py": "def build(debug):\n    return Starlette()\n"})
    expected = {"api": f"uvicorn --port $PORT {target}"} if target else {}
    assert commands(tmp_path) == expected


def test_a_file_that_is_odd_does_not_hold_it_up(tmp_path: Path) -> None:
    """Each of these lines begins what never ends: that took minutes once."""
    odd = "# FastAPI( and create_app(\n" + "def broken(\n" * 20_000
    write(tmp_path, {"main.py": odd, "site.py": APP, "errors.py": "errorhandler(404)\n" * 15_000})
    assert commands(tmp_path) == {"api": "uvicorn --port $PORT site:app"}


def test_an_entrypoint_is_taken_as_it_is_set(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "main.py": APP,
            "service/pyproject.toml": '[tool.fastapi]\nentrypoint = "shop.web:site"\n',
            "service/shop/web.py": "from .made import site\n",
        },
    )
    assert commands(tmp_path) == {"api": "cd service && uvicorn --port $PORT shop.web:site"}


def test_not_every_manage_py_is_django_s(tmp_path: Path) -> None:
    write(tmp_path, {"manage.py": "from flask_script import Manager\n", "web/manage.py": DJANGO})
    assert commands(tmp_path) == {"api": "cd web && python manage.py runserver --noreload 127.0.0.1:$PORT"}


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ({"scripts": {"dev": "nuxt dev"}, "dependencies": {"nuxt": "4"}}, "frontend: npm run dev"),
        ({"scripts": {"dev": "turbo run dev"}, "devDependencies": {"vite": "8"}}, "frontend: npm run dev"),
        (
            {"scripts": {"start": "ng serve"}, "dependencies": {"@angular/cli": "20"}},
            "frontend: npm run start",
        ),
        ({"scripts": {"start": "webpack serve"}, "devDependencies": {"webpack-cli": "6"}}, None),
        (
            {"scripts": {"dev": "concurrently 'vite' 'uvicorn main:app'", "ui": "vite"}},
            "vite: npm run ui",
        ),
    ],
)
def test_a_frontend_need_not_name_vite_in_its_script(
    tmp_path: Path, package: dict[str, object], command: str | None
) -> None:
    (tmp_path / "package.json").write_text(json.dumps(package))
    name, _, text = (command or "").partition(": ")
    assert commands(tmp_path) == ({name: text} if command else {})


ROUTES = """
from fastapi import FastAPI
app = FastAPI()
@app.get("/rest/items/{number}")
def item(number: int): ...
app.mount("/media", StaticFiles(directory="media"))
app.mount("/assets", StaticFiles(directory="../ui/dist/assets"))
"""
FASTAPI_ALL = [
    'app.mount("/", StaticFiles(directory="ui/dist", html=True))',
    'app.frontend("/", directory="ui/dist")',
    '@app.get("/{path:path}")\ndef page(path): ...',
    '@app.get("/")\ndef root(): return {"hello": "world"}',
    '@app.exception_handler(404)\ndef page(*_): return FileResponse("ui/dist/index.html")',
]


@pytest.mark.parametrize("answering", FASTAPI_ALL)
def test_a_backend_that_answers_the_frontend_s_gets_its_paths(tmp_path: Path, answering: str) -> None:
    write(tmp_path, {"ui/package.json": VITE, "ui/index.html": "", "main.py": f"{ROUTES}{answering}\n"})
    assert backend_paths(tmp_path) == ["/rest", "/media", "/docs", "/openapi.json"]


@pytest.mark.parametrize(
    ("files", "paths"),
    [
        (
            {
                "app.py": (
                    "app = Flask(__name__, static_folder='ui/dist', static_url_path='/')\n"
                    "app.register_blueprint(users, url_prefix='/api/users')\n"
                    "users = Blueprint('users', __name__, url_prefix='/users')\n@users.get('/me')\n"
                )
            },
            ["/api"],
        ),
        (
            {
                "manage.py": DJANGO,
                "site1/settings.py": "ROOT_URLCONF = 'site1.urls'\n",
                "site1/urls.py": (
                    "urlpatterns = [path('admin/', x), path('api/v1/', include('api.urls')),\n"
                    "re_path(r'^(?!admin).*$', page)]\n"
                ),
                "api/urls.py": "urlpatterns = [path('users', x)]\n",
            },
            ["/api", "/admin", "/static"],
        ),
        (
            {
                "main.py": "app = Litestar([hello, Mounted], static_files_config=[])\n",
                "routes.py": '@get("/items")\ndef x(): ...\n@get("/")\ndef y(): ...\n',
            },
            ["/items"],
        ),
        (
            {
                "main.py": 'app = Starlette(routes=[Route("/items", items), Mount("/", StaticFiles())])\n',
            },
            ["/items"],
        ),
    ],
)
def test_paths_are_found_in_each_framework_s_routes(
    tmp_path: Path, files: dict[str, str], paths: list[str]
) -> None:
    write(tmp_path, files | {"ui/package.json": VITE, "ui/index.html": ""})
    assert backend_paths(tmp_path) == paths


@pytest.mark.parametrize(
    ("files", "own"),
    [
        ({"ui/package.json": VITE, "ui/index.html": "", "main.py": ROUTES}, "routes without a page"),
        ({"ui/package.json": VITE, "main.py": ROUTES + FASTAPI_ALL[0]}, "Vite has no page"),
        (
            {
                "ui/package.json": VITE,
                "ui/index.html": "",
                "main.py": ROUTES + '@app.get("/")\ndef home(): return render_template("home.html")\n',
            },
            "the page is the backend's",
        ),
    ],
)
def test_where_no_page_is_hidden_there_are_no_settings(
    tmp_path: Path, files: dict[str, str], own: str
) -> None:
    write(tmp_path, files)
    assert seen(tmp_path).settings == "", own


def test_a_frontend_that_renders_pages_keeps_its_own_api(tmp_path: Path) -> None:
    package = {"scripts": {"dev": "vite dev"}, "devDependencies": {"vite": "8", "@sveltejs/kit": "2"}}
    routes = 'app = FastAPI()\n@app.get("/api/items/{n}")\ndef x(n): ...\n'
    write(tmp_path, {"web/package.json": json.dumps(package), "main.py": routes})
    assert backend_paths(tmp_path) == ["/api", "/docs", "/openapi.json"]
    (tmp_path / "web" / "src" / "routes" / "api").mkdir(parents=True)
    assert backend_paths(tmp_path) == ["/api/items", "/docs", "/openapi.json"]


def test_a_base_that_is_vite_s_alone_is_a_frontend_path(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "package.json": VITE,
            "vite.config.js": "export default { base: '/static/vite/' }\n",
            "manage.py": DJANGO,
            "site1/settings.py": "STATIC_URL = 'static/'\n",
        },
    )
    assert 'frontend_paths = ["/static/vite/"]' in seen(tmp_path).settings
    (tmp_path / "vite.config.js").write_text("export default { base: '/static/' }\n")
    assert seen(tmp_path).settings == ""


def proxied(*entries: str) -> dict[str, str]:
    """A frontend whose Vite passes paths on."""
    config = "export default { server: { proxy: {\n// '/old': 'http://localhost:1',\n%s\n} } }\n"
    return {"package.json": VITE, "index.html": "", "vite.config.ts": config % ",\n".join(entries)}


def test_the_paths_that_vite_passes_on_are_the_backend_s(tmp_path: Path) -> None:
    entries = [
        "'/api': 'http://localhost:5000'",
        "'^/media/.*': { target: 'http://x:1', headers: { a: '/b' } }",
    ]
    write(tmp_path, proxied(*entries) | {"main.py": ROUTES + FASTAPI_ALL[0]})
    assert backend_paths(tmp_path) == ["/api", "/media", "/docs", "/openapi.json"]


def test_a_path_that_vite_rewrites_is_asked_of_vite(tmp_path: Path) -> None:
    rewritten = "'/api': { target: 'http://localhost:5001', rewrite: (path) => path.replace(/^\\/api/, '') }"
    remote = "'/maps': { target: 'https://maps.example.com', changeOrigin: true }"
    write(tmp_path, proxied(rewritten, remote) | {"main.py": APP})
    settings = seen(tmp_path).settings
    file = completed(lambda problems: parse_settings(settings, Path("orchestra.toml"), problems))
    assert file is not None
    assert file.settings.proxy.frontend_paths == ("/api", "/maps")
    assert file.settings.process["api"].port == 5001
    machine = Machine(environ={"PATH": "/nowhere"})
    existing = look(tmp_path, machine, existing=[Entry("web", "gunicorn main:app", 1)])
    assert "[process.web]" in existing.settings


def test_a_backend_listens_where_the_frontend_expects_it(tmp_path: Path) -> None:
    asking = "export const API_URL = import.meta.env.API ?? 'http://127.0.0.1:5002/api'\n"
    write(tmp_path, {"web/package.json": VITE, "web/src/api.ts": asking, "main.py": APP})
    assert "[process.api]\n# Where the frontend expects it.\nport = 5002\n" in seen(tmp_path).settings
    base = "export default { use: { baseURL: 'http://localhost:5009' } }\n"
    write(tmp_path, {"web/playwright.config.ts": base, "web/src/a.ts": "fetch('http://localhost:3000/me')\n"})
    assert "port = 5002\n" in seen(tmp_path).settings
    busy = look(tmp_path, Machine(environ={"PATH": "/nowhere"}, is_free=lambda port: port != 5002))
    assert busy.settings == ""


def test_what_will_not_work_as_it_is_is_said(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "web/package.json": VITE,
            "web/src/api.ts": "const URL = 'http://localhost:5173'\nconst API = 'http://localhost:8000'\n",
            "api/main.py": APP,
            "api/.env.example": "KEY=\n",
        },
    )
    remarks = "\n".join(seen(tmp_path).remarks)
    assert "web/src/api.ts names http://localhost:8000: paths alone" in remarks
    assert seen(tmp_path).settings == ""
    assert "api/.env.example has no .env beside it" in remarks
    write(tmp_path, {"api/.env": "", "web/package.json": '{"scripts": {"start": "gulp"}}'})
    remarks = "\n".join(seen(tmp_path).remarks)
    assert "web/package.json names no Vite" in remarks
    assert ".env.example" not in remarks


@pytest.mark.parametrize(
    ("package", "script", "sockets"),
    [
        ("next", "dev", ["/_next/"]),
        ("react-scripts", "start", ["/ws", "/sockjs-node"]),
        ("@angular/cli", "start", ["/ng-cli-ws"]),
    ],
)
def test_a_frontend_without_vite_is_named(
    tmp_path: Path, package: str, script: str, sockets: list[str]
) -> None:
    described = {"scripts": {script: "run"}, "dependencies": {package: "1"}}
    write(tmp_path, {"web/package.json": json.dumps(described), "main.py": ROUTES})
    settings = seen(tmp_path).settings
    file = completed(lambda problems: parse_settings(settings, Path("orchestra.toml"), problems))
    assert file is not None
    assert file.settings.proxy.frontend == "frontend"
    assert [*file.settings.proxy.frontend_websockets] == sockets
    assert commands(tmp_path)["frontend"] == f"cd web && npm run {script}"


CELERY = 'app = Celery("tasks", broker="redis://localhost:6390/0")\n'


def test_a_worker_and_its_redis_are_found(tmp_path: Path) -> None:
    write(tmp_path, {"main.py": APP, "shop/__init__.py": "", "shop/jobs.py": "jobs = Celery('x')\n"})
    assert commands(tmp_path)["worker"] == "celery -A shop.jobs:jobs worker -l info"
    (tmp_path / "shop" / "jobs.py").write_text(CELERY)
    assert "redis" not in commands(tmp_path)
    program(tmp_path / "tools", "redis-server")
    path = str(tmp_path / "tools")
    found = commands(tmp_path, path=path)
    assert [*found] == ["api", "redis", "worker"]
    assert found["redis"] == 'redis-server --port 6390 --save ""'
    assert found["worker"] == "celery -A shop.jobs worker -l info"
    assert "[process.worker]" in seen(tmp_path).settings
    taken = look(tmp_path, Machine(environ={"PATH": path}, is_free=lambda port: port != 6390))
    assert [each.name for each in taken.entries] == ["api", "worker"]
    assert "where something listens now" in taken.remarks[0]


def proposed(root: Path) -> Scaffold:
    return propose(root, Machine(environ={"PATH": "/nowhere"}))


def test_a_procfile_of_production_is_completed(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "Procfile": "release: python manage.py migrate\nweb: gunicorn site1.wsgi\nmail: mailer\n",
            "manage.py": DJANGO,
            "ui/package.json": VITE,
        },
    )
    found = proposed(tmp_path)
    assert [(each.name, each.command) for each in found.entries] == [
        ("vite", "cd ui && npm run dev"),
        ("web", "gunicorn site1.wsgi"),
        ("mail", "mailer"),
    ]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"Procfile": "web: flask run\n", "app.py": "app = Flask(__name__)\n"}, "Procfile: it has all"),
        ({"Procfile": "web: flask run\n"}, "Procfile: it has all"),
        ({"Procfile": "web\n", "main.py": APP}, "Procfile:1: there is no colon"),
        ({"Procfile.dev": "a: b\n", "main.py": APP}, "Procfile.dev: it is there already"),
        ({"orchestra.toml": "[process.api]\napp = 'main:app'\n", "main.py": APP}, "it defines api"),
        ({"orchestra.toml": "[run]\nx = 1\n", "main.py": APP}, "orchestra.toml:2: run.x"),
        ({}, "nothing was written: no frontend was found"),
    ],
)
def test_what_is_there_is_not_shadowed(tmp_path: Path, files: dict[str, str], said: str) -> None:
    write(tmp_path, files)
    with pytest.raises(ConfigError) as caught:
        proposed(tmp_path)
    error = getattr(caught.value, "errors", [caught.value])[0]
    assert said in str(error)
    assert error.hint


def test_settings_that_are_there_are_completed_by_hand(tmp_path: Path) -> None:
    files = {"ui/package.json": VITE, "ui/index.html": "", "main.py": ROUTES + FASTAPI_ALL[0]}
    write(tmp_path, {"orchestra.toml": "[run]\ncolor = 'never'\n", **files})
    found = proposed(tmp_path)
    assert [*found.files] == ["Procfile.dev"]
    assert 'it should have [proxy] backend_paths = ["/rest"' in found.remarks[-1]


def test_a_script_that_may_start_the_backend_is_named(tmp_path: Path) -> None:
    write(
        tmp_path, {"client/package.json": VITE, "server/package.json": '{"scripts": {"start": "node x.js"}}'}
    )
    step = "if it is the backend, add `api: cd server && npm run start`"
    assert seen(tmp_path).remarks[0] == f"server/package.json has a script start: {step}"
    write(tmp_path, {"main.py": APP})
    assert not any("server/package.json" in each for each in seen(tmp_path).remarks)
