"""Everything that a user wrote, put together: Procfile, ``.env`` files, settings and options -> a `Plan`.

The order is that of the reader: first the Procfile and the settings are read, then processes are chosen,
then each one gets its port, its environment and its reading (`discover`), and last the proxy is decided. All
processes of the Procfile get a port, chosen or not, so that a process has the same one whoever else runs.

What only the machine knows comes in as arguments: the environment, whether a port is free and who holds it.
Looking at files is all that happens here.

Never here: starting, binding, printing, `os.environ`.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args
from urllib.parse import urlsplit

from orchestra.config import discover, environment, procfile as procfiles, settings as settings_files
from orchestra.config.graph import circle, closure
from orchestra.config.plan import (
    IMPLIED_READY,
    VITE_PATHS,
    AnyOf,
    AtUrl,
    Condition,
    Dependency,
    FromProcess,
    Log,
    Plan,
    ProcessPlan,
    ProxyPlan,
    Role,
    Source,
)
from orchestra.config.readiness import FORMS, HttpCheck, parse_checks
from orchestra.config.settings import ProcessSettings
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from orchestra.config.plan import UpstreamPlan
    from orchestra.config.settings import Loaded

__all__ = ["BLOCKED_PORTS", "Overrides", "load", "parse_listen", "split_arguments"]

Output: TypeAlias = Literal["auto", "dashboard", "plain", "json"]

DEFAULT_LISTEN = ("127.0.0.1", 8000)
# foreman's convention, and everyone's since: 5000, 5100, 5200.
DEFAULT_BASE_PORT = 5000
PORTS_A_PROCESS = 100
# AirPlay's receiver listens there on every newer Mac.
_MACOS_PORTS = frozenset({5000, 7000})
# Browsers refuse to open these: https://fetch.spec.whatwg.org/#port-blocking
# fmt: off
BLOCKED_PORTS = frozenset({
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104,
    109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515,
    526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049,
    3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
})
# fmt: on
# In the order of preference.
BACKEND_NAMES = ("backend", "api", "web", "server", "app")

_LISTEN_FORM = "Write HOST:PORT, such as 127.0.0.1:8000, [::1]:8000, or a port alone."
_NODE = "Install Node.js 20.19 or newer: https://nodejs.org"
_NEXT_STEPS = {
    "npm": f"{_NODE} (npm comes with it)",
    "npx": f"{_NODE} (npx comes with it)",
    "pnpm": "Install it: `corepack enable pnpm`, or `npm install -g pnpm`",
    "yarn": "Install it: `corepack enable yarn`, or `npm install -g yarn`",
    "bun": "Install it: https://bun.sh, or `npm install -g bun`",
    "bunx": "Install Bun: https://bun.sh, or `npm install -g bun`",
    "corepack": "Install it: `npm install -g corepack`",
    "vite": "Run it through its package: `npx vite`",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """Options of the command line; what is set beats the settings.

    Attributes:
        listen: The proxy's address, see `parse_listen`.
        no_proxy: Run the processes alone.
        base_port: The first process's port.
        env_files: In place of ``.env``; each one has to be there, the later one wins.
        output: How the run is shown.
        exit_on: What ends it.
    """

    listen: str | None = None
    no_proxy: bool = False
    base_port: int | None = None
    env_files: tuple[str | Path, ...] = ()
    output: str | None = None
    exit_on: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    """A process of the Procfile or of the settings, before everything is decided."""

    name: str
    command: str
    source: Source
    settings: ProcessSettings
    cwd: Path


def load(
    procfile: Path | str | None = None,
    *,
    environ: Mapping[str, str],
    only: Sequence[str] = (),
    left_out: Sequence[str] = (),
    overrides: Overrides | None = None,
    scripts: str | None = None,
    is_free: Callable[[int], bool] = lambda _: True,
    holder: Callable[[int], str] = lambda _: "",
) -> Plan:
    """Read everything and decide what a run is going to do.

    Args:
        procfile: The file; ``None`` for ``Procfile.dev`` or ``Procfile`` in the current folder.
        environ: The environment of the operating system.
        only: The processes to run; none means all.
        left_out: The processes not to run.
        overrides: Options.
        scripts: Where what was installed beside orchestra is: ``sysconfig.get_path("scripts")``.
        is_free: Whether a port could be listened on now.
        holder: Who listens on a port: ``pid 812 (node)``, or nothing if that cannot be seen.

    Raises:
        ConfigError: Anything is wrong: file and line, the cause, and the next step.
    """
    overrides = overrides or Overrides()
    path = procfiles.find(Path()) if procfile is None else Path(procfile)
    entries = procfiles.read(path)
    root = path.absolute().parent
    loaded = settings_files.find(path.parent)
    processes = _processes(path, root, entries, loaded)
    _refuse_collisions(processes)
    _refuse_shared_logs(processes, loaded, root)
    waits_for = _dependencies(processes, loaded)
    chosen = _choose(path, processes, only, left_out, waits_for)
    env, written = _environments(path.parent, loaded, overrides, environ)
    listen = _listen(loaded, overrides)
    ports, moved = _ports(
        processes,
        chosen=chosen,
        listen_port=listen[1],
        base=_base_port(loaded, overrides, written, environ),
        loaded=loaded,
        is_free=is_free,
        holder=holder,
    )
    children = {
        each.name: environment.with_tools({**env, **each.settings.env}, root=root, scripts=scripts)
        for each in chosen
    }
    readings: dict[str, discover.Reading] = {}
    for each in chosen:
        if not procfiles.is_folder(each.cwd):
            raise loaded.error(
                ("process", each.name, "cwd"),
                f"there is no folder {each.cwd}",
                hint="Create it, or correct cwd.",
            )
        reading = discover.read(each.command, cwd=each.cwd, root=root, env=children[each.name])
        if reading.fault is not None:
            raise reading.fault
        readings[each.name] = reading
    ready = {each.name: _ready(each, loaded) for each in chosen}
    no_servers = _no_servers(ready, waits_for)
    proxy, roles, notes = _proxy(
        readings, [each.name for each in processes], listen, loaded, overrides, no_servers=no_servers
    )
    plans = []
    for each in chosen:
        reading = readings[each.name]
        install = discover.plan_install(reading, root=root) if loaded.settings.run.install else None
        needs = (*reading.needs, install.manager) if install is not None and reading.needs else reading.needs
        _check(each, reading, needs, children[each.name])
        siblings = {
            other.name: ports[other.name]
            for other in processes
            if other.name != each.name and (other.settings.port or environment.mentions_port(other.command))
        }
        role = roles.get(each.name, Role.OTHER)
        implied = None if role is Role.OTHER else IMPLIED_READY
        plans.append(
            ProcessPlan(
                name=each.name,
                command=each.command,
                cwd=each.cwd,
                env=environment.for_child(
                    children[each.name],
                    port=ports[each.name],
                    siblings=environment.sibling_variables(siblings),
                ),
                port=ports[each.name],
                role=role,
                ready=ready[each.name] or implied,
                ready_timeout=each.settings.ready_timeout,
                install=install,
                depends_on=tuple(other for other in waits_for[each.name] if other.name in readings),
                restart=each.settings.restart,
                max_quick_failures=each.settings.max_quick_failures,
                success_exit_codes=frozenset(each.settings.success_exit_codes),
                stop_signal=signal.Signals[f"SIG{each.settings.stop_signal}"],
                stop_timeout=each.settings.stop_timeout,
                pty=each.settings.pty,
                log=_log(root, each.settings),
                source=each.source,
            )
        )
    _refuse_waiting_for_what_has_no_readiness(plans, loaded)
    quiet = {name for name, reading in readings.items() if reading.runs_vite}  # Vite asks no PORT
    return Plan(
        processes=tuple(plans),
        proxy=proxy,
        procfile=path.absolute(),
        output=loaded.settings.run.output if overrides.output is None else _output(overrides.output),
        exit_on=_exit_on(chosen, loaded, overrides),
        notes=(*(text for name, text in moved if name not in quiet), *notes),
    )


def split_arguments(
    args: Sequence[str], exists: Callable[[str], bool] = lambda name: procfiles.is_file(Path(name))
) -> tuple[str | None, tuple[str, ...]]:
    """Tell the Procfile from the processes in ``orchestra run [PROCFILE] [PROCESS ...]``.

    The first argument is the Procfile if there is such a file, or if it looks like one: it has ``/`` or ``.``
    in it or begins with ``Procfile``. Otherwise it is a process of the default Procfile.
    """
    if args and (exists(args[0]) or "/" in args[0] or "." in args[0] or args[0].startswith("Procfile")):
        return args[0], tuple(args[1:])
    return None, tuple(args)


def parse_listen(text: str) -> tuple[str, int]:
    """Parse the address to listen on.

    It is written as ``127.0.0.1:8000``, ``[::1]:8000``, ``localhost:8000``, ``:8000`` or ``8000``.

    Returns:
        A literal address, and a port; port 0 is any free one.

    Raises:
        ConfigError: It has another form, or a port that browsers refuse to open.
    """

    def wrong(why: str, hint: str = _LISTEN_FORM) -> ConfigError:
        return ConfigError(f"cannot listen on {text!r}: {why}", hint=hint)

    if "://" in text:
        bare = text.partition("://")[2].rstrip("/")
        raise wrong("it is a URL", f"Write the address alone: {bare}.")
    found = re.fullmatch(r"(?:(?:\[(?P<six>[^\[\]]*)\]|(?P<four>[^:\[\]]*)):)?(?P<port>[0-9]{1,5})", text)
    if found is None:
        raise wrong("an IPv6 address stands in brackets" if text.count(":") > 1 else "it is not HOST:PORT")
    port = int(found["port"])
    if port > 65535:
        raise wrong("the highest port is 65535")
    if port in BLOCKED_PORTS:
        raise wrong(f"browsers refuse to open port {port}", "Choose another port, such as 8000.")
    try:
        if found["six"] is not None:
            return str(ipaddress.IPv6Address(found["six"])), port
        if found["four"] in {None, "", "localhost"}:
            return DEFAULT_LISTEN[0], port
        return str(ipaddress.IPv4Address(found["four"])), port
    except ValueError as exc:
        raise wrong("the host is not an address") from exc


# --- Which processes ---------------------------------------------------------------------------------------


def _processes(path: Path, root: Path, entries: Iterable[procfiles.Entry], loaded: Loaded) -> list[_Process]:
    """The Procfile's processes in its order, then those that only the settings define."""
    tables = dict(loaded.settings.process)
    processes = []
    for entry in entries:
        table = tables.pop(entry.name, None) or ProcessSettings()
        if table.command is not None:
            raise loaded.error(
                ("process", entry.name, "command"),
                f"{entry.name} has a command in {path}:{entry.line}, too",
                hint="Delete one of the two.",
            )
        _check_table(entry.name, table, loaded)
        processes.append(
            _Process(
                name=entry.name,
                command=entry.command,
                source=Source(path=path, line=entry.line),
                settings=table,
                cwd=root / (table.cwd or ""),
            )
        )
    for name, table in tables.items():
        command = (table.command or "").strip()
        if not command:
            near = settings_files.nearest(name, [each.name for each in processes])
            raise loaded.error(
                ("process", name),
                f"there is no process {name} in {path.name}, and no command here",
                hint=f"Did you mean {near}?" if near else f'Add it to {path.name}, or set command = "...".',
            )
        if not procfiles.is_name(name):
            raise loaded.error(
                ("process", name), "not allowed as a name", hint="Names are made of letters, digits, _ and -."
            )
        _check_table(name, table, loaded)
        line = loaded.line("process", name, "command") or loaded.line("process", name) or 1
        source = Source(path=loaded.path or path, line=line)
        processes.append(
            _Process(name=name, command=command, source=source, settings=table, cwd=root / (table.cwd or ""))
        )
    return processes


