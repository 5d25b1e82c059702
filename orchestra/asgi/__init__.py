"""ASGI pieces for applications that another server serves: uvicorn or Hypercorn, under asyncio or trio.

For development: `ViteDevProxy`, which forwards to Vite what the application does not know, and middlewares
that reload pages. For production: `SPA`, which serves the files that Vite has built.

All need anyio, and `SPA` needs Starlette: the extra ``asgi`` has both. Nothing of a run is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestra.asgi.files import SPA
    from orchestra.asgi.reloader import (
        auto_refresh_middleware,
        html_injection_middleware,
        patch_for_auto_reloading,
        reloader_route_middleware,
        send_reload_signal,
    )
    from orchestra.asgi.vite import ViteDevProxy

__all__ = [
    "SPA",
    "ViteDevProxy",
    "auto_refresh_middleware",
    "html_injection_middleware",
    "patch_for_auto_reloading",
    "reloader_route_middleware",
    "send_reload_signal",
]

# Imported lazily, so that production imports nothing that is for development.
_HOMES = {"SPA": "files", "ViteDevProxy": "vite"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'reloader')}"), name)


def __dir__() -> list[str]:
    return __all__
