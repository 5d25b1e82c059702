"""The interpreters of an application: one serves, and a spare gets ready for the next restart.

A spare is an ordinary child (a session of its own, known to the guardian, its output read). It imports the
installed packages that the serving interpreter has imported, and serves when it is ordered to; it exits by
itself when orchestra does. `child/application` is its other half: it explains the messages, and checks that
its imports are still current on the disk.

A spare is spawned when the first file of a change is touched: it imports packages while the rest of the
change is awaited and the old child is stopped. Saves come in series: after such a restart, the next spare is
spawned as soon as the new child serves, and waits a minute for the next save. With ``warm_spare = true``
there is always one.

A spare from another plan or with another environment is killed, and so is one that has waited for too long.
Retries of what has just failed start without a spare, which is kept for the fixed program.

Not here: when a child is spawned, and why (`handover`, `worker`).
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from orchestra.child.families import EXTRA_MARK, with_mark
from orchestra.child.spawn import Child, OnOutput, SpawnError, Window
from orchestra.config.environment import PORT_VARIABLES
from orchestra.supervision.runtime import Stoppable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestra.config.plan import ProcessPlan
    from orchestra.events import Exit
    from orchestra.supervision.delivery import ProcessOutput
    from orchestra.supervision.run import Run

__all__ = ["Interpreter", "Spares", "how_to_spawn"]

# The variable with the descriptor of an interpreter's end of the socket.
_CONTROL = "ORCHESTRA_CONTROL"
_NOT_COMPARED = {*PORT_VARIABLES, EXTRA_MARK}
# Seconds from the moment that an application serves until its spare is spawned: reloading the page comes
# first, and only its first request may import all packages.
_SPAWN_DELAY = 0.5
# Seconds that a warm spare is kept: after so long without a save, its memory has a better use.
_MAX_IDLE = 600.0
# Likewise for a spare that exists because files are being edited.
_SHORT_MAX_IDLE = 60.0
# The largest message: the names of thousands of modules.
_MAX_MESSAGE = 1 << 20
# The size of a terminal whose user has not set one.
_USUAL_SIZE = (80, 24)


def how_to_spawn(plan: ProcessPlan, run: Run) -> dict[str, Any]:
    """Give the arguments of `Run.spawn` that follow from a process's plan alone."""
    usual = Window(*_USUAL_SIZE) if plan.pty is True else None
    return {
        "cwd": plan.cwd,
        "stop_timeout": plan.stop_timeout,
        "stop_signal": signal.Signals[f"SIG{plan.stop_signal}"],
        "window": (run.window or usual) if plan.pty else None,
    }


class Interpreter(Stoppable):
    """One child that serves an application, from its spawn to its end.

    Args:
        on_output: Awaited with its output before it serves.
        max_idle: Seconds after which it is killed if it does not serve yet.
    """

    def __init__(
        self,
        plan: ProcessPlan,
        run: Run,
        *,
        env: Mapping[str, str],
        on_output: OnOutput,
        max_idle: float = _MAX_IDLE,
    ) -> None:
        super().__init__(run)
        self._plan = plan
        self._env = env
        self._on_output = on_output
        self._max_idle = max_idle
        self._how: Exit | SpawnError | None = None
        self._spawned, self._ordered, self.ended = trio.Event(), trio.Event(), trio.Event()
        self._sending = trio.Lock()
        self._received = b""

    @property
    def is_there(self) -> bool:
        """Whether it has neither ended nor been killed."""
        return not (self.is_ending or self.ended.is_set())

    async def run(self, modules: Sequence[str]) -> None:
        """Run it to its end; it imports `modules` before it is ordered to serve."""
        try:
            self._how = await self._live(modules)
        except SpawnError as exc:
            self._how = exc
        finally:
            for each in (self._spawned, self._ordered, self.ended):
                each.set()

    async def _live(self, modules: Sequence[str]) -> Exit:
        try:
            ours, theirs = socket.socketpair()
        except OSError as exc:
            raise SpawnError(f"cannot be started: {exc.strerror}") from exc

        def spawned(_child: Child) -> None:
            theirs.close()  # from now on, its end is the end of the stream
            self._spawned.set()

        self._control = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        with theirs, self._control.socket:
            self._run.nursery.start_soon(self._send, modules)
            self._run.nursery.start_soon(self._expire)
            return await self.run_child(
                self._plan.command,
                env={**self._env, _CONTROL: str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                on_spawn=spawned,
                on_output=lambda *said: self._on_output(*said),  # noqa: PLW0108 - another one when it serves
                **how_to_spawn(self._plan, self._run),
            )

    async def _expire(self) -> None:
        with trio.move_on_after(self._max_idle):
            await self._ordered.wait()
        if not self._ordered.is_set():
            self.kill()

    def fits(self, plan: ProcessPlan, env: Mapping[str, str]) -> bool:
        """Whether it can serve with this plan and this environment, except for the port."""

        def spawned_by(plan: ProcessPlan, env: Mapping[str, str]) -> object:
            own = {name: value for name, value in env.items() if name not in _NOT_COMPARED}
            return own, plan.command, plan.cwd, plan.pty, plan.stop_signal, plan.stop_timeout

        return self.is_there and spawned_by(self._plan, self._env) == spawned_by(plan, env)

    async def serve(
        self, env: Mapping[str, str], on_spawn: Callable[[Child], object], on_output: OnOutput
    ) -> Exit:
        """Have it serve in another environment, and wait for its end, like `Run.spawn`."""
        try:
            await self._spawned.wait()
            if self.child is not None:
                self._on_output = on_output
                self._ordered.set()
                on_spawn(self.child)
                self.child.signal(signal.SIGCONT)  # it may have been stopped, and would never serve
                await self._send({name: env[name] for name in PORT_VARIABLES if name in env})
            await self.ended.wait()
        finally:
            self.kill()  # unless it has ended
        if isinstance(self._how, SpawnError):
            raise self._how
        assert self._how is not None  # noqa: S101 - it has ended
        return self._how

    # --- Messages ---

    async def memory(self) -> int:
        """Wait until it has imported its modules; return their memory in KiB, 0 if it has ended."""
        await self._spawned.wait()
        answer = await self._receive()
        return answer if isinstance(answer, int) else 0

    async def modules(self) -> Sequence[str]:
        """Wait until it serves; return the installed modules that it has imported, none if it has ended."""
        await self._ordered.wait()
        await self._send("?")
        while isinstance(answer := await self._receive(), int):
            pass  # it was ordered to serve before its memory was read
        return answer if isinstance(answer, list) else ()

    async def _send(self, message: object) -> None:
        async with self._sending:  # first come, first served
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._control.send_all(json.dumps(message).encode() + b"\n")

    async def _receive(self) -> object:
        try:
            while b"\n" not in self._received and len(self._received) < _MAX_MESSAGE:
                chunk = await self._control.receive_some(65536)
                if not chunk:
                    return None
                self._received += chunk
            line, _, self._received = self._received.partition(b"\n")
            return json.loads(line)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ValueError):
            return None


