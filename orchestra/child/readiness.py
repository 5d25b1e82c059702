"""Decides when a process is ready: all of its checks run at once, each with one probe in flight.

Strategy. The `SocketScanner` finds sockets by scans that all processes share: often at first, later once a
second, and at once when something listens at the expected port. Each scan is followed by at most one probe. A
line that names the port is a sign that something listens there. Commands are run at the same pace. Lines of
output are passed in as they are written. A check that has passed is not repeated; the process is ready when
all have passed.

A new kind of check: a struct in `config/checks`, a case in `_wait_for` and, if needed, a function in `probe`.

Not here: what follows from readiness (`supervision.lifecycle`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, assert_never

import trio
from msgspec.structs import replace

from orchestra.child import probe, sockets
from orchestra.config.checks import Check, DelayCheck, ExecCheck, HttpCheck, LogCheck, TcpCheck, parse_checks
from orchestra.config.plan import Address, ProcessPlan, Role, Scheme
from orchestra.config.roles import FRONTENDS, Seen
from orchestra.resolving import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from orchestra.child.probe import Answer
    from orchestra.child.sockets import Server, SocketScanner

__all__ = ["Probe", "Readiness"]

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# Seconds that Vite has to come up after another server of its process, as with `concurrently`, has answered.
_VITE_TIMEOUT = 10.0
# The programs that run Vite.
_JAVASCRIPT = frozenset({"bun", "deno", "node"})
# The default check of frontends and backends.
_IMPLIED = HttpCheck()


class Probe(Protocol):
    """One probe of one process; the answer says what was wrong, if anything (see `child/probe`)."""

    async def http_answer(self, at: Address, *, check: HttpCheck = ..., within: float = ...) -> Answer:
        """Send an HTTP request."""

    async def tcp_answer(self, at: Address) -> str:
        """Connect."""

    async def exec_answer(self, command: str, *, cwd: Path, env: Mapping[str, str]) -> str:
        """Run a command."""

    async def identify(self, socket: Address) -> tuple[Seen, Address]:
        """Find out which kind of server answers at a socket."""


class Readiness:
    """The readiness of one child, from its spawn on.

    Args:
        needs_vite: Only Vite's socket counts, or that of another frontend's server.
        avoids_vite: Tells whether Vite's socket must not count, as the process runs it beside its own server.
        servers: Finds the processes of a leader's tree that listen at a port.

    Attributes:
        listening: The address where it listens, with its scheme, once that is known.
        sees_no_socket: A scan has found no listening socket in its tree.
        missing: The error of the last attempt, by check.
    """

    def __init__(
        self,
        plan: ProcessPlan,
        *,
        env: Mapping[str, str],
        port: int | None = None,
        needs_vite: bool = False,
        avoids_vite: Callable[[], bool] | Literal[False] = False,
        probe: Probe = probe,
        servers: Callable[[int, int], Awaitable[Sequence[Server]]],
    ) -> None:
        self._plan = plan
        self._probe = probe
        self._servers = servers
        self._needs_vite = needs_vite
        self._avoids_vite = avoids_vite
        self._answered_at: float | None = None  # by another server than Vite
        self._env = env
        self._port = port
        self.checks = tuple(dict.fromkeys(parse_checks(plan.ready)))
        # Its address has to be found, even if no check needs it: the proxy will speak HTTP to an upstream.
        self._is_upstream = plan.role in (Role.FRONTEND, Role.BACKEND)
        if self._is_upstream and not any(isinstance(each, TcpCheck | HttpCheck) for each in self.checks):
            self.checks = (*self.checks, TcpCheck())
        self._listens_as_told = plan.app is not None  # our own server does
        self.listening: Address | None = None
        self.sees_no_socket = False
        self.missing: dict[Check, str] = {}
        self._port_named = trio.lowlevel.ParkingLot()  # until the next lines with the port
        self._seen = {each: trio.Event() for each in self.checks if isinstance(each, LogCheck)}

    def __repr__(self) -> str:
        return f"<Readiness of {self._plan.name}: {self.in_words() or 'all there'}>"

    def in_words(self) -> str:
        """Describe the checks that have not passed."""
        return "; ".join(self.missing[check] for check in self.checks if check in self.missing)

    def see(self, lines: Sequence[str]) -> None:
        """Take note of lines of output, without colours."""
        if self._port is not None and f":{self._port}" in "\n".join(lines):
            self._port_named.unpark_all()
        for check, event in self._seen.items():
            if not event.is_set() and any(map(check.pattern.search, lines)):
                event.set()

    async def wait(self, leader: int, scanner: SocketScanner) -> None:
        """Wait until all checks have passed."""
        async with trio.open_nursery() as nursery:
            for check in self.checks:
                nursery.start_soon(self._wait_for, check, leader, scanner)

    async def ask_again(self) -> str:
        """Repeat the checks that can be repeated; return the first error, in words."""
        for check in self.checks:
            missing = ""
            if isinstance(check, ExecCheck):
                missing = await self._run(check)
            elif isinstance(check, TcpCheck | HttpCheck) and (at := check.at or self.listening) is not None:
                missing = (await self._ask(check, at)).missing
            if missing:
                return missing
        return ""

    async def _wait_for(self, check: Check, leader: int, scanner: SocketScanner) -> None:
        match check:
            case TcpCheck(at=Address() as at) | HttpCheck(at=Address() as at):
                self.missing[check] = f"nothing answers at {at.url}"
                await self._repeat(check, partial(self._ask_address, check, at))
            case TcpCheck() | HttpCheck():
                self.missing[check] = "it listens nowhere"
                await self._ask_sockets(check, leader, scanner)
            case LogCheck():
                self.missing[check] = f"no line matches {check.pattern.pattern!r}"
                await self._seen[check].wait()
            case ExecCheck():
                self.missing[check] = f"`{check.command}` has not ended yet"
                await self._repeat(check, partial(self._run, check))
            case DelayCheck():
                self.missing[check] = f"{check.seconds:g} s are not over"
                await trio.sleep(check.seconds)
            case _:
                assert_never(check)
        del self.missing[check]

    async def _ask_sockets(self, check: TcpCheck | HttpCheck, leader: int, scanner: SocketScanner) -> None:
        newest_sockets = scanner.looking_at(
            leader,
            self._port,
            is_certain=self._listens_as_told,
            until_hint=self._port_named.park,
        )
        unfit: set[Address] = set()
        # Frontends that render on the server have unix sockets for themselves.
        wants_unix = self._plan.role is not Role.FRONTEND
        while True:
            found = [each for each in await newest_sockets() if wants_unix or each.scheme != "unix"]
            self.sees_no_socket = not found
            likely = sockets.likeliest(found, self._port, besides=unfit)
            for socket in likely:
                if isinstance(check, HttpCheck):
                    self.missing[check] = f"{socket.place} is open, HTTP does not answer"
                answer = await self._ask(check, socket, within=probe.HTTP_TIMEOUT / len(likely))
                if answer.is_unfit:
                    unfit.add(socket)
                if not answer.missing and await self._is_own(socket, leader):
                    self.listening = answer.at
                    return
                self.missing[check] = answer.missing or "only another server that it has started answers"
            # Sockets of containers and of other users are invisible: then its own port is tried, and those
            # that its command names; only for an explicit check, because another program may answer there.
            ports = (self._port, *self._plan.named_ports) if not found and check != _IMPLIED else ()
            for at in (Address(host, port) for port in ports if port for host in LOOPBACK):
                if not (unseen := await self._ask(check, at)).missing:
                    self.listening = unseen.at
                    return

    async def _is_own(self, socket: Address, leader: int) -> bool:
        if self._listens_as_told and socket.port == self._port:
            return True
        if self._needs_vite:
            return await self._is_vite(socket)
        if self._avoids_vite and self._avoids_vite():
            return (await self._probe.identify(socket))[0] not in FRONTENDS
        found = await self._servers(leader, socket.port) if self._plan.is_python_server else ()
        return not any(_JAVASCRIPT & each.programs for each in found)

    async def _is_vite(self, socket: Address) -> bool:
        """Whether the socket is Vite's, or Vite's time is over; the command may start other servers."""
        if (await self._probe.identify(socket))[0] in FRONTENDS:
            return True
        now = trio.current_time()
        self._answered_at = self._answered_at or now
        return now - self._answered_at >= _VITE_TIMEOUT

    async def _repeat(self, check: Check, ask: Callable[[], Awaitable[str]]) -> None:
        """Repeat a probe, at growing intervals, until nothing is missing."""
        pause = _FIRST_PAUSE
        while missing := await ask():
            self.missing[check] = missing
            await trio.sleep(pause)
            pause = min(pause * 1.2, _LONGEST_PAUSE)

    async def _ask_address(self, check: TcpCheck | HttpCheck, at: Address) -> str:
        answer = await self._ask(check, at)
        if answer.missing:
            return f"{at.url}: {answer.missing}"
        self.listening = self.listening or answer.at
        return ""

    async def _ask(
        self, check: TcpCheck | HttpCheck, at: Address, *, within: float = probe.HTTP_TIMEOUT
    ) -> Answer:
        if isinstance(check, HttpCheck):
            return await self._probe.http_answer(at, check=check, within=within)
        scheme: Scheme = "http" if self._is_upstream else "tcp"  # about others nothing is known
        seen_at = at if at.scheme == "unix" else replace(at, scheme=scheme)
        return probe.Answer(await self._probe.tcp_answer(at), seen_at)

    async def _run(self, check: ExecCheck) -> str:
        return await self._probe.exec_answer(
            self._plan.in_shell(check.command), cwd=self._plan.cwd, env=self._env
        )
