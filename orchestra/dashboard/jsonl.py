"""The run as JSON lines, for programs: every event is one object a line, as `events.encode` writes it.

Output that has begun but has no line end yet is not told: a line is told when it is whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from msgspec import structs

from orchestra.child.lines import without_colours
from orchestra.events import ON_REQUEST, Event, OutputLine, OutputPaused, encode_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.dashboard.writer import Output

__all__ = ["JsonPrinter"]


class JsonPrinter:
    """Prints every event as one JSON object a line.

    Lines are numbered as they are written: a line of output that had to wait for room comes after events that
    the bus stamped later.

    Attributes:
        kinds: The types of event that `observe` is for.
    """

    kinds = tuple(kind for kind in get_args(Event) if kind not in (OutputLine, OutputPaused, *ON_REQUEST))

    def __init__(self, writer: Output) -> None:
        self._writer = writer
        self._count = 0

    def observe(self, event: Event) -> None:
        """Take an event from the bus."""
        self._put(event)

    async def write_lines(self, lines: Sequence[OutputLine]) -> None:
        """Take lines of child output; wait while the buffer is full."""
        await self._writer.wait_for_room()
        self._put(
            *(
                structs.replace(line, text=without_colours(line.text)) if "\x1b" in line.text else line
                for line in lines
            )
        )

    def _put(self, *events: Event) -> None:
        numbered = [structs.replace(event, seq=seq) for seq, event in enumerate(events, self._count + 1)]
        self._count += len(numbered)
        self._writer.put(encode_lines(numbered))

    def finish(self) -> None:
        """Put what has to stand at the end: nothing."""
