"""The log's writer: it never makes its caller wait, and says what it could not write."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from hybridrelay.cli.log_writer import LogWriter, _Batch

from ..waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes that poll can ask")

#: More than any pipe of these tests holds.
_MUCH = 200_000


def _dropped(count: int) -> str:
    return f"[{count} missing]\n"


class _Pipe:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        if sys.platform == "linux":
            fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)
        self._writers: list[LogWriter] = []

    def writer(self, **bounds: int) -> LogWriter:
        """One that writes here."""
        self._writers.append(LogWriter(self.writing, _dropped, **bounds))
        return self._writers[-1]

    def close(self) -> None:
        os.close(self.reading)
        for writer in self._writers:
            writer.flush(10)  # a thread must not write to whatever gets this descriptor next
        os.close(self.writing)

    def read(self) -> str:
        """All that is there now."""
        os.set_blocking(self.reading, False)
        found = b""
        while True:
            try:
                block = os.read(self.reading, 65536)
            except BlockingIOError:
                return found.decode()
            if not block:
                return found.decode()
            found += block

    def read_until_flushed(self, writer: LogWriter) -> list[str]:
        """Everything that is still to come."""
        found = ""
        while not writer.flush(0.02):
            found += self.read()
        return (found + self.read()).splitlines()


@pytest.fixture
def pipe() -> Iterator[_Pipe]:
    pipe = _Pipe()
    yield pipe
    pipe.close()


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)


def _put_much(writer: LogWriter) -> int:
    """Fill queue and pipe; how many lines were put."""
    count = 0
    while writer.put(f"{count:08d} {'x' * 90}\n") and count < _MUCH:
        count += 1
    assert count < _MUCH
    return count + 1


def _numbers(lines: list[str]) -> list[int]:
    return [int(line[:8]) for line in lines if not line.startswith("[")]


def test_lines_are_written_in_order(pipe: _Pipe) -> None:
    writer = pipe.writer()
    for number in range(20):
        assert writer.put(f"line {number}\n")
    assert writer.flush(10)
    assert pipe.read().splitlines() == [f"line {number}" for number in range(20)]


def test_a_stalled_reader_blocks_nobody_and_hears_what_was_dropped(pipe: _Pipe) -> None:
    writer = pipe.writer(max_lines=200)
    put = _put_much(writer)
    for _ in range(5):
        assert not writer.put("never\n")
    assert not writer.flush(0.01)

    lines = pipe.read_until_flushed(writer)
    assert _numbers(lines) == list(range(put - 1))
    assert lines[-1] == "[6 missing]"


def test_what_was_dropped_is_reported_in_its_place(pipe: _Pipe) -> None:
    writer = pipe.writer(max_lines=200)
    put = _put_much(writer)
    text = ""

    def has_room() -> bool:
        nonlocal text
        text += pipe.read()
        return writer.put("after\n")

    wait_until(has_room, seconds=20, what="room in the queue")
    lines = text.splitlines() + pipe.read_until_flushed(writer)
    place = lines.index("after")
    assert _numbers(lines[: place - 1]) == list(range(put - 1))
    assert lines[place - 1].endswith(" missing]")


def test_the_bytes_are_bounded(pipe: _Pipe) -> None:
    writer = pipe.writer(max_bytes=10_000)
    assert _put_much(writer) * 100 < 10_000 + 4096 + 65536 + 100


def test_a_line_longer_than_the_bound_is_written(pipe: _Pipe) -> None:
    writer = pipe.writer(max_bytes=1000)
    assert writer.put("y" * 100_000 + "\n")
    assert pipe.read_until_flushed(writer) == ["y" * 100_000]


@pytest.mark.usefixtures("no_threads")
def test_without_threads_lines_are_written_at_once(pipe: _Pipe) -> None:
    writer = pipe.writer()
    for line in ("one\n", "two\n"):
        assert writer.put(line)
        assert pipe.read() == line
    assert writer.flush(0)


@pytest.mark.usefixtures("no_threads")
def test_without_threads_a_stalled_reader_blocks_nobody_either(pipe: _Pipe) -> None:
    writer = pipe.writer(max_lines=200)
    put = _put_much(writer)
    assert not writer.flush(0.01)

    lines = pipe.read_until_flushed(writer)
    assert _numbers(lines) == list(range(put - 1))
    assert lines[-1] == "[1 missing]"


@pytest.mark.usefixtures("no_threads")
def test_a_thread_takes_over_when_one_can_be_started(pipe: _Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hybridrelay.cli.log_writer._THREAD_RETRY_SECONDS", 0.0)  # or the pipe could be full by then
    writer = pipe.writer()
    writer.put("one\n")
    monkeypatch.undo()

    def has_thread() -> bool:
        writer.put("more\n")
        return any(thread.name == "hybridrelay-log" for thread in threading.enumerate())

    wait_until(has_thread, seconds=20, what="a thread")
    lines = pipe.read_until_flushed(writer)
    assert lines[:2] == ["one", "more"]


def test_no_thread_is_started_without_memory_for_it(pipe: _Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Thread.start` would wait for ever for a thread that cannot begin."""
    starting = threading.Thread.start
    started: list[str] = []

    def start(self: threading.Thread) -> None:
        started.append(self.name)
        starting(self)

    monkeypatch.setattr(threading.Thread, "start", start)
    writer = pipe.writer()
    with monkeypatch.context() as patch:
        patch.setattr("hybridrelay.cli.log_writer.has_memory_for_thread", lambda: False)
        writer.put("one\n")
        assert pipe.read() == "one\n"
        assert not started
    writer.put("two\n")
    assert started == ["hybridrelay-log"]
    assert pipe.read_until_flushed(writer) == ["two"]


