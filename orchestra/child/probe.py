"""One probe of one process: does it answer? An attempt either succeeds or says why it did not.

The HTTP probe is one plain ``GET`` on a connection of its own. Unless the check says otherwise, any answer
counts, ``500`` included: it shows that the server works, not just its socket (the parent of
``uvicorn --reload`` accepts connections while its app cannot even be imported). Only ``426 Upgrade Required``
does not count: such a socket serves nothing but WebSockets, as Nuxt's HMR socket. A server that expects TLS
shows it in its reaction to plain HTTP: an alert, no answer, or an error text. Then it is probed over TLS.

`identify` recognises Vite, whatever started it: ``/@vite/client`` is answered with JavaScript. The request
looks like one for a script, because Vite 2 serves that path to nothing that accepts pages. Below a base
(``/app/``, Nuxt's ``/_nuxt/``), the path is where ``/`` redirects to, or where the page refers to. A page
that loads files below ``/_next/`` is Next.js's. Any other HTTP answer means another server.

Not here: when sockets are probed, which ones, and what follows (`readiness`, `supervision/roles`).
"""

from __future__ import annotations

import re
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin, urlsplit

import trio
from msgspec.structs import replace

from orchestra.child.families import with_mark
from orchestra.child.spawn import SpawnError, run_child
from orchestra.config.checks import UPGRADE_REQUIRED, HttpCheck
from orchestra.config.roles import Seen
from orchestra.patterns import regex
from orchestra.resolving import connected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from orchestra.config.plan import Address

__all__ = [
    "HTTP_TIMEOUT",
    "Answer",
    "Reply",
    "exec_answer",
    "http_answer",
    "http_get",
    "identify",
    "tcp_answer",
]

# Long, because a probe is the only one in flight: a first request may compile, migrate or connect.
HTTP_TIMEOUT = 10.0
_TCP_TIMEOUT = 1.0
_EXEC_TIMEOUT = 10.0
# Nothing waits for it, and a first request may take longer than others.
_IDENTIFY_TIMEOUT = 60.0
# Seconds for the rest of an answer after its beginning.
_REST_TIMEOUT = 2.0
# Some servers log a client that hangs up before the end of a short answer.
_LINGER = 0.2
# Enough for the head of a page, with its first script.
_MAX_BYTES = 65536
_STATUS_LINE = regex(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r]")
# A status line is complete with the blank after the status.
_STATUS_LENGTH = len(b"HTTP/1.1 200 ")
_ANY_ANSWER = HttpCheck()
# The ``Accept`` of a browser's window.
_PAGES = "text/html, */*"
# Answers of Go's server, nginx and Apache to a client that does not use TLS.
_WANTS_TLS = regex(rb"HTTPS (?:server|port)|SSL-enabled", re.IGNORECASE)
_CLIENT = "/@vite/client"
_REFERENCE = regex(rb"""["'](/[^"'\s]*?)@vite/client["'?]""")
_NEXT = b'"/_next/'


class Reply(NamedTuple):
    """An answer.

    Attributes:
        received: The bytes received, head included, up to 64 KiB.
        at: The address of the probe, with the scheme by which it answered.
    """

    received: bytes
    at: Address

    @property
    def status(self) -> int | None:
        """The status; ``None`` if it is not HTTP."""
        found = _STATUS_LINE.match(self.received)
        return int(found[1]) if found else None

    @property
    def body(self) -> bytes:
        """The part of the body that was received."""
        return self.received.partition(b"\r\n\r\n")[2]

    def field(self, name: str) -> str:
        """Give a field of the head; empty if there is none of that name."""
        head = self.received.partition(b"\r\n\r\n")[0].decode("latin-1")
        found = re.search(rf"^{name} *: *(.*?)\s*$", head, re.IGNORECASE | re.MULTILINE)
        return found[1] if found is not None else ""

    @property
    def is_script(self) -> bool:
        """Whether the answer is a script."""
        return self.status == 200 and "javascript" in self.field("content-type")

    @property
    def is_enough(self) -> bool:
        """Whether it is complete or long enough: some servers keep the connection open after an answer."""
        length = self.field("content-length")
        is_whole = b"\r\n\r\n" in self.received and length.isdecimal() and len(self.body) >= int(length)
        return is_whole or len(self.received) >= _MAX_BYTES


class Answer(NamedTuple):
    """The result of a probe.

    Attributes:
        missing: What was wrong, in words; empty if the probe succeeded.
        is_unfit: Whether this socket does not serve HTTP, so that later probes would fail, too.
    """

    missing: str
    at: Address
    is_unfit: bool = False


async def http_answer(at: Address, *, check: HttpCheck = _ANY_ANSWER, within: float = HTTP_TIMEOUT) -> Answer:
    """Request a path and wait for the beginning of an answer, for `within` seconds."""
    try:
        reply = await http_get(at, check.path, within=within, rest=_LINGER)
    except trio.TooSlowError:
        return Answer(f"{at.place} is open, HTTP times out", at)
    except OSError as exc:
        return Answer(f"{at.place}: {exc}", at)
    status, at = reply.status, reply.at
    if status is None:
        return Answer(f"{at.place} is open, but does not speak HTTP", at, is_unfit=True)
    if check.accepts(status):
        return Answer("", at)
    if status == UPGRADE_REQUIRED:
        return Answer(f"{at.place} is for WebSockets alone (it answers 426)", at, is_unfit=True)
    wanted = "below 500" if check.status is None else str(check.status)
    return Answer(f"{at.place} answers {check.path} with {status}, not {wanted}", at)


