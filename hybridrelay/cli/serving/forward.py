"""What a forward serves: a client for each hybrid connection, and its local ports.

A port belongs to one client at a time, and can be handed over to another one. Its listeners stay open in the
meantime, so that no application finds the port closed.
"""

# This module is long because starting, reloading and ending share the table of what is served.

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TypeAlias

import attrs
import trio

from ..._changing_listeners import change_listeners
from ..._datagram_address import DatagramAddress
from ..._name_ports import NamePorts
from ..._nursery import FlatNursery
from ..._unix_address import UnixAddress
from ...client import Client, ClientConfig, OpenPort, open_port
from ...client.ingress.fronts import Found
from ...connectivity.endpoint import format_address
from ...errors import ConfigurationError, DeniedByPolicy, HybridRelayError
from ...events.stream import EventStream
from ...security import ConnectionString, HostPort, HostPorts
from ...security.loading import naming
from ..entries import Entry, Key, Listen, is_any_port
from ..reloading import publish_not_reloaded
from ..running import GracefulStop
from .failures import LastLook
from .front_options import FrontOptions
from .fronts import FrontChange, Fronts
from .plan import Change, Plan, Renew, Replace, Running, Start, Step, Stop, Update, Wanted
from .served import LocalPort, Place, Served

__all__ = ["ForwardService"]

#: Ports that no client has, by the entry for which they were opened (None: any), and their place.
_Spare: TypeAlias = dict[tuple[Key | None, Place], "LocalPort"]