@contextmanager
def _after_a_full_disk(lost: int, pipe: _Pipe) -> Iterator[LogWriter]:
    """A writer that has lost lines on a full disk, which has room again: it leads to the pipe."""
    descriptor = os.open("/dev/full", os.O_WRONLY)
    writer = LogWriter(descriptor, _dropped)
    for _ in range(lost):
        writer.put("lost\n")
        assert not writer.flush(10)
    os.dup2(pipe.writing, descriptor)
    yield writer
    os.close(descriptor)


@pytest.mark.parametrize("threads", [True, False])
def test_a_full_disk_loses_lines_and_says_so_when_there_is_room(
    threads: bool, pipe: _Pipe, request: pytest.FixtureRequest
) -> None:
    if not threads:
        request.getfixturevalue("no_threads")
    with _after_a_full_disk(3, pipe) as writer:
        writer.put("found\n")
        assert writer.flush(10)
        assert pipe.read() == "[3 missing]\nfound\n"


@pytest.mark.parametrize("threads", [True, False])
def test_what_was_lost_last_is_reported_at_the_end_if_there_is_room_again(
    threads: bool, pipe: _Pipe, request: pytest.FixtureRequest
) -> None:
    if not threads:
        request.getfixturevalue("no_threads")
    with _after_a_full_disk(2, pipe) as writer:
        assert writer.flush(10)
        assert pipe.read() == "[2 missing]\n"
        assert writer.flush(10)
        assert pipe.read() == ""


@pytest.mark.parametrize("threads", [True, False])
@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, ""),
        (4, "one\n"),
        (3, "one\n"),
        (6, "one\ntw\n"),  # the line that was torn is ended before the next one begins
        (12, "one\ntwo\nthre\n"),
    ],
)
def test_a_write_that_fails_in_the_middle_loses_only_the_rest(
    threads: bool,
    size: int,
    text: str,
    pipe: _Pipe,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """This happens on a disk that becomes full."""
    if not threads:
        request.getfixturevalue("no_threads")
    writer, write = pipe.writer(), os.write
    left: list[int] = [size]

    def write_until_full(descriptor: int, data: bytes) -> int:
        if descriptor != pipe.writing or not left:
            return write(descriptor, data)
        if not left[0]:
            left.clear()
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = write(descriptor, data[: left[0]])
        left[0] -= written
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write_until_full)
        for line in ("one\n", "two\n", "three\n"):
            writer.put(line)
        found = pipe.read_until_flushed(writer)
        writer.put("four\n")
        found += pipe.read_until_flushed(writer)
    assert found[: len(text.splitlines())] == text.splitlines()
    assert found[-1] == "four"
    whole = [line for line in found if line in ("one", "two", "three", "four")]
    missing = sum(map(int, re.findall(r"\[(\d+) missing\]", "".join(found))))
    assert len(whole) + missing == 4


