"""What goes over `live`, as JSON texts: what a page says of itself, and what it is told.

A text has at most 64 KiB, whatever a program has written: of an error that is longer, less is told.

Not here: which page is told what (`tabs`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, json, to_builtins

from orchestra.child.lines import without_colours
from orchestra.events import ErrorShown, OutputLine, encode

__all__ = ["MAX_MESSAGE", "Page", "Source", "error_text", "log_text", "read_page", "text_of"]

MAX_MESSAGE = 65536
# How much is told of an error: frames and lines, and the characters of each. The last fits in any case.
_ERROR_SIZES = ((50, 2000), (20, 400), (5, 100))
# Characters of a line of output that the browser's console gets.
_MAX_LINE = 2000
# Where the level stands in a line of a log.
_LEVEL_WITHIN = 200
_is_error = re.compile(r"\b(?:ERROR|CRITICAL|FATAL|Traceback)\b|^[\w.]+(?:Error|Exception)(?::|$)").search
_is_warning = re.compile(r"\bWARN(?:ING)?\b|\w+Warning:").search

Source: TypeAlias = Literal["backend", "frontend", "orchestra"]


class Page(Struct, frozen=True, tag="page", rename={"source": "from"}):
    """What a page says of itself, once after each connect.

    Attributes:
        source: What its document came from; ``from`` in JSON.
        age: Milliseconds since the document's first byte arrived.
        path: Without the query.
        status: Of the document.
    """

    source: Source
    age: Annotated[float, Meta(ge=0)]
    path: str = "/"
    status: int = 200


def read_page(text: str) -> Page:
    """Read what a page says of itself, or `msgspec.DecodeError`; keys that are not known are left alone."""
    return json.decode(text, type=Page)


def text_of(kind: str, **fields: object) -> str:
    """Write a message for a page."""
    return encode({"type": kind, **fields}).decode("utf-8")


def error_text(event: ErrorShown, *, at: str = "") -> str:
    """Write the message that shows an error: the event, or as much of it as fits.

    With `at`, the path of the page that it concerns, a page at another address does not show it.
    """
    text, whole = "", to_builtins(event)
    if at:
        whole["at"] = at
    for count, size in _ERROR_SIZES:
        text = encode(_cut(whole, count, size)).decode("utf-8")
        if len(text.encode("utf-8")) <= MAX_MESSAGE:
            break
    return text


def _cut(value: Any, count: int, size: int) -> Any:
    match value:
        case str():
            return value[:size]
        case list() | tuple():
            return [_cut(each, count, size) for each in value[-count:]]
        case dict():
            return {name: _cut(each, count, size) for name, each in value.items()}
        case _:
            return value


def log_text(event: OutputLine) -> str:
    """Write the message that shows a line of output, with the level that stands in it."""
    text = without_colours(event.text)[:_MAX_LINE]
    begin = text[:_LEVEL_WITHIN]
    level = "error" if _is_error(begin) else "warning" if _is_warning(begin) else "info"
    return text_of("log", process=event.process, level=level, text=text)
