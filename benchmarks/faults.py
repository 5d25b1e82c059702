"""Backends that hang, and that die in the middle: what a client may see of it, and what it must not."""

from __future__ import annotations

import os
import signal
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from benchmarks.harness import Failed
from benchmarks.restarted import (
    LOOK,
    PAUSE,
    RELOAD_LIMIT,
    SERVERS,
    Project,
    Server,
    counted,
    orchestra,
    reload,
)
from benchmarks.traffic import Traffic, ask_once

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from benchmarks.restarted import Orchestra
    from benchmarks.traffic import Address, Method

__all__ = ["FAULTS", "Fault"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with a backend, and what has to be seen of it.

    Attributes:
        server: The backend.
        happen: Has it happen, and returns what was seen; raises `Failed` if that must not be seen.
        is_ready: Whether the backend is ready before.
        is_long: It takes its time, however quickly the backend starts.
    """

    server: Server
    happen: Callable[[Project, Orchestra, Address], Awaitable[str]]
    is_ready: bool = True
    is_long: bool = False

    async def measure(self, *, start: float) -> str:
        """Have it happen.

        Raises:
            Failed: What was seen is not what has to be.
        """
        with tempfile.TemporaryDirectory() as folder:
            project = Project(Path(folder), self.server, start=start)
            async with orchestra(project) as (driven, address):
                if self.is_ready:
                    await driven.ready()
                wrong: Failed | None = None
                try:
                    return await self.happen(project, driven, address)
                except Failed as exc:
                    # Out of the nursery, before it wraps it into a group.
                    wrong = exc
            raise wrong


async def _refusal(address: Address, method: Method, target: str) -> str:
    """Return what is wrong with an answer; empty if nothing is."""
    try:
        await ask_once(address, method, target)
    except Failed as exc:
        return str(exc)
    return ""


async def _cut(project: Project, driven: Orchestra, address: Address, *, framing: str) -> str:
    """It dies in the middle of a body."""
    del project, driven
    seen = await _refusal(address, "GET", f"/cut?framing={framing}")
    if not seen.startswith("aborted"):
        raise Failed(f"half a body passed for a whole one, or was answered by {seen}")
    await ask_once(address, "GET", "/version")
    return f"{seen}; the next request was answered"


async def _stopped(project: Project, driven: Orchestra, address: Address, *, is_restarted: bool) -> str:
    """It is stopped by SIGSTOP, with requests on their way; orchestra is told to restart it, or sees that."""
    pid = int((await ask_once(address, "GET", "/version")).split()[1])
    os.kill(pid, signal.SIGSTOP)
    traffic = Traffic(address)
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(8):
            method: Method = "POST" if number % 2 else "GET"
            nursery.start_soon(traffic.visit_once, f"{method.lower()}-{number}", method)
        if is_restarted:
            # Long enough for what is sent to a process that nothing can be seen of.
            await trio.sleep(max(PAUSE))
            await driven.restart()
    seconds = trio.current_time() - begun
    gets = counted([sent.failure for sent in traffic.sent if sent.method == "GET" and sent.failure])
    posts = counted([sent.failure for sent in traffic.sent if sent.method == "POST" and sent.failure])
    if gets:
        raise Failed(f"GET failed: {gets}")
    if "no answer" in " ".join(posts):
        raise Failed(f"POST failed: {posts}")
    twice = [name for name, times in Counter(project.written_down("executed")).items() if times > 1]
    if any(name.startswith("post") for name in twice):
        raise Failed(f"executed twice: {twice}")
    await ask_once(address, "GET", "/version")
    return f"all GETs were answered and all POSTs told within {seconds:.1f} s"


async def _mute(project: Project, driven: Orchestra, address: Address) -> str:
    """It accepts, and never answers: it is never ready."""
    del project, driven
    begun = trio.current_time()
    seen: list[str] = []

    async def ask(method: Method) -> None:
        seen.append(await _refusal(address, method, "/version"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "GET")
        nursery.start_soon(ask, "POST")
    if not all(text.startswith("502") for text in seen):
        raise Failed(f"this is what came: {seen}")
    return f"502 to GET and POST, within {trio.current_time() - begun:.1f} s"


async def _endless(project: Project, driven: Orchestra, address: Address) -> str:
    """It has begun something that never ends, and a restart comes."""
    seen: list[str] = []

    async def ask() -> None:
        seen.append(await _refusal(address, "POST", "/never?id=never"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while not project.written_down("executed"):  # noqa: ASYNC110 - it is a file
            await trio.sleep(LOOK)
        seconds = await reload(project, driven, Traffic(address), 2)
        if seconds > RELOAD_LIMIT:
            nursery.cancel_scope.cancel()
    if seconds > RELOAD_LIMIT:
        raise Failed(f"the restart was not complete within {RELOAD_LIMIT:g} s: {driven.last_lines()}")
    if not seen or seen[0] in ("", "no answer") or project.written_down("executed") != ["never"]:
        raise Failed(f"the request: {seen}, executed: {project.written_down('executed')}")
    return f"{seen[0]}; restarted within {seconds:.1f} s"


_UVICORN = replace(SERVERS["uvicorn"], settings="stop_timeout = 1\n")
_UNATTENDED = replace(_UVICORN, settings="liveness = true\nrestart_unhealthy = true\nstop_timeout = 1\n")

FAULTS = {
    "dies in a body with a length": Fault(_UVICORN, partial(_cut, framing="length")),
    "dies in a chunked body": Fault(_UVICORN, partial(_cut, framing="chunked")),
    "SIGSTOP, then a restart": Fault(_UVICORN, partial(_stopped, is_restarted=True)),
    "SIGSTOP, liveness": Fault(_UNATTENDED, partial(_stopped, is_restarted=False), is_long=True),
    "never answers": Fault(
        Server("exec python app.py", app="mute", proxy="hold = 2\n"), _mute, is_ready=False
    ),
    "endless request, restart": Fault(_UVICORN, _endless),
    "endless request, reload": Fault(SERVERS["uvicorn --reload"], _endless),
}
