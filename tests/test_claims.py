"""Claims on ports: two runs that are planned at the same time choose different ones."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from orchestra.claims import claim_port
from tests.kit import PATIENCE, Run, base_port, orchestra

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CLAIM = """
import os, sys
from orchestra.claims import claim_port
print(claim_port(int(sys.argv[1]), os.environ), flush=True)
sys.stdin.read()
"""


@contextmanager
def claimed(port: int) -> Iterator[None]:
    """Have another process claim a port before anything listens there."""
    command = [sys.executable, "-c", _CLAIM, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == "True\n"
        yield
        other.stdin.close()
        assert other.wait(PATIENCE) == 0


def test_a_claim_ends_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    here = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with claimed(5000):
        assert not claim_port(5000, here)
        assert claim_port(5001, here)
    assert claim_port(5000, here)
    assert claim_port(5000, here), "it is ours already"


def test_without_a_folder_every_port_is_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file")
    assert claim_port(5000, {"XDG_RUNTIME_DIR": nowhere, "TMPDIR": nowhere})


@pytest.mark.real
def test_a_run_leaves_the_port_that_another_one_has_chosen(tmp_path: Path) -> None:
    port = base_port()
    (tmp_path / "Procfile").write_text("api: echo mine is $PORT; exec sleep 1000\n")
    arguments = ("--no-proxy", "--base-port", str(port))
    with claimed(port), Run(*arguments, cwd=tmp_path) as run:
        run.line("api", f"mine is {port + 1}")
        notices = [event["text"] for event in run.events if event["type"] == "notice"]
        assert f"api: port {port} is another run's; it gets {port + 1}" in notices
    with Run(*arguments, cwd=tmp_path) as run:
        run.line("api", f"mine is {port}")
        assert not claim_port(port, os.environ)


@pytest.mark.real
def test_a_run_in_the_background_claims_its_ports_itself(tmp_path: Path) -> None:
    """The command that starts it has read the same plan, and still lives."""
    port = base_port()
    (tmp_path / "Procfile").write_text("worker: echo mine is $PORT; exec sleep 1000\n")
    assert orchestra("run", "--detach", "--no-proxy", "-p", str(port), cwd=tmp_path)[0] == 0
    try:
        orchestra("wait", cwd=tmp_path)
        assert f"mine is {port}\n" in orchestra("logs", cwd=tmp_path)[1]
    finally:
        orchestra("down", cwd=tmp_path)