class Spares:
    """Has a spare ready for one process."""

    def __init__(self, run: Run, output: ProcessOutput) -> None:
        self._run = run
        self._output = output
        self._serving: Interpreter | None = None
        self._spare: Interpreter | None = None
        self._modules: Sequence[str] = ()  # imported by the last one
        self._preparing = trio.CancelScope()
        self._is_edited = False  # since the last child was spawned
        self._was_noted = False

    async def serve(
        self,
        plan: ProcessPlan,
        _command: str | Sequence[str],
        *,
        is_retry: bool,
        env: Mapping[str, str],
        on_spawn: Callable[[Child], object],
        on_output: OnOutput,
        **_as_planned: object,
    ) -> Exit:
        """Have the spare serve if it fits, otherwise a new interpreter; called like `Run.spawn`."""
        self._serving = self._take(plan, env, is_retry=is_retry)
        self._preparing.cancel()
        if plan.warm_spare or self._is_edited:
            self._prepare(plan, self._serving, is_hurried=False)
        self._is_edited = False
        return await self._serving.serve(env, on_spawn, on_output)

    def expect(self, plan: ProcessPlan) -> None:
        """Have a spare get ready, since a restart is likely to follow. Does not wait."""
        self._is_edited = True
        if self._serving is not None and not self._has_spare:
            self._prepare(plan, self._serving, is_hurried=True)

    @property
    def _has_spare(self) -> bool:
        return self._spare is not None and self._spare.is_there

    def _take(self, plan: ProcessPlan, env: Mapping[str, str], *, is_retry: bool) -> Interpreter:
        spare, self._spare = self._spare, None
        if spare is not None and is_retry and spare.is_there:
            self._spare, spare = spare, None
        elif spare is not None and not spare.fits(plan, env):
            spare.kill()
            spare = None
        return spare or self._spawn(plan, env, ())

    def _spawn(self, plan: ProcessPlan, env: Mapping[str, str], modules: Sequence[str]) -> Interpreter:
        max_idle = _MAX_IDLE if plan.warm_spare else _SHORT_MAX_IDLE
        write = self._output.write
        interpreter = Interpreter(plan, self._run, env=with_mark(env), on_output=write, max_idle=max_idle)
        self._run.nursery.start_soon(interpreter.run, modules)
        return interpreter

    def _prepare(self, plan: ProcessPlan, serving: Interpreter, *, is_hurried: bool) -> None:
        self._preparing.cancel()
        self._preparing = trio.CancelScope()
        prepare = partial(self._spawn_spare, is_hurried=is_hurried)
        self._run.nursery.start_soon(prepare, plan, serving, self._preparing)

    async def _spawn_spare(
        self, plan: ProcessPlan, serving: Interpreter, scope: trio.CancelScope, *, is_hurried: bool
    ) -> None:
        """Spawn a spare when an application serves, or has failed to: then the fixed one will need it."""
        with scope:
            if not is_hurried:
                await serving.modules()
                await trio.sleep(_SPAWN_DELAY)
            self._modules = await serving.modules() or self._modules
            if not self._modules or self._has_spare:
                return
            self._spare = self._spawn(plan, self._run.environment(plan, plan.port), self._modules)
            if plan.warm_spare and not self._was_noted and (memory := await self._spare.memory()):
                self._was_noted = True
                text = f"an interpreter is kept ready for its next restart; it takes {memory / 1024:.0f} MiB"
                self._run.bus.notice("spare-ready", text, level="info", process=plan.name)

    def discard(self) -> None:
        """Kill the spare, and prepare none. Does not wait."""
        self._preparing.cancel()
        if self._spare is not None:
            self._spare.kill()

    async def until_gone(self) -> None:
        """Wait until no process of a discarded spare is left."""
        if self._spare is not None and not self._spare.is_there:
            await self._spare.ended.wait()
