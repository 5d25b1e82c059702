"""Our end of the guardian: starts it, reports our children to it, ends it.

The guardian (`guardian.py`, a process of its own) ends our children if we are killed. A report is a short
write to a pipe that never blocks: if the guardian is gone, the run loses its protection, and goes on.
"""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import TYPE_CHECKING

import trio
from trio.lowlevel import FdStream

from orchestra.errors import OrchestraError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from orchestra.child.table import Family

__all__ = ["Guard", "guarded"]

_SCRIPT = Path(__file__).with_name("guardian.py")
# Seconds for the guardian's end: it has nothing to do but to read "bye" and to exit.
_EXIT_TIMEOUT = 2.0


class Guard:
    """Reports to the guardian; `guardian.py` explains each report."""

    def __init__(self, pipe: FdStream) -> None:
        self._pipe = pipe

    def spawned(self, family: Family, *, stop_signal: int, stop_timeout: float) -> None:
        """Report a spawned child, and how it is to be stopped."""
        marks = b"\0".join(family.marks).hex()
        self._report(f"+ {family.leader} {stop_signal:d} {stop_timeout} {marks}")

    def emptied(self, family: Family) -> None:
        """Report that no process of a child is left: its pid may be used again."""
        self._report(f"- {family.leader}")

    def on_screen(self, terminal: str | None, give_back: bytes = b"") -> None:
        """Report the terminal that shows the dashboard (`None`: none), and the bytes that restore it."""
        self._report(f"screen {give_back.hex()} {terminal}" if terminal else "screen")

    def _report(self, report: str) -> None:
        with suppress(OSError):
            os.write(self._pipe.fileno(), f"{report}\n".encode())


@asynccontextmanager
async def guarded(run_id: str) -> AsyncIterator[Guard]:
    """Run a guardian that ends the processes of a run if we are killed; `OrchestraError` without one."""
    try:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-I", "-S", str(_SCRIPT), run_id, str(os.getpid())],
            stdin=PIPE,
            stdout=DEVNULL,
            stderr=DEVNULL,
            cwd="/",
            # Without the mark of a run that we ourselves may belong to.
            env={name: value for name, value in os.environ.items() if name != "ORCHESTRA_RUN"},
            start_new_session=True,
        )
    except OSError as exc:
        raise OrchestraError(f"the guardian process cannot be started: {exc.strerror}") from exc
    assert isinstance(process.stdin, FdStream)  # noqa: S101 - asked for; it does not block
    guard = Guard(process.stdin)
    try:
        yield guard
    finally:
        guard._report("bye")  # noqa: SLF001 - only this function may end it
        process.stdin.close()
        with trio.move_on_after(_EXIT_TIMEOUT, shield=True):
            await process.wait()
