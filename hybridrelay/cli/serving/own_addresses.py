"""Gives each host name that is published its own local address, and checks names that fronts need. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from ..._datagram_address import DatagramAddress
from ..._name_ports import NamePorts
from ..._own_address import OWN_FORMS, EveryPort, own_addresses
from ...errors import ConfigurationError
from ...security import ConnectionString, HostPort, HostPorts, HostTarget, Protocols
from ..entries import ANYWHERE, Entry, Key
from .plan import Running, Wanted

__all__ = ["check_names_for_fronts", "with_own_addresses"]

#: What a user writes for an address of its own, by what is received there.
_OWN = {
    protocols: form
    for form, kinds in OWN_FORMS.items()
    for protocols in Protocols
    if kinds == (protocols.has_streams, protocols.has_datagrams)
}


def with_own_addresses(wanted: Sequence[Wanted], running: Mapping[Key, Running]) -> tuple[Wanted, ...]:
    """Replace `Entry.every_port` by addresses with the ports of the local name. ``own`` stands for the local address
    that the host of the local name gets here.

    If nothing was said about where an entry listens, it listens for what its target receives: streams, datagrams or
    both. If its local name has several ports, it listens as with ``own``, because a single free port cannot stand
    for all of them.

    Args:
        wanted: the configuration.
        running: what is served now, for entries whose connection string cannot be read.

    Raises:
        ConfigurationError: a connection string has no local name. The message says where.
    """
    wanted = [_with_default(one, _string_of(one, running)) for one in wanted]
    names = {
        one.entry.key: _local_name(one.entry, _string_of(one, running)) for one in wanted if one.entry.every_port
    }
    with_own = (one.entry.key for one in wanted if any(isinstance(each, str) for each in one.entry.every_port))
    addresses = own_addresses(names[key].host for key in with_own)
    return tuple(
        attrs.evolve(one, entry=_with_ports(one.entry, names[one.entry.key], addresses))
        if one.entry.every_port
        else one
        for one in wanted
    )


def _string_of(one: Wanted, running: Mapping[Key, Running]) -> ConnectionString:
    return one.string or running[one.entry.key].string


def _with_default(one: Wanted, string: ConnectionString) -> Wanted:
    if not one.entry.listens_by_default:
        return one
    protocols = string.protocols
    if isinstance(string.local_name, HostPorts):
        return attrs.evolve(one, entry=attrs.evolve(one.entry, listen=(), every_port=(_OWN[protocols],)))
    if protocols.has_datagrams:
        listen = DatagramAddress(*ANYWHERE, with_streams=protocols.has_streams)
        return attrs.evolve(one, entry=attrs.evolve(one.entry, listen=(listen,)))
    return one


def check_names_for_fronts(wanted: Sequence[Wanted], running: Mapping[Key, Running]) -> None:
    """Check that fronts know which hybrid connection an application means, and that every one can be reached.

    Args:
        wanted, running: see `with_own_addresses`.

    Raises:
        ConfigurationError: two have the same local name, or one has neither a local name nor a port of its own. The
            message says where.
    """
    by_name: dict[HostPort, Entry] = {}
    for one in wanted:
        entry, string = one.entry, _string_of(one, running)
        name = string.local_name
        if name is None:
            if not entry.listen:
                text = f"{string.entity_path} cannot be reached by --socks or --http-proxy: it has no local name"
                raise entry.error(ConfigurationError(text, remedy=f"{_give_name(entry, string)}, or add --listen"))
            continue
        for each in (name,) if isinstance(name, HostPort) else name.each:
            if (other := by_name.setdefault(each, entry)) is not entry:
                text = f"{other.file} and {entry.file} have the same local name, {each}"
                remedy = f"leave one of them out, or {_give_name(entry, string)}"
                raise entry.error(ConfigurationError(text, remedy=remedy))


def _give_name(entry: Entry, string: ConnectionString) -> str:
    command = f"hybridrelay connections set-local-name {string.entity_path} --local-name HOST:PORT"
    return f"give it one: {command} --update {entry.file or 'FILE'}"


def _with_ports(entry: Entry, name: HostTarget, addresses: Mapping[str, str]) -> Entry:
    found = []
    for one in entry.every_port:
        if isinstance(one, str):
            with_streams, with_datagrams = OWN_FORMS[one]
            one = EveryPort(addresses[name.host], with_streams, with_datagrams)
        found.append(NamePorts.every(one, name))
    return attrs.evolve(entry, listen=(*entry.listen, *found), every_port=())


def _local_name(entry: Entry, string: ConnectionString) -> HostTarget:
    if string.local_name is None:
        text = f"the connection string of {string.entity_path} has no local name, from which the ports are taken"
        raise entry.error(ConfigurationError(text, remedy=_give_name(entry, string)))
    return string.local_name
