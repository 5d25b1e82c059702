"""One exchange, as a dialogue: the client says, an origin hears, the origin says, the client hears.

Each is played in memory, and again over real sockets.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from orchestra.config.plan import UNDECIDED, FromProcess
from orchestra.events import Notice, State
from orchestra.proxy.asker import Upload
from orchestra.proxy.connection import ClientConnection, Endpoint, UpstreamConnection
from orchestra.proxy.forward import Peer
from orchestra.proxy.head import HeadReader
from tests.proxy_kit import (
    BACKEND_PORT,
    FRONTEND_PORT,
    SUCCESSOR_PORT,
    Torrent,
    an_upstream,
    counted_turns,
    elsewhere,
    header,
    headers_of,
    stage,
)

if TYPE_CHECKING:
    from tests.proxy_kit import Stage, Talker

HOST = b"Host: localhost:8000\r\n"
JSON_404 = b'HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n"no it"'
PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\npage"
SCRIPT = b"HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\nContent-Length: 6\r\n\r\nlet a;"
NAVIGATES = b"Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"


@pytest.fixture
def autojump_clock(clock_of_each_world: trio.testing.MockClock) -> trio.testing.MockClock:
    return clock_of_each_world


def get(target: bytes = b"/x", fields: bytes = b"", method: bytes = b"GET") -> bytes:
    return method + b" " + target + b" HTTP/1.1\r\n" + HOST + fields + b"\r\n"


async def answer(talker: Talker) -> tuple[bytes, bytes]:
    """Hear an answer with a length; return its head and body."""
    head = await talker.hears_head()
    return head, await talker.hears(int(header(head, b"content-length") or b"0"))


# --- the straight way ---


async def test_the_backend_is_asked_first_and_its_answer_is_unchanged(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(b"/api/notes?x=1", b"X-One: 1\r\nx-two: 2\r\n"))
        backend = await on.backend()
        head = await backend.hears_head()
        assert head.startswith(b"GET /api/notes?x=1 HTTP/1.1\r\n")
        assert headers_of(head) == [
            (b"Host", b"localhost:8000"),
            (b"X-One", b"1"),
            (b"x-two", b"2"),
            (b"X-Forwarded-For", b"127.0.0.1"),
            (b"X-Forwarded-Host", b"localhost:8000"),
            (b"X-Forwarded-Proto", b"http"),
            (b"X-Forwarded-Port", b"8000"),
            (b"Via", b"1.1 orchestra"),
        ]
        await backend.says(
            b"HTTP/1.1 200 Fine By Me\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nok"
        )
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 200 Fine By Me\r\n")
        assert headers_of(head) == [
            (b"Set-Cookie", b"a=1"),
            (b"Set-Cookie", b"b=2"),
            (b"Content-Length", b"2"),
            (b"X-Orchestra-Upstream", b"backend"),
        ]
        assert body == b"ok"
        told = await on.finished()
        assert (told.id, told.method, told.target) == (1, "GET", "/api/notes?x=1")
        assert (told.status, told.upstream, told.reason, told.outcome) == (
            200,
            "backend",
            "backend answered",
            "complete",
        )
        assert (told.bytes_in, told.bytes_out, told.held) == (0, 2, 0.0)


async def test_host_keeps_its_place_among_the_fields(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        await on.client().says(b"GET /x HTTP/1.1\r\nA: 1\r\n" + HOST + b"B: 2\r\n\r\n")
        head = await (await on.backend()).hears_head()
        assert [name for name, _ in headers_of(head)][:3] == [b"A", b"Host", b"B"]


async def test_connections_are_kept_alive_on_both_sides(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        for _ in range(3):
            await backend.hears_head()
            await backend.says(PAGE)
            assert (await answer(client))[1] == b"page"
            await client.says(get())
        assert on.dials == [BACKEND_PORT]


async def test_pipelined_requests_are_answered_in_order(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(
            get(b"/1") + b"POST /2 HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nb" + get(b"/3")
        )
        backend = await on.backend()
        for number in (b"1", b"2", b"3"):
            if number == b"2":
                backend = await on.backend()
            assert (b" /" + number + b" ") in await backend.hears_head()
            if number == b"2":
                assert await backend.hears(1) == b"b"
            await backend.says(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + number)
        assert [(await answer(client))[1] for _ in range(3)] == [b"1", b"2", b"3"]


async def test_vites_own_paths_go_straight_to_vite(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(b"/@vite/client"))
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(b"HTTP/1.1 504 Outdated Optimize Dep\r\nContent-Length: 0\r\n\r\n")
        head, _ = await answer(client)
        assert head.startswith(b"HTTP/1.1 504 Outdated Optimize Dep\r\n")
        assert header(head, b"x-orchestra-upstream") == b"frontend"
        assert on.dials == [FRONTEND_PORT]


# --- falling back ---


@pytest.mark.parametrize(
    ("request_", "from_vite", "heard", "upstream"),
    [
        pytest.param(get(b"/x", NAVIGATES), PAGE, b"page", b"frontend", id="a-navigation-gets-the-page"),
        pytest.param(get(b"/"), PAGE, b"page", b"frontend", id="so-does-curl-of-the-root"),
        pytest.param(get(b"/x.ts"), SCRIPT, b"let a;", b"frontend", id="a-module"),
        pytest.param(get(b"/x"), PAGE, b'"no it"', b"backend", id="curl-does-not-get-the-page"),
        pytest.param(
            get(b"/x", b"Sec-Fetch-Mode: cors\r\n"), PAGE, b'"no it"', b"backend", id="nor-does-fetch"
        ),
        pytest.param(
            get(b"/favicon.ico"),
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            b'"no it"',
            b"backend",
            id="two-404s",
        ),
    ],
)
async def test_a_404_falls_to_vite_unless_vite_knows_nothing_better(
    request_: bytes, from_vite: bytes, heard: bytes, upstream: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage(memo=False) as on:
        client = on.client()
        await client.says(request_)
        backend = await on.backend()
        head = await backend.hears_head()
        await backend.says(JSON_404)
        vite = await on.frontend()
        assert await vite.hears_head() == head
        await vite.says(from_vite)
        head, body = await answer(client)
        assert (body, header(head, b"x-orchestra-upstream")) == (heard, upstream)
        # Both connections are as good as before.
        await client.says(request_)
        await backend.hears_head()
        await backend.says(JSON_404)
        await vite.hears_head()
        await vite.says(from_vite)
        assert (await answer(client))[1] == heard
        assert on.dials == [BACKEND_PORT, FRONTEND_PORT]


@pytest.mark.parametrize(
    ("request_", "answer_"),
    [
        (get(b"/api/notes/7", NAVIGATES), JSON_404),
        (get(b"/x", NAVIGATES, b"DELETE"), JSON_404),
        (get(b"/x", NAVIGATES), JSON_404.replace(b"Content-Type", b"X-Orchestra-Final: 1\r\nContent-Type")),
    ],
)
async def test_some_404s_never_fall_back(
    request_: bytes, answer_: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(request_)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(answer_)
        head, body = await answer(client)
        assert (body, header(head, b"x-orchestra-upstream")) == (b'"no it"', b"backend")
        assert on.dials == [BACKEND_PORT]


CHUNKED = b"Transfer-Encoding: chunked\r\n"


async def test_a_404_of_any_method_falls_back_with_its_body_if_set(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(fallback_methods=("GET", "POST")) as on:
        client = on.client()
        await client.says(get(b"/x", b"Content-Length: 4\r\n", b"POST") + b"body")
        backend = await on.backend()
        assert (await backend.hears_until(b"\r\n\r\nbody")).startswith(b"POST /x ")
        await backend.says(JSON_404)
        vite = await on.frontend()
        assert b"Content-Length: 4" in await vite.hears_until(b"\r\n\r\nbody")
        await vite.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"
        # It was no question of GET's.
        await client.says(get(b"/x"))
        await (await on.backend()).hears_head() if len(on.dials) > 2 else await backend.hears_head()
        assert (await on.finished()).bytes_in == 4


async def test_a_body_that_is_still_on_its_way_goes_on_to_vite(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(fallback_methods=("POST",)) as on:
        client = on.client()
        await client.says(get(b"/x", CHUNKED, b"POST") + b"3\r\none\r\n")
        backend = await on.backend()
        await backend.hears_until(b"3\r\none\r\n")
        await backend.says(JSON_404)
        vite = await on.frontend()
        await vite.hears_until(b"3\r\none\r\n")
        await client.says(b"3\r\ntwo\r\n0\r\nX-Sum: 6\r\n\r\n")
        assert await vite.hears_until(b"\r\n\r\n") == b"3\r\ntwo\r\n0\r\nX-Sum: 6\r\n\r\n"
        await vite.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"
        # The backend, which has not heard all of it, is not used again.
        assert await backend.hears_end() == b""
        assert (await on.finished()).bytes_in == 6


async def test_a_body_that_is_held_back_is_asked_for_by_vite(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(fallback_methods=("PUT",)) as on:
        client = on.client()
        await client.says(get(b"/x", b"Content-Length: 2\r\nExpect: 100-continue\r\n", b"PUT"))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(JSON_404)
        vite = await on.frontend()
        assert header(await vite.hears_head(), b"expect") == b"100-continue"
        await vite.says(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (await client.hears_head()).startswith(b"HTTP/1.1 100 ")
        await client.says(b"hi")
        assert await vite.hears(2) == b"hi"
        await vite.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"


async def test_a_404_whose_body_vite_cannot_get_whole_stands(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(fallback_methods=("POST",), replay_bytes=4) as on:
        client = on.client()
        await client.says(get(b"/x", b"Content-Length: 5\r\n", b"POST") + b"bytes")
        backend = await on.backend()
        await backend.hears_until(b"bytes")
        await backend.says(JSON_404)
        assert (await answer(client))[1] == b'"no it"'
        assert (await on.finished()).reason == "backend 404, body too long to be sent again"
        await client.says(get(b"/x", CHUNKED, b"POST") + b"3\r\none\r\n")
        backend = await on.backend()
        await backend.hears_until(b"one\r\n")
        await client.says(b"3\r\ntwo\r\n0\r\n\r\n")
        await backend.hears_until(b"0\r\n\r\n")
        await backend.says(JSON_404)
        assert (await answer(client))[1] == b'"no it"'
        assert FRONTEND_PORT not in on.dials


async def test_a_body_that_vite_does_not_know_either_keeps_the_backends_404(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(fallback_methods=("POST",)) as on:
        client = on.client()
        await client.says(get(b"/x", CHUNKED, b"POST") + b"3\r\none\r\n")
        backend = await on.backend()
        await backend.hears_until(b"one\r\n")
        await backend.says(JSON_404)
        vite = await on.frontend()
        await vite.hears_until(b"one\r\n")
        await vite.says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        head, body = await answer(client)
        assert (body, header(head, b"connection")) == (b'"no it"', b"close")


async def test_a_404_of_head_falls_back_too(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(b"/", method=b"HEAD"))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(JSON_404.removesuffix(b'"no it"'))
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(PAGE.removesuffix(b"page"))
        head = await client.hears_head()
        assert header(head, b"content-length") == b"4"
        assert header(head, b"x-orchestra-upstream") == b"frontend"


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_404_that_is_too_large_to_keep_stands_and_streams(
    *, is_chunked: bool, autojump_clock: trio.testing.MockClock
) -> None:
    size = 300_000
    async with stage() as on:
        client = on.client()
        await client.says(get(b"/x", NAVIGATES))
        backend = await on.backend()
        await backend.hears_head()

        async def say() -> None:
            framing = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % size
            await backend.says(b"HTTP/1.1 404 Not Found\r\n" + framing + b"\r\n\r\n")
            for _ in range(size // 1000):
                await backend.says(b"3e8\r\n" + b"x" * 1000 + b"\r\n" if is_chunked else b"x" * 1000)
            if is_chunked:
                await backend.says(b"0\r\n\r\n")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            head = await client.hears_head()
            assert head.startswith(b"HTTP/1.1 404")
            heard = await client.hears_until(b"0\r\n\r\n") if is_chunked else await client.hears(size)
        assert heard.count(b"x") == size
        assert (await on.finished()).bytes_out == size
        assert on.dials == [BACKEND_PORT]


@pytest.mark.parametrize("fields", [b"", NAVIGATES])
@pytest.mark.parametrize("way", ["leaves", "breaks", "errs"])
async def test_a_404_that_breaks_off_is_neither_kept_nor_given(
    way: str, fields: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(b"/x", fields))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nno")
        await trio.sleep(1)
        if way == "errs":
            await backend.says(b"thing it\n")
        else:
            getattr(backend, way)()
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert b"api" in body
        assert on.dials == [BACKEND_PORT]


async def test_without_vite_fetch_gets_the_404_and_a_navigation_a_page(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(ready=("api",)) as on:
        on.reports("vite", State.FAILED, reason="exit code 1")
        on.prints("vite", "cannot find vite.config.ts")
        client = on.client()
        await client.says(get(b"/x"))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(JSON_404)
        assert (await answer(client))[1] == b'"no it"'
        await client.says(get(b"/x", NAVIGATES))
        await backend.hears_head()
        await backend.says(JSON_404)
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert b"vite has failed: exit code 1" in body
        assert b"cannot find vite.config.ts" in body


# --- bodies ---


async def test_chunks_and_trailers_pass_both_ways(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(
            b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n",
            b"3\r\nabc\r\n",
        )
        backend = await on.backend()
        head = await backend.hears_head()
        assert header(head, b"transfer-encoding") == b"chunked"
        assert await backend.hears(8) == b"3\r\nabc\r\n"
        await client.says(b"2;ext=1\r\nde\r\n0\r\nX-Sum: 5\r\nCookie: evil\r\n\r\n")
        assert await backend.hears(7) == b"2\r\nde\r\n"
        assert await backend.hears_head() == b"0\r\nX-Sum: 5\r\n\r\n"
        await backend.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
        head = await client.hears_head()
        assert header(head, b"transfer-encoding") == b"chunked"
        assert await client.hears(7) == b"2\r\nhi\r\n"
        await backend.says(b"0\r\nX-Time: 1\r\nSet-Cookie: a=b\r\n\r\n")
        assert await client.hears_head() == b"0\r\nX-Time: 1\r\n\r\n"
        told = await on.finished()
        assert (told.bytes_in, told.bytes_out) == (5, 2)


@pytest.mark.parametrize("trailer", [b"Content-Length: 3", b"Host: evil", b"X: \x01", b" folded"])
async def test_trailers_that_smuggle_are_400(trailer: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(fields=b"Transfer-Encoding: chunked\r\n", method=b"POST") + b"1\r\na\r\n")
        backend = await on.backend()
        await backend.hears_until(b"1\r\na\r\n")
        await client.says(b"0\r\n" + trailer + b"\r\n\r\n")
        assert (await client.hears_head()).startswith(b"HTTP/1.1 400 ")
        await backend.hears_end()


async def test_an_answer_until_close_is_chunked_for_http_1_1(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(b"HTTP/1.0 200 OK\r\n\r\nabc")
        assert header(await client.hears_head(), b"transfer-encoding") == b"chunked"
        assert await client.hears(8) == b"3\r\nabc\r\n"
        backend.leaves()
        assert await client.hears(5) == b"0\r\n\r\n"
        assert (await on.finished()).outcome == "complete"


async def test_an_http_1_0_client_gets_no_chunks_and_no_1xx(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(b"GET /x HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        backend = await on.backend()
        assert header(await backend.hears_head(), b"host") == b"localhost:8000"
        await backend.says(
            b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: 1\r\n\r\n"
        )
        heard = await client.hears_end()
        assert heard.startswith(b"HTTP/1.1 200 OK\r\n")
        assert heard.endswith(b"\r\n\r\nabc")
        assert b"chunked" not in heard


@pytest.mark.parametrize(
    ("method", "line"), [(b"HEAD", b"200 OK"), (b"GET", b"304 Not Modified"), (b"GET", b"204 No Content")]
)
async def test_bodiless_answers_keep_their_length_and_the_connection(
    method: bytes, line: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()
        for _ in range(2):
            await client.says(get(method=method))
        backend = await on.backend()
        for _ in range(2):
            await backend.hears_head()
            await backend.says(b"HTTP/1.1 " + line + b'\r\nContent-Length: 99\r\nETag: "a"\r\n\r\n')
        for _ in range(2):
            head = await client.hears_head()
            assert header(head, b"content-length") == b"99"
            assert header(head, b"transfer-encoding") is None
        assert on.dials == [BACKEND_PORT]


async def test_a_connection_with_a_stream_after_head_is_not_reused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(b"/events", method=b"HEAD"))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await client.hears_head()
        await client.says(get())
        assert await backend.hears_end() == b""
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"


async def test_a_304_without_a_length_gets_none(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(b"HTTP/1.1 304 Not Modified\r\n\r\n")
        head = await client.hears_head()
        assert header(head, b"content-length") is header(head, b"transfer-encoding") is None


async def test_100_continue_is_the_upstreams_to_say(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(
            b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        backend = await on.backend()
        assert header(await backend.hears_head(), b"expect") == b"100-continue"
        await backend.says(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert await client.hears_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.says(b"body")
        assert await backend.hears(4) == b"body"
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"


async def test_early_hints_are_passed_on_without_fields_of_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: x\r\nX: 1\r\n\r\n" + PAGE
        )
        assert await client.hears_head() == b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        assert (await answer(client))[1] == b"page"


async def test_a_flood_of_informational_answers_is_502(autojump_clock: trio.testing.MockClock) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        for _ in range(5):
            await backend.says(hints * 50)
            assert await client.hears(len(hints) * 50) == hints * 50
        await backend.says(hints * 100)
        await client.hears(len(hints) * 100)
        assert (await client.hears_head()).startswith(b"HTTP/1.1 502 ")


async def test_an_early_answer_is_passed_on_and_ends_the_upload(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n", b"x" * 1000)
        backend = await on.backend()
        await backend.hears_head()
        await backend.hears(1000)
        await backend.says(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 413 Too Large")
        assert (body, header(head, b"connection")) == (b"no", b"close")
        assert await client.hears_end() == b""
        with pytest.raises((EOFError, OSError)):
            await backend.hears(1)
        assert (await on.finished()).outcome == "complete"


async def test_an_upstream_may_answer_while_it_still_reads(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await client.hears_head()
        for letter in (b"a", b"b"):
            chunk = b"1\r\n" + letter + b"\r\n"
            assert await backend.hears(6) == chunk
            await backend.says(chunk)
            assert await client.hears(6) == chunk
            await client.says(b"1\r\nb\r\n" if letter == b"a" else b"0\r\n\r\n")
        assert await backend.hears(5) == b"0\r\n\r\n"
        await backend.says(b"0\r\n\r\n")
        assert await client.hears(5) == b"0\r\n\r\n"


async def test_a_sender_is_slowed_down_by_its_reader(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        sent = 0
        with trio.move_on_after(1):
            while True:
                await backend.says(b"x" * 10000)
                sent += 10000
        # What the two connections take, and what the relay holds in its hands.
        assert sent < on.world.slack


async def test_an_upload_that_never_has_to_wait_leaves_others_their_turns() -> None:
    source = Torrent(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
    client = ClientConnection(source, HeadReader(), Peer("127.0.0.1", 8000))
    assert client.take_request() is not None
    endpoint = Endpoint(None, elsewhere(BACKEND_PORT))
    upstream = UpstreamConnection(Torrent(b""), HeadReader(), an_upstream(endpoint.address), endpoint)

    turns_by_then: list[int] = []
    async with counted_turns() as turns, trio.open_nursery() as nursery:
        Upload(client, 0, start_soon=nursery.start_soon).begin(upstream, b"")
        for _ in range(3000):
            await trio.lowlevel.checkpoint()
            if client.body.is_complete:
                turns_by_then.append(len(turns))
    assert turns_by_then[0] > 500


async def test_requests_that_never_end_leave_others_their_turns() -> None:
    async with stage() as on, counted_turns() as turns:
        on.proxy.serve(Torrent(get(b"/__orchestra__/") * 1000), Peer("127.0.0.1", 8000))
        await on.finished(1000)
    assert len(turns) > 500


async def test_events_are_passed_on_one_by_one(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(b"/events"))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        await client.hears_head()
        opened = await on.opened()
        assert (opened.kind, opened.target, opened.upstream) == ("event-stream", "/events", "backend")
        for number in (b"1", b"2", b"3"):
            event = b"9\r\ndata: " + number + b"\n\n\r\n"
            await backend.says(event)
            assert await client.hears(len(event)) == event
        client.leaves()
        await backend.hears_end()
        closed = await on.closed()
        assert (closed.id, closed.kind, closed.code, closed.bytes_out) == (
            opened.id,
            "event-stream",
            None,
            27,
        )
        assert (await on.finished()).outcome == "client-gone"


# --- leaving ---


async def test_a_client_that_leaves_while_it_waits_takes_its_request_along(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        client.leaves()
        await backend.hears_end()
        told = await on.finished()
        assert (told.status, told.outcome, told.first_byte) == (None, "client-gone", None)


async def test_a_client_that_leaves_mid_body_ends_its_request_upstream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 9\r\n\r\nabc")
        backend = await on.backend()
        await backend.hears_head()
        client.breaks()
        await backend.hears_reset()
        assert (await on.finished()).outcome == "client-gone"


async def test_a_client_that_leaves_while_it_is_held_is_forgotten(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(ready=()) as on:
        client = on.client()
        await client.says(get())
        await trio.testing.wait_all_tasks_blocked()
        client.leaves()
        told = await on.finished()
        assert (told.outcome, told.status) == ("client-gone", None)
        assert on.dials == []


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 10\r\n\r\nabc", b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"]
)
async def test_an_incomplete_answer_never_looks_complete(
    framing: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(b"HTTP/1.1 200 OK\r\n" + framing)
        await client.hears_until(b"abc")
        backend.leaves()
        await client.hears_reset()
        told = await on.finished()
        assert (told.status, told.outcome) == (200, "upstream-died")


@pytest.mark.parametrize("is_broken", [True, False])
async def test_an_upstream_that_ends_without_an_answer_is_502(
    *, is_broken: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        for _ in range(2):
            backend = await on.backend()
            await backend.hears_head()
            if is_broken:
                backend.breaks()
            else:
                backend.leaves()
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 Bad Gateway")
        assert header(head, b"x-orchestra-upstream") == b"orchestra"
        assert b"api closed the connection without an answer" in body
        # The client may go on.
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"


async def test_a_get_whose_upstream_ends_is_held_and_sent_once_more(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        backend.breaks()
        # The system closes connections a moment before the proxy hears of the death.
        await trio.sleep(0.02)
        on.reports("api", State.BACKING_OFF)
        await trio.sleep(1)
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        # Again: it may well be this request that does it.
        on.reports("api", State.BACKING_OFF)
        backend.breaks()
        head, _ = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert on.dials == [BACKEND_PORT] * 2
        assert (await on.finished()).held == pytest.approx(1, abs=0.1)


async def test_a_post_whose_upstream_ends_is_not_sent_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(method=b"POST", fields=b"Content-Length: 1\r\n") + b"x")
        backend = await on.backend()
        await backend.hears_head()
        on.reports("api", State.BACKING_OFF)
        backend.breaks()
        assert (await answer(client))[0].startswith(b"HTTP/1.1 502 ")
        assert on.dials == [BACKEND_PORT]


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70000 + b"\r\n\r\n",
    ],
)
async def test_an_ambiguous_answer_is_502(said: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(said)
        assert (await answer(client))[0].startswith(b"HTTP/1.1 502 ")
        await backend.hears_end()


async def test_a_body_with_broken_framing_is_never_passed_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(b"POST /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        backend = await on.backend()
        await backend.hears_head()
        await client.says(b"zz\r\n")
        await backend.hears_end()
        head, _ = await answer(client)
        assert head.startswith(b"HTTP/1.1 400 ")
        assert await client.hears_end() == b""


# --- stale connections ---


async def test_stale_connections_are_skipped_until_a_fresh_one_is_tried(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        clients = [on.client() for _ in range(3)]
        backends = []
        for client in clients:
            await client.says(get())
            backends.append(await on.backend())
        for client, backend in zip(clients, backends, strict=True):
            await backend.hears_head()
            await backend.says(PAGE)
            await answer(client)
        # They die in the moment in which the next request is sent: no peek can see it.
        await clients[0].says(get(b"/again"))
        for backend in reversed(backends):
            await backend.hears_head()
            backend.leaves()
        fresh = await on.backend()
        assert b"/again" in await fresh.hears_head()
        await fresh.says(PAGE)
        assert (await answer(clients[0]))[1] == b"page"
        assert on.dials == [BACKEND_PORT] * 4


async def test_a_connection_that_was_closed_meanwhile_is_not_used(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        await answer(client)
        backend.leaves()
        await client.says(get(method=b"POST", fields=b"Content-Length: 1\r\n") + b"x")
        backend = await on.backend()
        assert b"POST" in await backend.hears_head()


async def test_a_request_that_may_not_be_repeated_is_not(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        await answer(client)
        # Nor is it sent over an idle connection, which the upstream may just be closing.
        await client.says(get(method=b"POST", fields=b"Content-Length: 1\r\n") + b"x")
        backend = await on.backend()
        await backend.hears_head()
        backend.leaves()
        assert (await answer(client))[0].startswith(b"HTTP/1.1 502 ")
        assert on.dials == [BACKEND_PORT] * 2


async def test_an_idempotent_upload_is_sent_again_if_its_upstream_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(replay_bytes=8) as on:
        client = on.client()
        await client.says(get(method=b"PUT", fields=b"Content-Length: 9\r\n") + b"one")
        backend = await on.backend()
        await backend.hears_until(b"\r\n\r\none")
        backend.breaks()
        backend = await on.backend()
        await backend.hears_until(b"\r\n\r\none")
        await client.says(b"twotri")
        assert await backend.hears(6) == b"twotri"
        # Nine bytes are more than are kept.
        backend.breaks()
        assert (await answer(client))[0].startswith(b"HTTP/1.1 502 ")
        assert on.dials == [BACKEND_PORT] * 2


async def test_an_answer_that_has_begun_is_not_asked_for_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        await answer(client)
        await client.says(get())
        await backend.hears_head()
        await backend.says(b"HTTP/1.1 2")
        backend.leaves()
        assert (await answer(client))[0].startswith(b"HTTP/1.1 502 ")
        assert on.dials == [BACKEND_PORT]


async def test_idle_connections_are_dropped_before_vite_drops_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        await answer(client)
        with trio.fail_after(5):
            assert await backend.hears_end() == b""


async def test_connections_from_before_a_restart_are_not_used(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        await answer(client)
        on.reports("api", State.BACKING_OFF)
        assert await backend.hears_end() == b""
        on.reports("api", State.READY)
        await client.says(get())
        await (await on.backend()).hears_head()


# --- instances ---


async def test_of_several_instances_the_first_one_that_is_ready_is_asked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(ready=("vite",), backend=FromProcess(name="api", instances=("api.1", "api.2"))) as on:
        client = on.client()
        on.reports("api.2", State.READY, url=f"http://127.0.0.1:{SUCCESSOR_PORT}")
        for _ in range(2):
            await client.says(get(b"/api/x"))
        second = await on.successor()
        for _ in range(2):
            await second.hears_head()
            await second.says(PAGE)
            await answer(client)
        on.reports("api.1", State.READY, url=f"http://127.0.0.1:{BACKEND_PORT}")
        await client.says(get(b"/api/x"))
        first = await on.backend()
        await first.hears_head()
        await first.says(PAGE)
        await answer(client)
        on.reports("api.1", State.BACKING_OFF)
        assert await first.hears_end() == b""
        await client.says(get(b"/api/x"))
        await (await on.successor()).hears_head()


# --- being held ---


async def test_a_request_is_held_until_the_backend_is_ready(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(ready=("vite",)) as on:
        on.reports("api", State.STARTING)
        client = on.client()
        await client.says(get(b"/api/notes"))
        await trio.sleep(3)
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"
        assert (await on.finished()).held == pytest.approx(3)


async def test_a_request_that_was_held_too_long_is_502(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(ready=("vite",), hold=15.0) as on:
        on.reports("api", State.STARTING)
        on.prints("api", "still importing")
        client = on.client()
        await client.says(get(b"/api/notes", b"Accept: application/json\r\n"))
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert header(head, b"retry-after") == b"1"
        assert json.loads(body)["output"] == ["still importing"]
        told = await on.finished()
        assert told.held == pytest.approx(15)
        assert (told.upstream, told.reason) == ("orchestra", "backend not ready")


async def test_a_backend_that_ends_before_ready_is_502_with_last_lines(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(ready=("vite",)) as on:
        on.reports("api", State.STARTING)
        on.prints("api", "SyntaxError: <invalid>")
        on.reports("api", State.BACKING_OFF, reason="exit code 1")
        client = on.client()
        await client.says(get(b"/x", NAVIGATES))
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert b"api has ended: exit code 1" in body
        assert b"SyntaxError: &lt;invalid&gt;" in body
        assert (await on.finished()).held == 0


async def test_a_refused_connection_announces_the_end_of_a_process(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        on.refusing.add(BACKEND_PORT)
        client = on.client()
        await client.says(get(method=b"POST", fields=b"Content-Length: 1\r\n") + b"x")
        await trio.sleep(0.05)
        on.reports("api", State.BACKING_OFF)
        await trio.sleep(1)
        assert on.dials == [BACKEND_PORT]
        on.refusing.clear()
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        assert await backend.hears(1) == b"x"
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"
        assert (await on.finished()).held == pytest.approx(1.05)


async def test_a_ready_process_that_goes_on_refusing_is_502_in_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(hold=2) as on:
        on.refusing.add(BACKEND_PORT)
        client = on.client()
        await client.says(get())
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert b"api refuses connections at http://127.0.0.1:8001" in body


async def test_something_elsewhere_that_stays_away_is_502_and_named(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(backend=elsewhere(BACKEND_PORT)) as on:
        on.refusing.add(BACKEND_PORT)
        client = on.client()
        await client.says(get())
        head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 502 ")
        assert b"nothing answers at http://127.0.0.1:8001" in body
        assert (await on.finished()).held == 15
        # It was waited for long enough: from now on that is said at once.
        await trio.sleep(1)
        await client.says(get())
        assert (await answer(client))[0].startswith(b"HTTP/1.1 502 ")
        assert (await on.finished(2)).held == 0


@pytest.mark.parametrize("away", [3, 18])
async def test_something_elsewhere_is_asked_again_as_soon_as_it_is_back(
    away: float, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage(backend=elsewhere(BACKEND_PORT)) as on:
        client, late = on.client(), on.client()
        await client.says(get())
        await (backend := await on.backend()).hears_head()
        await backend.says(PAGE)
        await answer(client)
        backend.breaks()
        on.refusing.add(BACKEND_PORT)
        await client.says(get())
        await trio.sleep(away)
        # Meanwhile Vite's modules do not wait for it.
        await late.says(get(b"/src/main.ts", ASSET))
        await (vite := await on.frontend()).hears_head()
        await vite.says(SCRIPT)
        assert (await answer(late))[0].startswith(b"HTTP/1.1 200 ")
        on.refusing.clear()
        if away > 15:
            assert (await answer(client))[0].startswith(b"HTTP/1.1 502 ")
            await trio.sleep(1)
            await client.says(get())
        while True:  # one of its connections is that which has found it back
            with contextlib.suppress(EOFError):
                await (backend := await on.backend()).hears_head()
                break
        await backend.says(PAGE)
        assert (await answer(client))[0].startswith(b"HTTP/1.1 200 ")
        away_notices = [each.level for each in on.events if isinstance(each, Notice)]
        assert away_notices == ["warning", "info"]


ASSET = b"Sec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: script\r\n"


@pytest.mark.parametrize("state", [State.STARTING, State.FAILED])
async def test_a_dead_backend_never_takes_the_frontend_down(
    state: State, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage(ready=("vite",)) as on:
        on.reports("api", state)
        client = on.client()
        await client.says(get(b"/src/main.ts", ASSET))
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"
        told = await on.finished()
        assert (told.upstream, told.held) == ("frontend", 0.0)


@pytest.mark.parametrize("state", [State.STARTING, State.FAILED])
async def test_an_asset_waits_for_whichever_of_the_two_is_ready_first(
    state: State, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage(ready=()) as on:
        on.reports("api", state)
        on.reports("vite", State.STARTING)
        client = on.client()
        await client.says(get(b"/src/main.ts", ASSET))
        await trio.sleep(2)
        on.reports("vite", State.READY)
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"
        assert (await on.finished()).held == pytest.approx(2)
        assert on.dials == [FRONTEND_PORT]


async def test_an_asset_is_the_backend_s_if_that_is_ready_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(ready=()) as on:
        client = on.client()
        await client.says(get(b"/src/main.ts", ASSET))
        await trio.sleep(2)
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"
        assert (await on.finished()).held == pytest.approx(2)


async def test_an_asset_is_not_held_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(ready=()) as on:
        on.reports("api", State.FAILED)
        on.reports("vite", State.STARTING)
        client = on.client()
        await client.says(get(b"/src/main.ts", ASSET))
        assert (await answer(client))[0].startswith(b"HTTP/1.1 502 ")
        assert (await on.finished()).held == pytest.approx(15)


async def test_an_asset_that_vite_does_not_know_waits_for_the_backend(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(ready=("vite",)) as on:
        client = on.client()
        await client.says(get(b"/admin/x.js", ASSET))
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(SCRIPT)
        head, body = await answer(client)
        assert (body, header(head, b"x-orchestra-upstream")) == (b"let a;", b"backend")


async def teach(on: Stage, client: Talker, *, said: bytes = SCRIPT) -> tuple[Talker, Talker]:
    """Have the proxy find out that /src/main.ts is Vite's."""
    await client.says(get(b"/src/main.ts"))
    backend = await on.backend()
    await backend.hears_head()
    await backend.says(JSON_404)
    vite = await on.frontend()
    await vite.hears_head()
    await vite.says(said)
    await answer(client)
    return backend, vite


