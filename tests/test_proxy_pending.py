"""What is told of requests that take their time, and of heads, to observers that want to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing

from orchestra.events import RequestFinished, RequestHeads, RequestPending
from tests.proxy_kit import stage
from tests.test_proxy_relay import PAGE, get

if TYPE_CHECKING:
    from tests.proxy_kit import Stage, Talker


async def heads_of_a_request(on: Stage) -> tuple[list[RequestHeads], Talker]:
    """Ask the backend; give the heads that are told from now on, and the backend, which has heard it."""
    heads: list[RequestHeads] = []
    on.bus.subscribe(heads.append, RequestHeads)  # type: ignore[arg-type]
    client = on.client()
    await client.says(get(b"/", b"Cookie: a=1\r\n"))
    backend = await on.backend()
    await backend.hears_head()
    return heads, backend


async def test_a_request_that_waits_for_its_upstream_is_told_once(autojump_clock: object) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(b"/slow?a=1"))
        backend = await on.backend()
        await backend.hears_head()
        pending = await on.told(RequestPending)
        assert (pending.id, pending.method, pending.target) == (1, "GET", "/slow?a=1")
        assert (pending.upstream, pending.status) == ("backend", None)
        assert pending.elapsed > 0.1
        await trio.sleep(5)
        assert len([event for event in on.events if isinstance(event, RequestPending)]) == 1
        await backend.says(PAGE[:-1])  # all but the end of the body
        again = await on.told(RequestPending, 2)
        assert (again.id, again.status) == (1, 200)
        await backend.says(PAGE[-1:])
        await on.finished()


async def test_a_request_that_is_over_soon_is_only_told_at_its_end(autojump_clock: object) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(b"/"))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        await on.finished()
        await trio.sleep(5)
        assert [type(event) for event in on.events] == [RequestFinished]


async def test_the_heads_of_a_request_that_waits_are_told_as_far_as_they_are(autojump_clock: object) -> None:
    async with stage() as on:
        heads, backend = await heads_of_a_request(on)
        await on.told(RequestPending)
        await backend.says(PAGE[:-1])
        await on.told(RequestPending, 2)
        await backend.says(PAGE[-1:])
        await on.finished()
        assert all("Cookie: a=1" in told.request for told in heads)
        assert [bool(told.answer) for told in heads] == [False, True, True]


async def test_heads_are_told_to_an_observer_that_names_them(autojump_clock: object) -> None:
    async with stage() as on:
        heads, backend = await heads_of_a_request(on)
        await backend.says(PAGE)
        await on.finished()
        (told,) = heads
        assert "Cookie: a=1" in told.request
        assert told.answer == ("Content-Type: text/html", "Content-Length: 4")
        assert not any(isinstance(event, RequestHeads) for event in on.events)
