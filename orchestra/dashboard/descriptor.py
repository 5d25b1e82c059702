"""Writing to a file descriptor that is not ours alone, from a worker thread.

Standard output is shared with whoever started us, so its mode is never changed: it blocks, and whoever writes
to it does so in a thread. Should somebody else have made it non-blocking (Node does that to a terminal that
it shares), a write that would block waits in `poll` instead of failing.

Never here: trio, buffers, what is written.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat

__all__ = ["is_hung_up", "is_writable", "tells_hangup", "write_some"]


def write_some(fd: int, data: bytes | memoryview) -> int:
    """Write at least one byte, however long that takes; return how many were written.

    Raises:
        BrokenPipeError: Nobody reads any more.
        OSError: It cannot be written to.
    """
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:
            is_writable(fd, within=None)


def is_writable(fd: int, *, within: float | None) -> bool:
    """Wait until something can be written; say whether that came true.

    Args:
        fd: A pipe, a terminal, a socket or a file.
        within: Seconds to wait; ``None`` for as long as it takes.
    """
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(None if within is None else within * 1000))


def tells_hangup(fd: int) -> bool:
    """Whether it is a pipe to write to: when its reader ends, whoever waits to read from it is woken."""
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
        return is_pipe and fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
    except OSError:
        return False


def is_hung_up(fd: int) -> bool:
    """Whether nobody reads any more."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
