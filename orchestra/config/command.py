"""Reads a command to find out what it will run: Vite or a known server, in which folder, at which port.

A command is split into simple commands, which are followed through ``cd``, through wrappers (``exec``,
``env``, ``corepack``, ``uv run``, ``concurrently``), package managers and the scripts of ``package.json``, to
a bounded depth. Nothing is run: what depends on a variable, a substitution or a command's output is unknown,
and unknown means no claim. Vite that is started in any other way (``make dev``) is found by its sockets
(`roles`); the reading decides before the start which packages are installed and which requests are held. Only
the first program after ``cd`` is certain to be executed.

Not here: starting anything, the network, `os.environ`; packages (`packages`).
"""

from __future__ import annotations

import re
import shlex
from itertools import pairwise, takewhile
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct

from orchestra.config.files import is_folder
from orchestra.config.packages import package_folder, scripts_of, unreadable, workspace
from orchestra.config.reloaders import Reloader, find_reloader
from orchestra.config.roles import NOT_HTTP
from orchestra.errors import ConfigError
from orchestra.patterns import regex

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Reading", "read"]

# How `concurrently` refers to a script: `npm:dev`.
_SHORTCUT = regex(r"^(bun|npm|pnpm|yarn):")
# Others that run several scripts of packages at once; which ones is not read.
_OF_SEVERAL = frozenset({"lerna", "npm-run-all", "npm-run-all2", "nx", "run-p", "turbo"})
# Frameworks that include Vite, with the word that starts their development server.
_FRAMEWORKS = {"ng": "serve"} | dict.fromkeys(
    ("astro", "nuxi", "nuxt", "quasar", "react-router", "vinxi", "waku"), "dev"
)
# The depth to which scripts that call scripts are followed: more is a loop or a puzzle.
_MAX_DEPTH = 8
_OPERATOR = regex(r"[;&|()]+")
_SUBSTITUTION = regex(r"\$\([^()]*\)|`[^`]*`")
_ASSIGNMENT = regex(r"[A-Za-z_][A-Za-z0-9_]*\+?=")
# Characters whose meaning the shell decides at run time.
_INTERPRETER = regex(r"python(\d(\.\d+)?)?|node(js)?|(ba|da|k|z)?sh")
_SCRIPT = regex(r".*\.(py|m?js|cjs|m?ts|sh)")
_UNKNOWN = regex(r"[$`*?~]")
# Programs that run the command after them. `cd` and the like come before a command and change nothing.
_WRAPPERS = frozenset({
    "command", "cross-env", "env", "exec", "nice", "nohup", "setsid", "stdbuf", "time", "timeout",
})  # fmt: skip
_LAUNCHERS = frozenset({"hatch", "pdm", "pipenv", "poetry", "rye", "uv"})
_SHELLS = frozenset({"bash", "dash", "sh", "zsh"})
_HARMLESS = frozenset({":", "echo", "export", "printf", "set", "trap", "true", "ulimit", "umask", "unset"})
# Builtins and keywords: the words after them depend on how they end, or are not a program.
_NOT_PROGRAMS = _HARMLESS | {
    "!", ".", "[", "[[", "{", "}", "alias", "builtin", "case", "command", "do", "done", "elif", "else",
    "esac", "eval", "exit", "false", "fi", "for", "function", "if", "kill", "popd", "pushd", "pwd", "read",
    "return", "select", "shift", "source", "test", "then", "type", "until", "wait", "while",
}  # fmt: skip
_MANAGERS = frozenset({"bun", "npm", "pnpm", "yarn"})
# Managers whose `run` is for scripts alone: the others run programs and files, too.
_RUN_SCRIPTS_ONLY = frozenset({"npm", "pnpm"})
_SCRIPT_MAY_BE_MISSING = frozenset({"--if-present", "--recursive", "--workspaces", "-r", "-ws"})
_RUNNERS = {"bunx": "bun", "npx": "npm", "pnpx": "pnpm"}  # as `exec` of that manager
# Programs that have to be on `PATH` for a program, itself included.
_NEEDS = {
    **{program: ("node", program) for program in ("corepack", "npm", "npx", "pnpm", "pnpx", "vite", "yarn")},
    **{program: (program,) for program in ("bun", "node", "nodejs")},
    "bunx": ("bun", "bunx"),
}
_FOLDER_OPTIONS = frozenset({"--cwd", "--dir", "--prefix", "-C"})
_WORKSPACE_OPTIONS = frozenset({"--filter", "--workspace", "-F", "-w"})
_CALL_OPTIONS = frozenset({"--call", "-c"})
# Options that take a value, for all programs that are followed: if one has a flag of the same name, the worst
# that happens is that Vite is found by its socket.
_VALUE_OPTIONS = _FOLDER_OPTIONS | _WORKSPACE_OPTIONS | _CALL_OPTIONS | frozenset({
    "--base", "--chdir", "--conditions", "--config", "--configLoader", "--env-file", "--experimental-loader",
    "--extra", "--group", "--import", "--loader", "--logLevel", "--loglevel", "--mode", "--names",
    "--package", "--port", "--prefix-colors", "--project", "--python", "--registry", "--reporter",
    "--require", "--unset", "--with", "-X", "-a", "-k", "-l", "-m", "-n", "-p", "-r", "-u",
})  # fmt: skip
# The default port of a server; 0: it reads one from the environment, which we set.
_SERVERS: Mapping[str, int] = {
    "bottle": 8080, "daphne": 8000, "django-admin": 8000, "fastapi": 8000, "flask": 0, "granian": 8000,
    "gunicorn": 0, "http.server": 8000, "hypercorn": 8000, "litestar": 8000, "manage.py": 8000,
    "mkdocs": 8000, "pserve": 0, "quart": 0, "sanic": 8000, "uvicorn": 0, "uvicorn-hmr": 8000,
    "waitress-serve": 8080,
}  # fmt: skip
# Programs with many uses, and the words that make them serve.
_SERVING_WORDS: Mapping[str, set[str]] = {
    "django-admin": {"runserver", "runserver_plus"}, "fastapi": {"dev", "run"}, "flask": {"run"},
    "litestar": {"run"}, "manage.py": {"runserver", "runserver_plus"}, "quart": {"run"},
}  # fmt: skip
# These serve files: their port is known, but they are not a backend.
_FILE_SERVERS = frozenset({"http.server", "mkdocs"})
# 8000, :8000, 127.0.0.1:8000, [::1]:8000; of Docker's 8000:80, the port of this machine.
_PORT = regex(r"(?:[^\s/]*?[^\d\s/][^\s/]*?:|:)?([0-9]{2,5})(?::[0-9]+)?")
_POSITIONAL_PORT = frozenset({"django-admin", "http.server", "manage.py"})
# A container's port: where it is published on this machine and, after that, its own.
_CONTAINERS = frozenset({"docker", "docker-compose", "nerdctl", "podman", "podman-compose"})
_PUBLISHED = regex(r"(?<!\S)(?:-p|--publish)[= ]?(?:\S*:)?([0-9]{2,5}):[0-9]+(?:/tcp)?(?!\S)")
_PORT_OPTIONS = regex(r"--(?:port|bind|http|addr|address|listen|endpoint)|-[pblS]")


