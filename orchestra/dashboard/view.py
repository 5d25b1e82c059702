"""What the model looks like: stateless rich renderables, from the whole screen down to one section.

Every section is a frozen value that yields lines of `Text`, made to fit the width and the height that it is
given; the time comes from `now`. `Dashboard` shares the rows of the screen out. What matters comes first when
rows are short: processes, then the log, then requests. Child output and what clients send is data, and goes
through `text`.

Restraint: green, orange and red mean good, busy and bad and nothing else; each process has its own colour,
grey is for details that should not draw attention. Only the URL and trouble are bold.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from orchestra.dashboard.text import QUIET, decode, fit, one_line, sized
from orchestra.dashboard.words import OURSELVES, colour_number, sentence, short_seconds
from orchestra.events import Notice, OutputLine, OutputPaused, State, StateChanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

    from orchestra.dashboard.model import LogEntry, Model, Process
    from orchestra.events import RequestFinished

__all__ = ["Dashboard", "Footer", "Header", "Log", "ProcessTable", "Requests", "Section", "Summary"]

GOOD = Style(color="green")
BUSY = Style(color="color(166)")  # orange: the yellow of many terminals cannot be read on white
BAD = Style(color="red")
WORST = Style(color="red", bold=True)
PLAIN = Style.null()
STRONG = Style(bold=True)
ADDRESS = Style(bold=True, underline=True)

# All are one cell wide, and differ in shape for users that see no colours.
LOOK: dict[State, tuple[str, Style]] = {
    State.WAITING: ("○", QUIET),
    State.INSTALLING: ("◌", BUSY),
    State.STARTING: ("◐", BUSY),
    State.RUNNING: ("●", GOOD),
    State.READY: ("●", GOOD),
    State.UNHEALTHY: ("◍", BAD),
    State.STOPPING: ("◑", BUSY),
    State.BACKING_OFF: ("↻", BUSY),
    State.COMPLETED: ("✓", GOOD),
    State.FAILED: ("✗", WORST),
    State.STOPPED: ("■", QUIET),
}

# From here on requests stand beside the log: both still get lines of a readable length.
_WIDE = 140
# A longer name is cut off: it would push everything else out of a narrow terminal.
_LONGEST_NAME = 16
# A warning stays in the footer for so long; it stays in the log anyway.
_NOTICE_SECONDS = 30.0
# So many processes have a row even where the log then has none.
_ALWAYS_SHOWN = 6
_STATE_WIDTH = 17
# The widths of the columns that a narrow terminal has no room for, in the order of drawing.
_NUMBERS = {"pid": 7, "port": 5, "uptime": 7, "restarts": 8}
# The space after each of them: they are aligned to the right.
_GAP = 3
# The time of a request that took longer stands out.
_SLOW = 1.0
# A shorter wait is not noticed, and not shown.
_NOTICEABLE_WAIT = 0.05


@dataclass(frozen=True)
class Section(ABC):
    """A part of the screen.

    Attributes:
        model: What it shows.
        now: Seconds since the epoch, for what counts them.
    """

    model: Model
    now: float = 0.0

    @abstractmethod
    def _lines(self, width: int, height: int) -> Iterable[Text]:
        """Draw it: lines of at most `width` cells; those after the first `height` are not shown."""

    def rows(self, width: int, height: int) -> list[Text]:
        """Draw it in exactly `height` lines."""
        rows = list(islice(self._lines(width, height), height)) if height > 0 else []
        return rows + [Text()] * (height - len(rows))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self._lines(options.max_width, options.height or options.max_height)


class Dashboard(Section):
    """The whole screen; takes exactly the rows and columns that it is given."""

    def _lines(self, width: int, height: int) -> list[Text]:
        model, now = self.model, self.now
        space = [Text()] if height >= 16 else []
        top = Header(model).rows(width, 1) + space
        bottom = space + Footer(model, now).rows(width, int(height >= 8))
        left = height - len(top) - len(bottom)
        # With many processes the log keeps a third: it says why something is wrong.
        room = min(left, max(left * 2 // 3, left - 8, min(len(model.processes), _ALWAYS_SHOWN)))
        top += ProcessTable(model, now).rows(width, min(room, len(model.processes) + 1)) + space
        left = height - len(top) - len(bottom)
        has_requests = model.url is not None
        if has_requests and width >= _WIDE and left >= 3:
            half = width * 58 // 100
            pairs = zip(
                Log(model).rows(half, left), Requests(model).rows(width - half - 2, left), strict=True
            )
            middle = [fit(Text.assemble(fit(a, half, pad=True), "  ", b), width) for a, b in pairs]
        elif has_requests and left >= 10:
            below = min(left // 4 + 1, len(model.requests) + 2, 10)
            middle = [
                *Log(model).rows(width, left - below - 1),
                Text(),
                *Requests(model).rows(width, below),
            ]
        else:
            middle = Log(model).rows(width, left)
        return top + middle + bottom


class Header(Section):
    """One row: our name, where to point the browser, and how it all is."""

    def _lines(self, width: int, _height: int) -> Iterator[Text]:
        overall = self.model.overall()
        symbol, style = LOOK[overall.state]
        state = Text(f"{symbol} {one_line(overall.text)}", style)
        where = Text(one_line(self.model.url or ""), ADDRESS)
        title = Text(OURSELVES, STRONG)
        # What has no room is left out, the least important first.
        for left in (
            Text.assemble(" ", title, "  ", where),
            Text.assemble(" ", where),
            Text.assemble(" ", title),
            Text(),
        ):
            gap = width - left.cell_len - state.cell_len - 1
            if gap >= 2 or not left:
                yield fit(Text.assemble(left, " " * max(gap, 0), state), width)
                return


class ProcessTable(Section):
    """A row a process. When rows are short, those that need attention stay and the rest are counted."""

    def _lines(self, width: int, height: int) -> Iterator[Text]:
        processes = list(self.model.processes.values())
        name_width = min(max(_longest(self.model.processes), len("process")), max(width // 3, 4)) + 2
        numbers = _affordable(width - 3 - name_width - _STATE_WIDTH)
        has_heads = height > len(processes) and width >= 40
        if has_heads:
            heads = sized("process", name_width) + sized("state", _STATE_WIDTH)
            yield fit(Text(f"   {heads}{''.join(_number(name, name) for name in numbers)}", QUIET), width)
        shown = _most_important(processes, height - has_heads)
        for process in shown:
            yield fit(self._row(process, name_width, numbers), width)
        if hidden := len(processes) - len(shown):
            yield fit(Text(f"   and {hidden} more", QUIET), width)

    def _row(self, process: Process, name_width: int, numbers: Sequence[str]) -> Text:
        newest = process.newest
        reason = one_line(newest.reason)
        row = _name(process, name_width)
        row.append_text(self._state(process))
        if newest.pid is None and reason:
            # Without a child the other columns have nothing to say: here is why.
            row.append(reason, BAD if newest.state is State.FAILED else QUIET)
            if newest.state is State.BACKING_OFF:
                row.append_text(_restarts(process))
            return row
        uptime = process.uptime(self.now)
        cells = {
            "pid": (newest.pid, QUIET),
            "port": (newest.port, PLAIN),
            "uptime": (None if uptime is None else _whole_seconds(uptime), PLAIN),
            "restarts": (
                newest.restarts if newest.pid is not None or newest.restarts else None,
                PLAIN if newest.restarts else QUIET,
            ),
        }
        for name in numbers:
            value, tone = cells[name]
            row.append(_number(name, value), tone)
        if reason and process.state not in (State.READY, State.RUNNING):
            row.append(reason, QUIET)
        return row

    def _state(self, process: Process) -> Text:
        text = _label(process.state)
        ready_after = process.newest.ready_after
        if process.state is State.READY and ready_after is not None:
            text.append(f" {short_seconds(ready_after)}", QUIET)
        elif process.state in (State.INSTALLING, State.STARTING, State.STOPPING):
            text.append(f" {_whole_seconds(self.now - process.since)}", QUIET)
        return fit(text, _STATE_WIDTH, pad=True)


class Log(Section):
    """The newest lines of all processes, each behind the name and in the colour of its process."""

    def _lines(self, width: int, height: int) -> Iterator[Text]:
        if height >= 4:
            yield _rule("log", "", width)
            height -= 1
        rows: list[Text] = []
        margin = min(_longest([OURSELVES, *self.model.processes]), max(width // 5, 3))
        # From the newest back, so that a deep log costs nothing.
        for entry in (*reversed(self.model.paused.values()), *reversed(self.model.log)):
            rows[:0] = self._draw(entry, margin, width)
            if len(rows) >= height:
                break
        yield from rows[-height:]

    def _draw(self, entry: LogEntry | OutputPaused, margin: int, width: int) -> list[Text]:
        tone: Style | None = None
        bar = QUIET
        if isinstance(entry, OutputLine | OutputPaused):
            name, text = entry.process, entry.text
            bar = BAD if entry.stream == "stderr" else QUIET
            process = self.model.processes.get(name)
            style = _colour(process.index) if process is not None else QUIET
        else:
            name, text, style, tone = OURSELVES, sentence(entry), QUIET, _tone(entry)
        room = width - margin - 5  # a column is left free at either side
        if room < 4:
            return [fit(decode(text, max(width, 1))[0], width)]
        rows = []
        for index, part in enumerate(decode(text, room)):
            label = sized("" if index else name, margin)
            body = part if tone is None else Text(part.plain, tone)
            rows.append(fit(Text.assemble(" ", (label, style), (" │ ", bar), body), width))
        return rows


class Requests(Section):
    """The newest requests: what was asked, what came of it, which upstream answered, how long it took."""

    def _lines(self, width: int, height: int) -> Iterator[Text]:
        model = self.model
        if height >= 2:
            counts = [f"{model.request_count} so far"] if model.request_count else []
            if model.held:
                counts.append(f"{len(model.held)} held")
            if model.streams:
                counts.append(f"{len(model.streams)} stream{'s' * (len(model.streams) > 1)} open")
            yield _rule("requests", ", ".join(counts), width)
            height -= 1
        if not model.requests:
            yield fit(Text(" none yet", QUIET), width)
        for request in list(model.requests)[-height:]:
            yield self._row(request, width)

    @staticmethod
    def _row(request: RequestFinished, width: int) -> Text:
        status = "---" if request.status is None else str(request.status)
        row = Text.assemble((f" {status} ", _status_style(request.status)), f" {sized(request.method, 7)}")
        if width >= 30:
            took = f"{short_seconds(request.duration):>7}  "
            row.append(took, PLAIN if request.duration >= _SLOW else QUIET)
        if width >= 50:
            row.append(sized(request.upstream, 11), QUIET)
        note, style = _note(request)
        target = Text(one_line(request.target))
        if note:
            # Said behind the target, and never cut off for its sake.
            target = fit(target, max(width - row.cell_len - len(note) - 3, 1))
            target.append(f"  {note}", style)
        return fit(row.append_text(target), width)


class Footer(Section):
    """The newest warning or error while it is new, and which keys there are."""

    def _lines(self, width: int, _height: int) -> Iterator[Text]:
        keys = Text.assemble(" ", ("q", STRONG), (" quit   ", QUIET))
        has_failed = any(each.state is State.FAILED for each in self.model.processes.values())
        if has_failed and self.model.ended is None:
            keys = Text.assemble(keys, ("r", STRONG), (" retry   ", QUIET))
        warning = self.model.warning
        if warning is not None and self.now - warning.at < _NOTICE_SECONDS:
            room = max(width - keys.cell_len - 1, 0)
            text = fit(Text(one_line(sentence(warning)), _tone(warning)), room)
            keys = Text.assemble(fit(keys, width - text.cell_len - 1, pad=True), text)
        yield fit(keys, width)


class Summary(Section):
    """What stays on the normal screen when the dashboard has gone: how each process ended, and why.

    Of a process that failed, or that ended by itself with all others, its last lines are repeated: the log
    has gone with the dashboard.
    """

    def _lines(self, width: int, _height: int) -> Iterator[Text]:
        ended, processes = self.model.ended, self.model.processes.values()
        if ended is not None:
            why = f", {one_line(ended.reason)}" if ended.reason else ""
            lasted = f" ran for {short_seconds(ended.duration)}{why}"
            yield fit(Text.assemble((OURSELVES, STRONG), (lasted, QUIET)), width)
        ended_by_themselves = all(each.state in (State.COMPLETED, State.FAILED) for each in processes)
        for process in processes:
            row = _name(process, _longest(self.model.processes) + 2)
            row.append_text(_label(process.state))
            if process.newest.reason:
                row.append(f"  {one_line(process.newest.reason)}", QUIET)
            yield fit(row.append_text(_restarts(process)), width)
            if process.state is State.FAILED or ended_by_themselves:
                for line in process.tail:
                    for part in decode(line, max(width - 5, 4)):
                        yield fit(Text.assemble(("   │ ", QUIET), part), width)


def _name(process: Process, width: int) -> Text:
    """Begin a row: the symbol of a process's state, and its name."""
    symbol, style = LOOK[process.state]
    name = sized(process.name, width)
    return Text.assemble(" ", (symbol, style), " ", (name, _colour(process.index)))


