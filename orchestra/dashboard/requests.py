"""The requests of a run for the dashboard: those in flight, those that are over, and hints about problems.

Consecutive requests are folded into one group if they are assets that were served normally (Vite answers a
page with hundreds of modules), or if they are the same request with the same answer. A hint is given once, in
a line that says what to do.

Not here: how a row looks, problems that the run itself notices (`Notice`); time (`now` is an argument, in
seconds since the epoch), tasks.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from orchestra.events import (
    Event,
    RequestFinished,
    RequestHeads,
    RequestHeld,
    RequestPending,
    RequestReleased,
    StreamClosed,
    StreamOpened,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

__all__ = ["Group", "Hints", "RequestRow", "Requests"]

# Limits: groups, members of one, requests in flight, streams, heads.
_GROUPS = 300
_MEMBERS = 50
_UNDER_WAY = 1000
_STREAMS = 1000
_HEADS = 500

_duration = attrgetter("duration")

_OUR_LIVE_SOCKET = "/__orchestra__/live"


@dataclass
class UnderWay:
    """A request that is not over: its newest event, and its start time."""

    newest: RequestHeld | RequestPending
    since: float
    is_released: bool = False

    @property
    def held_for(self) -> str:
        """The reason for which it waits; empty if it does not."""
        return self.newest.reason if isinstance(self.newest, RequestHeld) and not self.is_released else ""


class Group:
    """Requests that are folded into one row.

    Attributes:
        members: The newest requests, oldest first.
        slowest: The one that took longest.
        is_assets: Whether they are assets, and not repetitions of one request.
    """

    def __init__(self, first: RequestFinished) -> None:
        self.count = 1
        self.members: deque[RequestFinished] = deque([first], maxlen=_MEMBERS)
        self.slowest = first
        self.key = first.id
        self.is_assets = _is_fine_asset(first)

    @property
    def newest(self) -> RequestFinished:
        """The newest member."""
        return self.members[-1]

    def takes(self, other: RequestFinished) -> bool:
        """Whether a request that follows belongs to the group."""
        return (self.is_assets and _is_fine_asset(other)) or _sort(self.newest) == _sort(other)

    def add(self, other: RequestFinished) -> None:
        """Add a request."""
        self.count += 1
        self.members.append(other)
        self.slowest = max(self.slowest, other, key=_duration)
        self.is_assets &= _is_fine_asset(other)

    def listed(self, *, is_by_time: bool) -> Iterable[RequestFinished]:
        """Give the known members, the newest or the slowest first."""
        if not is_by_time:
            return reversed(self.members)
        known = {each.id: each for each in (self.slowest, *self.members)}
        return sorted(known.values(), key=_duration, reverse=True)


class RequestRow(NamedTuple):
    """The contents of one row.

    Attributes:
        key: Identifies the row: a request's id; negative for a member of an unfolded group.
        of: The request; one that is not over has its present values, and its reason is what it waits for.
        is_running: It is not over.
        folded: How many requests the row stands for.
        is_assets: They are assets.
        is_member: It is a member of an unfolded group.
    """

    key: int
    of: RequestFinished
    is_running: bool = False
    folded: int = 1
    is_assets: bool = False
    is_member: bool = False


class Requests:
    """All requests of a run, bounded in memory.

    Attributes:
        count: The number of requests that are over.
        under_way: Requests in flight by id, the oldest first.
        streams: Open WebSockets and event streams, by id.
        tabs: The connections that browsers' tabs have to us, by id.
        heads: By id, the newest 500.
    """

    def __init__(self) -> None:
        self.count = 0
        self.under_way: dict[int, UnderWay] = {}
        self.groups: deque[Group] = deque(maxlen=_GROUPS)
        self.streams: dict[int, StreamOpened] = {}
        self.tabs: dict[int, StreamOpened] = {}
        self.heads: OrderedDict[int, RequestHeads] = OrderedDict()

    @property
    def held(self) -> int:
        """The number of requests that wait for an upstream."""
        return sum(bool(each.held_for) for each in self.under_way.values())

    def apply(self, event: Event) -> None:
        """Take an event of a request or a stream into account."""
        match event:
            case RequestFinished():
                self._finish(event)
            case RequestPending():
                self._go_on(event, event.at - event.elapsed)
            case RequestHeld():
                self._go_on(event, event.at)
            case RequestReleased():
                if event.id in self.under_way:
                    self.under_way[event.id].is_released = True
            case RequestHeads():
                self.heads[event.id] = event
                if len(self.heads) > _HEADS:
                    self.heads.popitem(last=False)
            case StreamOpened(upstream="orchestra"):
                if event.target.startswith(_OUR_LIVE_SOCKET):
                    self.tabs[event.id] = event
            case StreamOpened():
                self.under_way.pop(event.id, None)
                if len(self.streams) < _STREAMS:
                    self.streams[event.id] = event
            case StreamClosed():
                self.streams.pop(event.id, None)
                self.tabs.pop(event.id, None)
            case _:
                pass

    def rows(
        self, now: float, *, text: str = "", unfolded: Collection[int] = (), is_by_time: bool = False
    ) -> Iterator[RequestRow]:
        """Give the rows: requests in flight, the oldest first; then those that are over, the newest first.

        With `is_by_time` those that are over are sorted by duration, the slowest first, each group by its
        slowest member.
        """
        for waiting in self.under_way.values():
            row = _running(waiting, now)
            if _has(row, text):
                yield row
        groups = sorted(self.groups, key=lambda each: -each.slowest.duration) if is_by_time else None
        for group in groups or reversed(self.groups):
            shown = group.slowest if is_by_time else group.newest
            row = RequestRow(group.key, shown, folded=group.count, is_assets=group.is_assets)
            if group.count == 1 and _has(row, text):
                yield row
                continue
            if not text:
                yield row
            if text or group.key in unfolded:
                for each in group.listed(is_by_time=is_by_time):
                    if not text:
                        yield RequestRow(-each.id, each, is_member=True)
                    elif _has(member := RequestRow(each.id, each), text):
                        yield member

    def past(self) -> Iterator[Event]:
        """Give events from which an empty object can be brought to this state, in any order."""
        yield from (each.newest for each in self.under_way.values())
        for group in self.groups:
            yield from group.members
        for known in (self.streams, self.tabs, self.heads):
            yield from known.values()

    def find(self, number: int) -> RequestFinished | None:
        """Give a request that is over by its id, if it is still known."""
        members = (member for group in self.groups for member in group.members)
        return next((each for each in members if each.id == number), None)

    def clear(self) -> None:
        """Forget the requests that are over."""
        self.groups.clear()
        self.heads.clear()

    def _go_on(self, event: RequestHeld | RequestPending, since: float) -> None:
        if event.id in self.under_way:
            since = self.under_way[event.id].since
        elif len(self.under_way) >= _UNDER_WAY:
            return
        self.under_way[event.id] = UnderWay(event, since)

    def _finish(self, event: RequestFinished) -> None:
        self.under_way.pop(event.id, None)
        if event.upstream == "orchestra" and event.status is not None and event.status < 400:
            return  # A page has loaded our script, or has connected: that is not about the project.
        self.count += 1
        if self.groups and self.groups[-1].takes(event):
            self.groups[-1].add(event)
        else:
            self.groups.append(Group(event))


def _running(waiting: UnderWay, now: float) -> RequestRow:
    event = waiting.newest
    status = event.status if isinstance(event, RequestPending) else None
    why = f"waits: {waiting.held_for}" if waiting.held_for else f"waits for the {event.upstream}"
    if status is not None:
        why = "is being answered"
    request = RequestFinished(
        id=event.id,
        method=event.method,
        target=event.target,
        status=status,
        upstream=event.upstream,
        reason=why,
        held=0.0,
        first_byte=None,
        duration=max(now - waiting.since, 0.0),
        bytes_in=0,
        bytes_out=0,
        outcome="complete",
    )
    return RequestRow(event.id, request, is_running=True)


def _has(row: RequestRow, text: str) -> bool:
    if not text:
        return True
    one = row.of
    status = "---" if one.status is None else one.status
    return text.lower() in f"{one.method} {one.target} {status} {one.upstream} {one.reason}".lower()


def _sort(event: RequestFinished) -> tuple[object, ...]:
    path = event.target.partition("?")[0]
    return event.method, path, event.status, event.upstream, event.outcome


def _is_fine_asset(event: RequestFinished) -> bool:
    """Whether it is a module, a style or an image that was served normally."""
    if event.upstream != "frontend" or event.method != "GET" or event.outcome != "complete":
        return False
    if event.status is None or event.status >= 400:
        return False
    path = event.target.partition("?")[0]
    return "." in path.rpartition("/")[2] or path.startswith(("/@", "/node_modules/"))


# Connections that a browser opens to one origin over HTTP/1.1, including event streams.
_CONNECTIONS_OF_A_BROWSER = 6
# So many of Vite's modules were loaded that its HMR socket should be open, too.
_MODULES_OF_A_PAGE = 20


_MANY_STREAMS = (
    f"{_CONNECTIONS_OF_A_BROWSER} event streams are open: a browser has no more connections to one origin"
    " over HTTP/1.1, and its other requests wait. Close some, or share one stream."
)
_OUTDATED = (
    "Vite has bundled its dependencies again (504): reload the page if it does not do so itself;"
    " if that goes on, stop and remove node_modules/.vite."
)
_NO_HMR = (
    "a page has loaded Vite's modules, but its HMR socket has not come through this address:"
    " take host, port and clientPort out of server.hmr in Vite's configuration."
)
_PREFLIGHT = (
    "a browser asks whether it may (OPTIONS, CORS), because the page comes from another address:"
    " open it at this one, and use paths without a host."
)
_HOST = "Vite refuses this host (403): add it to [proxy] allowed_hosts, or to server.allowedHosts."


class Hints:
    """Collects hints, oldest first; one that was dismissed does not come again."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self._suggested: set[str] = set()
        self._seen: Counter[str] = Counter()

    def dismiss(self) -> None:
        """Remove the newest one."""
        if self.found:
            self.found.pop()

    def see(self, event: Event, requests: Requests) -> None:
        """Look for problems in an event, and in the requests in flight after it."""
        match event:
            case StreamOpened(kind="event-stream"):
                streams = (each.kind == "event-stream" for each in requests.streams.values())
                self._suggest(_MANY_STREAMS, is_so=sum(streams) >= _CONNECTIONS_OF_A_BROWSER)
            case StreamOpened(kind="hmr"):
                self._seen["hmr"] += 1
                self.found = [each for each in self.found if each != _NO_HMR]
            case RequestFinished():
                self._suggest(_PREFLIGHT, is_so=event.method == "OPTIONS")
                if event.upstream == "frontend":
                    self._see_frontend(event)
            case _:
                pass

    def _see_frontend(self, event: RequestFinished) -> None:
        self._suggest(_OUTDATED, is_so=event.status == 504)
        self._suggest(_HOST, is_so=event.status == 403 and event.target == "/@vite/client")
        path = event.target.partition("?")[0]
        broken = f"Vite cannot serve {path} (500), so its page may stay blank: the log says why."
        self.found = [each for each in self.found if each != broken]
        if event.status == 500:
            self.found.append(broken)
        if event.target.startswith("/@vite/client"):
            self._seen["client"] += 1
        self._seen["modules"] += 1
        is_loaded = self._seen["client"] and self._seen["modules"] >= _MODULES_OF_A_PAGE
        self._suggest(_NO_HMR, is_so=bool(is_loaded and not self._seen["hmr"]))

    def _suggest(self, hint: str, *, is_so: bool) -> None:
        if is_so and hint not in self._suggested:
            self._suggested.add(hint)
            self.found.append(hint)
