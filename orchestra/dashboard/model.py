"""What the dashboard knows: the whole run as it is now, fed by events, bounded in memory.

`Model.apply` takes one event at a time and must keep up with the loudest child (tens of thousands of lines a
second), so the model is updated in place and a line costs two appends to rings. The screen samples it: it
looks at `Model.version`, which counts the events, and draws only what the model holds at that moment.

`sentence` puts an event into words. The plain printer and the dashboard's log say the same thing the same
way.

Never here: time, tasks, the terminal, rich. `now` is an argument, in seconds since the epoch.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias, assert_never

from msgspec import structs

from orchestra.child.lines import without_colours
from orchestra.events import (
    Notice,
    OutputLine,
    OutputPaused,
    RequestFinished,
    RequestHeld,
    RequestReleased,
    RequestReplayed,
    RunEnded,
    RunStarted,
    State,
    StateChanged,
    StreamClosed,
    StreamOpened,
    UpstreamSwitched,
)

if TYPE_CHECKING:
    from orchestra.events import Event

__all__ = [
    "OURSELVES",
    "PALETTE",
    "LogEntry",
    "Model",
    "Overall",
    "Phase",
    "Process",
    "colour_number",
    "is_blank",
    "sentence",
    "short_seconds",
]

OURSELVES = "orchestra"
"""The name before a line that no process has written."""

# Numbers of the 256-colour palette, each readable on a white and on a dark background (a test computes the
# contrast), and none of them the red, green or orange that states are shown in.
PALETTE = (33, 134, 30, 169, 136, 104, 101, 138)

# Some screens' worth of text, for what a terminal of any size can show at once.
_LINES = 2000
_REQUESTS = 200
_NOTICES = 20
_STREAMS = 1000
_TAIL = 10
# A line of blanks and colours alone is not longer.
_LONGEST_BLANK = 100
# More of one line is never shown at once: a bundler may write megabytes without a line end.
_LINE_CHARACTERS = 4096

_UP = frozenset({State.RUNNING, State.READY, State.COMPLETED})
_RUNS = frozenset({State.STARTING, State.RUNNING, State.READY, State.UNHEALTHY, State.STOPPING})

LogEntry: TypeAlias = OutputLine | Notice | StateChanged | UpstreamSwitched


@dataclass(slots=True, kw_only=True)
class Process:
    """What is known of one process.

    Attributes:
        index: Its place in the Procfile, from 0; decides its colour.
        since: When it entered its state.
        started_at: When the child that runs now was spawned; ``None`` if none runs.
        is_after_blank: Whether its newest line was blank: another one is not kept (see `is_blank`).
        tail: Its newest lines, oldest first.

    The rest is as in `StateChanged`.
    """

    name: str
    index: int
    state: State = State.WAITING
    since: float = 0.0
    started_at: float | None = None
    pid: int | None = None
    port: int | None = None
    url: str | None = None
    restarts: int = 0
    exit_code: int | None = None
    signal: str | None = None
    reason: str = ""
    ready_after: float | None = None
    is_after_blank: bool = False
    tail: deque[OutputLine] = field(default_factory=lambda: deque(maxlen=_TAIL))

    def uptime(self, now: float) -> float | None:
        """Give the seconds since the child was spawned; ``None`` if none runs."""
        return None if self.started_at is None else max(now - self.started_at, 0.0)

    def outcome(self) -> str:
        """Say how it ended, or why it is in its state: the reason if one was given, else the code."""
        if self.reason:
            return self.reason
        if self.state not in (State.FAILED, State.BACKING_OFF, State.COMPLETED):
            return ""
        return _outcome(self.exit_code, self.signal)


class Phase(Enum):
    """How the run as a whole is doing."""

    STARTING = "starting"
    READY = "ready"
    TROUBLE = "trouble"  # something is down and is being brought back
    FAILED = "failed"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Overall:
    """How the run as a whole is doing, and that in a few words."""

    phase: Phase
    text: str


class Model:
    """The run as it is now.

    Attributes:
        version: Counts the events: whoever draws compares it with what it was.
        url: The one address; ``None`` without a proxy, or before the run has begun.
        started: The event that began the run.
        ended: The event that ended it.
        ready_after: Seconds from the beginning to the first moment when everything was up.
        processes: By name, in the order of the Procfile.
        paused: Lines that were begun and wait for their end, by process and stream; the newest last.
        log: What the children wrote and what happened to them, oldest first; the newest 2000.
        requests: The newest 200, oldest first.
        held: Requests that wait for an upstream now, by id; the proxy bounds them.
        replayed_count: Of all requests of the run that were sent again.
        streams: What is open, by id.
        notices: Warnings and errors, oldest first; the newest 20.
        line_count: Of all lines of the run.
        request_count: Of all requests of the run.
    """

    def __init__(self) -> None:
        self.version = 0
        self.url: str | None = None
        self.started: RunStarted | None = None
        self.ended: RunEnded | None = None
        self.ready_after: float | None = None
        self.processes: dict[str, Process] = {}
        self.log: deque[LogEntry] = deque(maxlen=_LINES)
        self.paused: dict[tuple[str, str], OutputPaused] = {}
        self.requests: deque[RequestFinished] = deque(maxlen=_REQUESTS)
        self.held: dict[int, RequestHeld] = {}
        self.replayed_count = 0
        self.streams: dict[int, StreamOpened] = {}
        self.notices: deque[Notice] = deque(maxlen=_NOTICES)
        self.line_count = 0
        self.request_count = 0

    def __repr__(self) -> str:
        return f"<Model of {len(self.processes)} processes after {self.version} events>"

    def apply(self, event: Event) -> None:
        """Take one event into account."""
        self.version += 1
        # Before the match, because nearly all events are lines.
        if type(event) is OutputLine:
            self._write(event)
            return
        match event:
            case RunStarted():
                self.started, self.url = event, event.url
                for name in event.processes:
                    self._process(name)
            case StateChanged():
                self._change(event)
            case OutputLine():
                self._write(event)
            case OutputPaused():
                self._pause(event)
            case RequestFinished():
                self.request_count += 1
                self.requests.append(event)
            case RequestHeld():
                self.held[event.id] = event
            case RequestReleased():
                self.held.pop(event.id, None)
            case RequestReplayed():
                self.replayed_count += 1
            case UpstreamSwitched():
                self.log.append(event)
            case StreamOpened():
                if len(self.streams) < _STREAMS:
                    self.streams[event.id] = event
            case StreamClosed():
                self.streams.pop(event.id, None)
            case Notice():
                self.log.append(event)
                if event.level != "info":
                    self.notices.append(event)
            case RunEnded():
                self.ended = event
            case _:
                assert_never(event)

    def overall(self) -> Overall:
        """Sum up: the worst that is true of any process, in words."""
        processes = self.processes.values()
        if self.ended is not None:
            return Overall(Phase.ENDED, self.ended.reason or "ended")
        failed = [each.name for each in processes if each.state is State.FAILED]
        down = [each.name for each in processes if each.state in (State.BACKING_OFF, State.UNHEALTHY)]
        up = sum(each.state in _UP for each in processes)
        if any(each.state is State.STOPPING for each in processes):
            return Overall(Phase.STOPPING, "stopping")
        if failed:
            return Overall(Phase.FAILED, f"{_some(failed)} failed")
        if down:
            return Overall(Phase.TROUBLE, f"{_some(down)} {'is' if len(down) == 1 else 'are'} down")
        if up < len(processes) or not processes:
            of = f" {up}/{len(processes)}" if len(processes) > 1 else ""
            return Overall(Phase.STARTING, f"{'starting' if self.ready_after is None else 'restarting'}{of}")
        took = "" if self.ready_after is None else f" in {short_seconds(self.ready_after)}"
        return Overall(Phase.READY, f"ready{took}")

    def _process(self, name: str) -> Process:
        process = self.processes.get(name)
        if process is None:
            process = self.processes[name] = Process(name=name, index=len(self.processes))
        return process

    def _write(self, event: OutputLine) -> None:
        if len(event.text) > _LINE_CHARACTERS:
            event = structs.replace(event, text=event.text[:_LINE_CHARACTERS])
        self.line_count += 1
        if self.paused:
            self.paused.pop((event.process, event.stream), None)
        process = self._process(event.process)
        if process.is_after_blank and is_blank(event.text):
            return
        process.is_after_blank = is_blank(event.text)
        self.log.append(event)
        process.tail.append(event)

    def _pause(self, event: OutputPaused) -> None:
        # Taken out first, so that the newest is the last.
        self.paused.pop((event.process, event.stream), None)
        if event.text:
            self.paused[event.process, event.stream] = event

    def _change(self, event: StateChanged) -> None:
        process = self._process(event.process)
        if process.state is not event.state:
            process.state, process.since = event.state, event.at
            if sentence(event):
                self.log.append(event)
        if event.state not in _RUNS or event.pid is None:
            process.started_at = None
        elif event.pid != process.pid or process.started_at is None:
            # One that was ready before we came tells by `ready_after` when it was spawned.
            process.started_at = event.at - (event.ready_after or 0.0)
        process.pid, process.port, process.url = event.pid, event.port, event.url
        process.restarts, process.reason = event.restarts, event.reason
        process.exit_code, process.signal = event.exit_code, event.signal
        process.ready_after = event.ready_after
        if (
            self.ready_after is None
            and self.started is not None
            and all(each.state in _UP for each in self.processes.values())
        ):
            self.ready_after = max(event.at - self.started.at, 0.0)


def is_blank(text: str) -> bool:
    """Say whether a line shows nothing.

    On a terminal, Vite clears the screen by as many blank lines as it is high, and others do likewise. What
    people look at shows one of them; what is kept or passed on, all.
    """
    return not text or (len(text) < _LONGEST_BLANK and not without_colours(text).strip())


def sentence(event: Event) -> str:
    """Put an event into one line of words; empty for what is not worth one."""
    match event:
        case RunStarted():
            return event.url or ""
        case StateChanged():
            return _change_in_words(event)
        case Notice():
            about = f"{event.process}: " if event.process else ""
            level = "" if event.level == "info" else f"{event.level}: "
            return f"{level}{about}{event.text}" + (f" ({event.hint})" if event.hint else "")
        case RunEnded():
            reason = f": {event.reason}" if event.reason else ""
            return f"ended after {short_seconds(event.duration)}{reason}"
        case UpstreamSwitched():
            return f"{event.process} is asked at {event.url} from now on"
        case OutputLine() | OutputPaused() | RequestFinished() | StreamOpened() | StreamClosed():
            return ""
        case RequestHeld() | RequestReleased() | RequestReplayed():
            return ""
        case _:
            assert_never(event)


def _change_in_words(event: StateChanged) -> str:
    if event.state is event.previous:
        return ""
    name = event.process
    reason = f": {event.reason}" if event.reason else ""
    how = event.reason or _outcome(event.exit_code, event.signal)
    outcome = f": {how}" if how else ""
    match event.state:
        case State.WAITING:
            return ""
        case State.INSTALLING:
            return f"{name} is being installed{reason}"
        case State.STARTING:
            return f"{name} starts again{reason}" if event.restarts else f"{name} starts"
        case State.RUNNING:
            return f"{name} runs" + (f" (pid {event.pid})" if event.pid is not None else "")
        case State.READY:
            took = f" in {short_seconds(event.ready_after)}" if event.ready_after is not None else ""
            return f"{name} is ready{took}" + (f" at {event.url}" if event.url else "")
        case State.UNHEALTHY:
            is_broken = event.previous is State.STARTING
            return f"{name} {'does not come up' if is_broken else 'does not answer any more'}{reason}"
        case State.STOPPING:
            return f"{name} is being stopped{reason}"
        case State.BACKING_OFF:
            return f"{name} ended{outcome}"
        case State.COMPLETED:
            return f"{name} completed{outcome}"
        case State.FAILED:
            return f"{name} failed{outcome}"
        case State.STOPPED:
            return f"{name} stopped{reason}"
        case _:
            assert_never(event.state)


def _outcome(exit_code: int | None, signal: str | None) -> str:
    if signal is not None:
        return f"killed by {signal}"
    return "" if exit_code is None else f"exit code {exit_code}"


def _some(names: list[str]) -> str:
    """Name one or two, count more."""
    return " and ".join(names) if len(names) <= 2 else f"{len(names)} processes"


def colour_number(index: int) -> int:
    """Give the colour of the process at a place of the Procfile: a number of the 256-colour palette."""
    return PALETTE[index % len(PALETTE)]


def short_seconds(seconds: float) -> str:
    """Write a duration as people read it: ``12 ms``, ``0.8 s``, ``42 s``, ``3m 07s``, ``2h 15m``."""
    if seconds < 0.0995:
        return f"{max(seconds, 0) * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    if minutes < 60:
        return f"{minutes}m {rest:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h {minutes:02}m"
    return f"{hours // 24}d {hours % 24:02}h"
