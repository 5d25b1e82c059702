"""Finds the files that matter: which rules match a path, and which folders may contain such files.

watchfiles would watch all folders below one, and filter afterwards: for a frontend that is thousands of
watches for its `node_modules`. So the folders are chosen here, one by one: those below the folder of a rule,
except those that a ``.gitignore`` excludes, those with one of the usual names, and virtual environments,
whatever their name.

Not here: the content of the files (`files`).
"""

from __future__ import annotations

import os
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from orchestra.folders import read_file
from orchestra.watch.interest import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pathspec import GitIgnoreSpec

    from orchestra.watch.interest import Interest, Rule

__all__ = ["GITIGNORE", "Filter", "Walk"]

# The .gitignore files that count in a folder, each with the folder that it is in.
_Specs: TypeAlias = "tuple[tuple[str, GitIgnoreSpec], ...]"

GITIGNORE = ".gitignore"
# Folders of tools; their contents are made from other files, or are not the project's.
_NEVER = frozenset({
    ".cache", ".direnv", ".eggs", ".git", ".hg", ".hypothesis", ".idea", ".ipynb_checkpoints", ".mypy_cache",
    ".next", ".nox", ".nuxt", ".parcel-cache", ".pytest_cache", ".ruff_cache", ".svelte-kit", ".svn", ".tox",
    ".turbo", ".venv", ".vite", ".vscode", "__pycache__", "__pypackages__", "bower_components", "build",
    "dist", "htmlcov", "node_modules", "site-packages", "venv",
})  # fmt: skip
_VENV_MARK = "pyvenv.cfg"
# Folders that are watched at most: each one costs the kernel about a kilobyte.
_MOST_FOLDERS = 5000
# The most bytes of a .gitignore that are read.
_MOST_BYTES = 1 << 18
# The suffix that a pattern requires of a path: the part after a wildcard in its last component. Without one,
# the pattern may mean a folder, with all its contents.
_TAIL = re.compile(r"[*?\]]([^*?\]/]*)$")


def _compiled(patterns: Iterable[str], invalid: list[str]) -> GitIgnoreSpec:
    """Compile patterns; invalid ones are added to `invalid`."""
    from pathspec import GitIgnoreSpec  # noqa: PLC0415 - a run without a backend has no patterns

    valid = []
    with warnings.catch_warnings():
        # `re` warns about `[[:alpha:]]`, which would be printed over the dashboard.
        warnings.simplefilter("ignore", FutureWarning)
        for pattern in patterns:
            try:
                GitIgnoreSpec.from_lines([pattern])
            except (ValueError, re.error):
                invalid.append(pattern)
            else:
                valid.append(pattern)
        return GitIgnoreSpec.from_lines(valid)


def _verdict(spec: GitIgnoreSpec, path: str) -> bool | None:
    """The verdict of a .gitignore on a path: ``True`` excludes it, ``False`` includes it.

    For a folder, the last matching pattern decides; the library would let ``*`` win over ``!*/``.
    """
    if not path.endswith("/"):
        return spec.check_file(path).include
    matching = (each.include for each in reversed(tuple(spec.patterns)) if each.match_file(path) is not None)
    return next((include for include in matching if include is not None), None)


def _below(folder: str, path: str) -> str | None:
    """Give a path relative to a folder that it is below; ``None`` if it is not."""
    prefix = folder.rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) else None


class _Matcher:
    """A rule, compiled; its paths are real ones, without links."""

    def __init__(self, rule: Rule, invalid: list[str]) -> None:
        self.rule = rule
        self.folder = os.path.realpath(rule.folder)
        # The plan's own files have names, not patterns.
        self._spec = _compiled(rule.patterns, invalid) if rule.kind is not Kind.PLAN else None
        # Most files have none of the suffixes: then no pattern is tried.
        ends = map(_TAIL.search, rule.patterns)
        self._tails = tuple(end[1] if end is not None else "" for end in ends)
        self._ignored = _compiled(rule.ignored, invalid) if rule.ignored else None
        self._ignored_in = os.path.realpath(rule.ignored_in or rule.folder)
        self._not_below = tuple(map(os.path.realpath, rule.not_below))

    def matches(self, path: str) -> bool:
        """Whether a file is wanted."""
        if not path.endswith(self._tails) or (inside := _below(self.folder, path)) is None:
            return False
        return (
            self._fits(inside)
            and not self.ignores(path)
            and not any(path == each or _below(each, path) is not None for each in self._not_below)
        )

    def ignores(self, path: str) -> bool:
        """Whether the process ignores a file; or a folder, whose path ends with a slash."""
        inside = _below(self._ignored_in, path)
        return inside is not None and self._ignored is not None and self._ignored.match_file(inside)

    def may_have(self, folder: str) -> bool:
        """Whether a folder below the rule's own may contain files that match."""
        if self.ignores(folder + "/"):
            return False
        inside = _below(self.folder, folder)
        return inside is not None and (self.rule.is_deep or self._fits(inside + "/"))

    def _fits(self, inside: str) -> bool:
        return f"/{inside}" in self.rule.patterns if self._spec is None else self._spec.match_file(inside)


