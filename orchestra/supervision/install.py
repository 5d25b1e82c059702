"""Installs the packages of a folder: once, however many processes need them.

All processes that need the same installation wait for one job, which runs in the first one's environment. It
runs again when `package.json` or a lock file has changed. If it is interrupted, it leaves no half of
`node_modules` behind, which the next run would take for a complete one.

Not here: which command installs them (`config/packages`).
"""

from __future__ import annotations

import shutil
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

import trio

from orchestra.child.lines import without_colours
from orchestra.child.spawn import OnOutput, SpawnError
from orchestra.config.packages import lock_content
from orchestra.patterns import regex
from orchestra.supervision.runtime import Stoppable
from orchestra.supervision.symptoms import explain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.config.plan import Install, ProcessPlan
    from orchestra.events import StreamName
    from orchestra.supervision.run import Run

__all__ = ["Installation", "Installer"]

# Managers ask nothing if CI is set, and omit Vite if NODE_ENV is "production", or npm's settings say so.
_ENVIRONMENT = {"CI": "1", "NODE_ENV": "development", "NPM_CONFIG_INCLUDE": "dev"}
# The line of npm that describes the error, after lines for programs.
_NPMS_ERROR = regex(r"npm (?:error|ERR!) (?!code |errno |path |syscall )(.+)")
# Seconds to remove half-installed packages: the end of the run does not wait for a dead disk.
_REMOVE_TIMEOUT = 5.0
# Seconds that the end of a job may take beyond its stop timeout: SIGKILL, the last lines, removing.
_STOP_GRACE = 10.0


class Installation(Stoppable):
    """One job: a command that installs the packages of a folder.

    Args:
        plan: The first process that needs it: the job uses its environment and stop timeout.

    Attributes:
        error: What went wrong; empty if it has succeeded.
    """

    def __init__(self, install: Install, plan: ProcessPlan, *, run: Run, on_output: OnOutput) -> None:
        super().__init__(run)
        self.error = ""
        self.done = trio.Event()
        self._install = install
        self._plan = plan
        self._on_output = on_output
        self._lines: deque[str] = deque(maxlen=50)  # the last ones, without colours
        self._waiting = 0
        self._installs = lock_content(install.folder)

    def is_up_to_date(self) -> bool:
        """Whether it installs, or has installed, the current files; its manager may write the lock file."""
        return not self.done.is_set() or self._installs == lock_content(self._install.folder)

    async def wait(self) -> str:
        """Wait for its end; return what went wrong. If the last waiting task is cancelled, the job stops."""
        self._waiting += 1
        try:
            await self.done.wait()
        finally:
            self._waiting -= 1
            if not self._waiting and not self.done.is_set():
                self.stop()
                deadline = trio.current_time() + self._plan.stop_timeout + _STOP_GRACE
                with trio.CancelScope(shield=True, deadline=deadline):
                    await self.done.wait()
        return self.error

    async def install(self, after: trio.Event | None) -> None:
        """Install, after the event `after`."""
        if after is not None:
            await after.wait()
        install, plan = self._install, self._plan
        packages = install.folder / "node_modules"
        had_packages = packages.exists()
        try:
            how = await self.run_child(
                install.argv,
                cwd=install.folder,
                env=self._run.environment(plan, plan.port) | _ENVIRONMENT,
                on_output=self._write,
                stop_timeout=plan.stop_timeout,
            )
            if how.code != 0:
                npms = next(filter(None, map(_NPMS_ERROR.match, self._lines)), None)
                why = npms[1] if npms is not None else explain(self._lines)
                self.error = f"`{' '.join(install.argv)}` in {install.folder}: {how}" + (why and f": {why}")
        except SpawnError as exc:
            self.error = exc.message
        finally:
            if (self.error or self.is_ending) and not had_packages:
                with trio.move_on_after(_REMOVE_TIMEOUT, shield=True):
                    remove = partial(shutil.rmtree, packages, ignore_errors=True)
                    await trio.to_thread.run_sync(remove, abandon_on_cancel=True)
            self._installs = lock_content(install.folder)
            self.done.set()

    async def _write(self, stream: StreamName, lines: Sequence[str], unfinished: str | None) -> None:
        self._lines.extend(map(without_colours, lines))
        await self._on_output(stream, lines, unfinished)


class Installer:
    """All installations of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._jobs: dict[Install, Installation] = {}

    def join(self, plan: ProcessPlan, on_output: OnOutput) -> Installation:
        """Give the job for a process's packages: the last one, if it runs, or is still up to date."""
        install = plan.install
        assert install is not None  # noqa: S101 - else there is no order to install
        last = self._jobs.get(install)
        if last is not None and not last.error and not last.is_ending and last.is_up_to_date():
            return last
        job = Installation(install, plan, run=self._run, on_output=on_output)
        self._jobs[install] = job
        self._run.nursery.start_soon(job.install, last.done if last is not None else None)
        return job

    def kill(self) -> None:
        """Kill all jobs. Does not wait."""
        for job in self._jobs.values():
            job.kill()
