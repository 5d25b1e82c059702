"""The port of the one address, from one run of a project to the next."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from orchestra import load
from orchestra.last_address import keep_port, last_port
from tests.kit import Run, orchestra

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


def test_each_project_has_its_own(tmp_path: Path, environ: dict[str, str]) -> None:
    assert last_port(tmp_path / "a", environ) is None
    keep_port(tmp_path / "a", environ, 8001)
    keep_port(tmp_path / "b", environ, 8002)
    assert (last_port(tmp_path / "a", environ), last_port(tmp_path / "b", environ)) == (8001, 8002)
    for file in (tmp_path / "state" / "orchestra").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(("pid", "port"), [("getpid", 9), ("getppid", 8001), ("none", 9)])
def test_a_second_run_at_the_same_time_changes_nothing(
    tmp_path: Path, environ: dict[str, str], pid: str, port: int
) -> None:
    keep_port(tmp_path, environ, 8001)
    (file,) = (tmp_path / "state" / "orchestra").iterdir()
    file.write_text(file.read_text().replace(str(os.getpid()), str(getattr(os, pid, lambda: 2**30)())))
    keep_port(tmp_path, environ, 9)
    assert last_port(tmp_path, environ) == port


@pytest.mark.parametrize("content", ["", "{", "[]", '{"port": 8001}', '{"port": 0, "pid": 1}', "x" * 2000])
def test_a_file_that_is_damaged_is_no_file(tmp_path: Path, environ: dict[str, str], content: str) -> None:
    keep_port(tmp_path, environ, 8001)
    (file,) = (tmp_path / "state" / "orchestra").iterdir()
    file.write_text(content)
    assert last_port(tmp_path, environ) is None
    file.unlink()
    file.mkdir()
    keep_port(tmp_path, environ, 8001)  # no complaint


def port_of(run: Run) -> int:
    return int(run.url.rpartition(":")[2])


@pytest.mark.real
@pytest.mark.ceiling(120)
def test_the_second_of_two_stacks_has_its_port_again(tmp_path: Path) -> None:
    """Also when it is started first; what is asked for wins; code has nothing of it."""
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Procfile").write_text("api: sleep 1000\n")
        (tmp_path / name / "orchestra.toml").write_text('[proxy]\nbackend = "http://127.0.0.1:9"\n')
    with Run(cwd=tmp_path / "one", env=env) as one:
        first = port_of(one)
        with Run(cwd=tmp_path / "two", env=env) as two:
            second = port_of(two)
            assert second > first
            said = two.until(lambda event: event["type"] == "notice" and str(second) in event["text"])
            assert f"the one address has port {second}" in said["text"]
            with Run(cwd=tmp_path / "two", env=env) as again:
                assert port_of(again) > second
    with Run(cwd=tmp_path / "two", env=env) as two:
        assert port_of(two) == second
        said = two.until(lambda event: event["type"] == "notice" and str(second) in event["text"])
        assert said["text"] == f"as in the last run of this project: the one address has port {second}"
        assert "--listen 127.0.0.1:8000" in said["hint"]
    assert f"127.0.0.1:{second} asks" in orchestra("check", cwd=tmp_path / "two", env=env)[1]
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path / "two", env=env) as two:
        assert port_of(two) not in (first, second)
    proxy = load(tmp_path / "two" / "Procfile", environ={**os.environ, **env}).proxy
    assert proxy is not None
    assert proxy.port != second
