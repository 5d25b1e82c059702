"""What follows when files change: of simulated processes, whose changes the test makes up."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from orchestra import Plan, ProcessPlan, Supervisor
from orchestra.bus import Bus
from orchestra.config.plan import Role
from orchestra.config.reloaders import Reloader
from orchestra.config.schema import BeforeRestart, ReloadSettings
from orchestra.control.tabs import Tabs
from orchestra.events import ErrorCleared, ErrorShown, FilesChanged, Notice, OutputLine, PlanChanged, State
from orchestra.reloading import Effect, Reloading, effect_of
from orchestra.supervision.lifecycle import Sign
from orchestra.supervision.runtime import Phase
from orchestra.watch.interest import RUN, Changed, Changes, Kind
from tests.events_kit import Recorder
from tests.simulation_kit import World, running_processes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from orchestra.supervision.run import Run
    from tests.simulation_kit import Child

CODE, TEMPLATE, STYLE = Kind.CODE, Kind.TEMPLATE, Kind.STYLE
STARTING, RUNNING, READY = State.STARTING, State.RUNNING, State.READY


# --- The decision ---


@pytest.mark.parametrize(
    ("kinds", "rereads", "reloads_itself", "is_alive", "effect"),
    [
        ([CODE], False, False, True, Effect.RESTART),
        ([CODE, TEMPLATE, STYLE], True, False, True, Effect.RESTART),
        ([CODE], False, True, True, Effect.NOTHING),
        ([CODE], False, True, False, Effect.RESTART),
        ([TEMPLATE], False, False, True, Effect.RESTART),
        ([TEMPLATE], True, False, True, Effect.RELOAD_PAGES),
        ([TEMPLATE], False, True, True, Effect.RELOAD_PAGES),
        ([TEMPLATE, STYLE], True, False, True, Effect.RELOAD_PAGES),
        ([STYLE, STYLE], False, False, True, Effect.SWAP_STYLES),
    ],
)
def test_what_has_changed_decides_what_follows(
    kinds: list[Kind],
    rereads: bool,  # noqa: FBT001
    reloads_itself: bool,  # noqa: FBT001
    is_alive: bool,  # noqa: FBT001
    effect: Effect,
) -> None:
    changes = Changes(tuple(Changed(Path(str(kind)), kind) for kind in kinds), rereads)
    assert effect_of(changes, reloads_itself=reloads_itself, is_alive=is_alive) is effect


# --- What follows ---


class Pages(Tabs):
    """Takes orders to pages."""

    def __init__(self) -> None:
        super().__init__(ReloadSettings(), token="", is_backend="api".__eq__, emit=Bus().emit)
        self.orders: list[str] = []
        self.held: list[str] = []

    def reload(self, reason: str, now: float, *, everywhere: bool = False) -> int:
        self.orders.append(f"reload: {reason}")
        return super().reload(reason, now, everywhere=everywhere)

    def swap_styles(self, names: Sequence[str]) -> int:
        self.orders.append(f"styles: {', '.join(names)}")
        return super().swap_styles(names)

    def settle(self, process: str, *, is_restarted: bool) -> None:
        super().settle(process, is_restarted=is_restarted)
        self.held.append(f"{process} is {'restarted' if is_restarted else 'as it was'}")


class Reloaded:
    """A run whose files can change."""

    def __init__(self, world: World, plan: Plan, run: Run, recorder: Recorder, pages: Pages) -> None:
        self.world = world
        self.plan = plan
        self.run = run
        self.recorder = recorder
        self.pages = pages
        self.replanned: list[str] = []

    async def replan(self, reason: str) -> None:
        await trio.sleep(1)
        self.replanned.append(reason)

    def state(self, name: str = "api") -> State:
        return self.run.workers[name].life.state

    async def until_quiet(self) -> list[State]:
        """Wait until everything has followed; give the states of the backend since its start."""
        await trio.sleep(5)
        return self.recorder.states("api")


@asynccontextmanager
async def reloading(world: World, *processes: ProcessPlan, file: str = "") -> AsyncIterator[Reloaded]:
    async with running_processes(world, *processes) as (run, recorder), trio.open_nursery() as nursery:
        pages = Pages()
        plan = Plan(processes=processes, files=(Path.cwd() / file,) if file else ())
        found = Reloaded(world, plan, run, recorder, pages)
        reload = Reloading(lambda: found.plan, run, pages=pages, replan=found.replan)
        nursery.start_soon(reload.run, 0.0)
        await trio.sleep(2)
        yield found
        nursery.cancel_scope.cancel()


async def _serve(child: Child) -> int | None:
    await trio.sleep(0.1)
    child.listen()
    await trio.sleep_forever()
    return None


def backend(**more: Any) -> ProcessPlan:
    given = {"port": 5000, "ready": "http", "role": Role.BACKEND}
    return ProcessPlan(name="api", command="serve", **{**given, **more})


@pytest.fixture
def world() -> World:
    world = World()
    world.programs["serve"] = _serve
    return world


async def test_code_restarts_its_process_and_no_other(autojump_clock: object, world: World) -> None:
    async with reloading(world, backend(), ProcessPlan(name="worker", command="work")) as on:
        world.change("api", "app.py", "notes/views.py")
        assert await on.until_quiet() == [STARTING, READY, State.STOPPING, State.WAITING, STARTING, READY]
        assert on.recorder.states("worker") == [STARTING, RUNNING]
        (told,) = on.recorder.of(FilesChanged)
        assert (told.process, told.paths) == ("api", ("app.py", "notes/views.py"))
        assert on.pages.orders == []


@pytest.mark.parametrize("prefix", ["", "cache"])
async def test_only_bytecode_of_what_has_changed_is_removed(
    autojump_clock: object, world: World, tmp_path: Path, prefix: str
) -> None:
    """The names are those of PEP 3147, PEP 488 and pytest; ``PYTHONPYCACHEPREFIX`` puts them elsewhere."""
    env = {"PORT": "5000", **({"PYTHONPYCACHEPREFIX": str(tmp_path / prefix)} if prefix else {})}
    folder = tmp_path / prefix / tmp_path.relative_to("/") if prefix else tmp_path / "__pycache__"
    folder.mkdir(parents=True)
    tags = ("cpython-311", "cpython-311.opt-1", "pypy310", "cpython-311-pytest-9.2.0")
    stale = [f"[a].{tag}.pyc" for tag in tags]
    others = [
        "[a].b.cpython-311.opt-1.pyc",
        "[a].b.cpython-311.pyc",
        "a.cpython-311.pyc",
        "page.cpython-311.pyc",
    ]
    for name in (*stale, *others):
        (folder / name).touch()
    too_long = f"{tmp_path}/{'x' * 300}/b.py"
    async with reloading(world, backend(env=env)) as on:
        world.change("api", too_long, f"{tmp_path}/[a].py", f"{tmp_path}/page.html")
        await on.until_quiet()
    assert sorted(each.name for each in folder.iterdir()) == others


async def test_a_process_is_watched_when_it_is_found_to_be_the_backend(
    autojump_clock: object, world: World
) -> None:
    async with reloading(world, backend(role=Role.UNDECIDED)) as on:
        assert world.watched == []
        on.run.workers["api"].take_role(Role.BACKEND)
        await trio.sleep(3)
        assert world.watched == []
        on.run.workers["api"].restart()  # a change of its state
        await trio.sleep(3)
        assert [list(each) for each in world.watched] == [["api"]]


async def test_a_run_waits_for_the_save_that_mends_it(autojump_clock: object, world: World) -> None:
    """Its only process is broken by a save and has failed for good: without that, the run would be over."""

    async def broken(child: Child) -> int:
        await child.say("SyntaxError: invalid syntax")
        return 1

    async with reloading(world, backend(max_quick_failures=2)) as on:
        world.programs["serve"] = broken
        world.change("api", "app.py")
        await on.run.until(lambda: on.state() is State.FAILED)
        await trio.sleep(1)
        assert on.run.phase is Phase.RUNNING
        world.programs["serve"] = _serve
        world.change("api", "app.py")
        assert (await on.until_quiet())[-1] is READY


async def test_ten_saves_are_one_start_of_the_newest(autojump_clock: object, world: World) -> None:
    """The process that starts when a save comes is out of date: another one takes its place."""
    async with reloading(world, backend()) as on:
        for _ in range(10):
            world.change("api", "app.py")
            await trio.sleep(0.02)
        states = await on.until_quiet()
        assert states.count(READY) == 2
        assert len(world.living()) == 1


async def test_pages_wait_for_what_is_being_saved(autojump_clock: object, world: World) -> None:
    """A child that becomes ready while a newer one is likely to come reloads no page."""
    async with reloading(world, backend(), ProcessPlan(name="job", command="j", watch=("**/*.x",))) as on:
        for _ in range(2):
            world.touch("api", "app.py")
            assert on.pages.expected == {"api"}
            world.change_nothing()
        world.touch("api", "app.py")
        world.change("api", "app.py")
        assert on.pages.expected == {"api"}
        await on.until_quiet()
        assert on.pages.held == ["api is as it was", "api is as it was", "api is restarted"]
        on.pages.held.clear()
        world.touch("api", "app.py")
        world.change("job", "a.x")
        assert on.pages.held == ["api is as it was"]
        assert not on.pages.expected


async def test_a_save_during_a_restart_leads_to_one_more(autojump_clock: object, world: World) -> None:
    async with reloading(world, backend(stop_timeout=2.0)) as on:
        world.children[0].heeds = False  # its stop takes 2 s
        world.change("api", "app.py")
        for _ in range(3):
            await trio.sleep(0.5)
            assert on.state() is State.STOPPING
            world.change("api", "app.py")
        assert (await on.until_quiet()).count(STARTING) == 2  # nothing had read the file before it was saved
        world.change("api", "app.py")
        await trio.sleep(0.05)
        assert on.state() is STARTING
        world.change("api", "app.py")
        assert (await on.until_quiet()).count(STARTING) == 4


@pytest.mark.parametrize("quick_failures", [0, 5])
async def test_a_save_starts_what_has_failed_at_once(
    autojump_clock: object, world: World, quick_failures: int
) -> None:
    async def fail(_child: Child) -> int | None:
        await trio.lowlevel.checkpoint()
        return 1

    world.programs["serve"] = fail
    async with reloading(
        world, backend(max_quick_failures=quick_failures), ProcessPlan(name="b", command="b")
    ) as on:
        assert on.state() is (State.BACKING_OFF if quick_failures else State.FAILED)
        world.programs["serve"] = _serve
        world.change("api", "app.py")
        await trio.sleep(0.3)
        assert on.state() is READY


async def test_a_save_leaves_what_was_stopped_alone(autojump_clock: object, world: World) -> None:
    async with reloading(world, backend(), ProcessPlan(name="b", command="b")) as on:
        on.run.workers["api"].stop()
        await trio.sleep(1)
        world.change("api", "app.py")
        assert (await on.until_quiet())[-1] is State.STOPPED


async def test_templates_and_styles_go_to_the_pages(autojump_clock: object, world: World) -> None:
    async with reloading(world, backend()) as on:
        world.change("api", "page.html", kind=TEMPLATE, rereads=True)
        await trio.sleep(1)
        world.change("api", "b.css", "static/a.css", kind=STYLE)
        assert await on.until_quiet() == [STARTING, READY]
        assert on.pages.orders == ["reload: page.html has changed", "styles: a.css, b.css"]


async def test_pages_of_a_backend_that_starts_are_left_to_its_readiness(
    autojump_clock: object, world: World
) -> None:
    async with reloading(world, backend()) as on:
        world.change("api", "app.py")
        await trio.sleep(0.05)
        world.change("api", "page.html", kind=TEMPLATE, rereads=True)
        world.change("api", "a.css", kind=STYLE)
        await on.until_quiet()
        assert on.pages.orders == []


async def test_a_server_that_reloads_itself_is_left_to_do_so_and_that_is_said_once(
    autojump_clock: object, world: World
) -> None:
    reloader = Reloader("--reload", "Delete --reload from its command.")
    async with reloading(world, backend(reloader=reloader)) as on:
        world.change("api", "app.py")
        world.change("api", "page.html", kind=TEMPLATE)
        assert await on.until_quiet() == [STARTING, READY]
        (notice,) = [each for each in on.recorder.of(Notice) if each.code == "reloads-itself"]
        assert (notice.level, notice.hint) == ("info", reloader.hint)


async def test_pages_wait_for_a_server_that_notices_templates_late(
    autojump_clock: object, world: World
) -> None:
    """Django's reloader looks once a second; a page that is loaded again before that is the old one."""
    async with reloading(world, backend(reloader=Reloader("runserver", template_delay=1.5))) as on:
        world.change("api", "page.html", kind=TEMPLATE)
        await trio.sleep(1.4)
        assert on.pages.orders == []
        await trio.sleep(0.2)
        assert on.pages.orders == ["reload: page.html has changed"]


