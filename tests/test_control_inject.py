"""Where the script goes in documents, which documents get it, and what becomes of their heads."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, strategies as st
from msgspec.structs import replace

from orchestra.bus import Bus
from orchestra.config.plan import Address
from orchestra.config.schema import ReloadSettings
from orchestra.control.document import LONGEST_TOKEN, WATCHED, Document, policies
from orchestra.control.inject import Injector
from orchestra.events import Notice
from orchestra.proxy.head import ResponseHead
from tests.proxy_kit import request_head

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.control.pages import Page
    from orchestra.events import UpstreamName
    from orchestra.proxy.head import Headers, RequestHead

TAG = b"<TAG/>"
HOST = b"127.0.0.1:8000"
WINDOW = (b"Sec-Fetch-Dest", b"document")
HTML = (b"Content-Type", b"text/html; charset=utf-8")


# --- the place in a document ---


def passed(pieces: Iterable[bytes], *, is_xml: bool = False) -> tuple[bytes, list[str]]:
    """Feed a document; return it as it passes, and the policies that were found in it."""
    found: list[str] = []
    document = Document(TAG, is_xml=is_xml, on_start=lambda start: found.extend(policies(start)))
    out = b"".join([document.feed(piece, is_last=False) for piece in pieces])
    return out + document.feed(b"", is_last=True), found


# The place of the tag is marked by `|`; without one there is none.
PLACES = [
    b"<html><head>|<title>x</title></head><body></body></html>",
    b"<!DOCTYPE html>\n<HTML lang=en>\n<HEAD>|</HEAD>",
    b"\xef\xbb\xbf<!doctype html><head>|",
    b"<head>|",
    b"<head/>|x",
    b"<head a=1 b = '>' c=\">\" d>|<meta>",
    b'<head a=b">|">',
    b"<head a='\">'>|",
    b"<head a=>|b>",
    b'<head ==">">|',
    b"<head a=\"b\"c='>'/>|",
    b"<head\n\t\f\ra\n=\n'>'\n>|",
    b"<html data-x='<head>'><head>|",
    b"<!-- <head> --><head>|",
    b"<!-- a --><!doctype html><!-- b --><html><!-- c --><head>|<!-- d -->",
    b"<!--><head>|-->",
    b"<!---><head>|-->",
    b"<!----><head>|",
    b"<!----!><head>|",
    b"<!--!><head>--><head>|",
    b"<!---!><head>--><head>|",
    b"<!-- --!><head>|-->",
    b"<!-- -- > <head> --><head>|",
    b'<!doctype html SYSTEM "a><head>|">',
    b"<?xml version='1.0'?><!doctype html><html><head>|",
    b"<![CDATA[ a ]]><head>|",
    b"<html><head>|<script>'</head>'</script><!-- </head> --></head>",
    # Without a head the first content has it before itself.
    b"<html>\n|<header>x</header>",
    b"|<header>x",
    b"|<heading>",
    b"|<htmlx>",
    b"<html>|<body>",
    b"<html>|</html>",
    b"|</head>x",
    b"<!doctype html>\n|<title>x</title><head>",
    b"<!doctype html>|<meta charset=utf-8>",
    b"|<p>x<head>",
    b"|hello",
    b' \n|{"a": 1}',
    b"|\xc3\xa9",
    b"|\xff\xfd",
    b"|<1",
    b"|< html>",
    # Nothing that it could stand before.
    b"",
    b" \n",
    b"\xef\xbb",
    b"\xef\xbb\xbf",
    b"<!doctype html>",
    b"<html>",
    b"<html",
    b"<head",
    b"<head a='>",
    b"<he",
    b"<",
    b"<!--",
    b"<!-- <head>",
    # Not in ASCII's bytes.
    "<html><head>".encode("utf-16"),
    "<html><head>".encode("utf-16-le"),
    "<html><head>".encode("utf-16-be"),
    "\ufeff<html><head>".encode("utf-16-be"),
    "<html><head>".encode("utf-32"),
    # Too long to be kept.
    b"<!--" + LONGEST_TOKEN * b"-" + b"--><head>",
    b"<head a='" + LONGEST_TOKEN * b"-" + b"'>",
    b"<!--" + (LONGEST_TOKEN - 7) * b"-" + b"--><head>|",
    LONGEST_TOKEN * b"  " + b"<head>|",
]
XML_PLACES = [
    b"<?xml version='1.0' x='?' y='>'?><!DOCTYPE html><html xmlns='http://www.w3.org/1999/xhtml'><head>|",
    b"<html>|<body/></html>",
    b"<html><head/>|<body/></html>",
    # Only the root may be an element of ours.
    b"<!DOCTYPE html [<!ENTITY a 'b'>]><html><head>",
    b"<svg><head></head></svg>",
    b"<h:html><h:head/></h:html>",
    b"<head></head>",
    b"<html/><!-- <head> -->",
    b"text",
]


def _case(marked: bytes) -> tuple[bytes, bytes]:
    return marked.replace(b"|", b""), marked.replace(b"|", TAG)


@pytest.mark.parametrize("marked", PLACES)
def test_the_tag_has_its_place_in_html(marked: bytes) -> None:
    document, expected = _case(marked)
    assert passed([document])[0] == expected


@pytest.mark.parametrize("marked", XML_PLACES)
def test_the_tag_has_its_place_in_xhtml(marked: bytes) -> None:
    document, expected = _case(marked)
    assert passed([document], is_xml=True)[0] == expected


@pytest.mark.parametrize("is_xml", [False, True])
@pytest.mark.parametrize("marked", [each for each in PLACES + XML_PLACES if len(each) < 300])
def test_a_document_may_come_byte_by_byte(marked: bytes, *, is_xml: bool) -> None:
    document, _ = _case(marked)
    pieces = [document[at : at + 1] for at in range(len(document))]
    assert passed(pieces, is_xml=is_xml)[0] == passed([document], is_xml=is_xml)[0]


FRAGMENTS = [
    *(
        b"<html",
        b"<head",
        b"<header",
        b"<body>",
        b"<!--",
        b"-->",
        b"--!>",
        b"<!doctype html>",
        b"<?xml",
        b"?>",
    ),
    *(
        b">",
        b"/>",
        b"<",
        b"=",
        b"'",
        b'"',
        b" ",
        b"\n",
        b"/",
        b"a",
        b"-",
        b"!",
        b"</",
        b"</head>",
        b"<script>",
    ),
    *(b"</script>", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"<x>", b";", b"connect-src"),
    b"<meta http-equiv=Content-Security-Policy content='",
    *(b"x" * LONGEST_TOKEN, b"\n" * LONGEST_TOKEN),
]


# Indices, because Hypothesis writes down what it draws.
@given(
    drawn=st.lists(st.integers(0, len(FRAGMENTS) - 1), max_size=30),
    sizes=st.lists(st.integers(1, 12) | st.just(LONGEST_TOKEN), min_size=1),
    is_xml=st.booleans(),
)
@example(drawn=[4, len(FRAGMENTS) - 2, 5, 1, 10], sizes=[LONGEST_TOKEN], is_xml=False)
def test_any_pieces_give_the_same_bytes(drawn: list[int], sizes: list[int], *, is_xml: bool) -> None:
    """And but for one tag they are the document's own."""
    document = b"".join(FRAGMENTS[index] for index in drawn)
    pieces, at = [], 0
    for size in itertools.cycle(sizes):
        if at >= len(document):
            break
        pieces.append(document[at : at + size])
        at += size
    whole, policies = passed([document], is_xml=is_xml)
    assert passed(pieces, is_xml=is_xml) == (whole, policies)
    assert whole.replace(TAG, b"", 1) == document


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"<!doctype html><!-- a -->\n<ht"], b"<!doctype html><!-- a -->\n"),
        ([b"<html lang=en><he"], b"<html lang=en>"),
        ([b"<head><title>sl"], b"<head>" + TAG + b"<title>sl"),
        ([b"<head>", b"<title>", b"x", b"<"], b"<head>" + TAG + b"<title>x<"),
        ([b"hello"], TAG + b"hello"),
    ],
)
def test_what_is_decided_passes_at_once(pieces: list[bytes], expected: bytes) -> None:
    document = Document(TAG, is_xml=False, on_start=lambda _: None)
    assert b"".join([document.feed(piece, is_last=False) for piece in pieces]) == expected


