"""Opens an address in the user's browser; unlike the dashboard, it needs no rich."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from subprocess import DEVNULL

import trio

__all__ = ["open_page"]


async def open_page(url: str) -> bool:
    """Open an address as the system does, or as Python does; say whether one of them could."""
    system = "open" if sys.platform == "darwin" else "xdg-open"
    python = (sys.executable, "-c", "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))")
    # Quiet: what it says would land in the middle of the picture.
    run = partial(trio.run_process, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True, check=False)
    for command in ((system,), python):
        with suppress(OSError):
            if (await run([*command, url])).returncode == 0:
                return True
    return False
