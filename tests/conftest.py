"""How our tests run: `async def test_*` under trio, each with a ceiling, without any plugin.

A test that takes the fixture `autojump_clock` runs on it: waiting costs nothing, and a deadlock fails at
once, because the ceiling is then reached without waiting. Works with Hypothesis, too.
"""

from __future__ import annotations

import inspect
import os
import signal
import tempfile
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, settings

from tests.layouts_kit import PACKAGES, installed_once, own_packages
from tests.project_kit import VITE_PORTS, browser_without
from tests.proxy_kit import SocketWorld, Stage, World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

CEILING = 30.0

# How long an example takes is no promise of ours: the machine may have other work to do.
settings.register_profile("orchestra", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("orchestra")


def pytest_configure(config: pytest.Config) -> None:
    # What runs keep is thrown away with the tests, and no test meets a run of the user's.
    for name in ("XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        folder = tempfile.TemporaryDirectory(prefix="o-")
        config.add_cleanup(folder.cleanup)
        os.environ[name] = folder.name
    # A shell starts background jobs with SIGINT ignored, and our children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", f"ceiling(seconds): what the test may take, if not {CEILING:.0f} s")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The longest first: one that is left at the end keeps one processor idle.
    items.sort(key=_place)
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        marker = item.get_closest_marker("ceiling")
        ceiling = float(marker.args[0]) if marker else CEILING
        hypothesis = getattr(item.obj, "hypothesis", None)
        if hypothesis is not None:
            if inspect.iscoroutinefunction(hypothesis.inner_test):
                hypothesis.inner_test = _under_trio(hypothesis.inner_test, ceiling)
        elif inspect.iscoroutinefunction(item.obj):
            item.obj = _under_trio(item.obj, ceiling)


def _place(item: pytest.Item) -> int:
    if item.path.name == "test_quality.py":
        return 0
    return 1 if any(map(item.get_closest_marker, ("browser", "real"))) else 2


def _under_trio(test: Callable[..., Awaitable[None]], ceiling: float) -> Callable[..., None]:
    @wraps(test)
    async def limited(**kwargs: Any) -> None:
        with trio.move_on_after(ceiling) as scope:
            await test(**kwargs)
        if scope.cancelled_caught:
            pytest.fail(f"not done within {ceiling:g} s", pytrace=False)

    # trio ships no type for this decorator that would say that the result is an ordinary function
    return cast("Callable[..., None]", trio.testing.trio_test(limited))


# Not called `browser`: pytest would order tests by that of pytest-playwright, and start each run twice.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser that cannot reach Vite itself."""
    with browser_without(VITE_PORTS) as launched:
        yield launched


@pytest.fixture
def clock_to_put_forward() -> trio.testing.MockClock:
    """Goes like any clock, for real processes; where time has to pass, `jump` lets it pass at once."""
    return trio.testing.MockClock(rate=1.0)


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture(params=[World, SocketWorld], ids=["memory", "sockets"])
def clock_of_each_world(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> trio.testing.MockClock:
    """Play a dialogue twice: with connections in memory, and over real sockets."""
    monkeypatch.setattr(Stage, "world", request.param())
    return trio.testing.MockClock(autojump_threshold=request.param.patience)


@pytest.fixture(scope="session")
def vite_packages(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A `node_modules` with the newest Vite of a major version; each is installed once."""

    @cache
    def installed(major: int) -> Path:
        own = tmp_path_factory.mktemp(f"vite-{major}")
        own_packages(own, installed_once(_shared(tmp_path_factory) / f"vite-{major}", vite=f"^{major}.0.0"))
        return own / "node_modules"

    return installed


@pytest.fixture(scope="session")
def layout_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `node_modules` of all layouts and recipes."""
    return installed_once(_shared(tmp_path_factory) / "layouts", **PACKAGES)


def _shared(factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes which run tests share."""
    base = factory.getbasetemp()
    return base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
