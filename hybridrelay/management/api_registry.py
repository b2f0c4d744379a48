"""Administers a relay through its management API."""

# This module is long because it has every operation.

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar
from urllib.parse import quote

import msgspec

from ..administration import (
    ClaimInfo,
    ConnectionInfo,
    KeyInfo,
    ProgramInfo,
    RecipientInfo,
    RelayDescription,
    RollInfo,
    RuleInfo,
    TokenInfo,
    UpdateInfo,
)
from ..errors import HybridRelayError, ManagementError, OutcomeUnknown
from ..relay.claims import ClaimState
from ..relay.model import RelayRecord
from ..relay.quotas import Edition, Editions, Limits, Quota
from ..relay.store.store import ChangedMeanwhile, NameTaken, NotFound
from ..relay.updates import StoredUpdate
from ..security import ClaimKeys, KeySlot, ManagementRole, Right, Rule, Secret, key_fingerprint
from .blocking import BlockingClient
from .claim_values import ClaimPage, ClaimValue
from .live_values import RelayEndpointValue
from .paging import read_pages
from .refusals import unreadable_change
from .roll_values import RollValue
from .token_values import DAY_SECONDS, CreatedToken, TokenPage, TokenValue
from .update_values import UpdatePage, UpdateValue
from .values import AccessKeys, AuthorizationRule, ConnectionPage, ConnectionValue, LimitsBody

__all__ = ["ApiRegistry"]

T = TypeVar("T")
InfoT = TypeVar("InfoT")

_CONNECTIONS = "/v1/hybridConnections"
_EDITIONS = "/v1/editions"
_TOKENS = "/v1/tokens"
_OTHER_VERSION = "use the same version of hybridrelay as the relay"


