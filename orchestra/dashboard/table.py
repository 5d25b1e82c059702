"""The process table: a row a process. When rows are short, what is well is folded, what is not stays."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from orchestra.dashboard.styles import (
    BAD,
    BUSY,
    LOOK,
    PLAIN,
    STRONG,
    colour,
    longest,
    size_of,
    whole_seconds,
)  # fmt: skip
from orchestra.dashboard.text import QUIET, fit, one_line, sized
from orchestra.dashboard.words import short_seconds
from orchestra.events import ErrorShown, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestra.dashboard.frame import Frame
    from orchestra.dashboard.model import Process

__all__ = ["error_line", "folded", "label", "name_of_process", "process_rows"]

_STATE_WIDTH = 17
# The widths of the columns that a narrow terminal has no room for, in the order of drawing; then their worth.
# fmt: off
_COLUMNS = {
    "pid": 7, "port": 5, "address": 21, "uptime": 7, "cpu": 5, "memory": 7, "reloads": 7, "crashes": 7,
}
# fmt: on
_WORTH = ("port", "uptime", "crashes", "reloads", "cpu", "memory", "pid")
# The space after each of them: they are aligned to the right.
_GAP = 2
# From so much left room on, addresses stand there in full.
_ROOM_FOR_ADDRESS = 24
# So much of a message stands before its place; where there is less room, it is left out behind columns.
_SHORTEST_MESSAGE = 20
_CALM = (State.READY, State.RUNNING, State.COMPLETED, State.STOPPED)


def process_rows(frame: Frame, height: int) -> Iterator[Text]:
    """Draw the table in at most `height` rows."""
    processes, width = frame.processes, frame.width
    name_width = min(max(longest(frame.colours), len("process")), max(width // 3, 4)) + 2
    columns = _affordable(width - 3 - name_width - _STATE_WIDTH)
    has_heads = height > len(processes) and width >= 40
    if has_heads:
        heads = sized("process", name_width) + sized("state", _STATE_WIDTH)
        yield fit(Text(f"   {heads}{''.join(_cell(name, name) for name in columns)}", QUIET), width)
    rows = height - has_heads
    shown = _most_important(frame, rows)
    for process in shown:
        yield fit(_row(frame, process, name_width, columns), width)
    hidden = [each for each in processes if each not in shown]
    if hidden and rows > 0:
        yield fit(folded(hidden), width)


def folded(processes: Sequence[Process]) -> Text:
    """Draw the row that stands for many: how many are in which state."""
    counts = Counter(each.state.value for each in processes).most_common()
    return Text(f"   and {', '.join(f'{count} {state}' for state, count in counts)}", QUIET)


def name_of_process(process: Process, width: int, *, is_chosen: bool = False) -> Text:
    """Begin a row: the symbol of a process's state, and its name."""
    symbol, style = LOOK[process.state]
    name = sized(process.name, width)
    tone = colour(process.index) + STRONG if is_chosen else colour(process.index)
    return Text.assemble(("▸", STRONG) if is_chosen else " ", (symbol, style), " ", (name, tone))


def label(state: State) -> Text:
    """Name a state, in its style."""
    # An own style for the word alone: what is appended has none of it.
    return Text.assemble((state.value.replace("-", " "), LOOK[state][1]))


def error_line(error: ErrorShown, room: int) -> str:
    """Write an error in a line: ``ValueError: no, at app.py:12``; a long message leaves the place room."""
    text = one_line(f"{error.error_type}: {error.message}" if error.message else error.error_type)
    if error.file is None:
        return text
    place = one_line(f", at {error.file.rpartition('/')[2]}:{error.line}")
    return fit(Text(text), max(room - cell_len(place), _SHORTEST_MESSAGE)).plain + place


def _row(frame: Frame, process: Process, name_width: int, columns: Sequence[str]) -> Text:
    newest = process.newest
    reason = one_line(newest.reason)
    row = name_of_process(process, name_width, is_chosen=process.name == frame.look.selected)
    row.append_text(_state(process, frame.now))
    if newest.pid is None and (reason or process.error is not None):
        # Without a child the other columns have nothing to say: here is why.
        is_again = newest.state is State.BACKING_OFF and process.crashes > 1
        crashes = f"  ({process.crashes} crashes)" if is_again else ""
        room = frame.width - row.cell_len - len(crashes)
        why = error_line(process.error, room) if process.error is not None else reason
        row.append(why, BAD if newest.state is State.FAILED else QUIET)
        return row.append(crashes, QUIET)
    for name in columns:
        text, tone = _value(process, name, frame.now)
        row.append(_cell(name, text), tone)
    room = frame.width - row.cell_len
    if process.error is not None and room >= _SHORTEST_MESSAGE:
        row.append(error_line(process.error, room), BAD)
    elif reason and process.state not in (State.READY, State.RUNNING):
        row.append(reason, QUIET)
    return row


def _value(process: Process, column: str, now: float) -> tuple[str, Style]:
    newest, measured = process.newest, process.measured
    uptime = process.uptime(now)
    match column:
        case "pid" if newest.pid is not None:
            return str(newest.pid), QUIET
        case "port" if newest.port is not None:
            return str(newest.port), Style(link=newest.url)
        case "address" if newest.url is not None:
            return newest.url.removeprefix("http://"), Style(link=newest.url)
        case "uptime" if uptime is not None:
            return whole_seconds(uptime), PLAIN
        case "cpu" if measured is not None:
            return f"{measured.cpu * 100:.0f}%", BUSY if measured.cpu >= 0.9 else PLAIN
        case "memory" if measured is not None:
            return size_of(measured.memory), PLAIN
        case "reloads" if process.reloads:
            return str(process.reloads), PLAIN
        case "crashes" if process.crashes:
            return str(process.crashes), BUSY
        case _:
            return "", PLAIN


def _state(process: Process, now: float) -> Text:
    text = label(process.state)
    ready_after = process.newest.ready_after
    if process.state is State.READY and ready_after is not None:
        text.append(f" {short_seconds(ready_after)}", QUIET)
    elif process.state in (State.INSTALLING, State.STARTING, State.STOPPING):
        text.append(f" {whole_seconds(now - process.since)}", QUIET)
    return fit(text, _STATE_WIDTH, pad=True)


def _affordable(room: int) -> list[str]:
    chosen = set()
    for name in _WORTH:
        if room < _COLUMNS[name] + _GAP:
            break
        room -= _COLUMNS[name] + _GAP
        chosen.add(name)
    if room >= _ROOM_FOR_ADDRESS:
        chosen = (chosen - {"port"}) | {"address"}
    return [name for name in _COLUMNS if name in chosen]


def _cell(column: str, value: str) -> str:
    return f"{value:>{_COLUMNS[column]}}" + " " * _GAP


def _most_important(frame: Frame, rows: int) -> list[Process]:
    """Choose those for which there is room; one row is kept for the count of the others."""
    processes = frame.processes
    if len(processes) <= rows:
        return list(processes)
    by_need = sorted(
        processes,
        key=lambda each: (
            each.state is not State.FAILED,
            each.name != frame.look.selected,
            each.error is None,
            each.state in _CALM,
        ),
    )
    chosen = {each.name for each in by_need[: max(rows - 1, 0)]}
    return [each for each in processes if each.name in chosen]
