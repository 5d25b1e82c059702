"""A WebSocket between a browser and an upstream: the upstream's handshake, then bytes both ways.

Strategy. Nothing is decoded: once the upstream has accepted the browser's own handshake, the bytes of each
direction are passed on as they come, so that compression, frame sizes, pings and close codes stay what they
are, at the price of a memory copy. A `FrameTap` watches the frame headers go by. It knows whether a frame is
just over, and only then can a close frame of ours be put in: when the run ends (1001), or when the upstream
is about to be restarted (1012).

There is no idle limit: HMR sockets are silent for hours. When one side has stopped sending, the other may
finish what it has to say.

Not here: which upstream is asked, and whether the browser may (`route`, `forward`).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import trio
from wsproto.frame_protocol import CloseReason, FrameProtocol
from wsproto.utilities import generate_accept_token

from orchestra.proxy.answers import Message
from orchestra.proxy.connection import ClientGone, UpstreamGone
from orchestra.proxy.forward import origin_refusal, websocket_fault
from orchestra.proxy.route import Availability

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.events import StreamKind
    from orchestra.proxy.connection import ClientConnection, UpstreamConnection
    from orchestra.proxy.forward import Peer
    from orchestra.proxy.head import RequestHead, ResponseHead
    from orchestra.proxy.record import Record
    from orchestra.proxy.route import WebSocketRoute
    from orchestra.proxy.shared import Shared

__all__ = [
    "GOING_AWAY",
    "SERVICE_RESTART",
    "FrameTap",
    "Tunnel",
    "admit",
    "handshake_fault",
]

GOING_AWAY = int(CloseReason.GOING_AWAY)
SERVICE_RESTART = int(CloseReason.SERVICE_RESTART)

# Seconds for one side after the other has ended: a half-closed WebSocket has nothing more to send, as a rule.
HALF_CLOSED_LIMIT = 10.0
# Seconds for the other sides' close frames after ours (Chromium and Node answer at once).
CLOSE_FRAME_LIMIT = 1.0

_OPCODE_CLOSE = 0x8


def admit(head: RequestHead, peer: Peer, shared: Shared) -> WebSocketRoute | Message:
    """Decide where a request for a WebSocket goes, or what it is told instead."""
    fault = websocket_fault(head)
    if fault is not None:
        status, text = fault
        extra = ((b"Sec-WebSocket-Version", b"13"),) if status == 426 else ()
        return Message(status=status, title="No WebSocket", text=f"{text}.", headers=extra)
    route = shared.router.websocket(
        head,
        has_backend=shared.backend.gate.availability is not Availability.ABSENT,
        has_frontend=shared.frontend.gate.availability is not Availability.ABSENT,
    )
    if route.side == "frontend":
        origin = head.values.get(b"origin")
        refused = origin_refusal(origin, head.host, peer.port, shared.plan.allowed_origins)
        if refused is not None:
            shared.report_origin(origin, refused)
            return Message(status=403, title="Origin not allowed", text=f"{refused}.")
    return route


def handshake_fault(request: RequestHead, answer: ResponseHead) -> str | None:
    """Say why a 101 does not accept what `request` asked for; ``None`` if it does (RFC 6455 4.1)."""
    if not answer.has_token(b"upgrade", b"websocket"):
        return "the 101 does not upgrade to websocket"
    if not answer.has_token(b"connection", b"upgrade"):
        return "the 101 has no Connection: Upgrade"
    key = request.values.get(b"sec-websocket-key", b"")
    if answer.all(b"sec-websocket-accept") != [generate_accept_token(key)]:
        return "the 101 has the wrong Sec-WebSocket-Accept"
    return None


class FrameTap:
    """Watches one direction of a WebSocket go by, in pieces of any size (frames: RFC 6455 5.2).

    Attributes:
        close_code: The code of the first close frame; 1005 if that had none (RFC 6455 7.1.5).
    """

    __slots__ = ("_held", "_left", "close_code")

    def __init__(self) -> None:
        # The beginning of a frame that does not tell enough yet.
        self._held = b""
        # Bytes that are still to come of the frame before.
        self._left = 0
        self.close_code: int | None = None

    @property
    def is_at_boundary(self) -> bool:
        """Whether the last frame is complete, so that another one could begin here."""
        return not self._held and not self._left

    def feed(self, data: bytes) -> None:
        """Watch `data` go by."""
        data = self._held + data if self._held else data
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

    Attributes:
        tap: What its frames show.
        size: Bytes that came.
        is_stuck: Set when something has to be awaited.
        has_ended: The source sends nothing more.
        fault: What broke.
    """

    def __init__(
        self,
        source: ClientConnection | UpstreamConnection,
        sink: ClientConnection | UpstreamConnection,
        on_piece: Callable[[], None],
    ) -> None:
        self.source = source
        self.sink = sink
        self.tap = FrameTap()
        self.size = 0
        self.has_ended = False
        self.fault: Exception | None = None
        self.is_stuck = trio.Event()
        self._on_piece = on_piece

    def pass_on(self) -> None:
        """Pass on what is here, and what will come, until something has to be awaited."""
        try:
            self._pass_on()
        except Exception as exc:  # noqa: BLE001 - the task raises it
            self.fault = exc
            self.is_stuck.set()

    def _pass_on(self) -> None:
        data = self.source.take_raw()
        if data:
            self._on_piece()
            self.size += len(data)
            self.tap.feed(data)
            self.sink.write(data)
        self.has_ended = data == b""
        if self.has_ended or self.sink.unsent:
            self.is_stuck.set()
        else:
            self.source.transport.on_input(self.pass_on)


