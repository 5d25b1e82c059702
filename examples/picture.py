"""Draws the picture in the README, ``examples/dashboard.svg``, from a real run of ``Procfile.example``.

It also shows how a program embeds orchestra: a `Stack` in a nursery, a `Model` that watches it.

    python examples/picture.py
"""

import os
import urllib.request
from functools import partial
from pathlib import Path

import trio

from orchestra import Stack, load
from orchestra.dashboard.model import Model
from orchestra.dashboard.view import export_svg

ROOT = Path(__file__).parent.parent
VISITED = ["/", "/src/main.ts", "/src/style.css", "/api/notes", "/about", "/api/notes/7", "/favicon.svg"]


async def main() -> None:
    """Bring the example up, visit it, draw it, and end it."""
    stack = Stack(load(ROOT / "Procfile.example", environ={**os.environ, "FORCE_COLOR": "1"}))
    model = Model()
    stack.subscribe(model.apply)
    async with trio.open_nursery() as nursery:
        await nursery.start(stack.run)
        await stack.supervisor.wait_ready()
        for path in VISITED:
            await trio.to_thread.run_sync(partial(visit, f"{stack.url}{path}"))
        picture = export_svg(
            model, now=trio.current_time(), width=104, height=28, title="orchestra run Procfile.example"
        )
        await stack.stop()
    (ROOT / "examples" / "dashboard.svg").write_text(picture, encoding="utf-8")


def visit(url: str) -> None:
    """Ask for a page as a browser would."""
    request = urllib.request.Request(url, headers={"Accept": "text/html"})  # noqa: S310 - our own address
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - likewise
            answer.read()
    except urllib.error.HTTPError as error:
        with error:
            error.read()


if __name__ == "__main__":
    trio.run(main)
