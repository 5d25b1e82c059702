"""The source of a run's plan: a Procfile and settings, or a substitute for them.

For `orchestra dev` the substitute is an application and a frontend. Otherwise it is what `orchestra init`
would write; it is used only if the user has written nothing: no file with a Procfile's name, and no process
in the settings. It is computed each time, so a run follows the files as soon as they are written.

Not here: env files, options; the meaning of the files.
"""

from __future__ import annotations

from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from orchestra.config import procfile as procfiles, toml
from orchestra.config.plan import Note
from orchestra.config.schema import ProcessSettings
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.config.addresses import Machine
    from orchestra.config.files import Problems

__all__ = ["Target", "Written", "read_written"]

# The names of its two processes.
_APP, _FRONTEND = "api", "vite"


class Target(Struct, frozen=True, kw_only=True):
    """The target of `orchestra dev`; the settings in the folder count, a Procfile does not.

    Attributes:
        app: The application, as in ``app`` of the settings; ``None``: the frontend alone.
        vite: The command that starts the frontend; ``None``: it is found.
        backend_prefixes: As in the settings, which ``None`` leaves unchanged.
    """

    app: str | None
    vite: str | None = None
    backend_prefixes: tuple[str, ...] | None = None


class Written(Struct, frozen=True, kw_only=True):
    """A Procfile with its entries, and the settings.

    Attributes:
        path: The Procfile, or the settings instead of one; it may not be written yet.
        others: Further files that it will be made from when they exist, beside the settings.
    """

    path: Path
    entries: tuple[procfiles.Entry, ...] = ()
    file: toml.SettingsFile
    others: tuple[Path, ...] = ()


def read_written(
    path: Path | None,
    folder: Path,
    machine: Machine,
    problems: Problems,
    *,
    target: Target | None = None,
    wanted: Sequence[str] = (),
) -> Written:
    """Read the Procfile at `path`, by default that of `folder`, and the settings beside it; or a target.

    The error about a missing one names the processes that are `wanted`.

    Raises:
        ConfigError: There is none, and no project was found.
    """
    beside = path.parent if path is not None else folder
    file = toml.find(beside, problems)
    defines = bool(file.settings.process)
    if target is not None:
        return _targeted(target, beside, file)
    try:
        path = path or procfiles.find(beside, otherwise=file.path if defines else None, wanted=wanted)
    except ConfigError as exc:
        problems.raise_all()  # The settings that could not be read may define a process.
        return _proposed(beside, machine, file, missing=exc)
    entries = procfiles.read(path, problems, may_be_empty=defines) if path != file.path else ()
    return Written(path=path, entries=entries, file=file)


def _targeted(target: Target, folder: Path, file: toml.SettingsFile) -> Written:
    """Give the processes of a target, and those of the settings."""
    vite = target.vite
    if vite is None:
        from orchestra.config.scaffold import find_frontend  # noqa: PLC0415 - as below

        vite = find_frontend(Path(normpath(folder.absolute())))
        said = "no frontend was found" if vite is None else f"{_FRONTEND}: {vite}"
        file.notes.append(Note(said, hint="Say what starts it: --vite-command" if vite is None else ""))
    processes, proxy = dict(file.settings.process), file.settings.proxy
    for name, found in ((_FRONTEND, {"command": vite}), (_APP, {"app": target.app})):
        if any(found.values()):
            known = processes.get(name, ProcessSettings())
            processes[name] = replace(known, **{"command": None, "app": None, **found})
    proxy = replace(proxy, frontend=_FRONTEND if vite else False, backend=_APP if target.app else False)
    if target.backend_prefixes is not None:
        proxy = replace(proxy, backend_prefixes=target.backend_prefixes)
    settings = replace(file.settings, process=processes, proxy=proxy)
    return Written(path=folder / toml.OWN_FILE, file=replace(file, settings=settings))


def _proposed(folder: Path, machine: Machine, file: toml.SettingsFile, *, missing: ConfigError) -> Written:
    """Give the proposal of `orchestra init`; existing settings stay the same."""
    from orchestra.config.scaffold import look  # noqa: PLC0415 - most projects have a Procfile

    if procfiles.similar(folder):
        raise missing
    found = look(Path(normpath(folder.absolute())), machine)
    if not found.entries:
        hint = "Nothing to run was found, either: write one, with lines such as `web: python app.py`."
        raise ConfigError("; ".join([str(missing), *found.remarks[1:]]), hint=hint)
    path, production = (folder / name for name in procfiles.DEFAULT_NAMES)
    text = "there is no Procfile: this is run, as `orchestra init` would write it"
    notes = [Note(text, hint="Keep it: orchestra init")]
    notes += [Note(f"{each.name}: {each.command}") for each in found.entries]
    if found.settings:
        notes.append(Note(f"{toml.OWN_FILE}: {found.settings_in_a_line}"))
        if file.path is None:
            settings = toml.parse(found.settings, folder / toml.OWN_FILE, file.problems)
            # No message names a file that does not exist.
            file = replace(settings or file, path=None, text="")
    file.notes.extend([*notes, *map(Note, found.remarks)])
    entries = procfiles.parse(found.files[path.name], path, file.problems)
    return Written(path=path, entries=entries, file=file, others=(production,))
