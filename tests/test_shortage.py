"""What has run out on this machine is told from what the other side did."""

from __future__ import annotations

import errno
import os
import socket
import threading

import pytest
import trio

from hybridrelay._shortage import OutOfThreads, run_in_thread, shortage_of, thread_errors


def _no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    ("error", "says", "do"),
    [
        (_error(errno.EMFILE), "file descriptors", "LimitNOFILE="),
        (_error(errno.ENFILE), "in all of its processes", "fs.file-max"),
        (_error(errno.ENOBUFS), "memory", "tcp_mem"),
        (_error(errno.ENOMEM), "memory", "tcp_mem"),
        (OutOfThreads(), "thread", "TasksMax="),
    ],
)
def test_a_shortage(error: OSError, says: str, do: str) -> None:
    shortage = shortage_of(error)
    assert shortage is not None
    assert says in shortage.text
    assert do in shortage.remedy


@pytest.mark.parametrize(
    "error",
    [
        _error(errno.ECONNREFUSED),
        _error(errno.ENETUNREACH),
        _error(errno.EAGAIN),
        OSError("no number"),
        socket.gaierror(errno.EMFILE, "a number of another kind"),
    ],
)
def test_something_else(error: OSError) -> None:
    assert shortage_of(error) is None


@pytest.mark.parametrize(("number", "is_shortage"), [(None, False), (errno.EADDRINUSE, True), (errno.EACCES, False)])
def test_no_address_is_told_from_no_port(
    number: int | None, is_shortage: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are EADDRNOTAVAIL to a connection. Where no port is left, none can be bound either."""

    class Sock(socket.socket):
        def bind(self, address: object) -> None:
            if number is not None:
                raise _error(number)

    monkeypatch.setattr(socket, "socket", Sock)
    shortage = shortage_of(_error(errno.EADDRNOTAVAIL))
    assert (shortage is not None) == is_shortage
    if shortage is not None:
        assert "no local port" in shortage.text


async def test_without_threads_short_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_threads(monkeypatch)
    monkeypatch.setattr(trio._core._thread_cache.THREAD_CACHE, "_idle_workers", {})
    assert await run_in_thread(divmod, 7, 2) == (3, 1)


async def test_names_that_are_not_resolved_hold_up_no_files() -> None:
    """Trio resolves names in threads of its default limiter. All of them may wait for a name server."""
    limiter = trio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.total_tokens))]
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)
    with trio.fail_after(10):
        assert await run_in_thread(divmod, 7, 2) == (3, 1)
    for borrower in borrowers:
        limiter.release_on_behalf_of(borrower)


async def test_errors_of_the_work_itself_are_raised() -> None:
    def fail() -> None:
        raise RuntimeError("can't start new thread")  # in the function, which must not be called again

    calls = []
    with pytest.raises(RuntimeError):
        await run_in_thread(lambda: (calls.append(1), fail()))
    assert calls == [1]


def test_threads_that_cannot_be_started_are_a_shortage() -> None:
    with pytest.raises(OutOfThreads) as caught, thread_errors():
        raise RuntimeError("can't start new thread")
    assert caught.value.errno == errno.EAGAIN
    with pytest.raises(RuntimeError, match="another"), thread_errors():
        raise RuntimeError("another")
