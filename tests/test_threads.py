"""Short functions run in threads, and in the calling thread if no thread can be started."""

from __future__ import annotations

import errno
import threading

import pytest
import trio

from hybridrelay._threads import OutOfThreads, run_in_thread, thread_errors


def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


async def test_without_threads_short_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_threads(monkeypatch)
    monkeypatch.setattr(trio._core._thread_cache.THREAD_CACHE, "_idle_workers", {})
    assert await run_in_thread(divmod, 7, 2) == (3, 1)


async def test_names_that_are_not_resolved_hold_up_no_files() -> None:
    """Trio resolves names in threads of its default limiter, all of which may be waiting for a name server."""
    limiter = trio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.total_tokens))]
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)
    with trio.fail_after(10):
        assert await run_in_thread(divmod, 7, 2) == (3, 1)
    for borrower in borrowers:
        limiter.release_on_behalf_of(borrower)


async def test_errors_of_the_work_itself_are_raised() -> None:
    calls = 0

    def fail() -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("can't start new thread")  # in the function, which must not be called again

    with pytest.raises(RuntimeError):
        await run_in_thread(fail)
    assert calls == 1


def test_threads_that_cannot_be_started_are_a_shortage() -> None:
    with pytest.raises(OutOfThreads) as caught, thread_errors():
        raise RuntimeError("can't start new thread")
    assert caught.value.errno == errno.EAGAIN
    with pytest.raises(RuntimeError, match="another"), thread_errors():
        raise RuntimeError("another")
