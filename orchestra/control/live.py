"""One page's WebSocket, `live`: `tabs` hears what the page says of itself, and the page what `tabs` tells it.

A page that does not read, or says what is not understood, is given up. A text that nothing expects is sent
when there was nothing to say for a while: a connection whose other end is gone is found out by that.

Not here: what is said (`tabs`, `messages`), which pages are admitted (`doors`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import trio

from orchestra.control.messages import read_page, text_of

if TYPE_CHECKING:
    from orchestra.control.doors import Receive, Send
    from orchestra.control.tabs import Tab, Tabs

__all__ = ["Live"]

# Seconds of silence after which something is sent.
HEARTBEAT = 20.0
# Seconds for a browser to answer our close frame.
CLOSE_LIMIT = 1.0
# WebSocket close codes (RFC 6455 7.4.1, and the registry that it has opened).
_GOING_AWAY, _POLICY_VIOLATION, _TRY_AGAIN_LATER = 1001, 1008, 1013


class Live:
    """The WebSocket of one page."""

    _is_gone = False
    _close_code = _GOING_AWAY

    def __init__(self, tabs: Tabs, receive: Receive, send: Send) -> None:
        self._tabs = tabs
        self._receive = receive
        self._send = send
        self._news = trio.Event()

    def _wake(self) -> None:
        self._news.set()

    async def run(self, *, is_local: bool) -> bool:
        """Serve it to its end; return whether there was room for it: if not, it was not accepted."""
        tab = self._tabs.connect(self._wake, is_local=is_local)
        if tab is None:
            return False
        try:
            await self._receive()  # websocket.connect
            await self._send({"type": "websocket.accept"})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, tab, nursery.cancel_scope)
                await self._tell(tab)
                nursery.cancel_scope.cancel()
            if not self._is_gone:
                await self._close()
        finally:
            self._tabs.disconnect(tab)
        return True

    async def _tell(self, tab: Tab) -> None:
        while True:
            self._news = trio.Event()
            while (text := tab.take()) is not None:
                await self._send({"type": "websocket.send", "text": text})
            if self._tabs.is_over:
                return
            if tab.is_overrun:
                self._close_code = _TRY_AGAIN_LATER
                return
            with trio.move_on_after(HEARTBEAT):
                await self._news.wait()
            if not self._news.is_set():
                tab.tell(text_of("ping"))

    async def _listen(self, tab: Tab, scope: trio.CancelScope) -> None:
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._is_gone = True
                break
            try:
                page = read_page(message.get("text") or "")
            except msgspec.DecodeError:  # its ValidationError is one
                self._close_code = _POLICY_VIOLATION
                break
            self._tabs.show(tab, page, trio.current_time())
        scope.cancel()

    async def _close(self) -> None:
        await self._send({"type": "websocket.close", "code": self._close_code})
        # The server closes the connection when we return; the browser's own close frame would meet an error.
        with trio.move_on_after(CLOSE_LIMIT):
            while (await self._receive())["type"] != "websocket.disconnect":
                pass
