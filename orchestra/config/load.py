"""Everything that a user wrote, put together: Procfile, ``.env`` files, settings and options -> a `Plan`.

The order is that of the reader: first the Procfile and the settings are read, then processes are chosen
(`processes`), then each one gets its port (`addresses`), its environment and its reading (`discover`), and
last the proxy is decided (`upstreams`). All processes of the Procfile have a port, chosen or not, so that a
process has the same one whoever else runs.

What only the machine knows comes in as arguments: the environment, whether a port is free and who holds it.
Looking at files is all that happens here.

Never here: starting, binding, printing, `os.environ`.
"""

from __future__ import annotations

import shutil
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast, get_args

from orchestra.config import (
    addresses,
    discover,
    environment,
    processes as choosing,
    procfile as procfiles,
    settings as settings_files,
    upstreams,
)
from orchestra.config.faults import Faults
from orchestra.config.plan import IMPLIED_READY, Dependency, Plan, ProcessPlan, Role, base_name
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestra.config.processes import Written
    from orchestra.config.settings import Loaded

__all__ = ["Overrides", "load", "split_arguments"]

Output: TypeAlias = Literal["auto", "dashboard", "plain", "json"]

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
        formation: How many instances of each process: ``web=2,worker=0,all=1``.
    """

    listen: str | None = None
    no_proxy: bool = False
    base_port: int | None = None
    env_files: tuple[str | Path, ...] = ()
    output: str | None = None
    exit_on: str | None = None
    formation: str | None = None


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
    faults: Faults | None = None,
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
        faults: Is told of all that is wrong; what is returned then is what is left. Without it, the first
            fault is raised.

    Raises:
        ConfigError: Anything is wrong: file and line, the cause, and the next step.
    """
    overrides = overrides or Overrides()
    faults = faults or Faults()
    path = procfiles.find(Path()) if procfile is None else Path(procfile)
    entries: tuple[procfiles.Entry, ...] = ()
    with faults.caught():
        entries = procfiles.read(path, faults)
    root = path.absolute().parent
    loaded = settings_files.find(path.parent, faults)
    processes = choosing.gather(path, root, entries, loaded, faults)
    waits_for = choosing.dependencies(processes, loaded, faults)
    counts = dict.fromkeys([each.name for each in processes], 1)
    with faults.caught():
        counts = choosing.formation(overrides.formation, processes)
    chosen = choosing.choose(
        path,
        processes,
        only=only,
        left_out=left_out,
        counts=counts,
        waits_for=waits_for,
        faults=faults,
    )
    instances = _instances(processes, chosen, counts)
    env, written = _environments(path.parent, loaded, overrides, environ, faults)
    listen, base = addresses.DEFAULT_LISTEN, addresses.DEFAULT_BASE_PORT
    with faults.caught():
        listen = addresses.listen_address(loaded, overrides.listen)
    with faults.caught():
        base = addresses.base_port(loaded, overrides.base_port, written, environ)
    children = {
        each.name: environment.with_tools({**env, **each.settings.env}, root=root, scripts=scripts)
        for each in chosen
    }
    readings = {each.name: _read(each, root, children[each.name], loaded, faults) for each in chosen}
    ready: dict[str, str | tuple[str, ...] | None] = dict.fromkeys(readings)
    ready.update((each.name, choosing.ready_of(each, loaded, faults)) for each in chosen)
    proxy, roles, notes = upstreams.decide(
        readings,
        instances,
        listen,
        loaded,
        is_asked_for=overrides.listen is not None,
        is_wanted=not overrides.no_proxy,
        no_servers=choosing.no_servers(ready, waits_for),
        faults=faults,
    )
    ports, moved = addresses.assign(
        processes,
        instances,
        listen_port=None if proxy is None else proxy.port,
        base=base,
        loaded=loaded,
        is_free=is_free,
        holder=holder,
        faults=faults,
    )
    for name, role in roles.items():
        if role is not Role.OTHER:
            ready[name] = ready[name] or IMPLIED_READY
    choosing.refuse_waiting_for_what_has_no_readiness(readings, waits_for, ready, loaded, faults)
    plans = []
    for each in chosen:
        reading = readings[each.name]
        install = discover.plan_install(reading, root=root) if loaded.settings.run.install else None
        # What is not sure of the command is not sure of its installation, either: PATH may change before it.
        needs = (*reading.needs, install.manager) if install is not None and reading.needs else reading.needs
        with faults.caught():
            _check(each, reading, needs, children[each.name])
        siblings = {
            other.name: port
            for other in processes
            if other.name != each.name
            and (other.settings.port or environment.mentions_port(other.command))
            and (port := ports.get((instances[other.name] or [other.name])[0]))
        }
        for name in instances[each.name]:
            plans.append(  # noqa: PERF401 - as it stands, it can be read
                ProcessPlan(
                    name=name,
                    command=each.command,
                    cwd=each.cwd,
                    env=environment.for_child(
                        children[each.name],
                        port=ports.get(name),
                        siblings=environment.sibling_variables(siblings),
                    ),
                    port=ports.get(name),
                    role=roles.get(each.name, Role.OTHER),
                    ready=ready[each.name],
                    ready_timeout=each.settings.ready_timeout,
                    liveness=each.settings.liveness,
                    restart_unhealthy=each.settings.restart_unhealthy,
                    install=install,
                    on_ready=each.settings.on_ready,
                    depends_on=_on_instances(waits_for[each.name], instances),
                    restart=each.settings.restart,
                    restart_mode=each.settings.restart_mode,
                    max_quick_failures=each.settings.max_quick_failures,
                    success_exit_codes=frozenset(each.settings.success_exit_codes),
                    stop_signal=signal.Signals[f"SIG{each.settings.stop_signal}"],
                    stop_timeout=each.settings.stop_timeout,
                    pty=each.settings.pty,
                    log=choosing.log_of(root, each.settings, _number(name)),
                    source=each.source,
                )
            )
    output, exit_on = loaded.settings.run.output, "all"
    with faults.caught():
        output = output if overrides.output is None else _output(overrides.output)
    with faults.caught():
        exit_on = _exit_on(plans, loaded, overrides)
    quiet = {name for name, reading in readings.items() if reading.runs_vite}  # Vite asks no PORT
    return Plan(
        processes=tuple(plans),
        proxy=proxy,
        procfile=path.absolute(),
        output=output,
        exit_on=exit_on,
        color=loaded.settings.run.color,
        timestamps=loaded.settings.run.timestamps,
        notes=(
            *(text for name, text in moved if name not in quiet),
            *notes,
            *(f"{key} has no effect yet" for key in loaded.without_effect()),
        ),
    )


def _instances(
    processes: Sequence[Written], chosen: Sequence[Written], counts: Mapping[str, int]
) -> dict[str, list[str]]:
    """Say what the instances of each process are called: a single one is called as the process."""
    instances: dict[str, list[str]] = {each.name: [] for each in processes}
    for name, count in ((each.name, counts[each.name]) for each in chosen):
        instances[name] = [name] if count == 1 else [f"{name}.{number}" for number in range(1, count + 1)]
    return instances


def _number(instance: str) -> str | None:
    """The number of an instance, if there are several."""
    return instance.partition(".")[2] or None


def _on_instances(
    waits_for: Sequence[Dependency], instances: Mapping[str, Sequence[str]]
) -> tuple[Dependency, ...]:
    """Whoever waits for a process waits for all of its instances; for those that are not run, nobody does."""
    return tuple(Dependency(name, each.condition) for each in waits_for for name in instances[each.name])


def _read(
    process: Written, root: Path, env: Mapping[str, str], loaded: Loaded, faults: Faults
) -> discover.Reading:
    if not procfiles.is_folder(process.cwd):
        keys = ("process", process.name, "cwd")
        text = f"there is no folder {process.cwd}"
        faults.add(loaded.error(keys, text, hint="Create it, or correct cwd."))
        return discover.Reading(runs_vite=False, folder=process.cwd)
    reading = discover.read(process.command, cwd=process.cwd, root=root, env=env)
    if reading.fault is not None:
        faults.add(reading.fault)
    return reading


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


def _exit_on(plans: Sequence[ProcessPlan], loaded: Loaded, overrides: Overrides) -> str:
    wanted = loaded.settings.run.exit_on if overrides.exit_on is None else overrides.exit_on
    names = [each.name for each in plans]
    known = ["all", "any", "failure", *dict.fromkeys([*map(base_name, names), *names])]
    if wanted in known:
        return wanted
    hint = choosing.did_you_mean(wanted, known)
    if overrides.exit_on is None:
        raise loaded.error(("run", "exit_on"), f"no process {wanted} is run", hint=hint)
    raise ConfigError(f"--exit-on {wanted}: no such process is run", hint=hint)


def _environments(
    root: Path, loaded: Loaded, overrides: Overrides, environ: Mapping[str, str], faults: Faults
) -> tuple[dict[str, str], dict[str, str]]:
    """The environment with all env files over it, and what the env files say alone."""
    run = loaded.settings.run
    names: Sequence[str | Path] = overrides.env_files or run.env_files or ()
    files = [(root / name, True) for name in names]
    if not overrides.env_files and run.env_files is None:
        files = [(root / ".env", False)]
    env = dict(environ)
    for file in files:
        with faults.caught():
            env = environment.merge(env, [file], faults)
    return env, {name: value for name, value in env.items() if environ.get(name) != value}


def _check(process: Written, reading: discover.Reading, needs: Sequence[str], env: Mapping[str, str]) -> None:
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


def _output(text: str) -> Output:
    for known in get_args(Output):
        if text == known:
            return cast("Output", known)  # `get_args` gives Any
    raise ConfigError(f"--output {text}: no such output", hint="There are auto, dashboard, plain and json.")
