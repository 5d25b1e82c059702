from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st
from msgspec.structs import replace

from orchestra.config.plan import Install, ProcessPlan, Restart, Role
from orchestra.events import Exit, State
from orchestra.supervision.lifecycle import (
    STABLE_AFTER,
    TRANSITIONS,
    Ended,
    Life,
    Order,
    Report,
    Sign,
    TakenOver,
    culprit,
    run_result,
    step,
)

if TYPE_CHECKING:
    from orchestra.supervision.lifecycle import Fact

PLAIN = ProcessPlan(name="worker", command="work", cwd=Path("/"))
SERVER = replace(PLAIN, name="web", ready="http", role=Role.BACKEND)
INSTALL = Install(folder=Path("/"), argv=("npm", "ci"))
FAILURE = Ended(Exit(code=1))

MET, SPAWNED, READY = Sign.DEPENDENCIES_MET, Sign.SPAWNED, Sign.READY


def lived(plan: ProcessPlan, *facts: Fact, seconds_each: float = 0.0) -> tuple[Life, Order | None]:
    life, order, now = Life(plan=plan), None, 0.0
    for fact in facts:
        life, order = step(life, fact, now)
        now += seconds_each
    return life, order


def test_without_a_readiness_check_a_spawned_process_is_running() -> None:
    assert lived(PLAIN, MET)[1] is Order.SPAWN
    assert lived(PLAIN, MET, SPAWNED)[0].state is State.RUNNING


def test_a_server_is_starting_until_it_answers_and_is_timed() -> None:
    assert lived(SERVER, MET, SPAWNED)[0].state is State.STARTING
    life, order = lived(SERVER, MET, SPAWNED, READY, seconds_each=2)
    assert (life.state, life.ready_after, order) == (State.READY, 2, None)


def test_a_candidate_runs_and_may_turn_out_to_be_ready() -> None:
    candidate = replace(SERVER, role=Role.UNDECIDED)
    assert lived(candidate, MET, SPAWNED)[0].state is State.RUNNING
    assert lived(candidate, MET, SPAWNED, READY)[0].state is State.READY


def test_missing_packages_are_installed_before_the_spawn() -> None:
    plan = replace(PLAIN, install=INSTALL)
    life, order = lived(plan, MET)
    assert (life.state, order) == (State.INSTALLING, Order.INSTALL)
    assert lived(plan, MET, Sign.INSTALLED)[1] is Order.SPAWN
    life, order = lived(plan, MET, Report(Sign.START_FAILED, "npm ci: exit code 1"))
    assert (life.state, life.reason, order) == (State.FAILED, "npm ci: exit code 1", None)
    assert life.ended_before_ready


@pytest.mark.parametrize("role", [Role.BACKEND, Role.FRONTEND, Role.UNDECIDED])
def test_a_server_that_ends_with_success_is_started_again(role: Role) -> None:
    plan = replace(SERVER, role=role)
    life, order = lived(plan, MET, SPAWNED, READY, Ended(Exit(code=0)))
    assert (life.state, order) == (State.BACKING_OFF, Order.BACK_OFF)
    once = replace(plan, restart=Restart.NEVER)
    assert lived(once, MET, SPAWNED, READY, Ended(Exit(code=0)))[0].state is State.COMPLETED
    assert lived(plan, MET, SPAWNED, Ended(Exit(code=0)))[0].state is State.COMPLETED
    broken = Ended(Exit(code=0), has_raised=True)
    assert lived(plan, MET, SPAWNED, broken)[0].state is State.BACKING_OFF


def test_a_server_that_ends_with_success_again_and_again_has_failed() -> None:
    once: list[Fact] = [SPAWNED, READY, Ended(Exit(code=0)), Sign.BACK_OFF_ENDED]
    life, _ = lived(SERVER, MET, *once * 5, *once[:3])
    assert (life.state, life.reason) == (State.FAILED, "exit code 0; given up after 5 restarts")


