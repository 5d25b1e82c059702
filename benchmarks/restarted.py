"""What clients see of a backend that is restarted again and again, and of one that hangs or dies.

A kit, no benchmark: `restarts` reports on many restarts, `tests/test_restarts.py` asserts the same promises
of a few.

Strategy. Three kinds of process: orchestra, in one of its own that also takes the order to restart
(`programs/driven.py`); the backend, with a server that people use; and the clients, here (`traffic`). The
backend writes down the id of each request that it begins, in a file that outlives it, so that executions can
be counted.

A restart is complete when the backend says that it runs the version of its source that was written for this
restart. Whether a request that failed had been sent to the backend, orchestra's events say.

A request that is not repeatable (RFC 9110 9.2.2) may fail when it has begun; a server that ends in the middle
of what it does, as Flask's debug server, may also lose a request that it has received and not begun.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import trio

from benchmarks.harness import HERE, Failed
from benchmarks.traffic import Connection, Traffic
from orchestra.events import (
    Event,
    Notice,
    OutputLine,
    RequestFinished,
    RunStarted,
    State,
    StateChanged,
    decode,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from benchmarks.traffic import Address, Method

__all__ = [
    "RELOAD_LIMIT",
    "SERVERS",
    "Measured",
    "Orchestra",
    "Project",
    "Server",
    "measure",
    "orchestra",
]

# Within that a restart is complete, or it is lost: the promise.
RELOAD_LIMIT = 45.0
# Whatever orchestra has to say is said within that.
PATIENCE = 60.0
# How often the backend is asked for its version during a restart.
LOOK = 0.05
# Between two restarts, drawn for each: no phase of the clients is the phase of the restarts.
PAUSE = (0.2, 1.0)
# Streams of each kind.
STREAMS = 4
# For the end of orchestra, and of all that it has started.
STOP_LIMIT = 30.0

E = TypeVar("E", bound=Event)


# --- the backends ---


@dataclass(frozen=True, slots=True)
class Server:
    """A backend as people run it.

    Attributes:
        command: The line of the Procfile.
        app: Its application in `programs/reloaded.py`.
        settings: Further lines of its table of settings.
        proxy: Further lines of the proxy's.
        reloads_itself: It is restarted by a change of its source, else by us.
        may_lose: It ends with whatever it has received: without waiting, or what it has not read yet.
        has_sockets: It knows WebSockets.
        is_held: Requests may be held while it is restarted.
    """

    command: str
    app: str = "asgi"
    settings: str = ""
    proxy: str = ""
    reloads_itself: bool = False
    may_lose: bool = False
    has_sockets: bool = True
    is_held: bool = True


_UVICORN = "uvicorn app:app --port $PORT"

SERVERS = {
    "hypercorn": Server("hypercorn app:app --bind 127.0.0.1:$PORT"),
    "uvicorn": Server(_UVICORN),
    "uvicorn --reload": Server(f"{_UVICORN} --reload", reloads_itself=True, may_lose=True),
    "flask --debug": Server(
        "flask --app app run --debug --port $PORT",
        app="flask",
        reloads_itself=True,
        may_lose=True,
        has_sockets=False,
    ),
    "overlap": Server(_UVICORN, settings='restart_mode = "overlap"\n', is_held=False),
}

_APP = """
import sys
sys.path.insert(0, {programs!r})
from reloaded import {app}
app = {app}({version}, {start}, is_broken={is_broken})
"""


class Project:
    """A folder with a Procfile, settings, and an application that is written again for each version."""

    def __init__(self, folder: Path, server: Server, *, start: float) -> None:
        self.folder = folder
        self.server = server
        self._start = start
        (folder / "Procfile").write_text(f"api: {server.command}\n")
        # Nothing here is ever asked of a frontend.
        (folder / "orchestra.toml").write_text(
            f'[proxy]\nbackend = "api"\nfrontend = "http://127.0.0.1:9"\n'
            f'listen = "127.0.0.1:0"\n{server.proxy}'
            # A module that was compiled in the same second, and is as long, would pass for the new one.
            f'[process.api]\nenv = {{ PYTHONDONTWRITEBYTECODE = "1" }}\n{server.settings}'
        )
        self.write(1)

    def write(self, version: int, *, is_broken: bool = False) -> None:
        """Write a version of the application as editors do: it is there as a whole, or not at all."""
        programs = str(HERE / "programs")
        text = _APP.format(
            programs=programs, app=self.server.app, version=version, start=self._start, is_broken=is_broken
        )
        written = self.folder / "app.py.new"
        written.write_text(text)
        written.replace(self.folder / "app.py")

    def written_down(self, file: str) -> list[str]:
        """Read what the backends have written down."""
        path = self.folder / file
        return path.read_text().split() if path.exists() else []


# --- orchestra ---


class Orchestra:
    """Orchestra in a process of its own, with all events so far."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._changed = trio.Event()
        self.events: list[Event] = []
        self.has_ended = False

    async def restart(self) -> None:
        """Have the backend restarted; returns before that is done."""
        assert self._process.stdin is not None
        await self._process.stdin.send_all(b"restart\n")

    async def listen(self) -> None:
        """Take note of everything that it tells."""
        assert self._process.stdout is not None
        rest = b""
        async for data in self._process.stdout:
            *lines, rest = (rest + data).split(b"\n")
            self.events += [decode(line) for line in lines]
            self._changed.set()
            self._changed = trio.Event()
        self.has_ended = True
        self._changed.set()

    async def ready(self) -> None:
        """Wait until the backend is ready."""
        await self.until(StateChanged, lambda event: event.state is State.READY)

    async def until(self, kind: type[E], is_meant: Callable[[E], bool] = lambda _: True) -> E:
        """Wait for the first event of a kind that is meant."""
        seen = 0
        with trio.move_on_after(PATIENCE):
            while True:
                for event in self.events[seen:]:
                    if isinstance(event, kind) and is_meant(event):
                        return event
                seen = len(self.events)
                if self.has_ended:
                    break
                await self._changed.wait()
        raise Failed(f"{kind.__name__} never came, after {self.last_lines()}")

    async def end(self) -> None:
        """Have everything stopped."""
        assert self._process.stdin is not None
        await self._process.stdin.aclose()
        with trio.move_on_after(STOP_LIMIT) as limit:
            await self._process.wait()
            while not self.has_ended:
                await self._changed.wait()
        if limit.cancelled_caught or self._process.returncode:
            raise Failed(f"orchestra ended with {self._process.returncode}: {self.last_lines()}")

    def last_lines(self) -> str:
        """Return the newest of what it and its processes have said."""
        said = []
        for event in self.events:
            match event:
                case OutputLine() | Notice():
                    said.append(event.text)
                case StateChanged():
                    said.append(f"{event.state.value} {event.reason}")
                case _:
                    pass
        return "\n".join(["", *said[-40:]])


