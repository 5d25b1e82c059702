"""Combines everything that a user wrote: Procfile, ``.env`` files, settings and options -> a `Plan`.

In this order: the Procfile and the settings are read, then processes are chosen (`select`), then each one
gets its port (`addresses`), its environment and the reading of its command (`command`), and last the roles
are decided (`roles`). All processes of the Procfile have a port, chosen or not, so it does not depend on
which others run.

Errors are collected from beginning to end. Facts about the machine come in as an argument (`Machine`). Not
here: starting, binding, printing, `os.environ`.
"""

from __future__ import annotations

from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from msgspec import Struct
from msgspec.structs import replace

from orchestra.config import addresses, command, environment, packages, programs, roles, select, toml, tools
from orchestra.config.files import Problems, is_file, is_folder
from orchestra.config.plan import (
    IMPLIED_READY,
    UNDECIDED,
    Address,
    Condition,
    Dependency,
    FromProcess,
    Note,
    Plan,
    ProcessPlan,
    ProxyPlan,
    Role,
    base_name,
)
from orchestra.config.schema import Output, ProcessPolicy, ProxyPolicy, RunPolicy
from orchestra.config.written import read_written
from orchestra.errors import ConfigError
from orchestra.folders import current_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.config.addresses import Machine
    from orchestra.config.plan import UpstreamPlan
    from orchestra.config.select import Draft
    from orchestra.config.written import Target

__all__ = ["Overrides", "examine", "load", "split_arguments"]


class Overrides(Struct, frozen=True, kw_only=True):
    """Options of the command line; those that are set beat the settings.

    Attributes:
        root: The project's folder, in which commands run; ``None``: what the settings say.
        env_files: Instead of ``.env``; each one has to exist, the later one wins.
        no_reload: Watch no files, and leave pages as they are.
        formation: How many instances of each process: ``web=2,worker=0,all=1``.
        quiet: Processes whose lines are not shown.
        timestamps: Plain lines begin with the time of day; likewise `names` and `requests`.
    """

    root: str | Path | None = None
    listen: str | None = None
    no_proxy: bool = False
    base_port: int | None = None
    env_files: tuple[str | Path, ...] = ()
    output: str | None = None
    exit_on: str | None = None
    no_reload: bool = False
    formation: str | None = None
    quiet: tuple[str, ...] = ()
    timestamps: bool | None = None
    names: bool | None = None
    requests: bool | None = None
    target: Target | None = None


def load(
    procfile: Path | str | None,
    machine: Machine,
    *,
    only: Sequence[str] = (),
    left_out: Sequence[str] = (),
    overrides: Overrides | None = None,
) -> Plan:
    """Read everything, as `examine` does, and decide what a run is going to do.

    Raises:
        ConfigError: There is no Procfile.
        ConfigErrors: All errors, each with file and line, the cause, and the next step.
    """
    plan, problems = examine(procfile, machine, only=only, left_out=left_out, overrides=overrides)
    problems.raise_all(first=plan.procfile)
    warnings = [Note(str(each), each.hint, "warning") for each in problems.warnings]
    return replace(plan, notes=(*plan.notes, *warnings))


def examine(
    procfile: Path | str | None,
    machine: Machine,
    *,
    only: Sequence[str] = (),
    left_out: Sequence[str] = (),
    overrides: Overrides | None = None,
) -> tuple[Plan, Problems]:
    """Read everything, and give the plan of the valid parts, with all problems of the rest.

    Without a `procfile` it is ``Procfile.dev`` or ``Procfile`` in the root that the options name, otherwise
    in the current folder. If that has neither, it is the settings there, if they define a process; otherwise
    `ConfigError`.
    """
    current_folder()  # everything is relative to it
    path = None if procfile is None else Path(procfile)
    reader = _Reader(path, machine, overrides or Overrides(), wanted=only)
    reader.choose(only, left_out)
    reader.read_environments()
    reader.read_commands()
    return reader.plan(), reader.problems


