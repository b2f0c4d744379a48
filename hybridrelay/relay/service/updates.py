"""Gives updates to the programs that they are for, as `core.updates` decides, over the control channels of this
relay."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Callable, Iterable

import trio

from ..._threads import run_in_thread
from ...errors import StateError
from ...events.relay_changes import UpdateAnswered
from ...events.stream import EventStream
from ...protocol import control
from ...security import Role
from ..core.updates import Distribution, Recipient
from ..snapshot import RecipientSnapshot, UpdateSnapshot
from ..store.store import Store
from ..updates import StoredUpdate
from .broker import BrokerService
from .control import ControlPeer

__all__ = ["UpdateService"]

#: How often control channels are looked at while there are updates (seconds).
_LOOK_SECONDS = 2.0
#: How many control channels are looked at before other tasks run.
_AT_ONCE = 200
#: How many programs without the update a snapshot lists.
_MAX_LISTED = 100

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
        self._updates: dict[tuple[str, Role, str], StoredUpdate] = {}
        self._machines: dict[tuple[str, Role, str], Distribution[ControlPeer]] = {}
        #: The same machines by hybrid connection, for what is about only one of them.
        self._of_connection: dict[str, dict[tuple[Role, str], Distribution[ControlPeer]]] = {}
        #: The content of the store when `_updates` was read.
        self._known: object = None

    async def run(self) -> None:
        """Distribute updates until cancelled."""
        while True:
            await self._read()
            if self._updates:
                await self._look()
            await trio.sleep(_LOOK_SECONDS)

    async def _read(self) -> None:
        """Read the updates again if the store has changed."""
        connections = self._broker.authorization.connections
        if connections is self._known:
            return
        try:
            updates = await run_in_thread(self._store.updates, limiter=self._limiter)
        except StateError:
            return  # the watcher of the registry has published this already; it is tried again
        self._known = connections
        self._updates = {one.recipients: one for one in updates}
        machines: dict[tuple[str, Role, str], Distribution[ControlPeer]] = {}
        for at, update in self._updates.items():
            machine = self._machines.get(at)
            if machine is None or machine.sequence != update.sequence:
                machine = Distribution(update.sequence, machine)
            machines[at] = machine
        self._machines = machines
        self._of_connection = {}
        for (name, side, serial), machine in machines.items():
            self._of_connection.setdefault(name, {})[side, serial] = machine

    async def _look(self) -> None:
        time_of_day = self._clock()
        channels = await self._channels()
        for at, machine in self._machines.items():
            update = self._updates[at]
            channels_of_update = channels[update.connection, update.role]
            outputs = machine.observe(channels_of_update, trio.current_time(), time_of_day=time_of_day)
            if time_of_day < update.expires_at:
                document = base64.b64encode(update.document).decode("ascii")
                for output in outputs:
                    output.channel.give(control.Update(update.connection, update.sequence, document))
            await trio.lowlevel.checkpoint()

    async def _channels(self) -> dict[tuple[str, Role], set[ControlPeer]]:
        """Return the control channels of programs that may be recipients. There may be thousands, so this lets other
        tasks run in between. A channel that has ended in the meantime drops what is sent."""
        found: dict[tuple[str, Role], set[ControlPeer]] = defaultdict(set)
        wanted = {(connection, role) for connection, role, _ in self._updates}
        for number, peer in enumerate(tuple(self._peers()), 1):
            if number % _AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            role = None if peer.role is None else _ROLES.get(peer.role)
            if role is not None:
                for key in peer.keys:
                    if (key.connection, role) in wanted:
                        found[key.connection, role].add(peer)
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
