"""Decides how a rule's key is rolled: which programs are given the new key, and when the old one is revoked. Pure.

The rules:

1. The relay gives the new key to each program that has presented the old or the new one of the rule, over the control
   channel on which it did so. A program that has presented the new key is given it, too, because it may have it only
   in memory. The program answers what it has done with the key (`KeptState`).
2. A program that has not answered that it has *kept* the key, which means stored it, is given the key again every
   `REPEAT_SECONDS`, and on each new control channel.
3. The old key is revoked when every program that was seen during the roll has kept the new one, and no registration
   and no pair of data channels depends on the old one, for `SETTLED_SECONDS`. A program that has disconnected without
   an answer does not count as having kept it. If no program was seen, the roll continues. A relay that was restarted
   during the roll remembers which programs it has seen before, but perhaps not the very last ones, and therefore
   waits for `RETURN_SECONDS` first. If it has forgotten them, or if there was no room for a program, rule 4 applies.
4. The old key is revoked at the end of the grace period in any case; with `KeyRoll.waits`, not before.
5. After that (`Roll.end`), programs that have not kept the new key are given it again, more rarely. No others are
   noted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

import attrs

from ..._value import Value
from ...protocol.control import KeptState
from ..model import KeyRoll
from ..rolls import Program

__all__ = [
    "LATER_REPEAT_SECONDS",
    "REPEAT_SECONDS",
    "RETURN_SECONDS",
    "SETTLED_SECONDS",
    "GiveKey",
    "RetireKey",
    "Roll",
    "Seen",
]

HandleT = TypeVar("HandleT")

#: How often a program that has not kept the key is given it again (seconds), and the same when the roll is over.
REPEAT_SECONDS = 20.0
LATER_REPEAT_SECONDS = 60.0
#: For how long the condition of rule 3 must hold before the old key is revoked (seconds): programs that lose their
#: channel in the meantime return within this time.
SETTLED_SECONDS = 5.0
#: After a start of the relay during a roll, the old key is not revoked before this time has passed (seconds).
#: Programs that were connected before return within it, and get the new key if they do not have it.
RETURN_SECONDS = 30.0
#: How many answers of a program are noted each time it is asked. It may answer again when something has changed.
MAX_ANSWERS = 3


@attrs.frozen
class Seen(Generic[HandleT]):
    """A control channel over which the old or the new key of the rule was presented."""

    handle: HandleT
    instance: str
    #: The address group of the peer.
    address: str
    #: ``connector`` or ``client``.
    role: str


@attrs.frozen
class GiveKey(Generic[HandleT]):
    """Send the new key over this control channel."""

    handle: HandleT


@attrs.frozen
class RetireKey(Value):
    """Revoke the old key. `has_waited`: because the grace period is over, although the condition of rule 3 does not
    hold."""

    has_waited: bool


class Roll(Generic[HandleT]):
    """The machine of one roll.

    Args:
        roll: which keys, and when it ends.
        resumed_at: when the relay was started during the roll, on the clock of `observe`; None if it was not.
        remembered: the programs that were seen during the roll before the relay was restarted; None: they were
            forgotten.
        take_room: returns whether there is room for one more program, and takes it.
    """

    def __init__(
        self,
        roll: KeyRoll,
        resumed_at: float | None = None,
        remembered: Iterable[Program] | None = (),
        *,
        take_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self.roll = roll
        self._not_before = -math.inf if resumed_at is None else resumed_at + RETURN_SECONDS
        #: The programs that were seen, by address group and instance: another program may claim the same instance.
        self._programs: dict[tuple[str, str], Program] = {}
        self._take_room = take_room
        #: When the key was last sent over each control channel.
        self._asked: dict[HandleT, float] = {}
        #: Whether programs that were seen before the relay was restarted are no longer known.
        self.has_forgotten = remembered is None
        #: How many times something has changed that has to be known after a restart.
        self.changes = 0
        #: Whether there was no room for a program that was seen.
        self.is_crowded = False
        #: How many programs that are connected have said that they have the new key only in memory.
        self.in_memory = 0
        self._repeat_seconds = REPEAT_SECONDS
        for one in remembered or ():
            if (one.address, one.instance) in self._programs:
                continue
            if not self._has_room():
                break
            self._programs[one.address, one.instance] = one
        #: Since when the condition of rule 3 has held; None if it does not.
        self._well_since: float | None = None

    @property
    def programs(self) -> tuple[Program, ...]:
        """The programs that were seen, in the order in which they were."""
        return tuple(self._programs.values())

    @property
    def has_seen(self) -> bool:
        """Whether any program was seen. Otherwise, only a control channel or the end of the grace period changes
        anything."""
        return bool(self._programs)

    @property
    def has_channels(self) -> bool:
        """Whether programs that were seen had control channels at the last call of `observe`."""
        return bool(self._asked)

    @property
    def missing(self) -> tuple[Program, ...]:
        """The programs that were seen and have not kept the new key."""
        return tuple(one for one in self._programs.values() if one.state is not KeptState.KEPT)

    def observe(
        self, channels: Iterable[Seen[HandleT]], now: float, *, depends_on_old: bool, is_over: bool
    ) -> list[GiveKey[HandleT] | RetireKey]:
        """Note the control channels that exist now, and return what is to be done.

        Args:
            channels: all control channels over which the old or the new key was presented.
            now: seconds, on a monotonic clock.
            depends_on_old: whether a registration or a pair of data channels depends on the old key.
            is_over: whether the grace period is over (`KeyRoll.ends_at`).
        """
        outputs: list[GiveKey[HandleT] | RetireKey] = []
        asked: dict[HandleT, float] = {}
        for program in self._programs.values():
            program.is_connected = False
        for seen in channels:
            found = self._program_of(seen)
            if found is None:
                continue
            found.is_connected = True
            last = self._asked.get(seen.handle)
            if last is None or (found.state is not KeptState.KEPT and now - last >= self._repeat_seconds):
                outputs.append(GiveKey(seen.handle))
                found.answers_left = MAX_ANSWERS
                last = now
            asked[seen.handle] = last
        self._asked = asked
        self.in_memory = sum(
            program.is_connected and program.state is KeptState.MEMORY for program in self._programs.values()
        )
        is_complete = bool(self._programs) and not self.has_forgotten and not self.is_crowded
        is_well = is_complete and not self.missing and not depends_on_old
        if not is_well:
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        has_settled = self._well_since is not None and now - self._well_since >= SETTLED_SECONDS
        has_settled = has_settled and now >= self._not_before
        if is_over:
            outputs.append(RetireKey(has_waited=not is_well))
        elif has_settled and not self.roll.waits:
            outputs.append(RetireKey(has_waited=False))
        return outputs

    def end(self) -> int:
        """Note that the roll is over, and forget the programs that have kept the new key. Returns how many."""
        self._repeat_seconds = LATER_REPEAT_SECONDS
        kept = [key for key, program in self._programs.items() if program.state is KeptState.KEPT]
        for key in kept:
            del self._programs[key]
        return len(kept)

    def _program_of(self, seen: Seen[HandleT]) -> Program | None:
        known = self._programs.get((seen.address, seen.instance))
        if known is None:
            if not self._has_room():
                return None
            known = Program(seen.instance, seen.address, seen.role)
            self._programs[seen.address, seen.instance] = known
            self.changes += 1
        return known

    def _has_room(self) -> bool:
        """Take room for another program. Once there was none, the roll waits for the end of the grace period."""
        if not self.is_crowded and not self._take_room():
            self.is_crowded = True
            self.changes += 1
        return not self.is_crowded

    def answered(self, address: str, instance: str, state: KeptState, detail: str) -> Program | None:
        """Note the answer of a program. Returns the program; None if it is unknown, has said this before, or has
        answered too often since it was asked. That it no longer has the key is always noted."""
        program = self._programs.get((address, instance))
        if program is None or (program.state, program.detail) == (state, detail):
            return None
        has_lost_it = program.state is KeptState.KEPT and state is not KeptState.KEPT
        if not (program.answers_left or has_lost_it):
            return None
        program.state, program.detail = state, detail
        self.changes += 1
        program.answers_left = max(0, program.answers_left - 1)
        return program
