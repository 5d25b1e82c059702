"""One child: spawned into a session of its own, its output pumped, all that it started ended with it.

A child is ``/bin/sh -c COMMAND`` at the head of a new session and process group, so that one signal reaches
all that it has started and none of it reaches us. It writes either to two pipes (and its standard input is a
third one that nobody writes to: watchers such as esbuild's end at once on ``/dev/null``), or, where a
`Window` is given, to a pseudo-terminal of its own, which is its controlling terminal: the shell opens it by
name once it leads its session, and a session leader without a terminal gets the one that it opens. No
``preexec_fn``: that is not safe in a process with threads.

When the leader ends the child has ended, whatever end-of-file says; what it has left behind is ended with it,
then its output is drained. To stop is: SIGTERM, a bounded wait, SIGKILL. What has to be gone is every living
process of the session, and on Linux every one that carries the child's mark in its environment, which finds
daemons that have left the session. The group is signalled as one; the others one by one, each only while it
is the very process that was found.

Never here: which child, why, and whether again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
import time
from dataclasses import dataclass
from functools import partial
from math import inf
from subprocess import PIPE
from typing import TYPE_CHECKING, TypeAlias

import trio

from orchestra.child import table
from orchestra.child.lines import LineSplitter
from orchestra.errors import OrchestraError
from orchestra.events import Exit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from orchestra.events import StreamName

__all__ = ["Child", "OnOutput", "SpawnError", "Window", "run_child"]

# With the stream's name, the lines that were completed, and the beginning of the next one: that only when its
# writer has paused, or has been at it for long enough that people want to see it; else None.
OnOutput: TypeAlias = "Callable[[StreamName, Sequence[str], str | None], Awaitable[None]]"

_CHUNK = 65536
# How long a line may be unfinished before its beginning is shown: a prompt has to be there at once (0.1 s is
# what people take for that), but a line in two pieces is the rule when a child writes much.
_PARTIAL_AFTER = 0.08
# After SIGKILL a process can linger in the kernel (a dead network file system), but we can do nothing more.
_AFTER_KILL = 2.0
# Once all are gone, only a stranger can hold the pipes open: it is not waited for.
_LAST_WORDS = 0.5
# The variables that tell whose a process is.
_MARKS = ("ORCHESTRA_RUN", "ORCHESTRA_PROCESS")
# Is there, too, if there may be two of a process at once.
_EXTRA_MARK = "ORCHESTRA_CHILD"
# $1 is the terminal's name. To open it makes it the controlling one; then the command takes over.
_ON_TERMINAL = 'exec <>"$1" >&0 2>&0; shift; exec "$@"'


class SpawnError(OrchestraError):
    """The system refused to start a child: a folder or program is missing, or there is no room for it."""


class Window:
    """The size of the terminals of all children, in character cells.

    Attributes:
        columns: How wide they are.
        lines: How high.
    """

    def __init__(self, columns: int, lines: int) -> None:
        self.columns = columns
        self.lines = lines
        self._terminals: set[int] = set()

    def __repr__(self) -> str:
        return f"<Window {self.columns}x{self.lines} of {len(self._terminals)} terminals>"

    def resize(self, columns: int, lines: int) -> None:
        """Make all terminals as large; the kernel tells their processes by SIGWINCH."""
        self.columns, self.lines = columns, lines
        for terminal in self._terminals:
            self._apply(terminal)

    def add(self, terminal: int) -> None:
        """Have a terminal follow from now on."""
        self._terminals.add(terminal)
        self._apply(terminal)

    def discard(self, terminal: int) -> None:
        """Forget a terminal, before it is closed."""
        self._terminals.discard(terminal)

    def _apply(self, terminal: int) -> None:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetwinsize(terminal, (self.lines, self.columns))


class Child:
    """A running child. Made by `run_child` only.

    Attributes:
        pid: Of the leader, and the number of its group and its session.
    """

    def __init__(self, pid: int, *, marks: Mapping[str, str], stop_signal: int, stop_timeout: float) -> None:
        self.pid = pid
        self._marks = marks
        self._stop_signal = stop_signal
        self._stop_timeout = stop_timeout
        self._stopping = trio.Event()
        self._killing = trio.Event()
        self._is_gone = False
        self._asked_at = inf
        self._latecomers: set[tuple[int, float]] = set()

    def __repr__(self) -> str:
        return f"<Child {self.pid}>"

    def stop(self) -> None:
        """Begin to end it: its stop signal, and SIGKILL after the stop timeout. Does not wait."""
        self._stopping.set()

    def signal(self, number: int) -> None:
        """Send a signal to its group, if there is still somebody in it."""
        if self._is_gone:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def kill(self) -> None:
        """End it at once, by SIGKILL. Does not wait."""
        self._stopping.set()
        self._killing.set()

    async def _descend_the_ladder(self) -> bool:
        """Once asked to, ask, wait, kill; return whether that has worked."""
        await self._stopping.wait()
        if not self._killing.is_set():
            self._asked_at = _moment()
            await self._signal(self._stop_signal)
            with trio.move_on_after(self._stop_timeout):
                await self._killing.wait()
        with trio.move_on_after(_AFTER_KILL):
            await self._kill_all()
            return True
        return False

    async def _kill_all(self) -> None:
        """Kill until nobody is left: who forks while being killed is found the next time."""
        pause = 0.01
        while True:
            await self._signal(signal.SIGKILL)
            await trio.sleep(pause)
            if await trio.to_thread.run_sync(self._is_alone):
                return
            pause = min(pause * 2, 0.2)

    async def _signal(self, number: int) -> None:
        """Signal the group, and whoever else is of the family."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self.pid, number)

        def signal_if_outside(entry: table.Entry) -> None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(entry.pid) != self.pid and table.is_still_there(entry):
                    os.kill(entry.pid, number)

        await trio.to_thread.run_sync(partial(self._family, on_found=signal_if_outside))

    def _family(self, *, on_found: Callable[[table.Entry], object] = lambda _: None) -> list[table.Entry]:
        return table.family(self.pid, self._marks, on_found=on_found)

    def _is_alone(self) -> bool:
        return not self._family()

    async def _empty(self) -> None:
        """Wait until nobody of the family lives; begin to stop what the leader has left behind."""
        pause = 0.01
        while left := await trio.to_thread.run_sync(self._family):
            self.stop()
            self._ask_latecomers(left)
            await trio.sleep(pause)
            pause = min(pause * 2, 0.2)

    def _ask_latecomers(self, left: Sequence[table.Entry]) -> None:
        """Ask those to end, once, who were forked when all had just been asked: they have heard nothing."""
        for entry in left:
            who = (entry.pid, entry.started)
            if entry.started >= self._asked_at and who not in self._latecomers:
                self._latecomers.add(who)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(entry.pid, self._stop_signal)


