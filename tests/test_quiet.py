from __future__ import annotations

from typing import TYPE_CHECKING

from orchestra.config.plan import Plan, ProcessPlan
from orchestra.dashboard.feed import Quiet
from orchestra.events import OutputLine, OutputPaused, State, StateChanged
from tests.kit import base_port, orchestra

if TYPE_CHECKING:
    from pathlib import Path

    from orchestra.events import Event

PLAN = Plan(
    processes=(ProcessPlan(name="web", command="x"), ProcessPlan(name="css", command="x", quiet=True))
)


def of(process: str, *, state: State = State.FAILED, previous: State = State.RUNNING) -> list[Event]:
    return [
        OutputLine(process=process, stream="stdout", text="a"),
        OutputPaused(process=process, stream="stdout", text="b"),
        StateChanged(process=process, state=state, previous=previous, last_lines=("y", "z")),
    ]


def shown(events: list[Event], quiet: Quiet) -> list[Event]:
    return [each for event in events for each in quiet.shown(event)]


def test_of_a_quiet_process_its_changes_and_its_last_lines_are_shown() -> None:
    *lines, change = shown(of("css"), Quiet(PLAN))
    assert [getattr(line, "text", None) for line in lines] == ["y", "z"]
    assert isinstance(change, StateChanged)
    assert shown(of("css", previous=State.FAILED), Quiet(PLAN)) == of("css", previous=State.FAILED)[2:]


def test_of_all_others_everything_is_shown() -> None:
    assert shown(of("web"), Quiet(PLAN)) == of("web")


def test_which_are_quiet_may_change() -> None:
    quiet = Quiet(PLAN)
    quiet.follow(Plan(processes=PLAN.processes[:1]))
    assert shown(of("css"), quiet) == of("css")


def test_its_lines_are_in_its_log_file_and_in_json(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web: echo loud\ncss: echo soft\njob: echo why; exit 3\n")
    (tmp_path / "orchestra.toml").write_text(
        '[process.css]\nquiet = true\nlog_file = "css.log"\n[process.job]\nrestart = "never"\n'
    )
    arguments = ["run", "--no-proxy", "-p", str(base_port()), "-q", "job"]
    code, out, _ = orchestra(*arguments, "--output", "plain", cwd=tmp_path)
    assert code == 3
    assert "web       | loud\n" in out
    assert "job       | why\n" in out
    assert "soft" not in out
    assert (tmp_path / "css.log").read_text() == "soft\n"
    _, out, _ = orchestra(*arguments, "--output", "json", cwd=tmp_path)
    assert '"text":"soft"' in out


def test_a_name_that_there_is_not_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("web: echo loud\n")
    code, _, err = orchestra("run", "-q", "wbe", cwd=tmp_path)
    assert (code, err) == (
        2,
        "error: Procfile: there is no process wbe\n hint: Did you mean web? There is only web.\n",
    )
