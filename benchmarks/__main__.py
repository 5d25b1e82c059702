"""Measure orchestra beside what it is compared with.

    python -m benchmarks [PART ...] [--quick] [--rounds N] [--seconds S] [--peers A,B] [--cases A,B]

Without a part, everything. What each part has found is kept in the user's cache, and `RESULTS.md` is written
from what was kept: a part that is run again replaces its own results only.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from typing import TYPE_CHECKING

from benchmarks import (
    autobahn,
    files,
    limits,
    page,
    rates,
    restarts,
    results,
    runners,
    saves,
    screens,
    soak,
    transfer,
)
from benchmarks.harness import Failed, Options
from benchmarks.peers import PEERS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.harness import Report

PARTS: Mapping[str, Callable[[Options], Report]] = {
    "http": rates.http,
    "page": page.page,
    "bodies": transfer.bodies,
    "websocket": transfer.websocket,
    "streams": transfer.streams,
    "soak": soak.soak,
    "lines": runners.lines,
    "dashboard": screens.dashboard,
    "start": runners.start,
    "memory": runners.memory,
    "stop": runners.stop,
    "saves": saves.saves,
    "restarts": restarts.restarts,
    "files": files.files,
    "limits": limits.limits,
    "autobahn": autobahn.autobahn,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run parts; return 0 if all were measured and what they promise was kept, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument(
        "--quick", action="store_true", help="short rounds, to see that it works; nothing is kept"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each peer is measured")
    parser.add_argument("--seconds", type=float, metavar="S", help="how long the soak lasts (600)")
    parser.add_argument("--peers", default="", metavar="A,B", help="only these, for instance orchestra,nginx")
    parser.add_argument(
        "--cases", default="", metavar="A,B", help="of the Autobahn testsuite, for instance 1.*,7.3.1"
    )
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS)}")
    peers = set(filter(None, given.peers.split(",")))
    if unknown := peers - set(PEERS):
        parser.error(f"there is no peer {', '.join(sorted(unknown))}; the peers are {', '.join(PEERS)}")
    options = Options(
        is_quick=given.quick,
        rounds=given.rounds,
        seconds=given.seconds,
        peers=frozenset(peers),
        cases=given.cases,
    )
    # So that everything that was started is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    is_fine = True
    for name in given.parts or PARTS:
        begun = time.monotonic()
        print(f"## {name}\n", flush=True)
        try:
            report = PARTS[name](options)
        except Failed as exc:
            print(f"{name} was not measured: {exc}", file=sys.stderr, flush=True)
            is_fine = False
            continue
        for failure in report.failures:
            print(f"NOT KEPT: {failure}", flush=True)
        print(f"({name} took {time.monotonic() - begun:.0f} s)\n", flush=True)
        is_fine = is_fine and not report.failures
        if not options.is_quick:
            results.keep(name, report)
            results.write(list(PARTS))
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
