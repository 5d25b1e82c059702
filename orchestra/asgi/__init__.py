"""ASGI pieces for applications that are served by another server: uvicorn, Hypercorn, under asyncio or trio.

For development `ViteDevProxy`, which has Vite answer what the application does not know, and the middlewares
that reload pages; for production `SPA`, which serves what Vite has built.

They need anyio, and `SPA` needs Starlette: the extra ``asgi``. Nothing of a run is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestra.asgi.files import SPA

__all__ = ["SPA"]

# Imported when they are used: in production nothing is that is for development.
_HOMES = {"SPA": "files"}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