def _label(state: State) -> Text:
    # An own style for the word alone: what is appended has none of it.
    return Text.assemble((state.value.replace("-", " "), LOOK[state][1]))


def _restarts(process: Process) -> Text:
    count = process.newest.restarts
    return Text(f"  (restarts: {count})" if count else "", QUIET)


def _longest(names: Iterable[str]) -> int:
    """The cells of the longest name, as far as names are shown."""
    return min(max((cell_len(one_line(name)) for name in names), default=0), _LONGEST_NAME)


def _affordable(room: int) -> list[str]:
    """Choose the columns of numbers that there is room for."""
    chosen = set()
    for name in ("port", "uptime", "pid", "restarts"):  # in the order of their worth
        room -= _NUMBERS[name] + _GAP
        if room < 0:
            break
        chosen.add(name)
    return [name for name in _NUMBERS if name in chosen]


def _number(column: str, value: object) -> str:
    return f"{'' if value is None else value:>{_NUMBERS[column]}}" + " " * _GAP


def _rule(title: str, note: str, width: int) -> Text:
    left = f" ── {title} "
    right = f" {note} ── " if note else "── "
    return fit(Text(left + "─" * max(width - cell_len(left) - cell_len(right), 0) + right, QUIET), width)


def _status_style(status: int | None) -> Style:
    if status is None:
        return QUIET
    if status >= 500:
        return WORST
    if status >= 400:
        return BUSY
    return GOOD if status >= 200 and status < 300 else PLAIN


