"""Listening on a unix socket: one that is answered is never replaced, one that is left over always is.

Not here: which folders are safe for one, which user is at the other end (`control/sockets`).
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["UnixSocket", "is_live", "listen"]

_BACKLOG = 128


class UnixSocket:
    """A listening unix socket that is removed when it is closed."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self.path = path
        self.listener = listener
        self._inode = path.lstat().st_ino

    def close(self) -> None:
        """Close it, and remove its file, unless that is another one by now."""
        with suppress(OSError):
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()
        self.listener.close()


def listen(path: Path, *, mode: int | None = None) -> UnixSocket:
    """Listen on a unix socket; `mode` is that of its file.

    Raises:
        OSError: That is not possible; ``EADDRINUSE``: it is answered, or something else is there.
    """
    if not path.is_symlink() and not is_live(path):
        path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(os.fspath(path))
        if mode is not None:
            path.chmod(mode)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
        return UnixSocket(path, listener)
    except BaseException:
        listener.close()
        raise


def is_live(path: Path) -> bool:
    """Whether something accepts there. What is not a socket, or cannot be asked, counts as well."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(1.0)
        try:
            sock.connect(os.fspath(path))
        except ConnectionRefusedError:
            return not stat.S_ISSOCK(path.lstat().st_mode)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return True
