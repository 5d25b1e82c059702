"""Pieces of projects as people have them: a real Vite in front, a browser that looks."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.kit import needed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from playwright.sync_api import Browser

# As if the virtual environment of the tests were activated.
ACTIVATED = {
    "VIRTUAL_ENV": sys.prefix,
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
}
# Vite begins at 5173 and takes the next port that is free.
VITE_PORTS = range(5173, 5273)


def install(folder: Path, **versions: str) -> Path:
    """Install packages from npm; returns the `node_modules`."""
    needed("node")
    npm = needed("npm")
    (folder / "package.json").write_text(json.dumps({"private": True, "devDependencies": versions}))
    command = [npm, "install", "--no-audit", "--no-fund", "--prefer-offline"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "node_modules"


def frontend(folder: Path, packages: Path, *, script: str = "vite", version: str = "^8.0.0") -> None:
    """What `npm create vite` writes, but for what it looks like."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "name": "frontend",
        "private": True,
        "type": "module",
        "scripts": {"dev": script, "build": "vite build", "preview": "vite preview"},
        "devDependencies": {"vite": version},
    }
    (folder / "package.json").write_text(json.dumps(described))
    (folder / "index.html").write_text(
        '<!doctype html><title>Vite App</title><div id="app"></div>'
        '<script type="module" src="/src/main.js"></script>'
    )
    (folder / "src").mkdir(exist_ok=True)
    (folder / "src" / "main.js").write_text("document.querySelector('#app').textContent = 'hello'\n")
    (folder / "node_modules").symlink_to(packages)


@contextlib.contextmanager
def browser_without(ports: Iterable[int], *, omitted: Sequence[str] = ()) -> Iterator[Browser]:
    """A browser that cannot reach `ports`, Vite's among them: whatever works, works through the proxy.

    Args:
        ports: Those that it cannot reach.
        omitted: Arguments of Playwright's that it is not started with.
    """
    from playwright.sync_api import sync_playwright

    path = needed("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=path,
            ignore_default_args=list(omitted),
            args=[
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-background-networking",
                "--host-resolver-rules=" + ", ".join(f"MAP *:{port} ~NOTFOUND" for port in ports),
            ],
        ) as launched,
    ):
        yield launched
