"""What a command imports: a start is as fast as what it does not import."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.kit import base_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real

# Says at exit, on standard error, which of the modules that it was asked about are loaded.
SCRIPT = """
import atexit, sys
modules = sys.argv.pop(1).split()
atexit.register(lambda: print(*(name for name in modules if name in sys.modules), file=sys.stderr))
from orchestra.cli import main
main()
"""


def loaded(modules: str, *arguments: str, cwd: Path) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, modules, *arguments],
        cwd=cwd,
        # Which program holds a port is asked with a module more.
        env={**os.environ, "PORT": str(base_port())},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", ["--version", "--help", "run --help", "check --help"])
def test_help_imports_nothing_of_a_run(arguments: str, tmp_path: Path) -> None:
    heavy = "trio msgspec dotenv psutil rich h11 orchestra.config orchestra.events tempfile"
    assert loaded(heavy + " click", *arguments.split(), cwd=tmp_path) == {"click"}


def test_plain_output_without_proxy_imports_no_dashboard_or_proxy(tmp_path: Path) -> None:
    (tmp_path / "Procfile").write_text("one: echo up\n")
    unneeded = (
        "rich h11 wsproto hypercorn watchfiles orchestra.dashboard.model orchestra.proxy.server"
        " dotenv tomllib difflib"
    )
    if sys.platform == "linux":  # elsewhere it is the process table
        unneeded += " psutil"
    arguments = ("run", "--no-proxy", "--output", "plain")
    assert loaded(unneeded + " trio", *arguments, cwd=tmp_path) == {"trio"}
