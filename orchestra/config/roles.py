"""Which process is the frontend, and which the backend: one rule, before the start and during the run.

`decide` is pure. `load` calls it with what can be read before the start; the supervisor calls it again, with
`facts_of(plan)`, whenever a socket of a process without a role has revealed something. The first row that
fits decides:

| upstream | is                                                                    | known          |
|----------|-----------------------------------------------------------------------|----------------|
| frontend | what ``proxy.frontend`` says: a process, a URL, or none               | by settings    |
|          | the first process whose command runs Vite, except the backend         | by command     |
|          | the first process without a role that answers ``/@vite/client``, or   | at run time    |
|          | has pages of Next.js; or a second socket of the backend's that does   |                |
|          | `UNDECIDED`, while the kind of a process without a role is not known  |                |
|          | none                                                                  |                |
| backend  | what ``proxy.backend`` says                                           | by settings    |
|          | a process called backend, api, web, server, app (in this order), if   | by name        |
|          | it cannot be the frontend, or has turned out not to be one            | (at run time)  |
|          | the first process whose command is a known server                     | by command     |
|          | the first process whose ``ready`` is an HTTP check                    | by settings    |
|          | the first process without a role that answers HTTP as a plain server; | at run time    |
|          | or a second socket of the frontend's that does                        |                |
|          | `UNDECIDED`, as above                                                 |                |
|          | none                                                                  |                |

A process of ``proxy.frontends`` is a further frontend, and has neither of these two roles.

A process whose command runs Vite is never the backend, unless ``proxy.backend`` says so. A process cannot be
the frontend if there is another one, or if its command is a known server or names ``$PORT``. "First" is the
order of the Procfile: as long as an earlier process is not known, a later one has to wait, for a short time
(`Facts.waits`). A role found at run time is final (`Facts.settled`). A process that was `Seen.SILENT` may
still answer, and is then found late.

Run-time facts are collected by the supervisor, only for the processes in `Roles.to_ask` (`Role.UNDECIDED` in
the plan). They belong to sockets: ``make dev`` may start Vite and the backend. Such a process is both
upstreams: the kind found first is its role, and the other one is its second server (`FromProcess.is_second`).
A server that Vite has started belongs to Vite, and is not a backend.

Not here: probing sockets, reading commands, requests while an upstream is undecided.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct
from msgspec.structs import replace

from orchestra.config.plan import UNDECIDED, Address, FromProcess, Plan, Role, UpstreamPlan, base_name
from orchestra.config.schema import OWN_PATH
from orchestra.config.toml import SettingsFile, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path


__all__ = [
    "FRONTENDS",
    "NOT_HTTP",
    "SILENT_AFTER",
    "Facts",
    "ProcessFacts",
    "Roles",
    "Seen",
    "decide",
    "facts_of",
    "given",
]

# Names of processes that are the backend, in the order of preference.
BACKEND_NAMES = ("backend", "api", "web", "server", "app")
# Programs whose sockets are not probed.
NOT_HTTP = frozenset({
    "beanstalkd", "mariadbd", "memcached", "mongod", "mosquitto", "mysqld", "mysqld_safe", "nats-server",
    "postgres", "rabbitmq-server", "redis-server", "valkey-server",
})  # fmt: skip
# Seconds without a listening socket after which a process is taken for one that never has one.
SILENT_AFTER = 5.0


class Seen(Enum):
    """What the sockets of a process have revealed so far."""

    NOTHING = "nothing"  # it is not started, starts, or has not answered yet
    HTTP = "http"  # a socket has answered HTTP, and it is neither of those below
    VITE = "vite"  # a socket has answered /@vite/client (below its base) with JavaScript
    NEXT = "next"  # a socket has answered with a page of Next.js's
    SILENT = "silent"  # it has ended, never listened for `SILENT_AFTER`, or does not speak HTTP


# The kinds of servers that make a process a frontend.
FRONTENDS = (Seen.VITE, Seen.NEXT)
_WORDS = {Seen.VITE: "answers /@vite/client", Seen.NEXT: "has a page of Next.js", Seen.HTTP: "answers HTTP"}


class ProcessFacts(Struct, frozen=True, kw_only=True):
    """The facts about one process.

    Attributes:
        runs_vite: How its command runs Vite, for people; empty if it does not, as far as known.
        serves: The known server in its command; empty if there is none.
        may_be_asked: Whether its sockets may be probed: it has no readiness check of its own, is not expected
            to complete, and does not run a program of `NOT_HTTP`.
        also: If it is one upstream: the kind of its other sockets; ``None`` if they are not probed.
    """

    name: str
    instances: tuple[str, ...] = ()
    runs_vite: str = ""
    serves: str = ""
    names_port: bool = False
    checks_http: bool = False
    may_be_asked: bool = True
    seen: Seen = Seen.NOTHING
    also: Seen | None = None

    @property
    def upstream(self) -> FromProcess:
        """The upstream that this process is, if it is one."""
        return FromProcess(name=self.name, instances=self.instances)


class Facts(Struct, frozen=True, kw_only=True):
    """All inputs of the decision.

    Attributes:
        processes: Those of the run, in the order of the Procfile.
        frontend: As set in the settings or the plan; `UNDECIDED` if it is not.
        backend: Likewise.
        waits: Whether a process has to wait for earlier ones that are not known yet.
    """

    processes: tuple[ProcessFacts, ...]
    frontends: Mapping[str, UpstreamPlan] = {}
    frontend: UpstreamPlan = UNDECIDED
    backend: UpstreamPlan = UNDECIDED
    waits: bool = True

    def of(self, process: str) -> ProcessFacts | None:
        """Give the facts about `process`, or about the instance of that name."""
        return next((each for each in self.processes if each.name == base_name(process)), None)

    def with_seen(self, process: str, seen: Seen, *, also: Seen | None = None) -> Facts:
        """Give new facts in which `process` (or the instance of that name) has revealed this."""
        known = self.of(process)
        found = known and replace(known, seen=seen, also=also or known.also)
        changed = (found if p is known and found else p for p in self.processes)
        return replace(self, processes=tuple(changed))

    def with_seen_of(self, earlier: Facts) -> Facts:
        """Give new facts that contain the findings in `earlier` ones."""
        changed = self
        for each in earlier.processes:
            changed = changed.with_seen(each.name, each.seen, also=each.also)
        return changed

    def settled(self, roles: Roles) -> Facts:
        """Give new facts in which open upstreams that were found are final."""
        found = {"frontend": roles.frontend, "backend": roles.backend}
        return replace(
            self,
            **{
                key: each
                for key, each in found.items()
                if getattr(self, key) is UNDECIDED and isinstance(each, FromProcess) and self.of(each.name)
            },
        )


class Roles(Struct, frozen=True, kw_only=True):
    """The decision.

    Attributes:
        to_ask: Names of the processes whose sockets still have to be probed.
    """

    frontend: UpstreamPlan = None
    frontend_reason: str = ""
    backend: UpstreamPlan = None
    backend_reason: str = ""
    frontends: Mapping[str, UpstreamPlan] = {}
    to_ask: tuple[str, ...] = ()

    def of(self, process: str) -> Role:
        """Give the role of the process of that name."""
        frontends = (self.frontend, *self.frontends.values())
        if any(isinstance(each, FromProcess) and each.name == process for each in frontends):
            return Role.FRONTEND
        if isinstance(self.backend, FromProcess) and self.backend.name == process:
            return Role.BACKEND
        return Role.UNDECIDED if process in self.to_ask else Role.OTHER


def decide(facts: Facts) -> Roles:
    """Decide both upstreams; see the table above."""
    frontend, frontend_reason = _of_this_run(facts.frontend, facts), "set by proxy.frontend"
    backend, backend_reason = _of_this_run(facts.backend, facts), "set by proxy.backend"
    further = {prefix: _of_this_run(each, facts) for prefix, each in facts.frontends.items()}
    processes = [each for each in facts.processes if each.upstream not in further.values()]
    if frontend is UNDECIDED:
        by_command = [each for each in processes if each.runs_vite and each.upstream != backend]
        if by_command:
            frontend = by_command[0].upstream
            frontend_reason = _and_others(by_command[0].runs_vite, by_command)
    others = [each for each in processes if each.upstream != frontend and not each.runs_vite]
    if backend is UNDECIDED:
        backend, backend_reason = _backend_before_start(others, may_be_vite=frontend is UNDECIDED)
    is_open, waits = backend is UNDECIDED and not backend_reason, facts.waits
    left = [each for each in others if each.upstream != backend and each.may_be_asked]
    to_decide = UNDECIDED in (frontend, backend)
    may_be_found = frontend is UNDECIDED
    if may_be_found:
        frontend, frontend_reason = _at_run_time(processes, left, backend, FRONTENDS, waits=waits)
    if is_open:
        backend, backend_reason = _at_run_time(processes, left, frontend, (Seen.HTTP,), waits=waits)
    if may_be_found and not isinstance(frontend, FromProcess):
        frontend, frontend_reason = _at_run_time(processes, left, backend, FRONTENDS, waits=waits)
    found = [each.name for each in (frontend, backend) if isinstance(each, FromProcess)]
    still_to_ask = [
        each.name
        for each in processes
        if to_decide and (each.also is not None if each.name in found else each in left)
    ]
    return Roles(
        frontend=frontend,
        frontend_reason=frontend_reason,
        backend=backend,
        backend_reason=backend_reason,
        frontends=further,
        to_ask=tuple(still_to_ask),
    )


def facts_of(plan: Plan) -> Facts:
    """Give the facts at the beginning of a run: the plan's decisions, and no findings yet."""
    names: dict[str, list[str]] = {}
    for each in plan.processes:
        names.setdefault(base_name(each.name), []).append(each.name)
    undecided = {base_name(each.name) for each in plan.processes if each.role is Role.UNDECIDED}
    candidates = () if plan.proxy is None else plan.proxy.candidates
    beside = {base_name(each) for each in candidates} - undecided
    processes = [
        ProcessFacts(
            name=name,
            instances=tuple(instances) if instances != [name] else (),
            may_be_asked=name in undecided,
            also=Seen.NOTHING if name in beside else None,
        )
        for name, instances in names.items()
    ]
    if plan.proxy is None:
        return Facts(processes=tuple(processes))
    frontend, backend, frontends = plan.proxy.frontend, plan.proxy.backend, plan.proxy.frontends
    return Facts(processes=tuple(processes), frontend=frontend, backend=backend, frontends=frontends)


