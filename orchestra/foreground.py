"""One run in this terminal: its output, and the effect of signals, job control and a closed output.

The first signal stops the run, a second one (or SIGQUIT) kills the remaining processes. If the reader of the
output closes it, the run ends, too. On a terminal in the foreground the dashboard is shown; while we are
stopped (Ctrl-Z), the terminal is restored. Elsewhere plain or JSON lines are printed. Limits and signal
dispositions of this process, which children inherit, are changed here and nowhere else.

Not here: what a run is (`supervisor`), what is drawn or printed (`dashboard`), error messages (`cli`).
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

import trio
from msgspec.structs import replace

from orchestra.child.spawn import Window
from orchestra.config.plan import Address
from orchestra.dashboard.feed import Ongoing, Quiet, feed
from orchestra.dashboard.printers import JsonPrinter, PlainPrinter, wants_colours
from orchestra.dashboard.runlog import recording, run_log
from orchestra.dashboard.writer import Unwritable, Writer, is_in_foreground, terminal_size
from orchestra.errors import ConfigError, OrchestraError, StartError
from orchestra.events import Event, InputWanted, OutputLine, PlanChanged, RunStarted, StateChanged
from orchestra.remembered import keep_port
from orchestra.supervision.runtime import Runtime
from orchestra.supervisor import Supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from orchestra.changing import Replan
    from orchestra.config.plan import Plan
    from orchestra.dashboard.runlog import EventLog

__all__ = ["run"]

# The exit status of a run without a `RunEnded`: a bug.
_EXIT_BUG = 1
_FOREGROUND_INTERVAL = 0.2
# Seconds to wait, when our reader has ended, for the signal that may have ended both.
_SIGNAL_GRACE = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
# Python ignores these signals for itself, and restores them for children.
_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
# Soft limits of open files to try, from high to low: thousands of streams; and the minimum that macOS allows
# (OPEN_MAX in its setrlimit(2)).
_WANTED_FILES = (65_536, 10_240)


def run(plan: Plan, *, replan: Replan | None = None, record: str | None = None, opens: bool = False) -> int:
    """Run a plan to its end, and return the exit status.

    `replan` reads the files of the plan again; all events are recorded in the file `record`; with `opens` the
    browser opens the address when all processes are ready, or one has failed.

    Raises:
        ConfigError: The dashboard was asked for, and there is no terminal; or the address is taken.
        OrchestraError: Standard output cannot be written to.
    """
    mode = _output_mode(plan)
    runtime = Runtime(soft_nofile=_raise_file_limit())
    # The present objects stay for the run: the garbage collector need not search them again.
    gc.freeze()
    plan = _with_colours(plan, mode)
    again = None if replan is None else partial(_planned_again, replan, mode)
    reloads = plan.reload.enabled
    make = partial(_supervisor, plan, reloads=reloads, is_reachable=True, replan=again, runtime=runtime)
    recordings = [] if record is None else [recording(record)]
    return trio.run(partial(_run, plan, mode, make, recordings, opens=opens))


def _supervisor(plan: Plan, *, start_soon: Callable[..., object], opens: bool, **how: Any) -> Supervisor:
    """Make the run, whose address is stored for the next one."""
    supervisor = Supervisor(plan, **how)

    def keep(_started: Event) -> None:
        if plan.proxy is not None and plan.proxy.may_move and supervisor.url is not None:
            keep_port(plan.root, os.environ, Address.of_url(supervisor.url).port)

    supervisor.subscribe(keep, RunStarted)
    if opens:
        supervisor.subscribe(lambda _: start_soon(_open, supervisor), RunStarted)
    return supervisor


async def _open(supervisor: Supervisor) -> None:
    """Open the address when all are ready; if one has failed, the page shows why."""
    from orchestra.browser import open_page  # noqa: PLC0415 - few ask for it

    with suppress(StartError):
        await supervisor.wait_ready()
    if not supervisor.ending.is_set():
        with suppress(ConfigError):  # the address is on the screen
            await open_page(supervisor.url)


def _planned_again(replan: Replan, mode: str, running: Plan) -> Plan:
    plan = replan(running)
    # The setting itself stays the same until the next run.
    return replace(_with_colours(replace(plan, color=running.color), mode), color=plan.color)


async def _run(
    plan: Plan, mode: str, make: partial[Supervisor], recordings: list[EventLog], *, opens: bool
) -> int:
    with trio.open_signal_receiver(*_heeded_signals(), signal.SIGWINCH) as signals:
        async with trio.open_nursery() as nursery:
            if os.getpid() == 1:
                from orchestra.child.orphans import reap_orphans  # noqa: PLC0415 - a container's matter

                nursery.start_soon(reap_orphans)
            logs = [run_log(plan, os.environ), *recordings]
            for log in logs:
                nursery.start_soon(log.run)
            make = partial(make, start_soon=nursery.start_soon, opens=opens)
            run_it = _run_on_screen if mode == "dashboard" else partial(_run_printing, mode=mode)
            supervisor = await run_it(plan, signals, make, logs)
            for log in logs:
                await log.aclose()
            nursery.cancel_scope.cancel()
    for failure in filter(None, (log.failure for log in logs)):
        with suppress(OSError):
            os.write(2, f"warning: {failure}\n".encode("utf-8", "replace"))
    return supervisor.ended.exit_code if supervisor.ended is not None else _EXIT_BUG


async def _run_on_screen(
    plan: Plan, signals: AsyncIterator[int], make: partial[Supervisor], logs: Sequence[EventLog]
) -> Supervisor:
    # Imported here: importing rich takes more time than everything else together.
    from orchestra.dashboard.controls import Controls  # noqa: PLC0415
    from orchestra.dashboard.model import Model  # noqa: PLC0415
    from orchestra.interactive import on_screen  # noqa: PLC0415

    model, window = Model(), Window(*_room_for_output(plan), echoes=True)
    controls = Controls(model, plan.dashboard)
    supervisor = make(sinks=[sink for log in logs for sink in log.sinks], window=window, is_kept_open=True)
    for log in logs:
        log.follow(supervisor.subscribe)
    quiet = Quiet(plan)
    supervisor.subscribe(lambda _: quiet.follow(supervisor.plan), PlanChanged)

    def observe(event: Event) -> None:
        for each in quiet.shown(event):
            model.apply(each)

    supervisor.subscribe(observe, *get_args(Event))

    async def past() -> Sequence[Event]:
        await trio.lowlevel.checkpoint()
        return model.past()

    supervisor.feed = partial(feed, supervisor.subscribe, past, quiet)
    async with on_screen(
        controls,
        supervisor.obey,
        partial(supervisor.end, exit_code=0, reason="quit"),
        on_taken=supervisor.on_screen,
        environ=_environ(plan),
    ) as nursery:
        nursery.start_soon(_obey, signals, supervisor, window)
        await supervisor.run()
    return supervisor


async def _run_printing(
    plan: Plan, signals: AsyncIterator[int], make: partial[Supervisor], logs: Sequence[EventLog], *, mode: str
) -> Supervisor:
    writer = Writer()
    printer: PlainPrinter | JsonPrinter = JsonPrinter(writer)
    if mode == "plain":
        names = [process.name for process in plan.processes]
        printer = PlainPrinter(writer, names, plan, environ=_environ(plan))
    window = Window(*_room_for_output(plan)) if mode == "plain" and os.isatty(1) else None
    quiet, ongoing = Quiet(plan), Ongoing()

    async def write_lines(lines: Sequence[OutputLine]) -> None:
        ongoing.completed(lines[0])
        if isinstance(printer, JsonPrinter) or lines[0].process not in quiet.names:
            await writer.wait_for_room()
            printer.write_lines(lines)

    def observe(event: Event) -> None:
        for each in quiet.shown(event) if isinstance(printer, PlainPrinter) else (event,):
            printer.observe(each)

    supervisor = make(sinks=[write_lines, *(sink for log in logs for sink in log.sinks)], window=window)
    supervisor.subscribe(lambda _: quiet.follow(supervisor.plan), PlanChanged)
    for log in logs:
        log.follow(supervisor.subscribe)
    supervisor.subscribe(observe, *printer.kinds)
    supervisor.subscribe(ongoing.observe, *ongoing.kinds)

    async def past() -> Sequence[Event]:
        events = [*supervisor.recent_requests(), *ongoing.past()]  # now: the reader gets later ones itself
        events += [each for event in await logs[0].past() for each in quiet.shown(event)]
        return sorted(events, key=lambda event: event.seq)

    supervisor.feed = partial(feed, supervisor.subscribe, past, quiet)
    signalled = trio.Event()
    async with trio.open_nursery() as nursery:
        await nursery.start(_write, writer, signalled)
        nursery.start_soon(_expect_end, writer, supervisor.ending)
        nursery.start_soon(partial(_obey, signals, supervisor, window, writer=writer, signalled=signalled))
        if isinstance(printer, PlainPrinter) and os.isatty(0):
            nursery.start_soon(_pass_on_input, supervisor, printer)
        await supervisor.run()
        printer.finish()
        await writer.aclose()
        nursery.cancel_scope.cancel()
    # The last write of a run that has ended by itself.
    if writer.error is not None and not _follows_from_signal(writer.error, signalled):
        raise writer.error
    return supervisor


async def _write(  # noqa: ASYNC128 - handed on
    writer: Writer, signalled: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Write, and end the run if that fails, unless a signal that has ended both is on its way."""
    try:
        await writer.run(task_status=task_status)
    except OrchestraError as exc:
        # A closed terminal, or Ctrl-C for all of `orchestra run | cat`.
        with trio.move_on_after(_SIGNAL_GRACE):
            await signalled.wait()  # noqa: ASYNC120 - then it ends anyway
        if not _follows_from_signal(exc, signalled):
            raise


