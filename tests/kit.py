"""A real run of the real command, seen from outside as a user or a script sees it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "orchestra"]
# How long anything that must happen may take on a small and busy machine before a test gives up.
PATIENCE = 60.0
# Linux gives the ports from here on to connections, other systems those from 49152 on.
EPHEMERAL = 32768


class Answer(NamedTuple):
    """An HTTP answer, read to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def upstream(self) -> str | None:
        return self.headers.get("x-orchestra-upstream")

    @property
    def text(self) -> str:
        return self.body.decode()


def get(
    url: str, *, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> Answer:
    """Ask as a plain client does, such as curl; follow nothing."""
    return ask(url, {"User-Agent": "curl/8", "Accept": "*/*", **(headers or {})}, method=method, body=body)


def ask(url: str, headers: Mapping[str, str], *, method: str = "GET", body: bytes | None = None) -> Answer:
    """Send these headers and no others (but `Host` and the length of a body); follow nothing.

    The answer to a handshake is its head alone, whatever comes after a 101.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        connection.putrequest(method, target, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        response = connection.getresponse()
        answered = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, answered, response.read())


def free_port() -> int:
    """A free port that no connection is given: one of those stays taken for a minute after its end."""
    while True:
        port = random.randrange(20000, EPHEMERAL)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def base_port() -> int:
    """A `PORT` to count from, in hundreds and ones, that no other worker's tests count from."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return random.randrange(100, 190) * 100 + worker % 4 * 25 + random.randrange(20)


def needed(program: str, *others: str) -> str:
    """Find a program; without it a developer's test is skipped, and a test in CI fails."""
    for name in (program, *others):
        if found := shutil.which(name):
            return found
    if os.environ.get("CI"):
        pytest.fail(f"{program} is missing: in CI everything is tested", pytrace=False)
    pytest.skip(f"{program} is missing")


def marked(value: str, variable: str = "ORCHESTRA_RUN") -> list[psutil.Process]:
    """All living processes that carry a mark in their environment, such as that of a run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(variable) == value and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


class Run:
    """`orchestra run ARGUMENTS --output json`; its events can be waited for.

    Args:
        arguments: The arguments.
        cwd: Where it starts.
        env: What its environment has beside ours.
        before: A command that executes the rest of its arguments.
    """

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
    ) -> None:
        self.folder = cwd
        self.events: list[dict[str, Any]] = []
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._stderr: list[str] = []
        self.process = subprocess.Popen(
            [*before, *COMMAND, "run", *arguments, "--output", "json"],
            cwd=cwd,
            env={**os.environ, "PORT": str(base_port()), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._threads = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        if self.process.poll() is None:
            self.stop()

    def __repr__(self) -> str:
        shown = "\n".join(json.dumps(event) for event in self.events[-40:])
        return f"<Run {self.process.args!r}\n{shown}\n{''.join(self._stderr)}>"

    def _read_events(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._queue.put(json.loads(line))
        self._queue.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self._stderr.extend(lines)

    def until(self, is_it: Callable[[dict[str, Any]], bool], *, since: int = 0) -> dict[str, Any]:
        """Wait for the first event, from the one with index `since` on, that `is_it` accepts."""
        for event in self.events[since:]:
            if is_it(event):
                return event
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                new = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(f"it did not happen: {self!r}", pytrace=True)
            if new is None:
                pytest.fail(f"the run ended before it happened: {self!r}", pytrace=True)
            self.events.append(new)
            if len(self.events) > since and is_it(new):
                return new

    def state(self, process: str, state: str, *, since: int = 0) -> dict[str, Any]:
        return self.until(
            lambda event: (
                (event["type"], event.get("process"), event.get("state")) == ("process.state", process, state)
            ),
            since=since,
        )

    def line(self, process: str, text: str, *, since: int = 0) -> dict[str, Any]:
        return self.until(
            lambda event: (
                (event["type"], event.get("process")) == ("process.output", process) and text in event["text"]
            ),
            since=since,
        )

    @property
    def url(self) -> str:
        url: str = self.until(lambda event: event["type"] == "run.started")["url"]
        return url

    @property
    def run_id(self) -> str:
        """The mark of the run, read off a process that it has spawned."""
        self.until(lambda event: bool(event["type"] == "process.state" and event["pid"]))
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for event in reversed(self.events):
                # While it is being executed it has no environment yet, and a number may be used again.
                with contextlib.suppress(psutil.Error, OSError, KeyError):
                    if event["type"] == "process.state" and event["pid"]:
                        return psutil.Process(event["pid"]).environ()["ORCHESTRA_RUN"]
            time.sleep(0.05)
        pytest.fail(f"no process of it is alive: {self!r}")

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end, and wait; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        code = self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        while not self._queue.empty():
            if (event := self._queue.get()) is not None:
                self.events.append(event)
        return code

    @property
    def errors(self) -> str:
        return "".join(self._stderr)


def orchestra(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command to its end; returns exit code, standard output and standard error."""
    done = called(*COMMAND, *arguments, cwd=cwd, env=env)
    return done.returncode, done.stdout, done.stderr


def called(
    *command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, without a terminal."""
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def processes(procfile: str) -> str:
    """The lines of a Procfile that are no comments."""
    return "".join(line for line in procfile.splitlines(keepends=True) if not line.startswith("#"))


def copy_of_the_example(folder: Path) -> Path:
    """Copy what Procfile.example runs, without what was installed or built, so that tests may edit it."""
    shutil.copy(ROOT / "Procfile.example", folder)
    ignore = shutil.ignore_patterns("node_modules", "dist", "__pycache__", ".*_cache")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=ignore)
    return folder
