"""Relays Vite's WebSocket for an ASGI server, which holds the connection to the browser.

The browser's WebSocket is accepted after Vite has accepted ours, with the same subprotocol; Vite's refusal is
passed on. Frames are decoded, because ASGI has messages; only the browser's connection is compressed.

Vite's client polls for a restarted server only if its connection breaks, but ASGI can only close a connection
in an orderly way. So when Vite has gone, the browser's connection stays open until Vite is back. Then the
page gets Vite's own message to reload.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from msgspec import structs
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.utilities import ProtocolError

from orchestra.asgi.requests import fields_of
from orchestra.errors import UpstreamError
from orchestra.proxy.forward import forwarded_request

if TYPE_CHECKING:
    from anyio.abc import SocketStream
    from wsproto.events import Event

    from orchestra.asgi.requests import Vite
    from orchestra.control.doors import Receive, Scope, Send
    from orchestra.proxy.forward import Peer
    from orchestra.proxy.head import RequestHead

__all__ = ["relay"]

# Seconds for Vite to accept it, also while Vite starts: it never answers an unknown path.
_ACCEPT_LIMIT = 15.0
# Seconds between two looks at whether Vite is back.
_INTERVAL = 0.5
# Seconds for it to answer a ping.
_PING_LIMIT = 2.0
# Seconds for the browser to answer a close.
_CLOSE_LIMIT = 5.0
_RELOAD = '{"type":"full-reload"}'
_CHUNK = 65536
_GONE = (OSError, anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ProtocolError)
# These subprotocols are set by us, in our own handshake with Vite.
_OWN = frozenset({b"host", b"connection", b"upgrade"})
_NO_STATUS, _ABNORMAL = 1005, 1006


async def relay(
    vite: Vite, head: RequestHead, peer: Peer, *, scope: Scope, receive: Receive, send: Send
) -> None:
    """Relay a WebSocket until the browser, whose address is `peer` and request `head`, disconnects."""
    await receive()  # websocket.connect
    try:
        stream = await vite.connect()
    except UpstreamError:
        await send({"type": "websocket.close", "code": 1013})
        return
    async with stream:
        end = _ViteEnd(stream)
        try:
            with anyio.fail_after(_ACCEPT_LIMIT):
                accepted = await end.shake_hands(head, peer)
        except (TimeoutError, *_GONE):
            await send({"type": "websocket.close", "code": 1013})
            return
        if not isinstance(accepted, AcceptConnection):
            await _refuse(accepted, end.refusal, scope, send)
            return
        await send({"type": "websocket.accept", "subprotocol": accepted.subprotocol})
        async with anyio.create_task_group() as group:
            group.start_soon(_pass_up, end, receive, group.cancel_scope)
            if await _pass_down(end, send):
                await anyio.sleep(_CLOSE_LIMIT)
                group.cancel_scope.cancel()
            else:
                await _wait_for(vite, head, peer)
                # The browser leaves, to load the page again.
                await send({"type": "websocket.send", "text": _RELOAD})


async def _refuse(refused: RejectConnection, body: bytes, scope: Scope, send: Send) -> None:
    """Relay Vite's refusal, as far as the server can."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    start = {"status": refused.status_code, "headers": [(b"content-type", b"text/plain")]}
    await send({"type": "websocket.http.response.start", **start})
    await send({"type": "websocket.http.response.body", "body": body})


async def _pass_up(end: _ViteEnd, receive: Receive, scope: anyio.CancelScope) -> None:
    """Relay the browser's messages to Vite, until the browser disconnects."""
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        with suppress(*_GONE):
            await end.send(BytesMessage(message["bytes"]) if text is None else TextMessage(text))
    with suppress(*_GONE):
        code = message.get("code") or 1000
        await end.send(CloseConnection(1000 if code in (_NO_STATUS, _ABNORMAL) else code))
    scope.cancel()


async def _pass_down(end: _ViteEnd, send: Send) -> bool:
    """Relay Vite's messages to the browser; return whether Vite has closed its end in an orderly way."""
    parts: list[str | bytes] = []
    try:
        while True:
            event = await end.next()
            match event:
                case TextMessage() | BytesMessage():
                    parts.append(event.data if isinstance(event, TextMessage) else bytes(event.data))
                    if event.message_finished:
                        kind = "text" if isinstance(event, TextMessage) else "bytes"
                        whole = parts[0][:0].join(parts)  # type: ignore[arg-type]  # all are of one type
                        parts.clear()
                        await send({"type": "websocket.send", kind: whole})
                case CloseConnection(code=code, reason=reason):
                    code = 1000 if code == _NO_STATUS else int(code)
                    await send({"type": "websocket.close", "code": code, "reason": reason or ""})
                    return True
                case _:
                    pass
    except _GONE:
        return False


async def _wait_for(vite: Vite, head: RequestHead, peer: Peer) -> None:
    """Wait until Vite is back: it answers its own ping; an old Vite without one keeps the connection open.

    A Vite that is about to exit may still accept a connection.
    """
    ping = structs.replace(head, values={**head.values, b"sec-websocket-protocol": b"vite-ping"})
    while True:
        await anyio.sleep(_INTERVAL)
        with suppress(UpstreamError, *_GONE):
            async with await vite.connect() as stream:
                with anyio.move_on_after(_PING_LIMIT):
                    await _ViteEnd(stream).shake_hands(ping, peer)
                return


class _ViteEnd:
    """Our connection to Vite; `refusal` is the body of a refused handshake."""

    refusal = b""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._events: list[Event] = []
        # Two tasks send.
        self._turn = anyio.Lock()

    async def send(self, event: Event) -> None:
        async with self._turn:
            await self._stream.send(self._connection.send(event))

    async def next(self) -> Event:
        """Receive the next message; pings are answered."""
        while not self._events:
            self._connection.receive_data(await self._stream.receive(_CHUNK))
            for event in self._connection.events():
                self._events.append(event)
                if isinstance(event, Ping):
                    await self.send(Pong(event.payload))
        return self._events.pop(0)

    async def shake_hands(self, head: RequestHead, peer: Peer) -> AcceptConnection | RejectConnection:
        fields = [
            (name, value)
            for name, value in fields_of(forwarded_request(head, peer))
            if name.lower() not in _OWN and not name.lower().startswith(b"sec-websocket-")
        ]
        protocols = head.values.get(b"sec-websocket-protocol", b"").decode("latin-1")
        names = [each.strip() for each in protocols.split(",") if each.strip()]
        target = head.target.decode("ascii")
        await self.send(
            Request(host=head.host.decode("latin-1"), target=target, subprotocols=names, extra_headers=fields)
        )
        refused: RejectConnection | None = None
        while True:
            event = await self.next()
            match event:
                case AcceptConnection():
                    return event
                case RejectConnection():
                    refused = event
                    if not event.has_body:
                        return event
                case RejectData(data=data, body_finished=is_over):
                    self.refusal += data
                    if is_over and refused is not None:
                        return refused
                case _:
                    pass
