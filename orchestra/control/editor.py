"""Which editor opens a file at a line, and by which command.

`[reload] editor` is a command, in which ``{file}`` and ``{line}`` are replaced; without them, the position is
appended in the editor's own form. ``"auto"`` is the first of: ``ORCHESTRA_EDITOR``; ``VISUAL`` or ``EDITOR``,
if that editor has a window of its own; the first known editor that is installed. A command is split into
words before the file is filled in, and no shell reads it: a file name cannot become a command.

Pure. Not here: whether a file may be opened (`app`), starting the command (`server`).
"""

from __future__ import annotations

import shlex
from pathlib import PurePath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["NO_EDITOR", "editor_command"]

NO_EDITOR = (
    'no editor was found: set [reload] editor = "code -g {file}:{line}", or the environment variable'
    " ORCHESTRA_EDITOR, to a command that opens one"
)

_GOTO = ("-g", "{file}:{line}")
_PLACE = ("{file}:{line}",)
_LINE_FIRST = ("--line", "{line}", "{file}")
# Editors with a window of their own, in the order of the search, and how they take a line.
_KNOWN = {
    "code": _GOTO,
    "cursor": _GOTO,
    "windsurf": _GOTO,
    "zed": _PLACE,
    "subl": _PLACE,
    "idea": _LINE_FIRST,
    "pycharm": _LINE_FIRST,
}


def editor_command(
    setting: str,
    file: str,
    line: int,
    *,
    environ: Mapping[str, str],
    which: Callable[[str], str | None],
) -> list[str] | None:
    """Return the command that opens a path at a line, or `ValueError`; ``None`` without an editor."""
    words = _words(setting, environ, which)
    if not words:
        return None
    if not any("{file}" in word for word in words):
        words += _KNOWN.get(PurePath(words[0]).name, ("{file}",))
    # The file last: its name may contain braces.
    return [word.replace("{line}", str(line)).replace("{file}", file) for word in words]


def _words(setting: str, environ: Mapping[str, str], which: Callable[[str], str | None]) -> list[str]:
    if setting != "auto":
        return shlex.split(setting)
    if words := shlex.split(environ.get("ORCHESTRA_EDITOR", "")):
        return words
    for name in ("VISUAL", "EDITOR"):
        words = shlex.split(environ.get(name, ""))
        if words and PurePath(words[0]).name in _KNOWN:
            return words
    return next(([name] for name in _KNOWN if which(name)), [])
