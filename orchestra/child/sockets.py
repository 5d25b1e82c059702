"""Listening sockets of this machine: which process holds which, which ports are free, and how we bind ours.

A process's address is read from its sockets: a line in its output may be missing or stale, and Vite ignores
``PORT`` and moves on when 5173 is taken. Scans are cheap but not free: they run only while processes start,
one scan for all of them.

Sockets of other users are invisible, and the system may refuse the scan. Then a message says less, but
nothing wrong. psutil is imported where it is used, so that a run without scans does without it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from math import ceil, inf
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import trio

from orchestra.child import probe, table
from orchestra.child.families import SharedLook
from orchestra.child.lines import clean
from orchestra.config.plan import Address
from orchestra.errors import ConfigError, port_taken
from orchestra.resolving import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

__all__ = [
    "Server",
    "SocketScanner",
    "another",
    "beside",
    "bind",
    "holder",
    "in_order_of_preference",
    "is_free",
    "lan_address",
    "likeliest",
    "scan",
    "servers",
]

# Seconds between scans: they are cheap.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# How often a connection is tried in a pause. A refused one costs 0.1 ms, a scan 20 times as much and more.
_TRIES = 5
# Where `node --inspect` listens: it answers HTTP, but it is no web server.
_DEBUGGER_PORTS = frozenset({9229})
# Connections that wait to be accepted, as a browser opens many at once.
_BACKLOG = 1024
# The machine does not have the address, or not even its family.
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
# Addresses that are listened on together.
_TOGETHER = {LOOPBACK[0]: LOOPBACK, "::": ("::", "0.0.0.0")}  # noqa: S104 - if the user asks for it


def scan(leaders: Collection[int]) -> Mapping[int, frozenset[Address]]:
    """Find the listening sockets of the trees of `leaders`, by addresses that reach them; blocks for some ms.

    A tree without TCP sockets has its unix sockets (which some programs open for internal use).
    """
    entries = _entries()
    trees = {leader: table.tree(entries, leader) for leader in leaders}
    return {leader: _sockets_of(tree) or _sockets_of(tree, "unix") for leader, tree in trees.items()}


class Server(NamedTuple):
    """A process that accepts connections at a port.

    Attributes:
        programs: The names of its program; there may be two: Redis is a link to another file on Debian, and
            newer Nodes call themselves MainThread.
        folder: Its current folder, if that can be read.
    """

    entry: table.Entry
    programs: frozenset[str]
    folder: Path | None


def servers(leader: int, port: int) -> Sequence[Server]:
    """Find the processes of a tree that accept connections at `port` (0: a unix socket); blocks for some ms.

    The parents of such a server often hold its socket, too, to pass it to the next one, and are left out.
    Nothing is found if the process table cannot be read.
    """
    entries = _entries()
    tree = table.tree(entries, leader)
    kind: Literal["tcp", "unix"] = "tcp" if port else "unix"
    holders = {
        entry
        for entry in entries
        if entry.pid in tree and any(found.port == port for found in _sockets_of([entry.pid], kind))
    }
    parents = {entry.parent for entry in holders}
    return [_server(entry) for entry in holders if entry.pid not in parents]


def _server(entry: table.Entry) -> Server:
    import psutil  # noqa: PLC0415

    names, folder = set(), None
    with contextlib.suppress(psutil.Error, OSError):
        process = psutil.Process(entry.pid)
        names.add(process.name())
        names.add(os.path.basename(process.exe()))  # noqa: PTH119 - a name, not a file to touch
        folder = Path(process.cwd())
    return Server(entry, frozenset(names), folder)


def beside(leader: int, port: int) -> tuple[frozenset[Address], bool]:
    """Find the sockets of `leader`'s tree that belong neither to the server at `port` nor to its descendants.

    Also tells whether any other process is there, besides the server's ancestors. Blocks.
    """
    entries = _entries()
    tree = table.tree(entries, leader)
    holders = {pid for pid in tree if any(found.port == port for found in _sockets_of([pid]))}
    others = tree - holders.union(*(table.tree(entries, pid) for pid in holders))
    parents = {each.pid: each.parent for each in entries}
    above = set()
    for pid in holders:
        while (pid := parents.get(pid, 0)) and pid not in above:
            above.add(pid)
    return _sockets_of(others), bool(others - above)


def in_order_of_preference(sockets: Collection[Address], port: int | None) -> list[Address]:
    """Sort sockets by likelihood of being the intended server: its own `port` first, IPv4 before IPv6."""
    wanted = [found for found in sockets if found.port not in _DEBUGGER_PORTS or found.port == port]
    return sorted(wanted, key=lambda found: (found.port != port, found.port, ":" in found.host, found.host))


def likeliest(
    sockets: Collection[Address], port: int | None, *, besides: Collection[Address]
) -> list[Address]:
    """Choose the sockets to probe: those at its own `port`, else all but `besides`, else all."""
    wanted = in_order_of_preference(sockets, port)
    left = [each for each in wanted if each not in besides]
    return [each for each in left if each.port == port] or left or wanted


def is_free(port: int) -> bool:
    """Whether `port` could be bound now, on both loopback addresses, as far as the machine has them."""
    for host in LOOPBACK:
        try:
            _bound(host, port).close()
        except OSError as exc:
            if exc.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
    return True


def another(wanted: int | None, *, besides: int | None) -> int:
    """Return `wanted` if it is free and not in `besides`, otherwise any port that is free now."""
    if wanted is not None and wanted != besides and is_free(wanted):
        return wanted
    while True:
        with _bound(LOOPBACK[0], 0) as trial:
            port = int(trial.getsockname()[1])
        if port != besides and is_free(port):
            return port


def holder(port: int) -> str:
    """Name the process that listens on `port`: ``pid 812 (node vite)``; empty if it is invisible."""
    for pid, held in _all_listening():
        if held == port:
            return f"pid {pid} ({_command_of(pid)})"
    return ""


def lan_address() -> str | None:
    """Give the address by which other machines of the network reach this one; no packet is sent for that."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.connect(("10.254.254.254", 9))
            found = str(trial.getsockname()[0])
        except OSError:
            return None
    return None if found.startswith(("0.", "127.")) else found


