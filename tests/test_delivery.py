"""Nothing of what children write is lost, split, doubled or kept back, however slow its reader is."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests import loud
from tests.kit import COMMAND, PATIENCE, Run
from tests.process_kit import Mark, linux_only, until
from tests.terminal_kit import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

LOUD = f"{sys.executable} -S {Path(loud.__file__)}"
NAMES = ("a", "b", "c", "d")
LINES = 50_000
EXPECTED = {name: loud.digest(loud.lines(name, LINES)) for name in NAMES}


def write(folder: Path, settings: str = "", **processes: str) -> Path:
    (folder / "Procfile").write_text("".join(f"{name}: {command}\n" for name, command in processes.items()))
    (folder / "orchestra.toml").write_text(settings)
    return folder


class Plain:
    """`orchestra run --output plain` whose output is a pipe that we read as it pleases us."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.output = b""
        self.process = subprocess.Popen(
            [*COMMAND, "run", "--output", "plain", *arguments],
            cwd=folder,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.process.stdout is not None
        self._stdout = self.process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.read_all()
        self.process.communicate()

    def read(self) -> bytes:
        if not select.select([self._stdout], [], [], PATIENCE)[0]:
            pytest.fail(f"nothing more came: {self.output[-2000:]!r}")
        chunk = os.read(self._stdout.fileno(), 65536)
        self.output += chunk
        return chunk

    def until(self, text: bytes) -> None:
        while text not in self.output:
            assert self.read(), f"{text!r} never came: {self.output[-2000:]!r}"

    def read_all(self, pause: float = 0.0) -> int:
        """Read to the end, and return the exit code."""
        while self.read():
            time.sleep(pause)
        return self.process.wait(PATIENCE)

    def lines_of(self, name: str) -> list[str]:
        rows = (row.partition(" | ") for row in self.output.decode().split("\n"))
        return [text for margin, _, text in rows if margin.rstrip() == name]


def test_every_line_of_four_loud_processes_arrives_once_and_whole(tmp_path: Path) -> None:
    """Though the reader is slow: 64 KiB each 20 ms is less than four children can write."""
    settings = "".join(
        f'[process.{name}]\nlog_file = "{name}.log"\nlog_bytes = 100000000\n' for name in NAMES
    )
    write(tmp_path, settings, **{name: f"exec {LOUD} {name} {LINES}" for name in NAMES})
    with Plain(tmp_path) as plain:
        assert plain.read_all(0.02) == 0
        in_files = {
            name: loud.digest((tmp_path / f"{name}.log").read_text().removesuffix("\n").split("\n"))
            for name in NAMES
        }
        assert in_files == EXPECTED
        assert {name: loud.digest(plain.lines_of(name)) for name in NAMES} == EXPECTED


def test_every_line_of_four_loud_terminals_arrives_once_and_whole(tmp_path: Path) -> None:
    count = LINES // 10
    settings = "".join(f"[process.{name}]\npty = true\n" for name in NAMES)
    write(tmp_path, settings, **{name: f"exec {LOUD} {name} {count}" for name in NAMES})
    with Plain(tmp_path) as plain:
        assert plain.read_all() == 0
        assert {name: loud.digest(plain.lines_of(name)) for name in NAMES} == {
            name: loud.digest(loud.lines(name, count)) for name in NAMES
        }


def test_what_a_child_says_while_it_is_being_stopped_arrives(tmp_path: Path) -> None:
    # The shell's own complaint of its sleep that was terminated is not what this is about.
    farewell = (
        "exec 2>/dev/null; trap 'seq 1 3000; printf bye; exit 0' TERM; echo up; while :; do sleep 0.02; done"
    )
    write(tmp_path, a=farewell, b=farewell)
    with Plain(tmp_path) as plain:
        plain.until(b"a         | up\n")
        plain.until(b"b         | up\n")
        plain.process.terminate()
        assert plain.read_all() == 143
        expected = ["up", *map(str, range(1, 3001)), "bye"]
        assert (plain.lines_of("a"), plain.lines_of("b")) == (expected, expected)


@linux_only
def test_a_stalled_reader_cannot_delay_the_end_of_a_run(tmp_path: Path) -> None:
    """`orchestra run | less`, and then SIGTERM."""
    mark = Mark()
    settings = "".join(f"[process.{name}]\nstop_timeout = 0.3\n" for name in "ab")
    write(tmp_path, settings, a="exec seq 1 100000000", b="exec seq 1 100000000")
    with Plain(tmp_path, env=dict(mark.env)) as plain:
        plain.until(b"a         | 1\n")
        until(lambda: _is_blocked(mark), mark.living)
        plain.process.terminate()
        assert plain.process.wait(PATIENCE) == 143
        assert mark.living() == []


def _is_blocked(mark: Mark) -> bool:
    """Whether nothing runs any more: neither the children nor orchestra."""
    before = _computed(mark)
    time.sleep(0.3)  # whether a process computes can be seen over some time only
    return sum("seq" in line for line in before) == 2 and before == _computed(mark)


def _computed(mark: Mark) -> dict[str, list[str]]:
    """The processor time of all processes, by command line."""
    return {
        line: Path(f"/proc/{line.partition(':')[0]}/stat").read_text().rpartition(")")[2].split()[11:13]
        for line in mark.living()
    }


@pytest.mark.parametrize(
    ("code", "shown", "pty"),
    [
        pytest.param("print('x marks it')", "x marks it", "false", id="print-without-flush"),
        pytest.param("print('Name? ', end='')", "Name? ", "false", id="print-without-end"),
        pytest.param("print('Name? ', end='')", "Name? ", "true", id="in-a-terminal"),
    ],
)
def test_what_waits_without_a_line_end_is_visible_through_a_pipe(
    tmp_path: Path, code: str, shown: str, pty: str
) -> None:
    command = f'exec {sys.executable} -c "import time; {code}; time.sleep(1000)"'
    write(tmp_path, f"[process.web]\npty = {pty}\n", web=command)
    with Plain(tmp_path) as plain:
        plain.until(shown.encode())
        plain.process.terminate()
        assert plain.read_all() == 143


@pytest.mark.parametrize("output", ["plain", "dashboard"])
def test_what_waits_without_a_line_end_is_visible_on_a_terminal(tmp_path: Path, output: str) -> None:
    write(tmp_path, web="printf 'Password: '; sleep 1000")
    with Terminal(*COMMAND, "run", "--output", output, cwd=tmp_path) as terminal:
        terminal.until(lambda text: " Password:" in text and "web" in text)
        terminal.send("\x03")
        assert terminal.wait() == 130


def test_a_prompt_is_visible_though_its_sibling_is_being_read_from(tmp_path: Path) -> None:
    write(tmp_path, loud="while :; do echo line; sleep 0.01; done", quiet="printf 'Password: '; sleep 1000")
    with Plain(tmp_path) as plain:
        plain.until(b"Password: ")
        plain.process.terminate()
        assert plain.read_all() == 143


@pytest.fixture
def valves(tmp_path: Path) -> Callable[[str], None]:
    """Has children wait for us: the next ``w`` of a child returns when its name was called."""
    steps = dict.fromkeys("ab", 0)

    def open_valve(name: str) -> None:
        steps[name] += 1
        (tmp_path / f"{name}.{steps[name]}").touch()

    return open_valve


# Defines the command `w`.
WAITS = "n=0; w() { n=$((n+1)); while [ ! -e ${ORCHESTRA_PROCESS%.1}.$n ]; do sleep 0.02; done; }; "


def test_an_interrupted_partial_line_is_one_line_in_the_end(
    tmp_path: Path, valves: Callable[[str], None]
) -> None:
    write(
        tmp_path,
        a=f"{WAITS}printf 'Password: '; w; echo secret; w",
        b=f"{WAITS}w; echo hello; w",
    )
    with Plain(tmp_path) as plain:
        plain.until(b"Password: ")
        valves("b")
        plain.until(b"b         | hello\n")
        valves("a")
        plain.until(b"secret\n")
        valves("a")
        valves("b")
        assert plain.read_all() == 0
        assert plain.lines_of("a") == ["Password: secret"]
        assert plain.lines_of("b") == ["hello"]


def test_a_progress_line_is_replaced_in_place_in_the_dashboard(
    tmp_path: Path, valves: Callable[[str], None]
) -> None:
    progress = "".join(f"printf '{percent}%%\\r'; w; " for percent in (10, 20, 30))
    write(tmp_path, a=f"{WAITS}{progress} echo installed; w", b=f"{WAITS}w; echo hello; w")
    with Terminal(*COMMAND, "run", cwd=tmp_path) as terminal:
        terminal.until(lambda text: "10%" in text)
        valves("a")
        text = terminal.until(lambda text: "20%" in text)
        assert "10%" not in text
        valves("b")
        text = terminal.until(lambda text: "hello" in text and "20%" in text)
        assert text.count("20%") == 1
        assert text.index("hello") < text.index("20%")
        valves("a")
        text = terminal.until(lambda text: "30%" in text)
        assert "20%" not in text
        valves("a")
        text = terminal.until(lambda text: "installed" in text)
        assert "%" not in text.replace("mem %", "").replace("cpu %", "")
        terminal.send("\x03")
        assert terminal.wait() == 130


def test_a_line_of_ten_megabytes_and_the_next_arrive_whole(tmp_path: Path) -> None:
    write(
        tmp_path,
        '[process.a]\npty = true\nlog_file = "a.log"\n',
        a="head -c 10000000 /dev/zero | tr '\\0' x; echo; echo after",
    )
    with Run(cwd=tmp_path) as run:
        assert run.wait() == 0
        texts = [event["text"] for event in run.events if event["type"] == "process.output"]
        assert [len(text) for text in texts] == [10_000_000, 5]
        assert set(texts[0]) == {"x"}
        assert texts[1] == "after"
    size = sum(path.stat().st_size for path in tmp_path.glob("a.log*"))
    assert size == 10_000_007


def test_a_line_of_ten_megabytes_does_not_hurt_the_dashboard(tmp_path: Path) -> None:
    write(tmp_path, a="head -c 10000000 /dev/zero | tr '\\0' x; echo; echo after; sleep 1000")
    with Terminal(*COMMAND, "run", cwd=tmp_path) as terminal:
        terminal.until(lambda text: "after" in text)
        terminal.send("q")
        assert terminal.wait() == 0


def test_a_slow_reader_slows_the_children_down_and_not_the_end(tmp_path: Path) -> None:
    """What was written before SIGINT is delivered, and then the run ends with its own code."""
    write(tmp_path, a="echo first; exec seq 1 100000000")
    with Plain(tmp_path) as plain:
        plain.until(b"first\n")
        plain.process.send_signal(signal.SIGINT)
        assert plain.read_all(0.02) == 130
        numbers = [int(text) for text in plain.lines_of("a")[1:] if text]
        assert numbers[:-1] == list(range(1, len(numbers)))
        assert plain.output.decode().splitlines()[-1].startswith("orchestra | ended after")
