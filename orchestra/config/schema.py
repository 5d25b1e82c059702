"""Every setting once: name, type, bounds, default, and one line of documentation.

A struct is one table of ``orchestra.toml``. TOML is decoded into it, hints of errors quote it, and a test
compares it with the README's tables. A setting that a run uses unchanged is in a `...Policy` struct, from
which the plan's struct inherits it; so each default is written once, also for a `Plan` in code. A new setting
is a field here and a row in the README; if a child is started with it, see `supervision/difference`.

Conventions: ``None`` means that the default follows from something else (the Procfile, the project); `_doc`
says from what, for the README.

Not here: reading files (`toml`), what follows from a setting (`load`), roles of processes (`roles`).
"""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeAlias

from msgspec import Meta, Struct, field, json

__all__ = [
    "API_PREFIX",
    "CONSTANTS",
    "VITE_PATHS",
    "BeforeRestart",
    "DashboardSettings",
    "ProcessPolicy",
    "ProcessSettings",
    "ProxyPolicy",
    "ProxySettings",
    "ReloadSettings",
    "Restart",
    "RunPolicy",
    "RunSettings",
    "Settings",
    "documented",
]

# Settings of earlier versions that are constants now: if a file still has one, there is a note.
CONSTANTS: Mapping[str, str] = {
    "hold_requests": "256", "hold_bytes": "8 MiB", "max_head": "64 KiB", "header_timeout": "10 s",
    "idle_timeout": "75 s", "max_connections": "1024", "pool": "64",
}  # fmt: skip

# The backend's paths unless the settings list them.
API_PREFIX = "/api"
# Vite's own paths, which never go to a backend. A name that ends in "/" stands for all below it.
VITE_PATHS = (
    "/@vite/", "/@id/", "/@fs/", "/@react-refresh", "/node_modules/.vite/", "/__open-in-editor", "/_next/",
)  # fmt: skip


# Paths below it are answered by the one address itself.
OWN_PATH = "/__orchestra__"


class Restart(Enum):
    """When a process that has ended is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


# The longest time and the largest number are such that all timers and counters can hold them.
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
Positive: TypeAlias = Annotated[float, Meta(gt=0, le=1e9)]
Count: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Size: TypeAlias = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
BasePort: TypeAlias = Annotated[int, Meta(ge=1, le=65535)]
ExitStatus: TypeAlias = Annotated[int, Meta(ge=0, le=255)]
UrlPath: TypeAlias = Annotated[str, Meta(pattern=r"^/[^\s?#]*\Z")]
Method: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Z]+\Z")]
HostName: TypeAlias = Annotated[str, Meta(pattern=r"^[^\s/:]+\Z|^\[[0-9a-fA-F:.]+\]\Z")]
Origin: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://[^\s/]+\Z")]
Backups: TypeAlias = Annotated[int, Meta(ge=0, le=1000)]
Instances: TypeAlias = Annotated[int, Meta(ge=0, le=100)]
UrlPaths: TypeAlias = tuple[UrlPath, ...]
Methods: TypeAlias = tuple[Method, ...]
Strings: TypeAlias = tuple[str, ...]
Upstream: TypeAlias = str | bool | None
Output: TypeAlias = Literal["auto", "dashboard", "plain", "json"]
Colour: TypeAlias = Literal["auto", "always", "never"]
Mode: TypeAlias = Literal["replace", "overlap"]
Pages: TypeAlias = Literal["backend", "all", "none"]
Signal: TypeAlias = Literal["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "KILL"]
# The parentheses call a factory.
Application: TypeAlias = Annotated[str, Meta(pattern=r"^[\w.]+:[\w.]+(\(\))?\Z")]
Awaited: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+(:(ready|started|completed))?\Z")]
# Arguments of programs and paths cannot contain a NUL.
Text: TypeAlias = Annotated[str, Meta(pattern=r"^[^\0]+\Z")]


def _doc(text: str, default: str = "") -> Meta:
    """Document a setting; `default` says in words what `None` stands for."""
    return Meta(description=text, extra_json_schema={"in_words": default})


class RunPolicy(Struct, frozen=True, kw_only=True):
    """The settings of ``[run]`` that `Plan` inherits."""

    output: Annotated[
        Output, _doc('"auto" (dashboard on a terminal, else plain), "dashboard", "plain", "json"')
    ] = "auto"
    exit_on: Annotated[str, _doc('what ends the run: "all", "any", "failure" or a process')] = "all"
    color: Annotated[Colour, _doc('colours: "auto" (on a terminal), "always" or "never"')] = "auto"
    timestamps: Annotated[bool, _doc("true: lines of plain output begin with the time of day")] = False
    names: Annotated[bool, _doc("false: lines of plain output do not begin with the process's name")] = True
    requests: Annotated[bool, _doc("true: plain output has a line for each request")] = False
    keep_log: Annotated[bool, _doc("true: the log of the last run is kept, for `orchestra logs`")] = True


class RunSettings(RunPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[run]``: the run as a whole."""

    root: Annotated[Text | None, _doc("the folder that commands run in", "the Procfile's folder")] = None
    shell: Annotated[Text | None, _doc('runs the commands, such as "bash"', '"/bin/sh"')] = None
    base_port: Annotated[BasePort | None, _doc("PORT of the first process, 1 to 65535", "5000")] = None
    env_files: Annotated[Strings | None, _doc('files in place of .env, such as ["a.env"]', '[".env"]')] = None
    install: Annotated[bool, _doc("true: install missing packages of frontends first")] = True


