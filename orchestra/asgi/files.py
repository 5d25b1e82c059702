"""Serves in production what Vite has built: assets, the other files of the folder, and the page itself.

Strategy. A path below `static_path` is looked for in `static_dir` first. Every other request goes to the
application. If it answers GET or HEAD outside `api_prefix` with 404, the file of that name is served instead
or, if the request is a navigation, the page; ``X-Orchestra-Final: 1`` in the 404 prevents that. A missing
asset stays a 404, and so does a `fetch` of a missing path.

Only regular files are served, and only if no part of their path inside the folder is a link, is empty or
begins with a dot. The exception is ``.well-known`` (RFC 8615) beside the page. The folder itself may be a
link, which is resolved once, at the start.

Starlette handles ETag, ``If-Modified-Since`` and ranges. A file that was compressed beforehand
(``app.js.br``, ``.zst``, ``.gz``) is sent to clients that accept the coding. Files with a hash in their name
are cached for a year, all others are revalidated each time. A `stat` and the read of a small file are faster
than a switch to a thread, so only large files are read in Starlette's threads.
"""

from __future__ import annotations

import os
import re
import stat
from mimetypes import guess_type
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles

from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from orchestra.control.doors import App, Message, Receive, Scope, Send

__all__ = ["SPA"]

# Bytes of a file that are read at once.
_SMALL = 262_144
# The best first.
_CODINGS = {"br": ".br", "zstd": ".zst", "gzip": ".gz"}
_is_refused = re.compile(r"(.*;)?\s*q=0(\.0*)?\s*").fullmatch
# Vite's `name-hash.js` has eight characters of base64url, others have `name.hash.js` with hexadecimal digits.
# A hash has a letter, and a digit or a capital letter that does not begin it: `my-document.pdf` has none.
_has_hash = re.compile(
    r".*[-.](?=[\w-]*[A-Za-z])(?=[\w-]+[0-9A-Z]|[0-9])([\w-]{8}|[0-9a-f]{8,64})(\.\w+){1,2}"
).fullmatch
_FOREVER, _ASK_AGAIN = "public, max-age=31536000, immutable", "no-cache"
# Files that are there only beside the page of a project's sources.
_SOURCES = ("package.json", "pyproject.toml", ".git")


class SPA:
    """An application, and the files of its frontend.

    Args:
        app: The ASGI application.
        static_dir: The folder of the assets, such as ``dist/assets``; ``None``: only the files beside the
            page.
        static_path: The URL path of the assets.
        fallback: The page, such as ``dist/index.html``; ``None``: there is none, and nothing beside it.
        api_prefix: Below this path, the application's 404 is never replaced.

    Raises:
        ConfigError: There is no such folder or file, or it is not a build.
    """

    def __init__(
        self,
        app: App,
        static_dir: str | os.PathLike[str] | None = None,
        static_path: str = "/assets",
        fallback: str | os.PathLike[str] | None = "dist/index.html",
        api_prefix: str = "/api",
    ) -> None:
        self._app = app
        self._static_path = f"/{static_path.strip('/')}/".replace("//", "/")
        # Without a prefix no path belongs to the application alone.
        self._api = f"{api_prefix.rstrip('/')}/" if api_prefix.strip("/") else "\0"
        self._static = None if static_dir is None else _Files(static_dir)
        self._page = "" if fallback is None else Path(fallback).name
        self._root = None if fallback is None else _root_of(Path(fallback))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve an ASGI connection."""
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        path: str = scope["path"].removeprefix(scope.get("root_path", ""))
        if self._static is not None and path.startswith(self._static_path):
            found = self._static.find(path[len(self._static_path) :], scope)
            await (found or self._app)(scope, receive, send)
        elif self._root is None or f"{path}/".startswith(self._api):
            await self._app(scope, receive, send)
        elif (instead := await self._ask(path, scope, receive, send)) is not None:
            await instead(scope, receive, send)

    async def _ask(self, path: str, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Call the application; return the answer to send instead of its own, which was dropped then."""
        found: Response | None = None

        async def judge(message: Message) -> None:
            nonlocal found
            if message["type"] == "http.response.start" and message["status"] == 404:
                is_final = (b"x-orchestra-final", b"1") in message.get("headers", ())
                found = None if is_final else self._instead(path, scope)
            if found is None:
                await send(message)

        await self._app(scope, receive, judge)
        return found

    def _instead(self, path: str, scope: Scope) -> Response | None:
        assert self._root is not None  # noqa: S101 - see `__call__`
        found = self._root.find(path[1:], scope, also=".well-known")
        if found is None and _is_for_a_window(path, Headers(scope=scope)):
            found = self._root.find(self._page, scope)
        return found


