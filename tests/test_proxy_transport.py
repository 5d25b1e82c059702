"""Bytes over real sockets, and the report that a peer has hung up."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from orchestra.proxy.transport import Hangups, SocketTransport, accept, dial

pytestmark = pytest.mark.real


async def a_connection(hangups: Hangups | None = None) -> tuple[SocketTransport, SocketTransport]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        client = await dial(*listener.getsockname())
        sock, (address, _) = await accept(listener)
        assert address == "127.0.0.1"
        return client, SocketTransport(sock, hangups)


async def test_bytes_arrive_however_many_they_are() -> None:
    client, server = await a_connection()
    data, received = b"x" * 5_000_000, 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, data)
        while received < len(data):
            received += len(await server.receive_some())
    client.send_eof()
    assert await server.receive_some() == b""
    await server.send_all(b"still there")
    assert await client.receive_some() == b"still there"
    client.close()
    server.close()


async def test_input_is_seen_without_taking_it() -> None:
    client, server = await a_connection()
    assert not server.has_input()
    await client.send_all(b"x")
    await trio.lowlevel.wait_readable(server._sock)
    assert server.has_input()
    assert await server.receive_some() == b"x"
    client.close()
    await trio.lowlevel.wait_readable(server._sock)
    assert server.has_input()
    server.close()


async def test_a_close_with_bytes_unread_is_no_reset() -> None:
    client, server = await a_connection()
    await client.send_all(b"x" * 100_000)
    await trio.lowlevel.wait_readable(server._sock)
    server.close()
    assert await client.receive_some() == b""
    client.close()


async def test_an_abort_is_a_reset() -> None:
    client, server = await a_connection()
    client.abort()
    with pytest.raises(ConnectionResetError):
        await server.receive_some()
    server.close()


async def test_closing_wakes_waiting_tasks_and_may_be_repeated() -> None:
    client, server = await a_connection()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def waits() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await server.receive_some()

        await trio.testing.wait_all_tasks_blocked()
        server.close()
    server.close()
    server.abort()
    with pytest.raises(trio.ClosedResourceError):
        await server.send_all(b"x")
    client.close()


@pytest.mark.parametrize("way", ["close", "abort", "send_eof"])
async def test_a_hangup_is_told_once_even_behind_unread_bytes(way: str) -> None:
    hangups = Hangups()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hangups.run)
        client, server = await a_connection(hangups)
        told: list[bool] = []
        heard = trio.Event()

        def hear(is_reset: bool) -> None:  # noqa: FBT001 - a callback
            told.append(is_reset)
            heard.set()

        server.on_hangup(hear)
        await client.send_all(b"unread")
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        getattr(client, way)()
        await heard.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert told == [way == "abort"]
        client.close()
        server.close()
        nursery.cancel_scope.cancel()
    hangups.close()


async def test_a_cancelled_subscription_is_not_told() -> None:
    hangups = Hangups()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(hangups.run)
        client, server = await a_connection(hangups)
        told: list[bool] = []
        server.on_hangup(told.append)
        server.on_hangup(None)
        client.close()
        assert await server.receive_some() == b""
        await trio.testing.wait_all_tasks_blocked()
        assert told == []
        server.close()
        nursery.cancel_scope.cancel()
    hangups.close()


async def test_a_refused_dial_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(ConnectionRefusedError):
        await dial(*address)


async def test_a_name_is_dialled_in_both_families() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        client = await dial("localhost", listener.getsockname()[1])
        sock, _ = await accept(listener)
        sock.close()
        client.close()
