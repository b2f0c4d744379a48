"""A batch is written once, or put back: whatever fails, and whenever the task is cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from hybridrelay._threads import OutOfThreads
from hybridrelay.relay.service import batches
from hybridrelay.relay.service.batches import write_batch


class File:
    """Where batches go, and which of them were put back."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.put_back: list[str] = []
        self.error: Exception | None = None
        #: `write` waits for it in its thread.
        self.may_write = threading.Event()
        self.may_write.set()
        self.has_begun = threading.Event()
        self.limiter = trio.CapacityLimiter(1)

    def write(self, batch: str) -> int:
        self.has_begun.set()
        assert self.may_write.wait(60)
        if self.error is not None:
            raise self.error
        self.written.append(batch)
        return len(batch)

    async def save(self, batch: str) -> int | None:
        return await write_batch(batch, self.write, put_back=self.put_back.append, limiter=self.limiter)


async def test_what_is_written_is_not_put_back() -> None:
    file = File()
    assert await file.save("one") == 3
    assert (file.written, file.put_back) == (["one"], [])


@pytest.mark.parametrize("error", [OSError("full"), MemoryError(), OutOfThreads()])
async def test_what_fails_is_put_back(error: Exception) -> None:
    file = File()
    file.error = error
    with pytest.raises(type(error)):
        await file.save("one")
    assert (file.written, file.put_back) == ([], ["one"])


async def test_without_a_thread_it_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridrelay._threads.has_memory_for_thread", lambda: False)
    file = File()
    with pytest.raises(OutOfThreads):
        await file.save("one")
    assert (file.written, file.put_back) == ([], ["one"])


async def test_what_waits_for_a_thread_when_it_is_cancelled_is_put_back(nursery: trio.Nursery) -> None:
    file = File()
    async with file.limiter:
        nursery.start_soon(file.save, "one")
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await trio.testing.wait_all_tasks_blocked()
    assert (file.written, file.put_back) == ([], ["one"])


async def test_what_is_being_written_when_it_is_cancelled_is_not_put_back() -> None:
    file = File()
    file.may_write.clear()
    async with trio.open_nursery() as saving:
        saving.start_soon(file.save, "one")
        await trio.to_thread.run_sync(file.has_begun.wait, 60)
        saving.cancel_scope.cancel()
    file.may_write.set()
    with trio.fail_after(60):
        async with file.limiter:  # the thread has ended
            assert (file.written, file.put_back) == (["one"], [])


async def test_a_thread_that_begins_after_the_cancellation_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    begin: list[Callable[[], int | None]] = []

    async def start_late(run: Callable[[], int | None], *, limiter: trio.CapacityLimiter) -> None:
        begin.append(run)
        await trio.sleep_forever()

    monkeypatch.setattr(batches, "run_in_thread_if_possible", start_late)
    file = File()
    async with trio.open_nursery() as saving:
        saving.start_soon(file.save, "one")
        await trio.testing.wait_all_tasks_blocked()
        saving.cancel_scope.cancel()
    assert begin[0]() is None
    assert (file.written, file.put_back) == ([], ["one"])
