"""Which upstream is asked, whose answer counts, and what waits: every decision about a request.

The first row that fits a request says which side is asked first, and which then. Prefixes match whole
segments, and the longest match counts; for WebSockets, those of `frontend_websockets` and `backend_prefixes`
match, too. If both sides have the same prefix, it is the frontend's.

| request                                            | first     | then                                |
|----------------------------------------------------|-----------|-------------------------------------|
| ``/__orchestra__/``, ``OPTIONS *``                 | orchestra |                                     |
| Vite's own paths, its ping, its HMR socket         | frontend  |                                     |
| below `frontend_paths`, or the prefix of a further | frontend  |                                     |
| frontend: that one                                 |           |                                     |
| below `backend_paths` or `api_prefix`              | backend   |                                     |
| with `backend_paths`: every other one              | frontend  |                                     |
| the backend did not know it since it was ready     | frontend  | backend, unless that was an asset   |
| part of a page of the frontend's, but not one that | frontend  | backend, unless that was an asset   |
| only the backend had                               |           |                                     |
| a page of the frontend's, or part of any page,     | frontend  | backend, if it was part of a page   |
| while the backend is not there                     |           | and the answer is no asset          |
| every other one                                    | backend   | frontend, if the backend's answer   |
|                                                    |           | is a 404, or else does not fit      |

*Part of a page*: so says the browser (`request.is_asset`) or, without Fetch Metadata, the name. The page is
the frontend's if the ``Referer``, which may be a page, a module, a style or a worker, was answered by the
frontend (`rules`); if the page forbids that header, the newest page counts. A service worker hides what a
module is for: the backend is asked first, as for data. *No asset*: the answer is HTML, or says that there is
nothing.

What may fall back: a 404 to one of `fallback_methods`, or to a form in a page of the frontend's; a 405 to a
navigation; an answer that a browser cannot use as a part of a page, such as HTML for a script. Vite answers
nearly every path with 200 and its page, which counts as an answer only to a navigation.

A `Route` is the state machine of one request: `begin` gives the first step, `next` the step that follows from
the outcome of the last one. `availability` says what the state of a process means for its requests.

Everything here is pure; a new rule is a new row in a table of `tests/test_proxy_route.py`.

Not here: input and output, waiting.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import TYPE_CHECKING, Literal, TypeAlias

from msgspec import Struct

from orchestra.errors import UpstreamError
from orchestra.events import State
from orchestra.hosts import host_refusal
from orchestra.proxy.forward import MAX_VIA, times_passed
from orchestra.proxy.head import BadMessage, ResponseHead
from orchestra.proxy.request import (
    HTML,
    READING,
    is_asset,
    is_code,
    is_for_a_window,
    is_named_like_an_asset,
    is_navigation,
    is_question,
    is_websocket,
    referring_path,
)
from orchestra.proxy.rules import API, OWN_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.events import StateChanged, UpstreamName
    from orchestra.proxy.head import RequestHead
    from orchestra.proxy.rules import Router, Side

__all__ = ["Availability", "Doubt", "Route", "Step", "Unavailable", "availability"]

# `*` is the server itself: only OPTIONS may ask for it.
_OWN = (OWN_PREFIX, b"*")
# Bytes of a backend's answer that are kept until Vite has answered; 404s of frameworks have 9 bytes to 100
# KiB.
KEPT_404 = 262144

_VITE_PING = b"text/x-vite-ping"
# Statuses of an upstream that has nothing, or nothing readable, at a path.
_NOT_KNOWN = (404, 405, 501)
_REMEMBERED = "asset, remembered"
_LOOP = "The request has come through here again and again: an upstream sends it back"
# The names of files that bundlers have built: with a hash of their content.
_is_built = re.compile(rb".*[-.][\w-]{8,}\.(?:m?js|css)").fullmatch


class Availability(Enum):
    """Whether a request can be sent to an upstream now, later, or not at all."""

    READY = "ready"
    HOLD = "hold"
    FAIL = "fail"
    ABSENT = "absent"


# Accessing a member by its class takes three times as long.
_READY, _HOLD, _FAIL, _ABSENT = Availability


class Unavailable(UpstreamError):  # noqa: N818 - the error is its base's name
    """An upstream is not available.

    Attributes:
        side: Which one.
        availability: `HOLD` if it was not ready in time, `FAIL` if waiting makes no sense, `ABSENT` if there
            is none, `READY` if it refuses connections.
        process: Its process; ``None`` if it is not part of this run, or not known.
        tail: The last lines that its process wrote.
    """

    def __init__(
        self,
        side: UpstreamName,
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


class Ask(Struct, frozen=True):
    """Send the request to an upstream; the last answer is read to its end and dropped.

    Attributes:
        keeps_answer: The last answer is kept instead: it may turn out to be the best.
    """

    side: UpstreamName
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
    ANSWER_OWN = auto()  # answer for orchestra itself
    UPGRADE = auto()  # the client wants a WebSocket: see `Router.websocket`


Step: TypeAlias = Ask | Answer | Fail | Signal


class Kept(Enum):
    """The fate of a kept answer; if it has to be passed on, the reason, for the dashboard."""

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


class Doubt(Struct, frozen=True):
    """The backend has answered a request that may be meant for the frontend.

    Attributes:
        kind: A part of a page, for which the frontend has a better answer; the page at ``/``, or its build;
            something under `api_prefix`, which the backend does not know.
    """

    kind: Literal["part", "page", "api"]
    path: bytes
    status: int


class Route:
    """The state machine of one request: which step comes next.

    Attributes:
        doubt: A doubt about its answer, for a notice.
    """

    def __init__(self, head: RequestHead, router: Router) -> None:
        self._head, self._path = head, head.path
        self._router = router
        self._unknown = router.unknown
        self.doubt: Doubt | None = None
        self._is_ping = self._is_part = self._had_no_asset = False
        self._reason = ""
        self._kept: ResponseHead | None = None
        self._no_backend: Unavailable | None = None
        # The state: the function that handles the awaited answer.
        self._after: Callable[[Route, Outcome], Step] = Route._after_backend

    def begin(self, backend: Availability, frontend: Availability, *, may_wait: bool = True) -> Step:
        """Decide the first step; without `may_wait` its waiting time is over."""
        head, router = self._head, self._router
        refused = host_refusal(head.host, router.plan.allowed_hosts)
        if refused is not None:
            return Fail(BadMessage(refused, status=403, title="Host not allowed"))
        if b"via" in head.values and times_passed(head) >= MAX_VIA:
            return Fail(BadMessage(_LOOP, status=508, title="Loop Detected"))
        path = self._path
        is_own = path.startswith(_OWN)
        if is_own and not (router.has_own and path.startswith(OWN_PREFIX)):
            return Signal.ANSWER_OWN
        if b"upgrade" in head.values and is_websocket(head):
            return Signal.UPGRADE
        if is_own:
            self._after = Route._after_own
            return _ASK_OWN
        if frontend is _ABSENT:
            return _ASK_BACKEND
        if router.is_frontend_alone:
            return self._ask_frontend("no backend")
        if _VITE_PING in head.values.get(b"accept", b"") and head.has_token(b"accept", _VITE_PING):
            # Any answer counts as "alive", so while Vite is down the connection has to be reset.
            self._is_ping = True
            return self._ask_frontend("vite's ping") if frontend is _READY else Signal.RESET
        rule = router.rule_of(path)
        if rule is not None and rule.side == "frontend":
            return self._ask_frontend(rule.reason)
        if rule is not None:
            self._after = Route._after_settled
            return _ASK_BACKEND
        return self._begin_by_what_was_learned(path, backend, frontend, may_wait=may_wait)

    def _begin_by_what_was_learned(
        self, path: bytes, backend: Availability, frontend: Availability, *, may_wait: bool
    ) -> Step:
        head = self._head
        if not is_question(head):
            return _ASK_BACKEND
        if frontend is _READY and path in self._unknown:
            return self._ask_frontend(_REMEMBERED, Route._after_asset)
        reason = self._why_part_of_frontends_page(path)
        if reason is not None:
            return self._ask_frontend(reason, Route._after_asset)
        if backend is _HOLD or backend is _FAIL:
            is_part = self._is_part
            is_page = is_navigation(head) and self._router.pages.has(path)
            # It waits for whichever of the two is ready first.
            if frontend is _READY and is_part:
                return self._ask_frontend("asset, backend not ready", Route._after_asset)
            if frontend is _READY and is_page:
                return self._ask_frontend("frontend's page, backend not ready")
            if frontend is _HOLD and may_wait and (is_part or is_page):
                return Signal.WAIT
        return _ASK_BACKEND

    def _why_part_of_frontends_page(self, path: bytes) -> str | None:
        """Say why the request is for a part of the frontend's page that the frontend may have, if it is."""
        head, router = self._head, self._router
        has_metadata = b"sec-fetch-dest" in head.values
        self._is_part = is_asset(head) if has_metadata else is_named_like_an_asset(head)
        known = router.assets.get(path)
        if not self._is_part:
            if not has_metadata or self._side_of_page() != "frontend":
                return None
            # Data, or a service worker hides its use: then the name shows which answers are impossible.
            self._is_part = is_named_like_an_asset(head)
            return _REMEMBERED if known == "frontend" else None
        page = self._side_of_page()
        # A request that only looks like a part of a page may be anything if it comes from elsewhere.
        self._is_part = has_metadata or page == "frontend"
        if page == "frontend" and known != "backend":
            return "part of the frontend's page"
        return _REMEMBERED if page is None and has_metadata and known == "frontend" else None

    def _side_of_page(self) -> Side | None:
        values = self._head.values
        site = values.get(b"sec-fetch-site", b"same-origin")
        if site != b"same-origin":
            return None
        if b"referer" not in values:
            # Its page hides its address (`Referrer-Policy: no-referrer`).
            return self._router.newest if b"sec-fetch-site" in values else None
        path = referring_path(self._head)
        return None if path is None else self._router.side_of(path)

    def _ask_frontend(self, reason: str, after: Callable[[Route, Outcome], Step] | None = None) -> Ask:
        self._after, self._reason = after or Route._after_frontend, reason
        return _ASK_FRONTEND

    def next(self, outcome: Outcome) -> Step:
        """Decide the step that follows from the outcome of the last one."""
        return self._after(self, outcome)

    def _after_own(self, outcome: Outcome) -> Step:
        return _OWN_ANSWERED if isinstance(outcome, ResponseHead) else Fail(outcome)

    # --- The backend has answered ---

    def _after_settled(self, outcome: Outcome) -> Step:
        """By the settings, the backend's answer counts."""
        if not isinstance(outcome, ResponseHead):
            return self._without_backend(outcome)
        if outcome.status != 404:
            return _BACKEND_ANSWERED
        if self._router.rule_of(self._path) is API:
            self.doubt = Doubt("api", self._path, 404)
        return Answer("backend 404, never falls back")

    def _after_backend(self, outcome: Outcome) -> Step:
        if not isinstance(outcome, ResponseHead):
            return self._without_backend(outcome)
        if outcome.status != 404:
            return self._after_other_answer(outcome)
        if not self._router.may_fall_back(self._head):
            return Answer("backend 404, never falls back")
        return self._fall_back(outcome)

    def _without_backend(self, error: UpstreamError) -> Step:
        """The backend has not answered; if there is no backend at all, the frontend is asked."""
        if isinstance(error, Unavailable) and error.availability is Availability.ABSENT:
            self._no_backend = error
            return self._ask_frontend("no backend")
        return Fail(error)

    def _after_other_answer(self, answer: ResponseHead) -> Step:
        """The backend's answer is not a 404: it counts, unless it cannot be used for the request."""
        head, router, status = self._head, self._router, answer.status
        path = self._path
        router.pages.drop(path)
        if self._had_no_asset:
            if _is_for_a_page(answer):
                router.assets.learn(path, "backend")
        elif self._is_part:
            is_page = status < 300 and answer.media_type in HTML
            if is_page or (status >= 300 and status != 304 and is_code(head)):
                return self._fall_back(answer)
            if _is_built(path) and router.windows.get(b"/") == "backend":
                self.doubt = Doubt("page", b"/", 200)
        elif path == b"/" or is_for_a_window(head):
            if status == 405 and is_navigation(head):
                return self._fall_back(answer)
            if not _is_redirect(answer):
                router.saw_window(path, "backend")
            is_file = b"last-modified" in answer.values
            if path == b"/" and (status >= 300 or is_file or answer.media_type not in HTML):
                self.doubt = Doubt("page", path, status)
        return _BACKEND_ANSWERED

    def _fall_back(self, answer: ResponseHead) -> Step:
        """Ask the frontend, too, unless the answer is final, or cannot be kept."""
        said = f"backend {answer.status}"
        if answer.has_token(b"x-orchestra-final", b"1"):
            return Answer(f"{said}, final")
        if (answer.length or 0) > KEPT_404 or answer.media_type == b"text/event-stream":
            return Answer(Kept.TOO_LARGE.value)
        if (self._head.length or 0) > self._router.plan.replay_bytes:
            return Answer(Kept.BODY_TOO_LONG.value)
        self._after, self._kept, self._reason = Route._after_fallback, answer, said
        return _FALL_BACK

    def _after_fallback(self, outcome: Outcome) -> Step:
        """The frontend's answer replaces the backend's, or the backend's stays."""
        head, kept, said = self._head, self._kept, self._reason
        assert kept is not None  # noqa: S101 - see `_fall_back`
        is_window = is_navigation(head) or is_for_a_window(head)
        match outcome:
            case ResponseHead(status=status):
                is_html = outcome.media_type in HTML
                if status in _NOT_KNOWN:
                    # If both have nothing, a window shows the answer that is made for people.
                    is_better = status == 404 and is_html and is_window and kept.media_type not in HTML
                elif kept.status != 404 and self._is_part:
                    is_better = _is_for_a_page(outcome)
                else:
                    is_better = is_window or not is_html or head.method not in READING
                if not is_better:
                    why = f"frontend {status}" if status >= 400 else "not a navigation"
                    return Answer(f"{said}, {why}", is_kept=True)
                self._learn(outcome, kept)
                return Answer(said)
            case Unavailable(availability=Availability.ABSENT):
                return Answer(f"{said}, no frontend", is_kept=True)
            case _ if is_navigation(head) and kept.status == 404:
                return Fail(outcome)
            case _:
                return Answer(f"{said}, frontend not there", is_kept=True)

    def _learn(self, answer: ResponseHead, kept: ResponseHead) -> None:
        head, router = self._head, self._router
        path = self._path
        self._see_window(answer)
        if is_navigation(head) and kept.status == 404 and answer.status < 400:
            router.pages.add(path)
        if is_question(head) and 200 <= answer.status < 300 and answer.media_type not in HTML:
            self._unknown.learn(path, "frontend")
        if self._is_part and _is_for_a_page(answer):
            router.assets.learn(path, "frontend")
            if kept.status != 404:
                self.doubt = Doubt("part", path, kept.status)

    # --- The frontend has answered ---

    def _see_window(self, answer: ResponseHead) -> None:
        """Remember which side's page a window has got; a redirect does not count."""
        head = self._head
        if (is_navigation(head) or is_for_a_window(head)) and not _is_redirect(answer):
            self._router.saw_window(self._path, "frontend")

    def _after_asset(self, outcome: Outcome) -> Step:
        """The frontend's answer counts unless it has no asset; then the backend is asked."""
        router, path = self._router, self._path
        if isinstance(outcome, ResponseHead):
            if _is_for_a_page(outcome):
                if self._is_part:
                    router.assets.learn(path, "frontend")
                return Answer(self._reason)
            if outcome.status >= 500 and outcome.status != 501:
                # It has the asset, which is broken.
                return Answer(self._reason)
            router.assets.forget(path)
            self._unknown.forget(path)
            self._had_no_asset = self._is_part
        self._after = Route._after_backend
        return _ASK_BACKEND

    def _after_frontend(self, outcome: Outcome) -> Step:
        """The frontend's answer counts, except a page that is no answer while the backend is absent."""
        head = self._head
        if not isinstance(outcome, ResponseHead):
            return Signal.RESET if self._is_ping else Fail(outcome)
        if self._no_backend is not None and outcome.media_type in HTML:
            rule = self._router.rule_of(self._path)
            if not is_navigation(head) or (rule is not None and rule.side == "backend"):
                return Fail(self._no_backend)
        self._see_window(outcome)
        return Answer(self._reason)


def _is_redirect(answer: ResponseHead) -> bool:
    return 300 <= answer.status < 400 and answer.status != 304


def _is_for_a_page(answer: ResponseHead) -> bool:
    """Whether an answer can be a part of a page."""
    is_success = 200 <= answer.status < 300 or answer.status == 304
    return is_success and answer.media_type not in HTML


def availability(newest: StateChanged | None) -> Availability:
    """Decide what the newest report on an upstream's process means for its requests."""
    if newest is None:
        return Availability.HOLD
    match newest.state:
        case State.READY:
            return Availability.READY if newest.url else Availability.HOLD
        case State.UNHEALTHY:
            # A process that lives and does not listen is broken: it has to be fixed first.
            return Availability.READY if newest.url else Availability.FAIL
        case State.FAILED | State.COMPLETED | State.STOPPED:
            return Availability.FAIL
        case _:
            return Availability.FAIL if newest.ended_before_ready else Availability.HOLD
