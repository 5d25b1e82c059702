"""Whether the proxy changes a WebSocket: the Autobahn testsuite, directly and through orchestra.

Strategy. Each echo server of `programs/echoes.py` runs twice, by itself and under `orchestra run`. The
testsuite's fuzzing client talks to both, and what it says of each case (`behavior`, `behaviorClose`,
`remoteCloseCode`) is compared. What a server gets wrong does not matter, as long as it gets the same wrong
through the proxy.

Some cases are races: 4.1.5 sends a message and a faulty frame, byte by byte, and whether the server answers
the message first depends on how many bytes it reads at once, which TCP does not promise. A case that differs
is therefore run again, at both addresses, up to `REPETITIONS` times. Once something that was seen at one
address has been seen at the other, too, it counts as "same when repeated"; if that never happens it is
different.

The testsuite runs on Python 2.7 alone. It is installed once, with the versions that are pinned below, into a
folder of the user's cache.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import Failed, Report, checked
from benchmarks.peers import PROGRAMS, Site, installed, serving

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from benchmarks.harness import Options

__all__ = ["autobahn"]

SERVERS = ("websockets", "hypercorn", "aiohttp")

# 8 and 11 do not exist. 9 are large messages; 12 and 13, compression.
ALL_CASES = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.*,10.*,12.*,13.*"
# Without what takes most of the time: one large message, and one case of compression each.
QUICK_CASES = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.1.1,10.*,12.1.1,13.1.1"
# After the first run.
REPETITIONS = 2

# The last release, the autobahn that it is bound to, and of all else versions that support Python 2.7. Of
# what is not pure Python, all but wsaccel have wheels for Linux.
PINS = """
autobahntestsuite==0.8.2 autobahn==0.10.9 txaio==2.1.0 wsaccel==0.6.6 ujson==2.0.3 Twisted==20.3.0
Automat==20.2.0 PyHamcrest==1.10.1 constantly==15.1.0 hyperlink==21.0.0 incremental==21.3.0
zope.interface==5.4.0 klein==20.6.0 Tubes==0.2.0 Werkzeug==1.0.1 Jinja2==2.11.3 MarkupSafe==1.1.1
pyOpenSSL==21.0.0 cryptography==3.3.2 cffi==1.15.1 pycparser==2.21 service-identity==21.1.0
pyasn1==0.4.8 pyasn1-modules==0.2.8 attrs==21.4.0 idna==2.10 six==1.16.0 typing==3.10.0.0
enum34==1.1.10 ipaddress==1.0.23 setuptools==44.1.1 unittest2==1.1.0 traceback2==1.4.0
linecache2==1.0.0 argparse==1.4.0
""".split()  # noqa: SIM905 - a list has a line for each
# What is in the folder includes a namespace package (zope), which PYTHONPATH alone would not find.
PREAMBLE = "import json, site, sys; site.addsitedir({folder!r}); "
WSTEST = "from autobahntestsuite.wstest import run; run()"
# wstest itself waits for ever when there is no case to run.
LIST = (
    "from autobahntestsuite import case, caseset;"
    " cases = caseset.CaseSet("
    "case.CaseSetname, case.CaseBasename, case.Cases, case.CaseCategories, case.CaseSubCategories);"
    " print(json.dumps([name for pattern in sys.argv[1:]"
    " for name in cases.parseSpecCases({'cases': [pattern]}) if name in cases.CasesById]))"
)

# All cases of one server, at two addresses, on a machine that has other things to do.
WSTEST_LIMIT = 3600.0

DIRECT, PROXIED = "direct", "orchestra"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the testsuite says of one case."""

    behavior: str
    behavior_close: str
    remote_close_code: int | None

    def __str__(self) -> str:
        return f"{self.behavior}, closed {self.behavior_close} with {self.remote_close_code}"


@dataclass(frozen=True, slots=True)
class Case:
    """One case and what came of it, run by run; ``None`` is a run that the testsuite says nothing of."""

    name: str
    direct: Sequence[Outcome | None]
    proxied: Sequence[Outcome | None]

    @property
    def is_same(self) -> bool:
        """Whether something was seen at both addresses, be it in different runs: then it is a race."""
        return any(outcome is not None and outcome in self.proxied for outcome in self.direct)

    def __str__(self) -> str:
        pairs = zip(self.direct, self.proxied, strict=True)
        return f"{self.name}: " + "; then ".join(f"{DIRECT} {a}, {PROXIED} {b}" for a, b in pairs)


# By address and case.
Outcomes = dict[str, dict[str, Outcome]]


