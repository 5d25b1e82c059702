"""The control app: what is behind ``/__orchestra__/``, as an ASGI application.

`doors` decides whether a request is admitted. The endpoints:

- `client.js`: the script that pages get, a static file.
- `live`: a WebSocket for each page, over which `tabs` sends it messages.
- `state`, `healthz`, `readyz`: the current state of the run.
- `events`: all events, as server-sent events whose data is a JSON line each.
- `watch`: everything that a dashboard in another terminal needs, as JSON lines.
- `order`: orders to the run from programs of this user (`local`); `place`: the environment of a process.
- `open`: opens a file in the user's editor. It takes a POST with the run's token, and a file and line from an
  error of this run: the place where it was raised, or a frame of its traceback. After links are resolved, the
  file has to be in the project, and the editor gets the resolved path.

Bodies, messages, tabs and readers are bounded; the server (`server`) ends what takes too long.

Not here: connections, the server, the choice of messages for pages (`tabs`).
"""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec
import trio
from msgspec import Struct, structs

from orchestra.child.lines import without_colours
from orchestra.control.doors import Answer, Request, admit, begun, is_local, script_answer
from orchestra.control.editor import NO_EDITOR, editor_command
from orchestra.control.local import Order, Place, RunState
from orchestra.control.tabs import read_page, text_of
from orchestra.errors import OrchestraError
from orchestra.events import Event, OutputLine, OutputPaused, RunEnded, StateChanged, encode
from orchestra.proxy.rules import OWN_PREFIX

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence

    from orchestra.config.plan import Plan
    from orchestra.control.doors import Door, Receive, Scope, Send
    from orchestra.control.tabs import Tab, Tabs

__all__ = ["ENDLESS", "App", "View"]

# An order is a path, a line and a token.
MAX_BODY = 16384
# Concurrent readers of events, and the number of events that may wait for each.
MAX_READERS = 32
MAX_EVENTS = 10_000
# Seconds of silence after which a stream sends a heartbeat, by which a lost reader is noticed.
HEARTBEAT = 20.0
# Seconds for a browser to answer our close frame.
CLOSE_LIMIT = 1.0
# WebSocket close codes (RFC 6455 7.4.1, and its registry).
_GOING_AWAY, _POLICY_VIOLATION, _TRY_AGAIN_LATER = 1001, 1008, 1013

_T = TypeVar("_T")

# The media type of a stream, and the heartbeat, which readers ignore.
_STREAMS = {
    "events": (b"text/event-stream; charset=utf-8", b":\n\n"),
    "watch": (b"application/jsonl", b"\n"),
}
ENDLESS = frozenset({"live", *_STREAMS})
"""Names of requests whose answers are endless; those wait for nothing but sends."""
_JSON = b"application/json"


class View(Protocol):
    """The interface of a run for its control app; a `Supervisor` is one."""

    @property
    def plan(self) -> Plan:
        """The current plan."""

    @property
    def url(self) -> str | None:
        """The one address."""

    def snapshot(self) -> Mapping[str, StateChanged]:
        """Return the newest state of every process."""

    @property
    def feed(self) -> Callable[[], AsyncGenerator[bytes, None]] | None:
        """Give the events for a dashboard in another terminal, as JSON lines; ``None`` if there are none."""

    def events(self, *, limit: int) -> AsyncGenerator[Event, None]:
        """Give all events."""

    async def obey(self, order: Order) -> int:
        """Begin to carry out an order, or `OrchestraError`; return how many processes or pages it is for."""


class _Place(Struct, frozen=True):
    file: str
    line: int
    token: str = ""