class ForwardService:
    """The hybrid connections of a forward. See `Service`.

    Args:
        make_config: makes the configuration of a client.
        events: the stream to which events are published.
        stop: the program's stop.
        last_look: see `LastLook`. Whoever calls `apply` or `refresh` excludes it in the meantime, so that nothing
            ends while a change is applied, unless the program stops.
    """

    def __init__(
        self,
        make_config: Callable[[ConnectionString], ClientConfig],
        events: EventStream,
        stop: GracefulStop,
        *,
        last_look: LastLook,
    ) -> None:
        self._make_config = make_config
        self._events = events
        self._stop = stop
        self._last_look = last_look
        self._served: dict[Key, Served] = {}
        #: What was stopped or replaced, and may still have open connections.
        self._ending: set[Served] = set()
        self._nursery: trio.Nursery | None = None
        self._fronts: tuple[str, ...] = ()

    @property
    def running(self) -> Mapping[Key, Running]:
        """See `Service.running`."""
        return {key: Running(served.entry, served.string) for key, served in self._served.items()}

    @property
    def clients(self) -> Iterable[Client]:
        """All clients that are open."""
        return [one.client for one in (*self._served.values(), *self._ending) if one.client is not None]

    @property
    def fields(self) -> Sequence[tuple[str, str]]:
        """See `Service.fields`."""
        found = []
        for one in self._served.values():
            listening, left_out = ((), ()) if one.client is None else (one.client.listening, one.client.left_out)
            found.append((one.string.entity_path, ",".join(listening)))
            if left_out:
                found.append((f"{one.string.entity_path}:left-out", ",".join(left_out)))
        return found

    def find(self, wanted: HostPort) -> Found | None:
        """Return what serves connections to a local name; None if no hybrid connection has it."""
        for one in self._served.values():
            if one.from_fronts is None or one.from_fronts.connections is None:
                continue
            match one.string.local_name:
                case HostPort() as name if name == wanted:
                    return Found(one.from_fronts.connections)
                case HostPorts(host, ports) if host == wanted.host and wanted.port in ports:
                    return Found(one.from_fronts.connections, wanted.port)
        return None

    def find_addresses(self, names: AbstractSet[str]) -> Mapping[str, Sequence[IPv4Address | IPv6Address]]:
        """Return the local addresses of those of `names` (in lower case) that are hosts of local names.

        They are reached from this machine: where a port listens on all addresses, it is the loopback address.
        """
        found: dict[str, dict[IPv4Address | IPv6Address, None]] = {}
        for one in self._served.values():
            local_name = one.string.local_name
            if local_name is not None and local_name.host in names:
                addresses = found.setdefault(local_name.host, {})
                for port in one.ports.values():
                    for host, _ in port.opened.bound:
                        address = ip_address(host.partition("%")[0])
                        loopback = ip_address("127.0.0.1" if address.version == 4 else "::1")
                        addresses[loopback if address.is_unspecified else address] = None
        return {name: list(addresses) for name, addresses in found.items()}

    def use_fronts(self, names: tuple[str, ...]) -> None:
        """Use other addresses of fronts from now on.

        Raises:
            DeniedByPolicy: the policy of the machine does not allow them. Nothing was changed.
        """
        changed: list[Served] = []
        try:
            for one in self._served.values():
                one.use_fronts(names)
                changed.append(one)
        except DeniedByPolicy:
            for one in changed:
                one.use_fronts(self._fronts)
            raise
        self._fronts = names

    async def run(
        self, wanted: Sequence[Wanted], *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until the program stops, or nothing is served any more.

        `task_status.started` is called when everything in `wanted` is served.

        Raises:
            ConfigurationError: a local address cannot be used.
            HybridRelayError: at the start, a relay refuses a connection string, or is not the expected one; or later,
                relays refuse the last one that is served.
        """
        try:
            async with FlatNursery() as self._nursery:
                for one in wanted:
                    assert one.string is not None
                    self._served[one.entry.key] = served = Served(one.entry, one.string)
                    for place in _places(one.entry):
                        served.ports[place] = await self._open(place)
                async with FlatNursery() as starting:
                    for served in list(self._served.values()):
                        starting.start_soon(self._nursery.start, self._run, served)
                task_status.started()
                await self._stop.event.wait()
                for served in (*self._served.values(), *self._ending):
                    served.end(self._stop.grace)
        finally:
            # What has not begun. Until all tasks have ended, one of them may still use the listeners.
            for served in self._served.values():
                served.close_ports()

    async def _open(self, place: Place, held: Collection[tuple[int, bool]] = ()) -> LocalPort:
        return LocalPort(await open_port(place[0], events=self._events, held=held))

    async def _run(self, served: Served, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve one hybrid connection until it ends."""
        await served.run(
            self._make_config,
            self._events,
            last_look=self._last_look,
            is_last=lambda: [*self._served.values()] == [served],
            forget=partial(self._forget, served),
            task_status=task_status,
        )

    def _forget(self, served: Served) -> None:
        served.close_ports()
        self._ending.discard(served)
        if self._served.get(served.entry.key) is served:
            del self._served[served.entry.key]

    # --- applying changes

    async def apply_with_fronts(self, plan: Plan, options: FrontOptions, fronts: Fronts) -> Sequence[Step]:
        """As `apply`, and use these fronts. If it raises, nothing was changed."""
        async with fronts.changing(options) as change:
            return await self.apply(plan, change)

    async def apply(self, plan: Plan, fronts: FrontChange | None = None) -> Sequence[Step]:
        """See `Service.apply`. `fronts`: the change of the fronts, which is made when nothing can fail any more."""
        wanted = {
            step.entry.key: _places(step.entry) for step in plan.steps if isinstance(step, Start | Replace | Change)
        }
        stopping = {step.key for step in plan.steps if isinstance(step, Stop)}
        spare = await self._open_missing(plan, wanted, stopping, _lend_nothing if fronts is None else fronts.lend)
        if fronts is not None:
            await fronts.make()
        for key in stopping:
            # Here and below: if it is missing, the program is stopping.
            if (ending := self._served.pop(key, None)) is not None:
                self._ending.add(ending)
                await self._give_up(ending, (), spare)
                ending.end(self._stop.grace)
        for step in plan.steps:
            if isinstance(step, Replace | Change) and (served := self._served.get(step.entry.key)) is not None:
                await self._give_up(served, wanted[step.entry.key], spare)
        done: list[Step] = [step for step in plan.steps if isinstance(step, Stop)]

        async def take(step: Step) -> None:
            if await self._take(step, spare):
                done.append(step)

        async with trio.open_nursery() as taking:
            for step in plan.steps:
                taking.start_soon(take, step)
        for port in spare.values():
            port.close()
        return done

    def refresh(self, keys: Iterable[Key]) -> None:
        """See `Service.refresh`."""
        for key in keys:
            served = self._served.get(key)
            if served is not None and served.client is not None:
                try:
                    with naming(key[0]):
                        served.client.refresh()
                except ConfigurationError as exc:
                    publish_not_reloaded(exc)

    async def _open_missing(
        self,
        plan: Plan,
        wanted: Mapping[Key, Sequence[Place]],
        stopping: Collection[Key],
        lend: Callable[[Listen], OpenPort | None],
    ) -> _Spare:
        """Open the ports that no client has. `lend` returns those of fronts that go away. Those of an address with
        several ports that are already open, and will be given up, are taken over later (`_ports_for`). Ports that
        are given up, and that nothing takes over, are closed: only then can the same port be opened in another form.

        Raises:
            ConfigurationError: one of them cannot be opened. None is open, and what was closed is open again.
        """
        kept = {key: () if key in stopping else tuple(served.ports) for key, served in self._served.items()}
        free = {
            place
            for key, served in self._served.items()
            for place in served.ports
            if key in stopping or (key in wanted and place not in wanted[key])
        }
        found: _Spare = {}
        missing: dict[tuple[Key, Place], Entry] = {}
        for step in plan.steps:
            if not isinstance(step, Start | Replace | Change):
                continue
            for place in wanted[step.entry.key]:
                if place not in kept.get(step.entry.key, ()) and (place not in free or is_any_port(place[0])):
                    if (lent := lend(place[0])) is not None:
                        found[step.entry.key, place] = LocalPort(lent)
                    else:
                        missing[step.entry.key, place] = step.entry
        gone = self._gone(free, {place for places in wanted.values() for place in places})
        current = {use: self._served[use[0]].ports[use[1]] for use in gone}

        async def open_one(use: tuple[Key, Place]) -> LocalPort:
            if (served := gone.get(use)) is not None:
                return await self._reopen(served, use[1])
            given_up = [port for key in self._served for port in self._given_up(key, free)]
            try:
                return await self._open(use[1], _held_at(use[1][0], given_up))
            except ConfigurationError as exc:
                raise missing[use].error(exc) from exc.__cause__ or exc

        try:
            await change_listeners(
                current,
                missing,
                open=open_one,
                close=LocalPort.end,
                may_exclude=lambda port, use: _may_exclude(port.opened, use[1][0]),
                describe=lambda use: _text_of(use[1][0]),
            )
        except BaseException:
            for use, port in current.items():
                if use in missing:
                    port.close()
            raise
        return {**found, **{(key, place): port for (key, place), port in current.items()}}

    def _gone(self, free: Collection[Place], wanted: Collection[Place]) -> dict[tuple[Key, Place], Served]:
        """Return the ports that will be given up, and that nothing takes over, and what has them now."""
        addresses = [address for address, _ in wanted]
        return {
            (key, place): served
            for key, served in self._served.items()
            for place, port in served.ports.items()
            if place in free
            and place not in wanted
            and not any(_held_at(address, [port.opened]) for address in addresses)
        }

    async def _reopen(self, served: Served, place: Place) -> LocalPort:
        """Open a port again that was closed for another one, and accept connections there.

        Raises:
            ConfigurationError: it cannot be opened. The next reload tries it again.
        """
        port = served.ports.get(place)
        try:
            opened = await self._open(place)
        except ConfigurationError:
            if served.ports.pop(place, None) is not None:
                served.entry = _with_ports_of(served, served.entry)
            raise
        if port is None or served.is_over:  # the program is stopping
            opened.close()
            return opened
        port.opened = opened.opened
        await served.add(place, port)
        return port

    def _given_up(self, key: Key, free: Collection[Place]) -> Iterable[OpenPort]:
        """Return the ports of an entry that will be given up."""
        return [port.opened for place, port in self._served[key].ports.items() if place in free]

    async def _give_up(self, served: Served, keeps: Collection[Place], spare: _Spare) -> None:
        """Take away the ports that an entry no longer has. Their open connections continue."""
        for place in [place for place in served.ports if place not in keeps]:
            if (port := served.ports.pop(place, None)) is not None:
                served.entry = _with_ports_of(served, served.entry)
                spare[None, place] = port
                await port.release(math.inf)

    async def _take(self, step: Step, spare: _Spare) -> bool:
        """Take one step. Returns whether it succeeded. If not, that was reported, or the program is stopping."""
        try:
            match step:
                case Start(entry, string):
                    served = Served(entry, string, fronts=self._fronts)
                    served.ports.update(_ports_for(entry, served, spare))
                    self._served[entry.key] = served
                    await self._start(served)
                case Replace(entry, string):
                    if (earlier := self._served.get(entry.key)) is None:
                        return False
                    if earlier.client is None:  # its last client has failed, or its first one is not open yet
                        earlier.use(string)
                    else:
                        await self._replace(earlier, Served(earlier.entry, string, fronts=self._fronts))
                    await self._add(entry, spare)
                case Renew(key, identity):
                    if (renewing := self._served.get(key)) is None or renewing.client is None:
                        return False  # it is tried again, unless it has ended by then
                    # `Served.string` stays what was read, with which the next reload compares what it reads.
                    read = attrs.evolve(renewing.string, identity=identity)
                    used = attrs.evolve(renewing.client.connection_string, identity=identity)
                    origin = renewing.client.keeper.origin
                    renewed = Served(renewing.entry, read, next_string=used, origin=origin, fronts=self._fronts)
                    await self._replace(renewing, renewed)
                case Change(entry):
                    await self._add(entry, spare)
                case Update(key, update):
                    if (updating := self._served.get(key)) is None:
                        return False
                    with naming(key[0]):
                        updating.update(update.string)
                case Stop():
                    return False  # has been taken
        except HybridRelayError as exc:
            if isinstance(step, Start | Replace):
                named = ConfigurationError(f"{step.entry.file}: {exc}", remedy=exc.remedy)
                publish_not_reloaded(step.entry.error(named))
            elif isinstance(step, Renew):
                name = step.identity.details.name.connection_name
                text = f"the renewed identity of {name} cannot be used yet: {exc}"
                publish_not_reloaded(ConfigurationError(text, remedy=exc.remedy))
            else:
                publish_not_reloaded(exc)
            return False
        return True

    async def _start(self, served: Served) -> None:
        assert self._nursery is not None
        await self._nursery.start(self._run, served)

    async def _replace(self, earlier: Served, served: Served) -> None:
        """Serve a hybrid connection with another client. It gets the ports of the earlier one, whose open connections
        continue.

        Raises:
            HybridRelayError: it cannot start, and the earlier one continues; or the policy of the machine does not
                allow one of the ports, which is closed.
        """
        self._ending.add(served)  # so that it ends if the program stops in the meantime
        await self._start(served)
        self._ending.discard(served)
        self._ending.add(earlier)
        self._served[served.entry.key] = served
        try:
            await served.take_ports(earlier)
        finally:
            served.entry = _with_ports_of(served, served.entry)
            earlier.end(math.inf)

    async def _add(self, entry: Entry, spare: _Spare) -> None:
        """Use the changed settings of an entry, and accept connections at the ports that it has in addition.

        Raises:
            DeniedByPolicy: the policy of the machine does not allow one of them. It is closed.
        """
        if (served := self._served.get(entry.key)) is not None:
            try:
                for place, port in _ports_for(entry, served, spare):
                    await served.add(place, port)
            finally:
                served.entry = _with_ports_of(served, entry)


def _lend_nothing(address: Listen) -> None:
    return None


def _places(entry: Entry) -> tuple[Place, ...]:
    seen: Counter[Listen] = Counter()
    places = []
    for address in entry.listen:
        places.append((address, seen[address]))
        seen[address] += 1
    return tuple(places)


def _with_ports_of(served: Served, entry: Entry) -> Entry:
    """Return an entry with only those of its addresses that are open, so that the next reload opens the others."""
    return attrs.evolve(entry, listen=tuple(place[0] for place in _places(entry) if place in served.ports))


def _ports_for(entry: Entry, served: Served, spare: _Spare) -> Iterator[tuple[Place, LocalPort]]:
    """Take the ports that an entry has in addition from the spare ones, one after the other."""
    for place in _places(entry):
        own: tuple[Key | None, Place] = entry.key, place
        if place in served.ports or (port := spare.pop(own if own in spare else (None, place), None)) is None:
            continue
        if isinstance(place[0], NamePorts):
            for (_, (address, _)), other in spare.items():
                if isinstance(address, NamePorts) and address.host == place[0].host:
                    port.opened.take_from(other.opened, place[0])
        yield place, port


def _text_of(address: Listen) -> str:
    return format_address(*address) if isinstance(address, tuple) else str(address)


def _may_exclude(port: OpenPort, address: Listen) -> bool:
    """Return whether an open port may be the reason why an address cannot be opened."""
    match address:
        case UnixAddress(path):
            return port.file is not None and port.file.path == Path(path)
        case NamePorts(ports=numbers):
            return any(number in numbers for _, number in port.bound)
        case DatagramAddress(port=number) | (_, number):
            return any(used == number for _, used in port.bound)


def _held_at(address: Listen, ports: Iterable[OpenPort]) -> Collection[tuple[int, bool]]:
    """Return which ports of an address, and whether for datagrams, `OpenPort.take_from` can take from others."""
    if not isinstance(address, NamePorts):
        return ()
    bound = {one for port in ports for one in port.taken_from_here}
    return {
        (port, datagrams)
        for port in address.ports
        for datagrams in (False, True)
        if (address.host, port, datagrams) in bound
    }
