"""Built files in production: `orchestra serve` beside uvicorn with Starlette's `StaticFiles`.

Both serve the same application and the same files by one worker, without a line for each request. uvicorn is
``uvicorn[standard]``, with uvloop and httptools.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import HERE, Report, Running, answers, checked, free_port, interleaved
from benchmarks.peers import installed, program
from benchmarks.rates import UNITS, wrk

if TYPE_CHECKING:
    from collections.abc import Mapping

    from benchmarks.harness import Options

__all__ = ["files"]

PIP = ("starlette", "uvicorn[standard]")
# As large as a chunk of a small project, and as its largest one.
SIZES = {"asset of 20 KB": 20_000, "asset of 1 MB": 1_000_000}
PATHS = {what: f"/assets/chunk{size}-BxYz1234.js" for what, size in SIZES.items()} | {"API": "/api/item"}
APP = """
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles


async def item(request):
    return JSONResponse({"id": 1, "name": "first"})


routes = [Route("/api/item", item)]
bare = Starlette(routes=routes)
whole = Starlette(routes=[*routes, Mount("/assets", StaticFiles(directory="dist/assets"))])
"""


@cache
def _uvicorn() -> Path:
    def install(folder: Path) -> None:
        checked([sys.executable, "-m", "venv", str(folder)])
        checked([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *PIP])

    return installed("pip", PIP, install) / "bin/uvicorn"


def files(options: Options) -> Report:
    """Measure both."""
    program("wrk")
    report = Report()
    serve = [sys.executable, "-m", "orchestra", "serve", "app:bare", "--static", "dist/assets"]
    commands = {
        "orchestra": [*serve, "--spa", "dist/index.html", "--no-access-log", "--listen", "127.0.0.1:{port}"],
        "uvicorn": [str(_uvicorn()), "app:whole", "--no-access-log", "--log-level=error", "--port={port}"],
    }
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="orchestra-benchmark-")))
        (folder / "dist/assets").mkdir(parents=True)
        (folder / "dist/index.html").write_text("<!doctype html><title>page</title>")
        for what, size in SIZES.items():
            (folder / f"dist{PATHS[what]}").write_bytes(b"x" * size)
        (folder / "app.py").write_text(APP)
        served = {}
        for name, command in commands.items():
            port = free_port()
            running = Running(
                [each.format(port=port) for each in command],
                cwd=folder,
                env={"PYTHONPATH": str(HERE.parent)},
                output=subprocess.DEVNULL,
            )
            stack.enter_context(running)
            running.wait_for(answers(port, "/api/item"), f"{name} does not answer")
            served[name] = port, running
        for what in PATHS:
            measure = partial(_measured, served, PATHS[what], options.pick(3, 1))
            found = interleaved(served, measure, rounds=options.round_count(5))
            report.compare(f"{what}, 8 connections", found, UNITS)
    return report


def _measured(
    served: Mapping[str, tuple[int, Running]], path: str, seconds: int, name: str
) -> dict[str, float]:
    port, running = served[name]
    before = running.cpu()
    load = wrk(port, path, connections=8, seconds=seconds)
    cpu = (running.cpu() - before) / load.requests * 1e6
    return {"requests/s": load.rate, "p50 µs": load.p50, "p99 µs": load.p99, "CPU µs": cpu}
