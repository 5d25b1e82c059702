"""An orderly end of a client is an orderly end to its upstream: servers without an error handler live on.

Vite ends at a reset of an upgrade that it did not claim. The server here is Node's, without a handler of
errors: an error of a socket that it has handed over to an upgrade ends it.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest
import trio

from orchestra.bus import Bus
from orchestra.config.plan import Address, ProxyPlan
from orchestra.events import RequestFinished
from orchestra.proxy import server
from orchestra.proxy.server import Proxy
from orchestra.proxy.transport import accept
from tests.test_proxy_server import HOST, until
from tests.test_proxy_tunnel import ACCEPT, upgrade

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestra.events import Event

pytestmark = pytest.mark.real

NODE = """
const server = require("http").createServer((request, response) => {
  if (request.url === "/half") {
    response.writeHead(200, {"Content-Length": 100000000});
    response.write("x".repeat(100000));
  } else if (request.url === "/alive") {
    response.end("alive");
  } else {
    request.resume();
  }
});
server.on("upgrade", (request, socket) => {
  if (request.url === "/ws") {
    socket.write("HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n"
      + "Sec-WebSocket-Accept: %s\\r\\n\\r\\n");
  }
  socket.on("end", () => socket.end());
  socket.resume();
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
"""

STATES = {
    "upgrade asked": upgrade(b"/unclaimed"),
    "upgrade accepted": upgrade(b"/ws"),
    "body half sent": b"POST /swallow HTTP/1.1\r\n" + HOST + b"Content-Length: 100000\r\n\r\n" + b"x" * 1000,
    "answer half read": b"GET /half HTTP/1.1\r\n" + HOST + b"\r\n",
}
SEEN = {"upgrade accepted": b"101 ", "answer half read": b"x" * 1000}


@contextlib.asynccontextmanager
async def a_proxy(
    upgrade_timeout: float = 5.0,
) -> AsyncIterator[tuple[int, subprocess.Popen[str], list[Event]]]:
    """A proxy in front of Node; its port, Node's process, and the events."""
    with subprocess.Popen(  # noqa: ASYNC220 - it starts at once
        ["node", "-e", NODE % ACCEPT.decode()], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as node:
        assert node.stdout is not None
        try:
            upstream = Address(
                host="127.0.0.1", port=int(await trio.to_thread.run_sync(node.stdout.readline))
            )
            plan = ProxyPlan(backend=upstream, frontend=upstream, upgrade_timeout=upgrade_timeout)
            events: list[Event] = []
            bus = Bus()
            bus.subscribe(events.append)
            async with trio.open_nursery() as nursery:
                listener = socket.create_server(("127.0.0.1", 0))
                proxy = Proxy(plan, [listener], bus=bus)
                await nursery.start(proxy.run)
                yield listener.getsockname()[1], node, events
                await proxy.close()
                nursery.cancel_scope.cancel()
        finally:
            node.kill()


async def is_alive(port: int, node: subprocess.Popen[str]) -> bool:
    async with await trio.open_tcp_stream("127.0.0.1", port) as client:
        await client.send_all(b"GET /alive HTTP/1.1\r\n" + HOST + b"\r\n")
        await until(client, b"alive")
    return node.poll() is None


@pytest.mark.parametrize("state", STATES)
async def test_a_server_without_error_handler_survives_leaving_clients(state: str) -> None:
    """In each state, both ways to leave: by an end, and by a close with bytes unread, which is a reset."""
    async with a_proxy() as (port, node, events):
        for number in range(10):
            client = await trio.open_tcp_stream("127.0.0.1", port)
            await client.send_all(STATES[state])
            if state in SEEN:
                await until(client, SEEN[state])
            else:
                await trio.sleep(0.02)
            if number % 2 and state != "upgrade accepted":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            await client.aclose()
        with trio.fail_after(10):
            while sum(isinstance(event, RequestFinished) for event in events) < 10:  # noqa: ASYNC110
                await trio.sleep(0.01)
        assert await is_alive(port, node)


async def test_a_server_without_error_handler_survives_unclaimed_upgrades() -> None:
    async with a_proxy(upgrade_timeout=0.05) as (port, node, _):
        for _ in range(5):
            async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                await client.send_all(upgrade(b"/unclaimed"))
                assert b" 504 " in await until(client, b"\r\n\r\n")
        assert await is_alive(port, node)


async def test_at_the_limit_of_descriptors_new_connections_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is found in the middle: accept fails, nothing is called a bug, and it goes on."""
    failures = 3

    async def sometimes(listener: socket.socket) -> tuple[socket.socket, str]:
        nonlocal failures
        if failures:
            failures -= 1
            await trio.lowlevel.wait_readable(listener)
            raise OSError(24, "Too many open files")
        return await accept(listener)

    monkeypatch.setattr("orchestra.proxy.server.accept", sometimes)
    async with a_proxy() as (port, node, _):
        with trio.fail_after(10):
            assert await is_alive(port, node)
    assert not failures


@pytest.mark.parametrize(
    ("soft", "connections", "idle"),
    [(-1, 1024, 64), (1048576, 1024, 64), (1024, 416, 64), (128, 24, 8), (40, 4, 2)],
)
def test_descriptors_are_left_for_processes_and_probes(
    soft: int, connections: int, idle: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, soft))
    assert server._limits() == (connections, idle)
