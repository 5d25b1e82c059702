"""Text made to fit: any text, wherever it comes from, in exactly so many cells of a terminal.

Child output and what clients send is data: it goes through `AnsiDecoder`, never through markup, and can
neither leave its line nor its columns. Long lines are folded.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from rich.ansi import AnsiDecoder
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.style import Style

from orchestra.child.lines import clean

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["MAX_ROWS", "QUIET", "decode", "fit", "one_line", "sized", "to_ascii"]

QUIET = Style(color="color(102)")
"""The style of details that should not draw attention."""

MAX_ROWS = 4
"""The rows of one line of output: one line of minified JavaScript must not push out everything else."""

# `Text.wrap` asks it how to justify, which is not asked for.
_CONSOLE = Console(_environ={})
# Characters that would end a line for some terminals or for rich, or turn round what stands beside the text.
_SEPARATORS = re.compile("[\u2028-\u202e\u2066-\u2069]")


def one_line(text: str) -> str:
    """Make sure that text is one line without control characters; it may have come over the network."""
    return _SEPARATORS.sub(" ", clean(text)).replace("\t", " ").replace("\x1b", "")


# While lines scroll through the log, each of them is drawn in many frames.
@lru_cache(maxsize=1024)
def decode(text: str, width: int) -> tuple[Text, ...]:
    """Turn a line of output into rows of at most `width` cells. The result is shared: not to be changed."""
    # Enough for all rows, even if nearly all of it are colours.
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


# What stands for our own symbols on a terminal that can do ASCII only.
_ASCII = str.maketrans("─│●○◌◐◍◑↻✓✗■▸…↑↓←→µ", "-|*o~~!~@+x.>.^v<>u")


def to_ascii(text: str) -> str:
    """Replace what is not ASCII, cell by cell."""
    if text.isascii():
        return text
    text = text.translate(_ASCII)
    return "".join(each if each.isascii() else "?" * cell_len(each) for each in text)
