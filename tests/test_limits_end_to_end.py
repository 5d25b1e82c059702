"""At the limit of file descriptors: streams go on, new connections wait, and a process can be restarted."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import pytest

from tests.kit import PATIENCE, Run, called, get

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]

# A server of event streams, one event each 0.2 s; it accepts and closes as it is told.
SERVER = """
import asyncio, os, resource

async def serve(reader, writer):
    try:
        head = await reader.readuntil(b"\\r\\n\\r\\n")
        if b"/limit" in head:
            text = b"%d" % resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(text), text))
            return
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\n\\r\\n")
        while b"/stream" in head:
            writer.write(b"data: x\\n\\n")
            await writer.drain()
            await asyncio.sleep(0.2)
    except (OSError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", int(os.environ["PORT"]), backlog=1024)
    await server.serve_forever()

asyncio.run(main())
"""


class Streams:
    """Event streams that are open at once.

    Attributes:
        events: How many events each has brought.
        ended: Those that have ended.
    """

    def __init__(self) -> None:
        self._poll = select.poll()
        self._sockets: dict[int, socket.socket] = {}
        self.events: dict[int, int] = {}
        self.ended: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close(len(self._sockets))

    def open(self, url: str, count: int) -> None:
        address = (urlsplit(url).hostname, urlsplit(url).port)
        for _ in range(count):
            stream = socket.create_connection(address, timeout=PATIENCE)
            self._sockets[stream.fileno()] = stream
            self.events[stream.fileno()] = 0
            self._poll.register(stream, select.POLLIN)
            stream.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")

    def close(self, count: int) -> None:
        """Close some of those that have brought events, else of those that have not."""
        for fd in sorted(self._sockets, key=lambda fd: -self.events[fd])[:count]:
            if fd not in self.ended:
                self._poll.unregister(fd)
            self._sockets.pop(fd).close()
            del self.events[fd]

    @property
    def served(self) -> set[int]:
        """Those that have brought an event."""
        return {fd for fd, events in self.events.items() if events}

    def read(self, seconds: float) -> None:
        """Read what comes for so long."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            for fd, _ in self._poll.poll(left * 1000):
                try:
                    data = self._sockets[fd].recv(65536)
                except OSError:
                    data = b""
                self.events[fd] += data.count(b"data: x")
                if not data:
                    self._poll.unregister(fd)
                    self.ended.add(fd)

    def until_served(self, count: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while len(self.served) < count:
            assert time.monotonic() < deadline, f"{len(self.served)} of {count} are served"
            self.read(0.2)

    def until_all_bring(self, streams: set[int]) -> None:
        """Wait until each of these has brought a new event."""
        before = dict(self.events)
        deadline = time.monotonic() + PATIENCE
        while waiting := [fd for fd in streams if self.events[fd] == before[fd]]:
            assert not self.ended, f"{len(self.ended)} have ended"
            assert time.monotonic() < deadline, f"{len(waiting)} of {len(streams)} bring nothing"
            self.read(0.2)


def project(folder: Path) -> Path:
    (folder / "server.py").write_text(SERVER)
    serve = f"exec {sys.executable} -S server.py"
    (folder / "Procfile").write_text(f"api: {serve}\nui: {serve}\n")
    (folder / "orchestra.toml").write_text('[proxy]\nbackend = "api"\nfrontend = "ui"\n')
    return folder


def limited(limit: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", f'ulimit {limit} && exec "$@"', "sh")


def restart_frontend(run: Run) -> None:
    """Kill it, and wait until another one is ready: to spawn it and to ask it takes descriptors, too."""
    pid = run.state("ui", "ready")["pid"]
    since = len(run.events)
    os.kill(pid, signal.SIGKILL)
    run.state("ui", "ready", since=since)


def test_700_event_streams_under_a_soft_limit_of_1024(tmp_path: Path) -> None:
    with Run("--listen", "127.0.0.1:0", cwd=project(tmp_path), before=limited("-Sn 1024")) as run:
        run.state("api", "ready")
        run.state("ui", "ready")
        with Streams() as streams:
            streams.open(run.url, 700)
            streams.until_served(700)
            restart_frontend(run)
            assert get(f"{run.url}/limit").text == "1024"  # children have the limit that we began with
            streams.until_all_bring(streams.served)
        assert run.stop() == 130
        assert run.errors == ""


def test_150_event_streams_under_a_hard_limit_of_128(tmp_path: Path) -> None:
    with Run("--listen", "127.0.0.1:0", cwd=project(tmp_path), before=limited("-n 128")) as run:
        run.state("api", "ready")
        run.state("ui", "ready")
        with Streams() as streams:
            streams.open(run.url, 150)
            streams.until_served(20)
            streams.read(2)
            served = streams.served
            assert 20 <= len(served) < 64
            restart_frontend(run)
            streams.until_all_bring(served)
            streams.close(10)
            # Those that have waited move up.
            streams.until_served(len(served))
            assert not streams.ended
        assert run.stop() == 130
        assert run.errors == ""
        assert "bug" not in str(run.events)


def test_too_few_descriptors_for_a_start_are_not_called_a_bug(tmp_path: Path) -> None:
    command = [*limited("-n 12"), sys.executable, "-m", "orchestra", "run", "--output", "plain"]
    done = called(*command, cwd=project(tmp_path))
    assert done.returncode != 0
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr
