"""A store in memory: for tests, and for programs that embed a relay and manage hybrid connections themselves."""

# This module is long because one class implements all of `Store`.

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import Self

import attrs

from ...errors import StateError
from ...security import KeySlot, ManagementToken, Right, Role, Rule, Secret, generate_key
from ..claims import Claim, ClaimState, OpenClaim, Take, decide_take, to_forget
from ..model import NO_DESCRIPTION, Description, HybridConnection, KeyRoll, RelayRecord
from ..quotas import NO_QUOTA, PRESETS, Edition, Editions, Limits, Quota
from ..updates import StoredUpdate
from .changes import KEPT_DELETIONS, Changes, Mark
from .checks import (
    changed_edition,
    check_edition,
    check_generation,
    check_new_claim,
    check_new_connection,
    check_new_key,
    check_new_roll,
    check_new_token,
    check_new_update,
    check_version,
    name_is_taken,
    no_claim,
    no_connection,
    no_rule,
    no_token,
    valid_hosts,
    valid_record,
    with_rule,
    without_rule,
)

__all__ = ["MemoryStore"]


class MemoryStore:
    """Implements `Store`. Its content is lost when the process ends.

    Args:
        clock: returns seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._generations = itertools.count(1)
        self._changes = 0
        self._closed = False
        #: Sorted by name. Every change replaces it, so that a snapshot never changes.
        self._connections: Mapping[str, HybridConnection] = MappingProxyType({})
        #: The names of the latest hybrid connections that were deleted, and how many were deleted.
        self._deleted: deque[str] = deque(maxlen=KEPT_DELETIONS)
        self._deletions = 0
        self._tokens: dict[str, ManagementToken] = {}
        self._editions = Editions(PRESETS)
        self._claims: dict[str, Claim] = {}
        self._updates: dict[tuple[str, Role, str], StoredUpdate] = {}

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

    def changes(self, since: Mark | None, limit: int) -> Changes:
        """See `Store.changes`."""
        everything = tuple(self._read().values())
        now = Mark(self._changes, self._deletions)
        if since is None or self._deletions - since.deletion > len(self._deleted):
            return Changes(everything, (), now, is_everything=True)
        changed = sorted((one for one in everything if one.version > since.version), key=lambda one: one.version)
        deleted = list(self._deleted)[len(self._deleted) - (self._deletions - since.deletion) :]
        names = {one.name: one for one in changed[:limit]} | {
            name: self._connections.get(name) for name in deleted[:limit]
        }
        return Changes(
            tuple(one for one in names.values() if one is not None),
            tuple(name for name, one in names.items() if one is None),
            Mark(
                changed[limit - 1].version if len(changed) > limit else now.version,
                min(since.deletion + limit, now.deletion),
            ),
            has_more=len(changed) > limit or len(deleted) > limit,
        )

    def list(self, *, after: str = "", prefix: str = "", limit: int | None = None) -> tuple[HybridConnection, ...]:
        """See `Store.list`."""
        found = (one for one in self._read().values() if one.name > after and one.name.startswith(prefix))
        return tuple(itertools.islice(found, limit))

    def disabled_by_name(self, *, after: str = "", prefix: str = "", limit: int | None = None) -> Mapping[str, bool]:
        """See `Store.disabled_by_name`."""
        return {one.name: one.disabled for one in self.list(after=after, prefix=prefix, limit=limit)}

    def exists(self, name: str) -> bool:
        """See `Store.exists`."""
        return name in self._read()

    def count(self, prefix: str = "") -> int:
        """See `Store.count`."""
        return sum(name.startswith(prefix) for name in self._read())

    def created_at_by_name(self, prefix: str = "") -> Mapping[str, float]:
        """See `Store.created_at_by_name`."""
        return {one.name: one.created_at for one in self.list(prefix=prefix)}

    def get(self, name: str) -> HybridConnection:
        """See `Store.get`."""
        found = self._read().get(name)
        if found is None:
            raise no_connection(name, self._connections, len(self._connections))
        return found

    def rule(self, name: str, rule: str) -> Rule:
        """See `Store.rule`."""
        known = self.get(name)
        found = known.rule(rule)
        if found is None:
            raise no_rule(name, rule, [one.name for one in known.rules])
        return found

    def tokens(self) -> tuple[ManagementToken, ...]:
        """See `Store.tokens`."""
        self._read()
        return tuple(sorted(self._tokens.values(), key=lambda token: token.name))

    def token(self, id_: str) -> ManagementToken | None:
        """See `Store.token`."""
        self._read()
        return self._tokens.get(id_)

    def scope_of(self, name: str) -> str:
        """See `Store.scope_of`."""
        self._read()
        return max((one.scope for one in self._tokens.values() if name.startswith(one.scope)), key=len, default="")

    def editions(self) -> Editions:
        """See `Store.editions`."""
        self._read()
        return self._editions

    def open_claims(self) -> tuple[OpenClaim, ...]:
        """See `Store.open_claims`."""
        self._read()
        now = self._clock()
        found = [
            OpenClaim(claim.id, claim.connection, claim.created_at, claim.expires_at, claim.note)
            for claim in self._claims.values()
            if claim.state(now) is ClaimState.OPEN
        ]
        return tuple(sorted(found, key=lambda claim: (claim.expires_at, claim.id)))

    def claims(self, name: str) -> tuple[Claim, ...]:
        """See `Store.claims`."""
        self.get(name)
        found = [claim for claim in self._claims.values() if claim.connection == name]
        return tuple(sorted(found, key=lambda claim: (-claim.created_at, claim.id)))

    def updates(self, name: str | None = None) -> tuple[StoredUpdate, ...]:
        """See `Store.updates`."""
        self._read()
        if name is not None:
            self.get(name)
        return tuple(one for at, one in sorted(self._updates.items()) if name in (None, at[0]))

    def updates_of(self, names: Collection[str]) -> tuple[StoredUpdate, ...]:
        """See `Store.updates_of`."""
        self._read()
        return tuple(one for at, one in sorted(self._updates.items()) if at[0] in names)

    # --- changing

    def create(
        self,
        name: str,
        hosts: Iterable[str],
        rules: Iterable[Rule],
        description: Description = NO_DESCRIPTION,
        *,
        disabled: bool = False,
        quota: Quota = NO_QUOTA,
    ) -> HybridConnection:
        """See `Store.create`."""
        return self._add(valid_record(name, hosts, rules), description, quota, disabled=disabled)

    def import_(self, record: RelayRecord, description: Description = NO_DESCRIPTION) -> HybridConnection:
        """See `Store.import_`."""
        return self._add(record, description, NO_QUOTA, disabled=False)

    def _add(
        self, record: RelayRecord, description: Description, quota: Quota, *, disabled: bool
    ) -> HybridConnection:
        if record.name in self._read():
            raise name_is_taken(record.name)
        check_new_connection(self._editions, len(self._connections))
        check_edition(self._editions, quota.edition)
        rules = tuple(sorted(record.rules, key=lambda rule: rule.name))
        generations = self._new_generations(rules)
        created = HybridConnection(record.name, record.hosts, rules, self._clock(), generations, description)
        return self._put(attrs.evolve(created, disabled=disabled, quota=quota))

    def change(
        self,
        name: str,
        *,
        description: Description | None = None,
        hosts: Iterable[str] | None = None,
        disabled: bool | None = None,
        quota: Quota | None = None,
        version: int | None = None,
    ) -> HybridConnection:
        """See `Store.change`."""
        checked = None if hosts is None else valid_hosts(hosts)
        known = self._get(name, version)
        if quota is not None:
            check_edition(self._editions, quota.edition)
        return self._put(
            attrs.evolve(
                known,
                description=known.description if description is None else description,
                hosts=known.hosts if checked is None else checked,
                disabled=known.disabled if disabled is None else disabled,
                quota=known.quota if quota is None else quota,
            )
        )

    def change_edition(
        self, name: str, connections: int | None, limits: Limits, *, version: int | None = None
    ) -> Edition:
        """See `Store.change_edition`."""
        changed = changed_edition(self.editions(), name, connections, limits, version)
        self._editions = attrs.evolve(self._editions, by_name={**self._editions.by_name, name: changed})
        self._changes += 1
        return changed

    def use_edition(self, name: str) -> Editions:
        """See `Store.use_edition`."""
        check_edition(self.editions(), name)
        self._editions = attrs.evolve(self._editions, in_use=name)
        self._changes += 1
        return self._editions

    def put_rule(
        self, name: str, rule: str, rights: Iterable[Right], *, version: int | None = None
    ) -> HybridConnection:
        """See `Store.put_rule`."""
        known = self._get(name, version)
        rules = with_rule(known, rule, rights)
        generations = dict(known.generations)
        if known.rule(rule) is None:
            generations |= self._new_generations(one for one in rules if one.name == rule)
        return self._put(attrs.evolve(known, rules=rules, generations=generations))

    def delete_rule(self, name: str, rule: str, *, version: int | None = None) -> HybridConnection:
        """See `Store.delete_rule`."""
        known = self._get(name, version)
        rules = without_rule(known, rule)
        generations = {where: number for where, number in known.generations.items() if where[0] != rule}
        rolls = tuple(roll for roll in known.rolls if roll.rule != rule)
        return self._put(attrs.evolve(known, rules=rules, generations=generations, rolls=rolls))

    def delete(self, name: str, *, version: int | None = None) -> None:
        """See `Store.delete`."""
        self._get(name, version)
        self._claims = {claim_id: one for claim_id, one in self._claims.items() if one.connection != name}
        self._updates = {at: one for at, one in self._updates.items() if one.connection != name}
        self._replace({key: one for key, one in self._connections.items() if key != name})
        self._deleted.append(name)
        self._deletions += 1

    def regenerate_key(
        self,
        name: str,
        rule: str,
        slot: KeySlot,
        key: Secret | None = None,
        *,
        generation: int | None = None,
    ) -> Secret:
        """See `Store.regenerate_key`."""
        key = generate_key() if key is None else key
        self._replace_key(name, rule, slot, key, generation)
        return key

    def roll_key(
        self,
        name: str,
        rule: str,
        slot: KeySlot,
        key: Secret | None = None,
        *,
        seconds: float,
        waits: bool = False,
        generation: int | None = None,
    ) -> Secret:
        """See `Store.roll_key`."""
        key = generate_key() if key is None else key
        check_new_roll(self.get(name), rule, slot)
        self._replace_key(name, rule, slot, key, generation)
        connection, now = self._connections[name], self._clock()
        old, new = connection.generations[rule, slot.other], connection.generations[rule, slot]
        roll = KeyRoll(rule, slot, old, new, now, now + seconds, waits)
        rolls = sorted((*connection.rolls, roll), key=lambda one: one.rule)
        self._put(attrs.evolve(connection, rolls=tuple(rolls)))
        return key

    def revoke_key(self, name: str, rule: str, slot: KeySlot, *, generation: int | None = None) -> None:
        """See `Store.revoke_key`."""
        self._replace_key(name, rule, slot, None, generation)

    def add_token(self, token: ManagementToken) -> None:
        """See `Store.add_token`."""
        check_new_token(token, self.tokens())
        self._tokens[token.id] = token
        self._changes += 1

    def delete_token(self, id_: str) -> None:
        """See `Store.delete_token`."""
        if self.token(id_) is None:
            raise no_token(id_)
        del self._tokens[id_]
        self._changes += 1

    def set_last_use_of_tokens(self, uses: Mapping[str, float]) -> None:
        """See `Store.set_last_use_of_tokens`."""
        for id_, at in uses.items():
            token = self.token(id_)
            if token is not None:
                self._tokens[id_] = attrs.evolve(token, last_used_at=max(at, token.last_used_at or 0))
                self._changes += 1

    def add_claim(self, claim: Claim) -> None:
        """See `Store.add_claim`."""
        self.get(claim.connection)
        now = self._clock()
        open_ = [one for one in self._claims.values() if one.state(now) is ClaimState.OPEN]
        ours = sum(one.connection == claim.connection for one in open_)
        is_taken = claim.id in self._claims
        check_new_claim(claim, is_taken=is_taken, open_=len(open_), open_of_connection=ours, now=now)
        self._set_claim(claim)
        self._forget_claims(claim.connection, -math.inf)  # only what is too much: the clock may be wrong

    def take_claim(self, claim_id: str, proof: bytes, taker: str, attempt: bytes = b"") -> Take:
        """See `Store.take_claim`."""
        self._read()
        claim = self._claims.get(claim_id)
        disabled = claim is not None and self.get(claim.connection).disabled
        take = decide_take(claim, proof, taker, self._clock(), attempt=attempt, disabled=disabled)
        if take.changed is not None:
            self._set_claim(take.changed)
        return take

    def revoke_claim(self, name: str, claim_id: str) -> bool:
        """See `Store.revoke_claim`."""
        claim, now = self._claims.get(claim_id), self._clock()
        if claim is None or claim.connection != name:
            raise no_claim(name)
        if claim.state(now) is not ClaimState.OPEN:
            return False
        self._set_claim(claim.revoked(now))
        return True

    def sweep_claims(self, now: float) -> None:
        """See `Store.sweep_claims`."""
        for claim in tuple(self._claims.values()):
            if claim.sealed is not None and claim.state(now) is not ClaimState.OPEN:
                self._set_claim(claim.without_content())
            self._forget_claims(claim.connection, now)

    def put_update(self, update: StoredUpdate) -> None:
        """See `Store.put_update`."""
        known = self._get(update.connection, None)
        check_new_update(update, self.updates(update.connection))
        self._updates[update.recipients] = update
        self._put(known)

    def _forget_claims(self, name: str, now: float) -> None:
        for claim in to_forget(self.claims(name), now):
            del self._claims[claim.id]
            self._changes += 1

    def _set_claim(self, claim: Claim) -> None:
        self._claims[claim.id] = claim
        self._changes += 1

    def _get(self, name: str, version: int | None) -> HybridConnection:
        known = self.get(name)
        check_version(known, version)
        return known

    def _new_generations(self, rules: Iterable[Rule]) -> dict[tuple[str, KeySlot], int]:
        return {
            (rule.name, slot): next(self._generations)
            for rule in rules
            for slot in KeySlot
            if rule.key(slot) is not None
        }

    def _replace_key(self, name: str, rule: str, slot: KeySlot, key: Secret | None, generation: int | None) -> None:
        before = self.rule(name, rule)
        check_generation(self.get(name), rule, slot, generation)
        check_new_key(name, before, key)
        after = before.with_key(slot, key)
        connection = self._connections[name]
        generations = {where: number for where, number in connection.generations.items() if where != (rule, slot)}
        if key is not None:
            generations[rule, slot] = next(self._generations)
        rules = tuple(after if one.name == rule else one for one in connection.rules)
        rolls = tuple(roll for roll in connection.rolls if roll.rule != rule)
        self._put(attrs.evolve(connection, rules=rules, generations=generations, rolls=rolls))

    def _read(self) -> Mapping[str, HybridConnection]:
        if self._closed:
            raise StateError("the store is closed")
        return self._connections

    def _put(self, connection: HybridConnection) -> HybridConnection:
        changed = attrs.evolve(connection, updated_at=self._clock(), version=self._changes + 1)
        self._replace({**self._connections, changed.name: changed})
        return changed

    def _replace(self, connections: Mapping[str, HybridConnection]) -> None:
        self._connections = MappingProxyType(dict(sorted(connections.items())))
        self._changes += 1
