"""Which processes there are, which of them are run, how many of each, and what each depends on.

The Procfile says which there are; a table of the settings may define another one. `choose` follows the
command line: names, ``-x`` and the formation; a process that is chosen brings its dependencies.

Not here: ports, roles, what a command does.
"""

from __future__ import annotations

from graphlib import CycleError, TopologicalSorter
from pathlib import Path  # noqa: TC003 - a field of a struct
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra.config import environment, procfile as procfiles
from orchestra.config.checks import FORMS, HttpCheck, parse_checks
from orchestra.config.plan import Condition, Dependency, Source
from orchestra.config.schema import ProcessSettings
from orchestra.config.toml import nearest
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestra.config.files import Problems
    from orchestra.config.toml import SettingsFile

__all__ = [
    "Written",
    "choose",
    "dependencies",
    "did_you_mean",
    "find_cycle",
    "formation",
    "gather",
    "instances_of",
    "is_http",
    "log_file",
    "ready_of",
    "refuse_unready",
    "stop_levels",
]

# The ports that each process has for its instances.
MAX_INSTANCES = 100
# The server of an `app`; without worker processes, which would hide its exit status.
_SERVE = "exec hypercorn --workers 0 --graceful-timeout 1 --access-logfile - --bind 127.0.0.1:$PORT"


class Written(Struct, frozen=True, kw_only=True):
    """A process as it was written, before anything is decided."""

    name: str
    command: str
    source: Source
    settings: ProcessSettings
    cwd: Path


# --- Which there are ---


def gather(
    path: Path, root: Path, entries: Iterable[procfiles.Entry], file: SettingsFile, problems: Problems
) -> list[Written]:
    """Give the Procfile's processes in its order, then those that only the settings define."""
    tables = dict(file.settings.process)
    processes: list[Written] = []
    for entry in entries:
        table = tables.pop(entry.name, None) or ProcessSettings()
        for key in ("command", "app"):
            if getattr(table, key) is not None:
                text = f"{entry.name} has a command in {path}:{entry.line}, too"
                problems.add(file.error(("process", entry.name, key), text, hint="Delete one of the two."))
        source = Source(path=path, line=entry.line)
        processes.append(_written(entry.name, entry.command, table, source, root))
    for name, table in tables.items():
        with problems.caught():
            command = _command_of(name, table, file, path=path, others=processes)
            line = file.line("process", name, "command") or file.line("process", name) or 1
            source = Source(path=file.path or path, line=line)
            processes.append(_written(name, command, table, source, root))
    for each in processes:
        _check_environment(each, file, problems)
    _refuse_collisions(processes, problems)
    _refuse_shared_logs(processes, file, root, problems)
    return processes


def _written(name: str, command: str, table: ProcessSettings, source: Source, root: Path) -> Written:
    return Written(name=name, command=command, source=source, settings=table, cwd=root / (table.cwd or ""))


def _command_of(
    name: str, table: ProcessSettings, file: SettingsFile, *, path: Path, others: Sequence[Written]
) -> str:
    """The command of a process that only the settings define."""
    keys, command = ("process", name), (table.command or "").strip()
    if command and table.app is not None:
        raise file.error((*keys, "app"), f"{name} has a command, too", hint="Delete one of the two.")
    if not command and table.app is None:
        near = nearest(name, [each.name for each in others])
        hint = f"Did you mean {near}?" if near else f"Add it to {path.name}, or set command or app."
        raise file.error(keys, f"there is no process {name} in {path.name}, and no command here", hint=hint)
    if not procfiles.is_name(name):
        hint = "Names are made of letters, digits, _ and -."
        raise file.error(keys, "not allowed as a name", hint=hint)
    return command or f"{_SERVE} {table.app}"


def _check_environment(process: Written, file: SettingsFile, problems: Problems) -> None:
    for variable, value in process.settings.env.items():
        keys = ("process", process.name, "env", variable)
        if variable in environment.PORT_VARIABLES:
            hint = f"Set process.{process.name}.port = {value or 5000} instead."
            problems.add(file.error(keys, "orchestra sets this variable", hint=hint))
        elif not variable or "=" in variable or "\0" in variable + value:
            hint = "Use no = and no NUL character in it."
            problems.add(file.error(keys, "cannot be a variable", hint=hint))


