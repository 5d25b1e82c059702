"""Which files matter to a process, and of which kind: decided from the plan, before any file is looked at.

| process                                  | files, below its folder                          | as       |
|------------------------------------------|--------------------------------------------------|----------|
| the backend                              | ``*.py``, ``.env``                               | code     |
|                                          | ``*.html *.jinja *.jinja2 *.j2``                 | template |
|                                          | ``*.css``                                        | style    |
| one with ``watch = true``                | what is watched for a backend                    |          |
| one with ``watch = ["src/**/*.py"]``     | those                                            | code     |
| one with ``watch = false``, and all else | none                                             |          |

The inputs of ``before_restart`` are added, as code. Templates and styles in a folder that Vite serves are
Vite's, such as its ``index.html``. For a process that is not the backend a template is code, and a style is
ignored, because no page comes from it.

Patterns are those of ``.gitignore``, relative to the process's folder; one may begin with ``../``. A pattern
that names one file (`Rule.is_named`) matches it even if a ``.gitignore`` excludes it: most exclude ``.env``.

The files that the plan itself was made from belong to the run, so a ``.env`` that is one of them is not the
backend's.

Not here: files, matching (`filters`), what follows from a change (`orchestra.reloading`).
"""

from __future__ import annotations

from enum import Enum
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra.config.plan import FromProcess, Plan, ProcessPlan, Role
from orchestra.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


__all__ = [
    "RUN",
    "Changed",
    "Changes",
    "Interest",
    "Kind",
    "Rule",
    "in_words",
    "interests",
    "is_backend",
    "rules",
]

RUN = ""
"""The key of the run itself among processes: no process has this name."""

_CODE = ("*.py",)
_TEMPLATES = ("*.html", "*.jinja", "*.jinja2", "*.j2")
_STYLES = ("*.css",)
# Files that Vite serves below its folder, if that is the backend's folder, too.
_VITES = ("index.html", "public", "src")
_WILD = regex(r"[*?\[]")


class Kind(Enum):
    """The kind of a file for a process."""

    CODE = "code"
    TEMPLATE = "template"
    STYLE = "style"
    PLAN = "plan"  # Procfile, settings, env file


class Rule(Struct, frozen=True, kw_only=True):
    """Files that matter for one reason.

    Attributes:
        patterns: As in ``.gitignore``; one of them has to match.
        is_deep: Whether they may be anywhere below the folder; otherwise they are in it, or below a matching
            folder in it.
        ignored: Excluded files, as patterns relative to `ignored_in`.
        not_below: Excluded files and folders.
    """

    folder: Path
    patterns: tuple[str, ...]
    kind: Kind
    is_deep: bool = True
    is_named: bool = False
    ignored: tuple[str, ...] = ()
    ignored_in: Path | None = None
    not_below: tuple[Path, ...] = ()


# The first rule that matches a file decides.
Interest = tuple[Rule, ...]


class Changed(Struct, frozen=True):
    """A file that is new, is gone, or has new content."""

    path: Path
    kind: Kind


class Changes(Struct, frozen=True):
    """The changes for one process.

    Attributes:
        rereads_templates: Whether its program is known to read changed templates again.
    """

    files: tuple[Changed, ...]
    rereads_templates: bool = False


def is_backend(process: ProcessPlan, plan: Plan) -> bool:
    """Whether pages come from a process: by its role, or because the proxy uses it as the backend anyway."""
    upstream = plan.proxy.backend if plan.proxy is not None else None
    return process.role is Role.BACKEND or (
        isinstance(upstream, FromProcess) and process.name in upstream.members
    )


def interests(plan: Plan, processes: Iterable[ProcessPlan]) -> Mapping[str, Interest]:
    """Decide which files matter to which process, by name; and to the run as a whole.

    The processes are those as they are now: a role, or the folder of a Vite, may have been found at run time.
    """
    found: dict[str, Interest] = {}
    if plan.files:
        by_name = [rules(path.parent, [f"/{path.name}"], Kind.PLAN) for path in plan.files]
        found[RUN] = tuple(rule for each in by_name for rule in each)
    present = tuple(processes)
    vites = [each.vite_folder for each in (*plan.processes, *present) if each.vite_folder is not None]
    for process in present:
        wanted = _interest(process, vites, plan.files, has_pages=is_backend(process, plan))
        if wanted:
            found[process.name] = wanted
    return found