# --- policies in a document ---

POLICY = b'<meta http-equiv="Content-Security-Policy" content="connect-src &#39;none&#39;">'


@pytest.mark.parametrize(
    "head",
    [
        b"<head>" + POLICY,
        b"<head>" + POLICY + b"</head><body>",
        b"<head>" + POLICY + b"<body>",
        b"<!doctype html>" + POLICY,
        b"<head><title><meta></title><script>'</head>'</script><!-- <body> -->" + POLICY,
        b"<head><META CONTENT=\"connect-src 'none'\" HTTP-EQUIV=content-security-policy content=x>",
        b"<head>" + b" " * (WATCHED - len(POLICY)) + POLICY,
    ],
)
def test_a_policy_of_the_head_is_found(head: bytes) -> None:
    assert passed([head])[1] == ["connect-src 'none'"]


@pytest.mark.parametrize(
    "head",
    [
        b"<head></head>" + POLICY,
        b"<head><body>" + POLICY,
        b"<head><!-- " + POLICY + b"-->",
        b"<head><script>'" + POLICY + b"'</script>",
        b"<head><style>" + POLICY,
        b"<head><title>" + POLICY + b"</title>",
        b"<head><noscript>" + POLICY + b"</noscript>",
        b"<head>" + POLICY.replace(b"Policy", b"Policy-Report-Only"),
        b"<head>" + POLICY[:-1],
        b"<head>" + b" " * WATCHED + POLICY,
        b"<!-- " + POLICY + b" --><head>",
    ],
)
def test_what_looks_like_a_policy_is_none(head: bytes) -> None:
    assert passed([head])[1] == []


