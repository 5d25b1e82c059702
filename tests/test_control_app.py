"""The control app behind its two doors, over real sockets in this process."""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec
import psutil
import pytest
import trio
import trio.testing

from orchestra import ProcessPlan
from orchestra.config import files
from orchestra.control import app as control_app, worker
from orchestra.control.app import MAX_READERS
from orchestra.control.local import Order
from orchestra.events import ErrorShown, Frame, OutputLine, ReloadSent, State, StateChanged
from tests.control_kit import OWN_PAGE, Answer, BrowserPage, ask, controlled, read_head, until

if TYPE_CHECKING:
    from orchestra.control.doors import Door
    from tests.control_kit import Stage

pytestmark = pytest.mark.real

EVIL = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
ON_EVERY_ANSWER = {"cross-origin-resource-policy": "same-origin", "x-content-type-options": "nosniff"}


# --- Every answer ---


async def test_every_answer_keeps_other_origins_out(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        for name in ("client.js", "state", "healthz", "readyz", "nope", "live", "open"):
            for headers in (OWN_PAGE, EVIL):
                answer = await stage.ask(name, headers=headers)
                assert answer.headers.items() >= ON_EVERY_ANSWER.items()
                assert not [each for each in answer.headers if each.startswith("access-control")]
                if answer.status != 200 or name != "client.js":
                    assert answer.headers["cache-control"] == "no-store"


async def test_the_script_is_static_and_not_sent_twice(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        script = await stage.ask("client.js")
        assert script.headers["content-type"] == "text/javascript; charset=utf-8"
        assert script.headers["cache-control"] == "no-cache"
        assert b"WebSocket" in script.body
        again = await stage.ask("client.js", headers=OWN_PAGE | {"If-None-Match": script.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        head = await stage.ask("client.js", "HEAD")
        assert int(head.headers["content-length"]) == len(script.body)


async def test_one_connection_serves_many_requests(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage, await stage.stream() as stream:
        for name in ("healthz", "nope", "state", "healthz"):
            assert (await ask(stream, name, headers=OWN_PAGE)).status == (404 if name == "nope" else 200)


# --- How the run is ---


async def test_state_tells_of_the_run(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        stage.state(State.READY, pid=7, port=5000, url="http://127.0.0.1:5000")
        stage.bus.emit(ErrorShown(process="worker", error_type="ValueError", message="no"))
        doors: tuple[Door, ...] = ("browser", "local")
        for door in doors:
            state = (await stage.ask("state", door=door)).json
            assert (state["url"], state["pid"]) == ("http://127.0.0.1:8000", os.getpid())
            assert state["procfile"] == str(tmp_path / "Procfile")
            assert [(each["process"], each["state"], each["port"]) for each in state["processes"]] == [
                ("api", "ready", 5000)
            ]
            assert [each["error_type"] for each in state["errors"]] == ["ValueError"]


@pytest.mark.parametrize(
    ("state", "ready", "is_up"),
    [
        (State.STARTING, "http", False),
        (State.RUNNING, None, True),
        (State.RUNNING, "http", False),
        (State.READY, "http", True),
        (State.COMPLETED, None, True),
        (State.FAILED, "http", False),
    ],
)
async def test_readyz_lists_what_is_not_ready(
    state: State, ready: str | None, tmp_path: Path, *, is_up: bool
) -> None:
    async with controlled(tmp_path, ProcessPlan(name="api", command="x", ready=ready)) as stage:
        stage.state(state, State.WAITING, reason="why")
        # The reason may be a line of output: it is for this machine.
        for headers, reason in ((OWN_PAGE, "why"), ({"Host": "x.ngrok-free.app"}, "")):
            answer = await stage.ask("readyz", headers=headers)
            missing = [] if is_up else [{"process": "api", "state": state.value, "reason": reason}]
            expected = 200 if is_up else 503, {"ready": is_up, "missing": missing}
            assert (answer.status, answer.json) == expected
        assert (await stage.ask("healthz", headers={})).status == 200


async def test_events_are_told_as_they_happen(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage, await stage.stream("local") as stream:
        await stream.send_all(b"GET /__orchestra__/events HTTP/1.1\r\nHost: x\r\n\r\n")
        answer, data = await read_head(stream)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        while b":\n\n" not in data:
            data += await stream.receive_some()
        stage.bus.emit(OutputLine(process="api", stream="stdout", text="\x1b[31mred\x1b[0m"))
        while b"data: " not in data or not data.endswith(b"\n\r\n"):
            data += await stream.receive_some()
        line = next(each for each in data.splitlines() if each.startswith(b"data: "))
        event = json.loads(line.removeprefix(b"data: "))
        assert (event["type"], event["process"], event["text"]) == ("process.output", "api", "red")


async def test_a_reader_that_has_left_makes_room_for_another(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        streams = [await stage.stream() for _ in range(MAX_READERS)]
        for stream in streams:
            assert (await ask(stream, "events", headers=OWN_PAGE)).status == 200
        assert (await stage.ask("events")).status == 503
        await streams[0].aclose()
        with trio.fail_after(20):
            while (await stage.ask("events")).status == 503:
                pass


# --- Pages ---


@pytest.mark.parametrize(
    ("order", "status"),
    [
        ({"do": "restart", "processes": ["api"]}, 200),
        ({"do": "stop", "processes": ["api", "db"]}, 200),
        ({"do": "signal", "processes": ["api"], "signal": 1}, 200),
        ({"do": "send", "processes": ["api"], "text": "c\n"}, 200),
        ({"do": "send", "processes": ["api"], "text": "refused"}, 409),
        ({"do": "down"}, 200),
        ({"do": "restart", "processes": ["nope"]}, 404),
        ({"do": "explode"}, 400),
        ({"do": "down", "more": 1}, 400),
        ("down", 400),
    ],
)
async def test_programs_of_this_user_give_orders(order: object, status: int, tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        for name in ("api", "db"):
            stage.states[name] = StateChanged(process=name, state=State.READY, previous=State.STARTING)
        body = json.dumps(order).encode()
        answer = await stage.ask("order", door="local", method="POST", body=body)
        assert answer.status == status
        assert (await stage.ask("order", method="POST", body=body, headers=OWN_PAGE)).status == 404
        assert stage.orders == ([msgspec.convert(order, Order)] if status == 200 else [])


@pytest.mark.ceiling(1000)
async def test_an_order_may_wait_for_a_pipe(
    clock_to_put_forward: trio.testing.MockClock, tmp_path: Path
) -> None:
    """It has files read again, and one of them may be the pipe of a password manager."""
    async with controlled(tmp_path) as stage, trio.open_nursery() as nursery:
        nursery.start_soon(pass_time, clock_to_put_forward, files._PIPE_TIMEOUT / 10)
        body = json.dumps({"do": "down", "text": f"after {files._PIPE_TIMEOUT + 1}"}).encode()
        assert (await stage.ask("order", door="local", method="POST", body=body)).status == 200
        nursery.cancel_scope.cancel()


async def test_a_run_that_nothing_shows_says_so(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        assert (await stage.ask("watch", door="local")).status == 404


async def test_a_page_is_greeted_and_reloaded_once(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        page = await stage.page()
        hello = await page.hear()
        assert hello is not None
        assert hello.items() >= {"type": "hello", "local": True, "overlay": True, "console": False}.items()
        await page.is_of("backend")
        await until(lambda: stage.control.tabs.swap_styles(["app.css"]))
        assert await page.hear() == {"type": "styles", "names": ["app.css"]}
        stage.state(State.STOPPING, State.READY)
        stage.state(State.READY, pid=2)
        assert await page.hear() == {"type": "reload", "reason": "api is ready"}
        assert [event.tabs for event in stage.recorder.of(ReloadSent)] == [1]
        assert await end(stage, page) == [{"type": "ended"}]
        assert page.close_code == 1001


async def test_a_page_elsewhere_gets_no_token_and_no_error(tmp_path: Path) -> None:
    elsewhere = {
        "Host": "192.168.1.5:8000",
        "X-Forwarded-For": "192.168.1.9",
        "Origin": "http://192.168.1.5:8000",
    }
    async with controlled(tmp_path) as stage:
        stage.bus.emit(ErrorShown(process="api", error_type="ValueError", message="no"))
        page = await stage.page(elsewhere)
        assert await page.hear() == {"type": "hello", "local": False}
        stage.state(State.READY)
        await page.is_of("backend", age=100_000.0)
        assert await page.hear() == {"type": "reload", "reason": "api is ready"}
        assert [message["type"] for message in await end(stage, page)] == ["ended"]


async def end(stage: Stage, page: BrowserPage) -> list[dict[str, object]]:
    """End the run; return what the page hears of it."""
    heard: list[dict[str, object]] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stage.control.close)
        heard += await page.hear_all()
    return heard


async def test_a_page_of_another_origin_opens_nothing(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage, await stage.stream() as stream:
        answer = await BrowserPage.open(stream, EVIL)
        assert isinstance(answer, Answer)
        assert answer.status == 403
        assert answer.headers.items() >= ON_EVERY_ANSWER.items()


@pytest.mark.parametrize("text", ["{", '{"type":"page","from":"x","age":1}', "[]"])
async def test_a_page_that_is_not_understood_is_closed(text: str, tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        page = await stage.page()
        await page.say(text)
        await page.hear_all()
        assert page.close_code == 1008


async def test_a_message_that_is_too_long_ends_the_page(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        page = await stage.page()
        await page.say("x" * 70_000)
        await page.hear_all()
        assert page.close_code == 1009


@pytest.mark.ceiling(10 * control_app.HEARTBEAT)
async def test_a_silent_page_is_pinged(clock_to_put_forward: trio.testing.MockClock, tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        page = await stage.page()
        await page.hear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_time, clock_to_put_forward, control_app.HEARTBEAT / 10)
            assert await page.hear() == {"type": "ping"}
            nursery.cancel_scope.cancel()


async def pass_time(clock: trio.testing.MockClock, seconds: float) -> None:
    while True:
        await trio.sleep(0.01)
        clock.jump(seconds)


@pytest.mark.ceiling(100 * worker.SEND_LIMIT)
async def test_a_page_that_does_not_read_is_given_up(
    clock_to_put_forward: trio.testing.MockClock, tmp_path: Path
) -> None:
    async with controlled(tmp_path) as stage:
        await stage.page()
        while stage.control.tabs.reload("x" * 50_000, trio.current_time(), everywhere=True):
            await trio.sleep(0.01)
            clock_to_put_forward.jump(worker.SEND_LIMIT / 10)


async def test_pages_that_leave_are_forgotten(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        pages = [await stage.page() for _ in range(3)]
        assert stage.control.tabs.reload("x", trio.current_time(), everywhere=True) == 3
        for page in pages:
            await page.stream.aclose()
        await until(lambda: not stage.control.tabs.reload("x", trio.current_time(), everywhere=True))


# --- Opening a file ---


def order(file: Path | str, line: int = 3, token: str = "") -> bytes:
    return json.dumps({"file": str(file), "line": line, "token": token}).encode()


async def token_of(stage: Stage) -> str:
    page = await stage.page()
    hello = await page.hear()
    assert hello is not None
    await page.stream.aclose()
    return str(hello["token"])


def editor(folder: Path) -> str:
    """A command that writes down what it is to open."""
    script = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"
    return f'{sys.executable} -c "{script}" "{folder}/opened" {{file}}:{{line}}'


async def test_a_file_that_an_error_has_named_is_opened(tmp_path: Path) -> None:
    app, lib, opened = tmp_path / "my app.py", tmp_path / "lib.py", tmp_path / "opened"
    app.write_text("x = (")
    lib.write_text("y = 1")
    async with controlled(tmp_path, editor=editor(tmp_path)) as stage:
        frame = Frame(str(lib), 7)
        stage.bus.emit(
            ErrorShown(process="api", error_type="E", message="", file=str(app), line=3, frames=(frame,))
        )
        token = await token_of(stage)
        for file, line in ((app, 3), (lib, 7)):
            answer = await stage.ask("open", "POST", body=order(file, line, token))
            assert (answer.status, answer.body) == (204, b"")
            await until(lambda: opened.exists() and opened.read_text())
            assert opened.read_text() == f"{file}:{line}"
            opened.unlink()
        in_header = OWN_PAGE | {"X-Orchestra-Token": token}
        assert (await stage.ask("open", "POST", headers=in_header, body=order(app))).status == 204
        assert (await stage.ask("open", "POST", door="local", headers={}, body=order(app))).status == 204
        await until(lambda: not psutil.Process().children())


async def test_nothing_else_is_opened(tmp_path: Path) -> None:
    project, outside = tmp_path / "project", tmp_path / "secret.py"
    project.mkdir()
    outside.write_text("")
    app, link, folder = project / "app.py", project / "link.py", project / "folder"
    app.write_text("x = (")
    link.symlink_to(outside)
    folder.mkdir()
    gone = project / "gone.py"
    async with controlled(project, editor=editor(tmp_path)) as stage:
        for file in (app, link, folder, gone, outside, project / ".." / "secret.py", "app.py"):
            stage.bus.emit(ErrorShown(process="api", error_type="E", message="", file=str(file), line=3))
        token = await token_of(stage)

        async def status(body: bytes, headers: dict[str, str] = OWN_PAGE) -> int:
            return (await stage.ask("open", "POST", headers=headers, body=body)).status

        assert await status(order(app, token="wrong")) == 403
        assert await status(order(app)) == 403
        assert await status(order(app, token=token), EVIL) == 403
        assert await status(order(app, token=token), {}) == 403
        assert await status(order(app, 4, token)) == 403
        assert await status(order(project / "other.py", 3, token)) == 403
        for file in (link, folder, outside, project / ".." / "secret.py"):
            assert await status(order(file, 3, token)) == 403
        assert await status(order(gone, 3, token)) == 404
        assert await status(order("app.py", 3, token)) in (403, 404)
        assert await status(b"{") == await status(b"[]") == await status(b'{"file": "\xff"}') == 400
        assert await status(b"x" * 20_000) == 413
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("auto", "ORCHESTRA_EDITOR"),
        ("no-such-editor {file}", "no-such-editor"),
        ('code "{file}', "No closing quotation"),
    ],
)
async def test_without_an_editor_the_next_step_is_said(setting: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text("")
    async with controlled(tmp_path, editor=setting, environ=[("PATH", str(tmp_path))]) as stage:
        stage.bus.emit(ErrorShown(process="api", error_type="E", message="", file=str(file), line=3))
        answer = await stage.ask("open", "POST", body=order(file, token=await token_of(stage)))
        assert answer.status == 501
        assert said in answer.body.decode()
        assert "[reload] editor" in answer.body.decode()


async def test_an_editor_that_fails_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text("")
    async with controlled(tmp_path, editor="/bin/sh -c 'exit 3'") as stage:
        stage.bus.emit(ErrorShown(process="api", error_type="E", message="", file=str(file), line=3))
        await stage.ask("open", "POST", body=order(file, token=await token_of(stage)))
        assert "exit code 3" in (await stage.recorder.until_notice("editor-failed")).text


# --- The local door ---


async def test_the_socket_is_for_this_user_and_goes_with_the_run(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        path = stage.control.path
        assert path == tmp_path / "orchestra" / f"{os.getpid()}.sock"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert (await stage.ask("state", door="local", headers={})).status == 200
    assert not path.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be another user")
async def test_a_program_of_another_user_is_turned_away() -> None:
    with TemporaryDirectory() as folder:
        # Nothing but its user keeps it out.
        Path(folder).chmod(0o755)
        async with controlled(Path(folder)) as stage:
            path = stage.control.path
            assert path is not None
            path.chmod(0o666)
            path.parent.chmod(0o755)
            assert await answer_to_another_user(stage) == b""


async def answer_to_another_user(stage: Stage) -> bytes:
    os.seteuid(65534)
    try:
        stream = await stage.stream("local")
    finally:
        os.seteuid(0)
    with suppress(trio.BrokenResourceError):
        await stream.send_all(b"GET /__orchestra__/state HTTP/1.1\r\nHost: x\r\n\r\n")
        return bytes(await stream.receive_some())
    return b""


async def test_a_run_without_a_socket_goes_on(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    async with controlled(tmp_path, environ=[("XDG_RUNTIME_DIR", str(long)), ("TMPDIR", str(long))]) as stage:
        assert stage.recorder.notices() == ["no-control-socket"]
        assert (await stage.ask("healthz")).status == 200


async def test_the_browsers_door_closes_with_the_run(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        idle, events = await stage.stream(), await stage.stream("local")
        await ask(events, "events")
        page = await stage.page()
        stage.scope.cancel()
        for stream in (idle, events, page.stream):
            while await stream.receive_some():
                pass
        with pytest.raises(ConnectionRefusedError):
            stage.control.connect()


@pytest.mark.ceiling(worker.SEND_LIMIT / 2)
async def test_a_reader_that_does_not_read_delays_no_end(tmp_path: Path) -> None:
    async with controlled(tmp_path) as stage:
        stream = await stage.stream("local")
        await ask(stream, "events")
        for _ in range(200):
            stage.bus.emit(OutputLine(process="api", stream="stdout", text="x" * 10_000))
        await trio.sleep(0.1)


async def test_a_send_while_the_connection_is_ended_is_no_bug() -> None:
    """Hypercorn ends a connection whose request has not come to its end, and sends the rest meanwhile."""
    ours, theirs = socket.socketpair()
    stream = worker._Stream(ours)
    with theirs, stream.socket, trio.fail_after(worker.SEND_LIMIT / 2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(10_000_000))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BrokenResourceError):
                await stream.send_all(b"more")
            nursery.cancel_scope.cancel()
