"""Which documents get orchestra's script, and how the answers that carry them change.

Strategy. Browsers mark requests for a window (Fetch Metadata); without that, a request that accepts HTML
counts. Only such requests are forwarded with ``Accept-Encoding: identity``, and only HTML answers to them are
changed. The answer's head is adapted: no length, digest or ranges any more, and a weak ``ETag``, with which
``If-None-Match`` still matches (RFC 9110 8.8.3.2) and ``If-Range`` does not. Answers to HEAD, and 304 and
206, get the same head as the document itself; the body of a 206 is not changed.

A Content-Security-Policy that forbids the script or its WebSocket is never loosened: the document passes
unchanged, and one notice says why. The same applies to a document that is compressed nevertheless.

A page that loads Vite's client from another address than ours or our Vite's passes unchanged, too: most often
a template names the port that Vite takes when it runs alone. A notice says what to write instead.

Not here: where the script is put (`document`), what a policy allows (`csp`), what the script does.
"""

from __future__ import annotations

import re
from textwrap import shorten
from typing import TYPE_CHECKING, TypeVar

from msgspec import structs

from orchestra.control.pages import SCRIPT, Page, PageBody
from orchestra.proxy.forward import times_passed
from orchestra.proxy.request import HTML, WINDOW_DESTINATIONS, is_for_a_window, is_websocket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestra.bus import Bus
    from orchestra.config.plan import Address
    from orchestra.config.schema import ReloadSettings
    from orchestra.events import UpstreamName
    from orchestra.proxy.framing import Body
    from orchestra.proxy.head import RequestHead, ResponseHead

__all__ = ["Injector"]

_Head = TypeVar("_Head", "RequestHead", "ResponseHead")

_METHODS = (b"GET", b"HEAD", b"POST")
# Libraries that insert the answer into a page send these.
_FRAGMENT = frozenset({b"hx-request", b"turbo-frame"})
_XML = b"application/xhtml+xml"
_charset = re.compile(rb"charset\s*=\s*[\"']?([^\s;\"']*)", re.IGNORECASE).search
# In these encodings, the bytes of a tag are those of ASCII, wherever they stand.
_has_ascii = re.compile(
    rb"utf-?8|(?:us-)?ascii|latin-?1|iso[-_]?8859-\d+|(?:windows-|cp)125\d|gbk|gb2312|gb18030|big5|shift[-_]jis"
    rb"|euc-(?:jp|kr)|koi8-[ru]",
    re.IGNORECASE,
).fullmatch
# Fields that hold for the original document only; trailers do not pass.
_UNTRUE: dict[bytes, bytes | None] = dict.fromkeys(
    (b"digest", b"content-digest", b"repr-digest", b"content-md5", b"accept-ranges", b"trailer")
)
# The address from which a page loads Vite's client, if it is absolute.
_vite = re.compile(
    rb"""(?:https?:)?//((?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::([0-9]{1,5}))?)(?=/)[^\s"'<>]*/@vite/client"""
).search
# An application may make a new policy for each page.
_MOST_NOTICES = 20
# Characters of a directive that a notice shows; some list a hundred hosts.
_LONGEST_FAULT = 120

_POLICY_HINT = (
    "While you develop, let script-src and connect-src have 'self', or set [reload] enabled = false in the"
    " settings."
)
_VITE_HINT = (
    "Name the one address, which is in ORCHESTRA_URL and ORCHESTRA_PORT; for django-vite:"
    ' "dev_server_port": os.environ.get("ORCHESTRA_PORT").'
)
_COMPRESSED_HINT = "Turn its compression off while you develop."


