"""Who is asked, whose answer counts, and who waits: every decision about a request, with its reason.

Strategy. The backend is asked first, because only it knows whether it knows; what it answers with 404 falls
to Vite. The trap is that Vite says 200 with its page to nearly everything, so that an honest 404 of an API
would turn into HTML with 200. Hence two judgements: `after_backend` says whether a 404 may fall back at all,
and `after_frontend` whether what Vite made of it may replace it. A page is only ever an answer to somebody
who navigates.

`standing` is the same for time: what the life of a process means for those who wait for it, who is held and
who fails fast. Everything here is a pure function of its arguments; a new rule is a new row in a table of
`tests/test_proxy_route.py`.

Never here: input or output, waiting, state.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from orchestra.events import State
from orchestra.proxy.message import fields, has_token

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.config.plan import ProxyPlan
    from orchestra.events import StreamKind, UpstreamName
    from orchestra.proxy.message import RequestHead, ResponseHead

__all__ = [
    "KEPT_404",
    "OWN_PREFIX",
    "Route",
    "Standing",
    "Verdict",
    "after_backend",
    "after_early_frontend",
    "after_frontend",
    "after_frontend_alone",
    "is_asset",
    "is_for_a_window",
    "is_memorable",
    "is_navigation",
    "is_websocket",
    "route_request",
    "route_websocket",
    "standing",
]

OWN_PREFIX = "/__orchestra__/"
# Bytes of a backend's 404 that are kept until Vite has answered; framework 404s have 9 bytes to 100 KiB.
KEPT_404 = 262144

_HTML = (b"text/html", b"application/xhtml+xml")
_NAVIGATION_DEST = (b"document", b"iframe", b"frame")
# What a page loads and no backend renders: Vite is asked for it at once while the backend is not there.
_ASSET_DEST = frozenset({b"script", b"style", b"font", b"image", b"worker", b"manifest"})
_VITE_PROTOCOLS = (b"vite-hmr", b"vite-ping")


class Standing(Enum):
    """What the life of an upstream means for a request that wants it."""

    READY = "ready"
    HOLD = "hold"
    FAIL = "fail"
    ABSENT = "absent"


class Verdict(Enum):
    """What becomes of an answer."""

    ANSWER = "answer"
    PASS_OVER = "pass over"  # noqa: S105 - not that kind of pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where a request goes.

    Attributes:
        first: Who is asked first.
        reason: Why, in words for the dashboard.
        may_fall_back: A 404 of the backend may fall to the frontend; a WebSocket may go there if there is no
            backend at all.
        is_ping: Vite's client asks whether Vite is alive; any answer counts as yes, so that while it is not
            the connection has to be reset.
        is_navigation: Somebody is going to look at the answer in a browser's window.
        kind: What the stream is called, if it is a WebSocket.
    """

    first: UpstreamName
    reason: str
    may_fall_back: bool = False
    is_ping: bool = False
    is_navigation: bool = False
    kind: StreamKind | None = None


def route_request(head: RequestHead, plan: ProxyPlan) -> Route:
    """Decide who is asked for an ordinary request."""
    path = head.path
    navigation = is_navigation(head)
    if path.startswith(OWN_PREFIX):
        return Route(first="orchestra", reason="orchestra's own path", is_navigation=navigation)
    if head.target == b"*":
        return Route(first="orchestra", reason="about the server itself")
    if has_token(head.headers, b"accept", b"text/x-vite-ping"):
        return Route(first="frontend", reason="vite's ping", is_ping=True)
    if _longest_match(path, plan.frontend_paths):
        return Route(first="frontend", reason="vite's own path", is_navigation=navigation)
    return Route(
        first="backend",
        reason="backend answered",
        may_fall_back=head.method.decode("ascii") in plan.fallback_methods
        and not _is_under(path, plan.api_prefix),
        is_navigation=navigation,
    )


def route_websocket(head: RequestHead, plan: ProxyPlan) -> Route:
    """Decide who is asked for a WebSocket: where prefixes of both match, the longer one tells."""
    if head.path.startswith(OWN_PREFIX):
        return Route(first="orchestra", reason="orchestra's own path")
    protocols = fields(head.headers, b"sec-websocket-protocol")
    if len(protocols) == 1 and protocols[0] in _VITE_PROTOCOLS:
        return Route(
            first="frontend",
            reason=f"subprotocol {protocols[0].decode('ascii')}",
            is_ping=protocols[0] == b"vite-ping",
            kind="hmr",
        )
    to_frontend = _longest_match(head.path, plan.frontend_websockets)
    to_backend = _longest_match(head.path, (plan.api_prefix, *plan.backend_prefixes))
    if to_frontend and to_frontend >= to_backend:
        return Route(first="frontend", reason="frontend_websockets", kind="websocket")
    return Route(first="backend", reason="backend answered", kind="websocket", may_fall_back=not to_backend)