def bind(host: str, port: int) -> list[socket.socket]:
    """Listen on `host` and `port`, and, if there is one, on ``::1`` beside ``127.0.0.1``, IPv4 beside ``::``.

    `ConfigError`: the port is taken (the message names the holder), not allowed, or the address is not ours.
    """
    listeners: list[socket.socket] = []
    for each in _TOGETHER.get(host, (host,)):
        try:
            listeners.append(_bound(each, port))
            listeners[-1].listen(_BACKLOG)
        except OSError as exc:
            if exc.errno in _NO_SUCH_ADDRESS and listeners:
                break
            for listener in listeners:
                listener.close()
            raise _cannot_listen(each, port, exc) from exc
        port = listeners[0].getsockname()[1]
    return listeners


class SocketScanner:
    """Scans for the listening sockets of process trees, once for all that wait for theirs."""

    def __init__(self) -> None:
        self._scan = SharedLook(scan, pause=_FIRST_PAUSE)

    def looking_at(
        self,
        leader: int,
        port: int | None = None,
        *,
        is_certain: bool = False,
        longest_pause: float = _LONGEST_PAUSE,
        until_hint: Callable[[], Awaitable[object]] = trio.sleep_forever,
    ) -> Callable[[], Awaitable[frozenset[Address]]]:
        """Return an awaitable function that finds the sockets of a tree: often at first, then less often.

        Args:
            leader: The pid of the tree's first process.
            port: Where its server is expected: a scan follows as soon as it accepts a connection.
            is_certain: It listens there or nowhere, so no scan is needed.
            longest_pause: The longest pause between two scans, in seconds.
            until_hint: Waits for a sign that it listens now.
        """
        pause = _FIRST_PAUSE

        async def newest() -> frozenset[Address]:
            nonlocal pause, port
            expected = None
            is_awaited = is_certain and port is not None
            until = trio.current_time() + pause
            if pause > _LONGEST_PAUSE:
                until = ceil(until / longest_pause) * longest_pause  # All at once: one scan answers them.
            with trio.move_on_at(inf if is_awaited else until):
                interval = pause if is_awaited else pause / _TRIES
                await _until_open(port, interval=interval, until_hint=until_hint)
                expected, port = port, None  # it may be another program's: it hurries us once
            pause = min(pause * 1.2, longest_pause)
            if pause > _LONGEST_PAUSE:
                port = None  # From now on there is no hurry.
            if expected is not None:
                # Usually the first process of the tree is the server; checking one process needs no scan.
                found = await trio.to_thread.run_sync(_sockets_of, [leader])
                if any(each.port == expected for each in found):
                    return found
            return await self._scan.ask(leader) or frozenset()

        return newest


