"""Everything that a user wrote, put together: Procfile, ``.env`` files, settings and options -> a `Plan`.

The order is that of the reader: first the Procfile and the settings are read, then processes are chosen
(`select`), then each one gets its port (`addresses`), its environment and its reading (`command`), and
last the roles are decided (`roles`). All processes of the Procfile have a port, chosen or not, so that a
process has the same one whichever others run.

What is wrong is collected from beginning to end: `examine` gives all of it beside the plan of what is left,
for ``orchestra check``; `load` raises all of it together.

What only the machine knows comes in as arguments: the environment, whether a port is free and what holds it.
Looking at files is all that happens here. Not here: starting, binding, printing, `os.environ`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args

from msgspec import Struct
from msgspec.structs import replace

from orchestra.config import (
    addresses,
    command,
    dotenv,
    environment,
    packages,
    procfile as procfiles,
    programs,
    roles,
    select,
    toml,
)
from orchestra.config.files import Problems, is_file, is_folder
from orchestra.config.plan import (
    IMPLIED_READY,
    UNDECIDED,
    AtUrl,
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
from orchestra.config.schema import ProcessPolicy, ProxyPolicy, RunPolicy
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestra.config.addresses import Machine
    from orchestra.config.select import Written
    from orchestra.config.toml import SettingsFile

__all__ = ["Overrides", "examine", "load", "split_arguments"]

Output: TypeAlias = Literal["auto", "dashboard", "plain", "json"]

_NO_PROXY_HINT = "Set proxy.backend or proxy.frontend to a process or a URL."


class Overrides(Struct, frozen=True, kw_only=True):
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
    procfile: Path | str | None,
    machine: Machine,
    *,
    only: Sequence[str] = (),
    left_out: Sequence[str] = (),
    overrides: Overrides | None = None,
) -> Plan:
    """Read everything and decide what a run is going to do; the arguments are those of `examine`.

    Raises:
        ConfigError: There is no Procfile to look at.
        ConfigErrors: Something is wrong: all of that, each with file and line, the cause, and the next step.
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
    """Read everything, and give the plan of what could be understood, beside all that is wrong.

    Args:
        procfile: The file; ``None`` for ``Procfile.dev`` or ``Procfile`` in the current folder.
        machine: What only the machine knows.
        only: The processes to run; none means all.
        left_out: The processes not to run.
        overrides: Options.

    Raises:
        ConfigError: There is no Procfile to look at.
    """
    procfiles.current_folder()  # everything is relative to it
    path = procfiles.find(Path()) if procfile is None else Path(procfile)
    problems = Problems()
    entries: tuple[procfiles.Entry, ...] = ()
    with problems.caught():
        entries = procfiles.read(path, problems)
    file = toml.find(path.parent, problems)
    reader = _Reader(
        path,
        file,
        entries=entries,
        machine=machine,
        overrides=overrides or Overrides(),
        problems=problems,
    )
    reader.choose(only, left_out)
    reader.read_environments()
    reader.read_commands()
    return reader.plan(), problems