class ProxyPolicy(Struct, frozen=True, kw_only=True):
    """The settings of ``[proxy]`` that `ProxyPlan` inherits."""

    backend_paths: Annotated[
        UrlPaths, _doc("[\"/...\"]: only these are the backend's, with all below them; others the frontend's")
    ] = ()
    api_prefix: Annotated[
        UrlPath | None, _doc('"/...": the backend\'s 404s under it never fall back', '"/api"')
    ] = None
    backend_prefixes: Annotated[UrlPaths, _doc('["/..."]: WebSockets under them are the backend\'s')] = (
        "/events",
        "/ws",
    )
    frontend_paths: Annotated[
        UrlPaths, _doc('["/..."]: they go straight to the frontend, with all below them')
    ] = ()
    frontend_websockets: Annotated[UrlPaths, _doc("[\"/...\"]: the frontend's WebSockets, beside HMR's")] = ()
    fallback_methods: Annotated[Methods, _doc("methods whose backend 404 falls back")] = ("GET", "HEAD")
    replay_bytes: Annotated[Count, _doc("bytes of a body that are kept, to send it a second time")] = 1048576
    memo: Annotated[
        bool, _doc("true: files that the backend did not know are the frontend's until it is ready again")
    ] = True
    hold: Annotated[Seconds, _doc("seconds that a request waits for an upstream that is coming up")] = 15.0
    upgrade_timeout: Annotated[Positive, _doc("seconds that accepting a WebSocket may take")] = 5.0
    allowed_hosts: Annotated[
        tuple[HostName, ...], _doc('names without port that requests may be for, such as ["dev.example"]')
    ] = ()
    allowed_origins: Annotated[
        tuple[Origin, ...],
        _doc('origins that may open WebSockets to the frontend: ["http://dev.example:3000"]'),
    ] = ()


