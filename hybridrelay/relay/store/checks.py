"""Checks and errors that all implementations of `Store` share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Final

from ...errors import ConfigurationError
from ...security import KeySlot, ManagementToken, Right, Rule, Secret, check_hosts, check_rules
from ..claims import (
    MAX_LIFETIME_SECONDS,
    MAX_OPEN_CLAIMS,
    MAX_OPEN_CLAIMS_PER_CONNECTION,
    Claim,
    allowed_claims,
)
from ..model import HybridConnection, RelayRecord
from ..quotas import Edition, Editions, Limits
from ..updates import MAX_UPDATES_PER_CONNECTION, StoredUpdate
from .store import MAX_TOKENS, ChangedMeanwhile, NameTaken, NoConnection, NotFound, QuotaReached

__all__ = [
    "SHOWN_NAMES",
    "changed_edition",
    "check_edition",
    "check_generation",
    "check_new_claim",
    "check_new_connection",
    "check_new_key",
    "check_new_roll",
    "check_new_token",
    "check_new_update",
    "check_version",
    "name_is_taken",
    "no_claim",
    "no_connection",
    "no_rule",
    "no_token",
    "valid_hosts",
    "valid_record",
    "with_rule",
    "without_rule",
]

#: How many names an error lists.
SHOWN_NAMES: Final = 20


def valid_record(name: str, hosts: Iterable[str], rules: Iterable[Rule]) -> RelayRecord:
    """Make the record that `Store.create` adds. Raises ConfigurationError."""
    try:
        return RelayRecord(name, hosts, rules)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None


def valid_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """Check the hosts that `Store.change` sets. Raises ConfigurationError."""
    try:
        return check_hosts(tuple(hosts))
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None


def check_new_connection(editions: Editions, count: int) -> None:
    """Check whether a hybrid connection may be added to `count` existing ones. Raises QuotaReached."""
    edition = editions.of_relay
    if edition is not None and edition.connections is not None and count >= edition.connections:
        raise QuotaReached(
            f"the edition {edition.name} of this relay allows {edition.connections} hybrid connections, and there "
            f"are {count}; nothing was changed",
            remedy="delete one that is not needed, or use another edition: hybridrelay editions --help",
        )


def check_edition(editions: Editions, name: str) -> None:
    """Check that there is an edition with this name, unless it is empty. Raises NotFound."""
    if name and name not in editions.by_name:
        raise NotFound(f"there is no edition {name!r}", remedy=f"the editions are: {', '.join(editions.by_name)}")


def changed_edition(
    editions: Editions, name: str, connections: int | None, limits: Limits, version: int | None
) -> Edition:
    """Make the edition that `Store.change_edition` sets. Raises NotFound, ChangedMeanwhile, ConfigurationError."""
    check_edition(editions, name or "?")
    known = editions.by_name[name]
    if version is not None and version != known.version:
        raise ChangedMeanwhile(
            f"the edition {name} was changed in the meantime; nothing was changed",
            remedy="read it again, and repeat the change if it is still needed",
        )
    try:
        return Edition(name=name, connections=connections, limits=limits, version=known.version + 1)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None


def name_is_taken(name: str) -> NameTaken:
    """Return the error of `Store.create` and `Store.import_` for a name that is taken."""
    return NameTaken(
        f"there is already a hybrid connection {name!r}",
        remedy="choose another name; to change the relays or the target of the existing one, see "
        "'hybridrelay connections endpoints --help' and 'connections set-target --help'",
    )


def no_connection(name: str, known: Iterable[str], count: int) -> NoConnection:
    """Return the error for an unknown hybrid connection. `known` has the names of some of the `count` that exist."""
    names = tuple(itertools.islice(known, SHOWN_NAMES))
    shown, more = ", ".join(names), count - len(names)
    return NoConnection(
        f"there is no hybrid connection {name!r}",
        remedy=f"the hybrid connections of this relay are: {shown}{f' and {more} more' if more > 0 else ''}"
        if names
        else "this relay has none yet",
    )


def no_rule(connection: str, rule: str, known: Iterable[str]) -> NotFound:
    """Return the error for an unknown rule. `known` contains the names of the existing ones."""
    names = ", ".join(known)
    return NotFound(
        f"the hybrid connection {connection!r} has no rule {rule!r}", remedy=f"its rules are: {names or 'none'}"
    )


def no_token(id_: str) -> NotFound:
    """Return the error for an unknown id of a token."""
    return NotFound(f"there is no token {id_}", remedy="list them: hybridrelay tokens list, or GET /v1/tokens")


def no_claim(name: str) -> NotFound:
    """Return the error for an unknown claim of a hybrid connection."""
    return NotFound(f"{name} has no such claim", remedy="list them: hybridrelay claims list NAME")


def check_new_claim(claim: Claim, *, is_taken: bool, open_: int, open_of_connection: int, now: float) -> None:
    """Check whether a claim may be added. Raises NameTaken, ConfigurationError.

    Args:
        claim: the claim.
        is_taken: whether there is one with its id.
        open_: how many claims are open.
        open_of_connection: how many of these are of the same hybrid connection.
        now: seconds since 1970.
    """
    if is_taken:
        raise NameTaken("there is already a claim with this id", remedy="create a new one")
    # A second more, because the clock may have advanced since the times were computed.
    if claim.sealed is None or not 0 < claim.expires_at - now <= MAX_LIFETIME_SECONDS + 1:
        raise ConfigurationError(f"a claim is open for at most {MAX_LIFETIME_SECONDS / 86_400:g} days")
    if open_ >= MAX_OPEN_CLAIMS or open_of_connection >= allowed_claims(open_):
        raise ConfigurationError(
            f"at most {MAX_OPEN_CLAIMS} claims can be open at a relay, and {MAX_OPEN_CLAIMS_PER_CONNECTION} of them "
            f"for one hybrid connection, or fewer while many are open; this one has {open_of_connection} of them",
            remedy="revoke those that are not needed: hybridrelay claims list NAME, claims revoke NAME ID",
        )


def check_new_token(token: ManagementToken, known: Iterable[ManagementToken]) -> None:
    """Check whether a token may be added to the existing ones. Raises NameTaken, ConfigurationError."""
    names = [one.name for one in known]
    if token.name in names:
        raise NameTaken(
            f"there is already a token {token.name!r}",
            remedy="choose another name, or first revoke that token, even if it has expired",
        )
    if len(names) >= MAX_TOKENS:
        raise ConfigurationError(f"there are already {MAX_TOKENS} tokens", remedy="revoke those that have expired")


def check_new_key(name: str, rule: Rule, key: Secret | None) -> None:
    """Check whether a key may be put into a slot of a rule. Raises ConfigurationError.

    Args:
        name: the hybrid connection.
        rule: the rule as it is in the store.
        key: the new key; None revokes the current one.
    """
    for taken in KeySlot:
        if key is not None and rule.key(taken) == key:
            raise ConfigurationError(
                f"this is already the {taken} key of rule {rule.name} of {name}; nothing was changed",
                remedy="compare the fingerprints of the relays with: keys list",
            )


def check_new_roll(known: HybridConnection, rule: str, slot: KeySlot) -> None:
    """Check whether a key may be rolled to `slot`. Raises NotFound, ConfigurationError."""
    found = known.rule(rule)
    if found is None:
        raise no_rule(known.name, rule, [one.name for one in known.rules])
    if known.roll(rule) is not None:
        raise ConfigurationError(
            f"the key of rule {rule} of {known.name} is already being rolled; nothing was changed",
            remedy="'keys list' shows which programs do not have the new key; the roll ends when all have it, at the "
            "end of its grace period, or when the old key is revoked",
        )
    if found.key(slot.other) is None:
        raise ConfigurationError(
            f"rule {rule} of {known.name} has no {slot.other} key that could be rolled; nothing was changed",
            remedy="'keys regenerate' makes one",
        )


def check_version(known: HybridConnection, version: int | None) -> None:
    """Check that a hybrid connection is the one that the caller has read. Raises ChangedMeanwhile."""
    if version is not None and version != known.version:
        raise ChangedMeanwhile(
            f"the hybrid connection {known.name} was changed in the meantime; nothing was changed",
            remedy="read it again, and repeat the change if it is still needed",
        )


def check_generation(known: HybridConnection, rule: str, slot: KeySlot, generation: int | None) -> None:
    """Check that a slot has the key that the caller knows; see `Store.regenerate_key`.

    Raises:
        NotFound: there is no such rule.
        ChangedMeanwhile: the slot has a different key, or none.
    """
    if known.rule(rule) is None:
        raise no_rule(known.name, rule, [one.name for one in known.rules])
    current = known.generations.get((rule, slot), 0)
    if generation is not None and generation != current:
        has = f"has generation {current}" if current else "is revoked"
        raise ChangedMeanwhile(
            f"the {slot} key of rule {rule} of {known.name} was changed before this request, and {has} now; this "
            "request has changed nothing",
            remedy="if you have sent the same change twice, the first one has probably succeeded: look at the key's "
            "fingerprint before you repeat the change",
        )


def with_rule(known: HybridConnection, name: str, rights: Iterable[Right]) -> tuple[Rule, ...]:
    """Return the rules after `Store.put_rule`, in order of their names. Raises ConfigurationError."""
    before = known.rule(name)
    try:
        if before is None:
            rule = Rule.generate(name, rights)
        else:
            rule = Rule(name, frozenset(rights), before.primary, before.secondary)
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None
    rules = {one.name: one for one in known.rules} | {name: rule}
    return check_rules(rules[key] for key in sorted(rules))


def without_rule(known: HybridConnection, name: str) -> tuple[Rule, ...]:
    """Return the rules after `Store.delete_rule`. Raises NotFound."""
    if known.rule(name) is None:
        raise no_rule(known.name, name, [rule.name for rule in known.rules])
    return tuple(rule for rule in known.rules if rule.name != name)


def check_new_update(update: StoredUpdate, known: Iterable[StoredUpdate]) -> None:
    """Check whether an update may be stored beside the others of its hybrid connection.

    Raises ChangedMeanwhile, ConfigurationError.
    """
    others = {one.recipients: one for one in known}
    replaced = others.get(update.recipients)
    if replaced is not None and update.sequence <= replaced.sequence:
        raise ChangedMeanwhile(
            f"the relay has update {replaced.sequence} already, and this one, {update.sequence}, is not later",
            remedy="run 'updates push' again; check the authority file first if it was restored from a backup",
        )
    if replaced is None and len(others) >= MAX_UPDATES_PER_CONNECTION:
        raise ConfigurationError(
            f"a relay keeps at most {MAX_UPDATES_PER_CONNECTION} updates of a hybrid connection",
            remedy="use updates for all connectors or all applications instead of single identities",
        )
