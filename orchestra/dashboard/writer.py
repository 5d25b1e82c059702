"""Bytes to standard output: in order, in batches, by a worker thread.

What is put into the buffer is written in the order in which it came; one batch is on its way while the next
is collected. Standard output is shared with other programs, so its mode is never changed: it blocks, and a
thread waits. If another program made it non-blocking (Node does that to a terminal that it shares), a write
that would block waits in `poll` instead of failing.

Not here: what is written.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
from typing import TYPE_CHECKING

import trio

from orchestra.errors import OrchestraError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["ReaderGone", "Unwritable", "Writer", "is_writable", "write_some"]

# 4 MiB are buffered: one half is being written while the other is filled.
_BUFFER_LIMIT = 2 * 1024 * 1024
# What a pipe holds. Larger writes would hide for how long nothing has moved.
_WRITE_SIZE = 64 * 1024
# At the end, progress has to be seen in smaller steps: a reader that takes 1 KiB a second is still reading.
_LAST_WRITE_SIZE = 4 * 1024
# At the end, a reader that has taken nothing for so long is not waited for.
_STALL_TIMEOUT = 5.0
_STALL_INTERVAL = 0.25
# A quiet moment before a small batch is followed by another: a line each way to the worker thread and back
# would cost more than the line. 5 ms cannot be seen.
_COALESCE_DELAY = 0.005
_SMALL_BATCH = 16 * 1024


class Unwritable(OrchestraError):  # noqa: N818 - as below
    """Standard output cannot be written to: a full disk."""

    exit_code = 2

    def __init__(self, cause: OSError) -> None:
        text = f"standard output cannot be written to: {cause.strerror}"
        super().__init__(text, hint="Make room, or send it elsewhere.")


class ReaderGone(OrchestraError):  # noqa: N818 - nothing went wrong
    """The reader of our output has closed it: ``orchestra run | head``. That is no news to the user."""

    exit_code = 141

    def __init__(self) -> None:
        super().__init__("")


class Writer:
    """A buffer, and the task that empties it to a file descriptor.

    Error handling: when `run` has ended, for whatever reason, everything that is still put is dropped and
    nothing waits any more, so that an orderly shutdown never waits for a reader that is gone.

    Attributes:
        fd: The file descriptor.
        is_full: Whether `wait_for_room` would wait.
    """

    def __init__(self, fd: int = 1) -> None:
        self.fd = fd
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._written_bytes = 0
        self._more = trio.Event()
        self._room = trio.Event()
        self._drained = trio.Event()
        self._drained.set()
        self._write_size = _WRITE_SIZE
        self._is_over = False

    def __repr__(self) -> str:
        return f"<Writer to {self.fd} with {self._pending_bytes} bytes to write>"

    @property
    def is_full(self) -> bool:  # noqa: D102 - among the attributes
        return self._pending_bytes >= _BUFFER_LIMIT

    def put(self, data: bytes) -> None:
        """Append to the buffer, whether it is full or not; what must not lose anything waits for room."""
        if self._is_over:
            return
        if not self._pending:
            self._more.set()
            if self._drained.is_set():
                self._drained = trio.Event()
        self._pending.append(data)
        self._pending_bytes += len(data)

    async def wait_for_room(self) -> None:
        """Wait until the buffer is not full."""
        while self.is_full and not self._is_over:
            if self._room.is_set():
                self._room = trio.Event()  # one for all tasks that wait
            await self._room.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until cancelled.

        Raises:
            ReaderGone: The reader has closed its end.
            Unwritable: It cannot be written to.
        """
        errors: list[OrchestraError] = []
        async with trio.open_nursery() as nursery:

            async def end_with(failure: Callable[[], Awaitable[OrchestraError]]) -> None:
                errors.append(await failure())
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with, self._hangup)
            task_status.started()
            try:
                await end_with(self._write_all)
            finally:
                self.give_up()
        # Raised outside of the nursery, which would put it into a group.
        raise errors[0]

    async def aclose(self) -> None:
        """Wait until all is written, for as long as the reader makes progress."""
        self._write_size = _LAST_WRITE_SIZE
        await self._drain()

    async def watch_reader(self) -> None:
        """Drop the rest when the reader makes no progress any more. For the end."""
        while not self._is_over:
            if not await self._drain():
                self.give_up()
            await trio.sleep(_STALL_INTERVAL)

    def give_up(self) -> None:
        """Drop what has not been written yet, and what is still to come."""
        self._is_over = True
        self._room.set()
        self._drained.set()

    async def _drain(self) -> bool:
        """Wait until all is written; ``False`` if there was no progress for too long."""
        written, since = self._written_bytes, trio.current_time()
        while not self._drained.is_set():
            with trio.move_on_after(_STALL_INTERVAL):
                await self._drained.wait()
            if self._written_bytes != written:
                written, since = self._written_bytes, trio.current_time()
            elif trio.current_time() - since >= _STALL_TIMEOUT:
                return False
        await trio.lowlevel.checkpoint()
        return True

    async def _write_all(self) -> OrchestraError:
        """Write until that fails; return why."""
        try:
            while True:
                await self._more.wait()
                batch = b"".join(self._pending)
                self._pending.clear()
                self._pending_bytes = 0
                self._more = trio.Event()
                self._room.set()
                # Abandoned: a thread that is stuck in a write must not keep us from ending.
                await trio.to_thread.run_sync(self._write, batch, abandon_on_cancel=True)
                if not self._pending:
                    self._drained.set()
                if len(batch) < _SMALL_BATCH and self._write_size != _LAST_WRITE_SIZE:
                    await trio.sleep(_COALESCE_DELAY)
        except BrokenPipeError:
            return ReaderGone()
        except OSError as exc:
            return Unwritable(exc)

    def _write(self, batch: bytes) -> None:
        """Write a batch; in a worker thread."""
        rest = memoryview(batch)
        while rest and not self._is_over:
            count = write_some(self.fd, rest[: self._write_size])
            self._written_bytes += count
            rest = rest[count:]

    async def _hangup(self) -> OrchestraError:
        """Notice that the reader has gone, though there is nothing to write just now."""
        if not _tells_hangup(self.fd):
            await trio.sleep_forever()
        while not _is_hung_up(self.fd):
            await trio.lowlevel.wait_readable(self.fd)
            await trio.sleep(_COALESCE_DELAY)
        return ReaderGone()


def write_some(fd: int, data: bytes | memoryview) -> int:
    """Write at least one byte, however long that takes; return how many were written.

    Raises:
        BrokenPipeError: The reader has gone.
        OSError: It cannot be written to.
    """
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:
            is_writable(fd, within=None)


def is_writable(fd: int, *, within: float | None) -> bool:
    """Wait until something can be written; return whether that came true.

    Args:
        fd: A pipe, a terminal, a socket or a file.
        within: Seconds to wait; ``None`` for as long as it takes.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(None if within is None else within * 1000))


def _tells_hangup(fd: int) -> bool:
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
