"""Writes log lines to a descriptor without ever making the caller wait.

A write blocks if the reader of a pipe stalls, a terminal is paused or a disk hangs. Therefore lines go into a bounded
queue, and one daemon thread writes them. The rules:

1. `LogWriter.put` never blocks. If the queue is full, the line is dropped and counted.
2. The number of dropped lines is reported at their position among the lines, as soon as there is room, or at the end.
3. If a write fails (a closed pipe, a full disk) or memory runs out, the lines that were not written completely are
   lost, and are counted too. Later lines are still attempted, and at the end another attempt is made to report how
   many lines are missing.
4. If no thread can be started, `put` itself writes as much as the descriptor accepts without blocking, and the rest
   stays in the queue. Another attempt to start a thread follows later. A thread that has ended is replaced.
5. `LogWriter.flush` waits until the queue has been written, but only for a limited time.
6. A forked child process starts with an empty queue: the lines that were queued are written by the parent.

Calls of `put` are serialized by the lock of the logging handler, or come from one thread. Each counter is changed
either by `put` or by the thread, so that no lock is needed between the two. `put` is reentrant: a signal handler or
a finalizer that logs may interrupt it. A call that interrupts another one only queues its line.
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

from .._thread_memory import has_memory_for_thread

#: The maximum size of the queue: lines, and bytes.
MAX_LINES: Final = 10_000
MAX_BYTES: Final = 4 << 20
#: How long the program waits, when it ends, for a reader that is slow or stalled (seconds).
FLUSH_SECONDS: Final = 1.0
#: How many bytes the thread writes in one call.
_BATCH_BYTES = 64 * 1024
#: How many bytes can be written without blocking after `poll` has reported that the descriptor is writable. POSIX
#: guarantees 512.
_NOWAIT_BYTES = 512
#: How long the thread waits for further lines after the first one, unless `flush` is called (seconds). Without this,
#: the interpreter would switch threads for every line, and a connector logs two lines for each stream.
_GATHER_SECONDS = 0.05
#: How often another attempt is made to start a thread (seconds).
_THREAD_RETRY_SECONDS = 1.0

#: How long the thread waits after memory has run out (seconds).
_NO_MEMORY_SECONDS = 0.05
#: How many lines are taken from the queue at a time if there is no thread.
_NOWAIT_LINES = 64

_LINE_END = ord("\n")
#: A line, and the total number of lines that had been dropped when it was queued.
_Item = tuple[bytes, int]


class _Batch(NamedTuple):
    """Lines that are written together."""

    text: bytes
    #: How many items of the queue the batch contains, and the size of their lines.
    items: int
    bytes: int
    #: The total number of lines that were dropped before the end of the batch. The batch reports those of them that
    #: were not reported before.
    reported: int
    #: For each line: its end in `text`, and how many log lines are lost if it is not written completely. This is 1
    #: for a log line, and the number of missing lines for a line that reports them.
    ends: tuple[tuple[int, int], ...]


class LogWriter:
    """Writes lines to a descriptor, which stays open.

    Args:
        descriptor: the descriptor to write to.
        report_missing: returns the line, including its line end, that reports a number of missing lines.
        max_lines: the maximum number of queued lines.
        max_bytes: the maximum number of queued bytes.
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
        self._is_closed = False
        #: Whether `put` or `flush` is changing what follows, so that a call that interrupts it only queues its line.
        self._is_in_use = False
        # Changed only by `put`.
        self._lines_in = 0
        self._bytes_in = 0
        self._dropped = 0
        # Changed only by the code that writes lines: the thread, or `put` if there is no thread.
        self._lines_out = 0
        self._bytes_out = 0
        self._reported = 0
        #: Lines that a failed write has lost, and that were not reported yet.
        self._lost = 0
        #: Whether the last write ended in the middle of a line.
        self._mid_line = False
        # Only without a thread: the batch that is being written, and what the descriptor has not accepted of it yet.
        self._batch: _Batch | None = None
        self._rest = memoryview(b"")

    def put(self, line: str) -> bool:
        """Queue a line, which includes its line end. Returns whether there was room for it. Never blocks."""
        if os.getpid() != self._process:
            self._start_over()
        if self._is_in_use:
            return self._enqueue(line)
        self._is_in_use = True
        try:
            has_room = self._enqueue(line)
            if not self._has_thread():
                self._start_or_write()
            return has_room
        finally:
            self._is_in_use = False

    def _enqueue(self, line: str) -> bool:
        data = line.encode("utf-8", "backslashreplace")
        waiting = self._lines_in - self._lines_out
        if waiting and (waiting >= self._max_lines or self._bytes_in - self._bytes_out + len(data) > self._max_bytes):
            self._dropped += 1
            return False
        self._lines_in += 1
        self._bytes_in += len(data)
        self._queue.put((data, self._dropped))
        return True

    def close(self) -> None:
        """Let the thread end when it has written the queue. `put` must not be called afterwards."""
        self._is_closed = True
        self._queue.put(None)

    def flush(self, seconds: float = FLUSH_SECONDS) -> bool:
        """Wait for up to `seconds` until every line has been written or reported as missing. Returns whether it has.

        The writer can still be used afterwards. A thread that is still writing continues, and does not keep the
        process from ending.
        """
        if os.getpid() != self._process:
            return True
        self._flushing.set()
        self._is_in_use = True
        try:
            return self._wait_until_done(time.monotonic() + seconds)
        finally:
            self._is_in_use = False
            self._flushing.clear()

    def _wait_until_done(self, deadline: float) -> bool:
        retried = False  # whether reporting the lost lines was tried once more: the disk may have room again
        while not self._is_done() or (self._lost and not retried):
            if not self._has_thread():
                only_lost = self._is_done()
                self._start_or_write()
                retried = only_lost and not self._has_thread()
            elif self._lines_in == self._lines_out:  # nothing is left but to report missing lines
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

    def _has_thread(self) -> bool:
        """Return whether there is a thread. It may have ended, because memory has run out."""
        return self._thread is not None and self._thread.is_alive()

    def _start_or_write(self) -> None:
        """Start a thread, or write without one. No line is being queued."""
        self._thread = None
        if self._batch is None and self._lines_in - self._lines_out > self._queue.qsize():
            self._count_lost()
        now = time.monotonic()
        may_start = now >= self._no_thread_before and self._batch is None and not self._is_closed
        if may_start and has_memory_for_thread():
            thread = threading.Thread(target=self._run, name="hybridrelay-log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # can't start new thread
                self._no_thread_before = now + _THREAD_RETRY_SECONDS
            else:
                self._thread = thread
                return
        self._write_nowait()

    def _count_lost(self) -> None:
        """Count the lines that were taken from the queue by a thread that has ended, or when memory has run out, and
        were not written. There is no thread."""
        while True:
            lines, size = self._lines_in, self._bytes_in
            queued = [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            for item in queued:
                self._queue.put(item)
            if self._lines_in == lines:
                break  # otherwise, a call that has interrupted this one has queued another line
        waiting = [item for item in queued if item is not None]
        lines -= len(waiting)
        self._lost += lines - self._lines_out
        self._lines_out = lines
        self._bytes_out = size - sum(len(line) for line, _ in waiting)

    def _run(self) -> None:
        while self._write_next():
            pass

    def _write_next(self) -> bool:
        """Wait for lines, and write them. Returns False after `close`."""
        item = self._queue.get()
        is_open = item is not None
        items: list[_Item] = []
        try:
            if item is not None:
                self._flushing.wait(_GATHER_SECONDS)
            size = 0
            while item is not None:
                items.append(item)
                size += len(item[0])
                if size >= _BATCH_BYTES or self._queue.empty():
                    break
                item = self._queue.get_nowait()
                is_open = item is not None
            batch = self._make_batch(items)
            self._written(batch, self._write(batch.text))
        except MemoryError:
            # If this fails, too, the thread ends, and the next call of `put` or `flush` counts the lines.
            if item is not None and (not items or items[-1] is not item):
                items.append(item)
            lost, size = self._lost + len(items), self._bytes_out + sum(len(line) for line, _ in items)
            self._lines_out, self._bytes_out, self._lost = self._lines_out + len(items), size, lost
            time.sleep(_NO_MEMORY_SECONDS)
        return is_open

    def _make_batch(self, items: list[_Item]) -> _Batch:
        text = bytearray(b"\n" if self._mid_line else b"")
        ends: list[tuple[int, int]] = []
        missing, reported = self._lost, self._reported
        # If the queue is empty, lines that were dropped after the last item are reported now.
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
        """Update the counters after a batch, of which `size` bytes were written. If memory runs out, no counter is
        changed."""
        # A line that lacks only its line end counts as written: the next write begins with a line end.
        lost = sum(count for end, count in batch.ends if end > size + 1)
        is_mid_line = batch.text[size - 1] != _LINE_END if size else self._mid_line
        bytes_out, lines_out = self._bytes_out + batch.bytes, self._lines_out + batch.items
        self._reported, self._lost, self._mid_line = batch.reported, lost, is_mid_line
        self._bytes_out, self._lines_out = bytes_out, lines_out

    def _write(self, data: bytes) -> int:
        """Write all data, blocking as long as necessary. Returns how many bytes were written before an error."""
        view, written = memoryview(data), 0
        while written < len(data):
            try:
                written += os.write(self._descriptor, view[written:])
            except BlockingIOError:  # another program has made the descriptor non-blocking
                _wait_writable(self._descriptor)
            except (OSError, MemoryError):
                break
        return written

    # --- without a thread

    def _write_nowait(self) -> None:
        """Write as much as the descriptor accepts without blocking."""
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
                batch = self._make_batch(items)
                self._batch, self._rest = batch, memoryview(batch.text)
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
        return True  # unknown; files and consoles are always writable
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(0))