# --- which answers ---


class Run:
    """An injector, and the notices that it gave."""

    def __init__(self, **settings: object) -> None:
        self.notices: list[Notice] = []
        bus = Bus()
        bus.subscribe(lambda event: self.notices.append(event) if isinstance(event, Notice) else None)
        self.vites: list[Address] = []
        reload = ReloadSettings(**settings)  # type: ignore[arg-type] # each its own type
        self.injector = Injector(reload, bus, vites=lambda: self.vites)

    def asks(self, *fields: tuple[bytes, bytes], method: bytes = b"GET") -> RequestHead | None:
        return self.injector.asks(request_head(method, b"/x", list(fields)))

    def begin(
        self,
        *fields: tuple[bytes, bytes],
        status: int = 200,
        method: bytes = b"GET",
        upstream: UpstreamName = "backend",
        asked: Headers | None = None,
    ) -> Page | None:
        request = replace(request_head(method, b"/x", [WINDOW, *(asked or [])]), host=HOST)
        return self.injector.begin(request, ResponseHead.of(status, [HTML, *fields]), upstream)


def head_of(page: Page | None) -> list[bytes]:
    assert page is not None
    return page.head.lines


def body_of(page: Page | None, body: bytes = b"<head>") -> bytes:
    assert page is not None
    assert page.feed is not None
    return page.feed(body, is_last=True)


@pytest.mark.parametrize(
    "fields",
    [
        [(b"Sec-Fetch-Dest", b"document"), (b"Sec-Fetch-Mode", b"navigate")],
        [(b"Sec-Fetch-Dest", b"iframe")],
        [(b"Sec-Fetch-Dest", b"frame")],
        [(b"Accept", b"text/html,*/*;q=0.8")],
        [(b"Accept", b"text/html"), (b"Via", b"1.1 nginx")],
        [(b"Accept", b"text/html"), (b"X-Requested-With", b"com.example.webview")],
    ],
)
def test_what_is_opened_in_a_window_may_be_a_page(fields: Headers) -> None:
    assert Run().asks(*fields) is not None
    assert Run().asks(*fields, method=b"POST") is not None


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"Accept", b"*/*")],
        [(b"Sec-Fetch-Dest", b"empty"), (b"Accept", b"text/html")],
        [(b"Sec-Fetch-Dest", b"embed"), (b"Sec-Fetch-Mode", b"navigate")],
        [(b"Sec-Fetch-Mode", b"cors"), (b"Accept", b"text/html")],
        [(b"Accept", b"text/html"), (b"HX-Request", b"true")],
        [WINDOW, (b"Turbo-Frame", b"messages")],
        [(b"Accept", b"text/html, */*"), (b"X-Requested-With", b"XMLHttpRequest")],
        [WINDOW, (b"Via", b"1.1 orchestra")],
        [WINDOW, (b"Via", b"1.1 nginx, 1.1 orchestra")],
        [WINDOW, (b"Connection", b"upgrade"), (b"Upgrade", b"websocket")],
    ],
)
def test_what_is_not_opened_in_a_window_is_no_page(fields: Headers) -> None:
    assert Run().asks(*fields) is None


