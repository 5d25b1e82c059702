"""The commands that reach a run from another terminal: its state, its log, orders, its end.

The run is that of the project in the current folder; ``--run PID`` chooses one of several. A command sends
its order and then polls the run's state until the order has been carried out. Exit statuses: 0; 2 for wrong
use, or if there is no run; for `wait` also 1 if a process has failed, and 3 after the timeout.

Not here: the commands that read a Procfile (`cli`), how a run is found and reached (`remote`).
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from orchestra.errors import OrchestraError
from orchestra.folders import current_folder, is_running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from orchestra.control.local import Verb
    from orchestra.events import StateChanged
    from orchestra.remote import RunningRun

__all__ = ["COMMANDS"]

_EXIT_FAILED = 1
_EXIT_LATE = 3
# Seconds between two polls of a run that is waited for, and between two updates of a table.
_INTERVAL = 0.1
_LAST_MOMENT = 0.5
_WATCH_INTERVAL = 1.0
_A_DAY = 86_400

_commands = click.Group()
COMMANDS = _commands.commands
"""All commands of this module, by name."""


def _choose(pid: int | None = None) -> RunningRun:
    # `--help` needs none of these.
    from orchestra.remote import choose  # noqa: PLC0415

    return choose(os.environ, current_folder(), pid=pid)


def _complete_names(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    try:
        state = _choose().state
    except (OrchestraError, OSError):
        return []
    return [each.process for each in state.processes if each.process.startswith(begun)]


def _complete_signals(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    names = (each.name.removeprefix("SIG") for each in signal.Signals)
    return [name for name in names if name.startswith(begun.upper().removeprefix("SIG"))]


_RUN = click.option("--run", "pid", type=int, metavar="PID", help="Which run, if there are several.")


class _Number(click.FloatRange):
    """A number; NaN would be in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if number != number:  # noqa: PLR0124 - NaN alone
            self.fail(f"{value} is not a number.", param, ctx)
        return number


def _command(function: Callable[..., int]) -> click.Command:
    """Make a command of a function that takes the chosen run first; it returns the exit status."""

    @_commands.command(function.__name__.strip("_"))
    @_RUN
    @wraps(function)
    def call(pid: int | None, **arguments: Any) -> int:
        return function(_choose(pid), **arguments)

    return call


def _some(context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]) -> tuple[str, ...]:
    """Require a name: `start` and `stop` of other runners have other names here."""
    if not names and not context.resilient_parsing:
        meant = {"start": "`orchestra run` starts a project", "stop": "`orchestra down` ends a run"}
        also = meant.get(context.command.name or "", "`orchestra ps` shows their names")
        raise click.UsageError(f"it needs the name of a process; {also}", context)
    return names


_NAMES = click.argument("names", nargs=-1, metavar="NAME...", callback=_some, shell_complete=_complete_names)


# --- How it is ---


@_command
@click.option("--json", "is_json", is_flag=True, help="One JSON object.")
@click.option("--watch", is_flag=True, help="Show it again whenever it changes, until Ctrl-C.")
def ps(run: RunningRun, *, is_json: bool, watch: bool) -> int:
    """Show the processes of a run."""
    shown = ""
    while True:
        text = _as_json(run) if is_json else _as_table(run)
        if text != shown:
            if watch and not is_json and shown:
                click.echo()
            click.echo(text)
            shown = text
        if not watch:
            return 0
        time.sleep(_WATCH_INTERVAL)
        run.refresh()


def _as_json(run: RunningRun) -> str:
    import msgspec  # noqa: PLC0415 - as for `_choose`

    fields = {name: getattr(run.state, name) for name in ("url", "procfile", "pid", "processes")}
    return msgspec.json.encode(fields).decode()


def _as_table(run: RunningRun) -> str:
    rows = [("NAME", "STATE", "PID", "ADDRESS", "RESTARTS", "REASON")]
    for each in run.state.processes:
        pid, address = str(each.pid or ""), each.url or ""
        rows.append((each.process, each.state.value, pid, address, str(each.restarts or ""), each.reason))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    with suppress(OSError):  # all of it, if it is read by a program
        room = os.get_terminal_size(1).columns or 80
        lines = [line if len(line) <= room else f"{line[: room - 1]}…" for line in lines]
    title = f"{run.state.url or 'no address'}, pid {run.state.pid}, {run.state.procfile or run.state.root}"
    return "\n".join([title, *lines])


