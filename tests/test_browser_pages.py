"""Pages with the script that orchestra puts into them, in a real browser."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from tests.kit import Run, get
from tests.project_kit import browser_without

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.ceiling(120)]

# It compresses what it may, and one page says more only when it is told to.
APP = r"""
import trio
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

STRICT = {"Content-Security-Policy": "default-src 'none'; connect-src 'self';"
          " script-src 'nonce-YWJj' 'strict-dynamic'"}
FORBIDS = {"Content-Security-Policy": "default-src 'none'"}
LONG = "x" * 2000
PAGES = {
    "plain": ("<!doctype html><html lang=en><head><title>x</title></head><body>" + LONG, {}),
    "strict": ("<!doctype html><head><script nonce=YWJj>document.title = 'own'</script>" + LONG, STRICT),
    "forbids": ("<!doctype html><head><title>x</title>", FORBIDS),
    "headless": ("<!-- <head> --><!doctype html>\n<p id='</head>'>" + LONG, {}),
    "text": ("no markup at all: </head>", {}),
    "quotes": ("<html data-a='<head>'><head data-b=\"></head>\"><script>'</head><head>'</script>", {}),
    "xhtml": ("<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><head><title>x</title></head>"
              "<body><p/></body></html>", {"Content-Type": "application/xhtml+xml"}),
}
go = trio.Event()

async def page(request):
    body, headers = PAGES[request.path_params["name"]]
    return Response(body, headers={"Content-Type": "text/html", **headers})

async def stream(request):
    async def pieces():
        yield "<!doctype html><html><he"
        yield "ad></head><body><p id=first>"
        await go.wait()
        yield "<p id=last>"
    return StreamingResponse(pieces(), media_type="text/html")

async def finish(request):
    go.set()
    return Response("")

routes = [Route("/stream", stream), Route("/finish", finish), Route("/{name}", page)]
app = Starlette(routes=routes, middleware=[Middleware(GZipMiddleware)])
"""
RUNS = "window[Symbol.for('orchestra.client')] === true"
# Take the script out of the page; return how often it was there, and what is left. What it adds is elsewhere.
TAKE_OUT = """() => {
  const scripts = document.querySelectorAll("script[src^='/__orchestra__/']");
  scripts.forEach((script) => script.remove());
  return [scripts.length, document.compatMode, document.head.outerHTML, document.body.outerHTML];
}"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "app.py").write_text(APP)
    server = f"{sys.executable} -m hypercorn -k trio --workers 0 --bind 127.0.0.1:$PORT app:app"
    (folder / "Procfile").write_text(f"api: exec {server}\n")
    with Run("--listen", "127.0.0.1:0", cwd=folder) as run:
        run.state("api", "ready")
        yield run


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser_without([]) as launched:
        yield launched


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    with chromium.new_page() as page:
        yield page


@pytest.mark.parametrize("name", ["plain", "strict", "headless", "text", "quotes", "xhtml"])
def test_a_page_runs_the_script_and_is_the_same_otherwise(run: Run, page: Page, name: str) -> None:
    page.goto(f"{run.url}/{name}")
    page.wait_for_function(RUNS)
    count, *through_us = page.evaluate(TAKE_OUT)
    assert count == 1
    page.goto(f"{run.state('api', 'ready')['url']}/{name}")
    assert page.evaluate(TAKE_OUT) == [0, *through_us]


def test_a_page_that_forbids_the_script_has_none(run: Run, page: Page) -> None:
    page.goto(f"{run.url}/forbids")
    assert page.evaluate(TAKE_OUT)[0] == 0
    notice = run.until(lambda event: event.get("code") == "page-policy")
    assert "default-src 'none'" in notice["text"]


def test_the_script_runs_before_the_page_is_written(run: Run, page: Page) -> None:
    page.goto(f"{run.url}/stream", wait_until="commit")
    page.wait_for_function(RUNS)
    page.wait_for_selector("#first", state="attached")
    assert page.query_selector("#last") is None
    get(f"{run.url}/finish")
    page.wait_for_selector("#last", state="attached")


def test_what_a_page_fetches_has_no_script(run: Run, page: Page) -> None:
    page.goto(f"{run.url}/plain")
    page.wait_for_function(RUNS)
    assert "__orchestra__" not in page.evaluate("fetch('/plain').then(answer => answer.text())")
