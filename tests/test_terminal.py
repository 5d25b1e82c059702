"""The dashboard as a user has it: the real command in a real terminal, and what is left of it afterwards."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.kit import COMMAND, base_port, get
from tests.process_kit import Mark, linux_only, until
from tests.terminal_kit import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

SERVE = f"exec {sys.executable} -u -m http.server --bind 127.0.0.1 $PORT"


def project(folder: Path, *, web: str = SERVE, worker: str = "echo [bold]working[/bold]; sleep 1000") -> Path:
    (folder / "Procfile").write_text(f"front: {SERVE}\nweb: {web}\nworker: {worker}\n")
    (folder / "orchestra.toml").write_text(
        # Ports of its own: another run may be looking for some at this very moment.
        f"run.base_port = {base_port()}\n"
        '[proxy]\nlisten = "127.0.0.1:0"\nfrontend = "front"\nbackend = "web"\n'
        '[process.web]\nrestart = "never"\n'
    )
    return folder


def test_the_dashboard_shows_processes_output_and_requests(tmp_path: Path) -> None:
    with Terminal(*COMMAND, "run", cwd=project(tmp_path)) as terminal:
        # What is drawn arrives in pieces: whatever is to be on it is waited for.
        text = terminal.until(
            lambda text: (
                text.count("ready") >= 2
                and all(word in text for word in ("[bold]working[/bold]", "worker", "running"))
            )
        )
        url = next(word for word in text.split() if word.startswith("http://127.0.0.1:"))
        assert get(url + "/orchestra.toml").status == 200
        request = ("/orchestra.toml", "backend", "GET", "200")
        terminal.until(lambda text: any(all(word in row for word in request) for row in text.splitlines()))
        terminal.send("q")
        assert terminal.wait() == 0
        assert terminal.is_restored()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_whatever_ends_it_the_terminal_is_as_it_was(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    with Terminal(*COMMAND, "run", cwd=project(tmp_path)) as terminal:
        terminal.until(lambda text: text.count("ready") >= 2)
        assert terminal.settings() != terminal.before
        if number == signal.SIGINT:
            terminal.send("\x03")
        else:
            os.kill(terminal.pid, number)
        assert terminal.wait() == code
        assert terminal.is_restored()


def test_a_failed_process_is_shown_and_the_dashboard_stays(tmp_path: Path) -> None:
    folder = project(tmp_path, web="echo it is broken; exit 7", worker="true")
    (folder / "Procfile").write_text("web: echo it is broken; exit 7\nworker: true\n")
    (folder / "orchestra.toml").write_text('[process.web]\nrestart = "never"\n')
    with Terminal(*COMMAND, "run", cwd=folder) as terminal:
        failure = ("web", "failed", "7")
        terminal.until(
            lambda text: (
                "completed" in text
                and "it is broken" in text
                and any(all(word in row for word in failure) for row in text.splitlines())
            )
        )
        terminal.send("q")
        assert terminal.wait() == 0
        assert terminal.is_restored()


def test_a_wrong_procfile_does_not_touch_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("nonsense\n")
    with Terminal(*COMMAND, "run", cwd=tmp_path) as terminal:
        assert terminal.wait() == 2
        assert b"\x1b[?1049h" not in terminal.written
        assert b"Procfile:1" in terminal.written
        assert terminal.settings() == terminal.before


RUN = shlex.join([*COMMAND, "run"])


def shell(folder: Path, *, env: Mapping[str, str] | None = None) -> Terminal:
    """An interactive shell with job control, at its prompt."""
    folder = project(folder)
    terminal = Terminal(
        "bash", "--norc", "--noprofile", "-i", cwd=folder, env={"PS1": "prompt> ", **(env or {})}
    )
    terminal.until(lambda text: "prompt>" in text)
    return terminal


def is_dashboard(text: str) -> bool:
    return "q quit" in text and text.count("ready") >= 2


def modes(terminal: Terminal, folder: Path) -> str:
    """The terminal's modes as a command finds them: at its prompt, a shell has some of its own."""
    found = folder / "modes"
    found.unlink(missing_ok=True)
    terminal.send("stty -g >modes.new; mv modes.new modes\n")
    until(found.exists, lambda: terminal.text)
    return found.read_text()


def continue_it(terminal: Terminal) -> None:
    """Bring the job to the foreground, when nothing of what it had drawn is left on the screen."""
    terminal.send("clear\n")
    terminal.until(lambda text: "q quit" not in text)
    terminal.send("fg\n")
    terminal.until(is_dashboard)


def is_at_prompt_after_stop(text: str) -> bool:
    # The emulator knows no alternate screen: what was drawn there still stands around it.
    return "prompt>" in text.partition("Stopped")[2]


