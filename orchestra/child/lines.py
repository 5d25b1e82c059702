r"""From the bytes that a child writes to the lines that people read.

Lines end at ``\n`` or ``\r\n``; of a line that a progress bar has drawn over and over (``\r``), what is
visible in the end is left. Bytes that are no UTF-8 become U+FFFD. Of all control sequences only colours
(SGR, ECMA-48 8.3.117) pass: a child must not move our cursor, clear our screen or set our title. Nothing
else is dropped, and no line is ever split.

Pure: bytes in, text out.
"""

from __future__ import annotations

import codecs
import re

__all__ = ["LineSplitter", "clean", "without_colours"]

# In the order in which they can begin: CSI, the string sequences (OSC, DCS, SOS, PM, APC; an unfinished one
# reaches to the end of the line), then any other escape; last, lone control characters but the tab.
_CONTROL = re.compile(
    r"""
      (?P<sgr> \x1b\[ [0-9;:]* m )
    | (?: \x1b\[ | \x9b ) [0-?]* [ -/]* [@-~]?
    | (?: \x1b[\]PX^_] | [\x9d\x90\x98\x9e\x9f] ) .*? (?: \x07 | \x1b\\ | \x9c | $ )
    | \x1b [ -/]* [0-~]?
    | [\x00-\x08\x0a-\x1f\x7f-\x9f]
    """,
    re.VERBOSE,
)
_HAS_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
# Characters of a prompt or a progress bar, with all its colours. More is data that is still on its way.
_LONGEST_PARTIAL = 8192
_SGR = re.compile(r"\x1b\[[0-9;:]*m")


def clean(line: str) -> str:
    """Remove every control sequence and character but colours and tabs."""
    if not _HAS_CONTROL.search(line):
        return line
    if "\r" in line:
        line = next((part for part in reversed(line.split("\r")) if part), "")
    return _CONTROL.sub(lambda match: match["sgr"] or "", line)


def without_colours(line: str) -> str:
    """Remove the colours, too, from a clean line."""
    return _SGR.sub("", line) if "\x1b" in line else line


class LineSplitter:
    """Collects the bytes of one stream and gives back whole lines.

    A line may be of any length: memory holds one line, and work is linear in the bytes.
    """

    def __init__(self) -> None:
        self._partial: list[bytes] = []
        self._size = 0  # of all of it: a child may write byte by byte

    def feed(self, chunk: bytes) -> list[str]:
        """Take the next bytes; return the lines that they have completed, without their ends."""
        *whole, rest = chunk.split(b"\n")
        if whole and self._partial:
            whole[0] = b"".join((*self._partial, whole[0]))
            self._partial.clear()
            self._size = 0
        if rest:
            self._partial.append(rest)
            self._size += len(rest)
        return [_decode(line) for line in whole]

    def partial(self) -> str:
        """Return the beginning of the line that has no end yet; nothing if it is too long to be a prompt."""
        if self._size > _LONGEST_PARTIAL:
            return ""
        self._partial = [b"".join(self._partial)] if self._partial else []
        if not self._partial:
            return ""
        # A character of which only some bytes have come is not wrong: it is not shown yet.
        text, _ = codecs.utf_8_decode(self._partial[0].removesuffix(b"\r"), "replace", False)
        return clean(text)

    def close(self) -> list[str]:
        """Return what is left: the last line, if it had no end."""
        rest, self._partial, self._size = b"".join(self._partial), [], 0
        return [_decode(rest)] if rest else []


def _decode(line: bytes) -> str:
    return clean(line.removesuffix(b"\r").decode("utf-8", "replace"))