class _Reader:
    """Turns the user's files into the plan, step by step."""

    def __init__(
        self, path: Path | None, machine: Machine, overrides: Overrides, *, wanted: Sequence[str]
    ) -> None:
        self.machine = machine
        self.overrides = overrides
        self.problems = Problems()
        asked = None if overrides.root is None else Path(overrides.root)
        self.written = read_written(
            path, asked or Path(), machine, self.problems, target=overrides.target, wanted=wanted
        )
        self.path, self.file = self.written.path, self.written.file
        self.settings = self.file.settings
        self.notes = [*self.file.notes]
        self.folder = asked or self.path.parent / (self.settings.run.root or "")
        self.root = Path(normpath(self.folder.absolute()))
        if not is_folder(self.root):
            text, hint = f"there is no folder {self.root}", "Create it, or name another one."
            if asked is None:
                self.file.refuse(("run", "root"), text, hint=hint)
            else:
                self.problems.add(ConfigError(f"--root: {text}", hint=hint))
        self.processes = select.gather(self.path, self.written.entries, self.file, root=self.root)

    def choose(self, only: Sequence[str], left_out: Sequence[str]) -> None:
        counts = dict.fromkeys([each.name for each in self.processes], 1)
        with self.problems.caught():
            counts = select.formation(self.overrides.formation, self.processes)
        for name in (*self.overrides.quiet, *only, *left_out):
            if name not in counts:
                hint = toml.did_you_mean(name, [*counts])
                self.problems.add(ConfigError(f"there is no process {name}", path=self.path, hint=hint))
        select.choose(self.processes, self.path, self.problems, only=only, left_out=left_out, counts=counts)
        self.chosen = [each for each in self.processes if each.instances]

    def read_environments(self) -> None:
        """Lay env files, and each process's own variables, over the system's environment."""
        named = self.overrides.env_files or self.settings.run.env_files
        names, are_needed = ([".env"], False) if named is None else (named, True)
        files = [(self.folder / name, are_needed) for name in names]
        self.env_files = [self.root / name for name in names]
        self.env = environment.merge(self.machine.environ, files, self.problems)
        for each in self.chosen:
            each.env = {**self.env, **each.env}

    def read_commands(self) -> None:
        """Find out what each command does, its tools, its errors, and the ports that it takes."""
        for each in self.chosen:
            if is_folder(each.cwd):
                each.reading = command.read(each.command, cwd=each.cwd, root=self.root, env=each.env)
            elif each.cwd != self.root:
                each.refuse("cwd", f"there is no folder {each.cwd}", hint="Create it, or correct cwd.")
            if each.settings.app is not None:
                each.reading = replace(each.reading, serves=f"hypercorn {each.settings.app}")
            reading = each.reading
            each.env = tools.with_tools(
                each.env,
                folder=each.tools_folder,
                root=self.root,
                scripts=self.machine.scripts,
                is_app=each.settings.app is not None,
                is_launched=reading.is_launched,
            )
            if (fault := reading.fault) is not None:
                is_of_line = fault.path is None  # else it is a file that cannot be read
                here = each.error(f"{each.name}: {fault.message}", hint=fault.hint) if is_of_line else fault
                self.problems.add(here)
            if reading.manager and self.settings.run.install:
                each.install = packages.plan_install(reading.folder, self.root, uses=reading.manager)
            self.notes += programs.check(each, self.root, scripts=self.machine.scripts)
            programs.check_shell(each, self.shell_of(each))

    # --- The proxy and its upstreams ---

    def decide_roles(self) -> roles.Roles:
        """Decide the roles, as far as they can be known before the start."""
        completing = {
            other.name
            for each in self.processes
            for other in each.waits_for
            if other.condition is Condition.COMPLETED
        }
        names, table = [each.name for each in self.processes], self.settings.proxy
        upstreams: dict[str, UpstreamPlan] = {"frontend": UNDECIDED, "backend": UNDECIDED}
        for keys in (("frontend",), ("backend",), *(("frontends", each) for each in table.frontends)):
            with self.problems.caught():
                upstreams[keys[-1]] = roles.given(("proxy", *keys), names, self.file, self.root)
        backend = upstreams.pop("backend")
        if isinstance(backend, FromProcess) and backend in upstreams.values():
            hint = "Set one of the two to another process."
            self.file.refuse(("proxy", "backend"), "it is a frontend already", hint=hint)
            backend = UNDECIDED
        processes = [
            roles.ProcessFacts(
                name=each.name,
                instances=tuple(each.instances) if len(each.instances) > 1 else (),
                runs_vite=each.reading.why,
                serves=each.reading.serves,
                names_port=environment.mentions_port(each.command),
                checks_http=each.checks_http and each.name not in completing,
                may_be_asked=(
                    each.autostart
                    and each.reading.speaks_http
                    and not each.ready
                    and each.name not in completing
                ),
                also=roles.Seen.NOTHING if each.reading.why and each.reading.runs_others else None,
            )
            for each in sorted(self.chosen, key=lambda each: not each.autostart)
        ]
        frontend = upstreams.pop("frontend")
        facts = roles.Facts(
            processes=tuple(processes), frontend=frontend, backend=backend, frontends=upstreams
        )
        return roles.decide(facts)

    def plan_proxy(self, decided: roles.Roles) -> ProxyPlan | None:
        """Plan the proxy; there is none if no process can be a backend or a frontend."""
        address: tuple[str, int] | None = None
        with self.problems.caught():
            address = addresses.asked_address(self.file, self.overrides.listen)
        table = self.settings.proxy
        if self.overrides.no_proxy or not table.enabled:
            return None
        not_run = [each.name for each in self.processes if not each.instances]
        named = {"backend": table.backend, "frontend": table.frontend, **table.frontends}
        for key, wanted in named.items():
            if wanted in not_run:
                self.notes.append(Note(f"no {key}: {wanted} is not among the processes of this run"))
        upstreams = {decided.frontend, decided.backend, *decided.frontends.values()}
        if upstreams == {None}:
            refused = [key for key in ("backend", "frontend") if getattr(table, key) is False]
            why = f" (proxy.{' and proxy.'.join(refused)} = false)" if refused else ""
            hint = "" if refused else "Set proxy.backend or proxy.frontend to a process or a URL."
            self.notes.append(Note(f"no proxy: neither a backend nor a frontend was found{why}", hint))
            return None
        candidates = [each for each in self.chosen if each.name in decided.to_ask]
        servers = candidates
        if decided.backend is not UNDECIDED:
            is_set = table.backend is not None
            servers = [each for each in self.chosen if not is_set and decided.of(each.name) is Role.BACKEND]
        may_move = address is None
        with self.problems.caught():
            address = addresses.settle_address(
                address,
                self.chosen,
                self.root,
                knows_ports=all(map(_names_port, servers)),
                machine=self.machine,
                notes=self.notes,
                problems=self.problems,
            )
        if len(table.allowed_hosts) > 1 and decided.frontend is not None:
            text = f"Vite is told of {table.allowed_hosts[0]} alone: it takes one name from its environment"
            self.notes.append(Note(text, "Name the others in server.allowedHosts of Vite's configuration."))
        host, port = address or addresses.DEFAULT_LISTEN
        return ProxyPlan(
            **{
                **_shared(table, ProxyPolicy),
                "api_prefix": table.api_prefix and (table.api_prefix.rstrip("/") or "/"),
            },
            host=host,
            port=port,
            may_move=may_move,
            backend=decided.backend,
            backend_reason=decided.backend_reason,
            frontend=decided.frontend,
            frontend_reason=decided.frontend_reason,
            frontends=decided.frontends,
            candidates=tuple(name for each in candidates for name in each.instances),
        )

    def give_roles(self, decided: roles.Roles, *, has_proxy: bool) -> None:
        """Give each process its role, and the readiness check that follows from it."""
        has_frontend = isinstance(decided.frontend, FromProcess | Address) or bool(decided.frontends)
        unready = set()
        for each in self.chosen:
            each.role = decided.of(each.name)
            if each.role is Role.UNDECIDED and not has_proxy:
                each.role = Role.OTHER
            if each.ready is None:
                # Beside a frontend, another process is most probably the backend; without one it may be
                # anything.
                if each.role is Role.OTHER or (each.role is Role.UNDECIDED and not has_frontend):
                    unready.add(each.name)
                each.ready = None if each.role is Role.OTHER else IMPLIED_READY
        for each in self.chosen:
            awaited = [other.name for other in each.waits_for if other.condition is Condition.READY]
            for name in (name for name in awaited if name in unready):
                hint = f'Set process.{name}.ready, such as "tcp", or depend on "{name}:started".'
                each.refuse("depends_on", f"{name} has no readiness check", hint=hint)

    # --- The plan ---

    def plan(self) -> Plan:
        decided = self.decide_roles()
        proxy = self.plan_proxy(decided)
        self.give_roles(decided, has_proxy=proxy is not None)
        ports = self.assign_ports(proxy)
        processes = [self.plan_process(each, name, ports) for each in self.chosen for name in each.instances]
        output = self.overrides.output or self.settings.run.output
        if output not in get_args(Output):
            hint = "There are auto, dashboard, plain and json."
            self.problems.add(ConfigError(f"--output {output}: no such output", hint=hint))
        exit_on = self.exit_on([each.name for each in processes])
        reload = self.settings.reload
        shown = {name: getattr(self.overrides, name) for name in ("timestamps", "names", "requests")}
        given = {name: value for name, value in shown.items() if value is not None}
        settings = [self.path.parent / name for name in (toml.OWN_FILE, toml.SHARED_FILE)]
        files = (self.path, *settings, *self.written.others, *self.env_files)
        return Plan(
            **{**_shared(self.settings.run, RunPolicy), "output": output, "exit_on": exit_on, **given},
            processes=tuple(processes),
            proxy=proxy,
            reload=replace(reload, enabled=reload.enabled and not self.overrides.no_reload),
            dashboard=self.settings.dashboard,
            procfile=self.path.absolute(),
            folder=self.root,
            files=tuple(Path(normpath(each.absolute())) for each in files),
            env_files=tuple(self.env_files),
            notes=tuple(self.notes),
        )

    def assign_ports(self, proxy: ProxyPlan | None) -> dict[str, int]:
        """Give each instance its port; of processes that are not run, too."""
        base = addresses.DEFAULT_BASE_PORT
        with self.problems.caught():
            option, environ = self.overrides.base_port, self.machine.environ
            base = addresses.base_port(self.file, option, self.env, environ)
        listen_port = None if proxy is None else proxy.port
        ports = addresses.Ports(processes=self.processes, listen_port=listen_port, machine=self.machine)
        self.notes[:0] = ports.assign(base, self.problems)
        return ports.by_instance

    def plan_process(self, process: Draft, name: str, ports: Mapping[str, int]) -> ProcessPlan:
        siblings = {
            other.name: port
            for other in self.processes
            if other.name != process.name
            and (other.settings.port or environment.mentions_port(other.command))
            and (port := ports.get(other.names[0]))
        }
        # A process that depends on one with several instances waits for all of them.
        instances = {each.name: each.instances for each in self.processes}
        depends_on = [
            Dependency(instance, each.condition)
            for each in process.waits_for
            for instance in instances[each.name]
        ]
        log_file = select.log_file(self.root, process.settings, name.partition(".")[2])
        return ProcessPlan(
            **{
                **_shared(process.settings, ProcessPolicy),
                "autostart": process.autostart,
                "quiet": process.settings.quiet or process.name in self.overrides.quiet,
                "ready": process.ready,
                "log_file": log_file,
                "shell": self.shell_of(process),
            },
            name=name,
            command=process.command,
            app=process.settings.app,
            cwd=process.cwd,
            env=environment.for_child(
                process.env, port=ports.get(name), siblings=siblings, hosts=self.settings.proxy.allowed_hosts
            ),
            port=ports.get(name),
            named_ports=process.reading.ports,
            may_move=not process.settings.port,
            role=process.role,
            vite_folder=process.reading.folder if process.reading.why else None,
            reloader=process.reading.reloader,
            is_python_server=bool(process.reading.serves),
            install=process.install,
            program=process.program,
            depends_on=tuple(depends_on),
        )

    def shell_of(self, process: Draft) -> str | None:
        return process.settings.shell or self.settings.run.shell

    def exit_on(self, names: Sequence[str]) -> str:
        option = self.overrides.exit_on
        wanted = self.settings.run.exit_on if option is None else option
        known = ["all", "any", "failure", *dict.fromkeys([*map(base_name, names), *names])]
        if wanted not in known:
            hint = toml.did_you_mean(wanted, known)
            if option is None:
                self.file.refuse(("run", "exit_on"), f"no process {wanted} is run", hint=hint)
            else:
                self.problems.add(ConfigError(f"--exit-on {wanted}: no such process is run", hint=hint))
        return wanted


def _names_port(process: Draft) -> bool:
    """Whether a command names its port; a script of a package manager takes no usual port of Python's."""
    reading = process.reading
    is_known = reading.ports or reading.serves or (reading.manager and not reading.runs_others)
    return bool(is_known) or environment.mentions_port(process.command)


def _shared(settings: Struct, policy: type[Struct]) -> dict[str, Any]:
    """The settings that a plan inherits unchanged."""
    return {name: getattr(settings, name) for name in policy.__struct_fields__}


def split_arguments(args: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """Separate the Procfile from the processes in ``orchestra run [PROCFILE] [PROCESS ...]``.

    The first argument is the Procfile if such a file exists, or if it looks like one: it contains ``/`` or
    ``.`` or begins with ``Procfile``. Otherwise it is a process of the default Procfile.
    """
    if args and (
        is_file(Path(args[0])) or "/" in args[0] or "." in args[0] or args[0].startswith("Procfile")
    ):
        return args[0], tuple(args[1:])
    return None, tuple(args)
