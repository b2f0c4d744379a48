"""Changing the list of relays of a hybrid connection, in a relay's registry and in the files that contain it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs

from ..relay.model import RelayRecord
from ..relay.store.record import dump_relay_record
from .authority_content import relays_of
from .changes import TRY_AGAIN, FilesWritten, IncompleteChange, attempted, change_with_files, nothing, only_change_of
from .connections import read_authority_file
from .files_with_relays import FileWithRelays, read_file_with_relays
from .new_files import check_new_files
from .provisioning import pair_hosts_and_ports
from .registry import ConnectionInfo, Registry


@attrs.frozen
class ChangedRelays:
    """What `change_relays` did."""

    #: The hosts of the relays in the registry, before and after the change; None if only files were changed.
    before: tuple[str, ...] | None
    after: tuple[str, ...] | None
    updated: tuple[Path, ...]
    #: The first of the files, as it was before the change.
    first_file: FileWithRelays | None
    #: Set if not every file could be updated.
    incomplete: IncompleteChange | None


def change_relays(
    name: str,
    hosts: Sequence[str],
    *,
    registry: Registry | None = None,
    relay_file: Path | None = None,
    update: Sequence[Path] = (),
    pins: tuple[str, ...] | None = None,
    ports: Sequence[Mapping[str, int | None]] | None = None,
    before_change: Callable[[], None] = nothing,
) -> ChangedRelays:
    """Change which relays serve a hybrid connection. Its keys and identities stay the same.

    Args:
        name: the hybrid connection.
        hosts: the hosts of all relays that are to serve it, in order of preference.
        registry: the registry of a relay that already serves it; None changes only files.
        relay_file: a file to be created, for a new relay to import. Needs `registry`, which has the keys.
        update: connection string files and authority files, which get the new list.
        pins: the pins of all relays; None keeps those that are in each file.
        ports: the ports that differ from the defaults: one mapping for all relays, or one for each. None keeps the
            ports of relays that a file already names.
        before_change: see `change_with_files`.

    Raises:
        ConfigurationError: a host is not valid, the numbers of hosts and ports do not match, a file is for another
            hybrid connection, or there is no hybrid connection of this name. Nothing was changed.
        HybridRelayError: a file cannot be written, or is being changed by another process. Nothing was changed.
    """
    check_new_files([relay_file] if relay_file else [])
    with only_change_of(update):
        endpoints = pair_hosts_and_ports(hosts, ports or ())
        files = [read_file_with_relays(path, name) for path in update]
        texts = {file.path: file.with_relays(endpoints, pins, keep_ports=ports is None) for file in files}
        first = files[0] if files else None
        if registry is None:
            written = _change(nothing, before_change, texts, {})
            return ChangedRelays(None, None, written.updated, first, written.incomplete)
        after = tuple(one.host for one in endpoints)
        with attempted(lambda: registry.change(ConnectionInfo.missing(name), hosts=after)):
            known = registry.connection(name)
        written = _change(
            lambda: registry.change(known, hosts=after),
            before_change,
            texts,
            {relay_file: _dump_record(registry, known, after)} if relay_file else {},
        )
    return ChangedRelays(known.hosts, after, written.updated, first, written.incomplete)


def other_ports(
    registry: Registry, name: str, authority_path: Path
) -> tuple[Mapping[str, int | None], Mapping[str, int | None]] | None:
    """Compare the ports of a relay with those in an authority file, which new connection strings and claims get.

    Args:
        registry: the registry of the relay.
        name: the hybrid connection.
        authority_path: its authority file.

    Returns:
        If the file names exactly one relay, and other ports for it than this relay has: the ports in the file, and
        the ports of this relay. Otherwise None.

    Raises:
        ConfigurationError: the authority file cannot be read, or is damaged.
    """
    endpoints, _ = relays_of(read_authority_file(authority_path, name))
    if len(endpoints) != 1:
        return None  # it is not known which of them this relay is
    here = dict(registry.relay().ports)
    there = dict(endpoints[0].ports)
    return None if there == here else (there, here)


def _dump_record(registry: Registry, known: ConnectionInfo, hosts: tuple[str, ...]) -> str:
    """Make the content of a relay file, which contains all keys."""
    rules = [registry.rule_with_keys(known.name, rule.name) for rule in known.rules]
    return dump_relay_record(RelayRecord(known.name, hosts, rules))


def _change(
    change: Callable[[], object],
    before_change: Callable[[], None],
    replace: Mapping[Path, str],
    create: Mapping[Path, str],
) -> FilesWritten:
    return change_with_files(
        change,
        before_change=before_change,
        replace=replace,
        create=create,
        what="the list of relays was changed",
        remedy=f"{TRY_AGAIN} with --update",
    )