def _check_table(name: str, table: ProcessSettings, loaded: Loaded) -> None:
    for text, key in ((table.command, "command"), (table.cwd, "cwd")):
        if text is not None and "\0" in text:
            raise loaded.error(("process", name, key), "has a NUL character", hint="Delete it.")
    for variable, value in table.env.items():
        keys = ("process", name, "env", variable)
        if variable in environment.PORT_VARIABLES:
            raise loaded.error(
                keys,
                "orchestra sets this variable",
                hint=f"Set process.{name}.port = {value or 5000} instead.",
            )
        if not variable or "=" in variable or "\0" in variable + value:
            raise loaded.error(keys, "cannot be a variable", hint="Use no = and no NUL character in it.")


def _log(root: Path, table: ProcessSettings) -> Log | None:
    if table.log_file is None:
        return None
    return Log(path=root / table.log_file, max_bytes=table.log_bytes, backups=table.log_backups)


def _refuse_shared_logs(processes: Sequence[_Process], loaded: Loaded, root: Path) -> None:
    owners: dict[Path, str] = {}
    for each in processes:
        if (log := _log(root, each.settings)) is None:
            continue
        keys = ("process", each.name, "log_file")
        owner = owners.setdefault(log.path, each.name)
        if owner != each.name:
            raise loaded.error(
                keys, f"{owner} writes to this file, too", hint="Give each process a file of its own."
            )
        if log.path.is_dir():
            raise loaded.error(keys, "this is a folder", hint="Name a file in it.")