def given(keys: tuple[str, ...], names: Sequence[str], file: SettingsFile, root: Path) -> UpstreamPlan:
    """Read the setting of an upstream; `UNDECIDED` if it is not set. A socket's path is relative to `root`.

    Args:
        keys: The setting: ``proxy`` and ``backend``, ``frontend``, or ``frontends`` and a prefix.
        names: All processes.
        file: The settings.
        root: The project's folder.

    Raises:
        ConfigError: It is neither a process nor a valid URL of an upstream, or the prefix is not valid.
    """
    prefix, table = keys[-1], file.settings.proxy
    value = table.frontends[prefix] if len(keys) == 3 else getattr(table, prefix)
    if value is None or value is False:
        return UNDECIDED if value is None else None
    hint = "Write http://HOST:PORT, https://HOST:PORT, or unix:PATH."
    if value is True:
        raise file.error(keys, "true is neither a process, a URL nor false", hint="Name the process.")
    if len(keys) == 3:
        _check_prefix(prefix, table.frontends, keys, file)
    if (path := value.removeprefix("unix:")) != value:
        if not path.strip("/"):
            raise file.error(keys, f"{value!r} has no path", hint=hint)
        return Address(str(root / path.removeprefix("//")), 0, "unix")
    if "://" not in value:
        if value not in names:
            raise file.error(keys, f"there is no process {value}", hint=did_you_mean(value, names))
        return FromProcess(name=value)
    try:
        url = urlsplit(value)
        url.port  # noqa: B018 - raises
    except ValueError as exc:
        raise file.error(keys, f"{value!r} is not a URL", hint=hint) from exc
    if url.scheme not in ("http", "https"):
        text = f"an upstream cannot be asked by {url.scheme}, only by http and https"
        raise file.error(keys, text, hint=hint)
    if not url.hostname or url.path not in {"", "/"} or url.query or url.fragment or "@" in url.netloc:
        raise file.error(keys, f"{value!r} is more, or less, than a host and a port", hint=hint)
    return Address.of_url(value)


