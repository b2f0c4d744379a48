"""Which rendezvous are joined, as the next main process will find it in a file if this one is killed. Pure.

The rules:

1. A rendezvous is in the file from the moment at which it is joined until its end was published.
2. A rendezvous that an earlier main process has left in the file is *inherited*: a worker may still have it
   (`relay.worker.orphaned`). It is no longer inherited when this main process has taken it over, or when its end was
   published.
3. Once no worker can have it any more, an inherited rendezvous is lost: the caller publishes its end.
4. If saving fails, what was to be saved is saved the next time. If too much has accumulated, everything is.

Times are seconds since 1970, except for `when`, which is on a clock that never jumps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs

from ..joined import Batch, Entry

__all__ = ["JoinedRendezvous"]

#: How much longer a worker may have its pairs, because a main process has begun to take it over (seconds).
_TAKING_SECONDS: Final = 70.0
#: How many rendezvous may have changed since the file was last written. If there are more, all are written.
_MAX_CHANGED: Final = 100_000


class JoinedRendezvous:
    """The joined rendezvous; see the module's docstring.

    Args:
        keep: how long the relay's workers keep pairs (seconds).
    """

    def __init__(self, keep: float) -> None:
        self._keep = keep
        self._open: dict[str, Entry] = {}
        #: What was inherited, and when it is lost.
        self._inherited: dict[str, tuple[Entry, float]] = {}
        #: The ids that have changed since a batch was last taken; None: all.
        self._changed: set[str] | None = set()

    @property
    def is_empty(self) -> bool:
        """Whether no rendezvous is joined or inherited."""
        return not self._open and not self._inherited

    @property
    def has_changed(self) -> bool:
        """Whether there is something to be saved."""
        return self._changed is None or bool(self._changed)

    # --- inputs

    def joined(self, id_: str, connection: str, now: float) -> None:
        """Note that a rendezvous was joined, or taken over."""
        inherited = self._inherited.pop(id_, None)
        since = now if inherited is None else inherited[0].joined_at
        self._open[id_] = Entry(id_, connection, since, self._keep)
        self._note_change(id_)

    def ended(self, id_: str) -> None:
        """Note that the end of a rendezvous was published, whether or not it was joined."""
        if self._open.pop(id_, None) is not None or self._inherited.pop(id_, None) is not None:
            self._note_change(id_)

    def restore(self, saved: Sequence[Entry], when: float) -> None:
        """Note what the file contained when this main process began to use it. Call this once."""
        if self._changed is None:
            return  # some of these may have ended meanwhile, and it is not known which
        for entry in saved:
            if entry.id in self._open:
                self._open[entry.id] = attrs.evolve(self._open[entry.id], joined_at=entry.joined_at)
            elif entry.id not in self._changed:
                patience = entry.keep + _TAKING_SECONDS if entry.keep else 0.0
                self._inherited[entry.id] = entry, when + patience

    def next_loss(self) -> float | None:
        """Return when `lost` has to be called next; None if there is nothing to wait for."""
        return min((when for _, when in self._inherited.values()), default=None)

    def lost(self, when: float) -> list[Entry]:
        """Return the rendezvous that no worker can have any more. They are inherited until `ended` is called."""
        return [entry for entry, until in self._inherited.values() if until <= when]

    # --- saving

    def take(self) -> Batch:
        """Return what has to be saved."""
        changed, self._changed = self._changed, set()
        if changed is None:
            everything = (*self._open.values(), *(entry for entry, _ in self._inherited.values()))
            return Batch(everything, is_whole=True)
        put = tuple(self._open[one] for one in changed if one in self._open)
        return Batch(put, tuple(one for one in changed if one not in self._open))

    def put_back(self, batch: Batch) -> None:
        """Note that a batch was not saved."""
        if batch.is_whole:
            self._changed = None
        for one in (*(entry.id for entry in batch.put), *batch.delete):
            self._note_change(one)

    def save_everything(self) -> None:
        """Note that the file is a new one."""
        self._changed = None

    def _note_change(self, id_: str) -> None:
        if self._changed is not None:
            self._changed.add(id_)
            if len(self._changed) > _MAX_CHANGED:
                self._changed = None
