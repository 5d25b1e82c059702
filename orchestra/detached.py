"""A run in the background: starts another orchestra in a session of its own, and waits until it is reachable.

Until then its standard error is printed here; later, its log has everything.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from orchestra.errors import ConfigError, OrchestraError
from orchestra.remote import find

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["run_detached"]

_INTERVAL = 0.05
# Seconds until a run that has not ended can be reached: it is reachable before it spawns anything.
_TIMEOUT = 30.0


def run_detached(arguments: Sequence[str], root: Path) -> tuple[int, str, str]:
    """Start ``orchestra`` with these arguments, wait until it can be reached, and leave it.

    A project has one such run: it is found by its folder, and a script may call this twice.

    Returns 0, or the exit status of a run that has ended at once; and the texts for standard output and
    standard error. `ConfigError` if the project, whose folder is `root`, runs already; `OrchestraError` if
    the run cannot be reached.
    """
    with _alone(root), tempfile.TemporaryFile() as complaints:
        for each in find(os.environ):
            if each.root == root.resolve():
                hint = (
                    f"End it: orchestra down --run {each.state.pid}. Without --detach, another one may run."
                )
                raise ConfigError(f"the project runs already: {each}", hint=hint)
        run = subprocess.Popen(
            [sys.executable, "-m", "orchestra", *arguments, "--output", "plain"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            start_new_session=True,
        )
        until = time.monotonic() + _TIMEOUT
        while run.poll() is None:
            for each in find(os.environ):
                if each.state.pid == run.pid:
                    hint = "orchestra attach shows it, orchestra down ends it\n"
                    return 0, f"{each.state.url or 'it'} is run by pid {run.pid}\n", hint
            if time.monotonic() > until:
                run.terminate()
                raise OrchestraError("the run in the background cannot be reached, and was ended")
            time.sleep(_INTERVAL)
        complaints.seek(0)
        said = complaints.read().decode("utf-8", "replace")
        over = f"it has ended already, with exit status {run.returncode}: orchestra logs --last\n"
        return run.returncode, "", said or over


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait for another such program in the same folder: its run cannot be found before it starts."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
