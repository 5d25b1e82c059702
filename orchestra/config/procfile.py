r"""The text of a Procfile -> its entries, and an error for every line that is not one.

The grammar is small: ``name: command``, comments and empty lines. Everything else is an error that names
line, column, cause and fix: a runner that skips what it does not understand silently starts half of a
project. Lines end at ``\n`` or ``\r\n`` and nowhere else: a form feed or U+2028 is part of a command.

Not here: what a command means, whether it can be run.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra.config.files import Problems, is_file, read_text
from orchestra.errors import ConfigError
from orchestra.folders import current_folder
from orchestra.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path


__all__ = ["DEFAULT_NAMES", "Entry", "find", "is_name", "parse", "read", "render", "similar"]

# The first one that exists is taken: a plain Procfile is often the one of production.
DEFAULT_NAMES = ("Procfile.dev", "Procfile")

_BLANKS = " \t\r"
_NAME = regex(r"[A-Za-z0-9_-]+")
_NOT_NAME = regex(r"[^A-Za-z0-9_-]")
_ASSIGNMENT = regex(r"(?:export[ \t]+)?[A-Za-z_][A-Za-z0-9_]*=")
_NAME_RULE = "Names are made of letters, digits, _ and -"


class Entry(Struct, frozen=True):
    """One entry of a Procfile: a name, ``[A-Za-z0-9_-]+``, and a command, never empty, always one line."""

    name: str
    command: str
    line: int


def find(folder: Path, *, otherwise: Path | None = None, wanted: Sequence[str] = ()) -> Path:
    """Find the default Procfile of `folder`: ``Procfile.dev``, otherwise ``Procfile``, otherwise `otherwise`.

    Without one, the `ConfigError` repeats the processes that are `wanted`, of which one may have been meant
    as a file, and its hint names similar files in the folder.
    """
    for name in DEFAULT_NAMES:
        path = folder / name
        if os.path.lexists(path):
            return path
    if otherwise is not None:
        return otherwise
    with_them = f" with {', '.join(wanted)}" if wanted else ""
    text = f"no Procfile{with_them} in {current_folder() / folder}: looked for {' and '.join(DEFAULT_NAMES)}"
    example = "Run `orchestra init`, or write one with lines such as `web: python app.py`."
    raise ConfigError(text, hint=similar(folder) or example)


def read(path: Path, problems: Problems, *, may_be_empty: bool = False) -> tuple[Entry, ...]:
    """Read and parse a Procfile; errors of the file and its lines are added to `problems`."""
    inside = next((name for name in DEFAULT_NAMES if is_file(path / name)), None)
    hint = f"Name the file: {path / inside}" if inside else "Name a file in it."
    with problems.caught():
        text = read_text(path, "a Procfile", if_folder=hint)
        if text is not None:
            return parse(text, path, problems, may_be_empty=may_be_empty)
        if path.is_symlink():
            raise ConfigError("a link to nothing", path=path, hint="Remove it, or correct where it leads.")
        hint = similar(path.parent) or "Check the path of the Procfile."
        raise ConfigError("no such file", path=path, hint=hint)
    return ()


def parse(text: str, path: Path, problems: Problems, *, may_be_empty: bool = False) -> tuple[Entry, ...]:
    """Parse the text of a Procfile; errors of its lines are added to `problems`."""
    entries: dict[str, Entry] = {}
    is_empty, is_continued = True, False
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = raw.rstrip(_BLANKS)
        if not line or line.lstrip(_BLANKS).startswith("#"):
            continue
        is_empty, was_continued = False, is_continued
        is_continued = _ends_in_backslash(line)
        if was_continued:
            continue  # reported for the line before
        with problems.caught():
            entry = _entry(line, path, number)
            first = entries.setdefault(entry.name, entry).line
            if first != number:
                text = f"{entry.name} is already defined on line {first}"
                hint = f"Give one of the two another name, or delete line {first} or {number}."
                raise ConfigError(text, path=path, line=number, hint=hint)
    if is_empty and not may_be_empty:
        hint = "Add a line such as `web: python app.py`."
        problems.add(ConfigError("no entries: nothing to run", path=path, hint=hint))
    return tuple(entries.values())


def render(entries: Iterable[Entry]) -> str:
    """Write entries as the text of a Procfile, one a line."""
    return "".join(f"{entry.name}: {entry.command}\n" for entry in entries)


def is_name(name: str) -> bool:
    """Whether `name` may be the name of a process."""
    return _NAME.fullmatch(name) is not None


def _entry(line: str, path: Path, number: int) -> Entry:
    """Parse one line that is neither empty nor a comment; it has no blanks at its end."""

    def wrong(message: str, hint: str) -> ConfigError:
        return ConfigError(message, path=path, line=number, hint=hint)

    written, colon, command = line.partition(":")
    name, command = written.strip(_BLANKS), command.strip(_BLANKS)
    if _ASSIGNMENT.match(line):
        variable = line.partition("=")[0]  # without its value, which may be a secret
        text = f"{_quoted(variable)} is a variable, not an entry"
        raise wrong(text, "Put it into a file .env beside this.")
    if not colon:
        first, _, rest = name.partition(" ")
        example = f"{first}: {rest.strip(_BLANKS)}" if is_name(first) and rest else "web: python app.py"
        column = line.index(first) + len(first) + 1
        text = f"there is no colon after the name (column {column}): {_quoted(line)}"
        raise wrong(text, f"Write `{_shortened(example)}`.")
    if not name:
        raise wrong("no name before the colon (column 1)", f"{_NAME_RULE}: `web: {_shortened(command)}`.")
    if written[0] in _BLANKS:
        text = f"the entry {_quoted(name)} is indented (column {written.index(name) + 1})"
        raise wrong(text, "Begin it in column 1; if it continues the line above, make the two one line.")
    if written != name and is_name(name):
        text = f"a blank before the colon (column {len(name) + 1})"
        raise wrong(text, f"Write `{name}: {_shortened(command)}`.")
    if bad := _NOT_NAME.search(written):
        character = {" ": "a blank", "\t": "a tab"}.get(bad[0], repr(bad[0]))
        text = f"{_quoted(written)} is not allowed as a name: {character} in column {bad.start() + 1}"
        raise wrong(text, f"{_NAME_RULE}, such as {_shortened(_NOT_NAME.sub('-', name))}.")
    if not command:
        text = f"{name} has no command (column {len(line) + 1})"
        raise wrong(text, f"Write one after the colon, or delete line {number}.")
    if "\0" in command:
        text = f"{name}: a NUL character in column {line.index(chr(0)) + 1}"
        raise wrong(text, "Delete it: no command can contain one.")
    if _ends_in_backslash(command):
        where = f"a backslash at the end of the line (column {len(line)})"
        hint = "Write the command on one line, or put it into a script."
        raise wrong(f"{name}: {where}, but an entry is one line", hint)
    return Entry(name, command, number)


def _ends_in_backslash(line: str) -> bool:
    """Whether a shell would continue reading in the next line."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def similar(folder: Path) -> str:
    """Name the files of a folder whose names resemble a Procfile's; empty if there are none."""
    try:
        names = sorted(each.name for each in folder.iterdir() if each.name.lower().startswith("procfile"))
    except OSError:
        return f"The folder {folder} cannot be read or does not exist."
    return f"There is {' and '.join(names)} in that folder: name it on the command line." if names else ""


def _quoted(text: str) -> str:
    return repr(_shortened(text))


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."
