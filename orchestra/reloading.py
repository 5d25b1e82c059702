"""What follows when a file is saved: nothing, new styles in the page, a new page, a restart, another plan.

| what has changed                                  | what follows                                       |
|---------------------------------------------------|----------------------------------------------------|
| code                                              | a restart                                          |
| code of a live server that reloads itself         | nothing: the server does it                        |
| a template that the program reads again by itself | the pages of the backend reload                    |
| any other template                                | a restart                                          |
| only styles                                       | they are swapped in the pages                      |
| a file that the plan was made from                | the plan is made again                             |

Before a restart the ``before_restart`` commands run whose inputs have changed, and those that failed the last
time. If one fails, the old process goes on. Files that they write belong to the same change, and so do files
that are saved while they run.

Django's server notices a changed template only within a second: the pages wait for that.

A process that has failed, or waits to be started again, is started at once; one that was stopped is left
alone. A save during a restart leads to another one (`lifecycle`). From the first such restart on, the run
does not end when its processes have failed, as the next save may fix them.

Not here: waiting for changes (`watch`), restarting (`supervision`), pages (`control`).
"""

from __future__ import annotations

import os
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias, assert_never

import trio

from orchestra.events import Event, FilesChanged, PlanChanged, State, StateChanged
from orchestra.supervision.runtime import Phase, run_command
from orchestra.watch.interest import RUN, Changed, Changes, Interest, Kind, interests, is_backend, rules

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from orchestra.config.plan import Plan
    from orchestra.config.schema import BeforeRestart
    from orchestra.control.tabs import Tabs
    from orchestra.supervision.run import Run
    from orchestra.supervision.worker import Worker
    from orchestra.watch.changes import Batch

__all__ = ["Effect", "OnPlanFiles", "Reloading", "effect_of"]

OnPlanFiles: TypeAlias = "Callable[[str], Awaitable[object]]"

# Seconds from the spawn of the processes to the first look at files: processes that start need the CPU more,
# and a short run imports nothing for it. No change is missed by that.
_BEGIN_DELAY = 1.0
# Seconds after which a touch is known at the latest.
_NOTICED_AFTER = 0.05
# The most paths in one `FilesChanged`.
_MOST_PATHS = 20
# Seconds that a command before a restart may take.
_COMMAND_TIMEOUT = 300.0
# Seconds after which changes by such commands are known: a burst, twice.
_SETTLE_TIME = 0.2
# Servers that reload themselves report it at once; they look once a second at most.
_NOTICED_WITHIN = 3.0
# The number of notices about reloading servers, one each: a changed plan may bring others.
_MOST_EXPLAINED = 100
# How often such commands run in a row because their inputs have changed meanwhile: one may write its own.
_MOST_ROUNDS = 3


class Effect(Enum):
    """The effect of changes on one process."""

    NOTHING = "nothing"
    SWAP_STYLES = "styles are swapped"
    RELOAD_PAGES = "pages are loaded again"
    RESTART = "it is restarted"


def effect_of(changes: Changes, *, reloads_itself: bool, is_alive: bool) -> Effect:
    """Decide the effect of changes on a process, which may watch its files itself."""
    kinds = {each.kind for each in changes.files}
    if Kind.CODE in kinds:
        return Effect.NOTHING if reloads_itself and is_alive else Effect.RESTART
    if Kind.TEMPLATE in kinds:
        rereads = reloads_itself or changes.rereads_templates
        return Effect.RELOAD_PAGES if rereads else Effect.RESTART
    return Effect.SWAP_STYLES