def _refuse_collisions(processes: Sequence[_Process]) -> None:
    if (pair := environment.colliding([each.name for each in processes])) is None:
        return
    first, second = (each for each in processes if each.name in pair)
    variable = f"ORCHESTRA_{environment.variable_name(second.name)}_PORT"
    raise ConfigError(
        f"{second.name} and {first.name} ({first.source.path}:{first.source.line}) would both be {variable}",
        path=second.source.path,
        line=second.source.line,
        hint="Give one of them another name.",
    )


def _choose(
    path: Path,
    processes: Sequence[_Process],
    only: Sequence[str],
    left_out: Sequence[str],
    waits_for: Mapping[str, Sequence[Dependency]],
) -> list[_Process]:
    """Find those that are to be run: those that are named, with all that they wait for."""
    names = [each.name for each in processes]
    for name in (*only, *left_out):
        if name not in names:
            raise ConfigError(f"there is no process {name}", path=path, hint=_did_you_mean(name, names))
    for name in only:
        if name in left_out:
            raise ConfigError(f"{name} is named, and left out by -x, too", hint="Do one of the two.")
    offered = {
        name: [each.name for each in others if each.name not in left_out]
        for name, others in waits_for.items()
    }
    wanted = closure(only or (name for name in names if name not in left_out), offered)
    chosen = [each for each in processes if each.name in wanted]
    if not chosen:
        raise ConfigError("no process is left to run", path=path, hint=_there_are(names))
    return chosen


