"""The program that serves an application: which one is found, and what is said if there is none."""

from __future__ import annotations

import http.client
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.child import application
from orchestra.child.application import is_target, kind_of, never_empty
from tests.asgi_kit import served
from tests.kit import PATIENCE, called, free_port, get

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLACE = "orchestra.toml: process.api.app"
# What a project may have, good and bad.
NOTES = """
class App:
    def __call__(self, environ, start_response): ...


application = App()
number = 3


def create():
    return App()


def broken():
    return 1 / 0
"""


@pytest.mark.parametrize("text", ["myapp", "myapp:", ":app", "../myapp:app", "my..app:app"])
def test_what_names_no_application_is_none(text: str) -> None:
    assert not is_target(text)
    assert is_target("my.app:make.app()")


def said(folder: Path, target: str, *, python: str = sys.executable) -> str:
    """Have it serve an application that is none; give what it says."""
    bind = f"127.0.0.1:{free_port()}"
    done = called(python, application.__file__, PLACE, "--bind", bind, target, cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.replace(f"{folder}/", "").replace(str(folder), "here")


def wsgi(_environ: object, _start_response: object) -> None: ...


def wsgi_or_more(*_args: object) -> None: ...


async def asgi(_scope: object, _receive: object, _send: object) -> None: ...


def asgi_behind_a_function(_scope: object, _receive: object, _send: object) -> None: ...


class Asgi:
    async def __call__(self, scope: object, receive: object, send: object) -> None: ...


async def a_coroutine_function() -> None: ...


@pytest.mark.parametrize(
    ("each", "kind"),
    [
        (wsgi, "wsgi"),
        (wsgi_or_more, "wsgi"),
        (asgi, "asgi"),
        (asgi_behind_a_function, "asgi"),
        (Asgi(), "asgi"),
        (Asgi, None),
        (a_coroutine_function, None),
        (lambda: None, None),
        (3, None),
    ],
)
def test_an_application_is_known_by_its_arguments(each: Any, kind: str | None) -> None:
    assert kind_of(each) == kind


def test_an_empty_answer_has_a_chunk_and_is_closed() -> None:
    """Hypercorn sends the head of an answer with its first chunk: without one, HEAD and 304 became 500."""
    closed = []

    class Body(list[bytes]):
        def close(self) -> None:
            closed.append(self)

    def ask(*chunks: bytes) -> Iterator[bytes]:
        return never_empty(lambda _environ, _start_response: Body(chunks))({}, lambda: None)

    assert list(ask()) == [b""]
    assert list(ask(b"a", b"b")) == [b"a", b"b"]
    assert len(closed) == 2


@pytest.mark.real
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("note:app", "there is no module note in here or src: correct it, or start elsewhere"),
        ("notes.py:app", 'there is no module notes.py in here or src: write "notes:app"'),
        (
            "notes.app:app",
            "there is no module notes.app in here or src: correct it, or start elsewhere",
        ),
        ("notes:app", 'there is no app in src/notes.py: did you mean "notes:application"?'),
        ("notes:application.app", "there is no app in src/notes.py: correct it"),
        (
            "notes:number",
            "notes:number (int) is neither an ASGI nor a WSGI application: name the application itself",
        ),
        (
            "notes:create",
            'notes:create (function) is neither an ASGI nor a WSGI application: write "notes:create()"',
        ),
        (
            "notes:application()",
            'notes:application (App) does not make an application: write "notes:application"',
        ),
        (
            "notes:number()",
            "notes:number (int) does not make an application: name a function without arguments",
        ),
    ],
)
def test_no_application_is_one_line_and_a_next_step(tmp_path: Path, target: str, message: str) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "notes.py").write_text(NOTES)
    assert said(tmp_path, target) == f"{PLACE}: {message}\n"


@pytest.mark.real
@pytest.mark.parametrize(
    ("target", "text", "last"),
    [
        ("wrong:app", "import nowhere\n", "ModuleNotFoundError: No module named 'nowhere'"),
        ("wrong:app", "def (\n", "SyntaxError: invalid syntax"),
        ("wrong:broken()", NOTES, "ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_program_is_told_by_python(tmp_path: Path, target: str, text: str, last: str) -> None:
    (tmp_path / "wrong.py").write_text(text)
    first, frame, *_, end = said(tmp_path, target).splitlines()
    assert first == "Traceback (most recent call last):"
    assert frame.startswith('  File "wrong.py", line ')
    assert end == last


# From Python 3.12.1 on, a server that was closed is waited for while it has a connection.
STREAM = """
import asyncio


async def wait_closed(server):
    await asyncio.sleep(1000)


asyncio.Server.wait_closed = wait_closed


async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while scope["path"] == "/endless":
            await send({"type": "http.response.body", "body": b"more\\n", "more_body": True})
            await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b""})
"""


@pytest.mark.real
def test_an_answer_without_an_end_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(STREAM)
    port = free_port()
    command = [sys.executable, application.__file__, PLACE, "--bind", f"127.0.0.1:{port}", "endless:app"]
    with served(command, port, cwd=tmp_path) as process:
        get(f"http://127.0.0.1:{port}/%0Abegins")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        connection.request("GET", "/endless")
        answer = connection.getresponse()
        assert answer.readline() == b"more\n"
        process.terminate()
        assert process.wait(PATIENCE) == 0
        connection.close()
        assert process.stdout is not None
        assert "GET /%0Abegins" in process.stdout.read()  # no line of its own


@pytest.mark.real
def test_a_python_without_hypercorn_is_told_how_to_get_it(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    command = "uv pip install --python venv/bin/python hypercorn"
    text = f"Hypercorn is not installed for venv/bin/python: run `{command}`"
    assert said(tmp_path, "notes:app", python=python) == f"{PLACE}: {text}\n"
