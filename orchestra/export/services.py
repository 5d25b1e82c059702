"""A plan -> the services that an engine is to run: what each consists of, and how others wait for it.

The instances of a process are one service with several members. Vite's development server is not a service,
unless it was named on the command line: in production its files are built. A readiness check becomes a
command that ends with 0 when the check passes; it needs a Python, but not orchestra.

Not here: the syntax of any engine.
"""

from __future__ import annotations

import re
import shlex
import shutil
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra.config.checks import DelayCheck, ExecCheck, HttpCheck, LogCheck, TcpCheck, parse_checks
from orchestra.config.environment import DEVELOPMENT, mentions_port, sibling_prefix
from orchestra.config.plan import Condition, Dependency, Role, base_name
from orchestra.config.schema import Restart

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from orchestra.config.checks import Check
    from orchestra.config.plan import Plan, ProcessPlan

__all__ = ["Service", "address_variables", "ordered", "program_of", "question_of", "services_of"]

# The last command of a list of simple commands, which the shell can be replaced by.
_LAST = re.compile(r"""((?:[^'"]|'[^']*'|"[^"]*")*(?:&&|;))?\s*((?:\w+=\S*\s+)*)(\S.*)""")
_QUOTED = re.compile(r"""'[^']*'|"[^"]*\"""")
_COMPOUND = re.compile(r"[|(){}`\n]|(?<!&)&(?!&)")
# Keywords, and builtins that are not programs.
_NOT_PROGRAMS = frozenset(
    {"!", ".", ":", "case", "cd", "exec", "exit", "export", "for", "if", "set", "source", "unset", "until"}
    | {"do", "done", "eval", "fi", "esac", "then", "wait", "while"}
)


class Service(Struct, frozen=True, kw_only=True):
    """One process of the Procfile.

    Attributes:
        members: Its instances; a single one has its name.
        variables: Their environments without variables of the system and the env files, in the same order.
        port: The port of the first one; ``None`` if it is not known to listen.
        depends_on: The services that it waits for.
        is_task: Whether others wait until it has completed.
        notes: Features without a counterpart in any engine, or not for production.
    """

    name: str
    members: tuple[ProcessPlan, ...]
    variables: tuple[Mapping[str, str], ...]
    port: int | None
    checks: tuple[Check, ...]
    depends_on: tuple[Dependency, ...]
    is_task: bool
    notes: tuple[str, ...]

    @property
    def process(self) -> ProcessPlan:
        """Common values of its members are read from the first one."""
        return self.members[0]

    @property
    def restart(self) -> Restart:
        """When it is started again: a backend with any restart policy is, however it ends."""
        restart, is_backend = self.process.restart, self.process.role is Role.BACKEND
        return Restart.ALWAYS if is_backend and restart is not Restart.NEVER else restart

    @property
    def delay(self) -> float:
        """Seconds that it takes to be ready, by its checks."""
        return max((each.seconds for each in self.checks if isinstance(each, DelayCheck)), default=0.0)


def services_of(
    plan: Plan, *, asked: Sequence[str], system: Mapping[str, str], env_file: Mapping[str, str]
) -> tuple[list[Service], list[str]]:
    """Give the services of a plan, and the names of processes that are not services.

    `system` is the environment that the plan was made with; `asked` are the processes named by the user.
    """
    left_out = {
        each.name for each in plan.processes if each.vite_folder and base_name(each.name) not in asked
    }
    kept = [each for each in plan.processes if each.name not in left_out]
    tasks = {
        each.name for process in kept for each in process.depends_on if each.condition is Condition.COMPLETED
    }
    by_name: dict[str, list[ProcessPlan]] = {}
    for each in kept:
        by_name.setdefault(base_name(each.name), []).append(each)
    found = [
        Service(
            name=name,
            members=tuple(members),
            variables=tuple(_variables(each, system, env_file) for each in members),
            port=_port_of(members[0]),
            checks=parse_checks(members[0].ready) if members[0].is_awaited else (),
            depends_on=_awaited(members[0], left_out),
            is_task=members[0].name in tasks,
            notes=tuple(_notes(members[0])),
        )
        for name, members in by_name.items()
    ]
    return found, sorted(left_out)


def ordered(services: Iterable[Service]) -> list[Service]:
    """Give the services so that each comes after those that it waits for."""
    by_name = {each.name: each for each in services}
    waits_for = {name: [other.name for other in each.depends_on] for name, each in by_name.items()}
    return [by_name[name] for name in TopologicalSorter(waits_for).static_order()]


def _variables(
    process: ProcessPlan, system: Mapping[str, str], env_file: Mapping[str, str]
) -> dict[str, str]:
    found = {
        name: text
        for name, text in (process.env or {}).items()
        if name == "PATH"
        or text != (env_file if name in env_file else system).get(name, DEVELOPMENT.get(name))
    }
    if process.app is not None and (process.cwd / "src").is_dir():
        found.setdefault("PYTHONPATH", str(process.cwd / "src"))
    return found


