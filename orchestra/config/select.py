"""Which processes exist, which of them are run, how many of each, and what each depends on.

The Procfile defines them; a table of the settings may define another one. `choose` follows the command line:
names, ``-x`` and the formation; a chosen process brings its dependencies.

Not here: ports, roles, what a command does.
"""

from __future__ import annotations

import shlex
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct, field

from orchestra.config import environment, procfile as procfiles
from orchestra.config.checks import FORMS, HttpCheck, parse_checks, words_of
from orchestra.config.command import Reading
from orchestra.config.plan import Condition, Dependency, Install, Role
from orchestra.config.schema import ProcessSettings
from orchestra.config.toml import SettingsFile, did_you_mean, nearest, there_are
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from orchestra.config.files import Problems

__all__ = [
    "Draft",
    "choose",
    "find_cycle",
    "formation",
    "gather",
    "log_file",
    "stop_levels",
]

# The number of ports that each process has for its instances.
MAX_INSTANCES = 100
# The program that serves an `app`, in the Python that is found on the process's `PATH`.
_SERVER = Path(__file__).parent.parent / "child" / "application.py"


class Draft(Struct, kw_only=True):
    """A process on its way into the plan: its settings, and the findings of each step of `load`.

    Attributes:
        command: As written; for an `app`, the one that serves it.
        waits_for: Its dependencies, without invalid ones.
        ready: Its readiness checks, without those that are invalid.
        instances: Their names: a single one has that of the process; without any it is not run.
        env: The environment of its command, without ports; at first its own variables.
    """

    name: str
    command: str
    path: Path
    line: int
    settings: ProcessSettings
    file: SettingsFile = field(default_factory=SettingsFile)
    cwd: Path
    waits_for: tuple[Dependency, ...] = ()
    ready: str | tuple[str, ...] | None = None
    instances: Sequence[str] = ()
    env: dict[str, str] = field(default_factory=dict)
    reading: Reading = Reading()
    install: Install | None = None
    program: str = ""
    role: Role = Role.OTHER
    autostart: bool = True

    @property
    def names(self) -> Sequence[str]:
        """Its instances, or a substitute if it is not run."""
        return self.instances or [self.name]

    @property
    def tools_folder(self) -> Path:
        """The folder whose tools its command finds: where it calls its first program."""
        return self.reading.program_cwd or self.cwd

    @property
    def checks_http(self) -> bool:
        """Whether one of its readiness checks uses HTTP, without an address."""
        return any(isinstance(check, HttpCheck) and check.at is None for check in parse_checks(self.ready))

    def error(self, message: str, *, hint: str) -> ConfigError:
        """Make an error about a setting: file, line, then `message`."""
        return ConfigError(message, path=self.path, line=self.line, hint=hint)

    def refuse(self, key: str, message: str, *, hint: str) -> None:
        """Add an error about one of its settings to the problems."""
        self.file.refuse(("process", self.name, key), message, hint=hint)


# --- Which processes exist ---


def gather(path: Path, entries: Iterable[procfiles.Entry], file: SettingsFile, *, root: Path) -> list[Draft]:
    """Give the Procfile's processes in its order, then those that only the settings, `file`, define."""
    tables = dict(file.settings.process)
    drafts: list[Draft] = []

    def add(name: str, command: str, table: ProcessSettings, path: Path, line: int) -> None:
        cwd = root / (table.cwd or "")
        drafts.append(
            Draft(name=name, command=command, path=path, line=line, settings=table, file=file, cwd=cwd)
        )

    for entry in entries:
        table = tables.pop(entry.name, None) or ProcessSettings()
        add(entry.name, entry.command, table, path, entry.line)
        for key in ("command", "app"):
            if getattr(table, key) is not None:
                text = f"{entry.name} has a command in {path}:{entry.line}, too"
                drafts[-1].refuse(key, text, hint="Delete one of the two.")
    for name, table in tables.items():
        with file.problems.caught():
            command = _command_of(name, table, file, path=path, others=drafts)
            line = file.line("process", name, "command") or file.line("process", name) or 1
            add(name, command, table, file.path or path, line)
    for each in drafts:
        _check_environment(each)
        _check_ready(each)
        if each.settings.warm_spare and each.settings.app is None:
            hint = f'Set process.{each.name}.app = "module:attribute" in place of its command.'
            each.refuse("warm_spare", f"{each.name} is not served by app", hint=hint)
    _refuse_collisions(drafts)
    _refuse_shared_logs(drafts, root)
    _find_dependencies(drafts)
    return drafts


