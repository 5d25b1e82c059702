"""``orchestra export KIND DIR``: reads a plan, has it rendered, and writes the files into a folder.

A file that begins with our first line is replaced, and removed if it is not needed any more; other files are
never touched.

Not here: the contents of the files.
"""

from __future__ import annotations

import os
import pwd
import re
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra import config
from orchestra.config import Machine, environment
from orchestra.config.files import Problems, read_text
from orchestra.errors import ConfigError
from orchestra.export.containers import compose, kubernetes
from orchestra.export.services import services_of
from orchestra.export.units import supervisord, systemd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.config import Overrides
    from orchestra.config.plan import Plan, UpstreamPlan
    from orchestra.export.services import Service

__all__ = ["ENGINES", "Target", "export"]

ENGINES = ("systemd", "supervisord", "compose", "kubernetes")
# Variables of this machine's environment that commands need on another machine, too.
_SYSTEM = ("PATH", "HOME", "LANG")


# Lines of an env file that an engine does not read as a run does; the compose tools do.
_OTHERWISE = {
    "systemd": re.compile(r"^\s*export\s|\$\{", re.MULTILINE),
    "supervisord": re.compile(r"""^[^#=\n]*=[ \t]*[^"'\s#][^"'#\n]*[\s;&|<>()]\S""", re.MULTILINE),
    "kubernetes": re.compile(r"""^\s*export\s|\$\{|^[^#=\n]*=\s*["']""", re.MULTILINE),
}


class Target(Struct, frozen=True, kw_only=True):
    """The name, user and folder of an export.

    Attributes:
        name: The base of the names of files, units and objects.
        user: The user of the processes; empty: the engine's own choice.
        has_build: Whether the project has a file that builds the image.
        env_names: The variables in the env files that there are.
        address: Host and port of the proxy in a run.
        remarks: Comments at the top.
    """

    name: str
    folder: Path
    root: Path
    user: str
    image: str
    has_build: bool
    env_files: tuple[Path, ...]
    env_names: frozenset[str]
    address: tuple[str, int]
    backend: UpstreamPlan
    remarks: tuple[str, ...]

    @property
    def label(self) -> str:
        """The name in the form that compose and Kubernetes accept."""
        return re.sub("[^a-z0-9]+", "-", self.name.lower()).strip("-") or "app"


def export(
    kind: str,
    folder: Path,
    procfile: str | None,
    *,
    environ: Mapping[str, str],
    only: Sequence[str] = (),
    left_out: Sequence[str] = (),
    overrides: Overrides,
    user: str | None = None,
    name: str | None = None,
    image: str | None = None,
) -> tuple[list[Path], list[str]]:
    """Write the files for an engine, one of `ENGINES`, into a folder, which is made if it does not exist.

    Processes named in `only` are exported in any case. They run as this `user`; ``None`` is the current one
    for systemd, otherwise the engine's own choice. Files, units, objects and the image are called after
    `name`, by default the project's folder.

    Returns:
        The written files, and messages for the user.

    Raises:
        OrchestraError: The plan is not valid, or a file in the way is not ours.
    """
    if kind == "kubernetes" and user is not None and not user.isdecimal():
        raise ConfigError(f"--user {user}: Kubernetes takes a number", hint="`id -u NAME` gives it.")
    system = {each: environ[each] for each in _SYSTEM if each in environ}
    plan = config.load(procfile, Machine(environ=system), only=only, left_out=left_out, overrides=overrides)
    env_files = tuple(each for each in plan.env_files if each.is_file())
    merged = environment.merge(system, [(file, True) for file in env_files], Problems())
    env_file = {each: text for each, text in merged.items() if text != system.get(each)}
    services, gone = services_of(plan, asked=only, system=system, env_file=env_file)
    if not services:
        raise ConfigError("there is nothing to export: Vite's development server is not for production")
    called = re.sub(r"[^A-Za-z0-9_.-]+", "-", name or plan.root.name).strip("-._") or "app"
    target = Target(
        name=called,
        folder=folder.absolute(),
        root=plan.root,
        user=(pwd.getpwuid(os.getuid()).pw_name if kind == "systemd" else "") if user is None else user,
        image=image or called.lower(),
        has_build=any((plan.root / each).is_file() for each in ("Dockerfile", "Containerfile")),
        env_files=env_files,
        env_names=frozenset(env_file),
        address=("127.0.0.1", 8000) if plan.proxy is None else (plan.proxy.host, plan.proxy.port),
        backend=None if plan.proxy is None else plan.proxy.backend,
        remarks=tuple(_remarks(plan, kind, gone, env_files)),
    )
    warnings = [str(each) for each in plan.notes if each.level == "warning"]
    notes = [f"{service.name}: {note}" for service in services for note in service.notes]
    return _write(_RENDERERS[kind](services, target), folder, kind), [*warnings, *target.remarks, *notes]


def _remarks(plan: Plan, kind: str, gone: Sequence[str], env_files: Sequence[Path]) -> Iterator[str]:
    for each in gone:
        yield f"{each} is left out: it is Vite's development server; build its files instead."
    if plan.proxy is not None:
        yield "There is no proxy: a web server has to ask the backend, and serve the frontend's files."
    yield from _differences(kind, env_files)
    for file in plan.env_files:
        if file.exists() and file not in env_files:
            yield f"{file} is not a file: tell the engine what is in it."


def _differences(kind: str, env_files: Sequence[Path]) -> Iterator[str]:
    if (otherwise := _OTHERWISE.get(kind)) is None:
        return
    for file in env_files:
        text = read_text(file, "an env file") or ""
        for line in sorted({text.count("\n", 0, found.end()) + 1 for found in otherwise.finditer(text)}):
            yield f"{file}:{line}: {kind} reads this line in another way; write NAME=value alone."


_RENDERERS: Mapping[str, Callable[[Sequence[Service], Target], dict[str, str]]] = {
    "systemd": systemd,
    "supervisord": supervisord,
    "compose": compose,
    "kubernetes": kubernetes,
}


def _write(files: Mapping[str, str], folder: Path, kind: str) -> list[Path]:
    first = f"# Written by `orchestra export {kind}`, and replaced by it.\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        ours = [each for each in folder.iterdir() if _begins(each, first)]
        for each in (folder / name for name in files):
            if os.path.lexists(each) and each not in ours:
                hint = "Move it away, or export into another folder."
                raise ConfigError(
                    "it is there already, and was not written by this command", path=each, hint=hint
                )
        for each in ours:
            each.unlink()
        for name, text in files.items():
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
                file.write(first + text)
    except OSError as exc:
        raise ConfigError(
            f"cannot be written: {exc.strerror}", path=exc.filename or folder, hint="Choose another folder."
        ) from exc
    return [folder / name for name in files]


def _begins(path: Path, line: str) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(line)) == line.encode()