class Tunnel:
    """The bytes of one WebSocket, once both handshakes are done.

    Attributes:
        connection: To the upstream.
    """

    def __init__(self, client: ClientConnection, upstream: UpstreamConnection) -> None:
        self.connection: UpstreamConnection | None = upstream
        self._client = client
        self._upstream = upstream
        self._up = _Flow(client, upstream, self._postpone_end)
        self._down = _Flow(upstream, client, self._postpone_end)
        self._close_code: int | None = None
        self._ended = 0
        self._is_client_broken = False
        self._scope = trio.CancelScope()

    def end_early(self, code: int) -> None:
        """End it: send a close frame with `code` to both sides, where none would be put into a frame."""
        if self._close_code is None:
            self._close_code = code
            self._scope.cancel()

    async def run(self, shared: Shared, record: Record, kind: StreamKind) -> None:
        """Relay until both sides have ended, one is gone, or `end_early` is called; then both are closed."""
        shared.streams.add(self)
        record.stream_opened(kind)
        try:
            await self._run()
        finally:
            shared.streams.discard(self)
            # The code that was seen first, or sent by us.
            code = self._up.tap.close_code or self._down.tap.close_code or self._close_code
            record.stream_closed(code=code, bytes_in=self._up.size, bytes_out=self._down.size)

    async def _run(self) -> None:
        # An upstream sees an error only if the client's connection broke: some servers do not outlive one.
        is_whole = False
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._relay, self._up)
                    nursery.start_soon(self._relay, self._down)
            is_whole = self._ended == 2
            if self._close_code is not None:
                is_whole = True
                with trio.move_on_after(CLOSE_FRAME_LIMIT):
                    await self._send_close_frame(self._close_code)
        finally:
            if self._is_client_broken:
                self._upstream.abort()
            else:
                self._upstream.close()
            if is_whole:
                self._client.close()
            else:
                self._client.abort()

    async def _relay(self, flow: _Flow) -> None:
        try:
            while not flow.has_ended:
                flow.is_stuck = trio.Event()
                flow.pass_on()
                await flow.is_stuck.wait()
                if flow.fault is not None:
                    raise flow.fault
                await flow.sink.drain()
        except ClientGone:
            self._is_client_broken = True
            self._scope.cancel()
        except UpstreamGone:
            self._scope.cancel()
        else:
            flow.sink.transport.send_eof()
            self._one_ends()
        finally:
            flow.source.transport.on_input(None)

    def _one_ends(self) -> None:
        self._ended += 1
        self._scope.deadline = trio.current_time() + HALF_CLOSED_LIMIT

    def _postpone_end(self) -> None:
        if self._scope.deadline != inf:
            self._scope.deadline = trio.current_time() + HALF_CLOSED_LIMIT

    async def _send_close_frame(self, code: int) -> None:
        try:
            if not self._upstream.unsent and self._up.tap.is_at_boundary:
                await self._upstream.send(bytes(FrameProtocol(client=True, extensions=[]).close(code)))
            self._upstream.transport.send_eof()
        except UpstreamGone:
            pass
        try:
            if not self._client.unsent and self._down.tap.is_at_boundary:
                await self._client.send(bytes(FrameProtocol(client=False, extensions=[]).close(code)))
                # A close with the client's bytes unread would turn into a reset, and the code would be lost.
                self._client.transport.send_eof()
                while self._client.take_raw() != b"":
                    await self._client.wait()
        except ClientGone:
            pass
