"""Whose TLS handshake comes next: a ration for peers that have not authenticated. Pure: the clock is passed in.

A handshake costs the relay about a millisecond, and whoever reaches a port can ask for one. The rules:

1. Whoever wants one waits in line with a complete ClientHello. While less than a burst of handshakes is owed, in all
   and by that address, it begins at once.
2. A handshake is owed until its peer authenticates. What is not paid back that way is forgiven at a fixed rate. So
   peers with a key use nothing up, thousands of them behind one address included, and strangers get that rate.
3. Addresses that authenticated recently come first, and draw on an allowance that strangers cannot use up.
4. Among the other addresses the one that owes least comes first, so that an address which asks rarely does not wait
   behind one that asks all the time.
5. Within an address the newest comes first: it is the most likely to be still connected. In a storm of honest peers
   that is the one that has most of its work done.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Self

import attrs
import trio

from .limits import (
    HANDSHAKES_OF_ADDRESS,
    HANDSHAKES_OF_KNOWN,
    HANDSHAKES_OF_STRANGERS,
    REMEMBERED_ADDRESSES,
    Ration,
)
from .slots import address_group

__all__ = ["Handshake", "Handshakes", "Ration", "Turn", "Turns"]


@attrs.define
class _Debt:
    """Handshakes that are owed, as the time at which all will be forgiven: it need not be updated as time passes."""

    ration: Ration
    #: In seconds, on the clock that is passed in.
    _cleared_at: float = 0.0

    def room_at(self) -> float:
        """When one more can be owed, at the earliest."""
        return self._cleared_at - (self.ration.burst - 1) / self.ration.per_second

    def owe(self, now: float) -> None:
        self._cleared_at = max(self._cleared_at, now) + 1 / self.ration.per_second

    def pay_back(self, count: float) -> None:
        self._cleared_at -= count / self.ration.per_second

    def is_clear(self, now: float) -> bool:
        return self._cleared_at <= now

    @property
    def cleared_at(self) -> float:
        return self._cleared_at


@attrs.define(eq=False)
class Handshake:
    """One that is wanted, or under way. One connection may want several, one after the other."""

    #: See `slots.address_group`.
    group: str
    #: Called when its turn has come; must not raise.
    on_turn: Callable[[], None]
    #: Whose allowance has been drawn on, once for each that has begun.
    _owed: list[_Debt] = attrs.field(factory=list)


@attrs.define(eq=False)
class _Address:
    """An address that is waiting, or owes something."""

    debt: _Debt
    #: In the order in which they came; the newest is served first.
    waiting: dict[Handshake, None] = attrs.field(factory=dict)
    #: Which entry in the heap stands for it, and what that says; any other is out of date.
    entry: int = -1
    queued: tuple[bool, float] | None = None


class Handshakes:
    """Decides which connections may begin a handshake.

    Args:
        total: for all peers whose address has not authenticated lately, together.
        known: for all others together.
        each: for one address.
        remembered: addresses that are remembered because somebody authenticated from there.
    """

    def __init__(self, total: Ration, known: Ration, each: Ration, *, remembered: int) -> None:
        self._total = {False: _Debt(total), True: _Debt(known)}
        self._each = each
        self._remembered = remembered
        self._known: OrderedDict[str, None] = OrderedDict()
        self._addresses: dict[str, _Address] = {}
        #: By whether the address is known: (when its debt is cleared, a number, address). The least comes first.
        self._lines: dict[bool, list[tuple[float, int, str]]] = {False: [], True: []}
        self._numbers = itertools.count()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Handshakes in line."""
        return self._waiting

    def want(self, handshake: Handshake) -> None:
        """Stand in line."""
        address = self._addresses.get(handshake.group)
        if address is None:
            address = self._addresses[handshake.group] = _Address(_Debt(self._each))
        address.waiting[handshake] = None
        self._waiting += 1
        self._queue(handshake.group)

    def leave(self, handshake: Handshake, now: float) -> None:
        """Its connection is over, without authentication: what it owes stays owed. Harmless at any time."""
        address = self._addresses.get(handshake.group)
        if address is not None and address.waiting.pop(handshake, 0) is None:
            self._waiting -= 1
        self._forget(now)

    def begin(self, now: float) -> Handshake | None:
        """Take the next out of the line, if one may begin now."""
        for known in (True, False):
            if self._total[known].room_at() > now:
                continue
            group = self._first(known)
            if group is None:
                continue
            address = self._addresses[group]
            if address.debt.room_at() > now:
                continue  # it owes less than all others in its line
            handshake, _ = address.waiting.popitem()
            self._waiting -= 1
            for debt in (address.debt, self._total[known]):
                debt.owe(now)
                handshake._owed.append(debt)
            self._queue(group)
            return handshake
        return None

    def next_at(self) -> float | None:
        """When `begin` will have somebody; None while nobody is waiting."""
        times = [
            max(self._total[known].room_at(), self._addresses[group].debt.room_at())
            for known in (True, False)
            if (group := self._first(known)) is not None
        ]
        return min(times, default=None)

    def authenticated(self, handshake: Handshake, now: float) -> None:
        """The peer has shown a key or a ticket: it owes nothing, and its address is known from now on."""
        group = handshake.group
        for debt in handshake._owed:
            # Twice, for other connections from this address that do not authenticate, such as those of the prober.
            debt.pay_back(2)
        handshake._owed.clear()
        self._known[group] = None
        self._known.move_to_end(group)
        self._queue(group)
        while len(self._known) > self._remembered:
            forgotten, _ = self._known.popitem(last=False)
            self._queue(forgotten)
        self._forget(now)

    # --- the lines

    def _queue(self, group: str) -> None:
        """See to it that the right entry stands for an address, if anybody waits there."""
        address = self._addresses.get(group)
        if address is None or not address.waiting:
            return
        known, cleared_at = place = group in self._known, address.debt.cleared_at
        if address.queued != place:
            address.queued, address.entry = place, next(self._numbers)
            heapq.heappush(self._lines[known], (cleared_at, address.entry, group))

    def _first(self, known: bool) -> str | None:
        """The address whose turn it is in a line."""
        line = self._lines[known]
        while line:
            _, entry, group = line[0]
            address = self._addresses.get(group)
            if address is not None and address.entry == entry:
                if address.waiting:
                    return group
                address.queued = None
            heapq.heappop(line)
        return None

    def _forget(self, now: float) -> None:
        """Look at a few addresses, and forget those that neither wait nor owe."""
        for _ in range(min(2, len(self._addresses))):
            group, address = next(iter(self._addresses.items()))
            del self._addresses[group]
            if address.waiting or not address.debt.is_clear(now):
                self._addresses[group] = address  # to the end of the line


