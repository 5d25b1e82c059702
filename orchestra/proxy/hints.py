"""Finds out which setting is missing if the backend answers requests that the frontend should get.

It cannot be known in advance: a backend that answers every path also answers the frontend's paths, and one
with an API may not be the only one with one. So a doubt of `route` is checked: the frontend is asked whether
it has something at that path. That delays no request, and each notice is given once.

Not here: what is doubtful (`route`).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import trio
from msgspec import json

from orchestra.errors import UpstreamError
from orchestra.proxy.connection import ClientGone
from orchestra.proxy.framing import NO_BODY
from orchestra.proxy.record import Record
from orchestra.proxy.request import HTML
from orchestra.proxy.route import Availability

if TYPE_CHECKING:
    from orchestra.proxy.head import RequestHead
    from orchestra.proxy.route import Doubt
    from orchestra.proxy.shared import Shared

__all__ = ["Hints"]

# Paths that are tried at the frontend; one that it has is enough.
_MOST_QUESTIONS = 10
# Seconds for the answer: Vite may be busy.
_TIMEOUT = 10.0
_WINDOW = b"Accept: text/html\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
_DATA = b"Accept: application/json, */*;q=0.5\r\n"
_SOME = 'If only some paths are the backend\'s, list them: [proxy] backend_paths = ["{prefix}"].'
# The text and the hint for each kind of doubt.
_WORDS = {
    "part": ("the backend answered {status} to {path}, which is the frontend's", _SOME),
    "page": ("the backend answers {path} itself; the frontend has a page there, too", _SOME),
    "api": (
        "under {prefix} only the backend is asked, which has no {path}; the frontend has",
        'List what is the backend\'s, such as [proxy] backend_paths = ["{prefix}/..."].',
    ),
}


class Hints:
    """Emits the notices of one proxy."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._given: set[str] = set()
        self._asked: set[bytes] = set()

    def look_into(self, doubt: Doubt, head: RequestHead) -> None:
        """Check a doubt about the answer to a request."""
        if doubt.kind in self._given or doubt.path in self._asked:
            return
        if doubt.kind == "part":
            self._give(doubt)
        elif len(self._asked) < _MOST_QUESTIONS:
            self._asked.add(doubt.path)
            self._shared.start_soon(self._ask, doubt, head.host)

    def miss(self, path: bytes) -> str:
        """Take note of a WebSocket that the frontend has not accepted; return the error."""
        name, known = path.decode("ascii", "replace"), self._shared.plan.backend_paths
        text = f"the frontend has not accepted a WebSocket at {name}"
        if known:
            text += ", which is not in backend_paths"
            line = f"[proxy] backend_paths = {json.encode([*known, name]).decode()}"
            hint = f"If it is the backend's, list it: {line}. If it is the frontend's: frontend_websockets."
            self._shared.bus.notice("websocket-unclaimed", text, hint=hint, at_most=1)
        return text

    async def _ask(self, doubt: Doubt, host: bytes) -> None:
        """Emit the notice if the frontend has something at the path."""
        shared, upstream = self._shared, self._shared.upstreams["frontend"]
        if upstream.gate.availability is not Availability.READY:
            return
        wanted = _WINDOW if doubt.kind == "page" else _DATA
        raw = b"GET %b HTTP/1.1\r\nHost: %b\r\n%bConnection: close\r\n\r\n" % (doubt.path, host, wanted)
        head = shared.reader.request(raw)
        with trio.move_on_after(_TIMEOUT), suppress(UpstreamError, ClientGone):
            record = Record(shared.bus, 0, head, NO_BODY)
            connection = await upstream.connect(record, shared.now, fresh=True)
            try:
                await connection.send(raw)
                while (answer := connection.take_head(head)) is None or answer.status < 200:
                    await connection.wait()
            finally:
                connection.close()
            is_page, status = answer.media_type in HTML, answer.status
            # A wrong method means that another one would be right.
            has_api = not is_page and status != 404 and not 300 <= status < 400
            if (is_page and status < 300) if doubt.kind == "page" else has_api:
                self._give(doubt)

    def _give(self, doubt: Doubt) -> None:
        if doubt.kind in self._given:
            return
        self._given.add(doubt.kind)
        facts = {
            "path": doubt.path.decode("ascii", "replace"),
            "prefix": next(iter(self._shared.plan.api_prefixes), "/api"),
            "status": doubt.status,
        }
        text, hint = (words.format(**facts) for words in _WORDS[doubt.kind])
        hint += " The frontend gets all others."
        self._shared.bus.notice(f"frontend-{doubt.kind}-hidden", text, hint=hint)