def test_identity_is_asked_for_where_a_page_may_come() -> None:
    asked = Run().asks(WINDOW, (b"accept-encoding", b"gzip"), (b"A", b"1"), (b"Accept-Encoding", b"br"))
    assert asked is not None
    assert asked.lines == [b"Sec-Fetch-Dest: document", b"accept-encoding: identity", b"A: 1"]
    assert asked.values == {b"sec-fetch-dest": b"document", b"accept-encoding": b"identity", b"a": b"1"}
    plain = request_head(b"GET", b"/", [WINDOW])
    assert Run().injector.asks(plain) is plain


@pytest.mark.parametrize(
    ("settings", "sides"),
    [
        ({}, {"backend", "frontend", "orchestra"}),
        ({"overlay": False}, {"backend", "orchestra"}),
        ({"overlay": False, "console": True}, {"backend", "frontend", "orchestra"}),
        ({"overlay": False, "pages": "all"}, {"backend", "frontend", "orchestra"}),
        ({"pages": "none"}, {"backend", "frontend"}),
        ({"overlay": False, "pages": "none"}, set()),
    ],
)
def test_the_settings_say_whose_pages_need_the_script(settings: dict[str, object], sides: set[str]) -> None:
    run = Run(**settings)
    names: tuple[UpstreamName, ...] = ("backend", "frontend", "orchestra")
    assert {name for name in names if run.begin(upstream=name) is not None} == sides
    assert (run.asks(WINDOW) is not None) is bool(sides)
    assert bool(run.injector.tag(request_head(b"GET", b"/", [WINDOW]), 502)) is ("orchestra" in sides)


@pytest.mark.parametrize(
    ("more", "attributes"),
    [
        ({}, b'data-page="backend"'),
        ({"upstream": "frontend"}, b'data-page="frontend"'),
        ({"method": b"POST"}, b'data-page="backend" data-method="POST"'),
        ({"status": 500}, b'data-page="backend" data-status="500"'),
        ({"method": b"POST", "status": 422}, b'data-page="backend" data-method="POST" data-status="422"'),
    ],
)
def test_the_tag_says_what_the_page_is(more: dict[str, object], attributes: bytes) -> None:
    page = Run().begin(**more)  # type: ignore[arg-type] # each its own type
    tag = b'<script src="/__orchestra__/client.js" async="" ' + attributes + b"></script>"
    assert body_of(page) == b"<head>" + tag


def test_the_tag_has_the_nonce_of_the_page() -> None:
    run = Run()
    page = run.begin((b"Content-Security-Policy", b"script-src 'nonce-YWJj' 'strict-dynamic'"))
    assert b' nonce="YWJj">' in body_of(page)
    assert run.notices == []


@pytest.mark.parametrize(
    "content_type",
    [
        b"text/html",
        b"Text/HTML;Charset=UTF-8",
        b'text/html; charset="utf-8"',
        b"text/html; charset=ISO-8859-1",
        b"text/html;charset=windows-1252",
        b"text/html; charset=Shift_JIS",
        b"application/xhtml+xml",
    ],
)
def test_html_gets_the_script(content_type: bytes) -> None:
    head = ResponseHead.of(200, [(b"Content-Type", content_type)])
    page = Run().injector.begin(request_head(b"GET", b"/", [WINDOW]), head, "backend")
    assert b"<script" in body_of(page, b"<html><head>")


