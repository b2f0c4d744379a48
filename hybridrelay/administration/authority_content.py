"""What an authority file contains besides the authority: the relays, their pins and ports, the target and the keys.

`AuthorityFile.extra` holds this content as JSON values, whose names only this module knows. Connection strings are
made from it, so the authority file alone is sufficient to issue further ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from ..errors import ConfigurationError
from ..security import (
    MAX_SEQUENCE,
    AuthorityFile,
    Endpoint,
    HostPorts,
    HostTarget,
    Issuer,
    KeySlot,
    LocalNameChoice,
    Right,
    Role,
    Rule,
    Secret,
    Target,
    choose_local_name,
    decode_der_untrusted,
    encode_der,
    format_port_lists,
    local_name_of_target,
    pair_endpoints,
    parse_local_name_untrusted,
    parse_port_lists_untrusted,
    parse_target_untrusted,
)

#: The right of the rule in a connection string, by role.
RIGHTS: Mapping[Role, Right] = {Role.CONNECTOR: Right.LISTEN, Role.APPLICATION: Right.SEND}


def new_content(
    *,
    target: Target,
    local_name: LocalNameChoice = None,
    endpoints: Sequence[Endpoint],
    pins: Sequence[str],
    rules: Mapping[Role, Rule],
) -> dict[str, object]:
    """Return the value of `AuthorityFile.extra` for a new hybrid connection.

    Raises:
        ConfigurationError: the local name has a port that the target does not have.
    """
    chosen = choose_local_name(local_name, local_name_of_target(target))
    check_local_ports(chosen, target)
    return {
        "target": str(target),
        "local_name": _local_name(chosen),
        **_relays(endpoints, pins),
        "rules": {role.value: _rule_as_json(rule) for role, rule in rules.items()},
    }


def target_of(authority_file: AuthorityFile) -> Target:
    """Return what the connector connects to.

    Raises:
        ConfigurationError: the authority file is damaged.
    """
    try:
        return parse_target_untrusted(_text(authority_file.extra, "target"))
    except ValueError as exc:
        raise damaged(str(exc)) from None


def with_target(authority_file: AuthorityFile, target: Target) -> AuthorityFile:
    """Return a copy of an authority file that has another target for the connection strings issued from it."""
    return attrs.evolve(authority_file, extra={**authority_file.extra, "target": str(target)})


def local_name_of(authority_file: AuthorityFile) -> HostTarget | None:
    """Return the local name for applications; None if they get none.

    Raises:
        ConfigurationError: the authority file is damaged.
    """
    if "local_name" not in authority_file.extra:  # was made before there were local names
        return local_name_of_target(target_of(authority_file))
    try:
        text = _text(authority_file.extra, "local_name")
        return parse_local_name_untrusted(text) if text else None
    except ValueError as exc:
        raise damaged(str(exc)) from None


def check_local_ports(local_name: HostTarget | None, target: Target) -> None:
    """Check that a new local name with several ports has none that the target does not have.

    Raises:
        ConfigurationError: it has one.
    """
    if isinstance(local_name, HostPorts):
        known = target.ports if isinstance(target, HostPorts) else ()
        unknown = next((port for port in local_name.ports if port not in known), None)
        if unknown is not None:
            raise ConfigurationError(
                f"port {unknown} of the local name {local_name} is not a port of the target {target}",
                remedy="if a local name has several ports, each of them has to be a port of the target; a single "
                "port may have any number, and leads to the first port of the target",
            )


def with_local_name(authority_file: AuthorityFile, local_name: HostTarget | None) -> AuthorityFile:
    """Return a copy of an authority file that has another local name for the connection strings issued from it.

    Raises:
        ConfigurationError: the local name has a port that the target does not have.
    """
    check_local_ports(local_name, target_of(authority_file))
    return attrs.evolve(authority_file, extra={**authority_file.extra, "local_name": _local_name(local_name)})


def _local_name(local_name: HostTarget | None) -> str:
    return "" if local_name is None else str(local_name)


def relays_of(authority_file: AuthorityFile) -> tuple[tuple[Endpoint, ...], tuple[str, ...]]:
    """Return the relays, and their pins, that are written into connection strings.

    Raises:
        ConfigurationError: the authority file is damaged.
    """
    extra = authority_file.extra
    try:
        ports = _text(extra, "ports")
        endpoints = pair_endpoints(_hosts(extra), parse_port_lists_untrusted(ports) if ports else ())
    except ValueError as exc:
        raise damaged(str(exc)) from None
    return endpoints, tuple(str(pin) for pin in _get(extra, "relay_pins", list))


def with_relays(authority_file: AuthorityFile, endpoints: Sequence[Endpoint], pins: Sequence[str]) -> AuthorityFile:
    """Return a copy of an authority file that has other relays for the connection strings issued from it."""
    return attrs.evolve(authority_file, extra={**authority_file.extra, **_relays(endpoints, pins)})


def _relays(endpoints: Sequence[Endpoint], pins: Sequence[str]) -> dict[str, object]:
    hosts = [endpoint.host for endpoint in endpoints]
    return {
        "endpoint": hosts[0] if len(hosts) == 1 else hosts,
        "relay_pins": list(pins),
        "ports": format_port_lists(endpoints),
    }


def pushed_sequence(authority_file: AuthorityFile, role: Role) -> int:
    """Return the sequence of the updates that were pushed last, if one of them was for this side; otherwise 0. What
    they have changed is in the authority file, too.

    Raises:
        ConfigurationError: the authority file is damaged.
    """
    record = authority_file.extra.get("updates")
    if record is None:
        return 0
    try:
        sequence = record["sequence"] if role.value in record["sides"] else 0
    except (TypeError, KeyError):
        raise damaged("updates") from None
    if type(sequence) is not int or not 0 <= sequence <= MAX_SEQUENCE:
        raise damaged("updates")
    return sequence


def rule_of(authority_file: AuthorityFile, role: Role) -> Rule:
    """Return the rule that connection strings for `role` use, with the keys that are in the file.

    Raises:
        ConfigurationError: the authority file is damaged.
    """
    content = _get(_get(authority_file.extra, "rules", dict), role.value, dict)
    keys = {slot.value: Secret(_text(content, slot.value)) for slot in KeySlot if slot.value in content}
    try:
        return Rule(_text(content, "name"), {RIGHTS[role]}, **keys)
    except ValueError as exc:
        raise damaged(str(exc)) from None


def with_rule(authority_file: AuthorityFile, role: Role, rule: Rule) -> AuthorityFile:
    """Return a copy of an authority file that has other keys for the connection strings for `role`."""
    rules = {**_get(authority_file.extra, "rules", dict), role.value: _rule_as_json(rule)}
    return attrs.evolve(authority_file, extra={**authority_file.extra, "rules": rules})


def issuer_of(authority_file: AuthorityFile) -> Issuer | None:
    """Return the issuer that connectors get; None if the hybrid connection has none.

    Raises:
        ConfigurationError: the authority file is damaged.
    """
    if "issuer" not in authority_file.extra:
        return None
    content = _get(authority_file.extra, "issuer", dict)
    try:
        return Issuer(decode_der_untrusted(_text(content, "certificate")), Secret(_text(content, "private_key")))
    except ValueError as exc:
        raise damaged(f"issuer: {exc}") from None


def with_issuer(authority_file: AuthorityFile, issuer: Issuer) -> AuthorityFile:
    """Return a copy of an authority file with another issuer for the connectors' connection strings."""
    content = {"certificate": encode_der(issuer.certificate), "private_key": issuer.private_key.reveal()}
    return attrs.evolve(authority_file, extra={**authority_file.extra, "issuer": content})


def _rule_as_json(rule: Rule) -> dict[str, str]:
    keys = {slot: rule.key(slot) for slot in KeySlot}
    return {"name": rule.name, **{slot.value: key.reveal() for slot, key in keys.items() if key is not None}}


def _get(content: Mapping[str, Any], key: str, kind: type) -> Any:
    value = content.get(key)
    if not isinstance(value, kind):
        raise damaged(key)
    return value


def _text(content: Mapping[str, Any], key: str) -> str:
    return str(_get(content, key, str))


def _hosts(extra: Mapping[str, Any]) -> list[str]:
    """Read what `new_content` writes: one host, or a list of hosts."""
    hosts = extra.get("endpoint")
    if not isinstance(hosts, list):
        return [_text(extra, "endpoint")]
    if not all(isinstance(host, str) for host in hosts):
        raise damaged("endpoint")
    return hosts


def damaged(what: str) -> ConfigurationError:
    """Return the error for an authority file whose part `what` is damaged."""
    return ConfigurationError(f"the authority file is damaged: {what}")
