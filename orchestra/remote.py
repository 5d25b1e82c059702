"""Reaches runs of this user from another program: which there are, their state, and orders to them.

Each run has a unix socket, on which its control app speaks HTTP (`control/app`). A socket that does not
accept connections is left over from a killed run, and is ignored. Before anything is sent, the peer is
checked to be a process of this user.

Everything here blocks, and needs no trio, so that a command with one request is fast.

Not here: what is printed (`commands`), what the run does (`control/local`).
"""

from __future__ import annotations

import os
import socket
from contextlib import closing, contextmanager, suppress
from http.client import OK, HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from orchestra import unix_sockets
from orchestra.config.plan import base_name
from orchestra.control.local import Order, Place, RunState
from orchestra.errors import OrchestraError
from orchestra.events import Event, RunEnded, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from orchestra.events import StateChanged

__all__ = ["NoRun", "RunningRun", "choose", "find"]

# Seconds for an answer: a run has the answers in memory, but for an order it may read files again.
_TIMEOUT = 10.0
_ORDER_TIMEOUT = 30.0
# Seconds without an event, and without the heartbeat that replaces it.
_SILENCE = 60.0
_PIECE = 65536
_HOW_TO_START = "Start one: orchestra run."


class NoRun(OrchestraError):  # noqa: N818 - nothing went wrong
    """There is no run, or several (`is_unclear`), or no such process in it, or it refuses an order."""

    exit_code = 2
    is_unclear = False


class _Connection(HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float = _TIMEOUT) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))
        if unix_sockets.peer_uid(self.sock) != os.getuid():
            self.close()
            raise PermissionError(f"{self._path} is another user's")


class RunningRun:
    """A run of this user, in any process: its socket, and its state at the last request."""

    def __init__(self, path: Path, state: RunState) -> None:
        self.path = path
        self.state = state

    def __str__(self) -> str:
        state = self.state
        return f"pid {state.pid} ({', '.join(filter(None, (state.procfile or state.root, state.url)))})"

    @property
    def root(self) -> Path:
        """The project's folder."""
        return Path(self.state.root).resolve()

    def refresh(self) -> RunState:
        """Get its current state; `NoRun` if it has ended meanwhile."""
        self.state = _state(self.path)
        return self.state

    def missing(self) -> Sequence[str]:
        """Get the processes that are not up yet."""
        _, body = _ask(self.path, "GET", "readyz")
        return [each["process"] for each in msgspec.json.decode(body)["missing"]]

    def order(self, **fields: Any) -> int:
        """Send an `Order`, or `NoRun` if it is refused; return how many processes or pages it is for."""
        count: int = msgspec.json.decode(self._post("order", Order(**fields)))["count"]
        return count

    def watch(self) -> Iterator[list[Event]]:
        """Give the past events and then new ones, as they come, until the run has ended.

        `NoRun` if the run has ended without its last event: it was killed. Or it has closed the stream,
        because this job was suspended and did not read.
        """
        with closing(_Connection(self.path)) as connection, _as_no_run():
            connection.request("GET", "/__orchestra__/watch")
            answer = connection.getresponse()
            if answer.status != OK:
                raise NoRun(answer.read().decode("utf-8", "replace").strip())
            connection.sock.settimeout(_SILENCE)
            rest, events = b"", list[Event]()
            while not any(isinstance(event, RunEnded) for event in events):
                data = b""
                with suppress(OSError, HTTPException, ValueError):  # The last one: of a chunk's size.
                    data = answer.read1(_PIECE)
                if not data:
                    self.refresh()
                    raise NoRun("the run goes on, but was not listened to", hint="Attach again.")
                *lines, rest = (rest + data).split(b"\n")
                events = list(_known(lines))
                yield events

    def place(self, name: str | None) -> Place:
        """Get the folder and the environment of a process, by default the backend, or `NoRun`."""
        if name is not None:
            self.named([name])
        return msgspec.json.decode(self._post("place", name), type=Place)

    def _post(self, what: str, content: object) -> bytes:
        status, body = _ask(self.path, "POST", what, msgspec.json.encode(content))
        if status != OK:
            raise NoRun(body.decode("utf-8", "replace").strip())
        return body

    def named(self, names: Iterable[str]) -> list[str]:
        """Give the processes of these names, or `NoRun`: ``web`` means ``web.1`` and ``web.2``, too."""
        known = [each.process for each in self.state.processes]
        found: list[str] = []
        for name in names:
            meant = [each for each in known if name in (each, base_name(each))]
            if not meant:
                raise NoRun(f"there is no process called {name}", hint=f"There are {', '.join(known)}.")
            found += [each for each in meant if each not in found]
        return found

    def processes(self, names: Sequence[str]) -> list[StateChanged]:
        """Give the newest states of some processes, by name."""
        return [each for each in self.state.processes if each.process in names]


