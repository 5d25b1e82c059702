from __future__ import annotations

import os
import termios
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given, strategies as st
from msgspec.structs import replace

from orchestra.config.schema import DashboardSettings
from orchestra.dashboard.controls import Controls
from orchestra.dashboard.keys import KeyDecoder, Pastes
from orchestra.dashboard.screen import Missed, Screen, summary
from orchestra.events import RunEnded, State, StateChanged
from tests.dashboard_kit import STARTED, line as kit_line, model_of as run_model
from tests.events_kit import moment
from tests.terminal_kit import Pty

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from orchestra.control.local import Order
    from orchestra.dashboard.controls import Act
    from orchestra.dashboard.model import Model
    from orchestra.events import OutputLine

ENVIRON = {"TERM": "xterm-256color"}
CTRL_S = b"\x13"


@pytest.fixture
def terminal() -> Iterator[Pty]:
    terminal = Pty()
    yield terminal
    terminal.close()


def model_of(*names: str) -> Model:
    return run_model(replace(STARTED, processes=names))


def line(text: str) -> OutputLine:
    return kit_line(text, "api")


def screen_on(
    terminal: Pty,
    model: Model,
    *,
    environ: dict[str, str] = ENVIRON,
    perform: Callable[[Order | Act], object] = lambda _: None,
    send: Callable[[str, bytes], object] = lambda *_: None,
    has_mouse: bool = False,
) -> Screen:
    return Screen(
        Controls(model, DashboardSettings(mouse=has_mouse)),
        perform,
        send=send,
        stdin=terminal.fd,
        stdout=terminal.fd,
        environ=environ,
        clock=trio.current_time,
    )


@asynccontextmanager
async def running(screen: Screen) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(screen.run)
        yield
        nursery.cancel_scope.cancel()


async def drawn(screen: Screen, model: Model) -> None:
    """Wait until a screen has looked at what the model is now."""
    while screen._drawn is None or screen._drawn.version != model.version:
        await trio.testing.wait_all_tasks_blocked()


async def test_the_terminal_shows_the_model_and_what_becomes_of_it(terminal: Pty) -> None:
    model = model_of("vite", "api")
    async with running(screen_on(terminal, model)):
        await terminal.until_text("q quit")
        assert terminal.rows[0].split() == ["orchestra", "http://127.0.0.1:8000", "◐", "starting", "0/2"]
        model.apply(line("[bold]hello[/bold]"))
        await terminal.until_text("api       │ [bold]hello[/bold]")


async def test_only_lines_that_have_changed_are_sent(terminal: Pty) -> None:
    # Without a child no uptime ticks.
    model = model_of("vite", "api")
    async with running(screen_on(terminal, model)):
        await terminal.until_text("q quit")
        before = len(terminal.received)
        model.apply(line("one new line"))
        await terminal.until_text("one new line")
    update = terminal.received[before:]
    assert update.count(b"\x1b[K") == 1
    assert b"vite" not in update


async def test_a_frame_is_one_synchronized_update(terminal: Pty) -> None:
    async with running(screen_on(terminal, model_of("api"))):
        await terminal.until_text("q quit")
    assert terminal.received.startswith(b"\x1b[?2026h")
    assert b"\x1b[?2026l" in terminal.received


async def test_a_change_that_cannot_be_seen_is_not_sent(terminal: Pty) -> None:
    model = model_of("api")
    screen = screen_on(terminal, model)
    async with running(screen):
        for _ in range(100):
            model.apply(line("same"))
        await terminal.until_text("same")
        before = len(terminal.received)
        model.apply(line("same"))  # the log is full of this line already
        await drawn(screen, model)
        model.apply(line("other"))
        await terminal.until_text("other")
    assert terminal.received[before:].count(b"\x1b[K") == 1


async def test_a_resize_draws_everything(terminal: Pty) -> None:
    async with running(screen_on(terminal, model_of("vite", "api"))):
        await terminal.until_text("q quit")
        terminal.resize(60, 12)
        await terminal.until(lambda rows: rows[0].rstrip().endswith("starting 0/2"))
        await terminal.until(lambda rows: "q quit" in rows[-1])
        assert len(terminal.rows) == 12


