"""What each child gets as its environment: ports, and the addresses of siblings.

Not here: `os.environ`; all environments are arguments and results. ``.env`` files: `dotenv`; the project's
own tools on ``PATH``: `tools`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DEVELOPMENT", "PORT_VARIABLES", "for_child", "mentions_port", "sibling_prefix", "with_address"]

# The variables that tell a child its port: the common one, uvicorn's and Flask's.
PORT_VARIABLES = ("PORT", "UVICORN_PORT", "FLASK_RUN_PORT")
# As `fastapi dev` sets it: otherwise `app.frontend` needs a build of the frontend.
DEVELOPMENT = {"FASTAPI_ENV": "development"}
_ADDRESS_VARIABLES = ("ORCHESTRA_URL", "ORCHESTRA_PORT")
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - not to listen on

# Read by Vite beside its own `server.allowedHosts`, since 6.1.
VITE_HOSTS = "__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS"

_PORT_IN_COMMAND = re.compile(rf"\$(?:{{(?:{'|'.join(PORT_VARIABLES)})\b|(?:{'|'.join(PORT_VARIABLES)})\b)")


def for_child(
    env: Mapping[str, str], *, port: int | None, siblings: Mapping[str, int], hosts: Sequence[str] = ()
) -> dict[str, str]:
    """Give the environment of one child, all but what the supervisor adds.

    ``PORT`` says `port`, ``ORCHESTRA_<NAME>_PORT`` and ``_URL`` tell the ports of `siblings`, by name. Of the
    `hosts` that requests may be for, Vite is told the first: it takes one entry (``.x`` is all below it).
    """
    new = {"PYTHONUNBUFFERED": "1", **DEVELOPMENT, **({VITE_HOSTS: hosts[0]} if hosts else {}), **env}
    for name, sibling in siblings.items():
        new[f"{sibling_prefix(name)}_PORT"] = str(sibling)
        new[f"{sibling_prefix(name)}_URL"] = f"http://127.0.0.1:{sibling}"
    if port is not None:
        new.update(dict.fromkeys(PORT_VARIABLES, str(port)))
    return new


def with_address(env: Mapping[str, str], url: str | None) -> dict[str, str]:
    """Give an environment that tells a child the one address of this run, and of no other run."""
    new = {name: text for name, text in env.items() if name not in _ADDRESS_VARIABLES}
    if url is not None:
        parts = urlsplit(url)
        # Nothing can be reached at the address that stands for all of them.
        host = _LOOPBACK.get(parts.hostname or "", parts.netloc.rpartition(":")[0])
        values = (f"http://{host}:{parts.port}", str(parts.port))
        new.update(zip(_ADDRESS_VARIABLES, values, strict=True))
    return new


def sibling_prefix(process: str) -> str:
    """Give what the variables that tell of ``notes-api`` begin with: ``ORCHESTRA_NOTES_API``."""
    return f"ORCHESTRA_{process.upper().replace('-', '_')}"


def mentions_port(command: str) -> bool:
    """Whether a command uses the port that it is given: ``$PORT``, ``${PORT}``, ``${PORT:-8000}``."""
    return _PORT_IN_COMMAND.search(command) is not None
