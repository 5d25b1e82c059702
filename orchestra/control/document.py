"""Puts a tag into one HTML document while it passes.

Strategy. The tag belongs right after the start tag of ``head`` or, without one, before the first content:
after the byte order mark, the doctype, the start tag of ``html``, comments and white space. Up to there the
document is read token by token, as the HTML standard's tokenizer does (13.2.5); the rest, such as ``</head>``
in a script's string, is not looked at. Only an incomplete token is held back; everything before it passes at
once. So the result does not depend on how the bytes are split into pieces.

Documents pass unchanged if their encoding does not contain ASCII's bytes, if they are XML whose root is not
``html``, or if they have no content.

The text after the tag is kept as it passes, up to a limit, and searched once: `policies` finds a ``<meta>``
with a Content-Security-Policy in it. That governs only what follows it, so the tag is always before it.

Not here: which documents get a tag, and which tag (`inject`).
"""

from __future__ import annotations

import html
import re
from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Document", "PlainDocument", "policies"]

# A licence in a comment has some hundred bytes; after a longer token the document gets no tag.
LONGEST_TOKEN = 16384
# A token of so many bytes is known to lack only its `>`.
_ENDS_BY_MARK = range(6, LONGEST_TOKEN)
# Bytes of a document that are searched for policies.
WATCHED = 65536

_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xfe\xff", b"\xff\xfe")
# UTF-16 or UTF-32 without a mark.
_WIDE = (b"\0", b"<\0")

# What follows the name of a tag.
_NAME_END = rb"(?=[\t\n\f\r />])"
# A `=` begins a name where no value can be; an unfinished value must not be taken for a name.
_ATTRIBUTE = (
    rb"[\t\n\f\r /]*+([^\t\n\f\r />][^\t\n\f\r />=]*+)"
    rb"(?:[\t\n\f\r ]*+=[\t\n\f\r ]*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\t\n\f\r >\"'][^\t\n\f\r >]*+)|(?=>))"
    rb"|(?![\t\n\f\r ]*+=))"
)
_UNNAMED = re.sub(rb"\((?!\?)", rb"(?:", _ATTRIBUTE)
_REST_OF_TAG = rb"(?:" + _UNNAMED + rb")*+[\t\n\f\r /]*+>"

_blanks = re.compile(rb"[\t\n\f\r ]+").match
_open_tag = re.compile(rb"<(html|head)" + _NAME_END, re.IGNORECASE).match
_whole_tag = re.compile(rb"<[a-z]++" + _REST_OF_TAG, re.IGNORECASE).match

# Contents of a head that are not markup, metas, and the end of the head.
_in_head = re.compile(
    rb"<!--.*?(?:-->|\Z)|<(script|style|title|noscript|template)" + _NAME_END + rb".*?(?:</\1|\Z)"
    rb"|<meta" + _NAME_END + rb"(?:(?P<meta>" + _REST_OF_TAG + rb")|.*)|(?P<end></head|<body)" + _NAME_END,
    re.DOTALL | re.IGNORECASE,
).finditer
# Text that may still become a token of another kind than content.
_UNDECIDED = frozenset(start[:size] for start in (b"<html", b"<head", b"<!-") for size in range(1, 6))
_attributes = re.compile(_ATTRIBUTE).finditer


class _At(Enum):
    START = auto()
    PROLOG = auto()
    # After the start tag of `html`.
    ROOT = auto()
    # The tag was put in, or there is no place for it.
    DECIDED = auto()


class _Token(Enum):
    BLANK = auto()
    # Or a doctype, or an instruction.
    COMMENT = auto()
    HTML = auto()
    HEAD = auto()
    CONTENT = auto()
    # The kind of the token, or its end, cannot be known yet.
    UNFINISHED = auto()


class PlainDocument:
    """A plain text that becomes a document, after a tag."""

    def __init__(self, tag: bytes) -> None:
        self._start = b"<!doctype html>" + tag + b'<pre style="white-space: pre-wrap">'

    def feed(self, data: bytes, *, is_last: bool) -> bytes:  # noqa: ARG002 - as of a `Document`
        """Take the next part of the text; return what passes."""
        start, self._start = self._start, b""
        # Only ASCII is replaced, so any encoding that has it keeps its bytes.
        return start + html.escape(data.decode("latin-1"), quote=False).encode("latin-1")


