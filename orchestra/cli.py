"""The command line: `argv` becomes a call, and an error becomes one line and an exit status.

A mistake of the user is one line a problem (and a hint) on standard error, and exit status 2. A bug of ours
is one line and exit status 1; the line names a file with the traceback. Standard output carries the chosen
output and nothing else.

Each command imports what it needs, so `--version` and `--help` are fast.
"""

from __future__ import annotations

import errno
import gc
import os
import sys
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, NoReturn

import click

from orchestra.errors import ConfigError, OrchestraError, complain, no_address, show_error
from orchestra.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["main"]

_EXIT_BUG = 1
_EXIT_INTERRUPTED = 130
_EXIT_READER_GONE = 141


def main() -> NoReturn:
    """Run the command line, and exit."""
    # Imports allocate much and free little: with Python's own threshold, a tenth of a start is the search for
    # garbage; without any search, a thirtieth of the memory is garbage.
    usual = gc.get_threshold()
    gc.set_threshold(20_000)
    _open_standard_streams()
    try:
        code = _commands.main(prog_name="orchestra", standalone_mode=False)
    except BaseExceptionGroup as group:
        code = _show(_worst(group))
    except SystemExit:  # click's reaction to a reader of its help that has gone
        code = _EXIT_READER_GONE
    except (Exception, KeyboardInterrupt) as exc:  # noqa: BLE001 - a traceback is never shown
        code = _show(exc)
    finally:
        gc.set_threshold(*usual)
    sys.exit(code)


# The names that other runners have for our commands.
_OTHER_WORDS = {"up": "run", "status": "ps", "ls": "ps", "list": "ps", "quit": "down"}
# Near misses: commands, and options of `run`.
_NEAR_WORDS = {"connect": "attach", "echo": "logs -f", "shell": "exec -- sh"}
_NEAR_OPTIONS = {
    "-c": "run -m",
    "-D": "run --detach",
    "-l": "the names of processes, without an option",
    "-t": "stop_timeout in the settings (foreman), or --output plain (process-compose)",
}


class _Commands(click.Group):
    """The commands of this module, and those of `commands`, which are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from orchestra.commands import COMMANDS  # noqa: PLC0415 - as the class says

        return [*super().list_commands(ctx), *COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if (own := super().get_command(ctx, _OTHER_WORDS.get(cmd_name, cmd_name))) is not None:
            return own
        from orchestra.commands import COMMANDS  # noqa: PLC0415 - as the class says

        return COMMANDS.get(_OTHER_WORDS.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that begins `args`; if there is none, suggest a similar one."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as exc:
            from difflib import get_close_matches  # noqa: PLC0415

            near = _NEAR_WORDS.get(args[0]) or "".join(get_close_matches(args[0], self.list_commands(ctx), 1))
            if not near:
                raise
            raise click.UsageError(f"{exc.message} Did you mean `orchestra {near}`?", ctx) from exc


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orchestra", message="%(prog)s %(version)s")
def _commands() -> None:
    """Bring up a Python backend and a Vite frontend as one thing, behind one address."""


def _complete_processes(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    from orchestra.planning import load  # noqa: PLC0415 - here and below: as the module says

    try:
        return [each.name for each in load().processes if each.name.startswith(begun)]
    except (OrchestraError, OSError):
        return []


_PLAN_OPTIONS = (
    click.argument(
        "arguments", nargs=-1, metavar="[PROCFILE] [PROCESS]...", shell_complete=_complete_processes
    ),
    click.option(
        "-d", "--root", metavar="DIR", help="The folder that commands run in. Default: the Procfile's."
    ),
    click.option("--listen", metavar="HOST:PORT", help="The one address. Default: 127.0.0.1:8000"),
    click.option("-f", "--procfile", metavar="FILE", hidden=True),  # as in honcho, foreman and overmind
    click.option("--no-proxy", is_flag=True, help="Run the processes only."),
    click.option(
        "-p", "--base-port", type=click.IntRange(1, 65535), metavar="N", help="The PORT of the first process."
    ),
    click.option(
        "-e",
        "--env-file",
        "env_files",
        multiple=True,
        metavar="FILE",
        help="Read in place of .env; repeatable.",
    ),
    click.option("-m", "--formation", metavar="NAME=N,...", help="How many instances: web=2,worker=0,all=1."),
    click.option(
        "-x", "--except", "left_out", multiple=True, metavar="NAME", help="Leave a process out; repeatable."
    ),
)


def _plan_options(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options that decide what is run, and where; the command gets them as `load` takes them."""

    @wraps(command)
    def call(
        arguments: tuple[str, ...], *, procfile: str | None, left_out: tuple[str, ...], **options: Any
    ) -> int:
        from orchestra.config import Overrides, split_arguments  # noqa: PLC0415 - as the module says

        procfile, names = (procfile, arguments) if procfile is not None else split_arguments(arguments)
        set_here = {name: options.pop(name) for name in Overrides.__struct_fields__ if name in options}
        asked = {"only": names, "left_out": left_out, "overrides": Overrides(**set_here)}
        return command(procfile, asked, **options)

    for option in reversed(_PLAN_OPTIONS):
        call = option(call)
    return call