async def test_one_whose_output_shows_that_it_reloads_itself_too(
    autojump_clock: object, world: World
) -> None:
    async def serve(child: Child) -> int | None:
        await child.say(" * Restarting with stat")
        return await _serve(child)

    world.programs["serve"] = serve
    async with reloading(world, backend()) as on:
        world.change("api", "app.py")
        assert await on.until_quiet() == [STARTING, READY]


@pytest.mark.parametrize("notices", [True, False])
async def test_one_that_is_broken_is_restarted_if_it_does_not_notice_what_is_saved(
    autojump_clock: object, world: World, *, notices: bool
) -> None:
    """Django's server first looks at a file that it could not import a second after that."""

    noticed = trio.Event()

    async def broken(child: Child) -> int | None:
        await child.say("Watching for file changes with StatReloader")
        await child.say("Traceback (most recent call last):")
        await child.say("SyntaxError: invalid syntax")
        await noticed.wait()
        await child.say("app.py changed, reloading.")
        child.listen()
        await trio.sleep_forever()
        return None

    world.programs["serve"] = broken
    async with reloading(world, backend()) as on:
        await on.run.until(lambda: on.state() is State.UNHEALTHY)
        world.programs["serve"] = _serve
        world.change("api", "app.py")
        await trio.sleep(2)
        world.change("api", "app.py")
        await trio.sleep(2)
        assert on.state() is State.UNHEALTHY  # the last save may be noticed yet
        if notices:
            noticed.set()
        await trio.sleep(5)
        assert on.state() is READY
        assert (State.STOPPING in on.recorder.states("api")) is not notices


