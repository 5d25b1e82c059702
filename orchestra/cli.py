"""The command line: the only place that reads `argv`, handles signals, prints, and decides the exit code.

Whatever the user did wrong ends as one line (and a hint) on standard error and exit code 2. A bug of ours
is one line and exit code 1; its traceback is in a file that the line names. Standard output carries the
chosen output and nothing else.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
import trio

from orchestra.child.spawn import Window
from orchestra.config import Overrides, split_arguments
from orchestra.errors import ConfigError, OrchestraError
from orchestra.stack import Stack, load
from orchestra.version import __version__

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from orchestra.config.plan import Plan
    from orchestra.dashboard.printers import Printer
    from orchestra.dashboard.screen import Screen

__all__ = ["main"]

_EXIT_BUG = 1
_EXIT_INTERRUPTED = 128 + signal.SIGINT
_FOREGROUND_PAUSE = 0.2
# Between the end of our reader and the signal that ended it, if one did.
_SIGNAL_GRACE = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# Python ignores these for itself, and gives them back to children.
_PYTHON_S_OWN = {signal.SIGPIPE, signal.SIGXFSZ}


def main() -> NoReturn:
    """Run the command line, and exit."""
    _open_what_is_closed()
    try:
        code = _commands.main(prog_name="orchestra", standalone_mode=False)
    except click.UsageError as exc:
        command = exc.ctx.command_path if exc.ctx is not None else "orchestra"
        _complain(exc.format_message(), f"{command} --help shows what there is.")
        code = exc.exit_code
    except (KeyboardInterrupt, click.Abort):
        code = _EXIT_INTERRUPTED
    except BaseExceptionGroup as group:
        code = _show(_culprit(group))
    except Exception as exc:  # noqa: BLE001 - the last line of defence: nobody is shown a traceback
        code = _show(exc)
    sys.exit(code)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orchestra", message="%(prog)s %(version)s")
def _commands() -> None:
    """Bring up a Python backend and a Vite frontend as one thing, behind one address."""


def _what_is_run(command: Callable[..., int]) -> Callable[..., int]:
    """Add the options that decide what is run, and where."""
    for option in reversed(
        (
            click.argument("arguments", nargs=-1, metavar="[PROCFILE] [PROCESS]..."),
            click.option("--listen", metavar="HOST:PORT", help="The one address. Default: 127.0.0.1:8000"),
            click.option("--no-proxy", is_flag=True, help="Run the processes only."),
            click.option(
                "-p",
                "--base-port",
                type=click.IntRange(1, 65535),
                metavar="N",
                help="The PORT of the first process.",
            ),
            click.option(
                "-e",
                "--env-file",
                "env_files",
                multiple=True,
                metavar="FILE",
                help="Read in place of .env; repeatable.",
            ),
            click.option(
                "-m",
                "--formation",
                metavar="NAME=N,...",
                help="How many instances: web=2,worker=0,all=1.",
            ),
            click.option(
                "-x",
                "--except",
                "left_out",
                multiple=True,
                metavar="NAME",
                help="Leave a process out; repeatable.",
            ),
        )
    ):
        command = option(command)
    return command


@_commands.command()
@_what_is_run
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
def run(arguments: tuple[str, ...], *, left_out: tuple[str, ...], **options: Any) -> int:
    """Run the processes of PROCFILE (by default Procfile.dev, then Procfile), or only those named."""
    procfile, names = split_arguments(arguments)
    plan = load(procfile, only=names, left_out=left_out, overrides=Overrides(**options))
    mode = _output_mode(plan)
    return trio.run(_run, _with_colours(plan, mode), mode)


@_commands.command()
@_what_is_run
def check(arguments: tuple[str, ...], *, left_out: tuple[str, ...], **options: Any) -> int:
    """Say all that is wrong with PROCFILE, its settings and this machine, and what was understood."""
    from orchestra.check import check as look  # noqa: PLC0415 - not needed by a run

    procfile, names = split_arguments(arguments)
    report = look(procfile, environ=os.environ, only=names, left_out=left_out, overrides=Overrides(**options))
    if report.understood:
        _say("\n".join(report.understood))
    for fault in report.faults:
        _complain(str(fault), fault.hint)
    return ConfigError.exit_code if report.faults else 0


@_commands.command()
def init() -> int:
    """Write a Procfile.dev for the frontend and the backend that are in the current folder."""
    from orchestra.config.environment import with_tools  # noqa: PLC0415 - not needed by a run
    from orchestra.config.initial import look  # noqa: PLC0415
    from orchestra.config.procfile import DEFAULT_NAMES, current_folder, render  # noqa: PLC0415

    root = current_folder()
    path = Path(DEFAULT_NAMES[0])
    if os.path.lexists(path):
        raise ConfigError("it is there already, and was not touched", path=path, hint="Run it: orchestra run")
    env = with_tools(os.environ, root=root, scripts=None)
    found, remarks = look(root, env=env)
    for remark in remarks:
        click.echo(remark, err=True)
    if not found:
        raise ConfigError(
            "nothing was written",
            hint=f"Write {path} yourself: lines such as `api: uvicorn --port $PORT app:app`.",
        )
    text = render(each.entry for each in found)
    _say(text.rstrip("\n"))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as exc:
        raise ConfigError(f"cannot be written: {exc.strerror}", path=path, hint="Check the folder.") from exc
    for each in found:
        click.echo(f"{each.entry.name}: {each.why}", err=True)
    click.echo(f"{path} is written; run it: orchestra run", err=True)
    return 0


async def _run(plan: Plan, mode: str) -> int:
    heeded = _heeded_signals()
    # trio wants at least one signal to wait for; there may be none left.
    with trio.open_signal_receiver(*heeded) if heeded else nullcontext(_silence()) as signals:
        async with trio.open_nursery() as nursery:
            if os.getpid() == 1:
                from orchestra.child.orphans import reap_orphans  # noqa: PLC0415 - a container's matter

                nursery.start_soon(reap_orphans)
            run_it = _run_on_screen if mode == "dashboard" else partial(_run_printing, mode=mode)
            code = await run_it(plan, signals)
            nursery.cancel_scope.cancel()
    return code


async def _run_on_screen(plan: Plan, signals: AsyncIterator[int]) -> int:
    # Imported where they are used: rich costs more time to import than everything else together.
    from orchestra.dashboard.model import Model  # noqa: PLC0415
    from orchestra.dashboard.screen import Screen, farewell  # noqa: PLC0415

    model, window = Model(), Window(*_room_for_output(plan))
    stack = Stack(plan, window=window, is_kept_open=True)
    stack.subscribe(model.apply)
    async with trio.open_nursery() as nursery:

        def on_quit() -> None:
            nursery.start_soon(_quit, stack)

        screen = Screen(
            model,
            on_quit=on_quit,
            on_restart=stack.start_failed,
            on_suspend=_stop_ourselves,
            on_taken=stack.supervisor.on_screen,
            environ=_environ(plan),
        )
        await nursery.start(screen.run)
        nursery.start_soon(_obey, signals, stack)
        nursery.start_soon(_follow_size, window, plan)
        nursery.start_soon(_follow_job_control, screen)
        await stack.run()
        nursery.cancel_scope.cancel()
    with suppress(OSError):  # the terminal may be what has ended
        os.write(1, farewell(model, environ=_environ(plan)).encode("utf-8", "replace"))
    return _exit_code(stack)


async def _run_printing(plan: Plan, signals: AsyncIterator[int], *, mode: str) -> int:
    from orchestra.dashboard.printers import JsonPrinter, PlainPrinter  # noqa: PLC0415

    names = [process.name for process in plan.processes]
    printer = (
        JsonPrinter()
        if mode == "json"
        else PlainPrinter(names, environ=_environ(plan), has_timestamps=plan.timestamps)
    )
    window = Window(*_room_for_output(plan)) if mode == "plain" and os.isatty(1) else None
    stack = Stack(plan, sinks=[printer.write_line], window=window)
    stack.subscribe(printer.observe)
    async with trio.open_nursery() as nursery:
        await nursery.start(_write, printer, stack)
        nursery.start_soon(_watch_reader, printer, stack)
        nursery.start_soon(partial(_obey, on_hurry=printer.give_up), signals, stack)
        if window is not None:
            nursery.start_soon(_follow_size, window, plan)
        await stack.run()
        await printer.aclose()
        nursery.cancel_scope.cancel()
    return _exit_code(stack)


async def _write(  # noqa: ASYNC128 - handed on
    printer: Printer, stack: Stack, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Print, and end the run if nobody reads any more; what ends both anyway is told by its signal."""
    try:
        await printer.run(task_status=task_status)
    except OrchestraError:
        # A closed terminal, or Ctrl-C for all of `orchestra run | cat`.
        with trio.move_on_after(_SIGNAL_GRACE):
            await stack.until_stopping()  # noqa: ASYNC120 - then it ends anyway
        if not stack.is_stopping:
            raise


