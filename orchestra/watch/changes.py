"""Waits for changes of the files that matter, and reports them in bursts.

watchfiles reports which files were touched in the folders that `filters` has chosen. The first touch is
reported at once, so that slow preparations can begin; the changes are reported when nothing has been touched
for 50 ms, and 500 ms after the first touch at the latest. The folders of a watcher cannot be changed: when
folders come or go it is started again, and all files are checked for changes that it may have missed. Where
the system reports nothing (network file systems, Windows folders under WSL) or has no room for more watches,
files are checked each second. So are those of the plan if there are no others: watchfiles would take 3 MiB
for them, and its looks for touches most of the CPU time of an idle run.

All of that blocks, in one thread. It is `watchfiles.watch`, not `awatch`: it is ended by an event that it
checks each 20 ms, so nothing has to be cancelled (`awatch` took seconds for that under trio).

Not here: what follows from a change (`orchestra.reloading`).
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, TypeAlias

import trio
from msgspec import Struct

from orchestra.watch.files import Files
from orchestra.watch.interest import RUN

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Set as AbstractSet

    from orchestra.watch.interest import Changes, Interest

__all__ = ["Batch", "Notify", "batches", "watch"]

# Yields touched paths, like `_notify`.
Notify: TypeAlias = "Callable[[AbstractSet[str], threading.Event], Iterator[AbstractSet[str]]]"

# A burst is over when nothing was touched for so long, in ms; and after so long in any case, in seconds.
_QUIET = 50
_LONGEST_BURST = 0.5
# Seconds for the thread to end: a check of all files may take long, and does no harm.
_END_LIMIT = 0.5
# Milliseconds between watchfiles' looks for touches; it reports them when the next look finds no more. A look
# takes 60 µs of CPU time.
_STEP = 20
# Pauses between checks of all files: seconds at least, and a multiple of the time of a check.
_POLL_PAUSE = 1.0
_POLL_SHARE = 20
# Folders may be gone by the time that they are watched: then they are chosen again, so often.
_ATTEMPTS = 5
# watchfiles' error when it should report a file whose name is not UTF-8: it has ended then.
_NOT_UTF8 = "Unable to decode path"
# watchfiles' own switch.
_FORCE_POLLING = "WATCHFILES_FORCE_POLLING"
# File systems whose files are changed elsewhere: the kernel does not notice that.
_SILENT_SYSTEMS = frozenset({
    "9p", "afs", "ceph", "cifs", "drvfs", "fuse.grpcfuse", "fuse.sshfs", "lustre", "nfs", "nfs4", "prl_fs",
    "smb3", "smbfs", "v9fs", "vboxsf", "vmhgfs",
})  # fmt: skip


class Batch(Struct, frozen=True, kw_only=True):
    """The changes that were found at one time.

    Attributes:
        changes: By process; those of the run itself under `RUN`.
        expected: Possible changes, while it is too early to be sure; the next batch is final.
        warning: A message about watching for the user, and a hint; empty if there is none.
    """

    changes: Mapping[str, Changes] = {}
    expected: Mapping[str, Changes] = {}
    warning: tuple[str, str] = ("", "")


async def watch(
    interests: Mapping[str, Interest],
    *,
    since: float,
    on_batch: Callable[[Batch], object],
    earlier: Mapping[str, float] | None = None,
    notify: Notify | None = None,
) -> None:
    """Report changes, from the Unix time `since` on, until cancelled; of some from `earlier` on."""
    stop = threading.Event()
    # It waits in its thread for as long as the run lasts, so it must not use up a shared thread.
    limiter = trio.CapacityLimiter(1)
    found = batches(interests, since=since, earlier=earlier, stop=stop, notify=notify or _notify)
    is_idle = threading.Event()

    def look() -> Batch | None:
        try:
            return next(found, None)
        finally:
            is_idle.set()

    try:
        while not stop.is_set():
            is_idle.clear()
            batch = await trio.to_thread.run_sync(look, abandon_on_cancel=True, limiter=limiter)
            if batch is None:
                return
            on_batch(batch)
    finally:
        stop.set()
        # Before 3.14, Python aborts if it exits while a thread is in watchfiles, which is written in Rust.
        with trio.move_on_after(_END_LIMIT, shield=True):
            while not is_idle.is_set():  # noqa: ASYNC110 - set in a thread that may be all that is left
                await trio.sleep(_STEP / 1000)


def batches(
    interests: Mapping[str, Interest],
    *,
    since: float,
    earlier: Mapping[str, float] | None = None,
    stop: threading.Event,
    notify: Notify,
) -> Iterator[Batch]:
    """Yield batch after batch until `stop` is set; blocks in between."""
    files = Files(interests)
    yield Batch(changes=files.begin(since, earlier))
    if files.invalid:
        text = f"not watched: {', '.join(files.invalid)} is not a valid pattern"
        yield Batch(warning=(text, "Write it as in .gitignore."))
    if files.walk.is_cut:
        text = f"not all files are watched: there are more than {len(files.folders)} folders"
        yield Batch(warning=(text, "Leave folders out: ignore = [...], or .gitignore."))
    if interests.keys() != {RUN}:
        if system := _silent_system(files.folders):
            why = f"{system} does not tell of changes"
        else:
            why = yield from _notified(files, stop, notify)
        if stop.is_set():
            return
        yield Batch(warning=(f"files are looked at each second: {why}", "A save is noticed a little later."))
    while not stop.is_set():
        began = time.monotonic()
        if changes := files.look_again():
            yield Batch(changes=changes)
        stop.wait(max(_POLL_PAUSE, _POLL_SHARE * (time.monotonic() - began)))


def _notified(files: Files, stop: threading.Event, notify: Notify) -> Generator[Batch, None, str]:
    """Yield batches for as long as the system reports changes; return why it does not."""
    attempts, expected = 0, False
    while not stop.is_set():
        watched = files.folders
        try:
            for touched, is_over in _bursts(notify(watched, stop)):
                attempts = 0
                if not is_over:
                    if more := files.expect(touched):
                        yield Batch(expected=more)
                    expected = bool(more)
                    continue
                changes = files.look_at(touched)
                # A folder that has come back is not the one that is watched.
                is_outdated = changes is None
                if changes is None or not touched:
                    changes = files.look_again()
                if changes or expected:
                    yield Batch(changes=changes)
                expected = False
                if is_outdated or files.folders != watched:
                    break
            else:
                attempts += 1
                if attempts > 1:  # A name that is not UTF-8 is touched all the time: see `_notify`.
                    stop.wait(_POLL_PAUSE)
                    yield Batch(changes=files.look_again())
        except FileNotFoundError:
            attempts += 1
            if attempts >= _ATTEMPTS:
                return "folders come and go"
            yield Batch(changes=files.look_again())
        except OSError as exc:
            return f"{len(watched)} folders cannot be watched ({exc})"
    return ""


def _bursts(touches: Iterable[AbstractSet[str]]) -> Iterator[tuple[AbstractSet[str], bool]]:
    """Yield the first touches of each burst, and all of them when it is over; an empty one comes first."""
    burst: set[str] = set()
    has_begun, began = False, 0.0
    for touched in touches:
        if touched and not burst:
            began = time.monotonic()
            yield touched, False
        burst |= touched
        if burst and (not touched or time.monotonic() - began >= _LONGEST_BURST):
            yield burst, True
            burst = set()
        if not touched and not has_begun:
            has_begun = True
            yield set(), True


def _notify(folders: AbstractSet[str], stop: threading.Event) -> Iterator[AbstractSet[str]]:
    """Yield the paths that were touched in folders, as soon as possible, until `stop` is set.

    Whenever nothing was touched for a while it yields an empty set. From the first one on nothing is missed.
    It ends early when a file is touched whose name is not UTF-8: it has to be started again.
    `FileNotFoundError`: one of the folders is gone; `OSError`: the system cannot watch them.
    """
    # Imported in the thread, when everything has been spawned.
    import watchfiles  # noqa: PLC0415

    try:
        for changes in watchfiles.watch(
            *folders,
            watch_filter=None,
            debounce=_STEP,
            step=_STEP,
            stop_event=stop,
            rust_timeout=_QUIET - _STEP,
            yield_on_timeout=True,
            raise_interrupt=False,
            force_polling=False,
            recursive=False,
            # With it, watchfiles does not report missing watches either; `filters` leaves out unreadable
            # folders.
            ignore_permission_denied=False,
        ):
            yield {path for _, path in changes}
    # watchfiles' error for unknown errors of the system, and for names that are not UTF-8.
    except (RuntimeError, UnicodeEncodeError) as exc:
        if _NOT_UTF8 not in str(exc):
            raise OSError(str(exc)) from exc


def _silent_system(folders: Iterable[str]) -> str:
    """Name the first of the folders' file systems that does not report changes; empty if all do."""
    if os.environ.get(_FORCE_POLLING, "").lower() not in {"", "false", "disable", "disabled"}:
        return f"{_FORCE_POLLING} is set: the file system"
    import psutil  # noqa: PLC0415 - as watchfiles

    mounts = {each.mountpoint: each.fstype for each in psutil.disk_partitions(all=True)}
    for folder in folders:
        above = max((point for point in mounts if _is_in(folder, point)), key=len, default="/")
        if mounts.get(above) in _SILENT_SYSTEMS:
            return f"the file system of {folder} ({mounts[above]})"
    return ""


def _is_in(folder: str, point: str) -> bool:
    return point in {"/", folder} or folder.startswith(point + "/")
