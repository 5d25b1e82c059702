"""``orchestra.toml``, or ``[tool.orchestra]`` of ``pyproject.toml`` -> the structs of `schema`.

msgspec decides what fits and says what does not. It stops at the first thing, so the key at fault is taken
out and the table decoded again, until it fits: everything that is wrong is told at once. Each error is
completed by the file, the line of the key, and a hint: the key's documentation, or the nearest known key. A
setting that is misspelt and ignored would be worse than none.

TOML is read by `tomllib`, which does not tell where keys stand. Their line is found afterwards by their text,
and left out of a message where it is not certain.

Not here: which settings there are (`schema`), what follows from them (`load`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct

from orchestra.config.files import read_text
from orchestra.config.plan import Note
from orchestra.config.schema import (
    CONSTANTS,
    ProcessSettings,
    ProxySettings,
    RunSettings,
    Settings,
    documented,
)
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.config.files import Problems

__all__ = ["SettingsFile", "find", "nearest", "parse"]

OWN_FILE = "orchestra.toml"
SHARED_FILE = "pyproject.toml"

_T = TypeVar("_T", bound=msgspec.Struct)


class SettingsFile(Struct, frozen=True, kw_only=True):
    """Settings, and where they stand.

    Attributes:
        settings: What was set, and the defaults.
        path: The file; ``None`` if there is none, or it says nothing about orchestra.
        above: The tables that ours are in: ``("tool", "orchestra")`` in ``pyproject.toml``.
        text: The file's text, to find lines in.
        notes: Keys that have no effect any more.
    """

    settings: Settings
    path: Path | None = None
    above: tuple[str, ...] = ()
    text: str = ""
    notes: tuple[Note, ...] = ()

    def line(self, *keys: str) -> int | None:
        """Find the line of a table or key such as ``("proxy", "listen")``; ``None`` if it is not certain."""
        return _line_of(self.text, (*self.above, *keys))

    def error(self, keys: tuple[str, ...], message: str, *, hint: str) -> ConfigError:
        """Make an error about the key at `keys`: file, line, key path, then `message`."""
        return _error(self.path, self.text, (*self.above, *keys), message, hint=hint)


def find(root: Path, problems: Problems) -> SettingsFile:
    """Read the settings in `root`; all defaults if there are none."""
    own = shared = None
    with problems.caught():
        own = _read(root / OWN_FILE, (), problems)
    with problems.caught():
        shared = _read(root / SHARED_FILE, ("tool", "orchestra"), problems)
    if own is not None and shared is not None:
        problems.add(
            ConfigError(
                f"settings are in {OWN_FILE} and in [tool.orchestra] of {SHARED_FILE}",
                path=root / OWN_FILE,
                hint="Keep one of the two, and move everything there.",
            )
        )
    return own or shared or SettingsFile(settings=Settings())


def parse(text: str, path: Path, problems: Problems, *, above: tuple[str, ...] = ()) -> SettingsFile | None:
    """Parse the text of a settings file.

    Args:
        text: The whole file.
        path: For messages.
        problems: Is told what does not fit.
        above: The tables that ours are in.

    Returns:
        ``None`` if those tables are not there.

    Raises:
        ConfigError: It is not TOML.
    """
    import tomllib  # noqa: PLC0415 - most projects have no settings

    try:
        table: object = tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as exc:
        raise _invalid_toml(path, text, exc) from exc
    for key in above:
        if not isinstance(table, dict) or key not in table:
            return None
        table = table[key]
    settings, notes = Decoder(path, text, above, problems).settings(table)
    return SettingsFile(settings=settings, path=path, above=above, text=text, notes=notes)


class Decoder(Struct, frozen=True):
    """Decodes the tables of one file, and reports what does not fit."""

    path: Path
    text: str
    above: tuple[str, ...]
    problems: Problems

    def settings(self, value: object) -> tuple[Settings, tuple[Note, ...]]:
        tables = dict(value) if isinstance(value, dict) else {}
        run = self.table(("run",), tables.pop("run", {}), RunSettings)
        proxy = self.table(("proxy",), tables.pop("proxy", {}), ProxySettings)
        processes = tables.pop("process", {})
        if not isinstance(processes, dict):
            self.table(("process",), processes, ProcessSettings)  # says what is wrong
            processes = {}
        by_name = {
            name: self.table(("process", name), each, ProcessSettings) for name, each in processes.items()
        }
        by_name = {name: each for name, each in by_name.items() if isinstance(processes[name], dict)}
        # What is left of the tables is unknown, or the value is not a table at all.
        self.table((), tables if isinstance(value, dict) else value, Settings)
        constants = value.get("proxy", {}) if isinstance(value, dict) else {}
        notes = [self.constant(key) for key in CONSTANTS if isinstance(constants, dict) and key in constants]
        return Settings(run=run, proxy=proxy, process=by_name), tuple(notes)

    def table(self, keys: tuple[str, ...], value: object, kind: type[_T]) -> _T:
        """Decode one table: what does not fit is reported, and has its default."""
        if isinstance(value, dict):
            value = {key: each for key, each in value.items() if keys != ("proxy",) or key not in CONSTANTS}
        while True:
            try:
                return msgspec.convert(value, kind, dec_hook=_custom)
            except msgspec.ValidationError as exc:
                message, key, place = _understood(str(exc))
                if not isinstance(value, dict) or key not in value:
                    header = ".".join((*self.above, *keys, *(["NAME"] if keys == ("process",) else [])))
                    self.report(keys, message, f"Write a table: [{header}].")
                    return kind()
                self.report((*keys, key), message, _hint(key, kind), place)
                del value[key]

    def report(self, keys: tuple[str, ...], message: str, hint: str, place: str = "") -> None:
        self.problems.add(_error(self.path, self.text, (*self.above, *keys), message, hint=hint, place=place))

    def constant(self, key: str) -> Note:
        keys = (*self.above, "proxy", key)
        text = str(_error(self.path, self.text, keys, f"has no effect: it is always {CONSTANTS[key]}"))
        return Note(text, hint="Delete it.", level="warning")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the one of `known` that `word` was probably meant to be."""
    import difflib  # noqa: PLC0415 - only mistakes need it

    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def _custom(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected `str`, got `{type(value).__name__}`")


def _understood(message: str) -> tuple[str, str, str]:
    """Split what msgspec says: ``Expected `int` - at `$.key[0]` `` -> text, key, what follows."""
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message, re.DOTALL):
        return "no such setting", unknown[1], ""
    if found := re.fullmatch(r"(.*) - at `\$\.(\w+)([^`]*)`", message, re.DOTALL):
        return found[1], found[2], found[3].replace("[...]", "")
    return message, "", ""


