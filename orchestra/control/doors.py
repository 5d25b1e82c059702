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

Everything that decides is pure; a new rule is a new row in a table of `tests/test_control_doors.py`.

Every answer forbids embedding by other origins, and only the script may be cached.

Not here: the token and the files of `open` (`app`), which hosts the proxy serves at all (`hosts`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Literal, Self, TypeAlias

from msgspec import Struct

from orchestra.control.pages import client_script
from orchestra.hosts import is_from_here, is_own_origin

__all__ = [
    "Answer", "App", "Door", "Message", "Receive", "Request", "Scope", "Send", "admit", "begun", "is_local",
    "script_answer",
]  # fmt: skip

# ASGI's messages are dictionaries whose values have any type.
Message: TypeAlias = MutableMapping[str, Any]
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

_Headers: TypeAlias = tuple[tuple[bytes, bytes], ...]
_EVERY_ANSWER: _Headers = (
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
)

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


class Answer(Struct, frozen=True):
    """An answer; its headers are added to those of every one."""

    status: int
    body: bytes = b""
    media_type: bytes = b"text/plain; charset=utf-8"
    headers: _Headers = ()

    @classmethod
    def of(cls, status: int, text: str, headers: _Headers = ()) -> Self:
        """Make one of a line of text."""
        return cls(status, f"{text}\n".encode("utf-8", "replace"), headers=headers)

    async def send(self, request: Request, send: Send) -> None:
        """Answer a request, or the one for a WebSocket, which is refused by that."""
        kind = "websocket.http.response" if request.is_websocket else "http.response"
        length = () if self.status in (204, 304) else ((b"content-length", b"%d" % len(self.body)),)
        await send(begun(self.status, self.media_type, (*self.headers, *length), kind=kind))
        await send({"type": f"{kind}.body", "body": b"" if request.method == "HEAD" else self.body})


def admit(request: Request) -> Answer | None:
    """Say why a request is refused; ``None`` if it may go on."""
    endpoint = _ENDPOINTS.get(request.name)
    if endpoint is None or (endpoint.is_local and request.door != "local"):
        return Answer.of(404, f"orchestra has nothing called {request.name[:100]!r}")
    if request.door == "browser" and (reason := _foreign(request, endpoint)):
        return Answer.of(403, reason)
    if request.is_websocket == (not endpoint.methods) and request.method in (endpoint.methods or ("GET",)):
        return None
    if not endpoint.methods:
        return Answer.of(426, f"{request.name} is a WebSocket", ((b"upgrade", b"websocket"),))
    methods = ", ".join(endpoint.methods)
    return Answer.of(405, f"{request.name} takes {methods}", ((b"allow", methods.encode("ascii")),))


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


# --- Answers ---


def script_answer(request: Request) -> Answer:
    """Answer with the script that pages get."""
    script, tag = client_script()
    headers = (b"etag", tag), (b"cache-control", b"no-cache")
    if tag in request.headers.get(b"if-none-match", b""):
        return Answer(304, headers=headers)
    return Answer(200, script, b"text/javascript; charset=utf-8", headers)


def begun(status: int, media_type: bytes, headers: _Headers = (), *, kind: str = "http.response") -> Message:
    """Make the message that begins an answer."""
    has_own = any(name == b"cache-control" for name, _ in headers)
    return {
        "type": f"{kind}.start",
        "status": status,
        "headers": [
            *([] if status in (204, 304) else [(b"content-type", media_type)]),
            *([] if has_own else [(b"cache-control", b"no-store")]),
            *_EVERY_ANSWER,
            *headers,
        ],
    }