def _dependencies(processes: Sequence[_Process], loaded: Loaded) -> dict[str, tuple[Dependency, ...]]:
    """Say who waits for whom; refuse what cannot work."""
    names = [each.name for each in processes]
    found: dict[str, tuple[Dependency, ...]] = {}
    for each in processes:
        dependencies = []
        for written in each.settings.depends_on:
            name, _, condition = written.partition(":")
            if name not in names:
                raise loaded.error(
                    ("process", each.name, "depends_on"),
                    f"there is no process {name}",
                    hint=_did_you_mean(name, names),
                )
            dependencies.append(Dependency(name, Condition(condition or "ready")))
        found[each.name] = tuple(dict.fromkeys(dependencies))
    if in_circle := circle(_names_only(found)):
        raise loaded.error(
            ("process", in_circle[0], "depends_on"),
            f"they wait for each other: {' -> '.join(in_circle)}",
            hint="Take one of them out.",
        )
    return found


def _ready(process: _Process, loaded: Loaded) -> str | tuple[str, ...] | None:
    """Give the checks that the settings ask for; refuse what is none."""
    ready = process.settings.ready
    checks = tuple(ready) if isinstance(ready, list) else ready
    try:
        parse_checks(checks)
    except ValueError as exc:
        raise loaded.error(("process", process.name, "ready"), str(exc), hint=f"It can be {FORMS}.") from exc
    return checks or None


