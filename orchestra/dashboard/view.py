"""What the model looks like: stateless rich renderables, from the whole screen down to one section.

Every section is a frozen value with `__rich_console__`. It takes its width, and where it has one its height,
from `options`, the time from `now`, and yields lines of `Text` that it has made to fit; `Dashboard` shares
the rows of the screen out. What matters comes first when rows are short: processes, then the log, then
requests.

Child output is data: it goes through `AnsiDecoder`, never through markup, and can neither leave its line nor
its columns. Long lines are folded.

Restraint: green, orange and red mean good, busy and bad and nothing else; each process has its own colour,
grey is for what is only looked at when it is looked for. Only the URL and trouble are bold.

See it with ``python -m orchestra.dashboard.view``.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from rich.ansi import AnsiDecoder
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from orchestra.child.lines import clean
from orchestra.dashboard.model import (
    OURSELVES,
    Model,
    Phase,
    colour_number,
    sentence,
    short_seconds,
)
from orchestra.events import (
    Notice,
    OutputLine,
    OutputPaused,
    RequestFinished,
    RunStarted,
    State,
    StateChanged,
    StreamOpened,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import ConsoleOptions, RenderableType, RenderResult

    from orchestra.dashboard.model import LogEntry, Process
    from orchestra.events import UpstreamName

__all__ = [
    "Dashboard",
    "Farewell",
    "Footer",
    "Header",
    "Log",
    "ProcessTable",
    "Requests",
    "export_svg",
    "sample",
]

GOOD = Style(color="green")
BUSY = Style(color="color(166)")  # orange: the yellow of many terminals cannot be read on white
BAD = Style(color="red")
WORST = Style(color="red", bold=True)
QUIET = Style(color="color(102)")
PLAIN = Style.null()
STRONG = Style(bold=True)
ADDRESS = Style(bold=True, underline=True)

# All are one cell wide, and differ in shape, for those who see no colours.
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
# Of one line of output, so that one line of minified JavaScript does not push out everything else.
_MOST_ROWS = 4
# A warning stays in the footer for so long; it stays in the log anyway.
_NOTICE_SECONDS = 30.0
# So many processes have a row even where the log then has none.
_ALWAYS_SHOWN = 6
# What stands right of a number that is aligned to the right.
_GAP = 3
# The widths of the columns that a narrow terminal has no room for, with their gaps, in the order of drawing.
_COLUMNS = {"pid": 7 + _GAP, "port": 5 + _GAP, "uptime": 7 + _GAP, "restarts": 8 + _GAP}
# The time of a request that took longer stands out.
_SLOW = 1.0
# A wait that nobody notices is not shown as one.
_NOTICEABLE = 0.05
# Characters that would end a line for some terminals or for rich.
_SEPARATORS = re.compile("[\u2028\u2029]")

_SVG_THEME = TerminalTheme(
    (24, 26, 31),
    (214, 218, 226),
    [
        (24, 26, 31),
        (232, 101, 101),
        (106, 186, 113),
        (214, 170, 92),
        (97, 150, 233),
        (190, 126, 218),
        (80, 178, 190),
        (214, 218, 226),
    ],
    [
        (110, 116, 128),
        (244, 130, 130),
        (134, 208, 140),
        (232, 196, 124),
        (128, 174, 244),
        (208, 156, 232),
        (112, 202, 212),
        (240, 242, 246),
    ],
)


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
    """One row: who we are, where to point the browser, and how it all is."""

    model: Model

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        overall = self.model.overall()
        symbol, style = PHASES[overall.phase]
        state = Text.assemble((f"{symbol} ", style), (_line(overall.text), style))
        where = Text(_line(self.model.url or ""), ADDRESS)
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
                yield _fit(Text.assemble(left, " " * max(gap, 0), state), width)
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
            heads = "   " + "".join(_sized(name, size) for name, size in columns[:2])
            heads += "".join(
                _sized(name, size - _GAP, is_right=True) + " " * _GAP for name, size in columns[2:]
            )
            yield _fit(Text(heads, QUIET), width)
        for process in shown:
            yield _fit(self._row(process, columns, width), width)
        hidden = len(processes) - len(shown)
        if hidden:
            yield _fit(Text(f"   and {hidden} more", QUIET), width)

    @staticmethod
    def _columns(width: int, processes: Iterable[Process]) -> list[tuple[str, int]]:
        names = max((cell_len(_line(each.name)) for each in processes), default=0)
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
        row.append(_sized(process.name, columns[0][1]), _colour(process.index))
        row.append_text(self._state(process, style, columns[1][1]))
        reason = _line(process.outcome())
        if process.pid is None and reason:
            # Without a child the other columns have nothing to say: here is why.
            row.append(reason, BAD if process.state is State.FAILED else QUIET)
            if process.restarts and process.state is State.BACKING_OFF:
                row.append(f"  (restarts: {process.restarts})", QUIET)
            return _fit(row, width)
        for name, size in columns[2:]:
            text, tone = self._cell(process, name)
            row.append(_sized(text, size - _GAP, is_right=True) + " " * _GAP, tone)
        if reason and process.state not in (State.READY, State.RUNNING):
            row.append(reason, QUIET)
        return _fit(row, width)

    def _cell(self, process: Process, name: str) -> tuple[str, Style]:
        match name:
            case "pid" if process.pid is not None:
                return str(process.pid), QUIET
            case "port" if process.port is not None:
                return str(process.port), PLAIN
            case "uptime" if process.started_at is not None:
                return _whole_seconds(process.uptime(self.now) or 0.0), PLAIN
            case "restarts" if process.pid is not None or process.restarts:
                return str(process.restarts), PLAIN if process.restarts else QUIET
            case _:
                return "", PLAIN

    def _state(self, process: Process, style: Style, size: int) -> Text:
        text = Text.assemble((process.state.value.replace("-", " "), style))
        if process.state is State.READY and process.ready_after is not None:
            text.append(f" {short_seconds(process.ready_after)}", QUIET)
        elif process.state in (State.INSTALLING, State.STARTING, State.STOPPING):
            text.append(f" {_whole_seconds(self.now - process.since)}", QUIET)
        return _fit(text, size, pad=True)


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
        longest = max((cell_len(_line(name)) for name in (OURSELVES, *self.model.processes)), default=0)
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
            return [_fit(_decode(text, max(width, 1))[0], width)]
        rows = []
        for index, part in enumerate(_decode(text, room)):
            if tone is not None:
                part = part.copy()  # noqa: PLW2901 - what is remembered must not be changed
                part.style = tone
            label = _sized("" if index else name, margin)
            rows.append(Text.assemble(" ", (label, style), (" │ ", bar), part))
        return rows


@dataclass(frozen=True, slots=True)
class Requests:
    """The newest requests: what was asked, what came of it, who answered, how long it took."""

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
            yield _fit(Text(" none yet", QUIET), width)
        room = height - title
        for request in list(model.requests)[-room:] if room > 0 else ():
            yield self._row(request, width)

    @staticmethod
    def _row(request: RequestFinished, width: int) -> Text:
        status = "---" if request.status is None else str(request.status)
        row = Text.assemble((f" {status} ", _status_style(request.status)), f" {_sized(request.method, 7)}")
        if width >= 30:
            took = f"{short_seconds(request.duration):>7}  "
            row.append(took, PLAIN if request.duration >= _SLOW else QUIET)
        if width >= 50:
            row.append(_sized(request.upstream, 11), QUIET)
        note, style = _note(request)
        target = Text.assemble(_line(request.target))
        if note:
            # Said behind the target, and never cut off for its sake.
            target = _fit(target, max(width - row.cell_len - len(note) - 3, 1))
            target.append(f"  {note}", style)
        return _fit(row.append_text(target), width)


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
            text = _fit(Text(_line(sentence(notice)), _tone(notice)), max(width - keys.cell_len - 1, 0))
            keys = Text.assemble(_fit(keys, width - text.cell_len - 1, pad=True), text)
        if (options.height or 1) > 1:
            yield Text("")
        yield _fit(keys, width)


@dataclass(frozen=True, slots=True)
class Farewell:
    """What stays on the normal screen when the dashboard has gone: how each process ended, and why.

    Of a process that failed, or that ended by itself with all others, its last lines are repeated: the log
    has gone with the dashboard.
    """

    model: Model

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, model = options.max_width, self.model
        if model.ended is not None:
            lasted = short_seconds(model.ended.duration)
            reason = f", {_line(model.ended.reason)}" if model.ended.reason else ""
            yield _fit(Text.assemble((OURSELVES, STRONG), (f" ran for {lasted}{reason}", QUIET)), width)
        names = min(max((cell_len(_line(name)) for name in model.processes), default=0), _LONGEST_NAME)
        ended_by_themselves = all(
            process.state in (State.COMPLETED, State.FAILED) for process in model.processes.values()
        )
        for process in model.processes.values():
            symbol, style = LOOK[process.state]
            row = Text.assemble(" ", (symbol, style), " ")
            row.append(_sized(process.name, names + 2), _colour(process.index))
            row.append(process.state.value.replace("-", " "), style)
            outcome = _line(process.outcome())
            if outcome:
                row.append(f"  {outcome}", QUIET)
            if process.restarts:
                row.append(f"  (restarts: {process.restarts})", QUIET)
            yield _fit(row, width)
            if process.state is State.FAILED or ended_by_themselves:
                for line in process.tail:
                    for part in _decode(line.text, max(width - 5, 4)):
                        yield _fit(Text.assemble(("   │ ", QUIET), part), width)


def export_svg(
    model: Model, *, now: float, width: int = 100, height: int = 30, title: str = OURSELVES
) -> str:
    """Draw the dashboard as an SVG picture of a terminal.

    Args:
        model: What to draw.
        now: Seconds since the epoch.
        width: In cells.
        height: In cells.
        title: Of the window.
    """
    console = Console(
        record=True,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        no_color=False,
        width=width,
        height=height,
    )
    console.print(Dashboard(model, now), height=height, end="\n")
    return console.export_svg(title=title, theme=_SVG_THEME)


def _rule(title: str, note: str, width: int) -> Text:
    left = f" ── {title} "
    right = f" {note} ── " if note else "── "
    return _fit(Text(left + "─" * max(width - cell_len(left) - cell_len(right), 0) + right, QUIET), width)


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
    if request.held > _NOTICEABLE:
        return f"held {short_seconds(request.held)}", BUSY
    return "", PLAIN


def _tone(entry: LogEntry) -> Style:
    """Give the style of what we ourselves have to say."""
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


def _line(text: str) -> str:
    """Make sure that text is one line without control characters; it may have come over the network."""
    return _SEPARATORS.sub(" ", clean(text)).replace("\t", " ").replace("\x1b", "")


# While lines scroll through the log, each of them is drawn in many frames.
@lru_cache(maxsize=1024)
def _decode(text: str, width: int) -> tuple[Text, ...]:
    """Turn a line of output into rows of at most `width` cells. The result is shared: not to be changed."""
    # Enough for all rows, even if nearly all of it are colours.
    text = _SEPARATORS.sub(" ", clean(text[: width * _MOST_ROWS * 8]))
    decoded = AnsiDecoder().decode_line(text)
    decoded.no_wrap, decoded.overflow, decoded.end = True, "crop", ""
    decoded.expand_tabs(8)
    decoded.rstrip()
    if decoded.cell_len <= width:
        return (decoded,)
    offsets: list[int] = []
    offset = 0
    while len(offsets) < _MOST_ROWS and offset < len(decoded.plain):
        offset += _fold(decoded.plain[offset:], width)
        offsets.append(offset)
    rows = list(decoded.divide(offsets))
    if any(rows[_MOST_ROWS:]):
        last = rows[_MOST_ROWS - 1]
        last.truncate(width - 1, overflow="crop")
        last.append("…", QUIET)
    return tuple(_fit(row, width) for row in rows[:_MOST_ROWS] if row)


def _fold(text: str, width: int) -> int:
    """Say how many characters go into the first row: behind a space, if one is near its end."""
    row = (chop_cells(text, width) or [text])[0]
    space = row.rfind(" ")
    if len(row) < len(text) and space >= len(row) * 2 // 3:
        return space + 1
    return len(row) or 1  # where not even one wide character has room


def _sized(text: str, size: int, *, is_right: bool = False) -> str:
    """Make text exactly `size` cells wide: cut off, or padded on one side."""
    text = _line(text)
    if cell_len(text) > size:
        text = (chop_cells(text, size - 1) or [""])[0] + "…" if size > 1 else "…" * size
    space = " " * max(size - cell_len(text), 0)
    return space + text if is_right else text + space


def _whole_seconds(seconds: float) -> str:
    """Write a duration that is running: it changes once a second, and so does the screen."""
    return f"{max(int(seconds), 0)} s" if seconds < 60 else short_seconds(seconds)


def _fit(text: Text, width: int, *, pad: bool = False) -> Text:
    """Give a copy that is one line of at most (with `pad`: exactly) `width` cells."""
    text = text.copy()
    if not pad:
        text.rstrip()
    text.no_wrap, text.overflow, text.end = True, "crop", "\n"
    text.truncate(max(width, 0), overflow="ellipsis", pad=pad)
    return text


def sample() -> tuple[Model, float]:
    """Give a model of a run in full swing, made up, and the time that it is there."""
    model = Model()
    at = 1000.0
    names = ("vite", "api", "worker", "mail")
    model.apply(
        RunStarted(
            time=_moment(at),
            version="0.1",
            pid=41230,
            procfile="Procfile",
            url="http://127.0.0.1:8000",
            processes=names,
        )
    )
    for event in _sample_events(at):
        model.apply(event)
    return model, at + 187.0


def _moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


def _sample_events(
    at: float,
) -> Iterator[StateChanged | OutputLine | RequestFinished | Notice | StreamOpened]:
    waiting, starting, running, ready = State.WAITING, State.STARTING, State.RUNNING, State.READY

    def change(after: float, name: str, state: State, previous: State, **more: Any) -> StateChanged:
        return StateChanged(time=_moment(at + after), process=name, state=state, previous=previous, **more)

    def line(after: float, name: str, text: str) -> OutputLine:
        return OutputLine(time=_moment(at + after), process=name, stream="stdout", text=text)

    for pid, name in enumerate(("vite", "api", "worker", "mail"), 41232):
        yield change(0.0, name, starting, waiting, pid=pid)
    yield change(0.1, "mail", running, starting, pid=41235)
    yield line(
        0.5,
        "vite",
        "  \x1b[32m\x1b[1mVITE\x1b[22m v8.3.0\x1b[39m  \x1b[2mready in \x1b[0m\x1b[1m312\x1b[22m\x1b[2m ms",
    )
    yield line(
        0.5,
        "vite",
        "  \x1b[32m➜\x1b[39m  \x1b[1mLocal\x1b[22m:   \x1b[36mhttp://localhost:\x1b[1m5173\x1b[22m/\x1b[39m",
    )
    url = "http://[::1]:5173"
    yield change(0.8, "vite", ready, starting, pid=41232, port=5173, url=url, ready_after=0.8)
    yield line(0.9, "worker", "connecting to redis://127.0.0.1:6379")
    yield line(1.0, "worker", "\x1b[31mConnectionError\x1b[0m: [Errno 111] Connection refused")
    reason = "exit code 1; given up after 5 restarts"
    yield change(1.0, "worker", State.FAILED, starting, restarts=5, exit_code=1, reason=reason)
    yield line(1.8, "api", "[INFO] Running on http://127.0.0.1:5001 (CTRL + C to quit)")
    yield change(
        2.1,
        "api",
        ready,
        starting,
        pid=41233,
        port=5001,
        restarts=1,
        url="http://127.0.0.1:5001",
        ready_after=1.2,
    )
    yield Notice(
        time=_moment(at + 170),
        level="warning",
        code="port-moved",
        text="port 5000 was taken, vite listens on 5173",
    )
    yield StreamOpened(time=_moment(at + 3), id=7, kind="hmr", target="/", upstream="frontend")
    yield StreamOpened(time=_moment(at + 3), id=8, kind="event-stream", target="/events", upstream="backend")
    asked: tuple[tuple[str, str, int, UpstreamName, float, float], ...] = (
        ("GET", "/", 200, "frontend", 0.0042, 0.0),
        ("GET", "/src/main.ts", 200, "frontend", 0.0113, 0.0),
        ("GET", "/src/style.css", 304, "frontend", 0.0021, 0.0),
        ("GET", "/api/notes", 200, "backend", 1.31, 1.27),
        ("POST", "/api/notes", 201, "backend", 0.0062, 0.0),
        ("GET", "/api/notes/7", 404, "backend", 0.0031, 0.0),
        ("GET", "/api/report?from=2024-01-01&to=2024-12-31", 500, "backend", 0.240, 0.0),
        ("DELETE", "/api/notes/3", 204, "backend", 0.0038, 0.0),
        ("GET", "/about", 200, "backend", 0.0087, 0.0),
    )
    for number, (method, target, status, upstream, duration, held) in enumerate(asked, 1):
        if upstream == "backend":
            yield line(3.0 + number, "api", f'127.0.0.1 - "{method} {target} 1.1" {status}')
        yield RequestFinished(
            time=_moment(at + 3 + number),
            id=number,
            method=method,
            target=target,
            status=status,
            upstream=upstream,
            reason="",
            held=held,
            first_byte=duration,
            duration=duration,
            bytes_in=0,
            bytes_out=100,
            outcome="complete",
        )
    faint = "\x1b[2m10:12:31\x1b[22m"
    tag = "\x1b[36m\x1b[1m[vite]\x1b[22m\x1b[39m \x1b[90m\x1b[2m(client)\x1b[22m\x1b[39m"
    yield line(30.0, "vite", f"{faint} {tag} \x1b[32mhmr update \x1b[39m\x1b[2m/src/style.css\x1b[22m")


if __name__ == "__main__":
    terminal = Console()
    terminal.print(Dashboard(*sample()), height=min(terminal.height, 40))
    terminal.print()
    terminal.print(Farewell(sample()[0]))