@contextlib.asynccontextmanager
async def orchestra(project: Project) -> AsyncIterator[tuple[Orchestra, Address]]:
    """Run orchestra for a project; yields it and the address of its proxy."""
    # As if the virtual environment that we run in were activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    port = str(random.randrange(10_000, 60_000))  # noqa: S311 - no secret
    async with trio.open_nursery() as nursery:
        run: Callable[..., Awaitable[trio.Process]] = partial(
            nursery.start,
            partial(
                trio.run_process,
                [sys.executable, str(HERE / "programs/driven.py"), str(project.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                check=False,
                env={**os.environ, "PATH": path, "PORT": port, "PYTHONPATH": str(HERE.parent)},
            ),
        )
        driven = Orchestra(await run())
        nursery.start_soon(driven.listen)
        parts = urlsplit((await driven.until(RunStarted)).url)
        yield driven, (str(parts.hostname), int(parts.port or 0))
        await driven.end()


# --- what came of it ---


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was seen of all restarts of one server.

    Attributes:
        requests: How many were sent.
        gets: What was wrong with the answers to GETs.
        cut: Likewise, where the backend has ended after the head of its answer.
        not_begun: What was wrong with those to POSTs that had not even been sent to the backend.
        lost: Likewise, POSTs that had been sent to it, and that it has not begun to execute.
        begun: Likewise, POSTs that it has begun.
        twice: POSTs that were executed more than once.
        endings: How event streams and WebSockets ended, and how they were refused.
        held: What the longest hold took, as orchestra says, and how many were held.
        longest: What the longest request took, as its client has seen it.
        reloads: How long each reload took until the new version was there; infinite if it never was.
        broken: What was wrong while a version was offered that never starts; ``None`` if nothing was.
    """

    server: Server
    requests: int
    gets: Sequence[str]
    cut: Sequence[str]
    not_begun: Sequence[str]
    lost: Sequence[str]
    begun: Sequence[str]
    twice: Sequence[str]
    endings: Counter[str]
    held: tuple[float, int]
    longest: float
    reloads: Sequence[float]
    broken: str | None = None

    def faults(self) -> list[str]:
        """Say which bounds do not hold."""
        server = self.server
        found = [f"GET failed: {text}" for text in counted(self.gets)]
        found += [f"POST failed that had not begun: {text}" for text in counted(self.not_begun)]
        found += [f"executed twice: {text}" for text in self.twice]
        if not server.may_lose:
            found += [f"POST sent and lost: {text}" for text in counted(self.lost)]
            found += [f"GET cut short: {text}" for text in counted(self.cut)]
        found += [
            f"{times} of {name}"
            for name, times in sorted(self.endings.items())
            if "inside" in name or "refused" in name or (name.startswith("WebSocket") and "1012" not in name)
        ]
        if not server.is_held and self.held[1]:
            found.append(f"{self.held[1]} requests were held, up to {self.held[0]:.2f} s")
        found += [
            f"reload {number} was not complete within {RELOAD_LIMIT:g} s"
            for number, seconds in enumerate(self.reloads, 1)
            if seconds > RELOAD_LIMIT
        ]
        if self.broken:
            found.append(self.broken)
        return found

    def row(self) -> list[str]:
        """Return what the table shows."""
        complete = [seconds for seconds in self.reloads if seconds <= RELOAD_LIMIT]
        return [
            f"{self.requests:,}",
            f"{len(self.gets)} / {len(self.cut)}",
            f"{len(self.not_begun)} / {len(self.lost)} / {len(self.begun)}",
            f"{len(self.twice)}",
            f"{self.held[0]:.2f} s ({self.held[1]:,})",
            f"{self.longest:.2f} s",
            f"{len(complete)} of {len(self.reloads)} ({max(self.reloads):.1f} s)",
        ]


def counted(texts: Sequence[str]) -> list[str]:
    """Say each text once, and how often it was there."""
    return [f"{times} x {text}" if times > 1 else text for text, times in Counter(texts).most_common()]


async def measure(server: Server, *, restarts: int, clients: int, start: float) -> Measured:
    """Restart a server again and again under traffic.

    Args:
        server: The backend.
        restarts: How often.
        clients: So many ask all the time, half of them by POST.
        start: Seconds that its start takes at least.
    """
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), server, start=start)
        reloads: list[float] = []
        broken: str | None = None
        async with orchestra(project) as (driven, address):
            await driven.ready()
            traffic = Traffic(address)
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as visits:
                    for number in range(clients):
                        method: Method = "POST" if number % 2 else "GET"
                        visits.start_soon(traffic.visit, f"{method.lower()}-{number}", method)
                    for _ in range(STREAMS):
                        nursery.start_soon(traffic.keep_stream)
                        if server.has_sockets:
                            nursery.start_soon(traffic.keep_socket)
                    streams = STREAMS * (1 + server.has_sockets)
                    for version in range(2, restarts + 2):
                        await traffic.until_all_are_open(streams)
                        await trio.sleep(random.uniform(*PAUSE))  # noqa: S311 - no secret
                        reloads.append(await reload(project, driven, traffic, version))
                        if reloads[-1] > RELOAD_LIMIT:
                            # It is stuck, and so is every client that waits for it.
                            nursery.cancel_scope.cancel()
                            await trio.lowlevel.checkpoint()
                    await traffic.until_all_are_open(streams)
                    if not server.is_held:
                        broken = await _try_a_broken_one(project, driven, traffic, restarts + 2)
                    traffic.is_over = True
                nursery.cancel_scope.cancel()
        return _summed_up(project, driven, traffic, reloads, broken)


async def reload(project: Project, driven: Orchestra, traffic: Traffic, version: int) -> float:
    """Bring a new version up, and return how long that took."""
    begun = trio.current_time()
    project.write(version)
    if not project.server.reloads_itself:
        await driven.restart()
    with Connection(traffic.address) as connection, trio.move_on_after(RELOAD_LIMIT):
        while await traffic.version(connection) != version:  # noqa: ASYNC110 - no event tells the client
            await trio.sleep(LOOK)
        return trio.current_time() - begun
    return inf


async def _try_a_broken_one(
    project: Project, driven: Orchestra, traffic: Traffic, version: int
) -> str | None:
    """Offer a version that never starts, then one that does; say what was wrong with the answers."""
    before = len([sent for sent in traffic.sent if sent.failure])
    project.write(version, is_broken=True)
    await driven.restart()
    seen: Counter[int] = Counter()
    with Connection(traffic.address) as connection, trio.move_on_after(RELOAD_LIMIT) as limit:
        while str(version) not in project.written_down("tried"):
            seen[await traffic.version(connection)] += 1
            await trio.sleep(LOOK)
        # It has begun; whatever it is taken for, it is now.
        for _ in range(20):
            seen[await traffic.version(connection)] += 1
            await trio.sleep(LOOK)
    if limit.cancelled_caught:
        return "the broken version was never tried"
    failed = len([sent for sent in traffic.sent if sent.failure]) - before
    if set(seen) != {version - 1} or failed:
        return f"with a broken version, {failed} requests failed, and these versions answered: {dict(seen)}"
    if await reload(project, driven, traffic, version + 1) > RELOAD_LIMIT:
        return "after the broken version no other one was taken"
    return None


def _summed_up(
    project: Project, driven: Orchestra, traffic: Traffic, reloads: Sequence[float], broken: str | None
) -> Measured:
    times = Counter(project.written_down("executed"))
    finished = [event for event in driven.events if isinstance(event, RequestFinished)]
    # What got no valid answer had been sent; what there was no upstream for had not.
    sent_on = {
        event.target.partition("id=")[2].partition("&")[0]
        for event in finished
        if event.reason == "no valid answer" or event.outcome == "upstream-died"
    }
    # The head of the answer had been passed on: what is left to do is to break off.
    cut = {
        event.target.partition("id=")[2].partition("&")[0]
        for event in finished
        if event.outcome == "upstream-died" and event.status is not None
    }
    failed = [sent for sent in traffic.sent if sent.failure]
    posts = [sent for sent in failed if sent.method == "POST"]
    idle = [sent for sent in posts if not times[sent.id]]
    held = [event.held for event in finished if event.held]
    return Measured(
        server=project.server,
        requests=len(traffic.sent),
        gets=[sent.failure for sent in failed if sent.method == "GET" and sent.id not in cut],
        cut=[sent.failure for sent in failed if sent.method == "GET" and sent.id in cut],
        not_begun=[sent.failure for sent in idle if sent.id not in sent_on],
        lost=[sent.failure for sent in idle if sent.id in sent_on],
        begun=[sent.failure for sent in posts if times[sent.id]],
        twice=[name for name, number in times.items() if number > 1 and name.startswith("post")],
        endings=traffic.endings,
        held=(max(held, default=0.0), len(held)),
        longest=max(sent.seconds for sent in traffic.sent),
        reloads=reloads,
        broken=broken,
    )
