"""TLS to an upstream, as a client: a transport on top of another one.

Strategy. OpenSSL works on two buffers in memory: one is filled from the transport below, the other is sent to
it. So there are no sockets here, and flow control stays that of the transport below. If the encrypted bytes
cannot be sent at once, the plain ones do not count as sent: the caller sends them again, as it does whenever
there was no room.

An upstream on this machine may have any certificate: a development server makes its own. Elsewhere it has to
be valid for the name, by the authorities of the system, or those of ``SSL_CERT_FILE``.

Not here: which upstream uses TLS (its address says so), certificates of ours.
"""

from __future__ import annotations

import errno
import ssl
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

import trio

from orchestra.hosts import is_loopback
from orchestra.proxy.transport import DIAL_TIMEOUT, RECEIVE_SIZE, dial

if TYPE_CHECKING:
    from orchestra.config.plan import Address
    from orchestra.proxy.transport import Buffer, OnHangup, OnInput, Poller, Transport

__all__ = ["TlsTransport", "connect", "context_for"]


@cache
def context_for(*, is_local: bool) -> ssl.SSLContext:
    """Give the TLS settings for a connection to an upstream on this machine, or elsewhere."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_local else ssl.create_default_context()
    if is_local:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


class TlsTransport:
    """A connection with TLS to `host`; `below` becomes ours, and `shake_hands` has to be called first."""

    def __init__(self, below: Transport, host: str, *, context: ssl.SSLContext | None = None) -> None:
        self._below = below
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or context_for(is_local=is_loopback(host))
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=host)
        self._unsent = b""
        # Bytes of the caller that are encrypted, but do not count as sent yet.
        self._owed = 0
        # More bytes may have been received than were taken.
        self._has_more = False
        self._has_ended = self._is_closed = False
        self._on_input: OnInput | None = None

    async def shake_hands(self) -> None:
        """Do the handshake; `OSError`: the upstream does not speak TLS, or its certificate is not valid."""
        is_done = False
        while not is_done:
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
                is_done = True
            await self._below.send_all(self._to_send.read())
            if self._has_ended and not is_done:
                raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection was closed in the TLS handshake")
            if not is_done and not self._receive(RECEIVE_SIZE):
                heard = trio.Event()
                self._below.on_input(heard.set)
                await heard.wait()

    def _receive(self, max_bytes: int) -> bool:
        """Take the bytes that the transport below has; return whether there were any, or its end."""
        data = self._below.take_some(max_bytes)
        if data:
            self._received.write(data)
        self._has_ended = data == b""
        return data is not None

    def take_some(self, max_bytes: int = RECEIVE_SIZE) -> bytes | None:
        """See `Transport.take_some`."""
        if self._is_closed:
            raise trio.ClosedResourceError
        pieces: list[bytes] = []
        size, self._has_more = 0, True
        while size < max_bytes:
            try:
                piece = self._tls.read(max_bytes - size)
            except ssl.SSLWantReadError:
                if self._has_ended:  # without a closing alert; HTTP shows whether all has come
                    break
                if pieces or not self._receive(max_bytes):
                    self._has_more = False
                    break
                continue
            except ssl.SSLZeroReturnError:
                break
            if not piece:
                break
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces) if pieces or self._has_more else None

    def send_some(self, data: Buffer) -> int:
        """See `Transport.send_some`."""
        if self._owed:
            return 0
        self._encrypt(data)
        self._unsent = self._unsent[self._below.send_some(self._unsent) :]
        if self._unsent:
            self._owed = len(data)
            return 0
        return len(data)

    async def send_all(self, data: Buffer) -> None:
        """See `Transport.send_all`."""
        with memoryview(data) as view:
            self._encrypt(view[self._owed :])
        encrypted, self._unsent, self._owed = self._unsent, b"", 0
        await self._below.send_all(encrypted)

    def _encrypt(self, data: Buffer) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._tls.write(rest) :]
        self._unsent += self._to_send.read()

    def send_eof(self) -> None:
        """See `Transport.send_eof`."""
        # Without TLS's closing alert: after that nothing could be received any more.
        self._below.send_eof()

    def has_input(self) -> bool:
        """See `Transport.has_input`."""
        return self._has_more or self._below.has_input()

    def on_input(self, callback: OnInput | None) -> None:
        """See `Transport.on_input`."""
        self._on_input = callback
        self._below.on_input(None if callback is None else self._call_back)
        if callback is not None and self._has_more:
            trio.lowlevel.current_trio_token().run_sync_soon(self._call_back)

    def _call_back(self) -> None:
        callback, self._on_input = self._on_input, None
        if callback is not None:
            callback()

    def on_hangup(self, callback: OnHangup | None) -> None:
        """See `Transport.on_hangup`."""
        self._below.on_hangup(callback)

    def close(self) -> None:
        """See `Transport.close`."""
        if not self._is_closed:
            with suppress(OSError):  # the upstream has not sent its closing alert yet
                self._tls.unwrap()
            with suppress(OSError, trio.ClosedResourceError):
                self._below.send_some(self._unsent + self._to_send.read())
        self._is_closed, self._has_more = True, False
        self._below.close()

    def abort(self) -> None:
        """See `Transport.abort`."""
        self._is_closed, self._has_more = True, False
        self._below.abort()


async def connect(address: Address, poller: Poller) -> Transport:
    """Connect to an upstream, with TLS if its address says so; `OSError` as of `dial` and `shake_hands`."""
    transport = await dial(address, poller)
    if address.scheme != "https":
        return transport
    tls = TlsTransport(transport, address.host)
    with trio.move_on_after(DIAL_TIMEOUT):
        try:
            await tls.shake_hands()
        except BaseException:
            transport.abort()
            raise
        return tls
    raise TimeoutError(errno.ETIMEDOUT, f"no TLS handshake within {DIAL_TIMEOUT:g} s")
