"""The command line from outside: exit codes, what is said, and that nothing is left."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestra import cli
from orchestra.version import __version__
from tests.kit import COMMAND, PATIENCE, Run, called, free_port, marked, orchestra
from tests.process_kit import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]


def write(folder: Path, procfile: str, **files: str) -> Path:
    (folder / "Procfile").write_text(procfile)
    for name, text in files.items():
        (folder / name.replace("__", "/").replace("_", ".")).write_text(text)
    return folder


# What each kind of wrong input is told is in test_wrong_input.py; these show that the real command says it.
@pytest.mark.parametrize(
    ("procfile", "arguments", "said"),
    [
        (None, ["run"], r"Procfile"),
        ("web: true\nthis is no entry\n", ["run"], r"Procfile:2"),
        ("web: true\n", ["run", "--output", "dashboard"], r"terminal"),
        ("web: true\n", ["rnu"], r"^error: .*rnu.* hint: orchestra --help"),
    ],
)
def test_wrong_input_is_said_in_one_line_and_exits_with_2(
    tmp_path: Path, procfile: str | None, arguments: list[str], said: str
) -> None:
    if procfile is not None:
        write(tmp_path, procfile)
    code, out, err = orchestra(*arguments, cwd=tmp_path)
    assert (code, out) == (2, "")
    assert re.search(said, err.replace("\n", " "), re.IGNORECASE), err
    assert "Traceback" not in err
    assert len(err.splitlines()) <= 5


def test_the_help_says_of_each_command_what_it_does(tmp_path: Path) -> None:
    code, out, _ = orchestra("--help", cwd=tmp_path, env={"COLUMNS": "80"})
    assert code == 0
    assert [line for line in out.splitlines() if line.endswith("...") and not line.startswith("Usage")] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--no-such-option"], r"^error: .*no-such-option.* hint: orchestra run --help"),
        (["run", "-p", "70000"], r"^error: .*base-port.*70000"),
        (["run", "--output", "loud"], r"^error: .*output.*loud.*json"),
        (["replay", "--speed", "nan", "x"], r"^error: .*--speed.*nan.* hint: orchestra replay --help"),
    ],
)
def test_wrong_use_is_said_in_one_line(
    arguments: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["orchestra", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert re.search(said, err.replace("\n", " "), re.IGNORECASE), err


@pytest.mark.parametrize("name", ["run", "ps", "exec -- true", "serve app:app"])
def test_a_folder_that_was_deleted_meanwhile_is_said(tmp_path: Path, name: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    command = f"rmdir {gone} && exec {sys.executable} -P -m orchestra {name}"
    done = called("/bin/sh", "-c", command, cwd=gone)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: the current folder does not exist any more\n")


@pytest.mark.parametrize("command", ["check", "init"])
def test_output_that_cannot_be_written_is_said(tmp_path: Path, command: str) -> None:
    (tmp_path / "manage.py").write_text("import django.core.management\n")
    if command == "check":
        write(tmp_path, "a: sleep 1\n")
    reader, closed = os.pipe()
    os.close(reader)
    outputs = [(closed, 141, "")]
    if Path("/dev/full").exists():
        outputs.append((os.open("/dev/full", os.O_WRONLY), 2, "No space left"))
    for output, code, said in outputs:
        done = subprocess.run(
            [*COMMAND, command], cwd=tmp_path, stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(output)
        assert done.returncode == code
        assert said in done.stderr
        assert "bug" not in done.stderr
    assert not (tmp_path / "Procfile.dev").exists()


def test_it_is_said_which_process_is_frontend_and_backend_and_why(tmp_path: Path) -> None:
    server = f"exec {sys.executable} -u -m http.server --bind 127.0.0.1 $PORT"
    write(tmp_path, f"ui: {server}\nmail: {server}\nother: sleep 1000\n")
    (tmp_path / "orchestra.toml").write_text('[proxy]\nfrontend = "ui"\n')
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path) as run:
        said = run.until(lambda event: event["type"] == "notice" and event["code"] == "plan")["text"]
        assert said == (
            "backend: not known yet, mail or other (the first that answers HTTP);"
            " frontend: ui (set by proxy.frontend)"
        )
        found = run.until(lambda event: event["type"] == "notice" and event["code"] == "backend-found")
        assert found["text"] == "the backend is mail: it answers HTTP"


def test_a_child_that_wants_our_port_gets_a_hint(tmp_path: Path) -> None:
    port = free_port()
    server = f"exec {sys.executable} -u -m http.server --bind 127.0.0.1"
    wants = f"echo 'error: [Errno 98] address already in use: 127.0.0.1:{port}'; exit 1"
    write(tmp_path, f"ui: {server} $PORT\napi: {wants}\n")
    (tmp_path / "orchestra.toml").write_text('[proxy]\nfrontend = "ui"\n')
    with Run("--listen", str(port), cwd=tmp_path) as run:
        notice = run.until(lambda event: event["type"] == "notice" and event["code"] == "port-clash")
        assert (notice["process"], notice["text"]) == (
            "api",
            f"it wants port {port}, which is orchestra's own",
        )
        assert "$PORT" in notice["hint"]


def test_with_a_taken_port_nothing_is_started_and_its_holder_named(tmp_path: Path) -> None:
    write(tmp_path, "frontend: touch started-a; sleep 100\napi: touch started-b; sleep 100\n")
    (tmp_path / "orchestra.toml").write_text('[proxy]\nbackend = "api"\nfrontend = "frontend"\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = orchestra("run", "--listen", f"127.0.0.1:{port}", cwd=tmp_path)
    assert (code, out) == (2, "")
    assert f"port {port} is taken by pid {os.getpid()} (" in err
    assert "--listen" in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("started*"))


def test_a_missing_node_is_an_error_that_says_what_to_install(tmp_path: Path) -> None:
    write(tmp_path, "web: npm run dev\n", package_json='{"scripts": {"dev": "vite"}}')
    (tmp_path / "bin").mkdir()
    code, out, err = orchestra("run", cwd=tmp_path, env={"PATH": str(tmp_path / "bin")})
    assert (code, out) == (2, "")
    assert "Procfile:1" in err
    assert "web" in err
    assert "Node" in err
    assert "Traceback" not in err


def test_all_completed_is_success(tmp_path: Path) -> None:
    write(tmp_path, "one: echo first\ntwo: echo second\n")
    code, out, err = orchestra("run", cwd=tmp_path)
    assert (code, err) == (0, "")
    assert re.search(r"^one +\| first$", out, re.MULTILINE)
    assert re.search(r"^two +\| second$", out, re.MULTILINE)


def test_a_run_ends_with_the_code_of_its_first_failure(tmp_path: Path) -> None:
    write(tmp_path, "bad: kill -9 $$\ngood: true\n")
    (tmp_path / "orchestra.toml").write_text('[process.bad]\nrestart = "never"\n')
    code, _out, err = orchestra("run", cwd=tmp_path)
    assert (code, err) == (137, "")


def test_a_run_may_end_with_one_process(tmp_path: Path) -> None:
    write(tmp_path, "quick: true\nbad: exit 7\nforever: sleep 1000\n")
    (tmp_path / "orchestra.toml").write_text(
        '[process.bad]\nrestart = "never"\ndepends_on = ["quick:completed"]\n'
    )
    code, out, err = orchestra("run", "--exit-on", "bad", cwd=tmp_path)
    assert (code, err) == (7, "")
    assert "forever stopped" in out


def test_only_the_processes_that_are_named_are_run(tmp_path: Path) -> None:
    write(tmp_path, "one: echo first\ntwo: echo second\nthree: echo third\n")
    _code, out, _err = orchestra("run", "two", cwd=tmp_path)
    assert "| second" in out
    assert "| first" not in out
    _code, out, _err = orchestra("run", "-x", "two", cwd=tmp_path)
    assert "second" not in out
    assert "third" in out


def test_children_see_the_env_file_and_their_port(tmp_path: Path) -> None:
    write(tmp_path, "one: echo $GREETING $PORT\ntwo: echo $PORT\n", _env="GREETING='hello world'\n")
    code, out, _err = orchestra("run", "-p", "7400", cwd=tmp_path)
    assert code == 0
    assert re.search(r"^one +\| hello world 7400$", out, re.MULTILINE)
    assert re.search(r"^two +\| 7500$", out, re.MULTILINE)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signals_stop_everything_and_beat_the_children_s_codes(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    write(tmp_path, "a: sleep 1000 & echo up; wait\nb: sh -c 'sleep 1000 & echo up; wait'; true\n")
    with Run(cwd=tmp_path) as run:
        run.line("a", "up")
        run.line("b", "up")
        run_id = run.run_id
        until(lambda: len(marked(run_id)) >= 5, run.__repr__)
        assert run.stop(number) == code
        assert marked(run_id) == []
        assert run.events[-1]["exit_code"] == code


def test_a_second_ctrl_c_kills_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a: trap '' TERM; echo up; while :; do sleep 1; done\n")
    (tmp_path / "orchestra.toml").write_text("[process.a]\nstop_timeout = 1000\n")
    with Run(cwd=tmp_path) as run:
        run.line("a", "up")
        run_id = run.run_id
        run.process.send_signal(signal.SIGINT)
        run.state("a", "stopping")
        assert run.stop(signal.SIGINT) == 130
        assert marked(run_id) == []


def test_an_ignored_sigint_stays_ignored_but_not_for_children(tmp_path: Path) -> None:
    script = "trap '' INT; exec \"$@\""
    write(tmp_path, "a: kill -INT $PPID; kill -INT $$; echo never\n")
    (tmp_path / "orchestra.toml").write_text('[process.a]\nrestart = "never"\n')
    done = called("/bin/sh", "-c", script, "sh", *COMMAND, "run", cwd=tmp_path)
    assert done.returncode == 130  # the child's: it died by SIGINT
    assert "never" not in done.stdout


@contextmanager
def read_until(text: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A run whose reader closes its output when it has read a line with some text."""
    with subprocess.Popen(
        [*COMMAND, "run", "--output", "plain"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        while text not in process.stdout.readline():
            pass
        process.stdout.close()
        yield process


def errors_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    return process.stderr.read()


def test_a_reader_that_goes_away_ends_the_run_with_141(tmp_path: Path) -> None:
    write(tmp_path, "a: seq 1 100000000\n")
    with read_until("", tmp_path) as process:
        assert process.wait(PATIENCE) == 141
        assert "Traceback" not in errors_of(process)


def test_a_silent_run_notices_that_its_reader_has_closed(tmp_path: Path) -> None:
    write(tmp_path, "a: sleep 1000\n")
    with read_until("a runs", tmp_path) as process:
        assert process.wait(PATIENCE) == 141


def test_standard_streams_that_are_closed_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, "a: echo up > up; exit 3\n")
    (tmp_path / "orchestra.toml").write_text('[process.a]\nrestart = "never"\n')
    command = f"exec {sys.executable} -m orchestra run --output plain <&- >&- 2>&-"
    done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, timeout=PATIENCE, check=False)
    assert (done.returncode, (tmp_path / "up").read_text()) == (3, "up\n")


