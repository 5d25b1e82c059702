"""One child: spawned into a session of its own, its output read, and all that it started ended with it.

A child is ``/bin/sh -c COMMAND`` at the head of a new session and process group, so that one signal reaches
all that it has started and none of it reaches us. It writes either to two pipes (and its standard input is a
third one that stays open and silent: watchers such as esbuild's end at once on ``/dev/null``), or, where a
`Window` is given, to a pseudo-terminal of its own, which is its controlling terminal: the shell opens it by
name once it leads its session, and a session leader without a terminal gets the one that it opens. No
``preexec_fn``: that is not safe in a process with threads.

When the leader ends the child has ended, whatever end-of-file says; what it has left behind is ended with it,
then its output is drained. To stop is: the stop signal, a bounded wait, SIGKILL. What has to be gone is its
family (`table.Family`): every living process of the session, and on Linux every one with the child's marks.

Not here: which child, why, and whether again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
from math import inf
from subprocess import PIPE
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import trio

from orchestra.child.families import Families, family_of
from orchestra.child.lines import LineSplitter
from orchestra.errors import OrchestraError
from orchestra.events import Exit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from orchestra.child.guard import Guard
    from orchestra.child.table import Family
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
# Once all are gone, only a process that is not ours can hold the pipes open: it is not waited for.
_LAST_WORDS = 0.5
# What the shell does before the command takes over; $1 is what it is done with. To open a terminal makes it
# the controlling one.
_LIMIT_FILES = 'ulimit -Sn "$1"'
_OPEN_TERMINAL = 'exec <>"$1" >&0 2>&0'


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
        is_gone: Whether nothing of it lives any more, and its number may belong to another process.
    """

    def __init__(self, family: Family, *, stop_signal: int, stop_timeout: float) -> None:
        self.pid = family.leader
        self.is_gone = False
        self._family = family
        self._stop_signal = stop_signal
        self._stop_timeout = stop_timeout
        self._stopping = trio.Event()
        self._killing = trio.Event()

    def __repr__(self) -> str:
        return f"<Child {self.pid}>"

    def stop(self) -> None:
        """Begin to end it: its stop signal, and SIGKILL after the stop timeout. Does not wait."""
        self._stopping.set()

    def signal(self, number: int) -> None:
        """Send a signal to its group, if anything is left of that."""
        if not self.is_gone:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    def kill(self) -> None:
        """End it at once, by SIGKILL. Does not wait."""
        self._stopping.set()
        self._killing.set()

    async def _until_gone(self, process: trio.Process, families: Families) -> None:
        """Wait for its end, and for that of what it leaves behind; give up when SIGKILL does not work."""
        async with trio.open_nursery() as nursery:

            async def escalate() -> None:
                await self._escalate_stop(families)
                nursery.cancel_scope.cancel()

            nursery.start_soon(escalate)
            await process.wait()
            if await families.is_alive(self._family):
                self.stop()
                await families.until_gone(self._family)
            self.is_gone = True
            nursery.cancel_scope.cancel()

    async def _escalate_stop(self, families: Families) -> None:
        await self._stopping.wait()
        if not self._killing.is_set():
            self._family.signal(self._stop_signal)
            await families.is_alive(self._family)  # members that have left the group are signalled now
            with trio.move_on_after(self._stop_timeout):
                await self._killing.wait()
        self._family.signal(signal.SIGKILL)
        await trio.sleep(_AFTER_KILL)


