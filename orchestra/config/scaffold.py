"""``orchestra init``: a look at a folder -> the Procfile that runs what is in it, and why.

Frontends are folders whose `package.json` has Vite; backends are Python files that make an application, or a
`manage.py`. Files are searched, never imported or parsed. Of several candidates the one nearest to the top is
taken, then the one with the most usual name; the others are named.

Not here: writing, and whether what is written works.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from orchestra.config import command as commands, packages
from orchestra.config.files import is_file, is_folder
from orchestra.config.procfile import Entry, is_name
from orchestra.reading import read_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Found", "look"]

# How deep folders are searched: below, there are libraries and examples rather than the project.
_MAX_DEPTH = 3
_MAX_FILES = 2000
_MAX_FILE_SIZE = 1_000_000
_SKIPPED = frozenset(
    {"build", "dist", "docs", "examples", "migrations", "node_modules", "tests", "test", "venv"}
)
_USUAL_FILES = ("main", "app", "asgi", "server", "api", "wsgi", "application", "__init__")
_USUAL_NAMES = ("app", "application", "api")
_MODULE = re.compile(r"(?!test_|conftest).*\.py")
_KINDS = "FastAPI|Starlette|Litestar|Quart|Flask"
# `app = FastAPI(`, `app: FastAPI = fastapi.FastAPI(`.
_ASSIGNED_APP = re.compile(rf"^([ \t]*)(\w+)(?:: *[\w.]+)? *= *(?:\w+\.)?({_KINDS})\(", re.MULTILINE)
_FACTORY = re.compile(r"^def (create_app|make_app|get_app)\((?:[^()=]*=[^()]*)?\)", re.MULTILINE)
# Where a project names its packages.
_LISTS = re.compile(r"pyproject\.toml|Pipfile|setup\.cfg|requirements.*\.(txt|in)")
_RUNNERS = {"npm": "npx", "pnpm": "pnpm exec", "yarn": "yarn", "bun": "bunx"}
_LOCKS = {"uv.lock": "uv run", "poetry.lock": "poetry run", "pdm.lock": "pdm run", "Pipfile": "pipenv run"}
_SERVE = {
    "uvicorn": "uvicorn --reload --port $PORT {factory}{target}",
    "hypercorn": "hypercorn --reload --graceful-timeout 1 --bind 127.0.0.1:$PORT {target}",
    "granian": "granian --interface asgi --reload --port $PORT {factory}{target}",
    "flask": "flask --app {target} run --debug --port $PORT",
}

_Files: TypeAlias = "Mapping[Path, Sequence[str]]"


class Found(Struct, frozen=True):
    """One process that a Procfile should have.

    Attributes:
        why: What was seen, for people.
    """

    entry: Entry
    why: str


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
    files = _files(root)
    for role, candidates in (
        ("frontend", [*_frontends(root, files)]),
        ("backend", [*_backends(root, files, env)]),
    ):
        if not candidates:
            remarks.append(f"no {role} was found: add a line for it, if there is one")
        found += candidates[:1]
        remarks += [f"not taken: {other.why}" for other in candidates[1:]]
    if not found:
        remarks = ["nothing was found that has Vite, nor a Python file that makes an application"]
    return found, remarks


def _files(root: Path) -> dict[Path, list[str]]:
    """The names of the files in the folder and in those in it; those nearest to the top come first."""
    found = {}
    for path, folders, names in os.walk(root):
        folder = Path(path)
        is_environment = folder != root and "pyvenv.cfg" in names
        if is_environment or len(folder.relative_to(root).parts) == _MAX_DEPTH:
            folders.clear()
        folders[:] = [each for each in folders if each not in _SKIPPED and not each.startswith((".", "_"))]
        if not is_environment:
            found[folder] = sorted(names)
    return dict(sorted(found.items(), key=lambda each: (len(each[0].parts), each[0])))


def _found(name: str, folder: Path, root: Path, command: str, why: str) -> Found:
    where = shlex.quote(folder.relative_to(root).as_posix())
    return Found(Entry(name, command if folder == root else f"cd {where} && {command}", 0), why)


def _frontends(root: Path, files: _Files) -> Iterator[Found]:
    for folder in (each for each, names in files.items() if "package.json" in names):
        manager = packages.manager_of(folder, root)
        package, scripts = packages.package_json(folder), packages.scripts_of(folder)
        usual = [name for name in ("dev", "start", "serve") if name in scripts]
        candidates = [f"{manager} run {name}" for name in dict.fromkeys([*usual, *scripts]) if is_name(name)]
        tables = [package.get(key) for key in ("dependencies", "devDependencies")]
        if any(isinstance(table, dict) and "vite" in table for table in tables):
            candidates.append(f"{_RUNNERS[manager]} vite")
        for command in candidates:
            if why := commands.read(command, cwd=folder, root=root).why:
                yield _found("vite", folder, root, command, why)
                break


def _backends(root: Path, files: _Files, env: Mapping[str, str]) -> Iterator[Found]:
    prefix = _prefix(root, env)
    for folder in (each for each, names in files.items() if "manage.py" in names):
        why = f"{(folder / 'manage.py').relative_to(root)} is Django's"
        yield _found("api", folder, root, f"{prefix}python manage.py runserver 127.0.0.1:$PORT", why)
    python = [folder / name for folder, names in files.items() for name in names if _MODULE.fullmatch(name)]
    for file in sorted(python[:_MAX_FILES], key=lambda file: _rank(file, root)):
        text = _text(file)
        if (kind := re.search(rf"\b({_KINDS})\(", text)) is None:
            continue
        # One that is indented is under a condition, if it is not in a function that makes one.
        made = sorted(_ASSIGNED_APP.findall(text), key=lambda each: (each[0], each[1] not in _USUAL_NAMES))
        factory = None if made and not made[0][0] else _FACTORY.search(text)
        if made or factory:
            name = factory[1] if factory else made[0][1]
            folder, module = _module(file, text, root)
            named = "\n".join(
                _text(each / name)
                for each in {root, folder}
                for name in files[each]
                if _LISTS.fullmatch(name)
            )
            server = "flask" if kind[1] == "Flask" else _server(kind[1], named, env)
            factory_option, call = ("--factory ", "()") if factory else ("", "")
            target = f"{module}:{name}{call if server == 'hypercorn' else ''}"
            command = _SERVE[server].format(factory=factory_option, target=shlex.quote(target))
            why = f"{file.relative_to(root)} makes a {kind[1]} application"
            yield _found("api", folder, root, prefix + command, why)


def _rank(file: Path, root: Path) -> tuple[int, int, str]:
    usual = _USUAL_FILES.index(file.stem) if file.stem in _USUAL_FILES else len(_USUAL_FILES)
    return len(file.relative_to(root).parts), usual, str(file)


def _text(file: Path) -> str:
    try:
        is_small_file = file.is_file() and file.stat().st_size <= _MAX_FILE_SIZE
        return read_file(file).decode("utf-8-sig") if is_small_file else ""
    except (OSError, ValueError):
        return ""


def _prefix(root: Path, env: Mapping[str, str]) -> str:
    """How a command is run in the project's environment, if that is not there yet or elsewhere."""
    if env.get("VIRTUAL_ENV") or is_folder(root / ".venv"):
        return ""
    for lock, runner in _LOCKS.items():
        if is_file(root / lock) and shutil.which(runner.partition(" ")[0], path=env.get("PATH")):
            return f"{runner} "
    return ""


def _module(file: Path, text: str, root: Path) -> tuple[Path, str]:
    """Where a file can be imported from, and as what: as part of the packages that it is in or names."""
    parts, folder = [file.stem], file.parent
    while folder != root and (
        (file.stem == "__init__" and len(parts) == 1)
        or is_file(folder / "__init__.py")
        or re.search(
            rf"^\s*(from|import) ({re.escape(folder.name)}\b|\.{{{len(parts)},}}\w)", text, re.MULTILINE
        )
    ):
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, ".".join(parts).removesuffix(".__init__")


def _server(kind: str, named: str, env: Mapping[str, str]) -> str:
    """Choose what serves: what the project names, else what is installed, else the most usual one."""
    offered = ("hypercorn", "uvicorn", "granian") if kind == "Quart" else ("uvicorn", "hypercorn", "granian")
    known = [server for server in offered if re.search(rf"\b{server}\b", named)]
    installed = [server for server in offered if shutil.which(server, path=env.get("PATH"))]
    return next(iter([*(each for each in known if each in installed), *installed, *known, *offered]))
