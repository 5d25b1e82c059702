"""What each child gets as its environment."""

from __future__ import annotations

import pytest

from orchestra.config.environment import (
    for_child,
    mentions_port,
    with_address,
)


def test_a_child_is_told_its_port_and_its_siblings() -> None:
    env = for_child({"A": "1", "PORT": "9"}, port=5100, siblings={"notes-api": 5000})
    assert env == {
        "A": "1",
        "PORT": "5100",
        "UVICORN_PORT": "5100",
        "FLASK_RUN_PORT": "5100",
        "PYTHONUNBUFFERED": "1",
        "FASTAPI_ENV": "development",
        "ORCHESTRA_NOTES_API_PORT": "5000",
        "ORCHESTRA_NOTES_API_URL": "http://127.0.0.1:5000",
    }
    given = {"PYTHONUNBUFFERED": "", "FASTAPI_ENV": "production"}
    assert for_child(given, port=None, siblings={}) == given


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://[::1]:81", "http://[::1]:81"),
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000"),
        ("http://[::]:8000", "http://[::1]:8000"),
        ("http://192.168.1.5:8000", "http://192.168.1.5:8000"),
    ],
)
def test_a_child_is_told_the_one_address(url: str, expected: str) -> None:
    port = expected.rpartition(":")[2]
    assert with_address({}, url) == {"ORCHESTRA_URL": expected, "ORCHESTRA_PORT": port}


def test_without_a_proxy_there_is_no_address() -> None:
    assert with_address({"ORCHESTRA_URL": "http://of.another.run", "A": "1"}, None) == {"A": "1"}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("run --port $PORT", True),
        ("run --port=${PORT}", True),
        ("run 127.0.0.1:${PORT:-8000}", True),
        ("run $UVICORN_PORT", True),
        ("run $PORTAL $PORT_2 PORT", False),
    ],
)
def test_a_command_mentions_its_port(command: str, expected: bool) -> None:  # noqa: FBT001 - of the table
    assert mentions_port(command) is expected