def _no_servers(
    ready: Mapping[str, str | tuple[str, ...] | None], waits_for: Mapping[str, Sequence[Dependency]]
) -> set[str]:
    """Find those that cannot be a backend: they end by design, or are ready without a word of HTTP."""
    completed = {
        each.name for others in waits_for.values() for each in others if each.condition is Condition.COMPLETED
    }
    silent = {
        name
        for name, checks in ready.items()
        if checks and not any(isinstance(check, HttpCheck) for check in parse_checks(checks))
    }
    return completed | silent


def _names_only(dependencies: Mapping[str, Sequence[Dependency]]) -> dict[str, list[str]]:
    return {name: [each.name for each in others] for name, others in dependencies.items()}


def _refuse_waiting_for_what_has_no_readiness(plans: Sequence[ProcessPlan], loaded: Loaded) -> None:
    """Only what is asked for its readiness can ever be ready."""
    by_name = {each.name: each for each in plans}
    for plan in plans:
        for each in plan.depends_on:
            if each.condition is Condition.READY and by_name[each.name].ready is None:
                raise loaded.error(
                    ("process", plan.name, "depends_on"),
                    f"nobody knows when {each.name} is ready",
                    hint=f'Set process.{each.name}.ready, such as "tcp", or depend on "{each.name}:started".',
                )


def _exit_on(chosen: Sequence[_Process], loaded: Loaded, overrides: Overrides) -> str:
    wanted = loaded.settings.run.exit_on if overrides.exit_on is None else overrides.exit_on
    known = ["all", "any", "failure", *(each.name for each in chosen)]
    if wanted in known:
        return wanted
    near = settings_files.nearest(wanted, known)
    hint = f"{f'Did you mean {near}? ' if near else ''}There are {', '.join(known)}."
    if overrides.exit_on is None:
        raise loaded.error(("run", "exit_on"), f"no process {wanted} is run", hint=hint)
    raise ConfigError(f"--exit-on {wanted}: no such process is run", hint=hint)


def _did_you_mean(name: str, names: Sequence[str]) -> str:
    near = settings_files.nearest(name, names)
    return f"Did you mean {near}? {_there_are(names)}" if near else _there_are(names)


def _there_are(names: Sequence[str]) -> str:
    return f"There {'is only' if len(names) == 1 else 'are'} {', '.join(names)}."


# --- Environment, ports ------------------------------------------------------------------------------------


