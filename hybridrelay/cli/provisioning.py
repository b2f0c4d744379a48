"""Making a hybrid connection: its rules, its authority, and the first identity for each side.

Connection strings are made of the authority file's content alone, so that what is in it is enough for further ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..errors import ConfigurationError
from ..relay import RelayRecord
from ..security import (
    AuthorityFile,
    ConnectionString,
    Endpoint,
    HostPort,
    KeySlot,
    Right,
    Role,
    Rule,
    Secret,
    create_authority,
    format_port_lists,
    pair_endpoints,
    parse_host_port_untrusted,
    parse_port_lists_untrusted,
)
from ..security.identity import DEFAULT_VALID_YEARS

#: The rules of a new hybrid connection are called as the roles that use them.
_RIGHTS = {Role.CONNECTOR: Right.LISTEN, Role.APPLICATION: Right.SEND}


@attrs.frozen
class Provisioned:
    """A new hybrid connection, before it is written anywhere."""

    #: For every one of the relays. Holds no authority.
    record: RelayRecord
    connector: ConnectionString
    application: ConnectionString
    #: For the administrator alone.
    authority_file: AuthorityFile


def provision(
    name: str,
    *,
    target: HostPort,
    endpoints: Sequence[Endpoint],
    pins: tuple[str, ...] = (),
    now: float,
    valid_years: float = DEFAULT_VALID_YEARS,
) -> Provisioned:
    """Make a hybrid connection.

    Args:
        name: what it is called.
        target: what the connector dials.
        endpoints: its relays, first choice first.
        pins: of the relays. None: client and connector verify them by CA.
        now: seconds since 1970.
        valid_years: of the authority and the two identities.

    Raises:
        ConfigurationError: something in it is not possible.
    """
    rules = {role: Rule.generate(role.value, {right}) for role, right in _RIGHTS.items()}
    hosts = [endpoint.host for endpoint in endpoints]
    extra = {
        "target": str(target),
        **_relays(endpoints, pins),
        "rules": {role.value: _rule_as_json(rule) for role, rule in rules.items()},
    }
    authority_file = AuthorityFile(create_authority(name, now=now, valid_years=valid_years), extra)
    try:
        record = RelayRecord(name, hosts, rules.values())
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None
    strings = {
        role: issue_string(authority_file, role, role.value, now=now, valid_years=valid_years) for role in Role
    }
    return Provisioned(record, strings[Role.CONNECTOR], strings[Role.APPLICATION], authority_file)


def issue_string(
    authority_file: AuthorityFile,
    role: Role,
    label: str,
    *,
    now: float,
    valid_years: float = DEFAULT_VALID_YEARS,
    slot: KeySlot = KeySlot.PRIMARY,
    known: Rule | None = None,
) -> ConnectionString:
    """A complete connection string with a new identity.

    Args:
        authority_file: issues the identity, and says everything else that the string needs.
        role: whose string it is.
        label: the identity's name in the connector's audit log.
        now: seconds since 1970.
        valid_years: of the identity.
        slot: which of the rule's two keys the string carries.
        known: the rule as the relay has it; None takes the keys that are in the authority file.

    Raises:
        ConfigurationError: the authority has expired, its file is damaged, or the label is not possible.
    """
    authority, extra = authority_file.authority, authority_file.extra
    rule = rule_of(authority_file, role) if known is None else known
    key = rule.key(slot)
    if key is None:
        raise ConfigurationError(
            f"there is no {slot} key of rule {rule.name}",
            remedy="it was revoked, or is not in this file: 'keys regenerate' makes a new one, and 'keys use' writes "
            "both keys into the authority file",
        )
    endpoints, pins = relays_of(authority_file)
    try:
        return ConnectionString(
            endpoints=endpoints,
            key_name=rule.name,
            key=key,
            entity_path=authority.connection_name,
            target=parse_host_port_untrusted(_text(extra, "target")) if role is Role.CONNECTOR else None,
            identity=authority.issue(role, label, now=now, valid_years=valid_years),
            authority=authority.certificate,
            relay_pins=pins,
        )
    except ValueError as exc:
        raise _damaged(str(exc)) from None


def relays_of(authority_file: AuthorityFile) -> tuple[tuple[Endpoint, ...], tuple[str, ...]]:
    """The relays, and their pins, that strings carry.

    Raises:
        ConfigurationError: the authority file is damaged.
    """
    extra = authority_file.extra
    try:
        ports = _text(extra, "ports")
        endpoints = pair_endpoints(_hosts(extra), parse_port_lists_untrusted(ports) if ports else ())
    except ValueError as exc:
        raise _damaged(str(exc)) from None
    return endpoints, tuple(str(pin) for pin in _get(extra, "relay_pins", list))


def with_relays(authority_file: AuthorityFile, endpoints: Sequence[Endpoint], pins: Sequence[str]) -> AuthorityFile:
    """The same authority file with other relays for the strings that it issues."""
    return attrs.evolve(authority_file, extra={**authority_file.extra, **_relays(endpoints, pins)})


def _relays(endpoints: Sequence[Endpoint], pins: Sequence[str]) -> dict[str, object]:
    hosts = [endpoint.host for endpoint in endpoints]
    return {
        "endpoint": hosts[0] if len(hosts) == 1 else hosts,
        "relay_pins": list(pins),
        "ports": format_port_lists(endpoints),
    }


def rule_of(authority_file: AuthorityFile, role: Role) -> Rule:
    """The rule that strings of `role` use, with the keys that the file has of it.

    Raises:
        ConfigurationError: the authority file is damaged.
    """
    content = _get(_get(authority_file.extra, "rules", dict), role.value, dict)
    keys = {slot.value: Secret(_text(content, slot.value)) for slot in KeySlot if slot.value in content}
    try:
        return Rule(_text(content, "name"), {_RIGHTS[role]}, **keys)
    except ValueError as exc:
        raise _damaged(str(exc)) from None


def with_rule(authority_file: AuthorityFile, role: Role, rule: Rule) -> AuthorityFile:
    """The same authority file with other keys for the strings of `role`."""
    rules = {**_get(authority_file.extra, "rules", dict), role.value: _rule_as_json(rule)}
    return attrs.evolve(authority_file, extra={**authority_file.extra, "rules": rules})


def _rule_as_json(rule: Rule) -> dict[str, str]:
    keys = {slot: rule.key(slot) for slot in KeySlot}
    return {"name": rule.name, **{slot.value: key.reveal() for slot, key in keys.items() if key is not None}}


def _get(content: Mapping[str, Any], key: str, kind: type) -> Any:
    value = content.get(key)
    if not isinstance(value, kind):
        raise _damaged(key)
    return value


def _text(content: Mapping[str, Any], key: str) -> str:
    return str(_get(content, key, str))


def _hosts(extra: Mapping[str, Any]) -> list[str]:
    """One host, or a list of them, as `provision` has written it."""
    hosts = extra.get("endpoint")
    if not isinstance(hosts, list):
        return [_text(extra, "endpoint")]
    if not all(isinstance(host, str) for host in hosts):
        raise _damaged("endpoint")
    return hosts


def _damaged(what: str) -> ConfigurationError:
    return ConfigurationError(f"the authority file is damaged: {what}")
