"""What a page of another port of localhost gets of a run, in a real browser: nothing."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from tests.kit import Run
from tests.project_kit import browser_without

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.browser, pytest.mark.ceiling(120)]

# Tries everything that a page can try, and says for each whether it has got anything.
TRY_ALL = """async (own) => {
  const [http, ws] = [`http://${own}/__orchestra__/`, `ws://${own}/__orchestra__/`];
  const silence = new Promise((give) => setTimeout(give, 5000, "silence"));
  const read = (name, how) =>
    fetch(http + name, how).then(async (got) => await got.text() || got.type, () => "");
  const load = (tag, attributes) => new Promise((give) => {
    const element = Object.assign(document.createElement(tag), attributes);
    element.onload = () => give("loaded");
    element.onerror = () => give("");
    document.head.append(element);
  });
  const opened = (source) => new Promise((give) => {
    source.onopen = source.onmessage = () => give("open");
    source.onerror = () => give("");
  });
  const order = { method: "POST", body: JSON.stringify({ file: "/etc/passwd", line: 1, token: "" }) };
  const tries = {
    state: read("state"),
    stateNoCors: read("state", { mode: "no-cors" }),
    stateScript: load("script", { src: http + "state" }),
    stateImage: load("img", { src: http + "state" }),
    clientScript: load("script", { src: http + "client.js" }),
    clientModule: load("script", { src: http + "client.js", type: "module" }),
    events: opened(new EventSource(http + "events")),
    live: opened(new WebSocket(ws + "live")),
    order: read("open", order),
  };
  const got = {};
  for (const name in tries) got[name] = await Promise.race([tries[name], silence]);
  return got;
}"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("doors")
    (folder / "index.html").write_text("<!doctype html><title>ours</title>")
    (folder / "Procfile").write_text("api: exec python -m http.server --bind 127.0.0.1 $PORT\n")
    with Run("--listen", "127.0.0.1:0", cwd=folder) as run:
        run.state("api", "ready")
        yield run


@contextmanager
def other_site(folder: Path) -> Iterator[str]:
    """A site at another port; gives its URL."""
    (folder / "index.html").write_text("<!doctype html><title>other</title>")
    handler = partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_a_page_of_another_port_gets_nothing(run: Run, name: str, tmp_path: Path) -> None:
    """It is of the same site, so that cookies and SameSite would not keep it out."""
    own = run.url.removeprefix("http://").replace("127.0.0.1", name)
    with other_site(tmp_path) as url, browser_without([]) as browser, browser.new_page() as page:
        page.goto(url)
        got: dict[str, Any] = page.evaluate(TRY_ALL, own)
        # An opaque answer is one that the page cannot read.
        assert got.pop("stateNoCors") in ("", "opaque")
        assert not [each for each, what in got.items() if what], got


def test_a_page_of_ours_gets_all_that_it_needs(run: Run) -> None:
    """The same attempts: else the other test would show nothing."""
    with browser_without([]) as browser, browser.new_page() as page:
        page.goto(run.url)
        got: dict[str, Any] = page.evaluate(TRY_ALL, run.url.removeprefix("http://"))
        assert '"processes"' in got["state"]
        assert (got["clientScript"], got["events"], got["live"]) == ("loaded", "open", "open")
        assert "token" in got["order"]
