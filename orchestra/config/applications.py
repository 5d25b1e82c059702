"""Finds a project's Python applications and workers, how to run them, and which paths they serve.

Files are searched as text, never imported or parsed, so an error in one, or newer syntax than our own
Python's, hides nothing. An application is a variable that is assigned a call of a framework's class, or of a
function that makes one (``app = get_application()``); or such a function itself, if it needs no arguments.
The server is the one that the project names, otherwise one that its environment has.

An application's paths are the first segments of its routes. A router's own prefix may stand behind another
one, so it counts only where no API is found. The paths are needed if it would also answer the frontend's.

Not here: frontends, and what is written (`scaffold`).
"""

from __future__ import annotations

import re
import shlex
import shutil
from functools import partial
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra.config import tools
from orchestra.config.files import is_file, is_folder, text_if_any, upward

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.config.addresses import Machine

__all__ = ["Application", "Call", "Sources", "text_of"]

_MAX_FILES = 2000
# Longer files are generated. The patterns look ahead for a bounded number of characters, for the same reason.
_MAX_FILE_SIZE = 300_000
_USUAL_FILES = ("main", "app", "asgi", "server", "api", "wsgi", "application", "__init__")
_USUAL_NAMES = ("app", "application", "api")
_MODULE = re.compile(r"(?!test_|conftest).*\.py")
_KINDS = "FastAPI|Starlette|Litestar|Quart|APIFlask|Flask|Sanic|Bottle"
_FLASKS = ("Flask", "APIFlask")
_FRAMEWORKS = frozenset(
    {"fastapi", "starlette", "litestar", "quart", "apiflask", "flask", "django", "sanic", "bottle"}
)
# The frameworks that come with a server of their own.
_OWN_SERVERS = {"Flask": "flask", "APIFlask": "flask", "Sanic": "sanic", "Bottle": "bottle"}
# Servers that are given an expression, and so a call of a factory.
_EVALUATING = frozenset({"hypercorn", "bottle"})
# `app = FastAPI(`, `app: FastAPI = fastapi.FastAPI(`, `app = create_app(`.
_ASSIGNED = re.compile(r"^([ \t]*)(\w+)(?: *:[ \w.\[\]]+)? *= *(?:\w+\.)*(\w+)\(", re.MULTILINE)
_FUNCTION = re.compile(
    r"^def (\w+)\((.{0,1000}?)\)(?:\s*->[^\n]{0,200}?)?:(.*?)(?=^[^\s#)]|\Z)", re.MULTILINE | re.DOTALL
)
_FACTORY = re.compile(r"(create|make|get|build)_(asgi_|wsgi_)?(app|application|api)|app_factory")
_BLOCK_OF_ITS_OWN = re.compile(r"(async )?def |class |if __name__\b")
_DJANGO = re.compile(r"DJANGO_SETTINGS_MODULE|django\.core\.management")
_URLCONF = re.compile(r"""ROOT_URLCONF *= *["']([\w.]+)["']""")
_CELERY = re.compile(
    r"^(\w+)(?: *:[ \w.]+)? *= *(?:(?:\w+\.)?(?:Celery|make_celery|celery_init_app)\("
    r"""|\w+\.extensions\[["']celery["']\])""",
    re.MULTILINE,
)
_REDIS = re.compile(r"\bredis://(?:localhost|127\.0\.0\.1)(?::(\d+))?")
# Where a project names its packages; extras that bring a server with them; the application itself.
_LISTS = re.compile(r"pyproject\.toml|Pipfile|setup\.cfg|.*requirements.*\.(txt|in)")
_BRINGS_UVICORN = re.compile(r"\b(fastapi|litestar)\[[^\]]*\b(standard|all)\b", re.IGNORECASE)
_ENTRYPOINT = re.compile(
    r'^\[tool\.fastapi\]\s*$[^\[]*?^entrypoint *= *["\']([\w.]+):(\w+)', re.MULTILINE | re.DOTALL
)
# Without a reloader: orchestra restarts the server.
_SERVE = {
    "uvicorn": "uvicorn --port $PORT {factory}{target}",
    "granian": "granian --interface asgi --port $PORT {factory}{target}",
    "hypercorn": "hypercorn --graceful-timeout 1 --bind 127.0.0.1:$PORT {target}",
    "flask": "flask --app {target} run --debug --no-reload --port $PORT",
    "sanic": "sanic --single-process --port $PORT {factory}{target}",
    "bottle": "python -m bottle --debug --bind 127.0.0.1:$PORT {target}",
}
_PATH = r"""\(\s*(?:\w+\s*=\s*)?[rf]?["'](/[\w.-]+(?:/[\w.-]+)*)"""
_METHODS = r"(?:get|post|put|patch|delete|head|options|route|websocket|api_route)"
# Signs of a path of the whole application, or of an API; a folder that is built is the frontend's.
_ROUTES = re.compile(
    rf"""@(?:app|application|api)\.{_METHODS}{_PATH}
    |^@{_METHODS}{_PATH}
    |\b(?:Route|WebSocketRoute|Mount|\w+\.mount){_PATH}["'](?![^\n]*(?:dist|build|assets))
    |\b(?:app|application)\.(?:include_router|register_blueprint)\([^)]{0, 400}prefix\s*=\s*["'](/[\w.-]+)
    |["'](/api\b(?:/[\w.-]+)*)""",
    re.MULTILINE | re.VERBOSE,
)
# Paths that have another one below them.
_ROUTERS = re.compile(rf"""\bprefix\s*=\s*["'](/[\w.-]+)|@\w+\.{_METHODS}{_PATH}""")
_DJANGO_ROUTES = re.compile(r"""\b(?:re_)?path\(\s*r?["']\^?/?([\w.-]+(?:/[\w.-]+)*)""")
# A path that matches all paths, a build that is served at the root, the build's page in place of a 404.
_ANSWERS_ALL = re.compile(
    r"""["']/?(?:\{\w+:path\}|<path:\w+>)["']
    |\bstatic_url_path\s*=\s*["']/?["']
    |(?:\b[Mm]ount|\.frontend|\bcreate_static_files_router|\bStaticFilesConfig)\(\s*(?:path\s*=\s*)?["']/?["']
    |\bre_path\(\s*r?["']\^?(?:\(\?[:!=][^"']*)?\.\*
    |\b(?:errorhandler\(|exception_handler\(|exception_handlers\s*=\s*\{)\s*404[^@]{0,400}?index\.html""",
    re.VERBOSE,
)
_ANSWERS_ROOT = re.compile(
    rf"""@(?:\w+\.)?{_METHODS}\(\s*["']/["']|\bRoute\(\s*["']/["']|\bpath\(\s*["']["'](?!\s*,\s*include)"""
)
# Pages of its own; tags that load Vite's modules into them.
_PAGES = re.compile(
    r"render_template|TemplateResponse|Jinja2Templates|HTMLResponse|\brender\(|render_to_|\bTemplate\("
    r"|django_vite|litestar_vite|flask_vite|inertia"
)


