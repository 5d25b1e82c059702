"""The line of the settings that seems to be missing, and what the frontend is asked to be sure of it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from orchestra.events import Notice
from tests.proxy_kit import stage
from tests.test_proxy_relay import NAVIGATES, get

HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\npage"
FILE = HTML.replace(b"\r\n\r\n", b"\r\nLast-Modified: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n")
JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
NOT_FOUND = JSON.replace(b"200 OK", b"404 Not Found")
NO_GET = JSON.replace(b"200 OK", b"405 Method Not Allowed")


@pytest.fixture
def autojump_clock(clock_of_each_world: trio.testing.MockClock) -> trio.testing.MockClock:
    return clock_of_each_world


@pytest.mark.parametrize(
    ("path", "backends", "frontends", "code"),
    [
        (b"/api/contact", NOT_FOUND, JSON, "frontend-api-hidden"),
        (b"/api/contact", NOT_FOUND, NO_GET, "frontend-api-hidden"),
        (b"/api/contact", NOT_FOUND, HTML, None),
        (b"/api/contact", NOT_FOUND, NOT_FOUND, None),
        (b"/", FILE, HTML, "frontend-page-hidden"),
        (b"/", JSON, HTML, "frontend-page-hidden"),
        (b"/", FILE, NOT_FOUND, None),
    ],
)
async def test_a_hidden_answer_of_the_frontend_gets_a_notice(
    path: bytes, backends: bytes, frontends: bytes, code: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(path, NAVIGATES))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(backends)
        await client.hears_head()
        asked = await on.frontend()
        assert b"GET " + path in await asked.hears_head()
        await asked.says(frontends)
        await trio.sleep(1)
        notices = [event for event in on.events if isinstance(event, Notice)]
        assert [each.code for each in notices] == ([code] if code else [])
        assert all('backend_paths = ["/api' in each.hint for each in notices)


async def test_a_page_that_the_backend_makes_is_its_own(autojump_clock: trio.testing.MockClock) -> None:
    async with stage() as on:
        client = on.client()
        await client.says(get(b"/", NAVIGATES))
        backend = await on.backend()
        await backend.hears_head()
        await backend.says(HTML)
        await client.hears_head()
        await trio.sleep(1)
        assert len(on.dials) == 1
