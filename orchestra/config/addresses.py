"""Addresses: where the proxy listens, and which port each process gets.

Every process of the Procfile has a fixed place among the ports, run or not, so its port does not depend on
which others are run. A port that is taken is skipped, with a note; one that the user has set is never
replaced. A port that a command uses by itself is given to no other process.

The proxy never breaks a run that worked without it: a default address gives way to a command that listens
there, and to other programs. An address that was set does not: then it is an error that names the line to
write.

Not here: binding. Whether a port is free, and what holds it, comes in as functions.
"""

from __future__ import annotations

import ipaddress
import re
import sys
from typing import TYPE_CHECKING

from msgspec import Struct, field

from orchestra.config.environment import mentions_port
from orchestra.config.plan import Note
from orchestra.errors import ConfigError, port_taken

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from orchestra.config.files import Problems
    from orchestra.config.select import Draft
    from orchestra.config.toml import SettingsFile

__all__ = [
    "BLOCKED_PORTS",
    "DEFAULT_BASE_PORT",
    "DEFAULT_LISTEN",
    "Machine",
    "Ports",
    "asked_address",
    "base_port",
    "parse_listen",
    "settle_address",
]

DEFAULT_LISTEN = ("127.0.0.1", 8000)
# The port if no command names its own: one of them may be a server that takes the usual port.
_OTHER_PORT = 8800
# The convention of foreman and its successors: 5000, 5100, 5200.
DEFAULT_BASE_PORT = 5000
PORTS_A_PROCESS = 100
HIGHEST_PORT = 65535
# Ports of AirPlay's receiver on every newer Mac.
_MACOS_PORTS = frozenset({5000, 7000})
# Browsers refuse to open these: https://fetch.spec.whatwg.org/#port-blocking
BLOCKED_PORTS = frozenset({
    1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104,
    109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515,
    526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049,
    3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
})  # fmt: skip

_LISTEN_FORM = "Write HOST:PORT, such as 127.0.0.1:8000, [::1]:8000, or a port alone."


class Machine(Struct, frozen=True, kw_only=True):
    """Facts about the machine.

    Attributes:
        scripts: The folder of programs that were installed beside orchestra:
            ``sysconfig.get_path("scripts")``.
        claim: Claims a free port for this run; false if another run has claimed it.
        holder: Names what listens on a port: ``pid 812 (node)``; empty if that is invisible.
        try_listen: Raises `ConfigError` if an address cannot be bound now.
        kept: The ports of processes that run already, by name: they keep them.
        listens: Host and port of such a run's proxy, if the user has not set them.
        last_port: The port of the proxy in the project's last run, if known.
    """

    environ: Mapping[str, str]
    scripts: str | None = None
    is_free: Callable[[int], bool] = lambda _: True
    claim: Callable[[int], bool] = lambda _: True
    holder: Callable[[int], str] = lambda _: ""
    try_listen: Callable[[str, int], None] = lambda _host, _port: None
    kept: Mapping[str, int] = field(default_factory=dict)
    listens: tuple[str, int] | None = None
    last_port: Callable[[Path], int | None] = lambda _root: None


