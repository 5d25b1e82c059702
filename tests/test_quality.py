"""The checkers are tests like all others: one command runs everything."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# flake8-async needs a minute of a core for 65,000 lines, and has nothing to say of files without async code.
ASYNC_SOURCES = [
    str(path.relative_to(ROOT))
    for folder in ("orchestra", "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if re.search(r"(?m)^\s*(async|(import|from) (trio|asyncio))\b", path.read_text(encoding="utf-8"))
]


# ASYNC9 are the optional rules (a checkpoint on every path), for libraries that promise that.
# ASYNC114 wants a list of all our startable functions, for the sake of a check that needs none of them.
@pytest.mark.ceiling(300)
@pytest.mark.parametrize(
    "checker",
    [
        pytest.param(["ruff", "check", "--output-format=concise", "."], id="ruff"),
        pytest.param(["ruff", "format", "--check", "."], id="ruff-format"),
        pytest.param(["mypy"], id="mypy"),
        pytest.param(["tests.async_rules", "--disable=ASYNC114,ASYNC9", *ASYNC_SOURCES], id="flake8-async"),
    ],
)
def test_the_checkers_have_nothing_to_say(checker: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *checker], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
