"""What orchestra says itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from orchestra.proxy.answers import Message, render
from orchestra.proxy.forward import forwarded_response
from tests.proxy_kit import request_head

if TYPE_CHECKING:
    from orchestra.proxy.head import RequestHead

GONE = Message(
    status=502,
    title="The backend is not there",
    text="api has failed: exit code 1.",
    hint="<mend> it",
    tail=("Traceback", "  <script>alert(1)</script>"),
)
NAVIGATES = request_head(b"GET", b"/x", [(b"Accept", b"text/html,*/*")])


def test_a_navigation_gets_a_page_that_reloads_itself() -> None:
    head, body = render(GONE, NAVIGATES)
    page = body.decode()
    assert (head.start, head.media_type) == (b"HTTP/1.1 502 Bad Gateway", b"text/html")
    assert '<meta http-equiv="refresh" content="1">' in page
    assert "api has failed: exit code 1." in page
    assert "Traceback" in page
    assert "color-scheme: light dark" in page


def test_nothing_from_outside_becomes_markup() -> None:
    page = render(GONE, NAVIGATES)[1].decode()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;mend&gt; it" in page


def test_a_refusal_does_not_look_again() -> None:
    page = render(Message(status=403, title="No", text="no."), NAVIGATES)[1].decode()
    assert "http-equiv" not in page
    assert "again" not in page


@pytest.mark.parametrize(
    "accept", [b"application/json", b"application/json, text/plain, */*", b"application/problem+json"]
)
def test_programs_get_json(accept: bytes) -> None:
    head, body = render(GONE, request_head(b"GET", b"/x", [(b"Accept", accept)]))
    assert head.media_type == b"application/json"
    assert json.loads(body) == {
        "error": "The backend is not there",
        "detail": "api has failed: exit code 1.",
        "hint": "<mend> it",
        "output": ["Traceback", "  <script>alert(1)</script>"],
    }


@pytest.mark.parametrize(
    "head", [None, request_head(b"GET", b"/", [(b"Accept", b"*/*")]), request_head(b"POST", b"/", [])]
)
def test_any_other_request_gets_text(head: RequestHead | None) -> None:
    answered, body = render(GONE, head)
    assert answered.media_type == b"text/plain"
    assert body.decode().startswith(
        "The backend is not there: api has failed: exit code 1.\n<mend> it\n\nTraceback\n"
    )


@pytest.mark.parametrize(
    ("status", "retry"), [(400, None), (403, None), (502, b"1"), (504, None), (508, None)]
)
def test_answers_are_never_cached_and_say_when_to_come_back(status: int, retry: bytes | None) -> None:
    head, body = render(Message(status=status, title="x", text="y"), NAVIGATES)
    assert head.values[b"cache-control"] == b"no-store"
    assert head.values.get(b"retry-after") == retry
    assert head.values[b"content-length"] == b"%d" % len(body)
    assert b"X-Orchestra-Upstream: orchestra\r\n" in forwarded_response(head, "orchestra")


def test_head_gets_the_length_of_what_get_would_get() -> None:
    head, body = render(GONE, request_head(b"HEAD", b"/x", []))
    assert body == b""
    assert head.values[b"content-length"] != b"0"


def test_text_that_is_no_utf_8_does_not_break_the_answer() -> None:
    assert b"?" in render(Message(status=502, title="x", text="\udcff"), NAVIGATES)[1]
