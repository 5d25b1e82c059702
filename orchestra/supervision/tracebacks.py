"""Finds exceptions in the output of a program.

A Python traceback has a head, frames, and a last line at the same margin: the exception. Decoration depends
on the program: a log prefix before the head, the margins ``|`` of an exception group, a box that rich draws.
Of chained exceptions, and of those in a group, the last one counts; the group itself does not.

Everything that is kept is bounded: any program may write anything. Not here: what follows for the process.
"""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra.events import Frame
from orchestra.patterns import regex

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable

__all__ = ["FIRST_WORDS", "Failure", "TracebackReader", "own_frame"]

# The most frames of a traceback, the newest ones: a recursion has a thousand.
_MOST_FRAMES = 50
_MOST_CHARACTERS = 2000

_HEAD = "Traceback (most recent call last)"
# Words that the first line of every exception contains.
FIRST_WORDS = (_HEAD, "  File ")
# The decoration of an exception group, and of rich.
_MARGIN = regex(r"^(?: *[|+│](?: |$))+")
_GROUP = regex(r".* \(\d+ sub-exceptions?\)")
_CHAINED = regex(r"^(?:During handling of|The above exception was) ")
_RULE = regex(r"^[\s|+\-─╭╮╰╯│┃]*\d*[\s|+\-─╭╮╰╯│┃]*$")
_FRAME = regex(r'^\s+File "(?P<file>.+?)", line (?P<line>\d+)(?:, in (?P<function>.+))?$')
_RICH_FRAME = regex(r"^│ (?P<file>/.+?):(?P<line>\d+) in (?P<function>.+?) *│$")
_RICH_CODE = regex(r"^│ ❱ +\d+ (?:│ )?(?P<code>.*?) *│$")
# A helper process of Python that cleans up after `multiprocessing` (Hypercorn's workers). Its complaints
# about missing resources come last, and are not about the program.
_TIDYING = "/multiprocessing/resource_tracker.py"
_CARETS = regex(r"^[\s~^]+$")
# `SyntaxError: invalid syntax`, `socket.gaierror: ...`, `KeyboardInterrupt`: a dotted name, perhaps words.
_EXCEPTION = regex(r"(?P<type>(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*)(?:: (?P<message>.*))?")
# A line of another task's log in the middle of a traceback looks like an exception.
_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
_NOT_OWN = regex(r"/(?:site-packages|dist-packages|\.?venv|\.tox|\.nox|lib/python\d[\d.]*)/")


class Failure(Struct, frozen=True):
    """An exception that a program has written.

    Attributes:
        line: Its last line, as written: ``ValueError: no``.
        frames: The frames of its traceback, the oldest first; before them those of the exception that it was
            raised from, or during whose handling it was raised.
    """

    line: str
    frames: tuple[Frame, ...] = ()

    @property
    def error_type(self) -> str:
        """Its class, as written: ``django.core.exceptions.ImproperlyConfigured``."""
        return self.line.partition(":")[0]

    @property
    def message(self) -> str:
        """Its message; may be empty."""
        return self.line.partition(":")[2].strip()


class TracebackReader:
    """Reads the lines of one child.

    Attributes:
        error: The last line of the last traceback, if no output has followed.
    """

    __slots__ = ("_frames", "_has_margin", "_is_chained", "_is_open", "error")

    def __init__(self) -> None:
        self._is_open = self._is_chained = self._has_margin = False
        self._frames: list[Frame] = []
        self.error = ""

    def __repr__(self) -> str:
        return f"<TracebackReader: {self.error or 'none'}>"

    @property
    def is_idle(self) -> bool:
        """Whether a line matters only if it has one of the `FIRST_WORDS`."""
        return not self._is_open and not self.error

    def see(self, line: str) -> Failure | None:
        """Read one line, without colours; return the exception that ends with it, if one does."""
        if _HEAD in line:
            self._is_open = True
            if not self._is_chained:
                self._frames = []
            self._is_chained = False
            self._has_margin = line.lstrip()[:1] in ("+", "|", "╭")
            return None
        if not self._is_open:
            if self.error and not _RULE.match(line):
                self.error = ""
                self._is_chained = _CHAINED.match(_MARGIN.sub("", line)) is not None
            if line.startswith("  File ") and (found := _FRAME.match(line)) and not found["function"]:
                # A program that cannot be compiled has no frame that could stand above.
                self._is_open, self._has_margin, self._frames = True, False, []
                self._add(found)
            return None
        return self._read(line)

    def _read(self, line: str) -> Failure | None:
        rest = line
        if self._has_margin:
            if _RULE.match(line):
                return None
            if found := _RICH_FRAME.match(line):
                self._add(found)
            elif self._frames and (found := _RICH_CODE.match(line)):
                self._set_code(found["code"])
            rest = _MARGIN.sub("", line)
        if found := _FRAME.match(rest):
            self._add(found)
        elif (
            not rest[:1].isspace() and (found := _EXCEPTION.fullmatch(rest)) and found["type"] not in _LEVELS
        ):
            self._is_open = False
            is_group = self._has_margin and _GROUP.fullmatch(rest)
            if is_group or (self._frames and self._frames[-1].file.endswith(_TIDYING)):
                return None
            self.error = rest[:_MOST_CHARACTERS]
            return Failure(self.error, tuple(self._frames[-_MOST_FRAMES:]))
        elif self._frames and not self._frames[-1].code and rest[:1].isspace() and not _CARETS.match(rest):
            self._set_code(rest)
        return None

    def _add(self, found: re.Match[str]) -> None:
        frame = Frame(found["file"], int(found["line"][:9]), found["function"] or "")
        if len(self._frames) >= 2 * _MOST_FRAMES:
            del self._frames[:_MOST_FRAMES]
        self._frames.append(frame)

    def _set_code(self, code: str) -> None:
        last = self._frames[-1]
        self._frames[-1] = Frame(last.file, last.line, last.function, code.strip()[:_MOST_CHARACTERS])


def own_frame(frames: Iterable[Frame], folders: Iterable[str]) -> Frame | None:
    """Find the last of the frames, oldest first, in a file of the project, not of a package.

    The returned path is absolute, like those of `folders`; relative names are relative to the first of these.
    """
    roots = [posixpath.join(folder, "") for folder in folders]
    own = None
    for frame in frames:
        if not roots or frame.file.startswith("<"):
            continue
        path = posixpath.normpath(posixpath.join(roots[0], frame.file))
        for root in roots:
            if path.startswith(root) and not _NOT_OWN.search("/" + path.removeprefix(root)):
                own = Frame(path, frame.line, frame.function, frame.code)
    return own
