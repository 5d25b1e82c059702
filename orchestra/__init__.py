"""One command, one address: a Python backend and a Vite frontend, supervised and served together.

The public names are those of this module: write a `Plan` down or `load` one, give it to a `Supervisor`.
"""

from orchestra.config.plan import Plan, ProcessPlan, ProxyPlan, Restart, Role
from orchestra.errors import ConfigError, OrchestraError, StartError, UpstreamError
from orchestra.events import State
from orchestra.stack import Stack, load
from orchestra.supervisor import Supervisor
from orchestra.version import __version__

__all__ = [
    "ConfigError",
    "OrchestraError",
    "Plan",
    "ProcessPlan",
    "ProxyPlan",
    "Restart",
    "Role",
    "Stack",
    "StartError",
    "State",
    "Supervisor",
    "UpstreamError",
    "__version__",
    "load",
]
