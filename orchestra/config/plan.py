"""The plan: everything that a run is going to do, decided before anything is started.

A `Plan` is frozen data. `orchestra.config.load` makes one from a Procfile, an environment and settings; code
that embeds orchestra may write one itself. Settings that a run uses unchanged are inherited from the schema
(`orchestra.config.schema`), defaults and types included; decisions based on settings are added here. Nothing
in a plan is looked up again later: what is not in it does not happen.
"""

import shlex
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias, assert_never
from urllib.parse import urlsplit

from msgspec import Struct, field

from orchestra.config.reloaders import Reloader
from orchestra.config.schema import (
    API_PREFIX,
    VITE_PATHS,
    DashboardSettings,
    ProcessPolicy,
    ProxyPolicy,
    ReloadSettings,
    Restart,
    RunPolicy,
)
from orchestra.events import State

__all__ = [
    "IMPLIED_READY",
    "UNDECIDED",
    "VITE_PATHS",
    "Address",
    "Condition",
    "Dependency",
    "FromProcess",
    "Install",
    "Note",
    "Plan",
    "ProcessPlan",
    "ProxyPlan",
    "Restart",
    "Role",
    "Scheme",
    "UpstreamPlan",
    "base_name",
]


class Role(Enum):
    """The role of a process for the proxy."""

    FRONTEND = "frontend"
    BACKEND = "backend"
    UNDECIDED = "undecided"  # one of the two, if its sockets show that at run time: see `config.roles`
    OTHER = "other"


class Condition(Enum):
    """The condition of a process before one that depends on it is started."""

    READY = "ready"
    STARTED = "started"
    COMPLETED = "completed"


class Dependency(Struct, frozen=True):
    """A process waits until another one, of this `name`, has met a condition once."""

    name: str
    condition: Condition = Condition.READY

    def __str__(self) -> str:
        return self.name if self.condition is Condition.READY else f"{self.name}:{self.condition.value}"


class Install(Struct, frozen=True, kw_only=True):
    """A folder's packages are missing, and this command installs them.

    Attributes:
        folder: The folder of `package.json`; processes that share it share one installation.
        argv: The command, its first word the package manager; it asks nothing.
    """

    folder: Path
    argv: tuple[str, ...]


class ProcessPlan(ProcessPolicy, frozen=True, kw_only=True):
    """One process of a run; further fields are settings, see `ProcessPolicy`.

    Attributes:
        name: ``[A-Za-z0-9_-]+``, of an instance with its number: ``web.2``.
        command: Given to its shell, by default ``/bin/sh -c``.
        app: The application that `load` has made the command for; only with one is there a warm spare.
        env: The whole environment of the child but for what `Supervisor` adds to every child
            (``ORCHESTRA_RUN``, ``ORCHESTRA_PROCESS``); ``None`` is that of this Python process.
        port: Its ``PORT``; its real address is found while it starts.
        named_ports: Ports that its command names: a container's are not among its sockets.
        may_move: Whether a later child may get another port, if this one is taken by then: the user has not
            set it.
        vite_folder: Where it runs Vite's development server, if it does.
        reloader: What makes it reload itself when a file changes, if known.
        is_python_server: Whether its command is a known server for Python: a Node server below it is a
            frontend that it has started, as litestar-vite does, not its own.
        program: Its first program, and in which Python, for people.
    """

    name: str
    command: str
    app: str | None = None
    cwd: Path = field(default_factory=Path.cwd)
    env: Mapping[str, str] | None = None
    port: int | None = None
    named_ports: tuple[int, ...] = ()
    may_move: bool = False
    role: Role = Role.OTHER
    vite_folder: Path | None = None
    reloader: Reloader | None = None
    is_python_server: bool = False
    install: Install | None = None
    program: str = ""
    depends_on: tuple[Dependency, ...] = ()

    @property
    def is_awaited(self) -> bool:
        """Whether it is not up before it is ready; an undecided one may never be, and is up as it is."""
        return self.ready is not None and (self.role is not Role.UNDECIDED or self.ready != IMPLIED_READY)

    def in_shell(self, command: str) -> str:
        """Give a command of this process, for ``/bin/sh -c``, so that the process's shell runs it."""
        if self.shell is None:
            return command
        return f"exec {self.shell} -c {shlex.quote(command)}"

    def is_up(self, state: State) -> bool:
        """Whether it is as far as it gets, in this state."""
        if state is State.STOPPED:
            return not self.autostart
        return state in (State.READY, State.COMPLETED) or (state is State.RUNNING and not self.is_awaited)


def base_name(process: str) -> str:
    """Give what a process is called in the Procfile: ``web`` for ``web.2``."""
    return process.partition(".")[0]


IMPLIED_READY = "http"
"""The default check of frontends, backends, and processes that may turn out to be one."""


class FromProcess(Struct, frozen=True, kw_only=True):
    """An upstream that is a process of this run.

    Attributes:
        name: Its name in the Procfile.
        instances: The names of its instances, if there are several.
        is_second: Whether its second server is meant: the first one is the other upstream.
    """

    name: str
    instances: tuple[str, ...] = ()
    is_second: bool = False

    @property
    def members(self) -> tuple[str, ...]:
        """The processes behind it."""
        return self.instances or (self.name,)


Scheme: TypeAlias = Literal["http", "https", "tcp", "unix"]


