"""Settings: ``orchestra.toml``, or ``[tool.orchestra]`` of ``pyproject.toml`` -> frozen, validated tables.

The structs below are the specification: each key has its type, its range, its default and, in `description`,
what a person should write there; that text is the "expected" of every error message. An unknown key is an
error with the nearest known one: a setting that is misspelled and ignored is worse than none.

A default that depends on something else (the Procfile, discovery) is `None` here and decided in `load`.

TOML itself is read by `tomllib`, which counts lines. For keys, the line is found afterwards by their text,
and left out of a message where that is not certain.

Never here: which processes there are, what a plan looks like.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_type_hints

import msgspec
from msgspec import Meta, Struct, field

from orchestra.config.faults import Faults
from orchestra.config.plan import Restart
from orchestra.config.procfile import read_text
from orchestra.config.readiness import FORMS
from orchestra.errors import ConfigError

__all__ = [
    "Loaded",
    "ProcessSettings",
    "ProxySettings",
    "ReloadSettings",
    "RunSettings",
    "Settings",
    "find",
    "from_table",
    "nearest",
    "parse",
]

OWN_FILE = "orchestra.toml"
SHARED_FILE = "pyproject.toml"

# What can be written down already, and is said to have no effect yet.
_NOT_YET = frozenset({"watch", "ignore", "before_restart"})

_Output = Annotated[
    Literal["auto", "dashboard", "plain", "json"], Meta(description='"auto", "dashboard", "plain" or "json"')
]
_YesNo = Annotated[bool, Meta(description="true or false")]
_Text = Annotated[str, Meta(description="a string")]
# So many that nobody waits for them, and few enough for every timer.
_LONGEST = 1e9
_Seconds = Annotated[float, Meta(ge=0, le=_LONGEST, description="a number of seconds, 0 or more")]
_SomeSeconds = Annotated[float, Meta(gt=0, le=_LONGEST, description="a number of seconds, more than 0")]
_Port = Annotated[int, Meta(ge=0, le=65535, description="a port from 1 to 65535, or 0 for any")]
_BasePort = Annotated[int, Meta(ge=1, le=65535, description="a port from 1 to 65535")]
_MOST = 2**31 - 1
_Count = Annotated[int, Meta(ge=0, le=_MOST, description="a whole number, 0 or more")]
_AtLeastOne = Annotated[int, Meta(ge=1, le=_MOST, description="a whole number, 1 or more")]
# Below this, no browser's request fits.
_HeadBytes = Annotated[int, Meta(ge=1024, le=_MOST, description="a number of bytes, 1024 or more")]
_Upstream = Annotated[
    str | bool,
    Meta(description='the name of a process, a URL such as "http://127.0.0.1:5173", or false'),
]
_UrlPath = Annotated[str, Meta(pattern=r"^/[^\s?#]*\Z")]
_Host = Annotated[str, Meta(pattern=r"^[^\s/:]+\Z|^\[[0-9a-fA-F:.]+\]\Z")]
_Origin = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://[^\s/]+\Z")]
_Paths = Annotated[list[_UrlPath], Meta(description='a list of paths that begin with "/"')]
_StopSignal = Annotated[
    Literal["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "KILL"],
    Meta(description='"TERM", "INT", "HUP", "QUIT", "USR1", "USR2" or "KILL"'),
]
_Dependency = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+(:(ready|started|completed))?\Z")]
_Globs = Annotated[list[str], Meta(description='a list of globs such as ["src/**/*.py"]')]
_Method = Annotated[str, Meta(pattern=r"^[A-Z]+\Z")]
_Bytes = Annotated[int, Meta(ge=0, le=_MOST, description="a number of bytes, 0 or more")]
_ExitCode = Annotated[int, Meta(ge=0, le=255)]


class RunSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[run]``: the run as a whole."""

    output: _Output = "auto"
    exit_on: Annotated[str, Meta(description='"all", "any", "failure" or the name of a process')] = "all"
    base_port: _BasePort | None = None
    env_files: Annotated[list[str], Meta(description="a list of file names")] | None = None
    install: _YesNo = True
    color: Annotated[Literal["auto", "always", "never"], Meta(description='"auto", "always" or "never"')] = (
        "auto"
    )
    timestamps: _YesNo = False


class ProxySettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[proxy]``: the one address and what stands behind it."""

    enabled: _YesNo = True
    listen: Annotated[str, Meta(description='an address such as "127.0.0.1:8000"')] | None = None
    backend: _Upstream | None = None
    frontend: _Upstream | None = None
    api_prefix: Annotated[str, Meta(pattern=r"^/[^\s?#]*\Z", description='a path that begins with "/"')] = (
        "/api"
    )
    backend_prefixes: _Paths = field(default_factory=lambda: ["/events", "/ws"])
    frontend_paths: _Paths | None = None
    frontend_websockets: _Paths = field(default_factory=list)
    fallback_methods: Annotated[
        list[_Method], Meta(description='a list of methods such as ["GET", "HEAD"]')
    ] = field(default_factory=lambda: ["GET", "HEAD"])
    replay_bytes: _Bytes = 1048576
    memo: _YesNo = True
    hold: _Seconds = 15.0
    hold_requests: _Count = 256
    hold_bytes: _Bytes = 8388608
    upgrade_timeout: _SomeSeconds = 5.0
    allowed_hosts: Annotated[
        list[_Host], Meta(description='a list of host names without port, such as ["dev.example"]')
    ] = field(default_factory=list)
    allowed_origins: Annotated[
        list[_Origin], Meta(description='a list of origins such as ["http://dev.example:3000"]')
    ] = field(default_factory=list)
    max_head: _HeadBytes = 65536
    header_timeout: _SomeSeconds = 10.0
    idle_timeout: _SomeSeconds = 75.0
    max_connections: _AtLeastOne = 1024
    pool: _Count = 64


class ReloadSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[reload]``: what the browser is told."""

    pages: Annotated[Literal["backend", "all", "none"], Meta(description='"backend", "all" or "none"')] = (
        "backend"
    )
    overlay: _YesNo = True
    console: _YesNo = False
    editor: _Text = "auto"


class Preparation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One of ``before_restart``: a command, and the files that it depends on."""

    command: str
    inputs: list[str] = field(default_factory=list)


class ProcessSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``[process.NAME]``: one process."""

    command: _Text | None = None
    app: Annotated[str, Meta(pattern=r"^[\w.]+:[\w.]+\Z", description='"module:attribute"')] | None = None
    cwd: Annotated[str, Meta(description="a folder, relative to the Procfile's")] | None = None
    env: Annotated[dict[str, str], Meta(description='a table of strings, such as { DEBUG = "1" }')] = field(
        default_factory=dict
    )
    port: _Port | None = None
    instances: Annotated[int, Meta(ge=0, le=100, description="a whole number from 0 to 100")] = 1
    depends_on: Annotated[
        list[_Dependency],
        Meta(description='a list of processes such as ["db", "redis:started", "migrate:completed"]'),
    ] = field(default_factory=list)
    ready: Annotated[str | list[str], Meta(description=f"{FORMS}, or a list of these")] | None = None
    restart: Annotated[Restart, Meta(description='"on-failure", "never" or "always"')] = Restart.ON_FAILURE
    max_quick_failures: _Count = 5
    success_exit_codes: Annotated[list[_ExitCode], Meta(description="a list of exit codes from 0 to 255")] = (
        field(default_factory=lambda: [0])
    )
    ready_timeout: _Seconds = 60.0
    liveness: _YesNo = False
    restart_unhealthy: _YesNo = False
    restart_mode: Annotated[Literal["replace", "overlap"], Meta(description='"replace" or "overlap"')] = (
        "replace"
    )
    watch: (
        Annotated[
            list[str] | Literal[False], Meta(description='a list of globs such as ["src/**/*.py"], or false')
        ]
        | None
    ) = None
    ignore: _Globs = field(default_factory=list)
    before_restart: Annotated[
        list[Preparation],
        Meta(description='a list of tables such as { command = "make", inputs = ["*.proto"] }'),
    ] = field(default_factory=list)
    on_ready: _Text | None = None
    stop_signal: _StopSignal = "TERM"
    stop_timeout: _Seconds = 5.0
    pty: Annotated[Literal["auto"] | bool, Meta(description='"auto", true or false')] = "auto"
    log_file: (
        Annotated[str, Meta(min_length=1, description="a file, relative to the Procfile's folder")] | None
    ) = None
    log_bytes: Annotated[int, Meta(ge=1, le=_MOST, description="a number of bytes, 1 or more")] = 10485760
    log_backups: Annotated[int, Meta(ge=0, le=1000, description="a whole number from 0 to 1000")] = 3