class _Reader:
    """Goes from what was written to the plan, step by step."""

    def __init__(
        self,
        path: Path,
        file: SettingsFile,
        *,
        entries: Sequence[procfiles.Entry],
        machine: Machine,
        overrides: Overrides,
        problems: Problems,
    ) -> None:
        self.path = path
        self.root = path.absolute().parent
        self.file = file
        self.settings = file.settings
        self.machine = machine
        self.overrides = overrides
        self.problems = problems
        self.processes = select.gather(path, self.root, entries, file, problems)
        self.waits_for = select.dependencies(self.processes, file, problems)
        self.notes: list[Note] = list(file.notes)

    def choose(self, only: Sequence[str], left_out: Sequence[str]) -> None:
        counts = dict.fromkeys([each.name for each in self.processes], 1)
        with self.problems.caught():
            counts = select.formation(self.overrides.formation, self.processes)
        self.chosen = select.choose(
            self.path,
            self.processes,
            only=only,
            left_out=left_out,
            counts=counts,
            waits_for=self.waits_for,
            problems=self.problems,
        )
        self.instances = select.instances_of(self.processes, self.chosen, counts)
        self.ready = {each.name: select.ready_of(each, self.file, self.problems) for each in self.chosen}

    def read_environments(self) -> None:
        """Find the environment of each process, and what the env files alone say."""
        environ = self.machine.environ
        named = self.overrides.env_files or self.settings.run.env_files
        files = (
            [(self.path.parent / ".env", False)]
            if named is None
            else [(self.path.parent / n, True) for n in named]
        )
        env = dotenv.merge(environ, files, self.problems)
        self.from_files = {name: value for name, value in env.items() if environ.get(name) != value}
        self.env = {
            each.name: environment.with_tools(
                {**env, **each.settings.env}, root=self.root, scripts=self.machine.scripts
            )
            for each in self.chosen
        }

    def read_commands(self) -> None:
        """Find out what each command does, what it fails by, and which ports it takes by itself."""
        self.readings = {each.name: self._read(each) for each in self.chosen}
        self.installs = {}
        for each in self.chosen:
            reading = self.readings[each.name]
            install = None
            if reading.manager and self.settings.run.install:
                install = packages.plan_install(reading.folder, self.root, uses=reading.manager)
            self.installs[each.name] = install
            # What is not sure of the command is not sure of its installation: PATH may change before it.
            manager = (install.manager,) if install is not None and reading.needs else ()
            with self.problems.caught():
                programs.check(each, reading, (*reading.needs, *manager), self.env[each.name])
            for warning in programs.missing(each, reading, self.env[each.name], is_installed=install is None):
                self.problems.warn(warning)

        self.taken = {port: each for each in self.chosen for port in self.readings[each.name].ports}

    def _read(self, process: Written) -> command.Reading:
        if not is_folder(process.cwd):
            keys, text = ("process", process.name, "cwd"), f"there is no folder {process.cwd}"
            self.problems.add(self.file.error(keys, text, hint="Create it, or correct cwd."))
            return command.Reading(folder=process.cwd)
        reading = command.read(process.command, cwd=process.cwd, root=self.root, env=self.env[process.name])
        if reading.fault is not None:
            self.problems.add(reading.fault)
        return reading

    # --- The proxy, and what takes part in it ---

    def decide_roles(self) -> roles.Roles:
        """Decide the roles, as far as they can be known before the start."""
        completing = {
            each.name
            for others in self.waits_for.values()
            for each in others
            if each.condition is Condition.COMPLETED
        }
        names = [each.name for each in self.processes]
        table = self.settings.proxy
        upstreams: dict[str, roles.Given] = {}
        for key, value in (("frontend", table.frontend), ("backend", table.backend)):
            with self.problems.caught():
                upstreams[key] = roles.given(key, names, self.file, value=value)
        frontend, backend = upstreams.get("frontend"), upstreams.get("backend")
        if isinstance(frontend, FromProcess) and frontend == backend:
            hint = "Set one of the two to another process."
            self.problems.add(self.file.error(("proxy", "backend"), "it is the frontend already", hint=hint))
            backend = None
        processes = [
            roles.ProcessFacts(
                name=each.name,
                instances=tuple(names) if len(names := self.instances[each.name]) > 1 else (),
                runs_vite=self.readings[each.name].why,
                serves=self.readings[each.name].serves,
                checks_http=select.is_http(self.ready[each.name]) and each.name not in completing,
                may_be_asked=self.ready[each.name] is None
                and each.name not in completing
                and self.readings[each.name].speaks_http,
            )
            for each in self.chosen
        ]
        return roles.decide(roles.Facts(processes=tuple(processes), frontend=frontend, backend=backend))

    def plan_proxy(self, decided: roles.Roles) -> ProxyPlan | None:
        """Plan the proxy; without a backend and without a frontend there is none."""
        address: tuple[str, int] | None = None
        with self.problems.caught():
            address = addresses.asked_address(self.file, self.overrides.listen)
        table = self.settings.proxy
        if self.overrides.no_proxy or not table.enabled:
            return None
        for key, wanted in (("backend", table.backend), ("frontend", table.frontend)):
            if wanted in self.instances and not self.instances[str(wanted)]:
                self.notes.append(Note(f"no {key}: {wanted} is not among the processes of this run"))
        upstreams = {decided.frontend, decided.backend}
        if upstreams <= {None, UNDECIDED} and (address is None or UNDECIDED not in upstreams):
            refused = [key for key in ("backend", "frontend") if getattr(table, key) is False]
            why = f" (proxy.{' and proxy.'.join(refused)} = false)" if refused else ""
            hint = "" if refused else _NO_PROXY_HINT
            self.notes.append(Note(f"no proxy: neither a backend nor a frontend was found{why}", hint))
            return None
        may_move = address is None
        with self.problems.caught():
            if address is not None:
                addresses.check_address(address, self.taken, self.machine)
            else:
                fixed = {each.settings.port: each for each in self.chosen if each.settings.port}
                address, note = addresses.first_free({**fixed, **self.taken}, self.machine)
                self.notes += [] if note is None else [note]
        host, port = address or addresses.DEFAULT_LISTEN
        shared = {**_shared(table, ProxyPolicy), "api_prefix": table.api_prefix.rstrip("/") or "/"}
        return ProxyPlan(
            **shared,
            host=host,
            port=port,
            may_move=may_move,
            backend=decided.backend,
            backend_reason=decided.backend_reason,
            frontend=decided.frontend,
            frontend_reason=decided.frontend_reason,
            candidates=tuple(name for each in decided.to_ask for name in self.instances[each]),
        )

    def roles_of(self, decided: roles.Roles, *, has_proxy: bool) -> dict[str, Role]:
        """Give the role of each process."""
        given = {each.name: decided.of(each.name) for each in self.chosen}
        for each in self.chosen:
            # Without a frontend, a name alone does not make a process wait for HTTP: it may be a plain one.
            is_guess = not (
                self.readings[each.name].serves
                or environment.mentions_port(each.command)
                or self.settings.proxy.backend
                or isinstance(decided.frontend, FromProcess | AtUrl)
            )
            if given[each.name] is Role.BACKEND and is_guess:
                given[each.name] = Role.UNDECIDED
            if given[each.name] is Role.UNDECIDED and not has_proxy:
                given[each.name] = Role.OTHER
        return given

    # --- The plan ---

    def plan(self) -> Plan:
        decided = self.decide_roles()
        proxy = self.plan_proxy(decided)
        given = self.roles_of(decided, has_proxy=proxy is not None)
        has_frontend = isinstance(decided.frontend, FromProcess | AtUrl)
        implied = {name for name, role in given.items() if role is not Role.OTHER}
        # Beside a frontend, what is left is most probably the backend; without one, it may be anything.
        counted = {name for name in implied if has_frontend or given[name] is not Role.UNDECIDED}
        known = {
            name: ready or (IMPLIED_READY if name in counted else None) for name, ready in self.ready.items()
        }
        select.refuse_unready(given, self.waits_for, known, self.file, self.problems)
        for name in implied:
            self.ready[name] = self.ready[name] or IMPLIED_READY
        ports = self.assign_ports(proxy)
        processes = [
            self.plan_process(each, name, given[each.name], ports)
            for each in self.chosen
            for name in self.instances[each.name]
        ]
        output: Output = self.settings.run.output
        with self.problems.caught():
            output = output if self.overrides.output is None else _output(self.overrides.output)
        exit_on = "all"
        with self.problems.caught():
            exit_on = self.exit_on(processes)
        shared = {**_shared(self.settings.run, RunPolicy), "output": output, "exit_on": exit_on}
        return Plan(
            **shared,
            processes=tuple(processes),
            proxy=proxy,
            procfile=self.path.absolute(),
            notes=tuple(self.notes),
        )

    def assign_ports(self, proxy: ProxyPlan | None) -> dict[str, int]:
        """Give each instance its port; of processes that are not run, too."""
        base = addresses.DEFAULT_BASE_PORT
        with self.problems.caught():
            base = addresses.base_port(
                self.file, self.overrides.base_port, self.from_files, self.machine.environ
            )
        ports = addresses.Ports(
            self.processes,
            self.instances,
            listen_port=None if proxy is None else proxy.port,
            taken=self.taken,
            machine=self.machine,
        )
        ports.fix(self.file, self.problems)
        ports.assign(base, self.problems)
        # Vite does not ask for PORT.
        self.notes[:0] = [Note(text) for name, text in ports.moved if not self.readings[name].why]
        return ports.by_instance

    def plan_process(self, process: Written, name: str, role: Role, ports: Mapping[str, int]) -> ProcessPlan:
        siblings = {
            other.name: port
            for other in self.processes
            if other.name != process.name
            and (other.settings.port or environment.mentions_port(other.command))
            and (port := ports.get((self.instances[other.name] or [other.name])[0]))
        }
        number = name.partition(".")[2]
        shared = {
            **_shared(process.settings, ProcessPolicy),
            "ready": self.ready[process.name],
            "log_file": select.log_file(self.root, process.settings, number),
        }
        return ProcessPlan(
            **shared,
            name=name,
            command=process.command,
            cwd=process.cwd,
            env=environment.for_child(
                self.env[process.name],
                port=ports.get(name),
                siblings=environment.sibling_variables(siblings),
            ),
            port=ports.get(name),
            may_move=not process.settings.port,
            role=role,
            install=self.installs[process.name],
            # A process that depends on one with several instances waits for all of them.
            depends_on=tuple(
                Dependency(instance, each.condition)
                for each in self.waits_for[process.name]
                for instance in self.instances[each.name]
            ),
            source=process.source,
        )

    def exit_on(self, processes: Sequence[ProcessPlan]) -> str:
        option = self.overrides.exit_on
        wanted = self.settings.run.exit_on if option is None else option
        names = [each.name for each in processes]
        known = ["all", "any", "failure", *dict.fromkeys([*map(base_name, names), *names])]
        if wanted in known:
            return wanted
        hint = select.did_you_mean(wanted, known)
        if option is None:
            raise self.file.error(("run", "exit_on"), f"no process {wanted} is run", hint=hint)
        raise ConfigError(f"--exit-on {wanted}: no such process is run", hint=hint)


def _shared(settings: Struct, policy: type[Struct]) -> dict[str, Any]:
    """What a plan takes over from settings as it stands."""
    return {name: getattr(settings, name) for name in policy.__struct_fields__}


def split_arguments(
    args: Sequence[str], exists: Callable[[str], bool] = lambda name: is_file(Path(name))
) -> tuple[str | None, tuple[str, ...]]:
    """Tell the Procfile from the processes in ``orchestra run [PROCFILE] [PROCESS ...]``.

    The first argument is the Procfile if there is such a file, or if it looks like one: it has ``/`` or ``.``
    in it or begins with ``Procfile``. Otherwise it is a process of the default Procfile.
    """
    if args and (exists(args[0]) or "/" in args[0] or "." in args[0] or args[0].startswith("Procfile")):
        return args[0], tuple(args[1:])
    return None, tuple(args)


def _output(text: str) -> Output:
    for known in get_args(Output):
        if text == known:
            return cast("Output", known)  # `get_args` gives Any
    raise ConfigError(f"--output {text}: no such output", hint="There are auto, dashboard, plain and json.")
