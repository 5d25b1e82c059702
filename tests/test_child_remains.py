"""What is seen of a real process tree that has lost its program, or has not."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from orchestra.child.remains import look

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from orchestra.child.remains import Member

pytestmark = [pytest.mark.real, pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")]

STAYS = "print(flush=True); input()"
RUNS = "import os, subprocess, sys; child = subprocess.Popen([sys.executable, '-c', {!r}]); {}"
LISTENS = "import socket; listener = socket.create_server(('127.0.0.1', 0)); "
CONNECTS = "connection = socket.create_connection(listener.getsockname()); "
HAS_INOTIFY = "import ctypes; ctypes.CDLL(None).inotify_init(); "
HAS_HELPER = """
from multiprocessing import resource_tracker
resource_tracker.ensure_running()
while b"tracker" not in open(f"/proc/{resource_tracker._resource_tracker._pid}/cmdline", "rb").read():
    pass  # it is not executed yet
"""
DOES_NOT_WAIT = "os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT); "


@contextmanager
def seen(program: str) -> Iterator[Sequence[Member]]:
    """See what a program of Python's is when it has written a line."""
    command = [sys.executable, "-c", program]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield look([process.pid])[process.pid]
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.kill()


def test_a_program_that_has_lost_the_one_that_it_ran() -> None:
    with seen(RUNS.format("pass", "child.wait(); " + STAYS)) as (left,):
        assert left.reaped > 0
        assert left.program.startswith("/")
        assert (left.is_last, left.has_child, left.has_inotify, left.listens) == (True, False, False, False)


def test_a_child_that_was_not_waited_for_has_been_one() -> None:
    with seen(RUNS.format("pass", DOES_NOT_WAIT + STAYS)) as (left,):
        assert (left.is_last, left.has_child) == (True, True)


def test_what_another_process_has_started_is_the_last_one() -> None:
    with seen(RUNS.format(STAYS, "input()")) as members:
        assert sorted((each.is_last, each.has_child) for each in members) == [(False, True), (True, False)]


def test_a_helper_of_multiprocessing_does_not_count() -> None:
    with seen(HAS_HELPER + STAYS) as (left,):
        assert (left.is_last, left.has_child) == (True, False)


@pytest.mark.parametrize(
    ("program", "has_inotify", "listens", "is_connected"),
    [
        (HAS_INOTIFY + LISTENS + STAYS, True, True, False),
        (LISTENS + CONNECTS + STAYS, False, True, True),
        (STAYS, False, False, False),
    ],
)
def test_sockets_and_inotify_are_seen(
    program: str,
    has_inotify: bool,  # noqa: FBT001 - a parameter of the test
    listens: bool,  # noqa: FBT001 - likewise
    is_connected: bool,  # noqa: FBT001 - likewise
) -> None:
    with seen(program) as (left,):
        assert (left.has_inotify, left.listens, left.is_connected) == (has_inotify, listens, is_connected)


def test_of_a_process_that_is_gone_nothing_is_known() -> None:
    assert not look([2**22 - 1])[2**22 - 1]