def parse_listen(text: str) -> tuple[str, int]:
    """Parse the address to listen on: a literal address, and a port, where 0 is any free one.

    It is written as ``127.0.0.1:8000``, ``[::1]:8000``, ``localhost:8000``, ``:8000`` or ``8000``.
    `ConfigError`: it has another form, or a port that browsers refuse to open.
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
    """Give the address from the option, otherwise from the settings; `ConfigError` if it is not valid."""
    if option is not None:
        return parse_listen(option)
    if (written := file.settings.proxy.listen) is None:
        return None
    try:
        return parse_listen(written)
    except ConfigError as exc:
        raise file.error(("proxy", "listen"), str(exc), hint=exc.hint) from exc


def settle_address(
    asked: tuple[str, int] | None,
    processes: Sequence[Draft],
    root: Path,
    *,
    knows_ports: bool,
    machine: Machine,
    notes: list[Note],
    problems: Problems,
) -> tuple[str, int]:
    """Check the address that the user has set, or find one.

    Without one it is that of the last run, the default, or the next free one, with a note in `notes`. If the
    ports of the processes are not known (`knows_ports`), the default is left to them. It is a problem if a
    process takes the port that was set, and a `ConfigError` if it cannot be bound, or none is free.
    """
    if asked is not None:
        host, port = asked
        for taker in _takers(port, processes):
            text = f"{taker.name}: it listens on port {port}, which is the address of the proxy"
            line = f"{taker.name}: {_with_port(taker.command, port)}"
            problems.add(taker.error(text, hint=f"Write `{line}`, or choose another --listen."))
        machine.try_listen(host, port)
        return asked
    host, usual = machine.listens or DEFAULT_LISTEN
    reason, last = "", None if machine.listens else machine.last_port(root)
    if not knows_ports and not machine.listens:
        reason, last = f"port {usual} may be wanted by a process", None if last == usual else last
        usual = _OTHER_PORT
    for port in dict.fromkeys([last or usual, *range(usual, usual + 100)]):
        fixed = (each for each in processes if each.settings.port == port)
        if (process := next(_takers(port, processes), None) or next(fixed, None)) is not None:
            reason = reason or f"port {port} is {process.name}'s"
            continue
        try:
            machine.try_listen(host, port)
        except ConfigError as exc:
            reason = reason or exc.message.partition(": cannot")[0]
        else:
            if not reason and port != usual:
                reason = "as in the last run of this project"
            if reason:
                hint = f"For another one, give --listen 127.0.0.1:{DEFAULT_LISTEN[1]}, or set proxy.listen."
                is_open = port == last or not knows_ports
                notes.append(Note(f"{reason}: the one address has port {port}", hint if is_open else ""))
            return host, port
    raise ConfigError(f"{reason}, and so are the next ones", hint="Choose another address: --listen.")


def _asks_for_port(process: Draft) -> bool:
    """Whether it is known to take the port that it is given; Vite does not."""
    is_given = mentions_port(process.command) or process.reading.serves or process.settings.app is not None
    return bool(is_given) and not process.reading.why


def _takers(port: int, processes: Sequence[Draft]) -> Iterator[Draft]:
    """The processes that take a port whatever their ``PORT``."""
    return (each for each in processes if port in each.reading.ports)


def _with_port(command: str, port: int) -> str:
    """The command with the port that it is given, instead of its own."""
    if re.search(rf"(?<!\d){port}(?!\d)", command):
        return re.sub(rf"(?<!\d){port}(?!\d)", "$PORT", command)
    options = {"runserver": "$PORT", "http.server": "$PORT", "hypercorn": "--bind 127.0.0.1:$PORT"}
    option = next((each for word, each in options.items() if word in command), "--port $PORT")
    return f"{command} {option}"


def base_port(
    file: SettingsFile, option: int | None, env: Mapping[str, str], environ: Mapping[str, str]
) -> int:
    """Give the first port: the option, the settings, or ``PORT`` of an env file or of the system.

    `env` is `environ`, the system's, with the env files over it. `ConfigError`: it is not a port.
    """
    if option is not None:
        if not 1 <= option <= HIGHEST_PORT:
            raise ConfigError(f"--base-port {option}: no such port", hint="Give a port from 1 to 65535.")
        return option
    if file.settings.run.base_port is not None:
        return file.settings.run.base_port
    text = env.get("PORT") or environ.get("PORT") or str(DEFAULT_BASE_PORT)
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= HIGHEST_PORT:
        where = "in the environment" if text == environ.get("PORT") else "in the env file"
        hint = "Set it to a number from 1 to 65535, or unset it: then processes get 5000, 5100, ..."
        raise ConfigError(f"PORT is {text!r} {where}: not a port", hint=hint)
    return int(text)


class Ports(Struct, kw_only=True):
    """Gives each instance its port; those that are run get a free one.

    Attributes:
        listen_port: The proxy's, if there is one.
        by_instance: The result; for processes that are not run, by their name.
    """

    processes: Sequence[Draft]
    listen_port: int | None
    machine: Machine
    by_instance: dict[str, int] = field(default_factory=dict)

    def _fix(self) -> None:
        """Give the ports of the settings, and to further instances the next ones; they are never replaced."""
        for each in self.processes:
            for number, name in enumerate(each.names) if each.settings.port else ():
                port = (each.settings.port or 0) + number
                other = self._owner(port, name)
                if port == self.listen_port:
                    hint = "Choose another one, or another --listen."
                    each.refuse("port", f"port {port} is orchestra's own", hint=hint)
                elif other:
                    each.refuse("port", f"{other} has port {port}, too", hint="Choose another one.")
                elif port > HIGHEST_PORT:
                    hint = "Choose a lower one, or fewer instances."
                    each.refuse("port", f"there is no port {port}", hint=hint)
                elif held := self._held(port, each):
                    each.refuse("port", held, hint="Stop it, or set port = 0.")
                else:
                    self.by_instance[name] = port

    def assign(self, base: int, problems: Problems) -> list[Note]:
        """Give each its port: set, kept, or from `base` on; note which cannot have the usual one."""
        self._fix()
        fixed, notes = set(self.by_instance), []
        # Each has the usual one until its turn comes, so none is moved to that of another.
        for index, each in enumerate(self.processes):
            for number, name in enumerate(each.names):
                by_place = base + index * PORTS_A_PROCESS + number
                self.by_instance.setdefault(name, self.machine.kept.get(name, by_place))
        for each in self.processes:
            for name in (name for name in each.names if name not in fixed):
                usual = port = self.by_instance[name]
                reason = ""
                while port <= HIGHEST_PORT and (why_not := self._why_not(port, each, name)):
                    reason, port = reason or why_not, port + 1
                self.by_instance[name] = port
                if port > HIGHEST_PORT:
                    del self.by_instance[name]
                    if each.instances:
                        text = f"no port is left for {name}: they begin at {base}, {PORTS_A_PROCESS} each"
                        problems.add(ConfigError(text, hint="Begin lower: --base-port 5000."))
                elif port != usual and each.instances and _asks_for_port(each):
                    notes.append(Note(f"{name}: {reason}; it gets {port}"))
        return notes

    def _why_not(self, port: int, process: Draft, instance: str) -> str:
        """Why an instance cannot have a port; empty if it can."""
        if port == self.listen_port:
            return f"port {port} is orchestra's own"
        if port in BLOCKED_PORTS or (sys.platform == "darwin" and port in _MACOS_PORTS):
            return f"port {port} cannot be used"
        taker = next(_takers(port, self.processes), process)
        owner = taker.name if taker is not process else self._owner(port, instance)
        if owner or (held := self._held(port, process)):
            return f"port {port} is {owner}'s" if owner else held
        is_ours = not process.instances or self.machine.claim(port)
        return "" if is_ours else f"port {port} is another run's"

    def _owner(self, port: int, instance: str) -> str:
        others = (name for name, its in self.by_instance.items() if its == port and name != instance)
        return next(others, "")

    def _held(self, port: int, process: Draft) -> str:
        """What else holds the port of a process that is run."""
        if not process.instances or self.machine.is_free(port):
            return ""
        return port_taken(port, self.machine.holder(port))
