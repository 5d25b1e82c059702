"""Which processes there are, which of them are run, how often, and what each waits for.

The Procfile says which there are; a table of the settings may define another one. `choose` follows the
command line: names, ``-x`` and the formation; whoever is chosen brings what it depends on.

Never here: ports, folders, what a command does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.config import environment, procfile as procfiles, settings as settings_files
from orchestra.config.graph import circle, closure
from orchestra.config.plan import Condition, Dependency, Log, Source
from orchestra.config.readiness import FORMS, HttpCheck, parse_checks
from orchestra.config.settings import ProcessSettings
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from orchestra.config.faults import Faults
    from orchestra.config.settings import Loaded

__all__ = [
    "Written",
    "choose",
    "dependencies",
    "did_you_mean",
    "formation",
    "gather",
    "log_of",
    "no_servers",
    "ready_of",
    "refuse_waiting_for_what_has_no_readiness",
]

# So many ports each process has for its instances.
MOST_INSTANCES = 100
# What serves an `app`; without workers of its own, so that its exit code is true.
_SERVE = "exec hypercorn --workers 0 --graceful-timeout 1 --access-logfile - --bind 127.0.0.1:$PORT"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A process as it was written down, before anything is decided."""

    name: str
    command: str
    source: Source
    settings: ProcessSettings
    cwd: Path


def gather(
    path: Path, root: Path, entries: Iterable[procfiles.Entry], loaded: Loaded, faults: Faults
) -> list[Written]:
    """Give the Procfile's processes in its order, then those that only the settings define."""
    tables = dict(loaded.settings.process)
    processes: list[Written] = []
    for entry in entries:
        table = tables.pop(entry.name, None) or ProcessSettings()
        with faults.caught():
            for key in ("command", "app"):
                if getattr(table, key) is not None:
                    raise loaded.error(
                        ("process", entry.name, key),
                        f"{entry.name} has a command in {path}:{entry.line}, too",
                        hint="Delete one of the two.",
                    )
        with faults.caught():
            _check_table(entry.name, table, loaded)
        source = Source(path=path, line=entry.line)
        processes.append(_written(entry.name, entry.command, table, source, root))
    for name, table in tables.items():
        with faults.caught():
            only_here = _only_in_settings(name, table, loaded, path=path, root=root, others=processes)
            processes.append(only_here)
    with faults.caught():
        _refuse_collisions(processes)
    _refuse_shared_logs(processes, loaded, root, faults)
    return processes


def _written(name: str, command: str, table: ProcessSettings, source: Source, root: Path) -> Written:
    cwd = (table.cwd or "").replace("\0", "")
    return Written(name=name, command=command, source=source, settings=table, cwd=root / cwd)


def _only_in_settings(
    name: str, table: ProcessSettings, loaded: Loaded, *, path: Path, root: Path, others: Sequence[Written]
) -> Written:
    command = (table.command or "").strip()
    if command and table.app is not None:
        text = f"{name} has a command, too"
        raise loaded.error(("process", name, "app"), text, hint="Delete one of the two.")
    if table.app is not None:
        command = f"{_SERVE} {table.app}"
    if not command:
        near = settings_files.nearest(name, [each.name for each in others])
        raise loaded.error(
            ("process", name),
            f"there is no process {name} in {path.name}, and no command here",
            hint=f"Did you mean {near}?" if near else f"Add it to {path.name}, or set command or app.",
        )
    if not procfiles.is_name(name):
        raise loaded.error(
            ("process", name), "not allowed as a name", hint="Names are made of letters, digits, _ and -."
        )
    _check_table(name, table, loaded)
    line = loaded.line("process", name, "command") or loaded.line("process", name) or 1
    return _written(name, command, table, Source(path=loaded.path or path, line=line), root)


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


def log_of(root: Path, table: ProcessSettings, instance: str | None = None) -> Log | None:
    """Give the file of a process's output; each instance has one of its own: ``web.1.log``."""
    if table.log_file is None:
        return None
    path = root / table.log_file
    if instance is not None:
        path = path.with_name(f"{path.stem}.{instance}{path.suffix}")
    return Log(path=path, max_bytes=table.log_bytes, backups=table.log_backups)


def _refuse_shared_logs(processes: Sequence[Written], loaded: Loaded, root: Path, faults: Faults) -> None:
    owners: dict[Path, str] = {}
    for each in processes:
        if (log := log_of(root, each.settings)) is None:
            continue
        keys = ("process", each.name, "log_file")
        owner = owners.setdefault(log.path, each.name)
        if owner != each.name:
            text = f"{owner} writes to this file, too"
            faults.add(loaded.error(keys, text, hint="Give each process a file of its own."))
        elif log.path.is_dir():
            faults.add(loaded.error(keys, "this is a folder", hint="Name a file in it."))


