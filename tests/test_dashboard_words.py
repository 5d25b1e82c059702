from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from orchestra.dashboard.words import PALETTE, colour_number, sentence, short_seconds
from orchestra.events import FilesChanged, Notice, PlanChanged, RunEnded, State, StateChanged
from tests.dashboard_kit import READY, REQUEST, STARTED, line
from tests.events_kit import moment

if TYPE_CHECKING:
    from orchestra.events import Event

STARTING = StateChanged(process="vite", state=State.STARTING, previous=State.WAITING)
CHANGED = PlanChanged(reason="Procfile.dev, .env", processes=("api", "a", "b", "c"))


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (STARTED, "http://127.0.0.1:8000"),
        (replace(STARTED, url=None), ""),
        (STARTING, "vite starts"),
        (replace(STARTING, restarts=1), "vite starts again"),
        (replace(STARTING, previous=State.STARTING), ""),
        (READY, "vite is ready in 1.5 s at http://[::1]:5173"),
        (
            replace(READY, state=State.BACKING_OFF, reason="exit code 1; again in 0.5 s"),
            "vite ended: exit code 1; again in 0.5 s",
        ),
        (replace(READY, state=State.FAILED, reason="killed by SIGKILL"), "vite failed: killed by SIGKILL"),
        (replace(READY, state=State.COMPLETED, reason="exit code 0"), "vite completed: exit code 0"),
        (replace(READY, state=State.COMPLETED), "vite completed"),
        (replace(READY, state=State.RUNNING), "vite runs (pid 7)"),
        (replace(READY, state=State.INSTALLING, reason="npm ci"), "vite is being installed: npm ci"),
        (
            replace(READY, state=State.UNHEALTHY, previous=State.READY),
            "vite does not answer any more",
        ),
        (replace(READY, state=State.UNHEALTHY, reason="oh"), "vite does not come up: oh"),
        (
            replace(READY, state=State.UNHEALTHY, previous=State.RUNNING, ready_after=None, reason="oh"),
            "vite does not come up: oh",
        ),
        (replace(READY, state=State.STOPPING), "vite is being stopped"),
        (replace(READY, state=State.STOPPED), "vite stopped"),
        (replace(READY, state=State.WAITING), ""),
        (
            Notice(time=moment(1.0), level="warning", code="c", text="slow", process="api", hint="wait"),
            "warning: api: slow (wait)",
        ),
        (FilesChanged(process="api", paths=("app.py",)), "api: app.py changed"),
        (FilesChanged(process="api", paths=("a.py", "b.py")), "api: a.py and b.py changed"),
        (FilesChanged(process="api", paths=("a.py", "b.py", "c.py")), "api: a.py and 2 other files changed"),
        (RunEnded(time=moment(1.0), exit_code=0, reason="quit", duration=5.21), "ended after 5.2 s: quit"),
        (CHANGED, "Procfile.dev, .env changed: no process is affected"),
        (replace(CHANGED, reason="", stopped=("old",)), "the plan changed: old stopped"),
        (
            replace(CHANGED, started=("a", "b", "c"), stopped=("x", "y"), restarted=("api",)),
            "Procfile.dev, .env changed: x and y stopped, a, b and c start, api restarts",
        ),
        (line("x"), ""),
        (REQUEST, ""),
    ],
)
def test_an_event_in_words(event: Event, words: str) -> None:
    assert sentence(event) == words


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0 ms"),
        (0.0, "0 ms"),
        (0.0042, "4 ms"),
        (0.0994, "99 ms"),
        (0.0996, "0.1 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (60.0, "1m 00s"),
        (187.0, "3m 07s"),
        (3600.0 * 2 + 60 * 15, "2h 15m"),
        (86400.0 * 4 + 3600 * 3, "4d 03h"),
    ],
)
def test_a_duration_as_people_read_it(seconds: float, text: str) -> None:
    assert short_seconds(seconds) == text


def _luminance(number: int) -> float:
    """The relative luminance of a colour of the 6 x 6 x 6 cube (WCAG 2.2)."""
    cube = number - 16
    levels = [0 if each == 0 else (55 + 40 * each) / 255 for each in (cube // 36, cube // 6 % 6, cube % 6)]
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in levels
    )
    return float(0.2126 * red + 0.7152 * green + 0.0722 * blue)


@pytest.mark.parametrize("number", PALETTE)
def test_process_colours_are_readable_on_light_and_dark(number: int) -> None:
    white, dark = 1.0, 0.013
    luminance = _luminance(number)
    assert (white + 0.05) / (luminance + 0.05) >= 3
    assert (luminance + 0.05) / (dark + 0.05) >= 3


def test_colours_repeat_when_there_are_more_processes() -> None:
    assert colour_number(0) == colour_number(len(PALETTE)) != colour_number(1)
