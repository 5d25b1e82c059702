"""The floors of the package, which module each third party may enter, and which modules a request enters."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.proxy_kit import stage

if TYPE_CHECKING:
    from types import FrameType

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


def test_the_readme_has_a_map_of_all_modules_from_the_bottom_up() -> None:
    table = (ROOT / "README.md").read_text("utf-8").partition("| package or module | what it does |\n")[2]
    rows = [row.split("|")[1] for row in table.partition("\n\n")[0].split("\n")[1:]]
    floors = {name: number for number, row in enumerate(rows) for name in re.findall(r"`(\w+)/?`", row)}
    paths = [*(ROOT / "orchestra").glob("*.py"), *(ROOT / "orchestra").glob("*/*.py")]
    found = {path: path.relative_to(ROOT / "orchestra").with_suffix("").parts[0] for path in paths}
    assert set(floors) == {name for name in found.values() if not name.startswith("__")}
    for path, name in found.items():
        for other in re.findall(r"from orchestra\.(\w+)", path.read_text("utf-8")):
            assert name.startswith("__") or floors[other] <= floors[name], f"{path} imports {other}"


class Tracer:
    """Notes which modules of the proxy are entered while it is installed, and from which others."""

    def __init__(self) -> None:
        self.entered: set[str] = set()
        self.ways: set[tuple[str, ...]] = set()

    def __call__(self, frame: FrameType | None, event: str, _arg: object) -> None:
        files = []
        while event == "call" and frame is not None:
            files.append(Path(frame.f_code.co_filename))
            frame = frame.f_back
        modules = [file.stem for file in files if file.parent == ROOT / "orchestra" / "proxy"]
        if modules and files[0].stem == modules[0]:
            self.entered.add(modules[0])
            self.ways.add(tuple(module for module, _ in groupby(modules)))


@pytest.mark.parametrize("request_line", [b"GET /x", b"POST /x"])
async def test_a_request_enters_few_modules_and_none_twice(request_line: bytes) -> None:
    """In reality `transport` is one more; readers of heads, the route's data and the pool are not counted."""
    request = request_line + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody"
    tracer = Tracer()
    async with stage() as on:
        client = on.client()
        sys.setprofile(tracer)
        try:
            await client.says(request)
            backend = await on.backend()
            await backend.hears_until(b"body")
            await backend.says(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno")
            if request_line.startswith(b"GET"):
                frontend = await on.frontend()
                await frontend.hears_until(b"body")
                await frontend.says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno")
            await client.hears_until(b"\r\n\r\nno")
        finally:
            sys.setprofile(None)
    decides = {"route", "rules", "request"}
    passed = tracer.entered - decides - {"server", "head", "gate"} | {"transport"}
    assert len(passed) <= 9, passed
    twice = [" < ".join(way) for way in tracer.ways if len(set(way)) < len(way)]
    assert not twice, "\n".join(twice)