class Settings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All tables."""

    run: RunSettings = field(default_factory=RunSettings)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    reload: ReloadSettings = field(default_factory=ReloadSettings)
    process: dict[str, ProcessSettings] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """Settings, and where they were written down.

    Attributes:
        settings: What was set, and the defaults.
        path: The file; ``None`` if there is none, or it says nothing about orchestra.
        above: The tables that ours are in: ``("tool", "orchestra")`` in ``pyproject.toml``.
        text: The file's text, to find lines in.
    """

    settings: Settings
    path: Path | None = None
    above: tuple[str, ...] = ()
    text: str = ""

    def without_effect(self) -> Iterator[str]:
        """Name the keys that were set and that nothing heeds yet."""
        tables = [
            (("run",), self.settings.run),
            (("proxy",), self.settings.proxy),
            (("reload",), self.settings.reload),
            *((("process", name), process) for name, process in self.settings.process.items()),
        ]
        for keys, table in tables:
            defaults = type(table)()
            for key in table.__struct_fields__:
                is_unheeded = keys == ("reload",) or key in _NOT_YET
                if is_unheeded and getattr(table, key) != getattr(defaults, key):
                    yield ".".join((*keys, key))

    def line(self, *keys: str) -> int | None:
        """Find the line of a table or key such as ``("proxy", "listen")``; ``None`` if it is not certain."""
        return _line_of(self.text, (*self.above, *keys))

    def error(self, keys: tuple[str, ...], message: str, *, hint: str) -> ConfigError:
        """Make an error about the key at `keys`: file, line, key path, then `message`."""
        return _error(self.path, self.text, (*self.above, *keys), message, hint)


def find(root: Path, faults: Faults | None = None) -> Loaded:
    """Read the settings in `root`; all defaults if there are none.

    Args:
        root: A folder.
        faults: Is told what is wrong, which is then left out; without it, the first of that is raised.

    Raises:
        ConfigError: Both files have settings, or one of them cannot be read, is no TOML, or does not fit.
    """
    faults = faults or Faults()
    own = shared = None
    with faults.caught():
        own = _read(root / OWN_FILE, (), faults)
    with faults.caught():
        shared = _read(root / SHARED_FILE, ("tool", "orchestra"), faults)
    if own is not None and shared is not None:
        faults.add(
            ConfigError(
                f"settings are in {OWN_FILE} and in [tool.orchestra] of {SHARED_FILE}",
                path=root / OWN_FILE,
                hint="Keep one of the two, and move everything there.",
            )
        )
    return own or shared or Loaded(settings=Settings())


def parse(
    text: str, path: Path, *, above: tuple[str, ...] = (), faults: Faults | None = None
) -> Loaded | None:
    """Parse the text of a settings file.

    Args:
        text: The whole file.
        path: For messages.
        above: The tables that ours are in.
        faults: Is told what does not fit; without it, the first of that is raised.

    Returns:
        ``None`` if those tables are not there.

    Raises:
        ConfigError: It is no TOML, or something in our tables does not fit.
    """
    try:
        table: object = tomllib.loads(text.removeprefix("\ufeff"))
    except (ValueError, RecursionError) as exc:
        raise _no_toml(path, text, exc) from exc
    for key in above:
        if not isinstance(table, dict) or key not in table:
            return None
        table = table[key]
    settings = from_table(table, path, above=above, text=text, faults=faults)
    return Loaded(settings=settings, path=path, above=above, text=text)


def from_table(
    table: object,
    path: Path | None = None,
    *,
    above: tuple[str, ...] = (),
    text: str = "",
    faults: Faults | None = None,
) -> Settings:
    """Check a table and make it `Settings`.

    Args:
        table: As `tomllib` gives it.
        path: For messages.
        above: The tables that it is in, for messages.
        text: The file's text, to find lines in.
        faults: Is told what does not fit; without it, the first of that is raised.

    Raises:
        ConfigError: A key is not known, a value has not the type or range that is expected.
    """
    reports = faults or Faults()

    def wrong(keys: tuple[str, ...], message: str, hint: str) -> None:
        reports.add(_error(path, text, (*above, *keys), message, hint))

    def a_table(keys: tuple[str, ...], value: object) -> dict[str, object]:
        if isinstance(value, dict):
            return dict(value)
        header = ".".join((*above, *keys, *(("NAME",) if keys == ("process",) else ())))
        wrong(keys, f"expected a table, got {_told(value)}", f"Write a table: [{header}].")
        return {}

    def checked(keys: tuple[str, ...], value: object, struct: type[_T]) -> _T:
        table = a_table(keys, value)
        known = struct.__struct_fields__
        for key in [key for key in table if key not in known]:
            wrong((*keys, key), "no such setting", _instead(key, known, keys, path))
            del table[key]
        for key, number in list(_not_finite(table)):
            wrong((*keys, key), f"expected {_expected(struct, key)}, got {number}", "Write a number.")
            del table[key]
        while True:
            try:
                return msgspec.convert(table, struct)
            except (msgspec.ValidationError, OverflowError) as exc:
                key = _key_at_fault(exc, table)
                if key == "env" and isinstance(inner := table[key], dict):
                    for name, odd in inner.items():
                        if not isinstance(odd, str):
                            wrong((*keys, key, name), f"expected a string, got {_told(odd)}", "Quote it.")
                else:
                    message = f"expected {_expected(struct, key)}, got {_told(table.get(key))}"
                    wrong((*keys, key), message, "Correct it, or delete it: then the default holds.")
                del table[key]

    tables = a_table((), table)
    known = {"run", "proxy", "reload", "process"}
    checked((), {key: value for key, value in tables.items() if key not in known}, Settings)
    processes = a_table(("process",), tables.get("process", {}))
    return Settings(
        run=checked(("run",), tables.get("run", {}), RunSettings),
        proxy=checked(("proxy",), tables.get("proxy", {}), ProxySettings),
        reload=checked(("reload",), tables.get("reload", {}), ReloadSettings),
        process={
            name: checked(("process", name), process, ProcessSettings) for name, process in processes.items()
        },
    )


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Give the one of `known` that `word` was probably meant to be."""
    by_lower = {each.lower(): each for each in known}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


