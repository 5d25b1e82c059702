"""When a watcher counts as alone: what is seen of a process tree, look after look."""

from __future__ import annotations

from typing import Any, TypeAlias

import pytest

from orchestra.child.remains import Member, TreeHistory

Looks: TypeAlias = "list[list[Member]]"

PAUSE = 0.2


def member(pid: int = 1, program: str = "python", **more: Any) -> Member:
    return Member(pid, program, **more)


def parent(**more: Any) -> Member:
    return member(is_last=False, has_child=True, **more)


SERVER = member(2)
STAYS = 5  # looks: more than it takes


ALONE: dict[str, Looks] = {
    "its program has been seen": [[parent(), SERVER], *[[member()]] * STAYS],
    "its program has ended between two looks": [[member()], *[[member(reaped=9)]] * STAYS],
    "it has not waited for its program": [[member(has_child=True)]] * STAYS,
    "it has inotify": [[member(has_inotify=True)]] * STAYS,
    "what has started it does not count": [
        [member(9, "npm", is_last=False, has_child=True), member(has_inotify=True)]
    ]
    * STAYS,
    "it keeps the socket of its programs": [
        [parent(listens=True), SERVER],
        *[[member(listens=True, has_inotify=True)]] * STAYS,
    ],
    "it looks for changes itself": [
        [parent(), SERVER],
        *[[member(cpu=number * PAUSE * 0.05)] for number in range(STAYS)],
    ],
}
NOT_ALONE: dict[str, Looks] = {
    "nothing is known": [[]] * STAYS,
    "a server that comes up": [[member()]] * STAYS,
    "its program runs": [[parent(has_inotify=True), SERVER]] * STAYS,
    "it has just lost it": [[parent(), SERVER], [member()], [member()]],
    "it runs another one now and then": [[parent(), SERVER], [member()], [member()]] * STAYS,
    "it works": [[parent(), SERVER], *[[member(cpu=number * PAUSE * 0.9)] for number in range(STAYS)]],
    "it waits for a database": [[parent(), SERVER], *[[member(is_connected=True)]] * STAYS],
    "a shell that has become the server": [
        [parent(program="sh"), SERVER],
        *[[member(reaped=9)]] * STAYS,
    ],
    "a server that watches its files itself": [[member(has_inotify=True, listens=True)]] * STAYS,
    "two are left": [[member(has_inotify=True), member(2, has_inotify=True)]] * STAYS,
}


def is_alone(looks: Looks) -> bool:
    history = TreeHistory()
    return [history.is_watcher_alone(members, number * PAUSE) for number, members in enumerate(looks)][-1]


@pytest.mark.parametrize("looks", ALONE.values(), ids=ALONE)
def test_a_watcher_is_alone(looks: Looks) -> None:
    assert is_alone(looks)


@pytest.mark.parametrize("looks", NOT_ALONE.values(), ids=NOT_ALONE)
def test_no_watcher_is_alone(looks: Looks) -> None:
    assert not is_alone(looks)


def test_what_has_started_the_servers_is_a_watcher() -> None:
    """It was ready before anything was looked at."""
    history = TreeHistory()
    history.note_parents([1])
    assert [history.is_watcher_alone([member()], now) for now in (0.0, 1.0)] == [False, True]


@pytest.mark.parametrize(("there", "expected"), [((2, 3), True), ((2,), False)])
def test_what_was_there_beside_the_server_is_no_program(there: tuple[int, ...], *, expected: bool) -> None:
    """A manager may have its watcher in a process of its own; what is new may become a server."""
    history = TreeHistory()
    history.note_served([parent(), *map(member, there), member(4)], {4})
    left = [parent(), member(2), member(3)]
    assert [history.is_watcher_alone(left, now) for now in (0.0, 1.0)] == [False, expected]


def test_programs_one_after_the_other_are_a_loop() -> None:
    history = TreeHistory()
    for pid in (2, 2, 3, 3):
        history.is_watcher_alone([parent(), member(pid)], 0.0)
    assert not history.is_loop
    history.is_watcher_alone([parent(), member(4)], 0.0)
    assert history.is_loop
