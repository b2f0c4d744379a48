"""Rolls that are over although programs have not stored the new key.

These programs work until they are restarted, and fail then, because the old key was revoked. So the relay remembers
them, shows them, and gives them the key again, until they have stored it. It forgets a roll when all have, when the
new key itself is changed, revoked or rolled, and after `KEPT_SECONDS`, because it does not learn when a program that
has disconnected gets the key by other means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs

from ..core.rolls import GiveKey, Roll, Seen
from ..core.room import Room
from ..model import HybridConnection, KeyId, KeyRoll
from ..rolls import Program
from ..snapshot import EndedRollSnapshot, ProgramSnapshot, UnkeptKeySnapshot
from ..store.rolls import SavedEnd
from .control import ControlPeer

__all__ = ["KEPT_SECONDS", "EndedRolls", "program_snapshot"]

#: For how long a roll that is over is remembered at most (seconds).
KEPT_SECONDS = 30 * 86_400.0


@attrs.frozen(eq=False)
class _Ended:
    machine: Roll[ControlPeer]
    #: Seconds since 1970.
    ended_at: float
    #: How many programs were seen during the roll, including those that have stored the key.
    seen: int
    #: Since when programs were noted (seconds since 1970).
    seen_since: float
    #: Whether there was no room for others.
    is_crowded: bool


class EndedRolls:
    """The rolls of one relay that are over, at most one for each rule.

    Args:
        room: how many programs may be remembered.
        started_at: when the relay was started (seconds since 1970).
    """

    def __init__(self, room: Room, started_at: float) -> None:
        self._room = room
        self._started_at = started_at
        #: By hybrid connection and rule.
        self._ended: dict[tuple[str, str], _Ended] = {}

    def __bool__(self) -> bool:
        return bool(self._ended)

    def add(self, name: str, machine: Roll[ControlPeer], ended_at: float) -> None:
        """Remember a roll that is over, if programs have not stored the new key. Its room is given back otherwise."""
        seen, began_at = len(machine.programs), machine.roll.started_at
        seen_since = max(began_at, self._started_at) if machine.has_forgotten else began_at
        self.drop(name, machine.roll.rule)
        self._keep(name, _Ended(machine, ended_at, seen, seen_since, machine.is_crowded))

    def restore(self, saved: SavedEnd, machine: Roll[ControlPeer]) -> None:
        """Continue with what the previous main process has saved. `machine` has its programs."""
        is_crowded = saved.is_crowded or machine.is_crowded
        self._keep(saved.connection, _Ended(machine, saved.ended_at, saved.seen, saved.seen_since, is_crowded))

    def _keep(self, name: str, one: _Ended) -> None:
        """Remember a roll, unless all programs have stored the new key. From now on, it is given more rarely."""
        self._room.release(name, one.machine.end())
        if one.machine.has_seen:
            self._ended[name, one.machine.roll.rule] = one

    def saved(self) -> Iterator[SavedEnd]:
        """Yield copies of what the next main process has to know. The caller may let other tasks run in between."""
        for (name, _), one in list(self._ended.items()):
            programs = [attrs.evolve(program) for program in one.machine.programs]
            yield SavedEnd(name, one.machine.roll, one.ended_at, one.seen, programs, one.seen_since, one.is_crowded)

    def drop(self, name: str, rule: str) -> bool:
        """Forget the roll of a rule. Returns whether there was one."""
        one = self._ended.pop((name, rule), None)
        if one is None:
            return False
        self._room.release(name, len(one.machine.programs))
        return True

    def drop_outdated(self, find: Callable[[str], HybridConnection | None], now: float) -> Iterator[bool]:
        """Forget rolls whose new key has changed, or that ended long ago. Yields for each roll whether it was
        forgotten. The caller may let other tasks run in between.

        Args:
            find: returns the hybrid connection with a name, if it exists.
            now: seconds since 1970 (`ConfirmedTime.latest`).
        """
        for at, one in list(self._ended.items()):
            is_known = self._ended.get(at) is one
            is_outdated = now - one.ended_at > KEPT_SECONDS or not _is_current(find(at[0]), one)
            yield is_known and is_outdated and self.drop(*at)

    def concerns(self, key: KeyId) -> bool:
        """Return whether a key is the new one of such a roll."""
        one = self._ended.get((key.connection, key.rule))
        return one is not None and key == one.machine.roll.new_key(key.connection)

    def observe(
        self, seen: Mapping[tuple[str, str], Sequence[Seen[ControlPeer]]], now: float
    ) -> Iterator[tuple[str, KeyRoll, list[ControlPeer]]]:
        """Note the control channels that exist now. Yields for each roll the hybrid connection and to whom the key is
        to be given. The caller may let other tasks run in between. `now` is on Trio's clock."""
        for (name, rule), one in list(self._ended.items()):
            every = seen.get((name, rule), ())
            if not every and not one.machine.has_channels:
                yield name, one.machine.roll, []  # nothing has changed, and there may be thousands of these
                continue
            known = {(program.address, program.instance) for program in one.machine.programs}
            channels = [channel for channel in every if (channel.address, channel.instance) in known]
            outputs = one.machine.observe(channels, now, depends_on_old=True, is_over=False)
            yield name, one.machine.roll, [output.handle for output in outputs if isinstance(output, GiveKey)]

    def find(self, connection: HybridConnection, generation: int) -> Roll[ControlPeer] | None:
        """Return the roll whose new key has this generation; None if there is none."""
        for rule in connection.rules:
            one = self._ended.get((connection.name, rule.name))
            if one is not None and one.machine.roll.new_generation == generation:
                return one.machine
        return None

    def forget_kept(self, name: str, machine: Roll[ControlPeer]) -> None:
        """Forget the programs of a roll that have stored the key by now, and the roll if there are no others."""
        self._room.release(name, machine.end())
        if not machine.has_seen:
            self._ended.pop((name, machine.roll.rule), None)

    def snapshot(self, name: str, rule: str, listed: int) -> EndedRollSnapshot | None:
        """Return the roll of a rule that is over; None if there is none. At most `listed` programs are listed."""
        one = self._ended.get((name, rule))
        if one is None:
            return None
        missing = one.machine.missing
        return EndedRollSnapshot(
            one.machine.roll,
            ended_at=one.ended_at,
            seen=one.seen,
            kept=one.seen - len(missing),
            missing=tuple(program_snapshot(program) for program in missing[:listed]),
            seen_since=one.seen_since,
            is_crowded=one.is_crowded,
        )

    def unkept(self) -> Iterator[UnkeptKeySnapshot]:
        """Yield the keys that connected programs have only in memory."""
        for (name, rule), one in self._ended.items():
            if one.machine.in_memory:
                yield UnkeptKeySnapshot(name, rule, one.machine.in_memory, ended_at=one.ended_at)


def _is_current(connection: HybridConnection | None, ended: _Ended) -> bool:
    """Return whether the new key of a roll is still the rule's, and no other roll has begun."""
    roll = ended.machine.roll
    if connection is None or connection.generations.get((roll.rule, roll.slot)) != roll.new_generation:
        return False
    return connection.roll(roll.rule) in (None, roll)  # the relay may not have read yet that it is over


def program_snapshot(program: Program) -> ProgramSnapshot:
    """Return a program that does not have the new key, as it is shown."""
    return ProgramSnapshot(
        instance=program.instance,
        address=program.address,
        role=program.role,
        state="asked" if program.state is None else program.state.value,
        detail=program.detail,
        is_connected=program.is_connected,
    )
