"""Styles, symbols and numbers that all parts of the picture share.

Restraint: green, orange and red mean good, busy and bad and nothing else; each process has its own colour,
grey is for details that should not draw attention. Only the URL, what is chosen and trouble are bold. All
colours can be read on a dark and on a light background.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from orchestra.dashboard.text import QUIET, fit, one_line
from orchestra.dashboard.words import colour_number, short_seconds
from orchestra.events import Notice, State, StateChanged

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.dashboard.log import LogEvent

__all__ = [
    "ADDRESS", "BAD", "BUSY", "GOOD", "LOOK", "PLAIN", "STRONG", "WORST",
    "colour", "longest", "rule", "size_of", "tone_of", "whole_seconds",
]  # fmt: skip

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
    return fit(Text(line, STRONG if is_chosen else QUIET), width)


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
    """Write a duration that is running: it changes once a second, and so does the screen."""
    return f"{max(int(seconds), 0)} s" if seconds < 60 else short_seconds(seconds)


def size_of(count: int) -> str:
    """Write a number of bytes: ``812 B``, ``3.4 kB``, ``52 MB``."""
    size = float(count)
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.1f} {unit}" if size < 9.95 and unit != "B" else f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