def _follows_from_signal(error: OrchestraError, signalled: trio.Event) -> bool:
    """Whether our output has ended together with us, so that no message is needed: not for a full disk."""
    return signalled.is_set() and not (isinstance(error, Unwritable) and not error.may_follow_from_signal)


async def _pass_on_input(supervisor: Supervisor, printer: PlainPrinter) -> None:
    """Send the lines that are typed to the process that asked for input last, or to the only one."""
    asking: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, InputWanted):
            asking[:] = [event.process]
        elif isinstance(event, StateChanged) and event.pid is None and asking == [event.process]:
            asking.clear()

    supervisor.subscribe(observe, InputWanted, StateChanged)
    with suppress(OSError):  # The terminal has gone: SIGHUP decides what follows.
        while True:
            await trio.lowlevel.wait_readable(0)
            # In the foreground nothing else reads; otherwise the shell may have taken the input that woke us.
            is_ours = is_in_foreground() and select.select([0], [], [], 0)[0]
            typed = os.read(0, 4096) if is_ours else b""
            if not typed:
                await trio.sleep(_FOREGROUND_INTERVAL)
                continue
            names = asking or list(supervisor.snapshot())
            if len(names) > 1:
                printer.print_own("no process has asked for input: what was typed is dropped")
                continue
            try:
                await supervisor.send(names[0], typed.decode("utf-8", "replace"))
            except OrchestraError as exc:
                printer.print_own(exc.message)


