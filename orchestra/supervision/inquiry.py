"""What answers at a socket of a child without a role: Vite, another HTTP server, or neither.

``/@vite/client`` answered with JavaScript is Vite, whatever started it. It is asked for as a script: Vite 2
has it for nothing that accepts pages. Below a base (``/app/``, Nuxt's
``/_nuxt/``) it is where ``/`` redirects to, or where the page refers to. A page that loads files below
``/_next/`` is Next.js's. Any other HTTP answer is that of another server.

Not here: which sockets are asked, and when (`roles`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

import trio

from orchestra.child import probe
from orchestra.config.checks import UPGRADE_REQUIRED
from orchestra.config.roles import Seen

if TYPE_CHECKING:
    from orchestra.config.plan import Address

__all__ = ["identify"]

# Seconds for one answer: a first request may compile, migrate or connect.
_TIMEOUT = 60.0
# How long the rest of an answer is waited for, when its beginning is there.
_REST_TIMEOUT = 2.0
_CLIENT = "/@vite/client"
_NEXT = b'"/_next/'
_REFERENCE = re.compile(rb"""["'](/[^"'\s]*?)@vite/client["'?]""")


class _Answer(NamedTuple):
    status: int
    content_type: str
    location: str
    body: bytes
    at: Address

    @property
    def is_script(self) -> bool:
        return self.status == 200 and "javascript" in self.content_type


async def identify(socket: Address) -> tuple[Seen, Address]:
    """Ask what answers at a socket; give that, and the socket with the scheme by which it answers.

    `Seen.SILENT`: it does not speak HTTP, or is for WebSockets alone; `Seen.NOTHING`: no answer in time.
    """
    try:
        client = await _get(socket, _CLIENT)
        if client is None or client.status == UPGRADE_REQUIRED:
            return Seen.SILENT, socket
        if client.is_script:
            return Seen.VITE, client.at
        page = await _get(client.at, "/", "text/html, */*")
        for base in _bases(page) if page is not None else ():
            other = await _get(client.at, base.rstrip("/") + _CLIENT)
            if other is not None and other.is_script:
                return Seen.VITE, client.at
    except trio.TooSlowError:
        return Seen.NOTHING, socket
    is_next = page is not None and _NEXT in page.body
    return Seen.NEXT if is_next else Seen.HTTP, client.at


def _bases(page: _Answer) -> list[str]:
    """Give the paths below which Vite may be, by what ``/`` was answered with."""
    bases = ["/_nuxt/"] if page.status == 200 else []
    if 300 <= page.status < 400:
        bases.append(urlsplit(urljoin("/", page.location)).path)
    bases += [match.decode("ascii", "replace") for match in _REFERENCE.findall(page.body)]
    return [base for base in dict.fromkeys(bases) if base not in ("", "/")][:3]


async def _get(socket: Address, path: str, accept: str = "*/*") -> _Answer | None:
    """Ask for a path; ``None`` if what answers is not HTTP, or nothing does."""
    try:
        status, received, at = await probe.http_get(
            socket, path, within=_TIMEOUT, rest=_REST_TIMEOUT, accept=accept
        )
    except OSError:
        return None
    if status is None:
        return None
    head, _, body = received.partition(b"\r\n\r\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    }
    return _Answer(status, fields.get("content-type", ""), fields.get("location", ""), body, at)
