"""The log, the requests, one request's details, and the help: each as lines for so many rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.style import Style
from rich.text import Text

from orchestra.config.keys import ACTIONS
from orchestra.dashboard.keys import key_label
from orchestra.dashboard.log import Entry, LogEvent
from orchestra.dashboard.styles import (
    BAD,
    BUSY,
    GOOD,
    PLAIN,
    STRONG,
    WORST,
    colour,
    longest,
    rule,
    size_of,
    tone_of,
    whole_seconds,
)  # fmt: skip
from orchestra.dashboard.text import QUIET, decode, fit, one_line, sized
from orchestra.dashboard.words import OURSELVES, sentence, short_seconds
from orchestra.events import OutputLine, OutputPaused

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from orchestra.dashboard.frame import Details, Frame
    from orchestra.dashboard.requests import RequestRow

__all__ = ["detail_rows", "help_rows", "log_rows", "request_rows"]

# The time of a request that took longer stands out.
_SLOW = 1.0
# A shorter wait is not noticed, and not shown.
_NOTICEABLE_WAIT = 0.05
_FOUND = Style(reverse=True)


def log_rows(frame: Frame, width: int, height: int) -> Iterator[Text]:
    """Draw the newest lines, each behind the name and in the colour of its process."""
    if height >= 4:
        yield rule("log", frame.log_note, width)
        height -= 1
    rows: list[Text] = []
    margin = min(longest([OURSELVES, *frame.colours]), max(width // 5, 3))
    # From the newest back, so that a deep log costs nothing.
    entries: list[OutputPaused | Entry] = [*frame.log, *frame.begun]
    for entry in reversed(entries):
        rows[:0] = _entry_rows(frame, entry, margin, width)
        if len(rows) >= height:
            break
    yield from rows[-height:] if height > 0 else ()


def _entry_rows(frame: Frame, entry: Entry | OutputPaused, margin: int, width: int) -> list[Text]:
    event: LogEvent | OutputPaused = entry.event if isinstance(entry, Entry) else entry
    tone: Style | None = None
    bar = QUIET
    if isinstance(event, OutputLine | OutputPaused):
        name, text = event.process, event.text
        bar = BAD if event.stream == "stderr" else QUIET
        style = colour(frame.colours[name]) if name in frame.colours else QUIET
    else:
        name, text, style, tone = OURSELVES, sentence(event), QUIET, tone_of(event)
    is_hit = isinstance(entry, Entry) and entry.number == frame.look.hit
    room = width - margin - 5  # a column is left free at either side
    if room < 4:
        return [fit(decode(text, max(width, 1))[0], width)]
    rows = []
    for index, part in enumerate(decode(text, room)):
        label = sized("" if index else name, margin)
        body = part if tone is None else Text(part.plain, tone)
        if frame.look.search:
            body = body.copy()
            body.highlight_words([frame.look.search], _FOUND, case_sensitive=False)
        sign = ("▸", STRONG) if is_hit and not index else (" ", PLAIN)
        rows.append(fit(Text.assemble(sign, (label, style), (" │ ", bar), body), width))
    return rows


def request_rows(frame: Frame, width: int, height: int) -> Iterator[Text]:
    """Draw the requests: those under way, then the newest of those that are over."""
    look = frame.look
    if height >= 2:
        yield rule("requests", frame.request_note, width, is_chosen=look.on_requests)
        height -= 1
    rows = frame.requests
    if not rows:
        yield fit(Text(" none yet" if not look.request_text else " none like that", QUIET), width)
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
        # Said behind the target, which leaves it room, but not more than half.
        room = width - text.cell_len
        target = fit(target, max(room - len(note) - 3, room // 2, 1))
        target.append(f"  {note}", style)
    return fit(text.append_text(target), width)


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
    """Say what was unusual about a request, and where there is room why it got this answer."""
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
    """Draw all that is known of one request."""
    row, request, heads = details.row, details.row.of, details.heads
    yield rule("request", frame.request_note, width, is_chosen=True)
    yield fit(Text(f" {request.method} {one_line(request.target)}", STRONG), width)
    status = "no answer" if request.status is None else str(request.status)
    status = "no answer yet" if row.is_running else status
    answer = Text.assemble(" ", (status, _status_style(row)), (f"  {request.upstream}", PLAIN))
    answer.append(f"  {one_line(request.reason)}", QUIET)
    yield fit(answer, width)
    facts = [f"{'so far' if row.is_running else 'total'} {short_seconds(request.duration)}"]
    if request.first_byte is not None:
        facts.append(f"first byte {short_seconds(request.first_byte)}")
    if request.held:
        facts.append(f"held {short_seconds(request.held)}")
    if not row.is_running:
        facts += [f"sent {size_of(request.bytes_in)}", f"received {size_of(request.bytes_out)}"]
    if request.outcome != "complete":
        facts.append({"client-gone": "the client left", "upstream-died": "broken off"}[request.outcome])
    yield fit(Text(" " + ", ".join(facts), QUIET), width)
    if heads is None:
        return
    for title, lines in (("request", heads.request), ("answer", heads.answer)):
        if lines:
            yield fit(Text(f" {title}:", QUIET), width)
        for line in lines:
            name, _, value = one_line(line).partition(": ")
            for part in decode(f"{name}: {value}", max(width - 4, 4)):
                yield fit(Text.assemble("   ", part), width)


def help_rows(keys: Mapping[str, str], width: int, height: int) -> Iterator[Text]:
    """Draw what each key does, in two columns where that is needed.

    `keys` gives the action of each key.
    """
    yield rule("keys", "", width, is_chosen=True)
    lines = []
    for action, (_, words) in ACTIONS.items():
        bound = " ".join(key_label(key) for key, name in keys.items() if name == action)
        if bound:
            lines.append(Text.assemble(" ", (sized(bound, 10), STRONG), words))
    if len(lines) <= height - 1 or width < 80:
        yield from (fit(line, width) for line in lines)
        return
    half = (len(lines) + 1) // 2
    for index in range(half):
        left = fit(lines[index], width // 2, pad=True)
        right = lines[half + index] if half + index < len(lines) else Text()
        yield fit(Text.assemble(left, right), width)