def test_a_success_completes() -> None:
    assert lived(PLAIN, MET, SPAWNED, Ended(Exit(code=0)))[0].state is State.COMPLETED
    plan = replace(PLAIN, success_exit_codes=frozenset({0, 3}))
    assert lived(plan, MET, SPAWNED, Ended(Exit(code=3)))[0].state is State.COMPLETED


def test_after_five_restarts_with_back_off_a_process_has_failed() -> None:
    life, order = lived(PLAIN, MET)
    pauses = []
    while order is Order.SPAWN:
        life, _ = step(life, SPAWNED, 0.0)
        life, order = step(life, FAILURE, 0.1)
        if order is Order.BACK_OFF:
            pauses.append(life.back_off)
            life, order = step(life, Sign.BACK_OFF_ENDED, 0.2)
    assert pauses == [0.5, 1, 2, 4, 8]
    assert (life.state, life.restarts) == (State.FAILED, 5)


def test_a_stable_run_wipes_the_slate_clean() -> None:
    life = Life(plan=PLAIN, state=State.RUNNING, spawned_at=0.0, failures=5)
    life, order = step(life, FAILURE, STABLE_AFTER)
    assert (life.failures, life.back_off, order) == (1, 0.5, Order.BACK_OFF)


def test_restart_policies() -> None:
    never, always = replace(PLAIN, restart=Restart.NEVER), replace(PLAIN, restart=Restart.ALWAYS)
    assert lived(never, MET, SPAWNED, FAILURE)[0].state is State.FAILED
    assert lived(always, MET, SPAWNED, Ended(Exit(code=0)))[0].state is State.BACKING_OFF


def test_any_exit_while_stopping_is_a_stop() -> None:
    killed = Ended(Exit(signal=signal.SIGKILL))
    for plan in (PLAIN, SERVER):
        life, order = lived(plan, MET, SPAWNED, Report(Sign.STOP_REQUESTED))
        assert (life.state, order) == (State.STOPPING, Order.STOP)
        assert step(life, killed, 1.0)[0].state is State.STOPPED


def test_a_stop_that_needed_sigkill_says_so() -> None:
    asked = (MET, SPAWNED, Report(Sign.STOP_REQUESTED))
    assert lived(PLAIN, *asked, Ended(Exit(signal=signal.SIGTERM)))[0].reason == ""
    assert lived(PLAIN, *asked, Ended(Exit(signal=signal.SIGKILL)))[0].reason == "killed by SIGKILL"


def test_what_waits_is_stopped_at_once() -> None:
    assert lived(PLAIN, Report(Sign.STOP_REQUESTED))[0].state is State.STOPPED
    assert lived(PLAIN, MET, SPAWNED, FAILURE, Report(Sign.STOP_REQUESTED))[0].state is State.STOPPED


FACTS: list[Fact] = [
    MET,
    Sign.INSTALLED,
    Report(Sign.START_FAILED, "broken"),
    SPAWNED,
    Report(Sign.START_FAILED, "no such folder"),
    READY,
    FAILURE,
    Ended(Exit(code=0)),
    Ended(Exit(signal=9)),
    Sign.BACK_OFF_ENDED,
    Report(Sign.BLOCKED, "waits"),
    Report(Sign.NO_ANSWER, "no answer"),
    Report(Sign.RELOADING, "app.py has changed"),
    Report(Sign.BROKEN, "SyntaxError: invalid syntax"),
    Sign.STUCK,
    TakenOver(1.0),
    Report(Sign.STOP_REQUESTED),
    Sign.START_REQUESTED,
    Sign.RESTART_REQUESTED,
]


@given(
    st.sampled_from([PLAIN, SERVER, replace(PLAIN, install=INSTALL), replace(PLAIN, restart=Restart.ALWAYS)]),
    st.lists(st.tuples(st.sampled_from(FACTS), st.floats(0, 20))),
)
def test_whatever_happens_only_the_table_s_transitions_are_taken(
    plan: ProcessPlan, happenings: list[tuple[Fact, float]]
) -> None:
    life, now = Life(plan=plan), 0.0
    alive = False
    for fact, pause in happenings:
        now += pause
        if isinstance(fact, Ended) and not alive:
            continue  # the supervisor reports the end of what it has spawned, and of nothing else
        if fact is SPAWNED and (alive or life.state not in (State.STARTING, State.STOPPING)):
            continue
        alive = (alive or fact is SPAWNED) and not isinstance(fact, Ended)
        before = life.state
        life, order = step(life, fact, now)
        assert life.state is before or life.state in TRANSITIONS[before]
        assert life.is_alive == alive
        if order is Order.SPAWN:
            assert not alive
        if life.state.is_ended:
            assert not alive
            assert order in (None, Order.STOP)


