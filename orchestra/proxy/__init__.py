"""The one address: a reverse proxy that asks the backend first and Vite second, and streams all the way."""

from __future__ import annotations

from orchestra.proxy.server import Proxy

__all__ = ["Proxy"]
