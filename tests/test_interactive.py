"""What keys ask for is done on this machine: a browser, a file, orders; and it is said what came of it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from orchestra.control.local import Order
from orchestra.dashboard.controls import Act, Controls
from orchestra.errors import OrchestraError
from orchestra.events import State, StateChanged
from orchestra.interactive import Operator
from tests.dashboard_kit import STARTED, model_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Stage:
    """An operator, the orders that it has given, and what was said."""

    def __init__(self, nursery: trio.Nursery) -> None:
        failed = StateChanged(process="api", state=State.FAILED, previous=State.STARTING)
        self.controls = Controls(model_of(STARTED, failed))
        self.orders: list[Order] = []
        self.left = trio.Event()
        self.operator = Operator(self.controls, self._obey, self.left.set, nursery)

    async def _obey(self, order: Order) -> None:
        await trio.lowlevel.checkpoint()
        self.orders.append(order)
        if order.processes == ("gone",):
            raise KeyError("gone")
        if order.processes == ("late",):
            raise OrchestraError("the run is ending")

    async def said(self) -> str:
        """Wait until something is said."""
        with trio.fail_after(20):
            while not self.controls.look.message:  # noqa: ASYNC110 - no event tells
                await trio.sleep(0.01)
        return self.controls.look.message


@asynccontextmanager
async def operating() -> AsyncIterator[Stage]:
    async with trio.open_nursery() as nursery:
        stage = Stage(nursery)
        nursery.start_soon(stage.operator.send_typed)
        yield stage
        nursery.cancel_scope.cancel()


async def test_orders_are_given_to_the_run() -> None:
    order = Order(do="restart", processes=("api",))
    async with operating() as stage:
        stage.operator.perform(order)
        await trio.testing.wait_all_tasks_blocked()
        assert stage.orders == [order]


async def test_what_is_typed_is_sent_in_order_and_characters_stay_whole() -> None:
    async with operating() as stage:
        for data in (b"a\xc3", b"\xa9", b"b"):
            stage.operator.send("api", data)
        await trio.testing.wait_all_tasks_blocked()
        assert "".join(order.text for order in stage.orders) == "a\N{LATIN SMALL LETTER E WITH ACUTE}b"
        assert {order.do for order in stage.orders} == {"send"}


@pytest.mark.parametrize(
    ("process", "said"), [("gone", "there is no process 'gone'"), ("late", "the run is ending")]
)
async def test_what_cannot_be_done_is_said(process: str, said: str) -> None:
    async with operating() as stage:
        stage.operator.perform(Order(do="restart", processes=(process,)))
        assert await stage.said() == said


async def test_q_leaves() -> None:
    async with operating() as stage:
        stage.operator.perform(Act("quit"))
        await stage.left.wait()


@pytest.mark.parametrize(
    ("url", "code"), [("http://127.0.0.1:8000", 0), ("http://127.0.0.1:8000", 3), ("", 0)]
)
async def test_the_browser_is_opened(
    url: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("xdg-open", "open"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/opened; exit {code}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    async with operating() as stage:
        stage.operator.perform(Act("open", text=url))
        if not url:
            assert await stage.said() == "this run has no address"
        elif code:
            assert await stage.said() == f"no browser could be opened: {url}"
        else:
            opened = tmp_path / "opened"
            with trio.fail_after(20):
                while not (opened.exists() and opened.read_text() == f"{url}\n"):  # noqa: ASYNC110 - likewise
                    await trio.sleep(0.01)


async def test_the_log_is_written_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with operating() as stage:
        stage.operator.perform(Act("write", text="api | hello\n"))
        said = await stage.said()
        (path,) = tmp_path.glob("orchestra-*.log")
        assert said == f"written to {path}"
        assert path.read_text() == "api | hello\n"
