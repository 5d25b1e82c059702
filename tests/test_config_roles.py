"""Which process is the frontend and which the backend: the table of `config.roles`, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as hypothesis_given, strategies as st

from orchestra.config.plan import UNDECIDED, Address, FromProcess, Plan, ProcessPlan, ProxyPlan, Role
from orchestra.config.roles import Facts, ProcessFacts, Seen, decide, facts_of

if TYPE_CHECKING:
    from orchestra.config.plan import UpstreamPlan

ELSEWHERE = Address(host="h", port=9)
NOTHING, HTTP, VITE, NEXT, SILENT = Seen.NOTHING, Seen.HTTP, Seen.VITE, Seen.NEXT, Seen.SILENT


def process(name: str, seen: Seen = NOTHING, **more: Any) -> ProcessFacts:
    return ProcessFacts(name=name, seen=seen, **more)


def vite(name: str) -> ProcessFacts:
    return process(name, runs_vite="`vite` runs vite")


def upstream(name: str | None) -> UpstreamPlan:
    return UNDECIDED if name == "?" else FromProcess(name=name) if name else None


@pytest.mark.parametrize(
    ("processes", "frontend", "backend"),
    [
        # by command and name
        ([vite("vite"), process("api")], "vite", "api"),
        ([vite("a"), vite("b"), process("api")], "a", "api"),
        ([vite("web"), process("x", serves="uvicorn")], "web", "x"),
        ([process("app"), process("API"), vite("v")], "v", "API"),
        ([vite("v"), process("mail", checks_http=True), process("x", serves="uvicorn")], "v", "x"),
        ([vite("v"), process("x", checks_http=True)], "v", "x"),
        ([vite("v"), process("a", serves="x"), process("b", serves="y")], "v", "a"),
        # one of the two
        ([vite("v")], "v", None),
        ([process("api", serves="flask")], None, "api"),
        ([process("db", may_be_asked=False)], None, None),
        # until everything has been seen
        ([process("fe"), process("api", serves="uvicorn")], "?", "api"),
        ([process("fe", VITE), process("api", serves="uvicorn")], "fe", "api"),
        ([process("fe", VITE), process("x", HTTP)], "fe", "x"),
        ([process("fe", VITE), process("x")], "fe", "?"),
        ([process("x", HTTP), process("fe")], "?", "x"),
        ([process("x", SILENT), process("api", SILENT)], None, "api"),
        # a name alone: what runs may still be Vite
        ([process("api")], "?", "?"),
        ([process("api", HTTP)], None, "api"),
        ([process("api", names_port=True)], None, "api"),
        ([process("api", may_be_asked=False)], None, "api"),
        ([process("web", VITE), process("server", serves="uvicorn")], "web", "server"),
        ([process("web"), process("x", HTTP)], "?", "?"),
        ([process("web", VITE), process("x", HTTP)], "web", "x"),
        ([process("web", HTTP), process("x", HTTP)], None, "web"),
        ([process("x", SILENT), process("y")], "?", "?"),
        ([process("x", SILENT), process("y", SILENT)], None, None),
        ([process("x", SILENT), process("y", HTTP)], None, "y"),
        # the first, in the order of the Procfile
        ([process("a", VITE), process("b", VITE)], "a", None),
        ([process("a", HTTP), process("b", HTTP)], None, "a"),
        ([process("site", NEXT), process("api", serves="uvicorn")], "site", "api"),
        ([process("web", NEXT)], "web", None),
        ([process("a"), process("b", VITE)], "?", "?"),
        ([process("a", SILENT), process("b", VITE)], "b", None),
        ([vite("v"), process("a"), process("b", HTTP)], "v", "?"),
        # a role by name or command stays: litestar with its own Vite; Storybook beside Vite
        ([process("site", VITE, serves="litestar run")], None, "site"),
        ([vite("v"), process("storybook", VITE), process("api")], "v", "api"),
        ([vite("v"), process("storybook", VITE)], "v", None),
        # not asked: a readiness check of its own, or a program that does not speak HTTP
        ([vite("v"), process("db", HTTP, may_be_asked=False)], "v", None),
    ],
)
def test_the_first_row_that_fits_decides(
    processes: list[ProcessFacts], frontend: str | None, backend: str | None
) -> None:
    roles = decide(Facts(processes=tuple(processes)))
    assert (roles.frontend, roles.backend) == (upstream(frontend), upstream(backend))


@pytest.mark.parametrize(
    ("settings", "frontend", "backend"),
    [
        ({"backend": FromProcess(name="x")}, "vite", "x"),
        ({"frontend": FromProcess(name="x")}, "x", "api"),
        ({"backend": FromProcess(name="vite")}, "?", "vite"),
        ({"backend": FromProcess(name="vite"), "frontend": FromProcess(name="api")}, "api", "vite"),
        ({"backend": None}, "vite", None),
        ({"frontend": None}, None, "api"),
        ({"backend": FromProcess(name="gone")}, "vite", None),
    ],
)
def test_settings_come_first(settings: dict[str, Any], frontend: str | None, backend: str | None) -> None:
    roles = decide(Facts(processes=(vite("vite"), process("api"), process("x")), **settings))
    assert (roles.frontend, roles.backend) == (upstream(frontend), upstream(backend))


def test_an_upstream_may_run_elsewhere() -> None:
    roles = decide(Facts(processes=(process("x"),), frontend=ELSEWHERE, backend=ELSEWHERE))
    assert (roles.frontend, roles.backend, roles.to_ask) == (ELSEWHERE, ELSEWHERE, ())


def test_only_processes_without_a_role_are_asked() -> None:
    api = process("api", serves="uvicorn")
    facts = Facts(processes=(api, process("fe"), process("db", may_be_asked=False)))
    roles = decide(facts)
    assert roles.to_ask == ("fe",)
    assert [roles.of(name) for name in ("api", "fe", "db")] == [Role.BACKEND, Role.UNDECIDED, Role.OTHER]
    assert decide(facts.with_seen("fe", SILENT)).to_ask == ("fe",)  # it may still answer
    assert decide(facts.with_seen("fe", VITE)).to_ask == ()


def test_what_was_found_stays() -> None:
    facts = Facts(processes=(process("a"), process("b", VITE)), waits=False)
    roles = decide(facts)
    assert roles.frontend == FromProcess(name="b")
    later = decide(facts.settled(roles).with_seen("a", VITE))
    assert later.frontend == FromProcess(name="b")


def test_one_that_was_silent_may_be_found_late() -> None:
    facts = Facts(processes=(vite("v"), process("x", SILENT)))
    assert decide(facts).backend is None
    assert decide(facts.with_seen("x", HTTP)).backend == FromProcess(name="x")


def test_a_process_may_be_both_upstreams() -> None:
    """What it has shown first is its role; what is found beside that is its second server."""
    dev, second = FromProcess(name="dev"), FromProcess(name="dev", is_second=True)

    def roles(seen: Seen, also: Seen, *others: ProcessFacts, **more: Any) -> tuple[object, object]:
        found = decide(Facts(processes=(process("dev", seen, also=also), *others), **more))
        return found.frontend, found.backend

    assert roles(VITE, NOTHING) == (dev, UNDECIDED)
    assert roles(VITE, HTTP) == (dev, second)
    assert roles(VITE, SILENT) == (dev, None)
    assert roles(HTTP, NOTHING) == (UNDECIDED, dev)
    assert roles(HTTP, VITE) == (second, dev)
    assert roles(HTTP, SILENT) == (None, dev)
    # a role by name or command, or an earlier process, comes first; settings are never overruled
    assert roles(VITE, HTTP, process("x", serves="uvicorn")) == (dev, FromProcess(name="x"))
    assert roles(VITE, NOTHING, process("x", HTTP)) == (dev, UNDECIDED)
    assert roles(VITE, HTTP, backend=None) == (dev, None)


def test_a_command_that_runs_vite_and_others_may_be_both() -> None:
    dev = process("dev", runs_vite="`concurrently` runs vite", also=NOTHING)
    facts = Facts(processes=(dev,))
    roles = decide(facts)
    assert (roles.frontend, roles.backend) == (FromProcess(name="dev"), UNDECIDED)
    assert (roles.to_ask, roles.of("dev")) == (("dev",), Role.FRONTEND)
    found = decide(facts.with_seen("dev", NOTHING, also=HTTP))
    assert found.backend == FromProcess(name="dev", is_second=True)
    assert found.backend_reason == "beside that, it answers HTTP"
    assert decide(facts.settled(found)).backend == found.backend


def test_it_is_said_why() -> None:
    def reasons(*processes: ProcessFacts, **more: Any) -> tuple[str, str]:
        roles = decide(Facts(processes=processes, **more))
        return roles.frontend_reason, roles.backend_reason

    assert reasons(vite("a"), vite("b"), process("api")) == (
        "`vite` runs vite (so does b)",
        "it is called api",
    )
    assert reasons(process("a", VITE), process("b", VITE), process("x", serves="uvicorn x")) == (
        "it answers /@vite/client (so does b)",
        "`uvicorn x` is a server",
    )
    assert reasons(process("x", HTTP), frontend=None)[1] == "it answers HTTP"
    assert reasons(process("x"), backend=ELSEWHERE)[1] == "set by proxy.backend"


def planned(name: str, role: Role = Role.OTHER) -> ProcessPlan:
    return ProcessPlan(name=name, command="x", role=role, cwd=Path())


def test_the_facts_of_a_plan_are_what_it_has_decided() -> None:
    plan = Plan(
        processes=(
            planned("api", Role.BACKEND),
            planned("fe.1", Role.UNDECIDED),
            planned("fe.2", Role.UNDECIDED),
            planned("db"),
        ),
        proxy=ProxyPlan(backend=FromProcess(name="api"), frontend=UNDECIDED),
    )
    facts = facts_of(plan)
    roles = decide(facts)
    assert (roles.frontend, roles.backend, roles.to_ask) == (UNDECIDED, FromProcess(name="api"), ("fe",))
    found = decide(facts.with_seen("fe.2", VITE))
    assert found.frontend == FromProcess(name="fe", instances=("fe.1", "fe.2"))


some_process = st.builds(
    ProcessFacts,
    name=st.sampled_from(["api", "web", "a", "b", "c"]),
    runs_vite=st.sampled_from(["", "vite"]),
    serves=st.sampled_from(["", "uvicorn"]),
    checks_http=st.booleans(),
    may_be_asked=st.booleans(),
    seen=st.sampled_from(Seen),
)
some_given = st.sampled_from([UNDECIDED, None, ELSEWHERE, FromProcess(name="a"), FromProcess(name="api")])


@hypothesis_given(
    st.lists(some_process, max_size=5, unique_by=lambda each: each.name), some_given, some_given
)
def test_no_process_has_both_roles_and_none_is_asked_needlessly(
    processes: list[ProcessFacts], frontend: Any, backend: Any
) -> None:
    if frontend == backend:
        backend = UNDECIDED
    roles = decide(Facts(processes=tuple(processes), frontend=frontend, backend=backend))
    if isinstance(roles.frontend, FromProcess):
        assert roles.frontend != roles.backend
    for name in roles.to_ask:
        assert roles.of(name) is Role.UNDECIDED
    if UNDECIDED in (roles.frontend, roles.backend):
        assert roles.to_ask
