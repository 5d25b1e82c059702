"""What each child gets as its environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from orchestra.config.environment import (
    for_child,
    mentions_port,
    with_tools,
)

if TYPE_CHECKING:
    from pathlib import Path


def test_a_virtual_environment_is_used_as_if_activated(tmp_path: Path) -> None:
    env = {"PATH": "/usr/bin:/bin", "PYTHONHOME": "/elsewhere"}
    assert with_tools(env, root=tmp_path, scripts=None) == env
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    assert with_tools(env, root=tmp_path, scripts="/ours/bin") == {
        "PATH": f"{tmp_path}/.venv/bin:/usr/bin:/bin:/ours/bin",
        "VIRTUAL_ENV": f"{tmp_path}/.venv",
    }
    its_own = with_tools(env, root=tmp_path / "x", cwd=tmp_path, scripts=None)
    assert its_own["VIRTUAL_ENV"] == f"{tmp_path}/.venv"
    activated = {"PATH": "/a/bin:/usr/bin", "VIRTUAL_ENV": "/a"}
    assert with_tools(activated, root=tmp_path, scripts=None) == activated


def test_our_own_scripts_are_found_last_and_named_once(tmp_path: Path) -> None:
    env = {"PATH": "/ours/bin:/bin"}
    assert with_tools(env, root=tmp_path, scripts="/ours/bin") == env
    assert with_tools({}, root=tmp_path, scripts="/ours/bin") == {"PATH": f"{os.defpath}:/ours/bin"}


def test_a_child_is_told_its_port_and_its_siblings() -> None:
    env = for_child({"A": "1", "PORT": "9"}, port=5100, siblings={"notes-api": 5000})
    assert env == {
        "A": "1",
        "PORT": "5100",
        "UVICORN_PORT": "5100",
        "FLASK_RUN_PORT": "5100",
        "PYTHONUNBUFFERED": "1",
        "ORCHESTRA_NOTES_API_PORT": "5000",
        "ORCHESTRA_NOTES_API_URL": "http://127.0.0.1:5000",
    }
    assert for_child({"PYTHONUNBUFFERED": ""}, port=None, siblings={}) == {"PYTHONUNBUFFERED": ""}


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
