"""What the commands that reach a run do, and say; `test_second_terminal` has each in a terminal."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestra.remote import find
from tests.kit import (
    COMMAND,
    PATIENCE,
    ROOT,
    Run,
    base_port,
    called,
    free_port,
    get,
    marked,
    needed,
    orchestra,
)
from tests.process_kit import until
from tests.terminal_kit import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

SERVER = f"exec {sys.executable} -u -m http.server --bind 127.0.0.1 $PORT"
PROCFILE = f"""api: {SERVER}
worker: echo begun; exec sleep 1000
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "Procfile").write_text(PROCFILE)
    return tmp_path


@pytest.fixture
def run(project: Path) -> Iterator[Run]:
    with Run("--listen", "127.0.0.1:0", cwd=project) as started:
        started.state("api", "ready")
        started.state("worker", "running")
        yield started


@pytest.fixture(scope="module")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run that tests only look at, or ask for what it refuses."""
    folder = tmp_path_factory.mktemp("looked-at")
    (folder / "Procfile").write_text(PROCFILE)
    with Run("--listen", "127.0.0.1:0", cwd=folder) as started:
        started.state("api", "ready")
        started.state("worker", "running")
        yield started


def states(project: Path) -> dict[str, dict[str, object]]:
    code, shown, errors = orchestra("ps", "--json", cwd=project)
    assert code == 0, errors
    return {each["process"]: each for each in json.loads(shown)["processes"]}


def test_ps_shows_the_run_of_the_project_that_one_is_in(looked_at: Run) -> None:
    run, project = looked_at, looked_at.folder
    (project / "deep" / "down").mkdir(parents=True)
    code, shown, _ = orchestra("ps", cwd=project / "deep" / "down")
    assert code == 0
    title, head, *rows = shown.splitlines()
    assert title == f"{run.url}, pid {run.process.pid}, {project / 'Procfile'}"
    assert head.split() == ["NAME", "STATE", "PID", "ADDRESS", "RESTARTS", "REASON"]
    assert [row.split()[:2] for row in rows] == [["api", "ready"], ["worker", "running"]]
    code, shown, _ = orchestra("ps", "--json", cwd=project)
    found = json.loads(shown)
    assert set(found) == {"url", "procfile", "pid", "processes"}
    assert found["processes"][0] == run.state("api", "ready") | {"seq": found["processes"][0]["seq"]}


def test_orders_are_carried_out_when_the_command_is_over(run: Run, project: Path) -> None:
    before = states(project)["api"]["pid"]
    assert orchestra("restart", "api", cwd=project)[0] == 0
    assert states(project)["api"]["pid"] != before
    assert orchestra("wait", cwd=project)[0] == 0
    assert states(project)["api"]["state"] == "ready"
    assert orchestra("stop", "worker", cwd=project)[0] == 0
    assert states(project)["worker"]["state"] == "stopped"
    assert orchestra("wait", "api", cwd=project)[0] == 0
    code, _, errors = orchestra("wait", cwd=project)
    assert (code, errors) == (1, "worker has stopped\n")
    assert orchestra("start", "worker", cwd=project)[0] == 0
    run.state("worker", "running", since=len(run.events))
    assert orchestra("kill", "worker", cwd=project)[0] == 0
    assert (states(project)["worker"]["state"], states(project)["worker"]["signal"]) == ("stopped", "SIGKILL")
    assert orchestra("signal", "HUP", "api", cwd=project)[0] == 0
    run.until(lambda event: event.get("process") == "api" and event.get("signal") == "SIGHUP")
    assert orchestra("reload", cwd=project) == (0, "0 pages\n", "")


def test_a_table_that_is_watched_on_a_terminal_changes(run: Run, project: Path) -> None:
    with Terminal(*COMMAND, "ps", "--watch", cwd=project) as second:
        second.until(lambda text: text.count("running") == 1)
        assert orchestra("stop", "worker", cwd=project)[0] == 0
        second.until(lambda text: "stopped" in text)
        second.send("\x03")
        assert second.wait() == 130


@pytest.mark.parametrize("by", ["the system", "python", "nothing"])
def test_the_one_address_is_opened_in_the_browser(by: str, looked_at: Run, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    for name in ("xdg-open", "open", "browser"):
        fails = by == "nothing" or (by == "python" and name != "browser")
        (tmp_path / name).write_text("#!/bin/sh\nexit 3\n" if fails else f'#!/bin/sh\necho "$1" >{opened}\n')
        (tmp_path / name).chmod(0o755)
    env = {"BROWSER": f"{tmp_path}/browser %s", "PATH": f"{tmp_path}:{os.environ['PATH']}", "DISPLAY": ""}
    done = orchestra("open", cwd=looked_at.folder, env=env)
    if by == "nothing":
        assert done == (2, "", f"error: no browser could be opened: {looked_at.url}\n")
        return
    assert done == (0, f"{looked_at.url}\n", "")
    assert opened.read_text() == f"{looked_at.url}\n"


def test_on_a_terminal_ps_cuts_a_long_reason(tmp_path: Path) -> None:
    command = "/none/" + "x" * 100
    (tmp_path / "Procfile").write_text(f"a: {command}\nb: sleep 1000\n")
    (tmp_path / "orchestra.toml").write_text('[run]\nexit_on = "b"\n[process.a]\nrestart = "never"\n')
    with Run("--no-proxy", cwd=tmp_path) as run:
        run.state("a", "failed")
        (row,) = (each for each in orchestra("ps", cwd=tmp_path)[1].splitlines() if each.startswith("a "))
        assert row.endswith(str(states(tmp_path)["a"]["reason"]))
        for columns in (80, len(row)):
            with Terminal(*COMMAND, "ps", cwd=tmp_path, columns=columns) as terminal:
                assert terminal.wait() == 0
                shown = row if columns == len(row) else f"{row[:79]}…"
                assert shown in terminal.text.splitlines()


def test_wait_names_what_was_not_ready_in_time(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("late: sleep 1000\n")
    (tmp_path / "orchestra.toml").write_text('[process.late]\nready = "tcp"\n')
    with Run(cwd=tmp_path) as run:
        run.state("late", "starting")
        code, _, errors = orchestra("wait", "--timeout", "0.2", cwd=tmp_path)
        assert code == 3
        assert errors.startswith("not ready after 0.2 s: late (")


def test_down_ends_the_run_and_leaves_nothing(run: Run, project: Path) -> None:
    run_id = run.run_id
    assert orchestra("down", cwd=project) == (0, "", "")
    assert run.wait() == 0
    assert marked(run_id) == []
    assert run.events[-1]["reason"] == "asked to"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
def test_another_users_run_is_none(run: Run, project: Path, tmp_path: Path) -> None:
    """A socket is not believed because of where it is; `test_control_app` shows the other direction."""
    folder = Path(os.environ["XDG_RUNTIME_DIR"], "orchestra")
    path = folder / f"{run.process.pid}.sock"
    run.state("worker", "running")
    path.rename(tmp_path / "ours.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        # What the system tells of the other end is which user has called `listen`.
        os.seteuid(65534)
        try:
            listener.listen()
        finally:
            os.seteuid(0)
        code, _, errors = orchestra("ps", cwd=project)
        with listener.accept()[0] as connection:
            assert connection.recv(1) == b""  # it was told nothing
    assert (code, errors.startswith("error: there is no run in ")) == (2, True)
    (tmp_path / "ours.sock").rename(path)
    assert orchestra("ps", cwd=project)[0] == 0


def test_a_wrong_name_is_answered_by_the_right_ones(looked_at: Run) -> None:
    code, _, errors = orchestra("restart", "wroker", cwd=looked_at.folder)
    assert (code, errors) == (
        2,
        "error: there is no process called wroker\n hint: There are api, worker.\n",
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("start", "`orchestra run` starts a project"),
        ("stop", "`orchestra down` ends a run"),
        ("restart", "`orchestra ps` shows their names"),
        ("signal NOPE api", "there is no signal 'NOPE'"),
        ("logs --since yesterday", "'yesterday' is no time"),
        ("logs --since 99:99", "'99:99' is no time"),
        ("logs --since 99999999999d", "'99999999999d' is no time"),
        ("wait --timeout nan", "nan is not a number"),
        ("wait --timeout -1", "-1.0 is not in the range x>=0"),
        ("exec", "there is no command"),
        ("attach", "error: a run is shown on a terminal\n hint: orchestra ps and logs need none.\n"),
        ("exec api true", "hint: For that of a process: orchestra exec NAME -- COMMAND"),
    ],
)
def test_wrong_use_is_explained(words: str, said: str, looked_at: Run) -> None:
    code, shown, errors = orchestra(*words.split(), cwd=looked_at.folder)
    assert code in (2, 127)
    assert shown == ""
    assert said in errors


def test_runs_in_two_folders_and_two_in_one_are_told_apart(run: Run, project: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "Procfile").write_text("only: sleep 1000\n")
    with Run(cwd=other) as second, Run("worker", "--no-proxy", cwd=project) as third:
        second.state("only", "running")
        third.state("worker", "running")
        # The inner project is another one.
        assert list(states(other)) == ["only"]
        code, _, errors = orchestra("ps", cwd=project)
        assert code == 2
        assert f"there are 2 runs in {project}" in errors
        assert f"pid {run.process.pid} (" in errors
        assert "hint: Choose one: --run PID.\n" in errors
        code, shown, _ = orchestra("ps", "--run", str(third.process.pid), cwd=project)
        assert [row.split()[0] for row in shown.splitlines()[2:]] == ["worker"]
        assert orchestra("down", "--run", str(third.process.pid), cwd=other)[0] == 0
        assert third.wait() == 0
        assert set(states(project)) == {"api", "worker"}


def test_a_run_without_reloads_and_proxy_is_reached_too(project: Path) -> None:
    with Run("--no-proxy", "--no-reload", cwd=project) as run:
        run.state("api", "ready")
        assert states(project)["api"]["state"] == "ready"
        code, _, errors = orchestra("reload", cwd=project)
        assert (code, errors.startswith("error: this run has no connection to the pages")) == (2, True)
        code, _, errors = orchestra("open", cwd=project)
        assert (code, errors.startswith("error: this run has no address")) == (2, True)
        assert orchestra("down", cwd=project)[0] == 0


def test_what_a_process_reads_can_be_sent(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("asks: read answer; echo got $answer; exec sleep 1000\nover: true\n")
    with Run(cwd=tmp_path) as run:
        run.state("asks", "running")
        run.state("over", "completed")
        assert orchestra("send", "asks", "yes please", cwd=tmp_path)[0] == 0
        run.line("asks", "got yes please")
        code, _, errors = orchestra("send", "over", "hello", cwd=tmp_path)
        assert (code, errors.startswith("error: over does not run: ")) == (2, True)


def test_a_killed_run_is_none(run: Run, project: Path) -> None:
    os.kill(run.process.pid, signal.SIGKILL)
    run.wait()
    assert orchestra("ps", cwd=project)[0] == 2
    with Run("--no-proxy", cwd=project) as again:
        again.state("api", "ready")
        assert states(project)["api"]["pid"] == again.state("api", "ready")["pid"]


def test_the_log_is_there_during_a_run_and_after_it(run: Run, project: Path) -> None:
    run.line("worker", "begun")
    get(f"{run.url}/?asked")
    run.line("api", "GET /?asked")
    # Lines are written some times a second.
    until(lambda: "GET /?asked" in orchestra("logs", cwd=project)[1], lambda: "it is not in the log")
    code, shown, _ = orchestra("logs", cwd=project)
    assert code == 0
    assert "worker    | begun\n" in shown
    assert "orchestra | api is ready in " in shown
    code, shown, _ = orchestra("logs", "worker", cwd=project)
    assert {line.split(" ")[0] for line in shown.splitlines()} == {"worker", "orchestra"}
    assert "api" not in shown
    assert len(orchestra("logs", "-n", "1", cwd=project)[1].splitlines()) == 1
    assert orchestra("logs", "--since", "0s", cwd=project)[1] == ""
    follower = subprocess.Popen([*COMMAND, "logs", "-f"], cwd=project, stdout=subprocess.PIPE, text=True)
    assert follower.stdout is not None
    with follower, follower.stdout as lines:
        shown = lines.readline()
        assert run.stop() == 130
        shown += lines.read()
    assert follower.returncode == 0
    assert "worker    | begun\n" in shown
    assert shown.splitlines()[-1].startswith("orchestra | ended after ")
    code, last, _ = orchestra("logs", "--last", cwd=project)
    assert (code, last) == (0, shown)
    code, _, errors = orchestra("logs", "--last", "wroker", cwd=project)
    said = "error: there is no process called wroker in this log\n hint: There are api, worker.\n"
    assert (code, errors) == (2, said)
    state = [each for each in os.scandir(os.environ["XDG_STATE_HOME"] + "/orchestra") if "log-" in each.name]
    assert {each.stat().st_mode & 0o777 for each in state} == {0o600}


def test_no_log_is_kept_where_none_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("one: echo done\n")
    (tmp_path / "orchestra.toml").write_text("[run]\nkeep_log = false\n")
    assert orchestra("run", cwd=tmp_path)[0] == 0
    code, _, errors = orchestra("logs", "--last", cwd=tmp_path)
    assert code == 2
    assert "no log was kept" in errors


def test_a_log_that_cannot_be_kept_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("one: echo done; sleep 1; echo over\n")
    (tmp_path / "state").write_text("no folder\n")
    code, shown, errors = orchestra("run", cwd=tmp_path, env={"XDG_STATE_HOME": str(tmp_path / "state")})
    assert code == 0
    assert errors.startswith("warning: the log of this run was not kept: ")
    assert "one       | over\n" in shown


def test_exec_runs_a_command_as_a_process_of_the_run(run: Run, project: Path) -> None:
    port = run.state("api", "ready")["port"]
    code, shown, _ = orchestra("exec", "api", "--", "sh", "-c", "echo $PORT; pwd; exit 3", cwd=project)
    assert (code, shown) == (3, f"{port}\n{project}\n")
    assert orchestra("exec", "--", "sh", "-c", "echo $ORCHESTRA_URL", cwd=project)[1] == f"{run.url}\n"
    marks = "echo ${ORCHESTRA_RUN-none} ${ORCHESTRA_PROCESS-none} ${ORCHESTRA_CHILD-none}"
    assert orchestra("exec", "--", "sh", "-c", marks, cwd=project)[1] == "none none none\n"
    shell = [*COMMAND, "exec", "api", "--", "sh", "-c", "read line; echo $line"]
    pipe = subprocess.PIPE
    with subprocess.Popen(shell, cwd=project, stdin=pipe, stdout=pipe, text=True) as outliving:
        for _ in range(3):
            assert orchestra("restart", "api", cwd=project)[0] == 0
            assert orchestra("wait", cwd=project)[0] == 0
        assert outliving.communicate("still here\n", timeout=PATIENCE)[0] == "still here\n"


def test_exec_needs_no_run(project: Path) -> None:
    (project / ".env").write_text("GREETING=hello\n")
    env = {"PORT": str(base_port())}
    code, shown, _ = orchestra("exec", "worker", "--", "sh", "-c", "echo $GREETING", cwd=project, env=env)
    assert (code, shown) == (0, "hello\n")
    env["ORCHESTRA_URL"] = "http://127.0.0.1:1"  # of another run
    show = "echo $ORCHESTRA_URL"
    port = free_port()
    (project / "orchestra.toml").write_text(f'[proxy]\nlisten = "127.0.0.1:{port}"\n')
    shown = orchestra("exec", "--", "sh", "-c", show, cwd=project, env=env)[1]
    assert shown == f"http://127.0.0.1:{port}\n"
    (project / "orchestra.toml").write_text("[proxy]\nenabled = false\n")
    assert orchestra("exec", "--", "sh", "-c", show, cwd=project, env=env)[1] == "\n"
    code, _, errors = orchestra("exec", "nope", "--", "true", cwd=project)
    assert code == 2
    assert "there is no process called nope" in errors


def test_a_detached_run_in_a_script(project: Path) -> None:
    needed("curl")
    script = """set -e
