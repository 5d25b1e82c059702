"""A WebSocket between a browser and an upstream: the upstream's handshake, then bytes both ways.

Strategy. Nothing is decoded: once the upstream has accepted the browser's own handshake, the bytes of each
direction are passed on as they come. So compression, frame sizes, pings and close codes do not change, at the
price of a memory copy. A `FrameTap` follows the frame headers, because a close frame of ours can only be
inserted between two frames: when the run ends (1001), or before the upstream is restarted (1012).

There is no idle limit: HMR sockets are silent for hours. When one side has stopped sending, the other may
finish.

Not here: which upstream is asked, and whether the browser may (`route`, `forward`).
"""

from __future__ import annotations

import re
from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, TypeAlias

import trio
from wsproto.frame_protocol import CloseReason, FrameProtocol
from wsproto.utilities import generate_accept_token

from orchestra.hosts import origin_refusal
from orchestra.proxy.connection import ClientGone, UpstreamGone
from orchestra.proxy.forward import forwarded_response
from orchestra.proxy.head import BadMessage
from orchestra.proxy.route import Availability

if TYPE_CHECKING:
    from orchestra.events import StreamKind
    from orchestra.proxy.asker import Reply
    from orchestra.proxy.connection import ClientConnection, UpstreamConnection
    from orchestra.proxy.forward import Peer
    from orchestra.proxy.head import RequestHead, ResponseHead
    from orchestra.proxy.record import Record
    from orchestra.proxy.rules import WebSocketRoute
    from orchestra.proxy.shared import Shared

__all__ = ["GOING_AWAY", "SERVICE_RESTART", "FrameTap", "Tunnel", "admit", "handshake_fault", "request_fault"]

GOING_AWAY = int(CloseReason.GOING_AWAY)
SERVICE_RESTART = int(CloseReason.SERVICE_RESTART)

# Seconds for one side after the other has ended: a half-closed WebSocket usually sends nothing more.
HALF_CLOSED_LIMIT = 10.0
# Seconds for the other sides' close frames after ours (Chromium and Node answer at once).
CLOSE_FRAME_LIMIT = 1.0
# Refused origins that get a notice; others only see the refusal in their answers.
_MAX_ORIGINS = 100

_Side: TypeAlias = "ClientConnection | UpstreamConnection"

_OPCODE_CLOSE = 0x8
_is_key = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch


def admit(head: RequestHead, peer: Peer, shared: Shared) -> WebSocketRoute:
    """Decide the route of a request for a WebSocket; `BadMessage` if it is not valid, or not allowed."""
    fault = request_fault(head)
    if fault is not None:
        raise fault
    backend, frontend = shared.upstreams["backend"], shared.frontend_of(head)
    route = shared.router.websocket(
        head,
        has_backend=backend.gate.availability is not Availability.ABSENT,
        has_frontend=frontend.gate.availability is not Availability.ABSENT,
    )
    if route.side == "frontend":
        origin = head.values.get(b"origin")
        refused = origin_refusal(origin, head.host, peer.port, shared.plan.allowed_origins)
        if refused is not None:
            shared.bus.notice("origin-refused", refused, at_most=_MAX_ORIGINS)
            raise BadMessage(refused, status=403, title="Origin not allowed")
    return route


def request_fault(head: RequestHead) -> BadMessage | None:
    """Say why a request is not valid for a WebSocket; ``None`` if it is (RFC 6455 4.2.1)."""
    status = 400
    if head.method != b"GET" or head.version != b"1.1" or head.has_body:
        text = "a WebSocket begins with an HTTP/1.1 GET without a body"
    elif not head.has_token(b"connection", b"upgrade"):
        text = "Connection: Upgrade is missing"
    elif head.values.get(b"sec-websocket-version") != b"13":
        status, text = 426, "only version 13 of the WebSocket protocol exists"
    elif not _is_key(head.values.get(b"sec-websocket-key", b"")):
        text = "Sec-WebSocket-Key is missing or illegal"
    else:
        return None
    return BadMessage(text, status=status, title="No WebSocket")


def handshake_fault(request: RequestHead, answer: ResponseHead) -> str | None:
    """Say why a 101 does not accept `request`; ``None`` if it does (RFC 6455 4.1)."""
    if not answer.has_token(b"upgrade", b"websocket"):
        return "the 101 does not upgrade to websocket"
    if not answer.has_token(b"connection", b"upgrade"):
        return "the 101 has no Connection: Upgrade"
    key = request.values.get(b"sec-websocket-key", b"")
    if answer.values.get(b"sec-websocket-accept") != generate_accept_token(key):
        return "the 101 has the wrong Sec-WebSocket-Accept"
    return None


