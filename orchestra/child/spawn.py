"""One child: spawned into a session of its own, its output read, and its whole process tree ended with it.

A child is ``/bin/sh -c COMMAND`` at the head of a new session and process group, so that one signal reaches
everything that it has started and never us. It writes to two pipes; its standard input is a third one that
stays open and silent, because watchers such as esbuild's end at once on ``/dev/null``. Or, if a `Window` is
given, it has a pseudo-terminal of its own as its controlling terminal: the shell opens it by name once it
leads its session, and a session leader without a terminal gets the one that it opens. No ``preexec_fn``: that
is not safe in a process with threads.

A child has ended when its leader has, even if its pipes are still open; then the remaining processes are
ended, and the output is drained. Stopping is: the stop signal, a bounded wait, SIGKILL. What has to be gone
is the family (`table.Family`): every living process of the session, and on Linux every one with the child's
marks.

Not here: which child, why, and whether again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
from math import inf
from subprocess import PIPE
from typing import TYPE_CHECKING, Literal, TypeAlias

import trio
from trio.lowlevel import FdStream

from orchestra.child.families import Families, family_of
from orchestra.child.lines import LineSplitter
from orchestra.errors import OrchestraError
from orchestra.events import Exit, StreamName

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from orchestra.child.guard import Guard
    from orchestra.child.table import Family

__all__ = ["Child", "OnOutput", "SpawnError", "Window", "run_child"]

# Called with the stream's name, the complete lines, and the beginning of the next one if its writer has
# paused, or has been writing it for so long that people want to see it; otherwise None.
OnOutput: TypeAlias = "Callable[[StreamName, Sequence[str], str | None], Awaitable[None]]"
_StreamName: TypeAlias = "StreamName | Literal['stdin']"

_PIPES: tuple[_StreamName, ...] = ("stdin", "stdout", "stderr")
_CHUNK = 65536
# How long a line may be unfinished before its beginning is shown: a prompt has to appear at once (people
# perceive 0.1 s as immediate), but a busy child often writes a line in two pieces.
_PARTIAL_AFTER = 0.08
# Processes that stop at once are looked for once, after their end: a second scan would have to wait.
_QUICK_END = 0.2
# Seconds after SIGKILL: a process stuck in the kernel (a dead network file system) is not waited for longer.
_AFTER_KILL = 2.0
# The kernel buffers some KiB that a child does not read; a longer text waits this many seconds.
_SEND_TIMEOUT = 2.0
# Once all are gone, only a foreign process can hold the pipes open: after so many seconds without output, it
# is not waited for.
_STALL_TIMEOUT = 0.5
# The shell's work with $1 before it executes the command. Opening a terminal makes it the controlling one.
_LIMIT_FILES = 'ulimit -Sn "$1"'
_OPEN_TERMINAL = 'exec <>"$1" >&0 2>&0'


class SpawnError(OrchestraError):
    """The system refused to start a child: a folder or program is missing, or there is no room for it."""


class Window:
    """The size of the terminals of all children, in character cells.

    Attributes:
        echoes: Whether their input is echoed, as terminals do: nothing else shows it.
    """

    def __init__(self, columns: int, lines: int, *, echoes: bool = False) -> None:
        self.columns = columns
        self.lines = lines
        self.echoes = echoes
        self._terminals: list[FdStream] = []

    def __repr__(self) -> str:
        return f"<Window {self.columns}x{self.lines} of {len(self._open_ones())} terminals>"

    def resize(self, columns: int, lines: int) -> None:
        """Resize all terminals; the kernel notifies their processes by SIGWINCH."""
        self.columns, self.lines = columns, lines
        for terminal in self._open_ones():
            self._apply(terminal)

    def add(self, terminal: FdStream) -> None:
        """Resize a terminal with this window from now on, until it is closed."""
        self._terminals = [*self._open_ones(), terminal]
        self._apply(terminal)

    def _open_ones(self) -> list[FdStream]:
        return [each for each in self._terminals if each.fileno() >= 0]

    def _apply(self, terminal: FdStream) -> None:
        with contextlib.suppress(OSError, termios.error):
            termios.tcsetwinsize(terminal.fileno(), (self.lines, self.columns))


class Child:
    """A running child. Made by `run_child` only.

    Attributes:
        pid: The leader's pid, which is also the number of its process group and session.
        is_gone: Whether no process of it lives, so that its number may belong to another process.
    """

    def __init__(
        self,
        process: trio.Process,
        family: Family,
        families: Families,
        stop_signal: int,
        stop_timeout: float,
        *,
        stdin: FdStream,
    ) -> None:
        self.pid = process.pid
        self.family = family
        self.is_gone = False
        self._process = process
        self._families = families
        self._stop_signal = stop_signal
        self._stop_timeout = stop_timeout
        self._stopping = trio.Event()
        self._killing = trio.Event()
        self._stdin = stdin
        self._sending = trio.Lock()

    def __repr__(self) -> str:
        return f"<Child {self.pid}>"

    def stop(self) -> None:
        """Begin to end it: its stop signal, and SIGKILL after the stop timeout. Does not wait."""
        self._stopping.set()

    def signal(self, number: int) -> None:
        """Send a signal to its group, if any member is left."""
        if not self.is_gone:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, number)

    async def send(self, data: bytes) -> None:
        """Write to its standard input; `OrchestraError` if it has closed that, or does not read."""
        try:
            with trio.fail_after(_SEND_TIMEOUT):
                async with self._sending:
                    await self._stdin.send_all(data)
        except trio.TooSlowError as exc:
            raise OrchestraError("it does not read its standard input") from exc
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise OrchestraError("it has closed its standard input") from exc

    def kill(self) -> None:
        """End it at once, by SIGKILL. Does not wait."""
        self._stopping.set()
        self._killing.set()

    async def _until_gone(self) -> None:
        """Wait for its end and that of the processes it leaves behind; give up if SIGKILL does not work."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._escalate_stop, nursery.cancel_scope)
            await self._process.wait()
            if await self._families.is_alive(self.family):
                self.stop()
                await self._families.until_gone(self.family)
            self.is_gone = True
            nursery.cancel_scope.cancel()

    async def _escalate_stop(self, waiting: trio.CancelScope) -> None:
        await self._stopping.wait()
        if not self._killing.is_set():
            self.family.signal(self._stop_signal)
            deadline = trio.current_time() + self._stop_timeout
            with trio.move_on_after(min(_QUICK_END, self._stop_timeout)):  # cancelled at its end
                await self._killing.wait()
            await self._families.is_alive(self.family)  # members that have left the group are signalled now
            with trio.move_on_at(deadline):
                await self._killing.wait()
        self.family.signal(signal.SIGKILL)
        await trio.sleep(_AFTER_KILL)
        waiting.cancel()


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
    pass_fds: Sequence[int] = (),
) -> Exit:
    """Run a child to its end, and leave no process of it behind.

    Cancelled or not, when this returns or raises (`SpawnError`: the system refused to start it), its family
    is gone, or was sent SIGKILL and does not react, and all pipes are closed. Cancelling kills the child;
    `Child.stop` stops it gracefully.

    Args:
        command: Text for ``/bin/sh -c``, or the words of a program to be executed as they are.
        cwd: The folder that it starts in.
        env: All of its environment; ``ORCHESTRA_RUN`` and ``ORCHESTRA_PROCESS`` mark its processes.
        on_output: Awaited with the output; while it waits, so does that stream.
        stop_timeout: Seconds between the stop signal and SIGKILL.
        on_spawn: Called with the child as soon as there is one.
        stop_signal: The signal that asks it to end.
        window: Gives it a terminal of that size.
        families: Finds the processes that it leaves behind; children of one run share it.
        guard: Knows of it for as long as any process of it is left.
        soft_nofile: The soft limit of open files of a command (not a program), if it differs from ours.
        pass_fds: Descriptors that it gets beside its input and output, by the same numbers.
    """
    process, streams = await _start(command, cwd, env, window, soft_nofile, pass_fds=pass_fds)
    family, stdin = family_of(process.pid, env), streams["stdin" if window is None else "pty"]
    child = Child(process, family, families or Families(), stop_signal, stop_timeout, stdin=stdin)
    output = _Output(streams, on_output, window)
    if guard is not None:
        guard.spawned(child.family, stop_signal=stop_signal, stop_timeout=stop_timeout)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.read)
            on_spawn(child)
            await child._until_gone()  # noqa: SLF001 - we are Child's other half
            await output.drain()
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(_AFTER_KILL, shield=True):
            if not child.is_gone:
                child.kill()
                await child._until_gone()  # noqa: SLF001
        output.close()
        if guard is not None and child.is_gone:
            guard.emptied(child.family)
    return Exit.from_returncode(-signal.SIGKILL if process.returncode is None else process.returncode)


