"""Which upstream is asked, whose answer counts, and what waits: every decision about a request.

Strategy. The backend is asked first, because only it knows its routes; a request that it answers with 404
falls back to Vite. The trap is that Vite answers nearly every path with 200 and its page, so that an honest
404 of an API would turn into HTML with 200. Hence two decisions: whether a 404 may fall back at all, and
whether Vite's answer may replace it. A page is only ever an answer to a navigation.

A `Route` is the state machine of one request: `begin` gives the first step, `next` the step that follows from
the outcome of the last one. Paths that turned out to be assets of the frontend are remembered (`memo`),
because a page of 1,000 modules would otherwise cost 1,000 404s of the backend, each time. `availability` says
what the state of a process means for the requests to it.

Everything here is pure; a new rule is a new row in a table of `tests/test_proxy_route.py`.

Not here: input and output, waiting.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal, TypeAlias, assert_never

from msgspec import Struct

from orchestra.errors import UpstreamError
from orchestra.events import State
from orchestra.hosts import host_refusal
from orchestra.proxy.forward import is_looping
from orchestra.proxy.head import BadMessage, ResponseHead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from orchestra.config.plan import ProxyPlan
    from orchestra.events import StateChanged, StreamKind
    from orchestra.frontend_pages import FrontendPages
    from orchestra.proxy.head import RequestHead

__all__ = ["Availability", "Route", "Router", "Step", "Unavailable", "availability"]

Side: TypeAlias = Literal["backend", "frontend", "orchestra"]

OWN_PREFIX = b"/__orchestra__/"
# `*` is the server itself: only OPTIONS may ask it.
_OWN = (OWN_PREFIX, b"*")
# Bytes of a backend's 404 that are kept until Vite has answered; framework 404s have 9 bytes to 100 KiB.
KEPT_404 = 262144
# Paths that are remembered: more than a page of the largest apps has.
MEMORY = 10_000

HTML = (b"text/html", b"application/xhtml+xml")
WINDOW_DESTINATIONS = (b"document", b"iframe", b"frame")
# What a page loads and no backend renders: Vite is asked for it at once while the backend is not there.
_ASSET_DEST = frozenset({b"script", b"style", b"font", b"image", b"worker", b"manifest"})
_VITE_PING = b"text/x-vite-ping"
_VITE_PROTOCOLS = (b"vite-hmr", b"vite-ping")
_READING = (b"GET", b"HEAD")
_LOOP = "The request has come through here again and again: an upstream sends it back"


class Availability(Enum):
    """Whether a request can be sent to an upstream now, later, or not at all."""

    READY = "ready"
    HOLD = "hold"
    FAIL = "fail"
    ABSENT = "absent"


# To find a member by its class would take as long as all the rest of `Route.begin`.
_READY, _HOLD, _FAIL, _ABSENT = Availability


class Unavailable(UpstreamError):  # noqa: N818 - the error is its base's name
    """An upstream cannot be asked.

    Attributes:
        side: Which one.
        availability: `HOLD` if it was not ready in time, `FAIL` if waiting makes no sense, `ABSENT` if there
            is none, `READY` if it refuses connections.
        process: Its process; ``None`` if it is none of this run, or not known.
        tail: The last lines that its process wrote.
    """

    def __init__(
        self,
        side: Side,
        found: Availability,
        text: str,
        *,
        process: str | None = None,
        tail: tuple[str, ...] = (),
    ) -> None:
        super().__init__(text)
        self.side = side
        self.availability = found
        self.process = process
        self.tail = tail


# --- Steps ---


class Ask(Struct, frozen=True):
    """Send the request to an upstream; what it has answered before is read to its end and dropped.

    Attributes:
        keeps_answer: What was answered before is kept instead: it may turn out to be the best.
    """

    side: Side
    keeps_answer: bool = False


class Answer(Struct, frozen=True):
    """Pass an answer on: the newest one, or the one that was kept."""

    reason: str
    is_kept: bool = False


class Fail(Struct, frozen=True):
    """Explain to the client why there is no answer."""

    error: UpstreamError | BadMessage


class Signal(Enum):
    """A step without parameters."""

    WAIT = auto()  # until the availability of either upstream has changed, then begin again
    RESET = auto()  # the client's connection
    SAY_OWN = auto()  # answer for orchestra itself
    UPGRADE = auto()  # the client wants a WebSocket: see `Router.websocket`


Step: TypeAlias = Ask | Answer | Fail | Signal


class Kept(Enum):
    """What has become of an answer that is to be kept; if it has to be given, why, for the dashboard."""

    DONE = auto()
    NOT_YET = auto()
    TOO_LARGE = "backend 404, too large to fall back"
    BODY_TOO_LONG = "backend 404, body too long to be sent again"


Outcome: TypeAlias = ResponseHead | UpstreamError

# The steps of most requests, made once.
_ASK_OWN = Ask("orchestra")
_ASK_BACKEND = Ask("backend")
_ASK_FRONTEND = Ask("frontend")
_FALL_BACK = Ask("frontend", keeps_answer=True)
_BACKEND_ANSWERED = Answer("backend answered")
_OWN_ANSWERED = Answer("orchestra's own path")


def _below(prefixes: Iterable[str]) -> Callable[[bytes], re.Match[bytes] | None]:
    """Match the longest prefix of a path, by whole segments; one that ends in a slash is all below it."""
    longest_first = sorted((prefix.encode("utf-8", "replace") for prefix in prefixes), key=len, reverse=True)
    choices = [re.escape(each) + (b"" if each.endswith(b"/") else rb"(?:/|\Z)") for each in longest_first]
    return re.compile(b"|".join(choices) or b"(?!)").match


class WebSocketRoute(Struct, frozen=True):
    """Where a WebSocket goes.

    Attributes:
        side: The upstream.
        reason: Why, in words for the dashboard.
        kind: What the stream is called.
        is_ping: Vite's client asks whether Vite is alive; see `Route`.
    """

    side: Side
    reason: str
    kind: StreamKind = "websocket"
    is_ping: bool = False


class Router:
    """The rules of one plan, and what was learned.

    Args:
        memory: How many paths are remembered at most; then the oldest is dropped.
        pages: The frontend's pages, for which the backend is not waited; ``None``: it always is.
        has_own: Something serves our own paths.

    Attributes:
        memo: Paths that the backend did not know and that turned out to be assets of the frontend.
    """

    def __init__(
        self,
        plan: ProxyPlan,
        *,
        memory: int = MEMORY,
        pages: FrontendPages | None = None,
        has_own: bool = False,
    ) -> None:
        self.pages = pages
        self.memo: dict[bytes, None] = {}
        self.memory = memory
        self.has_own = has_own
        self.is_frontends_own = _below(plan.frontend_paths)
        self.is_api = _below([plan.api_prefix])
        self.fallback_methods = frozenset(method.encode("ascii") for method in plan.fallback_methods)
        self.plan = plan
        # Then its answers are never replaced; a backend that was looked for and not found is another case.
        self.is_frontend_alone = plan.backend is None
        self._to_frontend = _below(plan.frontend_websockets)
        self._to_backend = _below([plan.api_prefix, *plan.backend_prefixes])

    def forget(self) -> None:
        """Begin a new memo; requests that are on their way teach the old one."""
        self.memo = {}

    def websocket(self, head: RequestHead, *, has_backend: bool, has_frontend: bool) -> WebSocketRoute:
        """Decide about a WebSocket: where prefixes of both match, the longer one tells."""
        path = head.path
        if path.startswith(OWN_PREFIX):
            return WebSocketRoute("orchestra", _OWN_ANSWERED.reason)
        if not has_frontend:
            return WebSocketRoute("backend", "no frontend")
        protocol = head.values.get(b"sec-websocket-protocol")
        if protocol in _VITE_PROTOCOLS:
            name = protocol.decode("ascii")
            return WebSocketRoute("frontend", f"subprotocol {name}", "hmr", is_ping=name == "vite-ping")
        to_frontend, to_backend = self._to_frontend(path), self._to_backend(path)
        if to_frontend and (to_backend is None or to_frontend.end() >= to_backend.end()):
            return WebSocketRoute("frontend", "frontend_websockets")
        if not has_backend and to_backend is None:
            return WebSocketRoute("frontend", "no backend")
        return WebSocketRoute("backend", "backend answered")


class _At(Enum):
    """The state of a route: which answer is awaited, and what for."""

    BACKEND = auto()
    FALLBACK = auto()
    FRONTEND = auto()
    ASSET = auto()
    OWN = auto()


class Route:
    """The state machine of one request: which step comes next."""

    _at = _At.BACKEND
    _is_ping = False
    _reason = ""
    _no_backend: Unavailable | None = None

    def __init__(self, head: RequestHead, router: Router) -> None:
        self._head = head
        self._router = router
        self._memo = router.memo

    def begin(self, backend: Availability, frontend: Availability, *, may_wait: bool = True) -> Step:
        """Decide what to do first; without `may_wait` its time for waiting is over."""
        head, router = self._head, self._router
        refused = host_refusal(head.host, router.plan.allowed_hosts)
        if refused is not None:
            return Fail(BadMessage(refused, status=403, title="Host not allowed"))
        if b"via" in head.values and is_looping(head):
            return Fail(BadMessage(_LOOP, status=508, title="Loop Detected"))
        path = head.path
        is_own = path.startswith(_OWN)
        if is_own and not (router.has_own and path.startswith(OWN_PREFIX)):
            return Signal.SAY_OWN
        if b"upgrade" in head.values and is_websocket(head):
            return Signal.UPGRADE
        if is_own:
            self._at = _At.OWN
            return _ASK_OWN
        if frontend is _ABSENT:
            return _ASK_BACKEND
        if router.is_frontend_alone:
            return self._ask_frontend("no backend")
        if _VITE_PING in head.values.get(b"accept", b"") and head.has_token(b"accept", _VITE_PING):
            # Any answer counts as "alive", so that while Vite is not the connection has to be reset.
            self._is_ping = True
            return self._ask_frontend("vite's ping") if frontend is _READY else Signal.RESET
        if router.is_frontends_own(path):
            return self._ask_frontend("vite's own path")
        if frontend is _READY and path in self._memo and _is_question(head):
            return self._ask_frontend("asset, remembered", _At.ASSET)
        if (backend is _HOLD or backend is _FAIL) and (is_asset(head) or self._is_frontends_page()):
            # It waits for whichever of the two is ready first.
            if frontend is _READY and is_asset(head):
                return self._ask_frontend("asset, backend not ready", _At.ASSET)
            if frontend is _READY:
                return self._ask_frontend("frontend's page, backend not ready")
            if frontend is _HOLD and may_wait:
                return Signal.WAIT
        return _ASK_BACKEND

    def _is_frontends_page(self) -> bool:
        pages = self._router.pages
        return pages is not None and is_navigation(self._head) and pages.has(self._head.path)

    def _ask_frontend(self, reason: str, at: _At = _At.FRONTEND) -> Ask:
        self._at, self._reason = at, reason
        return _ASK_FRONTEND

    def next(self, outcome: Outcome) -> Step:
        """Decide what follows from what came of the step before."""
        match self._at:
            case _At.BACKEND:
                if isinstance(outcome, ResponseHead) and outcome.status != 404:
                    if (pages := self._router.pages) is not None:
                        pages.drop(self._head.path)
                    return _BACKEND_ANSWERED
                return self._after_backend(outcome)
            case _At.FALLBACK:
                return self._after_fallback(outcome)
            case _At.FRONTEND:
                return self._after_frontend(outcome)
            case _At.ASSET:
                return self._after_asset(outcome)
            case _At.OWN:
                return _OWN_ANSWERED if isinstance(outcome, ResponseHead) else Fail(outcome)
            case _:
                assert_never(self._at)

    def _after_backend(self, outcome: Outcome) -> Step:
        """The backend's 404 stands, or the frontend is asked."""
        if not isinstance(outcome, ResponseHead):
            if isinstance(outcome, Unavailable) and outcome.availability is Availability.ABSENT:
                self._no_backend = outcome
                return self._ask_frontend("no backend")
            return Fail(outcome)
        head, router = self._head, self._router
        if head.method not in router.fallback_methods or router.is_api(head.path):
            return Answer("backend 404, never falls back")
        if outcome.has_token(b"x-orchestra-final", b"1"):
            return Answer("backend 404, final")
        if (outcome.length or 0) > KEPT_404 or outcome.media_type == b"text/event-stream":
            return Answer(Kept.TOO_LARGE.value)
        if (head.length or 0) > router.plan.replay_bytes:
            return Answer(Kept.BODY_TOO_LONG.value)
        self._at = _At.FALLBACK
        return _FALL_BACK

    def _after_fallback(self, outcome: Outcome) -> Step:
        """The frontend's answer replaces the backend's 404, or that stands."""
        match outcome:
            case ResponseHead(status=404 | 405 | 501):
                return Answer(f"backend 404, frontend {outcome.status}", is_kept=True)
            case ResponseHead():
                if outcome.media_type in HTML and not is_navigation(self._head):
                    return Answer("backend 404, not a navigation", is_kept=True)
                self._learn(outcome)
                return Answer("backend 404")
            case Unavailable(availability=Availability.ABSENT):
                return Answer("backend 404, no frontend", is_kept=True)
            case _ if is_navigation(self._head):
                return Fail(outcome)
            case _:
                return Answer("backend 404, frontend not there", is_kept=True)

    def _learn(self, answer: ResponseHead) -> None:
        """Remember the path if the frontend's answer shows that it is an asset, or a page."""
        memo, pages = self._memo, self._router.pages
        if pages is not None and answer.status < 400 and is_navigation(self._head):
            pages.add(self._head.path)
        if _is_question(self._head) and 200 <= answer.status < 300 and answer.media_type not in HTML:
            memo[self._head.path] = None
            if len(memo) > self._router.memory:
                del memo[next(iter(memo))]

    def _after_asset(self, outcome: Outcome) -> Step:
        """What the frontend says to an asset counts if it looks like one; else the backend is asked."""
        if isinstance(outcome, ResponseHead):
            is_success = 200 <= outcome.status < 300 or outcome.status == 304
            if is_success and outcome.media_type not in HTML:
                return Answer(self._reason)
        self._memo.pop(self._head.path, None)
        self._at = _At.BACKEND
        return _ASK_BACKEND

    def _after_frontend(self, outcome: Outcome) -> Step:
        """The frontend's answer counts; only that its page does not stand for data of an absent backend."""
        head = self._head
        if not isinstance(outcome, ResponseHead):
            return Signal.RESET if self._is_ping else Fail(outcome)
        if (
            self._no_backend is not None
            and outcome.media_type in HTML
            and (not is_navigation(head) or self._router.is_api(head.path))
        ):
            return Fail(self._no_backend)
        return Answer(self._reason)


