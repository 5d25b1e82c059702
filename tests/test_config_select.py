"""Which processes are run, how many of each, and in which order they are stopped."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from orchestra.config.schema import ProcessSettings
from orchestra.config.select import Draft, find_cycle, formation, stop_levels
from orchestra.errors import ConfigError


def written(**instances: int) -> list[Draft]:
    return [
        Draft(
            name=name,
            command="run",
            path=Path("Procfile"),
            line=1,
            settings=ProcessSettings(instances=count),
            cwd=Path(),
        )
        for name, count in instances.items()
    ]


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (None, {"web": 1, "worker": 2}),
        ("web=2", {"web": 2, "worker": 2}),
        ("web=2,worker=0", {"web": 2, "worker": 0}),
        ("all=1", {"web": 1, "worker": 1}),
        ("web = 3 , all=0", {"web": 3, "worker": 0}),
        ("web=100", {"web": 100, "worker": 2}),
        ("web=2,", {"web": 2, "worker": 2}),
    ],
)
def test_the_command_line_beats_the_settings(text: str | None, counts: dict[str, int]) -> None:
    assert formation(text, written(web=1, worker=2)) == counts


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "--formation : nothing is not NAME=NUMBER", "Write web=2,worker=0 or all=1."),
        ("web", "--formation web: web is not NAME=NUMBER", "Write web=2,worker=0 or all=1."),
        ("web=", "--formation web=: web= is not NAME=NUMBER", "Write web=2,worker=0 or all=1."),
        ("web=-1", "--formation web=-1: web=-1 is not NAME=NUMBER", "Write web=2,worker=0 or all=1."),
        ("web=٣", "--formation web=٣: web=٣ is not NAME=NUMBER", "Write web=2,worker=0 or all=1."),
        (
            "wbe=1",
            "--formation wbe=1: there is no process wbe",
            "Did you mean web? There are web, worker, all.",
        ),
        ("web=1,web=2", "--formation web=1,web=2: web is in it twice", "Say it once."),
        (
            "web=101",
            "--formation web=101: 101 instances of web are too many",
            "There can be 100 at most.",
        ),
    ],
)
def test_anything_else_is_an_error_with_the_form_that_is_allowed(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        formation(text, written(web=1, worker=1))
    assert (str(caught.value), caught.value.hint) == (message, hint)


@given(st.text(alphabet="abweorkl=,0123456789 \n٣"))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        counts = formation(text, written(web=1, worker=1))
    except ConfigError:
        return
    assert set(counts) == {"web", "worker"}


CHAIN = {"db": [], "migrate": ["db"], "api": ["migrate", "db"], "worker": ["api"], "other": []}


def test_dependents_go_first_and_each_as_early_as_it_can() -> None:
    assert stop_levels(CHAIN) == [["worker", "other"], ["api"], ["migrate"], ["db"]]


def test_a_cycle_is_found_and_named_whole() -> None:
    assert find_cycle(CHAIN) == []
    assert find_cycle({**CHAIN, "db": ["worker"]}) == ["db", "worker", "api", "migrate", "db"]
    assert find_cycle({"a": ["a"]}) == ["a", "a"]
    with pytest.raises(ValueError, match="cycle"):
        stop_levels({"a": ["a"]})


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    names = [str(number) for number in range(draw(st.integers(0, 8)))]
    return {name: draw(st.lists(st.sampled_from(names), max_size=3, unique=True)) for name in names}


@given(graphs())
def test_there_is_an_order_unless_there_is_a_find_cycle(graph: dict[str, list[str]]) -> None:
    found = find_cycle(graph)
    if found:
        assert found[0] == found[-1]
        assert all(later in graph[earlier] for earlier, later in pairwise(found))
        return
    levels = stop_levels(graph)
    place = {name: index for index, level in enumerate(levels) for name in level}
    assert sorted(place) == sorted(graph)
    assert all(place[name] < place[other] for name, others in graph.items() for other in others)
