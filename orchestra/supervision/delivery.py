"""The way of a child's output to the log file, the sinks and the bus.

Sinks are awaited with all lines, in order, so that a slow reader slows the child down and loses nothing; the
bus never waits. Only at the end of a run, sinks that do not accept anything are given up. Colours are removed
here, once for the tail, the log file and `symptoms`.

Lines that were read together are delivered together, with one time, so that each line costs little.

Not here: what the lines mean (`symptoms`), reading them (`child/lines`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, TypeAlias

import trio

from orchestra.child.lines import without_colours
from orchestra.child.logfile import LogFile
from orchestra.events import InputWanted, OutputLine, OutputPaused, StreamName
from orchestra.supervision.symptoms import is_prompt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence
    from pathlib import Path

    from orchestra.bus import Bus
    from orchestra.config.plan import ProcessPlan

__all__ = ["Delivery", "ProcessOutput", "Sink", "log_settings"]

# Takes lines of one stream of a process.
Sink: TypeAlias = "Callable[[Sequence[OutputLine]], Awaitable[None]]"
See: TypeAlias = "Callable[[StreamName, Sequence[str], str], object]"

# Lines between two checkpoints: a millisecond's work, so that other tasks need not wait longer.
_LINES_AT_A_TIME = 500
# Seconds that a sink may take at the end for lines that it gets at once.
_SINK_STALL_TIMEOUT = 5.0
# The most lines that are quoted of a failed process: enough for the end of a Python traceback.
_TAIL_LINES = 20


class Delivery:
    """Passes lines to the sinks, which are awaited, then to the bus."""

    def __init__(self, bus: Bus, sinks: Iterable[Sink]) -> None:
        self.has_lost = False  # what a log file should have
        self._bus = bus
        self._sinks = tuple(sinks)
        self._is_ending = False
        # Lines are stamped in their turn, so that a slow reader does not mix up the order.
        self._turn = trio.Lock()
        self._delivering = trio.CancelScope()  # around the newest lines

    async def deliver(self, process: str, stream: StreamName, lines: Sequence[str]) -> None:
        """Deliver lines of a process, in order."""
        for start in range(0, len(lines), _LINES_AT_A_TIME):
            async with self._turn:
                if not self._sinks and not self._bus.wants(OutputLine):
                    return
                with trio.CancelScope() as self._delivering:
                    if self._is_ending:
                        self.expect_end()
                    await self._deliver(process, stream, lines[start : start + _LINES_AT_A_TIME])
                if self._delivering.cancelled_caught:
                    self._sinks = ()

    async def _deliver(self, process: str, stream: StreamName, texts: Sequence[str]) -> None:
        first, now = self._bus.number(len(texts))
        lines = [
            OutputLine(process=process, stream=stream, text=text, seq=seq, time=now)
            for seq, text in enumerate(texts, first)
        ]
        for sink in self._sinks:
            await sink(lines)
        if self._bus.wants(OutputLine):
            for line in lines:
                self._bus.publish(line)

    def expect_end(self) -> None:
        """From now on, abandon the sinks if lines wait for them for too long."""
        self._is_ending = True
        self._delivering.deadline = trio.current_time() + _SINK_STALL_TIMEOUT


class ProcessOutput:
    """The output of one process of the plan, from all of its children.

    `tail` has the last lines, without colours, of the newest child: those of the one before it until the new
    one has written a line, has ended, or is late.
    """

    def __init__(self, plan: ProcessPlan, delivery: Delivery, bus: Bus) -> None:
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._is_tail_old = False
        self._name = plan.name
        self._delivery = delivery
        self._bus = bus
        self._logfile = _log_file(plan)

    def begin_child(self) -> None:
        """Clear the tail with the next line; until then it shows the end of the last child."""
        self._is_tail_old = True

    def end_child(self) -> None:
        """Clear the tail if the newest child has written nothing, and so explains nothing."""
        if self._is_tail_old:
            self.tail.clear()

    async def write(
        self, stream: StreamName, lines: Sequence[str], partial: str | None, *, see: See | None = None
    ) -> None:
        """Deliver output: whole lines, then perhaps the beginning of the next one.

        `see` is called with all of that, without colours, before it is delivered.
        """
        # Lines contain no line ends, so they can be searched together.
        plain = without_colours("\n".join(lines)).split("\n") if lines else lines
        if see is not None:
            see(stream, plain, without_colours(partial or ""))
        if plain:
            if self._is_tail_old:
                self.tail.clear()
                self._is_tail_old = False
            self.tail.extend(plain)
            await self._log(plain)
            await self._delivery.deliver(self._name, stream, lines)
        if partial is not None:
            self._bus.emit(OutputPaused(process=self._name, stream=stream, text=partial))
            if is_prompt(prompt := without_colours(partial)):
                self._bus.emit(InputWanted(process=self._name, prompt=prompt.strip()))

    async def follow(self, plan: ProcessPlan) -> None:
        """Use the log file of another plan of the process from now on."""
        before, self._logfile = self._logfile, _log_file(plan)
        if before is not None:
            await before.aclose()

    def close(self) -> None:
        """Close the log file."""
        if self._logfile is not None:
            self._logfile.close()

    async def _log(self, lines: Sequence[str]) -> None:
        if self._logfile is None:
            return
        try:
            await self._logfile.write(lines)
        except OSError as exc:
            self._delivery.has_lost = True
            text = f"its log file is not written any more: {exc.filename}: {exc.strerror}"
            self._bus.notice("log-broken", text, process=self._name)


def log_settings(plan: ProcessPlan) -> tuple[Path | None, int, int]:
    """Give the settings of a process's log file."""
    return plan.log_file, plan.log_bytes, plan.log_backups


def _log_file(plan: ProcessPlan) -> LogFile | None:
    path, max_bytes, backups = log_settings(plan)
    return None if path is None else LogFile(path, max_bytes=max_bytes, backups=backups)
