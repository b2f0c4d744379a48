"""Sharing the event loop among peers: a peer with many streams or sessions gets no more time than a peer with one.

A *pass* of the event loop is one round in which Trio runs each task that is ready.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Hashable, Iterable
from weakref import WeakValueDictionary

import trio

from .nowait import TURN_BYTES, TURN_SECONDS

__all__ = ["MAX_FRAMES", "QUEUES", "PeerTurns", "SharedTurns"]

#: How many frames are processed before other tasks run. Frames are counted because their cost hardly depends on their
#: size: this many take about half a millisecond, or 2.5 ms if all of them are OPEN, the most expensive kind.
MAX_FRAMES = 128
#: Tasks that wait for a turn are in this many queues. In each pass of the event loop, the first task of each queue
#: runs, so up to this many tasks share a turn.
QUEUES = 16
#: A frame counts as much as this many bytes.
_BYTES_PER_FRAME = TURN_BYTES // MAX_FRAMES
#: A second counts as much as this many bytes.
_BYTES_PER_SECOND = TURN_BYTES / TURN_SECONDS


class _Passes(trio.abc.Instrument):
    """Counts the passes of an event loop."""

    def __init__(self) -> None:
        self.number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


_passes: trio.lowlevel.RunVar[_Passes] = trio.lowlevel.RunVar("passes")


def _number_of_pass() -> int:
    try:
        passes = _passes.get()
    except LookupError:
        passes = _Passes()
        trio.lowlevel.add_instrument(passes)
        _passes.set(passes)
    return passes.number


async def _next_pass() -> None:
    """Wait for the next pass of the event loop. Raises trio.Cancelled."""
    number = _number_of_pass()
    await trio.lowlevel.checkpoint()
    if _number_of_pass() == number:
        # Trio removes an instrument that has raised an exception, such as MemoryError. Then no turn would begin.
        passes = _passes.get()
        passes.number += 1
        trio.lowlevel.add_instrument(passes)


class SharedTurns:
    """The turns of all tasks that work for one peer, such as an application's identity.

    A turn is an allowance: `MAX_FRAMES` frames use it up, and so do `TURN_BYTES` bytes, or `TURN_SECONDS` of time.
    Smaller amounts of the three are added up in proportion. Time is counted because it depends on more than frames
    and bytes, such as the number of TLS records. When the turn is over, the tasks that have more to process wait for
    the next one. Each pass of the event loop brings the tasks one turn, however many of them wait. If each task had a
    turn of its own instead, a peer with 200 sessions that send expensive frames would have 200 turns in every pass.

    The handlers of the reactor use these turns, too. They do not wait with `next`: when the turn of their peer is
    over, the reactor stops calling them, and it begins another turn (`renew`) in the next pass. So a peer that has
    both handlers and tasks which wait gets two turns in a pass. The reactor calls those peers first whose groups have
    waited longest (`order`).

    Usually, up to `QUEUES` of the tasks that have waited longest share a turn. But if the turn of the previous pass
    was used up completely, only the task that has waited longest may use the next one, so that the tasks get
    turns in the order in which they began to wait.

    Peers may form a group, such as the addresses from which one key is used. What they process then also counts in a
    turn of the group. When that is over, one task of each peer at a time waits for the next one. Thus a group gets no
    more time than one peer, and its peers share this time equally, however many tasks each of them has. A group may
    belong to a larger group, such as the keys of one owner, and is a peer in it. The turns of a peer and of all its
    groups begin in the same pass, so a peer does not lose time because it belongs to groups.

    Args:
        clock: returns seconds. Not Trio's clock, which stands still in some tests.
        group: the turns of the group; None: the peer belongs to no group.
    """

    __slots__ = (
        "__weakref__",
        "_asking",
        "_called",
        "_changed",
        "_clock",
        "_counted_until",
        "_group",
        "_is_scarce",
        "_last",
        "_left",
        "_numbers",
        "_queues",
        "_renewed_in",
        "_waiting",
    )

    def __init__(self, clock: Callable[[], float] = time.perf_counter, group: SharedTurns | None = None) -> None:
        """Begin with a whole turn."""
        self._clock = clock
        self._group = group
        #: The numbers of the tasks that have a turn of the peer, but need one of the group. The first waits for it.
        self._asking: dict[int, None] = {}
        #: Exists while the others wait, and is set when one of these tasks no longer waits.
        self._changed: trio.Event | None = None
        self._left: float = TURN_BYTES
        self._counted_until = clock()
        #: The number of each task that waits, in the order in which they began to wait.
        self._waiting: dict[int, None] = {}
        self._numbers = itertools.count()
        #: Whether the previous turn was used up.
        self._is_scarce = False
        #: The queues, at most `QUEUES`, which are made when they are needed. A lock is a queue: it is acquired by one
        #: task after the other, and by at most one in each pass of the event loop.
        self._queues: list[trio.Lock] = []
        #: The index of the queue that was chosen last, when none was empty.
        self._last = 0
        #: The number of the last call of a handler; see `called`.
        self._called = 0
        #: The number of the pass in which a task has begun the current turn.
        self._renewed_in = -1

    @property
    def is_over(self) -> bool:
        """Whether the turn is over. A task that has processed something then has to call `next` before it goes on."""
        return self._left <= 0 or (self._group is not None and self._group.is_over)

    # `begin` and `use` are called for every message.

    def begin(self) -> bool:
        """Start to count time, because a task runs again after it has waited. Returns whether it has to call `next`
        before it processes anything: the turn is over, or others wait for a turn."""
        self._counted_until = self._clock()
        has_to_wait = self._group is not None and self._group.begin()
        return has_to_wait or self._left <= 0 or bool(self._waiting)

    def use(self, frames: int, size: int) -> bool:
        """Count what a task has processed since it called `begin`, `use` or `next`, and the time since then. A task
        also calls this before it waits for its peer, because reading takes time even if nothing has arrived.

        Args:
            frames: the number of frames.
            size: their total size (bytes).

        Returns:
            Whether the turn is over.
        """
        now = self._clock()
        left = self._left - frames * _BYTES_PER_FRAME - size - (now - self._counted_until) * _BYTES_PER_SECOND
        # If a turn is exceeded, later ones are shorter, but only by one turn in total: if much more time has passed,
        # the system may have suspended this process.
        self._left = max(-TURN_BYTES, left)
        self._counted_until = now
        is_over_for_all = self._group is not None and self._group.use(frames, size)
        return is_over_for_all or left <= 0

    def count(self, frames: int, size: int = 0) -> None:
        """Count work that costs as much as this many frames with `size` bytes in total, in any task. The time is not
        counted."""
        self._left = max(self._left - frames * _BYTES_PER_FRAME - size, -TURN_BYTES)
        if self._group is not None:
            self._group.count(frames, size)

    def called(self, number: int) -> None:
        """Note that the reactor has called handlers of the peer.

        Args:
            number: larger than that of all earlier calls of handlers.
        """
        turns: SharedTurns | None = self
        while turns is not None:
            turns._called = number
            turns = turns._group

    @property
    def order(self) -> tuple[int, ...]:
        """The numbers of the last calls: in the largest group, in each smaller group, and of the peer itself. If the
        reactor calls peers in this order, those of one group share its turns equally, even if each of them uses up a
        whole turn."""
        return (self._called,) if self._group is None else (*self._group.order, self._called)

    @staticmethod
    def renew(peers: Iterable[SharedTurns]) -> None:
        """Begin the next turn of each of these peers, and of each group to which any of them belongs. To be called at
        most once in each pass of the event loop. If the last turn was exceeded, this one is shorter by that much."""
        everybody = {*peers}
        for turns in (*everybody,):
            while (group := turns._group) is not None:
                everybody.add(turns := group)
        for turns in everybody:
            turns._left = min(TURN_BYTES, turns._left + TURN_BYTES)

    async def next(self) -> None:
        """Wait for another turn. Other tasks run in the meantime, and those that have waited longer come first. If
        cancelled, the task no longer waits."""
        queue, number = self._choose_queue(), next(self._numbers)
        self._waiting[number] = None
        try:
            async with self._queues[queue]:  # acquiring this lock takes at least one pass of the event loop
                self._renew()
                while self._left <= 0 or (self._is_scarce and number != next(iter(self._waiting))):
                    await _next_pass()
                    self._renew()
                if self._group is not None:
                    await self._next_of_group(self._group, number)
        finally:
            del self._waiting[number]
        self._counted_until = self._clock()

    async def _next_of_group(self, group: SharedTurns, number: int) -> None:
        """Wait for a turn of the group, unless its current one is not over and nobody waits."""
        self._asking[number] = None
        try:
            while True:
                is_first = number == next(iter(self._asking))
                if is_first:
                    group._renew()
                if not group.begin() and (is_first or not group._is_scarce):
                    return
                if is_first:
                    await group.next()
                    return
                if self._changed is None:
                    self._changed = trio.Event()
                await self._changed.wait()
        finally:
            del self._asking[number]
            if self._changed is not None:
                self._changed.set()
                self._changed = None

    def _choose_queue(self) -> int:
        for index, queue in enumerate(self._queues):
            if not queue.locked():
                return index
        if len(self._queues) < QUEUES:
            self._queues.append(trio.Lock())
            return len(self._queues) - 1
        self._last = (self._last + 1) % QUEUES
        return self._last

    def _renew(self) -> None:
        """Begin another turn of the peer, and of each of its groups, unless a task has done so in this pass."""
        number, turns = _number_of_pass(), self
        while turns._renewed_in != number:
            turns._renewed_in = number
            turns._is_scarce = turns._left <= 0
            # If the last turn was exceeded, this one is shorter by that much.
            turns._left = min(TURN_BYTES, turns._left + TURN_BYTES)
            if turns._group is None:
                break
            turns = turns._group


class PeerTurns:
    """The turns of all peers for which an event loop works."""

    def __init__(self) -> None:
        """Begin without a peer."""
        #: By peer and groups, as `of` gets them.
        self._turns: WeakValueDictionary[tuple[Hashable, ...], SharedTurns] = WeakValueDictionary()

    def of(self, peer: Hashable, *groups: Hashable) -> SharedTurns:
        """Return the turns of a peer. They are forgotten when nothing uses them any more.

        Args:
            peer: the peer.
            groups: the group to which it belongs, the larger group to which that group belongs, and so on.
        """
        path, turns = (peer, *groups), None
        for index in reversed(range(len(path))):
            found = self._turns.get(path[index:])
            if found is None:
                found = self._turns[path[index:]] = SharedTurns(group=turns)
            turns = found
        assert turns is not None
        return turns