def _compared(runs: Sequence[Outcomes]) -> list[Case]:
    """Put runs side by side: the first one is of all cases, the others of those that still differed."""
    cases = []
    for name in sorted(runs[0][DIRECT], key=lambda name: [int(part) for part in name.split(".")]):
        those = [run for run in runs if name in run[DIRECT] or name in run[PROXIED]]
        cases.append(
            Case(name, [run[DIRECT].get(name) for run in those], [run[PROXIED].get(name) for run in those])
        )
    return cases


# --- the testsuite ---


class Wstest:
    """The testsuite's command; it is installed first if it is not there yet.

    Raises:
        Failed: Python 2.7 is missing, or cannot install it.
    """

    def __init__(self) -> None:
        self._python2 = _python2()

        def install(folder: Path) -> None:
            options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(folder)]
            checked([self._python2, "-m", "pip", "install", *options, *PINS], env=_environment())

        self._preamble = PREAMBLE.format(folder=str(installed("autobahn", PINS, install)))

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """Return the cases that patterns such as ``1.*`` mean."""
        names: list[str] = json.loads(self._run(LIST, *patterns))
        if not names:
            raise Failed(f"there is no case {', '.join(patterns)}; the groups are {ALL_CASES}")
        return list(dict.fromkeys(names))

    def run(self, addresses: Mapping[str, str], cases: Sequence[str]) -> Outcomes:
        """Run cases at each address.

        Raises:
            Failed: It ended without a report, or left cases out.
        """
        with tempfile.TemporaryDirectory() as folder:
            spec, index = Path(folder, "spec.json"), Path(folder, "index.json")
            asked = {
                "outdir": folder,
                "servers": [{"agent": agent, "url": url} for agent, url in addresses.items()],
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
            spec.write_text(json.dumps(asked), encoding="utf-8")
            said = self._run(WSTEST, "-m", "fuzzingclient", "-s", str(spec), cwd=Path(folder))
            if not index.exists():
                raise Failed(f"wstest ended without a report:\n{said[-2000:]}")
            told = json.loads(index.read_text(encoding="utf-8"))
        if missing := set(cases).difference(*told.values()):
            raise Failed(f"wstest says nothing of {', '.join(sorted(missing))}:\n{said[-2000:]}")
        return {
            agent: {
                name: Outcome(case["behavior"], case["behaviorClose"], case["remoteCloseCode"])
                for name, case in told.get(agent, {}).items()
            }
            for agent in addresses
        }

    def _run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        command = [self._python2, "-W", "ignore", "-c", self._preamble + program, *arguments]
        return checked(command, cwd=cwd, limit=WSTEST_LIMIT, env=_environment())


def _python2() -> str:
    """Return a Python 2.7: on PATH, or one of pyenv's."""
    installations = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv", "versions")
    candidates = [shutil.which("python2.7"), *map(str, installations.glob("2.7*/bin/python2.7"))]
    for found in filter(None, candidates):
        # A shim of pyenv's may be there without a Python behind it.
        asked = subprocess.run([found, "-V"], capture_output=True, check=False, env=_environment())
        if asked.returncode == 0:
            return found
    raise Failed(
        "python2.7 is not installed, and the testsuite runs on nothing else (`pyenv install 2.7.18`)"
    )


def _environment() -> dict[str, str]:
    """Return our environment without what is meant for our own Python."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


# --- the part ---


def _echo(server: str, port: int, folder: Path) -> Sequence[str]:
    del folder
    return [sys.executable, str(PROGRAMS / "echoes.py"), server, str(port)]


def autobahn(options: Options) -> Report:
    """Compare what the testsuite says of each server, directly and through orchestra."""
    report, wstest, rows = Report(), Wstest(), []
    cases = wstest.matching((options.cases or options.pick(ALL_CASES, QUICK_CASES)).split(","))
    for server in SERVERS:
        site = Site(partial(_echo, server), path="/")
        with serving(site, "websocket", options, only=("orchestra",)) as served:
            addresses = {name: f"ws://127.0.0.1:{peer.port}" for name, peer in served.items()}
            runs = [wstest.run(addresses, cases)]
            while again := [case.name for case in _compared(runs) if not case.is_same]:
                if len(runs) > REPETITIONS:
                    break
                print(f"{server}: {len(again)} differ, once more: {', '.join(again)}", flush=True)
                runs.append(wstest.run(addresses, again))
        compared = _compared(runs)
        different = [case for case in compared if not case.is_same]
        repeated = [case for case in compared if case.is_same and len(case.direct) > 1]
        report.failures += [f"{server} {case}" for case in different]
        same = len(compared) - len(different) - len(repeated)
        rows.append([server, *(str(count) for count in (len(compared), same, len(repeated), len(different)))])
        print(", ".join(rows[-1]), *map(str, repeated), sep="\n", flush=True)
    columns = ["", "cases", "same", "same when repeated", "different"]
    report.table("the Autobahn testsuite, directly and through orchestra", columns, rows)
    return report
