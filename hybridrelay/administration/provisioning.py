"""A new hybrid connection: its rules, its authority, and the first identity for each side. Nothing is written here.

Connection strings are made of the authority file's content alone, so that what is in it is enough for further ones.
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
    HostPort,
    KeySlot,
    Role,
    Rule,
    check_hosts,
    create_authority,
    pair_endpoints,
)
from ..security.identity import DEFAULT_VALID_YEARS
from .authority_content import RIGHTS, damaged, new_content, relays_of, rule_of, target_of


@attrs.frozen
class Provisioned:
    """A new hybrid connection, before it is written anywhere."""

    #: For every one of the relays. Holds no authority.
    record: RelayRecord
    connector: ConnectionString
    application: ConnectionString
    #: For the administrator alone.
    authority_file: AuthorityFile


def pair_hosts_and_ports(hosts: Sequence[str], ports: Sequence[Mapping[str, int | None]]) -> tuple[Endpoint, ...]:
    """The relays as connection strings name them.

    Args:
        hosts: of the relays, first choice first.
        ports: of the relays that are not the defaults, once for all or once for each.

    Raises:
        ConfigurationError: a host is not valid, or the numbers do not match.
    """
    try:
        return pair_endpoints(check_hosts(tuple(hosts)), ports)
    except ValueError as exc:
        raise ConfigurationError(str(exc), remedy="see --endpoint and --public-ports in --help") from None


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
        name: its name.
        target: what the connector dials.
        endpoints: its relays, first choice first.
        pins: of the relays. Without any, client and connector verify the relays' certificates by CA.
        now: seconds since 1970.
        valid_years: of the authority and the two identities.

    Raises:
        ConfigurationError: something in it is not possible.
    """
    rules = {role: Rule.generate(role.value, {right}) for role, right in RIGHTS.items()}
    hosts = [endpoint.host for endpoint in endpoints]
    extra = new_content(target=target, endpoints=endpoints, pins=pins, rules=rules)
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
    authority = authority_file.authority
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
            target=target_of(authority_file) if role is Role.CONNECTOR else None,
            identity=authority.issue(role, label, now=now, valid_years=valid_years),
            authority=authority.certificate,
            relay_pins=pins,
        )
    except ValueError as exc:
        raise damaged(str(exc)) from None