def find(environ: Mapping[str, str]) -> list[RunningRun]:
    """Find all runs of this user."""
    found = []
    for path in unix_sockets.find(environ):
        if not _is_suspended(path):
            with suppress(NoRun):
                found.append(RunningRun(path, _state(path)))
    return found


def _is_suspended(path: Path) -> bool:
    """Whether the run of a socket does not answer because of Ctrl-Z; known on Linux only."""
    with suppress(OSError, IndexError):
        status = Path(f"/proc/{path.name.partition('.')[0]}/stat").read_bytes()
        return status.rpartition(b")")[2].split()[0] in (b"T", b"t")  # proc(5): the state
    return False


def choose(environ: Mapping[str, str], folder: Path, *, pid: int | None = None) -> RunningRun:
    """Find the run with this pid, otherwise that of the project in a folder; `NoRun` if it is ambiguous."""
    runs = find(environ)
    if pid is not None:
        meant = [run for run in runs if run.state.pid == pid]
        where = f"with pid {pid}"
    else:
        inside = [run for run in runs if folder.is_relative_to(run.root)]
        deepest = max((len(run.root.parts) for run in inside), default=0)
        meant = [run for run in inside if len(run.root.parts) == deepest]
        where = f"in {folder}"
    if len(meant) == 1:
        return meant[0]
    if meant:
        listed = "; ".join(map(str, meant))
        error = NoRun(f"there are {len(meant)} runs {where}: {listed}", hint="Choose one: --run PID.")
        error.is_unclear = True
        raise error
    hint = _HOW_TO_START
    if suspended := [
        path.name.partition(".")[0] for path in unix_sockets.find(environ) if _is_suspended(path)
    ]:
        hint = f"A run is suspended (pid {', '.join(suspended)}): `fg` in its terminal continues it."
    elif runs:
        hint = f"Choose one with --run PID: {'; '.join(map(str, runs))}."
    raise NoRun(f"there is no run {where}", hint=hint)


def _state(path: Path) -> RunState:
    _, body = _ask(path, "GET", "state")
    try:
        return msgspec.json.decode(body, type=RunState)
    except msgspec.DecodeError as exc:
        raise NoRun(f"{path} is a run of another version of orchestra: {exc}") from exc


def _ask(path: Path, method: str, name: str, body: bytes | None = None) -> tuple[int, bytes]:
    """Send one request to a run, and read the answer: its status, and its body."""
    timeout = _TIMEOUT if body is None else _ORDER_TIMEOUT
    with closing(_Connection(path, timeout)) as connection, _as_no_run():
        connection.request(method, f"/__orchestra__/{name}", body)
        answer = connection.getresponse()
        return answer.status, answer.read()


@contextmanager
def _as_no_run() -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise NoRun("the run does not answer", hint="It may be suspended: `fg` continues it.") from exc
    except (OSError, HTTPException) as exc:
        raise NoRun("the run has ended", hint=_HOW_TO_START) from exc


def _known(lines: Iterable[bytes]) -> Iterator[Event]:
    """Decode events, except those of a later version."""
    for line in filter(None, lines):
        with suppress(msgspec.ValidationError):
            yield decode(line)
