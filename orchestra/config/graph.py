"""Who waits for whom: whether that can work, and in which order it is taken down again.

Never here: waiting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["circle", "closure", "stop_levels"]


def circle(waits_for: Mapping[str, Sequence[str]]) -> list[str]:
    """Find processes that wait for each other: ``[a, b, a]``; empty if there are none.

    Args:
        waits_for: By name, the names of those that have to be there first. All have to be keys.
    """
    done: set[str] = set()
    for first in waits_for:
        path = [first]
        open_ends = [iter(waits_for[first])]
        while path:
            name = next(open_ends[-1], None)
            if name is None:
                done.add(path.pop())
                open_ends.pop()
            elif name in path:
                return [*path[path.index(name) :], name]
            elif name not in done:
                path.append(name)
                open_ends.append(iter(waits_for[name]))
    return []


def closure(names: Iterable[str], waits_for: Mapping[str, Sequence[str]]) -> set[str]:
    """Give `names` with all that they wait for, and what that waits for."""
    found: set[str] = set()
    unseen = list(names)
    while unseen:
        name = unseen.pop()
        if name not in found:
            found.add(name)
            unseen += waits_for[name]
    return found


def stop_levels(waits_for: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Give the order of stopping: each level may go when nobody of the levels before is left.

    Nobody waits for those of the first level; there must be no circle.
    """
    waited_by: dict[str, list[str]] = {name: [] for name in waits_for}
    for name, others in waits_for.items():
        for other in others:
            waited_by[other].append(name)
    levels: list[list[str]] = []
    left = dict(waited_by)
    while left:
        level = [name for name, dependents in left.items() if not any(each in left for each in dependents)]
        if not level:
            raise ValueError("they wait for each other")
        levels.append(level)
        for name in level:
            del left[name]
    return levels
