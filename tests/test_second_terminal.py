"""Every command in a second terminal: against a run of the project, against none, against several."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from orchestra.remote import find
from tests.kit import COMMAND, Run
from tests.terminal_kit import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

PROCFILE = f"""api: exec {sys.executable} -u -m http.server --bind 127.0.0.1 $PORT
worker: echo begun; exec sleep 1000
asks: while read answer; do echo got $answer; done
"""
INTERRUPTED = 130


class Said(NamedTuple):
    """What a command shows when it reaches a run; `keys` are typed then, and it ends with `code`."""

    text: str = ""
    keys: str = ""
    code: int = 0


COMMANDS = {
    "ps": Said("worker  running"),
    "ps --json": Said('"process":"worker"'),
    "ps --watch": Said("worker  running", "\x03", INTERRUPTED),
    "logs": Said("worker    | begun"),
    "logs -f": Said("worker    | begun", "\x03", INTERRUPTED),
    "logs --last": Said("worker    | begun"),
    "wait": Said(),
    "wait api --timeout 30": Said(),
    "restart api": Said(),
    "stop worker": Said(),
    "start worker": Said(),
    "kill worker": Said(),
    "start worker asks": Said(),
    "signal URG worker": Said(),
    "send asks hello": Said(),
    "reload": Said("0 pages"),
    "open": Said("http://127.0.0.1:"),
    "attach": Said("q leave", "q"),
    "exec worker -- env PS1=: sh": Said(":", "test -t 0 && exit 3\r", 3),
    "run --detach": Said("error: the project runs already: pid ", code=2),
}
# Without a run these are about something else.
NEED_NO_RUN = ("logs --last", "exec worker -- env PS1=: sh", "run --detach")


def in_terminal(words: str, folder: Path, said: Said, env: dict[str, str] | None = None) -> str:
    """Run a command as the foreground job of a terminal; give what is on the screen then."""
    env = {"BROWSER": "true", **(env or {})}
    with Terminal(*COMMAND, *words.split(), cwd=folder, columns=300, env=env) as terminal:
        if said.keys:
            terminal.until(lambda text: said.text in text)
            terminal.send(said.keys)
        code = terminal.wait()
        assert (code, said.text in terminal.text or bool(said.keys)) == (said.code, True), terminal.text
        assert terminal.settings() == terminal.before
        assert "Traceback" not in terminal.text
        return terminal.text


class Project(NamedTuple):
    folder: Path
    runs: list[Run]

    def pids(self) -> dict[str, Any]:
        """The processes of its first run."""
        (run,) = (each for each in find(os.environ) if each.state.pid == self.runs[0].process.pid)
        return {each.process: each.pid for each in run.state.processes}


def started(folder: Path) -> Run:
    return Run("--listen", "127.0.0.1:0", cwd=folder)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    folder = tmp_path_factory.mktemp("one")
    (folder / "Procfile").write_text(PROCFILE)
    with started(folder) as run:
        run.state("api", "ready")
        run.line("worker", "begun")
        run.state("asks", "running")
        yield Project(folder, [run])


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project that runs twice."""
    folder = tmp_path_factory.mktemp("twice")
    (folder / "Procfile").write_text("worker: echo begun; exec sleep 1000\n")
    with started(folder) as first, started(folder) as second:
        for each in (first, second):
            each.line("worker", "begun")
        yield Project(folder, [first, second])


@pytest.mark.parametrize("words", COMMANDS)
def test_it_reaches_the_run_of_its_folder_and_no_other(words: str, one: Project, twice: Project) -> None:
    before = twice.pids()
    in_terminal(words, one.folder, COMMANDS[words])
    assert twice.pids() == before
    assert [each.process.poll() for each in one.runs] == [None]


@pytest.mark.parametrize("words", [*(each for each in COMMANDS if each not in NEED_NO_RUN), "down"])
def test_without_a_run_it_says_so(words: str, tmp_path: Path) -> None:
    said = Said(f"error: there is no run in {tmp_path}\n hint: Start one: orchestra run.", code=2)
    in_terminal(words, tmp_path, said, {"XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)})


@pytest.mark.parametrize("words", [*(each for each in COMMANDS if each != "logs --last"), "down"])
def test_of_several_runs_it_guesses_none(words: str, twice: Project) -> None:
    known = (
        "error: the project runs already: pid " if words.startswith("run ") else "error: there are 2 runs in "
    )
    shown = in_terminal(words, twice.folder, Said(known, code=2))
    pids = [f"pid {each.process.pid} (" in shown for each in twice.runs]
    assert any(pids) if words.startswith("run ") else all(pids)
    assert [each.process.poll() for each in twice.runs] == [None, None]


def test_elsewhere_it_names_the_runs_that_there_are(one: Project, tmp_path: Path) -> None:
    """``--run`` reaches them from there; `down` ends that one."""
    pid = one.runs[0].process.pid
    shown = in_terminal("ps", tmp_path, Said(f"error: there is no run in {tmp_path}", code=2))
    assert "hint: Choose one with --run PID: " in shown
    assert f"pid {pid} ({one.folder / 'Procfile'}, {one.runs[0].url})" in shown
    in_terminal(f"ps --run {pid}", tmp_path, Said("worker  running"))
    in_terminal(f"down --run {pid}", tmp_path, Said())
    assert one.runs[0].wait() == 0
