"""Chunked bodies, to the byte."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from orchestra.proxy.chunks import ChunkJudge
from orchestra.proxy.message import BadMessage


def watch(judge: ChunkJudge, body: bytes, pieces: list[int]) -> None:
    for size in itertools.cycle(pieces):
        if not body:
            return
        judge.feed(body[:size])
        body = body[size:]


@pytest.mark.parametrize(
    "body",
    [
        b"0\r\n\r\n",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"003\r\nabc\r\n000\r\n\r\n",
        b"A;name=value;flag\r\n0123456789\r\n0;last\r\nX-Sum: 1\r\nx-two:\t2 \r\n\r\n",
        b"3 \r\n\r\n\n\r\n0\r\n\r\n",
    ],
)
@given(pieces=st.lists(st.integers(1, 20), min_size=1))
def test_what_is_strictly_chunked_passes_in_any_pieces_and_what_follows_is_not_looked_at(
    body: bytes, pieces: list[int]
) -> None:
    watch(ChunkJudge(), body + b"zzz\n\0", pieces)


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
        (b"1;" + b"x" * 100 + b"\r\n", "too long"),
        (b"0\r\n" + b"X: 0123456789\r\n" * 10, "too long"),
    ],
)
@given(pieces=st.lists(st.integers(1, 20), min_size=1))
def test_what_is_not_is_refused_in_any_pieces(body: bytes, message: str, pieces: list[int]) -> None:
    with pytest.raises(BadMessage, match=message):
        watch(ChunkJudge(max_line=100), body, pieces)