def test_commands_need_no_standard_streams(tmp_path: Path) -> None:
    write(tmp_path, "a: sleep 1000\n")
    for words, code in (("check", 0), ("check nothing", 2)):
        command = f"exec {sys.executable} -m orchestra {words} <&- >&- 2>&-"
        done = subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, timeout=PATIENCE, check=False)
        assert done.returncode == code, words


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("only Linux has a disk that is always full")
    write(tmp_path, "a: sleep 1000\n")
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, "run", "--output", "plain"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: standard output cannot be written to, and is not complete: No space left"
    )


def test_two_upstreams_elsewhere_need_no_process_for_them(tmp_path: Path) -> None:
    port = free_port()
    write(tmp_path, "other: sleep 1000\n")
    (tmp_path / "orchestra.toml").write_text(
        f'[proxy]\nbackend = "http://127.0.0.1:{port}"\nfrontend = "http://127.0.0.1:{port}"\n'
    )
    server = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]
    with (
        subprocess.Popen(
            server, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        ) as elsewhere,
        Run("--listen", "127.0.0.1:0", cwd=tmp_path) as run,
    ):
        from tests.kit import get

        while not _listens(port):
            assert elsewhere.poll() is None
        answer = get(run.url + "/Procfile")
        assert (answer.status, answer.upstream) == (200, "backend")
        elsewhere.terminate()
        assert run.stop() == 130