class Reloading:
    """Watches the files of a run, and reacts to changes; `replan` gets the changed files of the plan."""

    def __init__(self, plan: Callable[[], Plan], run: Run, *, pages: Tabs, replan: OnPlanFiles) -> None:
        self._plan = plan
        self._run = run
        self._pages = pages
        self._replan = replan
        self._root = os.path.realpath(run.root)
        self._watched: Mapping[str, Interest] = {}
        self._watching = trio.CancelScope()
        self._waiting: dict[str, Changes] = {}  # by process: changes without an effect so far
        self._busy: set[str] = set()
        self._failed: dict[str, set[str]] = {}  # by process: the commands that have failed
        self._changed_at: dict[str, float] = {}  # by process: when something changed last
        # In Unix time: the moment from which the next watch has to look; the start of an unfinished burst.
        self._since = 0.0
        self._burst_began: float | None = None
        self._nursery: trio.Nursery  # exists while `run` runs

    async def run(self, since: float) -> None:
        """Watch files, and react to changes, until cancelled; from `since` on, in Unix time."""
        run, self._since = self._run, since
        async with trio.open_nursery() as self._nursery:
            await run.until(self._has_spawned_all)
            await trio.sleep(_BEGIN_DELAY)
            unsubscribe = run.bus.subscribe(self._see, StateChanged, PlanChanged)
            try:
                while True:
                    before, self._watched = self._watched, self._interests()
                    self._explain()
                    with trio.CancelScope() as self._watching:
                        if self._watched:
                            earlier = self._spawned(self._watched.keys() - before.keys()) if before else {}
                            how = {"since": self._since, "earlier": earlier, "on_batch": self._take}
                            await run.runtime.watch(self._watched, **how)
                        await trio.sleep_forever()
                    self._burst_began = None
                    self._settle()
            finally:
                unsubscribe()

    def _has_spawned_all(self) -> bool:
        return all(
            each.life.spawned_at is not None or each.life.state is not State.STARTING
            for each in self._run.workers.values()
        )

    # --- Which files are watched ---

    def _interests(self) -> Mapping[str, Interest]:
        return interests(self._plan(), [each.life.plan for each in self._run.workers.values()])

    def _see(self, _event: Event) -> None:
        """Watch other files when a process has got its role, or the plan has changed."""
        if self._interests() != self._watched and not self._watching.cancel_called:
            if self._watched:
                # The last touches are lost with this watch: the next one has to find them.
                self._since = self._now() if self._burst_began is None else self._burst_began
            self._watching.cancel()

    def _now(self) -> float:
        return self._run.runtime.now().timestamp() - _NOTICED_AFTER

    def _spawned(self, names: Iterable[str]) -> Mapping[str, float]:
        """Give the start times of the children of watched processes, in Unix time."""
        ages = {
            name: trio.current_time() - at
            for name in names
            if (worker := self._run.workers.get(name)) and (at := worker.life.spawned_at) is not None
        }
        return {name: self._now() - age for name, age in ages.items()}

    def _explain(self) -> None:
        """Emit a notice, once, if a backend reloads itself, with the faster alternative."""
        bus = self._run.bus
        for name, worker in self._run.workers.items():
            plan = worker.life.plan
            if is_backend(plan, self._plan()) and plan.reloader is not None and plan.watch is None:
                text = f"{plan.reloader.word} restarts it when a file is saved: orchestra does not"
                hint, most = plan.reloader.hint, _MOST_EXPLAINED
                bus.notice("reloads-itself", text, level="info", hint=hint, process=name, at_most=most)

    # --- Effects ---

    def _take(self, batch: Batch) -> None:
        text, hint = batch.warning
        if text:
            self._run.bus.notice("watching", text, hint=hint)
        if batch.expected and self._burst_began is None:
            self._burst_began = self._now()
        for name, changes in batch.expected.items():
            worker = self._run.workers.get(name)
            if worker is not None and self._effect(worker, changes) is Effect.RESTART:
                worker.expect_restart()
                self._pages.expected.add(name)
        for name, changes in batch.changes.items():
            if name != RUN:
                paths = sorted(map(self._shown, changes.files[:_MOST_PATHS]))
                self._run.bus.emit(FilesChanged(process=name, paths=tuple(paths)))
            if (worker := self._run.workers.get(name)) is not None:
                worker.changed.update(each.path for each in changes.files)
            self._waiting[name] = _merged(self._waiting.get(name), changes)
            self._changed_at[name] = trio.current_time()
            if name not in self._busy:
                self._busy.add(name)
                self._nursery.start_soon(self._follow, name)
        if not batch.expected:
            self._burst_began = None
            self._settle()

    def _settle(self) -> None:
        for name in self._pages.expected - self._busy:
            self._pages.settle(name, is_restarted=False)

    def _shown(self, changed: Changed) -> str:
        path = os.path.relpath(changed.path, self._root)
        return str(changed.path) if path.startswith("../") else path

    async def _follow(self, name: str) -> None:
        is_restarted = False
        while (changes := self._waiting.pop(name, None)) is not None:
            worker = self._run.workers.get(name)
            if name == RUN:
                await self._replan(", ".join(each.path.name for each in changes.files))
            elif worker is not None and await self._act(worker, changes) and self._run.phase is Phase.RUNNING:
                self._run.keep_open()
                worker.restart()
                is_restarted = True
        self._busy.discard(name)
        self._pages.settle(name, is_restarted=is_restarted)

    def _effect(self, worker: Worker, changes: Changes) -> Effect:
        plan = worker.life.plan
        watches = worker.attempt is not None and worker.attempt.symptoms.watches
        reloads_itself = plan.watch is None and (plan.reloader is not None or watches)
        return effect_of(changes, reloads_itself=reloads_itself, is_alive=worker.life.is_alive)

    async def _act(self, worker: Worker, changes: Changes) -> bool:
        """Carry out the effect on a process; return whether it has to be restarted."""
        plan, state = worker.life.plan, worker.life.state
        match effect := self._effect(worker, changes):
            case Effect.NOTHING if state is State.UNHEALTHY:
                return await self._notices_nothing(worker)
            case Effect.NOTHING:
                pass
            case Effect.RESTART:
                return state is not State.STOPPED and await self._prepare(worker, changes)
            # If the backend is not ready, its pages reload when it is.
            case Effect.RELOAD_PAGES:
                if plan.reloader is not None and plan.watch is None:
                    await trio.sleep(plan.reloader.template_delay)
                if worker.life.state is State.READY:
                    self._pages.reload(f"{changes.files[0].path.name} has changed", trio.current_time())
            case Effect.SWAP_STYLES:
                if state is State.READY:
                    self._pages.swap_styles(sorted({each.path.name for each in changes.files}))
            case _:
                assert_never(effect)
        return False

    async def _notices_nothing(self, worker: Worker) -> bool:
        """Wait for a broken server that reloads itself; return whether it has missed the last save.

        Django's looks at a file that it could not import only from a second later on, and compares from then.
        """
        attempt, name = worker.attempt, worker.life.plan.name
        # Each save restarts the wait.
        while trio.current_time() < (noticed_by := self._changed_at[name] + _NOTICED_WITHIN):  # noqa: ASYNC110
            await trio.sleep_until(noticed_by)
        is_silent = attempt is not None and attempt.symptoms.last_line_at < self._changed_at[name]
        return is_silent and worker.attempt is attempt and worker.life.state is State.UNHEALTHY

    # --- Commands before a restart ---

    async def _prepare(self, worker: Worker, changes: Changes) -> bool:
        """Run the commands before a restart; return whether all of them have succeeded."""
        plan = worker.life.plan
        failed = self._failed.setdefault(plan.name, set())
        always = {each.command for each in plan.before_restart if not each.inputs}
        for _ in range(_MOST_ROUNDS):
            due = failed | always | self._touched(worker, changes)
            always = set()
            if not due:
                break
            for each in plan.before_restart:
                if each.command in due and not await self._run_command(worker, each, failed):
                    return False
            await trio.sleep(_SETTLE_TIME)
            if (more := self._waiting.pop(plan.name, None)) is None:
                break
            changes = more
        return True

    def _touched(self, worker: Worker, changes: Changes) -> set[str]:
        """The commands whose inputs have changed."""
        plan = worker.life.plan
        with_inputs = {each.command: each.inputs for each in plan.before_restart if each.inputs}
        if not with_inputs:
            return set()
        from orchestra.watch.filters import Filter  # noqa: PLC0415 - imported by now, since files are watched

        inputs = Filter({name: rules(plan.cwd, each, Kind.CODE) for name, each in with_inputs.items()})
        return {name for each in changes.files for name in inputs.kinds(str(each.path))}

    async def _run_command(self, worker: Worker, wanted: BeforeRestart, failed: set[str]) -> bool:
        """Run a command; return whether it has succeeded, and show its error if not."""
        plan, command, run = worker.life.plan, wanted.command, self._run
        output, env = worker.output.write, run.environment(plan, plan.port)
        error = f"not done after {_COMMAND_TIMEOUT:g} s"
        with trio.move_on_after(_COMMAND_TIMEOUT):
            error = await run_command(run, plan, command, "before_restart", env=env, on_output=output)
        if error:
            failed.add(command)
            text = f"before_restart `{command}`: {error}"
            hint = "It is not restarted before this succeeds."
            run.bus.notice("before-restart-failed", text, level="error", hint=hint, process=plan.name)
            worker.errors.show_command(command, error)
        else:
            failed.discard(command)
        return not error


def _merged(old: Changes | None, new: Changes) -> Changes:
    if old is None:
        return new
    files = {each.path: each for each in (*old.files, *new.files)}
    return Changes(tuple(files.values()), new.rereads_templates)
