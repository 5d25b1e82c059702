"""Draws the pictures in this folder, of which the README has some, from a real run of ``Procfile.example``.

It also shows how a program embeds orchestra: a `Supervisor` in a nursery, a `Model` that watches it.

    python examples/picture.py
"""

from __future__ import annotations

import io
import os
import tempfile
import time
import urllib.request
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import get_args

import trio
from msgspec import structs
from rich.console import Console, Group
from rich.terminal_theme import TerminalTheme

from orchestra import ProcessPlan, Restart, StartError, Supervisor, load
from orchestra.dashboard.controls import Controls
from orchestra.dashboard.frame import frame
from orchestra.dashboard.model import Model
from orchestra.dashboard.view import draw
from orchestra.events import Event

ROOT = Path(__file__).parent.parent
VISITED = ["/", "/src/main.ts", "/src/style.css", "/api/notes", "/about", "/api/notes/7", "/favicon.svg"]
EIGHT = [
    (24, 26, 31),
    (232, 101, 101),
    (106, 186, 113),
    (214, 170, 92),
    (97, 150, 233),
    (190, 126, 218),
    (80, 178, 190),
    (214, 218, 226),
]
BRIGHT = [
    (110, 116, 128),
    (244, 130, 130),
    (134, 208, 140),
    (232, 196, 124),
    (128, 174, 244),
    (208, 156, 232),
    (112, 202, 212),
    (240, 242, 246),
]
THEME = TerminalTheme(EIGHT[0], EIGHT[-1], EIGHT, BRIGHT)


WORKER = """
import time

print("waiting for jobs at redis://127.0.0.1:6379", flush=True)
time.sleep(0.5)
raise ConnectionError("127.0.0.1:6379 refused the connection")
"""


async def main() -> None:
    """Bring the example up, visit it, draw it, and end it."""
    plan = load(ROOT / "Procfile.example", environ={**os.environ, "FORCE_COLOR": "1"})
    supervisor = Supervisor(plan)
    model = Model()
    supervisor.subscribe(model.apply, *get_args(Event))
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await supervisor.wait_ready()
        for path in VISITED:
            await trio.to_thread.run_sync(partial(visit, f"{supervisor.url}{path}"))
        await trio.sleep(5)  # until it was measured twice what they take
        draw_to("dashboard", model)
        draw_to("details", model, "t", "down", "enter")
        draw_to("log", model, "z")
        draw_to("small", model, width=80, height=24)
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "worker.py").write_text(WORKER, encoding="utf-8")
            worker = ProcessPlan(name="worker", command="python worker.py", cwd=folder, restart=Restart.NEVER)
            await supervisor.change(structs.replace(plan, processes=(*plan.processes, worker)))
            with suppress(StartError):
                await supervisor.wait_ready(["worker"])
            while not model.errors():
                await trio.sleep(0.1)
        draw_to("failed", model)
        await supervisor.stop()


def visit(url: str) -> None:
    """Ask for a page as a browser would."""
    request = urllib.request.Request(url, headers={"Accept": "text/html"})  # noqa: S310 - our own address
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - likewise
            answer.read()
    except urllib.error.HTTPError as error:
        with error:
            error.read()


def draw_to(name: str, model: Model, *keys: str, width: int = 104, height: int = 28) -> None:
    """Draw the dashboard, after some keys, as an SVG picture of a terminal of so many cells."""
    console = Console(
        record=True,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
        no_color=False,
        width=width,
        height=height,
    )
    controls, now = Controls(model), time.time()
    controls.see(now)
    for key in keys:
        controls.press(key)
    shown = frame(model, controls, now=now, width=width, height=height)
    console.print(Group(*draw(shown, controls.bindings)))
    picture = console.export_svg(title="orchestra run Procfile.example", theme=THEME)
    (ROOT / "examples" / f"{name}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    trio.run(main)