async def _obey(
    signals: AsyncIterator[int], stack: Stack, *, on_hurry: Callable[[], object] = lambda: None
) -> None:
    """Stop at the first signal; kill if that was already under way, and at once for SIGQUIT."""
    async with trio.open_nursery() as nursery:
        async for number in signals:
            if stack.is_stopping or number == signal.SIGQUIT:
                stack.kill()
                on_hurry()
            nursery.start_soon(_stop, stack, number)


async def _watch_reader(printer: Printer, stack: Stack) -> None:
    """Do not let somebody who reads no more keep a run that is to end."""
    await stack.until_stopping()
    await printer.watch_reader()


async def _silence() -> AsyncIterator[int]:
    await trio.sleep_forever()
    yield 0


async def _stop(stack: Stack, number: int) -> None:
    await stack.stop(exit_code=128 + number, reason=signal.Signals(number).name)


async def _quit(stack: Stack) -> None:
    await stack.stop(exit_code=0, reason="quit")


async def _follow_size(window: Window, plan: Plan) -> None:
    """Give the children's terminals the size of ours, whenever that changes."""
    with trio.open_signal_receiver(signal.SIGWINCH) as changes:
        async for _ in changes:
            window.resize(*_room_for_output(plan))


def _room_for_output(plan: Plan) -> tuple[int, int]:
    """Say how many columns and lines of our terminal a line of output has: all but the names before it."""
    try:
        columns, lines = os.get_terminal_size(1)
    except OSError:
        columns, lines = 80, 24
    margin = max(len(name) for name in ("orchestra", *(process.name for process in plan.processes))) + 4
    return max(columns - margin, 20), max(lines, 2)