def _is_for_a_window(path: str, headers: Headers) -> bool:
    """Whether the answer is for a window.

    Browsers say so (Fetch Metadata). For programs and robots that accept anything, a path without a suffix is
    a page. A service worker that forwards a navigation keeps its ``Accept``.
    """
    mode, accept = headers.get("sec-fetch-mode"), headers.get("accept", "*/*")
    if path == "/" or mode == "navigate":
        return True
    if mode not in (None, "same-origin"):
        return False
    return "text/html" in accept or (mode is None and "*/*" in accept and "." not in path.rpartition("/")[2])


def _root_of(page: Path) -> _Files:
    folder = page.parent
    hint = "Build the frontend (`npm run build`), or name the page that was built."
    if not page.is_file() or page.is_symlink():
        raise ConfigError(f"there is no file {page}", hint=hint)
    for name in _SOURCES:
        if (folder / name).exists():
            text = f"{page} has {name} beside it: it is one of the sources, which would be served, too"
            raise ConfigError(text, hint=hint)
    return _Files(folder)


class _Files(StaticFiles):
    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not Path(folder).is_dir():
            raise ConfigError(f"there is no folder {folder}", hint="Build the frontend, or name another one.")
        super().__init__(directory=folder)
        self._folder = os.path.realpath(folder)

    def find(self, path: str, scope: Scope, *, also: str = "") -> Response | None:
        """Return the answer with the file at a path; the first part may be `also`, with its dot."""
        parts = path.split("/")
        if any(not part or part.startswith(".") for part in (parts[1:] if parts[0] == also else parts)):
            return None
        full_path = self._folder
        try:
            for part in parts[:-1]:
                full_path = f"{full_path}/{part}"
                if not stat.S_ISDIR(os.lstat(full_path).st_mode):
                    return None
            full_path = f"{full_path}/{parts[-1]}"
            status = _look(full_path)
            return None if status is None else self._answer(full_path, status, scope)
        except (OSError, ValueError):  # not there, too long, unreadable, a NUL, no UTF-8
            return None

    def _answer(self, full_path: str, status: os.stat_result, scope: Scope) -> Response:
        headers, fields = Headers(scope=scope), {}
        path, coding, has_more = full_path, "", False
        accepted = _accepted(headers.get("accept-encoding", ""))
        for name, suffix in _CODINGS.items():
            if (other := _look(full_path + suffix)) is not None:
                has_more = True
                if name in accepted:
                    path, coding, status = full_path + suffix, name, other
                    break
        fields["cache-control"] = _FOREVER if _has_hash(os.path.basename(full_path)) else _ASK_AGAIN  # noqa: PTH119
        if has_more:
            fields["vary"] = "Accept-Encoding"
        if coding:
            fields["content-encoding"] = coding
        media_type, own_coding = guess_type(full_path)
        if media_type is None or own_coding is not None:
            media_type = "application/octet-stream"
        answer = _File(path, headers=fields, media_type=media_type, stat_result=status)
        if self.is_not_modified(answer.headers, headers):
            return NotModifiedResponse(answer.headers)
        if status.st_size <= _SMALL and scope["method"] == "GET" and "range" not in headers:
            with open(path, "rb") as file:  # noqa: PTH123 - as text, it is quick
                content = file.read()
            answer.content = content if len(content) == status.st_size else None
        return answer


class _File(FileResponse):
    """A file in few pieces, as each costs a thread's turn and a send; `content` if it was read at once."""

    chunk_size = _SMALL
    content: bytes | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.content is None:
            # Starlette answers 400 or 206 where RFC 9110 14.2 wants the range ignored.
            asked = Headers(scope=scope).get("range", "").lower()
            if scope["method"] != "GET" or not asked.startswith("bytes="):
                scope = {**scope, "headers": [each for each in scope["headers"] if each[0] != b"range"]}
            await super().__call__(scope, receive, send)
            return
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.content})


def _look(path: str) -> os.stat_result | None:
    """Return the metadata of a regular file that is not a link; ``None`` if there is none."""
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    return status if stat.S_ISREG(status.st_mode) else None


def _accepted(codings: str) -> set[str]:
    pairs = (each.partition(";") for each in codings.lower().split(","))
    return {name.strip() for name, _, weight in pairs if not _is_refused(weight)}
