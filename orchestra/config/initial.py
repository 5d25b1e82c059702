"""`orchestra init`: a look at a folder -> the Procfile that runs what is in it, and why.

Frontends are folders whose `package.json` has Vite; backends are Python files that make an application, or a
`manage.py`. Files are read, never imported: what is not plain to see is left to the user. Of several
candidates the one nearest to the top is taken, then the one with the most usual name; the others are named.

Never here: writing, and whether what is written works.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.config import command as commands, packages
from orchestra.config.files import is_file, is_folder
from orchestra.config.procfile import Entry, is_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["Found", "look"]

# Deeper, there are libraries and examples rather than the project.
_DEEPEST = 3
_MOST_FILES = 2000
_LARGEST = 1_000_000
# Folders in which nobody's application is.
_SKIPPED = frozenset(
    [
        "build",
        "dist",
        "docs",
        "examples",
        "migrations",
        "node_modules",
        "site-packages",
        "test",
        "tests",
        "venv",
    ]
)
_APPLICATIONS = ("FastAPI", "Starlette", "Litestar", "Quart", "Flask")
_USUAL_FILES = ("main", "app", "asgi", "server", "api", "wsgi", "application", "__init__")
_USUAL_NAMES = ("app", "application", "api")
_FACTORIES = ("create_app", "make_app", "get_app")
# Who serves an ASGI application, the one first that a project's users most probably have.
_ASGI_SERVERS = ("uvicorn", "hypercorn", "granian")
_LOCKS = {"uv.lock": "uv run", "poetry.lock": "poetry run", "pdm.lock": "pdm run", "Pipfile": "pipenv run"}


@dataclass(frozen=True, slots=True)
class Found:
    """One process that a Procfile should have.

    Attributes:
        why: What was seen, for people.
    """

    entry: Entry
    why: str


@dataclass(frozen=True, slots=True)
class _App:
    """An application in a Python file.

    Attributes:
        folder: Where it can be imported from.
        module: Its module there.
        name: The variable, or the function that makes it.
        kind: ``FastAPI`` and so on.
    """

    file: Path
    folder: Path
    module: str
    name: str
    kind: str
    is_factory: bool

    @property
    def target(self) -> str:
        return f"{self.module}:{self.name}"


def look(root: Path, *, env: Mapping[str, str]) -> tuple[list[Found], list[str]]:
    """Look at a folder.

    Args:
        root: The folder.
        env: For ``PATH``: which server of several is there.

    Returns:
        The processes, the frontend first; and remarks about what was seen and not taken.
    """
    found: list[Found] = []
    remarks: list[str] = []
    for role, candidates in (("frontend", _frontends(root)), ("backend", _backends(root, env))):
        if not candidates:
            remarks.append(f"no {role} was found: add a line for it, if there is one")
        else:
            found.append(candidates[0])
            remarks += [f"not taken: {other.why}" for other in candidates[1:]]
    if not found:
        remarks = ["nothing was found that has Vite, nor a Python file that makes an application"]
    return found, remarks


def _folders(root: Path) -> Iterator[Path]:
    """The folder and those in it, those nearest to the top first."""
    level = [root]
    for _ in range(_DEEPEST + 1):
        yield from level
        level = [
            each
            for folder in level
            for each in _entries(folder)
            if is_folder(each)
            and not each.is_symlink()
            and each.name not in _SKIPPED
            and not each.name.startswith((".", "_"))
            and not is_file(each / "pyvenv.cfg")
        ]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _within(folder: Path, root: Path) -> str:
    return "" if folder == root else folder.relative_to(root).as_posix()


def _in_folder(folder: Path, root: Path, command: str) -> str:
    where = _within(folder, root)
    return f"cd {shlex.quote(where)} && {command}" if where else command


# --- Frontends ---


def _frontends(root: Path) -> list[Found]:
    found = []
    for folder in _folders(root):
        package = packages.package_json(folder)
        manager = packages.manager_of(folder, root)
        scripts = package.get("scripts")
        names = [name for name in scripts if isinstance(name, str)] if isinstance(scripts, dict) else []
        usual = [name for name in ("dev", "start", "serve") if name in names]
        for name in dict.fromkeys([*usual, *names]):
            command = f"{manager} run {name}"
            if is_name(name) and commands.read(command, cwd=folder, root=root).why:
                where = _within(folder, root)
                why = f"`{command}`{f' in {where}' if where else ''} runs vite"
                found.append(Found(Entry("vite", _in_folder(folder, root, command), 0), why))
                break
        else:
            if _depends_on_vite(package):
                runner = {"pnpm": "pnpm exec", "yarn": "yarn", "bun": "bunx"}.get(manager, "npx")
                why = f"{(folder / 'package.json').relative_to(root)} depends on vite"
                found.append(Found(Entry("vite", _in_folder(folder, root, f"{runner} vite"), 0), why))
    return found


def _depends_on_vite(package: Mapping[str, object]) -> bool:
    tables = (package.get(key) for key in ("dependencies", "devDependencies"))
    return any(isinstance(table, dict) and "vite" in table for table in tables)


# --- Backends ---


def _backends(root: Path, env: Mapping[str, str]) -> list[Found]:
    prefix = _prefix(root, env)
    found = []
    for folder in _folders(root):
        if is_file(folder / "manage.py"):
            why = f"{(folder / 'manage.py').relative_to(root)} is Django's"
            command = _in_folder(folder, root, f"{prefix}python manage.py runserver 127.0.0.1:$PORT")
            found.append(Found(Entry("api", command, 0), why))
    apps = sorted(_apps(root), key=lambda app: _rank(app, root))
    for app in apps:
        why = f"{app.file.relative_to(root)} makes a {app.kind} application"
        command = _in_folder(app.folder, root, prefix + _serve(app, root, env))
        found.append(Found(Entry("api", command, 0), why))
    return found


def _prefix(root: Path, env: Mapping[str, str]) -> str:
    """How a command is run in the project's environment, if that is not there yet or elsewhere."""
    if env.get("VIRTUAL_ENV") or is_folder(root / ".venv"):
        return ""
    for lock, runner in _LOCKS.items():
        if is_file(root / lock) and shutil.which(runner.partition(" ")[0], path=env.get("PATH")):
            return f"{runner} "
    return ""