class Call(Struct, frozen=True):
    """A command, its folder, and the reason for it, for people."""

    folder: Path
    command: str
    why: str


class Application(Struct, frozen=True, kw_only=True):
    """An application that was found.

    Attributes:
        kind: The framework: ``FastAPI``, ``Django``.
        folder: The folder to import it from; for Django that of `manage.py`.
        target: ``module:name``; empty for Django.
        is_factory: Whether the target is a factory.
    """

    kind: str
    folder: Path
    target: str = ""
    is_factory: bool = False
    file: Path


class Sources:
    """The Python files of a project, and the files that name its packages.

    Args:
        root: The project's folder.
        files: The names of the files in its folders, those nearest to the top first.
        machine: For ``PATH``: which server of several is there.

    Attributes:
        is_whole: Whether all files were read.
    """

    def __init__(self, root: Path, files: Mapping[Path, Sequence[str]], machine: Machine) -> None:
        self.root = root
        self._files = files
        self._machine = machine
        found = [
            folder / name for folder, names in files.items() for name in names if _MODULE.fullmatch(name)
        ]
        self.is_whole = len(found) <= _MAX_FILES
        self._texts = {path: text_of(path) for path in sorted(found[:_MAX_FILES], key=self._rank)}
        self._kinds = self._factories()

    def _rank(self, file: Path) -> tuple[int, int, str]:
        usual = _USUAL_FILES.index(file.stem) if file.stem in _USUAL_FILES else len(_USUAL_FILES)
        return len(file.relative_to(self.root).parts), usual, str(file)

    def _factories(self) -> dict[str, str]:
        """The classes that functions make, by the functions' names: one may call another one."""
        kinds: dict[str, str] = {}
        for _ in range(2):
            for text in self._texts.values():
                for name, _, body in _FUNCTION.findall(text) if re.search(f"{_KINDS}|_app", text) else ():
                    called = re.findall(r"\b(\w+)\(", body)
                    made = (each if re.fullmatch(_KINDS, each) else kinds.get(each) for each in called)
                    if "return" in body and (kind := next(filter(None, made), None)):
                        kinds.setdefault(name, kind)
        return kinds

    def below(self, folder: Path) -> dict[Path, str]:
        """The texts of the Python files in a folder and below it."""
        return {file: text for file, text in self._texts.items() if file.is_relative_to(folder)}

    def _named(self, folder: Path) -> str:
        """The texts that name the packages of a folder, from it up to the project's."""
        return "\n".join(
            text_of(each / name)
            for above in upward(folder, self.root)
            for each in (above, above / "requirements")
            for name in self._files.get(each, ())
            if _LISTS.fullmatch(name) or (each != above and name.endswith(".txt"))
        )

    def applications(self) -> Iterator[Application]:
        """Give the applications: Django's, those of the project's settings, then those nearest to the top."""
        for file, text in self._texts.items():
            if file.name == "manage.py" and _DJANGO.search(text):
                yield Application(kind="Django", folder=file.parent, file=file)
        named = set()
        for folder, names in self._files.items():
            text = text_of(folder / "pyproject.toml") if "pyproject.toml" in names else ""
            if entry := _ENTRYPOINT.search(text):
                file = folder / f"{entry[1].replace('.', '/')}.py"
                named.add(file)
                yield Application(kind="FastAPI", folder=folder, target=f"{entry[1]}:{entry[2]}", file=file)
        for file, text in self._texts.items():
            if file not in named and (found := self._application(file, text)) is not None:
                yield found

    def _application(self, file: Path, text: str) -> Application | None:
        made = [
            (indent, name not in _USUAL_NAMES, name, kind)
            for match in _ASSIGNED.finditer(text)
            for indent, name, callee in [match.groups()]
            if (kind := callee if re.fullmatch(_KINDS, callee) else self._kinds.get(callee))
            and _is_global(text, match.start(), indent)
        ]
        is_factory = not made
        for name, args, _ in _FUNCTION.findall(text) if is_factory else ():
            if _FACTORY.fullmatch(name) and name in self._kinds and _needs_nothing(args):
                made.append(("", True, name, self._kinds[name]))
        if not made:
            return None
        *_, name, kind = min(made)
        folder, module = self.module(file, text)
        return Application(
            kind=kind, folder=folder, target=f"{module}:{name}", is_factory=is_factory, file=file
        )

    def module(self, file: Path, text: str) -> tuple[Path, str]:
        """The folder to import a file from, and its module name, with the packages that it is in or names."""
        above = [each for each in [*upward(file.parent, self.root)][:-1] if _imported(text, each.name)]
        # Of two folders of one name it is the one that contains the import.
        having = [
            each for each in above if any(_has_module(each, name) for name in _imported(text, each.name))
        ]
        folder = next((each.parent for each in reversed(having or above)), None)
        if folder is None:
            folder, depth = file.parent, 1
            while folder != self.root and (
                (file.stem == "__init__" and depth == 1)
                or is_file(folder / "__init__.py")
                or re.search(rf"^\s*from \.{{{depth},}}(\w| import )", text, re.MULTILINE)
            ):
                folder, depth = folder.parent, depth + 1
        parts = file.relative_to(folder).with_suffix("").parts
        return folder, ".".join(parts).removesuffix(".__init__")

    def workers(self) -> Iterator[tuple[Path, str, Path]]:
        """Give the workers of Celery: the folder to import them from, their target, and their file."""
        for file, text in self._texts.items():
            if found := _CELERY.search(text):
                folder, module = self.module(file, text)
                yield folder, module if found[1] in {"app", "celery"} else f"{module}:{found[1]}", file

    # --- How it is run ---

    def call_of(self, application: Application) -> Call:
        """Say how an application is served."""
        folder, target = application.folder, application.target
        file = application.file.relative_to(self.root)
        if application.kind == "Django":
            command = "python manage.py runserver --noreload 127.0.0.1:$PORT"
            return Call(folder, self.in_environment(command, folder), f"{file} is Django's")
        server = self._server(application)
        call = "()" if application.is_factory and server in _EVALUATING else ""
        command = _SERVE[server].format(
            factory="--factory " if application.is_factory else "", target=shlex.quote(f"{target}{call}")
        )
        command = self.in_environment(command, folder)
        return Call(folder, command, f"{file} makes a {application.kind} application")

    def in_environment(self, command: str, folder: Path) -> str:
        """Have the tool that keeps the folder's environment run a command, unless its program is found."""
        launcher = tools.launcher_of(folder, self.root)
        if launcher is None or not shutil.which(launcher[0], path=self._machine.environ.get("PATH")):
            return command
        return command if self._has(command.partition(" ")[0], folder) else f"{launcher[0]} run {command}"

    def _has(self, program: str, folder: Path) -> bool:
        """Whether a program is found, and not only beside orchestra if the project has an environment."""
        env, scripts = self._machine.environ, self._machine.scripts
        with_tools = tools.with_tools(env, folder=folder, root=self.root, scripts=scripts)
        found = tools.find_program(program, folder, with_tools, scripts=scripts)
        if tools.virtual_environment(folder, self.root, env) is not None:
            return found is not None and not found.is_own
        active = env.get("CONDA_PREFIX") or env.get("VIRTUAL_ENV")
        is_made_later = tools.launcher_of(folder, self.root) is not None
        return found is not None and not (is_made_later and (not active or tools.is_own(active, scripts)))

    def _server(self, application: Application) -> str:
        """Choose the server: one that the project names, that its environment has, or the usual one."""
        if application.kind in _OWN_SERVERS:
            return _OWN_SERVERS[application.kind]
        offered = ["uvicorn", "granian", "hypercorn"]
        if application.kind == "Quart":
            offered.reverse()
        named = self._named(application.folder)
        known = [server for server in offered if re.search(rf"\b{server}\b", named)]
        if _BRINGS_UVICORN.search(named):
            known.append("uvicorn")
        there = (each for each in offered if self._has(each, application.folder))
        return next(iter([*known, *there, *offered]))

    # --- What it answers ---

    def paths_of(
        self, application: Application, *, listed: Sequence[str] = (), has_own_api: bool = False
    ) -> tuple[str, ...]:
        """Give the paths of an application.

        Args:
            application: The application.
            listed: Paths that the project lists itself, used instead of its routes.
            has_own_api: Whether the frontend has an `/api`, too: then the paths below it are distinguished.
        """
        texts = self.below(application.folder)
        found, more = [*listed], []
        if application.kind == "Django":
            more.append("/static")
        if application.kind == "Django" and not listed:
            urls = next((each[1] for each in map(_URLCONF.search, texts.values()) if each), "urls")
            text = texts.get(application.folder / f"{urls.replace('.', '/')}.py", "")
            found += [f"/{each}" for each in _DJANGO_ROUTES.findall(text)]
        elif not listed:
            found += _first_groups(_ROUTES, texts.values())
            if not any(each.startswith("/api") for each in found):
                found += _first_groups(_ROUTERS, texts.values())
        if application.kind == "FastAPI":
            more += ["/docs", "/openapi.json"]
        if application.kind in _FLASKS and is_folder(application.file.parent / "static"):
            more.append("/static")
        if not found:
            return ()
        cut = [
            "/".join(each.split("/")[: 3 if has_own_api and each.startswith("/api/") else 2])
            for each in found
        ]
        return tuple(dict.fromkeys([*sorted(cut, key=lambda each: not each.startswith("/api")), *more]))

    def hidden_pages(self, application: Application) -> str:
        """Say why an application answers paths of the frontend's pages; empty if nothing shows that."""
        texts = self.below(application.folder).values()
        if any(_ANSWERS_ALL.search(text) for text in texts):
            return "the backend answers every path"
        if any(_ANSWERS_ROOT.search(text) for text in texts) and not any(map(_PAGES.search, texts)):
            return "the backend answers /"
        return ""

    def redis_port(self) -> int | None:
        """The port of the Redis that a project expects on this machine."""
        for text in [*self.below(self.root).values(), text_of(self.root / ".env")]:
            if found := _REDIS.search(text):
                return int(found[1] or 6379)
        return None


