"""The buffer before standard output, and how it gets on with readers that are slow or leave."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from orchestra.dashboard import writer as writer_module
from orchestra.dashboard.writer import ReaderGone, Writer
from orchestra.errors import OrchestraError
from tests.dashboard_kit import Pipe, running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()


async def write(writer: Writer, data: bytes) -> None:
    """As a printer does it."""
    await writer.wait_for_room()
    writer.put(data)


async def failure_of(writer: Writer, feed: Callable[[], Awaitable[None]]) -> OrchestraError:
    """Run a writer while it is fed, until it fails."""
    failures: list[OrchestraError] = []

    async def run() -> None:
        try:
            await writer.run()
        except OrchestraError as exc:
            failures.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await feed()
    (failure,) = failures
    return failure


async def test_a_slow_reader_makes_writers_wait_and_loses_nothing(pipe: Pipe) -> None:
    writer = Writer(pipe.writer)
    total, text = 80, b"x" * 100_000
    taken = 0
    async with running(writer), trio.open_nursery() as nursery:

        async def feed() -> None:
            nonlocal taken
            for index in range(total):
                await write(writer, b"%d %s\n" % (index, text))
                taken += 1

        nursery.start_soon(feed)
        await trio.testing.wait_all_tasks_blocked()
        # 8 MB were on offer; 4 MiB and what the pipe holds is what is taken without a reader.
        assert taken < 60
        got = b""
        while got.count(b"\n") < total:
            got += await pipe.read()
    assert [int(each.split()[0]) for each in got.splitlines()] == list(range(total))


async def test_all_tasks_that_wait_for_room_get_it(pipe: Pipe) -> None:
    """Four processes that write faster than they are read all come to an end."""
    writer = Writer(pipe.writer)
    received = b""

    async def produce(name: bytes) -> None:
        for number in range(3000):
            await write(writer, b"%s %d %s\n" % (name, number, b"x" * 1000))
            if number % 50 == 0:
                await trio.lowlevel.checkpoint()

    async with running(writer), trio.open_nursery() as nursery:
        for name in (b"a", b"b", b"c", b"d"):
            nursery.start_soon(produce, name)
        while received.count(b"\n") < 12_000:
            received += await pipe.read()
    for name in (b"a", b"b", b"c", b"d"):
        numbers = [int(each.split()[1]) for each in received.splitlines() if each.startswith(name)]
        assert numbers == list(range(3000))


async def test_what_does_not_wait_is_never_refused(pipe: Pipe) -> None:
    writer = Writer(pipe.writer)
    async with running(writer), trio.open_nursery() as nursery:

        async def feed() -> None:
            for _ in range(100):
                await write(writer, b"x" * 100_000 + b"\n")

        nursery.start_soon(feed)
        await trio.testing.wait_all_tasks_blocked()
        writer.put(b"event\n")
        got = b""
        while got.count(b"\n") < 101:
            got += await pipe.read()
    assert got.count(b"event\n") == 1


async def test_a_reader_that_goes_away_ends_the_writer_with_141(pipe: Pipe) -> None:
    writer = Writer(pipe.writer)
    pipe.close_reader()
    failure = await failure_of(writer, lambda: write(writer, b"x"))
    assert isinstance(failure, ReaderGone)
    assert failure.exit_code == 141
    assert str(failure) == ""


async def test_a_reader_that_goes_away_while_data_waits_releases_it(pipe: Pipe) -> None:
    writer = Writer(pipe.writer)
    released = 0

    async def feed_all() -> None:
        nonlocal released
        for _ in range(100):
            await write(writer, b"x" * 100_000)
            released += 1

    async def feed() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed_all)
            await trio.testing.wait_all_tasks_blocked()
            assert released < 100
            pipe.close_reader()

    assert isinstance(await failure_of(writer, feed), ReaderGone)
    assert released == 100


async def test_a_closed_reader_is_noticed_with_nothing_to_write(pipe: Pipe) -> None:
    writer = Writer(pipe.writer)

    async def leave() -> None:
        await trio.testing.wait_all_tasks_blocked()
        pipe.close_reader()

    assert isinstance(await failure_of(writer, leave), ReaderGone)


async def test_a_full_disk_is_said_in_words() -> None:
    try:
        full = os.open("/dev/full", os.O_WRONLY)
    except FileNotFoundError:
        pytest.skip("only Linux has a disk that is always full")
    try:
        writer = Writer(full)
        failure = await failure_of(writer, lambda: write(writer, b"x"))
    finally:
        os.close(full)
    assert (
        str(failure) == "standard output cannot be written to, and is not complete: No space left on device"
    )


async def test_in_a_hurry_the_reader_is_not_waited_for(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_STALL_TIMEOUT", 1000.0)
    writer = Writer(pipe.writer)
    async with running(writer):
        await write(writer, b"x" * 1_000_000)
        writer.give_up()
        await write(writer, b"dropped")
        await writer.aclose()


async def test_closing_waits_for_a_reader_that_makes_progress(pipe: Pipe) -> None:
    writer = Writer(pipe.writer)
    got = b""
    async with running(writer), trio.open_nursery() as nursery:
        for index in range(20):
            await write(writer, b"%d %s\n" % (index, b"x" * 50_000))
        is_closed = trio.Event()

        async def close() -> None:
            await writer.aclose()
            is_closed.set()

        nursery.start_soon(close)
        await trio.testing.wait_all_tasks_blocked()
        assert not is_closed.is_set()
        while got.count(b"\n") < 20:
            got += await pipe.read(8192)
        await is_closed.wait()
    assert got.count(b"\n") == 20


async def test_closing_gives_up_on_a_reader_that_does_not_read(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_STALL_TIMEOUT", 0.05)
    writer = Writer(pipe.writer)
    async with running(writer):
        await write(writer, b"x" * 1_000_000)
        await writer.aclose()


async def test_standard_output_stays_blocking(pipe: Pipe) -> None:
    writer = Writer(pipe.writer)
    async with running(writer):
        await write(writer, b"x")
        await writer.aclose()
        assert os.get_blocking(pipe.writer)


async def test_non_blocking_standard_output_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    writer = Writer(pipe.writer)
    got = b""
    async with running(writer):
        for _ in range(10):
            await write(writer, b"x" * 100_000 + b"\n")
        while got.count(b"\n") < 10:
            got += await pipe.read()
