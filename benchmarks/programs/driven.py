"""Orchestra in a process of its own: it tells every event on standard output, a line each.

Each line of its input is an order to restart `api`; the end of its input is the order to stop.

    python driven.py FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from orchestra import Supervisor, load
from orchestra.events import encode

if TYPE_CHECKING:
    from orchestra.events import Event


def _tell(event: Event) -> None:
    sys.stdout.buffer.write(encode(event) + b"\n")
    sys.stdout.buffer.flush()


async def main() -> None:
    """Run the Procfile of a folder."""
    supervisor = Supervisor(load(Path(sys.argv[1], "Procfile")), is_kept_open="always")
    supervisor.subscribe(_tell)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        async with trio.lowlevel.FdStream(os.dup(0)) as orders:
            async for _ in orders:
                nursery.start_soon(supervisor.restart, "api")
        await supervisor.stop()


trio.run(main)