async def _follow_job_control(screen: Screen) -> None:
    """Give the terminal back while we are stopped, and take it again when we are in the foreground."""
    with trio.open_signal_receiver(signal.SIGTSTP, signal.SIGCONT) as changes:
        async for number in changes:
            screen.suspend()
            if number == signal.SIGTSTP:
                # We may run on for a moment: that we were stopped is known when we are continued.
                os.kill(os.getpid(), signal.SIGSTOP)
                continue
            # Continued by `bg`, we wait for `fg`: a touch of the terminal would stop us again.
            while not _is_in_foreground():  # noqa: ASYNC110 - nobody tells us
                await trio.sleep(_FOREGROUND_PAUSE)
            screen.resume()


def _stop_ourselves() -> None:
    """Do what Ctrl-Z does to a job: stop all of it."""
    os.kill(0, signal.SIGTSTP)


def _is_in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:  # no terminal any more: SIGHUP says what follows from that
        return False


def _exit_code(stack: Stack) -> int:
    return stack.ended.exit_code if stack.ended is not None else _EXIT_BUG


def _open_what_is_closed() -> None:
    """Have 0, 1 and 2 open, come what may: otherwise a file of ours would get such a number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free: this one


def _heeded_signals() -> list[signal.Signals]:
    """Find out which signals are ours to act on: one that was ignored when we began stays ignored.

    For that it gets a handler that does nothing: unlike an ignored signal, a handled one is back at its
    default in every child (POSIX exec). What was blocked is not any more: children inherit that, too.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    ignored = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
    for number in ignored - _PYTHON_S_OWN:
        # Children whose end is ignored could not be waited for.
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else lambda *_: None)
    return [number for number in _SIGNALS if number not in ignored]


