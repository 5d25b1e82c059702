"""Decodes what a terminal sends into names of keys: a character, or ``up``, ``enter``, ``ctrl-l``.

Not here: which key has which action (`config/keys`), what that does (`controls`).
"""

from __future__ import annotations

import re

__all__ = ["KeyDecoder", "Pastes", "key_label"]

# ECMA-48 5.4 and xterm's "Alt and Meta Keys", "PC-Style Function Keys": what ends CSI or SS3.
_SEQUENCES = {
    "A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end",
    "1~": "home", "4~": "end", "5~": "pageup", "6~": "pagedown", "3~": "delete",
    "P": "f1", "Q": "f2", "R": "f3", "S": "f4", "15~": "f5", "17~": "f6", "18~": "f7",
    "19~": "f8", "20~": "f9", "21~": "f10", "23~": "f11", "24~": "f12",
}  # fmt: skip
# xterm's mouse protocol 1006: the buttons of the wheel.
_WHEEL = {"64": "wheel-up", "65": "wheel-down"}
_PASTE_BEGINS, _PASTE_ENDS = b"\x1b[200~", b"\x1b[201~"
_CHARACTERS = {
    "\r": "enter", "\n": "enter", "\t": "tab", " ": "space",
    "\x7f": "backspace", "\x08": "backspace", "\x1b": "escape",
}  # fmt: skip


def key_label(key: str) -> str:
    """The name of a key for people: ``Ctrl-L``, ``↑``, ``Enter``."""
    signs = {"up": "↑", "down": "↓", "left": "←", "right": "→", "escape": "Esc", "enter": "Enter"}
    if len(key) == 1:
        return key
    if key.startswith("ctrl-"):
        return f"Ctrl-{key[5:].upper()}"
    return signs.get(key, key.capitalize())


class Pastes:
    """Separates pasted from typed text: xterm's bracketed paste (DEC private mode 2004)."""

    def __init__(self) -> None:
        self._is_pasted = False
        self._partial = b""

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """Take the next bytes; return them in pieces, and for each whether it was pasted."""
        data, pieces = self._partial + data, []
        while True:
            mark = _PASTE_ENDS if self._is_pasted else _PASTE_BEGINS
            piece, found, rest = data.partition(mark)
            if not found:
                break
            pieces.append((piece, self._is_pasted))
            self._is_pasted, data = not self._is_pasted, rest
        # The beginning of a mark waits for the rest; a lone escape is a key, and does not wait.
        shortest = 1 if self._is_pasted else 2
        lengths = range(len(mark) - 1, shortest - 1, -1)
        cut = next((length for length in lengths if data.endswith(mark[:length])), 0)
        self._partial = data[len(data) - cut :]
        pieces.append((data[: len(data) - cut], self._is_pasted))
        return [piece for piece in pieces if piece[0]]


class KeyDecoder:
    """Turns the bytes of a terminal into names of keys; unknown sequences are dropped.

    A sequence may arrive in pieces. A lone escape that ends a piece is the key itself; if the next piece
    continues as a sequence does, that is still one.
    """

    def __init__(self) -> None:
        self._partial = b""

    def feed(self, data: bytes) -> list[str]:
        """Take the next bytes; return the keys that are complete now."""
        if self._partial != b"\x1b" or data[:1] in (b"[", b"O"):
            data = self._partial + data
        partial = _PARTIAL_SEQUENCE.search(data)
        self._partial = b"" if partial is None else partial[0][:_LONGEST_SEQUENCE]
        data = data if partial is None else data[: partial.start()]
        keys = [key for piece in _PIECE.findall(data.decode("utf-8", "ignore")) for key in _named(piece)]
        # A lone escape is reported at once: the rest of a sequence nearly always comes with it.
        return [*keys, "escape"] if self._partial == b"\x1b" else keys


# CSI, parameters, intermediates, final; SS3 and one character; with Alt: escape and the key; else the key.
_PIECE = re.compile(r"\x1b+(?:\[[0-?]*[ -/]*[@-~]|O[ -~]|[^\x1b])?|[^\x1b]")
_PARTIAL_SEQUENCE = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|O)?\Z")
# No sequence of a terminal is longer; pasted text must not pile up.
_LONGEST_SEQUENCE = 64


def _named(piece: str) -> list[str]:
    bare = piece.lstrip("\x1b")
    if bare == piece:
        code = ord(piece)
        control = f"ctrl-{chr(code + 96)}" if code < 27 else "ctrl-]" if code == 29 else piece
        return [_CHARACTERS.get(piece, control)]
    if not bare:
        return ["escape"]
    if len(bare) == 1 or bare[0] not in "[O":
        return []  # with Alt
    is_mouse = bare.startswith("[<")
    known = _WHEEL.get(bare[2:].partition(";")[0]) if is_mouse else _SEQUENCES.get(bare[1:])
    return [known] if known else []