def _command_of(
    name: str, table: ProcessSettings, file: SettingsFile, *, path: Path, others: Sequence[Draft]
) -> str:
    """The command of a process that only the settings define."""
    keys, command = ("process", name), (table.command or "").strip()
    if command and table.app is not None:
        raise file.error((*keys, "app"), f"{name} has a command, too", hint="Delete one of the two.")
    if not command and table.app is None and not {(*keys, "app"), (*keys, "command")} & file.refused:
        near = nearest(name, [each.name for each in others])
        hint = f"Did you mean {near}?" if near else f"Add it to {path.name}, or set command or app."
        raise file.error(keys, f"there is no process {name} in {path.name}, and no command here", hint=hint)
    if not procfiles.is_name(name):
        hint = "Names are made of letters, digits, _ and -."
        raise file.error(keys, "not allowed as a name", hint=hint)
    if command:
        return command
    app = str(table.app)
    # Without a line number: a line inserted above would require a restart. And the shell does not expand
    # PORT: a spare gets another one when it serves.
    place = f"{file.path}: {'.'.join((*file.above, *keys, 'app'))}" if file.path is not None else app
    return "exec " + shlex.join(["python3", str(_SERVER), place, "--bind", "127.0.0.1:$PORT", app])


def _check_environment(process: Draft) -> None:
    process.env = dict(process.settings.env)
    for variable, value in process.settings.env.items():
        keys = ("process", process.name, "env", variable)
        if variable in environment.PORT_VARIABLES:
            hint = f"Set process.{process.name}.port = {value or 5000} instead."
            process.file.refuse(keys, "orchestra sets this variable", hint=hint)
        elif variable == "PATH" and "$" in value:
            del process.env[variable]  # it would hide all programs
            hint = "Write PATH=...:${PATH} into a file .env, or begin the command with PATH=...:$PATH."
            process.file.refuse(keys, "variables are not expanded here", hint=hint)
        elif not variable or "=" in variable or "\0" in variable + value:
            process.file.refuse(keys, "cannot be a variable", hint="Use no = and no NUL character in it.")


def _check_ready(process: Draft) -> None:
    checks = []
    for check in words_of(process.settings.ready):
        try:
            parse_checks(check)
        except ValueError as exc:
            process.refuse("ready", str(exc), hint=f"It can be {FORMS}.")
        else:
            checks.append(check)
    process.ready = checks[0] if len(checks) == 1 else tuple(checks) or None


def _refuse_collisions(processes: Sequence[Draft]) -> None:
    """Refuse names that siblings could not distinguish in their variables, such as ``a-b`` and ``a_b``."""
    owners: dict[str, Draft] = {}
    for each in processes:
        variable = f"{environment.sibling_prefix(each.name)}_PORT"
        first = owners.setdefault(variable, each)
        if first is not each:
            text = f"{each.name} and {first.name} ({first.path}:{first.line}) would both be {variable}"
            each.file.problems.add(each.error(text, hint="Give one of them another name."))


def log_file(root: Path, table: ProcessSettings, instance: str = "") -> Path | None:
    """Give the log file of a process; each instance has one of its own: ``web.1.log``."""
    if table.log_file is None:
        return None
    path = root / table.log_file
    return path.with_name(f"{path.stem}.{instance}{path.suffix}") if instance else path


def _refuse_shared_logs(processes: Sequence[Draft], root: Path) -> None:
    owners: dict[Path, str] = {}
    for each in processes:
        if (path := log_file(root, each.settings)) is None:
            continue
        owner = owners.setdefault(path, each.name)
        if owner != each.name:
            hint = "Give each process a file of its own."
            each.refuse("log_file", f"{owner} writes to this file, too", hint=hint)
        elif path.is_dir():
            each.refuse("log_file", "this is a folder", hint="Name a file in it.")


def _find_dependencies(processes: Sequence[Draft]) -> None:
    by_name = {each.name: each for each in processes}
    for each in processes:
        awaited = []
        for written in each.settings.depends_on:
            name, _, condition = written.partition(":")
            if name in by_name:
                awaited.append(Dependency(name, Condition(condition or "ready")))
            else:
                hint = did_you_mean(name, [*by_name])
                each.refuse("depends_on", f"there is no process {name}", hint=hint)
        each.waits_for = tuple(dict.fromkeys(awaited))
    while cycle := find_cycle({each.name: [other.name for other in each.waits_for] for each in processes}):
        first, second = by_name[cycle[0]], cycle[1]
        first.refuse("depends_on", f"dependency cycle: {' -> '.join(cycle)}", hint="Take one of them out.")
        first.waits_for = tuple(other for other in first.waits_for if other.name != second)


