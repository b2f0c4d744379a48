"""Decides whether a subject may do something with a resource. Pure.

The subject is the identity that an application has proved on its data channel. What the application states about
itself has no effect.

Rules:

1. A policy consists of the contents of several files. Something is allowed only if every file allows it. So another
   file can only restrict.
2. Within a file, a denial wins over everything that allows.
3. A list of what is allowed denies everything of its kind that is not in it. Without the list, a file does not
   restrict that kind.
4. Datagrams are the exception to rules 1 and 3: they are denied unless a file says ``AllowUdp = true``. A file of a
   further directory (`Restrictions.is_further`) counts for this only if the machine has no policy of its own. As for
   everything else, one file that denies them is enough.
5. A hybrid connection whose target has several ports may be published only if all of them are allowed, and a session
   may begin if one of them is. For a stream or flow, only its own port counts.
6. The port of a named instance of SQL Server is not known before its host has been asked. Until then, entries deny
   the instance only if together they cover every port of the host, and allow it if they cover at least one.
7. A property that is not known yet, such as the address that a name resolves to, denies nothing. The decision is made
   again when the property is known, before it has any effect.
"""

from __future__ import annotations

import datetime as dt
import enum
import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Any

import attrs

from .._value import Value
from ..protocol.reasons import Reason
from ..security import HostPort, HostPorts, NamedInstance, PeerIdentity, StreamTarget, Target, UnixSocket
from .document import EntryList, Restrictions
from .index import LocalIndex, TargetIndex, UnknownPort
from .schema import KEYS
from .values import DAYS, address_of

__all__ = ["ALLOWED", "Action", "Decision", "Policy", "Resource"]


class Action(enum.Enum):
    """What is requested."""

    #: Create a hybrid connection, or begin to serve it.
    PUBLISH = "publish"
    #: Stay registered at its relays. A target that is denied does not end this, so that clients can be told.
    REGISTER = "register"
    #: Begin a session, or resume one over another data channel.
    OPEN_SESSION = "open-session"
    #: Open a stream, so that the connector connects to the target; or keep it open.
    OPEN_STREAM = "open-stream"
    #: Open a flow of datagrams (UDP) to the target; or keep it open.
    OPEN_DATAGRAMS = "open-datagrams"
    #: Use a hybrid connection from the application's side, and open a local port for it.
    FORWARD = "forward"
    #: Use a hybrid connection for a program that is started for this (``hybridrelay run``), without a local port.
    RUN = "run"


@attrs.frozen
class Resource(Value):
    """The hybrid connection to which a request applies, and the circumstances of the request."""

    #: The name of the hybrid connection.
    connection: str
    #: The target as it is configured; for a stream or flow, with only the port that it is for. For `Action.FORWARD`,
    #: not the target but the local address to listen on, with its ports. None: not known yet.
    target: Target | None
    #: For `Action.FORWARD`, the path of a Unix socket to listen on; empty if there is none.
    path: str = attrs.field(default="", kw_only=True)
    #: What is to be connected to: the IP address; or the path of the Unix socket, without symbolic links. Empty if
    #: the target has not been resolved.
    address: str = attrs.field(default="", kw_only=True)
    #: The hosts of the relays that may be used, and all pins by which they are recognized.
    relays: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    pins: tuple[str, ...] = attrs.field(default=(), kw_only=True)
    #: The SHA-256 of the authority's certificate, in hexadecimal; empty if there is no authority yet. Then
    #: ``AllowedAuthorities`` does not apply.
    authority: str = attrs.field(default="", kw_only=True)
    #: How many other streams are open: all, and those of the same label.
    streams: int = attrs.field(default=0, kw_only=True)
    streams_of_label: int = attrs.field(default=0, kw_only=True)
    #: The local time; None: the hours do not matter.
    at: dt.datetime | None = attrs.field(default=None, kw_only=True)


@attrs.frozen
class Decision(Value):
    """Whether a request is allowed, and if not, which rule denies it."""

    #: Why the request is not allowed; None if it is.
    reason: Reason | None = None
    #: The rule that denies the request, with file and line, as text for administrators; empty if it is allowed.
    rule: str = ""
    #: The kind of that rule: the slug of a key of the policy, or ``deny-list-label`` or ``deny-list-serial``.
    kind: str = ""


ALLOWED = Decision()


