"""Writes a process's output to a file: every whole line, rotated by size.

``web.log`` is the newest; when the next line would make it too large, it becomes ``web.log.1``, that one
``web.log.2``, and so on. Lines are appended in a worker thread, and `write` waits until they are in the file
(though not yet on the disk), so that no backlog builds up. If the file cannot be written to any more (a full
disk), `write` raises OSError once and then discards everything: the run matters more than its log.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence
    from io import BufferedWriter
    from pathlib import Path

__all__ = ["LogFile"]


class LogFile:
    """A log file and its backups.

    Args:
        max_bytes: No file becomes larger, unless a single line is.
        backups: How many older ones are kept; with none, the full file is emptied.
        mode: The permissions of new files, but for what the umask forbids.
    """

    def __init__(self, path: Path, *, max_bytes: int, backups: int, mode: int = 0o666) -> None:
        self._path = path
        self._mode = mode
        self._max_bytes = max_bytes
        self._backups = backups
        self._file: BufferedWriter | None = None
        self._is_broken = False
        self._lock = trio.Lock()

    async def write(self, lines: Sequence[str]) -> None:
        """Append lines; `OSError`, which names the file, the first time that this fails."""
        await self.append([f"{line}\n".encode("utf-8", "replace") for line in lines])

    async def append(self, lines: Sequence[bytes]) -> None:
        """Append lines with their line ends; see `write`."""
        async with self._lock:  # two streams of one process
            if not self._is_broken:
                try:
                    await trio.to_thread.run_sync(self._append, lines)
                except OSError as exc:
                    self._is_broken = True
                    raise OSError(exc.errno, exc.strerror, str(exc.filename or self._path)) from exc

    async def aclose(self) -> None:
        """Close the file after the write that is in progress."""
        try:
            await self._lock.acquire()
            self._lock.release()
        finally:
            self.close()

    def close(self) -> None:
        """Close the file; it may be written to again."""
        if self._file is not None:
            with suppress(OSError):  # `write` has reported a failure already.
                self._file.close()
            self._file = None

    def _append(self, lines: Sequence[bytes]) -> None:
        file = self._open()
        for line in lines:
            if file.tell() and file.tell() + len(line) > self._max_bytes:
                file.flush()
                self._rotate()
                file = self._open()
            file.write(line)
        file.flush()

    def _open(self) -> BufferedWriter:
        if not self._path.exists():
            self.close()  # it was removed, or its folder: what follows would be lost
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(_opened(self._path, self._mode), "ab")
        return self._file

    def _rotate(self) -> None:
        self.close()
        if not self._backups:
            self._path.unlink(missing_ok=True)
        for number in range(self._backups, 0, -1):
            with suppress(FileNotFoundError):
                self._numbered(number - 1).replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path


def _opened(path: Path, mode: int) -> int:
    """Open a file to append to it; `OSError` for a pipe, too: the run would wait for its reader."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOCTTY, mode)
    kind = os.fstat(descriptor).st_mode
    if stat.S_ISREG(kind) or stat.S_ISCHR(kind):
        os.set_blocking(descriptor, True)
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "it is a pipe, not a file", str(path))