@pytest.mark.parametrize("asked", [Sign.START_REQUESTED, Sign.RESTART_REQUESTED])
@pytest.mark.parametrize(
    "how",
    [
        (MET, SPAWNED, Ended(Exit(code=127))),
        (MET, SPAWNED, Ended(Exit(code=0))),
        (MET, SPAWNED, Report(Sign.STOP_REQUESTED), Ended(Exit(signal=15))),
        (Report(Sign.STOP_REQUESTED),),
    ],
)
def test_an_ended_process_starts_again_without_its_failures(asked: Fact, how: tuple[Fact, ...]) -> None:
    life, order = lived(PLAIN, *how, asked)
    assert (life.state, order, life.failures, life.restarts) == (State.WAITING, None, 0, 1)
    assert step(life, MET, 0)[1] is Order.SPAWN


def test_back_off_has_a_limit_however_often_it_fails() -> None:
    life = replace(Life(plan=replace(PLAIN, max_quick_failures=10**6)), failures=5000)
    life, _ = step(replace(life, state=State.RUNNING, is_alive=True, spawned_at=0.0), FAILURE, 0)
    assert life.back_off == 10


def test_a_restart_stops_what_runs_first() -> None:
    life, order = lived(PLAIN, MET, SPAWNED, Sign.RESTART_REQUESTED)
    assert (life.state, order) == (State.STOPPING, Order.STOP)
    assert step(life, Sign.RESTART_REQUESTED, 0) == (life, None)
    life, order = step(life, Ended(Exit(signal=15)), 0)
    assert (life.state, order, life.starts_after_stop) == (State.WAITING, None, False)
    assert lived(PLAIN, MET, SPAWNED, Sign.START_REQUESTED)[0].state is State.RUNNING


def test_the_last_request_counts() -> None:
    asked = (MET, SPAWNED, Sign.RESTART_REQUESTED, Report(Sign.STOP_REQUESTED))
    assert lived(PLAIN, *asked, Ended(Exit(signal=15)))[0].state is State.STOPPED
    assert lived(PLAIN, *asked, Sign.RESTART_REQUESTED, Ended(Exit(signal=15)))[0].state is State.WAITING


@pytest.mark.parametrize("asked", [Sign.START_REQUESTED, Sign.RESTART_REQUESTED])
def test_a_waiting_process_goes_on_waiting(asked: Fact) -> None:
    assert lived(PLAIN, asked) == lived(PLAIN)
    life, order = lived(PLAIN, MET, SPAWNED, FAILURE, asked)
    assert (life.state, order, life.failures, life.restarts) == (State.STARTING, Order.SPAWN, 0, 1)
    life, order = lived(replace(PLAIN, install=INSTALL), MET, asked)
    assert (life.state, order) == (State.INSTALLING, None)


def test_a_process_that_does_not_answer_is_unhealthy_until_it_does() -> None:
    life, _ = lived(SERVER, MET, SPAWNED, READY, Report(Sign.NO_ANSWER, "port 80: refused"))
    assert (life.state, life.reason) == (State.UNHEALTHY, "port 80: refused")
    assert step(life, READY, 9)[0].state is State.READY
    assert step(life, READY, 9)[0].ready_after == life.ready_after
    assert step(life, FAILURE, 9)[0].state is State.BACKING_OFF
    assert step(life, Sign.RESTART_REQUESTED, 9)[1] is Order.STOP


