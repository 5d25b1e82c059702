"""What answers at the sockets of a child without a role: Vite, another HTTP server, or neither.

``/@vite/client`` answered with JavaScript is Vite, whatever started it. Below a base (``/app/``, Nuxt's
``/_nuxt/``) it is where ``/`` redirects to, or where the page refers to. Any other HTTP answer is that of
another server. Each socket is asked once, but never that of a program that is known not to speak HTTP (MySQL
locks out clients that talk nonsense, Redis logs an attack); one that has not answered yet may be importing
its program, and is waited for.

Not here: what follows for roles (`config/roles`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

import trio

from orchestra.child import probe, sockets
from orchestra.config.roles import NOT_HTTP, SILENT_AFTER, Seen

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestra.config.plan import Address
    from orchestra.supervision.runtime import Run

__all__ = ["ask_sockets", "identify"]

# A server that has several sockets opens them within this time: Vite's may not be the first.
_SETTLE_TIME = 0.5

# Seconds for one answer: a first request may compile, migrate or connect.
_TIMEOUT = 60.0
# How long the rest of an answer is waited for, when its beginning is there.
_REST_TIMEOUT = 2.0
_CLIENT = "@vite/client"
_REFERENCE = re.compile(rb"""["'](/[^"'\s]*?)@vite/client["'?]""")


class _Answer(NamedTuple):
    status: int
    content_type: str
    location: str
    body: bytes


async def ask_sockets(
    leader: int,
    port: int | None,
    run: Run,
    *,
    is_open: Callable[[], bool],
    may_be_vite: Callable[[], bool],
    report: Callable[[Seen], object],
) -> Address | None:
    """Ask each new socket of a child, until one answers HTTP.

    Args:
        leader: The pid of the child.
        port: What its ``PORT`` says.
        run: Scans and asks.
        is_open: Whether it still matters.
        may_be_vite: Whether Vite is told apart.
        report: Called with what its sockets have shown.

    Returns:
        Where it answers; ``None`` if it does not matter any more.
    """
    began, first_answer = trio.current_time(), 0.0
    asked: dict[Address, Seen] = {}
    newest_sockets = run.scanner.looking_at(leader)
    while is_open():
        found = sockets.in_order_of_preference(await newest_sockets(), port)
        for each in found:
            if is_open() and asked.get(each, Seen.NOTHING) is Seen.NOTHING:
                is_known = NOT_HTTP & await run.runtime.programs(leader, each.port)
                ask = run.runtime.identify
                asked[each] = Seen.SILENT if is_known else await ask(each, may_be_vite=may_be_vite())
        now = trio.current_time()
        for seen in (Seen.VITE, Seen.HTTP):
            answering = next((each for each in found if asked.get(each) is seen), None)
            if answering is None:
                continue
            first_answer = first_answer or now
            if seen is Seen.HTTP and may_be_vite() and now - first_answer < _SETTLE_TIME:
                continue
            report(seen)
            return answering
        if now - began >= SILENT_AFTER and not first_answer and Seen.NOTHING not in asked.values():
            report(Seen.SILENT)
    return None


async def identify(socket: Address, *, may_be_vite: bool) -> Seen:
    """Ask what answers at a socket.

    Args:
        socket: Where it is.
        may_be_vite: Whether Vite is told apart; else one question for ``/`` is enough.

    Returns:
        `Seen.VITE`, `Seen.HTTP`, `Seen.SILENT` if it does not speak HTTP, `Seen.NOTHING` if it has not
        answered in time.
    """
    try:
        if may_be_vite and await _is_client(socket, "/"):
            return Seen.VITE
        page = await _get(socket, "/")
        if page is None:
            return Seen.SILENT
        if may_be_vite:
            for base in _bases(page):
                if await _is_client(socket, base):
                    return Seen.VITE
    except trio.TooSlowError:
        return Seen.NOTHING
    return Seen.HTTP


def _bases(page: _Answer) -> list[str]:
    """Give the paths below which Vite may be, by what ``/`` was answered with."""
    bases = ["/_nuxt/"] if page.status == 200 else []
    if 300 <= page.status < 400:
        bases.append(urlsplit(urljoin("/", page.location)).path)
    bases += [match.decode("ascii", "replace") for match in _REFERENCE.findall(page.body)]
    return [base for base in dict.fromkeys(bases) if base not in ("", "/")][:3]


async def _is_client(socket: Address, base: str) -> bool:
    answer = await _get(socket, base.rstrip("/") + "/" + _CLIENT)
    return answer is not None and answer.status == 200 and "javascript" in answer.content_type


async def _get(socket: Address, path: str) -> _Answer | None:
    """Ask for a path; ``None`` if what answers is not HTTP, or nothing does."""
    try:
        status, received = await probe.http_get(socket, path, within=_TIMEOUT, rest=_REST_TIMEOUT)
    except OSError:
        return None
    if status is None:
        return None
    head, _, body = received.partition(b"\r\n\r\n")
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
    }
    return _Answer(status, fields.get("content-type", ""), fields.get("location", ""), body)
