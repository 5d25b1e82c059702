"""What is served of a built frontend in production, and what never is."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.asgi import SPA
from orchestra.errors import ConfigError
from tests.asgi_kit import SERVERS, ask, not_found, scope_of, serving
from tests.kit import PATIENCE, ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.control.doors import Scope

SECRET = "the secret"
SCRIPT = "console.log(1);" * 100
WINDOW = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Accept": "text/html,*/*;q=0.8"}
FETCH = {"Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty", "Accept": "*/*"}


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    (folder / "assets" / "more").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html>the page")
    (folder / "robots.txt").write_text("User-agent: *")
    (folder / "assets" / "index-BxYz1234.js").write_text(SCRIPT)
    (folder / "assets" / "index-BxYz1234.js.gz").write_bytes(gzip.compress(SCRIPT.encode()))
    (folder / "assets" / "index-BxYz1234.js.br").write_bytes(b"as brotli")
    (folder / "assets" / "my-document.pdf").write_text("a document")
    (folder / "assets" / "more" / "ünï.css").write_text("body {}")
    (folder / ".well-known").mkdir()
    (folder / ".well-known" / "assetlinks.json").write_text("[]")
    # All these have the secret.
    (tmp_path / "secret.txt").write_text(SECRET)
    (tmp_path / "dist-private").mkdir()
    (tmp_path / "dist-private" / "secret.txt").write_text(SECRET)
    for name in (".env", "assets/.env", ".well-known/.env"):
        (folder / name).write_text(SECRET)
    (folder / ".git").mkdir(exist_ok=True)
    (folder / ".git" / "config").write_text(SECRET)
    (folder / "assets" / "outside.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "assets" / "inside.txt").symlink_to("my-document.pdf")
    (folder / "assets" / "folder").symlink_to(tmp_path)
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    (folder / ".git" / "config").rename(folder / "assets" / "more" / ".config")
    (folder / ".git").rmdir()
    return folder


def spa(dist: Path, app: Any = not_found) -> SPA:
    return SPA(app, static_dir=dist / "assets", fallback=dist / "index.html")


@pytest.mark.parametrize(
    ("target", "headers", "body"),
    [
        ("/", {}, "the page"),
        ("/", FETCH, "the page"),
        ("/users/42", WINDOW, "the page"),
        ("/users/42", {"Accept": "*/*"}, "the page"),
        ("/users/42", {"Sec-Fetch-Mode": "same-origin", "Accept": "text/html"}, "the page"),
        ("/users/42.5", WINDOW, "the page"),
        ("/users/42", FETCH, None),
        ("/users/42", {"Accept": "application/json"}, None),
        ("/missing.png", {"Accept": "*/*"}, None),
        ("/api/users/42", WINDOW, None),
        ("/api", WINDOW, None),
        ("/apis", WINDOW, "the page"),
        ("/robots.txt", FETCH, "User-agent"),
        ("/.well-known/assetlinks.json", FETCH, "[]"),
        ("/assets/my-document.pdf", {}, "a document"),
        ("/assets/more/%C3%BCn%C3%AF.css", FETCH, "body {}"),
        ("/assets/missing.js", WINDOW, None),
        ("/assets/", WINDOW, None),
        ("/assets/more", WINDOW, None),
    ],
)
async def test_what_answers_a_path(
    target: str, headers: dict[str, str], body: str | None, dist: Path
) -> None:
    """Without a body, the application's 404 stands."""
    answer = await ask(spa(dist), target, headers)
    if body is None:
        assert (answer.status, answer.text) == (404, "the application knows nothing")
    else:
        assert answer.status == 200
        assert body in answer.text


