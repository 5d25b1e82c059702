"""The second server of a child whose process is both upstreams: where it listens, as long as it does.

Not here: whether there is one (`roles`); the first one, by which the state of the process goes (`attempt`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.lowlevel import ParkingLot

    from orchestra.config.plan import Address
    from orchestra.supervision.run import Run

__all__ = ["SecondServer", "until_gone"]

# The wait after a connection was refused: what listened there may be about to do so again.
_LINGER = 0.3


class SecondServer:
    """Follows the second server of a child.

    Args:
        process: Whose child it is.
        first: Gives where the first one listens, while that is known.
        refused: Where tasks wait until a connection to a server of the child is refused.
        on_move: Called when it has come up or gone.

    Attributes:
        address: Where it listens; ``None``: nowhere, or there is none.
    """

    def __init__(
        self,
        process: str,
        run: Run,
        *,
        first: Callable[[], Address | None],
        refused: ParkingLot,
        on_move: Callable[[], object],
    ) -> None:
        self.address: Address | None = None
        self._process, self._run = process, run
        self._first, self._refused, self._on_move = first, refused, on_move
        self._is_followed = False

    async def follow(self, leader: int) -> None:
        """Find it, if there is or may be one, and again when it has moved."""
        roles = self._run.roles
        if roles is None or self._is_followed:
            return
        self._is_followed = True
        while (found := await roles.ask_beside(self._process, leader=leader, first=self._first)) is not None:
            self._move(found)
            await until_gone(self._run, leader, found, self._refused)
            self._move(None)
        self._is_followed = False

    def _move(self, address: Address | None) -> None:
        self.address = address
        self._on_move()


async def until_gone(run: Run, leader: int, at: Address, refused: ParkingLot) -> None:
    """Wait until a connection is refused, and no process of the tree of `leader` listens there any more."""
    while True:
        await refused.park()
        await trio.sleep(_LINGER)
        found = await run.scanner.looking_at(leader)()
        if not any((each.host, each.port) == (at.host, at.port) for each in found):
            return
