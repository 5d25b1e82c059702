"""Which side a path belongs to: by the settings, and by what was learned from answers.

Vite's own paths come first, then the longest prefix of all settings; with `backend_paths`, paths without a
matching prefix are the frontend's. A further frontend has a prefix of its own, with everything below it.

Learned paths have no queries. The oldest are dropped when they take too many bytes; pages are counted apart
from assets, so that the modules of a large page cannot evict the page. All of it survives a restart of the
backend, except that the backend did not know a path.

Not here: the order of upstreams, and when something is learned (`route`); which pages are the frontend's from
one run to the next (`remembered`).
"""

from __future__ import annotations

import re
import string
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import quote

from msgspec import Struct

from orchestra.config.plan import VITE_PATHS
from orchestra.config.schema import OWN_PATH
from orchestra.proxy.request import is_for_a_window, is_from_own_page, referring_path
from orchestra.remembered import FrontendPages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestra.config.plan import ProxyPlan
    from orchestra.events import StreamKind, UpstreamName
    from orchestra.proxy.head import RequestHead

__all__ = ["API", "OWN_PREFIX", "Router", "Rule", "Side", "Sides", "WebSocketRoute"]

Side: TypeAlias = Literal["backend", "frontend"]

OWN_PREFIX = f"{OWN_PATH}/".encode()
_VITE_PROTOCOLS = (b"vite-hmr", b"vite-ping")
# Bytes of remembered paths: more than the 10,000 modules of the largest apps have.
ASSET_BYTES = 2 * 1024 * 1024
PAGE_BYTES = 256 * 1024
# The approximate size of an entry beside its path.
_ENTRY_BYTES = 100


class Rule(Struct, frozen=True):
    """The side that the settings give a path to, and the reason, for the dashboard.

    Attributes:
        further: The prefix of a further frontend.
    """

    side: Side
    reason: str
    further: str = ""


_VITES = Rule("frontend", "vite's own path")
_FRONTENDS = Rule("frontend", "frontend_paths")
_OTHERS = Rule("frontend", "not in backend_paths")
_BACKENDS = Rule("backend", "backend_paths")
API = Rule("backend", "api_prefix")
_FRONTEND_SOCKETS = Rule("frontend", "frontend_websockets")
_BACKEND_SOCKETS = Rule("backend", "backend_prefixes")


def _rules(*given: tuple[Rule, Iterable[str]], default: Rule | None) -> Callable[[bytes], Rule | None]:
    """Return a function that finds the rule of a path: Vite's own, otherwise that of the longest prefix.

    Prefixes match by whole segments. Each rule is given with its prefixes; one that ends in a slash stands
    for all below it. If two have the same prefix, the first counts.
    """
    rules: dict[bytes, Rule] = {}
    for rule, prefixes in given:
        for prefix in prefixes:
            # As clients send it.
            sent = quote(prefix, safe=string.punctuation, errors="replace").encode("ascii")
            rules.setdefault(sent, rule)
    order = sorted(rules, key=lambda prefix: (rules[prefix] is not _VITES, -len(prefix)))
    choices = [re.escape(each) + (b"" if each.endswith(b"/") else rb"(?=/|\Z)") for each in order]
    match = re.compile(b"|".join(choices)).match

    def rule_of(path: bytes) -> Rule | None:
        found = match(path)
        return default if found is None else rules[found[0]]

    return rule_of


class WebSocketRoute(Struct, frozen=True):
    """The route of a WebSocket.

    Attributes:
        side: The upstream.
        reason: The reason, for the dashboard.
        kind: The kind of the stream.
        is_ping: Vite's client asks whether Vite is alive; see `Route`.
        is_guess: The frontend is only assumed to have it. If it does not, Vite never answers.
    """

    side: UpstreamName
    reason: str
    kind: StreamKind = "websocket"
    is_ping: bool = False
    is_guess: bool = False


