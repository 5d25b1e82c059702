"""Bytes over real sockets, and the report that a peer has hung up."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from orchestra.config.plan import Address
from orchestra.proxy.transport import Poller, SocketTransport, accept, dial
from tests.proxy_kit import receive

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.real


@contextlib.asynccontextmanager
async def a_poller() -> AsyncIterator[Poller]:
    poller = Poller()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poller.run)
        yield poller
        nursery.cancel_scope.cancel()
    poller.close()


@contextlib.asynccontextmanager
async def a_connection() -> AsyncIterator[tuple[SocketTransport, SocketTransport]]:
    """Both ends of a connection."""
    async with a_poller() as poller:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            client = await dial(Address(*listener.getsockname()), poller)
            sock, address = await accept(listener)
        assert address == "127.0.0.1"
        server = SocketTransport(sock, poller)
        yield client, server
        client.close()
        server.close()


async def test_a_unix_socket_that_is_busy_is_waited_for(tmp_path: Path) -> None:
    """Its queue is full: not one connection is lost, or taken for one before it is accepted."""
    path = str(tmp_path / "busy.sock")
    replies: list[bytes] = []
    async with a_poller() as poller:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(0)
            accepting = trio.socket.from_stdlib_socket(listener)

            async def ask(number: int) -> None:
                client = await dial(Address(path, 0, "unix"), poller)
                await client.send_all(b"%d" % number)
                replies.append(await receive(client))
                client.close()

            async with trio.open_nursery() as clients:
                for number in range(5):
                    clients.start_soon(ask, number)
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(5):
                    sock, _ = await accepting.accept()
                    server = SocketTransport(socket.socket(fileno=sock.detach()), poller)
                    await server.send_all(await receive(server))
                    server.close()
    assert sorted(replies) == [b"%d" % number for number in range(5)]


async def has_input(transport: SocketTransport) -> None:
    heard = trio.Event()
    transport.on_input(heard.set)
    await heard.wait()


async def test_bytes_arrive_however_many_they_are() -> None:
    async with a_connection() as (client, server), trio.open_nursery() as nursery:
        data, received = b"x" * 5_000_000, 0
        nursery.start_soon(client.send_all, data)
        while received < len(data):
            received += len(await receive(server))
        client.send_eof()
        assert await receive(server) == b""
        await server.send_all(b"still there")
        assert await receive(client) == b"still there"


async def test_input_is_seen_without_taking_it() -> None:
    async with a_connection() as (client, server):
        assert not server.has_input()
        await client.send_all(b"x")
        await has_input(server)
        assert server.has_input()
        assert await receive(server) == b"x"
        assert not server.has_input()
        client.close()
        await has_input(server)
        assert server.has_input()


async def test_bytes_are_taken_and_sent_without_waiting() -> None:
    async with a_connection() as (client, server):
        assert server.take_some() is None
        assert client.send_some(b"x") == 1
        await has_input(server)
        assert server.take_some() == b"x"
        assert server.take_some() is None
        while client.send_some(b"x" * 50_000_000):
            pass
        client.abort()
        await has_input(server)
        with pytest.raises(ConnectionResetError):
            list(iter(server.take_some, b""))
        with pytest.raises(BrokenPipeError):
            server.send_some(b"x")
        server.close()
        with pytest.raises(trio.ClosedResourceError):
            server.take_some()
        with pytest.raises(trio.ClosedResourceError):
            server.send_some(b"x")


async def test_input_is_told_once_to_a_function() -> None:
    async with a_connection() as (client, server):
        told: list[bytes | None] = []
        server.on_input(lambda: told.append(server.take_some()))
        await client.send_all(b"one")
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.send_all(b"two")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert told == [b"one"]
        # What was told meanwhile is not forgotten.
        server.on_input(lambda: told.append(server.take_some()))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert told == [b"one", b"two"]
        server.on_input(lambda: told.append(server.take_some()))
        server.on_input(None)
        client.close()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert told == [b"one", b"two"]
        server.on_input(lambda: told.append(server.take_some()))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert told == [b"one", b"two", b""]


async def test_a_close_with_bytes_unread_is_no_reset() -> None:
    async with a_connection() as (client, server):
        await client.send_all(b"x" * 100_000)
        await has_input(server)
        server.close()
        assert await receive(client) == b""


async def test_an_abort_is_a_reset() -> None:
    async with a_connection() as (client, server):
        client.abort()
        with pytest.raises(ConnectionResetError):
            await receive(server)


async def test_closing_wakes_a_waiting_task_and_may_be_repeated() -> None:
    async with a_connection() as (client, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def waits() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await receive(server)

        await trio.testing.wait_all_tasks_blocked()
        server.close()
        server.close()
        server.abort()
        with pytest.raises(trio.ClosedResourceError):
            await server.send_all(b"x")
        told: list[None] = []
        client.on_input(lambda: told.append(None))
        client.close()
        assert told == [None]


@pytest.mark.parametrize("way", ["close", "abort", "send_eof"])
async def test_a_hangup_is_told_once_even_behind_unread_bytes(way: str) -> None:
    async with a_connection() as (client, server):
        told: list[bool] = []
        heard = trio.Event()

        def hear(is_reset: bool) -> None:  # noqa: FBT001 - a callback
            told.append(is_reset)
            heard.set()

        server.on_hangup(hear)
        await client.send_all(b"unread")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert told == []
        getattr(client, way)()
        await heard.wait()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert told == [way == "abort"]


@pytest.mark.parametrize("way", ["close", "abort", "send_eof"])
async def test_a_hangup_that_has_come_before_is_told_as_what_it_was(way: str) -> None:
    async with a_connection() as (client, server):
        getattr(client, way)()
        await has_input(server)
        told: list[bool] = []
        server.on_hangup(told.append)
        assert told == [way == "abort"]


async def test_a_cancelled_subscription_is_not_told() -> None:
    async with a_connection() as (client, server):
        told: list[bool] = []
        server.on_hangup(told.append)
        server.on_hangup(None)
        client.close()
        assert await receive(server) == b""
        assert told == []


async def test_a_refused_dial_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with a_poller() as poller:
        with pytest.raises(ConnectionRefusedError):
            await dial(Address("127.0.0.1", port), poller)


async def test_a_name_is_dialled_in_both_families() -> None:
    async with a_poller() as poller:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            client = await dial(Address("localhost", listener.getsockname()[1]), poller)
            sock, _ = await accept(listener)
            sock.close()
            client.close()
