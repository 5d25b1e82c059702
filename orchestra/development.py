"""The parts of a run on the command line that an embedded `Supervisor` does not have.

Programs of the same user can reach the run. With reloading on, the proxy also gets its `extras`, knowledge
about pages is stored, open pages connect to the run, and changed files are followed.

Not here: the parts (`remembered`, `control`, `reloading`), processes (`supervision`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from orchestra.bus import Bus, utc_now
from orchestra.control.server import Control
from orchestra.remembered import StoredPages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from orchestra.config.plan import Address
    from orchestra.control.app import View
    from orchestra.proxy.head import RequestHead
    from orchestra.proxy.server import Extras, Proxy
    from orchestra.reloading import OnPlanFiles
    from orchestra.supervision.run import Run

__all__ = ["Development"]

# Seconds after which new pages are stored at the latest: if the run is killed, they are lost.
_STORE_INTERVAL = 10.0


class Development:
    """The parts of a run on the command line that an embedded one does not have.

    Attributes:
        control: Serves our own paths, and sends messages to open pages.
        reloads: Whether it follows saved files and serves open pages; otherwise only programs reach the run.
        proxy: The proxy of the run, once there is one.
    """

    proxy: Proxy | None = None

    def __init__(self, view: View, bus: Bus, *, environ: Mapping[str, str], reloads: bool) -> None:
        self.reloads = reloads
        self._view = view
        self._bus = bus
        self.control = Control(view, bus=bus, is_backend=self._is_backend, environ=environ)
        self._pages = StoredPages(view.plan, environ)
        self._following = trio.CancelScope()
        self._began = 0.0  # Unix time

    def extras(self) -> Extras:
        """Give the proxy its parts for development."""
        # Imported here, because a run without a proxy does not need them.
        from orchestra.control.inject import Injector  # noqa: PLC0415
        from orchestra.control.pages import page_of  # noqa: PLC0415
        from orchestra.proxy.server import Extras  # noqa: PLC0415

        if not self.reloads:
            return Extras()
        injector = Injector(self._view.plan.reload, self._bus, vites=self._frontends)

        def failed(request: RequestHead) -> None:
            page, is_document = page_of(request)
            self.control.tabs.fail(page, trio.current_time(), is_document=is_document)

        return Extras(
            frontend_pages=self._pages,
            own=self.control.connect,
            pages=injector,
            failed=failed,
        )

    def _frontends(self) -> Sequence[Address]:
        return self.proxy.frontends() if self.proxy is not None else ()

    def _is_backend(self, process: str) -> bool:
        return self.proxy is not None and self.proxy.is_backend(process)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the control app and store pages until cancelled."""
        self._began = utc_now().timestamp()
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self.control.run)
                task_status.started()
                while True:
                    await trio.sleep(_STORE_INTERVAL)
                    self._pages.save()
        finally:
            self._pages.save()

    async def follow_files(self, run: Run, replan: OnPlanFiles) -> None:
        """React to changed files until the run is to end."""
        if not self.reloads:
            return
        from orchestra.reloading import Reloading  # noqa: PLC0415 - the processes are being spawned by now

        with self._following:
            reloading = Reloading(lambda: self._view.plan, run, pages=self.control.tabs, replan=replan)
            await reloading.run(self._began)

    async def close(self) -> None:
        """Stop following files, and send the end of the run to open pages; takes a moment at most."""
        self._following.cancel()
        await self.control.close()
