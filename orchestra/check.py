"""`orchestra check`: everything that is wrong, at once, and everything that was understood, in words.

What a run reads is read in the same way (`config.load`), but no fault ends it. Then comes what only a look at
the machine shows: programs, versions, and who holds the address.

Never here: starting anything but ``node --version``; printing.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestra.child import sockets
from orchestra.config import discover
from orchestra.config.faults import Faults
from orchestra.config.plan import AnyOf, AtUrl, Condition, FromProcess, base_name
from orchestra.errors import ConfigError
from orchestra.stack import load

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.config import Overrides
    from orchestra.config.discover import Reading
    from orchestra.config.plan import Plan, ProcessPlan, UpstreamPlan

__all__ = ["Report", "check"]

_NODE_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Report:
    """What came out.

    Attributes:
        faults: All that is wrong, in the order of the files.
        understood: What a run would do, line by line; empty if nothing could be read.
    """

    faults: tuple[ConfigError, ...]
    understood: tuple[str, ...]


def check(
    procfile: Path | str | None = None,
    *,
    environ: Mapping[str, str],
    only: Sequence[str] = (),
    left_out: Sequence[str] = (),
    overrides: Overrides | None = None,
) -> Report:
    """Look at everything that a run would need; the arguments are those of `load`."""
    faults = Faults(are_kept=True)
    try:
        plan = load(
            procfile, environ=environ, only=only, left_out=left_out, overrides=overrides, faults=faults
        )
    except ConfigError as exc:
        return Report((*faults.found, exc), ())
    readings = {base_name(each.name): _read(each, plan) for each in plan.processes}
    for name, process in _by_base_name(plan).items():
        for fault in _program_faults(name, process, readings[name], environ):
            faults.add(fault)
    if plan.proxy is not None:
        with faults.caught():
            for listener in sockets.bind(plan.proxy.host, plan.proxy.port):
                listener.close()
    return Report(_in_order(faults.found, plan), tuple(_understood(plan, readings)))


def _read(process: ProcessPlan, plan: Plan) -> Reading:
    root = plan.procfile.parent if plan.procfile is not None else process.cwd
    return discover.read(process.command, cwd=process.cwd, root=root, env=process.env)


def _by_base_name(plan: Plan) -> dict[str, ProcessPlan]:
    return {base_name(each.name): each for each in reversed(plan.processes)}


def _in_order(found: Sequence[ConfigError], plan: Plan) -> tuple[ConfigError, ...]:
    """Sort by files, in the order in which they are read first, the Procfile before all; then by lines."""
    paths = [None if each.path is None else each.path.absolute() for each in found]
    files = [plan.procfile, *(path for path in dict.fromkeys(paths) if path is not None)]

    def place(fault: ConfigError) -> tuple[int, int]:
        path = None if fault.path is None else fault.path.absolute()
        return (len(files) if path is None else files.index(path), fault.line or 0)

    unique = {(str(each), each.hint): each for each in found}
    return tuple(sorted(unique.values(), key=place))


# --- The machine ---


def _program_faults(
    name: str, process: ProcessPlan, reading: Reading, environ: Mapping[str, str]
) -> Iterator[ConfigError]:
    def wrong(message: str, hint: str) -> ConfigError:
        source = process.source
        path, line = (source.path, source.line) if source is not None else (None, None)
        return ConfigError(f"{name}: {message}", path=path, line=line, hint=hint)

    path = (process.env or environ).get("PATH", os.defpath)
    program, cwd = reading.program, reading.program_cwd
    if _has_open_quote(process.command):
        yield wrong("a quote is opened and not closed", "Close it.")
    if process.install is not None and "node_modules/" in program:
        program = ""  # it is going to be installed
    if program and program not in reading.needs:
        if "/" not in program:
            if shutil.which(program, path=path) is None:
                yield wrong(f"{program} is not found on PATH", "Install it, or correct the command.")
        elif cwd is not None and not (cwd / program).exists():
            yield wrong(f"there is no {cwd / program}", "Create it, or correct the command.")
        elif cwd is not None and not os.access(cwd / program, os.X_OK):
            yield wrong(f"{cwd / program} is not executable", f"Make it so: chmod +x {cwd / program}")
    if reading.runs_vite and shutil.which("node", path=path) is not None:
        root = process.source.path.absolute().parent if process.source is not None else process.cwd
        vite, wanted = discover.installed_vite(reading.folder, root)
        found = _node_version(path)
        if vite and found and not _is_new_enough(found, wanted):
            yield wrong(
                f"Vite {vite} needs Node.js {wanted}, and this is {'.'.join(map(str, found))}",
                "Install a newer one: https://nodejs.org",
            )


def _has_open_quote(command: str) -> bool:
    try:
        shlex.split(command, comments=True)
    except ValueError:
        return True
    return False


def _node_version(path: str) -> tuple[int, ...]:
    node = shutil.which("node", path=path)
    if node is None:
        return ()
    try:
        done = subprocess.run(
            [node, "--version"], capture_output=True, text=True, timeout=_NODE_TIMEOUT, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.match(r"v(\d+)\.(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else ()


def _is_new_enough(version: tuple[int, ...], wanted: str) -> bool:
    """Whether a version is in a range such as ``^20.19.0 || >=22.12.0``; in one that cannot be read it is."""
    for part in wanted.split("||"):
        found = re.fullmatch(r"\s*(\^|>=)\s*(\d+)(?:\.(\d+))?(?:\.(\d+))?\s*", part)
        if found is None:
            return True
        least = tuple(int(number or 0) for number in found.groups()[1:])
        if version >= least and (found[1] == ">=" or version[0] == least[0]):
            return True
    return False


# --- What was understood ---


def _understood(plan: Plan, readings: Mapping[str, Reading]) -> Iterator[str]:
    yield str(plan.procfile or "")
    yield ""
    if plan.proxy is not None:
        yield f"{sockets.Listening(plan.proxy.host, plan.proxy.port).url} asks"
        yield f"  backend   {_named(plan.proxy.backend)}: {plan.proxy.backend_reason}"
        yield f"  frontend  {_named(plan.proxy.frontend)}: {plan.proxy.frontend_reason}"
    else:
        yield "no proxy: the processes only"
    for note in plan.notes:
        yield f"  {note}"
    yield ""
    width = max((len(each.name) for each in plan.processes), default=0)
    yield f"{'process':<{max(width, 7)}}  PORT   command"
    for process in plan.processes:
        yield f"{process.name:<{max(width, 7)}}  {process.port or '':<5}  {process.command}"
        for detail in _details(process, readings[base_name(process.name)], plan):
            yield f"{'':<{max(width, 7)}}         {detail}"
    if any(each.depends_on for each in plan.processes):
        yield ""
        yield "what waits for what"
        waited_for = {other.name for each in plan.processes for other in each.depends_on}
        for each in plan.processes:
            if each.depends_on and each.name not in waited_for:
                yield each.name
                yield from _tree(each, {process.name: process for process in plan.processes}, "")


def _details(process: ProcessPlan, reading: Reading, plan: Plan) -> Iterator[str]:
    root = plan.procfile.parent if plan.procfile is not None else process.cwd
    if process.install is not None:
        yield f"`{' '.join(process.install.argv)}` is run first, in {process.install.folder}"
    if reading.runs_vite:
        vite, _ = discover.installed_vite(reading.folder, root)
        yield f"Vite {vite}" if vite else "Vite, not installed yet"
    if process.ready is not None:
        checks = (process.ready,) if isinstance(process.ready, str) else process.ready
        yield f"ready: {', '.join(checks)}"


def _named(upstream: UpstreamPlan) -> str:
    match upstream:
        case FromProcess():
            return " and ".join(upstream.members)
        case AtUrl():
            return sockets.Listening(upstream.host, upstream.port).url
        case AnyOf(names=names):
            return " or ".join(names)


def _tree(process: ProcessPlan, processes: Mapping[str, ProcessPlan], margin: str) -> Iterator[str]:
    words = {Condition.READY: "ready", Condition.STARTED: "started", Condition.COMPLETED: "completed"}
    for index, each in enumerate(process.depends_on, 1):
        is_last = index == len(process.depends_on)
        yield f"{margin}{'└' if is_last else '├'}─ {each.name}, {words[each.condition]}"
        yield from _tree(processes[each.name], processes, margin + ("   " if is_last else "│  "))
