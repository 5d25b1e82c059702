"""What is recorded of a run shows it again, to the last cell."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, get_args

import pytest
import trio
from msgspec.structs import replace

from orchestra import Plan, ProcessPlan, ProxyPlan, Role, Supervisor
from orchestra.config.plan import FromProcess
from orchestra.dashboard.model import Model
from orchestra.dashboard.runlog import RECORDED, events_of, recording
from orchestra.errors import ConfigError
from orchestra.events import Event, OutputLine, RequestHeads, encode, encode_lines
from orchestra.showing import Player
from tests.dashboard_kit import REQUEST, STARTED, line, picture
from tests.events_kit import moment
from tests.kit import COMMAND, free_port, get
from tests.terminal_kit import Terminal

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.real
async def test_a_recording_replays_to_the_same_final_screen(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    script = "printf '\\033[31mred\\033[0m\\n日本\\n'; printf 'Name? '; exec sleep 1000"
    web = ProcessPlan(
        name="web",
        command=f"exec {sys.executable} -m http.server $PORT",
        port=free_port(),
        ready="http",
        role=Role.BACKEND,
    )
    plan = Plan(
        proxy=ProxyPlan(port=0, backend=FromProcess(name="web"), frontend=None),
        processes=(
            web,
            ProcessPlan(name="asks", command=script),
            ProcessPlan(name="ends", command="exit 0"),
        ),
    )
    live, log = Model(), recording(str(path))
    supervisor = Supervisor(plan, sinks=log.sinks)
    log.follow(supervisor.subscribe)
    supervisor.subscribe(live.apply, *get_args(Event))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.run)
        async with trio.open_nursery() as running:
            await running.start(supervisor.run)
            await supervisor.wait_ready()
            for target in ("/", "/nothing"):
                await trio.to_thread.run_sync(get, f"{supervisor.url}{target}")
            while not live.asking():  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.01)
            await supervisor.stop()
        await log.aclose()
        nursery.cancel_scope.cancel()
    again = Model()
    player = Player(again, speed=float("inf"))
    await player.play(events_of(str(path)))
    assert live.started is not None
    for size in ((80, 24), (160, 50)):
        now = live.started.at + 10
        expected = picture(live, now=now, width=size[0], height=size[1])
        assert picture(again, now=now, width=size[0], height=size[1]) == expected
        assert any("asks      │ Name?" in row for row in expected)
        assert any("404 GET" in row and "/nothing" in row for row in expected)
    (red,) = [
        event for event in events_of(str(path)) if isinstance(event, OutputLine) and "red" in event.text
    ]
    assert red.text == "\x1b[31mred\x1b[0m"
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_recording_is_played_at_its_own_speed_or_another(autojump_clock: object) -> None:
    events: list[Event] = [STARTED, line("a"), REQUEST]  # at 0, 1 and 2 s
    for speed, seconds in ((1.0, 2.0), (4.0, 0.5), (float("inf"), 0.0)):
        model = Model()
        player = Player(model, speed=speed)
        before = trio.current_time()
        await player.play(events)
        assert trio.current_time() - before == seconds
        assert player.now() == REQUEST.at
        assert model.requests.count == 1


def test_heads_with_their_cookies_are_not_recorded() -> None:
    assert RequestHeads not in RECORDED


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", ""),
        ("nonsense\n", "FILE:1: this is no recording: JSON is malformed"),
        ('{"a":1}\n', "FILE:1: this is no recording: Object missing required field `type`"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "x"
    path.write_text(text)
    if not complaint:
        assert list(events_of(str(path))) == []
        return
    with pytest.raises(ConfigError) as caught:
        list(events_of(str(path)))
    assert str(caught.value).replace(str(path), "FILE").startswith(complaint)


def test_later_events_and_a_line_that_was_cut_off_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "x"
    later = b'{"type":"moon.landed","v":1}'
    path.write_bytes(b"\n".join([encode(STARTED), later, encode(line("a")), encode(line("b"))[:20]]))
    assert list(events_of(str(path))) == [STARTED, line("a")]


def test_a_recording_that_cannot_be_written_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the recording cannot be written"):
        recording(str(tmp_path / "no" / "where"))


def test_only_a_recording_is_replaced(tmp_path: Path) -> None:
    """A wrong name, such as that of the Procfile, costs no file; a device is not removed."""
    path = tmp_path / "x"
    for text in ("web: python app.py\n", "{}"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="x: this is no recording, and was not touched"):
            recording(str(path))
        assert path.read_text() == text
    for data in (b"", encode(STARTED) + b"\n"):
        path.write_bytes(data)
        recording(str(path))
        assert path.read_bytes() == b""
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ConfigError, match="not touched"):
        recording(str(path))
    assert path.is_fifo()


@pytest.mark.real
def test_a_terminal_that_accepts_nothing_is_given_back_when_it_does(tmp_path: Path) -> None:
    lines = (replace(line(f"{number} " * 500), time=moment(number / 100)) for number in range(10_000))
    (tmp_path / "run.jsonl").write_bytes(encode_lines([STARTED, *lines]))
    with Terminal(*COMMAND, "replay", "run.jsonl", cwd=tmp_path, columns=300, lines=80) as terminal:
        terminal.until(lambda text: "vite" in text)
        terminal.end_while_it_accepts_nothing()


@pytest.mark.real
def test_a_run_is_recorded_and_shown_again(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("a: echo hello; exit 3\n")
    (tmp_path / "orchestra.toml").write_text('[process.a]\nrestart = "never"\n')
    with Terminal(*COMMAND, "run", "--output", "plain", "--record", "run.jsonl", cwd=tmp_path) as terminal:
        assert terminal.wait() == 3
    with Terminal(*COMMAND, "replay", "--speed", "inf", "run.jsonl", cwd=tmp_path) as terminal:
        terminal.until(lambda text: "a         │ hello" in text and "the recording ends here" in text)
        terminal.send("r")
        terminal.until(lambda text: "this is a recording: nothing runs" in text)
        terminal.send("q")
        assert terminal.wait() == 0
        assert terminal.is_restored()
        assert "a  failed  exit code 3" in terminal.text
    with Terminal(*COMMAND, "replay", "run.jsonl", cwd=tmp_path) as terminal:
        terminal.send("q")  # typed ahead: it is read before the first picture is drawn
        assert terminal.wait() == 0
