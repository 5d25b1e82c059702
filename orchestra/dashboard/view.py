"""What the model looks like: stateless rich renderables, from the whole screen down to one section.

Every section is a frozen value with `__rich_console__`. It takes its width, and where it has one its height,
from `options`, the time from `now`, and yields lines of `Text` that it has made to fit; `Dashboard` shares
the rows of the screen out. What matters comes first when rows are short: processes, then the log, then
requests. Child output and what clients send is data, and goes through `text`.

Restraint: green, orange and red mean good, busy and bad and nothing else; each process has its own colour,
grey is for details that should not draw attention. Only the URL and trouble are bold.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from orchestra.dashboard.model import Phase
from orchestra.dashboard.text import QUIET, decode, fit, one_line, sized
from orchestra.dashboard.words import OURSELVES, colour_number, outcome, sentence, short_seconds
from orchestra.events import Notice, OutputLine, OutputPaused, State, StateChanged

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult

    from orchestra.dashboard.model import LogEntry, Model, Process
    from orchestra.events import RequestFinished

__all__ = ["Dashboard", "Footer", "Header", "Log", "ProcessTable", "Requests", "Summary"]

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
PHASES: dict[Phase, tuple[str, Style]] = {
    Phase.STARTING: ("◐", BUSY),
    Phase.READY: ("●", GOOD),
    Phase.TROUBLE: ("↻", BUSY),
    Phase.FAILED: ("✗", WORST),
    Phase.STOPPING: ("◑", BUSY),
    Phase.ENDED: ("■", QUIET),
}
KEYS = (("q", "quit"),)
# While something has failed.
KEYS_OF_FAILURE = (("r", "retry"),)

# From here on requests stand beside the log: both still get lines of a readable length.
_WIDE = 140
# A longer name is cut off: it would push everything else out of a narrow terminal.
_LONGEST_NAME = 16
# A warning stays in the footer for so long; it stays in the log anyway.
_NOTICE_SECONDS = 30.0
# So many processes have a row even where the log then has none.
_ALWAYS_SHOWN = 6
# The space after a number that is aligned to the right.
_GAP = 3
# The widths of the columns that a narrow terminal has no room for, with their gaps, in the order of drawing.
_COLUMNS = {"pid": 7 + _GAP, "port": 5 + _GAP, "uptime": 7 + _GAP, "restarts": 8 + _GAP}
# The time of a request that took longer stands out.
_SLOW = 1.0
# A shorter wait is not noticed, and not shown.
_NOTICEABLE_WAIT = 0.05


@dataclass(frozen=True, slots=True)
class Dashboard:
    """The whole screen; takes exactly the rows and columns that it is given."""

    model: Model
    now: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        height = options.height or options.max_height
        rows = self._rows(console, options.update(width=width, height=None), width, height)
        for index in range(height):
            yield from Segment.adjust_line_length(rows[index] if index < len(rows) else [], width)
            yield Segment.line()

    def _rows(
        self, console: Console, options: ConsoleOptions, width: int, height: int
    ) -> list[list[Segment]]:
        model = self.model

        def draw(section: RenderableType, rows: int, columns: int = width) -> list[list[Segment]]:
            if rows < 1:
                return []
            return console.render_lines(section, options.update(width=columns, height=rows), pad=True)[:rows]

        is_roomy = height >= 16
        top = draw(Header(model), 1)
        if is_roomy:
            top.append([])
        bottom = draw(Footer(model, self.now), 2 if is_roomy else int(height >= 8))
        left = height - len(top) - len(bottom)
        # With many processes the log keeps a third: it says why something is wrong.
        room = min(left, max(left * 2 // 3, left - 8, min(len(model.processes), _ALWAYS_SHOWN)))
        top += draw(ProcessTable(model, self.now), min(room, len(model.processes) + 1))
        if is_roomy:
            top.append([])
        left = height - len(top) - len(bottom)
        has_requests = model.url is not None
        if has_requests and width >= _WIDE and left >= 3:
            half = width * 58 // 100
            pairs = zip(
                draw(Log(model), left, half), draw(Requests(model), left, width - half - 2), strict=False
            )
            middle = [[*Segment.adjust_line_length(a, half), Segment("  "), *b] for a, b in pairs]
        else:
            below: list[list[Segment]] = []
            if has_requests and left >= 10:
                below = draw(Requests(model), min(left // 4 + 1, len(model.requests) + 2, 10))
                below.insert(0, [])
            middle = draw(Log(model), left - len(below))
            middle += [[]] * (left - len(below) - len(middle)) + below
        middle += [[]] * (left - len(middle))
        return top + middle + bottom


@dataclass(frozen=True, slots=True)
class Header:
    """One row: our name, where to point the browser, and how it all is."""

    model: Model

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        overall = self.model.overall()
        symbol, style = PHASES[overall.phase]
        state = Text.assemble((f"{symbol} ", style), (one_line(overall.text), style))
        where = Text(one_line(self.model.url or ""), ADDRESS)
        title = Text(OURSELVES, STRONG)
        # What has no room is left out, the least important first.
        for left in (
            Text.assemble(" ", title, "  ", where),
            Text.assemble(" ", where),
            Text(" ") + title,
            Text(""),
        ):
            gap = width - left.cell_len - state.cell_len - 1
            if gap >= 2 or not left:
                yield fit(Text.assemble(left, " " * max(gap, 0), state), width)
                return


@dataclass(frozen=True, slots=True)
class ProcessTable:
    """A row a process. When rows are short, those that need attention stay and the rest are counted."""

    model: Model
    now: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        processes = list(self.model.processes.values())
        height = options.height or len(processes) + 1
        has_heads = height > len(processes) and width >= 40
        shown = _most_important(processes, height - has_heads)
        columns = self._columns(width, processes)
        if has_heads:
            heads = "   " + "".join(sized(name, size) for name, size in columns[:2])
            heads += "".join(
                sized(name, size - _GAP, is_right=True) + " " * _GAP for name, size in columns[2:]
            )
            yield fit(Text(heads, QUIET), width)
        for process in shown:
            yield fit(self._row(process, columns, width), width)
        hidden = len(processes) - len(shown)
        if hidden:
            yield fit(Text(f"   and {hidden} more", QUIET), width)

    @staticmethod
    def _columns(width: int, processes: Iterable[Process]) -> list[tuple[str, int]]:
        names = max((cell_len(one_line(each.name)) for each in processes), default=0)
        longest = min(max(names, len("process")), _LONGEST_NAME, max(width // 3, 4))
        columns = [("process", longest + 2), ("state", 17)]
        left = width - 3 - sum(size for _, size in columns)
        chosen = set()
        for name in ("port", "uptime", "pid", "restarts"):  # in the order of their worth
            left -= _COLUMNS[name]
            if left < 0:
                break
            chosen.add(name)
        return columns + [(name, size) for name, size in _COLUMNS.items() if name in chosen]

    def _row(self, process: Process, columns: Sequence[tuple[str, int]], width: int) -> Text:
        symbol, style = LOOK[process.state]
        row = Text.assemble(" ", (symbol, style), " ")
        row.append(sized(process.name, columns[0][1]), _colour(process.index))
        row.append_text(self._state(process, style, columns[1][1]))
        newest = process.newest
        reason = one_line(outcome(newest))
        if newest.pid is None and reason:
            # Without a child the other columns have nothing to say: here is why.
            row.append(reason, BAD if newest.state is State.FAILED else QUIET)
            if newest.restarts and newest.state is State.BACKING_OFF:
                row.append(f"  (restarts: {newest.restarts})", QUIET)
            return fit(row, width)
        for name, size in columns[2:]:
            text, tone = self._cell(process, name)
            row.append(sized(text, size - _GAP, is_right=True) + " " * _GAP, tone)
        if reason and process.state not in (State.READY, State.RUNNING):
            row.append(reason, QUIET)
        return fit(row, width)

    def _cell(self, process: Process, name: str) -> tuple[str, Style]:
        newest = process.newest
        match name:
            case "pid" if newest.pid is not None:
                return str(newest.pid), QUIET
            case "port" if newest.port is not None:
                return str(newest.port), PLAIN
            case "uptime" if process.started_at is not None:
                return _whole_seconds(process.uptime(self.now) or 0.0), PLAIN
            case "restarts" if newest.pid is not None or newest.restarts:
                return str(newest.restarts), PLAIN if newest.restarts else QUIET
            case _:
                return "", PLAIN

    def _state(self, process: Process, style: Style, size: int) -> Text:
        text = Text.assemble((process.state.value.replace("-", " "), style))
        ready_after = process.newest.ready_after
        if process.state is State.READY and ready_after is not None:
            text.append(f" {short_seconds(ready_after)}", QUIET)
        elif process.state in (State.INSTALLING, State.STARTING, State.STOPPING):
            text.append(f" {_whole_seconds(self.now - process.since)}", QUIET)
        return fit(text, size, pad=True)


@dataclass(frozen=True, slots=True)
class Log:
    """The newest lines of all processes, each behind the name and in the colour of its process."""

    model: Model

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or 20
        title = int(height >= 4)
        if title:
            yield _rule("log", "", width)
        rows: list[Text] = []
        margin = self._margin(width)
        # From the newest back, so that a deep log costs nothing.
        for entry in (*reversed(self.model.paused.values()), *reversed(self.model.log)):
            rows[:0] = self._draw(entry, margin, width)
            if len(rows) >= height - title:
                break
        yield from rows[-(height - title) :] if height > title else ()

    def _margin(self, width: int) -> int:
        longest = max((cell_len(one_line(name)) for name in (OURSELVES, *self.model.processes)), default=0)
        return min(longest, _LONGEST_NAME, max(width // 5, 3))

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
            if tone is not None:
                part = part.copy()  # noqa: PLW2901 - what is remembered must not be changed
                part.style = tone
            label = sized("" if index else name, margin)
            rows.append(Text.assemble(" ", (label, style), (" │ ", bar), part))
        return rows


@dataclass(frozen=True, slots=True)
class Requests:
    """The newest requests: what was asked, what came of it, which upstream answered, how long it took."""

    model: Model

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or 10
        model = self.model
        title = int(height >= 2)
        if title:
            counts = [f"{model.request_count} so far"] if model.request_count else []
            if model.held:
                counts.append(f"{len(model.held)} held")
            if model.streams:
                counts.append(f"{len(model.streams)} stream{'s' * (len(model.streams) > 1)} open")
            yield _rule("requests", ", ".join(counts), width)
        if not model.requests:
            yield fit(Text(" none yet", QUIET), width)
        room = height - title
        for request in list(model.requests)[-room:] if room > 0 else ():
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
        target = Text.assemble(one_line(request.target))
        if note:
            # Said behind the target, and never cut off for its sake.
            target = fit(target, max(width - row.cell_len - len(note) - 3, 1))
            target.append(f"  {note}", style)
        return fit(row.append_text(target), width)


@dataclass(frozen=True, slots=True)
class Footer:
    """The newest warning or error while it is new, and which keys there are."""

    model: Model
    now: float

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        keys = Text(" ")
        has_failed = any(each.state is State.FAILED for each in self.model.processes.values())
        for key, meaning in (*KEYS, *(KEYS_OF_FAILURE if has_failed and self.model.ended is None else ())):
            keys.append(key, STRONG)
            keys.append(f" {meaning}   ", QUIET)
        notice = next(iter(reversed(self.model.notices)), None)
        if notice is not None and self.now - notice.at < _NOTICE_SECONDS:
            text = fit(Text(one_line(sentence(notice)), _tone(notice)), max(width - keys.cell_len - 1, 0))
            keys = Text.assemble(fit(keys, width - text.cell_len - 1, pad=True), text)
        if (options.height or 1) > 1:
            yield Text("")
        yield fit(keys, width)


@dataclass(frozen=True, slots=True)
class Summary:
    """What stays on the normal screen when the dashboard has gone: how each process ended, and why.

    Of a process that failed, or that ended by itself with all others, its last lines are repeated: the log
    has gone with the dashboard.
    """

    model: Model

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, model = options.max_width, self.model
        if model.ended is not None:
            lasted = short_seconds(model.ended.duration)
            why = f", {one_line(model.ended.reason)}" if model.ended.reason else ""
            yield fit(Text.assemble((OURSELVES, STRONG), (f" ran for {lasted}{why}", QUIET)), width)
        names = min(max((cell_len(one_line(name)) for name in model.processes), default=0), _LONGEST_NAME)
        ended_by_themselves = all(
            process.state in (State.COMPLETED, State.FAILED) for process in model.processes.values()
        )
        for process in model.processes.values():
            symbol, style = LOOK[process.state]
            row = Text.assemble(" ", (symbol, style), " ")
            row.append(sized(process.name, names + 2), _colour(process.index))
            row.append(process.state.value.replace("-", " "), style)
            reason = one_line(outcome(process.newest))
            if reason:
                row.append(f"  {reason}", QUIET)
            if process.newest.restarts:
                row.append(f"  (restarts: {process.newest.restarts})", QUIET)
            yield fit(row, width)
            if process.state is State.FAILED or ended_by_themselves:
                for line in model.last_lines(process):
                    for part in decode(line, max(width - 5, 4)):
                        yield fit(Text.assemble(("   │ ", QUIET), part), width)


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
