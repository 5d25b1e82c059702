from __future__ import annotations

import ssl
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from orchestra.child.probe import http_answer, http_get
from orchestra.config.plan import Address
from tests.tls_kit import written

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.child.probe import Answer

pytestmark = pytest.mark.real


async def asked(answer: bytes | None, nursery: trio.Nursery, host: str = "127.0.0.1") -> Answer:
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
        answer = await asked(b"HTTP/1.1 " + status + b"\r\n\r\n", nursery, host)
        assert (answer.missing, answer.at.scheme) == ("", "http")
        nursery.cancel_scope.cancel()


async def test_a_server_that_stays_connected_after_its_answer_is_not_waited_for() -> None:
    """Hand-written ones do not look at ``Connection: close``."""
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(whole)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        at = Address("127.0.0.1", listener.socket.getsockname()[1])
        with trio.fail_after(30):
            assert (await http_get(at, "/", within=600, rest=600)).received == whole
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("answer", "why", "is_unfit"),
    [
        (None, "HTTP times out", False),
        (b"", "does not speak HTTP", True),
        (b"-ERR unknown command\r\n", "does not speak HTTP", True),
        (b"HTTP/1.1 426 Upgrade Required\r\n\r\n", "for WebSockets alone", True),
    ],
)
async def test_what_is_missing_is_said(answer: bytes | None, why: str, *, is_unfit: bool) -> None:
    async with trio.open_nursery() as nursery:
        found = await asked(answer, nursery)
        assert why in found.missing
        assert found.is_unfit is is_unfit
        nursery.cancel_scope.cancel()


SERVERS = {
    "says nothing": "",
    "Go's": "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n",
    "nginx": "HTTP/1.1 400 Bad Request\r\n\r\n<h1>The plain HTTP request was sent to HTTPS port</h1>",
    "an alert": "\x15\x03\x01\x00\x02\x02\x46",
}


@pytest.mark.parametrize("words", SERVERS.values(), ids=SERVERS)
async def test_a_server_that_expects_tls_is_asked_over_tls(words: str, tmp_path: Path) -> None:
    """What it says to a plain request depends on the server: its first byte tells what the client speaks."""
    context = certified(tmp_path)

    async def serve(stream: trio.SocketStream) -> None:
        first = await stream.socket.recv(1, trio.socket.MSG_PEEK)
        if first != b"\x16":
            await stream.receive_some()
            await stream.send_all(words.encode("latin-1"))
            return
        secure = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
        await secure.receive_some()
        await secure.send_all(b"HTTP/1.1 200 OK\r\n\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        at = Address("127.0.0.1", listener.socket.getsockname()[1])
        answer = await http_answer(at)
        assert (answer.missing, answer.at.url) == ("", f"https://{at}")
        assert (await http_answer(answer.at)).missing == ""
        nursery.cancel_scope.cancel()


def certified(folder: Path) -> ssl.SSLContext:
    """A server's context, with a certificate that it has made itself."""
    written(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


async def test_a_closed_port_is_said_to_be_one() -> None:
    with trio.socket.socket() as bound:
        await bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        assert "refused" in (await http_answer(Address("127.0.0.1", port))).missing