async def test_the_screen_is_the_alternate_one_and_given_back(terminal: Pty) -> None:
    before = terminal.mode
    async with running(screen_on(terminal, model_of("api"))):
        await terminal.until_text("q quit")
        assert b"\x1b[?1049h" in terminal.received
        assert b"\x1b[?25l" in terminal.received
        assert terminal.mode != before
    await terminal.until_bytes(b"\x1b[?25h\r\x1b[?1049l")
    assert terminal.mode == before


async def test_the_terminal_is_restored_after_an_exception(terminal: Pty) -> None:
    before = terminal.mode

    def fail(_order: Order | Act) -> None:
        raise ZeroDivisionError

    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with running(screen_on(terminal, model_of("api"), perform=fail)):
            terminal.type(b"q")
            await trio.sleep_forever()
    await terminal.until_bytes(b"\x1b[?1049l")
    assert terminal.mode == before


async def test_restore_may_be_called_any_number_of_times(terminal: Pty) -> None:
    before = terminal.mode
    screen = screen_on(terminal, model_of("api"))
    screen.restore()
    async with running(screen):
        await terminal.until_text("q quit")
        screen.restore()
        assert terminal.mode == before
        screen.restore()
    await terminal.until_bytes(b"\x1b[?1049l")
    assert terminal.received.count(b"\x1b[?1049l") == 1


async def test_restored_it_draws_nothing_and_taken_again_everything(terminal: Pty) -> None:
    model = model_of("api")
    screen = screen_on(terminal, model)
    before = terminal.mode
    async with running(screen):
        await terminal.until_text("q quit")
        screen.restore()
        assert terminal.mode == before
        await terminal.until_bytes(b"\x1b[?1049l")
        model.apply(line("meanwhile"))
        screen.take()
        await terminal.until_text("meanwhile")
        assert terminal.received.count(b"\x1b[?1049h") == 2
        assert terminal.mode != before


async def test_q_asks_for_the_end(terminal: Pty) -> None:
    asked = trio.Event()
    orders: list[str] = []

    def perform(order: Order | Act) -> None:
        orders.append(order.do)
        if order.do == "quit":
            asked.set()

    async with running(screen_on(terminal, model_of("api"), perform=perform)):
        terminal.type(b"x\x1b[A\x1bq")
        terminal.type(b"q")
        await asked.wait()
    assert orders == ["kill", "quit"]


async def test_while_a_process_gets_input_all_keys_but_one_are_its_own(terminal: Pty) -> None:
    typed: list[tuple[str, bytes]] = []
    orders: list[str] = []
    screen = screen_on(
        terminal,
        model_of("api"),
        perform=lambda order: orders.append(order.do),
        send=lambda *sent: typed.append(sent),
    )
    async with running(screen):
        usual = terminal.mode
        terminal.type(b"i")
        await terminal.until_text("keys go to api until Ctrl-]")
        terminal.type(b"q\x03\x1a\r\x1d")
        await terminal.until_text("q quit")
        assert b"".join(data for _, data in typed) == b"q\x03\x1a\r"
        assert not orders
        assert terminal.mode == usual


async def test_what_is_pasted_is_text_for_a_process_and_never_keys(terminal: Pty) -> None:
    typed: list[bytes] = []
    orders: list[str] = []
    screen = screen_on(
        terminal,
        model_of("api"),
        perform=lambda order: orders.append(order.do),
        send=lambda _, data: typed.append(data),
    )
    async with running(screen):
        await terminal.until_bytes(b"\x1b[?2004h")
        terminal.type(b"\x1b[200~qrx\x1b[201~")
        await terminal.until_text("pasted text is not taken for keys; press i")
        terminal.type(b"/\x1b[200~two\nwords \x1b[201~")
        await terminal.until_text("search: two words_")
        terminal.type(b"\x1b")
        await terminal.until_text("q quit")
        terminal.type(b"i")
        await terminal.until_text("keys go to api")
        terminal.type(b"\x1b[200~x = 1\rq\x1d\x1b[201~y\x1d")
        await terminal.until_text("q quit")
        await trio.testing.wait_all_tasks_blocked()
    assert b"".join(typed) == b"x = 1\rq\x1dy"
    assert not orders
    await terminal.until_bytes(b"\x1b[?2004l")


