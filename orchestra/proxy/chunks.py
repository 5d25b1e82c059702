"""Is a chunked body framed as RFC 9112 7.1 says, to the byte?

Strategy. h11 reads chunks, but it takes bare line feeds, folded lines and control bytes in trailers, and
control bytes in chunk extensions. `ChunkJudge` watches the bytes go by before h11 gets them: sizes are
followed, data is skipped, lines are judged like those of a head. It holds nothing but a line that is not
complete yet.

Never here: what becomes of the body.
"""

from __future__ import annotations

import re
from enum import Enum, auto

from orchestra.proxy.message import BadMessage, judge_trailer

__all__ = ["ChunkJudge"]

# 15 hexadecimal digits are below 2**63.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?")


class _At(Enum):
    """What comes next."""

    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()
    END = auto()


class ChunkJudge:
    """Watches one chunked body go by, in pieces of any size.

    Args:
        max_line: Bytes that one line, and all trailers together, may have.
    """

    __slots__ = ("_at", "_left", "_line", "_max_line", "_trailers")

    def __init__(self, *, max_line: int = 65536) -> None:
        self._max_line = max_line
        self._at = _At.SIZE
        self._left = 0
        self._line = bytearray()
        self._trailers = 0

    def feed(self, data: bytes) -> None:
        """Watch `data` go by; what follows the body is not looked at.

        Raises:
            BadMessage: It is not strictly what RFC 9112 calls a chunked body.
        """
        position, end = 0, len(data)
        while position < end and self._at is not _At.END:
            if self._at is _At.DATA:
                step = min(self._left, end - position)
                position += step
                self._left -= step
                if not self._left:
                    self._at = _At.DATA_END
                continue
            line_end = data.find(b"\n", position) + 1
            self._line += data[position : line_end or end]
            if len(self._line) + self._trailers > self._max_line:
                raise BadMessage("a line of a chunked body is too long")
            if not line_end:
                return
            position = line_end
            if not self._line.endswith(b"\r\n"):
                raise BadMessage("a line of a chunked body ends without CR LF")
            line = bytes(self._line[:-2])
            self._line.clear()
            self._judge(line)

    def _judge(self, line: bytes) -> None:
        match self._at:
            case _At.SIZE:
                found = _SIZE_LINE.fullmatch(line)
                if found is None:
                    raise BadMessage("illegal size of a chunk")
                self._left = int(found[1], 16)
                self._at = _At.DATA if self._left else _At.TRAILER
            case _At.DATA_END:
                if line:
                    raise BadMessage("a chunk is longer than its size says")
                self._at = _At.SIZE
            case _:
                if not line:
                    self._at = _At.END
                    return
                self._trailers += len(line)
                judge_trailer(line)