def _rank(app: _App, root: Path) -> tuple[int, int, int, str]:
    depth = len(app.file.relative_to(root).parts)
    file, name = app.file.stem, app.name
    return (
        depth,
        _USUAL_FILES.index(file) if file in _USUAL_FILES else len(_USUAL_FILES),
        _USUAL_NAMES.index(name) if name in _USUAL_NAMES else len(_USUAL_NAMES),
        str(app.file),
    )


def _apps(root: Path) -> Iterator[_App]:
    count = 0
    for folder in _folders(root):
        for file in _entries(folder):
            if file.suffix != ".py" or file.name.startswith(("test_", "conftest")) or not is_file(file):
                continue
            count += 1
            if count > _MOST_FILES:
                return
            tree = _read(file)
            found = None if tree is None else _app_in(tree)
            if tree is not None and found is not None:
                name, kind, is_factory = found
                base, module = _module(file, tree, root)
                yield _App(file, base, module, name, kind, is_factory)


def _module(file: Path, tree: ast.Module, root: Path) -> tuple[Path, str]:
    """Where a file can be imported from, and as what.

    That is the nearest folder above it that is no package; unless its own imports tell that it is to be
    imported from further above: ``from .routes import`` and ``from app.routes import`` in ``app/main.py``.
    """
    folder, parts = file.parent, [file.stem]
    if file.stem == "__init__":
        folder, parts = file.parent.parent, [file.parent.name]
    while folder != root and is_file(folder / "__init__.py"):
        parts.insert(0, folder.name)
        folder = folder.parent
    imported = _imported(tree)
    above = [each for each in (folder, *folder.parents) if each != root and each.is_relative_to(root)]
    for count, each in enumerate(above, 1):
        if "." * (len(parts) + count - 1) in imported or (each.name in imported and each.name.isidentifier()):
            parts = [one.name for one in reversed(above[:count])] + parts
            return each.parent, ".".join(parts)
    return folder, ".".join(parts)