async def _start(
    command: str | Sequence[str],
    cwd: Path,
    env: Mapping[str, str],
    window: Window | None,
    soft_nofile: int | None,
    *,
    pass_fds: Sequence[int],
) -> tuple[trio.Process, dict[_StreamName, FdStream]]:
    """Start a process at the head of a session; return it with its pipes or terminal."""
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    if soft_nofile and isinstance(command, str):
        argv = _after(_LIMIT_FILES, str(soft_nofile), argv)
    ours = theirs = process = None
    try:
        if window is not None:
            terminal, theirs = os.openpty()
            ours = FdStream(terminal)
            window.add(ours)
            _make_plain(theirs, echoes=window.echoes)
            argv = _after(_OPEN_TERMINAL, os.ttyname(theirs), argv)
        end = PIPE if theirs is None else theirs
        process = await trio.lowlevel.open_process(
            argv,
            cwd=cwd,
            env=dict(env),
            stdin=end,
            stdout=end,
            stderr=end,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    except (OSError, ValueError) as exc:  # ValueError: a NUL byte
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        what = "cannot" if isinstance(command, str) else f"{command[0]} cannot"
        raise SpawnError(f"{what} be started in {cwd}: {reason}") from exc
    finally:
        if theirs is not None:
            os.close(theirs)
        if ours is not None and process is None:
            ours.close()
    if ours is not None:
        return process, {"pty": ours}
    return process, {name: getattr(process, name) for name in _PIPES}


def _after(script: str, word: str, argv: Sequence[str]) -> list[str]:
    """Wrap a program so that a shell first runs a script with a word."""
    return ["/bin/sh", "-c", f'{script}; shift; exec "$@"', "sh", word, *argv]


def _make_plain(terminal: int, *, echoes: bool) -> None:
    """Set a terminal to pass output unchanged, line ends too, and to echo input only if requested."""
    mode = termios.tcgetattr(terminal)
    mode[1] &= ~termios.OPOST
    if not echoes:
        mode[3] &= ~termios.ECHO
    termios.tcsetattr(terminal, termios.TCSANOW, mode)


class _Output:
    """Reads all streams of a child until their end."""

    def __init__(
        self, streams: Mapping[_StreamName, FdStream], on_output: OnOutput, window: Window | None
    ) -> None:
        self._streams = streams
        self._on_output = on_output
        self._window = window
        self._reading = trio.CancelScope()
        self._chunks = 0
        self._delivering = 0
        self._done = trio.Event()

    async def read(self) -> None:
        splitters = {name: LineSplitter() for name in self._streams if name != "stdin"}
        with self._reading:
            async with trio.open_nursery() as nursery:
                for name, splitter in splitters.items():
                    nursery.start_soon(self._read, name, self._streams[name], splitter)
        for name, splitter in splitters.items():
            await self._deliver(name, splitter.close(), None)
        self._done.set()

    async def drain(self) -> None:
        """Wait for the end of all streams; give up when nothing arrives although we are reading."""
        while not self._done.is_set():
            before = self._chunks
            with trio.move_on_after(_STALL_TIMEOUT):
                await self._done.wait()
            if self._chunks == before and not self._delivering:
                self._reading.cancel()
                await self._done.wait()

    def close(self) -> None:
        for stream in self._streams.values():
            stream.close()

    async def _read(self, name: StreamName, stream: FdStream, splitter: LineSplitter) -> None:
        shown, deadline = "", inf
        while True:
            with trio.move_on_at(deadline) as pause:
                try:
                    chunk = await stream.receive_some(_CHUNK)
                except trio.BrokenResourceError:  # EIO: no process has the terminal open any more
                    return
            lines: list[str] = []
            if not pause.cancelled_caught:
                if not chunk:
                    return
                self._chunks += 1
                if self._window is not None:
                    splitter.resize(self._window.columns)
                lines = splitter.feed(chunk)
            partial = splitter.partial()
            if lines:
                shown, deadline = "", inf
            is_due = partial != shown and trio.current_time() >= deadline  # a progress bar never pauses
            if is_due:
                shown, deadline = partial, inf
            await self._deliver(name, lines, partial if is_due else None)
            if partial == shown:
                deadline = inf
            elif deadline == inf:
                # From now, not from its arrival: nothing more could be read during its delivery.
                deadline = trio.current_time() + _PARTIAL_AFTER

    async def _deliver(self, name: StreamName, lines: Sequence[str], partial: str | None) -> None:
        if lines or partial is not None:
            self._delivering += 1
            await self._on_output(name, lines, partial)
            self._delivering -= 1