@pytest.mark.parametrize("has_mouse", [True, False])
async def test_the_wheel_scrolls_if_that_is_wanted(terminal: Pty, has_mouse: bool) -> None:  # noqa: FBT001 - a column of the table
    model = model_of("api")
    for number in range(1, 100):
        model.apply(line(f"line {number}"))
    async with running(screen_on(terminal, model, has_mouse=has_mouse)):
        await terminal.until_text("line 99")
        assert (b"\x1b[?1000h\x1b[?1006h" in terminal.received) is has_mouse
        terminal.type(b"\x1b[<64;10;5M" * 3)
        await terminal.until(lambda rows: not any("line 99" in row for row in rows))
    await terminal.until_bytes(b"\x1b[?1000l\x1b[?1006l")


async def test_a_line_is_copied_by_the_terminal(terminal: Pty) -> None:
    model = model_of("api")
    model.apply(line("http://x"))
    async with running(screen_on(terminal, model)):
        await terminal.until_text("http://x")
        terminal.type(b"y")
        await terminal.until_bytes(b"\x1b]52;c;aHR0cDovL3g=\x07")


def test_lines_that_were_not_shown_are_counted_for_a_while() -> None:
    missed = Missed()
    assert missed.count(8, 10, 0.0) == 0
    assert missed.count(1008, 10, 0.1) == 990
    assert missed.count(1020, 10, 0.2) == 992
    assert missed.count(1021, 10, 4.0) == 992
    assert missed.count(1021, 10, 9.0) == 0


async def test_ctrl_c_stays_a_signal_and_ctrl_z_is_none(terminal: Pty) -> None:
    async with running(screen_on(terminal, model_of("api"))):
        lflag, characters = terminal.mode[3], terminal.mode[6]
        assert isinstance(lflag, int)
        assert isinstance(characters, list)
        assert lflag & termios.ISIG
        assert not lflag & (termios.ECHO | termios.ICANON)
        assert characters[termios.VINTR] == b"\x03"
        assert characters[termios.VSUSP] == bytes([os.fpathconf(terminal.fd, "PC_VDISABLE")])
        assert os.get_blocking(terminal.fd)


async def test_ctrl_l_draws_everything(terminal: Pty) -> None:
    async with running(screen_on(terminal, model_of("api"))):
        await terminal.until_text("q quit")
        terminal.type(b"\x0c")
        while terminal.received.count(b"quit") < 2:
            await terminal.receive()


async def test_a_terminal_that_is_stopped_costs_frames_and_nothing_else(terminal: Pty) -> None:
    model = model_of("api")
    before = terminal.mode
    async with running(screen_on(terminal, model)):
        await terminal.until_text("q quit")
        terminal.type(CTRL_S)
        for index in range(100):
            model.apply(line(f"line {index}"))
            await trio.lowlevel.checkpoint()
        # The screen is stuck in its write; trio is not, and neither is the end.
        await trio.testing.wait_all_tasks_blocked(0.15)
    await terminal.until_bytes(b"\x1b[?1049l")
    assert terminal.mode == before


async def test_no_frame_is_drawn_after_the_terminal_was_given_back(terminal: Pty) -> None:
    model = model_of("api")
    async with running(screen_on(terminal, model)):
        for index in range(2000):
            model.apply(line(f"line {index}"))
        await terminal.until_text("line 1999")
        model.apply(line("one more"))
    await terminal.until_bytes(b"\x1b[?1049l")
    assert terminal.received.endswith(b"\x1b[?1049l")


async def test_a_terminal_that_goes_away_does_not_end_the_run() -> None:
    terminal = Pty()
    model = model_of("api")
    screen = screen_on(terminal, model)
    async with running(screen):
        await terminal.until_text("q quit")
        os.close(terminal.controller)
        model.apply(line("x"))
        await drawn(screen, model)
    os.close(terminal.fd)


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
async def test_there_are_no_colours_where_none_are_wanted(environ: dict[str, str]) -> None:
    terminal = Pty()
    try:
        async with running(screen_on(terminal, model_of("api"), environ=environ)):
            await terminal.until_text("q quit")
        assert b"\x1b[38;5;" not in terminal.received
        assert b"\x1b[32m" not in terminal.received
    finally:
        terminal.close()


