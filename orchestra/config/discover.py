"""What a command is going to run, by reading it: Vite or not, in which folder, with the help of whom.

A command is split as a POSIX shell would roughly do it, and its simple commands are followed: through ``cd``,
wrappers (``exec``, ``env``, ``sh -c``), package managers and the scripts of ``package.json``, to a bounded
depth. This is reading, not running: whatever depends on a variable, on a substitution or on what a command
answers is not known, and what is not known is not claimed. A wrong guess costs a user an hour, a missing one
a line in the settings (``[proxy] frontend = "web"``).

From the same reading follows which packages have to be installed first, and how: `plan_install`.

Never here: starting anything, the network, `os.environ`.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from orchestra.config.files import is_file, is_folder
from orchestra.config.plan import Install
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Reading", "installed_vite", "manager_of", "package_json", "plan_install", "read"]

# A script that calls a script that calls a script: more is a loop or a puzzle.
_DEEPEST = 8
# Look for the folders of workspaces this deep: apps/web is common, three levels are not.
_WORKSPACE_GLOBS = ("*/package.json", "*/*/package.json")

_PUNCTUATION = frozenset("();<>|&")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
_SUBSTITUTION = re.compile(r"\$\([^()]*\)|`[^`]*`")
_OPTION = re.compile(r"-(?!\d)")  # `nice -n -5` has a value that begins like one
# Words of the shell's grammar that stand before a command.
_KEYWORDS = frozenset(
    {"!", "{", "}", "if", "then", "elif", "else", "fi", "while", "until", "do", "done", "time"}
)
# Programs that run the command which follows them, and those of their options that take a value.
_WRAPPERS: Mapping[str, frozenset[str]] = {
    "command": frozenset(),
    "cross-env": frozenset(),
    "env": frozenset({"-u", "--unset", "-C", "--chdir"}),
    "exec": frozenset({"-a"}),
    "nice": frozenset({"-n"}),
    "nohup": frozenset(),
    "setsid": frozenset(),
    "stdbuf": frozenset({"-i", "-o", "-e"}),
    "timeout": frozenset({"-k", "--kill-after", "-s", "--signal"}),
}
# What stands before the command.
_POSITIONALS: Mapping[str, int] = {"timeout": 1}
_SHELLS = frozenset({"sh", "bash", "dash", "zsh"})
# Commands that may change where programs are found: after them, nothing is known about PATH.
_PATH_CHANGERS = frozenset({".", "source", "eval", "nvm", "fnm", "volta"})

# Builtins after which everything is as it was, and those that are no programs.
_HARMLESS = frozenset(
    {"cd", "echo", "export", "printf", "set", "trap", "ulimit", "umask", "unset", ":", "true"}
)
_BUILT_INTO_SHELLS = frozenset(
    {"[", "[[", ".", "alias", "builtin", "case", "eval", "exit", "false", "for", "function", "kill", "pwd"}
) | {"read", "return", "select", "shift", "source", "test", "type", "until", "wait", "while"}

# Options of `vite` that take a value; https://vite.dev/guide/cli
_VITE_VALUES = frozenset(
    [
        "--port",
        "--host",
        "--mode",
        "-m",
        "--config",
        "-c",
        "--base",
        "--logLevel",
        "-l",
        "--filter",
        "-f",
        "--debug",
        "-d",
        "--open",
        "--configLoader",
    ]
)
_NODE_VALUES = frozenset(
    ["-r", "--require", "--import", "--loader", "--experimental-loader", "--env-file", "-C", "--conditions"]
)

_MANAGERS = frozenset({"npm", "pnpm", "yarn", "bun"})
_RUNNERS = {"npx": "npm", "pnpx": "pnpm", "bunx": "bun"}
_MANAGER_VALUES: Mapping[str, frozenset[str]] = {
    "npm": frozenset(
        ["--prefix", "-C", "-w", "--workspace", "--loglevel", "--script-shell", "--cache", "--registry"]
    ),
    "pnpm": frozenset(["-C", "--dir", "--filter", "-F", "--reporter", "--loglevel"]),
    "yarn": frozenset({"--cwd"}),
    "bun": frozenset({"--cwd", "--filter", "-F"}),
}
_EXEC_VALUES = frozenset({"-p", "--package", "-c", "--call", "-w", "--workspace", "--prefix", "-C"})
_FOLDER_OPTIONS = frozenset({"--prefix", "-C", "--dir", "--cwd"})
_WORKSPACE_OPTIONS = frozenset({"-w", "--workspace", "--filter", "-F"})
_MAY_BE_ABSENT = frozenset({"--if-present", "-w", "--workspace", "--workspaces", "-ws", "-h", "--help"})
_RUN_WORDS = frozenset({"run", "run-script", "rum", "urn"})
_EXEC_WORDS = frozenset({"exec", "x", "dlx"})
_INSTALL_WORDS = frozenset({"install", "i", "ci", "clean-install", "install-clean", "add"})
# ``uv run`` and its like run a command in a virtual environment; their options that take a value.
_LAUNCHERS: Mapping[str, frozenset[str]] = {
    "hatch": frozenset(),
    "pdm": frozenset({"-p", "--project"}),
    "pipenv": frozenset(),
    "poetry": frozenset(),
    "rye": frozenset(),
    "uv": frozenset(
        [
            "--with",
            "--extra",
            "--group",
            "--env-file",
            "--package",
            "--project",
            "--directory",
            "--python",
            "-p",
        ]
    ),
}
_CONCURRENTLY_VALUES = frozenset(
    {"-n", "--names", "-c", "--prefix-colors", "-p", "--prefix", "-m", "-l", "-s"}
)
_PYTHON = re.compile(r"python(\d(\.\d+)?)?")
_PYTHON_VALUES = frozenset({"-W", "-X"})
# Programs (and modules) that serve whatever they are told.
_SERVERS = frozenset(
    [
        "daphne",
        "granian",
        "gunicorn",
        "hypercorn",
        "pserve",
        "sanic",
        "uvicorn",
        "uvicorn-hmr",
        "waitress-serve",
    ]
)
# Programs that do many things, and the word that makes them serve.
_SERVE_WORDS: Mapping[str, frozenset[str]] = {
    "django-admin": frozenset({"runserver"}),
    "fastapi": frozenset({"dev", "run"}),
    "flask": frozenset({"run"}),
    "litestar": frozenset({"run"}),
    "manage.py": frozenset({"runserver", "runserver_plus"}),
    "quart": frozenset({"run"}),
}
# What pnpm, yarn and bun do themselves: everything else is the name of a script or of a package's program.
_BUILT_IN = frozenset(
    [
        "add",
        "audit",
        "build",
        "cache",
        "config",
        "create",
        "dedupe",
        "doctor",
        "init",
        "link",
        "list",
        "login",
        "outdated",
        "pack",
        "patch",
        "publish",
        "rebuild",
        "remove",
        "unlink",
        "update",
        "upgrade",
        "version",
        "why",
    ]
)

_LOCKS = {
    "package-lock.json": "npm",
    "npm-shrinkwrap.json": "npm",
    "pnpm-lock.yaml": "pnpm",
    "yarn.lock": "yarn",
    "bun.lock": "bun",
    "bun.lockb": "bun",
}
# What a manager writes into node_modules when it is done.
_DONE = (".package-lock.json", ".modules.yaml", ".yarn-integrity", ".yarn-state.yml")

_Json: TypeAlias = "Mapping[str, object]"


class Reading(Struct, frozen=True, kw_only=True):
    """What a command is going to do, as far as reading it tells.

    Attributes:
        runs_vite: Whether it runs Vite's development server.
        folder: Where it does that; otherwise where it first asks a package manager, or starts.
        needs: Programs that have to be on `PATH`, such as ``("node", "npm")``, and are not sure to be.
        manager: The package manager that it uses, if its packages have to be there before it starts.
        missing: A folder that it changes to and that does not exist.
        why: How Vite was found, for people: "`npm run dev` in frontend runs vite".
        program: What is sure to be executed first: a name, or a path; empty if that is not sure.
        program_cwd: Where it is then.
        serves: What of it runs a server for Python, such as ``uvicorn app:app``; empty if none is known.
        fault: What is wrong with a `package.json` that it needs; no package manager could read it either.
    """

    runs_vite: bool
    folder: Path
    needs: tuple[str, ...] = ()
    manager: str | None = None
    missing: Path | None = None
    why: str = ""
    program: str = ""
    program_cwd: Path | None = None
    serves: str = ""
    fault: ConfigError | None = None


class _Shell(Struct):
    """What is known at a point of a command.

    Attributes:
        cwd: Where it is; `None` if that depends on something.
        root: The highest folder that is looked at for a `package.json`.
        depth: How many scripts and shells it is in.
        is_script: Whether one of these is a script of a package: there the manager has changed PATH.
    """

    cwd: Path | None
    root: Path
    env: Mapping[str, str]
    depth: int = 0
    is_script: bool = False
    found: _Found = field(default_factory=lambda: _Found())  # noqa: PLW0108 - defined below

    def inner(self, cwd: Path | None, *, is_script: bool = False) -> _Shell:
        return replace(self, cwd=cwd, depth=self.depth + 1, is_script=self.is_script or is_script)


class _Found(Struct):
    """What has been found so far; shared by all shells of one reading."""

    vite: Path | None = None
    via: str = ""
    manager: str | None = None
    manager_folder: Path | None = None
    needs: list[str] = field(default_factory=list)
    is_sure: bool = True
    installs_itself: bool = False
    missing: Path | None = None
    fault: ConfigError | None = None
    serves: str = ""
    program: str | None = None
    program_cwd: Path | None = None


def read(command: str, *, cwd: Path, root: Path, env: Mapping[str, str] | None = None) -> Reading:
    """Read a command that is given to ``/bin/sh -c``.

    Args:
        command: As it stands in the Procfile.
        cwd: The folder that it starts in.
        root: The Procfile's folder: messages are relative to it; no `package.json` above it is looked for.
        env: The child's environment, for ``~``.
    """
    shell = _Shell(cwd=cwd, root=root, env=env or {})
    found = shell.found
    _run(command, shell)
    folder = found.vite or found.manager_folder or cwd
    return Reading(
        runs_vite=found.vite is not None,
        folder=folder,
        needs=tuple(dict.fromkeys(found.needs)) if found.is_sure else (),
        manager=None if found.installs_itself else found.manager,
        missing=found.missing,
        why=f"`{found.via}`{_within(folder, root)} runs vite" if found.vite is not None else "",
        program=found.program or "",
        program_cwd=found.program_cwd,
        serves=found.serves,
        fault=found.fault,
    )


def plan_install(reading: Reading, *, root: Path) -> Install | None:
    """Decide whether packages have to be installed before a command can run, and how.

    The folder is that of the nearest `package.json`, or the root of the workspace that it belongs to; the
    manager is that of its lock file, else the one that `package.json` names, else the one that the command
    uses.
    """
    if reading.manager is None:
        return None
    package = _package_folder(reading.folder, root)
    if package is None:
        return None
    folder = _install_folder(package, root)
    described = [package_json(package), package_json(folder)]
    if not any(each.get(key) for each in described for key in ("dependencies", "devDependencies")):
        return None
    manager, has_lock = _manager_of(folder, described, default=reading.manager)
    if _is_installed(folder, manager):
        return None
    argv = _install_command(manager, folder, described, has_lock=has_lock)
    return Install(folder=folder, manager=manager, argv=argv)


def manager_of(package: Path, root: Path) -> str:
    """Say which package manager the folder of a `package.json` belongs to; npm if nothing tells."""
    folder = _install_folder(package, root)
    return _manager_of(folder, [package_json(package), package_json(folder)], default="npm")[0]


def _manager_of(folder: Path, described: Sequence[_Json], *, default: str) -> tuple[str, bool]:
    """The manager of a folder's packages, and whether it has a lock file of that."""
    named = next((name for each in described if (name := _manager_named(each)) is not None), None)
    locks = list(dict.fromkeys(manager for lock, manager in _LOCKS.items() if is_file(folder / lock)))
    if not locks:
        return named or default, False
    return next(each for each in (named, default, *locks) if each in locks), True


