"""Quiet processes: what they write is kept everywhere, but not shown as it comes.

What happens to them is shown as of all others, and when one fails or does not come up, its last lines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.events import Event, OutputLine, OutputPaused, StateChanged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestra.config.plan import Plan

__all__ = ["Quiet"]


class Quiet:
    """Decides which events people are shown: `names` are the processes whose lines they are not."""

    def __init__(self, plan: Plan) -> None:
        self.follow(plan)

    def follow(self, plan: Plan) -> None:
        """Go by another plan from now on."""
        self.names = frozenset(each.name for each in plan.processes if each.quiet)

    def shown(self, event: Event) -> Iterator[Event]:
        """Give what is shown of an event: nothing, itself, or itself after the lines that explain it."""
        if not isinstance(event, OutputLine | OutputPaused | StateChanged) or event.process not in self.names:
            yield event
        elif isinstance(event, StateChanged):
            for text in event.last_lines if event.state is not event.previous else ():
                yield OutputLine(
                    process=event.process, stream="stdout", text=text, time=event.time, seq=event.seq
                )
            yield event
