"""The proxy as a whole: connections and their limits, its shutdown, and all of it over real sockets."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from orchestra.bus import Bus
from orchestra.config.plan import Address, ProxyPlan
from orchestra.events import RequestFinished, RequestHeld, State, StreamClosed
from orchestra.proxy import exchange, gate, server
from orchestra.proxy.exchange import Exchange
from orchestra.proxy.server import Proxy
from tests.proxy_kit import stage
from tests.test_proxy_tunnel import ACCEPTED, close_code, upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from orchestra.events import Event

HOST = b"Host: localhost:8000\r\n"
GET = b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


# --- limits ---


async def test_a_head_that_does_not_arrive_in_time_is_408(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(b"GET / HT")
        await trio.sleep(9)
        await client.says(b"TP/1.1\r\n")
        with trio.fail_after(2):
            assert (await client.hears_end()).startswith(b"HTTP/1.1 408 ")


async def test_an_unused_connection_is_closed_after_a_while(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "IDLE_TIMEOUT", 20.0)
    async with stage() as on:
        never, once = on.client(), on.client()
        await once.says(GET)
        backend = await on.backend()
        await backend.hears_head()
        await trio.sleep(8)
        await backend.says(OK)
        with trio.fail_after(13):
            assert await never.hears_end() == b""
        with trio.fail_after(9):
            assert (await once.hears_end()).endswith(b"ok")


async def test_a_slow_answer_is_not_limited(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "IDLE_TIMEOUT", 2.0)
    monkeypatch.setattr(exchange, "HEADER_TIMEOUT", 1.0)
    async with stage() as on:
        client = on.client()
        await client.says(GET)
        backend = await on.backend()
        await backend.hears_head()
        await trio.sleep(25)
        await backend.says(OK)
        assert (await client.hears_head()).startswith(b"HTTP/1.1 200 ")


async def test_more_requests_than_may_be_held_are_502_at_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_WAITING", 2)
    async with stage(ready=("vite",)) as on:
        clients = [on.client() for _ in range(3)]
        for client in clients:
            await client.says(GET)
            await trio.testing.wait_all_tasks_blocked()
        assert (await clients[2].hears_head()).startswith(b"HTTP/1.1 502 ")
        assert b"requests wait for it already" in await clients[2].hears_until(b"\n")
        assert (await on.finished()).held == 0


async def test_more_bytes_than_may_be_held_are_502_at_once(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "MAX_WAITING_BYTES", 5000)
    async with stage(ready=("vite",)) as on:
        clients = [on.client() for _ in range(3)]
        for client, size in zip(clients, (3000, 3000, 1000), strict=True):
            await client.says(GET.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * size + b"\r\n\r\n"))
            await trio.testing.wait_all_tasks_blocked()
        assert (await clients[1].hears_head()).startswith(b"HTTP/1.1 502 ")
        assert b"bytes of requests wait" in await clients[1].hears_until(b"\n")
        on.reports("api", State.READY)
        # The others are not affected, and what they had in memory is free again.
        for _ in range(2):
            await (await on.backend()).hears_head()
        on.reports("api", State.BACKING_OFF)
        client = on.client()
        await client.says(GET.replace(b"\r\n\r\n", b"\r\nX: " + b"x" * 4000 + b"\r\n\r\n"))
        await trio.testing.wait_all_tasks_blocked()
        assert (await on.told(RequestHeld, 3)).reason == "api has ended"


# --- the way down ---


async def test_closing_ends_idle_connections_and_drains_the_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        idle, busy = on.client(), on.client()
        await busy.says(GET)
        backend = await on.backend()
        await backend.hears_head()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on.proxy.close)
            assert await idle.hears_end() == b""
            await trio.sleep(1)
            await backend.says(OK)
            heard = await busy.hears_end()
        assert heard.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in heard


async def test_closing_does_not_wait_for_a_connection_whose_answer_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(GET)
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(OK)
        await client.hears_until(b"ok")
        await client.says(GET)
        await backend.hears_head()
        await backend.says(OK.removesuffix(b"k"))
        await client.hears_until(b"\r\n\r\no")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on.proxy.close)
            await trio.testing.wait_all_tasks_blocked()
            await backend.says(b"k")
            with trio.fail_after(1):
                assert await client.hears_end() == b"k"


async def test_closing_waits_two_seconds_at_most(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(GET)
        backend = await on.backend()
        await backend.hears_head()
        with trio.fail_after(2.5):
            await on.proxy.close()
        await client.hears_reset()
        await backend.hears_end()


async def test_closing_ends_streams_with_1001(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(upgrade())
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(ACCEPTED + b"\r\n")
        await client.hears_head()
        listener = on.client()
        await listener.says(b"GET /events HTTP/1.1\r\n" + HOST + b"\r\n")
        events = await on.backend()
        await events.hears_head()
        await events.says(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        await listener.hears_head()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(on.proxy.close)
            # An event stream has no end that could be missing.
            assert (await listener.hears_end()).endswith(b"0\r\n\r\n")
            assert close_code(await client.hears_end()) == 1001
            assert close_code(await backend.hears_end()) == 1001
            client.leaves()
        assert (await on.told(StreamClosed, 2)).kind == "websocket"


@pytest.mark.parametrize("where", ["run", "advance"])
async def test_a_mistake_of_ours_ends_one_connection_only(
    where: str,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stage() as on:
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(Exchange, where, lambda _self: 1 / 0)
            client = on.client()
            await client.says(GET)
            await client.hears_reset()
        assert "ZeroDivisionError" in caplog.text
        client = on.client()
        await client.says(GET)
        await (await on.backend()).hears_head()


# --- real sockets ---


class Street:
    """A proxy on a real port, and a backend that is whatever a test says."""

    def __init__(self, port: int, proxy: Proxy, events: list[Event]) -> None:
        self.port = port
        self.proxy = proxy
        self.events = events
        self.accepted = 0

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)


@contextlib.asynccontextmanager
async def street(
    handler: Callable[[trio.SocketStream], Awaitable[None]], family: int = socket.AF_INET
) -> AsyncIterator[Street]:
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def count(stream: trio.SocketStream) -> None:
            made.accepted += 1
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
                async with stream:
                    await handler(stream)

        await nursery.start(trio.serve_listeners, count, listeners)
        port = listeners[0].socket.getsockname()[1]
        ours = socket.socket(family)
        ours.bind(("127.0.0.1", 0))
        ours.listen()
        events: list[Event] = []
        plan = ProxyPlan(
            backend=Address(host="127.0.0.1", port=port), frontend=Address(host="127.0.0.1", port=port)
        )
        bus = Bus()
        bus.subscribe(events.append)
        proxy = Proxy(plan, [ours], bus=bus)
        made = Street(ours.getsockname()[1], proxy, events)
        await nursery.start(proxy.run)
        yield made
        await proxy.close()
        assert ours.fileno() == -1
        nursery.cancel_scope.cancel()


async def until(stream: trio.SocketStream, mark: bytes, heard: bytes = b"") -> bytes:
    while mark not in heard:
        data = await stream.receive_some()
        if not data:
            raise EOFError
        heard += data
    return heard


async def all_of(stream: trio.SocketStream) -> bytes:
    return b"".join([data async for data in stream])


@pytest.mark.real
async def test_real_connections_are_kept_alive_on_both_sides() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        while True:
            await until(stream, b"\r\n\r\n")
            await stream.send_all(OK)

    async with street(handler) as on, await on.connect() as client:
        for _ in range(20):
            await client.send_all(GET)
            assert (await until(client, b"\r\n\r\nok")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert on.accepted == 1


@pytest.mark.real
async def test_a_connection_that_the_upstream_closed_is_not_used_again() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await until(stream, b"\r\n\r\n")
        await stream.send_all(OK)

    async with street(handler) as on, await on.connect() as client:
        for _ in range(10):
            await client.send_all(GET)
            assert (await until(client, b"\r\n\r\nok")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert on.accepted == 10


@pytest.mark.real
async def test_big_bodies_stream_both_ways_at_once() -> None:
    size = 32 * 1024 * 1024

    async def handler(stream: trio.SocketStream) -> None:
        await until(stream, b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        async for data in stream:
            await stream.send_all(data)

    async with street(handler) as on, await on.connect() as client:
        await client.send_all(b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % size)
        head = await until(client, b"\r\n\r\n")
        received = len(head.partition(b"\r\n\r\n")[2])

        async def send() -> None:
            for _ in range(size // 65536):
                await client.send_all(b"x" * 65536)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            while received < size:
                received += len(await client.receive_some())
        assert received == size
    finished = on.events[-1]
    assert isinstance(finished, RequestFinished)
    assert (finished.bytes_in, finished.bytes_out, finished.outcome) == (size, size, "complete")


@pytest.mark.real
async def test_a_real_client_that_leaves_is_noticed_at_once() -> None:
    asked, gone = trio.Event(), trio.Event()

    async def handler(stream: trio.SocketStream) -> None:
        await until(stream, b"\r\n\r\n")
        asked.set()
        assert await stream.receive_some() == b""
        gone.set()

    async with street(handler) as on:
        client = await on.connect()
        await client.send_all(GET)
        with trio.fail_after(5):
            await asked.wait()
            await client.aclose()
            await gone.wait()


@pytest.mark.real
async def test_a_real_upstream_that_ends_mid_answer_resets_the_client() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await until(stream, b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")

    async with street(handler) as on, await on.connect() as client:
        await client.send_all(GET)
        with pytest.raises(trio.BrokenResourceError):
            await all_of(client)


@pytest.mark.real
async def test_real_events_arrive_one_by_one() -> None:
    more = trio.Event()

    async def handler(stream: trio.SocketStream) -> None:
        await until(stream, b"\r\n\r\n")
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await more.wait()
        await stream.send_all(b"data: 2\n\n")

    async with street(handler) as on, await on.connect() as client:
        await client.send_all(GET)
        await until(client, b"data: 1\n\n")
        more.set()
        await until(client, b"data: 2\n\n")


@pytest.mark.real
async def test_a_real_websocket_echoes_and_closes() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await until(stream, b"\r\n\r\n")
        await stream.send_all(ACCEPTED + b"\r\n")
        async for data in stream:
            await stream.send_all(data)

    async with street(handler) as on, await on.connect() as client:
        await client.send_all(upgrade())
        assert (await until(client, b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        for size in (1, 1000, 1_000_000):
            message = b"\x82\xff" + size.to_bytes(8, "big") + b"\0\0\0\0" + b"x" * size
            received = 0
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, message)
                while received < len(message):
                    received += len(await client.receive_some())
        close = b"\x88\x82\0\0\0\0\x0f\xa1"
        await client.send_all(close)
        await until(client, close)
        await client.send_eof()
        assert await all_of(client) == b""
    closed = [event for event in on.events if isinstance(event, StreamClosed)]
    assert [event.code for event in closed] == [4001]


@pytest.mark.real
async def test_a_large_answer_to_an_early_refusal_arrives_whole() -> None:
    async def handler(stream: trio.SocketStream) -> None:
        await until(stream, b"\r\n\r\n")
        await stream.send_all(
            b"HTTP/1.1 413 Too Large\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n"
        )
        await stream.send_all(b"x" * 100_000)

    async with street(handler) as on, await on.connect() as client:
        await client.send_all(
            b"POST /x HTTP/1.1\r\n" + HOST + b"Content-Length: 100000000\r\n\r\n" + b"x" * 1000
        )
        heard = await all_of(client)
        assert heard.startswith(b"HTTP/1.1 413 ")
        assert len(heard.partition(b"\r\n\r\n")[2]) == 100_000


@pytest.mark.real
async def test_a_cancelled_proxy_leaves_nothing_open() -> None:
    both, arrived = trio.Event(), list[trio.SocketStream]()

    async def handler(stream: trio.SocketStream) -> None:
        await until(stream, b"\r\n\r\n")
        arrived.append(stream)
        if len(arrived) == 2:
            both.set()
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, _quiet(handler), listeners)
        upstream = Address(host="127.0.0.1", port=listeners[0].socket.getsockname()[1])
        ours = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        addresses = [listener.getsockname() for listener in ours]
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                proxy = Proxy(ProxyPlan(backend=upstream, frontend=upstream), ours, bus=Bus())
                await inner.start(proxy.run)
                clients = [await trio.open_tcp_stream(*address) for address in addresses]
                for client in clients:
                    await client.send_all(GET)
                await both.wait()
                scope.cancel()
        for client in clients:
            with contextlib.suppress(trio.BrokenResourceError):
                assert await client.receive_some() == b""
            await client.aclose()
        for address in addresses:
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream(*address)
        nursery.cancel_scope.cancel()


def _quiet(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> Any:
    async def quiet(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError, EOFError):
            async with stream:
                await handler(stream)

    return quiet


@pytest.mark.real
async def test_more_connections_than_allowed_wait_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 1)
    upstream = Address(host="127.0.0.1", port=1)
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    async with trio.open_nursery() as nursery:
        plan = ProxyPlan(backend=upstream, frontend=upstream, hold=0.1)
        await nursery.start(Proxy(plan, [listener], bus=Bus()).run)
        first, second = [await trio.open_tcp_stream(*address) for _ in range(2)]
        await first.send_all(GET)
        await until(first, b"502")
        await second.send_all(GET)
        with trio.move_on_after(0.1) as limit:
            await until(second, b"502")
        assert limit.cancelled_caught
        await first.aclose()
        await until(second, b"502")
        await second.aclose()
        nursery.cancel_scope.cancel()
