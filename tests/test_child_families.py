"""One scan of the process table for all that ask."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from orchestra.child import table
from orchestra.child.families import Families, family_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

pytestmark = pytest.mark.usefixtures("autojump_clock")


class Scans:
    """Stands for `table.find`; the families in `living` have a member."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[set[table.Family]] = []
        self.living: set[table.Family] = set()
        self.error: OSError | None = None
        monkeypatch.setattr(table, "find", self._find)

    def _find(self, families: Collection[table.Family]) -> Mapping[table.Family, Sequence[table.Entry]]:
        self.asked.append(set(families))
        if self.error is not None:
            raise self.error
        return {family: () for family in families if family in self.living}


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> Scans:
    return Scans(monkeypatch)


async def test_families_that_ask_at_once_share_a_scan_or_two(scans: Scans) -> None:
    families, members = Families(), [table.Family(pid) for pid in range(1, 101)]
    scans.living = set(members[:50])
    answers: dict[table.Family, bool] = {}

    async def ask(family: table.Family) -> None:
        answers[family] = await families.is_alive(family)

    async with trio.open_nursery() as nursery:
        for family in members:
            nursery.start_soon(ask, family)
    assert answers == {family: family in scans.living for family in members}
    assert len(scans.asked) <= 2
    assert set().union(*scans.asked) == set(members)


async def test_a_cancelled_question_leaves_the_others_an_answer(scans: Scans) -> None:
    families, members = Families(), [table.Family(1), table.Family(2)]
    answers = []
    async with trio.open_nursery() as nursery, trio.open_nursery() as cancelled:
        await families._scan._turn.acquire()  # a scan is under way
        cancelled.start_soon(families.is_alive, members[0])
        await trio.testing.wait_all_tasks_blocked()

        async def ask() -> None:
            answers.append(await families.is_alive(members[1]))

        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        cancelled.cancel_scope.cancel()
        families._scan._turn.release()
    assert answers == [False]
    assert len(scans.asked) == 1


async def test_what_cannot_be_known_counts_as_alive(scans: Scans) -> None:
    scans.error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert await Families().is_alive(table.Family(1))


@pytest.mark.parametrize(
    ("env", "marks"),
    [
        ({"ORCHESTRA_RUN": "x"}, set()),
        ({"ORCHESTRA_RUN": "x", "ORCHESTRA_PROCESS": "a.1"}, {b"ORCHESTRA_RUN=x", b"ORCHESTRA_PROCESS=a.1"}),
        (
            {"ORCHESTRA_RUN": "x", "ORCHESTRA_PROCESS": "a.1", "ORCHESTRA_CHILD": "2", "PATH": "/bin"},
            {b"ORCHESTRA_RUN=x", b"ORCHESTRA_PROCESS=a.1", b"ORCHESTRA_CHILD=2"},
        ),
    ],
)
def test_marks_are_those_of_a_run(env: dict[str, str], marks: set[bytes]) -> None:
    assert family_of(1, env).marks == marks