def _refuse_collisions(processes: Sequence[Written]) -> None:
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
    for part in (text or "").split(","):
        name, equals, count = (piece.strip() for piece in part.partition("="))
        if not part.strip() and (text is None or asked):
            continue  # a comma at the end is no crime
        if not equals or not name or not (count.isascii() and count.isdigit()):
            raise ConfigError(
                f"--formation {text}: {part.strip() or 'nothing'} is no NAME=NUMBER",
                hint="Write it as web=2,worker=0 or all=1.",
            )
        if name != "all" and name not in names:
            raise ConfigError(
                f"--formation {text}: there is no process {name}", hint=did_you_mean(name, [*names, "all"])
            )
        if name in asked:
            raise ConfigError(f"--formation {text}: {name} is in it twice", hint="Say it once.")
        if len(count) > 3 or int(count) > MOST_INSTANCES:
            raise ConfigError(
                f"--formation {text}: {count} instances of {name} are too many",
                hint=f"There can be {MOST_INSTANCES} at most.",
            )
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
    faults: Faults,
) -> list[Written]:
    """Find those that are to be run: those that are named, with all that they wait for.

    Args:
        path: The Procfile, for messages.
        processes: All that there are.
        only: The names of the command line; none means all.
        left_out: Those that are not to be run, whoever waits for them.
        counts: How many instances each is to have; none: it is left out, too.
        waits_for: What each waits for.
        faults: Is told.
    """
    names = [each.name for each in processes]
    for name in (*only, *left_out):
        if name not in names:
            faults.add(ConfigError(f"there is no process {name}", path=path, hint=did_you_mean(name, names)))
        elif name in only and name in left_out:
            faults.add(ConfigError(f"{name} is named, and left out by -x, too", hint="Do one of the two."))
    absent = {name for name in names if name in left_out or not counts[name]}
    offered = {
        name: [each.name for each in others if each.name not in absent] for name, others in waits_for.items()
    }
    asked = [name for name in only if name in names] if only else names
    wanted = closure((name for name in asked if name not in absent), offered)
    chosen = [each for each in processes if each.name in wanted]
    if not chosen and processes and (not only or asked):
        faults.add(ConfigError("no process is left to run", path=path, hint=_there_are(names)))
    return chosen


def dependencies(
    processes: Sequence[Written], loaded: Loaded, faults: Faults
) -> dict[str, tuple[Dependency, ...]]:
    """Say who waits for whom; refuse what cannot work."""
    names = [each.name for each in processes]
    found: dict[str, tuple[Dependency, ...]] = {}
    for each in processes:
        waited_for = []
        for written in each.settings.depends_on:
            name, _, condition = written.partition(":")
            if name in names:
                waited_for.append(Dependency(name, Condition(condition or "ready")))
            else:
                keys = ("process", each.name, "depends_on")
                text = f"there is no process {name}"
                faults.add(loaded.error(keys, text, hint=did_you_mean(name, names)))
        found[each.name] = tuple(dict.fromkeys(waited_for))
    while in_circle := circle({name: [each.name for each in others] for name, others in found.items()}):
        faults.add(
            loaded.error(
                ("process", in_circle[0], "depends_on"),
                f"they wait for each other: {' -> '.join(in_circle)}",
                hint="Take one of them out.",
            )
        )
        found[in_circle[0]] = tuple(each for each in found[in_circle[0]] if each.name != in_circle[1])
    return found


def ready_of(process: Written, loaded: Loaded, faults: Faults) -> str | tuple[str, ...] | None:
    """Give the checks that the settings ask for; those that are none are left out."""
    ready = process.settings.ready
    checks = []
    for check in ready if isinstance(ready, list) else [] if ready is None else [ready]:
        try:
            parse_checks(check)
        except ValueError as exc:
            keys = ("process", process.name, "ready")
            faults.add(loaded.error(keys, str(exc), hint=f"It can be {FORMS}."))
        else:
            checks.append(check)
    return (checks[0] if len(checks) == 1 else tuple(checks)) if checks else None


def no_servers(
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


def refuse_waiting_for_what_has_no_readiness(
    processes: Iterable[str],
    waits_for: Mapping[str, Sequence[Dependency]],
    ready: Mapping[str, object],
    loaded: Loaded,
    faults: Faults,
) -> None:
    """Only what is asked for its readiness can ever be ready.

    Args:
        processes: Those that are run.
        waits_for: What each waits for.
        ready: By process, what it is asked; ``None`` is nothing.
        loaded: Says where it was written down.
        faults: Is told.
    """
    for name in processes:
        for each in waits_for[name]:
            if each.condition is Condition.READY and each.name in ready and ready[each.name] is None:
                faults.add(
                    loaded.error(
                        ("process", name, "depends_on"),
                        f"nobody knows when {each.name} is ready",
                        hint=f'Set process.{each.name}.ready, such as "tcp",'
                        f' or depend on "{each.name}:started".',
                    )
                )


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Name the one that was probably meant, and all that there are."""
    near = settings_files.nearest(name, names)
    return f"Did you mean {near}? {_there_are(names)}" if near else _there_are(names)


def _there_are(names: Sequence[str]) -> str:
    return f"There {'is only' if len(names) == 1 else 'are'} {', '.join(names)}."
