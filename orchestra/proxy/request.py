"""What a request is for, by its head: a window, a part of a page, data, a WebSocket.

Browsers send that as Fetch Metadata (``Sec-Fetch-*``), but only to localhost and over TLS: a phone that uses
the address of this machine sends none. Then ``Accept``, the path and the query decide.

Not here: what follows from it (`route`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from orchestra.hosts import is_own_origin

if TYPE_CHECKING:
    from orchestra.proxy.head import RequestHead

__all__ = [
    "HTML",
    "READING",
    "WINDOW_DESTINATIONS",
    "is_asset",
    "is_code",
    "is_for_a_window",
    "is_from_own_page",
    "is_named_like_an_asset",
    "is_navigation",
    "is_question",
    "is_websocket",
    "referring_path",
]

HTML = (b"text/html", b"application/xhtml+xml")
READING = (b"GET", b"HEAD")
WINDOW_DESTINATIONS = (b"document", b"iframe", b"frame")
_CODE_DESTINATIONS = frozenset(
    b"script style worker sharedworker serviceworker audioworklet paintworklet".split()
)
_MAY_BE_CODE = _CODE_DESTINATIONS | {b"empty"}
# Parts that a page loads. `empty` is not among them: that is `fetch`, for data as well as files.
_ASSET_DESTINATIONS = _CODE_DESTINATIONS | frozenset(b"font image audio video track manifest json".split())
# Modules, styles, fonts and images.
_has_suffix_of_asset = re.compile(
    rb".*\.(?:[cm]?[jt]sx?|vue|svelte|astro|css|s[ac]ss|less|styl|pcss|postcss"
    rb"|woff2?|ttf|otf|eot|png|jpe?g|gif|svg|webp|avif|bmp|ico)",
    re.IGNORECASE,
).fullmatch
# Queries that Vite adds to URLs of modules: a version, the time of a change, the kind of import.
_has_query_of_vite = re.compile(rb"(?:.*&)?(?:[vt]=.*|import(?:[&=].*)?)").fullmatch


def is_websocket(head: RequestHead) -> bool:
    """Whether the request asks for a WebSocket; headers for any other upgrade are just dropped."""
    return head.version == b"1.1" and head.has_token(b"upgrade", b"websocket")


def is_navigation(head: RequestHead) -> bool:
    """Whether the target is opened in a window or frame, as far as the request shows.

    Browsers say so (Fetch Metadata); others count if they accept HTML explicitly, or ask for ``*.html``.
    ``/`` is always a page, so that ``curl /`` shows the app.
    """
    return head.method in READING and (head.path == b"/" or is_for_a_window(head))


def is_for_a_window(head: RequestHead) -> bool:
    """Whether the answer will be shown in a browser's window, including the answer to a form.

    A service worker that forwards a navigation sends ``empty``, and keeps either the mode or the ``Accept``.
    """
    mode, dest = head.values.get(b"sec-fetch-mode"), head.values.get(b"sec-fetch-dest")
    if mode == b"navigate" or dest in WINDOW_DESTINATIONS:
        return True
    if (mode is not None or dest is not None) and mode != b"same-origin":
        return False
    if b"text/html" in head.values.get(b"accept", b"").lower():
        return True
    return mode is None and head.path.endswith(b".html")


def is_question(head: RequestHead) -> bool:
    """Whether the request only reads, and has no body."""
    return head.method in READING and not head.has_body


def is_asset(head: RequestHead) -> bool:
    """Whether the browser says that a page loads this as a part of itself.

    A service worker that forwards it sends ``empty``, but keeps the mode: data never has ``no-cors``.
    """
    dest, mode = head.values.get(b"sec-fetch-dest"), head.values.get(b"sec-fetch-mode")
    is_part = dest in _ASSET_DESTINATIONS or (dest == b"empty" and mode == b"no-cors")
    return is_part and is_question(head)


def is_code(head: RequestHead) -> bool:
    """Whether the browser will run the answer, or apply it as a style, or hides its use."""
    return head.values.get(b"sec-fetch-dest", b"empty") in _MAY_BE_CODE


def is_named_like_an_asset(head: RequestHead) -> bool:
    """Whether a request without Fetch Metadata looks like one for a part of a page.

    That is meaningful only if it comes from a page of Vite's.
    """
    if head.method not in READING or head.has_body or is_for_a_window(head):
        return False
    path, _, query = head.target.partition(b"?")
    return bool(_has_suffix_of_asset(path) or _has_query_of_vite(query))


def is_from_own_page(head: RequestHead) -> bool:
    """Whether the browser says that a page of the same origin sends this."""
    site = head.values.get(b"sec-fetch-site")
    if site is not None:
        return site == b"same-origin"
    origin = head.values.get(b"origin")
    return origin is not None and is_own_origin(origin, head.host)


def referring_path(head: RequestHead) -> bytes | None:
    """Return the path of the page, module, style or worker that sends a request, if it is of our origin."""
    before, slash, rest = head.values.get(b"referer", b"").partition(head.host + b"/")
    if not slash or before not in (b"http://", b"https://"):
        return None
    return b"/" + rest.partition(b"?")[0]
