"""Ports that a run of this user has chosen, before its processes listen there.

A port is chosen when a run is planned, and bound by a child seconds later: two runs that start together would
choose the same one. So a run claims the ports that may move: it locks the byte of that number in a file of
the runtime folder. Such a lock belongs to this process alone, not to its children, and ends with it, however
it ends.

Not here: which port a process wants (`config/addresses`), and whether it is bound (`child/sockets`).
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from orchestra.folders import make_private
from orchestra.unix_sockets import runtime_folders

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["claim_port"]


def claim_port(port: int, environ: Mapping[str, str]) -> bool:
    """Claim a port until this process ends; false if another run of this user has claimed it."""
    file = _file(*runtime_folders(environ))
    if file is None:
        return True
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError as exc:  # of a file system without locks, too
        return exc.errno not in (errno.EACCES, errno.EAGAIN)
    return True


@cache
def _file(*folders: Path) -> int | None:
    """Open the file of all runs, once: closing any descriptor of it would end all claims of this process."""
    for folder in folders:
        with suppress(OSError):
            make_private(folder)
            return os.open(folder / "ports", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    return None
