"""Orphans are a matter of a whole process, so a small program of its own stands for orchestra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.kit import PATIENCE, ROOT
from tests.process_kit import Mark, linux_only, until

pytestmark = [pytest.mark.real, linux_only]

PROGRAM = """
import os, subprocess, sys, trio
from orchestra.child.orphans import Orphans

async def main():
    orphans = Orphans()
    assert orphans.are_adopted
    async with trio.open_nursery() as nursery:
        nursery.start_soon(orphans.bury)
        await trio.run_process(["/bin/sh", "-c", sys.argv[1]])
        print("up", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        await orphans.end()
        nursery.cancel_scope.cancel()
    print("end", flush=True)

trio.run(main)
"""


def program(mark: Mark, script: str, before: str = "") -> subprocess.Popen[str]:
    """A program that has adopted what `script` leaves behind, and ends it when a line is written to it."""
    command = [sys.executable, "-c", PROGRAM, script]
    if before:
        command = ["/bin/sh", "-c", f'{before}; exec "$@"', "sh", *command]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **mark.env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_daemon_without_session_parent_and_mark_is_ended() -> None:
    mark = Mark()
    with program(mark, f"({mark.bare} setsid sleep 1000 &)") as adopter:
        assert adopter.stdout is not None
        adopter.stdout.readline()
        until(lambda: mark.count(": sleep 1000") == 1, mark.living)
        adopter.communicate("\n", timeout=PATIENCE)
        assert adopter.returncode == 0
        assert mark.living() == []


def test_a_daemon_that_does_not_heed_sigterm_is_killed() -> None:
    mark = Mark()
    stubborn = f"""({mark.bare} setsid sh -c "trap '' TERM; while :; do sleep 1000; done" &)"""
    with program(mark, stubborn) as adopter:
        assert adopter.stdout is not None
        adopter.stdout.readline()
        until(lambda: mark.count(": sleep 1000") == 1, mark.living)
        adopter.communicate("\n", timeout=PATIENCE)
        assert adopter.returncode == 0
        assert mark.living() == []


def test_children_that_were_there_before_us_are_not_ours() -> None:
    mark = Mark()
    before = ["sh -c sleep 2000; true", "sleep 1000", "sleep 2000"]

    def commands() -> list[str]:
        return sorted(line.partition(": ")[2] for line in mark.living())

    with program(
        mark,
        "true",
        before="exec 3>&1 >/dev/null; sleep 1000 3>&- & sh -c 'sleep 2000; true' 3>&- & exec >&3 3>&-",
    ) as adopter:
        assert adopter.stdout is not None
        adopter.stdout.readline()
        until(lambda: {*before} <= {*commands()}, mark.living)
        adopter.communicate("\n", timeout=PATIENCE)
        assert adopter.returncode == 0
    assert commands() == before
    mark.kill()


def test_what_has_ended_is_buried_while_the_others_live_on() -> None:
    import psutil

    mark = Mark()
    script = "for i in 1 2 3; do (setsid sleep 0.01 &); done; (setsid sleep 1000 &)"
    with program(mark, script) as adopter:
        assert adopter.stdout is not None
        adopter.stdout.readline()
        children = psutil.Process(adopter.pid).children
        until(lambda: len(children()) == 1, children)
        until(lambda: mark.count(": sleep 1000") == 1, mark.living)
        adopter.communicate("\n", timeout=PATIENCE)
        assert mark.living() == []
