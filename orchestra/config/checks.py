"""Readiness checks: parses settings such as ``"http:/health"`` into one struct per check.

Not here: how a check is carried out, and where a new kind of check goes (`child.readiness`).
"""

from __future__ import annotations

import re
from math import isfinite
from typing import TypeAlias

from msgspec import Struct

from orchestra.config.plan import Address
from orchestra.patterns import regex

__all__ = [
    "FORMS",
    "UPGRADE_REQUIRED",
    "Check",
    "DelayCheck",
    "ExecCheck",
    "HttpCheck",
    "LogCheck",
    "TcpCheck",
    "parse_checks",
    "words_of",
]

FORMS = (
    '"tcp", "tcp:PORT", "tcp:HOST:PORT", "http", "http:/path", "http:/path=204", '
    '"http://HOST:PORT/path", "log:REGEX", "exec:COMMAND" or "delay:2"'
)
"""All forms, for people."""

_LONGEST_DELAY = 86400.0
_HTTP = regex(r"(?P<url>https?://[^\s/?#@=]+)?(?P<path>/[!-~]*?)?(?:=(?P<status>[1-5][0-9]{2}))?")
_PLACE = regex(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]:|(?P<host>[^\s:/\[\]]+):)?(?P<port>[0-9]{1,5})")
UPGRADE_REQUIRED = 426
"""The answer of a socket that accepts nothing but WebSockets."""


class TcpCheck(Struct, frozen=True):
    """A socket of the process tree listens, or something listens at the address `at` (a container's, say)."""

    at: Address | None = None


class HttpCheck(Struct, frozen=True):
    """A socket of the process tree listens, and answers ``GET path``.

    Attributes:
        status: The expected status; ``None``: any below `below`, except 426.
        below: 600 means any at all.
        at: The address of the server, whichever process that is.
    """

    path: str = "/"
    status: int | None = None
    below: int = 600
    at: Address | None = None

    def accepts(self, status: int) -> bool:
        """Whether an answer of this status passes the check."""
        if self.status is not None:
            return status == self.status
        return status < self.below and status != UPGRADE_REQUIRED


class LogCheck(Struct, frozen=True):
    """The process has written a line in which `pattern` is found; colours are ignored."""

    pattern: re.Pattern[str]


class ExecCheck(Struct, frozen=True):
    """A command, run in the folder and environment of the process, ends with 0."""

    command: str


class DelayCheck(Struct, frozen=True):
    """So many seconds have passed since the spawn."""

    seconds: float


Check: TypeAlias = TcpCheck | HttpCheck | LogCheck | ExecCheck | DelayCheck


def parse_checks(ready: str | tuple[str, ...] | None) -> tuple[Check, ...]:
    """Parse all checks of a process, perhaps none; `ValueError` says which is not valid, and why."""
    return tuple(_parse(each) for each in words_of(ready))


def words_of(ready: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Give the checks of a setting or a plan as they are written."""
    return (ready,) if isinstance(ready, str) else ready or ()


def _parse(text: str) -> Check:
    if text.startswith(("http://", "https://")):
        return _http(text, f"{text!r} is not a URL with a host, perhaps a port, and a path")
    kind, colon, value = text.partition(":")
    if text == "tcp":
        return TcpCheck()
    if text == "http":
        return HttpCheck()
    if not colon or kind not in ("tcp", "http", "log", "exec", "delay"):
        raise ValueError(f"{text!r} is not a valid check")
    if not value.strip():
        raise ValueError(f"there is nothing after the colon of {text!r}")
    match kind:
        case "tcp":
            return TcpCheck(_at_port(value))
        case "http":
            return _http(value if value[:1] == "/" else "?", f"{value!r} is not a path that begins with /")
        case "log":
            try:
                return LogCheck(re.compile(value))
            except re.error as exc:
                raise ValueError(f"{value!r} is not a regular expression: {exc}") from exc
        case "exec":
            return ExecCheck(value.strip())
        case _:
            return DelayCheck(_seconds(value))


def _at_port(text: str) -> Address:
    found = _PLACE.fullmatch(text)
    if found is None or not 0 < int(found["port"]) < 65536:
        raise ValueError(f"{text!r} is not a port, nor HOST:PORT")
    return Address(found["six"] or found["host"] or "localhost", int(found["port"]), "tcp")


def _http(text: str, wrong: str) -> HttpCheck:
    """Parse a path, or a URL with a host, and the expected status; `ValueError` has the text `wrong`."""
    found = _HTTP.fullmatch(text)
    if found is None:
        raise ValueError(wrong)
    try:
        at = None if found["url"] is None else Address.of_url(found["url"])
    except ValueError as exc:  # of its port
        raise ValueError(wrong) from exc
    status = None if found["status"] is None else int(found["status"])
    return HttpCheck(found["path"] or "/", status, below=500, at=at)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not isfinite(seconds) or not 0 <= seconds <= _LONGEST_DELAY:
        raise ValueError(f"{text!r} is not a number of seconds from 0 to {_LONGEST_DELAY:g}")
    return seconds
