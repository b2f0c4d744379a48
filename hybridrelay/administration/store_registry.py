"""Administering a relay through its store."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from ..errors import ConfigurationError
from ..relay.claims import Claim
from ..relay.model import RelayRecord
from ..relay.quotas import Edition, Editions, Limits, Quota
from ..relay.store.checks import name_is_taken
from ..relay.store.public_ports import load_public_ports
from ..relay.store.sqlite import SQLiteStore
from ..relay.store.state_dir import REGISTRY_FILE
from ..relay.store.store import Store
from ..relay.updates import StoredUpdate
from ..security import (
    ClaimKeys,
    KeySlot,
    ManagementRole,
    ManagementToken,
    Right,
    Rule,
    Secret,
    generate_management_token,
    load_or_create_relay_certificate,
    relay_pin,
)
from .registry import ClaimInfo, ConnectionInfo, RelayDescription, RollInfo, RuleInfo, TokenInfo, UpdateInfo

__all__ = ["StoreRegistry", "add_token", "describe_relay"]


def describe_relay(state_dir: Path) -> RelayDescription:
    """Describe the relay that uses a state directory.

    Raises:
        ConfigurationError: a file in the directory is damaged.
    """
    certificate = state_dir / "relay.pem"
    return RelayDescription(relay_pin(certificate) if certificate.exists() else None, load_public_ports(state_dir))


def add_token(
    store: Store, name: str, role: ManagementRole, *, scope: str, seconds: float, now: float
) -> tuple[ManagementToken, Secret]:
    """Create a token in a store. See `Registry.create_token`."""
    try:
        token, text = generate_management_token(name, role, scope=scope, now=now, seconds=seconds)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None
    store.add_token(token)
    return token, text


class StoreRegistry:
    """Implements `Registry` on a store. Close it, or use it in a `with` statement.

    Args:
        store: the store, which is not closed with this object. None opens the store of `state_dir` when it is needed.
        state_dir: the relay's state directory.
        create: whether the state directory and its store are created, if they are missing, when the store is used;
            `find` does not create them.
    """

    def __init__(self, store: Store | None = None, *, state_dir: Path | None = None, create: bool = False) -> None:
        self._given = store
        self._state_dir = state_dir
        self._create = create
        self._opened: Store | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store, if this object has opened it. Idempotent."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _store(self) -> Store:
        if self._given is not None:
            return self._given
        if self._opened is None:
            assert self._state_dir is not None
            self._opened = SQLiteStore.open(self._state_dir, create=self._create)
        return self._opened

    # --- reading

    def relay(self) -> RelayDescription:
        """See `Registry.relay`."""
        return RelayDescription(None, {}) if self._state_dir is None else describe_relay(self._state_dir)

    def connections(self) -> tuple[ConnectionInfo, ...]:
        """See `Registry.connections`."""
        return tuple(map(ConnectionInfo.of, self._store.list()))

    def find(self, name: str) -> ConnectionInfo | None:
        """See `Registry.find`. Creates nothing."""
        if self._create and self._state_dir is not None and not (self._state_dir / REGISTRY_FILE).exists():
            return None
        return ConnectionInfo.of(self._store.get(name)) if self._store.exists(name) else None

    def connection(self, name: str) -> ConnectionInfo:
        """See `Registry.connection`."""
        return ConnectionInfo.of(self._store.get(name))

    def rule_with_keys(self, name: str, rule: str) -> Rule:
        """See `Registry.rule_with_keys`."""
        return self._store.rule(name, rule)

    def tokens(self) -> tuple[TokenInfo, ...]:
        """See `Registry.tokens`."""
        return tuple(map(TokenInfo.of, self._store.tokens()))

    def editions(self) -> Editions:
        """See `Registry.editions`."""
        return self._store.editions()

    def limits_in_force(self, name: str) -> Limits:
        """See `Registry.limits_in_force`."""
        return self._store.editions().limits(self._store.get(name).quota)

    def claims(self, name: str) -> tuple[ClaimInfo, ...]:
        """See `Registry.claims`."""
        return tuple(ClaimInfo.of(claim, time.time()) for claim in self._store.claims(name))

    def roll(self, name: str, rule: str) -> RollInfo | None:
        """See `Registry.roll`. No relay runs, so nothing is known of programs."""
        found = self._store.get(name).roll(rule)
        return None if found is None else RollInfo(found.slot, found.started_at, found.ends_at, found.waits)

    def updates(self, name: str) -> tuple[UpdateInfo, ...]:
        """See `Registry.updates`. No relay runs, so nothing is known of programs."""
        return tuple(
            UpdateInfo(one.role.value, one.serial, one.sequence, one.note, one.created_at, one.expires_at)
            for one in self._store.updates(name)
        )

    # --- changing

    def prepare(self, *, now: float) -> RelayDescription:
        """See `Registry.prepare`."""
        if self._state_dir is not None:
            _ = self._store  # creates the directory, with the right permissions
            load_or_create_relay_certificate(self._state_dir, now=now)
        return self.relay()

    def import_(self, record: RelayRecord) -> None:
        """See `Registry.import_`."""
        self._store.import_(record)

    def refuse_import(self, known: ConnectionInfo) -> None:
        """See `Registry.refuse_import`."""
        raise name_is_taken(known.name)

    def change(
        self,
        known: ConnectionInfo,
        *,
        hosts: Iterable[str] | None = None,
        disabled: bool | None = None,
        quota: Quota | None = None,
    ) -> None:
        """See `Registry.change`."""
        self._store.change(known.name, hosts=hosts, disabled=disabled, quota=quota, version=known.version)

    def change_edition(self, known: Edition, *, connections: int | None, limits: Limits) -> Edition:
        """See `Registry.change_edition`."""
        return self._store.change_edition(known.name, connections, limits, version=known.version)

    def use_edition(self, name: str) -> None:
        """See `Registry.use_edition`."""
        self._store.use_edition(name)

    def put_rule(self, known: ConnectionInfo, rule: str, rights: Iterable[Right]) -> RuleInfo:
        """See `Registry.put_rule`."""
        return ConnectionInfo.of(self._store.put_rule(known.name, rule, rights, version=known.version)).rule(rule)

    def delete_rule(self, known: ConnectionInfo, rule: str) -> None:
        """See `Registry.delete_rule`."""
        self._store.delete_rule(known.name, rule, version=known.version)

    def delete(self, known: ConnectionInfo) -> None:
        """See `Registry.delete`."""
        self._store.delete(known.name, version=known.version)

    def regenerate_key(self, name: str, rule: str, slot: KeySlot, key: Secret, *, generation: int) -> None:
        """See `Registry.regenerate_key`."""
        self._store.regenerate_key(name, rule, slot, key, generation=generation)

    def roll_key(
        self, name: str, rule: str, slot: KeySlot, key: Secret, *, generation: int, seconds: float, waits: bool
    ) -> None:
        """See `Registry.roll_key`."""
        self._store.roll_key(name, rule, slot, key, generation=generation, seconds=seconds, waits=waits)

    def revoke_key(self, name: str, rule: str, slot: KeySlot, *, generation: int) -> None:
        """See `Registry.revoke_key`."""
        self._store.revoke_key(name, rule, slot, generation=generation)

    def create_token(
        self, name: str, role: ManagementRole, *, scope: str, seconds: float, now: float
    ) -> tuple[TokenInfo, Secret]:
        """See `Registry.create_token`."""
        token, text = add_token(self._store, name, role, scope=scope, seconds=seconds, now=now)
        return TokenInfo.of(token), text

    def delete_token(self, id_: str) -> None:
        """See `Registry.delete_token`."""
        self._store.delete_token(id_)

    def add_claim(
        self, name: str, keys: ClaimKeys, sealed: bytes, *, seconds: float, note: str, now: float
    ) -> ClaimInfo:
        """See `Registry.add_claim`."""
        try:
            claim = Claim(keys.id, name, keys.proof_digest, sealed, now, now + seconds, note)
        except ValueError as exc:
            raise ConfigurationError(str(exc)) from None
        self._store.add_claim(claim)
        return ClaimInfo.of(claim, now)

    def revoke_claim(self, name: str, id_: str) -> None:
        """See `Registry.revoke_claim`."""
        self._store.revoke_claim(name, id_)

    def push_update(self, update: StoredUpdate) -> None:
        """See `Registry.push_update`."""
        self._store.put_update(update)
