"""What a changed plan asks of a run: for each field of a process, in each state, and of the run itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from orchestra import Condition, Dependency, Plan, ProcessPlan, ProxyPlan, Restart, Role, State
from orchestra.config.plan import FromProcess, Install, Note
from orchestra.config.reloaders import Reloader
from orchestra.config.schema import BeforeRestart, ReloadSettings
from orchestra.events import StateChanged
from orchestra.supervision.difference import Difference, difference, settled

API = ProcessPlan(name="api", command="serve", cwd=Path("/p"), env={"A": "1"}, port=5000)
JOB = ProcessPlan(name="job", command="work", cwd=Path("/p"), env={"A": "1"}, port=5100)
OLD = Plan(processes=(API, JOB))
PROXY = ProxyPlan(backend=FromProcess(name="api"), frontend=None)
RUNS = (State.STARTING, State.RUNNING, State.READY, State.UNHEALTHY)

# Another value of each field, and whether it makes another child.
CHANGES: dict[str, tuple[Any, bool]] = {
    "command": ("serve --fast", True),
    "cwd": (Path("/q"), True),
    "env": ({"A": "2"}, True),
    "port": (5001, True),
    "pty": (False, True),
    "restart_mode": ("overlap", True),
    "shell": ("bash", True),
    "app": ("app:app", False),
    "is_python_server": (True, False),
    "vite_folder": (Path("/p/ui"), False),
    "reloader": (Reloader("--reload"), False),
    "may_move": (True, False),
    "install": (Install(folder=Path("/p"), argv=("npm", "ci")), False),
    "depends_on": ((Dependency("job", Condition.STARTED),), False),
    "ready_timeout": (1.0, False),
    "liveness": (True, False),
    "program": ("x", False),
    "named_ports": ((5432,), False),
    "autostart": (False, False),
    "quiet": (True, False),
    "restart_unhealthy": (True, False),
    "on_ready": ("echo", False),
    "restart": (Restart.ALWAYS, False),
    "max_quick_failures": (1, False),
    "success_exit_codes": (frozenset({0, 3}), False),
    "stop_signal": ("INT", False),
    "stop_timeout": (1.0, False),
    "log_file": (Path("/p/log"), False),
    "log_bytes": (1000, False),
    "log_backups": (1, False),
    "watch": (("*.py",), False),
    "ignore": (("*.py",), False),
    "before_restart": ((BeforeRestart(command="make"),), False),
    "warm_spare": (True, False),
}
OF_READINESS = {"ready", "role"}


def newest(state: State = State.RUNNING, url: str | None = None) -> dict[str, StateChanged]:
    return {name: StateChanged(process=name, state=state, previous=state, url=url) for name in ("api", "job")}


def changed(state: State = State.RUNNING, url: str | None = None, **fields: Any) -> Difference:
    new = replace(OLD, processes=(replace(API, **fields), JOB))
    return difference(OLD, new, newest(state, url))


def test_the_same_plan_asks_for_nothing() -> None:
    found = difference(OLD, Plan(processes=OLD.processes), newest())
    assert (found, bool(found)) == (Difference(), False)


def test_each_field_of_a_process_is_decided_about() -> None:
    assert set(ProcessPlan.__struct_fields__) == {"name", *OF_READINESS, *CHANGES}


@pytest.mark.parametrize("field", CHANGES)
@pytest.mark.parametrize("state", RUNS)
def test_only_what_a_child_is_made_of_restarts_it(field: str, state: State) -> None:
    value, is_of_the_child = CHANGES[field]
    found = changed(state, **{field: value})
    assert found.restarted == (("api",) if is_of_the_child else ())
    # An installation is carried out, which is no change that the user has made.
    assert found.has_changed is (field != "install")


@pytest.mark.parametrize("state", [State.FAILED, State.BACKING_OFF, State.COMPLETED])
def test_a_process_that_has_ended_is_started_by_a_new_command(state: State) -> None:
    assert changed(state, command="mended").restarted == ("api",)
    assert changed(state, stop_timeout=1.0).restarted == ()


@pytest.mark.parametrize("state", [State.WAITING, State.INSTALLING, State.STOPPING, State.STOPPED])
def test_where_no_child_is_wanted_or_the_next_one_is_to_come_none_is_restarted(state: State) -> None:
    found = changed(state, command="mended")
    assert (found.restarted, found.has_changed) == ((), True)


@pytest.mark.parametrize(
    ("state", "url", "fields", "is_restarted"),
    [
        (State.READY, "http://127.0.0.1:5000", {"ready": "tcp", "role": Role.BACKEND}, False),
        (State.READY, None, {"ready": "tcp"}, False),
        (State.READY, None, {"role": Role.BACKEND}, True),
        (State.READY, None, {"role": Role.UNDECIDED}, True),
        (State.STARTING, None, {"ready": "tcp"}, True),
        (State.UNHEALTHY, None, {"ready": "tcp"}, True),
        (State.RUNNING, None, {"ready": "tcp"}, True),
        (State.RUNNING, None, {"role": Role.OTHER}, False),
        (State.BACKING_OFF, None, {"ready": "tcp"}, False),
        (State.FAILED, None, {"ready": "tcp"}, False),
    ],
)
def test_a_ready_process_stays_ready_whatever_is_asked_later(
    state: State, url: str | None, fields: dict[str, Any], *, is_restarted: bool
) -> None:
    """Another one has to be asked from its first line on; an upstream has to be found, too."""
    assert changed(state, url, **fields).restarted == (("api",) if is_restarted else ())


def test_processes_come_and_go_and_keep_the_order_of_the_procfile() -> None:
    db, web = ProcessPlan(name="db", command="db"), ProcessPlan(name="web", command="web")
    found = difference(OLD, Plan(processes=(web, JOB, db)), newest())
    assert found == Difference(started=("web", "db"), stopped=("api",), has_changed=True)


def test_the_address_of_a_new_process_restarts_no_other_one() -> None:
    """A process that has done without it goes on; one that would see another address does not."""
    sibling = {"ORCHESTRA_NEW_DB_PORT": "5200", "ORCHESTRA_NEW_DB_URL": "http://127.0.0.1:5200"}
    db = ProcessPlan(name="new-db", command="db")
    with_it = Plan(processes=(replace(API, env={"A": "1", **sibling}), JOB, db))
    found = difference(OLD, with_it, newest())
    assert (found.started, found.restarted) == (("new-db",), ())
    assert difference(with_it, OLD, newest() | {"new-db": newest()["api"]}).restarted == ()
    moved = replace(API, env={"A": "1", **sibling, "ORCHESTRA_NEW_DB_PORT": "5300"})
    found = difference(
        with_it, replace(with_it, processes=(moved, JOB, db)), newest() | {"new-db": newest()["api"]}
    )
    assert found.restarted == ("api",)


@pytest.mark.parametrize("env", [{}, {"A": "1", "B": "2"}, {"A": "1", "ORCHESTRA_X_PORT": "1"}, None])
def test_any_other_variable_restarts_its_process(env: dict[str, str] | None) -> None:
    assert changed(env=env).restarted == ("api",)


@pytest.mark.parametrize(
    "new",
    [
        replace(OLD, exit_on="any"),
        replace(OLD, reload=ReloadSettings(pages="all")),
        replace(OLD, processes=(JOB, API)),
        replace(OLD, proxy=PROXY),
    ],
)
def test_settings_of_the_run_are_a_difference_that_restarts_nothing(new: Plan) -> None:
    assert difference(OLD, new, newest()) == Difference(has_changed=True)


def test_a_note_alone_is_no_difference() -> None:
    assert not difference(OLD, replace(OLD, notes=(Note("told"),)), newest())


# --- What cannot change ---


def settle(old: Plan, new: Plan) -> tuple[Plan, list[str]]:
    plan = settled(old, new)
    return replace(plan, notes=()), [f"{each.text} | {each.hint}" for each in plan.notes]


def test_a_plan_that_can_be_followed_is_followed_as_it_is() -> None:
    new = replace(OLD, exit_on="any", reload=ReloadSettings(editor="vim"), notes=(Note("told"),))
    assert settled(OLD, new) == new
    new = replace(OLD, proxy=replace(PROXY, hold=1.0, backend=None))
    assert settled(replace(OLD, proxy=PROXY), new) == new


def test_the_address_stays_and_a_note_says_so() -> None:
    old, new = replace(OLD, proxy=PROXY), replace(OLD, proxy=replace(PROXY, port=9000, hold=1.0))
    assert settle(old, new) == (
        replace(OLD, proxy=replace(PROXY, hold=1.0)),
        ['[proxy] listen stays "127.0.0.1:8000" in this run | Run orchestra again to have "127.0.0.1:9000".'],
    )


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"output": "json"}, '[run] output stays "auto" in this run | Run orchestra again to have "json".'),
        ({"color": "never"}, '[run] color stays "auto" in this run | Run orchestra again to have "never".'),
        (
            {"timestamps": True},
            "[run] timestamps stays false in this run | Run orchestra again to have true.",
        ),
        (
            {"reload": ReloadSettings(enabled=False)},
            "[reload] enabled stays true in this run | Run orchestra again to have false.",
        ),
    ],
)
def test_what_is_decided_at_the_start_stays(change: dict[str, Any], note: str) -> None:
    assert settle(OLD, replace(OLD, **change)) == (OLD, [note])


def test_a_proxy_neither_comes_nor_goes() -> None:
    plan, notes = settle(OLD, replace(OLD, proxy=PROXY))
    assert (plan, notes) == (
        OLD,
        ["this run has no proxy, and goes on without one | Run orchestra again to have one."],
    )
    plan, notes = settle(replace(OLD, proxy=PROXY), OLD)
    assert (plan, notes) == (
        replace(OLD, proxy=replace(PROXY, backend=None)),
        ["the proxy stays, and has nothing to ask any more | Run orchestra again to be without it."],
    )