async def test_but_not_if_the_settings_have_it_watched(autojump_clock: object, world: World) -> None:
    async with reloading(world, backend(reloader=Reloader("--reload"), watch=True)) as on:
        world.change("api", "app.py")
        assert (await on.until_quiet()).count(READY) == 2
        assert "reloads-itself" not in on.recorder.notices()


async def test_files_of_the_plan_have_it_made_again(autojump_clock: object, world: World) -> None:
    async with reloading(world, backend(), file="Procfile") as on:
        assert RUN in world.watched[0]
        for _ in range(5):
            world.change(RUN, "Procfile", kind=Kind.PLAN)
            await trio.sleep(0.1)
        assert await on.until_quiet() == [STARTING, READY]
        assert on.replanned == ["Procfile"] * 2  # one more for what was saved during the first


async def test_what_the_watching_has_to_say_is_told(autojump_clock: object, world: World) -> None:
    async with reloading(world, backend()) as on:
        world.warn("files are looked at each second", "a hint")
        assert on.recorder.notices() == ["watching"]


async def test_another_plan_has_other_files_watched(autojump_clock: object, world: World) -> None:
    async with reloading(world, backend()) as on:
        on.plan = Plan(processes=on.plan.processes, files=(Path.cwd() / "Procfile",))
        on.run.bus.emit(PlanChanged(reason="", processes=("api",), started=(), stopped=(), restarted=()))
        await trio.sleep(1)
        assert [list(each) for each in world.watched] == [["api"], [RUN, "api"]]


