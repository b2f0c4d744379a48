"""The background thread: calls of other threads, what interrupts them, and what ends the thread."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from functools import partial

import pytest
import trio

from hybridrelay.client.embedding import background
from hybridrelay.client.embedding.background import Background, call_and_wait
from hybridrelay.errors import HybridRelayError
from hybridrelay.protocol import Reason

from ...waiting import wait_until


@pytest.fixture
def thread() -> Iterator[Background]:
    thread = background.background()
    yield thread
    thread.stop()


async def returns(value: int, _thread: object = None) -> int:
    await trio.lowlevel.checkpoint()
    return value


def nothing_left(_result: object) -> None:
    pytest.fail("a result was disposed of")


def test_a_call_returns_or_raises_what_the_function_does(thread: Background) -> None:
    async def fails(_thread: Background) -> None:
        raise KeyError("no such thing")

    assert call_and_wait(partial(returns, 42)) == 42
    with pytest.raises(KeyError, match="no such thing"):
        call_and_wait(fails)
    assert background.background() is thread, "an error of a call does not end the thread"


def test_a_future_that_is_cancelled_cancels_its_call(thread: Background) -> None:
    cancelled = threading.Event()
    begun = threading.Event()

    async def waits() -> None:
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    future = thread.call(waits, dispose=nothing_left)
    assert begun.wait(30)
    assert future.cancel()
    assert cancelled.wait(30)


def test_a_result_that_comes_too_late_is_disposed_of(thread: Background) -> None:
    disposed: list[int] = []

    async def finishes_nevertheless() -> int:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(release.wait)
        return 7

    release = threading.Event()
    future = thread.call(finishes_nevertheless, dispose=disposed.append)
    background.abandon(future, disposed.append)
    release.set()
    wait_until(lambda: disposed == [7], seconds=30, what="the result is disposed of")
    with pytest.raises(CancelledError):
        future.result()


def test_a_result_that_nobody_takes_is_disposed_of(thread: Background) -> None:
    disposed: list[int] = []
    future = thread.call(partial(returns, 7), dispose=nothing_left)
    assert future.result() == 7

    def interrupted() -> int:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        background.take_result(future, interrupted, disposed.append)
    assert disposed == [7]


def test_the_thread_does_not_wait_for_itself(thread: Background) -> None:
    async def calls_again(_thread: Background) -> int:
        return call_and_wait(partial(returns, 1))

    with pytest.raises(RuntimeError, match="wait for itself"):
        call_and_wait(calls_again)


def test_calls_that_wait_when_it_stops_get_that_error(thread: Background) -> None:
    future = thread.call(trio.sleep_forever, dispose=nothing_left)
    thread.stop()
    with pytest.raises(HybridRelayError, match="exiting") as ended:
        future.result()
    assert ended.value.reason is Reason.GOING_AWAY
    with pytest.raises(HybridRelayError, match="exiting"):
        thread.call(partial(returns, 1), dispose=nothing_left)
    assert call_and_wait(partial(returns, 1)) == 1, "another thread was started"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_the_thread_is_reported_to_those_who_wait(thread: Background) -> None:
    async def breaks() -> None:
        async def bug() -> None:
            raise ZeroDivisionError

        thread.services.start_soon(bug)
        await trio.sleep_forever()

    future = thread.call(breaks, dispose=nothing_left)
    with pytest.raises(HybridRelayError) as failed:
        future.result()
    assert failed.value.reason in {Reason.INTERNAL_ERROR, Reason.GOING_AWAY}
    wait_until(lambda: not thread.is_usable, seconds=30, what="the thread has ended")
    assert call_and_wait(partial(returns, 1)) == 1, "another thread was started"


def test_many_threads_start_one_thread() -> None:
    seen: list[Background] = []
    barrier = threading.Barrier(16)

    def first_call() -> None:
        barrier.wait()
        with contextlib.suppress(HybridRelayError):
            seen.append(background.background())

    threads = [threading.Thread(target=first_call) for _ in range(16)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert len(seen) == 16
    assert len(set(seen)) == 1
