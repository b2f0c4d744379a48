"""Short functions run in threads, and in the calling thread if no thread can be started."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
import threading

import pytest
import trio
import trio.testing

from hybridrelay._thread_memory import has_memory_for_thread
from hybridrelay._threads import OutOfThreads, run_in_thread, run_in_thread_if_possible, thread_errors


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
    with trio.fail_after(60):
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


async def test_an_error_of_starting_a_thread_that_is_no_shortage_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(trio.to_thread, "run_sync", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        await run_in_thread(pytest.fail, "this is not called")


def test_threads_that_cannot_be_started_are_a_shortage() -> None:
    with pytest.raises(OutOfThreads) as caught, thread_errors():
        raise RuntimeError("can't start new thread")
    assert caught.value.errno == errno.EAGAIN
    with pytest.raises(RuntimeError, match="another"), thread_errors():
        raise RuntimeError("another")


def _no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> mmap.mmap:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(mmap, "mmap", refuse)


@pytest.mark.skipif(sys.platform == "win32", reason="limits of address space are of POSIX")
async def test_without_memory_for_a_thread_none_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter would wait without end for a thread that runs out of memory before it has begun."""
    limiter = trio.CapacityLimiter(1)
    _no_memory(monkeypatch)
    assert await run_in_thread(threading.get_ident, limiter=limiter) == threading.get_ident()
    with pytest.raises(OutOfThreads):
        await run_in_thread_if_possible(threading.get_ident, limiter=limiter)
    with pytest.raises(OutOfThreads), thread_errors():
        raise AssertionError("this is not reached")
    assert limiter.borrowed_tokens == 0
    monkeypatch.undo()
    assert await run_in_thread_if_possible(threading.get_ident, limiter=limiter) != threading.get_ident()


async def test_memory_is_looked_at_when_it_is_the_turn_of_a_thread(
    monkeypatch: pytest.MonkeyPatch, nursery: trio.Nursery
) -> None:
    """It may have been used up while other threads were waited for."""
    limiter, borrower, found = trio.CapacityLimiter(1), object(), []

    async def run() -> None:
        found.append(await run_in_thread(threading.get_ident, limiter=limiter))

    limiter.acquire_on_behalf_of_nowait(borrower)
    nursery.start_soon(run)
    await trio.testing.wait_all_tasks_blocked()
    monkeypatch.setattr("hybridrelay._threads.has_memory_for_thread", lambda: False)
    limiter.release_on_behalf_of(borrower)
    await trio.testing.wait_all_tasks_blocked()
    assert found == [threading.get_ident()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_limit_of_address_space_is_noticed() -> None:
    program = """
import os, resource
from hybridrelay._thread_memory import THREAD_BYTES, has_memory_for_thread
assert has_memory_for_thread()
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
_, hard = resource.getrlimit(resource.RLIMIT_AS)
for spare in (0, THREAD_BYTES // 2, 4 * THREAD_BYTES):
    resource.setrlimit(resource.RLIMIT_AS, (used + spare, hard))
    print(has_memory_for_thread())
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False", "True"]
    assert has_memory_for_thread()
