"""What keys do: functions of the user's state and the model, by the names that the settings have for them.

What changes only the picture is done at once; what acts on the run is returned as an `Order`.

Not here: the state itself (`controls`), which key it was (`keys`), carrying orders out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from orchestra.dashboard.log import Entry, Wanted, name_of, text_of
from orchestra.dashboard.look import Do, Mode, Order
from orchestra.dashboard.text import MAX_ROWS
from orchestra.dashboard.words import OURSELVES
from orchestra.events import State

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.dashboard.controls import Controls
    from orchestra.dashboard.requests import RequestRow

__all__ = ["PERFORM", "scroll", "type_key", "type_text"]

_STOPPED = (State.STOPPED, State.COMPLETED, State.FAILED)
# So much is typed into a search at most.
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
    elif row is not None and row.folded > 1 and not row.is_member:
        on.set(unfolded=look.unfolded ^ {row.key})
    elif row is not None:
        on.set(details=True)


def _back(on: Controls) -> None:
    """Take back the last thing that narrows the view."""
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
        on.say("nothing is searched for: press / first")
        return
    entries = log.after(look.wanted, 0)
    needle = look.search.lower()
    hits = [entry.number for entry in entries if needle in text_of(entry.event).lower()]
    start = look.hit or log.count + 1
    left = [hit for hit in hits if (hit < start if up else hit > start)]
    if not left:
        on.say(f"no {'more ' if hits else ''}{look.search!r} {'above' if up else 'below'}")
        return
    hit = left[-1] if up else left[0]
    numbers = [entry.number for entry in entries]
    # So few below it that it is on the screen however long they are.
    last = min(numbers.index(hit) + max(on.page // MAX_ROWS - 1, 0), len(numbers) - 1)
    on.set(hit=hit, until=numbers[last])


# --- Typing ---


def _begin_typing(on: Controls, mode: Mode) -> None:
    look = on.look
    before = look.request_text if look.on_requests else look.wanted.text
    on.set(mode=mode, typed=before if mode is Mode.FILTER else "")


def type_key(on: Controls, key: str) -> None:
    """Take a key of a text that is typed."""
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
    """Add to a text that is typed."""
    on.set(typed=(on.look.typed + text)[:_LONGEST_TEXT])
    if on.look.mode is Mode.FILTER:
        _filter(on, on.look.typed)


def _filter(on: Controls, text: str) -> None:
    if on.look.on_requests:
        on.set(request_text=text, chosen=None)
        _move_request(on, 0)
    else:
        on.set(wanted=replace(on.look.wanted, text=text), until=None)


# --- What acts on the run ---


def _stop(on: Controls) -> Order | None:
    process = on.model.processes.get(on.look.selected)
    is_down = process is not None and process.state in _STOPPED
    return _about_selected(on, Do.START if is_down else Do.STOP)


def _about_selected(on: Controls, do: Do) -> Order | None:
    return Order(do, on.look.selected) if on.look.selected else None


def _input(on: Controls) -> None:
    asking = on.model.asking()
    name = on.look.selected
    if asking and name not in [each.name for each in asking]:
        name = asking[-1].name
    on.before_input = on.look
    # What it writes is what one looks at meanwhile, and nothing else.
    on.set(
        mode=Mode.INPUT,
        selected=name,
        was_moved=True,
        until=None,
        wanted=Wanted(process=name),
        on_requests=False,
        details=False,
    )


def _copy(on: Controls) -> Order | None:
    look = on.look
    if look.on_requests:
        row = next((row for row in _rows(on) if row.key == look.chosen), None)
        return Order(Do.COPY, text=(on.model.url or "") + row.of.target) if row else None
    shown = _shown(on)
    found = next((entry for entry in shown if entry.number == look.hit), shown[-1] if shown else None)
    return Order(Do.COPY, text=text_of(found.event)) if found else None


def _shown(on: Controls, limit: int | None = None) -> list[Entry]:
    return on.model.log.newest(on.look.wanted, on.page if limit is None else limit, until=on.look.until)


def _write(on: Controls) -> Order:
    entries = _shown(on, on.model.log.count)
    lines = (f"{name_of(each.event) or OURSELVES} | {text_of(each.event)}\n" for each in entries)
    return Order(Do.WRITE, text="".join(lines))


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


PERFORM: dict[str, Callable[[Controls], Order | None]] = {
    "up": lambda on: _move(on, -1),
    "down": lambda on: _move(on, 1),
    "only": _only,
    "back": _back,
    "restart": lambda on: _about_selected(on, Do.RESTART),
    "retry": lambda _: Order(Do.RETRY),
    "stop": _stop,
    "kill": lambda on: _about_selected(on, Do.KILL),
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
    "open": lambda on: Order(Do.OPEN, text=on.model.url or ""),
    "clear": _clear,
    "copy": _copy,
    "write": _write,
    "dismiss": _dismiss,
    "help": lambda on: on.set(mode=Mode.HELP),
    "quit": lambda _: Order(Do.QUIT),
    "suspend": lambda _: Order(Do.SUSPEND),
    "redraw": lambda _: Order(Do.REDRAW),
}
