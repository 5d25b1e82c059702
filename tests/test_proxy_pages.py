"""Pages that get the script on their way, as a dialogue with the browser and the upstreams.

Each is played in memory, and again over real sockets. Which documents are changed, and where, is shown in
`test_control_inject`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from orchestra.bus import Bus
from orchestra.config.plan import UNDECIDED
from orchestra.config.schema import ReloadSettings
from orchestra.control.inject import Injector
from orchestra.control.pages import PageBody
from orchestra.events import Notice, State
from orchestra.proxy.framing import ChunkedBody, ClosingBody, LengthBody
from orchestra.proxy.head import ResponseHead
from orchestra.proxy.server import Extras
from tests.proxy_kit import BACKEND_PORT, elsewhere, header, headers_of, stage

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    import trio.testing

    from orchestra.events import Event
    from orchestra.proxy.framing import Body
    from tests.proxy_kit import Stage, Talker

NAVIGATES = (
    b"Host: localhost:8000\r\nAccept: text/html,*/*;q=0.8\r\nAccept-Encoding: gzip, br\r\n"
    b"Sec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
)
HTML = b"Content-Type: text/html; charset=utf-8\r\n"
TAG = b'<script src="/__orchestra__/client.js" async="" data-page="backend"></script>'
PAGE = b"<!doctype html><html><head><title>x</title></head>\n</html>"
CHANGED = PAGE.replace(b"<head>", b"<head>" + TAG)


@pytest.fixture
def autojump_clock(clock_of_each_world: trio.testing.MockClock) -> trio.testing.MockClock:
    return clock_of_each_world


def opened(bus: Bus | None = None, **settings: Any) -> AbstractAsyncContextManager[Stage]:
    return stage(extras=Extras(pages=Injector(ReloadSettings(), bus or Bus())), **settings)


def get(
    target: bytes = b"/x", fields: bytes = NAVIGATES, method: bytes = b"GET", version: bytes = b"1.1"
) -> bytes:
    return method + b" " + target + b" HTTP/" + version + b"\r\n" + fields + b"\r\n"


def sized(body: bytes = PAGE, fields: bytes = HTML, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, fields, len(body), body)


async def body_of(talker: Talker, head: bytes) -> bytes:
    """Hear the body that follows a head, by its framing."""
    if header(head, b"transfer-encoding") is None:
        length = header(head, b"content-length")
        return await talker.hears_end() if length is None else await talker.hears(int(length))
    body = b""
    while size := int((await talker.hears_until(b"\r\n"))[:-2], 16):
        body += await talker.hears(size)
        assert await talker.hears(2) == b"\r\n"
    assert await talker.hears(2) == b"\r\n"
    return body


async def asked(on: Stage, request: bytes) -> tuple[Talker, Talker]:
    """A browser asks the backend."""
    client = on.client()
    await client.says(request)
    backend = await on.backend()
    await backend.hears_head()
    return client, backend


async def test_a_page_gets_the_script_and_no_length(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as on:
        client = on.client()
        await client.says(get())
        backend = await on.backend()
        head = await backend.hears_head()
        assert header(head, b"accept-encoding") == b"identity"
        assert header(head, b"sec-fetch-dest") == b"document"
        await backend.says(sized(fields=HTML + b'ETag: "a"\r\nAccept-Ranges: bytes\r\n'))
        head = await client.hears_head()
        assert headers_of(head) == [
            (b"Content-Type", b"text/html; charset=utf-8"),
            (b"ETag", b'W/"a"'),
            (b"X-Orchestra-Upstream", b"backend"),
            (b"Transfer-Encoding", b"chunked"),
        ]
        assert await body_of(client, head) == CHANGED
        assert (await on.finished()).bytes_out == len(CHANGED)
        # Both connections serve again.
        await client.says(get())
        await backend.hears_head()
        await backend.says(sized(b"hello"))
        assert await body_of(client, await client.hears_head()) == TAG + b"hello"


async def test_what_is_not_opened_in_a_window_is_untouched(autojump_clock: trio.testing.MockClock) -> None:
    fields = NAVIGATES.replace(b"navigate", b"cors").replace(b"document", b"empty")
    async with opened() as on:
        client = on.client()
        await client.says(get(fields=fields))
        backend = await on.backend()
        assert header(await backend.hears_head(), b"accept-encoding") == b"gzip, br"
        await backend.says(sized())
        assert await body_of(client, await client.hears_head()) == PAGE


async def test_a_page_that_is_no_document_is_untouched(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as on:
        client, backend = await asked(on, get())
        await backend.says(sized(fields=b"Content-Type: application/pdf\r\nAccept-Ranges: bytes\r\n"))
        head = await client.hears_head()
        assert header(head, b"accept-ranges") == b"bytes"
        assert await body_of(client, head) == PAGE


async def test_a_streamed_page_passes_as_it_comes(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as on:
        client, backend = await asked(on, get())
        await backend.says(b"HTTP/1.1 200 OK\r\n" + HTML + b"Transfer-Encoding: chunked\r\n\r\n")
        await client.hears_head()
        await backend.says(b"10;x\r\n<!doctype html>\n\r\n")
        assert await client.hears(22) == b"10\r\n<!doctype html>\n\r\n"
        await backend.says(b"3\r\n<he\r\n3\r\nad>\r\n")
        expected = b"<head>" + TAG
        assert await client.hears(len(expected) + 6) == b"%x\r\n%b\r\n" % (len(expected), expected)
        await backend.says(b"1\r\nx\r\n")
        assert await client.hears(6) == b"1\r\nx\r\n"
        await backend.says(b"0\r\nX-Sum: 1\r\n\r\n")
        assert await client.hears(5) == b"0\r\n\r\n"
        assert (await on.finished()).bytes_out == 16 + len(expected) + 1


async def test_a_page_may_end_with_its_connection(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as on:
        client, backend = await asked(on, get())
        await backend.says(b"HTTP/1.1 200 OK\r\n" + HTML + b"\r\n" + PAGE)
        backend.leaves()
        assert await body_of(client, await client.hears_head()) == CHANGED
        assert (await on.finished()).outcome == "complete"


@pytest.mark.parametrize(
    "framing", [b"", b"Transfer-Encoding: chunked\r\n", b"Content-Length: %d\r\n" % len(PAGE)]
)
async def test_an_old_client_sees_the_end_of_the_connection(
    autojump_clock: trio.testing.MockClock, framing: bytes
) -> None:
    async with opened() as on:
        client, backend = await asked(on, get(version=b"1.0"))
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(PAGE), PAGE) if b"chunked" in framing else PAGE
        await backend.says(b"HTTP/1.1 200 OK\r\n" + HTML + framing + b"\r\n" + body)
        if not framing:
            backend.leaves()
        head = await client.hears_head()
        assert headers_of(head)[1:] == [(b"X-Orchestra-Upstream", b"backend"), (b"Connection", b"close")]
        assert await client.hears_end() == CHANGED


@pytest.mark.parametrize(
    "framing", [b"Transfer-Encoding: chunked\r\n\r\n5\r\n", b"Content-Length: 100\r\n\r\n"]
)
async def test_half_a_page_never_looks_whole(autojump_clock: trio.testing.MockClock, framing: bytes) -> None:
    async with opened() as on:
        client, backend = await asked(on, get())
        await backend.says(b"HTTP/1.1 200 OK\r\n" + HTML + framing + b"hello")
        await client.hears_until(b"hello")
        backend.leaves()
        await client.hears_reset()
        assert (await on.finished()).outcome == "upstream-died"


async def test_a_page_that_is_badly_framed_breaks_off(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with opened() as on:
        client, backend = await asked(on, get())
        await backend.says(b"HTTP/1.1 200 OK\r\n" + HTML + b"Transfer-Encoding: chunked\r\n\r\n")
        await client.hears_head()
        await backend.says(b"nonsense\r\n")
        await client.hears_reset()


async def test_head_gets_the_head_of_the_page(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as on:
        client, backend = await asked(on, get(method=b"HEAD"))
        await backend.says(b"HTTP/1.1 200 OK\r\n" + HTML + b'ETag: "a"\r\nContent-Length: 9\r\n\r\n')
        head = await client.hears_head()
        assert header(head, b"etag") == b'W/"a"'
        assert header(head, b"content-length") is None
        await client.says(get())
        await backend.hears_head()
        await backend.says(sized())
        assert await body_of(client, await client.hears_head()) == CHANGED


async def test_a_page_that_has_not_changed_stays_so(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as on:
        client = on.client()
        await client.says(get(fields=NAVIGATES + b'If-None-Match: W/"a"\r\n'))
        backend = await on.backend()
        assert header(await backend.hears_head(), b"if-none-match") == b'W/"a"'
        await backend.says(b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\n\r\n')
        head = await client.hears_head()
        assert headers_of(head) == [(b"ETag", b'W/"a"'), (b"X-Orchestra-Upstream", b"backend")]
        await client.says(get())
        await backend.hears_head()


async def test_a_part_of_a_page_has_its_own_bytes(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as on:
        client = on.client()
        await client.says(get(fields=NAVIGATES + b'Range: bytes=0-5\r\nIf-Range: W/"a"\r\n'))
        backend = await on.backend()
        assert header(await backend.hears_head(), b"range") == b"bytes=0-5"
        more = HTML + b'ETag: "a"\r\nContent-Range: bytes 0-5/99\r\n'
        await backend.says(sized(b"<head>", more, b"206 Partial Content"))
        head = await client.hears_head()
        assert header(head, b"etag") == b'W/"a"'
        assert await body_of(client, head) == b"<head>"


async def test_a_compressed_page_passes_with_one_notice(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bus = Bus()
    told: list[Event] = []
    bus.subscribe(told.append, Notice)
    async with opened(bus) as on:
        client, backend = await asked(on, get())
        for _ in range(2):
            await backend.says(sized(b"\x1f\x8b...", HTML + b'Content-Encoding: gzip\r\nETag: "a"\r\n'))
            head = await client.hears_head()
            assert header(head, b"etag") == b'"a"'
            assert await body_of(client, head) == b"\x1f\x8b..."
            await client.says(get())
            await backend.hears_head()
    assert [each.code for each in told if isinstance(each, Notice)] == ["page-compressed"]


async def test_the_answer_to_a_form_says_so(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as on:
        client, backend = await asked(
            on, get(method=b"POST", fields=NAVIGATES + b"Content-Length: 1\r\n") + b"a"
        )
        await backend.says(sized(b"<head>", status=b"422 Unprocessable Content"))
        body = await body_of(client, await client.hears_head())
        assert b'data-method="POST" data-status="422"' in body


async def test_a_page_that_falls_back_is_the_frontends(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as on:
        client, backend = await asked(on, get())
        await backend.says(sized(b"<head>no", status=b"404 Not Found"))
        frontend = await on.frontend()
        assert header(await frontend.hears_head(), b"accept-encoding") == b"identity"
        await frontend.says(sized())
        expected = CHANGED.replace(b'"backend"', b'"frontend"')
        assert await body_of(client, await client.hears_head()) == expected


async def test_a_404_that_stands_has_the_script(autojump_clock: trio.testing.MockClock) -> None:
    async with opened() as on:
        client, backend = await asked(on, get())
        await backend.says(sized(b"<head>no", status=b"404 Not Found"))
        frontend = await on.frontend()
        await frontend.hears_head()
        await frontend.says(sized(b"neither", status=b"404 Not Found"))
        head = await client.hears_head()
        body = await body_of(client, head)
        assert body == b"<head>" + TAG.replace(b"></", b' data-status="404"></') + b"no"
        assert header(head, b"x-orchestra-upstream") == b"backend"
        assert (await on.finished()).bytes_out == len(body)


async def test_a_refused_websocket_is_no_page(autojump_clock: trio.testing.MockClock) -> None:
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    )
    async with opened() as on:
        client, backend = await asked(on, get(fields=NAVIGATES + upgrade))
        await backend.says(sized(status=b"403 Forbidden"))
        assert await body_of(client, await client.hears_head()) == PAGE


@pytest.mark.parametrize(
    ("target", "settings", "is_told"),
    [
        (b"/", {}, True),
        (b"/@vite/client", {}, False),
        (b"/", {"backend": UNDECIDED, "hold": 1.0}, False),
        (b"/", {"backend": elsewhere(BACKEND_PORT)}, False),
    ],
)
async def test_our_own_page_is_told_when_the_backend_is_ready(
    autojump_clock: trio.testing.MockClock, target: bytes, settings: dict[str, Any], *, is_told: bool
) -> None:
    """Without scripts it looks again by itself; so does one that waits for anything else."""
    refresh = b'<meta http-equiv="refresh" content="1">'
    async with opened(ready=(), **settings) as on:
        on.refusing.add(BACKEND_PORT)
        on.reports("api", State.FAILED)
        on.reports("vite", State.FAILED)
        client = on.client()
        await client.says(get(target))
        body = await body_of(client, await client.hears_head())
        assert b'<head>\n<script src="/__orchestra__/client.js" async="" data-page="orchestra"' in body
        assert b' data-status="502"></script>' in body
        assert refresh in body
        assert (b"<noscript>" + refresh + b"</noscript>" in body) is is_told


SOURCES: dict[str, tuple[Callable[[], Body], bytes]] = {
    "length": (lambda: LengthBody(len(PAGE)), PAGE),
    "chunked": (
        lambda: ChunkedBody(ResponseHead.of(200, [(b"Transfer-Encoding", b"chunked")])),
        b"%x\r\n%b\r\n0\r\nA: b\r\n\r\n" % (len(PAGE), PAGE),
    ),
}


@pytest.mark.parametrize("has_chunks", [False, True])
@pytest.mark.parametrize("kind", SOURCES)
def test_what_follows_a_page_is_left_over(kind: str, *, has_chunks: bool) -> None:
    make, data = SOURCES[kind]
    body = PageBody(make(), _exclaim, has_chunks=has_chunks)
    out = body.feed(data + b"next")
    payload = PAGE + b"!"
    assert out == (b"%x\r\n%b\r\n0\r\n\r\n" % (len(payload), payload) if has_chunks else payload)
    assert (body.rest, body.is_complete, body.size) == (b"next", True, len(payload))


def test_a_page_without_an_end_is_not_complete() -> None:
    for source in (LengthBody(10), SOURCES["chunked"][0]()):
        assert PageBody(source, _exclaim, has_chunks=True).close() is None
    body = PageBody(ClosingBody(has_chunks=True), _exclaim, has_chunks=True)
    assert body.feed(b"a") == b"1\r\na\r\n"
    assert body.close() == b"1\r\n!\r\n0\r\n\r\n"
    assert (body.is_complete, body.size) == (True, 2)


def _exclaim(data: bytes, /, *, is_last: bool) -> bytes:
    return data + b"!" if is_last else data


@pytest.mark.parametrize("fields", [b"", b"Content-Type: text/plain\r\n"])
async def test_a_failure_without_a_body_gets_the_script(
    fields: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """Else its tab could not be loaded again when the error is mended: browsers show a page of their own."""
    async with opened() as on:
        client, backend = await asked(on, get())
        await backend.says(sized(b"", fields, b"500 Internal Server Error"))
        head = await client.hears_head()
        assert header(head, b"content-type") == b"text/html"
        assert b'data-status="500"' in await body_of(client, head)
        # The connections serve on.
        await client.says(get())
        await backend.hears_head()