def _install_command(
    manager: str, folder: Path, described: Sequence[_Json], *, has_lock: bool
) -> tuple[str, ...]:
    """The command that installs what the lock file says, changes no lock file, and asks nothing."""
    match manager:
        case "pnpm":
            return ("pnpm", "install", "--frozen-lockfile") if has_lock else ("pnpm", "install")
        case "bun":
            return ("bun", "install", "--frozen-lockfile") if has_lock else ("bun", "install")
        case "yarn":
            versions = [str(each.get("packageManager", "")) for each in described]
            if is_file(folder / ".yarnrc.yml") or any(re.match(r"yarn@([2-9]|\d\d)", v) for v in versions):
                # Berry is immutable by itself where CI is set, and cannot be without a lock file.
                return ("yarn", "install", "--immutable" if has_lock else "--no-immutable")
            return ("yarn", "install", *(("--frozen-lockfile",) if has_lock else ()), "--non-interactive")
        case _:
            return ("npm", "ci" if has_lock else "install", "--no-audit", "--no-fund")


def _is_installed(folder: Path, manager: str) -> bool:
    modules = folder / "node_modules"
    if not is_folder(modules):
        return is_file(folder / ".pnp.cjs")
    # An `npm ci` that was interrupted, and Vite's cache alone, leave a node_modules that looks like one. The
    # programs are linked when all packages are there, by whatever has put them there.
    return manager != "npm" or any(is_file(modules / mark) for mark in (*_DONE, ".bin/vite"))