class Document:
    """A document that passes and gets a tag, in XHTML if it `is_xml`; `on_start` gets what follows it."""

    def __init__(self, tag: bytes, *, is_xml: bool, on_start: Callable[[bytes], object]) -> None:
        self._tag = tag
        self._is_xml = is_xml
        self._on_start = on_start
        self._at = _At.START
        self._held = b""
        self._watched: bytearray | None = None

    def feed(self, data: bytes, *, is_last: bool) -> bytes:
        """Take the next part of the document; return what passes."""
        before = self._at
        if before is _At.DECIDED:
            self._watch(data, is_last=is_last)
            return data
        held, self._held = self._held, b""
        if len(held) in _ENDS_BY_MARK and b">" not in data and not is_last:
            # Otherwise each part would read it from its beginning.
            self._held = held + data
            return b""
        data = held + data
        place = self._pass_prolog(data)
        if self._at is not _At.DECIDED and not is_last:
            self._held = data[place:]
            return data[:place]
        if self._watched is None:
            return data
        self._watch(data[place:], is_last=is_last)
        return data[:place] + self._tag + data[place:]

    def _pass_prolog(self, data: bytes) -> int:
        """Return how much of `data` is decided; if `_watched` is set now, the tag belongs there."""
        at = 0
        if self._at is _At.START:
            if data[:2] in _UTF_16:
                self._at = _At.DECIDED
            elif len(data) >= len(_BOM) or not any(mark.startswith(data) for mark in (_BOM, *_UTF_16)):
                self._at = _At.PROLOG
                at = len(_BOM) if data.startswith(_BOM) else 0
        while self._at in (_At.PROLOG, _At.ROOT) and at < len(data):
            token, end = _token(data, at, is_xml=self._is_xml)
            if token is _Token.UNFINISHED and end - at <= LONGEST_TOKEN:
                break
            if token is _Token.UNFINISHED or (token is not _Token.BLANK and end - at > LONGEST_TOKEN):
                self._at = _At.DECIDED
            elif token in (_Token.HEAD, _Token.CONTENT):
                if (self._at is _At.ROOT or not self._is_xml) and not data.startswith(_WIDE, at):
                    self._watched = bytearray()
                self._at = _At.DECIDED
                return end if token is _Token.HEAD else at
            elif token is _Token.HTML and not (self._is_xml and data.endswith(b"/>", at, end)):
                self._at = _At.ROOT
            at = end
        return at

    def _watch(self, data: bytes, *, is_last: bool) -> None:
        """Pass the text after the tag to `on_start`, once the whole document has arrived, or enough of it."""
        watched = self._watched
        if watched is None:
            return
        watched += data[: WATCHED - len(watched)]
        if is_last or len(watched) == WATCHED:
            self._watched = None
            self._on_start(bytes(watched))


def _token(data: bytes, at: int, *, is_xml: bool) -> tuple[_Token, int]:
    """Return which token begins there, and where it ends; an unfinished one ends with the data."""
    if match := _blanks(data, at):
        return _Token.BLANK, match.end()
    start = data[at : at + 6].lower()
    kind, end = _Token.COMMENT, 0
    if start.startswith(b"<!--"):
        # `<!-->` and `<!--->` are whole comments, `<!--!>` is not.
        ends = _after(b"-->", data, at + 2), _after(b"--!>", data, at + 4)
        end = min(filter(None, ends), default=0)
    elif start.startswith((b"<!", b"<?")) and start != b"<!-":
        end = _after(b"?>" if is_xml and start.startswith(b"<?") else b">", data, at)
    elif match := _open_tag(data, at):
        kind = _Token.HTML if match[1].lower() == b"html" else _Token.HEAD
        whole = _whole_tag(data, at)
        end = whole.end() if whole else 0
    elif start not in _UNDECIDED:
        return _Token.CONTENT, at + 1
    return (kind, end) if end else (_Token.UNFINISHED, len(data))


def _after(mark: bytes, data: bytes, at: int) -> int:
    """Return where the next such mark ends; 0 if there is none."""
    found = data.find(mark, at)
    return found + len(mark) if found >= 0 else 0


def policies(head: bytes) -> Iterator[str]:
    """Return the Content-Security-Policies of the ``<meta>`` elements of a head."""
    for match in _in_head(head):
        if match["end"]:
            return
        if meta := match["meta"]:
            found: dict[str, str] = {}
            for name, *values in map(re.Match.groups, _attributes(meta)):
                value = next(filter(None, values), b"").decode("latin-1")
                found.setdefault(name.decode("latin-1").lower(), html.unescape(value))
            if found.get("http-equiv", "").strip().lower() == "content-security-policy":
                yield found.get("content", "")
