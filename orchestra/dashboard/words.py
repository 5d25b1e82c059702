"""Shared by plain output and the dashboard: sentences for events, durations, and the colours of processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from orchestra.child.lines import without_colours
from orchestra.events import (
    FilesChanged,
    Notice,
    PlanChanged,
    RunEnded,
    RunStarted,
    State,
    StateChanged,
    UpstreamSwitched,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.events import Event, RequestFinished

__all__ = [
    "OURSELVES",
    "PALETTE",
    "SENTENCE_KINDS",
    "colour_number",
    "is_blank",
    "request_line",
    "sentence",
    "short_seconds",
]

OURSELVES = "orchestra"
"""The name before a line that is not from a process."""

# Numbers of the 256-colour palette, each readable on a white and on a dark background (a test computes the
# contrast), and none of them the red, green or orange that states are shown in.
PALETTE = (33, 134, 30, 169, 136, 104, 101, 138)

# The events that `sentence` covers.
SENTENCE_KINDS = (RunStarted, StateChanged, UpstreamSwitched, FilesChanged, PlanChanged, Notice, RunEnded)

# A longer line does not consist of blanks and colours alone.
_LONGEST_BLANK = 100


def sentence(event: Event) -> str:
    """Put an event into a sentence; empty if it is not worth one."""
    match event:
        case RunStarted():
            return event.url or ""
        case StateChanged():
            return _change(event)
        case Notice():
            about = f"{event.process}: " if event.process else ""
            level = "" if event.level == "info" else f"{event.level}: "
            return f"{level}{about}{event.text}" + (f" ({event.hint})" if event.hint else "")
        case RunEnded():
            reason = f": {event.reason}" if event.reason else ""
            return f"ended after {short_seconds(event.duration)}{reason}"
        case PlanChanged():
            # Processes to be stopped have stopped by now; those to be started follow.
            verbs = {"stopped": event.stopped, "starts": event.started, "restarts": event.restarted}
            done = ", ".join(_follows(names, verb) for verb, names in verbs.items() if names)
            return f"{event.reason or 'the plan'} changed: {done or 'no process is affected'}"
        case UpstreamSwitched():
            return f"{event.process} is asked at {event.url} from now on"
        case FilesChanged():
            return f"{event.process}: {_some(event.paths)} changed"
        case _:
            return ""


def request_line(event: RequestFinished) -> str:
    """Put a request into a line: ``GET /about 200 backend 4 ms``."""
    status = "---" if event.status is None else event.status
    # Text from the network must not move a cursor.
    target = "".join(each for each in event.target if each.isprintable())
    line = f"{event.method} {target} {status} {event.upstream} {short_seconds(event.duration)}"
    held = f", held {short_seconds(event.held)}" if event.held else ""
    outcome = "" if event.outcome == "complete" else f", {event.outcome.replace('-', ' ')}"
    return f"{line}{held}{outcome}"


def _some(paths: Sequence[str]) -> str:
    if len(paths) <= 2:
        return " and ".join(paths)
    return f"{paths[0]} and {len(paths) - 1} other files"


def _follows(names: Sequence[str], verb: str) -> str:
    """Form a sentence about processes: ``api restarts``, ``api and worker restart``."""
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f"{listed} {verb if len(names) == 1 else verb.removesuffix('s')}"


def _change(event: StateChanged) -> str:
    if event.state is event.previous:
        return ""
    name = event.process
    reason = f": {event.reason}" if event.reason else ""
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
            is_broken = event.previous is State.STARTING or event.ready_after is None
            return f"{name} {'does not come up' if is_broken else 'does not answer any more'}{reason}"
        case State.STOPPING:
            return f"{name} is being stopped{reason}"
        case State.BACKING_OFF:
            return f"{name} ended{reason}"
        case State.COMPLETED | State.FAILED | State.STOPPED:
            return f"{name} {event.state.value}{reason}"
        case _:
            assert_never(event.state)


def is_blank(text: str) -> bool:
    """Whether a line shows nothing.

    On a terminal, Vite clears the screen by as many blank lines as it is high, and others do likewise. People
    are shown one of them; all are kept and passed on.
    """
    return not text or (len(text) < _LONGEST_BLANK and not without_colours(text).strip())


def colour_number(index: int) -> int:
    """Give the colour of the process at a position of the Procfile: a number of the 256-colour palette."""
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
