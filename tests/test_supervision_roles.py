"""Processes whose role shows at run time: what is asked of them, what they become, and when it is settled."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from orchestra import Dependency, Plan, ProcessPlan, ProxyPlan, Restart, Role, State
from orchestra.child.probe import identify
from orchestra.config.plan import UNDECIDED, Address, FromProcess
from orchestra.config.roles import Seen
from orchestra.events import StateChanged
from orchestra.supervision.difference import difference
from tests.simulation_kit import World, running_processes

if TYPE_CHECKING:
    from orchestra.supervision.run import Run
    from tests.events_kit import Recorder
    from tests.simulation_kit import Child

pytestmark = pytest.mark.ceiling(100_000)

BROKEN = ("Traceback (most recent call last):", '  File "app.py", line 1', "SyntaxError: invalid syntax")
BOTH_OPEN = ProxyPlan(backend=UNDECIDED, frontend=UNDECIDED)


def open_process(name: str, port: int) -> ProcessPlan:
    """A process without a role, as the configuration plans it."""
    return ProcessPlan(
        name=name, command=name, env={"PORT": str(port)}, port=port, ready="http", role=Role.UNDECIDED
    )


FE, API, JOB = open_process("fe", 5173), open_process("dev", 5000), open_process("job", 5100)


@pytest.fixture
def world() -> World:
    made = World()
    made.programs["fe"] = partial(shows, Seen.VITE)
    made.programs["dev"] = partial(shows, Seen.HTTP)
    return made


async def shows(seen: Seen, child: Child) -> int:
    child.shows = seen
    await trio.sleep(1)
    child.listen()
    await trio.sleep_forever()
    return 0


async def test_vite_is_the_frontend_and_the_other_server_the_backend(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    decided: list[tuple[str, object]] = []
    async with running_processes(world, API, FE, JOB, proxy=BOTH_OPEN, decided=decided) as (run, recorder):
        ready = await recorder.until_state("fe", State.READY)
        assert (ready.previous, ready.url) == (State.RUNNING, "http://127.0.0.1:5173")
        await recorder.until_state("dev", State.READY)
        assert sorted(decided) == [("backend", "dev"), ("frontend", "fe")]
        roles = [worker.life.plan.role for worker in run.workers.values()]
        assert roles == [Role.BACKEND, Role.FRONTEND, Role.OTHER]
        # It cannot get a role any more, and is not asked.
        asked = len(world.asked)
        world.children[-1].listen(9999)
        await trio.sleep(100)
        assert len(world.asked) == asked
        assert recorder.states("job") == [State.STARTING, State.RUNNING]


async def test_a_process_that_became_the_backend_is_one_from_then_on(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """It is awaited when it is started again, and missed when it ends with 0."""

    async def ends(child: Child) -> int:
        child.listen()
        await trio.sleep(20)
        return 0

    world.programs["dev"] = ends
    async with running_processes(world, API, FE, proxy=BOTH_OPEN) as (_, recorder):
        await recorder.until_state("dev", State.READY, restarts=1)
    assert recorder.states("dev")[:6] == [
        State.STARTING,
        State.RUNNING,
        State.READY,
        State.BACKING_OFF,
        State.STARTING,
        State.READY,
    ]


async def test_a_process_without_a_role_is_still_waited_for_by_its_dependents(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def late(child: Child) -> int:
        await trio.sleep(30)
        child.listen()
        await trio.sleep_forever()
        return 0

    world.programs["job"] = late
    waits = ProcessPlan(name="waits", command="waits", env={}, depends_on=(Dependency("job"),))
    async with running_processes(world, API, FE, JOB, waits, proxy=BOTH_OPEN) as (run, recorder):
        await recorder.until_state("waits", State.RUNNING)
        assert run.workers["job"].life.plan.role is Role.OTHER
        assert recorder.states("job") == [State.STARTING, State.RUNNING, State.READY]


async def test_a_process_that_does_not_listen_is_settled_after_five_seconds(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    decided: list[tuple[str, object]] = []
    async with running_processes(world, API, JOB, proxy=BOTH_OPEN, decided=decided) as (_, recorder):
        started = await recorder.until_state("job", State.RUNNING)
        await recorder.until_state("dev", State.READY)
        assert decided == [("backend", "dev")]
        while len(decided) < 2:  # noqa: ASYNC110 - no event tells
            await trio.sleep(0.1)
        assert decided[1] == ("frontend", None)
        assert trio.current_time() - started.at == pytest.approx(5, abs=1.1)


@pytest.mark.parametrize("code", [0, 1])
async def test_a_process_that_ends_is_settled(
    world: World, code: int, autojump_clock: trio.testing.MockClock
) -> None:
    async def ends(_child: Child) -> int:
        await trio.sleep(2)
        return code

    world.programs["job"] = ends
    decided: list[tuple[str, object]] = []
    async with running_processes(world, API, JOB, proxy=BOTH_OPEN, decided=decided):
        await trio.sleep(2.5)
        assert decided == [("backend", "dev"), ("frontend", None)]


async def test_a_socket_that_has_not_answered_yet_is_waited_for(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def slow(child: Child) -> int:
        child.shows = Seen.NOTHING
        child.listen()
        await trio.sleep(60)
        child.shows = Seen.VITE
        await trio.sleep_forever()
        return 0

    world.programs["fe"] = slow
    decided: list[tuple[str, object]] = []
    async with running_processes(world, API, FE, proxy=BOTH_OPEN, decided=decided) as (_, recorder):
        await recorder.until_state("fe", State.READY)
        assert decided == [("backend", "dev"), ("frontend", "fe")]


async def test_each_socket_is_asked_once_and_a_database_s_never(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def queue(child: Child) -> int:
        child.shows = Seen.SILENT
        child.listen()
        await trio.sleep_forever()
        return 0

    async def database(child: Child) -> int:
        child.program = "mysqld"
        child.listen()
        await trio.sleep_forever()
        return 0

    world.programs |= {"job": queue, "fe": database}
    async with running_processes(world, JOB, FE, proxy=BOTH_OPEN):
        await trio.sleep(100)
    assert len(world.asked) == 1


async def test_of_several_sockets_vite_s_counts(world: World, autojump_clock: trio.testing.MockClock) -> None:
    """Its own may be opened a moment later than that of its WebSocket."""

    async def both(child: Child) -> int:
        child.listen(24678)
        await trio.sleep(0.2)
        child.shows = Seen.VITE
        child.listen()
        await trio.sleep_forever()
        return 0

    world.programs["fe"] = both
    decided: list[tuple[str, object]] = []
    async with running_processes(world, FE, API, proxy=BOTH_OPEN, decided=decided) as (_, recorder):
        assert (await recorder.until_state("fe", State.READY)).port == 5173
        await recorder.until_state("dev", State.READY)
    assert sorted(decided) == [("backend", "dev"), ("frontend", "fe")]


async def test_a_frontend_that_was_found_is_known_by_vite_when_it_is_restarted(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """Its command starts another server, too, which answers first and at a lower port."""

    async def both(child: Child) -> int:
        child.listen(4000)
        await trio.sleep(0.2)
        child.vite.add(5173)
        child.listen(5173)
        await trio.sleep_forever()
        return 0

    world.programs["fe"] = both
    async with running_processes(world, FE, proxy=BOTH_OPEN) as (run, recorder):
        assert (await recorder.until_state("fe", State.READY)).port == 5173
        run.workers["fe"].restart()
        assert (await recorder.until_state("fe", State.READY, restarts=1)).port == 5173


async def test_a_second_vite_is_not_the_backend(world: World, autojump_clock: trio.testing.MockClock) -> None:
    """Storybook beside Vite."""
    decided: list[tuple[str, object]] = []
    proxy = ProxyPlan(backend=UNDECIDED, frontend=FromProcess(name="ui"))
    async with running_processes(world, FE, proxy=proxy, decided=decided) as (_, recorder):
        assert (await recorder.until_state("fe", State.READY)).url == "http://127.0.0.1:5173"
    assert decided == [("backend", None)]


async def test_a_plan_without_an_open_role_asks_nothing(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    plan = ProcessPlan(name="dev", command="dev", env={"PORT": "5000"}, restart=Restart.NEVER)
    async with running_processes(world, plan, proxy=ProxyPlan(backend=None, frontend=FromProcess(name="ui"))):
        await trio.sleep(100)
    assert world.asked == []


async def test_of_several_frontends_the_first_of_the_procfile_counts(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """Although another one is up a moment earlier; one that takes longer is not waited for."""

    async def up_after(seconds: float, child: Child) -> int:
        await trio.sleep(seconds)
        return await shows(Seen.VITE, child)

    world.programs |= {"late": partial(up_after, 4), "first": partial(up_after, 0.7)}
    late, first = open_process("late", 5300), open_process("first", 5200)
    decided: list[tuple[str, object]] = []
    async with running_processes(world, late, first, FE, proxy=BOTH_OPEN, decided=decided) as (_, recorder):
        await recorder.until_state("fe", State.READY)
        while not decided:  # noqa: ASYNC110 - no event tells
            await trio.sleep(0.1)
        assert decided == [("frontend", "first")]
        assert trio.current_time() < 3


# --- What answers at a socket ---

JAVASCRIPT = b"HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\n\r\nexport {}"
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\n\r\n{}"
HTML = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
PAGE = HTML + b'<script type=module src="%s"></script>'


@pytest.mark.parametrize(
    ("answers", "seen", "questions"),
    [
        pytest.param({"/@vite/client": JAVASCRIPT}, Seen.VITE, 1, id="vite"),
        pytest.param(
            {"/": b"HTTP/1.1 302 Found\r\nLocation: /app/\r\n\r\n", "/app/@vite/client": JAVASCRIPT},
            Seen.VITE,
            3,
            id="vite below its base",
        ),
        pytest.param({"/": HTML, "/_nuxt/@vite/client": JAVASCRIPT}, Seen.VITE, 3, id="nuxt"),
        pytest.param(
            {"/": PAGE % b"/ui/@vite/client", "/ui/@vite/client": JAVASCRIPT}, Seen.VITE, 4, id="a page of it"
        ),
        pytest.param({"/": PAGE % b"/_next/static/chunks/main.js"}, Seen.NEXT, 3, id="next"),
        pytest.param({}, Seen.HTTP, 2, id="an API"),
        pytest.param({"/@vite/client": HTML, "/": HTML}, Seen.HTTP, 3, id="a page for everything"),
        pytest.param(
            {"/": PAGE % b"http://localhost:5173/@vite/client"}, Seen.HTTP, 3, id="a page that refers to Vite"
        ),
        pytest.param({"*": b"220 mail.example ESMTP\r\n"}, Seen.SILENT, 1, id="not HTTP"),
        pytest.param({"*": b"HTTP/1.1 426 Upgrade Required\r\n\r\n"}, Seen.SILENT, 1, id="WebSockets alone"),
        pytest.param({"*": b""}, Seen.SILENT, 1, id="hangs up"),
    ],
)
async def test_what_answers_is_told_apart(answers: dict[str, bytes], seen: Seen, questions: int) -> None:
    asked: list[str] = []

    async def answer(stream: trio.SocketStream) -> None:
        async with stream:
            if (request := await stream.receive_some(65536)).startswith(b"\x16"):
                return  # it is asked over TLS, too
            path = request.split()[1].decode()
            asked.append(path)
            if path.endswith("@vite/client") and b"text/html" in request:
                path = "/"  # what accepts pages is given one by Vite 2
            await stream.send_all(answers.get(path, answers.get("*", NOT_FOUND)))

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        socket = Address("127.0.0.1", listeners[0].socket.getsockname()[1])
        assert await identify(socket) == (seen, socket)
        assert len(asked) == questions
        nursery.cancel_scope.cancel()


async def test_a_server_that_does_not_answer_in_time_has_shown_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    listener = trio.socket.socket()
    await listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    with listener:
        socket = Address("127.0.0.1", listener.getsockname()[1])
        assert await identify(socket) == (Seen.NOTHING, socket)


# --- Another plan ---


async def change(run: Run, *plans: ProcessPlan, proxy: ProxyPlan = BOTH_OPEN) -> None:
    plan, old = Plan(processes=plans, proxy=proxy), [worker.life.plan for worker in run.workers.values()]
    newest = {name: worker.newest for name, worker in run.workers.items()}
    assert run.roles is not None
    await run.change(
        plan, difference(Plan(processes=tuple(old)), plan, newest), partial(run.roles.change, plan)
    )


async def test_what_was_found_stays_found_in_another_plan(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    decided: list[tuple[str, object]] = []
    late = open_process("late", 5200)
    world.programs["late"] = partial(shows, Seen.HTTP)
    async with running_processes(world, API, FE, proxy=BOTH_OPEN, decided=decided) as (run, recorder):
        await recorder.until_state("fe", State.READY)
        await recorder.until_state("dev", State.READY)
        before = len(decided)
        await change(run, late, API, FE)
        await recorder.until_state("late", State.RUNNING)
        await trio.sleep(100)
        assert decided[before:] == []
        roles = [worker.life.plan.role for worker in run.workers.values()]
        assert roles == [Role.OTHER, Role.BACKEND, Role.FRONTEND]
        assert [run.workers[name].life.restarts for name in ("dev", "fe")] == [0, 0]


async def test_when_the_backend_goes_another_process_may_be_it(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """One that could not get a role any more is asked once more, and for that started again."""
    decided: list[tuple[str, object]] = []

    async def late(child: Child) -> int:
        await trio.sleep(4)
        child.listen()
        await trio.sleep_forever()
        return 0

    world.programs["job"] = late
    async with running_processes(world, API, FE, JOB, proxy=BOTH_OPEN, decided=decided) as (run, recorder):
        await recorder.until_state("dev", State.READY)
        await recorder.until_state("fe", State.READY)
        before = len(decided)
        await change(run, FE, JOB)
        await recorder.until_state("job", State.READY, restarts=1)
        assert decided[before:] == [("backend", UNDECIDED), ("backend", "job")]
        assert run.workers["fe"].life.restarts == 0


async def until_second(recorder: Recorder, url: str, state: State = State.READY) -> StateChanged:
    return await recorder.until(
        StateChanged, lambda event: (event.process, event.state, event.second_url) == ("dev", state, url)
    )


@pytest.mark.parametrize("first", ["frontend", "backend"])
async def test_a_process_may_be_both_upstreams(
    world: World, first: str, autojump_clock: trio.testing.MockClock
) -> None:
    """``make dev`` starts Vite and the backend; each is found again after a restart, wherever it listens."""
    vite, api = 5173, 8001

    async def starts_both(child: Child) -> int:
        child.beside, child.vite = True, {vite}
        for port in (vite, api) if first == "frontend" else (api, vite):
            await trio.sleep(3)
            child.listen(port)
        await trio.sleep_forever()
        return 0

    world.programs["dev"] = starts_both
    decided: list[tuple[str, object]] = []
    async with running_processes(world, API, proxy=BOTH_OPEN, decided=decided) as (run, recorder):
        urls = [f"http://127.0.0.1:{port}" for port in ((vite, api) if first == "frontend" else (api, vite))]
        both = await until_second(recorder, urls[1])
        assert both.url == urls[0]
        assert set(decided) == {("frontend", "dev"), ("backend", "dev")}
        vite, api = 5174, 8002
        run.workers["dev"].restart()
        assert (await recorder.until_state("dev", State.STOPPING)).second_url is None
        urls = [f"http://127.0.0.1:{port}" for port in ((vite, api) if first == "frontend" else (api, vite))]
        again = await until_second(recorder, urls[1])
        assert again.url == urls[0]


async def test_a_vite_that_is_slower_than_a_server_beside_it_is_the_frontend(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """Such as a mock: the backend is another process, so that this server is no upstream."""

    async def starts_both(child: Child) -> int:
        child.beside, child.vite = True, {5173}
        child.listen(8001)
        await trio.sleep(3)
        child.listen(5173)
        await trio.sleep_forever()
        return 0

    world.programs["dev"] = starts_both
    proxy = ProxyPlan(backend=FromProcess(name="api"), frontend=UNDECIDED)
    async with running_processes(world, API, proxy=proxy) as (_, recorder):
        assert (await recorder.until_state("dev", State.READY)).url == "http://127.0.0.1:5173"


async def test_a_vite_beside_a_backend_that_is_broken_is_served(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def starts_both(child: Child) -> int:
        child.beside, child.vite = True, {5173}
        if len(world.children) == 1:
            child.listen(8001)
            await trio.sleep(3)
        child.listen(5173)
        await trio.sleep_forever()
        return 0

    world.programs["dev"] = starts_both
    async with running_processes(world, API, proxy=BOTH_OPEN) as (run, recorder):
        await until_second(recorder, "http://127.0.0.1:5173")
        run.workers["dev"].restart()
        await until_second(recorder, "http://127.0.0.1:5173", state=State.STARTING)


async def test_a_vite_that_comes_up_after_a_broken_backend_is_not_taken_for_it(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """What the backend has written tells that it is one; it is repaired in the end."""

    async def starts_both(child: Child) -> int:
        child.beside, child.vite = True, {5173}
        await child.say("INFO: Will watch for changes in these directories: ['/x']", *BROKEN)
        await trio.sleep(4)
        child.listen(5173)
        await trio.sleep(10)
        child.listen(8001)
        await trio.sleep_forever()
        return 0

    world.programs["dev"] = starts_both
    decided: list[tuple[str, object]] = []
    async with running_processes(world, API, proxy=BOTH_OPEN, decided=decided) as (_, recorder):
        await until_second(recorder, "http://127.0.0.1:5173", state=State.UNHEALTHY)
        assert decided == [("backend", "dev"), ("frontend", "dev")]
        ready = await until_second(recorder, "http://127.0.0.1:5173")
        assert ready.url == "http://127.0.0.1:8001"


async def test_a_second_server_that_moves_is_found_again(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    async def moves(child: Child) -> int:
        child.beside, child.vite = True, {5173}
        child.listen(5173)
        child.listen(8001)
        await trio.sleep(10)
        child.sockets = {each for each in child.sockets if each.port != 8001}
        run.workers["dev"].attempt.refused.unpark_all()  # type: ignore[union-attr] # there is one
        await trio.sleep(10)
        child.listen(8002)
        await trio.sleep_forever()
        return 0

    world.programs["dev"] = moves
    async with running_processes(world, API, proxy=BOTH_OPEN) as (run, recorder):
        await until_second(recorder, "http://127.0.0.1:8002")
        ready = [each.second_url for each in recorder.of(StateChanged) if each.state is State.READY]
        assert ready == [None, "http://127.0.0.1:8001", None, "http://127.0.0.1:8002"]


async def test_a_socket_that_was_gone_is_asked_again(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """What is there at first may be a check that a port is free."""

    async def tries_first(child: Child) -> int:
        child.shows = Seen.SILENT
        child.listen()
        await trio.sleep(1)
        child.sockets.clear()
        await trio.sleep(1)
        child.shows = Seen.HTTP
        child.listen()
        await trio.sleep_forever()
        return 0

    world.programs["dev"] = tries_first
    async with running_processes(world, API, proxy=BOTH_OPEN) as (_, recorder):
        await recorder.until_state("dev", State.READY)
        assert trio.current_time() < 5


async def test_where_a_frontend_runs_is_known_when_it_was_found(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    """What it serves itself restarts no backend."""

    async def in_a_folder(child: Child) -> int:
        child.folder = Path("/x/web")
        return await shows(Seen.VITE, child)

    world.programs["fe"] = in_a_folder
    async with running_processes(world, API, FE, proxy=BOTH_OPEN) as (run, recorder):
        await recorder.until_state("fe", State.READY)
        assert run.workers["fe"].life.plan.vite_folder == Path("/x/web")
        assert run.workers["dev"].life.plan.vite_folder is None


async def test_where_nothing_else_runs_beside_vite_nothing_is_waited_for(
    world: World, autojump_clock: trio.testing.MockClock
) -> None:
    world.programs["dev"] = partial(shows, Seen.VITE)
    decided: list[tuple[str, object]] = []
    async with running_processes(world, API, proxy=BOTH_OPEN, decided=decided) as (_, recorder):
        await recorder.until_state("dev", State.READY)
        await trio.sleep(0.2)
        assert decided == [("frontend", "dev"), ("backend", None)]