def _check_prefix(
    prefix: str, all_prefixes: Iterable[str], keys: tuple[str, ...], file: SettingsFile
) -> None:
    hint = 'Write "/admin/" = "admin".'
    bare = prefix.rstrip("/")
    if not re.fullmatch(r"/[^/\s?#][^\s?#]*", prefix) or {"", ".", ".."} & {*bare[1:].split("/")}:
        raise file.error(keys, f"{prefix!r} is not a path below /", hint=hint)
    if bare == OWN_PATH or bare.startswith(f"{OWN_PATH}/"):
        raise file.error(keys, f"{OWN_PATH}/ is orchestra's own", hint=hint)
    first = next(each for each in all_prefixes if each.rstrip("/") == bare)
    if first != prefix:
        raise file.error(keys, f"it is there as {first!r}, too", hint="Delete one of the two.")


def _of_this_run(upstream: UpstreamPlan, facts: Facts) -> UpstreamPlan:
    """An upstream of the settings; none if that process is not part of the run."""
    if not isinstance(upstream, FromProcess):
        return upstream
    known = facts.of(upstream.name)
    return None if known is None else replace(known.upstream, is_second=upstream.is_second)


def _backend_before_start(others: Sequence[ProcessFacts], *, may_be_vite: bool) -> tuple[UpstreamPlan, str]:
    """The backend by its command or its name; the name counts unless it may still be a frontend."""
    for wanted in BACKEND_NAMES:
        for each in others:
            if each.name.lower() != wanted or each.seen in FRONTENDS:
                continue
            is_sure = not (may_be_vite and each.may_be_asked) or each.serves or each.names_port
            if not is_sure and each.seen is Seen.NOTHING:
                return UNDECIDED, f"{each.name}, unless it is a frontend"
            return each.upstream, f"it is called {each.name}"
    for each in others:
        if each.serves:
            return each.upstream, f"`{each.serves}` is a server"
    for each in others:
        if each.checks_http:
            return each.upstream, "its readiness is an HTTP check"
    return UNDECIDED, ""