@pytest.mark.parametrize(
    ("status", "fields"),
    [
        (200, []),
        *(
            (200, [(b"Content-Type", value)])
            for value in (
                b"text/plain",
                b"application/json",
                b"text/event-stream",
                b"image/svg+xml",
                b"text/html; charset=utf-16",
                b"text/html; charset=UTF-7",
                b"text/html; charset=iso-2022-jp",
                b"text/html; charset=unknown",
            )
        ),
        (200, [HTML, (b"Content-Disposition", b'Attachment; filename="x.html"')]),
        (200, [HTML, (b"Content-Length", b"0")]),
        (200, [HTML, (b"Cache-Control", b"private, no-transform")]),
        (204, [HTML]),
        (205, [HTML]),
        (302, [HTML, (b"Location", b"/y")]),
        (304, []),
        (304, [(b"ETag", b'"a"')]),
    ],
)
def test_what_is_no_document_passes_as_it_is(status: int, fields: Headers) -> None:
    run = Run()
    head = ResponseHead.of(status, fields)
    assert run.injector.begin(request_head(b"GET", b"/", [WINDOW]), head, "backend") is None
    assert run.notices == []


def test_a_failure_as_text_becomes_a_page() -> None:
    """`Internal Server Error` as text has no script: it could not be loaded again when it is mended."""
    run = Run()
    request = request_head(b"GET", b"/", [WINDOW])
    head = ResponseHead.of(500, [(b"Content-Type", b"text/plain; charset=utf-8"), (b"Content-Length", b"9")])
    page = run.injector.begin(request, head, "backend")
    assert head_of(page) == [b"Content-Type: text/html; charset=utf-8"]
    body = body_of(page, b"<a> & b")
    assert body.count(b"<script") == 1
    assert body.endswith(b">&lt;a&gt; &amp; b")
    # That of another upstream stays as it is.
    assert run.injector.begin(request, head, "frontend") is None


# --- the head of a page ---

TRUE_ONCE: Headers = [
    (b"Content-Length", b"10"),
    (b"ETag", b'"a"'),
    (b"Digest", b"sha-256=x"),
    (b"Content-Digest", b"sha-256=:x:"),
    (b"Repr-Digest", b"sha-256=:x:"),
    (b"Content-MD5", b"x"),
    (b"Accept-Ranges", b"bytes"),
    (b"Trailer", b"X-Sum"),
    (b"Last-Modified", b"Sun, 29 Nov 2026 00:00:00 GMT"),
    (b"Set-Cookie", b"a=1"),
    (b"Set-Cookie", b"b=2"),
]
STILL_TRUE = [
    b"Content-Type: text/html; charset=utf-8",
    b'ETag: W/"a"',
    b"Last-Modified: Sun, 29 Nov 2026 00:00:00 GMT",
    b"Set-Cookie: a=1",
    b"Set-Cookie: b=2",
]


@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_a_head_says_only_what_is_still_true(method: bytes) -> None:
    page = Run().begin(*TRUE_ONCE, method=method)
    assert head_of(page) == STILL_TRUE
    assert page is not None
    assert page.head.length is None
    assert page.head.values == {
        b"content-type": b"text/html; charset=utf-8",
        b"etag": b'W/"a"',
        b"last-modified": b"Sun, 29 Nov 2026 00:00:00 GMT",
        b"set-cookie": b"a=1, b=2",
    }
    assert (page.feed is None) == (method == b"HEAD")


def test_a_part_of_a_document_keeps_its_bytes_and_their_length() -> None:
    page = Run().begin(*TRUE_ONCE, (b"Content-Range", b"bytes 0-9/20"), status=206)
    assert head_of(page) == [
        STILL_TRUE[0],
        b"Content-Length: 10",
        *STILL_TRUE[1:],
        b"Content-Range: bytes 0-9/20",
    ]
    assert page is not None
    assert page.feed is None
    assert page.head.length == 10


@pytest.mark.parametrize(
    ("has", "etag", "passes"),
    [
        (b'W/"a"', b'"a"', b'ETag: W/"a"'),
        (b'W/"b", W/"a"', b'"a"', b'ETag: W/"a"'),
        (b'W/"a"', b'W/"a"', b'ETag: W/"a"'),
        (b'"a"', b'"a"', None),  # a file that has no script, or a page from before
    ],
)
def test_unchanged_is_what_the_client_has(has: bytes, etag: bytes, passes: bytes | None) -> None:
    run = Run()
    answer = ResponseHead.of(304, [(b"ETag", etag), (b"Content-Length", b"10")])
    page = run.injector.begin(
        request_head(b"GET", b"/", [WINDOW, (b"If-None-Match", has)]), answer, "backend"
    )
    assert (page and page.head.lines) == (passes and [passes])
    assert page is None or page.feed is None


