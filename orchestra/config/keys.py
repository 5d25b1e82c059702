"""The keys of the dashboard: which key has which action, by default and by the settings.

Not here: what a terminal sends for a key (`dashboard/keys`), what the actions do (`dashboard/controls`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ACTIONS", "NAMED", "bindings"]

NAMED = frozenset({
    "up", "down", "left", "right", "home", "end", "pageup", "pagedown", "delete", "enter", "tab", "space",
    "backspace", "escape", "wheel-up", "wheel-down",
    "f1", "f2", "f3", "f4", "f5", "f6", "f7", "f8", "f9", "f10", "f11", "f12",
})  # fmt: skip
"""Names of keys, beside characters and ``ctrl-a`` to ``ctrl-z``."""

_CONTROL = regex(r"ctrl-[a-z]")

ACTIONS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "up": (("up", "k"), "choose what stands above"),
    "down": (("down", "j"), "choose what stands below"),
    "only": (("enter",), "only its log, or its details"),
    "back": (("escape",), "end a search, a filter, ..."),
    "restart": (("r",), "restart the process"),
    "retry": (("R",), "start all that have failed"),
    "stop": (("s",), "stop the process, or start it"),
    "kill": (("x",), "kill the process"),
    "input": (("i",), "send it keys, until Ctrl-]"),
    "search": (("/",), "search the log"),
    "next": (("n",), "the next match, upwards"),
    "previous": (("N",), "the one before that"),
    "filter": (("f",), "show only what has a text"),
    "errors": (("e",), "show only errors in the log"),
    "pause": (("space",), "stop following, or follow"),
    "pageup": (("pageup", "b"), "a page up"),
    "pagedown": (("pagedown",), "a page down"),
    "top": (("home", "g"), "to the oldest line"),
    "bottom": (("end", "G"), "to the newest, and follow"),
    "requests": (("t",), "go to the requests, or back"),
    "slowest": (("T",), "the slowest requests first"),
    "full": (("z",), "this pane on the full screen"),
    "hide-processes": (("1",), "hide or show the processes"),
    "hide-requests": (("2",), "hide or show the requests"),
    "open": (("o",), "open the browser"),
    "clear": (("c",), "clear the log, or requests"),
    "copy": (("y",), "copy the line, or address"),
    "write": (("w",), "write the log to a file"),
    "dismiss": (("d",), "dismiss the error, or hint"),
    "help": (("?",), "this help"),
    "quit": (("q",), "stop all; attached: leave"),
    "suspend": (("ctrl-z",), "suspend"),
    "redraw": (("ctrl-l",), "draw everything again"),
}
"""All actions: their default keys, and a description that fits half of 80 columns."""


def bindings(changed: Mapping[str, str]) -> dict[str, str]:
    """Give the action of each key; `changed` has keys by action, separated by blanks.

    `ValueError`: there is no such action or key, or a key would have two actions.
    """
    found: dict[str, str] = {}
    for action, given in changed.items():
        if action not in ACTIONS:
            raise ValueError(f"{action!r} is not an action")
        for key in given.split():
            if len(key) != 1 and key not in NAMED and not _CONTROL.fullmatch(key):
                raise ValueError(f"{key!r} is not a key: a character, ctrl-x, {', '.join(sorted(NAMED))}")
            if key in found:
                raise ValueError(f"{key!r} is given to both {found[key]!r} and {action!r}")
            found[key] = action
    usual = [(key, action) for action, (keys, _) in ACTIONS.items() if action not in changed for key in keys]
    return found | {key: action for key, action in usual if key not in found}