_T = TypeVar("_T", bound=Struct)


def _read(path: Path, above: tuple[str, ...], faults: Faults) -> Loaded | None:
    try:
        text = read_text(path)
    except FileNotFoundError:
        return None
    except IsADirectoryError as exc:
        raise ConfigError("a folder, not a settings file", path=path, hint="Give it another name.") from exc
    return parse(text, path, above=above, faults=faults)


def _no_toml(path: Path, text: str, exc: Exception) -> ConfigError:
    message, line = str(exc), None
    if isinstance(exc, RecursionError):
        message = "nested too deeply"
    elif place := re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)\Z", message):
        message = message[: place.start()]
        line = int(place[1]) if place[1] else text.count("\n") + 1
        message += f" (column {place[2]})" if place[2] else " (at the end of the file)"
    return ConfigError(
        f"no TOML: {message}", path=path, line=line, hint="Correct it: https://toml.io says how."
    )


def _error(path: Path | None, text: str, keys: tuple[str, ...], message: str, hint: str) -> ConfigError:
    where = ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else repr(key) for key in keys)
    line = _line_of(text, keys) or (_line_of(text, keys[:-1]) if "env" in keys else None)
    return ConfigError(f"{where}: {message}" if where else message, path=path, line=line, hint=hint)


def _instead(key: str, known: tuple[str, ...], keys: tuple[str, ...], path: Path | None) -> str:
    if not keys and key == "tool" and path is not None and path.name == OWN_FILE:
        return f"In {OWN_FILE}, tables have no tool.orchestra before them: [run], [proxy], [process.NAME]."
    near = nearest(key, known)
    return f"Did you mean {near}?" if near else f"Known are: {', '.join(known)}."


def _not_finite(table: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    """TOML has ``nan`` and ``inf``, and msgspec lets them through; nobody can wait that long."""
    for key, value in table.items():
        if isinstance(value, float) and not math.isfinite(value):
            yield key, value


def _key_at_fault(exc: Exception, table: Mapping[str, object]) -> str:
    """The key that msgspec complains about: its message ends in "- at `$.key`" or "- at `$.key[0]`"."""
    found = re.search(r"- at `\$\.(\w+)[^`]*`\Z", str(exc))
    if found is not None:
        return found[1]
    # An integer too large for a float is an OverflowError without a place.
    return max(table, key=lambda key: abs(value) if isinstance(value := table[key], int) else -1)


def _expected(struct: type[Struct], key: str) -> str:
    """What a person should write at `key`, from the description beside its type."""
    hint: Any = get_type_hints(struct, include_extras=True)[key]
    for part in (hint, *get_args(hint)):
        for meta in getattr(part, "__metadata__", ()):
            if isinstance(meta, Meta) and meta.description:
                return meta.description
    raise AssertionError(f"{struct.__name__}.{key} has no description")  # a test asks for every key


def _told(value: object) -> str:
    """A value as it would be written in TOML, roughly and shortly."""
    match value:
        case bool():
            text = "true" if value else "false"
        case str():
            text = f'"{value}"'
        case dict():
            text = "a table"
        case int() if value.bit_length() > 256:  # Python refuses to write the largest ones in decimal
            text = "a huge number"
        case _:
            text = repr(value)
    text = text.replace("\n", "\\n")
    return text if len(text) <= 60 else text[:57] + "..."


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
