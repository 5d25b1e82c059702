from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from orchestra.dashboard.printers import JsonPrinter
from orchestra.events import Notice, RequestFinished, RunEnded, StreamClosed, StreamOpened
from tests.dashboard_kit import READY, STARTED, begun, line, printed
from tests.events_kit import moment

if TYPE_CHECKING:
    from orchestra.events import Event


async def json_of(*events: Event) -> list[dict[str, Any]]:
    return [json.loads(shown) for shown in await printed(JsonPrinter, *events)]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (
            STARTED,
            {
                "type": "run.started",
                "version": "1.2",
                "pid": 9,
                "procfile": "Procfile",
                "url": "http://127.0.0.1:8000",
                "processes": ["vite", "api"],
            },
        ),
        (
            READY,
            {
                "type": "process.state",
                "process": "vite",
                "state": "ready",
                "previous": "starting",
                "pid": 7,
                "port": 5173,
                "url": "http://[::1]:5173",
                "second_url": None,
                "restarts": 0,
                "exit_code": None,
                "signal": None,
                "reason": "",
                "ready_after": 1.5,
                "ended_before_ready": False,
                "last_lines": [],
            },
        ),
        (
            line("\x1b[31mnaïve\x1b[0m\t✓"),
            {"type": "process.output", "process": "vite", "stream": "stdout", "text": "naïve\t✓"},
        ),
        (
            RequestFinished(
                time=moment(0.0),
                id=3,
                method="GET",
                target="/x",
                status=None,
                upstream="backend",
                reason="r",
                held=1.5,
                first_byte=None,
                duration=2.5,
                bytes_in=1,
                bytes_out=2,
                outcome="client-gone",
            ),
            {
                "type": "request.finished",
                "id": 3,
                "method": "GET",
                "target": "/x",
                "status": None,
                "upstream": "backend",
                "reason": "r",
                "held": 1.5,
                "first_byte": None,
                "duration": 2.5,
                "bytes_in": 1,
                "bytes_out": 2,
                "outcome": "client-gone",
            },
        ),
        (
            StreamOpened(time=moment(0.0), id=4, kind="hmr", target="/", upstream="frontend"),
            {"type": "stream.opened", "id": 4, "kind": "hmr", "target": "/", "upstream": "frontend"},
        ),
        (
            StreamClosed(
                time=moment(0.0),
                id=4,
                kind="hmr",
                target="/",
                upstream="frontend",
                code=1001,
                duration=1.5,
                bytes_in=1,
                bytes_out=2,
            ),
            {
                "type": "stream.closed",
                "id": 4,
                "kind": "hmr",
                "target": "/",
                "upstream": "frontend",
                "code": 1001,
                "duration": 1.5,
                "bytes_in": 1,
                "bytes_out": 2,
            },
        ),
        (
            Notice(time=moment(0.0), level="error", code="c", text="t", hint="h"),
            {"type": "notice", "level": "error", "code": "c", "text": "t", "hint": "h", "process": None},
        ),
        (
            RunEnded(time=moment(0.0), exit_code=3, reason="r", duration=1.5),
            {"type": "run.ended", "exit_code": 3, "reason": "r", "duration": 1.5},
        ),
    ],
)
async def test_json_has_the_keys_of_the_contract(event: Event, expected: dict[str, Any]) -> None:
    (shown,) = await json_of(event)
    del shown["time"]
    assert shown == {"v": 1, "seq": 1, **expected}


async def test_json_says_when_by_the_wall_clock_in_utc() -> None:
    notice = Notice(time=moment(1_700_000_000.25), level="info", code="c", text="t")
    (shown,) = await json_of(notice)
    assert shown["time"] == "2023-11-14T22:13:20.250000Z"


async def test_json_numbers_its_lines_and_is_one_object_a_line() -> None:
    shown = await json_of(STARTED, line("a\u2028b"), READY, line("c"))
    assert [each["seq"] for each in shown] == [1, 2, 3, 4]


async def test_json_contains_no_partial_lines() -> None:
    assert [each["text"] for each in await json_of(begun("Na"), line("Name"))] == ["Name"]
