"""What a changed plan requires: which processes are started, stopped and restarted, and what stays.

A process is restarted only if its child would be a different one: `_OF_THE_CHILD` names the fields that
define a child. All other fields apply without a restart, from the next decision or the next child on.
Readiness and role are between the two: a ready process stays ready; one that is not ready has to pass the new
checks from its first line on, and so needs a new child.

Not here: carrying it out (`run`), the ports of processes that run (`config.load`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct, json, structs

from orchestra.config.environment import sibling_prefix
from orchestra.config.plan import Address, Note, Plan, ProcessPlan, ProxyPlan, Role, base_name
from orchestra.events import State, StateChanged

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.config.schema import DashboardSettings, ReloadSettings

__all__ = ["Difference", "difference", "settled"]

# The mode is among them because a child that may overlap has a mark of its own in its environment.
_OF_THE_CHILD = frozenset({"command", "cwd", "env", "port", "pty", "restart_mode", "shell"})
_OF_READINESS = frozenset({"ready", "role"})
# Either there is no child, and the next one follows the new plan, or the process is being stopped.
_LEFT_ALONE = frozenset({State.WAITING, State.INSTALLING, State.STOPPING, State.STOPPED})

# Settings that are fixed at the start, by table.
_FIXED = {
    "run": ("output", "color", "timestamps", "names", "requests"),
    "reload": ("enabled", "pages", "overlay", "console"),
    "dashboard": ("keys", "mouse"),
}

_T = TypeVar("_T", "Plan", "ReloadSettings", "DashboardSettings")


class Difference(Struct, frozen=True, kw_only=True):
    """The changes that a run has to make to follow another plan.

    Attributes:
        started: New processes, in the order of the Procfile.
        stopped: Processes that are not in the new plan.
        restarted: Processes that need another child.
        has_changed: Whether anything differs in the user's files.
    """

    started: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    has_changed: bool = False

    def __bool__(self) -> bool:
        return self.has_changed or bool(self.restarted)


def difference(old: Plan, new: Plan, newest: Mapping[str, StateChanged]) -> Difference:
    """Compare two plans; `newest` has the current states of the old one's processes, by name."""
    before = {each.name: each for each in old.processes}
    now = {each.name: each for each in new.processes}
    siblings = _sibling_variables({*before, *now})
    return Difference(
        started=tuple(name for name in now if name not in before),
        stopped=tuple(name for name in before if name not in now),
        restarted=tuple(
            name
            for name, plan in now.items()
            if name in before and _needs_new_child(before[name], plan, newest[name], siblings)
        ),
        has_changed=_as_written(old, siblings) != _as_written(new, siblings),
    )


def _needs_new_child(
    old: ProcessPlan, new: ProcessPlan, newest: StateChanged, siblings: frozenset[str]
) -> bool:
    changed = {name for name in new.__struct_fields__ if getattr(old, name) != getattr(new, name)}
    if _has_same_environment(old.env, new.env, siblings):
        changed.discard("env")
    if newest.state in _LEFT_ALONE:
        return False
    if changed & _OF_THE_CHILD:
        return True
    if not changed & _OF_READINESS:
        return False
    match newest.state:
        case State.STARTING | State.UNHEALTHY:
            return True
        case State.RUNNING:
            return new.ready is not None
        case State.READY:
            return new.role is not Role.OTHER and newest.url is None  # its address has to be found
        case _:
            return False


def _sibling_variables(names: set[str]) -> frozenset[str]:
    """The variables that contain the address of another process."""
    prefixes = {sibling_prefix(base_name(name)) for name in names}
    return frozenset(f"{prefix}{ending}" for prefix in prefixes for ending in ("_PORT", "_URL"))


def _has_same_environment(
    old: Mapping[str, str] | None, new: Mapping[str, str] | None, siblings: frozenset[str]
) -> bool:
    """Whether a child would see the same; new and missing siblings do not count, only those that move."""
    if old is None or new is None:
        return old is new
    different = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    return all(name in siblings and (name not in old or name not in new) for name in different)


def _as_written(plan: Plan, siblings: frozenset[str]) -> Plan:
    """The plan without the parts that do not come from its settings."""
    processes = [
        structs.replace(
            each,
            install=None,  # it has been carried out
            env=each.env and {name: text for name, text in each.env.items() if name not in siblings},
        )
        for each in plan.processes
    ]
    return structs.replace(plan, processes=tuple(processes), notes=())


def settled(old: Plan, new: Plan) -> Plan:
    """Give the new plan as far as a run of the old one can follow it; notes name the settings that wait."""
    proxy, notes = _settled_proxy(old.proxy, new.proxy)
    reload = _kept("reload", old.reload, new.reload, notes)
    dashboard = _kept("dashboard", old.dashboard, new.dashboard, notes)
    run = _kept("run", old, new, notes)
    return structs.replace(run, reload=reload, dashboard=dashboard, proxy=proxy, notes=(*new.notes, *notes))


def _kept(table: str, old: _T, new: _T, notes: list[Note]) -> _T:
    """Give `new` with the fixed settings of `old`, and a note for each one that differs."""
    differing = [name for name in _FIXED[table] if getattr(old, name) != getattr(new, name)]
    notes += [_stays(f"[{table}] {name}", getattr(old, name), getattr(new, name)) for name in differing]
    return structs.replace(new, **{name: getattr(old, name) for name in differing})


def _settled_proxy(old: ProxyPlan | None, new: ProxyPlan | None) -> tuple[ProxyPlan | None, list[Note]]:
    if old is None:
        text = "this run has no proxy, and goes on without one"
        return None, [Note(text, "Run orchestra again to have one.", "warning")] if new is not None else []
    if new is None:
        text = "the proxy stays, and has nothing to ask any more"
        alone = structs.replace(
            old,
            backend=None,
            backend_reason="",
            frontend=None,
            frontend_reason="",
            frontends={},
            candidates=(),
        )
        return alone, [Note(text, "Run orchestra again to be without it.", "warning")]
    notes = []
    if (old.host, old.port) != (new.host, new.port):
        stays, asked = Address(old.host, old.port), Address(new.host, new.port)
        notes.append(_stays("[proxy] listen", str(stays), str(asked)))
    return structs.replace(new, host=old.host, port=old.port, may_move=old.may_move), notes


def _stays(setting: str, stays: str | bool, asked: str | bool) -> Note:  # noqa: FBT001 - a value
    text = f"{setting} stays {json.encode(stays).decode()} in this run"
    return Note(text, f"Run orchestra again to have {json.encode(asked).decode()}.", "warning")
