"""What a run is made from: a Procfile and settings, or what `orchestra init` would write in their place.

The latter is taken only where there is nothing that the user has written: no file that is called like a
Procfile, and no process in the settings. It is found anew each time, so a run that goes on follows the files
when they are written.

Not here: env files, options; what any of it means.
"""

from __future__ import annotations

from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra.config import procfile as procfiles, toml
from orchestra.config.plan import Note
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from orchestra.config.addresses import Machine
    from orchestra.config.files import Problems

__all__ = ["Written", "read_written"]


class Written(Struct, frozen=True, kw_only=True):
    """A Procfile and settings.

    Attributes:
        path: The Procfile, or the settings in place of one; it may have to be written yet.
        entries: Its processes.
        file: The settings.
        others: The other files that it is made from, or will be when they are there.
        notes: What the user should know about them.
    """

    path: Path
    entries: tuple[procfiles.Entry, ...] = ()
    file: toml.SettingsFile
    others: tuple[Path, ...]
    notes: tuple[Note, ...] = ()


def read_written(path: Path | None, folder: Path, machine: Machine, problems: Problems) -> Written:
    """Read the Procfile at `path`, by default that of `folder`, and the settings beside it.

    Raises:
        ConfigError: There is none, and nothing that could be run.
    """
    beside = path.parent if path is not None else folder
    file = toml.find(beside, problems)
    defines = bool(file.settings.process)
    others = tuple(beside / name for name in (toml.OWN_FILE, toml.SHARED_FILE))
    try:
        path = path or procfiles.find(beside, otherwise=file.path if defines else None)
    except ConfigError as exc:
        problems.raise_all()  # the settings that could not be read may define a process
        return _proposed(beside, machine, file, others, missing=exc)
    entries = procfiles.read(path, problems, may_be_empty=defines) if path != file.path else ()
    return Written(path=path, entries=entries, file=file, others=others, notes=tuple(file.notes))


def _proposed(
    folder: Path, machine: Machine, file: toml.SettingsFile, others: tuple[Path, ...], *, missing: ConfigError
) -> Written:
    """Give what `orchestra init` would write; settings that there are stay as they are."""
    from orchestra.config.scaffold import look  # noqa: PLC0415 - most projects have a Procfile

    if procfiles.similar(folder):
        raise missing
    found = look(Path(normpath(folder.absolute())), machine)
    if not found.entries:
        hint = "Nothing to run was found, either: write one, with lines such as `web: python app.py`."
        raise ConfigError(str(missing), hint=hint)
    path, production = (folder / name for name in procfiles.DEFAULT_NAMES)
    text = "there is no Procfile: this is run, as `orchestra init` would write it"
    notes = [*file.notes, Note(text, hint="Keep it: orchestra init")]
    notes += [Note(f"{each.name}: {each.command}") for each in found.entries]
    if found.settings:
        notes.append(Note(f"{toml.OWN_FILE}: {found.settings_in_a_line}"))
        if file.path is None:
            file = toml.parse(found.settings, folder / toml.OWN_FILE, file.problems) or file
    return Written(
        path=path,
        entries=procfiles.parse(found.files[path.name], path, file.problems),
        file=file,
        others=(*others, production),
        notes=(*notes, *(Note(each) for each in found.remarks)),
    )
