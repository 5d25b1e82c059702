r"""Words in a command that its shell does not have: ``source`` is bash's, and ``/bin/sh`` may be dash.

A search for words outside of quotes, not a grammar: what is quoted is not seen (``bash -c '[[ … ]]'`` is
right), and what is not known is not claimed. Not here: programs that are missing (`programs`).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["foreign_word", "knows_bash"]

_QUOTED = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
_BEGIN = r"(?:^|[;&|({!]|\b(?:then|do|else|if|while|until))\s*"
# What it looks like, and what to write in its place that every shell has; empty: nothing as short.
_WORDS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "source": (re.compile(_BEGIN + r"source\s"), ". FILE"),
    "[[": (re.compile(_BEGIN + r"\[\[\s"), "[ … ]"),
    "pushd": (re.compile(_BEGIN + r"(?:pushd|popd)\b"), "(cd DIR && …)"),
    "shopt": (re.compile(_BEGIN + r"(?:shopt|declare|typeset)\s"), ""),
    "function": (re.compile(_BEGIN + r"function\s+\w"), "NAME() { …; }"),
    "{1..3}": (re.compile(r"(?<!\$)\{\w+\.\.\w+(?:\.\.\w+)?\}"), "1 2 3"),
    "{a,b}": (re.compile(r"(?<!\$)\{[^{}\s,]*,[^{}\s]*\}"), "a b"),
    "<<<": (re.compile(r"<<<"), "echo … | COMMAND"),
    "<(…)": (re.compile(r"[<>]\("), ""),
    "&>": (re.compile(r"&>>?(?!&)"), "> FILE 2>&1"),
    "|&": (re.compile(r"\|&"), "2>&1 |"),
}
# Shells that know all of this, also when they are called sh.
_KNOWING = frozenset({"bash", "ksh", "ksh93", "mksh", "zsh"})


def knows_bash(shell: str) -> bool:
    """Whether a shell knows what is bash's; one that we do not know is not judged."""
    program = shell.split(maxsplit=1)[0]
    name = os.path.basename(os.path.realpath(program) if "/" in program else program)  # noqa: PTH119 - text
    return name in _KNOWING or name not in {"ash", "busybox", "dash", "sh"}


def foreign_word(command: str) -> tuple[str, str] | None:
    """Find the first word in a command that is bash's, with what every shell has in its place."""
    bare = _QUOTED.sub(lambda found: "_" * len(found[0]), command)
    found = (
        (match.start(), word, instead)
        for word, (form, instead) in _WORDS.items()
        if (match := form.search(bare))
    )
    return next(((word, instead) for _, word, instead in sorted(found)), None)
