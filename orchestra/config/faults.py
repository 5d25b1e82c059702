"""All that is wrong at once, or the first of it: whoever reads a user's files reports here.

A run wants to stop at the first fault, `orchestra check` wants to see all of them. So what can go wrong on
its own is done inside of `caught`, and is left out if it was wrong.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Faults"]


class Faults:
    """Collects faults.

    Args:
        are_kept: Go on after each; otherwise the first one is raised.

    Attributes:
        found: In the order in which they were found.
    """

    def __init__(self, *, are_kept: bool = False) -> None:
        self._are_kept = are_kept
        self.found: list[ConfigError] = []

    def __repr__(self) -> str:
        return f"<Faults: {len(self.found)}>"

    def add(self, fault: ConfigError) -> None:
        """Take note of a fault, or raise it."""
        if not self._are_kept:
            raise fault
        self.found.append(fault)

    @contextmanager
    def caught(self) -> Iterator[None]:
        """Do something that may go wrong; if it does, the rest of the block is skipped."""
        try:
            yield
        except ConfigError as exc:
            if not self._are_kept:
                raise
            self.found.append(exc)
