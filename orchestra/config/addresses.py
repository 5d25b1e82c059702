"""Addresses: where the proxy listens, and which port each process gets.

Every process of the Procfile has a place of its own among the ports, run or not, so that it has the same one
whichever others are run. A port that is taken is passed over, with a note; one that the user has fixed can
only be had as it is. A port that a command takes by itself is given to no other process.

The proxy never breaks a run that worked without it: an address that was not asked for gives way to a command
that listens there, and to other programs. One that was asked for does not: then that is an error that names
the line to write.

Not here: binding. Whether a port is free, and what holds it, comes in as functions.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from typing import TYPE_CHECKING

from orchestra.config.plan import Note
from orchestra.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from orchestra.config.files import Problems
    from orchestra.config.select import Written
    from orchestra.config.toml import SettingsFile

__all__ = [
    "BLOCKED_PORTS",
    "DEFAULT_BASE_PORT",
    "DEFAULT_LISTEN",
    "asked_address",
    "assign",
    "base_port",
    "check_address",
    "first_free",
    "parse_listen",
]

DEFAULT_LISTEN = ("127.0.0.1", 8000)
# The convention of foreman and its successors: 5000, 5100, 5200.
DEFAULT_BASE_PORT = 5000
PORTS_A_PROCESS = 100
# AirPlay's receiver listens there on every newer Mac.
_MACOS_PORTS = frozenset({5000, 7000})
# Browsers refuse to open these: https://fetch.spec.whatwg.org/#port-blocking
# fmt: off
BLOCKED_PORTS = frozenset({
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104,
    109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515,
    526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049,
    3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
})
# fmt: on

_LISTEN_FORM = "Write HOST:PORT, such as 127.0.0.1:8000, [::1]:8000, or a port alone."


def parse_listen(text: str) -> tuple[str, int]:
    """Parse the address to listen on.

    It is written as ``127.0.0.1:8000``, ``[::1]:8000``, ``localhost:8000``, ``:8000`` or ``8000``.

    Returns:
        A literal address, and a port; port 0 is any free one.

    Raises:
        ConfigError: It has another form, or a port that browsers refuse to open.
    """

    def wrong(why: str, hint: str = _LISTEN_FORM) -> ConfigError:
        return ConfigError(f"cannot listen on {text!r}: {why}", hint=hint)

    if "://" in text:
        bare = text.partition("://")[2].rstrip("/")
        raise wrong("it is a URL", f"Write the address alone: {bare}.")
    found = re.fullmatch(r"(?:(?:\[(?P<six>[^\[\]]*)\]|(?P<four>[^:\[\]]*)):)?(?P<port>[0-9]{1,5})", text)
    if found is None:
        raise wrong("an IPv6 address stands in brackets" if text.count(":") > 1 else "it is not HOST:PORT")
    port = int(found["port"])
    if port > 65535:
        raise wrong("the highest port is 65535")
    if port in BLOCKED_PORTS:
        raise wrong(f"browsers refuse to open port {port}", "Choose another port, such as 8000.")
    try:
        if found["six"] is not None:
            return str(ipaddress.IPv6Address(found["six"])), port
        if found["four"] in {None, "", "localhost"}:
            return DEFAULT_LISTEN[0], port
        return str(ipaddress.IPv4Address(found["four"])), port
    except ValueError as exc:
        raise wrong("the host is not an address") from exc


def asked_address(file: SettingsFile, option: str | None) -> tuple[str, int] | None:
    """Give the address that the user asks for: the option, else the settings; ``None``: none.

    Raises:
        ConfigError: It is not an address.
    """
    if option is not None:
        return parse_listen(option)
    if (written := file.settings.proxy.listen) is None:
        return None
    try:
        return parse_listen(written)
    except ConfigError as exc:
        raise file.error(("proxy", "listen"), str(exc), hint=exc.hint) from exc


def check_address(
    address: tuple[str, int], taken: Mapping[int, Written], try_listen: Callable[[str, int], None]
) -> None:
    """Check an address that the user asks for.

    Args:
        address: Host and port.
        taken: By port, the process that takes it whatever it is told.
        try_listen: Raises `ConfigError` if an address cannot be listened on.

    Raises:
        ConfigError: A process takes its port, or it cannot be listened on.
    """
    host, port = address
    if port in taken:
        process = taken[port]
        raise ConfigError(
            f"{process.name}: it listens on port {port}, which is the address of the proxy",
            path=process.source.path,
            line=process.source.line,
            hint=f"Write `{process.name}: {_with_port(process.command, port)}`, or choose another --listen.",
        )
    try_listen(host, port)


def first_free(
    taken: Mapping[int, Written], try_listen: Callable[[str, int], None]
) -> tuple[tuple[str, int], Note | None]:
    """Choose an address where the user asks for none; if it is not the usual one, a note says why.

    The arguments are those of `check_address`.

    Raises:
        ConfigError: None of a hundred can be had.
    """
    host, usual = DEFAULT_LISTEN
    reason = ""
    for port in range(usual, usual + 100):
        if port in taken:
            reason = reason or f"port {port} is {taken[port].name}'s"
            continue
        try:
            try_listen(host, port)
        except ConfigError as exc:
            reason = reason or exc.message.partition(": cannot")[0]
        else:
            text = f"{reason}: the one address is http://{host}:{port}"
            return (host, port), Note(text) if reason else None
    raise ConfigError(f"{reason}, and so are the next ones", hint="Choose another address: --listen.")


def _with_port(command: str, port: int) -> str:
    """The command with the port that it is given, in place of its own."""
    if re.search(rf"(?<!\d){port}(?!\d)", command):
        return re.sub(rf"(?<!\d){port}(?!\d)", "$PORT", command)
    told = {"runserver": "$PORT", "http.server": "$PORT", "hypercorn": "--bind 127.0.0.1:$PORT"}
    option = next((each for word, each in told.items() if word in command), "--port $PORT")
    return f"{command} {option}"


def base_port(
    file: SettingsFile, option: int | None, written: Mapping[str, str], environ: Mapping[str, str]
) -> int:
    """Give the first port: the option, else the settings, else ``PORT`` of an env file, else the system's."""
    if option is not None:
        if not 1 <= option <= 65535:
            raise ConfigError(f"--base-port {option}: no such port", hint="Give a port from 1 to 65535.")
        return option
    if file.settings.run.base_port is not None:
        return file.settings.run.base_port
    text = written.get("PORT") or environ.get("PORT") or str(DEFAULT_BASE_PORT)
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        where = "in the env file" if written.get("PORT") else "in the environment"
        raise ConfigError(
            f"PORT is {text!r} {where}: not a port",
            hint="Set it to a number from 1 to 65535, or unset it: then processes get 5000, 5100, ...",
        )
    return int(text)


