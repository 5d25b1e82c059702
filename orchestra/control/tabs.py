"""The open tabs, the messages that each of them gets, and the JSON texts that carry these over `live`.

A reload is due once whenever a new child of the backend becomes ready: in tabs whose page came from the
backend (`[reload] pages`) or from orchestra itself. A tab that connects reports the age of its page. If the
backend has become ready since then, or a reload was ordered, it has to reload at once. So it does not matter
when a connection is lost: a page reloads exactly if it is older than that, and the reloaded page never is.

Errors and the log go only to tabs on this machine; a tab that connects later gets the errors that are still
current. An error that a process has logged and survived is for the pages concerned: those to which the
backend has answered 500 at that time. Of several errors the closest in time is the cause, before or after the
answer: servers differ in whether they log first.

Everything is bounded: the tabs, and the messages that wait for each. A tab that does not read is dropped: it
connects again, and gets the current state. A text has at most 64 KiB, whatever a program has written; a
longer error is shortened.

Pure: `now` is in seconds on any clock that does not jump. Not here: connections (`app`), whether a tab is on
this machine (`doors`).
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from msgspec import Meta, Struct, json, to_builtins

from orchestra.child.lines import without_colours
from orchestra.events import (
    ErrorCleared,
    ErrorShown,
    Event,
    OutputLine,
    ReloadSent,
    State,
    StateChanged,
    encode,
)
from orchestra.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from orchestra.config.schema import ReloadSettings

__all__ = ["MAX_MESSAGE", "Page", "Source", "Tab", "Tabs", "error_text", "log_text", "read_page", "text_of"]

MAX_MESSAGE = 65536
# The size of an error's message: frames and lines, and the characters of each. The last fits in any case.
_ERROR_SIZES = ((50, 2000), (20, 400), (5, 100))
# Characters of a line of output that the browser's console gets.
_MAX_LINE = 2000
# The position of the level in a line of a log.
_LEVEL_WITHIN = 200
_ERROR = regex(r"\b(?:ERROR|CRITICAL|FATAL|Traceback)\b|^[\w.]+(?:Error|Exception)(?::|$)")
_WARNING = regex(r"\bWARN(?:ING)?\b|\w+Warning:")

Source: TypeAlias = Literal["backend", "frontend", "orchestra"]


class Page(Struct, frozen=True, tag="page", rename={"source": "from"}):
    """A page's report about itself, once after each connect.

    Attributes:
        source: The origin of its document; ``from`` in JSON.
        age: Milliseconds since the document's first byte arrived.
        path: Without the query.
        status: Of the document.
    """

    source: Source
    age: Annotated[float, Meta(ge=0)]
    path: str = "/"
    status: int = 200


def read_page(text: str) -> Page:
    """Read a page's report, or raise `msgspec.DecodeError`; unknown keys are ignored."""
    return json.decode(text, type=Page)


def text_of(kind: str, **fields: object) -> str:
    """Encode a message for a page."""
    return encode({"type": kind, **fields}).decode("utf-8")


def error_text(event: ErrorShown, *, at: str = "") -> str:
    """Encode the message that shows an error: the event, or as much of it as fits.

    With `at`, the path of the page that it concerns, a page with another path does not show it.
    """
    text, whole = "", to_builtins(event)
    if at:
        whole["at"] = at
    for count, size in _ERROR_SIZES:
        text = encode(_cut(whole, count, size)).decode("utf-8")
        if len(text.encode("utf-8")) <= MAX_MESSAGE:
            break
    return text


def _cut(value: Any, count: int, size: int) -> Any:
    match value:
        case str():
            return value[:size]
        case list() | tuple():
            return [_cut(each, count, size) for each in value[-count:]]
        case dict():
            return {name: _cut(each, count, size) for name, each in value.items()}
        case _:
            return value


def log_text(event: OutputLine) -> str:
    """Encode the message that shows a line of output, with the level that it contains."""
    text = without_colours(event.text)[:_MAX_LINE]
    begin = text[:_LEVEL_WITHIN]
    level = "error" if _ERROR.search(begin) else "warning" if _WARNING.search(begin) else "info"
    return text_of("log", process=event.process, level=level, text=text)


# More tabs than a person has open.
MAX_TABS = 100
# Texts that may wait for one tab.
MAX_WAITING = 200
# Lines of output that tabs get per second, and at once after a pause: a browser's console is slow.
LOG_RATE = 50.0
LOG_BURST = 200.0
# Files and lines of errors that may be opened; the newest ones.
MAX_NAMED = 2000
# Seconds between a 500 and the line in the log that shows its cause.
CAUSE_WINDOW = 2.0
# The number of failed pages that are remembered; the newest ones.
MAX_FAILED = 100


class Tab:
    """One open page.

    Args:
        wake: Called when there is something to `take`.
    """

    page: Page | None = None
    is_overrun = False

    def __init__(self, wake: Callable[[], object], *, is_local: bool) -> None:
        self.is_local = is_local
        self._wake = wake
        self._texts: deque[str] = deque()

    def send(self, text: str) -> None:
        """Send a text."""
        self.is_overrun = self.is_overrun or len(self._texts) >= MAX_WAITING
        if not self.is_overrun:
            self._texts.append(text)
        self._wake()

    def take(self) -> str | None:
        """Return the next text to be sent, if there is one."""
        return self._texts.popleft() if self._texts else None


