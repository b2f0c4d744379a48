"""Gives each host name that is published its own local address. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from ..._own_address import OwnAddress, own_addresses
from ...errors import ConfigurationError
from ...security import ConnectionString, HostPort
from ..entries import Entry, Key
from .plan import Running, Wanted

__all__ = ["with_own_addresses"]


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


def _with_address(entry: Entry, name: HostPort, addresses: Mapping[str, str]) -> Entry:
    return attrs.evolve(entry, listen=(*entry.listen, OwnAddress(addresses[name.host], name.port)), own_address=False)


def _local_name(entry: Entry, string: ConnectionString) -> HostPort:
    if string.local_name is None:
        text = (
            f"the connection string of {string.entity_path} has no local name, so it can have no address of its own"
        )
        remedy = f"give it one: hybridrelay connections set-local-name {string.entity_path} --local-name HOST:PORT "
        raise entry.error(ConfigurationError(text, remedy=f"{remedy}--update {entry.file or 'FILE'}"))
    return string.local_name