async def test_what_turned_out_to_be_vites_goes_straight_to_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        _, vite = await teach(on, client)
        await client.says(get(b"/src/main.ts?t=1"))
        await vite.hears_head()
        await vite.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"
        assert (await on.finished(2)).reason == "asset, remembered"


@pytest.mark.parametrize("state", [State.STARTING, State.FAILED])
async def test_what_is_remembered_is_answered_without_the_backend(
    state: State, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()
        _, vite = await teach(on, client)
        on.reports("api", state)
        await client.says(get(b"/src/main.ts"))
        await vite.hears_head()
        await vite.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"


async def test_a_backend_that_becomes_ready_is_asked_again(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await teach(on, client)
        on.reports("api", State.STARTING)
        on.reports("api", State.READY)
        await client.says(get(b"/src/main.ts"))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(SCRIPT)
        assert header((await answer(client))[0], b"x-orchestra-upstream") == b"backend"


@pytest.mark.parametrize(
    ("memo", "said"), [(False, SCRIPT), (True, PAGE.replace(b"text/html", b"text/html; charset=utf-8"))]
)
async def test_pages_are_not_remembered_nor_is_anything_if_switched_off(
    *, memo: bool, said: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage(memo=memo) as on:
        client = on.client()
        backend, _ = await teach(on, client, said=said)
        await client.says(get(b"/src/main.ts"))
        assert b"/src/main.ts" in await backend.hears_head()


@pytest.mark.parametrize("said", [PAGE, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"])
async def test_what_vite_has_no_more_is_forgotten(
    said: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()
        backend, vite = await teach(on, client)
        await client.says(get(b"/src/main.ts"))
        await vite.hears_head()
        await vite.says(said)
        await backend.hears_head()
        await backend.says(PAGE)
        assert (await answer(client))[1] == b"page"
        await client.says(get(b"/src/main.ts"))
        await backend.hears_head()


async def test_without_any_backend_everything_goes_to_vite(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(ready=("vite",), backend=UNDECIDED, candidates=("worker",)) as on:
        on.reports("worker", State.RUNNING)
        client = on.client()
        for _ in range(2):
            await client.says(get(b"/x", NAVIGATES))
        await trio.sleep(5)
        on.proxy.decide("backend", None, reason="none of worker answers HTTP")
        vite = await on.frontend()
        for _ in range(2):
            await vite.hears_head()
            await vite.says(PAGE)
            assert (await answer(client))[1] == b"page"
        assert (await on.finished(1)).held == pytest.approx(5)
        assert (await on.finished(2)).held == 0


@pytest.mark.parametrize(("candidates", "status"), [(("vite",), 200), (("vite", "worker"), 502)])
async def test_where_nothing_else_could_be_a_backend_all_is_the_frontend_s(
    candidates: tuple[str, ...], status: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Its page for data, too."""
    async with stage(ready=("vite",), backend=UNDECIDED, candidates=candidates) as on:
        on.proxy.decide("backend", None, reason="none has answered")
        client = on.client()
        await client.says(get(b"/api/x"))
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(PAGE)
        assert (await answer(client))[0].split()[1] == str(status).encode()


@pytest.mark.parametrize(
    ("request_", "from_vite", "status", "upstream"),
    [
        pytest.param(get(b"/api/notes", NAVIGATES), PAGE, b"502", b"orchestra", id="an-api-has-no-page"),
        pytest.param(get(b"/notes"), PAGE, b"502", b"orchestra", id="data-is-no-page"),
        pytest.param(get(b"/x.ts"), SCRIPT, b"200", b"frontend", id="a-module"),
        pytest.param(
            get(b"/api/notes"),
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            b"404",
            b"frontend",
            id="a-404-is-honest",
        ),
    ],
)
async def test_without_a_backend_vites_page_is_not_taken_for_data(
    request_: bytes, from_vite: bytes, status: bytes, upstream: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage(ready=("vite",), backend=UNDECIDED, candidates=("worker",)) as on:
        on.reports("worker", State.COMPLETED)
        on.proxy.decide("backend", None, reason="none of worker answers HTTP")
        client = on.client()
        await client.says(request_)
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(from_vite)
        head, body = await answer(client)
        assert (head.split()[1], header(head, b"x-orchestra-upstream")) == (status, upstream)
        if upstream == b"orchestra":
            assert b"worker" in body


async def test_a_backend_that_needs_long_to_listen_gets_its_requests(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(ready=("vite",), backend=UNDECIDED, candidates=("api",)) as on:
        on.reports("api", State.RUNNING)
        client = on.client()
        await client.says(get(b"/api/notes"))
        await trio.sleep(12)
        on.proxy.decide("backend", FromProcess(name="api"), reason="it answers HTTP")
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"


async def test_a_backend_that_comes_up_late_beside_vite_gets_its_requests(autojump_clock: object) -> None:
    """They are of one process: nothing else could be a backend before."""
    async with stage(ready=("vite",), backend=UNDECIDED, candidates=("vite",)) as on:
        on.proxy.decide("backend", None, reason="none has answered")
        on.proxy.decide("backend", FromProcess(name="vite", is_second=True), reason="it answers HTTP")
        on.reports("vite", State.READY, second_url=f"http://127.0.0.1:{BACKEND_PORT}")
        client = on.client()
        await client.says(get(b"/api/x"))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(SCRIPT)
        assert (await answer(client))[1] == b"let a;"


async def test_while_it_is_not_known_what_the_frontend_is_a_404_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(ready=("api",), frontend=UNDECIDED, candidates=("web",)) as on:
        client = on.client()
        await client.says(get(b"/x", NAVIGATES))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(JSON_404)
        await trio.sleep(3)
        on.proxy.decide("frontend", FromProcess(name="vite"), reason="it answers /@vite/client")
        on.reports("vite", State.READY)
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(PAGE)
        assert (await answer(client))[1] == b"page"
        told = await on.finished()
        assert told.upstream == "frontend"
        assert told.held == pytest.approx(3)


@pytest.mark.parametrize("is_decided_late", [False, True])
async def test_a_backend_alone_is_asked_for_everything_and_its_404_stands(
    *, is_decided_late: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage(ready=("api",), frontend=UNDECIDED if is_decided_late else None) as on:
        if is_decided_late:
            on.proxy.decide("frontend", None)
        client = on.client()
        for target in (b"/", b"/@vite/client", b"/api/x"):
            await client.says(get(target, NAVIGATES))
        backend = await on.backend()
        for _ in range(3):
            await backend.hears_head()
            await backend.says(JSON_404)
            head, body = await answer(client)
            assert (body, header(head, b"x-orchestra-upstream")) == (b'"no it"', b"backend")
        on.reports("api", State.STARTING)
        await client.says(get(b"/x", NAVIGATES))
        await trio.sleep(1)
        on.reports("api", State.FAILED, reason="exit code 1")
        assert (await answer(client))[0].startswith(b"HTTP/1.1 502 ")
        assert on.dials == [BACKEND_PORT]


async def test_a_frontend_alone_is_asked_for_everything(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(ready=("vite",), backend=None) as on:
        client = on.client()
        for target in (b"/", b"/@vite/client", b"/api/x", b"/x"):
            await client.says(get(target))
        vite = await on.frontend()
        for _ in range(4):
            await vite.hears_head()
            await vite.says(PAGE)
            head, body = await answer(client)
            assert (body, header(head, b"x-orchestra-upstream")) == (b"page", b"frontend")
        assert (await on.finished()).held == 0


async def test_vites_ping_is_reset_while_vite_is_down(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(ready=("api",)) as on:
        client = on.client()
        await client.says(get(b"/", b"Accept: text/x-vite-ping\r\n"))
        await client.hears_reset()
        assert (await on.finished()).status is None


# --- refusals ---


@pytest.mark.parametrize(
    ("request_", "status", "mark"),
    [
        (b"GET / HTTP/1.1\r\nHost: evil.example:8000\r\n\r\n", 403, b'allowed_hosts = ["evil.example"]'),
        (get(b"/", b"Via: 1.1 orchestra\r\n" * 5), 508, b"again and again"),
        (get(b"/__orchestra__/"), 404, b"/__orchestra__/"),
        (b"CONNECT localhost:1 HTTP/1.1\r\n" + HOST + b"\r\n", 501, b"CONNECT"),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"x" * 70000 + b"\r\n\r\n", 431, b"65536"),
        (b"\x16\x03\x01\x00", 400, b"https"),
        (
            b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
            b"together",
        ),
        (b"GET / HTTP/1.1\n" + HOST + b"\n", 400, b"CR LF"),
    ],
)
async def test_what_is_refused_never_reaches_an_upstream(
    request_: bytes, status: int, mark: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.says, request_)
            head, body = await answer(client)
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert header(head, b"x-orchestra-upstream") == b"orchestra"
        assert mark in body
        assert on.dials == []


async def test_very_many_requests_at_once_are_answered_one_by_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Those that orchestra answers itself wait for nothing in between."""
    async with stage() as on:
        client = on.client()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.says, get(b"/__orchestra__/") * 2000)
            for _ in range(2000):
                head, _ = await answer(client)
                assert head.startswith(b"HTTP/1.1 404 ")


async def test_options_of_the_server_itself_is_answered_here(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await answer(client))[0].startswith(b"HTTP/1.1 200 ")
        assert on.dials == []


async def test_an_empty_line_before_a_request_is_ignored(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(b"\r", b"\n", get())
        assert (await (await on.backend()).hears_head()).startswith(b"GET /x ")
