"""HTTP over a transport, both roles back to back: what one side says is what the other one hears."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
import trio.testing
from hypothesis import given, settings, strategies as st

from orchestra.proxy.message import RequestHead, ResponseHead
from orchestra.proxy.wire import ClientSide, End, UpstreamSide
from tests.proxy_kit import memory_pair

if TYPE_CHECKING:
    from orchestra.proxy.message import Headers

bodies = st.lists(st.binary(min_size=1, max_size=100) | st.integers(1, 90_000).map(bytes), max_size=5)
framings = st.sampled_from(["length", "chunked", "until-close"])


async def read_body(side: ClientSide | UpstreamSide) -> tuple[bytes, Headers]:
    body = b""
    while not isinstance(event := side.next_event(), End):
        if event is None:
            await side.fill()
        else:
            body += event
    return body, event.trailers


@given(sent=bodies, answered=bodies, framing=framings)
@settings(deadline=None, max_examples=50)
async def test_what_one_side_says_the_other_one_hears(
    sent: list[bytes], answered: list[bytes], framing: str
) -> None:
    # Of few bytes at a time, so that nothing arrives in one piece.
    ours, theirs = memory_pair(capacity=777)
    upstream, client = UpstreamSide(ours), ClientSide(theirs)
    fields: Headers = [(b"hOsT", b"localhost"), (b"A", b"1"), (b"a", b"2")]
    if framing == "length":
        fields.append((b"Content-Length", b"%d" % len(b"".join(sent))))
    else:
        fields.append((b"Transfer-Encoding", b"chunked"))
    request = RequestHead(b"POST", b"/x?y=%20", fields)
    trailers: Headers = [] if framing == "length" else [(b"X-Sum", b"1")]

    async def ask() -> None:
        await upstream.send(upstream.encode_request(request))
        for part in sent:
            await upstream.send(b"".join(upstream.encode_data(part)))
        await upstream.send(upstream.encode_end(trailers))

    async def answer() -> None:
        headers: Headers = [(b"Set-Cookie", b"a"), (b"set-cookie", b"b")]
        if framing == "length":
            headers.append((b"Content-Length", b"%d" % len(b"".join(answered))))
        await client.send(client.encode_informational(ResponseHead(103, [(b"Link", b"x")])))
        head = ResponseHead(299, headers, b"Quite Fine")
        await client.send(client.encode_response(head, close=framing == "until-close"))
        for part in answered:
            await client.send(b"".join(client.encode_data(part)))
        await client.send(client.encode_end(trailers))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        assert await client.wait_for_request()
        heard = await client.read_head()
        assert (heard.method, heard.target, heard.headers) == (b"POST", b"/x?y=%20", fields)
        if heard.has_body:
            assert await read_body(client) == (b"".join(sent), trailers)
        assert client.is_body_read
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        assert (await upstream.read_head()).status == 103
        head = await upstream.read_head()
        assert (head.status, head.reason) == (299, b"Quite Fine")
        assert head.headers[:2] == [(b"Set-Cookie", b"a"), (b"set-cookie", b"b")]
        assert await read_body(upstream) == (b"".join(answered), trailers)
    assert client.is_reusable() is upstream.is_reusable() is (framing != "until-close")