async def run_child(
    command: str | Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_output: OnOutput,
    stop_timeout: float,
    on_spawn: Callable[[Child], object] = lambda _: None,
    stop_signal: int = signal.SIGTERM,
    window: Window | None = None,
    families: Families | None = None,
    guard: Guard | None = None,
    soft_nofile: int | None = None,
) -> Exit:
    """Run a child to its end, and leave nothing of it behind.

    Resource handling: cancelled or not, when this returns or raises, its family is gone (or was sent SIGKILL
    and does not react), and all pipes are closed. To cancel is to kill; `Child.stop` asks first.

    Args:
        command: Text for ``/bin/sh -c``, or the words of a program to be executed as they are.
        cwd: The folder that it starts in.
        env: All of its environment. ``ORCHESTRA_RUN`` and ``ORCHESTRA_PROCESS``, if they are there, mark
            what belongs to it.
        on_output: Awaited with what was written; while it waits, so does that stream.
        stop_timeout: Seconds between the stop signal and SIGKILL.
        on_spawn: Called with the child as soon as there is one.
        stop_signal: What asks it to end.
        window: Gives it a terminal of that size.
        families: Looks for what it leaves behind; children of one run share it.
        guard: Is told of it for as long as anything of it is left.
        soft_nofile: How many files a command (not a program) may have open, if not as many as we.

    Raises:
        SpawnError: The system refused to start it.
    """
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    before = [(_LIMIT_FILES, str(soft_nofile))] if soft_nofile and isinstance(command, str) else []
    try:
        streams = await _spawn(argv, before, cwd, env, window)
    except (OSError, ValueError) as exc:  # ValueError: a NUL byte
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        what = "cannot" if isinstance(command, str) else f"{argv[0]} cannot"
        raise SpawnError(f"{what} be started in {cwd}: {reason}") from exc
    process, families = streams.process, families or Families()
    family = family_of(process.pid, env)
    child = Child(family, stop_signal=stop_signal, stop_timeout=stop_timeout)
    if guard is not None:
        guard.spawned(family, stop_signal=stop_signal, stop_timeout=stop_timeout)
    try:
        async with trio.open_nursery() as nursery:
            pumps = await nursery.start(_pump_all, streams.readable, on_output)
            on_spawn(child)
            await child._until_gone(process, families)  # noqa: SLF001 - we are Child's other half
            await pumps.drain()
            nursery.cancel_scope.cancel()
    finally:
        if not child.is_gone:
            family.signal(signal.SIGKILL)
            with trio.move_on_after(_AFTER_KILL, shield=True):
                await process.wait()
                await families.until_gone(family)
        with trio.move_on_after(_AFTER_KILL, shield=True):
            await streams.aclose(window)
        if guard is not None:
            guard.emptied(family)
    return Exit.from_returncode(-signal.SIGKILL if process.returncode is None else process.returncode)


class _Streams(NamedTuple):
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


async def _spawn(
    argv: Sequence[str],
    before: Sequence[tuple[str, str]],
    cwd: Path,
    env: Mapping[str, str],
    window: Window | None,
) -> _Streams:
    """Start a program in a session of its own.

    Args:
        argv: Its words.
        before: What the shell is to do first: pieces of script, and the word that each uses as ``$1``.
        cwd: Its folder.
        env: Its environment.
        window: Gives it a terminal.
    """
    if window is None:
        process = await trio.lowlevel.open_process(
            _prefixed(argv, before),
            cwd=cwd,
            env=dict(env),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None  # noqa: S101 - asked for
        assert process.stderr is not None  # noqa: S101
        return _Streams(process, {"stdout": process.stdout, "stderr": process.stderr})
    ours, theirs = os.openpty()
    try:
        _make_plain(theirs)
        window.add(ours)
        process = await trio.lowlevel.open_process(
            _prefixed(argv, [(_OPEN_TERMINAL, os.ttyname(theirs)), *before]),
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


def _prefixed(argv: Sequence[str], before: Sequence[tuple[str, str]]) -> list[str]:
    if not before:
        return list(argv)
    script = "".join(f"{piece}; shift; " for piece, _ in before) + 'exec "$@"'
    return ["/bin/sh", "-c", script, "sh", *(word for _, word in before), *argv]


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
                except trio.BrokenResourceError:  # EIO: no process has the terminal open any more
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
                # From now, not from when it came: while it was delivered, more could not be read.
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


async def _pump_all(
    readable: Mapping[StreamName, trio.abc.ReceiveStream],
    on_output: OnOutput,
    *,
    task_status: trio.TaskStatus[_Pumps],
) -> None:
    splitters = {name: LineSplitter() for name in readable}
    async with trio.open_nursery() as nursery:
        pumps = _Pumps(on_output, nursery.cancel_scope)
        for name, stream in readable.items():
            nursery.start_soon(pumps.pump, name, stream, splitters[name])
        task_status.started(pumps)
    for name, splitter in splitters.items():
        await pumps.deliver(name, splitter.close(), None)
    pumps.done.set()
