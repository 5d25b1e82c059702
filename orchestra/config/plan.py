"""The plan: everything that a run is going to do, decided before anything is started.

A `Plan` is frozen data. `orchestra.config.load` makes one from a Procfile, an environment and settings; code
that embeds orchestra may write one down itself, every default is the one that the settings have. Nothing in
a plan is looked up again later: what is not in it does not happen.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "IMPLIED_READY",
    "AnyOf",
    "AtUrl",
    "Condition",
    "Dependency",
    "FromProcess",
    "Install",
    "Log",
    "Plan",
    "ProcessPlan",
    "ProxyPlan",
    "Restart",
    "Role",
    "Source",
    "UpstreamPlan",
    "base_name",
]


class Role(Enum):
    """What a process is to the proxy."""

    FRONTEND = "frontend"
    BACKEND = "backend"
    CANDIDATE = "candidate"  # the backend, if it turns out to be the only one that answers HTTP
    OTHER = "other"


class Restart(Enum):
    """When a process that has ended is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Condition(Enum):
    """What a process waits for before it is started."""

    READY = "ready"
    STARTED = "started"
    COMPLETED = "completed"


@dataclass(frozen=True, slots=True)
class Dependency:
    """That a process waits for another one.

    Attributes:
        name: Of the other process.
        condition: What it has to be, or to have been, once.
    """

    name: str
    condition: Condition = Condition.READY

    def __str__(self) -> str:
        return self.name if self.condition is Condition.READY else f"{self.name}:{self.condition.value}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where something was written down, for messages."""

    path: Path
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Install:
    """A folder's packages are missing, and this command installs them.

    Attributes:
        folder: The folder of `package.json`; processes that share it share one installation.
        manager: ``npm``, ``pnpm``, ``yarn`` or ``bun``.
        argv: The command; it asks nothing.
    """

    folder: Path
    manager: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """A file that a process's output is kept in.

    Attributes:
        path: The newest file; older ones have numbers behind it.
        max_bytes: How large a file may become.
        backups: How many older ones are kept.
    """

    path: Path
    max_bytes: int = 10 * 1024 * 1024
    backups: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlan:
    """One process of a run.

    Attributes:
        name: ``[A-Za-z0-9_-]+``.
        command: Given to ``/bin/sh -c``.
        cwd: The folder that it starts in.
        env: The whole environment of the child but for what `Supervisor` adds to every child
            (``ORCHESTRA_RUN``, ``ORCHESTRA_PROCESS``); ``None`` is that of this Python process.
        port: What ``PORT`` says to it; where it really listens is found out while it starts.
        role: What it is to the proxy.
        ready: What it has to show before it is ready, all of it: ``"http"`` (a socket of its process tree
            listens and has given one HTTP answer of any status), ``"http:/path"`` (one below 500),
            ``"http:/path=204"``, ``"tcp"``, ``"log:REGEX"``, ``"exec:COMMAND"``, ``"delay:2"``. ``None``:
            `State.RUNNING` is its last state.
        ready_timeout: After so many seconds without readiness a notice says what is missing.
        liveness: Whether it is asked again and again once it is ready; three silences make it unhealthy.
        restart_unhealthy: Whether it is then restarted.
        install: To be run first.
        depends_on: The processes that it waits for before that.
        on_ready: A command for ``/bin/sh -c``, in its folder and environment, whenever it is up.
        restart: When it is started again after it has ended.
        restart_mode: ``"overlap"``: a restart keeps the old child until a new one, on another port, is ready.
        max_quick_failures: `State.FAILED` after so many failures in a row.
        success_exit_codes: What counts as `State.COMPLETED`.
        stop_signal: The number of the signal that asks it to end.
        stop_timeout: Seconds between that and ``SIGKILL``.
        pty: Whether it gets a terminal of its own; ``"auto"``: if we are on one.
        log: Where its output is kept, too.
        source: Where the command was written down.
    """

    name: str
    command: str
    cwd: Path = field(default_factory=Path.cwd)
    env: Mapping[str, str] | None = None
    port: int | None = None
    role: Role = Role.OTHER
    ready: str | tuple[str, ...] | None = None
    ready_timeout: float = 60.0
    liveness: bool = False
    restart_unhealthy: bool = False
    install: Install | None = None
    depends_on: tuple[Dependency, ...] = ()
    on_ready: str | None = None
    restart: Restart = Restart.ON_FAILURE
    restart_mode: Literal["replace", "overlap"] = "replace"
    max_quick_failures: int = 5
    success_exit_codes: frozenset[int] = frozenset({0})
    stop_signal: int = signal.SIGTERM
    stop_timeout: float = 5.0
    pty: Literal["auto"] | bool = "auto"
    log: Log | None = None
    source: Source | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether it is not up before it is ready; a candidate may never be, and is up as it is."""
        return self.ready is not None and (self.role is not Role.CANDIDATE or self.ready != IMPLIED_READY)


def base_name(process: str) -> str:
    """Give what a process is called in the Procfile: ``web`` for ``web.2``."""
    return process.partition(".")[0]


IMPLIED_READY = "http"
"""What frontends, backends, and candidates for that are asked unless the settings say otherwise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromProcess:
    """An upstream that is a process of this run.

    Attributes:
        name: As it is called in the Procfile.
        instances: What its instances are called, if there are several: requests are spread over them.
    """

    name: str
    instances: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        """The processes behind it."""
        return self.instances or (self.name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class AtUrl:
    """An upstream that runs elsewhere: ``http://host:port``."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AnyOf:
    """An upstream that is one of these processes: the first one that answers HTTP."""

    names: tuple[str, ...]


UpstreamPlan: TypeAlias = FromProcess | AtUrl | AnyOf

# Vite's own names: no backend is asked for them. A name that ends in "/" stands for all below it.
VITE_PATHS = (
    "/@vite/",
    "/@id/",
    "/@fs/",
    "/@react-refresh",
    "/node_modules/.vite/",
    "/__open-in-editor",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyPlan:
    """The one address and what stands behind it.

    Attributes:
        host: The literal address to listen on; with ``127.0.0.1`` the same port of ``::1`` is added.
        backend: Who is asked first.
        backend_reason: Why that one, for people.
        frontend: Who is asked when the backend does not know.
        frontend_reason: Why that one, for people.
        api_prefix: A 404 of the backend under it never falls back; WebSockets under it are the backend's.
        backend_prefixes: WebSockets under them are the backend's, too.
        frontend_paths: Paths that go straight to the frontend.
        frontend_websockets: WebSocket paths, beside HMR's, that go to the frontend.
        fallback_methods: The backend's 404 to others than these stands.
        replay_bytes: Bytes of a request's body that are kept, so that it can be sent a second time.
        memo: Paths that turned out to be assets of the frontend go straight to it, until the backend becomes
            ready anew.
        hold: Seconds that a request waits for an upstream that is about to be ready.
        hold_requests: So many may wait at once; one more is answered 502.
        hold_bytes: Bytes that those who wait may have in memory together; beyond, one more is answered 502.
        upgrade_timeout: Seconds that an upstream may take to answer a WebSocket handshake.
        allowed_hosts: Names beside ``localhost``, ``*.localhost`` and addresses that ``Host`` may have.
        allowed_origins: Origins beside our own that may open a WebSocket to the frontend.
        max_head: Bytes that a message's head may have.
        header_timeout: Seconds that a client may take to send a head.
        idle_timeout: Seconds that an unused connection of a client stays open.
        max_connections: Client connections at once; one more waits in the kernel's queue.
        pool: Idle connections that are kept for each upstream.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    backend: UpstreamPlan
    backend_reason: str = ""
    frontend: UpstreamPlan
    frontend_reason: str = ""
    api_prefix: str = "/api"
    frontend_paths: tuple[str, ...] = VITE_PATHS
    backend_prefixes: tuple[str, ...] = ("/events", "/ws")
    frontend_websockets: tuple[str, ...] = ()
    fallback_methods: tuple[str, ...] = ("GET", "HEAD")
    replay_bytes: int = 1048576
    memo: bool = True
    hold: float = 15.0
    hold_requests: int = 256
    hold_bytes: int = 8388608
    upgrade_timeout: float = 5.0
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    max_head: int = 65536
    header_timeout: float = 10.0
    idle_timeout: float = 75.0
    max_connections: int = 1024
    pool: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole run.

    Attributes:
        processes: In the order of the Procfile; names are unique.
        proxy: ``None`` for a run without one.
        procfile: Where it came from; ``None`` if it was written in code.
        output: How the command line shows the run.
        color: Whether the command line shows colours; ``auto``: on a terminal.
        timestamps: Whether its lines begin with the time of day.
        exit_on: What ends the run: ``all`` have ended, ``any`` has, the first ``failure``, or a process.
        notes: What was decided that the user may not expect, in words.
    """

    processes: tuple[ProcessPlan, ...]
    proxy: ProxyPlan | None = None
    procfile: Path | None = None
    output: Literal["auto", "dashboard", "plain", "json"] = "auto"
    color: Literal["auto", "always", "never"] = "auto"
    timestamps: bool = False
    exit_on: str = "all"
    notes: tuple[str, ...] = ()
