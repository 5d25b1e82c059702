"""A real run of the real command, seen from outside as a user or a script sees it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "orchestra"]
# How long anything that must happen may take on a small and busy machine before a test gives up.
PATIENCE = 60.0


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
    """Ask once, follow nothing, accept any status."""
    # urllib's own headers are few: this is a plain client such as curl
    request = urllib.request.Request(
        url, data=body, method=method, headers={"User-Agent": "curl/8", "Accept": "*/*"} | dict(headers or {})
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response:
            return Answer(response.status, _lower(response.headers.items()), response.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, _lower(error.headers.items()), error.read())


def _lower(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def base_port() -> int:
    """A `PORT` to count from that no other run is likely to count from."""
    return free_port() % 50000 + 10000


def needed(program: str, *others: str) -> str:
    """Find a program; without it a developer's test is skipped, and a test in CI fails."""
    for name in (program, *others):
        if found := shutil.which(name):
            return found
    if os.environ.get("CI"):
        pytest.fail(f"{program} is missing: in CI everything is tested", pytrace=False)
    pytest.skip(f"{program} is missing")


def marked(run_id: str) -> list[psutil.Process]:
    """All living processes that carry a run's mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("ORCHESTRA_RUN") == run_id:
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
    done = subprocess.run(
        [*COMMAND, *arguments],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def processes(procfile: str) -> str:
    """The lines of a Procfile that are no comments."""
    return "".join(line for line in procfile.splitlines(keepends=True) if not line.startswith("#"))


def copy_of_the_example(folder: Path) -> Path:
    """Copy what Procfile.example runs, without what was installed or built, so that tests may edit it."""
    shutil.copy(ROOT / "Procfile.example", folder)
    ignore = shutil.ignore_patterns("node_modules", "dist", "__pycache__", ".*_cache")
    shutil.copytree(ROOT / "examples", folder / "examples", ignore=ignore)
    return folder
