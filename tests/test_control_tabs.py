"""What open tabs are told: pure, with times that the tests make up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from orchestra.config.schema import ReloadSettings
from orchestra.control.tabs import (
    CAUSE_WINDOW,
    LOG_BURST,
    LOG_RATE,
    MAX_FAILED,
    MAX_MESSAGE,
    MAX_NAMED,
    MAX_TABS,
    MAX_WAITING,
    Page,
    Tabs,
    error_text,
    log_text,
    read_page,
)
from orchestra.events import (
    ErrorCleared,
    ErrorShown,
    Frame,
    OutputLine,
    ReloadSent,
    State,
    StateChanged,
)

if TYPE_CHECKING:
    from orchestra.control.tabs import Source, Tab
    from orchestra.events import (
        Event,
    )


class Stage:
    """Tabs of a run whose backend is `api`, and a frontend `web`."""

    def __init__(self, *backend: str, **policy: Any) -> None:
        self.sent: list[ReloadSent] = []
        self.tabs = Tabs(
            ReloadSettings(**policy),
            token="secret",
            is_backend=(backend or ("api",)).__contains__,
            emit=self.sent.append,
        )

    def open(self, source: Source | None = "backend", *, is_local: bool = True, now: float = 0.0) -> Tab:
        """Open a tab, whose page is new; it has been greeted."""
        tab = self.tabs.connect(lambda: None, is_local=is_local)
        assert tab is not None
        assert json.loads(tab.take() or "")["type"] == "hello"
        if source is not None:
            self.tabs.show(tab, Page(source=source, age=0.0), now)
        return tab

    def state(
        self,
        state: State,
        previous: State = State.STARTING,
        *,
        now: float = 0.0,
        process: str = "api",
        **more: Any,
    ) -> None:
        self.tabs.observe(StateChanged(process=process, state=state, previous=previous, **more), now)

    def ready(self, *, now: float = 0.0, process: str = "api", **more: Any) -> None:
        self.state(State.READY, now=now, process=process, **more)


def told(tab: Tab) -> list[dict[str, Any]]:
    texts = []
    while (text := tab.take()) is not None:
        texts.append(json.loads(text))
    return texts


def kinds(tab: Tab) -> list[str]:
    return [message["type"] for message in told(tab)]


def shown(process: str = "api", **more: Any) -> ErrorShown:
    return ErrorShown(process=process, error_type="SyntaxError", message="invalid syntax", **more)


# --- The greeting ---


@pytest.mark.parametrize("is_local", [True, False])
def test_only_tabs_on_this_machine_get_the_token(*, is_local: bool) -> None:
    tab = Stage(console=True).tabs.connect(lambda: None, is_local=is_local)
    assert tab is not None
    local = {"type": "hello", "local": True, "token": "secret", "overlay": True, "console": True}
    assert told(tab) == [local if is_local else {"type": "hello", "local": False}]


# --- Reloading ---


@pytest.mark.parametrize(
    ("pages", "reloaded"),
    [
        ("backend", {"backend", "orchestra"}),
        ("all", {"backend", "orchestra", "frontend"}),
        ("none", set()),
    ],
)
def test_a_backend_that_is_ready_reloads_the_pages_it_concerns(pages: str, reloaded: set[Source]) -> None:
    stage = Stage(pages=pages)
    sources: tuple[Source, ...] = ("backend", "orchestra", "frontend")
    tabs = {source: stage.open(source) for source in sources}
    stage.ready()
    reason = "api is ready"
    for source, tab in tabs.items():
        assert told(tab) == ([{"type": "reload", "reason": reason}] if source in reloaded else [])
    assert stage.sent == ([ReloadSent(tabs=len(reloaded), reason=reason)] if reloaded else [])


def test_each_restart_reloads_once() -> None:
    stage = Stage()
    tab = stage.open()
    for child in (1, 2, 3):
        stage.ready(pid=child)
        stage.state(State.READY, State.READY, pid=child, url="http://127.0.0.1:5000")
        stage.state(State.STOPPING, State.READY, pid=child)
    assert kinds(tab) == ["reload"] * 3
    assert len(stage.sent) == 3


@pytest.mark.parametrize(("is_restarted", "is_told"), [(False, True), (True, False)])
def test_a_reload_waits_while_a_file_is_saved(*, is_restarted: bool, is_told: bool) -> None:
    """Ten saves in a second are one reload, however quickly the backend starts."""
    stage = Stage()
    tab = stage.open()
    stage.tabs.expected.add("api")
    stage.ready()
    assert told(tab) == []
    stage.tabs.settle("api", is_restarted=is_restarted)
    assert kinds(tab) == ["reload"] * is_told
    stage.ready(restarts=1)
    stage.tabs.settle("api", is_restarted=False)
    assert kinds(tab) == ["reload"]


def test_other_processes_reload_nothing() -> None:
    stage = Stage()
    tab = stage.open()
    stage.ready(process="web")
    stage.state(State.STARTING, State.WAITING)
    stage.state(State.FAILED)
    assert kinds(tab) == []


def test_a_child_that_is_healthy_again_reloads_nothing() -> None:
    """A debugger's breakpoint looks like that: the page is as new as the program."""
    stage = Stage()
    stage.ready(pid=1, ready_after=0.5)
    tab = stage.open()
    stage.state(State.UNHEALTHY, State.READY, pid=1, ready_after=0.5)
    stage.state(State.READY, State.UNHEALTHY, pid=1, ready_after=0.5)
    assert kinds(tab) == []