class Address(Struct, frozen=True):
    """A host, a literal address without brackets or a name, and a port.

    Its text is ``host:port``, as in a ``Host``.

    Attributes:
        host: For a unix socket, its path.
        port: For a unix socket, 0.
        scheme: The protocol: ``http``, ``https``, ``tcp`` if it is not known to be HTTP; ``unix`` is HTTP
            over a unix socket.
    """

    host: str
    port: int
    scheme: Scheme = "http"

    @classmethod
    def of_url(cls, url: str) -> Self:
        """Give the address of a `url`; missing parts have their defaults."""
        if url.startswith("unix:"):
            return cls(url.removeprefix("unix:"), 0, "unix")
        parts = urlsplit(url)
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
        return cls(parts.hostname or "127.0.0.1", port, "https" if is_tls else "http")

    def __str__(self) -> str:
        if self.scheme == "unix":
            return "localhost"  # for a Host
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The address as a URL; for a unix socket ``unix:/path``."""
        return f"unix:{self.host}" if self.scheme == "unix" else f"{self.scheme}://{self}"

    @property
    def place(self) -> str:
        """Its name beside its process: ``port 5173``, or the path of a unix socket."""
        return self.host if self.scheme == "unix" else f"port {self.port}"


UNDECIDED: Final = Role.UNDECIDED
"""An upstream that will be one of the processes with this role, or none."""

# A process of this run, or a server elsewhere.
UpstreamPlan: TypeAlias = FromProcess | Address | Literal[Role.UNDECIDED] | None


class ProxyPlan(ProxyPolicy, frozen=True, kw_only=True):
    """The one address and what stands behind it; further fields are settings, see `ProxyPolicy`.

    Attributes:
        host: The literal address to listen on; with ``127.0.0.1`` and ``::`` go ``::1`` and ``0.0.0.0``.
        port: 0 is any that is free.
        may_move: Whether the next free port is used if this one is taken: the user has not set it.
        backend: The upstream that gets requests first; ``None``: there is none.
        frontend: The upstream for what the backend does not know; ``None``: there is none.
        frontends: Further ones, by the prefix of their paths.
        candidates: The processes (instances with their numbers) that an `UNDECIDED` upstream may be.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    may_move: bool = False
    backend: UpstreamPlan
    backend_reason: str = ""
    frontend: UpstreamPlan
    frontend_reason: str = ""
    frontends: Mapping[str, UpstreamPlan] = {}
    candidates: tuple[str, ...] = ()

    @property
    def api_prefixes(self) -> tuple[str, ...]:
        """The backend's prefixes beside `backend_paths`; if those are set, there is no default."""
        prefix = self.api_prefix or (None if self.backend_paths else API_PREFIX)
        return () if prefix is None else (prefix,)

    @property
    def upstreams(self) -> dict[str, UpstreamPlan]:
        """All of them: ``backend``, ``frontend``, and further frontends by prefix."""
        return {"backend": self.backend, "frontend": self.frontend, **self.frontends}

    def why(self, key: str) -> str:
        """Say why an upstream is that one, for people; may be empty."""
        return {"backend": self.backend_reason, "frontend": self.frontend_reason}.get(key, "")

    def in_words(self) -> str:
        """Say which process each upstream is, and why, for people."""
        words = (
            f"{key}: {self.named(upstream)}" + (f" ({why})" if (why := self.why(key)) and upstream else "")
            for key, upstream in self.upstreams.items()
        )
        return "; ".join(words)

    def named(self, upstream: UpstreamPlan) -> str:
        """Name one of the upstreams, for people."""
        match upstream:
            case FromProcess(members=members):
                return " and ".join(members)
            case Address():
                return upstream.url
            case Role.UNDECIDED:
                return f"not known yet, {' or '.join(self.candidates)}"
            case None:
                return "none"
            case _:
                assert_never(upstream)


class Note(Struct, frozen=True):
    """A decision or a finding that the user may not expect."""

    text: str
    hint: str = ""
    level: Literal["info", "warning"] = "info"

    def __str__(self) -> str:
        return self.text


class Plan(RunPolicy, frozen=True, kw_only=True):
    """A whole run; further fields are settings, see `RunPolicy`.

    Attributes:
        processes: In the order of the Procfile; names are unique.
        proxy: ``None`` for a run without one.
        reload: What follows when a file is saved; only for a `Supervisor` with `reloads`.
        procfile: The Procfile that it was made from; ``None`` if it was written in code.
        folder: The project's folder; ``None``: the Procfile's, else the current one.
        files: All files that it was made from, and those that would count if they existed.
        env_files: Those of them that are env files; the later one wins.
    """

    processes: tuple[ProcessPlan, ...]
    proxy: ProxyPlan | None = None
    reload: ReloadSettings = ReloadSettings()
    dashboard: DashboardSettings = DashboardSettings()
    procfile: Path | None = None
    folder: Path | None = None
    files: tuple[Path, ...] = ()
    env_files: tuple[Path, ...] = ()
    notes: tuple[Note, ...] = ()

    def named(self, name: str | None) -> ProcessPlan | None:
        """Give the process of that name, or its first instance; without a name the backend or the first."""
        if name is None:
            backend = self.proxy.backend if self.proxy is not None else None
            name = backend.members[0] if isinstance(backend, FromProcess) else self.processes[0].name
        meant = (each for each in self.processes if name in (each.name, base_name(each.name)))
        return next(meant, None)

    @property
    def root(self) -> Path:
        """The project's folder."""
        if self.folder is not None:
            return self.folder
        return self.procfile.parent if self.procfile is not None else Path.cwd()
