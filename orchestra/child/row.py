r"""One row of a terminal: the final appearance of a line that was drawn over repeatedly.

Spinners and progress bars move back (``\r``, ``\b``, CHA, CUB, ...), erase (EL, ED) and write again. `Row`
does what a terminal does within one row (ECMA-48; the numbers in `Row._control` are its sections): a
character takes one cell, a wide one two, a tab those up to the next stop; new characters replace the old
ones. Of attributes only SGR is kept, for each cell as it was when the cell was drawn.

Other rows are not modelled. A vertical move ends the line and begins a new one, which holds only what is
drawn from then on. There is no right margin, as the text may be for a file; only moves end at `Row.columns`.

Everything is bounded: unfinished sequences, the cells that can still be drawn over, the text before them. The
result depends on the characters alone, not on how calls of `write` split them.

Pure: text in, text out.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING
from unicodedata import category, east_asian_width

from orchestra.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["LONGEST_LINE", "MOST_PARAMETERS", "Row"]

LONGEST_LINE = 16 * 1024 * 1024
"""Characters after which a line becomes several, so that memory is bounded."""
MOST_PARAMETERS = 256
"""Characters of the parameters of a control sequence; it is broken off after them."""

# Cells that can be drawn over. A terminal cannot take back either what has wrapped into the row above.
_CELLS = 8192
_TAB = 8
# Characters of one cell: a letter and its combining marks.
_LONGEST_CELL = 16

_TOKEN = regex(
    rf"""
      (?P<text> [^\x00-\x1f\x7f-\x9f]+ )
    | (?P<csi> (?: \x1b\[ | \x9b ) (?P<parameters> [0-?]{{0,{MOST_PARAMETERS}}} )
        (?P<between> [ -/]{{0,4}} ) (?P<final> [@-~]? ) )
    | (?P<string> (?: \x1b[\]PX^_] | [\x9d\x90\x98\x9e\x9f] )
        [^\x07\x18\x1a\x1b\x9c]* (?P<end> [\x07\x18\x1a\x9c]? ) )
    | (?P<escape> \x1b [ -/]{{0,4}} (?P<last> [0-~]? ) )
    | (?P<control> [\x00-\x1f\x7f-\x9f] )
    """,
    re.VERBOSE,
)
# A string sequence (OSC, DCS, SOS, PM, APC) whose beginning was read.
_STRING_REST = regex(r"[^\x07\x18\x1a\x1b\x9c]*[\x07\x18\x1a\x9c]?")
# CUU, CUD, CNL, CPL, CUP, VPR, VPA, HVP, VPB; SU, SD, IL, DL, and DECSTBM, which homes the cursor.
_VERTICAL = frozenset("ABEFHedfkSTLMr")
# IND, NEL, RI, RIS; the same as one character, and what moves to the next row.
_VERTICAL_ESCAPES = frozenset({"\x1bD", "\x1bE", "\x1bM", "\x1bc"})
_VERTICAL_CONTROLS = frozenset("\n\x0b\x0c\x84\x85\x8d")
# Another screen.
_OTHER_SCREEN = frozenset({"?47", "?1047", "?1049"})

# The SGR code that ends all attributes, and the last code.
_ENDS = {
    22: (1, 2), 23: (3, 20), 24: (4,), 25: (5, 6), 27: (7,), 28: (8,), 29: (9,), 10: (11,),
    39: (30,), 49: (40,), 50: (26,), 54: (51, 52), 55: (53,), 59: (58,), 65: (60, 61, 62, 63, 64),
    75: (73, 74),
}  # fmt: skip
_LAST_CODE = 107


class Row:
    """One row.

    Args:
        longest: The characters after which a line becomes several.

    Attributes:
        columns: How far to the right the cursor can be moved without drawing.
    """

    def __init__(self, columns: int = 80, *, longest: int = LONGEST_LINE) -> None:
        self.columns = columns
        self._longest = longest
        self._unread = ""  # a sequence that has not come to its end
        self._is_in_string = False
        self._ended: list[str] = []  # changed by writing
        self._clear()

    def _clear(self, *, is_entered: bool = False) -> None:
        """Begin the next line; `is_entered`: by a move, so it may have contents already."""
        self._head: list[str] = []  # of a long line, the part that cannot be drawn over any more
        self._head_size = 0
        self._cells: list[str] = []  # a wide character is in its first cell, and its others are empty
        self._pens: list[str] = []  # the attributes of each cell, as parameters of SGR
        self._pen = ""
        self._column = 0
        self._saved: int | None = None
        self._is_entered = is_entered

    def write(self, text: str) -> list[str]:
        """Draw; return the lines that were completed by that."""
        if self._is_in_string:
            rest = _STRING_REST.match(text)
            assert rest is not None  # noqa: S101 - it matches nothing, too
            self._is_in_string = rest.end() == len(text) and text[-1:] not in ("\x07", "\x18", "\x1a", "\x9c")
            text = text[rest.end() :]
        text, self._unread = self._unread + text, ""
        for token in _TOKEN.finditer(text):
            self._read(token, is_last=token.end() == len(text))
        ended, self._ended = self._ended, []
        return ended

    def text(self) -> str:
        """Give the visible text."""
        return "".join((*self._head, *_rendered(self._cells, self._pens)))

    def end(self) -> list[str]:
        """End the line; return it, unless it was entered by a move and nothing was drawn."""
        text, is_entered = self.text(), self._is_entered
        self._unread, self._is_in_string = "", False
        self._clear()
        return [] if is_entered and not text else [text]

    def _read(self, token: re.Match[str], *, is_last: bool) -> None:
        match token.lastgroup:
            case "text":
                self._draw(token[0])
            case "csi" | "escape" if is_last and not (token["final"] or token["last"]):
                self._unread = token[0]
            case "csi" if not token["between"]:
                self._control(token["parameters"], token["final"])
            case "string":
                self._is_in_string = is_last and not token["end"]
            case "escape":
                self._escape(token[0])
            case "control":
                self._control_character(token[0])
            case _:
                pass

    # --- What is drawn ---

    def _draw(self, text: str) -> None:
        if len(text) > _CELLS:
            for begin in range(0, len(text), _CELLS):
                self._draw(text[begin : begin + _CELLS])
        elif text.isascii():
            self._put(text, len(text))
        else:
            for character in text:
                if width := _width(character):
                    self._put((character, "")[:width], width)
                else:
                    self._combine(character)
        while len(self._cells) >= 2 * _CELLS:
            self._give_up(_CELLS)

    def _put(self, glyphs: Iterable[str], size: int) -> None:
        """Replace so many cells from the cursor on, and move it behind them."""
        begin = self._column
        if (missing := begin - len(self._cells)) > 0:
            self._replace(begin, begin, " " * missing, missing)
        self._column += size
        self._replace(begin, self._column, glyphs, size, self._pen)

    def _combine(self, mark: str) -> None:
        """Add a mark that has no cell of its own to the character before the cursor."""
        place = min(self._column, len(self._cells)) - 1
        while place > 0 and not self._cells[place]:
            place -= 1
        if place >= 0 and len(self._cells[place]) < _LONGEST_CELL:
            self._cells[place] += mark

    def _replace(self, begin: int, end: int, glyphs: Iterable[str], size: int, pen: str = "") -> None:
        """Replace some cells by others; a wide character that is cut in two becomes blanks."""
        self._part(begin)
        self._part(end)
        self._cells[begin:end] = glyphs
        self._pens[begin:end] = [pen] * size

    def _part(self, at: int) -> None:
        """Blank a wide character that this column is in the middle of."""
        cells = self._cells
        if at < len(cells) and not cells[at]:
            begin, end = at, at
            while begin > 0 and not cells[begin]:
                begin -= 1
            while end < len(cells) and not cells[end]:
                end += 1
            cells[begin:end] = " " * (end - begin)

    def _give_up(self, size: int) -> None:
        """Make the first cells final; end a line that is too long."""
        self._part(size)
        self._head += _rendered(self._cells[:size], self._pens[:size])
        self._head_size += size
        del self._cells[:size], self._pens[:size]
        self._column -= size
        self._saved = None if self._saved is None else max(self._saved - size, 0)
        if self._head_size >= self._longest:
            self._ended.append("".join(self._head))
            self._head, self._head_size = [], 0

    # --- What is moved and erased ---

    def _break(self) -> None:
        """End the line because of a vertical move, if anything of it is visible."""
        if any(cell.strip() for cell in self._cells) or self._head:
            self._ended.append(self.text())
        pen = self._pen
        self._clear(is_entered=True)
        self._pen = pen

    def _move(self, column: int) -> None:
        self._column = max(min(column, max(self.columns - 1, len(self._cells))), 0)

    def _control_character(self, character: str) -> None:
        match character:
            case "\r":
                self._column = 0
            case "\b":
                self._move(self._column - 1)
            case "\t":
                self._tab()
            case _ if character in _VERTICAL_CONTROLS:
                self._break()
            case _:
                pass

    def _tab(self) -> None:
        """Move to the next stop; at the end of the text the tab becomes a part of it."""
        width = _TAB - self._column % _TAB
        if self._column >= len(self._cells):
            self._put(("\t", *[""] * (width - 1)), width)
        else:
            self._column += width

    def _escape(self, sequence: str) -> None:
        if sequence in _VERTICAL_ESCAPES:
            self._break()
        elif sequence == "\x1b7":
            self._saved = self._column
        elif sequence == "\x1b8":
            self._restore()

    def _restore(self) -> None:
        """Move to the saved position of the cursor: in this row, or in another one."""
        if self._saved is None:
            self._break()
        else:
            self._column = self._saved

    def _control(self, parameters: str, final: str) -> None:
        number = _number(parameters)
        many = number or 1
        match final:
            case "m" if parameters[:1] not in ("<", "=", ">", "?"):  # 8.3.117 SGR
                self._pen = _blended(self._pen, parameters)
            case "K" | "J":  # 8.3.41 EL, 8.3.39 ED: of the display we have this row
                self._erase(number)
            case "G" | "`":  # 8.3.9 CHA, 8.3.57 HPA
                self._move(many - 1)
            case "C" | "a":  # 8.3.20 CUF, 8.3.59 HPR
                self._move(self._column + many)
            case "D" | "j":  # 8.3.18 CUB, 8.3.58 HPB
                self._move(self._column - many)
            case "X":  # 8.3.38 ECH
                self._blank(self._column, self._column + many)
            case "P":  # 8.3.26 DCH
                self._replace(self._column, self._column + many, "", 0)
            case "@":  # 8.3.64 ICH
                self._insert(many)
            case "s" if not parameters:
                self._saved = self._column
            case "u" if not parameters:
                self._restore()
            case "h" | "l" if parameters in _OTHER_SCREEN:
                self._break()
            case _ if final in _VERTICAL and parameters[:1] not in ("<", "=", ">", "?"):
                self._break()
            case _:
                pass

    def _erase(self, what: int | None) -> None:
        if not what:
            self._replace(self._column, len(self._cells), "", 0)
        elif what == 1:
            self._blank(0, self._column + 1)
        elif what == 2:
            self._cells, self._pens = [], []

    def _blank(self, begin: int, end: int) -> None:
        size = max(min(end, len(self._cells)) - begin, 0)
        self._replace(begin, begin + size, " " * size, size)

    def _insert(self, count: int) -> None:
        at = self._column
        count = min(count, max(self.columns - len(self._cells), 0))
        if at < len(self._cells):
            self._replace(at, at, " " * count, count)


def _number(parameters: str) -> int | None:
    """Give the first parameter; nothing if there is none, or it is private."""
    digits = parameters.partition(";")[0]
    return int(digits) if digits.isdecimal() else None


@lru_cache(maxsize=4096)
def _width(character: str) -> int:
    if category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if east_asian_width(character) in ("W", "F") else 1


def _rendered(cells: Iterable[str], pens: Iterable[str]) -> Iterator[str]:
    """Put cells together, with the sequences that set their attributes."""
    current = ""
    for cell, pen in zip(cells, pens, strict=True):
        if pen != current:
            yield f"\x1b[{pen if not current else f'0;{pen}' if pen else 0}m"
            current = pen
        yield cell
    if current:
        yield "\x1b[0m"


@lru_cache(maxsize=1024)
def _blended(pen: str, parameters: str) -> str:
    """Apply the parameters of an SGR to the current ones; return the result."""
    kept: dict[int, str] = {}
    for code, text in (*_attributes(pen), *_attributes(parameters or "0")):
        if code == 0:
            kept.clear()
        elif code in _ENDS or text == "4:0":
            for ended in _ENDS.get(code, (4,)):
                kept.pop(ended, None)
        elif code <= _LAST_CODE:
            kept[_slot(code)] = text
    return ";".join(kept.values())


def _attributes(parameters: str) -> Iterator[tuple[int, str]]:
    """Split attributes: for each its code, and its text with its arguments (``38;5;9``)."""
    parts = iter(parameters.split(";")) if parameters else iter(())
    for part in parts:
        code = int(part.partition(":")[0] or 0)
        if code in (38, 48, 58) and ":" not in part:
            kind = next(parts, "")
            yield code, ";".join((part, kind, *islice(parts, {"5": 1, "2": 3}.get(kind, 0))))
        else:
            yield code, part


def _slot(code: int) -> int:
    """Give the code that represents all mutually exclusive ones: one foreground, one background."""
    if 30 <= code <= 38 or 90 <= code <= 97:
        return 30
    if 40 <= code <= 48 or code >= 100:
        return 40
    return {21: 4}.get(code, 11 if 11 <= code <= 19 else code)
