"""The process table: which processes live, and which of them belong to a child of ours.

A child is known as a `Family`: the session that it leads and, on Linux, every process with its marks in the
environment, which finds daemons that have left the session. `find` finds the members of any number of
families in one pass over the table, and signals each member as soon as it is seen, if its family was
signalled: a process that forks and exits repeatedly would be gone once the pass is over.

On Linux one short read gives all about a process (``/proc/PID/stat``, proc(5)); elsewhere ``ps`` is run. A
process that vanishes meanwhile counts as gone, and another user's is not ours. If the system refuses (no
descriptor is left), `OSError` is raised: then it is not known what lives. Zombies are recognised: nothing can
be done about them, and `os.killpg` takes a group of them for a live one.

Standard library only, and little of it: the guardian loads this file by its path and keeps it in memory.
"""

from __future__ import annotations

import os
import sys

# `typing`, or `signal` (for its enums) together with `contextlib`, would cost a fifth of the guardian.
TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Collection, Iterable, Iterator
else:
    import _signal as signal

__all__ = ["Entry", "Family", "Suppress", "contents", "environment", "find", "is_still_there", "read", "send"]
__all__ += ["take", "tree"]

# Passes over /proc: a process that forks and exits repeatedly is seen in one of the first.
_MAX_ROUNDS = 100
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


class Suppress:
    """What `contextlib.suppress` is."""

    def __init__(self, *errors: type[Exception]) -> None:
        self._errors = errors

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, self._errors)


class Entry:
    """One line of the process table. Two are equal if they mean the same process.

    Attributes:
        started: Its start time, in a unit of the system: with the pid, it identifies a process for ever.
    """

    __slots__ = ("group", "is_zombie", "parent", "pid", "session", "started")

    def __init__(
        self, pid: int, *, parent: int, group: int, session: int, is_zombie: bool, started: str
    ) -> None:
        self.pid = pid
        self.parent = parent
        self.group = group
        self.session = session
        self.is_zombie = is_zombie
        self.started = started

    def __repr__(self) -> str:
        return f"<Entry {self.pid} of session {self.session}{', a zombie' if self.is_zombie else ''}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entry) and (self.pid, self.started) == (other.pid, other.started)

    def __hash__(self) -> int:
        return hash((self.pid, self.started))


class Family:
    """All processes that belong to one child, and the signal that they have to get.

    Args:
        leader: The number of the child, and of its session; 0 if only the marks count.
        marks: Variables (``NAME=value``), all of which a member that has left the session had when it was
            executed. None: only the session counts.
        started: The start time of the leader, if its number may have been used again.
    """

    def __init__(self, leader: int, marks: frozenset[bytes] = frozenset(), started: str = "") -> None:
        self.leader = leader
        self.marks = marks
        self.started = started
        self.signalled = 0
        self._reached: set[Entry] = set()

    def signal(self, number: int) -> None:
        """Signal the leader's group now, and others once `find` sees them; SIGKILL at every sight."""
        self.signalled = number
        self._reached.clear()
        if self.leader:
            with Suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
                os.killpg(self.leader, number)

    def has(self, member: Entry) -> None:
        """Take note of a living member, and signal it if its family was signalled and it has missed that."""
        if self.signalled == signal.SIGKILL:
            send(member, self.signalled)
            return
        # Without a leader no group was signalled; in a container, groups from outside have the number 0.
        was_reached = (self.leader and member.group == self.leader) or member in self._reached
        if self.signalled and not was_reached:
            self._reached.add(member)
            send(member, self.signalled)

    def began(self, member: Entry) -> bool:
        """Whether `member`, of a session of our number, is in ours: the number may have been used again.

        While a session has members, the system gives its number to no other process; so if there is a process
        of that number, it is the leader, and has to be the one that we know.
        """
        if not self.started:
            return True
        leader = member if member.pid == self.leader else read(self.leader)
        return leader is None or leader.is_zombie or leader.started == self.started


