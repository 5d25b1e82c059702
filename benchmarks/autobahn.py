"""Whether the proxy changes a WebSocket: the Autobahn testsuite, directly and through orchestra.

Strategy. For each echo server of `echoes.py`, one `orchestra run` starts it and proxies it. The testsuite's
fuzzing client then talks to the same process twice, at its own address and at orchestra's, and what it says
of each case (`behavior`, `behaviorClose`, `remoteCloseCode`) is compared. What a server gets wrong is no
concern of ours, as long as it gets the same wrong through the proxy.

Some cases are races: 4.1.5 sends a message and a faulty frame, byte by byte, and whether the server answers
the message first depends on how many bytes it reads at once, which nobody promises. A case that differs is
therefore run again, at both addresses, up to `REPETITIONS` times. Once something that was seen at one address
has been seen at the other, too, it is counted as "same when repeated", and listed with all that was seen; if
that never happens it is different, and the exit code is 1.

The testsuite runs on Python 2.7 alone. It is installed once, with the versions that are pinned below, into a
folder of the user's cache.

    python benchmarks/autobahn.py [--quick] [--python2 PATH] [--cases '1.*,7.*'] [--server NAME]
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Case", "compared", "main"]

HERE = Path(__file__).parent

# The servers of `echoes.py`, and the packages whose versions matter.
SERVERS: Mapping[str, Sequence[str]] = {
    "websockets": ["websockets"],
    "hypercorn": ["hypercorn", "wsproto"],
    "aiohttp": ["aiohttp"],
}

# 8 and 11 do not exist. 9 are large messages; 12 and 13, compression.
ALL_CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*", "12.*", "13.*"]
# Without what takes most of the time: one large message, and one case of compression each.
QUICK_CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.1.1", "10.*", "12.1.1", "13.1.1"]
# After the first run.
REPETITIONS = 2

# The last release, the autobahn that it is bound to, and of all else versions that support Python 2.7. Of
# what is not pure Python, all but wsaccel have wheels for Linux.
PINS = [
    "autobahntestsuite==0.8.2",
    "autobahn==0.10.9",
    "txaio==2.1.0",
    "wsaccel==0.6.6",
    "ujson==2.0.3",
    "Twisted==20.3.0",
    "Automat==20.2.0",
    "PyHamcrest==1.10.1",
    "constantly==15.1.0",
    "hyperlink==21.0.0",
    "incremental==21.3.0",
    "zope.interface==5.4.0",
    "klein==20.6.0",
    "Tubes==0.2.0",
    "Werkzeug==1.0.1",
    "Jinja2==2.11.3",
    "MarkupSafe==1.1.1",
    "pyOpenSSL==21.0.0",
    "cryptography==3.3.2",
    "cffi==1.15.1",
    "pycparser==2.21",
    "service-identity==21.1.0",
    "pyasn1==0.4.8",
    "pyasn1-modules==0.2.8",
    "attrs==21.4.0",
    "idna==2.10",
    "six==1.16.0",
    "typing==3.10.0.0",
    "enum34==1.1.10",
    "ipaddress==1.0.23",
    "setuptools==44.1.1",
    "unittest2==1.1.0",
    "traceback2==1.4.0",
    "linecache2==1.0.0",
    "argparse==1.4.0",
]
# What is in the folder includes a namespace package (zope), which PYTHONPATH alone would not find.
PREAMBLE = "import json, site, sys; site.addsitedir({folder!r}); "
WSTEST = "from autobahntestsuite.wstest import run; run()"
# wstest itself waits for ever when there is no case to run.
LIST = (
    "from autobahntestsuite import case, caseset;"
    " cases = caseset.CaseSet("
    "case.CaseSetname, case.CaseBasename, case.Cases, case.CaseCategories, case.CaseSubCategories);"
    " print(json.dumps(["
    "[name for name in cases.parseSpecCases({'cases': [pattern]}) if name in cases.CasesById]"
    " for pattern in sys.argv[1:]]))"
)

# All cases of one server, at two addresses, on a machine that has other things to do.
WSTEST_LIMIT = 3600.0
# wsaccel is compiled.
INSTALL_LIMIT = 900.0
START_LIMIT = 60.0
STOP_LIMIT = 20.0

DIRECT, PROXIED = "direct", "orchestra"


class Failed(Exception):  # noqa: N818 - the run has, not the program
    """Nothing can be said about the proxy; the message names the next step."""


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

    @property
    def is_same_at_once(self) -> bool:
        """Whether it was in the first run."""
        return self.is_same and len(self.direct) == 1

    def __str__(self) -> str:
        pairs = zip(self.direct, self.proxied, strict=True)
        return f"{self.name}: " + "; then ".join(f"{DIRECT} {a}, {PROXIED} {b}" for a, b in pairs)


Outcomes = dict[str, dict[str, Outcome]]


def compared(runs: Sequence[Outcomes]) -> list[Case]:
    """Put what several runs gave side by side.

    Args:
        runs: By address and case. The first one is of all cases, the others are of those that still differed.

    Returns:
        All cases, in the testsuite's order.
    """
    names = {name for outcomes in runs[0].values() for name in outcomes}
    cases = []
    for name in sorted(names, key=lambda name: [int(part) for part in name.split(".")]):
        those = [run for run in runs if run is runs[0] or name in run[DIRECT] or name in run[PROXIED]]
        cases.append(
            Case(name, [run[DIRECT].get(name) for run in those], [run[PROXIED].get(name) for run in those])
        )
    return cases


# --- The testsuite ---


class Wstest:
    """The testsuite's command.

    Args:
        python2: Python 2.7.
        folder: Where its packages are.
    """

    def __init__(self, python2: str, folder: Path) -> None:
        self._python2 = python2
        self._preamble = PREAMBLE.format(folder=str(folder))

    def matching(self, patterns: Sequence[str]) -> list[str]:
        """Return the cases that patterns such as ``1.*`` mean.

        Raises:
            Failed: One of them means none.
        """
        done = subprocess.run(
            [self._python2, "-W", "ignore", "-c", self._preamble + LIST, *patterns],
            capture_output=True,
            text=True,
            check=False,
            env=_environment(),
        )
        if done.returncode != 0:
            raise Failed(f"wstest cannot list its cases:\n{done.stderr}")
        meant: list[list[str]] = json.loads(done.stdout)
        for pattern, cases in zip(patterns, meant, strict=True):
            if not cases:
                raise Failed(f"there is no case {pattern}; the groups are {', '.join(ALL_CASES)}")
        return list(dict.fromkeys(name for cases in meant for name in cases))

    def run(self, addresses: Mapping[str, str], cases: Sequence[str], reports: Path) -> Outcomes:
        """Run cases at each address; its reports are left in a folder.

        Raises:
            Failed: It ended without a report, or left cases out.
        """
        reports.mkdir(parents=True)
        spec = {
            "outdir": str(reports),
            "servers": [{"agent": agent, "url": url} for agent, url in addresses.items()],
            "cases": cases,
            "exclude-cases": [],
            "exclude-agent-cases": {},
        }
        (reports / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
        command = [self._python2, "-W", "ignore", "-c", self._preamble + WSTEST]
        command += ["-m", "fuzzingclient", "-s", str(reports / "spec.json")]
        log = reports / "wstest.log"
        _run(command, log, limit=WSTEST_LIMIT, cwd=reports)
        index = reports / "index.json"
        if not index.exists():
            raise Failed(f"wstest ended without a report (--reports FOLDER keeps its log):\n{_tail(log)}")
        told = json.loads(index.read_text(encoding="utf-8"))
        missing = set(cases).difference(*told.values())
        if missing:
            raise Failed(f"wstest says nothing of {', '.join(sorted(missing))}:\n{_tail(log)}")
        return {
            agent: {
                name: Outcome(case["behavior"], case["behaviorClose"], case["remoteCloseCode"])
                for name, case in told.get(agent, {}).items()
            }
            for agent in addresses
        }


def installed_wstest(python2: str | None) -> Wstest:
    """Return the testsuite; it is installed first if it is not there yet.

    Raises:
        Failed: Python 2.7 is missing, or cannot install it.
    """
    found = python2 or shutil.which("python2.7")
    if found is None:
        raise Failed("python2.7 is not on PATH; install it (`pyenv install 2.7.18`) or give --python2 PATH")
    try:
        asked = subprocess.run(
            [found, "-c", "import sys, platform; print(platform.platform(), sys.maxunicode, sys.version)"],
            capture_output=True,
            text=True,
            check=True,
            env=_environment(),
        )
        told = asked.stdout
    except (OSError, subprocess.CalledProcessError) as exc:
        why = exc.stderr.strip() if isinstance(exc, subprocess.CalledProcessError) else exc
        raise Failed(f"{found} does not run: {why}\nGive another one: --python2 PATH") from exc
    if "'2.7." not in told:
        raise Failed(f"{found} is not Python 2.7; the testsuite runs on nothing else: give --python2 PATH")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "orchestra-benchmarks"
    # Another Python or other pins, another folder.
    mark = hashlib.sha256(f"{told} {PINS}".encode()).hexdigest()[:12]
    folder = cache / f"autobahntestsuite-{mark}"
    if not folder.exists():
        _install(found, folder)
    return Wstest(found, folder)


def _install(python2: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        print(f"installing the testsuite into {folder} (once; it needs a C compiler) ...", flush=True)
        target, log = Path(place, "packages"), folder.with_suffix(".log")
        options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(target)]
        code = _run([python2, "-m", "pip", "install", *options, *PINS], log, limit=INSTALL_LIMIT)
        if code != 0:
            raise Failed(
                f"pip of {python2} cannot install the testsuite (if it is missing: {python2} -m ensurepip);"
                f" see {log}:\n{_tail(log)}"
            )
        # Whole or not at all: an installation that is interrupted is begun anew.
        try:
            target.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
            # Another run has been faster.


# --- The servers ---


@contextmanager
def orchestrated(server: str, place: Path) -> Iterator[Mapping[str, str]]:
    """Run an echo server under orchestra.

    Args:
        server: One of `SERVERS`.
        place: A folder for the Procfile, the settings and the output.

    Yields:
        The WebSocket's URLs: the server's own, and orchestra's.

    Raises:
        Failed: One of them does not answer.
    """
    own, listen = _free_ports(2)
    (place / "Procfile").write_text(
        f'echo: exec "{sys.executable}" "{HERE / "echoes.py"}" {server} $PORT\n', encoding="utf-8"
    )
    # There is no proxy without a frontend; a WebSocket that is not Vite's never goes there.
    (place / "orchestra.toml").write_text(
        f'[proxy]\nbackend = "echo"\nfrontend = "http://127.0.0.1:{own}"\nlisten = "127.0.0.1:{listen}"\n'
        f"[process.echo]\nport = {own}\n",
        encoding="utf-8",
    )
    log = place / "orchestra.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "orchestra", "run", "Procfile", "--output", "plain"],
            cwd=place,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            _await_answer(process, log, own=own, listen=listen)
            yield {DIRECT: f"ws://127.0.0.1:{own}", PROXIED: f"ws://127.0.0.1:{listen}"}
            if process.poll() is not None:
                raise Failed(f"orchestra ended with {process.returncode} while it was tested:\n{_tail(log)}")
        finally:
            process.terminate()
            try:
                process.wait(STOP_LIMIT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await_answer(process: subprocess.Popen[bytes], log: Path, *, own: int, listen: int) -> None:
    """Wait until the server answers through orchestra; make sure that its own address is not orchestra's."""
    deadline = time.monotonic() + START_LIMIT
    while _upstream(listen) != "backend":
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"the echo server cannot be reached through orchestra:\n{_tail(log)}")
        time.sleep(0.1)
    if _upstream(own) is not None:
        raise Failed(f"port {own} is not the echo server's own: run it again")


