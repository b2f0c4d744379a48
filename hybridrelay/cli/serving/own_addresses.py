"""Gives each host name that is published its own local address, and checks names that fronts need. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from ..._own_address import OwnAddress, own_addresses
from ...errors import ConfigurationError
from ...security import ConnectionString, HostPort, HostTarget
from ..entries import Entry, Key
from .plan import Running, Wanted

__all__ = ["check_names_for_fronts", "with_own_addresses"]


def with_own_addresses(wanted: Sequence[Wanted], running: Mapping[Key, Running]) -> tuple[Wanted, ...]:
    """Replace `Entry.own_address` by the address, which is that of the host in the local name, and its port.

    Args:
        wanted: the configuration.
        running: what is served now, for entries whose connection string cannot be read.

    Raises:
        ConfigurationError: a connection string has no local name. The message says where.
    """
    names = {
        one.entry.key: _local_name(one.entry, one.string or running[one.entry.key].string)
        for one in wanted
        if one.entry.own_address
    }
    addresses = own_addresses(name.host for name in names.values())
    return tuple(
        attrs.evolve(one, entry=_with_address(one.entry, names[one.entry.key], addresses))
        if one.entry.own_address
        else one
        for one in wanted
    )


def check_names_for_fronts(wanted: Sequence[Wanted], running: Mapping[Key, Running]) -> None:
    """Check that fronts know which hybrid connection an application means, and that every one can be reached.

    Args:
        wanted, running: see `with_own_addresses`.

    Raises:
        ConfigurationError: two have the same local name, or one has neither a local name nor a port of its own. The
            message says where.
    """
    by_name: dict[HostTarget, Entry] = {}
    for one in wanted:
        entry, string = one.entry, one.string or running[one.entry.key].string
        name = string.local_name
        if name is None:
            if not entry.listen:
                text = f"{string.entity_path} cannot be reached by --socks or --http-proxy: it has no local name"
                raise entry.error(ConfigurationError(text, remedy=f"{_give_name(entry, string)}, or add --listen"))
        elif (other := by_name.setdefault(name, entry)) is not entry:
            text = f"{other.file} and {entry.file} have the same local name, {name}"
            remedy = f"leave one of them out, or {_give_name(entry, string)}"
            raise entry.error(ConfigurationError(text, remedy=remedy))


def _give_name(entry: Entry, string: ConnectionString) -> str:
    command = f"hybridrelay connections set-local-name {string.entity_path} --local-name HOST:PORT"
    return f"give it one: {command} --update {entry.file or 'FILE'}"


def _with_address(entry: Entry, name: HostTarget, addresses: Mapping[str, str]) -> Entry:
    first = name if isinstance(name, HostPort) else name.first
    own = OwnAddress(addresses[name.host], first.port)
    return attrs.evolve(entry, listen=(*entry.listen, own), own_address=False)


def _local_name(entry: Entry, string: ConnectionString) -> HostTarget:
    if string.local_name is None:
        text = (
            f"the connection string of {string.entity_path} has no local name, so it can have no address of its own"
        )
        raise entry.error(ConfigurationError(text, remedy=_give_name(entry, string)))
    return string.local_name
