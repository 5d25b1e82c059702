from __future__ import annotations

from functools import partial

import pytest
import trio

from orchestra.child.probe import http_answer
from orchestra.config.plan import Address

pytestmark = pytest.mark.real


async def asked(answer: bytes | None, nursery: trio.Nursery, host: str = "127.0.0.1") -> str:
    """Ask a server that says `answer`, or keeps silent."""

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if answer is None:
            await trio.sleep_forever()
        else:
            await stream.send_all(answer)

    (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host=host))
    return await http_answer(
        Address(host, listener.socket.getsockname()[1]), within=0.2 if answer is None else 10
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found", b"500 Internal Server Error"])
async def test_an_answer_of_any_status_will_do(status: bytes, host: str) -> None:
    async with trio.open_nursery() as nursery:
        assert await asked(b"HTTP/1.1 " + status + b"\r\n\r\n", nursery, host) == ""
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (None, "HTTP times out"),
        (b"", "does not speak HTTP"),
        (b"-ERR unknown command\r\n", "does not speak HTTP"),
    ],
)
async def test_what_is_missing_is_said(answer: bytes | None, why: str) -> None:
    async with trio.open_nursery() as nursery:
        assert why in await asked(answer, nursery)
        nursery.cancel_scope.cancel()


async def test_a_closed_port_is_said_to_be_one() -> None:
    with trio.socket.socket() as bound:
        await bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert "refused" in await http_answer(Address("127.0.0.1", port))