class ApiRegistry:
    """Implements `Registry` with requests to a running relay, which checks and audits them."""

    def __init__(self, client: BlockingClient) -> None:
        self._client = client

    # --- reading

    def relay(self) -> RelayDescription:
        """See `Registry.relay`."""
        value = self._get("/v1/relay/endpoint", RelayEndpointValue)
        return RelayDescription(value.pin, value.ports)

    def connections(self) -> tuple[ConnectionInfo, ...]:
        """See `Registry.connections`."""
        pages = self._client.run(lambda client: read_pages(client, _CONNECTIONS, ConnectionPage))
        return tuple(_connection(one) for page in pages for one in page.value)

    def find(self, name: str) -> ConnectionInfo | None:
        """See `Registry.find`."""
        try:
            return self.connection(name)
        except NotFound:
            return None

    def connection(self, name: str) -> ConnectionInfo:
        """See `Registry.connection`."""
        return _connection(self._get(_path(name), ConnectionValue))

    def rule_with_keys(self, name: str, rule: str) -> Rule:
        """See `Registry.rule_with_keys`."""
        # This comes first, so that the audit log of the relay has it even if there is no such rule.
        keys = self._call("POST", f"{_path(name, rule)}/listKeys", AccessKeys, changes=False)
        known = self.connection(name).rule(rule)
        try:
            return Rule(rule, known.rights, _secret(keys.primary_key), _secret(keys.secondary_key))
        except ValueError as exc:
            raise _unexpected(str(exc)) from None

    def tokens(self) -> tuple[TokenInfo, ...]:
        """See `Registry.tokens`."""
        return tuple(map(_token, self._get(_TOKENS, TokenPage).value))

    def editions(self) -> Editions:
        """See `Registry.editions`."""
        from .quotas import EditionList  # imported late: `quotas` imports the operations of the API

        found = self._get(_EDITIONS, EditionList).value
        return Editions([one.edition() for one in found], next((one.name for one in found if one.in_use), ""))

    def limits_in_force(self, name: str) -> Limits:
        """See `Registry.limits_in_force`. Callers with a scope may not see the editions."""
        from .usage import ConnectionUsage  # imported late: `usage` imports the operations of the API

        return self._get(f"{_path(name)}/usage", ConnectionUsage).limits.parse_untrusted()

    def claims(self, name: str) -> tuple[ClaimInfo, ...]:
        """See `Registry.claims`."""
        return tuple(map(_claim, self._get(f"{_path(name)}/claims", ClaimPage).value))

    def updates(self, name: str) -> tuple[UpdateInfo, ...]:
        """See `Registry.updates`."""
        page = self._get(f"{_path(name)}/updates", UpdatePage)
        return tuple(map(_update, page.value))

    # --- changing

    def prepare(self, *, now: float) -> RelayDescription:
        """See `Registry.prepare`. Only reads: a running relay already has a certificate."""
        return self.relay()

    def import_(self, record: RelayRecord) -> None:
        """See `Registry.import_`."""
        body = {"endpoints": record.hosts, "authorizationRules": [_new_rule(rule) for rule in record.rules]}
        try:
            self._call("PUT", _path(record.name), ConnectionValue, body=body, headers={"If-None-Match": "*"})
        except OutcomeUnknown:
            known = self._look(record.name)
            if known is None or known.differences(record):
                raise
        except ChangedMeanwhile as exc:  # If-None-Match was not met
            raise NameTaken(str(exc), remedy="choose another name") from None

    def refuse_import(self, known: ConnectionInfo) -> None:
        """See `Registry.refuse_import`."""
        # No hybrid connection meets both of these conditions.
        headers = {"If-Match": '"0"', "If-None-Match": "*"}
        try:
            self._call("PUT", _path(known.name), ConnectionValue, body={"endpoints": known.hosts}, headers=headers)
        except ChangedMeanwhile as exc:
            raise NameTaken(str(exc), remedy="choose another name") from None

    def change(
        self,
        known: ConnectionInfo,
        *,
        hosts: Iterable[str] | None = None,
        disabled: bool | None = None,
        quota: Quota | None = None,
    ) -> None:
        """See `Registry.change`."""
        wanted = None if hosts is None else tuple(hosts)
        body: dict[str, object] = {}
        body |= {name: value for name, value in (("endpoints", wanted), ("disabled", disabled)) if value is not None}
        if quota is not None:
            body |= {"edition": quota.edition or None, "limits": LimitsBody.of(quota.limits)}
        try:
            self._call("PATCH", _path(known.name), ConnectionValue, body=body, headers=_if_match(known))
        except OutcomeUnknown:
            now = self._look(known.name)
            if now is None or now.hosts != (wanted or now.hosts) or disabled not in (None, now.disabled):
                raise
            if quota not in (None, now.quota):
                raise

    def change_edition(self, known: Edition, *, connections: int | None, limits: Limits) -> Edition:
        """See `Registry.change_edition`."""
        from .quotas import EditionValue

        body = {"connections": connections, "limits": LimitsBody.of(limits)}
        headers = {"If-Match": f'"{known.version}"'}
        path = f"{_EDITIONS}/{quote(known.name, safe='')}"
        return self._call("PUT", path, EditionValue, body=body, headers=headers).edition()

    def use_edition(self, name: str) -> None:
        """See `Registry.use_edition`."""
        from .quotas import RelayEdition

        self._call("PUT", "/v1/relay/edition", RelayEdition, body={"edition": name or None})

    def put_rule(self, known: ConnectionInfo, rule: str, rights: Iterable[Right]) -> RuleInfo:
        """See `Registry.put_rule`."""
        wanted = frozenset(rights)
        headers = {"If-None-Match": "*"} if known.find_rule(rule) is None else _if_match(known)
        body = {"rights": sorted(wanted)}
        try:
            value = self._call("PUT", _path(known.name, rule), AuthorizationRule, body=body, headers=headers)
            return _after_change(value, _rule)
        except OutcomeUnknown:
            now = self._look(known.name)
            found = None if now is None else now.find_rule(rule)
            if found is None or found.rights != wanted:
                raise
            return found

    def delete_rule(self, known: ConnectionInfo, rule: str) -> None:
        """See `Registry.delete_rule`."""
        try:
            self._call("DELETE", _path(known.name, rule), msgspec.Raw, headers=_if_match(known))
        except OutcomeUnknown:
            now = self._look(known.name)
            if now is None or now.find_rule(rule) is not None:
                raise

    def delete(self, known: ConnectionInfo) -> None:
        """See `Registry.delete`."""
        try:
            self._call("DELETE", _path(known.name), msgspec.Raw, headers=_if_match(known))
        except OutcomeUnknown:
            try:
                now = self.find(known.name)
            except HybridRelayError:
                now = known
            if now is not None:
                raise

    def regenerate_key(self, name: str, rule: str, slot: KeySlot, key: Secret, *, generation: int) -> None:
        """See `Registry.regenerate_key`."""
        body = {"slot": slot.value, "generation": generation, "key": key.reveal()}
        try:
            self._call("POST", f"{_path(name, rule)}/regenerateKeys", AccessKeys, body=body)
        except OutcomeUnknown:
            if self._look_for_key(name, rule, slot) != key_fingerprint(key):
                raise

    def roll_key(
        self, name: str, rule: str, slot: KeySlot, key: Secret, *, generation: int, seconds: float, waits: bool
    ) -> None:
        """See `Registry.roll_key`."""
        body = {
            "slot": slot.value,
            "generation": generation,
            "key": key.reveal(),
            "graceSeconds": round(seconds),
            "waitForGrace": waits,
        }
        try:
            self._call("POST", f"{_path(name, rule)}/rollKeys", AccessKeys, body=body)
        except OutcomeUnknown:
            if self._look_for_key(name, rule, slot) != key_fingerprint(key):
                raise

    def roll(self, name: str, rule: str) -> RollInfo | None:
        """See `Registry.roll`."""
        try:
            value = self._get(f"{_path(name, rule)}/roll", RollValue)
        except NotFound:
            return None
        missing = tuple(ProgramInfo(**msgspec.structs.asdict(one)) for one in value.missing)
        try:
            slot = KeySlot(value.slot)
        except ValueError:
            raise _unexpected("the slot of a key") from None
        return RollInfo(
            slot,
            value.started_at,
            value.ends_at,
            value.wait_for_grace,
            value.programs,
            value.kept,
            missing,
            value.seen_since,
            value.ended_at,
            value.is_crowded,
        )

    def revoke_key(self, name: str, rule: str, slot: KeySlot, *, generation: int) -> None:
        """See `Registry.revoke_key`."""
        body = {"slot": slot.value, "generation": generation}
        try:
            self._call("POST", f"{_path(name, rule)}/revokeKeys", msgspec.Raw, body=body)
        except OutcomeUnknown:
            if self._look_for_key(name, rule, slot) is not None:
                raise

    def create_token(
        self, name: str, role: ManagementRole, *, scope: str, seconds: float, now: float
    ) -> tuple[TokenInfo, Secret]:
        """See `Registry.create_token`."""
        body = {"name": name, "role": role.name.lower(), "scope": scope, "expiresInDays": seconds / DAY_SECONDS}
        created = self._call("POST", _TOKENS, CreatedToken, body=body)
        return _after_change(created.value, _token), Secret(created.token)

    def delete_token(self, id_: str) -> None:
        """See `Registry.delete_token`."""
        self._call("DELETE", f"{_TOKENS}/{quote(id_, safe='')}", msgspec.Raw)

    def add_claim(
        self, name: str, keys: ClaimKeys, sealed: bytes, *, seconds: float, note: str, now: float
    ) -> ClaimInfo:
        """See `Registry.add_claim`."""
        body = {
            "id": keys.id,
            "proofDigest": keys.proof_digest,
            "sealed": base64.b64encode(sealed).decode("ascii"),
            "expiresInSeconds": round(seconds),
            "note": note,
        }
        try:
            return _after_change(self._call("POST", f"{_path(name)}/claims", ClaimValue, body=body), _claim)
        except OutcomeUnknown:
            found = [one for one in self._look_for_claims(name) if one.id == keys.id]
            if not found:
                raise
            return found[0]

    def revoke_claim(self, name: str, id_: str) -> None:
        """See `Registry.revoke_claim`."""
        try:
            self._call("DELETE", f"{_path(name)}/claims/{quote(id_, safe='')}", msgspec.Raw)
        except OutcomeUnknown:
            found = [one for one in self._look_for_claims(name) if one.id == id_]
            if not found or found[0].state is ClaimState.OPEN:
                raise

    def push_update(self, update: StoredUpdate) -> None:
        """See `Registry.push_update`."""
        body = {
            "role": update.role.value,
            "serial": update.serial,
            "sequence": update.sequence,
            "document": base64.b64encode(update.document).decode("ascii"),
            "expiresAt": update.expires_at,
            "note": update.note,
        }
        try:
            self._call("POST", f"{_path(update.connection)}/updates", UpdateValue, body=body)
        except OutcomeUnknown:
            try:
                found = self.updates(update.connection)
            except HybridRelayError:
                found = ()
            wanted = update.role.value, update.serial, update.sequence
            if wanted not in {(one.role, one.serial, one.sequence) for one in found}:
                raise

    # --- requests

    def _get(self, path: str, kind: type[T], query: Mapping[str, str | float | None] | None = None) -> T:
        return self._client.run(lambda client: client.get(path, kind, query=query))

    def _call(
        self,
        method: str,
        path: str,
        kind: type[T],
        *,
        body: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
        changes: bool = True,
    ) -> T:
        return self._client.run(
            lambda client: client.call(method, path, kind, body=body, headers=headers, changes=changes)
        )

    def _look(self, name: str) -> ConnectionInfo | None:
        """Return the hybrid connection after a change whose outcome is unknown; None if it cannot be read."""
        try:
            return self.connection(name)
        except HybridRelayError:
            return None

    def _look_for_claims(self, name: str) -> tuple[ClaimInfo, ...]:
        """Return the claims after a change whose outcome is unknown; none if they cannot be read."""
        try:
            return self.claims(name)
        except HybridRelayError:
            return ()

    def _look_for_key(self, name: str, rule: str, slot: KeySlot) -> str | None:
        """Return the fingerprint of a key after a change whose outcome is unknown: None if the key is revoked, and ""
        if this is not known."""
        known = self._look(name)
        found = None if known is None else known.find_rule(rule)
        return "" if found is None else found.fingerprint(slot)


