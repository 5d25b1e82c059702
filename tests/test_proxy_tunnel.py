"""WebSockets: handshakes, bytes both ways, and how they end; in memory, and again over real sockets."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st
from wsproto.frame_protocol import FrameProtocol
from wsproto.utilities import generate_accept_token

from orchestra.config.plan import FromProcess
from orchestra.events import Notice, State, StreamOpened
from orchestra.proxy import exchange
from orchestra.proxy.head import ResponseHead
from orchestra.proxy.websocket import FrameTap, handshake_fault
from tests.proxy_kit import BACKEND_PORT, FRONTEND_PORT, header, headers_of, request_head, stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.proxy_kit import Stage, Talker

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = generate_accept_token(KEY)
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: " + ACCEPT + b"\r\n"
)


@pytest.fixture
def autojump_clock(clock_of_each_world: trio.testing.MockClock) -> trio.testing.MockClock:
    return clock_of_each_world


def upgrade(target: bytes = b"/ws", fields: bytes = b"", host: bytes = b"localhost:8000") -> bytes:
    return (
        b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: keep-alive, Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
        + KEY
        + b"\r\n"
        + fields
        + b"\r\n"
    )


HMR = b"Sec-WebSocket-Protocol: vite-hmr\r\n"


async def a_tunnel(on: Stage, request: bytes = upgrade()) -> tuple[Talker, Talker]:
    client = on.client()
    await client.says(request)
    backend = await on.backend()
    await backend.hears_head()
    await backend.says(ACCEPTED + b"\r\n")
    assert (await client.hears_head()).startswith(b"HTTP/1.1 101 ")
    return client, backend


async def test_the_browser_is_accepted_only_after_the_upstream_has_accepted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(
            upgrade(fields=b"Sec-WebSocket-Extensions: permessage-deflate\r\nOrigin: http://x\r\n")
        )
        backend = await on.backend()
        head = await backend.hears_head()
        assert headers_of(head)[:5] == [
            (b"Host", b"localhost:8000"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Key", KEY),
            (b"Sec-WebSocket-Extensions", b"permessage-deflate"),
            (b"Origin", b"http://x"),
        ]
        assert (header(head, b"connection"), header(head, b"upgrade")) == (b"Upgrade", b"websocket")
        await trio.testing.wait_all_tasks_blocked()
        assert not client.transport.has_input()
        await backend.says(ACCEPTED + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\nhello")
        head = await client.hears_head()
        assert header(head, b"sec-websocket-accept") == ACCEPT
        assert header(head, b"sec-websocket-extensions") == b"permessage-deflate"
        assert header(head, b"x-orchestra-upstream") == b"backend"
        assert await client.hears(5) == b"hello"


async def test_bytes_pass_both_ways_with_those_that_came_with_the_handshake(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(upgrade() + b"early")
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(ACCEPTED + b"\r\nfirst")
        await client.hears_head()
        assert await client.hears(5) == b"first"
        assert await backend.hears(5) == b"early"
        await client.says(b"x" * 100)
        assert await backend.hears(100) == b"x" * 100
        await backend.says(b"y" * 100)
        assert await client.hears(100) == b"y" * 100
        told = await on.finished()
        assert (told.status, told.upstream, told.outcome) == (101, "backend", "complete")
        opened = await on.opened()
        assert (opened.id, opened.kind, opened.target) == (told.id, "websocket", "/ws")


@pytest.mark.ceiling(1000)
async def test_a_silent_tunnel_stays_open(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "IDLE_TIMEOUT", 3.0)
    monkeypatch.setattr(exchange, "HEADER_TIMEOUT", 3.0)
    async with stage(upgrade_timeout=3) as on:
        client, backend = await a_tunnel(on)
        await trio.sleep(15)
        await client.says(b"still")
        assert await backend.hears(5) == b"still"


async def test_a_close_handshake_passes_and_its_code_is_told(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client, backend = await a_tunnel(on)
        frame = bytes(FrameProtocol(client=True, extensions=[]).close(4001, "done"))
        await client.says(frame)
        assert await backend.hears(len(frame)) == frame
        reply = bytes(FrameProtocol(client=False, extensions=[]).close(4001))
        await backend.says(reply)
        backend.leaves()
        assert await client.hears_end() == reply
        client.leaves()
        closed = await on.closed()
        assert (closed.code, closed.bytes_in, closed.bytes_out) == (4001, len(frame), len(reply))


async def test_one_side_may_end_before_the_other(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client, backend = await a_tunnel(on)
        client.transport.send_eof()
        assert await backend.hears_end() == b""
        await backend.says(b"one more thing")
        backend.leaves()
        assert await client.hears_end() == b"one more thing"


async def test_a_half_closed_tunnel_does_not_stay_for_ever(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client, backend = await a_tunnel(on)
        client.transport.send_eof()
        assert await backend.hears_end() == b""
        assert (await on.closed()).duration == pytest.approx(10)


@pytest.mark.parametrize("side", ["client", "backend"])
async def test_a_side_that_breaks_takes_the_other_along(
    side: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client, backend = await a_tunnel(on)
        (client if side == "client" else backend).breaks()
        await (backend if side == "client" else client).hears_reset()
        assert (await on.closed()).code is None


@pytest.mark.parametrize("protocol", [b"vite-hmr", b"vite-ping"])
async def test_vites_sockets_go_to_vite(protocol: bytes, autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(upgrade(b"/?token=x", b"Sec-WebSocket-Protocol: " + protocol + b"\r\n"))
        vite = await on.frontend()
        assert header(await vite.hears_head(), b"sec-websocket-protocol") == protocol
        await vite.says(ACCEPTED + b"Sec-WebSocket-Protocol: " + protocol + b"\r\n\r\n")
        assert header(await client.hears_head(), b"sec-websocket-protocol") == protocol
        assert (await on.opened()).kind == "hmr"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (b"", 101),
        (b"Origin: http://localhost:8000\r\n", 101),
        (b"Origin: http://127.0.0.1:8000\r\n", 101),
        (b"Origin: http://evil.example\r\n", 403),
        (b"Origin: http://localhost:5173\r\n", 403),
        (b"Origin: null\r\n", 403),
    ],
)
async def test_a_foreign_page_cannot_open_vites_socket(
    origin: bytes, status: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(upgrade(b"/?token=x", HMR + origin))
        if status == 101:
            vite = await on.frontend()
            await vite.hears_head()
            await vite.says(ACCEPTED + b"\r\n")
        head = await client.hears_head()
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert on.dials == ([FRONTEND_PORT] if status == 101 else [])


async def test_the_backend_judges_origins_of_its_own_sockets(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        await a_tunnel(on, upgrade(fields=b"Origin: http://other.example\r\n"))


async def test_a_foreign_host_is_refused(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(upgrade(b"/", HMR, host=b"evil.example"))
        assert (await client.hears_head()).startswith(b"HTTP/1.1 403 ")


async def test_a_refusal_is_relayed_as_the_answer_that_it_is(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(upgrade())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(b"HTTP/1.1 403 Forbidden\r\nX-Why: 1\r\nContent-Length: 3\r\n\r\nno!")
        head = await client.hears_head()
        assert head.startswith(b"HTTP/1.1 403 Forbidden\r\nX-Why: 1\r\n")
        assert await client.hears(3) == b"no!"
        assert (await on.finished()).status == 403
        assert not [event for event in on.events if isinstance(event, StreamOpened)]
        # The connection goes on as an ordinary one.
        await client.says(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await backend.hears_head()).startswith(b"GET /x ")


async def test_a_404_for_a_websocket_does_not_fall_back(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(upgrade())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        assert (await client.hears_head()).startswith(b"HTTP/1.1 404 ")
        assert on.dials == [BACKEND_PORT]


async def test_an_upstream_that_never_answers_the_handshake_is_504(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(upgrade())
        backend = await on.backend()
        head = await client.hears_head()
        assert head.startswith(b"HTTP/1.1 504 ")
        assert (await on.finished()).duration == pytest.approx(5)
        await backend.hears_end()


@pytest.mark.parametrize("backend_paths", [(), ("/api",)])
async def test_a_websocket_that_nothing_claims_is_404_and_says_what_to_write(
    backend_paths: tuple[str, ...], autojump_clock: trio.testing.MockClock
) -> None:
    """Vite never answers one that it does not know: that need not be waited for as long as a real one."""
    backend = FromProcess(name="api") if backend_paths else None
    async with stage(backend=backend, backend_paths=backend_paths) as on:
        for _ in range(2):
            client = on.client()
            await client.says(upgrade(b"/chat"))
            vite = await on.frontend()
            assert (await client.hears_head()).startswith(b"HTTP/1.1 404 ")
            await vite.hears_end()
        assert (await on.finished()).duration == pytest.approx(1)
        notices = [event for event in on.events if isinstance(event, Notice)]
        assert len(notices) == len(backend_paths)
        for each in notices:
            assert (
                each.text
                == "the frontend has not accepted a WebSocket at /chat, which is not in backend_paths"
            )
            assert '[proxy] backend_paths = ["/api","/chat"]' in each.hint


async def test_a_websocket_of_the_frontends_is_accepted_though_nothing_names_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(backend_paths=("/api",)) as on:
        client = on.client()
        await client.says(upgrade(b"/chat"))
        vite = await on.frontend()
        await vite.hears_head()
        await vite.says(ACCEPTED + b"\r\n")
        assert (await client.hears_head()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    "said",
    [
        ACCEPTED.replace(ACCEPT, b"x" + ACCEPT[1:]) + b"\r\n",
        ACCEPTED.replace(b"Upgrade: websocket", b"Upgrade: h2c") + b"\r\n",
        ACCEPTED.replace(b"Connection: Upgrade\r\n", b"") + b"\r\n",
    ],
)
async def test_a_handshake_that_does_not_accept_this_websocket_is_502(
    said: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(upgrade())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(said)
        assert (await client.hears_head()).startswith(b"HTTP/1.1 502 ")
        await backend.hears_end()


async def test_a_socket_waits_for_its_backend(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(ready=("vite",)) as on:
        client = on.client()
        await client.says(upgrade())
        await trio.sleep(2)
        on.reports("api", State.READY)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(ACCEPTED + b"\r\n")
        await client.hears_head()
        assert (await on.finished()).held == pytest.approx(2)


async def test_vites_ping_socket_is_reset_while_vite_is_down(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(ready=("api",)) as on:
        client = on.client()
        await client.says(upgrade(b"/", HMR.replace(b"hmr", b"ping")))
        await client.hears_reset()


async def test_a_client_that_leaves_during_the_handshake_takes_it_along(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(upgrade())
        backend = await on.backend()
        await backend.hears_head()
        client.leaves()
        with trio.fail_after(1):
            await backend.hears_end()


@pytest.mark.parametrize(
    ("fields", "status"), [(b"Content-Length: 1\r\n", 400), (b"Sec-WebSocket-Version: 8\r\n", 426)]
)
async def test_an_illegal_handshake_is_refused_here(
    fields: bytes, status: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(upgrade(fields=fields))
        assert (await client.hears_head()).startswith(b"HTTP/1.1 %d " % status)
        assert on.dials == []


# --- ends of ours ---


def close_code(frame: bytes) -> int | None:
    tap = FrameTap()
    tap.feed(frame)
    return tap.close_code


async def test_sockets_are_told_1012_when_their_process_is_stopped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, backend = await a_tunnel(on)
        on.reports("api", State.STOPPING)
        assert close_code(await backend.hears_end()) == 1012
        assert close_code(await client.hears_end()) == 1012
        client.leaves()
        assert (await on.closed()).code == 1012


@pytest.mark.parametrize("way", ["stop", "close"])
async def test_streams_that_open_too_late_end_at_once(
    way: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client, listener = on.client(), on.client()
        await client.says(upgrade())
        backend = await on.backend()
        await backend.hears_head()
        await listener.says(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        events = await on.backend()
        await events.hears_head()
        if way == "stop":
            on.reports("api", State.STOPPING)
        with trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                if way == "stop":
                    nursery.start_soon(on.proxy.before_stop, "api")
                else:
                    nursery.start_soon(on.proxy.close)
                await trio.testing.wait_all_tasks_blocked()
                await events.says(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
                assert b"data: 1" in await listener.hears_until(b"0\r\n\r\n")
                await backend.says(ACCEPTED + b"\r\n")
                await client.hears_head()
                code = close_code(await client.hears_end())
                client.leaves()
                backend.leaves()
        assert code == (1012 if way == "stop" else 1001)


async def test_before_stop_returns_when_the_streams_are_gone(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client, backend = await a_tunnel(on)
        on.reports("api", State.STOPPING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on.proxy.before_stop, "vite")
            nursery.start_soon(on.proxy.before_stop, "api")
            assert close_code(await backend.hears_end()) == 1012
            assert close_code(await client.hears_end()) == 1012
            client.leaves()
        assert (await on.closed()).code == 1012


async def test_a_peer_that_sends_no_close_frame_is_not_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        await a_tunnel(on)
        on.reports("api", State.STOPPING)
        await on.proxy.before_stop("api")
        assert (await on.closed()).duration == pytest.approx(1)


async def test_no_close_frame_is_put_into_the_middle_of_a_frame(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client, backend = await a_tunnel(on)
        await backend.says(b"\x82\x7e\x10\x00half")
        await client.hears(8)
        on.reports("api", State.STOPPING)
        assert await client.hears_end() == b""


# --- the tap ---


def frames(payloads: Sequence[bytes], *, client: bool) -> bytes:
    protocol = FrameProtocol(client=client, extensions=[])
    return b"".join(bytes(protocol.send_data(payload, fin=True)) for payload in payloads)


@given(
    payloads=st.lists(st.binary(max_size=300) | st.integers(1, 70000).map(bytes), max_size=4),
    client=st.booleans(),
    cuts=st.lists(st.integers(0, 2000), max_size=30),
    code=st.none() | st.integers(3000, 4999),
)
def test_the_tap_sees_the_same_whatever_the_pieces(
    payloads: list[bytes],
    *,
    client: bool,
    cuts: list[int],
    code: int | None,
) -> None:
    data = frames(payloads, client=client)
    if code is not None:
        data += bytes(FrameProtocol(client=client, extensions=[]).close(code, "bye"))
    tap = FrameTap()
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    for begin, end in itertools.pairwise(edges):
        tap.feed(data[begin:end])
    assert tap.is_at_boundary
    assert tap.close_code == code


def test_the_tap_knows_when_a_frame_is_not_over() -> None:
    data = frames([b"x" * 200], client=True)
    tap = FrameTap()
    for index in range(len(data) - 1):
        tap.feed(data[index : index + 1])
        assert not tap.is_at_boundary
    tap.feed(data[-1:])
    assert tap.is_at_boundary


def test_a_close_frame_without_a_code_is_1005() -> None:
    assert close_code(b"\x88\x00") == 1005
    assert close_code(b"\x88\x80abcd") == 1005
    assert close_code(b"\x88\x01a" + b"\x88\x02\x03\xe8") == 1005


def test_a_handshake_is_accepted_with_its_own_key_only() -> None:
    request = request_head(b"GET", b"/", [(b"Sec-WebSocket-Key", KEY)])
    headers = [(b"upgrade", b"WebSocket"), (b"connection", b"upgrade"), (b"sec-websocket-accept", ACCEPT)]
    assert handshake_fault(request, ResponseHead.of(101, headers)) is None
    assert handshake_fault(request, ResponseHead.of(101, headers[:2])) is not None
