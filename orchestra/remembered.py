"""What a run of a project stores for the next one: its port, and which pages are the frontend's.

Bookmarks, cookies and OAuth contain the port. If two projects run at once, the second one gets another port,
and gets it again the next time if it is free, whichever project is started first then. A second run of the
same project changes nothing. The port is stored only by a run on the command line, and only if the user has
not set the address.

A page is the frontend's if the backend did not know it and the frontend answered. That matters only for
waiting: while the backend is down, known pages of the frontend are served at once; a ready backend always
gets the request. It outlives the run, because pages are opened before the backend has answered for the first
time. The disk has salted hashes, not paths. They are discarded when the Procfile, the settings or a lock file
of the project has changed.

Not here: choosing the address (`config/addresses`), when a request falls back (`proxy/route`).
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Annotated, TypeVar

from msgspec import DecodeError, Meta, Struct, json

from orchestra.config.packages import LOCKS
from orchestra.folders import is_running, project_key, read_file, state_folder, write_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from orchestra.config.plan import Plan

__all__ = ["FrontendPages", "StoredPages", "keep_port", "last_port"]

# The most bytes of our files that are read: several times the size for 1,000 pages.
_MOST_BYTES = 262_144

_T = TypeVar("_T")


def _file(root: Path, environ: Mapping[str, str], what: str) -> Path:
    return state_folder(environ) / f"{what}-{project_key(root)}.json"


def _read(path: Path, kind: type[_T]) -> _T | None:
    """Read the file of an earlier run; ``None`` if there is none, or it is not valid."""
    with suppress(OSError, DecodeError):
        return json.decode(read_file(path, most=_MOST_BYTES, flags=os.O_NOFOLLOW), type=kind)
    return None


def _keep(path: Path, value: Struct) -> None:
    """Write a file for the next run. If that fails, there is none."""
    with suppress(OSError):
        write_private(path, json.encode(value))


# --- The port ---


class _Kept(Struct, frozen=True):
    """The contents of the file: a port, and the run that had it."""

    port: Annotated[int, Meta(ge=1, le=65535)]
    pid: int


def last_port(root: Path, environ: Mapping[str, str]) -> int | None:
    """Return the port of the last run of the project in `root`, if it is known."""
    kept = _read(_file(root, environ, "address"), _Kept)
    return None if kept is None else kept.port


def keep_port(root: Path, environ: Mapping[str, str], port: int) -> None:
    """Store the port of this run for the next one."""
    path = _file(root, environ, "address")
    kept = _read(path, _Kept)
    if kept is None or kept.pid == os.getpid() or not is_running(kept.pid):
        _keep(path, _Kept(port, os.getpid()))


# --- The frontend's pages ---

# The most pages that are known; then the oldest is dropped.
MOST_PAGES = 1000
# Paths whose hash is cached, so that not each request is hashed.
_MOST_PATHS = 10_000
_SETTINGS = ("orchestra.toml", "pyproject.toml")
_LOCK_FILES = (*LOCKS, "uv.lock", "poetry.lock", "pdm.lock", "requirements.txt")


class FrontendPages:
    """The pages that are known to be the frontend's, each as a hash of `salt` and its path."""

    def __init__(self, salt: bytes | None = None, pages: Iterable[str] = ()) -> None:
        self.salt = secrets.token_bytes(16) if salt is None else salt
        self.is_changed = False
        self._pages = dict.fromkeys(pages)
        self._hash = lru_cache(_MOST_PATHS)(partial(_hash, self.salt))

    def __len__(self) -> int:
        return len(self._pages)

    def has(self, path: bytes) -> bool:
        """Whether the page at this path (without a query) is known to be the frontend's."""
        return self._hash(path) in self._pages

    def add(self, path: bytes) -> None:
        """Take note that the frontend has answered for the backend."""
        if not self.has(path):
            self._pages[self._hash(path)] = None
            if len(self._pages) > MOST_PAGES:
                del self._pages[next(iter(self._pages))]
            self.is_changed = True

    def drop(self, path: bytes) -> None:
        """Take note that the backend has answered for itself."""
        if self.has(path):
            del self._pages[self._hash(path)]
            self.is_changed = True


def _hash(salt: bytes, path: bytes) -> str:
    return blake2b(path, digest_size=12, salt=salt).hexdigest()


class _Stored(Struct, frozen=True):
    project: str
    salt: bytes
    pages: tuple[str, ...]


class StoredPages(FrontendPages):
    """Those of one project, beginning with the pages of earlier runs if the project is still the same."""

    def __init__(self, plan: Plan, environ: Mapping[str, str]) -> None:
        self._path = _file(plan.root, environ, "pages")
        self._project = _fingerprint(plan.root, plan)
        stored = _read(self._path, _Stored)
        if stored and stored.project == self._project and len(stored.salt) == blake2b.SALT_SIZE:
            super().__init__(stored.salt, stored.pages[-MOST_PAGES:])
        else:
            super().__init__()

    def save(self) -> None:
        """Write them for the next run if they have changed."""
        if self.is_changed:
            self.is_changed = False
            _keep(self._path, _Stored(self._project, self.salt, tuple(self._pages)))


def _fingerprint(root: Path, plan: Plan) -> str:
    """Give a hash of Procfile, settings and lock files, to compare them with those of the last run."""
    folders = dict.fromkeys([root, *(process.cwd for process in plan.processes)])
    files = [root / name for name in _SETTINGS]
    files += [folder / name for folder in folders for name in _LOCK_FILES]
    if plan.procfile is not None:
        files.append(plan.procfile)
    found = blake2b(digest_size=16)
    for file in files:
        with suppress(OSError):
            content = read_file(file)
            found.update(b"%b\0%d\0" % (bytes(file), len(content)))
            found.update(content)
    return found.hexdigest()
