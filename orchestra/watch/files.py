"""The content of the files that matter, as far as it is needed to detect a change.

Each file's size, time and a hash of its content are kept. A save that changes no byte is no change; a file
that was replaced by a rename is still the file of that name; a missing file has changed. The memory is
bounded: of large files, or too many, only size and time are compared.

A file that was written, or moved to its place, after the start of the process and before the first look at it
counts as changed: the process may have read the old version.

Everything here blocks, and runs in a thread.

Not here: which files matter (`filters`), when to look (`changes`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, NamedTuple

from orchestra.watch.filters import GITIGNORE, Filter, Walk
from orchestra.watch.interest import Changed, Changes, Interest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Set as AbstractSet


__all__ = ["Files", "rereads_templates"]

# Files that are remembered at most, and the most bytes of one that are read: otherwise a change of size or
# time is a change.
_MOST_FILES = 10_000
_MOST_BYTES = 1 << 20
# Words in a program that show what it does with a changed template. Jinja reads it again unless it is
# configured not to, and so do the classes of Starlette (FastAPI) and Litestar. Flask and Quart (without
# debug) and Django (without runserver) configure it not to; Bottle, Tornado and Pyramid keep templates.
_REREADS = frozenset({b"Jinja2Templates", b"JinjaTemplateEngine", b"aiohttp_jinja2"})
_KEEPS = frozenset({b"flask", b"quart", b"django", b"bottle", b"tornado", b"pyramid", b"auto_reload=False"})
_CLUES = re.compile(
    rb"\b(?:(Jinja2Templates|JinjaTemplateEngine|aiohttp_jinja2|auto_reload=False)\b"
    rb"|(?:from|import) +(flask|quart|django|bottle|tornado|pyramid)\b)"
)


def rereads_templates(clues: frozenset[bytes]) -> bool:
    """Whether a program that contains these words is known to read a changed template again."""
    return bool(clues & _REREADS) and not clues & _KEEPS


class _State(NamedTuple):
    """The state of a file at the last look; `content` is a hash, 0 if it was not read."""

    time: int  # ns
    size: int
    content: int


class Files:
    """The files that matter, and their content."""

    def __init__(self, interests: Mapping[str, Interest]) -> None:
        self._filter = Filter(interests)
        self.invalid = self._filter.invalid
        self._known: dict[str, _State] = {}
        self._clues: dict[str, set[bytes]] = {}  # by process
        self.walk = Walk()

    @property
    def folders(self) -> frozenset[str]:
        """The folders that have to be watched to notice every change."""
        return frozenset(self.walk.folders)

    def begin(self, since: float, earlier: Mapping[str, float] | None = None) -> Mapping[str, Changes]:
        """Look at all files for the first time; give those that came after `since`, in Unix time.

        For processes that are in `earlier`, those that came after that time.
        """
        self.walk = self._filter.walk()
        for path in self.walk.files:
            self._has_changed(path)
        begins = earlier or {}
        first = min([since, *begins.values()])
        came = {path: at for path in self._known if (at := _came(path)) >= first}
        return self._by_process(came, lambda path, name: came[path] >= begins.get(name, since))

    def look_again(self) -> Mapping[str, Changes]:
        """Look at all files, and for new ones; files with the same size and time are not read."""
        self.walk = self._filter.walk()
        found = self.walk.files | self._known.keys()
        return self._by_process([path for path in found if self._has_changed(path, is_sure=False)])

    def expect(self, paths: AbstractSet[str]) -> Mapping[str, Changes]:
        """Predict the changes if these paths were touched; looks at nothing."""
        return self._by_process(self._with_targets(paths))

    def look_at(self, paths: AbstractSet[str]) -> Mapping[str, Changes] | None:
        """Look at touched paths.

        Returns:
            ``None`` if folders have come or gone, or a .gitignore has changed: then all files have to be
            checked.
        """
        touched = self._with_targets(paths)
        # All of them first: a change that was found is not found a second time.
        if any(map(self._changes_folders, touched)):
            return None
        return self._by_process(
            [path for path in touched if self._filter.kinds(path) and self._has_changed(path)]
        )

    def _with_targets(self, paths: AbstractSet[str]) -> set[str]:
        linked = self.walk.linked
        return {*paths, *(linked[each] for each in paths if each in linked)}

    def _changes_folders(self, path: str) -> bool:
        if path.endswith("/" + GITIGNORE) or path in self.walk.folders:
            return True
        if (
            path not in self._known
            and os.path.islink(path)
            and os.path.exists(path)
            and self._filter.kinds(path)
        ):
            return True  # its target may be in a folder that is not watched
        return os.path.isdir(path) and self._filter.is_kept(path)

    def _has_changed(self, path: str, *, is_sure: bool = True) -> bool:
        """Look at a file, and compare it with its last state.

        Unless it was touched (`is_sure`), the same size and time mean the same content.
        """
        known = self._known.get(path)
        try:
            status = os.stat(path)
            if not S_ISREG(status.st_mode):  # a pipe, as password managers put in place of `.env`: it blocks
                return self._known.pop(path, None) is not None
            if known is not None and not is_sure and known[:2] == (status.st_mtime_ns, status.st_size):
                return False
            state = _State(status.st_mtime_ns, status.st_size, self._read(path, status.st_size))
        except OSError:  # gone, or a link to nothing, such as an editor's lock
            return self._known.pop(path, None) is not None
        if known is None and len(self._known) >= _MOST_FILES:
            return is_sure
        self._known[path] = state
        if known is None or not state.content:
            return known != state
        return known.content != state.content

    def _read(self, path: str, size: int) -> int:
        """Read a file for its hash, and for significant words in it."""
        if size > _MOST_BYTES:
            return 0
        with open(path, "rb") as file:
            content = file.read(_MOST_BYTES)
        if path.endswith(".py") and (clues := _CLUES.findall(content)):
            words = {word for pair in clues for word in pair if word}
            for name in self._filter.kinds(path):
                self._clues.setdefault(name, set()).update(words)
        return hash(content) or 1

    def _by_process(
        self, paths: Iterable[str], is_for: Callable[[str, str], bool] = lambda _path, _name: True
    ) -> Mapping[str, Changes]:
        found: dict[str, list[Changed]] = {}
        for path in sorted(paths):
            for name, kind in self._filter.kinds(path).items():
                if is_for(path, name):
                    found.setdefault(name, []).append(Changed(Path(path), kind))
        return {
            name: Changes(tuple(changed), rereads_templates(frozenset(self._clues.get(name, ()))))
            for name, changed in found.items()
        }


def _came(path: str) -> float:
    """When a file was written or moved to its place, in Unix time; 0 if it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return 0.0
    return max(status.st_mtime, status.st_ctime)
