"""Every key against the model: what it shows, and what it asks for."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestra.config.keys import ACTIONS, bindings
from orchestra.config.schema import DashboardSettings
from orchestra.control.local import Order
from orchestra.dashboard.controls import PERFORM, Act, Controls, Mode
from orchestra.dashboard.log import Log, Wanted
from orchestra.events import ErrorShown, InputWanted, Notice, State, StateChanged
from tests.dashboard_kit import READY, REQUEST, STARTED, begun, line, model_of, pictured
from tests.events_kit import moment


def controls_of(*events: object, lines: int = 0) -> Controls:
    more = [line(f"line {number}") for number in range(1, lines + 1)]
    controls = Controls(model_of(STARTED, *events, *more))  # type: ignore[arg-type]
    controls.page = 10
    return controls


def press(controls: Controls, *keys: str) -> Order | Act | None:
    order = None
    for key in keys:
        order = controls.press(key)
    return order


def shown(controls: Controls) -> list[str]:
    entries = controls.model.log.newest(controls.look.wanted, controls.page, until=controls.look.until)
    return [getattr(entry.event, "text", "") for entry in entries]


def failed(name: str) -> StateChanged:
    return StateChanged(process=name, state=State.FAILED, previous=State.STARTING)


def test_every_action_has_a_key_and_does_something() -> None:
    assert PERFORM.keys() == ACTIONS.keys()
    assert set(bindings({}).values()) == set(ACTIONS)


@pytest.mark.parametrize(
    ("keys", "selected"),
    [("", "vite"), ("down", "api"), ("j", "api"), ("j j", "api"), ("j k", "vite"), ("up", "vite")],
)
def test_arrows_choose_a_process(keys: str, selected: str) -> None:
    controls = controls_of()
    controls.see(0.0)
    press(controls, *keys.split())
    assert controls.look.selected == selected


def test_the_selection_moves_to_what_fails_unless_the_user_has_moved_it() -> None:
    controls = controls_of()
    controls.model.apply(failed("api"))
    assert controls.see(0.0).selected == "api"
    press(controls, "k")
    controls.model.apply(failed("api"))
    assert controls.see(0.0).selected == "vite"


@pytest.mark.parametrize(
    ("key", "order"),
    [
        ("r", Order(do="restart", processes=("vite",))),
        ("R", Order(do="start")),
        ("s", Order(do="stop", processes=("vite",))),
        ("x", Order(do="kill", processes=("vite",))),
        ("o", Act("open", text="http://127.0.0.1:8000")),
        ("y", Act("copy", text="line 2")),
        ("w", Act("write", text="vite | line 1\nvite | line 2\n")),
        ("q", Act("quit")),
        ("ctrl-z", Act("suspend")),
        ("ctrl-l", Act("redraw")),
        ("ctrl-b", None),
    ],
)
def test_keys_that_act_on_the_run(key: str, order: Order | Act | None) -> None:
    assert press(controls_of(lines=2), key) == order


def test_s_starts_what_is_stopped_and_capital_r_all_that_have_failed() -> None:
    controls = controls_of(failed("vite"), failed("api"))
    assert press(controls, "R") == Order(do="start", processes=("vite", "api"))
    assert press(controls_of(failed("vite")), "s") == Order(do="start", processes=("vite",))


def test_enter_shows_the_log_of_one_process_and_of_all_again() -> None:
    controls = controls_of(line("a"), line("b", "api"))
    press(controls, "down", "enter")
    assert shown(controls) == ["b"]
    press(controls, "up")  # the log follows the selection
    assert shown(controls) == ["a"]
    press(controls, "enter")
    assert shown(controls) == ["a", "b"]


def test_the_log_is_searched_upwards_and_back() -> None:
    controls = controls_of(lines=100)
    press(controls, "/", *"line 3", "enter")
    assert controls.look.hit == 39
    press(controls, "n")
    assert controls.look.hit == 38
    press(controls, "N")
    assert controls.look.hit == 39
    assert "line 39" in shown(controls)
    assert press(controls, "y") == Act("copy", text="line 39")
    press(controls, "N")
    assert controls.look.message == "no more 'line 3' below"
    press(controls, "escape")
    assert (controls.look.search, controls.look.until) == ("", None)


def test_a_search_can_be_given_up_and_corrected() -> None:
    controls = controls_of(lines=3)
    press(controls, "/", "x", "escape")
    assert (controls.look.mode, controls.look.search) == (Mode.NORMAL, "")
    press(controls, "/", "9", "backspace", "2", "enter")
    assert (controls.look.search, controls.look.hit) == ("2", 2)
    press(controls, "n")
    assert controls.look.message == "no more '2' above"
    press(controls, "escape", "n")
    assert "press / first" in controls.look.message


def test_a_filter_shows_what_has_a_text_while_it_is_typed() -> None:
    controls = controls_of(line("GET /a"), line("POST /b", "api"), line("get /c"))
    press(controls, "f", *"get")
    assert shown(controls) == ["GET /a", "get /c"]
    press(controls, "enter", "f", "escape")
    assert len(shown(controls)) == 3


def test_e_shows_errors_with_their_tracebacks() -> None:
    traceback = [
        "Traceback (most recent call last):",
        '  File "a.py", line 1',
        "    boom()",
        "ValueError: no",
    ]
    controls = controls_of(
        line("  fine"), *map(line, traceback), line("fine"), line("indented"), line("ERROR in x", "api")
    )
    press(controls, "e")
    assert shown(controls) == [*traceback, "ERROR in x"]


def test_space_stops_following_and_pages_scroll_the_whole_log() -> None:
    controls = controls_of(lines=100)
    press(controls, "space")
    controls.model.apply(line("new"))
    assert shown(controls)[-1] == "line 100"
    press(controls, "pageup")
    assert (shown(controls)[0], shown(controls)[-1]) == ("line 82", "line 91")
    press(controls, "pagedown")
    assert shown(controls)[-1] == "line 100"
    press(controls, "home")
    assert (shown(controls)[0], shown(controls)[-1]) == ("line 1", "line 10")
    press(controls, "pageup")
    assert shown(controls)[-1] == "line 10"
    press(controls, "wheel-down")
    assert shown(controls)[-1] == "line 13"
    press(controls, "end")
    assert (controls.look.until, shown(controls)[-1]) == (None, "new")


def test_what_is_read_stays_however_much_comes() -> None:
    """A process that writes thousands of lines a second would empty the pane in a moment."""
    controls = controls_of(lines=50)
    press(controls, "space")
    before = shown(controls)
    for number in range(50, 25_000):
        controls.model.apply(line(f"line {number}"))
    assert shown(controls) == before
    press(controls, "pageup")
    assert shown(controls)[-1] == "line 41"
    press(controls, "/", *"line 45", "enter")
    assert "line 45" in shown(controls)
    press(controls, "G")
    assert shown(controls)[-1] == "line 24999"
    assert len([*controls.model.log]) == 10_000
    press(controls, "g")
    assert shown(controls)[0] == "line 15000"


def test_the_requests_are_chosen_detailed_filtered_and_cleared() -> None:
    two = replace(REQUEST, id=2, target="/b", status=500)
    controls = controls_of(REQUEST, two)
    press(controls, "t")
    assert controls.look.chosen == 2
    press(controls, "down", "enter")
    assert (controls.look.chosen, controls.look.details) == (1, True)
    assert press(controls, "y") == Act("copy", text="http://127.0.0.1:8000/about")
    press(controls, "escape", "f", *"500", "enter")
    assert controls.look.chosen == 2
    press(controls, "c")
    assert not controls.model.requests.groups
    press(controls, "t")
    assert not controls.look.on_requests


def test_i_gives_keys_to_the_process_that_asks() -> None:
    wanted = InputWanted(time=moment(1.0), process="api", prompt="(Pdb)")
    controls = controls_of(begun("(Pdb) ", "api"), wanted)
    press(controls, "i")
    assert (controls.gives_input, controls.look.selected) == (True, "api")
    controls.end_input()
    press(controls, "up", "i")
    assert controls.look.selected == "api"


def test_while_a_process_gets_input_its_log_is_shown_and_then_what_was() -> None:
    controls = controls_of(line("a"), line("b", "api"), REQUEST)
    press(controls, "down", "t", "enter")
    before = controls.look
    press(controls, "i")
    assert (shown(controls), controls.look.details) == (["b"], False)
    controls.end_input()
    assert controls.look == before


def test_a_module_that_vite_cannot_serve_is_hinted_at_until_it_can() -> None:
    broken = replace(REQUEST, upstream="frontend", target="/src/main.ts?t=1", status=500)
    controls = controls_of(broken, broken)
    hint = " hint: Vite cannot serve /src/main.ts (500), so its page may stay blank: the log says why."
    assert pictured(controls, width=100).count(hint) == 1
    controls.model.apply(replace(broken, target="/src/main.ts", status=200))
    assert not any("hint:" in row for row in pictured(controls))


def test_d_dismisses_the_error_and_then_the_hint() -> None:
    controls = controls_of(
        ErrorShown(seq=3, process="api", error_type="E", message=""), replace(REQUEST, method="OPTIONS")
    )
    assert any("✗ api: E" in row for row in pictured(controls))
    press(controls, "d")
    rows = pictured(controls)
    assert not any("✗ api: E" in row for row in rows)
    assert any("hint: a browser asks" in row for row in rows)
    press(controls, "d")
    assert not any("hint:" in row for row in pictured(controls))


def test_parts_are_hidden_and_shown() -> None:
    controls = controls_of(READY, REQUEST)

    def parts() -> list[str]:
        text = "\n".join(pictured(controls, height=30))
        return [part for part in ("process  state", "── log", "── requests") if part in text]

    assert len(parts()) == 3
    press(controls, "1")
    assert parts() == ["── log", "── requests"]
    press(controls, "2")
    assert parts() == ["── log"]
    press(controls, "1", "2", "z")
    assert parts() == ["── log"]
    press(controls, "t")
    assert parts() == ["── requests"]


def test_help_ends_with_any_key_and_c_clears_the_log() -> None:
    controls = controls_of(lines=3)
    press(controls, "?")
    assert any("── keys" in row for row in pictured(controls))
    assert press(controls, "r") is None
    assert not any("── keys" in row for row in pictured(controls))
    press(controls, "c")
    assert shown(controls) == []


def test_keys_can_be_rebound() -> None:
    controls = Controls(model_of(STARTED), DashboardSettings(keys={"quit": "Q f1", "restart": "q"}))
    assert controls.press("Q") == Act("quit")
    assert controls.press("f1") == Act("quit")
    assert controls.press("q") == Order(do="restart", processes=("vite",))
    assert controls.press("r") is None


@pytest.mark.parametrize(
    ("keys", "complaint"),
    [
        ({"fly": "q"}, "'fly' is not an action"),
        ({"quit": "f99"}, "'f99' is not a key"),
        ({"quit": "q", "stop": "q"}, "'q' is given to both 'quit' and 'stop'"),
    ],
)
def test_wrong_bindings_are_explained(keys: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        bindings(keys)


def test_notices_are_errors_if_they_warn() -> None:
    warning = Notice(time=moment(1.0), level="warning", code="c", text="careful")
    info = replace(warning, level="info", text="fine")
    log = controls_of(warning, info).model.log
    assert [entry.event for entry in log.newest(Wanted(errors=True), 9)] == [warning]


def test_a_loud_process_leaves_the_lines_of_a_quiet_one() -> None:
    log = Log()
    quiet = [line(str(index), "worker") for index in range(3)]
    for event in quiet[:2]:
        log.add(event)
    for index in range(20_000):
        log.add(line(str(index), "vite"))
        if index == 19_000:
            log.add(quiet[2])
    only = log.newest(Wanted(process="worker"), 9)
    assert [each.event for each in only] == quiet
    assert [each.number for each in only] == [1, 2, 19_004]
    assert log.newest(Wanted(process="worker"), 9, until=19_003) == only[:2]
    assert [each.event for each in log.newest(Wanted(), 20_000)[:2]] == quiet[:2]
    log.clear()
    assert log.newest(Wanted(), 9) == []
