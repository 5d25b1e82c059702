"""A pool of Node workers that render pages, on `orchestra.Supervisor`: how a framework builds on it.

The supervisor starts the workers, knows when they are ready, starts one again that has ended, and stops them:
5 s after SIGTERM it sends SIGKILL. The pool adds what only it knows: which worker a page is given to, which
line of output answers it, and when a worker is stuck.
"""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import trio

from orchestra import OrchestraError, Plan, ProcessPlan, Supervisor
from orchestra.events import Event, OutputLine, State, StateChanged

HERE = Path(__file__).parent
# Seconds that a page may take, and that a request waits for a worker which is being started again.
TIMEOUT = 5.0


class RenderError(Exception):
    """A page was not rendered; the text says why."""


class _Asked:
    """One page that a worker was asked for."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.answer: dict[str, Any] = {}

    def set(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.answered.set()


class Pool:
    """Workers, and the pages that they have been asked for.

    Args:
        size: How many workers there are.
        timeout: Seconds that a page may take.
    """

    def __init__(self, size: int = 2, *, timeout: float = TIMEOUT) -> None:
        names = [f"render-{number}" for number in range(1, size + 1)]
        self.timeout = timeout
        self.supervisor = Supervisor(
            Plan(
                processes=tuple(
                    ProcessPlan(
                        name=name,
                        command="exec node worker.mjs",
                        cwd=HERE,
                        ready="log:^ready to render$",
                        stop_timeout=5.0,
                    )
                    for name in names
                )
            ),
            is_kept_open="always",
        )
        self._asked: dict[str, dict[int, _Asked]] = {name: {} for name in names}
        self._ids = count()
        self.supervisor.subscribe(self._take, OutputLine, StateChanged)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the workers until we are cancelled; `nursery.start` goes on when they are ready."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.supervisor.run)
            await self.supervisor.wait_ready()
            task_status.started()

    async def render(self, page: str, props: dict[str, Any]) -> str:
        """Render a page; once more, by another worker, if the first one ends meanwhile.

        Raises:
            RenderError: The page failed or took too long, or no worker can be started.
        """
        name = self._choose()
        answer = await self._ask(name, page, props)
        if "ended" in answer:
            answer = await self._ask(self._choose(other_than=name), page, props)
        if "html" not in answer:
            raise RenderError(str(answer.get("error") or answer["ended"]))
        return str(answer["html"])

    async def health(self) -> dict[str, Any]:
        """Say of each worker how it is, how many pages it has under way, and whether it answers."""
        newest, health = self.supervisor.snapshot(), {}
        for name, pages in self._asked.items():
            state, count = newest[name], len(pages)
            answer = await self._put(name, "ping", {}) if state.state is State.READY else {}
            answers = "html" in answer
            health[name] = {"state": state.state.value, "pid": state.pid, "pages": count, "answers": answers}
        return health

    def _choose(self, other_than: str = "") -> str:
        """Choose a worker: one that is ready, with the least to do."""
        newest = self.supervisor.snapshot()

        def rank(name: str) -> tuple[bool, bool, int]:
            return name == other_than, newest[name].state is not State.READY, len(self._asked[name])

        return min(self._asked, key=rank)

    async def _ask(self, name: str, page: str, props: dict[str, Any]) -> dict[str, Any]:
        """Have one worker render a page, when it is ready."""
        try:
            await self.supervisor.wait_ready([name], self.timeout)
        except OrchestraError as exc:
            return {"error": exc.message}
        return await self._put(name, page, props)

    async def _put(self, name: str, page: str, props: dict[str, Any]) -> dict[str, Any]:
        """Give a page to one worker; restart it if that takes too long."""
        number, asked = next(self._ids), _Asked()
        self._asked[name][number] = asked
        try:
            with trio.move_on_after(self.timeout):
                await self.supervisor.send(
                    name, json.dumps({"id": number, "page": page, "props": props}) + "\n"
                )
                await asked.answered.wait()
                return asked.answer
        except OrchestraError as exc:
            return {"ended": exc.message}
        finally:
            del self._asked[name][number]
        await self.supervisor.restart(name)
        return {"error": f"{page} took more than {self.timeout:g} s; {name} was restarted"}

    def _take(self, event: Event) -> None:
        match event:
            case OutputLine(process=name, text=text) if text.startswith('{"id":'):
                answer = json.loads(text)
                if (asked := self._asked[name].get(answer["id"])) is not None:
                    asked.set(answer)
            case StateChanged(process=name, state=state, reason=reason) if state is not State.READY:
                if state is not State.STOPPING:  # it finishes what it has begun
                    for asked in self._asked[name].values():
                        asked.set({"ended": f"{name} has ended: {reason or state.value}"})
