"""Makes a plan on this machine, for a new run and for one that goes on: the facts that `config.load` needs.

For a run that goes on, its own ports count as free: processes keep their ports, the proxy its address, and no
port is reported as taken by one of our own processes.

Not here: what follows from another plan (`changing`).
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from orchestra import config
from orchestra.child import sockets
from orchestra.claims import claim_port
from orchestra.config import Machine, Overrides
from orchestra.remembered import last_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestra.config.plan import Plan

__all__ = ["load", "this_machine"]


def load(
    procfile: Path | str | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    only: Sequence[str] = (),
    left_out: Sequence[str] = (),
    overrides: Overrides | None = None,
    running: Plan | None = None,
    has_memory: bool = False,
    claims: bool = False,
) -> Plan:
    """Read a Procfile, with the environment and the settings beside it, and plan a run on this machine.

    Args:
        procfile: The file; ``None`` for ``Procfile.dev`` or ``Procfile`` in the current folder, or, if it has
            neither, the settings in it, if they define a process.
        environ: The base environment; this process's by default.
        only: The processes to run; empty means all.
        left_out: The processes not to run.
        overrides: Options that beat the settings.
        running: The plan of a run that is to follow the new one (`Supervisor.change`): its processes keep
            their ports.
        has_memory: Whether the one address is that of the project's last run, if it is not set and that is
            known; see `remembered`.
        claims: Whether other runs leave the ports to this process until it ends; see `claims`.

    Raises:
        ConfigErrors: All errors, each with file and line, the cause, and the next step.
    """
    machine = this_machine(environ, running, has_memory=has_memory, claims=claims)
    return config.load(procfile, machine, only=only, left_out=left_out, overrides=overrides)


def this_machine(
    environ: Mapping[str, str] | None = None,
    running: Plan | None = None,
    *,
    has_memory: bool = False,
    claims: bool = False,
) -> Machine:
    """Describe the machine that we run on."""
    environ = os.environ if environ is None else environ
    kept: dict[str, int] = {}
    own: set[int] = set()
    proxy = None
    if running is not None:
        kept = {each.name: each.port for each in running.processes if each.port is not None}
        own = {*kept.values(), *(port for each in running.processes for port in each.named_ports)}
        if (proxy := running.proxy) is not None:
            own.add(proxy.port)

    def try_listen(host: str, port: int) -> None:
        if port not in own:
            for listener in sockets.bind(host, port):
                listener.close()

    return Machine(
        environ=environ,
        scripts=_scripts(),
        is_free=lambda port: port in own or sockets.is_free(port),
        claim=lambda port: not claims or port in own or claim_port(port, environ),
        holder=sockets.holder,
        try_listen=try_listen,
        kept=kept,
        listens=(proxy.host, proxy.port) if proxy is not None and proxy.may_move else None,
        last_port=lambda root: last_port(root, environ) if has_memory else None,
    )


def _scripts() -> str | None:
    if sys.prefix != sys.base_prefix:  # in a virtual environment; `sysconfig` says the same, and is large
        return f"{sys.prefix}/bin"
    import sysconfig  # noqa: PLC0415

    return sysconfig.get_path("scripts")
