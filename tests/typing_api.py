"""Uses every public name as an embedder would. It is read by mypy and never run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, assert_type

import orchestra
from orchestra import (
    Condition,
    ConfigError,
    Dependency,
    OrchestraError,
    Overrides,
    Plan,
    ProcessPlan,
    ProxyPlan,
    Restart,
    Role,
    Running,
    StartError,
    State,
    Supervisor,
    UpstreamError,
    load,
    running,
    running_async,
)
from orchestra.config.plan import Address, FromProcess
from orchestra.events import StateChanged

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from orchestra.events import Event, OutputLine


def a_plan() -> Plan:
    db = ProcessPlan(name="db", command="postgres", ready="tcp", port=5432, stop_signal="INT")
    api = ProcessPlan(
        name="api",
        command="uvicorn app:app",
        cwd=Path("backend"),
        env={"DEBUG": "1"},
        role=Role.BACKEND,
        ready=("http:/health=204", "log:up"),
        restart=Restart.ALWAYS,
        depends_on=(Dependency("db"), Dependency("migrate", Condition.COMPLETED)),
    )
    proxy = ProxyPlan(backend=FromProcess(name="api"), frontend=Address(host="127.0.0.1", port=5173))
    return Plan(processes=(db, api), proxy=proxy)


def a_loaded_plan() -> Plan:
    return load("Procfile.dev", only=["api"], overrides=Overrides(listen="127.0.0.1:0", formation="api=2"))


async def sink(lines: Sequence[OutputLine]) -> None:  # noqa: ASYNC124 - as it has to be
    assert_type(lines[0].text, str)


def observe(event: Event) -> None:
    assert_type(event.at, float)


async def with_trio(nursery: trio.Nursery) -> None:
    supervisor = Supervisor(a_loaded_plan(), sinks=[sink], is_kept_open=True)
    await nursery.start(supervisor.run)
    await supervisor.wait_ready(["api"], timeout=10)
    supervisor.start("api")
    await supervisor.restart("api")
    supervisor.signal("api", 10)
    assert_type(supervisor.reload("because"), int)
    await supervisor.stop("api")
    assert_type(supervisor.snapshot()["api"], StateChanged)
    unsubscribe = supervisor.subscribe(observe)
    unsubscribe()
    async for event in supervisor.events(limit=10):
        assert_type(event.at, float)
    await supervisor.stop()
    assert_type(supervisor.url, str | None)
    assert_type(supervisor.snapshot()["api"].state, State)


def without_trio() -> None:
    try:
        with running(a_plan(), timeout=10) as stack:
            assert_type(stack, Running)
            stack.wait_ready(["api"], timeout=10)
            stack.restart("api")
            stack.stop("api")
            stack.start("api")
            stack.signal("api", 10)
            assert_type(stack.snapshot()["api"].state is State.READY, bool)
            stack.subscribe(observe, StateChanged)()
    except StartError as exc:
        assert_type(exc.name, str)
    except ConfigError as exc:
        assert_type(exc.path, Path | None)
    except UpstreamError as exc:
        assert_type(exc.hint, str)
    except OrchestraError as exc:
        assert_type(exc.exit_code, int)


async def with_asyncio() -> None:
    async with running_async("Procfile.dev", only=["api"]) as stack:
        assert_type(stack.url, str | None)
    assert_type(orchestra.__version__, str)
