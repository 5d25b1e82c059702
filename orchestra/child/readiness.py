"""When is a process ready? All of its checks are pursued at once, each with one question in flight.

Strategy. Sockets are found by the `SocketScanner`, which looks for all processes together, often at first and
once a second in the end; each look is followed by at most one question. Commands are asked at the same pace.
Lines are handed in as they are written. A check that has passed has passed; when all have, the process is
ready.

What is still missing is known at any time, in words: it is what a user needs when nothing happens.

Never here: what follows from it (`lifecycle.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, assert_never

import trio

from orchestra.child import probe, sockets
from orchestra.child.sockets import Listening
from orchestra.config.checks import (
    DelayCheck,
    ExecCheck,
    HttpCheck,
    LogCheck,
    TcpCheck,
    parse_checks,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from orchestra.child.sockets import SocketScanner
    from orchestra.config.checks import Check
    from orchestra.config.plan import ProcessPlan

__all__ = ["Probe", "Readiness"]

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# What frontends and backends are asked unless somebody says otherwise.
_IMPLIED = HttpCheck()


class Probe(Protocol):
    """One question to one process; the answer is what was wrong, or an empty string (see `child/probe`)."""

    async def http_answer(self, host: str, port: int, *, check: HttpCheck = ..., within: float = ...) -> str:
        """Ask over HTTP."""
        ...

    async def tcp_answer(self, host: str, port: int) -> str:
        """Connect."""
        ...

    async def exec_answer(self, command: str, *, cwd: Path, env: Mapping[str, str]) -> str:
        """Run a command."""
        ...


class Readiness:
    """The readiness of one child, from its spawn on.

    Args:
        plan: Whose child it is.
        env: The child's environment, for commands.
        port: What its ``PORT`` says.
        needs_address: Where it listens has to be known, whatever its checks are.
        probe: Asks the questions.

    Attributes:
        listening: Where it listens, once that has been found.
        missing: By check, what its last attempt lacked.
    """

    def __init__(
        self,
        plan: ProcessPlan,
        *,
        env: Mapping[str, str],
        port: int | None = None,
        needs_address: bool = False,
        probe: Probe = probe,
    ) -> None:
        self._plan = plan
        self._probe = probe
        self._env = env
        self._port = port
        self.checks = tuple(dict.fromkeys(parse_checks(plan.ready)))
        if needs_address and not any(isinstance(each, TcpCheck | HttpCheck) for each in self.checks):
            self.checks = (*self.checks, TcpCheck())
        self.listening: Listening | None = None
        self.missing: dict[Check, str] = {}
        self._seen = {each: trio.Event() for each in self.checks if isinstance(each, LogCheck)}

    def __repr__(self) -> str:
        return f"<Readiness of {self._plan.name}: {self.in_words() or 'all there'}>"

    def in_words(self) -> str:
        """Say what is missing."""
        return "; ".join(self.missing[check] for check in self.checks if check in self.missing)

    @property
    def reads(self) -> bool:
        """Whether it wants to see what is written."""
        return any(not event.is_set() for event in self._seen.values())

    def see(self, lines: Iterable[str]) -> None:
        """Take note of lines of output, without colours."""
        lines = list(lines)
        for check, event in self._seen.items():
            if not event.is_set() and any(check.pattern.search(line) for line in lines):
                event.set()

    async def wait(self, leader: int, scanner: SocketScanner) -> None:
        """Wait until all checks have passed.

        Args:
            leader: The pid of the child.
            scanner: Looks for sockets.
        """
        async with trio.open_nursery() as nursery:
            for check in self.checks:
                nursery.start_soon(self._pursue, check, leader, scanner)

    async def ask_again(self) -> str:
        """Ask once more what can be asked again; return what was missing, in words."""
        for check in self.checks:
            lacking = ""
            if isinstance(check, HttpCheck) and self.listening is not None:
                lacking = await self._probe.http_answer(self.listening.host, self.listening.port, check=check)
            elif isinstance(check, TcpCheck) and self.listening is not None:
                lacking = await self._probe.tcp_answer(self.listening.host, self.listening.port)
            elif isinstance(check, ExecCheck):
                lacking = await self._probe.exec_answer(check.command, cwd=self._plan.cwd, env=self._env)
            if lacking:
                return lacking
        return ""

    async def _pursue(self, check: Check, leader: int, scanner: SocketScanner) -> None:
        match check:
            case TcpCheck() | HttpCheck():
                self.missing[check] = "it listens nowhere"
                await self._ask_sockets(check, leader, scanner)
            case LogCheck():
                self.missing[check] = f"no line matches {check.pattern.pattern!r}"
                await self._seen[check].wait()
            case ExecCheck():
                self.missing[check] = f"`{check.command}` has not ended yet"
                await self._ask_command(check)
            case DelayCheck():
                self.missing[check] = f"{check.seconds:g} s are not over"
                await trio.sleep(check.seconds)
            case _:
                assert_never(check)
        del self.missing[check]

    async def _ask_sockets(self, check: TcpCheck | HttpCheck, leader: int, scanner: SocketScanner) -> None:
        async with scanner.looking_at(leader) as newest_sockets:
            while True:
                found = sockets.in_order_of_preference(await newest_sockets(), self._port)
                for candidate in found:
                    if isinstance(check, HttpCheck):
                        self.missing[check] = f"port {candidate.port} is open, HTTP does not answer"
                        within = probe.HTTP_TIMEOUT / len(found)
                        lacking = await self._probe.http_answer(
                            candidate.host, candidate.port, check=check, within=within
                        )
                        if lacking:
                            self.missing[check] = lacking
                            continue
                    self.listening = candidate
                    return
                if not found and await self._is_answered_out_of_sight(check):
                    return

    async def _is_answered_out_of_sight(self, check: TcpCheck | HttpCheck) -> bool:
        """Ask its own port although no socket is seen: a container's, or another user's, never is.

        Only for a check that somebody has written down: at the port, a stranger may answer.
        """
        if self._port is None or check == _IMPLIED:
            return False
        for host in sockets.LOOPBACK:
            if isinstance(check, HttpCheck):
                lacking = await self._probe.http_answer(host, self._port, check=check)
            else:
                lacking = await self._probe.tcp_answer(host, self._port)
            if not lacking:
                self.listening = Listening(host, self._port)
                return True
        return False

    async def _ask_command(self, check: ExecCheck) -> None:
        pause = _FIRST_PAUSE
        while lacking := await self._probe.exec_answer(check.command, cwd=self._plan.cwd, env=self._env):
            self.missing[check] = lacking
            await trio.sleep(pause)
            pause = min(pause * 1.2, _LONGEST_PAUSE)
