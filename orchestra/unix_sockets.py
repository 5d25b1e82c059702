"""Unix sockets: listening on one, the path of the local door's, and which user is at the other end.

A socket that accepts connections is never replaced, a stale one always is. The folder is `orchestra` in the
user's runtime folder (``XDG_RUNTIME_DIR``), otherwise `orchestra-UID` in the folder for temporary files.
There, any user may create a file of that name, so it is used only if it is a folder, not a link, and ours;
then no other user can enter it, and there are no races in it.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import sys
import tempfile
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.folders import is_running, make_private

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["UnixSocket", "bind", "find", "is_live", "listen", "peer_uid", "runtime_folders"]

# The smallest `sun_path` of our systems (macOS), with its closing zero.
_MAX_PATH = 104
# The most sockets of one process, as tests have them, and of those that are looked at.
_MOST_NAMES = 100
# <sys/un.h> of macOS: the level, the option, and `struct xucred` up to its user.
_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED, _XUCRED_SIZE = 0, 1, struct.Struct("=II"), 76


def bind(environ: Mapping[str, str], *, pid: int) -> UnixSocket:
    """Listen on a unix socket of the run of process `pid`, or raise `OSError` with the path and the cause."""
    failure: OSError | None = None
    for folder in runtime_folders(environ):
        try:
            make_private(folder)
            _tidy(folder)
            return _bind_in(folder, pid)
        except OSError as exc:
            failure = failure or exc
    assert failure is not None  # noqa: S101 - there is a folder
    raise failure


def find(environ: Mapping[str, str]) -> list[Path]:
    """Find the sockets of this user's runs; some may not accept connections any more.

    Folders that other users can enter are skipped.
    """
    found: list[Path] = []
    for folder in runtime_folders(environ):
        with suppress(OSError):
            status = folder.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
                found += sorted(path for path in folder.glob("*.sock") if stat.S_ISSOCK(path.lstat().st_mode))
    return found


def runtime_folders(environ: Mapping[str, str]) -> list[Path]:
    """Give the folders for the files of running programs, the best one first; they may not exist."""
    runtime, given = environ.get("XDG_RUNTIME_DIR", ""), environ.get("TMPDIR", "")
    temporary = Path(given if given.startswith("/") else tempfile.gettempdir(), f"orchestra-{os.getuid()}")
    return [Path(runtime) / "orchestra", temporary] if runtime.startswith("/") else [temporary]


def _tidy(folder: Path) -> None:
    """Remove the sockets of killed runs: those that do not accept, of processes that are gone."""
    for path in islice(folder.glob("*.sock"), _MOST_NAMES):
        pid = path.name.partition(".")[0]
        with suppress(OSError):
            if pid.isdecimal() and not is_running(int(pid)) and not is_live(path):
                path.unlink()


def _bind_in(folder: Path, pid: int) -> UnixSocket:
    for number in range(_MOST_NAMES):
        path = folder / (f"{pid}.{number}.sock" if number else f"{pid}.sock")
        if len(os.fsencode(path)) >= _MAX_PATH:
            raise OSError(errno.ENAMETOOLONG, f"{path} is too long for a unix socket")
        try:
            return listen(path, mode=0o600)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"{folder} has {_MOST_NAMES} sockets of this process")


def peer_uid(sock: socket.socket) -> int | None:
    """Return the user of the process at the other end; ``None`` if the system does not report it."""
    try:
        if sys.platform == "linux":
            _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        else:
            _, uid = _XUCRED.unpack_from(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _XUCRED_SIZE))
    except (OSError, struct.error):
        return None
    return int(uid)


_BACKLOG = 128


class UnixSocket:
    """A listening unix socket that is removed when it is closed."""

    def __init__(self, path: Path, listener: socket.socket) -> None:
        self.path = path
        self.listener = listener
        self._inode = path.lstat().st_ino

    def close(self) -> None:
        """Close it, and remove its file, unless that is another socket's by now."""
        with suppress(OSError):
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()
        self.listener.close()


def listen(path: Path, *, mode: int | None = None) -> UnixSocket:
    """Listen on a unix socket; `mode` is that of its file.

    Raises:
        OSError: It is not possible; ``EADDRINUSE``: the socket is live, or another kind of file is there.
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
    """Whether a socket accepts there. Another kind of file, or one that cannot be checked, counts as well."""
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