class Reading(Struct, frozen=True, kw_only=True):
    """What a command is going to do, as far as reading it shows.

    Attributes:
        folder: Where it runs Vite; otherwise where it first calls a package manager, or starts.
        why: How it runs Vite's development server, for people: "`npm run dev` in frontend runs vite".
        manager: The package manager that it uses, if its packages have to be there before it starts.
        missing: A folder that it changes to and that does not exist.
        program: The program that is certain to be executed first: a name, or a path; empty if there is none.
        program_cwd: The folder in which its first program is called, certain or not; ``None`` if not known.
        script: The file that this program executes: ``manage.py``.
        is_launched: Whether the program is a tool that keeps the environment of its project: ``uv run``.
        serves: The part that runs a server for Python, such as ``uvicorn app:app``; empty if there is none.
        reloader: What makes its program reload itself when a file changes, if known.
        ports: The ports that it listens on, whatever its environment.
        speaks_http: False if it runs a program of `roles.NOT_HTTP`.
        fault: The error in a `package.json` that it needs, which no package manager could read either; or,
            without a path, what it asks for is not there.
    """

    folder: Path = Path()
    why: str = ""
    runs_others: bool = False
    manager: str = ""
    missing: Path | None = None
    program: str = ""
    program_cwd: Path | None = None
    script: Path | None = None
    is_launched: bool = False
    serves: str = ""
    reloader: Reloader | None = None
    ports: tuple[int, ...] = ()
    speaks_http: bool = True
    fault: ConfigError | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The programs that `program` needs on `PATH`, itself included: ``("node", "npm")``."""
        folder, _, file = self.program.rpartition("/")
        name = file.removesuffix(".js")
        return tuple(each for each in _NEEDS.get(name, ()) if each != name or not folder)


def read(command: str, *, cwd: Path, root: Path, env: Mapping[str, str] | None = None) -> Reading:
    """Read a command for ``/bin/sh -c``.

    Messages are relative to `root`, the folder of the Procfile; no `package.json` above it is looked for.
    `env` is the child's environment, for ``~``.
    """
    walk = _Walk(root, env or {})
    walk.run(command, cwd)
    walk.set(folder=cwd)
    if walk.installs:
        walk.found["manager"] = ""
    return Reading(**walk.found, ports=tuple(dict.fromkeys(walk.ports)))  # type: ignore[arg-type] # see set


class _Walk:
    """Follows the simple commands of one command, in the order in which a shell would run them."""

    def __init__(self, root: Path, env: Mapping[str, str]) -> None:
        self.root = root
        self.env = env
        self.found: dict[str, object] = {}
        self.ports: list[int] = []
        self.installs = False  # by itself
        self.is_first = True  # no program has been executed
        self.depth = 0
        self.scripts: list[tuple[Path | None, str]] = []  # the current folder
        self.via = ""  # the outermost simple command that contains it

    def set(self, **found: object) -> None:
        """Set fields of `Reading` that are not known yet."""
        for name, value in found.items():
            self.found.setdefault(name, value)

    def run(self, command: str, cwd: Path | None) -> None:
        """Follow all simple commands of `command`, which begins in `cwd`; `None` is an unknown folder."""
        outer: list[Path | None] = []
        for words, operator in _simple_commands(command):
            if self.depth == 0:
                self.via = shlex.join(words)
            match words:
                case ["("]:
                    outer.append(cwd)
                case [")"]:
                    cwd = outer.pop() if outer else cwd
                case ["&"]:
                    self.set(runs_others=True)
                case ["pushd" | "popd", *_]:  # not every shell has them
                    cwd = None
                case ["cd", *args]:
                    cwd = self.change(args, cwd, may_fail=operator == "||")
                case _:
                    self.follow(words, cwd, is_sure=operator != "||")

    def inner(self, command: str, cwd: Path | None) -> None:
        """Follow a script, or the command that a program runs."""
        if self.depth < _MAX_DEPTH:
            self.depth += 1
            self.run(command, cwd)
            self.depth -= 1

    def change(self, args: Sequence[str], cwd: Path | None, *, may_fail: bool) -> Path | None:
        """Follow ``cd``."""
        new = self.folder(next((each for each in args if each != "--"), "~"), cwd)
        if new is not None and not is_folder(new):
            # Only a `cd` before everything else is certain to fail: a command may make the folder.
            if may_fail:
                return cwd
            if self.is_first:
                self.set(missing=new)
        return new

    def folder(self, name: str, cwd: Path | None) -> Path | None:
        """The folder that `name` means in `cwd`; `None` if it cannot be known."""
        if name == "~" or name.startswith("~/"):
            return Path(self.env["HOME"], name[2:]) if self.env.get("HOME") else None
        if cwd is None or name == "-" or _UNKNOWN.search(name):
            return None
        return Path(normpath(cwd / name))  # without .., by the names alone, as `cd` does

    def follow(self, words: list[str], cwd: Path | None, *, is_sure: bool = False) -> None:
        """Follow one simple command."""
        words, ports, keeps_path = _without_prefix(words)
        if (script := _shell_script(words)) is not None:
            self.inner(script, cwd)
        elif words and (words[0] not in _HARMLESS or "PATH=" in " ".join(words)):
            is_clear = not _UNKNOWN.search(words[0])
            if self.is_first:
                # A command after a program may not be executed, and perhaps with another PATH.
                is_program = is_sure and keeps_path and is_clear and words[0] not in _NOT_PROGRAMS
                launched = words[0].rpartition("/")[2] in _LAUNCHERS
                self.set(program=words[0] if is_program else "", program_cwd=cwd, is_launched=launched)
                self.set(script=_script_file(words, cwd))
            self.is_first = False
            if is_clear:
                self.program(words[0].rpartition("/")[2], words[1:], cwd)
                self.serve(words, named=ports)

    def program(self, program: str, args: list[str], cwd: Path | None) -> None:
        """Follow a program: Vite, Node, a package manager; others are ignored."""
        if program in NOT_HTTP:
            self.set(speaks_http=False)
        elif _unversioned(program).removesuffix(".js") == "vite":
            self.vite(args, cwd)
        elif (args or ["dev"])[:1] == [_FRAMEWORKS.get(_unversioned(program))]:  # `nuxt` alone is `nuxt dev`
            self.found_vite(_unversioned(program), cwd)
        elif program in {"node", "nodejs"}:
            script = _split(args, is_leading=True)[1]
            if args[:1] == ["--run"]:
                self.manage("npm", ["run", *args[1:]], cwd)
            elif script and script[0].endswith(("vite/bin/vite.js", ".bin/vite")):
                self.vite(script[1:], cwd)
        elif program in _RUNNERS:
            self.uses(_RUNNERS[program], cwd)  # whatever -w and -C mean to the program that it runs
            self.manage(_RUNNERS[program], ["exec", *args], cwd)
        elif program in _MANAGERS:
            self.manage(program, args, cwd)
        elif program == "corepack":
            self.inner(shlex.join(args), cwd)
        elif program == "concurrently":
            self.set(runs_others=True)
            for each in _split(args)[1]:
                self.inner(_SHORTCUT.sub(r"\1 run ", each), cwd)
        elif program in _OF_SEVERAL:
            self.set(runs_others=True)
        elif program in _LAUNCHERS and args[:1] == ["run"]:
            self.follow(_split(args[1:], is_leading=True)[1], cwd)

    def serve(self, words: Sequence[str], *, named: Sequence[int]) -> None:
        """Take note of a server for Python, of the ports that a program takes, and of a reloader."""
        program, args = _module(words)
        # Options of the program itself may come before its command: `flask --app notes run`.
        wanted = _SERVING_WORDS.get(program)
        serves = program in _SERVERS and (wanted is None or not wanted.isdisjoint(args))
        if (reloader := find_reloader(program, args, self.env)) is not None:
            self.set(reloader=reloader)
        if serves and program not in _FILE_SERVERS:
            self.set(serves=shlex.join([words[0].rpartition("/")[2], *words[1:]]))
        if program in _CONTAINERS:
            named, args = [int(port) for port in _PUBLISHED.findall(" ".join(args))], []
        is_positional = serves and program in _POSITIONAL_PORT
        self.ports += named or _ports(args, _SERVERS[program] if serves else 0, is_positional=is_positional)

    def vite(self, args: Sequence[str], cwd: Path | None) -> None:
        """Take note of Vite, unless a subcommand or an option makes it something other than the server."""
        self.uses("npm", cwd)
        options, words = _split(args)
        is_asked = {"--help", "-h", "--version", "-v"} & {option for option, _ in options}
        if not is_asked and words[:1] not in (["build"], ["preview"], ["optimize"]):
            self.found_vite("vite", cwd)

    def found_vite(self, program: str, cwd: Path | None) -> None:
        """Take note of the first command that runs Vite."""
        self.uses("npm", cwd)
        if "why" in self.found:
            return
        folder = cwd or self.root
        inside = folder.relative_to(self.root) if folder.is_relative_to(self.root) else folder
        where = "" if folder == self.root else f" in {inside}"
        self.found.update(folder=folder, why=f"`{self.via}`{where} runs {program}")

    def manage(self, manager: str, args: list[str], cwd: Path | None) -> None:
        """Follow a command of npm, pnpm, yarn or bun."""
        # Options of the manager may come after the script: for Vite, they are as good as its own.
        options, words = _split(args)
        if words[:1] == ["workspace"] and len(words) > 2:
            options, words = [*options, ("--workspace", words[1])], words[2:]
        for option, value in options:
            if value and option in _FOLDER_OPTIONS:
                cwd = self.folder(value, cwd)
            elif value and option in _WORKSPACE_OPTIONS and cwd is not None:
                cwd = workspace(value, cwd, self.root)
        self.uses(manager, cwd)
        match words:
            case [("run" | "run-script"), name, *rest]:
                if manager in _RUN_SCRIPTS_ONLY and not _SCRIPT_MAY_BE_MISSING & dict(options).keys():
                    self.refuse_missing_script(manager, name, cwd)
                self.script(name, rest, cwd, is_npm=manager == "npm")
            case [("exec" | "x" | "dlx"), *program]:
                call = next((value for option, value in options if option in _CALL_OPTIONS), None)
                if call is not None:
                    self.inner(call, cwd)
                else:
                    self.installed(program, cwd)
            case [("install" | "i" | "ci" | "clean-install" | "add"), *_]:
                self.installs = True
            case []:
                self.installs = self.installs or manager == "yarn"
            case [name, *rest] if manager != "npm" or name == "start":
                self.script(name, rest, cwd, is_npm=manager == "npm")

    def refuse_missing_script(self, manager: str, name: str, cwd: Path | None) -> None:
        """Take note if a manager will certainly find no such script: it looks in all folders above, too."""
        if self.found.get("program") != manager or self.scripts or cwd is None or not is_folder(cwd):
            return
        folder = package_folder(cwd, Path(cwd.anchor))
        if folder is None:
            hint = "Correct the command, or create one: npm create vite."
            text = f"{manager} run {name}: there is no package.json in {cwd}"
            self.set(fault=ConfigError(text, hint=hint))
        elif name not in (scripts := scripts_of(folder)):
            path, hint = folder / "package.json", f"There are: {', '.join(scripts) or 'none'}."
            text = f"{manager} run {name}: there is no such script in {path}"
            self.set(fault=unreadable(path) or ConfigError(text, hint=hint))

    def script(self, name: str, args: Sequence[str], cwd: Path | None, *, is_npm: bool = True) -> None:
        """Follow a script of the nearest `package.json`; except for npm, it may be a program's name."""
        folder = None if cwd is None else package_folder(cwd, self.root)
        if folder is not None and (fault := unreadable(folder / "package.json")) is not None:
            self.set(fault=fault)
        text = scripts_of(folder).get(name)
        if text is not None and (folder, name) not in self.scripts:
            self.scripts.append((folder, name))
            self.inner(f"{text} {shlex.join(args)}".strip(), folder)
            self.scripts.pop()
        elif text is None and not is_npm:
            self.installed([name, *args], cwd)

    def installed(self, words: list[str], cwd: Path | None) -> None:
        """Follow a program that a package manager finds."""
        followed = {"vite", "concurrently", "cross-env", *_OF_SEVERAL, *_FRAMEWORKS}
        if words and (name := _unversioned(words[0])) in followed:
            self.follow([name, *words[1:]], cwd)

    def uses(self, manager: str, cwd: Path | None) -> None:
        if cwd is not None and "manager" not in self.found:
            self.set(manager=manager, folder=cwd)


