"""What a command will not find, or will find elsewhere: a folder, a program, a Python.

Besides, it finds words that the command's shell does not know: ``source`` is bash's, and ``/bin/sh`` may be
dash. That is a search for unquoted words, not a grammar: quoted text is not searched (``bash -c '[[ … ]]'``
is right), and in doubt nothing is reported. The command itself is read by `command`.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
from functools import partial
from typing import TYPE_CHECKING

from orchestra.config import tools
from orchestra.config.files import is_file, subfolders
from orchestra.config.plan import Note
from orchestra.config.tools import Program, find_program, shown
from orchestra.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from orchestra.config.select import Draft
    from orchestra.errors import ConfigError

__all__ = ["check", "check_shell", "foreign_word", "knows_bash"]

_NODE = "Install Node.js 20.19 or newer: https://nodejs.org"
_NEXT_STEPS = {
    "npm": f"{_NODE} (npm comes with it)",
    "npx": f"{_NODE} (npx comes with it)",
    "pnpm": "Install it: `corepack enable pnpm`, or `npm install -g pnpm`",
    "yarn": "Install it: `corepack enable yarn`, or `npm install -g yarn`",
    "bun": "Install it: https://bun.sh, or `npm install -g bun`",
    "bunx": "Install Bun: https://bun.sh, or `npm install -g bun`",
    "corepack": "Install it: `npm install -g corepack`",
    "vite": "Run it through its package: `npx vite`",
}
_QUOTED = regex(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*\"""", re.DOTALL)
_BEGIN = r"(?:^|[;&|({!]|\b(?:then|do|else|if|while|until))\s*"
# One of these texts is in every match; the pattern; and what to write instead that every shell has, empty if
# nothing is as short.
_WORDS: Mapping[str, tuple[tuple[str, ...], re.Pattern[str], str]] = {
    "source": (("source",), regex(_BEGIN + r"source\s"), ". FILE"),
    "[[": (("[[",), regex(_BEGIN + r"\[\[\s"), "[ … ]"),
    "pushd": (("pushd", "popd"), regex(_BEGIN + r"(?:pushd|popd)\b"), "(cd DIR && …)"),
    "shopt": (("shopt",), regex(_BEGIN + r"shopt\s"), ""),
    "declare": (("declare", "typeset"), regex(_BEGIN + r"(?:declare|typeset)\s"), "NAME=VALUE"),
    "mapfile": (("mapfile", "readarray"), regex(_BEGIN + r"(?:mapfile|readarray)\b"), "while read -r"),
    "function": (("function",), regex(_BEGIN + r"function\s+\w"), "NAME() { …; }"),
    "{1..3}": (("..",), regex(r"(?<!\$)\{\w+\.\.\w+(?:\.\.\w+)?\}"), "1 2 3"),
    "{a,b}": (("{",), regex(r"(?<!\$)\{[^{}\s,]*,[^{}\s]*\}"), "a b"),
    "<<<": (("<<<",), regex(r"<<<"), "echo … | COMMAND"),
    "<(…)": (("<(", ">("), regex(r"[<>]\("), ""),
    "&>": (("&>",), regex(r"&>>?(?!&)"), "> FILE 2>&1"),
    "|&": (("|&",), regex(r"\|&"), "2>&1 |"),
}
# Shells that know all of this, also when they are called as sh.
_KNOWING = frozenset({"bash", "ksh", "ksh93", "mksh", "zsh"})


def check(process: Draft, root: Path, *, scripts: str | None) -> Iterator[Note]:
    """Refuse what cannot start; warn of missing programs that something may still install in time.

    Notes are about a program that is found, and perhaps not the one that is meant.
    """
    reading, needs = process.reading, process.reading.needs
    if needs and process.install is not None:
        # If the command's program is not certain, the manager's is not either: PATH may change before it.
        needs = (*(each for each in needs if each != "vite"), process.install.argv[0])
    lacking = next((program for program in needs if not _is_on_path(program, process)), None)
    refuse, warn = process.file.problems.add, partial(_warn, process)
    if reading.missing is not None:
        text = f"cd to {reading.missing}: there is no such folder"
        refuse(_message(process, text, "Create it, {or}"))
    elif lacking is not None:
        text = f"it needs {' and '.join(dict.fromkeys(needs))}, but {lacking} is not found on PATH"
        refuse(_message(process, text, f"{_NEXT_STEPS.get(lacking, _NODE)}."))
    try:
        shlex.split(process.command, comments=True)
    except ValueError:
        warn("a quote is opened and not closed", "Close it.")
    if not reading.program:
        return
    found = find_program(reading.program, process.tools_folder, process.env, scripts=scripts)
    if found is not None:
        process.program = found.in_words(root)
        if not os.access(found.path, os.X_OK):
            warn(f"{found.path} is not executable", f"Make it so: chmod +x {found.path}")
    elif reading.program not in reading.needs:
        _warn_of_missing(process, root)
    if found is not None and reading.script is not None and not reading.script.exists():
        warn(f"there is no {reading.script}", "Create it, {or}")
    yield from _broken(process, root)
    if found is not None and found.is_python:
        if found.interpreter is not None and not is_file(found.interpreter):
            # Its folder was moved, or Python removed.
            text = f"{found.path} is a script for {found.interpreter}, which is not there"
            warn(text, "Make its virtual environment again.")
        yield from _unexpected(process, found, root)


