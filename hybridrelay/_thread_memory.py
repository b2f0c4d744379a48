"""Checking, before a thread is started, that it will not run out of memory before it has begun.

CPython waits without a time limit until a new thread says that it has begun (`threading.Thread.start`). If the new
thread runs out of memory before that, it ends without saying so, and the thread that has started it waits forever. In
these programs, that is the event loop. That the thread gets a stack proves nothing, because the C library keeps some
stacks for reuse. So this asks for more memory than the first steps of a thread need, and gives it back immediately.
"""

from __future__ import annotations

import contextlib
import mmap
import sys

__all__ = ["THREAD_BYTES", "has_memory_for_thread"]

#: How much memory has to be free (bytes): an arena of Python's allocator, one of the C library's, and some to spare.
THREAD_BYTES = 4 * 1024 * 1024


def has_memory_for_thread() -> bool:
    """Return whether there is enough memory for the first steps of another thread. Takes some microseconds."""
    if sys.platform == "win32":
        return True
    try:
        # Not touched, so only the limits of address space and of committed memory count.
        with contextlib.closing(mmap.mmap(-1, THREAD_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)):
            return True
    except (OSError, MemoryError):
        return False