def _upstream(port: int) -> str | None:
    """Ask who answers at a port: orchestra's header says so."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_LIMIT)
    try:
        connection.request("GET", "/")
        return connection.getresponse().getheader("X-Orchestra-Upstream")
    except OSError:
        return None
    finally:
        connection.close()


def _free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    return ports


# --- The comparison ---


def test_server(server: str, wstest: Wstest, cases: Sequence[str], place: Path) -> list[Case]:
    """Run cases at both addresses of a server, and those that differ again; all files are left in `place`.

    Raises:
        Failed: There is nothing to compare.
    """
    if place.exists():
        raise Failed(f"{place} is there already; name another folder, or remove it")
    place.mkdir(parents=True)
    with orchestrated(server, place) as addresses:
        runs = [wstest.run(addresses, cases, place / "run-1")]
        while again := [case.name for case in compared(runs) if not case.is_same]:
            if len(runs) > REPETITIONS:
                break
            print(f"{server}: {len(again)} differ, once more: {', '.join(again)}", flush=True)
            runs.append(wstest.run(addresses, again, place / f"run-{len(runs) + 1}"))
    return compared(runs)


def summary(results: Mapping[str, Sequence[Case]]) -> str:
    """Draw the table, which is Markdown, and list what was not the same at once."""
    lines = ["| server | cases | same | same when repeated | different |", "|---|---|---|---|---|"]
    for server, cases in results.items():
        same = sum(case.is_same_at_once for case in cases)
        repeated = sum(case.is_same and not case.is_same_at_once for case in cases)
        what = ", ".join(f"{name} {version(name)}" for name in SERVERS[server])
        lines.append(f"| {what} | {len(cases)} | {same} | {repeated} | {len(cases) - same - repeated} |")
    for heading, is_same in (("Same when repeated:", True), ("Different:", False)):
        listed = [
            f"- {server} {case}"
            for server, cases in results.items()
            for case in cases
            if case.is_same is is_same and not case.is_same_at_once
        ]
        if listed:
            lines += ["", heading, "", *listed]
    return "\n".join(lines)


def _run(command: Sequence[str], log: Path, *, limit: float, cwd: Path | None = None) -> int:
    """Run a command of Python 2.7 into a log; return its exit code.

    Raises:
        Failed: It took too long.
    """
    with log.open("wb") as output:
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                timeout=limit,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise Failed(f"{command[0]} did not end within {limit:g} s:\n{_tail(log)}") from exc
    return done.returncode


def _environment() -> dict[str, str]:
    """Return our environment without what is meant for our own Python."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; return the exit code: 1 if anything differs, 2 if nothing can be said."""
    parser = argparse.ArgumentParser(description="The Autobahn testsuite, directly and through orchestra.")
    parser.add_argument("--python2", metavar="PATH", help="Python 2.7, if it is not on PATH as python2.7")
    parser.add_argument("--cases", metavar="A,B,...", help="only these, for instance 1.*,7.3.1")
    parser.add_argument("--quick", action="store_true", help="leave out most of 9.*, 12.* and 13.*")
    parser.add_argument("--server", action="append", choices=list(SERVERS), help="only this one; repeatable")
    parser.add_argument("--reports", metavar="FOLDER", type=Path, help="keep the testsuite's reports here")
    options = parser.parse_args(arguments)
    # So that orchestra is ended, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    patterns = QUICK_CASES if options.quick else ALL_CASES
    if options.cases:
        patterns = options.cases.split(",")
    results: dict[str, list[Case]] = {}
    try:
        wstest = installed_wstest(options.python2)
        cases = wstest.matching(patterns)
        with tempfile.TemporaryDirectory(prefix="orchestra-autobahn-") as temporary:
            for server in options.server or SERVERS:
                begun = time.monotonic()
                place = Path(options.reports or temporary).absolute() / server
                results[server] = test_server(server, wstest, cases, place)
                print(f"{server}: {time.monotonic() - begun:.0f} s", flush=True)
    except Failed as exc:
        print(f"autobahn: {exc}", file=sys.stderr)
        return 2
    print(f"\norchestra {version('orchestra-dev')}, Python {platform.python_version()}, {PINS[0]}\n")
    print(summary(results))
    return 0 if all(case.is_same for cases in results.values() for case in cases) else 1


if __name__ == "__main__":
    sys.exit(main())