@pytest.mark.parametrize("threads", [True, False])
def test_a_reader_that_left_is_survived(threads: bool, request: pytest.FixtureRequest) -> None:
    if not threads:
        request.getfixturevalue("no_threads")
    reading, writing = os.pipe()
    os.close(reading)
    writer = LogWriter(writing, _dropped)
    for _ in range(100):
        assert writer.put("x\n")
        assert not writer.flush(10)
    os.close(writing)


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: _Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    writer = pipe.writer(max_lines=200)
    put = _put_much(writer)
    assert _numbers(pipe.read_until_flushed(writer)) == list(range(put - 1))


def test_a_child_writes_only_its_own_lines(pipe: _Pipe) -> None:
    writer = pipe.writer(max_lines=200)
    put = _put_much(writer)
    child = os.fork()
    if child == 0:
        has_room = writer.put("child\n")
        writer.flush(0.05)
        os._exit(0 if has_room else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    # The child may have written between two parts of a block of its parent's.
    lines = "\n".join(pipe.read_until_flushed(writer)).replace("child\n", "").splitlines()
    assert _numbers(lines) == list(range(put - 1))


def _fail_once(writer: LogWriter, failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Let the next attempt to write lines fail after they were taken from the queue. Returns what is set then."""
    make_batch, has_failed = writer._make_batch, threading.Event()

    def fail(items: list[tuple[bytes, int]]) -> _Batch:
        if items and not has_failed.is_set():
            has_failed.set()
            raise failure
        return make_batch(items)

    monkeypatch.setattr(writer, "_make_batch", fail)
    return has_failed


# A thread also ends if memory runs out again while it counts what it has lost.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("failure", [MemoryError(), SystemExit()], ids=["memory runs out", "the thread ends"])
@pytest.mark.parametrize("later", [True, False], ids=["a line follows", "no line follows"])
def test_what_a_thread_without_memory_has_lost_is_reported(
    pipe: _Pipe, failure: BaseException, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = pipe.writer()
    assert writer.put("before\n")
    assert writer.flush(10)
    has_failed = _fail_once(writer, failure, monkeypatch)
    for _ in range(10):
        assert writer.put("line\n")
    assert has_failed.wait(20)
    if later:
        assert writer.put("after\n")
    first, *lines = pipe.read_until_flushed(writer)
    assert first == "before"
    missing = [int(line[1:].split()[0]) for line in lines if line.startswith("[")]
    assert sum(missing) >= 1
    assert sum(missing) + lines.count("line") == 10
    assert lines[-1] == ("after" if later else lines[-1])
    assert writer.flush(0), "nothing waits"
    assert writer.put("at the end\n")
    assert pipe.read_until_flushed(writer) == ["at the end"]


@pytest.mark.usefixtures("no_threads")
def test_what_was_lost_without_threads_and_memory_is_reported(pipe: _Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = pipe.writer()
    _fail_once(writer, MemoryError(), monkeypatch)
    with pytest.raises(MemoryError):
        writer.put("lost\n")
    assert writer.put("after\n")
    assert writer.flush(0)
    assert pipe.read() == "[1 missing]\nafter\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_the_queue_has_its_room_again_after_a_thread_has_ended(pipe: _Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost does not wait, and what still waits is written in order."""
    writer = pipe.writer(max_lines=50)
    has_failed = _fail_once(writer, SystemExit(), monkeypatch)
    accepted = 0
    while writer.put(f"{accepted:08d}\n") and accepted < 49:
        accepted += 1
    assert has_failed.wait(20)
    assert writer.flush(10)
    for number in range(100, 149):
        assert writer.put(f"{number:08d}\n")
    numbers = _numbers(pipe.read_until_flushed(writer))
    assert numbers == sorted(numbers)
    assert numbers[-49:] == list(range(100, 149))


def test_a_line_that_interrupts_another_one_is_written(pipe: _Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a signal handler, or a finalizer. It does not start a second thread."""
    writer = pipe.writer()
    start, before = threading.Thread.start, set(threading.enumerate())

    def interrupted(self: threading.Thread) -> None:
        assert writer.put("inner\n")
        start(self)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        assert writer.put("outer\n")
    assert pipe.read_until_flushed(writer) == ["outer", "inner"]
    assert len(set(threading.enumerate()) - before) == 1
