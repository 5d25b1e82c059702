"""The whole picture: a frame becomes lines of text that fill the screen exactly.

The rows of the screen are divided here; if they are short, processes come first, then the log, then requests.
Child output and data from clients go through `text`. Everything is a function of the frame: this runs in a
worker thread, while the run goes on.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from rich.style import Style
from rich.text import Text

from orchestra.dashboard.controls import Mode
from orchestra.dashboard.keys import key_label
from orchestra.dashboard.panes import (
    detail_rows,
    error_line,
    folded,
    help_rows,
    label,
    log_rows,
    name_of_process,
    process_rows,
    request_rows,
)
from orchestra.dashboard.text import (
    ADDRESS,
    BAD,
    BUSY,
    LOOK,
    QUIET,
    STRONG,
    WORST,
    decode,
    fit,
    longest,
    one_line,
)
from orchestra.dashboard.words import OURSELVES, short_seconds
from orchestra.events import State

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from orchestra.dashboard.frame import Frame
    from orchestra.dashboard.model import Model

__all__ = ["Layout", "draw", "layout", "summary"]

# From this width on requests stand beside the log: both still get lines of a readable length.
_WIDE = 140
# The number of processes that have a row even if the log then has none.
_ALWAYS_SHOWN = 6


class Layout(NamedTuple):
    """The rows of each part, from the top down; 0: it is absent.

    Attributes:
        middle: The log, or its substitute.
        requests: Below the log.
        is_wide: Requests stand beside the log.
    """

    space: int
    error: int
    processes: int
    middle: int
    requests: int
    keys: int
    is_wide: bool = False


def layout(frame: Frame) -> Layout:
    """Divide the rows."""
    height, look = frame.height, frame.look
    space = int(height >= 16)
    keys, error = int(height >= 8), int(bool(frame.errors) and height >= 8)
    left = height - 1 - error - len(_message(frame)) - keys - 2 * space
    count = len(frame.processes)
    # With many processes the log keeps a third: it shows why something is wrong.
    room = min(left, max(left * 2 // 3, left - 8, min(count, _ALWAYS_SHOWN)))
    processes = max(min(room, count + 1), 0)
    if look.hides_processes or look.is_full or look.mode is Mode.HELP:
        processes = 0
    left -= processes + (space if processes else 0)
    has_requests = frame.url and not look.hides_requests and frame.details is None
    middle, requests, is_wide = max(left, 0), 0, False
    if look.mode is Mode.HELP or (look.is_full and not look.on_requests) or not has_requests:
        pass
    elif look.is_full:
        middle, requests = 0, middle
    elif frame.width >= _WIDE and left >= 3:
        requests, is_wide = left, True
    elif left >= 10 or look.on_requests:
        wanted = min(left // 4 + 1, len(frame.requests) + 2, 10)
        requests = min(max(left * 2 // 3, 3) if look.on_requests else wanted, left)
        middle = max(left - requests - space, 0)
    return Layout(space, error, processes, middle, requests, keys, is_wide)


def draw(frame: Frame, keys: Mapping[str, str]) -> list[Text]:
    """Draw a frame: exactly as many lines as the screen has; the help shows the actions of `keys`."""
    rows = layout(frame)
    empty = [Text()] * rows.space
    lines = [_header(frame), *empty]
    if rows.error:
        lines.append(_error(frame))
    if rows.processes:
        lines += [*_exactly(process_rows(frame, rows.processes), rows.processes), *empty]
    lines += _middle(frame, rows, keys)
    lines += empty
    lines += _message(frame)
    if rows.keys:
        lines.append(_footer(frame))
    return [fit(line, frame.width) for line in _exactly(lines, frame.height)]


def _middle(frame: Frame, rows: Layout, keys: Mapping[str, str]) -> list[Text]:
    width = frame.width
    if frame.look.mode is Mode.HELP:
        return _exactly(help_rows(keys, width, rows.middle), rows.middle)
    if frame.details is not None:
        return _exactly(detail_rows(frame, frame.details, width), rows.middle)
    if rows.is_wide:
        half = width * 58 // 100
        log = _exactly(log_rows(frame, half, rows.middle), rows.middle)
        requests = _exactly(request_rows(frame, width - half - 2, rows.requests), rows.requests)
        pairs = zip(log, requests, strict=True)
        return [Text.assemble(fit(a, half, pad=True), "  ", b) for a, b in pairs]
    log = _exactly(log_rows(frame, width, rows.middle), rows.middle)
    if not rows.requests:
        return log
    space = [Text()] * rows.space if rows.middle else []
    return [*log, *space, *_exactly(request_rows(frame, width, rows.requests), rows.requests)]


def _exactly(lines: Iterable[Text], height: int) -> list[Text]:
    rows = list(islice(lines, height)) if height > 0 else []
    return rows + [Text()] * (height - len(rows))


def _header(frame: Frame) -> Text:
    """Draw one row: our name, the address for the browser, and the state of the run."""
    width = frame.width
    symbol, style = LOOK[frame.overall.state]
    state = Text(f"{symbol} {one_line(frame.overall.text)}", style)
    counts = Text(", ".join(frame.counts) + "   " if frame.counts else "", QUIET)
    where = Text(one_line(frame.url), ADDRESS + Style(link=frame.url or None))
    title = Text(OURSELVES, STRONG)
    project = Text(f"  {one_line(frame.project)}" if frame.project else "", QUIET)
    # If there is no room, the least important text is left out first.
    for left, right in (
        (Text.assemble(" ", title, project, "  ", where), Text.assemble(counts, state)),
        (Text.assemble(" ", title, "  ", where), Text.assemble(counts, state)),
        (Text.assemble(" ", title, "  ", where), state),
        (Text.assemble(" ", where), state),
        (Text.assemble(" ", title), state),
    ):
        gap = width - left.cell_len - right.cell_len - 1
        if gap >= 2:
            return Text.assemble(left, " " * gap, right)
    return Text.assemble(" " * max(width - state.cell_len - 1, 0), state)


def _error(frame: Frame) -> Text:
    error, more = frame.errors[-1], len(frame.errors) - 1
    others = f" (and {more} more)" if more else ""
    line = Text(f" ✗ {one_line(error.process)}: ", WORST)
    line.append(error_line(error, frame.width - line.cell_len - len(others)))
    return line.append(others)


def _message(frame: Frame) -> list[Text]:
    """Draw the line above the keys; in full if there is room: a hint ends with the next step."""
    if frame.message is None or frame.height < 4:
        return []
    tone = {"warning": BUSY, "error": BAD}.get(frame.message.level, QUIET)
    text, width = one_line(frame.message.text), frame.width
    parts = [part.plain for part in decode(text, max(width - 2, 1))] if frame.height >= 24 else [text]
    return [Text(f" {part}", tone) for part in parts]


def _footer(frame: Frame) -> Text:
    """Draw the keys, as many as there is room for; help and quit are always there."""
    keys = [_key(*each) for each in frame.keys]
    line, always = Text(" "), Text.assemble(*keys[:2])
    for text in keys[2:]:
        if line.cell_len + text.cell_len + always.cell_len > frame.width:
            break
        line.append_text(text)
    return line + always


def _key(key: str, word: str) -> Text:
    return Text.assemble((key_label(key), STRONG), (f" {word}  ", QUIET))


def summary(model: Model, width: int) -> Iterator[Text]:
    """Draw what stays on the normal screen after the dashboard: how each process ended, and why.

    For a process that failed, or that ended by itself with all others, its last lines are repeated, because
    the log has gone with the dashboard. Of many processes, those that were only stopped are counted.
    """
    ended, processes = model.ended, list(model.processes.values())
    if ended is not None:
        restarts = sum(each.newest.restarts for each in processes)
        more = f", {restarts} restart{'s' * (restarts > 1)}" if restarts else ""
        why = f", {one_line(ended.reason)}" if ended.reason else ""
        lasted = f" ran for {short_seconds(ended.duration)}{more}{why}"
        yield fit(Text.assemble((OURSELVES, STRONG), (lasted, QUIET)), width)
    ended_by_themselves = all(each.state in (State.COMPLETED, State.FAILED) for each in processes)
    is_short = len(processes) <= _ALWAYS_SHOWN or ended_by_themselves
    well = [each for each in processes if each.state in (State.STOPPED, State.COMPLETED)]
    calm = [] if is_short else [each for each in well if not (each.newest.reason or each.newest.restarts)]
    for process in processes:
        if process in calm:
            continue
        row = name_of_process(process, longest(model.processes) + 2)
        row.append_text(label(process.state))
        if process.newest.reason:
            row.append(f"  {one_line(process.newest.reason)}", QUIET)
        if process.newest.restarts:
            row.append(f"  (restarts: {process.newest.restarts})", QUIET)
        yield fit(row, width)
        if process.state is State.FAILED or ended_by_themselves:
            for line in process.tail:
                for part in decode(line, max(width - 5, 4)):
                    yield fit(Text.assemble(("   │ ", QUIET), part), width)
    if calm:
        yield fit(folded(calm), width)
