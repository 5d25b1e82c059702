"""Every setting once: name, type, bounds, default, and one line of documentation.

A struct is one table of ``orchestra.toml``. It is what TOML is decoded into, what an error's hint quotes, and
what a test compares the README's tables with. Where a run takes a setting over as it stands, the setting is
in a `...Policy`, which the plan of that name extends, too: so a default written here is the only one there
is, also for a `Plan` that is written in code.

Conventions: ``None`` is a default that follows from something else (the Procfile, what is found);
`Meta.extra["default"]` says in words which one, for the README.

Not here: reading files (`toml`), what follows from a setting (`load`), and who takes part (`roles`).
"""

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_type_hints

from msgspec import NODEFAULT, Meta, Struct, field, json
from msgspec.structs import fields

__all__ = [
    "CONSTANTS",
    "VITE_PATHS",
    "ProcessPolicy",
    "ProcessSettings",
    "ProxyPolicy",
    "ProxySettings",
    "Restart",
    "RunPolicy",
    "RunSettings",
    "Settings",
    "documented",
]

# Settings of earlier versions that are constants now: a file that still has one gets a note.
CONSTANTS: Mapping[str, str] = {
    "hold_requests": "256",
    "hold_bytes": "8 MiB",
    "max_head": "64 KiB",
    "header_timeout": "10 s",
    "idle_timeout": "75 s",
    "max_connections": "1024",
    "pool": "64",
}

# Vite's own names: no backend is asked for them. A name that ends in "/" stands for all below it.
VITE_PATHS = (
    "/@vite/",
    "/@id/",
    "/@fs/",
    "/@react-refresh",
    "/node_modules/.vite/",
    "/__open-in-editor",
)


class Restart(Enum):
    """When a process that has ended is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


# The longest time and the largest number are those that every timer and counter of ours can hold.
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
Application: TypeAlias = Annotated[str, Meta(pattern=r"^[\w.]+:[\w.]+\Z")]
Awaited: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+(:(ready|started|completed))?\Z")]
# No argument of a program and no path can have a NUL in it.
Text: TypeAlias = Annotated[str, Meta(pattern=r"^[^\0]+\Z")]


class RunPolicy(Struct, frozen=True, kw_only=True):
    """What `Plan` takes over from ``[run]``."""

    output: Annotated[
        Literal["auto", "dashboard", "plain", "json"],
        Meta(description='"auto" (dashboard on a terminal, else plain), "dashboard", "plain", "json"'),
    ] = "auto"
    exit_on: Annotated[
        str, Meta(description='what ends the run: "all", "any", "failure" or the name of a process')
    ] = "all"
    color: Annotated[
        Literal["auto", "always", "never"],
        Meta(description='colours: "auto" (on a terminal), "always" or "never"'),
    ] = "auto"
    timestamps: Annotated[
        bool, Meta(description="true: each line of plain output begins with the time of day")
    ] = False


class RunSettings(RunPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[run]``: the run as a whole."""

    base_port: Annotated[
        BasePort | None,
        Meta(description="PORT of the first process, 1 to 65535", extra={"default": "5000"}),
    ] = None
    env_files: Annotated[
        tuple[str, ...] | None,
        Meta(description='files to read in place of .env, such as ["a.env"]', extra={"default": '[".env"]'}),
    ] = None
    install: Annotated[bool, Meta(description="true: install missing packages of frontends first")] = True


class ProxyPolicy(Struct, frozen=True, kw_only=True):
    """What `ProxyPlan` takes over from ``[proxy]``."""

    api_prefix: Annotated[
        UrlPath, Meta(description='a path that begins with "/": the backend\'s 404s under it never fall back')
    ] = "/api"
    backend_prefixes: Annotated[
        tuple[UrlPath, ...],
        Meta(
            description='paths that begin with "/": WebSockets under them (and api_prefix) are the backend\'s'
        ),
    ] = ("/events", "/ws")
    frontend_paths: Annotated[
        tuple[UrlPath, ...],
        Meta(
            description='paths that begin with "/" and go straight to the frontend, with all below them',
            extra={"default": "Vite's own"},
        ),
    ] = VITE_PATHS
    frontend_websockets: Annotated[
        tuple[UrlPath, ...],
        Meta(description='WebSocket paths that begin with "/" and go to the frontend, beside HMR\'s'),
    ] = ()
    fallback_methods: Annotated[
        tuple[Method, ...], Meta(description="methods whose 404 from the backend falls back")
    ] = ("GET", "HEAD")
    replay_bytes: Annotated[
        Count, Meta(description="bytes of a request's body that are kept, to send it a second time")
    ] = 1048576
    memo: Annotated[
        bool, Meta(description="true: paths that turned out to be assets of Vite go straight to it")
    ] = True
    hold: Annotated[
        Seconds, Meta(description="seconds that a request waits for an upstream that is coming up")
    ] = 15.0
    upgrade_timeout: Annotated[
        Positive, Meta(description="seconds that an upstream may take to accept a WebSocket")
    ] = 5.0
    allowed_hosts: Annotated[
        tuple[HostName, ...],
        Meta(description='host names without port that requests may be for, such as ["dev.example"]'),
    ] = ()
    allowed_origins: Annotated[
        tuple[Origin, ...],
        Meta(
            description='origins that may open a WebSocket to the frontend, such as ["http://dev.example:3000"]'
        ),
    ] = ()