class Injector:
    """Puts the script into the pages of one run; `vites` gives the addresses of the ready frontends."""

    def __init__(
        self, settings: ReloadSettings, bus: Bus, *, vites: Callable[[], Sequence[Address]] = tuple
    ) -> None:
        self._bus = bus
        self._vites = vites
        self._sides: set[UpstreamName] = set()
        shows = settings.overlay or settings.console
        if shows:
            self._sides |= {"backend", "frontend"}
        if settings.pages != "none":
            self._sides |= {"backend", "orchestra"}
        if settings.pages == "all":
            self._sides.add("frontend")

    def asks(self, head: RequestHead) -> RequestHead | None:
        """See `Pages.asks`."""
        values = head.values
        destination = values.get(b"sec-fetch-dest")
        if (destination not in WINDOW_DESTINATIONS) if destination is not None else not is_for_a_window(head):
            return None
        if head.method not in _METHODS or not _FRAGMENT.isdisjoint(values) or not self._sides:
            return None
        if values.get(b"x-requested-with", b"").lower() == b"xmlhttprequest" or is_websocket(head):
            return None
        # The one in front of us gives the page its script.
        if b"via" in values and times_passed(head):
            return None
        return _edited(head, {b"accept-encoding": b"identity"}) if b"accept-encoding" in values else head

    def change(
        self, request: RequestHead, answer: ResponseHead, body: Body, upstream: UpstreamName
    ) -> tuple[ResponseHead, Body]:
        """See `Pages.change`."""
        page = self.begin(request, answer, upstream)
        if page is None:
            return answer, body
        if page.feed is not None:
            body = PageBody(body, page.feed, has_chunks=request.version != b"1.0")
        return page.head, body

    def begin(self, request: RequestHead, answer: ResponseHead, upstream: UpstreamName) -> Page | None:
        """Return how the answer to a request that passed `asks` is changed, or ``None``."""
        values, status = answer.values, answer.status
        if upstream not in self._sides:
            return None
        if status == 304:
            # The client has, and requests, the document with the script if its ETag is ours.
            etag = values.get(b"etag")
            is_ours = etag is not None and _weak(etag) in request.values.get(b"if-none-match", b"")
            return Page(_changed(answer, keeps_length=False)) if is_ours else None
        is_bare = upstream == "backend" and _is_bare_failure(answer)
        if is_bare:
            answer = _as_html(answer)
        elif not _is_document(answer):
            return None
        coding = values.get(b"content-encoding", b"identity").lower()
        if coding != b"identity":
            self._report_coding(upstream, coding.decode("latin-1"))
            return None
        # Imported with the first document: the start does not wait until its patterns are compiled.
        from orchestra.control.csp import Origin, forbids_connection, judge  # noqa: PLC0415
        from orchestra.control.document import Document, PlainDocument, policies  # noqa: PLC0415

        origin = Origin.of(request)
        verdict = judge(values.get(b"content-security-policy", b"").decode("latin-1"), origin)
        if verdict.fault:
            self._report_policy(upstream, verdict.fault)
            return None
        if status == 206:
            return Page(_changed(answer, keeps_length=True))
        head = _changed(answer, keeps_length=False)
        if request.method == b"HEAD":
            return Page(head)
        tag = _tag(request, status, upstream, verdict.nonce).encode("ascii")
        if is_bare:
            return Page(head, PlainDocument(tag).feed)

        def see(start: bytes) -> None:
            for policy in policies(start):
                if fault := forbids_connection(policy, origin):
                    self._report_policy(upstream, fault)
            if b"/@vite/client" in start:
                self._look_for_vite(start, request)

        return Page(head, Document(tag, is_xml=answer.media_type == _XML, on_start=see).feed)

    def tag(self, request: RequestHead, status: int) -> str:
        """See `Pages.tag`."""
        is_page = "orchestra" in self._sides and self.asks(request) is not None
        return _tag(request, status, "orchestra") if is_page else ""

    def _look_for_vite(self, start: bytes, request: RequestHead) -> None:
        named, vites = _vite(start), self._vites()
        if named is None or not vites or named[1] == request.host:
            return
        own = request.host.rpartition(b":")[2]
        if (named[2] or b"80") not in {own, *(b"%d" % each.port for each in vites)}:
            place = named[1].decode("ascii", "replace")
            text = f"a page loads Vite's client from {place}, but the Vite of this run is at {vites[0]}"
            self._bus.notice("vite-elsewhere", text, hint=_VITE_HINT, at_most=_MOST_NOTICES)

    def _report_policy(self, upstream: UpstreamName, fault: str) -> None:
        fault = shorten(fault, _LONGEST_FAULT, placeholder=" ...")
        text = (
            f"a Content-Security-Policy of the {upstream} forbids orchestra's script ({fault}): its pages do"
            " not reload by themselves and show no errors"
        )
        self._bus.notice("page-policy", text, hint=_POLICY_HINT, at_most=_MOST_NOTICES)

    def _report_coding(self, upstream: UpstreamName, coding: str) -> None:
        text = (
            f"the {upstream} sends pages as {coding}, which they were not asked for in: they do not reload by"
            " themselves and show no errors"
        )
        self._bus.notice("page-compressed", text, hint=_COMPRESSED_HINT, at_most=_MOST_NOTICES)