def _path(name: str, rule: str | None = None) -> str:
    path = f"{_CONNECTIONS}/{quote(name, safe='')}"
    return path if rule is None else f"{path}/authorizationRules/{quote(rule, safe='')}"


def _if_match(known: ConnectionInfo) -> dict[str, str]:
    return {"If-Match": f'"{known.version}"'}


def _connection(value: ConnectionValue) -> ConnectionInfo:
    rules = tuple(map(_rule, value.authorization_rules))
    return ConnectionInfo(
        value.name,
        value.endpoints,
        rules,
        value.created_at,
        value.version,
        value.disabled,
        Quota(value.edition or "", value.limits.parse_untrusted()),
    )


def _claim(value: ClaimValue) -> ClaimInfo:
    try:
        state = ClaimState(value.state)
    except ValueError:
        raise _unexpected("the state of a claim") from None
    return ClaimInfo(**{**msgspec.structs.asdict(value), "state": state})


def _update(value: UpdateValue) -> UpdateInfo:
    missing = tuple(RecipientInfo(**msgspec.structs.asdict(one)) for one in value.missing)
    return UpdateInfo(**{**msgspec.structs.asdict(value), "missing": missing})


def _rule(value: AuthorizationRule) -> RuleInfo:
    keys = {key.slot: KeyInfo(key.generation, key.fingerprint, key.last_used) for key in value.keys}
    try:
        return RuleInfo(value.name, frozenset(map(Right, value.rights)), {slot: keys[slot.value] for slot in KeySlot})
    except (KeyError, ValueError):
        raise _unexpected("an authorization rule") from None


def _token(value: TokenValue) -> TokenInfo:
    try:
        role = ManagementRole[value.role.upper()]
    except KeyError:
        raise _unexpected("the role of a token") from None
    return TokenInfo(value.id, value.name, role, value.scope, value.created_at, value.expires_at, value.last_used_at)


def _after_change(value: T, convert: Callable[[T], InfoT]) -> InfoT:
    """Convert the answer to a change. Raises OutcomeUnknown if it contains a word of another version."""
    try:
        return convert(value)
    except ManagementError as exc:
        raise unreadable_change(exc) from exc


def _new_rule(rule: Rule) -> dict[str, object]:
    keys = {f"{slot.value}Key": None if (key := rule.key(slot)) is None else key.reveal() for slot in KeySlot}
    return {"name": rule.name, "rights": sorted(rule.rights), **keys}


def _secret(text: str | None) -> Secret | None:
    return None if text is None else Secret(text)


def _unexpected(what: str) -> ManagementError:
    return ManagementError(f"the relay's answer is not what this version expects: {what}", remedy=_OTHER_VERSION)
