"""The floors of the package, and which module each third party may enter: `tool.importlinter`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_import_goes_down() -> None:
    done = _lint(ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("config/load.py", "from orchestra import supervisor"),
        ("proxy/route.py", "import trio"),
        ("child/spawn.py", "from orchestra.proxy import server"),
        ("supervision/lifecycle.py", "from orchestra.supervision import worker"),
    ],
)
def test_an_import_that_goes_up_is_found(module: str, line: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "orchestra", tmp_path / "orchestra", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "orchestra" / module).open("a") as file:
        file.write(f"\n{line}\n")
    assert _lint(tmp_path).returncode == 1
