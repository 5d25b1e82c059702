"""JavaScript packages: reading ``package.json``, finding workspaces, and what has to be installed first.

What a file does not plainly say is not claimed. Not here: installing, the network.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, TypeAlias

from orchestra.config.files import is_file, is_folder, upward
from orchestra.config.installed import LOCKS, is_installed
from orchestra.config.plan import Install
from orchestra.errors import ConfigError
from orchestra.folders import read_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = [
    "manager_of",
    "package_folder",
    "package_json",
    "plan_install",
    "scripts_of",
    "unreadable",
    "workspace",
]

# Where the folders of workspaces are looked for: apps/web is common, three levels are not.
_WORKSPACE_GLOBS = ("*/package.json", "*/*/package.json")

_Json: TypeAlias = "Mapping[str, object]"


def plan_install(folder: Path, root: Path, *, uses: str) -> Install | None:
    """Decide whether packages have to be installed before a command can run, and how.

    The folder is that of the nearest `package.json` up to `root`, or the root of its workspace; the manager
    is that of its lock file, else the one that `package.json` names, else the one that is used.
    """
    package = package_folder(folder, root)
    if package is None:
        return None
    folder = _install_folder(package, root)
    described = [package_json(package), package_json(folder)]
    if not any(each.get(key) for each in described for key in ("dependencies", "devDependencies")):
        return None
    manager = _manager(folder, described, default=uses)
    needed = [(each, _needed(package_json(each))) for each in dict.fromkeys([package, folder])]
    if is_installed(folder, needed, manager=manager):
        return None
    return Install(folder=folder, argv=_argv(manager, folder, described))


def manager_of(package: Path, root: Path) -> str:
    """Say which package manager the folder of a `package.json` belongs to; npm if nothing tells."""
    folder = _install_folder(package, root)
    return _manager(folder, [package_json(package), package_json(folder)], default="npm")


def package_json(folder: Path) -> _Json:
    """The `package.json` of a folder; empty if there is none, or none that can be understood."""
    found = _read(folder / "package.json")
    return {} if isinstance(found, ConfigError) else found


def scripts_of(folder: Path | None) -> dict[str, str]:
    """The scripts of the `package.json` of a folder, by name."""
    found = package_json(folder).get("scripts") if folder is not None else None
    scripts = found if isinstance(found, dict) else {}
    return {name: text for name, text in scripts.items() if isinstance(text, str)}


def unreadable(path: Path) -> ConfigError | None:
    """Say why no package manager can read a `package.json`, if none can."""
    found = _read(path)
    return found if isinstance(found, ConfigError) else None


def package_folder(folder: Path, root: Path) -> Path | None:
    """The nearest folder, from `folder` up to `root`, that has a `package.json`."""
    return next((each for each in upward(folder, root) if is_file(each / "package.json")), None)


def workspace(name: str, cwd: Path, root: Path) -> Path | None:
    """The folder of a workspace that is given by its folder or by the name of its package."""
    if is_file(cwd / name / "package.json"):
        return cwd / name
    base = package_folder(cwd, root) or cwd
    for pattern in _WORKSPACE_GLOBS:
        for path in sorted(base.glob(pattern)):
            if "node_modules" not in path.parts and package_json(path.parent).get("name") == name:
                return path.parent
    return None


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
        # Its patterns are YAML; that a package without a lock file of its own belongs to it is a safe guess.
        if is_file(folder / "pnpm-workspace.yaml"):
            return folder
    return package


def _locked(folder: Path) -> list[str]:
    return [manager for lock, manager in LOCKS.items() if is_file(folder / lock)]


def _manager(folder: Path, described: Sequence[_Json], *, default: str) -> str:
    names = [str(each.get("packageManager", "")).partition("@")[0] for each in described]
    named = next((name for name in names if name in LOCKS.values()), "")
    locked = _locked(folder)
    return next((each for each in (named, default, *locked) if each in locked), named or default)


def _needed(described: _Json) -> list[str]:
    """The packages that a `package.json` needs while one develops."""
    tables = [described.get(key) for key in ("dependencies", "devDependencies")]
    return [name for table in tables if isinstance(table, dict) for name in table]


def _argv(manager: str, folder: Path, described: Sequence[_Json]) -> tuple[str, ...]:
    """The command that installs what the lock file says, changes no lock file, and asks nothing."""
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
            # `ci` begins by deleting all that is there.
            is_new = is_locked and not is_folder(folder / "node_modules" / ".bin")
            return ("npm", "ci" if is_new else "install", "--no-audit", "--no-fund")
