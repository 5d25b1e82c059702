"""One command, one address: a Python backend and a Vite frontend, supervised and served together.

The public names are those of this module: write a `Plan` down or `load` one, and give it to a `Supervisor`,
which is the whole run, its proxy included; without trio, use `running` or `running_async`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestra.config.load import Overrides
    from orchestra.config.plan import Condition, Dependency, Plan, ProcessPlan, ProxyPlan, Restart, Role
    from orchestra.embedding import Running, running, running_async
    from orchestra.errors import ConfigError, OrchestraError, StartError, UpstreamError
    from orchestra.events import State
    from orchestra.planning import load
    from orchestra.supervisor import Supervisor
    from orchestra.version import __version__

__all__ = [
    "Condition",
    "ConfigError",
    "Dependency",
    "OrchestraError",
    "Overrides",
    "Plan",
    "ProcessPlan",
    "ProxyPlan",
    "Restart",
    "Role",
    "Running",
    "StartError",
    "State",
    "Supervisor",
    "UpstreamError",
    "__version__",
    "load",
    "running",
    "running_async",
]

# Imported when they are used: pytest imports us for its plugin, and should not pay for trio and all the rest.
_HOMES = {
    "orchestra.config.load": "Overrides",
    "orchestra.config.plan": "Condition Dependency Plan ProcessPlan ProxyPlan Restart Role",
    "orchestra.embedding": "Running running running_async",
    "orchestra.errors": "ConfigError OrchestraError StartError UpstreamError",
    "orchestra.events": "State",
    "orchestra.planning": "load",
    "orchestra.supervisor": "Supervisor",
    "orchestra.version": "__version__",
}


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
