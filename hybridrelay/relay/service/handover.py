"""What the next main process needs to know about a pair, and where it is kept: in the memory of a worker."""

from __future__ import annotations

import attrs

from ..core.pair_note import PairNote
from .pump import Moved
from .worker_memory import PairCounts, WorkerMemory

__all__ = ["PairHandover"]


@attrs.define(eq=False)
class PairHandover:
    """What the next main process needs to know about a pair. It is kept in the memory of the worker that has the
    pair."""

    note: PairNote
    #: Whether the place of the pair is established.
    is_established: bool = False
    #: The memory and slot in which this is written; None while no worker has the pair.
    _written: tuple[WorkerMemory, int] | None = attrs.field(default=None, init=False)

    def write(self, memory: WorkerMemory, slot: int, moved: Moved) -> PairCounts:
        """Write the note into the memory of a worker that gets the pair. `moved` is what was moved before."""
        # The connector's channel is the first one, so what is moved from a to b goes to the client.
        note = attrs.evolve(self.note, to_client=moved.total_a_to_b, to_connector=moved.total_b_to_a)
        self._written = memory, slot
        return memory.begin(slot, note.encode(), is_established=self.is_established)

    def note_written(self, memory: WorkerMemory, slot: int) -> None:
        """Note that this is already in the memory of a worker, which was taken over."""
        self._written = memory, slot

    def establish(self) -> None:
        """Note that the place of the pair is established."""
        self.is_established = True
        if self._written is not None:
            memory, slot = self._written
            memory.establish(slot)

    def forget_worker(self) -> None:
        """Note that no worker has the pair any more."""
        self._written = None