class App:
    """Answers requests under ``/__orchestra__/``; `launch` starts a program without waiting, or `OSError`."""

    def __init__(
        self,
        view: View,
        tabs: Tabs,
        *,
        token: str,
        launch: Callable[[Sequence[str]], Awaitable[None]],
        environ: Mapping[str, str],
    ) -> None:
        self._view = view
        self._tabs = tabs
        self._token = token
        self._launch = launch
        self._environ = environ
        self._readers = 0
        self._left = trio.lowlevel.ParkingLot()

    async def wait_for_readers(self) -> None:
        """Wait until no reader of events is left."""
        while self._readers:
            await self._left.park()

    async def __call__(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection that came in by `door`."""
        path: bytes = scope["raw_path"]
        name = path.removeprefix(OWN_PREFIX).decode("latin-1") if path.startswith(OWN_PREFIX) else ""
        request = Request.of(door, name, scope)
        refusal = admit(request)
        if refusal is not None:
            await refusal.send(request, send)
        elif request.name == "live":
            await self._live(request, receive, send)
        elif request.name == "events":
            await self._stream(request, receive, send, _server_sent(self._view))
        elif request.name == "watch" and (feed := self._view.feed) is not None:
            await self._stream(request, receive, send, feed())
        else:
            answer = await self._ask(request, receive)
            await answer.send(request, send)

    async def _ask(self, request: Request, receive: Receive) -> Answer:
        match request.name:
            case "client.js":
                return script_answer(request)
            case "state":
                return self._state()
            case "readyz":
                return self._readiness(shows_reasons=is_local(request))
            case "open":
                return await self._open(request, receive)
            case "order":
                return await self._obey(receive)
            case "place":
                return await self._place(receive)
            case "watch":
                return Answer.of(404, "this run is not shown to other terminals")
            case _:
                return Answer(200, b"ok\n")

    def _state(self) -> Answer:
        view, procfile = self._view, self._view.plan.procfile
        state = RunState(
            url=view.url,
            procfile=None if procfile is None else str(procfile),
            root=str(view.plan.root),
            pid=os.getpid(),
            processes=tuple(view.snapshot().values()),
            errors=tuple(self._tabs.errors.values()),
            dashboard=view.plan.dashboard,
        )
        return Answer(200, encode(state), _JSON)

    def _readiness(self, *, shows_reasons: bool) -> Answer:
        plans = {plan.name: plan for plan in self._view.plan.processes}
        missing = [
            {"process": name, "state": state.state.value, "reason": state.reason if shows_reasons else ""}
            for name, state in self._view.snapshot().items()
            if not plans[name].is_up(state.state)
        ]
        body = encode({"ready": not missing, "missing": missing})
        return Answer(503 if missing else 200, body, _JSON)

    async def _obey(self, receive: Receive) -> Answer:
        order = await _read(receive, Order, "that is no order")
        if isinstance(order, Answer):
            return order
        if unknown := [name for name in order.processes if name not in self._view.snapshot()]:
            return Answer.of(404, f"there is no process called {', '.join(unknown)}")
        try:
            count = await self._view.obey(order)
        except OrchestraError as exc:
            return Answer.of(409, str(exc))
        return Answer(200, encode({"count": count}), _JSON)

    async def _place(self, receive: Receive) -> Answer:
        kind: Any = str | None
        name = await _read(receive, kind, "that is no name of a process")
        if isinstance(name, Answer):
            return name
        process = self._view.plan.named(name)
        if process is None:
            return Answer.of(404, f"there is no process called {name}")
        return Answer(200, encode(Place.of(process, self._environ, self._view.url)), _JSON)

    # --- Opening a file ---

    async def _open(self, request: Request, receive: Receive) -> Answer:
        order = await _read(receive, _Place, 'it takes {"file": ..., "line": ..., "token": ...}')
        if isinstance(order, Answer):
            return order
        given = request.headers.get(b"x-orchestra-token", order.token.encode("utf-8", "replace"))
        if request.door == "browser" and not secrets.compare_digest(given, self._token.encode("ascii")):
            return Answer.of(403, "the token is not this run's: load the page again")
        if not self._tabs.is_named(order.file, order.line):
            return Answer.of(403, f"no error of this run has named line {order.line} of {order.file}")
        try:
            path = Path(order.file).resolve(strict=True)
        except (OSError, ValueError) as exc:
            return Answer.of(404, f"{order.file} cannot be found: {exc}")
        project = self._view.plan.root.resolve()
        if not Path(order.file).is_absolute() or not path.is_relative_to(project) or not path.is_file():
            return Answer.of(403, f"{order.file} is not a file of the project, which is {project}")
        return await self._launch_editor(str(path), order.line)

    async def _launch_editor(self, file: str, line: int) -> Answer:
        which = partial(shutil.which, path=self._environ.get("PATH"))
        setting = self._view.plan.reload.editor
        try:
            command = editor_command(setting, file, line, environ=self._environ, which=which)
            if command is None:
                return Answer.of(501, NO_EDITOR)
            await self._launch(command)
        except (OSError, ValueError) as exc:
            text = f"the editor cannot be started: {exc}; set [reload] editor to a command that can"
            return Answer.of(501, text)
        return Answer(204)

    # --- Streams ---

    async def _stream(
        self, request: Request, receive: Receive, send: Send, parts: AsyncGenerator[bytes, None]
    ) -> None:
        media_type, beat = _STREAMS[request.name]
        if self._readers >= MAX_READERS:
            refusal = Answer.of(503, f"{MAX_READERS} programs read the events already")
            await refusal.send(request, send)
            return
        self._readers += 1
        try:
            async with aclosing(parts), trio.open_nursery() as nursery:
                await send(begun(200, media_type))
                nursery.start_soon(_beat, send, beat)
                nursery.start_soon(_disconnected, receive, nursery.cancel_scope)
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
                nursery.cancel_scope.cancel()
        finally:
            self._readers -= 1
            self._left.unpark_all()

    async def _live(self, request: Request, receive: Receive, send: Send) -> None:
        """Serve the WebSocket of one page: its reports go to `tabs`, and the messages of its tab to the page.

        A page that does not read, or sends an invalid message, is disconnected.
        """
        has_texts = trio.lowlevel.ParkingLot()
        tab = self._tabs.connect(has_texts.unpark_all, is_local=is_local(request))
        if tab is None:
            text = "the run is over" if self._tabs.is_over else "there are too many open pages"
            await Answer.of(503, text).send(request, send)
            return
        code: int | None = None

        async def listen() -> None:
            nonlocal code
            code = await self._listen(tab, receive)
            nursery.cancel_scope.cancel()

        try:
            await receive()  # websocket.connect
            await send({"type": "websocket.accept"})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                code = await self._send_texts(tab, has_texts, send)
                nursery.cancel_scope.cancel()
            if code is not None:
                await _close(code, receive, send)
        finally:
            self._tabs.disconnect(tab)

    async def _send_texts(self, tab: Tab, has_texts: trio.lowlevel.ParkingLot, send: Send) -> int:
        """Send the messages of a tab; return the code to close with."""
        while True:
            while (text := tab.take()) is not None:
                await send({"type": "websocket.send", "text": text})
            if self._tabs.is_over:
                return _GOING_AWAY
            if tab.is_overrun:
                return _TRY_AGAIN_LATER
            with trio.move_on_after(HEARTBEAT) as silence:
                await has_texts.park()
            if silence.cancelled_caught:
                tab.send(text_of("ping"))

    async def _listen(self, tab: Tab, receive: Receive) -> int | None:
        """Take the reports of a page; return the code to close with, none if the page has gone."""
        while (message := await receive())["type"] != "websocket.disconnect":
            try:
                page = read_page(message.get("text") or "")
            except msgspec.DecodeError:  # msgspec's ValidationError is a subclass
                return _POLICY_VIOLATION
            self._tabs.show(tab, page, trio.current_time())
        return None


async def _close(code: int, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.close", "code": code})
    # The server closes the connection when we return; the browser's own close frame would meet an error.
    with trio.move_on_after(CLOSE_LIMIT):
        while (await receive())["type"] != "websocket.disconnect":
            pass


async def _server_sent(view: View) -> AsyncGenerator[bytes, None]:
    async with aclosing(view.events(limit=MAX_EVENTS)) as events:
        async for event in events:
            # As in the JSON lines: only whole lines, without colours.
            if isinstance(event, OutputPaused):
                continue
            if isinstance(event, OutputLine):
                event = structs.replace(event, text=without_colours(event.text))  # noqa: PLW2901
            yield b"data: %s\n\n" % encode(event)  # noqa: ASYNC119 - `_stream` closes it
            if isinstance(event, RunEnded):
                break


async def _disconnected(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


async def _beat(send: Send, beat: bytes) -> None:
    while True:
        await send({"type": "http.response.body", "body": beat, "more_body": True})
        await trio.sleep(HEARTBEAT)


# --- ASGI ---


async def _read(receive: Receive, kind: type[_T], wanted: str) -> _T | Answer:
    """Receive a request's body, as JSON of a type; otherwise return the answer that says what is wrong."""
    body, has_more = b"", True
    while has_more and len(body) <= MAX_BODY:
        message = await receive()
        body += message.get("body", b"")
        has_more = message.get("more_body", False)
    if len(body) > MAX_BODY:
        return Answer.of(413, f"an order has at most {MAX_BODY} bytes")
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:  # ValidationError is a subclass of the former
        return Answer.of(400, f"{wanted}: {exc}")
