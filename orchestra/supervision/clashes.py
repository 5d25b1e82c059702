"""A process that has ended because a port is taken: by what, and what to do about it.

What it has written names the port (`symptoms`); the sockets of this machine tell what has it. If that goes on
to listen, a further child would end in the same way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import trio

from orchestra.supervision.symptoms import named_ports, port_clash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from orchestra.config.plan import ProcessPlan
    from orchestra.supervision.run import Run

__all__ = ["find_clash"]

_OWN_PORT_HINT = "Have it listen on $PORT, or give orchestra another address: --listen."
_OTHER_PORT_HINT = "Stop that program, or have this one listen on $PORT (--port $PORT)."
# Seconds after which a port is still taken by something that stays.
_PAUSE = 0.3


async def find_clash(run: Run, plan: ProcessPlan, lines: Sequence[str]) -> str | None:
    """Say which port a process with these last lines could not have; ``None`` if it may have it next time."""
    if (named := named_ports(lines)) is None:
        return None
    await trio.sleep(_PAUSE)  # what it has replaced may still be ending
    holders = {port: held for port in named if (held := await _holder(run, port))}
    own = urlsplit(run.url or "").port
    clash = port_clash(lines, own=own, planned=plan.port, holders=holders)
    if clash is None:
        return None
    hint = _OWN_PORT_HINT if clash.is_own else _OTHER_PORT_HINT
    run.bus.notice("port-clash", clash.text, hint=hint, process=plan.name)
    return clash.text


async def _holder(run: Run, port: int) -> str:
    """Say what listens at a port: a process of the run by its name."""
    ours = (name for name, each in run.workers.items() if each.newest.port == port)
    return next(ours, "") or await run.runtime.holder(port)
