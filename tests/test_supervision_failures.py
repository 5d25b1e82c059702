"""The error of a process is shown when it is known, once, and cleared when the process works again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from orchestra import ProcessPlan, Restart, Role, State
from orchestra.events import ErrorCleared, ErrorShown, Frame
from tests.events_kit import Recorder
from tests.simulation_kit import World, supervised

if TYPE_CHECKING:
    from tests.simulation_kit import Child

API = ProcessPlan(
    name="api", command="serve", env={"PORT": "5000"}, port=5000, ready="http", role=Role.BACKEND
)
WORKER = ProcessPlan(name="worker", command="work", restart_mode="replace", max_quick_failures=0)


def broken(kind: str = "SyntaxError") -> list[str]:
    file = API.cwd / "app.py"
    return [
        "Traceback (most recent call last):",
        f'  File "{file}", line 3, in <module>',
        "    import notes",
        f"{kind}: it is broken",
    ]


class Server:
    """The program of `API`: writes lines, then serves or ends."""

    def __init__(self, world: World) -> None:
        self.lines: list[str] = []
        self.ends_with: int | None = None
        world.programs["serve"] = self._serve

    async def _serve(self, child: Child) -> int:
        await child.say(*self.lines)
        if self.ends_with is not None:
            return self.ends_with
        child.listen()
        await trio.sleep_forever()
        return 0


def shown(recorder: Recorder) -> list[tuple[str, str]]:
    return [(event.error_type, event.message) for event in recorder.of(ErrorShown)]


async def test_a_program_that_is_broken_shows_its_exception(autojump_clock: object) -> None:
    world = World()
    server = Server(world)
    server.lines, server.ends_with = broken(), 1
    async with supervised(world, API) as (_, recorder):
        event = await recorder.until(ErrorShown)
    assert (event.error_type, event.message) == ("SyntaxError", "it is broken")
    assert (event.file, event.line) == (str(API.cwd / "app.py"), 3)
    assert event.frames == (Frame(str(API.cwd / "app.py"), 3, "<module>", "import notes"),)
    assert (event.exit, event.is_fatal) == ("exit code 1", True)
    assert event.last_lines[-1] == "SyntaxError: it is broken"


async def test_what_is_no_file_is_not_the_place(autojump_clock: object) -> None:
    """An import by name, as of Django's `INSTALLED_APPS`, ends in the importer that is frozen into Python."""
    world = World()
    server = Server(world)
    server.ends_with = 1
    server.lines = [
        "Traceback (most recent call last):",
        '  File "/usr/lib/python3.12/site-packages/django/apps/config.py", line 193, in create',
        "    import_module(entry)",
        '  File "<frozen importlib._bootstrap>", line 1324, in _find_and_load_unlocked',
        "ModuleNotFoundError: No module named 'template_partials'",
    ]
    async with supervised(world, API) as (_, recorder):
        event = await recorder.until(ErrorShown)
    assert (event.file, event.line) == ("/usr/lib/python3.12/site-packages/django/apps/config.py", 193)
    assert len(event.frames) == 2


async def test_a_broken_server_that_exits_with_0_shows_its_exception(autojump_clock: object) -> None:
    world = World()
    server = Server(world)
    async with supervised(world, API) as (supervisor, recorder):
        await recorder.until_state("api", State.READY)
        # As Hypercorn's master does when its workers cannot import the application.
        server.lines, server.ends_with = broken(), 0
        await supervisor.restart("api")
        await recorder.until(ErrorShown)
        assert recorder.states("api")[-1] is State.BACKING_OFF
    async with supervised(world, API) as (_, recorder):
        event = await recorder.until(ErrorShown)
        assert (event.error_type, event.exit) == ("SyntaxError", "exit code 0")
        assert recorder.states("api")[-1] is State.BACKING_OFF


async def test_the_same_error_is_shown_once_and_cleared_when_it_is_mended(autojump_clock: object) -> None:
    world = World()
    server = Server(world)
    server.lines, server.ends_with = broken(), 1
    async with supervised(world, API) as (supervisor, recorder):
        await recorder.until_state("api", State.BACKING_OFF, restarts=2)
        assert len(shown(recorder)) == 1
        late = Recorder(supervisor)
        assert shown(late) == shown(recorder)
        assert not recorder.of(ErrorCleared)
        server.lines, server.ends_with = [], None
        await recorder.until(ErrorCleared)