# --- What a request is ---


def is_websocket(head: RequestHead) -> bool:
    """Whether the request asks for a WebSocket; no other upgrade exists here, its header is just dropped."""
    return head.version == b"1.1" and head.has_token(b"upgrade", b"websocket")


def is_navigation(head: RequestHead) -> bool:
    """Whether the target is opened in a window or frame, as far as one can tell from the request.

    Browsers say so (Fetch Metadata); of others those that ask for HTML by name, or for ``*.html``, count.
    ``/`` is always a page, so that ``curl /`` shows the app.
    """
    return head.method in _READING and (head.path == b"/" or is_for_a_window(head))


def is_for_a_window(head: RequestHead) -> bool:
    """Whether the answer is going to be looked at in a browser's window, be it one to a form."""
    mode, dest = head.values.get(b"sec-fetch-mode"), head.values.get(b"sec-fetch-dest")
    if mode is not None or dest is not None:
        return mode == b"navigate" or dest in WINDOW_DESTINATIONS
    return b"text/html" in head.values.get(b"accept", b"").lower() or head.path.endswith(b".html")


def is_asset(head: RequestHead) -> bool:
    """Whether a page loads this for itself: what Vite may answer while the backend is not ready."""
    return _is_question(head) and head.values.get(b"sec-fetch-dest") in _ASSET_DEST


def _is_question(head: RequestHead) -> bool:
    return head.method in _READING and not head.has_body


def availability(newest: StateChanged | None) -> Availability:
    """Decide what the newest report of an upstream's process means for a request that wants it."""
    if newest is None:
        return Availability.HOLD
    match newest.state:
        case State.READY:
            return Availability.READY if newest.url else Availability.HOLD
        case State.UNHEALTHY:
            # One that lives and does not listen is broken: it has to be mended first.
            return Availability.READY if newest.url else Availability.FAIL
        case State.FAILED | State.COMPLETED | State.STOPPED:
            return Availability.FAIL
        case _:
            return Availability.FAIL if newest.ended_before_ready else Availability.HOLD