@_command
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=_complete_names)
@click.option("--timeout", type=_Number(0), default=60.0, show_default=True, help="Seconds.")
def wait(run: RunningRun, *, names: tuple[str, ...], timeout: float) -> int:
    """Wait until processes, by default all, are ready. Without a check, they only have to run."""
    meant = run.named(names) if names else [each.process for each in run.state.processes]
    until = time.monotonic() + timeout
    while missing := [name for name in run.missing() if name in meant]:
        run.refresh()
        failed = [each for each in run.processes(missing) if each.state.is_ended]
        if failed:
            _report_failed(failed)
            return _EXIT_FAILED
        if time.monotonic() >= until:
            late = [f"{each.process} ({each.reason or each.state.value})" for each in run.processes(missing)]
            click.echo(f"not ready after {timeout:g} s: {', '.join(late)}", err=True)
            return _EXIT_LATE
        time.sleep(_INTERVAL)
    return 0


def _report_failed(failed: Sequence[StateChanged]) -> None:
    for each in failed:
        click.echo(f"{each.process} has {each.state.value}: {each.reason}".rstrip(": "), err=True)
        for line in each.last_lines:
            click.echo(f"  {line}", err=True)


@_command
def _open(run: RunningRun) -> int:
    """Open the one address in the browser."""
    import trio  # noqa: PLC0415 - only here

    from orchestra.browser import open_page  # noqa: PLC0415

    trio.run(open_page, run.state.url)
    click.echo(run.state.url)
    return 0


# --- Its log, and its environment ---


@_commands.command("logs")
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=_complete_names)
@click.option("-f", "--follow", is_flag=True, help="Go on with what is written, until the run ends.")
@click.option("-n", "--lines", type=click.IntRange(0), metavar="N", help="Only the last N lines.")
@click.option("--since", metavar="WHEN", help="Not what is older: 30s, 5m, 2h, or a time such as 14:30.")
@click.option("-t", "--timestamps", is_flag=True, help="Begin lines with the time of day.")
@click.option("--last", is_flag=True, help="The log of the last run, also if it is over.")
@_RUN
def _logs(
    names: tuple[str, ...], *, since: str | None, last: bool, pid: int | None, follow: bool, **shown: Any
) -> int:
    """Show what the processes have written, and what has happened."""
    from orchestra.logs import find_log, moment, read_log, show  # noqa: PLC0415 - only here

    try:
        begin = moment(since) if since is not None else None
    except ValueError as exc:
        raise click.UsageError(str(exc)) from None
    run = None if last else _choose(pid)
    log = find_log(os.environ, current_folder(), run.state if run is not None else None)
    events = read_log(log, followed=run.state.pid if follow and run is not None else None)
    return show(events, run.named(names) if run is not None else names, since=begin, **shown)