class ProxySettings(ProxyPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[proxy]``: the one address and what stands behind it."""

    enabled: Annotated[bool, Meta(description="false: run the processes only")] = True
    listen: Annotated[
        str | None,
        Meta(description='the one address, such as "127.0.0.1:8000"', extra={"default": '"127.0.0.1:8000"'}),
    ] = None
    backend: Annotated[
        str | Literal[False] | None,
        Meta(
            description='a process, a URL such as "http://127.0.0.1:5000", or false',
            extra={"default": "found"},
        ),
    ] = None
    frontend: Annotated[
        str | Literal[False] | None,
        Meta(
            description='a process, a URL such as "http://127.0.0.1:5173", or false',
            extra={"default": "found"},
        ),
    ] = None


class ProcessPolicy(Struct, frozen=True, kw_only=True):
    """What `ProcessPlan` takes over from ``[process.NAME]``."""

    ready: Annotated[
        str | tuple[str, ...] | None,
        Meta(
            description='when it is ready, such as "tcp", "http:/health", "log:REGEX", or a list of these',
            extra={"default": "by role"},
        ),
    ] = None
    ready_timeout: Annotated[
        Seconds, Meta(description="seconds after which a notice says why it is not ready")
    ] = 60.0
    liveness: Annotated[
        bool, Meta(description="true: check every 2 s once it is ready; three failures make it unhealthy")
    ] = False
    restart_unhealthy: Annotated[bool, Meta(description="true: restart it when it is unhealthy")] = False
    on_ready: Annotated[
        Text | None,
        Meta(description="a command that is run whenever it is ready", extra={"default": "none"}),
    ] = None
    restart: Annotated[
        Restart,
        Meta(
            description='when it is started again after its end: "on-failure", "never" or "always"',
            extra={"default": '"on-failure"'},
        ),
    ] = Restart.ON_FAILURE
    restart_mode: Annotated[
        Literal["replace", "overlap"],
        Meta(description='"replace", or "overlap": a restart keeps the old one until a new one is ready'),
    ] = "replace"
    max_quick_failures: Annotated[
        Count, Meta(description="restarts in a row, each failing within 10 s, before it has failed")
    ] = 5
    success_exit_codes: Annotated[
        frozenset[ExitStatus],
        Meta(description="exit statuses from 0 to 255 that count as completed", extra={"default": "[0]"}),
    ] = frozenset({0})
    stop_signal: Annotated[
        Literal["TERM", "INT", "HUP", "QUIT", "USR1", "USR2", "KILL"],
        Meta(description='what asks it to end: "TERM", "INT", "HUP", "QUIT", "USR1", "USR2" or "KILL"'),
    ] = "TERM"
    stop_timeout: Annotated[Seconds, Meta(description="seconds between that and SIGKILL")] = 5.0
    pty: Annotated[
        Literal["auto"] | bool,
        Meta(description='a terminal of its own: "auto" (if orchestra is on one), true or false'),
    ] = "auto"
    log_file: Annotated[
        Path | None,
        Meta(
            description="a file for its output, relative to the Procfile's folder", extra={"default": "none"}
        ),
    ] = None
    log_bytes: Annotated[Size, Meta(description="bytes that the file may have before it is rotated")] = (
        10485760
    )
    log_backups: Annotated[
        Annotated[int, Meta(ge=0, le=1000)], Meta(description="how many older files are kept")
    ] = 3


class ProcessSettings(ProcessPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[process.NAME]``: one process."""

    command: Annotated[
        Text | None,
        Meta(
            description="the command of a process that the Procfile does not have", extra={"default": "none"}
        ),
    ] = None
    app: Annotated[
        Application | None,
        Meta(
            description='"module:attribute", in place of a command: an application that Hypercorn serves',
            extra={"default": "none"},
        ),
    ] = None
    cwd: Annotated[
        Text | None,
        Meta(
            description="the folder that it starts in, relative to the Procfile's",
            extra={"default": "the Procfile's folder"},
        ),
    ] = None
    env: Annotated[Mapping[str, str], Meta(description='variables of its own, such as { DEBUG = "1" }')] = (
        field(default_factory=dict)
    )
    port: Annotated[
        Port | None, Meta(description="its PORT, 0 for any that is free", extra={"default": "by position"})
    ] = None
    instances: Annotated[
        Annotated[int, Meta(ge=0, le=100)],
        Meta(description="how many of it are run, 0 to 100, each with the next PORT"),
    ] = 1
    depends_on: Annotated[
        tuple[Awaited, ...],
        Meta(description='what it waits for, such as ["db", "redis:started", "migrate:completed"]'),
    ] = ()


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All tables."""

    run: RunSettings = RunSettings()
    proxy: ProxySettings = ProxySettings()
    process: Mapping[str, ProcessSettings] = field(default_factory=dict)


class Documentation(NamedTuple):
    """What a setting means, and its default as it would be written in TOML, or in words."""

    text: str
    default: str


def documented(table: type[Struct]) -> dict[str, Documentation]:
    """Give the documentation of a table's settings, by name."""
    hints: dict[str, Any] = get_type_hints(table, include_extras=True)
    found = {}
    for setting in fields(table):
        metas = [each for each in getattr(hints[setting.name], "__metadata__", ()) if isinstance(each, Meta)]
        text = next((each.description for each in metas if each.description), "")
        default = next((each.extra["default"] for each in metas if each.extra), None)
        if default is None:
            value = setting.default_factory() if setting.default is NODEFAULT else setting.default
            default = json.encode(value).decode().removesuffix(".0")
        found[setting.name] = Documentation(text, default)
    return found