def _install_folder(package: Path, root: Path) -> Path:
    """The folder in which a package's dependencies are installed: its own, or its workspace's root."""
    if any(is_file(package / lock) for lock in _LOCKS):
        return package
    for folder in _upward(package.parent, root) if package != root else ():
        patterns = _workspaces(package_json(folder))
        inside = package.relative_to(folder).as_posix()
        if any(fnmatchcase(inside, pattern.removeprefix("./").rstrip("/")) for pattern in patterns):
            return folder
        # Its patterns are YAML; that a package without a lock file of its own belongs to it is a safe guess.
        if is_file(folder / "pnpm-workspace.yaml"):
            return folder
    return package


def _manager_named(package: _Json) -> str | None:
    name = str(package.get("packageManager", "")).partition("@")[0]
    return name if name in _MANAGERS else None


# --- Reading shell -----------------------------------------------------------------------------------------


def _run(command: str, shell: _Shell, *, via: str = "") -> None:
    """Follow all simple commands of `command`.

    Args:
        command: Shell.
        shell: Where it is.
        via: What the user wrote to get here, if it is not `command` itself.
    """
    if shell.depth > _DEEPEST:
        return
    outer: list[Path | None] = []
    is_first = True
    for words, end in _simple_commands(command):
        if words:
            before = shell.cwd
            if end == "||":  # what follows is run instead: neither is sure to be
                shell.found.is_sure = is_first = False
            _simple(words, shell, via=via, is_first=is_first)
            is_first = is_first and words[0] == "cd"
            if end == "||" and shell.cwd is not None and not is_folder(shell.cwd):
                shell.cwd = before
        elif end == "(":
            outer.append(shell.cwd)
        elif end == ")" and outer:
            shell.cwd = outer.pop()


