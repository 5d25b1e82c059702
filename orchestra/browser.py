"""Opens an address in the user's browser; unlike the dashboard, it needs no rich."""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial
from subprocess import DEVNULL

import trio

from orchestra.errors import ConfigError, no_address

__all__ = ["open_page"]

# Seconds after which what has not ended is a browser, which shows the page until the user closes it.
_TIMEOUT = 5.0


async def open_page(url: str | None) -> None:
    """Open an address as the system does, or as Python does; `ConfigError` if neither can, or it is none."""
    if not url:
        raise no_address()
    system = "open" if sys.platform == "darwin" else "xdg-open"
    python = (sys.executable, "-c", "import sys, webbrowser; sys.exit(not webbrowser.open(sys.argv[1]))")
    # Quiet: what it says would land in the middle of the picture.
    start = partial(trio.lowlevel.open_process, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    for command in ((system,), python):
        with suppress(OSError):
            process = await start([*command, url], start_new_session=True)
            with trio.move_on_after(_TIMEOUT):
                await process.wait()
            if not process.returncode:
                return
    raise ConfigError(f"no browser could be opened: {url}")
