"""What the dashboard knows: the whole run as it is now, fed by events, bounded in memory.

`Model.apply` takes one event at a time and must keep up with the loudest child (tens of thousands of lines a
second), so the model is updated in place and a line costs one append to a ring. The screen samples it: it
compares `Model.version`, which counts the events, and draws only what the model holds at that moment.

Not here: time, tasks, the terminal, rich. `now` is an argument, in seconds since the epoch.
"""

from __future__ import annotations

from collections import deque
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from msgspec import structs

from orchestra.child.lines import without_colours
from orchestra.dashboard.log import Log
from orchestra.dashboard.requests import Hints, Requests
from orchestra.dashboard.words import is_blank, sentence, short_seconds
from orchestra.events import (
    ErrorCleared,
    ErrorShown,
    FilesChanged,
    InputWanted,
    Notice,
    OutputLine,
    OutputPaused,
    PlanChanged,
    ProcessMeasured,
    RunEnded,
    RunStarted,
    State,
    StateChanged,
    UpstreamSwitched,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.events import Event

__all__ = ["Model", "Overall", "Process"]

_LAST_LINES = 10
# More of one line is never shown at once: a bundler may write megabytes without a line end.
_LINE_CHARACTERS = 4096

_UP = frozenset({State.RUNNING, State.READY, State.COMPLETED})
_RUNS = frozenset({State.STARTING, State.RUNNING, State.READY, State.UNHEALTHY, State.STOPPING})


class Process:
    """The state of one process.

    Attributes:
        index: Its number, which decides its colour: its place in the Procfile, or the lowest free one.
        started_at: The start time of the current child; ``None`` if none runs.
        tail: The last lines of its newest child, oldest first.
        crashes: How often it has ended unexpectedly.
        reloads: How often it was started again for another reason: a saved file, an order, or its own reload.
        error: The current exception, until the process works again.
        prompt: Its last question; it still waits if its unfinished line is the same.
    """

    def __init__(self, name: str, index: int) -> None:
        self.name = name
        self.index = index
        self.newest = StateChanged(process=name, state=State.WAITING, previous=State.WAITING)
        self.since = 0.0
        self.started_at: float | None = None
        self.tail: deque[str] = deque(maxlen=_LAST_LINES)
        self.crashes = 0
        self._reloads = 0
        self.measured: ProcessMeasured | None = None
        self.error: ErrorShown | None = None
        self.prompt: InputWanted | None = None

    @property
    def state(self) -> State:
        """The current state."""
        return self.newest.state

    @property
    def reloads(self) -> int:
        """See the class."""
        return max(self._reloads, self.newest.restarts - self.crashes)

    def uptime(self, now: float) -> float | None:
        """Give the seconds since the child was spawned; ``None`` if none runs."""
        return None if self.started_at is None else max(now - self.started_at, 0.0)

    def change(self, event: StateChanged) -> None:
        """Take a change of its state into account."""
        if event.state is not self.state:
            self.since = event.at
            self._count(event)
            if event.state in (State.INSTALLING, State.STARTING):
                self.tail.clear()
        if event.state not in _RUNS or event.pid is None:
            self.started_at = None
        elif event.pid != self.newest.pid or self.started_at is None:
            # `ready_after` gives the start time of a child that was ready before we attached.
            self.started_at = event.at - (event.ready_after or 0.0)
        self.newest = event

    def _count(self, event: StateChanged) -> None:
        has_crashed = self.state in (State.BACKING_OFF, State.FAILED)
        if event.state in (State.BACKING_OFF, State.FAILED):
            self.crashes += not has_crashed
        elif event.state is State.STARTING and self.started_at is not None and not has_crashed:
            self._reloads += 1
        if event.state not in _RUNS:
            self.measured = self.prompt = None


class Overall(NamedTuple):
    """The state of the run as a whole: one that represents all processes, and that in a few words."""

    state: State
    text: str


class Model:
    """The current state of the run.

    Attributes:
        version: Counts the events; the screen compares it with its last value.
        url: The one address; ``None`` without a proxy, or before the run has begun.
        ready_after: Seconds from the beginning to the first moment when everything was up.
        processes: By name, in the order of the Procfile.
        paused: Unfinished lines, by process and stream; the newest last.
        hints: Hints about problems with requests.
    """

    def __init__(self) -> None:
        self.version = 0
        self.url: str | None = None
        self.started: RunStarted | None = None
        self.ended: RunEnded | None = None
        self.ready_after: float | None = None
        self.processes: dict[str, Process] = {}
        self.log = Log()
        self.paused: dict[tuple[str, str], OutputPaused] = {}
        self.requests = Requests()
        self.hints = Hints()
        self.warning: Notice | None = None

    def __repr__(self) -> str:
        return f"<Model of {len(self.processes)} processes after {self.version} events>"

    def apply(self, event: Event) -> None:
        """Take one event into account."""
        self.version += 1
        match event:
            case OutputLine():  # First, because nearly all events are lines.
                self._write(event)
            case StateChanged():
                self._change(event)
            case OutputPaused():
                # Removed first, so that the newest is the last.
                self.paused.pop((event.process, event.stream), None)
                if event.text:
                    self.paused[event.process, event.stream] = event
            case UpstreamSwitched() | FilesChanged():
                self.log.add(event)
            case ErrorShown():
                self._process(event.process).error = event
            case ErrorCleared():
                self._process(event.process).error = None
            case InputWanted():
                self._process(event.process).prompt = event
            case ProcessMeasured():
                if event.process in self.processes:
                    self.processes[event.process].measured = event
            case Notice():
                self.log.add(event)
                if event.level != "info":
                    self.warning = event
            case RunStarted():
                self.started, self.url = event, event.url
                self._have(event.processes)
            case PlanChanged():
                self.log.add(event)
                self._have(event.processes)
            case RunEnded():
                self.ended = event
            case _:
                self.requests.apply(event)
        if not isinstance(event, OutputLine):
            self.hints.see(event, self.requests)

    def past(self) -> list[Event]:
        """Give events that turn an empty model into this one, oldest first."""
        events: list[Event | None] = [self.started, *self.log, *self.requests.past(), *self.paused.values()]
        for each in self.processes.values():
            events += [each.newest, each.error, each.prompt, each.measured]
        known = {id(event): event for event in events if event is not None}
        return sorted(known.values(), key=lambda event: event.seq)

    def asking(self) -> list[Process]:
        """Give the processes that wait at a prompt, the newest last."""
        return [
            process
            for (name, _), begun in self.paused.items()
            if (process := self.processes.get(name)) is not None
            and process.prompt is not None
            and without_colours(begun.text).strip() == process.prompt.prompt
        ]

    def errors(self) -> list[ErrorShown]:
        """Give the current errors, oldest first."""
        found = [each.error for each in self.processes.values() if each.error is not None]
        return sorted(found, key=lambda error: error.seq)

    def overall(self) -> Overall:
        """Sum up: the worst state of any process, in words."""
        processes = self.processes.values()
        if self.ended is not None:
            return Overall(State.STOPPED, self.ended.reason or "ended")
        failed = [each.name for each in processes if each.state is State.FAILED]
        down = [each.name for each in processes if each.state in (State.BACKING_OFF, State.UNHEALTHY)]
        up = sum(each.state in _UP for each in processes)
        if any(each.state is State.STOPPING for each in processes):
            return Overall(State.STOPPING, "stopping")
        if failed:
            return Overall(State.FAILED, f"{_some(failed)} failed")
        if down:
            return Overall(State.BACKING_OFF, f"{_some(down)} {'is' if len(down) == 1 else 'are'} down")
        stopped = [each.name for each in processes if each.state is State.STOPPED]
        if stopped and up + len(stopped) == len(processes):
            return Overall(State.STOPPED, f"{_some(stopped)} stopped")
        if up < len(processes) or not processes:
            of = f" {up}/{len(processes)}" if len(processes) > 1 else ""
            return Overall(State.STARTING, f"{'starting' if self.ready_after is None else 'restarting'}{of}")
        if any(each.state is State.RUNNING for each in processes):
            return Overall(State.RUNNING, "running")  # whether that one is ready is not known
        took = "" if self.ready_after is None else f" in {short_seconds(self.ready_after)}"
        return Overall(State.READY, f"ready{took}")

    def _process(self, name: str) -> Process:
        process = self.processes.get(name)
        if process is None:
            taken = {each.index for each in self.processes.values()}
            free = next(index for index in count() if index not in taken)
            process = self.processes[name] = Process(name, free)
        return process

    def _have(self, names: Sequence[str]) -> None:
        self.processes = {name: each for name, each in self.processes.items() if name in names}
        self.processes = {name: self._process(name) for name in names}
        self.paused = {source: each for source, each in self.paused.items() if source[0] in names}

    def _write(self, event: OutputLine) -> None:
        if len(event.text) > _LINE_CHARACTERS:
            event = structs.replace(event, text=event.text[:_LINE_CHARACTERS])
        if self.paused:
            self.paused.pop((event.process, event.stream), None)
        process = self._process(event.process)
        is_repeated = is_blank(event.text) and process.tail and is_blank(process.tail[-1])
        if not is_repeated:
            process.tail.append(event.text)
            self.log.add(event)

    def _change(self, event: StateChanged) -> None:
        process = self._process(event.process)
        if process.state is not event.state and sentence(event):
            self.log.add(event)
        process.change(event)
        is_up = all(each.state in _UP for each in self.processes.values())
        if is_up and self.ready_after is None and self.started is not None:
            self.ready_after = max(event.at - self.started.at, 0.0)


def _some(names: list[str]) -> str:
    return " and ".join(names) if len(names) <= 2 else f"{len(names)} processes"
