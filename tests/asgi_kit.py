"""ASGI applications: asked in memory, and served by the servers that they have to run under."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import anyio
import psutil

from tests.kit import PATIENCE, Answer, free_port, get

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestra.control.doors import App, Message, Scope

SERVERS = ("uvicorn", "hypercorn-asyncio", "hypercorn-trio")


def scope_of(target: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Scope:
    path, _, query = target.partition("?")
    fields = {"host": "localhost:8000", **{name.lower(): value for name, value in (headers or {}).items()}}
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }


async def ask(
    app: App,
    target: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    pieces: Sequence[bytes] = (b"",),
) -> Answer:
    """Ask an application; `pieces` are the body."""
    left = list(pieces)
    sent: list[Message] = []

    async def receive() -> Message:
        if not left:
            await anyio.sleep_forever()
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Message) -> None:  # noqa: ASYNC124 - as ASGI has it
        sent.append(message)

    await app(scope_of(target, method=method, headers=headers), receive, send)
    start, *rest = sent
    assert [start["type"], *{each["type"] for each in rest}] == ["http.response.start", "http.response.body"]
    assert not rest[-1].get("more_body")
    fields = {name.decode(): value.decode() for name, value in start["headers"]}
    return Answer(start["status"], fields, b"".join(each.get("body", b"") for each in rest))


def server_command(server: str, target: str, port: int) -> list[str]:
    if server == "uvicorn":
        return [sys.executable, "-m", "uvicorn", target, "--port", str(port), "--log-level", "warning"]
    worker = server.removeprefix("hypercorn-")
    options = ["--bind", f"127.0.0.1:{port}", "--worker-class", worker, "--graceful-timeout", "1"]
    return [sys.executable, "-m", "hypercorn", target, *options]


@contextlib.contextmanager
def served(
    command: Sequence[str], port: int, *, cwd: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run a server, which listens at `port`, around a block; its output is standard error's, too.

    It writes into a file: a pipe that is not read would stop it, and one that a child has kept has no end.
    """
    with tempfile.NamedTemporaryFile("w") as log, Path(log.name).open() as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )
        process.stdout = output
        with _ended_afterwards(process):
            deadline = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(urllib.error.URLError, ConnectionError):
                    get(f"http://127.0.0.1:{port}/")
                    break
                assert process.poll() is None, output.read()
                assert time.monotonic() < deadline, output.read()
                time.sleep(0.05)
            yield process


@contextlib.contextmanager
def _ended_afterwards(process: subprocess.Popen[str]) -> Iterator[None]:
    try:
        yield
    finally:
        children: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            for each in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait(PATIENCE)


@contextlib.contextmanager
def serving(server: str, target: str, *, cwd: Path, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """Serve an application of a folder by one of `SERVERS`; gives its URL."""
    port = free_port()
    with served(server_command(server, target, port), port, cwd=cwd, env=env):
        yield f"http://127.0.0.1:{port}"


async def not_found(_scope: Scope, _receive: Any, send: Any) -> None:
    """An application that knows nothing."""
    await send({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"the application knows nothing"})
