"""What the user looks at, and what keys do: pure state, and orders for what is to be done outside.

`press` takes one key. What changes only the picture is done here; what acts on the run is returned as an
`Order`. While something is typed (a search, a filter) keys are text; while a process gets input (`INPUT`),
keys do not come here at all.

Not here: which key it was (`keys`), how it looks (`view`), carrying orders out, time, tasks.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from orchestra.config.keys import bindings
from orchestra.dashboard.actions import PERFORM, scroll, type_key, type_text
from orchestra.dashboard.look import Look, Mode, Order
from orchestra.events import State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.dashboard.model import Model

__all__ = ["Controls"]

_WHEEL_LINES = 3


class Controls:
    """The state of a dashboard that is the user's.

    Attributes:
        bindings: Actions by key; some of `keys`, which has keys by action, may be wrong: `ValueError`.
        is_guest: The run is not this program's: its user leaves it, and does not end it.
        page: How many rows the log had when it was drawn last.
        now: Seconds since the epoch, when a frame was made last.
        before_input: What was looked at before a process got input.
    """

    look: Look
    before_input: Look
    page: int
    now: float
    model: Model

    def __init__(
        self, model: Model, keys: Mapping[str, str] | None = None, *, is_guest: bool = False
    ) -> None:
        self.look = self.before_input = Look()
        self.bindings = bindings(keys or {})
        self.page = 10
        self.now = 0.0
        self.model = model
        self.is_guest = is_guest

    @property
    def gives_input(self) -> bool:
        """Whether what is typed goes to a process."""
        return self.look.mode is Mode.INPUT

    def key_of(self, action: str) -> str:
        """Give the first key of an action; empty if it has none."""
        return next((key for key, bound in self.bindings.items() if bound == action), "")

    def see(self, now: float) -> Look:
        """Adjust to what the model is now, and return the look: the selection follows a failure."""
        self.now = now
        look, processes = self.look, self.model.processes
        failed = [name for name, each in processes.items() if each.state is State.FAILED]
        if processes and look.selected not in processes:
            self.set(selected=next(iter(processes)), was_moved=False)
        if failed and not look.was_moved and look.selected not in failed:
            self.set(selected=failed[0])
        return self.look

    def say(self, message: str) -> None:
        """Show a message until the next key."""
        self.set(message=message)

    def press(self, key: str) -> Order | None:
        """Do what a key is for."""
        self.see(self.now)
        self.set(message="")
        if self.look.mode in (Mode.SEARCH, Mode.FILTER):
            type_key(self, key)
            return None
        if self.look.mode is Mode.HELP:
            self.set(mode=Mode.NORMAL)
            if self.bindings.get(key) != "quit":
                return None
        if key in ("wheel-up", "wheel-down"):
            scroll(self, -_WHEEL_LINES if key == "wheel-up" else _WHEEL_LINES)
            return None
        action = self.bindings.get(key)
        return PERFORM[action](self) if action is not None else None

    def paste(self, text: str) -> None:
        """Take what was pasted: a part of what is typed, but never keys."""
        if self.look.mode in (Mode.SEARCH, Mode.FILTER):
            type_text(self, " ".join(text.split()))
        else:
            self.say(
                f"pasted text is not taken for keys; press {self.key_of('input')} to give it to a process"
            )

    def end_input(self) -> None:
        """Keys are for the dashboard again, and what was looked at before is shown."""
        selected, self.look = self.look.selected, self.before_input
        self.set(selected=selected, was_moved=True)

    def set(self, **changes: Any) -> None:
        """Change the look. What is looked at while the log is not followed stays, however much comes."""
        self.look = replace(self.look, **changes)
        self.model.log.hold(is_held=self.look.until is not None)