def _refuse_collisions(processes: Sequence[Written], problems: Problems) -> None:
    if (pair := environment.colliding([each.name for each in processes])) is None:
        return
    first, second = (each for each in processes if each.name in pair)
    variable = f"ORCHESTRA_{environment.variable_name(second.name)}_PORT"
    problems.add(
        ConfigError(
            f"{second.name} and {first.name} ({first.source.path}:{first.source.line})"
            f" would both be {variable}",
            path=second.source.path,
            line=second.source.line,
            hint="Give one of them another name.",
        )
    )


def log_file(root: Path, table: ProcessSettings, instance: str = "") -> Path | None:
    """Give the file of a process's output; each instance has one of its own: ``web.1.log``."""
    if table.log_file is None:
        return None
    path = root / table.log_file
    return path.with_name(f"{path.stem}.{instance}{path.suffix}") if instance else path


def _refuse_shared_logs(
    processes: Sequence[Written], file: SettingsFile, root: Path, problems: Problems
) -> None:
    owners: dict[Path, str] = {}
    for each in processes:
        if (path := log_file(root, each.settings)) is None:
            continue
        keys = ("process", each.name, "log_file")
        owner = owners.setdefault(path, each.name)
        if owner != each.name:
            text = f"{owner} writes to this file, too"
            problems.add(file.error(keys, text, hint="Give each process a file of its own."))
        elif path.is_dir():
            problems.add(file.error(keys, "this is a folder", hint="Name a file in it."))


# --- Which are run ---


def formation(text: str | None, processes: Sequence[Written]) -> dict[str, int]:
    """Say how many instances each process is to have.

    Args:
        text: As on the command line: ``web=2,worker=0,all=1``; ``all`` is for those that are not named.
        processes: Their settings say it where the command line does not.

    Raises:
        ConfigError: It has another form, or names a process that there is not.
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
    default = asked.get("all")
    return {
        each.name: asked.get(each.name, each.settings.instances if default is None else default)
        for each in processes
    }


def choose(
    path: Path,
    processes: Sequence[Written],
    *,
    only: Sequence[str],
    left_out: Sequence[str],
    counts: Mapping[str, int],
    waits_for: Mapping[str, Sequence[Dependency]],
    problems: Problems,
) -> list[Written]:
    """Find the processes that are run: those that are named, with their dependencies.

    Args:
        path: The Procfile, for messages.
        processes: All that there are.
        only: The names of the command line; none means all.
        left_out: Those that are not run, whatever depends on them.
        counts: How many instances each is to have; with none it is left out, too.
        waits_for: What each depends on.
        problems: Is told.
    """
    names = [each.name for each in processes]
    for name in (*only, *left_out):
        if name not in names:
            problems.add(
                ConfigError(f"there is no process {name}", path=path, hint=did_you_mean(name, names))
            )
        elif name in only and name in left_out:
            problems.add(ConfigError(f"{name} is named, and left out by -x, too", hint="Do one of the two."))
    absent = {name for name in names if name in left_out or not counts[name]}
    asked = [name for name in only if name in names] if only else names
    wanted: set[str] = set()
    unseen = [name for name in asked if name not in absent]
    while unseen:
        name = unseen.pop()
        if name not in wanted:
            wanted.add(name)
            unseen += [each.name for each in waits_for[name] if each.name not in absent]
    chosen = [each for each in processes if each.name in wanted]
    if not chosen and processes and (not only or asked):
        problems.add(ConfigError("no process is left to run", path=path, hint=_there_are(names)))
    return chosen


def instances_of(
    processes: Sequence[Written], chosen: Sequence[Written], counts: Mapping[str, int]
) -> dict[str, list[str]]:
    """Say what the instances of each process are called: a single one is called like the process."""
    instances: dict[str, list[str]] = {each.name: [] for each in processes}
    for name, count in ((each.name, counts[each.name]) for each in chosen):
        instances[name] = [name] if count == 1 else [f"{name}.{number}" for number in range(1, count + 1)]
    return instances


# --- What each depends on ---


def dependencies(
    processes: Sequence[Written], file: SettingsFile, problems: Problems
) -> dict[str, tuple[Dependency, ...]]:
    """Say what each process depends on, without what cannot work."""
    names = [each.name for each in processes]
    found: dict[str, tuple[Dependency, ...]] = {}
    for each in processes:
        awaited = []
        for written in each.settings.depends_on:
            name, _, condition = written.partition(":")
            if name in names:
                awaited.append(Dependency(name, Condition(condition or "ready")))
            else:
                keys = ("process", each.name, "depends_on")
                hint = did_you_mean(name, names)
                problems.add(file.error(keys, f"there is no process {name}", hint=hint))
        found[each.name] = tuple(dict.fromkeys(awaited))
    while cycle := find_cycle({name: [each.name for each in others] for name, others in found.items()}):
        first, second = cycle[:2]
        text = f"dependency cycle: {' -> '.join(cycle)}"
        problems.add(file.error(("process", first, "depends_on"), text, hint="Take one of them out."))
        found[first] = tuple(each for each in found[first] if each.name != second)
    return found


def find_cycle(waits_for: Mapping[str, Sequence[str]]) -> list[str]:
    """Find a dependency cycle: ``[a, b, a]``, where a depends on b; empty if there is none.

    It begins with that of its processes which stands first in `waits_for`.
    """
    try:
        TopologicalSorter(waits_for).prepare()
    except CycleError as exc:
        # graphlib gives it in the order of starting, its first node once more at the end.
        cycle: list[str] = exc.args[1][:0:-1]
        begin = min(range(len(cycle)), key=lambda place: list(waits_for).index(cycle[place]))
        return [*cycle[begin:], *cycle[: begin + 1]]
    return []


def stop_levels(waits_for: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Give the order of stopping: a level may be stopped when the levels before it have ended.

    Nothing depends on those of the first level.

    Raises:
        ValueError: There is a dependency cycle.
    """
    dependents: dict[str, list[str]] = {name: [] for name in waits_for}
    for name, others in waits_for.items():
        for other in others:
            dependents[other].append(name)
    sorter = TopologicalSorter(dependents)
    sorter.prepare()
    levels = []
    while sorter.is_active():
        levels.append(list(sorter.get_ready()))
        sorter.done(*levels[-1])
    return levels