@pytest.mark.parametrize("is_told", [False, True])
async def test_what_is_touched_when_other_files_are_watched_is_found(
    autojump_clock: object, world: World, *, is_told: bool
) -> None:
    """The watching that has seen it is over before the burst is."""
    async with reloading(world, backend()) as on:
        touched = on.run.runtime.now().timestamp()
        world.touch("api", "app.py")
        if is_told:
            world.change_nothing()
        await trio.sleep(1)
        on.plan = Plan(processes=on.plan.processes, files=(Path.cwd() / "Procfile",))
        on.run.bus.emit(PlanChanged(reason="", processes=("api",), started=(), stopped=(), restarted=()))
        await trio.sleep(1)
        assert (world.watched_since[-1] > touched) is is_told


# --- Commands before a restart ---


class Command:
    """A command that is run before restarts.

    Attributes:
        runs: When it was run.
        code: What it returns.
    """

    def __init__(self, world: World, name: str, *, inputs: tuple[str, ...] = (), takes: float = 0.0) -> None:
        self.setting = BeforeRestart(command=name, inputs=inputs)
        self.runs: list[float] = []
        self.code = 0
        self.writes: str | None = None
        self._world = world
        self._takes = takes
        world.programs[name] = self._run

    async def _run(self, child: Child) -> int | None:
        self.runs.append(trio.current_time())
        assert child.env["ORCHESTRA_PROCESS"] == "api:before_restart"
        await child.say(f"{self.setting.command} at work")
        await trio.sleep(self._takes)
        if self.writes is not None:
            self._world.change("api", self.writes)
        return self.code