def _at_run_time(
    processes: Sequence[ProcessFacts],
    left: Sequence[ProcessFacts],
    other: UpstreamPlan,
    wanted: Sequence[Seen],
    *,
    waits: bool,
) -> tuple[UpstreamPlan, str]:
    """The first process of a `wanted` kind; undecided while an earlier one is not known.

    Candidates are the processes in `left`, and the `other` upstream, by its second server.
    """
    fitting = [
        replace(each, seen=each.also) if each.upstream == other else replace(each, also=None)
        for each in processes
        if (each.also is not None if each.upstream == other else each in left)
    ]
    shown = [each for each in fitting if each.seen is Seen.NOTHING or each.seen in wanted]
    found = [each for each in shown if each.seen in wanted]
    if found and (not waits or found[0] is shown[0]):
        first = found[0]
        words = f"{'beside that, ' * (first.also is not None)}it {_WORDS[first.seen]}"
        return replace(first.upstream, is_second=first.also is not None), _and_others(words, found)
    return (UNDECIDED, f"the first that {_WORDS[wanted[0]]}") if shown else (None, "")


def _and_others(reason: str, found: Sequence[ProcessFacts]) -> str:
    others = ", ".join(each.name for each in found[1:])
    return f"{reason} (so does {others})" if others else reason