class FrameTap:
    """Follows the frames in one direction of a WebSocket, in pieces of any size (RFC 6455 5.2).

    Attributes:
        close_code: The code of the first close frame; 1005 if that had none (RFC 6455 7.1.5).
    """

    __slots__ = ("_held", "_left", "close_code")

    def __init__(self) -> None:
        # The incomplete header of a frame.
        self._held = b""
        # Bytes of the current frame that have not passed yet.
        self._left = 0
        self.close_code: int | None = None

    @property
    def is_at_boundary(self) -> bool:
        """Whether the last frame is complete, so that another one could begin here."""
        return not self._held and not self._left

    def feed(self, data: bytes) -> None:
        """Follow the frames in `data`."""
        data = self._held + data
        begin, end = self._left, len(data)
        while begin + 2 <= end:
            second = data[begin + 1]
            length = second & 0x7F
            payload = begin + (6 if second & 0x80 else 2)
            if length >= 126:
                size = 2 if length == 126 else 8
                if begin + 2 + size > end:
                    break
                length = int.from_bytes(data[begin + 2 : begin + 2 + size])
                payload += size
            if data[begin] & 0x0F == _OPCODE_CLOSE and self.close_code is None:
                if payload + min(length, 2) > end:
                    break
                mask = data[payload - 4 : payload - 2] if second & 0x80 else b"\0\0"
                code = int.from_bytes(data[payload : payload + 2]) ^ int.from_bytes(mask)
                self.close_code = code if length >= 2 else int(CloseReason.NO_STATUS_RCVD)
            begin = payload + length
        self._held = data[begin:] if begin < end else b""
        self._left = begin - end if begin > end else 0


class _Flow:
    """One direction of a tunnel.

    The scope is the tunnel's: it is cancelled when one side is gone, and has a deadline once one side has
    ended.
    """

    def __init__(self, source: _Side, sink: _Side, scope: trio.CancelScope) -> None:
        self.sink = sink
        self.tap = FrameTap()
        self.size = 0
        self.is_whole = False  # all bytes of the source were passed on
        self.fault: Exception | None = None
        self._has_ended = False
        self._source = source
        self._scope = scope
        self._is_stuck = trio.Event()

    async def run(self) -> None:
        try:
            while not self._has_ended:
                self._is_stuck = trio.Event()
                self._pass_on()
                await self._is_stuck.wait()
                if self.fault is not None:
                    raise self.fault
                await self.sink.drain()
        except (ClientGone, UpstreamGone) as exc:
            self.fault = exc
            self._scope.cancel()
        else:
            self.is_whole = True
            self.sink.transport.send_eof()
            self._scope.deadline = trio.current_time() + HALF_CLOSED_LIMIT
        finally:
            self._source.transport.on_input(None)

    def _pass_on(self) -> None:
        """Pass available bytes on, and all that arrive, until it has to wait."""
        try:
            data = self._source.take_raw()
            if data:
                if self._scope.deadline != inf:
                    self._scope.deadline = trio.current_time() + HALF_CLOSED_LIMIT
                self.size += len(data)
                self.tap.feed(data)
                self.sink.write(data)
            self._has_ended = data == b""
        except Exception as exc:  # noqa: BLE001 - the task raises it
            self.fault = exc
        if self._has_ended or self.fault is not None or self.sink.unsent:
            self._is_stuck.set()
        else:
            self._source.transport.on_input(self._pass_on)


class Tunnel:
    """The bytes of one WebSocket, after both handshakes."""

    def __init__(self, client: ClientConnection, reply: Reply, record: Record) -> None:
        self._client = client
        self._reply = reply
        self._record = record
        self._close_code: int | None = None  # of ours
        self._scope = trio.CancelScope()
        self._up = _Flow(client, reply.connection, self._scope)
        self._down = _Flow(reply.connection, client, self._scope)

    def end_early(self, code: int) -> None:
        """End it: send a close frame with `code` to both sides, if it does not interrupt a frame."""
        if self._close_code is None:
            self._close_code = code
            self._scope.cancel()

    async def run(self, kind: StreamKind) -> None:
        """Pass on the 101 and all bytes until both sides end, one is gone, or `end_early`; close both."""
        up, down, record, head = self._up, self._down, self._record, self._reply.head
        record.upstream = self._reply.side
        # From here on the end of the client's bytes is a half-close, not the client's leaving.
        self._client.transport.on_hangup(None)
        await self._client.send(forwarded_response(head, record.upstream, upgrade=True))
        record.answered(head)
        record.finished()
        record.stream_opened(kind)
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(up.run)
                    nursery.start_soon(down.run)
            if self._close_code is not None:
                with trio.move_on_after(CLOSE_FRAME_LIMIT):
                    await self._send_close_frames(self._close_code)
        finally:
            self._close()
            # The first code that was received, or sent by us.
            code = up.tap.close_code or down.tap.close_code or self._close_code
            record.stream_closed(code=code, bytes_in=up.size, bytes_out=down.size)

    async def _send_close_frames(self, code: int) -> None:
        for flow in (self._up, self._down):
            with suppress(ClientGone, UpstreamGone):
                if not flow.sink.unsent and flow.tap.is_at_boundary:
                    frame = FrameProtocol(client=flow is self._up, extensions=[]).close(code)
                    await flow.sink.send(bytes(frame))
                flow.sink.transport.send_eof()
        with suppress(ClientGone):
            await self._client.read_off()

    def _close(self) -> None:
        up, down = self._up, self._down
        # An upstream sees an error only if the client's connection broke: some servers exit at a reset.
        if isinstance(up.fault, ClientGone) or isinstance(down.fault, ClientGone):
            self._reply.connection.abort()
        else:
            self._reply.connection.close()
        if (up.is_whole and down.is_whole) or self._close_code is not None:
            self._client.close()
        else:
            self._client.abort()