@attrs.frozen
class Policy(Value):
    """The rules that are in force."""

    #: Labels and serials (upper case hexadecimal) of identities that are denied: for programs that embed a
    #: connector, and deny identities without a policy file.
    denied: frozenset[str] = frozenset()
    #: The contents of the files.
    files: tuple[Restrictions, ...] = ()

    def and_also(self, other: Policy) -> Policy:
        """Return the policy that allows only what both allow."""
        return Policy(self.denied | other.denied, self.files + other.files)

    @property
    def depends_on_time(self) -> bool:
        """Whether the same request may be decided differently at another time."""
        return any(file.allowed_hours is not None for file in self.files)

    @property
    def required_audit(self) -> frozenset[str]:
        """The kinds of sinks of the audit log without which no stream may be opened."""
        lists = [file.require_audit for file in self.files if file.require_audit is not None]
        return frozenset[str]().union(*(one.index for one in lists))

    @property
    def audit_witnesses(self) -> tuple[Callable[[str], bool], ...]:
        """One function for each file that requires witnesses of the audit log. It takes the host of a relay, and
        returns whether the file names that relay."""
        lists = [file.audit_witness for file in self.files if file.audit_witness is not None]
        return tuple(one.index.permits for one in lists)

    def within_hours(self, at: dt.datetime) -> tuple[bool, ...]:
        """Return for each file with allowed hours whether a local time is within them.

        As long as the result stays the same, the passing of time changes no decision.
        """
        allowed = [file.allowed_hours for file in self.files if file.allowed_hours is not None]
        return tuple(hours.include(at) for hours in allowed)

    def decide(self, subject: PeerIdentity | None, action: Action, resource: Resource) -> Decision:
        """Decide about one request. The same arguments always give the same decision.

        Args:
            subject: the identity that the application has proved; None if the request is not an application's.
            action: what is requested.
            resource: what it applies to.
        """
        if subject is not None:
            for name, kind in _names(subject).items():
                if name in self.denied:
                    return Decision(Reason.IDENTITY_DENIED, f"deny list: {kind} {name}", f"deny-list-{kind}")
        for file in self.files:
            if file.connection in ("", resource.connection):
                denial = next(_denials(file, subject, action, resource), None)
                if denial is not None:
                    return denial
        if action is Action.OPEN_DATAGRAMS:
            return self.decide_datagrams()
        return ALLOWED

    def decide_datagrams(self) -> Decision:
        """Decide whether there may be datagrams at all, whatever the target is. Files for a single hybrid connection
        are deny lists, which say nothing about this."""
        files = [file for file in self.files if not file.is_deny_list]
        for file in files:
            if file.allow_udp is not None and not file.allow_udp.value:
                return _denial("AllowUdp", f"AllowUdp = false ({file.allow_udp.place})")
        of_machine = [file for file in files if not file.is_further]
        if all(file.allow_udp is None for file in of_machine or files):
            where = " in the policy of the machine" if of_machine else ""
            return _denial("AllowUdp", f"AllowUdp is not set{where} (datagrams need AllowUdp = true)")
        return ALLOWED

    def only_for(self, connection: str) -> Policy:
        """Return the same policy, restricted to one hybrid connection. It has to consist of files."""
        assert not self.denied
        return Policy(files=tuple(attrs.evolve(file, connection=connection) for file in self.files))


def _names(subject: PeerIdentity) -> dict[str, str]:
    """Return the names by which an identity may be denied, and what each of them is."""
    return {
        subject.label: "label",
        unicodedata.normalize("NFC", subject.label): "label",
        subject.serial.upper(): "serial",
    }


def _denials(
    file: Restrictions, subject: PeerIdentity | None, action: Action, resource: Resource
) -> Iterator[Decision]:
    """Yield the denials of one file."""
    if (allow := file.allow_hybrid_connections) is not None and not allow.value:
        yield _denial("AllowHybridConnections", f"AllowHybridConnections = false ({allow.place})")
    if subject is not None:
        yield from _denied_identity(file, subject)
    yield from _unknown_relays(file, resource)
    authorities, authority = file.allowed_authorities, resource.authority
    if authorities is not None and authority and authority not in authorities.index:
        yield _missing("AllowedAuthorities", authorities, f"sha256:{authority}")
    match action:
        case Action.REGISTER:
            pass
        case Action.FORWARD:
            yield from _denied_local_addresses(file, resource)
        case Action.RUN:
            if (allow_run := file.allow_run) is not None and not allow_run.value:
                yield _denial("AllowRun", f"AllowRun = false ({allow_run.place})")
        case Action.PUBLISH | Action.OPEN_SESSION | Action.OPEN_STREAM | Action.OPEN_DATAGRAMS:
            yield from _denied_targets(file, resource, one_is_enough=action is Action.OPEN_SESSION)
    if action in (Action.OPEN_SESSION, Action.OPEN_STREAM, Action.OPEN_DATAGRAMS):
        yield from _outside_hours(file, resource)
    if action in (Action.OPEN_STREAM, Action.OPEN_DATAGRAMS):
        yield from _too_many(file, resource)


def _denied_identity(file: Restrictions, subject: PeerIdentity) -> Iterator[Decision]:
    if file.denied_identities is None:
        return
    for name, kind in _names(subject).items():
        entry = file.denied_identities.index.get(name)
        if entry is None:
            continue
        if file.is_deny_list:
            rule = f"deny list: {kind} {name} ({entry.place})"
            yield Decision(Reason.IDENTITY_DENIED, rule, f"deny-list-{kind}")
        else:
            rule = f"DeniedIdentities: {kind} {name} ({entry.place})"
            yield Decision(Reason.IDENTITY_DENIED, rule, "denied-identities")


