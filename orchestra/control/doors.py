"""Which requests under ``/__orchestra__/`` are admitted, and by which door.

There are two doors. Behind the *local* one, the unix socket, is a program of the same user: it may use
everything, and only it may give orders and read environments. Behind the *browser's* one is the proxy, and so
any web page, any program, and any machine that reaches the proxy. That door admits:

- `client.js`, `live`, `healthz` and `readyz` for all clients of the proxy; `state`, `events` and `open` only
  if the client *and* the Host are on loopback. The client's address is the one that the proxy has added to
  ``X-Forwarded-For``; if an address before it is not on loopback, the request came through a tunnel and is
  not local.
- Nothing for a page of another site or another port. ``Sec-Fetch-Site`` shows that in all current browsers,
  and ``Origin`` does for requests that could change or read something.
- A request with neither header comes from a program such as curl: it may use `healthz` and `readyz`, and on
  loopback `state` and `events`. But a browser that shows a page over plain HTTP from another machine sends
  neither for a script. Therefore `client.js`, which is the same for everyone, accepts a ``Referer`` of our
  own origin instead.

Everything here is pure; a new rule is a new row in a table of `tests/test_control_doors.py`.

Not here: the token and the files of `open` (`app`), which hosts the proxy serves at all (`hosts`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Literal, Self, TypeAlias

from msgspec import Struct

from orchestra.hosts import is_from_here, is_own_origin

__all__ = ["App", "Door", "Message", "Receive", "Refusal", "Request", "Scope", "Send", "admit", "is_local"]

# ASGI's messages are dictionaries whose values have any type.
Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# How a request has come in: over the unix socket, or through the proxy.
Door: TypeAlias = Literal["local", "browser"]


class _Endpoint(Struct, frozen=True):
    """The rules for one endpoint.

    Attributes:
        methods: The methods that it accepts; none for a WebSocket.
        is_local: Only the local door admits requests for it.
        is_for_all: The browser's door admits clients and hosts that are not on loopback.
        is_for_programs: The browser's door admits requests that do not come from a page.
    """

    methods: tuple[str, ...]
    is_local: bool = False
    is_for_all: bool = False
    is_for_programs: bool = False


_READING = ("GET", "HEAD")
_ENDPOINTS = {
    "client.js": _Endpoint(_READING, is_for_all=True),
    "live": _Endpoint((), is_for_all=True),
    "healthz": _Endpoint(_READING, is_for_all=True, is_for_programs=True),
    "readyz": _Endpoint(_READING, is_for_all=True, is_for_programs=True),
    "state": _Endpoint(_READING, is_for_programs=True),
    "events": _Endpoint(("GET",), is_for_programs=True),
    "open": _Endpoint(("POST",)),
    "watch": _Endpoint(("GET",), is_local=True),
    "order": _Endpoint(("POST",), is_local=True),
    "place": _Endpoint(("POST",), is_local=True),
}


class Request(Struct, frozen=True, kw_only=True):
    """The parts of a request that decide about its admission.

    Attributes:
        name: The path after ``/__orchestra__/``, as it was sent.
        headers: By lower-case name; values of the same name are joined by commas.
    """

    door: Door
    name: str
    method: str = "GET"
    is_websocket: bool = False
    headers: Mapping[bytes, bytes]

    @classmethod
    def of(cls, door: Door, name: str, scope: Scope) -> Self:
        """Convert an ASGI scope."""
        headers: dict[bytes, bytes] = {}
        for key, value in scope["headers"]:
            known = headers.get(key.lower())
            headers[key.lower()] = value if known is None else known + b", " + value
        method, is_websocket = scope.get("method", "GET"), scope["type"] == "websocket"
        return cls(door=door, name=name, method=method, is_websocket=is_websocket, headers=headers)


class Refusal(Struct, frozen=True):
    """Why a request is not admitted; its headers are added to those of every answer."""

    status: int
    text: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


def admit(request: Request) -> Refusal | None:
    """Say why a request is refused; ``None`` if it may go on."""
    endpoint = _ENDPOINTS.get(request.name)
    if endpoint is None or (endpoint.is_local and request.door != "local"):
        return Refusal(404, f"orchestra has nothing called {request.name[:100]!r}")
    if request.door == "browser" and (reason := _foreign(request, endpoint)):
        return Refusal(403, reason)
    if request.is_websocket == (not endpoint.methods) and request.method in (endpoint.methods or ("GET",)):
        return None
    if not endpoint.methods:
        return Refusal(426, f"{request.name} is a WebSocket", ((b"Upgrade", b"websocket"),))
    methods = ", ".join(endpoint.methods)
    return Refusal(405, f"{request.name} takes {methods}", ((b"Allow", methods.encode("ascii")),))


def is_local(request: Request) -> bool:
    """Whether the client and the requested host are on this machine."""
    if request.door == "local":
        return True
    headers = request.headers
    return is_from_here(headers.get(b"host", b""), headers.get(b"x-forwarded-for", b"").split(b","))


def _foreign(request: Request, endpoint: _Endpoint) -> str:
    """Say why the browser's door refuses a request; empty if it does not."""
    headers = request.headers
    site, origin, host = headers.get(b"sec-fetch-site"), headers.get(b"origin"), headers.get(b"host", b"")
    if site is not None and site not in (b"same-origin", b"none"):
        return f"a page of another origin may not use {request.name}"
    if origin is not None and not is_own_origin(origin, host):
        return f"a page of another origin may not use {request.name}"
    if not endpoint.is_for_all and not is_local(request):
        return f"{request.name} is for this machine: its client and its Host have to be on loopback"
    is_of_page = site is not None or origin is not None
    if not is_of_page and request.name == "client.js":
        is_of_page = is_own_origin(b"/".join(headers.get(b"referer", b"").split(b"/")[:3]), host)
    if not is_of_page and not endpoint.is_for_programs:
        return f"{request.name} is for pages of this origin"
    return ""
