from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
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
    entry.started += "0"
    assert not table.is_still_there(entry)


def test_a_process_that_has_ended_is_not_there_even_as_a_zombie() -> None:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        entry, session = entry_of(process.pid), table.Family(process.pid)
        assert session in table.find([session])
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert entry_of(process.pid).is_zombie
        assert not table.is_still_there(entry)
        assert table.find([session]) == {}
    assert not table.is_still_there(entry)


def test_ps_tells_the_same_as_the_table_of_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    """What macOS uses."""

    def known(entry: table.Entry | None) -> tuple[object, ...]:
        assert entry is not None
        return (entry.pid, entry.parent, entry.group, entry.session, entry.is_zombie)

    ours = known(entry_of(os.getpid()))
    monkeypatch.setattr(sys, "platform", "darwin")
    entry = entry_of(os.getpid())
    assert known(entry) == ours == known(table.read(os.getpid()))
    assert table.is_still_there(entry)


def test_each_family_has_its_own_members() -> None:
    processes = [subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(20)]
    try:
        families = [table.Family(process.pid) for process in processes]
        found = table.find(families)
        assert [[entry.pid for entry in found[family]] for family in families] == [
            [each.pid] for each in processes
        ]
    finally:
        for process in processes:
            process.kill()
            process.wait()


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


def test_a_member_of_a_group_from_outside_the_container_hears_the_stop_signal() -> None:
    """Such groups have the number 0, as the leader of a family has that consists of marks only."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        member, family = entry_of(process.pid), table.Family(0, frozenset({b"A=b"}))
        member.group = 0
        family.signal(signal.SIGTERM)
        family.has(member)
        assert process.wait() == -signal.SIGTERM


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
                family = table.Family(
                    0, frozenset(f"{name}={value}".encode() for name, value in marks.items())
                )
                found.append(process.pid in [each.pid for each in table.find([family]).get(family, ())])
            assert found == [True, True, False, False]
        finally:
            process.kill()