async def test_a_terminal_without_a_size_is_taken_to_be_80_by_24() -> None:
    terminal = Pty()
    try:
        termios.tcsetwinsize(terminal.fd, (0, 0))
        async with running(screen_on(terminal, model_of("api"))):
            await terminal.until(lambda rows: "q quit" in rows[23])
    finally:
        terminal.close()


def test_the_summary_is_coloured_text_for_the_normal_screen(terminal: Pty) -> None:
    model = model_of("api")
    model.apply(line("boom"))
    model.apply(StateChanged(process="api", state=State.FAILED, previous=State.READY, reason="exit code 1"))
    model.apply(RunEnded(time=moment(2.0), exit_code=1, reason="api failed", duration=2.0))
    assert summary(model, stdout=terminal.fd, environ={"TERM": "xterm", "NO_COLOR": "1"}).splitlines() == [
        "\x1b[1morchestra\x1b[0m ran for 2.0 s, api failed",
        " \x1b[1m✗\x1b[0m api  \x1b[1mfailed\x1b[0m  exit code 1",
        "   │ boom",
    ]
    assert "\x1b[38;5;33mapi" in summary(model, stdout=terminal.fd, environ=ENVIRON)


@pytest.mark.parametrize(
    ("pieces", "keys"),
    [
        ([b"q"], "q"),
        ([b"qx"], "q x"),
        ([b"\x1b[A\x1bOB"], "up down"),
        ([b"\x1b[5~\x1b[6~\x1b[H\x1b[F"], "pageup pagedown home end"),
        ([b"\x1b[1;5C", b"q"], "q"),
        ([b"\x1b[1", b";5", b"Cq"], "q"),
        ([b"\x1bOP\x1b[15~"], "f1 f5"),
        ([b"\x1bq"], ""),
        ([b"\x1b", b"q"], "escape q"),
        ([b"\x1b", b"[A", b"q"], "escape up q"),
        ([b"\x1b\x1b[A"], "up"),
        ([b"\r\n \t\x7f"], "enter enter space tab backspace"),
        ([b"\x0c\x1a\x1d"], "ctrl-l ctrl-z ctrl-]"),
        ([b"\x1b[<64;10;5M\x1b[<65;1;1M\x1b[<0;1;1M"], "wheel-up wheel-down"),
        (["é".encode(), b"q"], "é q"),
        ([b"\xffq"], "q"),
        ([b"\x1b[" + b"1" * 1000, b"q"], ""),
    ],
)
def test_keys_have_names_and_other_sequences_are_swallowed(pieces: list[bytes], keys: str) -> None:
    decoder = KeyDecoder()
    assert " ".join(key for piece in pieces for key in decoder.feed(piece)) == keys


@given(
    st.lists(st.sampled_from([b"q", b"x", b"\x1b[A", b"\x1b[1;5C", b"\x1bOP", b"\x1b[200~"])),
    st.lists(st.integers(0, 60)),
)
def test_it_does_not_matter_in_which_pieces_keys_arrive(keys: list[bytes], cuts: list[int]) -> None:
    data = b"".join(keys)
    ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    whole, cut = KeyDecoder(), KeyDecoder()
    names = {b"q": ["q"], b"x": ["x"], b"\x1b[A": ["up"], b"\x1bOP": ["f1"]}
    expected = [name for key in keys for name in names.get(key, [])]
    assert whole.feed(data) == expected
    found = [key for piece in pieces if piece for key in cut.feed(piece)]
    assert [key for key in found if key != "escape"] == expected


@given(st.lists(st.integers(0, 60)))
def test_a_paste_is_one_whatever_pieces_it_arrives_in(cuts: list[int]) -> None:
    data = b"ab\x1b[200~q\x1b[2\x1b[20x\x1b[201~c\x1b[A"
    ends = [*sorted(min(cut, len(data)) for cut in cuts), len(data)]
    # An escape that is typed is not waited with: a mark's is told from it by what comes with it.
    ends = [end for end in ends if data[:end][-1:] != b"\x1b" or end > data.index(b"q")]
    pastes = Pastes()
    found = {False: b"", True: b""}
    for start, end in zip([0, *ends], ends, strict=False):
        for piece, is_pasted in pastes.feed(data[start:end]):
            found[is_pasted] += piece
    assert found == {False: b"abc\x1b[A", True: b"q\x1b[2\x1b[20x"}
