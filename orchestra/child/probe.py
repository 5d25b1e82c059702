"""One question to one process: is it there? An attempt either succeeds or says why it did not.

The HTTP question is one plain ``GET`` on a connection of its own. Where nothing else is asked for, any answer
will do, ``500`` included: it shows that the server, not just its socket, is at work (the parent of ``uvicorn
--reload`` accepts connections while its app cannot even be imported).

Not here: how often, and what follows from it (`readiness`).
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from subprocess import DEVNULL, PIPE, STDOUT
from typing import TYPE_CHECKING

import trio

from orchestra.child.lines import clean
from orchestra.config.checks import HttpCheck

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from orchestra.config.plan import Address

__all__ = ["HTTP_TIMEOUT", "exec_answer", "http_answer", "http_get", "tcp_answer"]

# Long, because the question is asked one at a time: a first request may compile, migrate or connect.
HTTP_TIMEOUT = 10.0
_TCP_TIMEOUT = 1.0
_EXEC_TIMEOUT = 10.0
# Seconds after SIGKILL: a process that is still there then cannot be ended by us.
_AFTER_KILL = 2.0
# A client that hangs up before the end of a short answer is logged as one.
_LINGER = 0.2
# Enough for the head of a page, where its first script is.
_MAX_BYTES = 65536
# Bytes that are kept of what a command says: its last line is quoted.
_KEPT_OUTPUT = 2048
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})[ \r]")
# A status line is complete with its first blank behind the status.
_STATUS_LENGTH = len(b"HTTP/1.1 200 ")
_ANY_ANSWER = HttpCheck()


async def http_answer(at: Address, *, check: HttpCheck = _ANY_ANSWER, within: float = HTTP_TIMEOUT) -> str:
    """Ask for a path and wait for the beginning of an answer.

    Args:
        at: Where to ask, by a literal address.
        check: What is asked for, and which answers will do.
        within: Seconds for all of it.

    Returns:
        An empty string after an answer that will do, else what was wrong, in words.
    """
    try:
        status, _ = await http_get(at, check.path, within=within, rest=_LINGER)
    except trio.TooSlowError:
        return f"port {at.port} is open, HTTP times out"
    except OSError as exc:
        return f"port {at.port}: {exc}"
    if status is None:
        return f"port {at.port} is open, but does not speak HTTP"
    if not check.accepts(status):
        wanted = "below 500" if check.status is None else str(check.status)
        return f"port {at.port} answers {check.path} with {status}, not {wanted}"
    return ""


async def http_get(at: Address, path: str, *, within: float, rest: float) -> tuple[int | None, bytes]:
    """Ask for a path, and hang up.

    Args:
        at: Where to ask.
        path: What is asked for.
        within: Seconds until the beginning of an answer.
        rest: Seconds for what follows it.

    Returns:
        The status, ``None`` if that is not HTTP, and all that has come, up to 64 KiB.

    Raises:
        OSError: No connection, or nothing comes by it.
        trio.TooSlowError: Nothing comes in time.
    """
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {at}\r\nUser-Agent: orchestra-probe\r\n"
        "Accept: text/html, */*\r\nConnection: close\r\n\r\n"
    )
    received = b""
    with trio.move_on_after(within) as limit:
        try:
            async with await _dial(at) as stream:
                await stream.send_all(request.encode("ascii", "replace"))
                while len(received) < _MAX_BYTES and (chunk := await stream.receive_some(65536)):
                    received += chunk
                    if len(received) >= _STATUS_LENGTH:
                        limit.deadline = min(limit.deadline, trio.current_time() + rest)
        except (OSError, trio.BrokenResourceError) as exc:
            if not received:
                raise OSError(str(exc.__cause__ or exc)) from exc
    if limit.cancelled_caught and not received:
        raise trio.TooSlowError
    found = _STATUS_LINE.match(received)
    return int(found[1]) if found else None, received


async def tcp_answer(at: Address) -> str:
    """Connect, and hang up; return what was wrong, in words."""
    with trio.move_on_after(_TCP_TIMEOUT):
        try:
            async with await _dial(at):
                return ""
        except OSError as exc:
            return f"port {at.port}: {exc}"
    return f"port {at.port} times out"


async def _dial(at: Address) -> trio.SocketStream:
    # Not open_tcp_stream: the host is an address, and its ExceptionGroups say nothing more.
    dialled = trio.socket.socket(trio.socket.AF_INET6 if ":" in at.host else trio.socket.AF_INET)
    try:
        await dialled.connect((at.host, at.port))
    except BaseException:
        dialled.close()
        raise
    return trio.SocketStream(dialled)


async def exec_answer(command: str, *, cwd: Path, env: Mapping[str, str]) -> str:
    """Run a command for ``/bin/sh -c`` to its end; return what was wrong, in words, with its last line.

    Whatever it has started is ended with it, if it stays in its process group.
    """
    try:
        process = await trio.lowlevel.open_process(
            ["/bin/sh", "-c", command],
            cwd=cwd,
            env=dict(env),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            start_new_session=True,
        )
    except OSError as exc:
        return f"`{command}` cannot be run: {exc.strerror}"
    assert process.stdout is not None  # noqa: S101 - asked for
    said = b""
    try:
        with trio.move_on_after(_EXEC_TIMEOUT) as limit:
            async for chunk in process.stdout:
                said = (said + chunk)[-_KEPT_OUTPUT:]
            await process.wait()
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.move_on_after(_AFTER_KILL, shield=True):
            await process.stdout.aclose()
            await process.wait()
    if limit.cancelled_caught:
        return f"`{command}` takes longer than {_EXEC_TIMEOUT:g} s"
    if process.returncode == 0:
        return ""
    last = clean(said.decode("utf-8", "replace").strip().rpartition("\n")[2])
    return f"`{command}` ends with {process.returncode}" + (f": {last}" if last else "")
