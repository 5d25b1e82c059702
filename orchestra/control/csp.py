"""Whether a Content-Security-Policy allows our script and its WebSocket.

The rules are those of Content Security Policy Level 3 (6.7.2), applied to our two addresses:
``/__orchestra__/client.js`` and ``/__orchestra__/live`` at the origin of the page. A policy is never changed.

Not here: which header or element a policy stands in (`inject`, `document`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote

from msgspec import Struct

from orchestra.control.pages import LIVE, SCRIPT
from orchestra.hosts import match_host

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestra.proxy.head import RequestHead

__all__ = ["Origin", "Verdict", "forbids_connection", "judge"]

_SCRIPT_DIRECTIVES = ("script-src-elem", "script-src", "default-src")
_CONNECT_DIRECTIVES = ("connect-src", "default-src")
# A sandboxed page without an origin could load the script, but its WebSocket would be refused.
_SANDBOX_NEEDS = {"allow-scripts", "allow-same-origin"}

# The grammar allows no character that would have to be escaped in an attribute.
_NONCE = re.compile(r"'[Nn][Oo][Nn][Cc][Ee]-([A-Za-z0-9+/_-]+={0,2})'")
_SCHEME_SOURCE = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_HOST_SOURCE = re.compile(
    r"(?:([a-z][a-z0-9+.-]*)://)?(\*|(?:\*\.)?[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(\*|\d{1,5}))?(/[^?#]*)?",
    re.IGNORECASE,
)
_DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}
# A scheme matches itself and this one; ws matches http by the specification, but not in Chromium.
_COVERS = {"http": "https", "ws": "wss"}

_Policy: TypeAlias = "dict[str, list[str]]"


class Origin(Struct, frozen=True):
    """The origin of a page, as its browser sees it."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, head: RequestHead) -> Origin:
        """Return the origin that a request is for; a tunnel reports whether its public side is https."""
        scheme = "https" if head.values.get(b"x-forwarded-proto") == b"https" else "http"
        match = match_host(head.host)
        host, port = match.groups() if match else (head.host, None)
        return cls(scheme, host.decode("latin-1").lower(), int(port) if port else _DEFAULT_PORTS[scheme])


class Verdict(Struct, frozen=True):
    """The directive that forbids the script, if any, otherwise the nonce that it needs, if any."""

    nonce: str = ""
    fault: str = ""


def judge(header: str, origin: Origin) -> Verdict:
    """Judge the value of ``Content-Security-Policy``: all its policies have to allow script and socket."""
    policies = [_directives(policy) for policy in header.split(",")]
    nonces = [nonce for policy in policies for nonce in _nonces(_effective(policy, _SCRIPT_DIRECTIVES)[1])]
    fault = _first(_sandbox_fault(policy) or _connect_fault(policy, origin) for policy in policies)
    # Two policies may require different nonces, and one of them allow our origin, too.
    for nonce in () if fault else (*nonces, ""):
        fault = _first(_script_fault(policy, nonce, origin) for policy in policies)
        if not fault:
            return Verdict(nonce)
    return Verdict(fault=_NONCE.sub("'nonce-...'", fault))


def forbids_connection(policy: str, origin: Origin) -> str:
    """Return the directive of a policy that forbids our WebSocket; empty if none does."""
    return _connect_fault(_directives(policy), origin)


def _first(faults: Iterable[str]) -> str:
    return next(filter(None, faults), "")


def _directives(policy: str) -> _Policy:
    found: _Policy = {}
    for directive in policy.split(";"):
        name, *values = directive.split() or [""]
        found.setdefault(name.lower(), values)
    return found


def _effective(policy: _Policy, names: tuple[str, ...]) -> tuple[str, list[str]]:
    """Return the first existing one of these directives, and its sources; without one, all are allowed."""
    return next(((name, policy[name]) for name in names if name in policy), ("", ["*"]))


def _nonces(sources: list[str]) -> list[str]:
    return [match[1] for source in sources if (match := _NONCE.fullmatch(source))]


def _sandbox_fault(policy: _Policy) -> str:
    flags = policy.get("sandbox")
    if flags is None or {flag.lower() for flag in flags} >= _SANDBOX_NEEDS:
        return ""
    return " ".join(["sandbox", *flags])


def _script_fault(policy: _Policy, nonce: str, origin: Origin) -> str:
    name, sources = _effective(policy, _SCRIPT_DIRECTIVES)
    if nonce in _nonces(sources):
        return ""
    # With it, addresses do not allow scripts that stand in the document.
    is_dynamic = "'strict-dynamic'" in map(str.lower, sources)
    if not is_dynamic and any(_covers(source, origin.scheme, SCRIPT, origin) for source in sources):
        return ""
    return " ".join([name, *sources])


def _connect_fault(policy: _Policy, origin: Origin) -> str:
    name, sources = _effective(policy, _CONNECT_DIRECTIVES)
    scheme = "wss" if origin.scheme == "https" else "ws"
    if any(_covers(source, scheme, LIVE, origin) for source in sources):
        return ""
    return " ".join([name, *sources])


def _covers(source: str, scheme: str, path: str, origin: Origin) -> bool:
    """Whether a source expression covers a path at our own origin."""
    if source == "*" or source.lower() == "'self'":
        return True
    if match := _SCHEME_SOURCE.fullmatch(source):
        return _covers_scheme(match[1], scheme)
    match = _HOST_SOURCE.fullmatch(source)
    if match is None:
        return False
    given, host, port, below = match.groups()
    return (
        _covers_scheme(given or origin.scheme, scheme)
        and _covers_host(host.lower(), origin.host)
        and (port == "*" or int(port or _DEFAULT_PORTS[scheme]) == origin.port)
        and _covers_path(unquote(below or "/"), path)
    )


def _covers_scheme(given: str, scheme: str) -> bool:
    given = given.lower()
    return scheme in (given, _COVERS.get(given))


def _covers_host(given: str, host: str) -> bool:
    return given in ("*", host) or (given.startswith("*.") and host.endswith(given[1:]))


def _covers_path(given: str, path: str) -> bool:
    return path.startswith(given) if given.endswith("/") else path == given
