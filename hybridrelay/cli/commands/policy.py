"""``hybridrelay policy show``, ``hybridrelay policy check`` and ``hybridrelay policy template``."""

from __future__ import annotations

import argparse
import math
import os
import socket
from collections.abc import Iterator, Sequence
from itertools import groupby

import attrs

from ..._value import Value
from ...errors import ConfigurationError, HybridRelayError
from ...policy import (
    Action,
    Decision,
    Policy,
    Resource,
    authority_digest,
    policy_sources,
    read_policy,
    resource_of,
)
from ...policy.directory import PolicyDirectory
from ...policy.local_time import local_now
from ...policy.machine import PolicySource
from ...policy.templates import TEMPLATES
from ...protocol.reasons import Reason
from ...security import (
    ConnectionString,
    HostPort,
    HostPorts,
    PeerIdentity,
    PortSet,
    Protocols,
    Role,
    StreamTarget,
    Target,
    UnixSocket,
    each_stream_target,
    load_connection_string,
)
from .. import exits, output


def run_show(args: argparse.Namespace) -> int:
    """Show the policy that is in force."""
    sources = policy_sources(args.policy_dirs)
    policy = read_policy(sources)
    rules = [rule for file in policy.files for rule in file.stated()]
    datagrams = policy.decide_datagrams()
    if args.json:
        output.say_json(
            {
                "sources": list(map(_source_as_dict, sources)),
                "datagrams_allowed": datagrams.reason is None,
                "rules": [
                    {"key": key, "value": value, "file": place.file, "line": place.line, "place": str(place)}
                    for key, value, place in rules
                ],
            }
        )
        return exits.OK
    if rules:
        output.say(output.table(("KEY", "VALUE", "WHERE"), [(key, value, str(place)) for key, value, place in rules]))
    else:
        output.say("there are no rules, so everything but datagrams (UDP) is allowed")
    if datagrams.reason is not None:
        output.say()
        output.say(f"Datagrams (UDP) are denied: {datagrams.rule}.")
    output.say()
    for one in sources:
        state = "" if one.stamp() else " (does not exist)"
        ignored = f" (not read: {', '.join(found)})" if (found := _ignored(one)) else ""
        output.say(f"read: {one.describe()}{state}{ignored}")
    if len(policy.files) > 1:
        output.say("Only what all files allow is allowed.")
    return exits.OK


def _source_as_dict(source: PolicySource) -> dict[str, object]:
    return {"place": source.describe(), "exists": bool(source.stamp()), "ignored": list(_ignored(source))}


def _ignored(source: PolicySource) -> Sequence[str]:
    return source.ignored() if isinstance(source, PolicyDirectory) else ()


def run_check(args: argparse.Namespace) -> int:
    """Say whether a target may be reached."""
    policy = read_policy(policy_sources(args.policy_dirs))
    string = None
    if args.connection_string_file is not None:
        string = load_connection_string(args.connection_string_file)
    target: Target | None = args.target or (None if string is None else string.target)
    if target is None and string is None:
        raise ConfigurationError("there is nothing to check", remedy="name a target, or a connection string file")
    resource = Resource("", target) if string is None else resource_of(string, target)
    subject = PeerIdentity(resource.connection, Role.APPLICATION, args.label or "", args.serial, math.inf)
    found = _Check(policy, subject if args.label or args.serial else None, resource)
    results = found.results()
    is_allowed = all(
        any(one.is_allowed for one in of_target) for _, of_target in groupby(results, key=lambda one: one.target)
    )
    if args.json:
        output.say_json(
            {
                "allowed": is_allowed,
                "target": None if target is None else str(target),
                "results": [
                    {
                        "target": None if one.target is None else str(one.target),
                        "address": one.address,
                        "allowed": one.is_allowed,
                        "rule": one.decision.rule,
                    }
                    for one in results
                ],
                "relays": list(resource.relays),
                "authority": f"sha256:{resource.authority}" if resource.authority else None,
            }
        )
    else:
        if string is not None:
            _say_string(string)
        for line in _lines(results, resource.connection):
            output.say(line)
    return exits.OK if is_allowed else exits.DENIED