class ProxySettings(ProxyPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[proxy]``: the one address and what stands behind it."""

    enabled: Annotated[bool, _doc("false: run the processes only")] = True
    listen: Annotated[str | None, _doc('the one address: "127.0.0.1:8000"', '"127.0.0.1:8000"')] = None
    backend: Annotated[Upstream, _doc("a process, a URL (http, https, unix:PATH), or false", "found")] = None
    frontend: Annotated[Upstream, _doc("a process, a URL (http, https, unix:PATH), or false", "found")] = None
    frontends: Annotated[
        Mapping[str, str], _doc('further ones, processes or URLs, by path: { "/admin/" = "admin" }')
    ] = field(default_factory=dict)


class ReloadSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[reload]``: what follows when a file is saved, and what pages show of it."""

    enabled: Annotated[bool, _doc("false: watch no files, and leave pages as they are")] = True
    pages: Annotated[
        Pages, _doc('whose pages reload when the backend is ready again: "backend", "all", "none"')
    ] = "backend"
    overlay: Annotated[bool, _doc("true: pages show the error that the backend ended with")] = True
    console: Annotated[bool, _doc("true: the browser's console shows the backend's log")] = False
    editor: Annotated[
        Text, _doc('what opens a file at a line: "auto", or a command such as "code -g {file}:{line}"')
    ] = "auto"


class DashboardSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[dashboard]``: the screen of a run on a terminal."""

    keys: Annotated[Mapping[str, str], _doc('keys by action: { restart = "f5", quit = "Q ctrl-q" }')] = field(
        default_factory=dict
    )
    mouse: Annotated[bool, _doc("true: the wheel scrolls; text is then selected with Shift")] = False


class BeforeRestart(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command that runs before a process is restarted because a file has changed.

    Attributes:
        command: Run by ``/bin/sh -c`` in the process's folder, with its environment.
        inputs: Patterns of files; the command runs only if the content of one has changed. Empty: always.
    """

    command: Text
    inputs: Strings = ()


class ProcessPolicy(Struct, frozen=True, kw_only=True):
    """The settings of ``[process.NAME]`` that `ProcessPlan` inherits."""

    autostart: Annotated[bool, _doc("false: it is started by hand, by name, or by what depends on it")] = True
    ready: Annotated[
        str | Strings | None,
        _doc('when it is ready: "tcp", "http:/health", "log:REGEX", or a list', "by role"),
    ] = None
    ready_timeout: Annotated[Seconds, _doc("seconds after which a notice says why it is not ready")] = 60.0
    liveness: Annotated[bool, _doc("true: check every 2 s; three failures make it unhealthy")] = False
    restart_unhealthy: Annotated[bool, _doc("true: restart it when it is unhealthy")] = False
    on_ready: Annotated[Text | None, _doc("a command that is run whenever it is ready", "none")] = None
    restart: Annotated[
        Restart, _doc('when it is started again: "on-failure", "never" or "always"', '"on-failure"')
    ] = Restart.ON_FAILURE
    restart_mode: Annotated[Mode, _doc('"overlap": the old one stays until the new is ready')] = "replace"
    max_quick_failures: Annotated[Count, _doc("restarts in a row, failing within 10 s, until it failed")] = 5
    success_exit_codes: Annotated[
        frozenset[ExitStatus], _doc("exit statuses from 0 to 255 that count as completed", "[0]")
    ] = frozenset({0})
    shell: Annotated[Text | None, _doc('runs its command, such as "bash"', "that of [run]")] = None
    stop_signal: Annotated[Signal, _doc('"TERM", "INT", "HUP", "QUIT", "USR1", "USR2" or "KILL"')] = "TERM"
    stop_timeout: Annotated[Seconds, _doc("seconds between that and SIGKILL")] = 5.0
    pty: Annotated[
        Literal["auto"] | bool, _doc('a terminal of its own: "auto" (if orchestra is on one), true or false')
    ] = "auto"
    quiet: Annotated[bool, _doc("true: what it writes is not shown, unless it fails")] = False
    log_file: Annotated[Path | None, _doc("a file for its output, beside the Procfile", "none")] = None
    log_bytes: Annotated[Size, _doc("bytes that the file may have before it is rotated")] = 10485760
    log_backups: Annotated[Backups, _doc("how many older files are kept")] = 3
    watch: Annotated[
        bool | Strings | None,
        _doc('files whose change restarts it: ["**/*.py"]; true: the backend\'s; false: none', "by role"),
    ] = None
    ignore: Annotated[Strings, _doc('files that are not watched: ["generated/**"]')] = ()
    before_restart: Annotated[
        tuple[BeforeRestart, ...],
        _doc('run before such a restart: [{ command = "make css", inputs = ["css/*.scss"] }]'),
    ] = ()
    warm_spare: Annotated[bool, _doc("true: keep an interpreter ready for the next restart; needs app")] = (
        False
    )


class ProcessSettings(ProcessPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[process.NAME]``: one process."""

    command: Annotated[Text | None, _doc("the command, if the Procfile does not have it", "none")] = None
    app: Annotated[
        Application | None, _doc('"module:attribute" or "module:create()", for Hypercorn to serve', "none")
    ] = None
    cwd: Annotated[Text | None, _doc("the folder that it starts in", "the Procfile's folder")] = None
    env: Annotated[Mapping[str, str], _doc('variables of its own, such as { DEBUG = "1" }')] = field(
        default_factory=dict
    )
    port: Annotated[Port | None, _doc("its PORT, 0 for any that is free", "by position")] = None
    instances: Annotated[Instances, _doc("how many of it are run, 0 to 100, each with the next PORT")] = 1
    depends_on: Annotated[
        tuple[Awaited, ...], _doc('what it waits for: ["db", "redis:started", "migrate:completed"]')
    ] = ()


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All tables."""

    run: RunSettings = RunSettings()
    proxy: ProxySettings = ProxySettings()
    reload: ReloadSettings = ReloadSettings()
    dashboard: DashboardSettings = DashboardSettings()
    process: Mapping[str, ProcessSettings] = field(default_factory=dict)


class Documentation(NamedTuple):
    """The meaning of a setting, and its default in TOML, or in words."""

    text: str
    default: str


def documented(table: type[Struct]) -> dict[str, Documentation]:
    """Give the documentation of a table's settings, by name."""
    described = json.schema(table, schema_hook=lambda _: {"type": "string"})["$defs"][table.__name__]
    found = {}
    for name, each in described["properties"].items():
        default = each.get("in_words") or json.encode(each["default"]).decode().removesuffix(".0")
        found[name] = Documentation(each.get("description", ""), default)
    return found