def test_a_program_that_could_not_be_imported_reloads_when_it_can() -> None:
    """A server that reloads itself: its group leader stays the same, and it has been unhealthy meanwhile."""
    stage = Stage()
    stage.ready(pid=1, ready_after=0.5)
    tab = stage.open()
    stage.state(State.STARTING, State.READY, pid=1, restarts=1)
    stage.state(State.UNHEALTHY, State.STARTING, pid=1, restarts=1)
    stage.state(State.READY, State.UNHEALTHY, pid=1, restarts=1, ready_after=3.0)
    assert kinds(tab) == ["reload"]


def test_a_child_that_takes_over_reloads() -> None:
    """An overlap restart: the process is ready all the time."""
    stage = Stage()
    stage.ready(pid=1)
    tab = stage.open()
    stage.state(State.READY, State.READY, pid=2, restarts=1)
    assert kinds(tab) == ["reload"]


def test_of_several_instances_the_one_that_is_asked_counts() -> None:
    stage = Stage("api.1", "api.2")
    for name in ("api.1", "api.2"):
        stage.state(State.WAITING, State.WAITING, process=name)
    stage.ready(process="api.1")
    tab = stage.open()
    stage.ready(process="api.2")
    assert kinds(tab) == []


@pytest.mark.parametrize(("age", "is_told"), [(900.0, False), (1100.0, True)])
def test_a_page_older_than_the_backend_reloads_when_it_connects(age: float, *, is_told: bool) -> None:
    stage = Stage()
    stage.ready(now=100.0)
    tab = stage.open(None)
    stage.tabs.show(tab, Page(source="backend", age=age), 101.0)
    assert kinds(tab) == ["reload"] * is_told
    assert len(stage.sent) == is_told


def test_a_page_of_the_frontend_is_never_too_old() -> None:
    stage = Stage()
    stage.ready(now=100.0)
    tab = stage.open(None)
    stage.tabs.show(tab, Page(source="frontend", age=9000.0), 101.0)
    assert kinds(tab) == []


def test_while_the_backend_is_not_there_no_page_is_too_old() -> None:
    stage = Stage()
    stage.ready(now=100.0)
    stage.state(State.STOPPING, State.READY, now=101.0)
    tab = stage.open(None)
    stage.tabs.show(tab, Page(source="backend", age=9000.0), 102.0)
    assert kinds(tab) == []
    stage.ready(now=103.0, pid=2)
    assert kinds(tab) == ["reload"]


def test_a_tab_that_has_left_is_told_nothing() -> None:
    stage = Stage()
    tab = stage.open()
    stage.tabs.disconnect(tab)
    stage.ready()
    assert (kinds(tab), stage.sent) == ([], [])


def test_reload_reaches_every_tab_if_it_is_to() -> None:
    stage = Stage(pages="none")
    tabs = [stage.open("backend"), stage.open("frontend"), stage.open(None)]
    assert stage.tabs.reload("a.html has changed", 1.0) == 0
    assert stage.tabs.reload("asked to", 1.0, everywhere=True) == 3
    assert [told(tab) for tab in tabs] == [[{"type": "reload", "reason": "asked to"}]] * 3
    assert stage.sent == [ReloadSent(tabs=3, reason="asked to")]