text_of = partial(text_if_any, most=_MAX_FILE_SIZE)
"""Gives the text of a file; empty if there is none, or a large one."""


def _is_global(text: str, start: int, indent: str) -> bool:
    """Whether an assignment belongs to its module: it may be under a condition, but in no function."""
    for line in reversed(text[:start].splitlines()) if indent else ():
        stripped = line.lstrip()
        if stripped and not stripped.startswith("#") and len(line) - len(stripped) < len(indent):
            if _BLOCK_OF_ITS_OWN.match(stripped):
                return False
            indent = line[: len(line) - len(stripped)]
            if not indent:
                break
    return True


def _needs_nothing(args: str) -> bool:
    """Whether a function with these parameters can be called without arguments."""
    while (bare := re.sub(r"\[[^\[\]]*\]|\([^()]*\)|#[^\n]*", "", args)) != args:
        args = bare
    return all("=" in each or each.strip()[:1] in {"", "*", "/"} for each in args.split(","))


def _imported(text: str, package: str) -> list[str]:
    """The names that a file imports from a package: most probably its modules."""
    if package in _FRAMEWORKS:
        return []
    named = re.escape(package)
    imports = rf"^\s*(?:from {named}(?:\.(\w+)[\w.]*)? import (\w+)|import {named}\b(?:\.(\w+))?)"
    return [next(filter(None, names), package) for names in re.findall(imports, text, re.MULTILINE)]


def _has_module(folder: Path, name: str) -> bool:
    return is_folder(folder / name) or is_file(folder / f"{name}.py")


def _first_groups(pattern: re.Pattern[str], texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for match in pattern.finditer(text):
            yield next(filter(None, match.groups()))