def test_ctrl_c_after_q_is_in_a_hurry(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; echo [bold]working[/bold]; while :; do sleep 1000; done"
    project(tmp_path, worker=stubborn)
    settings = tmp_path / "orchestra.toml"
    settings.write_text(settings.read_text() + "[process.worker]\nstop_timeout = 10000\n")
    with Terminal(*COMMAND, "run", cwd=tmp_path) as terminal:
        terminal.until(lambda text: "[bold]working[/bold]" in text and "running" in text)
        terminal.send("q")
        terminal.until(lambda text: "stopping" in text)
        terminal.send("\x03")
        assert terminal.wait() == 130
        assert "killed by SIGKILL" in terminal.text


@linux_only
def test_after_sigkill_the_guardian_gives_the_screen_back(tmp_path: Path) -> None:
    with shell(tmp_path) as terminal:
        own = modes(terminal, tmp_path)
        terminal.send(f"{RUN}\n")
        terminal.until(is_dashboard)
        (job,) = psutil.Process(terminal.pid).children()
        job.kill()
        terminal.until(lambda text: "Killed" in text and "prompt>" in text)
        # The guardian writes when it has noticed, which may be after the shell has.
        terminal.until(lambda _: terminal.has_its_own_screen())
        assert modes(terminal, tmp_path) == own
        terminal.send("exit\n")
        terminal.wait()


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_takes_it_back(tmp_path: Path) -> None:
    with shell(tmp_path) as terminal:
        own = modes(terminal, tmp_path)
        terminal.send(f"{RUN}\n")
        terminal.until(is_dashboard)
        for turn in range(2):
            terminal.send("\x1a")
            terminal.until(is_at_prompt_after_stop)
            terminal.send(f"echo answer $((40 + {turn}))\n")
            terminal.until(lambda text, turn=turn: f"answer {40 + turn}" in text)  # type: ignore[misc]
            assert modes(terminal, tmp_path) == own
            continue_it(terminal)
        terminal.send("q")
        terminal.until(lambda text: "prompt>" in text.partition("ran for")[2])
        terminal.send("code=$?\n")
        assert modes(terminal, tmp_path) == own
        terminal.send("clear; echo code $code; exit\n")
        terminal.until(lambda text: "code 0" in text)
        terminal.wait()


def test_bg_leaves_the_terminal_alone_until_fg(tmp_path: Path) -> None:
    with shell(tmp_path) as terminal:
        own = modes(terminal, tmp_path)
        terminal.send(f"{RUN}\n")
        terminal.until(is_dashboard)
        terminal.send("\x1a")
        terminal.until(is_at_prompt_after_stop)
        terminal.send("clear; bg; jobs\n")
        terminal.until(lambda text: "Running" in text)
        assert modes(terminal, tmp_path) == own
        continue_it(terminal)
        terminal.send("\x03")
        terminal.until(lambda text: "prompt>" in text.partition("ran for")[2])
        terminal.send("code=$?\n")
        assert modes(terminal, tmp_path) == own
        terminal.send("clear; echo code $code; exit\n")
        terminal.until(lambda text: "code 130" in text)
        terminal.wait()


@linux_only
def test_a_stopped_job_that_is_killed_leaves_a_clean_terminal(
    tmp_path: Path,
) -> None:
    mark = Mark()
    with shell(tmp_path, env=mark.env) as terminal:
        own = modes(terminal, tmp_path)
        terminal.send(f"{RUN}\n")
        terminal.until(is_dashboard)
        terminal.send("\x1a")
        terminal.until(is_at_prompt_after_stop)
        terminal.send("clear; kill %1\n")  # bash continues what it has killed
        terminal.until(lambda text: "SIGTERM" in text)
        terminal.send("clear; wait; jobs; echo code $?\n")
        terminal.until(lambda text: "code 0" in text and "Running" not in text)
        assert modes(terminal, tmp_path) == own
        assert [line for line in mark.living() if "bash" not in line] == []
        terminal.send("exit\n")
        terminal.wait()


@linux_only
def test_in_the_background_it_prints_and_leaves_the_terminal_alone(tmp_path: Path) -> None:
    mark = Mark()
    with shell(tmp_path, env=mark.env) as terminal:
        own = modes(terminal, tmp_path)
        terminal.send(f"{RUN} &\n")
        terminal.until(lambda text: "worker    | [bold]working[/bold]" in text)
        assert modes(terminal, tmp_path) == own
        assert b"\x1b[?1049h" not in terminal.written
        the_shell = psutil.Process(terminal.pid)
        until(lambda: len(the_shell.children()) == 1, the_shell.children)  # what told the modes has ended
        (job,) = the_shell.children()
        terminal.send("fg\n")
        # That it was typed is not enough: Ctrl-C goes to the process that has the terminal.
        terminal.until(lambda _: terminal.foreground() == job.pid)
        terminal.send("\x03")
        # Until it has ended, what is typed is its own.
        terminal.until(lambda text: "prompt>" in text.partition("SIGINT")[2])
        terminal.send("echo code $?\n")
        terminal.until(lambda text: "code 130" in text)
        assert [line for line in mark.living() if "bash" not in line] == []
        terminal.send("exit\n")
        terminal.wait()


@linux_only
@pytest.mark.parametrize("output", ["dashboard", "plain"])
def test_a_closed_window_ends_everything_with_129_and_no_complaint(tmp_path: Path, output: str) -> None:
    mark = Mark()
    env = {**mark.env, "TMPDIR": str(tmp_path)}
    with Terminal(*COMMAND, "run", "--output", output, cwd=project(tmp_path), env=env) as terminal:
        terminal.until(lambda text: text.count("ready") >= 2)
        terminal.close()
        assert terminal.wait() == 129
        assert mark.living() == []
    # Where a bug leaves its traceback.
    assert list(tmp_path.glob("orchestra-*.txt")) == []


@linux_only
def test_nohup_survives_the_window_and_sigterm_ends_it(tmp_path: Path) -> None:
    mark = Mark()
    with shell(tmp_path, env=mark.env) as terminal:
        terminal.send(f"nohup {RUN} >out.txt 2>&1 & echo pid $!.\n")
        said = re.compile(r"^pid (\d+)\.$", re.MULTILINE)
        (pid,) = map(int, said.findall(terminal.until(lambda text: bool(said.search(text)))))
        out = tmp_path / "out.txt"
        until(lambda: out.exists() and "working" in out.read_text(), mark.living)
        terminal.close()
        terminal.wait()
        os.kill(pid, signal.SIGHUP)
        os.kill(pid, signal.SIGTERM)
        mark.until_none_is_left()
        assert "SIGTERM" in out.read_text()


def test_children_have_the_size_of_the_terminal_and_follow_it(tmp_path: Path) -> None:
    project(tmp_path)
    script = (
        "import os, signal, sys\n"
        "show = lambda *_: print('size', *os.get_terminal_size(0), all(map(os.isatty, (0, 1, 2))))\n"
        "signal.signal(signal.SIGWINCH, show)\n"
        "show()\n"
        "while True: signal.pause()\n"
    )
    (tmp_path / "size.py").write_text(script)
    (tmp_path / "Procfile").write_text(f"a: exec {sys.executable} -S size.py\n")
    (tmp_path / "orchestra.toml").unlink()
    for output in ("plain", "dashboard"):
        with Terminal(*COMMAND, "run", "--output", output, cwd=tmp_path) as terminal:
            terminal.until(lambda text: "size 87 30 True" in text)  # but for `orchestra | ` and a column
            terminal.resize(80, 20)
            terminal.until(lambda text: "size 67 20 True" in text)
            terminal.send("\x03")
            assert terminal.wait() == 130


DEBUGGED = """
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        answer = b"before"
        if self.path == "/debug":
            breakpoint()
            answer = b"answered"
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    log_message = lambda *_: None

import os
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


def debugged(folder: Path) -> Path:
    """A backend whose handler of /debug has a breakpoint, and another process."""
    (folder / "app.py").write_text(DEBUGGED)
    (folder / "Procfile").write_text(f"api: exec {sys.executable} -u app.py\nworker: sleep 1000\n")
    settings = f'run.base_port = {base_port()}\n[proxy]\nlisten = "127.0.0.1:0"\nbackend = "api"\n'
    (folder / "orchestra.toml").write_text(settings)
    return folder


def address(text: str) -> str:
    return next(word for word in text.split() if word.startswith("http://127.0.0.1:"))


def test_on_plain_output_a_debugger_is_answered_from_the_terminal(tmp_path: Path) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        Terminal(*COMMAND, "run", "--output", "plain", cwd=debugged(tmp_path)) as terminal,
    ):
        text = terminal.until(lambda text: "api is ready" in text)
        terminal.send("nothing\n")
        terminal.until(lambda text: "no process has asked" in text)
        answer = pool.submit(get, address(text) + "/debug")
        terminal.until(lambda text: "(Pdb)" in text)
        terminal.send("n\n")
        terminal.until(lambda text: 'answer = b"answered"' in text or "self.send_response" in text)
        terminal.send("c\n")
        terminal.until(lambda _: answer.done())
        assert answer.result().body == b"answered"
        terminal.send("\x03")
        assert terminal.wait() == 130


def test_on_plain_output_the_only_process_gets_what_is_typed(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("reader: read line; echo got $line\n")
    with Terminal(*COMMAND, "run", "--output", "plain", cwd=tmp_path) as terminal:
        terminal.until(lambda text: "reader runs" in text)
        terminal.send("hello\n")
        terminal.until(lambda text: "reader    | got hello" in text)
        assert terminal.wait() == 0


def test_on_the_dashboard_a_debugger_is_answered_and_the_request_goes_on(tmp_path: Path) -> None:
    with (
        ThreadPoolExecutor(1) as pool,
        Terminal(*COMMAND, "run", cwd=debugged(tmp_path)) as terminal,
    ):
        text = terminal.until(lambda text: "ready in" in text and "http://127.0.0.1" in text)
        answer = pool.submit(get, address(text) + "/debug")
        terminal.until(lambda text: "api waits for input at '(Pdb)': press i" in text)
        terminal.until(lambda text: "/debug  waits for the backend" in text)
        terminal.send("t\r")
        terminal.until(lambda text: "no answer yet" in text and "User-Agent: curl/8" in text)
        terminal.send("ti")
        terminal.until(lambda text: "keys go to api until Ctrl-]" in text)
        terminal.send("n\r")
        terminal.until(lambda text: "(Pdb) n" in text)
        terminal.send("c\r")
        terminal.until(lambda _: answer.done())
        assert answer.result().body == b"answered"
        terminal.send("\x1d")
        terminal.until(lambda text: "q quit" in text)
        terminal.send("tj\r")  # the request, among its details
        terminal.until(lambda text: "first byte" in text and "User-Agent: curl/8" in text)
        terminal.send("q")
        assert terminal.wait() == 0
        assert terminal.is_restored()


def test_the_screen_alone_says_what_has_crashed_and_restarts_it(tmp_path: Path) -> None:
    worker = "echo [bold]working[/bold]; test -e mended || { echo ValueError: no >&2; exit 3; }; sleep 1000"
    project(tmp_path, worker=worker)
    settings = tmp_path / "orchestra.toml"
    settings.write_text(settings.read_text() + '[process.worker]\nrestart = "never"\n')
    with Terminal(*COMMAND, "run", cwd=tmp_path) as terminal:
        terminal.until(lambda text: "▸✗ worker" in text)
        terminal.resize(80, 24)
        terminal.until(lambda text: "q quit" in text.split("\n")[23])
        terminal.send("\r")  # only the worker's log
        terminal.until(lambda text: "only worker" in text and "ValueError: no" in text)
        (tmp_path / "mended").touch()
        terminal.send("r")
        terminal.until(lambda text: "▸● worker" in text)
        terminal.send("q")
        assert terminal.wait() == 0


def test_ctrl_s_holds_up_the_terminal_and_nothing_else(tmp_path: Path) -> None:
    with Terminal(*COMMAND, "run", cwd=project(tmp_path)) as terminal:
        text = terminal.until(lambda text: text.count("ready") >= 2)
        terminal.send("\x13")
        for number in range(20):  # each is drawn, or would be
            assert get(f"{address(text)}/orchestra.toml?{number}").status == 200
        os.kill(terminal.pid, signal.SIGTERM)
        assert terminal.wait() == 143
        assert terminal.is_restored()


def test_a_terminal_that_accepts_nothing_is_given_back_when_it_does(tmp_path: Path) -> None:
    loud = "while :; do seq 1000; done"
    with Terminal(*COMMAND, "run", cwd=project(tmp_path, worker=loud), columns=300, lines=80) as terminal:
        terminal.until(lambda text: "worker" in text)
        terminal.end_while_it_accepts_nothing()


def test_an_exception_of_ours_restores_the_terminal_and_can_be_read(tmp_path: Path) -> None:
    script = (
        "import orchestra.interactive, orchestra.cli\n"
        "def perform(self, order): raise ZeroDivisionError('a bug')\n"
        "orchestra.interactive.Operator.perform = perform\n"
        "orchestra.cli.main()\n"
    )
    (tmp_path / "broken.py").write_text(script)
    env = {"TMPDIR": str(tmp_path)}
    with Terminal(sys.executable, "broken.py", "run", cwd=project(tmp_path), env=env) as terminal:
        terminal.until(lambda text: text.count("ready") >= 2)
        terminal.send("r")
        assert terminal.wait() == 1
        assert terminal.is_restored()
        assert "a bug in orchestra: ZeroDivisionError: a bug" in terminal.text.replace("\n", "")
