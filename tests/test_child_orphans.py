"""Orphans are a matter of a whole process, so a small program stands for orchestra as process 1."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from tests.kit import ROOT
from tests.process_kit import Mark, linux_only, until

pytestmark = [pytest.mark.real, linux_only]

# Orphans come to it as they do to process 1.
PROGRAM = """
import ctypes, trio
from orchestra.child.orphans import reap_orphans

SUBREAPER = 36
SCRIPT = "for i in 1 2 3; do (setsid sleep 0.01 &); done; (setsid sleep 1000 &); exit 7"

async def main():
    assert ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0) == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reap_orphans)
        while True:
            done = await trio.run_process(["/bin/sh", "-c", SCRIPT], check=False)
            print(done.returncode, flush=True)

trio.run(main)
"""


def test_orphans_are_reaped_and_trio_keeps_its_exit_statuses() -> None:
    mark = Mark()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM.replace("while True", "for _ in range(10)")],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **mark.env},
        stdout=subprocess.PIPE,
        text=True,
    ) as adopter:
        try:
            assert adopter.stdout is not None
            assert [adopter.stdout.readline() for _ in range(10)] == ["7\n"] * 10
            children = psutil.Process(adopter.pid).children
            until(lambda: len(children()) == 10, children)  # the zombies are gone, the sleeps are not
            assert mark.count(": sleep 1000") == 10
        finally:
            mark.kill()
