"""Gives updates to the programs that they are for, as `core.updates` decides, over the control channels of this
relay."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import trio

from ..._threads import run_in_thread
from ...errors import StateError
from ...events.relay_changes import UpdateAnswered
from ...events.stream import EventStream
from ...protocol import control
from ...security import Role
from ..core.room import Room
from ..core.updates import Distribution, Recipient
from ..model import StoreChange
from ..snapshot import RecipientSnapshot, UpdateSnapshot
from ..store.store import Store
from ..updates import MAX_RECIPIENTS, MAX_RECIPIENTS_OF_RELAY, StoredUpdate
from .broker import BrokerService
from .control import ControlPeer

__all__ = ["UpdateService"]

#: How often control channels are examined while there are updates (seconds).
_LOOK_SECONDS = 2.0
#: How many control channels are examined before other tasks run.
_AT_ONCE = 200
#: How many programs without the update a snapshot lists.
_MAX_LISTED = 100

#: How many hybrid connections have their updates read at a time.
_READ_AT_ONCE = 50

_ROLES = {control.PeerRole.CONNECTOR: Role.CONNECTOR, control.PeerRole.CLIENT: Role.APPLICATION}


class UpdateService:
    """The updates of all hybrid connections at this relay.

    Args:
        broker: the relay's broker.
        peers: returns the control channels whose peers have authenticated.
        store: has the updates. Nothing else may use this `Store` at the same time, except with `limiter`.
        limiter: allows one thread at a time to use the store.
        clock: returns seconds since 1970.
        events: the stream to which events are published.
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
    ) -> None:
        self._broker = broker
        self._peers = peers
        self._store = store
        self._limiter = limiter
        self._clock = clock
        self._events = events
        self._room = Room(MAX_RECIPIENTS_OF_RELAY, MAX_RECIPIENTS)
        self._updates: dict[tuple[str, Role, str], StoredUpdate] = {}
        self._machines: dict[tuple[str, Role, str], Distribution[ControlPeer]] = {}
        #: The same machines by hybrid connection, for what is about only one of them.
        self._of_connection: dict[str, dict[tuple[Role, str], Distribution[ControlPeer]]] = {}
        #: The hybrid connections whose updates have to be read, because they have changed; None means all.
        self._due: set[str] | None = None

    async def run(self) -> None:
        """Distribute updates until cancelled."""
        while True:
            await self._read()
            if self._updates:
                await self._look()
            await trio.sleep(_LOOK_SECONDS)

    def changed(self, change: StoreChange) -> None:
        """Note a change of the store, which may be about updates."""
        if self._due is not None:
            self._due.update(change.changed, change.deleted)

    async def _read(self) -> None:
        """Read the updates of hybrid connections that have changed, in parts."""
        while self._due is None or self._due:
            names = None if self._due is None else sorted(self._due)[:_READ_AT_ONCE]
            before, self._due = self._due, set() if self._due is None else self._due.difference(names or ())
            try:
                updates = await run_in_thread(self._read_updates, names, limiter=self._limiter)
            except StateError:
                # The watcher of the registry has already published this; it is tried again.
                self._due = None if before is None else self._due | before
                return
            self._replace(tuple(self._of_connection) if names is None else names, updates)

    def _replace(self, names: Iterable[str], updates: Iterable[StoredUpdate]) -> None:
        """Note which updates these hybrid connections have now."""
        earlier: dict[tuple[str, Role, str], Distribution[ControlPeer]] = {}
        for name in names:
            for side, serial in self._of_connection.pop(name, {}):
                del self._updates[name, side, serial]
                earlier[name, side, serial] = self._machines.pop((name, side, serial))
        for update in updates:
            at = name, side, serial = update.recipients
            machine = earlier.pop(at, None)
            if machine is None or machine.sequence != update.sequence:
                machine = Distribution(
                    update.sequence,
                    machine,
                    take_room=partial(self._room.take, name),
                    release_room=partial(self._room.release, name),
                )
            self._updates[at] = update
            self._machines[at] = self._of_connection.setdefault(name, {})[side, serial] = machine
        for machine in earlier.values():
            machine.close()

    def _read_updates(self, names: Sequence[str] | None) -> Sequence[StoredUpdate]:
        """Read the updates of these hybrid connections, or of all, in a thread."""
        if names is None:
            return self._store.updates()
        return self._store.updates_of(names)

    async def _look(self) -> None:
        time_of_day = self._clock()
        channels = await self._channels()
        for at, machine in self._machines.items():
            update = self._updates[at]
            channels_of_update = channels[update.connection, update.role]
            outputs = machine.observe(channels_of_update, trio.current_time(), time_of_day=time_of_day)
            if outputs and time_of_day < update.expires_at:
                document = base64.b64encode(update.document).decode("ascii")
                for output in outputs:
                    output.channel.give(control.Update(update.connection, update.sequence, document))
            await trio.lowlevel.checkpoint()

    async def _channels(self) -> dict[tuple[str, Role], set[ControlPeer]]:
        """Return the control channels of programs that may be recipients. There may be thousands, so this lets other
        tasks run in between. A channel that has ended in the meantime drops what is sent."""
        found: dict[tuple[str, Role], set[ControlPeer]] = defaultdict(set)
        for number, peer in enumerate(tuple(self._peers()), 1):
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            role = None if peer.role is None else _ROLES.get(peer.role)
            if role is not None:
                for name in {key.connection for key in peer.keys}:
                    if any(side is role for side, _ in self._of_connection.get(name, ())):
                        found[name, role].add(peer)
        return found

    def answered(
        self, address: str, instance: str, role: control.PeerRole | None, answer: control.UpdateKept
    ) -> None:
        """Note what a peer has done with an update. Answers that nobody has asked for are ignored."""
        name = answer.connection
        for (side, serial), machine in self._of_connection.get(name, {}).items():
            if machine.sequence != answer.sequence:
                continue
            if role is None or _ROLES.get(role) is not side:
                continue
            known = machine.answered(address, instance, answer.state, answer.detail)
            if known is not None and answer.state is not control.UpdateState.OTHER:
                self._events.publish(
                    UpdateAnswered(
                        connection=name,
                        peer=address,
                        instance=instance,
                        role=side.value,
                        serial=serial,
                        sequence=answer.sequence,
                        state=answer.state.value,
                        detail=answer.detail,
                    )
                )

    def snapshot(self, name: str) -> tuple[UpdateSnapshot, ...]:
        """Return who has the updates of a hybrid connection."""
        return tuple(
            UpdateSnapshot(
                role=side.value,
                serial=serial,
                sequence=machine.sequence,
                recipients=len(machine.recipients),
                kept=len(machine.recipients) - len(machine.missing),
                missing=tuple(map(_snapshot_of, machine.missing[:_MAX_LISTED])),
                is_crowded=machine.is_crowded,
            )
            for (side, serial), machine in self._of_connection.get(name, {}).items()
        )


def _snapshot_of(one: Recipient) -> RecipientSnapshot:
    return RecipientSnapshot(
        instance=one.instance,
        address=one.address,
        role=one.role,
        state="asked" if one.state is None else one.state.value,
        detail=one.detail,
        departed_at=one.departed_at,
    )
