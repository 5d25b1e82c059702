"""From the save of a Python file to the page that shows it, in Chromium.

One application (`examples/jinja`), a browser that has its page open, and a file that is saved again and
again: through orchestra, by ``uvicorn --reload`` with fastapi-reloader in the application, and by
``uvicorn-hmr --refresh``, which replaces the changed module in the process. All run in one virtual
environment, of Python 3.12 at least because uvicorn-hmr needs that.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import Error, sync_playwright

from benchmarks.harness import HERE, Failed, Report, Running, answers, checked, free_port, interleaved
from benchmarks.peers import ORCHESTRA_ENVIRONMENT, installed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from playwright.sync_api import Browser, Page

    from benchmarks.harness import Options

__all__ = ["saves"]

EXAMPLE = HERE.parent / "examples" / "jinja"
PACKAGES = ("fastapi", "fastapi-reloader", "hypercorn", "jinja2", "uvicorn", "uvicorn-hmr[all]")
_GREETING = 'GREETING = "Tea, freshly picked"'
# What its README has an application add, for a server that knows nothing of it.
_RELOADER = """
import uvicorn
from fastapi_reloader import auto_refresh_middleware, send_reload_signal

app.add_middleware(auto_refresh_middleware)
_shutdown = uvicorn.Server.shutdown


def shutdown(self, *args, **kwargs):
    send_reload_signal()
    return _shutdown(self, *args, **kwargs)


uvicorn.Server.shutdown = shutdown
"""
# Seconds before a save: what the last one has led to comes to rest.
_SETTLE = 0.5
_TELL = """addEventListener("DOMContentLoaded", () => {
    console.log("shows " + document.querySelector("h1")?.textContent);
});"""


def _python() -> str:
    """Return a Python that uvicorn-hmr runs with."""
    if sys.version_info >= (3, 12):
        return sys.executable
    names = [f"python3.{minor}" for minor in range(20, 11, -1)]
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    found = [str(path) for name in names for path in sorted(pyenv.glob(f"versions/*/bin/{name}"))]
    found += filter(None, map(shutil.which, names))
    for path in found:
        with contextlib.suppress(Failed):
            checked([path, "--version"])
            return path
    raise Failed("there is no Python 3.12 or later, which uvicorn-hmr needs")


@cache
def _bin() -> Path:
    """Return the folder with the programs of the peers, and with orchestra's dependencies."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())
    packages = (*PACKAGES, *project["project"]["dependencies"])

    def install(folder: Path) -> None:
        checked([_python(), "-m", "venv", str(folder)])
        checked([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", *packages])

    return installed("saves", packages, install) / "bin"


@dataclass(frozen=True, slots=True)
class _Peer:
    """How the application is served and reloaded.

    Attributes:
        command: The command, for a port.
        addition: What the application needs for it.
        settings: Further lines of orchestra's settings.
    """

    command: Callable[[int], Sequence[str]]
    addition: str = ""
    settings: str = ""


def _orchestra(port: int) -> Sequence[str]:
    options = ["--listen", f"127.0.0.1:{port}", "--output", "plain"]
    return [str(_bin() / "python"), "-m", "orchestra", "run", *options]


def _uvicorn(port: int) -> Sequence[str]:
    return [str(_bin() / "uvicorn"), "app:app", "--reload", "--port", str(port)]


def _hmr(port: int) -> Sequence[str]:
    return [str(_bin() / "uvicorn-hmr"), "app:app", "--refresh", "--host", "127.0.0.1", "--port", str(port)]


PEERS = {
    "orchestra": _Peer(_orchestra),
    "orchestra, warm spare": _Peer(_orchestra, settings="warm_spare = true\n"),
    "uvicorn --reload, fastapi-reloader": _Peer(_uvicorn, _RELOADER),
    "uvicorn-hmr --refresh": _Peer(_hmr),
}


class _Served:
    """The application, served by one peer, and a tab that shows it."""

    def __init__(self, folder: Path, tab: Page, addition: str) -> None:
        self.tab = tab
        self._file = folder / "app.py"
        self._source = self._file.read_text() + addition
        self._number = 0

    def write(self, number: int) -> None:
        """Save the file with another text."""
        self._file.write_text(self._source.replace(_GREETING, f'GREETING = "Tea number {number}"'))

    def save(self) -> dict[str, float]:
        """Save the file, and wait until the page shows it."""
        time.sleep(_SETTLE)
        self._number += 1
        shown = f"shows Tea number {self._number}"
        begun = time.perf_counter()
        try:
            with self.tab.expect_console_message(lambda message: message.text == shown, timeout=20_000):
                self.write(self._number)
        except Error as exc:
            raise Failed(f"the page does not show the change: {exc}") from exc
        return {"ms": (time.perf_counter() - begun) * 1000}


@contextlib.contextmanager
def _serving(peer: _Peer, browser: Browser) -> Iterator[_Served]:
    with tempfile.TemporaryDirectory(prefix="orchestra-saves-") as name, contextlib.ExitStack() as stack:
        folder = Path(name) / "project"
        shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("__pycache__"))
        with (folder / "orchestra.toml").open("a") as settings:
            settings.write(peer.settings)
        tab = stack.enter_context(browser.new_context()).new_page()
        served = _Served(folder, tab, peer.addition)
        served.write(0)
        port = free_port()
        running = stack.enter_context(Running(peer.command(port), cwd=folder, env=ORCHESTRA_ENVIRONMENT))
        running.wait_for(answers(port, "/"), "it does not come up")
        # The page tells when it shows something: to ask it again and again takes up to half a second longer.
        tab.on("console", lambda _: None)
        tab.add_init_script(_TELL)
        tab.goto(f"http://127.0.0.1:{port}/")
        yield served


def saves(options: Options) -> Report:
    """Save a file beside each peer in turns, and wait for the page."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise Failed("chromium is not installed")
    report = Report()
    flags = ["--no-sandbox", "--disable-dev-shm-usage"]
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=flags) as browser,
        contextlib.ExitStack() as stack,
    ):
        served = {}
        for name, peer in PEERS.items():
            try:
                served[name] = stack.enter_context(_serving(peer, browser))
            except (Failed, Error) as exc:
                print(f"{name} is left out: {exc}", flush=True)
        found = interleaved(served, lambda name: served[name].save(), rounds=options.round_count(20, quick=2))
    report.compare("from a save to the page that shows it", found, {"ms": "{:,.0f}"})
    return report
