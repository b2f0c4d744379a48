"""Rolls keys: carries out what `core.rolls` decides, over the control channels of this relay and in its store.

There may be thousands of rolls, and thousands of control channels. All of them are examined every second, and other
tasks run in between.
"""

# This module is long because what is done at each moment and what the next main process has to know belong together.

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import attrs
import trio

from ..._confirmed_time import ConfirmedTime
from ..._shortage import remedy_or, text_or
from ..._threads import run_in_thread
from ...errors import ConfigurationError
from ...events.relay_changes import KeyNotKept, KeyRollAnswered, KeyRollEnded, KeyRollIncomplete, KeyRollStarted
from ...events.relay_resources import StateFileNotRead, StateFileNotWritten, StateFileWritten
from ...events.stream import EventStream
from ...protocol import control
from ...protocol.control import KeptState
from ..core.rolls import RETURN_SECONDS, GiveKey, RetireKey, Roll, Seen
from ..core.room import Room
from ..model import HybridConnection, KeyId, KeyRoll
from ..rolls import MAX_PROGRAMS, MAX_PROGRAMS_OF_RELAY, Program
from ..snapshot import EndedRollSnapshot, FileProblem, RollSnapshot, UnkeptKeySnapshot
from ..store.rolls import (
    ROLLS_FILE,
    Remembered,
    SavedEnd,
    read_ended_rolls,
    read_rolls,
    roll_id,
    write_rolls,
)
from ..store.store import Store
from .broker import BrokerService
from .control import ControlPeer
from .ended_rolls import EndedRolls, program_snapshot