# --- what is never changed, and told once ---


def test_a_policy_is_never_loosened_and_there_is_one_notice() -> None:
    run = Run()
    for nonce in (b"YQ==", b"Yg=="):
        policy = b"script-src 'nonce-" + nonce + b"'; connect-src 'none'"
        assert run.begin((b"Content-Security-Policy", policy)) is None
    assert [(each.code, each.level) for each in run.notices] == [("page-policy", "warning")]
    assert "the backend forbids orchestra's script (connect-src 'none')" in run.notices[0].text
    assert "'self'" in run.notices[0].hint
    assert run.begin((b"Content-Security-Policy", b"sandbox"), method=b"HEAD") is None
    assert len(run.notices) == 2
    assert run.begin((b"Content-Security-Policy-Report-Only", b"sandbox")) is not None
    assert len(run.notices) == 2


def test_policies_of_several_headers_all_count() -> None:
    name = b"Content-Security-Policy"
    run = Run()
    assert run.begin((name, b"default-src 'self'"), (name, b"script-src 'none'")) is None
    assert "(script-src 'none')" in run.notices[0].text


def test_a_policy_in_the_document_comes_too_late_for_the_script_but_not_for_its_socket() -> None:
    run = Run()
    for policy in (b"script-src 'none'", b"connect-src 'self'"):
        body_of(run.begin(), b'<head><meta http-equiv=content-security-policy content="%b">' % policy)
    assert run.notices == []
    for _ in range(2):
        assert b"<script" in body_of(run.begin(), b"<head>" + POLICY)
    assert [each.code for each in run.notices] == ["page-policy"]


VITES = [Address("127.0.0.1", 5174), Address("::1", 5175)]


@pytest.mark.parametrize(
    ("named", "vites", "place"),
    [
        (b"http://localhost:5173", VITES, "localhost:5173"),
        (b"//localhost:5173/static/vite", VITES, "localhost:5173"),
        (b"http://[::1]:5173/a/b", VITES, "[::1]:5173"),
        (b"https://dev.example", VITES, "dev.example"),
        # It is ours, or there is none of ours that it could be taken for.
        (b"http://127.0.0.1:8000/static", VITES, None),
        (b"http://localhost:8000", VITES, None),
        (b"http://localhost:5174", VITES, None),
        (b"http://192.168.0.5:5175", VITES, None),
        (b"/static", VITES, None),
        (b"", VITES, None),
        (b"http://localhost:5173", [], None),
    ],
)
def test_a_vite_that_is_not_ours_gets_a_notice(named: bytes, vites: list[Address], place: str | None) -> None:
    run = Run()
    run.vites = vites
    body = (
        b"<head><title>//x.example/</title>" + b"<script type=module src='%b/@vite/client'></script>" % named
    )
    for _ in range(2):
        assert body_of(run.begin(), body).endswith(body.removeprefix(b"<head>"))
    said = f"a page loads Vite's client from {place}, but the Vite of this run is at 127.0.0.1:5174"
    assert [each.text for each in run.notices] == ([said] if place else [])
    assert all('"dev_server_port": os.environ.get("ORCHESTRA_PORT")' in each.hint for each in run.notices)


@pytest.mark.parametrize("coding", [b"gzip", b"deflate", b"br", b"zstd", b"GZIP"])
def test_a_compressed_page_passes_with_one_notice(coding: bytes) -> None:
    run = Run()
    for _ in range(2):
        assert run.begin((b"Content-Encoding", coding)) is None
    assert [each.code for each in run.notices] == ["page-compressed"]
    assert f"the backend sends pages as {coding.decode().lower()}" in run.notices[0].text
    assert run.begin((b"Content-Encoding", b"identity")) is not None


def test_notices_have_an_end() -> None:
    run = Run()
    run.begin((b"Content-Security-Policy", b"connect-src" + b" https://h.example" * 100))
    assert run.notices.pop().text.count("https://h.example") == 5
    for number in range(99):
        run.begin((b"Content-Security-Policy", b"connect-src http://h%d" % number))
    assert len(run.notices) == 19
