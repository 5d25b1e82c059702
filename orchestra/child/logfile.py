"""A process's output in a file: every whole line, without colours, rotated by size.

``web.log`` is the newest; when the next line would make it larger than it may be, it becomes ``web.log.1``,
that one ``web.log.2``, and so on. Lines are appended in a worker thread, and `write` waits for that, so
that nothing piles up. Each batch is in the file (though not on the disk) when it has been written.

Error handling: a file that cannot be written to any more (a full disk) raises OSError once, and then takes
nothing: the run matters more than its log.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from orchestra.child.lines import without_colours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["LogFile"]


class LogFile:
    """A log file and its backups.

    Args:
        path: The newest file.
        max_bytes: No file becomes larger, unless a single line is.
        backups: How many older ones are kept; with none, the full file is emptied.
    """

    def __init__(self, path: Path, *, max_bytes: int, backups: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._file: int | None = None
        self._size = 0
        self._is_broken = False
        self._lock = trio.Lock()

    def __repr__(self) -> str:
        return f"<LogFile {self._path}>"

    async def write(self, lines: Sequence[str]) -> None:
        """Append lines.

        Raises:
            OSError: It cannot be written to; the first time only.
        """
        data = [f"{without_colours(line)}\n".encode("utf-8", "replace") for line in lines]
        async with self._lock:  # two streams of one process
            if not self._is_broken:
                try:
                    await trio.to_thread.run_sync(self._append, data)
                except OSError:
                    self._is_broken = True
                    raise

    def close(self) -> None:
        """Close the file; it may be written to again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _append(self, lines: Sequence[bytes]) -> None:
        batch: list[bytes] = []
        room = self._open() - self._size
        for line in lines:
            if len(line) > room and (self._size or batch):
                self._flush(batch)
                batch = []
                self._rotate()
                room = self._open() - self._size
            batch.append(line)
            room -= len(line)
        self._flush(batch)

    def _open(self) -> int:
        """Open the file if it is not open; return how large it may become."""
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
            self._size = os.fstat(self._file).st_size
        return self._max_bytes

    def _flush(self, batch: Sequence[bytes]) -> None:
        assert self._file is not None  # noqa: S101 - by _open
        rest = memoryview(b"".join(batch))
        while rest:
            written = os.write(self._file, rest)
            self._size += written
            rest = rest[written:]

    def _rotate(self) -> None:
        self.close()
        for number in range(self._backups, 1, -1):
            older = self._numbered(number - 1)
            if older.exists():
                older.replace(self._numbered(number))
        if self._backups:
            self._path.replace(self._numbered(1))
        else:
            self._path.unlink()

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