@_commands.command(
    "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@_RUN
@click.argument(
    "words", nargs=-1, type=click.UNPROCESSED, metavar="[NAME] -- COMMAND...", shell_complete=_complete_names
)
def _exec(words: tuple[str, ...], *, pid: int | None) -> int:
    """Run a command with the environment of a process.

    It has its folder and its ports, too; by default, those of the backend. It needs no run. Its exit status
    is the command's.
    """
    from orchestra.oneoff import place_of, replace_us  # noqa: PLC0415 - only here

    name, command = (words[0], words[2:]) if words[1:2] == ("--",) else (None, words)
    if not command:
        raise click.UsageError("there is no command; give one: orchestra exec NAME -- COMMAND")
    replace_us(place_of(name, os.environ, current_folder(), pid=pid), command)


@_command
def attach(run: RunningRun) -> int:
    """Show the dashboard of a run in another terminal. `q` leaves it, and the run goes on."""
    from orchestra.showing import attach as show  # noqa: PLC0415 - only here

    return show(run)


@_commands.command("replay")
@click.argument("file")
@click.option(
    "--speed", type=_Number(0, min_open=True), default=1.0, metavar="N", help="N times as fast; inf: at once."
)
def _replay(file: str, *, speed: float) -> int:
    """Show a run again that was recorded: run --record FILE."""
    from orchestra.showing import replay as show  # noqa: PLC0415 - only here

    return show(file, speed=speed)


# --- Without a Procfile: in development, and in production ---


@_commands.command("dev")
@click.argument("target", metavar="MODULE:APP")
@click.option("--vite-command", metavar="COMMAND", help="What starts Vite. Default: found.")
@click.option("--listen", metavar="HOST:PORT", help="The one address. Default: 127.0.0.1:8000")
@click.option("--output", type=click.Choice(["auto", "dashboard", "plain", "json"]))
@click.option("--no-reload", is_flag=True, help="Watch no files, and leave pages as they are.")
def _dev(*, target: str, vite_command: str | None, **options: Any) -> int:
    """Run an application and its Vite, as `run` does with a Procfile."""
    from orchestra.config import Overrides  # noqa: PLC0415 - only here
    from orchestra.config.written import Target  # noqa: PLC0415
    from orchestra.dev import run_target  # noqa: PLC0415

    return run_target(Overrides(target=Target(app=target, vite=vite_command), **options))


@_commands.command("serve")
@click.argument("target", metavar="MODULE:APP")
@click.option("--static", metavar="DIR", help="The built assets, such as dist/assets.")
@click.option("--static-path", default="/assets", show_default=True, metavar="PATH", help="Where they are.")
@click.option("--spa", metavar="FILE", help="The built page, such as dist/index.html.")
@click.option(
    "--api-prefix", default="/api", show_default=True, metavar="PATH", help="It never has the page."
)
@click.option("--listen", default="127.0.0.1:8000", show_default=True, metavar="HOST:PORT")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option(
    "--worker-class", type=click.Choice(["asyncio", "uvloop", "trio"]), default="asyncio", show_default=True
)
@click.option(
    "--grace", type=_Number(0, _A_DAY), default=10.0, show_default=True, help="Seconds for the last requests."
)
@click.option("--no-access-log", is_flag=True, help="Write no line for each request.")
def _serve(*, listen: str, workers: int, no_access_log: bool, **served: Any) -> int:
    """Serve an application and its built frontend in production."""
    from orchestra.serve import Served, serve  # noqa: PLC0415 - only here

    return serve(Served(**served, logs=not no_access_log), listen=listen, workers=workers)


# --- Orders ---


def _add_order(verb: Verb, words: str) -> None:
    @_NAMES
    def give(run: RunningRun, *, names: tuple[str, ...]) -> int:
        return _order(run, names, do=verb)

    give.__name__, give.__doc__ = verb, words
    _command(give)


_add_order("restart", "Stop processes if they run, and start them again. `wait` waits until they are ready.")
_add_order("stop", "Stop processes, and leave them stopped. `down` ends the whole run.")
_add_order("start", "Start processes that have ended; `run` starts a project.")
_add_order("kill", "Stop processes at once, by SIGKILL.")


@_command
@click.argument("number", metavar="SIGNAL", type=click.UNPROCESSED, shell_complete=_complete_signals)
@_NAMES
def _signal(run: RunningRun, *, number: str, names: tuple[str, ...]) -> int:
    """Send a signal, such as HUP, to processes and their children."""
    name = number.upper().removeprefix("SIG")
    try:
        meant = signal.Signals(int(name)) if name.isdecimal() else signal.Signals[f"SIG{name}"]
    except (KeyError, ValueError):
        raise click.UsageError(f"there is no signal {number!r}: HUP, USR1 and 15 are some") from None
    return _order(run, names, do="signal", signal=meant)


def _order(run: RunningRun, names: Sequence[str], **order: Any) -> int:
    """Give an order, and wait until no process that it is about is stopping any more."""
    meant = run.named(names)
    run.order(processes=tuple(meant), **order)
    run.refresh()
    while any(each.state.value == "stopping" for each in run.processes(meant)):
        time.sleep(_INTERVAL)
        run.refresh()
    return 0


@_command
@click.argument("name", shell_complete=_complete_names)
@click.argument("text")
def send(run: RunningRun, *, name: str, text: str) -> int:
    """Type a line into a process, such as what its debugger is to do."""
    run.order(do="send", processes=tuple(run.named([name])), text=f"{text}\n")
    return 0


@_command
def reload(run: RunningRun) -> int:
    """Have all open pages of the one address reload."""
    count = run.order(do="reload")
    click.echo(f"{count} page{'' if count == 1 else 's'}")
    return 0


@_command
def down(run: RunningRun) -> int:
    """End the run, and wait until nothing is left of it."""
    run.order(do="down")
    while is_running(run.state.pid) and run.path.exists():
        time.sleep(_INTERVAL)
    # Nothing is left of it. Its process ends now, too, unless it is a program of the user's.
    until = time.monotonic() + _LAST_MOMENT
    while is_running(run.state.pid) and time.monotonic() < until:
        time.sleep(_INTERVAL)
    return 0
