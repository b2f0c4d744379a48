"""Threads for work on paths: a path that hangs leaves threads to the others, and one that is slow is waited for."""

from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import MockClock

from hybridrelay._threads import OutOfThreads
from hybridrelay.streams.path_threads import (
    MAX_THREADS,
    PATIENCE_SECONDS,
    THREADS_PER_PATH,
    PathSilent,
    PathThreads,
)

from ..waiting import patience


async def test_the_work_is_done() -> None:
    threads = PathThreads()
    assert await threads.run("/a", threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        await threads.run("/a", lambda: 1 // 0)
    assert not threads._paths


async def test_a_path_that_hangs_leaves_threads_to_others(autojump_clock: MockClock) -> None:
    """A call that was cancelled keeps its thread: only when it returns are there threads for its path again."""
    threads, answers = PathThreads(), threading.Event()
    for _ in range(THREADS_PER_PATH):
        with trio.move_on_after(10) as scope:
            await threads.run("/hangs", lambda: answers.wait(patience(20)))
        assert scope.cancelled_caught
    start = trio.current_time()
    with pytest.raises(PathSilent) as caught:
        await threads.run("/hangs", lambda: None)
    assert trio.current_time() - start == PATIENCE_SECONDS
    assert (caught.value.filename, caught.value.strerror) == ("/hangs", "the file system does not answer")
    assert await threads.run("/works", lambda: "found") == "found"
    answers.set()
    while threads._paths:
        await trio.lowlevel.checkpoint()
    assert await threads.run("/hangs", lambda: "found") == "found"


async def test_a_call_waits_while_calls_before_it_end(autojump_clock: MockClock) -> None:
    """Calls may take almost as long as the patience. A call is refused when none has ended for this time."""
    threads = PathThreads()
    slow = [object() for _ in range(THREADS_PER_PATH)]
    for borrower in slow:
        await threads.acquire("/slow", borrower)
    begun: list[float] = []
    refused: list[float] = []
    start = trio.current_time()

    async def wait() -> None:
        try:
            await threads.acquire("/slow", object())
            begun.append((trio.current_time() - start) / PATIENCE_SECONDS)
        except PathSilent:
            refused.append((trio.current_time() - start) / PATIENCE_SECONDS)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(wait)
        for borrower in slow:
            await trio.sleep(0.9 * PATIENCE_SECONDS)
            threads.release("/slow", borrower)
    assert begun == pytest.approx([0.9, 1.8])
    assert refused == pytest.approx([3.0])


async def test_calls_that_end_when_another_one_has_waited_for_as_long_as_it_may(autojump_clock: MockClock) -> None:
    """They end at the moment at which it neither has a thread nor waits in the queue."""
    threads = PathThreads()
    for _ in range(60):  # the order in which tasks run at one moment is random
        async with trio.open_nursery() as nursery:

            async def hold() -> None:
                borrower = object()
                await threads.acquire("/a", borrower)
                await trio.sleep(PATIENCE_SECONDS)
                threads.release("/a", borrower)

            async def wait() -> None:
                borrower = object()
                try:
                    await threads.acquire("/a", borrower)
                except PathSilent:
                    return
                await trio.lowlevel.checkpoint()
                threads.release("/a", borrower)

            for _ in range(THREADS_PER_PATH):
                nursery.start_soon(hold)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(3):
                nursery.start_soon(wait)
        assert not threads._paths
    for _ in range(MAX_THREADS // THREADS_PER_PATH):  # none was lost
        await threads.acquire(f"/{_}", object())
        await threads.acquire(f"/{_}", object())


async def test_many_paths_that_hang_do_not_use_up_all_threads(autojump_clock: MockClock) -> None:
    threads = PathThreads()
    held = [(f"/{number % (MAX_THREADS // THREADS_PER_PATH)}", object()) for number in range(MAX_THREADS)]
    for path, borrower in held:
        await threads.acquire(path, borrower)
    with pytest.raises(PathSilent):
        await threads.run("/another", lambda: None)
    threads.release(*held.pop())
    assert await threads.run("/another", lambda: "found") == "found"
    for path, borrower in held:
        threads.release(path, borrower)
    assert not threads._paths


@pytest.mark.parametrize("is_full", [False, True])
async def test_a_call_that_is_cancelled_while_it_waits_takes_no_thread(
    is_full: bool, autojump_clock: MockClock
) -> None:
    threads = PathThreads()
    held = [object() for _ in range(THREADS_PER_PATH if is_full else 0)]
    for borrower in held:
        await threads.acquire("/a", borrower)
    with trio.move_on_after(PATIENCE_SECONDS / 2 if is_full else 0) as scope:
        await threads.run("/a", lambda: None)
    assert scope.cancelled_caught
    for borrower in held:
        threads.release("/a", borrower)
    assert not threads._paths


async def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work is not done in the calling thread, where it could stop everything."""

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(trio._core._thread_cache.THREAD_CACHE, "_idle_workers", {})
    threads = PathThreads()
    with pytest.raises(OutOfThreads):
        await threads.run("/a", lambda: None)
    assert not threads._paths