@attrs.frozen
class _Result(Value):
    """The decision about one address of a target, or about the target itself."""

    target: StreamTarget | None
    address: str
    decision: Decision

    @property
    def is_allowed(self) -> bool:
        return self.decision.reason is None

    def says(self) -> tuple[str, str, str]:
        """Return what the ports of a line have in common: a word, the address as text, and the kind of the rule."""
        configured = None if self.target is None else _configured(self.target)
        at = f" at {self.address}" if self.address and self.address != configured else ""
        return ("allowed", at, "") if self.is_allowed else ("denied", at, self.decision.kind)


def _lines(results: Sequence[_Result], connection: str) -> Iterator[str]:
    """Yield a line for each result. Ports with the same result share a line, which has the rule for the first."""
    grouped: dict[tuple[str, str, str, Protocols | None], list[_Result]] = {}
    for one in results:
        protocols = one.target.protocols if isinstance(one.target, HostPort) else None
        grouped.setdefault((*one.says(), protocols), []).append(one)
    for (word, at, _, _), same in grouped.items():
        target: Target | None = same[0].target
        ports = [one.target.port for one in same if isinstance(one.target, HostPort)]
        if isinstance(target, HostPort) and len(ports) > 1 and len(ports) == len(set(ports)):
            target = HostPorts(target.host, PortSet.of(ports), protocols=target.protocols)
        what = connection if target is None else f"{target}{at}"
        rule = same[0].decision.rule
        yield f"{word}: {what}: {rule}" if rule else f"{word}: {what}"


@attrs.frozen
class _Check(Value):
    """A request, about which this command decides as a connector would."""

    policy: Policy
    subject: PeerIdentity | None
    resource: Resource

    def results(self) -> list[_Result]:
        """Return a result for each port and each address of the target. If a port is denied whatever its address is,
        or the name cannot be resolved, or there is no target, the result has no address.

        Raises:
            HybridRelayError: the name cannot be resolved, and the decision depends on it.
        """
        target = self.resource.target
        if target is None:
            return [self._decide(None)]
        if isinstance(target, UnixSocket):
            first = self._decide(target)
            return [self._decide(target, os.path.realpath(target.path)) if first.is_allowed else first]
        ports = [self._decide(port) for port in each_stream_target(target)]
        addresses = self._addresses(target.host) if any(one.is_allowed for one in ports) else ()
        found = []
        for port in ports:
            more = [self._decide(port.target, address) for address in addresses] if port.is_allowed else []
            found += more or [port]
        return found

    def _addresses(self, host: str) -> Sequence[str]:
        """Return the addresses of a host; none if it cannot be resolved, and no rule needs them."""
        try:
            infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as exc:
            if self._has_networks():
                raise HybridRelayError(
                    f"{host} cannot be resolved here, and the policy has rules about addresses",
                    reason=Reason.TARGET_NAME_NOT_FOUND,
                    remedy="run this command on the machine of the connector, or check an address",
                ) from exc
            return ()
        return tuple(dict.fromkeys(str(info[4][0]) for info in infos))

    def _decide(self, target: StreamTarget | None, address: str = "") -> _Result:
        at = local_now() if self.policy.depends_on_time else None
        action = Action.FORWARD
        if target is not None:
            has_datagrams = isinstance(target, HostPort) and target.protocols.has_datagrams
            action = Action.OPEN_DATAGRAMS if has_datagrams else Action.OPEN_STREAM
        resource = attrs.evolve(self.resource, target=target, address=address, at=at)
        return _Result(target, address, self.policy.decide(self.subject, action, resource))

    def _has_networks(self) -> bool:
        lists = [one for file in self.policy.files for one in (file.allowed_targets, file.denied_targets)]
        return any(entry.value.host.network is not None for one in lists if one is not None for entry in one.entries)


def _configured(target: StreamTarget) -> str:
    """Return the host or path of a target, as it is written."""
    return target.path if isinstance(target, UnixSocket) else target.host


def _say_string(string: ConnectionString) -> None:
    rows = [("hybrid connection", string.entity_path)]
    rows += [("relay", endpoint.host) for endpoint in string.endpoints]
    rows += [("relay pin", pin) for pin in string.relay_pins]
    if digest := authority_digest(string):
        rows.append(("authority", f"sha256:{digest}"))
    for name, value in rows:
        output.say(f"{name}: {value}")


def run_template(args: argparse.Namespace) -> int:
    """Print a template of a policy."""
    output.say(TEMPLATES[args.format](), end="")
    return exits.OK
