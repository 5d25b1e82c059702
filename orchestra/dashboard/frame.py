"""The content of one picture: chosen from the model, small, and immutable.

A frame is made in trio's thread and drawn in another one, while the model goes on changing. It holds no more
than fits on the screen.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from orchestra.dashboard.controls import Look, Mode
from orchestra.dashboard.log import Entry, Wanted
from orchestra.dashboard.requests import RequestRow
from orchestra.dashboard.words import sentence
from orchestra.events import ErrorShown, RequestHeads, State

if TYPE_CHECKING:
    from orchestra.dashboard.controls import Controls
    from orchestra.dashboard.model import Model, Overall, Process

__all__ = ["Details", "Frame", "Message", "frame"]

# Seconds for which a warning stays in its row; it stays in the log anyway.
_NOTICE_SECONDS = 30.0
# Seconds after which an unfinished line counts as a question, not as a progress bar.
_PROMPT_SECONDS = 1.0


@dataclass(frozen=True)
class Message:
    """A line above the keys; its level is ``info``, ``warning`` or ``error``."""

    text: str
    level: str = "info"


@dataclass(frozen=True)
class Details:
    """The details of one request."""

    row: RequestRow
    heads: RequestHeads | None


@dataclass(frozen=True)
class Frame:
    """One picture.

    Attributes:
        counts: Texts in the header beside the state: ``2 held``.
        log: Unfinished lines come last.
        log_note: The title of the log: how much is not shown.
        request_note: The title of the requests.
        errors: Those that are neither cleared nor dismissed, the newest last.
        keys: The keys that have an action now, the most important first, and the action.
    """

    width: int
    height: int
    now: float
    look: Look
    project: str
    url: str
    overall: Overall
    counts: tuple[str, ...]
    processes: tuple[Process, ...]
    colours: dict[str, int]
    log: tuple[Entry, ...]
    log_note: str
    requests: tuple[RequestRow, ...]
    request_note: str
    details: Details | None
    errors: tuple[ErrorShown, ...]
    message: Message | None
    keys: tuple[tuple[str, str], ...]


def frame(controls: Controls, *, now: float, width: int, height: int, missed: int = 0) -> Frame:
    """Choose what a picture of this size shows; `missed` lines have come and gone since the last one."""
    look, model = controls.see(now), controls.model
    errors = [each for each in model.errors() if each.seq > look.dismissed]
    rows = _rows(model, look, now, height)
    is_followed = look.until is None and not look.wanted.text and not look.wanted.errors
    begun = [
        Entry(0, each)
        for each in model.paused.values()
        if is_followed and look.wanted.process in ("", each.process)
    ]
    return Frame(
        width=width,
        height=height,
        now=now,
        look=look,
        project=_project(model),
        url=model.url or "",
        overall=model.overall(),
        counts=tuple(_counts(model)),
        processes=tuple(copy.copy(each) for each in model.processes.values()),
        colours={each.name: each.index for each in model.processes.values()},
        log=(*model.log.newest(look.wanted, height, until=look.until), *begun),
        log_note=_log_note(model, look, missed),
        requests=tuple(rows),
        request_note=_request_note(model, look),
        details=_details(model, look, rows),
        errors=tuple(errors),
        message=_message(controls, now),
        keys=tuple(_keys(controls, has_errors=bool(errors))),
    )


def _rows(model: Model, look: Look, now: float, height: int) -> list[RequestRow]:
    """Give as many requests as fit; down to the chosen one, and a screen more."""
    rows = look.rows(model.requests, now)
    if not look.on_requests or look.chosen is None:
        return list(islice(rows, height))
    found = list(rows)
    place = next((index for index, row in enumerate(found) if row.key == look.chosen), 0)
    return found[: place + height]


def _project(model: Model) -> str:
    folder = model.started.procfile.rpartition("/")[0] if model.started is not None else ""
    return folder.rpartition("/")[2]


def _counts(model: Model) -> list[str]:
    requests = model.requests
    hmr = sum(each.kind == "hmr" for each in requests.streams.values())
    counts = {"held": requests.held, "tab": len(requests.tabs), "HMR": hmr}
    return [f"{count} {name}{'s' * (name == 'tab' and count > 1)}" for name, count in counts.items() if count]


def _log_note(model: Model, look: Look, missed: int) -> str:
    notes = []
    wanted = look.wanted
    if wanted.process:
        notes.append(f"only {wanted.process}")
    if wanted.errors:
        notes.append("errors")
    if wanted.text:
        notes.append(f"with {wanted.text!r}")
    if look.search:
        notes.append(f"search: {look.search}")
    if look.until is not None:
        below = 0 if wanted != Wanted() else max(model.log.count - look.until, 0)
        notes.append(f"paused, {below:,} newer" if below else "paused")
    elif missed:
        notes.append(f"{missed:,} line{'s' * (missed > 1)} not shown")
    return ", ".join(notes)


def _request_note(model: Model, look: Look) -> str:
    requests = model.requests
    notes = [f"with {look.request_text!r}"] if look.request_text else []
    if look.is_by_time:
        notes.append("slowest first")
    if requests.under_way:
        notes.append(f"{len(requests.under_way)} under way")
    if requests.count:
        notes.append(f"{requests.count} so far")
    for kind, name in (("websocket", "WebSocket"), ("event-stream", "event stream")):
        count = sum(each.kind == kind for each in requests.streams.values())
        if count:
            notes.append(f"{count} {name}{'s' * (count > 1)}")
    return ", ".join(notes)


def _details(model: Model, look: Look, rows: list[RequestRow]) -> Details | None:
    if not look.details or look.chosen is None:
        return None
    # The chosen one, also when it is over by now and shown in a group.
    found = model.requests.find(abs(look.chosen))
    row = next((row for row in rows if row.key == look.chosen), None)
    row = row if found is None else RequestRow(found.id, found)
    return None if row is None else Details(row, model.requests.heads.get(row.of.id))


def _message(controls: Controls, now: float) -> Message | None:
    """Choose the line above the keys: what the user does now, then what needs attention."""
    look, model = controls.look, controls.model
    asking = [each for each in model.asking() if each.prompt and now - each.prompt.at >= _PROMPT_SECONDS]
    notice = model.warning
    if look.mode is Mode.SEARCH:
        return Message(f"search: {look.typed}_")
    if look.mode is Mode.FILTER:
        return Message(f"only with: {look.typed}_")
    if look.mode is Mode.INPUT:
        return Message(f"keys go to {look.selected} until Ctrl-]", "warning")
    if look.message:
        return Message(look.message)
    if asking and controls.shown != "a recording" and (prompt := asking[-1].prompt) is not None:
        return Message(f"{asking[-1].name} waits for input at {prompt.prompt!r}: press i", "warning")
    if notice is not None and now - notice.at < _NOTICE_SECONDS:
        return Message(sentence(notice), notice.level)
    if model.hints.found:
        return Message(f"hint: {model.hints.found[-1]}")
    return None


def _keys(controls: Controls, *, has_errors: bool) -> list[tuple[str, str]]:
    look, model = controls.look, controls.model
    if look.mode is Mode.INPUT:
        return [("ctrl-]", "keys for the dashboard again")]
    if look.mode in (Mode.SEARCH, Mode.FILTER):
        return [("enter", "done"), ("escape", "give up")]
    if look.mode is Mode.HELP:
        return [("escape", "back")]
    failed = any(each.state is State.FAILED for each in model.processes.values())
    ended = model.ended is not None or controls.shown == "a recording"
    actions: list[tuple[str, str, bool]]
    if look.on_requests:
        actions = [
            ("only", "details", not look.details),
            ("back", "close", look.details),
            ("filter", "filter", not look.details),
            ("slowest", "newest" if look.is_by_time else "slowest", not look.details),
            ("copy", "copy", True),
            ("full", "panes" if look.is_full else "full", True),
            ("requests", "back", True),
        ]
    else:
        selected = model.processes.get(look.selected)
        down = selected is not None and selected.state.is_ended
        actions = [
            ("full", "panes", look.is_full),
            ("retry", "retry", failed and not ended),
            ("restart", "restart", bool(selected) and not ended),
            ("stop", "start" if down else "stop", bool(selected) and not ended),
            ("input", "input", bool(model.asking()) and not ended),
            ("only", "all" if look.wanted.process else "only this", True),
            ("requests", "requests", model.url is not None),
            ("next", "next", bool(look.search)),
            ("errors", "all" if look.wanted.errors else "errors", True),
            ("search", "search", True),
            ("pause", "follow" if look.until is not None else "pause", True),
            ("filter", "filter", True),
        ]
    actions += [("dismiss", "dismiss", has_errors or bool(model.hints.found))]
    always = [("help", "help", True), ("quit", "quit" if controls.shown == "this run" else "leave", True)]
    return [(controls.key_of(action), word) for action, word, does in (*always, *actions) if does]
