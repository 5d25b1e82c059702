"""One child: spawned into a session of its own, its output pumped as lines, its whole group ended.

A child is ``/bin/sh -c COMMAND`` at the head of a new session and process group, so that one signal reaches
all that it has started and none of it reaches us. Standard input is a pipe that nobody writes to (watchers
such as esbuild's end at once on ``/dev/null``); standard output and standard error are pipes of their own.

When the leader ends the child has ended, whatever end-of-file says; what is left of its session is ended
with it, then the pipes are drained. To stop is: SIGTERM to the group, a bounded wait until the *session* is
empty of living processes, SIGKILL to the group.

Never here: which child, why, and whether again.
"""

from __future__ import annotations

import contextlib
import os
import signal
from subprocess import PIPE
from typing import TYPE_CHECKING, TypeAlias

import trio

from orchestra import census
from orchestra.errors import OrchestraError
from orchestra.lifecycle import Exit
from orchestra.output import LineSplitter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from orchestra.events import StreamName

__all__ = ["Child", "OnLines", "SpawnError", "run_child"]

OnLines: TypeAlias = "Callable[[StreamName, Sequence[str]], Awaitable[None]]"

_CHUNK = 65536
# After SIGKILL a process can linger in the kernel (a dead network file system), but we can do nothing more.
_AFTER_KILL = 2.0
# Once the session is empty, only a process that left it can hold the pipes open: it is not waited for.
_LAST_WORDS = 0.5


class SpawnError(OrchestraError):
    """The system refused to start a child: a folder or program is missing, or there is no room for it."""


class Child:
    """A running child. Made by `run_child` only.

    Attributes:
        pid: Of the leader, and the number of its group and its session.
    """

    def __init__(self, pid: int, *, stop_timeout: float) -> None:
        self.pid = pid
        self._stop_timeout = stop_timeout
        self._stopping = trio.Event()
        self._killing = trio.Event()

    def __repr__(self) -> str:
        return f"<Child {self.pid}>"

    def stop(self) -> None:
        """Begin to end it: SIGTERM to its session, SIGKILL after the stop timeout. Does not wait."""
        self._stopping.set()

    def kill(self) -> None:
        """End it at once: SIGKILL to its session. Does not wait."""
        self._stopping.set()
        self._killing.set()

    async def _descend_the_ladder(self) -> None:
        await self._stopping.wait()
        if not self._killing.is_set():
            await self._signal(signal.SIGTERM)
            with trio.move_on_after(self._stop_timeout):
                await self._killing.wait()
        await self._signal(signal.SIGKILL)
        await trio.sleep(_AFTER_KILL)

    async def _signal(self, number: int) -> None:
        """Signal the group, and whoever of the session has made a group of its own."""
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
            os.killpg(self.pid, number)
        for pid in await self._members():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(pid) != self.pid and os.getsid(pid) == self.pid:
                    os.kill(pid, number)

    async def _members(self) -> set[int]:
        return census.members(await trio.to_thread.run_sync(census.take), self.pid)

    async def _empty(self) -> None:
        """Wait until nothing of the session lives; begin to stop what the leader has left behind."""
        pause = 0.01
        while await self._members():
            self.stop()
            await trio.sleep(pause)
            pause = min(pause * 2, 0.2)


async def run_child(
    command: str | Sequence[str],
    *,
    cwd: Path,
    env: Mapping[str, str],
    on_spawn: Callable[[Child], object],
    on_lines: OnLines,
    stop_timeout: float,
) -> Exit:
    """Run a child to its end, and leave nothing of its session behind.

    Resource handling: cancelled or not, when this returns or raises, its session is empty (or was sent
    SIGKILL and does not react), and all pipes are closed. To cancel is to kill; `Child.stop` asks first.

    Args:
        command: Text for ``/bin/sh -c``, or the words of a program to be executed as they are.
        cwd: The folder that it starts in.
        env: All of its environment.
        on_spawn: Called with the child as soon as there is one.
        on_lines: Awaited with the stream's name and each batch of whole lines; while it waits, so does
            that stream.
        stop_timeout: Seconds between SIGTERM and SIGKILL.

    Raises:
        SpawnError: There was none.
    """
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else list(command)
    try:
        process = await trio.lowlevel.open_process(
            argv, cwd=cwd, env=dict(env), stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True
        )
    except (OSError, ValueError) as exc:  # ValueError: a NUL byte
        raise SpawnError(f"cannot be started in {cwd}: {exc}") from exc
    child = Child(process.pid, stop_timeout=stop_timeout)
    is_empty = False  # once it is, its number may belong to somebody else, and is never signalled again
    try:
        async with trio.open_nursery() as nursery:

            async def descend() -> None:
                await child._descend_the_ladder()  # noqa: SLF001 - this function is Child's other half
                nursery.cancel_scope.cancel()  # it did not even heed SIGKILL: wait no longer

            nursery.start_soon(descend)
            pumps = await nursery.start(_pump_all, process, on_lines)
            on_spawn(child)
            await process.wait()
            await child._empty()  # noqa: SLF001
            is_empty = True
            await pumps.drain()
            nursery.cancel_scope.cancel()
    finally:
        if not is_empty:
            with trio.move_on_after(_AFTER_KILL, shield=True):
                await child._signal(signal.SIGKILL)  # noqa: SLF001
                await process.wait()
        with trio.move_on_after(_AFTER_KILL, shield=True):
            for stream in (process.stdin, process.stdout, process.stderr):
                assert stream is not None  # noqa: S101 - all three were asked for
                await stream.aclose()
    return Exit.from_returncode(-signal.SIGKILL if process.returncode is None else process.returncode)


class _Pumps:
    """Reads both streams of a child for as long as there is something to read."""

    def __init__(self, on_lines: OnLines, scope: trio.CancelScope) -> None:
        self._on_lines = on_lines
        self._scope = scope
        self._chunks = 0
        self._delivering = 0
        self.done = trio.Event()

    async def pump(self, name: StreamName, stream: trio.abc.ReceiveStream, splitter: LineSplitter) -> None:
        while chunk := await stream.receive_some(_CHUNK):
            self._chunks += 1
            await self.deliver(name, splitter.feed(bytes(chunk)))

    async def deliver(self, name: StreamName, lines: Sequence[str]) -> None:
        if lines:
            self._delivering += 1
            await self._on_lines(name, lines)
            self._delivering -= 1

    async def drain(self) -> None:
        """Wait for the end of both streams; give up when nothing comes although we would take it."""
        while not self.done.is_set():
            before = self._chunks
            with trio.move_on_after(_LAST_WORDS):
                await self.done.wait()
            if self._chunks == before and not self._delivering:
                self._scope.cancel()
                await self.done.wait()


async def _pump_all(
    process: trio.Process, on_lines: OnLines, *, task_status: trio.TaskStatus[_Pumps]
) -> None:
    assert process.stdout is not None  # noqa: S101 - asked for
    assert process.stderr is not None  # noqa: S101
    streams: list[tuple[StreamName, trio.abc.ReceiveStream, LineSplitter]] = [
        ("stdout", process.stdout, LineSplitter()),
        ("stderr", process.stderr, LineSplitter()),
    ]
    async with trio.open_nursery() as nursery:
        pumps = _Pumps(on_lines, nursery.cancel_scope)
        for name, stream, splitter in streams:
            nursery.start_soon(pumps.pump, name, stream, splitter)
        task_status.started(pumps)
    for name, _stream, splitter in streams:
        await pumps.deliver(name, splitter.close())
    pumps.done.set()