def _output_mode(plan: Plan) -> str:
    is_terminal = os.isatty(0) and os.isatty(1)
    if plan.output == "dashboard" and not is_terminal:
        raise ConfigError(
            "the dashboard needs a terminal, and this is none",
            hint="Use --output plain (or json), or leave it to --output auto.",
        )
    if plan.output != "auto":
        return plan.output
    if is_terminal and os.environ.get("TERM", "dumb") != "dumb" and _is_in_foreground():
        return "dashboard"
    return "plain"


def _environ(plan: Plan) -> dict[str, str]:
    """The environment that decides whether we show colours."""
    decided = {"always": {"FORCE_COLOR": "1", "NO_COLOR": ""}, "never": {"NO_COLOR": "1"}}
    return {**os.environ, **decided.get(plan.color, {})}


def _with_colours(plan: Plan, mode: str) -> Plan:
    """Tell children without a terminal to use colours if a person sees them, unless somebody has decided."""
    is_wanted = mode == "dashboard" or (mode == "plain" and os.isatty(1))
    if plan.color != "auto":
        is_wanted = plan.color == "always" and mode != "json"
    elif {"NO_COLOR", "FORCE_COLOR"} & os.environ.keys():
        return plan
    if not is_wanted:
        return plan
    forced = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}
    processes = tuple(
        replace(each, env={**forced, **(each.env or {})}) if each.pty is False or not os.isatty(1) else each
        for each in plan.processes
    )
    return replace(plan, processes=processes)


def _culprit(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Find what to show of all that went wrong: a bug before a user's error, the first of each."""
    leaves: list[BaseException] = []
    unseen: list[BaseException] = [group]
    while unseen:
        match unseen.pop(0):
            case BaseExceptionGroup() as inner:
                unseen = [*inner.exceptions, *unseen]
            case leaf:
                leaves.append(leaf)
    return next((leaf for leaf in leaves if not isinstance(leaf, OrchestraError)), leaves[0])


def _show(exc: BaseException) -> int:
    """Say what went wrong on standard error; return the exit code."""
    if isinstance(exc, KeyboardInterrupt):
        return _EXIT_INTERRUPTED
    if isinstance(exc, OrchestraError):
        if exc.message:
            _complain(str(exc), exc.hint)
        return exc.exit_code
    with tempfile.NamedTemporaryFile("w", prefix="orchestra-", suffix=".txt", delete=False) as file:
        file.write(f"orchestra {__version__}, Python {sys.version}, {sys.platform}\n{sys.argv}\n\n")
        traceback.print_exception(exc, file=file)
    _complain(f"a bug in orchestra: {type(exc).__name__}: {exc}", f"Please report it with {file.name}.")
    return _EXIT_BUG


def _say(text: str) -> None:
    """Print to standard output, now."""
    try:
        click.echo(text)
        sys.stdout.flush()
    except OSError as exc:
        from orchestra.dashboard.printers import ReaderGone, Unwritable  # noqa: PLC0415 - most often not needed

        # What is still in the buffer would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise (ReaderGone() if isinstance(exc, BrokenPipeError) else Unwritable(exc)) from exc


def _complain(message: str, hint: str) -> None:
    is_coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    lines = [click.style("error: ", fg="red", bold=True) + message]
    if hint:
        lines.append(click.style(" hint: ", fg="cyan") + hint)
    with suppress(OSError):
        click.echo("\n".join(lines), err=True, color=is_coloured)