async def test_a_command_is_run_if_its_inputs_have_changed(autojump_clock: object, world: World) -> None:
    css = Command(world, "make css", inputs=("css/*.scss",))
    always = Command(world, "make all")
    async with reloading(world, backend(before_restart=(css.setting, always.setting))) as on:
        world.change("api", "app.py")
        await on.until_quiet()
        assert (len(css.runs), len(always.runs)) == (0, 1)
        world.change("api", "css/app.scss")
        await on.until_quiet()
        assert (len(css.runs), len(always.runs)) == (1, 2)
        assert on.recorder.states("api").count(READY) == 3
        assert on.recorder.output("api") == ["make all at work", "make css at work", "make all at work"]


async def test_the_old_process_goes_on_while_a_command_runs(autojump_clock: object, world: World) -> None:
    command = Command(world, "compile", takes=3.0)
    async with reloading(world, backend(before_restart=(command.setting,))) as on:
        world.change("api", "app.py")
        await trio.sleep(2)
        assert on.state() is READY
        assert (await on.until_quiet()).count(READY) == 2


async def test_if_a_command_fails_the_old_process_goes_on_and_that_is_shown(
    autojump_clock: object, world: World
) -> None:
    command = Command(world, "compile", inputs=("*.proto",))
    command.code = 2
    async with reloading(world, backend(before_restart=(command.setting,))) as on:
        world.change("api", "a.proto")
        assert await on.until_quiet() == [STARTING, READY]
        notice = await on.recorder.until_notice("before-restart-failed")
        assert "`compile`: exit code 2" in notice.text
        (error,) = on.recorder.of(ErrorShown)
        # Every page shows it: it is not one that a request has caused.
        assert (error.process, error.last_lines, error.is_fatal) == ("api", ("compile at work",), True)
        # It is run again with the next change, whatever that is, for what it makes is still missing.
        command.code = 0
        world.change("api", "app.py")
        assert (await on.until_quiet()).count(READY) == 2
        assert len(on.recorder.of(ErrorCleared)) == 1
        world.change("api", "app.py")
        await on.until_quiet()
        assert len(command.runs) == 2


