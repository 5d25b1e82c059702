"""The port of the one address, from one run of a project to the next."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path
from typing import Any

import pytest

from orchestra import load
from orchestra.folders import state_folder
from orchestra.remembered import keep_port, last_port
from tests.kit import Run, free_port, orchestra


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.mark.parametrize("given", ["", "relative", "."])
def test_relative_folders_are_ignored(given: str) -> None:
    """XDG Base Directory Specification: "If an implementation encounters a relative path [...] it should
    consider the path invalid and ignore it."
    """
    expected = Path(pwd.getpwuid(os.getuid()).pw_dir, ".local/state/orchestra")
    assert state_folder({"XDG_STATE_HOME": given, "HOME": given}) == expected
    assert state_folder({"XDG_STATE_HOME": given, "HOME": "/home/me"}) == Path(
        "/home/me/.local/state/orchestra"
    )


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


def noticed(run: Run) -> dict[str, Any]:
    """What a run says of its port."""
    text = f"the one address has port {port_of(run)}"
    return run.until(lambda event: event["type"] == "notice" and text in event["text"])


@pytest.mark.real
@pytest.mark.ceiling(120)
def test_a_project_has_its_port_again(tmp_path: Path, environ: dict[str, str]) -> None:
    """That of the last run which could have it; what is asked for wins, and code has nothing of it."""
    (tmp_path / "Procfile").write_text("api: sleep 1000\n")
    (tmp_path / "orchestra.toml").write_text('[proxy]\nbackend = "http://127.0.0.1:9"\n')
    with Run(cwd=tmp_path, env=environ) as first:
        assert port_of(first) == last_port(tmp_path, environ)
    # As if it had moved.
    port = free_port()
    (file,) = (tmp_path / "state" / "orchestra").glob("address-*")
    file.write_text(file.read_text().replace(f":{port_of(first)},", f":{port},"))
    said = f"as in the last run of this project: the one address has port {port}"
    for _ in range(2):
        with Run(cwd=tmp_path, env=environ) as run:
            assert port_of(run) == port
            notice = noticed(run)
            assert notice["text"] == said
            assert "--listen 127.0.0.1:8000" in notice["hint"]
            with Run(cwd=tmp_path, env=environ) as beside:
                assert port_of(beside) != port
                assert noticed(beside)["text"].startswith(f"port {port} is taken")
            assert last_port(tmp_path, environ) == port
    assert said in orchestra("check", cwd=tmp_path, env=environ)[1]
    with Run("--listen", "127.0.0.1:0", cwd=tmp_path, env=environ) as asked:
        assert port_of(asked) != port
    assert last_port(tmp_path, environ) == port
    proxy = load(tmp_path / "Procfile", environ={**os.environ, **environ}).proxy
    assert proxy is not None
    assert proxy.port != port
