"""For tests of what is shown: events of a run, a model that was told them, and a pipe to print to."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from msgspec.structs import replace

from orchestra.dashboard.controls import Controls, Shown
from orchestra.dashboard.frame import frame
from orchestra.dashboard.model import Model
from orchestra.dashboard.screen import Renderer
from orchestra.dashboard.view import draw
from orchestra.dashboard.writer import Writer
from orchestra.events import (
    Notice,
    OutputLine,
    OutputPaused,
    ProcessMeasured,
    RequestFinished,
    RequestPending,
    RunStarted,
    State,
    StateChanged,
    StreamOpened,
)
from tests.events_kit import moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from orchestra.dashboard.printers import JsonPrinter, PlainPrinter
    from orchestra.events import Event, StreamName, UpstreamName

STARTED = RunStarted(
    time=moment(0.0),
    version="1.2",
    pid=9,
    procfile="Procfile",
    url="http://127.0.0.1:8000",
    processes=("vite", "api"),
)
READY = StateChanged(
    time=moment(1.5),
    process="vite",
    state=State.READY,
    previous=State.STARTING,
    pid=7,
    port=5173,
    url="http://[::1]:5173",
    ready_after=1.5,
)
REQUEST = RequestFinished(
    time=moment(2.0),
    id=1,
    method="GET",
    target="/about",
    status=200,
    upstream="backend",
    reason="",
    held=0.0,
    first_byte=0.1,
    duration=0.004,
    bytes_in=0,
    bytes_out=1,
    outcome="complete",
)


VITE_SAYS = (
    "  \x1b[32m\x1b[1mVITE\x1b[22m v8.3.0\x1b[39m  \x1b[2mready in \x1b[0m\x1b[1m312\x1b[22m\x1b[2m ms",
    "  \x1b[32m➜\x1b[39m  \x1b[1mLocal\x1b[22m:   \x1b[36mhttp://localhost:\x1b[1m5173\x1b[22m/\x1b[39m",
)


def line(text: str, process: str = "vite", *, stream: StreamName = "stdout") -> OutputLine:
    return OutputLine(time=moment(1.0), process=process, stream=stream, text=text)


def begun(text: str, process: str = "vite") -> OutputPaused:
    return OutputPaused(time=moment(1.0), process=process, stream="stdout", text=text)


def model_of(*events: Event) -> Model:
    model = Model()
    for event in events:
        model.apply(event)
    return model


def picture(
    model: Model,
    *keys: str,
    now: float = 0.0,
    width: int = 80,
    height: int = 24,
    environ: Any = None,
    shown: Shown = "this run",
) -> list[str]:
    """Draw a model without colours after some keys were pressed; spaces at the ends of lines are left out."""
    controls = Controls(model, shown=shown)
    controls.see(now)
    for key in keys:
        controls.press(key)
    return pictured(controls, now=now, width=width, height=height, environ=environ)


def pictured(
    controls: Controls, *, now: float = 0.0, width: int = 80, height: int = 24, environ: Any = None
) -> list[str]:
    """Draw what controls look at."""
    shown = frame(controls, now=now, width=width, height=height)
    lines = draw(shown, controls.bindings)
    rendered = Renderer({"TERM": "dumb", **(environ or {})}).lines(lines)
    return [line.rstrip() for line in rendered]


def sample() -> tuple[Model, float]:
    """Give a model of a run in full swing, made up, and the time that it is there."""
    model = Model()
    at = 1000.0
    names = ("vite", "api", "worker", "mail")
    model.apply(replace(STARTED, time=moment(at), version="0.1", pid=41230, processes=names))
    for event in _sample_events(at):
        model.apply(event)
    return model, at + 187.0


def _sample_events(at: float) -> Iterator[Event]:
    waiting, starting, running, ready = State.WAITING, State.STARTING, State.RUNNING, State.READY

    def change(after: float, name: str, state: State, previous: State, **more: Any) -> StateChanged:
        return StateChanged(time=moment(at + after), process=name, state=state, previous=previous, **more)

    def line(after: float, name: str, text: str) -> OutputLine:
        return OutputLine(time=moment(at + after), process=name, stream="stdout", text=text)

    for pid, name in enumerate(("vite", "api", "worker", "mail"), 41232):
        yield change(0.0, name, starting, waiting, pid=pid)
    yield change(0.1, "mail", running, starting, pid=41235)
    for text in VITE_SAYS:
        yield line(0.5, "vite", text)
    url = "http://[::1]:5173"
    yield change(0.8, "vite", ready, starting, pid=41232, port=5173, url=url, ready_after=0.8)
    yield line(0.9, "worker", "connecting to redis://127.0.0.1:6379")
    yield line(1.0, "worker", "\x1b[31mConnectionError\x1b[0m: [Errno 111] Connection refused")
    reason = "exit code 1; given up after 5 restarts"
    yield change(1.0, "worker", State.FAILED, starting, restarts=5, exit_code=1, reason=reason)
    yield line(1.8, "api", "[INFO] Running on http://127.0.0.1:5001 (CTRL + C to quit)")
    again = {"port": 5001, "restarts": 1, "url": "http://127.0.0.1:5001", "ready_after": 1.2}
    yield change(2.1, "api", ready, starting, pid=41233, **again)
    text = "port 5000 was taken, vite listens on 5173"
    yield Notice(time=moment(at + 170), level="warning", code="port-moved", text=text)
    yield StreamOpened(time=moment(at + 3), id=7, kind="hmr", target="/", upstream="frontend")
    yield StreamOpened(time=moment(at + 3), id=8, kind="event-stream", target="/events", upstream="backend")
    asked: tuple[tuple[str, str, int, UpstreamName, float, float], ...] = (
        ("GET", "/", 200, "frontend", 0.0042, 0.0),
        ("GET", "/src/main.ts", 200, "frontend", 0.0113, 0.0),
        ("GET", "/src/style.css", 304, "frontend", 0.0021, 0.0),
        ("GET", "/api/notes", 200, "backend", 1.31, 1.27),
        ("POST", "/api/notes", 201, "backend", 0.0062, 0.0),
        ("GET", "/api/notes/7", 404, "backend", 0.0031, 0.0),
        ("GET", "/api/report?from=2024-01-01&to=2024-12-31", 500, "backend", 0.240, 0.0),
        ("DELETE", "/api/notes/3", 204, "backend", 0.0038, 0.0),
        ("GET", "/about", 200, "backend", 0.0087, 0.0),
    )
    for number, (method, target, status, upstream, duration, held) in enumerate(asked, 1):
        if upstream == "backend":
            yield line(3.0 + number, "api", f'127.0.0.1 - "{method} {target} 1.1" {status}')
        of = {"method": method, "target": target, "status": status, "upstream": upstream}
        took = {"held": held, "first_byte": duration, "duration": duration, "bytes_out": 100}
        yield replace(REQUEST, time=moment(at + 3 + number), id=number, **of, **took)
    for name, cpu, memory in (("vite", 0.02, 148e6), ("api", 0.113, 61.4e6), ("mail", 0.0, 9.3e6)):
        yield ProcessMeasured(time=moment(at + 186), process=name, cpu=cpu, memory=int(memory))
    yield RequestPending(
        time=moment(at + 180),
        id=40,
        method="POST",
        target="/api/notes/7/share",
        upstream="backend",
        status=None,
        elapsed=0.5,
    )
    faint = "\x1b[2m10:12:31\x1b[22m"
    tag = "\x1b[36m\x1b[1m[vite]\x1b[22m\x1b[39m \x1b[90m\x1b[2m(client)\x1b[22m\x1b[39m"
    yield line(30.0, "vite", f"{faint} {tag} \x1b[32mhmr update \x1b[39m\x1b[2m/src/style.css\x1b[22m")


class Pipe:
    """A pipe to print to: tests read the one end in worker threads."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        self._has_reader = True

    async def read(self, size: int = 1 << 20) -> bytes:
        return await trio.to_thread.run_sync(os.read, self._reader, size)

    def close_reader(self) -> None:
        if self._has_reader:
            self._has_reader = False
            os.close(self._reader)

    def close(self) -> None:
        self.close_reader()
        os.close(self.writer)


@asynccontextmanager
async def running(writer: Writer) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(writer.run)
        yield
        nursery.cancel_scope.cancel()


async def printed(make: Callable[[Writer], PlainPrinter | JsonPrinter], *events: Event) -> list[str]:
    """Print events as the bus and the delivery hand them over, and give the lines that were written."""
    pipe = Pipe()
    try:
        writer = Writer(pipe.writer)
        printer = make(writer)
        async with running(writer):
            for event in events:
                if isinstance(event, OutputLine):
                    printer.write_lines([event])
                elif type(event) in printer.kinds:
                    printer.observe(event)
            printer.finish()
            await writer.aclose()
        return (await pipe.read()).decode().split("\n")[:-1]
    finally:
        pipe.close()