def _imported(tree: ast.Module) -> set[str]:
    """What a file imports: the first parts of absolute names, and as many dots as relative ones have."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.ImportFrom(module=module, level=level):
                found.add("." * level if level else (module or "").partition(".")[0])
            case ast.Import(names=names):
                found |= {alias.name.partition(".")[0] for alias in names}
            case _:
                pass
    return found


def _read(file: Path) -> ast.Module | None:
    """Parse a file that may make an application."""
    try:
        if file.stat().st_size > _LARGEST:
            return None
        text = file.read_text("utf-8-sig")
        if not any(kind in text for kind in _APPLICATIONS):
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def _app_in(tree: ast.Module) -> tuple[str, str, bool] | None:
    """Find the application that a file makes: its name, its kind, and whether a function makes it."""
    kinds = {kind: kind for kind in _APPLICATIONS}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            kinds |= {
                alias.asname: alias.name for alias in node.names if alias.asname and alias.name in kinds
            }
    made = dict(_assigned(tree.body, kinds))
    for name in (*_USUAL_NAMES, *made):
        if name in made:
            return name, made[name], False
    for statement in tree.body:
        is_factory = isinstance(statement, ast.FunctionDef) and statement.name in _FACTORIES
        if is_factory and isinstance(statement, ast.FunctionDef) and not _needs_more(statement):
            found = [kind for node in ast.walk(statement) if (kind := _kind(node, kinds)) is not None]
            if found:
                return statement.name, found[0], True
    return None


def _assigned(body: Sequence[ast.stmt], kinds: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The applications that are made at the top of a module, also under a condition."""
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                kind = _kind(value, kinds)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                kind = _kind(value, kinds)
            case ast.If(body=inner, orelse=other) | ast.Try(body=inner, orelse=other):
                yield from _assigned([*inner, *other], kinds)
                continue
            case ast.With(body=inner):
                yield from _assigned(inner, kinds)
                continue
            case _:
                continue
        if kind is not None:
            yield name, kind


def _kind(node: ast.AST, kinds: Mapping[str, str]) -> str | None:
    """What a call makes: ``FastAPI(...)``, ``fastapi.FastAPI(...)``."""
    match node:
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return kinds.get(name)
        case _:
            return None


def _needs_more(function: ast.FunctionDef) -> bool:
    arguments = function.args
    required = len(arguments.posonlyargs) + len(arguments.args) - len(arguments.defaults)
    return required > 0 or any(default is None for default in arguments.kw_defaults)


def _serve(app: _App, root: Path, env: Mapping[str, str]) -> str:
    target = shlex.quote(app.target)
    if app.kind == "Flask":
        return f"flask --app {target} run --debug --port $PORT"
    match _server(app, root, env):
        case "hypercorn":
            made = shlex.quote(f"{app.target}()") if app.is_factory else target
            return f"hypercorn --reload --graceful-timeout 1 --bind 127.0.0.1:$PORT {made}"
        case "granian":
            options = "--factory " if app.is_factory else ""
            return f"granian --interface asgi --reload --port $PORT {options}{target}"
        case _:
            options = "--factory " if app.is_factory else ""
            return f"uvicorn --reload --port $PORT {options}{target}"


def _server(app: _App, root: Path, env: Mapping[str, str]) -> str:
    """Choose who serves: what the project names, else what is installed, else the most usual one."""
    offered = ("hypercorn", "uvicorn", "granian") if app.kind == "Quart" else _ASGI_SERVERS
    declared = _declared(root) | _declared(app.folder)
    named = [server for server in offered if server in declared]
    installed = [server for server in offered if shutil.which(server, path=env.get("PATH"))]
    both = [server for server in named if server in installed]
    return (both or installed or named or [offered[0]])[0]


def _declared(folder: Path) -> set[str]:
    """The packages that a project names, roughly: every word of its lists of dependencies."""
    words: set[str] = set()
    for file in _entries(folder):
        if file.name in {"pyproject.toml", "Pipfile", "setup.cfg"} or re.fullmatch(
            r"requirements.*\.(txt|in)", file.name
        ):
            try:
                words |= set(re.findall(r"[a-z][a-z0-9-]*", file.read_text("utf-8").lower()))
            except (OSError, ValueError):
                continue
    return words