async def test_another_error_replaces_it(autojump_clock: object) -> None:
    world = World()
    server = Server(world)
    server.lines, server.ends_with = broken(), 1
    async with supervised(world, API) as (_, recorder):
        await recorder.until(ErrorShown)
        server.lines = broken("NameError")
        await recorder.until(ErrorShown, lambda event: event.error_type == "NameError")


async def test_an_end_without_an_exception_is_shown_with_its_last_line(autojump_clock: object) -> None:
    world = World()

    async def work(child: Child) -> int:
        await child.say("the queue is not there")
        return 3

    world.programs["work"] = work
    async with supervised(world, WORKER, is_kept_open=True) as (_, recorder):
        event = await recorder.until(ErrorShown)
    assert (event.error_type, event.message, event.file) == ("exit code 3", "the queue is not there", None)


async def test_an_exception_that_a_server_logs_is_not_its_end(autojump_clock: object) -> None:
    world = World()
    Server(world)
    async with supervised(world, API) as (supervisor, recorder):
        await recorder.until_state("api", State.READY)
        (child,) = world.living()
        await child.say(*broken("KeyError"), *broken("KeyError"))
        event = await recorder.until(ErrorShown)
        assert (event.error_type, event.is_fatal, event.exit) == ("KeyError", False, "")
        assert len(shown(recorder)) == 1
        await supervisor.restart("api")
        await recorder.until(ErrorCleared)


async def test_only_so_many_exceptions_that_a_server_logs_are_shown(autojump_clock: object) -> None:
    world = World()
    Server(world)
    async with supervised(world, API) as (_, recorder):
        await recorder.until_state("api", State.READY)
        (child,) = world.living()
        for number in range(10):
            await child.say(*broken(f"Error{number}"))
        await trio.sleep(5)
        await child.say(*broken("KeyError"))
        await recorder.until(ErrorShown, lambda event: event.error_type == "KeyError")
        assert [kind for kind, _ in shown(recorder)] == [*(f"Error{n}" for n in range(5)), "KeyError"]


async def test_an_exception_that_is_an_answer_is_no_error(autojump_clock: object) -> None:
    """Litestar logs those, too, while it debugs: the page has asked for an icon that is not there."""
    world = World()
    Server(world)
    async with supervised(world, API) as (_, recorder):
        await recorder.until_state("api", State.READY)
        (child,) = world.living()
        answer = broken("NotFoundException")
        answer[-1] = "NotFoundException: 404: Not Found"
        await child.say(*answer, *broken("KeyError"))
        assert (await recorder.until(ErrorShown)).error_type == "KeyError"


async def test_a_process_that_completes_has_no_error(autojump_clock: object) -> None:
    world = World()

    async def work(child: Child) -> int:
        await child.say(*broken())
        return 0

    world.programs["work"] = work
    async with supervised(
        world, replace(WORKER, restart=Restart.ALWAYS, max_quick_failures=5), is_kept_open=True
    ) as (_, recorder):
        await recorder.until_state("worker", State.BACKING_OFF)
        assert not shown(recorder)


async def test_a_process_that_is_stopped_shows_none(autojump_clock: object) -> None:
    world = World()
    server = Server(world)
    server.lines, server.ends_with = broken(), 1
    async with supervised(world, API, is_kept_open="always") as (supervisor, recorder):
        await recorder.until(ErrorShown)
        await supervisor.stop("api")
        await recorder.until(ErrorCleared)


async def test_what_a_killed_process_has_written_is_not_the_reason(autojump_clock: object) -> None:
    world = World()
    Server(world)
    async with supervised(world, API) as (_, recorder):
        await recorder.until_state("api", State.READY)
        (child,) = world.living()
        await child.say(*broken("KeyError"), "GET /notes 200")
        child.kill()
        event = await recorder.until(ErrorShown, lambda event: event.is_fatal)
    assert (event.error_type, event.message, event.frames) == ("killed by SIGKILL", "", ())