def _simple_commands(command: str) -> Iterator[tuple[list[str], str]]:
    """Split into simple commands, each with the operator after it; a bracket, or ``&``, is one, too."""
    command = _SUBSTITUTION.sub("$UNKNOWN", command)
    lexer = shlex.shlex(command.replace("\\\n", " ").replace("\n", " ; "), posix=True, punctuation_chars=True)
    lexer.commenters = ""
    lexer.whitespace_split = True
    words: list[str] = []
    is_target = False
    try:
        for token in lexer:
            if is_target:
                is_target = False  # of a redirection
            elif token.startswith("#"):
                break
            elif token and set(token) <= set("<>&") and set(token) & set("<>"):
                is_target = True
                if len(words) > 1 and re.fullmatch("[0-9]", words[-1]):
                    words.pop()  # the descriptor that is redirected
            elif _OPERATOR.fullmatch(token):
                for operator in re.findall(r"[()]|[^()]+", token):
                    if words:
                        yield words, operator
                    if operator in {"(", ")", "&"}:
                        yield [operator], ""
                    words = []
            else:
                words.append(token)
    except ValueError:  # An open quote: the shell will report it.
        return
    if words:
        yield words, ""


def _script_file(words: Sequence[str], cwd: Path | None) -> Path | None:
    """The file that an interpreter executes, if it is its first word."""
    if cwd is None or not _INTERPRETER.fullmatch(words[0].rpartition("/")[2]):
        return None
    options = [*takewhile(lambda each: each.startswith("-"), words[1:])]
    first = "" if {"-c", "-e", "-m"} & {*options} else next(iter(words[1 + len(options) :]), "")
    return cwd / first if _SCRIPT.fullmatch(first) and not _UNKNOWN.search(first) else None