def _environments(
    root: Path, loaded: Loaded, overrides: Overrides, environ: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """The environment with all env files over it, and what the env files say alone."""
    run = loaded.settings.run
    names: Sequence[str | Path] = overrides.env_files or run.env_files or ()
    files = [(root / name, True) for name in names]
    if not overrides.env_files and run.env_files is None:
        files = [(root / ".env", False)]
    env = environment.merge(environ, files)
    return env, {name: value for name, value in env.items() if environ.get(name) != value}


def _listen(loaded: Loaded, overrides: Overrides) -> tuple[str, int]:
    if overrides.listen is not None:
        return parse_listen(overrides.listen)
    if (written := loaded.settings.proxy.listen) is None:
        return DEFAULT_LISTEN
    try:
        return parse_listen(written)
    except ConfigError as exc:
        raise loaded.error(("proxy", "listen"), str(exc), hint=exc.hint) from exc


def _base_port(
    loaded: Loaded, overrides: Overrides, written: Mapping[str, str], environ: Mapping[str, str]
) -> int:
    """The first port: ``--base-port``, else the settings, else ``PORT`` of an env file, else the system's."""
    if overrides.base_port is not None:
        if not 1 <= overrides.base_port <= 65535:
            raise ConfigError(
                f"--base-port {overrides.base_port}: no such port", hint="Give a port from 1 to 65535."
            )
        return overrides.base_port
    if loaded.settings.run.base_port is not None:
        return loaded.settings.run.base_port
    text = written.get("PORT") or environ.get("PORT") or str(DEFAULT_BASE_PORT)
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        where = "in the env file" if written.get("PORT") else "in the environment"
        raise ConfigError(
            f"PORT is {text!r} {where}: not a port",
            hint="Set it to a number from 1 to 65535, or unset it: then processes get 5000, 5100, ...",
        )
    return int(text)


def _ports(
    processes: Sequence[_Process],
    *,
    chosen: Collection[_Process],
    listen_port: int,
    base: int,
    loaded: Loaded,
    is_free: Callable[[int], bool],
    holder: Callable[[int], str],
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Give each process its port, of those that are chosen a free one; and say who was moved, and why."""
    ports = _fixed_ports(
        processes, chosen=chosen, listen_port=listen_port, loaded=loaded, is_free=is_free, holder=holder
    )
    unusable = BLOCKED_PORTS | {listen_port} | (_MACOS_PORTS if sys.platform == "darwin" else frozenset())

    def first_from(port: int) -> int:
        while port in unusable or port in ports.values():
            port += 1
        if port > 65535:
            raise ConfigError(
                f"no ports are left: they begin at {base}, and each process takes {PORTS_A_PROCESS}",
                hint="Begin lower: --base-port 5000.",
            )
        return port

    # First the wishes of all, then the moves: nobody is moved onto a port that another one wishes for.
    for index, each in enumerate(processes):
        if each.name not in ports:
            ports[each.name] = first_from(base + index * PORTS_A_PROCESS)
    moved = []
    for each in chosen:
        wished = port = ports[each.name]
        while not each.settings.port and not is_free(port):
            port = first_from(port + 1)
        if port != wished:
            ports[each.name] = port
            by = holder(wished)
            held = f"port {wished} is taken{' by ' + by if by else ''}"
            moved.append((each.name, f"{each.name}: {held}; it gets {port}"))
    return ports, moved


def _fixed_ports(
    processes: Sequence[_Process],
    *,
    chosen: Collection[_Process],
    listen_port: int,
    loaded: Loaded,
    is_free: Callable[[int], bool],
    holder: Callable[[int], str],
) -> dict[str, int]:
    """The ports that the settings fix; each one can only be had as it is."""
    fixed: dict[str, int] = {}
    for each in processes:
        if not (port := each.settings.port):
            continue
        keys = ("process", each.name, "port")
        other = next((name for name, taken in fixed.items() if taken == port), None)
        if port == listen_port:
            raise loaded.error(
                keys,
                f"port {port} is orchestra's own",
                hint="Choose another one, or another --listen.",
            )
        if other is not None:
            raise loaded.error(keys, f"{other} has port {port}, too", hint="Choose another one.")
        if each in chosen and not is_free(port):
            by = holder(port)
            raise loaded.error(
                keys, f"port {port} is taken{' by ' + by if by else ''}", hint="Stop it, or set port = 0."
            )
        fixed[each.name] = port
    return fixed


# --- What is missing ---------------------------------------------------------------------------------------


def _check(
    process: _Process, reading: discover.Reading, needs: Sequence[str], env: Mapping[str, str]
) -> None:
    """Refuse what cannot start: a folder or a program that is not there."""

    def wrong(message: str, hint: str) -> ConfigError:
        path, line = process.source.path, process.source.line
        return ConfigError(f"{process.name}: {message}", path=path, line=line, hint=hint)

    if reading.missing is not None:
        raise wrong(f"cd to {reading.missing}: there is no such folder", "Create it, or correct the command.")
    for program in needs:
        if shutil.which(program, path=env.get("PATH")) is None:
            all_needs = " and ".join(dict.fromkeys(needs))
            raise wrong(
                f"it needs {all_needs}, but {program} is not found on PATH",
                f"{_NEXT_STEPS.get(program, _NODE)}.",
            )


# --- The proxy ---------------------------------------------------------------------------------------------


def _proxy(
    readings: Mapping[str, discover.Reading],
    all_names: Sequence[str],
    listen: tuple[str, int],
    loaded: Loaded,
    overrides: Overrides,
    *,
    no_servers: Collection[str],
) -> tuple[ProxyPlan | None, dict[str, Role], list[str]]:
    """Decide who stands behind the one address; without a backend and a frontend there is none."""
    table = loaded.settings.proxy
    given = {
        key: _given(key, all_names, loaded, value=value)
        for key, value in (("frontend", table.frontend), ("backend", table.backend))
    }
    if isinstance(given["frontend"], FromProcess) and given["frontend"] == given["backend"]:
        raise loaded.error(
            ("proxy", "backend"),
            "it is the frontend already",
            hint="Set one of the two to another process.",
        )
    missing = [
        each.name for each in given.values() if isinstance(each, FromProcess) and each.name not in readings
    ]
    frontend, frontend_reason = _frontend(given["frontend"], given["backend"], readings, value=table.frontend)
    backend, backend_reason = _backend(
        given["backend"], frontend, readings, value=table.backend, no_servers=no_servers
    )
    is_wanted = table.enabled and not overrides.no_proxy

    roles: dict[str, Role] = {}
    if isinstance(frontend, FromProcess):
        roles[frontend.name] = Role.FRONTEND
    if isinstance(backend, FromProcess) and (frontend is not None or given["backend"] is not None):
        roles[backend.name] = Role.BACKEND
    notes: list[str] = []
    if not is_wanted:
        return None, roles, notes
    if frontend is None or backend is None:
        asked = overrides.listen is not None or given["frontend"] is not None or given["backend"] is not None
        switched_off = [key for key in ("frontend", "backend") if getattr(table, key) is False]
        if switched_off and asked:
            notes.append(f"no proxy: it needs both, and the settings say proxy.{switched_off[0]} = false")
        elif not switched_off and (asked or frontend is not None):
            notes.append(_why_no_proxy(frontend, backend, missing))
        return None, roles, notes
    if isinstance(backend, AnyOf):
        roles.update(dict.fromkeys(backend.names, Role.CANDIDATE))
    proxy = ProxyPlan(
        host=listen[0],
        port=listen[1],
        backend=backend,
        backend_reason=backend_reason,
        frontend=frontend,
        frontend_reason=frontend_reason,
        api_prefix=table.api_prefix.rstrip("/") or "/",
        frontend_paths=VITE_PATHS if table.frontend_paths is None else tuple(table.frontend_paths),
        frontend_websockets=tuple(table.frontend_websockets),
        hold=table.hold,
        hold_requests=table.hold_requests,
        upgrade_timeout=table.upgrade_timeout,
        allowed_hosts=tuple(table.allowed_hosts),
        allowed_origins=tuple(table.allowed_origins),
        max_head=table.max_head,
        header_timeout=table.header_timeout,
        idle_timeout=table.idle_timeout,
        max_connections=table.max_connections,
        pool=table.pool,
    )
    return proxy, roles, notes


def _given(
    key: str, all_names: Sequence[str], loaded: Loaded, *, value: str | bool | None
) -> UpstreamPlan | None:
    """What the settings say about an upstream, if they name one."""
    keys = ("proxy", key)
    if value is True:
        raise loaded.error(keys, "expected a process, a URL or false, got true", hint="Name the process.")
    if value is None or value is False:
        return None
    if "://" not in value:
        if value not in all_names:
            raise loaded.error(keys, f"there is no process {value}", hint=_did_you_mean(value, all_names))
        return FromProcess(name=value)
    hint = "Write http://HOST:PORT, such as http://127.0.0.1:5173."
    try:
        url = urlsplit(value)
        port = url.port or 80
    except ValueError as exc:
        raise loaded.error(keys, f"{value!r} is no URL", hint=hint) from exc
    if url.scheme != "http":
        raise loaded.error(keys, f"{url.scheme} is not spoken to an upstream, only http", hint=hint)
    if not url.hostname or url.path not in {"", "/"} or url.query or url.fragment or "@" in url.netloc:
        raise loaded.error(keys, f"{value!r} is more, or less, than a host and a port", hint=hint)
    return AtUrl(host=url.hostname, port=port)


def _frontend(
    given: UpstreamPlan | None,
    backend: UpstreamPlan | None,
    readings: Mapping[str, discover.Reading],
    *,
    value: str | bool | None,
) -> tuple[UpstreamPlan | None, str]:
    if isinstance(given, FromProcess) and given.name not in readings:
        return None, ""
    if given is not None:
        return given, "set by proxy.frontend"
    if value is False:
        return None, ""
    vites = [name for name, each in readings.items() if each.runs_vite and FromProcess(name=name) != backend]
    if not vites:
        return None, ""
    why = readings[vites[0]].why
    return FromProcess(name=vites[0]), f"{why} (so does {', '.join(vites[1:])})" if len(vites) > 1 else why


def _backend(
    given: UpstreamPlan | None,
    frontend: UpstreamPlan | None,
    readings: Mapping[str, discover.Reading],
    *,
    value: str | bool | None,
    no_servers: Collection[str],
) -> tuple[UpstreamPlan | None, str]:
    if isinstance(given, FromProcess) and given.name not in readings:
        return None, ""
    if given is not None:
        return given, "set by proxy.backend"
    if value is False:
        return None, ""
    others = [
        name for name, each in readings.items() if not each.runs_vite and FromProcess(name=name) != frontend
    ]
    for wanted in BACKEND_NAMES:
        for name in others:
            if name.lower() == wanted:
                return FromProcess(name=name), f"it is called {name}"
    others = [name for name in others if name not in no_servers]
    if not others or frontend is None:
        return None, ""
    if len(others) == 1:
        return AnyOf(names=tuple(others)), "the only other process, if it answers HTTP"
    return AnyOf(names=tuple(others)), "the first of the others that answers HTTP"


def _why_no_proxy(frontend: UpstreamPlan | None, backend: UpstreamPlan | None, missing: Sequence[str]) -> str:
    if missing:
        left = " and ".join(missing)
        return f"no proxy: {left} is not among the processes of this run; run it, too, or give its URL"
    if frontend is None and backend is None:
        return "no proxy: neither a backend nor a frontend was found; set proxy.backend and proxy.frontend"
    if frontend is None:
        return "no proxy: no process runs Vite; set proxy.frontend to a process or a URL"
    return "no proxy: no backend was found; set proxy.backend to a process or a URL"


def _output(text: str) -> Output:
    for known in get_args(Output):
        if text == known:
            return cast("Output", known)  # `get_args` gives Any
    raise ConfigError(f"--output {text}: no such output", hint="There are auto, dashboard, plain and json.")