def _hint(key: str, kind: type[msgspec.Struct]) -> str:
    known = documented(kind)
    if key in known:
        return f"{key}: {known[key].text} (default: {known[key].default})."
    near = nearest(key, known)
    return f"Did you mean {near}?" if near else f"Known are: {', '.join(known)}."


def _read(path: Path, above: tuple[str, ...], problems: Problems) -> SettingsFile | None:
    try:
        text = read_text(path)
    except FileNotFoundError:
        return None
    except IsADirectoryError as exc:
        raise ConfigError("a folder, not a settings file", path=path, hint="Give it another name.") from exc
    return parse(text, path, problems, above=above)


def _invalid_toml(path: Path, text: str, exc: Exception) -> ConfigError:
    message, line = str(exc), None
    if isinstance(exc, RecursionError):
        message = "nested too deeply"
    elif place := re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z", message):
        message = message[: place.start()]
        line = int(place[1]) if place[1] else text.count("\n") + 1
        message += f" (column {place[2]})" if place[2] else " (at the end of the file)"
    return ConfigError(
        f"invalid TOML: {message}", path=path, line=line, hint="Correct it: https://toml.io says how."
    )


def _error(
    path: Path | None, text: str, keys: tuple[str, ...], message: str, *, hint: str = "", place: str = ""
) -> ConfigError:
    where = ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else repr(key) for key in keys) + place
    line = _line_of(text, keys) or (_line_of(text, keys[:-1]) if "env" in keys else None)
    return ConfigError(f"{where}: {message}" if where else message, path=path, line=line, hint=hint)


def _line_of(text: str, keys: tuple[str, ...]) -> int | None:
    """Find the line of a header ``[a.b]``, or of ``c = `` below it; only if there is exactly one."""
    lines = text.split("\n")

    def header(wanted: tuple[str, ...]) -> int | None:
        quoted = r"\s*\.\s*".join(rf"[\"']?{re.escape(key)}[\"']?" for key in wanted)
        pattern = re.compile(rf"\s*\[\s*{quoted}\s*\]")
        found = [number for number, line in enumerate(lines) if pattern.match(line)]
        return found[0] if len(found) == 1 else None

    if not keys:
        return None
    if (number := header(keys)) is not None:
        return number + 1
    start = -1 if len(keys) == 1 else header(keys[:-1])
    if start is None:
        return None
    pattern = re.compile(rf"\s*[\"']?{re.escape(keys[-1])}[\"']?\s*[.=]")
    found = []
    for number in range(start + 1, len(lines)):
        if re.match(r"\s*\[", lines[number]):
            break
        if pattern.match(lines[number]):
            found.append(number)
    return found[0] + 1 if len(found) == 1 else None