async def http_get(at: Address, path: str, *, within: float, rest: float, accept: str = _PAGES) -> Reply:
    """Request a path, and hang up; over TLS, too, if the server seems to expect that.

    The beginning of an answer may take `within` seconds (otherwise `trio.TooSlowError`), the remainder `rest`
    more; `OSError`: no connection, or no bytes arrive.
    """
    until = trio.current_time() + within
    failure: OSError | None = None
    reply = Reply(b"", at)
    try:
        reply = await _get(at, path, until=until, rest=rest, accept=accept)
    except ConnectionRefusedError:
        raise
    except OSError as exc:
        failure = exc
    is_plain = reply.status is not None and not (reply.status == 400 and _WANTS_TLS.search(reply.received))
    if at.scheme not in ("https", "unix") and not is_plain:
        with suppress(OSError, trio.TooSlowError):
            over_tls = await _get(replace(at, scheme="https"), path, until=until, rest=rest, accept=accept)
            if over_tls.status is not None:
                return over_tls
    if failure is not None:
        raise failure
    return reply


async def _get(at: Address, path: str, *, until: float, rest: float, accept: str) -> Reply:
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {at}\r\nUser-Agent: orchestra-probe\r\n"
        f"Accept: {accept}\r\nConnection: close\r\n\r\n"
    )
    reply = Reply(b"", at)
    with trio.CancelScope(deadline=until) as limit:
        try:
            async with await _dial_for_http(at) as stream:
                await stream.send_all(request.encode("ascii", "replace"))
                while not reply.is_enough and (chunk := await stream.receive_some(65536)):
                    reply = reply._replace(received=reply.received + chunk)
                    if len(reply.received) >= _STATUS_LENGTH:
                        limit.deadline = min(limit.deadline, trio.current_time() + rest)
        except (OSError, trio.BrokenResourceError) as exc:
            if not reply.received:
                cause = exc.__cause__ or exc
                raise (cause if isinstance(cause, OSError) else OSError(str(cause))) from exc
    if limit.cancelled_caught and not reply.received:
        raise trio.TooSlowError
    return reply


async def _dial_for_http(at: Address) -> trio.abc.Stream:
    stream = trio.SocketStream(await connected(at))
    if at.scheme != "https":
        return stream
    # A development server has a certificate of its own, and a probe sends no secrets.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return trio.SSLStream(stream, context, server_hostname="localhost", https_compatible=True)


async def identify(socket: Address) -> tuple[Seen, Address]:
    """Identify the server at a socket; return that, and the socket with the scheme that it speaks.

    `Seen.SILENT`: it does not speak HTTP, or is for WebSockets alone; `Seen.NOTHING`: no answer in time.
    """
    try:
        client = await _ask(socket, _CLIENT)
        if client is None or client.status == UPGRADE_REQUIRED:
            return Seen.SILENT, socket
        if client.is_script:
            return Seen.VITE, client.at
        page = await _ask(client.at, "/", _PAGES)
        for base in _bases(page) if page is not None else ():
            other = await _ask(client.at, base.rstrip("/") + _CLIENT)
            if other is not None and other.is_script:
                return Seen.VITE, client.at
    except trio.TooSlowError:
        return Seen.NOTHING, socket
    is_next = page is not None and _NEXT in page.body
    return Seen.NEXT if is_next else Seen.HTTP, client.at


def _bases(page: Reply) -> list[str]:
    """Give the paths below which Vite may be, by the answer to ``/``."""
    status = page.status or 0
    bases = ["/_nuxt/"] if status == 200 else []
    if 300 <= status < 400:
        bases.append(urlsplit(urljoin("/", page.field("location"))).path)
    bases += [match.decode("ascii", "replace") for match in _REFERENCE.findall(page.body)]
    return [base for base in dict.fromkeys(bases) if base not in ("", "/")][:3]


async def _ask(socket: Address, path: str, accept: str = "*/*") -> Reply | None:
    """Request a path; ``None`` if the answer is not HTTP, or there is none."""
    with suppress(OSError):
        reply = await http_get(socket, path, within=_IDENTIFY_TIMEOUT, rest=_REST_TIMEOUT, accept=accept)
        return reply if reply.status is not None else None
    return None


async def tcp_answer(at: Address) -> str:
    """Connect, and hang up; return what was wrong, in words."""
    with trio.move_on_after(_TCP_TIMEOUT):
        try:
            with await connected(at):
                return ""
        except OSError as exc:
            return f"{at.place}: {exc}"
    return f"{at.place} times out"


async def exec_answer(command: str, *, cwd: Path, env: Mapping[str, str]) -> str:
    """Run a command, and end what it has started; return what was wrong, in words, with its last line."""
    env, last = with_mark(env), ""

    async def keep(_stream: object, lines: Sequence[str], _partial: object) -> None:
        nonlocal last
        last = next((line for line in reversed(lines) if line.strip()), last)
        await trio.lowlevel.checkpoint()

    with trio.move_on_after(_EXEC_TIMEOUT):
        try:
            how = await run_child(f"exec 2>&1; {command}", cwd=cwd, env=env, on_output=keep, stop_timeout=0.0)
        except SpawnError as exc:
            return f"`{command}` {exc.message}"
        if how.code == 0:
            return ""
        return f"`{command}` ends with {how.shell_code}" + (f": {last}" if last else "")
    return f"`{command}` takes longer than {_EXEC_TIMEOUT:g} s"