def _unknown_relays(file: Restrictions, resource: Resource) -> Iterator[Decision]:
    allowed = file.allowed_relays
    if allowed is None:
        return
    # A host that is not allowed may still be the name of a relay that is recognized by an allowed pin. The connection
    # string has one list of pins for all its relays, so all of them must be allowed.
    if resource.pins and allowed.index.pins.issuperset(resource.pins):
        return
    for host in resource.relays:
        if not allowed.index.permits(host):
            yield _missing("AllowedRelays", allowed, host)


def _each(target: Target | None, *indexes: TargetIndex | LocalIndex) -> Iterator[StreamTarget]:
    """Yield a target; if it has several ports, yield it for each of them, with this port only. If the indexes say
    the same about several ports, yield it only for the first of these, because a target may have hundreds."""
    if isinstance(target, HostPorts):
        for first, last in target.ports.ranges:
            ports = {first}
            for bounds in (index.bounds for index in indexes):
                ports.update(bounds[bisect_right(bounds, first) : bisect_right(bounds, last)])
            for port in sorted(ports):
                yield target.at(port)
    elif target is not None:
        yield target


def _denied_targets(file: Restrictions, resource: Resource, *, one_is_enough: bool) -> Iterator[Decision]:
    """Yield the first denial of a target, or of one of its ports. If `one_is_enough`, one allowed port is enough: a
    denial is yielded only if all ports are denied."""
    first = None
    lists = [one.index for one in (file.denied_targets, file.allowed_targets) if one is not None]
    for target in _each(resource.target, *lists):
        denial = _denied_target(file, target, resource.address)
        if denial is None and one_is_enough:
            return
        if denial is not None and not one_is_enough:
            yield denial
            return
        first = first or denial
    if first is not None:
        yield first


def _denied_target(file: Restrictions, target: StreamTarget, address: str) -> Decision | None:
    shown = _shown(target, address)
    denied = file.denied_targets
    if denied is not None and (number := _first_covering(denied.index, target, address)) is not None:
        entry = denied.entries[number]
        return _denial("DeniedTargets", f'DeniedTargets "{entry.text}" ({entry.place}) denies {shown}')
    if (allowed := file.allowed_targets) is not None and not _permits(allowed.index, target, address):
        return _missing("AllowedTargets", allowed, shown)
    return None


def _first_covering(index: TargetIndex, target: StreamTarget, address: str) -> int | None:
    """Return the number of the first entry that covers a target; None if none does."""
    match target:
        case UnixSocket(path):
            return index.first_about_path({path, address or path})
        case HostPort(host, port):
            return index.first_about(host, port, address_of(address or host))
        case NamedInstance(host):
            return index.first_about(host, UnknownPort.EVERY, address_of(address or host))


def _permits(index: TargetIndex, target: StreamTarget, address: str) -> bool:
    """Return whether an entry allows a target."""
    match target:
        case UnixSocket():
            return index.permits_path(address or None)
        case HostPort(host, port):
            return index.permits(host, port, address_of(address or host))
        case NamedInstance(host):
            return index.permits(host, UnknownPort.SOME, address_of(address or host))


def _denied_local_addresses(file: Restrictions, resource: Resource) -> Iterator[Decision]:
    allowed = file.allowed_forward_addresses
    if allowed is None:
        return
    for local in _each(resource.target, allowed.index):
        if isinstance(local, HostPort) and not allowed.index.permits(local.host, local.port):
            yield _missing("AllowedForwardAddresses", allowed, str(local))
    path = resource.path
    if path and not allowed.index.permits_path(path):
        yield _missing("AllowedForwardAddresses", allowed, f"unix:{path}")


def _outside_hours(file: Restrictions, resource: Resource) -> Iterator[Decision]:
    hours, at = file.allowed_hours, resource.at
    if hours is not None and at is not None and not hours.include(at):
        yield _missing("AllowedHours", hours, f"{DAYS[at.weekday()]} {at:%H:%M}")


def _too_many(file: Restrictions, resource: Resource) -> Iterator[Decision]:
    for name, limit, count in (
        ("MaxStreams", file.max_streams, resource.streams),
        ("MaxStreamsPerLabel", file.max_streams_per_label, resource.streams_of_label),
    ):
        if limit is not None and count >= limit.value:
            yield _denial(name, f"{name} = {limit.value} ({limit.place}); {count} are open")


def _shown(target: StreamTarget, address: str) -> str:
    """Return the target, with the address or path to which it resolves, if that is known."""
    configured = target.path if isinstance(target, UnixSocket) else target.host
    return str(target) if address in ("", configured) else f"{target} at {address}"


def _denial(key: str, rule: str) -> Decision:
    return Decision(Reason.DENIED_BY_POLICY, rule, KEYS[key].slug)


def _missing(key: str, allowed: EntryList[Any], what: str) -> Decision:
    return _denial(key, f"{key} ({allowed.place}) does not allow {what}")
