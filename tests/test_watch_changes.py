"""Waiting for changes: with touches that a test makes up, and once with those of the system."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from orchestra.watch import changes
from orchestra.watch.changes import batches, watch
from orchestra.watch.interest import RUN, Kind, rules
from tests.kit import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Set as AbstractSet
    from pathlib import Path

    from orchestra.watch.changes import Batch, Notify
    from orchestra.watch.interest import Interest


def interest(root: Path, *patterns: str) -> dict[str, Interest]:
    return {"api": rules(root, patterns or ("*.py",), Kind.CODE)}


def told(root: Path, notify: Notify, *patterns: str, stop: threading.Event | None = None) -> Iterator[Batch]:
    found = interest(root, *patterns)
    every = batches(found, since=time.time() + 100, stop=stop or threading.Event(), notify=notify)
    return (each for each in every if not each.expected)


def names(batch: Batch) -> list[str]:
    return [each.path.name for each in batch.changes["api"].files] if batch.changes else []


class Touches:
    """Touches that a test makes up; after the last one the watching is stopped.

    Attributes:
        asked: The folders of each beginning, relative to the root.
    """

    def __init__(self, root: Path, *steps: Sequence[object]) -> None:
        self.root = root
        self.asked: list[set[str]] = []
        self._steps = iter(steps)

    def __call__(self, folders: AbstractSet[str], stop: threading.Event) -> Iterator[AbstractSet[str]]:
        self.asked.append({os.path.relpath(each, self.root) for each in folders})
        for step in self._steps:
            touched = set()
            for each in step:
                if isinstance(each, OSError):
                    raise each
                path = self.root / str(each)
                path.parent.mkdir(parents=True, exist_ok=True)
                if path.suffix:
                    path.write_text(str(len(self.asked)) + str(time.monotonic_ns()))
                    touched |= {str(path), str(path.parent)} - {str(self.root)}
            yield touched
            if touched:
                yield set()
        stop.set()


def test_new_folders_are_watched_and_nothing_in_them_is_missed(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    touches = Touches(root, [], ["a.py"], ["new/b.py"], [], ["c.py"])
    assert [names(each) for each in told(root, touches)] == [[], ["a.py"], ["b.py"], ["c.py"]]
    assert touches.asked == [{"."}, {".", "new"}]


def test_a_change_is_expected_before_it_is_told(tmp_path: Path) -> None:
    """Of each burst once, and of what matters; the next batch tells whether anything has changed."""
    root = tmp_path.resolve()
    (root / "a.py").write_text("1")

    def notify(folders: AbstractSet[str], stop: threading.Event) -> Iterator[AbstractSet[str]]:
        assert folders == {str(root)}
        a, b, other = (str(root / name) for name in ("a.py", "b.py", "other.txt"))
        yield set()
        yield {a, other}
        yield {b}
        yield set()
        (root / "a.py").write_text("2")
        yield {a}
        yield set()
        yield set()
        stop.set()

    found = batches(interest(root), since=time.time() + 100, stop=threading.Event(), notify=notify)
    told = [[(list(each.expected), names(each))] for each in found]
    expected: tuple[list[str], list[str]] = (["api"], [])
    assert [each for batch in told for each in batch] == [
        ([], []),
        expected,
        ([], []),
        expected,
        ([], ["a.py"]),
    ]


def test_a_burst_that_does_not_end_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestra.watch.changes._LONGEST_BURST", 0.0)
    root = tmp_path.resolve()

    def notify(folders: AbstractSet[str], stop: threading.Event) -> Iterator[AbstractSet[str]]:
        assert folders == {str(root)}
        (root / "a.py").write_text("1")
        yield {str(root / "a.py")}
        stop.set()

    assert [names(each) for each in told(root, notify)] == [[], ["a.py"]]


def test_what_was_saved_before_the_watching_began_is_found(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    found = told(root, Touches(root, []))
    next(found)
    (root / "a.py").write_text("saved meanwhile")
    assert [names(each) for each in found] == [["a.py"]]


def test_folders_that_are_gone_are_chosen_again(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    touches = Touches(root, [FileNotFoundError()], [], ["a.py"])
    assert [names(each) for each in told(root, touches)] == [[], [], ["a.py"]]


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), PermissionError(13, "denied")])
def test_without_watches_all_files_are_looked_at_again_and_again(fault: OSError, tmp_path: Path) -> None:
    root, stop = tmp_path.resolve(), threading.Event()
    found = told(root, Touches(root, [fault]), stop=stop)
    next(found)
    warning = next(found)
    assert "each second" in warning.warning[0]
    assert str(fault) in warning.warning[0]
    (root / "new" / "deep").mkdir(parents=True)
    (root / "new" / "deep" / "a.py").write_text("1")
    assert names(next(found)) == ["a.py"]
    stop.set()
    assert list(found) == []


def test_a_silent_file_system_is_looked_at_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHFILES_FORCE_POLLING", "1")
    found = told(tmp_path.resolve(), Touches(tmp_path))
    next(found)
    assert "WATCHFILES_FORCE_POLLING" in next(found).warning[0]


def test_files_of_the_plan_alone_are_looked_at_without_a_watcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is no want of anything, so there is no warning."""
    monkeypatch.setattr(changes, "_POLL_PAUSE", 0.01)
    root, stop = tmp_path.resolve(), threading.Event()
    found = batches(
        {RUN: interest(root, "Procfile")["api"]}, since=time.time(), stop=stop, notify=Touches(root)
    )
    assert next(found).changes == {}
    (root / "Procfile").write_text("api: true\n")
    [changed] = next(found).changes[RUN].files
    assert changed.path == root / "Procfile"
    stop.set()
    assert next(found, None) is None


