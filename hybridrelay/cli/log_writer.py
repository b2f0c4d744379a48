"""Writes log lines to a descriptor without ever making the caller wait.

A pipe whose reader stalls, a terminal that is paused, or a disk that hangs blocks the write. So lines go into a
bounded queue, and one daemon thread writes them. The rules:

1. `LogWriter.put` never blocks. Where the queue is full, the line is dropped and counted.
2. The number of dropped lines is reported at their position among the lines, as soon as there is room, or at the end.
3. A write that fails (a closed pipe, a full disk) loses the lines that it has not written completely. They are
   counted, too. The next lines are tried, and at the end the count of the missing ones is tried once more.
4. Where no thread can be started, `put` itself writes as much as the descriptor takes without blocking, and the rest
   waits in the queue. A thread is tried again later.
5. `LogWriter.flush` waits for what is queued, but only for a limited time.
6. A forked child starts with an empty queue: what was queued is the parent's.

`put` is called while its caller holds a lock (that of the logging handler), or from one thread. Counters have one
writer each, so that no lock is needed between `put` and the thread. `put` may even be interrupted by another call of
itself, when a signal handler or a finalizer logs.
"""

from __future__ import annotations

import os
import queue
import select
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, NamedTuple

#: The queue holds this many lines, and this many bytes, at most.
MAX_LINES: Final = 10_000
MAX_BYTES: Final = 4 << 20
#: How long the end of the program waits for a reader that is slow or stalled (seconds).
FLUSH_SECONDS: Final = 1.0
#: How much the thread writes in one call.
_BATCH_BYTES = 64 * 1024
#: How much can be written without blocking where `poll` says that something can be written. POSIX guarantees 512.
_NOWAIT_BYTES = 512
#: How long the thread waits for further lines after the first one, unless `flush` is called (seconds). Whenever it
#: runs, the interpreter switches between threads several times, and a connector writes two lines for each stream.
_GATHER_SECONDS = 0.05
#: How often another attempt is made to start a thread (seconds).
_THREAD_RETRY_SECONDS = 1.0

#: How many lines are taken from the queue at once where there is no thread.
_NOWAIT_LINES = 64

#: A line, and the number of lines that had been dropped in all when it was put in.
_Item = tuple[bytes, int]


class _Batch(NamedTuple):
    """What is written in one go."""

    text: bytes
    #: How much of the queue it is: items, and their bytes.
    items: int
    bytes: int
    #: How many lines had been dropped in all before its end.
    reported: int
    #: For each line: where it ends in `text`, and how many log lines are missing if it is not written completely. A
    #: line that reports missing ones stands for all of them.
    ends: tuple[tuple[int, int], ...]


