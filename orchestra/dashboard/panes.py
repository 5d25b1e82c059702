"""The parts of the picture: the process table, the log, the requests, one request's details, and the help.

Each is a list of lines for a given number of rows; `view` fits them to the width. If rows are short, healthy
processes are folded.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from orchestra.config.keys import ACTIONS
from orchestra.dashboard.keys import key_label
from orchestra.dashboard.text import (
    BAD,
    BUSY,
    GOOD,
    LOOK,
    PLAIN,
    QUIET,
    STRONG,
    WORST,
    colour,
    decode,
    fit,
    longest,
    one_line,
    rule,
    size_of,
    sized,
    tone_of,
    whole_seconds,
)
from orchestra.dashboard.words import OURSELVES, sentence, short_seconds
from orchestra.events import ErrorShown, OutputLine, OutputPaused, State

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestra.dashboard.frame import Details, Frame
    from orchestra.dashboard.log import Entry
    from orchestra.dashboard.model import Process
    from orchestra.dashboard.requests import RequestRow

__all__ = [
    "detail_rows", "error_line", "folded", "help_rows", "label", "log_rows", "name_of_process",
    "process_rows", "request_rows",
]  # fmt: skip

_STATE_WIDTH = 17
# The widths of the columns that a narrow terminal has no room for, in the order of drawing; then their rank.
_COLUMNS = {
    "pid": 7, "port": 5, "address": 21, "uptime": 7, "cpu": 5, "memory": 7, "reloads": 7, "crashes": 7,
}  # fmt: skip
_WORTH = ("port", "uptime", "crashes", "reloads", "cpu", "memory", "pid")
# The space after each of them: they are aligned to the right.
_GAP = 2
# With at least so much room left, addresses are shown in full.
_ROOM_FOR_ADDRESS = 24
# So much of a message is shown before its file and line; with less room, columns are shown without it.
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
        yield Text(f"   {heads}{''.join(_cell(name, name) for name in columns)}", QUIET)
    rows = height - has_heads
    shown = _most_important(frame, rows)
    for process in shown:
        yield _row(frame, process, name_width, columns)
    hidden = [each for each in processes if each not in shown]
    if hidden and rows > 0:
        yield folded(hidden)


def folded(processes: Sequence[Process]) -> Text:
    """Draw the row that stands for many: how many are in which state."""
    counts = Counter(each.state.value for each in processes).most_common()
    return Text(f"   and {', '.join(f'{count} {state}' for state, count in counts)}", QUIET)


def name_of_process(process: Process, width: int, *, is_chosen: bool = False) -> Text:
    """Draw the beginning of a row: the symbol of a process's state, and its name."""
    symbol, style = LOOK[process.state]
    name = sized(process.name, width - 2) + "  "
    tone = colour(process.index) + STRONG if is_chosen else colour(process.index)
    return Text.assemble(("▸", STRONG) if is_chosen else " ", (symbol, style), " ", (name, tone))


def label(state: State) -> Text:
    """Name a state, in its style."""
    # A style of its own for the word alone: appended text does not get it.
    return Text.assemble((state.value.replace("-", " "), LOOK[state][1]))


def error_line(error: ErrorShown, room: int) -> str:
    """Write an error in a line: ``ValueError: no, at app.py:12``; a long message is shortened."""
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
        # Without a child the other columns are empty: the reason is here.
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
    """Choose the rows that fit; one row is kept for the count of the others."""
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


# The time of a request that took longer stands out.
_SLOW = 1.0
# A shorter wait is not noticed, and not shown.
_NOTICEABLE_WAIT = 0.05
_FOUND = Style(reverse=True)