@_commands.command()
@_plan_options
@click.option(
    "--exit-on",
    metavar="WHAT",
    help="End the run when all, any, or the process NAME has ended, or at a failure.",
)
@click.option(
    "--output",
    type=click.Choice(["auto", "dashboard", "plain", "json"]),
    help="Default: the dashboard on a terminal, else plain lines.",
)
@click.option("-q", "--quiet", multiple=True, metavar="NAME", help="Do not show its lines; repeatable.")
@click.option("--timestamps", is_flag=True, default=None, help="Begin plain lines with the time of day.")
@click.option("--names/--no-names", default=None, help="Whether plain lines begin with the name.")
@click.option("--requests", is_flag=True, default=None, help="A plain line for each request.")
@click.option("--record", metavar="FILE", help="Keep all that happens; `replay FILE` shows it again.")
@click.option("--no-reload", is_flag=True, help="Watch no files, and leave pages as they are.")
@click.option("--open", "opens", is_flag=True, help="Open the address in the browser when all are ready.")
@click.option("--detach", is_flag=True, help="Run it in the background; `down` ends it.")
def run(
    procfile: str | None, asked: Mapping[str, Any], *, opens: bool, detach: bool, record: str | None
) -> int:
    """Run the processes of PROCFILE, or only those named. By default, it is Procfile.dev, then Procfile."""
    from orchestra import foreground  # noqa: PLC0415 - here and below: as the module says
    from orchestra.planning import load  # noqa: PLC0415

    # A run in the background has its own claims.
    plan = partial(load, procfile, has_memory=True, claims=not detach, **asked)
    found = plan()
    if opens and found.proxy is None:
        raise no_address()
    if detach:
        from orchestra.detached import run_detached  # noqa: PLC0415

        words = [each for each in sys.argv[1:] if each != "--detach"]
        code, said, complaint = run_detached(words, found.root)
        click.echo(complaint, err=True, nl=False)
        if said:
            _write(said.rstrip("\n"))
        return code
    return foreground.run(found, replan=lambda running: plan(running=running), record=record, opens=opens)


@_commands.command()
@_plan_options
def check(procfile: str | None, asked: Mapping[str, Any]) -> int:
    """Say all that is wrong with the project, and how it is understood."""
    from orchestra.check import check as look  # noqa: PLC0415

    report = look(procfile, environ=os.environ, **asked)
    if report.understood:
        _write("\n".join(report.understood))
    for problem in report.problems:
        complain(str(problem), problem.hint)
    return ConfigError.exit_code if report.problems else 0


@_commands.command("export")
@click.argument("kind", type=click.Choice(["systemd", "supervisord", "compose", "kubernetes"]))
@click.argument("folder", metavar="DIR")
@_plan_options
@click.option("-u", "--user", help="What it runs as. Default: of systemd, the current user.")
@click.option("--name", help="What files, units and objects are called after. Default: the project's folder.")
@click.option("--image", help="The image that containers run. Default: called like that.")
def export_(procfile: str | None, asked: Mapping[str, Any], *, kind: str, folder: str, **named: Any) -> int:
    """Write what another engine needs to run PROCFILE in production."""
    from pathlib import Path  # noqa: PLC0415

    from orchestra.export import export  # noqa: PLC0415

    files, remarks = export(kind, Path(folder), procfile, environ=os.environ, **asked, **named)
    for remark in remarks:
        click.echo(remark, err=True)
    _write("\n".join(map(str, files)))
    return 0