def is_websocket(head: RequestHead) -> bool:
    """Whether the request asks for a WebSocket; no other upgrade exists here, its header is just dropped."""
    return head.version == b"1.1" and has_token(head.headers, b"upgrade", b"websocket")


def is_navigation(head: RequestHead) -> bool:
    """Whether somebody opens the target in a window or frame, as far as one can tell from the request.

    Browsers say so (Fetch Metadata); of others those that ask for HTML by name, or for ``*.html``, count.
    ``/`` is a page whoever asks, so that ``curl /`` shows the app.
    """
    if head.method not in (b"GET", b"HEAD"):
        return False
    return head.path == "/" or is_for_a_window(head)


def is_for_a_window(head: RequestHead) -> bool:
    """Whether the answer is going to be looked at in a browser's window, be it one to a form."""
    mode, dest = head.get(b"sec-fetch-mode"), head.get(b"sec-fetch-dest")
    if mode is not None or dest is not None:
        return mode == b"navigate" or dest in _NAVIGATION_DEST
    accepts = any(b"text/html" in value.lower() for value in fields(head.headers, b"accept"))
    return accepts or head.path.endswith(".html")


def is_asset(head: RequestHead) -> bool:
    """Whether a page loads this for itself: what Vite may answer while the backend is not there."""
    return (
        head.method in (b"GET", b"HEAD") and not head.has_body and head.get(b"sec-fetch-dest") in _ASSET_DEST
    )


def after_backend(route: Route, answer: ResponseHead) -> tuple[Verdict, str]:
    """Decide about the backend's answer: it stands, or the frontend is asked; with the reason."""
    if answer.status != 404:
        return Verdict.ANSWER, "backend answered"
    if not route.may_fall_back:
        return Verdict.ANSWER, "backend 404, never falls back"
    if b"1" in fields(answer.headers, b"x-orchestra-final"):
        return Verdict.ANSWER, "backend 404, final"
    if (answer.length or 0) > KEPT_404 or answer.media_type == b"text/event-stream":
        return Verdict.ANSWER, "backend 404, too large to fall back"
    return Verdict.PASS_OVER, "backend 404"


def after_frontend(route: Route, answer: ResponseHead) -> tuple[Verdict, str]:
    """Decide whether the frontend's answer replaces the backend's 404; with the reason."""
    if answer.status in (404, 405, 501):
        return Verdict.PASS_OVER, f"backend 404, frontend {answer.status}"
    if answer.media_type in _HTML and not route.is_navigation:
        return Verdict.PASS_OVER, "backend 404, and no navigation"
    return Verdict.ANSWER, "backend 404"


def is_memorable(head: RequestHead, answer: ResponseHead) -> bool:
    """Whether the frontend's answer to what the backend does not know shows that this is an asset of its."""
    is_question = head.method in (b"GET", b"HEAD") and not head.has_body
    return is_question and 200 <= answer.status < 300 and answer.media_type not in _HTML


def after_early_frontend(answer: ResponseHead) -> Verdict:
    """Decide whether what the frontend says to an asset counts while the backend cannot be asked."""
    is_success = 200 <= answer.status < 300 or answer.status == 304
    return Verdict.ANSWER if is_success and answer.media_type not in _HTML else Verdict.PASS_OVER


def after_frontend_alone(route: Route, answer: ResponseHead) -> Verdict:
    """Decide whether the frontend's answer counts when there is no backend at all.

    An API's caller does not get a page; everything else of Vite's does count, such as what its own proxy
    brings.
    """
    may_be_page = route.is_navigation and route.may_fall_back
    return Verdict.PASS_OVER if answer.media_type in _HTML and not may_be_page else Verdict.ANSWER


def standing(state: State | None, *, died_early: bool) -> Standing:
    """Decide what the state of an upstream's process means for a request that wants it.

    Args:
        state: ``None`` while nothing has been heard of it.
        died_early: It died before it was ready, and has not been ready since.
    """
    match state:
        case State.READY | State.UNHEALTHY:
            return Standing.READY
        case State.FAILED | State.COMPLETED | State.STOPPED:
            return Standing.FAIL
        case _:
            return Standing.FAIL if died_early else Standing.HOLD


def _is_under(path: str, prefix: str) -> bool:
    """Whether `path` is `prefix` or lies below it, by whole segments; with a slash at its end: below it."""
    return path == prefix or path.startswith(prefix if prefix.endswith("/") else prefix + "/")


def _longest_match(path: str, prefixes: Iterable[str]) -> int:
    """Return the length of the longest prefix that `path` is under; 0 if there is none."""
    return max((len(prefix.rstrip("/")) + 1 for prefix in prefixes if _is_under(path, prefix)), default=0)
