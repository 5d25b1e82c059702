"""A loud program with a known text: run as a script it writes it, imported it says what that was."""

from __future__ import annotations

import hashlib
import random
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Every so many lines it pauses in the middle of one, for longer than it takes to call that a prompt.
PAUSE_EVERY = 15_000
PAUSE = 0.15


def lines(name: str, count: int) -> Iterator[str]:
    """The text: blank lines, blanks at both ends, other alphabets, what looks like a margin, long lines."""
    fate = random.Random(name)
    for number in range(count):
        kind = fate.randrange(20)
        if kind == 0:
            yield ""
        elif kind == 1:
            yield f"  {number} blanks at both ends  "
        elif kind == 2:
            yield f"{number} naïve ✓ 語 | {name} | "
        elif kind == 3 and number % 7 == 0:
            yield f"{number} " + "long " * 400
        else:
            yield f"{name} line {number} {'x' * (number % 60)}"


def digest(text: Iterable[str]) -> tuple[int, str]:
    """How many lines, and what they add up to."""
    count, sum_ = 0, hashlib.sha256()
    for line in text:
        count += 1
        sum_.update(line.encode() + b"\n")
    return count, sum_.hexdigest()


def main() -> None:
    name, count = sys.argv[1], int(sys.argv[2])
    out = sys.stdout.buffer
    batch: list[bytes] = []
    for number, line in enumerate(lines(name, count)):
        data = line.encode()
        batch.append(data)
        if number and number % PAUSE_EVERY == 0 and len(data) > 1:
            batch[-1] = data[: len(data) // 2]
            out.write(b"\n".join(batch))
            out.flush()
            time.sleep(PAUSE)
            batch = [data[len(data) // 2 :]]
        elif len(batch) == 100:
            out.write(b"\n".join(batch) + b"\n")
            batch.clear()
    out.write(b"\n".join(batch))  # the last line has no end
    out.flush()


if __name__ == "__main__":
    main()
