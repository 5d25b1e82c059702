from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import psutil
import pytest

from orchestra.child import table
from tests.process_kit import linux_only, until

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real


def entry_of(pid: int) -> table.Entry:
    (entry,) = [each for each in table.take() if each.pid == pid]
    return entry


def test_we_are_in_the_table() -> None:
    entry = entry_of(os.getpid())
    assert (entry.parent, entry.session, entry.is_zombie) == (os.getppid(), os.getsid(0), False)


def test_a_process_is_known_by_its_number_and_by_when_it_has_started() -> None:
    entry = entry_of(os.getpid())
    assert table.is_still_there(entry)
    assert not table.is_still_there(replace(entry, started=entry.started - 1))


def test_who_has_ended_is_not_there_even_as_a_zombie() -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        entry = entry_of(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert entry_of(process.pid).is_zombie
        assert not table.is_still_there(entry)
        assert process.pid not in [each.pid for each in table.family(os.getsid(0), {})]
    assert not table.is_still_there(entry)


def test_a_name_with_blanks_and_parentheses_is_no_riddle(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to(shutil.which("sh") or "/bin/sh")
    with subprocess.Popen(
        [program, "-c", "echo up; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            assert psutil.Process(process.pid).name() == program.name
            assert entry_of(process.pid).parent == os.getpid()
        finally:
            process.kill()


@linux_only
def test_marks_are_whole_variables() -> None:
    environ = {"ORCHESTRA_RUN": "abc", "ORCHESTRA_PROCESS": "web"}
    with subprocess.Popen(["/bin/sleep", "1000"], env=environ) as process:
        try:
            # Its environment is there a moment after it was executed.
            environ_of = psutil.Process(process.pid).environ
            until(lambda: environ_of() == environ, environ_of)
            found = []
            for marks in (environ, {"ORCHESTRA_RUN": "abc"}, {"ORCHESTRA_RUN": "ab"}, {**environ, "X": "1"}):
                pids = [entry.pid for entry in table.family(-1, marks)]
                found.append(process.pid in pids)
            assert found == [True, True, False, False]
        finally:
            process.kill()