async def _until_open(
    port: int | None, *, interval: float, until_hint: Callable[[], Awaitable[object]]
) -> None:
    """Wait until something accepts a connection at `port`; for ever if there is none."""
    while port is not None:
        for host in LOOPBACK:
            if not await probe.tcp_answer(Address(host, port)):
                return
        with trio.move_on_after(interval):
            await until_hint()
    await trio.sleep_forever()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if port and sys.platform != "linux":
            # On other systems a bind would succeed beside a wildcard listener.
            with socket.socket(family, socket.SOCK_STREAM) as trial:
                if trial.connect_ex((host, port)) == 0:
                    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))  # noqa: TRY301
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _cannot_listen(host: str, port: int, exc: OSError) -> ConfigError:
    where = Address(host, port)
    if exc.errno in _NO_SUCH_ADDRESS:
        text = f"cannot listen on {host}: it is not an address of this machine"
        hint = "Give an address of this machine: --listen 127.0.0.1:8000."
    elif exc.errno == errno.EADDRINUSE:
        text = f"{port_taken(port, holder(port))}: cannot listen on {where}"
        hint = f"Stop it, or choose another address: --listen 127.0.0.1:{_next_free(port + 1)}"
    elif exc.errno == errno.EACCES:
        text = f"not allowed to listen on {where}: ports below 1024 are the system's"
        hint = f"Choose another address: --listen 127.0.0.1:{_next_free(8000)}"
    else:
        text, hint = f"cannot listen on {where}: {exc.strerror}", "Choose another address: --listen."
    return ConfigError(text, hint=hint)


def _next_free(port: int) -> int:
    return next((other for other in range(port, min(port + 100, 65535)) if is_free(other)), 0)


def _entries() -> list[table.Entry]:
    with contextlib.suppress(OSError):
        return list(table.take())
    return []


def _sockets_of(pids: Collection[int], kind: Literal["tcp", "unix"] = "tcp") -> frozenset[Address]:
    import psutil  # noqa: PLC0415

    found = set()
    for pid in pids:
        with contextlib.suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            for each in process.net_connections(kind):
                if kind == "tcp" and each.status == psutil.CONN_LISTEN:
                    found.add(Address(_reachable(each.laddr.ip), each.laddr.port))
                # A client's has no path; one that begins with @ is in no folder.
                elif (
                    kind == "unix"
                    and each.type == socket.SOCK_STREAM
                    and str(each.laddr)[:1] not in ("", "@")
                ):
                    # Relative to the folder of the process when it was bound, most probably the current one.
                    path = os.path.join(process.cwd(), str(each.laddr))  # noqa: PTH118
                    found.add(Address(path, 0, "unix"))
    return frozenset(found)


def _reachable(address: str) -> str:
    import ipaddress  # noqa: PLC0415

    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    if parsed.is_unspecified:
        return "127.0.0.1" if parsed.version == 4 else "::1"
    return str(parsed)


def _all_listening() -> Iterator[tuple[int, int]]:
    """Give (pid, port) of every listening socket that can be seen."""
    import psutil  # noqa: PLC0415

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.pid and connection.laddr:
                yield connection.pid, connection.laddr.port
    except (psutil.Error, OSError):  # macOS gives the whole table to root only
        for pid in psutil.pids():
            for found in _sockets_of([pid]):
                yield pid, found.port


def _command_of(pid: int) -> str:
    import psutil  # noqa: PLC0415

    try:
        command = " ".join(psutil.Process(pid).cmdline())
    except (psutil.Error, OSError):
        return "unknown"
    command = " ".join(clean(command).replace("\x1b", "").split())
    return command if len(command) <= 80 else command[:77] + "..."