def _simple_commands(command: str) -> Iterator[tuple[list[str], str]]:
    """Split into simple commands, each with the operator that ends it; a bracket is one without words."""
    one_line = command.replace("\\\n", " ").replace("\n", " ; ")
    one_line = _SUBSTITUTION.sub("$UNKNOWN", one_line)
    lexer = shlex.shlex(one_line, posix=True, punctuation_chars=True)
    lexer.commenters = ""
    lexer.whitespace_split = True
    try:
        tokens = list(lexer)
    except ValueError:  # an open quote: the shell will say so
        return
    words: list[str] = []
    skip = False
    for token in tokens:
        if skip:
            skip = False
        elif token.startswith("#"):
            break  # a comment
        elif not token or not set(token) <= _PUNCTUATION:
            words.append(token)
        elif set(token) & {"<", ">"}:
            skip = True  # a redirection: its file is no argument, and neither is its number
            if words and len(words) > 1 and re.fullmatch("[0-9]", words[-1]):
                words.pop()
        else:
            for operator in re.findall(r"[()]|[^()]+", token):
                if words and operator in {"(", ")"}:
                    yield words, ";"
                    words = []
                yield words, operator
                words = []
    if words:
        yield words, ""


def _simple(words: list[str], shell: _Shell, *, via: str, is_first: bool) -> None:
    """Follow one simple command."""
    if shell.depth > _DEEPEST:
        return
    written = shlex.join(itertools.dropwhile(_KEYWORDS.__contains__, words))
    words = _without_prefix(words, shell)
    if not words:
        return
    if "$" in words[0] or "`" in words[0]:  # nobody knows which program this is
        shell.found.is_sure = False
        return
    name, args = words[0], words[1:]
    program = name.rpartition("/")[2]
    found = shell.found
    is_outermost = not shell.is_script and not (program in _SHELLS and "-c" in args)
    if is_outermost and found.program is None and name not in _HARMLESS:
        # Whatever comes later may depend on how this one ends.
        is_known = found.is_sure and name not in _BUILT_INTO_SHELLS and not re.search(r"[$`*?~=]", name)
        found.program = name if is_known else ""
        found.program_cwd = shell.cwd
    if program in _PATH_CHANGERS or (name == "export" and any(arg.startswith("PATH=") for arg in args)):
        found.is_sure = False
    elif name in {"pushd", "popd"}:  # not every shell has them
        shell.cwd = None
    elif name == "cd":
        _cd([arg for arg in args if arg != "--"], shell, is_first=is_first)
    elif program in _SHELLS:
        script = next((i for i, arg in enumerate(args) if re.fullmatch(r"-[a-z]*c[a-z]*", arg)), None)
        if script is not None and script + 1 < len(args):
            _run(args[script + 1], shell.inner(shell.cwd), via=via)
    else:
        _program(name, args, shell, via=via or written)