def test_a_server_that_reloads_itself_is_starting_again() -> None:
    life, order = lived(SERVER, MET, SPAWNED, READY, Report(Sign.RELOADING, "app.py changed"), seconds_each=2)
    assert (life.state, order, life.reason, life.restarts) == (State.STARTING, None, "app.py changed", 1)
    assert life.is_alive
    assert life.ready_after is None
    life, order = step(life, READY, 9)
    assert (life.state, order, life.ready_after) == (State.READY, None, 3)


def test_a_server_that_is_ill_or_broken_may_reload_and_be_well_again() -> None:
    ill = (MET, SPAWNED, READY, Report(Sign.NO_ANSWER, "times out"), Report(Sign.RELOADING, "app.py changed"))
    broken = (MET, SPAWNED, Report(Sign.BROKEN, "SyntaxError"), Report(Sign.RELOADING, "app.py changed"))
    for facts in (ill, broken):
        life, order = lived(SERVER, *facts)
        assert (life.state, order, life.reason) == (State.STARTING, None, "app.py changed")
        assert step(life, READY, 9)[0].state is State.READY


def test_a_server_that_reloads_counts_as_one_that_has_served() -> None:
    life, _ = lived(SERVER, MET, SPAWNED, READY, Report(Sign.RELOADING, "app.py changed"))
    life, order = step(life, FAILURE, 1)
    assert (life.state, order) == (State.BACKING_OFF, Order.BACK_OFF)
    life, order = lived(
        SERVER, MET, SPAWNED, READY, Report(Sign.RELOADING, "app.py changed"), Sign.RESTART_REQUESTED
    )
    assert (life.state, order) == (State.STOPPING, Order.STOP)


def test_a_broken_server_is_unhealthy_with_its_reason_until_it_answers() -> None:
    life, order = lived(
        SERVER, MET, SPAWNED, Report(Sign.BROKEN, "SyntaxError: invalid syntax"), seconds_each=2
    )
    assert (life.state, order, life.reason) == (State.UNHEALTHY, None, "SyntaxError: invalid syntax")
    assert (life.is_alive, life.was_ready, life.ready_after) == (True, False, None)
    life, _ = step(life, READY, 9)
    assert (life.state, life.reason, life.was_ready, life.ready_after) == (State.READY, "", True, 7)


def test_a_server_that_is_stuck_is_restarted_unless_it_is_being_stopped() -> None:
    reloading = (MET, SPAWNED, READY, Report(Sign.RELOADING, "app.py changed"))
    for plan in (SERVER, replace(SERVER, restart_mode="overlap")):
        life, order = lived(plan, *reloading, Sign.STUCK)
        assert (life.state, order, life.starts_after_stop) == (State.STOPPING, Order.STOP, True)
    life, _ = lived(SERVER, *reloading, Report(Sign.STOP_REQUESTED))
    assert step(life, Sign.STUCK, 9) == (life, None)


def test_one_that_is_broken_can_be_stopped_restarted_and_may_die() -> None:
    broken = (MET, SPAWNED, Report(Sign.BROKEN, "SyntaxError"))
    assert lived(SERVER, *broken, Report(Sign.STOP_REQUESTED))[1] is Order.STOP
    assert lived(SERVER, *broken, Sign.RESTART_REQUESTED)[1] is Order.STOP
    assert lived(SERVER, *broken, FAILURE)[0].state is State.BACKING_OFF
    life, _ = lived(SERVER, *broken)
    assert step(life, Report(Sign.BROKEN, "SyntaxError"), 1) == (life, None)


def test_only_a_starting_process_can_be_broken() -> None:
    for facts in (
        (),
        (MET,),
        (MET, SPAWNED, READY),
        (MET, SPAWNED, READY, Report(Sign.NO_ANSWER, "times out")),
        (MET, SPAWNED, Report(Sign.STOP_REQUESTED)),
        (MET, SPAWNED, FAILURE),
    ):
        life, _ = lived(SERVER, *facts)
        assert step(life, Report(Sign.BROKEN, "SyntaxError"), 1) == (life, None)