__all__ = ["RollService"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

#: How often control channels, registrations and pairs are examined while a key is rolled (seconds).
_LOOK_SECONDS = 1.0
#: How many programs without the new key a snapshot lists.
_MAX_LISTED = 100
#: How long reading and writing the file may take, and when writing is tried again after a failure (seconds).
_FILE_SECONDS = 5.0
_WRITE_AGAIN_SECONDS = 10.0
#: The file is written so seldom that, on average, no more programs than this are written per second.
_WRITTEN_PER_SECOND = 5000.0
#: A program that is connected presents a new token at least this often (seconds): tokens are valid for an hour.
_TOKEN_SECONDS = 2 * 3600.0
#: More listeners, or pairs, than any relay has.
_ALL = 2**31
#: How many control channels, hybrid connections without anything to do, or rolls to be saved are handled before other
#: tasks run: less than half a millisecond's work.
_AT_A_TIME = 200


@attrs.frozen(eq=False)
class _Known:
    """A roll of this relay."""

    #: Identifies it in the file.
    id: str
    machine: Roll[ControlPeer]


class RollService:
    """The rolls of all keys at this relay.

    Args:
        broker: the relay's broker.
        peers: returns the control channels whose peers have authenticated.
        store: where old keys are revoked. Nothing else may use this `Store` at the same time, except with `limiter`.
        limiter: allows one thread at a time to use the store.
        clock: returns seconds since 1970.
        events: the stream to which events are published.
        state_dir: where it is remembered which programs were seen; None: nowhere.
    """

    def __init__(
        self,
        broker: BrokerService,
        peers: Callable[[], Iterable[ControlPeer]],
        store: Store,
        limiter: trio.CapacityLimiter,
        *,
        clock: Callable[[], float],
        events: EventStream,
        state_dir: Path | None = None,
    ) -> None:
        self._broker = broker
        self._peers = peers
        self._store = store
        self._limiter = limiter
        self._file_limiter = trio.CapacityLimiter(1)
        self._clock = clock
        self._events = events
        self._room = Room(MAX_PROGRAMS_OF_RELAY, MAX_PROGRAMS)
        #: By hybrid connection and rule.
        self._rolls: dict[tuple[str, str], _Known] = {}
        #: The hybrid connections of `_rolls`, as they were when it was updated.
        self._rolling: dict[str, HybridConnection] = {}
        #: `KnownConnections.revision` when `_rolls` was updated.
        self._revision = -1
        self._has_begun = False
        self._state_dir = state_dir
        #: What the previous main process has seen; None if that is not known.
        self._remembered: Remembered | None = {}
        self._saved_ends: list[SavedEnd] = []
        #: When the relay was started (seconds since 1970).
        self._started_at = clock()
        #: The rolls that are over, although programs have not stored the new key.
        self._ended = EndedRolls(self._room, self._started_at)
        #: How many times something has changed that the next main process has to know: now, and when this was last
        #: written.
        self._changes = self._written = 0
        self._write_again_at = -math.inf
        #: Why it cannot be read or written at the moment.
        self.problem: FileProblem | None = None
        #: Whether programs that were connected before have had the time to return.
        self._have_returned = False

    async def run(self) -> None:
        """Roll keys until cancelled."""
        return_until = trio.current_time() + RETURN_SECONDS
        time = ConfirmedTime(self._clock(), trio.current_time())
        await self._remember()
        while True:
            self._have_returned = trio.current_time() >= return_until
            time.read(self._clock(), trio.current_time())
            await self._update()
            if self._rolls or self._ended:
                await self._look(time)
            await self._save()
            await trio.sleep(_LOOK_SECONDS)

    async def _remember(self) -> None:
        """Read what the previous main process has seen."""
        if self._state_dir is None:
            return
        try:
            with trio.fail_after(_FILE_SECONDS):
                self._remembered = await self._in_thread(read_rolls, self._state_dir)
                self._saved_ends = await self._in_thread(read_ended_rolls, self._state_dir)
        except (OSError, ValueError, trio.TooSlowError) as exc:
            self._remembered = None
            detail = (
                f"it cannot be read, so keys that are being rolled are revoked at the end of --grace: {_why(exc)}"
            )
            remedy = remedy_or(exc, "check the disk, or remove the file")
            self._events.publish(
                StateFileNotRead(file=str(self._state_dir / ROLLS_FILE), detail=detail, remedy=remedy)
            )
            self.problem = FileProblem("rolls", detail, remedy)
            self._changes += 1  # so that it is replaced as soon as possible

    async def _save(self) -> None:
        """Write what was seen, if it has changed."""
        if self._state_dir is None or self._changes == self._written or trio.current_time() < self._write_again_at:
            return
        # What changes while this makes copies, or while the thread writes them, is written the next time.
        changes, programs = self._changes, await self._programs()
        ended = []
        for one in self._ended.saved():
            ended.append(one)
            await trio.lowlevel.checkpoint()
        count = sum(len(one or ()) for one in programs.values()) + sum(len(one.programs) for one in ended)
        self._write_again_at = trio.current_time() + count / _WRITTEN_PER_SECOND
        file = str(self._state_dir / ROLLS_FILE)
        try:
            with trio.fail_after(_FILE_SECONDS):
                await self._in_thread(write_rolls, self._state_dir, programs, ended)
        except (OSError, trio.TooSlowError) as exc:
            self._write_again_at = trio.current_time() + _WRITE_AGAIN_SECONDS
            detail = f"which programs have the keys that are being rolled is not saved: {_why(exc)}"
            remedy = remedy_or(exc, "free disk space, or check the disk")
            if self.problem is None or self.problem.detail != detail:
                self._events.publish(StateFileNotWritten(file=file, detail=detail, remedy=remedy))
            self.problem = FileProblem("rolls", detail, remedy)
            return
        self._written = changes
        if self.problem is not None:
            self.problem = None
            self._events.publish(StateFileWritten(file=file))

    async def _in_thread(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await run_in_thread(function, *args, limiter=self._file_limiter, abandon_on_cancel=True)

    async def _programs(self) -> dict[str, list[Program] | None]:
        """Return copies of what was seen during each roll, by its id: a thread reads them."""
        programs: dict[str, list[Program] | None] = {}
        copied = 0
        for number, known in enumerate(tuple(self._rolls.values()), 1):
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
            machine = known.machine
            if machine.has_forgotten or machine.is_crowded:
                programs[known.id] = None
                continue
            copies = programs[known.id] = list[Program]()
            for program in machine.programs:
                copies.append(attrs.evolve(program))
                copied += 1
                if copied % _AT_A_TIME == 0:
                    await trio.lowlevel.checkpoint()
        return programs

    async def _update(self) -> None:
        """Note rolls that have begun, and those that are over because a key has changed."""
        connections = self._broker.authorization.connections
        if connections.revision == self._revision:
            return
        self._revision = connections.revision  # changes from here on are noted the next time
        for number, name in enumerate({*self._rolling, *connections.rolling}, 1):
            connection = connections.get(name)
            has_changed = connection is not self._rolling.get(name)
            if has_changed:
                self._update_one(name, connection)
            if has_changed or number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        if not self._has_begun:
            self._restore_ended()
        self._has_begun = True

    def _update_one(self, name: str, connection: HybridConnection | None) -> None:
        """Note the rolls of a hybrid connection; None if it was deleted."""
        before = self._rolling.pop(name, None)
        earlier = {
            roll.rule: self._rolls.pop((name, roll.rule))
            for roll in (() if before is None else before.rolls)
            if (name, roll.rule) in self._rolls
        }
        if connection is not None and connection.rolls:
            self._rolling[name] = connection
        for one in earlier.values():
            if connection is None or connection.roll(one.machine.roll.rule) != one.machine.roll:
                # If the new key was changed, too, `drop_outdated` forgets it.
                self._ended.add(name, one.machine, self._clock())
        for roll in () if connection is None else connection.rolls:
            known = earlier.pop(roll.rule, None)
            if known is None or known.machine.roll != roll:
                known = self._begin(name, roll)
                self._changes += 1
                self._events.publish(KeyRollStarted(connection=name, rule=roll.rule, slot=roll.slot.value))
            self._rolls[name, roll.rule] = known
        self._changes += len(earlier)

    def _begin(self, connection: str, roll: KeyRoll) -> _Known:
        id_, room = roll_id(connection, roll), partial(self._room.take, connection)
        if self._has_begun:
            return _Known(id_, Roll(roll, take_room=room))
        remembered = None if self._remembered is None else self._remembered.get(id_, ())
        return _Known(id_, Roll(roll, trio.current_time(), remembered, take_room=room))

    def _restore_ended(self) -> None:
        """Continue with the rolls that were over when the previous main process ended."""
        for saved in self._saved_ends:
            room = partial(self._room.take, saved.connection)
            self._ended.restore(saved, Roll(saved.roll, None, saved.programs, take_room=room))
        self._saved_ends = []

    async def _look(self, time: ConfirmedTime) -> None:
        connections = self._broker.authorization.connections
        for number, was_dropped in enumerate(self._ended.drop_outdated(connections.get, time.latest), 1):
            self._changes += was_dropped
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        seen = await self._seen()
        for number, (name, roll, peers) in enumerate(self._ended.observe(seen, trio.current_time()), 1):
            if (ended_of := connections.get(name)) is not None:
                for peer in peers:
                    self._give(peer, ended_of, roll)
            if peers or number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
        for number, connection in enumerate(tuple(self._rolling.values()), 1):
            if await self._look_at(connection, seen, time) or number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()

    async def _look_at(
        self,
        connection: HybridConnection,
        seen: Mapping[tuple[str, str], Sequence[Seen[ControlPeer]]],
        time: ConfirmedTime,
    ) -> bool:
        """Look at the rolls of a hybrid connection. Returns whether there was anything to do."""
        name, now = connection.name, trio.current_time()
        used: frozenset[KeyId] | None = None
        for roll in connection.rolls:
            known = self._rolls.get((name, roll.rule))
            channels, is_over = seen.get((name, roll.rule), ()), time.has_passed(roll.ends_at)
            if known is None or not (channels or is_over or known.machine.has_seen):
                continue
            used = self._used_keys(name) if used is None else used
            machine = known.machine
            changes = machine.changes
            outputs = machine.observe(channels, now, depends_on_old=roll.old_key(name) in used, is_over=is_over)
            self._changes += machine.changes - changes
            for output in outputs:
                match output:
                    case GiveKey(peer):
                        self._give(peer, connection, roll)
                    case RetireKey(has_waited):
                        await self._retire(name, machine, has_waited=has_waited)
        return used is not None

    async def _seen(self) -> dict[tuple[str, str], list[Seen[ControlPeer]]]:
        """Return the control channels over which keys that are being rolled were presented. A channel that has ended
        in the meantime drops what is sent."""
        found: dict[tuple[str, str], list[Seen[ControlPeer]]] = defaultdict(list)
        for number, peer in enumerate(tuple(self._peers()), 1):
            if number % _AT_A_TIME == 0:
                await trio.lowlevel.checkpoint()
            for at in {(key.connection, key.rule) for key in peer.keys if self._concerns(key)}:
                role = "" if peer.role is None else peer.role.value
                found[at].append(Seen(peer, peer.instance, peer.address, role))
        return found

    def _concerns(self, key: KeyId) -> bool:
        known = self._rolls.get((key.connection, key.rule))
        if known is None:
            return self._ended.concerns(key)
        roll = known.machine.roll
        return key in (roll.old_key(key.connection), roll.new_key(key.connection))

    def _used_keys(self, connection: str) -> frozenset[KeyId]:
        """Return the keys of a hybrid connection on which a registration or a pair depends."""
        listeners = self._broker.listeners.index.page(_ALL, connection=connection)
        pairs = self._broker.pairs.index.page(_ALL, connection=connection)
        of_pairs = (key for _, one in pairs for key in (one.listener.key, one.sender.key))
        return frozenset((*(one.key for _, one in listeners), *of_pairs))

    def _give(self, peer: ControlPeer, connection: HybridConnection, roll: KeyRoll) -> None:
        rule = connection.rule(roll.rule)
        key = None if rule is None else rule.key(roll.slot)
        if key is not None:
            peer.give(control.Key(connection.name, roll.rule, roll.new_generation, key.reveal()))

    async def _retire(self, name: str, machine: Roll[ControlPeer], *, has_waited: bool) -> None:
        roll = machine.roll

        def revoke() -> None:
            self._store.revoke_key(name, roll.rule, roll.slot.other, generation=roll.old_generation)

        try:
            await run_in_thread(revoke, limiter=self._limiter)
        except ConfigurationError:
            return  # the key was changed, which ends the roll; or the store cannot be changed now: retried
        del self._rolls[name, roll.rule]
        missing = len(machine.missing)
        self._ended.add(name, machine, self._clock())
        self._changes += 1
        self._events.publish(
            KeyRollEnded(
                connection=name, rule=roll.rule, slot=roll.slot.value, has_waited=has_waited, missing=missing
            )
        )
        if missing:
            self._events.publish(KeyRollIncomplete(connection=name, rule=roll.rule, programs=missing))

    def answered(self, address: str, instance: str, answer: control.KeyKept) -> None:
        """Note what a peer has done with a new key. Answers that nobody has asked for are ignored."""
        name = answer.connection
        connection = self._rolling.get(name)
        for roll in () if connection is None else connection.rolls:
            known = self._rolls.get((name, roll.rule))
            if known is not None and roll.new_generation == answer.generation:
                self._note_answer(known.machine, address, instance, answer)
        current = self._broker.authorization.connections.get(name)
        machine = None if current is None else self._ended.find(current, answer.generation)
        if machine is not None:
            self._note_answer(machine, address, instance, answer)
            self._ended.forget_kept(name, machine)

    def _note_answer(self, machine: Roll[ControlPeer], address: str, instance: str, answer: control.KeyKept) -> None:
        if machine.answered(address, instance, answer.state, answer.detail) is None:
            return
        self._changes += 1
        name, rule = answer.connection, machine.roll.rule
        self._events.publish(
            KeyRollAnswered(
                connection=name,
                rule=rule,
                peer=address,
                instance=instance,
                state=answer.state.value,
                detail=answer.detail,
            )
        )
        if answer.state is KeptState.MEMORY:
            self._events.publish(
                KeyNotKept(connection=name, rule=rule, peer=address, instance=instance, detail=answer.detail)
            )

    def snapshot(self, name: str, rule: str) -> RollSnapshot | None:
        """Return which programs have the new key of a rule; None if it is not being rolled."""
        known = self._rolls.get((name, rule))
        if known is None:
            return None
        machine = known.machine
        missing = tuple(program_snapshot(one) for one in machine.missing[:_MAX_LISTED])
        return RollSnapshot(
            len(machine.programs),
            len(machine.programs) - len(machine.missing),
            missing,
            has_forgotten=machine.has_forgotten,
            is_crowded=machine.is_crowded,
        )

    def ended(self, name: str, rule: str) -> EndedRollSnapshot | None:
        """Return the last roll of a rule's key, if it is over and programs have not stored the new key."""
        return self._ended.snapshot(name, rule, _MAX_LISTED)

    def unkept(self) -> Iterator[UnkeptKeySnapshot]:
        """Yield the keys that connected programs have only in memory."""
        for (name, rule), known in self._rolls.items():
            if known.machine.in_memory:
                yield UnkeptKeySnapshot(name, rule, known.machine.in_memory)
        yield from self._ended.unkept()

    def is_in_use(self, key: KeyId) -> bool:
        """Return whether a peer that is connected has presented a token made with this key, or a registration or pair
        depends on it: a client without a control channel may have a session.

        Shortly after the start of the relay, this is also so if a peer that was connected before may still return.
        """
        return (
            any(key in peer.keys for peer in self._peers())
            or key in self._used_keys(key.connection)
            or self._may_return(key)
        )

    def _may_return(self, key: KeyId) -> bool:
        """Return whether a program that used a key until the relay was started may not have connected again yet."""
        if self._have_returned:
            return False
        used_at = self._broker.usage.last_use(key)
        return used_at is not None and self._started_at - _TOKEN_SECONDS <= used_at < self._started_at


def _why(exc: Exception) -> str:
    if isinstance(exc, trio.TooSlowError):
        return "the file system does not answer"
    return text_or(exc, str(exc) or type(exc).__name__)
