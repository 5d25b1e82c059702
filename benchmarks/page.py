"""Loading a page of 1,000 modules through Vite in Chromium: for the first time, and again.

The page measures itself, from the start of the navigation until the last module has run. *Cold* is a browser
without a cache; *reload* asks again for everything, which Vite answers by 304.
"""

from __future__ import annotations

import json
import shutil
from functools import partial
from typing import TYPE_CHECKING

from playwright.sync_api import Error, sync_playwright

from benchmarks.harness import Failed, Report, interleaved
from benchmarks.peers import Site, nginx_site, serving, vite_command

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from playwright.sync_api import Browser

    from benchmarks.harness import Options
    from benchmarks.peers import Served

__all__ = ["page"]

# Two levels below the page's own module: as in applications, what is needed is not known in advance.
GROUPS, IN_EACH = 27, 36
MODULES = 1 + GROUPS * (1 + IN_EACH)

_PEERS = ("orchestra", "nginx", "node")
# Twenty lines, as many as a small component has.
_BODY = "".join(
    f"export const text{line} = `line ${{{line}}} of a module like all others`\n" for line in range(20)
)


def _project(port: int, folder: Path) -> Sequence[str]:
    """Write the page; return the command that serves it."""
    source = folder / "src"
    source.mkdir()
    for group in range(GROUPS):
        names = [f"leaf-{group}-{number}" for number in range(IN_EACH)]
        for name in names:
            (source / f"{name}.js").write_text(f"export const value = 1\n{_BODY}")
        _write_sum(source / f"group-{group}.js", names, "export const value =")
    _write_sum(source / "main.js", [f"group-{group}" for group in range(GROUPS)], "window.sum =")
    with (source / "main.js").open("a") as main:
        main.write("window.took = performance.now()\n")
    (folder / "index.html").write_text('<!doctype html><script type="module" src="/src/main.js"></script>')
    config = {"logLevel": "error", "server": {"host": "127.0.0.1"}, "optimizeDeps": {"noDiscovery": True}}
    (folder / "vite.config.mjs").write_text(f"export default {json.dumps(config)}")
    return vite_command(port)


def _write_sum(file: Path, names: Sequence[str], target: str) -> None:
    imports = "".join(f'import {{ value as v{at} }} from "./{name}.js"\n' for at, name in enumerate(names))
    file.write_text(f"{imports}{target} {' + '.join(f'v{at}' for at in range(len(names)))}\n{_BODY}")


def page(options: Options) -> Report:
    """Load the page, cold and again, directly and through each peer in turns."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise Failed("chromium is not installed")
    report = Report()
    site = Site(nginx_site().backend, _project, path="/")
    flags = ["--no-sandbox", "--disable-dev-shm-usage"]
    with (
        serving(site, "page", options, only=_PEERS) as served,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=flags) as browser,
    ):
        load = partial(_load, browser, served)
        # Vite transforms each module once.
        able = interleaved(served, load, rounds=1)
        found = interleaved(able, load, rounds=options.round_count(15, quick=2))
    if "direct" not in found:
        raise Failed("the page does not load directly from Vite")
    direct = found["direct"]
    for figures in found.values():
        for kind in ("cold", "reload"):
            pairs = zip(figures[f"{kind} ms"], direct[f"{kind} ms"], strict=False)
            figures[f"{kind} / direct"] = [ours / theirs for ours, theirs in pairs]
    units = dict.fromkeys(("cold ms", "reload ms"), "{:,.0f}")
    units |= dict.fromkeys(("cold / direct", "reload / direct"), "{:.2f}")
    report.compare(f"a page of {MODULES:,} modules", found, {**units, "CPU ms for both": "{:,.0f}"})
    return report


def _load(browser: Browser, served: Mapping[str, Served], name: str) -> dict[str, float]:
    peer = served[name]
    before = peer.cpu()
    figures = {}
    # A context of its own has nothing in its cache.
    with browser.new_context() as context:
        tab = context.new_page()
        try:
            tab.goto(f"http://127.0.0.1:{peer.frontend}/", wait_until="load")
            figures["cold ms"] = _took(tab.evaluate("[window.took, window.sum]"))
            tab.reload(wait_until="load")
            figures["reload ms"] = _took(tab.evaluate("[window.took, window.sum]"))
        except Error as exc:
            raise Failed(f"the page did not load: {exc}") from exc
    if peer.running:
        figures["CPU ms for both"] = (peer.cpu() - before) * 1000
    return figures


def _took(told: Sequence[float | None]) -> float:
    took, modules = told
    if took is None or modules != GROUPS * IN_EACH:
        raise Failed(f"the page did not run: {modules} of {GROUPS * IN_EACH} modules")
    return took
