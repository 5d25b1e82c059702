"""Bodies: chunked ones to the byte, and what their receiver gets in each framing."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, strategies as st

from orchestra.proxy.framing import ChunkedBody, LengthBody, answer_body, request_body
from orchestra.proxy.head import MAX_HEAD, BadMessage, ResponseHead
from tests.proxy_kit import request_head

if TYPE_CHECKING:
    from orchestra.proxy.framing import Body

HEAD = ResponseHead.of(200, [(b"Transfer-Encoding", b"chunked")])


def feed(reader: Body, body: bytes, pieces: list[int]) -> tuple[bytes, bytes]:
    """Feed a body in pieces until it is complete; return what its receiver gets, and what is left over."""
    passed = rest = b""
    for size in itertools.cycle(pieces):
        if reader.is_complete or not body:
            break
        passed += reader.feed(rest + body[:size])
        rest, body = reader.rest, body[size:]
    return passed, rest + body


@pytest.mark.parametrize(
    ("body", "passed", "payload"),
    [
        (b"0\r\n\r\n", None, b""),
        (b"3\r\nabc\r\n0\r\n\r\n", None, b"abc"),
        (b"003\r\nabc\r\n000\r\n\r\n", b"003\r\nabc\r\n0\r\n\r\n", b"abc"),
        (
            b"A;name=value;flag\r\n0123456789\r\n0;last\r\nX-Sum: 1\r\nx-two:\t2 \r\nCookie: a\r\n\r\n",
            b"A\r\n0123456789\r\n0\r\nX-Sum: 1\r\nx-two: 2\r\n\r\n",
            b"0123456789",
        ),
        (b"3 \r\n\r\n\n\r\n0\r\n\r\n", b"3\r\n\r\n\n\r\n0\r\n\r\n", b"\r\n\n"),
    ],
)
@given(pieces=st.lists(st.integers(1, 20), min_size=1))
def test_a_chunked_body_passes_in_any_pieces_up_to_its_end(
    body: bytes, passed: bytes | None, payload: bytes, pieces: list[int]
) -> None:
    for has_chunks, expected in ((True, passed or body), (False, payload)):
        reader = ChunkedBody(HEAD, has_chunks=has_chunks)
        assert feed(reader, body + b"zzz\n\0", pieces) == (expected, b"zzz\n\0")
        assert reader.is_complete
        assert reader.size == len(payload)


def test_what_is_plain_passes_without_a_copy() -> None:
    data = b"3\r\nabc\r\n" * 3
    assert ChunkedBody(HEAD).feed(data) is data
    assert LengthBody(len(data)).feed(data) is data


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"3\nabc\r\n", "ends without CR LF"),
        (b"3\r\nabc\n", "ends without CR LF"),
        (b"3\r\nabcd\r\n", "longer than its size"),
        (b"0\r\n\n", "ends without CR LF"),
        (b"0\r\nX: 1\n\r\n", "ends without CR LF"),
        (b"0\r\nX: 1\r\n folded\r\n\r\n", "folded"),
        (b"0\r\nX: \x01\r\n\r\n", "control byte"),
        (b"0\r\nX : 1\r\n\r\n", "illegal header line"),
        (b"0\r\nContent-Length: 3\r\n\r\n", "Content-Length in a trailer"),
        (b"0\r\ntransfer-encoding: chunked\r\n\r\n", "transfer-encoding in a trailer"),
        (b"0\r\nHost: x\r\n\r\n", "Host in a trailer"),
        (b"3;a=\x01\r\nabc\r\n", "illegal size"),
        (b"\r\n", "illegal size"),
        (b"-1\r\n", "illegal size"),
        (b"0x3\r\nabc\r\n", "illegal size"),
        (b" 3\r\nabc\r\n", "illegal size"),
        (b"1000000000000000\r\n", "illegal size"),
    ],
)
@given(pieces=st.lists(st.integers(1, 20), min_size=1))
def test_what_is_not_is_refused_in_any_pieces(body: bytes, message: str, pieces: list[int]) -> None:
    with pytest.raises(BadMessage, match=message):
        feed(ChunkedBody(HEAD), body, pieces)


@pytest.mark.parametrize(
    "body", [b"1;" + b"x" * MAX_HEAD + b"\r\n", b"0\r\n" + b"X: 0123456789\r\n" * (MAX_HEAD // 15 + 1)]
)
@pytest.mark.parametrize("size", [1000, 1_000_000])
def test_lines_and_trailers_that_are_too_long_are_refused(body: bytes, size: int) -> None:
    with pytest.raises(BadMessage, match="too long"):
        feed(ChunkedBody(HEAD), body, [size])


def test_trailers_that_route_authorise_or_are_named_by_connection_are_dropped() -> None:
    headers = [(b"Connection", b"close, X-Private"), (b"Transfer-Encoding", b"chunked")]
    reader = answer_body(ResponseHead.of(200, headers), request_head(b"GET", b"/", []))
    trailers = b"Server-Timing: a\r\nAuthorization: b\r\nx-private: c\r\n\r\n"
    assert reader.feed(b"0\r\n" + trailers) == b"0\r\nServer-Timing: a\r\n\r\n"


@given(size=st.integers(1, 50), pieces=st.lists(st.integers(1, 20), min_size=1))
def test_a_body_with_a_length_ends_there(size: int, pieces: list[int]) -> None:
    reader = request_body(request_head(b"POST", b"/", [], length=size))
    assert feed(reader, b"x" * size + b"rest", pieces) == (b"x" * size, b"rest")
    assert reader.close() is None


@pytest.mark.parametrize(
    ("version", "passed", "end"), [(b"1.1", b"3\r\nabc\r\n", b"0\r\n\r\n"), (b"1.0", b"abc", b"")]
)
def test_a_body_until_close_is_chunked_for_http_1_1_clients(
    version: bytes, passed: bytes, end: bytes
) -> None:
    request = request_head(b"GET", b"/", [], version=version)
    reader = answer_body(ResponseHead.of(200, []), request)
    assert reader.feed(b"abc") == passed
    assert not reader.is_complete
    assert reader.close() == end
    assert reader.is_complete
    assert reader.ends_by_close is (version == b"1.0")


@pytest.mark.parametrize(
    ("method", "status", "length", "has_chunks"),
    [
        (b"HEAD", 200, None, True),
        (b"HEAD", 200, 7, False),
        (b"GET", 204, None, False),
        (b"GET", 304, 7, False),
    ],
)
def test_some_answers_have_no_body_whatever_they_say(
    method: bytes, status: int, length: int | None, *, has_chunks: bool
) -> None:
    headers = [] if length is None else [(b"Content-Length", b"%d" % length)]
    reader = answer_body(ResponseHead.of(status, headers), request_head(method, b"/", []))
    assert reader.is_complete
    assert reader.has_chunks is has_chunks
