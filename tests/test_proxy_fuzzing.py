"""Whatever is said to the proxy ends in an answer or a close; nothing ambiguous gets past it.

What clients and origins say are mutations of what they may say, in any pieces. What arrives at the other side
is read by a reader of the tests' own, which takes nothing but what RFC 9112 allows.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
from collections import Counter
from typing import TYPE_CHECKING

import trio
import trio.testing
from hypothesis import given, settings, strategies as st

from orchestra.events import RequestFinished
from tests.proxy_kit import stage
from tests.test_proxy_tunnel import upgrade

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from tests.proxy_kit import Talker

HOST = b"Host: localhost:8000\r\n"
REQUESTS = [
    b"GET /x HTTP/1.1\r\n" + HOST + b"\r\n",
    b"HEAD /known HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET /src/main.ts?t=1 HTTP/1.1\r\n" + HOST + b"Sec-Fetch-Dest: script\r\nRange: bytes=0-1\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + HOST + b"Accept: text/html\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n",
    b"GET /@vite/client HTTP/1.1\r\n" + HOST + b"\r\n",
    b"GET http://localhost:8000/known HTTP/1.1\r\n" + HOST + b"Connection: close, X-One\r\nX-One: 1\r\n\r\n",
    b"GET /known HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    b"POST /known?b=c HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc",
    b"PUT /x HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nX: 1\r\n\r\n",
    b"DELETE /api/x HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
    upgrade(),
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n2\r\nok\r\n0\r\nX: 1\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nETag: x\r\nContent-Length: 7\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.0 200 Fine\r\nConnection: close\r\n\r\nuntil the end",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
]
# What smuggles: small words in places where they matter come up more often than by chance.
PIECES = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"0", b"3", b",", b";", b"#", b"\\", b"/", b"*",
    b"Content-Length: 3\r\n", b"Content-Length: 0, 3\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding : chunked\r\n", b" folded\r\n",
    b"Host: other\r\n", b"Connection: Content-Length\r\n", b"Expect: 100-continue\r\n", b"0\r\n\r\n",
    b"GET /x HTTP/1.1\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0", b"HTTP/2.0", b"CONNECT",
    b"Upgrade: h2c\r\n", b"ffffffffffffffff",
]  # fmt: skip
edits = st.lists(
    st.tuples(
        st.integers(0, 300), st.integers(0, 3), st.one_of(st.sampled_from(PIECES), st.binary(max_size=3))
    ),
    max_size=4,
)
cuts = st.lists(st.integers(0, 500), max_size=5)
fuzzing = settings(max_examples=200)


def mutated(whole: bytes, changes: Sequence[tuple[int, int, bytes]]) -> bytes:
    said = bytearray(whole)
    for place, length, new in changes:
        said[place : place + length] = new
    return bytes(said)


def in_pieces(said: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if place < len(said)), len(said)]
    return [said[begin:end] for begin, end in itertools.pairwise(edges)]


# --- a strict reader ---

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIELD = (
    rb"("
    + _TOKEN
    + rb"):[ \t]*((?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?)[ \t]*"
)
_REQUEST = re.compile(rb"(" + _TOKEN + rb") (/[\x21\x22\x24-\x5b\x5d-\x7e]*|\*) HTTP/1\.1")
_ANSWER = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [\t\x20-\x7e\x80-\xff]*")
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,15})(?:[ \t]*;[\t\x20-\x7e]*)?")


class StrictReader:
    """Reads messages from a talker; whatever is not strictly one is a failure.

    Raises:
        EOFError: The talker left, be it in the middle.
    """

    def __init__(self, talker: Talker) -> None:
        self._talker = talker

    async def _line(self) -> bytes:
        return (await self._talker.hears_until(b"\r\n"))[:-2]

    async def _fields(self) -> list[tuple[bytes, bytes]]:
        found = []
        while line := await self._line():
            match = re.fullmatch(_FIELD, line)
            assert match is not None, line
            found.append((match[1].lower(), match[2]))
        return found

    async def request(self) -> tuple[str, str]:
        """Read one request; return its method and target as soon as its head is there."""
        line = await self._line()
        match = _REQUEST.fullmatch(line)
        assert match is not None, line
        headers = await self._fields()
        assert len([value for name, value in headers if name == b"host"]) == 1
        self._headers = headers
        return match[1].decode(), match[2].decode()

    async def body(self) -> bytes:
        """Read what belongs to the head that was read last."""
        lengths = [value for name, value in self._headers if name == b"content-length"]
        codings = [value for name, value in self._headers if name == b"transfer-encoding"]
        assert len(lengths) + len(codings) <= 1
        if lengths:
            assert re.fullmatch(rb"[0-9]+", lengths[0])
            return await self._talker.hears(int(lengths[0]))
        assert codings in ([], [b"chunked"])
        return await self._chunks() if codings else b""

    async def _chunks(self) -> bytes:
        whole = b""
        while True:
            match = _CHUNK.fullmatch(await self._line())
            assert match is not None
            if not int(match[1], 16):
                trailers = {name for name, _ in await self._fields()}
                assert not trailers & {b"content-length", b"transfer-encoding", b"host"}
                return whole
            whole += await self._talker.hears(int(match[1], 16))
            assert await self._line() == b""

    async def answer(self, method: str) -> int:
        """Read one answer to `method`, interim ones too; return its status."""
        while True:
            line = await self._line()
            match = _ANSWER.fullmatch(line)
            assert match is not None, line
            status = int(match[1])
            self._headers = await self._fields()
            if status == 101 or status >= 200:
                break
        if method == "HEAD" or status in (101, 204, 304):
            return status
        is_framed = any(name in (b"content-length", b"transfer-encoding") for name, _ in self._headers)
        if is_framed:
            await self.body()
        else:
            assert (b"connection", b"close") in self._headers
            await self._talker.hears_end()
        return status


# --- the tests ---


@given(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3), edits, cuts)
@fuzzing
async def test_upstreams_see_exactly_the_requests_that_are_logged(
    requests: list[bytes], changes: list[tuple[int, int, bytes]], places: list[int]
) -> None:
    seen: dict[str, Counter[tuple[str, str]]] = {"backend": Counter(), "frontend": Counter()}

    async def serve(name: str, called: Callable[[], Awaitable[Talker]], answer: bytes) -> None:
        async def answer_all(talker: Talker) -> None:
            reader = StrictReader(talker)
            with contextlib.suppress(EOFError, OSError):
                while True:
                    request = await reader.request()
                    seen[name][request] += 1
                    await reader.body()
                    bodiless = request[0] == "HEAD"
                    said = ANSWERS[0] if "known" in request[1] else answer
                    await talker.says(said.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if bodiless else said)

        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(answer_all, await called())

    with _no_mistakes_logged():
        async with stage() as on, trio.open_nursery() as nursery:
            nursery.start_soon(serve, "backend", on.backend, ANSWERS[1])
            nursery.start_soon(serve, "frontend", on.frontend, ANSWERS[0])
            client = on.client()
            nursery.start_soon(_speak, client, in_pieces(mutated(b"".join(requests), changes), places))
            await trio.testing.wait_all_tasks_blocked()
            client.leaves()
            await trio.testing.wait_all_tasks_blocked()
            assert "0 connections" in repr(on.proxy)
            nursery.cancel_scope.cancel()
    logged = [event for event in on.events if isinstance(event, RequestFinished)]
    assert [event.id for event in logged] == sorted(event.id for event in logged)
    everything = Counter((event.method, event.target) for event in logged)
    for name, requests_seen in seen.items():
        answered = Counter((event.method, event.target) for event in logged if event.upstream == name)
        # The frontend is also asked whether it has what the API of the backend does not know.
        asked = {each: n for each, n in requests_seen.items() if name == "backend" or "/api/" not in each[1]}
        assert answered <= requests_seen
        assert Counter(asked) <= everything


@given(
    st.sampled_from(REQUESTS[:5]),
    st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=2),
    edits,
    cuts,
)
@fuzzing
async def test_whatever_an_origin_says_a_client_hears_an_answer_or_a_close(
    request: bytes, answers: list[bytes], changes: list[tuple[int, int, bytes]], places: list[int]
) -> None:
    heard: list[int] = []

    async def serve(called: Callable[[], Awaitable[Talker]]) -> None:
        while True:
            talker = await called()
            with contextlib.suppress(EOFError, OSError):
                await talker.hears_head()
                await _speak(talker, in_pieces(mutated(b"".join(answers), changes), places))
            talker.leaves()

    async def listen(client: Talker) -> None:
        with contextlib.suppress(EOFError, OSError):
            heard.append(await StrictReader(client).answer(request.partition(b" ")[0].decode()))

    with _no_mistakes_logged():
        async with stage() as on, trio.open_nursery() as nursery:
            nursery.start_soon(serve, on.backend)
            nursery.start_soon(serve, on.frontend)
            client = on.client()
            nursery.start_soon(listen, client)
            await client.says(request)
            finished = await on.finished()
            await trio.testing.wait_all_tasks_blocked()
            client.leaves()
            await trio.testing.wait_all_tasks_blocked()
            assert "0 connections" in repr(on.proxy)
            nursery.cancel_scope.cancel()
    # An exchange is recorded as complete if and only if the client received all of it.
    assert (finished.outcome == "complete") == bool(heard)
    assert heard in ([], [finished.status])


async def _speak(talker: Talker, pieces: Sequence[bytes]) -> None:
    with contextlib.suppress(OSError):
        await talker.says(*pieces)


class _Mistakes(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextlib.contextmanager
def _no_mistakes_logged() -> Iterator[None]:
    logger = logging.getLogger("orchestra.proxy.server")
    handler = _Mistakes()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
    assert not [record.exc_info for record in handler.records]