def check_shell(process: Draft, asked: str | None) -> None:
    """Report a shell that does not exist; warn of words in the command that it does not know."""
    shell = asked or "/bin/sh"
    try:
        (program, *_), is_valid = shlex.split(shell), True
    except ValueError:
        program, is_valid = shell, False
    if not (is_valid and _is_on_path(program, process)):
        key = ("run",) if process.settings.shell is None else ("process", process.name)
        text = f"there is no program {program}" if is_valid else "a quote is opened and not closed"
        process.file.refuse((*key, "shell"), text, hint="Name one that is on PATH, such as bash.")
    elif not knows_bash(shell) and (found := foreign_word(process.command)) is not None:
        word, instead = found
        text = f"`{word}` is bash's, and {shell} runs the command"
        setting = f'set shell = "bash" in [run] or [process.{process.name}]'
        hint = f"Write `{instead}`, or {setting}." if instead else f"{setting[0].upper()}{setting[1:]}."
        _warn(process, text, hint)


def knows_bash(shell: str) -> bool:
    """Whether a shell knows the words of bash; true for a shell that we do not know."""
    program = shell.split(maxsplit=1)[0]
    name = os.path.basename(os.path.realpath(program) if "/" in program else program)  # noqa: PTH119 - text
    return name in _KNOWING or name not in {"ash", "busybox", "dash", "sh"}


def foreign_word(command: str) -> tuple[str, str] | None:
    """Find the first word in a command that is only bash's, and what every shell has instead."""
    bare = _QUOTED.sub(lambda found: "_" * len(found[0]), command)
    found = (
        (match.start(), word, instead)
        for word, (traces, form, instead) in _WORDS.items()
        if any(each in bare for each in traces) and (match := form.search(bare))
    )
    return next(((word, instead) for _, word, instead in sorted(found)), None)


def _message(process: Draft, text: str, hint: str) -> ConfigError:
    return process.error(f"{process.name}: {text}", hint=hint.replace("{or}", "or correct the command."))


def _warn(process: Draft, text: str, hint: str) -> None:
    process.file.problems.warnings.append(_message(process, text, hint))


def _is_on_path(program: str, process: Draft) -> bool:
    return shutil.which(program, path=process.env["PATH"]) is not None


def _warn_of_missing(process: Draft, root: Path) -> None:
    program, cwd = process.reading.program, process.reading.program_cwd
    if "node_modules/" in program and process.install:
        return
    if "/" not in program:
        _warn(process, f"{program} is not found on PATH", _how_to_get(process, root))
    elif cwd is not None and not (cwd / program).exists():
        _warn(process, f"there is no {cwd / program}", "Create it, {or}")


def _how_to_get(process: Draft, root: Path) -> str:
    """Say how to install a program, by the files in the folder."""
    folder, env = process.tools_folder, process.env
    if process.reading.is_launched:
        return "Install it, {or}"
    if (venv := tools.virtual_environment(folder, root, env)) is not None:
        return f"Install it in {shown(venv, root)}, {{or}}"
    if (launcher := tools.launcher_of(folder, root)) is not None:
        return f"{_run_by(launcher, process, root)}, {{or}}"
    for below in subfolders(folder):
        if tools.environment_in(below, env) is not None:
            where = f"{shown(below, root)} has a virtual environment"
            return f"{where}: begin with `cd {shown(below, folder)} &&`."
    if is_file(folder / "package.json"):
        return f"Install the packages of {shown(folder, root)}, {{or}}"
    return "Install it, {or}"


def _run_by(launcher: tuple[str, Path], process: Draft, root: Path) -> str:
    tool, where = launcher
    make = "uv sync" if tool == "uv" else f"{tool} install"
    return f"Write `{tool} run {process.reading.program}`, run `{make}` in {shown(where, root)}"


def _unexpected(process: Draft, found: Program, root: Path) -> Iterator[Note]:
    """Give a note if a program may not be the project's."""
    folder, env, name = process.tools_folder, process.env, process.name
    active = env.get("VIRTUAL_ENV")
    if process.reading.is_launched or process.settings.app is not None:
        return
    venv = tools.virtual_environment(folder, root, env)
    if found.is_own:
        lacking = f"{shown(venv, root)} has none" if venv else f"there is no virtual environment in {folder}"
        text = f"{name}: {found.path} is that of orchestra's own environment: {lacking}"
        yield Note(text, _how_to_get(process, root).replace("{or}", "or activate yours."), "warning")
    elif venv is not None and active and os.path.realpath(active) != os.path.realpath(venv):
        text = f"{name}: the active environment {active} is used, not {shown(venv, root)}"
        yield Note(text, "Deactivate it if that is not meant.", "warning")
    elif not (venv or active or env.get("CONDA_PREFIX")) and (launcher := tools.launcher_of(folder, root)):
        text = f"{name}: {found.path} is not of an environment that {launcher[0]} has made"
        yield Note(text, f"{_run_by(launcher, process, root)}, or activate yours.", "warning")


def _broken(process: Draft, root: Path) -> Iterator[Note]:
    if (folder := tools.broken_environment(process.tools_folder, root)) is not None:
        text = f"{process.name}: {shown(folder, root)} has no Python that can be executed, and is not used"
        yield Note(text, "Make it again: the Python that it was made with may be gone.", "warning")
