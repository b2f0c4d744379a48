"""Deciding how a running program applies a changed configuration. Pure.

The rules:

1. New entries start. Removed entries stop: they accept nothing new, and their open connections may continue for the
   grace period.
2. Unchanged entries are not touched.
3. A connection string of the same hybrid connection, with the same identity, is used in place (`Update`).
4. With another identity, it replaces the earlier one (`Replace`): open connections continue without a time limit.
   An identity that the program itself has renewed replaces only the earlier identity (`Renew`).
5. A connection string for another hybrid connection counts as a new entry, and the earlier one as removed.
6. An entry whose connection string cannot be read now keeps the earlier one.
7. Everything that stops comes before everything that starts, because both may need the same name or address.
8. If two entries cannot be served together, there is no plan, and nothing changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import attrs

from ..._datagram_address import DatagramAddress
from ..._name_ports import NamePorts
from ..._unix_address import UnixAddress
from ..._value import Value
from ...connectivity import format_address
from ...errors import ConfigurationError
from ...security import ConnectionString, Identity, StringUpdate, update_string
from ..entries import Entry, Key, Listen, is_any_port

__all__ = ["Change", "Plan", "Renew", "Replace", "Running", "Start", "Step", "Stop", "Update", "Wanted", "make_plan"]


@attrs.frozen
class Running(Value):
    """A hybrid connection that is served now."""

    entry: Entry
    string: ConnectionString


@attrs.frozen
class Wanted(Value):
    """An entry of the new configuration."""

    entry: Entry
    #: Its connection string. None if the file cannot be used now; this is allowed only for an entry that is served.
    string: ConnectionString | None


@attrs.frozen
class Start(Value):
    """Begin to serve a hybrid connection."""

    entry: Entry
    string: ConnectionString


@attrs.frozen
class Stop(Value):
    """Stop serving a hybrid connection."""

    key: Key


@attrs.frozen
class Replace(Value):
    """Serve the same hybrid connection with another identity."""

    entry: Entry
    string: ConnectionString


@attrs.frozen
class Renew(Value):
    """Serve the same hybrid connection with a renewed identity, and otherwise with the connection string that its
    client uses: relays may have given it another key or other relays, which no file has. No file asks for this step,
    so it is in no plan of `make_plan`. A connector's identity is not renewed."""

    key: Key
    identity: Identity


@attrs.frozen
class Update(Value):
    """Use a changed connection string in place."""

    key: Key
    update: StringUpdate


@attrs.frozen
class Change(Value):
    """Use the changed settings of an entry in place."""

    entry: Entry


Step: TypeAlias = Start | Stop | Replace | Renew | Update | Change
#: The order of the steps in a plan.
_ORDER = (Stop, Replace, Renew, Change, Update, Start)


@attrs.frozen
class Plan(Value):
    """What is to be done, in this order."""

    steps: tuple[Step, ...]
    #: The entries that are not touched.
    unchanged: tuple[Key, ...]

    def for_running(self, running: Collection[Key]) -> Plan:
        """Return the part of the plan that is about entries which are served now. The others can wait."""
        return Plan(
            tuple(step for step in self.steps if not isinstance(step, Start) or step.entry.key in running),
            self.unchanged,
        )


def make_plan(running: Mapping[Key, Running], wanted: Sequence[Wanted]) -> Plan:
    """Decide how to apply a changed configuration.

    Args:
        running: what is served now, by the keys of the entries.
        wanted: the new configuration. Each key occurs once.

    Raises:
        ConfigurationError: two entries cannot be served together. The message says where they are.
    """
    _check_together([(one.entry, one.string or running[one.entry.key].string) for one in wanted])
    keys = {one.entry.key for one in wanted}
    steps: list[Step] = [Stop(key) for key in running if key not in keys]
    unchanged = []
    for one in wanted:
        found = list(_steps_for(running.get(one.entry.key), one))
        steps += found
        if not found:
            unchanged.append(one.entry.key)
    return Plan(tuple(sorted(steps, key=lambda step: _ORDER.index(type(step)))), tuple(unchanged))


def _steps_for(now: Running | None, wanted: Wanted) -> Iterable[Step]:
    entry, string = wanted.entry, wanted.string
    if now is None:
        assert string is not None
        yield Start(entry, string)
        return
    if string is not None and (string.entity_path, string.role) != (now.string.entity_path, now.string.role):
        yield Stop(entry.key)
        yield Start(entry, string)
        return
    if string is not None:
        update = update_string(now.string, string)
        if update.needs_restart:
            yield Replace(entry, string)
            return
        if update.taken_up:
            yield Update(entry.key, update)
    if entry != now.entry:
        yield Change(entry)


def _check_together(wanted: Iterable[tuple[Entry, ConnectionString]]) -> None:
    """Check that no two entries are for the same hybrid connection at the same relay, if they are a connector's, or
    have the same local address.

    Raises:
        ConfigurationError: see `make_plan`.
    """
    published: dict[tuple[str, str], Entry] = {}
    listening: dict[tuple[str, int] | DatagramAddress | UnixAddress, Entry] = {}
    for entry, string in wanted:
        for host in string.hosts if string.target is not None else ():
            other = published.setdefault((string.entity_path, host), entry)
            if other is not entry:
                files = f"{other.file} and {entry.file}"
                text = f"two connection strings are for {string.entity_path} at {host}: {files}"
                raise entry.error(ConfigurationError(text, remedy="leave one of them out"))
        for listen in entry.listen:
            for address in _each(listen):
                if address in listening:
                    shown = format_address(*address) if isinstance(address, tuple) else str(address)
                    text = f"{shown} is already a local address of {listening[address].file}"
                    remedy = "choose another port"
                    if isinstance(listen, NamePorts):
                        remedy = f"give one of them another local name: this one has {string.local_name}"
                    raise entry.error(ConfigurationError(text, remedy=remedy))
                listening[address] = entry


def _each(listen: Listen) -> Iterable[tuple[str, int] | DatagramAddress | UnixAddress]:
    """Return the addresses that nobody else may have."""
    if isinstance(listen, NamePorts):
        streams = [(listen.host, port) for port in listen.ports] if listen.protocols.has_streams else []
        datagrams = listen.ports if listen.protocols.has_datagrams else ()
        return [*streams, *(DatagramAddress(listen.host, port) for port in datagrams)]
    return () if is_any_port(listen) else (listen,)