class Turns:
    """`Handshakes` for trio: waits for a turn, and gives one in each pass of the event loop."""

    def __init__(self, handshakes: Handshakes | None = None) -> None:
        self._handshakes = handshakes or Handshakes(
            HANDSHAKES_OF_STRANGERS, HANDSHAKES_OF_KNOWN, HANDSHAKES_OF_ADDRESS, remembered=REMEMBERED_ADDRESSES
        )
        self._changed = trio.Event()

    @property
    def waiting(self) -> int:
        """Handshakes in line."""
        return self._handshakes.waiting

    def want(self, handshake: Handshake) -> None:
        """Stand in line: `Handshake.on_turn` is called by `run`."""
        self._handshakes.want(handshake)
        self._changed.set()

    def leave(self, handshake: Handshake) -> None:
        """See `Handshakes.leave`."""
        self._handshakes.leave(handshake, trio.current_time())

    def authenticated(self, handshake: Handshake) -> None:
        """See `Handshakes.authenticated`."""
        self._handshakes.authenticated(handshake, trio.current_time())
        self._changed.set()

    async def run(self) -> None:
        """Give turns until cancelled."""
        while True:
            now = trio.current_time()
            handshake = self._handshakes.begin(now)
            if handshake is not None:
                handshake.on_turn()
                # The next one in the next pass: everybody else runs in between.
                await trio.lowlevel.checkpoint()
                continue
            until = self._handshakes.next_at()
            with trio.move_on_at(math.inf if until is None else until):
                await self._changed.wait()
            if self._changed.is_set():
                self._changed = trio.Event()


class Turn:
    """The turns of one connection, in the task that serves it."""

    def __init__(self, turns: Turns, handshake: Handshake) -> None:
        self._turns = turns
        self._handshake = handshake
        self._event: trio.Event | None = None

    @classmethod
    def of(cls, turns: Turns, address: str) -> Turn:
        """For a connection that has had no turn."""
        handshake = Handshake(address_group(address), lambda: None)
        turn = cls(turns, handshake)
        turn._event = trio.Event()
        return turn

    async def wait(self) -> None:
        """Wait until this connection may begin a handshake: where it has had a turn for the first, at once."""
        if self._event is None:
            self._event = trio.Event()
            return
        self._event = trio.Event()
        self._handshake.on_turn = self._event.set
        self._turns.want(self._handshake)
        await self._event.wait()

    def __enter__(self) -> Self:
        """Around the authentication of the connection."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.leave()

    def leave(self) -> None:
        """The connection has authenticated, or is over."""
        self._turns.leave(self._handshake)

    def authenticated(self) -> None:
        """Its peer has shown a key or a ticket."""
        self._turns.authenticated(self._handshake)