def assign(
    processes: Sequence[Written],
    instances: Mapping[str, Sequence[str]],
    *,
    listen_port: int | None,
    taken: Mapping[int, Written],
    base: int,
    file: SettingsFile,
    is_free: Callable[[int], bool],
    holder: Callable[[int], str],
    problems: Problems,
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Give each instance its port, of those that are run a free one; say which were moved, and why.

    Args:
        processes: All of them: each has its place, whether it is run or not.
        instances: By process, what its instances are called; none: it is not run.
        listen_port: The proxy's, if there is one.
        taken: By port, the process that takes it whatever it is told.
        base: The first process's port.
        file: The settings.
        is_free: Whether a port could be listened on now.
        holder: What listens on a port.
        problems: Is told of ports that were fixed and cannot be had.

    Returns:
        Ports by instance (and by process, for those that are not run); and by process, what is to be said.
    """
    ports = _fixed_ports(
        processes,
        instances,
        listen_port=listen_port,
        file=file,
        is_free=is_free,
        holder=holder,
        problems=problems,
    )
    unusable = BLOCKED_PORTS | (_MACOS_PORTS if sys.platform == "darwin" else frozenset())

    def why_not(port: int, process: str) -> str:
        """Why a process cannot have a port; empty: it can."""
        if port == listen_port:
            return f"port {port} is orchestra's own"
        if port in unusable:
            return f"port {port} cannot be used"
        if port in taken and taken[port].name != process:
            return f"port {port} is {taken[port].name}'s"
        owner = next((name for name, other in ports.items() if other == port), None)
        return f"port {port} is {owner}'s" if owner is not None else ""

    def first_from(port: int, process: str) -> int | None:
        while why_not(port, process):
            port += 1
        return port if port <= 65535 else None

    # First the wishes of all, then the moves: a process is not moved to a port that another one wishes for.
    wishes: dict[str, tuple[int, str]] = {}
    for index, each in enumerate(processes):
        for number, name in enumerate(instances[each.name] or [each.name]):
            if name not in ports:
                wish = base + index * PORTS_A_PROCESS + number
                wishes[name] = (wish, why_not(wish, each.name))
                if (port := first_from(wish, each.name)) is not None:
                    ports[name] = port
    moved = []
    for each in processes:
        for name in instances[each.name]:
            if name not in wishes:
                continue
            wish, reason = wishes[name]
            found = ports.get(name)
            while found is not None and not is_free(found):
                reason = reason or _taken(found, holder)
                found = first_from(found + 1, each.name)
            if found is None:
                text = f"no port is left for {name}: they begin at {base}, {PORTS_A_PROCESS} for each process"
                problems.add(ConfigError(text, hint="Begin lower: --base-port 5000."))
                continue
            ports[name] = found
            if found != wish:
                moved.append((each.name, f"{name}: {reason}; it gets {found}"))
    return ports, moved


def _taken(port: int, holder: Callable[[int], str]) -> str:
    by = holder(port)
    return f"port {port} is taken{' by ' + by if by else ''}"


def _fixed_ports(
    processes: Sequence[Written],
    instances: Mapping[str, Sequence[str]],
    *,
    listen_port: int | None,
    file: SettingsFile,
    is_free: Callable[[int], bool],
    holder: Callable[[int], str],
    problems: Problems,
) -> dict[str, int]:
    """The ports that the settings fix, of further instances the next ones; each can only be had as it is."""
    fixed: dict[str, int] = {}

    def fault(each: Written, port: int, *, is_run: bool) -> ConfigError | None:
        keys = ("process", each.name, "port")
        other = next((name for name, taken in fixed.items() if taken == port), None)
        if port == listen_port:
            text, hint = f"port {port} is orchestra's own", "Choose another one, or another --listen."
        elif other is not None:
            text, hint = f"{other} has port {port}, too", "Choose another one."
        elif port > 65535:
            text, hint = f"there is no port {port}", "Choose a lower one, or fewer instances."
        elif is_run and not is_free(port):
            text = _taken(port, holder)
            hint = "Stop it, or set port = 0."
        else:
            return None
        return file.error(keys, text, hint=hint)

    for each in processes:
        if not each.settings.port:
            continue
        names = instances[each.name]
        for number, name in enumerate(names or [each.name]):
            port = each.settings.port + number
            wrong = fault(each, port, is_run=bool(names))
            if wrong is None:
                fixed[name] = port
            else:
                problems.add(wrong)
    return fixed