def _is_document(answer: ResponseHead) -> bool:
    values, status = answer.values, answer.status
    if answer.media_type not in HTML or answer.length == 0 or status in (204, 205) or 300 <= status < 400:
        return False
    disposition = values.get(b"content-disposition", b"").partition(b";")[0].strip().lower()
    if disposition == b"attachment" or answer.has_token(b"cache-control", b"no-transform"):
        return False
    charset = _charset(values[b"content-type"])
    return charset is None or _has_ascii(charset[1]) is not None


def _is_bare_failure(answer: ResponseHead) -> bool:
    """Whether a server has failed without a page: with the text `Internal Server Error`, or with no body.

    A page without the script could not reload when the error is fixed.
    """
    has_no_page = answer.media_type == b"text/plain" or answer.length == 0
    return answer.status >= 500 and has_no_page and _is_document(_as_html(answer))


def _as_html(answer: ResponseHead) -> ResponseHead:
    kind = answer.values.get(b"content-type", b"")
    kind = b"text/html" + (kind[kind.find(b";") :] if b";" in kind else b"")
    return structs.replace(_edited(answer, {b"content-type": kind}), length=None)


def _changed(answer: ResponseHead, *, keeps_length: bool) -> ResponseHead:
    changes = dict(_UNTRUE)
    if not keeps_length:
        changes[b"content-length"] = None
    if etag := answer.values.get(b"etag"):
        changes[b"etag"] = _weak(etag)
    head = _edited(answer, changes)
    return head if keeps_length else structs.replace(head, length=None)


def _weak(etag: bytes) -> bytes:
    return etag if etag.startswith(b"W/") else b"W/" + etag


def _edited(head: _Head, changes: Mapping[bytes, bytes | None]) -> _Head:
    """Return a head with other values for some fields; ``None`` removes one."""
    lines, left = [], dict(changes)
    for line in head.lines:
        name = line.partition(b":")[0]
        value = left.pop(name.lower(), None)
        if name.lower() not in changes:
            lines.append(line)
        elif value is not None:
            lines.append(b"%b: %b" % (name, value))
    lines += [b"%b: %b" % (name, value) for name, value in left.items() if value is not None]
    values = {name: value for name, value in {**head.values, **changes}.items() if value is not None}
    return structs.replace(head, lines=lines, values=values)


def _tag(request: RequestHead, status: int, upstream: UpstreamName, nonce: str = "") -> str:
    # An attribute without a value would not be valid XML.
    attributes = [f'src="{SCRIPT}" async="" data-page="{upstream}"']
    if request.method == b"POST":
        attributes.append('data-method="POST"')
    if status != 200:
        attributes.append(f'data-status="{status}"')
    if nonce:
        attributes.append(f'nonce="{nonce}"')
    return f"<script {' '.join(attributes)}></script>"