@pytest.mark.parametrize(
    ("source", "everywhere", "is_told"),
    [("backend", False, True), ("frontend", False, False), ("frontend", True, True)],
)
def test_a_page_older_than_an_order_reloads_when_it_connects(
    source: Source, *, everywhere: bool, is_told: bool
) -> None:
    """From the back-forward cache, for instance: it was not connected when a template was saved."""
    stage = Stage()
    stage.ready(now=1.0)
    stage.tabs.reload("a.html has changed", 100.0, everywhere=everywhere)
    old, new = stage.open(None), stage.open(None)
    stage.tabs.show(old, Page(source=source, age=2000.0), 101.0)
    stage.tabs.show(new, Page(source=source, age=500.0), 101.0)
    assert told(old) == [{"type": "reload", "reason": "a.html has changed"}] * is_told
    assert told(new) == []


def test_styles_are_swapped_where_pages_reload() -> None:
    stage = Stage()
    ours, vites = stage.open("backend"), stage.open("frontend")
    assert stage.tabs.swap_styles(["app.css"]) == 1
    assert told(ours) == [{"type": "styles", "names": ["app.css"]}]
    assert (told(vites), stage.sent) == ([], [])


def test_the_end_is_told_and_no_tab_follows() -> None:
    stage = Stage()
    tab = stage.open()
    stage.tabs.end()
    assert told(tab) == [{"type": "ended"}]
    assert stage.tabs.connect(lambda: None, is_local=True) is None


# --- Errors ---


def test_an_error_is_shown_on_this_machine_only() -> None:
    stage = Stage()
    here, elsewhere = stage.open("frontend"), stage.open(is_local=False)
    frame = Frame("/p/app.py", 3, "main", "x = (")
    error = shown(file="/p/app.py", line=3, frames=(frame,), exit="exit code 1", last_lines=("bye",))
    stage.tabs.observe(error, 0.0)
    stage.tabs.observe(ErrorCleared(process="api"), 1.0)
    assert told(here) == [json.loads(msgspec.json.encode(error)), {"type": "cleared", "process": "api"}]
    assert told(elsewhere) == []


def test_a_tab_that_comes_later_is_shown_what_still_stands() -> None:
    stage = Stage()
    stage.tabs.observe(shown("api"), 0.0)
    stage.tabs.observe(shown("worker"), 0.0)
    stage.tabs.observe(ErrorCleared(process="worker"), 1.0)
    assert [message["process"] for message in told(stage.open())] == ["api"]
    assert told(stage.open(is_local=False)) == []
    assert list(stage.tabs.errors) == ["api"]


def test_without_the_overlay_no_error_is_told() -> None:
    stage = Stage(overlay=False)
    tab = stage.open()
    stage.tabs.observe(shown(), 0.0)
    stage.tabs.observe(ErrorCleared(process="api"), 1.0)
    assert kinds(tab) == kinds(stage.open()) == []


def test_only_what_an_error_has_named_may_be_opened() -> None:
    stage = Stage()
    stage.tabs.observe(shown(file="/p/app.py", line=3, frames=(Frame("/p/lib.py", 7),)), 0.0)
    stage.tabs.observe(ErrorCleared(process="api"), 1.0)
    named = [("/p/app.py", 3), ("/p/lib.py", 7), ("/p/app.py", 4), ("/p/lib.py", 3), ("/etc/passwd", 1)]
    assert [stage.tabs.is_named(*place) for place in named] == [True, True, False, False, False]


def test_places_that_were_named_long_ago_are_forgotten() -> None:
    stage = Stage()
    for line in range(MAX_NAMED + 1):
        stage.tabs.observe(shown(file="/p/app.py", line=line), 0.0)
    assert not stage.tabs.is_named("/p/app.py", 0)
    assert stage.tabs.is_named("/p/app.py", 1)


@pytest.mark.parametrize("character", ["x", "\0", "é", "\U0001f600", "\udcff"])
def test_an_error_of_any_size_fits_into_a_message(character: str) -> None:
    long = character * 100_000
    frames = tuple(Frame(long, line, long, long) for line in range(200))
    text = error_text(shown(long[:10], file=long, line=1, frames=frames, last_lines=(long,) * 200))
    assert len(text.encode()) <= MAX_MESSAGE
    assert json.loads(text)["frames"][-1]["line"] == 199