def ready_of(process: Written, file: SettingsFile, problems: Problems) -> str | tuple[str, ...] | None:
    """Give the checks that the settings ask for, without those that are invalid."""
    ready = process.settings.ready
    checks = []
    for check in () if ready is None else (ready,) if isinstance(ready, str) else ready:
        try:
            parse_checks(check)
        except ValueError as exc:
            keys = ("process", process.name, "ready")
            problems.add(file.error(keys, str(exc), hint=f"It can be {FORMS}."))
        else:
            checks.append(check)
    return (checks[0] if len(checks) == 1 else tuple(checks)) if checks else None


def is_http(ready: str | tuple[str, ...] | None) -> bool:
    """Whether one of these checks asks by HTTP."""
    return any(isinstance(check, HttpCheck) for check in parse_checks(ready))


def refuse_unready(
    processes: Iterable[str],
    waits_for: Mapping[str, Sequence[Dependency]],
    ready: Mapping[str, object],
    file: SettingsFile,
    problems: Problems,
) -> None:
    """Refuse to wait until a process is ready that has no readiness check.

    Args:
        processes: Those that are run.
        waits_for: What each depends on.
        ready: By process, its checks; ``None`` is none.
        file: Says where it was written.
        problems: Is told.
    """
    for name in processes:
        for each in waits_for[name]:
            if each.condition is Condition.READY and each.name in ready and ready[each.name] is None:
                hint = f'Set process.{each.name}.ready, such as "tcp", or depend on "{each.name}:started".'
                text = f"{each.name} has no readiness check"
                problems.add(file.error(("process", name, "depends_on"), text, hint=hint))


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Name the one that was probably meant, and all that there are."""
    near = nearest(name, names)
    return f"Did you mean {near}? {_there_are(names)}" if near else _there_are(names)


def _there_are(names: Sequence[str]) -> str:
    return f"There {'is only' if len(names) == 1 else 'are'} {', '.join(names)}."