def _note(request: RequestFinished) -> tuple[str, Style]:
    """Say what was unusual about a request."""
    if request.outcome == "upstream-died":
        return "broken off", BAD
    if request.outcome == "client-gone":
        return "client gone", QUIET
    if request.held > _NOTICEABLE_WAIT:
        return f"held {short_seconds(request.held)}", BUSY
    return "", PLAIN


def _tone(entry: LogEntry) -> Style:
    """Give the style of a line of orchestra itself."""
    match entry:
        case Notice(level="error") | StateChanged(state=State.FAILED):
            return BAD
        case Notice(level="warning") | StateChanged(state=State.BACKING_OFF | State.UNHEALTHY):
            return BUSY
        case _:
            return QUIET


def _most_important(processes: Sequence[Process], rows: int) -> list[Process]:
    """Choose those for which there is room; one row is kept for the count of the others."""
    if len(processes) <= rows:
        return list(processes)
    calm = (State.READY, State.RUNNING, State.COMPLETED)
    by_need = sorted(processes, key=lambda each: (each.state is not State.FAILED, each.state in calm))
    chosen = {each.name for each in by_need[: max(rows - 1, 0)]}
    return [each for each in processes if each.name in chosen]


@lru_cache(maxsize=64)
def _colour(index: int) -> Style:
    return Style(color=f"color({colour_number(index)})")


def _whole_seconds(seconds: float) -> str:
    """Write a duration that is running: it changes once a second, and so does the screen."""
    return f"{max(int(seconds), 0)} s" if seconds < 60 else short_seconds(seconds)