def _shell_script(words: Sequence[str]) -> str | None:
    """The script of ``sh -c script``."""
    if words and words[0].rpartition("/")[2] in _SHELLS:
        for option, value in pairwise(words[1:]):
            if re.fullmatch("-[a-z]*c", option):
                return value
    return None


def _without_prefix(words: list[str]) -> tuple[list[str], list[int], bool]:
    """Leave out assignments and wrappers; also give ports that are set, and whether PATH stays the same."""
    ports, keeps_path = [], True
    while words:
        program = words[0].rpartition("/")[2]
        if _ASSIGNMENT.match(words[0]):
            name, _, value = words[0].partition("=")
            keeps_path = keeps_path and not name.startswith("PATH")
            ports += [int(value)] if name == "PORT" and value.isdecimal() else []
            words = words[1:]
        elif program in _WRAPPERS and not (program == "command" and words[1:2] == ["-v"]):
            words = _split(words[1:], is_leading=True)[1][program == "timeout" :]
        else:
            break
    return words, ports, keeps_path


def _split(args: Sequence[str], *, is_leading: bool = False) -> tuple[list[tuple[str, str]], list[str]]:
    """Split into options, with their values, and the rest; `is_leading`: options end at the first word."""
    options: list[tuple[str, str]] = []
    words: list[str] = []
    left = list(args)
    while left:
        arg = left.pop(0)
        if arg == "--" or (is_leading and not arg.startswith("-")):
            return options, [*words, *([] if arg == "--" else [arg]), *left]
        if not arg.startswith("-") or arg == "-":
            words.append(arg)
            continue
        option, equals, value = arg.partition("=")
        if not equals and option in _VALUE_OPTIONS and left and not re.match(r"-(?!\d)", left[0]):
            value = left.pop(0)
        options.append((option, value))
    return options, words