def test_another_child_takes_over_and_the_process_stays_ready() -> None:
    life, order = lived(SERVER, MET, SPAWNED, READY, TakenOver(0.5), seconds_each=2)
    assert (life.state, order, life.restarts, life.ready_after) == (State.READY, None, 1, 0.5)
    assert (life.is_alive, life.spawned_at) == (True, 5.5)
    ill, _ = lived(SERVER, MET, SPAWNED, READY, Report(Sign.NO_ANSWER, "times out"))
    life, order = step(ill, TakenOver(0.5), 9)
    assert (life.state, order, life.reason, life.restarts) == (State.READY, None, "", 1)


def test_a_child_that_takes_over_from_a_reloading_one_is_ready() -> None:
    life, order = lived(SERVER, MET, SPAWNED, READY, Report(Sign.RELOADING, "app.py changed"), TakenOver(0.5))
    assert (life.state, order, life.ready_after) == (State.READY, None, 0.5)


@pytest.mark.parametrize("fact", [Report(Sign.RELOADING, "app.py changed"), TakenOver(0.5)])
def test_a_process_that_is_not_up_neither_reloads_nor_is_replaced(fact: Fact) -> None:
    for facts in (
        (),
        (MET,),
        (MET, SPAWNED, Report(Sign.STOP_REQUESTED)),
        (MET, SPAWNED, FAILURE),
        (MET, SPAWNED, Ended(Exit(code=127))),
        (Report(Sign.STOP_REQUESTED),),
    ):
        life, _ = lived(SERVER, *facts)
        assert step(life, fact, 1) == (life, None)
    assert lived(PLAIN, MET, SPAWNED, fact) == (lived(PLAIN, MET, SPAWNED)[0], None)


@pytest.mark.parametrize(("code", "words"), [(127, "not found"), (126, "not executable")])
def test_a_command_that_cannot_be_run_fails_at_once_and_is_named(code: int, words: str) -> None:
    how = Ended(Exit(code=code), "sh: 1: nosuch: not here")
    life, order = lived(PLAIN, MET, SPAWNED, how)
    assert (life.state, order) == (State.FAILED, None)
    assert (
        life.reason
        == f"command {'is ' if code == 126 else ''}{words} (exit code {code}): sh: 1: nosuch: not here"
    )


def test_exits_read_as_a_shell_reports_them() -> None:
    assert Exit.from_returncode(7) == Exit(code=7)
    assert Exit.from_returncode(-9) == Exit(signal=9)
    assert Exit(signal=9).shell_code == 137
    assert str(Exit(signal=15)) == "killed by SIGTERM"
    assert Exit(signal=40).signal_name == "signal 40"


def test_a_run_s_exit_code_is_that_of_the_first_failure() -> None:
    done = Life(plan=replace(PLAIN, name="done"), state=State.COMPLETED, exit=Exit(code=0))
    seven = Life(plan=replace(PLAIN, name="seven"), state=State.FAILED, exit=Exit(code=7))
    killed = Life(plan=replace(PLAIN, name="killed"), state=State.FAILED, exit=Exit(signal=9))
    unspawned = Life(plan=PLAIN, state=State.FAILED)
    assert run_result("all", [])[0] == 0
    assert run_result("all", [done])[0] == 0
    assert run_result("all", [done, seven, killed])[0] == 7
    assert run_result("all", [killed])[0] == 137
    assert run_result("all", [unspawned])[0] == 1
    assert run_result("killed", [seven, killed])[0] == 137
    assert run_result("any", [done, seven])[0] == 0
    assert run_result("done", [seven, done])[0] == 0


def test_the_culprit_is_the_process_that_ended_the_run() -> None:
    done = Life(plan=replace(PLAIN, name="done"), state=State.COMPLETED, exit=Exit(code=0))
    failed = Life(plan=replace(PLAIN, name="failed"), state=State.FAILED, exit=Exit(code=7))
    assert culprit("all", [done, failed]) is None
    assert culprit("any", [done, failed]) is done
    assert culprit("failure", [done, failed]) is failed
    assert culprit("failed", [done]) is None
    assert culprit("failed", [done, failed]) is failed