async def test_what_a_command_writes_is_part_of_the_same_change(autojump_clock: object, world: World) -> None:
    command = Command(world, "protoc", inputs=("*.proto",))
    command.writes = "a_pb2.py"
    async with reloading(world, backend(before_restart=(command.setting,))) as on:
        world.change("api", "a.proto")
        assert (await on.until_quiet()).count(READY) == 2
        assert len(command.runs) == 1


async def test_a_command_that_changes_its_own_inputs_is_not_run_for_ever(
    autojump_clock: object, world: World
) -> None:
    command = Command(world, "format", inputs=("*.py",))
    command.writes = "app.py"
    async with reloading(world, backend(before_restart=(command.setting,))) as on:
        world.change("api", "app.py")
        await on.until_quiet()
        assert len(command.runs) == 3


@pytest.mark.ceiling(1000)
async def test_a_command_that_does_not_end_is_given_up(autojump_clock: object, world: World) -> None:
    command = Command(world, "hang", takes=10_000.0)
    async with reloading(world, backend(before_restart=(command.setting,))) as on:
        world.change("api", "app.py")
        await trio.sleep(400)
        assert "not done after 300 s" in (await on.recorder.until_notice("before-restart-failed")).text
        assert len(world.living()) == 1


async def test_a_command_ends_with_the_run(autojump_clock: object, world: World) -> None:
    command = Command(world, "hang", takes=10_000.0)
    supervisor = Supervisor(
        Plan(processes=(backend(before_restart=(command.setting,)),)), runtime=world.runtime(), reloads=True
    )
    recorder = Recorder(supervisor)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await recorder.until_state("api", READY)
        await trio.sleep(2)
        world.change("api", "app.py")
        await recorder.until(OutputLine)
        await supervisor.stop()
    assert world.living() == []
    assert recorder.states("api")[-1] is State.STOPPED


# --- Whether anything is watched ---


async def test_a_supervisor_watches_only_if_it_is_asked_to(autojump_clock: object, world: World) -> None:
    for reloads, watched in ((False, 0), (True, 1)):
        supervisor = Supervisor(Plan(processes=(backend(),)), runtime=world.runtime(), reloads=reloads)
        async with trio.open_nursery() as nursery:
            await nursery.start(supervisor.run)
            await trio.sleep(3)
            await supervisor.stop()
        assert len(world.watched) == watched


async def test_nothing_is_watched_if_nothing_is_to_be(autojump_clock: object, world: World) -> None:
    async with reloading(world, backend(watch=False)):
        assert world.watched == []


async def test_a_process_that_turns_out_to_be_the_backend_is_watched_from_its_spawn_on(
    autojump_clock: object, world: World
) -> None:
    """Other files were watched by then; what was saved meanwhile is newer than what it runs."""
    other = ProcessPlan(name="other", command="runs", env={})
    async with reloading(world, backend(), other) as on:
        began = on.run.runtime.now().timestamp()
        await trio.sleep(10)
        on.run.workers["other"].take_role(Role.BACKEND)
        on.run.workers["other"].handle(Sign.READY)
        await trio.sleep(1)
        assert [list(each) for each in world.watched_earlier] == [[], ["other"]]
        assert world.watched_earlier[-1]["other"] < began < world.watched_since[-1]
