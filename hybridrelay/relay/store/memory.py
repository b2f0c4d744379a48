"""A store in memory: for tests, and for programs that embed a relay and keep hybrid connections themselves."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import Self

import attrs

from ...errors import StateError
from ...security import KeySlot, Rule, Secret, generate_key
from ..model import HybridConnection, RelayRecord
from .store import check_new_key, name_is_taken, no_connection, no_rule, valid_hosts, valid_record

__all__ = ["MemoryStore"]


class MemoryStore:
    """Implements `Store`. Its content is gone when the process ends.

    Args:
        clock: seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._generations = itertools.count(1)
        self._changes = 0
        self._closed = False
        #: Replaced as a whole by every change: a snapshot never changes. In order of the names.
        self._connections: Mapping[str, HybridConnection] = MappingProxyType({})

    def close(self) -> None:
        """See `Store.close`."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- reading

    def data_version(self) -> int:
        """See `Store.data_version`."""
        self._read()
        return self._changes

    def snapshot(self) -> Mapping[str, HybridConnection]:
        """See `Store.snapshot`."""
        return self._read()

    def list(self) -> tuple[HybridConnection, ...]:
        """See `Store.list`."""
        return tuple(self._read().values())

    def get(self, name: str) -> HybridConnection:
        """See `Store.get`."""
        found = self._read().get(name)
        if found is None:
            raise no_connection(name, self._connections)
        return found

    def rule(self, name: str, rule: str) -> Rule:
        """See `Store.rule`."""
        known = self.get(name)
        found = known.rule(rule)
        if found is None:
            raise no_rule(known, rule)
        return found

    # --- changing

    def create(self, name: str, hosts: Iterable[str], rules: Iterable[Rule]) -> HybridConnection:
        """See `Store.create`."""
        return self.import_(valid_record(name, hosts, rules))

    def import_(self, record: RelayRecord) -> HybridConnection:
        """See `Store.import_`."""
        if record.name in self._read():
            raise name_is_taken(record.name)
        generations = {
            (rule.name, slot): next(self._generations)
            for rule in record.rules
            for slot in KeySlot
            if rule.key(slot) is not None
        }
        rules = tuple(sorted(record.rules, key=lambda rule: rule.name))
        return self._put(HybridConnection(record.name, record.hosts, rules, self._clock(), generations))

    def change_hosts(self, name: str, hosts: Iterable[str]) -> HybridConnection:
        """See `Store.change_hosts`."""
        checked = valid_hosts(hosts)
        return self._put(attrs.evolve(self.get(name), hosts=checked))

    def delete(self, name: str) -> None:
        """See `Store.delete`."""
        self.get(name)
        self._replace({key: one for key, one in self._connections.items() if key != name})

    def regenerate_key(
        self, name: str, rule: str, slot: KeySlot, key: Secret | None = None, *, known: Rule | None = None
    ) -> Secret:
        """See `Store.regenerate_key`."""
        key = generate_key() if key is None else key
        self._replace_key(name, rule, slot, key, known)
        return key

    def revoke_key(self, name: str, rule: str, slot: KeySlot) -> None:
        """See `Store.revoke_key`."""
        self._replace_key(name, rule, slot, None, None)

    def _replace_key(self, name: str, rule: str, slot: KeySlot, key: Secret | None, known: Rule | None) -> None:
        before = self.rule(name, rule)
        check_new_key(name, before, key, known)
        after = before.with_key(slot, key)
        connection = self._connections[name]
        generations = {where: number for where, number in connection.generations.items() if where != (rule, slot)}
        if key is not None:
            generations[rule, slot] = next(self._generations)
        rules = tuple(after if one.name == rule else one for one in connection.rules)
        self._put(attrs.evolve(connection, rules=rules, generations=generations))

    def _read(self) -> Mapping[str, HybridConnection]:
        if self._closed:
            raise StateError("the store is closed")
        return self._connections

    def _put(self, connection: HybridConnection) -> HybridConnection:
        self._replace({**self._connections, connection.name: connection})
        return connection

    def _replace(self, connections: Mapping[str, HybridConnection]) -> None:
        self._connections = MappingProxyType(dict(sorted(connections.items())))
        self._changes += 1
