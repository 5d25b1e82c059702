"""Fits text to a width, and has the styles, symbols and numbers that all parts of the picture share.

Child output and data from clients go through `AnsiDecoder`, never through markup, and cannot leave their line
or their columns. Long lines are folded.

Few colours: green, orange and red mean good, busy and bad and nothing else; each process has its own colour;
details are grey. Only the URL, the selection and problems are bold. All colours are readable on a dark and on
a light background.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from rich.ansi import AnsiDecoder
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.style import Style
from rich.text import Text

from orchestra.child.lines import clean
from orchestra.dashboard.words import colour_number, short_seconds
from orchestra.events import Notice, State, StateChanged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.dashboard.log import LogEvent

__all__ = [
    "ADDRESS", "BAD", "BUSY", "GOOD", "LOOK", "MAX_ROWS", "PLAIN", "QUIET", "STRONG", "WORST",
    "colour", "decode", "fit", "longest", "one_line", "rule", "size_of", "sized", "to_ascii", "tone_of",
    "whole_seconds",
]  # fmt: skip

QUIET = Style(color="color(102)")
"""The style of details that should not draw attention."""

MAX_ROWS = 4
"""The most rows of one line of output: one line of minified JavaScript must not push out everything else."""

# `Text.wrap` consults it about justification, which is not used.
_CONSOLE = Console(_environ={})
# Characters that would end a line for some terminals or for rich, or reverse the text beside them.
_SEPARATORS = re.compile("[\u2028-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """Make text one line without control characters; it may have come over the network."""
    return _SEPARATORS.sub(" ", clean(text)).replace("\t", " ").replace("\x1b", "")


# While lines scroll through the log, each of them is drawn in many frames.
@lru_cache(maxsize=1024)
def decode(text: str, width: int) -> tuple[Text, ...]:
    """Turn a line of output into rows of at most `width` cells. The result is shared: not to be changed."""
    # Enough for all rows, even if nearly all of the text is colours.
    text = _SEPARATORS.sub(" ", clean(text[: width * MAX_ROWS * 8]))
    decoded = AnsiDecoder().decode_line(text)
    decoded.rstrip()
    rows = decoded.wrap(_CONSOLE, width, overflow="fold")
    if len(rows) > MAX_ROWS:
        last = rows[MAX_ROWS - 1]
        last.truncate(width - 1, overflow="crop")
        last.append("…", QUIET)
    return tuple(fit(row, width) for row in rows[:MAX_ROWS])


def sized(text: str, size: int) -> str:
    """Make text exactly `size` cells wide: cut off, or padded."""
    text = one_line(text)
    if cell_len(text) > size:
        text = set_cell_size(text, size - 1) + "…"
    return set_cell_size(text, size)


def fit(text: Text, width: int, *, pad: bool = False) -> Text:
    """Give a copy that is one line of at most (with `pad`: exactly) `width` cells."""
    text = text.copy()
    if not pad:
        text.rstrip()
    text.no_wrap, text.overflow, text.end = True, "crop", "\n"
    text.truncate(max(width, 0), overflow="ellipsis", pad=pad)
    return text


# Substitutes for our own symbols on a terminal that can do ASCII only.
_ASCII = str.maketrans("─│●○◌◐◍◑↻✓✗■▸…↑↓←→µ", "-|*o~~!~@+x.>.^v<>u")


def to_ascii(text: str) -> str:
    """Replace characters outside ASCII, cell by cell."""
    if text.isascii():
        return text
    text = text.translate(_ASCII)
    return "".join(each if each.isascii() else "?" * cell_len(each) for each in text)


GOOD = Style(color="green")
BUSY = Style(color="color(166)")  # orange: the yellow of many terminals cannot be read on white
BAD = Style(color="red")
WORST = Style(color="red", bold=True)
PLAIN = Style.null()
STRONG = Style(bold=True)
ADDRESS = Style(bold=True, underline=True)

# All are one cell wide, and differ in shape for users that see no colours.
LOOK: dict[State, tuple[str, Style]] = {
    State.WAITING: ("○", QUIET),
    State.INSTALLING: ("◌", BUSY),
    State.STARTING: ("◐", BUSY),
    State.RUNNING: ("●", GOOD),
    State.READY: ("●", GOOD),
    State.UNHEALTHY: ("◍", BAD),
    State.STOPPING: ("◑", BUSY),
    State.BACKING_OFF: ("↻", BUSY),
    State.COMPLETED: ("✓", GOOD),
    State.FAILED: ("✗", WORST),
    State.STOPPED: ("■", QUIET),
}

# A longer name is cut off: it would push everything else out of a narrow terminal.
_LONGEST_NAME = 16


def longest(names: Iterable[str]) -> int:
    """The cells of the longest name, as far as names are shown."""
    return min(max((cell_len(one_line(name)) for name in names), default=0), _LONGEST_NAME)


@lru_cache(maxsize=64)
def colour(index: int) -> Style:
    """Give the style of a process by its number."""
    return Style(color=f"color({colour_number(index)})")


def rule(title: str, note: str, width: int, *, is_chosen: bool = False) -> Text:
    """Draw the title of a pane."""
    left = f" ── {title} "
    right = f" {one_line(note)} ── " if note else "── "
    line = left + "─" * max(width - cell_len(left) - cell_len(right), 0) + right
    return Text(line, STRONG if is_chosen else QUIET)


def tone_of(event: LogEvent) -> Style:
    """Give the style of a line of orchestra itself."""
    match event:
        case Notice(level="error") | StateChanged(state=State.FAILED):
            return BAD
        case Notice(level="warning") | StateChanged(state=State.BACKING_OFF | State.UNHEALTHY):
            return BUSY
        case _:
            return QUIET


def whole_seconds(seconds: float) -> str:
    """Write a running duration: it changes once a second, and so does the screen."""
    return f"{max(int(seconds), 0)} s" if seconds < 60 else short_seconds(seconds)


def size_of(count: int) -> str:
    """Write a number of bytes: ``812 B``, ``3.4 kB``, ``52 MB``."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.1f} {unit}" if size < 9.95 and unit != "B" else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
