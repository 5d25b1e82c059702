"""fastware's `ViteDevProxy`: the backend is an application in its process, all else is the frontend's.

FRONTEND=PORT granian --interface asgi --host 127.0.0.1 --port PORT fastware_app:app
"""

from __future__ import annotations

import os
from typing import Any

from fastware.middleware import ViteDevProxy  # type: ignore[import-not-found, unused-ignore]  # among the peers'


async def backend(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer what is below /api, know nothing else."""
    del receive
    if scope["type"] != "http":
        return
    is_known = scope["path"].startswith("/api/")
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200 if is_known else 404, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"id": 1, "name": "first"}'})


app = ViteDevProxy(backend, vite_port=int(os.environ["FRONTEND"]))
