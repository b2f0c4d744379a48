"""Which port of a target a stream is for. Pure.

The ports come from the connector's own connection string. The client states a number, and all that it can achieve is
that one of these ports is chosen, or that the stream is refused.
"""

from __future__ import annotations

import attrs

from ..protocol import Metadata
from ..protocol.open_metadata import requested_port_untrusted
from ..protocol.reasons import Reason
from ..security import HostPort, HostPorts, StreamTarget, Target
from .outcome import NotConnected

__all__ = ["Requested", "first_target", "requested_untrusted"]


@attrs.frozen
class Requested:
    """What a client requests with a stream."""

    #: What to connect to; if the stream is refused, what the client has asked for, for logs.
    target: StreamTarget
    #: Why the stream is refused; None if it is not.
    refusal: NotConnected | None = None


def first_target(target: Target) -> StreamTarget:
    """Return what a stream connects to if the client states no port."""
    return target.first if isinstance(target, HostPorts) else target


def requested_untrusted(target: Target, metadata: Metadata) -> Requested:
    """Return what a client requests.

    Args:
        target: the target in the connector's connection string.
        metadata: that of OPEN.
    """
    try:
        port = requested_port_untrusted(metadata)
    except ValueError as exc:
        return Requested(first_target(target), NotConnected(Reason.METADATA_NOT_UNDERSTOOD, str(exc)))
    if port is None:
        return Requested(first_target(target))
    match target:
        case HostPorts(host, ports):
            is_published = port in ports
        case HostPort(host, only):
            is_published = port == only
        case _:
            return Requested(target, _not_published(port, target))
    wanted = HostPort(host, port)
    return Requested(wanted) if is_published else Requested(wanted, _not_published(port, target))


def _not_published(port: int, target: Target) -> NotConnected:
    # The client is not told which ports there are.
    detail = f"the client has asked for port {port}, and the target is {target}"
    return NotConnected(Reason.PORT_NOT_PUBLISHED, detail, f"this hybrid connection has no port {port}")