class Sides(dict[bytes, Side]):
    """The side that has answered each path; beyond `most_bytes`, the oldest are dropped."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._left = most_bytes

    def learn(self, path: bytes, side: Side) -> None:
        """Take note that the side has answered."""
        if path not in self:
            self._left -= len(path) + _ENTRY_BYTES
        self[path] = side
        while self._left < 0:
            self.forget(next(iter(self)))

    def forget(self, path: bytes) -> None:
        """Drop all knowledge of a path."""
        if self.pop(path, None) is not None:
            self._left += len(path) + _ENTRY_BYTES


class Router:
    """The rules of one plan, and learned paths.

    Args:
        pages: Known pages of the frontend from earlier runs; ``None``: they are not stored.
        has_own: Whether our own paths are served.
        remembers: Whether paths are remembered that the backend did not know.

    Attributes:
        rule_of: The rule of a path by the settings.
        pages: Known pages of the frontend.
        assets: Paths that the frontend has answered for its own pages, which the backend may have, too; or
            the backend, because the frontend did not know them.
        windows: The pages that windows got last.
        newest: The side of the newest page in any window.
        unknown: Paths that the backend did not know, and the frontend did.
    """

    def __init__(
        self,
        plan: ProxyPlan,
        *,
        pages: FrontendPages | None = None,
        has_own: bool = False,
        remembers: bool = True,
    ) -> None:
        self.plan = plan
        self.has_own = has_own
        self.pages = FrontendPages() if pages is None else pages
        self.assets = Sides(ASSET_BYTES)
        self.windows = Sides(PAGE_BYTES)
        self.newest: Side = "backend"
        self._unknown_bytes = ASSET_BYTES if remembers else 0
        self.forget_unknown()
        self.fallback_methods = frozenset(method.encode("ascii") for method in plan.fallback_methods)
        # Then its answers are never replaced; a backend that was searched and not found is another case.
        self.is_frontend_alone = plan.backend is None
        further = [(Rule("frontend", "frontends", each), [each.rstrip("/")]) for each in plan.frontends]
        ours = ((_VITES, VITE_PATHS), *further, (_FRONTENDS, plan.frontend_paths))
        theirs = ((_BACKENDS, plan.backend_paths), (API, plan.api_prefixes))
        default = _OTHERS if plan.backend_paths else None
        self.rule_of = _rules(*ours, *theirs, default=default)
        frontends, backends = plan.frontend_websockets, plan.backend_prefixes
        self._rule_of_socket = _rules(
            *ours, (_FRONTEND_SOCKETS, frontends), *theirs, (_BACKEND_SOCKETS, backends), default=default
        )

    def forget_unknown(self) -> None:
        """Forget what the backend did not know, as it may have changed; requests in flight use the old."""
        self.unknown = Sides(self._unknown_bytes)

    def saw_window(self, path: bytes, side: Side) -> None:
        """Take note that a window has got its page."""
        self.windows.learn(path, side)
        self.newest = side

    def frontend_of(self, path: bytes) -> str:
        """Return the frontend that would answer a path: the prefix of a further one, or ``frontend``."""
        rule = self.rule_of(path)
        return (rule and rule.further) or "frontend"

    def side_of(self, path: bytes) -> Side | None:
        """Return the side of a page, a module, a style or a worker, if it is known."""
        rule = self.rule_of(path)
        if rule is not None:
            return rule.side
        side = self.windows.get(path) or self.assets.get(path)
        return side or ("frontend" if self.pages.has(path) else None)

    def may_fall_back(self, head: RequestHead) -> bool:
        """Whether a 404 to such a request may fall back, unless its path is the backend's alone.

        A frontend that renders pages also takes their forms. The page may have been shown without a request
        for it: then the newest page counts, if it sends the form to itself.
        """
        if head.method in self.fallback_methods:
            return True
        if head.method != b"POST" or not (is_for_a_window(head) or is_from_own_page(head)):
            return False
        path = head.path
        if self.pages.has(path):
            return True
        is_known = self.windows.get(path, self.newest) == "frontend"
        return is_known and path == referring_path(head)

    def websocket(self, head: RequestHead, *, has_backend: bool, has_frontend: bool) -> WebSocketRoute:
        """Decide the route of a WebSocket."""
        path = head.path
        if path.startswith(OWN_PREFIX):
            return WebSocketRoute("orchestra", "orchestra's own path")
        if not has_frontend:
            return WebSocketRoute("backend", "no frontend")
        protocol = head.values.get(b"sec-websocket-protocol")
        if protocol in _VITE_PROTOCOLS:
            name = protocol.decode("ascii")
            return WebSocketRoute("frontend", f"subprotocol {name}", "hmr", is_ping=name == "vite-ping")
        rule = self._rule_of_socket(path)
        if rule is not None and rule.side == "frontend":
            return WebSocketRoute("frontend", rule.reason, is_guess=rule is not _FRONTEND_SOCKETS)
        if not has_backend and rule is None:
            return WebSocketRoute("frontend", "no backend", is_guess=True)
        return WebSocketRoute("backend", "backend answered")
