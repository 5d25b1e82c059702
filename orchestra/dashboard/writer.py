"""Writes bytes to standard output: in order, in batches, by a worker thread.

The buffer is written in the order in which it was filled; one batch is being written while the next is
collected. Standard output is shared with other programs, so its mode is never changed: it blocks, and a
thread waits. If another program made it non-blocking (Node does that to a terminal that it shares), a write
that would block waits in `poll` instead of failing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING, Protocol

import trio

from orchestra.errors import OrchestraError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Output",
    "ReaderGone",
    "Unwritable",
    "Writer",
    "is_in_foreground",
    "is_writable",
    "standard_output",
    "terminal_size",
    "write_some",
]

# 4 MiB are buffered: one half is being written while the other is filled.
_BUFFER_LIMIT = 2 * 1024 * 1024
# The size of a pipe: a larger write would hide that the reader makes progress.
_WRITE_SIZE = 64 * 1024
# At the end, progress has to be visible in smaller steps: a reader of 1 KiB a second is still reading.
_LAST_WRITE_SIZE = 4 * 1024
# Seconds without progress after which a reader is not waited for at the end.
_STALL_TIMEOUT = 5.0
# A small batch waits a moment for more: the way to the worker thread and back would cost more than one line.
# 5 ms cannot be seen.
_COALESCE_DELAY = 0.005
_SMALL_BATCH = 16 * 1024


class Unwritable(OrchestraError):  # noqa: N818 - as below
    """Standard output cannot be written to: a full disk.

    Attributes:
        may_follow_from_signal: Whether a signal explains it: the terminal is closed, or stopped by Ctrl-C.
    """

    exit_code = 2

    def __init__(self, cause: OSError) -> None:
        text = f"standard output cannot be written to, and is not complete: {cause.strerror}"
        super().__init__(text, hint="Make room, or send it elsewhere.")
        self.may_follow_from_signal = cause.errno in (errno.EIO, errno.ETIMEDOUT)


class ReaderGone(OrchestraError):  # noqa: N818 - nothing went wrong
    """The reader of our output has closed it: ``orchestra run | head``. It needs no message."""

    exit_code = 141

    def __init__(self) -> None:
        super().__init__("")


@contextmanager
def standard_output() -> Iterator[None]:
    """Turn errors of a block that writes to standard output into `Unwritable` or `ReaderGone`."""
    try:
        yield
    except OSError as exc:
        # Bytes in the buffer would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise (ReaderGone() if isinstance(exc, BrokenPipeError) else Unwritable(exc)) from exc


class Output(Protocol):
    """The destination of lines, finally a file descriptor; a `Writer` is one."""

    fd: int

    def put(self, data: bytes) -> None:
        """Take bytes."""


class Writer:
    """A buffer, and the task that empties it to a file descriptor.

    Error handling: when `run` has ended, for whatever reason, all further bytes are dropped and nothing waits
    any more, so that an orderly shutdown never waits for a reader that is gone.

    Attributes:
        error: Why not everything was written, if so; `run` raises it, if it is not cancelled first.
    """

    def __init__(self, fd: int = 1) -> None:
        self.fd = fd
        self.error: OrchestraError | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._is_writing = False
        self._is_ending = False
        self._is_over = False
        self._write_scope = trio.CancelScope()  # around the newest write
        self._changed = trio.Event()

    def __repr__(self) -> str:
        return f"<Writer to {self.fd} with {self._pending_bytes} bytes to write>"

    def put(self, data: bytes) -> None:
        """Append to the buffer, even if it is full; callers that must not lose anything wait for room."""
        if self._is_over:
            return
        if not self._pending:
            self._wake()
        self._pending.append(data)
        self._pending_bytes += len(data)

    async def wait_for_room(self) -> None:
        """Wait until the buffer is not full."""
        # No checkpoint on the fast path: a line costs less than a turn of trio's scheduler.
        while self._pending_bytes >= _BUFFER_LIMIT and not self._is_over:
            await self._changed.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled, or `ReaderGone`: the reader has closed its end; or `Unwritable`."""
        error: OrchestraError = ReaderGone()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_at_hangup, nursery.cancel_scope)
            task_status.started()
            try:
                error = self.error = await self._write_all()
                nursery.cancel_scope.cancel()
            finally:
                self.give_up()
        # Raised outside of the nursery, which would put it into a group.
        raise error

    def expect_end(self) -> None:
        """From now on, drop the rest if the reader makes no progress."""
        if not self._is_ending:
            self._is_ending = True
            self._write_scope.deadline = trio.current_time() + _STALL_TIMEOUT

    async def aclose(self) -> None:
        """Wait until everything is written, for as long as the reader makes progress."""
        self.expect_end()
        while (self._pending or self._is_writing) and not self._is_over:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()

    def give_up(self) -> None:
        """Drop all bytes that have not been written, and all that follow."""
        self._is_over = True
        self._write_scope.cancel()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _write_all(self) -> OrchestraError:
        """Write until that fails; return the error."""
        try:
            while True:
                while not self._pending:
                    await self._changed.wait()
                batch = b"".join(self._pending)
                self._pending.clear()
                self._pending_bytes = 0
                self._is_writing = True
                self._wake()  # there is room
                await self._write(batch)
                self._is_writing = False
                self._wake()
                if len(batch) < _SMALL_BATCH and not self._is_ending:
                    await trio.sleep(_COALESCE_DELAY)
        except BrokenPipeError:
            return ReaderGone()
        except OSError as exc:
            return Unwritable(exc)

    async def _write(self, batch: bytes) -> None:
        rest = memoryview(batch)
        while rest and not self._is_over:
            size = _LAST_WRITE_SIZE if self._is_ending else _WRITE_SIZE
            timeout = _STALL_TIMEOUT if self._is_ending else inf
            with trio.move_on_after(timeout) as self._write_scope:
                # Abandoned: a thread that is stuck in a write must not keep us from ending.
                count = await trio.to_thread.run_sync(
                    write_some, self.fd, rest[:size], abandon_on_cancel=True
                )
                rest = rest[count:]
            if self._write_scope.cancelled_caught and not self._is_over:
                stalled = f"its reader has taken nothing for {_STALL_TIMEOUT:g} s"
                self.error = Unwritable(OSError(errno.ETIMEDOUT, stalled))
                self.give_up()

    async def _cancel_at_hangup(self, scope: trio.CancelScope) -> None:
        """Notice that the reader has gone while there is nothing to write."""
        if _reports_hangup(self.fd):
            while not _is_hung_up(self.fd):
                await trio.lowlevel.wait_readable(self.fd)
                await trio.sleep(_COALESCE_DELAY)
            self.error = ReaderGone()
            scope.cancel()


def write_some(fd: int, data: bytes | memoryview) -> int:
    """Write at least one byte, however long that takes, or `OSError`; return how many were written."""
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:
            is_writable(fd, within=None)


def is_writable(fd: int, *, within: float | None) -> bool:
    """Wait until something can be written, for ever if `None`; return whether it can."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(None if within is None else within * 1000))


def _reports_hangup(fd: int) -> bool:
    """Whether it is a pipe to write to: when its reader ends, a task that waits to read from it is woken."""
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        return is_pipe and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    except OSError:
        return False


def _is_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))


def terminal_size(fd: int) -> tuple[int, int]:
    """Return the columns and lines of a terminal; 80 by 24 if they are not known."""
    try:
        columns, lines = os.get_terminal_size(fd)
    except OSError:
        columns = lines = 0
    return columns or 80, lines or 24


def is_in_foreground() -> bool:
    """Whether the terminal is ours."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # The terminal is gone: SIGHUP decides what follows.
        return False
