"""Where the unix socket of a run is, and what is done to what is there already."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from orchestra import unix_sockets

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.real


def environ(folder: Path) -> dict[str, str]:
    return {"XDG_RUNTIME_DIR": str(folder), "TMPDIR": str(folder)}


def modes(path: Path) -> tuple[int, int]:
    return stat.S_IMODE(path.lstat().st_mode), stat.S_IMODE(path.parent.lstat().st_mode)


def test_it_is_in_the_users_runtime_folder(tmp_path: Path) -> None:
    local = unix_sockets.bind(environ(tmp_path), pid=7)
    try:
        assert local.path == tmp_path / "orchestra" / "7.sock"
        assert modes(local.path) == (0o600, 0o700)
    finally:
        local.close()
    assert not local.path.exists()


@pytest.mark.parametrize("runtime", ["", "relative", "/no/such/folder"])
def test_without_a_runtime_folder_it_is_in_the_temporary_one(runtime: str, tmp_path: Path) -> None:
    local = unix_sockets.bind({"XDG_RUNTIME_DIR": runtime, "TMPDIR": str(tmp_path)}, pid=7)
    local.close()
    assert local.path == tmp_path / f"orchestra-{os.getuid()}" / "7.sock"


def test_a_folder_that_others_may_enter_is_closed_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "orchestra"
    folder.mkdir()
    folder.chmod(0o777)
    local = unix_sockets.bind(environ(tmp_path), pid=7)
    local.close()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("what", ["link", "file"])
def test_what_is_no_folder_of_ours_is_not_used(what: str, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.mkdir()
    for name in ("orchestra", f"orchestra-{os.getuid()}"):
        (tmp_path / name).symlink_to(target) if what == "link" else (tmp_path / name).touch()
    with pytest.raises(OSError, match="is not a folder of its own"):
        unix_sockets.bind(environ(tmp_path), pid=7)
    assert not list(target.iterdir())


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder to another user")
def test_another_users_folder_is_not_used(tmp_path: Path) -> None:
    for name in ("orchestra", f"orchestra-{os.getuid()}"):
        (tmp_path / name).mkdir(mode=0o700)
        os.chown(tmp_path / name, 65534, 65534)
    with pytest.raises(OSError, match="belongs to another user"):
        unix_sockets.bind(environ(tmp_path), pid=7)


def test_a_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    with pytest.raises(OSError, match="too long for a unix socket"):
        unix_sockets.bind(environ(folder), pid=7)


def test_a_socket_that_a_killed_run_has_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "orchestra" / "7.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    local = unix_sockets.bind(environ(tmp_path), pid=7)
    try:
        assert local.path == path
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    finally:
        local.close()


def test_what_killed_runs_have_left_is_removed(tmp_path: Path) -> None:
    """The number of a process that has ended, of one that lives, and of none."""
    folder = tmp_path / "orchestra"
    folder.mkdir(mode=0o700)
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = [folder / f"{name}.sock" for name in (str(ended.pid), str(os.getpid()), "9" * 12, "other")]
    for path in left:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(path))
    (folder / f"{ended.pid}.1.sock").write_text("no socket")
    unix_sockets.bind(environ(tmp_path), pid=7).close()
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [f"{os.getpid()}.sock", "other.sock", f"{ended.pid}.1.sock"]
    )


def test_a_socket_that_is_answered_is_never_replaced(tmp_path: Path) -> None:
    first = unix_sockets.bind(environ(tmp_path), pid=7)
    second = unix_sockets.bind(environ(tmp_path), pid=7)
    assert second.path == tmp_path / "orchestra" / "7.1.sock"
    second.close()
    assert (first.path.exists(), second.path.exists()) == (True, False)
    first.close()


@pytest.mark.parametrize("what", ["link", "file"])
def test_what_is_no_socket_is_left_alone(what: str, tmp_path: Path) -> None:
    path = tmp_path / "orchestra" / "7.sock"
    path.parent.mkdir(mode=0o700)
    path.symlink_to(tmp_path / "nothing") if what == "link" else path.touch()
    local = unix_sockets.bind(environ(tmp_path), pid=7)
    local.close()
    assert (local.path.name, os.path.lexists(path)) == ("7.1.sock", True)


def test_a_socket_of_another_run_is_not_removed(tmp_path: Path) -> None:
    local = unix_sockets.bind(environ(tmp_path), pid=7)
    local.path.unlink()
    other = unix_sockets.bind(environ(tmp_path), pid=7)
    local.close()
    assert other.path.exists()
    other.close()


def test_the_system_tells_which_user_is_at_the_other_end() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert unix_sockets.peer_uid(ours) == os.getuid()
