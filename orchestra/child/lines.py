r"""Turns the bytes that a child writes into the lines that people read.

Lines end at ``\n``; of a line that was drawn repeatedly, the final appearance is kept (`row`). Bytes that are
not UTF-8 become U+FFFD. Of all control sequences only colours (SGR, ECMA-48 8.3.117) pass: a child must not
move our cursor, clear our screen or set our title.

Nearly all lines consist of text and colours: after one search for anything else they are passed on unchanged.
A line is split only if it is longer than `LONGEST_LINE`.

Pure: bytes in, text out.
"""

from __future__ import annotations

import codecs

from orchestra.child.row import LONGEST_LINE, MOST_PARAMETERS, Row
from orchestra.patterns import regex

__all__ = ["LineSplitter", "clean", "without_colours"]

_SGR = regex(r"\x1b\[[0-9;:]*m")
# Bytes that plain text does not contain; the last begins U+0080 to U+009F in UTF-8.
_NOT_PLAIN = bytes([*range(0x09), *range(0x0B, 0x20), 0x7F, 0xC2])
# What makes a line more than text and colours.
_MOVES = regex(rf"\x1b(?!\[[0-9;:]{{0,{MOST_PARAMETERS}}}m)|[\x00-\x08\x0a-\x1a\x1c-\x1f\x7f-\x9f]")
# A beginning that may still turn out to be a colour, or a line's end.
_UNFINISHED = regex(rf"(?:\x1b(?:\[[0-9;:]{{0,{MOST_PARAMETERS}}})?|\r)\Z")
# Characters of a prompt or a progress bar, with all its colours. A longer text is unfinished data.
_LONGEST_PARTIAL = 8192


def clean(text: str) -> str:
    """Make one line of any text, without control sequences and characters but colours and tabs."""
    if not _MOVES.search(text):
        return text
    row = Row()
    return " ".join([*row.write(text), *row.end()])


def without_colours(line: str) -> str:
    """Remove the colours, too, from a clean line."""
    return _SGR.sub("", line) if "\x1b" in line else line


class LineSplitter:
    """Collects the bytes of one stream and returns whole lines.

    Work is linear in the bytes, and memory holds one line, which is split after `longest` characters.
    """

    def __init__(self, *, longest: int = LONGEST_LINE) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        # The unfinished line: text and colours, then perhaps half a sequence; or a row that is drawn.
        self._begun: list[str] = []
        self._size = 0
        self._unfinished = ""
        self._row = Row(longest=longest)
        self._longest = longest
        self._is_drawn = False

    def resize(self, columns: int) -> None:
        """Take note of the terminal's new width."""
        self._row.columns = columns

    def feed(self, chunk: bytes) -> list[str]:
        """Take the next bytes; return the lines that are complete now, without their ends."""
        *whole, rest = self._decode(chunk).split("\n")
        lines: list[str] = []
        if whole:
            lines = self._continue(whole[0]) + self._end()
            if len(chunk.translate(None, _NOT_PLAIN)) == len(chunk) <= self._longest:
                lines += whole[1:]
            else:
                for text in whole[1:]:
                    lines += self._whole(text)
        if rest:
            lines += self._continue(rest)
        return lines

    def partial(self) -> str:
        """Return the beginning of the unfinished line; empty if it is too long for a prompt."""
        if self._is_drawn:
            text = self._row.text()
            return text if len(text) <= _LONGEST_PARTIAL else ""
        if self._size > _LONGEST_PARTIAL:
            return ""
        self._begun = ["".join(self._begun)]
        return self._begun[0]

    def close(self) -> list[str]:
        """Return the rest: the last line, if it had no end and shows anything."""
        return [*self._continue(self._decode(b"", True)), *filter(None, self._end())]

    def _whole(self, text: str) -> list[str]:
        line = text.removesuffix("\r")
        if _MOVES.search(line) or len(line) > self._longest:
            return self._continue(text) + self._end()
        return [line]

    def _continue(self, text: str) -> list[str]:
        """Add to the line; return the lines that are complete now."""
        text = self._unfinished + text
        if self._is_drawn:
            return self._row.write(text)
        unfinished = _UNFINISHED.search(text, max(len(text) - MOST_PARAMETERS - 2, 0))
        self._unfinished = unfinished[0] if unfinished else ""
        text = text.removesuffix(self._unfinished)
        if _MOVES.search(text) or self._size + len(text) > self._longest:
            text = "".join((*self._begun, text, self._unfinished))
            self._forget()
            self._is_drawn = True
            return self._row.write(text)
        self._begun.append(text)
        self._size += len(text)
        return []

    def _end(self) -> list[str]:
        if self._is_drawn:
            self._is_drawn = False
            return self._row.end()
        text = "".join(self._begun)
        self._forget()
        return [text]

    def _forget(self) -> None:
        self._begun, self._size, self._unfinished = [], 0, ""
