"""What a developer may want to know about what was seen: each hint once, in a line, with what to do.

Not here: problems that the run itself notices (`Notice`), how a hint is shown.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from orchestra.events import Event, RequestFinished, StreamOpened

if TYPE_CHECKING:
    from orchestra.dashboard.requests import Requests

__all__ = ["Hints"]

# Connections that a browser opens to one origin over HTTP/1.1, event streams among them.
_CONNECTIONS_OF_A_BROWSER = 6
# Modules of Vite's after which its socket should be there, too.
_MODULES_OF_A_PAGE = 20


_STREAMS = (
    f"{_CONNECTIONS_OF_A_BROWSER} event streams are open: a browser has no more connections to one origin"
    " over HTTP/1.1, and its other requests wait. Close some, or share one stream."
)
_OUTDATED = (
    "Vite has bundled its dependencies again (504): reload the page if it does not do so itself;"
    " if that goes on, stop and remove node_modules/.vite."
)
_NO_HMR = (
    "a page has loaded Vite's modules, but its HMR socket has not come through this address:"
    " take host, port and clientPort out of server.hmr in Vite's configuration."
)
_PREFLIGHT = (
    "a browser asks whether it may (OPTIONS, CORS), because the page comes from another address:"
    " open it at this one, and use paths without a host."
)
_HOST = "Vite refuses this host (403): add it to [proxy] allowed_hosts, or to server.allowedHosts."


class Hints:
    """Collects hints, oldest first; one that was dismissed does not come again."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._said: set[str] = set()
        self._seen: Counter[str] = Counter()

    def dismiss(self) -> None:
        """Take the newest one away."""
        if self.found:
            self.found.pop()

    def see(self, event: Event, requests: Requests) -> None:
        """Look at an event, and at what is under way after it."""
        match event:
            case StreamOpened(kind="event-stream"):
                streams = (each.kind == "event-stream" for each in requests.streams.values())
                self._say(_STREAMS, is_so=sum(streams) >= _CONNECTIONS_OF_A_BROWSER)
            case StreamOpened(kind="hmr"):
                self._seen["hmr"] += 1
                self.found = [each for each in self.found if each != _NO_HMR]
            case RequestFinished():
                self._say(_PREFLIGHT, is_so=event.method == "OPTIONS")
                if event.upstream == "frontend":
                    self._see_frontend(event)
            case _:
                pass

    def _see_frontend(self, event: RequestFinished) -> None:
        self._say(_OUTDATED, is_so=event.status == 504)
        self._say(_HOST, is_so=event.status == 403 and event.target == "/@vite/client")
        path = event.target.partition("?")[0]
        broken = f"Vite cannot serve {path} (500), so its page may stay blank: the log says why."
        self.found = [each for each in self.found if each != broken]
        if event.status == 500:
            self.found.append(broken)
        if event.target.startswith("/@vite/client"):
            self._seen["client"] += 1
        self._seen["modules"] += 1
        is_loaded = self._seen["client"] and self._seen["modules"] >= _MODULES_OF_A_PAGE
        self._say(_NO_HMR, is_so=bool(is_loaded and not self._seen["hmr"]))

    def _say(self, hint: str, *, is_so: bool) -> None:
        if is_so and hint not in self._said:
            self._said.add(hint)
            self.found.append(hint)
