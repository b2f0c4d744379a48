"""The memory that is shared with a worker: what is written can be read, and nothing in it does harm."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybridrelay.relay.service.worker_memory import MAX_NOTE, PairCounts, WorkerMemory, is_sealed
from hybridrelay.relay.worker.messages import COUNTS_BYTES, MEMORY_BYTES, NOTE_BYTES, SLOTS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="workers need Linux")


@pytest.fixture
def memory() -> Iterator[WorkerMemory]:
    descriptor = WorkerMemory.allocate()
    made = WorkerMemory(descriptor)
    os.close(descriptor)
    yield made
    made.close()


@pytest.mark.parametrize("slot", [0, 1, SLOTS - 1])
def test_a_note_and_its_neighbours(memory: WorkerMemory, slot: int) -> None:
    neighbours = [one for one in (slot - 1, slot + 1) if 0 <= one < SLOTS]
    for one in neighbours:
        memory.begin(one, bytes([one % 256]) * MAX_NOTE)
    memory.begin(slot, b"x" * MAX_NOTE, is_established=True)
    memory.begin(slot, b"note")
    assert memory.note(slot) == (b"note", False)
    memory.establish(slot)
    assert memory.note(slot) == (b"note", True)
    for one in neighbours:
        assert memory.note(one) == (bytes([one % 256]) * MAX_NOTE, False)


def test_a_slot_that_is_used_again_counts_from_zero(memory: WorkerMemory) -> None:
    first = memory.begin(3)
    memory._counters[6], memory._counters[7] = 10, 20
    memory.settle(3, first)
    first.keep()
    second = memory.begin(3)
    assert (first.a_to_b, first.b_to_a) == (10, 20)
    assert (second.a_to_b, second.b_to_a) == (0, 0)
    assert memory.settled(3) == (0, 0)


@given(st.lists(st.integers(0, (1 << 64) - 1)))
def test_counts_never_fall_and_have_a_limit(written: list[int]) -> None:
    counters = [0, 0]
    counts = PairCounts(counters, 0)
    seen = [0]
    for counters[1] in written:
        seen.append(counts.b_to_a)
    assert seen == sorted(seen)
    assert seen[-1] < 1 << 48
    assert counts.a_to_b == 0


def test_a_length_that_is_too_long_is_refused(memory: WorkerMemory) -> None:
    memory.begin(5)
    position = COUNTS_BYTES + 5 * NOTE_BYTES
    memory._map[position + 1 : position + 3] = (MAX_NOTE + 1).to_bytes(2, sys.byteorder)
    with pytest.raises(ValueError, match="too long"):
        memory.note(5)


def test_memory_does_not_get_smaller() -> None:
    descriptor = WorkerMemory.allocate()
    try:
        assert is_sealed(descriptor)
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 10)
    finally:
        os.close(descriptor)


def test_memory_of_another_size_is_refused() -> None:
    assert sys.platform == "linux"
    descriptor = os.memfd_create("test")
    try:
        assert not is_sealed(descriptor)
        os.ftruncate(descriptor, MEMORY_BYTES - 1)
        with pytest.raises(ValueError, match="size"):
            WorkerMemory(descriptor)
    finally:
        os.close(descriptor)
