"""Saying what went wrong: on standard error, ``error: ...`` and ``hint: ...``.

Not here: what is said (`errors`).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from orchestra.errors import ConfigErrors, OrchestraError

__all__ = ["complain", "show_error"]


def show_error(error: OrchestraError) -> int:
    """Say all that is wrong, and give the exit status."""
    for each in error.errors if isinstance(error, ConfigErrors) else (error,):
        if each.message:
            complain(str(each), each.hint)
    return error.exit_code


def complain(message: str, hint: str) -> None:
    """Say one thing, and the next step."""
    red, cyan, plain = "\x1b[31m\x1b[1m", "\x1b[36m", "\x1b[0m"
    if not sys.stderr.isatty() or "NO_COLOR" in os.environ:
        red = cyan = plain = ""
    with suppress(OSError):
        sys.stderr.write(f"{red}error: {plain}{message}\n")
        if hint:
            sys.stderr.write(f"{cyan} hint: {plain}{hint}\n")
        sys.stderr.flush()