async def _expect_end(writer: Writer, ending: trio.Event) -> None:
    await ending.wait()
    writer.expect_end()


async def _obey(
    signals: AsyncIterator[int],
    supervisor: Supervisor,
    window: Window | None,
    *,
    writer: Writer | None = None,
    signalled: trio.Event | None = None,
) -> None:
    """Stop at the first signal; kill at the second one, and at once for SIGQUIT.

    The terminals of the children follow the size of ours. `signalled` is set by the first signal.
    """
    async for number in signals:
        if number == signal.SIGWINCH:
            if window is not None:
                window.resize(*_room_for_output(supervisor.plan))
            continue
        if signalled is not None:
            signalled.set()
        if supervisor.ending.is_set() or number == signal.SIGQUIT:
            supervisor.kill()
            if writer is not None:
                writer.give_up()
        supervisor.end(exit_code=128 + number, reason=signal.Signals(number).name)


def _room_for_output(plan: Plan) -> tuple[int, int]:
    """Give the columns and lines of our terminal for a line of output: without the names before it."""
    columns, lines = terminal_size(1)
    margin = max(len(name) for name in ("orchestra", *(process.name for process in plan.processes))) + 4
    return max(columns - margin, 20), max(lines, 2)


def _raise_file_limit() -> int | None:
    """Raise our limit of open files as far as possible; return that of children, if it differs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in _WANTED_FILES:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft == resource.RLIM_INFINITY or most <= soft:
            return None
        with suppress(OSError, ValueError):  # the system may allow less than the hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
            return soft
    return None


def _heeded_signals() -> list[signal.Signals]:
    """Find out which signals we react to: one that was ignored when we began stays ignored.

    A signal to react to gets a handler that does nothing: unlike an ignored signal, a handled one has its
    default in every child (POSIX exec). Blocked signals are unblocked: children inherit that, too.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    ignored = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
    for number in ignored - _IGNORED_BY_PYTHON:
        # If SIGCHLD is ignored, children cannot be waited for.
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else lambda *_: None)
    return [number for number in _SIGNALS if number not in ignored]


def _output_mode(plan: Plan) -> str:
    is_terminal = os.isatty(0) and os.isatty(1)
    if plan.output == "dashboard" and not is_terminal:
        raise ConfigError(
            "the dashboard needs a terminal: standard input or output is not one",
            hint="Use --output plain (or json), or leave it to --output auto.",
        )
    if plan.output != "auto":
        return plan.output
    if is_terminal and os.environ.get("TERM", "dumb") != "dumb" and is_in_foreground():
        return "dashboard"
    return "plain"


def _environ(plan: Plan) -> dict[str, str]:
    """The environment that decides whether we use colours."""
    decided = {"always": {"FORCE_COLOR": "1", "NO_COLOR": ""}, "never": {"NO_COLOR": "1"}}
    return {**os.environ, **decided.get(plan.color, {})}


def _with_colours(plan: Plan, mode: str) -> Plan:
    """Make children without a terminal use colours if a person sees them, unless it is set already."""
    is_decided = plan.color == "auto" and {"NO_COLOR", "FORCE_COLOR"} & os.environ.keys()
    if is_decided or mode == "json" or not wants_colours(_environ(plan), 1):
        return plan
    forced = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}
    processes = tuple(
        replace(each, env={**forced, **(each.env or {})}) if each.pty is False or not os.isatty(1) else each
        for each in plan.processes
    )
    return replace(plan, processes=processes)