def _without_prefix(words: list[str], shell: _Shell) -> list[str]:
    """Leave out what stands before the program: assignments, words of the grammar, wrappers."""
    while words:
        if _ASSIGNMENT.match(words[0]):
            if words[0].startswith("PATH"):
                shell.found.is_sure = False
            words = words[1:]
        elif words[0] in _KEYWORDS:
            if words[0] not in {"!", "{", "}", "time"}:
                shell.found.is_sure = False
            words = words[1:]
        elif (takes_value := _WRAPPERS.get(words[0].rpartition("/")[2])) is not None:
            wrapper = words[0]
            options, words = _options(words[1:], takes_value)
            words = words[_POSITIONALS.get(wrapper, 0) :]
            if wrapper == "command" and options:  # `command -v` only asks
                shell.found.is_sure = False
                return []
            for option, value in options:
                if option in {"-C", "--chdir"}:
                    shell.cwd = _folder(value, shell)
        else:
            break
    return words


def _options(args: list[str], takes_value: frozenset[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Split into leading options, with their values, and the rest."""
    options = []
    i = 0
    while i < len(args) and args[i].startswith("-") and args[i] != "-":
        if args[i] == "--":
            i += 1
            break
        option, equals, value = args[i].partition("=")
        if not equals and option in takes_value and i + 1 < len(args) and not _OPTION.match(args[i + 1]):
            i += 1
            value = args[i]
        options.append((option, value))
        i += 1
    return options, args[i:]


def _split(args: list[str], takes_value: frozenset[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Split into options, wherever they stand, and the rest."""
    options: list[tuple[str, str]] = []
    positional: list[str] = []
    while args:
        more, args = _options(args, takes_value)
        options += more
        positional += args[:1]
        args = args[1:]
    return options, positional


def _cd(args: list[str], shell: _Shell, *, is_first: bool) -> None:
    cwd = _folder(args[0] if args else "~", shell)
    # Only a `cd` that comes before everything else is sure to fail: another command may make the folder.
    if cwd is not None and is_first and shell.depth == 0 and not is_folder(cwd):
        shell.found.missing = shell.found.missing or cwd
    shell.cwd = cwd


def _folder(name: str, shell: _Shell) -> Path | None:
    """The folder that `name` means where the shell is; `None` if it depends on something."""
    if name == "~" or name.startswith("~/"):
        home = shell.env.get("HOME")
        return Path(home, name[2:]) if home else None
    if shell.cwd is None or re.search(r"[$`*?\[~]", name) or name == "-":
        return None
    return _tidy(shell.cwd / name)


def _tidy(path: Path) -> Path:
    """Leave out ``.`` and ``..`` as `cd` does, by the names alone."""
    parts: list[str] = []
    for part in path.parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part not in {".", ".."}:
            parts.append(part)
    return Path(*parts)


def _program(name: str, args: list[str], shell: _Shell, *, via: str) -> None:
    """Follow a program: Vite, Node, a package manager; anything else is not of interest."""
    program = name.rpartition("/")[2]
    base = _unversioned(program)
    is_bare = "/" not in name
    if base in {"vite", "vite.js"}:
        _needs(shell, "node", *([program] if is_bare else ()))
        _uses(shell, "npm")
        _vite(args, shell, via=via)
    elif program == "corepack":
        _needs(shell, "node", program)
        _simple(args, shell.inner(shell.cwd, is_script=True), via=via, is_first=False)
    elif program in {"node", "nodejs"}:
        _needs(shell, program)
        if args[:1] == ["--run"] and len(args) > 1:
            _uses(shell, "npm")
            _script(args[1], args[2:], shell, via=via)
            return
        _, rest = _options(args, _NODE_VALUES)
        if rest and (rest[0].endswith("vite/bin/vite.js") or rest[0].endswith(".bin/vite")):
            _uses(shell, "npm")
            _vite(rest[1:], shell, via=via)
    elif program in _RUNNERS:
        _needs(shell, "bun" if program == "bunx" else "node", program)
        _uses(shell, _RUNNERS[program])
        _execute(args, shell, via=via)
    elif program == "concurrently":
        _, commands = _split(args, _CONCURRENTLY_VALUES)
        for each in commands:
            _run(each, shell.inner(shell.cwd, is_script=True), via=via)
    elif program in _LAUNCHERS and (words := _launched(program, args)):
        _simple(words, shell.inner(shell.cwd), via=via, is_first=False)
    elif _is_server(program, args):
        shell.found.serves = shell.found.serves or shlex.join([program, *args])
    elif program in _MANAGERS:
        _needs(shell, *(() if program == "bun" else ("node",)), program)
        _manage(program, args, shell, via=via)


def _launched(launcher: str, args: list[str]) -> list[str]:
    """The command behind ``uv run`` and its like."""
    if args[:1] != ["run"]:
        return []
    _, words = _options(args[1:], _LAUNCHERS[launcher])
    return words


def _is_server(program: str, args: list[str]) -> bool:
    """Whether this runs one of the servers that Python's frameworks are served by."""
    if _PYTHON.fullmatch(program):
        while args and args[0].startswith("-") and args[0] != "-m":
            args = args[1 + (args[0] in _PYTHON_VALUES) :]
        args = args[args[:1] == ["-m"] :]
        program, args = (args[0].rpartition("/")[2], args[1:]) if args else ("", [])
    # Options of the program itself may stand before what it is to do: `flask --app notes run`.
    return program in _SERVERS or not _SERVE_WORDS.get(program, frozenset()).isdisjoint(args)


def _vite(args: list[str], shell: _Shell, *, via: str) -> None:
    """Vite was found; is it the development server? It is unless a subcommand or an option says otherwise."""
    options, positional = _split(args, _VITE_VALUES)
    if any(option in {"--help", "-h", "--version", "-v"} for option, _ in options):
        return
    if positional[:1] not in (["build"], ["preview"], ["optimize"]) and shell.found.vite is None:
        shell.found.vite = shell.cwd or shell.root
        shell.found.via = via


def _manage(manager: str, args: list[str], shell: _Shell, *, via: str) -> None:
    """Follow a command of npm, pnpm, yarn or bun."""
    takes_value = _MANAGER_VALUES[manager]
    words: list[str] = []
    extra: list[str] = []
    options, rest = _options(args, takes_value)
    while rest:
        words.append(rest[0])
        is_complete = words[0] not in _RUN_WORDS | _EXEC_WORDS | {"workspace"} or len(words) > 1
        if is_complete and not (words[0] == "workspace" and len(words) < 3):
            extra = rest[1:]
            break
        more, rest = _options(rest[1:], takes_value)
        options += more
    if manager == "npm":  # its own options may stand anywhere before "--"
        own = extra[: extra.index("--")] if "--" in extra else extra
        more, positional = _split(own, takes_value)
        options += more
        extra = [*positional, *extra[len(own) + 1 :]]
    elif extra[:1] == ["--"]:
        extra = extra[1:]
    for option, value in options:
        if option in _FOLDER_OPTIONS and value:
            shell = replace(shell, cwd=_folder(value, shell))
        elif option in _WORKSPACE_OPTIONS and value:
            shell = replace(shell, cwd=_workspace(value, shell))
    if manager == "yarn" and words[:1] == ["workspace"] and len(words) > 2:
        shell = replace(shell, cwd=_workspace(words[1], shell))
        words = words[2:]
        if words[0] in _RUN_WORDS | _EXEC_WORDS and extra:
            words, extra = [words[0], extra[0]], extra[1:]
    _uses(shell, manager)
    if not words:
        shell.found.installs_itself |= manager == "yarn"
    elif words[0] in _INSTALL_WORDS:
        shell.found.installs_itself = True
    elif words[0] in _EXEC_WORDS:
        after = args[args.index(words[0]) + 1 :]
        _execute(after, shell, via=via)
    elif words[0] in _RUN_WORDS:
        if len(words) > 1:
            if manager == "npm" and not any(option in _MAY_BE_ABSENT for option, _ in options):
                _refuse_missing_script(words[1], shell)
            _script(words[1], extra, shell, via=via, or_program=manager != "npm")
    elif manager == "npm":
        if words[0] in {"start", "test", "stop", "restart"}:
            _script(words[0], extra, shell, via=via)
    elif words[0] not in _BUILT_IN:
        _script(words[0], extra, shell, via=via, or_program=True)


def _refuse_missing_script(name: str, shell: _Shell) -> None:
    """Take note if npm is certain to find no such script: it looks upwards, beyond the Procfile's folder."""
    found = shell.found
    if shell.is_script or not found.is_sure or found.fault is not None or shell.cwd is None:
        return
    if not is_folder(shell.cwd):
        return
    folder = next((each for each in (shell.cwd, *shell.cwd.parents) if is_file(each / "package.json")), None)
    if folder is None:
        hint = "Correct the command, or create one: npm create vite."
        found.fault = ConfigError(
            f"npm run {name}: there is no package.json", path=shell.cwd / "package.json", hint=hint
        )
        return
    path = folder / "package.json"
    scripts = package_json(folder).get("scripts")
    if _fault(path) is None and not (isinstance(scripts, dict) and isinstance(scripts.get(name), str)):
        names = ", ".join(scripts) if isinstance(scripts, dict) and scripts else "none"
        found.fault = ConfigError(f"there is no script {name}", path=path, hint=f"There are: {names}.")


def _execute(args: list[str], shell: _Shell, *, via: str) -> None:
    """Follow ``npx``, ``npm exec``, ``pnpm exec`` and their like."""
    options, rest = _options(args, _EXEC_VALUES)
    if rest[:1] == ["--"]:
        rest = rest[1:]
    for option, value in options:
        if option in {"-c", "--call"}:
            _run(value, shell.inner(shell.cwd, is_script=True), via=via)
            return
    if rest:
        _installed_program(rest[0], rest[1:], shell, via=via)


def _installed_program(name: str, args: list[str], shell: _Shell, *, via: str) -> None:
    """A program of a package, which is found by the package manager."""
    if _unversioned(name) == "vite":
        _vite(args, shell, via=via)
    elif _unversioned(name) == "cross-env":
        _simple(["cross-env", *args], shell.inner(shell.cwd, is_script=True), via=via, is_first=False)


def _script(name: str, extra: list[str], shell: _Shell, *, via: str, or_program: bool = False) -> None:
    """Follow a script of the nearest `package.json`; some managers take the name of a program, too."""
    folder = None if shell.cwd is None else _package_folder(shell.cwd, shell.root)
    if folder is not None and shell.found.fault is None:
        shell.found.fault = _fault(folder / "package.json")
    scripts = package_json(folder).get("scripts") if folder is not None else None
    text = scripts.get(name) if isinstance(scripts, dict) else None
    if isinstance(text, str):
        _run(f"{text} {shlex.join(extra)}".strip(), shell.inner(folder, is_script=True), via=via)
    elif or_program:
        _installed_program(name, extra, shell, via=via)


def _needs(shell: _Shell, *programs: str) -> None:
    # Within a script the manager puts node_modules/.bin on PATH: only the outermost programs are looked for.
    if not shell.is_script and shell.found.vite is None:
        shell.found.needs += programs


def _uses(shell: _Shell, manager: str) -> None:
    if shell.found.manager is None and shell.cwd is not None:
        shell.found.manager = manager
        shell.found.manager_folder = shell.cwd


# --- Reading package.json ----------------------------------------------------------------------------------


def package_json(folder: Path) -> _Json:
    """The `package.json` of a folder; empty if there is none, or none that can be understood."""
    try:
        data = _json(folder / "package.json")
    except (OSError, ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _fault(path: Path) -> ConfigError | None:
    """Say why no package manager can read a `package.json`, if none can."""
    try:
        data = _json(path)
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
    return None


def _json(path: Path) -> object:
    return json.loads(path.read_bytes().decode("utf-8-sig"))


def _package_folder(folder: Path, root: Path) -> Path | None:
    """The nearest folder, from `folder` up to `root`, that has a `package.json`."""
    return next((each for each in _upward(folder, root) if is_file(each / "package.json")), None)


def _upward(folder: Path, root: Path) -> Iterator[Path]:
    """The folder and those above it, up to `root`; of a folder elsewhere, only itself."""
    yield folder
    while folder != root and folder.is_relative_to(root):
        folder = folder.parent
        yield folder


def _workspaces(package: _Json) -> list[str]:
    declared = package.get("workspaces")
    if isinstance(declared, dict):
        declared = declared.get("packages")
    return [each for each in declared if isinstance(each, str)] if isinstance(declared, list) else []


def _workspace(name: str, shell: _Shell) -> Path | None:
    """The folder of a workspace that is given by its folder or by the name of its package."""
    folder = _folder(name, shell)
    if shell.cwd is None or folder is None:
        return None
    if is_file(folder / "package.json"):
        return folder
    base = _package_folder(shell.cwd, shell.root) or shell.cwd
    for pattern in _WORKSPACE_GLOBS:
        for path in sorted(base.glob(pattern)):
            if "node_modules" not in path.parts and package_json(path.parent).get("name") == name:
                return path.parent
    return None


def _unversioned(name: str) -> str:
    """``vite@latest`` is ``vite``."""
    at = name.find("@", 1)
    return name if at < 0 else name[:at]


def _within(folder: Path, root: Path) -> str:
    if folder == root:
        return ""
    return f" in {folder.relative_to(root)}" if folder.is_relative_to(root) else f" in {folder}"


def installed_vite(folder: Path, root: Path) -> tuple[str, str]:
    """Give the version of the Vite that `folder` has, and the Node that it asks for; empty if unknown."""
    for each in _upward(folder, root):
        package = package_json(each / "node_modules" / "vite")
        if package:
            engines = package.get("engines")
            node = engines.get("node") if isinstance(engines, dict) else ""
            return str(package.get("version", "")), str(node or "")
    return "", ""