ESCAPES = [
    "/assets/../secret.txt",
    "/assets/../../secret.txt",
    "/assets/%2e%2e/%2e%2e/secret.txt",
    "/assets/..%2f..%2fsecret.txt",
    "/assets/%2e%2e%2f%2e%2e%2fsecret.txt",
    "/assets/....//secret.txt",
    "/assets/..%5c..%5csecret.txt",
    "/assets//%2Fetc/passwd",
    "/assets/%2Fetc%2Fpasswd",
    "/../dist-private/secret.txt",
    "/%2e%2e/dist-private/secret.txt",
    "/assets/.env",
    "/assets/%2eenv",
    "/.env",
    "/.git/config",
    "/.well-known/.env",
    "/.well-known/../.env",
    "/assets/more/.config",
    "/assets/outside.txt",
    "/assets/inside.txt",
    "/assets/folder/secret.txt",
    "/assets/folder/dist/assets/my-document.pdf",
    "/link.txt",
    "/assets/a%00.js",
    "/assets/" + 300 * "a",
    "/assets/" + 3000 * "a/",
    "/assets/%ff%fe.js",
    "/assets/my-document.pdf/",
    "/assets/my-document.pdf/x",
]


@pytest.mark.parametrize("target", ESCAPES)
async def test_no_path_leads_elsewhere(target: str, dist: Path) -> None:
    """Out of the folder, through a link, to what begins with a dot, to what no file can be called."""
    answer = await ask(spa(dist), target, FETCH)
    assert answer.status == 404


async def test_what_is_no_file_is_not_opened(dist: Path) -> None:
    os.mkfifo(dist / "assets" / "pipe")
    assert (await ask(spa(dist), "/assets/pipe")).status == 404


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        ("", None),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip", "gzip"),
        ("br;q=0, gzip;q=0.5", "gzip"),
        ("br;q=0.0,gzip;q=0", None),
        ("x-gzip", None),
    ],
)
async def test_a_compressed_file_is_sent(accepted: str, coding: str | None, dist: Path) -> None:
    answer = await ask(spa(dist), "/assets/index-BxYz1234.js", {"Accept-Encoding": accepted})
    assert answer.headers.get("content-encoding") == coding
    assert answer.headers["vary"] == "Accept-Encoding"
    assert answer.headers["content-type"].startswith("text/javascript")
    as_gzip = gzip.decompress(answer.body) if coding == "gzip" else answer.body
    assert as_gzip == (b"as brotli" if coding == "br" else SCRIPT.encode())


async def test_a_compressed_file_asked_for_by_name_is_a_plain_one(dist: Path) -> None:
    answer = await ask(spa(dist), "/assets/index-BxYz1234.js.gz")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "content-encoding" not in answer.headers


@pytest.mark.parametrize(
    ("target", "is_kept"),
    [
        ("/assets/index-BxYz1234.js", True),
        ("/assets/my-document.pdf", False),
        ("/", False),
        ("/robots.txt", False),
    ],
)
async def test_a_hash_in_the_name_is_kept_for_good(target: str, dist: Path, *, is_kept: bool) -> None:
    answer = await ask(spa(dist), target)
    assert answer.headers["cache-control"] == (
        "public, max-age=31536000, immutable" if is_kept else "no-cache"
    )


async def test_what_the_client_has_is_not_sent(dist: Path) -> None:
    """The tag of a compressed file is another one."""
    app, target = spa(dist), "/assets/index-BxYz1234.js"
    plain, packed = await ask(app, target), await ask(app, target, {"Accept-Encoding": "gzip"})
    assert plain.headers["etag"] != packed.headers["etag"]
    again = await ask(app, target, {"If-None-Match": plain.headers["etag"]})
    assert (again.status, again.body, again.headers["vary"]) == (304, b"", "Accept-Encoding")
    assert (await ask(app, target, {"If-Modified-Since": plain.headers["last-modified"]})).status == 304
    other = {"If-None-Match": plain.headers["etag"], "Accept-Encoding": "gzip"}
    assert (await ask(app, target, other)).status == 200


async def test_a_range_is_sent(dist: Path) -> None:
    (dist / "assets" / "film.mp4").write_bytes(bytes(range(256)) * 4096)
    app = spa(dist)
    part = await ask(app, "/assets/film.mp4", {"Range": "bytes=300-309"})
    assert (part.status, part.body) == (206, bytes(range(44, 54)))
    assert part.headers["content-range"] == "bytes 300-309/1048576"
    assert (await ask(app, "/assets/film.mp4", {"Range": "bytes=2000000-"})).status == 416
    # RFC 9110 14.2: other units, and other methods than GET, have none.
    assert (await ask(app, "/assets/film.mp4", {"Range": "lines=0-1"})).status == 200
    assert (await ask(app, "/assets/film.mp4", {"Range": "bytes=0-1"}, method="HEAD")).status == 200
    whole = await ask(app, "/assets/film.mp4")
    assert (whole.status, len(whole.body)) == (200, 1048576)
    head = await ask(app, "/assets/film.mp4", method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "1048576")


