"""The memory that the main process shares with one worker: counts of bytes, and notes about the pairs.

`relay.worker.messages` has the layout. Everything is in the memory before the worker gets a pair, and stays there if
the main process is killed. The next main process gets the memory from the worker (`takeover`).
"""

from __future__ import annotations

import contextlib
import mmap
import os
import struct
import sys
import tempfile

from ..worker.messages import COUNTS_BYTES, MEMORY_BYTES, NOTE_BYTES, SETTLED, Counts

if sys.platform == "linux":
    import fcntl

__all__ = ["MAX_NOTE", "PairCounts", "WorkerMemory", "is_sealed"]

#: The beginning of a note: whether the place of the pair is established, and the length of the rest.
_NOTE = struct.Struct("=?H")
MAX_NOTE = NOTE_BYTES - _NOTE.size
#: More bytes than any pair moves in one direction (281 TB). A larger number cannot be right and is not counted, so
#: that the sum of all pairs of a worker fits into 64 bits.
_MAX_BYTES = (1 << 48) - 1


class WorkerMemory:
    """The memory of one worker. `descriptor` is a descriptor of it (see `allocate`), which is not closed.

    Raises:
        OSError: the memory cannot be mapped.
        ValueError: it does not have the right size.
    """

    def __init__(self, descriptor: int) -> None:
        if os.fstat(descriptor).st_size != MEMORY_BYTES:
            raise ValueError("the memory does not have the right size")
        self._map = mmap.mmap(descriptor, MEMORY_BYTES)
        self._counters = memoryview(self._map)[:COUNTS_BYTES].cast("Q")

    @staticmethod
    def allocate() -> int:
        """Return a descriptor of new memory. Raises OSError."""
        if sys.platform == "linux" and hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("hybridrelay worker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        try:
            os.ftruncate(descriptor, MEMORY_BYTES)
            _seal(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def close(self) -> None:
        """Unmap the memory. Counts that are still needed have to be kept first (`PairCounts.keep`)."""
        self._counters.release()
        self._map.close()

    def begin(self, slot: int, note: bytes = b"", *, is_established: bool = False) -> PairCounts:
        """Begin to use a slot for a pair. `note` has at most `MAX_NOTE` bytes."""
        assert len(note) <= MAX_NOTE
        for index in (2 * slot, 2 * slot + 1, SETTLED + 2 * slot, SETTLED + 2 * slot + 1):
            self._counters[index] = 0
        position = self._position(slot)
        self._map[position + _NOTE.size : position + _NOTE.size + len(note)] = note
        _NOTE.pack_into(self._map, position, is_established, len(note))
        return PairCounts(self._counters, slot)

    def establish(self, slot: int) -> None:
        """Note that the place of a pair is established."""
        self._map[self._position(slot)] = True

    def note(self, slot: int) -> tuple[bytes, bool]:
        """Return the note about a pair, and whether its place is established. Raises ValueError."""
        position = self._position(slot)
        is_established, length = _NOTE.unpack_from(self._map, position)
        if length > MAX_NOTE:
            raise ValueError("the note about a pair is too long")
        return self._map[position + _NOTE.size : position + _NOTE.size + length], is_established

    def counts(self, slot: int) -> PairCounts:
        """Return the counts of a pair that the worker already has."""
        return PairCounts(self._counters, slot)

    def settled(self, slot: int) -> tuple[int, int]:
        """Return how many bytes of a pair the previous main process has counted for usage and quotas: from the first
        to the second channel, and in the other direction."""
        return self._counters[SETTLED + 2 * slot], self._counters[SETTLED + 2 * slot + 1]

    def settle(self, slot: int, counts: PairCounts) -> None:
        """Note that this main process, which ends, has counted this much."""
        self._counters[SETTLED + 2 * slot], self._counters[SETTLED + 2 * slot + 1] = counts.a_to_b, counts.b_to_a

    def _position(self, slot: int) -> int:
        return COUNTS_BYTES + slot * NOTE_BYTES


def _seal(descriptor: int) -> None:
    """Prevent memory from getting smaller, which would kill the processes that use it (SIGBUS), if possible."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a file, or an emulated kernel
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)


def is_sealed(descriptor: int) -> bool:
    """Return whether memory cannot get smaller."""
    if sys.platform != "linux":
        return False
    try:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False


class PairCounts:
    """The bytes of one pair, which its worker counts. They never fall, whatever the worker does."""

    def __init__(self, counters: Counts, slot: int) -> None:
        self._counters = counters
        self._index = 2 * slot
        self._last = [0, 0]
        self._is_final = False

    @property
    def a_to_b(self) -> int:
        """Bytes from the first to the second channel."""
        return self._read(0)

    @property
    def b_to_a(self) -> int:
        """Bytes from the second to the first channel."""
        return self._read(1)

    def keep(self) -> None:
        """Keep the current numbers, because the memory will be used for another pair."""
        self._read(0)
        self._read(1)
        self._is_final = True

    def _read(self, direction: int) -> int:
        if not self._is_final:
            count = self._counters[self._index + direction]
            if self._last[direction] < count <= _MAX_BYTES:
                self._last[direction] = count
        return self._last[direction]
