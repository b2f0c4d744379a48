"""Whose TLS handshake comes next: a ration for peers that have not authenticated. Pure: the clock is passed in.

A handshake costs the relay about a millisecond, and whoever reaches a port can ask for one. The rules:

1. Whoever wants one waits in line with a complete ClientHello. While less than a burst of handshakes is owed, in all
   and by that address, it begins at once.
2. A handshake is owed until its peer authenticates. What is not paid back that way is forgiven at a fixed rate. So
   peers with a key use nothing up, thousands of them behind one address included, and strangers get that rate.
3. Peers that have proved to share an access key with the relay (`admission`) come first, whatever their address. Each
   key has a ration of its own. Such a peer also waits in the line of its address, so that somebody who observes a
   proof and repeats it can use up the ration of that key and nothing else: its peers are then served as if they had
   sent no proof.
4. Addresses from which somebody authenticated recently come next, and draw on an allowance that strangers cannot use
   up.
5. Within each of these three lines (keys, known addresses, other addresses) the one that owes least comes first, so
   that an address which asks rarely does not wait behind one that asks all the time.
6. A connection that needs a second handshake (TLS inside HTTP or inside outer TLS) keeps the place in line that its
   address had before the first one, so that the work already done for it is not wasted. This holds only while its
   address may owe more; what it owes counts in any case.
7. Within an address or a key, connections that wait for their second handshake come first, and then the newest: it is
   the most likely to be still connected.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Self

import attrs
import trio

from ..limits import (
    HANDSHAKES_OF_ADDRESS,
    HANDSHAKES_OF_KEY,
    HANDSHAKES_OF_KNOWN,
    HANDSHAKES_OF_PROVED,
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


#: Who waits and owes: an address (see `slots.address_group`), or an access key, by its id.
Party = str | bytes


class _Line(enum.IntEnum):
    """The lines, in the order in which they are served."""

    #: Access keys.
    PROVED = 0
    #: Addresses from which somebody authenticated recently.
    KNOWN = 1
    #: All other addresses.
    STRANGERS = 2


@attrs.define(eq=False)
class Handshake:
    """One that is wanted, or under way. One connection may want several, one after the other."""

    #: See `slots.address_group`.
    group: str
    #: Called when its turn has come; must not raise.
    on_turn: Callable[[], None]
    #: The id of the access key that the peer has proved to have. Not to be changed while it waits.
    key_id: bytes | None = None
    #: Whose allowance has been drawn on, once for each that has begun.
    _owed: list[_Debt] = attrs.field(factory=list)
    #: What its address owed before the first one that began, as `_Debt.cleared_at`. None before that.
    _place: float | None = None

    @property
    def parties(self) -> tuple[Party, ...]:
        """In whose name it waits."""
        return (self.group,) if self.key_id is None else (self.key_id, self.group)


@attrs.define(eq=False)
class _Account:
    """A party that is waiting, or owes something."""

    debt: _Debt
    #: In the order in which they came; the newest is served first.
    waiting: dict[Handshake, None] = attrs.field(factory=dict)
    #: The same for connections that have had a handshake; they are served before the others.
    again: dict[Handshake, None] = attrs.field(factory=dict)
    #: Which entry in the heap stands for it, and what that says; any other is out of date.
    entry: int = -1
    queued: tuple[_Line, float] | None = None

    @property
    def is_waiting(self) -> bool:
        return bool(self.waiting or self.again)

    def next(self) -> Handshake:
        """The connection that is served next; one must be waiting."""
        return next(reversed(self.again or self.waiting))

    def add(self, handshake: Handshake) -> None:
        (self.waiting if handshake._place is None else self.again)[handshake] = None

    def remove(self, handshake: Handshake) -> bool:
        """Whether it was waiting."""
        waited = handshake in self.waiting or handshake in self.again
        self.waiting.pop(handshake, None)
        self.again.pop(handshake, None)
        return waited

    def place(self, now: float) -> float:
        """Its place in line: the least comes first."""
        if self.again and self.debt.room_at() <= now:
            place = self.next()._place
            assert place is not None
            return min(place, self.debt.cleared_at)
        return self.debt.cleared_at


class Handshakes:
    """Decides which connections may begin a handshake.

    Args:
        total: for all peers whose address has not authenticated lately, together.
        known: for all others together.
        each: for one address.
        proved: for all peers that have proved to have a key, together.
        each_key: for one key.
        remembered: addresses that are remembered because somebody authenticated from there.
    """

    def __init__(
        self, total: Ration, known: Ration, each: Ration, *, proved: Ration, each_key: Ration, remembered: int
    ) -> None:
        self._total = {_Line.PROVED: _Debt(proved), _Line.KNOWN: _Debt(known), _Line.STRANGERS: _Debt(total)}
        self._each = each
        self._each_key = each_key
        self._remembered = remembered
        self._known: OrderedDict[str, None] = OrderedDict()
        self._accounts: dict[Party, _Account] = {}
        #: (The place of a party, a number, the party). The least comes first.
        self._lines: dict[_Line, list[tuple[float, int, Party]]] = {line: [] for line in _Line}
        self._numbers = itertools.count()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Handshakes in line."""
        return self._waiting

    def want(self, handshake: Handshake, now: float) -> None:
        """Stand in line."""
        for party in handshake.parties:
            account = self._accounts.get(party)
            if account is None:
                each = self._each if isinstance(party, str) else self._each_key
                account = self._accounts[party] = _Account(_Debt(each))
            account.add(handshake)
            self._queue(party, now)
        self._waiting += 1

    def leave(self, handshake: Handshake, now: float) -> None:
        """Its connection is over, without authentication: what it owes stays owed. Harmless at any time."""
        self._stand_aside(handshake)
        for party in handshake.parties:
            self._queue(party, now)
        self._forget(now)

    def begin(self, now: float) -> Handshake | None:
        """Take the next out of the line, if one may begin now."""
        for line in _Line:
            if self._total[line].room_at() > now:
                continue
            party = self._first(line)
            if party is None:
                continue
            account = self._accounts[party]
            if account.debt.room_at() > now:
                continue  # it owes less than all others in its line
            handshake = account.next()
            self._stand_aside(handshake)
            if handshake._place is None:
                handshake._place = self._accounts[handshake.group].debt.cleared_at
            for debt in (account.debt, self._total[line]):
                debt.owe(now)
                handshake._owed.append(debt)
            for each in handshake.parties:
                self._queue(each, now)
            return handshake
        return None

    def next_at(self) -> float | None:
        """When `begin` will have somebody; None while nobody is waiting."""
        times = [
            max(self._total[line].room_at(), self._accounts[party].debt.room_at())
            for line in _Line
            if (party := self._first(line)) is not None
        ]
        return min(times, default=None)

    def authenticated(self, handshake: Handshake, now: float) -> None:
        """The peer has shown a key or a ticket: it owes nothing, and its address is known from now on."""
        for debt in handshake._owed:
            # Twice, for other connections from this address that do not authenticate, such as those of the prober.
            debt.pay_back(2)
        handshake._owed.clear()
        self._known[handshake.group] = None
        self._known.move_to_end(handshake.group)
        for party in handshake.parties:
            self._queue(party, now)
        while len(self._known) > self._remembered:
            forgotten, _ = self._known.popitem(last=False)
            self._queue(forgotten, now)
        self._forget(now)

    # --- the lines

    def _stand_aside(self, handshake: Handshake) -> None:
        """Take it out of all lines."""
        waited = False
        for party in handshake.parties:
            account = self._accounts.get(party)
            if account is not None and account.remove(handshake):
                waited = True
        self._waiting -= waited

    def _line_of(self, party: Party) -> _Line:
        if isinstance(party, bytes):
            return _Line.PROVED
        return _Line.KNOWN if party in self._known else _Line.STRANGERS

    def _queue(self, party: Party, now: float) -> None:
        """See to it that the right entry stands for a party, if anybody waits there."""
        account = self._accounts.get(party)
        if account is None or not account.is_waiting:
            return
        line, place = queued = self._line_of(party), account.place(now)
        if account.queued != queued:
            account.queued, account.entry = queued, next(self._numbers)
            heapq.heappush(self._lines[line], (place, account.entry, party))

    def _first(self, which: _Line) -> Party | None:
        """The party whose turn it is in a line."""
        line = self._lines[which]
        while line:
            _, entry, party = line[0]
            account = self._accounts.get(party)
            if account is not None and account.entry == entry:
                if account.is_waiting:
                    return party
                account.queued = None
            heapq.heappop(line)
        return None

    def _forget(self, now: float) -> None:
        """Look at a few parties, and forget those that neither wait nor owe."""
        for _ in range(min(2, len(self._accounts))):
            party, account = next(iter(self._accounts.items()))
            del self._accounts[party]
            if account.is_waiting or not account.debt.is_clear(now):
                self._accounts[party] = account  # to the end of the line


class Turns:
    """`Handshakes` for trio: waits for a turn, and gives one in each pass of the event loop."""

    def __init__(self, handshakes: Handshakes | None = None) -> None:
        self._handshakes = handshakes or Handshakes(
            HANDSHAKES_OF_STRANGERS,
            HANDSHAKES_OF_KNOWN,
            HANDSHAKES_OF_ADDRESS,
            proved=HANDSHAKES_OF_PROVED,
            each_key=HANDSHAKES_OF_KEY,
            remembered=REMEMBERED_ADDRESSES,
        )
        self._changed = trio.Event()

    @property
    def waiting(self) -> int:
        """Handshakes in line."""
        return self._handshakes.waiting

    def want(self, handshake: Handshake) -> None:
        """Stand in line: `Handshake.on_turn` is called by `run`."""
        self._handshakes.want(handshake, trio.current_time())
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

    def prove(self, key_id: bytes) -> None:
        """The peer has proved to have an access key: its further handshakes come before those of strangers."""
        self._handshake.key_id = key_id

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
