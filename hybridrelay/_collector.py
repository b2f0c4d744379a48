"""Controls Python's garbage collector: no collections while a program loads its code, short ones while it runs."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache

__all__ = ["no_collections", "short_collections"]

_OLDEST = 2
#: All objects are examined again when the number of memory blocks exceeds `_TIMES` times the number after the last
#: time, plus `_MORE_BLOCKS`.
_TIMES = 1.5
_MORE_BLOCKS = 100_000
#: The same for the resident memory of the process, in pages, which includes the memory of libraries: a session that
#: has ended may be a cycle of a few small objects that still own 80 KB of OpenSSL's memory.
_TIMES_PAGES = 1.25
_MORE_PAGES = 8_192


@contextmanager
def no_collections() -> Iterator[None]:
    """Run no collections during the block, which loads modules.

    Loading creates many objects, and nearly all of them stay. Collections would examine them again and again, which
    takes an eighth of the time until a program is ready. Therefore the next collections do not examine what exists at
    the end of the block, either (`gc.freeze`).
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def short_collections() -> Iterator[None]:
    """Let each full collection examine only the objects that were created since the previous one.

    A full collection examines all objects, and nothing else runs in the meantime: in a relay with 10,000 listeners,
    this takes 0.15 s every two minutes. With this function, the objects that survive one collection are exempted from
    the next (`gc.freeze`). Nearly all objects are freed with their last reference; only cycles need the collector. So
    that cycles of old objects do not fill the memory, all objects are examined again when the program has grown: when
    the number of its memory blocks has increased by half, or its resident memory by a quarter.
    """
    collections = _Collections()
    gc.callbacks.append(collections.observe)
    try:
        yield
    finally:
        gc.callbacks.remove(collections.observe)
        gc.unfreeze()


def _resident_pages() -> int:
    """Return the size of this process's resident memory, in pages; 0 if it cannot be determined."""
    try:
        with open("/proc/self/statm", "rb") as file:  # proc(5)
            return int(file.read().split()[1])
    except (OSError, ValueError, IndexError):  # not Linux, or no descriptor is free
        return 0


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    """Return the function malloc_trim(3) of glibc, or None: other C libraries do not have it."""
    try:
        import ctypes

        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (ImportError, OSError, AttributeError, TypeError):
        return None
    return trim


def _return_free_memory() -> None:
    """Return to the system the memory that the C library keeps after it was freed.

    glibc by itself returns only what is at the end of the heap, so that the resident memory hardly falls when objects
    in its middle are freed. This takes 20 to 30 ms of processor time with 200 MB of free memory.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


class _Collections:
    def __init__(self) -> None:
        #: The numbers of blocks and pages after all objects were examined.
        self._blocks = self._pages = 0
        self._examines_all = False

    def observe(self, phase: str, info: Mapping[str, int]) -> None:
        """Handle the beginning (``start``) or the end (``stop``) of a collection. The collector calls this."""
        if info["generation"] != _OLDEST:
            return
        if phase == "start":
            blocks = sys.getallocatedblocks()
            self._examines_all = blocks > _TIMES * self._blocks + _MORE_BLOCKS or self._uses_more_memory()
            if self._examines_all:
                gc.unfreeze()
        else:
            if self._examines_all:
                _return_free_memory()
                self._blocks, self._pages = sys.getallocatedblocks(), _resident_pages()
            gc.freeze()

    def _uses_more_memory(self) -> bool:
        limit = _TIMES_PAGES * self._pages + _MORE_PAGES
        if _resident_pages() <= limit:
            return False
        _return_free_memory()
        return _resident_pages() > limit