def log_rows(frame: Frame, width: int, height: int) -> Iterator[Text]:
    """Draw the newest lines, each after the name and in the colour of its process."""
    if height >= 4:
        yield rule("log", frame.log_note, width)
        height -= 1
    rows: list[Text] = []
    margin = min(longest([OURSELVES, *frame.colours]), max(width // 5, 3))
    # From the newest back, so that a deep log costs nothing.
    for entry in reversed(frame.log):
        rows[:0] = _entry_rows(frame, entry, margin, width)
        if len(rows) >= height:
            break
    yield from rows[-height:] if height > 0 else ()


def _entry_rows(frame: Frame, entry: Entry, margin: int, width: int) -> list[Text]:
    event = entry.event
    tone: Style | None = None
    bar = QUIET
    if isinstance(event, OutputLine | OutputPaused):
        name, text = event.process, event.text
        bar = BAD if event.stream == "stderr" else QUIET
        style = colour(frame.colours[name]) if name in frame.colours else QUIET
    else:
        name, text, style, tone = OURSELVES, sentence(event), QUIET, tone_of(event)
    is_hit = entry.number == frame.look.hit
    room = width - margin - 5  # a column is left free at either side
    if room < 4:
        return [decode(text, max(width, 1))[0]]
    rows = []
    for index, part in enumerate(decode(text, room)):
        label = sized("" if index else name, margin)
        body = part if tone is None else Text(part.plain, tone)
        if frame.look.search:
            body = body.copy()
            body.highlight_words([frame.look.search], _FOUND, case_sensitive=False)
        sign = ("▸", STRONG) if is_hit and not index else (" ", PLAIN)
        rows.append(Text.assemble(sign, (label, style), (" │ ", bar), body))
    return rows


def request_rows(frame: Frame, width: int, height: int) -> Iterator[Text]:
    """Draw the requests: those in flight, then the newest of those that are over."""
    look = frame.look
    if height >= 2:
        yield rule("requests", frame.request_note, width, is_chosen=look.on_requests)
        height -= 1
    rows = frame.requests
    if not rows:
        yield Text(" none yet" if not look.request_text else " none like that", QUIET)
    place = next((index for index, row in enumerate(rows) if row.key == look.chosen), 0)
    first = max(place - height + 1, 0) if look.on_requests else 0
    for row in rows[first : first + max(height, 0)]:
        yield _request_row(row, width, is_chosen=look.on_requests and row.key == look.chosen)


def _request_row(row: RequestRow, width: int, *, is_chosen: bool) -> Text:
    request = row.of
    status = "..." if row.is_running else "---" if request.status is None else str(request.status)
    sign = ("▸", STRONG) if is_chosen else (" ", PLAIN)
    text = Text.assemble(sign, (status, _status_style(row)), f" {sized(request.method, 7)}")
    if width >= 30:
        is_slow = request.duration >= _SLOW
        took = whole_seconds(request.duration) if row.is_running else short_seconds(request.duration)
        text.append(f"{took:>7}  ", BUSY if is_slow else QUIET)
    if width >= 110:
        first = "" if request.first_byte is None else short_seconds(request.first_byte)
        size = "" if row.is_running else size_of(request.bytes_out)
        text.append(f"{first:>7}  {size:>7}  ", QUIET)
    if width >= 50:
        text.append(sized(request.upstream, 10), QUIET)
    if row.is_member:
        text.append("  ")
    note, style = _note(row, width)
    target = _target(row)
    if note:
        # After the target, which keeps at least half of the room.
        room = width - text.cell_len
        target = fit(target, max(room - len(note) - 3, room // 2, 1))
        target.append(f"  {note}", style)
    return text.append_text(target)


def _target(row: RequestRow) -> Text:
    target = one_line(row.of.target)
    if row.folded == 1:
        return Text(target)
    if row.is_assets:
        return Text.assemble(f"+{row.folded} assets", (f"  {target}", QUIET))
    return Text.assemble((f"x{row.folded} ", STRONG), target.partition("?")[0])


def _status_style(row: RequestRow) -> Style:
    status = row.of.status
    if row.is_running:
        return BUSY
    if status is None:
        return QUIET
    if status >= 500:
        return WORST
    if status >= 400:
        return BUSY
    return GOOD if 200 <= status < 300 else PLAIN


def _note(row: RequestRow, width: int) -> tuple[str, Style]:
    """Describe anything unusual about a request and, if there is room, the reason for its answer."""
    request = row.of
    if row.is_running:
        return request.reason, BUSY
    if request.outcome == "upstream-died":
        return "broken off", BAD
    if request.outcome == "client-gone":
        return "client gone", QUIET
    if request.held > _NOTICEABLE_WAIT:
        return f"held {short_seconds(request.held)}", BUSY
    return (one_line(request.reason), QUIET) if width >= 100 else ("", PLAIN)


def detail_rows(frame: Frame, details: Details, width: int) -> Iterator[Text]:
    """Draw the details of one request."""
    row, request, heads = details.row, details.row.of, details.heads
    yield rule("request", frame.request_note, width, is_chosen=True)
    yield Text(f" {request.method} {one_line(request.target)}", STRONG)
    status = "no answer" if request.status is None else str(request.status)
    status = "no answer yet" if row.is_running else status
    answer = Text.assemble(" ", (status, _status_style(row)), (f"  {request.upstream}", PLAIN))
    answer.append(f"  {one_line(request.reason)}", QUIET)
    yield answer
    facts = [f"{'so far' if row.is_running else 'total'} {short_seconds(request.duration)}"]
    if request.first_byte is not None:
        facts.append(f"first byte {short_seconds(request.first_byte)}")
    if request.held:
        facts.append(f"held {short_seconds(request.held)}")
    if not row.is_running:
        facts += [f"sent {size_of(request.bytes_in)}", f"received {size_of(request.bytes_out)}"]
    if request.outcome != "complete":
        facts.append({"client-gone": "the client left", "upstream-died": "broken off"}[request.outcome])
    yield Text(" " + ", ".join(facts), QUIET)
    if heads is None:
        return
    for title, lines in (("request", heads.request), ("answer", heads.answer)):
        if lines:
            yield Text(f" {title}:", QUIET)
        for line in lines:
            name, _, value = one_line(line).partition(": ")
            for part in decode(f"{name}: {value}", max(width - 4, 4)):
                yield Text.assemble("   ", part)


def help_rows(keys: Mapping[str, str], width: int, height: int) -> Iterator[Text]:
    """Draw the action of each key, if necessary in two columns.

    `keys` gives the action of each key.
    """
    yield rule("keys", "", width, is_chosen=True)
    lines = []
    for action, (_, words) in ACTIONS.items():
        bound = " ".join(key_label(key) for key, name in keys.items() if name == action)
        if bound:
            lines.append(Text.assemble(" ", (sized(bound, 10), STRONG), words))
    if len(lines) <= height - 1 or width < 80:
        yield from lines
        return
    half = (len(lines) + 1) // 2
    for index in range(half):
        left = fit(lines[index], width // 2, pad=True)
        right = lines[half + index] if half + index < len(lines) else Text()
        yield Text.assemble(left, right)
