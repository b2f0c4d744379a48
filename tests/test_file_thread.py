"""Files that are read while a program runs, on a file system that answers late or never."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from hybridrelay._file_thread import FILE_SECONDS, FileThread
from hybridrelay.errors import ConfigurationError


@pytest.fixture
def hanging() -> threading.Event:
    """Work that waits for this hangs."""
    return threading.Event()


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
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
                mock_clock.jump(FILE_SECONDS + 1)
            assert len(errors) == number
        assert "the deny list cannot be read" in str(errors[0])
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
