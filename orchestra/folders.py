"""Folders and files: the current folder, the folders for our own files, and safe reading of any file.

Other users can neither read our folders nor put one in their place.

A file to be read may be a pipe that nothing writes to, or a device without end: opening a named pipe waits
for its writer, and ``/dev/zero`` has no end. Here a pipe is waited for only if the caller asks for that, with
a deadline (password managers put one in place of ``.env``), and every read has a limit.
"""

from __future__ import annotations

import errno
import os
import pwd
import select
import stat
import time
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "current_folder",
    "is_running",
    "make_private",
    "project_key",
    "read_file",
    "state_folder",
    "write_private",
]


def current_folder() -> Path:
    """Give the current folder; `ConfigError` if it has been deleted."""
    try:
        return Path.cwd()
    except OSError as exc:
        hint = "Change to a folder that does: `cd`."
        raise ConfigError("the current folder does not exist any more", hint=hint) from exc


def state_folder(environ: Mapping[str, str]) -> Path:
    """Return the folder for files that outlive a run (``XDG_STATE_HOME``); it may not exist.

    Relative paths are ignored, as the XDG Base Directory Specification says.
    """
    given, home = environ.get("XDG_STATE_HOME", ""), environ.get("HOME", "")
    if given.startswith("/"):
        return Path(given, "orchestra")
    if not home.startswith("/"):
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:  # a user without a name has no home
            home = "/"
    return Path(home, ".local", "state", "orchestra")


def project_key(root: Path) -> str:
    """Give the prefix of the names of a project's files in that folder."""
    return blake2b(bytes(root), digest_size=8).hexdigest()


def make_private(folder: Path) -> None:
    """Make a folder that only this user can enter, or check that it is one; `OSError` if it cannot be."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ENOTDIR, f"{folder} is not a folder of its own")
    if found.st_uid != os.getuid():
        raise OSError(errno.EPERM, f"{folder} belongs to another user (uid {found.st_uid})")
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)


def write_private(path: Path, data: bytes) -> None:
    """Write a file in such a folder: completely, or not at all; `OSError` if it cannot be written."""
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    make_private(path.parent)
    new = path.with_suffix(f".{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(data)
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def is_running(pid: int) -> bool:
    """Whether there is a process with this pid: if not, a file with its name is left over."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


# Larger than any file that a person has written.
_MOST_BYTES = 64 * 1024 * 1024
_CHUNK = 65536


def read_file(path: Path | str, *, within: float = 0.0, most: int = _MOST_BYTES, flags: int = 0) -> bytes:
    """Read a file of at most `most` bytes; a pipe only if its writer writes it `within` so many seconds.

    `flags` are added to `O_RDONLY`. `OSError` if it cannot be read, including a pipe that was not written in
    time, and a file that is too large; `ValueError` if the path contains a NUL.
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
