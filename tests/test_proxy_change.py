"""A proxy that comes to serve by another plan: each dialogue in memory, and again over real sockets."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from msgspec.structs import replace

from orchestra.config.plan import UNDECIDED, FromProcess
from orchestra.events import RequestHeld, State
from tests.proxy_kit import SUCCESSOR_PORT, stage
from tests.test_proxy_relay import NAVIGATES, PAGE, SCRIPT, answer, get

SUCCESSOR = f"http://127.0.0.1:{SUCCESSOR_PORT}"
EVIL = b"GET /x HTTP/1.1\r\nHost: dev.example:8000\r\n\r\n"


@pytest.fixture
def autojump_clock(clock_of_each_world: trio.testing.MockClock) -> trio.testing.MockClock:
    return clock_of_each_world


async def test_requests_wait_for_a_backend_of_another_name(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        on.proxy.change(replace(on.plan, backend=FromProcess(name="web")), ["web", "vite"])
        on.reports("api", State.STOPPING)
        on.reports("api", State.STOPPED)
        await client.says(get())
        assert (await on.told(RequestHeld)).reason == "web is not started"
        on.reports("web", State.READY, url=SUCCESSOR)
        web = await on.successor()
        await web.hears_head()
        await web.says(PAGE)
        assert (await answer(client))[1] == b"page"


async def test_a_request_on_its_way_is_answered_by_what_it_has_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        on.reports("web", State.READY, url=SUCCESSOR)
        await client.says(get())
        api = await on.backend()
        await api.hears_head()
        on.proxy.change(replace(on.plan, backend=FromProcess(name="web")), ["api", "web", "vite"])
        await api.says(PAGE)
        assert (await answer(client))[1] == b"page"
        await client.says(get())
        web = await on.successor()
        await web.hears_head()


async def test_rules_count_from_the_next_request_on(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(EVIL)
        assert b" 403 " in (await answer(client))[0]
        rules = {"allowed_hosts": ("dev.example",), "frontend_paths": ("/x",), "hold": 3.0}
        on.proxy.change(replace(on.plan, **rules), ["api", "vite"])
        client = on.client()
        await client.says(EVIL)
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"
        on.reports("api", State.STARTING)
        await client.says(get(b"/y", NAVIGATES))
        assert b" 502 " in (await answer(client))[0]
        assert (await on.finished(3)).held == pytest.approx(3)


async def test_a_further_frontend_comes_and_goes(autojump_clock: trio.testing.MockClock) -> None:
    """It need not be started for that: what was reported of its process still counts."""
    async with stage() as on:
        client = on.client()
        on.reports("admin", State.READY, url=SUCCESSOR)
        processes = ["api", "vite", "admin"]
        on.proxy.change(replace(on.plan, frontends={"/admin/": FromProcess(name="admin")}), processes)
        await client.says(get(b"/admin/x", NAVIGATES))
        admin = await on.successor()
        await admin.hears_head()
        await admin.says(PAGE)
        assert (await answer(client))[1] == b"page"
        on.proxy.change(on.plan, processes)
        await admin.hears_end()
        await client.says(get(b"/admin/x", NAVIGATES))
        await (await on.backend()).hears_head()


async def test_a_further_frontend_that_is_dead_takes_nothing_else_down(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(frontends={"/admin/": FromProcess(name="admin")}) as on:
        client = on.client()
        await client.says(get(b"/admin/", NAVIGATES))
        held = await on.told(RequestHeld)
        assert (held.upstream, held.reason) == ("frontend", "admin is not started")
        on.prints("admin", "no such module")
        on.reports("admin", State.FAILED)
        head, page = await answer(client)
        assert b" 502 " in head
        assert b"admin has failed" in page
        assert b"no such module" in page
        for path, upstream in ((b"/x", on.backend), (b"/@vite/client", on.frontend)):
            await client.says(get(path, NAVIGATES))
            origin = await upstream()
            await origin.hears_head()
            await origin.says(PAGE)
            assert (await answer(client))[1] == b"page"


async def test_what_was_found_stays_until_its_process_goes(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(ready=("vite",), backend=UNDECIDED) as on:
        on.proxy.decide("backend", FromProcess(name="api"), reason="it answers HTTP")
        on.reports("api", State.READY)
        on.proxy.change(replace(on.plan, hold=20.0), ["api", "vite"])
        client = on.client()
        await client.says(get())
        api = await on.backend()
        await api.hears_head()
        await api.says(PAGE)
        await answer(client)
        on.proxy.change(on.plan, ["web", "vite"])
        await client.says(get())
        held = await on.told(RequestHeld)
        assert held.reason == "it is not known yet which process is the backend"
        on.proxy.decide("backend", FromProcess(name="web"), reason="it answers HTTP")
        on.reports("web", State.READY, url=SUCCESSOR)
        await (await on.successor()).hears_head()


async def test_a_backend_that_is_there_no_more_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        on.proxy.change(replace(on.plan, backend=None), ["vite"])
        client = on.client()
        await client.says(get(b"/x", NAVIGATES))
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(PAGE)
        assert (await answer(client))[1] == b"page"
        assert trio.current_time() == 0
