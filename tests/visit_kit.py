"""A page load without a browser: the requests that it sends, with its headers; and Vite's HMR socket."""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from tests.kit import PATIENCE, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.kit import Answer, Run

_AGENT = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/140.0.0.0 Safari/537.36"}
_ACCEPT = {
    "document": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "style": "text/css,*/*;q=0.1",
    "image": "image/avif,image/webp,image/svg+xml,image/*,*/*;q=0.8",
}
# What a file is by the tag or statement that loads it: (destination, mode).
_SCRIPT, _STYLE, _IMAGE = ("script", "cors"), ("style", "no-cors"), ("image", "no-cors")
_TAGS = (
    (re.compile(r"""<script[^>]*\ssrc=["']?([^"'\s>]+)"""), _SCRIPT),
    (re.compile(r"""<link[^>]*rel=["']?modulepreload["']?[^>]*href=["']?([^"'\s>]+)"""), _SCRIPT),
    (re.compile(r"""<link[^>]*rel=["']?stylesheet["']?[^>]*href=["']?([^"'\s>]+)"""), _STYLE),
    (re.compile(r"""<link[^>]*href=["']?([^"'\s>]+)["']?[^>]*rel=["']?stylesheet"""), _STYLE),
    (re.compile(r"""<img[^>]*\ssrc=["']?([^"'\s>]+)"""), _IMAGE),
)
_IMPORT = re.compile(r"""(?:\bfrom\s*|\bimport\s*\(?\s*)["']([./][^"'\s]*)["']""")
_COMMENT = re.compile(r"/\*.*?\*/|^\s*//[^\n]*", re.DOTALL | re.MULTILINE)
_URL = re.compile(r"""\burl\(\\?["']?([./][^"'\\)]*)""")
_REQUEST = re.compile(r"\b(GET|HEAD|POST|PUT|OPTIONS|WebSocket) (/\S*)")
# What orchestra itself puts into a page.
_OURS = "/__orchestra__/"


class Part(NamedTuple):
    """A file that a page has loaded."""

    target: str
    destination: str
    answer: Answer


class Visit(NamedTuple):
    """A page and all that it has loaded, in the order of its requests."""

    page: Answer
    parts: list[Part]

    @property
    def targets(self) -> list[str]:
        return [part.target for part in self.parts]


def navigation(referer: str | None = None) -> dict[str, str]:
    """What a browser sends for a window; without a referring page, as one whose address was typed."""
    from_page = (
        {"Referer": referer, "Sec-Fetch-Site": "same-origin"} if referer else {"Sec-Fetch-Site": "none"}
    )
    return {
        **_AGENT,
        "Accept": _ACCEPT["document"],
        "Upgrade-Insecure-Requests": "1",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-User": "?1",
        "Sec-Fetch-Dest": "document",
        **from_page,
    }


def fetching(referer: str) -> dict[str, str]:
    """What a browser sends for `fetch(...)` in a page."""
    return {
        **_AGENT,
        "Accept": "*/*",
        "Referer": referer,
        "Sec-Fetch-Site": "same-origin",
        "Sec-Fetch-Mode": "cors",
        "Sec-Fetch-Dest": "empty",
    }


def visit(url: str) -> Visit:
    """Load a page with the files that it names, and those that these name, and so on."""
    page = ask(url, navigation())
    parts: list[Part] = []
    waiting = list(_named(url, page.text, "document"))
    seen = {url}
    for wanted, (destination, mode), referer in waiting:
        if wanted in seen or not _is_of(wanted, url) or urlsplit(wanted).path.startswith(_OURS):
            continue
        seen.add(wanted)
        headers = {
            **_AGENT,
            "Accept": _ACCEPT.get(destination, "*/*"),
            "Referer": referer,
            "Sec-Fetch-Site": "same-origin",
            "Sec-Fetch-Mode": mode,
            "Sec-Fetch-Dest": destination,
        }
        answer = ask(wanted, headers)
        parts.append(Part(wanted.removeprefix(_origin(url)), destination, answer))
        if destination in ("script", "style") and answer.status == 200:
            waiting += _named(wanted, answer.text, destination)
    return Visit(page, parts)


def _named(base: str, text: str, destination: str) -> Iterator[tuple[str, tuple[str, str], str]]:
    """The files that a document, a module or a style names: address, what it is, and what names it."""
    patterns = [*_TAGS] if destination == "document" else []
    if destination == "style" or "__vite__css" in text:
        patterns.append((_URL, _IMAGE))
    if destination != "style":
        patterns.append((_IMPORT, _SCRIPT))
    text = _COMMENT.sub("", text) if destination == "script" else text
    for pattern, kind in patterns:
        for named in pattern.findall(text):
            yield urljoin(base, named.replace("&amp;", "&")), kind, base


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _is_of(wanted: str, url: str) -> bool:
    return _origin(wanted) == _origin(url)


def all_loaded(seen: Visit) -> None:
    """See that each file came, and is what the browser needs: a module with HTML in it is none."""
    assert seen.page.status == 200, seen.page
    for target, destination, answer in seen.parts:
        kind = answer.headers.get("content-type", "")
        assert answer.status == 200, (target, destination, answer)
        wanted = {"script": "javascript", "style": "css", "image": "image/"}[destination]
        assert wanted in kind, (target, destination, kind)


@contextlib.contextmanager
def requests_logged(run: Run, process: str, *, path: str = "/api/hello") -> Iterator[list[str]]:
    """The requests that a server logs during a block, as `GET /path`; known when the block has ended.

    Args:
        run: The run.
        process: The server.
        path: One that it answers; it is asked before and after the block, with a query.
    """
    found: list[str] = []
    first, last = f"{path}?first", f"{path}?last"
    _logged(run, process, first)
    yield found
    _logged(run, process, last)
    lines = [
        event["text"]
        for event in run.events
        if (event["type"], event.get("process")) == ("process.output", process)
    ]
    asked = [f"{match[1]} {match[2]}" for line in lines if (match := _REQUEST.search(line))]
    found += asked[asked.index(f"GET {first}") + 1 : asked.index(f"GET {last}")]


def _logged(run: Run, process: str, target: str) -> None:
    ask(f"{run.url}{target}", {"Accept": "*/*"})
    run.line(process, target)


def hot_update(url: str, edit: Callable[[], object], *, base: str = "/") -> str:
    """Edit a file as Vite's client sees it, through the address of the page.

    Returns:
        What Vite tells its client to do: `update` or `full-reload`.
    """
    client = ask(f"{url}{base}@vite/client", fetching(url) | {"Sec-Fetch-Dest": "script"})
    token = re.search(r'wsToken = "([^"]+)"', client.text)
    assert token, client
    address = f"{url.replace('http', 'ws', 1)}{base}?token={token[1]}"
    protocols = [Subprotocol("vite-hmr")]
    with connect(address, origin=Origin(url), subprotocols=protocols, open_timeout=PATIENCE) as socket:
        assert json.loads(socket.recv(PATIENCE))["type"] == "connected"
        edit()
        while True:
            kind: str = json.loads(socket.recv(PATIENCE))["type"]
            if kind in ("update", "full-reload", "error"):
                return kind
