"""The example of a pool of Node workers, run as its README says, and its pool alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import trio

from tests.kit import PATIENCE, ROOT, Answer, Run, get, needed

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.real, pytest.mark.ceiling(120)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    needed("node")
    folder = tmp_path_factory.mktemp("ssr")
    shutil.copytree(ROOT / "examples" / "ssr", folder, dirs_exist_ok=True)
    with Run("--listen", "127.0.0.1:0", cwd=folder) as started:
        started.state("web", "ready")
        yield started


def workers(run: Run) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(get(f"{run.url}/health").text)
    return found


def test_pages_are_rendered_by_javascript(run: Run) -> None:
    page = get(f"{run.url}/").text
    assert '<a href="/books/walden">Walden; or, Life in the Woods</a>' in page
    assert "<h1>Le Père Goriot</h1>" in get(f"{run.url}/books/pere-goriot").text
    assert get(f"{run.url}/books/none").status == 404


def test_an_error_of_a_page_is_said_and_does_no_harm(run: Run) -> None:
    before = workers(run)
    broken = get(f"{run.url}/wrong/broken")
    assert (broken.status, "this page cannot be rendered" in broken.text) == (500, True)
    assert workers(run) == before


def test_a_page_outlives_its_worker(run: Run) -> None:
    before = workers(run)
    asking, answers = ask_slowly(run)
    killed = busy(run)
    os.kill(before[killed]["pid"], signal.SIGKILL)
    asking.join(PATIENCE)
    assert [each.status for each in answers] == [200]
    deadline = time.monotonic() + PATIENCE
    while not (now := workers(run))[killed]["answers"]:
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    assert now[killed]["pid"] != before[killed]["pid"]


def ask_slowly(run: Run) -> tuple[threading.Thread, list[Answer]]:
    answers: list[Answer] = []
    asking = threading.Thread(target=lambda: answers.append(get(f"{run.url}/wrong/slow")))
    asking.start()
    return asking, answers


def busy(run: Run) -> str:
    """The worker that has a page under way."""
    deadline = time.monotonic() + PATIENCE
    while not (found := [name for name, each in workers(run).items() if each["pages"]]):
        assert time.monotonic() < deadline
    return found[0]


def test_the_end_lets_a_page_be_finished_and_leaves_no_worker(run: Run) -> None:
    pids = [each["pid"] for each in workers(run).values()]
    asking, answers = ask_slowly(run)
    busy(run)
    assert run.stop() == 130
    asking.join(PATIENCE)
    assert [each.status for each in answers] == [200]
    left = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    assert [each for each in left if each.status() != psutil.STATUS_ZOMBIE] == []


async def test_a_worker_that_is_stuck_is_killed_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    needed("node")
    monkeypatch.syspath_prepend(ROOT / "examples" / "ssr")
    from pool import Pool, RenderError

    pool = Pool(1, timeout=1.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        before = await pool.health()
        with pytest.raises(RenderError, match=r"stuck took more than 1 s; render-1 was restarted"):
            await pool.render("stuck", {})
        pool.timeout = PATIENCE
        assert "<h1>Emma</h1>" in await pool.render("book", {"title": "Emma", "year": 1815})
        assert (await pool.health())["render-1"]["pid"] != before["render-1"]["pid"]
        await pool.supervisor.stop()
    assert not psutil.pid_exists(before["render-1"]["pid"])