def _listens(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def test_there_is_no_proxy_where_nothing_can_be_served(tmp_path: Path) -> None:
    write(tmp_path, "one: echo up; sleep 1000\n", orchestra_toml='process.one.ready = "log: up"')
    with Run(cwd=tmp_path) as run:
        run.line("one", "up")
        assert run.events[0]["url"] is None
        texts = [event["text"] for event in run.events if event["type"] == "notice"]
        assert texts == ["no proxy: neither a backend nor a frontend was found"]
        assert run.stop() == 130


def test_the_browser_opens_the_address_when_all_are_ready(tmp_path: Path) -> None:
    for name in ("xdg-open", "open"):
        (tmp_path / name).write_text('#!/bin/sh\ncurl -s "$@"\n')
        (tmp_path / name).chmod(0o755)
    server = f"sleep 1; exec {sys.executable} -u -m http.server --bind 127.0.0.1 $PORT"
    write(tmp_path, f"api: {server}\n", orchestra_toml="[proxy]\nhold = 0\n")
    path = f"{tmp_path}:{os.environ['PATH']}"
    with Run("--open", "--listen", "127.0.0.1:0", cwd=tmp_path, env={"PATH": path}) as run:
        asked = run.until(lambda event: event["type"] == "request.finished")
        assert (asked["target"], asked["status"]) == ("/", 200)
        assert run.stop() == 130


def test_a_run_without_an_address_cannot_be_opened(tmp_path: Path) -> None:
    write(tmp_path, "one: echo up\n")
    code, _out, err = orchestra("run", "--open", "--no-proxy", cwd=tmp_path)
    assert (code, err.startswith("error: this run has no address")) == (2, True)


def test_the_version_is_shown() -> None:
    code, out, _err = orchestra("--version", cwd=Path())
    assert (code, out) == (0, f"orchestra {__version__}\n")


def test_ctrl_c_for_a_whole_pipeline_is_told_as_such(tmp_path: Path) -> None:
    """The reader dies by it as well, at the same time; that is not why we end."""
    write(tmp_path, "a: trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.01; done\n")
    with read_until("| up", tmp_path) as process:
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 130
        assert errors_of(process) == ""
