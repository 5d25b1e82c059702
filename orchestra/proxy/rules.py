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
# Bytes of paths that are remembered: more than the 10,000 modules of the largest apps have.
ASSET_BYTES = 2 * 1024 * 1024
PAGE_BYTES = 256 * 1024
# What an entry takes beside its path, about.
_ENTRY_BYTES = 100


class Rule(Struct, frozen=True):
    """Which side the settings give a path to, and why, in words for the dashboard.

    Attributes:
        further: Of a further frontend, its prefix.
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
    """Return what finds the rule of a path: Vite's own, else that of the longest prefix by whole segments.

    Each rule is given with its prefixes, one that ends in a slash for all below it. Of two with the same
    prefix the first counts.
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
    """Where a WebSocket goes.

    Attributes:
        side: The upstream.
        reason: Why, in words for the dashboard.
        kind: What the stream is called.
        is_ping: Vite's client asks whether Vite is alive; see `Route`.
        is_guess: Nothing says that the frontend has it but that nothing else does. Vite never answers then.
    """

    side: UpstreamName
    reason: str
    kind: StreamKind = "websocket"
    is_ping: bool = False
    is_guess: bool = False


class Sides(dict[bytes, Side]):
    """Which side answers a path; beyond `most_bytes`, the oldest are dropped."""

    def __init__(self, most_bytes: int) -> None:
        super().__init__()
        self._left = most_bytes

    def learn(self, path: bytes, side: Side) -> None:
        """The side has answered."""
        if path not in self:
            self._left -= len(path) + _ENTRY_BYTES
        self[path] = side
        while self._left < 0:
            self.forget(next(iter(self)))

    def forget(self, path: bytes) -> None:
        """What is known of a path does not hold any more."""
        if self.pop(path, None) is not None:
            self._left += len(path) + _ENTRY_BYTES


class Router:
    """The rules of one plan, and what was learned of paths.

    Args:
        pages: The frontend's pages that are known from earlier runs; ``None``: no run is remembered.
        has_own: Something serves our own paths.
        remembers: Whether it is remembered what the backend did not know.

    Attributes:
        rule_of: Which side the settings give a path to.
        pages: Pages that are known to be the frontend's.
        assets: What the frontend has answered to its own page, or the backend after the frontend did not know
            it. It may be that the backend has the former, too.
        windows: What a window got last.
        newest: Which side the newest page of any window is of.
        unknown: What the backend did not know, and the frontend did.
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
        # Then its answers are never replaced; a backend that was looked for and not found is another case.
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
        """The backend may know other paths now; requests that are on their way teach the old `unknown`."""
        self.unknown = Sides(self._unknown_bytes)

    def saw_window(self, path: bytes, side: Side) -> None:
        """A window has got its page."""
        self.windows.learn(path, side)
        self.newest = side

    def frontend_of(self, path: bytes) -> str:
        """Return which frontend answers a path if one does: the prefix of a further one, or ``frontend``."""
        rule = self.rule_of(path)
        return (rule and rule.further) or "frontend"

    def side_of(self, path: bytes) -> Side | None:
        """Return which side a page, a module, a style or a worker is of, if that is known."""
        rule = self.rule_of(path)
        if rule is not None:
            return rule.side
        side = self.windows.get(path) or self.assets.get(path)
        return side or ("frontend" if self.pages.has(path) else None)

    def may_fall_back(self, head: RequestHead) -> bool:
        """Whether a 404 to such a request may fall back, if its path is not the backend's alone.

        A frontend that renders pages also takes their forms. It may have come to the page without a request
        for it: then the newest page tells, if that sends the form to itself.
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
        """Decide about a WebSocket."""
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
