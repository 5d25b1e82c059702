"""Events for tests: when they happened, and a clock for a bus that goes with trio's."""

from __future__ import annotations

from datetime import UTC, datetime

import trio

__all__ = ["moment", "trio_clock"]


def moment(seconds: float) -> datetime:
    """So many seconds after the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


def trio_clock() -> datetime:
    """Trio's time, as if its clock had begun at the epoch."""
    return moment(trio.current_time())