@_commands.command()
def init() -> int:
    """Write a Procfile.dev for the frontend and the backend found here."""
    from pathlib import Path  # noqa: PLC0415

    from orchestra.config.scaffold import propose  # noqa: PLC0415
    from orchestra.planning import this_machine  # noqa: PLC0415

    found = propose(Path(), this_machine())
    for remark in found.remarks:
        click.echo(remark, err=True)
    files = found.files
    _write("\n".join(files.values()).rstrip("\n"))
    written: list[Path] = []
    for name, text in files.items():
        try:
            with Path(name).open("x", encoding="utf-8") as file:
                written.append(Path(name))
                file.write(text)
        except OSError as exc:
            for path in written:
                path.unlink()  # A half would be taken for the whole.
            hint = "Check the folder."
            raise ConfigError(f"cannot be written: {exc.strerror}", path=Path(name), hint=hint) from exc
    for reason in found.reasons:
        click.echo(reason, err=True)
    are = "is" if len(files) == 1 else "are"
    click.echo(f"{' and '.join(files)} {are} written; run it: orchestra run", err=True)
    return 0


def _open_standard_streams() -> None:
    """Open closed standard streams: otherwise a file of ours would get the number of one."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The lowest free descriptor: the closed one's own.
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _worst(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Choose which of all errors to show: a bug before a user's error, the first of each."""
    errors, bugs = group.split(OrchestraError)
    worst: BaseException | None = bugs or errors
    while isinstance(worst, BaseExceptionGroup):
        worst = worst.exceptions[0]
    return worst or group


def _show(exc: BaseException) -> int:
    """Print an error on standard error; return the exit status."""
    match exc:
        case KeyboardInterrupt() | click.Abort():
            return _EXIT_INTERRUPTED
        case click.UsageError():
            complain(exc.format_message(), _next_step(exc))
            return exc.exit_code
        case OrchestraError():
            return show_error(exc)
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG | errno.EIO, filename=None):
            from orchestra.dashboard.writer import Unwritable  # noqa: PLC0415

            # Bytes in the buffer would fail once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return _show(Unwritable(exc))  # help, or the version
        case RuntimeError(args=("can't start new thread",)):
            complain("the system allows no more threads", "Allow more before the run: ulimit -u")
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            complain(f"out of file descriptors: {exc.strerror}", "Allow more before the run: ulimit -n 4096")
        case _:
            path = _write_report(exc)
            hint = f"Please report it with {path}." if path else "No file could be written that says where."
            complain(f"a bug in orchestra: {type(exc).__name__}: {exc}", hint)
    return _EXIT_BUG


def _next_step(exc: click.UsageError) -> str:
    """Name the command that other runners call so, otherwise the help."""
    command = exc.ctx.command_path if exc.ctx is not None else "orchestra"
    if isinstance(exc, click.NoSuchOption):
        is_of_run = any(exc.option_name in each.opts for each in run.params)
        if is_of_run and command in ("orchestra", "orchestra start"):
            return f"Did you mean `orchestra run {exc.option_name}`?"
        if near := _NEAR_OPTIONS.get(exc.option_name):
            return f"Did you mean {near}?"
    return f"{command} --help shows what there is."


def _write_report(exc: BaseException) -> str:
    """Write a report of a bug into a file; return its name, or nothing if there is no room."""
    import tempfile  # noqa: PLC0415
    import traceback  # noqa: PLC0415

    try:
        with tempfile.NamedTemporaryFile("w", prefix="orchestra-", suffix=".txt", delete=False) as file:
            file.write(f"orchestra {__version__}, Python {sys.version}, {sys.platform}\n{sys.argv}\n\n")
            traceback.print_exception(exc, file=file)
    except OSError:
        return ""
    return file.name


def _write(text: str) -> None:
    from orchestra.dashboard.writer import standard_output  # noqa: PLC0415

    with standard_output():
        click.echo(text)
        sys.stdout.flush()