def _moment() -> float:
    """The present moment in the unit of `table.Entry.started`: who has started since has no less."""
    if sys.platform != "linux":
        return time.time()
    return float(int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")))


async def run_child(
    command: str | Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_spawn: Callable[[Child], object],
    on_output: OnOutput,
    stop_timeout: float,
    stop_signal: int = signal.SIGTERM,
    window: Window | None = None,
) -> Exit:
    """Run a child to its end, and leave nothing of it behind.

    Resource handling: cancelled or not, when this returns or raises, its family is gone (or was sent SIGKILL
    and does not react), and all pipes are closed. To cancel is to kill; `Child.stop` asks first.

    Args:
        command: Text for ``/bin/sh -c``, or the words of a program to be executed as they are.
        cwd: The folder that it starts in.
        env: All of its environment. ``ORCHESTRA_RUN`` and ``ORCHESTRA_PROCESS``, if they are there, mark
            what belongs to it.
        on_spawn: Called with the child as soon as there is one.
        on_output: Awaited with what was written; while it waits, so does that stream.
        stop_timeout: Seconds between the stop signal and SIGKILL.
        stop_signal: What asks it to end.
        window: Gives it a terminal of that size.

    Raises:
        SpawnError: There was none.
    """
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    try:
        streams = await _spawn(argv, cwd, env, window)
    except (OSError, ValueError) as exc:  # ValueError: a NUL byte
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        what = "cannot" if isinstance(command, str) else f"{argv[0]} cannot"
        raise SpawnError(f"{what} be started in {cwd}: {reason}") from exc
    process = streams.process
    marks = {name: env[name] for name in _MARKS if name in env}
    if len(marks) < len(_MARKS):
        marks = {}
    elif _EXTRA_MARK in env:
        marks[_EXTRA_MARK] = env[_EXTRA_MARK]
    child = Child(
        process.pid,
        marks=marks,
        stop_signal=stop_signal,
        stop_timeout=stop_timeout,
    )
    try:
        async with trio.open_nursery() as nursery:
            ladder = trio.CancelScope()

            async def descend() -> None:
                with ladder:
                    if not await child._descend_the_ladder():  # noqa: SLF001 - we are Child's other half
                        nursery.cancel_scope.cancel()  # not even SIGKILL was heeded: wait no longer

            nursery.start_soon(descend)
            pumps = await nursery.start(_pump_all, streams, on_output)
            on_spawn(child)
            await process.wait()
            await child._empty()  # noqa: SLF001
            child._is_gone = True  # noqa: SLF001 - its number may belong to somebody else from here on
            ladder.cancel()
            await pumps.drain()
            nursery.cancel_scope.cancel()
    finally:
        if not child._is_gone:  # noqa: SLF001
            with trio.move_on_after(_AFTER_KILL, shield=True):
                await child._kill_all()  # noqa: SLF001
                await process.wait()
        with trio.move_on_after(_AFTER_KILL, shield=True):
            await streams.aclose(window)
    return Exit.from_returncode(-signal.SIGKILL if process.returncode is None else process.returncode)


@dataclass(frozen=True, slots=True)
class _Streams:
    """A process and what it is read from.

    Attributes:
        readable: The streams, by the names that they have in events.
        terminal: The descriptor of its terminal's other side; ``None`` if it has pipes.
    """

    process: trio.Process
    readable: dict[StreamName, trio.abc.ReceiveStream]
    terminal: int | None = None

    async def aclose(self, window: Window | None) -> None:
        if window is not None and self.terminal is not None:
            window.discard(self.terminal)
        for stream in self.readable.values():
            await stream.aclose()
        if self.process.stdin is not None:
            await self.process.stdin.aclose()


async def _spawn(argv: Sequence[str], cwd: Path, env: Mapping[str, str], window: Window | None) -> _Streams:
    if window is None:
        process = await trio.lowlevel.open_process(
            argv, cwd=cwd, env=dict(env), stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
        assert process.stdout is not None  # noqa: S101 - asked for
        assert process.stderr is not None  # noqa: S101
        return _Streams(process, {"stdout": process.stdout, "stderr": process.stderr})
    ours, theirs = os.openpty()
    try:
        _make_plain(theirs)
        window.add(ours)
        process = await trio.lowlevel.open_process(
            ["/bin/sh", "-c", _ON_TERMINAL, "sh", os.ttyname(theirs), *argv],
            cwd=cwd,
            env=dict(env),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
    except BaseException:
        window.discard(ours)
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return _Streams(process, {"pty": trio.lowlevel.FdStream(ours)}, ours)


def _make_plain(terminal: int) -> None:
    """Have a terminal pass on what is written as it is, line ends too, and not show what is typed."""
    mode = termios.tcgetattr(terminal)
    mode[1] &= ~termios.OPOST
    mode[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, mode)


class _Pumps:
    """Reads all streams of a child for as long as there is something to read."""

    def __init__(self, on_output: OnOutput, scope: trio.CancelScope) -> None:
        self._on_output = on_output
        self._scope = scope
        self._chunks = 0
        self._delivering = 0
        self.done = trio.Event()

    async def pump(self, name: StreamName, stream: trio.abc.ReceiveStream, splitter: LineSplitter) -> None:
        shown, deadline = "", inf
        while True:
            with trio.move_on_at(deadline) as patience:
                try:
                    chunk = await stream.receive_some(_CHUNK)
                except trio.BrokenResourceError:  # EIO: nobody has the terminal open any more
                    return
            if patience.cancelled_caught:
                shown, deadline = splitter.partial(), inf
                await self.deliver(name, (), shown)
                continue
            if not chunk:
                return
            self._chunks += 1
            lines = splitter.feed(bytes(chunk))
            partial = splitter.partial()
            if lines:
                shown, deadline = "", inf
            is_due = partial != shown and trio.current_time() >= deadline  # a progress bar never pauses
            if is_due:
                shown, deadline = partial, inf
            await self.deliver(name, lines, partial if is_due else None)
            if partial == shown:
                deadline = inf
            elif deadline == inf:
                # From now, not from when it came: whoever has kept us waiting was not waiting for this.
                deadline = trio.current_time() + _PARTIAL_AFTER

    async def deliver(self, name: StreamName, lines: Sequence[str], partial: str | None) -> None:
        if lines or partial is not None:
            self._delivering += 1
            await self._on_output(name, lines, partial)
            self._delivering -= 1

    async def drain(self) -> None:
        """Wait for the end of all streams; give up when nothing comes although we would take it."""
        while not self.done.is_set():
            before = self._chunks
            with trio.move_on_after(_LAST_WORDS):
                await self.done.wait()
            if self._chunks == before and not self._delivering:
                self._scope.cancel()
                await self.done.wait()


async def _pump_all(streams: _Streams, on_output: OnOutput, *, task_status: trio.TaskStatus[_Pumps]) -> None:
    splitters = {name: LineSplitter() for name in streams.readable}
    async with trio.open_nursery() as nursery:
        pumps = _Pumps(on_output, nursery.cancel_scope)
        for name, stream in streams.readable.items():
            nursery.start_soon(pumps.pump, name, stream, splitters[name])
        task_status.started(pumps)
    for name, splitter in splitters.items():
        await pumps.deliver(name, splitter.close(), None)
    pumps.done.set()
