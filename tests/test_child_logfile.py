from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestra.child.logfile import LogFile
from tests.process_kit import linux_only


async def test_lines_are_appended(tmp_path: Path) -> None:
    (tmp_path / "web.log").write_text("before\n")
    log = LogFile(tmp_path / "web.log", max_bytes=1000, backups=3)
    await log.write(["red", "plain"])
    await log.write(["ü"])
    log.close()
    assert (tmp_path / "web.log").read_text() == "before\nred\nplain\nü\n"


async def test_files_are_rotated_by_size_and_no_line_is_lost_or_split(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "web.log", max_bytes=100, backups=50)
    lines = [f"line {number}" for number in range(200)]
    for start in range(0, 200, 7):
        await log.write(lines[start : start + 7])
    log.close()
    files = sorted(tmp_path.iterdir(), key=lambda path: -int(path.suffix[1:]) if path.suffix != ".log" else 0)
    assert "".join(path.read_text() for path in files).splitlines() == lines
    assert all(path.stat().st_size <= 100 for path in files)


async def test_so_many_older_ones_are_kept(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "web.log", max_bytes=10, backups=2)
    await log.write([f"line {number}" for number in range(9)])
    log.close()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "web.log": "line 8\n",
        "web.log.1": "line 7\n",
        "web.log.2": "line 6\n",
    }


async def test_without_backups_a_full_file_is_emptied(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "web.log", max_bytes=10, backups=0)
    await log.write(["line 1", "line 2"])
    log.close()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["line 2\n"]


async def test_a_line_that_is_larger_than_a_file_is_kept_whole(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "web.log", max_bytes=10, backups=2)
    await log.write(["x" * 100, "y"])
    log.close()
    assert (tmp_path / "web.log.1").read_text() == "x" * 100 + "\n"


async def test_missing_folders_are_made(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "deep" / "web.log", max_bytes=10, backups=2)
    await log.write(["hello"])
    log.close()
    assert (tmp_path / "logs" / "deep" / "web.log").exists()


async def test_a_file_that_was_removed_is_made_again(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "web.log", max_bytes=1000, backups=2)
    await log.write(["one"])
    shutil.rmtree(tmp_path / "logs")
    await log.write(["two"])
    log.close()
    assert (tmp_path / "logs" / "web.log").read_text() == "two\n"


@linux_only
async def test_a_full_disk_is_reported_once() -> None:
    log = LogFile(Path("/dev/full"), max_bytes=10, backups=2)
    with pytest.raises(OSError, match="space"):
        await log.write(["hello"])
    await log.write(["hello again"])
    log.close()


async def test_a_file_that_cannot_be_written_complains_once(tmp_path: Path) -> None:
    log = LogFile(tmp_path, max_bytes=10, backups=2)
    with pytest.raises(OSError, match="director"):
        await log.write(["hello"])
    await log.write(["hello again"])
