"""What a run has for development only: nothing of it is there for code that embeds a `Supervisor`.

It gives the proxy its `extras`, and keeps what the run has learned.

Not here: the parts (`frontend_pages`), processes (`supervision`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from orchestra.frontend_pages import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestra.config.plan import Plan
    from orchestra.proxy.server import Extras

__all__ = ["Development"]

# Seconds after which new pages are stored at the latest: they are lost if the run is killed.
_STORE_INTERVAL = 10.0


class Development:
    """What a run has for development only.

    Args:
        plan: What is run.
        environ: The environment of orchestra itself.
    """

    def __init__(self, plan: Plan, *, environ: Mapping[str, str]) -> None:
        self._store = Store(plan, environ)
        self._pages = self._store.load()

    def __repr__(self) -> str:
        return f"<Development with {self._pages!r}>"

    def extras(self) -> Extras:
        """Give the proxy what it has of it."""
        from orchestra.proxy.server import Extras  # noqa: PLC0415 - a run without a proxy does without

        return Extras(frontend_pages=self._pages)

    async def run(self) -> None:
        """Do what belongs to it until cancelled."""
        try:
            while True:
                await trio.sleep(_STORE_INTERVAL)
                self._store.save(self._pages)
        finally:
            self._store.save(self._pages)
