"""Folders that only this user gets into, for what others must neither read nor put in place of ours."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["make_private"]


def make_private(folder: Path) -> None:
    """Make a folder that only this user gets into, or see to it that it is one.

    Raises:
        OSError: It is something else, another user's, or cannot be made.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ENOTDIR, f"{folder} is not a folder of its own")
    if found.st_uid != os.getuid():
        raise OSError(errno.EPERM, f"{folder} belongs to another user (uid {found.st_uid})")
    if stat.S_IMODE(found.st_mode) != 0o700:
        folder.chmod(0o700)
