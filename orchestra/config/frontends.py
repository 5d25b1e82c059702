"""Finds a project's frontends, how to run them, and which side their configuration gives each path.

A frontend is a folder whose `package.json` has a script that runs Vite, or names Vite or a framework that
includes it. Of several, one that certainly runs Vite comes first, then one with pages, then the nearest to
the top.

Vite's configuration says which paths are the backend's (``server.proxy``), and below which path its own files
are (``base``). A path that it rewrites, or forwards to another machine, has to stay Vite's. Files are
searched as text, not executed. Not here: Python (`applications`), and what is written (`scaffold`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra.config import command as commands, packages
from orchestra.config.applications import Call, text_of
from orchestra.config.files import is_file, is_folder
from orchestra.config.procfile import is_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["Forwarded", "Frontend", "find_frontends"]

_RUNNERS = {"npm": "npx", "pnpm": "pnpm exec", "yarn": "yarn", "bun": "bunx"}
# Packages that render pages, and may have an API of their own; all but Next.js include Vite.
_RENDERERS = (
    "@sveltejs/kit", "nuxt", "astro", "@react-router/dev", "@remix-run/dev", "@solidjs/start",
    "@tanstack/react-start", "@qwik.dev/router", "@builder.io/qwik-city", "@analogjs/platform", "vike",
    "next",
)  # fmt: skip
# Servers that may not be Vite, with the paths of their WebSockets.
_OTHERS = {
    "next": ("/_next/",),
    "@angular/cli": ("/ng-cli-ws",),
    "@rsbuild/core": ("/rsbuild-hmr",),
    "react-scripts": ("/ws", "/sockjs-node"),
    "@vue/cli-service": ("/ws", "/sockjs-node"),
}
# Where such an API is.
_OWN_APIS = ("src/routes/api", "server/api", "src/pages/api", "pages/api", "app/api", "src/app/api")
_CONFIGURATIONS = tuple(f"vite.config.{suffix}" for suffix in ("ts", "js", "mts", "mjs"))
_BASE = re.compile(r"""\bbase: *["'](/[\w./-]+)["']""")
_PROXY = re.compile(r"\bproxy\s*:\s*\{")
_ENTRY = re.compile(r"""["'`]\^?(/[\w.-]+(?:/[\w.-]+)*)[^"'`]*["'`]\s*:\s*(\{)?""")
_LOCAL = re.compile(r"https?://(?:localhost|127\.0\.0\.1|0\.0\.0\.0|\[::1?\]):(\d+)")
_ELSEWHERE = re.compile(r"""["'`](?:https?:)?//(?:[\w-]+\.)+[a-z]{2,}\b""")
# Files in which a frontend may name its backend's address.
_ASKING = re.compile(r"^[^\n]*(?:api|backend|base_?url|fetch|axios)[^\n]*", re.IGNORECASE | re.MULTILINE)
_MAY_ASK = re.compile(r"\.env(\.local|\.dev\w*)?|(?!.*(config|test|spec)\b).*\.(ts|tsx|js|jsx|vue|svelte)")
# Ports of frontends, which may name themselves.
_OWN_PORTS = frozenset({3000, 4173, 4321, 5173, 5174})
_MOST_SOURCES = 300


class Forwarded(Struct, frozen=True):
    """A path that Vite forwards.

    Attributes:
        port: The port on this machine; ``None`` if it is not named.
        is_vite_s: Whether requests have to go to Vite: it changes the path, or forwards it to another
            machine.
    """

    path: str
    port: int | None
    is_vite_s: bool


class Frontend(Struct, frozen=True, kw_only=True):
    """A frontend that was found.

    Attributes:
        folder: Where its pages are.
        package: The package that runs it: ``vite``, ``next``, ``nuxt``, ``react-scripts``.
        is_sure: Whether its command is known to run Vite itself.
        renders: Whether it renders its pages, and may have an API of its own.
    """

    call: Call
    folder: Path
    package: str
    is_sure: bool
    renders: bool

    @property
    def name(self) -> str:
        """The name of its process."""
        return "vite" if self.is_sure else "frontend"

    @property
    def has_pages(self) -> bool:
        """Whether it has pages, and not only modules for pages of the backend."""
        return self.renders or self.package in _OTHERS or is_file(self.folder / "index.html")

    @property
    def sockets(self) -> tuple[str, ...]:
        """The paths of its WebSockets, if it is not Vite."""
        return _OTHERS.get(self.package, ())

    @property
    def has_own_api(self) -> bool:
        """Whether it has an `/api`, too."""
        return self.renders and any(is_folder(self.folder / each) for each in _OWN_APIS)

    @property
    def base(self) -> str:
        """The path that all of Vite's files are below; empty if none is set."""
        found = _BASE.search(self._configuration())
        return f"{found[1].rstrip('/')}/" if found is not None else ""

    def forwarded(self) -> list[Forwarded]:
        """Give the paths that Vite forwards."""
        text = self._configuration()
        found = _PROXY.search(text)
        block = _in_braces(text, found.end()) if found is not None else ""
        result, end = [], 0
        for entry in _ENTRY.finditer(block):
            if entry.start() < end:
                continue
            value = _in_braces(block, entry.end()) if entry[2] else block[entry.end() :].partition("\n")[0]
            end = entry.end() + len(value)
            local = _LOCAL.search(value)
            is_elsewhere = local is None and _ELSEWHERE.search(value) is not None
            port = int(local[1]) if local is not None else None
            result.append(Forwarded(entry[1], port, is_vite_s=is_elsewhere or "rewrite" in value))
        return result

    def asks_elsewhere(self, files: Mapping[Path, Sequence[str]]) -> tuple[Path, int] | None:
        """Find a port of this machine that it names as its backend's: the file, and the port."""
        folders = [each for each in files if each.is_relative_to(self.folder)]
        paths = [each / name for each in folders for name in files[each] if _MAY_ASK.fullmatch(name)]
        own = _OWN_PORTS | {int(each) for each in re.findall(r"\bport: *(\d+)", self._configuration())}
        for path in paths[:_MOST_SOURCES]:
            for line in _ASKING.findall(text_of(path)):
                if (found := _LOCAL.search(line)) and int(found[1]) not in own:
                    return path, int(found[1])
        return None

    def _configuration(self) -> str:
        text = "\n".join(text_of(self.folder / name) for name in _CONFIGURATIONS)
        return re.sub(r"(?m)(^|\s)//[^\n]*", "", text)


def _in_braces(text: str, start: int) -> str:
    """The text up to the brace that closes the one before `start`."""
    depth = 1
    for index in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[start:index]
    return text[start:]


def find_frontends(root: Path, files: Mapping[Path, Sequence[str]]) -> list[Frontend]:
    """Give the frontends of a project, the best one first, one of each folder."""
    found = sorted(_frontends(root, files), key=lambda each: (not each.is_sure, not each.has_pages))
    by_folder: dict[Path, Frontend] = {}
    for each in found:
        by_folder.setdefault(each.folder, each)
    return [*by_folder.values()]


def _frontends(root: Path, files: Mapping[Path, Sequence[str]]) -> Iterator[Frontend]:
    for folder in (each for each, names in files.items() if "package.json" in names):
        manager = packages.manager_of(folder, root)
        package, scripts = packages.package_json(folder), packages.scripts_of(folder)
        named = packages.needed_by(package)
        usual = [name for name in ("dev", "start", "serve") if name in scripts]
        candidates = [f"{manager} run {name}" for name in dict.fromkeys([*usual, *scripts]) if is_name(name)]
        renderer = next((each for each in _RENDERERS if each in named), None)
        if "vite" in named and not usual:
            candidates.append(f"{_RUNNERS[manager]} vite")
        other = next((each for each in _OTHERS if each in named and "vite" not in named), "vite")
        runs, renders = renderer or other, renderer is not None
        for each in candidates:
            reading = commands.read(each, cwd=folder, root=root)
            # A script that also starts the backend would start it twice.
            if reading.why and not reading.serves:
                call = Call(folder, each, reading.why)
                is_sure = reading.why.endswith(" vite")
                yield Frontend(
                    call=call, folder=reading.folder, package=runs, is_sure=is_sure, renders=renders
                )
                break
        else:
            if runs in named and usual:
                why = f"{(folder / 'package.json').relative_to(root)} names {runs}"
                call = Call(folder, f"{manager} run {usual[0]}", why)
                yield Frontend(call=call, folder=folder, package=runs, is_sure=False, renders=renders)