def _module(words: Sequence[str]) -> tuple[str, list[str]]:
    """The program and its arguments; for Python, those of its module or script."""
    program, args = words[0].rpartition("/")[2], list(words[1:])
    if re.fullmatch(r"python(\d(\.\d+)?)?", program):
        while args and args[0].startswith("-") and args[0] != "-m":
            args = args[1 + (args[0] in {"-W", "-X"}) :]
        args = args[args[:1] == ["-m"] :]
        return (args[0].rpartition("/")[2], args[1:]) if args else ("", [])
    return program, args


def _ports(args: Sequence[str], default: int, *, is_positional: bool) -> list[int]:
    """The ports that the arguments of a program name; without any, its default one."""
    named = [value for option, value in pairwise([*args, ""]) if _PORT_OPTIONS.fullmatch(option)]
    for option, equals, value in (arg.partition("=") for arg in args):
        named += [value] if equals and _PORT_OPTIONS.fullmatch(option) else []
    values = [*named, *args] if is_positional else named
    found = [int(matched[1]) for value in values if (matched := _PORT.fullmatch(value))]
    is_named = named or any("$" in value for value in values)
    return found or ([] if is_named or not default else [default])


def _unversioned(name: str) -> str:
    """``vite@latest`` is ``vite``."""
    at = name.find("@", 1)
    return name if at < 0 else name[:at]
