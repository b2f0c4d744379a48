"""Making a new hybrid connection in memory: its rules, its authority, and the first identity for each side.

The connection strings are made only from the content of the authority file, so that file is sufficient to make
further ones later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from ..errors import ConfigurationError
from ..relay.model import RelayRecord
from ..security import (
    AuthorityFile,
    ConnectionString,
    Endpoint,
    KeySlot,
    LocalNameChoice,
    Protocols,
    Role,
    Rule,
    Target,
    authority_for_connectors,
    check_hosts,
    choose_local_name,
    create_authority,
    create_issuer,
    pair_endpoints,
    protocols_of,
    update_key,
)
from ..security.identity import DEFAULT_VALID_YEARS, SIDES
from .authority_content import (
    RIGHTS,
    check_local_ports,
    damaged,
    issuer_of,
    local_name_of,
    new_content,
    relays_of,
    rule_of,
    target_of,
    with_issuer,
)


@attrs.frozen
class Provisioned:
    """A new hybrid connection, before it is written anywhere."""

    #: The record to import at each of its relays. It does not contain the authority.
    record: RelayRecord
    connector: ConnectionString
    application: ConnectionString
    #: The authority file, which only the administrator may have.
    authority_file: AuthorityFile


def pair_hosts_and_ports(hosts: Sequence[str], ports: Sequence[Mapping[str, int | None]]) -> tuple[Endpoint, ...]:
    """Combine the hosts of relays with their ports.

    Args:
        hosts: the hosts of the relays, in order of preference.
        ports: the ports that differ from the defaults: one mapping for all relays, or one for each.

    Raises:
        ConfigurationError: a host is not valid, or the numbers of hosts and ports do not match.
    """
    try:
        return pair_endpoints(check_hosts(tuple(hosts)), ports)
    except ValueError as exc:
        raise ConfigurationError(str(exc), remedy="see --endpoint and --public-ports in --help") from None


def provision(
    name: str,
    *,
    target: Target,
    local_name: LocalNameChoice = None,
    endpoints: Sequence[Endpoint],
    pins: tuple[str, ...] = (),
    now: float,
    valid_years: float = DEFAULT_VALID_YEARS,
    has_issuer: bool = False,
) -> Provisioned:
    """Make a hybrid connection.

    Args:
        name: the name of the hybrid connection.
        target: what the connector connects to.
        local_name: the local name for applications; None means the target's host and ports, if they can be one.
        endpoints: its relays, in order of preference.
        pins: the pins of the relays. If there are none, client and connector verify the relays' certificates with
            certificate authorities.
        now: seconds since 1970.
        valid_years: how long the authority and the two identities are valid.
        has_issuer: whether the connector gets an issuer.

    Raises:
        ConfigurationError: the name or a host is not valid.
    """
    rules = {role: Rule.generate(role.value, {right}) for role, right in RIGHTS.items()}
    hosts = [endpoint.host for endpoint in endpoints]
    extra = new_content(target=target, local_name=local_name, endpoints=endpoints, pins=pins, rules=rules)
    authority_file = AuthorityFile(create_authority(name, now=now, valid_years=valid_years), extra)
    if has_issuer:
        authority_file = with_issuer(authority_file, create_issuer(authority_file.authority, now=now))
    try:
        record = RelayRecord(name, hosts, rules.values())
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from None
    strings = {
        role: issue_string(authority_file, role, role.value, now=now, valid_years=valid_years) for role in SIDES
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
    local_name: LocalNameChoice = None,
    has_identity: bool = True,
) -> ConnectionString:
    """Make a complete connection string with a new identity.

    Args:
        authority_file: issues the identity, and has everything else that the connection string needs.
        role: the side that the connection string is for.
        label: the identity's name in the connector's audit log.
        now: seconds since 1970.
        valid_years: how long the identity is valid.
        slot: which of the rule's two keys the connection string contains.
        known: the rule with its keys, from the relay; None takes the rule and the keys from the authority file.
        local_name: for an application: its local name; None means the one in the authority file.
        has_identity: whether to issue an identity; otherwise the connection string has none.

    Raises:
        ConfigurationError: the authority has expired, its file is damaged, the rule has no key in `slot`, or the
            label is not valid.
    """
    authority = authority_file.authority
    rule = rule_of(authority_file, role) if known is None else known
    key = rule.key(slot)
    if key is None:
        raise ConfigurationError(
            f"there is no {slot} key of rule {rule.name}",
            remedy="it was revoked, or is missing from this file: 'keys regenerate' makes a new key, and 'keys use' "
            "writes both keys into the authority file",
        )
    endpoints, pins = relays_of(authority_file)
    issuer = issuer_of(authority_file) if role is Role.CONNECTOR else None
    certificate = authority.certificate if issuer is None else authority_for_connectors(authority)
    target = target_of(authority_file)
    if local_name is not None:
        check_local_ports(choose_local_name(local_name, None), target)
    try:
        return ConnectionString(
            endpoints=endpoints,
            key_name=rule.name,
            key=key,
            entity_path=authority.connection_name,
            target=target if role is Role.CONNECTOR else None,
            identity=authority.issue(role, label, now=now, valid_years=valid_years) if has_identity else None,
            authority=certificate if has_identity else None,
            issuer=issuer,
            relay_pins=pins,
            local_name=choose_local_name(local_name, local_name_of(authority_file))
            if role is Role.APPLICATION
            else None,
            protocols=protocols_of(target) if role is Role.APPLICATION else Protocols.TCP,
            update_key=update_key(authority, role),
        )
    except ValueError as exc:
        raise damaged(str(exc)) from None
