"""Regular expressions that are compiled when they are first used.

A start that only prints a line uses few of those that its modules name; compiling all of them would take a
twentieth of it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, AnyStr, Generic, cast

__all__ = ["regex"]

if TYPE_CHECKING:
    from re import Pattern


def regex(text: AnyStr, flags: int = 0) -> Pattern[AnyStr]:
    """Do what `re.compile` does, at the first use; an invalid `text` raises `re.error` only then."""
    return cast("Pattern[AnyStr]", _Uncompiled(text, flags))


class _Uncompiled(Generic[AnyStr]):
    def __init__(self, text: AnyStr, flags: int) -> None:
        self._text: AnyStr = text
        self._flags = flags

    def __getattr__(self, name: str) -> object:
        found = getattr(re.compile(self._text, self._flags), name)
        setattr(self, name, found)  # From now on it is found without us.
        return found
