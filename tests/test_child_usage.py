from __future__ import annotations

import subprocess
import sys

import pytest

from orchestra.child.usage import Meter

pytestmark = pytest.mark.real

BUSY = "import sys\nprint(flush=True)\nwhile True: pass"


def test_what_a_child_has_started_counts_and_what_has_ended_does_not() -> None:
    command = f"{sys.executable} -S -c '{BUSY}' & wait"
    with subprocess.Popen(
        ["/bin/sh", "-c", command], stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        meter = Meter()
        (first,) = meter.look({"busy": child.pid, "gone": 2**22 + 1})
        assert (first.process, first.cpu) == ("busy", 0)
        while not (second := meter.look({"busy": child.pid})[0]).cpu:
            pass
        assert second.memory > 4_000_000  # the shell alone has less
        subprocess.run(["pkill", "-KILL", "-s", str(child.pid)], check=True)
