"""The current error of one process, until the process works again.

A process that ends, or does not start, has one: the exception that it has written, otherwise the line that
best explains its end. A server that goes on after an exception (a 500) has logged one. Both are reported by
`error.shown` and `error.cleared`; the same error is shown once.

Not here: reading tracebacks (`tracebacks`), what follows for the process (`lifecycle`).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from msgspec.structs import replace

from orchestra.events import ErrorCleared, ErrorShown, State
from orchestra.patterns import regex
from orchestra.supervision.tracebacks import Failure, own_frame

if TYPE_CHECKING:
    from orchestra.bus import Bus
    from orchestra.config.plan import ProcessPlan
    from orchestra.supervision.delivery import ProcessOutput
    from orchestra.supervision.lifecycle import Life
    from orchestra.supervision.symptoms import Symptoms

__all__ = ["ProcessErrors"]

# Errors that a process may log at once, and then one a second: one that fails at each request has hundreds.
_MOST_LOGGED = 5.0
# Signs of a client's fault (`NotFoundException: 404: Not Found`): an answer, not an error.
_ANSWER = regex(r"4\d\d\b")


class ProcessErrors:
    """Shows and clears the error of one process; `shown` is the current event, if it has one."""

    def __init__(self, plan: ProcessPlan, root: str, bus: Bus, output: ProcessOutput) -> None:
        self._name = plan.name
        self._folders = (str(plan.cwd), root)
        self._bus = bus
        self._output = output
        self.shown: ErrorShown | None = None
        self._last: ErrorShown | None = None  # the same, before the last lines were added
        self._restarts = 0
        self._credit, self._logged_at = _MOST_LOGGED, -inf

    def follow(self, life: Life, before: State, symptoms: Symptoms | None) -> None:
        """Take note of a change from the state `before`; `symptoms` are those of its newest child."""
        has_replaced = life.restarts != self._restarts
        self._restarts = life.restarts
        match life.state:
            case State.BACKING_OFF | State.COMPLETED if life.is_broken:
                self.show_end(str(life.exit), symptoms)
            case State.BACKING_OFF if life.has_succeeded:
                pass  # it is restarted whenever it has ended
            case State.BACKING_OFF | State.FAILED:
                # The last output of a killed process is not the reason.
                is_killed = life.exit is not None and life.exit.signal is not None
                self.show_end(str(life.exit or life.reason), None if is_killed else symptoms)
            case State.UNHEALTHY if life.ready_after is None:
                self.show_end("", symptoms)
            case State.RUNNING | State.READY | State.COMPLETED | State.STOPPED:
                if has_replaced or life.state is not before:
                    self.clear()
            case _:
                pass

    def clear(self) -> None:
        """Clear the current error, if there is one."""
        if self.shown is not None:
            self.shown = None
            self._bus.emit(ErrorCleared(process=self._name))

    def show_end(self, exit_: str, symptoms: Symptoms | None) -> None:
        """Show why a child ended, or does not become ready (no `exit_`); no `symptoms`: there was none."""
        failure = symptoms.failure if symptoms is not None and symptoms.clash is None else None
        if failure is not None:
            self._show(failure, exit_, is_fatal=True)
        else:
            explanation = symptoms.explanation() if symptoms is not None else ""
            self._emit(ErrorShown(process=self._name, error_type=exit_, message=explanation, exit=exit_))

    def show_command(self, command: str, error: str) -> None:
        """Show that a command has failed which a restart requires; `error` describes its end."""
        text = f"`{command}`: {error}"
        self._emit(ErrorShown(process=self._name, error_type="before_restart failed", message=text))

    def log(self, failure: Failure, now: float) -> None:
        """Show an exception that a child has logged and survived."""
        if _ANSWER.match(failure.message):
            return
        self._credit = min(_MOST_LOGGED, self._credit + (now - self._logged_at))
        self._logged_at = now
        if self._credit >= 1:
            self._credit -= 1
            self._show(failure, "", is_fatal=False)

    def _show(self, failure: Failure, exit_: str, *, is_fatal: bool) -> None:
        own = own_frame(failure.frames, self._folders)
        # `<frozen importlib._bootstrap>` is not a file: it cannot be opened.
        files = (frame for frame in reversed(failure.frames) if not frame.file.startswith("<"))
        place = own or next(files, None)
        self._emit(
            ErrorShown(
                process=self._name,
                error_type=failure.error_type,
                message=failure.message,
                file=place.file if place is not None else None,
                line=place.line if place is not None else None,
                frames=failure.frames,
                exit=exit_,
                is_fatal=is_fatal,
            )
        )

    def _emit(self, event: ErrorShown) -> None:
        if self.shown is None or event != self._last:
            self._last = event
            self.shown = self._bus.emit(replace(event, last_lines=tuple(self._output.tail)))
