"""TLS over another transport, in memory: bytes, ends, and whose certificate has to be valid."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING

import pytest
import trio

from orchestra.proxy.tls import TlsTransport, context_for
from tests.proxy_kit import memory_pair, receive
from tests.tls_kit import CERTIFICATE, server_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.proxy_kit import MemoryTransport


class ServerEnd(TlsTransport):
    def __init__(self, below: MemoryTransport, context: ssl.SSLContext) -> None:
        super().__init__(below, "localhost")
        self._tls = context.wrap_bio(self._received, self._to_send, server_side=True)


@contextlib.asynccontextmanager
async def both_ends(
    folder: Path, *, capacity: int = 65536, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[TlsTransport, TlsTransport]]:
    """An upstream and our end of a connection to it."""
    ours, theirs = memory_pair(capacity)
    client = TlsTransport(ours, "localhost", context=context)
    server = ServerEnd(theirs, server_context(folder))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.shake_hands)
        await client.shake_hands()
    yield client, server


@pytest.mark.parametrize("capacity", [1000, 65536])
async def test_all_bytes_arrive_however_narrow_the_way(tmp_path: Path, capacity: int) -> None:
    data = bytes(range(256)) * 2000
    async with both_ends(tmp_path, capacity=capacity) as (client, server):
        received = bytearray()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def _() -> None:
                # As a connection does: what could not be sent without waiting is waited for.
                for at in range(0, len(data), 50_000):
                    piece = data[at : at + 50_000]
                    await client.send_all(piece[client.send_some(piece) :])

            while len(received) < len(data):
                received += await receive(server)
        assert received == data
        await server.send_all(b"answer")
        assert await receive(client) == b"answer"


async def test_what_is_taken_in_part_is_still_input(tmp_path: Path) -> None:
    async with both_ends(tmp_path) as (client, server):
        await server.send_all(b"x" * 100)
        assert client.take_some(60) == b"x" * 60
        assert client.has_input()
        heard = trio.Event()
        client.on_input(heard.set)
        await heard.wait()
        assert client.take_some() == b"x" * 40
        assert client.take_some() is None
        assert not client.has_input()


async def test_an_end_is_an_end_and_a_reset_an_error(tmp_path: Path) -> None:
    async with both_ends(tmp_path) as (client, server):
        await server.send_all(b"last")
        server.close()
        assert [await receive(client), await receive(client)] == [b"last", b""]
    async with both_ends(tmp_path) as (client, server):
        server.abort()
        with pytest.raises(ConnectionResetError):
            await receive(client)
    async with both_ends(tmp_path) as (client, server):
        client.send_eof()
        assert await receive(server) == b""
        await server.send_all(b"still there")
        assert await receive(client) == b"still there"
        client.close()
        with pytest.raises(trio.ClosedResourceError):
            client.take_some()


async def test_what_does_not_speak_tls_is_an_error() -> None:
    ours, theirs = memory_pair()
    await theirs.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ssl.SSLError):
        await TlsTransport(ours, "localhost").shake_hands()


async def test_elsewhere_a_certificate_has_to_be_valid(tmp_path: Path) -> None:
    rules = context_for(is_local=False)
    assert (rules.verify_mode, rules.check_hostname) == (ssl.CERT_REQUIRED, True)
    ours, theirs = memory_pair()
    server = ServerEnd(theirs, server_context(tmp_path))

    async def answer() -> None:
        with contextlib.suppress(ssl.SSLError):
            await server.shake_hands()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
            await TlsTransport(ours, "localhost", context=rules).shake_hands()
        nursery.cancel_scope.cancel()
    trusting = ssl.create_default_context(cadata=CERTIFICATE)
    async with both_ends(tmp_path, context=trusting) as (client, _):
        client.close()


@pytest.mark.parametrize(
    ("host", "is_verified"),
    [
        ("127.0.0.1", False),
        ("::1", False),
        ("localhost", False),
        ("app.localhost", False),
        ("10.0.0.1", True),
    ],
)
def test_on_this_machine_any_certificate_will_do(host: str, *, is_verified: bool) -> None:
    ours, _ = memory_pair()
    used = TlsTransport(ours, host)._tls.context
    assert (used.verify_mode is ssl.CERT_REQUIRED) is is_verified
