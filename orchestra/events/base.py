"""What all events have."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, TypeAlias

from msgspec import Struct

__all__ = ["Level", "Stamped", "StreamName", "UpstreamName"]

StreamName: TypeAlias = Literal["stdout", "stderr", "pty"]
UpstreamName: TypeAlias = Literal["backend", "frontend", "orchestra"]
Level: TypeAlias = Literal["info", "warning", "error"]

# The time of an event that no bus has stamped yet.
_EPOCH = datetime.fromtimestamp(0, UTC)


class Stamped(Struct, frozen=True, kw_only=True, tag_field="type"):
    """What all events have; the bus sets it.

    Attributes:
        v: The version of the format.
        seq: Counts the events of a run from 1.
        time: When it happened, in UTC.
    """

    v: Literal[1] = 1
    seq: int = 0
    time: datetime = _EPOCH

    @property
    def at(self) -> float:
        """When it happened, in seconds since the epoch."""
        return self.time.timestamp()
