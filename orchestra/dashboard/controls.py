"""The state of the user interface, and the effect of each key on it: pure; effects outside are returned.

`Controls.press` takes one key. Changes of the picture are made here; an effect on the run is returned as an
`Order`, one on this machine as an `Act`. While the user types text (a search, a filter) keys are text; while
a process gets the input, keys do not arrive here at all.

Not here: decoding keys (`keys`), how it looks (`view`), carrying orders out, time, tasks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from orchestra.config.keys import bindings
from orchestra.config.schema import DashboardSettings
from orchestra.control.local import Order
from orchestra.dashboard.log import Entry, Wanted, name_of, text_of
from orchestra.dashboard.text import MAX_ROWS
from orchestra.dashboard.words import OURSELVES
from orchestra.events import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from orchestra.control.local import Verb
    from orchestra.dashboard.model import Model
    from orchestra.dashboard.requests import RequestRow, Requests

__all__ = ["PERFORM", "Act", "Controls", "Look", "Mode", "Shown", "scroll", "type_key", "type_text"]


class Mode(Enum):
    """The current meaning of keys."""

    NORMAL = "normal"
    SEARCH = "search"
    FILTER = "filter"
    INPUT = "input"
    HELP = "help"


@dataclass(frozen=True)
class Look:
    """The part of the model that is shown, and how.

    Attributes:
        selected: The chosen process.
        was_moved: The user has chosen the process.
        until: The number of the last entry that is shown; ``None``: the log is followed.
        hit: The number of the entry that a search has found.
        on_requests: Keys choose requests, not processes.
        chosen: The key of the chosen request.
        unfolded: The keys of the groups of requests that are unfolded.
        is_by_time: The slowest requests come first, not the newest.
        is_full: The log, or the requests, have the whole screen.
        message: The result of the last key.
        dismissed: The number of the newest error that was dismissed.
    """

    mode: Mode = Mode.NORMAL
    selected: str = ""
    was_moved: bool = False
    wanted: Wanted = field(default_factory=Wanted)
    until: int | None = None
    search: str = ""
    hit: int | None = None
    on_requests: bool = False
    chosen: int | None = None
    details: bool = False
    unfolded: frozenset[int] = frozenset()
    request_text: str = ""
    is_by_time: bool = False
    hides_processes: bool = False
    hides_requests: bool = False
    is_full: bool = False
    typed: str = ""
    message: str = ""
    dismissed: int = -1

    def rows(self, requests: Requests, now: float) -> Iterator[RequestRow]:
        """Give the rows of the requests that pass the filters."""
        return requests.rows(now, text=self.request_text, unfolded=self.unfolded, is_by_time=self.is_by_time)


@dataclass(frozen=True)
class Act:
    """An effect on this machine; the text is to be copied, written or opened."""

    do: Literal["open", "copy", "write", "quit", "suspend", "redraw"]
    text: str = ""


Shown: TypeAlias = Literal["this run", "another run", "a recording"]

_USUAL = DashboardSettings()
_WHEEL_LINES = 3


class Controls:
    """The state of a dashboard that belongs to its user.

    Attributes:
        bindings: Actions by key, by default and by the settings; `ValueError` if those are wrong.
        has_mouse: The wheel of the mouse scrolls; the terminal then selects text only with Shift.
        shown: `q` leaves another process's run, and does not end it; of a recording nothing runs.
        page: How many rows the log had when it was drawn last.
        now: Seconds since the epoch, when a frame was made last.
        before_input: The look before a process got the input.
    """

    def __init__(
        self, model: Model, settings: DashboardSettings = _USUAL, *, shown: Shown = "this run"
    ) -> None:
        self.look = self.before_input = Look()
        self.bindings = bindings(settings.keys)
        self.has_mouse = settings.mouse
        self.page = 10
        self.now = 0.0
        self.model = model
        self.shown = shown

    @property
    def gives_input(self) -> bool:
        """Whether keys go to a process."""
        return self.look.mode is Mode.INPUT

    def key_of(self, action: str) -> str:
        """Give the first key of an action; empty if it has none."""
        return next((key for key, bound in self.bindings.items() if bound == action), "")

    def see(self, now: float) -> Look:
        """Adapt to the current model, and return the look: the selection follows a failure."""
        self.now = now
        look, processes = self.look, self.model.processes
        failed = [name for name, each in processes.items() if each.state is State.FAILED]
        if processes and look.selected not in processes:
            self.set(selected=next(iter(processes)), was_moved=False)
        if failed and not look.was_moved and look.selected not in failed:
            self.set(selected=failed[0])
        return self.look

    def show_message(self, message: str) -> None:
        """Show a message until the next key."""
        self.set(message=message)

    def press(self, key: str) -> Order | Act | None:
        """Carry out the action of a key."""
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
        """Take pasted text: a part of the typed text, but never keys."""
        if self.look.mode in (Mode.SEARCH, Mode.FILTER):
            type_text(self, " ".join(text.split()))
        else:
            self.show_message(
                f"pasted text is not taken for keys; press {self.key_of('input')} to give it to a process"
            )

    def end_input(self) -> None:
        """Return keys to the dashboard, and show what was shown before."""
        selected, self.look = self.look.selected, self.before_input
        self.set(selected=selected, was_moved=True)

    def set(self, **changes: Any) -> None:
        """Change the look. The part of the log that is shown stays, even if more lines come."""
        self.look = replace(self.look, **changes)
        self.model.log.hold(is_held=self.look.until is not None)


# The most characters of a search.
_LONGEST_TEXT = 200


def _move(on: Controls, by: int) -> None:
    if on.look.on_requests:
        _move_request(on, by)
    else:
        names = list(on.model.processes)
        if names:
            place = names.index(on.look.selected) + by
            name = names[min(max(place, 0), len(names) - 1)]
            wanted = on.look.wanted
            if wanted.process:
                wanted = replace(wanted, process=name)
            on.set(selected=name, was_moved=True, wanted=wanted)


def _rows(on: Controls) -> list[RequestRow]:
    return list(on.look.rows(on.model.requests, on.now))


def _move_request(on: Controls, by: int) -> None:
    keys = [row.key for row in _rows(on)]
    if keys:
        place = keys.index(on.look.chosen) + by if on.look.chosen in keys else 0
        on.set(chosen=keys[min(max(place, 0), len(keys) - 1)])


def _only(on: Controls) -> None:
    look = on.look
    if not look.on_requests:
        name = "" if look.wanted.process == look.selected else look.selected
        on.set(wanted=replace(look.wanted, process=name), until=None)
        return
    row = next((row for row in _rows(on) if row.key == look.chosen), None)
    if look.details:
        on.set(details=False)
    elif row is not None and row.folded > 1:
        on.set(unfolded=look.unfolded ^ {row.key})
    elif row is not None:
        on.set(details=True)


def _back(on: Controls) -> None:
    """Undo the last thing that narrows the view."""
    look = on.look
    if look.details:
        on.set(details=False)
    elif look.on_requests:
        on.set(on_requests=False, request_text="")
    elif look.search:
        on.set(search="", hit=None, until=None)
    elif look.is_full:
        on.set(is_full=False)
    else:
        on.set(wanted=Wanted(), until=None)


def _to_requests(on: Controls) -> None:
    look = on.look
    if look.on_requests:
        on.set(on_requests=False, details=False)
        return
    on.set(on_requests=True, hides_requests=False)
    if look.chosen is None:
        _move_request(on, 0)


def _by_time(on: Controls) -> None:
    """Sort the requests by time, or not, and go to the first that is over."""
    on.set(on_requests=True, hides_requests=False, is_by_time=not on.look.is_by_time, chosen=None)
    over = [row.key for row in _rows(on) if not row.is_running]
    on.set(chosen=over[0] if over else None)


# --- The log ---


def scroll(on: Controls, by: int) -> None:
    """Go `by` rows down; up if that is negative."""
    if on.look.on_requests:
        _move_request(on, by)
        return
    log, look = on.model.log, on.look
    if by < 0:
        shown = log.newest(look.wanted, on.page - by, until=look.until)
        # Not beyond the oldest: the first page stays full.
        if len(shown) > on.page:
            on.set(until=shown[min(len(shown) + by, len(shown)) - 1].number)
        elif shown:
            on.set(until=shown[-1].number)
    elif look.until is not None:
        below = log.after(look.wanted, look.until)
        on.set(until=below[by - 1].number if len(below) > by else None)


def _top(on: Controls) -> None:
    if on.look.on_requests:
        _move_request(on, -len(_rows(on)))
        return
    entries = on.model.log.after(on.look.wanted, 0)
    if len(entries) > on.page:
        on.set(until=entries[on.page - 1].number)


def _bottom(on: Controls) -> None:
    if on.look.on_requests:
        _move_request(on, len(_rows(on)))
    else:
        on.set(until=None)


def _find(on: Controls, *, up: bool) -> None:
    look, log = on.look, on.model.log
    if not look.search:
        on.show_message("nothing is searched for: press / first")
        return
    entries = log.after(look.wanted, 0)
    needle = look.search.lower()
    hits = [entry.number for entry in entries if needle in text_of(entry.event).lower()]
    start = look.hit or log.count + 1
    left = [hit for hit in hits if (hit < start if up else hit > start)]
    if not left:
        on.show_message(f"no {'more ' if hits else ''}{look.search!r} {'above' if up else 'below'}")
        return
    hit = left[-1] if up else left[0]
    numbers = [entry.number for entry in entries]
    # Leave so few below it that it is on the screen however long they are.
    last = min(numbers.index(hit) + max(on.page // MAX_ROWS - 1, 0), len(numbers) - 1)
    on.set(hit=hit, until=numbers[last])


# --- Text input ---


def _begin_typing(on: Controls, mode: Mode) -> None:
    look = on.look
    before = look.request_text if look.on_requests else look.wanted.text
    on.set(mode=mode, typed=before if mode is Mode.FILTER else "")


def type_key(on: Controls, key: str) -> None:
    """Take a key of a text that is being typed."""
    look = on.look
    if key == "enter":
        on.set(mode=Mode.NORMAL)
        if look.mode is Mode.SEARCH:
            on.set(search=look.typed, hit=None)
            if look.typed:
                _find(on, up=True)
        return
    if key == "escape":
        on.set(mode=Mode.NORMAL, typed="")
        if look.mode is Mode.FILTER:
            _filter(on, "")
        return
    if key == "backspace":
        on.set(typed=look.typed[:-1])
    text = " " if key == "space" else key
    type_text(on, text if len(text) == 1 else "")


def type_text(on: Controls, text: str) -> None:
    """Add to a text that is being typed."""
    on.set(typed=(on.look.typed + text)[:_LONGEST_TEXT])
    if on.look.mode is Mode.FILTER:
        _filter(on, on.look.typed)


def _filter(on: Controls, text: str) -> None:
    if on.look.on_requests:
        on.set(request_text=text, chosen=None)
        _move_request(on, 0)
    else:
        on.set(wanted=replace(on.look.wanted, text=text), until=None)


# --- Orders to the run ---


def _stop(on: Controls) -> Order | None:
    process = on.model.processes.get(on.look.selected)
    is_down = process is not None and process.state.is_ended
    return _about_selected(on, "start" if is_down else "stop")


def _about_selected(on: Controls, do: Verb) -> Order | None:
    return Order(do=do, processes=(on.look.selected,)) if on.look.selected else None


def _retry(on: Controls) -> Order:
    failed = (name for name, each in on.model.processes.items() if each.state is State.FAILED)
    return Order(do="start", processes=tuple(failed))


def _input(on: Controls) -> None:
    asking = on.model.asking()
    name = on.look.selected
    if asking and name not in [each.name for each in asking]:
        name = asking[-1].name
    on.before_input = on.look
    # Meanwhile, only its output is shown.
    on.set(
        mode=Mode.INPUT,
        selected=name,
        was_moved=True,
        until=None,
        wanted=Wanted(process=name),
        on_requests=False,
        details=False,
    )


def _copy(on: Controls) -> Act | None:
    look = on.look
    if look.on_requests:
        row = next((row for row in _rows(on) if row.key == look.chosen), None)
        return Act("copy", text=(on.model.url or "") + row.of.target) if row else None
    shown = _shown(on)
    found = next((entry for entry in shown if entry.number == look.hit), shown[-1] if shown else None)
    return Act("copy", text=text_of(found.event)) if found else None


def _shown(on: Controls, limit: int | None = None) -> list[Entry]:
    return on.model.log.newest(on.look.wanted, on.page if limit is None else limit, until=on.look.until)


def _write(on: Controls) -> Act:
    entries = _shown(on, on.model.log.count)
    lines = (f"{name_of(each.event) or OURSELVES} | {text_of(each.event)}\n" for each in entries)
    return Act("write", text="".join(lines))


def _clear(on: Controls) -> None:
    if on.look.on_requests:
        on.model.requests.clear()
        on.set(chosen=None, details=False)
    else:
        on.model.log.clear()
        on.set(until=None, hit=None)


def _dismiss(on: Controls) -> None:
    errors = [each for each in on.model.errors() if each.seq > on.look.dismissed]
    if errors:
        on.set(dismissed=errors[-1].seq)
    else:
        on.model.hints.dismiss()


PERFORM: dict[str, Callable[[Controls], Order | Act | None]] = {
    "up": lambda on: _move(on, -1),
    "down": lambda on: _move(on, 1),
    "only": _only,
    "back": _back,
    "restart": lambda on: _about_selected(on, "restart"),
    "retry": _retry,
    "stop": _stop,
    "kill": lambda on: _about_selected(on, "kill"),
    "input": _input,
    "search": lambda on: _begin_typing(on, Mode.SEARCH),
    "next": lambda on: _find(on, up=True),
    "previous": lambda on: _find(on, up=False),
    "filter": lambda on: _begin_typing(on, Mode.FILTER),
    "errors": lambda on: on.set(wanted=replace(on.look.wanted, errors=not on.look.wanted.errors), until=None),
    "pause": lambda on: on.set(until=on.model.log.count if on.look.until is None else None),
    "pageup": lambda on: scroll(on, -max(on.page - 1, 1)),
    "pagedown": lambda on: scroll(on, max(on.page - 1, 1)),
    "top": _top,
    "bottom": _bottom,
    "requests": _to_requests,
    "slowest": _by_time,
    "full": lambda on: on.set(is_full=not on.look.is_full),
    "hide-processes": lambda on: on.set(hides_processes=not on.look.hides_processes),
    "hide-requests": lambda on: on.set(hides_requests=not on.look.hides_requests, on_requests=False),
    "open": lambda on: Act("open", text=on.model.url or ""),
    "clear": _clear,
    "copy": _copy,
    "write": _write,
    "dismiss": _dismiss,
    "help": lambda on: on.set(mode=Mode.HELP),
    "quit": lambda _: Act("quit"),
    "suspend": lambda _: Act("suspend"),
    "redraw": lambda _: Act("redraw"),
}