async def test_the_application_has_the_last_word(dist: Path) -> None:
    async def app(scope: Scope, _receive: Any, send: Any) -> None:
        final = scope["path"] == "/final"
        headers = [(b"x-orchestra-final", b"1")] if final else []
        status = 404 if final else 200
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": scope["method"].encode()})

    for target, method, status in (
        ("/final", "GET", 404),
        ("/users/42", "GET", 200),
        ("/robots.txt", "GET", 200),
        ("/assets/my-document.pdf", "POST", 200),
    ):
        answer = await ask(spa(dist, app), target, WINDOW, method=method)
        assert (answer.status, answer.text) == (status, method)


async def test_the_answer_of_a_404_is_not_waited_for_in_memory(dist: Path) -> None:
    """What the application sends with its 404 is dropped as it comes."""
    scope = scope_of("/users/42", headers=WINDOW)
    sent: list[Any] = []

    async def app(_scope: Scope, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
            assert not sent
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:  # noqa: ASYNC124 - as ASGI has it
        raise AssertionError

    async def send(message: Any) -> None:  # noqa: ASYNC124 - as ASGI has it
        sent.append(message)

    await spa(dist, app)(scope, receive, send)
    assert [each.get("status", each.get("body")) for each in sent] == [200, b"<!doctype html>the page"]


async def test_it_is_known_where_it_is_mounted(dist: Path) -> None:
    scope = {**scope_of("/shop/assets/my-document.pdf"), "root_path": "/shop"}
    statuses = []

    async def send(message: Any) -> None:  # noqa: ASYNC124 - as ASGI has it
        statuses.append(message.get("status"))

    await spa(dist)(scope, send, send)  # type: ignore[arg-type]  # nothing is received
    assert statuses[0] == 200


def test_what_is_not_there_is_said(dist: Path) -> None:
    with pytest.raises(ConfigError, match="there is no folder") as missing:
        SPA(not_found, static_dir=dist / "none", fallback=None)
    assert "Build the frontend" in missing.value.hint
    with pytest.raises(ConfigError, match="there is no file"):
        SPA(not_found, fallback=dist / "none.html")
    with pytest.raises(ConfigError, match="there is no file"):
        SPA(not_found, fallback=dist / "link.txt")


def test_the_sources_are_not_taken_for_what_was_built(dist: Path) -> None:
    (dist / "package.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"package\.json beside it"):
        spa(dist)


@pytest.mark.real
@pytest.mark.parametrize("server", SERVERS)
def test_every_server_serves_it(server: str, dist: Path) -> None:
    """A path comes as it was sent: the client has not changed it."""
    (dist.parent / "app.py").write_text(
        "from orchestra.asgi import SPA\nfrom tests.asgi_kit import not_found\n"
        'app = SPA(not_found, static_dir="dist/assets", fallback="dist/index.html")\n'
    )
    (dist / "assets" / "large").write_bytes(b"x" * 1_000_000)
    with serving(server, "app:app", cwd=dist.parent, env={"PYTHONPATH": str(ROOT)}) as url:
        port = int(url.rpartition(":")[2])
        assert _ask_for(port, "/users/42")[1].endswith(b"the page")
        assert _ask_for(port, "/assets/large")[1] == b"x" * 1_000_000
        assert _ask_for(port, "/assets/large", Range="bytes=0-9") == (206, b"x" * 10)
        for target in ESCAPES:
            if target.isascii() and len(target) < 1000:
                status, body = _ask_for(port, target, **FETCH)
                assert status in (400, 404), target
                assert SECRET.encode() not in body


def _ask_for(port: int, target: str, **headers: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
