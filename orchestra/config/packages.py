"""JavaScript packages: reads ``package.json``, finds workspaces, and decides what has to be installed first.

Whether packages are installed is decided by facts, not by a mark of ours: each package that `package.json`
names is where Node would find it, and the manager's record of its last installation equals the lock file.
They differ after a pull, or after an installation without development packages (``NODE_ENV=production``).

The records: npm has the versions of all packages (``node_modules/.package-lock.json``); pnpm a copy of the
lock file (``node_modules/.pnpm/lock.yaml``); yarn 1 the origin of each package
(``node_modules/.yarn-integrity``). For bun and newer yarns only the packages themselves are checked.

Anything that a file does not plainly say, or that is not understood, counts as installed. Not here:
installing, the network.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, TypeAlias

from orchestra.config.files import is_file, is_folder, text_if_any, upward
from orchestra.config.plan import Install
from orchestra.errors import ConfigError
from orchestra.folders import read_file
from orchestra.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

__all__ = [
    "LOCKS",
    "lock_content",
    "manager_of",
    "needed_by",
    "package_folder",
    "package_json",
    "plan_install",
    "scripts_of",
    "unreadable",
    "workspace",
]

# Lock files, and the managers that write them.
LOCKS = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}
# Files that a manager writes into node_modules at the end; programs are linked when all packages are there.
_INSTALL_MARKS = (".package-lock.json", ".modules.yaml", ".yarn-integrity", ".yarn-state.yml", ".bin/vite")
# Fields of npm's lock file for packages that may be left out on this machine.
_MAY_BE_MISSING = ("optional", "devOptional", "peer")
_RESOLVED = regex(r'^ +resolved "?([^"\s]+)', re.MULTILINE)
# The depth at which workspaces are looked for: apps/web is common, three levels are not.
_WORKSPACE_GLOBS = ("*/package.json", "*/*/package.json")

_Json: TypeAlias = "Mapping[str, Any]"


def plan_install(folder: Path, root: Path, *, uses: str) -> Install | None:
    """Decide whether packages have to be installed before a command can run, and how.

    The folder is that of the nearest `package.json` up to `root`, or the root of its workspace. The manager
    is that of the lock file, otherwise the one that `package.json` names, otherwise the one in the command.
    """
    package = package_folder(folder, root)
    if package is None:
        return None
    folder = _install_folder(package, root)
    described = {each: package_json(each) for each in (package, folder)}
    needed = {each: needed_by(found) for each, found in described.items()}
    manager = _manager(folder, described.values(), default=uses)
    if not any(needed.values()) or _is_installed(folder, needed, manager=manager):
        return None
    return Install(folder=folder, argv=_argv(manager, folder, described.values()))


def manager_of(package: Path, root: Path) -> str:
    """Give the package manager of a folder with a `package.json`; npm if nothing names one."""
    folder = _install_folder(package, root)
    return _manager(folder, [package_json(package), package_json(folder)], default="npm")


def package_json(folder: Path) -> _Json:
    """The `package.json` of a folder; empty if there is none, or none that is valid."""
    return _object_in(folder / "package.json")


def scripts_of(folder: Path | None) -> dict[str, str]:
    """The scripts of the `package.json` of a folder, by name."""
    found = package_json(folder).get("scripts") if folder is not None else None
    scripts = found if isinstance(found, dict) else {}
    return {name: text for name, text in scripts.items() if isinstance(text, str)}


def unreadable(path: Path) -> ConfigError | None:
    """Say why no package manager can read a `package.json`; empty if they can."""
    found = _read(path)
    return found if isinstance(found, ConfigError) else None


def package_folder(folder: Path, root: Path) -> Path | None:
    """The nearest folder, from `folder` up to `root`, that has a `package.json`."""
    return next((each for each in upward(folder, root) if is_file(each / "package.json")), None)


def needed_by(described: _Json) -> list[str]:
    """The packages that a `package.json` needs for development."""
    tables = [described.get(key) for key in ("dependencies", "devDependencies")]
    return [name for table in tables if isinstance(table, dict) for name in table]


def lock_content(folder: Path) -> tuple[str, ...]:
    """Give the inputs of an installation: `package.json` and the lock files."""
    return tuple(text_if_any(folder / name) for name in ("package.json", *LOCKS))


def workspace(name: str, cwd: Path, root: Path) -> Path | None:
    """The folder of a workspace, by its folder or by the name of its package."""
    if is_file(cwd / name / "package.json"):
        return cwd / name
    base = package_folder(cwd, root) or cwd
    for pattern in _WORKSPACE_GLOBS:
        for path in sorted(base.glob(pattern)):
            if "node_modules" not in path.parts and package_json(path.parent).get("name") == name:
                return path.parent
    return None


def _object_in(path: Path) -> _Json:
    """The JSON object in a file; empty if there is none that is valid."""
    found = _read(path)
    return {} if isinstance(found, ConfigError) else found


def _read(path: Path) -> _Json | ConfigError:
    try:
        data: object = json.loads(read_file(path).decode("utf-8-sig"))
    except json.JSONDecodeError as exc:
        hint = f"Look at column {exc.colno}; JSON has neither comments nor commas at the end."
        return ConfigError(f"not JSON: {exc.msg}", path=path, line=exc.lineno, hint=hint)
    except UnicodeDecodeError:
        return ConfigError("not UTF-8", path=path, hint="Save the file as UTF-8.")
    except OSError as exc:
        return ConfigError(f"cannot be read: {exc.strerror}", path=path, hint="Check its permissions.")
    except (ValueError, RecursionError):
        return ConfigError("too large or too deep to be read", path=path, hint="Restore the file.")
    if not isinstance(data, dict):
        return ConfigError("not a JSON object", path=path, hint='Write `{"scripts": {"dev": "vite"}}`.')
    return data


def _install_folder(package: Path, root: Path) -> Path:
    """The folder in which a package's dependencies are installed: its own, or its workspace's root."""
    if _locked(package):
        return package
    for folder in upward(package.parent, root) if package != root else ():
        declared = package_json(folder).get("workspaces")
        if isinstance(declared, dict):
            declared = declared.get("packages")
        patterns = [str(each) for each in declared] if isinstance(declared, list) else []
        inside = package.relative_to(folder).as_posix()
        if any(fnmatchcase(inside, pattern.removeprefix("./").rstrip("/")) for pattern in patterns):
            return folder
        # Its patterns are YAML; a package without a lock file of its own most probably belongs to it.
        if is_file(folder / "pnpm-workspace.yaml"):
            return folder
    return package


def _locked(folder: Path) -> list[str]:
    return [manager for lock, manager in LOCKS.items() if is_file(folder / lock)]


def _manager(folder: Path, described: Iterable[_Json], *, default: str) -> str:
    names = [str(each.get("packageManager", "")).partition("@")[0] for each in described]
    named = next((name for name in names if name in LOCKS.values()), "")
    locked = _locked(folder)
    return next((each for each in (named, default, *locked) if each in locked), named or default)


def _argv(manager: str, folder: Path, described: Iterable[_Json]) -> tuple[str, ...]:
    """The command that installs the contents of the lock file, changes no lock file, and asks nothing."""
    is_locked = manager in _locked(folder)
    frozen = ("--frozen-lockfile",) if is_locked else ()
    match manager:
        case "pnpm" | "bun":
            return (manager, "install", *frozen)
        case "yarn":
            versions = [str(each.get("packageManager", "")) for each in described]
            if is_file(folder / ".yarnrc.yml") or any(re.match(r"yarn@([2-9]|\d\d)", v) for v in versions):
                # Berry is immutable by itself where CI is set, and cannot be without a lock file.
                return ("yarn", "install", "--immutable" if is_locked else "--no-immutable")
            return ("yarn", "install", *frozen, "--non-interactive")
        case _:
            # `ci` begins by deleting all packages.
            is_new = is_locked and not is_folder(folder / "node_modules" / ".bin")
            return ("npm", "ci" if is_new else "install", "--no-audit", "--no-fund")


# --- Whether packages are there ---


def _is_installed(folder: Path, packages: Mapping[Path, Iterable[str]], *, manager: str) -> bool:
    """Whether nothing has to be installed.

    `packages` are folders of a `package.json`, each with the names of the packages that it needs; the manager
    installs in `folder`, where its lock file is.
    """
    if any(is_file(each / ".pnp.cjs") for each in (folder, *folder.parents)):
        return True  # yarn without node_modules
    if not all(_is_found(name, where) for where, names in packages.items() for name in names):
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
            return lock is None or _is_as_npm_noted(
                _object_in(lock), _object_in(modules / ".package-lock.json")
            )
        case "pnpm":
            noted, wanted = (
                _importers(each) for each in (modules / ".pnpm" / "lock.yaml", folder / "pnpm-lock.yaml")
            )
            return not noted or not wanted or noted == wanted
        case "yarn":
            entries = _object_in(modules / ".yarn-integrity").get("lockfileEntries")
            came_from = set(_RESOLVED.findall(text_if_any(folder / "yarn.lock")))
            return not isinstance(entries, dict) or came_from <= {*entries.values()}
        case _:
            return True


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
    """The part of pnpm's lock file with the packages of each `package.json`."""
    return text_if_any(lock).partition("\nimporters:\n")[2].partition("\npackages:\n")[0]