# --- Which are run ---


def formation(text: str | None, processes: Sequence[Draft]) -> dict[str, int]:
    """Give the number of instances of each process: by the command line, otherwise by its settings.

    `text` is ``web=2,worker=0,all=1``, with ``all`` for all others; `ConfigError` if it has another form, or
    names an unknown process.
    """
    names = [each.name for each in processes]
    asked: dict[str, int] = {}

    def wrong(why: str, hint: str) -> ConfigError:
        return ConfigError(f"--formation {text}: {why}", hint=hint)

    for part in (text or "").split(","):
        name, equals, count = (piece.strip() for piece in part.partition("="))
        if not part.strip() and (text is None or asked):
            continue  # a comma at the end does no harm
        if not equals or not name or not (count.isascii() and count.isdigit()):
            raise wrong(f"{part.strip() or 'nothing'} is not NAME=NUMBER", "Write web=2,worker=0 or all=1.")
        if name != "all" and name not in names:
            raise wrong(f"there is no process {name}", did_you_mean(name, [*names, "all"]))
        if name in asked:
            raise wrong(f"{name} is in it twice", "Say it once.")
        if len(count) > 3 or int(count) > MAX_INSTANCES:
            raise wrong(f"{count} instances of {name} are too many", f"There can be {MAX_INSTANCES} at most.")
        asked[name] = int(count)
    return {each.name: asked.get(each.name, asked.get("all", each.settings.instances)) for each in processes}


def choose(
    processes: Sequence[Draft],
    path: Path,
    problems: Problems,
    *,
    only: Sequence[str],
    left_out: Sequence[str],
    counts: Mapping[str, int],
) -> None:
    """Give instances to the processes that are run: the named ones, with their dependencies.

    Without names in `only`, all are chosen, but never those in `left_out` nor those with a count of 0. Names
    of no process are not heeded.
    """
    by_name = {each.name: each for each in processes}
    for name in (each for each in only if each in by_name and each in left_out):
        problems.add(ConfigError(f"{name} is named, and left out by -x, too", hint="Do one of the two."))
    asked = [name for name in only if name in by_name] if only else [*by_name]
    chosen = _with_needed(asked, by_name, {name for name in counts if counts[name]}.difference(left_out))
    # Named processes are run, and so are the dependencies of them and of those that start automatically.
    wanted = [name for name in chosen if name in only or by_name[name].settings.autostart]
    started = _with_needed(wanted, by_name, chosen)
    for name in chosen:
        by_name[name].autostart = name in started
        numbered = [f"{name}.{number}" for number in range(1, counts[name] + 1)]
        by_name[name].instances = numbered if len(numbered) > 1 else [name]
    if not chosen and processes and (not only or asked):
        problems.add(ConfigError("no process is left to run", path=path, hint=there_are([*by_name])))


def _with_needed(names: Iterable[str], by_name: Mapping[str, Draft], possible: Collection[str]) -> set[str]:
    """Add the dependencies of processes, as far as that is possible."""
    found: set[str] = set()
    unseen = [*names]
    while unseen:
        name = unseen.pop()
        if name in possible and name not in found:
            found.add(name)
            unseen += [each.name for each in by_name[name].waits_for]
    return found


# --- The order of starting and stopping ---


def find_cycle(waits_for: Mapping[str, Sequence[str]]) -> list[str]:
    """Find a dependency cycle, from its first process on: ``[a, b, a]``, where a needs b; empty if none."""
    try:
        TopologicalSorter(waits_for).prepare()
    except CycleError as exc:
        # graphlib gives it in the order of starting, its first node once more at the end.
        cycle: list[str] = exc.args[1][:0:-1]
        begin = min(range(len(cycle)), key=lambda place: list(waits_for).index(cycle[place]))
        return [*cycle[begin:], *cycle[: begin + 1]]
    return []


def stop_levels(waits_for: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Give the order of stopping: nothing depends on the first level, others on earlier ones only."""
    sorter = TopologicalSorter[str](dict.fromkeys(waits_for, ()))
    for name, others in waits_for.items():
        for other in others:
            sorter.add(other, name)
    sorter.prepare()
    levels = []
    while sorter.is_active():
        levels.append(list(sorter.get_ready()))
        sorter.done(*levels[-1])
    return levels