class Walk:
    """The result of a walk.

    Attributes:
        linked: The targets of links in other folders, with the path of the link.
    """

    def __init__(self) -> None:
        self.folders: set[str] = set()
        self.files: set[str] = set()
        self.linked: dict[str, str] = {}
        self.is_cut = False
        self.seen: set[tuple[int, int, frozenset[_Matcher]]] = set()


class Filter:
    """Decides which files matter, to which process and as what.

    Attributes:
        invalid: Invalid patterns; they match nothing.
    """

    def __init__(self, interests: Mapping[str, Interest]) -> None:
        self.invalid: list[str] = []
        self._matchers = {
            name: [_Matcher(rule, self.invalid) for rule in interest] for name, interest in interests.items()
        }
        self._specs: dict[str, _Specs] = {}  # by folder

    def kinds(self, path: str) -> Mapping[str, Kind]:
        """Give the kind of a file for each process that it matters to."""
        found: dict[str, Kind] = {}
        for name, matchers in self._matchers.items():
            for each in matchers:
                if each.matches(path) and (each.rule.is_named or not self._is_ignored(path, each.folder)):
                    found[name] = each.rule.kind
                    break
        return found

    def is_kept(self, folder: str) -> bool:
        """Whether a new folder may contain files that matter, or is on the way to such a folder."""
        for each in self._all():
            if each.folder == folder or _below(folder, each.folder) is not None:
                return True
            if self._is_open_to(each, folder):
                return True
        return False

    def walk(self) -> Walk:
        """Find all folders that have to be watched, and all files that matter."""
        self._specs.clear()
        walk = Walk()
        by_folder: dict[str, set[_Matcher]] = {}
        for each in self._all():
            by_folder.setdefault(each.folder, set()).add(each)
        for folder, matchers in sorted(by_folder.items()):
            if os.path.isdir(folder):
                self._visit(folder, frozenset(matchers), walk)
            else:
                walk.folders.add(_nearest(folder))  # where it would appear
        return walk

    def _all(self) -> Iterator[_Matcher]:
        for matchers in self._matchers.values():
            yield from matchers

    def _visit(self, root: str, matchers: frozenset[_Matcher], walk: Walk) -> None:
        waiting = [(root, matchers)]
        while waiting:
            folder, active = waiting.pop()
            try:
                status = os.stat(folder)
            except OSError:  # it is gone
                continue
            mark = (status.st_dev, status.st_ino, active)
            if mark in walk.seen:  # a link leads back to it
                continue
            if len(walk.folders) >= _MOST_FOLDERS:
                walk.is_cut = True
                return
            walk.seen.add(mark)
            names, entries = _entries(folder)
            if _VENV_MARK in names and folder != root:
                continue
            # When it becomes readable, the folder above reports it.
            if os.access(folder, os.R_OK):
                walk.folders.add(folder)
            for path, is_folder, is_link in entries:
                if is_folder:
                    left = frozenset(each for each in active if self._is_open_to(each, path))
                    if left:
                        waiting.append((path, left))
                elif self.kinds(path):
                    walk.files.add(path)
                    if is_link:
                        _follow_link(path, walk)

    def _is_open_to(self, matcher: _Matcher, folder: str) -> bool:
        """Whether a folder is kept, as one below a matcher's."""
        name = folder.rpartition("/")[2]
        return (
            name not in _NEVER
            and matcher.may_have(folder)
            and (matcher.rule.is_named or not self._is_ignored(folder + "/", matcher.folder))
        )

    def _is_ignored(self, path: str, root: str) -> bool:
        """Whether a .gitignore excludes a path; the nearest one decides.

        If one excludes all of `root`, it was not written with the process in mind, and does not count.
        """
        for folder, spec in self._specs_for(path.rstrip("/").rpartition("/")[0]):
            include = _verdict(spec, path[len(folder) + 1 :])
            inside = _below(folder, root)
            if include is False or (include and not (inside and _verdict(spec, inside + "/"))):
                return include
        return False

    def _specs_for(self, folder: str) -> _Specs:
        """The .gitignore files that count in a folder, nearest first; up to that of its repository."""
        found = self._specs.get(folder)
        if found is None:
            found = ()
            with suppress(OSError):
                content = read_file(os.path.join(folder, GITIGNORE), most=_MOST_BYTES)
                lines = content.decode("utf-8-sig", "replace").splitlines()
                found = ((folder, _compiled(lines, [])),)
            if folder and not os.path.exists(os.path.join(folder, ".git")):
                found += self._specs_for(folder.rpartition("/")[0])
            self._specs[folder] = found
        return found


def _entries(folder: str) -> tuple[set[str], list[tuple[str, bool, bool]]]:
    """The names in a folder; and for each its path, and whether it is a folder, and a link."""
    names, found = set(), []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            names.add(entry.name)
            with suppress(OSError, UnicodeEncodeError):
                entry.name.encode()  # watchfiles accepts only names in UTF-8
                found.append((entry.path, entry.is_dir(), entry.is_symlink()))
    return names, found


def _follow_link(path: str, walk: Walk) -> None:
    target = os.path.realpath(path)
    if os.path.exists(target):
        walk.folders.add(os.path.dirname(target))
        walk.linked[target] = path


def _nearest(folder: str) -> str:
    return str(next(each for each in Path(folder).parents if each.is_dir()))
