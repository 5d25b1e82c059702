"""Which requests wait while a backend restarts, and which do not: every rule as a dialogue.

Each is played in memory, and again over real sockets.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from orchestra.events import RequestHeld, RequestReleased, RequestReplayed, State, UpstreamSwitched
from tests.proxy_kit import BACKEND_PORT, FRONTEND_PORT, SUCCESSOR_PORT, header, stage
from tests.test_proxy_relay import NAVIGATES, PAGE, SCRIPT, answer, get
from tests.test_proxy_tunnel import ACCEPTED, HMR, a_tunnel, close_code, upgrade

if TYPE_CHECKING:
    from tests.proxy_kit import Stage, Talker

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
SUCCESSOR = f"http://127.0.0.1:{SUCCESSOR_PORT}"
ANY_METHOD = [b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS"]
WITH_BODY = b"Content-Length: 1\r\n"
API_CALL = b"Accept: application/json\r\n"


@pytest.fixture
def autojump_clock(clock_of_each_world: trio.testing.MockClock) -> trio.testing.MockClock:
    return clock_of_each_world


async def a_stream(on: Stage, head: bytes = EVENTS + CHUNKED) -> tuple[Talker, Talker]:
    """A client has a stream of events open."""
    client = on.client()
    await client.says(get(b"/events"))
    backend = await on.backend()
    await backend.hears_head()
    await backend.says(head)
    await client.hears_head()
    return client, backend


async def a_question(on: Stage, request: bytes = get()) -> tuple[Talker, Talker]:
    """A client has asked the backend, which has not answered yet."""
    client = on.client()
    await client.says(request)
    backend = await on.backend()
    await backend.hears_head()
    return client, backend


# --- a backend that reloads by itself: its streams ---


async def test_a_reload_ends_event_streams_in_an_orderly_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, backend = await a_stream(on)
        await backend.says(b"9\r\ndata: 1\n\n\r\n")
        assert await client.hears(14) == b"9\r\ndata: 1\n\n\r\n"
        on.reports("api", State.STARTING)
        await backend.hears_end()
        assert await client.hears(len(LAST_CHUNK)) == LAST_CHUNK
        told = await on.finished()
        assert told.outcome == "complete"
        assert told.duration == pytest.approx(0)
        assert (await on.closed()).kind == "event-stream"
        # The connection can be used for the next one, which comes at once, and is held.
        await client.says(get(b"/events"))
        await on.told(RequestHeld)
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(EVENTS + CHUNKED)
        assert (await client.hears_head()).startswith(b"HTTP/1.1 200 ")


async def test_an_event_stream_until_close_ends_properly_for_its_client(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, _ = await a_stream(on, EVENTS + b"Connection: close\r\n\r\n")
        on.reports("api", State.STARTING)
        assert await client.hears(len(LAST_CHUNK)) == LAST_CHUNK


async def test_an_event_stream_with_a_length_is_not_pretended_to_be_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, _ = await a_stream(on, EVENTS + b"Content-Length: 1000\r\n\r\ndata: 1\n\n")
        await client.hears(9)
        on.reports("api", State.STARTING)
        await client.hears_reset()
        assert (await on.finished()).outcome == "upstream-died"


async def test_a_backend_that_reloads_loses_its_websockets_with_1012(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, backend = await a_tunnel(on)
        on.reports("api", State.STARTING)
        assert close_code(await backend.hears_end()) == 1012
        assert close_code(await client.hears_end()) == 1012
        client.leaves()
        assert (await on.closed()).code == 1012


async def test_a_backend_that_reloads_takes_nothing_of_vites_along(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        browser = on.client()
        await browser.says(upgrade(fields=HMR))
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(ACCEPTED + b"Sec-WebSocket-Protocol: vite-hmr\r\n\r\n")
        await browser.hears_head()
        asking = on.client()
        await asking.says(get(b"/@vite/client"))
        asked = await on.frontend()
        await asked.hears_head()
        on.reports("api", State.STARTING)
        await trio.sleep(3)
        await vite.says(b"hot")
        assert await browser.hears(3) == b"hot"
        await asked.says(SCRIPT)
        assert (await answer(asking))[1] == b"let a;"
        assert on.dials == [FRONTEND_PORT] * 2


# --- a backend that reloads by itself: requests in flight ---


async def test_a_get_in_flight_is_aborted_after_2_s_and_sent_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, backend = await a_question(on)
        begun = trio.current_time()
        on.reports("api", State.STARTING)
        await backend.hears_end()
        assert trio.current_time() - begun == pytest.approx(2, abs=0.2)
        replayed = await on.told(RequestReplayed)
        assert (replayed.id, replayed.method, replayed.target, replayed.upstream) == (
            1,
            "GET",
            "/x",
            "backend",
        )
        assert replayed.reason
        held = await on.told(RequestHeld)
        assert (held.id, held.reason) == (1, "api is starting")
        await trio.sleep(1)
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"
        told = await on.finished()
        assert told.outcome == "complete"
        assert told.held == pytest.approx(1, abs=0.2)
        assert on.dials == [BACKEND_PORT] * 2


async def test_a_get_that_the_server_drops_is_sent_again_once_ready(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, backend = await a_question(on)
        on.reports("api", State.STARTING)
        backend.leaves()
        await on.told(RequestHeld)
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"
        assert len([event for event in on.events if isinstance(event, RequestReplayed)]) == 1


@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
async def test_a_post_in_flight_is_aborted_after_2_s_with_502_and_sent_once(
    method: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client, backend = await a_question(on, get(method=method, fields=WITH_BODY + API_CALL) + b"x")
        on.reports("api", State.STARTING)
        await backend.hears_end()
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert header(head, b"retry-after") == b"1"
        assert json.loads(body)["detail"]
        told = await on.finished()
        assert told.duration == pytest.approx(2, abs=0.2)
        assert told.held == 0
        on.reports("api", State.READY)
        await trio.sleep(1)
        assert on.dials == [BACKEND_PORT]
        assert not [event for event in on.events if isinstance(event, RequestReplayed)]


@pytest.mark.parametrize("method", [b"GET", b"POST"])
async def test_what_is_answered_within_the_two_seconds_is_not_touched(
    method: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client, backend = await a_question(on, get(method=method, fields=WITH_BODY) + b"x")
        await backend.hears(1)
        on.reports("api", State.STARTING)
        await trio.sleep(1.5)
        await backend.says(PAGE)
        head, body = await answer(client)
        assert (head[:13], body) == (b"HTTP/1.1 200 ", b"page")
        # It is the old one's connection: what comes next is for the new one.
        await client.says(get())
        await on.told(RequestHeld)
        on.reports("api", State.READY)
        await (await on.backend()).hears_head()
        assert on.dials == [BACKEND_PORT] * 2


async def test_an_answer_that_is_still_coming_after_two_seconds_breaks_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, backend = await a_question(on)
        await backend.says(b"HTTP/1.1 200 OK\r\n" + CHUNKED + b"4\r\npart\r\n")
        await client.hears_head()
        on.reports("api", State.STARTING)
        await trio.sleep(1.5)
        await backend.says(b"4\r\nmore\r\n")
        assert await client.hears(18) == b"4\r\npart\r\n4\r\nmore\r\n"
        await client.hears_reset()
        told = await on.finished()
        assert told.outcome == "upstream-died"
        assert told.duration == pytest.approx(2, abs=0.2)


async def test_draining_the_old_child_aborts_no_request_of_the_new_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        on.reports("api", State.STARTING)
        on.reports("api", State.READY)
        client, backend = await a_question(on)
        await trio.sleep(5)
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"
        assert on.dials == [BACKEND_PORT]


# --- a backend that reloads by itself: requests that come meanwhile ---


@pytest.mark.parametrize("method", ANY_METHOD)
async def test_a_request_of_any_method_is_held_while_a_backend_reloads(
    method: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        on.reports("api", State.STARTING)
        client = on.client()
        await client.says(get(b"/api/notes", WITH_BODY, method) + b"x")
        held = await on.told(RequestHeld)
        assert (held.method, held.target, held.upstream, held.reason) == (
            method.decode(),
            "/api/notes",
            "backend",
            "api is starting",
        )
        await trio.sleep(3)
        assert on.dials == []
        on.reports("api", State.READY)
        backend = await on.backend()
        assert (await backend.hears_head()).startswith(method + b" /api/notes ")
        assert await backend.hears(1) == b"x"
        await backend.says(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert (await client.hears_head()).startswith(b"HTTP/1.1 204 ")
        released = await on.told(RequestReleased)
        assert (released.id, released.upstream, released.outcome) == (held.id, "backend", "ready")
        assert released.held == pytest.approx(3)
        assert (await on.finished()).held == pytest.approx(3)


async def test_a_websocket_is_held_while_a_backend_reloads(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        on.reports("api", State.STARTING)
        client = on.client()
        await client.says(upgrade())
        await on.told(RequestHeld)
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(ACCEPTED + b"\r\n")
        assert (await client.hears_head()).startswith(b"HTTP/1.1 101 ")


async def test_a_client_that_leaves_while_it_is_held_is_said_to_have_gone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        on.reports("api", State.STARTING)
        client = on.client()
        await client.says(get())
        await on.told(RequestHeld)
        await trio.sleep(1)
        client.leaves()
        released = await on.told(RequestReleased)
        assert released.outcome == "client-gone"
        assert released.held == pytest.approx(1)
        on.reports("api", State.READY)
        await trio.sleep(1)
        assert on.dials == []


async def test_a_request_held_for_too_long_is_reported_as_failed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(hold=7.0) as on:
        on.reports("api", State.STARTING)
        client = on.client()
        await client.says(get())
        assert (await client.hears_head()).startswith(b"HTTP/1.1 502 ")
        released = await on.told(RequestReleased)
        assert released.outcome == "failed"
        assert released.held == pytest.approx(7)


async def test_a_request_that_need_not_wait_is_not_reported_as_held(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, backend = await a_question(on)
        await backend.says(PAGE)
        await answer(client)
        await on.finished()
        assert not [event for event in on.events if isinstance(event, RequestHeld | RequestReleased)]


# --- a backend that is broken ---


def breaks(on: Stage) -> None:
    """The backend reloads, and its new version cannot be imported."""
    on.reports("api", State.STARTING)
    for line in ("Traceback (most recent call last):", "    def x(:", "SyntaxError: <invalid> syntax"):
        on.prints("api", line)
    on.reports("api", State.UNHEALTHY, reason="SyntaxError: <invalid> syntax")


async def test_a_navigation_to_a_broken_backend_is_told_why_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        breaks(on)
        client = on.client()
        await client.says(get(b"/x", NAVIGATES))
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert header(head, b"retry-after") == b"1"
        assert header(head, b"cache-control") == b"no-store"
        assert header(head, b"content-type") == b"text/html; charset=utf-8"
        assert b"api is unhealthy: SyntaxError: &lt;invalid&gt; syntax" in body
        assert b"Traceback (most recent call last):\n    def x(:\nSyntaxError: &lt;invalid&gt; syntax" in body
        assert b'<meta http-equiv="refresh" content="1">' in body
        told = await on.finished()
        assert (told.status, told.upstream, told.held, told.duration) == (502, "orchestra", 0, 0)
        assert on.dials == []


@pytest.mark.parametrize(
    ("address", "fields"),
    [
        ("192.168.1.9", b"Host: localhost:8000\r\n"),
        ("127.0.0.1", b"Host: 192.168.1.5:8000\r\n"),
        ("127.0.0.1", b"Host: localhost:8000\r\nX-Forwarded-For: 203.0.113.5\r\n"),
    ],
)
async def test_other_machines_are_not_shown_a_traceback(
    address: str, fields: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """Nor its last line: an exception may say where the database is, and with which password."""
    async with stage() as on:
        breaks(on)
        client = on.client(address)
        await client.says(b"GET /x HTTP/1.1\r\n" + fields + b"Accept: application/json\r\n\r\n")
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert json.loads(body)["detail"] == "api is not there."
        assert b"SyntaxError" not in body


@pytest.mark.parametrize("method", [b"GET", b"POST", b"DELETE"])
async def test_the_caller_of_a_broken_api_is_told_why_at_once(
    method: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        breaks(on)
        client = on.client()
        await client.says(get(b"/api/notes", WITH_BODY + API_CALL, method) + b"x")
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert header(head, b"retry-after") == b"1"
        told = json.loads(body)
        assert "api is unhealthy: SyntaxError: <invalid> syntax" in told["detail"]
        assert told["output"][-1] == "SyntaxError: <invalid> syntax"
        assert (await on.finished()).duration == 0
        assert on.dials == []


async def test_a_held_request_is_answered_once_its_backend_is_broken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        on.reports("api", State.STARTING)
        client = on.client()
        await client.says(get())
        await on.told(RequestHeld)
        await trio.sleep(1)
        breaks(on)
        assert (await client.hears_head()).startswith(b"HTTP/1.1 502 ")
        released = await on.told(RequestReleased)
        assert released.outcome == "failed"
        assert released.held == pytest.approx(1)


async def test_a_backend_that_was_mended_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        breaks(on)
        client = on.client()
        await client.says(get(b"/x", NAVIGATES))
        assert (await answer(client))[0].startswith(b"HTTP/1.1 502 ")
        on.reports("api", State.STARTING)
        await client.says(get(b"/x", NAVIGATES))
        await on.told(RequestHeld)
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"


async def test_a_broken_backend_does_not_take_the_frontend_down(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        breaks(on)
        client = on.client()
        await client.says(get(b"/@vite/client"))
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"
        await client.says(get(b"/src/a.js", b"Sec-Fetch-Dest: script\r\n"))
        assert b" /src/a.js " in await vite.hears_head()
        await vite.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"
        assert on.dials == [FRONTEND_PORT]


async def test_one_that_is_ill_and_listens_is_still_asked(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client, backend = await a_question(on)
        where = f"http://127.0.0.1:{BACKEND_PORT}"
        on.reports("api", State.UNHEALTHY, url=where, reason="port 8001: times out")
        await trio.sleep(5)
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"
        await client.says(get())
        await backend.hears_head()
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"
        assert on.dials == [BACKEND_PORT]


# --- a new one takes over ---


async def test_requests_in_flight_finish_with_the_old_child(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, old = await a_question(on)
        on.reports("api", State.READY, url=SUCCESSOR)
        switched = await on.told(UpstreamSwitched)
        assert (switched.upstream, switched.process, switched.url, switched.previous) == (
            "backend",
            "api",
            SUCCESSOR,
            f"http://127.0.0.1:{BACKEND_PORT}",
        )
        await trio.sleep(10)
        await old.says(PAGE)
        assert (await answer(client))[1] == b"page"
        await client.says(get(method=b"POST", fields=WITH_BODY) + b"x")
        new = await on.successor()
        await new.hears_head()
        await new.says(PAGE)
        assert (await answer(client))[1] == b"page"
        assert on.dials == [BACKEND_PORT, SUCCESSOR_PORT]
        assert not [event for event in on.events if isinstance(event, RequestHeld)]


async def test_connections_to_the_old_one_that_are_idle_are_not_used(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, old = await a_question(on)
        await old.says(PAGE)
        await answer(client)
        await on.finished()
        on.reports("api", State.READY, url=SUCCESSOR)
        assert await old.hears_end() == b""
        await client.says(get())
        await (await on.successor()).hears_head()


async def test_what_is_said_again_is_no_switch(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client, backend = await a_question(on)
        on.reports("api", State.READY, restarts=1)
        await backend.says(PAGE)
        await answer(client)
        await client.says(get())
        await backend.hears_head()
        assert on.dials == [BACKEND_PORT]
        assert not [event for event in on.events if isinstance(event, UpstreamSwitched)]


async def test_draining_the_old_child_ends_only_its_own_streams(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        asking, asked = await a_question(on)
        old_client, old_backend = await a_tunnel(on)
        streaming, _ = await a_stream(on)
        on.reports("api", State.READY, url=SUCCESSOR)
        new_client = on.client()
        await new_client.says(upgrade())
        new_backend = await on.successor()
        await new_backend.hears_head()
        await new_backend.says(ACCEPTED + b"\r\n")
        await new_client.hears_head()
        later = on.client()
        await later.says(get())
        await (await on.successor()).hears_head()

        has_drained = trio.Event()

        async def retire() -> None:
            await on.proxy.before_stop("api")
            has_drained.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(retire)
            assert close_code(await old_backend.hears_end()) == 1012
            assert close_code(await old_client.hears_end()) == 1012
            old_client.leaves()
            assert await streaming.hears(len(LAST_CHUNK)) == LAST_CHUNK
            await trio.sleep(10)
            assert not has_drained.is_set()
            await asked.says(PAGE)
            assert (await answer(asking))[1] == b"page"
        await new_backend.says(b"still")
        assert await new_client.hears(5) == b"still"


async def test_streams_of_the_old_one_go_on_until_it_is_retired(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, backend = await a_tunnel(on)
        on.reports("api", State.READY, url=SUCCESSOR)
        await trio.sleep(10)
        await backend.says(b"still")
        assert await client.hears(5) == b"still"
