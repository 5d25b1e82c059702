"""Whether the packages of a folder are there, and are those that its lock file names.

Only facts count, no mark of ours: each package that `package.json` names is found as Node finds it, and what
the manager has noted of its last installation is what the lock file says now. It may not be: after a pull,
or after an installation that left development packages out (``NODE_ENV=production``).

What a manager notes: npm, the versions of all packages (``node_modules/.package-lock.json``); pnpm, the lock
file as it was (``node_modules/.pnpm/lock.yaml``); yarn 1, where each package came from
(``node_modules/.yarn-integrity``). Of bun and newer yarns only the packages themselves are looked for. What
is not understood counts as installed. Not here: installing.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from orchestra.config.files import is_file, is_folder, text_if_any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = ["LOCKS", "is_installed", "lock_content"]

# Lock files, and the managers that write them.
LOCKS = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}
# What a manager writes into node_modules when it is done; programs are linked when all packages are there.
_INSTALL_MARKS = (".package-lock.json", ".modules.yaml", ".yarn-integrity", ".yarn-state.yml", ".bin/vite")
# Of npm's lock file: what may be left out on this machine.
_MAY_BE_MISSING = ("optional", "devOptional", "peer", "link")
_RESOLVED = re.compile(r'^ +resolved "?([^"\s]+)', re.MULTILINE)


def is_installed(folder: Path, packages: Iterable[tuple[Path, Iterable[str]]], *, manager: str) -> bool:
    """Say whether nothing has to be installed.

    `packages` are folders of a `package.json`, each with the names of the packages that it needs; the manager
    installs in `folder`, where its lock file is.
    """
    if any(is_file(each / ".pnp.cjs") for each in (folder, *folder.parents)):
        return True  # yarn without node_modules
    if not all(_is_found(name, where) for where, names in packages for name in names):
        return False
    modules = folder / "node_modules"
    # An `npm ci` that was interrupted, and Vite's cache alone, leave a node_modules that looks like one.
    is_whole = any(is_file(modules / mark) for mark in _INSTALL_MARKS)
    match manager:
        case "npm" if is_folder(modules) and not is_whole:
            return False
        case "npm":
            locks = (folder / name for name in ("npm-shrinkwrap.json", "package-lock.json"))
            lock = next((each for each in locks if is_file(each)), None)
            return lock is None or _is_as_npm_noted(_json(lock), _json(modules / ".package-lock.json"))
        case "pnpm":
            noted, wanted = (
                _importers(each) for each in (modules / ".pnpm" / "lock.yaml", folder / "pnpm-lock.yaml")
            )
            return not noted or not wanted or noted == wanted
        case "yarn":
            entries = _json(modules / ".yarn-integrity").get("lockfileEntries")
            came_from = set(_RESOLVED.findall(text_if_any(folder / "yarn.lock")))
            return not isinstance(entries, dict) or came_from <= {*entries.values()}
        case _:
            return True


def lock_content(folder: Path) -> tuple[bytes | None, ...]:
    """Give what an installation depends on: `package.json` and the lock files."""
    return tuple(_bytes(folder / name) for name in ("package.json", *LOCKS))


def _is_found(name: str, folder: Path) -> bool:
    """Whether Node finds a package from a folder."""
    return any(is_file(each / "node_modules" / name / "package.json") for each in (folder, *folder.parents))


def _is_as_npm_noted(lock: Mapping[str, Any], noted: Mapping[str, Any]) -> bool:
    wanted, there = lock.get("packages"), noted.get("packages")
    if not isinstance(wanted, dict) or not isinstance(there, dict):
        return True
    for place, package in wanted.items():
        if not isinstance(package, dict) or not place.startswith("node_modules/") or package.get("link"):
            continue
        found = there.get(place)
        if found is None and not any(package.get(key) for key in _MAY_BE_MISSING):
            return False
        if isinstance(found, dict) and found.get("version") != package.get("version"):
            return False
    return True


def _importers(lock: Path) -> str:
    """The part of pnpm's lock file that names what each `package.json` gets."""
    return text_if_any(lock).partition("\nimporters:\n")[2].partition("\npackages:\n")[0]


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(text_if_any(path) or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes() if is_file(path) else None
    except OSError:
        return None
