"""``orchestra init``: looks at a folder, and writes the Procfile and the settings that run its project.

An existing Procfile is most probably that of production: its processes are taken over unchanged, and missing
ones are added. Settings are written only if there are none. They list the backend's paths if the backend
would otherwise answer the frontend's paths, or if the frontend may have an `/api` of its own.

Not here: writing; whether the result works; finding frontends (`frontends`) and backends (`applications`).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from orchestra.config import command as commands, packages, procfile, toml
from orchestra.config.addresses import DEFAULT_LISTEN
from orchestra.config.applications import Call, Sources
from orchestra.config.files import Problems, is_file
from orchestra.config.frontends import find_frontends
from orchestra.config.procfile import DEFAULT_NAMES, Entry, render
from orchestra.config.roles import BACKEND_NAMES
from orchestra.errors import ConfigError
from orchestra.folders import current_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.config.addresses import Machine
    from orchestra.config.frontends import Frontend

__all__ = ["Scaffold", "find_frontend", "look", "propose"]

# The depth to which folders are searched: below, there are libraries and examples rather than the project.
_MAX_DEPTH = 4
_SKIPPED = frozenset(
    {"build", "dist", "docs", "examples", "migrations", "node_modules", "tests", "test", "venv"}
)
# Files that mark a project, as opposed to a folder that contains projects.
_PROJECT_MARKS = frozenset({".git", "manage.py", "package.json", "pyproject.toml", "requirements.txt"})
# Files that mark a folder with several frontends or backends.
_OF_SEVERAL = _PROJECT_MARKS | {"Makefile", "README.md", "compose.yaml", "docker-compose.yml", "justfile"}
# Scripts that start a server, in the order of preference.
_STARTING = ("dev", "start", "serve")
# So many of several projects are named.
_MOST_NAMED = 6
# A process of a Procfile that runs once, at a deployment.
_NOT_RUN = "release"
# The URL of a backend's own files.
_STATIC_URL = re.compile(r"""\b(?:STATIC_URL|static_url_path) *= *["']/?([^"']*?)/?["']""")
_ENV_EXAMPLES = (".env.example", ".env.sample", ".env.template", ".env.dist", "env.example")
_RUN_IT = "Run it: orchestra run"
_HEAD = """\
# What `orchestra run` starts, and serves at one address. Each process is told its port by $PORT.
# `orchestra check` shows how it is understood.
"""


class Scaffold(Struct, frozen=True, kw_only=True):
    """The proposed Procfile and settings.

    Attributes:
        entries: The lines of the Procfile.
        settings: The text of the settings; empty: none are needed.
        reasons: The reason for each line.
        remarks: Findings that were not used.
    """

    entries: tuple[Entry, ...] = ()
    settings: str = ""
    reasons: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def settings_in_a_line(self) -> str:
        """The settings without comments, to be shown."""
        lines = self.settings.splitlines()
        return " ".join(line for line in lines if line and not line.startswith("#"))

    @property
    def files(self) -> dict[str, str]:
        """The texts of the files, by their names."""
        files = {DEFAULT_NAMES[0]: _HEAD + render(self.entries)}
        return files | ({toml.OWN_FILE: self.settings} if self.settings else {})


def propose(folder: Path, machine: Machine) -> Scaffold:
    """Look at a folder that has no `Procfile.dev`, and propose one.

    Raises:
        ConfigError: It has a `Procfile.dev`, or a sufficient Procfile, or nothing was found.
        ConfigErrors: Its Procfile or its settings are not valid.
    """
    path = folder / DEFAULT_NAMES[0]
    _refuse_in_the_way(folder)
    if os.path.lexists(path):
        raise ConfigError("it is there already, and was not touched", path=path, hint=_RUN_IT)
    problems = Problems()
    settings = toml.find(folder, problems)
    production = folder / DEFAULT_NAMES[1]
    existing = procfile.read(production, problems) if os.path.lexists(production) else ()
    problems.raise_all()
    if not existing and settings.settings.process and settings.path is not None:
        names = ", ".join(settings.settings.process)
        raise ConfigError(f"it defines {names}: nothing was written", path=settings.path, hint=_RUN_IT)
    found = look(Path(normpath(current_folder() / folder)), machine, existing=existing)
    if existing and {*found.entries} <= {*existing}:
        text = "it has all that was found, and was not touched: nothing was written"
        raise ConfigError(text, path=production, hint=_RUN_IT)
    if not found.entries:
        hint = f"Write {path} yourself: lines such as `api: uvicorn --port $PORT app:app`."
        raise ConfigError(f"nothing was written: {'; '.join(found.remarks)}", hint=hint)
    if found.settings and settings.path is not None:
        lacking = found.settings_in_a_line
        remark = f"{settings.path} is there already, and was not touched: it should have {lacking}"
        return replace(found, settings="", remarks=(*found.remarks, remark))
    return found


def _refuse_in_the_way(folder: Path) -> None:
    """Raise `ConfigError` if the name of a file to be written is taken by something that is not a file."""
    for path in (folder / DEFAULT_NAMES[0], folder / toml.OWN_FILE):
        if os.path.lexists(path) and not path.is_file():
            what = "a folder" if path.is_dir() else "no file" if path.exists() else "a link to nothing"
            raise ConfigError(f"it is {what}: nothing was written", path=path, hint="Remove or rename it.")


def look(root: Path, machine: Machine, *, existing: Sequence[Entry] = ()) -> Scaffold:
    """Look at a folder, and propose the files for it.

    Args:
        root: The folder.
        machine: Its ``PATH`` shows which servers are installed; and which ports are taken.
        existing: The entries of an existing Procfile.

    Raises:
        ConfigError: It contains several projects, or the name of a folder does not fit into a Procfile.
    """
    return _Look(root, machine, existing).scaffold()


class _Look:
    """The findings in a folder, and the proposal that follows from them.

    Attributes:
        names: The names of the processes, by their usual names: ``api``, ``vite``, ``worker``.
        port: Where the frontend expects the backend, if that is not the one address.
    """

    def __init__(self, root: Path, machine: Machine, existing: Sequence[Entry]) -> None:
        self.root, self.machine, self.existing = root, machine, existing
        self.files = _files(root, home=machine.environ.get("HOME"))
        self.sources = Sources(root, self.files, machine)
        self.frontends = find_frontends(root, self.files)
        self.backends = [*self.sources.applications()]
        self.names: dict[str, str] = {}
        self.port: int | None = None
        self.reasons: list[str] = []
        self.remarks: list[str] = []

    def scaffold(self) -> Scaffold:
        calls = [self.sources.call_of(each) for each in self.backends]
        if not self.existing:
            for alike in ([each.call for each in self.frontends], calls):
                _refuse_several(alike, self.root)
        found = [(each.name, each.call) for each in self.frontends[:1]] + [
            ("api", each) for each in calls[:1]
        ]
        others = [*(each.call for each in self.frontends[1:]), *calls[1:]]
        self.remarks += [f"not taken: {each.why}" for each in others]
        workers = self._workers()
        self._hint()
        self._find_port()
        if not self.sources.is_whole:
            text = "there are too many Python files: only those nearest to the top were looked at"
            self.remarks.append(text)
        if not (found or self.existing):
            nothing = "no frontend was found, nor a Python file that makes an application"
            return Scaffold(remarks=(nothing, *self.remarks))
        for role, candidates in (("frontend", self.frontends), ("backend", self.backends)):
            if not candidates and not self.existing:
                self.remarks.append(f"no {role} was found: add a line for it, if there is one")
        kept = [each for each in self.existing if each.name != _NOT_RUN]
        lacking = [
            (name, call)
            for name, call in found + workers
            if not any(_is_like(name, each, self.root) for each in kept)
        ]
        taken = {each.name for each in kept}
        self.names = {name: f"{name}-dev" if name in taken else name for name, _ in lacking}
        if backend := next((each.name for each in kept if _is_like("api", each, self.root)), None):
            self.names["api"] = backend
        self.reasons = [f"{self.names[name]}: {call.why}" for name, call in lacking]
        entries = [Entry(self.names[name], _command(call, self.root), 0) for name, call in lacking]
        return Scaffold(
            entries=(*entries, *kept),
            settings=self._settings(),  # adds to the reasons
            reasons=tuple(self.reasons),
            remarks=tuple(self.remarks),
        )

    def _workers(self) -> list[tuple[str, Call]]:
        """A worker of Celery, and the Redis that the project expects on this machine."""
        found: list[tuple[str, Call]] = []
        for folder, target, file in self.sources.workers():
            command = f"celery -A {shlex.quote(target)} worker -l info"
            why = f"{file.relative_to(self.root)} makes a Celery application"
            if found:
                self.remarks.append(f"not taken: {why}")
            else:
                call = Call(folder, self.sources.in_environment(command, folder), why)
                found.append(("worker", call))
        if (port := self.sources.redis_port()) is not None:
            expected = f"the project expects Redis at port {port}"
            if not self.machine.is_free(port):
                self.remarks.append(f"{expected}, where something listens now: no line is needed for it")
            elif shutil.which("redis-server", path=self.machine.environ.get("PATH")):
                command = f'redis-server --port {port} --save ""'
                found.insert(0, ("redis", Call(self.root, command, expected)))
            else:
                self.remarks.append(f"{expected}: start it, or add a line for it")
        return found

    def _settings(self) -> str:
        """The text of the settings."""
        tables = []
        frontend = next((each for each in self.frontends[:1] if each.name in self.names), None)
        if frontend is not None and (proxy := self._proxy_settings(frontend)):
            tables.append("\n".join(["[proxy]", *proxy]))
        if self.port is not None and (api := self.names.get("api")):
            tables.append(f"[process.{api}]\n# Where the frontend expects it.\nport = {self.port}")
        if worker := self.names.get("worker"):
            tables.append(f"[process.{worker}]\n# Restart it when a Python file is saved.\nwatch = true")
        head = "# Settings of `orchestra run`; the README has all of them."
        return "\n\n".join([head, *tables]) + "\n" if tables else ""

    def _proxy_settings(self, frontend: Frontend) -> list[str]:
        lines = []
        if frontend.sockets:
            lines.append(f'frontend = "{self.names[frontend.name]}"')
            lines.append(f"frontend_websockets = {json.dumps(frontend.sockets)}")
            self.reasons.append(f"proxy.frontend: {frontend.package} is not sure to run Vite")
        if own := self._frontend_paths(frontend):
            lines.append(f"frontend_paths = {json.dumps(own)}")
        for backend in self.backends[:1] if frontend.has_pages else ():
            renders = f"{frontend.package} may have an API of its own" if frontend.renders else ""
            if why := self.sources.hidden_pages(backend) or renders:
                listed = [each.path for each in frontend.forwarded() if not each.is_vite_s]
                has_own_api = frontend.has_own_api
                paths = self.sources.paths_of(backend, listed=listed, has_own_api=has_own_api)
                if paths:
                    text = "# These paths, and all below them, are the backend's; all others the frontend's."
                    lines += [text, f"backend_paths = {json.dumps(paths)}"]
                next_step = "" if paths else ': list its paths, as in backend_paths = ["/api"]'
                self.reasons.append(f"proxy.backend_paths: {why}{next_step}")
        return lines

    def _frontend_paths(self, frontend: Frontend) -> list[str]:
        """The paths that have to be asked of Vite alone."""
        paths = ["/_next/"] if frontend.package == "next" else []
        texts = self.sources.below(self.root).values()
        own = {match[1] for text in texts for match in _STATIC_URL.finditer(text)}
        why = "proxy.frontend_paths:"
        if frontend.base and not frontend.has_pages and frontend.base.strip("/") not in own:
            paths.append(frontend.base)
            self.reasons.append(f"{why} {frontend.base} is the base in Vite's configuration")
        for each in frontend.forwarded():
            if each.is_vite_s:
                paths.append(each.path)
                self.reasons.append(f"{why} Vite rewrites {each.path}, or passes it on to elsewhere")
        return paths

    def _find_port(self) -> None:
        for frontend in self.frontends[:1]:
            if forwarded := frontend.forwarded():
                self.port = next((each.port for each in forwarded if each.is_vite_s and each.port), None)
            elif (found := frontend.asks_elsewhere(self.files)) is not None:
                where, port = found[0].relative_to(self.root), found[1]
                better = "paths alone, such as /api, would be asked at the one address, without CORS"
                self.remarks.append(f"{where} names http://localhost:{port}: {better}")
                self.port = port if port != DEFAULT_LISTEN[1] and self.machine.is_free(port) else None

    def _hint(self) -> None:
        """Add remarks about things that will not work, with the next step."""
        root, frontends = self.root, self.frontends
        taken = {each.folder for each in frontends} | {each.call.folder for each in frontends}
        scripts = ((each, packages.scripts_of(each)) for each in self.files if each not in taken)
        started = [(each, name) for each, names in scripts for name in _STARTING if name in names][:1]
        has_both = frontends and (self.backends or self.existing)
        for folder, name in started if not has_both else ():
            where = (folder / "package.json").relative_to(root)
            step = "names no Vite: if it is a frontend, add a line for it, and set proxy.frontend"
            if frontends:
                command = _command(Call(folder, f"{packages.manager_of(folder, root)} run {name}", ""), root)
                step = f"has a script {name}: if it is the backend, add `api: {command}`"
            self.remarks.append(f"{where} {step}")
        for folder, names in self.files.items():
            example = next((name for name in _ENV_EXAMPLES if name in names), None)
            if example is not None and not is_file(folder / ".env"):
                where = (folder / example).relative_to(root)
                self.remarks.append(f"{where} has no .env beside it: copy it, and fill it in")


def _refuse_several(calls: Sequence[Call], root: Path) -> None:
    """Raise `ConfigError` if there are several frontends, or backends, of unrelated projects.

    Projects are unrelated if their folders are repositories, or if the folder above has no file of a project.
    """
    tops = dict.fromkeys(each.folder.relative_to(root).parts[:1] for each in calls)
    folders = [root.joinpath(*each) for each in tops]
    is_one = any(os.path.lexists(root / mark) for mark in _OF_SEVERAL) or root in folders
    if len(folders) > 1 and (not is_one or all(os.path.lexists(each / ".git") for each in folders)):
        text = "several projects are in this folder: " + "; ".join(each.why for each in calls[:_MOST_NAMED])
        more = f"; and {len(calls) - _MOST_NAMED} more" if len(calls) > _MOST_NAMED else ""
        hint = f"Go to the one that is meant: cd {shlex.quote(folders[0].name)}. Or write a Procfile here."
        raise ConfigError(text + more, hint=hint)


def find_frontend(root: Path) -> str | None:
    """Give the command that starts the frontend in a folder, if there is one."""
    found = find_frontends(root, _files(root))
    return _command(found[0].call, root) if found else None


def _files(root: Path, *, home: str | None = None) -> dict[Path, list[str]]:
    """The names of the files in the folder and below it; those nearest to the top come first.

    The user's home and the root of the system contain many projects, of which none is meant: folders below
    them are searched only if they are a project themselves.
    """
    found = {}
    is_shared = str(root) in {home, root.anchor}
    for path, folders, names in os.walk(root):
        folder = Path(path)
        is_environment = folder != root and "pyvenv.cfg" in names
        if is_environment or len(folder.relative_to(root).parts) == _MAX_DEPTH:
            folders.clear()
        if is_shared and folder == root and not _PROJECT_MARKS & {*names, *folders}:
            folders.clear()
        folders[:] = [each for each in folders if each not in _SKIPPED and not each.startswith((".", "_"))]
        if not is_environment:
            found[folder] = sorted(names)
    return dict(sorted(found.items(), key=lambda each: (len(each[0].parts), each[0])))


def _command(call: Call, root: Path) -> str:
    where = call.folder.relative_to(root).as_posix()
    if not where.isprintable():
        text = f"{where!r}: the name of this folder does not fit into a Procfile"
        raise ConfigError(text, hint="Rename the folder, or write the Procfile in it.")
    where = shlex.quote(f"./{where}" if where.startswith("-") else where)
    return call.command if call.folder == root else f"cd {where} && {call.command}"


def _is_like(name: str, entry: Entry, root: Path) -> bool:
    """Whether an entry of a Procfile does the same as a line of ours."""
    reading = commands.read(entry.command, cwd=root, root=root)
    match name:
        case "vite" | "frontend":
            return bool(reading.why) or entry.name in {"vite", "frontend"}
        case "api":
            return bool(reading.serves) or entry.name in BACKEND_NAMES
        case _:
            return entry.name == name or {"worker": "celery", "redis": "redis-server"}[name] in entry.command
