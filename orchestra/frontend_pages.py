"""Which pages are the frontend's: what the backend did not know and the frontend answered.

It decides about waiting alone: while the backend is not there, a page that is known to be the frontend's is
served at once; a backend that is ready is always asked. It outlives the run, because a page is looked at
before the backend has answered for the first time.

On disk there are salted hashes, no paths, in a file that only the user can read. It is forgotten when the
Procfile, the settings or a lock file of the project has changed.

Not here: what a request is, when it falls back (`proxy/route`).
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import blake2b
from typing import TYPE_CHECKING

from msgspec import DecodeError, Struct, json

from orchestra.config.packages import LOCKS
from orchestra.folders import project_key, state_folder, write_private
from orchestra.reading import read_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from orchestra.config.plan import Plan

__all__ = ["FrontendPages", "Store"]

# Pages that are known at most; then the oldest is dropped.
MOST_PAGES = 1000
# Paths whose hash is remembered, so that not each request is hashed.
_MOST_PATHS = 10_000
# Bytes of a file of ours that are read: some times what 1,000 pages take.
_MOST_BYTES = 262_144
_SETTINGS = ("orchestra.toml", "pyproject.toml")
_LOCK_FILES = (*LOCKS, "uv.lock", "poetry.lock", "pdm.lock", "requirements.txt")


class FrontendPages:
    """The pages that are known to be the frontend's; a hash of `salt` and a path stands for each."""

    def __init__(self, salt: bytes | None = None, pages: Iterable[str] = ()) -> None:
        self.salt = secrets.token_bytes(16) if salt is None else salt
        self.is_changed = False
        self._pages = dict.fromkeys(pages)
        self._hash = lru_cache(_MOST_PATHS)(partial(_hash, self.salt))

    @property
    def hashes(self) -> tuple[str, ...]:
        """The hashes of the pages, the oldest first."""
        return tuple(self._pages)

    def has(self, path: bytes) -> bool:
        """Whether the page at this path (without a query) is known to be the frontend's."""
        return self._hash(path) in self._pages

    def add(self, path: bytes) -> None:
        """The frontend has answered for the backend."""
        if not self.has(path):
            self._pages[self._hash(path)] = None
            if len(self._pages) > MOST_PAGES:
                del self._pages[next(iter(self._pages))]
            self.is_changed = True

    def drop(self, path: bytes) -> None:
        """The backend has answered for itself."""
        if self.has(path):
            del self._pages[self._hash(path)]
            self.is_changed = True


def _hash(salt: bytes, path: bytes) -> str:
    return blake2b(path, digest_size=12, salt=salt).hexdigest()


class _Stored(Struct, frozen=True):
    project: str
    salt: bytes
    pages: tuple[str, ...]


class Store:
    """The file in which the pages of one project outlive a run. It may fail: then they do not."""

    def __init__(self, plan: Plan, environ: Mapping[str, str]) -> None:
        self._path = state_folder(environ) / f"pages-{project_key(plan.root)}.json"
        self._project = _fingerprint(plan.root, plan)

    def load(self) -> FrontendPages:
        """Read what earlier runs have learned, if the project is still the same."""
        with suppress(OSError, DecodeError):
            data = read_file(self._path, most=_MOST_BYTES, flags=os.O_NOFOLLOW)
            stored = json.decode(data, type=_Stored)
            if stored.project == self._project and len(stored.salt) == blake2b.SALT_SIZE:
                return FrontendPages(stored.salt, stored.pages[-MOST_PAGES:])
        return FrontendPages()

    def save(self, pages: FrontendPages) -> None:
        """Write them if they have changed."""
        if not pages.is_changed:
            return
        pages.is_changed = False
        with suppress(OSError):
            write_private(self._path, json.encode(_Stored(self._project, pages.salt, pages.hashes)))


def _fingerprint(root: Path, plan: Plan) -> str:
    """Tell whether Procfile, settings and lock files are the ones of the last run."""
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
