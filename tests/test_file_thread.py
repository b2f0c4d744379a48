"""Files that are read while a program runs, on a file system that answers late or never."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
import trio.testing

from hybridrelay._file_thread import FILE_SECONDS, FileSilent, FileThread, side_by_side
from hybridrelay.errors import ConfigurationError


@pytest.fixture
def hanging() -> threading.Event:
    """Work that waits for this hangs."""
    return threading.Event()


async def run_past_the_deadline(function: Callable[[], Awaitable[None]], clock: trio.testing.MockClock) -> None:
    """Run a function to its end. When it waits for files, the time in which they have to answer passes."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(function)
        await trio.testing.wait_all_tasks_blocked()
        clock.jump(FILE_SECONDS + 1)


async def test_what_it_returns_and_raises() -> None:
    thread = FileThread("the file")
    assert await thread.run(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await thread.run(divmod, 7, 0)


async def test_work_that_hangs_is_an_error_and_holds_up_no_other_file(
    hanging: threading.Event, mock_clock: trio.testing.MockClock
) -> None:
    stuck, other = FileThread("the deny list"), FileThread("the certificate")
    errors: list[ConfigurationError] = []

    async def read() -> None:
        with pytest.raises(ConfigurationError) as caught:
            await stuck.run(hanging.wait)
        errors.append(caught.value)

    try:
        for number in (1, 2):  # the second waits for the thread of the first
            await run_past_the_deadline(read, mock_clock)
            assert len(errors) == number
        assert "the deny list cannot be used" in str(errors[0])
        assert await other.run(str, 1) == "1"
    finally:
        hanging.set()


async def test_cancelled_it_returns_at_once(hanging: threading.Event) -> None:
    try:
        with trio.fail_after(30), trio.CancelScope() as scope:
            scope.cancel()
            await FileThread("the file").run(hanging.wait)
        assert scope.cancelled_caught
    finally:
        hanging.set()


async def test_files_that_hang_are_waited_for_together(
    hanging: threading.Event, mock_clock: trio.testing.MockClock
) -> None:
    files = [FileThread(f"file {number}") for number in range(20)]

    async def read() -> None:
        with pytest.raises(ConfigurationError, match="file 0 cannot be used"):
            await side_by_side([partial(one.run, hanging.wait) for one in files])

    try:
        await run_past_the_deadline(read, mock_clock)
    finally:
        hanging.set()


async def test_when_very_many_files_hang_not_all_of_them_are_waited_for(
    hanging: threading.Event, mock_clock: trio.testing.MockClock
) -> None:
    begun: list[int] = []

    async def read(number: int) -> None:
        begun.append(number)
        await FileThread(f"file {number}").run(hanging.wait)

    async def read_all() -> None:
        with pytest.raises(FileSilent):
            await side_by_side([partial(read, number) for number in range(500)])

    try:
        await run_past_the_deadline(read_all, mock_clock)
    finally:
        hanging.set()
    assert len(begun) == 64


async def test_side_by_side_keeps_the_order_and_raises_the_first_error() -> None:
    files = [FileThread(str(number)) for number in range(200)]
    assert await side_by_side([partial(one.run, int, one._what) for one in files]) == list(range(200))
    assert await side_by_side([]) == []
    finished: list[int] = []

    async def read(number: int) -> None:
        for _ in range(10 - number):
            await trio.lowlevel.checkpoint()
        finished.append(number)
        if number in (3, 6):
            raise ConfigurationError(f"error {number}")

    with pytest.raises(ConfigurationError, match="error 3"):
        await side_by_side([partial(read, number) for number in range(10)])
    assert sorted(finished) == list(range(10))
