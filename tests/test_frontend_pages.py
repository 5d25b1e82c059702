"""The frontend's pages: known from this run or an earlier one, and then not held for the backend."""

from __future__ import annotations

import stat
from pathlib import Path  # noqa: TC003 - pytest reads it
from typing import TYPE_CHECKING

import pytest

from orchestra import Plan, ProcessPlan
from orchestra.config.plan import FromProcess, ProxyPlan
from orchestra.events import RequestHeld, State
from orchestra.proxy.head import ResponseHead
from orchestra.proxy.route import Ask, Availability, Route, Signal
from orchestra.proxy.rules import Router
from orchestra.proxy.server import Extras
from orchestra.remembered import MOST_PAGES, FrontendPages, StoredPages
from tests.proxy_kit import request_head, stage
from tests.test_proxy_relay import NAVIGATES, PAGE, get

if TYPE_CHECKING:
    import trio.testing

    from orchestra.proxy.head import Headers
    from orchestra.proxy.route import Step

READY, HOLD, FAIL, ABSENT = Availability
DOCUMENT: Headers = [(b"Sec-Fetch-Mode", b"navigate"), (b"Sec-Fetch-Dest", b"document")]
FETCH: Headers = [(b"Sec-Fetch-Mode", b"cors"), (b"Sec-Fetch-Dest", b"empty")]
HTML: Headers = [(b"Content-Type", b"text/html")]
ASK_FRONTEND, ASK_BACKEND = Ask("frontend"), Ask("backend")


def router(*known: bytes) -> Router:
    pages = FrontendPages()
    for path in known:
        pages.add(path)
    plan = ProxyPlan(backend=FromProcess(name="api"), frontend=FromProcess(name="vite"))
    return Router(plan, pages=pages)


def first(
    router: Router,
    backend: Availability,
    frontend: Availability = READY,
    *,
    path: bytes = b"/notes",
    headers: Headers = DOCUMENT,
) -> Step:
    return Route(request_head(b"GET", path, headers), router).begin(backend, frontend)


@pytest.mark.parametrize("backend", [HOLD, FAIL])
def test_a_page_of_the_frontend_does_not_wait_for_the_backend(backend: Availability) -> None:
    known = router(b"/notes")
    assert first(known, backend) == ASK_FRONTEND
    assert first(known, backend, path=b"/notes?page=2") == ASK_FRONTEND
    assert first(known, backend, HOLD) is Signal.WAIT
    assert first(known, backend, FAIL) == ASK_BACKEND
    assert first(known, backend, path=b"/other") == ASK_BACKEND
    assert first(known, backend, headers=FETCH) == ASK_BACKEND


def test_a_backend_that_is_ready_is_always_asked() -> None:
    assert first(router(b"/notes"), READY) == ASK_BACKEND


def after(
    router: Router, *answers: ResponseHead, headers: Headers = DOCUMENT, method: bytes = b"GET"
) -> Router:
    route = Route(request_head(method, b"/notes", headers), router)
    route.begin(READY, READY)
    for each in answers:
        route.next(each)
    return router


def test_a_page_is_learned_when_the_frontend_answers_for_the_backend() -> None:
    fell_back = [ResponseHead.of(404, HTML), ResponseHead.of(200, HTML)]
    assert first(after(router(), *fell_back), HOLD) == ASK_FRONTEND
    assert first(after(router(), ResponseHead.of(404, HTML), ResponseHead.of(304, [])), HOLD) == ASK_FRONTEND
    assert first(after(router(), *fell_back, headers=FETCH), HOLD) == ASK_BACKEND
    failed = [ResponseHead.of(404, HTML), ResponseHead.of(500, HTML)]
    assert first(after(router(), *failed), HOLD) == ASK_BACKEND


@pytest.mark.parametrize("status", [200, 204, 302, 403, 500])
def test_a_page_is_the_backends_once_that_has_answered(status: int) -> None:
    known = after(router(b"/notes"), ResponseHead.of(status, HTML))
    assert first(known, HOLD) == ASK_BACKEND
    posted = after(router(b"/notes"), ResponseHead.of(status, HTML), headers=FETCH, method=b"POST")
    assert first(posted, HOLD) == ASK_BACKEND


def test_only_so_many_pages_are_known() -> None:
    pages = FrontendPages()
    for number in range(MOST_PAGES + 1):
        pages.add(b"/%d" % number)
    assert len(pages) == MOST_PAGES
    assert not pages.has(b"/0")
    assert pages.has(b"/1000")


@pytest.fixture
def autojump_clock(clock_of_each_world: trio.testing.MockClock) -> trio.testing.MockClock:
    return clock_of_each_world


async def test_a_page_is_served_while_the_backend_is_broken(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with stage(ready=("vite",), extras=Extras(frontend_pages=_pages(b"/notes"))) as on:
        on.reports("api", State.FAILED)
        client = on.client()
        await client.says(get(b"/notes", NAVIGATES))
        frontend = await on.frontend()
        await frontend.hears_head()
        await frontend.says(PAGE)
        assert b"X-Orchestra-Upstream: frontend" in await client.hears_head()
        assert (await on.finished()).reason == "frontend's page, backend not ready"
        assert not [event for event in on.events if isinstance(event, RequestHeld)]


def _pages(*known: bytes) -> FrontendPages:
    pages = FrontendPages()
    for path in known:
        pages.add(path)
    return pages


# --- from one run to the next ---


@pytest.fixture
def project(tmp_path: Path) -> Plan:
    root = tmp_path / "project"
    root.mkdir()
    (root / "Procfile").write_text("api: serve\n")
    web = root / "web"
    web.mkdir()
    (web / "package-lock.json").write_text("{}")
    processes = (ProcessPlan(name="web", command="vite", cwd=web),)
    return Plan(processes=processes, procfile=root / "Procfile")


def stored(plan: Plan) -> StoredPages:
    assert plan.procfile is not None
    return StoredPages(plan, {"XDG_STATE_HOME": str(plan.procfile.parent.parent / "state")})


def saved(plan: Plan) -> Path:
    pages = stored(plan)
    pages.add(b"/notes")
    pages.save()
    assert plan.procfile is not None
    (file,) = (plan.procfile.parent.parent / "state" / "orchestra").iterdir()
    return file


def test_the_next_run_knows_the_pages(project: Plan) -> None:
    saved(project)
    assert stored(project).has(b"/notes")
    assert not stored(project).has(b"/other")


def test_the_file_is_private_and_has_no_paths_in_it(project: Plan) -> None:
    file = saved(project)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert b"notes" not in file.read_bytes()


@pytest.mark.parametrize(
    "name", ["Procfile", "orchestra.toml", "pyproject.toml", "uv.lock", "web/package-lock.json"]
)
def test_a_project_that_has_changed_is_forgotten(name: str, project: Plan) -> None:
    saved(project)
    assert project.procfile is not None
    (project.procfile.parent / name).write_text("changed")
    assert not stored(project).has(b"/notes")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"project": 1}', b"\xff" * 300_000])
def test_a_file_that_is_damaged_is_no_file(content: bytes, project: Plan) -> None:
    saved(project).write_bytes(content)
    assert len(stored(project)) == 0


def test_a_file_that_is_a_link_is_not_followed(project: Plan, tmp_path: Path) -> None:
    file = saved(project)
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    assert len(stored(project)) == 0


def test_what_cannot_be_written_is_left(project: Plan, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    pages = stored(project)
    pages.add(b"/notes")
    pages.save()
    assert len(stored(project)) == 0
    assert (tmp_path / "state").read_text() == "a file"
