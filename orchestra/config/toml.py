"""``orchestra.toml``, or ``[tool.orchestra]`` of ``pyproject.toml`` -> the structs of `schema`.

msgspec validates, and stops at the first error. So the wrong key is taken out and the table decoded again,
until it is valid: all errors are reported at once. Each error gets the file, the line of the key, and a hint:
the key's documentation, or the nearest known key. A misspelt setting is an error, because ignoring it would
be worse.

`tomllib` does not report the positions of keys. The line is found afterwards by a text search, and left out
of the message if it is not certain.

Not here: which settings there are (`schema`), what follows from them (`load`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import Struct, field, structs

from orchestra.config.files import Problems, read_text
from orchestra.config.keys import ACTIONS, bindings
from orchestra.config.plan import Note
from orchestra.config.schema import (
    CONSTANTS,
    DashboardSettings,
    ProcessSettings,
    ProxySettings,
    Settings,
    documented,
)
from orchestra.errors import ConfigError
from orchestra.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["SettingsFile", "decode", "did_you_mean", "find", "nearest", "parse", "there_are"]

OWN_FILE = "orchestra.toml"
SHARED_FILE = "pyproject.toml"

_TABLES = {each.name: each.type for each in structs.fields(Settings) if each.name != "process"}
_HEADER = regex(r"\s*\[+([^\[\]]+)\]")
_PART = r"""(?:"[^"]*"|'[^']*'|[\w-]+)"""
_KEY = regex(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=")

_T = TypeVar("_T")


class SettingsFile(Struct, frozen=True, kw_only=True):
    """Settings, their positions, and the problems that messages about them are added to.

    Attributes:
        path: The file; ``None`` if there is none, or it has no settings of orchestra.
        above: The tables that ours are in: ``("tool", "orchestra")`` in ``pyproject.toml``.
        notes: Keys that have no effect any more, and what was found in place of what is not written.
        refused: The keys of errors.
    """

    settings: Settings = Settings()
    path: Path | None = None
    above: tuple[str, ...] = ()
    text: str = ""
    notes: list[Note] = field(default_factory=list)
    problems: Problems = field(default_factory=Problems)
    refused: set[tuple[str, ...]] = field(default_factory=set)

    def line(self, *keys: str) -> int | None:
        """Find the line of a table or key such as ``("proxy", "listen")``; ``None`` if it is not certain.

        A table without a header of its own begins where the first of its keys does.
        """
        lines, wanted = _lines(self.text), (*self.above, *keys)
        within = (line for key, line in lines.items() if line and key[: len(wanted)] == wanted)
        return lines[wanted] if wanted in lines else min(within, default=None)

    def error(self, keys: tuple[str, ...], message: str, *, hint: str, place: str = "") -> ConfigError:
        """Make an error about the key at `keys`, or about a part of its value (at the `place` ``[1]``)."""
        where = ".".join(
            key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else repr(key) for key in (*self.above, *keys)
        )
        # A key in an inline table has no line of its own.
        lines = (self.line(*keys[:count]) for count in range(len(keys), 0, -1) or (0,))
        line = next(filter(None, lines), None)
        text = f"{where}{place}: {message}" if where else message
        return ConfigError(text, path=self.path, line=line, hint=hint)

    def refuse(self, keys: tuple[str, ...], message: str, *, hint: str, place: str = "") -> None:
        """Add such an error to the problems."""
        self.problems.add(self.error(keys, message, hint=hint, place=place))
        self.refused.add(keys)


def find(root: Path, problems: Problems) -> SettingsFile:
    """Read the settings in `root`; all defaults if there are none."""
    own = _read(root / OWN_FILE, problems)
    shared = _read(root / SHARED_FILE, problems, above=("tool", "orchestra"))
    if own is not None and shared is not None:
        text = f"settings are in {OWN_FILE} and in [tool.orchestra] of {SHARED_FILE}"
        hint = "Keep one of the two, and move everything there."
        problems.add(ConfigError(text, path=own.path, hint=hint))
    return own or shared or SettingsFile(problems=problems)


def parse(text: str, path: Path, problems: Problems, *, above: tuple[str, ...] = ()) -> SettingsFile | None:
    """Parse the text of a settings file; errors are added to `problems`.

    ``None``: the tables that ours are in, `above`, do not exist. `ConfigError`: it is not TOML.
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
    return decode(table, SettingsFile(path=path, above=above, text=text, problems=problems))


def decode(value: object, file: SettingsFile) -> SettingsFile:
    """Decode `value`, the table that all others are in, into the settings of `file`."""
    tables = _table((), value, dict, file)
    found = {name: _table((name,), tables.pop(name, {}), kind, file) for name, kind in _TABLES.items()}
    processes = {}
    for name, each in _table(("process",), tables.pop("process", {}), dict, file).items():
        table = _table(("process", name), each, ProcessSettings, file)
        if isinstance(each, dict):
            processes[name] = table
    _table((), tables, Settings, file)  # Keys that are left in the table are unknown.
    settings = Settings(**found, process=processes)
    _check_keys(settings.dashboard.keys, file)
    return structs.replace(file, settings=settings)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the one of `known` that `word` most probably means."""
    import difflib  # noqa: PLC0415 - only mistakes need it

    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Suggest the most probable name, and list all."""
    near = nearest(name, names)
    return f"Did you mean {near}? {there_are(names)}" if near else there_are(names)


def there_are(names: Sequence[str]) -> str:
    """List all known names."""
    return f"There {'is only' if len(names) == 1 else 'are'} {', '.join(names)}."


def _table(keys: tuple[str, ...], value: object, kind: type[_T], file: SettingsFile) -> _T:
    """Decode one table: a wrong value is reported, and replaced by its default."""
    if isinstance(value, dict):
        value = dict(value)
    while True:
        try:
            return msgspec.convert(value, kind, dec_hook=_custom)
        except msgspec.ValidationError as exc:
            message, key, place = _understood(str(exc))
            if not isinstance(value, dict) or key not in value:
                header = ".".join((*file.above, *keys, *(["NAME"] if keys == ("process",) else [])))
                file.refuse(keys, message, hint=f"Write a table: [{header}].")
                return kind()
            if kind is ProxySettings and key in CONSTANTS:
                text = f"has no effect: it is always {CONSTANTS[key]}"
                error = file.error((*keys, key), text, hint="Delete it.")
                file.notes.append(Note(str(error), hint=error.hint, level="warning"))
            else:
                if "matching regex" in message:  # the hint says which form it has
                    at = re.fullmatch(r"\[(\d+)\]", place)
                    message = f"{(value[key][int(at[1])] if at else value[key])!r} does not fit"
                file.refuse((*keys, key), message, hint=_hint(key, kind), place=place)
            del value[key]


def _check_keys(keys: Mapping[str, str], file: SettingsFile) -> None:
    """Report each action that does not exist, and each key that does not, or that another action has."""
    good: dict[str, str] = {}
    for action, given in keys.items():
        try:
            bindings({**good, action: given})
        except ValueError as exc:
            is_known = action in ACTIONS
            hint = _hint("keys", DashboardSettings) if is_known else did_you_mean(action, [*ACTIONS])
            file.refuse(("dashboard", "keys", action), str(exc), hint=hint)
        else:
            good[action] = given


def _custom(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected `str`, got `{type(value).__name__}`")


def _understood(message: str) -> tuple[str, str, str]:
    """Split msgspec's message: ``Expected `int` - at `$.key[0]` `` -> text, key, the rest of the path."""
    key = place = ""
    if found := re.fullmatch(r"(.*) - at `\$\.(\w+)([^`]*)`", message, re.DOTALL):
        message, key, place = found[1], found[2], found[3].replace("[...]", "")
    if unknown := re.fullmatch(r"Object contains unknown field `(.*)`", message, re.DOTALL):
        return "no such setting", key or unknown[1], f"{place}.{unknown[1]}" if key else ""
    return message, key, place


def _hint(key: str, kind: type) -> str:
    known = documented(kind)
    if key in known:
        return f"{key}: {known[key].text} (default: {known[key].default})."
    near = nearest(key, known)
    return f"Did you mean {near}?" if near else f"Known are: {', '.join(known)}."


def _read(path: Path, problems: Problems, *, above: tuple[str, ...] = ()) -> SettingsFile | None:
    with problems.caught():
        text = read_text(path, "a settings file", if_folder="Give it another name.")
        return None if text is None else parse(text, path, problems, above=above)
    return None


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


def _lines(text: str) -> dict[tuple[str, ...], int | None]:
    """Find the lines of all headers and keys; `None` for one that seems to occur twice, in a string say."""
    found: dict[tuple[str, ...], int | None] = {}
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := _HEADER.match(line):
            keys = table = _parts(header[1])
        elif key := _KEY.match(line):
            keys = (*table, *_parts(key[1]))
        else:
            continue
        found[keys] = None if keys in found else number
    return found


def _parts(dotted: str) -> tuple[str, ...]:
    """Split a key such as ``process."web".port``."""
    return tuple(part.strip("\"'") for part in re.findall(r""""[^"]*"|'[^']*'|[^.\s]+""", dotted))