def test_a_pattern_that_is_none_is_named(tmp_path: Path) -> None:
    warnings = [each.warning[0] for each in told(tmp_path, Touches(tmp_path), "*.py", "[z-a]")]
    assert "not watched: [z-a] is not a valid pattern" in warnings


def test_too_many_folders_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestra.watch.filters._MOST_FOLDERS", 3)
    for name in "abcde":
        (tmp_path / name).mkdir()
    warnings = [each.warning[0] for each in told(tmp_path, Touches(tmp_path))]
    assert any("more than 3 folders" in each for each in warnings)


@pytest.mark.real
async def test_the_system_tells_and_ends_at_once(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / "a.py").write_text("1")
    send, receive = trio.open_memory_channel[list[str]](100)
    threads = threading.active_count()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            begun = trio.Event()

            def on_batch(batch: Batch) -> None:
                begun.set()
                if batch.changes:
                    send.send_nowait(names(batch))

            nursery.start_soon(lambda: watch(interest(root), since=time.time() + 100, on_batch=on_batch))
            await begun.wait()
            (root / "a.py").write_text("2")
            assert await receive.receive() == ["a.py"]
            (root / "a.py").write_text("2")
            (root / "new" / "deep").mkdir(parents=True)
            (root / "new" / "deep" / "b.py").write_text("1")
            assert await receive.receive() == ["b.py"]
            (root / "new" / "deep" / "b.py").write_text("2")
            assert await receive.receive() == ["b.py"]
            began = trio.current_time()
            nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 3  # a cancelled awatch took longer than that
    with trio.fail_after(PATIENCE):
        while threading.active_count() > threads + 1:  # noqa: ASYNC110 - trio keeps one idle for a while
            await trio.sleep(0.05)


async def test_it_leaves_no_thread_in_watchfiles(tmp_path: Path) -> None:
    """Python would abort if it ended then."""
    has_ended = threading.Event()

    def notify(folders: AbstractSet[str], stop: threading.Event) -> Iterator[AbstractSet[str]]:
        del folders
        yield set()
        stop.wait()
        time.sleep(0.05)
        has_ended.set()

    begun = trio.Event()
    async with trio.open_nursery() as nursery:
        watching = partial(
            watch, interest(tmp_path), since=0.0, on_batch=lambda _: begun.set(), notify=notify
        )
        nursery.start_soon(watching)
        await begun.wait()
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert has_ended.is_set()


def test_a_folder_whose_name_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    """watchfiles takes only UTF-8."""
    with pytest.raises(OSError, match="surrogates"):
        next(changes._notify({f"{tmp_path}/\udcff"}, threading.Event()))


@pytest.mark.real
def test_a_file_whose_name_is_not_utf8_does_not_end_the_watching(tmp_path: Path) -> None:
    """watchfiles cannot report it, and ends: a new watcher begins with a look at all files."""
    root, stop = tmp_path.resolve(), threading.Event()
    found = told(root, changes._notify, "*.py", stop=stop)
    assert next(found).changes == {}
    for number in range(3):
        (root / os.fsdecode(b"not-\xff-%d.txt" % number)).write_text("1")
        (root / f"{number}.py").write_text("1")
        batch = next(found)
        assert (names(batch), batch.warning) == ([f"{number}.py"], ("", ""))
    stop.set()
    assert list(found) == []


def test_a_watcher_that_ends_at_once_each_time_hides_no_change(tmp_path: Path) -> None:
    """As one does while a program writes to a file whose name is not UTF-8."""
    root, ends = tmp_path.resolve(), 0

    def notify(folders: AbstractSet[str], stop: threading.Event) -> Iterator[AbstractSet[str]]:
        nonlocal ends
        ends += 1
        if ends == 3:
            (root / "a.py").write_text("1")
        elif ends == 5:
            stop.set()
        return iter(())

    found = [names(each) for each in told(root, notify)]
    assert [each for each in found if each] == [["a.py"]]


_LIMITED = """
import sys, threading
from orchestra.watch.changes import _notify
try:
    next(_notify(frozenset(sys.argv[1:]), threading.Event()))
except OSError as exc:
    print(exc)
"""


@pytest.mark.real
@pytest.mark.skipif(sys.platform != "linux", reason="inotify")
def test_want_of_room_for_watches_is_an_error(tmp_path: Path) -> None:
    """In a user namespace, which has a limit of its own: watchfiles can be told to say nothing of it."""
    folders = [tmp_path / name for name in "abcdef"]
    for folder in folders:
        folder.mkdir()
    limit = 'echo 3 > /proc/sys/user/max_inotify_watches && exec "$@"'
    inside = ["unshare", "--user", "--map-root-user", "sh", "-c", limit, "sh"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], check=False).returncode:
        pytest.skip("no user namespaces here")
    command = [*inside, sys.executable, "-c", _LIMITED, *map(str, folders)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    assert "limit" in said