# --- Errors that a process survives ---


LOGGED = shown(is_fatal=False)


def at(stage: Stage, path: str, *, status: int = 200, is_local: bool = True) -> Tab:
    """Open a tab whose page has this path."""
    tab = stage.open(None, is_local=is_local)
    stage.tabs.show(tab, Page(source="backend", age=0.0, path=path, status=status), 10.0)
    return tab


@pytest.mark.parametrize("log_first", [True, False])
def test_a_logged_error_is_for_the_page_whose_request_failed(*, log_first: bool) -> None:
    stage = Stage()
    page, other, elsewhere = at(stage, "/a"), at(stage, "/b"), at(stage, "/a", is_local=False)
    if log_first:
        stage.tabs.observe(LOGGED, 10.0)
    stage.tabs.fail("/a", 10.5, is_document=False)
    if not log_first:
        stage.tabs.observe(LOGGED, 11.0)
    assert [kinds(tab) for tab in (page, other, elsewhere)] == [["error.shown"], [], []]
    stage.tabs.observe(ErrorCleared(process="api"), 12.0)
    assert kinds(page) == ["cleared"]


@pytest.mark.parametrize("log_first", [True, False])
def test_a_page_that_is_a_500_is_told_its_cause(*, log_first: bool) -> None:
    """It connects after that."""
    stage = Stage()
    if log_first:
        stage.tabs.observe(LOGGED, 9.0)
    stage.tabs.fail("/a", 9.0, is_document=True)
    if not log_first:
        stage.tabs.observe(LOGGED, 9.1)
    assert kinds(at(stage, "/a", status=500)) == ["error.shown"]
    assert kinds(at(stage, "/a", status=200)) == kinds(at(stage, "/b", status=500)) == []
    assert kinds(at(stage, "/a", status=500, is_local=False)) == []
    stage.tabs.observe(ErrorCleared(process="api"), 12.0)
    assert kinds(at(stage, "/a", status=500)) == []


def test_the_same_error_concerns_the_same_page_again() -> None:
    """It is logged again, but shown as one."""
    stage = Stage()
    stage.tabs.observe(LOGGED, 9.0)
    stage.tabs.fail("/a", 9.0, is_document=False)
    tab = at(stage, "/a")
    stage.tabs.fail("/a", 900.0, is_document=False)
    stage.tabs.fail("/b", 900.0, is_document=False)
    assert kinds(tab) == ["error.shown"]


@pytest.mark.parametrize("log_first", [True, False])
def test_of_several_errors_the_closest_is_the_cause(*, log_first: bool) -> None:
    """Two tabs are loaded again after a save, and each fails for a reason of its own."""
    stage = Stage()
    a, b = at(stage, "/a"), at(stage, "/b")
    for path, now in (("/a", 10.0), ("/b", 11.0)):
        if not log_first:
            stage.tabs.fail(path, now, is_document=True)
        stage.tabs.observe(shown(is_fatal=False, exit=path), now + 0.1)
        if log_first:
            stage.tabs.fail(path, now + 0.2, is_document=True)
    assert [told(tab)[-1]["exit"] for tab in (a, b)] == ["/a", "/b"]
    assert [told(at(stage, path, status=500))[-1]["exit"] for path in ("/a", "/b")] == ["/a", "/b"]


def test_an_error_long_before_is_no_cause() -> None:
    stage = Stage()
    tab = at(stage, "/a")
    stage.tabs.observe(LOGGED, 10.0)
    stage.tabs.fail("/a", 10.1 + CAUSE_WINDOW, is_document=False)
    stage.tabs.fail("", 10.0, is_document=False)
    assert kinds(tab) == []


def test_a_page_that_has_changed_its_address_is_told() -> None:
    """A single-page application: what its requests come from is no page that has connected."""
    stage = Stage()
    tab = at(stage, "/")
    stage.tabs.observe(LOGGED, 10.0)
    stage.tabs.fail("/settings", 10.0, is_document=True)
    assert kinds(tab) == []
    stage.tabs.fail("/settings", 10.0, is_document=False)
    (message,) = told(tab)
    # Only the page itself knows whether that is its address now.
    assert (message["type"], message["at"]) == ("error.shown", "/settings")


