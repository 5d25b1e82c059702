"""Who waits for whom: circles, and the order of stopping."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from orchestra.config.graph import circle, closure, stop_levels

CHAIN = {"db": [], "migrate": ["db"], "api": ["migrate", "db"], "worker": ["api"], "other": []}


def test_dependents_go_first_and_each_as_early_as_it_can() -> None:
    assert stop_levels(CHAIN) == [["worker", "other"], ["api"], ["migrate"], ["db"]]


def test_a_circle_is_found_and_named_whole() -> None:
    assert circle(CHAIN) == []
    assert circle({**CHAIN, "db": ["worker"]}) == ["db", "worker", "api", "migrate", "db"]
    assert circle({"a": ["a"]}) == ["a", "a"]
    with pytest.raises(ValueError, match="each other"):
        stop_levels({"a": ["a"]})


def test_who_is_run_brings_all_that_it_waits_for() -> None:
    assert closure(["api"], CHAIN) == {"api", "migrate", "db"}
    assert closure([], CHAIN) == set()


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    names = [str(number) for number in range(draw(st.integers(0, 8)))]
    return {name: draw(st.lists(st.sampled_from(names), max_size=3, unique=True)) for name in names}


@given(graphs())
def test_there_is_an_order_unless_there_is_a_circle(graph: dict[str, list[str]]) -> None:
    found = circle(graph)
    if found:
        assert found[0] == found[-1]
        assert all(later in graph[earlier] for earlier, later in pairwise(found))
        return
    levels = stop_levels(graph)
    place = {name: index for index, level in enumerate(levels) for name in level}
    assert sorted(place) == sorted(graph)
    assert all(place[name] < place[other] for name, others in graph.items() for other in others)