orchestra run --detach --listen 127.0.0.1:0
orchestra wait --timeout 30
curl -fsS -o page.html "$(orchestra open)"
orchestra exec api -- sh -c 'echo on $PORT'
orchestra ps --json
orchestra down
"""
    words = " ".join(COMMAND)
    (project / "bin").mkdir()
    command = project / "bin" / "orchestra"
    command.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    command.chmod(0o755)
    path = f"{project / 'bin'}:{os.environ['PATH']}"
    env = {"BROWSER": "true", "PATH": path, "PORT": str(base_port())}
    done = called("sh", "-c", script, cwd=project, env=env)
    assert done.returncode == 0, done.stderr
    first, on, shown = done.stdout.splitlines()
    assert " is run by pid " in first
    assert on.startswith("on ")
    assert "Directory listing" in (project / "page.html").read_text()
    pids = [each["pid"] for each in json.loads(shown)["processes"]] + [json.loads(shown)["pid"]]
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    # Process 1 of a container may not take note of it.
    assert [each for each in left if each.status() != psutil.STATUS_ZOMBIE] == []


def test_a_second_run_in_the_background_is_refused(looked_at: Run) -> None:
    """A script finds the one in the background by its folder."""
    run, project = looked_at, looked_at.folder
    code, _, errors = orchestra("run", "worker", "--detach", "--no-proxy", cwd=project)
    pid = run.process.pid
    described = f"pid {pid} ({project / 'Procfile'}, {run.url})"
    hint = f"End it: orchestra down --run {pid}. Without --detach, another one may run."
    assert (code, errors) == (2, f"error: the project runs already: {described}\n hint: {hint}\n")


def test_of_two_that_start_in_the_background_at_once_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("worker: exec sleep 1000\n")
    words = [*COMMAND, "run", "--detach", "--no-proxy"]
    both = [subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.DEVNULL) for _ in range(2)]
    try:
        assert sorted(each.wait(timeout=PATIENCE) for each in both) == [0, 2]
    finally:
        for each in find(os.environ):
            if each.root == tmp_path:
                orchestra("down", "--run", str(each.state.pid), cwd=tmp_path)


def test_a_detached_run_that_cannot_begin_says_why(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("a b: true\n")
    code, _, errors = orchestra("run", "--detach", cwd=tmp_path)
    assert code == 2
    assert "Procfile:1" in errors


def test_the_words_of_other_runners(project: Path) -> None:
    (project / "other.txt").write_text("only: echo said\n")
    code, shown, _ = orchestra("up", "-f", "other.txt", "--no-proxy", cwd=project)
    assert code == 0
    assert "only      | said\n" in shown


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("start -f Procfile.two", "Did you mean `orchestra run -f`?"),
        ("-f Procfile.two start", "Did you mean `orchestra run -f`?"),
        ("start -c web=2", "Did you mean run -m?"),
        ("up -t", "Did you mean stop_timeout in the settings"),
        ("connect web", "Did you mean `orchestra attach`?"),
        ("restrat web", "Did you mean `orchestra restart`?"),
    ],
)
def test_a_word_that_is_nearly_right_is_answered_by_ours(words: str, said: str, tmp_path: Path) -> None:
    code, shown, errors = orchestra(*words.split(), cwd=tmp_path)
    assert (code, shown, said in errors) == (2, "", True), errors


def completed(words: str, folder: Path) -> list[str]:
    """What bash is offered; each line has a kind before it."""
    given = {"_ORCHESTRA_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    env = {**os.environ, **given, "PYTHONPATH": str(ROOT)}
    program = "from orchestra.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=env, capture_output=True, text=True, check=False
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_names_and_values_are_completed(run: Run, project: Path) -> None:
    run.state("worker", "running")
    assert completed("orchestra res", project) == ["restart"]
    assert completed("orchestra restart ", project) == ["api", "worker"]
    assert completed("orchestra exec w", project) == ["worker"]
    assert completed("orchestra run ap", project) == ["api"]  # of the Procfile
    assert completed("orchestra signal US", project) == ["USR1", "USR2"]
    assert completed("orchestra run --output ", project) == ["auto", "dashboard", "plain", "json"]


def test_a_run_that_is_suspended_is_said_at_once(run: Run, project: Path) -> None:
    run.state("worker", "running")
    run.process.send_signal(signal.SIGSTOP)
    try:
        while psutil.Process(run.process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        code, _, errors = orchestra("ps", cwd=project)
    finally:
        run.process.send_signal(signal.SIGCONT)
    hint = f"A run is suspended (pid {run.process.pid}): `fg` in its terminal continues it."
    assert (code, errors) == (2, f"error: there is no run in {project}\n hint: {hint}\n")
