"""What tests of real processes share: a mark on everything that a test starts, and what still carries it."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.kit import PATIENCE, marked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the environment of others")

# A web server; its port, or 0, is to follow.
SERVE = f"exec {sys.executable} -u -m http.server --bind 127.0.0.1"

_MARK = "ORCHESTRA_TEST_MARK"


class Mark:
    """A variable in the environment of all that a test starts: orchestra, its guardian, children, daemons."""

    def __init__(self) -> None:
        self.value = secrets.token_hex(8)
        self.env: Mapping[str, str] = {_MARK: self.value}
        # For a shell: a program that keeps nothing of its environment but the test's mark.
        self.bare = f"env -i PATH=$PATH {_MARK}=${_MARK}"

    def living(self) -> list[str]:
        """The command lines of all that carry the mark, zombies apart."""
        found = []
        for process in marked(self.value, _MARK):
            with contextlib.suppress(psutil.Error, OSError):
                found.append(f"{process.pid}: {' '.join(process.cmdline())}")
        return found

    def count(self, program: str) -> int:
        return sum(program in line for line in self.living())

    def kill(self) -> None:
        """Kill all of them, whatever a test has left."""
        while left := marked(self.value, _MARK):
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()

    def until_none_is_left(self) -> None:
        """Wait for the guardian to do its work, and to end."""
        until(lambda: not self.living(), lambda: f"left: {self.living()}")
        # A process that was inside exec at that moment had no environment to be found by.
        assert self.living() == []


def until(is_so: Callable[[], bool], complaint: Callable[[], object]) -> None:
    """Look again and again until something is so that no event tells."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            pytest.fail(str(complaint()))
        time.sleep(0.05)


def open_files(pid: int | None = None) -> int:
    """How many files a process has open."""
    return psutil.Process(os.getpid() if pid is None else pid).num_fds()
