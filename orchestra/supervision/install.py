"""Installing the packages of a folder: once, however many processes need them.

All processes that need the same installation wait for one job. The first one gives its environment, and its
name to the output. When the last one that waits loses interest, the job is stopped. An installation that did
not succeed leaves no half of `node_modules` behind, which would look like all of it to the next run.

Not here: which command installs them (`config/packages`).
"""

from __future__ import annotations

import shutil
from functools import partial
from typing import TYPE_CHECKING

import trio

from orchestra.child.spawn import SpawnError
from orchestra.supervision.runtime import Stoppable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.child.spawn import OnOutput
    from orchestra.config.plan import Install
    from orchestra.supervision.runtime import Run

__all__ = ["Installation", "Installer"]

# Removing half-installed packages: a second or so; the end of the run does not wait for a dead disk.
_REMOVE_TIMEOUT = 5.0
# What the end of a job may take beyond its stop timeout: SIGKILL, the last lines, removing.
_STOP_GRACE = 10.0


class Installation(Stoppable):
    """One job: a command that installs the packages of a folder.

    Args:
        install: The command and the folder.
        env: Its environment.
        on_output: Awaited with what it writes.
        stop_timeout: Seconds between its stop signal and SIGKILL.

    Attributes:
        error: What went wrong; empty if nothing did.
        done: Is set when it has ended.
    """

    def __init__(
        self, install: Install, *, env: Mapping[str, str], on_output: OnOutput, stop_timeout: float
    ) -> None:
        super().__init__()
        self.error = ""
        self.done = trio.Event()
        self._install = install
        self._env = {**env, "CI": "1"}  # package managers ask nothing there
        self._on_output = on_output
        self._stop_timeout = stop_timeout
        self._waiting = 0

    def __repr__(self) -> str:
        return f"<Installation in {self._install.folder}: {self._waiting} waiting>"

    async def wait(self) -> str:
        """Wait until it has ended; return what went wrong.

        To cancel this is to lose interest: the last one that does stops the job, and waits for its end.
        """
        self._waiting += 1
        try:
            await self.done.wait()
        finally:
            self._waiting -= 1
            if not self._waiting and not self.done.is_set():
                self.stop()
                deadline = trio.current_time() + self._stop_timeout + _STOP_GRACE
                with trio.CancelScope(shield=True, deadline=deadline):
                    await self.done.wait()
        return self.error

    async def run(self, run: Run, after: trio.Event | None) -> None:
        """Install, when `after` is set."""
        if after is not None:
            await after.wait()
        install = self._install
        packages = install.folder / "node_modules"
        had_packages = packages.exists()
        try:
            how = await self.run_child(
                run,
                install.argv,
                cwd=install.folder,
                env=self._env,
                on_output=self._on_output,
                stop_timeout=self._stop_timeout,
            )
            if how.code != 0:
                self.error = f"`{' '.join(install.argv)}` in {install.folder}: {how}"
        except SpawnError as exc:
            self.error = exc.message
        finally:
            if (self.error or self.is_ending) and not had_packages:
                with trio.move_on_after(_REMOVE_TIMEOUT, shield=True):
                    remove = partial(shutil.rmtree, packages, ignore_errors=True)
                    await trio.to_thread.run_sync(remove, abandon_on_cancel=True)
            self.done.set()


class Installer:
    """All installations of a run."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._jobs: dict[Install, Installation] = {}

    def __repr__(self) -> str:
        return f"<Installer: {list(self._jobs.values())}>"

    def join(
        self, install: Install, *, env: Mapping[str, str], on_output: OnOutput, stop_timeout: float
    ) -> Installation:
        """Give the job that installs these packages; a new one, unless one is there or has succeeded."""
        last = self._jobs.get(install)
        if last is not None and not last.error and not last.is_ending:
            return last
        job = Installation(install, env=env, on_output=on_output, stop_timeout=stop_timeout)
        self._jobs[install] = job
        self._run.nursery.start_soon(job.run, self._run, last.done if last is not None else None)
        return job

    def kill(self) -> None:
        """Kill all jobs. Does not wait."""
        for job in self._jobs.values():
            job.kill()
