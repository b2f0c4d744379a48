"""Which port of a target a stream or a flow of datagrams is for. Pure.

The ports and protocols come from the connector's own connection string. The client states a number and a kind, and
all that it can achieve is that one of these ports is chosen, or that the stream is refused.
"""

from __future__ import annotations

from itertools import islice

import attrs

from .._value import Value
from ..protocol import Kind, Metadata
from ..protocol.open_metadata import requested_port_untrusted
from ..protocol.reasons import Reason
from ..security import HostPort, HostPorts, HostTarget, NamedInstance, Protocols, StreamTarget, Target, UnixSocket
from .outcome import NotConnected

__all__ = ["Requested", "first_target", "requested_untrusted", "watched_targets"]

#: How many ports of a target are watched. Each may be checked every few seconds while it is unhealthy.
_MAX_WATCHED = 16


@attrs.frozen
class Requested(Value):
    """What a client requests with a stream."""

    #: What to connect to. If the stream is refused, what logs show: the port that the client has asked for, or else
    #: the target or its first port.
    target: StreamTarget
    #: Why the stream is refused; None if it is not.
    refusal: NotConnected | None = None


def first_target(target: Target) -> StreamTarget:
    """Return what a stream is connected to if the client states no port.

    If the target has only datagrams, return what a flow is connected to.
    """
    if isinstance(target, UnixSocket | NamedInstance):
        return target
    return _first(target, Protocols.TCP if target.protocols.has_streams else Protocols.UDP)


def watched_targets(target: Target) -> tuple[StreamTarget, ...]:
    """Return the ports of a target whose health counts: the first one, and the others that are named singly, such as
    464 in ``88,464``; at most `_MAX_WATCHED`.

    The ports of a range are not among them, because programs such as FTP servers open one of a range only for a
    moment.
    """
    first = first_target(target)
    if not isinstance(target, HostPorts) or not isinstance(first, HostPort):
        return (first,)
    single = [low for low, high in target.ports.ranges if low == high and low != first.port]
    others = (HostPort(target.host, port, protocols=first.protocols) for port in single)
    return (first, *islice(others, _MAX_WATCHED - 1))


def requested_untrusted(target: Target, metadata: Metadata, kind: Kind = Kind.STREAM) -> Requested:
    """Return what a client requests.

    Args:
        target: the target in the connector's connection string.
        metadata: that of OPEN.
        kind: `Kind.STREAM` or `Kind.DATAGRAMS`.
    """
    protocol = Protocols.UDP if kind is Kind.DATAGRAMS else Protocols.TCP
    first = target if isinstance(target, UnixSocket | NamedInstance) else _first(target, protocol)
    try:
        port = requested_port_untrusted(metadata)
    except ValueError as exc:
        return Requested(first, NotConnected(Reason.METADATA_NOT_UNDERSTOOD, str(exc)))
    if isinstance(target, UnixSocket | NamedInstance):
        if port is not None:
            return Requested(target, _not_published(port, target))
        return Requested(target, _other_protocol(kind, target) if kind is Kind.DATAGRAMS else None)
    wanted = first if port is None else HostPort(target.host, port, protocols=protocol)
    if port is not None and not (port == target.port if isinstance(target, HostPort) else port in target.ports):
        return Requested(wanted, _not_published(port, target))
    protocols = target.protocols
    if not (protocols.has_datagrams if kind is Kind.DATAGRAMS else protocols.has_streams):
        return Requested(wanted, _other_protocol(kind, target))
    return Requested(wanted)


def _first(target: HostTarget, protocol: Protocols) -> HostPort:
    return HostPort(
        target.host, target.port if isinstance(target, HostPort) else target.ports.first, protocols=protocol
    )


def _not_published(port: int, target: Target) -> NotConnected:
    # The client is not told which ports there are.
    detail = f"the client has asked for port {port}, and the target is {target}"
    return NotConnected(Reason.PORT_NOT_PUBLISHED, detail, f"this hybrid connection has no port {port}")


def _other_protocol(kind: Kind, target: Target) -> NotConnected:
    wanted, text = (
        ("datagrams", "does not accept datagrams")
        if kind is Kind.DATAGRAMS
        else ("a stream", "accepts only datagrams")
    )
    detail = f"the client has asked for {wanted}, and the target is {target}"
    return NotConnected(Reason.KIND_NOT_OFFERED, detail, f"this hybrid connection {text}")