def test_a_page_whose_request_failed_before_it_connected_is_told() -> None:
    """It sends requests while it loads; one that was loaded after that is another page."""
    stage = Stage()
    stage.tabs.observe(LOGGED, 9.0)
    stage.tabs.fail("/a", 9.0, is_document=False)
    for age, expected in ((1500.0, ["error.shown"]), (500.0, [])):
        tab = stage.open(None)
        stage.tabs.show(tab, Page(source="frontend", age=age, path="/a"), 10.0)
        assert kinds(tab) == expected


def test_pages_that_have_failed_are_bounded() -> None:
    stage = Stage()
    for number in range(MAX_FAILED + 1):
        stage.tabs.fail(f"/{number}", 10.0, is_document=True)
    first, second = at(stage, "/0"), at(stage, "/1")
    stage.tabs.observe(LOGGED, 10.0)
    assert (kinds(first), kinds(second)) == ([], ["error.shown"])


# --- The log ---


def line(text: str, process: str = "api") -> Event:
    return OutputLine(process=process, stream="stderr", text=text)


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("KeyError: 'a'", "error"),
        ("app.errors.NotesError", "error"),
        ("TypeErrors: none", "info"),
        ("INFO:     Application startup complete.", "info"),
        ('127.0.0.1 - "GET / HTTP/1.1" 200 OK', "info"),
        ("WARNING:  reload is slow", "warning"),
        ("/p/app.py:3: DeprecationWarning: old", "warning"),
        ("2026-11-29 ERROR in app: no", "error"),
        ("[12:00] CRITICAL db is gone", "error"),
        ("Traceback (most recent call last):", "error"),
        ("\x1b[31mERROR\x1b[0m: no", "error"),
        ("errors: 0, warnings: 0", "info"),
    ],
)
def test_the_level_stands_in_the_line(text: str, level: str) -> None:
    event = OutputLine(process="api", stream="stdout", text=text)
    message = json.loads(log_text(event))
    assert (message["process"], message["level"]) == ("api", level)
    assert "\x1b" not in message["text"]


def test_the_log_of_the_backend_is_told_if_it_is_wanted() -> None:
    stage = Stage(console=True)
    here, elsewhere = stage.open(), stage.open(is_local=False)
    stage.tabs.observe(line("hello"), 0.0)
    stage.tabs.observe(line("vite"), 0.0)
    stage.tabs.observe(line("HMR", "web"), 0.0)
    assert [message["text"] for message in told(here)] == ["hello", "vite"]
    assert told(elsewhere) == []
    quiet = Stage()
    tab = quiet.open()
    quiet.tabs.observe(line("hello"), 0.0)
    assert told(tab) == []


def test_a_loud_log_is_cut_and_says_so() -> None:
    stage = Stage(console=True)
    tab = stage.open()
    for number in range(int(LOG_BURST) + 20):
        stage.tabs.observe(line(str(number)), 0.0)
        tab.take() if number % 2 else None
    told(tab)
    stage.tabs.observe(line("later"), 2 / LOG_RATE)
    cut, last = told(tab)
    assert (cut["level"], cut["text"][:18]) == ("warning", "20 lines were left")
    assert last["text"] == "later"


# --- Bounds ---


def test_there_is_no_room_for_more_tabs_than_a_person_has() -> None:
    stage = Stage()
    tabs = [stage.open() for _ in range(MAX_TABS)]
    assert stage.tabs.connect(lambda: None, is_local=True) is None
    stage.tabs.disconnect(tabs[0])
    stage.open()
    assert len(stage.tabs) == MAX_TABS


def test_a_tab_that_does_not_read_is_overrun() -> None:
    stage = Stage()
    tab = stage.open()
    for _ in range(MAX_WAITING):
        stage.tabs.reload("x", 1.0)
    assert not tab.is_overrun
    stage.tabs.reload("x", 1.0)
    assert tab.is_overrun
    assert len(told(tab)) == MAX_WAITING


def test_a_page_says_what_it_is() -> None:
    text = '{"type":"page","from":"orchestra","age":12.5,"path":"/x","method":"GET","status":502}'
    assert read_page(text) == Page(source="orchestra", age=12.5, path="/x", status=502)


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", '{"type":"page","from":"evil","age":1}', '{"type":"page","from":"backend","age":-1}'],
)
def test_what_is_no_page_is_refused(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_page(text)