def _interest(
    process: ProcessPlan, vites: Sequence[Path], plan_files: Sequence[Path], *, has_pages: bool
) -> Interest:
    cwd, ignored = process.cwd, process.ignore
    inputs = [pattern for each in process.before_restart for pattern in each.inputs]
    if process.watch is False or (process.watch is None and not has_pages):
        return ()
    if isinstance(process.watch, tuple):
        return rules(cwd, [*process.watch, *inputs], Kind.CODE, ignored)
    env = [] if cwd / ".env" in plan_files else ["/.env"]
    found = rules(cwd, [*inputs, *_CODE, *env], Kind.CODE, ignored)
    not_below = tuple(path for vite in vites for path in _served_by_vite(vite, cwd))
    found += rules(cwd, _TEMPLATES, Kind.TEMPLATE if has_pages else Kind.CODE, ignored, not_below)
    if has_pages:
        found += rules(cwd, _STYLES, Kind.STYLE, ignored, not_below)
    return found


def _served_by_vite(folder: Path, cwd: Path) -> Iterable[Path]:
    return [folder / name for name in _VITES] if cwd.is_relative_to(folder) else [folder]


def rules(
    cwd: Path,
    patterns: Iterable[str],
    kind: Kind,
    ignored: tuple[str, ...] = (),
    not_below: tuple[Path, ...] = (),
) -> Interest:
    """Make rules of patterns: one for each folder that they begin in."""
    grouped: dict[tuple[Path, bool, bool], list[str]] = {}
    for pattern in patterns:
        folder, rest, is_deep = _split(cwd, pattern)
        is_named = not _WILD.search(rest) and not rest.endswith("/")
        grouped.setdefault((folder, is_deep, is_named), []).append(rest)
    return tuple(
        Rule(
            folder=folder,
            patterns=tuple(found),
            kind=kind,
            is_deep=is_deep,
            is_named=is_named,
            ignored=ignored,
            ignored_in=cwd,
            not_below=not_below,
        )
        for (folder, is_deep, is_named), found in grouped.items()
    )


def _split(cwd: Path, pattern: str) -> tuple[Path, str, bool]:
    """Split a pattern into the folder that it begins in, the rest, and whether that is deep."""
    parts = pattern.removeprefix("./").split("/")
    # Without a slash, except at its end, it is about a name at any depth.
    if len([part for part in parts if part]) < 2 and not pattern.startswith(("/", "./")):
        return cwd, pattern, True
    fixed = 0
    while fixed < len(parts) - 1 and not _WILD.search(parts[fixed]):
        fixed += 1
    if not parts[-1] and fixed == len(parts) - 1:  # a folder
        fixed -= 1
    rest = parts[fixed:]
    is_deep = any(_WILD.search(part) for part in rest[:-1]) or "**" in rest[-1]
    return Path(normpath(cwd / "/".join(parts[:fixed]).lstrip("/"))), "/" + "/".join(rest), is_deep


def in_words(process: ProcessPlan, plan: Plan) -> str:
    """Describe the watched files of a process; empty if there are none and that is not worth mentioning."""
    if process.watch is False:
        return "not watched (watch = false)"
    found = interests(plan, [process]).get(process.name, ())
    if not found:
        return "watched, if it turns out to be the backend" if process.role is Role.UNDECIDED else ""
    names = [name.lstrip("/") for rule in found for name in rule.patterns]
    text = f"watched: {', '.join(dict.fromkeys(names))}"
    if isinstance(process.watch, tuple):
        text = f"watched: {', '.join(process.watch)}"
    if process.ignore:
        text += f", without {', '.join(process.ignore)}"
    if process.watch is None and process.reloader is not None:
        text += f"; {process.reloader.word} restarts it"
    return text
