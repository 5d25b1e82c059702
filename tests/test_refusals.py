"""What the system refuses, or lets wait for ever: said, survived, and never taken for done."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest
import trio

from orchestra.bus import Bus
from orchestra.child.families import Families
from orchestra.child.logfile import LogFile
from orchestra.child.spawn import run_child
from orchestra.events import Notice
from orchestra.folders import read_file
from orchestra.supervision.runtime import Stoppable
from tests.kit import COMMAND, PATIENCE, base_port
from tests.process_kit import linux_only

if TYPE_CHECKING:
    from orchestra.child.table import Family


def test_a_file_is_read_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 200_000)
    assert read_file(tmp_path / "file") == b"x" * 200_000


def test_a_pipe_is_read_if_it_is_written_in_time(tmp_path: Path) -> None:
    """Password managers put one in place of ``.env``."""
    os.mkfifo(tmp_path / ".env")
    writer = threading.Thread(target=(tmp_path / ".env").write_bytes, args=(b"A=1\n",))
    writer.start()
    assert read_file(tmp_path / ".env", within=PATIENCE) == b"A=1\n"
    writer.join()


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("pipe", errno.ETIMEDOUT),
        ("folder", errno.EISDIR),
        ("missing", errno.ENOENT),
        ("large", errno.EFBIG),
        pytest.param("endless", errno.EFBIG, marks=linux_only),
    ],
)
def test_what_cannot_be_read_is_no_wait_without_end(tmp_path: Path, name: str, code: int) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"x" * 2000)
    (tmp_path / "endless").symlink_to("/dev/zero")
    with pytest.raises(OSError, match=r".") as caught:
        read_file(tmp_path / name, most=1000)
    assert caught.value.errno == code


async def test_a_log_file_that_is_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "web.log")
    reader = os.open(tmp_path / "web.log", os.O_RDONLY | os.O_NONBLOCK)
    log = LogFile(tmp_path / "web.log", max_bytes=1000, backups=3)
    try:
        with pytest.raises(OSError, match="a pipe, not a file") as caught:
            await log.write(["line"])
    finally:
        os.close(reader)
    assert caught.value.filename == str(tmp_path / "web.log")


@linux_only
@pytest.mark.parametrize("arguments", ["run --output plain", "run --output json", "--version", "run --help"])
def test_output_that_is_lost_is_exit_status_2(tmp_path: Path, arguments: str) -> None:
    """Also if the run has come to its end before the first write."""
    (tmp_path / "Procfile").write_text("web: echo hello\n")
    with Path("/dev/full").open("wb") as full:
        done = _run(arguments, tmp_path, stdout=full)
    assert done.stderr == (
        "error: standard output cannot be written to, and is not complete: No space left on device\n"
        " hint: Make room, or send it elsewhere.\n"
    )
    assert done.returncode == 2


@pytest.mark.parametrize("arguments", ["run --output plain", "run --output json", "--version"])
def test_a_reader_that_has_gone_is_exit_status_141(tmp_path: Path, arguments: str) -> None:
    (tmp_path / "Procfile").write_text("web: echo hello\n")
    read, write = os.pipe()
    os.close(read)
    try:
        done = _run(arguments, tmp_path, stdout=write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def _run(arguments: str, folder: Path, *, stdout: int | IO[Any]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments.split()],
        cwd=folder,
        env={**os.environ, "PORT": str(base_port())},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


class Protected(Families):
    """What the system does not let us end: it belongs to another user."""

    async def is_alive(self, family: Family) -> bool:
        await trio.lowlevel.checkpoint()
        return family is not None


@pytest.mark.real
async def test_what_could_not_be_ended_does_not_count_as_gone(tmp_path: Path) -> None:
    run, notices = _Run(), list[Notice]()
    run.bus.subscribe(notices.append, Notice)  # type: ignore[arg-type]  # of these alone
    attempt = Stoppable(run, run_child)  # type: ignore[arg-type]  # of a run it needs no more
    attempt.stop()
    await attempt.run_child(
        "exec sleep 60",
        cwd=tmp_path,
        env=dict(os.environ),
        on_output=_ignore,
        stop_timeout=0.0,
        families=Protected(),
    )
    assert [(each.code, "still running" in each.text) for each in notices] == [("not-ended", True)]


class _Run:
    def __init__(self) -> None:
        self.bus, self.spawn = Bus(), run_child


async def _ignore(*_: object) -> None:
    await trio.lowlevel.checkpoint()
