"""Reading a file that may be anything: a pipe that nothing writes to, a device without end.

To open a named pipe waits for its writer, and ``/dev/zero`` has no end. Here a pipe is waited for only where
that was asked for, with a deadline (password managers put one in place of ``.env``), and no file is read
without limit.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_file"]

# Larger than any file that a person has written.
_MOST_BYTES = 64 * 1024 * 1024
_CHUNK = 65536


def read_file(path: Path | str, *, within: float = 0.0, most: int = _MOST_BYTES, flags: int = 0) -> bytes:
    """Read a file of `most` bytes, a pipe only if its writer writes it `within` some seconds.

    `flags` are those that it is opened with beside `O_RDONLY`. `OSError` if it cannot be read: also a pipe
    that was not written in time, and a file that is too large; `ValueError` if the path has a NUL in it.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | flags)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        wait = select.poll()
        wait.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + within
        found = bytearray()
        while len(found) <= most:
            if not stat.S_ISREG(mode) and not wait.poll(max(deadline - time.monotonic(), 0) * 1000):
                raise OSError(errno.ETIMEDOUT, "a pipe that nothing is written to", str(path))
            chunk = file.read(_CHUNK)
            if not chunk:
                return bytes(found)
            found += chunk
    raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