def find(families: Collection[Family]) -> dict[Family, list[Entry]]:
    """Find the living members of families, for families that have any, and signal them if due; blocks."""
    by_session = {family.leader: family for family in families if family.leader}
    marked = [family for family in families if family.marks]
    shared = frozenset.intersection(*(family.marks for family in marked)) if marked else frozenset()
    found: dict[Family, list[Entry]] = {}
    for entry in take():
        if entry.is_zombie:
            continue
        family = by_session.get(entry.session)
        if family is not None and not family.began(entry):
            family = None
        if family is None and marked and shared <= (variables := environment(entry.pid)):
            family = next((each for each in marked if each.marks <= variables), None)
        if family is not None:
            family.has(entry)
            found.setdefault(family, []).append(entry)
    return found


def take() -> Iterator[Entry]:
    """Read the whole process table in several passes: every process that lives at the end has been seen."""
    if sys.platform != "linux":
        yield from _ask_ps("-A")
        return
    seen: set[str] = set()
    for _ in range(_MAX_ROUNDS):
        new = {name for name in os.listdir("/proc") if name.isdigit()} - seen  # noqa: PTH208 - no pathlib here
        if not new:
            return
        seen |= new
        for pid in sorted(map(int, new)):
            entry = read(pid)
            if entry is not None:
                yield entry


def read(pid: int) -> Entry | None:
    """Look one process up; ``None`` if there is none."""
    if sys.platform != "linux":
        return next(_ask_ps("-p", str(pid)), None)
    try:
        stat = contents(f"/proc/{pid}/stat")
    except _GONE:
        return None
    # The command stands in parentheses and may itself contain them and blanks. After it, from the third field
    # on (proc(5)): state, parent, group, session; the 22nd is when it started.
    fields = stat[stat.rindex(b")") + 2 :].split(None, 20)
    return Entry(
        pid,
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        is_zombie=fields[0] in b"ZX",
        started=fields[19].decode(),
    )


def environment(pid: int) -> frozenset[bytes]:
    """The variables (``NAME=value``) that a process had when it was executed. Only Linux tells."""
    if sys.platform != "linux":
        return frozenset()
    try:
        return frozenset(contents(f"/proc/{pid}/environ").split(b"\0"))
    except _GONE:
        return frozenset()


def is_still_there(entry: Entry) -> bool:
    """Whether this very process lives, and not another one with its number; yes if that cannot be known."""
    try:
        now = read(entry.pid)
    except OSError:
        return True
    return now is not None and now == entry and not now.is_zombie


def send(entry: Entry, number: int) -> None:
    """Signal this very process, and none that got its number."""
    with Suppress(OSError):
        if sys.platform == "linux":
            descriptor = os.pidfd_open(entry.pid)  # From here on, it is this process or none.
            try:
                if is_still_there(entry):
                    signal.pidfd_send_signal(descriptor, number)
            finally:
                os.close(descriptor)
        elif is_still_there(entry):
            os.kill(entry.pid, number)


def tree(entries: Iterable[Entry], leader: int) -> set[int]:
    """The living processes of the session of `leader`, whose parents may be gone, and their descendants."""
    children: dict[int, list[int]] = {}
    found: set[int] = set()
    for entry in entries:
        if entry.is_zombie:
            continue
        children.setdefault(entry.parent, []).append(entry.pid)
        if entry.session == leader:
            found.add(entry.pid)
    unseen = [*found, leader]
    while unseen:
        for child in children.get(unseen.pop(), ()):
            if child not in found:
                found.add(child)
                unseen.append(child)
    return found


def contents(path: str) -> bytes:
    """Read a file below ``/proc``; a file object would cost four times as much, for each process."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return b"".join(iter(lambda: os.read(descriptor, 65536), b""))
    finally:
        os.close(descriptor)


def _ask_ps(*which: str) -> Iterator[Entry]:
    import subprocess  # noqa: PLC0415 - as large as everything else here, and on Linux not needed

    command = ["ps", *which, "-o", "pid=,ppid=,pgid=,stat=,lstart="]
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        pid, parent, group, state, started = line.split(None, 4)
        with Suppress(OSError):  # it has ended, or is another user's
            yield Entry(
                int(pid),
                parent=int(parent),
                group=int(group),
                session=os.getsid(int(pid)),
                is_zombie=state.startswith("Z"),
                started=started,
            )