def _port_of(process: ProcessPlan) -> int | None:
    if process.named_ports and not mentions_port(process.command):
        return process.named_ports[0]
    asks = any(isinstance(each, TcpCheck | HttpCheck) for each in parse_checks(process.ready))
    listens = asks or process.app or process.is_python_server or mentions_port(process.command)
    return process.port if listens or process.role is not Role.OTHER else None


def _awaited(process: ProcessPlan, left_out: set[str]) -> tuple[Dependency, ...]:
    names = ((base_name(each.name), each) for each in process.depends_on if each.name not in left_out)
    return tuple(dict.fromkeys(Dependency(name, each.condition) for name, each in names))


def _notes(process: ProcessPlan) -> Iterable[str]:
    if process.reloader is not None:
        yield f"its command reloads itself ({process.reloader.word}): take that out for production"
    if "ORCHESTRA_URL" in process.command or "ORCHESTRA_PORT" in process.command:
        yield "set ORCHESTRA_URL and ORCHESTRA_PORT to the public address: there is no proxy"
    if any(isinstance(each, LogCheck) for each in parse_checks(process.ready)):
        yield "it is ready by a line of its output: that has no counterpart, it counts as ready when it runs"
    if process.app is not None and shutil.which("hypercorn", path=(process.env or {}).get("PATH")) is None:
        yield "Hypercorn has to be installed for it"
    if process.on_ready is not None:
        yield f"on_ready has no counterpart: {process.on_ready}"
    if process.pty is True:
        yield "it gets no terminal of its own"


# --- Commands ---


def program_of(process: ProcessPlan, *, host: str) -> str:
    """Give a command for ``/bin/sh -c``, which `exec`s it if it can; applications listen on `host`."""
    if process.app is not None:
        grace = f"--graceful-timeout {max(process.stop_timeout - 1, 0):g}"
        return f"exec hypercorn --bind {host}:$PORT {grace} {shlex.quote(process.app)}"
    if process.shell is not None:
        return process.in_shell(process.command)
    is_compound = _COMPOUND.search(_QUOTED.sub("", process.command))
    found = None if is_compound else _LAST.fullmatch(process.command)
    if found is None or found[3].split()[0] in _NOT_PROGRAMS:
        return process.command
    return f"{found[1] or ''} {found[2]}exec {found[3]}".strip()


def question_of(service: Service, *, host: str = "127.0.0.1", member: int = 0, own: bool = True) -> str:
    """Give a command that ends with 0 if a member is ready, as far as a command can check it; or none.

    `own` says whether the command has the member's folder, environment and programs; it reaches the member at
    `host`.
    """
    port = service.port
    if port is not None and len(service.members) > 1:
        port = service.members[member].port
    asked = [_question(each, service, host, port) for each in service.checks]
    if not own:
        asked = [
            text for text, each in zip(asked, service.checks, strict=True) if not isinstance(each, ExecCheck)
        ] or [_connects(host, port)]
    return " && ".join(dict.fromkeys(filter(None, asked)))


def _question(check: Check, service: Service, host: str, port: int | None) -> str:
    match check:
        case TcpCheck(at=at):
            return _connects(host, port) if at is None else _connects(at.host, at.port)
        case HttpCheck(at=at):
            where = (host, port, "http") if at is None else (at.host, at.port, at.scheme)
            return _answers(check, *where)
        case ExecCheck(command=command):
            return f"({service.process.in_shell(command)})"
        case _:
            return ""


def _python(program: str) -> str:
    return f"python3 -c {shlex.quote(program)} 2>/dev/null"


def _connects(host: str, port: int | None) -> str:
    return "" if port is None else _python(f'import socket; socket.create_connection(("{host}", {port}), 2)')


def _answers(check: HttpCheck, host: str, port: int | None, scheme: str) -> str:
    if port is None:
        return ""
    kind = "HTTPSConnection" if scheme == "https" else "HTTPConnection"
    wrong = f"status >= {check.below}" if check.status is None else f"status != {check.status}"
    return _python(
        f'from http.client import {kind}; c = {kind}("{host}", {port}, timeout=2); '
        f'c.request("GET", "{check.path}"); exit(c.getresponse().{wrong})'
    )


def address_variables(service: Service, hosts: Mapping[str, str]) -> dict[str, str]:
    """Give the variables of its first member for services on other machines, which `hosts` names."""
    found = {name: text for name, text in service.variables[0].items() if name not in ("PATH", "VIRTUAL_ENV")}
    for name, host in hosts.items():
        prefix = sibling_prefix(name)
        if f"{prefix}_URL" in found:
            found[f"{prefix}_URL"] = f"http://{host}:{found[f'{prefix}_PORT']}"
    return found