class LogWriter:
    """Writes lines to a descriptor, which stays open.

    Args:
        descriptor: where to write.
        report_missing: makes a line, with its line end, that says how many lines are missing.
        max_lines: bound of the queue.
        max_bytes: bound of the queue.
    """

    def __init__(
        self,
        descriptor: int,
        report_missing: Callable[[int], str],
        *,
        max_lines: int = MAX_LINES,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._descriptor = descriptor
        self._report_missing = report_missing
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._start_over()

    def _start_over(self) -> None:
        self._process = os.getpid()
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._no_thread_before = 0.0
        self._flushing = threading.Event()
        # Changed by `put` alone.
        self._lines_in = 0
        self._bytes_in = 0
        self._dropped = 0
        # Changed only where lines are written: by the thread, or by `put` where there is none.
        self._lines_out = 0
        self._bytes_out = 0
        self._reported = 0
        #: Lines that a failed write has lost, and that were not reported yet.
        self._lost = 0
        #: The last write ended in the middle of a line.
        self._mid_line = False
        # Where there is no thread: what the descriptor has not taken yet.
        self._batch: _Batch | None = None
        self._rest = memoryview(b"")

    def put(self, line: str) -> bool:
        """Queue a line, which ends with a line end. Returns whether there was room for it. Never blocks."""
        if os.getpid() != self._process:
            self._start_over()
        data = line.encode("utf-8", "backslashreplace")
        waiting = self._lines_in - self._lines_out
        if waiting and (waiting >= self._max_lines or self._bytes_in - self._bytes_out + len(data) > self._max_bytes):
            self._dropped += 1
            if self._thread is None:
                self._work_without_thread()
            return False
        self._lines_in += 1
        self._bytes_in += len(data)
        self._queue.put((data, self._dropped))
        if self._thread is None:
            self._work_without_thread()
        return True

    def close(self) -> None:
        """Let the thread end when it has written what is queued. Nothing can be put in any more."""
        self._queue.put(None)

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait until everything is written, for up to `seconds`. Returns whether it is, or is at least reported as
        missing. The writer can still be used afterwards. A thread that is still writing continues, and does not keep
        the process from ending.
        """
        if os.getpid() != self._process:
            return True
        self._flushing.set()
        try:
            return self._wait_until_done(time.monotonic() + seconds)
        finally:
            self._flushing.clear()

    def _wait_until_done(self, deadline: float) -> bool:
        retried = False  # to report what failed writes have lost: a disk may have room again
        while not self._is_done() or (self._lost and not retried):
            if self._thread is None:
                only_lost = self._is_done()
                self._work_without_thread()
                retried = only_lost and self._thread is None
            elif not self._thread.is_alive():
                return False
            elif self._lines_in == self._lines_out:  # only missing lines are left to be reported
                retried = self._dropped == self._reported
                self._lines_in += 1
                self._queue.put((b"", self._dropped))
            left = deadline - time.monotonic()
            if left <= 0:
                break
            time.sleep(min(0.005, left))
        return self._is_done() and not self._lost

    def _is_done(self) -> bool:
        return self._lines_in == self._lines_out and self._dropped == self._reported and not self._rest

    # --- with a thread

    def _work_without_thread(self) -> None:
        now = time.monotonic()
        if now >= self._no_thread_before and not self._rest:
            thread = threading.Thread(target=self._run, name="hybridrelay-log", daemon=True)
            try:
                self._thread = thread
                thread.start()
                return
            except RuntimeError:  # can't start new thread
                self._thread = None
                self._no_thread_before = now + _THREAD_RETRY_SECONDS
        self._write_nowait()

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            if item is not None:
                self._flushing.wait(_GATHER_SECONDS)
            items: list[_Item] = []
            size = 0
            while item is not None:
                items.append(item)
                size += len(item[0])
                if size >= _BATCH_BYTES or self._queue.empty():
                    break
                item = self._queue.get_nowait()
            batch = self._make_batch(items)
            self._written(batch, self._write(batch.text))
            if item is None:
                return

    def _make_batch(self, items: list[_Item]) -> _Batch:
        text = bytearray(b"\n" if self._mid_line else b"")
        ends: list[tuple[int, int]] = []
        missing, reported = self._lost, self._reported
        # Lines that were dropped after the last one are reported now if nothing follows.
        entries = [*items, (b"", self._dropped)] if self._queue.empty() else items
        for line, dropped in entries:
            missing += dropped - reported
            reported = dropped
            if missing:
                text += self._report_missing(missing).encode()
                ends.append((len(text), missing))
                missing = 0
            if line:
                text += line
                ends.append((len(text), 1))
        return _Batch(bytes(text), len(items), sum(len(line) for line, _ in items), reported, tuple(ends))

    def _written(self, batch: _Batch, size: int) -> None:
        """The batch is done with; `size` bytes of it were written."""
        self._reported = batch.reported
        # A line that lacks only its line end is complete: the next write begins with one.
        self._lost = sum(count for end, count in batch.ends if end > size + 1)
        if size:
            self._mid_line = not batch.text[:size].endswith(b"\n")
        self._bytes_out += batch.bytes
        self._lines_out += batch.items

    def _write(self, data: bytes) -> int:
        """Write all of it, however long that takes. Returns how much was written before an error."""
        view = memoryview(data)
        while view:
            try:
                written = os.write(self._descriptor, view)
            except BlockingIOError:  # another program made it non-blocking, as is usual for terminals
                _wait_writable(self._descriptor)
                continue
            except OSError:
                break
            view = view[written:]
        return len(data) - len(view)

    # --- without

    def _write_nowait(self) -> None:
        """Write what the descriptor takes at this moment."""
        retried = False
        while True:
            if self._batch is None:
                items: list[_Item] = []
                while not self._queue.empty() and len(items) < _NOWAIT_LINES:
                    if (item := self._queue.get_nowait()) is not None:
                        items.append(item)
                if not items and self._dropped == self._reported:
                    if retried or not self._lost:
                        return
                    retried = True
                self._batch = self._make_batch(items)
                self._rest = memoryview(self._batch.text)
            while self._rest:
                if not _is_writable(self._descriptor):
                    return
                try:
                    self._rest = self._rest[os.write(self._descriptor, self._rest[:_NOWAIT_BYTES]) :]
                except BlockingIOError:
                    return
                except OSError:
                    break
            self._written(self._batch, len(self._batch.text) - len(self._rest))
            self._batch, self._rest = None, memoryview(b"")


def _wait_writable(descriptor: int) -> None:
    if sys.platform == "win32":
        time.sleep(0.05)
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll(1000)


def _is_writable(descriptor: int) -> bool:
    if sys.platform == "win32":
        return True  # there is no way to tell; files and consoles take what they are given
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))