class Tabs:
    """All open tabs of a run.

    Args:
        token: The token that a tab on this machine needs to open a file.

    Attributes:
        errors: The current errors, by process.
        expected: Processes whose reload is held back until `settle`: a file was touched, another child may
            follow.
    """

    def __init__(
        self,
        policy: ReloadSettings,
        *,
        token: str,
        is_backend: Callable[[str], bool],
        emit: Callable[[ReloadSent], object],
    ) -> None:
        self.errors: dict[str, ErrorShown] = {}
        self.expected: set[str] = set()
        self.is_over = False
        self._policy = policy
        self._token = token
        self._is_backend = is_backend
        self._emit = emit
        self._tabs: dict[Tab, None] = {}
        self._named: dict[tuple[str, int], None] = {}
        # In the order of the plan: a snapshot comes first.
        self._states: dict[str, StateChanged] = {}
        # The newest child of each process that has been ready, and the time when it became ready.
        self._ready: dict[str, tuple[object, float]] = {}
        # Those of `expected` that are ready again.
        self._held: set[str] = set()
        # The newest orders to reload, one for all pages and one for the others: when, and why.
        self._ordered: dict[bool, tuple[float, str]] = {}
        # By path: when a page has failed, and whether it was the page itself, not a request that it has sent.
        self._failed: dict[str, tuple[float, bool]] = {}
        # By process: when it has last logged an error that it has survived.
        self._logged: dict[str, tuple[float, ErrorShown]] = {}
        # By path: the time between the page's failure and the error that is its probable cause, and the
        # error.
        self._causes: dict[str, tuple[float, ErrorShown]] = {}
        self._log_credit, self._logged_at, self._left_out = LOG_BURST, -inf, 0

    def __repr__(self) -> str:
        return f"<Tabs: {len(self._tabs)} open, {len(self.errors)} errors>"

    def __len__(self) -> int:
        return len(self._tabs)

    # --- Tabs connect and disconnect ---

    def connect(self, wake: Callable[[], object], *, is_local: bool) -> Tab | None:
        """Add a tab, and send it the first message; ``None`` if there are too many, or the run is over."""
        if self.is_over or len(self._tabs) >= MAX_TABS:
            return None
        tab = Tab(wake, is_local=is_local)
        self._tabs[tab] = None
        policy, more = self._policy, {}
        if is_local:
            more = {"token": self._token, "overlay": policy.overlay, "console": policy.console}
        tab.send(text_of("hello", local=is_local, **more))
        if is_local and policy.overlay:
            for process, error in self.errors.items():
                if process not in self._logged:
                    tab.send(error_text(error))
        return tab

    def disconnect(self, tab: Tab) -> None:
        """Forget a tab."""
        self._tabs.pop(tab, None)

    def show(self, tab: Tab, page: Page, now: float) -> None:
        """Take a tab's report about its page; a page that is older than the backend has to reload."""
        tab.page = page
        born = now - page.age / 1000
        due = [order for everywhere, order in self._ordered.items() if everywhere or self._reloads(tab)]
        process = self._asked()
        if process is not None and self._reloads(tab):
            due.append((self._ready[process][1], f"{process} is ready"))
        newest = max(due, default=(-inf, ""))
        if born < newest[0]:
            self._send_reload([tab], newest[1])
        elif tab.is_local and self._policy.overlay:
            # A request of the page may have failed before the page has connected.
            has_failed = page.status >= 500 or self._failed.get(page.path, (-inf, False))[0] >= born
            if has_failed and page.path in self._causes:
                tab.send(error_text(self._causes[page.path][1]))

    # --- What happens in the run ---

    def observe(self, event: Event, now: float) -> None:
        """Take an event, and send the messages that follow from it."""
        match event:
            case StateChanged():
                self._observe_state(event, now)
            case ErrorShown():
                self.errors[event.process] = event
                self._remember(event)
                self._show_error(event, now)
            case ErrorCleared():
                self._forget_logged(event.process)
                if self.errors.pop(event.process, None) is not None and self._policy.overlay:
                    self._send_local(text_of("cleared", process=event.process))
            case OutputLine():
                self._log(event, now)
            case _:
                pass

    def _observe_state(self, event: StateChanged, now: float) -> None:
        self._states[event.process] = event
        if event.state is not State.READY:
            return
        # If it has only become healthy again, or its address was found, it is the same child.
        child = event.pid, event.restarts, event.ready_after
        before = self._ready.get(event.process)
        is_same = (
            event.previous in (State.READY, State.UNHEALTHY) and before is not None and before[0] == child
        )
        if not is_same:
            self._ready[event.process] = child, now
            if event.process in self.expected:
                self._held.add(event.process)
            else:
                self._send_ready(event.process)

    def _send_ready(self, process: str) -> None:
        if process == self._asked():
            self._send_reload(filter(self._reloads, self._tabs), f"{process} is ready")

    def _asked(self) -> str | None:
        """The process of the backend that gets requests now: the first ready one."""
        ready = (name for name, state in self._states.items() if state.state is State.READY)
        return next(filter(self._is_backend, ready), None)

    def _reloads(self, tab: Tab) -> bool:
        """Whether a new backend concerns a tab."""
        pages = self._policy.pages
        return tab.page is not None and (
            pages == "all" or (pages == "backend" and tab.page.source != "frontend")
        )

    def _show_error(self, event: ErrorShown, now: float) -> None:
        if not event.is_fatal:
            self._logged[event.process] = now, event
            for path, (at, _) in tuple(self._failed.items()):
                if now - at <= CAUSE_WINDOW:
                    self._explain(path, event, now - at)
            return
        self._forget_logged(event.process)
        if self._policy.overlay:
            self._send_local(error_text(event))

    def _forget_logged(self, process: str) -> None:
        self._logged.pop(process, None)
        self._causes = {path: each for path, each in self._causes.items() if each[1].process != process}

    def fail(self, path: str, now: float, *, is_document: bool) -> None:
        """Take note that the backend has failed to answer the page at `path` itself, or a request of it."""
        if not path:
            return
        self._failed.pop(path, None)
        self._failed[path] = now, is_document
        _, cause = self._causes.pop(path, (inf, None))
        if len(self._failed) > MAX_FAILED:
            oldest = next(iter(self._failed))
            del self._failed[oldest]
            self._causes.pop(oldest, None)
        for at, error in self._logged.values():
            # The same error is not logged again, but concerns the same pages again.
            if now - at <= CAUSE_WINDOW or error == cause:
                self._explain(path, error, now - at)

    def _explain(self, path: str, error: ErrorShown, distance: float) -> None:
        """Show a logged error in the page concerned, unless a closer error is known for it."""
        if path in self._causes and self._causes[path][0] <= distance:
            return
        self._causes[path] = distance, error
        if self._policy.overlay:
            local = [tab for tab in self._tabs if tab.is_local]
            concerned = [tab for tab in local if tab.page is not None and tab.page.path == path]
            if concerned:
                _send(concerned, error_text(error))
            elif not self._failed[path][1]:
                # A page that changes its address itself is known here by its first one, so it decides itself.
                _send(local, error_text(error, at=path))

    def is_named(self, file: str, line: int) -> bool:
        """Whether an error of this run has named this file and line: its own, or a traceback's."""
        return (file, line) in self._named

    def _remember(self, event: ErrorShown) -> None:
        places = [(frame.file, frame.line) for frame in event.frames]
        if event.file is not None and event.line is not None:
            places.append((event.file, event.line))
        for place in places:
            self._named.pop(place, None)
            self._named[place] = None
        while len(self._named) > MAX_NAMED:
            del self._named[next(iter(self._named))]

    def _log(self, event: OutputLine, now: float) -> None:
        if not self._policy.console or not self._is_backend(event.process):
            return
        self._log_credit = min(LOG_BURST, self._log_credit + (now - self._logged_at) * LOG_RATE)
        self._logged_at = now
        if self._log_credit < 1:
            self._left_out += 1
            return
        self._log_credit -= 1
        if self._left_out:
            text, self._left_out = f"{self._left_out} lines were left out: there were too many at once", 0
            self._send_local(text_of("log", process=event.process, level="warning", text=text))
        self._send_local(log_text(event))

    # --- Orders ---

    def reload(self, reason: str, now: float, *, everywhere: bool = False) -> int:
        """Reload the tabs that a new backend would concern, or all of them; return how many."""
        self._ordered[everywhere] = now, reason
        return self._send_reload((tab for tab in self._tabs if everywhere or self._reloads(tab)), reason)

    def settle(self, process: str, *, is_restarted: bool) -> None:
        """Send the reload that was held back, unless the process is restarted: then the next child does."""
        self.expected.discard(process)
        if process in self._held and not is_restarted:
            self._send_ready(process)
        self._held.discard(process)

    def swap_styles(self, names: Sequence[str]) -> int:
        """Have tabs whose pages belong to the backend load the stylesheets with these file names again."""
        text = text_of("styles", names=list(names))
        return _send(filter(self._reloads, self._tabs), text)

    def end(self) -> None:
        """Send the end of the run to all tabs; from now on there are no new tabs."""
        self.is_over = True
        _send(self._tabs, text_of("ended"))

    def _send_reload(self, tabs: Iterable[Tab], reason: str) -> int:
        count = _send(tabs, text_of("reload", reason=reason))
        if count:
            self._emit(ReloadSent(tabs=count, reason=reason))
        return count

    def _send_local(self, text: str) -> None:
        _send((tab for tab in self._tabs if tab.is_local), text)


def _send(tabs: Iterable[Tab], text: str) -> int:
    count = 0
    for tab in tabs:
        tab.send(text)
        count += 1
    return count
