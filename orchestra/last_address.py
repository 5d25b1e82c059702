"""The port of the one address, from one run of a project to the next: bookmarks, cookies and OAuth name it.

Of two projects that run at once, the second one moves to another port. It has that again the next time, if
that is free, whichever is started first then. A second run of the same project changes nothing: the next one
begins where the first one was.

Only a run on the command line keeps it, and only of an address that the user has not asked for.

Not here: which address is taken (`config/addresses`).
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from msgspec import DecodeError, Meta, Struct, json

from orchestra.folders import is_running, project_key, state_folder, write_private
from orchestra.reading import read_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["keep_port", "last_port"]

_MOST_BYTES = 1024


class _Kept(Struct, frozen=True):
    """What is in the file: a port, and the run that had it."""

    port: Annotated[int, Meta(ge=1, le=65535)]
    pid: int


def last_port(root: Path, environ: Mapping[str, str]) -> int | None:
    """Return the port that the last run of the project in `root` had, if that is known."""
    kept = _read(_path(root, environ))
    return None if kept is None else kept.port


def keep_port(root: Path, environ: Mapping[str, str], port: int) -> None:
    """Keep the port of this run for the next one. It may fail: then it is not kept."""
    path = _path(root, environ)
    kept = _read(path)
    if kept is None or kept.pid == os.getpid() or not is_running(kept.pid):
        with suppress(OSError):
            write_private(path, json.encode(_Kept(port, os.getpid())))


def _path(root: Path, environ: Mapping[str, str]) -> Path:
    return state_folder(environ) / f"address-{project_key(root)}.json"


def _read(path: Path) -> _Kept | None:
    with suppress(OSError, DecodeError):
        return json.decode(read_file(path, most=_MOST_BYTES, flags=os.O_NOFOLLOW), type=_Kept)
    return None
